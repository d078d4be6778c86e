//! Sets (redis 7.0 t_set.c). Members are kept sorted; what is answered is turned by this server's salt, since the order of
//! a set differs between two real servers as well.
use super::*;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("sadd", -3, WRITE, |cx, a| {
            let set = cx.s.make_members(cx.at, a[1])?;
            let added = a[2..].iter().filter(|member| insert(set, member)).count();
            cx.c.out.len(added);
            Ok(())
        }),
        row("srem", -3, WRITE, |cx, a| {
            let mut removed = 0;
            if let Some(set) = cx.s.members(cx.at, a[1])? {
                removed = a[2..].iter().filter(|member| delete(set, member)).count();
                cx.s.tidy(cx.at, a[1]);
            }
            cx.c.out.len(removed);
            Ok(())
        }),
        row("spop", -2, WRITE, spop),
        row("srandmember", -2, 0, srandmember),
        row("scard", 2, 0, |cx, a| {
            let len = cx.s.members(cx.at, a[1])?.map_or(0, |set| set.len());
            cx.c.out.len(len);
            Ok(())
        }),
        row("sismember", 3, 0, |cx, a| {
            let there = cx.s.members(cx.at, a[1])?.is_some_and(|set| has(set, a[2]));
            cx.c.out.flag(there);
            Ok(())
        }),
        row("smismember", -3, 0, |cx, a| {
            let set = cx.s.members(cx.at, a[1])?;
            cx.c.out.array(a.len() - 2);
            for member in &a[2..] {
                cx.c.out.flag(set.as_ref().is_some_and(|set| has(set, member)));
            }
            Ok(())
        }),
        // Small sets come whole, whatever COUNT says, as those of a server do.
        row("sscan", -3, 0, |cx, a| {
            keys::scan_cursor(a[2])?;
            let Some(set) = cx.s.members(cx.at, a[1])?.map(|set| set.clone()) else { return keys::empty_scan(cx) };
            let pattern = keys::scan_options(&a[3..])?;
            let (next, page) = keys::scan_page(cx, a, set, |member| member)?;
            let found: Vec<&Vec<u8>> = page.iter().filter(|member| pattern.is_none_or(|pattern| glob(pattern, member))).collect();
            cx.c.out.array(2);
            cx.c.out.bulk(next.to_string().as_bytes());
            cx.c.out.array(found.len());
            found.iter().for_each(|member| cx.c.out.bulk(member));
            Ok(())
        }),
        row("smembers", 2, 0, |cx, a| {
            let salt = cx.s.salt;
            let set = cx.s.members(cx.at, a[1])?.map_or(&[][..], |set| set.as_slice());
            answer(&mut cx.c.out, set, salt);
            Ok(())
        }),
        row("smove", 4, WRITE, smove),
        row("sinter", -2, 0, |cx, a| combined(cx, &a[1..], inter)),
        row("sunion", -2, 0, |cx, a| combined(cx, &a[1..], union)),
        row("sdiff", -2, 0, |cx, a| combined(cx, &a[1..], difference)),
        row("sinterstore", -3, WRITE, |cx, a| stored(cx, a, inter)),
        row("sunionstore", -3, WRITE, |cx, a| stored(cx, a, union)),
        row("sdiffstore", -3, WRITE, |cx, a| stored(cx, a, difference)),
    ]
}

type Set = Vec<Vec<u8>>;

fn slot(set: &Set, member: &[u8]) -> Result<usize, usize> {
    set.binary_search_by(|x| x.as_slice().cmp(member))
}

fn has(set: &Set, member: &[u8]) -> bool {
    slot(set, member).is_ok()
}

fn insert(set: &mut Set, member: &[u8]) -> bool {
    slot(set, member).map_err(|at| set.insert(at, member.to_vec())).is_err()
}

fn delete(set: &mut Set, member: &[u8]) -> bool {
    slot(set, member).map(|at| set.remove(at)).is_ok()
}

fn answer(out: &mut Out, set: &[Vec<u8>], salt: u64) {
    out.set(set.len());
    let turn = if set.is_empty() { 0 } else { (salt % set.len() as u64) as usize };
    for member in set[turn..].iter().chain(&set[..turn]) {
        out.bulk(member);
    }
}

