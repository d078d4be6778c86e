//! A flip hands watches over: EXEC behind it runs unless what it watches was written.
//!
//! Nil would be a legal answer to any of them, and programs take it for what it hardly ever is with them: RQ, for one, does not clean up behind it,
//! and runs the job once more. So while a flip holds everybody and nothing is in flight, the primary is asked on each watcher's
//! connection, by an empty transaction, whether what it watches has been written, and the same keys are watched on the other side, where
//! they are equal and nothing is on its way. Connections are opened there before anybody is held. What cannot be handed over is
//! answered nil, as behind any other end of a watch (H37).

use super::Sequencer;
use super::lane::{Lane, LaneId, What};
use super::own::{Own, Use};
use super::session::SessionId;
use crate::endpoint::{Db, Endpoint};
use crate::limits::{FEEDS_OPENING_MAX, HANDED_BYTES_MAX};
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;

/// A watch on its way to the other side.
#[derive(Debug)]
pub(super) struct Handover {
    /// Where the keys are watched from the flip on.
    lane: LaneId,
    /// By endpoint: nothing was written before the present primary was asked; the other side watches.
    confirmed: [bool; 2],
}

fn is_standby(own: &&Own) -> bool {
    own.used == Use::Command && own.owner.is_none() && !own.is_leaving()
}

impl Sequencer {
    /// Opens as many connections to the other side as sessions have here, database by database, each once. True when nothing more is to come of it.
    pub(super) fn prepare_watches(&mut self) -> bool {
        let (from, to) = (self.primary(), self.mirror_side());
        let Some(opened) = self.flip.as_ref().map(|flip| flip.standby) else { return true };
        let present = self.sides[from.index()].own.values().filter(|own| own.used == Use::Command && own.owner.is_some());
        let mut lacking: Vec<Db> = present.map(|own| own.id.db).collect();
        let wanted = lacking.len();
        let mut opening = 0;
        for own in self.sides[to.index()].own.values().filter(is_standby) {
            opening += usize::from(!own.lane.is_open());
            if let Some(at) = lacking.iter().position(|db| *db == own.id.db) {
                lacking.swap_remove(at);
            }
        }
        lacking.truncate(wanted.saturating_sub(opened).min(FEEDS_OPENING_MAX.saturating_sub(opening)));
        for db in &lacking {
            self.open_own(None, to, *db, Use::Command);
        }
        if let Some(flip) = &mut self.flip {
            flip.standby += lacking.len();
        }
        lacking.len() + opening == 0
    }

    /// Nothing is in flight and everybody is held: every watch is asked for here, and begun over there.
    pub(super) fn hand_watches_over(&mut self) {
        let to = self.mirror_side();
        let mut standby: Vec<LaneId> =
            self.sides[to.index()].own.values().filter(is_standby).filter(|own| own.lane.is_open()).map(|own| own.id).collect();
        let watchers: Vec<(SessionId, LaneId)> = self.sides[self.primary().index()]
            .own
            .values()
            .filter(|own| {
                own.used == Use::Command
                    && own.lane.is_open()
                    && own.lane.in_flight.iter().all(|flight| matches!(flight.what, What::Silent))
            })
            .filter_map(|own| Some((own.owner?, own.id)))
            .collect();
        let mut bytes = HANDED_BYTES_MAX;
        for (id, here) in watchers {
            let Some(watch) = self.sessions.get_mut(id).and_then(|session| session.watch.as_mut()) else { continue };
            let Some(left) = bytes.checked_sub(watch.bytes()).filter(|_| !watch.broken) else { continue };
            let Some(at) = standby.iter().position(|there| there.db == here.db) else { continue };
            let there = standby.swap_remove(at);
            bytes = left;
            watch.handover = Some(Handover { lane: there, confirmed: [false; 2] });
            let (mut ask, mut begin) = (Vec::new(), Vec::new());
            push_request(&mut ask, &[b"MULTI"]);
            push_request(&mut ask, &[b"EXEC"]);
            // The question ends the watch here, and the flip may be undone.
            let asked = 2 + push_watch(&mut ask, here.db, watch.keys());
            let begun = push_watch(&mut begin, there.db, watch.keys());
            if let Some(own) = self.own_mut(there) {
                own.owner = Some(id);
            }
            for (lane, frame, replies) in [(here, ask, asked), (there, begin, begun)] {
                let now = self.now.us;
                if let Some(lane) = self.lane_mut(lane) {
                    lane.push(&[&frame], What::Handover(id), replies, now);
                }
                self.touch_lane(lane);
            }
        }
    }

