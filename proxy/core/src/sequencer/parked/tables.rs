//! Who waits for what: waiters by session, queues by key, deadlines. First come, first served, per key and across all keys that a
//! waiter names.

use super::serves::{Call, Ready};
use super::wish::{Name, Op, Wish};
use super::{End, SessionId};
use crate::command::Command;
use crate::endpoint::Db;
use crate::limits;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One session that waits, or whose first attempt is in flight.
#[derive(Debug)]
pub(super) struct Waiter {
    session: SessionId,
    pub command: &'static Command,
    pub db: Db,
    pub wish: Wish,
    /// When its wait ends, microseconds; None: never.
    pub deadline: Option<u64>,
    /// Its first attempt found nothing.
    pub parked: bool,
    /// An attempt is in flight.
    pub busy: bool,
    /// Keys that were written while it was busy and nobody else could be served.
    pub again: Vec<Name>,
    /// It was unblocked while it was busy.
    pub end: Option<End>,
    /// Its place among all waiters.
    order: u64,
}

impl Waiter {
    pub fn new(session: SessionId, command: &'static Command, db: Db, wish: Wish, deadline: Option<u64>) -> Waiter {
        Waiter { session, command, db, wish, deadline, parked: false, busy: true, again: Vec::new(), end: None, order: 0 }
    }

    /// What it leaves to others: the keys that were written while it was busy. What a reader was given is there for all.
    pub fn leaves(&self) -> VecDeque<Call> {
        let ready = match self.line() {
            Line::List => Ready::List(1),
            Line::Zset => Ready::Zset(1),
            Line::Group(_) => Ready::Groups,
            Line::Read => return VecDeque::new(),
        };
        self.again.iter().map(|key| Call::new(self.db, key.clone(), ready)).collect()
    }

    fn line(&self) -> Line {
        match &self.wish.op {
            Op::Pop { .. } | Op::Move { .. } | Op::ListPops { .. } => Line::List,
            Op::ScorePop { .. } | Op::ScorePops { .. } => Line::Zset,
            Op::GroupRead { group, .. } => Line::Group(group.clone()),
            Op::Read { .. } | Op::Odd => Line::Read,
        }
    }
}

/// Those who wait for the same thing of a key: what serves one of them may leave nothing for the next, except for readers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    List,
    Zset,
    /// XREAD: each gets what is new to it.
    Read,
    /// XREADGROUP of this group.
    Group(Name),
}

#[derive(Debug, Default)]
struct Queue {
    idle: BTreeMap<u64, SessionId>,
    busy: BTreeMap<u64, SessionId>,
}

/// A key that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Place {
    lines: BTreeMap<Line, Queue>,
    /// When it is looked at next, and after how long again, microseconds.
    pub look_at: u64,
    pub look_every: u64,
    /// The stream's last id at the last look.
    pub seen: Option<Name>,
}

impl Place {
    /// What idle waiters wait for.
    pub fn wanted(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|(_, queue)| !queue.idle.is_empty()).map(|(line, _)| line)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(in super::super) struct Parked {
    waiters: BTreeMap<SessionId, Box<Waiter>>,
    keys: BTreeMap<Db, BTreeMap<Name, Place>>,
    deadlines: BTreeSet<(u64, SessionId)>,
    /// Places in queues: one per waiter and key.
    places: usize,
    orders: u64,
    due: BTreeSet<(Db, Name)>,
    /// Keys by the time of their next look.
    pub(super) looks: BTreeSet<(u64, Db, Name)>,
    /// A writer that bypasses the proxy was found: keys are looked at at the full rate until then, microseconds.
    pub(super) keen_until: u64,
}

impl Parked {
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiters.values().filter(|waiter| waiter.parked).count()
    }

