//! Flip after flip under a constant arrival rate: how long did a client wait, and was that us?
//!
//! A machine stalls by itself now and then, so the same generator also drives a plain server directly, in the
//! same run, and the longest wait on both is taken over the same windows: from the request for the flip until
//! everything that fell due before its answer has been answered. The gaps between flips are a second control.

use crate::admin::{Admin, Flip};
use crate::engine::{Check, Group, Pace, Source};
use crate::resp;
use crate::rng::Rng;
use anyhow::Result;
use serde::Serialize;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The proxy's data port.
    pub target: String,
    /// A plain server for comparison, if any.
    pub direct: Option<String>,
    /// The proxy's admin port.
    pub admin: String,
    /// Commands per second through the target.
    pub rate: f64,
    /// Commands per second at the plain server.
    pub direct_rate: f64,
    /// How many flips.
    pub flips: usize,
    /// Connections of each.
    pub clients: usize,
    /// Commands per batch.
    pub depth: usize,
    /// From one flip's end to the next.
    pub gap: Duration,
    /// How long a refused flip is asked for again.
    pub patience: Duration,
    /// Tells this run's keys from others'.
    pub run: u64,
    /// The median hold must be under this (ms).
    pub median_ms_max: Option<f64>,
    /// The 95th percentile must be under this (ms).
    pub p95_ms_max: Option<f64>,
}

/// Median, 95th, 99th percentile and the longest, in milliseconds.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Spread {
    /// How many were measured.
    pub count: usize,
    /// Half are shorter.
    pub median_ms: f64,
    /// 19 of 20 are shorter.
    pub p95_ms: f64,
    /// 99 of 100 are shorter.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Spread {
    /// Of any number of milliseconds, by nearest rank.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let index = (values.len() as f64 * share).ceil() as usize;
            values.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Spread { count: values.len(), median_ms: rank(0.5), p95_ms: rank(0.95), p99_ms: rank(0.99), max_ms: rank(1.0) }
    }
}

/// What happened.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// No client error, all flips done, bounds kept if any were given.
    pub good: bool,
    /// Flips done.
    pub done: usize,
    /// Flips asked for.
    pub asked: usize,
    /// Commands a second that were answered through the target.
    pub achieved_rate: f64,
    /// Wrong or missing replies and lost connections at the target.
    pub client_errors: u64,
    /// The same at the plain server.
    pub direct_errors: u64,
    /// Longest wait of any request through the target, one figure a flip.
    pub held: Spread,
    /// Longest wait at the plain server in the same windows.
    pub direct_in_flips: Spread,
    /// `pause_ms` as the proxy answered it.
    pub pause: Spread,
    /// How late the generator's own pacer woke in those windows: where this is long, the machine was the cause.
    pub generator_late: Spread,
    /// Longest wait through the target between flips.
    pub between_flips: Spread,
    /// Longest wait at the plain server between flips.
    pub direct_between_flips: Spread,
    /// All latencies through the target: p50, p99, p99.9 in milliseconds.
    pub latency_ms: [f64; 3],
    /// Flips that were refused or failed.
    pub failed: Vec<Flip>,
    /// The first wrong replies.
    pub stories: Vec<String>,
}

/// Keys that only this connection touches, so that every reply is known: it reads what it wrote.
struct OwnKeys {
    prefix: String,
    rng: Rng,
    counter: i64,
    values: Vec<Option<Vec<u8>>>,
}

const SLOTS: u64 = 16;

impl Source for OwnKeys {
    fn request(&mut self, out: &mut Vec<u8>) -> Check {
        let slot = self.rng.below(SLOTS);
        let key = format!("{}:{slot}", self.prefix);
        let known = &mut self.values[slot as usize];
        match (self.rng.below(10), &known) {
            (0..2, _) => {
                self.counter += 1;
                let counter = format!("{}:counter", self.prefix);
                resp::encode(&[b"INCR".as_slice(), counter.as_bytes()], out);
                Check::Int(self.counter)
            }
            (2..6, Some(value)) => {
                resp::encode(&[b"GET".as_slice(), key.as_bytes()], out);
                Check::Bulk(value.clone())
            }
            _ => {
                let value = format!("{:016x}{:032}", self.rng.bits(), slot).into_bytes();
                resp::encode(&[b"SET".as_slice(), key.as_bytes(), &value], out);
                *known = Some(value);
                Check::Ok
            }
        }
    }
}

async fn group(name: &str, target: &str, rate: f64, options: &Options) -> Result<Rc<Group>> {
    let sources = (0..options.clients).map(|client| {
        let prefix = format!("flip:{}:{name}:{client}", options.run);
        let values = vec![None; SLOTS as usize];
        Box::new(OwnKeys { prefix, rng: Rng::new(options.run ^ client as u64), counter: 0, values }) as Box<dyn Source>
    });
    Group::connect(name, target, Pace::Open { rate, depth: options.depth }, sources.collect()).await
}

