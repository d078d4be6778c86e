//! Feeds: what a server sends without being asked, to one session. SUBSCRIBE and its family, MONITOR, and CLIENT TRACKING
//! (`track.rs`).
//!
//! Every subscribed session has a connection of its own to the primary, so PUBLISH counts what a plain server counts (H30). The
//! hard case is the flip. The other side is subscribed before the hold. Once everything in flight is answered on both sides, every
//! connection is asked for a PONG: it marks one position in both streams. What the old one brings before its mark is delivered, what
//! it brings behind it waits for the end of the flip: it is delivered if the flip is undone, and dropped if it is done (it was
//! published beside the proxy); what the new one brings before its mark was delivered by the old one, and what it brings behind it is
//! delivered after the flip. So no message that was published through the proxy is lost or doubled.

use super::lane::{Lane, LaneId, LaneState, What};
use super::own::Use;
use super::session::{Admit, Session, SessionId, Wait};
use super::track::Tracking;
use super::{RESERVED_PREFIX, Sequencer};
use crate::command::Command;
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::{push_bulk, push_header, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::collections::BTreeSet;

/// What a session is subscribed to, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

    fn of(name: &str) -> Kind {
        match name.as_bytes()[0] {
            b'P' => Kind::Pattern,
            b'S' if name.starts_with("SS") || name.starts_with("SU") && name != "SUBSCRIBE" => Kind::Shard,
            _ => Kind::Channel,
        }
    }

    fn subscribe(self) -> &'static [u8] {
        match self {
            Kind::Channel => b"SUBSCRIBE",
            Kind::Pattern => b"PSUBSCRIBE",
            Kind::Shard => b"SSUBSCRIBE",
        }
    }
}

/// Names that a command adds to a session's subscriptions, or takes away.
#[derive(Debug)]
struct Change {
    kind: Kind,
    ends: bool,
    names: Vec<Box<[u8]>>,
}

/// The connection to the other side, while a flip is under way.
#[derive(Debug)]
struct Next {
    lane: LaneId,
    /// It was subscribed to everything.
    subscribed: bool,
    /// Its mark has come.
    marked: bool,
    /// Messages behind the mark, for after the flip.
    behind: Vec<u8>,
}

/// A session's feed.
#[derive(Debug)]
pub(super) struct Feed {
    pub lane: LaneId,
    /// The database that the connection is in.
    pub db: Db,
    names: [BTreeSet<Box<[u8]>>; 3],
    monitor: bool,
    /// What the unanswered command changes, in case it is refused.
    changing: Option<Change>,
    /// What the server tracks for the session on this connection.
    pub tracking: Option<Tracking>,
    /// What it was asked to.
    pub asked: Option<Box<Tracking>>,
    /// Another session has its invalidations sent here.
    pub targeted: bool,
    next: Option<Next>,
    /// The old stream's mark has come.
    marked: bool,
    /// Messages behind it: delivered if the flip is undone.
    behind: Vec<u8>,
}

impl Feed {
    fn new(lane: LaneId) -> Feed {
        Feed {
            lane,
            db: lane.db,
            names: [const { BTreeSet::new() }; 3],
            monitor: false,
            changing: None,
            tracking: None,
            asked: None,
            targeted: false,
            next: None,
            marked: false,
            behind: Vec::new(),
        }
    }

    /// Channels, patterns and shard channels it is subscribed to.
    pub fn counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|kind| self.names[kind].len())
    }

    /// Whether it is subscribed to this channel.
    pub fn hears(&self, channel: &[u8]) -> bool {
        self.names[Kind::Channel as usize].contains(channel)
    }

    fn is_needed(&self) -> bool {
        self.len() > 0 || self.monitor || self.tracking.is_some() || self.targeted
    }

    fn len(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }

    fn waiting_bytes(&self) -> usize {
        self.behind.len() + self.next.as_ref().map_or(0, |next| next.behind.len())
    }
}

impl Session {
    /// A RESP2 connection that is subscribed may only change its subscriptions.
    pub fn is_subscriber(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.len() > 0)
    }
}

