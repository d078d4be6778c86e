//! Ten thousand histories, each with its own faults: see the crate for what is checked. A seed that fails is printed with the
//! command that replays it.
//!
//! `TWINLANE_HISTORIES=n` plays n of them (a night's worth, say), `TWINLANE_FIRST=n` begins at another seed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use twinlane_simulation::plan::Options;
use twinlane_simulation::{Failure, Summary, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

const THREADS: usize = 2;
const FAILURES_SHOWN: usize = 25;

#[test]
fn histories_keep_every_invariant() {
    std::panic::set_hook(Box::new(|_| ()));
    let (first, count) = (number("TWINLANE_FIRST", 1), number("TWINLANE_HISTORIES", 10_000));
    let next = AtomicU64::new(first);
    let failures: Mutex<Vec<Box<Failure>>> = Mutex::default();
    let totals: Mutex<Summary> = Mutex::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut sum = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failures.lock().unwrap().len() >= FAILURES_SHOWN {
                        break;
                    }
                    match run(seed, &Options::default()) {
                        Ok(summary) => add(&mut sum, summary),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
                add(&mut totals.lock().unwrap(), sum);
            });
        }
    });
    let _ = std::panic::take_hook();
    let took = begun.elapsed().as_secs_f64();
    let played = next.load(Ordering::Relaxed).min(first + count) - first;
    let Summary {
        replies,
        flips,
        faults,
        virtual_us,
        images,
        effects,
        watched: [ran, nil],
        served,
        heard,
        restarts: [blind, told],
        verified: [passes, found],
        shadowed: [compared, shown],
        spilled,
    } = *totals.lock().unwrap();
    println!(
        "{played} histories in {took:.1} s ({:.0} a second): {} s of virtual time, {replies} replies, {effects} effects, {images} images, {flips} flips, {faults} faults; {ran} EXECs under WATCH and {nil} answered nil, {served} waiters served, {heard} messages heard; {told} kills behind which the journal told, {blind} behind which it did not; {passes} verifies, {found} planted differences found; {compared} shadow reads, {shown} planted differences found; {spilled} bytes of keys in doubt went to the disk",
        played as f64 / took,
        virtual_us / 1_000_000
    );
    let failures = failures.into_inner().unwrap();
    for failure in &failures {
        let what: String = failure.what.chars().take(600).collect();
        println!(
            "seed {}: {what}\n  TWINLANE_SEED={} cargo test -p twinlane-simulation --test histories replay -- --nocapture",
            failure.seed, failure.seed
        );
    }
    assert!(failures.is_empty(), "{} histories failed", failures.len());
}

/// Plays the one history of `TWINLANE_SEED` and shows what happened.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("TWINLANE_SEED") else { return };
    let options = Options { trace: true, ..Options::default() };
    match run(seed.parse().unwrap(), &options) {
        Ok(summary) => println!("seed {seed} holds: {summary:?}"),
        Err(failure) => {
            failure.trace.iter().for_each(|line| println!("{line}"));
            panic!("seed {seed}: {}", failure.what);
        }
    }
}

fn add(sum: &mut Summary, one: Summary) {
    sum.replies += one.replies;
    sum.flips += one.flips;
    sum.faults += one.faults;
    sum.virtual_us += one.virtual_us;
    sum.images += one.images;
    sum.effects += one.effects;
    sum.watched = [sum.watched[0] + one.watched[0], sum.watched[1] + one.watched[1]];
    sum.served += one.served;
    sum.heard += one.heard;
    sum.restarts = [sum.restarts[0] + one.restarts[0], sum.restarts[1] + one.restarts[1]];
    sum.shadowed = [sum.shadowed[0] + one.shadowed[0], sum.shadowed[1] + one.shadowed[1]];
    sum.spilled += one.spilled;
    sum.verified = [sum.verified[0] + one.verified[0], sum.verified[1] + one.verified[1]];
}
