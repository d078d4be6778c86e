//! Streams with consumer groups (redis 7.0 t_stream.c).
//!
//! `~` trims lazily by whole blocks of four entries, so that the length after a trim is the server's own business, as it
//! is in Redis with its nodes of a hundred. `entries_read` is kept where it is given and counted up, never estimated.
use super::dump::{Reader, length, text};
use super::*;
use crate::reply::parse_i64;

/// `ms-seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StreamId {
    /// Milliseconds.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

impl StreamId {
    const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };
    const ZERO: StreamId = StreamId { ms: 0, seq: 0 };

    fn text(self) -> String {
        format!("{}-{}", self.ms, self.seq)
    }

    fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => Some(StreamId { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    fn previous(self) -> Option<Self> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => Some(StreamId { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

/// A stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stream {
    /// Entries by rising id: fields and values alternate.
    pub entries: Vec<(StreamId, Vec<Vec<u8>>)>,
    /// The highest id ever.
    pub last: StreamId,
    /// The highest id that XDEL removed.
    pub max_deleted: StreamId,
    /// Entries ever added.
    pub added: u64,
    /// Groups by name.
    pub groups: Vec<Group>,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: Vec<u8>,
    /// The last id delivered.
    pub last: StreamId,
    /// Entries read, where known.
    pub entries_read: Option<i64>,
    /// Consumers, by name.
    pub consumers: Vec<Consumer>,
    /// Delivered and not acknowledged, by id.
    pub pending: Vec<(StreamId, Pending)>,
}

/// A consumer of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Consumer {
    /// Its name.
    pub name: Vec<u8>,
    /// When it was last heard of, in ms.
    pub seen_ms: u64,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// The consumer's name.
    pub consumer: Vec<u8>,
    /// When it was delivered, in ms.
    pub delivered_ms: u64,
    /// How often.
    pub count: i64,
}

impl Group {
    /// True if the consumer is new.
    fn ensure(&mut self, name: &[u8], now: u64) -> bool {
        match self.consumers.binary_search_by(|c| c.name.as_slice().cmp(name)) {
            Ok(at) => {
                self.consumers[at].seen_ms = now;
                false
            }
            Err(at) => {
                self.consumers.insert(at, Consumer { name: name.to_vec(), seen_ms: now });
                true
            }
        }
    }

    fn deliver(&mut self, id: StreamId, pending: Pending) {
        match self.pending.binary_search_by_key(&id, |p| p.0) {
            Ok(at) => self.pending[at].1 = pending,
            Err(at) => self.pending.insert(at, (id, pending)),
        }
    }
}

impl Stream {
    fn find(&self, id: StreamId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.0).ok()
    }

    fn group(&mut self, name: &[u8]) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.name == name)
    }

    fn range(&self, from: StreamId, to: StreamId) -> &[(StreamId, Vec<Vec<u8>>)] {
        let start = self.entries.partition_point(|entry| entry.0 < from);
        let end = self.entries.partition_point(|entry| entry.0 <= to);
        if start < end { &self.entries[start..end] } else { &[] }
    }
}

/// Equality as the comparer sees it: without delivery and seen times and without `entries_read`.
pub(super) fn same(a: &Stream, b: &Stream) -> bool {
    let groups = |x: &Group| -> bool {
        b.groups.iter().find(|y| y.name == x.name).is_some_and(|y| {
            x.last == y.last
                && x.consumers.iter().map(|c| &c.name).eq(y.consumers.iter().map(|c| &c.name))
                && x.pending.iter().map(|(id, p)| (id, &p.consumer, p.count)).eq(y.pending.iter().map(|(id, p)| (id, &p.consumer, p.count)))
        })
    };
    a.entries == b.entries
        && (a.last, a.max_deleted, a.added) == (b.last, b.max_deleted, b.added)
        && a.groups.len() == b.groups.len()
        && a.groups.iter().all(groups)
}

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("xadd", -5, WRITE, xadd),
        row("xlen", 2, 0, |cx, a| {
            let len = cx.s.stream(cx.at, a[1])?.map_or(0, |stream| stream.entries.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("xrange", -4, 0, |cx, a| xrange(cx, a, false)),
        row("xrevrange", -4, 0, |cx, a| xrange(cx, a, true)),
        row("xdel", -3, WRITE, xdel),
        row("xtrim", -4, WRITE, xtrim),
        row("xsetid", -3, WRITE, xsetid),
        row("xgroup", -2, CONTAINER, |_, _| Ok(())),
        row("xgroup|create", -5, WRITE, xgroup_create),
        row("xgroup|setid", -5, WRITE, xgroup_setid),
        row("xgroup|destroy", 4, WRITE, xgroup_destroy),
        row("xgroup|createconsumer", 5, WRITE, xgroup_createconsumer),
        row("xgroup|delconsumer", 5, WRITE, xgroup_delconsumer),
        row("xreadgroup", -7, WRITE, xreadgroup),
        row("xack", -4, WRITE, xack),
        row("xclaim", -6, WRITE, xclaim),
        row("xautoclaim", -6, WRITE, xautoclaim),
        row("xpending", -3, 0, xpending),
        row("xinfo", -2, CONTAINER, |_, _| Ok(())),
        row("xinfo|stream", -3, 0, xinfo_stream),
        row("xinfo|groups", 3, 0, xinfo_groups),
        row("xinfo|consumers", 4, 0, xinfo_consumers),
    ]
}

const BAD_ID: &str = "ERR Invalid stream ID specified as stream command argument";

fn uint(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit) && (text == b"0" || text[0] != b'0');
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}

