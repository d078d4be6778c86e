//! Workloads against several targets in turn, side by side in one run.
//!
//! A shared machine has moods, so absolute figures mean little: every round visits every target once, and figures are
//! told as ratios to the direct connection and to the best peer: of each round, whose visits share a mood, and of these ratios
//! the median, the least and the largest. CPU per command is the target process' own time; the generator's is printed beside it,
//! because a run in which the generator was the bottleneck says nothing about the targets.

pub mod peers;
pub mod plot;
pub mod targets;
pub mod workload;

use crate::engine::{Group, Pace};
use crate::proc_stat;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::{Duration, Instant};
use targets::{Role, Target};
use workload::Workload;

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// In this order.
    pub workloads: Vec<Workload>,
    /// The first is the direct connection.
    pub targets: Vec<Target>,
    /// Visits of each target for each workload.
    pub rounds: usize,
    /// Measured time of one visit, instead of the workload's own.
    pub seconds: Option<f64>,
    /// Unmeasured time before it.
    pub warmup_seconds: f64,
    /// Servers behind the targets, whose CPU is shown too.
    pub server_pids: Vec<u32>,
    /// Same seed, same requests.
    pub seed: u64,
}

/// One visit.
#[derive(Debug, Clone, Serialize)]
pub struct Visit {
    /// Replies a second.
    pub rps: f64,
    /// Latency quantiles in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The target's CPU per command.
    pub cpu_us: Option<f64>,
    /// The CPU per command of the servers behind it.
    pub servers_cpu_us: Option<f64>,
    /// The generator's own.
    pub generator_cpu_us: f64,
    /// Resident memory at the end of the visit.
    pub rss_kib: Option<u64>,
    /// Wrong replies and lost connections.
    pub errors: u64,
    /// Second by second, where one visit is told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seconds: Vec<Second>,
}

/// What was answered within one second of a visit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Second {
    /// Replies.
    pub replies: u64,
    /// Latency that 99 of 100 kept, milliseconds.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// One target under one workload: medians over the rounds, and every visit.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The workload.
    pub workload: String,
    /// The target.
    pub target: String,
    /// Its role.
    pub role: Role,
    /// Medians; `errors` is the sum.
    pub median: Visit,
    /// `rps` over the direct target's.
    pub rps_to_direct: Option<Ratio>,
    /// `rps` over that of the peer with the largest.
    pub rps_to_best_peer: Option<Ratio>,
    /// CPU per command over that of the peer with the least.
    pub cpu_to_best_peer: Option<Ratio>,
    /// `p50_ms` over that of the peer with the least.
    pub p50_to_best_peer: Option<Ratio>,
    /// `p99_ms` over that of the peer with the least.
    pub p99_to_best_peer: Option<Ratio>,
    /// The spread of `rps`: (largest - smallest) / median.
    pub rps_spread: f64,
    /// In the order of the rounds.
    pub visits: Vec<Visit>,
}

/// A figure of one target over that of another one, round by round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the rounds' ratios.
    pub median: f64,
    /// The smallest of them.
    pub least: f64,
    /// The largest.
    pub largest: f64,
}

impl Ratio {
    fn of(own: &Line, other: &Line, field: Field) -> Option<Ratio> {
        let pairs = own.visits.iter().zip(&other.visits);
        let ratios: Vec<f64> = pairs.filter_map(|(own, other)| Some(field(own)? / field(other).filter(|other| *other > 0.0)?)).collect();
        let (least, largest) = (ratios.iter().copied().min_by(f64::total_cmp)?, ratios.iter().copied().max_by(f64::total_cmp)?);
        Some(Ratio { median: median(ratios)?, least, largest })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.2} ({:.2}–{:.2})", self.median, self.least, self.largest)
    }
}

type Field = fn(&Visit) -> Option<f64>;

/// The whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// No wrong reply and no lost connection anywhere.
    pub good: bool,
    /// How many rounds.
    pub rounds: usize,
    /// By workload, then target.
    pub lines: Vec<Line>,
}

