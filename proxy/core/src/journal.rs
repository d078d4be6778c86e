//! The journal of intents: which keys the mirror may hold wrongly, in memory that outlives the process (I4, H23).
//!
//! A ring of records. Before a request that writes leaves for the primary, an *intent* names each key it may write; a key that
//! enters the ledger gets a record of its own; what may write keys that nobody can name gets a *wide* record for its database. After
//! `kill -9` everything between tail and head is doubtful, and nothing else is, so no keyspace is walked again.
//!
//! The hard case is its price: it stands on the way of every write. So nothing is looked up, removed or synced there: a record is a
//! few bytes copied to the head. The tail follows in turns (`sequencer/intents.rs`), and takes a key that is still dirty along to
//! the head. Where a bound is reached the journal says that it knows nothing, which is always true and costs a copy of everything.
//!
//! What is stored is read by the next process of the same machine, or of another version: the layout is [`FORMAT`], numbers are little
//! endian, and stores happen in program order (the kernel keeps the pages however the process ends). A machine that loses its power keeps
//! what was synced, and any piece of what came later in any order. So where pages are synced, each sync is preceded by a *seal*: a copy of
//! the header with its sum, in one of two places by turns, and each record carries a sum of its place and its bytes. The next start of the
//! machine believes the youngest whole seal, the records below its head, and those behind that are whole.

use crate::endpoint::Db;
use crate::limits::DATABASES_MAX;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

/// Version of the layout.
pub const FORMAT: u32 = 3;

/// Bytes in front of the ring: the header, and two seals.
pub const HEADER_BYTES: usize = 20_480;

/// The least ring: 16 KiB.
pub const RING_BYTES_MIN: usize = 16 * 1024;

/// Keys longer than this are not written down: their database is, as a whole.
pub const KEY_BYTES_MAX: usize = 4096;

/// Memory that outlives the process, or a test's that does as if.
pub trait Memory: AsMut<[u8]> + Send {
    /// These bytes have been written and are rarely looked at from now on: whoever keeps them may take them out of the process's own memory.
    fn rest(&mut self, _bytes: Range<usize>) {}
}

impl Memory for Vec<u8> {}

/// As above, whoever's it is.
pub type Pages = Box<dyn Memory>;

/// Bytes of the ring that rest together: some thirty thousand records.
const REST_BYTES: u64 = 1 << 20;

/// What one record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The rest of the ring up to its end is not used.
    Pad = 1,
    /// The key may be written by a request that leaves now.
    Intent = 2,
    /// The key is in the ledger.
    Dirty = 3,
    /// Any key of the database may be written.
    Wide = 4,
}

/// What is known of a database as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// It is being walked: what came before this cursor is equal or written down.
    Walked {
        /// The walk is over the mirror, behind the one over the primary.
        on_mirror: bool,
        /// Of SCAN.
        cursor: u64,
    },
    /// All is equal or written down, but times to live are still to be set behind the primary's.
    Unaligned,
    /// All is equal or written down.
    Equal,
}

/// What the records rest on: if it does not hold any more, they say too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Version of the record of who is primary.
    pub epoch: u64,
    /// `run_id` of both servers, by [`crate::endpoint::Endpoint::index`]; empty: not known.
    pub run_ids: [String; 2],
    /// What both have evicted; None: not known.
    pub evicted_keys: [Option<u64>; 2],
    /// By how much a time to live on the mirror may be too long, because its image came late; microseconds.
    pub delay_max_us: u64,
    /// By number.
    pub databases: Vec<Known>,
}

impl Default for Facts {
    fn default() -> Self {
        Facts {
            epoch: 0,
            run_ids: Default::default(),
            evicted_keys: [None; 2],
            delay_max_us: 0,
            databases: vec![Known::Nothing; DATABASES_MAX],
        }
    }
}

