//! Shadow reads: a share of the clients' reads, asked of the mirror at the same position and compared.
//!
//! When the primary's reply to a read is met, the client has it first; then the same read is appended to the mirror's lane. Every effect of
//! what the primary executed before stands there already, and no other, so what differs is no race (I7). Of the reply one number is
//! kept (`shadow/compare.rs`). A read that differs although nothing that the proxy knows explains it has its keys examined as verify
//! examines them (`shadow/examine.rs`): only a key that differs at two further positions is reported, and healed.
//!
//! The hard case is a mirror that is slow, behind or away: no client may notice (I6), and effects must not wait behind reads that nobody needs.
//! So a read that finds the mirror behind is skipped and counted, and what is in flight is bounded. Which reads are drawn is
//! decided by a counter: its steps of the golden ratio fill the unit interval evenly, so every share is met exactly, and no period of a
//! client's own requests meets it.

mod compare;
mod examine;

use super::Sequencer;
use super::lane::{LaneId, LaneState, What};
use super::mirror::Mode;
use super::reply::each_request;
use crate::command::{Command, Table};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::reply::Reply;
use crate::resp::request::{Parsed, Request, Resume, parse};
use crate::shadow::{MILLION, ShadowChange, ShadowCounts, ShadowStatus, ShadowWish, Skip};
use crate::status::Outcome;
use compare::{Kept, Way};
use std::collections::BTreeSet;
use std::sync::Arc;

use examine::{Case, Exams};

/// Whether replies to a command can be compared, by its name in upper case.
#[must_use]
pub fn can_be_shadowed(name: &str) -> bool {
    Table::get().named(name).is_some_and(|command| Way::of(command).is_some())
}

/// A read that the mirror has not answered.
#[derive(Debug)]
pub(super) struct Read {
    command: &'static Command,
    way: Way,
    /// What the primary said.
    kept: Kept,
    /// Bytes of the primary's reply.
    bytes: u32,
    /// Which of the configured prefixes its key has, if there are any.
    prefix: Option<u8>,
}

/// What is known of a row of the command table.
#[derive(Debug, Clone, Copy)]
struct Row {
    way: Option<Way>,
    /// Its arguments decide too.
    choosy: bool,
    /// The operator wants it.
    wanted: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shadow {
    wish: ShadowWish,
    /// The share, of 2^32.
    threshold: u64,
    phase: u64,
    rows: Vec<Row>,
    in_flight: usize,
    /// Bytes of the replies that the mirror owes, as the primary's were.
    bytes: usize,
    by_command: Vec<ShadowCounts>,
    by_prefix: Vec<ShadowCounts>,
    exams: Exams,
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Shadow {
    pub fn new(wish: ShadowWish) -> Shadow {
        let rows = Table::get().rows();
        let row = |command: &Command| Row { way: Way::of(command), choosy: Way::is_choosy(command), wanted: true };
        let mut shadow = Shadow {
            wish: ShadowWish::default(),
            threshold: 0,
            phase: 0,
            rows: rows.iter().map(row).collect(),
            in_flight: 0,
            bytes: 0,
            by_command: vec![ShadowCounts::default(); rows.len()],
            by_prefix: Vec::new(),
            exams: Exams::default(),
        };
        shadow.wish(wish);
        shadow
    }

    fn wish(&mut self, wish: ShadowWish) {
        self.threshold = (u64::from(wish.per_million.min(MILLION)) << 32) / u64::from(MILLION);
        for (at, row) in self.rows.iter_mut().enumerate() {
            row.wanted = wish.commands.is_empty() || wish.commands.contains(&at);
        }
        if wish.prefixes != self.wish.prefixes {
            // Exams under way count for the prefixes that there were.
            self.exams.forget_prefixes();
            self.by_prefix = vec![ShadowCounts::default(); wish.prefixes.len()];
        }
        self.wish = wish;
    }

    /// Whether any reads are compared.
    pub fn is_on(&self) -> bool {
        self.threshold > 0
    }

    /// Whether the read that is being answered is to be compared.
    #[inline]
    pub fn draws(&mut self) -> bool {
        if self.threshold == 0 {
            return false;
        }
        self.phase = self.phase.wrapping_add(GOLDEN);
        self.phase >> 32 < self.threshold
    }

    /// Counts of a command and, if it has one, of a prefix.
    fn count(&mut self, command: &Command, prefix: Option<u8>, mut note: impl FnMut(&mut ShadowCounts)) {
        self.by_command.get_mut(command.index).into_iter().for_each(&mut note);
        prefix.and_then(|at| self.by_prefix.get_mut(usize::from(at))).into_iter().for_each(&mut note);
    }

    fn skip(&mut self, command: &Command, prefix: Option<u8>, why: Skip) {
        self.count(command, prefix, |counts| counts.skipped[why as usize] += 1);
    }

    fn land(&mut self, read: &Read) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(read.bytes as usize);
    }
}

impl Sequencer {
    /// The operator changes which reads are compared.
    pub(super) fn change_shadow(&mut self, ticket: u64, change: ShadowChange) {
        let mut wish = self.shadow.wish.clone();
        wish.per_million = change.per_million.unwrap_or(wish.per_million).min(MILLION);
        if let Some(names) = change.commands {
            wish.commands.clear();
            for name in names {
                let upper = name.to_ascii_uppercase();
                match Table::get().named(&upper).filter(|_| can_be_shadowed(&upper)) {
                    Some(command) => wish.commands.push(command.index),
                    None => return self.refuse(ticket, format!("`{name}` is no read whose replies can be compared")),
                }
            }
        }
        wish.prefixes = change.prefixes.unwrap_or(wish.prefixes);
        if wish.prefixes.len() > limits::SHADOW_PREFIXES_MAX {
            return self.refuse(ticket, format!("at most {} prefixes can be told apart", limits::SHADOW_PREFIXES_MAX));
        }
        self.log(false, format!("{} of a million reads are compared", wish.per_million));
        self.shadow.wish(wish);
        self.answer(ticket, Outcome::Done);
    }

