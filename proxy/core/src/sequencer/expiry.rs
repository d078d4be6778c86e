//! Keys that die: what follows for the mirror, whose clock is its own and whose times to live carry a margin.
//!
//! The hard case is the boundary (H16): the primary's key died, a client's partial write (`HSET` of a new field, `SADD`...) made a new
//! one, and the mirror still has the old one: both answer alike. Two levels of knowledge:
//!
//! - *followed*: the primary sends keyspace events on a connection of their own, which the shell keeps (H3). Each event makes its
//!   key doubtful, so it gets an image at the present position. What was written meanwhile without a probe is remembered until the
//!   connection has answered behind it, so that nothing is missed when it is lost.
//! - *compared*: an effect that may create a key, and whose reply cannot tell what was there, is preceded by `PTTL` of its keys on
//!   the mirror. A key with so little time left that it may be dead on the primary is doubtful. The primary pays nothing, and
//!   nobody does where no key has a time to live.

use super::lane::{LaneId, What};
use super::{Action, Now, Sequencer};
use crate::command::{Command, KeyUse};
use crate::doubt::{Cause, WideCause};
use crate::effect::Effect;
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::push_request;
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use crate::status::{ExpiryStatus, Finding, Level};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the shell knows of the primary's keyspace events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// They are subscribed to, and come.
    Followed,
    /// They are not: why, and the command that would turn them on, where that is all that is missing.
    Off {
        /// For people.
        why: String,
        /// `CONFIG SET notify-keyspace-events ...`.
        command: Option<String>,
    },
}

impl Default for Events {
    fn default() -> Self {
        Events::Off { why: "the primary has not been asked yet".into(), command: None }
    }
}

/// A probe on the mirror in front of an effect.
#[derive(Debug)]
pub(super) struct Boundary {
    /// Keys asked for, in order; sources first.
    asked: Vec<Arc<[u8]>>,
    /// How many of them are sources.
    sources: usize,
    /// Keys that the effect writes.
    written: Vec<Arc<[u8]>>,
    position: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    events: Events,
    /// Of the primary's connection that the events belong to.
    generation: u64,
    /// Written while events were followed and no PING sent behind them has been answered: when, and what.
    unconfirmed: VecDeque<(u64, Db, Arc<[u8]>)>,
    overflow: bool,
    /// A PING was asked for behind the drain of a flip.
    pinged: bool,
    /// Longest time from the question for an image to its reading, and to its execution where the mirror is told how long keys live and not when
    /// they end, microseconds: a time to live set by it is that much longer than it should be.
    /// (An effect that takes longer than the margin makes its key doubtful, so it ends in an image too.)
    pub delay_max_us: u64,
    pub probes: u64,
    pub events_seen: u64,
}

impl Sequencer {
    /// What the shell learnt of the primary's events.
    pub fn handle_events(&mut self, side: Endpoint, generation: u64, events: Events, now: Now) {
        self.now = now;
        if side != self.primary() || self.sides[side.index()].generation != generation {
            return;
        }
        let followed = self.expiry.events == Events::Followed;
        if self.expiry.events != events {
            match &events {
                Events::Followed => self.log(false, "expiry is followed: the primary sends an event for each key that dies"),
                Events::Off { why, .. } => self.log(followed, format!("expiry is compared, not followed: {why}")),
            }
        }
        self.expiry.generation = generation;
        self.expiry.events = events;
        if followed && self.expiry.events != Events::Followed {
            // A gap: a verify that began before it proves nothing any more (H29).
            self.note_unobserved();
            let turned_off = matches!(self.expiry.events, Events::Off { command: Some(_), .. });
            self.unfollow_evictions(turned_off);
            self.doubt_unconfirmed();
        }
        self.settle();
    }

    /// A key died on the primary: it expired, was evicted, or lost a field that expired.
    pub fn handle_key_event(&mut self, side: Endpoint, generation: u64, db: Db, key: &[u8], now: Now) {
        self.now = now;
        if side != self.primary() || self.sides[side.index()].generation != generation || usize::from(db) >= limits::DATABASES_MAX {
            return;
        }
        self.expiry.events_seen += 1;
        self.report_key(db, key, true, Cause::Expired);
        self.settle();
    }