/// What an earlier process left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It is new.
    Nothing,
    /// It cannot be relied on, for this reason: everything is in doubt.
    Unknown(String),
    /// These keys may differ, and no others, where the facts still hold.
    Known {
        /// See [`Facts`]; a database of a wide record is [`Known::Nothing`].
        facts: Facts,
        /// Each key once.
        keys: Vec<(Db, Vec<u8>)>,
        /// Begin and end of the part of the spill file that names further ones; equal: none.
        spilled: (u64, u64),
    },
}

/// Who opens it.
#[derive(Debug, Clone)]
pub struct Opening<'a> {
    /// The installation whose journal it is; another's is not read.
    pub installation: &'a str,
    /// Names the file: device, inode, and when it was made (0: not told). What was written into another one is a copy, or was restored, and
    /// may be older than what the servers hold.
    pub file: [u64; 3],
    /// Of this start of the machine: what another one left is relied on only if its pages were synced.
    pub boot: &'a str,
    /// Pages are synced before what they announce is sent, or as often as the operator finds right.
    pub synced: bool,
}

/// See the module.
pub struct Journal {
    pages: Pages,
    /// Bytes of the ring, a power of two.
    capacity: u64,
    /// Bytes ever appended, and ever retired.
    head: u64,
    tail: u64,
    /// A bound was reached: nothing is appended until [`Journal::begin_anew`].
    full: bool,
    /// Records carry sums.
    summed: bool,
    facts: Facts,
    /// From here on nothing is missing between the records.
    floor: u64,
    /// Times a bound was reached.
    overflows: u64,
    records: u64,
    changes: u64,
    seals: u64,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("head", &self.head).field("tail", &self.tail).field("full", &self.full).finish_non_exhaustive()
    }
}

/// Figures for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct JournalStatus {
    /// Bytes of the ring.
    pub bytes: u64,
    /// Bytes that a restart would read.
    pub used_bytes: u64,
    /// Records ever written.
    pub records: u64,
    /// Times it was full.
    pub overflows: u64,
    /// A restart would know which keys may differ.
    pub complete: bool,
}

// Places in the header.
const MAGIC: &[u8; 8] = b"TWINLANE";
const AT_FORMAT: usize = 8;
const AT_CAPACITY: usize = 16;
const AT_HEAD: usize = 24;
const AT_TAIL: usize = 32;
const AT_EPOCH: usize = 40;
/// 1: the ring is complete; 0: a bound was reached, or it is being set up.
const AT_COMPLETE: usize = 48;
const AT_SYNCED: usize = 49;
const AT_EVICTED: usize = 56;
const AT_DELAY: usize = 72;
const AT_RUN_IDS: usize = 128;
const AT_BOOT: usize = 256;
const AT_INSTALLATION: usize = 384;
/// Device, inode and birth of the file; all zero: not told.
const AT_FILE: usize = 448;
/// Begin and end of the part of the spill file that names keys in doubt.
const AT_SPILL: usize = 480;
const AT_DATABASES: usize = 1024;
/// Bytes of a text: its length, then itself.
const TEXT: usize = 64;
/// Bytes of a database.
const DATABASE: usize = 16;
/// Bytes of a record in front of its key: length (2), database (1), kind (1), sum (4).
const RECORD: usize = 8;

/// Bytes of the header that a seal copies.
const SEALED: usize = AT_DATABASES + DATABASES_MAX * DATABASE;
/// Where the first seal stands: its number (8), its sum (8), the copy.
const AT_SEALS: usize = 8192;
const SEAL: usize = 6144;

const _: () = assert!(SEALED <= AT_SEALS && 16 + SEALED <= SEAL && AT_SEALS + 2 * SEAL <= HEADER_BYTES && DATABASES_MAX <= 256);

