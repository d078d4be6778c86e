//! Verify: every key of both sides, compared at a position.
//!
//! A read goes on the primary's shared lane of its database. When its reply is met, the same read is appended to the mirror's lane: every
//! effect of what the primary executed before has been appended there already, and no other, so what differs is no race (I7). What the
//! proxy itself knows to be in doubt (the ledger, a fence, a report that is due, a database that is being copied) is no finding: the key
//! is put back and read again later in the pass. What is equal is equal, doubt or not. A difference is reported when it was read at
//! two further positions, type by type, and it makes the key doubtful, so that an image heals it; keys that only the mirror has are
//! reported and never touched.
//!
//! A pass walks the primary, then the mirror for keys that the first walk did not name. It begins anew when a side was lost (a cursor is
//! valid for one life of a server, H43), when the roles moved, and when a database was emptied or swapped: so what it tells when it ends
//! holds for the two servers that are there then. Differences planted for the length of a pass prove that it sees (`plants.rs`).

mod digest;
mod exam;
mod judge;
mod plants;
mod repair;
mod told;
mod walk;

pub(super) use crate::divergence::DivergenceKind;
pub(super) use exam::{Step, Task};
pub(super) use judge::Fate;
pub(super) use repair::{Asked as RepairAsked, Repairs};
use told::Telling;

use super::lane::{LaneId, What};
use super::opening::lacks_lane;
use super::pace::{Pace, Rate};
use super::{Now, Sequencer};
use crate::divergence::{Divergences, VerifyResult, VerifyStatus};
use crate::endpoint::{Db, Endpoint};
use crate::resp::reply::Reply;
use digest::Digester;
use judge::Pair;
use plants::Plants;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use walk::Walk;

/// A reading in flight on a lane.
#[derive(Debug)]
pub(super) struct Flight {
    of: Of,
    job: Job,
}

/// What a reading belongs to, by its number: the answer of an earlier one means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A pass.
    Pass(u64),
    /// Keys that a shadow read found to differ.
    Exam(u64),
}

#[derive(Debug)]
pub(super) enum Job {
    /// `INFO keyspace` of a side.
    Census,
    /// A page of SCAN of the side that is being walked.
    Keys,
    /// How large these keys are.
    Sizes { keys: Vec<Arc<[u8]>>, sizes: Vec<Option<i64>> },
    /// How large one key is.
    Size(Box<Task>),
    /// A page of the members of a large set or the fields of a large hash.
    Members(Box<Task>),
    /// Keys that are being compared.
    Pair(Box<Pair>),
    /// Planted differences are written, or removed.
    Plants { db: Db, planted: u64 },
    /// Whether the primary holds a key that is to be repaired.
    Repair(RepairAsked),
    /// A page of the keys that are to be repaired.
    Sweep,
    /// A key that a person asks about.
    Tell(Box<Telling>),
}

impl Flight {
    /// One of several replies.
    pub fn take(&mut self, reply: Reply<'_>) {
        match &mut self.job {
            Job::Pair(pair) => pair.take(reply),
            Job::Tell(telling) => telling.take(reply),
            Job::Sizes { sizes, .. } => sizes.push(match reply.is_error() {
                true => None,
                false => Some(reply.integer().unwrap_or(0)),
            }),
            _ => {}
        }
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    /// Keys per second; 0: as fast as the servers allow.
    rate: u64,
    continuous: bool,
}

/// One pass.
#[derive(Debug)]
struct Pass {
    wish: Wish,
    /// Not before then, microseconds.
    not_before: u64,
    paused: bool,
    restarts: u64,
    /// What `INFO keyspace` said of each side: databases and their keys.
    census: [Option<Vec<(Db, u64)>>; 2],
    census_asked: bool,
    databases: VecDeque<Db>,
    walk: Option<Walk>,
    /// Keys of which the size is not known yet.
    found: VecDeque<Arc<[u8]>>,
    ready: VecDeque<Task>,
    /// Keys that are read again, and when, microseconds.
    later: Vec<(u64, Task)>,
    /// Keys on the lanes, and their bytes as far as they are known.
    in_flight: usize,
    bytes: usize,
    /// Keys that may still be read before the next tick; None: no bound.
    allowance: Option<u64>,
    rate: Rate,
    pace: Pace,
    result: VerifyResult,
    plants: Plants,
    /// Keys that only the mirror has.
    extras: Vec<(Db, Arc<[u8]>)>,
    seen: Seen,
    digester: Digester,
    waits_for: Option<String>,
    /// When the last second began, what had been compared then, and how much in the second before.
    measured: (u64, u64, u64),
}

/// Keyed fingerprints of keys; it forgets and never invents.
#[derive(Debug)]
struct Seen {
    slots: Box<[u64]>,
    state: ahash::RandomState,
}

impl Seen {
    fn fingerprint(&self, db: Db, key: &[u8]) -> (usize, u64) {
        let mut hasher = self.state.build_hasher();
        hasher.write_u16(db);
        hasher.write(key);
        let fingerprint = hasher.finish() | 1;
        ((fingerprint >> 1) as usize & (self.slots.len() - 1), fingerprint)
    }

