//! Connections to the two endpoints that come and go.
//!
//! The hard case is a connection that is closed here and not dead there: what it sent may run after its successor has read the
//! key. So a side comes up only when its earlier connections have been killed by id (H1); all lanes of a side, once
//! open, live and die together (H4); and what was in flight on the primary is nobody's guess: sessions with a write in flight are closed after the
//! replies that did come, as a dying server would close them, and the keys are in doubt (H19).

use super::intents::{Written, written_by};
use super::lane::{Lane, LaneId, LaneInfo, LaneState, Role, What};
use super::mirror::UNNAMED_SINCE_LOSS;
use super::opening::Unopened;
use super::own::{Own, Use, asker};
use super::pair::Memory;
use super::reply::each_request;
use super::session::SessionId;
use super::transaction::Element;
use super::{Action, Now, Sequencer};
use crate::command::{Command, Rule, Table};
use crate::doubt::{Cause, WideCause};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::reply::Reply;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What the shell found when it connected a side.
#[derive(Debug, Clone, Default)]
pub struct SideUp {
    /// `run_id` of the server process.
    pub run_id: String,
    /// For people: `7.0.15`, `valkey 8.1.8`.
    pub version: String,
    /// Major version of the Redis it says it is.
    pub major: u32,
    /// Stream consumers are created even when nothing was read (7.2 and later, all of Valkey).
    pub eager_consumers: bool,
    /// Protocol of the lanes, 2 or 3.
    pub resp: u8,
    /// How many databases there are.
    pub databases: usize,
    /// Upper-case names of the commands it has; empty when it does not tell.
    pub commands: Vec<String>,
    /// The line in which the server describes one of our connections: the fields of its CLIENT LIST, in their order.
    pub client_line: String,
    /// By what it evicts keys.
    pub eviction: Eviction,
    /// What the reserved key holds.
    pub mark: Option<Vec<u8>>,
    /// Databases that hold keys, the reserved key left out.
    pub keyspace: Vec<Db>,
    /// All earlier connections were killed, or are known to be dead.
    pub killed: bool,
    /// The lanes that were opened; database 0's is among them.
    pub lanes: Vec<(Db, LaneInfo)>,
    /// Databases whose lane could not be opened, and why. They are tried again.
    pub unopened: Vec<(Db, String)>,
}

/// What the regular look at a side found.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// Why it is not healthy (loading, a replica, no answer); None when it is.
    pub error: Option<String>,
    /// `run_id` of the process that answered, for the shell.
    pub run_id: String,
    /// `evicted_keys` since the process began; None: there was no answer.
    pub evicted_keys: Option<u64>,
    /// Keys with a time to live, per database.
    pub expires: HashMap<Db, u64>,
    /// Keys, per database.
    pub keys: HashMap<Db, u64>,
    /// The side's wall clock less ours, milliseconds; None: it could not be measured.
    pub clock_offset_ms: Option<i64>,
    /// Databases that hold keys, the reserved key left out.
    pub keyspace: Vec<Db>,
    /// Memory of the server.
    pub memory: Memory,
    /// By what it evicts keys.
    pub eviction: Eviction,
    /// Connections that are not this proxy's; None when it was not looked for, or the server does not tell.
    pub bypassing: Option<Bypassing>,
}

/// Connections to a server that bypass the proxy. Replicas and other followers of the server are no clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bypassing {
    /// All of them.
    pub connections: usize,
    /// Those whose last command was PUBLISH or SPUBLISH.
    pub publishers: usize,
    /// Those that are subscribed.
    pub subscribers: usize,
}

/// By what a server that reaches its memory limit chooses the keys that go (`maxmemory-policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Eviction {
    /// By nothing that reading a key changes: none go, or those that end soonest, or any.
    #[default]
    ByNothing,
    /// The longest unused (LRU).
    ByRecency,
    /// The least used (LFU).
    ByFrequency,
}

