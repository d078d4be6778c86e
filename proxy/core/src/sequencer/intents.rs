//! Intents: what the journal is told before a request leaves for the primary, when the tail may follow, and what a start makes of
//! what an earlier process left (I4).
//!
//! An intent may go when its request was answered by the primary, what scripts wrote there was reported, and the mirror answered
//! everything that had been appended to it by then: what was not confirmed is in the ledger now, with a record of its own. Nobody
//! asks that of single requests. A *round* notes the journal's head and how far each lane is, and waits until all have passed: first
//! the primary's, then their reports, then the mirror's. The intents below that head are retired together.

use super::Sequencer;
use super::lane::{Lane, LaneId};
use crate::command::{Command, Rule};
use crate::doubt::{Cause, WideCause};
use crate::endpoint::{Db, Endpoint};
use crate::journal::{Facts, Journal, JournalStatus, Known, Left, Pages};
use crate::limits;
use crate::resp::encode::parse_integer;
use crate::resp::request::Request;

/// How far a round is. Lanes with the count that their answers must reach.
#[derive(Debug, Default)]
enum Round {
    /// None is under way.
    #[default]
    None,
    /// The primary answers what was appended before the round.
    Primary { end: u64, generation: u64, lanes: Vec<(LaneId, u64)> },
    /// Scripts among it are being reported.
    Reports { end: u64, generation: u64, lanes: Vec<(LaneId, u64)> },
    /// The mirror answers the effects.
    Mirror { end: u64, generation: u64, lanes: Vec<(LaneId, u64)>, since_us: u64 },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Intents {
    pub journal: Option<Journal>,
    round: Round,
    /// Intents below this place are retired.
    retired: u64,
    /// Behind an overflow: when the round that ends at or behind this place has ended, the journal is complete again.
    complete_from: Option<u64>,
    /// What an earlier process knew, until both sides have shown whether it still holds.
    known: Option<Facts>,
    /// Its count of what the primary evicted has not been compared yet.
    evicted_away: bool,
}

impl Intents {
    /// What an earlier process knew of these databases does not hold any more.
    pub fn distrust(&mut self, databases: &[Db]) {
        let Some(facts) = &mut self.known else { return };
        for db in databases {
            if let Some(known) = facts.databases.get_mut(usize::from(*db)) {
                *known = Known::Nothing;
            }
        }
    }
}

const UNSYNCED_JOURNAL: &str = "the journal could not be synced";

/// What a request may write.
pub(super) enum Written<'a> {
    Key(Db, &'a [u8]),
    /// Any key of the database.
    Database(Db),
    /// Any key of any.
    All,
}

impl Sequencer {
    /// Rises with everything in the journal that must be durable before the lanes send, where that is asked for; None: there is no journal.
    #[must_use]
    pub fn journal_changes(&self) -> Option<u64> {
        self.intents.journal.as_ref().map(Journal::changes)
    }

    /// The journal's pages are about to be synced.
    pub fn seal_journal(&mut self) {
        if let Some(journal) = &mut self.intents.journal {
            journal.seal();
        }
    }

    /// Whether the journal's pages could be synced; None: they could, from now on again.
    pub fn handle_journal_synced(&mut self, failure: Option<&str>) {
        match failure {
            None => self.clear_alarm(UNSYNCED_JOURNAL),
            Some(reason) => self
                .alarm(&format!("{UNSYNCED_JOURNAL}: {reason}; a machine that loses its power now leaves less than journal.sync promises")),
        }
    }

    /// The journal's memory, as it stands.
    #[must_use]
    pub fn journal_bytes(&mut self) -> Option<&[u8]> {
        self.intents.journal.as_mut().map(Journal::bytes)
    }

    /// The journal's memory, for who ends the sequencer in the middle and wants to know what it left.
    #[must_use]
    pub fn take_pages(&mut self) -> Option<Pages> {
        self.intents.journal.take().map(Journal::into_pages)
    }

