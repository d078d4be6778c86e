//! A primary that is busy with a script: SCRIPT KILL reaches it, and everybody else is told.
//!
//! Up to its own time limit a server that runs a script hears nobody. Past it, it answers what comes on *other* connections with
//! `-BUSY`, and takes only a few commands, SCRIPT KILL among them (redis 7.0.15 server.c processCommand, `CMD_ALLOW_BUSY`). The
//! script's own connection is a lane, which everybody shares: what stands behind the script there waits for its end, and so would
//! SCRIPT KILL. So SCRIPT KILL travels aside ([`Action::AskAside`]); and while a lane with a script waits, the server is asked
//! aside whether it is busy. If it is, what would enter a lane is answered with the server's own error, until the script
//! is answered. What was in the lane before waits: it will be executed.

use super::lane::{LaneId, What};
use super::session::{Admit, Session, SessionId, Wait};
use super::transaction::Element;
use super::{Action, Now, Sequencer};
use crate::command::Command;
use crate::limits::BUSY_LOOK_US;
use crate::resp::encode::push_request;
use crate::resp::reply::{Reply, Scanner};
use crate::resp::request::Request;

/// Who asked a server aside.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// A client, which waits for the reply; it has nothing else unanswered.
    Client {
        /// Whose session.
        session: SessionId,
        /// What it asked.
        command: &'static Command,
    },
    /// We: whether the server is busy.
    Look,
}

/// What a lane with a script waits for: the lane, its side's generation, and how many requests were answered before.
type Running = (LaneId, u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// The server said `-BUSY` because of this script, in these words.
    found: Option<(Running, Vec<u8>)>,
    /// It is being asked about this one.
    looking: Option<Running>,
    /// Nobody looks again before, microseconds.
    look_at: u64,
}

impl Busy {
    /// A server was found busy.
    pub fn is_met(&self) -> bool {
        self.found.is_some()
    }
}