    /// A read was drawn, and its reply has been delivered: `len` bytes of its request are at the front of the lane.
    pub(super) fn shadow_read(&mut self, id: LaneId, command: &'static Command, reply: Option<Reply<'_>>, len: u32) {
        let Some(row) = self.shadow.rows.get(command.index).copied().filter(|row| row.wanted) else { return };
        let Some(lane) = self.lane_mut(id) else { return };
        let lent = lane.tape.lend_front(len);
        if let Err(Unplaced::Skipped(why, prefix)) = self.place_read(id, command, row, lent.frame(), reply) {
            self.shadow.skip(command, prefix, why);
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.tape.give_back(lent);
        }
    }

    /// Appends the read to the mirror's lane, or says why not.
    fn place_read(
        &mut self,
        id: LaneId,
        command: &'static Command,
        row: Row,
        frame: &[u8],
        reply: Option<Reply<'_>>,
    ) -> Result<(), Unplaced> {
        let Some(way) = row.way else { return Err(Unplaced::Skipped(Skip::Kind, None)) };
        let prefix = self.look_into(id.db, command, row, frame)?;
        let mirror = LaneId::shared(self.mirror_side(), id.db);
        let bytes = reply.map_or(limits::SHADOW_READ_BYTES_MAX + 1, |reply| reply.0.len());
        if let Some(why) = self.bars_shadow(id, command, frame.len(), bytes) {
            if why == Skip::Down && self.sides[mirror.side.index()].is_up() {
                self.open_lane(mirror);
            }
            return Err(Unplaced::Skipped(why, prefix));
        }
        let Some(reply) = reply else { return Err(Unplaced::Skipped(Skip::Large, prefix)) };
        let read = Read { command, way, kept: way.keep(reply), bytes: bytes as u32, prefix };
        self.shadow.in_flight += 1;
        self.shadow.bytes += bytes;
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(mirror) {
            lane.push(&[frame], What::Shadow(read), 1, now);
        }
        self.touch_lane(mirror);
        Ok(())
    }