impl Journal {
    /// Reads what an earlier process left in these pages, and goes on in them. They are [`HEADER_BYTES`] and a power of two of at
    /// least [`RING_BYTES_MIN`] bytes behind; None: they are not.
    #[must_use]
    pub fn open(mut pages: Pages, opening: &Opening<'_>) -> Option<(Journal, Left)> {
        let memory = (*pages).as_mut();
        let capacity = memory.len().checked_sub(HEADER_BYTES)?;
        if capacity < RING_BYTES_MIN || !capacity.is_power_of_two() {
            return None;
        }
        let Found { left, head, tail, seal } = read(memory, opening);
        if let Some(at) = seal {
            memory.copy_within(at + 16..at + 16 + SEALED, 0);
        }
        match &left {
            Left::Known { facts, .. } => {
                // What a wide record said must outlive the record.
                for (number, known) in facts.databases.iter().enumerate() {
                    put_known(&mut memory[AT_DATABASES + number * DATABASE..][..DATABASE], *known);
                }
                put(memory, AT_HEAD, head);
            }
            // The magic goes last: half a header is none.
            Left::Nothing | Left::Unknown(_) => memory[..HEADER_BYTES].fill(0),
        }
        if !opening.synced {
            // A seal of the time when there were syncs says less and less.
            memory[AT_SEALS..HEADER_BYTES].fill(0);
        }
        memory[AT_FORMAT..AT_FORMAT + 4].copy_from_slice(&FORMAT.to_le_bytes());
        put(memory, AT_CAPACITY, capacity as u64);
        put_text(memory, AT_BOOT, opening.boot);
        opening.file.iter().enumerate().for_each(|(at, number)| put(memory, AT_FILE + at * 8, *number));
        put_text(memory, AT_INSTALLATION, opening.installation);
        memory[AT_SYNCED] = u8::from(opening.synced);
        memory[AT_COMPLETE] = 1;
        compiler_fence(Ordering::SeqCst);
        memory[..8].copy_from_slice(MAGIC);
        let facts = match &left {
            Left::Known { facts, .. } => facts.clone(),
            _ => Facts::default(),
        };
        let summed = opening.synced;
        let seals = newest_seal(memory).map_or(0, |at| number(memory, at));
        // All of it was read just now.
        pages.rest(0..HEADER_BYTES + capacity);
        let capacity = capacity as u64;
        Some((
            Journal { pages, capacity, head, tail, full: false, summed, facts, floor: head, overflows: 0, records: 0, changes: 1, seals },
            left,
        ))
    }

    /// A request that may write this key leaves for the primary next.
    pub fn intend(&mut self, db: Db, key: &[u8]) {
        self.append(Kind::Intent, db, key);
    }

    /// The key is in the ledger.
    pub fn doubt(&mut self, db: Db, key: &[u8]) {
        self.append(Kind::Dirty, db, key);
    }

    /// A request that may write any key of the database leaves for the primary next.
    pub fn intend_any(&mut self, db: Db) {
        self.append(Kind::Wide, db, b"");
    }

    fn append(&mut self, kind: Kind, db: Db, key: &[u8]) {
        if self.full {
            return;
        }
        let (kind, key) = if key.len() > KEY_BYTES_MAX { (Kind::Wide, &b""[..]) } else { (kind, key) };
        let needed = (RECORD + key.len()) as u64;
        let mut at = self.head & (self.capacity - 1);
        let rest = self.capacity - at;
        let skipped = if rest < needed { rest } else { 0 };
        if self.head + skipped + needed - self.tail > self.capacity {
            return self.overflow();
        }
        let memory = (*self.pages).as_mut();
        if skipped > 0 {
            if rest >= RECORD as u64 {
                let sum = if self.summed { sum(self.head, Kind::Pad, 0, b"") } else { 0 };
                write_record(&mut memory[HEADER_BYTES + at as usize..], sum, Kind::Pad, 0, b"");
            }
            self.head += skipped;
            at = 0;
        }
        let sum = if self.summed { sum(self.head, kind, db, key) } else { 0 };
        write_record(&mut memory[HEADER_BYTES + at as usize..], sum, kind, db, key);
        compiler_fence(Ordering::SeqCst);
        let before = self.head;
        self.head += needed;
        self.records += 1;
        self.changes += 1;
        put(memory, AT_HEAD, self.head);
        if before / REST_BYTES != self.head / REST_BYTES {
            self.rest_behind();
        }
    }

