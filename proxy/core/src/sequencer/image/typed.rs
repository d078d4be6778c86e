//! A key read type by type in one block, and the commands that build it on a server which refuses the payload of DUMP.

use super::{End, Lives};
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use std::collections::{BTreeMap, HashMap};

/// Reads that fit every type; those of the wrong type fail inside EXEC and abort nothing.
pub(super) fn push_typed_reads(frame: &mut Vec<u8>, key: &[u8]) -> u32 {
    let reads: [&[&[u8]]; 9] = [
        &[b"TYPE", key],
        &[b"PTTL", key],
        &[b"GET", key],
        &[b"LRANGE", key, b"0", b"-1"],
        &[b"SMEMBERS", key],
        &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        &[b"HGETALL", key],
        &[b"XRANGE", key, b"-", b"+"],
        &[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"],
    ];
    reads.iter().for_each(|read| push_request(frame, read));
    reads.len() as u32
}

/// Place of HGETALL among them.
const HASH_AT: usize = 6;

/// Elements per command of a typed image, well below every server's bound.
const TYPED_CHUNK: usize = 512;

/// `MULTI UNLINK k; <commands that build it>; PEXPIRE k; EXEC`. `newer`: the mirror is a 7.0 or later.
pub(super) fn push_typed(frame: &mut Vec<u8>, key: &[u8], reply: Reply<'_>, lives: Lives, newer: bool) -> Option<u32> {
    let parts: Vec<Reply<'_>> = reply.elements().collect();
    let [kind, pttl, string, list, set, zset, hash, entries, info] = parts[..] else { return None };
    let mut commands = 1;
    push_request(frame, &[b"MULTI"]);
    push_request(frame, &[b"UNLINK", key]);
    let mut chunked = |name: &[u8], items: &[&[u8]], frame: &mut Vec<u8>| {
        for chunk in items.chunks(TYPED_CHUNK) {
            let mut command = vec![name, key];
            command.extend_from_slice(chunk);
            push_request(frame, &command);
            commands += 1;
        }
    };
    let leaves = |reply: Reply<'_>| -> Vec<Vec<u8>> { reply.elements().map(|item| item.text().to_vec()).collect() };
    match kind.text() {
        b"none" => {}
        b"string" => {
            push_request(frame, &[b"SET", key, string.text()]);
            commands += 1;
        }
        b"list" | b"set" | b"hash" => {
            let (name, items): (&[u8], Vec<Vec<u8>>) = match kind.text() {
                b"list" => (b"RPUSH", leaves(list)),
                b"set" => (b"SADD", leaves(set)),
                _ => (b"HSET", leaves(hash)),
            };
            let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
            chunked(name, &items, frame);
        }
        b"zset" => {
            let mut pairs: Vec<&[u8]> = Vec::new();
            let flat: Vec<Reply<'_>> =
                zset.elements().flat_map(|item| if item.is_aggregate() { item.elements().collect() } else { vec![item] }).collect();
            for pair in flat.chunks(2) {
                pairs.extend([pair.get(1)?.text(), pair[0].text()]);
            }
            chunked(b"ZADD", &pairs, frame);
        }
        b"stream" => commands += push_stream(frame, key, entries, info, newer)?,
        _ => return None,
    }
    if let Some(end) = lives.end(pttl.integer()?).filter(|_| kind.text() != b"none") {
        let (name, time) = end.command();
        push_request(frame, &[name, key, &time]);
        commands += 1;
    }
    push_request(frame, &[b"EXEC"]);
    Some(commands + 2)
}

/// The fields of a hash that was read by type.
pub(super) fn field_names(reply: Reply<'_>) -> Vec<Box<[u8]>> {
    let hash = reply.elements().nth(HASH_AT);
    hash.into_iter().flat_map(Reply::elements).step_by(2).map(|name| name.text().into()).collect()
}

/// A hash with the times to live of these fields, in a block: what the names were read from may have changed.
pub(super) fn push_field_reads(frame: &mut Vec<u8>, key: &[u8], names: &[Box<[u8]>]) -> u32 {
    let count = number(names.len() as i64);
    let mut times: Vec<&[u8]> = vec![b"HPTTL", key, b"FIELDS", &count];
    times.extend(names.iter().map(|name| &**name));
    push_request(frame, &[b"MULTI"]);
    push_request(frame, &[b"PTTL", key]);
    push_request(frame, &[b"HGETALL", key]);
    push_request(frame, &times);
    push_request(frame, &[b"EXEC"]);
    5
}

/// The commands that build such a hash, their replies, and whether a field has a time to live. None: it has a field that is not among
/// the names.
pub(super) fn push_fields(frame: &mut Vec<u8>, key: &[u8], names: &[Box<[u8]>], reply: Reply<'_>, lives: Lives) -> Option<(u32, bool)> {
    let parts: Vec<Reply<'_>> = reply.elements().collect();
    let [pttl, hash, times] = parts[..] else { return None };
    let pttl = pttl.integer()?;
    if pttl == -2 {
        push_request(frame, &[b"UNLINK", key]);
        return Some((1, false));
    }
    let times: HashMap<&[u8], i64> =
        names.iter().zip(times.elements()).filter_map(|(name, left)| Some((&**name, left.integer()?))).collect();
    let items: Vec<&[u8]> = hash.elements().map(Reply::text).collect();
    if items.is_empty() || items.iter().step_by(2).any(|name| !times.contains_key(name)) {
        return None;
    }
    let mut commands: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"], vec![b"UNLINK", key]];
    commands.extend(items.chunks(TYPED_CHUNK).map(|chunk| [&[b"HSET".as_slice(), key], chunk].concat()));
    let mortal: Vec<(&[u8], Vec<u8>)> = items
        .iter()
        .step_by(2)
        .filter_map(|name| Some((*name, *times.get(name).filter(|left| **left >= 0)?)))
        .map(|(name, left)| (name, number(left.max(1).saturating_add(lives.margin_ms))))
        .collect();
    commands.extend(mortal.iter().map(|(name, left)| vec![b"HPEXPIRE".as_slice(), key, left, b"FIELDS", b"1", name]));
    let end = lives.end(pttl).map(End::command);
    if let Some((name, time)) = &end {
        commands.push(vec![name, key, time]);
    }
    commands.push(vec![b"EXEC"]);
    commands.iter().for_each(|command| push_request(frame, command));
    Some((commands.len() as u32, !mortal.is_empty()))
}

/// The value behind `name` in a map or flat array.
pub(in crate::sequencer) fn field<'a>(map: Reply<'a>, name: &str) -> Option<Reply<'a>> {
    let mut parts = map.elements();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        if key.text() == name.as_bytes() {
            return Some(value);
        }
    }
    None
}

