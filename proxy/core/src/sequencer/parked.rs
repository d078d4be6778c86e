//! Sessions that wait for a key: BLPOP and its like, XREAD and XREADGROUP with BLOCK (H20, H38, H57).
//!
//! The lane never waits. A blocking command enters at its place in the order in a form that does not wait; when there is nothing
//! for it, its session is *parked* here, and nothing else of it is read. The hard case is who gets an element: Redis serves a waiter
//! within the write that serves it, so `LPUSH l x; LLEN l` answers 1, 0. So the retry of the waiter that came first is appended
//! directly behind that write, in the same turn, before any other session's command.
//!
//! A waiter has at most one attempt in flight, or it could be given two elements. While it has one it is *busy*, else *idle*; a
//! write that finds only busy waiters leaves word with them, and the attempt that comes back empty is followed by another.

mod looks;
mod serves;
mod tables;
mod wish;

pub(super) use looks::Look;
pub(super) use serves::Serves;
pub(super) use tables::Parked;
pub(super) use wish::{Name, may_wait};

use super::Sequencer;
use super::lane::{Lane, LaneId, What};
use super::session::{Admit, SessionId};
use crate::command::{Command, Table};
use crate::effect::{Executed, derive};
use crate::endpoint::Db;
use crate::limits::{self, SERVE_UNKNOWN_MAX};
use crate::resp::reply::Reply;
use crate::resp::request::{Parsed as ParsedRequest, Request, Resume, Spans, parse};
use serves::{Call, Ready};
use std::collections::VecDeque;
use tables::{Line, Waiter};
use wish::{Asking, Form, Op, Wish, undo};

/// Which attempt of a waiter it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The command itself.
    First,
    /// Of one key; with its type when `judged`. `chain`: when it succeeds, the next waiter is tried too.
    Retry { key: Name, judged: bool, chain: bool },
}

/// An attempt in flight.
#[derive(Debug)]
pub(super) struct Attempt {
    pub session: SessionId,
    /// Whether it may change data.
    pub writes: bool,
    /// Replies it gets.
    pub replies: u32,
    phase: Phase,
    form: Form,
    block: bool,
}

/// How a wait ends without an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its time is over, or CLIENT UNBLOCK says so.
    Timeout,
    /// CLIENT UNBLOCK with ERROR.
    Unblocked,
}

const ODD: &[u8] = b"-ERR twinlane: a timeout or option of this command is not understood here, so it cannot wait\r\n";
const NO_ID: &[u8] = b"-ERR twinlane: the last id of the stream could not be learnt, so the command cannot wait\r\n";
const GROUP_GONE: &[u8] = b"-NOGROUP the consumer group this client was blocked on no longer exists\r\n";
const STREAM_GONE: &[u8] = b"-UNBLOCKED the stream key no longer exists\r\n";

impl Sequencer {
    /// Sessions that wait for a key now.
    pub(super) fn parked_clients(&self) -> usize {
        self.parked.len()
    }

    /// Whether this session waits for a key.
    pub(super) fn is_parked(&self, id: SessionId) -> bool {
        self.parked.get(id).is_some_and(|waiter| waiter.parked)
    }

    /// Whether this session waits for a key and nothing is in flight for it: the next write to the key serves it.
    #[must_use]
    pub fn is_waiting(&self, id: SessionId) -> bool {
        self.parked.get(id).is_some_and(|waiter| waiter.parked && !waiter.busy)
    }

    /// Takes a blocking command: its first attempt enters the lane, and nothing behind it is read.
    pub(super) fn send_blocking(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(db) = self.sessions.get(id).map(|session| session.db) else { return Admit::Taken };
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        if request.frame.len() > limits::BLOCKING_BYTES_MAX {
            return self.refuse_request(id, b"-ERR twinlane: the blocking command is larger than is kept while a client waits\r\n");
        }
        let major = self.sides[self.primary().index()].major;
        let wish = Wish::read(command, request, major);
        if self.parked.places() + wish.keys.len() > limits::PARKED_PLACES_MAX {
            return self.refuse_request(id, b"-ERR twinlane: clients wait for too many keys already\r\n");
        }
        let lane = match self.may_enter(id, db, command, request) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        let asking = wish.first(request, major);
        let now = self.now.us;
        for (at, key) in wish.unresolved() {
            let mut frame = Vec::new();
            crate::resp::encode::push_request(&mut frame, &[b"XINFO", b"STREAM", key]);
            if let Some(lane) = self.lane_mut(lane) {
                lane.push(&[&frame], What::LastId { session: id, at }, 1, now);
            }
        }
        let deadline = wish.timeout_us.map(|timeout| now.saturating_add(timeout));
        self.parked.enter(Waiter::new(id, command, db, wish, deadline));
        let writes = command.writes();
        self.append_attempt(lane, id, asking, Phase::First, writes);
        self.count_sent(id, writes);
        if let Some(to) = self.parked.get(id).and_then(|waiter| waiter.wish.destination()).map(Name::from) {
            self.serve(Call { tell: false, ..Call::new(db, to, Ready::List(1)) });
        }
        Admit::Parked
    }

