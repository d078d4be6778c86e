//! CLIENT TRACKING: the server's own table of who has read what, for a client that caches.
//!
//! The server remembers what a *connection* read, so what a tracking session reads travels on the session's feed, in order with
//! what it sends on the lane: it changes between the two only when it has nothing unanswered (H4). A transaction travels on the lane all
//! the same; what it reads is named on the feed before, so that the server remembers it by then. What a read that may wait has read is
//! declared invalid right behind its reply. At a flip everything is declared invalid before the first held request goes on (H41).

use super::Sequencer;
use super::feed::Feed;
use super::lane::{Lane, LaneId, What};
use super::parked::may_wait;
use super::session::{Admit, Session, SessionId, Wait};
use crate::command::{Class, Command};
use crate::limits;
use crate::resp::encode::{parse_integer, push_bulk, push_header, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::collections::{BTreeSet, HashSet};

/// What a session asked the server to track.
#[derive(Debug, Clone, Default)]
pub(super) struct Tracking {
    /// The words behind `CLIENT TRACKING`, without REDIRECT; with the prefixes of earlier ones, which add up.
    words: Vec<Vec<u8>>,
    /// The session that is told in this one's place, and the number it had.
    redirect: Option<(SessionId, u64)>,
    pub broken: bool,
    pub broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    /// In the server's order. Every key begins with the empty one, which stands for no prefix.
    prefixes: BTreeSet<Vec<u8>>,
    /// CLIENT CACHING, for the next command.
    caching: Option<bool>,
    /// Under NOLOOP: keys that the session has written on the lane, which to the server is another client. What it says of them is
    /// left out. They are forgotten when a read on the feed is answered: what the server had to say of them came before.
    written: HashSet<Vec<u8>>,
}

/// Where clients of RESP2 subscribe to what is invalid.
const CHANNEL: &[u8] = b"__redis__:invalidate";

impl Tracking {
    fn parse(request: &Request<'_>) -> Tracking {
        let mut tracking = Tracking { words: vec![b"ON".to_vec()], ..Tracking::default() };
        let mut at = 3;
        while at < request.len() {
            let word = |at: usize| request.arg(at).to_vec();
            if request.is(at, "REDIRECT") {
                at += 2;
                continue;
            }
            tracking.words.push(word(at));
            tracking.broadcast |= request.is(at, "BCAST");
            tracking.opt_in |= request.is(at, "OPTIN");
            tracking.opt_out |= request.is(at, "OPTOUT");
            tracking.no_loop |= request.is(at, "NOLOOP");
            if request.is(at, "PREFIX") && at + 1 < request.len() {
                at += 1;
                tracking.words.push(word(at));
                tracking.prefixes.insert(word(at));
            }
            at += 1;
        }
        if tracking.broadcast && tracking.prefixes.is_empty() {
            // That is how a server keeps "everything" (tracking.c enableTracking).
            tracking.prefixes.insert(Vec::new());
        }
        tracking
    }

    /// Turned on once more: prefixes add up. Beside one that is empty no other may be named, and none needs to be.
    fn add_prefixes(&mut self, before: Tracking) {
        if !self.prefixes.contains(&Vec::new()) {
            for prefix in before.prefixes.difference(&self.prefixes) {
                self.words.extend([b"PREFIX".to_vec(), prefix.clone()]);
            }
        }
        self.prefixes.extend(before.prefixes);
    }

    /// Whether the next read is one that the server must remember.
    fn remembers(&self) -> bool {
        !self.broadcast && if self.opt_in { self.caching == Some(true) } else { self.caching != Some(false) }
    }

    /// Whether the server's word on this key is the echo of the session's own write.
    fn is_echo(&mut self, key: &[u8]) -> bool {
        self.written.remove(key)
    }

    /// The command that turns it on, for a connection on which the redirection's target has this id.
    pub fn push_command(&self, out: &mut Vec<u8>, target: Option<u64>) {
        let target = target.map(|id| id.to_string());
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING"];
        words.extend(self.words.iter().map(Vec::as_slice));
        if let Some(target) = &target {
            words.extend([b"REDIRECT".as_slice(), target.as_bytes()]);
        }
        push_request(out, &words);
    }

    /// Somebody else is told in this session's place.
    pub fn redirect(&self) -> Option<SessionId> {
        self.redirect.map(|(id, _)| id)
    }
}

impl Sequencer {
    /// CLIENT TRACKING, CACHING, TRACKINGINFO, GETREDIR.
    pub(super) fn tracking(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        if self.sides[self.primary().index()].resp < 3 {
            let error = crate::command::unknown_subcommand(request, self.sides[self.primary().index()].major);
            return self.refuse_request(id, &error);
        }
        match command.name {
            "CLIENT TRACKING" => self.track_client(id, request),
            "CLIENT CACHING" => self.set_caching(id, request),
            "CLIENT GETREDIR" => {
                self.say(id, format!(":{}\r\n", self.redirection(id)).as_bytes());
                Admit::Taken
            }
            _ => self.tell_tracking(id),
        }
    }

    /// The number of the client that is told in this one's place; 0 when it is told itself, -1 when nothing is tracked.
    pub(super) fn redirection(&self, id: SessionId) -> i64 {
        match self.tracking_of(id) {
            None => -1,
            Some(tracking) => tracking.redirect.map_or(0, |(_, number)| number as i64),
        }
    }

    fn tracking_of(&self, id: SessionId) -> Option<&Tracking> {
        self.sessions.get(id)?.feed.as_ref()?.tracking.as_ref()
    }

    fn track_client(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        if self.holding {
            return Admit::Wait(Wait::Gate);
        }
        if session.feed.is_none() && request.is(2, "OFF") {
            self.say(id, b"+OK\r\n");
            return Admit::Taken;
        }
        let mut tracking = Tracking::parse(request);
        let mut target = None;
        if let Some(at) = (3..request.len()).find(|at| request.is(*at, "REDIRECT")) {
            let number = parse_integer(request.arg(at + 1)).unwrap_or(0);
            let found = self.sessions.iter().find(|session| session.id.number() as i64 == number).map(|session| session.id);
            let Some(found) = found else {
                return self.refuse_request(id, b"-ERR The client ID you want redirect to does not exist\r\n");
            };
            tracking.redirect = Some((found, found.number()));
            let lane = match self.acquire_feed(found, id) {
                Ok(lane) => lane,
                Err(admit) => return admit,
            };
            if let Some(feed) = self.feed_mut(found) {
                feed.targeted = true;
            }
            target = self.lane(lane).and_then(|lane| lane.info.as_ref()).map(|info| info.client_id);
        }
        let lane = match self.acquire_feed(id, id) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        let mut frame = Vec::new();
        if request.is(2, "ON") {
            tracking.push_command(&mut frame, target);
        } else {
            frame.extend_from_slice(request.frame);
        }
        self.renew_next(id);
        self.push_feed(lane, &frame, What::Tracking(id), 1);
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
            if let Some(feed) = &mut session.feed {
                feed.asked = request.is(2, "ON").then(|| Box::new(tracking));
            }
        }
        self.count_sent(id, false);
        Admit::Taken
    }

    /// The server answered CLIENT TRACKING.
    pub(super) fn answer_client_tracking(&mut self, id: SessionId, lane: LaneId, reply: Reply<'_>) {
        let Some(feed) = self.feed_mut(id).filter(|feed| feed.lane == lane) else { return };
        let asked = feed.asked.take();
        if !reply.is_error() {
            let merged = match (asked, feed.tracking.take()) {
                (Some(mut asked), Some(before)) => {
                    asked.add_prefixes(before);
                    Some(*asked)
                }
                (asked, _) => asked.map(|asked| *asked),
            };
            let no_loop = merged.as_ref().is_some_and(|tracking| tracking.no_loop);
            feed.tracking = merged;
            if no_loop {
                self.no_loop.insert(id)
            } else {
                self.no_loop.remove(&id)
            };
        }
        self.deliver(id, reply.0, false, None);
        self.end_empty_feed(id);
    }

    fn set_caching(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let yes = request.is(2, "YES");
        if !yes && !request.is(2, "NO") {
            return self.refuse_request(id, b"-ERR syntax error\r\n");
        }
        let Some(tracking) = self.feed_mut(id).and_then(|feed| feed.tracking.as_mut()) else {
            return self.refuse_request(
                id,
                b"-ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled\r\n",
            );
        };
        if yes && !tracking.opt_in {
            return self.refuse_request(id, b"-ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.\r\n");
        }
        if !yes && !tracking.opt_out {
            return self.refuse_request(id, b"-ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.\r\n");
        }
        tracking.caching = Some(yes);
        self.say(id, b"+OK\r\n");
        Admit::Taken
    }

    /// `CLIENT TRACKINGINFO` (networking.c clientCommand).
    fn tell_tracking(&mut self, id: SessionId) -> Admit {
        let resp3 = self.sessions.get(id).is_some_and(|session| session.resp == 3);
        let tracking = self.tracking_of(id).cloned();
        let mut flags: Vec<&str> = vec![if tracking.is_some() { "on" } else { "off" }];
        let tracking = tracking.unwrap_or_default();
        let words = [
            (tracking.broadcast, "bcast"),
            (tracking.opt_in, "optin"),
            (tracking.opt_in && tracking.caching == Some(true), "caching-yes"),
            (tracking.opt_out, "optout"),
            (tracking.opt_out && tracking.caching == Some(false), "caching-no"),
            (tracking.no_loop, "noloop"),
            (tracking.broken, "broken_redirect"),
        ];
        flags.extend(words.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word));
        let redirect = self.redirection(id);
        let mut out = Vec::new();
        push_header(&mut out, if resp3 { b'%' } else { b'*' }, if resp3 { 3 } else { 6 });
        push_bulk(&mut out, b"flags");
        push_header(&mut out, if resp3 { b'~' } else { b'*' }, flags.len() as i64);
        flags.iter().for_each(|flag| push_bulk(&mut out, flag.as_bytes()));
        push_bulk(&mut out, b"redirect");
        push_header(&mut out, b':', redirect);
        push_bulk(&mut out, b"prefixes");
        push_header(&mut out, b'*', tracking.prefixes.len() as i64);
        tracking.prefixes.iter().for_each(|prefix| push_bulk(&mut out, prefix));
        self.say(id, &out);
        Admit::Taken
    }

    /// Whether a session's command must travel on its feed, because the server is to remember what it reads. What may wait for a key waits
    /// with the other sessions that do.
    pub(super) fn reads_on_feed(&self, session: &Session, command: &Command, request: &Request<'_>) -> bool {
        command.class == Class::Read
            && !may_wait(command, request)
            && session.multi.is_none()
            && session.feed.as_ref().is_some_and(|feed| feed.tracking.as_ref().is_some_and(Tracking::remembers))
    }

    /// CLIENT CACHING counts for one command.
    pub(super) fn end_caching(&mut self, id: SessionId, command: &Command) {
        let session = self.sessions.get_mut(id).filter(|session| session.multi.is_none() && command.name != "CLIENT CACHING");
        if let Some(tracking) = session.and_then(|session| session.feed.as_mut()?.tracking.as_mut()) {
            tracking.caching = None;
        }
    }

    /// Sends a read on the session's feed.
    pub(super) fn send_tracked(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.has_window() {
            return Admit::Wait(Wait::Window);
        }
        if self.is_held() {
            return Admit::Wait(Wait::Gate);
        }
        let Some(feed) = &session.feed else { return Admit::Taken };
        let (lane, db) = (feed.lane, session.db);
        let caching = feed.tracking.as_ref().is_some_and(|tracking| tracking.opt_in);
        if !self.lane(lane).is_some_and(Lane::is_open) {
            return Admit::Wait(Wait::Gate);
        }
        if feed.db != db {
            // Confirmed before anything is read there (H6).
            if !session.is_drained() {
                return Admit::Wait(Wait::Drain);
            }
            return self.move_feed(id, lane, db);
        }
        if caching {
            self.push_feed(lane, b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n", What::Silent, 1);
        }
        self.push_feed(lane, request.frame, What::Client { session: id, command }, 1);
        if let Some(session) = self.sessions.get_mut(id) {
            session.on_feed = true;
        }
        self.count_sent(id, false);
        Admit::Taken
    }

    fn move_feed(&mut self, id: SessionId, lane: LaneId, db: crate::endpoint::Db) -> Admit {
        let moving = self.lane(lane).is_some_and(|lane| !lane.in_flight.is_empty());
        if !moving {
            let mut frame = Vec::new();
            push_request(&mut frame, &[b"SELECT", &crate::resp::encode::number(i64::from(db))]);
            self.push_feed(lane, &frame, What::FeedSelect(id, db), 1);
        }
        Admit::Wait(Wait::Gate)
    }

    /// The feed is in another database, or is not.
    pub(super) fn answer_feed_select(&mut self, id: SessionId, db: crate::endpoint::Db, reply: Reply<'_>) {
        if reply.is_error() {
            return self.close(id, "subscription_lost");
        }
        if let Some(feed) = self.feed_mut(id) {
            feed.db = db;
        }
        self.sessions.resume = true;
    }

    /// Before EXEC: what the block reads is read once on the feed, so that the server remembers it before the block runs on the lane.
    /// None when there is nothing to do, or it is done.
    pub(super) fn remember_block(&mut self, id: SessionId) -> Option<Admit> {
        let session = self.sessions.get(id)?;
        let feed = session.feed.as_ref().filter(|feed| feed.tracking.as_ref().is_some_and(Tracking::remembers))?;
        let multi = session.multi.as_deref().filter(|multi| !multi.failed && !multi.remembered)?;
        let (lane, drained) = (feed.lane, session.is_drained());
        let mut read: Vec<Vec<u8>> = Vec::new();
        multi.each(|command, request| {
            if command.class == Class::Read {
                read.extend(command.keys(request).map(|key| key.name.to_vec()));
            }
        });
        if read.is_empty() {
            return None;
        }
        if !drained {
            return Some(Admit::Wait(Wait::Drain));
        }
        if self.is_held() {
            return Some(Admit::Wait(Wait::Gate));
        }
        let asked = self.lane(lane).is_some_and(|lane| lane.in_flight.iter().any(|flight| matches!(flight.what, What::Remember(_))));
        if !asked {
            let mut words: Vec<&[u8]> = vec![b"EXISTS"];
            words.extend(read.iter().map(Vec::as_slice));
            let mut frame = Vec::new();
            push_request(&mut frame, &words);
            self.push_feed(lane, &frame, What::Remember(id), 1);
        }
        Some(Admit::Wait(Wait::Gate))
    }

    /// The server remembers what the session's transaction will read.
    pub(super) fn end_remembering(&mut self, id: SessionId) {
        if let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) {
            multi.remembered = true;
        }
        self.sessions.resume = true;
    }

    /// Keys that a tracking session read where the server does not remember it: they are invalid at once.
    pub(super) fn disown_reads(&mut self, id: SessionId, keys: &[Vec<u8>]) {
        let tracking = self.tracking_of(id).filter(|tracking| !tracking.broadcast);
        let Some(told) = tracking.map(|tracking| tracking.redirect().unwrap_or(id)).filter(|_| !keys.is_empty()) else { return };
        let mut out = Vec::new();
        push_header(&mut out, b'>', 2);
        push_bulk(&mut out, b"invalidate");
        push_header(&mut out, b'*', keys.len() as i64);
        keys.iter().for_each(|key| push_bulk(&mut out, key));
        self.tell_invalid(told, Reply(&out));
    }

    /// A session is about to write these keys on the lane. Under NOLOOP the server's word on them is an echo, until another session
    /// writes them.
    pub(super) fn note_own_write(&mut self, id: SessionId, command: &Command, request: &Request<'_>) {
        if self.no_loop.is_empty() || !command.writes() {
            return;
        }
        let listeners: Vec<SessionId> = self.no_loop.iter().copied().collect();
        for listener in listeners {
            let Some(tracking) = self.feed_mut(listener).and_then(|feed| feed.tracking.as_mut()) else { continue };
            for key in command.keys(request).filter(|key| key.used.writes()) {
                if listener != id {
                    tracking.written.remove(key.name);
                } else if tracking.written.len() < limits::OWN_WRITES_MAX {
                    tracking.written.insert(key.name.to_vec());
                }
            }
        }
    }

    /// A read on a session's feed was answered.
    pub(super) fn end_own_writes(&mut self, id: SessionId) {
        if let Some(tracking) = self.feed_mut(id).and_then(|feed| feed.tracking.as_mut()).filter(|tracking| !tracking.broadcast) {
            tracking.written.clear();
        }
    }

    /// Whether the session caches what it reads.
    pub(super) fn is_tracking(&self, id: SessionId) -> bool {
        self.tracking_of(id).is_some()
    }

    /// The server says what is invalid, on the feed of the session that is to be told.
    pub(super) fn take_invalidation(&mut self, owner: SessionId, reply: Reply<'_>) {
        let keys = reply.elements().nth(1);
        let mut hidden: Vec<bool> = Vec::new();
        if let Some(keys) = keys.filter(|keys| keys.is_aggregate()) {
            let meant = |id: &&SessionId| **id == owner || self.tracking_of(**id).and_then(Tracking::redirect) == Some(owner);
            let source = self.no_loop.iter().find(meant).copied();
            let mut own = source.and_then(|id| self.feed_mut(id)).and_then(|feed| feed.tracking.as_mut());
            for key in keys.elements() {
                let echo = own.as_mut().is_some_and(|tracking| tracking.is_echo(key.text()));
                hidden.push(echo || key.text().starts_with(super::RESERVED_PREFIX));
            }
        }
        match keys {
            Some(keys) if hidden.contains(&true) => {
                let shown: Vec<Reply<'_>> = keys.elements().zip(hidden).filter(|(_, hidden)| !hidden).map(|(key, _)| key).collect();
                if shown.is_empty() {
                    return;
                }
                let mut out = Vec::new();
                push_header(&mut out, b'>', 2);
                push_bulk(&mut out, b"invalidate");
                push_header(&mut out, b'*', shown.len() as i64);
                shown.iter().for_each(|key| out.extend_from_slice(key.0));
                self.tell_invalid(owner, Reply(&out));
            }
            _ => self.tell_invalid(owner, reply),
        }
    }

    /// In RESP2 it is a message on a channel, for those who listen there.
    fn tell_invalid(&mut self, id: SessionId, reply: Reply<'_>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.resp == 3 {
            // Behind the reply to what it has sent on the lane, which may be what made the key invalid.
            // A session that waits for a key has the reply to everything else, and this one if an attempt is under way.
            let waits = session.wait == Some(Wait::Parked) && session.sent - session.answered == 1;
            let (on_feed, db) = (session.on_feed, session.db);
            let waits = waits && !self.is_attempting(id, db);
            let Some(session) = self.sessions.get_mut(id) else { return };
            if on_feed || waits {
                session.push(reply.0)
            } else {
                session.push_behind(reply.0)
            }
            return self.bound_unasked(id);
        }
        let listens = session.feed.as_ref().is_some_and(|feed| feed.hears(CHANNEL));
        let Some(keys) = reply.elements().nth(1).filter(|_| listens) else { return };
        let mut out = Vec::new();
        push_header(&mut out, b'*', 3);
        push_bulk(&mut out, b"message");
        push_bulk(&mut out, CHANNEL);
        out.extend_from_slice(if keys.is_null() { b"$-1\r\n" } else { keys.0 });
        session.push(&out);
        self.bound_unasked(id);
    }

    /// The session that was told in this one's place is gone.
    pub(super) fn take_broken_redirect(&mut self, id: SessionId) {
        let Some(tracking) = self.feed_mut(id).and_then(|feed| feed.tracking.as_mut()) else { return };
        tracking.broken = true;
        let number = tracking.redirect.map_or(0, |(_, number)| number);
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.resp == 3) else { return };
        session.push(format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{number}\r\n").as_bytes());
        // A server says it again with every key that becomes invalid (tracking.c sendTrackingMessage).
        self.bound_unasked(id);
    }

    /// Another server is the primary: it remembers nothing of what was read, so everything is invalid (H41).
    pub(super) fn turn_tracking(&mut self) {
        let tracking: Vec<(SessionId, Option<SessionId>)> =
            self.feeds.iter().filter_map(|id| Some((*id, self.tracking_of(*id)?.redirect()))).collect();
        for (id, redirect) in tracking {
            if let Some(target) = redirect {
                // Where the target's connection is known only now.
                let lane = self.sessions.get(target).and_then(|session| session.feed.as_ref()).map(|feed| feed.lane);
                let client = lane.and_then(|lane| self.lane(lane)).and_then(|lane| lane.info.as_ref()).map(|info| info.client_id);
                let mut frame = Vec::new();
                let Some((own, tracking)) = self
                    .sessions
                    .get(id)
                    .and_then(|session| session.feed.as_ref())
                    .and_then(|feed| Some((feed.lane, feed.tracking.as_ref()?)))
                else {
                    continue;
                };
                tracking.push_command(&mut frame, client);
                self.push_feed(own, &frame, What::Silent, 1);
            }
            if let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) {
                multi.remembered = false;
            }
            self.tell_invalid(redirect.unwrap_or(id), Reply(b">2\r\n$10\r\ninvalidate\r\n_\r\n"));
        }
    }

    pub(super) fn feed_mut(&mut self, id: SessionId) -> Option<&mut Feed> {
        self.sessions.get_mut(id)?.feed.as_deref_mut()
    }
}
