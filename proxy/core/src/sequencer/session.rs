//! A session: one client connection. Its input waits here until its requests may enter a lane; its replies leave in the order
//! of its requests, those of servers and those of our own.

use super::feed::Feed;
use super::lane::LaneId;
use super::transaction::Multi;
use super::watch::Watch;
use super::{Now, Sequencer};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::request::{Parsed, Request, Resume, canonical, parse};
use std::collections::VecDeque;

/// Names a session; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    slot: u32,
    life: u32,
}

impl SessionId {
    /// The number clients see as `CLIENT ID`: unique for as long as the proxy runs.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.life)
    }

    /// A small number that no other open session has; closed ones give theirs back.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Why a session's input waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A flip, a barrier, a fence, or a lane that is not open.
    Gate,
    /// Too much of it is unanswered or unread.
    Window,
    /// Everything it sent must be answered first.
    Drain,
    /// CLIENT PAUSE.
    Pause,
    /// A key that its last command waits for.
    Parked,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    /// It was taken.
    Taken,
    /// It was taken, and what follows waits until it is answered.
    Parked,
    /// It stays in the input, and so does what follows.
    Wait(Wait),
}

/// Replies asked for by CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ReplyMode {
    #[default]
    On,
    Off,
    /// The next reply is left out.
    SkipNext,
}

/// A reply that waits for the mirror, or behind one that does.
#[derive(Debug)]
struct Held {
    /// Number of the reply and when its wait ends; None when it merely waits behind.
    waits: Option<(u64, u64)>,
    bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub db: Db,
    pub resp: u8,
    pub authenticated: bool,
    /// What CLIENT LIST tells of it.
    pub about: About,
    pub multi: Option<Box<Multi>>,
    /// Keys it watches.
    pub watch: Option<Box<Watch>>,
    /// Its own connection to the primary, if it has one.
    pub own: Option<LaneId>,
    /// What it is sent without asking.
    pub feed: Option<Box<Feed>>,
    /// Why it could not be given a connection.
    pub own_failed: Option<String>,
    pub mode: ReplyMode,
    /// To be closed as soon as its output is written; nothing more is read.
    pub closing: bool,
    /// The client has closed its end: what it sent before is carried out and answered, and nothing comes behind it.
    pub ended: bool,
    /// To be closed, for this reason, once everything it sent is answered.
    pub quitting: Option<&'static str>,
    pub wait: Option<Wait>,
    /// Its one unanswered command is on another connection than its database's lane: the mirror's (a cursor that began there), or its
    /// own.
    pub elsewhere: bool,
    /// A transaction that changes what the session is is unanswered: what follows is asked by another one, so to speak.
    pub changing: bool,
    /// What it has unanswered is on its feed.
    pub on_feed: bool,
    /// When a flip began to hold its first request.
    pub held_since: Option<u64>,
    /// Commands appended to lanes, and how many of them were answered.
    pub sent: u64,
    pub answered: u64,
    /// Writes among those that are not answered.
    pub writes: u32,
    input: Vec<u8>,
    input_at: usize,
    resume: Resume,
    pub output: Vec<u8>,
    output_at: usize,
    /// Replies of our own that follow reply number n.
    deferred: VecDeque<(u64, Vec<u8>)>,
    /// Bytes of these.
    pub deferred_bytes: usize,
    held: VecDeque<Held>,
    touched: bool,
    /// Its oldest unanswered command is being answered: the reply's beginning is in the output, the rest is to come.
    relayed: bool,
    /// What came up meanwhile; it stands behind that reply.
    behind: Vec<u8>,
    /// What it was told ends amid a reply: whatever came behind that would be taken for the rest of it.
    cut: bool,
    /// EXEC runs what is the session's own business: replies of our own go here, between those of the server.
    capture: Option<Vec<u8>>,
}

