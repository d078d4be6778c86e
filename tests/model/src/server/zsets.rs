//! Sorted sets (redis 7.0 t_zset.c).
use super::*;
use std::cmp::Ordering;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("zadd", -4, WRITE, zadd),
        row("zincrby", 4, WRITE, |cx, a| add(cx, a[1], &a[2..], Options { incr: true, ..Options::default() })),
        row("zrem", -3, WRITE, |cx, a| {
            let mut removed = 0;
            if let Some(zset) = cx.s.zset(cx.at, a[1])? {
                let before = zset.len();
                zset.retain(|(_, member)| !a[2..].contains(&member.as_slice()));
                removed = before - zset.len();
                cx.s.tidy(cx.at, a[1]);
            }
            cx.c.out.len(removed);
            Ok(())
        }),
        row("zscore", 3, 0, |cx, a| {
            let score = cx.s.zset(cx.at, a[1])?.and_then(|zset| score(zset, a[2]));
            reply_score(&mut cx.c.out, score);
            Ok(())
        }),
        row("zmscore", -3, 0, |cx, a| {
            let zset = cx.s.zset(cx.at, a[1])?;
            cx.c.out.array(a.len() - 2);
            for member in &a[2..] {
                let score = zset.as_ref().and_then(|zset| score(zset, member));
                reply_score(&mut cx.c.out, score);
            }
            Ok(())
        }),
        row("zscan", -3, 0, |cx, a| {
            keys::scan_cursor(a[2])?;
            let Some(zset) = cx.s.zset(cx.at, a[1])?.map(|zset| zset.clone()) else { return keys::empty_scan(cx) };
            let pattern = keys::scan_options(&a[3..])?;
            let (next, page) = keys::scan_page(cx, a, zset, |(_, member)| member)?;
            let found: Vec<_> = page.iter().filter(|(_, member)| pattern.is_none_or(|pattern| glob(pattern, member))).collect();
            cx.c.out.array(2);
            cx.c.out.bulk(next.to_string().as_bytes());
            cx.c.out.array(found.len() * 2);
            for (score, member) in found {
                cx.c.out.bulk(member);
                cx.c.out.bulk(crate::reply::format_g17(*score).as_bytes());
            }
            Ok(())
        }),
        row("zcard", 2, 0, |cx, a| {
            let len = cx.s.zset(cx.at, a[1])?.map_or(0, |zset| zset.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("zrank", 3, 0, |cx, a| {
            match cx.s.zset(cx.at, a[1])?.and_then(|zset| zset.iter().position(|(_, member)| member == a[2])) {
                Some(rank) => cx.c.out.len(rank),
                None => cx.c.out.null(),
            }
            Ok(())
        }),
        row("zcount", 4, 0, |cx, a| {
            let range = Bounds::parse(a[2], a[3])?;
            let count = cx.s.zset(cx.at, a[1])?.map_or(0, |zset| zset.iter().filter(|(score, _)| range.holds(*score)).count());
            cx.c.out.len(count);
            Ok(())
        }),
        row("zrange", -4, 0, zrange),
        row("zrangebyscore", -4, 0, zrangebyscore),
        row("zpopmin", -2, WRITE, |cx, a| pop(cx, a, true)),
        row("zpopmax", -2, WRITE, |cx, a| pop(cx, a, false)),
        row("zmpop", -4, WRITE, |cx, a| zmpop(cx, a, 1)),
        row("bzpopmin", -3, WRITE, |cx, a| bzpop(cx, a, true)),
        row("bzpopmax", -3, WRITE, |cx, a| bzpop(cx, a, false)),
        row("bzmpop", -5, WRITE, |cx, a| zmpop(cx, a, 2)),
        row("zremrangebyrank", 4, WRITE, |cx, a| {
            let (start, stop) = (int(a[2])?, int(a[3])?);
            let mut removed = 0;
            if let Some(zset) = cx.s.zset(cx.at, a[1])? {
                if let Some((from, to)) = clamp(start, stop, zset.len()) {
                    removed = zset.drain(from..=to).count();
                }
                cx.s.tidy(cx.at, a[1]);
            }
            cx.c.out.len(removed);
            Ok(())
        }),
        row("zremrangebyscore", 4, WRITE, |cx, a| {
            let range = Bounds::parse(a[2], a[3])?;
            let mut removed = 0;
            if let Some(zset) = cx.s.zset(cx.at, a[1])? {
                let before = zset.len();
                zset.retain(|(score, _)| !range.holds(*score));
                removed = before - zset.len();
                cx.s.tidy(cx.at, a[1]);
            }
            cx.c.out.len(removed);
            Ok(())
        }),
        row("zunionstore", -4, WRITE, |cx, a| store(cx, a, Combine::Union)),
        row("zinterstore", -4, WRITE, |cx, a| store(cx, a, Combine::Inter)),
        row("zdiffstore", -4, WRITE, |cx, a| store(cx, a, Combine::Diff)),
    ]
}

type Zset = Vec<(f64, Vec<u8>)>;

/// By score, then by member.
pub(super) fn order(a: &(f64, Vec<u8>), b: &(f64, Vec<u8>)) -> Ordering {
    a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(&b.1))
}

