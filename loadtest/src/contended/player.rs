//! One client of the contended workload: what it sends, what it must get back, and its memory of its own keys.
//!
//! Two kinds of commands travel in one pipeline. *Contended* ones, drawn from the table, meet the other
//! clients' commands in an order nobody can predict: only shape and error can be checked. *Own* ones touch keys
//! that no other client touches: their replies are known exactly, before, during and after a flip, so a lost,
//! doubled, reordered or late write shows at once. `ECHO` marks between them prove that replies did not shift.

use super::table::{Draw, SCRIPTS, Table};
use super::{Options, Shared};
use crate::client::Client;
use crate::resp::{self, Value, show};
use crate::rng::Rng;
use anyhow::Result;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The databases in which a client keeps keys of its own. SWAPDB and FLUSHDB stay away from them.
const OWN_DATABASES: u64 = 2;

/// What one reply must be.
#[derive(Debug)]
enum Expect {
    /// Anything the row of the table allows.
    Row(usize),
    /// Any integer: how much an earlier run left behind.
    SomeInt,
    /// This and nothing else; `Value::NilBulk` stands for nil in either protocol.
    Exactly(Value),
    /// An error that begins like this.
    Refused(&'static str),
    /// An array of these, one for each queued command.
    Block(Vec<(Vec<u8>, Expect)>),
}

/// One client.
#[derive(Debug)]
pub struct Player {
    id: usize,
    resp: u8,
    rng: Rng,
    table: Rc<Table>,
    options: Rc<Options>,
    shared: Rc<RefCell<Shared>>,
    shas: Rc<Vec<Vec<u8>>>,
    database: u64,
    own: Own,
    sent: Vec<(Vec<u8>, Expect)>,
    bytes: Vec<u8>,
    marks: u64,
}

/// What the client knows of its own keys, by database.
#[derive(Debug, Default, Clone)]
struct Own {
    counters: HashMap<u64, i64>,
    strings: HashMap<(u64, u64), Vec<u8>>,
    lists: HashMap<u64, VecDeque<Vec<u8>>>,
    hashes: HashMap<u64, HashMap<u64, i64>>,
}

impl Player {
    /// A client with its own seed and protocol version.
    pub fn new(id: usize, resp: u8, table: Rc<Table>, options: Rc<Options>, shared: Rc<RefCell<Shared>>, shas: Rc<Vec<Vec<u8>>>) -> Player {
        let rng = Rng::new(options.seed.wrapping_mul(1_000_003) ^ id as u64);
        let (own, sent, bytes) = (Own::default(), Vec::new(), Vec::new());
        Player { id, resp, rng, table, options, shared, shas, database: 0, own, sent, bytes, marks: 0 }
    }