    /// All replies to a question or a beginning, as an array.
    pub(super) fn answer_handover(&mut self, id: SessionId, side: Endpoint, replies: Reply<'_>) {
        let asked = side == self.primary();
        let (mut sound, mut written) = (true, false);
        for (at, reply) in replies.elements().enumerate() {
            sound &= !reply.is_error();
            written |= asked && at == 1 && reply.is_null() && !self.settings.faults.no_question;
        }
        let Some(watch) = self.sessions.get_mut(id).and_then(|session| session.watch.as_mut()) else { return };
        if written || (asked && !sound) {
            return self.break_watch(id);
        }
        if let Some(handover) = &mut watch.handover {
            handover.confirmed[side.index()] = sound;
        }
    }

    /// Whether every watch that is being handed over has been answered for.
    pub(super) fn watches_are_handed_over(&self) -> bool {
        let owes = |lane: &Lane| lane.in_flight.iter().any(|flight| matches!(flight.what, What::Handover(_)));
        !self.sides.iter().any(|side| side.own.values().any(|own| owes(&own.lane)))
    }

    /// The roles have moved: where the session's watch lives now, if it does.
    pub(super) fn take_handover(&mut self, id: SessionId) -> Option<LaneId> {
        let watch = self.sessions.get_mut(id)?.watch.as_mut()?;
        let handover = watch.handover.take()?;
        let lives = !watch.broken && handover.confirmed == [true; 2] && self.lane(handover.lane).is_some_and(Lane::is_open);
        lives.then_some(handover.lane)
    }

    /// The flip is undone: what is watched on the primary is watched on, unless its question has not been answered.
    pub(super) fn undo_handover(&mut self) {
        let primary = self.primary();
        let ids: Vec<SessionId> = self.sides[primary.index()].own.values().filter_map(|own| own.owner).collect();
        for id in ids {
            let watch = self.sessions.get_mut(id).and_then(|session| session.watch.as_mut());
            let handover = watch.and_then(|watch| watch.handover.take());
            if handover.is_some_and(|handover| !handover.confirmed[primary.index()]) {
                self.break_watch(id);
            }
        }
        self.end_standby(self.mirror_side(), 0);
    }

    /// Closes connections that were opened for a handover and that no session has, but for a few.
    pub(super) fn end_standby(&mut self, side: Endpoint, kept: usize) {
        let has = |own: &Own| own.owner.and_then(|id| self.sessions.get(id)).is_some_and(|session| session.own == Some(own.id));
        let command = self.sides[side.index()].own.values().filter(|own| own.used == Use::Command && !own.is_leaving() && !has(own));
        // What watches for nobody is of no use to the next session.
        let (free, watching): (Vec<&Own>, Vec<&Own>) = command.partition(|own| own.owner.is_none());
        let lanes: Vec<LaneId> = free.into_iter().skip(kept).chain(watching).map(|own| own.id).collect();
        lanes.into_iter().for_each(|lane| self.close_own(lane));
    }
}

/// WATCH of all these keys on a connection of this database. The number of replies.
fn push_watch(frame: &mut Vec<u8>, home: Db, keys: &[(Db, Box<[u8]>)]) -> u32 {
    let (mut at, mut replies) = (home, 0);
    let mut select = |frame: &mut Vec<u8>, db: Db| {
        if at != db {
            push_request(frame, &[b"SELECT", &number(i64::from(db))]);
            (at, replies) = (db, replies + 1);
        }
    };
    let mut watches = 0;
    for group in keys.chunk_by(|(one, _), (other, _)| one == other) {
        select(frame, group[0].0);
        let words: Vec<&[u8]> = std::iter::once(&b"WATCH"[..]).chain(group.iter().map(|(_, key)| &**key)).collect();
        push_request(frame, &words);
        watches += 1;
    }
    select(frame, home);
    replies + watches
}
