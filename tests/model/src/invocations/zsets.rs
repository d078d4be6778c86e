//! Sorted sets.
use super::lists::{blocking, blocking_many};
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("ZADD", zadd),
    write("ZINCRBY", |g| cmd!["ZINCRBY", g.key(Kind::Zset), g.float(), g.member()]),
    write("ZREM", |g| {
        let mut c = cmd!["ZREM", g.key(Kind::Zset)];
        c.extend(g.members(1, 4));
        c
    }),
    write("ZPOPMIN", |g| pop(g, "ZPOPMIN")),
    write("ZPOPMAX", |g| pop(g, "ZPOPMAX")),
    write("ZMPOP", |g| {
        let keys = g.keys(Kind::Zset, 1, 3);
        let number = if g.one_in(12) { g.one(&["0", "-1", "9", "x"]) } else { keys.len().to_string().into() };
        let mut c = cmd!["ZMPOP", number];
        c.extend(keys);
        c.extend(cmd![g.one(&["MIN", "MAX", "MIN", "MAX", "MID"])]);
        if g.one_in(2) {
            c.extend(cmd!["COUNT", g.count()]);
        }
        c
    }),
    write("BZPOPMIN", |g| blocking(g, "BZPOPMIN", Kind::Zset)),
    write("BZPOPMAX", |g| blocking(g, "BZPOPMAX", Kind::Zset)),
    write("BZMPOP", |g| blocking_many(g, "BZMPOP", Kind::Zset, &["MIN", "MAX", "MIN", "MAX", "MID"])),
    write("ZREMRANGEBYRANK", |g| cmd!["ZREMRANGEBYRANK", g.key(Kind::Zset), g.index(), g.index()]),
    write("ZREMRANGEBYSCORE", |g| cmd!["ZREMRANGEBYSCORE", g.key(Kind::Zset), bound(g), bound(g)]),
    write("ZREMRANGEBYLEX", |g| {
        let key = if g.one_in(3) { g.key(Kind::Zset) } else { b"zset:lex".to_vec() };
        cmd!["ZREMRANGEBYLEX", key, lex(g), lex(g)]
    }),
    write("ZRANGESTORE", zrangestore),
    write("ZUNIONSTORE", |g| store(g, "ZUNIONSTORE")),
    write("ZINTERSTORE", |g| store(g, "ZINTERSTORE")),
    write("ZDIFFSTORE", |g| store(g, "ZDIFFSTORE")),
];

fn zadd(g: &mut Gen) -> Command {
    let mut c = cmd!["ZADD", g.key(Kind::Zset)];
    g.maybe(&mut c, 5, &["NX"]);
    g.maybe(&mut c, 5, &["XX"]);
    g.maybe(&mut c, 6, &["GT"]);
    g.maybe(&mut c, 6, &["LT"]);
    g.maybe(&mut c, 3, &["CH"]);
    let incr = g.one_in(4);
    if incr {
        c.extend(cmd!["INCR"]);
    }
    let pairs = if incr && !g.one_in(6) { 1 } else { g.rng.between(1, 3) };
    for _ in 0..pairs {
        c.extend([g.float(), g.member()]);
    }
    c
}

fn pop(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, g.key(Kind::Zset)];
    if g.one_in(2) {
        c.push(g.count());
    }
    c
}

pub(super) fn bound(g: &mut Gen) -> Vec<u8> {
    g.one(&["-inf", "+inf", "0", "1", "(1", "2", "(2", "3.5", "-1", "(-inf", "10", "nan", "x"])
}

pub(super) fn lex(g: &mut Gen) -> Vec<u8> {
    g.one(&["-", "+", "[a", "(a", "[b", "(c", "[d", "[", "x"])
}

fn zrangestore(g: &mut Gen) -> Command {
    let target = if g.one_in(2) { g.target() } else { g.key(Kind::Zset) };
    let mut c = cmd!["ZRANGESTORE", target, g.key(Kind::Zset)];
    match g.rng.below(3) {
        0 => c.extend(cmd![g.index(), g.index()]),
        1 => c.extend(cmd![bound(g), bound(g), "BYSCORE"]),
        _ => {
            c[2] = b"zset:lex".to_vec();
            c.extend(cmd![lex(g), lex(g), "BYLEX"]);
        }
    }
    g.maybe(&mut c, 3, &["REV"]);
    if g.one_in(4) {
        c.extend(cmd!["LIMIT", g.one(&["0", "1", "2"]), g.one(&["1", "2", "-1"])]);
    }
    c
}

fn store(g: &mut Gen, name: &str) -> Command {
    let mut keys = g.keys(Kind::Zset, 1, 3);
    if g.one_in(4) {
        keys[0] = g.key(Kind::Set);
    }
    let count = keys.len();
    let number = if g.one_in(15) { g.one(&["0", "-1", "9", "x"]) } else { count.to_string().into() };
    let mut c = cmd![name, if g.one_in(2) { g.target() } else { g.key(Kind::Zset) }, number];
    c.extend(keys);
    if name == "ZDIFFSTORE" && !g.one_in(20) {
        return c;
    }
    if g.one_in(2) {
        c.extend(cmd!["WEIGHTS"]);
        for _ in 0..count {
            c.push(g.float());
        }
    }
    if g.one_in(2) {
        c.extend(cmd!["AGGREGATE", g.one(&["SUM", "MIN", "MAX", "min", "AVG"])]);
    }
    c
}
