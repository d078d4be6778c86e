//! The comparison itself: a batch of keys read on the primary, the same reads at the same position on the mirror, and what follows.

use super::super::Sequencer;
use super::super::lane::LaneId;
use super::digest::{Digester, Kind, Seen};
use super::exam::{Next, Step, Task};
use super::{Job, Of, Pass};
use crate::divergence::{Divergence, DivergenceKind, Until};
use crate::doubt::{Cause, State};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::reply::Reply;
use std::sync::Arc;

/// Keys that are read on both sides.
#[derive(Debug)]
pub(in crate::sequencer) struct Pair {
    tasks: Vec<Task>,
    digester: Digester,
    /// Replies of each task.
    replies: Vec<u32>,
    primary: Vec<Seen>,
    mirror: Vec<Seen>,
    on_mirror: bool,
    /// Which reply of which task comes next.
    at: (usize, usize),
    /// When the primary's last reply came, microseconds.
    read_at: u64,
    bytes: usize,
}

impl Pair {
    fn new(room: usize, digester: Digester) -> Pair {
        Pair {
            tasks: Vec::with_capacity(room),
            digester,
            replies: Vec::with_capacity(room),
            primary: Vec::new(),
            mirror: Vec::new(),
            on_mirror: false,
            at: (0, 0),
            read_at: 0,
            bytes: 0,
        }
    }

    /// The next reply.
    pub fn take(&mut self, reply: Reply<'_>) {
        let (task, number) = self.at;
        let seen = if self.on_mirror { &mut self.mirror } else { &mut self.primary };
        let (Some(step), Some(seen)) = (self.tasks.get(task).map(|task| &task.step), seen.get_mut(task)) else { return };
        self.digester.take(step.ask(number), reply, seen);
        self.at = if number + 1 < self.replies[task] as usize { (task, number + 1) } else { (task + 1, 0) };
    }
}

/// What one reading of one key says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    /// Only the time to live differs, as far as this reading tells.
    Ttl,
    Differs(DivergenceKind),
    /// It must be examined.
    Unlike,
    /// It has another type than the reading was made for, or dies.
    Moved,
    /// A server did not answer.
    Refused,
}

/// What becomes of a key behind a reading.
#[derive(Debug)]
pub(in crate::sequencer) enum Fate {
    /// It has been read to its end, and is equal.
    Equal,
    /// It is read on.
    Next,
    /// The same reading at a later position.
    Again,
    /// Nothing was learnt: from the beginning, later. Why.
    Later(String),
    /// It cannot be judged. Why.
    GivenUp(String),
    /// It differs.
    Differs(DivergenceKind),
}

impl Fate {
    /// Of a key that has been read to its end, and whose value is equal.
    pub fn end_of(task: &Task) -> Fate {
        if task.ttl_differs { Fate::Differs(DivergenceKind::Ttl) } else { Fate::Equal }
    }
}

/// Readings in a row, at positions of their own, in which an examination must differ.
const CONFIRMATIONS: u8 = 2;

/// Times to live above this cannot be told apart: the mirror's clock would overflow, so it got the last moment there is.
const FOR_EVER_MS: i64 = i64::MAX / 2;

impl Sequencer {
    /// Reads the next keys on the primary.
    pub(super) fn push_batch(&mut self) -> bool {
        let primary = self.primary();
        let many = self.sides.iter().all(|side| side.is_since(Some((6, 2)), Some((7, 0))));
        let Some(pass) = &mut self.verify.pass else { return false };
        let Some(db) = pass.walk.as_ref().map(|walk| walk.db) else { return false };
        let most = if pass.pace.busy { limits::VERIFY_BATCH_KEYS_BUSY } else { limits::VERIFY_BATCH_KEYS };
        let room = most.min(pass.window()).min(pass.allowance.map_or(usize::MAX, |keys| keys as usize));
        // Full batches while there is more to come: a batch costs a turn of everybody.
        if pass.ready.is_empty() || room == 0 {
            return false;
        }
        let mut pair = Pair::new(room, pass.digester.clone());
        let (mut frame, mut fenced) = (Vec::with_capacity(room * 80), Vec::new());
        let mut scan = None;
        while pair.tasks.len() < room && (pair.tasks.is_empty() || pair.bytes < limits::VERIFY_BATCH_BYTES) {
            let Some(task) = pass.ready.pop_front() else { break };
            if self.fences.fences_key(db, &task.key) {
                fenced.push(task);
                continue;
            }
            if task.step.wants_page() {
                if !pair.tasks.is_empty() {
                    pass.ready.push_front(task);
                    break;
                }
                scan = Some(task);
                break;
            }
            pair.bytes += task.weight();
            pair.replies.push(task.step.push_reads(&mut frame, &task.key, many));
            pair.tasks.push(task);
        }
        let keys = pair.tasks.len() + usize::from(scan.is_some());
        pass.in_flight += keys;
        pass.bytes += pair.bytes;
        if let Some(allowance) = &mut pass.allowance {
            *allowance = allowance.saturating_sub(keys as u64);
        }
        let moved = keys > 0 || !fenced.is_empty();
        for task in fenced {
            self.read_later(db, task, "its commands are held back by a fence");
        }
        if let Some(task) = scan {
            task.step.push_scan(&mut frame, &task.key);
            self.push_reading(primary, db, &frame, 1, Job::Members(Box::new(task)));
        } else if !pair.tasks.is_empty() {
            let replies = pair.replies.iter().sum();
            pair.primary = vec![Seen::default(); pair.tasks.len()];
            self.push_reading(primary, db, &frame, replies, Job::Pair(Box::new(pair)));
        }
        moved
    }

