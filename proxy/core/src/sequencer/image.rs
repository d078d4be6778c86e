//! Images: a key as the primary holds it at one position, put into the mirror at that same position.
//!
//! `DUMP` and `PTTL` are read in one block on the primary's lane; what was executed before is in it, what comes later follows it
//! on the mirror's lane. So an image can neither overwrite something newer nor be crossed by something older. Where the mirror's
//! version refuses the payload, the key is read type by type in one block instead: wrong types are errors inside EXEC and abort
//! nothing (H34).

use super::lane::{LaneId, What};
use super::{
    Sequencer,
    mirror::{Mode, is_protocol_error, unmirrorable},
    opening::lacks_lane,
};
use crate::doubt::{Cause, State};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `MULTI DUMP PTTL EXEC`.
    Block,
    /// `PTTL DUMP PTTL`: a full primary queues nothing in a block. Both times must agree, or the key may have been replaced between.
    Plain,
    /// Type by type, in a block.
    Typed,
}

impl Sequencer {
    /// The key is to be imaged: at once where that is possible, else as a dirty key that the repair finds.
    pub(super) fn want_image(&mut self, db: Db, key: &[u8], cause: Cause) {
        match self.ledger.state(db, key) {
            Some(State::Asked | State::Unmirrorable) => return,
            Some(State::Dirty) => {}
            Some(State::Restoring(_)) | None => {
                let position = self.next_position();
                self.mark_dirty(db, key, cause, position);
            }
        }
        if self.ledger.asked() < limits::IMAGES_ASKED_MAX && self.mirror_refuses(db).is_none() {
            self.ask_image(db, key);
        }
    }

