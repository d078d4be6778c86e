//! Scans: a database whose keys are not known to be equal is walked on the primary, and each key goes the way of every doubtful
//! key: an image at a position. So a scan can never overwrite a newer value. Where everything on the mirror was put there by
//! this proxy, the mirror is walked too, for keys that the primary does not have.
//!
//! The keys of a page are handed to the ledger as `backfill.rs` allows, and its cursor is passed when the last of them is there: who
//! goes on from a cursor (behind a `kill -9`) has missed no key. A cursor is valid only for the server process that gave it (H43): a
//! lost side begins the database anew.

use super::lane::{LaneId, LaneState, What};
use super::mirror::TOO_MANY_BARRIERS;
use super::opening::lacks_lane;
use super::{NewData, Sequencer};
use crate::doubt::Cause;
use crate::endpoint::{Db, Endpoint};
use crate::journal::Known;
use crate::limits;
use crate::resp::encode::{number, parse_integer, push_request};
use crate::resp::reply::Reply;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Keys of a page that are not in the ledger yet, and the cursor behind them.
#[derive(Debug, Clone, Default)]
struct Page {
    keys: VecDeque<Box<[u8]>>,
    next: Vec<u8>,
}

/// How far the scan of one database is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The mirror is walked too.
    extras: bool,
    /// The primary has been walked.
    primary_done: bool,
    /// In front of the page that is in hand or asked for.
    cursor: Vec<u8>,
    /// The page that was asked for. Its number is its own: the answer to a page of a walk that was begun anew must not end this
    /// one.
    asked: Option<u64>,
    /// The cursor behind that page, while the primary is asked about its keys.
    next: Vec<u8>,
    page: Option<Page>,
    /// Only times to live are to be set anew: values are equal.
    realign: bool,
    /// Keys of the primary that it has met.
    visited: u64,
    /// Keys of the mirror that the primary did not have.
    deleted: u64,
    /// Share of the primary that an earlier process had walked.
    share_before: f64,
}

impl Progress {
    /// The same walk from its beginning.
    fn anew(&self) -> Progress {
        Progress { extras: self.extras, realign: self.realign, ..Progress::default() }
    }
}

/// What status tells of a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub db: Db,
    pub on_mirror: bool,
    pub visited: u64,
    pub share_before: f64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scans {
    wanted: BTreeMap<Db, Progress>,
    /// Every database is wanted; which there are is known when both sides are.
    all: Option<bool>,
    /// Databases whose walk went over the mirror too when every database was wanted for a cause that does not: it is due still.
    extras_due: BTreeSet<Db>,
    pub visited: u64,
    /// Pages asked for.
    pages: u64,
}

impl Scans {
    /// `extras`: the mirror too. A walk of the mirror that is due already stays due.
    pub fn want(&mut self, db: Db, extras: bool) {
        let extras = extras || self.wanted.get(&db).is_some_and(|progress| progress.extras);
        self.wanted.insert(db, Progress { extras, ..Progress::default() });
    }

    /// Every database, as soon as both sides have told which they have.
    pub fn want_all(&mut self, extras: bool) {
        self.all = Some(extras || self.all.unwrap_or(false));
        self.extras_due.extend(self.wanted.iter().filter(|(_, progress)| progress.extras).map(|(db, _)| *db));
        self.wanted.clear();
    }

    /// Keys with a time to live are to be imaged, so that the mirror does not end them first; values are equal already.
    pub fn want_realigned(&mut self, db: Db) {
        // A walk that had begun went over the other server, whose cursor means nothing on this one.
        let progress = self.wanted.remove(&db).map_or(Progress { realign: true, ..Progress::default() }, |progress| progress.anew());
        self.wanted.insert(db, progress);
    }

    pub fn cancel(&mut self, db: Db) {
        self.wanted.remove(&db);
        self.extras_due.remove(&db);
    }

    pub fn swap(&mut self, a: Db, b: Db) {
        let (due_a, due_b) = (self.extras_due.remove(&a), self.extras_due.remove(&b));
        self.extras_due.extend([(due_a, b), (due_b, a)].into_iter().filter(|(due, _)| *due).map(|(_, db)| db));
        let (at_a, at_b) = (self.wanted.remove(&a), self.wanted.remove(&b));
        // A walk that had begun begins anew.
        for (progress, db) in [(at_a, b), (at_b, a)] {
            if let Some(progress) = progress {
                self.wanted.insert(db, progress.anew());
            }
        }
    }

