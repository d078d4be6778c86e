//! MULTI, EXEC, DISCARD, and blocks of ours around single commands.
//!
//! A transaction is queued here, with the errors Redis gives at queue time, and sent as one contiguous block, so that nothing of
//! another client comes between. A block may hold commands of ours; their replies are cut out of what the client gets.

use super::Sequencer;
use super::admit::push_words;
use super::lane::{LaneId, What};
use super::session::{Admit, SessionId, Wait};
use crate::command::{Class, Command, Rule};
use crate::effect::wants_length;
use crate::endpoint::Db;
use crate::limits::{MULTI_BYTES_MAX, RANDOM_KEYS_AGAIN};
use crate::resp::encode::{number, push_header};
use crate::resp::request::Request;

/// A transaction being queued.
#[derive(Debug, Default)]
pub(super) struct Multi {
    /// The queued requests, one behind the other.
    pub frames: Vec<u8>,
    pub elements: Vec<(&'static Command, usize, usize)>,
    /// A command was refused at queue time.
    pub failed: bool,
    /// The server tracks what it reads.
    pub remembered: bool,
    /// It touches more than the session's own database, or all keys.
    pub alone: bool,
    /// Something in it would go to replicas.
    writes: bool,
    /// Something in it is the session's own business, which what follows must not overtake.
    local: bool,
}

impl Multi {
    /// Commands queued.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    pub fn writes(&self) -> bool {
        self.writes
    }
}

/// What a hidden command of a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// Its reply says nothing.
    Silent,
    /// Its reply is the stream length behind the command before it.
    Length,
    /// Its reply stands in for that of the command before it, should that one be unfit to be shown.
    Again,
}

