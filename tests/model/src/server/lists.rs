//! Lists (redis 7.0 t_list.c).
use super::*;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("lpush", -3, WRITE, |cx, a| push(cx, a, true, false)),
        row("rpush", -3, WRITE, |cx, a| push(cx, a, false, false)),
        row("lpushx", -3, WRITE, |cx, a| push(cx, a, true, true)),
        row("rpushx", -3, WRITE, |cx, a| push(cx, a, false, true)),
        row("lpop", -2, WRITE, |cx, a| pop(cx, a, true, "lpop")),
        row("rpop", -2, WRITE, |cx, a| pop(cx, a, false, "rpop")),
        row("llen", 2, 0, |cx, a| {
            let len = cx.s.list(cx.at, a[1])?.map_or(0, |list| list.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("lrange", 4, 0, lrange),
        row("lindex", 3, 0, |cx, a| {
            let list = cx.s.list(cx.at, a[1])?;
            let Some(list) = list else {
                cx.c.out.null();
                return Ok(());
            };
            let item = index(list.len(), int(a[2])?).map(|at| list[at].as_slice());
            cx.c.out.maybe(item);
            Ok(())
        }),
        row("lset", 4, WRITE, |cx, a| {
            let list = cx.s.list(cx.at, a[1])?.ok_or(NO_KEY)?;
            let at = index(list.len(), int(a[2])?).ok_or(OUT_OF_RANGE)?;
            list[at] = a[3].to_vec();
            cx.c.out.ok();
            Ok(())
        }),
        row("lrem", 4, WRITE, lrem),
        row("ltrim", 4, WRITE, ltrim),
        row("linsert", 5, WRITE, linsert),
        row("lmove", 5, WRITE, |cx, a| {
            let (from_head, to_head) = (side(a[3])?, side(a[4])?);
            shift(cx, a[1], a[2], from_head, to_head)
        }),
        row("rpoplpush", 3, WRITE, |cx, a| shift(cx, a[1], a[2], false, true)),
        row("lmpop", -4, WRITE, |cx, a| lmpop(cx, a, 1)),
        row("blpop", -3, WRITE, |cx, a| blpop(cx, a, true)),
        row("brpop", -3, WRITE, |cx, a| blpop(cx, a, false)),
        row("blmove", 6, WRITE, |cx, a| {
            let (from_head, to_head) = (side(a[3])?, side(a[4])?);
            timeout(a[5])?;
            blmove(cx, a, from_head, to_head)
        }),
        row("brpoplpush", 4, WRITE, |cx, a| {
            timeout(a[3])?;
            blmove(cx, a, false, true)
        }),
        row("blmpop", -5, WRITE, |cx, a| lmpop(cx, a, 2)),
    ]
}

fn push(cx: &mut Ctx, a: &[&[u8]], head: bool, only_existing: bool) -> Done {
    if only_existing && cx.s.list(cx.at, a[1])?.is_none() {
        cx.c.out.int(0);
        return Ok(());
    }
    let list = cx.s.make_list(cx.at, a[1])?;
    for item in &a[2..] {
        if head { list.push_front(item.to_vec()) } else { list.push_back(item.to_vec()) }
    }
    let len = list.len();
    cx.c.out.len(len);
    Ok(())
}

fn take(list: &mut VecDeque<Vec<u8>>, head: bool) -> Option<Vec<u8>> {
    if head { list.pop_front() } else { list.pop_back() }
}

fn pop(cx: &mut Ctx, a: &[&[u8]], head: bool, name: &str) -> Done {
    if a.len() > 3 {
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    let count = a.get(2).map(|count| positive(count)).transpose()?;
    let Some(list) = cx.s.list(cx.at, a[1])? else {
        if count.is_some() {
            cx.c.out.null_array()
        } else {
            cx.c.out.null()
        }
        return Ok(());
    };
    match count {
        None => {
            let item = take(list, head);
            cx.c.out.maybe(item.as_deref());
        }
        Some(0) => cx.c.out.array(0),
        Some(count) => {
            let count = count.min(list.len());
            cx.c.out.array(count);
            for _ in 0..count {
                let item = take(list, head);
                cx.c.out.maybe(item.as_deref());
            }
        }
    }
    cx.s.tidy(cx.at, a[1]);
    Ok(())
}

fn index(len: usize, at: i64) -> Option<usize> {
    let at = if at < 0 { at + len as i64 } else { at };
    (0..len as i64).contains(&at).then_some(at as usize)
}

fn lrange(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (start, stop) = (int(a[2])?, int(a[3])?);
    let list = cx.s.list(cx.at, a[1])?;
    let Some((list, (from, to))) = list.and_then(|list| clamp(start, stop, list.len()).map(|range| (list, range))) else {
        cx.c.out.array(0);
        return Ok(());
    };
    cx.c.out.array(to - from + 1);
    for item in list.range(from..=to) {
        cx.c.out.bulk(item);
    }
    Ok(())
}

fn lrem(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let count = int(a[2])?;
    let Some(list) = cx.s.list(cx.at, a[1])? else {
        cx.c.out.int(0);
        return Ok(());
    };
    let mut left = if count == 0 { u64::MAX } else { count.unsigned_abs() };
    let before = list.len();
    let mut keep = |item: &Vec<u8>| {
        let hit = left > 0 && item == a[3];
        left -= u64::from(hit);
        !hit
    };
    if count < 0 {
        let kept: VecDeque<Vec<u8>> = list.drain(..).rev().filter(|item| keep(item)).collect();
        *list = kept.into_iter().rev().collect();
    } else {
        list.retain(keep);
    }
    let removed = before - list.len();
    cx.s.tidy(cx.at, a[1]);
    cx.c.out.len(removed);
    Ok(())
}

fn ltrim(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (start, stop) = (int(a[2])?, int(a[3])?);
    if let Some(list) = cx.s.list(cx.at, a[1])? {
        match clamp(start, stop, list.len()) {
            None => list.clear(),
            Some((from, to)) => {
                list.truncate(to + 1);
                list.drain(..from);
            }
        }
        cx.s.tidy(cx.at, a[1]);
    }
    cx.c.out.ok();
    Ok(())
}

fn linsert(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let after = match () {
        () if is(a[2], "AFTER") => true,
        () if is(a[2], "BEFORE") => false,
        () => return Err(SYNTAX.into()),
    };
    let answer = match cx.s.list(cx.at, a[1])? {
        None => 0,
        Some(list) => match list.iter().position(|item| item == a[3]) {
            None => -1,
            Some(at) => {
                list.insert(at + usize::from(after), a[4].to_vec());
                list.len() as i64
            }
        },
    };
    cx.c.out.int(answer);
    Ok(())
}

fn side(arg: &[u8]) -> Result<bool, Fail> {
    match () {
        () if is(arg, "LEFT") => Ok(true),
        () if is(arg, "RIGHT") => Ok(false),
        () => Err(SYNTAX.into()),
    }
}

fn shift(cx: &mut Ctx, from: &[u8], to: &[u8], from_head: bool, to_head: bool) -> Done {
    if cx.s.list(cx.at, from)?.is_none() {
        cx.c.out.null();
        return Ok(());
    }
    cx.s.list(cx.at, to)?;
    let item = cx.s.list(cx.at, from)?.and_then(|list| take(list, from_head)).unwrap_or_default();
    cx.c.out.bulk(&item);
    let list = cx.s.make_list(cx.at, to)?;
    if to_head {
        list.push_front(item)
    } else {
        list.push_back(item)
    }
    cx.s.tidy(cx.at, from);
    Ok(())
}

type Args<'b, 'a> = &'b [&'a [u8]];

/// `numkeys key...` at `a[at]`: the keys and what follows them.
pub(super) fn numkeys<'b, 'a>(a: Args<'b, 'a>, at: usize, zero: &'static str) -> Result<(Args<'b, 'a>, Args<'b, 'a>), Fail> {
    let count = crate::reply::parse_i64(a[at]).filter(|count| *count > 0).ok_or(zero)?;
    let rest = &a[at + 1..];
    if count as usize > rest.len() { Err(SYNTAX.into()) } else { Ok(rest.split_at(count as usize)) }
}

/// `[COUNT n]` of LMPOP and ZMPOP: the number is looked at before what follows it.
pub(super) fn pop_count(options: &[&[u8]]) -> Result<usize, Fail> {
    match options {
        [] => Ok(1),
        [word, count, rest @ ..] if is(word, "COUNT") => {
            let count = crate::reply::parse_i64(count).filter(|count| *count > 0).ok_or("ERR count should be greater than 0")?;
            if rest.is_empty() { Ok(count as usize) } else { Err(SYNTAX.into()) }
        }
        _ => Err(SYNTAX.into()),
    }
}

/// Seconds, as `getTimeoutFromObjectOrReply` reads them.
pub(super) fn timeout(text: &[u8]) -> Result<(), Fail> {
    let seconds = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()).filter(|seconds| seconds.is_finite());
    match seconds {
        None => Err("ERR timeout is not a float or out of range".into()),
        Some(seconds) if seconds < 0.0 => Err("ERR timeout is negative".into()),
        Some(_) => Ok(()),
    }
}

