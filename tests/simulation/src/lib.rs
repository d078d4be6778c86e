//! One history = one seed: the real sequencer between two model servers, in virtual time, with everything going wrong.
//!
//! A [`plan::Plan`] is drawn from the seed: bounds (often tiny), clients and what they write, latencies, faults and when they
//! strike. A [`world::World`] plays it: a network that delivers bytes in pieces and late, servers that freeze, refuse, evict,
//! restart with and without their data, connections that are closed here and not dead there (H1), flips, a record that takes its
//! time to become durable, a proxy that dies. It does what the real shell does (`proxy/src/driver`): predecessors are killed by
//! id before a side is reported up, all lanes of a side die together, sockets take what they can.
//!
//! What is checked, under the names of the design:
//!
//! - I1, I2, I4, I5: when traffic has stopped and faults have ended, doubt empties by itself within bounded virtual time, and
//!   then both servers are equal: a write out of order, a refused one that was mirrored, a lost one all leave a difference.
//! - I4 during the history: a key that differs is explained by what the sequencer has written down.
//! - I3: each client gets exactly one reply per request, in order, of its protocol. Its own keys, on which nobody else writes,
//!   answer byte for byte what a server of its own would (so it reads its writes, across flips too); a counter shared by all
//!   never repeats; a connection is closed only where the primary was lost with a write in flight.
//! - I3 of those who listen and wait: a numbered message, published through the proxy and answered, reaches each subscriber once and in
//!   order, across flips done and undone; who waits for a key is served directly behind the write.
//! - I8: epochs grow one by one, and the primary is the one of the durable record, always.
//! - I7: a verify at any moment, with everything going wrong, reports no difference that nothing explains; and when all is quiet, one
//!   finds the differences that are planted then, by their kinds, and no other.
//! - I9: a flip's hold ends, done or undone, within its budget plus the time the record took.
//!
//! After a primary that lost its data (the named exception of I5), keys of the mirror that no client named are still there until
//! the operator decides, and either decision ends equal.
mod audience;
mod check;
mod client;
mod commands;
mod disk;
pub mod plan;
pub mod script;
mod shell;
mod verified;
pub mod world;

use plan::{Options, Plan};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// What a history did, for totals.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Replies that clients got.
    pub replies: u64,
    /// Flips that were done.
    pub flips: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Virtual time, microseconds.
    pub virtual_us: u64,
    /// Images taken.
    pub images: u64,
    /// Effects that the mirrors confirmed.
    pub effects: u64,
    /// Transactions of watching clients that ran, and those that were answered nil.
    pub watched: [u64; 2],
    /// Waiters that were given what was pushed later.
    pub served: u64,
    /// Messages that subscribers got.
    pub heard: u64,
    /// Starts behind a kill that knew nothing of what was in flight, and those that the journal told.
    pub restarts: [u64; 2],
    /// Verifies that ended, and planted differences that they found.
    pub verified: [u64; 2],
    /// Reads that were compared at their position, and planted differences that they found.
    pub shadowed: [u64; 2],
    /// Bytes of keys in doubt that went to the disk.
    pub spilled: u64,
}

/// A history that broke an invariant.
#[derive(Debug)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// What broke, beginning with the invariant's name.
    pub what: String,
    /// What happened, one line an event; empty unless asked for.
    pub trace: Vec<String>,
}

/// Plays one history.
///
/// # Errors
/// The invariant that broke.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Box<Failure>> {
    let mut trace = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let plan = Plan::draw(seed, options);
        World::new(plan, options, &mut trace).play()
    }));
    let what = match played {
        Ok(Ok(summary)) => return Ok(summary),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("I11: the core panicked: {}", text.unwrap_or_default())
        }
    };
    Err(Box::new(Failure { seed, what, trace }))
}