    /// The next reading of one key that a shadow read found to differ.
    pub(in crate::sequencer) fn push_exam(&mut self, of: Of, db: Db, task: Task) {
        let primary = self.primary();
        let many = self.sides.iter().all(|side| side.is_since(Some((6, 2)), Some((7, 0))));
        let mut frame = Vec::new();
        if task.step.wants_page() {
            task.step.push_scan(&mut frame, &task.key);
            return self.push_reading_of(of, primary, db, &frame, 1, Job::Members(Box::new(task)));
        }
        let mut pair = Pair::new(1, self.digester());
        let replies = task.step.push_reads(&mut frame, &task.key, many);
        pair.replies.push(replies);
        pair.primary = vec![Seen::default()];
        pair.tasks.push(task);
        self.push_reading_of(of, primary, db, &frame, replies, Job::Pair(Box::new(pair)));
    }

    /// Readings of so many keys, and so many bytes, are not on the lanes any more.
    pub(super) fn end_readings(&mut self, of: Of, keys: usize, bytes: usize) {
        match (of, &mut self.verify.pass) {
            (Of::Exam(_), _) => self.end_reading(),
            (Of::Pass(_), Some(pass)) => {
                pass.in_flight = pass.in_flight.saturating_sub(keys);
                pass.bytes = pass.bytes.saturating_sub(bytes);
            }
            (Of::Pass(_), None) => {}
        }
    }

    /// One side has answered a batch.
    pub(super) fn answer_pair(&mut self, id: LaneId, of: Of, mut pair: Box<Pair>, frame: &[u8], at: u64) {
        let db = id.db;
        if pair.on_mirror {
            return self.judge_batch(db, of, *pair);
        }
        let waited = self.now.us.saturating_sub(at);
        if let (Of::Pass(_), Some(pass)) = (of, &mut self.verify.pass) {
            pass.pace.note_wait(waited);
        }
        if self.mirror_owes() || self.mirror_refuses(db).is_some() {
            // The reads would not stand at the same position there.
            let Pair { tasks, bytes, .. } = *pair;
            self.end_readings(of, tasks.len(), bytes);
            tasks.into_iter().for_each(|task| self.settle_task(db, of, task, Fate::Next, None));
            return;
        }
        if !self.has_no_doubt() || self.is_unreported(db) {
            for task in &mut pair.tasks {
                task.excused = self.excuse(db, &task.key);
            }
        }
        if !self.settings.backfill {
            pair.tasks.iter_mut().for_each(|task| task.unsynced = !self.synced.contains(db, &task.key));
        }
        pair.read_at = self.now.us;
        (pair.on_mirror, pair.at) = (true, (0, 0));
        pair.mirror = vec![Seen::default(); pair.tasks.len()];
        let (side, replies) = (self.mirror_side(), pair.replies.iter().sum());
        self.push_reading_of(of, side, db, frame, replies, Job::Pair(pair));
    }

