//! The bytes of the record file: two checksummed slots, written in turn, so that a torn write never costs the record.
//!
//! `[slot 0][slot 1][scratch]`, 4 KiB each. A slot is a header (magic, format, generation, length, CRC-32) and JSON. The
//! slot with the higher generation counts; a write always goes to the other one. The header's shape never changes, so
//! that every version can tell "torn" from "written by a newer version".

use super::record::Record;

/// One slot, and the scratch page used to measure a sync.
pub(super) const SLOT: usize = 4096;
/// Size of the file.
pub(super) const FILE: usize = 3 * SLOT;
const MAGIC: &[u8; 8] = b"TWINLANE";
const HEADER: usize = 28;

/// What one slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Blank,
    /// Written in part, or damaged.
    Torn,
    /// Whole, but of a format this version does not know.
    Unknown {
        /// The format number.
        format: u32,
    },
    /// A record.
    Valid {
        /// Counts writes.
        generation: u64,
        /// What was written.
        record: Box<Record>,
    },
}

/// The whole file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Created, but no record was ever durable.
    Never,
    /// The newest whole record, and the slot it is in.
    Record {
        /// Counts writes.
        generation: u64,
        /// 0 or 1.
        slot: usize,
        /// What was written.
        record: Box<Record>,
    },
    /// A newer version wrote here.
    Unknown {
        /// Its format number.
        format: u32,
    },
    /// Something was there and cannot be read.
    Damaged,
}

/// Encodes one slot; `None` when the record does not fit (addresses are bounded by DNS, so it does).
pub(super) fn encode(generation: u64, record: &Record) -> Option<[u8; SLOT]> {
    let payload = serde_json::to_vec(record).ok()?;
    let mut slot = [0; SLOT];
    let end = HEADER + payload.len();
    slot.get_mut(HEADER..end)?.copy_from_slice(&payload);
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&record.format.to_le_bytes());
    slot[12..20].copy_from_slice(&generation.to_le_bytes());
    slot[20..24].copy_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    let sum = checksum(&slot, end);
    slot[24..28].copy_from_slice(&sum.to_le_bytes());
    Some(slot)
}

/// Decodes one slot.
pub(super) fn decode(slot: &[u8]) -> Slot {
    if slot.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    let end = HEADER.saturating_add(word(slot, 20) as usize);
    if slot.len() < HEADER || &slot[..8] != MAGIC || end > slot.len() || checksum(slot, end) != word(slot, 24) {
        return Slot::Torn;
    }
    let format = word(slot, 8);
    if format != Record::FORMAT {
        return Slot::Unknown { format };
    }
    let generation = u64::from(word(slot, 12)) | u64::from(word(slot, 16)) << 32;
    match serde_json::from_slice(&slot[HEADER..end]) {
        Ok(record) => Slot::Valid { generation, record: Box::new(record) },
        Err(_) => Slot::Torn,
    }
}

/// Decides what a file says.
///
/// The first commit writes both slots, one after the other; so a torn slot beside a blank one is a first write that was
/// interrupted before anything relied on it, and two slots of which none is whole are damage.
pub(super) fn read(file: &[u8]) -> Content {
    let slot = |index: usize| file.get(index * SLOT..(index + 1) * SLOT).map_or(Slot::Torn, decode);
    match (slot(0), slot(1)) {
        (Slot::Unknown { format }, _) | (_, Slot::Unknown { format }) => Content::Unknown { format },
        (Slot::Valid { generation: a, record }, Slot::Valid { generation: b, .. }) if a >= b => {
            Content::Record { generation: a, slot: 0, record }
        }
        (_, Slot::Valid { generation, record }) => Content::Record { generation, slot: 1, record },
        (Slot::Valid { generation, record }, _) => Content::Record { generation, slot: 0, record },
        (Slot::Blank | Slot::Torn, Slot::Blank) => Content::Never,
        (Slot::Blank | Slot::Torn, Slot::Torn) => Content::Damaged,
    }
}

/// CRC-32 of everything but the checksum itself.
fn checksum(slot: &[u8], end: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..24]);
    hasher.update(&slot[HEADER..end]);
    hasher.finalize()
}

fn word(slot: &[u8], at: usize) -> u32 {
    slot.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}
