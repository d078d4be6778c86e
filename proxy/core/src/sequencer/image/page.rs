//! How a large key is read in pieces, and the commands that put a piece into its twin.
//!
//! Every reading ends with `PTTL` and the size of the key, so the last one tells all that is needed to put the twin in the key's place.
//! Nothing here knows lanes or other keys.

use super::stream::StreamCopy;
use crate::resp::encode::{number, parse_integer, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;

/// What can be copied in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
}

impl Kind {
    const ALL: [(Kind, &'static [u8], &'static [u8]); 6] = [
        (Kind::String, b"string", b"STRLEN"),
        (Kind::List, b"list", b"LLEN"),
        (Kind::Set, b"set", b"SCARD"),
        (Kind::Zset, b"zset", b"ZCARD"),
        (Kind::Hash, b"hash", b"HLEN"),
        (Kind::Stream, b"stream", b"XLEN"),
    ];

    /// By the word of TYPE.
    pub fn of(word: &[u8]) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, name, _)| *name == word).map(|(kind, ..)| *kind)
    }

    /// The command that tells the size.
    pub fn size(self) -> &'static [u8] {
        Kind::ALL[self as usize].2
    }

    /// The command that gives a page of elements.
    fn scan(self) -> &'static [u8] {
        match self {
            Kind::Set => b"SSCAN",
            Kind::Zset => b"ZSCAN",
            _ => b"HSCAN",
        }
    }
}

/// What is read next.
#[derive(Debug)]
pub(super) enum Step {
    /// Type and size.
    Look,
    /// Bytes of a string: the twin holds so many.
    Text { at: i64 },
    /// Elements of a list: the twin holds so many, and the page was asked for from `from` on.
    List { at: i64, from: i64 },
    /// Elements of a set, sorted set or hash.
    Elements { cursor: Vec<u8> },
    /// How long these fields, which the twin holds already, still live.
    FieldTimes { fields: Vec<Vec<u8>>, cursor: Vec<u8> },
    /// A stream, in an order of its own.
    Stream(Box<StreamCopy>),
}

/// What is known of the key while it is copied.
#[derive(Debug)]
pub(super) struct Value {
    pub kind: Kind,
    /// Its size where the last reading stood, moved by what was followed since.
    pub size: i64,
    /// Elements per page.
    pub items: i64,
    /// Bytes per page of a string.
    pub bytes: i64,
    /// The head of the list moved while it was copied: pages overlap from then on.
    pub moves: bool,
    /// The primary knows times to live of fields.
    pub field_times: bool,
    /// A field has one.
    pub mortal_fields: bool,
}

/// What a reading led to.
pub(super) enum Taken {
    /// These commands go to the twin; `last`: it is complete then.
    Piece { last: bool },
    /// It is not what it was: from the beginning.
    Changed,
    /// It cannot be copied in pieces.
    Whole,
}

/// Commands for a twin.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub frame: Vec<u8>,
    pub replies: u32,
}

impl Piece {
    pub fn push(&mut self, command: &[&[u8]]) {
        push_request(&mut self.frame, command);
        self.replies += 1;
    }

    /// A command with many arguments behind the key.
    fn push_items(&mut self, name: &[u8], key: &[u8], items: &[&[u8]]) {
        if !items.is_empty() {
            self.push(&[&[name, key], items].concat());
        }
    }
}

impl Step {
    /// The first reading of the value.
    pub fn begin(kind: Kind) -> Step {
        match kind {
            Kind::String => Step::Text { at: 0 },
            Kind::List => Step::List { at: 0, from: 0 },
            Kind::Set | Kind::Zset | Kind::Hash => Step::Elements { cursor: b"0".to_vec() },
            Kind::Stream => Step::Stream(Box::default()),
        }
    }

    /// Appends the reading, without the two that end it.
    pub fn push_reads(&mut self, reads: &mut Piece, key: &[u8], value: &Value) {
        match self {
            Step::Look => {
                reads.push(&[b"TYPE", key]);
                Kind::ALL.iter().for_each(|(_, _, size)| reads.push(&[size, key]));
            }
            Step::Text { at } => reads.push(&[b"GETRANGE", key, &number(*at), &number(*at + value.bytes - 1)]),
            Step::List { at, from } => {
                // What is pushed at the head meanwhile moves the page: it begins a little before what is missing.
                *from = if value.moves { (*at - value.items / 4).max(0) } else { *at };
                reads.push(&[b"LRANGE", key, &number(*from), &number(*from + value.items - 1)]);
            }
            Step::Elements { cursor } => reads.push(&[value.kind.scan(), key, cursor, b"COUNT", &number(value.items)]),
            Step::FieldTimes { fields, .. } => {
                let count = number(fields.len() as i64);
                let mut command: Vec<&[u8]> = vec![b"HPTTL", key, b"FIELDS", &count];
                command.extend(fields.iter().map(Vec::as_slice));
                reads.push(&command);
            }
            Step::Stream(stream) => stream.push_reads(reads, key, value.items),
        }
    }

