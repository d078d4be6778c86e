//! The comparer: what "equal" means in every issue, every test and the demo.
//!
//! Two servers are equal when every key of every database has on both sides the same type, the same value by type and
//! the same remaining TTL within a stated tolerance, and when both hold the same function libraries.
//!
//! | type | equal means |
//! |---|---|
//! | string | the same bytes; a HyperLogLog: the same registers (encoding and cached cardinality are left out) |
//! | list | the same elements in the same order |
//! | set, hash | the same members, the same fields with the same values, in any order (and fields' own TTLs, where both sides have them) |
//! | sorted set | the same members with scores of the same f64 bits |
//! | stream | what `XINFO STREAM key FULL` tells: entries, length, last id, (both >= 7) the highest deleted id and the count of entries ever added, groups with last delivered id and (both >= 7) entries read, pending entries with consumer and delivery count, consumers. Times of delivery and idle times are left out |
//! | TTL | both persistent, or both volatile and no further apart than the tolerance |
//!
//! Keys that begin with `__twinlane:` are the proxy's own and are left out. A key that is missing on one side and has
//! no more than the tolerance to live on the other is dying, not different.
//!
//! **How it stays correct on big keyspaces and unequal versions.** Nothing is ever held but a batch of keys or a piece
//! of one value. A batch is *screened* with pipelined whole reads of its small values; whatever is not plainly equal
//! there, and everything big, is *examined* alone, piece by piece, which is the only place where a difference can be
//! found. All commands used exist since Redis 5.0 (streams are read with XRANGE, XPENDING and XINFO, which together
//! hold what FULL holds; FULL itself is missing in 5.0 and cannot be read in pieces).
//!
//! It compares servers at rest: stop the traffic and let the mirror drain first. What it does not know: module types
//! (reported as a difference that says so), eviction metadata (LRU, LFU).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use twinlane_core::hyperloglog::registers;

use crate::resp::{Client, Command, Value, command};

/// Keys of this prefix belong to the proxy.
pub const RESERVED_PREFIX: &[u8] = b"__twinlane:";
/// Remaining TTLs may differ by this much unless the caller says otherwise.
pub const TTL_TOLERANCE_MS_DEFAULT: u64 = 2_000;
/// Keys screened per pipeline: with [`SMALL_STRING_BYTES`] each that is at most 8 MiB of strings per side.
const BATCH_KEYS: usize = 128;
/// Strings up to this length are read whole; it covers every HyperLogLog (12,304 bytes).
const SMALL_STRING_BYTES: i64 = 64 * 1024;
/// Collections up to this many elements are read whole.
const SMALL_ELEMENTS: i64 = 256;
/// Elements per piece of a big collection.
const PIECE_ELEMENTS: usize = 512;
/// Bytes per piece of a big string.
const PIECE_BYTES: i64 = 1024 * 1024;

/// How to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// Remaining TTLs may differ by this many milliseconds.
    pub ttl_tolerance_ms: u64,
    /// How many differences are kept with their details; all are counted.
    pub differences_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { ttl_tolerance_ms: TTL_TOLERANCE_MS_DEFAULT, differences_max: 1_000 }
    }
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// On `old` only.
    Missing,
    /// On `new` only.
    Extra,
    /// Another type.
    Type,
    /// The same type, another value.
    Value,
    /// Another remaining TTL, or volatile here and persistent there.
    Ttl,
    /// A function library.
    Function,
    /// Another `DEBUG DIGEST-VALUE` ([`digest_check`] only).
    Digest,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Type => "type",
            Kind::Value => "value",
            Kind::Ttl => "ttl",
            Kind::Function => "function",
            Kind::Digest => "digest",
        })
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The database; 0 for function libraries.
    pub db: u32,
    /// The key, or the library's name.
    pub key: Vec<u8>,
    /// What differs.
    pub kind: Kind,
    /// What `old` has there, shortened.
    pub old: String,
    /// What `new` has there, shortened.
    pub new: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { db, key, kind, old, new } = self;
        write!(f, "{kind:<8} db {db} {}: old {old}, new {new}", key.escape_ascii())
    }
}

/// The result.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Keys looked at: those of `old`, and those of `new` that `old` lacks. Reserved keys are not among them.
    pub keys_compared: u64,
    /// All differences, also those not kept in `differences`.
    pub differing: u64,
    /// Keys that were about to expire and gone on one side.
    pub dying: u64,
    /// The first differences, up to [`Options::differences_max`].
    pub differences: Vec<Difference>,
}

impl Report {
    /// No difference at all.
    pub fn is_equal(&self) -> bool {
        self.differing == 0
    }