/// `ms` or `ms-seq`, the missing part filled in.
fn strict_id(arg: &[u8], missing: u64) -> Result<StreamId, Fail> {
    let mut parts = arg.splitn(2, |b| *b == b'-');
    let ms = parts.next().and_then(uint).ok_or(BAD_ID)?;
    let seq = match parts.next() {
        Some(part) => uint(part).ok_or(BAD_ID)?,
        None => missing,
    };
    Ok(StreamId { ms, seq })
}

/// As `strict_id`, with `-` and `+`.
fn loose_id(arg: &[u8], missing: u64) -> Result<StreamId, Fail> {
    match arg {
        b"-" => Ok(StreamId::ZERO),
        b"+" => Ok(StreamId::MAX),
        _ => strict_id(arg, missing),
    }
}

/// A border of an interval: `(id` is exclusive.
fn border(arg: &[u8], is_start: bool) -> Result<StreamId, Fail> {
    let missing = if is_start { 0 } else { u64::MAX };
    match arg.strip_prefix(b"(") {
        Some(rest) if arg.len() > 1 => {
            let id = strict_id(rest, missing)?;
            let (moved, words) = if is_start {
                (id.next(), "ERR invalid start ID for the interval")
            } else {
                (id.previous(), "ERR invalid end ID for the interval")
            };
            moved.ok_or_else(|| words.into())
        }
        _ => loose_id(arg, missing),
    }
}

#[derive(Clone, Copy)]
enum Strategy {
    MaxLen(u64),
    MinId(StreamId),
}

#[derive(Default)]
struct Trim {
    strategy: Option<Strategy>,
    approx: bool,
    limit: u64,
    limit_given: bool,
}

const BLOCK: usize = 4;

impl Trim {
    /// Takes one option at `a[at]`; answers how many arguments it used, 0 where it is none of ours.
    fn option(&mut self, a: &[&[u8]], at: usize) -> Result<usize, Fail> {
        let more = a.len() - 1 - at;
        if (is(a[at], "MAXLEN") || is(a[at], "MINID")) && more > 0 {
            let max_len = is(a[at], "MAXLEN");
            if matches!((self.strategy, max_len), (Some(Strategy::MinId(_)), true) | (Some(Strategy::MaxLen(_)), false)) {
                return Err("ERR syntax error, MAXLEN and MINID options at the same time are not compatible".into());
            }
            self.approx = false;
            let mut used = 2;
            if more >= 2 && (a[at + 1] == b"~" || a[at + 1] == b"=") {
                self.approx = a[at + 1] == b"~";
                used = 3;
            }
            let value = a[at + used - 1];
            self.strategy = Some(if max_len {
                let count = int(value)?;
                if count < 0 {
                    return Err("ERR The MAXLEN argument must be >= 0.".into());
                }
                Strategy::MaxLen(count as u64)
            } else {
                Strategy::MinId(strict_id(value, 0)?)
            });
            return Ok(used);
        }
        if is(a[at], "LIMIT") && more > 0 {
            let limit = int(a[at + 1])?;
            if limit < 0 {
                return Err("ERR The LIMIT argument must be >= 0.".into());
            }
            self.limit = limit as u64;
            self.limit_given = true;
            return Ok(2);
        }
        Ok(0)
    }

    fn check(&self, is_xtrim: bool) -> Done {
        if self.limit > 0 && self.strategy.is_none() {
            return Err("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy".into());
        }
        if is_xtrim && self.strategy.is_none() {
            return Err("ERR syntax error, XTRIM must be called with a trimming strategy".into());
        }
        if self.limit_given && !self.approx {
            return Err("ERR syntax error, LIMIT cannot be used without the special ~ option".into());
        }
        Ok(())
    }

    fn apply(&self, stream: &mut Stream) -> usize {
        let Some(strategy) = self.strategy else { return 0 };
        let mut cut = match strategy {
            Strategy::MaxLen(max) => stream.entries.len().saturating_sub(max.min(usize::MAX as u64) as usize),
            Strategy::MinId(min) => stream.entries.partition_point(|entry| entry.0 < min),
        };
        if self.approx {
            cut -= cut % BLOCK;
            if self.limit > 0 {
                cut = cut.min((self.limit as usize) / BLOCK * BLOCK);
            }
        }
        stream.entries.drain(..cut);
        cut
    }
}

