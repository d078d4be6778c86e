//! What an executed command did, in a form that can be applied to the mirror.
//!
//! The primary has answered, so the outcome is known: a refused write has no effect (I2), a conditional one loses its condition,
//! a random or server-chosen result is written down as Redis writes it down for its own replicas, and what can be repeated is
//! repeated and its reply compared. Each rule names the place in Redis it follows. Everything here is a function of the request,
//! the reply and the clock readings given; which keys are known to be equal is not known here.

mod expiry;
mod list;
mod set;
mod stream;
mod string;

use crate::command::{Command, Rule};
use crate::resp::encode::push_request;
use crate::resp::reply::{Reply, fingerprint};
use crate::resp::request::Request;

pub use stream::{ReadOptions, read_options, wants_length};

/// What the mirror should answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything but an error.
    Any,
    /// A reply of this fingerprint.
    Same {
        /// See [`fingerprint`].
        fingerprint: u64,
        /// Numbers count by value.
        numeric: bool,
    },
}

impl Expect {
    /// Whether `reply` is what was expected.
    #[must_use]
    pub fn accepts(self, reply: Reply<'_>) -> bool {
        if reply.is_error() {
            return false;
        }
        match self {
            Expect::Any => true,
            Expect::Same { fingerprint: wanted, numeric } => fingerprint([reply].into_iter(), numeric) == wanted,
        }
    }

    pub(crate) fn same(reply: Reply<'_>) -> Expect {
        Expect::Same { fingerprint: fingerprint([reply].into_iter(), false), numeric: false }
    }

    fn same_numbers(reply: Reply<'_>) -> Expect {
        Expect::Same { fingerprint: fingerprint([reply].into_iter(), true), numeric: true }
    }

    /// What a repeated script should answer.
    #[must_use]
    pub fn of_script(reply: Reply<'_>) -> Expect {
        Expect::same_numbers(reply)
    }

    fn integer(n: usize) -> Expect {
        Expect::same(Reply(format!(":{n}\r\n").as_bytes()))
    }
}

/// The effect of one executed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It changed nothing.
    Nothing,
    /// The same command again.
    Replay(Expect),
    /// Commands written to the output instead; the last one's reply is compared.
    Rewritten {
        /// How many commands were written.
        frames: u32,
        /// What the last of them should answer.
        expect: Expect,
        /// They replace or delete every written key as a whole, whatever the mirror held.
        total: bool,
    },
    /// What the keys hold now.
    Image,
    /// The same command, but only if its keys are known to be equal; it changes nothing that a client can see (PFCOUNT).
    Hint,
    /// The whole database is empty.
    FlushDb,
    /// No keys: the same command, reply not compared; `true` when it may be sent at most once (PUBLISH).
    Keyless {
        /// Never sent again after a lost connection.
        once: bool,
    },
}

/// What rules need to know besides request and reply.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The primary's wall clock now, in Unix milliseconds: ours plus its measured offset (H32).
    pub primary_unix_ms: i64,
    /// Added to a remaining time, so that the mirror never expires a key before the primary does (H2).
    pub margin_ms: i64,
    /// The primary creates a stream consumer even when it read or claimed nothing (7.2 and later, RN 7.2:400).
    pub eager_consumers: bool,
    /// The mirror does.
    pub eager_mirror: bool,
    /// Both sides forget a claimed entry that the stream has lost (7.0 and later), or neither does.
    pub claims_alike: bool,
}

/// One executed command.
#[derive(Debug, Clone, Copy)]
pub struct Executed<'a> {
    /// Its row.
    pub command: &'static Command,
    /// The request.
    pub request: Request<'a>,
    /// The primary's reply.
    pub reply: Reply<'a>,
    /// The stream's length behind it, where [`wants_length`] asked for it.
    pub length: Option<i64>,
    /// Clock readings.
    pub clock: Clock,
}

