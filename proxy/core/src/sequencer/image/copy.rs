//! Large keys, copied in pieces: no single reading holds the primary up, no single write the mirror, and other clients' commands go between.
//!
//! Pieces are read one behind the other on the primary's lane, each at a position of its own, and written into a *twin*, a reserved key
//! of the mirror that nobody reads (H33). At the last position the twin takes the key's name, with the time to live that was read
//! there. Clients wait for none of this (H18). What is written on the key meanwhile is known at its position, because every effect comes by
//! here: where it concerns elements (`page.rs`), it goes to the twin in its place between the pieces; anything else ends the copy, which begins anew
//! after a pause. A key that is written so often that no copy comes to its end is copied whole after [`limits::COPY_RESTARTS_MAX`] attempts: that holds
//! both servers for as long as its DUMP and RESTORE take, and is counted.
//!
//! A copy never outlives a connection, a whole-database command or a mirror that stops to follow. The twin has an end of its own for the case that
//! nobody takes it away.

use super::page::{Kind, Piece, Step, Taken, Terms, Value};
use super::{REMAINING_MAX, mirror_ttl};
use crate::command::{Command, Rule};
use crate::doubt::{Cause, State};
use crate::effect::Effect;
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use crate::sequencer::Sequencer;
use crate::sequencer::lane::{LaneId, What};
use crate::sequencer::reply::each_request;
use crate::sequencer::session::SessionId;
use crate::status::CopyCounters;
use std::sync::Arc;

/// A piece on the mirror that is not confirmed.
#[derive(Debug)]
pub(in crate::sequencer) struct PieceFlight {
    copy: u64,
    pub key: Arc<[u8]>,
}

/// One copy under way.
#[derive(Debug)]
struct Copy {
    id: u64,
    db: Db,
    key: Arc<[u8]>,
    /// Of the twin.
    slot: usize,
    step: Step,
    value: Value,
    /// Bytes that the primary says it takes.
    bytes: usize,
    /// A reading is on the primary's lane.
    asked: bool,
    /// Pieces on the mirror's lane.
    unconfirmed: usize,
    /// Something was put into the twin.
    begun: bool,
    /// Something of the value has been read: what is written from now on is not in it.
    read: bool,
    /// The key has a time to live: it may die and be made anew between two pieces.
    volatile: bool,
}

impl Copy {
    fn twin(&self) -> Vec<u8> {
        twin(self.slot)
    }
}

/// A key whose copy ended before its time.
#[derive(Debug)]
struct Resting {
    db: Db,
    key: Arc<[u8]>,
    restarts: u32,
    /// No image of it is asked for before, microseconds.
    until: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::sequencer) struct Copies {
    under_way: Vec<Copy>,
    serial: u64,
    resting: Vec<Resting>,
    pub totals: CopyCounters,
}

/// The first pause of a key whose copy has to begin anew, microseconds; it doubles each time.
const REST_US: u64 = 50_000;

/// A twin that nobody takes away ends by itself, milliseconds.
const TWIN_LIFE_MS: i64 = 3_600_000;

fn twin(slot: usize) -> Vec<u8> {
    format!("__twinlane:image:{slot}").into_bytes()
}

impl Copies {
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    fn find(&self, db: Db, key: &[u8]) -> Option<usize> {
        self.under_way.iter().position(|copy| copy.db == db && *copy.key == *key)
    }

    fn find_resting(&self, db: Db, key: &[u8]) -> Option<usize> {
        self.resting.iter().position(|resting| resting.db == db && *resting.key == *key)
    }

    /// Whether an image of the key is not to be asked for yet.
    pub fn rests(&self, db: Db, key: &[u8], now_us: u64) -> bool {
        !self.resting.is_empty() && self.find_resting(db, key).is_some_and(|at| self.resting[at].until > now_us)
    }

    /// It was copied, or replaced.
    pub fn forget(&mut self, db: Db, key: &[u8]) {
        if !self.resting.is_empty()
            && let Some(at) = self.find_resting(db, key)
        {
            self.resting.swap_remove(at);
        }
    }

    fn restarts(&self, db: Db, key: &[u8]) -> u32 {
        self.find_resting(db, key).map_or(0, |at| self.resting[at].restarts)
    }

