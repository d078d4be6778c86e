//! Strings: SET in all its forms, counters, ranges.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, later, write};

pub(super) const ROWS: &[Invocation] = &[
    write("SET", set),
    write("SETNX", |g| cmd!["SETNX", g.target(), g.value()]),
    write("SETEX", |g| cmd!["SETEX", g.target(), g.seconds(), g.value()]),
    write("PSETEX", |g| cmd!["PSETEX", g.target(), g.millis(), g.value()]),
    write("GETSET", |g| cmd!["GETSET", g.key(Kind::Text), g.value()]),
    write("GETDEL", |g| cmd!["GETDEL", g.key(Kind::Text)]),
    write("GETEX", getex),
    write("MSET", |g| mset(g, "MSET")),
    write("MSETNX", |g| mset(g, "MSETNX")),
    write("INCR", |g| cmd!["INCR", number(g)]),
    write("DECR", |g| cmd!["DECR", number(g)]),
    write("INCRBY", |g| cmd!["INCRBY", number(g), g.int()]),
    write("DECRBY", |g| cmd!["DECRBY", number(g), g.int()]),
    write("INCRBYFLOAT", |g| {
        let kind = if g.one_in(3) { Kind::Number } else { Kind::Float };
        cmd!["INCRBYFLOAT", g.key(kind), g.float()]
    }),
    write("APPEND", |g| cmd!["APPEND", g.key(Kind::Text), g.value()]),
    write("SETRANGE", |g| {
        let offset = g.one(&["0", "1", "5", "12", "100", "-1", "abc", "536870912", "9223372036854775807"]);
        cmd!["SETRANGE", g.key(Kind::Text), offset, g.value()]
    }),
    later("MSETEX", "8.4.0/vk9.1", |g| cmd!["MSETEX", "2", g.target(), g.value(), g.target(), g.value(), "PX", g.millis()]),
    later("DELEX", "8.4.0", |g| cmd!["DELEX", g.key(Kind::Text), g.one(&["IFEQ", "IFNE"]), g.one(&["abc", "fading"])]),
    later("DELIFEQ", "vk9.0", |g| cmd!["DELIFEQ", g.key(Kind::Text), g.one(&["abc", "fading"])]),
];

fn number(g: &mut Gen) -> Vec<u8> {
    match g.rng.below(5) {
        0 => g.key(Kind::Float),
        _ => g.key(Kind::Number),
    }
}

fn set(g: &mut Gen) -> Command {
    let mut c = cmd!["SET", g.target(), g.value()];
    expiry(g, &mut c, &["KEEPTTL"]);
    let condition = g.rng.below(8);
    match condition {
        0 | 1 => c.extend(cmd!["NX"]),
        2 | 3 => c.extend(cmd!["XX"]),
        _ => {}
    }
    g.maybe(&mut c, 4, &["GET"]);
    g.maybe(&mut c, 25, &["XX"]);
    g.maybe(&mut c, 25, &["KEEPTTL"]);
    g.maybe(&mut c, 40, &["EX"]);
    c
}

fn expiry(g: &mut Gen, c: &mut Command, other: &[&str]) {
    match g.rng.below(8) {
        0 => c.extend(cmd!["EX", g.seconds()]),
        1 => c.extend(cmd!["px", g.millis()]),
        2 => c.extend(cmd!["EXAT", g.at_seconds()]),
        3 => c.extend(cmd!["PXAT", g.at_millis()]),
        4 => c.extend(cmd![g.one(other)]),
        _ => {}
    }
}

fn getex(g: &mut Gen) -> Command {
    let mut c = cmd!["GETEX", g.key(Kind::Text)];
    expiry(g, &mut c, &["PERSIST"]);
    g.maybe(&mut c, 25, &["PERSIST"]);
    c
}

fn mset(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name];
    for _ in 0..g.rng.between(1, 4) {
        let key = if g.one_in(3) { g.any_key() } else { g.one(&["missing:1", "missing:2", "missing:3"]) };
        c.extend([key, g.value()]);
    }
    c
}
