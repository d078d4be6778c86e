//! A mirror that is frozen, then killed, then back empty, under a constant rate of writes: what clients saw of it, what the proxy held in
//! memory for it, and how long both sides took to be equal again (`prove outage`).
//!
//! Clients are compared with clients: each round has a visit of the load with the outage between two without, so that a machine that
//! slows down slows down both.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::pair::{Pair, in_step, until};

/// What one visit of the load saw.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Latency from the moment a command was due, milliseconds.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Commands a second that were answered.
    pub rps: f64,
    /// The 99th percentile of each second.
    pub seconds_ms: Vec<f64>,
}

/// One round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Without an outage, before and behind.
    pub calm: [Visit; 2],
    /// With it.
    pub outage: Visit,
    /// Anonymous memory of the proxy before the outage, and at most during it, KiB.
    pub memory_kib: [u64; 2],
    /// From the mirror's return to the proxy's word that it is in step.
    pub settled: Duration,
}

impl Round {
    /// The 99th percentile with the outage beside the mean of those without.
    pub fn ratio(&self) -> f64 {
        2.0 * self.outage.p99_ms / (self.calm[0].p99_ms + self.calm[1].p99_ms)
    }

    /// By how much the two without differ from each other: the larger 99th percentile beside the smaller.
    pub fn noise(&self) -> f64 {
        let [before, behind] = [self.calm[0].p99_ms, self.calm[1].p99_ms];
        before.max(behind) / before.min(behind)
    }
}

/// How long a mirror that is back may take.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// Memory that an outage may cost: what waits for the mirror (`mirror.queue_bytes_max`, 64 MiB), images under way (32 MiB), and
/// 100,000 keys in doubt at 300 bytes; KiB.
pub const MEMORY_KIB_MAX: u64 = (64 << 10) + (32 << 10) + 100_000 * 300 / 1024;

/// The load, as `loadtest` is started.
pub struct Load<'a> {
    /// The program.
    pub program: &'a Path,
    /// The workload file.
    pub workload: &'a Path,
    /// Length of a visit; the outage takes twelve of them.
    pub seconds: u32,
}

impl Load<'_> {
    fn start(&self, pair: &Pair, report: &Path) -> Result<Child> {
        let target = format!("proxy={},role=direct", pair.proxy.address());
        let mut command = Command::new(self.program);
        command.arg("run").arg(self.workload).args(["--target", &target, "--rounds", "1", "--seconds", &self.seconds.to_string()]);
        Ok(command.arg("--json").arg(report).stdout(Stdio::null()).spawn()?)
    }

    fn end(&self, mut child: Child, report: &Path) -> Result<Visit> {
        ensure!(child.wait()?.success(), "the load saw an error");
        let report: Json = serde_json::from_slice(&std::fs::read(report)?)?;
        let median = &report["lines"][0]["median"];
        let figure = |name: &str| median[name].as_f64().with_context(|| format!("{name} in {report}"));
        let seconds = report["lines"][0]["visits"][0]["seconds"].as_array().with_context(|| format!("no seconds in {report}"))?;
        let seconds_ms = seconds.iter().filter_map(|second| second["p99_ms"].as_f64()).collect();
        Ok(Visit { p99_ms: figure("p99_ms")?, max_ms: figure("max_ms")?, rps: figure("rps")?, seconds_ms })
    }

    fn visit(&self, pair: &Pair, report: &Path) -> Result<Visit> {
        let child = self.start(pair, report)?;
        self.end(child, report)
    }
}

/// Plays one round; both sides are equal behind it.
pub fn round(pair: &mut Pair, load: &Load<'_>) -> Result<Round> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.json");
    let before = load.visit(pair, &report)?;
    pair.settle()?;
    let memory = |pair: &Pair| pair.proxy.pid().and_then(anonymous_kib).context("the proxy is gone");
    let mut memory_kib = [memory(pair)?; 2];
    let mut child = load.start(pair, &report)?;
    // What follows is the schedule of the fault, not a wait for anything.
    let begun = Instant::now();
    let mut pass = |pair: &Pair, second: f64| -> Result<()> {
        while begun.elapsed().as_secs_f64() < second {
            memory_kib[1] = memory_kib[1].max(memory(pair)?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    pass(pair, 3.0)?;
    pair.new.freeze()?;
    pass(pair, 7.0)?;
    pair.new.kill();
    pass(pair, 11.0)?;
    ensure!(child.try_wait()?.is_none(), "the load ended before the mirror was back: choose longer visits");
    pair.new.restart_empty()?;
    let back = Instant::now();
    pass(pair, f64::from(load.seconds))?;
    let outage = load.end(child, &report)?;
    until("the mirror to be in step", EQUAL_WITHIN.saturating_sub(back.elapsed()), || {
        memory_kib[1] = memory_kib[1].max(memory(pair)?);
        Ok(in_step(&pair.proxy.status()?))
    })
    .with_context(|| pair.proxy.log_tail())?;
    let settled = back.elapsed();
    pair.assert_equal()?;
    let behind = load.visit(pair, &report)?;
    Ok(Round { calm: [before, behind], outage, memory_kib, settled })
}

/// Memory that is the process's own: the journal is a file's.
fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.split_whitespace().next()?.parse().ok()
}