    /// An error that lists the differences, unless there is none.
    pub fn into_result(self) -> Result<Report> {
        ensure!(self.is_equal(), "the two sides differ\n{self}");
        Ok(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        let hidden = self.differing - self.differences.len() as u64;
        if hidden > 0 {
            writeln!(f, "... and {hidden} more")?;
        }
        write!(f, "{} keys compared, {} differences, {} dying", self.keys_compared, self.differing, self.dying)
    }
}

/// Compares two servers (`host:port`) at rest.
pub fn compare(old: &str, new: &str, options: &Options) -> Result<Report> {
    let mut comparer = Comparer::connect(old, new, options)?;
    comparer.functions()?;
    for db in comparer.databases() {
        comparer.database(db)?;
    }
    Ok(comparer.report)
}

/// The cross-check by the servers themselves: `DEBUG DIGEST-VALUE` of every key, on two servers of one version >= 7.0
/// with `enable-debug-command yes`. HyperLogLogs are left out, because the digest sees their cached cardinality. The
/// digest knows whether a key is volatile, not for how long, and of a stream only the entries.
pub fn digest_check(old: &str, new: &str, options: &Options) -> Result<Report> {
    let mut comparer = Comparer::connect(old, new, options)?;
    let versions = (&comparer.old.version, &comparer.new.version);
    ensure!(versions.0 == versions.1, "digests need one version on both sides, not {versions:?}");
    for db in comparer.databases() {
        comparer.digests(db)?;
    }
    Ok(comparer.report)
}

// ---------------------------------------------------------------------------------------------------------------------
// One side
// ---------------------------------------------------------------------------------------------------------------------

/// Type and TTL of a key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    kind: String,
    /// Milliseconds to live; `None`: persistent.
    ttl_ms: Option<u64>,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ttl_ms {
            None => write!(f, "a persistent {}", self.kind),
            Some(ms) => write!(f, "a {} with {ms} ms to live", self.kind),
        }
    }
}

/// Names of keys, any bytes.
type Keys = Vec<Vec<u8>>;

/// A connection to one of the two servers.
struct Side {
    client: Client,
    /// Server and version as INFO tells them.
    version: String,
    /// The major version of the Redis that it claims to be.
    major: u32,
    /// Whether it knows HPTTL (Redis 7.4, Valkey 9.0).
    field_ttls: bool,
    /// Databases that hold keys.
    databases: Vec<u32>,
    /// False while it lacks the database under comparison, where it then has no key.
    selected: bool,
}

impl Side {
    fn connect(address: &str) -> Result<Side> {
        let mut client = Client::connect(address).with_context(|| format!("connecting to {address}"))?;
        let info = ok(client.cmd("INFO server")?)?.text();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_string();
        let redis = field("redis_version:");
        let keyspace = ok(client.cmd("INFO keyspace")?)?.text();
        let hpttl = client.cmd("COMMAND INFO HPTTL")?;
        Ok(Side {
            field_ttls: hpttl.items().first().is_some_and(|command| !command.is_nil()),
            client,
            major: redis.split('.').next().and_then(|major| major.parse().ok()).context("no version in INFO")?,
            version: format!("{redis} {} {}", field("server_name:"), field("valkey_version:")),
            databases: keyspace.lines().filter_map(database_of_keyspace_line).collect(),
            selected: true,
        })
    }

    fn select(&mut self, db: u32) -> Result<()> {
        // A server that was never asked for another database needs no SELECT for 0, and some do not offer it.
        self.selected = self.client.cmd(&format!("SELECT {db}"))?.is_ok() || db == 0;
        Ok(())
    }

    /// One reply; an error reply is an error.
    fn ask(&mut self, arguments: &[&[u8]]) -> Result<Value> {
        ok(self.client.call(arguments)?).with_context(|| arguments[0].escape_ascii().to_string())
    }

    fn ask_all(&mut self, commands: &[Command]) -> Result<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.client.pipeline(commands)?)
    }

    fn heads(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Head>>> {
        if !self.selected {
            return Ok(vec![None; keys.len()]);
        }
        let commands: Vec<Command> = keys.iter().flat_map(|key| [with(b"TYPE", key), with(b"PTTL", key)]).collect();
        self.ask_all(&commands)?.chunks_exact(2).map(|pair| head(&pair[0], &pair[1])).collect()
    }

    fn head(&mut self, key: &[u8]) -> Result<Option<Head>> {
        Ok(self.heads(&[key.to_vec()])?.pop().flatten())
    }

    /// One step of a SCAN: the next cursor (`None`: done) and the keys that are not the proxy's own.
    fn scan(&mut self, cursor: &[u8]) -> Result<(Option<Vec<u8>>, Keys)> {
        let reply = self.ask(&[b"SCAN", cursor, b"COUNT", b"512"])?;
        let (next, keys) = cursor_and_items(&reply)?;
        let keys = keys.iter().filter_map(Value::bytes).filter(|key| !key.starts_with(RESERVED_PREFIX));
        Ok((next, keys.map(<[u8]>::to_vec).collect()))
    }
}