    /// What its arguments say: whether it is wanted, can be compared, and is not known to differ. Gives the prefix that its key has.
    fn look_into(&mut self, db: Db, command: &Command, row: Row, frame: &[u8]) -> Result<Option<u8>, Unplaced> {
        let (prefixed, known) = (!self.shadow.wish.prefixes.is_empty(), self.has_no_doubt() && self.settings.backfill);
        if !prefixed && known && !row.choosy {
            return Ok(None);
        }
        let mut spans = std::mem::take(&mut self.scratch.reply_spans);
        let verdict = match parse(frame, &mut spans, &mut Resume::default(), true) {
            Parsed::Complete { .. } => {
                let request = Request { frame, spans: &spans };
                let has = |prefix: &Vec<u8>| command.keys(&request).any(|key| key.name.starts_with(prefix));
                let prefix = self.shadow.wish.prefixes.iter().position(has).map(|at| at as u8);
                let doubt = || command.keys(&request).any(|key| self.doubts_read(db, key.name));
                match () {
                    () if prefixed && prefix.is_none() => Err(Unplaced::Unwanted),
                    () if row.choosy && !Way::takes(command, &request) => Err(Unplaced::Skipped(Skip::Kind, prefix)),
                    () if !known && doubt() => Err(Unplaced::Skipped(Skip::Doubt, prefix)),
                    () => Ok(prefix),
                }
            }
            _ => Err(Unplaced::Unwanted),
        };
        self.scratch.reply_spans = spans;
        verdict
    }

    /// Whether the mirror is not known to hold the key as the primary does.
    fn doubts_read(&self, db: Db, key: &[u8]) -> bool {
        self.ledger.state(db, key).is_some() || self.spill.may_hold(db, key) || (!self.settings.backfill && !self.synced.contains(db, key))
    }

    /// What stands in the way of every read of this size now.
    fn bars_shadow(&self, id: LaneId, command: &Command, asked: usize, told: usize) -> Option<Skip> {
        let side = &self.sides[self.mirror_side().index()];
        let lane = side.lane(LaneId::shared(self.mirror_side(), id.db)).filter(|lane| lane.state == LaneState::Open);
        let room = self.shadow.in_flight < limits::SHADOW_IN_FLIGHT_MAX && self.shadow.bytes + told <= limits::SHADOW_WINDOW_BYTES;
        match lane {
            _ if !self.record.mirroring || self.lost.is_some() => Some(Skip::Off),
            _ if !id.is_shared() => Some(Skip::Own),
            _ if self.flip.is_some() || self.holding => Some(Skip::Flip),
            _ if asked.max(told) > limits::SHADOW_READ_BYTES_MAX => Some(Skip::Large),
            None => Some(Skip::Down),
            Some(_) if !side.is_up() => Some(Skip::Down),
            Some(_) if self.mirror.mode != Mode::Following || self.mirror_owes() || !room => Some(Skip::Behind),
            Some(lane) if lane.age(self.now.us) > limits::SHADOW_AGE_MAX_US => Some(Skip::Behind),
            Some(_) if !side.knows(command) => Some(Skip::Kind),
            Some(_) if self.is_copied(id.db) || self.is_unreported(id.db) || self.has_zombies() => Some(Skip::Doubt),
            Some(_) => None,
        }
    }

    fn is_copied(&self, db: Db) -> bool {
        self.backfills() && self.scans.doubts(db)
    }

    /// Whether a dead connection to a side may still write.
    fn has_zombies(&self) -> bool {
        self.sides.iter().any(|side| side.zombies_until > self.now.us)
    }

    /// The mirror answered; `frame` is what was asked, at `at`.
    pub(super) fn answer_shadow(&mut self, id: LaneId, read: Read, frame: &[u8], reply: Reply<'_>, at: u64) {
        self.shadow.land(&read);
        let Read { command, way, ref kept, prefix, .. } = read;
        if id.side != self.mirror_side() {
            return self.shadow.skip(command, prefix, Skip::Lost);
        }
        let clocks = self.sides[id.side.index()].clock_offset_ms - self.sides[id.side.other().index()].clock_offset_ms;
        if way.is_alike(kept, &way.keep(reply), self.ttl_tolerance_ms(at), clocks) {
            return self.shadow.count(command, prefix, |counts| counts.equal += 1);
        }
        if reply.error_word().is_some_and(|word| word != b"WRONGTYPE") {
            return self.shadow.skip(command, prefix, Skip::Refused);
        }
        self.suspect_read(self.db_now(id.db), command, prefix, frame);
    }

