//! How one key is read. First it is *screened*: its serialised value and its time to live. Whatever is not plainly equal there, and
//! everything large, is *examined*: type and time to live, then its value by type, in pieces. Only an examination can find a
//! difference. Each piece is read at a position of its own, and equal pieces are equal at that position.

use super::digest::{Ask, Kind, Seen};
use crate::limits;
use crate::resp::encode::{number, push_request};
use std::sync::Arc;

/// One key on its way through a pass.
#[derive(Debug)]
pub(in crate::sequencer) struct Task {
    pub key: Arc<[u8]>,
    pub step: Step,
    /// Its value is read in pieces.
    pub large: bool,
    /// It was found on the mirror: only whether the primary has it is asked.
    pub extra: bool,
    /// Bytes that the primary says it takes.
    pub bytes: usize,
    /// Readings in a row in which this step differed.
    pub differed: u8,
    /// Its time to live differs, whatever its value does.
    pub ttl_differs: bool,
    /// Readings that could not be judged.
    pub tries: u32,
    /// What doubt there was when the primary answered.
    pub excused: Option<&'static str>,
    /// Without a backfill: it was not known to be on the mirror then.
    pub unsynced: bool,
}

impl Task {
    pub fn new(key: Arc<[u8]>, step: Step) -> Task {
        Task { key, step, large: false, extra: false, bytes: 0, differed: 0, ttl_differs: false, tries: 0, excused: None, unsynced: false }
    }

    /// Bytes that the next reading may have, as far as that is known.
    pub fn weight(&self) -> usize {
        match &self.step {
            Step::Look => 64,
            _ if self.large => limits::VERIFY_PIECE_BYTES,
            _ => self.bytes,
        }
    }

    /// From the beginning.
    pub fn anew(&mut self) {
        self.step = if self.extra || self.large { Step::Look } else { Step::Screen };
        (self.differed, self.ttl_differs) = (0, false);
    }
}

/// What is read next. Each step is read at one position on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sequencer) enum Step {
    /// The serialised value, and the time to live.
    Screen,
    /// Type and time to live.
    Look,
    /// Bytes of a string, from here on. The whole of a small one, since pieces of a HyperLogLog do not show what it counts.
    Text { at: i64, whole: bool },
    /// Elements of a list, from here on.
    List { at: i64 },
    /// Members and scores, from this rank on.
    Scores { at: i64 },
    /// All members of a set.
    Set,
    /// All fields of a hash.
    Hash,
    /// How long these fields of a hash still live, where both sides know that.
    FieldTimes { fields: Vec<Box<[u8]>> },
    /// These members of a set or fields of a hash, as a page of the primary gave them; none: the page is to be asked for.
    Page { hash: bool, cursor: Vec<u8>, items: Vec<Box<[u8]>> },
    /// What a stream is besides its entries.
    StreamHead,
    /// Entries of a stream, from this id on.
    Entries { from: Vec<u8>, groups: Vec<Box<[u8]>> },
    /// Consumers of the first of these groups, and its pending entries from this id on.
    Group { from: Vec<u8>, groups: Vec<Box<[u8]>> },
}

/// What follows an equal reading.
pub(in crate::sequencer) enum Next {
    /// Another one.
    Step(Step),
    /// The key is equal.
    Done,
    /// It changed its type meanwhile, or has one that cannot be read.
    Anew,
}

impl Step {
    /// The first step into a value of this type; None: it has none that can be read.
    pub fn into_value(kind: Kind, large: bool) -> Option<Step> {
        Some(match kind {
            Kind::String => Step::Text { at: 0, whole: !large },
            Kind::List => Step::List { at: 0 },
            Kind::Zset => Step::Scores { at: 0 },
            Kind::Set if large => Step::Page { hash: false, cursor: b"0".to_vec(), items: Vec::new() },
            Kind::Hash if large => Step::Page { hash: true, cursor: b"0".to_vec(), items: Vec::new() },
            Kind::Set => Step::Set,
            Kind::Hash => Step::Hash,
            Kind::Stream => Step::StreamHead,
            Kind::Absent | Kind::Other => return None,
        })
    }

    /// Whether the primary must be asked alone first.
    pub fn wants_page(&self) -> bool {
        matches!(self, Step::Page { items, .. } if items.is_empty())
    }

