//! The last writes: which key, when, by which command of which client, and what became of it. People ask (`explain`), and a confirmed
//! difference is told with the command that wrote last.
//!
//! Every write passes here, so nothing is allocated or looked up: a fingerprint and a few numbers go to the next place of a ring. Clients are
//! named when somebody asks; of those that have gone the last ones are remembered.

use super::Sequencer;
use super::session::SessionId;
use crate::command::{Command, Table};
use crate::effect::Effect;
use crate::endpoint::Db;
use crate::explained::{LastWrite, WriteEffect, Writer};
use crate::limits;
use crate::resp::request::Request;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

/// One write of one key.
#[derive(Debug, Clone, Copy)]
struct Write {
    at_ms: i64,
    writer: Option<SessionId>,
    command: u16,
    effect: WriteEffect,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writes {
    /// Keyed fingerprints of database and key, apart from the rest: they are what is searched.
    prints: Box<[u64]>,
    writes: Box<[Write]>,
    next: usize,
    /// Whose write is being answered.
    pub writer: Option<SessionId>,
    gone: VecDeque<Writer>,
    state: ahash::RandomState,
}

impl Writes {
    /// Remembers nothing yet. `seed` is secret, since clients choose the keys.
    pub fn new(seed: [u64; 2]) -> Writes {
        let nothing = Write { at_ms: 0, writer: None, command: 0, effect: WriteEffect::None };
        Writes {
            prints: vec![0; limits::RECENT_WRITES].into_boxed_slice(),
            writes: vec![nothing; limits::RECENT_WRITES].into_boxed_slice(),
            next: 0,
            writer: None,
            gone: VecDeque::new(),
            state: ahash::RandomState::with_seeds(seed[0] ^ 0x7ec3, seed[1], !seed[0], !seed[1]),
        }
    }

    fn print(&self, db: Db, key: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u16(db);
        hasher.write(key);
        // Zero is a place that was never used.
        hasher.finish() | 1
    }

    fn push(&mut self, db: Db, key: &[u8], write: Write) {
        let print = self.print(db, key);
        let at = self.next & (limits::RECENT_WRITES - 1);
        (self.prints[at], self.writes[at]) = (print, write);
        self.next = at + 1;
    }

    /// The writes of a key, the youngest first.
    fn of(&self, db: Db, key: &[u8]) -> impl Iterator<Item = &Write> {
        let print = self.print(db, key);
        let (young, old) = (0..self.next, self.next..self.prints.len());
        young.rev().chain(old.rev()).filter(move |at| self.prints[*at] == print).map(|at| &self.writes[at])
    }

    /// The command that wrote the key last.
    pub fn last_command(&self, db: Db, key: &[u8]) -> Option<&'static str> {
        self.of(db, key).next().map(|write| name(write.command))
    }

    /// A client is gone: should somebody ask who wrote.
    pub fn note_gone(&mut self, writer: Writer) {
        if self.gone.len() >= limits::RECENT_CLIENTS {
            self.gone.pop_front();
        }
        self.gone.push_back(writer);
    }
}

fn name(command: u16) -> &'static str {
    Table::get().rows().get(usize::from(command)).map_or("?", |row| row.name)
}

impl Sequencer {
    /// A command that writes was answered, and this became of it. `sent`: its effect went to the mirror.
    pub(super) fn note_write(&mut self, db: Db, command: &'static Command, request: &Request<'_>, effect: Effect, sent: bool) {
        if !command.writes() {
            return;
        }
        let became = match effect {
            _ if !self.record.mirroring => WriteEffect::None,
            Effect::Nothing => WriteEffect::None,
            Effect::Rewritten { .. } if sent => WriteEffect::Rewritten,
            _ if sent => WriteEffect::Replayed,
            _ if self.mirror_refuses(db).is_some() => WriteEffect::Collapsed,
            Effect::Keyless { .. } | Effect::FlushDb => WriteEffect::Replayed,
            _ => WriteEffect::Image,
        };
        let write = Write { at_ms: self.now.unix_ms, writer: self.writes.writer, command: command.index as u16, effect: became };
        match command.lone_written(request) {
            Some(key) => self.writes.push(db, key, write),
            None => command.keys(request).filter(|key| key.used.writes()).for_each(|key| self.writes.push(db, key.name, write)),
        }
    }

    /// The last writes of a key, for people.
    pub(super) fn last_writes(&self, db: Db, key: &[u8]) -> Vec<LastWrite> {
        let told = |write: &Write| LastWrite {
            at: write.at_ms,
            command: name(write.command),
            effect: write.effect,
            client: write.writer.and_then(|id| self.writer(id)),
        };
        self.writes.of(db, key).take(limits::EXPLAINED_WRITES).map(told).collect()
    }

    /// What a client is known by.
    pub(super) fn writer(&self, id: SessionId) -> Option<Writer> {
        let Some(session) = self.sessions.get(id) else {
            return self.writes.gone.iter().rev().find(|gone| gone.id == id.number()).cloned();
        };
        let name = String::from_utf8_lossy(&session.about.name).into_owned();
        Some(Writer { id: id.number(), name, address: session.about.addresses.peer.to_string(), connected: true })
    }
}

const _: () = assert!(limits::RECENT_WRITES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_youngest_comes_first_and_the_oldest_is_forgotten() {
        let mut writes = Writes::new([1, 2]);
        let write = |at_ms: i64| Write { at_ms, writer: None, command: 0, effect: WriteEffect::Replayed };
        writes.push(0, b"k", write(1));
        writes.push(1, b"k", write(2));
        writes.push(0, b"k", write(3));
        assert_eq!(writes.of(0, b"k").map(|write| write.at_ms).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(writes.of(1, b"k").count(), 1);
        assert!(writes.last_command(0, b"k").is_some() && writes.last_command(0, b"other").is_none());
        (0..limits::RECENT_WRITES as i64 - 1).for_each(|at| writes.push(0, b"many", write(at)));
        assert_eq!(writes.of(0, b"k").map(|write| write.at_ms).collect::<Vec<_>>(), [3]);
        assert_eq!(writes.of(0, b"many").next().map(|write| write.at_ms), Some(limits::RECENT_WRITES as i64 - 2));
        writes.push(0, b"many", write(9));
        assert_eq!(writes.of(0, b"k").count(), 0);
    }
}
