//! Commands as data: one row a command (`table.tsv`), read once. What is not in the table is unknown to the proxy.
//!
//! A row says how many arguments, which of them are keys and how they are used, what the proxy does with the command (its
//! [`Class`]) and how its effect is derived from the reply (its [`Rule`]).

mod errors;
mod keys;
mod learnt;

pub use errors::{unknown_command, unknown_subcommand, wrong_arity};
pub use keys::{Key, KeyUse, Keys};
pub use learnt::learn;

use crate::resp::downgrade::Shape;
use crate::resp::request::Request;
use keys::KeySpec;
use std::collections::HashMap;
use std::sync::OnceLock;

/// What the proxy does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// To the primary; no effect.
    Read,
    /// A read whose cursor belongs to the side that gave it.
    Cursor,
    /// To the primary; its effect goes to the mirror in the same order.
    Write,
    /// A write that may wait for its keys: the lane carries it in a form that never does.
    Blocking,
    /// A write without keys that needs no barrier (SCRIPT LOAD, PUBLISH).
    Keyless,
    /// Touches several databases or none: waits until nothing is in flight, runs alone.
    Barrier,
    /// To the primary; speaks of the server, not of data.
    Forward,
    /// The session's own business.
    Local,
    /// WATCH, UNWATCH, MULTI, EXEC, DISCARD.
    Transaction,
    /// SUBSCRIBE and its family, MONITOR: a connection of the session's own brings what nobody asked for.
    Feed,
    /// Holds its connection up: on one of the session's own.
    Own,
    /// On a connection beside all others, which a server that is busy with a script still answers.
    Aside,
    /// Administration of a server, or of a connection that is shared: refused.
    Refused,
}

impl Class {
    /// The word of metrics and docs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Cursor => "cursor",
            Class::Write => "write",
            Class::Blocking => "blocking",
            Class::Keyless => "keyless",
            Class::Barrier => "barrier",
            Class::Forward => "forward",
            Class::Local => "local",
            Class::Transaction => "tx",
            Class::Own => "own",
            Class::Aside => "aside",
            Class::Feed => "feed",
            Class::Refused => "refused",
        }
    }

    fn parse(word: &str) -> Option<Class> {
        use Class::{Aside, Barrier, Blocking, Cursor, Feed, Forward, Keyless, Local, Own, Read, Refused, Transaction, Write};
        [Read, Cursor, Write, Blocking, Keyless, Barrier, Forward, Local, Transaction, Own, Aside, Feed, Refused]
            .into_iter()
            .find(|class| class.word() == word)
    }
}

/// How the effect of a command is derived: `effect/` has a function for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// No effect.
    None,
    /// The same command.
    Replay,
    /// The same command, unless the reply is `:0`.
    ReplayUnlessZero,
    /// The same command, unless the reply is null.
    ReplayUnlessNil,
    /// The same command, whatever the count in the reply.
    Delete,
    /// As `Delete`, on a part of a value.
    Remove,
    /// Images of the written keys.
    Image,
    /// Images of the declared keys, also after an error.
    Script,
    /// Rules of one command each.
    Set,
    /// SETEX, PSETEX.
    SetEx,
    /// SETNX.
    SetNx,
    /// GETSET.
    GetSet,
    /// GETDEL.
    GetDel,
    /// GETEX.
    GetEx,
    /// MSETNX.
    MSetNx,
    /// INCRBYFLOAT.
    IncrByFloat,
    /// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT.
    Expire,
    /// RENAMENX.
    RenameNx,
    /// COPY.
    Copy,
    /// MOVE.
    Move,
    /// SORT with STORE.
    Sort,
    /// RESTORE.
    Restore,
    /// HINCRBYFLOAT.
    HIncrByFloat,
    /// HSETNX.
    HSetNx,
    /// LINSERT.
    LInsert,
    /// BLPOP, BRPOP, in the transaction of a client or alone in a block.
    BLPop,
    /// BLMOVE, BRPOPLPUSH, as BLPOP.
    BLMove,
    /// BZPOPMIN, BZPOPMAX, as BLPOP.
    BZPop,
    /// LMPOP, BLMPOP.
    LMPop,
    /// SPOP.
    SPop,
    /// ZADD.
    ZAdd,
    /// ZMPOP, BZMPOP.
    ZMPop,
    /// GEORADIUS, GEORADIUSBYMEMBER with STORE.
    GeoRadius,
    /// BITFIELD.
    BitField,
    /// PFCOUNT of one key.
    PfCount,
    /// XADD.
    XAdd,
    /// XTRIM.
    XTrim,
    /// XREADGROUP.
    XReadGroup,
    /// XCLAIM.
    XClaim,
    /// XAUTOCLAIM.
    XAutoClaim,
    /// FLUSHDB.
    FlushDb,
    /// FLUSHALL.
    FlushAll,
    /// SWAPDB.
    SwapDb,
    /// SCRIPT LOAD, FUNCTION *.
    Keyless,
    /// PUBLISH, SPUBLISH.
    Publish,
}