    /// Reads the key on the primary's lane. False when that cannot be done now.
    fn ask_image(&mut self, db: Db, key: &[u8]) -> bool {
        if !self.may_ask() || self.fences.keeps_out(db, key, self.holding) || self.ledger.state(db, key) != Some(State::Dirty) {
            return false;
        }
        let id = LaneId::shared(self.primary(), db);
        if !self.lane(id).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(id);
            return false;
        }
        let now = self.now.us;
        let form = match () {
            () if self.mirror.typed_images => Form::Typed,
            () if now < self.mirror.plain_images_until => Form::Plain,
            () => Form::Block,
        };
        let mut frame = Vec::with_capacity(128 + key.len() * 2);
        let replies = push_reads(&mut frame, key, form);
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], What::ImageRead { key: key.into(), form }, replies, now);
        }
        self.ledger.set_state(db, key, State::Asked);
        self.totals.images += 1;
        self.touch_lane(id);
        true
    }

    /// The primary told what the key holds.
    pub(super) fn answer_image(&mut self, db: Db, key: &Arc<[u8]>, form: Form, reply: Reply<'_>, failed: Option<&[u8]>) {
        if self.ledger.state(db, key) != Some(State::Asked) {
            return;
        }
        self.ledger.set_state(db, key, State::Dirty);
        if form == Form::Block && failed.is_some_and(|error| Reply(error).error_word() == Some(b"OOM")) {
            self.mirror.plain_images_until = self.now.us + PLAIN_IMAGES_US;
            return self.release_image_acks(db, key);
        }
        let refused = !reply.is_aggregate() || (form == Form::Plain && reply.elements().any(|part| part.is_error()));
        if refused {
            self.mirror.images_rest_until = self.now.us + IMAGES_REST_US;
        }
        let torn = form == Form::Plain && agreed(reply).is_none();
        if refused || torn || self.mirror_refuses(db).is_some() {
            return self.release_image_acks(db, key);
        }
        let mut frame = Vec::new();
        let margin = self.settings.expiry_margin_ms;
        let newer = self.sides[self.mirror_side().index()].major >= 7;
        let written = match form {
            Form::Typed => push_typed(&mut frame, key, reply, margin, newer),
            Form::Block => push_restore(&mut frame, key, reply, margin),
            Form::Plain => agreed(reply).map(|(dump, pttl)| push_dumped(&mut frame, key, dump, pttl, margin)),
        };
        match written {
            Some(replies) => self.append_image(db, key, &frame, replies),
            None => self.image_failed(db, key, "it has a type that cannot be copied"),
        }
    }

    fn append_image(&mut self, db: Db, key: &Arc<[u8]>, frame: &[u8], replies: u32) {
        let position = self.next_position();
        let id = LaneId::shared(self.mirror_side(), db);
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id) else { return };
        lane.push(&[frame], What::Restore { key: key.clone(), position }, replies, now);
        self.mirror.image_bytes += frame.len();
        self.note_script_image(db, key, frame.len());
        self.ledger.set_state(db, key, State::Restoring(position));
        if self.ledger.take_again(db, key) {
            let again = self.next_position();
            self.mark_dirty(db, key, Cause::Reported, again);
        }
        self.synced.insert(db, key);
        self.touch_lane(id);
    }

    /// The mirror answered an image.
    pub(super) fn confirm_image(&mut self, db: Db, key: &Arc<[u8]>, position: u64, len: u32, reply: Reply<'_>, failed: Option<&[u8]>) {
        self.mirror.image_bytes = self.mirror.image_bytes.saturating_sub(len as usize);
        let error =
            failed.map(Reply).or_else(|| reply.is_error().then_some(reply)).or_else(|| reply.elements().find(|part| part.is_error()));
        match error {
            None => {
                if self.ledger.state(db, key) == Some(State::Restoring(position)) {
                    self.ledger.remove(db, key);
                    self.totals.repairs += 1;
                }
            }
            Some(error) => {
                self.ledger.set_state(db, key, State::Dirty);
                if !self.side_refusal(error) {
                    self.image_refused(db, key, error);
                }
            }
        }
        self.release_image_acks(db, key);
    }

    fn image_refused(&mut self, db: Db, key: &Arc<[u8]>, error: Reply<'_>) {
        let text = String::from_utf8_lossy(error.text()).into_owned();
        if text.contains("DUMP payload version or checksum") || text.contains("Bad data format") {
            if !self.mirror.typed_images {
                self.log(false, format!("`{}` cannot read the primary's DUMP format: keys are copied type by type", self.mirror_side()));
            }
            self.mirror.typed_images = true;
        }
        if is_protocol_error(error) {
            self.mirror.culprit_known = true;
            return self.set_aside(db, key, &text);
        }
        self.image_failed(db, key, &text);
    }

    /// No image can carry the key: it is named, and shuts the gate.
    fn set_aside(&mut self, db: Db, key: &Arc<[u8]>, why: &str) {
        self.ledger.set_state(db, key, State::Unmirrorable);
        self.alarm(&format!("{} cannot be copied to `{}`: {why}", unmirrorable(db, key), self.mirror_side()));
    }

    fn image_failed(&mut self, db: Db, key: &Arc<[u8]>, why: &str) {
        if self.ledger.failed(db, key) >= limits::IMAGE_ATTEMPTS_MAX {
            self.set_aside(db, key, why);
        }
        self.release_image_acks(db, key);
    }

    /// The primary's connection was lost before it told.
    pub(super) fn lose_image(&mut self, db: Db, key: &[u8]) {
        if self.ledger.state(db, key) == Some(State::Asked) {
            self.ledger.set_state(db, key, State::Dirty);
        }
        self.release_image_acks(db, key);
    }

    /// Asks for images of dirty keys, oldest first, a bounded number at a time.
    pub(super) fn pump_repairs(&mut self) -> bool {
        if self.ledger.dirty() == 0 || !self.may_repair() || !self.may_ask() || self.now.us < self.mirror.images_rest_until {
            return false;
        }
        let mut moved = false;
        let (lost, holding) = (self.lost, self.holding);
        while self.ledger.asked() < limits::IMAGES_ASKED_MAX && self.mirror.image_bytes < limits::IMAGE_BYTES_MAX {
            let (fences, sides) = (&self.fences, &self.sides);
            // While the primary's data is missing, doubt from before is left alone: an image would carry the loss [H12].
            let fenced = std::cell::Cell::new(false);
            let wanted = |db: Db, key: &[u8], entry: &crate::doubt::Entry| {
                let stands = fences.keeps_out(db, key, holding);
                fenced.set(fenced.get() || stands);
                lost.is_none_or(|position| entry.position > position) && !stands
            };
            let found = self.ledger.next_dirty(|db| lacks_lane(sides, db), wanted);
            if fenced.get() {
                // A key that is fenced all the time would never be healed, and a flip would wait for ever.
                self.fences.give_way();
            }
            let Some((db, key)) = found else { break };
            if self.mirror_refuses(db).is_some() || !self.ask_image(db, &key) {
                // It stays dirty; the next settling finds it again.
                self.ledger.set_state(db, &key, State::Dirty);
                break;
            }
            moved = true;
        }
        moved
    }

    /// Reads of ours enter the primary's lanes like commands of clients: not while a barrier stands, whose command would have no
    /// place before or behind them, and not while the roles are about to move.
    pub(super) fn may_ask(&self) -> bool {
        !self.fences.has_barrier() && !self.flip.as_ref().is_some_and(super::flip::Flip::is_committing)
    }

    fn may_repair(&self) -> bool {
        self.record.mirroring
            && self.mirror.mode == Mode::Following
            && self.sides.iter().all(super::sides::Side::is_up)
            && !self.mirror_can_pay()
    }
}

