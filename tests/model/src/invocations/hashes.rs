//! Hashes; fields with a time to live exist from Redis 7.4 and Valkey 9.0 on.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, later, write};

pub(super) const ROWS: &[Invocation] = &[
    write("HSET", |g| hset(g, "HSET")),
    write("HMSET", |g| hset(g, "HMSET")),
    write("HSETNX", |g| cmd!["HSETNX", g.key(Kind::Hash), g.field(), g.value()]),
    write("HDEL", |g| {
        let mut c = cmd!["HDEL", g.key(Kind::Hash)];
        for _ in 0..g.rng.between(1, 4) {
            c.push(g.field());
        }
        c
    }),
    write("HINCRBY", |g| {
        let field = if g.one_in(3) { g.field() } else { b"n".to_vec() };
        cmd!["HINCRBY", g.key(Kind::Hash), field, g.int()]
    }),
    write("HINCRBYFLOAT", |g| {
        let field = if g.one_in(3) { g.field() } else { g.one(&["n", "x", "x", "new"]) };
        cmd!["HINCRBYFLOAT", g.key(Kind::Hash), field, g.float()]
    }),
    later("HEXPIRE", "7.4.0", |g| {
        let time = g.seconds();
        hexpire(g, "HEXPIRE", time)
    }),
    later("HPEXPIRE", "7.4.0", |g| {
        let time = g.millis();
        hexpire(g, "HPEXPIRE", time)
    }),
    later("HEXPIREAT", "7.4.0", |g| {
        let time = g.at_seconds();
        hexpire(g, "HEXPIREAT", time)
    }),
    later("HPEXPIREAT", "7.4.0", |g| {
        let time = g.at_millis();
        hexpire(g, "HPEXPIREAT", time)
    }),
    later("HPERSIST", "7.4.0", |g| cmd!["HPERSIST", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
    later("HSETEX", "8.0.0/vk9.0", |g| {
        let mut c = cmd!["HSETEX", g.key(Kind::Hash)];
        if g.one_in(3) {
            c.extend(cmd![g.one(&["FNX", "FXX"])]);
        }
        c.extend(cmd!["PX", g.millis(), "FIELDS", "1", g.field(), g.value()]);
        c
    }),
    later("HGETEX", "8.0.0/vk9.0", |g| cmd!["HGETEX", g.key(Kind::Hash), "PX", g.millis(), "FIELDS", "2", g.field(), g.field()]),
    later("HGETDEL", "8.0.0/vk9.1", |g| cmd!["HGETDEL", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
];

fn hset(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, g.key(Kind::Hash)];
    for _ in 0..g.rng.between(1, 4) {
        c.extend([g.field(), g.value()]);
    }
    c
}

fn hexpire(g: &mut Gen, name: &str, time: Vec<u8>) -> Command {
    let mut c = cmd![name, g.key(Kind::Hash), time];
    if g.one_in(3) {
        c.extend(cmd![g.one(&["NX", "XX", "GT", "LT"])]);
    }
    c.extend(cmd!["FIELDS", "2", g.field(), g.field()]);
    c
}
