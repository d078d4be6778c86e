//! A large stream in pieces: what it is and its groups first, then its entries, then groups and pending entries on the twin.
//!
//! Pending entries may have been deleted from the stream since, and XCLAIM refuses those: they are put in at their place among the
//! entries and deleted again at the end. So pending entries are read first, and there is a bound of how many may be held here.

use super::page::{Piece, Taken, Terms, Value};
use super::typed::{field, stream_id};
use crate::limits;
use crate::resp::encode::number;
use crate::resp::reply::Reply;
use std::collections::BTreeSet;

type Id = (u64, u64);

/// An entry that was delivered and not acknowledged.
#[derive(Debug)]
struct Pending {
    id: Id,
    consumer: Vec<u8>,
    /// When it was delivered, microseconds on our clock; before it began: negative.
    delivered_us: i64,
    deliveries: i64,
}

#[derive(Debug)]
struct Group {
    name: Vec<u8>,
    last: Vec<u8>,
    read: Option<i64>,
    consumers: Vec<Vec<u8>>,
    pending: Vec<Pending>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Head,
    /// Consumers and pending entries of this group, from this id on.
    Group(usize, Id),
    Entries(Id),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StreamCopy {
    phase: Phase,
    last: Vec<u8>,
    added: Option<i64>,
    max_deleted: Option<Vec<u8>>,
    groups: Vec<Group>,
    pending: usize,
    /// Pending ids that have not been met among the entries.
    unmet: BTreeSet<Id>,
    /// Those that are not among the entries any more.
    lost: Vec<Id>,
    /// Entries that the twin holds besides.
    kept: i64,
}

impl StreamCopy {
    pub fn push_reads(&self, reads: &mut Piece, key: &[u8], items: i64) {
        let count = number(items);
        match self.phase {
            Phase::Head => {
                reads.push(&[b"XINFO", b"STREAM", key]);
                reads.push(&[b"XINFO", b"GROUPS", key]);
            }
            Phase::Group(at, from) => {
                let name = self.groups.get(at).map_or(&[][..], |group| &group.name);
                reads.push(&[b"XINFO", b"CONSUMERS", key, name]);
                reads.push(&[b"XPENDING", key, name, &text(from), b"+", &count]);
            }
            Phase::Entries(from) => reads.push(&[b"XRANGE", key, &text(from), b"+", b"COUNT", &count]),
        }
    }

