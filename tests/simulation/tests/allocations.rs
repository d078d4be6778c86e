//! Allocations per command in the core, for a fixed script of traffic: the same on every machine, so that a change which makes the hot path
//! allocate is seen at once. Instructions are counted by `make price`.

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use twinlane_simulation::script::{Kind, Script};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

const COMMANDS: usize = 16_000;

/// A queue that grows once, or the tick. One allocation per command would be a thousand.
const PER_THOUSAND_MAX: usize = 10;

/// Allocations of so many commands per thousand commands.
fn per_thousand(depth: usize, kind: Kind) -> usize {
    let mut script = Script::begin(true, 0, allocations);
    script.prepare();
    script.play(COMMANDS, depth, kind);
    let before = script.spent;
    script.play(COMMANDS, depth, kind);
    (script.spent - before) * 1000 / COMMANDS
}

/// A read or a write of one key allocates nothing on its way; what is left is a buffer now and then, and the tick.
#[test]
fn the_usual_request_allocates_nothing() {
    let mut failures = Vec::new();
    for kind in [Kind::Reads, Kind::Sets, Kind::Mixed] {
        for depth in [1, 16] {
            let found = per_thousand(depth, kind);
            println!("{kind:?} at depth {depth}: {found} allocations per thousand commands");
            if found > PER_THOUSAND_MAX {
                failures.push(format!("{kind:?} at depth {depth}: {found} allocations per thousand commands, at most {PER_THOUSAND_MAX}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("; "));
}
