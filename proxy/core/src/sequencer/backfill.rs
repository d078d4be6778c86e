//! The backfill as the operator sees it: begun, paused, slowed down, watched. What it does stands in `scan.rs`: it walks databases that are
//! in doubt as a whole, and hands their keys to the ledger, which heals them like all others.
//!
//! The hard case is a word that claims too much. `done` is said when every database is known to be equal, or its doubtful keys are in the
//! ledger, and none of those that a walk put there waits any more, in memory or on the disk. `failed` is said when what is left cannot be copied at all: keys that no
//! image can carry, or databases that a side does not have. A side that is away, full or slow is something to wait for, and no failure.

use super::Sequencer;
use super::mirror::{Mode, unmirrorable};
use super::pace::Rate;
use super::scan::{Told, share};
use crate::doubt::Cause;
use crate::endpoint::{Db, Endpoint};
use crate::journal::Known;
use crate::limits;
use crate::status::{BackfillCounters, BackfillRates, BackfillStatus, Outcome, WalkStatus};
use std::sync::Arc;

/// From the moment at which something was not known to be equal to the one at which all is.
#[derive(Debug, Default)]
struct Run {
    began_us: u64,
    /// Everything that was walked has been restored.
    over: bool,
    /// Keys of databases that have been walked to their end.
    keys: u64,
    /// Bytes of images sent to the mirror.
    bytes: u64,
    /// When the last second began, and keys and bytes by then.
    measured: (u64, u64, u64),
    /// Keys and bytes in the second before.
    per_second: (u64, u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backfill {
    /// The operator lets it rest.
    pub paused: bool,
    /// It was asked for, where it does not begin by itself.
    asked: bool,
    /// Keys and bytes per second, as configured.
    configured: (u64, u64),
    keys: Rate,
    bytes: Rate,
    ticked_us: u64,
    run: Option<Run>,
    totals: BackfillCounters,
}

impl Backfill {
    pub fn new(keys: u64, bytes: u64) -> Backfill {
        Backfill {
            paused: false,
            asked: false,
            configured: (keys, bytes),
            keys: Rate::new(keys),
            bytes: Rate::new(bytes),
            ticked_us: 0,
            run: None,
            totals: BackfillCounters::default(),
        }
    }

    /// Whether another key may be handed to the ledger, while so many of them wait there.
    pub fn has_room(&self, waiting: usize) -> bool {
        // How large a key is, is known when it has been read.
        let most = if self.bytes.per_second > 0 { BOUNDED_KEYS } else { limits::SCAN_AHEAD_MAX };
        waiting < most && self.keys.is_open() && self.bytes.is_open()
    }

    /// A key was handed to the ledger.
    pub fn note_key(&mut self) {
        self.keys.take(1);
    }

    /// A walk met so many keys.
    pub fn note_walked(&mut self, keys: u64) {
        self.totals.keys += keys;
    }

    /// A database has been walked to its end.
    pub fn note_ended(&mut self, keys: u64) {
        if let Some(run) = &mut self.run {
            run.keys += keys;
        }
    }

    fn set_rates(&mut self, rates: BackfillRates) {
        let configured = |asked: u64, configured: u64| if asked == 0 { configured } else { asked };
        if let Some(keys) = rates.keys {
            self.keys = Rate::new(configured(keys, self.configured.0));
        }
        if let Some(bytes) = rates.bytes {
            self.bytes = Rate::new(configured(bytes, self.configured.1));
        }
    }
}

impl Sequencer {
    /// Whether databases in doubt are walked.
    pub(super) fn backfills(&self) -> bool {
        self.settings.backfill || self.backfill.asked
    }

    /// Keys that a walk put into the ledger and that are not healed yet.
    pub(super) fn backfilling(&self) -> usize {
        self.ledger.healing(Cause::Backfill) + self.ledger.healing(Cause::Extra)
    }

    pub(super) fn start_backfill(&mut self, ticket: u64, rates: BackfillRates) {
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off; `twinlane mirror start` begins it, and everything is copied then");
        }
        if self.lost.is_some() {
            return self.refuse(ticket, "the primary lost its data, and nobody has decided yet which side goes on");
        }
        if !self.scans.is_done() && self.backfills() {
            let reason = if self.backfill.paused { "the backfill is paused; let it go on" } else { "a backfill is under way" };
            return self.refuse(ticket, reason);
        }
        self.backfill.set_rates(rates);
        (self.backfill.asked, self.backfill.paused) = (true, false);
        for (db, key) in self.ledger.retry_unmirrorable() {
            self.clear_alarm(&unmirrorable(db, &key));
        }
        self.want_unknown();
        self.log(false, "a backfill was asked for");
        self.answer(ticket, Outcome::Done);
    }

    /// Databases of which not every key is known to be equal are walked.
    fn want_unknown(&mut self) {
        let extras = self.settings.new_data == super::NewData::Ours;
        self.refresh_keyspaces();
        let databases: Vec<Db> = self.sides.iter().flat_map(|side| side.keyspace.iter().copied()).collect();
        for db in databases {
            if !self.synced.is_whole(db) && !self.scans.wants(db) {
                self.scans.want(db, extras);
            }
        }
    }

    pub(super) fn set_backfill_rate(&mut self, ticket: u64, rates: BackfillRates) {
        self.backfill.set_rates(rates);
        self.answer(ticket, Outcome::Done);
    }

    pub(super) fn pause_backfill(&mut self, ticket: u64, paused: bool) {
        if paused && (self.scans.is_idle() || !self.backfills() || !self.record.mirroring) {
            return self.refuse(ticket, "no backfill is under way");
        }
        if !paused && !self.backfill.paused {
            return self.refuse(ticket, "the backfill is not paused");
        }
        self.backfill.paused = paused;
        self.log(false, if paused { "the backfill is paused" } else { "the backfill goes on" });
        self.answer(ticket, Outcome::Done);
    }

    /// An image was sent to the mirror.
    pub(super) fn note_backfilled(&mut self, db: Db, key: &Arc<[u8]>, bytes: usize) {
        if !self.ledger.get(db, key).is_some_and(|entry| matches!(entry.cause, Cause::Backfill | Cause::Extra)) {
            return;
        }
        self.backfill.bytes.take(bytes as u64);
        self.backfill.totals.bytes += bytes as u64;
        if let Some(run) = &mut self.backfill.run {
            run.bytes += bytes as u64;
        }
    }

    /// Pace, bounds, and how far it is.
    pub(super) fn tick_backfill(&mut self) {
        let now = self.now.us;
        let elapsed = now.saturating_sub(std::mem::replace(&mut self.backfill.ticked_us, now)).min(ELAPSED_MAX_US);
        let waiting = self.backfilling();
        let walks = self.record.mirroring && self.backfills() && !self.scans.is_done();
        if walks && self.backfill.run.as_ref().is_none_or(|run| run.over) {
            self.backfill.run = Some(Run { began_us: now, measured: (now, 0, 0), ..Run::default() });
        }
        if !self.scans.is_idle() || waiting > 0 {
            self.backfill.keys.refill(elapsed);
            self.backfill.bytes.refill(elapsed);
        }
        let done = self.backfilled_keys();
        let Some(run) = self.backfill.run.as_mut().filter(|run| !run.over) else { return };
        let (since, keys, bytes) = run.measured;
        if now.saturating_sub(since) >= 1_000_000 {
            let rate = |more: u64| more * 1_000_000 / (now - since);
            run.per_second = (rate(done.saturating_sub(keys)), rate(run.bytes - bytes));
            run.measured = (now, done, run.bytes);
        }
        if walks || waiting > 0 || !self.scans.is_done() || !self.spill.is_empty() {
            return;
        }
        (run.over, run.per_second) = (true, (0, 0));
        self.backfill.asked = false;
        let (bytes, seconds) = (run.bytes, now.saturating_sub(run.began_us) / 1_000_000);
        self.log(false, format!("the backfill has ended: {done} keys, {bytes} bytes of images, {seconds} s"));
    }

    /// Keys of the present run that are known to be equal.
    fn backfilled_keys(&self) -> u64 {
        let ended = self.backfill.run.as_ref().map_or(0, |run| run.keys);
        let walked: u64 = self.scans.told().map(|told| self.walked(&told)).sum();
        (ended + walked).saturating_sub(self.backfilling() as u64)
    }

    /// Keys that are done, and of how many, until both sides are connected and the databases are listed: what an earlier process
    /// walked is gone on with then.
    fn unlisted_keys(&self) -> (u64, u64) {
        let databases = self.sides[self.primary().index()].keys.keys();
        let keys_of = |db: &Db| {
            let keys = self.keys_of_primary(*db);
            match self.left_known(*db) {
                Known::Equal | Known::Unaligned => (0, 0),
                Known::Walked { on_mirror: true, .. } => (keys, keys),
                Known::Walked { on_mirror: false, cursor } => ((share(cursor) * keys as f64) as u64, keys),
                Known::Nothing => (0, keys),
            }
        };
        databases.map(keys_of).fold((0, 0), |(done, all), (walked, keys)| (done + walked, all + keys))
    }

    /// Keys of the primary in a database, without the reserved one, at the last look.
    fn keys_of_primary(&self, db: Db) -> u64 {
        let side = &self.sides[self.primary().index()];
        let keys = side.keys.get(&db).copied().unwrap_or(0);
        keys.saturating_sub(u64::from(db == 0 && side.marked))
    }

    /// What a walk has met; where it went on behind a restart, the share in front is reckoned from the cursor.
    pub(super) fn walked(&self, told: &Told) -> u64 {
        (told.share_before * self.keys_of_primary(told.db) as f64) as u64 + told.visited
    }

    fn walk_status(&self, told: &Told) -> WalkStatus {
        let walked = self.walked(told);
        let on_mirror = told.on_mirror;
        let keys = if on_mirror { walked } else { walked.max(self.keys_of_primary(told.db)) };
        let walks = if on_mirror { self.mirror_side() } else { self.primary() };
        WalkStatus { db: told.db, walks, keys_done: walked, keys_estimate: keys }
    }

    /// What the walk waits for, apart from its pace.
    fn backfill_waits(&self) -> Option<String> {
        if self.lost.is_some() {
            return Some("the primary lost its data, and nobody has decided yet".into());
        }
        if let Some(side) = Endpoint::BOTH.into_iter().find(|side| !self.sides[side.index()].is_up()) {
            return Some(format!("`{side}` is not connected"));
        }
        if self.holding || self.flip.as_ref().is_some_and(super::flip::Flip::is_committing) {
            return Some("a flip is under way".into());
        }
        if self.fences.has_barrier() || self.mirror_owes() {
            return Some("a command that touches whole databases is under way".into());
        }
        match &self.mirror.mode {
            Mode::Following => None,
            Mode::Collapsing => Some("the mirror is behind its bounds".into()),
            Mode::Paused { cause, .. } => Some(format!("the mirror refuses writes: {cause}")),
        }
    }

    /// Why what is left cannot be copied at all.
    fn backfill_failure(&self) -> Option<String> {
        let walks: Vec<Db> = self.scans.databases();
        if !walks.is_empty() && walks.iter().all(|db| self.is_refused(*db)) {
            return Some(format!("a side does not have database {}", walks[0]));
        }
        let keys = self.ledger.unmirrorable();
        (keys > 0 && self.scans.is_done())
            .then(|| format!("{keys} keys cannot be copied to `{}`; the alarms name them", self.mirror_side()))
    }

    /// How it stands.
    pub(super) fn backfill_status(&self) -> BackfillStatus {
        let Backfill { keys, bytes, run, paused, .. } = &self.backfill;
        let mut status = BackfillStatus {
            rate_limit: keys.per_second,
            bytes_limit: bytes.per_second,
            realigning: self.scans.realigning(),
            waiting: self.backfilling() as u64,
            ..BackfillStatus::default()
        };
        let walked = self.scans.is_done();
        // An earlier process may have left keys of its backfill on the disk.
        let running = !walked || run.as_ref().map_or(!self.spill.is_empty(), |run| !run.over) || status.waiting > 0;
        (status.state, status.reason) = match () {
            () if !self.record.mirroring => ("idle", Some("mirroring is off".into())),
            () if !walked && !self.backfills() => ("idle", Some("`mirror.backfill` is off, and nobody has asked for one".into())),
            () if !walked && *paused => ("paused", None),
            () => match self.backfill_failure() {
                Some(reason) if !running || !walked => ("failed", Some(reason)),
                _ if running => ("running", None),
                _ => ("done", None),
            },
        };
        if status.state == "idle" {
            return status;
        }
        let ended = run.as_ref().map_or(0, |run| run.keys);
        status.databases = self.scans.told().map(|told| self.walk_status(&told)).collect();
        status.keys_done = self.backfilled_keys();
        status.keys_estimate = ended + status.databases.iter().map(|walk| walk.keys_estimate).sum::<u64>();
        if self.scans.is_unlisted() {
            (status.keys_done, status.keys_estimate) = self.unlisted_keys();
        }
        if let Some(run) = run {
            status.bytes_done = run.bytes;
            (status.rate, status.bytes_per_second) = run.per_second;
        }
        if status.state == "running" {
            status.waits_for = self.backfill_waits();
            let left = status.keys_estimate.saturating_sub(status.keys_done);
            status.eta_s = (status.rate > 0).then(|| left.div_ceil(status.rate));
        }
        status
    }

    pub(super) fn backfill_counters(&self) -> BackfillCounters {
        self.backfill.totals
    }
}

/// Keys in the ledger at a time under a bound by bytes: so many may pass it.
const BOUNDED_KEYS: usize = 8;

/// Time between two ticks that counts at most for a bound by the second, microseconds.
const ELAPSED_MAX_US: u64 = 1_000_000;