    pub fn take(&mut self, parts: &[Reply<'_>], value: &Value, twin: &[u8], piece: &mut Piece, terms: &Terms) -> Taken {
        let taken = match self.phase {
            Phase::Head => self.take_head(parts),
            Phase::Group(at, _) => self.take_group(at, parts, value.items, terms),
            Phase::Entries(_) => self.take_entries(parts, value.items, twin, piece, terms),
        };
        if self.pending > limits::COPY_PENDING_MAX {
            return Taken::Whole;
        }
        taken.unwrap_or(Taken::Changed)
    }

    fn take_head(&mut self, parts: &[Reply<'_>]) -> Option<Taken> {
        let [info, groups] = parts else { return None };
        self.last = field(*info, "last-generated-id")?.text().to_vec();
        self.added = field(*info, "entries-added").and_then(Reply::integer);
        self.max_deleted = field(*info, "max-deleted-entry-id").map(|id| id.text().to_vec());
        for group in groups.elements() {
            self.groups.push(Group {
                name: field(group, "name")?.text().to_vec(),
                last: field(group, "last-delivered-id")?.text().to_vec(),
                read: field(group, "entries-read").and_then(Reply::integer),
                consumers: Vec::new(),
                pending: Vec::new(),
            });
        }
        self.phase = self.after_group(0);
        Some(Taken::Piece { last: false })
    }

    fn after_group(&self, next: usize) -> Phase {
        if next < self.groups.len() { Phase::Group(next, (0, 0)) } else { Phase::Entries((0, 0)) }
    }

    fn take_group(&mut self, at: usize, parts: &[Reply<'_>], items: i64, terms: &Terms) -> Option<Taken> {
        let [consumers, page] = parts else { return None };
        let group = self.groups.get_mut(at)?;
        group.consumers = consumers.elements().filter_map(|one| Some(field(one, "name")?.text().to_vec())).collect();
        let mut found = 0;
        let mut next = None;
        for entry in page.elements() {
            let entry: Vec<Reply<'_>> = entry.elements().collect();
            let [id, consumer, idle, deliveries] = entry[..] else { return None };
            let id = stream_id(id.text())?;
            let delivered_us = terms.now_us as i64 - idle.integer()?.saturating_mul(1000);
            group.pending.push(Pending { id, consumer: consumer.text().to_vec(), delivered_us, deliveries: deliveries.integer()? });
            self.unmet.insert(id);
            found += 1;
            next = above(id);
        }
        self.pending += found as usize;
        self.phase = match next.filter(|_| found >= items) {
            Some(next) => Phase::Group(at, next),
            None => self.after_group(at + 1),
        };
        Some(Taken::Piece { last: false })
    }

    fn take_entries(&mut self, parts: &[Reply<'_>], items: i64, twin: &[u8], piece: &mut Piece, terms: &Terms) -> Option<Taken> {
        let mut found = 0;
        let mut next = None;
        for entry in parts.first()?.elements() {
            let mut entry = entry.elements();
            let (id, fields) = (stream_id(entry.next()?.text())?, entry.next()?);
            self.put_lost(Some(id), twin, piece);
            self.unmet.remove(&id);
            let name = text(id);
            let mut command: Vec<&[u8]> = vec![b"XADD", twin, &name];
            command.extend(fields.elements().map(Reply::text));
            piece.push(&command);
            found += 1;
            next = above(id);
        }
        self.kept += found;
        if let Some(next) = next.filter(|_| found >= items) {
            self.phase = Phase::Entries(next);
            return Some(Taken::Piece { last: false });
        }
        self.put_lost(None, twin, piece);
        self.end(twin, piece, terms);
        Some(Taken::Piece { last: true })
    }

    /// Pending entries below this id (None: all) that the stream has lost get a place.
    fn put_lost(&mut self, below: Option<Id>, twin: &[u8], piece: &mut Piece) {
        while let Some(id) = self.unmet.first().copied().filter(|id| below.is_none_or(|below| *id < below)) {
            self.unmet.remove(&id);
            self.lost.push(id);
            piece.push(&[b"XADD", twin, &text(id), b"x", b"x"]);
        }
    }

    fn end(&mut self, twin: &[u8], piece: &mut Piece, terms: &Terms) {
        if self.kept == 0 && self.lost.is_empty() {
            // A stream may be empty: it is made with an entry that is taken away again.
            self.lost.push((0, 1));
            piece.push(&[b"XADD", twin, b"0-1", b"x", b"x"]);
        }
        for group in &self.groups {
            let read = group.read.filter(|_| terms.newer).map(number);
            let mut create: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", twin, &group.name, &group.last];
            create.extend(read.iter().flat_map(|read| [b"ENTRIESREAD".as_slice(), read]));
            piece.push(&create);
            for consumer in &group.consumers {
                // Reading its own history makes a consumer, on every version, and delivers nothing.
                piece.push(&[b"XREADGROUP", b"GROUP", &group.name, consumer, b"COUNT", b"1", b"STREAMS", twin, b"0"]);
            }
            for Pending { id, consumer, delivered_us, deliveries } in &group.pending {
                let idle = number((terms.now_us as i64 - delivered_us).max(0) / 1000);
                let (id, count) = (text(*id), number(*deliveries));
                let tail: [&[u8]; 6] = [b"IDLE", &idle, b"RETRYCOUNT", &count, b"FORCE", b"JUSTID"];
                piece.push(&[&[b"XCLAIM".as_slice(), twin, &group.name, consumer, b"0", &id], &tail[..]].concat());
            }
        }
        let trimmed = terms.newer && self.max_deleted.as_deref() == Some(b"0-0");
        if trimmed && !self.lost.is_empty() {
            // Nothing was ever deleted there, only trimmed, and XSETID cannot say so behind an XDEL.
            piece.push(&[b"XTRIM", twin, b"MAXLEN", b"=", &number(self.kept)]);
        } else {
            self.lost.iter().for_each(|id| piece.push(&[b"XDEL", twin, &text(*id)]));
        }
        match (self.added, &self.max_deleted) {
            (Some(added), Some(deleted)) if terms.newer => {
                // XSETID refuses a last id below the highest deleted one; clients can bring that about all the same, in two steps.
                let below = stream_id(&self.last) < stream_id(deleted);
                let first = if below { deleted } else { &self.last };
                piece.push(&[b"XSETID", twin, first, b"ENTRIESADDED", &number(added), b"MAXDELETEDID", deleted]);
                if below {
                    piece.push(&[b"XSETID", twin, &self.last]);
                }
            }
            _ => piece.push(&[b"XSETID", twin, &self.last]),
        }
    }
}

fn text((ms, seq): Id) -> Vec<u8> {
    format!("{ms}-{seq}").into_bytes()
}

/// The smallest id above this one: servers below 6.2 know no exclusive ranges.
fn above((ms, seq): Id) -> Option<Id> {
    match seq.checked_add(1) {
        Some(seq) => Some((ms, seq)),
        None => Some((ms.checked_add(1)?, 0)),
    }
}
