//! Times to live. The mirror gets the time that remained when the primary's reply came, plus a margin, so that its clock never
//! ends a key before the primary's does (H2); absolute times are first turned into remaining ones on the primary's clock (H32).

use super::{Effect, Executed, Expect, rewritten};
use crate::resp::encode::{number, parse_integer};

/// Remaining milliseconds above which the margin could overflow the server's arithmetic: such a key is sent as an image.
const REMAINING_MAX: i64 = i64::MAX / 4;

/// What is left of a time to live.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Milliseconds to give the mirror.
    For(i64),
    /// It has passed: the key is gone.
    Passed,
    /// Not a time we can compute with.
    Unknown,
}

/// How a command states a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    scale: i64,
    absolute: bool,
}

impl Unit {
    pub(super) const SECONDS: Unit = Unit { scale: 1000, absolute: false };
    pub(super) const MILLIS: Unit = Unit { scale: 1, absolute: false };
    const AT_SECONDS: Unit = Unit { scale: 1000, absolute: true };
    const AT_MILLIS: Unit = Unit { scale: 1, absolute: true };

    /// The unit of a SET or GETEX option.
    pub(super) fn option(word: &[u8]) -> Option<Unit> {
        [("EX", Unit::SECONDS), ("PX", Unit::MILLIS), ("EXAT", Unit::AT_SECONDS), ("PXAT", Unit::AT_MILLIS)]
            .into_iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, unit)| unit)
    }

    /// What the text means for the mirror.
    pub(super) fn left(self, text: &[u8], done: &Executed<'_>) -> Left {
        let Some(amount) = parse_integer(text).and_then(|amount| amount.checked_mul(self.scale)) else { return Left::Unknown };
        let remaining = if self.absolute { amount.saturating_sub(done.clock.primary_unix_ms) } else { amount };
        match remaining {
            ..=0 => Left::Passed,
            REMAINING_MAX.. => Left::Unknown,
            _ => Left::For(remaining + done.clock.margin_ms),
        }
    }
}

/// `PEXPIRE` without its condition, or `DEL` when the time had passed (expire.c expireGenericCommand).
pub(super) fn expire(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    let unit = match done.command.name {
        "EXPIRE" => Unit::SECONDS,
        "PEXPIRE" => Unit::MILLIS,
        "EXPIREAT" => Unit::AT_SECONDS,
        _ => Unit::AT_MILLIS,
    };
    pexpire(unit.left(done.request.arg(2), done), done, out)
}

/// `PEXPIRE k <left>`, or the deletion.
pub(super) fn pexpire(left: Left, done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let key = done.request.arg(1);
    match left {
        Left::For(ms) => rewritten(out, &[&[b"PEXPIRE", key, &number(ms)]], Expect::same(crate::resp::reply::Reply(b":1\r\n")), false),
        Left::Passed => rewritten(out, &[&[b"DEL", key]], Expect::Any, true),
        Left::Unknown => Effect::Image,
    }
}

/// `RESTORE ... REPLACE` with the remaining time (cluster.c restoreCommand).
pub(super) fn restore(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    let has = |word| (4..request.len()).any(|at| request.is(at, word));
    let unit = if has("ABSTTL") { Unit::AT_MILLIS } else { Unit::MILLIS };
    let left = if request.arg(2) == b"0" { Left::For(0) } else { unit.left(request.arg(2), done) };
    match left {
        Left::For(ms) => {
            let command: [&[u8]; 5] = [b"RESTORE", request.arg(1), &number(ms), request.arg(3), b"REPLACE"];
            rewritten(out, &[&command], Expect::Any, true)
        }
        Left::Passed => rewritten(out, &[&[b"DEL", request.arg(1)]], Expect::Any, true),
        Left::Unknown => Effect::Image,
    }
}