fn xadd(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut trim = Trim::default();
    let mut create = true;
    let mut at = 2;
    // An id given in full, `ms-*`, or `*`.
    let (mut id, mut auto_ms, mut auto_seq) = (StreamId::ZERO, true, true);
    while at < a.len() {
        if a[at] == b"*" {
            break;
        }
        let used = trim.option(a, at)?;
        if used > 0 {
            at += used;
        } else if is(a[at], "NOMKSTREAM") {
            create = false;
            at += 1;
        } else {
            auto_ms = false;
            match a[at].strip_suffix(b"-*") {
                Some(ms) => id.ms = uint(ms).ok_or(BAD_ID)?,
                None => {
                    id = strict_id(a[at], 0)?;
                    auto_seq = false;
                }
            }
            break;
        }
    }
    trim.check(false)?;
    let fields = a.get(at + 1..).unwrap_or_default();
    if fields.len() < 2 || fields.len() % 2 == 1 {
        return Err("ERR wrong number of arguments for 'xadd' command".into());
    }
    if !auto_ms && !auto_seq && id == StreamId::ZERO {
        return Err("ERR The ID specified in XADD must be greater than 0-0".into());
    }
    if cx.s.stream(cx.at, a[1])?.is_none() && !create {
        cx.c.out.null();
        return Ok(());
    }
    let now = cx.at.now;
    let stream = cx.s.make_stream(cx.at, a[1])?;
    let last = stream.last;
    if last == StreamId::MAX {
        return Err("ERR The stream has exhausted the last possible ID, unable to add more items".into());
    }
    const SMALL: &str = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    if auto_ms {
        id = if now > last.ms { StreamId { ms: now, seq: 0 } } else { last.next().ok_or(SMALL)? };
    } else if auto_seq {
        id.seq = if id.ms == last.ms { last.seq.checked_add(1).ok_or(SMALL)? } else { 0 };
    }
    if id <= last {
        return Err(SMALL.into());
    }
    stream.entries.push((id, fields.iter().map(|field| field.to_vec()).collect()));
    stream.last = id;
    stream.added += 1;
    trim.apply(stream);
    cx.c.out.bulk(id.text().as_bytes());
    Ok(())
}

fn entry(out: &mut Out, (id, fields): &(StreamId, Vec<Vec<u8>>)) {
    out.array(2);
    out.bulk(id.text().as_bytes());
    out.array(fields.len());
    fields.iter().for_each(|field| out.bulk(field));
}

fn xrange(cx: &mut Ctx, a: &[&[u8]], reverse: bool) -> Done {
    let (low, high) = if reverse { (a[3], a[2]) } else { (a[2], a[3]) };
    let (from, to) = (border(low, true)?, border(high, false)?);
    let mut count = usize::MAX;
    let mut rest = &a[4..];
    while let [word, more @ ..] = rest {
        let ([value, more @ ..], true) = (more, is(word, "COUNT")) else { return Err(SYNTAX.into()) };
        count = int(value)?.max(0) as usize;
        rest = more;
    }
    let Some(stream) = cx.s.stream(cx.at, a[1])? else {
        cx.c.out.array(0);
        return Ok(());
    };
    if count == 0 {
        cx.c.out.null_array();
        return Ok(());
    }
    let found = stream.range(from, to);
    let count = count.min(found.len());
    cx.c.out.array(count);
    if reverse {
        found.iter().rev().take(count).for_each(|item| entry(&mut cx.c.out, item));
    } else {
        found.iter().take(count).for_each(|item| entry(&mut cx.c.out, item));
    }
    Ok(())
}

fn xdel(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let stream = cx.s.stream(cx.at, a[1])?;
    let Some(stream) = stream else {
        cx.c.out.int(0);
        return Ok(());
    };
    let ids: Vec<StreamId> = a[2..].iter().map(|arg| strict_id(arg, 0)).collect::<Result<_, _>>()?;
    let mut removed = 0;
    for id in ids {
        if let Some(at) = stream.find(id) {
            stream.entries.remove(at);
            stream.max_deleted = stream.max_deleted.max(id);
            removed += 1;
        }
    }
    cx.c.out.len(removed);
    Ok(())
}

fn xtrim(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut trim = Trim::default();
    let mut at = 2;
    while at < a.len() {
        match trim.option(a, at)? {
            0 => return Err(SYNTAX.into()),
            used => at += used,
        }
    }
    trim.check(true)?;
    let removed = cx.s.stream(cx.at, a[1])?.map_or(0, |stream| trim.apply(stream));
    cx.c.out.len(removed);
    Ok(())
}