    /// What lies two pieces behind the head rests: the tail has mostly passed it.
    fn rest_behind(&mut self) {
        let piece = (self.head / REST_BYTES).saturating_sub(2) * REST_BYTES;
        if self.capacity >= 4 * REST_BYTES {
            let from = HEADER_BYTES + (piece & (self.capacity - 1)) as usize;
            self.pages.rest(from..from + REST_BYTES as usize);
        }
    }

    /// There is no room: from now on everything is in doubt, as far as the next process knows.
    fn overflow(&mut self) {
        self.full = true;
        self.overflows += 1;
        self.changes += 1;
        let memory = (*self.pages).as_mut();
        memory[AT_COMPLETE] = 0;
    }

    /// Whether a bound was reached: nothing is written down until [`Journal::begin_anew`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Behind an overflow: the ring is empty and takes records again. It is complete when the caller says so.
    pub fn begin_anew(&mut self) {
        self.tail = self.head;
        self.floor = self.head;
        let memory = (*self.pages).as_mut();
        put(memory, AT_TAIL, self.tail);
        self.full = false;
    }

    /// Everything that may differ has a record, or is told by the facts.
    pub fn set_complete(&mut self) {
        if !self.full {
            compiler_fence(Ordering::SeqCst);
            (*self.pages).as_mut()[AT_COMPLETE] = 1;
            self.changes += 1;
        }
    }

