//! Images: a key as the primary holds it at one position, put into the mirror at that same position.
//!
//! `DUMP` and `PTTL` are read in one block on the primary's lane; what was executed before is in it, what comes later follows it
//! on the mirror's lane. So an image can neither overwrite something newer nor be crossed by something older. Where the mirror's
//! version refuses the payload, the key is read type by type in one block instead: wrong types are errors inside EXEC and abort
//! nothing (H34).
//!
//! How large the key is, is asked first: what is above `mirror.image_bytes_max` is copied in pieces (`copy.rs`), and so are hashes whose fields
//! have times to live, since a payload carries those as absolute times of the primary's clock (H32).

mod copy;
mod page;
mod stream;
mod typed;

pub(super) use copy::{Copied, Copies, PieceFlight};
pub(super) use typed::field;

use super::lane::{LaneId, What};
use super::{
    Sequencer,
    mirror::{Mode, is_protocol_error, unmirrorable},
    opening::lacks_lane,
    sides::Eviction,
};
use crate::doubt::{Cause, State};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use crate::status::{Finding, Level};
use std::sync::Arc;

/// How a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `MULTI DUMP PTTL EXEC`, with how the key was used before, where that is asked for.
    Block(Option<Heat>),
    /// `PTTL DUMP PTTL`: a full primary queues nothing in a block. Both times must agree, or the key may have been replaced between.
    Plain,
    /// Type by type, in a block.
    Typed,
}

/// How a server that evicts by use knows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heat {
    /// Seconds since its last use.
    Idle,
    /// A logarithmic count of its uses.
    Frequency,
}

impl Heat {
    /// The subcommand of OBJECT that tells it, and the option of RESTORE that sets it.
    fn word(self) -> &'static [u8] {
        if self == Heat::Idle { b"IDLETIME" } else { b"FREQ" }
    }
}

/// An image on the mirror that is not confirmed.
#[derive(Debug)]
pub(super) struct Image {
    pub key: Arc<[u8]>,
    pub position: u64,
    made: Made,
}

/// Of what an image was made.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// Of a payload of DUMP, which a server of another version may not read.
    Dumped,
    /// Of what each type's own commands tell.
    Typed,
    /// It ends a copy in pieces.
    Copied(Copied),
}

const NO_TOUCH_ON: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-TOUCH\r\n$2\r\nON\r\n";
const NO_TOUCH_OFF: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-TOUCH\r\n$3\r\nOFF\r\n";

impl Sequencer {
    /// The key is to be imaged: at once where that is possible, else as a dirty key that the repair finds.
    pub(super) fn want_image(&mut self, db: Db, key: &[u8], cause: Cause) {
        match self.ledger.state(db, key) {
            Some(State::Unmirrorable) => return,
            Some(State::Asked) if !self.disturb_copy(db, key) => return,
            Some(State::Dirty) if self.lost.is_some() => {
                // What is held for the operator's decision is not any longer: the client's write is on the primary alone.
                let position = self.next_position();
                self.mark_dirty(db, key, cause, position);
            }
            Some(State::Asked | State::Dirty) => {}
            Some(State::Restoring(_)) | None => {
                let position = self.next_position();
                self.mark_dirty(db, key, cause, position);
            }
        }
        if self.has_room_for_images() && !self.copies.rests(db, key) && self.mirror_refuses(db).is_none() {
            self.ask_image(db, key, false);
        }
    }

    /// Whether another key may be asked for.
    fn has_room_for_images(&self) -> bool {
        self.ledger.asked() < limits::IMAGES_ASKED_MAX && !self.copies.is_full(self.settings.dirty_keys_max)
    }

