//! One question, one answer: the client that probes servers, and that shakes hands for every connection to them.
//!
//! The hard case is the handshake: a refused `AUTH` or `HELLO` lets the next command run as the user before (H5), so each
//! step is awaited before the next is sent. A connection that failed in the middle of a reply is broken for good, since
//! nobody knows which reply would come next. Replies are parsed by `redis-protocol`, which is not for hostile input: only
//! our own fixed questions are asked here. A handshaken connection becomes a lane by [`Conn::into_stream`].

use crate::net::{NetError, Stream, Target};
use crate::store::Mark;
use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::BytesFrame as Frame3;
use redis_protocol::{resp2, resp3};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use twinlane_core::endpoint::{Db, Endpoint};

/// A handshaken connection to one server.
#[derive(Debug)]
pub struct Conn {
    side: Endpoint,
    address: String,
    stream: Stream,
    buffer: BytesMut,
    protocol: Protocol,
    deadline: Duration,
    broken: bool,
}

/// What the server speaks on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Below Redis 6.
    Resp2,
    /// Redis 6 and later, Valkey.
    Resp3,
}

/// A reply, of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Status(Bytes),
    /// `-ERR ...`, without the dash.
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string, verbatim strings included.
    Bulk(Bytes),
    /// No value.
    Null,
    /// `,1.5`
    Double(f64),
    /// `#t`
    Bool(bool),
    /// An array or a set.
    Array(Vec<Reply>),
    /// A map, in the server's order.
    Map(Vec<(Reply, Reply)>),
}