    fn rest(&mut self, db: Db, key: &Arc<[u8]>, more: u32, now_us: u64) {
        let restarts = self.restarts(db, key) + more;
        self.forget(db, key);
        if self.resting.len() >= limits::COPIES_RESTING_MAX {
            self.resting.remove(0);
        }
        let until = now_us + (REST_US << restarts.min(limits::COPY_RESTARTS_MAX));
        self.resting.push(Resting { db, key: key.clone(), restarts, until });
    }

    /// Two databases changed places.
    pub fn forget_resting(&mut self, databases: [Db; 2]) {
        self.resting.retain(|resting| !databases.contains(&resting.db));
    }
}

impl Sequencer {
    /// The key is large: its copy in pieces begins. False when it is to go whole.
    pub(super) fn begin_copy(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize) -> bool {
        let restarts = self.copies.restarts(db, key);
        if restarts >= limits::COPY_RESTARTS_MAX {
            self.copies.forget(db, key);
            self.copies.totals.whole += 1;
            let name = crate::keyname::shown(key);
            self.log(
                false,
                format!("key \"{name}\" of database {db} ({bytes} bytes) is written all the time: it is copied whole after {restarts} attempts in pieces"),
            );
            return false;
        }
        let zombies = self.sides.iter().any(|side| side.zombies_until > self.now.us);
        let taken = |slot: &usize| self.copies.under_way.iter().any(|copy| copy.slot == *slot);
        let slot = (0..limits::COPIES_MAX).find(|slot| !taken(slot)).filter(|_| !self.holding && !zombies);
        let Some(slot) = slot else {
            // All are in use; or a flip holds everybody, which is no time for large keys; or a dead connection may still write a twin (H1).
            self.copies.rest(db, key, 0, self.now.us);
            self.ledger.set_state(db, key, State::Dirty);
            self.release_image_acks(db, key);
            return true;
        };
        self.copies.serial += 1;
        self.totals.images += 1;
        let field_times = self.sides[self.primary().index()].has_field_times();
        self.copies.under_way.push(Copy {
            id: self.copies.serial,
            db,
            key: key.clone(),
            slot,
            step: Step::Look,
            value: Value { kind: Kind::String, size: 0, items: 1, bytes: 1, moves: false, field_times, mortal_fields: false },
            bytes,
            asked: false,
            unconfirmed: 0,
            begun: false,
            read: false,
            volatile: false,
        });
        true
    }

    /// Asks for the next pieces.
    pub(in crate::sequencer) fn pump_copies(&mut self) -> bool {
        if self.copies.is_empty() {
            return false;
        }
        let mut moved = false;
        for id in self.copies.under_way.iter().map(|copy| copy.id).collect::<Vec<u64>>() {
            moved |= self.pump_copy(id);
        }
        moved
    }

    fn pump_copy(&mut self, id: u64) -> bool {
        let Some(at) = self.copies.under_way.iter().position(|copy| copy.id == id) else { return false };
        let (db, key) = (self.copies.under_way[at].db, self.copies.under_way[at].key.clone());
        let refuses = self.mirror_refuses(db);
        if refuses == Some(Cause::QueueFull) {
            // It goes on when the mirror has caught up; an effect on the key that is left out meanwhile ends it.
            return false;
        }
        if self.ledger.state(db, &key) != Some(State::Asked) || !self.record.mirroring || refuses.is_some() {
            self.end_copy(at, 0);
            return true;
        }
        let copy = &self.copies.under_way[at];
        if copy.asked || copy.unconfirmed >= limits::COPY_AHEAD_MAX || !self.may_ask() {
            return false;
        }
        if self.fences.keeps_out(db, &key, self.holding) {
            // What travels on another lane has no place between two pieces.
            self.fences.give_way();
            return false;
        }
        let lane = LaneId::shared(self.primary(), db);
        let mut reads = Piece::default();
        let copy = &mut self.copies.under_way[at];
        let look = matches!(copy.step, Step::Look);
        copy.step.push_reads(&mut reads, &key, &copy.value);
        reads.push(&[b"PTTL", &key]);
        reads.push(&[if look { b"EXISTS" } else { copy.value.kind.size() }, &key]);
        copy.asked = true;
        self.copies.totals.pieces += 1;
        self.push_untouched(lane, &reads.frame, What::CopyRead(id), reads.replies);
        true
    }

