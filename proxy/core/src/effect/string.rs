//! Strings and bitmaps.

use super::expiry::{Left, Unit, pexpire};
use super::{Effect, Executed, Expect, rewritten, unless};
use crate::resp::encode::number;

/// What a SET asks for besides key and value.
#[derive(Default)]
struct SetOptions {
    nx: bool,
    xx: bool,
    get: bool,
    keep_ttl: bool,
    left: Option<Left>,
}

fn set_options(done: &Executed<'_>) -> Option<SetOptions> {
    let request = done.request;
    let mut options = SetOptions::default();
    let mut at = 3;
    while at < request.len() {
        if request.is(at, "NX") {
            options.nx = true;
        } else if request.is(at, "XX") {
            options.xx = true;
        } else if request.is(at, "GET") {
            options.get = true;
        } else if request.is(at, "KEEPTTL") {
            options.keep_ttl = true;
        } else {
            let unit = Unit::option(request.arg(at))?;
            at += 1;
            options.left = Some(unit.left(request.arg(at), done));
        }
        at += 1;
    }
    Some(options)
}

/// `SET k v [PX left|KEEPTTL]`, its condition and GET stripped (t_string.c setGenericCommand). With GET the reply is the old
/// value: NX took effect when there was none, XX when there was one.
pub(super) fn set(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.request.len() == 3 {
        return Effect::Replay(Expect::Any);
    }
    let Some(options) = set_options(done) else { return Effect::Image };
    let null = done.reply.is_null();
    let refused = match (options.get, options.nx, options.xx) {
        (false, true, _) | (false, _, true) | (true, _, true) => null,
        (true, true, _) => !null,
        _ => false,
    };
    if refused {
        return Effect::Nothing;
    }
    set_with(options.left, options.keep_ttl, done.request.arg(2), done, out)
}

fn set_with(left: Option<Left>, keep_ttl: bool, value: &[u8], done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let key = done.request.arg(1);
    match left {
        None if keep_ttl => rewritten(out, &[&[b"SET", key, value, b"KEEPTTL"]], Expect::Any, false),
        None => rewritten(out, &[&[b"SET", key, value]], Expect::Any, true),
        Some(Left::For(ms)) => rewritten(out, &[&[b"SET", key, value, b"PX", &number(ms)]], Expect::Any, true),
        Some(Left::Passed) => rewritten(out, &[&[b"DEL", key]], Expect::Any, true),
        Some(Left::Unknown) => Effect::Image,
    }
}

/// `SET k v PX left`.
pub(super) fn setex(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let unit = if done.command.name == "SETEX" { Unit::SECONDS } else { Unit::MILLIS };
    set_with(Some(unit.left(done.request.arg(2), done)), false, done.request.arg(3), done, out)
}

/// `SET k v`, not SETNX: a stale value on the mirror must not win.
pub(super) fn setnx(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    rewritten(out, &[&[b"SET", done.request.arg(1), done.request.arg(2)]], Expect::Any, true)
}

/// `MSET` of the same pairs.
pub(super) fn msetnx(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    let mut command: Vec<&[u8]> = vec![b"MSET"];
    command.extend(done.request.args_from(1));
    rewritten(out, &[&command], Expect::Any, true)
}

/// `PEXPIRE`, `PERSIST` or `DEL` (t_string.c getexCommand); without options it is a read.
pub(super) fn getex(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    if done.reply.is_null() || request.len() == 2 {
        return Effect::Nothing;
    }
    if request.len() == 3 && request.is(2, "PERSIST") {
        return rewritten(out, &[&[b"PERSIST", request.arg(1)]], Expect::Any, false);
    }
    match Unit::option(request.arg(2)) {
        Some(unit) if request.len() == 4 => pexpire(unit.left(request.arg(3), done), done, out),
        _ => Effect::Image,
    }
}

/// `SET k <reply> KEEPTTL` (t_string.c incrbyfloatCommand): long doubles have other digits on other machines.
pub(super) fn incrbyfloat(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    rewritten(out, &[&[b"SET", done.request.arg(1), done.reply.text(), b"KEEPTTL"]], Expect::Any, false)
}

/// A BITFIELD that only GETs is a read (bitops.c bitfieldGeneric).
pub(super) fn bitfield(done: &Executed<'_>) -> Effect {
    let request = done.request;
    let changes = (2..request.len()).any(|at| request.is(at, "SET") || request.is(at, "INCRBY"));
    unless(!changes, Effect::Replay(Expect::same(done.reply)))
}
