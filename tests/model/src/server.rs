//! A small deterministic Redis in memory: bytes in, bytes out, one command at a time, in virtual time.
//!
//! The simulation of the core needs two servers that answer like Redis 7.0, that choose differently where Redis chooses
//! (SPOP, set order, script results: the seed decides), and that can be killed, emptied, slowed, filled up and compared.
//! A server owns no socket and no clock: `now_ms` is an argument, and a connection is a buffer on each side. A simulation
//! interleaves connections by calling [`ModelServer::step`] once per command.
//!
//! The hard case is the closed connection that is not dead (H1): [`ModelServer::hang_up`] leaves the bytes already sent
//! to be executed by later steps, [`ModelServer::close`] and `CLIENT KILL` do not.
//!
//! It does not know: replication, persistence, ACLs, pub/sub shards, geo, HyperLogLog, SORT, functions, EVALSHA.
use crate::reply::{Done, Fail, Out};
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

mod connection;
mod dump;
mod hashes;
mod keys;
mod lists;
mod pubsub;
pub mod scripts;
mod sets;
mod streams;
mod strings;
mod zsets;

pub use dump::{crc64, payload};
pub use streams::{Consumer, Group, Pending, Stream, StreamId};

/// A connection's id, as `CLIENT ID` reports it: unique and rising over the life of a `ModelServer`, restarts included.
pub type ConnId = u64;

/// One database: its keys in byte order.
pub type Db = BTreeMap<Vec<u8>, Entry>;

/// A key's value and its death.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value, never an empty collection (a stream may be empty).
    pub value: Value,
    /// Absolute time of expiry in ms; `None` lives for ever.
    pub deadline_ms: Option<u64>,
}

/// A value by type. Collections are small here, so plain vectors are the fastest structure.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string, of any bytes.
    Str(Vec<u8>),
    /// A list, head first.
    List(VecDeque<Vec<u8>>),
    /// A hash in order of insertion.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    /// A set, sorted by member.
    Set(Vec<Vec<u8>>),
    /// A sorted set, by score and then member.
    Zset(Vec<(f64, Vec<u8>)>),
    /// A stream with its groups.
    Stream(Box<Stream>),
}

impl Value {
    /// The name that `TYPE` answers.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Str(_) => "string",
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::Zset(_) => "zset",
            Value::Stream(_) => "stream",
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Value::List(v) => v.is_empty(),
            Value::Hash(v) => v.is_empty(),
            Value::Set(v) => v.is_empty(),
            Value::Zset(v) => v.is_empty(),
            Value::Str(_) | Value::Stream(_) => false,
        }
    }
}

/// Where and when a command runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub db: usize,
    pub now: u64,
}

/// One connection as the server holds it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub id: ConnId,
    pub name: Vec<u8>,
    pub db: usize,
    pub out: Out,
    input: Vec<u8>,
    read_at: usize,
    queue: Option<Vec<Vec<Vec<u8>>>>,
    queue_failed: bool,
    /// A command of a transaction is running.
    pub in_exec: bool,
    /// Watched keys with what they held. A key that was written and holds the same again counts as unchanged here; in Redis as written.
    watched: Vec<(usize, Vec<u8>, Option<Entry>)>,
    /// The server has closed it: nothing more is executed.
    pub closed: bool,
    /// The client has gone; what it sent is still executed.
    hung_up: bool,
    /// `CLIENT TRACKING ON BCAST NOLOOP`.
    pub tracking: bool,
    /// What it is subscribed to.
    pub subscriptions: pubsub::Subscriptions,
}

/// What a handler works on.
pub(crate) struct Ctx<'a> {
    pub s: &'a mut ModelServer,
    pub c: &'a mut Conn,
    pub at: At,
}

/// A command handler; `args[0]` is the command's name.
pub(crate) type Handler = fn(&mut Ctx<'_>, &[&[u8]]) -> Done;

/// One row of the command table: commands are data here too.
pub(crate) struct Row {
    /// Lower case; a subcommand is `container|name`.
    pub name: &'static str,
    /// As `COMMAND INFO`: negative means at least.
    pub arity: i32,
    /// `WRITE`, `CONTAINER`, `NOW` or 0.
    pub flags: u8,
    pub run: Handler,
}

/// Changes data, and is refused where the server refuses writes.
pub(crate) const WRITE: u8 = 1;
/// Has subcommands, which have rows of their own.
pub(crate) const CONTAINER: u8 = 2;
/// Is executed, not queued, inside MULTI.
pub(crate) const NOW: u8 = 4;

static TABLE: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let families: [fn() -> Vec<Row>; 10] = [
        connection::rows,
        pubsub::rows,
        keys::rows,
        strings::rows,
        lists::rows,
        hashes::rows,
        sets::rows,
        zsets::rows,
        streams::rows,
        scripts::rows,
    ];
    let mut rows: Vec<Row> = families.iter().flat_map(|family| family()).collect();
    rows.sort_by_key(|row| row.name);
    rows
});