fn head(kind: &Value, ttl: &Value) -> Result<Option<Head>> {
    let kind = ok(kind.clone())?.text();
    match (kind.as_str(), ttl.int()) {
        ("none", _) | (_, Some(-2)) => Ok(None),
        (_, Some(-1)) => Ok(Some(Head { kind, ttl_ms: None })),
        (_, Some(ms)) => Ok(Some(Head { kind, ttl_ms: Some(ms.max(0) as u64) })),
        (_, None) => bail!("PTTL answers {ttl}"),
    }
}

/// `db3:keys=...` is 3.
fn database_of_keyspace_line(line: &str) -> Option<u32> {
    line.strip_prefix("db")?.split(':').next()?.parse().ok()
}

// ---------------------------------------------------------------------------------------------------------------------
// Both sides
// ---------------------------------------------------------------------------------------------------------------------

/// A difference before it has a key: what, and what each side holds.
type Finding = (Kind, String, String);

struct Comparer<'a> {
    old: Side,
    new: Side,
    options: &'a Options,
    report: Report,
    db: u32,
}

impl<'a> Comparer<'a> {
    fn connect(old: &str, new: &str, options: &'a Options) -> Result<Comparer<'a>> {
        let report = Report::default();
        Ok(Comparer { old: Side::connect(old)?, new: Side::connect(new)?, options, report, db: 0 })
    }

    /// Every database that holds a key on either side.
    fn databases(&self) -> BTreeSet<u32> {
        self.old.databases.iter().chain(&self.new.databases).copied().collect()
    }

    fn select(&mut self, db: u32) -> Result<()> {
        self.db = db;
        self.old.select(db)?;
        self.new.select(db)
    }

    /// Everything that `old` has is looked for on `new`; what `new` has is looked for on `old` by name only.
    fn database(&mut self, db: u32) -> Result<()> {
        self.select(db)?;
        self.each_batch(|c| &mut c.old, Comparer::screen)?;
        self.each_batch(|c| &mut c.new, Comparer::screen_extra)
    }

    fn each_batch(&mut self, side: fn(&mut Self) -> &mut Side, mut visit: impl FnMut(&mut Self, &[Vec<u8>]) -> Result<()>) -> Result<()> {
        let mut cursor = Some(b"0".to_vec());
        while let Some(at) = cursor.filter(|_| side(self).selected) {
            let (next, keys) = side(self).scan(&at)?;
            for batch in keys.chunks(BATCH_KEYS) {
                visit(self, batch)?;
            }
            cursor = next;
        }
        Ok(())
    }

    /// Whole reads of what is small; whatever is not plainly equal is examined.
    fn screen(&mut self, keys: &[Vec<u8>]) -> Result<()> {
        self.report.keys_compared += keys.len() as u64;
        let heads = (self.old.heads(keys)?, self.new.heads(keys)?);
        let mut suspects = Vec::new();
        let mut small = Vec::new();
        for ((key, old), new) in keys.iter().zip(heads.0).zip(heads.1) {
            match (old, new) {
                (Some(old), Some(new)) if self.same_head(&old, &new) && size_command(&old.kind).is_some() => {
                    small.push((key, old.kind));
                }
                _ => suspects.push(key),
            }
        }
        let sizes: Vec<Command> = small.iter().filter_map(|(key, kind)| Some(with(size_command(kind)?, key))).collect();
        let sizes = (self.old.ask_all(&sizes)?, self.new.ask_all(&sizes)?);
        let mut whole = Vec::new();
        for (at, (key, kind)) in small.into_iter().enumerate() {
            let is_small = sizes.0[at] == sizes.1[at] && sizes.0[at].int().is_some_and(|size| size <= small_size(&kind));
            if is_small { whole.push((key, kind)) } else { suspects.push(key) }
        }
        let reads: Vec<Command> = whole.iter().map(|(key, kind)| whole_command(kind, key)).collect();
        let values = (self.old.ask_all(&reads)?, self.new.ask_all(&reads)?);
        for (at, (key, kind)) in whole.iter().enumerate() {
            if !same_whole(kind, &values.0[at], &values.1[at]) {
                suspects.push(key);
            }
        }
        if self.field_ttls() {
            let hashes = whole.iter().zip(&values.0).filter(|((_, kind), _)| kind == "hash");
            let (keys, asks): (Vec<_>, Vec<_>) =
                hashes.map(|((key, _), value)| (*key, field_ttls_command(key, value.pairs().into_iter().map(|(field, _)| field)))).unzip();
            let ttls = (self.old.ask_all(&asks)?, self.new.ask_all(&asks)?);
            for (at, key) in keys.into_iter().enumerate() {
                if self.first_field_ttl_difference(&ttls.0[at], &ttls.1[at]).is_some() {
                    suspects.push(key);
                }
            }
        }
        drop(values);
        suspects.into_iter().try_for_each(|key| self.examine(key))
    }

    /// Keys of `new` that `old` does not know.
    fn screen_extra(&mut self, keys: &[Vec<u8>]) -> Result<()> {
        let heads = self.old.heads(keys)?;
        for (key, _) in keys.iter().zip(heads).filter(|(_, head)| head.is_none()) {
            self.report.keys_compared += 1;
            self.examine(key)?;
        }
        Ok(())
    }

    /// The judgement on one key. Nothing else finds a difference in a key.
    fn examine(&mut self, key: &[u8]) -> Result<()> {
        let findings = self.findings(key);
        if findings.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        // The key may have died between two of our reads: if it is gone here and going there, that was all.
        let heads = (self.old.head(key)?, self.new.head(key)?);
        if self.is_dying(&heads.0, &heads.1) {
            self.report.dying += 1;
            return Ok(());
        }
        for finding in findings.with_context(|| key.escape_ascii().to_string())? {
            self.note(key, finding);
        }
        Ok(())
    }

    fn findings(&mut self, key: &[u8]) -> Result<Vec<Finding>> {
        let (old, new) = match (self.old.head(key)?, self.new.head(key)?) {
            (None, None) => return Ok(Vec::new()),
            (Some(old), None) => {
                return Ok(vec![(Kind::Missing, old.to_string(), "nothing".into())]);
            }
            (None, Some(new)) => return Ok(vec![(Kind::Extra, "nothing".into(), new.to_string())]),
            (Some(old), Some(new)) => (old, new),
        };
        if old.kind != new.kind {
            return Ok(vec![(Kind::Type, old.to_string(), new.to_string())]);
        }
        let mut findings = Vec::new();
        if !self.same_head(&old, &new) {
            findings.push((Kind::Ttl, old.to_string(), new.to_string()));
        }
        if let Some((old, new)) = self.value_difference(&old.kind, key)? {
            findings.push((Kind::Value, old, new));
        } else if old.kind == "hash" && self.field_ttls() {
            let difference = self.field_ttl_difference(key)?;
            findings.extend(difference.map(|(old, new)| (Kind::Ttl, old, new)));
        }
        Ok(findings)
    }

    /// Whether fields of hashes can have lives of their own on both sides.
    fn field_ttls(&self) -> bool {
        self.old.field_ttls && self.new.field_ttls
    }

    /// The fields of a hash that is otherwise equal, piece by piece.
    fn field_ttl_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        let count = PIECE_ELEMENTS.to_string();
        let mut cursor = Some(b"0".to_vec());
        while let Some(at) = cursor {
            let reply = self.old.ask(&[b"HSCAN", key, &at, b"COUNT", count.as_bytes()])?;
            let (next, items) = cursor_and_items(&reply)?;
            let fields: Vec<&Value> = items.iter().step_by(2).collect();
            if !fields.is_empty() {
                let ask = field_ttls_command(key, fields.iter().copied());
                let (old, new) = self.both_all(&ask)?;
                if let Some((at, old, new)) = self.first_field_ttl_difference(&old, &new) {
                    let field = fields.get(at).map(|field| brief(field)).unwrap_or_default();
                    let show = |ttl: i64| format!("field {field} with {ttl} ms to live");
                    return Ok(Some((show(old), show(new))));
                }
            }
            cursor = next;
        }
        Ok(None)
    }