    /// What the reply number `at` is. A time to live comes first, so that a key that dies is not taken for one that differs.
    pub fn ask(&self, at: usize) -> Ask {
        match (self, at) {
            (Step::Screen, 0) => Ask::Dump,
            (Step::Screen, _) | (_, 0) => Ask::Pttl,
            (Step::Look, _) => Ask::Type,
            (Step::Text { .. } | Step::List { .. } | Step::Scores { .. } | Step::Page { .. }, 1) => Ask::Size,
            (Step::Text { .. }, _) => Ask::Text,
            (Step::List { .. } | Step::Page { .. }, _) => Ask::Ordered,
            (Step::Scores { .. }, _) => Ask::Scores,
            (Step::Set, _) => Ask::Unordered,
            (Step::Hash, _) => Ask::Pairs,
            (Step::FieldTimes { .. }, _) => Ask::FieldTimes,
            (Step::StreamHead, 1) => Ask::StreamHead,
            (Step::StreamHead, _) => Ask::Groups,
            (Step::Entries { .. }, _) => Ask::Entries,
            (Step::Group { .. }, 1) => Ask::Consumers,
            (Step::Group { .. }, _) => Ask::Pending,
        }
    }

    /// Writes the reads; how many replies they have. `many`: both sides have SMISMEMBER.
    pub fn push_reads(&self, frame: &mut Vec<u8>, key: &[u8], many: bool) -> u32 {
        let range = |at: i64, count: usize| (number(at), number(at + count as i64 - 1));
        let count = number(limits::VERIFY_PIECE_ITEMS as i64);
        if *self == Step::Screen {
            push_request(frame, &[b"DUMP", key]);
            push_request(frame, &[b"PTTL", key]);
            return 2;
        }
        push_request(frame, &[b"PTTL", key]);
        match self {
            Step::Screen => {}
            Step::Look => {
                push_request(frame, &[b"TYPE", key]);
                return 2;
            }
            Step::Text { at, whole } => {
                push_request(frame, &[b"STRLEN", key]);
                let (from, to) = range(*at, limits::VERIFY_PIECE_BYTES);
                if *whole {
                    push_request(frame, &[b"GET", key]);
                } else {
                    push_request(frame, &[b"GETRANGE", key, &from, &to]);
                }
            }
            Step::List { at } => {
                let (from, to) = range(*at, limits::VERIFY_PIECE_ITEMS);
                push_request(frame, &[b"LLEN", key]);
                push_request(frame, &[b"LRANGE", key, &from, &to]);
            }
            Step::Scores { at } => {
                let (from, to) = range(*at, limits::VERIFY_PIECE_ITEMS);
                push_request(frame, &[b"ZCARD", key]);
                push_request(frame, &[b"ZRANGE", key, &from, &to, b"WITHSCORES"]);
            }
            Step::Set => {
                push_request(frame, &[b"SMEMBERS", key]);
                return 2;
            }
            Step::Hash => {
                push_request(frame, &[b"HGETALL", key]);
                return 2;
            }
            Step::FieldTimes { fields } => {
                let mut command: Vec<Vec<u8>> = vec![b"HPTTL".to_vec(), key.to_vec(), b"FIELDS".to_vec(), number(fields.len() as i64)];
                command.extend(fields.iter().map(|field| field.to_vec()));
                push_request(frame, &command.iter().map(Vec::as_slice).collect::<Vec<_>>());
                return 2;
            }
            Step::Page { hash, items, .. } => return 1 + push_page(frame, key, *hash, items, many),
            Step::StreamHead => {
                push_request(frame, &[b"XINFO", b"STREAM", key]);
                push_request(frame, &[b"XINFO", b"GROUPS", key]);
            }
            Step::Entries { from, .. } => {
                push_request(frame, &[b"XRANGE", key, from, b"+", b"COUNT", &count]);
                return 2;
            }
            Step::Group { from, groups } => {
                let group = groups.first().map_or(&[][..], |group| group);
                push_request(frame, &[b"XINFO", b"CONSUMERS", key, group]);
                push_request(frame, &[b"XPENDING", key, group, from, b"+", &count]);
            }
        }
        3
    }

    /// The page of the primary that names what is to be compared next.
    pub fn push_scan(&self, frame: &mut Vec<u8>, key: &[u8]) {
        if let Step::Page { hash, cursor, .. } = self {
            let name: &[u8] = if *hash { b"HSCAN" } else { b"SSCAN" };
            push_request(frame, &[name, key, cursor, b"COUNT", &number(limits::VERIFY_PIECE_ITEMS as i64)]);
        }
    }