    /// Whether a restart would know which keys may differ.
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        (*self.pages).as_mut()[AT_COMPLETE] == 1
    }

    /// Bytes ever appended: what is written down from now on stands behind this.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Rises with everything that must be durable before what it announces is sent, where that is asked for.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The pages are about to be synced: what they say now is what another start of the machine is to believe.
    pub fn seal(&mut self) {
        self.seals += 1;
        let memory = (*self.pages).as_mut();
        let at = AT_SEALS + (self.seals & 1) as usize * SEAL;
        memory.copy_within(..SEALED, at + 16);
        put(memory, at, self.seals);
        let sum = seal_sum(memory, at);
        put(memory, at + 8, sum);
    }

    /// Bytes between tail and head.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Intents below `end` are confirmed, or their keys are in the ledger: the tail moves over at most `records` of them. A key of
    /// which `is_dirty` says so goes to the head with a record of its own if the ring is half full; until then the tail stops at it.
    pub fn retire(&mut self, end: u64, records: usize, mut is_dirty: impl FnMut(Db, &[u8]) -> bool) {
        let mut key = Vec::new();
        for _ in 0..records {
            if self.tail >= end || self.full {
                break;
            }
            let at = self.tail & (self.capacity - 1);
            let rest = self.capacity - at;
            let crowded = self.used() >= self.capacity / 2;
            let memory = (*self.pages).as_mut();
            let Some(record) = (rest >= RECORD as u64).then(|| Record::read(&memory[HEADER_BYTES + at as usize..])).flatten() else {
                // Too little for a record stood before the ring's end.
                self.tail += rest;
                continue;
            };
            let bytes = match record.kind {
                Kind::Pad => rest,
                _ => (RECORD + record.key.len()) as u64,
            };
            if matches!(record.kind, Kind::Dirty) && is_dirty(record.db, record.key) {
                if !crowded {
                    break;
                }
                let db = record.db;
                key.clear();
                key.extend_from_slice(record.key);
                // Its new place first.
                self.append(Kind::Dirty, db, &key);
                if self.full {
                    break;
                }
            }
            self.tail += bytes;
        }
        compiler_fence(Ordering::SeqCst);
        let tail = self.tail;
        put((*self.pages).as_mut(), AT_TAIL, tail);
    }

    /// The oldest place from which [`Journal::recent`] reads.
    #[must_use]
    pub fn recent_from(&self) -> u64 {
        if self.full { self.head } else { self.floor.max(self.head.saturating_sub(self.capacity)) }
    }

    /// Tells `each` what the records from one place up to another name, retired ones too: a key, or None for any key of the database.
    /// `from` is a place at which [`Journal::head`] once was. False when some of them are overwritten, or a bound was reached.
    #[must_use]
    pub fn recent(&mut self, from: u64, to: u64, mut each: impl FnMut(Db, Option<&[u8]>)) -> bool {
        if self.full || from < self.recent_from() {
            return false;
        }
        let memory = (*self.pages).as_mut();
        let mut place = from;
        while place < to.min(self.head) {
            let at = place & (self.capacity - 1);
            let rest = self.capacity - at;
            let record = (rest >= RECORD as u64).then(|| Record::read(&memory[HEADER_BYTES + at as usize..])).flatten();
            let Some(record) = record.filter(|record| record.kind != Kind::Pad) else {
                place += rest;
                continue;
            };
            each(record.db, (record.kind != Kind::Wide).then_some(record.key));
            place += (RECORD + record.key.len()) as u64;
        }
        true
    }

    /// Whether these are the facts that it holds already.
    #[must_use]
    pub fn holds(
        &self,
        epoch: u64,
        run_ids: [&str; 2],
        evicted_keys: [Option<u64>; 2],
        delay_max_us: u64,
        mut known: impl FnMut(Db) -> Known,
    ) -> bool {
        let facts = &self.facts;
        facts.epoch == epoch
            && facts.delay_max_us == delay_max_us
            && facts.run_ids[0] == run_ids[0]
            && facts.run_ids[1] == run_ids[1]
            && facts.evicted_keys == evicted_keys
            && facts.databases.iter().enumerate().all(|(number, held)| known(number as Db) == *held)
    }

    /// What the records rest on from now on.
    pub fn set_facts(&mut self, facts: &Facts) {
        if self.facts == *facts {
            return;
        }
        let memory = (*self.pages).as_mut();
        let moved = self.facts.epoch != facts.epoch || self.facts.run_ids != facts.run_ids;
        for (number, known) in facts.databases.iter().enumerate().take(DATABASES_MAX) {
            if moved || self.facts.databases.get(number) != Some(known) {
                memory[AT_DATABASES + number * DATABASE] = 0;
            }
        }
        compiler_fence(Ordering::SeqCst);
        put(memory, AT_EPOCH, facts.epoch);
        put(memory, AT_DELAY, facts.delay_max_us);
        for side in 0..2 {
            put_text(memory, AT_RUN_IDS + side * TEXT, &facts.run_ids[side]);
            put(memory, AT_EVICTED + side * 8, facts.evicted_keys[side].map_or(u64::MAX, |keys| keys));
        }
        for (number, known) in facts.databases.iter().enumerate().take(DATABASES_MAX) {
            if moved || self.facts.databases.get(number) != Some(known) {
                put_known(&mut memory[AT_DATABASES + number * DATABASE..][..DATABASE], *known);
            }
        }
        self.facts = facts.clone();
        self.changes += 1;
    }

    /// Keys in doubt that are in no record, because the spill file names them between these two places.
    pub fn set_spill(&mut self, begin: u64, end: u64) {
        self.changes += 1;
        let memory = (*self.pages).as_mut();
        // A kill between the two stores leaves too much, or nothing when all of it is in memory again.
        if end == 0 {
            put(memory, AT_SPILL + 8, 0);
            compiler_fence(Ordering::SeqCst);
            return put(memory, AT_SPILL, 0);
        }
        put(memory, AT_SPILL, begin);
        compiler_fence(Ordering::SeqCst);
        put(memory, AT_SPILL + 8, end);
    }

    /// Its memory, as it stands.
    #[must_use]
    pub fn bytes(&mut self) -> &[u8] {
        (*self.pages).as_mut()
    }

    /// Its memory.
    #[must_use]
    pub fn into_pages(self) -> Pages {
        self.pages
    }

    /// Figures for people.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            bytes: self.capacity,
            used_bytes: self.used(),
            records: self.records,
            overflows: self.overflows,
            complete: !self.full && self.facts.databases.iter().any(|known| *known != Known::Nothing),
        }
    }
}