    /// The first pair of HPTTL replies that no tolerance excuses, with its place.
    fn first_field_ttl_difference(&self, old: &Value, new: &Value) -> Option<(usize, i64, i64)> {
        let ttls = |value: &Value| -> Vec<i64> { value.items().iter().filter_map(Value::int).collect() };
        let pairs = ttls(old).into_iter().zip(ttls(new)).enumerate();
        let tolerance = self.options.ttl_tolerance_ms;
        pairs
            .map(|(at, (old, new))| (at, old, new))
            .find(|&(_, old, new)| old != new && (old < 0 || new < 0 || old.abs_diff(new) > tolerance))
    }

    fn same_head(&self, old: &Head, new: &Head) -> bool {
        let same_ttl = match (old.ttl_ms, new.ttl_ms) {
            (None, None) => true,
            (Some(old), Some(new)) => old.abs_diff(new) <= self.options.ttl_tolerance_ms,
            _ => false,
        };
        old.kind == new.kind && same_ttl
    }

    fn is_dying(&self, old: &Option<Head>, new: &Option<Head>) -> bool {
        match (old, new) {
            (None, None) => true,
            (Some(_), Some(_)) => false,
            (Some(head), None) | (None, Some(head)) => head.ttl_ms.is_some_and(|ms| ms <= self.options.ttl_tolerance_ms),
        }
    }

    fn note(&mut self, key: &[u8], (kind, old, new): Finding) {
        self.report.differing += 1;
        if self.report.differences.len() < self.options.differences_max {
            self.report.differences.push(Difference { db: self.db, key: key.to_vec(), kind, old, new });
        }
    }