/// How late the pacer was since the last call, in milliseconds.
fn take_lateness(group: &Group) -> f64 {
    std::mem::take(&mut group.meter.borrow_mut().window_late_ns) as f64 / 1e6
}

/// The longest wait since the last call, in milliseconds.
fn take_window(group: &Group) -> f64 {
    std::mem::take(&mut group.meter.borrow_mut().window_max_ns) as f64 / 1e6
}

/// Runs inside a `LocalSet`.
pub async fn run(options: &Options) -> Result<Report> {
    let admin = Admin::new(&options.admin);
    let mut direction = admin.next_direction().await?;
    let target = group("target", &options.target, options.rate, options).await?;
    let mut groups = vec![target.clone()];
    if let Some(direct) = &options.direct {
        groups.push(group("direct", direct, options.direct_rate, options).await?);
    }
    for group in &groups {
        group.begin()?;
    }
    // The warm-up, which is not measured.
    tokio::time::sleep(Duration::from_secs(1)).await;
    groups.iter().for_each(|group| group.meter.borrow_mut().restart());
    let start = Instant::now();
    let (mut during, mut between) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
    let (mut flips, mut failed, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.flips {
        tokio::time::sleep(options.gap).await;
        groups.iter().zip(&mut between).for_each(|(group, windows)| windows.push(take_window(group)));
        take_lateness(&target);
        let flip = admin.flip(direction, options.patience).await;
        for (group, windows) in groups.iter().zip(&mut during) {
            group.settled(group.now_ns(), Duration::from_secs(5)).await;
            windows.push(take_window(group));
        }
        late.push(take_lateness(&target));
        if flip.done {
            direction = direction.reversed();
            flips.push(flip);
        } else {
            eprintln!("flip failed: {flip:?}");
            failed.push(flip);
            if failed.len() >= 10 {
                break;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let replies = target.meter.borrow().replies;
    for group in &groups {
        group.finish(Duration::from_secs(5)).await;
    }
    let errors = |group: Option<&Rc<Group>>| group.map_or(0, |group| group.meter.borrow().wrong + group.meter.borrow().disconnects);
    let meter = target.meter.borrow();
    let quantile = |share| meter.latency_ns.value_at_quantile(share) as f64 / 1e6;
    let mut report = Report {
        done: flips.len(),
        asked: options.flips,
        achieved_rate: replies as f64 / seconds,
        client_errors: errors(groups.first()),
        direct_errors: errors(groups.get(1)),
        held: Spread::of(std::mem::take(&mut during[0])),
        direct_in_flips: Spread::of(std::mem::take(&mut during[1])),
        generator_late: Spread::of(late),
        pause: Spread::of(flips.iter().map(|flip| flip.pause_ms).collect()),
        between_flips: Spread::of(std::mem::take(&mut between[0])),
        direct_between_flips: Spread::of(std::mem::take(&mut between[1])),
        latency_ms: [quantile(0.5), quantile(0.99), quantile(0.999)],
        failed,
        stories: meter.stories.clone(),
        good: false,
    };
    report.good = report.client_errors == 0
        && report.done == report.asked
        && report.failed.is_empty()
        && options.median_ms_max.is_none_or(|max| report.held.median_ms < max)
        && options.p95_ms_max.is_none_or(|max| report.held.p95_ms < max);
    Ok(report)
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "flips: {}\n  flips done      {} of {}\n  rate answered   {:.0}/s\n  client errors   {} (plain server: {})\n  latency         p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms\n\n  {:<38}{:>8}{:>9}{:>9}{:>9}{:>9}\n",
            if self.good { "good" } else { "NOT GOOD" },
            self.done,
            self.asked,
            self.achieved_rate,
            self.client_errors,
            self.direct_errors,
            self.latency_ms[0],
            self.latency_ms[1],
            self.latency_ms[2],
            "longest wait per window, ms",
            "windows",
            "median",
            "p95",
            "p99",
            "max",
        );
        for (name, spread) in [
            ("held by a flip, as clients saw it", self.held),
            ("pause_ms as the admin port said it", self.pause),
            ("plain server, same windows", self.direct_in_flips),
            ("generator late, same windows", self.generator_late),
            ("through the proxy, between flips", self.between_flips),
            ("plain server, between flips", self.direct_between_flips),
        ] {
            text += &format!(
                "  {name:<38}{:>8}{:>9.2}{:>9.2}{:>9.2}{:>9.2}\n",
                spread.count, spread.median_ms, spread.p95_ms, spread.p99_ms, spread.max_ms
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let spread = Spread::of((1..=200).map(f64::from).collect());
        assert_eq!((spread.median_ms, spread.p95_ms, spread.p99_ms, spread.max_ms), (100.0, 190.0, 198.0, 200.0));
        assert_eq!(Spread::of(Vec::new()).max_ms, 0.0);
    }
}
