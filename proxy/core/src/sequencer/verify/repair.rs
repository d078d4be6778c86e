//! Repairs that an operator asks for: one key, and the keys that a verify found on the mirror alone. Nothing on the mirror that the primary does
//! not have is deleted without the operator's word, and before it is given, it is told how many keys that would be, with samples,
//! and of which endpoint (I5). An image does the rest: at its position it tells whether the primary still does not have the key.

use super::super::Sequencer;
use super::super::lane::{Lane, LaneId};
use super::Job;
use crate::divergence::ExtraKeys;
use crate::doubt::Cause;
use crate::endpoint::Db;
use crate::resp::encode::push_request;
use crate::resp::reply::Reply;
use crate::status::Outcome;

/// A key that is to be repaired, while the primary is asked whether it has it.
#[derive(Debug)]
pub(in crate::sequencer) struct Asked {
    pub ticket: u64,
    db: Db,
    key: Vec<u8>,
}

/// Samples that are told before keys are deleted.
const SAMPLES: usize = 10;

impl Sequencer {
    /// Deletes what the last verify found on the mirror alone, if the operator confirms how many that are.
    pub(in crate::sequencer) fn repair_extras(&mut self, ticket: u64, confirm: Option<u64>) {
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off");
        }
        let count = self.verify.extras.len() as u64;
        if confirm != Some(count) {
            let samples = self.verify.extras.iter().take(SAMPLES).cloned().collect();
            return self.answer(ticket, Outcome::ToConfirm(ExtraKeys { count, samples, endpoint: self.mirror_side() }));
        }
        let position = self.next_position();
        for (db, key) in std::mem::take(&mut self.verify.extras) {
            self.mark_dirty(db, &key, Cause::Extra, position);
        }
        self.log(true, format!("{count} keys that only `{}` has are deleted there, by the operator's word", self.mirror_side()));
        self.answer(ticket, Outcome::Done);
    }

    /// Copies one key anew, if the primary has it.
    pub(in crate::sequencer) fn repair_key(&mut self, ticket: u64, db: Db, key: Vec<u8>) {
        let primary = self.primary();
        let lane = LaneId::shared(primary, db);
        if !self.record.mirroring {
            return self.refuse(ticket, "mirroring is off");
        }
        if key.starts_with(super::super::RESERVED_PREFIX) {
            return self.refuse(ticket, "keys of this prefix are the proxy's own");
        }
        if usize::from(db) >= crate::limits::DATABASES_MAX || !self.sides[primary.index()].is_up() || !self.may_ask() {
            return self.refuse(ticket, "the primary cannot be asked now");
        }
        if !self.lane(lane).is_some_and(Lane::is_open) {
            self.open_lane(lane);
            return self.refuse(ticket, format!("the connection for database {db} is being opened: ask again"));
        }
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"EXISTS", &key]);
        self.push_reading(primary, db, &frame, 1, Job::Repair(Asked { ticket, db, key }));
    }

    pub(super) fn answer_repair(&mut self, asked: Asked, reply: Reply<'_>) {
        let Asked { ticket, db, key } = asked;
        match reply.integer() {
            Some(1) => {
                let position = self.next_position();
                self.mark_dirty(db, &key, Cause::Verifier, position);
                self.answer(ticket, Outcome::Done);
            }
            Some(_) => self.refuse(
                ticket,
                "the primary does not have this key; what only the mirror has is deleted by `delete_extra` after a verify found it",
            ),
            None => self.refuse(ticket, format!("the primary answered {}", String::from_utf8_lossy(reply.text()))),
        }
    }

    /// The last verify's list belongs to a mirror that is no longer one.
    pub(in crate::sequencer) fn forget_extras(&mut self) {
        self.verify.extras.clear();
    }
}
