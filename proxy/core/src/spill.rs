//! Keys in doubt that memory has no room for: they wait in a file, first come first served, until the ledger has room again.
//!
//! Which keys are in the file cannot be told exactly without holding them all, so two tables of a fixed size tell it from both ends. A filter
//! says "perhaps" or "surely not": a key that is perhaps there is treated as doubtful, which costs an image and is never wrong. A table
//! of fingerprints says "surely" or "do not know": a key that is surely there is not written once more, so a key that is written again and again
//! does not fill the disk. The file is read back in pieces; what has been read back is in the ledger, and the journal knows how far that is, so
//! the next process goes on there. Nothing is ever changed in the middle: a database that was emptied has a mark, and records before it mean nothing.
//!
//! The file itself is the shell's: bytes go out and come in (`sequencer/spilled.rs`).

use crate::doubt::{Cause, Entry, Listed};
use crate::endpoint::Db;
use crate::limits::DATABASES_MAX;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Bytes in front of a key: its length (2), database (1), cause (1), position (8), first seen (8), sum (4).
const RECORD: usize = 24;

/// Beside the cause, where the key was held.
const HELD: u8 = 0x80;

/// Keys longer than this stay in memory, as the journal does not name them either.
pub const KEY_BYTES_MAX: usize = crate::journal::KEY_BYTES_MAX;

/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: usize = RECORD + KEY_BYTES_MAX;

/// One key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its database.
    pub db: Db,
    /// Why it is in doubt.
    pub cause: Cause,
    /// Position of its youngest doubt.
    pub position: u64,
    /// When it came into the ledger, unix milliseconds.
    pub first_seen: i64,
    /// It was held when it was written, or is held because of what happened since ([`crate::doubt::Entry::held`]).
    pub held: bool,
    /// Its name.
    pub key: Vec<u8>,
}

/// The whole records at the beginning of `bytes`, which stand at `at` in the file, each with the place behind it. None: one is damaged.
#[must_use]
pub fn read(bytes: &[u8], at: u64) -> Option<Vec<(u64, Record)>> {
    let (mut records, mut from) = (Vec::new(), 0);
    while let Some(head) = bytes.get(from..from + RECORD) {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
        if len > KEY_BYTES_MAX {
            return None;
        }
        let Some(key) = bytes.get(from + RECORD..from + RECORD + len) else { break };
        let stored = u32::from_le_bytes(std::array::from_fn(|byte| head[20 + byte]));
        let (cause, held) = (Cause::ALL.get(usize::from(head[3] & !HELD)).copied(), head[3] & HELD != 0);
        let (Some(cause), true) = (cause, stored == sum(at + from as u64, &head[..20], key)) else { return None };
        from += RECORD + len;
        let record = Record { db: Db::from(head[2]), cause, position: number(4), first_seen: number(12) as i64, held, key: key.to_vec() };
        records.push((at + from as u64, record));
    }
    Some(records)
}

fn push(to: &mut Vec<u8>, at: u64, db: Db, key: &[u8], entry: &Entry) {
    let mut head = [0; 20];
    head[..2].copy_from_slice(&(key.len() as u16).to_le_bytes());
    (head[2], head[3]) = (db as u8, entry.cause as u8 | if entry.held { HELD } else { 0 });
    head[4..12].copy_from_slice(&entry.position.to_le_bytes());
    head[12..].copy_from_slice(&entry.first_seen.to_le_bytes());
    let sum = sum(at, &head, key).to_le_bytes();
    to.extend([&head[..], &sum, key].concat());
}

