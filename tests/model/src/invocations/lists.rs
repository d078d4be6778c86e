//! Lists.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("LPUSH", |g| push(g, "LPUSH")),
    write("RPUSH", |g| push(g, "RPUSH")),
    write("LPUSHX", |g| push(g, "LPUSHX")),
    write("RPUSHX", |g| push(g, "RPUSHX")),
    write("LPOP", |g| pop(g, "LPOP")),
    write("RPOP", |g| pop(g, "RPOP")),
    write("LSET", |g| cmd!["LSET", g.key(Kind::List), g.index(), g.value()]),
    write("LREM", |g| cmd!["LREM", g.key(Kind::List), g.index(), g.member()]),
    write("LTRIM", |g| cmd!["LTRIM", g.key(Kind::List), g.index(), g.index()]),
    write("LINSERT", |g| {
        let place = g.one(&["BEFORE", "AFTER", "before", "AFTER", "AROUND"]);
        cmd!["LINSERT", g.key(Kind::List), place, g.member(), g.value()]
    }),
    write("LMOVE", |g| {
        let sides = ["LEFT", "RIGHT", "left", "RIGHT", "LEFT", "UP"];
        let (from, to) = (g.one(&sides), g.one(&sides));
        cmd!["LMOVE", g.key(Kind::List), g.key(Kind::List), from, to]
    }),
    write("RPOPLPUSH", |g| cmd!["RPOPLPUSH", g.key(Kind::List), g.key(Kind::List)]),
    write("LMPOP", |g| {
        let keys = g.keys(Kind::List, 1, 3);
        let number = if g.one_in(12) { g.one(&["0", "-1", "9", "x"]) } else { keys.len().to_string().into() };
        let mut c = cmd!["LMPOP", number];
        c.extend(keys);
        c.extend(cmd![g.one(&["LEFT", "RIGHT", "LEFT", "RIGHT", "UP"])]);
        if g.one_in(2) {
            c.extend(cmd!["COUNT", g.count()]);
        }
        c
    }),
    write("BLPOP", |g| blocking(g, "BLPOP", Kind::List)),
    write("BRPOP", |g| blocking(g, "BRPOP", Kind::List)),
    write("BLMOVE", |g| {
        let sides = ["LEFT", "RIGHT", "left", "RIGHT", "LEFT", "UP"];
        let (from, to) = (g.one(&sides), g.one(&sides));
        cmd!["BLMOVE", g.key(Kind::List), g.key(Kind::List), from, to, timeout(g)]
    }),
    write("BRPOPLPUSH", |g| cmd!["BRPOPLPUSH", g.key(Kind::List), g.key(Kind::List), timeout(g)]),
    write("BLMPOP", |g| blocking_many(g, "BLMPOP", Kind::List, &["LEFT", "RIGHT", "LEFT", "RIGHT", "UP"])),
];

/// Seconds to wait: few, or not a number of them. Before 6.0 only whole ones count.
fn timeout(g: &mut Gen) -> Vec<u8> {
    match g.rng.below(20) {
        0 => g.one(&["-1", "x", "", "nan"]),
        1 => g.one(&["1", "1e-2", ".01"]),
        _ => g.one(&["0.01", "0.005", "0.002"]),
    }
}

/// BLPOP and its like: `name key... timeout`.
pub(super) fn blocking(g: &mut Gen, name: &str, kind: Kind) -> Command {
    let mut c = cmd![name];
    c.extend(g.keys(kind, 1, 3));
    c.push(timeout(g));
    c
}

/// BLMPOP and BZMPOP: `name timeout number key... side [COUNT n]`.
pub(super) fn blocking_many(g: &mut Gen, name: &str, kind: Kind, sides: &[&str]) -> Command {
    let keys = g.keys(kind, 1, 3);
    let number = if g.one_in(12) { g.one(&["0", "-1", "9", "x"]) } else { keys.len().to_string().into() };
    let mut c = cmd![name, timeout(g), number];
    c.extend(keys);
    c.push(g.one(sides));
    if g.one_in(2) {
        c.extend(cmd!["COUNT", g.count()]);
    }
    c
}

fn push(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, g.key(Kind::List)];
    c.extend(g.members(1, 4));
    if g.one_in(4) {
        c.push(g.value());
    }
    c
}

fn pop(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, g.key(Kind::List)];
    if g.one_in(2) {
        c.push(g.count());
    }
    c
}