    /// The event connection answered a PING that was sent at `sent_us`: what died before has been told.
    pub fn handle_events_alive(&mut self, side: Endpoint, generation: u64, sent_us: u64, now: Now) {
        self.now = now;
        if side != self.primary() || self.sides[side.index()].generation != generation {
            return;
        }
        while self.expiry.unconfirmed.front().is_some_and(|(at, ..)| *at < sent_us) {
            self.expiry.unconfirmed.pop_front();
        }
        self.expiry.overflow &= !self.expiry.unconfirmed.is_empty();
        self.expiry.pinged = false;
        self.evictions_told(sent_us);
        self.settle();
    }

    pub(super) fn is_followed(&self) -> bool {
        self.expiry.events == Events::Followed && self.expiry.generation == self.sides[self.primary().index()].generation
    }

    /// Events were lost: what was written in trust of them is doubtful.
    fn doubt_unconfirmed(&mut self) {
        let keys = std::mem::take(&mut self.expiry.unconfirmed);
        self.expiry.pinged = false;
        if std::mem::take(&mut self.expiry.overflow) {
            return self.doubt_volatile("more was written than is remembered while events were lost");
        }
        let position = self.next_position();
        for (_, db, key) in keys {
            self.mark_dirty(db, &key, Cause::Expired, position);
        }
    }

    /// Every database that may hold keys with a time to live is in doubt as a whole.
    fn doubt_volatile(&mut self, why: &str) {
        if !self.record.mirroring {
            return;
        }
        let databases: Vec<Db> = (0..limits::DATABASES_MAX as Db).filter(|db| self.may_be_volatile(*db)).collect();
        if !databases.is_empty() {
            self.log(true, format!("{why}: databases with keys that have a time to live are copied anew"));
            self.unsync(&databases, WideCause::Expiry);
        }
    }

    /// The connection that events came by went with the side, or the roles moved.
    pub(super) fn forget_events(&mut self) {
        if self.is_followed() {
            self.unfollow_evictions(false);
            self.doubt_unconfirmed();
        }
        self.expiry.events = Events::default();
        self.expiry.unconfirmed.clear();
        self.expiry.overflow = false;
        self.expiry.pinged = false;
    }

    /// Whether a flip must still wait for events of what was written last; asks the shell to hurry.
    pub(super) fn events_owe(&mut self) -> bool {
        if !self.is_followed() || (self.expiry.unconfirmed.is_empty() && !self.evictions_owe()) {
            return false;
        }
        if !std::mem::replace(&mut self.expiry.pinged, true) {
            let side = self.primary();
            self.actions.push_back(Action::PingEvents { side, generation: self.sides[side.index()].generation });
        }
        true
    }

    /// Whether events have told of everything that was written in trust of them before this time, microseconds.
    pub(super) fn events_told(&self, before_us: u64) -> bool {
        !self.expiry.overflow && self.expiry.unconfirmed.front().is_none_or(|(at, ..)| *at > before_us)
    }

    /// An effect is about to be sent: the probe that it needs, or a note that events must tell.
    pub(super) fn boundary(&mut self, db: Db, command: &Command, request: &Request<'_>, effect: Effect, total: bool) -> Option<Boundary> {
        if total || !command.creates || self.settings.faults.no_boundary || !self.may_be_volatile(db) {
            return None;
        }
        if !matches!(effect, Effect::Replay(_) | Effect::Rewritten { .. }) {
            return None;
        }
        let name = |key: &[u8]| -> Arc<[u8]> { key.into() };
        let written: Vec<Arc<[u8]>> = command.keys(request).filter(|key| key.used.writes()).map(|key| name(key.name)).collect();
        if self.is_followed() {
            let now = self.now.us;
            for key in written {
                if self.expiry.unconfirmed.len() < limits::UNCONFIRMED_KEYS_MAX {
                    self.expiry.unconfirmed.push_back((now, db, key));
                } else {
                    self.expiry.overflow = true;
                }
            }
            return None;
        }
        let stores = command.keys(request).any(|key| key.used == KeyUse::Overwrite) && command.is_sourced(request);
        let mut asked: Vec<Arc<[u8]>> = if stores {
            command.keys(request).filter(|key| key.used != KeyUse::Overwrite).map(|key| name(key.name)).collect()
        } else {
            Vec::new()
        };
        let sources = asked.len();
        if !stores {
            asked.extend(written.iter().cloned());
        }
        Some(Boundary { asked, sources, written, position: 0 })
    }

