//! What the ledger tells people: the answers of `GET /v1/dirty` and `GET /v1/explain` as plain numbers and words. The shell redacts keys
//! where nobody asked for them in clear, and adds nothing.

use crate::doubt::{Cause, Entry, State, WideCause};
use crate::endpoint::{Db, Endpoint};
use serde::Serialize;
use std::sync::Arc;

/// A key in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyKey {
    /// Its database.
    pub db: Db,
    /// Its name.
    pub key: Arc<[u8]>,
    /// Why it is in doubt.
    pub cause: Cause,
    /// How far its healing is.
    pub state: State,
    /// When it came into the ledger, unix milliseconds.
    pub first_seen: i64,
    /// Images that failed in a row.
    pub attempts: u32,
    /// Place of its youngest doubt in the order.
    pub position: u64,
}

impl DirtyKey {
    /// A key with its entry.
    #[must_use]
    pub fn of(db: Db, key: Arc<[u8]>, entry: &Entry) -> DirtyKey {
        let Entry { cause, state, first_seen, attempts, position, .. } = *entry;
        DirtyKey { db, key, cause, state, first_seen, attempts, position }
    }
}

/// A database in doubt as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyDatabase {
    /// Which; None: every one, until both sides have told which they have.
    pub db: Option<Db>,
    /// Why.
    pub cause: WideCause,
    /// Since when, unix milliseconds; None: since the process began.
    pub since: Option<i64>,
}

/// `GET /v1/dirty`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Keys in doubt.
    pub total: usize,
    /// Of those, keys on the disk, of which nothing but their number is told.
    pub spilled: u64,
    /// Of those in memory, how many for which cause.
    pub by_cause: Vec<(Cause, usize)>,
    /// The first of them, those that wait longest first.
    pub items: Vec<DirtyKey>,
    /// Databases in doubt as a whole.
    pub databases: Vec<DirtyDatabase>,
}

/// What a side holds, read at a position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// `none`, `string`, `list`...
    #[serde(rename = "type")]
    pub kind: String,
    /// Remaining milliseconds; -1: it has no time to live; -2: it is not there.
    pub ttl_ms: i64,
    /// Of the value, keyed: equal digests are equal values, within one process. None: it was not read.
    pub digest: Option<String>,
    /// Why it was not read.
    pub unread: Option<String>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteEffect {
    /// The same command was sent to the mirror.
    Replayed,
    /// Another command was, made from the reply.
    Rewritten,
    /// The key was copied as a whole.
    Image,
    /// It had none (refused, or changed nothing), or nothing is mirrored.
    None,
    /// The mirror did not follow: the key became dirty instead.
    Collapsed,
}

/// One of the last writes of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastWrite {
    /// When its reply came, unix milliseconds.
    pub at: i64,
    /// The command.
    pub command: &'static str,
    /// What became of it.
    pub effect: WriteEffect,
    /// Who sent it; None: nobody knows any more.
    pub client: Option<Writer>,
}

/// A client that wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Writer {
    /// As `CLIENT ID` tells it.
    pub id: u64,
    /// CLIENT SETNAME; empty: it has none.
    pub name: String,
    /// Where it connected from.
    pub address: String,
    /// It is still connected.
    pub connected: bool,
}

/// `GET /v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The key.
    pub key: Arc<[u8]>,
    /// Its database.
    pub db: Db,
    /// Who answers clients.
    pub primary: Endpoint,
    /// What both sides hold at the position, by [`Endpoint::index`]; the mirror's is missing when it could not be read there.
    pub sides: [Option<Held>; 2],
    /// The place in the order at which the primary was read.
    pub position: u64,
    /// Why the mirror was not read.
    pub mirror_unread: Option<String>,
    /// Its entry in the ledger.
    pub dirty: Option<DirtyKey>,
    /// It may be among the keys in doubt that are on the disk.
    pub spilled: bool,
    /// It is known to be equal, from this position on.
    pub synced: bool,
    /// Something else that explains a difference now.
    pub excuse: Option<&'static str>,
    /// Confirmed differences of this key.
    pub divergences: Vec<crate::divergence::Divergence>,
    /// Its last writes, the youngest first, as far as they are remembered.
    pub writes: Vec<LastWrite>,
}