    // -- Values, piece by piece. Each answers `None` for equal, else what each side holds at the first difference.

    fn value_difference(&mut self, kind: &str, key: &[u8]) -> Result<Option<(String, String)>> {
        match kind {
            "string" => self.string_difference(key),
            "list" => self.list_difference(key),
            "set" => self.set_difference(key),
            "hash" => self.hash_difference(key),
            "zset" => self.zset_difference(key),
            "stream" => self.stream_difference(key),
            other => Ok(Some((format!("a {other}, which this comparer cannot read"), "the same".into()))),
        }
    }

    /// The same read on both sides.
    fn both(&mut self, arguments: &[&[u8]]) -> Result<(Value, Value)> {
        Ok((self.old.ask(arguments)?, self.new.ask(arguments)?))
    }

    fn both_all(&mut self, command: &Command) -> Result<(Value, Value)> {
        self.both(&command.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The sizes of both sides, if they agree; else the difference.
    fn size(&mut self, kind: &str, key: &[u8]) -> Result<Result<i64, (String, String)>> {
        let command = size_command(kind).context("a type without a size")?;
        let (old, new) = self.both(&[command, key])?;
        Ok(if old == new { Ok(old.int().unwrap_or(0)) } else { Err((format!("{old} long"), format!("{new} long"))) })
    }

    fn string_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        let (old, new) = self.both(&[b"STRLEN", key])?;
        if old.int().max(new.int()).unwrap_or(0) <= SMALL_STRING_BYTES {
            let (old, new) = self.both(&[b"GET", key])?;
            return Ok(difference(same_string(&old, &new), &old, &new));
        }
        let size = match self.size("string", key)? {
            Ok(size) => size,
            Err(sizes) => return Ok(Some(sizes)),
        };
        for start in (0..size).step_by(PIECE_BYTES as usize) {
            let (from, to) = (start.to_string(), (start + PIECE_BYTES - 1).to_string());
            let (old, new) = self.both(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()])?;
            if let Some(at) = first_difference(old.bytes().unwrap_or_default(), new.bytes().unwrap_or_default()) {
                let show = |value: &Value| {
                    let bytes = value.bytes().unwrap_or_default();
                    format!("at byte {} {}", start + at as i64, short(&bytes[at.min(bytes.len())..]))
                };
                return Ok(Some((show(&old), show(&new))));
            }
        }
        Ok(None)
    }

    fn list_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        let size = match self.size("list", key)? {
            Ok(size) => size,
            Err(sizes) => return Ok(Some(sizes)),
        };
        for start in (0..size).step_by(PIECE_ELEMENTS) {
            let (from, to) = (start.to_string(), (start + PIECE_ELEMENTS as i64 - 1).to_string());
            let (old, new) = self.both(&[b"LRANGE", key, from.as_bytes(), to.as_bytes()])?;
            if let Some(found) = first_item_difference(&old, &new, start as usize) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn set_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        self.scanned_difference(
            "set",
            b"SSCAN",
            key,
            1,
            |key, item| vec![b"SISMEMBER".to_vec(), key, item],
            |_, found| found.int() == Some(1),
        )
    }