    /// The mirror's connection is gone before it answered.
    pub(super) fn lose_shadow(&mut self, read: &Read) {
        self.shadow.land(read);
        self.shadow.skip(read.command, read.prefix, Skip::Lost);
    }

    /// Both sides read the same request and said different things.
    fn suspect_read(&mut self, db: Db, command: &'static Command, prefix: Option<u8>, frame: &[u8]) {
        let mut keys: BTreeSet<Arc<[u8]>> = BTreeSet::new();
        each_request(frame, |command, request| keys.extend(command.keys(request).map(|key| key.name.into())));
        if self.comparison_waits(db).is_some() || keys.iter().any(|key| self.explains_read(db, key)) {
            return self.shadow.count(command, prefix, |counts| counts.explained += 1);
        }
        let all = keys.len();
        keys.retain(|key| !self.shadow.exams.has(db, key));
        let begun = keys.len() < all;
        if begun && keys.is_empty() {
            return self.shadow.count(command, prefix, |counts| counts.explained += 1);
        }
        let room = limits::SHADOW_EXAMS_MAX.saturating_sub(self.shadow.exams.len());
        if keys.is_empty() || keys.len() > room {
            return self.shadow.count(command, prefix, |counts| counts.unexplained += 1);
        }
        self.shadow.count(command, prefix, |counts| counts.examining += 1);
        self.shadow.exams.begin(db, Case::new(command, prefix, keys.len(), begun), keys);
    }

    fn explains_read(&self, db: Db, key: &[u8]) -> bool {
        self.doubts_read(db, key) || self.is_copied(db) || self.is_unreported(db) || self.is_extra(db, key)
    }

    /// How shadow reads stand.
    pub(super) fn shadow_status(&self) -> ShadowStatus {
        let Shadow { wish, by_command, by_prefix, .. } = &self.shadow;
        let rows = Table::get().rows();
        let shown = |prefix: &Vec<u8>| String::from_utf8_lossy(prefix).into_owned();
        ShadowStatus {
            share: f64::from(wish.per_million) / f64::from(MILLION),
            commands: wish.commands.iter().filter_map(|at| rows.get(*at)).map(|row| row.name).collect(),
            prefixes: wish.prefixes.iter().map(shown).collect(),
            total: by_command.iter().fold(ShadowCounts::default(), ShadowCounts::plus),
            by_command: rows
                .iter()
                .zip(by_command)
                .filter(|(_, counts)| **counts != ShadowCounts::default())
                .map(|(row, counts)| (row.name, *counts))
                .collect(),
            by_prefix: wish.prefixes.iter().map(shown).zip(by_prefix.iter().copied()).collect(),
        }
    }

    /// Ends all exams: what they compared is not there any more.
    pub(super) fn drop_exams(&mut self) {
        for (command, prefix) in self.shadow.exams.clear() {
            self.shadow.count(command, prefix, |counts| {
                counts.examining -= 1;
                counts.unexplained += 1;
            });
        }
    }

    /// Reads due for an exam are asked for.
    pub(super) fn pump_shadow(&mut self) -> bool {
        !self.shadow.exams.is_empty() && self.pump_exams()
    }
}

/// Why a read was not appended.
enum Unplaced {
    /// The operator does not want it compared.
    Unwanted,
    /// It was wanted, with the prefix of its key.
    Skipped(Skip, Option<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_is_met() {
        for per_million in [0, 1, 10_000, 333_333, 500_000, 999_999, MILLION] {
            let mut shadow = Shadow::new(ShadowWish { per_million, ..ShadowWish::default() });
            let drawn = (0..MILLION).filter(|_| shadow.draws()).count() as i64;
            assert!((drawn - i64::from(per_million)).abs() <= 8, "{per_million}: {drawn}");
        }
    }

    /// Two reads in turn are drawn alike.
    #[test]
    fn no_rhythm_of_a_client_meets_the_counter() {
        let mut shadow = Shadow::new(ShadowWish { per_million: 500_000, ..ShadowWish::default() });
        for period in 2..20 {
            let mut drawn = vec![0; period];
            for at in 0..period * 1000 {
                drawn[at % period] += i32::from(shadow.draws());
            }
            assert!(drawn.iter().all(|drawn| (450..550).contains(drawn)), "{period}: {drawn:?}");
        }
    }
}
