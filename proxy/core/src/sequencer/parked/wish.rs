//! What a blocking command wishes for, and the commands that ask for it without waiting.
//!
//! Nothing that may wait ever stands alone on a lane. What is understood here is asked for by the command's twin (BLPOP by LPOP,
//! several keys by LMPOP); what is not (a timeout that is no number, a version without LMPOP) goes as it is, inside MULTI, where
//! no server ever waits: its error, or what it found, is then the server's own.

use crate::command::Command;
use crate::effect::read_options;
use crate::resp::encode::{number, parse_integer, push_bulk, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::sync::Arc;

/// A name that several tables share.
pub(in super::super) type Name = Arc<[u8]>;

/// What is asked for again and again.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// BLPOP, BRPOP.
    Pop { left: bool },
    /// BLMOVE, BRPOPLPUSH: its words, the timeout left out.
    Move { words: Vec<Name> },
    /// BLMPOP: what follows the keys.
    ListPops { rest: Vec<Name> },
    /// BZPOPMIN, BZPOPMAX.
    ScorePop { min: bool },
    /// BZMPOP: what follows the keys.
    ScorePops { rest: Vec<Name> },
    /// XREAD: words before STREAMS, and the last id seen of each key; None until the server has told what `$` is.
    Read { options: Vec<Name>, ids: Vec<Option<Name>> },
    /// XREADGROUP: words before STREAMS.
    GroupRead { group: Name, options: Vec<Name> },
    /// Not understood: the server's answer in a transaction is the only one.
    Odd,
}

/// A blocking command, understood.
#[derive(Debug)]
pub(super) struct Wish {
    pub op: Op,
    /// The keys waited for, each once.
    pub keys: Vec<Name>,
    /// None: for ever.
    pub timeout_us: Option<u64>,
}

/// How an answer becomes the answer of the blocking command.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// It is.
    Whole,
    /// An element of this key (LPOP).
    Element(Name),
    /// `[key, [element]]` (LMPOP).
    Elements,
    /// `[member, score]` of this key (ZPOPMIN).
    Score(Name),
    /// `[key, [[member, score]]]` (ZMPOP).
    Scores,
}

/// A request that never waits.
#[derive(Debug)]
pub(super) struct Asking {
    pub frame: Vec<u8>,
    pub form: Form,
    /// The frame is `MULTI command EXEC`.
    pub block: bool,
}

/// Whether the request may wait. The words of a stream read decide; where they are not understood, it counts as one that does.
pub(in super::super) fn may_wait(command: &Command, request: &Request<'_>) -> bool {
    if !matches!(command.name, "XREAD" | "XREADGROUP") {
        return command.class == crate::command::Class::Blocking;
    }
    let named = (1..request.len()).any(|at| request.is(at, "BLOCK"));
    named && read_options(request).is_none_or(|options| options.block_at.is_some())
}

/// Microseconds of a timeout in seconds, a fraction rounded up to milliseconds; `Some(None)` is for ever (timeout.c
/// getTimeoutFromObjectOrReply; whole seconds before 6.0).
fn seconds(text: &[u8], major: u32) -> Option<Option<u64>> {
    if major < 6 {
        let seconds = u64::try_from(parse_integer(text)?).ok()?;
        return Some((seconds > 0).then(|| seconds.saturating_mul(1_000_000)));
    }
    let seconds: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let ms = (seconds * 1000.0).ceil();
    if !(0.0..9.0e15).contains(&ms) {
        return None;
    }
    Some((ms > 0.0).then_some(ms as u64 * 1000))
}

fn names<'a>(words: impl Iterator<Item = &'a [u8]>) -> Vec<Name> {
    words.map(Name::from).collect()
}

fn distinct(keys: Vec<Name>) -> Vec<Name> {
    let mut seen = std::collections::BTreeSet::new();
    keys.into_iter().filter(|key| seen.insert(key.clone())).collect()
}

impl Wish {
    /// Reads a request for which [`may_wait`] holds.
    pub fn read(command: &Command, request: &Request<'_>, major: u32) -> Wish {
        let known = match command.name {
            "BLPOP" | "BRPOP" | "BZPOPMIN" | "BZPOPMAX" => Wish::pop(command, request, major),
            "BLMOVE" => Wish::shift(request, 5, major),
            "BRPOPLPUSH" => Wish::shift(request, 3, major),
            "BLMPOP" | "BZMPOP" => Wish::pops(command, request, major),
            _ => Wish::stream(request),
        };
        known.unwrap_or(Wish { op: Op::Odd, keys: Vec::new(), timeout_us: None })
    }

