//! Commands that do not look into the value: life, death, names, databases (redis 7.0 db.c, expire.c, cluster.c restoreCommand).
use super::*;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("del", -2, WRITE, del),
        row("unlink", -2, WRITE, del),
        row("exists", -2, 0, exists),
        row("touch", -2, 0, exists),
        row("type", 2, 0, |cx, a| {
            let name = cx.s.entry(cx.at, a[1]).map_or("none", |entry| entry.value.type_name());
            cx.c.out.simple(name);
            Ok(())
        }),
        row("ttl", 2, 0, |cx, a| remaining(cx, a, true, false)),
        row("pttl", 2, 0, |cx, a| remaining(cx, a, false, false)),
        row("expiretime", 2, 0, |cx, a| remaining(cx, a, true, true)),
        row("pexpiretime", 2, 0, |cx, a| remaining(cx, a, false, true)),
        row("expire", -3, WRITE, |cx, a| expire(cx, a, "expire", true, true)),
        row("pexpire", -3, WRITE, |cx, a| expire(cx, a, "pexpire", false, true)),
        row("expireat", -3, WRITE, |cx, a| expire(cx, a, "expireat", true, false)),
        row("pexpireat", -3, WRITE, |cx, a| expire(cx, a, "pexpireat", false, false)),
        row("persist", 2, WRITE, |cx, a| {
            let had = cx.s.entry(cx.at, a[1]).and_then(|entry| entry.deadline_ms.take()).is_some();
            cx.c.out.flag(had);
            Ok(())
        }),
        row("rename", 3, WRITE, |cx, a| rename(cx, a, false)),
        row("renamenx", 3, WRITE, |cx, a| rename(cx, a, true)),
        row("copy", -3, WRITE, copy),
        row("move", 3, WRITE, move_),
        row("swapdb", 3, WRITE, swapdb),
        row("flushdb", -1, WRITE, |cx, a| flush(cx, a, false)),
        row("flushall", -1, WRITE, |cx, a| flush(cx, a, true)),
        row("dbsize", 1, 0, |cx, _| {
            let len = cx.s.dbs[cx.at.db].len();
            cx.c.out.len(len);
            Ok(())
        }),
        row("keys", 2, 0, keys),
        row("scan", -2, 0, scan),
        row("randomkey", 1, 0, randomkey),
        row("dump", 2, 0, |cx, a| {
            let version = cx.s.rdb_version;
            let payload = cx.s.entry(cx.at, a[1]).map(|entry| dump::dump(&entry.value, version));
            cx.c.out.maybe(payload.as_deref());
            Ok(())
        }),
        row("memory", -2, CONTAINER, |_, _| Ok(())),
        row("memory|usage", -3, 0, memory_usage),
        row("restore", -4, WRITE, restore),
    ]
}

/// A figure that grows with the value, as the real one does; SAMPLES is taken and changes nothing.
fn memory_usage(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if !(a.len() == 3 || (a.len() == 5 && is(a[3], "SAMPLES"))) {
        return Err(SYNTAX.into());
    }
    let version = cx.s.rdb_version;
    match cx.s.entry(cx.at, a[2]).map(|entry| dump::dump(&entry.value, version).len()) {
        Some(bytes) => cx.c.out.len(48 + bytes),
        None => cx.c.out.null(),
    }
    Ok(())
}

fn del(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let count = a[1..].iter().filter(|key| cx.s.remove(cx.at, key).is_some()).count();
    cx.c.out.len(count);
    Ok(())
}

fn exists(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let count = a[1..].iter().filter(|key| cx.s.exists(cx.at, key)).count();
    cx.c.out.len(count);
    Ok(())
}

fn remaining(cx: &mut Ctx, a: &[&[u8]], seconds: bool, absolute: bool) -> Done {
    let now = cx.at.now;
    let answer = match cx.s.entry(cx.at, a[1]) {
        None => -2,
        Some(Entry { deadline_ms: None, .. }) => -1,
        Some(Entry { deadline_ms: Some(deadline), .. }) => {
            let ms = if absolute { *deadline } else { deadline.saturating_sub(now) } as i64;
            if seconds { ms.saturating_add(500) / 1000 } else { ms }
        }
    };
    cx.c.out.int(answer);
    Ok(())
}