/// Is this command (lower case; a subcommand as `xgroup|create`) one that the model executes?
pub fn implements(name: &str) -> bool {
    find(name.as_bytes()).is_some()
}

fn find(name: &[u8]) -> Option<&'static Row> {
    let table = TABLE.as_slice();
    table.binary_search_by(|row| row.name.as_bytes().cmp(name)).ok().map(|at| &table[at])
}

/// What a full server says.
pub const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";

/// Writes that ask for no memory: rows of redis 7.0 that write and are not marked `denyoom`.
const FREES: &[&str] = &[
    "del",
    "expire",
    "expireat",
    "flushall",
    "flushdb",
    "getdel",
    "getex",
    "hdel",
    "lmpop",
    "lpop",
    "lrem",
    "ltrim",
    "move",
    "persist",
    "pexpire",
    "pexpireat",
    "rename",
    "renamenx",
    "rpop",
    "smove",
    "spop",
    "srem",
    "swapdb",
    "unlink",
    "xack",
    "xautoclaim",
    "xclaim",
    "xdel",
    "xgroup|delconsumer",
    "xgroup|destroy",
    "xgroup|setid",
    "xreadgroup",
    "xtrim",
    "zmpop",
    "zpopmax",
    "zpopmin",
    "zrem",
    "zremrangebylex",
    "zremrangebyrank",
    "zremrangebyscore",
];

/// The server. Creating one costs a few allocations; cloning its data is only done by the caller's wish.
#[derive(Debug)]
pub struct ModelServer {
    /// The databases; index is the number in `SELECT`.
    pub dbs: Vec<Db>,
    /// While set, every write is refused with this text (`OOM command not allowed when used memory > 'maxmemory'.`, say).
    pub refuse_with: Option<String>,
    /// Its memory is used up: what asks for more is refused, and so is everything inside MULTI (redis 7.0 server.c processCommand).
    pub full: bool,
    /// The RDB version in `DUMP` payloads, and the highest that `RESTORE` takes: 10 is Redis 7.0, 9 is 6.2 and before.
    pub rdb_version: u16,
    /// Elements that a collection may have to be given whole by SSCAN and its like, as the small encodings of Redis are.
    pub small_value: usize,
    /// Commands executed since creation (queued ones count when EXEC runs them).
    pub executed: u64,
    /// Keys removed by [`ModelServer::evict`].
    pub evicted_keys: u64,
    /// Keys that died of their deadline.
    pub expired_keys: u64,
    /// When keys died that are not there any more because their deadline came: database, key, deadline.
    ended: BTreeMap<(usize, Vec<u8>), u64>,
    /// Keys written in this turn of the event loop with their last writer, none for scripts and the server itself.
    written: BTreeMap<Vec<u8>, Option<ConnId>>,
    /// Databases were emptied in this turn, so often.
    flushes: usize,
    /// Connections that were sent a message in this turn.
    told: Vec<ConnId>,
    conns: Vec<Conn>,
    kills: Vec<ConnId>,
    next_id: ConnId,
    run_id: String,
    pub(crate) rng: Rng,
    /// Makes the order of sets and cursors this server's own.
    pub(crate) salt: u64,
}

impl ModelServer {
    /// An empty server. The seed decides its run id and everything it chooses.
    pub fn new(seed: u64, databases: usize) -> Self {
        let mut rng = Rng::new(seed);
        let salt = rng.next_u64();
        let run_id = new_run_id(&mut rng);
        ModelServer {
            dbs: std::iter::repeat_with(Db::new).take(databases).collect(),
            refuse_with: None,
            full: false,
            rdb_version: 10,
            small_value: 128,
            executed: 0,
            evicted_keys: 0,
            expired_keys: 0,
            ended: BTreeMap::new(),
            written: BTreeMap::new(),
            flushes: 0,
            told: Vec::new(),
            conns: Vec::new(),
            kills: Vec::new(),
            next_id: 1,
            run_id,
            rng,
            salt,
        }
    }

    // ---- connections ----

