//! Strings and bits (redis 7.0 t_string.c, bitops.c).
use super::*;
use crate::reply::{i64_text, trim_zeros};

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("get", 2, 0, get),
        row("set", -3, WRITE, set),
        row("setnx", 3, WRITE, |cx, a| {
            let free = !cx.s.exists(cx.at, a[1]);
            if free {
                cx.s.put(cx.at, a[1], Value::Str(a[2].to_vec()), None);
            }
            cx.c.out.flag(free);
            Ok(())
        }),
        row("setex", 4, WRITE, |cx, a| setex(cx, a, Unit::Ex, "setex")),
        row("psetex", 4, WRITE, |cx, a| setex(cx, a, Unit::Px, "psetex")),
        row("getset", 3, WRITE, |cx, a| {
            get(cx, &a[..2])?;
            cx.s.put(cx.at, a[1], Value::Str(a[2].to_vec()), None);
            Ok(())
        }),
        row("getdel", 2, WRITE, |cx, a| {
            get(cx, a)?;
            cx.s.remove(cx.at, a[1]);
            Ok(())
        }),
        row("getex", -2, WRITE, getex),
        row("mget", -2, 0, |cx, a| {
            cx.c.out.array(a.len() - 1);
            for key in &a[1..] {
                let value = cx.s.string(cx.at, key).ok().flatten();
                cx.c.out.maybe(value.map(|value| value.as_slice()));
            }
            Ok(())
        }),
        row("mset", -3, WRITE, |cx, a| mset(cx, a, false)),
        row("msetnx", -3, WRITE, |cx, a| mset(cx, a, true)),
        row("incr", 2, WRITE, |cx, a| add(cx, a[1], 1)),
        row("decr", 2, WRITE, |cx, a| add(cx, a[1], -1)),
        row("incrby", 3, WRITE, |cx, a| {
            let by = int(a[2])?;
            add(cx, a[1], by)
        }),
        row("decrby", 3, WRITE, |cx, a| {
            let by = int(a[2])?;
            let by = by.checked_neg().ok_or("ERR decrement would overflow")?;
            add(cx, a[1], by)
        }),
        row("incrbyfloat", 3, WRITE, incrbyfloat),
        row("append", 3, WRITE, |cx, a| {
            let value = cx.s.make_string(cx.at, a[1])?;
            value.extend_from_slice(a[2]);
            let len = value.len();
            cx.c.out.len(len);
            Ok(())
        }),
        row("strlen", 2, 0, |cx, a| {
            let len = cx.s.string(cx.at, a[1])?.map_or(0, |value| value.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("setrange", 4, WRITE, setrange),
        row("getrange", 4, 0, getrange),
        row("substr", 4, 0, getrange),
        row("setbit", 4, WRITE, setbit),
        row("getbit", 3, 0, |cx, a| {
            let offset = bit_offset(a[2])?;
            let value = cx.s.string(cx.at, a[1])?;
            let bit = value.and_then(|value| value.get(offset / 8).copied()).map_or(0, |byte| byte >> (7 - offset % 8) & 1);
            cx.c.out.int(i64::from(bit));
            Ok(())
        }),
        row("bitop", -4, WRITE, bitop),
    ]
}

fn get(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let value = cx.s.string(cx.at, a[1])?;
    cx.c.out.maybe(value.map(|value| value.as_slice()));
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

/// `getExpireMillisecondsOrReply`.
fn deadline(cx: &Ctx, arg: &[u8], unit: Unit, command: &str) -> Result<u64, Fail> {
    let invalid = || Fail::from(format!("ERR invalid expire time in '{command}' command"));
    let mut when = int(arg)?;
    if when <= 0 {
        return Err(invalid());
    }
    if matches!(unit, Unit::Ex | Unit::ExAt) {
        when = when.checked_mul(1000).ok_or_else(invalid)?;
    }
    if matches!(unit, Unit::Ex | Unit::Px) {
        when = when.checked_add(cx.at.now as i64).ok_or_else(invalid)?;
    }
    Ok(when as u64)
}

#[derive(Default)]
struct Options<'a> {
    nx: bool,
    xx: bool,
    get: bool,
    keep: bool,
    persist: bool,
    expire: Option<(Unit, &'a [u8])>,
}

/// `parseExtendedStringArgumentsOrReply`, for SET and for GETEX.
fn options<'a>(a: &[&'a [u8]], is_set: bool) -> Result<Options<'a>, Fail> {
    let mut o = Options::default();
    let mut at = 0;
    while at < a.len() {
        let units = [("EX", Unit::Ex), ("PX", Unit::Px), ("EXAT", Unit::ExAt), ("PXAT", Unit::PxAt)];
        let unit = units.iter().find(|(word, _)| is(a[at], word)).map(|(_, unit)| *unit);
        if is(a[at], "NX") && is_set && !o.xx {
            o.nx = true;
        } else if is(a[at], "XX") && is_set && !o.nx {
            o.xx = true;
        } else if is(a[at], "GET") && is_set {
            o.get = true;
        } else if is(a[at], "KEEPTTL") && is_set && o.expire.is_none() {
            o.keep = true;
        } else if is(a[at], "PERSIST") && !is_set && o.expire.is_none() {
            o.persist = true;
        } else if let Some(unit) = unit
            && !o.keep
            && !o.persist
            && o.expire.is_none_or(|(before, _)| before == unit)
            && at + 1 < a.len()
        {
            at += 1;
            o.expire = Some((unit, a[at]));
        } else {
            return Err(SYNTAX.into());
        }
        at += 1;
    }
    Ok(o)
}