    /// Plays until `deadline`. A lost connection is reported, and a new one begun with fresh keys, so that one
    /// disconnect does not hide what comes after it.
    pub async fn play(mut self, deadline: Instant) {
        while Instant::now() < deadline {
            if let Err(error) = self.play_connection(deadline).await {
                let last: Vec<_> = self.sent.iter().map(|(command, _)| show(command)).collect();
                let story = format!("client {} (RESP{}) lost its connection: {error:#}; pipeline: {last:?}", self.id, self.resp);
                self.shared.borrow_mut().disconnected(story);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    async fn play_connection(&mut self, deadline: Instant) -> Result<()> {
        let mut client = Client::connect(&self.options.target, self.resp).await?;
        self.database = 0;
        self.own = Own::default();
        for database in 0..OWN_DATABASES {
            self.select(database);
            let keys = ["counter", "list", "hash", "s0", "s1", "s2", "s3"].map(|name| self.own_key(name));
            let mut args = vec![b"DEL".to_vec()];
            args.extend(keys);
            self.push(&args, Expect::SomeInt);
        }
        self.exchange(&mut client).await?;
        while Instant::now() < deadline {
            self.compose();
            self.exchange(&mut client).await?;
            if self.options.watch && self.rng.one_in(8) {
                self.raise_watched(&mut client).await?;
            }
            if self.options.think_ms > 0 {
                let pause = self.rng.below(2 * self.options.think_ms);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        Ok(())
    }

    /// Sends what was composed and checks every reply, in order.
    async fn exchange(&mut self, client: &mut Client) -> Result<()> {
        let start = Instant::now();
        let bytes = std::mem::take(&mut self.bytes);
        client.send(&bytes).await?;
        let sent = std::mem::take(&mut self.sent);
        for (command, expect) in &sent {
            let reply = match client.reply().await {
                Ok(reply) => reply,
                Err(error) => {
                    self.sent = sent;
                    return Err(error);
                }
            };
            self.check(command, expect, &reply);
        }
        let mut shared = self.shared.borrow_mut();
        shared.report.replies += sent.len() as u64;
        shared.report.pipelines += 1;
        shared.report.longest_wait_ms = shared.report.longest_wait_ms.max(start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    /// WATCH as an optimistic lock on one counter that all clients raise: an EXEC that answered with an array
    /// counts, one that answered nil changed nothing, and at the end the counter equals the count. A flip
    /// between WATCH and EXEC may cost a nil, never a lost or doubled raise.
    async fn raise_watched(&mut self, client: &mut Client) -> Result<()> {
        let key = watched_key(self.options.run);
        let ok = || Expect::Exactly(Value::Simple(b"OK".to_vec()));
        let database = self.database;
        self.select(0);
        self.push(&[b"WATCH".as_slice(), &key], ok());
        self.exchange(client).await?;
        let before = match client.ask(&[b"GET", &key]).await? {
            Value::Bulk(text) => resp::number(&text)?,
            _ => 0,
        };
        let next = (before + 1).to_string();
        let mut block = Vec::new();
        resp::encode(&["MULTI"], &mut block);
        resp::encode(&[b"SET".as_slice(), &key, next.as_bytes()], &mut block);
        resp::encode(&["EXEC"], &mut block);
        client.send(&block).await?;
        let queued = [client.reply().await?, client.reply().await?];
        if queued != [Value::Simple(b"OK".to_vec()), Value::Simple(b"QUEUED".to_vec())] {
            self.surprise(b"MULTI SET (watched)", "OK, QUEUED", &Value::Array(queued.to_vec()));
        }
        match client.reply().await? {
            Value::Array(replies) if replies == [Value::Simple(b"OK".to_vec())] => {
                self.shared.borrow_mut().watched_raises += 1;
            }
            Value::NilArray if self.resp == 2 => self.shared.borrow_mut().report.watched_refused += 1,
            Value::Null if self.resp == 3 => self.shared.borrow_mut().report.watched_refused += 1,
            other => self.surprise(b"EXEC (watched)", "[OK] or nil", &other),
        }
        self.select(database);
        self.exchange(client).await
    }

    // ------------------------------------------------------------------------------------------ composing

    /// One pipeline of random depth.
    fn compose(&mut self) {
        let depth = match self.rng.below(10) {
            0..4 => 1,
            4..8 => self.rng.between(2, 8),
            _ => self.rng.between(9, 40),
        };
        if self.rng.one_in(4) {
            let database = self.rng.below(4);
            self.select(database);
        }
        for _ in 0..depth {
            match self.rng.below(100) {
                0..70 => self.contended(),
                70..84 => self.own(),
                84..88 => self.mark(),
                88..96 if self.options.multi => self.block(),
                96 if self.options.selection.has("databases") && self.rng.one_in(self.options.flush_one_in) => self.flush(),
                _ => self.contended(),
            }
        }
    }

    fn push<A: AsRef<[u8]>>(&mut self, args: &[A], expect: Expect) {
        resp::encode(args, &mut self.bytes);
        let text = args.iter().map(|arg| arg.as_ref()).collect::<Vec<_>>().join(&b' ');
        self.sent.push((text, expect));
    }

    fn select(&mut self, database: u64) {
        self.database = database;
        let index = database.to_string();
        self.push(&["SELECT", &index], Expect::Exactly(Value::Simple(b"OK".to_vec())));
    }

    fn contended(&mut self) {
        let row = self.table.draw(&mut self.rng);
        let args = {
            let shared = self.shared.borrow();
            let (keys, ids, shas) = (self.options.keys, shared.ids.as_slice(), self.shas.as_slice());
            self.table.rows[row].generate(&mut Draw { rng: &mut self.rng, keys, ids, shas })
        };
        self.push(&args, Expect::Row(row));
    }

    fn mark(&mut self) {
        self.marks += 1;
        let mark = format!("client {} mark {}", self.id, self.marks).into_bytes();
        self.push(&[b"ECHO".to_vec(), mark.clone()], Expect::Exactly(Value::Bulk(mark)));
    }

    /// Rare and wide: two databases swapped, or one emptied. Never those that hold own keys.
    fn flush(&mut self) {
        let ok = || Expect::Exactly(Value::Simple(b"OK".to_vec()));
        if self.rng.one_in(2) {
            self.push(&["SWAPDB", "2", "3"], ok());
        } else {
            self.select(3);
            self.push(&["FLUSHDB"], ok());
        }
    }

    /// MULTI ... EXEC; now and then one that is discarded, or aborted by an error at queue time.
    fn block(&mut self) {
        let ok = || Expect::Exactly(Value::Simple(b"OK".to_vec()));
        let ending = self.rng.below(12);
        let mut before = (self.own.clone(), self.database);
        let queued_from = {
            self.push(&["MULTI"], ok());
            self.sent.len()
        };
        for _ in 0..self.rng.between(0, 6) {
            match self.rng.below(12) {
                0..3 => self.own(),
                3 if self.rng.one_in(8) => {
                    let database = self.rng.below(4);
                    self.select(database);
                }
                4 => self.mark(),
                _ => self.contended(),
            }
        }
        if ending == 0 {
            self.push(&["GET"], Expect::Refused("ERR wrong number of arguments for 'get' command"));
        }
        let queued = Value::Simple(b"QUEUED".to_vec());
        let mut inside = Vec::new();
        let mut aborts = ending == 0;
        for (command, expect) in &mut self.sent[queued_from..] {
            // A command that can only be refused at queue time aborts the block.
            let refused_now = match expect {
                Expect::Refused(_) => true,
                Expect::Row(row) => self.table.rows[*row].refused_at_queue_time(),
                _ => false,
            };
            aborts |= refused_now;
            if !refused_now {
                let expected = std::mem::replace(expect, Expect::Exactly(queued.clone()));
                inside.push((command.clone(), expected));
            }
        }
        if ending == 1 {
            self.push(&["DISCARD"], ok());
        } else if aborts {
            self.push(&["EXEC"], Expect::Refused("EXECABORT Transaction discarded because of previous errors."));
        } else {
            self.push(&["EXEC"], Expect::Block(inside));
            before = (std::mem::take(&mut self.own), self.database);
        }
        // What was discarded or aborted never happened, SELECTs included.
        (self.own, self.database) = before;
    }

    // ------------------------------------------------------------------------------------------- own keys

    fn own_key(&self, name: &str) -> Vec<u8> {
        format!("own:{}:{}:{}:{name}", self.options.run, self.id, self.database).into_bytes()
    }

    /// A command on a key of its own, and the one reply that is right.
    fn own(&mut self) {
        if self.database >= OWN_DATABASES {
            let database = self.rng.below(OWN_DATABASES);
            self.select(database);
        }
        let database = self.database;
        let slot = self.rng.below(4);
        let string_key = self.own_key(&format!("s{slot}"));
        let bulk = |value: Option<Vec<u8>>| Expect::Exactly(value.map_or(Value::NilBulk, Value::Bulk));
        let int = |value: usize| Expect::Exactly(Value::Int(value as i64));
        self.marks += 1;
        let fresh = format!("{}-{}", self.id, self.marks).into_bytes();
        match self.rng.below(16) {
            0..5 => {
                let next = self.own.counters.entry(database).or_default();
                *next += 1;
                let expect = Expect::Exactly(Value::Int(*next));
                let key = self.own_key("counter");
                self.push(&[b"INCR".to_vec(), key], expect);
            }
            5..7 => {
                self.own.strings.insert((database, slot), fresh.clone());
                let ok = Expect::Exactly(Value::Simple(b"OK".to_vec()));
                self.push(&[b"SET".to_vec(), string_key.clone(), fresh.clone()], ok);
                self.push(&[b"GET".to_vec(), string_key], bulk(Some(fresh)));
            }
            7..10 => {
                let known = self.own.strings.get(&(database, slot)).cloned();
                self.push(&[b"GET".to_vec(), string_key], bulk(known));
            }
            10 => {
                let value = self.own.strings.entry((database, slot)).or_default();
                value.extend_from_slice(&fresh);
                let length = value.len();
                self.push(&[b"APPEND".to_vec(), string_key, fresh], int(length));
            }
            11 => {
                let before = self.own.strings.remove(&(database, slot));
                self.push(&[b"GETDEL".to_vec(), string_key], bulk(before));
            }
            12 => {
                let before = self.own.strings.insert((database, slot), fresh.clone());
                let args = [b"SET".to_vec(), string_key, fresh, b"GET".to_vec()];
                self.push(&args, bulk(before));
            }
            13 => {
                let list = self.own.lists.entry(database).or_default();
                list.push_back(fresh.clone());
                let length = list.len();
                let key = self.own_key("list");
                self.push(&[b"RPUSH".to_vec(), key, fresh], int(length));
            }
            14 => {
                let first = self.own.lists.entry(database).or_default().pop_front();
                let key = self.own_key("list");
                self.push(&[b"LPOP".to_vec(), key], bulk(first));
            }
            _ => {
                let field = self.rng.below(3);
                let by = self.rng.between(-9, 9);
                let number = self.own.hashes.entry(database).or_default().entry(field).or_default();
                *number += by;
                let expect = Expect::Exactly(Value::Int(*number));
                let key = self.own_key("hash");
                let args = [b"HINCRBY".to_vec(), key, field.to_string().into_bytes(), by.to_string().into_bytes()];
                self.push(&args, expect);
            }
        }
    }

    // ------------------------------------------------------------------------------------------- checking

    fn check(&self, command: &[u8], expect: &Expect, reply: &Value) {
        if let Expect::Block(queued) = expect {
            match reply {
                Value::Array(replies) if replies.len() == queued.len() => {
                    for ((command, expect), reply) in queued.iter().zip(replies) {
                        self.check(command, expect, reply);
                    }
                }
                _ => self.surprise(command, &format!("an array of {}", queued.len()), reply),
            }
            return;
        }
        let right = match expect {
            Expect::Row(row) => self.table.rows[*row].allows(reply, self.resp),
            Expect::SomeInt => matches!(reply, Value::Int(_)),
            Expect::Exactly(Value::NilBulk) => *reply == if self.resp == 3 { Value::Null } else { Value::NilBulk },
            Expect::Exactly(value) => value == reply,
            Expect::Refused(start) => {
                matches!(reply, Value::Error(text) if text.starts_with(start.as_bytes()))
            }
            Expect::Block(_) => true,
        };
        if !right {
            let expected = match expect {
                Expect::Row(row) => self.table.rows[*row].expectation().to_owned(),
                Expect::Exactly(value) => format!("exactly {value}"),
                other => format!("{other:?}"),
            };
            self.surprise(command, &expected, reply);
        }
        if let Expect::Row(row) = expect {
            let mut shared = self.shared.borrow_mut();
            shared.seen(*row, matches!(reply, Value::Error(_)));
            if let (true, Value::Bulk(id)) = (command.starts_with(b"XADD"), reply) {
                shared.remember_id(id.clone());
            }
        }
    }

    fn surprise(&self, command: &[u8], expected: &str, reply: &Value) {
        let story =
            format!("client {} (RESP{}) sent {}\n    expected {expected}\n    got      {}", self.id, self.resp, show(command), reply,);
        self.shared.borrow_mut().surprised(command, expected.starts_with("exactly"), story);
    }
}

/// The counter that all clients raise under WATCH.
pub fn watched_key(run: u64) -> Vec<u8> {
    format!("watched:{run}").into_bytes()
}

/// Loads the scripts of the table; their digests, in order.
pub async fn load_scripts(client: &mut Client) -> Result<Vec<Vec<u8>>> {
    let mut shas = Vec::new();
    for (_, body) in SCRIPTS {
        match client.ask(&[b"SCRIPT", b"LOAD", body.as_bytes()]).await? {
            Value::Bulk(sha) => shas.push(sha),
            other => anyhow::bail!("SCRIPT LOAD answered {other:?}"),
        }
    }
    Ok(shas)
}