    /// The primary answered a reading.
    pub(in crate::sequencer) fn answer_piece(&mut self, id: u64, reply: Reply<'_>) {
        let Some(at) = self.copies.under_way.iter().position(|copy| copy.id == id) else { return };
        self.copies.under_way[at].asked = false;
        let mut parts: Vec<Reply<'_>> = reply.elements().collect();
        let (size, pttl) = (parts.pop().and_then(Reply::integer), parts.pop().and_then(Reply::integer));
        let (Some(pttl), Some(size)) = (pttl, size) else {
            // Busy with a script, or its type has changed.
            self.mirror.images_rest_until = self.now.us + super::IMAGES_REST_US;
            return self.end_copy(at, 1);
        };
        let terms = self.terms();
        let copy = &mut self.copies.under_way[at];
        copy.volatile |= pttl >= 0;
        if pttl == -2 || size == 0 && !matches!(copy.value.kind, Kind::String | Kind::Stream) {
            return self.put_absent(at);
        }
        if matches!(copy.step, Step::Look) {
            return self.look_at_copy(at, &parts);
        }
        copy.value.size = size;
        copy.read = true;
        let (twin, mut piece) = (copy.twin(), Piece::default());
        let taken = copy.step.take(&parts, &mut copy.value, &twin, &mut piece, &terms);
        let unknown = copy.value.mortal_fields && !self.sides[self.mirror_side().index()].has_field_times();
        match taken {
            _ if unknown => {
                let (db, key) = (self.copies.under_way[at].db, self.copies.under_way[at].key.clone());
                self.end_copy(at, 0);
                self.set_aside(db, &key, super::FIELDS_UNKNOWN);
            }
            Taken::Piece { last } => {
                self.push_piece(at, piece);
                if last {
                    self.put_twin(at, pttl);
                }
            }
            Taken::Changed => self.end_copy(at, 1),
            Taken::Whole => self.end_copy(at, limits::COPY_RESTARTS_MAX),
        }
    }