    /// Accepts a connection: RESP2, database 0, no name.
    pub fn open(&mut self) -> ConnId {
        let id = self.next_id;
        self.next_id += 1;
        self.conns.push(Conn {
            id,
            name: Vec::new(),
            db: 0,
            out: Out::default(),
            input: Vec::new(),
            read_at: 0,
            queue: None,
            queue_failed: false,
            in_exec: false,
            closed: false,
            hung_up: false,
            watched: Vec::new(),
            tracking: false,
            subscriptions: pubsub::Subscriptions::default(),
        });
        id
    }

    /// Forgets the connection at once, with everything it sent that has not been executed.
    pub fn close(&mut self, id: ConnId) {
        self.conns.retain(|c| c.id != id);
    }

    /// The client is gone, the server has not noticed: what was fed is still executed by `step`, the replies go nowhere.
    /// The connection disappears when its input is used up, or when it is killed.
    pub fn hang_up(&mut self, id: ConnId) {
        if let Some(c) = self.conn_mut(id) {
            c.hung_up = true;
            c.out.bytes.clear();
        }
    }

    /// What `CLIENT KILL ID` does: nothing more of this connection is executed. True if it was there.
    pub fn kill_client(&mut self, id: ConnId) -> bool {
        let Some(c) = self.conn_mut(id) else { return false };
        let was_open = !c.closed;
        c.closed = true;
        if c.hung_up {
            self.close(id);
        }
        was_open
    }

