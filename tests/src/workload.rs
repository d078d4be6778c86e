//! A compact workload that keeps real promises in view: the demo's clients, and a load for any integration test.
//!
//! Every client is a thread with one blocking connection. Most of what it does is writes to a few contended keys of
//! every type family, in pipelines and in MULTI; between them it counts on a counter of its own (which must never skip
//! or repeat) and reads back what it wrote (which must be there). Keys of one name have one type, so that **no error at
//! all** is expected: every error reply, every broken promise and every lost connection is counted and the first are
//! kept with the command that brought them. Needs Redis 6.2 or later on the other end.
//!
//! The fuller contended run, with every family's every command, is the load generator's.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::resp::{Client, Command, Value, command};

/// How many complaints are kept word for word.
const COMPLAINTS_MAX: usize = 20;
/// Keys that each client writes for itself alone.
const OWN_KEYS: u64 = 32;
/// A client that gets no answer for this long has been let down.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// How many, how contended, which seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Client threads.
    pub clients: usize,
    /// Contended keys per type.
    pub keys: u64,
    /// Makes the choice of commands repeatable, client by client.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { clients: 8, keys: 4, seed: 1 }
    }
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Commands sent and answered.
    pub commands: u64,
    /// Error replies; none is expected.
    pub errors: u64,
    /// Lost connections and silences.
    pub disconnects: u64,
    /// Counters that skipped or repeated, reads that did not see the client's own write.
    pub broken_promises: u64,
    /// The longest that one client waited for one answer.
    pub longest_pause: Duration,
    /// The first errors, losses and broken promises in words.
    pub complaints: Vec<String>,
    /// Every client's own counter with the last value it was told.
    pub counters: Vec<(String, i64)>,
}

impl Summary {
    /// No error, no loss, no broken promise, and not by doing nothing.
    pub fn is_clean(&self) -> bool {
        self.commands > 0 && self.errors == 0 && self.disconnects == 0 && self.broken_promises == 0
    }
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(String, i64)>>,
}

/// What all clients of a workload write to.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    commands: AtomicU64,
    errors: AtomicU64,
    disconnects: AtomicU64,
    broken_promises: AtomicU64,
    /// Microseconds, since the start and since it was last taken.
    longest_pause: AtomicU64,
    recent_pause: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

impl Workload {
    /// Prepares the consumer groups and starts the clients.
    pub fn start(address: &str, options: &Options) -> Result<Workload> {
        prepare(address, options).context("preparing the workload")?;
        let shared = Arc::new(Shared::default());
        let spawn = |id: usize| {
            let (shared, address, keys) = (shared.clone(), address.to_string(), options.keys);
            let random = Random::new(options.seed, id as u64);
            std::thread::spawn(move || Worker { id, address, keys, random, shared, counter: 0, cycle: 0 }.run())
        };
        let threads = (0..options.clients).map(spawn).collect();
        Ok(Workload { shared, threads })
    }

    /// Commands answered so far.
    pub fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::Relaxed)
    }

    /// The longest pause since this was last asked.
    pub fn take_longest_pause(&self) -> Duration {
        Duration::from_micros(self.shared.recent_pause.swap(0, Ordering::Relaxed))
    }

    /// Lets every client finish what it is at, and says what they saw.
    pub fn stop(self) -> Summary {
        self.shared.stop.store(true, Ordering::Relaxed);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counters = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(counter) => counters.push(counter),
                Err(_) => self.shared.broken("a client thread panicked".to_string()),
            }
        }
        Summary {
            commands: count(&self.shared.commands),
            errors: count(&self.shared.errors),
            disconnects: count(&self.shared.disconnects),
            broken_promises: count(&self.shared.broken_promises),
            longest_pause: Duration::from_micros(count(&self.shared.longest_pause)),
            complaints: self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            counters,
        }
    }
}

impl Shared {
    fn complain(&self, what: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(what);
        }
    }

    fn broken(&self, what: String) {
        self.broken_promises.fetch_add(1, Ordering::Relaxed);
        self.complain(what);
    }

    fn answered(&self, commands: usize, pause: Duration) {
        let micros = pause.as_micros() as u64;
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
        self.longest_pause.fetch_max(micros, Ordering::Relaxed);
        self.recent_pause.fetch_max(micros, Ordering::Relaxed);
    }
}

/// The streams and their groups exist before anybody reads through them.
fn prepare(address: &str, options: &Options) -> Result<()> {
    let mut client = Client::connect(address)?;
    for key in 0..options.keys {
        let reply = client.cmd(&format!("XGROUP CREATE stream:{key} workers $ MKSTREAM"))?;
        let exists = reply.error().is_some_and(|error| error.starts_with("BUSYGROUP"));
        anyhow::ensure!(reply.is_ok() || exists, "XGROUP CREATE answers {reply}");
    }
    Ok(())
}

