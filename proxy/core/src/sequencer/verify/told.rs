//! One key told to people: both sides read at one position, and everything that the proxy knows of it.
//!
//! The primary is first asked for the type and the size, so that nobody is held up by a value of a hundred megabytes; what is told comes
//! from a second reading, which asks for type, time to live and value at once, and is repeated on the mirror at its position.

use super::super::Sequencer;
use super::super::lane::{Lane, LaneId, LaneState};
use super::Job;
use super::digest::{Ask, Digester, Kind, Seen};
use crate::endpoint::{Db, Endpoint};
use crate::explained::{DirtyKey, Explained, Held};
use crate::resp::encode::push_request;
use crate::resp::reply::Reply;
use crate::status::Outcome;
use std::sync::Arc;

/// A key that is being read for a person.
#[derive(Debug)]
pub(in crate::sequencer) struct Telling {
    pub ticket: u64,
    db: Db,
    key: Arc<[u8]>,
    stage: Stage,
    /// The replies that the present stage asks for.
    asks: Vec<Ask>,
    taken: usize,
    /// Bytes that the primary says the value takes.
    bytes: i64,
    digester: Digester,
    seen: [Seen; 2],
    unread: Option<&'static str>,
    /// A fence stood around the key when it was read: its command may have run between the two readings.
    fenced: bool,
    position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The primary tells type and size.
    Sizing,
    /// The primary tells everything.
    Primary,
    /// The mirror does, at the same position.
    Mirror,
}

impl Telling {
    /// One of several replies.
    pub fn take(&mut self, reply: Reply<'_>) {
        let side = usize::from(self.stage == Stage::Mirror);
        match self.asks.get(self.taken) {
            Some(Ask::Size) => self.bytes = reply.integer().unwrap_or(0),
            Some(ask) => self.digester.take(*ask, reply, &mut self.seen[side]),
            None => {}
        }
        self.taken += 1;
    }

    fn held(&self, at: usize) -> Held {
        let seen = &self.seen[at];
        let unread = match () {
            () if seen.kind == Kind::Absent => Some("it is not there".to_owned()),
            () if seen.wrong_type => Some("its type is another one than a moment before, or than on the primary".to_owned()),
            () if seen.refused.is_some() => seen.refused.as_deref().map(str::to_owned),
            () => self.unread.map(str::to_owned),
        };
        let digest = unread.is_none().then(|| format!("{:016x}", seen.digest));
        Held { kind: seen.kind.word().to_owned(), ttl_ms: seen.pttl, digest, unread }
    }
}

