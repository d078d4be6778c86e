//! Servers that forget what they acknowledged: an asynchronous failover, a snapshot restored, a disk that lost its last second (H11).
//!
//! Neither the server's identity nor its mark tells: the mark may have come back with the older data. So the mark holds a *count*, which
//! is raised on both sides, through their lanes, as long as there are writes. A server forgets in order, the latest first; so a
//! server that is found with a count holds everything that had been answered when that count was sent. What was written since is named
//! by the journal, whose ring keeps what it has retired until it is overwritten: nothing is added to the way of a write.
//!
//! The primary's count is raised first, the mirror's when the primary has confirmed: a mirror whose count is ahead tells the next
//! process, too, that the primary has gone back.

use super::lane::{Lane, LaneId, What};
use super::mirror::Mode;
use super::{RECORD_KEY, Record, Sequencer};
use crate::doubt::{Cause, WideCause};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::push_request;
use crate::status::RecentStatus;
use std::collections::{BTreeSet, VecDeque};

/// A count, and what a server that has it holds.
#[derive(Debug, Clone, Copy)]
struct Raised {
    count: u64,
    /// Everything that the journal names below this place; None: there is no journal.
    place: Option<u64>,
    /// Microseconds.
    at: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The last ones, the oldest first.
    raised: VecDeque<Raised>,
    /// The highest ever raised, or found.
    count: u64,
    /// What the marks that are sent to each side say.
    sent: [u64; 2],
    /// What each side has confirmed; None: it was not met yet.
    confirmed: [Option<u64>; 2],
    /// Where the journal was when the side was lost.
    lost_at: [u64; 2],
    /// The next may be raised then, microseconds.
    due: u64,
    /// Without a journal: the place in the order when the last one was raised.
    position: u64,
    /// The loss of the primary's that the operator has not decided is one of keys that are named.
    pub named: bool,
    /// Times that a side was found to have forgotten, by side.
    pub forgotten: [u64; 2],
    /// Keys that were doubted for it, and some of them, of the last time.
    keys: u64,
    samples: Vec<String>,
}

/// What was written since a count.
#[derive(Debug, Default)]
struct Named {
    keys: BTreeSet<(Db, Box<[u8]>)>,
    /// Databases in which any key may have been written.
    wide: BTreeSet<Db>,
}

impl Named {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.wide.is_empty()
    }

    /// For people.
    fn words(&self) -> String {
        let wide = self.wide.iter().map(|db| format!("any key of database {db}"));
        let keys = (!self.keys.is_empty()).then(|| format!("{} keys", self.keys.len()));
        keys.into_iter().chain(wide).collect::<Vec<_>>().join(", ")
    }
}

impl Recent {
    /// The count that the marks sent to a side say.
    pub fn sent(&self, side: Endpoint) -> u64 {
        self.sent[side.index()]
    }
}