fn xsetid(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let id = strict_id(a[2], 0)?;
    let (mut added, mut deleted) = (None, StreamId::ZERO);
    let mut at = 3;
    while at < a.len() {
        let Some(value) = a.get(at + 1) else { return Err(SYNTAX.into()) };
        if is(a[at], "ENTRIESADDED") {
            let count = int(value)?;
            if count < 0 {
                return Err("ERR entries_added must be positive".into());
            }
            added = Some(count as u64);
        } else if is(a[at], "MAXDELETEDID") {
            deleted = strict_id(value, 0)?;
            if id < deleted {
                return Err("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id".into());
            }
        } else {
            return Err(SYNTAX.into());
        }
        at += 2;
    }
    let stream = cx.s.stream(cx.at, a[1])?.ok_or(NO_KEY)?;
    if let Some(top) = stream.entries.last() {
        if id < top.0 {
            return Err("ERR The ID specified in XSETID is smaller than the target stream top item".into());
        }
        if added.is_some_and(|added| stream.entries.len() as u64 > added) {
            return Err("ERR The entries_added specified in XSETID is smaller than the target stream length".into());
        }
    }
    stream.last = id;
    stream.added = added.unwrap_or(stream.added);
    if deleted != StreamId::ZERO {
        stream.max_deleted = deleted;
    }
    cx.c.out.ok();
    Ok(())
}

const NEEDS_KEY: &str = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.";

/// MKSTREAM and ENTRIESREAD, with the refusal of `addReplySubcommandSyntaxError`.
fn group_options(a: &[&[u8]], create: bool) -> Result<(bool, Option<i64>), Fail> {
    let (mut make, mut read) = (false, None);
    let mut at = 5;
    while at < a.len() {
        if create && is(a[at], "MKSTREAM") {
            make = true;
            at += 1;
        } else if is(a[at], "ENTRIESREAD") && at + 1 < a.len() {
            let count = int(a[at + 1])?;
            if count < -1 {
                return Err("ERR value for ENTRIESREAD must be positive or -1".into());
            }
            read = (count >= 0).then_some(count);
            at += 2;
        } else {
            return Err(subcommand_syntax(a));
        }
    }
    Ok((make, read))
}

fn subcommand_syntax(a: &[&[u8]]) -> Fail {
    format!("ERR unknown subcommand or wrong number of arguments for '{}'. Try XGROUP HELP.", String::from_utf8_lossy(a[1])).into()
}

fn no_group(a: &[&[u8]]) -> Fail {
    let (group, key) = (String::from_utf8_lossy(a[3]), String::from_utf8_lossy(a[2]));
    format!("NOGROUP No such consumer group '{group}' for key name '{key}'").into()
}

fn xgroup_create(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (make, entries_read) = group_options(a, true)?;
    let last = match cx.s.stream(cx.at, a[2])? {
        None if !make => return Err(NEEDS_KEY.into()),
        None => StreamId::ZERO,
        Some(stream) => stream.last,
    };
    if a.len() > 8 {
        return Err(subcommand_syntax(a));
    }
    let last = if a[4] == b"$" { last } else { strict_id(a[4], 0)? };
    let stream = cx.s.make_stream(cx.at, a[2])?;
    if stream.group(a[3]).is_some() {
        return Err("BUSYGROUP Consumer Group name already exists".into());
    }
    stream.groups.push(Group { name: a[3].to_vec(), last, entries_read, consumers: Vec::new(), pending: Vec::new() });
    stream.groups.sort_by(|x, y| x.name.cmp(&y.name));
    cx.c.out.ok();
    Ok(())
}

/// The stream's last id and the named group, with XGROUP's refusals.
fn existing<'a>(cx: &'a mut Ctx, a: &[&[u8]]) -> Result<(StreamId, &'a mut Group), Fail> {
    let stream = cx.s.stream(cx.at, a[2])?.ok_or(NEEDS_KEY)?;
    let last = stream.last;
    stream.group(a[3]).map(|group| (last, group)).ok_or_else(|| no_group(a))
}

fn xgroup_setid(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (_, entries_read) = group_options(a, false)?;
    let (last, group) = existing(cx, a)?;
    if a.len() != 5 && a.len() != 7 {
        return Err(subcommand_syntax(a));
    }
    group.last = if a[4] == b"$" { last } else { loose_id(a[4], 0)? };
    group.entries_read = entries_read;
    cx.c.out.ok();
    Ok(())
}

fn xgroup_destroy(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let stream = cx.s.stream(cx.at, a[2])?.ok_or(NEEDS_KEY)?;
    let before = stream.groups.len();
    stream.groups.retain(|group| group.name != a[3]);
    let gone = stream.groups.len() != before;
    cx.c.out.flag(gone);
    Ok(())
}

fn xgroup_createconsumer(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let now = cx.at.now;
    let new = existing(cx, a)?.1.ensure(a[4], now);
    cx.c.out.flag(new);
    Ok(())
}

fn xgroup_delconsumer(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (_, group) = existing(cx, a)?;
    let before = group.pending.len();
    group.pending.retain(|(_, pending)| pending.consumer != a[4]);
    let removed = before - group.pending.len();
    group.consumers.retain(|consumer| consumer.name != a[4]);
    cx.c.out.len(removed);
    Ok(())
}