    /// What follows when both sides said `seen` and nothing differed.
    /// `field_times`: both sides know times to live of fields.
    pub fn next(&self, seen: &Seen, large: bool, field_times: bool) -> Next {
        let more = |at: i64, count: usize, step: fn(i64) -> Step| {
            let at = at + count as i64;
            if at < seen.size { Next::Step(step(at)) } else { Next::Done }
        };
        let full = seen.items >= limits::VERIFY_PIECE_ITEMS;
        let last = seen.last.as_deref().and_then(next_id).filter(|_| full);
        match self {
            Step::Hash if field_times && !seen.names.is_empty() => Next::Step(Step::FieldTimes { fields: seen.names.clone() }),
            Step::Screen | Step::Set | Step::Hash => Next::Done,
            Step::Look if seen.kind == Kind::Absent => Next::Done,
            Step::Look => Step::into_value(seen.kind, large).map_or(Next::Anew, Next::Step),
            Step::Text { whole: true, .. } => Next::Done,
            Step::Text { at, .. } => more(*at, limits::VERIFY_PIECE_BYTES, |at| Step::Text { at, whole: false }),
            Step::List { at } => more(*at, limits::VERIFY_PIECE_ITEMS, |at| Step::List { at }),
            Step::Scores { at } => more(*at, limits::VERIFY_PIECE_ITEMS, |at| Step::Scores { at }),
            Step::FieldTimes { .. } => Next::Done,
            Step::Page { cursor, .. } if cursor == b"0" => Next::Done,
            Step::Page { hash, cursor, .. } => Next::Step(Step::Page { hash: *hash, cursor: cursor.clone(), items: Vec::new() }),
            Step::StreamHead => Next::Step(Step::Entries { from: b"-".to_vec(), groups: seen.names.clone() }),
            Step::Entries { groups, .. } => match last {
                Some(from) => Next::Step(Step::Entries { from, groups: groups.clone() }),
                None => group(groups.clone()),
            },
            Step::Group { groups, .. } => match last {
                Some(from) => Next::Step(Step::Group { from, groups: groups.clone() }),
                None => group(groups[groups.len().min(1)..].to_vec()),
            },
        }
    }
}

fn group(groups: Vec<Box<[u8]>>) -> Next {
    if groups.is_empty() { Next::Done } else { Next::Step(Step::Group { from: b"-".to_vec(), groups }) }
}

fn push_page(frame: &mut Vec<u8>, key: &[u8], hash: bool, items: &[Box<[u8]>], many: bool) -> u32 {
    push_request(frame, &[if hash { b"HLEN" } else { b"SCARD" }, key]);
    if hash || many {
        let mut command: Vec<&[u8]> = vec![if hash { b"HMGET" } else { b"SMISMEMBER" }, key];
        command.extend(items.iter().map(|item| &**item));
        push_request(frame, &command);
        return 2;
    }
    items.iter().for_each(|item| push_request(frame, &[b"SISMEMBER", key, item]));
    items.len() as u32 + 1
}

/// The smallest id of a stream above this one: servers below 6.2 know no exclusive ranges.
fn next_id(id: &[u8]) -> Option<Vec<u8>> {
    let (ms, seq) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (ms, seq): (u64, u64) = (ms.parse().ok()?, seq.parse().ok()?);
    let (ms, seq) = match seq.checked_add(1) {
        Some(seq) => (ms, seq),
        None => (ms.checked_add(1)?, 0),
    };
    Some(format!("{ms}-{seq}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_each_other() {
        let check = |id: &str, expect: Option<&str>| assert_eq!(next_id(id.as_bytes()), expect.map(|id| id.as_bytes().to_vec()), "{id}");
        check("1-0", Some("1-1"));
        check("1-18446744073709551615", Some("2-0"));
        check("18446744073709551615-18446744073709551615", None);
        check("x", None);
    }

    #[test]
    fn a_large_list_is_read_to_its_end() {
        let seen = |size: i64| Seen { kind: Kind::List, size, ..Seen::default() };
        let (mut step, mut pieces) = (Step::List { at: 0 }, 1);
        while let Next::Step(next) = step.next(&seen(limits::VERIFY_PIECE_ITEMS as i64 * 3 + 1), true, false) {
            (step, pieces) = (next, pieces + 1);
        }
        assert_eq!(pieces, 4);
    }
}