    /// False when the server closed it (killed, restarted, protocol error): take the output, then `close` it.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.conns.iter().any(|c| c.id == id && !c.closed)
    }

    /// Ids of the connections the server still executes commands for, hung-up ones included.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.conns.iter().filter(|c| !c.closed).map(|c| c.id)
    }

    /// The client's address as this server reports it in CLIENT LIST and takes it in CLIENT KILL ADDR.
    pub fn address_of(id: ConnId) -> String {
        format!("127.0.0.1:{}", 10_000 + id % 50_000)
    }

    /// Appends to the connection's input. Nothing is executed.
    pub fn feed(&mut self, id: ConnId, bytes: &[u8], _now_ms: u64) {
        if let Some(c) = self.conn_mut(id)
            && !c.closed
            && !c.hung_up
        {
            c.input.extend_from_slice(bytes);
        }
    }

    /// Executes one complete command of this connection, if there is one. False where nothing was executed.
    pub fn step(&mut self, id: ConnId, now_ms: u64) -> bool {
        let Some(at) = self.conns.iter().position(|c| c.id == id) else { return false };
        if self.conns[at].closed {
            return false;
        }
        if self.conns[at].read_at == self.conns[at].input.len() {
            if self.conns[at].hung_up {
                self.conns.remove(at);
            }
            return false;
        }
        // The connection leaves the table while it runs, so that the handler may change both.
        let mut conn = self.conns.swap_remove(at);
        let input = std::mem::take(&mut conn.input);
        let ran = match parse(&input[conn.read_at..]) {
            Parsed::Command(args, used) => {
                conn.read_at += used;
                if !args.is_empty() {
                    self.process(&mut conn, &args, now_ms);
                }
                true
            }
            Parsed::Incomplete => {
                conn.closed |= conn.hung_up;
                false
            }
            Parsed::Broken(text) => {
                conn.out.error(text);
                conn.closed = true;
                false
            }
        };
        conn.input = input;
        if conn.read_at == conn.input.len() {
            conn.input.clear();
            conn.read_at = 0;
        }
        if conn.hung_up {
            conn.out.bytes.clear();
        }
        if !(conn.hung_up && conn.closed) {
            self.conns.push(conn);
        }
        for id in std::mem::take(&mut self.kills) {
            self.kill_client(id);
        }
        ran
    }

    /// A turn of the event loop ends: tracking connections are told which keys others wrote, scripts of their own among them
    /// (redis 7.0 tracking.c trackingBroadcastInvalidationMessages). Gives back who was told that, or sent a message.
    pub fn end_turn(&mut self) -> Vec<ConnId> {
        let (written, flushes) = (std::mem::take(&mut self.written), std::mem::take(&mut self.flushes));
        let mut told = std::mem::take(&mut self.told);
        for conn in self.conns.iter_mut().filter(|conn| conn.tracking && !conn.closed && !conn.hung_up) {
            for _ in 0..flushes {
                conn.out.bytes.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
            let keys: Vec<&Vec<u8>> = written.iter().filter(|(_, writer)| **writer != Some(conn.id)).map(|(key, _)| key).collect();
            if !keys.is_empty() {
                conn.out.bytes.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n");
                conn.out.array(keys.len());
                keys.iter().for_each(|key| conn.out.bulk(key));
            }
            if flushes > 0 || !keys.is_empty() {
                told.push(conn.id);
            }
        }
        told.sort_unstable();
        told.dedup();
        told
    }

    fn is_tracked(&self) -> bool {
        self.conns.iter().any(|conn| conn.tracking)
    }

    /// Notes which keys differ from what they were.
    fn note_written(&mut self, before: &[Db], writer: Option<ConnId>) {
        for (old, new) in before.iter().zip(&self.dbs) {
            let changed = old.iter().filter(|(key, entry)| new.get(*key) != Some(entry)).map(|(key, _)| key);
            let made = new.keys().filter(|key| !old.contains_key(*key));
            self.written.extend(changed.chain(made).map(|key| (key.clone(), writer)));
        }
    }

    /// Replies not yet taken.
    pub fn take_output(&mut self, id: ConnId) -> Vec<u8> {
        self.conn_mut(id).map(|c| std::mem::take(&mut c.out.bytes)).unwrap_or_default()
    }

    /// Moves the replies to the end of `into`, keeping both buffers' memory.
    pub fn drain_output(&mut self, id: ConnId, into: &mut Vec<u8>) {
        if let Some(c) = self.conn_mut(id) {
            into.append(&mut c.out.bytes);
        }
    }

    /// Bytes fed and not yet executed.
    pub fn pending_input(&self, id: ConnId) -> usize {
        self.conns.iter().find(|c| c.id == id).map_or(0, |c| c.input.len() - c.read_at)
    }

    // ---- life and faults ----

    /// This life's run id: 40 hex digits, new at every restart.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The server dies and comes back with nothing. Every connection is gone, unexecuted input with it.
    pub fn restart_empty(&mut self, seed: u64) {
        self.restart_with_data(seed);
        self.dbs.iter_mut().for_each(Db::clear);
    }

    /// The server dies and comes back with its data (a lossless append-only file).
    pub fn restart_with_data(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
        self.salt = self.rng.next_u64();
        self.run_id = new_run_id(&mut self.rng);
        self.conns.iter_mut().for_each(|c| c.closed = true);
        self.conns.retain(|c| !c.hung_up);
        self.written.clear();
        self.flushes = 0;
        self.told.clear();
        self.evicted_keys = 0;
        self.expired_keys = 0;
    }

    /// The server dies and comes back with other data: an older snapshot, say.
    pub fn restart_with(&mut self, seed: u64, data: Vec<Db>) {
        self.restart_with_data(seed);
        self.dbs = data;
    }

    /// A copy of everything stored, for [`ModelServer::restart_with`] or for a look.
    pub fn snapshot(&self) -> Vec<Db> {
        self.dbs.clone()
    }

    /// The active expiry: removes every key whose time has come. Returns what it removed.
    pub fn expire_cycle(&mut self, now_ms: u64) -> Vec<(usize, Vec<u8>)> {
        let mut dead = Vec::new();
        for (number, db) in self.dbs.iter_mut().enumerate() {
            db.retain(|key, entry| {
                let lives = !expired(entry, now_ms);
                if !lives {
                    dead.push((number, key.clone()));
                    self.ended.extend(entry.deadline_ms.map(|deadline| ((number, key.clone()), deadline)));
                }
                lives
            });
        }
        self.expired_keys += dead.len() as u64;
        if self.is_tracked() {
            self.written.extend(dead.iter().map(|(_, key)| (key.clone(), None)));
        }
        dead
    }

    /// The server needs memory: this key goes, nobody is told. True if it was there.
    pub fn evict(&mut self, db: usize, key: &[u8]) -> bool {
        let gone = self.dbs[db].remove(key).is_some();
        self.evicted_keys += u64::from(gone);
        if gone && self.is_tracked() {
            self.written.insert(key.to_vec(), None);
        }
        gone
    }

    /// Runs one command outside of any connection, as an administrator at the console would; the reply is RESP3.
    pub fn run(&mut self, db: usize, args: &[&[u8]], now_ms: u64) -> Vec<u8> {
        let mut conn = Conn {
            id: 0,
            name: Vec::new(),
            db,
            out: Out { resp3: true, ..Out::default() },
            input: Vec::new(),
            read_at: 0,
            queue: None,
            queue_failed: false,
            in_exec: false,
            closed: false,
            hung_up: false,
            watched: Vec::new(),
            tracking: false,
            subscriptions: pubsub::Subscriptions::default(),
        };
        self.process(&mut conn, args, now_ms);
        conn.out.bytes
    }

    // ---- one command ----

    fn process(&mut self, conn: &mut Conn, args: &[&[u8]], now: u64) {
        let row = match resolve(args) {
            Ok(row) => row,
            Err(fail) => {
                conn.queue_failed |= conn.queue.is_some();
                return conn.out.error(&fail.0);
            }
        };
        if row.flags & WRITE != 0
            && let Some(text) = &self.refuse_with
        {
            conn.queue_failed |= conn.queue.is_some();
            return conn.out.error(text);
        }
        let asks_memory = row.flags & WRITE != 0 && !FREES.contains(&row.name);
        if self.full && row.flags & NOW == 0 && (asks_memory || conn.queue.is_some()) {
            conn.queue_failed |= conn.queue.is_some();
            return conn.out.error(OOM);
        }
        if row.flags & NOW == 0
            && let Some(queue) = &mut conn.queue
        {
            queue.push(args.iter().map(|arg| arg.to_vec()).collect());
            return conn.out.simple("QUEUED");
        }
        match row.name {
            "multi" => self.multi(conn),
            "exec" => self.exec(conn, now),
            "discard" => self.discard(conn),
            "watch" => self.watch(conn, args, now),
            "unwatch" => {
                conn.watched.clear();
                conn.out.ok();
            }
            _ => self.call(conn, row, args, now),
        }
    }

    fn call(&mut self, conn: &mut Conn, row: &Row, args: &[&[u8]], now: u64) {
        self.executed += 1;
        let mark = conn.out.bytes.len();
        let at = At { db: conn.db, now };
        // The connection that runs is not in the table.
        let tracked = row.flags & WRITE != 0 && (conn.tracking || self.is_tracked());
        let before = if tracked { self.dbs.clone() } else { Vec::new() };
        let id = conn.id;
        let mut ctx = Ctx { s: self, c: conn, at };
        if let Err(fail) = (row.run)(&mut ctx, args) {
            conn.out.bytes.truncate(mark);
            conn.out.error(&fail.0);
        }
        match row.name {
            _ if !tracked => {}
            "flushall" | "flushdb" => self.flushes += 1,
            "swapdb" => {}
            "eval" => self.note_written(&before, None),
            _ => self.note_written(&before, Some(id)),
        }
    }

    fn multi(&mut self, conn: &mut Conn) {
        if conn.queue.is_some() {
            return conn.out.error("ERR MULTI calls can not be nested");
        }
        conn.queue = Some(Vec::new());
        conn.queue_failed = false;
        conn.out.ok();
    }

    fn watch(&mut self, conn: &mut Conn, args: &[&[u8]], now: u64) {
        if conn.queue.is_some() {
            return conn.out.error("ERR WATCH inside MULTI is not allowed");
        }
        let at = At { db: conn.db, now };
        for key in &args[1..] {
            let held = self.entry(at, key).cloned();
            conn.watched.push((conn.db, key.to_vec(), held));
        }
        conn.out.ok();
    }

    fn discard(&mut self, conn: &mut Conn) {
        conn.watched.clear();
        match conn.queue.take() {
            Some(_) => conn.out.ok(),
            None => conn.out.error("ERR DISCARD without MULTI"),
        }
    }

    fn exec(&mut self, conn: &mut Conn, now: u64) {
        let Some(queue) = conn.queue.take() else { return conn.out.error("ERR EXEC without MULTI") };
        let watched = std::mem::take(&mut conn.watched);
        if conn.queue_failed {
            return conn.out.error("EXECABORT Transaction discarded because of previous errors.");
        }
        if watched.into_iter().any(|(db, key, held)| self.entry(At { db, now }, &key) != held.clone().as_mut()) {
            return conn.out.null_array();
        }
        let rows: Vec<(&Row, Vec<&[u8]>)> = queue
            .iter()
            .filter_map(|command| {
                let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                resolve(&args).ok().map(|row| (row, args))
            })
            .collect();
        let writes = |row: &Row| row.flags & WRITE != 0;
        let refusal = match &self.refuse_with {
            Some(text) => rows.iter().any(|(row, _)| writes(row)).then_some(text.as_str()),
            None => (self.full && rows.iter().any(|(row, _)| writes(row) && !FREES.contains(&row.name))).then_some(OOM),
        };
        if let Some(text) = refusal {
            return conn.out.error(&format!("EXECABORT Transaction discarded because of: {text}"));
        }
        conn.out.array(rows.len());
        conn.in_exec = true;
        for (row, args) in rows {
            self.call(conn, row, &args, now);
        }
        conn.in_exec = false;
    }

    fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    // ---- access to keys: every one passes the lazy expiry ----

    pub(crate) fn entry(&mut self, at: At, key: &[u8]) -> Option<&mut Entry> {
        if expired(self.dbs[at.db].get(key)?, at.now) {
            let deadline = self.dbs[at.db].remove(key).and_then(|entry| entry.deadline_ms);
            self.ended.extend(deadline.map(|deadline| ((at.db, key.to_vec()), deadline)));
            self.expired_keys += 1;
            return None;
        }
        self.dbs[at.db].get_mut(key)
    }

    pub(crate) fn exists(&mut self, at: At, key: &[u8]) -> bool {
        self.entry(at, key).is_some()
    }

    pub(crate) fn remove(&mut self, at: At, key: &[u8]) -> Option<Entry> {
        self.dbs[at.db].remove(key).filter(|entry| !expired(entry, at.now))
    }

    pub(crate) fn put(&mut self, at: At, key: &[u8], value: Value, deadline_ms: Option<u64>) {
        let entry = Entry { value, deadline_ms };
        match self.dbs[at.db].get_mut(key) {
            Some(old) => *old = entry,
            None => {
                self.ended.remove(&(at.db, key.to_vec()));
                self.dbs[at.db].insert(key.to_vec(), entry);
            }
        }
    }

    /// Stores a computed collection, or deletes the key where it is empty (the *STORE family).
    pub(crate) fn put_or_remove(&mut self, at: At, key: &[u8], value: Value) {
        if value.is_gone() {
            self.remove(at, key);
        } else {
            self.put(at, key, value, None);
        }
    }

    /// Removes a collection that has become empty.
    pub(crate) fn tidy(&mut self, at: At, key: &[u8]) {
        if self.dbs[at.db].get(key).is_some_and(|entry| entry.value.is_gone()) {
            self.dbs[at.db].remove(key);
        }
    }
}