    /// A request is about to be appended to a lane of the primary's.
    pub(super) fn intend(&mut self, db: Db, command: &'static Command, request: &Request<'_>) {
        // PFCOUNT is a read that writes what it has counted.
        let writes = command.writes() || matches!(command.rule, Rule::PfCount | Rule::Script);
        if !writes || !self.record.mirroring || self.settings.faults.no_intents {
            return;
        }
        let undeclared = command.rule == Rule::Script && self.writes_undeclared(command, request);
        let Some(journal) = &mut self.intents.journal else { return };
        if let Some(key) = command.lone_written(request) {
            return journal.intend(db, key);
        }
        written_by(db, command, request, undeclared, |written| match written {
            Written::Key(_, key) if key.starts_with(super::RESERVED_PREFIX) => {}
            Written::Key(db, key) => journal.intend(db, key),
            Written::Database(db) => journal.intend_any(db),
            Written::All => (0..limits::DATABASES_MAX as Db).for_each(|db| journal.intend_any(db)),
        });
    }

    /// As [`Sequencer::intend`], for a frame with several requests, a SELECT among them.
    pub(super) fn intend_frame(&mut self, mut db: Db, frame: &[u8]) {
        super::reply::each_request(frame, |command, request| {
            if command.name == "SELECT" {
                db = parse_integer(request.arg(1)).map_or(db, |index| index as Db);
            }
            self.intend(db, command, request);
        });
    }

    /// A key came into the ledger.
    pub(super) fn note_doubt(&mut self, db: Db, key: &[u8]) {
        if let Some(journal) = &mut self.intents.journal {
            journal.doubt(db, key);
        }
    }

    /// Everything below this place of the journal has been answered by both sides; None: there is no journal.
    pub(super) fn retired_place(&self) -> Option<u64> {
        self.intents.journal.as_ref().map(|_| self.intents.retired)
    }

    /// The mirror is sent what the primary held: from then on it is what a mirror can forget.
    pub(super) fn note_sent(&mut self, db: Db, key: Option<&[u8]>) {
        let Some(journal) = &mut self.intents.journal else { return };
        match key {
            Some(key) => journal.intend(db, key),
            None => journal.intend_any(db),
        }
    }

    /// How much of the spill file the next process must read.
    pub(super) fn note_spill(&mut self) {
        let (begin, end) = self.spill.range();
        if let Some(journal) = &mut self.intents.journal {
            journal.set_spill(begin, end);
        }
    }

    /// Two databases changed places: the ledger's keys have other numbers now.
    pub(super) fn renumber_doubts(&mut self, databases: [Db; 2]) {
        if let Some(journal) = &mut self.intents.journal {
            databases.into_iter().for_each(|db| self.ledger.each(db, |key| journal.doubt(db, key)));
        }
    }

    /// The roles moved, or everything is in doubt anyhow: a round that had begun means nothing.
    pub(super) fn forget_round(&mut self) {
        self.intents.round = Round::None;
    }

    pub(super) fn journal_status(&self) -> Option<JournalStatus> {
        let status = self.intents.journal.as_ref()?.status();
        Some(JournalStatus { complete: status.complete && self.intents.complete_from.is_none(), ..status })
    }

    /// The journal is told what it rests on now: a server that is another process, or has lost its data, ends what was known at once.
    pub(super) fn write_facts(&mut self) {
        // What is still believed of an earlier process's knowledge is all there is until both sides have been met.
        if !self.holds_facts() {
            let facts = self.intents.known.clone().unwrap_or_else(|| self.present_facts());
            if let Some(journal) = &mut self.intents.journal {
                journal.set_facts(&facts);
            }
        }
    }