impl Sequencer {
    /// Time passes: asks whether the server is busy where a script keeps a lane waiting.
    pub(super) fn tick_busy(&mut self) {
        if self.busy.looking.is_some() || self.now.us < self.busy.look_at {
            return;
        }
        self.busy.look_at = self.now.us + BUSY_LOOK_US;
        if let Some((running, _)) = self.busy.found.take_if(|(running, _)| !is_front(&self.sides, *running)) {
            self.nudge(running);
        }
        let side = self.primary();
        if self.busy.found.is_some() || !self.sides[side.index()].is_up() {
            return;
        }
        let generation = self.sides[side.index()].generation;
        // What went before the script in the same turn of the server is executed, and its reply comes with the script's all the same
        // (networking.c handleClientsWithPendingWrites, CLIENT_PROTECTED).
        let slow = |lane: &super::lane::Lane| {
            lane.age(self.now.us) >= BUSY_LOOK_US && lane.in_flight.iter().any(|flight| runs_script(&flight.what))
        };
        let oldest = self.sides[side.index()].all_lanes().filter(|(_, lane)| slow(lane)).max_by_key(|(_, lane)| lane.age(self.now.us));
        let Some(running) = oldest.map(|(id, lane)| (id, generation, lane.answered)) else { return };
        self.busy.looking = Some(running);
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"PING"]);
        self.actions.push_back(Action::AskAside { side, asked: Asked::Look, frame });
    }

    /// A script that held a lane up has ended. A 5.0 reads what stands behind it when more comes, and not before (redis 5.0.7
    /// networking.c unprotectClient).
    fn nudge(&mut self, (id, generation, _): Running) {
        let side = &self.sides[id.side.index()];
        if side.generation != generation
            || side.major >= 6
            || !self.lane(id).is_some_and(|lane| lane.is_open() && !lane.in_flight.is_empty())
        {
            return;
        }
        let (mut frame, now) = (Vec::new(), self.now.us);
        push_request(&mut frame, &[b"PING"]);
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], What::Silent, 1, now);
        }
        self.touch_lane(id);
    }

    /// What becomes of a command while the primary is busy, as far as it is another thing than without.
    pub(super) fn meet_busy(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Option<Admit> {
        let (running, _) = self.busy.found.as_ref()?;
        if !is_front(&self.sides, *running) {
            return None;
        }
        let session = self.sessions.get(id)?;
        if command.name == "FUNCTION STATS" && session.multi.is_none() {
            return Some(self.ask_aside(id, command, request));
        }
        // Who owns a barrier or a fence goes on: others wait for it.
        if ALLOWED.contains(&command.name) || self.fences.has_begun(id) {
            return None;
        }
        if !session.is_drained() {
            // A server does not read on from a client whose script it runs.
            return Some(Admit::Wait(Wait::Drain));
        }
        let (_, error) = self.busy.found.as_ref()?;
        let error = error.clone();
        if command.name != "EXEC" {
            return Some(self.refuse_request(id, &error));
        }
        // (multi.c execCommandAbort)
        if let Some(session) = self.sessions.get_mut(id) {
            session.multi = None;
        }
        self.unwatch(id);
        let told = [b"-EXECABORT Transaction discarded because of: ", error.strip_prefix(b"-").unwrap_or(&error)].concat();
        self.say(id, &told);
        Some(Admit::Taken)
    }

    /// Sends a command to the primary beside all lanes: no hold, barrier or fence keeps it back, since they may wait for what it ends.
    pub(super) fn ask_aside(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        let (side, db) = (self.primary(), session.db);
        if !self.sides[side.index()].is_up() {
            return self.wait_for_lane(id, LaneId::shared(side, db));
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
        }
        self.count_sent(id, false);
        self.actions.push_back(Action::AskAside { side, asked: Asked::Client { session: id, command }, frame: request.frame.to_vec() });
        Admit::Taken
    }

    /// The reply to [`Action::AskAside`], one whole reply of the server; or why there is none.
    pub fn handle_aside(&mut self, asked: Asked, reply: Result<&[u8], &str>, now: Now) {
        self.now = now;
        match asked {
            Asked::Client { session, command } => self.answer_aside(session, command, reply),
            Asked::Look => {
                let looking = self.busy.looking.take();
                if let (Some(running), Ok(error)) = (looking.filter(|running| is_front(&self.sides, *running)), reply)
                    && error.starts_with(b"-BUSY ")
                {
                    self.log(
                        true,
                        format!("`{}` is busy with a script that a client sent: clients are told so until it ends", running.0.side),
                    );
                    self.busy.found = Some((running, error.to_vec()));
                }
                self.busy.look_at = self.now.us + BUSY_LOOK_US;
            }
        }
        self.settle();
    }

    fn answer_aside(&mut self, id: SessionId, command: &'static Command, reply: Result<&[u8], &str>) {
        // Its answer may have been lost together with what it waited for.
        if !self.sessions.get(id).is_some_and(Session::is_elsewhere) {
            return;
        }
        let reply = reply.and_then(|bytes| match Scanner::default().scan(bytes) {
            Ok(Some(scanned)) if scanned.len == bytes.len() => Ok((bytes, scanned.resp3)),
            _ => Err("its answer is no reply"),
        });
        match reply {
            Ok((bytes, resp3)) => {
                self.count(command, Reply(bytes));
                self.give(id, command.shape, 0, bytes, resp3, false, None);
            }
            Err(why) => {
                let why = why.replace(['\r', '\n'], " ");
                let error = format!("-ERR twinlane: {} was not answered: {why}\r\n", command.name);
                self.count(command, Reply(error.as_bytes()));
                self.deliver(id, error.as_bytes(), false, None);
            }
        }
    }
}

/// What a busy server takes (redis 7.0.15 commands.c, `CMD_ALLOW_BUSY`); SHUTDOWN and REPLCONF are refused here at any time, which
/// says more.
const ALLOWED: [&str; 12] = [
    "AUTH",
    "DISCARD",
    "FUNCTION KILL",
    "FUNCTION STATS",
    "HELLO",
    "MULTI",
    "QUIT",
    "RESET",
    "SCRIPT KILL",
    "SHUTDOWN",
    "UNWATCH",
    "WATCH",
];

/// Whether the lane still waits for the same reply.
fn is_front(sides: &[super::sides::Side; 2], (id, generation, answered): Running) -> bool {
    let side = &sides[id.side.index()];
    side.generation == generation && side.lane(id).is_some_and(|lane| lane.answered == answered && !lane.in_flight.is_empty())
}

fn runs_script(what: &What) -> bool {
    match what {
        What::Client { command, .. } => command.runs_script(),
        What::Block(block) => {
            block.elements.iter().any(|element| matches!(element, Element::Shown { command, .. } if command.runs_script()))
        }
        _ => false,
    }
}
