//! Why a key may differ between the two sides right now (I4). Only tests and people ask: every reason is one that the sequencer
//! has written down, so a key that differs without one is a write that was lost.

use super::Sequencer;
use super::lane::LaneId;
use super::reply::each_request;
use crate::command::Rule;
use crate::endpoint::{Db, Endpoint};

impl Sequencer {
    /// Whether a difference in this key is accounted for: its write or its effect is in flight, it is in the ledger, its database
    /// is in doubt as a whole, a whole-database command waits for the mirror, or nothing is mirrored.
    #[must_use]
    pub fn explains(&self, db: Db, key: &[u8]) -> bool {
        !self.record.mirroring
            || self.lost.is_some()
            || self.scans.doubts(db)
            || self.ledger.get(db, key).is_some()
            || self.spill.may_hold(db, key)
            || self.mirror_owes()
            || self.is_in_flight(db, key)
            || self.is_unreported(db)
    }

    /// Whether a lane of the database may still have to report what its last scripts wrote.
    pub(super) fn is_unreported(&self, db: Db) -> bool {
        self.sides[self.primary().index()].all_lanes().any(|(_, lane)| lane.is_unreported() && lane.script_dbs.contains(&db))
    }

    /// Whether a request that writes the key is unanswered, on either side, or waits to be asked again.
    fn is_in_flight(&self, db: Db, key: &[u8]) -> bool {
        let asked_again = self.again.iter().any(|(lane, _, frame)| may_write(lane.db, frame, db, key));
        asked_again
            || self.wreck.frames().any(|(home, frame)| may_write(home, frame, db, key))
            || Endpoint::BOTH.iter().any(|side| {
                self.sides[side.index()].all_lanes().any(|(LaneId { db: home, .. }, lane)| {
                    let mut at = lane.tape.front_at();
                    lane.in_flight.iter().any(|flight| {
                        let frame = lane.tape.frame(at, flight.len);
                        at += u64::from(flight.len);
                        may_write(home, frame, db, key)
                    })
                })
            })
    }
}

/// Whether a frame on a lane of database `home` may write the key.
fn may_write(home: Db, frame: &[u8], db: Db, key: &[u8]) -> bool {
    let (mut writes, mut wanders) = (false, false);
    each_request(frame, |command, request| {
        wanders |= command.name == "SELECT" || matches!(command.rule, Rule::Move | Rule::Copy);
        writes |= matches!(command.rule, Rule::FlushDb | Rule::FlushAll | Rule::SwapDb | Rule::Script);
        writes |= (wanders || home == db) && command.keys(request).any(|named| named.used.writes() && named.name == key);
    });
    writes
}
