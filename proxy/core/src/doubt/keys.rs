//! The keys of one database in the ledger. A table that doubles moves all it holds at once, which for a hundred thousand keys takes ten
//! milliseconds that every client waits; so there are many small ones, which double one after another.

use super::Entry;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Keys {
    /// None before the first key has come.
    shards: Vec<HashMap<Arc<[u8]>, Entry, ahash::RandomState>>,
    hasher: ahash::RandomState,
}

/// A power of two. Of a million keys each table has 4,000: it doubles within a tenth of a millisecond.
const SHARDS: usize = 256;

impl Keys {
    /// None. The hasher is keyed, since clients choose the keys.
    pub fn new(hasher: ahash::RandomState) -> Keys {
        Keys { shards: Vec::new(), hasher }
    }

    /// The tables look at the lowest and the highest bits.
    fn shard(&self, key: &[u8]) -> usize {
        (self.hasher.hash_one(key) >> 32) as usize % SHARDS
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let shard = self.shard(key);
        self.shards.get_mut(shard)?.get_mut(key)
    }

    /// The key as it is shared.
    pub fn shared(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.shards.get(self.shard(key))?.get_key_value(key).map(|(key, _)| key.clone())
    }

    pub fn insert(&mut self, key: Arc<[u8]>, entry: Entry) {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, || HashMap::with_hasher(self.hasher.clone()));
        }
        let shard = self.shard(&key);
        self.shards[shard].insert(key, entry);
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<(Arc<[u8]>, Entry)> {
        let shard = self.shard(key);
        self.shards.get_mut(shard)?.remove_entry(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Entry)> {
        self.shards.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<[u8]>, &mut Entry)> {
        self.shards.iter_mut().flatten()
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Arc<[u8]>, &mut Entry) -> bool) {
        self.shards.iter_mut().for_each(|shard| shard.retain(&mut keep));
    }
}
