//! The ledger of doubt: keys that the mirror may hold wrongly, each on its way to being healed.
//!
//! A key's doubt has a position. An image whose DUMP is asked for later contains everything up to it, so an image heals all
//! doubt before it; effects of a key between the asking and the answer are contained in the image and are neither sent nor
//! compared. At most one image per key is under way.
//!
//! A primary that has lost data must not heal what was in doubt before the loss: its image would carry the loss to the side with the better
//! copy (H12). Such keys are held: they stay in the ledger, out of the queue, until a client writes them again or the operator decides.

mod keys;
mod names;

use crate::endpoint::Db;
use keys::Keys;
use names::{Name, Names};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Why a key became doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The mirror was not connected.
    MirrorDown,
    /// The mirror's queue reached its bound of bytes or age.
    QueueFull,
    /// The mirror refuses writes (OOM, READONLY...).
    MirrorRefuses,
    /// The mirror's reply differed from the primary's.
    Mismatch,
    /// The mirror's reply to an effect was lost with its connection.
    MirrorReplyLost,
    /// The primary's reply was lost with its connection: nobody knows whether the write ran.
    InDoubt,
    /// The effect was confirmed so late that the mirror's clock may have ended the key before (H2).
    Late,
    /// Not known to be equal, and written by a client.
    Unsynced,
    /// Not known to be equal, and met by a backfill.
    Backfill,
    /// Read as a source by an effect that came after a doubt (H13).
    Contagion,
    /// The command has no repeatable effect (scripts, SORT STORE...).
    Image,
    /// Found on the mirror by a scan.
    Extra,
    /// The primary reported it written by something that does not name it: a script, its own expiry, another writer (H15).
    Reported,
    /// It died on the primary, or may have died there and not yet on the mirror (H16).
    Expired,
    /// Verify found that it differs, or the operator asked for it to be copied anew.
    Verifier,
    /// Written shortly before a server was lost that may have forgotten it (H11).
    Failover,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 16] = [
        Cause::MirrorDown,
        Cause::QueueFull,
        Cause::MirrorRefuses,
        Cause::Mismatch,
        Cause::MirrorReplyLost,
        Cause::InDoubt,
        Cause::Late,
        Cause::Unsynced,
        Cause::Backfill,
        Cause::Contagion,
        Cause::Image,
        Cause::Extra,
        Cause::Reported,
        Cause::Expired,
        Cause::Verifier,
        Cause::Failover,
    ];

    /// The word of metrics and status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Cause::MirrorDown => "mirror_down",
            Cause::QueueFull => "queue_full",
            Cause::MirrorRefuses => "mirror_refuses",
            Cause::Mismatch => "mismatch",
            Cause::MirrorReplyLost => "mirror_reply_lost",
            Cause::InDoubt => "in_doubt",
            Cause::Late => "late",
            Cause::Unsynced => "unsynced",
            Cause::Backfill => "backfill",
            Cause::Contagion => "contagion",
            Cause::Image => "image",
            Cause::Extra => "extra",
            Cause::Reported => "reported",
            Cause::Expired => "expired",
            Cause::Verifier => "verifier",
            Cause::Failover => "failover",
        }
    }
}

/// How far the healing of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for an image.
    Dirty,
    /// Its DUMP is on the primary's lane.
    Asked,
    /// Its RESTORE or DEL is on the mirror's lane, at this position.
    Restoring(u64),
    /// No image can carry it.
    Unmirrorable,
}

impl State {
    /// The word of answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Dirty => "dirty",
            State::Asked => "asked",
            State::Restoring(_) => "restoring",
            State::Unmirrorable => "unmirrorable",
        }
    }
}

/// Why a database is in doubt as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WideCause {
    /// The process has begun, and no journal told what an earlier one knew.
    Start,
    /// Nothing was mirrored for a while, or mirroring begins.
    MirroringOff,
    /// The mirror is another process now, or has lost its keys.
    MirrorNew,
    /// The mirror evicted keys.
    Evicted,
    /// The primary evicted keys that nobody named: while no events told of them, or while the proxy was away (H29).
    PrimaryEvicted,
    /// The roles moved, and what the new mirror holds is not known.
    Flip,
    /// The primary lost its data, and the operator accepted it.
    LossAccepted,
    /// A command that touches whole databases was in flight, was refused by the mirror, or found no room to wait.
    Barrier,
    /// More keys in doubt than can be remembered.
    Overflow,
    /// Events of dying keys were lost, or a clock jumped.
    Expiry,
    /// What a script wrote is not known.
    Script,
    /// A dead connection may have written what nobody has noted.
    Zombie,
    /// Somebody else emptied the primary.
    Emptied,
    /// A server went back to an earlier state, and nobody has noted all that was written since (H11).
    Failover,
    /// The operator asked for everything to be copied.
    Operator,
}

