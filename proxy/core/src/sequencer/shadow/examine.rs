//! Keys that a shadow read found to differ, examined as verify examines them: size, type and time to live, value by type and in pieces,
//! at positions of their own; what differs at two of them, unexplained, is a divergence (I7). A read that names several keys is one
//! case: it differs as soon as one of them does.

use super::super::lane::LaneId;
use super::super::verify::{DivergenceKind, Fate, Job, Of, Step, Task};
use super::super::{RESERVED_PREFIX, Sequencer};
use crate::command::Command;
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::push_request;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A read whose keys are examined.
#[derive(Debug)]
pub(super) struct Case {
    command: &'static Command,
    prefix: Option<u8>,
    /// Keys that have not been judged.
    open: usize,
    /// One of them differs.
    differs: bool,
    /// It names keys that were examined already, which may be why it differed.
    explained: bool,
}

impl Case {
    pub fn new(command: &'static Command, prefix: Option<u8>, open: usize, explained: bool) -> Case {
        Case { command, prefix, open, differs: false, explained }
    }
}

/// A key that waits for its next reading.
#[derive(Debug)]
struct Waiting {
    /// Not before then, microseconds.
    due: u64,
    db: Db,
    task: Task,
    /// Whether it is known how large it is.
    sized: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Exams {
    cases: BTreeMap<u64, Case>,
    /// Keys that are examined, each for one case.
    keys: BTreeMap<(Db, Arc<[u8]>), u64>,
    waiting: VecDeque<Waiting>,
    /// Keys on the lanes.
    asked: usize,
    /// Numbers the lives of the table; a reading of an earlier one means nothing.
    serial: u64,
    next_case: u64,
}

impl Exams {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keys that are examined.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn has(&self, db: Db, key: &[u8]) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(&(db, key.into()))
    }

    /// Examines these keys, none of which is examined already.
    pub fn begin(&mut self, db: Db, case: Case, keys: BTreeSet<Arc<[u8]>>) {
        self.next_case += 1;
        self.cases.insert(self.next_case, case);
        for key in keys {
            self.keys.insert((db, key.clone()), self.next_case);
            self.waiting.push_back(Waiting { due: 0, db, task: Task::new(key, Step::Look), sized: false });
        }
    }

    /// Ends all of them; gives the reads for which they were.
    pub fn clear(&mut self) -> Vec<(&'static Command, Option<u8>)> {
        self.serial += 1;
        self.asked = 0;
        self.keys.clear();
        self.waiting.clear();
        std::mem::take(&mut self.cases).into_values().map(|case| (case.command, case.prefix)).collect()
    }

    pub fn forget_prefixes(&mut self) {
        self.cases.values_mut().for_each(|case| case.prefix = None);
    }

    /// Whether a reading belongs to this life.
    pub fn is_current(&self, serial: u64) -> bool {
        serial == self.serial
    }
}

impl Sequencer {
    /// Asks for the next reading of a key whose time has come.
    pub(super) fn pump_exams(&mut self) -> bool {
        if self.shadow.exams.asked >= limits::SHADOW_EXAMS_AT_ONCE {
            return false;
        }
        let now = self.now.us;
        let ready = |waiting: &Waiting| waiting.due <= now;
        let Some(at) = self.shadow.exams.waiting.iter().position(ready) else { return false };
        let db = self.shadow.exams.waiting[at].db;
        if self.comparison_waits(db).is_some() {
            return false;
        }
        let Some(Waiting { db, task, sized, .. }) = self.shadow.exams.waiting.remove(at) else { return false };
        if self.fences.fences_key(db, &task.key) {
            self.await_exam(db, task, sized, now + AGAIN_US);
            return true;
        }
        self.shadow.exams.asked += 1;
        let of = Of::Exam(self.shadow.exams.serial);
        if sized {
            self.push_exam(of, db, task);
        } else {
            let mut frame = Vec::new();
            push_request(&mut frame, &[b"MEMORY", b"USAGE", &task.key, b"SAMPLES", b"1"]);
            self.push_reading_of(of, self.primary(), db, &frame, 1, Job::Size(Box::new(task)));
        }
        true
    }

    fn await_exam(&mut self, db: Db, task: Task, sized: bool, due: u64) {
        self.shadow.exams.waiting.push_back(Waiting { due, db, task, sized });
    }

    /// The primary told how large the key is; one that does not tell has all its values read in pieces.
    pub(in crate::sequencer) fn answer_exam_size(&mut self, id: LaneId, mut task: Task, size: Option<i64>) {
        self.end_reading();
        task.large = size.is_none_or(|size| size.max(0) as usize > self.settings.verify_large_bytes);
        self.await_exam(id.db, task, true, 0);
    }

    /// A reading of an exam has been answered.
    pub(in crate::sequencer) fn end_reading(&mut self) {
        self.shadow.exams.asked = self.shadow.exams.asked.saturating_sub(1);
    }

    pub(in crate::sequencer) fn is_exam_current(&self, serial: u64) -> bool {
        self.shadow.exams.is_current(serial)
    }

    /// What follows a reading of an exam.
    pub(in crate::sequencer) fn settle_exam(&mut self, db: Db, mut task: Task, fate: Fate) {
        let now = self.now.us;
        task.excused = None;
        match fate {
            Fate::Next => self.await_exam(db, task, true, 0),
            Fate::Again => self.await_exam(db, task, true, now + AGAIN_US),
            Fate::Later(_) if task.tries < EXAM_TRIES_MAX => {
                task.tries += 1;
                let due = now + AGAIN_US * u64::from(task.tries);
                task.anew();
                task.step = Step::Look;
                self.await_exam(db, task, false, due);
            }
            Fate::Differs(kind) => {
                // Without a backfill: it was never copied.
                let differs = !task.unsynced;
                if differs {
                    self.report_read(db, &task.key, kind);
                }
                self.close_exam(db, &task.key, differs);
            }
            Fate::Equal | Fate::Later(_) | Fate::GivenUp(_) => self.close_exam(db, &task.key, false),
        }
    }

    fn report_read(&mut self, db: Db, key: &Arc<[u8]>, kind: DivergenceKind) {
        let exams = &self.shadow.exams;
        let case = exams.keys.get(&(db, key.clone())).and_then(|number| exams.cases.get(number));
        let command = case.map(|case| case.command.name);
        debug_assert!(!key.starts_with(RESERVED_PREFIX));
        self.note_divergence(db, key, kind, "unexplained", command);
        if kind == DivergenceKind::Extra { self.note_extra(db, key) } else { self.doubt_verified(db, key) }
    }

    /// One key of a case has been judged; the last one closes it.
    fn close_exam(&mut self, db: Db, key: &Arc<[u8]>, differs: bool) {
        let exams = &mut self.shadow.exams;
        let Some(number) = exams.keys.remove(&(db, key.clone())) else { return };
        let Some(case) = exams.cases.get_mut(&number) else { return };
        case.open -= 1;
        case.differs |= differs;
        if case.open > 0 {
            return;
        }
        let Some(Case { command, prefix, differs, explained, .. }) = exams.cases.remove(&number) else { return };
        self.shadow.count(command, prefix, |counts| {
            counts.examining -= 1;
            match () {
                () if differs => counts.differing += 1,
                () if explained => counts.explained += 1,
                () => counts.unexplained += 1,
            }
        });
    }
}

/// From a reading to the next one of the same key, microseconds; times the tries.
const AGAIN_US: u64 = 20_000;

/// How often a key that is in doubt, or dies, is read again before its case is closed: with the pauses between, some two seconds.
const EXAM_TRIES_MAX: u32 = 14;
