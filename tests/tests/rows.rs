//! Every row of the command table that the proxy carries, two hundred times, through the proxy on real servers.
//!
//! The table says of each command what its effect on the mirror is; this test asks the servers. After every single invocation
//! (RESP2 and RESP3 clients take turns) the keys that it names are compared on both sides, and after every dozen or row the whole
//! keyspaces by the comparer. The proxy runs with `ack = "both"`, so that a reply means that the mirror has confirmed. A third,
//! plain server gets the same commands directly: what it answers is what the client behind the proxy must see (I3), byte for
//! byte where chance and clocks are not part of the answer.
//!
//! A row without a generator fails, and so does one whose invocations never changed anything: it would prove nothing.
//! `TWINLANE_ROWS=SET,XADD` runs a few rows only, `TWINLANE_SEED=n` makes other invocations.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::time::Duration;

use anyhow::Result;
use twinlane_core::command::{Class, Table};
use twinlane_model::invocations::{self, Command};
use twinlane_tests::compare::{self, compare};
use twinlane_tests::pair::{Pair, Setup, until};
use twinlane_tests::resp::{Client, Value, command};
use twinlane_tests::servers::{Server, Version};

const INVOCATIONS: usize = 200;
/// Rows whose effect is no change of the data set, and which are looked at in another way.
const NO_DATA: [&str; 4] = ["PUBLISH", "SPUBLISH", "SCRIPT LOAD", "SCRIPT FLUSH"];

