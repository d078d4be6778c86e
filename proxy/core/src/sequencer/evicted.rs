//! What the primary evicts. How many keys it was is told once a second (`evicted_keys`); which ones, by keyspace events alone (H29).
//!
//! The hard case is an eviction that nobody names: the mirror still has the key, a client's next `HSET` adds a field to the old hash there
//! and makes a new one on the primary, and both answer alike; behind a cutover the key comes back to life. So a count
//! that rose while events were not followed all the time ends what a verify has proved, raises an alarm, and keeps the pair out
//! of `SYNCED`. It ends when events are followed and everything has been put in doubt, or when a later verify finds no
//! difference. An eviction is never found by its count alone before the next look: a flip takes one of its own behind the drain.

use super::{NewData, Sequencer};
use crate::doubt::WideCause;
use crate::endpoint::Endpoint;
use crate::status::{Finding, Level};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    /// The primary's count up to which every eviction is accounted for: events told of it, or what it may have left on the mirror was
    /// doubted since. This is what the journal keeps.
    told: Option<u64>,
    /// A count above that, and when it was read, microseconds: events tell of these keys until a PING sent later is answered.
    looked: Option<(u64, u64)>,
    /// Looks since events are followed, up to [`LOOKS`].
    looks: u8,
    /// The count from which on events told.
    followed_from: u64,
    /// When keys were last found evicted that nobody named, microseconds.
    missed: Option<u64>,
}

/// The first look behind the beginning of events may have been asked for before it, and the next one counts from that one: what rose by
/// then was not told from its beginning on.
const LOOKS: u8 = 2;

/// How the alarm begins.
const ALARM: &str = "THE PRIMARY EVICTS KEYS";

impl Sequencer {
    /// The primary says how many keys it has evicted; `before` is what it said last, None: nothing yet.
    pub(super) fn note_primary_evicted(&mut self, before: Option<u64>, count: u64) {
        let followed = self.is_followed();
        let covered = followed && self.evicted.looks == LOOKS;
        self.evicted.looks = if followed { (self.evicted.looks + 1).min(LOOKS) } else { 0 };
        if !covered {
            self.evicted.followed_from = count;
        }
        let Some(before) = before.filter(|_| self.record.mirroring) else {
            self.evicted.told = Some(count);
            self.evicted.looked = None;
            return;
        };
        if count > before && !covered {
            self.miss_evictions();
        } else if covered && self.evicted.missed.is_none() && self.evicted.told.is_none_or(|told| told < count) {
            self.evicted.looked.get_or_insert((self.now.us, count));
        }
        // From here on events name what goes, so it is worth while to copy what went.
        if self.evicted.missed.is_some() && self.evicted.looks == LOOKS && self.lost.is_none() && self.settings.new_data == NewData::Ours {
            self.log(true, "keys were evicted on the primary while no events told of them; now they do, and everything is copied anew");
            self.unsync(&[], WideCause::PrimaryEvicted);
            self.refresh_keyspaces();
        }
    }

    /// Keys were evicted, and nobody knows which.
    pub(super) fn miss_evictions(&mut self) {
        self.evicted.missed = Some(self.now.us);
        self.evicted.looked = None;
        self.note_unobserved();
        let (primary, mirror) = (self.primary(), self.mirror_side());
        self.alarm(&format!(
            "{ALARM}: `{primary}` evicted keys that no keyspace event named, and `{mirror}` still has them: a cutover would bring them back. \
             Have the events sent (see `expiry` in the status), and everything is copied anew by itself; or run `twinlane verify`, and \
             then `twinlane repair --delete-extra` until a verify finds no difference"
        ));
    }

    /// Events have told of all that died before this time, microseconds.
    pub(super) fn evictions_told(&mut self, before_us: u64) {
        if let Some((_, count)) = self.evicted.looked.take_if(|(at, _)| *at <= before_us) {
            self.evicted.told = Some(count);
        }
    }

    /// Whether events still have to name evicted keys.
    pub(super) fn evictions_owe(&self) -> bool {
        self.evicted.looked.is_some()
    }

    /// Events are not followed any more. Those of keys evicted since the last answered PING may be lost; the next look tells whether
    /// there are more. Where it was the setting that ended, it did so some seconds ago, nobody knows when.
    pub(super) fn unfollow_evictions(&mut self, turned_off: bool) {
        self.evicted.looks = 0;
        let since = self.sides[self.primary().index()].evicted_keys.is_some_and(|count| count > self.evicted.followed_from);
        if self.record.mirroring && (self.evicted.looked.is_some() || (turned_off && since)) {
            self.miss_evictions();
        }
    }

    /// Whether the mirror may have keys that the primary evicted, and nobody looks for them.
    pub(super) fn evictions_missed(&self) -> bool {
        self.evicted.missed.is_some()
    }

    /// Whatever was evicted so far is in doubt, or was shown to be gone on the mirror too.
    pub(super) fn settle_evictions(&mut self) {
        let told = self.sides[self.primary().index()].evicted_keys;
        let Evicted { looks, followed_from, .. } = self.evicted;
        self.evicted = Evicted { told, looks, followed_from, ..Evicted::default() };
        self.clear_alarm(ALARM);
    }

    /// A verify that began then, microseconds, found both sides equal.
    pub(super) fn verified_evictions(&mut self, began_us: u64) {
        if self.evicted.missed.is_some_and(|missed| missed <= began_us) {
            self.settle_evictions();
        }
    }

    /// Another server is the primary now.
    pub(super) fn forget_evictions(&mut self) {
        self.evicted.looks = 0;
        self.settle_evictions();
    }

    /// The counts that the journal keeps: a next process copies everything when it finds more.
    pub(super) fn evicted_facts(&self) -> [Option<u64>; 2] {
        Endpoint::BOTH.map(|side| if side == self.primary() { self.evicted.told } else { self.sides[side.index()].evicted_keys })
    }

    /// What an earlier process knew; None: nothing that holds.
    pub(super) fn recall_evictions(&mut self, told: Option<u64>) {
        self.evicted.told = told;
    }

    /// The primary's counters were reset: it counts from zero again.
    pub(super) fn recount_evictions(&mut self) {
        self.evicted.told = Some(0);
        self.evicted.followed_from = 0;
        if let Some((_, count)) = &mut self.evicted.looked {
            *count = 0;
        }
    }

    pub(super) fn eviction_findings(&self, found: &mut Vec<Finding>) {
        if self.evictions_missed() {
            found.push(Finding {
                level: Level::Warn,
                code: "primary-evicts",
                subject: self.primary().to_string(),
                text: format!("`{}` has evicted keys that no event named; `{}` still has them", self.primary(), self.mirror_side()),
                remedy: "have the primary send keyspace events of evicted keys; or run `twinlane verify`, and then `twinlane repair \
                         --delete-extra`: without it these keys come back with a cutover"
                    .into(),
            });
        }
    }
}
