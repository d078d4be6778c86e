//! The disk under the file of keys in doubt: it outlives the proxy, a kill may find any part of a write done, and it refuses now and then.

use crate::world::{Event, World};
use twinlane_core::endpoint::Db;
use twinlane_core::spill;

impl World<'_> {
    /// Some of it is there at once, all of it a moment later, or the disk refuses.
    pub fn spill(&mut self, at: usize, bytes: Vec<u8>) {
        if at == 0 {
            self.spilled.clear();
        }
        let part = self.rng.index(bytes.len() + 1);
        self.put(at, &bytes[..part]);
        let fails = self.plan.disk_fails && self.rng.one_in(4);
        let after = self.now + self.rng.below(4_000);
        self.at(after, Event::Spilled { at, bytes, fails, process: self.process });
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.spilled.resize(self.spilled.len().max(end), 0);
        self.spilled[at..end].copy_from_slice(bytes);
    }

    /// A write has ended.
    pub fn written(&mut self, at: usize, bytes: &[u8], fails: bool) {
        if !fails {
            self.put(at, bytes);
            self.summary.spilled += bytes.len() as u64;
        }
        let (outcome, now) = (if fails { Err("no space left on device".to_owned()) } else { Ok(()) }, self.clock());
        self.core.handle_spilled(outcome, now);
        self.flush();
    }

    /// A piece is read back.
    pub fn unspill(&mut self, at: usize, len: usize) {
        let now = self.clock();
        let fails = self.plan.disk_fails && self.rng.one_in(8);
        let piece = self.spilled.get(at..at + len).map(<[u8]>::to_vec).filter(|_| !fails);
        let outcome = piece.as_deref().ok_or_else(|| "it cannot be read".to_owned());
        self.core.handle_unspilled(outcome, now);
        self.flush();
    }

    /// Whether the next process would find the key in this part of the file.
    pub fn spill_names(&self, (begin, end): (u64, u64), db: Db, key: &[u8]) -> bool {
        if begin == end {
            return false;
        }
        // What is damaged puts everything in doubt.
        let records = self.spilled.get(begin as usize..end as usize).and_then(|bytes| spill::read(bytes, begin));
        records.is_none_or(|records| records.iter().any(|(_, record)| record.db == db && record.key == key))
    }
}