impl Record {
    /// The count in a mark; None: it has none.
    #[must_use]
    pub fn count_of(mark: &[u8]) -> Option<u64> {
        const NAME: &[u8] = b"\"count\":";
        let at = mark.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
        let digits: &[u8] = mark[at..].split(|byte| !byte.is_ascii_digit()).next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

impl Sequencer {
    /// What the reserved key of a side is to hold now.
    pub(super) fn mark(&self, side: Endpoint) -> Vec<u8> {
        self.record.mark(side, self.recent.sent[side.index()])
    }

    /// Sends the mark; its answer confirms the count.
    pub(super) fn push_mark(&mut self, side: Endpoint) {
        let (mark, count, now) = (self.mark(side), self.recent.sent[side.index()], self.now.us);
        let id = LaneId::shared(side, 0);
        let Some(lane) = self.lane_mut(id).filter(|lane| lane.is_open()) else { return };
        let mut frame = Vec::new();
        // Ten times a second while there are writes: it is not to stand among what the server counts as SETs of its clients.
        push_request(&mut frame, &[b"MSET", RECORD_KEY, &mark]);
        lane.push(&[&frame], What::Mark(count), 1, now);
        self.touch_lane(id);
    }

    /// A side holds a mark with this count.
    pub(super) fn confirm_count(&mut self, side: Endpoint, count: u64) {
        let confirmed = &mut self.recent.confirmed[side.index()];
        *confirmed = (*confirmed).max(Some(count));
        if side == self.primary() {
            self.tell_mirror();
        }
    }

    /// The mirror gets the count that the primary has confirmed.
    fn tell_mirror(&mut self) {
        let (primary, mirror) = (self.primary(), self.mirror_side());
        let Some(count) = self.recent.confirmed[primary.index()] else { return };
        let flows = self.record.mirroring && self.mirror.mode == Mode::Following && !self.mirror_owes();
        if flows
            && self.lost.is_none()
            && self.recent.sent[mirror.index()] < count
            && self.lane(LaneId::shared(mirror, 0)).is_some_and(Lane::is_open)
        {
            self.recent.sent[mirror.index()] = count;
            self.push_mark(mirror);
        }
    }

    /// Time passes: the count is raised if something was written and answered since.
    pub(super) fn tick_recent(&mut self) {
        let may = self.record.mirroring && self.lost.is_none() && self.may_ask() && !self.holding;
        if self.now.us < self.recent.due || !may {
            return;
        }
        self.tell_mirror();
        let primary = self.primary();
        let asked = self.recent.confirmed[primary.index()].is_none_or(|count| count < self.recent.sent[primary.index()]);
        let place = self.retired_place();
        let moved = self.recent.raised.back().is_none_or(|last| {
            let written = if place.is_some() { last.place != place } else { self.recent.position != self.position };
            written || self.now.us.saturating_sub(last.at) >= limits::RECENT_BEAT_US
        });
        if asked || !moved || !self.lane(LaneId::shared(primary, 0)).is_some_and(Lane::is_open) {
            return;
        }
        self.recent.due = self.now.us + limits::RECENT_EVERY_US;
        self.recent.position = self.position;
        self.recent.count += 1;
        while self.recent.raised.len() >= limits::RECENT_COUNTS_MAX {
            self.recent.raised.pop_front();
        }
        self.recent.raised.push_back(Raised { count: self.recent.count, place, at: self.now.us });
        self.recent.sent[primary.index()] = self.recent.count;
        self.push_mark(primary);
    }

    /// A side is lost: what is written from now on it never had.
    pub(super) fn note_lost_at(&mut self, side: Endpoint) {
        self.recent.lost_at[side.index()] = self.intents.journal.as_ref().map_or(0, crate::journal::Journal::head);
    }

    /// A side is connected and has this count. True when it has gone back behind what it had confirmed.
    fn meet_count(&mut self, side: Endpoint, found: u64) -> bool {
        let back = self.recent.confirmed[side.index()].is_some_and(|confirmed| found < confirmed);
        self.recent.confirmed[side.index()] = Some(found);
        self.recent.count = self.recent.count.max(found);
        self.recent.forgotten[side.index()] += u64::from(back);
        back
    }

    /// What the marks of a side are to say that has just been connected. The primary is never behind the mirror.
    pub(super) fn renew_count(&mut self, side: Endpoint) {
        let primary = self.primary();
        self.recent.sent[side.index()] = if side == primary {
            self.recent.count
        } else {
            let of_primary = self.recent.confirmed[primary.index()].unwrap_or(0);
            self.recent.confirmed[side.index()].unwrap_or(0).max(of_primary)
        };
    }

    /// The roles have moved, behind a drain or by force: both sides are told the same.
    pub(super) fn level_counts(&mut self) {
        self.recent.sent = [self.recent.count; 2];
    }

    /// What was sent to a side, up to its loss, since it had this count; None: nobody knows any more.
    fn written_since(&mut self, side: Endpoint, count: u64) -> Option<Named> {
        let from = self.recent.raised.iter().find(|raised| raised.count == count)?.place?;
        let to = self.recent.lost_at[side.index()];
        let mut named = Named::default();
        let journal = self.intents.journal.as_mut()?;
        let read = journal.recent(from, to, |db, key| match key {
            Some(key) => _ = named.keys.insert((db, key.into())),
            None => _ = named.wide.insert(db),
        });
        read.then_some(named)
    }

    /// The mirror is connected again, with its mark. True when it is not known what it has forgotten.
    pub(super) fn mirror_forgot(&mut self, changed: bool, found: u64) -> bool {
        let side = self.mirror_side();
        let back = self.meet_count(side, found);
        let Some(named) = self.written_since(side, found) else { return back || changed };
        if back {
            self.log(true, format!("`{side}` has gone back to an earlier state; what was written since is copied anew: {}", named.words()));
            self.alarm_lessened();
        }
        // Databases that were swapped since, and still are to be on the mirror, have other numbers in the ledger.
        let keys = named.keys.into_iter().map(|(db, key)| (self.db_now(db), key)).collect();
        let wide = named.wide.into_iter().map(|db| self.db_now(db)).collect();
        self.doubt_named(Named { keys, wide });
        false
    }

    /// The primary is connected again, with its mark.
    pub(super) fn primary_forgot(&mut self, changed: bool, found: u64) {
        let side = self.primary();
        let back = self.meet_count(side, found);
        match self.written_since(side, found) {
            Some(named) if back && !named.is_empty() => self.primary_went_back(named),
            // What it may have forgotten of the last moments is as it is there now.
            Some(named) => self.doubt_named(named),
            None if back => {
                self.primary_lost_data("it has gone back to an earlier state, and what was written since is not known any more")
            }
            None if changed => {
                self.unsync(&[], WideCause::Failover);
                self.refresh_keyspaces();
            }
            None => {}
        }
    }

    /// The primary has forgotten writes that it had acknowledged: the mirror's copy of these keys is the better one (H12). They stay
    /// in doubt, and are not copied, until the operator has decided.
    fn primary_went_back(&mut self, named: Named) {
        let words = named.words();
        self.doubt_named(named);
        let samples = self.recent.samples.join(", ");
        let how = format!("it has gone back to an earlier state and lacks what was written since to {words} ({samples})");
        if self.settings.follow_loss {
            return self.log(true, format!("`{}`: {how}; it is followed", self.primary()));
        }
        self.hold_loss(&how);
        self.recent.named = true;
        // Without its mark a restart knows of the loss too.
        let id = LaneId::shared(self.primary(), 0);
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id).filter(|lane| lane.is_open()) {
            let mut frame = Vec::new();
            push_request(&mut frame, &[b"DEL", RECORD_KEY]);
            lane.push(&[&frame], What::Silent, 1, now);
            self.touch_lane(id);
        }
        self.sides[id.side.index()].marked = false;
    }

    fn doubt_named(&mut self, named: Named) {
        if named.is_empty() || !self.record.mirroring || self.settings.faults.no_recent {
            return;
        }
        let position = self.doubt_position();
        self.recent.keys += named.keys.len() as u64;
        let sample = |(db, key): &(Db, Box<[u8]>)| format!("{db}:\"{}\"", crate::keyname::shown(key));
        self.recent.samples = named.keys.iter().take(limits::RECENT_SAMPLES).map(sample).collect();
        for (db, key) in named.keys.iter().filter(|(_, key)| !key.starts_with(super::RESERVED_PREFIX)) {
            self.mark_dirty(*db, key, Cause::Failover, position);
        }
        let wide: Vec<Db> = named.wide.into_iter().collect();
        if !wide.is_empty() {
            self.unsync(&wide, WideCause::Failover);
            self.refresh_keyspaces();
        }
    }

    pub(super) fn recent_status(&self) -> RecentStatus {
        let recent = &self.recent;
        let named = self.intents.journal.as_ref().map(crate::journal::Journal::recent_from);
        let oldest = recent.raised.iter().find(|raised| raised.place.zip(named).is_some_and(|(place, from)| place >= from));
        RecentStatus {
            count: recent.count,
            old: recent.confirmed[0],
            new: recent.confirmed[1],
            reaches_back_ms: oldest.map_or(0, |raised| self.now.us.saturating_sub(raised.at) / 1000),
            forgotten: recent.forgotten.iter().sum(),
            keys: recent.keys,
            samples: recent.samples.clone(),
        }
    }
}