/// What a client is known by, to others and to itself.
#[derive(Debug, Default)]
pub(super) struct About {
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO: name and version of its library.
    pub lib: [Vec<u8>; 2],
    /// Where it connected from, and to.
    pub addresses: Addresses,
    /// The last command it sent that there is.
    pub last: Option<&'static crate::command::Command>,
    /// Commands it sent.
    pub commands: u64,
    /// CLIENT NO-EVICT and NO-TOUCH, told and without consequence: the lanes are nobody's alone.
    pub no_evict: bool,
    pub no_touch: bool,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub opened_us: u64,
    /// When it last sent anything.
    pub heard_us: u64,
}

/// Bytes of output that a session keeps while it waits for nothing.
const OUTPUT_KEPT: usize = 2048;

/// Both ends of a client's connection, `host:port` each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub peer: Box<str>,
    /// Ours.
    pub local: Box<str>,
}

impl Session {
    fn new(id: SessionId, authenticated: bool, addresses: Addresses, now_us: u64) -> Session {
        Session {
            id,
            db: 0,
            resp: 2,
            authenticated,
            about: About { addresses, opened_us: now_us, heard_us: now_us, ..About::default() },
            multi: None,
            watch: None,
            own: None,
            feed: None,
            own_failed: None,
            mode: ReplyMode::On,
            closing: false,
            ended: false,
            quitting: None,
            wait: None,
            elsewhere: false,
            changing: false,
            on_feed: false,
            held_since: None,
            sent: 0,
            answered: 0,
            writes: 0,
            input: Vec::new(),
            input_at: 0,
            resume: Resume::default(),
            output: Vec::new(),
            output_at: 0,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            held: VecDeque::new(),
            touched: false,
            relayed: false,
            behind: Vec::new(),
            cut: false,
            capture: None,
        }
    }

    pub fn waiting_bytes(&self) -> usize {
        self.input.len() - self.input_at
    }

    pub fn unread_bytes(&self) -> usize {
        let waiting = if self.held.is_empty() { 0 } else { self.held.iter().map(|held| held.bytes.len()).sum() };
        self.output.len() - self.output_at + waiting + self.behind.len()
    }

    /// Whether the reply to its oldest unanswered command may be given in pieces: it is told each, and at once.
    pub fn can_relay(&self) -> bool {
        !self.relayed && !self.closing && self.mode == ReplyMode::On && self.held.is_empty() && self.capture.is_none()
    }

    /// The first piece comes.
    pub fn begin_relay(&mut self) {
        self.relayed = true;
    }

    /// A piece.
    pub fn relay(&mut self, piece: &[u8]) {
        self.output.extend_from_slice(piece);
    }

    /// That was the last one.
    pub fn end_relay(&mut self) {
        self.relayed = false;
        let behind = std::mem::take(&mut self.behind);
        if !self.cut {
            self.output.extend_from_slice(&behind);
        }
    }

    /// Its commands go where everybody's go, and mean what they say.
    pub fn is_simple(&self) -> bool {
        self.authenticated && !self.elsewhere && !self.changing && !self.on_feed && self.multi.is_none() && self.feed.is_none()
    }

    /// How it is now, for the next look at what comes of it, when nothing has moved in the last `still` looks.
    fn look(&self, now_us: u64, still: u32) -> Ended {
        Ended {
            due: now_us + limits::ENDED_US,
            id: self.id,
            answered: self.answered,
            bytes_out: self.about.bytes_out,
            unread: self.is_told(),
            still,
        }
    }

    /// There is something for it to read, or the rest of it is to come.
    fn is_told(&self) -> bool {
        !self.output.is_empty() || self.relayed
    }

    /// Everything it sent is answered.
    pub fn is_drained(&self) -> bool {
        self.sent == self.answered
    }

    /// The same, and no reply is held back for the mirror.
    fn is_answered(&self) -> bool {
        self.is_drained() && self.held.is_empty()
    }

    /// Whether its state may change now: nothing is unanswered that was asked under the old one, or EXEC has come to this place.
    pub fn is_settled(&self) -> bool {
        self.is_drained() || self.capture.is_some()
    }

    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Whether another command may enter.
    pub fn has_window(&self) -> bool {
        self.sent - self.answered < limits::SESSION_IN_FLIGHT_MAX && self.has_room()
    }