/// A getter that answers WRONGTYPE, and one that also creates; both after the lazy expiry.
macro_rules! typed {
    ($get:ident, $make:ident, $variant:ident, $inner:ty, $new:expr) => {
        impl ModelServer {
            pub(crate) fn $get(&mut self, at: At, key: &[u8]) -> Result<Option<&mut $inner>, Fail> {
                match self.entry(at, key) {
                    None => Ok(None),
                    Some(Entry { value: Value::$variant(inner), .. }) => Ok(Some(inner)),
                    Some(_) => Err(WRONGTYPE.into()),
                }
            }

            #[allow(dead_code, reason = "not every family creates through its getter")]
            pub(crate) fn $make(&mut self, at: At, key: &[u8]) -> Result<&mut $inner, Fail> {
                if !self.exists(at, key) {
                    self.put(at, key, Value::$variant($new), None);
                }
                match self.$get(at, key)? {
                    Some(inner) => Ok(inner),
                    None => Err(WRONGTYPE.into()),
                }
            }
        }
    };
}
typed!(string, make_string, Str, Vec<u8>, Vec::new());
typed!(list, make_list, List, VecDeque<Vec<u8>>, VecDeque::new());
typed!(hash, make_hash, Hash, Vec<(Vec<u8>, Vec<u8>)>, Vec::new());
typed!(members, make_members, Set, Vec<Vec<u8>>, Vec::new());
typed!(zset, make_zset, Zset, Vec<(f64, Vec<u8>)>, Vec::new());
typed!(stream, make_stream, Stream, Box<Stream>, Box::default());