fn blpop(cx: &mut Ctx, a: &[&[u8]], head: bool) -> Done {
    timeout(a[a.len() - 1])?;
    for key in &a[1..a.len() - 1] {
        let Some(list) = cx.s.list(cx.at, key)? else { continue };
        let item = take(list, head);
        cx.c.out.array(2);
        cx.c.out.bulk(key);
        cx.c.out.maybe(item.as_deref());
        cx.s.tidy(cx.at, key);
        return Ok(());
    }
    cx.c.out.null_array();
    Ok(())
}

/// Its time over, it answers a null array; inside MULTI a null.
fn blmove(cx: &mut Ctx, a: &[&[u8]], from_head: bool, to_head: bool) -> Done {
    if cx.s.list(cx.at, a[1])?.is_none() && !cx.c.in_exec {
        cx.c.out.null_array();
        return Ok(());
    }
    shift(cx, a[1], a[2], from_head, to_head)
}

/// LMPOP, and BLMPOP with its timeout in front.
fn lmpop(cx: &mut Ctx, a: &[&[u8]], at: usize) -> Done {
    let (keys, rest) = numkeys(a, at, "ERR numkeys should be greater than 0")?;
    let (word, options) = rest.split_first().ok_or(SYNTAX)?;
    let head = side(word)?;
    let count = pop_count(options)?;
    if at == 2 {
        timeout(a[1])?;
    }
    for key in keys {
        let Some(list) = cx.s.list(cx.at, key)? else { continue };
        let count = count.min(list.len());
        cx.c.out.array(2);
        cx.c.out.bulk(key);
        cx.c.out.array(count);
        for _ in 0..count {
            let item = take(list, head);
            cx.c.out.maybe(item.as_deref());
        }
        cx.s.tidy(cx.at, key);
        return Ok(());
    }
    cx.c.out.null_array();
    Ok(())
}
