//! `kill -9` of the proxy at random moments under a contended load, again and again over one pair and one state directory.
//!
//! What each kill must show: the next process repairs the keys that its journal names and walks no keyspace, and then both servers are
//! equal. Some kills come while the mirror is frozen, so that effects wait; some while a large value is on its way to the frozen one: what
//! the dead connection still has in its buffers must not run behind the repair (H1).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::pair::{PATIENCE, Pair, Setup, in_step, until};
use crate::resp::{Client, command};
use crate::servers::Version;
use crate::workload::{Options as Load, Workload};

/// Keys that nobody touches while the proxy is killed: a walk over them would be seen.
const QUIET_KEYS: usize = 5_000;

/// A value that does not fit into the buffers of a socket.
const LARGE: usize = 6 << 20;

/// What the kills cost.
#[derive(Debug, Default)]
pub struct Totals {
    /// Kills.
    pub kills: u32,
    /// Those with the mirror frozen.
    pub frozen: u32,
    /// From the first answer of the new process to both sides in step.
    pub settled: Vec<Duration>,
    /// Keys that the journal named.
    pub named: Vec<u64>,
}

/// Kills the proxy so often. `seed` chooses the moments.
///
/// # Errors
/// The first kill behind which the servers differ, a keyspace was walked, or nothing settled.
pub fn kill_again_and_again(kills: u32, seed: u64) -> Result<Totals> {
    let mut pair = Pair::start(Setup::of(Version::Redis70, Version::Redis70))?;
    fill(&pair)?;
    pair.assert_equal()?;
    // A moment is what the journal rests on: the mirror's state as one tick sees it.
    pair.wait_status("the journal to be complete", |status| status["journal"]["complete"] == true)?;
    let mut totals = Totals::default();
    for kill in 0..kills {
        let chosen = mix(seed ^ u64::from(kill) << 32);
        one(&mut pair, chosen, &mut totals).with_context(|| format!("kill {kill} of seed {seed}"))?;
    }
    Ok(totals)
}

fn one(pair: &mut Pair, chosen: u64, totals: &mut Totals) -> Result<()> {
    let (frozen, large) = (chosen.is_multiple_of(3), chosen.is_multiple_of(6));
    let workload = Workload::start(&pair.proxy.address(), &Load { clients: 8, keys: 4, seed: chosen })?;
    let before = 200 + mix(chosen) % 3_000;
    until("some load", PATIENCE, || Ok(workload.commands() > before))?;
    let mut late = None;
    if frozen {
        // The mirror is always the one that waits.
        let primary = pair.proxy.status()?["primary"].as_str().map(str::to_owned);
        if primary.as_deref() == Some("new") {
            pair.old.freeze()?
        } else {
            pair.new.freeze()?
        }
        if large {
            let mut client = pair.client()?;
            client.set_timeout(Duration::from_secs(10))?;
            client.send(&[b"SET".to_vec(), b"large".to_vec(), vec![b'a' + (chosen % 26) as u8; LARGE]])?;
            client.receive()?;
            late = Some(client);
        }
        let more = workload.commands() + mix(chosen ^ 7) % 2_000;
        until("load while the mirror waits", PATIENCE, || Ok(workload.commands() > more))?;
    }
    pair.proxy.kill9();
    drop(late);
    workload.stop();
    pair.proxy.launch()?;
    if frozen {
        // It comes back while the new process already knows that it is gone, or before.
        pair.old.thaw()?;
        pair.new.thaw()?;
    }
    pair.proxy.wait_until_ready(PATIENCE)?;
    let begun = Instant::now();
    let status = pair.settle()?;
    totals.settled.push(begun.elapsed());
    ensure!(in_step(&status), "{status}");
    ensure!(status["mirror"]["scanned_keys"] == 0, "a keyspace was walked\n{}", pair.proxy.log_tail());
    pair.compare().with_context(|| pair.proxy.log_tail())?;
    let log = pair.proxy.log();
    let named = log.rsplit("the journal names ").next().and_then(|rest| rest.split(' ').next()).and_then(|count| count.parse().ok());
    totals.named.push(named.context("the log does not say how many keys the journal names")?);
    totals.kills += 1;
    totals.frozen += u32::from(frozen);
    Ok(())
}

fn fill(pair: &Pair) -> Result<()> {
    let mut client: Client = pair.client()?;
    let commands: Vec<_> = (0..QUIET_KEYS).map(|number| command(&format!("SET quiet:{number} {number}"))).collect();
    client.pipeline(&commands)?;
    Ok(())
}

/// Spreads a number's bits (splitmix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