/// Entries, last id, groups with their pending entries and consumers.
///
/// Pending entries may have been deleted from the stream since, and XCLAIM refuses those: they are put in at their place among
/// the entries and deleted again at the end.
fn push_stream(frame: &mut Vec<u8>, key: &[u8], entries: Reply<'_>, info: Reply<'_>, newer: bool) -> Option<u32> {
    let mut commands = 0;
    let mut push = |frame: &mut Vec<u8>, command: &[&[u8]]| {
        push_request(frame, command);
        commands += 1;
    };
    let groups: Vec<Reply<'_>> = field(info, "groups").into_iter().flat_map(Reply::elements).collect();
    let mut present: BTreeMap<(u64, u64), Option<Reply<'_>>> = BTreeMap::new();
    for entry in entries.elements() {
        let mut parts = entry.elements();
        let (id, fields) = (parts.next()?, parts.next()?);
        present.insert(stream_id(id.text())?, Some(fields));
    }
    for id in groups.iter().flat_map(|group| pending(*group)).map(|entry| entry.0) {
        present.entry(stream_id(id)?).or_insert(None);
    }
    if present.is_empty() {
        // A stream may be empty: make it with an entry that is taken away again.
        present.insert((0, 1), None);
    }
    for ((ms, seq), fields) in &present {
        let id = format!("{ms}-{seq}");
        let mut command: Vec<&[u8]> = vec![b"XADD", key, id.as_bytes()];
        match fields {
            Some(fields) => command.extend(fields.elements().map(Reply::text)),
            None => command.extend([b"x".as_slice(), b"x"]),
        }
        push(frame, &command);
    }
    for group in &groups {
        let name = field(*group, "name")?.text();
        let mut create: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key, name, field(*group, "last-delivered-id")?.text()];
        let read = field(*group, "entries-read").filter(|read| newer && read.integer().is_some());
        let read = read.and_then(Reply::integer).map(number);
        create.extend(read.iter().flat_map(|read| [b"ENTRIESREAD".as_slice(), read]));
        push(frame, &create);
        for consumer in field(*group, "consumers").into_iter().flat_map(Reply::elements) {
            // Reading its own history makes a consumer, on every version, and delivers nothing.
            let consumer = field(consumer, "name")?.text();
            push(frame, &[b"XREADGROUP", b"GROUP", name, consumer, b"COUNT", b"1", b"STREAMS", key, b"0"]);
        }
        for (id, consumer, delivered, count) in pending(*group) {
            let (delivered, count) = (number(delivered), number(count));
            push(frame, &[b"XCLAIM", key, name, consumer, b"0", id, b"TIME", &delivered, b"RETRYCOUNT", &count, b"FORCE", b"JUSTID"]);
        }
    }
    let kept = present.values().flatten().count();
    let trimmed = newer && field(info, "max-deleted-entry-id").is_some_and(|id| id.text() == b"0-0");
    if trimmed && kept < present.len() {
        // Nothing was ever deleted there, only trimmed, and XSETID cannot say so behind an XDEL.
        push(frame, &[b"XTRIM", key, b"MAXLEN", b"=", &number(kept as i64)]);
    } else {
        for (ms, seq) in present.iter().filter(|(_, fields)| fields.is_none()).map(|(id, _)| id) {
            push(frame, &[b"XDEL", key, format!("{ms}-{seq}").as_bytes()]);
        }
    }
    let last_id = field(info, "last-generated-id")?.text();
    let counted = field(info, "entries-added").and_then(Reply::integer).zip(field(info, "max-deleted-entry-id"));
    match counted.filter(|_| newer) {
        Some((added, deleted)) => {
            // XSETID refuses a last id below the highest deleted one; clients can bring that about all the same, in two steps.
            let below = stream_id(last_id) < stream_id(deleted.text());
            let first = if below { deleted.text() } else { last_id };
            push(frame, &[b"XSETID", key, first, b"ENTRIESADDED", &number(added), b"MAXDELETEDID", deleted.text()]);
            if below {
                push(frame, &[b"XSETID", key, last_id]);
            }
        }
        None => push(frame, &[b"XSETID", key, last_id]),
    }
    Some(commands)
}

/// A group's pending entries: id, consumer, time of delivery, deliveries.
fn pending(group: Reply<'_>) -> Vec<(&[u8], &[u8], i64, i64)> {
    let entries = field(group, "pel").or_else(|| field(group, "pending")).into_iter().flat_map(Reply::elements);
    let parts = entries.map(|entry| entry.elements().collect::<Vec<Reply<'_>>>());
    parts
        .filter_map(|parts| Some((parts.first()?.text(), parts.get(1)?.text(), parts.get(2)?.integer()?, parts.get(3)?.integer()?)))
        .collect()
}

/// `5-1` as numbers.
pub(super) fn stream_id(text: &[u8]) -> Option<(u64, u64)> {
    let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}