/// BLOCK is read and ignored: nothing blocks here.
fn xreadgroup(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (mut count, mut no_ack, mut group, mut streams) = (0, false, None, None);
    let mut at = 1;
    while at < a.len() {
        let more = a.len() - 1 - at;
        if is(a[at], "BLOCK") && more > 0 {
            let timeout = parse_i64(a[at + 1]).ok_or("ERR timeout is not an integer or out of range")?;
            if timeout < 0 {
                return Err("ERR timeout is negative".into());
            }
            at += 1;
        } else if is(a[at], "COUNT") && more > 0 {
            count = int(a[at + 1])?.max(0);
            at += 1;
        } else if is(a[at], "STREAMS") && more > 0 {
            streams = Some(&a[at + 1..]);
            break;
        } else if is(a[at], "GROUP") && more >= 2 {
            group = Some((a[at + 1], a[at + 2]));
            at += 2;
        } else if is(a[at], "NOACK") {
            no_ack = true;
        } else {
            return Err(SYNTAX.into());
        }
        at += 1;
    }
    let streams = streams.ok_or(SYNTAX)?;
    if streams.len() % 2 == 1 {
        return Err("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.".into());
    }
    let (name, consumer) = group.ok_or("ERR Missing GROUP option for XREADGROUP")?;
    let (keys, ids) = streams.split_at(streams.len() / 2);
    let mut wanted: Vec<Option<StreamId>> = Vec::with_capacity(ids.len());
    for (key, id) in keys.iter().zip(ids) {
        if cx.s.stream(cx.at, key)?.and_then(|stream| stream.group(name)).is_none() {
            let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(name));
            return Err(format!("NOGROUP No such key '{key}' or consumer group '{name}' in XREADGROUP with GROUP option").into());
        }
        wanted.push(match *id {
            b"$" => return Err("ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.".into()),
            b">" => None,
            id => Some(strict_id(id, 0)?),
        });
    }
    let now = cx.at.now;
    let count = if count == 0 { usize::MAX } else { count as usize };
    let mark = cx.c.out.bytes.len();
    let mut served = 0;
    for (key, from) in keys.iter().zip(wanted) {
        let Some(stream) = cx.s.stream(cx.at, key)? else { continue };
        let Some(number) = stream.groups.iter().position(|group| group.name == name) else { continue };
        let group = &stream.groups[number];
        if from.is_none() && stream.last <= group.last {
            continue;
        }
        served += 1;
        if !cx.c.out.resp3 {
            cx.c.out.array(2);
        }
        cx.c.out.bulk(key);
        match from {
            Some(from) => history(&mut cx.c.out, stream, number, consumer, from, count, now),
            None => fresh(&mut cx.c.out, stream, number, consumer, count, no_ack, now),
        }
    }
    if served == 0 {
        cx.c.out.null_array();
        return Ok(());
    }
    // The head comes last, because only now the number of streams served is known.
    let body = cx.c.out.bytes.split_off(mark);
    if cx.c.out.resp3 {
        cx.c.out.map(served)
    } else {
        cx.c.out.array(served)
    }
    cx.c.out.bytes.extend_from_slice(&body);
    Ok(())
}

fn history(out: &mut Out, stream: &mut Stream, number: usize, consumer: &[u8], from: StreamId, count: usize, now: u64) {
    stream.groups[number].ensure(consumer, now);
    let ids: Vec<StreamId> = stream.groups[number]
        .pending
        .iter_mut()
        .filter(|(id, pending)| *id > from && pending.consumer == consumer)
        .take(count)
        .map(|(id, _)| *id)
        .collect();
    out.array(ids.len());
    for id in ids {
        match stream.find(id) {
            Some(at) => {
                entry(out, &stream.entries[at]);
                if let Some((_, pending)) = stream.groups[number].pending.iter_mut().find(|(other, _)| *other == id) {
                    pending.delivered_ms = now;
                    pending.count += 1;
                }
            }
            None => {
                out.array(2);
                out.bulk(id.text().as_bytes());
                out.null_array();
            }
        }
    }
}

fn fresh(out: &mut Out, stream: &mut Stream, number: usize, consumer: &[u8], count: usize, no_ack: bool, now: u64) {
    let Stream { entries, groups, .. } = stream;
    let group = &mut groups[number];
    group.ensure(consumer, now);
    let start = entries.partition_point(|entry| entry.0 <= group.last);
    let found = &entries[start..];
    let found = &found[..count.min(found.len())];
    out.array(found.len());
    for item in found {
        entry(out, item);
        group.last = item.0;
        group.entries_read = group.entries_read.map(|read| read + 1);
        if !no_ack {
            group.deliver(item.0, Pending { consumer: consumer.to_vec(), delivered_ms: now, count: 1 });
        }
    }
}