impl Conn {
    /// Connects, authenticates, switches to RESP3 where it is known, and names the connection (best effort: the name is for
    /// people and for take-overs; a server that refuses it still serves). `deadline` bounds the connect and each call.
    ///
    /// # Errors
    /// [`ConnError`], naming the side and the step.
    pub async fn open(target: &Target, name: &str, deadline: Duration) -> Result<Conn, ConnError> {
        let stream = target.connect(deadline).await?;
        let (side, address, buffer) = (target.side, target.address(), BytesMut::with_capacity(READ_CHUNK));
        let mut conn = Conn { side, address, stream, buffer, protocol: Protocol::Resp2, deadline, broken: false };
        conn.authenticate(target).await?;
        conn.hello().await?;
        conn.call(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        Ok(conn)
    }

    /// The protocol that the handshake ended with.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Sends one command and waits for its reply; an error reply is a reply.
    ///
    /// # Errors
    /// [`ConnError::Closed`], [`ConnError::Slow`] or [`ConnError::Garbled`]; the connection is broken afterwards.
    pub async fn call(&mut self, args: &[&[u8]]) -> Result<Reply, ConnError> {
        if self.broken {
            return Err(self.closed("an earlier call failed"));
        }
        self.broken = true; // until the reply is whole; a dropped future leaves it so
        let reply = match tokio::time::timeout(self.deadline, self.exchange(args)).await {
            Ok(reply) => reply?,
            Err(_) => {
                let (side, address, ms) = (self.side, self.address.clone(), self.deadline.as_millis());
                return Err(ConnError::Slow { side, address, command: word(args), ms });
            }
        };
        self.broken = false;
        Ok(reply)
    }

    /// As [`Conn::call`], for commands that must not be refused.
    ///
    /// # Errors
    /// Also [`ConnError::Refused`], with the server's words.
    pub async fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, ConnError> {
        match self.call(args).await? {
            Reply::Error(message) => Err(self.refused(args, message)),
            reply => Ok(reply),
        }
    }

    /// Gives the raw stream for a lane; `None` when bytes are buffered that nobody asked for, or a call failed.
    #[must_use]
    pub fn into_stream(self) -> Option<Stream> {
        (!self.broken && self.buffer.is_empty()).then_some(self.stream)
    }

    async fn authenticate(&mut self, target: &Target) -> Result<(), ConnError> {
        let password = target.password.expose().as_bytes();
        let user = target.username.as_bytes();
        let args: &[&[u8]] = match (user, password) {
            (_, b"") => return Ok(()),
            // Servers below 6 know only this form, and they have only this user.
            (b"" | b"default", _) => &[b"AUTH", password],
            _ => &[b"AUTH", user, password],
        };
        self.ask(args).await.map(drop)
    }

    async fn hello(&mut self) -> Result<(), ConnError> {
        // A success is already a RESP3 map; an error line reads the same in both.
        self.protocol = Protocol::Resp3;
        match self.call(&[b"HELLO", b"3"]).await? {
            Reply::Error(message) if is_unknown(&message) || message.starts_with("NOPROTO") => self.protocol = Protocol::Resp2,
            Reply::Error(message) => return Err(self.refused(&[b"HELLO"], message)),
            _ => {}
        }
        Ok(())
    }

    async fn exchange(&mut self, args: &[&[u8]]) -> Result<Reply, ConnError> {
        // A server that takes no more clients says so and closes, without having been asked: its words may be here though ours did
        // not reach it.
        let unsent = self.send(args).await.err().map(|error| error.to_string());
        loop {
            match (self.decode()?, &unsent) {
                (Some(reply), None) => return Ok(reply),
                (Some(Reply::Error(message)), Some(_)) => return Err(self.refused(args, message)),
                (Some(_), Some(error)) => return Err(self.closed(error)),
                (None, _) => {}
            }
            if self.buffer.len() > REPLY_BYTES_MAX {
                return Err(self.garbled("a reply larger than any of our questions can have"));
            }
            self.buffer.reserve(READ_CHUNK);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.closed(unsent.as_deref().unwrap_or("the server closed it"))),
                Ok(_) => {}
                Err(error) => return Err(self.closed(&unsent.unwrap_or_else(|| error.to_string()))),
            }
        }
    }

    async fn send(&mut self, args: &[&[u8]]) -> std::io::Result<()> {
        self.stream.write_all(&encode(args)).await?;
        self.stream.flush().await
    }

    fn decode(&mut self) -> Result<Option<Reply>, ConnError> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let decoded = match self.protocol {
            Protocol::Resp2 => resp2::decode::decode_bytes_mut(&mut self.buffer).map(|found| found.map(|(frame, ..)| from_resp2(frame))),
            Protocol::Resp3 => {
                resp3::decode::complete::decode_bytes_mut(&mut self.buffer).map(|found| found.map(|(frame, ..)| from_resp3(frame)))
            }
        };
        decoded.map_err(|error| self.garbled(&error.to_string()))
    }

    fn closed(&self, reason: &str) -> ConnError {
        ConnError::Closed { side: self.side, address: self.address.clone(), reason: reason.to_owned() }
    }

    fn garbled(&self, reason: &str) -> ConnError {
        ConnError::Garbled { side: self.side, address: self.address.clone(), reason: reason.to_owned() }
    }

    fn refused(&self, args: &[&[u8]], message: String) -> ConnError {
        let advice = advice(&message);
        ConnError::Refused { side: self.side, address: self.address.clone(), command: word(args), message, advice }
    }
}

/// The questions.
impl Conn {
    /// What `INFO` says about the server as a whole.
    ///
    /// # Errors
    /// As [`Conn::ask`].
    pub async fn info(&mut self) -> Result<ServerInfo, ConnError> {
        Ok(ServerInfo::parse(&self.text(&[b"INFO"]).await?))
    }

    /// The server process; empty where it does not tell.
    ///
    /// # Errors
    /// As [`Conn::ask`].
    pub async fn run_id(&mut self) -> Result<String, ConnError> {
        Ok(ServerInfo::parse(&self.text(&[b"INFO", b"server"]).await?).run_id)
    }

    /// Keys per database, the reserved key not subtracted.
    ///
    /// # Errors
    /// As [`Conn::ask`].
    pub async fn keyspace(&mut self) -> Result<BTreeMap<Db, Keys>, ConnError> {
        Ok(parse_keyspace(&self.text(&[b"INFO", b"keyspace"]).await?))
    }

    /// How many databases there are; `None` where `CONFIG` is refused (managed services), and then they are found by use.
    ///
    /// # Errors
    /// As [`Conn::call`].
    pub async fn databases(&mut self) -> Result<Option<u32>, ConnError> {
        let found = match self.call(&[b"CONFIG", b"GET", b"databases"]).await? {
            Reply::Map(pairs) => pairs.into_iter().next().map(|(_, value)| value),
            Reply::Array(items) => items.into_iter().nth(1),
            _ => None,
        };
        Ok(found.and_then(|value| value.text()?.parse().ok()))
    }

