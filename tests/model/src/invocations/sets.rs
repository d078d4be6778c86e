//! Sets.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("SADD", |g| {
        let mut c = cmd!["SADD", g.key(Kind::Set)];
        c.extend(g.members(1, 4));
        c
    }),
    write("SREM", |g| {
        let mut c = cmd!["SREM", g.key(Kind::Set)];
        c.extend(g.members(1, 4));
        c
    }),
    write("SPOP", |g| {
        let mut c = cmd!["SPOP", g.key(Kind::Set)];
        if g.one_in(2) {
            c.push(g.count());
        }
        c
    }),
    write("SMOVE", |g| cmd!["SMOVE", g.key(Kind::Set), g.key(Kind::Set), g.member()]),
    write("SINTERSTORE", |g| store(g, "SINTERSTORE")),
    write("SUNIONSTORE", |g| store(g, "SUNIONSTORE")),
    write("SDIFFSTORE", |g| store(g, "SDIFFSTORE")),
];

fn store(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, if g.one_in(2) { g.target() } else { g.key(Kind::Set) }];
    c.extend(g.keys(Kind::Set, 1, 3));
    c
}