impl Sequencer {
    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE and their opposites.
    pub(super) fn subscribe(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        if self.holding {
            return Admit::Wait(Wait::Gate);
        }
        let kind = Kind::of(command.name);
        let ends = command.name.contains("UNSUB");
        let mut names: Vec<Box<[u8]>> = request.args_from(1).map(Box::from).collect();
        if ends && names.is_empty() {
            names = session.feed.as_ref().map_or_else(Vec::new, |feed| feed.names[kind as usize].iter().cloned().collect());
        }
        if ends && (names.is_empty() || session.feed.is_none()) {
            self.confirm_nothing(id, command, &names);
            return Admit::Taken;
        }
        let known = session.feed.as_ref().map_or(0, |feed| feed.len());
        if !ends && known + names.len() > limits::SUBSCRIPTIONS_MAX {
            return self.refuse_request(id, b"-ERR twinlane: one client may have at most 65536 subscriptions\r\n");
        }
        let lane = match self.acquire_feed(id, id) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        let mut words: Vec<&[u8]> = vec![command.name.as_bytes()];
        words.extend(names.iter().map(|name| &**name));
        let mut frame = Vec::with_capacity(request.frame.len());
        push_request(&mut frame, &words);
        self.push_feed(lane, &frame, What::Subscription(id), names.len() as u32);
        let next = self.sessions.get(id).and_then(|session| session.feed.as_ref()?.next.as_ref()).filter(|next| next.subscribed);
        if let Some(lane) = next.map(|next| next.lane) {
            self.push_feed(lane, &frame, What::Subscription(id), names.len() as u32);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
            if let Some(feed) = &mut session.feed {
                let known = &mut feed.names[kind as usize];
                names.retain(|name| if ends { known.remove(name) } else { known.insert(name.clone()) });
                feed.changing = Some(Change { kind, ends, names });
            }
        }
        self.count_sent(id, false);
        Admit::Taken
    }

