//! What a read says, as one number per side: what counts for equality goes in, what a server may choose for itself stays out
//! (encoding, order of sets and hashes, how a double is written, idle times, RESP2 or RESP3). "Equal" is what
//! `tests/src/compare.rs` says.
//!
//! The numbers are keyed, so that clients, who choose the values, cannot make two different ones look alike.

use super::super::image::field;
use crate::hyperloglog::registers;
use crate::resp::reply::Reply;
use std::hash::{BuildHasher, Hasher};

/// A type, as far as a read told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::sequencer) enum Kind {
    /// There is no such key.
    #[default]
    Absent,
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
    /// A type of a module, or one that only DUMP named, in an encoding that is not known here.
    Other,
}

impl Kind {
    /// The answer of TYPE.
    pub fn of_name(name: &[u8]) -> Kind {
        match name {
            b"none" => Kind::Absent,
            b"string" => Kind::String,
            b"list" => Kind::List,
            b"set" => Kind::Set,
            b"zset" => Kind::Zset,
            b"hash" => Kind::Hash,
            b"stream" => Kind::Stream,
            _ => Kind::Other,
        }
    }

    /// The same, as people read it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Absent => "none",
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Zset => "zset",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
            Kind::Other => "other",
        }
    }
}

/// A read, by what of its reply counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sequencer) enum Ask {
    /// DUMP: the payload without the version and the checksum behind it.
    Dump,
    /// PTTL; it is compared with a tolerance, not by digest.
    Pttl,
    /// TYPE.
    Type,
    /// How many elements, or bytes.
    Size,
    /// GET, or a piece of a string. A whole HyperLogLog counts by its registers.
    Text,
    /// Elements in their order.
    Ordered,
    /// Elements in any order.
    Unordered,
    /// Fields and values in any order.
    Pairs,
    /// Members and scores in their order; scores by value.
    Scores,
    /// XINFO STREAM.
    StreamHead,
    /// Entries of a stream.
    Entries,
    /// XINFO GROUPS.
    Groups,
    /// XINFO CONSUMERS.
    Consumers,
    /// Pending entries of a group, without their idle times.
    Pending,
    /// Remaining times to live of fields; compared with a tolerance.
    FieldTimes,
}

/// What one side said in one reading of one key.
#[derive(Debug, Clone, Default)]
pub(in crate::sequencer) struct Seen {
    pub kind: Kind,
    pub pttl: i64,
    pub size: i64,
    pub digest: u64,
    /// The error of a read, other than one of a wrong type.
    pub refused: Option<Box<str>>,
    /// A read met another type than it was made for.
    pub wrong_type: bool,
    /// The last id of a page of a stream, and how many it had.
    pub last: Option<Box<[u8]>>,
    pub items: usize,
    /// Groups of a stream, fields of a hash.
    pub names: Vec<Box<[u8]>>,
    /// See [`Ask::FieldTimes`].
    pub times: Vec<i64>,
}

/// Makes digests. `newer`: both sides are 7.0 or later, which tell more of a stream.
#[derive(Debug, Clone)]
pub(in crate::sequencer) struct Digester {
    pub state: ahash::RandomState,
    pub newer: bool,
}