    /// Type and size are known: the first piece can be asked for.
    fn look_at_copy(&mut self, at: usize, parts: &[Reply<'_>]) {
        let (db, key) = (self.copies.under_way[at].db, self.copies.under_way[at].key.clone());
        let Some(kind) = parts.first().and_then(|word| Kind::of(word.text())) else {
            // A module's type: whole or not at all.
            return self.end_copy(at, limits::COPY_RESTARTS_MAX);
        };
        let size = parts.get(1 + kind as usize).and_then(|size| size.integer()).unwrap_or(0);
        let (bytes_max, items_max) = (self.settings.piece_bytes as i64, self.settings.piece_items as i64);
        let copy = &mut self.copies.under_way[at];
        let each = (copy.bytes as i64 / size.max(1)).max(1);
        copy.value.kind = kind;
        copy.value.size = size;
        copy.value.items = (bytes_max / each).clamp(1, items_max);
        copy.value.bytes = bytes_max;
        copy.value.field_times &= kind == Kind::Hash;
        copy.step = Step::begin(kind);
        if copy.bytes > limits::SCRIPT_IMAGE_BLOCK_BYTES {
            let bytes = copy.bytes;
            self.log(false, format!("key \"{}\" of database {db} ({bytes} bytes) is copied in pieces", crate::keyname::shown(&key)));
        }
    }

    fn terms(&self) -> Terms {
        Terms { margin_ms: self.settings.expiry_margin_ms, newer: self.sides[self.mirror_side().index()].major >= 7, now_us: self.now.us }
    }

    /// Commands for the twin, at this position.
    fn push_piece(&mut self, at: usize, piece: Piece) {
        if piece.replies == 0 {
            return;
        }
        let now = self.now.us;
        let copy = &mut self.copies.under_way[at];
        let mut whole = Piece::default();
        let twin = copy.twin();
        if !std::mem::replace(&mut copy.begun, true) {
            whole.push(&[b"UNLINK", &twin]);
        }
        whole.frame.extend_from_slice(&piece.frame);
        whole.replies += piece.replies;
        whole.push(&[b"PEXPIRE", &twin, &number(TWIN_LIFE_MS)]);
        copy.unconfirmed += 1;
        let (flight, db) = (PieceFlight { copy: copy.id, key: copy.key.clone() }, copy.db);
        self.note_backfilled(db, &flight.key, whole.frame.len());
        let id = LaneId::shared(self.mirror_side(), db);
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&whole.frame], What::Piece(flight), whole.replies, now);
        }
        self.touch_lane(id);
    }

    /// Everything is in the twin: it takes the key's name.
    fn put_twin(&mut self, at: usize, pttl: i64) {
        let copy = self.copies.under_way.swap_remove(at);
        let twin = copy.twin();
        let ttl = mirror_ttl(pttl, self.settings.expiry_margin_ms);
        let mut block = Piece::default();
        block.push(&[b"MULTI"]);
        block.push(&[copy.value.kind.size(), &twin]);
        block.push(&[b"UNLINK", &copy.key]);
        block.push(&[b"RENAME", &twin, &copy.key]);
        match ttl {
            0 => block.push(&[b"PERSIST", &copy.key]),
            ttl if ttl > REMAINING_MAX => block.push(&[b"PEXPIREAT", &copy.key, &number(i64::MAX)]),
            ttl => block.push(&[b"PEXPIRE", &copy.key, &number(ttl)]),
        }
        block.push(&[b"EXEC"]);
        self.copies.totals.done += 1;
        // Fields that died are counted for a while.
        let size = (!copy.value.mortal_fields).then_some(copy.value.size);
        self.append_image(copy.db, &copy.key, &block.frame, block.replies, size);
    }

    /// The key is not there any more.
    fn put_absent(&mut self, at: usize) {
        let copy = self.copies.under_way.swap_remove(at);
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"UNLINK", &copy.key, &copy.twin()]);
        self.append_image(copy.db, &copy.key, &frame, 1, None);
    }

    /// The copy is given up; its twin goes, and its key is dirty again. `restarts`: how many it counts for; none where it was not the
    /// key's fault.
    fn end_copy(&mut self, at: usize, restarts: u32) {
        let copy = self.copies.under_way.swap_remove(at);
        let id = LaneId::shared(self.mirror_side(), copy.db);
        let now = self.now.us;
        if copy.begun
            && let Some(lane) = self.lane_mut(id).filter(|lane| lane.is_open())
        {
            let mut frame = Vec::new();
            push_request(&mut frame, &[b"UNLINK", &copy.twin()]);
            lane.push(&[&frame], What::Silent, 1, now);
            self.touch_lane(id);
        }
        if restarts > 0 {
            self.copies.totals.restarts += 1;
            self.copies.rest(copy.db, &copy.key, restarts, now);
        }
        if self.ledger.state(copy.db, &copy.key) == Some(State::Asked) {
            self.ledger.set_state(copy.db, &copy.key, State::Dirty);
        }
        self.release_image_acks(copy.db, &copy.key);
    }

    /// A connection was lost, or mirroring ended: what was copied has lost its place in the order.
    pub(in crate::sequencer) fn end_copies(&mut self, concerned: impl Fn(Db) -> bool) {
        while let Some(at) = self.copies.under_way.iter().position(|copy| concerned(copy.db)) {
            self.end_copy(at, 0);
        }
    }

    /// The key was written on the primary in a way that its copy cannot follow. True when there was a copy, and it is over.
    pub(in crate::sequencer) fn disturb_copy(&mut self, db: Db, key: &[u8]) -> bool {
        if self.copies.is_empty() || self.settings.faults.torn_copies {
            return false;
        }
        // What was written before the first piece is in it.
        let Some(at) = self.copies.find(db, key).filter(|at| self.copies.under_way[*at].read) else { return false };
        self.end_copy(at, 1);
        true
    }

    /// The key was replaced or deleted on the primary and is so on the mirror too: nothing is to be copied.
    pub(in crate::sequencer) fn drop_copy(&mut self, db: Db, key: &[u8]) {
        if let Some(at) = self.copies.find(db, key) {
            self.end_copy(at, 0);
        }
        self.copies.forget(db, key);
    }

    /// An effect on a key that is being copied: it goes to the twin, between two pieces. None: it goes the way of all effects. Some:
    /// whether the reply has something to wait for under `ack = "both"`.
    pub(in crate::sequencer) fn follow_copy(
        &mut self,
        db: Db,
        command: &'static Command,
        request: &Request<'_>,
        effect: Effect,
        frames: &[u8],
        ack: Option<(SessionId, u64)>,
    ) -> Option<bool> {
        if self.copies.is_empty() || self.ambiguous || !self.record.mirroring {
            return None;
        }
        let frame = match effect {
            Effect::Replay(_) if command.rule != Rule::Script && !command.is_total(request) => request.frame,
            Effect::Rewritten { total: false, .. } => frames,
            _ => return None,
        };
        let written = command.lone_written(request)?;
        let at = self.copies.find(db, written)?;
        if self.mirror_refuses(db).is_some() {
            return None;
        }
        let lasting = matches!(command.rule, Rule::Expire) || command.name == "PERSIST";
        let copy = &mut self.copies.under_way[at];
        let (read, twin, mut piece) = (copy.read, copy.twin(), Piece::default());
        if lasting {
            // The time to live is read with every piece; what counts is the last.
            copy.volatile |= command.rule == Rule::Expire;
        } else if read {
            // A key that may die meanwhile may be made anew by this.
            if copy.volatile {
                return None;
            }
            let mut followed = Some(());
            each_request(frame, |command, request| {
                followed = followed.and_then(|()| copy.step.follow(command.name.as_bytes(), request, &mut copy.value, &twin, &mut piece));
            });
            followed?;
        }
        let key = copy.key.clone();
        self.push_piece(at, piece);
        self.note_volatile(db, command, request);
        let Some(ack) = ack else { return Some(false) };
        self.wait_for_image(db, key, ack);
        Some(true)
    }

    /// The mirror answered a piece.
    pub(in crate::sequencer) fn confirm_piece(&mut self, db: Db, flight: &PieceFlight, reply: Reply<'_>, failed: Option<&[u8]>) {
        let at = self.copies.under_way.iter().position(|copy| copy.id == flight.copy);
        if let Some(at) = at {
            let copy = &mut self.copies.under_way[at];
            copy.unconfirmed = copy.unconfirmed.saturating_sub(1);
        }
        let Some(error) = failed.map(Reply).or_else(|| reply.is_error().then_some(reply)) else { return };
        let side = self.side_refusal(error);
        match at {
            Some(at) => self.end_copy(at, 0),
            // It has taken the key's name already, or was given up.
            None if matches!(self.ledger.state(db, &flight.key), Some(State::Restoring(_))) => {
                self.ledger.set_state(db, &flight.key, State::Dirty);
            }
            None => return,
        }
        if !side {
            self.image_refused(db, &flight.key, error);
        }
    }

    /// The twin was not what it had to be when it took the key's name (it was evicted, say): from the beginning.
    pub(super) fn copy_is_torn(&mut self, db: Db, key: &Arc<[u8]>) {
        self.copies.totals.restarts += 1;
        self.copies.rest(db, key, 1, self.now.us);
    }

    /// A lane of the mirror is open: twins that an earlier connection left there go. Lanes beside it are opened while copies are under way.
    pub(in crate::sequencer) fn remove_twins(&mut self, id: LaneId) {
        if id.side != self.mirror_side() || !id.is_shared() || !self.record.mirroring || self.settings.image_bytes_max == 0 {
            return;
        }
        let now = self.now.us;
        let twins: Vec<Vec<u8>> = (0..limits::COPIES_MAX).map(twin).collect();
        let mut frame = Vec::new();
        let mut command: Vec<&[u8]> = vec![b"UNLINK"];
        command.extend(twins.iter().map(Vec::as_slice));
        push_request(&mut frame, &command);
        if let Some(lane) = self.lane_mut(id).filter(|lane| lane.is_open()) {
            lane.push(&[&frame], What::Silent, 1, now);
            self.touch_lane(id);
        }
    }
}
