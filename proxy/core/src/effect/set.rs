//! Sets and sorted sets whose members the server chose.

use super::{Effect, Executed, Expect, rewritten};
use crate::resp::reply::Reply;

/// `SREM k <the members that came out>` (t_set.c spopCommand).
pub(super) fn spop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let key = done.request.arg(1);
    if done.reply.is_null() {
        return Effect::Nothing;
    }
    if done.reply.is_aggregate() {
        return remove(b"SREM", key, done.reply.elements(), out);
    }
    remove(b"SREM", key, std::iter::once(done.reply), out)
}

/// `ZREM k <member>` (t_zset.c blockingGenericZpopCommand).
pub(super) fn bzpop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let mut parts = done.reply.elements();
    let (Some(key), Some(member)) = (parts.next(), parts.next()) else { return Effect::Nothing };
    remove(b"ZREM", key.text(), std::iter::once(member), out)
}

/// `ZREM k <members>`: unlike ZMPOP every version knows it.
pub(super) fn zmpop(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let mut parts = done.reply.elements();
    let (Some(key), Some(popped)) = (parts.next(), parts.next()) else { return Effect::Nothing };
    remove(b"ZREM", key.text(), popped.elements().filter_map(|pair| pair.elements().next()), out)
}

fn remove<'a>(name: &'a [u8], key: &'a [u8], members: impl Iterator<Item = Reply<'a>>, out: &mut Vec<u8>) -> Effect {
    let mut command = vec![name, key];
    command.extend(members.map(Reply::text));
    if command.len() == 2 {
        return Effect::Nothing;
    }
    rewritten(out, &[&command], Expect::integer(command.len() - 2), false)
}