impl Digester {
    fn of<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.state.build_hasher();
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }

    /// Adds a reply to what its side said.
    pub fn take(&self, ask: Ask, reply: Reply<'_>, seen: &mut Seen) {
        if let Some(error) = reply.error() {
            if reply.error_word() == Some(b"WRONGTYPE") || error.starts_with(b"ERR no such key") {
                seen.wrong_type = true;
            } else {
                seen.refused.get_or_insert_with(|| String::from_utf8_lossy(error).into());
            }
            return;
        }
        let digest = match ask {
            Ask::Pttl => {
                seen.pttl = reply.integer().unwrap_or(-1);
                return;
            }
            Ask::Type => {
                seen.kind = Kind::of_name(reply.text());
                return;
            }
            Ask::FieldTimes => {
                seen.times = reply.elements().map(|time| time.integer().unwrap_or(-1)).collect();
                return;
            }
            Ask::Size => {
                seen.size = reply.integer().unwrap_or(0);
                seen.size as u64
            }
            Ask::Dump => self.dump(reply, seen),
            Ask::Text => self.text(reply.text()),
            Ask::Ordered if !reply.is_aggregate() => self.of([reply.text()]),
            Ask::Ordered => self.of(reply.elements().map(leaf)),
            Ask::Unordered => sum(reply.elements().map(|item| self.of([item.text()]))),
            Ask::Pairs => self.pairs(reply, seen),
            Ask::Scores => self.scores(reply),
            Ask::StreamHead => self.stream_head(reply),
            Ask::Entries => self.entries(reply, seen),
            Ask::Groups => self.groups(reply, seen),
            Ask::Consumers => sum(reply.elements().map(|consumer| self.fields(consumer, &["name", "pending"]))),
            Ask::Pending => self.pending(reply, seen),
        };
        seen.digest = seen.digest.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ digest;
    }

    fn dump(&self, reply: Reply<'_>, seen: &mut Seen) -> u64 {
        if reply.is_null() {
            seen.kind = Kind::Absent;
            return 0;
        }
        let payload = reply.text();
        // Two bytes of version and eight of checksum (redis 7.0.15 cluster.c createDumpPayload).
        let body = &payload[..payload.len().saturating_sub(10)];
        seen.kind = encoded(body.first().copied());
        self.of([body])
    }

    fn text(&self, bytes: &[u8]) -> u64 {
        match registers(bytes) {
            Some(registers) => self.of([b"hyperloglog".as_slice(), &registers]),
            None => self.of([bytes]),
        }
    }

    fn pairs(&self, reply: Reply<'_>, seen: &mut Seen) -> u64 {
        let mut items = reply.elements();
        let mut total: u64 = 0;
        while let (Some(field), Some(value)) = (items.next(), items.next()) {
            total = total.wrapping_add(self.of([field.text(), value.text()]));
            seen.names.push(field.text().into());
        }
        total
    }

    /// RESP2 gives a flat list, RESP3 pairs.
    fn scores(&self, reply: Reply<'_>) -> u64 {
        let mut hasher = self.state.build_hasher();
        let mut flat = reply.elements().flat_map(|item| {
            let pair: Vec<Reply<'_>> = if item.is_aggregate() { item.elements().collect() } else { vec![item] };
            pair
        });
        while let (Some(member), Some(score)) = (flat.next(), flat.next()) {
            hasher.write_usize(member.text().len());
            hasher.write(member.text());
            match std::str::from_utf8(score.text()).ok().and_then(|text| text.parse::<f64>().ok()) {
                Some(score) => hasher.write_u64((score + 0.0).to_bits()),
                None => hasher.write(score.text()),
            }
        }
        hasher.finish()
    }

    fn fields(&self, map: Reply<'_>, names: &[&str]) -> u64 {
        self.of(names.iter().map(|name| field(map, name).map_or(&[][..], Reply::text)))
    }

    fn stream_head(&self, reply: Reply<'_>) -> u64 {
        let names: &[&str] = if self.newer {
            &["length", "last-generated-id", "max-deleted-entry-id", "entries-added"]
        } else {
            &["length", "last-generated-id"]
        };
        self.fields(reply, names)
    }

    fn entries(&self, reply: Reply<'_>, seen: &mut Seen) -> u64 {
        let mut hasher = self.state.build_hasher();
        for entry in reply.elements() {
            let mut parts = entry.elements();
            let id = parts.next().map_or(&[][..], Reply::text);
            hasher.write(id);
            hasher.write_u64(parts.next().map_or(0, |fields| self.of(fields.elements().map(Reply::text))));
            seen.last = Some(id.into());
            seen.items += 1;
        }
        hasher.finish()
    }

    fn groups(&self, reply: Reply<'_>, seen: &mut Seen) -> u64 {
        let names: &[&str] =
            if self.newer { &["name", "last-delivered-id", "pending", "entries-read"] } else { &["name", "last-delivered-id", "pending"] };
        seen.names = reply.elements().filter_map(|group| field(group, "name")).map(|name| name.text().into()).collect();
        sum(reply.elements().map(|group| self.fields(group, names)))
    }

    fn pending(&self, reply: Reply<'_>, seen: &mut Seen) -> u64 {
        let mut hasher = self.state.build_hasher();
        for entry in reply.elements() {
            let parts: Vec<Reply<'_>> = entry.elements().collect();
            let part = |at: usize| parts.get(at).map_or(&[][..], |part| part.text());
            // Id, consumer, idle time, deliveries.
            hasher.write_u64(self.of([part(0), part(1), part(3)]));
            seen.last = Some(part(0).into());
            seen.items += 1;
        }
        hasher.finish()
    }
}

