//! Scripts and functions: what only the server knows the effect of.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};
use crate::server::{crc64, scripts as known};

pub(super) const ROWS: &[Invocation] = &[
    write("EVAL", eval),
    write("EVALSHA", |g| {
        let sha = sha(g);
        let sha = if g.one_in(10) { "ffffffffffffffffffffffffffffffffffffffff" } else { sha };
        cmd!["EVALSHA", sha, "1", g.key(Kind::Number), g.int()]
    }),
    write("FCALL", |g| {
        let function = g.one(&["store", "store", "count", "draw", "fail", "nothing"]);
        let key = if function == b"draw" {
            g.key(Kind::Set)
        } else if function == b"count" {
            g.key(Kind::Number)
        } else {
            g.target()
        };
        cmd!["FCALL", function, g.one(&["1", "1", "1", "1", "1", "5", "-1", "x"]), key, g.value()]
    }),
    write("FUNCTION LOAD", |g| {
        let mut c = cmd!["FUNCTION", "LOAD"];
        g.maybe(&mut c, 2, &["REPLACE"]);
        let code = match g.rng.below(6) {
            0 => "#!lua name=other\nredis.register_function('store', function() return 1 end)".to_string(),
            1 => "#!lua name=broken\nthis is not lua".to_string(),
            2 => "no shebang".to_string(),
            _ => {
                let number = g.rng.below(6);
                library(&format!("lib{number}"), &format!("_{number}"))
            }
        };
        c.extend(cmd![code]);
        c
    }),
    write("FUNCTION DELETE", |g| cmd!["FUNCTION", "DELETE", g.one(&["base", "base", "base", "other", "nothing"])]),
    write("FUNCTION FLUSH", |g| {
        let mut c = cmd!["FUNCTION", "FLUSH"];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["ASYNC", "SYNC", "NOW"])]);
        }
        c
    }),
    write("FUNCTION RESTORE", |g| {
        let name = g.one(&["base", "lib1", "lib2"]);
        let code = library(&String::from_utf8_lossy(&name), &format!("_{}", g.rng.below(4)));
        let mut data = function_payload(&code);
        if g.one_in(10) {
            data[3] ^= 1;
        }
        let mut c = cmd!["FUNCTION", "RESTORE", data];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["FLUSH", "APPEND", "REPLACE", "MERGE"])]);
        }
        c
    }),
    write("SCRIPT FLUSH", |g| {
        let mut c = cmd!["SCRIPT", "FLUSH"];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["ASYNC", "SYNC", "NOW"])]);
        }
        c
    }),
];

/// SHA-1 of the scripts that EVALSHA calls.
const SHAS: &[(&str, &str)] =
    &[("8cd00688c05c46bde4a2e60658ef20a2e5c0b248", known::INCREMENT), ("d3c21d0c2b9ca22f82737626a27bcaf5d288f99f", known::READ)];

/// Loads what the row calls.
pub(super) fn prepare(row: &str) -> Vec<Command> {
    match row {
        "EVALSHA" | "EVALSHA_RO" | "SCRIPT FLUSH" | "SCRIPT EXISTS" => {
            SHAS.iter().map(|(_, script)| cmd!["SCRIPT", "LOAD", *script]).collect()
        }
        "FCALL" | "FCALL_RO" => vec![cmd!["FUNCTION", "FLUSH"], cmd!["FUNCTION", "LOAD", library("base", "")]],
        row if row.starts_with("FUNCTION") => vec![
            cmd!["FUNCTION", "FLUSH"],
            cmd!["FUNCTION", "LOAD", library("base", "")],
            cmd!["FUNCTION", "LOAD", library("other", "_other")],
        ],
        _ => Vec::new(),
    }
}

/// A library with a writer, a counter, a random one and one that fails after it wrote; names end in `suffix`.
pub fn library(name: &str, suffix: &str) -> String {
    format!(
        "#!lua name={name}\n\
         redis.register_function('store{suffix}', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n\
         redis.register_function('count{suffix}', function(keys, args) return redis.call('INCR', keys[1]) end)\n\
         redis.register_function('draw{suffix}', function(keys, args) return redis.call('SPOP', keys[1]) end)\n\
         redis.register_function('fail{suffix}', function(keys, args) redis.call('SET', keys[1], args[1]) return redis.call('LPUSH', keys[1], 'x') end)\n\
         redis.register_function{{function_name='peek{suffix}', callback=function(keys, args) return redis.call('TYPE', keys[1]) end, flags={{'no-writes'}}}}\n"
    )
}

/// As FUNCTION DUMP of a 7.0 server: opcode 245, the code, the footer.
fn function_payload(code: &str) -> Vec<u8> {
    let mut b = vec![245, 0x80];
    b.extend_from_slice(&(code.len() as u32).to_be_bytes());
    b.extend_from_slice(code.as_bytes());
    b.extend_from_slice(&10u16.to_le_bytes());
    let crc = crc64(&b);
    b.extend_from_slice(&crc.to_le_bytes());
    b
}

/// The model's repertoire and a few scripts that only a real server runs; undeclared keys are not among them.
fn eval(g: &mut Gen) -> Command {
    match g.rng.below(12) {
        0 => cmd!["EVAL", known::SET_TIME, "1", g.target()],
        1 => cmd!["EVAL", known::SET_RANDOM, "1", g.target()],
        2 => cmd!["EVAL", known::POP_TO_LIST, "2", g.key(Kind::Set), g.key(Kind::List)],
        3 | 4 => cmd!["EVAL", known::INCREMENT, "1", g.key(Kind::Number), g.int()],
        5 => cmd!["EVAL", known::UNLOCK, "1", g.key(Kind::Text), g.one(&["abc", "fading", "x"])],
        6 => cmd!["EVAL", known::WRITE_THEN_FAIL, "1", g.target(), g.value()],
        7 => cmd!["EVAL", known::READ, "1", g.key(Kind::Text)],
        8 => cmd![
            "EVAL",
            "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i] or i) end return #KEYS",
            "2",
            g.target(),
            g.target(),
            g.value()
        ],
        9 => cmd!["EVAL", "redis.call('EXPIRE', KEYS[1], ARGV[1]) return redis.call('TTL', KEYS[1]) > 0", "1", g.any_key(), g.seconds()],
        10 => {
            cmd!["EVAL", "return {KEYS, ARGV, 1, 'x', false, {ok='FINE'}}", g.one(&["1", "0", "2", "-1", "x", "9"]), g.target(), g.value()]
        }
        _ => cmd!["EVAL", "redis.call('DEL', KEYS[1]) error('on purpose')", "1", g.target()],
    }
}

/// The SHA-1 of a script that [`prepare`] loads.
pub(super) fn sha(g: &mut Gen) -> &'static str {
    SHAS[g.rng.index(SHAS.len())].0
}