    fn pop(command: &Command, request: &Request<'_>, major: u32) -> Option<Wish> {
        let last = request.len() - 1;
        let timeout_us = seconds(request.arg(last), major)?;
        let keys = distinct(names((1..last).map(|at| request.arg(at))));
        let op = match command.name {
            "BLPOP" | "BRPOP" => Op::Pop { left: command.name == "BLPOP" },
            _ => Op::ScorePop { min: command.name == "BZPOPMIN" },
        };
        Some(Wish { op, keys, timeout_us })
    }

    fn shift(request: &Request<'_>, last: usize, major: u32) -> Option<Wish> {
        let timeout_us = seconds(request.arg(last), major)?;
        let sides = (3..last).all(|at| request.is(at, "LEFT") || request.is(at, "RIGHT"));
        let name: &[u8] = if last == 5 { b"LMOVE" } else { b"RPOPLPUSH" };
        let words = names(std::iter::once(name).chain((1..last).map(|at| request.arg(at))));
        sides.then(|| Wish { op: Op::Move { words }, keys: names(std::iter::once(request.arg(1))), timeout_us })
    }

    fn pops(command: &Command, request: &Request<'_>, major: u32) -> Option<Wish> {
        let timeout_us = seconds(request.arg(1), major)?;
        let count = usize::try_from(parse_integer(request.arg(2))?).ok().filter(|count| *count > 0)?;
        let side = count.checked_add(3).filter(|side| *side < request.len())?;
        let list = command.name == "BLMPOP";
        let sides = if list { ["LEFT", "RIGHT"] } else { ["MIN", "MAX"] };
        let sound = match request.len() - side {
            1 => true,
            3 => request.is(side + 1, "COUNT") && parse_integer(request.arg(side + 2)).is_some_and(|count| count > 0),
            _ => false,
        };
        let rest = names((side..request.len()).map(|at| request.arg(at)));
        let op = if list { Op::ListPops { rest } } else { Op::ScorePops { rest } };
        let keys = distinct(names((3..side).map(|at| request.arg(at))));
        (sound && sides.iter().any(|word| request.is(side, word))).then_some(Wish { op, keys, timeout_us })
    }

    fn stream(request: &Request<'_>) -> Option<Wish> {
        let options = read_options(request)?;
        let ms = u64::try_from(parse_integer(request.arg(options.block_at? + 1))?).ok()?;
        let timeout_us = (ms > 0).then(|| ms.saturating_mul(1000));
        let mut words = vec![request.arg(0)];
        if let Some(at) = options.group_at {
            words.extend([request.arg(at), request.arg(at + 1), request.arg(at + 2)]);
        }
        if let Some(at) = options.count_at {
            words.extend([request.arg(at), request.arg(at + 1)]);
        }
        if options.noack {
            words.push(b"NOACK");
        }
        let op = match options.group_at {
            Some(at) => Op::GroupRead { group: request.arg(at + 1).into(), options: names(words.into_iter()) },
            None => Op::Read { options: names(words.into_iter()), ids: Vec::new() },
        };
        // A stream named twice is waited for by its first id (blocked.c blockForKeys).
        let mut keys: Vec<Name> = Vec::new();
        let mut ids: Vec<Option<Name>> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for at in options.keys_at..options.keys_at + options.keys {
            let (key, id) = (request.arg(at), request.arg(at + options.keys));
            if seen.insert(key) {
                keys.push(key.into());
                ids.push((id != b"$").then(|| id.into()));
            }
        }
        let op = match op {
            Op::Read { options, .. } => Op::Read { options, ids },
            other => other,
        };
        Some(Wish { op, keys, timeout_us })
    }

    /// Keys whose last id must be asked for, with their place.
    pub fn unresolved(&self) -> impl Iterator<Item = (usize, &Name)> {
        let ids: &[Option<Name>] = if let Op::Read { ids, .. } = &self.op { ids } else { &[] };
        ids.iter().zip(&self.keys).enumerate().filter(|(_, (id, _))| id.is_none()).map(|(at, (_, key))| (at, key))
    }