fn seed() -> u64 {
    std::env::var("TWINLANE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// A pair that answers writes when the mirror has them.
fn pair(old: Version, new: Version) -> Pair {
    let mut setup = Setup::of(old, new);
    setup.proxy.args = ["--ack", "both", "--set", "mirror.ack_timeout_ms=10000"].map(String::from).to_vec();
    Pair::start(setup).unwrap()
}

/// Rows of these classes that the server has, in the table's order.
fn rows(server: &Server, classes: &[Class]) -> Vec<&'static str> {
    let wanted = std::env::var("TWINLANE_ROWS").unwrap_or_default();
    let mut client = server.client().unwrap();
    let carried = Table::get().rows().iter().filter(|row| classes.contains(&row.class)).map(|row| row.name);
    carried
        .filter(|row| wanted.is_empty() || wanted.split(',').any(|name| name == *row))
        .filter(|row| {
            let name = row.to_lowercase().replace(' ', "|");
            let info = client.call(&[b"COMMAND", b"INFO", name.as_bytes()]).unwrap();
            info.items().first().is_some_and(|info| !info.is_nil())
        })
        .collect()
}

/// Preparation and invocations; the few rows whose effect is not in the data set have theirs here.
fn session(row: &str, count: usize) -> Vec<(bool, Command)> {
    let seed = row.bytes().fold(seed(), |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    if ["PUBLISH", "SPUBLISH"].contains(&row) {
        return (0..count).map(|at| (true, command(&format!("{row} channel:{} message:{at}", at % 3)))).collect();
    }
    if row == "SCRIPT LOAD" {
        let load = |at: usize| vec![b"SCRIPT".to_vec(), b"LOAD".to_vec(), format!("return {}", at % 50).into_bytes()];
        return (0..count).map(|at| (true, load(at))).collect();
    }
    invocations::session(row, seed, count)
}

fn show(command: &Command) -> String {
    let words: Vec<String> = command.iter().map(|word| word[..word.len().min(80)].escape_ascii().to_string()).collect();
    words.join(" ")
}

/// How closely the proxy's reply must be the plain server's.
#[derive(Clone, Copy, PartialEq)]
enum Judge {
    Exact,
    /// Order is the server's own affair.
    Unordered,
    /// Clocks: numbers within three seconds.
    Clock,
    /// Chance or addresses: an error or no error.
    Kind,
}

impl Judge {
    fn of(row: &str, command: &Command) -> Judge {
        let has = |word: &str| command.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
        match row {
            "SPOP" | "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "RANDOMKEY" | "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN" | "XADD"
            | "EVAL" | "EVAL_RO" | "FCALL" | "FCALL_RO" | "EVALSHA" | "EVALSHA_RO" | "DUMP" | "FUNCTION LIST" | "FUNCTION STATS"
            | "FUNCTION DUMP" | "FUNCTION RESTORE" => Judge::Kind,
            row if row.starts_with("OBJECT") || row.starts_with("MEMORY") || row.starts_with("PUBSUB") || row.ends_with("HELP") => {
                Judge::Kind
            }
            "XTRIM" if has("~") => Judge::Kind,
            // Whether a deadline is later than one of the same milliseconds is chance.
            "EXPIRE" | "PEXPIRE" if has("GT") || has("LT") => Judge::Kind,
            "TTL" | "PTTL" | "EXPIRETIME" | "PEXPIRETIME" | "XPENDING" | "XINFO CONSUMERS" | "XINFO GROUPS" | "XINFO STREAM" => {
                Judge::Clock
            }
            "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "KEYS" | "HGETALL" | "HKEYS" | "HVALS" | "SORT" | "SORT_RO" | "COMMAND LIST" => {
                Judge::Unordered
            }
            _ => Judge::Exact,
        }
    }

    fn agrees(self, a: &Value, b: &Value) -> bool {
        match self {
            Judge::Exact => a == b,
            Judge::Unordered => sorted(a) == sorted(b),
            Judge::Clock => near(a, b),
            Judge::Kind => a.is_error() == b.is_error(),
        }
    }

    /// The third server may hold something else from here on, until the pool is made anew.
    fn parts_ways(self, row: &str) -> bool {
        self == Judge::Kind && !matches!(row, "EXPIRE" | "PEXPIRE" | "FUNCTION RESTORE" | "SCAN" | "DUMP" | "RANDOMKEY" | "SRANDMEMBER")
    }
}

fn sorted(value: &Value) -> Vec<String> {
    let mut parts: Vec<String> = match value {
        Value::Map(pairs) => pairs.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        Value::Array(items) if items.len() % 2 == 0 && items.iter().all(|item| item.bytes().is_some()) => {
            items.iter().map(Value::to_string).collect()
        }
        Value::Array(items) | Value::Set(items) => items.iter().map(Value::to_string).collect(),
        other => vec![other.to_string()],
    };
    parts.sort();
    parts
}

fn near(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => (a - b).abs() <= 3_000 || (*a > 0 && *b > 0 && (a - b).abs() <= 3_000),
        (Value::Map(a), Value::Map(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(&a.0, &b.0) && near(&a.1, &b.1)),
        _ if !a.items().is_empty() => a.items().len() == b.items().len() && a.items().iter().zip(b.items()).all(|(a, b)| near(a, b)),
        _ => a == b,
    }
}

/// One protocol's connections: through the proxy, and to the third server.
struct Voice {
    proxy: Client,
    plain: Client,
}

impl Voice {
    fn new(pair: &Pair, plain: &Server, resp3: bool) -> Voice {
        let mut voice = Voice { proxy: pair.client().unwrap(), plain: plain.client().unwrap() };
        if resp3 {
            voice.proxy.hello3().unwrap();
            voice.plain.hello3().unwrap();
        }
        voice
    }
}

/// Direct connections to both sides, for looking at keys.
struct Eyes {
    old: Client,
    new: Client,
    changes: u64,
}

impl Eyes {
    fn new(pair: &Pair) -> Eyes {
        Eyes { old: pair.old.client().unwrap(), new: pair.new.client().unwrap(), changes: 0 }
    }

    /// Whether the primary's data set has changed since this was last asked.
    fn changed(&mut self) -> bool {
        let info = self.old.cmd("INFO persistence").unwrap().text();
        let now = info
            .lines()
            .find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0);
        std::mem::replace(&mut self.changes, now) != now
    }

    /// Where the two sides differ in the keys that a command may have touched: digest and time to live.
    fn differ(&mut self, command: &Command) -> Option<String> {
        let mut keys: Vec<&Vec<u8>> = command[1..].iter().filter(|word| word.len() < 64).collect();
        keys.sort();
        keys.dedup();
        let mut looks: Vec<Command> =
            vec![[b"DEBUG".to_vec(), b"DIGEST-VALUE".to_vec()].into_iter().chain(keys.iter().map(|key| (*key).clone())).collect()];
        looks.extend(keys.iter().map(|key| vec![b"PTTL".to_vec(), (*key).clone()]));
        let (old, new) = (self.old.pipeline(&looks).unwrap(), self.new.pipeline(&looks).unwrap());
        for (at, key) in keys.iter().enumerate() {
            let (old_digest, new_digest) = (&old[0].items()[at], &new[0].items()[at]);
            if old_digest != new_digest {
                return Some(format!("{}: digest {old_digest} on old, {new_digest} on new", key.escape_ascii()));
            }
            let (old_ttl, new_ttl) = (old[at + 1].int().unwrap_or(0), new[at + 1].int().unwrap_or(0));
            if old_ttl.min(new_ttl) < 0 && old_ttl != new_ttl || (old_ttl - new_ttl).abs() > 2_000 {
                return Some(format!("{}: {old_ttl} ms to live on old, {new_ttl} on new", key.escape_ascii()));
            }
        }
        None
    }
}

