//! Whether one greedy client starves the others: a light client at a constant rate, alone and beside somebody who pipelines a hundred
//! thousand commands at a time, or reads a very large value again and again.

use crate::engine::{Check, Group, Pace, Source, key_digits, value_into};
use crate::resp;
use crate::run::targets::Target;
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Commands a second of the light client.
    pub rate: f64,
    /// How long each neighbour is there.
    pub seconds: f64,
    /// Commands of the greedy client's pipeline.
    pub pipeline: usize,
    /// Bytes of the large value.
    pub large_bytes: usize,
}

/// What the light client saw beside one neighbour.
#[derive(Debug, Clone, Serialize)]
pub struct Beside {
    /// Through this target.
    pub target: String,
    /// `nobody`, `pipeline`, `large value`.
    pub neighbour: &'static str,
    /// Its latencies in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Commands a second of the neighbour.
    pub neighbour_rps: f64,
    /// Wrong replies and lost connections of both.
    pub errors: u64,
}

impl Beside {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{:<14} beside {:<12} p50 {:>8.3} ms  p99 {:>9.3} ms  longest {:>9.3} ms  neighbour {:>9.1}/s  errors {}\n",
            self.target, self.neighbour, self.p50_ms, self.p99_ms, self.max_ms, self.neighbour_rps, self.errors
        )
    }
}

/// One command again and again.
struct Always {
    request: Vec<u8>,
    check: Check,
}

impl Source for Always {
    fn request(&mut self, out: &mut Vec<u8>) -> Check {
        out.extend_from_slice(&self.request);
        self.check.clone()
    }
}

fn always(words: &[&[u8]], check: Check) -> Vec<Box<dyn Source>> {
    let mut request = Vec::new();
    resp::encode(words, &mut request);
    vec![Box::new(Always { request, check })]
}

const LARGE: &[u8] = b"fairness:large";
const SMALL: &[u8] = b"fairness:small";
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks one target.
pub async fn measure(target: &Target, options: &Options) -> Result<Vec<Beside>> {
    let mut value = Vec::new();
    value_into(0, options.large_bytes, &mut value);
    for (key, value) in [(LARGE, value.as_slice()), (SMALL, &key_digits(0))] {
        let group = Group::connect(&target.name, &target.address, closed(1), always(&[b"SET", key, value], Check::Ok)).await?;
        group.begin()?;
        group.answered(1, PATIENCE).await?;
        group.finish(PATIENCE).await;
    }
    let neighbours = [
        ("nobody", None),
        ("pipeline", Some((options.pipeline, always(&[b"GET", SMALL], Check::ValueOf(0))))),
        ("large value", Some((1, always(&[b"GET", LARGE], Check::NoError)))),
    ];
    let mut seen = Vec::new();
    for (neighbour, greedy) in neighbours {
        let greedy = match greedy {
            Some((depth, source)) => Some(Group::connect(&target.name, &target.address, closed(depth), source).await?),
            None => None,
        };
        let pace = Pace::Open { rate: options.rate, depth: 1 };
        let light = Group::connect(&target.name, &target.address, pace, always(&[b"INCR", b"fairness:count"], Check::NoError)).await?;
        greedy.iter().try_for_each(|greedy| greedy.begin())?;
        light.begin()?;
        // The measured time.
        tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
        light.finish(PATIENCE).await;
        let (mut neighbour_rps, mut errors) = (0.0, 0);
        if let Some(greedy) = greedy {
            neighbour_rps = greedy.meter.borrow().replies as f64 / options.seconds;
            greedy.finish(PATIENCE).await;
            let meter = greedy.meter.borrow();
            errors += meter.wrong + meter.disconnects;
        }
        let meter = light.meter.borrow();
        let ms = |share| meter.latency_ns.value_at_quantile(share) as f64 / 1e6;
        seen.push(Beside {
            target: target.name.clone(),
            neighbour,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: meter.latency_ns.max() as f64 / 1e6,
            neighbour_rps,
            errors: errors + meter.wrong + meter.disconnects,
        });
    }
    Ok(seen)
}

fn closed(depth: usize) -> Pace {
    Pace::Closed { depth, think: Duration::ZERO }
}