fn xack(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let group = cx.s.stream(cx.at, a[1])?.and_then(|stream| stream.group(a[2]));
    let Some(group) = group else {
        cx.c.out.int(0);
        return Ok(());
    };
    let ids: Vec<StreamId> = a[3..].iter().map(|arg| strict_id(arg, 0)).collect::<Result<_, _>>()?;
    let before = group.pending.len();
    group.pending.retain(|(id, _)| !ids.contains(id));
    let removed = before - group.pending.len();
    cx.c.out.len(removed);
    Ok(())
}

fn no_key_or_group(a: &[&[u8]]) -> Fail {
    format!("NOGROUP No such key '{}' or consumer group '{}'", String::from_utf8_lossy(a[1]), String::from_utf8_lossy(a[2])).into()
}

fn xclaim(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if cx.s.stream(cx.at, a[1])?.and_then(|stream| stream.group(a[2])).is_none() {
        return Err(no_key_or_group(a));
    }
    let now = cx.at.now as i64;
    let min_idle = parse_i64(a[4]).ok_or("ERR Invalid min-idle-time argument for XCLAIM")?.max(0);
    let mut at = 5;
    let mut ids = Vec::new();
    while let Some(Ok(id)) = a.get(at).map(|arg| strict_id(arg, 0)) {
        ids.push(id);
        at += 1;
    }
    let (mut force, mut just_id, mut time, mut retry, mut last) = (false, false, None, None, StreamId::ZERO);
    while at < a.len() {
        let more = a.get(at + 1);
        match more {
            _ if is(a[at], "FORCE") => force = true,
            _ if is(a[at], "JUSTID") => just_id = true,
            Some(value) if is(a[at], "IDLE") => {
                time = Some(now.wrapping_sub(parse_i64(value).ok_or("ERR Invalid IDLE option argument for XCLAIM")?))
            }
            Some(value) if is(a[at], "TIME") => time = Some(parse_i64(value).ok_or("ERR Invalid TIME option argument for XCLAIM")?),
            Some(value) if is(a[at], "RETRYCOUNT") => {
                retry = Some(parse_i64(value).ok_or("ERR Invalid RETRYCOUNT option argument for XCLAIM")?)
            }
            Some(value) if is(a[at], "LASTID") => last = strict_id(value, 0)?,
            _ => return Err(format!("ERR Unrecognized XCLAIM option '{}'", String::from_utf8_lossy(a[at])).into()),
        }
        at += if is(a[at], "FORCE") || is(a[at], "JUSTID") { 1 } else { 2 };
    }
    let delivered = time.filter(|time| (0..=now).contains(time)).unwrap_or(now) as u64;
    let stream = cx.s.make_stream(cx.at, a[1])?;
    let Stream { entries, groups, .. } = &mut **stream;
    let Some(group) = groups.iter_mut().find(|group| group.name == a[2]) else { return Err(no_key_or_group(a)) };
    group.last = group.last.max(last);
    let mut claimed = Vec::new();
    for id in ids {
        let entry_at = entries.binary_search_by_key(&id, |entry| entry.0).ok();
        let old = group.pending.iter().position(|(other, _)| *other == id);
        let Some(entry_at) = entry_at else {
            if let Some(old) = old {
                group.pending.remove(old);
            }
            continue;
        };
        // A delivery made by FORCE counts from one before its first (streamCreateNACK).
        let (idle, count) = match old.map(|old| &group.pending[old].1) {
            Some(pending) => (now - pending.delivered_ms as i64, pending.count),
            None if force => (i64::MAX, 1),
            None => continue,
        };
        if idle < min_idle {
            continue;
        }
        let count = match retry.filter(|retry| *retry >= 0) {
            Some(retry) => retry,
            None => count + i64::from(!just_id),
        };
        group.ensure(a[3], now as u64);
        group.deliver(id, Pending { consumer: a[3].to_vec(), delivered_ms: delivered, count });
        claimed.push(entry_at);
    }
    cx.c.out.array(claimed.len());
    for at in claimed {
        if just_id { cx.c.out.bulk(entries[at].0.text().as_bytes()) } else { entry(&mut cx.c.out, &entries[at]) }
    }
    Ok(())
}

