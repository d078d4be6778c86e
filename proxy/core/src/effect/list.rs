//! Lists.

use super::{Effect, Executed, Expect, rewritten};
use crate::resp::encode::{number, parse_integer};
use crate::resp::reply::fingerprint;

/// `LPOP|RPOP key`: the reply names the key (t_list.c blockingPopGenericCommand).
pub(super) fn blpop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let mut parts = done.reply.elements();
    let (Some(key), Some(popped)) = (parts.next(), parts.next()) else { return Effect::Nothing };
    let command: &[u8] = if done.command.name == "BLPOP" { b"LPOP" } else { b"RPOP" };
    rewritten(out, &[&[command, key.text()]], Expect::same(popped), false)
}

/// The same move, which never waits (t_list.c blmoveGenericCommand).
pub(super) fn blmove(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    if done.reply.is_null() {
        return Effect::Nothing;
    }
    let (from, to) = (request.arg(1), request.arg(2));
    if done.command.name == "BRPOPLPUSH" {
        return rewritten(out, &[&[b"RPOPLPUSH", from, to]], Expect::same(done.reply), false);
    }
    rewritten(out, &[&[b"LMOVE", from, to, request.arg(3), request.arg(4)]], Expect::same(done.reply), false)
}

/// `LPOP|RPOP key n`, n as many as came (t_list.c mpopGenericCommand). BLMPOP has its timeout in front.
pub(super) fn lmpop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let mut parts = done.reply.elements();
    let (Some(key), Some(popped)) = (parts.next(), parts.next()) else { return Effect::Nothing };
    let count_at = if done.command.name == "BLMPOP" { 2 } else { 1 };
    let keys = parse_integer(done.request.arg(count_at)).unwrap_or(0).max(0) as usize;
    let command: &[u8] = if done.request.is(count_at + 1 + keys, "LEFT") { b"LPOP" } else { b"RPOP" };
    let expect = Expect::Same { fingerprint: fingerprint(popped.elements(), false), numeric: false };
    rewritten(out, &[&[command, key.text(), &number(popped.len() as i64)]], expect, false)
}