    /// Asks the primary for the key: how large it is, and then what it holds. `repair`: no command of a client's wants it. False when that cannot be
    /// done now.
    fn ask_image(&mut self, db: Db, key: &[u8], repair: bool) -> bool {
        if !self.may_read(db, key) || self.ledger.state(db, key) != Some(State::Dirty) {
            return false;
        }
        let id = LaneId::shared(self.primary(), db);
        if !self.lane(id).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(id);
            return false;
        }
        self.ledger.set_state(db, key, State::Asked);
        if self.settings.image_bytes_max == 0 || self.mirror.sizes_refused {
            self.read_image(db, key.into());
            return true;
        }
        let mut frame = Vec::with_capacity(48 + key.len());
        push_request(&mut frame, &[b"MEMORY", b"USAGE", key]);
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], What::ImageSize { key: key.into(), repair }, 1, now);
        }
        self.touch_lane(id);
        true
    }

    /// Whether a reading of this key that has begun may go on: before a barrier's command too, which waits until it has been answered.
    fn may_read(&self, db: Db, key: &[u8]) -> bool {
        let committing = self.flip.as_ref().is_some_and(super::flip::Flip::is_committing);
        !self.fences.is_barrier_sent() && !committing && !self.fences.keeps_out(db, key, self.holding)
    }

    /// The primary told how large the key is.
    pub(super) fn answer_size(&mut self, db: Db, key: Arc<[u8]>, repair: bool, reply: Reply<'_>) {
        if self.ledger.state(db, &key) != Some(State::Asked) {
            return;
        }
        if reply.is_error() && reply.error_word() != Some(b"NOPERM") && !reply.text().starts_with(b"ERR unknown") {
            // Busy with a script, or loading.
            self.mirror.images_rest_until = self.now.us + IMAGES_REST_US;
            self.ledger.set_state(db, &key, State::Dirty);
            return self.release_image_acks(db, &key);
        }
        if reply.is_error() && !self.mirror.sizes_refused {
            let text = String::from_utf8_lossy(reply.text()).into_owned();
            self.log(true, format!("`{}` does not tell how large keys are: large ones are copied whole: {text}", self.primary()));
            self.mirror.sizes_refused = true;
        }
        if self.mirror_refuses(db).is_some() || !self.may_read(db, &key) {
            self.ledger.set_state(db, &key, State::Dirty);
            return self.release_image_acks(db, &key);
        }
        let bytes = reply.integer().unwrap_or(0).max(0) as usize;
        self.note_script_image(db, &key, bytes);
        if !(bytes > self.settings.image_bytes_max && self.begin_copy(db, &key, bytes)) {
            if repair {
                self.verify.repairs.note_size(bytes);
            }
            self.read_image(db, key);
        }
    }

    /// Reads the whole key on the primary's lane.
    fn read_image(&mut self, db: Db, key: Arc<[u8]>) {
        let form = match () {
            () if self.mirror.typed_images => Form::Typed,
            () if self.now.us < self.mirror.plain_images_until => Form::Plain,
            () => Form::Block(self.asked_heat()),
        };
        let mut frame = Vec::with_capacity(128 + key.len() * 2);
        let replies = push_reads(&mut frame, &key, form);
        self.totals.images += 1;
        self.push_untouched(LaneId::shared(self.primary(), db), &frame, What::ImageRead { key, form }, replies);
    }

    /// Appends reads of ours to a lane of the primary, so that they do not count as uses of the keys where the primary evicts by use (H58).
    pub(super) fn push_untouched(&mut self, id: LaneId, frame: &[u8], what: What, replies: u32) {
        let now = self.now.us;
        let bracketed = self.hides_reads(id.side);
        let Some(lane) = self.lane_mut(id) else { return };
        if bracketed {
            lane.push(&[NO_TOUCH_ON], What::Silent, 1, now);
        }
        lane.push(&[frame], what, replies, now);
        if bracketed {
            lane.push(&[NO_TOUCH_OFF], What::Silent, 1, now);
        }
        self.touch_lane(id);
    }

    /// Whether this side would take our reads for uses, and can be told not to: from 7.2 on.
    fn hides_reads(&self, side: Endpoint) -> bool {
        let side = &self.sides[side.index()];
        side.eviction != Eviction::ByNothing && side.can_hide_reads()
    }

    /// What the mirror is to be told of how a key was used: RESTORE takes it from 5.0 on, where both evict by the same.
    fn asked_heat(&self) -> Option<Heat> {
        let [primary, mirror] = [self.primary(), self.mirror_side()].map(|side| &self.sides[side.index()]);
        let since = mirror.is_since(Some((5, 0)), Some((7, 2)));
        match (primary.eviction, mirror.eviction) {
            (Eviction::ByRecency, Eviction::ByRecency) if since => Some(Heat::Idle),
            (Eviction::ByFrequency, Eviction::ByFrequency) if since => Some(Heat::Frequency),
            _ => None,
        }
    }

    /// The primary told what the key holds.
    pub(super) fn answer_image(&mut self, db: Db, key: &Arc<[u8]>, form: Form, reply: Reply<'_>, failed: Option<&[u8]>) {
        if self.ledger.state(db, key) != Some(State::Asked) {
            return;
        }
        self.ledger.set_state(db, key, State::Dirty);
        if matches!(form, Form::Block(_)) && failed.is_some_and(|error| Reply(error).error_word() == Some(b"OOM")) {
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
        if self.has_mortal_fields(form, reply) {
            return self.read_fields(db, key, form, reply);
        }
        let mut frame = Vec::new();
        let lives = self.lives();
        let newer = self.sides[self.mirror_side().index()].major >= 7;
        let written = match form {
            Form::Typed => typed::push_typed(&mut frame, key, reply, lives, newer),
            Form::Block(heat) => push_restore(&mut frame, key, reply, heat, lives),
            Form::Plain => agreed(reply).map(|(dump, pttl)| push_dumped(&mut frame, key, dump, None, pttl, lives)),
        };
        let made = if form == Form::Typed { Made::Typed } else { Made::Dumped };
        match written {
            Some(replies) => {
                self.note_script_image(db, key, frame.len());
                self.append_image(db, key, &frame, replies, made);
            }
            None => self.image_failed(db, key, "it has a type that cannot be copied"),
        }
    }

    /// Whether the key is a hash whose fields may have times to live: neither its payload nor its fields and values alone carry them rightly.
    fn has_mortal_fields(&self, form: Form, reply: Reply<'_>) -> bool {
        if !self.sides[self.primary().index()].has_field_times() {
            return false;
        }
        match form {
            Form::Typed => reply.elements().next().is_some_and(|kind| kind.text() == b"hash"),
            // rdb.h, RDB_TYPE_HASH_METADATA and its kin: 22 to 25 in Redis 7.4, 22 in Valkey 9.
            Form::Block(_) | Form::Plain => {
                reply.elements().any(|part| !part.is_aggregate() && part.text().first().is_some_and(|kind| (22..=25).contains(kind)))
            }
        }
    }

    /// Reads a hash with the times to live of its fields, whose names are told by a reading of it by type.
    fn read_fields(&mut self, db: Db, key: &Arc<[u8]>, form: Form, reply: Reply<'_>) {
        if !self.may_read(db, key) {
            // A fence was raised meanwhile: what it guards runs beside this lane, before or behind this reading. It stays dirty and is asked for again.
            return self.release_image_acks(db, key);
        }
        self.ledger.set_state(db, key, State::Asked);
        let mut frame = Vec::new();
        let names = if form == Form::Typed { typed::field_names(reply) } else { Vec::new() };
        let id = LaneId::shared(self.primary(), db);
        if names.is_empty() {
            let replies = push_reads(&mut frame, key, Form::Typed);
            return self.push_untouched(id, &frame, What::ImageRead { key: key.clone(), form: Form::Typed }, replies);
        }
        let replies = typed::push_field_reads(&mut frame, key, &names);
        self.push_untouched(id, &frame, What::FieldsRead { key: key.clone(), names }, replies);
    }

    /// The primary told what a hash holds, and how long these of its fields still live.
    pub(super) fn answer_fields(&mut self, db: Db, key: &Arc<[u8]>, names: &[Box<[u8]>], reply: Reply<'_>) {
        if self.ledger.state(db, key) != Some(State::Asked) {
            return;
        }
        self.ledger.set_state(db, key, State::Dirty);
        if self.mirror_refuses(db).is_some() {
            return self.release_image_acks(db, key);
        }
        let mirror_knows = self.sides[self.mirror_side().index()].has_field_times();
        let mut frame = Vec::new();
        match typed::push_fields(&mut frame, key, names, reply, self.lives()) {
            // It has other fields by now, or is no hash any more: in pieces, where fields that come meanwhile are followed.
            None => {
                self.ledger.set_state(db, key, State::Asked);
                if !self.begin_copy(db, key, 0) {
                    self.ledger.set_state(db, key, State::Dirty);
                    self.release_image_acks(db, key);
                }
            }
            Some((_, true)) if !mirror_knows => {
                self.set_aside(db, key, FIELDS_UNKNOWN);
                self.release_image_acks(db, key);
            }
            Some((replies, _)) => self.append_image(db, key, &frame, replies, Made::Typed),
        }
    }

    /// Appends an image to the mirror's lane. Where it ends a copy in pieces its first answer inside EXEC must be the size.
    fn append_image(&mut self, db: Db, key: &Arc<[u8]>, frame: &[u8], replies: u32, made: Made) {
        let position = self.next_position();
        let id = LaneId::shared(self.mirror_side(), db);
        let now = self.now.us;
        self.note_sent(db, Some(key));
        let Some(lane) = self.lane_mut(id) else { return };
        lane.push(&[frame], What::Restore(Image { key: key.clone(), position, made }), replies, now);
        self.mirror.image_bytes += frame.len();
        self.note_backfilled(db, key, frame.len());
        self.ledger.set_state(db, key, State::Restoring(position));
        if self.ledger.take_again(db, key) {
            let again = self.next_position();
            self.mark_dirty(db, key, Cause::Reported, again);
        }
        self.synced.insert(db, key);
        self.touch_lane(id);
    }

    /// The mirror answered an image.
    pub(super) fn confirm_image(&mut self, db: Db, image: &Image, len: u32, reply: Reply<'_>, failed: Option<&[u8]>) {
        let Image { key, position, made } = image;
        self.mirror.image_bytes = self.mirror.image_bytes.saturating_sub(len as usize);
        let error =
            failed.map(Reply).or_else(|| reply.is_error().then_some(reply)).or_else(|| reply.elements().find(|part| part.is_error()));
        let counted = || reply.elements().next().and_then(Reply::integer);
        let torn = match made {
            Made::Copied(copied) if copied.size.is_some() && reply.is_aggregate() && counted() != copied.size => Some(*copied),
            _ => None,
        };
        match (error, torn) {
            (_, Some(copied)) => {
                self.ledger.set_state(db, key, State::Dirty);
                self.copy_is_torn(db, key, copied);
            }
            (None, None) => {
                if self.ledger.state(db, key) == Some(State::Restoring(*position)) {
                    self.ledger.remove(db, key);
                    self.totals.repairs += 1;
                } else {
                    self.ledger.succeeded(db, key);
                }
            }
            (Some(error), None) => {
                self.ledger.set_state(db, key, State::Dirty);
                let unread = matches!(made, Made::Dumped) && is_unread_payload(error);
                if unread {
                    // Not the key's failure: others of it that were on the way meanwhile are refused as well.
                    self.copy_by_type();
                } else if !self.side_refusal(error) {
                    self.image_refused(db, key, error);
                }
            }
        }
        self.release_image_acks(db, key);
    }

    /// The mirror does not read payloads of the primary: from now on keys are read as any version can write them.
    fn copy_by_type(&mut self) {
        if !std::mem::replace(&mut self.mirror.typed_images, true) {
            self.log(false, format!("`{}` cannot read the primary's DUMP format: keys are copied type by type", self.mirror_side()));
        }
    }

    pub(super) fn image_refused(&mut self, db: Db, key: &Arc<[u8]>, error: Reply<'_>) {
        let text = String::from_utf8_lossy(error.text()).into_owned();
        if is_protocol_error(error) {
            self.mirror.culprit_known = true;
            return self.set_aside(db, key, &text);
        }
        self.image_failed(db, key, &text);
    }

    /// No image can carry the key: it is named, and shuts the gate.
    pub(super) fn set_aside(&mut self, db: Db, key: &Arc<[u8]>, why: &str) {
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
        if self.ledger.healable() == 0 || !self.may_repair() || !self.may_ask() || self.now.us < self.mirror.images_rest_until {
            return false;
        }
        let mut moved = false;
        let holding = self.holding;
        while self.has_room_for_images() && self.mirror.image_bytes < limits::IMAGE_BYTES_MAX && self.may_repair_one() {
            let (fences, sides) = (&self.fences, &self.sides);
            let fenced = std::cell::Cell::new(false);
            let wanted = |db: Db, key: &[u8]| {
                let stands = fences.keeps_out(db, key, holding);
                fenced.set(fenced.get() || stands);
                !stands
            };
            let found = self.ledger.next_dirty(|db| lacks_lane(sides, db), wanted);
            if fenced.get() {
                // A key that is fenced all the time would never be healed, and a flip would wait for ever.
                self.fences.give_way();
            }
            let Some((db, key)) = found else { break };
            if self.copies.rests(db, &key) {
                // It is known to be large, and waits there from now on.
                continue;
            }
            if self.mirror_refuses(db).is_some() || !self.ask_image(db, &key, true) {
                // It stays dirty; the next settling finds it again.
                self.ledger.set_state(db, &key, State::Dirty);
                break;
            }
            self.note_repair();
            moved = true;
        }
        moved
    }

    /// Reads of ours enter the primary's lanes like commands of clients: not while a barrier stands, whose command would have no
    /// place before or behind them, and not while the roles are about to move.
    pub(super) fn may_ask(&self) -> bool {
        !self.fences.has_barrier() && !self.flip.as_ref().is_some_and(super::flip::Flip::is_committing)
    }

    pub(super) fn may_repair(&self) -> bool {
        self.record.mirroring
            && self.mirror.mode == Mode::Following
            && self.sides.iter().all(super::sides::Side::is_up)
            && !self.mirror_can_pay()
    }
}

