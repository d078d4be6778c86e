//! What clients send: commands on keys that everybody writes, and commands on keys of their own that allow every reply to be
//! checked.

use crate::plan::Plan;
use twinlane_model::Rng;
use twinlane_model::invocations::{self, Command};
use twinlane_model::server::scripts;

fn words(text: &[&str]) -> Command {
    text.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// A command on one of few keys of all types, that everybody writes. Sources and destinations meet on purpose (H13).
pub fn contended(r: &mut Rng, large: bool, undeclared: bool) -> Command {
    let big = "v".repeat(if large && r.one_in(4) { 600 } else { 1 + r.index(6) });
    let number = r.below(1000).to_string();
    let (n, v) = (number.as_str(), big.as_str());
    let k = |r: &mut Rng, kind: &str| format!("{kind}:{}", r.index(2));
    let (s, t) = (k(r, "hs"), k(r, "hs"));
    let (set, list, hash, zset, num) = (k(r, "hset"), k(r, "hlist"), k(r, "hhash"), k(r, "hzset"), k(r, "hnum"));
    let member = r.index(6).to_string();
    let m = member.as_str();
    match r.below(if undeclared { 49 } else { 45 }) {
        0 | 1 => words(&["SET", &s, v]),
        45 | 46 => words(&["EVAL", scripts::UNDECLARED, "0", &s]),
        47 => words(&["EVAL", scripts::UNDECLARED, "1", &num, &t]),
        48 => words(&["EVAL", scripts::UNDECLARED, "0", &format!("undeclared:{}", r.index(3))]),
        2 => words(&["APPEND", &s, v]),
        3 => words(&["COPY", &s, &t, "REPLACE"]),
        4 => words(&["RENAME", &s, &t]),
        5 => words(&["SET", &s, v, "PX", "90000000"]),
        6 => words(&["GETSET", &s, n]),
        7 => words(&["SETRANGE", &s, "3", v]),
        8 => words(&["DEL", &s, &set]),
        9..=11 => words(&["SPOP", &set]),
        12..=14 => words(&["SADD", &set, m, n]),
        15 => words(&["SMOVE", &set, "hset:1", m]),
        16 => words(&["SUNIONSTORE", "hset:0", "hset:0", "hset:1"]),
        17 | 18 => words(&["RPUSH", &list, v, n]),
        19 => words(&["LPOP", &list]),
        20 => words(&["LMOVE", &list, "hlist:1", "LEFT", "RIGHT"]),
        21 => words(&["LREM", &list, "1", n]),
        22 | 23 => words(&["HSET", &hash, m, v]),
        24 => words(&["HINCRBY", &hash, "count", n]),
        25 => words(&["HDEL", &hash, m]),
        26 | 27 => words(&["ZADD", &zset, n, m]),
        28 => words(&["ZINCRBY", &zset, n, m]),
        29 => words(&["ZPOPMIN", &zset]),
        30 => words(&["ZUNIONSTORE", &zset, "2", "hzset:0", "hzset:1"]),
        31 => words(&["INCRBY", &num, n]),
        32 => words(&["INCRBYFLOAT", &num, "1.5"]),
        33 => words(&["EVAL", scripts::SET_RANDOM, "1", &s]),
        34 => words(&["EVAL", scripts::POP_TO_LIST, "2", &set, &list]),
        35 => words(&["EVAL", scripts::WRITE_THEN_FAIL, "1", &s, n]),
        36 => words(&["XADD", "hstream", "*", "f", n]),
        37 => words(&["XADD", "hstream", "MAXLEN", "~", "5", "*", "f", n]),
        38 => words(&["MSET", &s, v, &num, n]),
        39 => words(&["PEXPIRE", &list, "80000000"]),
        40 => words(&["BLPOP", &list, "0.05"]),
        41 => words(&["BRPOP", "hlist:1", "hlist:0", "hlist:2", "0.2"]),
        42 => words(&["BLMOVE", "hlist:2", &list, "LEFT", "RIGHT", "0.1"]),
        43 => words(&["BZPOPMIN", &zset, "0.1"]),
        _ => words(&["RPUSH", "hlist:2", n]),
    }
}

/// A command of the history's rows.
pub fn generated(r: &mut Rng, rows: &[&'static str]) -> Command {
    let row = rows[r.index(rows.len())];
    invocations::generate(row, r, 1).pop().unwrap_or_else(|| words(&["PING"]))
}

/// A read on the shared keys; its reply is only looked at for its shape.
pub fn read(r: &mut Rng) -> Command {
    match r.below(9) {
        0 => words(&["GET", "hs:0"]),
        1 => words(&["LRANGE", "hlist:0", "0", "-1"]),
        2 => words(&["SMEMBERS", "hset:0"]),
        3 => words(&["HGETALL", "hhash:0"]),
        4 => words(&["ZRANGE", "hzset:0", "0", "-1", "WITHSCORES"]),
        5 => words(&["SCAN", "0", "COUNT", "5"]),
        6 => words(&["DBSIZE"]),
        7 => words(&["MGET", "hs:0", "hs:1", "hnum:0"]),
        _ => words(&["XRANGE", "hstream", "-", "+"]),
    }
}

/// A command that speaks of whole databases.
pub fn whole(r: &mut Rng) -> Command {
    match r.below(5) {
        0 | 1 => words(&["FLUSHDB"]),
        2 => words(&["FLUSHALL"]),
        3 => words(&["SWAPDB", "0", "1"]),
        _ => words(&["SWAPDB", "1", "2"]),
    }
}

/// A command on keys of one client alone, whose reply depends on nothing else.
pub fn own(r: &mut Rng, prefix: &str, plan: &Plan) -> Command {
    let number = r.below(100).to_string();
    let n = number.as_str();
    let value = "w".repeat(if plan.large && r.one_in(4) { 500 } else { 1 + r.index(9) });
    let v = value.as_str();
    let k = |name: &str| format!("{prefix}{name}");
    match r.below(if plan.undeclared { 38 } else { 36 }) {
        36 | 37 => words(&["EVAL", scripts::UNDECLARED, "0", &k("s")]),
        0..=4 => words(&["INCR", &k("n")]),
        5 => words(&["GET", &k("n")]),
        6 | 7 => words(&["SET", &k("s"), v]),
        8 | 9 => words(&["GET", &k("s")]),
        10 => words(&["APPEND", &k("s"), v]),
        11 => words(&["GETDEL", &k("s")]),
        12 => words(&["SETNX", &k("s"), v]),
        13 => words(&["RENAME", &k("s"), &k("u")]),
        14 => words(&["COPY", &k("s"), &k("u"), "REPLACE"]),
        15 => words(&["GET", &k("u")]),
        16 | 17 => words(&["RPUSH", &k("l"), v, n]),
        18 => words(&["LPOP", &k("l")]),
        19 => words(&["LRANGE", &k("l"), "0", "-1"]),
        20 => words(&["HSET", &k("h"), n, v]),
        21 => words(&["HGET", &k("h"), n]),
        22 => words(&["HINCRBYFLOAT", &k("hf"), "x", "0.5"]),
        23 => words(&["SADD", &k("t"), n]),
        24 => words(&["SISMEMBER", &k("t"), n]),
        25 => words(&["ZINCRBY", &k("z"), "1.5", n]),
        26 => words(&["ZRANGE", &k("z"), "0", "-1", "WITHSCORES"]),
        27 => words(&["ZSCORE", &k("z"), n]),
        28 => words(&["EVAL", scripts::INCREMENT, "1", &k("n"), "2"]),
        29 => words(&["MSET", &k("s"), v, &k("u"), n]),
        30 => words(&["DEL", &k("l"), &k("u")]),
        // Nobody else writes these keys: what is not there at once never comes.
        31 => words(&["BLPOP", &k("l"), &k("l2"), "0.02"]),
        32 => words(&["BRPOP", &k("l"), "0.01"]),
        33 => words(&["BLMOVE", &k("l"), &k("l2"), "LEFT", "RIGHT", "0.03"]),
        34 => words(&["BZPOPMIN", &k("z"), "0.01"]),
        _ => words(&["TYPE", &k("l")]),
    }
}

/// Commands that fill the shared keys before the proxy starts.
pub fn fill(r: &mut Rng) -> Vec<Command> {
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(contended(r, false, false));
    }
    for n in 0..12 {
        all.push(words(&["SET", &format!("quiet:{n}"), "untouched"]));
    }
    for (kind, command) in [("hhash", "HSET"), ("hset", "SADD"), ("hlist", "RPUSH")] {
        let key = format!("{kind}:1");
        all.push(if command == "HSET" { words(&[command, &key, "before", "1"]) } else { words(&[command, &key, "before"]) });
    }
    all.extend(invocations::prepare("SET", r));
    all
}