    /// The first attempt: the whole command, as far as it can be said without waiting.
    pub fn first(&self, request: &Request<'_>, major: u32) -> Asking {
        let many = request.len() > 3;
        let keys = request.len().saturating_sub(2);
        let words = |head: &[&[u8]], from: usize, to: usize, tail: &[&[u8]]| -> Vec<u8> {
            let all: Vec<&[u8]> = head.iter().copied().chain((from..to).map(|at| request.arg(at))).chain(tail.iter().copied()).collect();
            framed(&all)
        };
        let count = number(keys as i64);
        let direct = |frame, form| Asking { frame, form, block: false };
        match &self.op {
            Op::Pop { left } if !many => retry_pop(*left, &self.keys[0]),
            Op::ScorePop { min } if !many => retry_score(*min, &self.keys[0]),
            Op::Pop { left } if major >= 7 => {
                let side: &[u8] = if *left { b"LEFT" } else { b"RIGHT" };
                direct(words(&[b"LMPOP", &count], 1, keys + 1, &[side, b"COUNT", b"1"]), Form::Elements)
            }
            Op::ScorePop { min } if major >= 7 => {
                let side: &[u8] = if *min { b"MIN" } else { b"MAX" };
                direct(words(&[b"ZMPOP", &count], 1, keys + 1, &[side, b"COUNT", b"1"]), Form::Scores)
            }
            Op::Move { words } => direct(framed(words), Form::Whole),
            Op::ListPops { .. } => direct(words(&[b"LMPOP"], 2, request.len(), &[]), Form::Whole),
            Op::ScorePops { .. } => direct(words(&[b"ZMPOP"], 2, request.len(), &[]), Form::Whole),
            Op::Read { .. } | Op::GroupRead { .. } => {
                let block = read_options(request).and_then(|options| options.block_at).unwrap_or(0);
                let all: Vec<&[u8]> = (0..request.len()).filter(|at| *at != block && *at != block + 1).map(|at| request.arg(at)).collect();
                direct(framed(&all), Form::Whole)
            }
            Op::Pop { .. } | Op::ScorePop { .. } | Op::Odd => in_block(request.frame, &[], Form::Whole),
        }
    }

    /// A later attempt, for one key that may have something now.
    pub fn retry(&self, at: usize) -> Option<Asking> {
        let key = self.keys.get(at)?;
        let direct = |words: &[&[u8]]| Some(Asking { frame: framed(words), form: Form::Whole, block: false });
        let with = |head: &[&[u8]], rest: &[Name]| {
            let all: Vec<&[u8]> = head.iter().copied().chain(rest.iter().map(|word| &**word)).collect();
            direct(&all)
        };
        match &self.op {
            Op::Pop { left } => Some(retry_pop(*left, key)),
            Op::ScorePop { min } => Some(retry_score(*min, key)),
            Op::Move { words } => with(&[], words),
            Op::ListPops { rest } => with(&[b"LMPOP", b"1", key], rest),
            Op::ScorePops { rest } => with(&[b"ZMPOP", b"1", key], rest),
            Op::Read { options, ids } => {
                let id = ids.get(at)?.as_ref()?;
                let all: Vec<&[u8]> = options.iter().map(|word| &**word).chain([&b"STREAMS"[..], key, id]).collect();
                direct(&all)
            }
            Op::GroupRead { options, .. } => {
                let all: Vec<&[u8]> = options.iter().map(|word| &**word).chain([&b"STREAMS"[..], key, b">"]).collect();
                direct(&all)
            }
            Op::Odd => None,
        }
    }

    /// The retry again, with the type of its key told in the same transaction: two errors that look alike are told apart.
    pub fn judged(&self, at: usize) -> Option<Asking> {
        let asking = self.retry(at)?;
        Some(in_block(&asking.frame, &[b"TYPE", self.keys.get(at)?], asking.form))
    }

    /// Whether a reader's id for this key is older than the stream's last one; true where that cannot be told.
    pub fn is_behind(&self, key: &Name, last: &[u8]) -> bool {
        let Op::Read { ids, .. } = &self.op else { return false };
        let own = self.keys.iter().position(|known| known == key).and_then(|at| ids.get(at)?.as_deref());
        match (own.and_then(stream_id), stream_id(last)) {
            (Some(own), Some(last)) => own < last,
            _ => true,
        }
    }

    /// Where a move puts the element.
    pub fn destination(&self) -> Option<&[u8]> {
        match &self.op {
            Op::Move { words } => words.get(2).map(|word| &**word),
            _ => None,
        }
    }
}