fn expire(cx: &mut Ctx, a: &[&[u8]], command: &str, seconds: bool, relative: bool) -> Done {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in &a[3..] {
        match () {
            () if is(option, "NX") => nx = true,
            () if is(option, "XX") => xx = true,
            () if is(option, "GT") => gt = true,
            () if is(option, "LT") => lt = true,
            () => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(option)).into()),
        }
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let invalid = || Fail::from(format!("ERR invalid expire time in '{command}' command"));
    let mut when = int(a[2])?;
    if seconds {
        when = when.checked_mul(1000).ok_or_else(invalid)?;
    }
    if relative {
        when = when.checked_add(cx.at.now as i64).ok_or_else(invalid)?;
    }
    let now = cx.at.now as i64;
    let Some(entry) = cx.s.entry(cx.at, a[1]) else {
        cx.c.out.flag(false);
        return Ok(());
    };
    let current = entry.deadline_ms.map(|deadline| deadline as i64);
    let refused = (nx && current.is_some())
        || (xx && current.is_none())
        || (gt && current.is_none_or(|current| when <= current))
        || (lt && current.is_some_and(|current| when >= current));
    if refused {
        cx.c.out.flag(false);
        return Ok(());
    }
    if when <= now {
        cx.s.remove(cx.at, a[1]);
    } else {
        entry.deadline_ms = Some(when as u64);
    }
    cx.c.out.flag(true);
    Ok(())
}

fn rename(cx: &mut Ctx, a: &[&[u8]], only_new: bool) -> Done {
    if !cx.s.exists(cx.at, a[1]) {
        return Err(NO_KEY.into());
    }
    let done = if a[1] == a[2] || (only_new && cx.s.exists(cx.at, a[2])) {
        !only_new
    } else {
        if let Some(entry) = cx.s.remove(cx.at, a[1]) {
            cx.s.put(cx.at, a[2], entry.value, entry.deadline_ms);
        }
        true
    };
    if only_new {
        cx.c.out.flag(done)
    } else {
        cx.c.out.ok()
    }
    Ok(())
}

const SAME: &str = "ERR source and destination objects are the same";
const BAD_DB: &str = "ERR DB index is out of range";

fn database(cx: &Ctx, arg: &[u8]) -> Result<usize, Fail> {
    let number = int32(arg)?;
    if number < 0 || number as usize >= cx.s.dbs.len() { Err(BAD_DB.into()) } else { Ok(number as usize) }
}

fn copy(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut replace = false;
    let mut db = cx.at.db;
    let mut at = 3;
    while at < a.len() {
        if is(a[at], "REPLACE") {
            replace = true;
        } else if is(a[at], "DB") && at + 1 < a.len() {
            at += 1;
            db = database(cx, a[at])?;
        } else {
            return Err(SYNTAX.into());
        }
        at += 1;
    }
    if db == cx.at.db && a[1] == a[2] {
        return Err(SAME.into());
    }
    let there = At { db, ..cx.at };
    let Some(source) = cx.s.entry(cx.at, a[1]).cloned() else {
        cx.c.out.flag(false);
        return Ok(());
    };
    let free = replace || !cx.s.exists(there, a[2]);
    if free {
        cx.s.put(there, a[2], source.value, source.deadline_ms);
    }
    cx.c.out.flag(free);
    Ok(())
}

fn move_(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let db = database(cx, a[2])?;
    if db == cx.at.db {
        return Err(SAME.into());
    }
    let there = At { db, ..cx.at };
    let free = cx.s.exists(cx.at, a[1]) && !cx.s.exists(there, a[1]);
    if free && let Some(entry) = cx.s.remove(cx.at, a[1]) {
        cx.s.put(there, a[1], entry.value, entry.deadline_ms);
    }
    cx.c.out.flag(free);
    Ok(())
}

