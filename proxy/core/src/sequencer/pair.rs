//! Whether these two servers make a pair: what the operator should know of them before the role moves. The shell asks the servers; what
//! follows from their answers is said here, as findings of readiness.

use super::lane::What;
use super::sides::Side;
use super::{Now, Sequencer};
use crate::command::Table;
use crate::endpoint::{Db, Endpoint};
use crate::status::{Finding, Level};

/// Memory of a server, as `INFO` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// `used_memory`, bytes.
    pub used: u64,
    /// `maxmemory`, bytes; 0: no limit.
    pub max: u64,
    /// `maxmemory_policy`; empty where the server does not tell.
    pub policy: String,
}

impl Memory {
    /// The server may remove keys by itself, or does not tell.
    pub(super) fn can_evict(&self) -> bool {
        self.policy.is_empty() || (self.max > 0 && self.policy != "noeviction")
    }
}

/// A share of the mirror's limit above which the primary's data is close to it, in hundredths.
const CLOSE_PERCENT: u64 = 80;

impl Sequencer {
    /// Whether each side takes the `DUMP` payloads of the other: of `old` on `new`, of `new` on `old`. None: it could not be tried.
    pub fn handle_images_tried(&mut self, carried: [Option<bool>; 2], now: Now) {
        self.now = now;
        self.images_carried = carried;
        self.settle();
    }

    /// How images of a side reach the other, for people.
    pub(super) fn image_words(&self) -> [&'static str; 2] {
        self.images_carried.map(|carried| match carried {
            None => "unknown",
            Some(true) => "dump",
            Some(false) => "typed",
        })
    }

    /// Time passes: connections that have carried nothing for long get a PING. Managed services close them after ten minutes without
    /// a command, TCP's own probes or not.
    pub(super) fn tick_idle(&mut self) {
        let idle_us = self.settings.keepalive_us;
        if idle_us == 0 || self.holding || !self.may_ask() || self.now.us < self.idle_look_at {
            return;
        }
        let now = self.now.us;
        self.idle_look_at = now + (idle_us / 4).min(1_000_000);
        for side in Endpoint::BOTH {
            if !self.is_up(side) {
                continue;
            }
            let idle =
                |lane: &super::lane::Lane| lane.is_open() && lane.in_flight.is_empty() && now.saturating_sub(lane.used_at) >= idle_us;
            let lanes = self.sides[side.index()].all_lanes().filter(|(_, lane)| idle(lane));
            let lanes: Vec<_> = lanes.map(|(id, _)| id).collect();
            for id in lanes {
                if let Some(lane) = self.lane_mut(id) {
                    lane.push(&[b"*1\r\n$4\r\nPING\r\n"], What::Silent, 1, now);
                }
                self.touch_lane(id);
            }
        }
    }

    pub(super) fn pair_findings(&self, found: &mut Vec<Finding>) {
        let (from, to) = (self.primary(), self.mirror_side());
        let (primary, mirror) = (&self.sides[from.index()], &self.sides[to.index()]);
        if !self.sides.iter().all(Side::is_up) {
            return;
        }
        let mut find = |level, code, subject: String, text: String, remedy: &str| {
            found.push(Finding { level, code, subject, text, remedy: remedy.into() });
        };
        if let Some(level) = fits(&primary.memory, &mirror.memory) {
            let text =
                format!("the data of `{from}` takes {} bytes, and `{to}` is limited to {} bytes", primary.memory.used, mirror.memory.max);
            find(
                level,
                "mirror-memory",
                to.to_string(),
                text,
                "give it more memory: a mirror that evicts or refuses writes cannot take over",
            );
        }
        let policies = [&primary.memory.policy, &mirror.memory.policy];
        if policies[0] != policies[1] && policies.iter().all(|policy| !policy.is_empty()) {
            let text = format!("maxmemory-policy is `{}` on `{from}` and `{}` on `{to}`", policies[0], policies[1]);
            find(
                Level::Warn,
                "memory-policy",
                to.to_string(),
                text,
                "set the same policy, or know that keys will be evicted by another rule",
            );
        }
        let beyond: Vec<Db> = primary.keyspace.iter().copied().filter(|db| usize::from(*db) >= mirror.databases).collect();
        if !beyond.is_empty() {
            let text = format!("databases {beyond:?} hold keys, and `{to}` has {} databases", mirror.databases);
            find(Level::Block, "databases-missing", to.to_string(), text, "raise `databases` there, or move the keys to a database it has");
        } else if mirror.databases < primary.databases {
            let text = format!("`{from}` has {} databases, `{to}` has {}", primary.databases, mirror.databases);
            find(Level::Info, "databases-fewer", to.to_string(), text, "nothing while no client selects the others");
        }
        let rows =
            Table::get().rows().iter().filter(|row| self.totals.commands[row.index].0 > 0 && !mirror.knows(row) && primary.knows(row));
        for row in rows {
            let text = format!("clients use {}, which `{to}` ({}) does not have", row.name, mirror.version);
            find(Level::Block, "command-missing", row.name.to_owned(), text, "do without it, or give a server that has it");
        }
        for side in Endpoint::BOTH.into_iter().filter(|side| self.images_carried[side.index()] == Some(false)) {
            let text = format!("`{}` does not take the DUMP format of `{side}`: keys are copied type by type", side.other());
            find(Level::Info, "images-typed", side.to_string(), text, "nothing; copying takes longer");
        }
    }
}

/// Whether the primary's data fits the mirror; None: it does.
fn fits(primary: &Memory, mirror: &Memory) -> Option<Level> {
    match mirror.max {
        0 => None,
        max if primary.used > max => Some(Level::Block),
        max if primary.used > max / 100 * CLOSE_PERCENT => Some(Level::Warn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_is_too_small_blocks() {
        let memory = |used, max| Memory { used, max, policy: String::new() };
        for (used, max, expect) in
            [(1_000_000, 0, None), (79_000, 100_000, None), (81_000, 100_000, Some(Level::Warn)), (100_001, 100_000, Some(Level::Block))]
        {
            assert_eq!(fits(&memory(used, 0), &memory(0, max)), expect, "{used} of {max}");
        }
    }
}
