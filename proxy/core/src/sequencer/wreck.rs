//! Effects that were in flight when the mirror's connection died, on their way into the ledger. Of a mirror that hung before it died
//! these are ten thousand, and to doubt them all in one turn is ten milliseconds in which no client is answered. So each turn takes a
//! few of them. Until the last one is in the ledger the round of intents stands still: the journal names them all (I4). Whatever is to rely
//! on the ledger takes the rest at once: a side that comes or goes, a word of the operator, a SWAPDB, a flip.

use std::collections::VecDeque;

use super::Sequencer;
use super::lane::{InFlight, Lane, LaneId, What};
use super::own::asker;
use crate::endpoint::Db;
use crate::tape::Tape;

/// Effects that one turn takes, and that a tick takes besides.
const PER_TURN: usize = 4;
const PER_TICK: usize = 128;

/// What one lane left.
#[derive(Debug)]
struct Left {
    /// Its database, by the name that it has in the ledger.
    db: Db,
    tape: Tape,
    /// Place of the first flight on the tape.
    at: u64,
    flights: VecDeque<InFlight>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wreck {
    lanes: VecDeque<Left>,
}

impl Wreck {
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Effects that are not in the ledger yet.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|left| left.flights.len()).sum()
    }

    /// Databases and frames of the effects.
    pub fn frames(&self) -> impl Iterator<Item = (Db, &[u8])> {
        self.lanes.iter().flat_map(|left| {
            left.flights.iter().scan(left.at, |at, flight| {
                let frame = left.tape.frame(*at, flight.len);
                *at += u64::from(flight.len);
                Some((left.db, frame))
            })
        })
    }
}

impl Sequencer {
    /// A lane of the mirror is lost with its connection. What is no effect is lost now; effects wait for their turn. `suspected`: the request
    /// that may have broken the connection was found on another lane.
    pub(super) fn wreck(&mut self, id: LaneId, lane: &mut Lane, suspected: &mut bool) {
        let db = self.db_now(id.db);
        let tape = std::mem::take(&mut lane.tape);
        let mut flights = std::mem::take(&mut lane.in_flight);
        let begin = tape.front_at();
        let mut at = begin;
        let mut effects = false;
        for flight in &mut flights {
            let frame = tape.frame(at, flight.len);
            let sent = at < tape.sent_to();
            at += u64::from(flight.len);
            if asker(&flight.what).is_some() {
                flight.what = What::Silent;
                continue;
            }
            if sent && !std::mem::replace(suspected, true) {
                self.suspect(self.db_now(id.db), &flight.what, frame);
            }
            // A reply that waits for the mirror is told when its key is in the ledger.
            let waits_its_turn = match &flight.what {
                What::Effect(effect) => effect.ack.is_none(),
                What::EffectBlock(block) => block.ack.is_none(),
                _ => false,
            };
            effects |= waits_its_turn;
            if !waits_its_turn {
                self.lose_in_flight(id, &flight.what, frame);
                flight.what = What::Silent;
            }
        }
        if effects {
            self.wreck.lanes.push_back(Left { db, tape, at: begin, flights });
        }
    }

    /// All of it goes into the ledger now.
    pub(super) fn clear_wreck(&mut self) {
        self.sort_wreck(usize::MAX);
    }

    /// What is done in each turn.
    pub(super) fn pump_wreck(&mut self) {
        self.sort_wreck(PER_TURN);
    }

    /// Time passes.
    pub(super) fn tick_wreck(&mut self) {
        self.sort_wreck(PER_TICK);
    }

    fn sort_wreck(&mut self, most: usize) {
        for _ in 0..most {
            let Some(mut left) = self.wreck.lanes.pop_front() else { return };
            let Some(flight) = left.flights.pop_front() else { continue };
            self.lose_effect(left.db, &flight.what, left.tape.frame(left.at, flight.len));
            left.at += u64::from(flight.len);
            self.wreck.lanes.push_front(left);
        }
    }
}
