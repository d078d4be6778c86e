//! The mirror's side of an effect: whether it can be sent, what it must answer, and what follows when it does not.
//!
//! The hard case is the mirror that is away, slow, full or wrong: no client may notice (I6). So nothing waits for it here. What
//! cannot be sent becomes a dirty key at once; what was sent and is not confirmed in time, or not as expected, becomes one later,
//! and so does everything that was computed from it (H13).

use super::lane::{EffectBlock, EffectFlight, LaneId, What};
use super::opening::lacks_lane;
use super::reply::each_request;
use super::session::SessionId;
use super::{Ack, RECORD_KEY, Sequencer};
use crate::command::{Command, KeyUse, Rule};
use crate::doubt::{Cause, State, WideCause};
use crate::effect::{Effect, Expect};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::{number, parse_integer, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Whether effects flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// They do.
    #[default]
    Following,
    /// The queue reached a bound: effects become dirty keys until what was sent is confirmed.
    Collapsing,
    /// The side refuses writes for this reason; a trial is due at this time.
    Paused { cause: String, trial_at: u64 },
}

/// A command that must be alone on the mirror too.
#[derive(Debug)]
struct Barrier {
    frame: Vec<u8>,
    replies: u32,
    /// Sending it twice is harmless.
    repeatable: bool,
    databases: Vec<Db>,
    /// It empties every database.
    flushes: bool,
}

/// Replies that wait: session and number.
type Waiting = Vec<(SessionId, u64)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub mode: Mode,
    barriers: VecDeque<Barrier>,
    barrier_sent: bool,
    /// Databases that must be emptied before anything else reaches them.
    owed_flush: BTreeSet<Db>,
    /// Keys of the effect that stood first when the last connection was lost (H27).
    suspects: Vec<(Db, Arc<[u8]>)>,
    /// The mirror answered a request with a protocol error: it closes the connection now, and we know for what.
    pub culprit_known: bool,
    /// The primary could not tell what a key holds: none is asked for until then, microseconds.
    pub images_rest_until: u64,
    /// The primary is full, and queues nothing: keys are read without MULTI until then, microseconds.
    pub plain_images_until: u64,
    /// Bytes of images that are not confirmed.
    pub image_bytes: usize,
    /// The primary does not tell how large keys are.
    pub sizes_refused: bool,
    /// The mirror's version refuses the primary's DUMP: images go type by type.
    pub typed_images: bool,
    /// A client gave a key a time to live in this database.
    volatile: HashSet<Db>,
    /// Sessions that wait for a key's image under `ack = "both"`.
    image_acks: HashMap<(Db, Arc<[u8]>), Waiting>,
}

/// Effects of one block for one database.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub db: Db,
    frames: Vec<u8>,
    expects: Vec<Expect>,
    sourced: bool,
    /// The last effect needs nothing of what was there.
    total: bool,
    /// Probes that go before the block.
    boundaries: Vec<super::expiry::Boundary>,
}

impl Outgoing {
    pub fn new(db: Db) -> Outgoing {
        Outgoing { db, frames: Vec::new(), expects: Vec::new(), sourced: false, total: false, boundaries: Vec::new() }
    }
}

/// An alarm that lasts until all databases have been scanned.
pub(super) const TOO_MANY_BARRIERS: &str = "too many whole-database commands wait for the mirror; databases are copied anew";

/// How the alarm begins that nobody can tell what a forced flip would leave behind.
pub(super) const UNNAMED_SINCE_LOSS: &str = "WRITES SINCE THE LOSS";

/// What to do with an effect's commands.
enum Way {
    /// Send them.
    Send,
    /// Nothing is to be sent; whether an image of a written key is under way.
    Done(bool),
}