    /// Whether it reads what it is told; replies of our own wait behind those of servers.
    pub fn has_room(&self) -> bool {
        self.output.len() - self.output_at + self.deferred_bytes < limits::SESSION_WINDOW_BYTES
    }

    /// Puts reply bytes into the output, behind those that wait for the mirror.
    fn emit(&mut self, bytes: &[u8]) {
        match self.mode {
            ReplyMode::Off => return,
            ReplyMode::SkipNext => {
                self.mode = ReplyMode::On;
                return;
            }
            ReplyMode::On => {}
        }
        match self.held.back_mut() {
            _ if self.cut => {}
            None if self.relayed => self.behind.extend_from_slice(bytes),
            None => self.output.extend_from_slice(bytes),
            Some(last) if last.waits.is_none() => last.bytes.extend_from_slice(bytes),
            Some(_) => self.held.push_back(Held { waits: None, bytes: bytes.to_vec() }),
        }
    }

    /// Something that the client did not ask for; CLIENT REPLY does not keep it back (networking.c prepareClientToWrite).
    pub fn push(&mut self, bytes: &[u8]) {
        let mode = std::mem::replace(&mut self.mode, ReplyMode::On);
        self.emit(bytes);
        self.mode = mode;
    }

    /// The same, behind the replies to everything sent so far.
    pub fn push_behind(&mut self, bytes: &[u8]) {
        if self.is_drained() {
            return self.push(bytes);
        }
        self.defer(bytes);
    }

    fn defer(&mut self, bytes: &[u8]) {
        self.deferred_bytes += bytes.len();
        match self.deferred.back_mut() {
            Some((after, last)) if *after == self.sent => last.extend_from_slice(bytes),
            _ => self.deferred.push_back((self.sent, bytes.to_vec())),
        }
    }

    /// A reply of our own: it comes behind the replies to everything sent so far.
    fn say(&mut self, bytes: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.extend_from_slice(bytes);
        } else if self.is_drained() {
            self.emit(bytes);
        } else {
            self.defer(bytes);
        }
    }

    fn say_deferred(&mut self) {
        while self.deferred.front().is_some_and(|(after, _)| *after <= self.answered) {
            if let Some((_, bytes)) = self.deferred.pop_front() {
                self.deferred_bytes -= bytes.len();
                self.emit(&bytes);
            }
        }
    }

    /// Everything that waits behind a reply which does not come yet goes out. True when there was something.
    pub fn say_waiting(&mut self) -> bool {
        let waiting = std::mem::take(&mut self.deferred);
        self.deferred_bytes = 0;
        waiting.iter().for_each(|(_, bytes)| self.push(bytes));
        !waiting.is_empty()
    }

    /// Moves held replies that need not wait any longer to the output.
    fn let_go(&mut self) {
        while self.held.front().is_some_and(|held| held.waits.is_none()) {
            if let Some(held) = self.held.pop_front() {
                self.output.extend_from_slice(&held.bytes);
            }
        }
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Box<Session>>>,
    free: Vec<u32>,
    lives: u32,
    count: usize,
    /// Sessions whose input waits for a gate, first come first served.
    waiting: VecDeque<SessionId>,
    /// The gate may have opened.
    pub resume: bool,
    /// Sessions whose own window or drain may have opened.
    ready: Vec<SessionId>,
    /// Bytes of input that are not yet requests in a lane.
    input_bytes: usize,
    /// The one session that may go on receiving past the total bound.
    privileged: Option<SessionId>,
    /// The bound was reached, and sockets may have been left alone for it.
    bounded: bool,
    /// Sessions with a reply that waits for the mirror, oldest first: deadline, session, number.
    acks: VecDeque<(u64, SessionId, u64)>,
    /// Sessions whose client has closed its end, as they were at the last look.
    ended: VecDeque<Ended>,
}