/// `ms-seq`, or `ms` alone.
fn stream_id(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

fn framed<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
    let mut frame = Vec::new();
    push_request(&mut frame, &words);
    frame
}

fn in_block(frame: &[u8], behind: &[&[u8]], form: Form) -> Asking {
    let mut block = framed(&[b"MULTI"]);
    block.extend_from_slice(frame);
    if !behind.is_empty() {
        push_request(&mut block, behind);
    }
    push_request(&mut block, &[b"EXEC"]);
    Asking { frame: block, form, block: true }
}

fn retry_pop(left: bool, key: &Name) -> Asking {
    let name: &[u8] = if left { b"LPOP" } else { b"RPOP" };
    Asking { frame: framed(&[name, key]), form: Form::Element(key.clone()), block: false }
}

fn retry_score(min: bool, key: &Name) -> Asking {
    let name: &[u8] = if min { b"ZPOPMIN" } else { b"ZPOPMAX" };
    Asking { frame: framed(&[name, key]), form: Form::Score(key.clone()), block: false }
}

impl Form {
    /// The blocking command's answer; None when there was nothing.
    pub fn convert(&self, reply: Reply<'_>) -> Option<Vec<u8>> {
        if reply.is_null() {
            return None;
        }
        let mut out = Vec::with_capacity(reply.0.len() + 32);
        let mut parts = reply.elements();
        match self {
            Form::Whole => out.extend_from_slice(reply.0),
            Form::Element(key) => {
                out.extend_from_slice(b"*2\r\n");
                push_bulk(&mut out, key);
                out.extend_from_slice(reply.0);
            }
            Form::Elements => {
                let (key, element) = (parts.next()?, parts.next()?.elements().next()?);
                out.extend_from_slice(b"*2\r\n");
                out.extend_from_slice(key.0);
                out.extend_from_slice(element.0);
            }
            Form::Score(key) => {
                let (member, score) = (parts.next()?, parts.next()?);
                out.extend_from_slice(b"*3\r\n");
                push_bulk(&mut out, key);
                out.extend_from_slice(member.0);
                out.extend_from_slice(score.0);
            }
            Form::Scores => {
                let (key, pair) = (parts.next()?, parts.next()?.elements().next()?);
                out.extend_from_slice(b"*3\r\n");
                out.extend_from_slice(key.0);
                pair.elements().for_each(|part| out.extend_from_slice(part.0));
            }
        }
        Some(out)
    }
}

/// The write that undoes a pop, so that nobody has seen it: at the same end, in the same order. None where there is nothing to put
/// back: a move kept the element, a group's entry stays pending.
pub(super) fn undo(command: &Command, request: &Request<'_>, reply: Reply<'_>) -> Option<Vec<u8>> {
    let mut parts = reply.elements();
    let (name, key, popped): (&[u8], &[u8], Vec<Reply<'_>>) = match command.name {
        "LPOP" => (b"LPUSH", request.arg(1), vec![reply]),
        "RPOP" => (b"RPUSH", request.arg(1), vec![reply]),
        "BLPOP" | "BRPOP" => {
            let name: &[u8] = if command.name == "BLPOP" { b"LPUSH" } else { b"RPUSH" };
            (name, parts.next()?.text(), vec![parts.next()?])
        }
        "LMPOP" | "BLMPOP" => {
            let count_at = if command.name == "LMPOP" { 1 } else { 2 };
            let keys = usize::try_from(parse_integer(request.arg(count_at))?).ok()?;
            let name: &[u8] = if request.is(count_at + 1 + keys, "LEFT") { b"LPUSH" } else { b"RPUSH" };
            (name, parts.next()?.text(), parts.next()?.elements().collect())
        }
        "ZPOPMIN" | "ZPOPMAX" => (b"ZADD", request.arg(1), parts.collect()),
        "BZPOPMIN" | "BZPOPMAX" => (b"ZADD", parts.next()?.text(), parts.collect()),
        "ZMPOP" | "BZMPOP" => (b"ZADD", parts.next()?.text(), parts.next()?.elements().flat_map(Reply::elements).collect()),
        _ => return None,
    };
    let mut words = vec![name, key];
    // The last one popped goes back first; of a pair the score does.
    words.extend(popped.iter().rev().map(|part| part.text()));
    (!popped.is_empty()).then(|| framed(&words))
}