/// One command of a block.
#[derive(Debug)]
pub(super) enum Element {
    /// A client's, at this place of the block's frame.
    Shown { command: &'static Command, at: usize, len: usize },
    /// The session's own business, done when its turn comes in the reply: no server sees this request.
    Local { command: &'static Command, frame: Box<[u8]> },
    /// Ours.
    Hidden(Hidden),
}

/// `MULTI ... EXEC` on the primary.
#[derive(Debug)]
pub(super) struct Block {
    pub session: Option<SessionId>,
    /// The database that it begins in.
    pub db: Db,
    pub elements: Vec<Element>,
    /// The client sent one command, not a transaction: it gets that command's reply alone.
    pub single: bool,
    /// It travels without MULTI, which a full server refuses to fill: other connections' commands may come between.
    pub plain: bool,
    /// It counts among its session's writes.
    pub wrote: bool,
    frame: Vec<u8>,
}

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

impl Block {
    pub fn begin(session: Option<SessionId>, db: Db, single: bool) -> Block {
        Block { session, db, elements: Vec::new(), single, plain: false, wrote: false, frame: MULTI.to_vec() }
    }

    /// A single command with what belongs to it, without MULTI.
    pub fn plain(session: Option<SessionId>, db: Db) -> Block {
        Block { plain: true, frame: Vec::new(), ..Block::begin(session, db, true) }
    }

    pub fn show(&mut self, command: &'static Command, frame: &[u8]) {
        self.elements.push(Element::Shown { command, at: self.frame.len(), len: frame.len() });
        self.frame.extend_from_slice(frame);
    }

    /// Replies of the server: to MULTI, to each command, to EXEC; to the commands alone where it is plain.
    pub fn replies(&self) -> u32 {
        let own = if self.plain { 0 } else { 2 };
        self.elements.iter().filter(|element| !matches!(element, Element::Local { .. })).count() as u32 + own
    }

    /// Whether it empties a database.
    pub fn flushes(&self) -> bool {
        let flushes =
            |element: &Element| matches!(element, Element::Shown { command, .. } if matches!(command.rule, Rule::FlushDb | Rule::FlushAll));
        self.elements.iter().any(flushes)
    }

    pub fn hide(&mut self, args: &[Vec<u8>], kind: Hidden) {
        push_words(&mut self.frame, args);
        self.elements.push(Element::Hidden(kind));
    }
}

impl Sequencer {
    /// Sends a block. Its writes are in the journal by now (`intents.rs`).
    pub(super) fn append_block(&mut self, lane: LaneId, mut block: Block) {
        let now = self.now.us;
        if !block.plain {
            block.frame.extend_from_slice(EXEC);
        }
        let frame = std::mem::take(&mut block.frame);
        let replies = block.replies();
        if let Some(lane) = self.lane_mut(lane) {
            lane.push(&[&frame], What::Block(Box::new(block)), replies, now);
        }
    }

    /// WATCH, UNWATCH, MULTI, EXEC or DISCARD.
    pub(super) fn transaction(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get_mut(id) else { return Admit::Taken };
        match (command.name, session.multi.is_some()) {
            ("WATCH", _) => self.watch(id, command, request),
            ("UNWATCH", _) => {
                self.unwatch(id);
                self.say(id, b"+OK\r\n");
                Admit::Taken
            }
            ("MULTI", false) => {
                session.multi = Some(Box::default());
                self.say(id, b"+OK\r\n");
                Admit::Taken
            }
            ("MULTI", true) => {
                // Redis does not abort for it (multi.c multiCommand), unlike any other error at queue time.
                self.say(id, b"-ERR MULTI calls can not be nested\r\n");
                Admit::Taken
            }
            ("DISCARD", true) => {
                session.multi = None;
                self.unwatch(id);
                self.say(id, b"+OK\r\n");
                Admit::Taken
            }
            ("EXEC", true) if session.feed.is_some() => match self.remember_block(id) {
                Some(admit) => admit,
                None => self.exec_block(id),
            },
            ("EXEC", true) => self.exec_block(id),
            (name, _) => {
                self.say(id, format!("-ERR {name} without MULTI\r\n").as_bytes());
                Admit::Taken
            }
        }
    }

    /// On the lane, or on the session's own connection when it watches.
    fn exec_block(&mut self, id: SessionId) -> Admit {
        if self.sessions.get(id).is_some_and(|session| session.watch.is_some()) { self.exec_watching(id) } else { self.exec(id) }
    }

    /// Queues a command of a transaction.
    pub(super) fn queue(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let class = self.class_of(command);
        let carried = matches!(
            class,
            Class::Read | Class::Cursor | Class::Forward | Class::Write | Class::Blocking | Class::Keyless | Class::Barrier
        );
        let local = class == Class::Local && command.name != "CLIENT REPLY" || command.name == "UNWATCH";
        if !carried && !local {
            let error = match class {
                // Never inside a transaction (redis 7.0.15 server.c processCommand, CMD_NO_MULTI).
                _ if matches!(command.name, "SAVE" | "SHUTDOWN" | "SYNC" | "PSYNC") => {
                    "-ERR Command not allowed inside a transaction\r\n".to_owned()
                }
                Class::Refused => super::admit::refusal(command),
                _ => format!("-ERR twinlane: {} inside MULTI is not supported\r\n", command.name),
            };
            return self.refuse_request(id, error.as_bytes());
        }
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        if command.class == Class::Cursor && request.arg(super::cursor::cursor_at(command)) != b"0" {
            return self.refuse_request(id, b"-ERR twinlane: going on with a cursor inside MULTI is not supported\r\n");
        }
        let copies_out = command.rule == Rule::Copy && (3..request.len()).any(|at| request.is(at, "DB"));
        let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) else { return Admit::Taken };
        if multi.frames.len() + request.frame.len() > MULTI_BYTES_MAX {
            return self.refuse_request(id, b"-ERR twinlane: the transaction is larger than a lane carries in one piece\r\n");
        }
        multi.elements.push((command, multi.frames.len(), request.frame.len()));
        multi.frames.extend_from_slice(request.frame);
        multi.writes |= super::pause::may_replicate(command, request);
        multi.local |= is_own(command);
        multi.alone |= command.class == Class::Barrier || command.name == "SELECT" || copies_out || command.rule == Rule::FlushDb;
        self.say(id, b"+QUEUED\r\n");
        Admit::Taken
    }

    fn exec(&mut self, id: SessionId) -> Admit {
        let Some(session) = self.sessions.get_mut(id) else { return Admit::Taken };
        let db = session.db;
        let Some(multi) = session.multi.as_deref() else { return Admit::Taken };
        if multi.failed {
            session.multi = None;
            self.say(id, b"-EXECABORT Transaction discarded because of previous errors.\r\n");
            return Admit::Taken;
        }
        if multi.elements.is_empty() {
            session.multi = None;
            self.say(id, b"*0\r\n");
            return Admit::Taken;
        }
        let alone = multi.alone;
        if alone && !session.is_drained() {
            // A block that changes the session's database needs to be its only unanswered command.
            return Admit::Wait(Wait::Drain);
        }
        let fenced = !alone && self.fences.stops_block(id, db, multi);
        let lane = match if fenced { Err(Admit::Wait(Wait::Gate)) } else { self.enter_block(id, db, alone) } {
            Ok(lane) => lane,
            Err(admit) => {
                // Refused: the transaction has ended with it, as after every reply to EXEC.
                if let Some(session) = self.sessions.get_mut(id).filter(|_| admit == Admit::Taken) {
                    session.multi = None;
                }
                return admit;
            }
        };
        let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.take()) else { return Admit::Taken };
        self.append_transaction(id, lane, db, &multi);
        Admit::Taken
    }