impl Sequencer {
    /// Why an effect in this database cannot be sent now.
    pub(super) fn mirror_refuses(&mut self, db: Db) -> Option<Cause> {
        let side = self.mirror_side();
        if !self.sides[side.index()].is_up() {
            return Some(Cause::MirrorDown);
        }
        match self.mirror.mode {
            Mode::Following => {}
            Mode::Collapsing => return Some(Cause::QueueFull),
            Mode::Paused { .. } => return Some(Cause::MirrorRefuses),
        }
        if !self.mirror.barriers.is_empty() || self.mirror.owed_flush.contains(&db) {
            return Some(Cause::QueueFull);
        }
        let lane = LaneId::shared(side, db);
        if !self.lane(lane).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(lane);
            return Some(Cause::MirrorDown);
        }
        None
    }

    /// Whether the mirror is not known to hold the key as the primary does.
    fn is_doubtful(&self, db: Db, key: &[u8]) -> bool {
        if !self.ledger.is_empty() {
            match self.ledger.state(db, key) {
                Some(State::Dirty | State::Asked | State::Unmirrorable) => return true,
                Some(State::Restoring(_)) => return false,
                None => {}
            }
        }
        if self.spill.may_hold(db, key) {
            return true;
        }
        !self.settings.faults.no_unsynced && !self.synced.contains(db, key)
    }

    /// Appends one command's effect to the mirror. True when a reply under `ack = "both"` has something to wait for.
    pub(super) fn apply(
        &mut self,
        db: Db,
        command: &'static Command,
        request: &Request<'_>,
        effect: Effect,
        frames: &[u8],
        ack: Option<(SessionId, u64)>,
    ) -> bool {
        if let Some(pending) = self.follow_copy(db, command, request, effect, frames, ack) {
            self.note_write(db, command, request, effect, true);
            return pending;
        }
        let way = self.way(db, command, request, effect, ack);
        self.note_write(db, command, request, effect, matches!(way, Way::Send));
        let (bytes, frames, expect, total) = match (way, effect) {
            (Way::Done(pending), effect) => {
                self.unreplayed(db, command, effect);
                return pending;
            }
            (Way::Send, Effect::Replay(expect)) => (request.frame, 1, expect, command.is_total(request)),
            (Way::Send, Effect::Rewritten { frames: count, expect, total }) => (frames, count, expect, total),
            (Way::Send, _) => (request.frame, 1, Expect::Any, true),
        };
        let position = self.next_position();
        if let Some(boundary) = self.boundary(db, command, request, effect, total) {
            self.push_boundary(db, boundary, position);
        }
        let now = self.now.us;
        let sourced = command.is_sourced(request);
        let late = self.settings.faults.no_order;
        if let Some(lane) = self.lane_mut(LaneId::shared(self.mirror_side(), db)) {
            lane.sourced += usize::from(sourced);
            let flight = What::Effect(EffectFlight { position, expect, total, sourced, ack });
            if late {
                lane.push_late(bytes, flight, frames, now);
            } else {
                lane.push(&[bytes], flight, frames, now);
            }
        }
        self.touch_lane(LaneId::shared(self.mirror_side(), db));
        ack.is_some()
    }

    /// Adds one element's effect to those of its block.
    pub(super) fn gather(
        &mut self,
        outgoing: &mut Outgoing,
        command: &'static Command,
        request: &Request<'_>,
        effect: Effect,
        frames: &[u8],
        ack: Option<(SessionId, u64)>,
    ) -> bool {
        if let Some(pending) = self.follow_copy(outgoing.db, command, request, effect, frames, ack) {
            self.note_write(outgoing.db, command, request, effect, true);
            return pending;
        }
        let way = self.way(outgoing.db, command, request, effect, ack);
        self.note_write(outgoing.db, command, request, effect, matches!(way, Way::Send));
        match (way, effect) {
            (Way::Done(pending), effect) => {
                self.unreplayed(outgoing.db, command, effect);
                return pending;
            }
            (Way::Send, Effect::Rewritten { frames: count, expect, .. }) => {
                outgoing.frames.extend_from_slice(frames);
                outgoing.expects.extend((1..count).map(|_| Expect::Any));
                outgoing.expects.push(expect);
            }
            (Way::Send, Effect::Replay(expect)) => {
                outgoing.frames.extend_from_slice(request.frame);
                outgoing.expects.push(expect);
            }
            (Way::Send, _) => {
                outgoing.frames.extend_from_slice(request.frame);
                outgoing.expects.push(Expect::Any);
            }
        }
        let total = match effect {
            Effect::Rewritten { total, .. } => total,
            _ => command.is_total(request),
        };
        outgoing.boundaries.extend(self.boundary(outgoing.db, command, request, effect, total));
        outgoing.sourced |= command.is_sourced(request);
        outgoing.total = total;
        false
    }

    /// Appends a block's effects as one block; a single one needs none around it (H60).
    pub(super) fn send_outgoing(&mut self, mut outgoing: Outgoing, ack: Option<(SessionId, u64)>) -> bool {
        if outgoing.expects.is_empty() {
            return false;
        }
        let position = self.next_position();
        for boundary in std::mem::take(&mut outgoing.boundaries) {
            self.push_boundary(outgoing.db, boundary, position);
        }
        let now = self.now.us;
        let id = LaneId::shared(self.mirror_side(), outgoing.db);
        let Outgoing { frames, expects, sourced, total, .. } = outgoing;
        if let Some(lane) = self.lane_mut(id) {
            lane.sourced += usize::from(sourced);
            if let [expect] = expects[..] {
                lane.push(&[&frames], What::Effect(EffectFlight { position, expect, total, sourced, ack }), 1, now);
            } else {
                let replies = expects.len() as u32 + 2;
                let parts: [&[u8]; 3] = [b"*1\r\n$5\r\nMULTI\r\n", &frames, b"*1\r\n$4\r\nEXEC\r\n"];
                lane.push(&parts, What::EffectBlock(Box::new(EffectBlock { position, expects, sourced, ack })), replies, now);
            }
        }
        self.touch_lane(id);
        ack.is_some()
    }

    /// Decides what becomes of an effect, and notes what follows for ledger and knowledge.
    fn way(&mut self, db: Db, command: &'static Command, request: &Request<'_>, effect: Effect, ack: Option<(SessionId, u64)>) -> Way {
        if effect == Effect::Nothing {
            return Way::Done(false);
        }
        if !self.record.mirroring {
            // When mirroring begins, a scan must look into every database that has keys by then.
            let numbers: &[usize] = match command.rule {
                Rule::SwapDb => &[1, 2],
                Rule::Move => &[2],
                Rule::Copy => &[4, 5],
                _ => &[],
            };
            for db in numbers.iter().filter_map(|at| parse_integer(request.arg(*at))) {
                self.note_keyspace(db as Db);
            }
            return Way::Done(false);
        }
        if self.settings.flush_policy(command.rule) == super::FlushPolicy::Alarm {
            self.primary_lost_data(&format!("a client sent {}, which the policy does not mirror", command.name));
            return Way::Done(false);
        }
        let total = match effect {
            Effect::Keyless { once } => return self.keyless(db, command, request, once),
            Effect::FlushDb => return self.flush_db(db, ack),
            Effect::Image => return Way::Done(self.image_written(db, command, request, ack)),
            Effect::Hint => return self.hint(db, command, request),
            Effect::Replay(_) => command.is_total(request),
            Effect::Rewritten { total, .. } => total,
            Effect::Nothing => true,
        };
        self.note_volatile(db, command, request);
        if let Some(cause) = self.mirror_refuses(db) {
            command.keys(request).filter(|key| key.used.writes()).for_each(|key| self.mark_dirty(db, key.name, cause, self.position));
            return Way::Done(false);
        }
        let unknown = matches!(effect, Effect::Replay(_)) && !self.sides[self.mirror_side().index()].knows(command);
        // SET with KEEPTTL keeps what the mirror holds: it overwrites, and needs the key to be equal all the same.
        let keeps = !total && command.rule == Rule::Set;
        let doubtful =
            !total && command.keys(request).any(|key| (keeps || key.used != KeyUse::Overwrite) && self.is_doubtful(db, key.name));
        if doubtful || unknown || (self.ambiguous && !total) {
            return Way::Done(self.image_written(db, command, request, ack));
        }
        let aside = |key: &[u8]| self.ledger.state(db, key) == Some(State::Unmirrorable);
        if request.frame.len() >= limits::BULK_BYTES_CERTAIN
            && self.ledger.unmirrorable() > 0
            && command.keys(request).any(|key| aside(key.name))
        {
            // It would break the mirror's connection again; something smaller, or a deletion, ends it.
            return Way::Done(false);
        }
        if let Some(key) = command.lone_written(request) {
            if total || (command.overwrites() && !keeps) {
                self.replaced(db, key);
            }
            return Way::Send;
        }
        for key in command.keys(request) {
            if (key.used == KeyUse::Overwrite && !keeps) || (total && key.used.writes()) {
                self.replaced(db, key.name);
            }
        }
        Way::Send
    }

    /// The key is replaced or deleted as a whole at this position: that heals it, unless an image is under way, which comes later.
    fn replaced(&mut self, db: Db, key: &[u8]) {
        self.drop_copy(db, key);
        match self.ledger.state(db, key) {
            Some(State::Dirty) => self.ledger.remove(db, key),
            Some(State::Unmirrorable) => {
                self.ledger.remove(db, key);
                self.clear_alarm(&unmirrorable(db, key));
            }
            Some(State::Asked | State::Restoring(_)) | None => {}
        }
        self.synced.insert(db, key);
    }

    pub(super) fn note_volatile(&mut self, db: Db, command: &Command, request: &Request<'_>) {
        let may = match command.rule {
            Rule::Set => request.len() > 3,
            Rule::SetEx | Rule::GetEx | Rule::Expire | Rule::Restore | Rule::Image | Rule::Script => true,
            _ => false,
        };
        if may {
            self.mirror.volatile.insert(db);
        }
    }

    /// Whether a key of this database may have a time to live.
    pub(super) fn may_be_volatile(&self, db: Db) -> bool {
        self.mirror.volatile.contains(&db) || self.sides.iter().any(|side| side.expires.get(&db).copied().unwrap_or(0) > 0)
    }

    /// Images of everything the command wrote. True when at least one is on its way.
    fn image_written(&mut self, db: Db, command: &'static Command, request: &Request<'_>, ack: Option<(SessionId, u64)>) -> bool {
        self.note_volatile(db, command, request);
        let mut keys: Vec<(Db, Arc<[u8]>)> =
            command.keys(request).filter(|key| key.used.writes()).map(|key| (db, key.name.into())).collect();
        let other = |at: usize| parse_integer(request.arg(at)).map(|index| index as Db);
        match command.rule {
            Rule::Move => keys.extend(other(2).map(|to| (to, request.arg(1).into()))),
            Rule::Copy => {
                if let Some(to) = (3..request.len()).find(|at| request.is(*at, "DB")).and_then(|at| other(at + 1)) {
                    keys = vec![(to, request.arg(2).into())];
                }
            }
            _ => {}
        }
        let cause = if self.ambiguous && command.rule != Rule::Script {
            Cause::Reported
        } else if matches!(command.rule, Rule::Script | Rule::Image | Rule::Sort | Rule::GeoRadius | Rule::Move) {
            Cause::Image
        } else {
            Cause::Unsynced
        };
        let mut pending = false;
        for (db, key) in keys {
            self.want_image(db, &key, cause);
            let under_way = matches!(self.ledger.state(db, &key), Some(State::Asked | State::Restoring(_)));
            if let (true, Some(ack)) = (under_way, ack) {
                self.wait_for_image(db, key, ack);
                pending = true;
            }
        }
        pending
    }

    /// A script that was to be repeated on the mirror was not: images of its declared keys are not all of it.
    fn unreplayed(&mut self, db: Db, command: &Command, effect: Effect) {
        if command.rule == Rule::Script && matches!(effect, Effect::Replay(_)) && self.record.mirroring {
            self.doubt_unreplayed(LaneId::shared(self.primary(), db), db);
        }
    }

    /// A reply waits for the key's image under `ack = "both"`.
    pub(super) fn wait_for_image(&mut self, db: Db, key: Arc<[u8]>, ack: (SessionId, u64)) {
        self.mirror.image_acks.entry((db, key)).or_default().push(ack);
    }

    /// Sessions that waited for this key's image need not wait any longer.
    pub(super) fn release_image_acks(&mut self, db: Db, key: &[u8]) {
        if self.mirror.image_acks.is_empty() {
            return;
        }
        for ack in self.mirror.image_acks.remove(&(db, key.into())).unwrap_or_default() {
            self.acknowledge(ack);
        }
    }

    fn hint(&mut self, db: Db, command: &'static Command, request: &Request<'_>) -> Way {
        let doubtful =
            self.ambiguous || self.mirror_refuses(db).is_some() || command.keys(request).any(|key| self.is_doubtful(db, key.name));
        if doubtful { Way::Done(false) } else { Way::Send }
    }

    fn keyless(&mut self, db: Db, command: &'static Command, request: &Request<'_>, once: bool) -> Way {
        match command.rule {
            Rule::FlushAll => self.flush_all(),
            Rule::SwapDb => self.swap_db(request),
            Rule::Publish if !self.settings.publish => Way::Done(false),
            _ if once || command.class == crate::command::Class::Keyless => {
                let away = self.mirror_refuses(db).is_some();
                if away || !self.sides[self.mirror_side().index()].knows(command) { Way::Done(false) } else { Way::Send }
            }
            _ => {
                let frame = request.frame.to_vec();
                self.push_barrier(Barrier { frame, replies: 1, repeatable: true, databases: vec![], flushes: false });
                Way::Done(false)
            }
        }
    }

    fn flush_db(&mut self, db: Db, ack: Option<(SessionId, u64)>) -> Way {
        self.flushed(db);
        if self.mirror_refuses(db).is_some() {
            self.mirror.owed_flush.insert(db);
            return Way::Done(false);
        }
        self.send_flush(db, ack);
        Way::Done(ack.is_some())
    }

    /// A database was emptied on the primary: what was known and doubted of it has no meaning any more.
    fn flushed(&mut self, db: Db) {
        self.end_copies(|copied| copied == db);
        self.forget_resting(|emptied| emptied == db);
        self.ledger.flush(db);
        self.drop_spilled(db);
        self.synced.forget(db);
        self.synced.set_whole(db);
        self.scans.cancel(db);
        self.verify_emptied(db);
    }

    fn send_flush(&mut self, db: Db, ack: Option<(SessionId, u64)>) {
        let position = self.next_position();
        let (now, mark) = (self.now.us, self.mirror_mark());
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"FLUSHDB"]);
        let id = LaneId::shared(self.mirror_side(), db);
        self.note_sent(db, None);
        let Some(lane) = self.lane_mut(id) else { return };
        if db == 0 {
            push_request(&mut frame, &[b"SET", RECORD_KEY, &mark]);
            let parts: [&[u8]; 3] = [b"*1\r\n$5\r\nMULTI\r\n", &frame, b"*1\r\n$4\r\nEXEC\r\n"];
            let block = EffectBlock { position, expects: vec![Expect::Any; 2], sourced: false, ack };
            lane.push(&parts, What::EffectBlock(Box::new(block)), 4, now);
        } else {
            let flight = EffectFlight { position, expect: Expect::Any, total: true, sourced: false, ack };
            lane.push(&[&frame], What::Effect(flight), 1, now);
        }
        self.touch_lane(id);
    }

    fn flush_all(&mut self) -> Way {
        self.forget_resting(|_| true);
        for db in 0..limits::DATABASES_MAX as Db {
            self.flushed(db);
        }
        self.mirror.owed_flush.clear();
        let mut frame = b"*1\r\n$5\r\nMULTI\r\n".to_vec();
        push_request(&mut frame, &[b"FLUSHALL"]);
        push_request(&mut frame, &[b"SET", RECORD_KEY, &self.mirror_mark()]);
        push_request(&mut frame, &[b"EXEC"]);
        self.push_barrier(Barrier { frame, replies: 4, repeatable: true, databases: vec![], flushes: true });
        Way::Done(false)
    }

    fn swap_db(&mut self, request: &Request<'_>) -> Way {
        let (Some(a), Some(b)) = (parse_integer(request.arg(1)), parse_integer(request.arg(2))) else { return Way::Done(false) };
        let (a, b) = (a as Db, b as Db);
        self.clear_wreck();
        self.swap_zombies(a, b);
        let scripted = self.is_unreported(a) || self.is_unreported(b);
        self.note_keyspace(a);
        self.note_keyspace(b);
        self.swap_scripted(a, b);
        self.end_copies(|db| db == a || db == b);
        self.forget_resting(|db| db == a || db == b);
        self.swap_spilled(a, b);
        self.ledger.swap(a, b);
        self.renumber_doubts([a, b]);
        self.synced.swap(a, b);
        self.scans.swap(a, b);
        self.verify_swapped(a, b);
        self.intents.distrust(&[a, b]);
        let acks = std::mem::take(&mut self.mirror.image_acks);
        self.mirror.image_acks = acks.into_iter().map(|((db, key), waiting)| ((swapped(db, a, b), key), waiting)).collect();
        let (owes_a, owes_b) = (self.mirror.owed_flush.remove(&a), self.mirror.owed_flush.remove(&b));
        self.mirror.owed_flush.extend([(owes_a, b), (owes_b, a)].into_iter().filter(|(owes, _)| *owes).map(|(_, db)| db));
        let mut frame = b"*1\r\n$5\r\nMULTI\r\n".to_vec();
        push_request(&mut frame, &[b"DEL", RECORD_KEY]);
        push_request(&mut frame, &[b"SWAPDB", &number(i64::from(a)), &number(i64::from(b))]);
        push_request(&mut frame, &[b"SET", RECORD_KEY, &self.mirror_mark()]);
        push_request(&mut frame, &[b"EXEC"]);
        self.push_barrier(Barrier { frame, replies: 5, repeatable: false, databases: vec![a, b], flushes: false });
        if scripted {
            // What a script wrote is reported without its database, and not at all where the same transaction wrote a key of that name behind it.
            self.unsync(&[a, b], WideCause::Script);
        }
        Way::Done(false)
    }

    /// The name that a database of the mirror's lanes has in ledger and knowledge: those have gone through a SWAPDB already that still
    /// waits behind what is in flight on the mirror (H35).
    pub(super) fn db_now(&self, db: Db) -> Db {
        self.mirror.barriers.iter().fold(db, |db, barrier| match barrier.databases[..] {
            [a, b] => swapped(db, a, b),
            _ => db,
        })
    }

    /// The primary's function libraries go to the mirror, behind what waits for it already.
    pub(super) fn push_libraries(&mut self, frame: Vec<u8>, replies: u32) {
        self.push_barrier(Barrier { frame, replies, repeatable: true, databases: vec![], flushes: false });
    }

    fn push_barrier(&mut self, barrier: Barrier) {
        if self.mirror.barriers.len() >= limits::MIRROR_BARRIERS_MAX {
            self.alarm(TOO_MANY_BARRIERS);
            return self.unsync(&barrier.databases, WideCause::Barrier);
        }
        self.mirror.barriers.push_back(barrier);
        // It waits for all that is in flight.
        self.hurry_mirror();
    }

    /// These databases (all, when none is named) are in doubt as a whole. Keys that only the mirror has go too, if the cause may have left
    /// some there that were the proxy's own.
    pub(super) fn unsync(&mut self, databases: &[Db], cause: WideCause) {
        let named = !databases.is_empty();
        // FLUSHALL names every number that a database may have: one that no side has can never be walked.
        let there = self.sides.iter().map(|side| side.databases).max().unwrap_or(0);
        let databases: Vec<Db> = databases.iter().copied().filter(|db| usize::from(*db) < there).collect();
        if named && databases.is_empty() {
            return;
        }
        let databases = databases.as_slice();
        self.note_gap();
        if self.lost.is_some() && matches!(cause, WideCause::Overflow | WideCause::Barrier | WideCause::Script) {
            self.alarm_unnamed(cause.word());
        }
        self.wide.note(databases, cause, self.now.unix_ms);
        let extras = self.settings.new_data == super::NewData::Ours && !cause.leaves_extras();
        if databases.is_empty() && extras {
            self.settle_evictions();
        }
        let all: Vec<Db> = if databases.is_empty() { (0..limits::DATABASES_MAX as Db).collect() } else { databases.to_vec() };
        for db in &all {
            self.synced.forget(*db);
        }
        self.end_copies(|db| all.contains(&db));
        self.intents.distrust(&all);
        if databases.is_empty() { self.scans.want_all(extras) } else { databases.iter().for_each(|db| self.scans.want(*db, extras)) }
    }

    /// Nobody knows all that clients wrote since the primary lost its data and the mirror has not confirmed.
    pub(super) fn alarm_unnamed(&mut self, why: &str) {
        let mirror = self.mirror_side();
        self.alarm(&format!("{UNNAMED_SINCE_LOSS} cannot all be named ({why}): a forced cutover may miss some of them on `{mirror}`"));
    }

    /// The mirror has lost keys too: while a loss of the primary waits for the operator's word, it is not what a forced flip would go on from.
    pub(super) fn alarm_lessened(&mut self) {
        if self.lost.is_some() {
            let mirror = self.mirror_side();
            self.alarm(&format!(
                "{UNNAMED_SINCE_LOSS}, and older ones, may be missing on `{mirror}`, which has lost data too: look at it before a forced cutover"
            ));
        }
    }

    /// Barriers and owed flushes go to the mirror when nothing else is in flight there; the queue's bounds are left again.
    pub(super) fn pump_mirror(&mut self) -> bool {
        let side = self.mirror_side();
        if !self.sides[side.index()].is_up() {
            return false;
        }
        let idle = self.sides[side.index()].is_idle();
        if self.mirror.mode == Mode::Collapsing && idle {
            self.mirror.mode = Mode::Following;
            self.log(false, format!("`{side}` has caught up: repairing what was left out"));
            return true;
        }
        if self.mirror.mode != Mode::Following || !idle || self.mirror.barrier_sent || !self.record.mirroring {
            return false;
        }
        let home = LaneId::shared(side, 0);
        if !self.lane(home).is_some_and(super::lane::Lane::is_open) {
            return false;
        }
        if let Some(barrier) = self.mirror.barriers.front() {
            let (frame, replies, now) = (barrier.frame.clone(), barrier.replies, self.now.us);
            let databases = if barrier.flushes { (0..limits::DATABASES_MAX as Db).collect() } else { barrier.databases.clone() };
            self.mirror.barrier_sent = true;
            databases.into_iter().for_each(|db| self.note_sent(db, None));
            if let Some(lane) = self.lane_mut(home) {
                lane.push(&[&frame], What::Barrier, replies, now);
            }
            // Its own mark is as old as the command.
            self.push_mark(side);
            self.touch_lane(home);
            return true;
        }
        let Some(db) = self.payable_flush() else { return false };
        if !self.lane(LaneId::shared(side, db)).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(LaneId::shared(side, db));
            return false;
        }
        // Nothing that came behind the flush was sent, so it may be sent late, and even twice.
        self.mirror.owed_flush.remove(&db);
        self.send_flush(db, None);
        true
    }

    pub(super) fn confirm_barrier(&mut self, reply: Reply<'_>, failed: Option<&[u8]>) {
        self.mirror.barrier_sent = false;
        let error =
            failed.map(Reply).or_else(|| reply.is_error().then_some(reply)).or_else(|| reply.elements().find(|element| element.is_error()));
        if let Some(error) = error {
            // Who may not do this may do the rest.
            if error.error_word() != Some(b"NOPERM") && self.side_refusal(error) {
                return;
            }
            let text = String::from_utf8_lossy(error.text()).into_owned();
            self.alarm(&format!("`{}` refused a whole-database command: {text}", self.mirror_side()));
            if let Some(barrier) = self.mirror.barriers.front().filter(|barrier| barrier.flushes || !barrier.databases.is_empty()) {
                let databases = barrier.databases.clone();
                self.unsync(&databases, WideCause::Barrier);
            }
        }
        let done = self.mirror.barriers.pop_front();
        // The mirror's own list of databases may have been read before this ran.
        done.iter().flat_map(|barrier| &barrier.databases).for_each(|db| self.note_keyspace(*db));
    }

    /// The mirror answered an effect.
    pub(super) fn confirm(&mut self, id: LaneId, effect: &EffectFlight, frame: &[u8], reply: Reply<'_>, failed: Option<&[u8]>, at: u64) {
        if let Some(lane) = self.lane_mut(id) {
            lane.sourced -= usize::from(effect.sourced);
        }
        self.totals.effects += 1;
        let accepted = failed.is_none() && effect.expect.accepts(reply);
        if !accepted {
            self.refused(id, frame, effect.position, failed.map_or(reply, Reply));
        } else if !effect.total && self.is_late(id.db, at) {
            self.doubt_frame(id, frame, Cause::Late, effect.position);
        }
        if let Some(ack) = effect.ack {
            self.acknowledge(ack);
        }
    }

    /// The mirror answered a block of effects.
    pub(super) fn confirm_block(
        &mut self,
        id: LaneId,
        block: &EffectBlock,
        frame: &[u8],
        reply: Reply<'_>,
        failed: Option<&[u8]>,
        at: u64,
    ) {
        if let Some(lane) = self.lane_mut(id) {
            lane.sourced -= usize::from(block.sourced);
        }
        self.totals.effects += 1;
        let wrong = match failed {
            Some(error) => Some(Reply(error)),
            None if !reply.is_aggregate() => Some(reply),
            None => reply.elements().zip(&block.expects).find(|(element, expect)| !expect.accepts(*element)).map(|(element, _)| element),
        };
        if let Some(wrong) = wrong {
            self.refused(id, frame, block.position, wrong);
        } else if self.is_late(id.db, at) {
            self.doubt_frame(id, frame, Cause::Late, block.position);
        }
        if let Some(ack) = block.ack {
            self.acknowledge(ack);
        }
    }

    /// Confirmed so late that the mirror's clock may have ended the key before the effect came (H2).
    fn is_late(&self, db: Db, at: u64) -> bool {
        self.now.us.saturating_sub(at) > self.settings.expiry_margin_ms as u64 * 1000 && self.may_be_volatile(db)
    }

    fn refused(&mut self, id: LaneId, frame: &[u8], position: u64, reply: Reply<'_>) {
        let side = reply.is_error() && self.side_refusal(reply);
        self.mirror.culprit_known |= is_protocol_error(reply);
        if !side {
            each_request(frame, |command, _| {
                if command.writes() {
                    self.totals.mismatches[command.index] += 1;
                }
            });
        }
        if self.settings.faults.no_dirty {
            return;
        }
        self.doubt_frame(id, frame, if side { Cause::MirrorRefuses } else { Cause::Mismatch }, position);
    }

    /// Every key that a frame on the mirror writes is doubtful, and what later effects made of them. It is noted when the frame
    /// is back on its tape.
    fn doubt_frame(&mut self, id: LaneId, frame: &[u8], cause: Cause, position: u64) {
        self.doubts.push((id, frame.to_vec(), cause, position));
    }

    /// Doubt is contagious: effects that are already on the way and read a doubtful key make what they write doubtful (H13).
    pub(super) fn spread(&mut self, id: LaneId, mut doubtful: HashSet<Vec<u8>>) {
        if self.settings.faults.no_contagion {
            return;
        }
        let Some(lane) = self.lane(id).filter(|lane| lane.sourced > 0) else { return };
        let mut infected: Vec<(Vec<u8>, u64)> = Vec::new();
        // The frame being confirmed is not released yet, so the flights' frames begin behind it.
        let total: u64 = lane.in_flight.iter().map(|flight| u64::from(flight.len)).sum();
        let mut at = lane.tape.end() - total;
        for flight in &lane.in_flight {
            let position = match &flight.what {
                What::Effect(effect) if effect.sourced => Some(effect.position),
                What::EffectBlock(block) if block.sourced => Some(block.position),
                _ => None,
            };
            if let Some(position) = position {
                each_request(lane.tape.frame(at, flight.len), |command, request| {
                    let reads = command.keys(request).any(|key| key.used != KeyUse::Overwrite && doubtful.contains(key.name));
                    for key in command.keys(request).filter(|key| reads && key.used.writes()) {
                        if doubtful.insert(key.name.to_vec()) {
                            infected.push((key.name.to_vec(), position));
                        }
                    }
                });
            }
            at += u64::from(flight.len);
        }
        for (key, position) in infected {
            self.mark_dirty(self.db_now(id.db), &key, Cause::Contagion, position);
        }
    }

    /// The position of a doubt that no client's command has just made. While a loss of the primary waits for the operator's word it is as old as
    /// the loss: the mirror's copy may be the better one (H12).
    pub(super) fn doubt_position(&mut self) -> u64 {
        self.lost.unwrap_or_else(|| self.next_position())
    }

    /// Notes a dirty key, within the bound: past it the database is in doubt as a whole.
    pub(super) fn mark_dirty(&mut self, db: Db, key: &[u8], cause: Cause, position: u64) {
        if !self.record.mirroring {
            return;
        }
        self.note_keyspace(db);
        // What happened on the mirror alone is healed by the copy's end; anything else is a write between its pieces.
        if !matches!(cause, Cause::Mismatch | Cause::Late | Cause::Contagion | Cause::Verifier | Cause::Extra) {
            self.disturb_copy(db, key);
        }
        let slack = if self.can_spill() { limits::SPILL_SLACK_KEYS } else { 0 };
        if self.ledger.len() >= self.settings.dirty_keys_max + slack && self.ledger.get(db, key).is_none() {
            self.alarm("more dirty keys than the bound `mirror.dirty_keys_max`: databases are copied anew");
            self.ledger.collapse(db);
            self.drop_spilled(db);
            return self.unsync(&[db], WideCause::Overflow);
        }
        self.note_dirty(db, key, cause, position);
    }

    /// Notes a dirty key that a scan found: scans have a bound of their own (`SCAN_AHEAD_MAX` and a page), and the other one
    /// would have them begin anew for ever.
    pub(super) fn note_dirty(&mut self, db: Db, key: &[u8], cause: Cause, position: u64) {
        if matches!(cause, Cause::InDoubt | Cause::MirrorReplyLost) {
            self.note_zombie(db, key);
        }
        if self.ledger.mark(db, key, cause, position, self.now.unix_ms) {
            self.note_doubt(db, key);
            self.totals.dirty[cause as usize] += 1;
        }
    }

    /// A connection that is gone may still write the key, should it not be dead there (H1).
    fn note_zombie(&mut self, db: Db, key: &[u8]) {
        if self.zombies.len() < limits::ZOMBIE_KEYS_MAX {
            self.zombies.push((db, key.into()));
        }
    }

    /// Such a connection may have written before a SWAPDB or may write behind it: the key is doubted by both names.
    fn swap_zombies(&mut self, a: Db, b: Db) {
        let renamed = self.zombies.iter().filter(|(db, _)| *db == a || *db == b).map(|(db, key)| (swapped(*db, a, b), key.clone()));
        let room = limits::ZOMBIE_KEYS_MAX.saturating_sub(self.zombies.len());
        let renamed: Vec<(Db, Box<[u8]>)> = renamed.take(room).collect();
        self.zombies.extend(renamed);
    }

    /// A refusal of the whole side pauses the mirror (H27). False when the error speaks of one key.
    pub(super) fn side_refusal(&mut self, error: Reply<'_>) -> bool {
        const SIDE: [&[u8]; 10] =
            [b"OOM", b"READONLY", b"MISCONF", b"NOREPLICAS", b"LOADING", b"MASTERDOWN", b"BUSY", b"NOAUTH", b"NOPERM", b"CLUSTERDOWN"];
        // A block that was refused at queue time says why in the reply that came first; EXECABORT follows. Refused at EXEC it says so there
        // (multi.c execCommandAbort).
        let text = error.text();
        let why = text.strip_prefix(b"EXECABORT Transaction discarded because of: ").unwrap_or(text);
        let word = why.split(|byte| *byte == b' ').next().unwrap_or_default();
        if !error.is_error() || !SIDE.contains(&word) {
            return false;
        }
        let cause = String::from_utf8_lossy(word).into_owned();
        *self.totals.refusals.entry(cause.clone()).or_default() += 1;
        if !matches!(self.mirror.mode, Mode::Paused { .. }) {
            let text = String::from_utf8_lossy(text).into_owned();
            self.log(true, format!("`{}` refuses writes: {text}; effects become dirty keys until it accepts again", self.mirror_side()));
            self.mirror.mode = Mode::Paused { cause, trial_at: self.now.us + 1_000_000 };
        }
        true
    }

    pub(super) fn confirm_trial(&mut self, reply: Reply<'_>) {
        if reply.is_error() {
            return;
        }
        if matches!(self.mirror.mode, Mode::Paused { .. }) {
            self.mirror.mode = Mode::Collapsing;
            self.log(false, format!("`{}` accepts writes again", self.mirror_side()));
        }
    }

    /// Bounds of bytes and age, trials of a refusing mirror.
    pub(super) fn tick_mirror(&mut self) {
        let side = self.mirror_side();
        let now = self.now.us;
        if !self.record.mirroring || !self.sides[side.index()].is_up() {
            return;
        }
        let (bytes, age) = self.mirror_queue();
        match &mut self.mirror.mode {
            Mode::Following if bytes > self.settings.queue_bytes_max || age > self.settings.queue_age_max_us => {
                self.mirror.mode = Mode::Collapsing;
                self.log(
                    true,
                    format!("`{side}` is behind ({bytes} bytes, {} ms): effects become dirty keys until it catches up", age / 1000),
                );
            }
            Mode::Paused { trial_at, cause } if now >= *trial_at => {
                *trial_at = now + 1_000_000;
                let full = cause == "OOM";
                if full {
                    self.empty_full_mirror();
                }
                let mark = self.mirror_mark();
                let home = LaneId::shared(side, 0);
                if let Some(lane) = self.lane_mut(home).filter(|lane| lane.is_open()) {
                    let mut frame = Vec::new();
                    push_request(&mut frame, &[b"SET", RECORD_KEY, &mark]);
                    lane.push(&[&frame], What::Trial, 1, now);
                }
                self.touch_lane(home);
            }
            _ => {}
        }
    }

    /// A full mirror takes nothing but what makes room, and queues nothing in a transaction: what is to empty it is sent alone, and its mark
    /// behind it, as the trial.
    fn empty_full_mirror(&mut self) {
        let side = self.mirror_side();
        if !self.sides[side.index()].is_idle() || self.mirror.barrier_sent {
            return;
        }
        let (now, home) = (self.now.us, LaneId::shared(side, 0));
        match self.mirror.barriers.front() {
            Some(barrier) if barrier.flushes && self.lane(home).is_some_and(super::lane::Lane::is_open) => {
                self.mirror.barrier_sent = true;
                (0..limits::DATABASES_MAX as Db).for_each(|db| self.note_sent(db, None));
                if let Some(lane) = self.lane_mut(home) {
                    lane.push(&[b"*1\r\n$8\r\nFLUSHALL\r\n"], What::Barrier, 1, now);
                }
            }
            Some(_) => {}
            None => {
                let open = |db: &Db| self.lane(LaneId::shared(side, *db)).is_some_and(super::lane::Lane::is_open);
                let Some(db) = self.mirror.owed_flush.iter().copied().find(open) else { return };
                self.mirror.owed_flush.remove(&db);
                let (position, id) = (self.next_position(), LaneId::shared(side, db));
                self.note_sent(db, None);
                let flight = EffectFlight { position, expect: Expect::Any, total: true, sourced: false, ack: None };
                if let Some(lane) = self.lane_mut(id) {
                    lane.push(&[b"*1\r\n$7\r\nFLUSHDB\r\n"], What::Effect(flight), 1, now);
                }
                self.touch_lane(id);
            }
        }
    }

    /// Bytes towards the mirror that are not confirmed, and the age of the oldest.
    pub(super) fn mirror_queue(&self) -> (usize, u64) {
        let lanes = self.sides[self.mirror_side().index()].lanes();
        lanes.fold((0, 0), |(bytes, age), (_, lane)| (bytes + lane.tape.held_bytes(), age.max(lane.age(self.now.us))))
    }

    /// Effects sent or waiting that the mirror has not confirmed.
    pub(super) fn mirror_effects(&self) -> usize {
        self.sides[self.mirror_side().index()].lanes().map(|(_, lane)| lane.effects()).sum::<usize>() + self.mirror.barriers.len()
    }

    fn mirror_mark(&self) -> Vec<u8> {
        self.mark(self.mirror_side())
    }

    /// Something that must reach the mirror before it is in step, and is no key.
    pub(super) fn mirror_owes(&self) -> bool {
        !self.mirror.barriers.is_empty() || !self.mirror.owed_flush.is_empty()
    }

    /// Whether the mirror has other names for databases than ledger and knowledge: a SWAPDB waits for it.
    pub(super) fn mirror_is_to_swap(&self) -> bool {
        self.mirror.barriers.iter().any(|barrier| barrier.databases.len() == 2)
    }

    /// Whether something of what the mirror owes can be sent; a database whose lane cannot be opened holds nobody else up.
    pub(super) fn mirror_can_pay(&self) -> bool {
        !self.mirror.barriers.is_empty() || self.payable_flush().is_some()
    }

    fn payable_flush(&self) -> Option<Db> {
        self.mirror.owed_flush.iter().copied().find(|db| !lacks_lane(&self.sides, *db))
    }

    /// A reply has waited too long for the mirror: it is delivered, or its connection is closed. Its effect is queued as before (I4).
    pub(super) fn ack_missed(&mut self, id: SessionId, number: u64) {
        if matches!(self.settings.ack, Ack::Both { strict: true, .. }) {
            self.close_unacknowledged(id);
        } else {
            self.acknowledge((id, number));
        }
    }

    /// The mirror's connection is gone before it answered this request; `id` is the lane's.
    pub(super) fn lose_in_flight(&mut self, id: LaneId, what: &What, frame: &[u8]) {
        match what {
            What::Effect(_) | What::EffectBlock(_) => self.lose_effect(self.db_now(id.db), what, frame),
            What::Restore(super::image::Image { key, .. }) => {
                let db = self.db_now(id.db);
                self.ledger.set_state(db, key, State::Dirty);
                self.note_zombie(db, key);
                self.release_image_acks(db, key);
            }
            What::Piece(piece) => self.note_zombie(self.db_now(id.db), &piece.key),
            What::Barrier => self.lose_barrier(),
            What::ScanExtras(_) => self.scans.lost_page(id.db),
            What::Client { session, .. } => self.lose_elsewhere(*session, id.side),
            What::ScriptLoad(name) | What::ScriptExists(name) => self.lose_script(name),
            What::Verify(reading) => self.lose_verify(reading),
            What::Shadow(read) => self.lose_shadow(read),
            What::Track(_)
            | What::Sync
            | What::Functions
            | What::Boundary(_)
            | What::Block(_)
            | What::ImageRead { .. }
            | What::ImageSize { .. }
            | What::CopyRead(_)
            | What::FieldsRead { .. }
            | What::ScanPage(_)
            | What::ScanKeys { .. }
            | What::Mark(_)
            | What::Census
            | What::Trial
            | What::Watch(_)
            | What::Handover(_)
            | What::Ask(_)
            | What::Subscription(_)
            | What::Position(_)
            | What::Learn(_)
            | What::Tracking(_)
            | What::FeedSelect(..)
            | What::Remember(_)
            | What::Leave(_)
            | What::Silent
            | What::Attempt(_)
            | What::LastId { .. }
            | What::Look(_) => {}
        }
    }

    /// The mirror's connection is gone before it confirmed this effect; `db` is its database's name in the ledger.
    pub(super) fn lose_effect(&mut self, db: Db, what: &What, frame: &[u8]) {
        let (position, ack) = match what {
            What::Effect(effect) => (effect.position, effect.ack),
            What::EffectBlock(block) => (block.position, block.ack),
            _ => return,
        };
        let mut others = false;
        // There may be ten thousand of them, nearly all with one key.
        each_request(frame, |command, request| match command.lone_written(request) {
            Some(key) if key.starts_with(super::RESERVED_PREFIX) => {}
            Some(key) => self.mark_dirty(db, key, Cause::MirrorReplyLost, position),
            None => others = true,
        });
        if others {
            self.doubt_written(db, frame, Cause::MirrorReplyLost, position);
        }
        if let Some(ack) = ack {
            self.acknowledge(ack);
        }
    }

    fn lose_barrier(&mut self) {
        self.mirror.barrier_sent = false;
        if self.mirror.barriers.front().is_some_and(|barrier| !barrier.repeatable)
            && let Some(barrier) = self.mirror.barriers.pop_front()
        {
            self.log(true, "a SWAPDB may or may not have run on the mirror: its databases are copied anew");
            self.unsync(&barrier.databases, WideCause::Barrier);
        }
    }

    /// Keys that a frame writes, without what followed from them.
    fn doubt_written(&mut self, db: Db, frame: &[u8], cause: Cause, position: u64) -> HashSet<Vec<u8>> {
        let mut doubtful: HashSet<Vec<u8>> = HashSet::new();
        let (mut flushes, mut scripted) = (false, false);
        each_request(frame, |command, request| {
            flushes |= command.rule == Rule::FlushDb;
            scripted |= command.rule == Rule::Script;
            let keys = command.keys(request).filter(|key| key.used.writes() && !key.name.starts_with(super::RESERVED_PREFIX));
            keys.for_each(|key| {
                doubtful.insert(key.name.to_vec());
            });
        });
        match cause {
            _ if !flushes => {}
            // It ran, late; a second one would empty what came behind it.
            Cause::Late => {}
            // Nothing that was sent behind it counts as applied, so it may be sent again.
            Cause::MirrorReplyLost => {
                self.mirror.owed_flush.insert(db);
            }
            // It was refused, and what came behind it was not.
            _ => self.unsync(&[db], WideCause::Barrier),
        }
        if scripted {
            // A replayed script: nobody knows which keys it writes.
            self.unsync(&[db], WideCause::Script);
        }
        for key in &doubtful {
            self.mark_dirty(db, key, cause, position);
        }
        doubtful
    }

    /// The keys of the request that stood first when the mirror's connection was lost: if the same ones stand first again, they
    /// are what breaks it, and are set aside.
    pub(super) fn suspect(&mut self, db: Db, what: &What, frame: &[u8]) {
        if std::mem::take(&mut self.mirror.culprit_known) {
            // The mirror said which request it would not take before it closed; the one behind that is innocent.
            return;
        }
        let mut keys: Vec<(Db, Arc<[u8]>)> = Vec::new();
        if let What::Piece(piece) = what {
            keys.push((db, piece.key.clone()));
        } else if !matches!(what, What::Mark(_) | What::Trial | What::Barrier) {
            each_request(frame, |command, request| {
                keys.extend(command.keys(request).filter(|key| key.used.writes()).map(|key| (db, key.name.into())));
            });
        }
        for (db, key) in &keys {
            if self.mirror.suspects.contains(&(*db, key.clone())) && self.ledger.get(*db, key).is_some() {
                self.ledger.set_state(*db, key, State::Unmirrorable);
                self.alarm(&format!("{} breaks the mirror's connection: it is set aside", unmirrorable(*db, key)));
            }
        }
        if !keys.is_empty() {
            self.mirror.suspects = keys;
        }
    }

    /// Roles moved, or the mirror came back as another: what was under way has no meaning.
    pub(super) fn reset_mirror(&mut self) {
        self.expiry.delay_max_us = 0;
        self.mirror = Mirror { volatile: std::mem::take(&mut self.mirror.volatile), ..Mirror::default() };
    }

    /// Doubts that were found while a frame was lent out.
    pub(super) fn settle_doubts(&mut self) {
        for (id, frame, cause, position) in std::mem::take(&mut self.doubts) {
            let doubtful = self.doubt_written(self.db_now(id.db), &frame, cause, position);
            self.spread(id, doubtful);
        }
    }
}

pub(super) fn swapped(db: Db, a: Db, b: Db) -> Db {
    match db {
        db if db == a => b,
        db if db == b => a,
        db => db,
    }
}

/// How alarms about a key that cannot be mirrored begin.
pub(super) fn unmirrorable(db: Db, key: &[u8]) -> String {
    format!("key \"{}\" of database {db}", crate::keyname::shown(key))
}

/// The server closes the connection behind this reply (networking.c setProtocolError).
pub(super) fn is_protocol_error(reply: Reply<'_>) -> bool {
    reply.is_error() && reply.text().starts_with(b"ERR Protocol error")
}
