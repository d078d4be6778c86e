//! Large keys, copied in pieces: no single reading holds the primary up, no single write the mirror, and other clients' commands go between.
//!
//! Pieces are read one behind the other on the primary's lane, each at a position of its own, and written into a *twin*, a reserved key
//! of the mirror that nobody reads (H33). At the last position the twin takes the key's name, with the time to live that was read
//! there. Clients wait for none of this (H18). What is written on the key meanwhile is known at its position, because every effect comes by
//! here: where it concerns elements (`page.rs`), it goes to the twin in its place between the pieces; anything else ends the copy, which begins anew
//! after a pause. A key that is written so often that no copy comes to its end is copied whole after [`limits::COPY_RESTARTS_MAX`] attempts: that holds
//! both servers for as long as its DUMP and RESTORE take, and is counted.
//!
//! A key that was once found to be large waits here for a free place or for the end of its pause, dirty as it is, and is not asked again how large it is.
//!
//! A copy never outlives a connection, a whole-database command or a mirror that stops to follow. The twin has an end of its own for the case that
//! nobody takes it away.

use super::Made;
use super::page::{Kind, Piece, Step, Taken, Terms, Value};
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
use std::collections::{BTreeMap, HashMap};
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
    /// Copies of the key that ended before their time.
    restarts: u32,
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

type Name = (Db, Arc<[u8]>);

/// When a copy may begin, microseconds, and a number: who came first goes first.
type Due = (u64, u64);

/// A large key that waits: for a free place, or because its copy ended before its time.
#[derive(Debug, Clone, Copy)]
struct Resting {
    bytes: usize,
    restarts: u32,
    due: Due,
}

/// What an image on the mirror's lane is told of the copy that it ends.
#[derive(Debug, Clone, Copy)]
pub(in crate::sequencer) struct Copied {
    /// How large the twin must be; None: that is not known exactly.
    pub size: Option<i64>,
    bytes: usize,
    restarts: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::sequencer) struct Copies {
    under_way: Vec<Copy>,
    serial: u64,
    /// Dirty keys that are in no queue of the ledger.
    resting: HashMap<Name, Resting>,
    /// The same, whose turn comes first.
    order: BTreeMap<Due, Name>,
    pub totals: CopyCounters,
}

/// The first pause of a key whose copy has to begin anew, microseconds; it doubles each time.
const REST_US: u64 = 50_000;

/// How long a key waits longer whose copy could not begin now, microseconds.
const PUT_OFF_US: u64 = 200_000;

/// A twin that nobody takes away ends by itself, milliseconds.
const TWIN_LIFE_MS: i64 = 3_600_000;

fn twin(slot: usize) -> Vec<u8> {
    format!("__twinlane:image:{slot}").into_bytes()
}

impl Copies {
    /// No copy is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// No copy is under way, and no large key waits for one.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.resting.is_empty()
    }

    /// So many large keys wait that no further key is to be asked for.
    pub fn is_full(&self, dirty_keys_max: usize) -> bool {
        self.resting.len() >= limits::COPIES_RESTING_MAX.min(dirty_keys_max)
    }

    fn find(&self, db: Db, key: &[u8]) -> Option<usize> {
        self.under_way.iter().position(|copy| copy.db == db && *copy.key == *key)
    }

    /// Whether the key waits here, and no image of it is to be asked for.
    pub fn rests(&self, db: Db, key: &[u8]) -> bool {
        !self.resting.is_empty() && self.resting.contains_key(&(db, key.into()))
    }

    /// It was replaced, or its turn has come.
    fn take(&mut self, db: Db, key: &[u8]) -> Option<Resting> {
        if self.resting.is_empty() {
            return None;
        }
        let resting = self.resting.remove(&(db, key.into()))?;
        self.order.remove(&resting.due);
        Some(resting)
    }

    /// It waits from now on, as long as its `restarts` ask for.
    fn rest(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize, restarts: u32, now_us: u64) {
        let pause = if restarts == 0 { 0 } else { REST_US << restarts.min(limits::COPY_RESTARTS_MAX) };
        self.rest_until(db, key, bytes, restarts, now_us + pause);
    }

    fn rest_until(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize, restarts: u32, until: u64) {
        self.take(db, key);
        self.serial += 1;
        let due = (until, self.serial);
        self.order.insert(due, (db, key.clone()));
        self.resting.insert((db, key.clone()), Resting { bytes, restarts, due });
    }

    /// The key whose turn it is.
    fn due(&self, now_us: u64) -> Option<Name> {
        self.order.first_key_value().filter(|((until, _), _)| *until <= now_us).map(|(_, name)| name.clone())
    }

    /// Keys that wait, those whose turn comes first before others.
    pub fn resting(&self) -> impl Iterator<Item = &Name> {
        self.order.values()
    }
}

impl Sequencer {
    /// The key is large: its copy in pieces begins, or it waits for a place. False when it is to go whole.
    pub(super) fn begin_copy(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize) -> bool {
        let restarts = self.copies.take(db, key).map_or(0, |resting| resting.restarts);
        self.start_copy(db, key, bytes, restarts)
    }