    fn append_attempt(&mut self, lane: LaneId, session: SessionId, asking: Asking, phase: Phase, writes: bool) {
        let now = self.now.us;
        let judged = matches!(phase, Phase::Retry { judged: true, .. });
        let replies = if asking.block { 3 + u32::from(judged) } else { 1 };
        let attempt = Attempt { session, writes, replies, phase, form: asking.form, block: asking.block };
        if writes {
            self.intend_frame(lane.db, &asking.frame);
        }
        if let Some(lane) = self.lane_mut(lane) {
            lane.push(&[&asking.frame], What::Attempt(Box::new(attempt)), replies, now);
        }
        self.touch_lane(lane);
    }

    /// A write was appended: behind it come the retries of those whom it can serve.
    pub(super) fn serve_behind(&mut self, db: Db, command: &Command, request: &Request<'_>) {
        if self.parked.is_empty() || !command.writes() {
            return;
        }
        let mut serves = Serves::default();
        self.add_served(&mut serves, db, command, request);
        self.serve_all(serves);
    }

    /// Adds what a command of a transaction can serve.
    pub(super) fn add_served(&self, serves: &mut Serves, db: Db, command: &Command, request: &Request<'_>) {
        if !self.parked.is_empty() && command.writes() {
            serves.add(db, command, request, &|db, key| self.parked.watched(db, key));
        }
    }

    /// Appends the retries of those whom a write, or a whole transaction, can serve.
    pub(super) fn serve_all(&mut self, serves: Serves) {
        serves.databases.iter().for_each(|db| self.parked.all_due(*db));
        if self.settings.faults.late_retries {
            return serves.keys.into_iter().for_each(|(db, key, _)| self.parked.due(db, &key));
        }
        self.serve_each(serves.keys.into_iter().map(|(db, key, ready)| Call::new(db, key, ready)).collect());
    }

    /// Whether something of ours may go onto the lane for this key now.
    fn may_retry(&self, db: Db, key: &[u8]) -> bool {
        let lane = LaneId::shared(self.primary(), db);
        !self.is_held() && self.may_ask() && self.lane(lane).is_some_and(Lane::is_open) && !self.fences.fences_key(db, key)
    }

    /// Appends retries for keys that may have something now; for keys behind a fence, a barrier or a hold it is done when that has
    /// ended. A retry that moves an element on serves those who wait there. Each retry makes an idle waiter busy, so it ends.
    fn serve_each(&mut self, mut calls: VecDeque<Call>) {
        let modern = self.sides[self.primary().index()].major >= 7;
        while let Some(call) = calls.pop_front() {
            if call.ready == Ready::Gone && !modern {
                continue;
            }
            if !self.may_retry(call.db, &call.key) {
                self.parked.due(call.db, &call.key);
                continue;
            }
            for session in self.parked.take(&call) {
                if let Some(to) = self.retry(session, call.db, &call.key, call.chain) {
                    calls.push_back(Call { tell: false, ..Call::new(call.db, to, Ready::List(1)) });
                }
            }
        }
    }

    fn serve(&mut self, call: Call) {
        self.serve_each(VecDeque::from([call]));
    }

    /// Appends one retry of a waiter that is busy from now on. Where it moves an element to, if it does.
    fn retry(&mut self, session: SessionId, db: Db, key: &Name, chain: bool) -> Option<Name> {
        let waiter = self.parked.get(session)?;
        let at = waiter.wish.keys.iter().position(|known| known == key)?;
        let asking = waiter.wish.retry(at)?;
        let (to, writes) = (waiter.wish.destination().map(Name::from), waiter.command.writes());
        let phase = Phase::Retry { key: key.clone(), judged: false, chain };
        self.append_attempt(LaneId::shared(self.primary(), db), session, asking, phase, writes);
        to
    }