    fn hash_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        self.scanned_difference(
            "hash",
            b"HSCAN",
            key,
            2,
            |key, field| vec![b"HGET".to_vec(), key, field],
            |item, found| item[1].bytes() == found.bytes(),
        )
    }

    fn zset_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        self.scanned_difference(
            "zset",
            b"ZSCAN",
            key,
            2,
            |key, member| vec![b"ZSCORE".to_vec(), key, member],
            |item, found| score_bits(&item[1]).is_some_and(|bits| score_bits(found) == Some(bits)),
        )
    }

    /// Unordered collections: of one size, and every element of `old` is on `new`. Repeats of a SCAN do no harm.
    fn scanned_difference(
        &mut self,
        kind: &str,
        scan: &[u8],
        key: &[u8],
        width: usize,
        ask: fn(Vec<u8>, Vec<u8>) -> Command,
        same: fn(&[Value], &Value) -> bool,
    ) -> Result<Option<(String, String)>> {
        if let Err(sizes) = self.size(kind, key)? {
            return Ok(Some(sizes));
        }
        let count = PIECE_ELEMENTS.to_string();
        let mut cursor = Some(b"0".to_vec());
        while let Some(at) = cursor {
            let reply = self.old.ask(&[scan, key, &at, b"COUNT", count.as_bytes()])?;
            let (next, items) = cursor_and_items(&reply)?;
            let items: Vec<&[Value]> = items.chunks_exact(width).collect();
            let name = |item: &[Value]| item[0].bytes().unwrap_or_default().to_vec();
            let questions: Vec<Command> = items.iter().map(|item| ask(key.to_vec(), name(item))).collect();
            for (item, found) in items.iter().zip(self.new.ask_all(&questions)?) {
                if !same(item, &found) {
                    let name = short(&name(item));
                    let held = item.get(1).map_or("yes".to_string(), brief);
                    return Ok(Some((format!("{name} = {held}"), format!("{name} = {}", brief(&found)))));
                }
            }
            cursor = next;
        }
        Ok(None)
    }

    fn stream_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        let (old, new) = self.both(&[b"XINFO", b"STREAM", key])?;
        for name in ["length", "last-generated-id", "max-deleted-entry-id", "entries-added"] {
            if let Some(found) = field_difference(name, &old, &new) {
                return Ok(Some(found));
            }
        }
        let entries = self
            .paged_difference(|from, count| [with(b"XRANGE", key), command(&format!("{from} + COUNT {count}"))].concat(), |entry| entry)?;
        match entries {
            Some(found) => Ok(Some(found)),
            None => self.groups_difference(key),
        }
    }

    fn groups_difference(&mut self, key: &[u8]) -> Result<Option<(String, String)>> {
        let (old, new) = self.both(&[b"XINFO", b"GROUPS", key])?;
        let (old, new) = (by_name(&old), by_name(&new));
        if let Some(found) = names_difference("groups", &old, &new) {
            return Ok(Some(found));
        }
        for (group, old) in &old {
            let Some(new) = new.get(group) else { continue };
            let of_group = |(a, b): (String, String)| (format!("group {}: {a}", short(group)), format!("group {}: {b}", short(group)));
            for name in ["last-delivered-id", "entries-read", "pending"] {
                if let Some(found) = field_difference(name, old, new) {
                    return Ok(Some(of_group(found)));
                }
            }
            if let Some(found) = self.consumers_difference(key, group)? {
                return Ok(Some(of_group(found)));
            }
            let pending = self.paged_difference(
                |from, count| [with(b"XPENDING", key), vec![group.clone()], command(&format!("{from} + {count}"))].concat(),
                without_idle,
            )?;
            if let Some(found) = pending {
                return Ok(Some(of_group(found)));
            }
        }
        Ok(None)
    }

    fn consumers_difference(&mut self, key: &[u8], group: &[u8]) -> Result<Option<(String, String)>> {
        let (old, new) = self.both(&[b"XINFO", b"CONSUMERS", key, group])?;
        let (old, new) = (by_name(&old), by_name(&new));
        if let Some(found) = names_difference("consumers", &old, &new) {
            return Ok(Some(found));
        }
        let mut pairs = old.iter().filter_map(|(name, old)| Some((name, old, new.get(name)?)));
        Ok(pairs.find_map(|(name, old, new)| {
            let (a, b) = field_difference("pending", old, new)?;
            Some((format!("consumer {}: {a}", short(name)), format!("consumer {}: {b}", short(name))))
        }))
    }

    /// Two id-ordered listings, read in pages from an id on and compared element by element.
    fn paged_difference(&mut self, page: impl Fn(&str, &str) -> Command, shape: fn(Value) -> Value) -> Result<Option<(String, String)>> {
        let count = PIECE_ELEMENTS.to_string();
        let (mut from, mut seen) = ("-".to_string(), 0);
        loop {
            let (old, new) = self.both_all(&page(&from, &count))?;
            let shaped = |reply: &Value| Value::Array(reply.items().iter().cloned().map(shape).collect());
            if let Some(found) = first_item_difference(&shaped(&old), &shaped(&new), seen) {
                return Ok(Some(found));
            }
            seen += old.items().len();
            let last = old.items().last().and_then(|item| item.items().first()).and_then(Value::bytes);
            match last.and_then(next_id) {
                Some(next) if old.items().len() == PIECE_ELEMENTS => from = next,
                _ => return Ok(None),
            }
        }
    }

    // -- Beside keys

    /// Function libraries, where both sides know functions.
    fn functions(&mut self) -> Result<()> {
        if self.old.major < 7 || self.new.major < 7 {
            return Ok(());
        }
        let (old, new) = self.both(&[b"FUNCTION", b"LIST", b"WITHCODE"])?;
        let (old, new) = (libraries(&old), libraries(&new));
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (old.get(name), new.get(name));
            if old != new {
                let show = |code: Option<&Vec<u8>>| code.map_or("nothing".to_string(), |code| short(code));
                self.note(name, (Kind::Function, show(old), show(new)));
            }
        }
        Ok(())
    }

    fn digests(&mut self, db: u32) -> Result<()> {
        self.select(db)?;
        ensure!(self.old.selected && self.new.selected, "only one side has database {db}");
        self.each_batch(
            |c| &mut c.old,
            |c, keys| {
                c.report.keys_compared += keys.len() as u64;
                c.digest_batch(keys)
            },
        )?;
        // A key that only `new` has: its digest on `old` is the digest of nothing.
        self.each_batch(
            |c| &mut c.new,
            |c, keys| {
                let heads = c.old.heads(keys)?;
                let extra = keys.iter().zip(heads).filter(|(_, head)| head.is_none()).map(|(key, _)| key.clone());
                let extra: Vec<_> = extra.collect();
                c.report.keys_compared += extra.len() as u64;
                c.digest_batch(&extra)
            },
        )
    }

    fn digest_batch(&mut self, keys: &[Vec<u8>]) -> Result<()> {
        let questions: Vec<Command> = keys.iter().map(|key| vec![b"DEBUG".to_vec(), b"DIGEST-VALUE".to_vec(), key.clone()]).collect();
        let answers = (self.old.ask_all(&questions)?, self.new.ask_all(&questions)?);
        for ((key, old), new) in keys.iter().zip(answers.0).zip(answers.1) {
            let (old, new) = (ok(old)?, ok(new)?);
            if old == new || self.is_hyperloglog(key)? {
                continue;
            }
            let heads = (self.old.head(key)?, self.new.head(key)?);
            if self.is_dying(&heads.0, &heads.1) {
                self.report.dying += 1;
            } else {
                self.note(key, (Kind::Digest, brief(&old), brief(&new)));
            }
        }
        Ok(())
    }

    fn is_hyperloglog(&mut self, key: &[u8]) -> Result<bool> {
        let start = self.old.client.call(&[b"GETRANGE", key, b"0", b"3"])?;
        Ok(start.bytes() == Some(b"HYLL"))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------------------------------------------------

fn size_command(kind: &str) -> Option<&'static [u8]> {
    Some(match kind {
        "string" => b"STRLEN",
        "list" => b"LLEN",
        "set" => b"SCARD",
        "hash" => b"HLEN",
        "zset" => b"ZCARD",
        _ => return None,
    })
}

