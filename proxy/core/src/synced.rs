//! Which keys are known to be equal on the mirror.
//!
//! Two kinds of knowledge: a whole database (a scan of the primary has ended in the mirror's present incarnation, nobody else
//! writes there), and single keys (a total overwrite, a delete or an image was sent). The second is a fixed table of keyed 64-bit
//! fingerprints: it forgets by overwriting and never invents (H36). Both are claims about one incarnation of the mirror and are
//! revoked with it (H14).

use crate::endpoint::Db;
use std::hash::{BuildHasher, Hasher};

/// See the module.
#[derive(Debug)]
pub struct Synced {
    slots: Box<[u64]>,
    hasher: ahash::RandomState,
    databases: Vec<Database>,
    generation: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Database {
    whole: bool,
    /// Part of every fingerprint: a new one forgets all keys of the database at once.
    salt: u64,
}

impl Synced {
    /// Knows nothing. `slots` is a power of two; `seed` is secret, since clients choose the keys.
    #[must_use]
    pub fn new(slots: usize, databases: usize, seed: [u64; 2]) -> Synced {
        let slots = vec![0; slots.next_power_of_two()].into_boxed_slice();
        let hasher = ahash::RandomState::with_seeds(seed[0], seed[1], seed[0] ^ 0x5bd1_e995, seed[1] ^ 0xc2b2_ae35);
        let mut synced = Synced { slots, hasher, databases: vec![Database::default(); databases], generation: 0 };
        synced.forget_all();
        synced
    }

    fn new_salt(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn fingerprint(&self, db: Db, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(self.databases.get(usize::from(db)).map_or(0, |database| database.salt));
        hasher.write(key);
        hasher.finish() | 1
    }

    fn slot(&self, fingerprint: u64) -> usize {
        (fingerprint >> 1) as usize & (self.slots.len() - 1)
    }

    /// Whether the key is known to be equal.
    #[must_use]
    pub fn contains(&self, db: Db, key: &[u8]) -> bool {
        if self.is_whole(db) {
            return true;
        }
        let fingerprint = self.fingerprint(db, key);
        self.slots[self.slot(fingerprint)] == fingerprint
    }

    /// The key is equal from this position on.
    pub fn insert(&mut self, db: Db, key: &[u8]) {
        if self.is_whole(db) {
            return;
        }
        let fingerprint = self.fingerprint(db, key);
        let slot = self.slot(fingerprint);
        self.slots[slot] = fingerprint;
    }

    /// Whether the whole database is known to be equal.
    #[must_use]
    pub fn is_whole(&self, db: Db) -> bool {
        self.databases.get(usize::from(db)).is_some_and(|database| database.whole)
    }

    /// The whole database is equal from this position on.
    pub fn set_whole(&mut self, db: Db) {
        if let Some(database) = self.databases.get_mut(usize::from(db)) {
            database.whole = true;
        }
    }

    /// Nothing is known of this database any more.
    pub fn forget(&mut self, db: Db) {
        let salt = self.new_salt();
        if let Some(database) = self.databases.get_mut(usize::from(db)) {
            *database = Database { whole: false, salt };
        }
    }

    /// Nothing is known any more.
    pub fn forget_all(&mut self) {
        for db in 0..self.databases.len() {
            self.forget(db as Db);
        }
    }

    /// Two databases changed places (H35).
    pub fn swap(&mut self, a: Db, b: Db) {
        if usize::from(a.max(b)) < self.databases.len() {
            self.databases.swap(usize::from(a), usize::from(b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_and_never_invents() {
        let mut synced = Synced::new(64, 4, [1, 2]);
        for n in 0u32..1000 {
            let key = n.to_be_bytes();
            assert!(!synced.contains(0, &key), "{n} was never inserted");
            synced.insert(0, &key);
            assert!(synced.contains(0, &key));
            assert!(!synced.contains(1, &key));
        }
    }

    #[test]
    fn databases_change_places_with_their_knowledge() {
        let mut synced = Synced::new(64, 4, [1, 2]);
        synced.insert(0, b"k");
        synced.set_whole(2);
        synced.swap(0, 1);
        assert!(!synced.contains(0, b"k"));
        assert!(synced.contains(1, b"k"));
        synced.swap(2, 3);
        assert!(synced.contains(3, b"anything"));
        synced.forget(1);
        assert!(!synced.contains(1, b"k"));
        synced.forget_all();
        assert!(!synced.contains(3, b"anything"));
    }
}