fn sum(items: impl Iterator<Item = u64>) -> u64 {
    items.fold(0, u64::wrapping_add)
}

/// A null is not an empty string.
fn leaf(item: Reply<'_>) -> &[u8] {
    if item.is_null() { b"\0null\0" } else { item.text() }
}

/// The type that the first byte of a DUMP payload names (redis 7.4.1 rdb.h, valkey 9.0 rdb.h).
fn encoded(first: Option<u8>) -> Kind {
    match first {
        Some(0) => Kind::String,
        Some(1 | 10 | 14 | 18) => Kind::List,
        Some(2 | 11 | 20) => Kind::Set,
        Some(3 | 5 | 12 | 17) => Kind::Zset,
        Some(4 | 9 | 13 | 16 | 22..=25) => Kind::Hash,
        Some(15 | 19 | 21) => Kind::Stream,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(ask: Ask, reply: &str) -> u64 {
        let digester = Digester { state: ahash::RandomState::with_seeds(1, 2, 3, 4), newer: true };
        let mut seen = Seen::default();
        digester.take(ask, Reply(reply.as_bytes()), &mut seen);
        seen.digest
    }

    fn check(ask: Ask, one: &str, other: &str, alike: bool) {
        assert_eq!(digest(ask, one) == digest(ask, other), alike, "{ask:?}: {one:?} and {other:?}");
    }

    #[test]
    fn what_a_server_may_choose_does_not_count() {
        check(Ask::Unordered, "*2\r\n+a\r\n+b\r\n", "~2\r\n$1\r\nb\r\n$1\r\na\r\n", true);
        check(Ask::Unordered, "*2\r\n+a\r\n+b\r\n", "*2\r\n+a\r\n+c\r\n", false);
        check(Ask::Pairs, "*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "%2\r\n+b\r\n+2\r\n+a\r\n+1\r\n", true);
        check(Ask::Pairs, "*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "*4\r\n+a\r\n+2\r\n+b\r\n+1\r\n", false);
        check(Ask::Scores, "*2\r\n+a\r\n+0.10000000000000001\r\n", "*1\r\n*2\r\n+a\r\n,0.1\r\n", true);
        check(Ask::Scores, "*2\r\n+a\r\n+inf\r\n", "*1\r\n*2\r\n+a\r\n,inf\r\n", true);
        check(Ask::Scores, "*2\r\n+a\r\n+1\r\n", "*2\r\n+a\r\n+2\r\n", false);
        check(Ask::Ordered, "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+a\r\n", false);
        check(Ask::Ordered, "*1\r\n$-1\r\n", "*1\r\n$0\r\n\r\n", false);
        check(Ask::Ordered, "*1\r\n$-1\r\n", "*1\r\n_\r\n", true);
        check(Ask::Pending, "*1\r\n*4\r\n+1-0\r\n+c\r\n:7\r\n:1\r\n", "*1\r\n*4\r\n+1-0\r\n+c\r\n:9\r\n:1\r\n", true);
        check(Ask::Pending, "*1\r\n*4\r\n+1-0\r\n+c\r\n:7\r\n:1\r\n", "*1\r\n*4\r\n+1-0\r\n+c\r\n:7\r\n:2\r\n", false);
        check(Ask::Dump, "$13\r\n\0\x01a0123456789\r\n", "$13\r\n\0\x01a9876543210\r\n", true);
        check(Ask::Dump, "$13\r\n\0\x01a0123456789\r\n", "$13\r\n\0\x01b0123456789\r\n", false);
    }

    #[test]
    fn what_is_told_of_a_stream() {
        let group = |idle: u32, read: u32| {
            format!(
                "*1\r\n*10\r\n+name\r\n+g\r\n+consumers\r\n:{idle}\r\n+pending\r\n:0\r\n+last-delivered-id\r\n+1-0\r\n+entries-read\r\n:{read}\r\n"
            )
        };
        check(Ask::Groups, &group(1, 1), &group(2, 1), true);
        check(Ask::Groups, &group(1, 1), &group(1, 2), false);
        let entry = |value: &str| format!("*1\r\n*2\r\n+1-0\r\n*2\r\n+f\r\n+{value}\r\n");
        check(Ask::Entries, &entry("v"), &entry("v"), true);
        check(Ask::Entries, &entry("v"), &entry("w"), false);
    }
}