    /// What the proxy knows that may make the key differ.
    pub(super) fn excuse(&self, db: Db, key: &[u8]) -> Option<&'static str> {
        match self.ledger.state(db, key) {
            Some(State::Unmirrorable) => return Some("no image can carry it"),
            Some(_) => return Some("it was in doubt whenever it was read"),
            None if self.spill.may_hold(db, key) => return Some("it may be among the keys in doubt that are on the disk"),
            None => {}
        }
        if self.backfills() && self.scans.doubts(db) {
            return Some("its database is being copied");
        }
        self.is_unreported(db).then_some("what scripts wrote was not reported whenever it was read")
    }

    fn judge_batch(&mut self, db: Db, of: Of, pair: Pair) {
        let Pair { tasks, primary, mirror, read_at, bytes, .. } = pair;
        self.end_readings(of, tasks.len(), bytes);
        let tolerance = self.ttl_tolerance_ms(read_at);
        for ((mut task, primary), mirror) in tasks.into_iter().zip(&primary).zip(&mirror) {
            let verdict = judge(&task.step, primary, mirror, tolerance);
            let fate = self.weigh(db, &mut task, &verdict, primary, mirror);
            self.settle_task(db, of, task, fate, Some(primary));
        }
    }

    /// How far remaining times may lie apart: the margin that the mirror's carry, what a late effect or image adds, the error of the clocks, and
    /// the time from one reading to the other.
    pub(in crate::sequencer) fn ttl_tolerance_ms(&self, read_at: u64) -> i64 {
        let late = self.expiry.delay_max_us + self.now.us.saturating_sub(read_at);
        3 * self.settings.expiry_margin_ms + 100 + (late / 1000) as i64
    }

    /// What a verdict means for its key, which is prepared for its next reading.
    fn weigh(&self, db: Db, task: &mut Task, verdict: &Verdict, primary: &Seen, mirror: &Seen) -> Fate {
        let field_times = self.sides.iter().all(super::super::sides::Side::has_field_times);
        match verdict {
            Verdict::Equal => {
                task.differed = 0;
                match task.step.next(primary, task.large, field_times) {
                    _ if task.extra => Fate::Equal,
                    Next::Done => Fate::end_of(task),
                    Next::Step(step) => {
                        task.step = step;
                        Fate::Next
                    }
                    Next::Anew => Fate::GivenUp(format!("its type cannot be read: {:?}", primary.kind)),
                }
            }
            Verdict::Unlike => {
                task.step = Step::Look;
                Fate::Next
            }
            Verdict::Moved => Fate::Later("it changed or died whenever it was read".into()),
            Verdict::Refused => {
                let why = primary.refused.as_ref().or(mirror.refused.as_ref()).map_or("", |why| why);
                Fate::Later(format!("a server refuses to be asked: {}", why.split(' ').next().unwrap_or_default()))
            }
            // It came to be while the primary was walked, or the walk forgot it: it is there, and that was the question.
            Verdict::Ttl | Verdict::Differs(DivergenceKind::Type) if task.extra => Fate::Equal,
            Verdict::Ttl | Verdict::Differs(_) => {
                if let Some(why) = task.excused.or_else(|| self.excuse(db, &task.key)) {
                    return Fate::Later(why.into());
                }
                task.differed += 1;
                match verdict {
                    _ if task.differed < CONFIRMATIONS => Fate::Again,
                    Verdict::Differs(kind) => Fate::Differs(*kind),
                    _ => {
                        // Its value may differ too, and that weighs more.
                        (task.ttl_differs, task.differed) = (true, 0);
                        match Step::into_value(primary.kind, task.large) {
                            Some(step) => {
                                task.step = step;
                                Fate::Next
                            }
                            None => Fate::Differs(DivergenceKind::Ttl),
                        }
                    }
                }
            }
        }
    }

    /// What follows a reading; `primary`: what was seen there, where that is of use.
    pub(super) fn settle_task(&mut self, db: Db, of: Of, mut task: Task, fate: Fate, primary: Option<&Seen>) {
        if let Of::Exam(_) = of {
            return self.settle_exam(db, task, fate);
        }
        task.excused = None;
        match fate {
            Fate::Equal => self.pass_key(db, &task),
            Fate::Next => {
                if let Some(pass) = &mut self.verify.pass {
                    // A key that has been begun is ended before others are begun: its pieces hold memory.
                    if task.large { pass.ready.push_front(task) } else { pass.ready.push_back(task) }
                }
            }
            Fate::Again => self.read_at(self.now.us + AGAIN_US, task),
            Fate::Later(why) => self.read_later(db, task, &why),
            Fate::GivenUp(why) => self.give_up(db, &task, &why),
            Fate::Differs(kind) => self.report(db, &task, kind, primary.map_or(-1, |primary| primary.pttl)),
        }
    }

    fn read_at(&mut self, at: u64, task: Task) {
        if let Some(pass) = &mut self.verify.pass {
            pass.later.push((at, task));
        }
    }

    /// Nothing was learnt from this reading: from the beginning, later.
    pub(super) fn read_later(&mut self, db: Db, mut task: Task, why: &str) {
        task.tries += 1;
        let lasting = self.ledger.state(db, &task.key) == Some(State::Unmirrorable);
        if task.tries >= limits::VERIFY_TRIES_MAX || lasting {
            return self.give_up(db, &task, why);
        }
        task.excused = None;
        task.anew();
        if task.tries > 2 && task.step == Step::Screen {
            // A server that refuses DUMP may answer other reads.
            task.step = Step::Look;
        }
        self.read_at(self.now.us + (AGAIN_US * u64::from(task.tries)).min(AGAIN_MAX_US), task);
    }

    fn give_up(&mut self, db: Db, task: &Task, why: &str) {
        let Some(pass) = &mut self.verify.pass else { return };
        if pass.plants.is_planted(db, &task.key) {
            return;
        }
        pass.result.unverifiable += 1;
        self.verify.totals.unverifiable += 1;
        let reasons = &mut pass.result.unverifiable_by_reason;
        if reasons.len() < REASONS_MAX || reasons.contains_key(why) {
            *reasons.entry(why.to_owned()).or_default() += 1;
        }
    }

    fn pass_key(&mut self, db: Db, task: &Task) {
        let Some(pass) = &mut self.verify.pass else { return };
        if !task.extra && !pass.plants.is_planted(db, &task.key) {
            self.verify.totals.compared += 1;
            pass.result.keys_compared += 1;
        }
    }

    /// A confirmed difference: counted, kept for people, and healed if that is ours to do. `pttl`: of the primary, where it was read last.
    fn report(&mut self, db: Db, task: &Task, kind: DivergenceKind, pttl: i64) {
        let (synced, now) = (!task.unsynced, self.now.unix_ms);
        let Some(pass) = &mut self.verify.pass else { return };
        let Pass { plants, result, extras, .. } = &mut **pass;
        if plants.is_planted(db, &task.key) {
            return plants.found(&task.key, kind);
        }
        result.keys_compared += 1;
        result.differing.add(kind);
        self.verify.totals.compared += 1;
        self.verify.totals.differing.add(kind);
        if kind == DivergenceKind::Missing {
            let until = if pttl < 0 { Until::Never } else { Until::At(now + pttl) };
            result.primary_only_until = result.primary_only_until.max(Some(until));
        }
        if kind == DivergenceKind::Extra && extras.len() < limits::EXTRAS_MAX {
            extras.push((db, task.key.clone()));
        }
        self.note_divergence(db, &task.key, kind, if synced { "unexplained" } else { "unsynced" }, None);
        if kind != DivergenceKind::Extra && synced {
            self.doubt_verified(db, &task.key);
        }
    }

    /// Keeps a confirmed difference for people.
    pub(in crate::sequencer) fn note_divergence(
        &mut self,
        db: Db,
        key: &Arc<[u8]>,
        kind: DivergenceKind,
        cause: &'static str,
        command: Option<&'static str>,
    ) {
        let first_seen = self.now.unix_ms;
        let command = command.or_else(|| self.writes.last_command(db, key));
        self.verify.divergences.note(Divergence { db, key: key.clone(), kind, cause, first_seen, command });
    }

    /// A key that differs is healed by an image.
    pub(in crate::sequencer) fn doubt_verified(&mut self, db: Db, key: &[u8]) {
        let position = self.next_position();
        self.mark_dirty(db, key, Cause::Verifier, position);
    }

    /// A key that only the mirror has stays there until the operator says otherwise (I5).
    pub(in crate::sequencer) fn note_extra(&mut self, db: Db, key: &Arc<[u8]>) {
        if self.verify.extras.len() < limits::EXTRAS_MAX && !self.is_extra(db, key) {
            self.verify.extras.push((db, key.clone()));
        }
    }

    /// Whether the key is known to be on the mirror alone.
    pub(in crate::sequencer) fn is_extra(&self, db: Db, key: &[u8]) -> bool {
        self.verify.extras.iter().any(|(home, extra)| *home == db && **extra == *key)
    }
}