impl WideCause {
    /// Whether no deletion can have been missed: what only the mirror has is not of the proxy's making then, and stays until the operator says
    /// otherwise (I5).
    #[must_use]
    pub fn leaves_extras(self) -> bool {
        matches!(self, WideCause::Operator | WideCause::Evicted)
    }

    /// The word of answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            WideCause::Start => "start",
            WideCause::Failover => "failover",
            WideCause::MirroringOff => "mirroring_off",
            WideCause::MirrorNew => "mirror_new",
            WideCause::Evicted => "evicted",
            WideCause::PrimaryEvicted => "primary_evicted",
            WideCause::Flip => "flip",
            WideCause::LossAccepted => "loss_accepted",
            WideCause::Barrier => "barrier",
            WideCause::Overflow => "overflow",
            WideCause::Expiry => "expiry",
            WideCause::Script => "script",
            WideCause::Zombie => "zombie",
            WideCause::Emptied => "emptied",
            WideCause::Operator => "operator",
        }
    }
}

/// One key in the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// How far it is.
    pub state: State,
    /// Why it is here.
    pub cause: Cause,
    /// Position of the youngest doubt.
    pub position: u64,
    /// Images that failed in a row.
    pub attempts: u32,
    /// When it came into the ledger, unix milliseconds.
    pub first_seen: i64,
    /// Of the name that stands for it in the queue, or in the list of held keys if it is one; 0: none does.
    ticket: u64,
    /// The primary may have lost it: not healed from there.
    pub held: bool,
    /// It became doubtful while its image was asked for, nobody knows on which side of the reading: it needs another one.
    again: bool,
}

/// A key of the ledger with its entry, for people.
pub type Listed = (Db, Arc<[u8]>, Entry);

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    databases: Vec<Keys>,
    /// Keys of which an image is under way, or that none can carry: what the queue below does not name.
    unqueued: HashSet<(Db, Arc<[u8]>), ahash::RandomState>,
    by_cause: [usize; Cause::ALL.len()],
    /// Dirty keys, oldest first; entries that changed state meanwhile are passed over.
    queue: Names,
    /// Dirty keys of databases that cannot be healed now: nobody passes over each of them again and again.
    aside: BTreeMap<Db, Names>,
    /// The last one given.
    ticket: u64,
    /// The primary lost data at this position, and nobody has decided yet.
    lost: Option<u64>,
    /// Dirty keys that are held; entries that are held no longer, or changed state, are passed over.
    held: Names,
    /// How many keys are dirty and held.
    dirty_held: usize,
    len: usize,
    dirty: usize,
    asked: usize,
    unmirrorable: usize,
    /// Keys on their way to being healed, by cause.
    healing: [usize; Cause::ALL.len()],
    hasher: ahash::RandomState,
}