/// Appends the reads of a key; how many replies they have.
fn push_reads(frame: &mut Vec<u8>, key: &[u8], form: Form) -> u32 {
    if form == Form::Plain {
        [&b"PTTL"[..], b"DUMP", b"PTTL"].iter().for_each(|read| push_request(frame, &[read, key]));
        return 3;
    }
    push_request(frame, &[b"MULTI"]);
    let reads = if form == Form::Typed {
        push_typed_reads(frame, key)
    } else {
        push_request(frame, &[b"DUMP", key]);
        push_request(frame, &[b"PTTL", key]);
        2
    };
    push_request(frame, &[b"EXEC"]);
    reads + 2
}

/// What three reads outside a block agree on: what the key holds (None: it is not there) and its remaining milliseconds. None when it
/// became another between them.
fn agreed(reply: Reply<'_>) -> Option<(Option<Reply<'_>>, i64)> {
    let mut parts = reply.elements();
    let (before, dump, after) = (parts.next()?.integer()?, parts.next()?, parts.next()?.integer()?);
    match (before, after) {
        // It was not there, or died between.
        (_, -2) => Some((None, -2)),
        (-1, -1) if !dump.is_null() => Some((Some(dump), -1)),
        (0.., 0..) if after <= before && !dump.is_null() => Some((Some(dump), after)),
        _ => None,
    }
}

/// How long images are read without MULTI behind a refusal to queue them, microseconds; then the block is tried again.
const PLAIN_IMAGES_US: u64 = 1_000_000;

/// How long images rest when the primary could not tell what a key holds (out of memory, or busy with a script), microseconds: it
/// is not to be asked as fast as it can refuse.
const IMAGES_REST_US: u64 = 100_000;

/// Remaining milliseconds for the mirror: 0 stands for ever.
fn mirror_ttl(pttl: i64, margin_ms: i64) -> i64 {
    if pttl < 0 { 0 } else { pttl.max(1).saturating_add(margin_ms) }
}

/// Remaining milliseconds above which the mirror's clock would overflow when it adds them to its time: RESTORE then makes a key that
/// ended long ago (7.0, cluster.c restoreCommand). Such a key gets the last moment there is as its absolute end.
const REMAINING_MAX: i64 = i64::MAX - 10_000_000_000_000;

/// `RESTORE k ttl payload REPLACE`, or `DEL k` when the key is absent.
fn push_restore(frame: &mut Vec<u8>, key: &[u8], reply: Reply<'_>, margin_ms: i64) -> Option<u32> {
    let mut parts = reply.elements();
    let (dump, pttl) = (parts.next()?, parts.next()?);
    if dump.is_error() {
        return None;
    }
    let pttl = if dump.is_null() { -2 } else { pttl.integer()? };
    Some(push_dumped(frame, key, (!dump.is_null()).then_some(dump), pttl, margin_ms))
}

fn push_dumped(frame: &mut Vec<u8>, key: &[u8], dump: Option<Reply<'_>>, pttl: i64, margin_ms: i64) -> u32 {
    let Some(dump) = dump else {
        push_request(frame, &[b"DEL", key]);
        return 1;
    };
    let ttl = mirror_ttl(pttl, margin_ms);
    if ttl > REMAINING_MAX {
        push_request(frame, &[b"RESTORE", key, &number(i64::MAX), dump.text(), b"REPLACE", b"ABSTTL"]);
    } else {
        push_request(frame, &[b"RESTORE", key, &number(ttl), dump.text(), b"REPLACE"]);
    }
    1
}