/// Tells a record from what stood there in an earlier life of the file, and from a page that was never written.
fn sum(at: u64, head: &[u8], key: &[u8]) -> u32 {
    let mut sum = at ^ 0x51_7c_c1_b7_27_22_0a_95;
    for byte in head.iter().chain(key) {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    (sum >> 32) as u32 ^ sum as u32
}

/// See the module.
#[derive(Debug)]
pub struct Spill {
    /// Bytes of the file that are back in memory, and bytes that are written.
    begin: u64,
    end: u64,
    /// Keys per database between the two, and the place in the file below which its records mean nothing.
    databases: Vec<Database>,
    /// "Perhaps", and "surely"; made when the first key is written.
    perhaps: Box<[u64]>,
    surely: Box<[u64]>,
    slots: usize,
    state: ahash::RandomState,
    /// The file is of an earlier process, so any key may be in it.
    inherited: bool,
    /// Counts what forgets all fingerprints of a database.
    salts: u64,
    /// The primary has lost data, and nobody has decided: records in front of this place are from before.
    held_below: Option<u64>,
    /// Records behind it that are not held, and those among what was encoded last.
    healable: u64,
    encoded: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Database {
    keys: u64,
    dropped_below: u64,
    salt: u64,
}

impl Spill {
    /// Nothing is spilled. `slots` of 8 bytes are used for either table; `seed` is secret, since clients choose the keys.
    #[must_use]
    pub fn new(slots: usize, seed: [u64; 2]) -> Spill {
        Spill {
            begin: 0,
            end: 0,
            databases: vec![Database::default(); DATABASES_MAX],
            perhaps: Box::default(),
            surely: Box::default(),
            slots: slots.next_power_of_two(),
            state: ahash::RandomState::with_seeds(seed[0] ^ 0x5b11, seed[1], !seed[0], !seed[1]),
            inherited: false,
            salts: 0,
            held_below: None,
            healable: 0,
            encoded: 0,
        }
    }

    /// Goes on with what an earlier process has spilled.
    pub fn inherit(&mut self, begin: u64, end: u64) {
        (self.begin, self.end, self.inherited) = (begin, end, begin < end);
    }

    /// The primary has lost data: what is in the file, and what is in the `unwritten` bytes on their way, is held.
    pub fn hold(&mut self, unwritten: u64) {
        (self.held_below, self.healable, self.encoded) = (Some(self.end + unwritten), 0, 0);
    }

    /// It is decided that the primary goes on as it is.
    pub fn release(&mut self) {
        (self.held_below, self.healable) = (None, 0);
    }

    /// Keys that came here since the primary lost data, and are not held; those that were dropped since are among them.
    #[must_use]
    pub fn healable(&self) -> u64 {
        if self.is_empty() { 0 } else { self.healable }
    }

    /// Bytes that are back in memory, and bytes that are written.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        (self.begin, self.end)
    }

    /// Nothing waits in the file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }

    /// Keys that wait in the file; those of an earlier process are guessed from their bytes.
    #[must_use]
    pub fn keys(&self) -> u64 {
        let known: u64 = self.databases.iter().map(|database| database.keys).sum();
        match () {
            () if self.is_empty() => 0,
            () if self.inherited => known + (self.end - self.begin) / (RECORD as u64 + 16) + 1,
            () => known.max(1),
        }
    }

    /// Whether the key may be in the file.
    #[must_use]
    pub fn may_hold(&self, db: Db, key: &[u8]) -> bool {
        !self.is_empty()
            && (self.inherited || !self.perhaps.is_empty() && self.bits(db, key).all(|(slot, bit)| self.perhaps[slot] & bit != 0))
    }

    /// Whether the file may hold keys of the database.
    #[must_use]
    pub fn holds_database(&self, db: Db) -> bool {
        !self.is_empty() && (self.inherited || self.databases.get(usize::from(db)).is_some_and(|database| database.keys > 0))
    }

    fn hash(&self, db: Db, key: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u64(self.databases.get(usize::from(db)).map_or(0, |database| database.salt));
        hasher.write_u16(db);
        hasher.write(key);
        hasher.finish()
    }

    fn bits(&self, db: Db, key: &[u8]) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (hash, mask) = (self.hash(db, key), self.slots - 1);
        let step = hash.rotate_left(32) | 1;
        (0..4u64).map(move |n| {
            let at = hash.wrapping_add(step.wrapping_mul(n + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((at >> 6) as usize & mask, 1 << (at >> 58))
        })
    }

    /// The bytes that name these keys, for the end of the file, without those that it surely holds already. From now on the keys may be there.
    pub fn encode(&mut self, keys: &[Listed]) -> Vec<u8> {
        if self.perhaps.is_empty() {
            self.perhaps = vec![0; self.slots].into_boxed_slice();
            self.surely = vec![0; self.slots].into_boxed_slice();
        }
        let mut bytes = Vec::with_capacity(keys.len() * 64);
        self.encoded = 0;
        for (db, key, entry) in keys {
            let hash = self.hash(*db, key) | 1;
            let slot = (hash >> 1) as usize & (self.slots - 1);
            // While a loss waits for its decision, what the file has of a key may be held, and this may not be.
            let younger = self.held_below.is_some() && !entry.held;
            if self.surely[slot] == hash && !younger {
                continue;
            }
            self.encoded += u64::from(younger);
            self.surely[slot] = hash;
            for (slot, bit) in self.bits(*db, key) {
                self.perhaps[slot] |= bit;
            }
            let at = self.end + bytes.len() as u64;
            push(&mut bytes, at, *db, key, entry);
            if let Some(database) = self.databases.get_mut(usize::from(*db)) {
                database.keys += 1;
            }
        }
        bytes
    }

    /// So many bytes are in the file now.
    pub fn written(&mut self, bytes: u64) {
        self.end += bytes;
        self.healable += std::mem::take(&mut self.encoded);
    }

    /// What was encoded last did not reach the file: it does not surely hold any key.
    pub fn unwritten(&mut self) {
        self.surely.fill(0);
    }

    /// A record came back; None: it means nothing any more.
    pub fn take(&mut self, behind: u64, mut record: Record) -> Option<Record> {
        record.held = self.held_below.is_some_and(|place| record.held || behind <= place);
        if self.held_below.is_some() && !record.held {
            self.healable = self.healable.saturating_sub(1);
        }
        let hash = self.hash(record.db, &record.key) | 1;
        let database = self.databases.get_mut(usize::from(record.db))?;
        if behind <= database.dropped_below {
            return None;
        }
        database.keys = database.keys.saturating_sub(1);
        let slot = (hash >> 1) as usize & (self.slots - 1);
        if let Some(known) = self.surely.get_mut(slot).filter(|known| **known == hash) {
            *known = 0;
        }
        Some(record)
    }

    /// Everything before this place is back in memory.
    pub fn taken(&mut self, place: u64) {
        self.begin = place;
        if self.is_empty() {
            self.clear();
        }
    }

    /// The database was emptied, or is in doubt as a whole: its keys in the file mean nothing, nor do those among the `unwritten` bytes on their way.
    pub fn drop_database(&mut self, db: Db, unwritten: u64) {
        self.salts += 1;
        let (salt, dropped_below) = (self.salts, self.end + unwritten);
        if let Some(database) = self.databases.get_mut(usize::from(db)) {
            *database = Database { keys: 0, dropped_below, salt };
        }
    }

    /// Nothing that is in the file means anything: it begins anew.
    pub fn clear(&mut self) {
        (self.begin, self.end, self.inherited, self.healable) = (0, 0, false, 0);
        self.held_below = self.held_below.map(|_| 0);
        (self.perhaps, self.surely) = (Box::default(), Box::default());
        self.databases.fill(Database::default());
    }
}

/// What a batch on its way to the file names; the keys stay in the ledger until it is there.
pub type Batch = Vec<(Db, Arc<[u8]>, u64)>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubt::Ledger;

    /// Keys in doubt, as a ledger has them.
    fn listed(db: Db, keys: std::ops::Range<u32>) -> Vec<Listed> {
        let mut ledger = Ledger::new([1, 2]);
        keys.for_each(|n| _ = ledger.mark(db, format!("key:{n}").as_bytes(), Cause::QueueFull, u64::from(n), 7));
        ledger.take_newest(usize::MAX, |_, _| true)
    }

    fn spilled(keys: &[Listed]) -> (Spill, Vec<u8>) {
        let mut spill = Spill::new(1 << 12, [3, 4]);
        let bytes = spill.encode(keys);
        spill.written(bytes.len() as u64);
        (spill, bytes)
    }

    #[test]
    fn what_is_in_the_file_is_never_denied_and_comes_back_in_order() {
        let keys = listed(5, 0..3_000);
        let (mut spill, bytes) = spilled(&keys);
        assert!(keys.iter().all(|(db, key, _)| spill.may_hold(*db, key)));
        let others = (0..3_000u32).filter(|n| spill.may_hold(5, format!("other:{n}").as_bytes())).count();
        assert!(others < 300, "{others} of 3000 are taken for others");
        let records = read(&bytes, 0).expect("what was written");
        assert_eq!(records.len(), 3_000);
        for ((behind, record), (db, key, entry)) in records.into_iter().zip(&keys) {
            let record = spill.take(behind, record).expect("it was not dropped");
            assert_eq!((record.db, &record.key[..], record.position, record.first_seen), (*db, &key[..], entry.position, 7));
            spill.taken(behind);
        }
        assert!(spill.is_empty() && spill.keys() == 0);
        assert!(!spill.may_hold(5, b"key:1"));
    }

    #[test]
    fn a_key_that_is_there_is_not_written_twice() {
        let (mut spill, bytes) = spilled(&listed(0, 0..10));
        assert!(spill.encode(&listed(0, 0..10)).is_empty());
        let (behind, first) = read(&bytes, 0).expect("what was written").remove(0);
        let name = first.key.clone();
        spill.take(behind, first);
        let again = read(&spill.encode(&listed(0, 0..10)), bytes.len() as u64).expect("what was written");
        assert_eq!(again.iter().map(|(_, record)| record.key.clone()).collect::<Vec<_>>(), [name], "it is in memory again, and goes again");
    }

    #[test]
    fn h35_an_emptied_database_takes_its_keys_along() {
        let keys = [listed(1, 0..5), listed(2, 0..5)].concat();
        let (mut spill, bytes) = spilled(&keys);
        spill.drop_database(1, 0);
        assert!(!spill.holds_database(1) && spill.holds_database(2));
        let left = read(&bytes, 0).expect("what was written");
        let left: Vec<Db> = left.into_iter().filter_map(|(behind, record)| spill.take(behind, record)).map(|record| record.db).collect();
        assert_eq!(left, [2; 5]);
        // What comes later is doubted again.
        let more = spill.encode(&listed(1, 0..5));
        assert_eq!(read(&more, bytes.len() as u64).expect("what was written").len(), 5);
        assert!(spill.may_hold(1, b"key:3"));
    }

    #[test]
    fn damage_is_noticed_at_every_byte_and_half_a_record_waits() {
        let (_, bytes) = spilled(&listed(0, 0..4));
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 0x41;
            let known = read(&torn, 0).is_some_and(|records| records.len() == 4);
            assert!(!known, "byte {at}");
        }
        assert_eq!(read(&bytes[..bytes.len() - 1], 0).map(|records| records.len()), Some(3));
        assert!(read(&bytes, 9).is_none(), "it stands at another place");
    }

    #[test]
    fn of_an_earlier_process_any_key_may_be_there() {
        let (_, bytes) = spilled(&listed(0, 0..4));
        let mut next = Spill::new(64, [5, 6]);
        next.inherit(0, bytes.len() as u64);
        assert!(next.may_hold(9, b"anything") && next.keys() > 0);
        for (behind, record) in read(&bytes, 0).expect("what was written") {
            next.take(behind, record);
            next.taken(behind);
        }
        assert!(!next.may_hold(9, b"anything") && next.is_empty());
    }
}