/// A session whose client has closed its end, as it was when it was looked at.
#[derive(Debug)]
struct Ended {
    /// When it is looked at again, microseconds.
    due: u64,
    id: SessionId,
    answered: u64,
    bytes_out: u64,
    /// There was something to be read.
    unread: bool,
    /// Looks in a row in which nothing had moved.
    still: u32,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot as usize)?.as_deref().filter(|session| session.id == id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot as usize)?.as_deref_mut().filter(|session| session.id == id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|slot| slot.as_deref())
    }
}

impl Sequencer {
    /// A client connected.
    pub fn handle_client_open(&mut self, addresses: Addresses, now: Now) -> SessionId {
        self.now = now;
        let sessions = &mut self.sessions;
        sessions.lives = sessions.lives.wrapping_add(1).max(1);
        let slot = sessions.free.pop().unwrap_or(sessions.slots.len() as u32);
        let id = SessionId { slot, life: sessions.lives };
        let session = Box::new(Session::new(id, self.settings.client_auth.is_none(), addresses, now.us));
        if slot as usize == sessions.slots.len() {
            sessions.slots.push(None);
        }
        sessions.slots[slot as usize] = Some(session);
        sessions.count += 1;
        self.totals.accepted += 1;
        id
    }

    /// The connection is gone. Replies still to come are swallowed.
    pub fn handle_client_closed(&mut self, id: SessionId, now: Now) {
        self.now = now;
        if self.sessions.get(id).is_none() {
            return;
        }
        self.unwatch(id);
        self.release_own(id);
        self.end_feed(id);
        if let Some(writer) = self.writer(id) {
            self.writes.note_gone(crate::explained::Writer { connected: false, ..writer });
        }
        if let Some(session) = self.sessions.slots[id.slot as usize].take() {
            self.sessions.input_bytes -= session.waiting_bytes();
            self.sessions.count -= 1;
            self.sessions.free.push(id.slot);
            self.drop_fence_of(id);
            self.unpark(id);
            if self.sessions.privileged == Some(id) {
                self.sessions.privileged = None;
            }
        }
        self.settle();
    }

    /// The client has closed its end, and may still read. As on a server, what it sent before is carried out and answered first, unless its last
    /// command waits for a key, for the end of CLIENT PAUSE or for a primary that is away. True when nothing more is to come, and the connection may be closed
    /// at once.
    #[must_use]
    pub fn handle_client_ended(&mut self, id: SessionId, now: Now) -> bool {
        self.now = now;
        let Some(session) = self.sessions.get_mut(id) else { return true };
        session.ended = true;
        self.end_behind_replies(id);
        let Some(session) = self.sessions.get(id) else { return true };
        let over = session.closing && session.output.is_empty();
        if !over {
            let look = session.look(now.us, 0);
            self.sessions.ended.push_back(look);
        }
        self.settle();
        over
    }

