//! Streams and their groups.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, later, write};

pub(super) const ROWS: &[Invocation] = &[
    write("XADD", xadd),
    write("XDEL", |g| {
        let mut c = cmd!["XDEL", g.key(Kind::Stream)];
        ids(g, &mut c);
        c
    }),
    write("XTRIM", |g| {
        let mut c = cmd!["XTRIM", g.key(Kind::Stream)];
        trim(g, &mut c);
        c
    }),
    write("XSETID", |g| {
        let mut c = cmd!["XSETID", g.key(Kind::Stream), g.one(&["50-0", "60", "99-1", "100", "9-0", "9-9", "1-1", "0-0", "x"])];
        if g.one_in(3) {
            c.extend(cmd!["ENTRIESADDED", g.one(&["100", "50", "1000", "1", "-1", "x"])]);
        }
        if g.one_in(3) {
            c.extend(cmd!["MAXDELETEDID", g.one(&["2-2", "5-0", "1-0", "0-1", "99-0", "x"])]);
        }
        c
    }),
    write("XGROUP CREATE", |g| {
        let usual = ["g3", "g4", "g5", "\r\n"][g.rng.index(4)];
        let mut c =
            cmd!["XGROUP", "CREATE", g.key(Kind::Stream), group(g, usual), g.one(&["$", "0", "3-0", "2", "7-7", "$", "0-1", "x", "-"])];
        g.maybe(&mut c, 2, &["MKSTREAM"]);
        entries_read(g, &mut c);
        c
    }),
    write("XGROUP SETID", |g| {
        let mut c = cmd!["XGROUP", "SETID", g.key(Kind::Stream), group(g, "g1"), g.one(&["$", "0", "3-0", "2", "x", "-"])];
        entries_read(g, &mut c);
        c
    }),
    write("XGROUP DESTROY", |g| cmd!["XGROUP", "DESTROY", g.key(Kind::Stream), group(g, "g1")]),
    write("XGROUP CREATECONSUMER", |g| cmd!["XGROUP", "CREATECONSUMER", g.key(Kind::Stream), group(g, "g1"), consumer(g)]),
    write("XGROUP DELCONSUMER", |g| cmd!["XGROUP", "DELCONSUMER", g.key(Kind::Stream), group(g, "g1"), consumer(g)]),
    write("XREADGROUP", |g| {
        let mut c = cmd!["XREADGROUP", "GROUP", group(g, "g1"), consumer(g)];
        if g.one_in(2) {
            c.extend(cmd!["COUNT", g.one(&["1", "2", "0", "100", "-1", "x"])]);
        }
        g.maybe(&mut c, 4, &["NOACK"]);
        if g.one_in(3) {
            c.extend(cmd!["BLOCK", g.one(&["1", "5", "10", "5", "10", "-1", "x"])]);
        }
        let keys: Command = (0..g.rng.between(1, 2)).map(|_| if g.one_in(12) { g.any_key() } else { g.key_of(Kind::Stream) }).collect();
        c.extend(cmd!["STREAMS"]);
        let count = keys.len();
        c.extend(keys);
        for _ in 0..count {
            c.push(g.one(&[">", ">", ">", "0", "1-1", "0", "$", "x"]));
        }
        c
    }),
    write("XACK", |g| {
        let mut c = cmd!["XACK", g.key(Kind::Stream), group(g, "g1")];
        ids(g, &mut c);
        c
    }),
    write("XCLAIM", |g| {
        let mut c = cmd!["XCLAIM", g.key(Kind::Stream), group(g, "g1"), consumer(g), g.one(&["0", "0", "0", "100000000", "-1", "x"])];
        ids(g, &mut c);
        if g.one_in(4) {
            c.extend(cmd!["IDLE", g.one(&["0", "100000", "-5", "x"])]);
        }
        if g.one_in(4) {
            c.extend(cmd!["TIME", g.one(&["1", "1000000000000", "-1", "x", "4102444800000"])]);
        }
        if g.one_in(4) {
            c.extend(cmd!["RETRYCOUNT", g.one(&["0", "5", "-1", "x"])]);
        }
        g.maybe(&mut c, 3, &["FORCE"]);
        g.maybe(&mut c, 3, &["JUSTID"]);
        if g.one_in(6) {
            c.extend(cmd!["LASTID", g.one(&["5-0", "99-0", "x"])]);
        }
        c
    }),
    write("XAUTOCLAIM", |g| {
        let idle = g.one(&["0", "0", "0", "100000000", "-1", "x"]);
        let mut c =
            cmd!["XAUTOCLAIM", g.key(Kind::Stream), group(g, "g1"), consumer(g), idle, g.one(&["0", "0-0", "1-1", "(1-1", "3", "x", "-"])];
        if g.one_in(2) {
            c.extend(cmd!["COUNT", g.one(&["1", "2", "100", "0", "-1", "x"])]);
        }
        g.maybe(&mut c, 3, &["JUSTID"]);
        c
    }),
    later("XACKDEL", "8.2.0", |g| cmd!["XACKDEL", g.key(Kind::Stream), group(g, "g1"), "IDS", "1", id(g)]),
    later("XDELEX", "8.2.0", |g| cmd!["XDELEX", g.key(Kind::Stream), "IDS", "1", id(g)]),
];