    pub fn places(&self) -> usize {
        self.places
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.waiters.keys().copied()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Waiter> {
        self.waiters.get(&id).map(|waiter| &**waiter)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Waiter> {
        self.waiters.get_mut(&id).map(|waiter| &mut **waiter)
    }

    /// The key's name as the tables hold it, if anybody waits for it.
    pub fn watched(&self, db: Db, key: &[u8]) -> Option<Name> {
        self.keys.get(&db)?.get_key_value(key).map(|(name, _)| name.clone())
    }

    pub(super) fn place_mut(&mut self, db: Db, key: &[u8]) -> Option<&mut Place> {
        self.keys.get_mut(&db)?.get_mut(key)
    }

    /// A new waiter, behind all others; its first attempt is in flight.
    pub(super) fn enter(&mut self, mut waiter: Waiter) {
        self.orders += 1;
        waiter.order = self.orders;
        let line = waiter.line();
        for key in &waiter.wish.keys {
            let place = self.keys.entry(waiter.db).or_default().entry(key.clone()).or_default();
            place.lines.entry(line.clone()).or_default().busy.insert(waiter.order, waiter.session);
            self.places += 1;
        }
        if let Some(deadline) = waiter.deadline {
            self.deadlines.insert((deadline, waiter.session));
        }
        self.waiters.insert(waiter.session, Box::new(waiter));
    }

    /// No attempt of the waiter is in flight any more: the next write on one of its keys serves it.
    pub(super) fn idle(&mut self, session: SessionId, now: u64) {
        let Some(waiter) = self.waiters.get_mut(&session) else { return };
        waiter.busy = false;
        let line = waiter.line();
        for key in &waiter.wish.keys {
            let Some(place) = self.keys.get_mut(&waiter.db).and_then(|keys| keys.get_mut(key)) else { continue };
            let queue = place.lines.entry(line.clone()).or_default();
            queue.busy.remove(&waiter.order);
            queue.idle.insert(waiter.order, session);
            if place.look_every == 0 {
                place.look_every = limits::LOOK_EVERY_US;
                place.look_at = now + limits::LOOK_EVERY_US;
                self.looks.insert((place.look_at, waiter.db, key.clone()));
            }
        }
    }

    /// Waiters of a key that what it has now can serve, in their order; they are busy from now on. Where there are too few, word is
    /// left with those who are busy already.
    pub(super) fn take(&mut self, call: &Call) -> Vec<SessionId> {
        let Call { db, key, ready, tell, .. } = call;
        let Some(place) = self.keys.get_mut(db).and_then(|keys| keys.get_mut(key)) else { return Vec::new() };
        let (mut taken, mut told) = (Vec::new(), Vec::new());
        for (line, queue) in &mut place.lines {
            let Some(count) = ready.count(line) else { continue };
            let chosen: Vec<SessionId> = queue.idle.values().take(count).copied().collect();
            let left = if matches!(line, Line::Read) { usize::MAX } else { count - chosen.len() };
            if *tell {
                told.extend(queue.busy.values().take(left).copied());
            }
            taken.extend(chosen);
        }
        for session in told {
            if let Some(waiter) = self.waiters.get_mut(&session)
                && !waiter.again.contains(key)
            {
                waiter.again.push(key.clone());
            }
        }
        taken.iter().for_each(|session| self.busy(*session));
        taken
    }

    /// Idle readers of a stream that have not seen its last entry; they are busy from now on.
    pub(super) fn take_readers(&mut self, db: Db, key: &Name, last: &[u8]) -> Vec<SessionId> {
        let Some(queue) = self.keys.get(&db).and_then(|keys| keys.get(key)?.lines.get(&Line::Read)) else { return Vec::new() };
        let behind = |session: &&SessionId| self.get(**session).is_some_and(|waiter| waiter.wish.is_behind(key, last));
        let readers: Vec<SessionId> = queue.idle.values().filter(behind).copied().collect();
        readers.iter().for_each(|session| self.busy(*session));
        readers
    }

    fn busy(&mut self, session: SessionId) {
        let Some(waiter) = self.waiters.get_mut(&session) else { return };
        waiter.busy = true;
        let line = waiter.line();
        for key in &waiter.wish.keys {
            let Some(queue) = self.keys.get_mut(&waiter.db).and_then(|keys| keys.get_mut(key)?.lines.get_mut(&line)) else { continue };
            queue.idle.remove(&waiter.order);
            queue.busy.insert(waiter.order, session);
        }
    }

    /// The waiter is gone from every table.
    pub(super) fn leave(&mut self, session: SessionId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&session)?;
        let line = waiter.line();
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline, session));
        }
        let keys = self.keys.entry(waiter.db).or_default();
        for key in &waiter.wish.keys {
            let Some(place) = keys.get_mut(key) else { continue };
            if let Some(queue) = place.lines.get_mut(&line) {
                queue.idle.remove(&waiter.order);
                queue.busy.remove(&waiter.order);
                if queue.idle.is_empty() && queue.busy.is_empty() {
                    place.lines.remove(&line);
                }
            }
            self.places -= 1;
            if place.lines.is_empty() {
                self.looks.remove(&(place.look_at, waiter.db, key.clone()));
                self.due.remove(&(waiter.db, key.clone()));
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.keys.remove(&waiter.db);
        }
        Some(*waiter)
    }

    /// Waiters whose time is over and which are not busy; the others are told when their attempt is answered.
    pub(super) fn take_expired(&mut self, now: u64) -> Vec<SessionId> {
        let mut expired = Vec::new();
        while let Some((deadline, session)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.remove(&(deadline, session));
            expired.extend(self.waiters.get(&session).filter(|waiter| !waiter.busy).map(|_| session));
        }
        expired
    }

    /// The key is to be tried as soon as that is possible.
    pub(super) fn due(&mut self, db: Db, key: &[u8]) {
        if let Some(name) = self.watched(db, key) {
            self.due.insert((db, name));
        }
    }

    /// All keys of a database are, or of all databases.
    pub(super) fn all_due(&mut self, db: Option<Db>) {
        let keys = self.keys.iter().filter(|(at, _)| db.is_none_or(|db| db == **at));
        self.due.extend(keys.flat_map(|(db, keys)| keys.keys().map(|key| (*db, key.clone()))));
    }

    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn take_due(&mut self) -> BTreeSet<(Db, Name)> {
        std::mem::take(&mut self.due)
    }
}