/// Runs inside a `LocalSet`. Each round visits every target for every workload, and begins with other processes of those that were started here: two starts
/// of one program differ by some per cent for as long as they live, so the spread of the rounds has that in it.
pub async fn run(mut options: Options) -> Result<Report> {
    if options.targets.is_empty() || options.workloads.is_empty() || options.rounds == 0 {
        bail!("nothing to run: at least one target, one workload, one round");
    }
    let count = options.targets.len();
    let mut visits = vec![vec![Vec::new(); count]; options.workloads.len()];
    for round in 0..options.rounds {
        if round > 0 {
            for target in &mut options.targets {
                target.restart().await?;
            }
        }
        for (workload, visits) in options.workloads.iter().zip(&mut visits) {
            // Each round begins with another one: nobody follows the same neighbour all the time.
            for at in (0..count).map(|place| (round + place) % count) {
                let target = &options.targets[at];
                // Of another workload these keys may have other values.
                if workload.prefill {
                    prefill(workload, target).await?;
                }
                eprint!("\rround {} of {}, {}: {}            ", round + 1, options.rounds, workload.name, target.name);
                visits[at].push(visit(workload, target, &options, round as u64).await?);
            }
        }
    }
    eprintln!();
    let lines: Vec<Line> =
        options.workloads.iter().zip(visits).flat_map(|(workload, visits)| summarise(workload, &options.targets, visits)).collect();
    Ok(Report { good: lines.iter().all(|line| line.median.errors == 0), rounds: options.rounds, lines })
}

/// Longest time that writing every key once may take.
const PREFILL_MAX: Duration = Duration::from_secs(300);

async fn prefill(workload: &Workload, target: &Target) -> Result<()> {
    // One batch of every key, in slices that leave the socket buffers room.
    let pace = Pace::Closed { depth: workload.keys.min(256) as usize, think: Duration::ZERO };
    let group = Group::connect(&target.name, &target.address, pace, vec![workload.prefill_source()]).await?;
    group.begin()?;
    group.answered(workload.keys, PREFILL_MAX).await.with_context(|| format!("the keys that {:?} needs", workload.name))?;
    group.finish(Duration::from_secs(5)).await;
    Ok(())
}

async fn visit(workload: &Workload, target: &Target, options: &Options, round: u64) -> Result<Visit> {
    let sources = workload.sources(options.seed + round);
    let group = Group::connect(&target.name, &target.address, workload.pace(), sources).await?;
    group.begin()?;
    tokio::time::sleep(Duration::from_secs_f64(options.warmup_seconds)).await;
    let cpu = |pids: &[u32]| pids.iter().map(|pid| proc_stat::cpu_ns(*pid).unwrap_or(0)).sum::<u64>();
    let (target_pid, own_pid) = (target.pid.as_slice(), [std::process::id()]);
    let before = [cpu(target_pid), cpu(&options.server_pids), cpu(&own_pid)];
    group.meter.borrow_mut().restart();
    let start = Instant::now();
    let told = by_second(&group, Duration::from_secs_f64(options.seconds.unwrap_or(workload.seconds))).await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = [cpu(target_pid), cpu(&options.server_pids), cpu(&own_pid)];
    let (replies, latency) = {
        let meter = group.meter.borrow();
        (meter.replies, meter.latency_ns.clone())
    };
    let rss_kib = target.pid.and_then(proc_stat::rss_kib);
    group.finish(Duration::from_secs(5)).await;
    let meter = group.meter.borrow();
    let per_command = |index: usize| (after[index] - before[index]) as f64 / 1e3 / replies.max(1) as f64;
    let quantile = |share| latency.value_at_quantile(share) as f64 / 1e6;
    Ok(Visit {
        rps: replies as f64 / seconds,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        p999_ms: quantile(0.999),
        max_ms: latency.max() as f64 / 1e6,
        cpu_us: target.pid.map(|_| per_command(0)),
        servers_cpu_us: (!options.server_pids.is_empty()).then(|| per_command(1)),
        generator_cpu_us: per_command(2),
        rss_kib,
        errors: meter.wrong + meter.disconnects,
        seconds: told,
    })
}