fn swapdb(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let number = |arg, words: &'static str| crate::reply::parse_i64(arg).filter(|n| i32::try_from(*n).is_ok()).ok_or(Fail::from(words));
    let first = number(a[1], "ERR invalid first DB index")?;
    let second = number(a[2], "ERR invalid second DB index")?;
    let count = cx.s.dbs.len() as i64;
    if !(0..count).contains(&first) || !(0..count).contains(&second) {
        return Err(BAD_DB.into());
    }
    cx.s.dbs.swap(first as usize, second as usize);
    cx.c.out.ok();
    Ok(())
}

fn flush(cx: &mut Ctx, a: &[&[u8]], all: bool) -> Done {
    if a.len() > 2 || (a.len() == 2 && !is(a[1], "ASYNC") && !is(a[1], "SYNC")) {
        return Err(SYNTAX.into());
    }
    if all {
        cx.s.dbs.iter_mut().for_each(Db::clear);
    } else {
        cx.s.dbs[cx.at.db].clear();
    }
    cx.c.out.ok();
    Ok(())
}

fn keys(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let now = cx.at.now;
    let found: Vec<&Vec<u8>> =
        cx.s.dbs[cx.at.db].iter().filter(|(key, entry)| glob(a[1], key) && !expired(entry, now)).map(|(key, _)| key).collect();
    cx.c.out.array(found.len());
    for key in found {
        cx.c.out.bulk(key);
    }
    Ok(())
}

pub(super) fn scan_cursor(cursor: &[u8]) -> Result<u64, Fail> {
    Ok(std::str::from_utf8(cursor).ok().and_then(|text| text.parse().ok()).ok_or("ERR invalid cursor")?)
}

/// What SSCAN and HSCAN answer for a key that is not there, whatever the options.
pub(super) fn empty_scan(cx: &mut Ctx) -> Done {
    cx.c.out.array(2);
    cx.c.out.bulk(b"0");
    cx.c.out.array(0);
    Ok(())
}

/// A page of SSCAN, HSCAN or ZSCAN behind the cursor, and the next cursor. A small value is given at once, whatever COUNT says; a large one
/// in the order of this server's hashes, so that what is there throughout is always given.
pub(super) fn scan_page<T>(cx: &Ctx, a: &[&[u8]], items: Vec<T>, name: impl Fn(&T) -> &[u8]) -> Result<(u64, Vec<T>), Fail> {
    let cursor = scan_cursor(a[2])?;
    let given = a[3..].chunks(2).find(|option| is(option[0], "COUNT")).and_then(|option| option.get(1));
    let count = given.map_or(Ok(10), |count| int(count))?.max(1) as usize;
    if items.len() <= cx.s.small_value {
        return Ok((0, items));
    }
    let salt = cx.s.salt;
    let mut placed: Vec<(u64, T)> = items.into_iter().map(|item| (place(salt, name(&item)), item)).collect();
    placed.retain(|(place, _)| *place >= cursor);
    placed.sort_by(|x, y| x.0.cmp(&y.0).then_with(|| name(&x.1).cmp(name(&y.1))));
    let mut end = placed.len().min(count);
    while end > 0 && end < placed.len() && placed[end].0 == placed[end - 1].0 {
        end += 1;
    }
    let next = placed.get(end).map_or(0, |(place, _)| *place);
    Ok((next, placed.into_iter().take(end).map(|(_, item)| item).collect()))
}

/// COUNT and MATCH; the pattern, if there is one.
pub(super) fn scan_options<'a>(options: &[&'a [u8]]) -> Result<Option<&'a [u8]>, Fail> {
    let mut pattern = None;
    for option in options.chunks(2) {
        match *option {
            [name, value] if is(name, "COUNT") => {
                if int(value)? < 1 {
                    return Err(SYNTAX.into());
                }
            }
            [name, value] if is(name, "MATCH") => pattern = Some(value),
            _ => return Err(SYNTAX.into()),
        }
    }
    Ok(pattern)
}

