//! Tables of effects: request, the primary's reply, what goes to the mirror.

use super::*;
use crate::command::Table;
use crate::resp::request::{Resume, Spans, canonical, parse};

fn words(mut frames: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    while !frames.is_empty() {
        let mut spans = Spans::default();
        let crate::resp::request::Parsed::Complete { len, .. } = parse(frames, &mut spans, &mut Resume::default(), true) else {
            panic!("not a request: {}", frames.escape_ascii())
        };
        let args: Vec<String> = (0..spans.len()).map(|at| String::from_utf8_lossy(spans.get(frames, at)).into_owned()).collect();
        out.push(args.join(" "));
        frames = &frames[len..];
    }
    out
}

fn effect_with(line: &str, reply: &str, length: Option<i64>, eager: bool) -> String {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let (mut frame, mut spans) = (Vec::new(), Spans::default());
    let request = canonical(&args, &mut frame, &mut spans);
    let command = Table::get().find(&request).expect(line);
    let reply = reply.replace(' ', "\r\n");
    let mut out = Vec::new();
    let clock = Clock { primary_unix_ms: 1_000_000, margin_ms: 500, eager_consumers: eager, eager_mirror: eager, claims_alike: true };
    let done = Executed { command, request, reply: Reply(reply.as_bytes()), length, clock };
    match derive(&done, &mut out) {
        Effect::Nothing => "nothing".into(),
        Effect::Replay(Expect::Any) => "replay".into(),
        Effect::Replay(_) => "replay and compare".into(),
        Effect::Rewritten { total, frames, .. } => {
            let words = words(&out);
            assert_eq!(words.len(), frames as usize, "{line}");
            format!("{}{}", if total { "total: " } else { "" }, words.join("; "))
        }
        Effect::Image => "image".into(),
        Effect::Hint => "hint".into(),
        Effect::FlushDb => "flushdb".into(),
        Effect::Keyless { once } => format!("keyless{}", if once { " once" } else { "" }),
    }
}

fn check(line: &str, reply: &str, expect: &str) {
    assert_eq!(effect_with(line, reply, None, false), expect, "{line} -> {reply}");
}

#[test]
fn a_refused_write_has_no_effect() {
    for line in ["SET k v", "INCR k", "DEL k", "XADD s * f v", "SPOP s", "FLUSHDB", "RENAME a b", "LMPOP 1 l LEFT", "PUBLISH c m"] {
        check(line, "-ERR no ", "nothing");
    }
    check("EVAL s 1 k", "-ERR half-way ", "image");
    check("EVALSHA s 1 k", "-NOSCRIPT no ", "nothing");
}

#[test]
fn strings() {
    check("SET k v", "+OK ", "replay");
    check("SET k v NX", "_ ", "nothing");
    check("SET k v NX", "+OK ", "total: SET k v");
    check("SET k v XX", "$-1 ", "nothing");
    check("SET k v nx get", "_ ", "total: SET k v");
    check("SET k v NX GET", "$1 a ", "nothing");
    check("SET k v XX GET", "$1 a ", "total: SET k v");
    check("SET k v XX GET", "_ ", "nothing");
    check("SET k v GET", "_ ", "total: SET k v");
    check("SET k v KEEPTTL", "+OK ", "SET k v KEEPTTL");
    check("SET k v EX 10", "+OK ", "total: SET k v PX 10500");
    check("SET k v PX 10", "+OK ", "total: SET k v PX 510");
    check("SET k v EXAT 1010", "+OK ", "total: SET k v PX 10500");
    check("SET k v PXAT 999999", "+OK ", "total: DEL k");
    check("SET k v IFEQ x", "+OK ", "image");
    check("SETEX k 1 v", "+OK ", "total: SET k v PX 1500");
    check("PSETEX k 1 v", "+OK ", "total: SET k v PX 501");
    check("SETNX k v", ":1 ", "total: SET k v");
    check("SETNX k v", ":0 ", "nothing");
    check("GETSET k v", "_ ", "total: SET k v");
    check("GETDEL k", "_ ", "total: DEL k");
    check("GETEX k", "$1 a ", "nothing");
    check("GETEX k EX 5", "_ ", "nothing");
    check("GETEX k EX 5", "$1 a ", "PEXPIRE k 5500");
    check("GETEX k PERSIST", "$1 a ", "PERSIST k");
    check("GETEX k PXAT 1", "$1 a ", "total: DEL k");
    check("MSETNX a 1 b 2", ":1 ", "total: MSET a 1 b 2");
    check("MSETNX a 1 b 2", ":0 ", "nothing");
    check("INCRBYFLOAT k 0.1", "$3 0.1 ", "SET k 0.1 KEEPTTL");
    check("INCR k", ":1 ", "replay and compare");
    check("BITFIELD k GET u8 0", "*1 :0 ", "nothing");
    check("BITFIELD k SET u8 0 1", "*1 :0 ", "replay and compare");
}