/// Differences between two servers as sentences: every key of every database, both directions, value and end. `now_ms`: by each one's clock.
/// Keys that begin with `__twinlane:` are left out, as are delivery times, `entries_read` and expired keys.
pub fn diff(left: &ModelServer, right: &ModelServer, now_ms: [u64; 2], ttl_tolerance_ms: u64) -> Vec<String> {
    let mut found = Vec::new();
    let empty = Db::new();
    for number in 0..left.dbs.len().max(right.dbs.len()) {
        let l = left.dbs.get(number).unwrap_or(&empty);
        let r = right.dbs.get(number).unwrap_or(&empty);
        let visible = |key: &&Vec<u8>| !key.starts_with(b"__twinlane:");
        // Where both end within the tolerance, one of them ends first.
        let ended = |key: &Vec<u8>, on_the_left: Option<u64>| {
            let ends = on_the_left.zip(r.get(key).and_then(|entry| entry.deadline_ms));
            ends.is_some_and(|(l, r)| l.abs_diff(r) <= ttl_tolerance_ms)
        };
        for key in l.keys().filter(visible) {
            let (Some(a), b) = (alive(l, key, now_ms[0]), alive(r, key, now_ms[1])) else {
                if alive(r, key, now_ms[1]).is_some() && !ended(key, l.get(key).and_then(|entry| entry.deadline_ms)) {
                    found.push(format!("db {number} key {}: only on the right", key.escape_ascii()));
                }
                continue;
            };
            match b {
                None => found.push(format!("db {number} key {}: only on the left: {a:?}", key.escape_ascii())),
                Some(b) => {
                    if let Some(what) = differs(a, b, ttl_tolerance_ms) {
                        found.push(format!("db {number} key {}: {what}", key.escape_ascii()));
                    }
                }
            }
        }
        for key in r.keys().filter(visible).filter(|key| !l.contains_key(*key)) {
            let gone = left.ended.get(&(number, key.clone())).copied();
            if let Some(b) = alive(r, key, now_ms[1]).filter(|_| !ended(key, gone)) {
                found.push(format!("db {number} key {}: only on the right: {b:?}", key.escape_ascii()));
            }
        }
    }
    found
}