impl Rule {
    /// Every rule with its word in the table.
    pub const ALL: [(&'static str, Rule); 44] = [
        ("-", Rule::None),
        ("replay", Rule::Replay),
        ("replay-unless-0", Rule::ReplayUnlessZero),
        ("replay-unless-nil", Rule::ReplayUnlessNil),
        ("delete", Rule::Delete),
        ("remove", Rule::Remove),
        ("image", Rule::Image),
        ("script", Rule::Script),
        ("set", Rule::Set),
        ("setex", Rule::SetEx),
        ("setnx", Rule::SetNx),
        ("getset", Rule::GetSet),
        ("getdel", Rule::GetDel),
        ("getex", Rule::GetEx),
        ("msetnx", Rule::MSetNx),
        ("incrbyfloat", Rule::IncrByFloat),
        ("expire", Rule::Expire),
        ("renamenx", Rule::RenameNx),
        ("copy", Rule::Copy),
        ("move", Rule::Move),
        ("sort", Rule::Sort),
        ("restore", Rule::Restore),
        ("hincrbyfloat", Rule::HIncrByFloat),
        ("hsetnx", Rule::HSetNx),
        ("linsert", Rule::LInsert),
        ("blpop", Rule::BLPop),
        ("blmove", Rule::BLMove),
        ("bzpop", Rule::BZPop),
        ("lmpop", Rule::LMPop),
        ("spop", Rule::SPop),
        ("zadd", Rule::ZAdd),
        ("zmpop", Rule::ZMPop),
        ("georadius", Rule::GeoRadius),
        ("bitfield", Rule::BitField),
        ("pfcount", Rule::PfCount),
        ("xadd", Rule::XAdd),
        ("xtrim", Rule::XTrim),
        ("xreadgroup", Rule::XReadGroup),
        ("xclaim", Rule::XClaim),
        ("xautoclaim", Rule::XAutoClaim),
        ("flushdb", Rule::FlushDb),
        ("flushall", Rule::FlushAll),
        ("swapdb", Rule::SwapDb),
        ("keyless", Rule::Keyless),
    ];

    fn parse(word: &str) -> Option<Rule> {
        if word == "publish" {
            return Some(Rule::Publish);
        }
        Rule::ALL.iter().find(|(name, _)| *name == word).map(|(_, rule)| *rule)
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Command {
    /// Upper-case name; a subcommand has its container's name before it (`XGROUP CREATE`).
    pub name: &'static str,
    /// The same in lower case with `|`, as Redis 7 writes it in errors.
    pub error_name: String,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i32,
    /// What the proxy does with it.
    pub class: Class,
    /// How its effect is derived.
    pub rule: Rule,
    /// First release that has it, as the reference gives it.
    pub since: &'static str,
    /// What RESP2 does differently.
    pub shape: Shape,
    /// It may create a key without telling so by its reply.
    pub creates: bool,
    /// Place in the table, for counters.
    pub index: usize,
    keys: Vec<KeySpec>,
    /// Its only key, where that is always one and the same argument.
    lone_key: Option<(usize, KeyUse)>,
    /// A read or write of one key that is sent as it is, and whose reply is handed on as it is: nothing of ours goes before or behind it, it
    /// never waits, and what is refused of it is refused for its key alone.
    pub simple: bool,
}

impl Command {
    /// Whether a request of `arguments` arguments has the right number of them.
    #[must_use]
    pub fn accepts(&self, arguments: usize) -> bool {
        if self.arity >= 0 { arguments == self.arity as usize } else { arguments >= self.arity.unsigned_abs() as usize }
    }

    /// Keys of a request, with their use.
    #[must_use]
    pub fn keys<'r>(&'r self, request: &'r Request<'r>) -> Keys<'r> {
        Keys::new(&self.keys, request, self)
    }

    /// Whether it replaces or deletes everything it writes, whatever that was.
    #[must_use]
    pub fn is_total(&self, request: &Request<'_>) -> bool {
        match self.lone_key {
            Some((_, used)) => used == KeyUse::Overwrite,
            None => self.keys(request).all(|key| key.used == KeyUse::Overwrite),
        }
    }

    /// Its only key, where that is always one and the same argument.
    #[must_use]
    pub fn lone_key<'r>(&self, request: &Request<'r>) -> Option<&'r [u8]> {
        self.lone_key.map(|(at, _)| request.arg(at))
    }

    /// Whether it replaces or deletes its only key.
    #[must_use]
    pub fn overwrites(&self) -> bool {
        self.lone_key.is_some_and(|(_, used)| used == KeyUse::Overwrite)
    }

    /// The only key that it writes, where that is all it can write.
    #[must_use]
    pub fn lone_written<'r>(&self, request: &Request<'r>) -> Option<&'r [u8]> {
        let (at, used) = self.lone_key?;
        (used.writes() && !matches!(self.rule, Rule::Move | Rule::Copy | Rule::Script) && at < request.len()).then(|| request.arg(at))
    }

    /// Whether what it writes depends on another key.
    #[must_use]
    pub fn is_sourced(&self, request: &Request<'_>) -> bool {
        if self.lone_key.is_some() {
            return false;
        }
        let (mut keys, mut depends) = (0, false);
        for key in self.keys(request) {
            keys += 1;
            depends |= key.used != KeyUse::Overwrite;
        }
        keys > 1 && depends
    }

    /// Whether the command may change data when it is executed.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self.class, Class::Write | Class::Blocking | Class::Barrier | Class::Keyless)
    }

    /// Whether it runs a script or a function.
    #[must_use]
    pub fn runs_script(&self) -> bool {
        self.rule == Rule::Script || reads_scripts(self.name)
    }

    /// Whether an operator may open this refused command to clients. It speaks of the primary alone, writes no key and leaves
    /// the connection it travels on as it was; what ends or blocks a server, replicates it or moves keys is never opened.
    #[must_use]
    pub fn can_be_allowed(&self) -> bool {
        const CAN: [&str; 18] = [
            "ACL DELUSER",
            "ACL DRYRUN",
            "ACL GETUSER",
            "ACL LIST",
            "ACL LOAD",
            "ACL LOG",
            "ACL SAVE",
            "ACL SETUSER",
            "ACL USERS",
            "BGREWRITEAOF",
            "BGSAVE",
            "CONFIG HELP",
            "CONFIG RESETSTAT",
            "CONFIG REWRITE",
            "CONFIG SET",
            "LATENCY RESET",
            "MEMORY PURGE",
            "SLOWLOG RESET",
        ];
        self.class == Class::Refused && CAN.contains(&self.name)
    }

    /// Whether Redis `major.minor` has it.
    #[must_use]
    pub fn is_since(&self, major: u32, minor: u32) -> bool {
        // Older than the reference says, wherever their container is.
        if self.name.ends_with(" HELP") {
            return true;
        }
        let mut parts = self.since.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(first)), Some(Ok(second))) => (first, second) <= (major, minor),
            _ => false,
        }
    }

    /// The name without its subcommand.
    #[must_use]
    pub fn container(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }
}

