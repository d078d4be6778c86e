//! A lane: our ordered pipelined connection to one node for one database. Replies come in the order in which requests were
//! appended, and that is the order of execution. What each of them was for is kept in `in_flight`.

use super::session::SessionId;
use crate::command::Command;
use crate::effect::Expect;
use crate::endpoint::{Db, Endpoint};
use crate::resp::reply::Scanner;
use crate::tape::Tape;
use std::collections::VecDeque;
use std::sync::Arc;

/// Who uses a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// All sessions of its database.
    Shared,
    /// Requests that would hold the shared lane up, under a fence.
    Bulk,
    /// One session at a time: WATCH and EXEC, subscriptions, what blocks. The number is never used again.
    Own(u32),
}

/// Names a lane: a side, the database it was opened in, and who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    /// Which side.
    pub side: Endpoint,
    /// Which database.
    pub db: Db,
    /// Who uses it.
    pub role: Role,
}

impl LaneId {
    /// The lane that all sessions of a database share.
    #[must_use]
    pub fn shared(side: Endpoint, db: Db) -> LaneId {
        LaneId { side, db, role: Role::Shared }
    }

    pub(super) fn is_shared(self) -> bool {
        self.role == Role::Shared
    }

    /// Place of a lane that a database has once.
    pub(super) fn slot(self) -> usize {
        usize::from(self.db) * 2 + usize::from(self.role == Role::Bulk)
    }

    pub(super) fn of_slot(side: Endpoint, slot: usize) -> LaneId {
        LaneId { side, db: (slot / 2) as Db, role: if slot % 2 == 1 { Role::Bulk } else { Role::Shared } }
    }
}

/// One life of a lane, as the server knows it (H1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneInfo {
    /// `CLIENT ID`.
    pub client_id: u64,
    /// Our address as the server sees it.
    pub address: String,
    /// `run_id` of the server.
    pub run_id: String,
}