impl Sequencer {
    /// A primary that evicts by use and takes our reads for uses (H58).
    pub(super) fn use_findings(&self, found: &mut Vec<Finding>) {
        let side = &self.sides[self.primary().index()];
        if side.eviction == Eviction::ByNothing || side.can_hide_reads() || !self.record.mirroring {
            return;
        }
        found.push(Finding {
            level: Level::Warn,
            code: "reads-count-as-uses",
            subject: String::new(),
            text: format!(
                "`{}` ({}) evicts keys by their use, and takes every key that is copied or verified for one that was just used",
                self.primary(),
                side.version
            ),
            remedy: "copy and verify while it is far from `maxmemory`; from 7.2 on the proxy's reads are hidden (CLIENT NO-TOUCH)".into(),
        });
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
        typed::push_typed_reads(frame, key)
    } else {
        let heat = if let Form::Block(heat) = form { heat } else { None };
        // Before DUMP, which may count as a use.
        if let Some(heat) = heat {
            push_request(frame, &[b"OBJECT", heat.word(), key]);
        }
        push_request(frame, &[b"DUMP", key]);
        push_request(frame, &[b"PTTL", key]);
        2 + u32::from(heat.is_some())
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

/// Whether RESTORE could not read what DUMP had made (redis 7.0.15 cluster.c restoreCommand).
fn is_unread_payload(error: Reply<'_>) -> bool {
    let text = String::from_utf8_lossy(error.text());
    text.contains("DUMP payload version or checksum") || text.contains("Bad data format")
}

/// Why a hash cannot be copied.
const FIELDS_UNKNOWN: &str = "fields of it have a time to live, which this version does not know";

/// How long images are read without MULTI behind a refusal to queue them, microseconds; then the block is tried again.
const PLAIN_IMAGES_US: u64 = 1_000_000;

/// How long images rest when the primary could not tell what a key holds (out of memory, or busy with a script), microseconds: it
/// is not to be asked as fast as it can refuse.
const IMAGES_REST_US: u64 = 100_000;

/// Remaining milliseconds above which the mirror's clock would overflow when it adds them to its time: RESTORE then makes a key that
/// ended long ago (7.0, cluster.c restoreCommand). Such a key gets the last moment there is as its absolute end.
const REMAINING_MAX: i64 = i64::MAX - 10_000_000_000_000;

/// How remaining times that were just read on the primary are told to the mirror.
#[derive(Debug, Clone, Copy)]
struct Lives {
    margin_ms: i64,
    /// The mirror's clock now, where it is known and RESTORE takes an absolute end: the key's end is right then however long the image
    /// waits for its turn behind large ones, and a restart need not know how long that was.
    mirror_unix_ms: Option<i64>,
}

/// When a key ends on the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// So many milliseconds after the command was executed.
    In(i64),
    /// By its own clock, unix milliseconds.
    At(i64),
}

impl Lives {
    /// Of a key with so many milliseconds left on the primary; None: it lives for ever.
    fn end(self, pttl: i64) -> Option<End> {
        if pttl < 0 {
            return None;
        }
        let left = pttl.max(1).saturating_add(self.margin_ms);
        Some(match self.mirror_unix_ms {
            Some(now) => End::At(now.saturating_add(left)),
            None if left > REMAINING_MAX => End::At(i64::MAX),
            None => End::In(left),
        })
    }
}

impl End {
    /// The command that sets it, and its argument.
    fn command(self) -> (&'static [u8], Vec<u8>) {
        match self {
            End::In(ms) => (b"PEXPIRE", number(ms)),
            End::At(ms) => (b"PEXPIREAT", number(ms)),
        }
    }
}

impl Sequencer {
    /// Whether images tell when keys end, and not how long they live.
    pub(super) fn ends_are_absolute(&self) -> bool {
        let mirror = &self.sides[self.mirror_side().index()];
        mirror.clock_is_known() && mirror.is_since(Some((5, 0)), Some((7, 2)))
    }

