//! Repairs that an operator asks for: one key, keys that match a pattern, everything, and the keys that a verify found on the mirror
//! alone; and how fast keys in doubt are healed. Nothing on the mirror that the primary does
//! not have is deleted without the operator's word, and before it is given, it is told how many keys that would be, with samples,
//! and of which endpoint (I5). An image does the rest: at its position it tells whether the primary still does not have the key.

use super::super::Sequencer;
use super::super::opening::lacks_lane;
use super::super::pace::{Pace, Rate};
use super::Job;
use crate::divergence::ExtraKeys;
use crate::doubt::{Cause, WideCause};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use crate::status::{Outcome, RepairStatus};

/// A key that is to be repaired, while the primary is asked whether it has it.
#[derive(Debug)]
pub(in crate::sequencer) struct Asked {
    pub ticket: u64,
    db: Db,
    key: Vec<u8>,
}

/// Keys that match a pattern, on their way into the ledger.
#[derive(Debug)]
struct Sweep {
    db: Db,
    pattern: Vec<u8>,
    cursor: Vec<u8>,
    /// A page is on its way.
    asked: bool,
    /// That page was asked for of another server, or of another database.
    stale: bool,
    marked: u64,
    done: bool,
}

/// See the module.
#[derive(Debug)]
pub(in crate::sequencer) struct Repairs {
    /// The one under way, or the last one.
    sweep: Option<Sweep>,
    /// What the operator allows by the second.
    rate: Rate,
    /// How repairs give way to clients, and the keys that may be read now while there are any. Below zero: a large one took more than there was.
    pace: Pace,
    left: i64,
    /// When that was brought up to date, microseconds, and what was left of a key then, in parts of [`TICK_US`].
    at: u64,
    fraction: u64,
}

impl Repairs {
    /// So many keys a second at most; 0: no bound.
    pub fn new(per_second: u64) -> Repairs {
        Repairs { sweep: None, rate: Rate::new(per_second), pace: Pace::new(PACE_KEYS.0, PACE_KEYS.1, 0), left: 0, at: 0, fraction: 0 }
    }

    /// The share of a tick comes in as the time passes, an eighth at a time: a whole one at once is a burst that clients' commands wait behind,
    /// on the way through the proxy and on both servers; key by key, each has system calls of its own.
    fn accrue(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.at).min(TICK_US);
        if passed < TICK_US / 8 {
            return;
        }
        let gained = self.pace.keys * passed + self.fraction;
        self.at = now_us;
        self.fraction = gained % TICK_US;
        // What a large key took beyond its share is paid back first; what nobody takes is kept for one tick.
        self.left = self.left.saturating_add((gained / TICK_US) as i64).min(self.pace.keys as i64);
    }

    /// A key was read on the primary in so many microseconds.
    pub fn note_wait(&mut self, us: u64) {
        self.pace.note_wait(us);
    }

    /// A key is so large: it takes the place of some.
    pub fn note_size(&mut self, bytes: usize) {
        self.left -= (bytes / KEY_BYTES).min(LARGEST_KEYS) as i64;
    }
}

/// Keys per tick of 10 ms while clients use the primary: 2,500 a second at least, so that a hundred thousand are healed within a minute beside them.
const PACE_KEYS: (u64, u64) = (25, 512);

/// A key that is larger counts as several, but not as more than this: what is so large goes in pieces.
const KEY_BYTES: usize = 4096;
const LARGEST_KEYS: usize = 1024;

/// Between two ticks, microseconds.
const TICK_US: u64 = 10_000;

/// Samples that are told before keys are deleted.
const SAMPLES: usize = 10;