fn small_size(kind: &str) -> i64 {
    if kind == "string" { SMALL_STRING_BYTES } else { SMALL_ELEMENTS }
}

fn whole_command(kind: &str, key: &[u8]) -> Command {
    match kind {
        "string" => with(b"GET", key),
        "set" => with(b"SMEMBERS", key),
        "hash" => with(b"HGETALL", key),
        "list" => [with(b"LRANGE", key), command("0 -1")].concat(),
        _ => [with(b"ZRANGE", key), command("0 -1 WITHSCORES")].concat(),
    }
}

/// Whole values of one type. False also for what was not understood: the examination decides then.
fn same_whole(kind: &str, old: &Value, new: &Value) -> bool {
    if old.is_error() || new.is_error() {
        return false;
    }
    match kind {
        "string" => same_string(old, new),
        "list" => old == new,
        "set" => sorted(old.items().iter().map(Value::bytes)) == sorted(new.items().iter().map(Value::bytes)),
        "hash" => {
            let fields = |value: &Value| -> Vec<(Vec<u8>, Vec<u8>)> {
                let bytes = |v: &Value| v.bytes().unwrap_or_default().to_vec();
                sorted(value.pairs().into_iter().map(|(k, v)| (bytes(k), bytes(v))))
            };
            fields(old) == fields(new)
        }
        "zset" => {
            let scores = |value: &Value| -> Option<Vec<(Vec<u8>, u64)>> {
                let pairs = value.pairs().into_iter();
                let pairs: Option<Vec<_>> = pairs.map(|(m, s)| Some((m.bytes()?.to_vec(), score_bits(s)?))).collect();
                pairs.map(|pairs| sorted(pairs.into_iter()))
            };
            scores(old).is_some_and(|old| scores(new) == Some(old))
        }
        _ => false,
    }
}

fn same_string(old: &Value, new: &Value) -> bool {
    match (old.bytes(), new.bytes()) {
        (Some(old), Some(new)) => old == new || same_hyperloglog(old, new),
        _ => old == new,
    }
}

/// Two HyperLogLogs with the same registers. Bytes 8 to 16 of the header cache the cardinality, which a mere PFCOUNT
/// changes; sparse and dense hold the same registers in different bytes (redis 7.0.15 hyperloglog.c).
fn same_hyperloglog(old: &[u8], new: &[u8]) -> bool {
    match (registers(old), registers(new)) {
        (Some(old), Some(new)) => old == new,
        // A damaged one is compared as it stands, but for the cache.
        _ => has_hll_header(old) && has_hll_header(new) && old[..8] == new[..8] && old[16..] == new[16..],
    }
}

const HLL_HEADER_BYTES: usize = 16;

fn has_hll_header(bytes: &[u8]) -> bool {
    bytes.len() >= HLL_HEADER_BYTES && bytes.starts_with(b"HYLL") && bytes[4] <= 1
}

/// The bits of a score: servers write the same number as `0.1` and as `0.10000000000000001`.
fn score_bits(score: &Value) -> Option<u64> {
    std::str::from_utf8(score.bytes()?).ok()?.parse::<f64>().ok().map(f64::to_bits)
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items
}