/// The measured time, and what was answered in each second of it.
async fn by_second(group: &Group, length: Duration) -> Result<Vec<Second>> {
    let start = tokio::time::Instant::now();
    let (mut told, mut before) = (Vec::new(), group.meter.borrow().latency_ns.clone());
    while start.elapsed() < length {
        tokio::time::sleep_until(start + length.min(Duration::from_secs(told.len() as u64 + 1))).await;
        let now = group.meter.borrow().latency_ns.clone();
        let mut second = now.clone();
        second.subtract(&before)?;
        let p99_ms = second.value_at_quantile(0.99) as f64 / 1e6;
        told.push(Second { replies: second.len(), p99_ms, max_ms: second.max() as f64 / 1e6 });
        before = now;
    }
    Ok(told)
}

fn summarise(workload: &Workload, targets: &[Target], visits: Vec<Vec<Visit>>) -> Vec<Line> {
    compare(targets.iter().zip(visits).map(|(target, visits)| line(workload, target, visits)).collect())
}

/// With their ratios.
fn compare(lines: Vec<Line>) -> Vec<Line> {
    let direct = lines.iter().find(|line| line.role == Role::Direct);
    let least = |field: Field| {
        let peers = lines.iter().filter(|line| line.role == Role::Peer);
        let known = peers.filter_map(|line| Some((line, field(&line.median)?)));
        known.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(line, _)| line)
    };
    let fastest = least(|visit| Some(-visit.rps));
    let ratio = |own: &Line, other: Option<&Line>, field: Field| Ratio::of(own, other?, field);
    let to_best = |own: &Line, field: Field| ratio(own, least(field), field);
    let told = lines.iter().map(|line| Line {
        rps_to_direct: ratio(line, direct, |visit| Some(visit.rps)),
        rps_to_best_peer: ratio(line, fastest, |visit| Some(visit.rps)),
        cpu_to_best_peer: to_best(line, |visit| visit.cpu_us),
        p50_to_best_peer: to_best(line, |visit| Some(visit.p50_ms)),
        p99_to_best_peer: to_best(line, |visit| Some(visit.p99_ms)),
        ..line.clone()
    });
    told.collect()
}

fn line(workload: &Workload, target: &Target, visits: Vec<Visit>) -> Line {
    let of = |field: fn(&Visit) -> Option<f64>| median(visits.iter().filter_map(field).collect());
    let each = |field: fn(&Visit) -> Option<f64>| of(field).unwrap_or(0.0);
    let rps: Vec<f64> = visits.iter().map(|visit| visit.rps).collect();
    let median = Visit {
        rps: each(|visit| Some(visit.rps)),
        p50_ms: each(|visit| Some(visit.p50_ms)),
        p99_ms: each(|visit| Some(visit.p99_ms)),
        p999_ms: each(|visit| Some(visit.p999_ms)),
        max_ms: each(|visit| Some(visit.max_ms)),
        cpu_us: of(|visit| visit.cpu_us),
        servers_cpu_us: of(|visit| visit.servers_cpu_us),
        generator_cpu_us: each(|visit| Some(visit.generator_cpu_us)),
        rss_kib: of(|visit| visit.rss_kib.map(|kib| kib as f64)).map(|kib| kib as u64),
        errors: visits.iter().map(|visit| visit.errors).sum(),
        seconds: Vec::new(),
    };
    let largest = rps.iter().copied().fold(0.0, f64::max);
    let smallest = rps.iter().copied().fold(f64::INFINITY, f64::min);
    Line {
        workload: workload.name.clone(),
        target: target.name.clone(),
        role: target.role,
        rps_spread: if median.rps > 0.0 { (largest - smallest) / median.rps } else { 0.0 },
        median,
        rps_to_direct: None,
        rps_to_best_peer: None,
        cpu_to_best_peer: None,
        p50_to_best_peer: None,
        p99_to_best_peer: None,
        visits,
    }
}

/// The middle one; the mean of the two in the middle of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