    /// Time passes: facts first, then the round, then the tail.
    pub(super) fn tick_intents(&mut self) {
        if self.intents.journal.is_none() {
            return;
        }
        self.write_facts();
        self.begin_anew();
        // Each step looks at what the one before has found; with idle lanes all of them end at once.
        while self.step_round() {}
        let Intents { journal: Some(journal), retired, .. } = &mut self.intents else { return };
        let ledger = &self.ledger;
        journal.retire(*retired, limits::INTENTS_RETIRED_MAX, |db, key| ledger.get(db, key).is_some());
    }

    /// Behind an overflow, when the ledger is small again: every key of it gets a record, and from then on every intent.
    fn begin_anew(&mut self) {
        let Intents { journal: Some(journal), round, complete_from, .. } = &mut self.intents else { return };
        if !journal.is_full() || self.ledger.len() as u64 * RECORD_BYTES_TYPICAL > journal.capacity() / 4 {
            return;
        }
        journal.begin_anew();
        for db in 0..limits::DATABASES_MAX as Db {
            self.ledger.each(db, |key| journal.doubt(db, key));
        }
        *round = Round::None;
        *complete_from = Some(journal.head());
    }

    /// True when the round went on.
    fn step_round(&mut self) -> bool {
        let next = match &self.intents.round {
            Round::None => {
                let Some(journal) = &self.intents.journal else { return false };
                let nothing = self.intents.retired >= journal.head() && self.intents.complete_from.is_none();
                if nothing || journal.is_full() {
                    return false;
                }
                let (end, side) = (journal.head(), self.primary());
                let lanes = self.passing(side, |lane| (!lane.in_flight.is_empty()).then_some(lane.appended));
                Round::Primary { end, generation: self.sides[side.index()].generation, lanes }
            }
            Round::Primary { end, generation, lanes } => {
                let (end, side) = (*end, self.primary());
                if !self.have_passed(side, *generation, lanes) || !self.again.is_empty() {
                    return false;
                }
                // What a script wrote is reported before the reply to what was appended behind its own reply.
                let lanes = self.passing(side, |lane| lane.is_unreported().then_some(lane.script_until + 1));
                Round::Reports { end, generation: self.sides[side.index()].generation, lanes }
            }
            Round::Reports { end, generation, lanes } => {
                if !self.have_passed(self.primary(), *generation, lanes) {
                    return false;
                }
                let (end, side) = (*end, self.mirror_side());
                let lanes = self.passing(side, |lane| (!lane.in_flight.is_empty()).then_some(lane.appended));
                Round::Mirror { end, generation: self.sides[side.index()].generation, lanes, since_us: self.now.us }
            }
            Round::Mirror { end, generation, lanes, since_us } => {
                let told = self.events_told(*since_us);
                let passed = self.have_passed(self.mirror_side(), *generation, lanes) && self.wreck.is_empty();
                if !passed || self.mirror_owes() || !told || !self.doubts.is_empty() {
                    return false;
                }
                self.intents.retired = *end;
                if self.intents.complete_from.is_some_and(|from| from <= self.intents.retired) {
                    self.intents.complete_from = None;
                    if let Some(journal) = &mut self.intents.journal {
                        journal.set_complete();
                    }
                }
                self.intents.round = Round::None;
                return self.intents.journal.as_ref().is_some_and(|journal| journal.head() > self.intents.retired) && self.is_quiet();
            }
        };
        self.intents.round = next;
        true
    }

    /// Nothing is in flight at all: the next round ends at once.
    fn is_quiet(&self) -> bool {
        self.sides.iter().all(super::sides::Side::is_idle)
    }

    /// Lanes that the round waits for. On a connection of a session's own only writes count: a WAIT may take for ever.
    fn passing(&self, side: Endpoint, count: impl Fn(&Lane) -> Option<u64>) -> Vec<(LaneId, u64)> {
        let state = &self.sides[side.index()];
        let own = state.own.values().filter(|own| own.writes()).map(|own| (own.id, &own.lane));
        state.lanes().chain(own).filter_map(|(id, lane)| Some((id, count(lane)?))).collect()
    }

