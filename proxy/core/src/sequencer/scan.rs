//! Scans: a database whose keys are not known to be equal is walked on the primary, and each key goes the way of every doubtful
//! key: an image at a position. So a scan can never overwrite a newer value. Where everything on the mirror was put there by
//! this proxy, the mirror is walked too, for keys that the primary does not have.
//!
//! A cursor is valid only for the server process that gave it (H43): a lost side begins the database anew.

use super::lane::{LaneId, What};
use super::mirror::TOO_MANY_BARRIERS;
use super::opening::lacks_lane;
use super::{NewData, Sequencer};
use crate::doubt::Cause;
use crate::endpoint::Db;
use crate::journal::Known;
use crate::limits;
use crate::resp::encode::{number, parse_integer, push_request};
use crate::resp::reply::Reply;
use std::collections::BTreeMap;

/// How far the scan of one database is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The mirror is walked too.
    extras: bool,
    /// The primary has been walked.
    primary_done: bool,
    cursor: Vec<u8>,
    /// The page that was asked for. Its number is its own: the answer to a page of a walk that was begun anew must not end this
    /// one.
    asked: Option<u64>,
    /// Only times to live are to be set anew: values are equal.
    realign: bool,
}

impl Progress {
    /// The same walk from its beginning.
    fn anew(&self) -> Progress {
        Progress { extras: self.extras, realign: self.realign, ..Progress::default() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scans {
    wanted: BTreeMap<Db, Progress>,
    /// Every database is wanted; which there are is known when both sides are.
    all: Option<bool>,
    pub visited: u64,
    /// Pages asked for.
    pages: u64,
}

impl Scans {
    pub fn want(&mut self, db: Db, extras: bool) {
        self.wanted.insert(db, Progress { extras, ..Progress::default() });
    }

    /// Every database, as soon as both sides have told which they have.
    pub fn want_all(&mut self, extras: bool) {
        self.all = Some(extras || self.all.unwrap_or(false));
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
    }

    pub fn swap(&mut self, a: Db, b: Db) {
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
        let cursor = cursor.to_string().into_bytes();
        self.wanted.insert(db, Progress { extras, primary_done: on_mirror, cursor, ..Progress::default() });
    }

    /// Databases in doubt as a whole.
    pub fn databases(&self) -> Vec<Db> {
        self.wanted.iter().filter(|(_, progress)| !progress.realign).map(|(db, _)| *db).collect()
    }
}

impl Sequencer {
    /// Turns "every database" into those that hold keys on either side.
    fn list_databases(&mut self) -> bool {
        let Some(extras) = self.scans.all else { return false };
        if !self.sides.iter().all(super::sides::Side::is_up) {
            return false;
        }
        self.scans.all = None;
        let known = self.take_known();
        // The servers' own lists are up to a second old: what was used since then has a lane.
        self.refresh_keyspaces();
        let (primary, mirror) = (self.primary().index(), self.mirror_side().index());
        for db in 0..self.sides[primary].databases.min(limits::DATABASES_MAX) as Db {
            let on_primary = self.sides[primary].keyspace.contains(&db);
            let on_mirror = self.sides[mirror].keyspace.contains(&db);
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

    pub(super) fn pump_scans(&mut self) -> bool {
        if !self.record.mirroring || self.lost.is_some() || !self.settings.backfill || self.holding || !self.may_ask() {
            return false;
        }
        if self.list_databases() {
            return true;
        }
        let sides = &self.sides;
        let found = self.scans.wanted.iter().find(|(db, _)| !lacks_lane(sides, **db));
        let Some((db, progress)) = found.map(|(db, progress)| (*db, progress.clone())) else { return false };
        // A flip waits for a moment without doubt, and aligning times to live makes doubt all the time: it goes on afterwards.
        let gives_way = progress.realign && self.flip.is_some();
        let busy = gives_way || self.ledger.dirty() + self.ledger.asked() > limits::SCAN_AHEAD_MAX;
        if progress.asked.is_some() || busy || self.mirror_refuses(db).is_some() {
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

    /// A page of the primary: every key that is not known to be equal is doubtful.
    pub(super) fn answer_scan(&mut self, db: Db, page: u64, reply: Reply<'_>) {
        if self.scans.wanted.get(&db).is_some_and(|progress| progress.realign) {
            self.ask_times(db, reply);
        }
        self.answer_page(db, page, reply, |sequencer, key| {
            let realign = sequencer.scans.wanted.get(&db).is_some_and(|progress| progress.realign);
            if !realign && !sequencer.synced.contains(db, key) {
                sequencer.note_dirty(db, key, Cause::Unsynced, sequencer.position);
            }
        });
    }

    /// Asks which keys of a page have a time to live.
    fn ask_times(&mut self, db: Db, reply: Reply<'_>) {
        let Some(keys) = reply.elements().nth(1) else { return };
        let keys = keys.elements().map(Reply::text).filter(|key| !key.starts_with(super::RESERVED_PREFIX));
        let keys: Vec<Box<[u8]>> = keys.map(Into::into).collect();
        if keys.is_empty() {
            return;
        }
        let mut frame = Vec::new();
        // Each time stands for itself, and a full server queues nothing in a block.
        keys.iter().for_each(|key| push_request(&mut frame, &[b"PTTL", key]));
        let (now, replies) = (self.now.us, keys.len() as u32);
        let id = LaneId::shared(self.primary(), db);
        if let Some(lane) = self.lane_mut(id) {
            lane.push(&[&frame], What::ScanTimes(keys), replies, now);
        }
        self.touch_lane(id);
    }

    /// Keys with a time to live get an image, which sets it on the mirror behind the primary's.
    pub(super) fn answer_times(&mut self, db: Db, keys: &[Box<[u8]>], reply: Reply<'_>) {
        for (key, pttl) in keys.iter().zip(reply.elements()) {
            if pttl.is_error() || pttl.integer().is_some_and(|ms| ms >= 0) {
                self.note_dirty(db, key, Cause::Unsynced, self.position);
            }
        }
    }

    /// A page of the mirror: an image tells whether the primary has the key, and at which position it has not.
    pub(super) fn answer_extras(&mut self, db: Db, page: u64, reply: Reply<'_>) {
        self.answer_page(db, page, reply, |sequencer, key| {
            if !sequencer.synced.contains(db, key) {
                sequencer.note_dirty(db, key, Cause::Extra, sequencer.position);
            }
        });
    }

    /// Everything in the database is equal or in the ledger.
    fn equal(&mut self, db: Db) {
        // With keys on the mirror that are not ours, a key the primary does not have may still be there.
        if self.settings.new_data == NewData::Ours {
            self.synced.set_whole(db);
        }
    }

    fn answer_page(&mut self, db: Db, page: u64, reply: Reply<'_>, mut each: impl FnMut(&mut Sequencer, &[u8])) {
        let Some(progress) = self.scans.wanted.get_mut(&db).filter(|progress| progress.asked == Some(page)) else { return };
        progress.asked = None;
        let mut parts = reply.elements();
        let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else { return };
        progress.cursor = cursor.text().to_vec();
        let ended = progress.cursor == b"0";
        for key in keys.elements().map(Reply::text).filter(|key| !key.starts_with(super::RESERVED_PREFIX)) {
            self.scans.visited += 1;
            each(self, key);
        }
        if !ended {
            return;
        }
        let Some(progress) = self.scans.wanted.get_mut(&db) else { return };
        progress.cursor.clear();
        if progress.extras && !progress.primary_done {
            progress.primary_done = true;
            return;
        }
        self.scans.wanted.remove(&db);
        self.equal(db);
        self.log(false, format!("database {db} has been scanned"));
        if self.scans.is_done() {
            self.clear_alarm(TOO_MANY_BARRIERS);
        }
    }
}
