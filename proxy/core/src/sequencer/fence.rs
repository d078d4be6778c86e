//! Fences and the barrier: what keeps commands out of the lanes while something that the lanes' own order cannot place is under
//! way.
//!
//! A *fence* stands around the keys of one large request, or of a transaction that watches, which travels on a lane of its own: commands that name those keys, or
//! whose keys are not known, wait; everybody else goes on (H24). The *barrier* stands around everything: a command that
//! touches several databases runs when nothing else is in flight.

use super::lane::{Lane, LaneId, Role, What};
use super::session::{Admit, SessionId, Wait};
use super::{Sequencer, sides::Side};
use crate::command::{Class, Command};
use crate::endpoint::Db;
use crate::resp::request::Request;

/// One large request, or one transaction.
#[derive(Debug)]
struct Fence {
    owner: SessionId,
    db: Db,
    keys: Vec<Box<[u8]>>,
    /// Requests that had been appended to the shared lane when the fence was raised: they are answered first.
    behind: u64,
    /// It is on its way; until then the owner waits.
    sent: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fences {
    fences: Vec<Fence>,
    barrier: Option<SessionId>,
    /// Somebody waits for all fences to be gone: no new one is raised before.
    yielding: bool,
    /// The barrier's command is on its way.
    barrier_sent: bool,
    /// A barrier has fallen, and the next one has not been taken.
    fell: bool,
}

impl Fences {
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty() && self.barrier.is_none()
    }

    /// Whether a command has to wait.
    pub fn stops(&mut self, id: SessionId, db: Db, command: &Command, request: &Request<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        if self.barrier.is_some() {
            return true;
        }
        if self.is_of(id) {
            return true;
        }
        let keyless = matches!(command.class, Class::Forward | Class::Keyless);
        let mut keys = command.keys(request).peekable();
        if keys.peek().is_none() || command.rule == crate::command::Rule::Script {
            self.yielding |= !keyless;
            return !keyless;
        }
        keys.any(|key| self.fences_key(db, key.name))
    }

    /// Whether a transaction has to wait.
    pub fn stops_block(&mut self, id: SessionId, db: Db, multi: &super::transaction::Multi) -> bool {
        let mut stopped = false;
        if !self.is_empty() {
            multi.each(|command, request| stopped |= command.class != Class::Local && self.stops(id, db, command, request));
        }
        stopped
    }

    /// Whether a fence is this session's.
    pub fn is_of(&self, id: SessionId) -> bool {
        self.fences.iter().any(|fence| fence.owner == id)
    }

    /// Whether a fence stands around the key.
    pub fn fences_key(&self, db: Db, key: &[u8]) -> bool {
        self.fences.iter().any(|fence| fence.db == db && fence.keys.iter().any(|fenced| **fenced == *key))
    }

    /// Something of ours for this key was appended to the shared lane: a fence around it is passed when that is answered too.
    pub fn wait_for(&mut self, db: Db, key: &[u8], appended: u64) {
        let concerned = |fence: &&mut Fence| !fence.sent && fence.db == db && fence.keys.iter().any(|fenced| **fenced == *key);
        self.fences.iter_mut().filter(concerned).for_each(|fence| fence.behind = appended);
    }

    /// Whether an image of the key must not be read now. While a flip holds everybody, a fence whose request has not been sent guards
    /// nothing: if the flip is undone, the request goes behind the image.
    pub fn keeps_out(&self, db: Db, key: &[u8], holding: bool) -> bool {
        let stands = |fence: &Fence| fence.sent || !holding;
        self.fences.iter().any(|fence| stands(fence) && fence.db == db && fence.keys.iter().any(|fenced| **fenced == *key))
    }

    /// No new fence is raised before those that stand have fallen.
    pub fn give_way(&mut self) {
        self.yielding = !self.fences.is_empty();
    }

    /// Whether a barrier has fallen since this was asked last.
    pub fn take_fallen(&mut self) -> bool {
        std::mem::take(&mut self.fell)
    }

    /// Whether the barrier's command is on its way.
    pub fn is_barrier_sent(&self) -> bool {
        self.barrier_sent
    }

    /// Whether a barrier stands.
    pub fn has_barrier(&self) -> bool {
        self.barrier.is_some()
    }

    /// Whether the barrier is this session's: what it sent may change its database.
    pub fn owns_barrier(&self, id: SessionId) -> bool {
        self.barrier == Some(id)
    }

    /// Whether others already wait for this session.
    pub fn has_begun(&self, id: SessionId) -> bool {
        self.barrier == Some(id) || self.fences.iter().any(|fence| fence.owner == id)
    }

    /// The session owns the barrier from now on, unless another one, or a fence, is in its way.
    pub fn take_barrier(&mut self, id: SessionId) -> bool {
        if !self.fences.is_empty() || self.barrier_sent {
            self.yielding |= !self.fences.is_empty();
            return false;
        }
        *self.barrier.get_or_insert(id) == id
    }
}

impl Sequencer {
    /// Whether nothing is in flight on the primary.
    pub(super) fn primary_is_idle(&self) -> bool {
        self.sides[self.primary().index()].is_idle()
    }