impl Ledger {
    /// Empty. `seed` is secret, since clients choose the keys.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Ledger {
        let hasher = ahash::RandomState::with_seeds(seed[0], seed[1], !seed[0], !seed[1]);
        Ledger {
            databases: Vec::new(),
            unqueued: HashSet::with_hasher(hasher.clone()),
            by_cause: [0; Cause::ALL.len()],
            queue: Names::default(),
            aside: BTreeMap::new(),
            ticket: 0,
            lost: None,
            held: Names::default(),
            dirty_held: 0,
            len: 0,
            dirty: 0,
            asked: 0,
            unmirrorable: 0,
            healing: [0; Cause::ALL.len()],
            hasher,
        }
    }

    /// No doubt at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys in doubt.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keys that wait for an image.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty
    }

    /// Of those, the ones that are not held.
    #[must_use]
    pub fn healable(&self) -> usize {
        self.dirty - self.dirty_held
    }

    /// Keys that wait for an image, or whose image is asked for, without those of databases that cannot be healed now.
    #[must_use]
    pub fn crowd(&self) -> usize {
        let aside: usize = self.aside.values().map(Names::len).sum();
        self.dirty.saturating_sub(aside) + self.asked
    }

    /// Keys whose image is asked for.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Keys that no image can carry.
    #[must_use]
    pub fn unmirrorable(&self) -> usize {
        self.unmirrorable
    }

    /// Keys in doubt for this reason that are on their way to being healed: all but the unmirrorable ones.
    #[must_use]
    pub fn healing(&self, cause: Cause) -> usize {
        self.healing[cause as usize]
    }

    /// The key's entry.
    #[must_use]
    pub fn get(&self, db: Db, key: &[u8]) -> Option<&Entry> {
        if self.len == 0 {
            return None;
        }
        self.databases.get(usize::from(db))?.get(key)
    }

    /// The key's state.
    #[must_use]
    pub fn state(&self, db: Db, key: &[u8]) -> Option<State> {
        self.get(db, key).map(|entry| entry.state)
    }

    fn database(&mut self, db: Db) -> &mut Keys {
        while self.databases.len() <= usize::from(db) {
            self.databases.push(Keys::new(self.hasher.clone()));
        }
        &mut self.databases[usize::from(db)]
    }

    fn count(&mut self, state: State, held: bool, by: isize) {
        if state == State::Dirty && held {
            self.dirty_held = self.dirty_held.saturating_add_signed(by);
        }
        let counter = match state {
            State::Dirty => &mut self.dirty,
            State::Asked => &mut self.asked,
            State::Unmirrorable => &mut self.unmirrorable,
            State::Restoring(_) => return,
        };
        *counter = counter.saturating_add_signed(by);
    }

    /// The key may be wrong on the mirror because of what happened at `position`. Doubt that an image under way will heal is
    /// not noted again. `at_ms` is the time, unix milliseconds. Gives back whether the key became dirty by this.
    pub fn mark(&mut self, db: Db, key: &[u8], cause: Cause, position: u64, at_ms: i64) -> bool {
        let lost = self.lost;
        let held = lost.is_some_and(|lost| position <= lost);
        match self.database(db).get_mut(key) {
            None => {
                let key: Arc<[u8]> = key.into();
                let ticket = self.enqueue(db, key.clone(), held);
                let entry = Entry { state: State::Dirty, cause, position, attempts: 0, first_seen: at_ms, ticket, held, again: false };
                self.database(db).insert(key, entry);
                self.len += 1;
                self.count(State::Dirty, held, 1);
                self.healing[cause as usize] += 1;
                self.by_cause[cause as usize] += 1;
                true
            }
            Some(entry) => match entry.state {
                State::Asked => false,
                // A doubt that is held has the loss's position, however young it is: it may have come behind the image.
                State::Restoring(at) if position < at && lost != Some(position) => false,
                State::Dirty | State::Unmirrorable => {
                    entry.position = entry.position.max(position);
                    if entry.held && !held {
                        self.unhold(db, key);
                    }
                    false
                }
                State::Restoring(_) => {
                    let before = std::mem::replace(&mut entry.cause, cause);
                    (entry.position, entry.first_seen) = (position, at_ms);
                    if entry.held && !held {
                        // What names it is in the other list. The reverse is not: the image had what a client wrote since.
                        (entry.held, entry.ticket) = (false, 0);
                    }
                    self.by_cause[before as usize] -= 1;
                    self.by_cause[cause as usize] += 1;
                    self.healing[before as usize] -= 1;
                    self.healing[cause as usize] += 1;
                    self.set_state(db, key, State::Dirty);
                    true
                }
            },
        }
    }

    /// A client wrote a held key again: the primary has something that the other side does not.
    fn unhold(&mut self, db: Db, key: &[u8]) {
        let Some(name) = self.database(db).shared(key) else { return };
        let Some(entry) = self.database(db).get_mut(key) else { return };
        // What names it is in the other list.
        (entry.held, entry.ticket) = (false, 0);
        if entry.state == State::Dirty {
            self.dirty_held -= 1;
            self.requeue(db, name, false);
        }
    }

    /// The primary lost data at this position: what is in doubt by now is not healed from it.
    pub fn hold(&mut self, position: u64) {
        self.lost = Some(position);
        for (_, entry) in self.databases.iter_mut().flat_map(Keys::iter_mut) {
            entry.held = true;
        }
        self.dirty_held = self.dirty;
        self.held.append(&mut self.queue);
        for mut names in std::mem::take(&mut self.aside).into_values() {
            self.held.append(&mut names);
        }
    }

    /// It is decided that the primary goes on as it is.
    pub fn release(&mut self) {
        self.lost = None;
        for (_, entry) in self.databases.iter_mut().flat_map(Keys::iter_mut) {
            entry.held = false;
        }
        self.dirty_held = 0;
        // The oldest doubts come first again.
        let mut younger = std::mem::take(&mut self.queue);
        self.queue.append(&mut self.held);
        self.queue.append(&mut younger);
    }

    /// A dirty key waits to be found by whoever heals it; the ticket that its entry must have.
    fn enqueue(&mut self, db: Db, key: Arc<[u8]>, held: bool) -> u64 {
        self.ticket += 1;
        let list = if held { &mut self.held } else { &mut self.queue };
        if list.len() > QUEUE_SLACK + 2 * self.len {
            // Each key is asked for as soon as it is marked where that can be done, and nobody takes it from the queue then; and a held key may be
            // overwritten and die again and again.
            let databases = &self.databases;
            list.sweep(|name| stands(databases, name));
        }
        list.push_back(Name { db, ticket: self.ticket, key });
        self.ticket
    }

    /// As [`Ledger::enqueue`], for a key that has an entry.
    fn requeue(&mut self, db: Db, key: Arc<[u8]>, held: bool) {
        let ticket = self.enqueue(db, key.clone(), held);
        if let Some(entry) = self.database(db).get_mut(&key) {
            entry.ticket = ticket;
        }
    }

    /// As [`Ledger::mark`], for a doubt learnt by another connection than the one that reads images: where an image is asked
    /// for, it may have been read before, so the key gets another one behind it.
    pub fn mark_from_aside(&mut self, db: Db, key: &[u8], cause: Cause, position: u64, at_ms: i64) -> bool {
        if let Some(entry) = self.database(db).get_mut(key)
            && entry.state == State::Asked
        {
            entry.again = true;
            return false;
        }
        self.mark(db, key, cause, position, at_ms)
    }

    /// Whether the key needs another image behind the one that is under way; the answer is given once.
    pub fn take_again(&mut self, db: Db, key: &[u8]) -> bool {
        self.database(db).get_mut(key).is_some_and(|entry| std::mem::take(&mut entry.again))
    }

    /// Moves a key that is in the ledger to another state.
    pub fn set_state(&mut self, db: Db, key: &[u8], state: State) {
        let Some(name) = self.database(db).shared(key) else { return };
        let Some(entry) = self.database(db).get_mut(key) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        let cause = entry.cause as usize;
        let (held, queue) = (entry.held, state == State::Dirty && entry.ticket == 0);
        if (before == State::Dirty) != (state == State::Dirty) {
            let name = (db, name.clone());
            _ = if state == State::Dirty { self.unqueued.remove(&name) } else { self.unqueued.insert(name) };
        }
        if queue {
            self.requeue(db, name, held);
        }
        let heals = |state| usize::from(state != State::Unmirrorable);
        self.healing[cause] = self.healing[cause] + heals(state) - heals(before);
        self.count(before, held, -1);
        self.count(state, held, 1);
    }

    /// One more image of this key failed; how many in a row did.
    pub fn failed(&mut self, db: Db, key: &[u8]) -> u32 {
        self.database(db).get_mut(key).map_or(0, |entry| {
            entry.attempts += 1;
            entry.attempts
        })
    }

    /// An image of this key was taken, though it may be doubtful again: those that failed before it are no row any more.
    pub fn succeeded(&mut self, db: Db, key: &[u8]) {
        if let Some(entry) = self.database(db).get_mut(key) {
            entry.attempts = 0;
        }
    }

    /// Keys that no image could carry are tried again.
    pub fn retry_unmirrorable(&mut self) -> Vec<(Db, Arc<[u8]>)> {
        if self.unmirrorable == 0 {
            return Vec::new();
        }
        let mut found: Vec<(Db, Arc<[u8]>)> = Vec::new();
        for (db, database) in self.databases.iter_mut().enumerate() {
            for (key, entry) in database.iter_mut().filter(|(_, entry)| entry.state == State::Unmirrorable) {
                entry.attempts = 0;
                found.push((db as Db, key.clone()));
            }
        }
        found.iter().for_each(|(db, key)| self.set_state(*db, key, State::Dirty));
        found
    }

    /// The key is healed.
    pub fn remove(&mut self, db: Db, key: &[u8]) {
        if self.len == 0 {
            return;
        }
        let Some((key, entry)) = self.databases.get_mut(usize::from(db)).and_then(|database| database.remove(key)) else { return };
        self.len -= 1;
        self.by_cause[entry.cause as usize] -= 1;
        self.healing[entry.cause as usize] -= usize::from(entry.state != State::Unmirrorable);
        self.count(entry.state, entry.held, -1);
        if entry.state != State::Dirty {
            self.unqueued.remove(&(db, key));
        }
    }

    /// The oldest dirty key that `wanted` agrees to, in no database that `rests`; it stays in the ledger. A bounded number of others is
    /// passed over: the next call goes on behind them.
    pub fn next_dirty(&mut self, rests: impl Fn(Db) -> bool, wanted: impl Fn(Db, &[u8]) -> bool) -> Option<(Db, Arc<[u8]>)> {
        while let Some(db) = self.aside.keys().copied().find(|db| !rests(*db)) {
            let mut names = self.aside.remove(&db).unwrap_or_default();
            self.queue.append(&mut names);
        }
        let mut looks = self.queue.len().min(LOOKS_MAX);
        for _ in 0..NAMES_MAX {
            let name = self.queue.pop_front()?;
            let Some(entry) = entry_of(&mut self.databases, &name) else { continue };
            if entry.state != State::Dirty || entry.held {
                entry.ticket = 0;
            } else if rests(name.db) {
                self.aside.entry(name.db).or_default().push_back(name);
            } else if wanted(name.db, &name.key) {
                entry.ticket = 0;
                return Some((name.db, name.key));
            } else {
                self.queue.push_back(name);
                looks -= 1;
                if looks == 0 {
                    break;
                }
            }
        }
        None
    }

    /// Takes the youngest dirty keys that `wanted` agrees to out of the queue, at most so many, the oldest of them first; held ones before others.
    /// They stay in the ledger: whoever took them removes them, or sets their state, which queues them again.
    pub fn take_newest(&mut self, most: usize, wanted: impl Fn(Db, &[u8]) -> bool) -> Vec<Listed> {
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        while taken.len() < most {
            let resting = || self.aside.values_mut().find_map(Names::pop_back);
            let Some(name) = self.held.pop_back().or_else(|| self.queue.pop_back()).or_else(resting) else { break };
            let Some(entry) = entry_of(&mut self.databases, &name) else { continue };
            if entry.state == State::Dirty && !wanted(name.db, &name.key) {
                kept.push((name, entry.held));
                continue;
            }
            entry.ticket = 0;
            if entry.state == State::Dirty {
                taken.push((name.db, name.key, *entry));
            }
        }
        for (name, held) in kept.into_iter().rev() {
            if held { self.held.push_back(name) } else { self.queue.push_back(name) }
        }
        taken.reverse();
        taken
    }

    /// Every key of a database that is in the ledger.
    pub fn each(&self, db: Db, mut each: impl FnMut(&[u8])) {
        if let Some(database) = self.databases.get(usize::from(db)) {
            database.iter().for_each(|(key, _)| each(key));
        }
    }

    /// A database was emptied at this position: nothing in it is wrong any more, but for images that are under way (they
    /// will find what came after).
    pub fn flush(&mut self, db: Db) {
        self.retain(db, |entry| matches!(entry.state, State::Asked | State::Restoring(_)));
        if let Some(mut names) = self.aside.remove(&db) {
            let left = std::iter::from_fn(|| names.pop_front()).filter(|name| stands(&self.databases, name));
            let mut kept = Names::default();
            left.for_each(|name| kept.push_back(name));
            self.aside.insert(db, kept);
        }
    }

    /// Forgets all doubt that is not under way: the database as a whole is in doubt instead, or the doubt is meaningless.
    pub fn clear(&mut self) {
        for db in 0..self.databases.len() {
            self.retain(db as Db, |_| false);
        }
        self.queue.clear();
        self.aside.clear();
        self.held.clear();
    }

    fn retain(&mut self, db: Db, keep: impl Fn(&Entry) -> bool) {
        let Some(database) = self.databases.get_mut(usize::from(db)) else { return };
        let mut gone = Vec::new();
        let unqueued = &mut self.unqueued;
        database.retain(|key, entry| {
            let keep = keep(entry);
            if !keep {
                gone.push((entry.state, entry.held, entry.cause));
                if entry.state != State::Dirty {
                    unqueued.remove(&(db, key.clone()));
                }
            }
            keep
        });
        self.len -= gone.len();
        for (state, held, cause) in gone {
            self.healing[cause as usize] -= usize::from(state != State::Unmirrorable);
            self.by_cause[cause as usize] -= 1;
            self.count(state, held, -1);
        }
        if self.len == 0 {
            self.queue.clear();
            self.aside.clear();
            self.held.clear();
        }
    }

    /// Drops the dirty keys of a database, which is now in doubt as a whole.
    pub fn collapse(&mut self, db: Db) {
        self.flush(db);
    }

    /// Two databases changed places (H35).
    pub fn swap(&mut self, a: Db, b: Db) {
        self.database(a.max(b));
        self.databases.swap(usize::from(a), usize::from(b));
        let names = self.queue.iter_mut().chain(self.held.iter_mut()).chain(self.aside.values_mut().flat_map(Names::iter_mut));
        names.for_each(|name| name.db = swapped(name.db, a, b));
        let unqueued = std::mem::replace(&mut self.unqueued, HashSet::with_hasher(self.hasher.clone()));
        self.unqueued.extend(unqueued.into_iter().map(|(db, key)| (swapped(db, a, b), key)));
        let (at_a, at_b) = (self.aside.remove(&a), self.aside.remove(&b));
        self.aside.extend([(b, at_a), (a, at_b)].into_iter().filter_map(|(db, keys)| Some((db, keys?))));
        // An image that is not confirmed will be confirmed under the old number: take another.
        for db in [a, b] {
            let restoring = |entry: &Entry| matches!(entry.state, State::Restoring(_));
            let keys: Vec<_> = self.database(db).iter().filter(|(_, entry)| restoring(entry)).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| self.set_state(db, key, State::Dirty));
        }
    }

    /// Keys in doubt by cause.
    pub fn by_cause(&self) -> impl Iterator<Item = (Cause, usize)> {
        Cause::ALL.into_iter().map(|cause| (cause, self.by_cause[cause as usize])).filter(|(_, keys)| *keys > 0)
    }

    /// At most `most` keys in doubt, those that have been waiting longest first: a look at a ledger of a million keys must not hold
    /// up who waits for a reply, so of the keys that wait only the front of the queue is looked at. What healed lately leaves its place
    /// there behind, so more places are looked at than keys are asked for.
    #[must_use]
    pub fn oldest(&self, most: usize) -> Vec<Listed> {
        let entry = |db: Db, key: &Arc<[u8]>| self.get(db, key).map(|entry| (db, key.clone(), *entry));
        let waits =
            |name: &Name| entry(name.db, &name.key).filter(|(_, _, entry)| entry.ticket == name.ticket && entry.state == State::Dirty);
        let mut oldest: Vec<Listed> = self.unqueued.iter().take(LISTED_UNQUEUED_MAX).filter_map(|(db, key)| entry(*db, key)).collect();
        let places = LISTED_QUEUED_MAX / (1 + self.aside.len());
        for waiting in self.aside.values().chain([&self.held, &self.queue]) {
            oldest.extend(waiting.iter().take(places).filter_map(waits).take(most));
        }
        oldest.sort_by(|one, other| (one.2.first_seen, one.0, &one.1).cmp(&(other.2.first_seen, other.0, &other.1)));
        oldest.dedup_by(|one, other| (one.0, &one.1) == (other.0, &other.1));
        oldest.truncate(most);
        oldest
    }
}

