//! Hashes (redis 7.0 t_hash.c).
use super::*;
use crate::reply::i64_text;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("hset", -4, WRITE, |cx, a| hset(cx, a, false)),
        row("hmset", -4, WRITE, |cx, a| hset(cx, a, true)),
        row("hsetnx", 4, WRITE, |cx, a| {
            let hash = cx.s.make_hash(cx.at, a[1])?;
            let free = find(hash, a[2]).is_none();
            if free {
                hash.push((a[2].to_vec(), a[3].to_vec()));
            }
            cx.c.out.flag(free);
            Ok(())
        }),
        row("hget", 3, 0, |cx, a| {
            let value = cx.s.hash(cx.at, a[1])?.and_then(|hash| find(hash, a[2]).map(|at| hash[at].1.as_slice()));
            cx.c.out.maybe(value);
            Ok(())
        }),
        row("hmget", -3, 0, |cx, a| {
            let hash = cx.s.hash(cx.at, a[1])?;
            cx.c.out.array(a.len() - 2);
            for field in &a[2..] {
                let value = hash.as_ref().and_then(|hash| find(hash, field).map(|at| hash[at].1.as_slice()));
                cx.c.out.maybe(value);
            }
            Ok(())
        }),
        // Small hashes come whole, whatever COUNT says, as those of a server do.
        row("hscan", -3, 0, |cx, a| {
            keys::scan_cursor(a[2])?;
            let Some(fields) = cx.s.hash(cx.at, a[1])?.map(|hash| hash.clone()) else { return keys::empty_scan(cx) };
            let pattern = keys::scan_options(&a[3..])?;
            let (next, page) = keys::scan_page(cx, a, fields, |(field, _)| field)?;
            let found: Vec<_> = page.iter().filter(|(field, _)| pattern.is_none_or(|pattern| glob(pattern, field))).collect();
            cx.c.out.array(2);
            cx.c.out.bulk(next.to_string().as_bytes());
            cx.c.out.array(found.len() * 2);
            for (field, value) in found {
                cx.c.out.bulk(field);
                cx.c.out.bulk(value);
            }
            Ok(())
        }),
        row("hgetall", 2, 0, |cx, a| {
            let hash = cx.s.hash(cx.at, a[1])?;
            cx.c.out.map(hash.as_ref().map_or(0, |hash| hash.len()));
            for (field, value) in hash.iter().flat_map(|hash| hash.iter()) {
                cx.c.out.bulk(field);
                cx.c.out.bulk(value);
            }
            Ok(())
        }),
        row("hkeys", 2, 0, |cx, a| column(cx, a, |pair| &pair.0)),
        row("hvals", 2, 0, |cx, a| column(cx, a, |pair| &pair.1)),
        row("hdel", -3, WRITE, |cx, a| {
            let mut removed = 0;
            if let Some(hash) = cx.s.hash(cx.at, a[1])? {
                for field in &a[2..] {
                    if let Some(at) = find(hash, field) {
                        hash.remove(at);
                        removed += 1;
                    }
                }
                cx.s.tidy(cx.at, a[1]);
            }
            cx.c.out.len(removed);
            Ok(())
        }),
        row("hlen", 2, 0, |cx, a| {
            let len = cx.s.hash(cx.at, a[1])?.map_or(0, |hash| hash.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("hstrlen", 3, 0, |cx, a| {
            let len = cx.s.hash(cx.at, a[1])?.and_then(|hash| find(hash, a[2]).map(|at| hash[at].1.len()));
            cx.c.out.len(len.unwrap_or(0));
            Ok(())
        }),
        row("hexists", 3, 0, |cx, a| {
            let there = cx.s.hash(cx.at, a[1])?.is_some_and(|hash| find(hash, a[2]).is_some());
            cx.c.out.flag(there);
            Ok(())
        }),
        row("hincrby", 4, WRITE, hincrby),
        row("hincrbyfloat", 4, WRITE, hincrbyfloat),
    ]
}

type Pair = (Vec<u8>, Vec<u8>);

fn find(hash: &[Pair], field: &[u8]) -> Option<usize> {
    hash.iter().position(|pair| pair.0 == field)
}

fn store(hash: &mut Vec<Pair>, field: &[u8], value: Vec<u8>) -> bool {
    match find(hash, field) {
        Some(at) => {
            hash[at].1 = value;
            false
        }
        None => {
            hash.push((field.to_vec(), value));
            true
        }
    }
}

fn hset(cx: &mut Ctx, a: &[&[u8]], old_reply: bool) -> Done {
    if a.len() % 2 == 1 {
        let name = if old_reply { "hmset" } else { "hset" };
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    let hash = cx.s.make_hash(cx.at, a[1])?;
    let created = a[2..].chunks(2).filter(|pair| store(hash, pair[0], pair[1].to_vec())).count();
    if old_reply {
        cx.c.out.ok()
    } else {
        cx.c.out.len(created)
    }
    Ok(())
}

fn column(cx: &mut Ctx, a: &[&[u8]], part: fn(&Pair) -> &Vec<u8>) -> Done {
    let hash = cx.s.hash(cx.at, a[1])?;
    cx.c.out.array(hash.as_ref().map_or(0, |hash| hash.len()));
    for pair in hash.iter().flat_map(|hash| hash.iter()) {
        cx.c.out.bulk(part(pair));
    }
    Ok(())
}

/// The hash is created before its value is looked at, so a refusal may leave nothing behind: it is tidied away.
fn hincrby(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let by = int(a[3])?;
    let old = match cx.s.hash(cx.at, a[1])?.and_then(|hash| find(hash, a[2]).map(|at| &hash[at].1)) {
        Some(text) => crate::reply::parse_i64(text).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    store(cx.s.make_hash(cx.at, a[1])?, a[2], i64_text(new));
    cx.c.out.int(new);
    Ok(())
}

fn hincrbyfloat(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let by = float(a[3])?;
    if by.is_infinite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let old = match cx.s.hash(cx.at, a[1])?.and_then(|hash| find(hash, a[2]).map(|at| hash[at].1.clone())) {
        Some(text) => text,
        None => b"0".to_vec(),
    };
    let left = crate::reply::parse_f64(&old).ok_or("ERR hash value is not a float")?;
    let sum = strings::sum_text(&old, left, a[3], by).ok_or("ERR increment would produce NaN or Infinity")?;
    store(cx.s.make_hash(cx.at, a[1])?, a[2], sum.clone().into_bytes());
    cx.c.out.bulk(sum.as_bytes());
    Ok(())
}