#[test]
fn keys() {
    check("DEL a b", ":0 ", "replay");
    check("EXPIRE k 10", ":1 ", "PEXPIRE k 10500");
    check("EXPIRE k 10 NX", ":1 ", "PEXPIRE k 10500");
    check("EXPIRE k 10", ":0 ", "nothing");
    check("EXPIRE k -1", ":1 ", "total: DEL k");
    check("EXPIREAT k 1", ":1 ", "total: DEL k");
    check("PEXPIREAT k 1000100", ":1 ", "PEXPIRE k 600");
    check("PEXPIRE k 9223372036854775807", ":1 ", "image");
    check("PERSIST k", ":0 ", "nothing");
    check("PERSIST k", ":1 ", "replay and compare");
    check("RENAMENX a b", ":0 ", "nothing");
    check("RENAMENX a b", ":1 ", "RENAME a b");
    check("COPY a b", ":1 ", "COPY a b REPLACE");
    check("COPY a b DB 1", ":1 ", "image");
    check("RESTORE k 0 x", "+OK ", "total: RESTORE k 0 x REPLACE");
    check("RESTORE k 100 x REPLACE", "+OK ", "total: RESTORE k 600 x REPLACE");
    check("RESTORE k 1000100 x ABSTTL", "+OK ", "total: RESTORE k 600 x REPLACE");
    check("SORT k", "*0 ", "nothing");
    check("SORT k STORE d", ":0 ", "image");
    check("GEORADIUS k 1 2 3 m", "*0 ", "nothing");
    check("FLUSHDB", "+OK ", "flushdb");
}

#[test]
fn collections() {
    check("SPOP s", "$1 a ", "SREM s a");
    check("SPOP s", "_ ", "nothing");
    check("SPOP s 2", "~2 $1 a $1 b ", "SREM s a b");
    check("SPOP s 2", "~0 ", "nothing");
    check("LMPOP 2 a b RIGHT COUNT 5", "*2 $1 b *2 $1 x $1 y ", "RPOP b 2");
    check("LMPOP 1 a LEFT", "_ ", "nothing");
    check("ZMPOP 1 z MIN", "*2 $1 z *1 *2 $1 m ,1 ", "ZREM z m");
    check("ZADD z INCR 1 m", "_ ", "nothing");
    check("ZADD z 1 m", ":1 ", "replay and compare");
    check("HSETNX h f v", ":0 ", "nothing");
    check("HSETNX h f v", ":1 ", "HSET h f v");
    check("HINCRBYFLOAT h f 1", "$3 1.5 ", "HSET h f 1.5");
    check("LINSERT l BEFORE p v", ":-1 ", "nothing");
    check("LPOP l", "_ ", "nothing");
    check("PFCOUNT h", ":1 ", "hint");
    check("PFCOUNT h g", ":1 ", "nothing");
}

#[test]
fn streams() {
    check("XADD s * f v", "$3 5-1 ", "XADD s 5-1 f v");
    check("XADD s NOMKSTREAM * f v", "_ ", "nothing");
    check("XADD s NOMKSTREAM MAXLEN = 3 * f v", "$3 5-1 ", "XADD s MAXLEN = 3 5-1 f v");
    check("XADD s MAXLEN 3 5-* f v", "$3 5-1 ", "XADD s MAXLEN 3 5-1 f v");
    check("XADD s MAXLEN ~ 3 * f v", "$3 5-1 ", "image");
    assert_eq!(effect_with("XADD s MAXLEN ~ 3 LIMIT 10 * f v", "$3 5-1 ", Some(7), false), "XADD s MAXLEN = 7 5-1 f v");
    assert_eq!(effect_with("XTRIM s MINID ~ 3", ":2 ", Some(7), false), "XTRIM s MAXLEN = 7");
    check("XTRIM s MAXLEN 3", ":2 ", "replay and compare");
    check("XTRIM s MAXLEN 3", ":0 ", "nothing");
    check("XCLAIM s g c 10 1-1 2-1 JUSTID", "*1 $3 1-1 ", "XCLAIM s g c 9223372036854775807 2-1 JUSTID; XCLAIM s g c 0 1-1 JUSTID");
    check("XCLAIM s g c 10 1 RETRYCOUNT 3", "*1 *2 $3 1-0 *2 $1 f $1 v ", "XCLAIM s g c 0 1-0 RETRYCOUNT 3");
    check("XAUTOCLAIM s g c 10 0", "*3 $3 0-0 *0 *0 ", "nothing");
    assert_eq!(effect_with("XAUTOCLAIM s g c 10 0", "*3 $3 0-0 *0 *0 ", None, true), "XGROUP CREATECONSUMER s g c");
    check("XAUTOCLAIM s g c 10 0 JUSTID", "*3 $3 0-0 *1 $3 1-1 *1 $3 2-1 ", "XACK s g 2-1; XCLAIM s g c 0 1-1 JUSTID");
    check("XREADGROUP GROUP g c STREAMS s >", "_ ", "nothing");
}

#[test]
fn expected_replies_are_compared_by_what_they_say() {
    let same = Expect::same(Reply(b":3\r\n"));
    assert!(same.accepts(Reply(b":3\r\n")));
    assert!(!same.accepts(Reply(b":4\r\n")));
    assert!(!Expect::Any.accepts(Reply(b"-OOM no\r\n")));
    assert!(Expect::same_numbers(Reply(b",0.10000000000000001\r\n")).accepts(Reply(b"$3\r\n0.1\r\n")));
}