    /// The last id of a stream whose new entries a session waits for, as it was when the command entered.
    pub(super) fn answer_last_id(&mut self, session: SessionId, at: usize, reply: Reply<'_>) {
        let id: Option<&[u8]> = match reply.error() {
            Some(text) => text.ends_with(b"no such key").then_some(b"0-0"),
            None => last_id(reply),
        };
        if let (Some(id), Some(Waiter { wish: Wish { op: Op::Read { ids, .. }, .. }, .. })) = (id, self.parked.get_mut(session))
            && let Some(slot) = ids.get_mut(at)
        {
            *slot = Some(id.into());
        }
    }

    /// An attempt was answered.
    pub(super) fn answer_attempt(
        &mut self,
        lane: LaneId,
        attempt: &Attempt,
        frame: &[u8],
        reply: Reply<'_>,
        resp3: bool,
        failed: Option<&[u8]>,
    ) {
        let mut spans = Spans::default();
        let (inner, kind) = match attempt.block {
            false => (reply, None),
            true if reply.is_aggregate() => {
                let mut parts = reply.elements();
                (parts.next().unwrap_or(reply), parts.next())
            }
            true => {
                // MULTI itself was refused: what followed it ran alone, and nobody knows with which replies [H44].
                if failed.is_some() && reply.error().is_some_and(|text| text.ends_with(b"without MULTI")) {
                    self.doubt_request(lane.db, frame);
                }
                (Reply(failed.unwrap_or(reply.0)), None)
            }
        };
        let Some(bytes) = command_of(frame, attempt.block, &mut spans) else { return };
        let request = Request { frame: bytes, spans: &spans };
        let Some(twin) = Table::get().find(&request) else { return };
        let wanted = self.parked.get(attempt.session).map(|waiter| waiter.command);
        let answer = if inner.is_error() { None } else { attempt.form.convert(inner) };
        let ack = if wanted.is_some() && answer.is_some() { self.next_ack(attempt.session) } else { None };
        let mut frames = Vec::new();
        let executed = Executed { command: twin, request, reply: inner, length: None, clock: self.clock() };
        let effect = derive(&executed, &mut frames);
        self.writes.writer = Some(attempt.session);
        let pending = self.apply(lane.db, twin, &request, effect, &frames, ack);
        match (wanted, answer) {
            (None, Some(_)) => self.undo_pop(lane, attempt.session, twin, &request, inner),
            (None, None) => {}
            (Some(command), Some(answer)) => {
                self.count(command, inner);
                let left = self.parked.leave(attempt.session);
                let awaits = pending.then(|| self.ack_deadline());
                self.give(attempt.session, command.shape, request.len(), &answer, resp3, true, awaits);
                if !command.writes() && self.is_tracking(attempt.session) {
                    let read: Vec<Vec<u8>> = twin.keys(&request).map(|key| key.name.to_vec()).collect();
                    self.disown_reads(attempt.session, &read);
                }
                self.hand_on(lane.db, attempt, left);
            }
            (Some(command), None) if inner.is_error() => self.attempt_failed(lane, attempt, command, inner, kind, resp3),
            (Some(_), None) => self.rest(attempt.session),
        }
    }

    /// Whether an attempt for this session is unanswered: what it is told meanwhile goes behind the reply that it may bring.
    pub(super) fn is_attempting(&self, id: SessionId, db: Db) -> bool {
        let ours = |what: &What| matches!(what, What::Attempt(attempt) if attempt.session == id);
        self.lane(LaneId::shared(self.primary(), db)).is_some_and(|lane| lane.in_flight.iter().any(|flight| ours(&flight.what)))
    }

    /// A waiter has gone with an answer: what was left for it, what it moved on, and what it was the first of, is for the next.
    fn hand_on(&mut self, db: Db, attempt: &Attempt, left: Option<Waiter>) {
        let mut calls = left.as_ref().map(Waiter::leaves).unwrap_or_default();
        if let Some(to) = left.as_ref().and_then(|waiter| waiter.wish.destination()) {
            calls.push_back(Call::new(db, to.into(), Ready::List(1)));
        }
        if let Phase::Retry { key, chain: true, .. } = &attempt.phase {
            calls.push_front(Call::new(db, key.clone(), Ready::Any));
        }
        self.serve_each(calls);
    }