    /// MONITOR: the primary's own stream, with what the proxy adds to it.
    pub(super) fn monitor(&mut self, id: SessionId) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        if self.holding {
            return Admit::Wait(Wait::Gate);
        }
        if session.feed.as_ref().is_some_and(|feed| feed.monitor) {
            self.say(id, b"+OK\r\n");
            return Admit::Taken;
        }
        let lane = match self.acquire_feed(id, id) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        self.renew_next(id);
        self.push_feed(lane, MONITOR, What::Ask(id), 1);
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
            if let Some(feed) = &mut session.feed {
                feed.monitor = true;
            }
        }
        self.count_sent(id, false);
        Admit::Taken
    }

    /// A session's connection for what it is sent unasked, open; or why the session that asks for it, which may be another one, must wait.
    pub(super) fn acquire_feed(&mut self, id: SessionId, asker: SessionId) -> Result<LaneId, Admit> {
        let Some(session) = self.sessions.get_mut(id) else { return Err(Admit::Taken) };
        if let Some(error) = session.own_failed.take() {
            return Err(self.refuse_request(asker, error.as_bytes()));
        }
        if let Some(lane) = session.feed.as_ref().map(|feed| feed.lane) {
            return match self.lane(lane).map(|lane| lane.state) {
                Some(LaneState::Open) => Ok(lane),
                _ => Err(Admit::Wait(Wait::Gate)),
            };
        }
        let db = session.db;
        let primary = self.primary();
        if !self.sides[primary.index()].is_up() {
            return Err(self.wait_for_lane(asker, LaneId::shared(primary, db)));
        }
        if self.feeds.len() >= limits::FEEDS_MAX {
            let error = format!("-ERR twinlane: all {} connections for subscribers are in use\r\n", limits::FEEDS_MAX);
            return Err(self.refuse_request(asker, error.as_bytes()));
        }
        let lane = self.open_own(Some(id), primary, 0, Use::Feed);
        self.feeds.insert(id);
        if let Some(session) = self.sessions.get_mut(id) {
            session.feed = Some(Box::new(Feed::new(lane)));
        }
        Err(Admit::Wait(Wait::Gate))
    }

    pub(super) fn push_feed(&mut self, id: LaneId, frame: &[u8], what: What, replies: u32) {
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[frame], what, replies, now);
        }
        self.touch_lane(id);
    }

    /// UNSUBSCRIBE from what is not subscribed, without a connection to ask.
    fn confirm_nothing(&mut self, id: SessionId, command: &Command, names: &[Box<[u8]>]) {
        let Some(session) = self.sessions.get(id) else { return };
        let (resp3, counts) = (session.resp == 3, session.feed.as_ref().map_or([0; 3], |feed| feed.counts()));
        let count = if Kind::of(command.name) == Kind::Shard { counts[2] } else { counts[0] + counts[1] };
        let mut out = Vec::new();
        let mut confirm = |name: Option<&[u8]>| {
            push_header(&mut out, if resp3 { b'>' } else { b'*' }, 3);
            push_bulk(&mut out, command.name.to_ascii_lowercase().as_bytes());
            match name {
                Some(name) => push_bulk(&mut out, name),
                None => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
            }
            push_header(&mut out, b':', count as i64);
        };
        names.iter().for_each(|name| confirm(Some(name)));
        if names.is_empty() {
            confirm(None);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.push(&out);
        }
        self.touch(id);
    }

    /// Something came on a feed that answers no command: true when it was taken here. What is left is the reply to what stands first.
    pub(super) fn take_feed(&mut self, lane: LaneId, reply: Reply<'_>) -> bool {
        let resp = self.sides[lane.side.index()].resp;
        let Some(own) = self.own_mut(lane).filter(|own| own.used == Use::Feed) else { return false };
        let Some(owner) = own.owner else { return true };
        // In RESP2 messages are arrays, and nothing is read on such a connection.
        let pushed = reply.0[0] == b'>' || (reply.0[0] == b'*' && resp == 2);
        let kind = if pushed { reply.elements().next().map_or(&b""[..], |kind| kind.text()) } else { b"" };
        match kind {
            b"message" | b"pmessage" | b"smessage" => self.take_message(owner, lane, reply),
            b"subscribe" | b"unsubscribe" | b"psubscribe" | b"punsubscribe" | b"ssubscribe" | b"sunsubscribe" => {
                self.take_confirmation(owner, lane, reply);
            }
            b"invalidate" => {
                if self.sessions.get(owner).and_then(|session| session.feed.as_ref()).is_some_and(|feed| feed.lane == lane) {
                    self.take_invalidation(owner, reply);
                }
            }
            b"tracking-redir-broken" => self.take_broken_redirect(owner),
            b"pong" => return false,
            _ if pushed => {}
            // MONITOR's lines look like replies, of which none begins with a time.
            _ if reply.0.first() == Some(&b'+') && reply.0.get(1).is_some_and(u8::is_ascii_digit) => self.take_line(owner, lane, reply),
            _ => return false,
        }
        true
    }

    fn take_message(&mut self, owner: SessionId, lane: LaneId, reply: Reply<'_>) {
        let parts: Vec<Reply<'_>> = reply.elements().collect();
        let [.., channel, payload] = parts[..] else { return };
        // Our own keys and channels are nobody's business (H31).
        let text = channel.text();
        let event = text.starts_with(b"__keyevent@") && payload.text().starts_with(RESERVED_PREFIX);
        let space = text.starts_with(b"__keyspace@") && text.windows(RESERVED_PREFIX.len()).any(|part| part == RESERVED_PREFIX);
        if text.starts_with(RESERVED_PREFIX) || event || space {
            return;
        }
        self.pass_on(owner, lane, reply);
    }

    fn take_line(&mut self, owner: SessionId, lane: LaneId, reply: Reply<'_>) {
        let shown = !reply.0.windows(RESERVED_PREFIX.len()).any(|part| part == RESERVED_PREFIX);
        if shown {
            self.pass_on(owner, lane, reply);
        }
    }

    /// To the client, or to where it waits for the end of a flip.
    fn pass_on(&mut self, owner: SessionId, lane: LaneId, reply: Reply<'_>) {
        let Some(session) = self.sessions.get_mut(owner) else { return };
        let resp = session.resp;
        let Some(feed) = &mut session.feed else { return };
        match &mut feed.next {
            Some(next) if next.lane == lane => {
                if next.marked {
                    push_message(&mut next.behind, reply, resp);
                }
            }
            _ if feed.lane != lane => {}
            _ if feed.marked => push_message(&mut feed.behind, reply, resp),
            _ => {
                let mut out = Vec::with_capacity(reply.0.len());
                push_message(&mut out, reply, resp);
                session.push(&out);
            }
        }
        self.bound_unasked(owner);
    }

    /// A session was sent something unasked: past the bound it is closed, as a server does it.
    pub(super) fn bound_unasked(&mut self, id: SessionId) {
        let bound = self.settings.subscriber_output_max;
        let Some(session) = self.sessions.get(id) else { return };
        let waiting = session.feed.as_ref().map_or(0, |feed| feed.waiting_bytes());
        let over = session.unread_bytes() + session.deferred_bytes + waiting > bound;
        self.touch(id);
        if over {
            self.drop_output(id);
            self.close(id, "subscriber_output_bound");
        }
    }

    /// The server confirmed one name of a command that changes subscriptions.
    fn take_confirmation(&mut self, owner: SessionId, lane: LaneId, reply: Reply<'_>) {
        let current = self.sessions.get(owner).and_then(|session| session.feed.as_ref()).is_some_and(|feed| feed.lane == lane);
        let Some(own) = self.own_mut(lane) else { return };
        let Some(front) = own.lane.in_flight.front_mut().filter(|front| matches!(front.what, What::Subscription(_))) else { return };
        front.replies -= 1;
        let (last, len) = (front.replies == 0, front.len);
        if last {
            own.lane.in_flight.pop_front();
            own.lane.answered += 1;
            own.lane.tape.release(len);
        }
        if !current {
            return;
        }
        let resp = self.sessions.get(owner).map_or(2, |session| session.resp);
        let mut out = Vec::with_capacity(reply.0.len());
        push_message(&mut out, reply, resp);
        if let Some(session) = self.sessions.get_mut(owner) {
            session.push(&out);
            self.touch(owner);
        }
        if last {
            if let Some(feed) = self.feed_mut(owner) {
                feed.changing = None;
            }
            self.deliver(owner, b"", false, None);
            self.end_empty_feed(owner);
        }
    }

    /// A command that changes subscriptions was refused as a whole (NOPERM): nothing has changed.
    pub(super) fn refuse_subscription(&mut self, owner: SessionId, lane: LaneId, reply: &[u8]) {
        let Some(feed) = self.feed_mut(owner) else { return };
        if feed.lane != lane {
            return self.refuse_next(lane, reply);
        }
        if let Some(Change { kind, ends, names }) = feed.changing.take() {
            let known = &mut feed.names[kind as usize];
            for name in names {
                if ends {
                    known.insert(name)
                } else {
                    known.remove(&name)
                };
            }
        }
        self.renew_next(owner);
        self.deliver(owner, reply, false, None);
        self.end_empty_feed(owner);
    }

    /// The other side refuses what the primary allows: a flip would take it from the session.
    fn refuse_next(&mut self, lane: LaneId, reply: &[u8]) {
        let error = String::from_utf8_lossy(reply).trim_end().to_owned();
        self.abandon_flip(format!("`{}` refuses what a client of the primary is subscribed to: {error}", lane.side));
    }

    /// MONITOR was answered.
    pub(super) fn end_refused_monitor(&mut self, id: SessionId, lane: LaneId, reply: Reply<'_>) {
        let Some(feed) = self.feed_mut(id).filter(|feed| feed.lane == lane && reply.is_error()) else { return };
        feed.monitor = false;
        self.end_empty_feed(id);
    }

    /// What a session is sent unasked has changed: its connection to the other side, if a flip has prepared one, is opened anew.
    pub(super) fn renew_next(&mut self, id: SessionId) {
        if let Some(next) = self.feed_mut(id).and_then(|feed| feed.next.take()) {
            self.close_own(next.lane);
        }
    }

    /// Without subscriptions the session needs no connection for them.
    pub(super) fn end_empty_feed(&mut self, id: SessionId) {
        let empty = |session: &Session| session.feed.as_ref().is_some_and(|feed| !feed.is_needed() && feed.asked.is_none());
        if self.sessions.get(id).is_some_and(empty) {
            self.end_feed(id);
        }
    }

    /// Ends a session's feed, if it has one.
    pub(super) fn end_feed(&mut self, id: SessionId) {
        let Some(feed) = self.sessions.get_mut(id).and_then(|session| session.feed.take()) else { return };
        self.feeds.remove(&id);
        self.no_loop.remove(&id);
        self.close_own(feed.lane);
        if let Some(next) = feed.next {
            self.close_own(next.lane);
        }
    }

    /// A session is told that it is over only when the server has ended its feed too: what anybody sends behind that finds it gone. A
    /// PUBLISH does not count it, and whose invalidations were redirected here is told so. Behind its own requests, which may be told of
    /// there. None when there is nothing to wait for.
    pub(super) fn leave_feed(&mut self, id: SessionId) -> Option<Admit> {
        let session = self.sessions.get(id)?;
        let lane = session.feed.as_ref()?.lane;
        let open = self.lane(lane).filter(|lane| lane.is_open())?;
        let asked = open.in_flight.iter().any(|flight| matches!(flight.what, What::Leave(_)));
        if !asked && !session.is_drained() {
            return Some(Admit::Wait(Wait::Drain));
        }
        if !asked && !self.holding {
            self.push_feed(lane, b"*1\r\n$4\r\nQUIT\r\n", What::Leave(id), 1);
        }
        Some(Admit::Wait(Wait::Gate))
    }

    /// The server has ended the session's feed.
    pub(super) fn end_leaving(&mut self, id: SessionId) {
        self.end_feed(id);
        self.sessions.resume = true;
    }

    /// A connection of a feed is gone.
    pub(super) fn lose_feed(&mut self, owner: SessionId, lane: LaneId) {
        let Some(session) = self.sessions.get_mut(owner) else { return };
        let Some(feed) = &mut session.feed else { return };
        if feed.next.as_ref().is_some_and(|next| next.lane == lane) {
            feed.next = None;
        } else if feed.lane == lane {
            if !feed.is_needed() {
                // It was being opened: the session is told, and may try again.
                return self.end_feed(owner);
            }
            // Messages may have been missed: it is told as a server tells it.
            self.close(owner, "subscription_lost");
        }
    }

    /// Before a flip holds anybody, every feed has a connection to the other side that is subscribed to the same. True when all have.
    pub(super) fn prepare_feeds(&mut self) -> bool {
        let to = self.mirror_side();
        let mut ready = true;
        let mut opening = 0;
        let ids: Vec<SessionId> = self.feeds.iter().copied().collect();
        for id in ids {
            let Some(feed) = self.sessions.get(id).and_then(|session| session.feed.as_ref()) else { continue };
            match &feed.next {
                None if opening < limits::FEEDS_OPENING_MAX => {
                    opening += 1;
                    ready = false;
                    let lane = self.open_own(Some(id), to, 0, Use::Feed);
                    if let Some(feed) = self.sessions.get_mut(id).and_then(|session| session.feed.as_mut()) {
                        feed.next = Some(Next { lane, subscribed: false, marked: false, behind: Vec::new() });
                    }
                }
                None => ready = false,
                Some(next) if !next.subscribed => {
                    ready = false;
                    let lane = next.lane;
                    if self.lane(lane).is_some_and(Lane::is_open) {
                        self.subscribe_next(id, lane);
                    } else {
                        opening += 1;
                    }
                }
                Some(next) => {
                    let settled = |lane: &Lane| lane.in_flight.iter().all(|flight| matches!(flight.what, What::Client { .. }));
                    let idle = |lane: LaneId| self.lane(lane).is_some_and(settled);
                    ready &= idle(next.lane) && idle(feed.lane);
                }
            }
        }
        ready
    }

    fn subscribe_next(&mut self, id: SessionId, lane: LaneId) {
        let Some(feed) = self.sessions.get_mut(id).and_then(|session| session.feed.as_mut()) else { return };
        if let Some(next) = &mut feed.next {
            next.subscribed = true;
        }
        let (monitor, names) = (feed.monitor, feed.names.clone());
        let tracking = feed.tracking.clone().filter(|tracking| tracking.redirect().is_none());
        if let Some(tracking) = tracking {
            let mut frame = Vec::new();
            tracking.push_command(&mut frame, None);
            self.push_feed(lane, &frame, What::Silent, 1);
        }
        if monitor {
            self.push_feed(lane, MONITOR, What::Silent, 1);
        }
        for kind in Kind::ALL {
            let names = &names[kind as usize];
            if names.is_empty() {
                continue;
            }
            let mut words = vec![kind.subscribe()];
            words.extend(names.iter().map(|name| &**name));
            let mut frame = Vec::new();
            push_request(&mut frame, &words);
            self.push_feed(lane, &frame, What::Subscription(id), names.len() as u32);
        }
    }

    /// Everything in flight is answered on both sides: marks one position in both streams of every feed.
    pub(super) fn mark_feeds(&mut self) {
        let ids: Vec<SessionId> = self.feeds.iter().copied().collect();
        for id in ids {
            let Some(feed) = self.sessions.get(id).and_then(|session| session.feed.as_ref()) else { continue };
            for lane in [Some(feed.lane), feed.next.as_ref().map(|next| next.lane)].into_iter().flatten() {
                self.push_feed(lane, b"*1\r\n$4\r\nPING\r\n", What::Position(id), 1);
            }
        }
    }

    /// A mark came.
    pub(super) fn pass_mark(&mut self, id: SessionId, lane: LaneId) {
        let Some(feed) = self.sessions.get_mut(id).and_then(|session| session.feed.as_mut()) else { return };
        match &mut feed.next {
            Some(next) if next.lane == lane => next.marked = true,
            Some(_) if feed.lane == lane => feed.marked = true,
            // A mark of a flip that was undone.
            _ => {}
        }
    }

    /// Whether every mark has come.
    pub(super) fn feeds_are_marked(&self) -> bool {
        let marked = |feed: &Feed| feed.marked && feed.next.as_ref().is_some_and(|next| next.marked);
        self.feeds.iter().all(|id| self.sessions.get(*id).and_then(|session| session.feed.as_deref()).is_none_or(marked))
    }

    /// The flip is done: the other stream is the stream now. Or undone: everything is as it was.
    pub(super) fn turn_feeds(&mut self, done: bool) {
        let ids: Vec<SessionId> = self.feeds.iter().copied().collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let Some(feed) = &mut session.feed else { continue };
            let (next, behind) = (feed.next.take(), std::mem::take(&mut feed.behind));
            feed.marked = false;
            match next {
                Some(next) if done => {
                    let left = std::mem::replace(&mut feed.lane, next.lane);
                    feed.db = next.lane.db;
                    session.push(&next.behind);
                    self.close_own(left);
                }
                // Its connection to the new primary was lost meanwhile: messages may be missed.
                None if done => self.close(id, "subscription_lost"),
                next => {
                    session.push(&behind);
                    if let Some(next) = next {
                        self.close_own(next.lane);
                    }
                }
            }
            self.touch(id);
        }
        if done {
            self.turn_tracking();
        }
    }
}

const MONITOR: &[u8] = b"*1\r\n$7\r\nMONITOR\r\n";

/// A push in the client's protocol: RESP2 has arrays in its place, and another null.
fn push_message(out: &mut Vec<u8>, reply: Reply<'_>, resp: u8) {
    if resp == 3 || reply.0[0] != b'>' {
        return out.extend_from_slice(reply.0);
    }
    push_header(out, b'*', reply.len() as i64);
    for part in reply.elements() {
        out.extend_from_slice(if part.is_null() { b"$-1\r\n" } else { part.0 });
    }
}