/// All commands.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Command>,
    by_name: HashMap<&'static [u8], usize, ahash::RandomState>,
    containers: HashMap<&'static [u8], (), ahash::RandomState>,
    /// Names of up to eight letters, by their hash.
    short: [(u64, u16); SHORT_SLOTS],
}

/// The source of the table, also for the docs and their check.
pub const TABLE: &str = include_str!("table.tsv");

/// Commands that may create a key and do not tell by their reply that they did: a new hash, set, sorted set, string or stream answers
/// as an old one does. Lists tell by their length, and what removes creates nothing.
const CREATES: [&str; 36] = [
    "APPEND",
    "BITFIELD",
    "BITOP",
    "COPY",
    "DECR",
    "DECRBY",
    "GEOADD",
    "GEOSEARCHSTORE",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HMSET",
    "HSET",
    "HSETNX",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "LMOVE",
    "PFADD",
    "PFMERGE",
    "RPOPLPUSH",
    "SADD",
    "SDIFFSTORE",
    "SET",
    "SETBIT",
    "SETRANGE",
    "SINTERSTORE",
    "SMOVE",
    "SUNIONSTORE",
    "XADD",
    "XGROUP CREATE",
    "ZADD",
    "ZDIFFSTORE",
    "ZINCRBY",
    "ZINTERSTORE",
    "ZRANGESTORE",
    "ZUNIONSTORE",
];