    fn start_copy(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize, restarts: u32) -> bool {
        if restarts >= limits::COPY_RESTARTS_MAX {
            self.copies.totals.whole += 1;
            let name = crate::keyname::shown(key);
            self.log(
                false,
                format!("key \"{name}\" of database {db} ({bytes} bytes) is written all the time: it is copied whole after {restarts} attempts in pieces"),
            );
            return false;
        }
        let Some(slot) = self.free_slot() else {
            self.copies.rest(db, key, bytes, restarts, self.now.us);
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
            restarts,
            asked: false,
            unconfirmed: 0,
            begun: false,
            read: false,
            volatile: false,
        });
        true
    }

    /// A place for a copy. None: all are in use; or a flip holds everybody, which is no time for large keys; or a dead connection may still write
    /// a twin (H1).
    fn free_slot(&self) -> Option<usize> {
        let zombies = self.sides.iter().any(|side| side.zombies_until > self.now.us);
        let taken = |slot: &usize| self.copies.under_way.iter().any(|copy| copy.slot == *slot);
        (0..limits::COPIES_MAX).find(|slot| !taken(slot)).filter(|_| !self.holding && !zombies)
    }

    /// Gives free places to keys that wait.
    fn begin_resting(&mut self) -> bool {
        let (now, mut moved) = (self.now.us, false);
        while self.may_repair() && self.may_ask() && now >= self.mirror.images_rest_until && self.free_slot().is_some() {
            let Some((db, key)) = self.copies.due(now) else { break };
            let Some(Resting { bytes, restarts, .. }) = self.copies.take(db, &key) else { break };
            let Some(entry) = self.ledger.get(db, &key).filter(|entry| entry.state == State::Dirty).copied() else { continue };
            // Doubt from before a loss is not healed from the primary [H12]; what a fence keeps out, or no lane leads to, comes later.
            let fenced = self.fences.keeps_out(db, &key, self.holding);
            if fenced {
                self.fences.give_way();
            }
            if entry.held || fenced || self.mirror_refuses(db).is_some() || !self.primary_reads(db) {
                self.copies.rest_until(db, &key, bytes, restarts, now + PUT_OFF_US);
                continue;
            }
            self.ledger.set_state(db, &key, State::Asked);
            moved = true;
            if !self.start_copy(db, &key, bytes, restarts) {
                self.read_image(db, key);
            }
        }
        moved
    }

    /// Whether the primary's lane of a database is open; it is opened otherwise.
    fn primary_reads(&mut self, db: Db) -> bool {
        let id = LaneId::shared(self.primary(), db);
        let open = self.lane(id).is_some_and(crate::sequencer::lane::Lane::is_open);
        if !open {
            self.open_lane(id);
        }
        open
    }

    /// What waits in these databases is not known to be large any more: they were emptied, have other numbers, or are held with all that was in doubt.
    pub(in crate::sequencer) fn forget_resting(&mut self, concerned: impl Fn(Db) -> bool) {
        for (db, key) in self.copies.resting().filter(|(db, _)| concerned(*db)).cloned().collect::<Vec<_>>() {
            self.copies.take(db, &key);
            if self.ledger.state(db, &key) == Some(State::Dirty) {
                // Back into the ledger's queue.
                self.ledger.set_state(db, &key, State::Dirty);
            }
        }
    }

    /// Asks for the next pieces.
    pub(in crate::sequencer) fn pump_copies(&mut self) -> bool {
        if self.copies.is_empty() {
            return false;
        }
        let mut moved = self.begin_resting();
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
        let end = self.lives().end(pttl).map(super::End::command);
        let mut block = Piece::default();
        block.push(&[b"MULTI"]);
        block.push(&[copy.value.kind.size(), &twin]);
        block.push(&[b"UNLINK", &copy.key]);
        block.push(&[b"RENAME", &twin, &copy.key]);
        match &end {
            None => block.push(&[b"PERSIST", &copy.key]),
            Some((name, time)) => block.push(&[name, &copy.key, time]),
        }
        block.push(&[b"EXEC"]);
        self.copies.totals.done += 1;
        // Fields that died are counted for a while.
        let size = (!copy.value.mortal_fields).then_some(copy.value.size);
        let copied = Copied { size, bytes: copy.bytes, restarts: copy.restarts };
        self.append_image(copy.db, &copy.key, &block.frame, block.replies, Made::Copied(copied));
    }

    /// The key is not there any more.
    fn put_absent(&mut self, at: usize) {
        let copy = self.copies.under_way.swap_remove(at);
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"UNLINK", &copy.key, &copy.twin()]);
        self.append_image(copy.db, &copy.key, &frame, 1, Made::Typed);
    }

    /// The copy is given up; its twin goes, and its key is dirty again and waits for the next one. `restarts`: how many it counts for; none where it
    /// was not the key's fault.
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
        self.copies.totals.restarts += u64::from(restarts > 0);
        if self.ledger.state(copy.db, &copy.key) == Some(State::Asked) {
            self.ledger.set_state(copy.db, &copy.key, State::Dirty);
            self.copies.rest(copy.db, &copy.key, copy.bytes, copy.restarts + restarts, now);
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
        if self.copies.is_idle() || self.settings.faults.torn_copies {
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
        self.copies.take(db, key);
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
        if self.copies.is_idle() || self.ambiguous || !self.record.mirroring {
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
    pub(super) fn copy_is_torn(&mut self, db: Db, key: &Arc<[u8]>, copied: Copied) {
        self.copies.totals.restarts += 1;
        self.copies.rest(db, key, copied.bytes, copied.restarts + 1, self.now.us);
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