    /// All walks begin anew: a side was lost.
    pub fn restart(&mut self) {
        for progress in self.wanted.values_mut() {
            *progress = progress.anew();
        }
    }

    pub fn lost_page(&mut self, db: Db) {
        if let Some(progress) = self.wanted.get_mut(&db) {
            *progress = progress.anew();
        }
    }

    /// No database is in doubt as a whole.
    pub fn is_done(&self) -> bool {
        self.all.is_none() && self.wanted.values().all(|progress| progress.realign)
    }

    /// Every database is in doubt, and it is not known yet which there are.
    pub fn doubts_all(&self) -> bool {
        self.all.is_some()
    }

    /// Whether a database is in doubt as a whole.
    pub fn doubts(&self, db: Db) -> bool {
        self.all.is_some() || self.wanted.get(&db).is_some_and(|progress| !progress.realign)
    }

    /// What a restart may rely on.
    pub fn known(&self, db: Db) -> Known {
        match (&self.all, self.wanted.get(&db)) {
            (Some(_), _) => Known::Nothing,
            (None, None) => Known::Equal,
            (None, Some(progress)) if progress.realign => Known::Unaligned,
            // No cursor yet: the walk is at its beginning.
            (None, Some(progress)) => {
                Known::Walked { on_mirror: progress.primary_done, cursor: parse_integer(&progress.cursor).unwrap_or(0) as u64 }
            }
        }
    }

    /// Goes on with a walk of an earlier process.
    fn resume(&mut self, db: Db, extras: bool, on_mirror: bool, cursor: u64) {
        let share_before = if on_mirror { 1.0 } else { share(cursor) };
        let cursor = cursor.to_string().into_bytes();
        self.wanted.insert(db, Progress { extras, primary_done: on_mirror, cursor, share_before, ..Progress::default() });
    }

    /// Whether the database is to be walked, for whatever reason.
    pub fn wants(&self, db: Db) -> bool {
        self.all.is_some() || self.wanted.contains_key(&db)
    }

    /// Nothing is to be walked at all, not even for times to live.
    pub fn is_idle(&self) -> bool {
        self.all.is_none() && self.wanted.is_empty()
    }

    /// Every database is wanted, and which there are is not known yet.
    pub fn is_unlisted(&self) -> bool {
        self.all.is_some()
    }

    /// Databases whose times to live are being set anew.
    pub fn realigning(&self) -> Vec<Db> {
        self.wanted.iter().filter(|(_, progress)| progress.realign).map(|(db, _)| *db).collect()
    }

    /// How far each walk is.
    pub fn told(&self) -> impl Iterator<Item = Told> {
        let walks = self.wanted.iter().filter(|(_, progress)| !progress.realign);
        walks.map(|(db, progress)| Told {
            db: *db,
            on_mirror: progress.primary_done,
            visited: progress.visited,
            share_before: progress.share_before,
        })
    }

    /// Databases in doubt as a whole.
    pub fn databases(&self) -> Vec<Db> {
        self.wanted.iter().filter(|(_, progress)| !progress.realign).map(|(db, _)| *db).collect()
    }
}

impl Sequencer {
    /// Turns "every database" into those that hold keys on either side.
    fn list_databases(&mut self) -> bool {
        let Some(all_extras) = self.scans.all else { return false };
        // The mirror lists a database by the name that it has there until a SWAPDB has reached it, too.
        if !self.sides.iter().all(super::sides::Side::is_up) || self.mirror_is_to_swap() {
            return false;
        }
        self.scans.all = None;
        let extras_due = std::mem::take(&mut self.scans.extras_due);
        let known = self.take_known();
        // The servers' own lists are up to a second old: what was used since then has a lane.
        self.refresh_keyspaces();
        let (primary, mirror) = (self.primary().index(), self.mirror_side().index());
        for db in 0..self.sides[primary].databases.min(limits::DATABASES_MAX) as Db {
            let on_primary = self.sides[primary].keyspace.contains(&db);
            let on_mirror = self.sides[mirror].keyspace.contains(&db);
            let extras = all_extras || extras_due.contains(&db);
            let held = on_primary || (on_mirror && extras);
            match known.as_ref().and_then(|facts| facts.databases.get(usize::from(db))) {
                Some(Known::Walked { on_mirror, cursor }) if held => self.scans.resume(db, extras, *on_mirror, *cursor),
                Some(Known::Unaligned) if held => self.scans.want_realigned(db),
                Some(Known::Equal | Known::Unaligned) => self.equal(db),
                _ if held => self.scans.want(db, extras),
                _ if !on_mirror => self.synced.set_whole(db),
                _ => {}
            }
        }
        true
    }

