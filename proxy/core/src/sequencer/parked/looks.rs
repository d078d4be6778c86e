//! Writers that bypass the proxy: keys that somebody waits for are looked at in turn, by a read, one look per key and never one per
//! client (H57). The rate is bounded whatever waits: [`limits::LOOKS_PER_TICK`].

use super::serves::{Call, Ready};
use super::tables::Line;
use super::wish::Name;
use super::{Lane, LaneId, Reply, Sequencer, What, last_id};
use crate::endpoint::Db;
use crate::limits;
use crate::resp::encode::push_request;

/// What a look asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// LLEN.
    List,
    /// ZCARD.
    Zset,
    /// XINFO STREAM: its last id.
    Stream,
}

/// A look in flight.
#[derive(Debug)]
pub(in super::super) struct Look {
    db: Db,
    key: Name,
    subject: Subject,
}

impl Sequencer {
    pub(super) fn tick_looks(&mut self) {
        let now = self.now.us;
        if self.holding || !self.may_ask() {
            return;
        }
        for _ in 0..limits::LOOKS_PER_TICK {
            let Some((at, db, key)) = self.parked.looks.first().cloned().filter(|(at, ..)| *at <= now) else { return };
            self.parked.looks.remove(&(at, db, key.clone()));
            let Some(place) = self.parked.place_mut(db, &key) else { continue };
            place.look_at = now + place.look_every;
            let next = place.look_at;
            let subject = place.wanted().next().map(|line| match line {
                Line::List => Subject::List,
                Line::Zset => Subject::Zset,
                Line::Read | Line::Group(_) => Subject::Stream,
            });
            self.parked.looks.insert((next, db, key.clone()));
            if let Some(subject) = subject {
                self.look(db, key, subject);
            }
        }
    }

    fn look(&mut self, db: Db, key: Name, subject: Subject) {
        let id = LaneId::shared(self.primary(), db);
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id).filter(|lane| Lane::is_open(lane)) else { return };
        let mut frame = Vec::new();
        match subject {
            Subject::List => push_request(&mut frame, &[b"LLEN", &key]),
            Subject::Zset => push_request(&mut frame, &[b"ZCARD", &key]),
            Subject::Stream => push_request(&mut frame, &[b"XINFO", b"STREAM", &key]),
        }
        lane.push(&[&frame], What::Look(Box::new(Look { db, key, subject })), 1, now);
        self.touch_lane(id);
    }

    pub(in super::super) fn answer_look(&mut self, look: &Look, reply: Reply<'_>) {
        let keen = self.parked.keen_until > self.now.us;
        let Some(place) = self.parked.place_mut(look.db, &look.key) else { return };
        let last: Name = last_id(reply).unwrap_or(b"").into();
        let found = match look.subject {
            Subject::List | Subject::Zset => reply.integer().is_some_and(|length| length > 0),
            // A stream that is not there, or not one any more, counts as another one: a group's wait may end with it.
            Subject::Stream => place.seen.replace(last.clone()) != Some(last.clone()),
        };
        place.look_every = if found || keen { limits::LOOK_EVERY_US } else { (place.look_every * 2).min(limits::LOOK_EVERY_MAX_US) };
        if !found {
            return;
        }
        if look.subject != Subject::Stream {
            self.parked.keen_until = self.now.us + limits::LOOK_KEEN_US;
            return self.serve(Call::new(look.db, look.key.clone(), Ready::Any));
        }
        if self.may_retry(look.db, &look.key) {
            for session in self.parked.take_readers(look.db, &look.key, &last) {
                self.retry(session, look.db, &look.key, false);
            }
        }
        self.serve(Call::new(look.db, look.key.clone(), Ready::Groups));
    }
}
