//! Which keys a pass reads: databases from `INFO keyspace`, keys from SCAN of the primary, then of the mirror; and how large they are, so that a
//! large one is not serialised in one go.

use super::super::Sequencer;
use super::super::lane::{LaneId, LaneState};
use super::exam::{Step, Task};
use super::judge::Fate;
use super::{Job, Of, Pass};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The walk of one database.
#[derive(Debug)]
pub(super) struct Walk {
    pub db: Db,
    /// The primary has been walked; now the mirror.
    pub on_mirror: bool,
    cursor: Vec<u8>,
    asked: bool,
    /// Both have been walked.
    ended: bool,
}

impl Sequencer {
    /// Which databases there are.
    pub(super) fn ask_census_of_keys(&mut self) -> bool {
        match &mut self.verify.pass {
            Some(pass) if !pass.census_asked => pass.census_asked = true,
            _ => return false,
        }
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"INFO", b"keyspace"]);
        for side in Endpoint::BOTH {
            self.push_reading(side, 0, &frame, 1, Job::Census);
        }
        true
    }

    pub(super) fn answer_census_of_keys(&mut self, side: Endpoint, reply: Reply<'_>) {
        let primary = self.primary().index();
        let Some(pass) = &mut self.verify.pass else { return };
        pass.census[side.index()] = Some(keyspace(&String::from_utf8_lossy(reply.text())));
        let [Some(old), Some(new)] = &pass.census else { return };
        let all: BTreeSet<Db> = old.iter().chain(new).map(|(db, _)| *db).chain([0]).collect();
        pass.result.keys_estimate = pass.census[primary].iter().flatten().map(|(_, keys)| keys).sum();
        pass.databases = all.into_iter().filter(|db| usize::from(*db) < limits::DATABASES_MAX).collect();
    }

    /// Begins the next database, when its lanes are open and what is planted in it is there.
    pub(super) fn next_walk(&mut self) -> bool {
        let Some(pass) = &self.verify.pass else { return false };
        if pass.walk.is_some() || pass.census.iter().any(Option::is_none) {
            return false;
        }
        let Some(db) = pass.databases.front().copied() else {
            self.end_pass();
            return true;
        };
        for side in Endpoint::BOTH {
            let id = LaneId::shared(side, db);
            match self.lane(id).map(|lane| lane.state) {
                Some(LaneState::Open) => {}
                Some(LaneState::Opening) => return false,
                Some(LaneState::Refused) => return self.skip_database(db),
                None => {
                    self.open_lane(id);
                    return false;
                }
            }
        }
        if db == 0 && !self.plants_are_ready() {
            return false;
        }
        if let Some(pass) = &mut self.verify.pass {
            pass.databases.pop_front();
            pass.walk = Some(Walk { db, on_mirror: false, cursor: b"0".to_vec(), asked: false, ended: false });
        }
        true
    }

    /// A side does not have the database: its keys cannot be compared.
    fn skip_database(&mut self, db: Db) -> bool {
        let Some(pass) = &mut self.verify.pass else { return false };
        pass.databases.pop_front();
        let keys = pass.census.iter().flatten().flatten().filter(|(known, _)| *known == db).map(|(_, keys)| *keys).sum::<u64>();
        pass.result.unverifiable += keys;
        *pass.result.unverifiable_by_reason.entry("a side does not have the database".into()).or_default() += keys;
        true
    }

    /// The next page.
    pub(super) fn ask_keys(&mut self) -> bool {
        let (primary, mirror) = (self.primary(), self.mirror_side());
        let Some(pass) = &mut self.verify.pass else { return false };
        let full = pass.found.len() + pass.ready.len() > limits::VERIFY_AHEAD_MAX || pass.later.len() > limits::VERIFY_LATER_MAX;
        let idle = pass.allowance == Some(0);
        let Some(walk) = pass.walk.as_mut().filter(|walk| !walk.asked && !walk.ended && !full && !idle) else { return false };
        walk.asked = true;
        let (side, db) = (if walk.on_mirror { mirror } else { primary }, walk.db);
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"SCAN", &walk.cursor, b"COUNT", &number(limits::VERIFY_PAGE as i64)]);
        self.push_reading(side, db, &frame, 1, Job::Keys);
        true
    }

    pub(super) fn answer_keys(&mut self, side: Endpoint, reply: Reply<'_>) {
        let primary = self.primary();
        let Some(pass) = &mut self.verify.pass else { return };
        let Pass { walk: Some(walk), plants, found, ready, seen, .. } = &mut **pass else { return };
        walk.asked = false;
        let mut parts = reply.elements();
        // An error: it is asked again at the next occasion.
        let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else { return };
        walk.cursor = cursor.text().to_vec();
        for key in keys.elements().map(Reply::text) {
            if key.starts_with(super::super::RESERVED_PREFIX) && !(walk.db == 0 && plants.has(key)) {
                continue;
            }
            let known = seen.contains(walk.db, key);
            if side == primary {
                // SCAN may name a key twice.
                if !known {
                    seen.insert(walk.db, key);
                    found.push_back(key.into());
                }
            } else if !known {
                seen.insert(walk.db, key);
                ready.push_back(Task { extra: true, ..Task::new(key.into(), Step::Look) });
            }
        }
        if walk.cursor == b"0" {
            walk.ended = walk.on_mirror;
            walk.on_mirror = true;
        }
    }

    /// How large the next keys are.
    pub(super) fn ask_sizes(&mut self) -> bool {
        let primary = self.primary();
        let Some(pass) = &mut self.verify.pass else { return false };
        let Some(walk) = &pass.walk else { return false };
        if pass.found.is_empty() || pass.ready.len() >= limits::VERIFY_WINDOW_KEYS {
            return false;
        }
        let db = walk.db;
        let (most, room) = (if pass.pace.busy { limits::VERIFY_BATCH_KEYS_BUSY } else { limits::VERIFY_BATCH_KEYS }, pass.window());
        if room == 0 {
            return false;
        }
        let keys: Vec<Arc<[u8]>> = pass.found.drain(..most.min(pass.found.len())).collect();
        pass.in_flight += keys.len();
        let mut frame = Vec::with_capacity(keys.iter().map(|key| key.len() + 64).sum());
        keys.iter().for_each(|key| push_request(&mut frame, &[b"MEMORY", b"USAGE", key, b"SAMPLES", b"1"]));
        let (replies, sizes) = (keys.len() as u32, Vec::with_capacity(keys.len()));
        self.push_reading(primary, db, &frame, replies, Job::Sizes { keys, sizes });
        true
    }

    /// A server that does not tell has all its values read in pieces.
    pub(super) fn answer_sizes(&mut self, keys: Vec<Arc<[u8]>>, sizes: &[Option<i64>]) {
        let large_bytes = self.settings.verify_large_bytes;
        let Some(pass) = &mut self.verify.pass else { return };
        pass.in_flight = pass.in_flight.saturating_sub(keys.len());
        for (key, size) in keys.into_iter().zip(sizes) {
            let bytes = size.map_or(0, |size| size.max(0) as usize);
            let large = size.is_none() || bytes > large_bytes;
            let step = if large { Step::Look } else { Step::Screen };
            pass.ready.push_back(Task { large, bytes, ..Task::new(key, step) });
        }
    }

    /// A page of a large set or hash: its members are compared next.
    pub(super) fn answer_members(&mut self, db: Db, of: Of, mut task: Task, reply: Reply<'_>) {
        self.end_readings(of, 1, 0);
        let Step::Page { hash, cursor, items } = &mut task.step else { return };
        let mut parts = reply.elements();
        let (Some(next), Some(page)) = (parts.next(), parts.next()) else {
            // It changed its type, or the server did not answer.
            return self.settle_task(db, of, task, Fate::Later("it could not be read".into()), None);
        };
        *cursor = next.text().to_vec();
        *items = page.elements().step_by(if *hash { 2 } else { 1 }).map(|item| item.text().into()).collect();
        let fate = if items.is_empty() && cursor == b"0" { Fate::end_of(&task) } else { Fate::Next };
        self.settle_task(db, of, task, fate, None);
    }

    /// Ends a database of which everything has been read.
    pub(super) fn end_walk(&mut self) -> bool {
        let Some(pass) = &mut self.verify.pass else { return false };
        let empty = pass.found.is_empty() && pass.ready.is_empty() && pass.later.is_empty() && pass.in_flight == 0;
        let Some(walk) = pass.walk.as_ref().filter(|walk| walk.ended && empty) else { return false };
        let db = walk.db;
        pass.walk = None;
        if db == 0 {
            self.remove_plants(0);
        }
        true
    }
}

impl Pass {
    /// Room for further keys on the lanes.
    pub fn window(&self) -> usize {
        let most = if self.pace.busy { limits::VERIFY_WINDOW_KEYS_BUSY } else { limits::VERIFY_WINDOW_KEYS };
        if self.bytes >= limits::VERIFY_WINDOW_BYTES { 0 } else { most.saturating_sub(self.in_flight) }
    }
}

/// `db0:keys=1,expires=0,avg_ttl=0` of `INFO keyspace`.
fn keyspace(info: &str) -> Vec<(Db, u64)> {
    let line = |line: &str| {
        let (name, counts) = line.trim_end().strip_prefix("db")?.split_once(":keys=")?;
        Some((name.parse().ok()?, counts.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_listed() {
        assert_eq!(keyspace("# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=9\r\ndb12:keys=7,expires=0\r\n"), [(0, 3), (12, 7)]);
    }
}