    pub(super) fn append_transaction(&mut self, id: SessionId, lane: LaneId, db: Db, multi: &Multi) {
        let mut block = Block::begin(Some(id), db, false);
        let mut writes = false;
        let words = |args: &[&[u8]]| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        let mut mark_lost = false;
        let (mut serves, mut at_db) = (super::parked::Serves::default(), db);
        let away = lane.db != db;
        if away {
            block.hide(&words(&[b"SELECT", &number(i64::from(db))]), Hidden::Silent);
        }
        multi.each(|command, request| {
            if is_own(command) {
                block.elements.push(Element::Local { command, frame: request.frame.into() });
                return;
            }
            self.before_script(lane, command, request);
            self.note_own_write(id, command, request);
            self.intend(at_db, command, request);
            block.show(command, request.frame);
            if command.name == "SELECT" {
                at_db = crate::resp::encode::parse_integer(request.arg(1)).and_then(|index| index.try_into().ok()).unwrap_or(at_db);
            }
            self.add_served(&mut serves, at_db, command, request);
            writes |= command.writes() || command.rule == Rule::PfCount;
            mark_lost |= matches!(command.rule, Rule::FlushAll | Rule::FlushDb | Rule::SwapDb);
            if wants_length(request, command.name) {
                block.hide(&words(&[b"XLEN", request.arg(1)]), Hidden::Length);
            }
            if command.name == "RANDOMKEY" {
                (0..RANDOM_KEYS_AGAIN).for_each(|_| block.hide(&words(&[b"RANDOMKEY"]), Hidden::Again));
            }
        });
        if multi.alone || away {
            if mark_lost {
                block.hide(&words(&[b"SELECT", b"0"]), Hidden::Silent);
                block.hide(&words(&[b"SET", super::RECORD_KEY, &self.mark(self.primary())]), Hidden::Silent);
            }
            block.hide(&words(&[b"SELECT", &number(i64::from(lane.db))]), Hidden::Silent);
        }
        block.wrote = writes;
        self.append_block(lane, block);
        if let Some(session) = self.sessions.get_mut(id) {
            session.changing = multi.local;
        }
        self.count_sent(id, writes);
        self.note_barrier(id);
        self.touch_lane(lane);
        self.serve_all(serves);
    }
}

/// The session's own business inside a transaction. What a server may as well answer goes to it: SELECT moves its connection too.
fn is_own(command: &Command) -> bool {
    command.class == Class::Local && !matches!(command.name, "SELECT" | "PING" | "ECHO")
}

/// The header of an EXEC reply of `n` elements.
pub(super) fn push_array(out: &mut Vec<u8>, n: usize) {
    push_header(out, b'*', n as i64);
}
