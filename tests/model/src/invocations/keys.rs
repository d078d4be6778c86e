//! Commands on keys of any type: life, names, copies, sorting into a list.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};
use crate::server::{Value, payload};

pub(super) const ROWS: &[Invocation] = &[
    write("DEL", |g| many(g, "DEL")),
    write("UNLINK", |g| many(g, "UNLINK")),
    write("EXPIRE", |g| cmd!["EXPIRE", g.any_key(), g.seconds()].into_iter().chain(condition(g)).collect()),
    write("PEXPIRE", |g| cmd!["PEXPIRE", g.any_key(), g.millis()].into_iter().chain(condition(g)).collect()),
    write("EXPIREAT", |g| cmd!["EXPIREAT", g.any_key(), g.at_seconds()].into_iter().chain(condition(g)).collect()),
    write("PEXPIREAT", |g| cmd!["PEXPIREAT", g.any_key(), g.at_millis()].into_iter().chain(condition(g)).collect()),
    write("PERSIST", |g| cmd!["PERSIST", volatile(g)]),
    write("RENAME", |g| cmd!["RENAME", g.any_key(), g.target()]),
    write("RENAMENX", |g| cmd!["RENAMENX", g.any_key(), g.target()]),
    write("COPY", copy),
    write("MOVE", |g| cmd!["MOVE", g.any_key(), g.one(&["1", "2", "1", "0", "99", "-1", "abc"])]),
    write("RESTORE", restore),
    write("SORT", sort),
];

fn many(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name];
    for _ in 0..g.rng.between(1, 4) {
        c.push(g.any_key());
    }
    c
}

fn volatile(g: &mut Gen) -> Vec<u8> {
    if g.one_in(3) { g.any_key() } else { g.one(&["text:ttl", "num:ttl", "list:ttl", "hash:ttl", "set:ttl", "zset:ttl", "stream:ttl"]) }
}

fn condition(g: &mut Gen) -> Command {
    let mut c = Command::new();
    match g.rng.below(12) {
        0 | 1 => c.extend(cmd!["NX"]),
        2 | 3 => c.extend(cmd!["XX"]),
        4 => c.extend(cmd!["GT"]),
        5 => c.extend(cmd!["lt"]),
        6 => c.extend(cmd![g.one(&["XX", "NX", "GT"]), g.one(&["GT", "LT", "MAYBE"])]),
        _ => {}
    }
    c
}

fn copy(g: &mut Gen) -> Command {
    let mut c = cmd!["COPY", g.any_key(), g.target()];
    if g.one_in(4) {
        c.extend(cmd!["DB", g.one(&["0", "1", "2", "0", "99", "-1", "abc", "99999999999"])]);
    }
    g.maybe(&mut c, 2, &["REPLACE"]);
    c
}

/// Payloads in the plain encodings of RDB 9, which every server since 5.0 reads; some damaged, some from a future server.
fn restore(g: &mut Gen) -> Command {
    let value = match g.rng.below(5) {
        0 => Value::Str(g.value()),
        1 => Value::List(g.members(1, 5).into()),
        2 => {
            let mut members = g.members(1, 5);
            members.sort();
            members.dedup();
            Value::Set(members)
        }
        3 => Value::Hash(vec![(b"f1".to_vec(), g.value()), (b"f2".to_vec(), g.value())]),
        _ => Value::Zset(vec![(g.rng.between(-5, 0) as f64, b"a".to_vec()), (1.5, b"b".to_vec())]),
    };
    let mut data = payload(&value, 9);
    match g.rng.below(20) {
        0 => data = payload(&value, 99),
        1 => data[0] ^= 1,
        2 => data.truncate(5),
        _ => {}
    }
    let (ttl, absolute) =
        if g.one_in(4) { (g.at_millis(), true) } else { (g.one(&["0", "0", "0", "5000000", "100000000", "-1", "abc"]), false) };
    let mut c = cmd!["RESTORE", g.target(), ttl, data];
    g.maybe(&mut c, 2, &["REPLACE"]);
    if absolute {
        c.extend(cmd!["ABSTTL"]);
    }
    match g.rng.below(12) {
        0 => c.extend(cmd!["IDLETIME", g.one(&["0", "100", "-1", "x"])]),
        1 => c.extend(cmd!["FREQ", g.one(&["0", "255", "256", "-1"])]),
        2 => c.extend(cmd!["IDLETIME", "5", "FREQ", "5"]),
        _ => {}
    }
    c
}

fn sort(g: &mut Gen) -> Command {
    let kind = [Kind::List, Kind::Set, Kind::Zset][g.rng.index(3)];
    let mut c = cmd!["SORT", if g.one_in(3) { g.one(&["set:ints"]) } else { g.key(kind) }];
    match g.rng.below(5) {
        0 => c.extend(cmd!["BY", g.one(&["num:*", "hash:*->n", "nosort", "missing_*"])]),
        1 => c.extend(cmd!["BY", "num:*", "GET", "#", "GET", g.one(&["text:*", "hash:*->f1"])]),
        _ => {}
    }
    if g.one_in(3) {
        c.extend(cmd!["LIMIT", g.index(), g.one(&["0", "1", "2", "10", "-1", "x"])]);
    }
    g.maybe(&mut c, 3, &["DESC"]);
    g.maybe(&mut c, 2, &["ALPHA"]);
    if !g.one_in(4) {
        c.extend(cmd!["STORE", g.target()]);
    }
    c
}