    fn lives(&self) -> Lives {
        let mirror = &self.sides[self.mirror_side().index()];
        let mirror_unix_ms = self.ends_are_absolute().then(|| self.now.unix_ms.saturating_add(mirror.clock_offset_ms));
        Lives { margin_ms: self.settings.expiry_margin_ms, mirror_unix_ms }
    }
}

/// `RESTORE k ttl payload REPLACE`, or `UNLINK k` when the key is absent.
fn push_restore(frame: &mut Vec<u8>, key: &[u8], reply: Reply<'_>, heat: Option<Heat>, lives: Lives) -> Option<u32> {
    let mut parts = reply.elements();
    let heat = match heat {
        // An error: the policy has changed meanwhile.
        Some(heat) => parts.next()?.integer().map(|value| (heat, value)),
        None => None,
    };
    let (dump, pttl) = (parts.next()?, parts.next()?);
    if dump.is_error() {
        return None;
    }
    let pttl = if dump.is_null() { -2 } else { pttl.integer()? };
    Some(push_dumped(frame, key, (!dump.is_null()).then_some(dump), heat, pttl, lives))
}

fn push_dumped(frame: &mut Vec<u8>, key: &[u8], dump: Option<Reply<'_>>, heat: Option<(Heat, i64)>, pttl: i64, lives: Lives) -> u32 {
    let Some(dump) = dump else {
        push_request(frame, &[b"UNLINK", key]);
        return 1;
    };
    let end = lives.end(pttl);
    let (time, heat_value) = (end.map_or_else(|| number(0), |end| end.command().1), heat.map(|(_, value)| number(value)));
    let mut command: Vec<&[u8]> = vec![b"RESTORE", key, &time, dump.text(), b"REPLACE"];
    if matches!(end, Some(End::At(_))) {
        command.push(b"ABSTTL");
    }
    if let (Some((heat, _)), Some(value)) = (heat, &heat_value) {
        command.extend([heat.word(), value]);
    }
    push_request(frame, &command);
    1
}