/// From a reading to the next one of the same key, microseconds; times the tries, up to the second.
const AGAIN_US: u64 = 20_000;
const AGAIN_MAX_US: u64 = 500_000;

/// Reasons that are told apart; further ones are counted without their name.
const REASONS_MAX: usize = 32;

fn judge(step: &Step, primary: &Seen, mirror: &Seen, tolerance: i64) -> Verdict {
    let near = |pttl: i64| (0..=tolerance).contains(&pttl);
    let same_time = match (primary.pttl, mirror.pttl) {
        (one, other) if one >= 0 && other >= 0 => one.abs_diff(other) <= tolerance as u64 || one.min(other) > FOR_EVER_MS,
        (one, other) => (one < 0) == (other < 0),
    };
    let refused = primary.refused.is_some() || mirror.refused.is_some();
    match step {
        _ if refused => Verdict::Refused,
        Step::Screen => match (primary.kind, mirror.kind) {
            (Kind::Absent, Kind::Absent) => Verdict::Equal,
            (one, other) if one == other && primary.digest == mirror.digest && same_time => Verdict::Equal,
            _ => Verdict::Unlike,
        },
        Step::Look => match (primary.kind, mirror.kind) {
            (Kind::Absent, Kind::Absent) => Verdict::Equal,
            (Kind::Absent, _) if near(mirror.pttl) => Verdict::Moved,
            (_, Kind::Absent) if near(primary.pttl) => Verdict::Moved,
            (Kind::Absent, _) => Verdict::Differs(DivergenceKind::Extra),
            (_, Kind::Absent) => Verdict::Differs(DivergenceKind::Missing),
            _ if near(primary.pttl) && near(mirror.pttl) => Verdict::Moved,
            (one, other) if one != other => Verdict::Differs(DivergenceKind::Type),
            _ if !same_time => Verdict::Ttl,
            _ => Verdict::Equal,
        },
        _ if primary.wrong_type || mirror.wrong_type || primary.pttl == -2 || mirror.pttl == -2 => Verdict::Moved,
        Step::FieldTimes { .. } if !same_times(&primary.times, &mirror.times, tolerance) => Verdict::Differs(DivergenceKind::Ttl),
        _ if primary.digest == mirror.digest => Verdict::Equal,
        _ if near(primary.pttl) || near(mirror.pttl) => Verdict::Moved,
        _ => Verdict::Differs(DivergenceKind::Value),
    }
}