fn set(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let o = options(&a[3..], true)?;
    let mut dies = o.expire.map(|(unit, arg)| deadline(cx, arg, unit, "set")).transpose()?;
    if o.get {
        get(cx, &a[..2])?;
    }
    let old = cx.s.entry(cx.at, a[1]).map(|entry| entry.deadline_ms);
    if (o.nx && old.is_some()) || (o.xx && old.is_none()) {
        if !o.get {
            cx.c.out.null();
        }
        return Ok(());
    }
    if o.keep {
        dies = old.flatten();
    }
    cx.s.put(cx.at, a[1], Value::Str(a[2].to_vec()), dies);
    if !o.get {
        cx.c.out.ok();
    }
    Ok(())
}

fn setex(cx: &mut Ctx, a: &[&[u8]], unit: Unit, command: &str) -> Done {
    let dies = deadline(cx, a[2], unit, command)?;
    cx.s.put(cx.at, a[1], Value::Str(a[3].to_vec()), Some(dies));
    cx.c.out.ok();
    Ok(())
}

fn getex(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let o = options(&a[2..], false)?;
    if cx.s.string(cx.at, a[1])?.is_none() {
        cx.c.out.null();
        return Ok(());
    }
    let dies = o.expire.map(|(unit, arg)| deadline(cx, arg, unit, "getex")).transpose()?;
    get(cx, &a[..2])?;
    match dies {
        Some(dies) if dies <= cx.at.now => {
            cx.s.remove(cx.at, a[1]);
        }
        _ => {
            if let Some(entry) = cx.s.entry(cx.at, a[1])
                && (dies.is_some() || o.persist)
            {
                entry.deadline_ms = dies;
            }
        }
    }
    Ok(())
}

