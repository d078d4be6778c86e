//! Differences that are planted for the length of a pass, one of each kind: a pass that does not find them sees nothing, and what it
//! tells proves nothing. They lie under the reserved prefix, on each side by a write of that side alone, with an end of their own in case the
//! proxy dies; they are taken away when their database has been walked (H31).

use super::super::Sequencer;
use super::super::lane::LaneId;
use super::Job;
use crate::divergence::DivergenceKind;
use crate::endpoint::{Db, Endpoint};
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;

const PLANTS: [(&[u8], DivergenceKind); 5] = [
    (b"__twinlane:verify:missing", DivergenceKind::Missing),
    (b"__twinlane:verify:extra", DivergenceKind::Extra),
    (b"__twinlane:verify:type", DivergenceKind::Type),
    (b"__twinlane:verify:value", DivergenceKind::Value),
    (b"__twinlane:verify:ttl", DivergenceKind::Ttl),
];

/// Of five, each side holds all but one.
const PER_SIDE: u64 = PLANTS.len() as u64 - 1;

/// They end by themselves, milliseconds.
const LIFE_MS: i64 = 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Wanted,
    /// Written; so many sides have not answered.
    Asked(u8),
    Planted,
    /// A side refused: the pass goes on and does not prove itself.
    Refused,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plants {
    state: State,
    found: [bool; PLANTS.len()],
}

impl Plants {
    /// Whether it is one of them, and lies there.
    pub fn has(&self, key: &[u8]) -> bool {
        self.state == State::Planted && PLANTS.iter().any(|(name, _)| *name == key)
    }

    /// As above, by database.
    pub fn is_planted(&self, db: Db, key: &[u8]) -> bool {
        db == 0 && key.starts_with(super::super::RESERVED_PREFIX) && self.has(key)
    }

    /// One was reported.
    pub fn found(&mut self, key: &[u8], kind: DivergenceKind) {
        for (at, plant) in PLANTS.iter().enumerate() {
            self.found[at] |= *plant == (key, kind);
        }
    }

    pub fn all_found(&self) -> bool {
        self.found.iter().all(|found| *found)
    }
}

impl Sequencer {
    /// Whether the pass may begin; plants what is to be found.
    pub(super) fn plants_are_ready(&mut self) -> bool {
        let Some(pass) = &mut self.verify.pass else { return false };
        match pass.plants.state {
            State::Planted | State::Refused => return true,
            State::Asked(_) => return false,
            State::Wanted => pass.plants.state = State::Asked(2),
        }
        let primary = self.primary();
        for side in Endpoint::BOTH {
            let mut frame = Vec::new();
            let replies = push_plants(&mut frame, side == primary);
            self.push_reading(side, 0, &frame, replies, Job::Plants { db: 0, planted: PER_SIDE });
        }
        false
    }

    /// Takes them away, wherever they lie.
    pub(super) fn remove_plants(&mut self, db: Db) {
        for side in Endpoint::BOTH {
            if !self.lane(LaneId::shared(side, db)).is_some_and(super::super::lane::Lane::is_open) {
                continue;
            }
            let mut frame = Vec::new();
            let names = PLANTS.map(|(name, _)| name);
            push_request(&mut frame, &[&[b"DEL".as_slice()], &names[..]].concat());
            self.push_reading(side, db, &frame, 1, Job::Plants { db, planted: 0 });
        }
    }

    pub(super) fn answer_plants(&mut self, side: Endpoint, db: Db, planted: u64, reply: Reply<'_>, current: bool) {
        if !reply.is_error() && db == 0 {
            self.verify.planted[side.index()] = planted;
        }
        let Some(pass) = self.verify.pass.as_mut().filter(|_| current && planted > 0) else { return };
        pass.plants.state = match pass.plants.state {
            _ if reply.is_error() => State::Refused,
            State::Asked(2) => State::Asked(1),
            State::Asked(_) => State::Planted,
            other => other,
        };
        if pass.plants.state == State::Refused {
            let text = String::from_utf8_lossy(reply.text()).into_owned();
            self.log(true, format!("the verify cannot prove itself: `{side}` refused what was to be planted: {text}"));
        }
    }

    /// A database was emptied, with what was planted in it.
    pub(in crate::sequencer) fn verify_emptied(&mut self, db: Db) {
        if db == 0 {
            self.verify.planted = [0; 2];
        }
        self.verify.extras.retain(|(home, _)| *home != db);
        self.restart_sweep_of(db, "the database was emptied");
        if self.verify.pass.as_ref().is_some_and(|pass| pass.census_asked) {
            self.restart_verify();
        }
    }

    /// Two databases changed places: what was planted lies in the other one, on one side already and on the other one soon.
    pub(in crate::sequencer) fn verify_swapped(&mut self, a: Db, b: Db) {
        // What the operator was told has other numbers now, and what has these numbers nobody was told of.
        self.forget_extras();
        self.swap_sweep(a, b);
        if self.verify.pass.is_some() && a.min(b) == 0 {
            self.verify.planted = [0; 2];
            self.remove_plants(a);
            self.remove_plants(b);
        }
        self.restart_verify();
    }
}

/// What one side is to hold: `true` for the primary. The last reply tells whether it was taken.
fn push_plants(frame: &mut Vec<u8>, primary: bool) -> u32 {
    let names = PLANTS.map(|(name, _)| name);
    push_request(frame, &[&[b"DEL".as_slice()], &names[..]].concat());
    let mut replies = 1;
    let mut push = |command: &[&[u8]]| {
        push_request(frame, command);
        replies += 1;
    };
    let life = number(LIFE_MS);
    for (name, kind) in PLANTS {
        let here = match kind {
            DivergenceKind::Missing => primary,
            DivergenceKind::Extra => !primary,
            _ => true,
        };
        if !here {
            continue;
        }
        match kind {
            DivergenceKind::Type if !primary => {
                push(&[b"RPUSH", name, b"planted"]);
                push(&[b"PEXPIRE", name, &life]);
            }
            DivergenceKind::Value => push(&[b"SET", name, if primary { b"one" } else { b"two" }, b"PX", &life]),
            DivergenceKind::Ttl => push(&[b"SET", name, b"planted", b"PX", &number(if primary { LIFE_MS } else { LIFE_MS / 2 })]),
            _ => push(&[b"SET", name, b"planted", b"PX", &life]),
        }
    }
    replies
}