    /// Appends a probe to the mirror's lane; the effect at `position` follows it.
    pub(super) fn push_boundary(&mut self, db: Db, mut boundary: Boundary, position: u64) {
        boundary.position = position;
        let now = self.now.us;
        let mut frame = Vec::new();
        let one = boundary.asked.len() == 1;
        let replies = if one { 1 } else { boundary.asked.len() as u32 + 2 };
        if !one {
            push_request(&mut frame, &[b"MULTI"]);
        }
        boundary.asked.iter().for_each(|key| push_request(&mut frame, &[b"PTTL", key]));
        if !one {
            push_request(&mut frame, &[b"EXEC"]);
        }
        self.expiry.probes += boundary.asked.len() as u64;
        if let Some(lane) = self.lane_mut(LaneId::shared(self.mirror_side(), db)) {
            lane.push(&[&frame], What::Boundary(Box::new(boundary)), replies, now);
        }
    }

    /// The mirror told how long the keys still live there. A key that may be dead on the primary was written anew by the effect
    /// behind this; what was stored from a key with a time to live may have been stored from a dead one.
    pub(super) fn answer_boundary(&mut self, id: LaneId, boundary: &Boundary, reply: Reply<'_>) {
        let margin = self.settings.expiry_margin_ms;
        // The mirror's time is longer by the margin and by what it came late; the primary's reply was on its way too.
        let close = 2 * margin + (self.expiry.delay_max_us / 1000) as i64;
        let mut doubtful = !(reply.is_aggregate() || reply.integer().is_some());
        let mut judge = |at: usize, reply: Reply<'_>| {
            let left = reply.integer().unwrap_or(0);
            doubtful |= left >= 0 && (at < boundary.sources || left <= close);
        };
        if reply.is_aggregate() {
            reply.elements().enumerate().for_each(|(at, left)| judge(at, left));
        } else {
            judge(0, reply);
        }
        if doubtful {
            let db = self.db_now(id.db);
            for key in &boundary.written {
                self.mark_dirty(db, key, Cause::Expired, boundary.position);
            }
            self.spread(id, boundary.written.iter().map(|key| key.to_vec()).collect());
        }
    }

    /// An image was confirmed: a time to live that it set began when the primary was read.
    pub(super) fn note_delay(&mut self, at: u64) {
        self.expiry.delay_max_us = self.expiry.delay_max_us.max(self.now.us.saturating_sub(at));
    }

    /// A clock was set: what it says of times to live is off by as much (H32).
    pub(super) fn note_clock(&mut self, endpoint: Endpoint, before: Option<i64>, now_ms: i64) {
        let Some(before) = before else { return };
        let jump = now_ms.saturating_sub(before);
        if jump.abs() > self.settings.expiry_margin_ms {
            self.doubt_volatile(&format!("the clock of `{endpoint}` jumped by {jump} ms"));
        }
    }

    pub(super) fn expiry_status(&self) -> ExpiryStatus {
        let (cause, command) = match &self.expiry.events {
            Events::Off { why, command } => (Some(why.clone()), command.clone()),
            Events::Followed => (None, None),
        };
        ExpiryStatus {
            mode: if self.is_followed() { "followed" } else { "compared" },
            cause,
            command,
            events: self.expiry.events_seen,
            probes: self.expiry.probes,
        }
    }

    pub(super) fn expiry_findings(&self, found: &mut Vec<Finding>) {
        let volatile = (0..limits::DATABASES_MAX as Db).any(|db| self.may_be_volatile(db));
        if let (Events::Off { why, command }, true) = (&self.expiry.events, volatile) {
            found.push(Finding {
                level: Level::Warn,
                code: "expiry-compared",
                subject: String::new(),
                text: format!("keys that die on the primary are noticed by comparison, not by events: {why}"),
                remedy: command.as_ref().map_or_else(
                    || "nothing needs to be done; docs/correctness.md says what this level guarantees".into(),
                    |command| format!("send `{command}` to the primary, or set `expiry.enable_events = true`"),
                ),
            });
        }
    }
}