/// Fields that are gone on one side and about to go on the other do not differ.
fn same_times(primary: &[i64], mirror: &[i64], tolerance: i64) -> bool {
    let same = |(one, other): (&i64, &i64)| match (*one, *other) {
        (one, other) if one >= 0 && other >= 0 => one.abs_diff(other) <= tolerance as u64,
        (-2, left) | (left, -2) => left <= tolerance && left != -1,
        (one, other) => one == other,
    };
    primary.len() == mirror.len() && primary.iter().zip(mirror).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: Kind, digest: u64, pttl: i64) -> Seen {
        Seen { kind, digest, pttl, ..Seen::default() }
    }

    #[test]
    fn what_a_reading_says() {
        let check = |step: &Step, one: (Kind, u64, i64), other: (Kind, u64, i64), expect: Verdict| {
            let verdict = judge(step, &seen(one.0, one.1, one.2), &seen(other.0, other.1, other.2), 1_600);
            assert_eq!(verdict, expect, "{step:?} {one:?} {other:?}");
        };
        use Kind::{Absent, List, String};
        check(&Step::Screen, (String, 1, -1), (String, 1, -1), Verdict::Equal);
        check(&Step::Screen, (String, 1, 9_000), (String, 1, 9_500), Verdict::Equal);
        check(&Step::Screen, (String, 1, 9_000), (String, 1, -1), Verdict::Unlike);
        check(&Step::Screen, (String, 1, -1), (Absent, 0, -2), Verdict::Unlike);
        check(&Step::Look, (String, 0, -1), (Absent, 0, -2), Verdict::Differs(DivergenceKind::Missing));
        check(&Step::Look, (String, 0, 90), (Absent, 0, -2), Verdict::Moved);
        check(&Step::Look, (Absent, 0, -2), (String, 0, -1), Verdict::Differs(DivergenceKind::Extra));
        check(&Step::Look, (Absent, 0, -2), (String, 0, 500), Verdict::Moved);
        check(&Step::Look, (List, 0, -1), (String, 0, -1), Verdict::Differs(DivergenceKind::Type));
        check(&Step::Look, (List, 0, -1), (List, 0, 60_000), Verdict::Ttl);
        check(&Step::Look, (List, 0, 60_000), (List, 0, 120_000), Verdict::Ttl);
        check(&Step::Look, (List, 0, i64::MAX - 5), (List, 0, i64::MAX - 9_000_000), Verdict::Equal);
        check(&Step::Set, (Absent, 1, -1), (Absent, 2, -1), Verdict::Differs(DivergenceKind::Value));
        check(&Step::Set, (Absent, 1, 300), (Absent, 2, 800), Verdict::Moved);
        check(&Step::Set, (Absent, 1, -1), (Absent, 1, -1), Verdict::Equal);
    }
}