    fn attempt_failed(
        &mut self,
        lane: LaneId,
        attempt: &Attempt,
        command: &'static Command,
        error: Reply<'_>,
        kind: Option<Reply<'_>>,
        resp3: bool,
    ) {
        let session = attempt.session;
        let side = &self.sides[self.primary().index()];
        let (major, reprocesses) = (side.major, side.eager_consumers);
        let word = error.error_word().unwrap_or(b"");
        let told = error.0.to_vec();
        let Phase::Retry { key, judged, .. } = &attempt.phase else {
            return self.finish(session, command, &told, resp3);
        };
        let Some(waiter) = self.parked.get(session) else { return };
        let (moves, group) = (matches!(waiter.wish.op, Op::Move { .. }), matches!(waiter.wish.op, Op::GroupRead { .. }));
        let unclear = (word == b"WRONGTYPE" && (moves || group)) || (word == b"NOGROUP" && group);
        // From 7.2 on a waiter's command is processed anew, and its errors are its own (blocked.c unblockClientOnKey).
        if !unclear && word != b"WRONGTYPE" || (group && reprocesses) {
            self.finish(session, command, &told, resp3);
            return self.hand_on(lane.db, attempt, None);
        }
        let kind = match (unclear, judged, kind) {
            (true, false, _) => return self.judge(session, lane.db, key),
            (true, true, Some(kind)) => kind.text(),
            _ => return self.rest(session),
        };
        match (moves, kind) {
            // The source has elements, so it was the destination.
            (true, b"list") => self.finish(session, command, &told, resp3),
            (false, b"stream") => self.finish(session, command, GROUP_GONE, resp3),
            (false, _) if major >= 7 => self.finish(session, command, STREAM_GONE, resp3),
            _ => return self.rest(session),
        }
        let next = Attempt { phase: Phase::Retry { key: key.clone(), judged: true, chain: true }, form: Form::Whole, ..*attempt };
        self.hand_on(lane.db, &next, None);
    }

    /// Asks once more, with the key's type.
    fn judge(&mut self, session: SessionId, db: Db, key: &Name) {
        if !self.may_retry(db, key) {
            self.parked.due(db, key);
            return self.rest(session);
        }
        let Some(waiter) = self.parked.get(session) else { return };
        let at = waiter.wish.keys.iter().position(|known| known == key);
        let Some(asking) = at.and_then(|at| waiter.wish.judged(at)) else { return };
        let writes = waiter.command.writes();
        let phase = Phase::Retry { key: key.clone(), judged: true, chain: false };
        self.append_attempt(LaneId::shared(self.primary(), db), session, asking, phase, writes);
    }

    /// An attempt found nothing: the session waits on, unless its time is over or a write came meanwhile.
    fn rest(&mut self, session: SessionId) {
        let now = self.now.us;
        let Some(waiter) = self.parked.get_mut(session) else { return };
        let (db, command) = (waiter.db, waiter.command);
        if matches!(waiter.wish.op, Op::Odd) {
            return self.finish(session, command, ODD, false);
        }
        if waiter.wish.unresolved().next().is_some() {
            return self.finish(session, command, NO_ID, false);
        }
        let over = waiter.deadline.is_some_and(|deadline| deadline <= now).then_some(End::Timeout);
        if let Some(end) = waiter.end.or(over) {
            return self.end_wait(session, end);
        }
        waiter.parked = true;
        if self.sessions.get(session).is_some_and(|session| session.ended) {
            self.parked.idle(session, now);
            return self.end_behind_replies(session);
        }
        let again = (!waiter.again.is_empty()).then(|| waiter.again.remove(0));
        // What it was told meanwhile waited for a reply that does not come yet.
        if self.sessions.get_mut(session).is_some_and(super::session::Session::say_waiting) {
            self.touch(session);
        }
        let Some(key) = again else { return self.parked.idle(session, now) };
        if !self.may_retry(db, &key) {
            self.parked.idle(session, now);
            return self.parked.due(db, &key);
        }
        if let Some(to) = self.retry(session, db, &key, true) {
            self.serve(Call { tell: false, ..Call::new(db, to, Ready::List(1)) });
        }
    }

    /// The wait of a session ends with an answer of ours.
    fn finish(&mut self, session: SessionId, command: &'static Command, answer: &[u8], resp3: bool) {
        let Some(waiter) = self.parked.leave(session) else { return };
        self.count(command, Reply(answer));
        self.give(session, command.shape, 0, answer, resp3, true, None);
        self.serve_each(waiter.leaves());
    }

    fn end_wait(&mut self, session: SessionId, end: End) {
        let Some(command) = self.parked.get(session).map(|waiter| waiter.command) else { return };
        let resp3 = self.sessions.get(session).is_some_and(|session| session.resp == 3);
        let answer: &[u8] = match end {
            End::Unblocked => b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
            End::Timeout if resp3 => b"_\r\n",
            End::Timeout => b"*-1\r\n",
        };
        self.finish(session, command, answer, false);
    }