fn score(zset: &Zset, member: &[u8]) -> Option<f64> {
    zset.iter().find(|(_, m)| m == member).map(|(score, _)| *score)
}

fn reply_score(out: &mut Out, score: Option<f64>) {
    match score {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

fn place(zset: &mut Zset, score: f64, member: &[u8]) {
    zset.retain(|(_, m)| m != member);
    let item = (plain_zero(score), member.to_vec());
    let at = zset.partition_point(|other| order(other, &item) == Ordering::Less);
    zset.insert(at, item);
}

/// A small sorted set keeps whole scores as integers, so that -0 is read back as 0 (zzlInsertAt).
fn plain_zero(score: f64) -> f64 {
    if score == 0.0 { 0.0 } else { score }
}

#[derive(Default, Clone, Copy)]
struct Options {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

fn zadd(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut o = Options::default();
    let mut at = 2;
    while at < a.len() {
        match () {
            () if is(a[at], "NX") => o.nx = true,
            () if is(a[at], "XX") => o.xx = true,
            () if is(a[at], "GT") => o.gt = true,
            () if is(a[at], "LT") => o.lt = true,
            () if is(a[at], "CH") => o.ch = true,
            () if is(a[at], "INCR") => o.incr = true,
            () => break,
        }
        at += 1;
    }
    let pairs = &a[at..];
    if pairs.is_empty() || pairs.len() % 2 == 1 {
        return Err(SYNTAX.into());
    }
    if o.nx && o.xx {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if (o.nx && (o.gt || o.lt)) || (o.gt && o.lt) {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if o.incr && pairs.len() > 2 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    add(cx, a[1], pairs, o)
}

/// `zaddGenericCommand` once the options are known: every score is parsed before anything is changed.
fn add(cx: &mut Ctx, key: &[u8], pairs: &[&[u8]], o: Options) -> Done {
    let scores: Vec<f64> = pairs.iter().step_by(2).map(|arg| float(arg)).collect::<Result<_, _>>()?;
    if cx.s.zset(cx.at, key)?.is_none() && o.xx {
        if o.incr {
            cx.c.out.null()
        } else {
            cx.c.out.int(0)
        }
        return Ok(());
    }
    let zset = cx.s.make_zset(cx.at, key)?;
    let (mut added, mut updated, mut result) = (0, 0, None);
    let mut failed = None;
    for (pair, mut new) in pairs.chunks(2).zip(scores) {
        let old = score(zset, pair[1]);
        if let Some(old) = old {
            if o.nx {
                continue;
            }
            if o.incr {
                new += old;
                if new.is_nan() {
                    failed = Some("ERR resulting score is not a number (NaN)");
                    break;
                }
            }
            if (o.lt && new >= old) || (o.gt && new <= old) {
                continue;
            }
            if new != old {
                place(zset, new, pair[1]);
                updated += 1;
            }
            result = Some(new);
        } else if !o.xx {
            place(zset, new, pair[1]);
            added += 1;
            result = Some(new);
        }
    }
    cx.s.tidy(cx.at, key);
    if let Some(text) = failed {
        return Err(text.into());
    }
    match () {
        () if o.incr => reply_score(&mut cx.c.out, result),
        () if o.ch => cx.c.out.len(added + updated),
        () => cx.c.out.len(added),
    }
    Ok(())
}

struct Bounds {
    min: f64,
    max: f64,
    min_open: bool,
    max_open: bool,
}

impl Bounds {
    fn parse(min: &[u8], max: &[u8]) -> Result<Self, Fail> {
        let one = |arg: &[u8]| -> Result<(f64, bool), Fail> {
            let (text, open) = match arg.strip_prefix(b"(") {
                Some(rest) => (rest, true),
                None => (arg, false),
            };
            let text = std::str::from_utf8(text).unwrap_or("x");
            // strtod reads nothing from an empty text and says 0.
            let number: Result<f64, _> = if text.is_empty() { Ok(0.0) } else { text.parse() };
            match number {
                Ok(number) if !number.is_nan() => Ok((number, open)),
                _ => Err("ERR min or max is not a float".into()),
            }
        };
        let ((min, min_open), (max, max_open)) = (one(min)?, one(max)?);
        Ok(Bounds { min, max, min_open, max_open })
    }

    fn holds(&self, score: f64) -> bool {
        let above = if self.min_open { score > self.min } else { score >= self.min };
        let below = if self.max_open { score < self.max } else { score <= self.max };
        above && below
    }
}

/// Members with or without scores: pairs are nested in RESP3, flat in RESP2.
fn answer<'a>(out: &mut Out, items: impl ExactSizeIterator<Item = &'a (f64, Vec<u8>)>, with_scores: bool) {
    out.array(if with_scores && !out.resp3 { items.len() * 2 } else { items.len() });
    for (score, member) in items {
        if with_scores && out.resp3 {
            out.array(2);
        }
        out.bulk(member);
        if with_scores {
            out.double(*score);
        }
    }
}

/// By rank, with REV and WITHSCORES; BYSCORE and BYLEX are not modelled.
fn zrange(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (mut reverse, mut with_scores) = (false, false);
    for option in &a[4..] {
        match () {
            () if is(option, "REV") => reverse = true,
            () if is(option, "WITHSCORES") => with_scores = true,
            () => return Err(SYNTAX.into()),
        }
    }
    let (start, stop) = (int(a[2])?, int(a[3])?);
    let Some(zset) = cx.s.zset(cx.at, a[1])? else {
        cx.c.out.array(0);
        return Ok(());
    };
    let len = zset.len();
    match clamp(start, stop, len) {
        None => cx.c.out.array(0),
        Some((from, to)) if reverse => answer(&mut cx.c.out, zset[len - 1 - to..len - from].iter().rev(), with_scores),
        Some((from, to)) => answer(&mut cx.c.out, zset[from..=to].iter(), with_scores),
    }
    Ok(())
}

/// Without LIMIT.
fn zrangebyscore(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let with_scores = match &a[4..] {
        [] => false,
        [word] if is(word, "WITHSCORES") => true,
        _ => return Err(SYNTAX.into()),
    };
    let range = Bounds::parse(a[2], a[3])?;
    let zset = cx.s.zset(cx.at, a[1])?.map_or(&[][..], |zset| zset.as_slice());
    let found: Vec<&(f64, Vec<u8>)> = zset.iter().filter(|(score, _)| range.holds(*score)).collect();
    answer(&mut cx.c.out, found.into_iter(), with_scores);
    Ok(())
}

fn pop(cx: &mut Ctx, a: &[&[u8]], lowest: bool) -> Done {
    if a.len() > 3 {
        return Err(SYNTAX.into());
    }
    let count = a.get(2).map(|count| positive(count)).transpose()?;
    let Some(zset) = cx.s.zset(cx.at, a[1])? else {
        cx.c.out.array(0);
        return Ok(());
    };
    let popped = take(zset, count.unwrap_or(1), lowest);
    if count.is_none() {
        // Without a count the pair stands alone, in RESP3 too.
        cx.c.out.array(popped.len() * 2);
        for (score, member) in &popped {
            cx.c.out.bulk(member);
            cx.c.out.double(*score);
        }
    } else {
        answer(&mut cx.c.out, popped.iter(), true);
    }
    cx.s.tidy(cx.at, a[1]);
    Ok(())
}

fn take(zset: &mut Zset, count: usize, lowest: bool) -> Zset {
    let count = count.min(zset.len());
    if lowest { zset.drain(..count).collect() } else { zset.drain(zset.len() - count..).rev().collect() }
}

fn bzpop(cx: &mut Ctx, a: &[&[u8]], lowest: bool) -> Done {
    lists::timeout(a[a.len() - 1])?;
    for key in &a[1..a.len() - 1] {
        let Some(zset) = cx.s.zset(cx.at, key)? else { continue };
        let popped = take(zset, 1, lowest);
        cx.c.out.array(3);
        cx.c.out.bulk(key);
        for (score, member) in &popped {
            cx.c.out.bulk(member);
            cx.c.out.double(*score);
        }
        cx.s.tidy(cx.at, key);
        return Ok(());
    }
    cx.c.out.null_array();
    Ok(())
}

/// ZMPOP, and BZMPOP with its timeout in front.
fn zmpop(cx: &mut Ctx, a: &[&[u8]], at: usize) -> Done {
    let (keys, rest) = lists::numkeys(a, at, "ERR numkeys should be greater than 0")?;
    let (word, options) = rest.split_first().ok_or(SYNTAX)?;
    let lowest = match () {
        () if is(word, "MIN") => true,
        () if is(word, "MAX") => false,
        () => return Err(SYNTAX.into()),
    };
    let count = lists::pop_count(options)?;
    if at == 2 {
        lists::timeout(a[1])?;
    }
    for key in keys {
        let Some(zset) = cx.s.zset(cx.at, key)? else { continue };
        let popped = take(zset, count, lowest);
        cx.c.out.array(2);
        cx.c.out.bulk(key);
        cx.c.out.array(popped.len());
        for (score, member) in &popped {
            cx.c.out.array(2);
            cx.c.out.bulk(member);
            cx.c.out.double(*score);
        }
        cx.s.tidy(cx.at, key);
        return Ok(());
    }
    cx.c.out.null_array();
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Combine {
    Union,
    Inter,
    Diff,
}

/// Sources may be sorted sets or sets (whose members count as 1).
fn store(cx: &mut Ctx, a: &[&[u8]], combine: Combine) -> Done {
    let count = int(a[2])?;
    let name = match combine {
        Combine::Union => "zunionstore",
        Combine::Inter => "zinterstore",
        Combine::Diff => "zdiffstore",
    };
    if count < 1 {
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    if count > a.len() as i64 - 3 {
        return Err(SYNTAX.into());
    }
    let (keys, mut rest) = a[3..].split_at(count as usize);
    let mut sources: Vec<Zset> = Vec::new();
    for key in keys {
        sources.push(match cx.s.entry(cx.at, key).map(|entry| &entry.value) {
            None => Vec::new(),
            Some(Value::Zset(zset)) => zset.clone(),
            Some(Value::Set(set)) => set.iter().map(|member| (1.0, member.clone())).collect(),
            Some(_) => return Err(WRONGTYPE.into()),
        });
    }
    let mut weights = vec![1.0; keys.len()];
    let mut aggregate: fn(f64, f64) -> f64 = sum;
    while let Some((word, more)) = rest.split_first() {
        if combine != Combine::Diff && is(word, "WEIGHTS") && more.len() >= keys.len() {
            for (weight, arg) in weights.iter_mut().zip(more) {
                *weight = crate::reply::parse_f64(arg).ok_or("ERR weight value is not a float")?;
            }
            rest = &more[keys.len()..];
        } else if combine != Combine::Diff && is(word, "AGGREGATE") && !more.is_empty() {
            aggregate = match () {
                () if is(more[0], "SUM") => sum,
                () if is(more[0], "MIN") => f64::min,
                () if is(more[0], "MAX") => f64::max,
                () => return Err(SYNTAX.into()),
            };
            rest = &more[1..];
        } else {
            return Err(SYNTAX.into());
        }
    }
    // Redis takes the smallest source first, which decides the order of float sums.
    if combine != Combine::Diff {
        let mut by_size: Vec<(Zset, f64)> = sources.into_iter().zip(weights).collect();
        by_size.sort_by_key(|(source, _)| source.len());
        (sources, weights) = by_size.into_iter().unzip();
    }
    let mut result: Zset = Vec::new();
    let weigh = |score: f64, weight: f64| {
        let value = score * weight;
        if value.is_nan() { 0.0 } else { value }
    };
    for (at, source) in sources.iter().enumerate() {
        for (value, member) in source {
            let value = if combine == Combine::Diff { *value } else { weigh(*value, weights[at]) };
            match (result.iter().position(|(_, m)| m == member), combine) {
                (_, Combine::Inter | Combine::Diff) if at > 0 => {}
                (Some(found), Combine::Union) => result[found].0 = aggregate(result[found].0, value),
                _ => result.push((value, member.clone())),
            }
        }
    }
    if combine == Combine::Diff {
        result.retain(|(_, member)| sources[1..].iter().all(|source| score(source, member).is_none()));
    }
    if combine == Combine::Inter {
        for (source, weight) in sources.iter().zip(&weights).skip(1) {
            result.retain_mut(|(total, member)| match score(source, member) {
                Some(value) => {
                    // No check for nan here, unlike at the first source: `sum` makes the whole 0 (zunionInterDiffGenericCommand).
                    *total = aggregate(*total, value * weight);
                    true
                }
                None => false,
            });
        }
    }
    result.iter_mut().for_each(|(score, _)| *score = plain_zero(*score));
    result.sort_by(order);
    cx.c.out.len(result.len());
    cx.s.put_or_remove(cx.at, a[1], Value::Zset(result));
    Ok(())
}

fn sum(a: f64, b: f64) -> f64 {
    let total = a + b;
    if total.is_nan() { 0.0 } else { total }
}
