//! Lanes that are opened while their side is up, and those that cannot be.
//!
//! The hard case is a server that takes no more connections (`maxclients`) while those that it has live: the lane of a database that
//! nobody has used yet, or the first one for large requests, is refused. Giving the side up for it would fail everybody, and the server
//! would refuse the new connections too. So only the sessions that need such a lane are told, effects for its database become
//! dirty keys, whose images wait, and the lane is tried again at a pace. Database 0's is the side's own life: there the mark is.

use super::lane::{Lane, LaneId, LaneInfo, LaneState, Role};
use super::sides::{RETRY_US, Side};
use super::{Action, Now, Sequencer};
use crate::endpoint::{Db, Endpoint};
use std::collections::BTreeSet;

/// A lane that could not be opened, until it is.
#[derive(Debug)]
pub(super) struct Unopened {
    /// It is not tried before, microseconds.
    until: u64,
    /// In the server's words.
    error: String,
}

impl Side {
    /// Why the lane could not be opened just now, until it is tried again.
    pub fn unopened_now(&self, id: LaneId, now_us: u64) -> Option<&str> {
        self.unopened.get(&id.slot()).filter(|unopened| now_us < unopened.until).map(|unopened| unopened.error.as_str())
    }

    /// Shared lanes that could not be opened, with the reason.
    fn unopened(&self) -> impl Iterator<Item = (LaneId, &Unopened)> {
        let lanes = self.unopened.iter().map(|(slot, unopened)| (LaneId::of_slot(Endpoint::Old, *slot), unopened));
        lanes.filter(|(id, _)| id.is_shared())
    }
}

/// Whether a side has no lane for this database and could not get one: what needs both sides waits, and holds nobody else up.
pub(super) fn lacks_lane(sides: &[Side; 2], db: Db) -> bool {
    sides.iter().any(|side| side.unopened.contains_key(&LaneId::shared(Endpoint::Old, db).slot()))
}

impl Sequencer {
    /// Opens a lane that is not there yet.
    pub(super) fn open_lane(&mut self, id: LaneId) {
        let now = self.now.us;
        let side = &mut self.sides[id.side.index()];
        if !side.is_up() || side.lane(id).is_some() || side.unopened_now(id, now).is_some() {
            return;
        }
        side.put_lane(id, Some(Lane::new()));
        let generation = side.generation;
        self.actions.push_back(Action::OpenLane { lane: id, generation });
    }

    /// A lane was opened, or the server has no such database (`Ok(None)`), or the connection failed. While the lane of the side's
    /// database 0 lives, only those who need this one are told.
    pub fn handle_lane_open(&mut self, id: LaneId, generation: u64, result: Result<Option<LaneInfo>, String>, now: Now) {
        self.now = now;
        if self.sides[id.side.index()].generation != generation {
            return;
        }
        match result {
            Ok(info) => {
                if let Some(lane) = self.lane_mut(id) {
                    lane.state = if info.is_some() { LaneState::Open } else { LaneState::Refused };
                    lane.info = info;
                }
                if id.is_shared() {
                    self.remove_twins(id);
                }
                if !matches!(id.role, Role::Own(_)) {
                    self.sides[id.side.index()].unopened.remove(&id.slot());
                }
                self.sessions.resume = true;
            }
            Err(error) if matches!(id.role, Role::Own(_)) => self.lose_own(id, &error),
            Err(error) if self.can_do_without(id) => self.leave_unopened(id, error),
            Err(error) => return self.handle_side_down(id.side, generation, &error, now),
        }
        self.settle();
    }

    fn can_do_without(&self, id: LaneId) -> bool {
        let home = LaneId::shared(id.side, 0);
        let opening = self.lane(id).is_some_and(|lane| lane.state == LaneState::Opening);
        opening && id != home && self.sides[id.side.index()].is_up() && self.lane(home).is_some_and(Lane::is_open)
    }

    /// The side goes on without this lane, which is tried again later.
    pub(super) fn leave_unopened(&mut self, id: LaneId, error: String) {
        let until = self.now.us + RETRY_US;
        let error = error.replace(['\r', '\n'], " ");
        let side = &mut self.sides[id.side.index()];
        side.put_lane(id, None);
        let known = side.unopened.insert(id.slot(), Unopened { until, error: error.clone() });
        if known.is_none_or(|known| known.error != error) {
            self.log(true, format!("`{}`: no connection for database {}: {error}", id.side, id.db));
        }
        self.sessions.resume = true;
    }

    /// What a session is told that needs a lane which could not be opened just now.
    pub(super) fn unopened_error(&self, id: LaneId) -> Option<String> {
        let side = &self.sides[id.side.index()];
        let why = side.unopened_now(id, self.now.us).filter(|_| side.is_up())?;
        Some(format!(
            "-ERR twinlane: `{}` ({}) cannot be reached for database {}: {why}; the command was not executed\r\n",
            id.side, side.address, id.db
        ))
    }

    /// Time passes: shared lanes are tried again, for waiting clients and dirty keys of their databases. One for large requests is
    /// tried by the next large request.
    pub(super) fn tick_unopened(&mut self) {
        for endpoint in Endpoint::BOTH {
            let side = &self.sides[endpoint.index()];
            let due = side.unopened().filter(|(_, unopened)| unopened.until <= self.now.us);
            let due: Vec<LaneId> = due.map(|(id, _)| LaneId { side: endpoint, ..id }).collect();
            due.into_iter().for_each(|id| self.open_lane(id));
        }
    }

    /// Databases in which clients are and for which the mirror takes no connection: behind a flip they would have none.
    pub(super) fn unopened_reasons(&self) -> Vec<String> {
        let mirror = self.mirror_side();
        let side = &self.sides[mirror.index()];
        if side.unopened.is_empty() {
            return Vec::new();
        }
        let used: BTreeSet<Db> = self.sessions.iter().map(|session| session.db).collect();
        let lacking = side.unopened().filter(|(id, _)| used.contains(&id.db));
        lacking.map(|(id, unopened)| format!("`{mirror}` has no connection for database {}: {}", id.db, unopened.error)).collect()
    }
}