    /// Whether every lane has answered that many, or is gone: what was in flight on it is in the ledger then.
    fn have_passed(&self, side: Endpoint, generation: u64, lanes: &[(LaneId, u64)]) -> bool {
        let state = &self.sides[side.index()];
        state.generation != generation
            || !state.is_up()
            || lanes.iter().all(|(id, count)| self.lane(*id).is_none_or(|lane| lane.answered >= *count))
    }

    /// Whether the journal holds the present facts already, which is so in most ticks.
    fn holds_facts(&self) -> bool {
        let Some(journal) = &self.intents.journal else { return true };
        let run_id = |side: Endpoint| self.sides[side.index()].run_id().unwrap_or_default();
        let relied = self.is_relied_on();
        self.intents.known.is_none()
            && journal.holds(self.record.epoch, Endpoint::BOTH.map(run_id), self.evicted_facts(), self.expiry.delay_max_us, |db| {
                if relied { self.known(db) } else { Known::Nothing }
            })
    }

    /// Whether anything is known of any database.
    fn is_relied_on(&self) -> bool {
        // A connection that could not be killed may write what nobody has written down.
        let unsure = self.sides.iter().any(|side| side.zombies_until > self.now.us || side.run_id().is_none());
        self.record.mirroring && self.lost.is_none() && !unsure
    }

    /// Databases that a side does not have are not worth a word.
    fn known(&self, db: Db) -> Known {
        let there = self.sides.iter().all(|side| usize::from(db) < side.databases);
        if there { self.scans.known(db) } else { Known::Nothing }
    }

    /// What the records rest on now.
    fn present_facts(&self) -> Facts {
        let mut facts = Facts {
            epoch: self.record.epoch,
            run_ids: Endpoint::BOTH.map(|side| self.run_id(side)),
            evicted_keys: self.evicted_facts(),
            delay_max_us: self.expiry.delay_max_us,
            ..Facts::default()
        };
        if self.is_relied_on() {
            facts.databases.iter_mut().enumerate().for_each(|(number, known)| *known = self.known(number as Db));
        }
        facts
    }

    /// A start: what an earlier process left. Keys are doubtful at once; of the databases nothing is believed before both sides
    /// have shown that they are the servers it knew.
    pub(super) fn take_over(&mut self, left: Left) {
        let (mut facts, keys, spilled) = match left {
            Left::Nothing => return,
            Left::Unknown(reason) => return self.log(true, format!("the journal says nothing: {reason}; every key is copied anew")),
            Left::Known { facts, keys, spilled } => (facts, keys, spilled),
        };
        // A flip, or a word on mirroring, whose record was written and whose facts were not.
        match self.record.epoch.checked_sub(facts.epoch) {
            Some(0) => {}
            Some(1) => facts.databases.iter_mut().for_each(|known| {
                *known = if matches!(known, Known::Equal | Known::Unaligned) { Known::Unaligned } else { Known::Nothing };
            }),
            _ => facts.databases.fill(Known::Nothing),
        }
        if !self.record.mirroring {
            return;
        }
        if self.lost.is_some() {
            // Of no database anything was known: that process knew of the loss too, and these keys may be what clients wrote since.
            let knew = facts.databases.iter().all(|known| *known == Known::Nothing);
            if knew && !(keys.is_empty() && spilled.0 >= spilled.1) {
                self.alarm_unnamed("restart");
            }
            return;
        }
        self.spill.inherit(spilled.0, spilled.1);
        self.log(
            false,
            format!("the journal names {} keys that may differ, and {} on the disk; they are repaired", keys.len(), self.spill.keys()),
        );
        for side in Endpoint::BOTH {
            self.sides[side.index()].evicted_keys = facts.evicted_keys[side.index()];
        }
        self.recall_evictions(facts.evicted_keys[self.primary().index()]);
        self.intents.evicted_away = true;
        // Times to live that it wrote are still there.
        self.expiry.delay_max_us = facts.delay_max_us;
        self.intents.known = Some(facts);
        let position = self.next_position();
        for (db, key) in keys.iter().filter(|(_, key)| !key.starts_with(super::RESERVED_PREFIX)) {
            self.mark_dirty(*db, key, Cause::InDoubt, position);
        }
    }