impl Report {
    /// For people: a block per workload, a line per target.
    pub fn text(&self) -> String {
        let mut text = format!(
            "medians of {} rounds; CPU in µs per command; ratios, round by round: rps to direct, rps and CPU to the best peer\n",
            self.rounds
        );
        let mut workload = "";
        for line in &self.lines {
            if line.workload != workload {
                workload = &line.workload;
                text += &format!(
                    "\n{workload}\n  {:<12}{:>9}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>8}{:>9}{:>9}{:>8}{:>7}\n",
                    "target",
                    "rps",
                    "spread",
                    "/direct",
                    "/peer",
                    "p50 ms",
                    "p99 ms",
                    "p99.9 ms",
                    "cpu",
                    "/peer",
                    "servers",
                    "loadgen",
                    "MiB",
                    "errors"
                );
            }
            let cpu = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
            let (visit, ratio) = (&line.median, |ratio: Option<Ratio>| cpu(ratio.map(|ratio| ratio.median)));
            text += &format!(
                "  {:<12}{:>9.0}{:>7.0}%{:>8}{:>8}{:>9.3}{:>9.3}{:>9.3}{:>9}{:>8}{:>9}{:>9.2}{:>8}{:>7}\n",
                line.target,
                visit.rps,
                line.rps_spread * 100.0,
                ratio(line.rps_to_direct),
                ratio(line.rps_to_best_peer),
                visit.p50_ms,
                visit.p99_ms,
                visit.p999_ms,
                cpu(visit.cpu_us),
                ratio(line.cpu_to_best_peer),
                cpu(visit.servers_cpu_us),
                visit.generator_cpu_us,
                visit.rss_kib.map_or("-".into(), |kib| format!("{:.1}", kib as f64 / 1024.0)),
                visit.errors,
            );
        }
        text + if self.good { "\nno errors\n" } else { "\nTHERE WERE ERRORS\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::targets::Role;
    use super::{Line, Ratio, Visit, compare, median};

    /// Rounds with these rates; what else is told follows from them.
    fn line(target: &str, role: Role, rates: [f64; 3]) -> Line {
        let visit = |rps: f64| Visit {
            rps,
            p50_ms: 1.0 / rps,
            p99_ms: 2.0 / rps,
            p999_ms: 3.0 / rps,
            max_ms: 4.0 / rps,
            cpu_us: (role != Role::Direct).then_some(1000.0 / rps),
            servers_cpu_us: None,
            generator_cpu_us: 1.0,
            rss_kib: None,
            errors: 0,
            seconds: Vec::new(),
        };
        Line {
            workload: "w".into(),
            target: target.into(),
            role,
            median: visit(median(rates.to_vec()).unwrap()),
            rps_to_direct: None,
            rps_to_best_peer: None,
            cpu_to_best_peer: None,
            p50_to_best_peer: None,
            p99_to_best_peer: None,
            rps_spread: 0.0,
            visits: rates.map(visit).to_vec(),
        }
    }

    #[test]
    fn ratios_are_those_of_the_rounds() {
        // Each round is twice as slow as the one before; the floor is no peer.
        let lines = compare(vec![
            line("direct", Role::Direct, [400.0, 200.0, 100.0]),
            line("floor", Role::Floor, [390.0, 190.0, 90.0]),
            line("slow", Role::Peer, [100.0, 50.0, 25.0]),
            line("fast", Role::Peer, [200.0, 100.0, 50.0]),
            line("ours", Role::Subject, [220.0, 100.0, 60.0]),
        ]);
        let ours = &lines[4];
        let near = |ratio: Option<Ratio>, expect: [f64; 3]| {
            let ratio = ratio.unwrap();
            let got = [ratio.median, ratio.least, ratio.largest];
            assert!(got.iter().zip(expect).all(|(got, expect)| (got - expect).abs() < 1e-9), "{got:?}, not {expect:?}");
        };
        near(ours.rps_to_direct, [0.55, 0.5, 0.6]);
        near(ours.rps_to_best_peer, [1.1, 1.0, 1.2]);
        for (ratio, name) in [(ours.cpu_to_best_peer, "CPU"), (ours.p50_to_best_peer, "p50"), (ours.p99_to_best_peer, "p99")] {
            near(ratio, [1.0 / 1.1, 1.0 / 1.2, 1.0]);
            assert_eq!(ratio.unwrap().to_string(), "0.91 (0.83–1.00)", "{name}");
        }
        assert_eq!(lines[0].cpu_to_best_peer, None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