fn xautoclaim(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let min_idle = parse_i64(a[4]).ok_or("ERR Invalid min-idle-time argument for XAUTOCLAIM")?.max(0);
    let start = border(a[5], true)?;
    let (mut count, mut just_id) = (100, false);
    let mut at = 6;
    while at < a.len() {
        if is(a[at], "COUNT") && at + 1 < a.len() {
            const MOST: i64 = i64::MAX / 16;
            count = parse_i64(a[at + 1]).filter(|n| (1..=MOST).contains(n)).ok_or("ERR COUNT must be > 0")?;
            at += 1;
        } else if is(a[at], "JUSTID") {
            just_id = true;
        } else {
            return Err(SYNTAX.into());
        }
        at += 1;
    }
    let now = cx.at.now;
    let stream = cx.s.stream(cx.at, a[1])?.ok_or_else(|| no_key_or_group(a))?;
    let Stream { entries, groups, .. } = &mut **stream;
    let group = groups.iter_mut().find(|group| group.name == a[2]).ok_or_else(|| no_key_or_group(a))?;
    let mut attempts = count.saturating_mul(10);
    let (mut claimed, mut deleted) = (Vec::new(), Vec::new());
    let mut at = group.pending.partition_point(|(id, _)| *id < start);
    while attempts > 0 && count > 0 && at < group.pending.len() {
        attempts -= 1;
        let id = group.pending[at].0;
        let Ok(entry_at) = entries.binary_search_by_key(&id, |entry| entry.0) else {
            group.pending.remove(at);
            deleted.push(id);
            count -= 1;
            continue;
        };
        at += 1;
        if (now as i64) - (group.pending[at - 1].1.delivered_ms as i64) < min_idle {
            continue;
        }
        group.ensure(a[3], now);
        let pending = &mut group.pending[at - 1].1;
        pending.delivered_ms = now;
        pending.count += i64::from(!just_id);
        pending.consumer = a[3].to_vec();
        claimed.push(entry_at);
        count -= 1;
    }
    let next = group.pending.get(at).map_or(StreamId::ZERO, |(id, _)| *id);
    cx.c.out.array(3);
    cx.c.out.bulk(next.text().as_bytes());
    cx.c.out.array(claimed.len());
    for at in claimed {
        if just_id { cx.c.out.bulk(entries[at].0.text().as_bytes()) } else { entry(&mut cx.c.out, &entries[at]) }
    }
    cx.c.out.array(deleted.len());
    deleted.iter().for_each(|id| cx.c.out.bulk(id.text().as_bytes()));
    Ok(())
}

fn xpending(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut rest = &a[3..];
    let mut min_idle = 0;
    if rest.len() >= 2 && is(rest[0], "IDLE") {
        min_idle = int(rest[1])?;
        if rest.len() < 5 {
            return Err(SYNTAX.into());
        }
        rest = &rest[2..];
    }
    let limits = match rest {
        [] => None,
        // Up to nine arguments are taken, and those after the consumer are not looked at.
        [start, end, count, more @ ..] if a.len() <= 9 => Some((start, end, count, more.first().copied())),
        _ => return Err(SYNTAX.into()),
    };
    let limits = match limits {
        None => None,
        Some((start, end, count, consumer)) => Some((int(count)?.max(0) as usize, border(start, true)?, border(end, false)?, consumer)),
    };
    let now = cx.at.now;
    let group = cx.s.stream(cx.at, a[1])?.and_then(|stream| stream.group(a[2])).ok_or_else(|| no_key_or_group(a))?;
    let out = &mut cx.c.out;
    let Some((count, start, end, consumer)) = limits else {
        out.array(4);
        out.len(group.pending.len());
        let (Some(first), Some(last)) = (group.pending.first(), group.pending.last()) else {
            out.null();
            out.null();
            out.null_array();
            return Ok(());
        };
        out.bulk(first.0.text().as_bytes());
        out.bulk(last.0.text().as_bytes());
        let by_consumer: Vec<(&[u8], usize)> = group
            .consumers
            .iter()
            .map(|c| (c.name.as_slice(), group.pending.iter().filter(|(_, p)| p.consumer == c.name).count()))
            .filter(|(_, count)| *count > 0)
            .collect();
        out.array(by_consumer.len());
        for (name, count) in by_consumer {
            out.array(2);
            out.bulk(name);
            out.bulk(count.to_string().as_bytes());
        }
        return Ok(());
    };
    let found: Vec<&(StreamId, Pending)> = group
        .pending
        .iter()
        .filter(|(id, p)| {
            (start..=end).contains(id) && consumer.is_none_or(|c| p.consumer == c) && now.saturating_sub(p.delivered_ms) as i64 >= min_idle
        })
        .take(count)
        .collect();
    out.array(found.len());
    for (id, pending) in found {
        out.array(4);
        out.bulk(id.text().as_bytes());
        out.bulk(&pending.consumer);
        out.int(now.saturating_sub(pending.delivered_ms) as i64);
        out.int(pending.count);
    }
    Ok(())
}