    /// A request that is too large for the shared lane: fence its keys, wait for what is in flight on them, send it on the
    /// database's other lane.
    pub(super) fn send_bulk(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        let (db, drained) = (session.db, session.is_drained());
        if self.holding || self.fences.barrier.is_some() {
            return Admit::Wait(Wait::Gate);
        }
        if !drained {
            return Admit::Wait(Wait::Drain);
        }
        let bulk = LaneId { role: Role::Bulk, ..LaneId::shared(self.primary(), db) };
        if !self.lane(bulk).is_some_and(Lane::is_open) {
            return self.wait_for_lane(id, bulk);
        }
        let keys = command.keys(request).map(|key| key.name.into()).collect();
        if let Err(admit) = self.raise_fence(id, db, keys) {
            return admit;
        }
        self.append_request(id, bulk, command, request);
        Admit::Taken
    }

    /// The session's fence stands around these keys and nothing is in flight on them: its request is sent now. Until then it waits.
    pub(super) fn raise_fence(&mut self, id: SessionId, db: Db, keys: Vec<Box<[u8]>>) -> Result<(), Admit> {
        let shared = LaneId::shared(self.primary(), db);
        let Some((appended, answered)) = self.lane(shared).filter(|lane| lane.is_open()).map(|lane| (lane.appended, lane.answered)) else {
            return Err(self.wait_for_lane(id, shared));
        };
        let stands = self.holding || self.fences.barrier.is_some();
        let barred = self.fences.yielding || keys.iter().any(|key| self.fences.fences_key(db, key));
        match self.fences.fences.iter_mut().find(|fence| fence.owner == id) {
            _ if stands => Err(Admit::Wait(Wait::Gate)),
            Some(fence) if answered >= fence.behind => {
                fence.sent = true;
                Ok(())
            }
            Some(_) => Err(Admit::Wait(Wait::Gate)),
            None if barred => Err(Admit::Wait(Wait::Gate)),
            None => {
                let sent = answered >= appended;
                self.fences.fences.push(Fence { owner: id, db, keys, behind: appended, sent });
                if sent { Ok(()) } else { Err(Admit::Wait(Wait::Gate)) }
            }
        }
    }

    /// A session that waited behind a fence or owned the barrier is gone, or closes.
    pub(super) fn drop_fence_of(&mut self, id: SessionId) {
        let fences = self.fences.fences.len();
        self.fences.fences.retain(|fence| fence.owner != id || fence.sent);
        if self.fences.fences.is_empty() {
            self.fences.yielding = false;
        }
        if self.fences.barrier == Some(id) && !self.fences.barrier_sent {
            self.fences.barrier = None;
            self.sessions.resume = true;
        }
        self.sessions.resume |= self.fences.fences.len() != fences;
    }

    /// A command of this session was appended: if it owns the barrier, this was the command.
    pub(super) fn note_barrier(&mut self, id: SessionId) {
        self.fences.barrier_sent |= self.fences.barrier == Some(id);
    }

    /// A request on a bulk lane, or the barrier's command, was answered or lost.
    pub(super) fn lower(&mut self, id: SessionId) {
        if self.fences.is_empty() {
            return;
        }
        let fences = self.fences.fences.len();
        self.fences.fences.retain(|fence| fence.owner != id || !fence.sent);
        let mut lowered = self.fences.fences.len() < fences;
        if self.fences.fences.is_empty() {
            self.fences.yielding = false;
        }
        if self.fences.barrier == Some(id) && self.fences.barrier_sent {
            self.fences.barrier = None;
            self.fences.barrier_sent = false;
            self.fences.fell = true;
            lowered = true;
        }
        self.sessions.resume |= lowered;
    }

    /// A flip was undone: what was asked of the primary meanwhile goes before the requests of fences that stand.
    pub(super) fn fence_anew(&mut self) {
        let side = &self.sides[self.primary().index()];
        for fence in self.fences.fences.iter_mut().filter(|fence| !fence.sent) {
            let lane = side.lane(LaneId::shared(crate::endpoint::Endpoint::Old, fence.db));
            fence.behind = lane.map_or(0, |lane| lane.appended);
        }
    }

    /// The primary's lanes were lost, or another side's took their place: nothing that a fence waited for is in flight any more.
    pub(super) fn forget_lanes(&mut self) {
        self.fences.fences.iter_mut().for_each(|fence| fence.behind = 0);
    }

    /// Lets the owner of a barrier or fence go on when what it waits for has been answered.
    pub(super) fn pump_fences(&mut self) -> bool {
        let waits = |side: &Side, fence: &Fence| {
            !fence.sent
                && side.lane(LaneId::shared(crate::endpoint::Endpoint::Old, fence.db)).is_some_and(|lane| lane.answered >= fence.behind)
        };
        let side = &self.sides[self.primary().index()];
        let fence = self.fences.fences.iter().any(|fence| waits(side, fence));
        let barrier = self.fences.barrier.is_some() && !self.fences.barrier_sent && self.primary_is_idle();
        if (fence || barrier) && !self.holding && self.anybody_waits() && !self.sessions.resume {
            let before = (self.fences.barrier_sent, self.fences.fences.iter().filter(|fence| fence.sent).count());
            self.sessions.resume = true;
            self.pump_sessions();
            return before != (self.fences.barrier_sent, self.fences.fences.iter().filter(|fence| fence.sent).count());
        }
        false
    }

    /// Whether this flight lowers a fence or the barrier when it ends, and whose.
    pub(super) fn owner_of(what: &What) -> Option<SessionId> {
        match what {
            What::Client { session, .. } => Some(*session),
            What::Block(block) => block.session,
            What::Attempt(attempt) => Some(attempt.session),
            What::LastId { session, .. } => Some(*session),
            _ => None,
        }
    }
}