fn mset(cx: &mut Ctx, a: &[&[u8]], only_new: bool) -> Done {
    if a.len().is_multiple_of(2) {
        let name = if only_new { "msetnx" } else { "mset" };
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    if only_new && a[1..].iter().step_by(2).any(|key| cx.s.exists(cx.at, key)) {
        cx.c.out.flag(false);
        return Ok(());
    }
    for pair in a[1..].chunks(2) {
        cx.s.put(cx.at, pair[0], Value::Str(pair[1].to_vec()), None);
    }
    if only_new {
        cx.c.out.flag(true)
    } else {
        cx.c.out.ok()
    }
    Ok(())
}

fn add(cx: &mut Ctx, key: &[u8], by: i64) -> Done {
    let old = match cx.s.string(cx.at, key)? {
        Some(text) => int(text)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    *cx.s.make_string(cx.at, key)? = i64_text(new);
    cx.c.out.int(new);
    Ok(())
}

fn incrbyfloat(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let old = match cx.s.string(cx.at, a[1])? {
        Some(text) => text.clone(),
        None => b"0".to_vec(),
    };
    let (left, right) = (float(&old)?, float(a[2])?);
    let sum = sum_text(&old, left, a[2], right).ok_or("ERR increment would produce NaN or Infinity")?;
    *cx.s.make_string(cx.at, a[1])? = sum.clone().into_bytes();
    cx.c.out.bulk(sum.as_bytes());
    Ok(())
}

/// The sum as INCRBYFLOAT prints it. Redis adds in 80 bits and prints 17 decimals; decimals short enough are added exactly
/// here, which gives the same text. Others are added as f64, which may differ from Redis in the last digits.
pub(super) fn sum_text(a: &[u8], left: f64, b: &[u8], right: f64) -> Option<String> {
    let sum = left + right;
    if !sum.is_finite() {
        return None;
    }
    if let (Some(x), Some(y)) = (decimal(a), decimal(b)) {
        const ONE: i128 = 100_000_000_000_000_000;
        let total = x + y;
        let sign = if total < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:017}", total.abs() / ONE, total.abs() % ONE);
        return Some(trim_zeros(&text).to_string());
    }
    let text = format!("{sum:.17}");
    Some(match trim_zeros(&text) {
        "-0" => "0".to_string(),
        text => text.to_string(),
    })
}

/// Digits with at most 17 decimals, scaled by 10^17.
fn decimal(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() > 15 || fraction.len() > 15 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = format!("0{whole}{fraction:0<17}");
    let value: i128 = digits.parse().ok()?;
    Some(if negative { -value } else { value })
}

const TOO_BIG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
const SIZE_MAX: i64 = 512 << 20;

fn setrange(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let offset = int(a[2])?;
    if offset < 0 {
        return Err("ERR offset is out of range".into());
    }
    let len = cx.s.string(cx.at, a[1])?.map_or(0, |value| value.len());
    if a[3].is_empty() {
        cx.c.out.len(len);
        return Ok(());
    }
    if offset.saturating_add(a[3].len() as i64) > SIZE_MAX {
        return Err(TOO_BIG.into());
    }
    let value = cx.s.make_string(cx.at, a[1])?;
    let end = offset as usize + a[3].len();
    if value.len() < end {
        value.resize(end, 0);
    }
    value[offset as usize..end].copy_from_slice(a[3]);
    let len = value.len();
    cx.c.out.len(len);
    Ok(())
}

fn getrange(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (start, stop) = (int(a[2])?, int(a[3])?);
    let Some(value) = cx.s.string(cx.at, a[1])? else {
        cx.c.out.bulk(b"");
        return Ok(());
    };
    let len = value.len() as i64;
    if start < 0 && stop < 0 && start > stop {
        cx.c.out.bulk(b"");
        return Ok(());
    }
    let from = if start < 0 { (start + len).max(0) } else { start };
    let to = if stop < 0 { (stop + len).max(0) } else { stop }.min(len - 1);
    if from > to || len == 0 {
        cx.c.out.bulk(b"");
    } else {
        cx.c.out.bulk(&value[from as usize..=to as usize]);
    }
    Ok(())
}

fn bit_offset(arg: &[u8]) -> Result<usize, Fail> {
    let offset = crate::reply::parse_i64(arg).filter(|n| (0..SIZE_MAX * 8).contains(n));
    offset.map(|n| n as usize).ok_or_else(|| "ERR bit offset is not an integer or out of range".into())
}

fn setbit(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let offset = bit_offset(a[2])?;
    let on = match a[3] {
        b"0" => 0u8,
        b"1" => 1,
        _ => return Err("ERR bit is not an integer or out of range".into()),
    };
    let value = cx.s.make_string(cx.at, a[1])?;
    if value.len() <= offset / 8 {
        value.resize(offset / 8 + 1, 0);
    }
    let shift = 7 - offset % 8;
    let byte = &mut value[offset / 8];
    let old = *byte >> shift & 1;
    *byte = *byte & !(1 << shift) | on << shift;
    cx.c.out.int(i64::from(old));
    Ok(())
}

fn bitop(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let combine: fn(u8, u8) -> u8 = match () {
        () if is(a[1], "AND") => |x, y| x & y,
        () if is(a[1], "OR") => |x, y| x | y,
        () if is(a[1], "XOR") => |x, y| x ^ y,
        () if is(a[1], "NOT") => |x, _| !x,
        () => return Err(SYNTAX.into()),
    };
    let not = is(a[1], "NOT");
    if not && a.len() != 4 {
        return Err("ERR BITOP NOT must be called with a single source key.".into());
    }
    let mut sources = Vec::new();
    for key in &a[3..] {
        sources.push(cx.s.string(cx.at, key)?.map(|value| value.clone()).unwrap_or_default());
    }
    let len = sources.iter().map(Vec::len).max().unwrap_or(0);
    let byte = |source: &Vec<u8>, at: usize| source.get(at).copied().unwrap_or(0);
    let result: Vec<u8> = (0..len)
        .map(|at| {
            let first = byte(&sources[0], at);
            if not { combine(first, 0) } else { sources[1..].iter().fold(first, |acc, source| combine(acc, byte(source, at))) }
        })
        .collect();
    if result.is_empty() {
        cx.s.remove(cx.at, a[2]);
    } else {
        cx.s.put(cx.at, a[2], Value::Str(result), None);
    }
    cx.c.out.len(len);
    Ok(())
}