/// Without FULL. The sizes of the tree are this model's own.
fn xinfo_stream(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if a.len() > 3 {
        return Err("ERR the model does not know XINFO STREAM FULL".into());
    }
    let stream = cx.s.stream(cx.at, a[2])?.ok_or(NO_KEY)?;
    let out = &mut cx.c.out;
    out.map(10);
    let first = stream.entries.first().map_or(StreamId::ZERO, |entry| entry.0);
    for (name, number) in [
        ("length", stream.entries.len()),
        ("radix-tree-keys", stream.entries.len().div_ceil(BLOCK)),
        ("radix-tree-nodes", stream.entries.len().div_ceil(BLOCK) + 1),
    ] {
        out.bulk(name.as_bytes());
        out.len(number);
    }
    for (name, id) in [("last-generated-id", stream.last), ("max-deleted-entry-id", stream.max_deleted)] {
        out.bulk(name.as_bytes());
        out.bulk(id.text().as_bytes());
    }
    out.bulk(b"entries-added");
    out.int(stream.added as i64);
    out.bulk(b"recorded-first-entry-id");
    out.bulk(first.text().as_bytes());
    out.bulk(b"groups");
    out.len(stream.groups.len());
    for (name, item) in [("first-entry", stream.entries.first()), ("last-entry", stream.entries.last())] {
        out.bulk(name.as_bytes());
        match item {
            Some(item) => entry(out, item),
            None => out.null(),
        }
    }
    Ok(())
}

fn xinfo_groups(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let stream = cx.s.stream(cx.at, a[2])?.ok_or(NO_KEY)?;
    let out = &mut cx.c.out;
    out.array(stream.groups.len());
    for group in &stream.groups {
        out.map(6);
        out.bulk(b"name");
        out.bulk(&group.name);
        out.bulk(b"consumers");
        out.len(group.consumers.len());
        out.bulk(b"pending");
        out.len(group.pending.len());
        out.bulk(b"last-delivered-id");
        out.bulk(group.last.text().as_bytes());
        out.bulk(b"entries-read");
        match group.entries_read {
            Some(read) => out.int(read),
            None => out.null(),
        }
        out.bulk(b"lag");
        match group.entries_read {
            Some(read) => out.int(stream.added as i64 - read),
            None => out.null(),
        }
    }
    Ok(())
}

fn xinfo_consumers(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let now = cx.at.now;
    let stream = cx.s.stream(cx.at, a[2])?.ok_or(NO_KEY)?;
    let group = stream.group(a[3]).ok_or_else(|| no_group(a))?;
    let out = &mut cx.c.out;
    out.array(group.consumers.len());
    for consumer in &group.consumers {
        out.map(3);
        out.bulk(b"name");
        out.bulk(&consumer.name);
        out.bulk(b"pending");
        out.len(group.pending.iter().filter(|(_, p)| p.consumer == consumer.name).count());
        out.bulk(b"idle");
        out.int(now.saturating_sub(consumer.seen_ms) as i64);
    }
    Ok(())
}

/// Our own encoding, for DUMP.
pub(super) fn write(b: &mut Vec<u8>, stream: &Stream) {
    let id = |b: &mut Vec<u8>, id: StreamId| {
        b.extend_from_slice(&id.ms.to_le_bytes());
        b.extend_from_slice(&id.seq.to_le_bytes());
    };
    id(b, stream.last);
    id(b, stream.max_deleted);
    b.extend_from_slice(&stream.added.to_le_bytes());
    length(b, stream.entries.len());
    for (at, fields) in &stream.entries {
        id(b, *at);
        length(b, fields.len());
        fields.iter().for_each(|field| text(b, field));
    }
    length(b, stream.groups.len());
    for group in &stream.groups {
        text(b, &group.name);
        id(b, group.last);
        b.extend_from_slice(&group.entries_read.unwrap_or(-1).to_le_bytes());
        length(b, group.consumers.len());
        for consumer in &group.consumers {
            text(b, &consumer.name);
            b.extend_from_slice(&consumer.seen_ms.to_le_bytes());
        }
        length(b, group.pending.len());
        for (at, pending) in &group.pending {
            id(b, *at);
            text(b, &pending.consumer);
            b.extend_from_slice(&pending.delivered_ms.to_le_bytes());
            b.extend_from_slice(&pending.count.to_le_bytes());
        }
    }
}

/// Reads what [`write`] wrote.
pub(super) fn read(r: &mut Reader) -> Option<Stream> {
    let id = |r: &mut Reader| Some(StreamId { ms: r.u64()?, seq: r.u64()? });
    let mut stream = Stream { last: id(r)?, max_deleted: id(r)?, added: r.u64()?, ..Stream::default() };
    for _ in 0..r.length()? {
        let at = id(r)?;
        let count = r.length()?;
        stream.entries.push((at, (0..count).map(|_| r.text()).collect::<Option<_>>()?));
    }
    for _ in 0..r.length()? {
        let name = r.text()?;
        let last = id(r)?;
        let entries_read = Some(r.u64()? as i64).filter(|read| *read >= 0);
        let count = r.length()?;
        let consumers = (0..count).map(|_| Some(Consumer { name: r.text()?, seen_ms: r.u64()? })).collect::<Option<_>>()?;
        let count = r.length()?;
        let pending = (0..count)
            .map(|_| Some((id(r)?, Pending { consumer: r.text()?, delivered_ms: r.u64()?, count: r.u64()? as i64 })))
            .collect::<Option<_>>()?;
        stream.groups.push(Group { name, last, entries_read, consumers, pending });
    }
    Some(stream)
}