    /// Every command the server knows, in upper case.
    ///
    /// # Errors
    /// As [`Conn::ask`].
    pub async fn commands(&mut self) -> Result<HashSet<String>, ConnError> {
        // From 7.0 on the plain COMMAND has key specifications, sets of maps, which redis-protocol refuses ("invalid hash
        // key"); and the list of names is fifty times shorter.
        let reply = match self.call(&[b"COMMAND", b"LIST"]).await? {
            Reply::Error(_) => self.ask(&[b"COMMAND"]).await?,
            reply => reply,
        };
        let Reply::Array(rows) = reply else { return Err(self.garbled("COMMAND gave no list")) };
        let name = |row: Reply| match row {
            Reply::Array(fields) => fields.first()?.text().map(str::to_uppercase),
            name => name.text().map(str::to_uppercase),
        };
        Ok(rows.into_iter().filter_map(name).collect())
    }

    /// This connection's id, and our address as the server sees it: what `CLIENT KILL` needs later (H1).
    ///
    /// # Errors
    /// As [`Conn::ask`]; [`ConnError::Garbled`] when the server does not list us.
    pub async fn client_id_and_addr(&mut self) -> Result<(i64, String), ConnError> {
        let id = match self.call(&[b"CLIENT", b"ID"]).await? {
            Reply::Integer(id) => id,
            Reply::Error(message) if is_unknown_subcommand(&message) => return self.found_by_name().await,
            Reply::Error(message) => return Err(self.refused(&[b"CLIENT", b"ID"], message)),
            _ => return Err(self.garbled("CLIENT ID gave no number")),
        };
        let lines = match self.call(&[b"CLIENT", b"INFO"]).await? {
            Reply::Error(_) => self.text(&[b"CLIENT", b"LIST"]).await?, // below 6.2
            reply => reply.text().unwrap_or_default().to_owned(),
        };
        let addr = addr_of(&lines, id).ok_or_else(|| self.garbled("CLIENT LIST does not know this connection"))?;
        Ok((id, addr))
    }

    /// The same of a server below 5.0, which does not tell a connection its id: for a moment it has a name that nobody else has.
    async fn found_by_name(&mut self) -> Result<(i64, String), ConnError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let before = self.call(&[b"CLIENT", b"GETNAME"]).await?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let token = format!("twinlane:id:{}:{nanos}:{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        self.ask(&[b"CLIENT", b"SETNAME", token.as_bytes()]).await?;
        let lines = self.text(&[b"CLIENT", b"LIST"]).await?;
        self.ask(&[b"CLIENT", b"SETNAME", before.text().unwrap_or_default().as_bytes()]).await?;
        named(&lines, &token).ok_or_else(|| self.garbled("CLIENT LIST does not know this connection"))
    }

    /// How the server describes one connection in `CLIENT LIST`; empty where it tells nobody.
    ///
    /// # Errors
    /// As [`Conn::call`].
    pub async fn client_line(&mut self) -> Result<String, ConnError> {
        let reply = self.call(&[b"CLIENT", b"LIST"]).await?;
        Ok(reply.text().and_then(|lines| lines.lines().next()).unwrap_or_default().to_owned())
    }

    /// Kills another connection, by id and address together so that a reused id is never hit; returns how many died.
    ///
    /// # Errors
    /// As [`Conn::ask`]: where the command is refused, nobody may believe that the connection is dead.
    pub async fn kill_client(&mut self, id: i64, addr: &str) -> Result<i64, ConnError> {
        let id = id.to_string();
        match self.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes(), b"ADDR", addr.as_bytes()]).await? {
            Reply::Integer(killed) => Ok(killed),
            _ => Err(self.garbled("CLIENT KILL gave no number")),
        }
    }

    /// This server's copy of the record.
    ///
    /// # Errors
    /// As [`Conn::ask`]; [`ConnError::BadMark`] when the reserved key holds something else.
    pub async fn get_mark(&mut self) -> Result<Option<Mark>, ConnError> {
        match self.ask(&[b"GET", Mark::KEY.as_bytes()]).await? {
            Reply::Null => Ok(None),
            Reply::Bulk(bytes) => Mark::from_json(&bytes).map(Some).map_err(|error| ConnError::BadMark {
                side: self.side,
                address: self.address.clone(),
                reason: error.to_string(),
            }),
            _ => Err(self.garbled("GET gave no string")),
        }
    }

    /// Writes this server's copy of the record.
    ///
    /// # Errors
    /// As [`Conn::ask`]: a replica or a full server refuses.
    pub async fn set_mark(&mut self, mark: &Mark) -> Result<(), ConnError> {
        self.ask(&[b"SET", Mark::KEY.as_bytes(), mark.to_json().as_bytes()]).await.map(drop)
    }

    async fn text(&mut self, args: &[&[u8]]) -> Result<String, ConnError> {
        match self.ask(args).await? {
            Reply::Bulk(bytes) | Reply::Status(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Err(self.garbled("a reply that is no text")),
        }
    }
}