/// What a request in flight was for.
#[derive(Debug)]
pub(super) enum What {
    /// A client's command; its reply goes to the session.
    Client { session: SessionId, command: &'static Command },
    /// A block of ours around a client's command or transaction.
    Block(Box<super::transaction::Block>),
    /// An attempt of a command that waits for a key.
    Attempt(Box<super::parked::Attempt>),
    /// `XINFO STREAM`: the last id, for key `at` of a reader that waits for what is newer.
    LastId { session: SessionId, at: usize },
    /// Whether a key that somebody waits for was written by others.
    Look(Box<super::parked::Look>),
    /// How large a key is that is to be copied; whether a repair asks, which gives way to clients.
    ImageSize { key: Arc<[u8]>, repair: bool },
    /// What a hash holds, with times to live of these fields.
    FieldsRead { key: Arc<[u8]>, names: Vec<Box<[u8]>> },
    /// A piece of a large key, for this copy.
    CopyRead(u64),
    /// A piece of a large key on the mirror.
    Piece(super::image::PieceFlight),
    /// What a key holds.
    ImageRead { key: Arc<[u8]>, form: super::image::Form },
    /// A page of SCAN on the primary, with its number: a walk that began anew does not count the pages of the one before.
    ScanPage(u64),
    /// A page of SCAN on the mirror, looking for keys that the primary does not have.
    ScanExtras(u64),
    /// What the primary says of a page's keys, one reply each: their times to live, or whether they exist.
    ScanKeys { page: u64, keys: Vec<Box<[u8]>> },
    /// An effect on the mirror.
    Effect(EffectFlight),
    /// A block of effects on the mirror.
    EffectBlock(Box<EffectBlock>),
    /// An image on the mirror.
    Restore(super::image::Image),
    /// The mirror's part of a barrier.
    Barrier,
    /// The mark in the reserved key, with its count.
    Mark(u64),
    /// What a side evicted, asked behind the drain of a flip.
    Census,
    /// A write that asks a refusing mirror whether it accepts again.
    Trial,
    /// WATCH, on a connection of the session's own.
    Watch(SessionId),
    /// A flip hands a session's watch over: whether it lives here, or its beginning there.
    Handover(SessionId),
    /// A question of a session on a connection of its own; the reply is delivered as it is.
    Ask(SessionId),
    /// SUBSCRIBE or one of its family, with a confirmation for each name.
    Subscription(SessionId),
    /// CLIENT TRACKING on a session's feed.
    Tracking(SessionId),
    /// What a transaction will read, named on a session's feed.
    Remember(SessionId),
    /// QUIT on a session's feed.
    Leave(SessionId),
    /// SELECT on a session's feed.
    FeedSelect(SessionId, Db),
    /// A question whose answer marks a position in a session's feed.
    Position(SessionId),
    /// `COMMAND INFO` of a command that the table does not have.
    Learn(Box<str>),
    /// A reading of verify.
    Verify(Box<super::verify::Flight>),
    /// A client's read, asked of the mirror too.
    Shadow(super::shadow::Read),
    /// A command of ours whose reply says nothing.
    Silent,
    /// CLIENT TRACKING ON or OFF.
    Track(bool),
    /// A read behind scripts: what they reported comes before its reply.
    Sync,
    /// A script that the mirror is to have.
    ScriptLoad(Arc<[u8]>),
    /// Whether the mirror has a script of which only the digest is known.
    ScriptExists(Arc<[u8]>),
    /// The primary's function libraries.
    Functions,
    /// Times to live on the mirror of the keys that the effect behind it writes or reads.
    Boundary(Box<super::expiry::Boundary>),
}

impl What {
    /// Nobody waits for the answer.
    fn can_wait(&self) -> bool {
        match self {
            What::Effect(effect) => effect.ack.is_none(),
            What::EffectBlock(block) => block.ack.is_none(),
            What::Shadow(_) => true,
            _ => false,
        }
    }
}

/// An effect that the mirror has not confirmed.
#[derive(Debug)]
pub(super) struct EffectFlight {
    /// Its place in the order.
    pub position: u64,
    /// What the last reply should be.
    pub expect: Expect,
    /// It does not depend on what the mirror held.
    pub total: bool,
    /// It reads other keys than it writes.
    pub sourced: bool,
    /// The session that waits for it under `ack = "both"`, and the reply's number.
    pub ack: Option<(SessionId, u64)>,
}

/// A block of effects that the mirror has not confirmed.
#[derive(Debug)]
pub(super) struct EffectBlock {
    pub position: u64,
    pub expects: Vec<Expect>,
    pub sourced: bool,
    pub ack: Option<(SessionId, u64)>,
}

/// One request on a lane that has not been answered completely.
#[derive(Debug)]
pub(super) struct InFlight {
    pub what: What,
    /// Bytes of its frame on the tape.
    pub len: u32,
    /// Replies still to come.
    pub replies: u32,
    /// When it was appended, microseconds; for an effect: when the primary's reply came.
    pub at: u64,
    /// An error among the replies before the last one (at queue time of a block).
    pub failed: Option<Box<[u8]>>,
    /// Requests that travel together without MULTI: their replies so far, as EXEC would give them.
    pub gathered: Option<Vec<u8>>,
}

impl InFlight {
    pub fn new(what: What, len: u32, replies: u32, at: u64) -> InFlight {
        let plain = match &what {
            What::Block(block) => block.plain,
            What::ImageRead { form, .. } => *form == super::image::Form::Plain,
            What::ScanKeys { .. } | What::CopyRead(_) | What::Handover(_) => true,
            _ => false,
        };
        let gathered = plain.then(|| {
            let mut header = Vec::new();
            super::transaction::push_array(&mut header, replies as usize);
            header
        });
        InFlight { what, len, replies, at, failed: None, gathered }
    }
}

/// Whether a lane can carry requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneState {
    /// Being opened.
    Opening,
    /// Ready.
    Open,
    /// The server has no such database.
    Refused,
}