/// Derives the effect; rewritten commands are appended to `out`.
#[must_use]
pub fn derive(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let Executed { command, reply, .. } = *done;
    if reply.is_error() {
        // A script that failed half-way leaves what it wrote; one that was not found ran not at all.
        let ran = command.rule == Rule::Script && reply.error_word() != Some(b"NOSCRIPT");
        return if ran { Effect::Image } else { Effect::Nothing };
    }
    match command.rule {
        Rule::None => Effect::Nothing,
        Rule::Replay => Effect::Replay(Expect::same_numbers(reply)),
        Rule::ReplayUnlessZero => unless(reply.integer() == Some(0), Effect::Replay(Expect::same(reply))),
        Rule::ReplayUnlessNil => unless(reply.is_null(), Effect::Replay(Expect::same(reply))),
        Rule::Delete | Rule::Remove => Effect::Replay(Expect::Any),
        Rule::Image | Rule::Script | Rule::Move => Effect::Image,
        Rule::Set => string::set(done, out),
        Rule::SetEx => string::setex(done, out),
        Rule::SetNx => string::setnx(done, out),
        Rule::GetSet => rewritten(out, &[&[b"SET", done.request.arg(1), done.request.arg(2)]], Expect::Any, true),
        Rule::GetDel => rewritten(out, &[&[b"DEL", done.request.arg(1)]], Expect::Any, true),
        Rule::GetEx => string::getex(done, out),
        Rule::MSetNx => string::msetnx(done, out),
        Rule::IncrByFloat => string::incrbyfloat(done, out),
        Rule::BitField => string::bitfield(done),
        Rule::Expire => expiry::expire(done, out),
        Rule::Restore => expiry::restore(done, out),
        Rule::RenameNx => rename_nx(done, out),
        Rule::Copy => copy(done, out),
        Rule::Sort | Rule::GeoRadius => store(done),
        Rule::HIncrByFloat => hincrbyfloat(done, out),
        Rule::HSetNx => hsetnx(done, out),
        Rule::LInsert => unless(reply.integer().is_none_or(|n| n <= 0), Effect::Replay(Expect::same(reply))),
        Rule::BLPop => list::blpop(done, out),
        Rule::BLMove => list::blmove(done, out),
        Rule::LMPop => list::lmpop(done, out),
        Rule::SPop => set::spop(done, out),
        Rule::ZAdd => unless(reply.is_null(), Effect::Replay(Expect::same_numbers(reply))),
        Rule::BZPop => set::bzpop(done, out),
        Rule::ZMPop => set::zmpop(done, out),
        Rule::PfCount => unless(done.request.len() != 2, Effect::Hint),
        Rule::XAdd => stream::xadd(done, out),
        Rule::XTrim => stream::xtrim(done, out),
        Rule::XReadGroup => stream::xreadgroup(done, out),
        Rule::XClaim => stream::xclaim(done, out),
        Rule::XAutoClaim => stream::xautoclaim(done, out),
        Rule::FlushDb => Effect::FlushDb,
        Rule::FlushAll | Rule::SwapDb | Rule::Keyless => Effect::Keyless { once: false },
        Rule::Publish => Effect::Keyless { once: true },
    }
}

fn unless(nothing: bool, effect: Effect) -> Effect {
    if nothing { Effect::Nothing } else { effect }
}

/// Writes commands to `out` and says so.
fn rewritten(out: &mut Vec<u8>, commands: &[&[&[u8]]], expect: Expect, total: bool) -> Effect {
    commands.iter().for_each(|command| push_request(out, command));
    Effect::Rewritten { frames: commands.len() as u32, expect, total }
}

/// `RENAME`: the condition held (db.c renameGenericCommand).
fn rename_nx(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    rewritten(out, &[&[b"RENAME", done.request.arg(1), done.request.arg(2)]], Expect::Any, false)
}

/// `COPY ... REPLACE`: whatever the mirror holds there must go. Into another database: an image (db.c copyCommand).
fn copy(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    let request = done.request;
    if (3..request.len()).any(|at| !request.is(at, "REPLACE")) {
        return Effect::Image;
    }
    rewritten(out, &[&[b"COPY", request.arg(1), request.arg(2), b"REPLACE"]], Expect::same(done.reply), false)
}

/// SORT and GEORADIUS with STORE: an image of the destination. SORT reads keys that its patterns name and sorts by the server's
/// locale; GEORADIUS chose other members before 6.2.7 and 7.0.7 (RN 6.2, 7.0). Without STORE they are reads.
fn store(done: &Executed<'_>) -> Effect {
    let stores = done.command.keys(&done.request).any(|key| key.used.writes());
    unless(!stores, Effect::Image)
}

/// `HSET k f <reply>` (t_hash.c hincrbyfloatCommand).
fn hincrbyfloat(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    rewritten(out, &[&[b"HSET", done.request.arg(1), done.request.arg(2), done.reply.text()]], Expect::Any, false)
}

/// `HSET` when the field was new.
fn hsetnx(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() != Some(1) {
        return Effect::Nothing;
    }
    let request = done.request;
    rewritten(out, &[&[b"HSET", request.arg(1), request.arg(2), request.arg(3)]], Expect::Any, false)
}

#[cfg(test)]
mod tests;