impl Sequencer {
    /// Deletes what the last verify found on the mirror alone, if the operator confirms how many that are.
    pub(in crate::sequencer) fn repair_extras(&mut self, ticket: u64, confirm: Option<u64>) {
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off");
        }
        let count = self.verify.extras.len() as u64;
        if confirm != Some(count) {
            let samples = self.verify.extras.iter().take(SAMPLES).cloned().collect();
            return self.answer(ticket, Outcome::ToConfirm(ExtraKeys { count, samples, endpoint: self.mirror_side() }));
        }
        let position = self.next_position();
        for (db, key) in std::mem::take(&mut self.verify.extras) {
            self.mark_dirty(db, &key, Cause::Extra, position);
        }
        self.log(true, format!("{count} keys that only `{}` has are deleted there, by the operator's word", self.mirror_side()));
        self.answer(ticket, Outcome::Done);
    }

    /// Copies one key anew, if the primary has it.
    pub(in crate::sequencer) fn repair_key(&mut self, ticket: u64, db: Db, key: Vec<u8>) {
        let primary = self.primary();
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off");
        }
        if key.starts_with(super::super::RESERVED_PREFIX) {
            return self.refuse(ticket, "keys of this prefix are the proxy's own");
        }
        if let Err(why) = self.can_read(primary, db) {
            return self.refuse(ticket, why);
        }
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"EXISTS", &key]);
        self.push_reading(primary, db, &frame, 1, Job::Repair(Asked { ticket, db, key }));
    }

    pub(super) fn answer_repair(&mut self, asked: Asked, reply: Reply<'_>) {
        let Asked { ticket, db, key } = asked;
        match reply.integer() {
            Some(1) => {
                let position = self.next_position();
                self.mark_dirty(db, &key, Cause::Verifier, position);
                self.answer(ticket, Outcome::Done);
            }
            Some(_) => self.refuse(
                ticket,
                "the primary does not have this key; what only the mirror has is deleted by `delete_extra` after a verify found it",
            ),
            None => self.refuse(ticket, format!("the primary answered {}", String::from_utf8_lossy(reply.text()))),
        }
    }

    /// Copies every key of the primary that matches a pattern anew, page by page.
    pub(in crate::sequencer) fn repair_pattern(&mut self, ticket: u64, db: Db, pattern: Vec<u8>) {
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off");
        }
        if self.verify.repairs.sweep.as_ref().is_some_and(|sweep| !sweep.done) {
            return self.refuse(ticket, "a repair of a pattern is under way; `GET /v1/repair` shows how far it is");
        }
        if let Err(why) = self.can_read(self.primary(), db) {
            return self.refuse(ticket, why);
        }
        self.verify.repairs.sweep = Some(Sweep { db, pattern, cursor: b"0".to_vec(), asked: false, stale: false, marked: 0, done: false });
        self.answer(ticket, Outcome::Done);
    }

    /// Puts everything in doubt, so that all of it is copied anew.
    pub(in crate::sequencer) fn repair_all(&mut self, ticket: u64) {
        if !self.record.mirroring || self.lost.is_some() || !self.settings.backfill {
            return self.refuse(ticket, "mirroring is off, the backfill is off, or the primary lost its data: nothing would be copied");
        }
        self.log(true, "everything is copied anew, by the operator's word");
        self.unsync(&[], WideCause::Operator);
        self.refresh_keyspaces();
        self.answer(ticket, Outcome::Done);
    }

    /// Asks for the next page of the keys that match.
    pub(in crate::sequencer) fn pump_sweep(&mut self) -> bool {
        let Some(sweep) = &self.verify.repairs.sweep else { return false };
        let crowded = self.ledger.crowd() > limits::SCAN_AHEAD_MAX;
        if sweep.done || sweep.asked || crowded || !self.record.mirroring || self.lost.is_some() || self.flip.is_some() {
            // A flip waits for a moment without doubt, and this makes doubt all the time: it goes on afterwards.
            return false;
        }
        let (db, primary) = (sweep.db, self.primary());
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"SCAN", &sweep.cursor, b"MATCH", &sweep.pattern, b"COUNT", &number(limits::SCAN_PAGE as i64)]);
        if self.can_read(primary, db).is_err() || lacks_lane(&self.sides, db) {
            return false;
        }
        self.push_reading(primary, db, &frame, 1, Job::Sweep);
        if let Some(sweep) = &mut self.verify.repairs.sweep {
            sweep.asked = true;
        }
        true
    }

    pub(super) fn answer_sweep(&mut self, reply: Reply<'_>) {
        let Some(sweep) = &mut self.verify.repairs.sweep else { return };
        sweep.asked = false;
        if std::mem::take(&mut sweep.stale) {
            return;
        }
        let mut parts = reply.elements();
        let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else {
            sweep.done = true;
            return self.log(true, format!("a repair of a pattern ended: the primary answered {}", String::from_utf8_lossy(reply.text())));
        };
        let db = sweep.db;
        sweep.cursor = cursor.text().to_vec();
        sweep.done = sweep.cursor == b"0";
        let keys: Vec<&[u8]> = keys.elements().map(Reply::text).filter(|key| !key.starts_with(super::super::RESERVED_PREFIX)).collect();
        sweep.marked += keys.len() as u64;
        let (done, marked) = (sweep.done, sweep.marked);
        let position = self.next_position();
        keys.iter().for_each(|key| self.mark_dirty(db, key, Cause::Verifier, position));
        if done {
            self.log(false, format!("{marked} keys that match the operator's pattern are copied anew"));
        }
    }

    /// A page was lost with its connection.
    pub(super) fn lose_sweep(&mut self) {
        if let Some(sweep) = &mut self.verify.repairs.sweep {
            (sweep.asked, sweep.stale) = (false, false);
        }
        self.restart_sweep("the connection was lost");
    }

    /// A cursor is valid for one life of a server and one database of it (H43): the walk begins anew.
    pub(in crate::sequencer) fn restart_sweep(&mut self, why: &str) {
        let Some(sweep) = self.verify.repairs.sweep.as_mut().filter(|sweep| !sweep.done) else { return };
        sweep.stale = sweep.asked;
        if sweep.cursor != b"0" {
            sweep.cursor = b"0".to_vec();
            self.log(false, format!("the repair of a pattern begins anew: {why}"));
        }
    }

    /// Two databases changed places: what was to be repaired has the other number.
    pub(super) fn swap_sweep(&mut self, a: Db, b: Db) {
        let Some(sweep) = self.verify.repairs.sweep.as_mut().filter(|sweep| !sweep.done && (sweep.db == a || sweep.db == b)) else {
            return;
        };
        sweep.db = if sweep.db == a { b } else { a };
        let db = sweep.db;
        self.restart_sweep(&format!("SWAPDB made its database number {db}"));
    }

    /// As [`Sequencer::restart_sweep`], if it walks this database.
    pub(super) fn restart_sweep_of(&mut self, db: Db, why: &str) {
        if self.verify.repairs.sweep.as_ref().is_some_and(|sweep| sweep.db == db) {
            self.restart_sweep(why);
        }
    }

    pub(in crate::sequencer) fn repair_status(&self) -> RepairStatus {
        let Some(sweep) = &self.verify.repairs.sweep else { return RepairStatus { state: "idle", ..RepairStatus::default() } };
        RepairStatus {
            state: if sweep.done { "done" } else { "running" },
            db: sweep.db,
            pattern: String::from_utf8_lossy(&sweep.pattern).into_owned(),
            keys_marked: sweep.marked,
        }
    }

    /// Time passes: what may be repaired now.
    pub(in crate::sequencer) fn tick_repairs(&mut self) {
        let commands = self.commands_answered();
        let flips = self.flip.is_some();
        let Repairs { rate, pace, left, .. } = &mut self.verify.repairs;
        rate.refill(TICK_US);
        pace.tick(commands);
        if flips || !pace.busy {
            // What nobody waited for is not paid back.
            *left = (*left).max(0);
        }
    }

    /// One more key may be repaired now. A flip waits for the end of all doubt, and is not made to wait for a rate.
    pub(in crate::sequencer) fn may_repair_one(&mut self) -> bool {
        self.verify.repairs.accrue(self.now.us);
        let Repairs { rate, pace, left, .. } = &self.verify.repairs;
        self.flip.is_some() || (rate.is_open() && (!pace.busy || *left > 0))
    }

    /// One was asked for.
    pub(in crate::sequencer) fn note_repair(&mut self) {
        if self.flip.is_none() {
            self.verify.repairs.rate.take(1);
        }
        self.verify.repairs.left -= 1;
    }

    /// The last verify's list belongs to a mirror that is no longer one.
    pub(in crate::sequencer) fn forget_extras(&mut self) {
        self.verify.extras.clear();
    }
}