/// Longest name of a command with its subcommand.
const NAME_MAX: usize = 48;

impl Table {
    /// The table, read at the first call.
    pub fn get() -> &'static Table {
        static CELL: OnceLock<Table> = OnceLock::new();
        CELL.get_or_init(Table::read)
    }

    fn read() -> Table {
        let rows: Vec<Command> = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).enumerate().map(row).collect();
        let seeds = || ahash::RandomState::with_seeds(11, 12, 13, 14);
        let mut by_name = HashMap::with_hasher(seeds());
        let mut containers = HashMap::with_hasher(seeds());
        let mut short = [(0, 0); SHORT_SLOTS];
        for command in &rows {
            by_name.insert(command.name.as_bytes(), command.index);
            if command.name.contains(' ') {
                containers.insert(command.container().as_bytes(), ());
            }
        }
        let letters = |row: &&Command| row.name.bytes().all(|byte| byte.is_ascii_uppercase());
        let plain = rows.iter().filter(letters).filter(|row| !containers.contains_key(row.name.as_bytes()));
        for (word, index) in plain.filter_map(|row| Some((short_name(row.name.as_bytes())?, row.index))) {
            let mut slot = short_slot(word);
            while short[slot].0 != 0 {
                slot = (slot + 1) % SHORT_SLOTS;
            }
            short[slot] = (word, index as u16);
        }
        Table { rows, by_name, containers, short }
    }

    /// As [`Table::find`] for a name of up to eight letters that is a whole command: nearly all that travels.
    fn find_short(&self, name: &[u8]) -> Option<&Command> {
        let word = short_name(name)?;
        let mut slot = short_slot(word);
        while self.short[slot].0 != 0 {
            if self.short[slot].0 == word {
                // A blank or a zero behind it counts as nothing in the number.
                return self.rows.get(usize::from(self.short[slot].1)).filter(|row| row.name.len() == name.len());
            }
            slot = (slot + 1) % SHORT_SLOTS;
        }
        None
    }

    /// All rows, in order of their index.
    #[must_use]
    pub fn rows(&self) -> &[Command] {
        &self.rows
    }

    /// The row of an upper-case name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Command> {
        self.by_name.get(name.as_bytes()).map(|at| &self.rows[*at])
    }

    /// Whether the command is a row of the table, and not a learnt one.
    #[must_use]
    pub fn has(&self, command: &Command) -> bool {
        std::ptr::eq(&raw const self.rows[command.index], command)
    }

    /// The row that a request names, in any case.
    #[must_use]
    pub fn find(&'static self, request: &Request<'_>) -> Option<&'static Command> {
        let first = request.arg(0);
        if let Some(command) = self.find_short(first) {
            return Some(command);
        }
        let mut name = [0u8; NAME_MAX];
        let mut len = upper(&mut name, 0, first)?;
        if request.len() > 1
            && self.containers.contains_key(&name[..len])
            && let Some(longer) = upper(&mut name, len + 1, request.arg(1))
        {
            name[len] = b' ';
            if let Some(at) = self.by_name.get(&name[..longer]) {
                return Some(&self.rows[*at]);
            }
            len = first.len();
            // A container with an unknown subcommand is not a command that could be carried.
            if self.is_pure_container(&name[..len]) {
                return None;
            }
        }
        match self.by_name.get(&name[..len]) {
            Some(at) => Some(&self.rows[*at]),
            None => learnt::find(&name[..len]),
        }
    }

    /// Containers that mean nothing without a subcommand: all but COMMAND.
    fn is_pure_container(&self, name: &[u8]) -> bool {
        self.containers.contains_key(name) && name != b"COMMAND"
    }
}

/// Places for short names; at most half of them are taken.
const SHORT_SLOTS: usize = 1024;

/// A name of one to eight letters as a number, alike in any case. With the bit of the case taken out, no other byte is taken for a letter.
fn short_name(name: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    let word = u64::from_le_bytes(bytes) & 0xdfdf_dfdf_dfdf_dfdf;
    (word != 0).then_some(word)
}

