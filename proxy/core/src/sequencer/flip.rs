//! The flip: gate, arm, hold, drain, check, commit, swap, release.
//!
//! The hard case is doubt that appears during the drain: the last confirmation of the mirror may be a mismatch, and after the
//! swap the wrong value would be the truth. So the conditions are evaluated again behind the drain, at that position (H7). The
//! decision to abort is taken before the record is written; once it is being written there is only forward (H8).

use super::mirror::{Mode, UNNAMED_SINCE_LOSS};
use super::{Action, Record, Sequencer};
use crate::doubt::WideCause;
use crate::endpoint::Endpoint;
use crate::status::Outcome;

/// Where a flip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Clients go on; we wait until a drain would be short.
    Arming,
    /// Requests are held; everything in flight is being answered.
    Draining,
    /// The record is being written: there is only forward.
    Committing,
}

/// The question behind the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Census {
    Due,
    /// So many answers are due.
    Asked(u8),
    Answered,
}

/// A flip under way.
#[derive(Debug)]
pub(super) struct Flip {
    ticket: u64,
    to: Endpoint,
    force_primary_lost: bool,
    phase: Phase,
    began: u64,
    held_at: u64,
    /// Whether both sides were asked, behind the drain, what they have evicted.
    census: Census,
    /// Connections that were opened to take watches over.
    pub standby: usize,
    /// A key came into doubt behind the question what is watched: it may have been written.
    doubted: bool,
}

/// How long a flip waits for a moment without a key in doubt before it takes one with a few.
const ARM_PATIENCE_US: u64 = 200_000;

/// How long a flip waits for connections to the other side that take watches over: some ten round trips each, 64 at a time. What has none then is
/// answered nil.
const WATCHES_PATIENCE_US: u64 = 2_000_000;

impl Flip {
    /// The record is being written: nothing may be appended to any lane.
    pub fn is_committing(&self) -> bool {
        self.phase == Phase::Committing
    }

    pub fn word(&self) -> &'static str {
        match self.phase {
            Phase::Arming => "arming",
            Phase::Draining => "draining",
            Phase::Committing => "committing",
        }
    }
}

/// A gate that the operator asked for (`cutover.require_verify`).
pub(super) const NOT_PROVEN: &str =
    "no verify stands that is clean, alive and fresh, and `cutover.require_verify` asks for one: run `twinlane verify`";