    /// Closes a session whose client has closed its end, when nothing of what it sent is left to do; until then it waits for that. What waits for a key, for
    /// the end of CLIENT PAUSE or for a primary that is away is forgotten with all that stands behind it; replies to what came before are still owed.
    pub(super) fn end_behind_replies(&mut self, id: SessionId) {
        let parked = self.is_waiting(id);
        let away = !self.is_up(self.primary());
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.ended && !session.closing) else { return };
        match session.wait {
            Some(Wait::Pause) => {}
            Some(Wait::Gate) if away => {}
            // Its reply does not come.
            Some(Wait::Parked) if parked => session.sent = session.answered,
            Some(_) => return,
            None => {}
        }
        let waiting = session.waiting_bytes();
        (session.input, session.input_at) = (Vec::new(), 0);
        session.wait = (!session.is_answered()).then_some(Wait::Drain);
        let over = session.wait.is_none();
        self.sessions.input_bytes -= waiting;
        self.unpark(id);
        if over {
            self.end(id);
        }
    }

    /// Whose client has closed its end waits no longer than this for something to come of it: a gate that does not open, the answer to WAIT, a server that
    /// hangs; and longer, but not for ever, for a client that does not read.
    pub(super) fn tick_ended(&mut self) {
        while let Some(before) = self.sessions.ended.pop_front_if(|look| look.due <= self.now.us) {
            let Some(session) = self.sessions.get(before.id) else { continue };
            let unread = session.is_told();
            // A message that somebody published is no answer.
            let moved = session.answered > before.answered || (before.unread && session.about.bytes_out > before.bytes_out);
            let still = if moved { 0 } else { before.still + 1 };
            if still >= if unread { limits::UNREAD_LOOKS } else { 1 } {
                // What the mirror has not confirmed is not told, and what was not read will not be.
                self.drop_output(before.id);
                self.end(before.id);
            } else {
                let look = session.look(self.now.us, still);
                self.sessions.ended.push_back(look);
            }
        }
    }

    /// Bytes came from the client.
    pub fn handle_client_bytes(&mut self, id: SessionId, bytes: &[u8], now: Now) {
        self.now = now;
        self.totals.bytes_in += bytes.len() as u64;
        if let Some(session) = self.sessions.get_mut(id) {
            session.about.bytes_in += bytes.len() as u64;
            session.about.heard_us = now.us;
        }
        self.pump(id, bytes);
        self.settle();
    }

    /// Requests that sessions have sent so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.totals.requests
    }

    /// Whether the session's socket should be read now.
    #[must_use]
    pub fn wants_input(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        if session.closing || session.ended {
            return false;
        }
        let waiting = session.waiting_bytes();
        if session.wait.is_some() && waiting >= limits::SESSION_WINDOW_BYTES {
            return false;
        }
        // Past the total the largest wait, all but one: the others could otherwise never end.
        self.sessions.input_bytes <= self.settings.request_bytes_max
            || waiting < limits::SESSION_WINDOW_BYTES
            || self.sessions.privileged == Some(id)
    }

    /// Reply bytes to be written to the client.
    #[must_use]
    pub fn output(&self, id: SessionId) -> &[u8] {
        self.sessions.get(id).map_or(&[], |session| &session.output[session.output_at..])
    }

    /// The socket took `n` of them.
    pub fn handle_output_written(&mut self, id: SessionId, n: usize) {
        self.totals.bytes_out += n as u64;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.about.bytes_out += n as u64;
        session.output_at += n;
        if session.output_at == session.output.len() {
            session.output_at = 0;
            // Who has nothing to come holds a small buffer at most: ten thousand idle sessions are 20 MB.
            let kept = match session.is_drained() {
                true => OUTPUT_KEPT,
                false if session.relayed => limits::SESSION_WINDOW_BYTES,
                false => 64 * 1024,
            };
            if session.output.capacity() > kept {
                session.output = Vec::new();
            } else {
                session.output.clear();
            }
        } else if session.output_at > 256 * 1024 && session.output_at > session.output.len() / 2 {
            // No more bytes move than were written, however large the reply.
            session.output.drain(..session.output_at);
            session.output_at = 0;
        }
        if session.wait == Some(Wait::Window) && session.has_window() {
            self.sessions.ready.push(id);
        }
    }

    /// Whether [`Sequencer::handle_output_written`] made room for input that waits.
    #[must_use]
    pub fn has_output_room(&self) -> bool {
        !self.sessions.ready.is_empty()
    }

    /// To be called after [`Sequencer::handle_output_written`] made room: lets waiting input go on.
    pub fn handle_output_room(&mut self, now: Now) {
        if self.has_output_room() {
            self.now = now;
            self.settle();
        }
    }

    /// Whether the connection is to be closed once its output is written.
    #[must_use]
    pub fn is_closing(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_none_or(|session| session.closing)
    }

    pub(super) fn touch(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id)
            && !std::mem::replace(&mut session.touched, true)
        {
            self.touched_sessions.push_back(id);
        }
    }

    /// The shell has dealt with what [`Sequencer::poll_session`] named.
    pub fn handle_session_polled(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.touched = false;
        }
    }

    /// Replies that wait for the mirror, and what stands behind them, are never delivered.
    pub(super) fn drop_held(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.held.clear();
        }
    }

    /// Closes a session: nothing more is read from it, what it is owed is written first.
    pub(super) fn close(&mut self, id: SessionId, reason: &'static str) {
        if self.sessions.get(id).is_some_and(|session| !session.closing) {
            *self.totals.closed.entry(reason).or_default() += 1;
            self.end(id);
        }
    }

    /// The same of one that is not closed by us: its client has gone.
    pub(super) fn end(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        session.cut |= session.relayed;
        let waiting = session.waiting_bytes();
        session.input = Vec::new();
        session.input_at = 0;
        session.held.iter_mut().for_each(|held| held.waits = None);
        session.let_go();
        self.sessions.input_bytes -= waiting;
        self.drop_fence_of(id);
        self.unpark(id);
        self.touch(id);
    }

    /// Runs what is the session's own business in the middle of EXEC, and gives its reply.
    pub(super) fn capture(&mut self, id: SessionId, run: impl FnOnce(&mut Sequencer)) -> Vec<u8> {
        if let Some(session) = self.sessions.get_mut(id) {
            session.capture = Some(Vec::new());
        }
        run(self);
        self.sessions.get_mut(id).and_then(|session| session.capture.take()).unwrap_or_default()
    }

    /// A reply of our own.
    pub(super) fn say(&mut self, id: SessionId, bytes: &[u8]) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.say(bytes);
            self.touch(id);
        }
    }

    /// The reply to the oldest unanswered command of a session, in its own protocol.
    pub(super) fn deliver(&mut self, id: SessionId, bytes: &[u8], wrote: bool, awaits: Option<u64>) -> u64 {
        let Some(session) = self.sessions.get_mut(id) else { return 0 };
        if session.relayed {
            // The rest of what it was told a part of does not come any more.
            self.close(id, "primary_lost");
            return 0;
        }
        if session.cut {
            return 0;
        }
        session.answered += 1;
        session.elsewhere = false;
        session.changing = false;
        session.writes -= u32::from(wrote && session.writes > 0);
        let number = session.answered;
        if session.closing && !session.output.is_empty() && session.output.len() > self.settings.client_output_max {
            return number;
        }
        let held = match awaits {
            Some(deadline) if session.mode == ReplyMode::On => {
                session.held.push_back(Held { waits: Some((number, deadline)), bytes: bytes.to_vec() });
                true
            }
            _ => {
                session.emit(bytes);
                false
            }
        };
        if !session.deferred.is_empty() {
            session.say_deferred();
        }
        let resume = match session.wait {
            Some(Wait::Window) => session.has_window(),
            Some(Wait::Drain | Wait::Parked) => session.is_drained(),
            _ => false,
        };
        let over = session.unread_bytes() > self.settings.client_output_max;
        if !std::mem::replace(&mut session.touched, true) {
            self.touched_sessions.push_back(id);
        }
        if resume {
            self.sessions.ready.push(id);
        }
        if let (true, Some(deadline)) = (held, awaits) {
            self.sessions.acks.push_back((deadline, id, number));
        }
        if over {
            self.drop_output(id);
            self.close(id, "output_bound");
        }
        number
    }

    /// Throws away what a client has not read, amid a reply maybe: it is told nothing more, and is to be closed.
    pub(super) fn drop_output(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.cut = true;
            session.output = Vec::new();
            session.output_at = 0;
            session.held.clear();
        }
    }

    /// The effect that reply `number` waited for is confirmed, or its key is dirty.
    pub(super) fn acknowledge(&mut self, (id, number): (SessionId, u64)) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        for held in &mut session.held {
            if held.waits.is_some_and(|(waiting, _)| waiting == number) {
                held.waits = None;
            }
        }
        session.let_go();
        if session.wait == Some(Wait::Drain) && session.is_answered() {
            self.sessions.ready.push(id);
        }
        self.touch(id);
    }

    /// Replies whose wait for the mirror has lasted too long are delivered as they are; no error is invented (H28).
    pub(super) fn tick_acks(&mut self) {
        while let Some((deadline, id, number)) = self.sessions.acks.front().copied() {
            let waits = self
                .sessions
                .get(id)
                .is_some_and(|session| session.held.iter().any(|held| held.waits.is_some_and(|(waiting, _)| waiting == number)));
            if waits && deadline > self.now.us {
                return;
            }
            self.sessions.acks.pop_front();
            if waits {
                self.totals.ack_degraded += 1;
                self.ack_missed(id, number);
            }
        }
    }

    /// Takes what can be taken from the session's input; `fresh` bytes come behind what waits there.
    pub(super) fn pump(&mut self, id: SessionId, fresh: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.closing {
            return;
        }
        let ended = session.ended;
        if session.wait.is_some() {
            session.input.extend_from_slice(fresh);
            self.sessions.input_bytes += fresh.len();
            return self.balance_input();
        }
        if session.waiting_bytes() == 0 {
            session.input.clear();
            session.input_at = 0;
            let taken = self.take_requests(id, fresh);
            if let Some(session) = self.sessions.get_mut(id)
                && !session.closing
            {
                let rest = &fresh[taken..];
                session.input.extend_from_slice(rest);
                if rest.is_empty() && session.input.capacity() > 0 {
                    session.input = Vec::new();
                }
                self.sessions.input_bytes += rest.len();
            }
        } else {
            session.input.extend_from_slice(fresh);
            let input = std::mem::take(&mut session.input);
            let at = std::mem::take(&mut session.input_at);
            self.sessions.input_bytes += fresh.len();
            let taken = self.take_requests(id, &input[at..]);
            self.put_back(id, input, at, taken);
        }
        if ended {
            self.end_behind_replies(id);
        }
        self.balance_input();
    }

    fn put_back(&mut self, id: SessionId, mut input: Vec<u8>, at: usize, taken: usize) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.closing {
            self.sessions.input_bytes -= input.len() - at;
            return;
        }
        session.input_at = at + taken;
        if session.input_at == input.len() {
            session.input_at = 0;
            input = Vec::new();
        } else if session.input_at > input.len() / 2 {
            input.drain(..session.input_at);
            session.input_at = 0;
        }
        session.input = input;
        self.sessions.input_bytes -= taken;
    }

    /// Keeps the bytes being received within their bound: past it one session, the one that has received most, goes on alone; when
    /// it is through, or gone, the next one; under it everybody.
    fn balance_input(&mut self) {
        let over = self.sessions.input_bytes > self.settings.request_bytes_max;
        if !over && !self.sessions.bounded {
            return;
        }
        let receives = |session: &Session| session.waiting_bytes() > 0 && !session.closing;
        let holder = self.sessions.privileged.filter(|id| self.sessions.get(*id).is_some_and(receives));
        self.sessions.bounded = over;
        let mut woken: Vec<SessionId> = Vec::new();
        if over {
            let largest = || self.sessions.iter().filter(|session| receives(session)).max_by_key(|session| session.waiting_bytes());
            self.sessions.privileged = holder.or_else(|| largest().map(|session| session.id));
            woken.extend(self.sessions.privileged.filter(|_| holder.is_none()));
        } else {
            self.sessions.privileged = None;
            woken.extend(
                self.sessions.iter().filter(|session| session.waiting_bytes() >= limits::SESSION_WINDOW_BYTES).map(|session| session.id),
            );
        }
        // Their sockets were left alone, and nothing else would have them read.
        woken.into_iter().for_each(|id| self.touch(id));
    }

    /// Reads requests and admits them; how many bytes were taken.
    fn take_requests(&mut self, id: SessionId, input: &[u8]) -> usize {
        let mut spans = std::mem::take(&mut self.scratch.spans);
        let mut taken = 0;
        while taken < input.len() {
            // What follows QUIT is not executed, though its replies are still to come.
            let goes_on = |session: &&mut Session| !session.closing && session.quitting.is_none();
            let Some(session) = self.sessions.get_mut(id).filter(goes_on) else { break };
            let rest = &input[taken..];
            let (mut anew, mut anew_spans);
            let (request, len) = match parse(rest, &mut spans, &mut session.resume, session.authenticated) {
                Parsed::Complete { len, canonical: true } => (Request { frame: &rest[..len], spans: &spans }, len),
                Parsed::Complete { len, canonical: false } => {
                    let args: Vec<&[u8]> = (0..spans.len()).map(|at| spans.get(rest, at)).collect();
                    (anew, anew_spans) = (Vec::new(), crate::resp::request::Spans::default());
                    (canonical(&args, &mut anew, &mut anew_spans), len)
                }
                Parsed::Inline { len, args } => {
                    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                    (anew, anew_spans) = (Vec::new(), crate::resp::request::Spans::default());
                    (canonical(&args, &mut anew, &mut anew_spans), len)
                }
                Parsed::Ignored { len } => {
                    taken += len;
                    continue;
                }
                Parsed::Incomplete => break,
                Parsed::Malformed(text) => {
                    self.say(id, format!("-ERR Protocol error: {text}\r\n").as_bytes());
                    self.close_behind_replies(id, "protocol_error");
                    break;
                }
            };
            match self.admit(id, &request) {
                Admit::Taken => taken += len,
                Admit::Parked => {
                    taken += len;
                    self.wait(id, Wait::Parked);
                    break;
                }
                Admit::Wait(wait) => {
                    self.wait(id, wait);
                    break;
                }
            }
        }
        self.scratch.spans = spans;
        taken
    }

    /// Closes a session once everything it sent is answered.
    pub(super) fn close_behind_replies(&mut self, id: SessionId, reason: &'static str) {
        if self.sessions.get(id).is_none_or(Session::is_answered) {
            return self.close(id, reason);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.quitting = Some(reason);
            session.wait = Some(Wait::Drain);
        }
    }

    fn wait(&mut self, id: SessionId, wait: Wait) {
        let holding = self.holding;
        let now = self.now.us;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.wait = Some(wait);
        if wait == Wait::Gate && holding {
            session.held_since.get_or_insert(now);
        }
        if matches!(wait, Wait::Gate | Wait::Pause) {
            self.sessions.waiting.push_back(id);
            // Those who left while they waited make room when they are as many as those who are there.
            if self.sessions.waiting.len() > 2 * self.sessions.count {
                let mut waiting = std::mem::take(&mut self.sessions.waiting);
                waiting.retain(|id| self.sessions.get(*id).is_some_and(|session| matches!(session.wait, Some(Wait::Gate | Wait::Pause))));
                self.sessions.waiting = waiting;
            }
        }
    }

    /// Sessions whose wait may be over try again, in the order in which they came.
    pub(super) fn pump_sessions(&mut self) -> bool {
        self.balance_input();
        let mut moved = false;
        while let Some(id) = self.sessions.ready.pop() {
            moved |= self.try_again(id, |wait| matches!(wait, Wait::Window | Wait::Drain | Wait::Parked));
        }
        if std::mem::take(&mut self.sessions.resume) {
            let waiting = std::mem::take(&mut self.sessions.waiting);
            for id in waiting {
                moved |= self.try_again(id, |wait| matches!(wait, Wait::Gate | Wait::Pause));
            }
        }
        moved
    }

    fn try_again(&mut self, id: SessionId, of: impl Fn(Wait) -> bool) -> bool {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.wait.is_some_and(of)) else { return false };
        if let Some(reason) = session.quitting {
            if session.is_answered() {
                self.close(id, reason);
            }
            return true;
        }
        session.wait = None;
        self.pump(id, &[]);
        // Its socket may have been left alone, and nothing else would have it read.
        self.touch(id);
        true
    }

    /// Whether any session waits for the gate.
    pub(super) fn anybody_waits(&self) -> bool {
        !self.sessions.waiting.is_empty()
    }

    /// Ends the count of held time: how many requests were held, and the longest time one was.
    pub(super) fn end_held(&mut self) -> (u64, u64) {
        let now = self.now.us;
        let (mut count, mut longest) = (0, 0);
        for session in self.sessions.slots.iter_mut().filter_map(|slot| slot.as_deref_mut()) {
            if let Some(since) = session.held_since.take() {
                count += 1;
                longest = longest.max(now.saturating_sub(since));
            }
        }
        (count, longest)
    }
}