impl Reply {
    /// The text of a string reply.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Bulk(bytes) | Reply::Status(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// One database of `INFO keyspace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// All keys.
    pub keys: u64,
    /// Those with a TTL.
    pub expires: u64,
}

/// What `INFO` says about the server as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Changes with every start of the server.
    pub run_id: String,
    /// `redis`, `valkey`, or what else the server calls itself.
    pub product: String,
    /// `7.0.15`.
    pub version: String,
    /// `master` or `slave`, as the server says it.
    pub role: String,
    /// It is reading its data from disk.
    pub loading: bool,
    /// It is a cluster node.
    pub cluster: bool,
    /// Of the data it replicates: a follower has its primary's.
    pub replid: String,
    /// Followers connected to it.
    pub followers: u64,
    /// `used_memory`, bytes.
    pub used_memory: u64,
    /// `maxmemory`, bytes; 0: no limit.
    pub maxmemory: u64,
    /// What it does at that limit.
    pub policy: String,
}

impl ServerInfo {
    /// Parses the text of `INFO`.
    #[must_use]
    pub fn parse(text: &str) -> ServerInfo {
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
        let own = fields.get("valkey_version").map(|version| ("valkey".to_owned(), (*version).to_owned()));
        let (product, version) = own.unwrap_or_else(|| ("redis".to_owned(), field("redis_version")));
        let (loading, cluster) = (field("loading") == "1", field("cluster_enabled") == "1");
        let number = |name: &str| fields.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        ServerInfo {
            run_id: field("run_id"),
            product,
            version,
            role: field("role"),
            loading,
            cluster,
            replid: field("master_replid"),
            followers: number("connected_slaves"),
            used_memory: number("used_memory"),
            maxmemory: number("maxmemory"),
            policy: field("maxmemory_policy"),
        }
    }

    /// For people: `7.0.15`, `valkey 8.0.1`.
    #[must_use]
    pub fn display_version(&self) -> String {
        if self.product == "redis" { self.version.clone() } else { format!("{} {}", self.product, self.version) }
    }

    /// The parts of the version, for comparisons: `(7, 0)`.
    #[must_use]
    pub fn major_minor(&self) -> (u32, u32) {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// No connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The server refused the command.
    #[error("{side} ({address}) refused {command}: {message}{advice}")]
    Refused {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// The command's name.
        command: String,
        /// The server's words.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// The connection ended.
    #[error("{side} ({address}): the connection ended: {reason}")]
    Closed {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// How.
        reason: String,
    },
    /// No answer in time.
    #[error("{side} ({address}) did not answer {command} within {ms} ms")]
    Slow {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// The command's name.
        command: String,
        /// The deadline.
        ms: u128,
    },
    /// Not the answer of a Redis server.
    #[error("{side} ({address}) does not answer as a Redis server does: {reason}; check the port")]
    Garbled {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// The reserved key is not ours.
    #[error(
        "{side} ({address}): the key {} holds something that is not Twinlane's record ({reason}); delete or rename that key",
        Mark::KEY
    )]
    BadMark {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// serde's words.
        reason: String,
    },
}

impl ConnError {
    /// The operator must act; trying again will not help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            ConnError::BadMark { .. } => true,
            ConnError::Refused { message, .. } => {
                ["WRONGPASS", "NOAUTH", "NOPERM", "WRONGTYPE", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH"]
                    .iter()
                    .any(|word| message.starts_with(word))
            }
            _ => false,
        }
    }
}

