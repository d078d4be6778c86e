//! The ledger's memory is bounded: past it the youngest dirty keys go to a file, and come back as there is room.
//!
//! A batch stays in the ledger until the file has it, so at every moment a key is in memory, and named by the journal, or in the part of the file that
//! the journal points at: a kill loses none. A disk that refuses, or a file that is full, costs what more keys than the bound cost without it: their
//! database is in doubt as a whole, and walked. So does SWAPDB of a database with keys in the file: their records have its old number.

use super::{Action, Now, Sequencer};
use crate::doubt::{State, WideCause};
use crate::endpoint::Db;
use crate::limits;
use crate::spill::{self, Batch};

/// What is on its way to the file, or from it; one thing at a time, so that nothing overtakes.
#[derive(Debug, Default)]
enum Errand {
    #[default]
    None,
    /// Keys of the ledger, in so many bytes; None: everything was cleared meanwhile, and the answer means nothing.
    Writing(Option<(Batch, u64)>),
    /// A piece from this place on; None likewise.
    Reading(Option<u64>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Errands {
    errand: Errand,
    /// The disk refused: it is not asked again until then, microseconds.
    rests_until: u64,
}

impl Sequencer {
    /// Whether keys past the bound can go to the file.
    pub(super) fn can_spill(&self) -> bool {
        self.now.us >= self.errands.rests_until && self.spill.range().1 < self.settings.spill_bytes_max
    }

    /// Bytes on their way to the file.
    pub(super) fn spilling(&self) -> u64 {
        if let Errand::Writing(Some((_, bytes))) = &self.errands.errand { *bytes } else { 0 }
    }

    /// Nothing is in doubt, neither in memory nor in the file, nor on its way there.
    pub(super) fn has_no_doubt(&self) -> bool {
        self.ledger.is_empty() && self.spill.is_empty() && self.wreck.is_empty()
    }

    /// Keys in doubt in memory and in the file, and effects on their way there.
    pub(super) fn keys_in_doubt(&self) -> usize {
        self.ledger.len() + self.spill.keys() as usize + self.wreck.len()
    }

    /// Sends keys to the file, or asks for some of them.
    pub(super) fn pump_spill(&mut self) -> bool {
        if !matches!(self.errands.errand, Errand::None) {
            return false;
        }
        let (held, most) = (self.ledger.len(), self.settings.dirty_keys_max);
        if held > most && self.can_spill() {
            return self.send_spill(held - most + most / 4);
        }
        // While a loss of the primary waits for the operator's word, only what clients wrote since is brought back.
        let wanted = if self.lost.is_some() { self.spill.healable() > 0 } else { !self.spill.is_empty() };
        if !wanted || !self.may_repair() {
            return false;
        }
        if held > most / 2 {
            // Keys that wait for the operator's word make room for those that need not.
            let waiting = self.ledger.dirty() - self.ledger.healable();
            return waiting > 0 && self.can_spill() && self.send_spill(waiting.min(held - most / 2));
        }
        let (begin, end) = self.spill.range();
        let len = (end - begin).min(limits::UNSPILL_BYTES as u64) as usize;
        self.errands.errand = Errand::Reading(Some(begin));
        self.actions.push_back(Action::Unspill { at: begin, len });
        true
    }

    fn send_spill(&mut self, keys: usize) -> bool {
        let keys = self.ledger.take_newest(keys.min(limits::SPILL_BATCH_KEYS), |_, key| key.len() <= spill::KEY_BYTES_MAX);
        if keys.is_empty() {
            return false;
        }
        let (at, bytes) = (self.spill.range().1, self.spill.encode(&keys));
        let batch: Batch = keys.into_iter().map(|(db, key, entry)| (db, key, entry.position)).collect();
        if bytes.is_empty() {
            // The file surely holds them all.
            self.forget_spilled(&batch);
            return true;
        }
        self.errands.errand = Errand::Writing(Some((batch, bytes.len() as u64)));
        self.actions.push_back(Action::Spill { at, bytes });
        true
    }

    /// [`Action::Spill`] was carried out, or the disk refused.
    pub fn handle_spilled(&mut self, outcome: Result<(), String>, now: Now) {
        self.now = now;
        let Errand::Writing(written) = std::mem::take(&mut self.errands.errand) else { return };
        match (written, outcome) {
            (None, _) => {}
            (Some((batch, bytes)), Ok(())) => {
                self.spill.written(bytes);
                // First the journal points at them, then they may leave the ledger.
                self.note_spill();
                self.forget_spilled(&batch);
            }
            (Some((batch, _)), Err(error)) => {
                self.spill.unwritten();
                self.queue_again(&batch);
                self.errands.rests_until = self.now.us + SPILL_RESTS_US;
                self.log(
                    true,
                    format!("keys in doubt could not be written to the disk: {error}; past the bound, databases are copied anew"),
                );
            }
        }
        self.settle();
    }

    /// [`Action::Unspill`] was carried out, or the disk refused.
    pub fn handle_unspilled(&mut self, outcome: Result<&[u8], String>, now: Now) {
        self.now = now;
        let Errand::Reading(read) = std::mem::take(&mut self.errands.errand) else { return };
        if let Some(at) = read {
            let records = outcome.and_then(|bytes| spill::read(bytes, at).ok_or_else(|| "it is damaged".to_owned()));
            match records {
                Ok(records) if !records.is_empty() => self.take_records(records),
                Ok(_) => self.lose_spill("it is shorter than it was"),
                Err(error) => self.lose_spill(&error),
            }
        }
        self.settle();
    }

    /// As many as there is room for, or they would go to the file again; the others are read once more.
    fn take_records(&mut self, records: Vec<(u64, spill::Record)>) {
        let mut place = self.spill.range().0;
        for (behind, record) in records {
            if place > self.spill.range().0 && self.ledger.len() >= self.settings.dirty_keys_max {
                break;
            }
            place = behind;
            let Some(record) = self.spill.take(behind, record) else { continue };
            // Positions of an earlier process are not those of this one.
            let position = if record.held { 0 } else { record.position.max(self.lost.map_or(0, |lost| lost + 1)) };
            if self.record.mirroring && self.ledger.mark(record.db, &record.key, record.cause, position, record.first_seen) {
                self.note_keyspace(record.db);
                self.note_doubt(record.db, &record.key);
            }
        }
        self.spill.taken(place);
        self.note_spill();
    }

    /// Nobody knows which keys were there.
    fn lose_spill(&mut self, why: &str) {
        self.log(true, format!("keys in doubt on the disk cannot be read back: {why}; everything is copied anew"));
        self.unsync(&[], WideCause::Overflow);
        self.refresh_keyspaces();
        // First the journal says that nothing is equal, then it points at them no longer.
        self.write_facts();
        self.clear_spill();
    }

    /// The file has these keys; those that became doubtful again meanwhile, or are being healed, stay in memory.
    fn forget_spilled(&mut self, batch: &Batch) {
        for (db, key, position) in batch {
            let waits = |entry: &crate::doubt::Entry| entry.state == State::Dirty && entry.position == *position;
            if self.ledger.get(*db, key).is_some_and(waits) {
                self.ledger.remove(*db, key);
            }
        }
        self.queue_again(batch);
    }

    fn queue_again(&mut self, batch: &Batch) {
        for (db, key, _) in batch {
            if self.ledger.state(*db, key) == Some(State::Dirty) {
                self.ledger.set_state(*db, key, State::Dirty);
            }
        }
    }

    /// A database was emptied, or is in doubt as a whole: what the file holds of it means nothing, and the ledger has forgotten it too.
    pub(super) fn drop_spilled(&mut self, db: Db) {
        let on_their_way = match &mut self.errands.errand {
            Errand::Writing(Some((batch, bytes))) => {
                // What becomes doubtful there from now on is not in it.
                batch.retain(|(other, ..)| *other != db);
                *bytes
            }
            _ => 0,
        };
        if on_their_way > 0 || !self.spill.is_empty() {
            self.spill.drop_database(db, on_their_way);
        }
    }

    /// Two databases change places: records have their old numbers, so with keys in the file both are walked. To be called before the ledger's change.
    pub(super) fn swap_spilled(&mut self, a: Db, b: Db) {
        let writing = match &mut self.errands.errand {
            Errand::Writing(Some((batch, _))) => std::mem::take(batch),
            _ => Vec::new(),
        };
        self.queue_again(&writing);
        let concerned = [a, b].iter().any(|db| self.spill.holds_database(*db) || writing.iter().any(|(other, ..)| other == db));
        if concerned {
            self.drop_spilled(a);
            self.drop_spilled(b);
            self.unsync(&[a, b], WideCause::Overflow);
        }
    }

    /// Nothing that is in the file means anything.
    pub(super) fn clear_spill(&mut self) {
        match &mut self.errands.errand {
            Errand::None => {}
            Errand::Writing(written) => *written = None,
            Errand::Reading(read) => *read = None,
        }
        self.spill.clear();
        self.note_spill();
    }
}

/// How long the disk is left alone when it refused, microseconds.
const SPILL_RESTS_US: u64 = 10_000_000;
