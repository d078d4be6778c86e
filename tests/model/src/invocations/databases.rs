//! Commands on whole databases: barriers for the proxy.
use super::{Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("FLUSHDB", |g| {
        let mut c = cmd!["FLUSHDB"];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["ASYNC", "SYNC", "sync", "NOW"])]);
        }
        c
    }),
    write("FLUSHALL", |g| {
        let mut c = cmd!["FLUSHALL"];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["ASYNC", "SYNC", "async", "NOW"])]);
        }
        c
    }),
    write("SWAPDB", |g| {
        let side = ["0", "1", "2", "0", "1", "15", "99", "-1", "abc"];
        cmd!["SWAPDB", g.one(&side), g.one(&side)]
    }),
];