/// The reads of a stage: what they are, and how their replies are taken.
fn reads(kind: Option<Kind>, key: &[u8]) -> (Vec<u8>, Vec<Ask>) {
    let (mut frame, mut asks) = (Vec::new(), Vec::new());
    let mut push = |ask: Ask, request: &[&[u8]]| {
        push_request(&mut frame, request);
        asks.push(ask);
    };
    push(Ask::Pttl, &[b"PTTL", key]);
    push(Ask::Type, &[b"TYPE", key]);
    match kind {
        None => push(Ask::Size, &[b"MEMORY", b"USAGE", key]),
        Some(Kind::String) => push(Ask::Text, &[b"GET", key]),
        Some(Kind::List) => push(Ask::Ordered, &[b"LRANGE", key, b"0", b"-1"]),
        Some(Kind::Set) => push(Ask::Unordered, &[b"SMEMBERS", key]),
        Some(Kind::Zset) => push(Ask::Scores, &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
        Some(Kind::Hash) => push(Ask::Pairs, &[b"HGETALL", key]),
        Some(Kind::Stream) => {
            push(Ask::StreamHead, &[b"XINFO", b"STREAM", key]);
            push(Ask::Groups, &[b"XINFO", b"GROUPS", key]);
            push(Ask::Entries, &[b"XRANGE", key, b"-", b"+"]);
        }
        Some(Kind::Absent | Kind::Other) => {}
    }
    (frame, asks)
}

impl Sequencer {
    /// Reads a key on both sides, and tells what is known of it.
    pub(in crate::sequencer) fn tell_key(&mut self, ticket: u64, db: Db, key: &[u8]) {
        let primary = self.primary();
        if key.starts_with(super::super::RESERVED_PREFIX) {
            return self.refuse(ticket, "keys of this prefix are the proxy's own");
        }
        // Where nobody has used the database yet, it is told when both sides have a connection for it.
        let mirror = LaneId::shared(self.mirror_side(), db);
        let has_none =
            self.record.mirroring && self.lacks(mirror).is_none() && self.mirror_refuses(db).is_some() && self.is_opening(mirror);
        if let Err(why) = self.can_read(primary, db) {
            return self.refuse(ticket, why);
        }
        if has_none {
            return self.refuse(ticket, being_opened(mirror));
        }
        let (frame, asks) = reads(None, key);
        let replies = asks.len() as u32;
        let digester = Digester { state: self.telling_state(), newer: self.sides.iter().all(|side| side.major >= 7) };
        let telling = Telling {
            ticket,
            db,
            key: key.into(),
            stage: Stage::Sizing,
            asks,
            taken: 0,
            bytes: 0,
            digester,
            seen: [Seen::default(), Seen::default()],
            unread: None,
            fenced: false,
            position: 0,
        };
        self.push_reading(primary, db, &frame, replies, Job::Tell(Box::new(telling)));
    }

    /// Digests of one process can be compared with each other.
    fn telling_state(&self) -> ahash::RandomState {
        let seed = self.settings.seed;
        ahash::RandomState::with_seeds(seed[0] ^ 0x7e11, seed[1], !seed[0], !seed[1])
    }

    /// Whether a read of ours can be appended to the primary's lane of a database now.
    pub(in crate::sequencer) fn can_read(&mut self, primary: Endpoint, db: Db) -> Result<(), String> {
        if !self.sides[primary.index()].is_up() || !self.may_ask() {
            return Err("the primary cannot be asked now".into());
        }
        let lane = LaneId::shared(primary, db);
        if let Some(why) = self.lacks(lane) {
            return Err(why);
        }
        if !self.lane(lane).is_some_and(Lane::is_open) {
            self.open_lane(lane);
            return Err(being_opened(lane));
        }
        Ok(())
    }

    /// Why a side that is up will have no lane for a database, or none for now.
    fn lacks(&self, lane: LaneId) -> Option<String> {
        let LaneId { side, db, .. } = lane;
        let has = &self.sides[side.index()];
        let refused = self.lane(lane).is_some_and(|lane| lane.state == LaneState::Refused);
        if refused || usize::from(db) >= has.databases.min(crate::limits::DATABASES_MAX) {
            return Some(format!("`{side}` has no database {db}"));
        }
        has.unopened_now(lane, self.now.us).map(|why| format!("`{side}` cannot be reached for database {db}: {why}"))
    }

    fn is_opening(&self, lane: LaneId) -> bool {
        self.lane(lane).is_some_and(|lane| lane.state == LaneState::Opening)
    }

    /// A stage has been read.
    pub(super) fn answer_telling(&mut self, mut telling: Box<Telling>) {
        let (db, key) = (telling.db, telling.key.clone());
        match telling.stage {
            Stage::Sizing => {
                let kind = telling.seen[0].kind;
                let large = telling.bytes > self.settings.verify_large_bytes as i64;
                telling.unread = match kind {
                    Kind::Other => Some("its type cannot be read; a verify compares its serialised value"),
                    _ if large => Some("it is larger than verify.large_bytes; a verify compares it in pieces"),
                    _ => None,
                };
                let (frame, asks) = reads(Some(if large { Kind::Other } else { kind }), &key);
                let replies = asks.len() as u32;
                telling.fenced = self.fences.fences_key(db, &key);
                (telling.stage, telling.asks, telling.taken, telling.seen[0]) = (Stage::Primary, asks, 0, Seen::default());
                self.push_reading(self.primary(), db, &frame, replies, Job::Tell(telling));
            }
            Stage::Primary => {
                telling.position = self.next_position();
                // The same reads, at the place where the primary's were answered.
                let large = telling.asks.len() == 2 && telling.unread.is_some();
                let kind = if large { Kind::Other } else { telling.seen[0].kind };
                let follows = self.record.mirroring && !self.mirror_owes();
                if !follows || self.mirror_refuses(db).is_some() {
                    return self.end_telling(&telling, true);
                }
                let (frame, asks) = reads(Some(kind), &key);
                let replies = asks.len() as u32;
                (telling.stage, telling.asks, telling.taken) = (Stage::Mirror, asks, 0);
                self.push_reading(self.mirror_side(), db, &frame, replies, Job::Tell(telling));
            }
            Stage::Mirror => self.end_telling(&telling, false),
        }
    }

    fn end_telling(&mut self, telling: &Telling, alone: bool) {
        let Telling { ticket, db, ref key, position, .. } = *telling;
        let mut sides = [None, None];
        sides[self.primary().index()] = Some(telling.held(0));
        sides[self.mirror_side().index()] = (!alone).then(|| telling.held(1));
        let reason = alone.then(|| match self.mirror_refuses(db) {
            _ if !self.record.mirroring => "mirroring is off".to_owned(),
            Some(cause) => {
                let lane = LaneId::shared(self.mirror_side(), db);
                let up = self.sides[lane.side.index()].is_up();
                let lacks = self.lacks(lane).filter(|_| up);
                lacks.unwrap_or_else(|| format!("the mirror does not follow: {}", cause.word()))
            }
            None => "a whole-database command waits for the mirror".to_owned(),
        });
        let fenced = (telling.fenced || self.fences.fences_key(db, key)).then_some("a command of its own connection is writing it");
        let found = self.verify.divergences.items.iter().filter(|item| item.db == db && item.key == *key);
        let explained = Explained {
            key: key.clone(),
            db,
            primary: self.primary(),
            sides,
            position,
            mirror_unread: reason,
            dirty: self.ledger.get(db, key).map(|entry| DirtyKey::of(db, key.clone(), entry)),
            spilled: self.spill.may_hold(db, key),
            synced: self.synced.contains(db, key),
            excuse: fenced.or_else(|| self.excuse(db, key)),
            divergences: found.cloned().collect(),
            writes: self.last_writes(db, key),
        };
        self.answer(ticket, Outcome::Explained(Box::new(explained)));
    }
}

fn being_opened(lane: LaneId) -> String {
    format!("the connection to `{}` for database {} is being opened: ask again", lane.side, lane.db)
}
