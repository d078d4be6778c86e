//! Lists.

use super::{Effect, Executed, Expect, rewritten};
use crate::resp::encode::{number, parse_integer};
use crate::resp::reply::fingerprint;

/// `LPOP|RPOP key n`, n as many as came (t_list.c mpopGenericCommand).
pub(super) fn lmpop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let mut parts = done.reply.elements();
    let (Some(key), Some(popped)) = (parts.next(), parts.next()) else { return Effect::Nothing };
    let keys = parse_integer(done.request.arg(1)).unwrap_or(0).max(0) as usize;
    let command: &[u8] = if done.request.is(2 + keys, "LEFT") { b"LPOP" } else { b"RPOP" };
    let expect = Expect::Same { fingerprint: fingerprint(popped.elements(), false), numeric: false };
    rewritten(out, &[&[command, key.text(), &number(popped.len() as i64)]], expect, false)
}