/// One record.
struct Record<'a> {
    kind: Kind,
    db: Db,
    key: &'a [u8],
    sum: u32,
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`; None: there is none.
    fn read(bytes: &'a [u8]) -> Option<Record<'a>> {
        let head: [u8; RECORD] = bytes.get(..RECORD)?.try_into().ok()?;
        let kind = match head[3] {
            1 => Kind::Pad,
            2 => Kind::Intent,
            3 => Kind::Dirty,
            4 => Kind::Wide,
            _ => return None,
        };
        let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let sum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        Some(Record { kind, db: Db::from(head[2]), key: bytes.get(RECORD..RECORD + len)?, sum })
    }
}

fn write_record(to: &mut [u8], sum: u32, kind: Kind, db: Db, key: &[u8]) {
    let [low, high] = (key.len() as u16).to_le_bytes();
    let sum = sum.to_le_bytes();
    to[..RECORD].copy_from_slice(&[low, high, db as u8, kind as u8, sum[0], sum[1], sum[2], sum[3]]);
    to[RECORD..RECORD + key.len()].copy_from_slice(key);
}

/// Tells a record from what stood there in an earlier turn of the ring, and from a page that was never written.
fn sum(place: u64, kind: Kind, db: Db, key: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = (place ^ (u64::from(db) << 56) ^ ((kind as u64) << 48)).wrapping_mul(FACTOR);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    sum = (sum ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    (sum >> 32) as u32
}

fn number(memory: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&memory[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn put(memory: &mut [u8], at: usize, number: u64) {
    memory[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

fn text(memory: &[u8], at: usize) -> String {
    let len = usize::from(memory[at]).min(TEXT - 1);
    String::from_utf8_lossy(&memory[at + 1..at + 1 + len]).into_owned()
}

fn put_text(memory: &mut [u8], at: usize, text: &str) {
    let len = text.len().min(TEXT - 1);
    memory[at + 1..at + 1 + len].copy_from_slice(&text.as_bytes()[..len]);
    memory[at] = len as u8;
}

fn put_known(to: &mut [u8], known: Known) {
    let (kind, cursor) = match known {
        Known::Nothing => (0, 0),
        Known::Walked { on_mirror: false, cursor } => (1, cursor),
        Known::Walked { on_mirror: true, cursor } => (2, cursor),
        Known::Unaligned => (3, 0),
        Known::Equal => (4, 0),
    };
    put(to, 8, cursor);
    compiler_fence(Ordering::SeqCst);
    to[0] = kind;
}

fn known(from: &[u8]) -> Known {
    match from[0] {
        1 | 2 => Known::Walked { on_mirror: from[0] == 2, cursor: number(from, 8) },
        3 => Known::Unaligned,
        4 => Known::Equal,
        _ => Known::Nothing,
    }
}

/// Of the sealed bytes, and of which seal they are.
fn seal_sum(memory: &[u8], at: usize) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = memory[at + 16..at + 16 + SEALED].as_chunks::<8>();
    let fold = |sum: u64, word: &[u8; 8]| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    words.iter().fold(number(memory, at).wrapping_mul(FACTOR) | 1, fold)
}

/// Where the youngest whole seal is.
fn newest_seal(memory: &[u8]) -> Option<usize> {
    let whole = |at: &usize| number(memory, *at) > 0 && number(memory, *at + 8) == seal_sum(memory, *at);
    [AT_SEALS, AT_SEALS + SEAL].into_iter().filter(whole).max_by_key(|at| number(memory, *at))
}

/// Whether it lies where its header was written. Devices may be numbered anew when the machine starts, so they count only within one start of it.
fn is_same_file(header: &[u8], opening: &Opening<'_>) -> bool {
    let [device, inode, made] = [0, 1, 2].map(|at| number(header, AT_FILE + at * 8));
    let same_start = text(header, AT_BOOT) == opening.boot;
    let told = [device, inode, made] != [0; 3] && opening.file != [0; 3];
    !told || (inode == opening.file[1] && made == opening.file[2] && (device == opening.file[0] || !same_start))
}

/// What the pages hold.
struct Found {
    left: Left,
    head: u64,
    tail: u64,
    /// The seal that was believed instead of the header.
    seal: Option<usize>,
}

/// What an earlier process wrote.
fn read(memory: &[u8], opening: &Opening<'_>) -> Found {
    let found = |left: Left| Found { left, head: 0, tail: 0, seal: None };
    let unknown = |why: String| found(Left::Unknown(why));
    if memory[..HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return found(Left::Nothing);
    }
    // This start of the machine has every byte that was stored; another one what was synced.
    let coherent = memory[..8] == *MAGIC && text(memory, AT_BOOT) == opening.boot;
    let seal = if coherent { None } else { newest_seal(memory) };
    let header = &memory[seal.map_or(0, |at| at + 16)..][..SEALED];
    if header[..8] != *MAGIC {
        return unknown("it is no journal of Twinlane's, or was never begun".into());
    }
    let format = u32::from_le_bytes([header[AT_FORMAT], header[AT_FORMAT + 1], header[AT_FORMAT + 2], header[AT_FORMAT + 3]]);
    if format != FORMAT {
        return unknown(format!("it has format {format}, and this version reads format {FORMAT}"));
    }
    if text(header, AT_INSTALLATION) != opening.installation {
        return unknown("it is of another installation".into());
    }
    if !coherent && seal.is_none() {
        return unknown("the machine was started anew, and the journal was not synced (journal.sync = \"none\")".into());
    }
    if !is_same_file(header, opening) {
        return unknown("its file is a copy, or was restored: it may be older than what the servers hold".into());
    }
    let capacity = (memory.len() - HEADER_BYTES) as u64;
    let (head, tail) = (number(header, AT_HEAD), number(header, AT_TAIL));
    if number(header, AT_CAPACITY) != capacity || tail > head || head - tail > capacity {
        return unknown("its size has changed, or it is damaged".into());
    }
    if header[AT_COMPLETE] != 1 {
        return unknown("it was full: more keys were in doubt than it holds".into());
    }
    let mut facts = Facts {
        epoch: number(header, AT_EPOCH),
        run_ids: [text(header, AT_RUN_IDS), text(header, AT_RUN_IDS + TEXT)],
        evicted_keys: [AT_EVICTED, AT_EVICTED + 8].map(|at| Some(number(header, at)).filter(|keys| *keys != u64::MAX)),
        delay_max_us: number(header, AT_DELAY),
        databases: (0..DATABASES_MAX).map(|number| known(&header[AT_DATABASES + number * DATABASE..][..DATABASE])).collect(),
    };
    let summed = header[AT_SYNCED] == 1;
    let end = if seal.is_some() { tail + capacity } else { head };
    let mut keys = BTreeSet::new();
    let (mut place, mut read_to) = (tail, tail);
    while place < end {
        let at = place & (capacity - 1);
        let rest = capacity - at;
        if rest < RECORD as u64 {
            place += rest;
            continue;
        }
        let record = Record::read(&memory[HEADER_BYTES + at as usize..]);
        let whole = |record: &Record<'_>| !summed || record.sum == sum(place, record.kind, record.db, record.key);
        let Some(record) = record.filter(whole) else {
            if place >= head {
                break;
            }
            return unknown(format!("its record at {place} is torn"));
        };
        match record.kind {
            Kind::Pad => {
                place += rest;
                continue;
            }
            Kind::Wide => facts.databases[usize::from(record.db)] = Known::Nothing,
            Kind::Intent | Kind::Dirty => {
                keys.insert((record.db, record.key.to_vec()));
            }
        }
        place += (RECORD + record.key.len()) as u64;
        read_to = place;
    }
    let (begin, end) = (number(header, AT_SPILL), number(header, AT_SPILL + 8));
    if seal.is_some() && begin < end {
        return unknown("the machine was started anew, and keys in doubt were in the spill file, which is not synced".into());
    }
    let left = Left::Known { facts, keys: keys.into_iter().collect(), spilled: (begin.min(end), end) };
    Found { left, head: read_to.max(head), tail, seal }
}

#[cfg(test)]
mod tests;