fn alive<'a>(db: &'a Db, key: &[u8], now: u64) -> Option<&'a Entry> {
    db.get(key).filter(|entry| !expired(entry, now))
}

fn differs(a: &Entry, b: &Entry, ttl_tolerance_ms: u64) -> Option<String> {
    match (a.deadline_ms, b.deadline_ms) {
        (None, None) => {}
        (Some(x), Some(y)) if x.abs_diff(y) <= ttl_tolerance_ms => {}
        (x, y) => return Some(format!("expires at {x:?} on the left, {y:?} on the right")),
    }
    let same = match (&a.value, &b.value) {
        (Value::Stream(x), Value::Stream(y)) => streams::same(x, y),
        (Value::Hash(x), Value::Hash(y)) => x.len() == y.len() && x.iter().all(|pair| y.contains(pair)),
        (x, y) => x == y,
    };
    (!same).then(|| format!("left {:?}, right {:?}", a.value, b.value))
}

fn expired(entry: &Entry, now: u64) -> bool {
    entry.deadline_ms.is_some_and(|deadline| now > deadline)
}

fn new_run_id(rng: &mut Rng) -> String {
    format!("{:016x}{:016x}{:08x}", rng.next_u64(), rng.next_u64(), rng.next_u64() as u32)
}

/// Finds the row and checks the arity, with the words of `processCommand` (redis 7.0 server.c).
fn resolve(args: &[&[u8]]) -> Result<&'static Row, Fail> {
    let mut name = [0u8; 48];
    let Some(row) = lower(&mut name, 0, args[0]).and_then(|len| find(&name[..len])) else { return Err(unknown(args)) };
    let row = if row.flags & CONTAINER != 0 && args.len() > 1 {
        let len = args[0].len();
        name[len] = b'|';
        let sub = lower(&mut name, len + 1, args[1]).and_then(|end| find(&name[..end]));
        sub.ok_or_else(|| {
            let text = String::from_utf8_lossy(args[1]).into_owned();
            Fail::from(format!("ERR unknown subcommand '{:.128}'. Try {} HELP.", text, row.name.to_uppercase()))
        })?
    } else {
        row
    };
    let count = args.len() as i32;
    if (row.arity > 0 && count != row.arity) || count < -row.arity {
        return Err(format!("ERR wrong number of arguments for '{}' command", row.name).into());
    }
    Ok(row)
}

fn lower(name: &mut [u8; 48], from: usize, word: &[u8]) -> Option<usize> {
    let end = from + word.len();
    if end >= name.len() {
        return None;
    }
    name[from..end].copy_from_slice(word);
    name[from..end].make_ascii_lowercase();
    Some(end)
}

fn unknown(args: &[&[u8]]) -> Fail {
    let mut rest = String::new();
    for arg in &args[1..] {
        if rest.len() >= 128 {
            break;
        }
        let shown = &arg[..arg.len().min(128 - rest.len())];
        rest.push_str(&format!("'{}' ", String::from_utf8_lossy(shown)));
    }
    let name = String::from_utf8_lossy(&args[0][..args[0].len().min(128)]).into_owned();
    format!("ERR unknown command '{name}', with args beginning with: {rest}").into()
}