    fn insert(&mut self, db: Db, key: &[u8]) {
        let (slot, fingerprint) = self.fingerprint(db, key);
        self.slots[slot] = fingerprint;
    }

    fn contains(&self, db: Db, key: &[u8]) -> bool {
        let (slot, fingerprint) = self.fingerprint(db, key);
        self.slots[slot] == fingerprint
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Verify {
    pass: Option<Box<Pass>>,
    /// Numbers the passes; one that began anew has another number.
    serial: u64,
    /// The last pass that ended.
    last: Option<VerifyResult>,
    cancelled: bool,
    /// When a side was last not observed, microseconds.
    gap_us: Option<u64>,
    pub divergences: Divergences,
    extras: Vec<(Db, Arc<[u8]>)>,
    /// Planted keys that each side holds.
    pub planted: [u64; 2],
    pub totals: Totals,
    pub repairs: Repairs,
}

impl Verify {
    /// So many keys are repaired by the second at most; 0: no bound.
    pub fn new(repair_rate_max: u64) -> Verify {
        Verify {
            pass: None,
            serial: 0,
            last: None,
            cancelled: false,
            gap_us: None,
            divergences: Divergences::default(),
            extras: Vec::new(),
            planted: [0; 2],
            totals: Totals::default(),
            repairs: Repairs::new(repair_rate_max),
        }
    }

    fn is_fresh(&self, result: &VerifyResult) -> bool {
        result.as_of.is_some() && self.gap_us.is_none_or(|gap| gap <= result.began_us)
    }
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub compared: u64,
    pub differing: crate::divergence::Differing,
    pub unverifiable: u64,
    pub passes: u64,
}

impl Sequencer {
    pub(super) fn start_verify(&mut self, ticket: u64, rate: u64, continuous: bool) {
        if self.verify.pass.is_some() {
            return self.refuse(ticket, "a verify is under way");
        }
        self.verify.cancelled = false;
        let rate = if rate == 0 { self.settings.verify_rate_max } else { rate };
        self.begin_pass(Wish { rate, continuous }, 0, 0);
        self.log(false, "a verify begins");
        self.answer(ticket, crate::status::Outcome::Done);
    }

    pub(super) fn pause_verify(&mut self, ticket: u64, paused: bool) {
        match &mut self.verify.pass {
            Some(pass) => {
                pass.paused = paused;
                self.answer(ticket, crate::status::Outcome::Done);
            }
            None => self.refuse(ticket, "no verify is under way"),
        }
    }

    pub(super) fn cancel_verify(&mut self, ticket: u64) {
        if self.verify.pass.take().is_none() {
            return self.refuse(ticket, "no verify is under way");
        }
        self.verify.serial += 1;
        self.verify.cancelled = true;
        self.remove_plants(0);
        self.answer(ticket, crate::status::Outcome::Done);
    }

    fn begin_pass(&mut self, wish: Wish, restarts: u64, not_before: u64) {
        self.verify.serial += 1;
        let seed = self.settings.seed;
        let state = |n: u64| ahash::RandomState::with_seeds(seed[0] ^ n, seed[1], !seed[0], seed[1].wrapping_add(n));
        let Now { us, unix_ms } = self.now;
        let slots = vec![0; self.settings.verify_seen_slots.next_power_of_two()].into_boxed_slice();
        self.verify.pass = Some(Box::new(Pass {
            wish,
            not_before,
            paused: false,
            restarts,
            census: [None, None],
            census_asked: false,
            databases: VecDeque::new(),
            walk: None,
            found: VecDeque::new(),
            ready: VecDeque::new(),
            later: Vec::new(),
            in_flight: 0,
            bytes: 0,
            allowance: Some(0),
            rate: Rate::new(wish.rate),
            pace: Pace::new(PACE_KEYS.0, PACE_KEYS.1, self.commands_answered()),
            result: VerifyResult { began: Some(unix_ms), began_us: us, ..VerifyResult::default() },
            plants: Plants::default(),
            extras: Vec::new(),
            seen: Seen { slots, state: state(0x5eed) },
            digester: self.digester(),
            waits_for: None,
            measured: (us, 0, 0),
        }));
    }

    /// What was found so far speaks of servers, or databases, that are not there any more.
    pub(super) fn restart_verify(&mut self) {
        self.drop_exams();
        if let Some(pass) = self.verify.pass.take() {
            self.begin_pass(pass.wish, pass.restarts + 1, 0);
            if let Some(anew) = &mut self.verify.pass {
                anew.paused = pass.paused;
            }
        }
    }

    /// A side was not observed for a while, or nothing is known of it any more: no earlier result tells how things are now.
    pub(super) fn note_gap(&mut self) {
        self.verify.gap_us = Some(self.now.us);
        self.restart_verify();
    }

    /// Something happened to the primary's keys that was not observed. A pass that is under way goes on, since what it finds is true of these
    /// servers, and a primary that evicts all the time would never let one end; but it proves nothing beyond it.
    pub(super) fn note_unobserved(&mut self) {
        self.verify.gap_us = Some(self.now.us);
    }

    pub(super) fn commands_answered(&self) -> u64 {
        self.totals.commands.iter().map(|(ok, failed)| ok + failed).sum()
    }

    /// Allowance, pace, and keys whose time has come to be read again.
    pub(super) fn tick_verify(&mut self) {
        let (now, commands) = (self.now.us, if self.verify.pass.is_some() { self.commands_answered() } else { 0 });
        let Some(pass) = &mut self.verify.pass else { return };
        pass.pace.tick(commands);
        let mut allowance = pass.pace.busy.then_some(pass.pace.keys);
        if pass.wish.rate > 0 {
            // A tick is ten milliseconds.
            allowance = Some(allowance.unwrap_or(u64::MAX).min(pass.rate.share(10_000)));
        }
        pass.allowance = allowance;
        let (due, later) = std::mem::take(&mut pass.later).into_iter().partition(|(at, _)| *at <= now);
        let due: Vec<(u64, Task)> = due;
        pass.later = later;
        pass.ready.extend(due.into_iter().map(|(_, task)| task));
        let (since, before, _) = pass.measured;
        if now.saturating_sub(since) >= 1_000_000 {
            let compared = pass.result.keys_compared;
            pass.measured = (now, compared, (compared - before) * 1_000_000 / (now - since));
        }
    }

    fn digester(&self) -> Digester {
        let seed = self.settings.seed;
        let state = ahash::RandomState::with_seeds(seed[0] ^ 0xd16e, seed[1], !seed[0], seed[1].wrapping_add(0xd16e));
        Digester { state, newer: self.sides.iter().all(|side| side.major >= 7) }
    }

    /// Why the pass cannot compare anything now.
    fn verify_waits(&mut self) -> Option<String> {
        let pass = self.verify.pass.as_ref();
        let walked = pass.and_then(|pass| pass.walk.as_ref().map(|walk| walk.db));
        let next = walked.or_else(|| pass?.databases.front().copied());
        if let Some(db) = next.filter(|db| lacks_lane(&self.sides, *db)) {
            return Some(format!("a connection for database {db} could not be opened"));
        }
        self.comparison_waits(walked.unwrap_or(0))
    }

    /// Why nothing can be compared in this database now.
    pub(super) fn comparison_waits(&mut self, db: Db) -> Option<String> {
        if !self.record.mirroring {
            return Some("mirroring is off".into());
        }
        if self.lost.is_some() {
            return Some("the primary lost its data, and nobody has decided yet".into());
        }
        for endpoint in Endpoint::BOTH {
            let side = &self.sides[endpoint.index()];
            if !side.is_up() {
                return Some(format!("`{endpoint}` is not connected"));
            }
            if side.zombies_until > self.now.us {
                return Some(format!("a dead connection to `{endpoint}` may still write"));
            }
        }
        if self.flip.is_some() || self.holding {
            return Some("a flip is under way".into());
        }
        if lacks_lane(&self.sides, db) {
            return Some(format!("a connection for database {db} could not be opened"));
        }
        if self.backfills() && self.scans.doubts(db) {
            return Some(format!("database {db} is being copied"));
        }
        if !self.may_ask() || self.mirror_owes() {
            return Some("a command that touches whole databases is under way".into());
        }
        self.mirror_refuses(db).map(|cause| format!("the mirror does not follow: {}", cause.word()))
    }

    /// Asks for what the pass wants to know next.
    pub(super) fn pump_verify(&mut self) -> bool {
        let now = self.now.us;
        let Some(pass) = &self.verify.pass else { return false };
        if pass.paused || pass.not_before > now {
            return false;
        }
        let waits = self.verify_waits();
        let stands = waits.is_some();
        if let Some(pass) = &mut self.verify.pass {
            pass.waits_for = waits;
        }
        !stands
            && (self.ask_census_of_keys()
                || self.next_walk()
                || self.push_batch()
                || self.ask_sizes()
                || self.ask_keys()
                || self.end_walk())
    }

    /// Appends a reading of the pass to a shared lane.
    fn push_reading(&mut self, side: Endpoint, db: Db, frame: &[u8], replies: u32, job: Job) {
        self.push_reading_of(Of::Pass(self.verify.serial), side, db, frame, replies, job);
    }

    /// Appends a reading to a shared lane.
    pub(super) fn push_reading_of(&mut self, of: Of, side: Endpoint, db: Db, frame: &[u8], replies: u32, job: Job) {
        self.push_untouched(LaneId::shared(side, db), frame, What::Verify(Box::new(Flight { of, job })), replies);
    }

    /// The last reply of a reading; `frame` is what was asked.
    pub(super) fn answer_verify(&mut self, id: LaneId, mut flight: Flight, frame: &[u8], reply: Reply<'_>, at: u64) {
        flight.take(reply);
        let of = flight.of;
        let current = match of {
            Of::Pass(serial) => serial == self.verify.serial && self.verify.pass.is_some(),
            Of::Exam(serial) => self.is_exam_current(serial),
        };
        match flight.job {
            Job::Plants { db, planted } => self.answer_plants(id.side, db, planted, reply, current),
            Job::Repair(asked) => self.answer_repair(asked, reply),
            Job::Sweep => self.answer_sweep(reply),
            Job::Tell(telling) => self.answer_telling(telling),
            _ if !current => {}
            Job::Census => self.answer_census_of_keys(id.side, reply),
            Job::Keys => self.answer_keys(id.side, reply),
            Job::Sizes { keys, sizes } => self.answer_sizes(keys, &sizes),
            Job::Size(task) => self.answer_exam_size(id, *task, reply.integer()),
            Job::Members(task) => self.answer_members(id.db, of, *task, reply),
            Job::Pair(pair) => self.answer_pair(id, of, pair, frame, at),
        }
    }

    /// Its connection was lost before it answered.
    pub(super) fn lose_verify(&mut self, flight: &Flight) {
        let ticket = match &flight.job {
            Job::Repair(asked) => asked.ticket,
            Job::Tell(telling) => telling.ticket,
            Job::Sweep => return self.lose_sweep(),
            _ => return,
        };
        self.refuse(ticket, "the connection was lost before it answered");
    }

    fn end_pass(&mut self) {
        let Some(mut pass) = self.verify.pass.take() else { return };
        self.verify.serial += 1;
        self.verify.totals.passes += 1;
        let result = &mut pass.result;
        result.alive = pass.plants.all_found();
        result.as_of = Some(self.now.unix_ms);
        result.keys_estimate = result.keys_compared + result.unverifiable;
        result.coverage = coverage(result);
        result.clean = result.alive && result.differing.total() == 0 && result.unverifiable == 0;
        let (differing, unverifiable, alive) = (result.differing.total(), result.unverifiable, result.alive);
        self.log(
            differing > 0 || !alive,
            format!("verified {} keys: {differing} differ, {unverifiable} could not be judged", result.keys_compared),
        );
        if !alive {
            self.log(true, "the verify did not find the differences that were planted for it: what it tells proves nothing");
        }
        self.verify.extras = std::mem::take(&mut pass.extras);
        self.verify.last = Some(pass.result.clone());
        if pass.result.clean {
            self.verified_evictions(pass.result.began_us);
        }
        self.actions.push_back(super::Action::VerifyEnded(pass.result.clone()));
        if pass.wish.continuous {
            self.begin_pass(pass.wish, 0, self.now.us + BETWEEN_PASSES_US);
        }
    }

    /// What metrics tell of it.
    pub(super) fn verify_counters(&self) -> crate::status::VerifyCounters {
        let Totals { compared, differing, unverifiable, passes } = self.verify.totals;
        crate::status::VerifyCounters { compared, differing, unverifiable, passes, proven: self.is_proven() }
    }

    /// What the last verify of an earlier process found. Nobody observed the sides in between, so it is not fresh.
    pub fn recall_verify(&mut self, result: VerifyResult) {
        self.verify.gap_us = Some(self.now.us.max(1));
        self.verify.last.get_or_insert(VerifyResult { began_us: 0, ..result });
    }

    /// Whether the last verify found no difference, proved itself alive, and no gap in observation has come since it began.
    pub(super) fn is_proven(&self) -> bool {
        self.verify.last.as_ref().is_some_and(|result| result.clean && result.alive && self.verify.is_fresh(result))
    }

    /// Confirmed differences.
    #[must_use]
    pub fn divergences(&self) -> &Divergences {
        &self.verify.divergences
    }

    /// How the verify stands.
    pub(super) fn verify_status(&self) -> VerifyStatus {
        let last = self.verify.last.clone().map(|result| VerifyResult { fresh: self.verify.is_fresh(&result), ..result });
        let Some(pass) = &self.verify.pass else {
            let state = match (self.verify.cancelled, &last) {
                (true, _) => "cancelled",
                (false, Some(_)) => "done",
                (false, None) => "idle",
            };
            return VerifyStatus { state, result: last.unwrap_or_default(), ..VerifyStatus::default() };
        };
        let mut result = pass.result.clone();
        result.coverage = coverage(&result);
        VerifyStatus {
            state: match (pass.paused, &pass.waits_for) {
                (true, _) => "paused",
                (false, Some(_)) => "waiting",
                (false, None) => "running",
            },
            waits_for: pass.waits_for.clone().filter(|_| !pass.paused),
            result,
            keys_per_second: pass.measured.2,
            restarts: pass.restarts,
            continuous: pass.wish.continuous,
            last: last.map(Box::new),
        }
    }
}

/// Of no keys, all have been compared when the pass has ended, and none before.
fn coverage(result: &VerifyResult) -> f64 {
    let keys = result.keys_estimate.max(result.keys_compared + result.unverifiable);
    match keys {
        0 => f64::from(u8::from(result.as_of.is_some())),
        _ => result.keys_compared as f64 / keys as f64,
    }
}

/// Keys per tick while clients use the primary: at least and at most.
const PACE_KEYS: (u64, u64) = (8, 1024);

/// From the end of a pass to the beginning of the next, microseconds: a pair without keys is not verified a thousand times a second.
const BETWEEN_PASSES_US: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_has_compared_nothing_covers_nothing() {
        let of = |keys_compared, unverifiable, keys_estimate, as_of| {
            coverage(&VerifyResult { keys_compared, unverifiable, keys_estimate, as_of, ..VerifyResult::default() })
        };
        assert_eq!(of(0, 0, 0, None), 0.0, "it waits");
        assert_eq!(of(0, 0, 0, Some(1)), 1.0, "there was nothing");
        assert_eq!(of(0, 0, 8, None), 0.0);
        assert_eq!(of(2, 2, 8, None), 0.25);
        assert_eq!(of(6, 2, 6, Some(1)), 0.75);
    }
}