    /// Whether a side does not have the database.
    pub(super) fn is_refused(&self, db: Db) -> bool {
        let refused = |side| self.lane(LaneId::shared(side, db)).is_some_and(|lane| lane.state == LaneState::Refused);
        Endpoint::BOTH.into_iter().any(refused)
    }

    pub(super) fn pump_scans(&mut self) -> bool {
        if !self.record.mirroring || self.lost.is_some() || self.holding || !self.may_ask() {
            return false;
        }
        if self.list_databases() {
            return true;
        }
        if !self.backfills() || self.backfill.paused || self.now.us < self.mirror.images_rest_until {
            return false;
        }
        let walkable = |db: &&Db| !lacks_lane(&self.sides, **db) && !self.is_refused(**db);
        let Some(db) = self.scans.wanted.keys().find(walkable).copied() else { return false };
        let realign = self.scans.wanted.get(&db).is_some_and(|progress| progress.realign);
        // A flip waits for a moment without doubt, and aligning times to live makes doubt all the time: it goes on afterwards.
        if (realign && self.flip.is_some()) || self.mirror_refuses(db).is_some() {
            return false;
        }
        self.hand_over(db) || self.ask_page(db)
    }

    fn has_room(&self) -> bool {
        // However many others wait: a walk that waited for them would stand still while clients bring keys into doubt as fast as they are healed, as
        // they do with keys that it has not come to.
        self.backfill.has_room(self.backfilling())
    }

    /// Keys of the page in hand go to the ledger, as many as may; behind the last of them its cursor is passed.
    fn hand_over(&mut self, db: Db) -> bool {
        let Some(progress) = self.scans.wanted.get_mut(&db) else { return false };
        let Some(mut page) = progress.page.take() else { return false };
        let (realign, on_mirror) = (progress.realign, progress.primary_done);
        let cause = if on_mirror { Cause::Extra } else { Cause::Backfill };
        let (before, mut met) = (page.keys.len(), 0);
        while self.has_room() {
            let Some(key) = page.keys.pop_front() else { break };
            met += 1;
            if realign || !self.synced.contains(db, &key) {
                self.note_dirty(db, &key, cause, self.position);
                self.backfill.note_key();
            }
        }
        let rest = page.keys.len();
        let Some(progress) = self.scans.wanted.get_mut(&db) else { return false };
        if on_mirror {
            progress.deleted += met;
        } else if !realign {
            progress.visited += met;
            self.scans.visited += met;
            self.backfill.note_walked(met);
        }
        if rest > 0 {
            progress.page = Some(page);
            return rest < before;
        }
        progress.cursor = page.next;
        if progress.cursor == b"0" {
            self.end_walk_of(db);
        }
        true
    }

    /// A walk came to the end of a side.
    fn end_walk_of(&mut self, db: Db) {
        let Some(progress) = self.scans.wanted.get_mut(&db) else { return };
        progress.cursor.clear();
        if progress.extras && !progress.primary_done {
            progress.primary_done = true;
            return;
        }
        let deleted = progress.deleted;
        let told = self.scans.told().find(|told| told.db == db);
        let keys = told.map_or(0, |told| self.walked(&told));
        self.backfill.note_ended(keys);
        self.scans.wanted.remove(&db);
        self.equal(db);
        self.log(false, format!("database {db} has been scanned"));
        if deleted > 0 {
            let mirror = self.mirror_side();
            self.log(true, format!("database {db}: {deleted} keys that only `{mirror}` had are deleted there"));
        }
        if self.scans.is_done() {
            self.clear_alarm(TOO_MANY_BARRIERS);
        }
    }