pub(super) fn id(g: &mut Gen) -> Vec<u8> {
    match g.rng.below(14) {
        0 => g.one(&["x", "", "1-x", "-1", "18446744073709551615-18446744073709551615", "99-99"]),
        _ => {
            let ms = g.rng.between(1, 7);
            format!("{ms}-{}", ms % 3).into()
        }
    }
}

fn ids(g: &mut Gen, c: &mut Command) {
    for _ in 0..g.rng.between(1, 3) {
        c.push(id(g));
    }
}

pub(super) fn group(g: &mut Gen, usual: &str) -> Vec<u8> {
    if g.one_in(4) { g.one(&["g1", "g2", "nogroup"]) } else { usual.into() }
}

fn consumer(g: &mut Gen) -> Vec<u8> {
    g.one(&["alice", "bob", "idle", "new", "c\r\n"])
}

fn entries_read(g: &mut Gen, c: &mut Command) {
    if g.one_in(4) {
        c.extend(cmd!["ENTRIESREAD", g.one(&["0", "2", "-1", "-2", "x"])]);
    }
}

fn trim(g: &mut Gen, c: &mut Command) {
    let max_len = !g.one_in(3);
    c.extend(cmd![if max_len { "MAXLEN" } else { "MINID" }]);
    let approx = g.rng.below(4);
    match approx {
        0 | 1 => c.extend(cmd!["~"]),
        2 => c.extend(cmd!["="]),
        _ => {}
    }
    c.push(if max_len { g.one(&["0", "1", "2", "3", "5", "100", "-1", "x"]) } else { g.one(&["2", "3-0", "5-2", "99", "x"]) });
    if approx < 2 && g.one_in(4) || g.one_in(20) {
        c.extend(cmd!["LIMIT", g.one(&["0", "1", "4", "100", "-1"])]);
    }
}

fn xadd(g: &mut Gen) -> Command {
    let mut c = cmd!["XADD", g.key(Kind::Stream)];
    g.maybe(&mut c, 4, &["NOMKSTREAM"]);
    if g.one_in(2) {
        trim(g, &mut c);
    }
    let id = match g.rng.below(10) {
        0 => g.one(&["0-0", "x", "1-1", "3", "-", "18446744073709551615-0"]),
        1 => format!("{}-*", g.rng.between(1, 60)).into(),
        2..=4 => format!("{}-{}", g.rng.between(5, 60), g.rng.between(0, 3)).into(),
        _ => "*".into(),
    };
    c.push(id);
    for _ in 0..g.rng.between(1, 3) {
        c.extend([g.field(), g.value()]);
    }
    c
}