/// Reads that fit every type; those of the wrong type fail inside EXEC and abort nothing.
fn push_typed_reads(frame: &mut Vec<u8>, key: &[u8]) -> u32 {
    let reads: [&[&[u8]]; 9] = [
        &[b"TYPE", key],
        &[b"PTTL", key],
        &[b"GET", key],
        &[b"LRANGE", key, b"0", b"-1"],
        &[b"SMEMBERS", key],
        &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        &[b"HGETALL", key],
        &[b"XRANGE", key, b"-", b"+"],
        &[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"],
    ];
    reads.iter().for_each(|read| push_request(frame, read));
    reads.len() as u32
}

/// Elements per command of a typed image, well below every server's bound.
const TYPED_CHUNK: usize = 512;

/// `MULTI DEL k; <commands that build it>; PEXPIRE k; EXEC`. `newer`: the mirror is a 7.0 or later.
fn push_typed(frame: &mut Vec<u8>, key: &[u8], reply: Reply<'_>, margin_ms: i64, newer: bool) -> Option<u32> {
    let parts: Vec<Reply<'_>> = reply.elements().collect();
    let [kind, pttl, string, list, set, zset, hash, entries, info] = parts[..] else { return None };
    let mut commands = 1;
    push_request(frame, &[b"MULTI"]);
    push_request(frame, &[b"DEL", key]);
    let mut chunked = |name: &[u8], items: &[&[u8]], frame: &mut Vec<u8>| {
        for chunk in items.chunks(TYPED_CHUNK) {
            let mut command = vec![name, key];
            command.extend_from_slice(chunk);
            push_request(frame, &command);
            commands += 1;
        }
    };
    let leaves = |reply: Reply<'_>| -> Vec<Vec<u8>> { reply.elements().map(|item| item.text().to_vec()).collect() };
    match kind.text() {
        b"none" => {}
        b"string" => {
            push_request(frame, &[b"SET", key, string.text()]);
            commands += 1;
        }
        b"list" | b"set" | b"hash" => {
            let (name, items): (&[u8], Vec<Vec<u8>>) = match kind.text() {
                b"list" => (b"RPUSH", leaves(list)),
                b"set" => (b"SADD", leaves(set)),
                _ => (b"HSET", leaves(hash)),
            };
            let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
            chunked(name, &items, frame);
        }
        b"zset" => {
            let mut pairs: Vec<&[u8]> = Vec::new();
            let flat: Vec<Reply<'_>> =
                zset.elements().flat_map(|item| if item.is_aggregate() { item.elements().collect() } else { vec![item] }).collect();
            for pair in flat.chunks(2) {
                pairs.extend([pair.get(1)?.text(), pair[0].text()]);
            }
            chunked(b"ZADD", &pairs, frame);
        }
        b"stream" => commands += push_stream(frame, key, entries, info, newer)?,
        _ => return None,
    }
    let ttl = mirror_ttl(pttl.integer()?, margin_ms);
    if ttl > 0 && kind.text() != b"none" {
        let (name, time): (&[u8], i64) = if ttl > REMAINING_MAX { (b"PEXPIREAT", i64::MAX) } else { (b"PEXPIRE", ttl) };
        push_request(frame, &[name, key, &number(time)]);
        commands += 1;
    }
    push_request(frame, &[b"EXEC"]);
    Some(commands + 2)
}

/// The value behind `name` in a map or flat array.
pub(super) fn field<'a>(map: Reply<'a>, name: &str) -> Option<Reply<'a>> {
    let mut parts = map.elements();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        if key.text() == name.as_bytes() {
            return Some(value);
        }
    }
    None
}