fn advice(message: &str) -> &'static str {
    match message.split(' ').next().unwrap_or_default() {
        "WRONGPASS" => "; check user and password of this side",
        "NOAUTH" => "; give this side's password in its url, password_file or environment",
        "NOPERM" => "; give the user the permission, or use another user",
        "LOADING" => "; the server is reading its data and will answer later",
        "READONLY" => "; the address is a replica's: use the primary's",
        _ => "",
    }
}

/// The words of servers that lack a command: `ERR unknown command ...`.
fn is_unknown(message: &str) -> bool {
    message.to_ascii_lowercase().contains("unknown command")
}

fn word(args: &[&[u8]]) -> String {
    args.first().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default()
}

fn encode(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn from_resp2(frame: Frame2) -> Reply {
    match frame {
        Frame2::SimpleString(bytes) => Reply::Status(bytes),
        Frame2::Error(message) => Reply::Error(message.to_string()),
        Frame2::Integer(number) => Reply::Integer(number),
        Frame2::BulkString(bytes) => Reply::Bulk(bytes),
        Frame2::Array(items) => Reply::Array(items.into_iter().map(from_resp2).collect()),
        Frame2::Null => Reply::Null,
    }
}

fn from_resp3(frame: Frame3) -> Reply {
    match frame {
        Frame3::SimpleString { data, .. } => Reply::Status(data),
        Frame3::BlobString { data, .. } | Frame3::VerbatimString { data, .. } | Frame3::BigNumber { data, .. } => Reply::Bulk(data),
        Frame3::ChunkedString(data) => Reply::Bulk(data),
        Frame3::SimpleError { data, .. } => Reply::Error(data.to_string()),
        Frame3::BlobError { data, .. } => Reply::Error(String::from_utf8_lossy(&data).into_owned()),
        Frame3::Number { data, .. } => Reply::Integer(data),
        Frame3::Double { data, .. } => Reply::Double(data),
        Frame3::Boolean { data, .. } => Reply::Bool(data),
        Frame3::Null | Frame3::Hello { .. } => Reply::Null,
        Frame3::Array { data, .. } | Frame3::Push { data, .. } => Reply::Array(data.into_iter().map(from_resp3).collect()),
        Frame3::Set { data, .. } => Reply::Array(data.into_iter().map(from_resp3).collect()),
        Frame3::Map { data, .. } => Reply::Map(data.into_iter().map(|(key, value)| (from_resp3(key), from_resp3(value))).collect()),
    }
}

/// `db0:keys=3,expires=1,avg_ttl=0`
fn parse_keyspace(text: &str) -> BTreeMap<Db, Keys> {
    let line = |line: &str| {
        let (db, fields) = line.trim_end().strip_prefix("db")?.split_once(':')?;
        let field = |name: &str| fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        Some((db.parse().ok()?, Keys { keys: field("keys")?, expires: field("expires").unwrap_or(0) }))
    };
    text.lines().filter_map(line).collect()
}

/// `id=3 addr=127.0.0.1:5000 laddr=... name=...`, one line a client.
/// Id and address of the connection that has this name.
fn named(lines: &str, name: &str) -> Option<(i64, String)> {
    let field = |line: &str, name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned);
    let line = lines.lines().find(|line| field(line, "name=").is_some_and(|found| found == name))?;
    Some((field(line, "id=")?.parse().ok()?, field(line, "addr=")?))
}

/// What a server says of a subcommand of CLIENT that it does not have, in each version.
fn is_unknown_subcommand(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.starts_with("err syntax error") || message.starts_with("err unknown subcommand")
}

fn addr_of(lines: &str, id: i64) -> Option<String> {
    let id = format!("id={id} ");
    let line = lines.lines().find(|line| line.starts_with(&id))?;
    line.split(' ').find_map(|field| field.strip_prefix("addr=")).map(str::to_owned)
}

/// One read of the socket.
const READ_CHUNK: usize = 64 * 1024;
/// The longest answer to a question of ours is `CLIENT LIST` before 6.2: 10,000 clients at about 400 bytes are 4 MB.
const REPLY_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
pub(crate) mod tests;