    fn ask_page(&mut self, db: Db) -> bool {
        let Some(progress) = self.scans.wanted.get(&db).filter(|progress| progress.asked.is_none() && progress.page.is_none()) else {
            return false;
        };
        if !self.has_room() {
            return false;
        }
        let side = if progress.primary_done { self.mirror_side() } else { self.primary() };
        let id = LaneId::shared(side, db);
        if !self.lane(id).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(id);
            return false;
        }
        let cursor: &[u8] = if progress.cursor.is_empty() { b"0" } else { &progress.cursor };
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"SCAN", cursor, b"COUNT", &number(limits::SCAN_PAGE as i64)]);
        self.scans.pages += 1;
        let page = self.scans.pages;
        let what = if progress.primary_done { What::ScanExtras(page) } else { What::ScanPage(page) };
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], what, 1, now);
        }
        if let Some(progress) = self.scans.wanted.get_mut(&db) {
            progress.asked = Some(page);
        }
        self.touch_lane(id);
        true
    }

    /// A page has come. Of the primary's keys those are doubtful that are not known to be equal; of the mirror's, those that the primary
    /// does not have; where only times to live are set anew, those that have one.
    pub(super) fn answer_scan(&mut self, db: Db, page: u64, reply: Reply<'_>) {
        let Some(progress) = self.scans.wanted.get_mut(&db).filter(|progress| progress.asked == Some(page)) else { return };
        let mut parts = reply.elements();
        let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else {
            // The server is busy, or loads its data: not as fast as it can refuse.
            progress.asked = None;
            self.mirror.images_rest_until = self.now.us + SCAN_REST_US;
            return;
        };
        let next = cursor.text().to_vec();
        let keys = keys.elements().map(Reply::text).filter(|key| !key.starts_with(super::RESERVED_PREFIX));
        if progress.realign || progress.primary_done {
            let (realign, on_mirror) = (progress.realign, progress.primary_done);
            progress.next = next;
            let all: Vec<&[u8]> = keys.collect();
            self.scans.visited += all.len() as u64;
            let unknown = all.into_iter().filter(|key| !on_mirror || !self.synced.contains(db, key));
            let keys: Vec<Box<[u8]>> = unknown.map(Into::into).collect();
            return self.ask_primary(db, page, keys, if realign { b"PTTL" } else { b"EXISTS" });
        }
        progress.asked = None;
        progress.page = Some(Page { keys: keys.map(Into::into).collect(), next });
    }

    /// Asks the primary about each key of a page.
    fn ask_primary(&mut self, db: Db, page: u64, keys: Vec<Box<[u8]>>, question: &[u8]) {
        if keys.is_empty() {
            return self.take_page(db, page, VecDeque::new());
        }
        let mut frame = Vec::new();
        // Each answer stands for itself, and a full server queues nothing in a block.
        keys.iter().for_each(|key| push_request(&mut frame, &[question, key]));
        let (now, replies) = (self.now.us, keys.len() as u32);
        let id = LaneId::shared(self.primary(), db);
        if !self.lane(id).is_some_and(super::lane::Lane::is_open) {
            self.open_lane(id);
            return self.scans.lost_page(db);
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], What::ScanKeys { page, keys }, replies, now);
        }
        self.touch_lane(id);
    }

    /// What the primary says of a page's keys. Where it does not tell, an image does.
    pub(super) fn answer_scan_keys(&mut self, db: Db, page: u64, keys: &[Box<[u8]>], reply: Reply<'_>) {
        let realign = self.scans.wanted.get(&db).is_some_and(|progress| progress.realign);
        let doubtful = |said: Reply<'_>| said.integer().is_none_or(|said| if realign { said >= 0 } else { said == 0 });
        let found = keys.iter().zip(reply.elements()).filter(|(_, said)| doubtful(*said)).map(|(key, _)| key.clone());
        self.take_page(db, page, found.collect());
    }

    fn take_page(&mut self, db: Db, page: u64, keys: VecDeque<Box<[u8]>>) {
        let Some(progress) = self.scans.wanted.get_mut(&db).filter(|progress| progress.asked == Some(page)) else { return };
        progress.asked = None;
        let next = std::mem::take(&mut progress.next);
        progress.page = Some(Page { keys, next });
    }

    /// Everything in the database is equal or in the ledger.
    fn equal(&mut self, db: Db) {
        // With keys on the mirror that are not ours, a key the primary does not have may still be there.
        if self.settings.new_data == NewData::Ours {
            self.synced.set_whole(db);
        }
    }
}

/// How much of a table a walk has behind it: SCAN counts in the bits of its cursor from the highest to the lowest (redis 7.0.15 dict.c
/// dictScan), whatever the size of the table.
pub(super) fn share(cursor: u64) -> f64 {
    cursor.reverse_bits() as f64 / 2f64.powi(64)
}

/// How long walks rest when a server could not tell its keys, microseconds.
const SCAN_REST_US: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_cursor_tells_how_far_the_walk_is() {
        // A table of eight places is walked 0, 4, 2, 6, 1, 5, 3, 7.
        let walked: Vec<f64> = [0, 4, 2, 6, 1, 5, 3, 7].map(share).into();
        assert_eq!(walked, [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]);
    }
}
