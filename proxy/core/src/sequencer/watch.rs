//! WATCH: a real optimistic lock, kept by the server for a connection of the session's own.
//!
//! The hard case is EXEC. It runs on that connection, beside the lanes, so its keys are fenced first: nobody's command on them is
//! in flight when it runs, and none enters before its effect is appended (H25). A flip hands a watch over to the other
//! side (`handover.rs`). One that the proxy cannot keep (the connection was lost, or given to another session) makes EXEC answer nil, which is
//! always a legal answer (H37).

use super::Sequencer;
use super::handover::Handover;
use super::lane::{Lane, What};
use super::session::{Admit, SessionId, Wait};
use super::transaction::Multi;
use crate::command::{Command, Rule};
use crate::endpoint::Db;
use crate::limits::WATCHED_KEYS_MAX;
use crate::resp::encode::{number, push_request};
use crate::resp::request::{Request, Resume, Spans, parse};

/// What a session watches.
#[derive(Debug, Default)]
pub(super) struct Watch {
    keys: Vec<(Db, Box<[u8]>)>,
    /// Nobody watches for it any more: EXEC answers nil.
    pub broken: bool,
    /// A flip is moving it.
    pub handover: Option<Handover>,
}

impl Watch {
    /// Keys watched.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of a request that watches them, about.
    pub fn bytes(&self) -> usize {
        self.keys.iter().map(|(_, key)| key.len() + 16).sum()
    }

    pub fn keys(&self) -> &[(Db, Box<[u8]>)] {
        &self.keys
    }
}

impl Sequencer {
    pub(super) fn watch(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        // It changes connections only when it has nothing unanswered on the one it leaves (H4).
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        if self.is_held() {
            return Admit::Wait(Wait::Gate);
        }
        let watched = session.watch.as_ref().map_or(0, |watch| watch.keys.len());
        if watched + request.len() > WATCHED_KEYS_MAX {
            return self.refuse_request(id, b"-ERR twinlane: one client may watch at most 65536 keys\r\n");
        }
        if session.watch.as_ref().is_some_and(|watch| watch.broken) {
            self.say(id, b"+OK\r\n");
            return Admit::Taken;
        }
        let db = session.db;
        let lane_id = match self.acquire_own(id) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        let now = self.now.us;
        let mut frame = Vec::new();
        let away = lane_id.db != db;
        if away {
            push_request(&mut frame, &[b"SELECT", &number(i64::from(db))]);
        }
        frame.extend_from_slice(request.frame);
        if away {
            push_request(&mut frame, &[b"SELECT", &number(i64::from(lane_id.db))]);
        }
        if let Some(lane) = self.lane_mut(lane_id) {
            lane.push(&[&frame], What::Watch(id), if away { 3 } else { 1 }, now);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
            let watch = session.watch.get_or_insert_default();
            watch.keys.extend((1..request.len()).map(|at| (db, request.arg(at).into())));
        }
        self.count_sent(id, false);
        self.touch_lane(lane_id);
        Admit::Taken
    }

    /// The server answered WATCH.
    pub(super) fn answer_watch(&mut self, id: SessionId, reply: &[u8], failed: Option<&[u8]>) {
        if failed.is_some() {
            // It may watch in another database than the session's.
            self.break_watch(id);
            self.release_own(id);
        }
        self.deliver(id, failed.unwrap_or(reply), false, None);
    }

    /// Nobody watches for this session any more; its EXEC, if it comes, answers nil.
    pub(super) fn break_watch(&mut self, id: SessionId) {
        if let Some(watch) = self.sessions.get_mut(id).and_then(|session| session.watch.as_mut()) {
            watch.broken = true;
            watch.keys.clear();
        }
    }

    /// Ends the watch without a transaction: UNWATCH, DISCARD, an aborted EXEC, RESET, the end of the connection.
    pub(super) fn unwatch(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.watch.take().is_none() {
            return;
        }
        // A broken one may still be kept by the server.
        let Some(lane_id) = session.own else { return };
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(lane_id).filter(|lane| lane.is_open()) {
            lane.push(&[b"*1\r\n$7\r\nUNWATCH\r\n"], What::Silent, 1, now);
        }
        self.touch_lane(lane_id);
        self.release_own(id);
    }

    /// EXEC of a session that watches.
    pub(super) fn exec_watching(&mut self, id: SessionId) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        let (Some(multi), Some(watch)) = (session.multi.as_deref(), session.watch.as_deref()) else { return Admit::Taken };
        if multi.failed {
            self.unwatch(id);
            self.end_multi(id);
            self.say(id, b"-EXECABORT Transaction discarded because of previous errors.\r\n");
            return Admit::Taken;
        }
        let open = session.own.filter(|lane| self.lane(*lane).is_some_and(Lane::is_open));
        let Some(lane) = open.filter(|_| !watch.broken) else {
            let nil: &[u8] = if session.resp == 3 { b"_\r\n" } else { b"*-1\r\n" };
            self.drop_fence_of(id);
            self.unwatch(id);
            self.end_multi(id);
            self.say(id, nil);
            return Admit::Taken;
        };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        let db = session.db;
        let raised = if multi.alone || multi.runs_scripts() || lane.db != db || watch.keys.iter().any(|(watched, _)| *watched != db) {
            self.raise_barrier(id, db).map(|_| ())
        } else {
            let keys = multi.keys().into_iter().chain(watch.keys.iter().map(|(_, key)| key.clone())).collect();
            self.raise_fence(id, db, keys)
        };
        if let Err(admit) = raised {
            // Refused: the transaction has ended with it, as after every reply to EXEC.
            if admit == Admit::Taken {
                self.unwatch(id);
                self.end_multi(id);
            }
            return admit;
        }
        let Some(session) = self.sessions.get_mut(id) else { return Admit::Taken };
        session.watch = None;
        let Some(multi) = session.multi.take() else { return Admit::Taken };
        self.append_transaction(id, lane, db, &multi);
        Admit::Taken
    }

    fn end_multi(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.multi = None;
        }
    }
}

impl Multi {
    /// Whether it may touch keys that it does not name.
    fn runs_scripts(&self) -> bool {
        self.elements.iter().any(|(command, ..)| command.rule == Rule::Script)
    }

    /// Keys that its commands name.
    pub(super) fn keys(&self) -> Vec<Box<[u8]>> {
        let mut keys = Vec::new();
        self.each(|command, request| keys.extend(command.keys(request).map(|key| key.name.into())));
        keys
    }

    /// Its commands, one behind the other.
    pub(super) fn each(&self, mut each: impl FnMut(&'static Command, &Request<'_>)) {
        let mut spans = Spans::default();
        for (command, at, len) in &self.elements {
            let frame = &self.frames[*at..at + len];
            parse(frame, &mut spans, &mut Resume::default(), true);
            each(command, &Request { frame, spans: &spans });
        }
    }
}