/// Entries, last id, groups with their pending entries and consumers.
///
/// Pending entries may have been deleted from the stream since, and XCLAIM refuses those: they are put in at their place among
/// the entries and deleted again at the end.
fn push_stream(frame: &mut Vec<u8>, key: &[u8], entries: Reply<'_>, info: Reply<'_>, newer: bool) -> Option<u32> {
    let mut commands = 0;
    let mut push = |frame: &mut Vec<u8>, command: &[&[u8]]| {
        push_request(frame, command);
        commands += 1;
    };
    let groups: Vec<Reply<'_>> = field(info, "groups").into_iter().flat_map(Reply::elements).collect();
    let mut present: BTreeMap<(u64, u64), Option<Reply<'_>>> = BTreeMap::new();
    for entry in entries.elements() {
        let mut parts = entry.elements();
        let (id, fields) = (parts.next()?, parts.next()?);
        present.insert(stream_id(id.text())?, Some(fields));
    }
    for id in groups.iter().flat_map(|group| pending(*group)).map(|entry| entry.0) {
        present.entry(stream_id(id)?).or_insert(None);
    }
    if present.is_empty() {
        // A stream may be empty: make it with an entry that is taken away again.
        present.insert((0, 1), None);
    }
    for ((ms, seq), fields) in &present {
        let id = format!("{ms}-{seq}");
        let mut command: Vec<&[u8]> = vec![b"XADD", key, id.as_bytes()];
        match fields {
            Some(fields) => command.extend(fields.elements().map(Reply::text)),
            None => command.extend([b"x".as_slice(), b"x"]),
        }
        push(frame, &command);
    }
    for group in &groups {
        let name = field(*group, "name")?.text();
        let mut create: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key, name, field(*group, "last-delivered-id")?.text()];
        let read = field(*group, "entries-read").filter(|read| newer && read.integer().is_some());
        let read = read.and_then(Reply::integer).map(number);
        create.extend(read.iter().flat_map(|read| [b"ENTRIESREAD".as_slice(), read]));
        push(frame, &create);
        for consumer in field(*group, "consumers").into_iter().flat_map(Reply::elements) {
            // Reading its own history makes a consumer, on every version, and delivers nothing.
            let consumer = field(consumer, "name")?.text();
            push(frame, &[b"XREADGROUP", b"GROUP", name, consumer, b"COUNT", b"1", b"STREAMS", key, b"0"]);
        }
        for (id, consumer, delivered, count) in pending(*group) {
            let (delivered, count) = (number(delivered), number(count));
            push(frame, &[b"XCLAIM", key, name, consumer, b"0", id, b"TIME", &delivered, b"RETRYCOUNT", &count, b"FORCE", b"JUSTID"]);
        }
    }
    let kept = present.values().flatten().count();
    let trimmed = newer && field(info, "max-deleted-entry-id").is_some_and(|id| id.text() == b"0-0");
    if trimmed && kept < present.len() {
        // Nothing was ever deleted there, only trimmed, and XSETID cannot say so behind an XDEL.
        push(frame, &[b"XTRIM", key, b"MAXLEN", b"=", &number(kept as i64)]);
    } else {
        for (ms, seq) in present.iter().filter(|(_, fields)| fields.is_none()).map(|(id, _)| id) {
            push(frame, &[b"XDEL", key, format!("{ms}-{seq}").as_bytes()]);
        }
    }
    let last_id = field(info, "last-generated-id")?.text();
    let counted = field(info, "entries-added").and_then(Reply::integer).zip(field(info, "max-deleted-entry-id"));
    match counted.filter(|_| newer) {
        Some((added, deleted)) => push(frame, &[b"XSETID", key, last_id, b"ENTRIESADDED", &number(added), b"MAXDELETEDID", deleted.text()]),
        None => push(frame, &[b"XSETID", key, last_id]),
    }
    Some(commands)
}

/// A group's pending entries: id, consumer, time of delivery, deliveries.
fn pending(group: Reply<'_>) -> Vec<(&[u8], &[u8], i64, i64)> {
    let entries = field(group, "pel").or_else(|| field(group, "pending")).into_iter().flat_map(Reply::elements);
    let parts = entries.map(|entry| entry.elements().collect::<Vec<Reply<'_>>>());
    parts
        .filter_map(|parts| Some((parts.first()?.text(), parts.get(1)?.text(), parts.get(2)?.integer()?, parts.get(3)?.integer()?)))
        .collect()
}

/// `5-1` as numbers.
fn stream_id(text: &[u8]) -> Option<(u64, u64)> {
    let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}