/// One client.
struct Worker {
    id: usize,
    address: String,
    keys: u64,
    random: Random,
    shared: Arc<Shared>,
    /// The value our own counter was last told to have.
    counter: i64,
    /// Makes every own write different from the last.
    cycle: u64,
}

impl Worker {
    /// Works until told to stop; a lost connection is counted and replaced.
    fn run(mut self) -> (String, i64) {
        while !self.stopped() {
            if let Err(error) = self.life() {
                self.shared.disconnects.fetch_add(1, Ordering::Relaxed);
                self.shared.complain(format!("client {} lost its connection: {error}", self.id));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        (self.counter_key(), self.counter)
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// One connection's life.
    fn life(&mut self) -> io::Result<()> {
        let mut client = Client::connect_within(&self.address, CLIENT_TIMEOUT)?;
        let found = self.one(&mut client, command(&format!("GET {}", self.counter_key())))?;
        self.counter = found.text().parse().unwrap_or(0);
        while !self.stopped() {
            match self.random.below(10) {
                0 => self.count(&mut client)?,
                1 => self.read_own_write(&mut client)?,
                2 => self.transaction(&mut client)?,
                3 => self.consume(&mut client)?,
                4 => drop(self.single(&mut client)?),
                _ => self.batch(&mut client)?,
            }
        }
        Ok(())
    }

    /// Our own counter goes up by one, and never otherwise.
    fn count(&mut self, client: &mut Client) -> io::Result<()> {
        let reply = self.one(client, command(&format!("INCR {}", self.counter_key())))?;
        self.check_counter(&reply);
        Ok(())
    }

    fn check_counter(&mut self, reply: &Value) {
        if reply.int() != Some(self.counter + 1) {
            let (key, last) = (self.counter_key(), self.counter);
            self.shared.broken(format!("{key} was {last}, and INCR answers {reply}"));
        }
        self.counter = reply.int().unwrap_or(self.counter);
    }

    /// What we wrote is what we read, in one pipeline or in two steps.
    fn read_own_write(&mut self, client: &mut Client) -> io::Result<()> {
        self.cycle += 1;
        let key = format!("own:{}:{}", self.id, self.random.below(OWN_KEYS));
        let value = format!("{}-{}", self.cycle, self.random.next());
        let (set, get) = (command(&format!("SET {key} {value}")), command(&format!("GET {key}")));
        let found = if self.random.below(2) == 0 {
            self.round(client, &[set, get])?.pop()
        } else {
            self.one(client, set)?;
            Some(self.one(client, get)?)
        };
        if found.as_ref().and_then(Value::bytes) != Some(value.as_bytes()) {
            self.shared.broken(format!("{key} was set to {value}, and GET answers {found:?}"));
        }
        Ok(())
    }

    /// A few contended commands and our own counter, all or nothing.
    fn transaction(&mut self, client: &mut Client) -> io::Result<()> {
        let mut commands = vec![command("MULTI")];
        commands.extend((0..1 + self.random.below(3)).map(|_| self.contended()));
        // RENAME needs its source, which here nobody can take away in between.
        let (from, to) = (format!("str:{}", self.key()), format!("str:{}", self.key()));
        commands.push(command(&format!("SET {from} moved")));
        commands.push(command(&format!("RENAME {from} {to}")));
        commands.push(command(&format!("INCR {}", self.counter_key())));
        commands.push(command("EXEC"));
        let mut replies = self.round(client, &commands)?;
        let Some(exec) = replies.pop() else {
            return Ok(());
        };
        for (command, reply) in commands[1..].iter().zip(exec.items()) {
            self.check_error(command, reply);
        }
        match exec.items().last() {
            Some(counter) if exec.items().len() == commands.len() - 2 => self.check_counter(&counter.clone()),
            _ => self.shared.broken(format!("EXEC of {} commands answers {exec}", commands.len() - 2)),
        }
        Ok(())
    }

    /// Takes entries from a stream through the group, and acknowledges most of them.
    fn consume(&mut self, client: &mut Client) -> io::Result<()> {
        let stream = format!("stream:{}", self.key());
        let read = format!("XREADGROUP GROUP workers w{} COUNT 3 STREAMS {stream} >", self.id);
        let reply = self.one(client, command(&read))?;
        let entries = reply.items().first().and_then(|stream| stream.items().get(1)).map(Value::items);
        let ids = entries.unwrap_or_default().iter().filter_map(|entry| entry.items().first()).map(Value::text);
        for id in ids.collect::<Vec<_>>() {
            if self.random.below(4) > 0 {
                self.one(client, command(&format!("XACK {stream} workers {id}")))?;
            }
        }
        Ok(())
    }

    fn single(&mut self, client: &mut Client) -> io::Result<Value> {
        let command = self.contended();
        self.one(client, command)
    }

    fn batch(&mut self, client: &mut Client) -> io::Result<()> {
        let commands: Vec<Command> = (0..2 + self.random.below(15)).map(|_| self.contended()).collect();
        self.round(client, &commands).map(drop)
    }

    fn one(&mut self, client: &mut Client, command: Command) -> io::Result<Value> {
        let mut replies = self.round(client, &[command])?;
        replies.pop().ok_or_else(|| io::Error::other("no reply"))
    }

    /// One pipeline: timed, counted, and every reply looked at.
    fn round(&mut self, client: &mut Client, commands: &[Command]) -> io::Result<Vec<Value>> {
        let start = Instant::now();
        let replies = client.pipeline(commands)?;
        self.shared.answered(commands.len(), start.elapsed());
        for (command, reply) in commands.iter().zip(&replies) {
            self.check_error(command, reply);
        }
        Ok(replies)
    }

    fn check_error(&self, command: &Command, reply: &Value) {
        if let Some(error) = reply.error() {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
            let words: Vec<String> = command.iter().map(|word| word[..word.len().min(60)].escape_ascii().to_string()).collect();
            self.shared.complain(format!("{}: {error}", words.join(" ")));
        }
    }

    fn counter_key(&self) -> String {
        format!("counter:{}", self.id)
    }

    fn key(&mut self) -> u64 {
        self.random.below(self.keys)
    }

    /// A command on contended keys, of any family.
    fn contended(&mut self) -> Command {
        let (k, l) = (self.key(), self.key());
        let n = self.random.below(40);
        let (id, pick) = (self.id, self.random.below(10));
        if self.random.below(400) == 0 {
            return vec![b"SET".to_vec(), format!("big:{k}").into_bytes(), vec![b'a' + id as u8 % 26; 100_000]];
        }
        let line = match self.random.below(11) {
            0 => string(pick, k, l, n, id),
            1 => number(pick, k, n),
            2 => bits_and_hll(pick, k, l, n, id),
            3 => hash(pick, k, n, id),
            4 => list(pick, k, l, n, id),
            5 => set(pick, k, l, n),
            6 => sorted_set(pick, k, l, n, id),
            7 => geo(pick, k, l, n),
            8 => stream(pick, k, n, id),
            9 => expiry(pick, k, n, id),
            _ => read(pick, k, n),
        };
        command(&line)
    }
}

// The families. Each takes a pick of 0 to 9, two keys, a small number, and the client's id to write something of its own.

fn string(pick: u64, k: u64, l: u64, n: u64, id: usize) -> String {
    match pick {
        0..=2 => format!("SET str:{k} {id}-{n}"),
        3 => format!("GETSET str:{k} {id}-{n}"),
        4 => format!("SETRANGE str:{k} {n} x{id}"),
        5 => format!("MSET str:{k} a{n} str:{l} b{n}"),
        6 => format!("COPY str:{k} copied:{l} REPLACE"),
        7 => format!("SETNX str:{k} {id}"),
        8 => format!("GETDEL str:{k}"),
        _ => format!("DEL str:{k}"),
    }
}

fn number(pick: u64, k: u64, n: u64) -> String {
    match pick {
        0..=3 => format!("INCRBY num:{k} {n}"),
        4..=5 => format!("DECR num:{k}"),
        6..=8 => format!("INCRBYFLOAT float:{k} {n}.1"),
        _ => format!("SET num:{k} {n}"),
    }
}

fn bits_and_hll(pick: u64, k: u64, l: u64, n: u64, id: usize) -> String {
    match pick {
        0..=2 => format!("SETBIT bits:{k} {n} 1"),
        3 => format!("BITFIELD bits:{k} INCRBY u8 {n} 1 GET u4 0"),
        4 => format!("BITOP XOR bits:{k} bits:{k} bits:{l}"),
        5..=7 => format!("PFADD hll:{k} {id}:{n}"),
        8 => format!("PFMERGE hll:{k} hll:{l}"),
        _ => format!("PFCOUNT hll:{k}"),
    }
}

fn hash(pick: u64, k: u64, n: u64, id: usize) -> String {
    match pick {
        0..=3 => format!("HSET hash:{k} f{n} {id} g{n} {n}"),
        4 => format!("HINCRBY hash:{k} count {n}"),
        5 => format!("HINCRBYFLOAT hash:{k} sum 0.{n}"),
        6 => format!("HDEL hash:{k} f{n} g{n}"),
        7 => format!("HSETNX hash:{k} f{n} {id}"),
        8 => format!("HGETALL hash:{k}"),
        _ => format!("HRANDFIELD hash:{k} 2"),
    }
}

fn list(pick: u64, k: u64, l: u64, n: u64, id: usize) -> String {
    match pick {
        0..=1 => format!("RPUSH list:{k} {id}:{n} {n}"),
        2..=3 => format!("LPUSH list:{k} {id}:{n}"),
        4 => format!("LPOP list:{k}"),
        5 => format!("RPOP list:{k} 2"),
        6 => format!("LMOVE list:{k} list:{l} LEFT RIGHT"),
        7 => format!("LREM list:{k} 1 {n}"),
        8 => format!("LINSERT list:{k} BEFORE {n} in{id}"),
        _ => format!("LTRIM list:{k} 0 60"),
    }
}

fn set(pick: u64, k: u64, l: u64, n: u64) -> String {
    match pick {
        0..=3 => format!("SADD set:{k} {n} m{n}"),
        4 => format!("SREM set:{k} {n}"),
        5 => format!("SPOP set:{k}"),
        6 => format!("SPOP set:{k} 3"),
        7 => format!("SMOVE set:{k} set:{l} {n}"),
        8 => format!("SUNIONSTORE set:{k} set:{k} set:{l}"),
        _ => format!("SORT set:{k} ALPHA LIMIT 0 5 STORE sorted:{l}"),
    }
}

fn sorted_set(pick: u64, k: u64, l: u64, n: u64, id: usize) -> String {
    match pick {
        0..=2 => format!("ZADD zset:{k} {n}.{id} m{n}"),
        3 => format!("ZADD zset:{k} GT {n} m{n}"),
        4 => format!("ZINCRBY zset:{k} 0.{n} m{n}"),
        5 => format!("ZPOPMIN zset:{k}"),
        6 => format!("ZPOPMAX zset:{k} 2"),
        7 => format!("ZREM zset:{k} m{n}"),
        8 => format!("ZUNIONSTORE zset:{k} 2 zset:{k} zset:{l} AGGREGATE MAX"),
        _ => format!("ZREMRANGEBYRANK zset:{k} 30 -1"),
    }
}

fn geo(pick: u64, k: u64, l: u64, n: u64) -> String {
    match pick {
        0..=6 => format!("GEOADD geo:{k} 13.{n} 52.{n} place{n}"),
        7 => format!("GEOSEARCHSTORE near:{l} geo:{k} FROMLONLAT 13.2 52.2 BYRADIUS 30 km ASC"),
        8 => format!("ZREM geo:{k} place{n}"),
        _ => format!("GEOSEARCH geo:{k} FROMLONLAT 13.2 52.2 BYRADIUS 30 km ASC COUNT 3"),
    }
}

fn stream(pick: u64, k: u64, n: u64, id: usize) -> String {
    match pick {
        0..=5 => format!("XADD stream:{k} * client {id} n {n}"),
        6 => format!("XADD stream:{k} MAXLEN ~ 200 * client {id}"),
        7 => format!("XTRIM stream:{k} MAXLEN 100"),
        8 => format!("XAUTOCLAIM stream:{k} workers w{id} 0 0 COUNT 2"),
        _ => format!("XGROUP CREATECONSUMER stream:{k} workers extra{n}"),
    }
}

/// Short lives only for keys that are always written whole; long ones for anything.
fn expiry(pick: u64, k: u64, n: u64, id: usize) -> String {
    match pick {
        0..=2 => format!("SET short:{k} {id} PX {}", 100 + n * 20),
        3 => format!("SETEX long:{k} 300 {n}"),
        4 => format!("EXPIRE hash:{k} {}", 300 + n),
        5 => format!("PEXPIRE zset:{k} {}", 300_000 + n),
        6 => format!("PERSIST hash:{k}"),
        7 => format!("GETEX long:{k} EX {}", 300 + n),
        8 => format!("EXPIRE list:{k} 400"),
        _ => format!("UNLINK set:{k} long:{k}"),
    }
}

fn read(pick: u64, k: u64, n: u64) -> String {
    match pick {
        0 => format!("GET str:{k}"),
        1 => format!("LRANGE list:{k} 0 -1"),
        2 => format!("SMEMBERS set:{k}"),
        3 => format!("ZRANGE zset:{k} 0 -1 WITHSCORES"),
        4 => format!("HMGET hash:{k} f{n} count"),
        5 => format!("XRANGE stream:{k} - + COUNT 5"),
        6 => format!("MGET str:{k} num:{k} none"),
        7 => format!("TTL hash:{k}"),
        8 => format!("EXISTS str:{k} set:{k}"),
        _ => format!("BITCOUNT bits:{k}"),
    }
}

/// xorshift64*: enough to mix commands, and the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Random {
        Random((seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 33) % bound.max(1)
    }
}