/// Keys with an image under way that a look at the ledger sorts; there are not many more, since images are bounded by their bytes.
const LISTED_UNQUEUED_MAX: usize = 16_384;

/// Places of the queue, and of the databases that rest, that a look at the ledger visits: two milliseconds. Keys behind them are not listed.
const LISTED_QUEUED_MAX: usize = 16_384;

/// Dirty keys that a search for one to heal passes over.
const LOOKS_MAX: usize = 256;

/// Names that such a search visits, those of keys that clients have healed among them: half a millisecond. The next one goes on behind them.
const NAMES_MAX: usize = 4096;

/// Names of the queue that stand for nothing, above which it is swept.
const QUEUE_SLACK: usize = 1024;

/// The entry that a name stands for; None: for none any more.
fn entry_of<'a>(databases: &'a mut [Keys], name: &Name) -> Option<&'a mut Entry> {
    databases.get_mut(usize::from(name.db))?.get_mut(&name.key).filter(|entry| entry.ticket == name.ticket)
}

/// Whether a name stands for a key.
fn stands(databases: &[Keys], name: &Name) -> bool {
    let entry = databases.get(usize::from(name.db)).and_then(|database| database.get(&name.key));
    entry.is_some_and(|entry| entry.ticket == name.ticket)
}

fn swapped(db: Db, a: Db, b: Db) -> Db {
    match db {
        db if db == a => b,
        db if db == b => a,
        db => db,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_heals_all_doubt_before_it() {
        let mut ledger = Ledger::new([1, 2]);
        assert!(ledger.mark(0, b"k", Cause::Mismatch, 5, 0));
        assert_eq!(ledger.next_dirty(|_| false, |_, _| true).map(|(db, key)| (db, key.to_vec())), Some((0, b"k".to_vec())));
        ledger.set_state(0, b"k", State::Asked);
        assert!(!ledger.mark(0, b"k", Cause::Mismatch, 6, 0), "the image will contain it");
        ledger.set_state(0, b"k", State::Restoring(9));
        assert!(!ledger.mark(0, b"k", Cause::Mismatch, 8, 0), "older than the image");
        assert!(ledger.mark(0, b"k", Cause::Mismatch, 10, 0), "younger than the image");
        assert_eq!(ledger.dirty(), 1);
        assert!(ledger.next_dirty(|_| false, |_, _| true).is_some());
        ledger.remove(0, b"k");
        assert!(ledger.is_empty());
        assert_eq!(ledger.dirty(), 0);
    }

    #[test]
    fn a_database_that_rests_holds_no_other_up() {
        let next =
            |ledger: &mut Ledger, resting: Db| ledger.next_dirty(|db| db == resting, |_, _| true).map(|(db, key)| (db, key.to_vec()));
        let mut ledger = Ledger::new([1, 2]);
        for (db, key) in [(3, b"a"), (0, b"b"), (3, b"c"), (3, b"d")] {
            ledger.mark(db, key, Cause::MirrorDown, 1, 0);
        }
        assert_eq!(next(&mut ledger, 3), Some((0, b"b".to_vec())));
        assert_eq!(next(&mut ledger, 3), None);
        ledger.swap(3, 5);
        assert_eq!(next(&mut ledger, 5), None);
        assert_eq!(next(&mut ledger, 0), Some((5, b"a".to_vec())));
        assert_eq!(next(&mut ledger, 5), None);
        ledger.flush(5);
        ledger.mark(5, b"e", Cause::MirrorDown, 2, 0);
        assert_eq!(next(&mut ledger, 0), Some((5, b"e".to_vec())));
        assert_eq!(next(&mut ledger, 0), None);
    }

    #[test]
    fn people_see_the_oldest_first_and_every_cause() {
        let mut ledger = Ledger::new([1, 2]);
        for (at, key) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
            ledger.mark(3, key, if at < 2 { Cause::Mismatch } else { Cause::Expired }, 5, at as i64);
        }
        let keys = |ledger: &Ledger, most| ledger.oldest(most).iter().map(|(_, key, _)| key.to_vec()).collect::<Vec<_>>().concat();
        assert_eq!(keys(&ledger, 9), b"abcd");
        let taken = ledger.next_dirty(|_| false, |_, _| true);
        ledger.set_state(3, b"a", State::Asked);
        assert!(taken.is_some());
        assert_eq!(keys(&ledger, 2), b"ab", "one under way is listed too");
        ledger.swap(3, 4);
        ledger.remove(4, b"a");
        assert_eq!(keys(&ledger, 9), b"bcd");
        assert_eq!(ledger.by_cause().collect::<Vec<_>>(), [(Cause::Mismatch, 1), (Cause::Expired, 2)]);
        ledger.clear();
        assert!(ledger.oldest(9).is_empty() && ledger.by_cause().count() == 0);
    }

    /// A list of one key was empty while thousands were in doubt: the place of a healed key was looked at, and no other.
    #[test]
    fn places_of_healed_keys_hide_no_key_in_doubt() {
        let mut ledger = Ledger::new([1, 2]);
        (0..2_000u32).for_each(|n| _ = ledger.mark(0, &n.to_be_bytes(), Cause::MirrorDown, 1, i64::from(n)));
        (0..1_990u32).for_each(|n| ledger.remove(0, &n.to_be_bytes()));
        assert_eq!(ledger.len(), 10);
        for most in [1, 5, 10] {
            let listed: Vec<i64> = ledger.oldest(most).iter().map(|(_, _, entry)| entry.first_seen).collect();
            assert_eq!(listed, (1_990..1_990 + most as i64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn h35_barriers_transform_the_ledger() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.mark(0, b"k", Cause::Mismatch, 5, 0);
        ledger.swap(0, 3);
        assert!(ledger.get(0, b"k").is_none());
        assert!(ledger.get(3, b"k").is_some());
        assert_eq!(ledger.next_dirty(|_| false, |_, _| true).map(|(db, _)| db), Some(3));
        ledger.flush(0);
        assert_eq!(ledger.len(), 1);
        ledger.flush(3);
        assert!(ledger.is_empty());
    }

    /// The next key to heal, taken for reading.
    fn asked(ledger: &mut Ledger) -> Option<Vec<u8>> {
        let (db, key) = ledger.next_dirty(|_| false, |_, _| true)?;
        ledger.set_state(db, &key, State::Asked);
        Some(key.to_vec())
    }

    #[test]
    fn what_the_primary_may_have_lost_is_healed_behind_the_decision_alone() {
        let mut ledger = Ledger::new([1, 2]);
        for key in [&b"waits"[..], b"written", b"asked", b"restoring"] {
            ledger.mark(0, key, Cause::MirrorDown, 3, 0);
        }
        ledger.set_state(0, b"asked", State::Asked);
        ledger.set_state(0, b"restoring", State::Restoring(4));
        ledger.hold(5);
        assert_eq!((ledger.dirty(), ledger.healable()), (2, 0));
        assert_eq!(asked(&mut ledger), None);
        // Its reading was lost with the connection, its image with the mirror's.
        ledger.set_state(0, b"asked", State::Dirty);
        ledger.set_state(0, b"restoring", State::Dirty);
        ledger.mark(0, b"named", Cause::Failover, 5, 0);
        assert_eq!((ledger.dirty(), ledger.healable(), asked(&mut ledger)), (5, 0, None));
        // Clients write again.
        ledger.mark(0, b"written", Cause::Unsynced, 6, 0);
        ledger.mark(0, b"restoring", Cause::Unsynced, 7, 0);
        ledger.mark(0, b"new", Cause::QueueFull, 8, 0);
        assert_eq!(ledger.healable(), 3);
        assert_eq!(
            [(); 4].map(|()| asked(&mut ledger)),
            [Some(b"written".to_vec()), Some(b"restoring".to_vec()), Some(b"new".to_vec()), None]
        );
        // A younger doubt behind an image is not held, an older one is.
        ledger.set_state(0, b"new", State::Restoring(9));
        assert!(ledger.mark(0, b"new", Cause::Mismatch, 10, 0));
        assert_eq!(asked(&mut ledger), Some(b"new".to_vec()));
        ledger.release();
        assert_eq!((ledger.dirty(), ledger.healable()), (3, 3));
        let mut rest: Vec<_> = std::iter::from_fn(|| asked(&mut ledger)).collect();
        rest.sort();
        assert_eq!(rest, [b"asked".to_vec(), b"named".to_vec(), b"waits".to_vec()]);
        for key in ledger.oldest(100) {
            ledger.remove(key.0, &key.1);
        }
        assert!(ledger.is_empty() && ledger.dirty() == 0 && ledger.healable() == 0);
    }

    #[test]
    fn held_keys_leave_memory_first_and_nobody_twice() {
        let mut ledger = Ledger::new([1, 2]);
        (0..10u8).for_each(|n| _ = ledger.mark(0, &[b'h', n], Cause::MirrorDown, 1, 0));
        ledger.hold(5);
        (0..10u8).for_each(|n| _ = ledger.mark(0, &[b'w', n], Cause::MirrorDown, 6, 0));
        ledger.mark(0, &[b'h', 9], Cause::Unsynced, 7, 0);
        let taken = ledger.take_newest(9, |_, _| true);
        assert!(taken.len() == 9 && taken.iter().all(|(_, key, entry)| key[0] == b'h' && key[1] < 9 && entry.held), "{taken:?}");
        let taken = ledger.take_newest(100, |_, key| key[0] == b'w');
        assert_eq!(taken.len(), 10);
        assert_eq!(asked(&mut ledger), Some(vec![b'h', 9]));
        assert_eq!(asked(&mut ledger), None);
    }

    /// H12: a key that dies on the primary again and again, and is overwritten by clients in between, left a name behind each time.
    #[test]
    fn held_keys_that_clients_overwrite_leave_nothing_behind() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.mark(0, b"waits", Cause::MirrorDown, 3, 0);
        ledger.hold(5);
        for n in 0..100_000u32 {
            let key = format!("key:{}", n % 1_000);
            assert!(ledger.mark(0, key.as_bytes(), Cause::Expired, 5, 0));
            ledger.remove(0, key.as_bytes());
        }
        assert!(ledger.held.len() <= QUEUE_SLACK + 5, "{}", ledger.held.len());
        ledger.mark(0, b"dies", Cause::Expired, 5, 0);
        ledger.release();
        assert_eq!([(); 3].map(|()| asked(&mut ledger)), [Some(b"waits".to_vec()), Some(b"dies".to_vec()), None]);
    }

    /// What no image could carry, and a client wrote since the loss, waited in the list of held keys when it was to be tried again.
    #[test]
    fn what_could_not_be_copied_and_was_written_since_the_loss_is_found_again() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.mark(0, b"k", Cause::Image, 3, 0);
        ledger.set_state(0, b"k", State::Unmirrorable);
        ledger.hold(5);
        ledger.mark(0, b"k", Cause::MirrorRefuses, 6, 0);
        assert_eq!(ledger.retry_unmirrorable().len(), 1);
        assert_eq!((ledger.healable(), asked(&mut ledger)), (1, Some(b"k".to_vec())));
    }

    /// What is learnt while a loss waits for its decision has the loss's position, and may have happened behind an image that is under way.
    #[test]
    fn a_death_behind_an_image_is_noted_while_a_loss_waits() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.hold(5);
        ledger.mark(0, b"k", Cause::Unsynced, 6, 0);
        assert_eq!(asked(&mut ledger), Some(b"k".to_vec()));
        ledger.set_state(0, b"k", State::Restoring(7));
        assert!(!ledger.mark(0, b"k", Cause::Mismatch, 4, 0) && !ledger.mark(0, b"k", Cause::Mismatch, 6, 0), "the image contains it");
        assert!(ledger.mark(0, b"k", Cause::Expired, 5, 0));
        // A client wrote it since the loss: the mirror has no better copy of it.
        assert_eq!((ledger.healable(), asked(&mut ledger)), (1, Some(b"k".to_vec())));
    }

    /// Clients overwrote all but the last of a hundred thousand keys: one search that passed over what they left held everybody up.
    #[test]
    fn a_search_passes_over_a_bounded_number_of_healed_keys() {
        let mut ledger = Ledger::new([1, 2]);
        (0..100_000u32).for_each(|n| _ = ledger.mark(0, &n.to_be_bytes(), Cause::MirrorDown, 1, 0));
        (0..99_999u32).for_each(|n| ledger.remove(0, &n.to_be_bytes()));
        let before = ledger.queue.len();
        assert_eq!(asked(&mut ledger), None);
        assert_eq!(before - ledger.queue.len(), NAMES_MAX);
        let found = (0..before / NAMES_MAX).find_map(|_| asked(&mut ledger));
        assert_eq!(found, Some(99_999u32.to_be_bytes().to_vec()));
    }

    #[test]
    fn keys_that_are_asked_for_at_once_leave_nothing_behind() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.mark(0, b"unmirrorable", Cause::Image, 1, 0);
        ledger.set_state(0, b"unmirrorable", State::Unmirrorable);
        for position in 2..100_000 {
            let key = format!("key:{}", position % 1_000);
            ledger.mark(0, key.as_bytes(), Cause::Image, position, 0);
            ledger.set_state(0, key.as_bytes(), State::Asked);
            if position % 3 == 0 {
                ledger.set_state(0, key.as_bytes(), State::Dirty);
                ledger.set_state(0, key.as_bytes(), State::Asked);
            }
            ledger.remove(0, key.as_bytes());
        }
        assert!(ledger.queue.len() <= QUEUE_SLACK + 5, "{}", ledger.queue.len());
        ledger.mark(0, b"waits", Cause::Image, 1, 0);
        assert_eq!(std::iter::from_fn(|| asked(&mut ledger)).collect::<Vec<_>>(), [b"waits".to_vec()]);
    }
}