    /// The reading was answered: `parts` without the two that end it. What goes to the twin is appended to `piece`.
    pub fn take(&mut self, parts: &[Reply<'_>], value: &mut Value, twin: &[u8], piece: &mut Piece, terms: &Terms) -> Taken {
        let Some(first) = parts.first().filter(|_| parts.iter().all(|part| !part.is_error())) else { return Taken::Changed };
        match self {
            Step::Look => Taken::Changed,
            Step::Text { at } => {
                let text = first.text();
                if text.is_empty() && *at < value.size {
                    return Taken::Changed;
                }
                piece.push(&[b"APPEND", twin, text]);
                *at += text.len() as i64;
                Taken::Piece { last: *at >= value.size }
            }
            Step::List { at, from } => {
                let items: Vec<&[u8]> = first.elements().map(Reply::text).collect();
                // Elements were popped at the head: what is missing lies before the page.
                let known = *at - *from;
                if known >= 0 && known < items.len() as i64 {
                    let missing = &items[known as usize..];
                    piece.push_items(b"RPUSH", twin, missing);
                    *at += missing.len() as i64;
                } else if items.is_empty() && *at < value.size && !value.moves {
                    return Taken::Changed;
                }
                Taken::Piece { last: *at >= value.size }
            }
            Step::Elements { .. } => {
                let (Some(next), Some(page)) = (parts[0].elements().next(), parts[0].elements().nth(1)) else { return Taken::Changed };
                let (next, items): (Vec<u8>, Vec<&[u8]>) = (next.text().to_vec(), page.elements().map(Reply::text).collect());
                match value.kind {
                    Kind::Set => piece.push_items(b"SADD", twin, &items),
                    Kind::Zset => {
                        let pairs: Vec<&[u8]> = items.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]).collect();
                        piece.push_items(b"ZADD", twin, &pairs);
                    }
                    _ => piece.push_items(b"HSET", twin, &items),
                }
                let last = next == b"0";
                if value.field_times && !items.is_empty() {
                    let fields = items.iter().step_by(2).map(|field| field.to_vec()).collect();
                    *self = Step::FieldTimes { fields, cursor: next };
                    return Taken::Piece { last: false };
                }
                *self = Step::Elements { cursor: next };
                Taken::Piece { last }
            }
            Step::FieldTimes { fields, cursor } => {
                for (name, left) in fields.iter().zip(first.elements()) {
                    let Some(left) = left.integer().filter(|left| *left >= 0) else { continue };
                    value.mortal_fields = true;
                    let left = number(left.max(1).saturating_add(terms.margin_ms));
                    piece.push(&[b"HPEXPIRE", twin, &left, b"FIELDS", b"1", name]);
                }
                let cursor = std::mem::take(cursor);
                let last = cursor == b"0";
                *self = Step::Elements { cursor };
                Taken::Piece { last }
            }
            Step::Stream(stream) => stream.take(parts, value, twin, piece, terms),
        }
    }

    /// A command on the key was executed between two readings: what it means for the twin. None: it cannot be followed.
    pub fn follow(&mut self, name: &[u8], request: &Request<'_>, value: &mut Value, twin: &[u8], piece: &mut Piece) -> Option<()> {
        let again = |piece: &mut Piece| {
            let words: Vec<&[u8]> = [request.arg(0), twin].into_iter().chain(request.args_from(2)).collect();
            piece.push(&words);
        };
        let given = request.len() as i64 - 2;
        let popped = |size: i64| -> Option<i64> {
            let wanted = if request.len() > 2 { parse_integer(request.arg(2))? } else { 1 };
            Some(wanted.clamp(0, size.max(0)))
        };
        match (self, value.kind, name) {
            // Fields of the twin outlive those of the primary by the margin, and of these it is not known yet: it would count on from what is gone.
            (Step::Elements { .. } | Step::FieldTimes { .. }, Kind::Hash, b"HINCRBY") if value.mortal_fields => return None,
            (Step::FieldTimes { fields, .. }, Kind::Hash, b"HINCRBY") if fields.iter().any(|field| **field == *request.arg(2)) => {
                return None;
            }
            // Each element by itself: what a page holds of it replaces it, and what comes behind the page is right from then on.
            (Step::Elements { .. } | Step::FieldTimes { .. }, Kind::Hash, b"HSET" | b"HMSET" | b"HDEL" | b"HINCRBY")
            | (Step::Elements { .. }, Kind::Set, b"SADD" | b"SREM")
            | (Step::Elements { .. }, Kind::Zset, b"ZADD" | b"ZREM" | b"ZINCRBY") => again(piece),
            // The twin is the head of the list, up to `at`.
            (Step::List { at, .. }, Kind::List, b"LPUSH" | b"LPUSHX") => {
                value.size += given;
                value.moves = true;
                if *at > 0 {
                    *at += given;
                    again(piece);
                }
            }
            (Step::List { .. }, Kind::List, b"RPUSH" | b"RPUSHX") => value.size += given,
            (Step::List { at, .. }, Kind::List, b"LPOP") => {
                let popped = popped(value.size)?;
                value.size -= popped;
                value.moves = true;
                let there = popped.min(*at);
                *at -= there;
                if there > 0 {
                    piece.push(&[b"LTRIM", twin, &number(there), b"-1"]);
                }
            }
            (Step::List { at, .. }, Kind::List, b"RPOP") => {
                value.size -= popped(value.size)?;
                let there = *at - value.size;
                if there > 0 {
                    *at = value.size;
                    piece.push(&[b"LTRIM", twin, b"0", &number(-there - 1)]);
                }
            }
            // The twin is the beginning of the string.
            (Step::Text { .. }, Kind::String, b"APPEND") => value.size += request.arg(2).len() as i64,
            (Step::Text { at }, Kind::String, b"SETRANGE") => {
                let (offset, bytes) = (parse_integer(request.arg(2))?, request.arg(3));
                value.size = value.size.max(offset.checked_add(bytes.len() as i64)?);
                let there = (*at - offset).clamp(0, bytes.len() as i64) as usize;
                if there > 0 {
                    piece.push(&[b"SETRANGE", twin, request.arg(2), &bytes[..there]]);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// What both sides agree on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Added to what is left of a time to live, milliseconds.
    pub margin_ms: i64,
    /// The mirror is a 7.0 or later.
    pub newer: bool,
    /// Microseconds.
    pub now_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Spans, canonical};

    /// What a command on the key means for a twin that is read so far: the commands for it, or None.
    fn followed(mut step: Step, mortal_fields: bool, line: &str) -> Option<u32> {
        let kind = Kind::Hash;
        let mut value = Value { kind, size: 9, items: 4, bytes: 64, moves: false, field_times: true, mortal_fields };
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut frame, mut spans, mut piece) = (Vec::new(), Spans::default(), Piece::default());
        let request = canonical(&args, &mut frame, &mut spans);
        step.follow(args[0], &request, &mut value, b"twin", &mut piece).map(|()| piece.replies)
    }

    /// H32: the twin's field lives a margin longer than the primary's; an increment of what is gone there would go on from it.
    #[test]
    fn h32_a_counter_that_may_have_died_ends_the_copy() {
        let elements = || Step::Elements { cursor: b"7".to_vec() };
        let times = || Step::FieldTimes { fields: vec![b"f".to_vec()], cursor: b"7".to_vec() };
        let check = |step: Step, mortal: bool, line: &str, expect: Option<u32>| assert_eq!(followed(step, mortal, line), expect, "{line}");
        check(elements(), false, "HINCRBY k f 1", Some(1));
        check(elements(), true, "HINCRBY k f 1", None);
        check(times(), false, "HINCRBY k f 1", None);
        check(times(), false, "HINCRBY k other 1", Some(1));
        check(elements(), true, "HSET k f v", Some(1));
        check(elements(), true, "HDEL k f", Some(1));
        for other in ["HINCRBYFLOAT k f 1", "HSETNX k f v", "HGETDEL k FIELDS 1 f", "HSETEX k EX 9 FIELDS 1 f v", "HPERSIST k FIELDS 1 f"] {
            check(elements(), false, other, None);
        }
    }
}