impl Sequencer {
    /// Why a flip to the present mirror would be refused now. What passes by itself (a few keys being repaired) is left out when
    /// `lasting` is asked for.
    pub(super) fn gate(&self, force_primary_lost: bool, lasting: bool) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut say = |holds: bool, reason: String| {
            if !holds {
                reasons.push(reason);
            }
        };
        for side in Endpoint::BOTH {
            let state = &self.sides[side.index()];
            say(
                state.is_up(),
                format!("`{side}` ({}) is not connected: {}", state.address, state.error.as_deref().unwrap_or("connecting")),
            );
            say(
                state.error.is_none() || !state.is_up(),
                format!("`{side}` is not healthy: {}", state.error.as_deref().unwrap_or_default()),
            );
            say(
                state.zombies_until <= self.now.us,
                format!(
                    "a dead connection of ours to `{side}` could not be killed and may still write; the gate opens again after the grace time"
                ),
            );
        }
        say(self.record.mirroring, "mirroring is off".into());
        let unproven = self.settings.require_verify && !force_primary_lost && self.primary() == Endpoint::Old && !self.is_proven();
        say(!unproven, NOT_PROVEN.into());
        reasons.extend(self.unopened_reasons());
        if self.lost.is_some() && !force_primary_lost {
            reasons.push("the primary lost its data: flip with force `primary-lost` to go on from the mirror, or accept the loss".into());
        }
        let mut say = |holds: bool, reason: String| {
            if !holds {
                reasons.push(reason);
            }
        };
        if !force_primary_lost {
            say(self.scans.is_done(), self.unsynced_sentence());
        }
        say(self.ledger.unmirrorable() == 0, format!("{} keys cannot be copied to the mirror", self.ledger.unmirrorable()));
        if let Mode::Paused { cause, .. } = &self.mirror.mode {
            say(false, format!("the mirror refuses writes: {cause}"));
        }
        if !lasting {
            let (_, age) = self.mirror_queue();
            say(
                self.has_no_doubt() || force_primary_lost,
                format!("{} keys are in doubt (dirty, or their image is not confirmed)", self.keys_in_doubt()),
            );
            say(self.mirror.mode != Mode::Collapsing, "the mirror is behind its bounds".into());
            say(
                age <= self.settings.flip_lag_max_us,
                format!("the mirror is {} ms behind, more than {} ms", age / 1000, self.settings.flip_lag_max_us / 1000),
            );
            say(!self.mirror_owes(), "a whole-database command waits for the mirror".into());
        }
        reasons
    }

    fn unsynced_sentence(&self) -> String {
        if !self.backfills() {
            return "not every key is known to be on the mirror, and the backfill is off".into();
        }
        if self.backfill.paused {
            return "not every key is known to be on the mirror, and the backfill is paused".into();
        }
        if self.mirror_is_to_swap() {
            return "not every key is known to be on the mirror, and a SWAPDB waits for it".into();
        }
        format!(
            "not every key is known to be on the mirror yet: {} databases are still to be scanned, {} keys visited",
            self.scans.databases().len().max(1),
            self.scans.visited
        )
    }

    pub(super) fn begin_flip(&mut self, ticket: u64, to: Endpoint, force_primary_lost: bool, dry_run: bool) {
        if self.flip.is_some() || !self.saving.is_empty() {
            return self.refuse(ticket, "another operation is under way");
        }
        if to == self.primary() {
            return self.refuse(ticket, format!("`{to}` is the primary already"));
        }
        let force_primary_lost = force_primary_lost && self.lost.is_some();
        let reasons = self.gate(force_primary_lost, !dry_run);
        if !reasons.is_empty() {
            return self.answer(ticket, Outcome::Refused { reasons, aborted: false });
        }
        if dry_run {
            return self.answer(ticket, Outcome::Done);
        }
        let now = self.now.us;
        self.flip = Some(Flip {
            ticket,
            to,
            force_primary_lost,
            phase: Phase::Arming,
            began: now,
            held_at: now,
            census: Census::Due,
            standby: 0,
            doubted: false,
        });
        // From here on nothing lingers that a drain would wait for.
        self.hurry_mirror();
    }

    pub(super) fn pump_flip(&mut self) -> bool {
        let Some(flip) = &self.flip else { return false };
        match flip.phase {
            Phase::Arming => self.arm(),
            Phase::Draining => self.drain(),
            Phase::Committing => false,
        }
    }

    /// Waits, clients unaffected, for a moment in which the drain will be short (H42).
    fn arm(&mut self) -> bool {
        let Some(flip) = &self.flip else { return false };
        let (began, force) = (flip.began, flip.force_primary_lost);
        let lasting = self.gate(force, true);
        let expired = self.now.us.saturating_sub(began) > self.settings.arm_max_us;
        if !lasting.is_empty() {
            self.end_flip(lasting);
            return true;
        }
        // Images under way are drained; keys that wait for theirs are not worth a pause.
        // Unless some are made doubtful all the time: they are healed while everybody is held.
        let waited = self.now.us.saturating_sub(began) > ARM_PATIENCE_US;
        let few = self.dirty_for_flip(force) <= if waited { crate::limits::HELD_REPAIRS_MAX } else { 0 };
        let few = few && !self.spill_delays(force);
        // Large keys are not copied while everybody is held. Where the primary has lost its data, none is copied before.
        let few = few && self.copies.is_idle() && (self.copies.is_empty() || force);
        // A fence does not stand in the way: its request is drained, and while the flip holds no new one is raised.
        let quiet = !self.fences.has_barrier() && few && self.mirror.mode == Mode::Following && !self.mirror_owes();
        let (_, lag) = self.mirror_queue();
        let short = lag <= self.settings.flip_lag_max_us.min(self.settings.pause_budget_us / 2)
            && self.sides[self.primary().index()].age(self.now.us) <= self.settings.pause_budget_us / 2;
        let late = self.now.us.saturating_sub(began) > WATCHES_PATIENCE_US;
        if quiet && short && self.prepare_feeds() && (force || self.prepare_watches() || late) {
            if let Some(flip) = &mut self.flip {
                flip.phase = Phase::Draining;
                flip.held_at = self.now.us;
            }
            self.holding = true;
            return true;
        }
        if expired {
            let mut reasons = self.gate(force, false);
            reasons.push(format!("waited {} ms for a moment in which the pause would be short", self.settings.arm_max_us / 1000));
            self.end_flip(reasons);
            return true;
        }
        false
    }

    /// Waits for every reply of every connection that can write; then the conditions are evaluated again.
    fn drain(&mut self) -> bool {
        let Some(flip) = &self.flip else { return false };
        let (held_at, force, to, census) = (flip.held_at, flip.force_primary_lost, flip.to, flip.census);
        let up = self.sides.iter().all(super::sides::Side::is_up);
        let drained = self.sides.iter().all(super::sides::Side::is_idle);
        let recheck = !self.settings.faults.no_recheck;
        let doubtful = self.dirty_for_flip(force) > 0 || self.spill_delays(force);
        let settled = !doubtful && !self.mirror_owes() && self.mirror.mode == Mode::Following;
        let told = !(up && drained && settled && recheck && self.events_owe());
        if let Some(flip) = self.flip.as_mut().filter(|_| doubtful && census != Census::Due) {
            flip.doubted = true;
        }
        if up && drained && settled && told && census == Census::Due && recheck {
            self.mark_feeds();
            if !force {
                self.hand_watches_over();
            }
            return self.ask_census();
        }
        if up && drained && told && (settled || !recheck) && (!recheck || self.feeds_are_marked() && self.watches_are_handed_over()) {
            let reasons = if recheck { self.gate(force, false) } else { Vec::new() };
            if !reasons.is_empty() {
                self.end_flip(reasons);
                return true;
            }
            if let Some(flip) = &mut self.flip {
                flip.phase = Phase::Committing;
            }
            let record = Record { epoch: self.record.epoch + 1, primary: to, ..self.record.clone() };
            self.actions.push_back(Action::SaveRecord(record));
            return true;
        }
        if !up || self.now.us.saturating_sub(held_at) > self.settings.pause_budget_us {
            let mut reasons = self.gate(force, false);
            let budget = self.settings.pause_budget_us / 1000;
            reasons.push(format!("the drain did not end within the pause budget of {budget} ms{}", self.undrained()));
            self.end_flip(reasons);
            return true;
        }
        false
    }

    /// Dirty keys that a flip waits for. Those that the primary has forgotten are right on the mirror, and are copied from there behind it.
    fn dirty_for_flip(&self, force_primary_lost: bool) -> usize {
        if force_primary_lost { self.ledger.healable() } else { self.ledger.dirty() }
    }

    /// The same of the keys that are in the file.
    fn spill_delays(&self, force_primary_lost: bool) -> bool {
        if force_primary_lost { self.spill.healable() > 0 } else { !self.spill.is_empty() }
    }

    /// What the drain still waits for, for the operator.
    fn undrained(&self) -> String {
        let mut waits = Vec::new();
        for side in Endpoint::BOTH {
            let state = &self.sides[side.index()];
            let flights = |lane: &super::lane::Lane| lane.in_flight.len();
            let owed: usize = state.all_lanes().map(|(_, lane)| flights(lane)).sum();
            if owed > 0 {
                waits.push(format!("{owed} replies of `{side}`"));
            }
            let unreported = state.all_lanes().filter(|(_, lane)| lane.is_unreported()).count();
            if unreported > 0 {
                waits.push(format!("what scripts wrote on {unreported} connections to `{side}`"));
            }
        }
        if !self.has_no_doubt() {
            waits.push(format!("{} keys that are being copied", self.keys_in_doubt()));
        }
        if !self.feeds_are_marked() {
            waits.push("the streams of subscribers".into());
        }
        if !self.watches_are_handed_over() {
            waits.push("what clients watch".into());
        }
        if waits.is_empty() { String::new() } else { format!("; it waited for {}", waits.join(", ")) }
    }

    /// The regular looks are up to a second old; what the mirror evicted meanwhile would be lost with the flip (H14), and what the primary
    /// evicted would come back (H29).
    fn ask_census(&mut self) -> bool {
        let lanes = Endpoint::BOTH.map(|side| super::lane::LaneId::shared(side, 0));
        let now = self.now.us;
        if !lanes.iter().all(|id| self.lane(*id).is_some_and(super::lane::Lane::is_open)) {
            return false;
        }
        for id in lanes {
            if let Some(lane) = self.lane_mut(id) {
                lane.push(&[b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n"], super::lane::What::Census, 1, now);
            }
            self.touch_lane(id);
        }
        if let Some(flip) = &mut self.flip {
            flip.census = Census::Asked(Endpoint::BOTH.len() as u8);
        }
        true
    }

    pub(super) fn answer_census(&mut self, side: Endpoint, reply: crate::resp::reply::Reply<'_>) {
        let text = String::from_utf8_lossy(reply.text()).into_owned();
        let evicted = text.lines().find_map(|line| line.trim_end().strip_prefix("evicted_keys:")).and_then(|count| count.parse().ok());
        if let Some(flip) = &mut self.flip {
            flip.census = if let Census::Asked(due @ 2..) = flip.census { Census::Asked(due - 1) } else { Census::Answered };
        }
        if let Some(evicted) = evicted {
            self.note_evictions(side, evicted);
        }
    }

    /// Undoes a flip that has not been decided, for a reason that was found meanwhile.
    pub(super) fn abandon_flip(&mut self, reason: String) {
        if self.flip.as_ref().is_some_and(|flip| flip.phase != Phase::Committing) {
            self.end_flip(vec![reason]);
        }
    }

    /// Undone: everything goes on with the primary of the present epoch.
    fn end_flip(&mut self, reasons: Vec<String>) {
        let Some(flip) = self.flip.take() else { return };
        let aborted = flip.phase != Phase::Arming;
        self.holding = false;
        self.fence_anew();
        self.turn_feeds(false);
        self.undo_handover();
        self.end_held();
        self.sessions.resume = true;
        if aborted {
            self.totals.flips_aborted += 1;
        }
        self.answer(flip.ticket, Outcome::Refused { reasons, aborted });
    }

    /// The record is durable. `Err` means that nobody knows: the shell stops the process then, rather than guess.
    pub fn handle_record_saved(&mut self, record: &Record, now: super::Now) {
        self.now = now;
        match self.flip.take() {
            Some(flip) if flip.phase == Phase::Committing => self.swap(&flip, record),
            other => {
                self.flip = other;
                self.mirroring_saved(record);
            }
        }
        self.settle();
    }

    fn swap(&mut self, flip: &Flip, record: &Record) {
        self.clear_wreck();
        self.stop_reports(self.primary());
        self.forget_events();
        // What the former primary evicted and the new one still has is missing on the new mirror.
        let evictions_missed = self.evictions_missed();
        self.record = record.clone();
        self.forget_evictions();
        let forced = flip.force_primary_lost;
        self.retire_own(self.mirror_side(), !flip.doubted);
        self.end_standby(self.primary(), crate::limits::OWN_CONNECTIONS_FREE);
        self.forget_lanes();
        self.forget_round();
        self.reset_mirror();
        self.scripts.mirror_is_new();
        self.restart_verify();
        self.forget_extras();
        self.restart_sweep("the roles have moved");
        if forced {
            // The former primary has lost its data: it returns as a mirror of which nothing is known.
            self.end_loss();
            self.ledger.clear();
            self.clear_spill();
            self.unsync(&[], WideCause::Flip);
        } else if self.settings.new_data == super::NewData::Keep || evictions_missed {
            self.unsync(&[], WideCause::Flip);
        } else {
            self.realign();
        }
        self.level_counts();
        self.write_marks();
        self.turn_feeds(true);
        self.holding = false;
        self.totals.flips_done += 1;
        let (held_requests, pause_us) = self.end_held();
        self.sessions.resume = true;
        self.log(true, format!("`{}` is the primary since epoch {}; the longest pause was {} us", record.primary, record.epoch, pause_us));
        self.answer(flip.ticket, Outcome::Flipped { primary: record.primary, epoch: record.epoch, pause_us, held_requests });
    }

    /// The former mirror carries its times to live with the margin, the former primary without: what is volatile would end there
    /// first. So single keys are known to be equal no longer, until their next total write or image sets the times anew.
    fn realign(&mut self) {
        for db in 0..crate::limits::DATABASES_MAX as crate::endpoint::Db {
            let volatile = self.may_be_volatile(db);
            if volatile {
                self.synced.forget(db);
                if self.settings.backfill {
                    self.scans.want_realigned(db);
                }
            }
        }
    }

    /// Turns mirroring on or off, durably first.
    pub(super) fn set_mirroring(&mut self, ticket: u64, on: bool, lose_rollback: bool) {
        if self.flip.is_some() || !self.saving.is_empty() {
            return self.refuse(ticket, "another operation is under way");
        }
        if on == self.record.mirroring {
            return self.answer(ticket, Outcome::Done);
        }
        if !on && self.primary() == Endpoint::New && !lose_rollback {
            return self.refuse(ticket, "`new` is the primary: without mirroring the way back to `old` ends; confirm with lose_rollback");
        }
        let record = Record { epoch: self.record.epoch + 1, mirroring: on, ..self.record.clone() };
        self.saving.push_back((ticket, record.clone()));
        self.actions.push_back(Action::SaveRecord(record));
    }

    fn mirroring_saved(&mut self, record: &Record) {
        let Some((ticket, _)) = self.saving.pop_front() else { return };
        self.record = record.clone();
        self.forget_round();
        self.reset_mirror();
        self.scripts.mirror_is_new();
        self.end_copies(|_| true);
        self.ledger.clear();
        self.clear_spill();
        // Nobody knows what is written while nothing is mirrored.
        self.unsync(&[], WideCause::MirroringOff);
        self.refresh_keyspaces();
        self.write_marks();
        self.log(true, format!("mirroring is {}", if record.mirroring { "on" } else { "off" }));
        self.answer(ticket, Outcome::Done);
    }

    /// The operator accepts that the primary lost its data: the mirror is made equal to it.
    pub(super) fn accept_loss(&mut self, ticket: u64) {
        if self.lost.is_none() {
            return self.refuse(ticket, "the primary has not lost its data");
        }
        self.follow_loss();
        self.answer(ticket, Outcome::Done);
    }

    fn end_loss(&mut self) {
        self.lost = None;
        self.ledger.release();
        self.spill.release();
        self.clear_alarm(UNNAMED_SINCE_LOSS);
        self.clear_alarm("PRIMARY LOST DATA");
    }

    pub(super) fn follow_loss(&mut self) {
        self.end_loss();
        // Where what it lacks is named, it is in the ledger.
        if !self.recent.named {
            self.synced.forget_all();
            // Deletions included: that is what the operator said.
            self.scans.want_all(true);
            self.wide.note(&[], WideCause::LossAccepted, self.now.unix_ms);
            self.refresh_keyspaces();
        }
        self.write_marks();
        self.log(true, "the loss of the primary's data is accepted: the mirror is being made equal to it");
    }
}