#[test]
fn every_carried_row_reaches_the_mirror_and_answers_as_a_plain_server() {
    let pair = pair(Version::Redis70, Version::Redis70);
    let plain = Server::plain(Version::Redis70).unwrap();
    let mut run = Run {
        voices: [Voice::new(&pair, &plain, false), Voice::new(&pair, &plain, true)],
        eyes: Eyes::new(&pair),
        pair: &pair,
        complaints: Vec::new(),
        invocations: 0,
    };
    let writes = rows(&pair.old, &[Class::Write, Class::Blocking, Class::Barrier, Class::Keyless]);
    let reads = rows(&pair.old, &[Class::Read, Class::Cursor]);
    for row in &writes {
        run.row(row, true);
    }
    for row in reads.iter().filter(|row| invocations::since(row).is_some()) {
        run.row(row, false);
    }
    println!("{} rows that write, {} that read, {} invocations", writes.len(), reads.len(), run.invocations);
    assert!(run.complaints.is_empty(), "{} complaints:\n{}\n{}", run.complaints.len(), run.complaints.join("\n"), pair.proxy.log_tail());
}

struct Run<'a> {
    pair: &'a Pair,
    voices: [Voice; 2],
    eyes: Eyes,
    complaints: Vec<String>,
    invocations: usize,
}

impl Run<'_> {
    fn row(&mut self, row: &str, writes: bool) {
        let before = self.complaints.len();
        let session = session(row, INVOCATIONS);
        if session.is_empty() {
            return self.complaints.push(format!("{row}: carried, and no generator makes invocations of it"));
        }
        let (mut effects, mut together, mut history) = (0, true, Vec::new());
        let mut made = 0;
        for (is_invocation, command) in &session {
            if !is_invocation {
                if !history.is_empty() {
                    self.keyspaces(row, &history, row.starts_with('X') || row.starts_with("PF"));
                    history.clear();
                    together = true;
                    self.empty_everything();
                }
                self.prepare(row, command);
                self.eyes.changed();
                continue;
            }
            made += 1;
            history.push(show(command));
            together &= self.invoke(row, command, made % 2, together);
            effects += usize::from(self.eyes.changed());
            if self.complaints.len() > before + 2 {
                break;
            }
        }
        self.keyspaces(row, &history, true);
        if writes && effects == 0 && !NO_DATA.contains(&row) && self.complaints.len() == before {
            self.complaints.push(format!("{row}: {made} invocations, and none changed anything"));
        }
        self.no_data(row);
        self.invocations += made;
        self.empty_everything();
    }

    fn prepare(&mut self, row: &str, command: &Command) {
        let voice = &mut self.voices[0];
        let (proxy, plain) = (voice.proxy.call_all(command).unwrap(), voice.plain.call_all(command).unwrap());
        if proxy.is_error() || proxy.is_error() != plain.is_error() {
            self.complaints.push(format!("{row}: preparing with {} answers {proxy}, plain {plain}", show(command)));
        }
    }

    /// The third server too begins anew, whatever databases were swapped or filled.
    fn empty_everything(&mut self) {
        let voice = &mut self.voices[0];
        voice.proxy.cmd("FLUSHALL").unwrap();
        voice.plain.cmd("FLUSHALL").unwrap();
    }

    /// One invocation; whether the third server is still comparable.
    fn invoke(&mut self, row: &str, command: &Command, voice: usize, together: bool) -> bool {
        let voice = &mut self.voices[voice];
        let proxy =
            voice.proxy.call_all(command).unwrap_or_else(|error| panic!("{}: {error}\n{}", show(command), self.pair.proxy.log_tail()));
        let plain = voice.plain.call_all(command).unwrap();
        let judge = Judge::of(row, command);
        if together && !judge.agrees(&proxy, &plain) {
            self.complaints.push(format!("{row}: {} answers {proxy}\n    and a plain server {plain}", show(command)));
        }
        // A HyperLogLog's digest knows its cached cardinality; the comparer does not look at that.
        if !row.starts_with("PF") && command.len() > 1 {
            let mut found = self.eyes.differ(command);
            if found.is_some() {
                // Whole-database commands are not waited for by `ack = "both"`.
                self.pair.settle().unwrap();
                found = self.eyes.differ(command);
            }
            if let Some(found) = found {
                self.complaints.push(format!("{row}: after {} -> {proxy}: {found}", show(command)));
            }
        }
        together && !judge.parts_ways(row)
    }

    fn keyspaces(&mut self, row: &str, history: &[String], wanted: bool) {
        if !wanted || history.is_empty() {
            return;
        }
        if let Err(error) = self.pair.settle().and_then(|_| self.pair.compare()) {
            self.complaints.push(format!("{row}: {}\n    after {}", error.root_cause(), history.join("\n          ")));
        }
    }

    /// Effects that are not in the data set.
    fn no_data(&mut self, row: &str) {
        if row != "SCRIPT LOAD" {
            return;
        }
        let sha = self.eyes.old.call(&[b"SCRIPT", b"LOAD", b"return 7"]).unwrap().text();
        let known = self.eyes.new.call(&[b"SCRIPT", b"EXISTS", sha.as_bytes()]).unwrap();
        if known.items().first().and_then(Value::int) != Some(1) {
            self.complaints.push(format!("{row}: the mirror does not know the script"));
        }
    }
}