fn spop(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if a.len() > 3 {
        return Err(SYNTAX.into());
    }
    let Some(count) = a.get(2) else {
        let len = cx.s.members(cx.at, a[1])?.map_or(0, |set| set.len());
        let at = cx.s.rng.index(len);
        let member = cx.s.members(cx.at, a[1])?.map(|set| set.remove(at));
        cx.c.out.maybe(member.as_deref());
        cx.s.tidy(cx.at, a[1]);
        return Ok(());
    };
    let count = positive(count)?;
    let len = cx.s.members(cx.at, a[1])?.map_or(0, |set| set.len());
    let mut popped = Vec::new();
    for left in (len.saturating_sub(count)..len).rev() {
        let at = cx.s.rng.index(left + 1);
        popped.extend(cx.s.members(cx.at, a[1])?.map(|set| set.remove(at)));
    }
    cx.c.out.set(popped.len());
    popped.iter().for_each(|member| cx.c.out.bulk(member));
    cx.s.tidy(cx.at, a[1]);
    Ok(())
}

fn srandmember(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if a.len() > 3 {
        return Err(SYNTAX.into());
    }
    let count = match a.get(2) {
        None => None,
        Some(count) => {
            let count = int(count)?;
            if count < -(i64::MAX / 2) {
                return Err("ERR value is out of range, value must between -4611686018427387903 and 4611686018427387903".into());
            }
            if count > i64::MAX / 2 {
                return Err("ERR value is out of range, value must between -4611686018427387903 and 4611686018427387903".into());
            }
            Some(count)
        }
    };
    let mut pool = cx.s.members(cx.at, a[1])?.map(|set| set.clone()).unwrap_or_default();
    let Some(count) = count else {
        let chosen = (!pool.is_empty()).then(|| pool[cx.s.rng.index(pool.len())].as_slice());
        cx.c.out.maybe(chosen);
        return Ok(());
    };
    if pool.is_empty() || count == 0 {
        cx.c.out.array(0);
    } else if count < 0 {
        cx.c.out.array(count.unsigned_abs() as usize);
        for _ in 0..count.unsigned_abs() {
            cx.c.out.bulk(&pool[cx.s.rng.index(pool.len())]);
        }
    } else {
        while pool.len() > count as usize {
            let at = cx.s.rng.index(pool.len());
            pool.remove(at);
        }
        cx.c.out.array(pool.len());
        pool.iter().for_each(|member| cx.c.out.bulk(member));
    }
    Ok(())
}

fn smove(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let Some(source) = cx.s.members(cx.at, a[1])? else {
        cx.c.out.flag(false);
        return Ok(());
    };
    let there = has(source, a[3]);
    cx.s.members(cx.at, a[2])?;
    if there && a[1] != a[2] {
        if let Some(source) = cx.s.members(cx.at, a[1])? {
            delete(source, a[3]);
        }
        insert(cx.s.make_members(cx.at, a[2])?, a[3]);
        cx.s.tidy(cx.at, a[1]);
    }
    cx.c.out.flag(there);
    Ok(())
}

fn inter(sets: Vec<Set>) -> Set {
    let mut sets = sets.into_iter();
    let first = sets.next().unwrap_or_default();
    sets.fold(first, |acc, set| acc.into_iter().filter(|member| has(&set, member)).collect())
}

fn union(sets: Vec<Set>) -> Set {
    let mut all: Set = sets.into_iter().flatten().collect();
    all.sort();
    all.dedup();
    all
}

fn difference(sets: Vec<Set>) -> Set {
    let mut sets = sets.into_iter();
    let first = sets.next().unwrap_or_default();
    sets.fold(first, |acc, set| acc.into_iter().filter(|member| !has(&set, member)).collect())
}

fn load(cx: &mut Ctx, keys: &[&[u8]]) -> Result<Vec<Set>, Fail> {
    keys.iter().map(|key| Ok(cx.s.members(cx.at, key)?.map(|set| set.clone()).unwrap_or_default())).collect()
}

fn combined(cx: &mut Ctx, keys: &[&[u8]], combine: fn(Vec<Set>) -> Set) -> Done {
    let result = combine(load(cx, keys)?);
    let salt = cx.s.salt;
    answer(&mut cx.c.out, &result, salt);
    Ok(())
}

fn stored(cx: &mut Ctx, a: &[&[u8]], combine: fn(Vec<Set>) -> Set) -> Done {
    let result = combine(load(cx, &a[2..])?);
    cx.c.out.len(result.len());
    cx.s.put_or_remove(cx.at, a[1], Value::Set(result));
    Ok(())
}