impl Eviction {
    /// Of `maxmemory_policy` in INFO.
    #[must_use]
    pub fn of_policy(policy: &str) -> Eviction {
        match policy {
            policy if policy.ends_with("-lru") => Eviction::ByRecency,
            policy if policy.ends_with("-lfu") => Eviction::ByFrequency,
            _ => Eviction::ByNothing,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be connected at this time.
    Down(u64),
    Connecting,
    Up,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Side {
    endpoint: Endpoint,
    pub address: String,
    state: State,
    /// Counts connects; what belongs to an older one is ignored.
    pub generation: u64,
    pub down_since: u64,
    pub error: Option<String>,
    run_id: Option<String>,
    pub version: String,
    pub major: u32,
    pub resp: u8,
    pub eager_consumers: bool,
    /// Commands it has that the table does not know, and what was learnt of them.
    pub strangers: HashMap<String, super::learn::Stranger>,
    /// See [`SideUp::client_line`].
    pub client_line: String,
    pub databases: usize,
    /// Per row of the table; None: everything.
    known: Option<Vec<bool>>,
    lanes: Vec<Option<Lane>>,
    /// Lanes that could not be opened, by their slot.
    pub unopened: BTreeMap<usize, Unopened>,
    /// Connections of sessions' own, by their number.
    pub own: BTreeMap<u32, Own>,
    predecessors: Vec<LaneInfo>,
    /// A dead connection could not be killed: it may write until then (H1).
    pub zombies_until: u64,
    pub evicted_keys: Option<u64>,
    /// At the last look it told fewer.
    evicted_fell: bool,
    pub expires: HashMap<Db, u64>,
    /// Keys per database, at the last look.
    pub keys: HashMap<Db, u64>,
    pub clock_offset_ms: i64,
    /// The clock has been read.
    clock_known: bool,
    /// Databases that hold keys.
    pub keyspace: BTreeSet<Db>,
    /// The reserved key is there.
    pub marked: bool,
    /// Who bypasses the proxy there.
    pub bypassing: Bypassing,
    pub memory: Memory,
    /// By what it evicts keys.
    pub eviction: Eviction,
}

impl Side {
    pub fn new(endpoint: Endpoint, address: String) -> Side {
        Side {
            endpoint,
            address,
            state: State::Down(0),
            generation: 0,
            down_since: 0,
            error: None,
            run_id: None,
            version: String::new(),
            major: 7,
            resp: 3,
            eager_consumers: false,
            strangers: HashMap::new(),
            client_line: String::new(),
            databases: 16,
            known: None,
            lanes: Vec::new(),
            unopened: BTreeMap::new(),
            own: BTreeMap::new(),
            predecessors: Vec::new(),
            zombies_until: 0,
            evicted_keys: None,
            evicted_fell: false,
            expires: HashMap::new(),
            keys: HashMap::new(),
            clock_offset_ms: 0,
            clock_known: false,
            keyspace: BTreeSet::new(),
            marked: false,
            bypassing: Bypassing::default(),
            memory: Memory::default(),
            eviction: Eviction::default(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Of the server process it is, or was, connected to.
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    pub fn knows(&self, command: &Command) -> bool {
        self.known.as_ref().is_none_or(|known| known[command.index])
    }

    /// Product and version: `(true, 8, 1)` for Valkey 8.1.
    fn release(&self) -> (bool, u32, u32) {
        let valkey = self.version.starts_with("valkey");
        let mut parts = self.version.rsplit(' ').next().unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
        (valkey, parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Whether the server is as new as this release of Redis, or this one of Valkey; None: no release of it is.
    pub fn is_since(&self, redis: Option<(u32, u32)>, valkey: Option<(u32, u32)>) -> bool {
        let (is_valkey, major, minor) = self.release();
        (if is_valkey { valkey } else { redis }).is_some_and(|since| (major, minor) >= since)
    }

    /// Its clock was read: its time less ours is known.
    pub fn clock_is_known(&self) -> bool {
        self.clock_known
    }

    /// Fields of hashes may have times to live of their own.
    pub fn has_field_times(&self) -> bool {
        self.is_since(Some((7, 4)), Some((9, 0)))
    }

    /// It has CLIENT NO-TOUCH.
    pub fn can_hide_reads(&self) -> bool {
        self.is_since(Some((7, 2)), Some((7, 2)))
    }

    pub fn lane(&self, id: LaneId) -> Option<&Lane> {
        match id.role {
            Role::Own(number) => self.own.get(&number).map(|own| &own.lane),
            Role::Shared | Role::Bulk => self.lanes.get(id.slot())?.as_ref(),
        }
    }

    pub fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        match id.role {
            Role::Own(number) => self.own.get_mut(&number).map(|own| &mut own.lane),
            Role::Shared | Role::Bulk => self.lanes.get_mut(id.slot())?.as_mut(),
        }
    }

    /// Puts a lane of a database in its place, or takes it away.
    pub fn put_lane(&mut self, id: LaneId, lane: Option<Lane>) {
        if self.lanes.len() <= id.slot() {
            self.lanes.resize_with(id.slot() + 1, || None);
        }
        self.lanes[id.slot()] = lane;
    }

    /// Lanes of databases, whatever their state; without those of sessions' own.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        let id = |at| LaneId::of_slot(self.endpoint, at);
        self.lanes.iter().enumerate().filter_map(move |(at, lane)| lane.as_ref().map(|lane| (id(at), lane)))
    }

    /// Every lane, those of sessions' own too.
    pub fn all_lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes().chain(self.own.values().map(|own| (own.id, &own.lane)))
    }

    /// Nothing is in flight that has a place in the order, and what scripts wrote has been reported.
    pub fn is_idle(&self) -> bool {
        self.lanes().all(|(_, lane)| lane.in_flight.is_empty() && !lane.is_unreported()) && self.own.values().all(Own::is_drained)
    }

    /// Age of the oldest request in flight.
    pub fn age(&self, now_us: u64) -> u64 {
        self.lanes().map(|(_, lane)| lane.age(now_us)).max().unwrap_or(0)
    }

    pub fn open_lanes(&self) -> usize {
        self.lanes().filter(|(_, lane)| lane.is_open()).count()
    }
}

/// Wait before a lost side is connected again, or a lane that could not be opened, microseconds.
pub(super) const RETRY_US: u64 = 200_000;

impl Sequencer {
    pub(super) fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.sides[id.side.index()].lane(id)
    }

    pub(super) fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.sides[id.side.index()].lane_mut(id)
    }

    /// The lane has something to write.
    pub(super) fn touch_lane(&mut self, id: LaneId) {
        // What runs on a session's own connection may run in another database; the shell knows it by the one that it was opened in.
        let id = self.own_mut(id).map_or(id, |own| own.id);
        if let Some(lane) = self.lane_mut(id)
            && !std::mem::replace(&mut lane.touched, true)
        {
            self.touched_lanes.push_back(id);
        }
    }

    /// What lingers on the mirror's lanes goes now.
    pub(super) fn hurry_mirror(&mut self) {
        let lanes: Vec<LaneId> = self.sides[self.mirror_side().index()].lanes().map(|(lane, _)| lane).collect();
        lanes.into_iter().for_each(|lane| self.touch_lane(lane));
    }

    /// Whether the side is connected.
    #[must_use]
    pub fn is_up(&self, side: Endpoint) -> bool {
        self.sides[side.index()].is_up()
    }

    /// The side's generation, to be given with everything that is reported of it.
    #[must_use]
    pub fn generation(&self, side: Endpoint) -> u64 {
        self.sides[side.index()].generation
    }

    /// `run_id` of the server process the side is connected to.
    #[must_use]
    pub fn run_id(&self, side: Endpoint) -> String {
        self.sides[side.index()].run_id.clone().unwrap_or_default()
    }

    /// What the last look at a side found, to be repeated when there was no answer.
    #[must_use]
    pub fn last_probe(&self, side: Endpoint) -> Probe {
        let side = &self.sides[side.index()];
        Probe {
            error: side.error.clone(),
            run_id: String::new(),
            evicted_keys: None,
            expires: side.expires.clone(),
            keys: side.keys.clone(),
            clock_offset_ms: None,
            keyspace: side.keyspace.iter().copied().collect(),
            memory: side.memory.clone(),
            eviction: side.eviction,
            bypassing: None,
        }
    }

    pub(super) fn connect(&mut self, endpoint: Endpoint) {
        let side = &mut self.sides[endpoint.index()];
        side.state = State::Connecting;
        side.generation += 1;
        let (generation, predecessors) = (side.generation, side.predecessors.clone());
        let mut databases = BTreeSet::from([0]);
        databases.extend(self.sessions.iter().map(|session| session.db));
        self.actions.push_back(Action::ConnectSide {
            side: endpoint,
            generation,
            predecessors,
            databases: databases.into_iter().collect(),
        });
    }

    /// A side is connected, its earlier connections are dead, its lanes are open.
    pub fn handle_side_up(&mut self, endpoint: Endpoint, generation: u64, up: SideUp, now: Now) {
        self.now = now;
        let grace = self.settings.zombie_grace_us;
        let side = &mut self.sides[endpoint.index()];
        if side.generation != generation || side.state != State::Connecting {
            return;
        }
        self.clear_wreck();
        let side = &mut self.sides[endpoint.index()];
        let first = side.run_id.is_none();
        let changed = side.run_id.as_ref().is_some_and(|known| *known != up.run_id);
        side.state = State::Up;
        side.error = None;
        side.run_id = Some(up.run_id);
        (side.version, side.major, side.resp, side.eager_consumers) = (up.version, up.major, up.resp, up.eager_consumers);
        (side.databases, side.client_line, side.eviction) = (up.databases, up.client_line, up.eviction);
        side.keyspace = up.keyspace.into_iter().collect();
        side.strangers = super::learn::strangers(&up.commands);
        side.known = (!up.commands.is_empty()).then(|| known_rows(&up.commands, side.release()));
        // The same process goes on counting: what it evicted while we were away is found by the next look.
        let evicted = side.evicted_keys;
        if up.killed || changed {
            side.predecessors.clear();
        } else {
            side.zombies_until = now.us + grace;
            // Of an earlier process of ours nobody knows what it had in flight.
            self.zombies_unknown |= side.predecessors.is_empty();
        }
        // What the connections of a side that is still away may do is not known yet.
        if self.sides.iter().all(|side| side.is_up() && side.zombies_until <= now.us) {
            self.zombies.clear();
        }
        let side = &mut self.sides[endpoint.index()];
        if changed {
            // What it evicts from its beginning on counts, unless it had evicted before: then everything is copied.
            side.evicted_keys = evicted.filter(|keys| *keys == 0);
        }
        if changed && endpoint == self.record.primary {
            // Its data may be the same: what it evicts from its beginning on counts, and so does what its predecessor may have evicted
            // behind the last look.
            side.evicted_keys = Some(0);
            let evicted_last = side.memory.max > 0 && side.memory.can_evict() && evicted != Some(0);
            self.recall_evictions(Some(0));
            if evicted_last && self.record.mirroring {
                self.miss_evictions();
            }
        }
        let side = &mut self.sides[endpoint.index()];
        let marked = up.mark.is_some();
        let count = up.mark.as_deref().map(|mark| super::Record::count_of(mark).unwrap_or(0));
        let missed = std::mem::replace(&mut side.marked, marked) && !marked;
        side.lanes.clear();
        side.unopened.clear();
        let mut opened = Vec::new();
        for (db, info) in up.lanes {
            side.put_lane(LaneId::shared(endpoint, db), Some(Lane { state: LaneState::Open, info: Some(info), ..Lane::new() }));
            opened.push(LaneId::shared(endpoint, db));
        }
        for (db, error) in up.unopened {
            self.leave_unopened(LaneId::shared(endpoint, db), error);
        }
        self.log(false, format!("`{endpoint}` is connected: {}", self.sides[endpoint.index()].version));
        self.check_known(endpoint, marked);
        if endpoint == self.primary() {
            // A full server may have refused the mark: the same process has then lost nothing by not having it.
            self.primary_is_up(first, changed, marked || !(changed || missed), count);
        } else {
            self.mirror_is_up(first, changed, count);
        }
        self.renew_count(endpoint);
        self.write_facts();
        opened.into_iter().for_each(|id| self.remove_twins(id));
        self.write_marks();
        self.sessions.resume = true;
        self.settle();
    }

    fn primary_is_up(&mut self, first: bool, changed: bool, marked: bool, count: Option<u64>) {
        self.scripts.primary_is_new();
        self.scans.restart();
        self.mirror.sizes_refused = false;
        // While one loss waits for the operator's word, another process is another loss: what clients wrote between the two is lost as well.
        let lost = if self.lost.is_some() { changed } else { !marked };
        if !first && lost {
            let text = if changed { "it came back as another process" } else { "the same process has lost its keys" };
            self.primary_lost_data(&format!("{text}, without the key that this proxy keeps there"));
        } else if let (Some(count), None) = (count, self.lost) {
            self.primary_forgot(!first && changed, count);
        }
        self.ask_again();
    }

    /// The primary came back without its data: the mirror holds the better copy (H12). Nothing is deleted there to match.
    pub(super) fn primary_lost_data(&mut self, how: &str) {
        self.synced.forget_all();
        self.hold_loss(how);
        if self.settings.follow_loss {
            self.follow_loss();
        }
    }

    /// Doubt from before this is not healed from the primary: the operator decides.
    pub(super) fn hold_loss(&mut self, how: &str) {
        self.clear_wreck();
        self.lost = Some(self.position);
        self.ledger.hold(self.position);
        let on_their_way = self.spilling();
        self.spill.hold(on_their_way);
        // Whatever is written from now on is younger.
        self.next_position();
        self.recent.named = false;
        // What the next piece would tell is the loss.
        self.end_copies(|_| true);
        self.forget_resting(|_| true);
        self.note_gap();
        self.clear_alarm("PRIMARY LOST DATA");
        self.clear_alarm(UNNAMED_SINCE_LOSS);
        let side = self.primary();
        self.alarm(&format!(
            "PRIMARY LOST DATA: `{side}`: {how}; `{}` holds the better copy. Go on from it with `twinlane cutover --force primary-lost`, or accept the loss with `twinlane accept-loss`",
            side.other()
        ));
    }

    fn mirror_is_up(&mut self, first: bool, changed: bool, count: Option<u64>) {
        self.scripts.mirror_is_new();
        self.scans.restart();
        self.mirror.mode = super::mirror::Mode::Following;
        self.mirror.typed_images = false;
        self.mirror.image_bytes = 0;
        // A mirror that can evict may have done so between the last look and its end (H14).
        let side = &self.sides[self.mirror_side().index()];
        let evicting = changed && (side.evicted_keys != Some(0) || side.memory.can_evict());
        let unknown = match count {
            Some(count) => self.mirror_forgot(!first && changed, count) || evicting,
            None => true,
        };
        if changed || unknown {
            // The operator was told of keys of another process.
            self.forget_extras();
        }
        if !first && unknown {
            self.log(
                true,
                format!(
                    "`{}` is another process, or has lost keys that nobody can name: nothing is known of it until it has been copied anew",
                    self.mirror_side()
                ),
            );
            self.unsync(&[], WideCause::MirrorNew);
            self.refresh_keyspaces();
            self.alarm_lessened();
        }
    }

    /// The lists of databases with keys are old: take every database either side may have.
    pub(super) fn refresh_keyspaces(&mut self) {
        for endpoint in Endpoint::BOTH {
            let in_use: Vec<Db> = self.sides[endpoint.index()].lanes().filter(|(_, lane)| lane.is_open()).map(|(id, _)| id.db).collect();
            self.sides[endpoint.index()].keyspace.extend(in_use);
        }
    }

    /// Keys came into this database by another way than a lane of its own (SWAPDB, MOVE, COPY): a scan of everything must find it.
    pub(super) fn note_keyspace(&mut self, db: Db) {
        self.sides.iter_mut().for_each(|side| {
            side.keyspace.insert(db);
        });
    }

    /// A server that is full refuses the mark; without it a restart would take the side for one that lost its data.
    pub(super) fn check_mark(&mut self, side: Endpoint, count: u64, reply: Reply<'_>) {
        if reply.is_error() {
            self.marks_due.get_or_insert(self.now.us + 1_000_000);
        } else if reply.text() == b"OK" {
            self.sides[side.index()].marked = true;
            self.confirm_count(side, count);
        }
    }

    /// Writes this installation's mark into the reserved key of both sides (H9). A primary that lost its data gets none before
    /// the operator has decided, or a restart would forget the loss.
    pub(super) fn write_marks(&mut self) {
        self.marks_due = None;
        for endpoint in Endpoint::BOTH {
            if (endpoint == self.primary() && self.lost.is_some()) || (endpoint == self.mirror_side() && !self.record.mirroring) {
                continue;
            }
            self.push_mark(endpoint);
        }
    }

    /// A connection to a side is gone, or could not be made. All lanes of the side go with it.
    pub fn handle_side_down(&mut self, endpoint: Endpoint, generation: u64, error: &str, now: Now) {
        self.now = now;
        let side = &mut self.sides[endpoint.index()];
        if side.generation != generation {
            return;
        }
        let was_up = side.state == State::Up;
        if was_up {
            side.down_since = now.us;
        }
        super::learn::forget_questions(&mut side.strangers);
        side.state = State::Down(now.us + RETRY_US);
        if side.error.as_deref() != Some(error) {
            side.error = Some(error.to_owned());
            self.log(true, format!("`{endpoint}`: {error}"));
        }
        if was_up {
            self.clear_wreck();
            self.lose_lanes(endpoint);
        }
        self.settle();
    }

    fn lose_lanes(&mut self, endpoint: Endpoint) {
        let slots = std::mem::take(&mut self.sides[endpoint.index()].lanes).into_iter().enumerate();
        let mut lanes: Vec<(LaneId, Lane)> =
            slots.filter_map(|(slot, lane)| lane.map(|lane| (LaneId::of_slot(endpoint, slot), lane))).collect();
        let own = std::mem::take(&mut self.sides[endpoint.index()].own);
        for (lane, used, owner) in own.values().filter_map(|own| Some((own.id, own.used, own.owner?))) {
            match used {
                Use::Command if endpoint == self.primary() => self.break_watch(owner),
                // A watch that was being handed over lives on.
                Use::Command => {}
                Use::Feed => self.lose_feed(owner, lane),
            }
        }
        lanes.extend(own.into_values().map(|own| (own.id, own.lane)));
        self.end_copies(|_| true);
        self.scans.restart();
        self.note_gap();
        self.note_lost_at(endpoint);
        let primary = endpoint == self.primary();
        let mut again = Vec::new();
        let mut suspected = false;
        let mut unreported: Vec<Db> = Vec::new();
        // Who had a write in flight is known before anything is decided for anybody.
        let closing: HashSet<SessionId> =
            lanes.iter().flat_map(|(_, lane)| if primary { sessions_in_doubt(lane) } else { sessions_asking(lane) }).collect();
        for (id, mut lane) in lanes {
            if let Some(info) = lane.info.take() {
                self.sides[endpoint.index()].predecessors.push(info);
            }
            if primary && lane.is_unreported() {
                unreported.extend(&lane.script_dbs);
            }
            if !primary {
                self.wreck(id, &mut lane, &mut suspected);
                continue;
            }
            let mut at = lane.tape.front_at();
            let flights = std::mem::take(&mut lane.in_flight);
            for flight in flights {
                let frame = lane.tape.frame(at, flight.len);
                let sent = at < lane.tape.sent_to();
                at += u64::from(flight.len);
                if asker(&flight.what).is_some() {
                    continue;
                }
                let doubt = sent && Self::owner_of(&flight.what).is_none_or(|owner| closing.contains(&owner));
                self.lose_request(id, flight, frame, doubt, &closing, &mut again);
            }
        }
        for session in closing {
            self.close(session, "primary_lost");
            self.lower(session);
        }
        if primary {
            self.forget_events();
            if !unreported.is_empty() {
                self.log(true, "a lane was lost before it reported what its last scripts wrote: its database is copied anew");
                self.unsync(&unreported, WideCause::Script);
                self.refresh_keyspaces();
            }
            self.forget_lanes();
            self.restart_sweep("the primary was lost");
            self.again = again;
        }
    }

    /// A request on the primary that was not answered.
    fn lose_request(
        &mut self,
        id: LaneId,
        flight: super::lane::InFlight,
        frame: &[u8],
        doubt: bool,
        closing: &HashSet<SessionId>,
        again: &mut Vec<(LaneId, super::lane::InFlight, Vec<u8>)>,
    ) {
        match &flight.what {
            What::ImageRead { key, .. } | What::FieldsRead { key, .. } | What::ImageSize { key, .. } => return self.lose_image(id.db, key),
            What::Functions => return self.lose_functions(),
            What::Verify(reading) => return self.lose_verify(reading),
            What::Shadow(read) => return self.lose_shadow(read),
            What::Client { .. } | What::Block(_) | What::Attempt(_) | What::LastId { .. } => {}
            _ => return,
        }
        if doubt {
            self.doubt_request(id.db, frame);
        }
        let Some(owner) = Self::owner_of(&flight.what) else { return };
        if !closing.contains(&owner) {
            let frame = frame.to_vec();
            let replies = match &flight.what {
                What::Block(block) => block.replies(),
                What::Attempt(attempt) => attempt.replies,
                _ => 1,
            };
            again.push((id, super::lane::InFlight::new(flight.what, flight.len, replies, flight.at), frame));
        }
    }

    /// What a request of unknown fate may have written.
    pub(super) fn doubt_request(&mut self, db: Db, frame: &[u8]) {
        let mut keys: Vec<(Db, Vec<u8>)> = Vec::new();
        let (mut wide, mut all): (Vec<Db>, bool) = (Vec::new(), false);
        let mut db = db;
        each_request(frame, |command, request| {
            if command.name == "SELECT" {
                db = crate::resp::encode::parse_integer(request.arg(1)).map_or(db, |index| index as Db);
            }
            let undeclared = command.rule == Rule::Script && self.writes_undeclared(command, request);
            written_by(db, command, request, undeclared, |written| match written {
                Written::Key(db, key) => keys.push((db, key.to_vec())),
                Written::Database(db) => wide.push(db),
                Written::All => all = true,
            });
        });
        // A write that was not answered may not be there: where the primary has lost its data, the mirror's copy may still be the better one.
        let position = self.doubt_position();
        for (db, key) in keys.into_iter().filter(|(_, key)| !key.starts_with(super::RESERVED_PREFIX)) {
            self.mark_dirty(db, &key, Cause::InDoubt, position);
        }
        if all || !wide.is_empty() {
            self.unsync(if all { &[] } else { &wide }, WideCause::Barrier);
            self.refresh_keyspaces();
        }
    }

    /// Requests that were not sent, and plain reads, are asked again on the new lanes, in their old order.
    fn ask_again(&mut self) {
        for (id, mut flight, frame) in std::mem::take(&mut self.again) {
            flight.at = self.now.us;
            if let Some(error) = self.unopened_error(id) {
                self.give_up_request(&flight.what, error.as_bytes());
                if let What::Attempt(attempt) = &flight.what {
                    self.retry_later(id.db, attempt);
                }
                continue;
            }
            if !self.lane(id).is_some_and(Lane::is_open) {
                // Its lane is not there any more (a database without sessions, or a large request): as if it had been in doubt.
                if let Some(owner) = Self::owner_of(&flight.what) {
                    self.close(owner, "primary_lost");
                    self.lower(owner);
                }
                continue;
            }
            self.before_scripts_of(id, &frame);
            self.intend_frame(id.db, &frame);
            if let Some(lane) = self.lane_mut(id) {
                let len = lane.tape.append(&[&frame]);
                lane.appended += 1;
                lane.in_flight.push_back(super::lane::InFlight { len, ..flight });
            }
            self.touch_lane(id);
        }
    }

    /// Closes a session whose write the mirror did not confirm in time, under `ack_strict`.
    pub(super) fn close_unacknowledged(&mut self, id: SessionId) {
        // Closing delivers what a session is owed; the reply that was not confirmed must not be.
        self.drop_held(id);
        self.close(id, "ack_strict");
    }

    /// Time passes: lost sides are connected again; commands that have waited too long for the primary are answered.
    pub(super) fn tick_sides(&mut self) {
        if self.marks_due.is_some_and(|due| due <= self.now.us) && self.may_ask() {
            self.write_marks();
        }
        for endpoint in Endpoint::BOTH {
            if matches!(self.sides[endpoint.index()].state, State::Down(at) if at <= self.now.us) {
                self.connect(endpoint);
            }
        }
        self.tick_unopened();
        self.tick_zombies();
        let primary = &self.sides[self.primary().index()];
        let down = !primary.is_up() && self.now.us.saturating_sub(primary.down_since) >= self.settings.primary_wait_us;
        if !down {
            return;
        }
        let error =
            format!("-ERR twinlane: `{}` ({}) cannot be reached; the command was not executed\r\n", self.primary(), primary.address);
        for (_, flight, _) in std::mem::take(&mut self.again) {
            self.give_up_request(&flight.what, error.as_bytes());
        }
        self.sessions.resume |= self.anybody_waits();
    }

    /// A request of a lost primary that is not asked again is answered with an error.
    fn give_up_request(&mut self, what: &What, error: &[u8]) {
        match what {
            What::Attempt(attempt) => return self.give_up_attempt(attempt, error),
            What::LastId { .. } => return,
            _ => {}
        }
        if let Some(owner) = Self::owner_of(what) {
            self.deliver(owner, error, true, None);
            self.lower(owner);
        }
    }

    /// What a connection that could not be killed may have done in its grace time is doubted once more (H1).
    fn tick_zombies(&mut self) {
        let now = self.now.us;
        let over = |side: &Side| side.zombies_until != 0 && side.zombies_until <= now;
        if !self.sides.iter().any(over) {
            return;
        }
        self.sides.iter_mut().filter(|side| over(side)).for_each(|side| side.zombies_until = 0);
        let position = self.doubt_position();
        // The other side's may live longer.
        let last = self.sides.iter().all(|side| side.is_up() && side.zombies_until == 0);
        let keys = if last { std::mem::take(&mut self.zombies) } else { self.zombies.clone() };
        let unknown = self.zombies_unknown;
        self.zombies_unknown &= !last;
        if unknown || keys.len() >= limits::ZOMBIE_KEYS_MAX {
            return self.unsync(&[], WideCause::Zombie);
        }
        keys.iter().for_each(|(db, key)| self.mark_dirty(*db, key, Cause::Late, position));
    }

    /// A side says how many keys it has evicted. "Synced" is a claim about the mirror, and a mirror that evicts breaks it by
    /// itself (H14); what a primary evicts, the mirror still has (H29).
    pub(super) fn note_evictions(&mut self, endpoint: Endpoint, evicted_keys: u64) {
        let side = &mut self.sides[endpoint.index()];
        // A look that was asked for earlier may be answered later: the same process counts upwards. Unless somebody reset its counters, which the
        // next look tells too.
        let fell = side.evicted_keys.is_some_and(|before| evicted_keys < before);
        let reset = std::mem::replace(&mut side.evicted_fell, fell) && fell;
        if reset {
            (side.evicted_keys, side.evicted_fell) = (Some(0), false);
        }
        let evicted_keys = side.evicted_keys.map_or(evicted_keys, |before| before.max(evicted_keys));
        let before = side.evicted_keys.replace(evicted_keys);
        if reset && endpoint == self.primary() {
            self.recount_evictions();
        }
        if before.is_some_and(|before| evicted_keys > before) {
            // The mark may be among them, and a side that lacks it counts as one that lost its data.
            self.marks_due.get_or_insert(self.now.us);
        }
        if endpoint == self.primary() {
            return self.note_primary_evicted(before, evicted_keys);
        }
        if before.is_some_and(|before| evicted_keys > before) && self.record.mirroring {
            self.alarm(&format!("`{endpoint}` evicted keys: it has too little memory to be a mirror; everything is being copied anew"));
            self.unsync(&[], WideCause::Evicted);
        }
    }

    /// The regular look at a side.
    pub fn handle_probe(&mut self, endpoint: Endpoint, probe: Probe, now: Now) {
        self.now = now;
        let side = &mut self.sides[endpoint.index()];
        side.expires = probe.expires;
        side.memory = probe.memory;
        side.keys = probe.keys;
        side.eviction = probe.eviction;
        side.bypassing = probe.bypassing.unwrap_or(side.bypassing);
        let before = side.clock_known.then_some(side.clock_offset_ms);
        side.clock_offset_ms = probe.clock_offset_ms.unwrap_or(side.clock_offset_ms);
        side.clock_known |= probe.clock_offset_ms.is_some();
        // What was told is older than what was written since: a database is taken off the list by a new connection only.
        side.keyspace.extend(probe.keyspace);
        if side.is_up() {
            side.error = probe.error;
        }
        if let Some(evicted_keys) = probe.evicted_keys {
            self.note_evicted_away(endpoint, self.sides[endpoint.index()].evicted_keys, evicted_keys);
            self.note_evictions(endpoint, evicted_keys);
        }
        if let Some(offset_ms) = probe.clock_offset_ms {
            self.note_clock(endpoint, before, offset_ms);
        }
        self.settle();
    }
}

/// Sessions with a write on this lane that was sent and not answered, or with a reply that was told in part.
fn sessions_in_doubt(lane: &Lane) -> Vec<SessionId> {
    let mut at = lane.tape.front_at();
    let mut found = Vec::new();
    if let (true, Some(What::Client { session, .. })) = (lane.relayed > 0, lane.in_flight.front().map(|front| &front.what)) {
        found.push(*session);
    }
    for flight in &lane.in_flight {
        let sent = at < lane.tape.sent_to();
        at += u64::from(flight.len);
        let writes = |command: &Command| command.writes() || command.rule == Rule::PfCount;
        match &flight.what {
            What::Client { session, command } if sent && writes(command) => found.push(*session),
            What::Attempt(attempt) if sent && attempt.writes => found.push(attempt.session),
            What::Block(block) => {
                let writes = block.elements.iter().any(|element| matches!(element, Element::Shown { command, .. } if writes(command)));
                found.extend(block.session.filter(|_| sent && writes));
            }
            // No write, and what it waited for is gone with the connection.
            What::Watch(session) | What::Ask(session) | What::Subscription(session) | What::Tracking(session) => found.push(*session),
            _ => {}
        }
    }
    found
}

/// Sessions that asked something on this lane before the roles moved: the answer does not come any more.
fn sessions_asking(lane: &Lane) -> Vec<SessionId> {
    let asking = |what: &What| match what {
        What::Watch(session) | What::Ask(session) => Some(*session),
        _ => None,
    };
    lane.in_flight.iter().filter_map(|flight| asking(&flight.what)).collect()
}

/// Which rows of the table a server has, by the names it gave. It gives containers without their subcommands.
fn known_rows(names: &[String], release: (bool, u32, u32)) -> Vec<bool> {
    let names: HashSet<&str> = names.iter().map(String::as_str).collect();
    // From 7.0 on subcommands are named as well; before, a subcommand is there when its release is.
    let tells = names.iter().any(|name| name.contains('|'));
    let has = |row: &Command| match row.name.split_once(' ') {
        Some(_) if tells => names.contains(row.name.replace(' ', "|").as_str()),
        Some(_) => !release.0 && row.is_since(release.1, release.2),
        None => true,
    };
    // Before 7.0 QUIT was no command of the table (redis 6.2.14 server.c processCommand).
    Table::get().rows().iter().map(|row| row.name == "QUIT" || (names.contains(row.container()) && has(row))).collect()
}