/// PUBLISH reaches subscribers of the mirror once.
#[test]
fn published_messages_reach_the_mirror() {
    // A mirror that is behind its bounds gets no messages.
    let pair = Pair::start(Setup::with_args(&["--set", "mirror.queue_age_max_ms=60000"])).unwrap();
    let mut subscriber = pair.new.client().unwrap();
    subscriber.cmd("SUBSCRIBE news").unwrap();
    let mut client = pair.client().unwrap();
    for at in 0..200 {
        assert_eq!(client.cmd(&format!("PUBLISH news {at}")).unwrap(), Value::Int(0));
    }
    for at in 0..200 {
        let message = subscriber.receive().unwrap();
        assert_eq!(message.items().last().unwrap().text(), at.to_string());
    }
    subscriber.set_timeout(Duration::from_millis(100)).unwrap();
    assert!(subscriber.receive().is_err(), "a message came twice");
}

/// A dozen of each row that both servers have, then a cutover, a dozen more, a rollback, a dozen more.
fn reduced(old: Version, new: Version) {
    let pair = pair(old, new);
    let theirs = rows(&pair.new, &[Class::Write, Class::Blocking, Class::Barrier, Class::Keyless]);
    let both: Vec<&str> = rows(&pair.old, &[Class::Write, Class::Blocking, Class::Barrier, Class::Keyless])
        .into_iter()
        .filter(|row| theirs.contains(row))
        .collect();
    let mut client = pair.client().unwrap();
    let mut complaints = Vec::new();
    for phase in ["before", "behind the cutover", "behind the rollback"] {
        match phase {
            "behind the cutover" => drop(pair.cutover().unwrap()),
            "behind the rollback" => drop(pair.rollback().unwrap()),
            _ => {}
        }
        for row in &both {
            if let Err(error) = a_dozen(&pair, &mut client, row) {
                complaints.push(format!("{row}, {phase}: {error:#}"));
                client = pair.client().unwrap();
            }
        }
    }
    assert!(
        complaints.is_empty(),
        "{old:?} -> {new:?}: {} complaints:\n{}\n{}",
        complaints.len(),
        complaints.join("\n"),
        pair.proxy.log_tail()
    );
}

fn a_dozen(pair: &Pair, client: &mut Client, row: &str) -> Result<()> {
    let commands: Vec<Command> = session(row, 12).into_iter().map(|(_, command)| command).collect();
    client.pipeline(&commands)?;
    let settled = pair.settle().and_then(|_| differences(pair));
    client.cmd("FLUSHALL")?;
    match settled {
        Ok(_) => Ok(()),
        Err(error) => {
            // What is left of one row must not be blamed on the next.
            until("both to be empty", Duration::from_secs(10), || Ok(pair.compare().is_ok())).ok();
            let words: Vec<String> = commands.iter().rev().take(12).rev().map(show).collect();
            anyhow::bail!("{}\n    after {}", error.root_cause(), words.join("\n          "))
        }
    }
}

/// Compares both sides, but for the sign of a zero: before 7.0 a union keeps that of `-2 * 0`, and `ZSCORE` shows it.
fn differences(pair: &Pair) -> Result<()> {
    let report = compare(&pair.old.address(), &pair.new.address(), &compare::Options::default())?;
    let zero = |one: &compare::Difference| one.old.contains("\"-0\"") || one.new.contains("\"-0\"");
    if report.differences.iter().all(zero) && report.differing == report.differences.len() as u64 {
        return Ok(());
    }
    report.into_result().map(drop)
}

#[test]
fn from_6_2_to_7_0() {
    reduced(Version::Redis62, Version::Redis70);
}

#[test]
fn from_7_0_to_valkey_8_1() {
    reduced(Version::Redis70, Version::Valkey81);
}

#[test]
fn from_7_0_to_valkey_9_1() {
    reduced(Version::Redis70, Version::Valkey91);
}

#[test]
fn from_5_0_to_7_0() {
    reduced(Version::Redis50, Version::Redis70);
}