    /// A side is connected: whether it is the server that the journal knew.
    pub(super) fn check_known(&mut self, side: Endpoint, marked: bool) {
        let Some(facts) = &self.intents.known else { return };
        let known = &facts.run_ids[side.index()];
        if !marked || known.is_empty() || *known != self.run_id(side) {
            self.log(true, format!("`{side}` is not the server that the journal knew, or has lost its keys: every key is copied anew"));
            self.intents.known = None;
            self.expiry.delay_max_us = 0;
            self.sides[side.index()].evicted_keys = None;
            if side == self.primary() {
                self.recall_evictions(None);
            }
            self.intents.evicted_away = false;
        }
    }

    /// What an earlier process left written of a database, until it is taken.
    pub(super) fn left_known(&self, db: Db) -> Known {
        let facts = self.intents.known.as_ref();
        facts.and_then(|facts| facts.databases.get(usize::from(db))).copied().unwrap_or_default()
    }

    /// Both sides are connected and every database would be walked: what the journal knows is taken instead. None: it knows nothing.
    pub(super) fn take_known(&mut self) -> Option<Facts> {
        let facts = self.intents.known.take()?;
        for side in &mut self.sides {
            // Until the first look has told, a key may have a time to live in each of them.
            side.keyspace.iter().for_each(|db| _ = side.expires.entry(*db).or_insert(1));
        }
        Some(facts)
    }

    /// The first look at a side behind a start: what it evicted meanwhile is not written down.
    pub(super) fn note_evicted_away(&mut self, side: Endpoint, before: Option<u64>, evicted_keys: u64) {
        if side != self.primary() || !std::mem::take(&mut self.intents.evicted_away) {
            return;
        }
        // Fewer: its counters were reset meanwhile.
        if before.is_some_and(|before| evicted_keys != before) {
            self.log(true, "the primary evicted keys while the proxy was not running: every key is copied anew");
            self.unsync(&[], WideCause::PrimaryEvicted);
            if self.settings.new_data == super::NewData::Ours {
                // The copy accounts for them.
                self.sides[side.index()].evicted_keys = None;
            }
        }
    }
}

/// Tells `each` what a request in `db` may write. `undeclared`: it runs a script that may write keys it does not name.
pub(super) fn written_by(db: Db, command: &Command, request: &Request<'_>, undeclared: bool, mut each: impl FnMut(Written<'_>)) {
    for key in command.keys(request).filter(|key| key.used.writes()) {
        each(Written::Key(db, key.name));
    }
    let number = |at: usize| parse_integer(request.arg(at)).map(|index| index as Db).filter(|db| usize::from(*db) < limits::DATABASES_MAX);
    match command.rule {
        Rule::FlushDb => each(Written::Database(db)),
        Rule::FlushAll => each(Written::All),
        Rule::Script if undeclared => each(Written::Database(db)),
        Rule::SwapDb => [number(1), number(2)].into_iter().flatten().for_each(|db| each(Written::Database(db))),
        Rule::Move => number(2).into_iter().for_each(|to| each(Written::Key(to, request.arg(1)))),
        Rule::Copy => {
            if let Some(to) = (3..request.len()).find(|at| request.is(*at, "DB")).and_then(|at| number(at + 1)) {
                each(Written::Key(to, request.arg(2)));
            }
        }
        _ => {}
    }
}

/// Bytes of a record with a key of a common length, for the question whether the ledger fits.
const RECORD_BYTES_TYPICAL: u64 = 64;
