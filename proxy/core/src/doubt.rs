//! The ledger of doubt: keys that the mirror may hold wrongly, each on its way to being healed.
//!
//! A key's doubt has a position. An image whose DUMP is asked for later contains everything up to it, so an image heals all
//! doubt before it; effects of a key between the asking and the answer are contained in the image and are neither sent nor
//! compared. At most one image per key is under way.

use crate::endpoint::Db;
use std::collections::{BTreeMap, HashMap, VecDeque};
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
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 15] = [
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
    queued: bool,
    /// It became doubtful while its image was asked for, nobody knows on which side of the reading: it needs another one.
    again: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    databases: Vec<HashMap<Arc<[u8]>, Entry, ahash::RandomState>>,
    /// Dirty keys, oldest first; entries that changed state meanwhile are passed over.
    queue: VecDeque<(Db, Arc<[u8]>)>,
    /// Dirty keys of databases that cannot be healed now: nobody passes over each of them again and again.
    aside: BTreeMap<Db, VecDeque<Arc<[u8]>>>,
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
            queue: VecDeque::new(),
            aside: BTreeMap::new(),
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

    fn database(&mut self, db: Db) -> &mut HashMap<Arc<[u8]>, Entry, ahash::RandomState> {
        while self.databases.len() <= usize::from(db) {
            self.databases.push(HashMap::with_hasher(self.hasher.clone()));
        }
        &mut self.databases[usize::from(db)]
    }

    fn count(&mut self, state: State, by: isize) {
        let counter = match state {
            State::Dirty => &mut self.dirty,
            State::Asked => &mut self.asked,
            State::Unmirrorable => &mut self.unmirrorable,
            State::Restoring(_) => return,
        };
        *counter = counter.saturating_add_signed(by);
    }

    /// The key may be wrong on the mirror because of what happened at `position`. Doubt that an image under way will heal is
    /// not noted again. Gives back whether the key became dirty by this.
    pub fn mark(&mut self, db: Db, key: &[u8], cause: Cause, position: u64) -> bool {
        match self.database(db).get_mut(key) {
            None => {
                let key: Arc<[u8]> = key.into();
                let entry = Entry { state: State::Dirty, cause, position, attempts: 0, queued: true, again: false };
                self.database(db).insert(key.clone(), entry);
                self.queue.push_back((db, key));
                self.len += 1;
                self.dirty += 1;
                self.healing[cause as usize] += 1;
                true
            }
            Some(entry) => match entry.state {
                State::Asked => false,
                State::Restoring(at) if position < at => false,
                State::Dirty | State::Unmirrorable => {
                    entry.position = entry.position.max(position);
                    false
                }
                State::Restoring(_) => {
                    let before = std::mem::replace(&mut entry.cause, cause);
                    entry.position = position;
                    self.healing[before as usize] -= 1;
                    self.healing[cause as usize] += 1;
                    self.set_state(db, key, State::Dirty);
                    true
                }
            },
        }
    }

    /// As [`Ledger::mark`], for a doubt learnt by another connection than the one that reads images: where an image is asked
    /// for, it may have been read before, so the key gets another one behind it.
    pub fn mark_from_aside(&mut self, db: Db, key: &[u8], cause: Cause, position: u64) -> bool {
        if let Some(entry) = self.database(db).get_mut(key)
            && entry.state == State::Asked
        {
            entry.again = true;
            return false;
        }
        self.mark(db, key, cause, position)
    }

    /// Whether the key needs another image behind the one that is under way; the answer is given once.
    pub fn take_again(&mut self, db: Db, key: &[u8]) -> bool {
        self.database(db).get_mut(key).is_some_and(|entry| std::mem::take(&mut entry.again))
    }

    /// Moves a key that is in the ledger to another state.
    pub fn set_state(&mut self, db: Db, key: &[u8], state: State) {
        let Some((key, _)) = self.database(db).get_key_value(key) else { return };
        let key = key.clone();
        let Some(entry) = self.database(db).get_mut(&key) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        let cause = entry.cause as usize;
        let queue = state == State::Dirty && !entry.queued;
        entry.queued |= queue;
        if queue {
            self.queue.push_back((db, key));
        }
        let heals = |state| usize::from(state != State::Unmirrorable);
        self.healing[cause] = self.healing[cause] + heals(state) - heals(before);
        self.count(before, -1);
        self.count(state, 1);
    }

    /// One more image of this key failed; how many in a row did.
    pub fn failed(&mut self, db: Db, key: &[u8]) -> u32 {
        self.database(db).get_mut(key).map_or(0, |entry| {
            entry.attempts += 1;
            entry.attempts
        })
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
        if let Some(entry) = self.databases.get_mut(usize::from(db)).and_then(|database| database.remove(key)) {
            self.len -= 1;
            self.healing[entry.cause as usize] -= usize::from(entry.state != State::Unmirrorable);
            self.count(entry.state, -1);
        }
    }

    /// The oldest dirty key that `wanted` agrees to, in no database that `rests`; it stays in the ledger.
    pub fn next_dirty(&mut self, rests: impl Fn(Db) -> bool, wanted: impl Fn(Db, &[u8], &Entry) -> bool) -> Option<(Db, Arc<[u8]>)> {
        while let Some(db) = self.aside.keys().copied().find(|db| !rests(*db)) {
            self.queue.extend(self.aside.remove(&db).into_iter().flatten().map(|key| (db, key)));
        }
        for _ in 0..self.queue.len() {
            let (db, key) = self.queue.pop_front()?;
            match self.databases.get_mut(usize::from(db)).and_then(|database| database.get_mut(&key)) {
                Some(entry) if entry.state == State::Dirty => {
                    if rests(db) {
                        self.aside.entry(db).or_default().push_back(key);
                        continue;
                    }
                    if wanted(db, &key, entry) {
                        entry.queued = false;
                        return Some((db, key));
                    }
                    self.queue.push_back((db, key));
                }
                Some(entry) => entry.queued = false,
                None => {}
            }
        }
        None
    }

    /// Every key of a database that is in the ledger.
    pub fn each(&self, db: Db, mut each: impl FnMut(&[u8])) {
        if let Some(database) = self.databases.get(usize::from(db)) {
            database.keys().for_each(|key| each(key));
        }
    }

    /// A database was emptied at this position: nothing in it is wrong any more, but for images that are under way (they
    /// will find what came after).
    pub fn flush(&mut self, db: Db) {
        self.retain(db, |entry| matches!(entry.state, State::Asked | State::Restoring(_)));
        if let (Some(aside), Some(database)) = (self.aside.get_mut(&db), self.databases.get(usize::from(db))) {
            aside.retain(|key| database.contains_key(key));
        }
    }

    /// Forgets all doubt that is not under way: the database as a whole is in doubt instead, or the doubt is meaningless.
    pub fn clear(&mut self) {
        for db in 0..self.databases.len() {
            self.retain(db as Db, |_| false);
        }
        self.queue.clear();
        self.aside.clear();
    }

    fn retain(&mut self, db: Db, keep: impl Fn(&Entry) -> bool) {
        let Some(database) = self.databases.get_mut(usize::from(db)) else { return };
        let mut gone = Vec::new();
        database.retain(|_, entry| {
            let keep = keep(entry);
            if !keep {
                gone.push((entry.state, entry.cause));
            }
            keep
        });
        self.len -= gone.len();
        for (state, cause) in gone {
            self.healing[cause as usize] -= usize::from(state != State::Unmirrorable);
            self.count(state, -1);
        }
        if self.len == 0 {
            self.queue.clear();
            self.aside.clear();
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
        for (db, _) in &mut self.queue {
            *db = match *db {
                db if db == a => b,
                db if db == b => a,
                db => db,
            };
        }
        let (at_a, at_b) = (self.aside.remove(&a), self.aside.remove(&b));
        self.aside.extend([(b, at_a), (a, at_b)].into_iter().filter_map(|(db, keys)| Some((db, keys?))));
        // An image that is not confirmed will be confirmed under the old number: take another.
        for db in [a, b] {
            let restoring = |entry: &Entry| matches!(entry.state, State::Restoring(_));
            let keys: Vec<_> = self.database(db).iter().filter(|(_, entry)| restoring(entry)).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| self.set_state(db, key, State::Dirty));
        }
    }

    /// Keys of the ledger, for status and for what must be undone.
    pub fn entries(&self) -> impl Iterator<Item = (Db, &Arc<[u8]>, &Entry)> {
        self.databases.iter().enumerate().flat_map(|(db, keys)| keys.iter().map(move |(key, entry)| (db as Db, key, entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_heals_all_doubt_before_it() {
        let mut ledger = Ledger::new([1, 2]);
        assert!(ledger.mark(0, b"k", Cause::Mismatch, 5));
        assert_eq!(ledger.next_dirty(|_| false, |_, _, _| true).map(|(db, key)| (db, key.to_vec())), Some((0, b"k".to_vec())));
        ledger.set_state(0, b"k", State::Asked);
        assert!(!ledger.mark(0, b"k", Cause::Mismatch, 6), "the image will contain it");
        ledger.set_state(0, b"k", State::Restoring(9));
        assert!(!ledger.mark(0, b"k", Cause::Mismatch, 8), "older than the image");
        assert!(ledger.mark(0, b"k", Cause::Mismatch, 10), "younger than the image");
        assert_eq!(ledger.dirty(), 1);
        assert!(ledger.next_dirty(|_| false, |_, _, _| true).is_some());
        ledger.remove(0, b"k");
        assert!(ledger.is_empty());
        assert_eq!(ledger.dirty(), 0);
    }

    #[test]
    fn a_database_that_rests_holds_no_other_up() {
        let next =
            |ledger: &mut Ledger, resting: Db| ledger.next_dirty(|db| db == resting, |_, _, _| true).map(|(db, key)| (db, key.to_vec()));
        let mut ledger = Ledger::new([1, 2]);
        for (db, key) in [(3, b"a"), (0, b"b"), (3, b"c"), (3, b"d")] {
            ledger.mark(db, key, Cause::MirrorDown, 1);
        }
        assert_eq!(next(&mut ledger, 3), Some((0, b"b".to_vec())));
        assert_eq!(next(&mut ledger, 3), None);
        ledger.swap(3, 5);
        assert_eq!(next(&mut ledger, 5), None);
        assert_eq!(next(&mut ledger, 0), Some((5, b"a".to_vec())));
        assert_eq!(next(&mut ledger, 5), None);
        ledger.flush(5);
        ledger.mark(5, b"e", Cause::MirrorDown, 2);
        assert_eq!(next(&mut ledger, 0), Some((5, b"e".to_vec())));
        assert_eq!(next(&mut ledger, 0), None);
    }

    #[test]
    fn h35_barriers_transform_the_ledger() {
        let mut ledger = Ledger::new([1, 2]);
        ledger.mark(0, b"k", Cause::Mismatch, 5);
        ledger.swap(0, 3);
        assert!(ledger.get(0, b"k").is_none());
        assert!(ledger.get(3, b"k").is_some());
        assert_eq!(ledger.next_dirty(|_| false, |_, _, _| true).map(|(db, _)| db), Some(3));
        ledger.flush(0);
        assert_eq!(ledger.len(), 1);
        ledger.flush(3);
        assert!(ledger.is_empty());
    }
}
