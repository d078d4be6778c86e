//! Bitmaps and HyperLogLogs: strings with their own arithmetic.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("SETBIT", |g| {
        let offset = g.one(&["0", "1", "7", "8", "63", "1000", "-1", "abc", "4294967296"]);
        cmd!["SETBIT", g.key(Kind::Text), offset, g.one(&["0", "1", "1", "0", "2", "x"])]
    }),
    write("BITOP", |g| {
        let operation = g.one(&["AND", "OR", "XOR", "NOT", "and", "NAND"]);
        let mut c = cmd!["BITOP", operation, g.target()];
        let most = if c[1] == b"NOT" && !g.one_in(5) { 1 } else { 3 };
        c.extend(g.keys(Kind::Text, 1, most));
        c
    }),
    write("BITFIELD", bitfield),
    write("PFADD", |g| {
        let mut c = cmd!["PFADD", g.key(Kind::Hll)];
        c.extend(g.members(0, 4));
        c
    }),
    write("PFMERGE", |g| {
        let target = if g.one_in(2) { g.key(Kind::Hll) } else { g.one(&["missing:1", "missing:2"]) };
        let mut c = cmd!["PFMERGE", target];
        c.extend(g.keys(Kind::Hll, 0, 3));
        c
    }),
];

fn bitfield(g: &mut Gen) -> Command {
    let mut c = cmd!["BITFIELD", g.key(Kind::Text)];
    for _ in 0..g.rng.between(1, 4) {
        let kind = if g.one_in(25) { g.one(&["u64", "x3", "i0"]) } else { g.one(&["u8", "i8", "u16", "i5", "u63", "i64", "u1"]) };
        let offset = if g.one_in(25) { g.one(&["-1", "#x", "9223372036854775807"]) } else { g.one(&["0", "3", "8", "#1", "#2", "100"]) };
        match g.rng.below(5) {
            0 => c.extend(cmd!["GET", kind, offset]),
            1 => c.extend(cmd!["OVERFLOW", g.one(&["WRAP", "SAT", "FAIL", "sat", "WRAP", "FAIL", "SAT", "NONE"])]),
            2 => c.extend(cmd!["SET", kind, offset, g.int()]),
            _ => c.extend(cmd!["INCRBY", kind, offset, g.int()]),
        }
    }
    c
}