    /// An element was popped for a session that has gone: it goes back to its end at once, as a write of ours (H38), and those who
    /// still wait are tried behind it. A fence that is not yet passed waits for it too.
    fn undo_pop(&mut self, lane: LaneId, gone: SessionId, twin: &Command, request: &Request<'_>, reply: Reply<'_>) {
        let Some(frame) = undo(twin, request, reply) else { return };
        let mut spans = Spans::default();
        let Some(bytes) = command_of(&frame, false, &mut spans) else { return };
        let undo = Request { frame: bytes, spans: &spans };
        let Some(command) = Table::get().find(&undo) else { return };
        let (now, db) = (self.now.us, lane.db);
        self.intend(db, command, &undo);
        if let Some(lane) = self.lane_mut(lane) {
            lane.push(&[&frame], What::Client { session: gone, command }, 1, now);
            let appended = lane.appended;
            command.keys(&undo).for_each(|key| self.fences.wait_for(db, key.name, appended));
        }
        self.touch_lane(lane);
        self.serve_behind(lane.db, command, &undo);
    }

    /// An attempt of a lost primary that will not be made: the command is answered with the error; a waiter waits on.
    pub(super) fn give_up_attempt(&mut self, attempt: &Attempt, error: &[u8]) {
        let Some(command) = self.parked.get(attempt.session).map(|waiter| waiter.command) else { return };
        match attempt.phase {
            Phase::First => self.finish(attempt.session, command, error, false),
            Phase::Retry { .. } => self.rest(attempt.session),
        }
    }

    /// The retry that was given up is made when its key's lane is open.
    pub(super) fn retry_later(&mut self, db: Db, attempt: &Attempt) {
        if let Phase::Retry { key, .. } = &attempt.phase {
            self.parked.due(db, key);
        }
    }

    /// The session is gone, or closes: it waits for nothing any more.
    pub(super) fn unpark(&mut self, id: SessionId) {
        let Some(waiter) = self.parked.leave(id) else { return };
        self.serve_each(waiter.leaves());
    }

    /// Keys whose retry had to wait for a fence, a barrier or a hold.
    pub(super) fn pump_parked(&mut self) -> bool {
        if !self.parked.has_due() || self.is_held() || !self.may_ask() || !self.sides[self.primary().index()].is_up() {
            return false;
        }
        let due = self.parked.take_due();
        let before = due.len();
        let (open, shut): (Vec<_>, Vec<_>) = due.into_iter().partition(|(db, key)| self.may_retry(*db, key));
        shut.iter().for_each(|(db, key)| self.parked.due(*db, key));
        self.serve_each(open.into_iter().map(|(db, key)| Call::new(db, key, Ready::Any)).collect());
        shut.len() < before
    }

    /// Time passes: waits end, keys are looked at.
    pub(super) fn tick_parked(&mut self) {
        for session in self.parked.take_expired(self.now.us) {
            // One whose attempt is in flight is told when that has been answered.
            self.end_wait(session, End::Timeout);
        }
        self.tick_looks();
    }

    /// Ends the wait of the client with this number, as if its time were over or with an error. False when it does not wait. One
    /// whose attempt is in flight is told when that comes back empty.
    pub(super) fn unblock_client(&mut self, number: i64, error: bool) -> bool {
        let Some(target) = self.parked.sessions().find(|session| i64::try_from(session.number()) == Ok(number)) else { return false };
        let end = if error { End::Unblocked } else { End::Timeout };
        match self.parked.get_mut(target) {
            Some(waiter) if waiter.busy => waiter.end = Some(end),
            _ => self.end_wait(target, end),
        }
        true
    }
}

/// The command of an attempt's frame: the frame itself, or what stands behind MULTI.
fn command_of<'f>(frame: &'f [u8], block: bool, spans: &mut Spans) -> Option<&'f [u8]> {
    let mut rest = frame;
    for at in 0.. {
        let ParsedRequest::Complete { len, .. } = parse(rest, spans, &mut Resume::default(), true) else { return None };
        if at == usize::from(block) {
            return rest.get(..len);
        }
        rest = rest.get(len..)?;
    }
    None
}

/// `last-generated-id` of XINFO STREAM.
fn last_id(reply: Reply<'_>) -> Option<&[u8]> {
    let mut parts = reply.elements();
    while let Some(name) = parts.next() {
        let value = parts.next()?;
        if name.text() == b"last-generated-id" {
            return Some(value.text());
        }
    }
    None
}