// ---------------------------------------------------------------------------------------------------------------------
// Replies
// ---------------------------------------------------------------------------------------------------------------------

fn ok(value: Value) -> Result<Value> {
    match value.error() {
        Some(error) => bail!("the server answers {error}"),
        None => Ok(value),
    }
}

fn with(name: &[u8], key: &[u8]) -> Command {
    vec![name.to_vec(), key.to_vec()]
}

/// `HPTTL key FIELDS n field...`
fn field_ttls_command<'v>(key: &[u8], fields: impl Iterator<Item = &'v Value>) -> Command {
    let fields: Vec<Vec<u8>> = fields.filter_map(|field| Some(field.bytes()?.to_vec())).collect();
    [with(b"HPTTL", key), vec![b"FIELDS".to_vec(), fields.len().to_string().into_bytes()], fields].concat()
}

/// A reply of the SCAN family: the next cursor, `None` at the end, and the items.
fn cursor_and_items(reply: &Value) -> Result<(Option<Vec<u8>>, &[Value])> {
    let [cursor, items] = reply.items() else { bail!("not a SCAN reply: {reply}") };
    let cursor = cursor.bytes().context("a SCAN reply without cursor")?;
    Ok(((cursor != b"0").then(|| cursor.to_vec()), items.items()))
}

fn difference(same: bool, old: &Value, new: &Value) -> Option<(String, String)> {
    (!same).then(|| (brief(old), brief(new)))
}

/// A field that both sides have and that differs; one that only one side knows is a matter of version.
fn field_difference(name: &str, old: &Value, new: &Value) -> Option<(String, String)> {
    let (old, new) = (old.field(name)?, new.field(name)?);
    (old != new).then(|| (format!("{name} {}", brief(old)), format!("{name} {}", brief(new))))
}

/// The maps of a listing under the `name` that each carries.
fn by_name(listing: &Value) -> BTreeMap<Vec<u8>, Value> {
    let named = |item: &Value| Some((item.field("name")?.bytes()?.to_vec(), item.clone()));
    listing.items().iter().filter_map(named).collect()
}

fn names_difference(what: &str, old: &BTreeMap<Vec<u8>, Value>, new: &BTreeMap<Vec<u8>, Value>) -> Option<(String, String)> {
    let show = |side: &BTreeMap<Vec<u8>, Value>| format!("{what} [{}]", side.keys().map(|name| short(name)).collect::<Vec<_>>().join(" "));
    (!old.keys().eq(new.keys())).then(|| (show(old), show(new)))
}

fn first_item_difference(old: &Value, new: &Value, offset: usize) -> Option<(String, String)> {
    let (old, new) = (old.items(), new.items());
    let at = (0..old.len().max(new.len())).find(|&at| old.get(at) != new.get(at))?;
    let show = |side: &[Value]| format!("[{}] {}", offset + at, side.get(at).map_or("nothing".to_string(), brief));
    Some((show(old), show(new)))
}

fn first_difference(old: &[u8], new: &[u8]) -> Option<usize> {
    (0..old.len().max(new.len())).find(|&at| old.get(at) != new.get(at))
}

/// `[id, consumer, idle, deliveries]` without the idle time.
fn without_idle(pending: Value) -> Value {
    let keep = |(at, item): (usize, &Value)| (at != 2).then(|| item.clone());
    Value::Array(pending.items().iter().enumerate().filter_map(keep).collect())
}

/// The smallest stream id above `id`; servers below 6.2 know no exclusive ranges.
fn next_id(id: &[u8]) -> Option<String> {
    let (ms, sequence) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (ms, sequence): (u64, u64) = (ms.parse().ok()?, sequence.parse().ok()?);
    let (ms, sequence) = match sequence.checked_add(1) {
        Some(next) => (ms, next),
        None => (ms.checked_add(1)?, 0),
    };
    Some(format!("{ms}-{sequence}"))
}

/// Library name to engine and code.
fn libraries(list: &Value) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let field = |library: &Value, name| library.field(name).and_then(Value::bytes).unwrap_or_default().to_vec();
    let library = |item: &Value| {
        let code = [field(item, "engine"), b" ".to_vec(), field(item, "library_code")].concat();
        (field(item, "library_name"), code)
    };
    list.items().iter().map(library).collect()
}

/// A value on few characters.
fn brief(value: &Value) -> String {
    match value.bytes() {
        Some(bytes) => short(bytes),
        None => {
            let text = value.to_string();
            if text.chars().count() > 80 { format!("{}...", text.chars().take(80).collect::<String>()) } else { text }
        }
    }
}

fn short(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    let head = &bytes[..bytes.len().min(SHOWN)];
    let rest = if bytes.len() > SHOWN { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{rest}", head.escape_ascii())
}