/// The cursor is a position in the order of the keys' hashes, so that a key present throughout is always returned, as
/// Redis promises, whatever else changes. The order is this server's own.
fn scan(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let cursor: u64 = std::str::from_utf8(a[1]).ok().and_then(|text| text.parse().ok()).ok_or("ERR invalid cursor")?;
    let (mut count, mut pattern, mut wanted) = (10, None, None);
    let mut at = 2;
    while at < a.len() {
        let Some(value) = a.get(at + 1) else { return Err(SYNTAX.into()) };
        if is(a[at], "COUNT") {
            count = int(value)?;
            if count < 1 {
                return Err(SYNTAX.into());
            }
        } else if is(a[at], "MATCH") {
            pattern = Some(*value);
        } else if is(a[at], "TYPE") {
            wanted = Some(*value);
        } else {
            return Err(SYNTAX.into());
        }
        at += 2;
    }
    let (salt, now) = (cx.s.salt, cx.at.now);
    let mut rest: Vec<(u64, &Vec<u8>, &Entry)> = cx.s.dbs[cx.at.db]
        .iter()
        .map(|(key, entry)| (place(salt, key), key, entry))
        .filter(|(place, ..)| *place >= cursor.max(1))
        .collect();
    rest.sort_unstable_by(|x, y| (x.0, x.1).cmp(&(y.0, y.1)));
    let mut end = rest.len().min(count as usize);
    while end > 0 && end < rest.len() && rest[end].0 == rest[end - 1].0 {
        end += 1;
    }
    let next = rest.get(end).map_or(0, |(place, ..)| *place);
    let found: Vec<&Vec<u8>> = rest[..end]
        .iter()
        .filter(|(_, key, entry)| {
            !expired(entry, now)
                && pattern.is_none_or(|pattern| glob(pattern, key))
                && wanted.is_none_or(|wanted| is(wanted, &entry.value.type_name().to_uppercase()))
        })
        .map(|(_, key, _)| *key)
        .collect();
    cx.c.out.array(2);
    cx.c.out.bulk(next.to_string().as_bytes());
    cx.c.out.array(found.len());
    for key in found {
        cx.c.out.bulk(key);
    }
    Ok(())
}

fn place(salt: u64, key: &[u8]) -> u64 {
    let hash = key.iter().fold(salt | 1, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    ((hash ^ (hash >> 29)) >> 16).max(1)
}

fn randomkey(cx: &mut Ctx, _: &[&[u8]]) -> Done {
    let now = cx.at.now;
    let alive: Vec<&Vec<u8>> = cx.s.dbs[cx.at.db].iter().filter(|(_, entry)| !expired(entry, now)).map(|(key, _)| key).collect();
    let chosen = (!alive.is_empty()).then(|| alive[cx.s.rng.index(alive.len())].as_slice());
    cx.c.out.maybe(chosen);
    Ok(())
}

fn restore(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (mut replace, mut absolute, mut idle, mut freq) = (false, false, -1, -1);
    let mut at = 4;
    while at < a.len() {
        let more = at + 1 < a.len();
        if is(a[at], "REPLACE") {
            replace = true;
        } else if is(a[at], "ABSTTL") {
            absolute = true;
        } else if is(a[at], "IDLETIME") && more && freq == -1 {
            at += 1;
            idle = int(a[at])?;
            if idle < 0 {
                return Err("ERR Invalid IDLETIME value, must be >= 0".into());
            }
        } else if is(a[at], "FREQ") && more && idle == -1 {
            at += 1;
            freq = int(a[at])?;
            if !(0..=255).contains(&freq) {
                return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
            }
        } else {
            return Err(SYNTAX.into());
        }
        at += 1;
    }
    if !replace && cx.s.exists(cx.at, a[1]) {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let mut ttl = int(a[2])?;
    if ttl < 0 {
        return Err("ERR Invalid TTL value, must be >= 0".into());
    }
    let value = dump::load(a[3], cx.s.rdb_version)?;
    let deadline = (ttl != 0).then(|| {
        if !absolute {
            ttl = ttl.wrapping_add(cx.at.now as i64);
        }
        ttl
    });
    if deadline.is_some_and(|deadline| deadline <= cx.at.now as i64) {
        cx.s.remove(cx.at, a[1]);
    } else {
        cx.s.put(cx.at, a[1], value, deadline.map(|deadline| deadline as u64));
    }
    cx.c.out.ok();
    Ok(())
}