/// Whether a server reports written keys on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// It does not.
    Off,
    /// It does, from the request on that was appended next.
    On,
    /// It will not.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    pub state: LaneState,
    pub info: Option<LaneInfo>,
    pub tape: Tape,
    pub in_flight: VecDeque<InFlight>,
    pub scanner: Scanner,
    /// Bytes of a reply that is not complete.
    pub input: Vec<u8>,
    /// Bytes still to come of a reply that goes to its client as it comes.
    pub relayed: usize,
    /// Already in the list of lanes with something to write.
    pub touched: bool,
    /// Up to this place of the tape somebody waits for what is written.
    pub hurried: u64,
    /// Effects in flight that read other keys than they write: only these can pass doubt on.
    pub sourced: usize,
    /// Requests answered since the lane was opened, and requests appended: a fence waits for one to reach the other.
    pub answered: u64,
    pub appended: u64,
    /// When it last carried a request, microseconds.
    pub used_at: u64,
    /// Whether the server reports on this lane which keys are written.
    pub tracking: Tracking,
    /// When a script was last sent or answered, microseconds.
    pub script_at: u64,
    /// Requests appended when the last script was sent (itself counted).
    pub script_sent: u64,
    /// Requests appended when the last tracked script was answered: what was appended before may have run in the same turn of the
    /// server's event loop, in which the last writer of a key hides the ones before.
    pub script_until: u64,
    /// Databases in which the last tracked scripts ran.
    pub script_dbs: Vec<Db>,
    /// Reports of an emptied database, and flushes of ours that explain them.
    pub flushes: (u32, u32),
    /// Under the fault `no_order`: an effect that goes behind the next request.
    pub held: Option<(Vec<u8>, What, u32, u64)>,
}

impl Lane {
    pub fn new() -> Lane {
        Lane {
            state: LaneState::Opening,
            info: None,
            tape: Tape::default(),
            in_flight: VecDeque::new(),
            scanner: Scanner::default(),
            input: Vec::new(),
            relayed: 0,
            touched: false,
            hurried: 0,
            sourced: 0,
            answered: 0,
            appended: 0,
            used_at: 0,
            tracking: Tracking::Off,
            script_at: 0,
            script_sent: 0,
            script_until: 0,
            script_dbs: Vec::new(),
            flushes: (0, 0),
            held: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.state == LaneState::Open
    }

    /// What the last scripts reported may not have arrived yet; and a plain write that is answered now may have hidden a
    /// script's write of the same key from the report.
    pub fn is_unreported(&self) -> bool {
        self.answered <= self.script_until && self.script_until > 0
    }

    /// A script is in flight.
    pub fn has_script(&self) -> bool {
        self.answered < self.script_sent
    }

    /// Appends one request in parts.
    pub fn push(&mut self, parts: &[&[u8]], what: What, replies: u32, at: u64) {
        let len = self.tape.append(parts);
        if !what.can_wait() {
            self.hurried = self.tape.end();
        }
        self.appended += 1;
        self.used_at = at;
        self.in_flight.push_back(InFlight::new(what, len, replies, at));
        if let Some((bytes, what, replies, at)) = self.held.take() {
            self.push(&[&bytes], what, replies, at);
        }
    }

    /// The fault `no_order`: every seventh request goes behind the one that comes next.
    pub fn push_late(&mut self, bytes: &[u8], what: What, replies: u32, at: u64) {
        if self.held.is_none() && self.appended % 7 == 3 {
            self.held = Some((bytes.to_vec(), what, replies, at));
        } else {
            self.push(&[bytes], what, replies, at);
        }
    }

    /// Whether nobody waits for what is not written yet, and it is not so much that it had better go.
    pub fn can_wait(&self) -> bool {
        self.tape.sent_to() >= self.hurried && self.tape.end() - self.tape.sent_to() < crate::limits::LINGERING_BYTES
    }

    /// Requests in flight, without what only reads and what belongs to it, or keeps the connection and the mark.
    pub fn effects(&self) -> usize {
        let other = |what: &What| matches!(what, What::Verify(_) | What::Shadow(_) | What::Silent | What::Mark(_));
        self.in_flight.iter().filter(|flight| !other(&flight.what)).count()
    }

    /// Age of the oldest request in flight.
    pub fn age(&self, now_us: u64) -> u64 {
        self.in_flight.front().map_or(0, |flight| now_us.saturating_sub(flight.at))
    }
}
