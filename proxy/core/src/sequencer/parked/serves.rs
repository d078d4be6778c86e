//! Which keys a write can serve, and with how much (redis: `signalKeyAsReady`, called where a key comes to be or grows).

use super::wish::Name;
use super::{Line, SERVE_UNKNOWN_MAX};
use crate::command::{Command, Rule};
use crate::endpoint::Db;
use crate::resp::encode::parse_integer;
use crate::resp::request::Request;

/// What a key may have now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Ready {
    /// So many more elements of a list.
    List(usize),
    /// So many more members of a sorted set.
    Zset(usize),
    /// So many more entries of a stream.
    Stream(usize),
    /// Something, of a type and number that are not known: a retry that succeeds is followed by another.
    Any,
    /// Something for groups of a stream, one of each.
    Groups,
    /// Nothing: it may be gone, which ends the wait of a stream's group.
    Gone,
}

/// A key that waiters are to be called for.
#[derive(Debug)]
pub(super) struct Call {
    pub db: Db,
    pub key: Name,
    pub ready: Ready,
    /// A waiter that is served is followed by the next.
    pub chain: bool,
    /// Word is left with busy waiters. Not for what a retry might move: two moves in a circle would call each other for ever.
    pub tell: bool,
}

impl Call {
    pub fn new(db: Db, key: Name, ready: Ready) -> Call {
        Call { db, key, ready, chain: matches!(ready, Ready::Any | Ready::Gone | Ready::Groups), tell: true }
    }
}

impl Ready {
    /// How many waiters of a queue are served; None: the queue is not concerned. All readers of a stream are.
    pub(super) fn count(self, line: &Line) -> Option<usize> {
        match (self, line) {
            (Ready::List(n), Line::List) | (Ready::Zset(n), Line::Zset) | (Ready::Stream(n), Line::Group(_)) => Some(n),
            (Ready::Stream(_) | Ready::Any, Line::Read) => Some(usize::MAX),
            (Ready::Any, _) => Some(SERVE_UNKNOWN_MAX),
            (Ready::Gone | Ready::Groups, Line::Group(_)) => Some(1),
            _ => None,
        }
    }

    /// Both at once.
    pub fn and(self, other: Ready) -> Ready {
        match (self, other) {
            (Ready::List(a), Ready::List(b)) => Ready::List(a + b),
            (Ready::Zset(a), Ready::Zset(b)) => Ready::Zset(a + b),
            (Ready::Stream(a), Ready::Stream(b)) => Ready::Stream(a + b),
            (Ready::Gone, Ready::Gone) => Ready::Gone,
            _ => Ready::Any,
        }
    }
}

/// What one write, or one transaction, can serve.
#[derive(Debug, Default)]
pub(in super::super) struct Serves {
    /// Keys in the order in which they became ready.
    pub keys: Vec<(Db, Name, Ready)>,
    /// Databases of which any key may be ready.
    pub databases: Vec<Option<Db>>,
}

impl Serves {
    fn key(&mut self, db: Db, key: &[u8], ready: Ready, watched: &impl Fn(Db, &[u8]) -> Option<Name>) {
        let Some(name) = watched(db, key) else { return };
        match self.keys.iter_mut().find(|(at, known, _)| *at == db && *known == name) {
            Some((_, _, known)) => *known = known.and(ready),
            None => self.keys.push((db, name, ready)),
        }
    }

    /// Adds what a command may serve; `watched` knows the keys that somebody waits for.
    pub fn add(&mut self, db: Db, command: &Command, request: &Request<'_>, watched: &impl Fn(Db, &[u8]) -> Option<Name>) {
        let more = request.len().saturating_sub(2);
        let other = |at: usize| parse_integer(request.arg(at)).and_then(|db| Db::try_from(db).ok());
        let (at, ready) = match command.name {
            "LPUSH" | "RPUSH" | "LPUSHX" | "RPUSHX" => (1, Ready::List(more)),
            "LINSERT" => (1, Ready::List(1)),
            "LMOVE" | "RPOPLPUSH" | "BLMOVE" | "BRPOPLPUSH" => (2, Ready::List(1)),
            "ZADD" => (1, Ready::Zset(more / 2)),
            "ZINCRBY" => (1, Ready::Zset(1)),
            "GEOADD" => (1, Ready::Zset(more / 3)),
            "XADD" => (1, Ready::Stream(1)),
            "XGROUP DESTROY" => (2, Ready::Any),
            _ => return self.add_by_rule(db, command, request, watched, other),
        };
        self.key(db, request.arg(at), ready, watched);
    }

    fn add_by_rule(
        &mut self,
        db: Db,
        command: &Command,
        request: &Request<'_>,
        watched: &impl Fn(Db, &[u8]) -> Option<Name>,
        other: impl Fn(usize) -> Option<Db>,
    ) {
        match command.rule {
            Rule::FlushDb => return self.databases.push(Some(db)),
            Rule::FlushAll => return self.databases.push(None),
            Rule::SwapDb => return self.databases.extend([other(1), other(2)].into_iter().flatten().map(Some)),
            Rule::Move => other(2).into_iter().for_each(|to| self.key(to, request.arg(1), Ready::Any, watched)),
            Rule::Copy => {
                let to = (3..request.len()).find(|at| request.is(*at, "DB")).and_then(|at| other(at + 1)).unwrap_or(db);
                return self.key(to, request.arg(2), Ready::Any, watched);
            }
            _ => {}
        }
        for key in command.keys(request).filter(|key| key.used.writes()) {
            let ready = match command.rule {
                Rule::Delete | Rule::Set | Rule::SetEx | Rule::SetNx | Rule::GetSet | Rule::GetDel | Rule::Expire | Rule::GetEx => {
                    Ready::Gone
                }
                Rule::Move => Ready::Gone,
                Rule::Script | Rule::Image | Rule::RenameNx => Ready::Any,
                _ if key.used == crate::command::KeyUse::Overwrite || command.name == "RENAME" => Ready::Any,
                _ => continue,
            };
            self.key(db, key.name, ready, watched);
        }
    }
}