fn short_slot(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

fn upper(name: &mut [u8; NAME_MAX], at: usize, word: &[u8]) -> Option<usize> {
    let target = name.get_mut(at..at + word.len())?;
    for (to, from) in target.iter_mut().zip(word) {
        *to = from.to_ascii_uppercase();
    }
    Some(at + word.len())
}

fn row((index, line): (usize, &'static str)) -> Command {
    let columns: Vec<&'static str> = line.split('\t').collect();
    let [name, arity, since, keys, class, rule] = columns[..] else { panic!("table.tsv: six columns wanted: {line}") };
    let bad = |what: &str| -> ! { panic!("table.tsv: {what}: {line}") };
    let keys: Vec<KeySpec> =
        keys.split(' ').filter(|spec| *spec != "-").map(|spec| KeySpec::parse(spec).unwrap_or_else(|| bad("keys"))).collect();
    let rule = Rule::parse(rule).unwrap_or_else(|| bad("rule"));
    let class = Class::parse(class).unwrap_or_else(|| bad("class"));
    let lone_key = if matches!(rule, Rule::Sort | Rule::GeoRadius) || keys.len() != 1 { None } else { keys[0].lone() };
    Command {
        name,
        error_name: name.to_ascii_lowercase().replace(' ', "|"),
        arity: arity.parse().unwrap_or_else(|_| bad("arity")),
        class,
        rule,
        since,
        shape: Shape::of(name),
        creates: CREATES.contains(&name),
        index,
        keys,
        lone_key,
        simple: lone_key.is_some() && matches!(class, Class::Read | Class::Write) && SIMPLE.contains(&rule) && !reads_scripts(name),
    }
}

/// Rules under which a command of one key is simple, see [`Command::simple`].
const SIMPLE: [Rule; 21] = [
    Rule::None,
    Rule::Replay,
    Rule::ReplayUnlessZero,
    Rule::ReplayUnlessNil,
    Rule::Delete,
    Rule::Remove,
    Rule::Set,
    Rule::SetEx,
    Rule::SetNx,
    Rule::GetSet,
    Rule::GetDel,
    Rule::GetEx,
    Rule::IncrByFloat,
    Rule::Expire,
    Rule::Restore,
    Rule::HIncrByFloat,
    Rule::HSetNx,
    Rule::LInsert,
    Rule::SPop,
    Rule::ZAdd,
    Rule::BitField,
];

fn reads_scripts(name: &str) -> bool {
    matches!(name, "EVAL_RO" | "EVALSHA_RO" | "FCALL_RO")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Spans, canonical};

    fn find(line: &str) -> Option<&'static str> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut frame, mut spans) = (Vec::new(), Spans::default());
        let request = canonical(&args, &mut frame, &mut spans);
        Table::get().find(&request).map(|command| command.name)
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(find("get k"), Some("GET"));
        assert_eq!(find("xGroup create s g $"), Some("XGROUP CREATE"));
        assert_eq!(find("COMMAND"), Some("COMMAND"));
        assert_eq!(find("XGROUP nonsense"), None);
        assert_eq!(find("nonsense"), None);
        for name in ["GET\u{0}", "g\u{5}T", "GE", "GETT"] {
            assert_eq!(find(name), None, "{name:?}");
        }
        assert_eq!(find(&"x".repeat(100)), None);
    }

    #[test]
    fn each_row_is_found_by_its_own_name() {
        let table = Table::get();
        for row in table.rows().iter().filter(|row| !row.name.contains(' ')) {
            let bare = table.containers.contains_key(row.name.as_bytes());
            assert_eq!(find(&row.name.to_ascii_lowercase()), Some(row.name));
            assert!(
                bare || row.name.len() > 8
                    || !row.name.bytes().all(|byte| byte.is_ascii_uppercase())
                    || table.find_short(row.name.as_bytes()).is_some()
            );
        }
        assert!(
            ["GET", "SET", "INCR", "HSET", "LPUSH", "SADD", "ZADD", "EXPIRE", "HGETALL"]
                .iter()
                .all(|name| table.named(name).unwrap().simple)
        );
        assert!(
            ["MGET", "XADD", "DEL", "EVAL", "EVAL_RO", "MOVE", "COPY", "RENAME", "BLPOP", "SORT", "RANDOMKEY", "XREAD"]
                .iter()
                .all(|name| !table.named(name).unwrap().simple)
        );
    }

    #[test]
    fn every_carried_write_has_a_rule() {
        for command in Table::get().rows() {
            assert_eq!(command.writes(), command.rule != Rule::None && command.rule != Rule::PfCount, "{}", command.name);
        }
    }
}
