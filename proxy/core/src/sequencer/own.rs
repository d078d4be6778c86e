//! Connections of a session's own to the primary: for what a connection that others share cannot carry, because the server
//! keeps a state for it (WATCH, subscriptions: `feed.rs`) or holds it up (WAIT).
//!
//! They are opened when a session needs one, kept for the next session, and bounded: a session that only waits with its WATCH
//! gives its connection up to one that needs it, and its EXEC answers nil, as a server may answer at any time (H37). What is
//! written on them runs under a fence, so it has a place in the order (H25). They live and die with the lanes of their side (H4).

use super::lane::{Lane, LaneId, LaneState, Role, What};
use super::session::{Admit, Session, SessionId, Wait};
use super::{Action, Now, Sequencer};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::push_request;
use crate::resp::request::Request;

/// What such a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// WATCH and WAIT: one session after the other.
    Command,
    /// Subscriptions and MONITOR: it ends with its session's need.
    Feed,
}

/// One such connection.
#[derive(Debug)]
pub(super) struct Own {
    pub id: LaneId,
    pub lane: Lane,
    pub used: Use,
    /// Whose it is now.
    pub owner: Option<SessionId>,
    /// When it came to its owner, or became free, microseconds.
    since: u64,
    /// To be closed when what is in flight on it is answered: its side is not the primary's any more.
    leaving: bool,
}

impl Own {
    /// Requests in flight that write, or whose scripts have not been reported.
    pub fn writes(&self) -> bool {
        self.lane.is_unreported() || self.lane.in_flight.iter().any(|flight| matches!(flight.what, What::Block(_)))
    }

    /// Nothing is in flight that a flip waits for.
    pub fn is_drained(&self) -> bool {
        !self.writes() && !self.lane.in_flight.iter().any(|flight| matches!(flight.what, What::Client { .. } | What::Watch(_)))
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving
    }
}

impl Sequencer {
    /// The session's own connection, open; or why the session must wait for it.
    pub(super) fn acquire_own(&mut self, id: SessionId) -> Result<LaneId, Admit> {
        let Some(session) = self.sessions.get(id) else { return Err(Admit::Taken) };
        let (db, present) = (session.db, session.own);
        if let Some(error) = self.sessions.get_mut(id).and_then(|session| session.own_failed.take()) {
            return Err(self.refuse_request(id, error.as_bytes()));
        }
        if let Some(lane) = present {
            match self.lane(lane).map(|lane| lane.state) {
                Some(LaneState::Open) => return Ok(lane),
                Some(LaneState::Opening) => return Err(Admit::Wait(Wait::Gate)),
                Some(LaneState::Refused) => {
                    self.close_own(lane);
                    return Err(self.refuse_request(id, b"-ERR DB index is out of range\r\n"));
                }
                None => {}
            }
        }
        let primary = self.primary();
        if !self.sides[primary.index()].is_up() {
            return Err(self.wait_for_lane(id, LaneId::shared(primary, db)));
        }
        let own = || self.sides[primary.index()].own.values().filter(|own| own.used == Use::Command);
        let free = own().find(|own| own.owner.is_none() && !own.leaving && own.id.db == db).map(|own| own.id);
        let full = own().count() >= limits::OWN_CONNECTIONS_MAX;
        if let Some(lane) = free {
            self.assign_own(lane, id);
            return if self.lane(lane).is_some_and(Lane::is_open) { Ok(lane) } else { Err(Admit::Wait(Wait::Gate)) };
        }
        // Those that only wait for an answer of the server's are idle soon.
        let soon = |own: &Own| !own.lane.in_flight.iter().any(|flight| matches!(flight.what, What::Ask(_)));
        let wait = own().any(soon);
        if full && !self.free_one_own() {
            if wait {
                self.own_wanted = true;
                return Err(Admit::Wait(Wait::Gate));
            }
            let error = format!("-ERR twinlane: all {} connections for WATCH and WAIT are in use\r\n", limits::OWN_CONNECTIONS_MAX);
            return Err(self.refuse_request(id, error.as_bytes()));
        }
        self.open_own(Some(id), primary, db, Use::Command);
        Err(Admit::Wait(Wait::Gate))
    }

    pub(super) fn open_own(&mut self, owner: Option<SessionId>, side: Endpoint, db: Db, used: Use) -> LaneId {
        self.own_serial = self.own_serial.wrapping_add(1);
        let lane = LaneId { side, db, role: Role::Own(self.own_serial) };
        let own = Own { id: lane, lane: Lane::new(), used, owner, since: self.now.us, leaving: false };
        let side = &mut self.sides[side.index()];
        side.own.insert(self.own_serial, own);
        let generation = side.generation;
        self.actions.push_back(Action::OpenLane { lane, generation });
        if let Some(owner) = owner.filter(|_| used == Use::Command) {
            self.assign_own(lane, owner);
        }
        lane
    }