enum Parsed<'a> {
    Command(Vec<&'a [u8]>, usize),
    Incomplete,
    Broken(&'static str),
}

/// One request: an array of bulk strings, or an inline command split at spaces (no quotes).
fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((line, mut at)) = line(bytes, 0) else { return Parsed::Incomplete };
    let Some(count) = line.strip_prefix(b"*") else {
        return Parsed::Command(line.split(|b| *b == b' ').filter(|word| !word.is_empty()).collect(), at);
    };
    let Some(count) = crate::reply::parse_i64(count) else { return Parsed::Broken("ERR Protocol error: invalid multibulk length") };
    let mut args = Vec::with_capacity(count.clamp(0, 64) as usize);
    for _ in 0..count {
        let Some((head, next)) = self::line(bytes, at) else { return Parsed::Incomplete };
        let Some(len) = head.strip_prefix(b"$") else { return Parsed::Broken("ERR Protocol error: expected '$'") };
        let Some(len) = crate::reply::parse_i64(len).filter(|len| (0..=512 << 20).contains(len)) else {
            return Parsed::Broken("ERR Protocol error: invalid bulk length");
        };
        let end = next + len as usize;
        if bytes.len() < end + 2 {
            return Parsed::Incomplete;
        }
        args.push(&bytes[next..end]);
        at = end + 2;
    }
    Parsed::Command(args, at)
}

fn line(bytes: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let end = bytes[from..].iter().position(|b| *b == b'\n')? + from;
    let line = &bytes[from..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// Encodes a command as a client does.
pub fn encode<A: AsRef<[u8]>>(command: &[A]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + command.iter().map(|arg| arg.as_ref().len() + 8).sum::<usize>());
    encode_into(&mut bytes, command);
    bytes
}

/// Appends an encoded command.
pub fn encode_into<A: AsRef<[u8]>>(bytes: &mut Vec<u8>, command: &[A]) {
    bytes.push(b'*');
    crate::reply::push_i64(bytes, command.len() as i64);
    bytes.extend_from_slice(b"\r\n");
    for arg in command {
        let arg = arg.as_ref();
        bytes.push(b'$');
        crate::reply::push_i64(bytes, arg.len() as i64);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
}

pub(crate) const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_INT: &str = "ERR value is not an integer or out of range";
pub(crate) const NOT_FLOAT: &str = "ERR value is not a valid float";
pub(crate) const OUT_OF_RANGE: &str = "ERR index out of range";
pub(crate) const NO_KEY: &str = "ERR no such key";

/// The argument as an integer, or Redis's refusal.
pub(crate) fn int(arg: &[u8]) -> Result<i64, Fail> {
    crate::reply::parse_i64(arg).ok_or_else(|| NOT_INT.into())
}

/// The argument as a float, or Redis's refusal.
pub(crate) fn float(arg: &[u8]) -> Result<f64, Fail> {
    crate::reply::parse_f64(arg).ok_or_else(|| NOT_FLOAT.into())
}

/// Is this argument the (upper case) word, in any case?
pub(crate) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// `start stop` of ranges over `len` elements: negative counts from the end. `None` is the empty range.
pub(crate) fn clamp(start: i64, stop: i64, len: usize) -> Option<(usize, usize)> {
    let len = len as i64;
    let start = if start < 0 { (start + len).max(0) } else { start };
    let stop = if stop < 0 { stop + len } else { stop };
    if start > stop || start >= len || stop < 0 { None } else { Some((start as usize, stop.min(len - 1) as usize)) }
}

/// Glob as `stringmatchlen`.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        [b'?', rest @ ..] => !text.is_empty() && glob(rest, &text[1..]),
        [b'[', rest @ ..] => {
            let Some((&first, tail)) = text.split_first() else { return false };
            let (not, mut class) = match rest {
                [b'^', more @ ..] => (true, more),
                more => (false, more),
            };
            let mut hit = false;
            loop {
                match class {
                    [] => break,
                    [b']', more @ ..] => {
                        class = more;
                        break;
                    }
                    [b'\\', c, more @ ..] => {
                        hit |= *c == first;
                        class = more;
                    }
                    [low, b'-', high, more @ ..] => {
                        hit |= (*low.min(high)..=*high.max(low)).contains(&first);
                        class = more;
                    }
                    [c, more @ ..] => {
                        hit |= *c == first;
                        class = more;
                    }
                }
            }
            hit != not && glob(class, tail)
        }
        [b'\\', c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..]),
        [c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

/// The argument as a C int, or Redis's refusal (`getIntFromObjectOrReply`).
pub(crate) fn int32(arg: &[u8]) -> Result<i32, Fail> {
    i32::try_from(int(arg)?).map_err(|_| "ERR value is out of range, value must between -2147483648 and 2147483647".into())
}

/// The argument as a count that may not be negative (`getPositiveLongFromObjectOrReply`).
pub(crate) fn positive(arg: &[u8]) -> Result<usize, Fail> {
    match crate::reply::parse_i64(arg) {
        Some(count) if count >= 0 => Ok(count as usize),
        _ => Err("ERR value is out of range, must be positive".into()),
    }
}