    fn assign_own(&mut self, lane: LaneId, owner: SessionId) {
        let now = self.now.us;
        if let Some(own) = self.own_mut(lane) {
            own.owner = Some(owner);
            own.since = now;
        }
        if let Some(session) = self.sessions.get_mut(owner) {
            session.own = Some(lane);
        }
    }

    pub(super) fn own_mut(&mut self, lane: LaneId) -> Option<&mut Own> {
        match lane.role {
            Role::Own(number) => self.sides[lane.side.index()].own.get_mut(&number),
            Role::Shared | Role::Bulk => None,
        }
    }

    /// WAIT and WAITAOF: a server counts from the last write of the connection that asks, so a write that replicas see goes first, and the
    /// answer covers everything the session was told before.
    pub(super) fn send_wait(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        if !self.sessions.get(id).is_some_and(Session::is_drained) {
            return Admit::Wait(Wait::Drain);
        }
        if self.is_held() {
            return Admit::Wait(Wait::Gate);
        }
        let lane_id = match self.acquire_own(id) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        let now = self.now.us;
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"PUBLISH", WAIT_CHANNEL, b""]);
        frame.extend_from_slice(request.frame);
        if let Some(lane) = self.lane_mut(lane_id) {
            lane.push(&[&frame], What::Ask(id), 2, now);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
        }
        self.count_sent(id, false);
        self.touch_lane(lane_id);
        Admit::Taken
    }

    /// The server answered what a session asked on a connection of its own.
    pub(super) fn answer_ask(&mut self, id: SessionId, reply: &[u8], failed: Option<&[u8]>) {
        self.deliver(id, failed.unwrap_or(reply), false, None);
        self.finish_own(id);
    }

    /// A session's command on its own connection was answered: it is given back unless something is watched there.
    pub(super) fn finish_own(&mut self, id: SessionId) {
        if self.sessions.get(id).is_some_and(|session| session.watch.is_none()) {
            self.release_own(id);
        }
    }

    /// Makes room for one more: closes a free one, else takes the longest idle watcher's. False when all are at work.
    fn free_one_own(&mut self) -> bool {
        let own = &self.sides[self.primary().index()].own;
        let idle = |own: &&Own| own.used == Use::Command && own.lane.in_flight.is_empty() && own.lane.is_open();
        // Whose connection has just been opened is about to use it.
        let watching = |owner: SessionId| self.sessions.get(owner).is_some_and(|session| session.watch.is_some());
        let watches = |own: &&Own| own.owner.is_some_and(|owner| watching(owner) && !self.fences.is_of(owner));
        let free = own.values().filter(idle).find(|own| own.owner.is_none());
        let victim = free.or_else(|| own.values().filter(idle).filter(watches).min_by_key(|own| own.since));
        let Some((lane, owner)) = victim.map(|own| (own.id, own.owner)) else { return false };
        if let Some(owner) = owner {
            self.break_watch(owner);
        }
        self.close_own(lane);
        true
    }

    /// The session does not need its connection any more. What it still has in flight there is answered first.
    pub(super) fn release_own(&mut self, id: SessionId) {
        let now = self.now.us;
        let Some(lane) = self.sessions.get_mut(id).and_then(|session| session.own.take()) else { return };
        let Some(own) = self.own_mut(lane) else { return };
        own.owner = None;
        own.since = now;
        let asked = own.lane.in_flight.iter().any(|flight| asker(&flight.what).is_some());
        let busy = own.writes();
        own.leaving |= busy;
        if asked {
            // Nobody waits for the answer any more, and it may never come.
            return self.close_own(lane);
        }
        let free = self.sides[lane.side.index()].own.values().filter(|own| own.used == Use::Command && own.owner.is_none()).count();
        if !busy && free > limits::OWN_CONNECTIONS_FREE {
            self.close_own(lane);
        }
    }

    /// A reply came on a connection of a session's own: it is closed if it was only kept for this.
    pub(super) fn settle_own(&mut self, lane: LaneId) {
        if !lane.is_shared() {
            self.sessions.resume |= std::mem::take(&mut self.own_wanted);
        }
        if self.own_mut(lane).is_some_and(|own| own.leaving && own.lane.in_flight.is_empty() && !own.lane.is_unreported()) {
            self.close_own(lane);
        }
    }

    pub(super) fn close_own(&mut self, lane: LaneId) {
        let Role::Own(number) = lane.role else { return };
        let Some(own) = self.sides[lane.side.index()].own.remove(&number) else { return };
        if let Some(session) = own.owner.and_then(|owner| self.sessions.get_mut(owner)).filter(|session| session.own == Some(lane)) {
            session.own = None;
        }
        self.sessions.resume |= std::mem::take(&mut self.own_wanted);
        self.actions.push_back(Action::CloseLane { lane });
    }

    /// The roles have moved: connections to the side that was the primary go, those that are still owed a reply when it came. Watches live on where a
    /// flip has handed them over.
    pub(super) fn retire_own(&mut self, side: Endpoint, handed_over: bool) {
        let used = |own: &&Own| own.used == Use::Command;
        let lanes: Vec<LaneId> = self.sides[side.index()].own.values().filter(used).map(|own| own.id).collect();
        for lane in lanes {
            let Some(own) = self.own_mut(lane) else { continue };
            own.leaving = true;
            let asked = own.lane.in_flight.iter().any(|flight| asker(&flight.what).is_some());
            if let Some(owner) = own.owner {
                if let Some(next) = self.take_handover(owner).filter(|_| handed_over) {
                    self.release_own(owner);
                    self.assign_own(next, owner);
                } else {
                    self.break_watch(owner);
                    if !asked {
                        self.release_own(owner);
                    }
                }
            }
            self.settle_own(lane);
        }
    }

    /// Whether nobody wants this connection any more, which was still being opened.
    #[must_use]
    pub fn lane_is_gone(&self, lane: LaneId) -> bool {
        self.lane(lane).is_none()
    }

    /// The connection of a lane is gone. One of a session's own goes alone, unless a write was in flight on it: then nobody knows
    /// what the server did, and the side is lost as a whole.
    pub fn handle_lane_lost(&mut self, lane: LaneId, generation: u64, error: &str, now: Now) {
        self.now = now;
        if self.sides[lane.side.index()].generation != generation {
            return;
        }
        match self.own_mut(lane) {
            Some(own) if !own.writes() => self.lose_own(lane, error),
            // It was closed, and only its end is told late.
            None if !lane.is_shared() && lane.role != Role::Bulk => {}
            _ => return self.handle_side_down(lane.side, generation, error, now),
        }
        self.settle();
    }

    /// A connection of a session's own could not be opened, or ended.
    pub(super) fn lose_own(&mut self, lane: LaneId, error: &str) {
        let Some(own) = self.own_mut(lane) else { return };
        let (owner, opening, used) = (own.owner, !own.lane.is_open(), own.used);
        let client = |what: &What| match what {
            What::Client { session, .. } => Some(*session),
            what => asker(what),
        };
        let watches = |what: &What| matches!(what, What::Watch(_));
        let flights = own.lane.in_flight.iter().map(|flight| &flight.what);
        let leaves = flights.clone().any(|what| matches!(what, What::Leave(_)));
        let asked: Vec<(SessionId, bool)> = flights.filter_map(|what| Some((client(what)?, watches(what)))).collect();
        self.close_own(lane);
        for (id, watches) in asked {
            if watches {
                // Nobody watches for it: its EXEC answers nil, as behind any other end of a watch.
                self.break_watch(id);
                self.deliver(id, b"+OK\r\n", false, None);
                continue;
            }
            let feed = self.sessions.get(id).and_then(|session| session.feed.as_ref());
            if used == Use::Feed && feed.is_some_and(|feed| feed.lane != lane) {
                // It was being subscribed on the other side for a flip, which nobody waits for (I6).
                continue;
            }
            self.close(id, "primary_lost");
        }
        let Some(owner) = owner else { return };
        let wanted = lane.side == self.primary();
        match used {
            Use::Command if !wanted => {}
            Use::Command => self.break_watch(owner),
            // That is what its session waits for.
            Use::Feed if leaves => self.end_leaving(owner),
            Use::Feed => self.lose_feed(owner, lane),
        }
        if opening
            && wanted
            && let Some(session) = self.sessions.get_mut(owner)
        {
            session.own_failed =
                Some(format!("-ERR twinlane: `{}` cannot be reached; the command was not executed: {error}\r\n", lane.side));
        }
        self.sessions.resume = true;
    }
}

/// Where a message is published so that the connection has a write that WAIT can count from.
const WAIT_CHANNEL: &[u8] = b"__twinlane:wait";

/// The session that a flight on a connection of its own answers.
pub(super) fn asker(what: &What) -> Option<SessionId> {
    match what {
        What::Watch(id) | What::Ask(id) | What::Subscription(id) | What::Tracking(id) => Some(*id),
        _ => None,
    }
}
