//! `make demo`: the whole promise of Twinlane in a quarter of a minute, on real servers.
//!
//! Two redis-servers start on free ports in folders of their own, the proxy in front of them. Clients write contended
//! keys of every type through it and check what they are told, while the application is moved to `new`, back to `old`,
//! and to `new` again. Then the traffic stops and the two servers are compared key by key, by us and by their own
//! digests. The exit status is 0 only if every promise held; the summary says each with its figure.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use twinlane_tests::compare::{self, RESERVED_PREFIX, Report};
use twinlane_tests::proxy::{Answer, Options as ProxyOptions, Proxy};
use twinlane_tests::resp::Value;
use twinlane_tests::servers::{Server, Version};
use twinlane_tests::workload::{Options as Load, Summary, Workload};

/// A refused flip is asked again for this long: a gate may just be waiting for the mirror.
const FLIP_PATIENCE: Duration = Duration::from_secs(10);
/// From the last command to a mirror that has everything.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Moves a live workload between two real servers and proves that nothing was lost.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// How long the workload runs, over all four phases.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Seed of the workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One flip as the clients and the proxy saw it.
struct Flip {
    name: &'static str,
    /// What the proxy says it held a request at most.
    held_ms: f64,
    /// The longest that a client waited in the phase of this flip.
    seen: Duration,
}

/// Everything the summary tells.
struct Outcome {
    load: Summary,
    flips: Vec<Flip>,
    /// Keys without the proxy's own, `old` then `new`.
    keys: [u64; 2],
    report: Report,
    digests: Report,
    /// Clients whose last acknowledged count is not what both servers hold.
    wrong_counters: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(outcome) => {
            print_summary(&outcome);
            if outcome.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("\nThe demo could not be finished: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Outcome> {
    let old = Server::plain(Version::Redis70)?;
    let new = Server::plain(Version::Redis70)?;
    println!("old       redis-server at {}, in {}", old.address(), old.dir().display());
    println!("new       redis-server at {}, in {}", new.address(), new.dir().display());
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    println!("twinlane  at {}, admin port at {}", proxy.address(), proxy.admin_url());
    println!("load      {} clients, every type family, pipelines, MULTI, TTLs", arguments.clients);

    let load = Load { clients: arguments.clients, seed: arguments.seed, ..Load::default() };
    let workload = Workload::start(&proxy.address(), &load)?;
    let phase = Duration::from_secs(arguments.seconds) / 4;
    let flips = flips(&proxy, &workload, phase);
    let load = workload.stop();
    let flips = flips.with_context(|| load.complaints.join("\n"))?;
    println!("stop      the clients are gone; waiting for the mirror to have everything");
    proxy.wait_until_synced(DRAIN_PATIENCE)?;
    examine(&old, &new, load, flips)
}

/// Cutover, rollback and cutover again, with a phase of plain traffic around each.
fn flips(proxy: &Proxy, workload: &Workload, phase: Duration) -> Result<Vec<Flip>> {
    std::thread::sleep(phase);
    println!("          {} commands so far, longest pause {:.1?}", workload.commands(), workload.take_longest_pause());
    let steps = [("cutover", "new"), ("rollback", "old"), ("cutover", "new")];
    steps.into_iter().map(|(name, primary)| flip(proxy, workload, phase, name, primary)).collect()
}

fn flip(proxy: &Proxy, workload: &Workload, phase: Duration, name: &'static str, primary: &str) -> Result<Flip> {
    let answer = ask_until_done(name, || if name == "cutover" { proxy.cutover() } else { proxy.rollback() })?;
    let served = proxy.status()?["primary"].as_str().unwrap_or_default().to_string();
    if served != primary {
        bail!("after the {name} the primary is {served:?}, not {primary:?}");
    }
    let held_ms = answer.body["pause_ms"].as_f64().unwrap_or(f64::NAN);
    std::thread::sleep(phase);
    let seen = workload.take_longest_pause();
    println!(
        "{name:<9} primary is {primary}; epoch {}, {} requests held, at most {held_ms:.2} ms",
        answer.body["epoch"], answer.body["held_requests"]
    );
    println!("          {} commands so far, longest pause {seen:.1?}", workload.commands());
    Ok(Flip { name, held_ms, seen })
}

fn ask_until_done(name: &str, ask: impl Fn() -> Result<Answer>) -> Result<Answer> {
    let deadline = Instant::now() + FLIP_PATIENCE;
    loop {
        let answer = ask()?;
        if answer.status == 200 && answer.body["done"] == true {
            return Ok(answer);
        }
        println!("          {name} not yet: {} {}", answer.status, answer.body);
        if answer.status != 409 || Instant::now() > deadline {
            bail!("{name} answers {}: {}", answer.status, answer.body);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Looks at both servers directly, past the proxy.
fn examine(old: &Server, new: &Server, load: Summary, flips: Vec<Flip>) -> Result<Outcome> {
    let options = compare::Options::default();
    let report = compare::compare(&old.address(), &new.address(), &options)?;
    let digests = compare::digest_check(&old.address(), &new.address(), &options)?;
    let keys = [own_keys(old)?, own_keys(new)?];
    let mut wrong_counters = Vec::new();
    for (key, told) in &load.counters {
        for (side, server) in [("old", old), ("new", new)] {
            let held = server.client()?.call(&[b"GET", key.as_bytes()])?;
            if held.text() != told.to_string() {
                wrong_counters.push(format!("{key}: the client was told {told}, {side} holds {held}"));
            }
        }
    }
    Ok(Outcome { load, flips, keys, report, digests, wrong_counters })
}

/// Keys of database 0 that are not the proxy's.
fn own_keys(server: &Server) -> Result<u64> {
    let pattern = [RESERVED_PREFIX, b"*"].concat();
    let replies = server.client()?.pipeline(&[vec![b"DBSIZE".to_vec()], vec![b"KEYS".to_vec(), pattern]])?;
    let all = replies.first().and_then(Value::int).context("DBSIZE")?;
    Ok(all as u64 - replies.get(1).map_or(0, |keys| keys.items().len()) as u64)
}

impl Outcome {
    fn held(&self) -> bool {
        self.load.is_clean() && self.report.is_equal() && self.digests.is_equal() && self.wrong_counters.is_empty()
    }
}

fn print_summary(outcome: &Outcome) {
    let Outcome { load, flips, keys, report, digests, wrong_counters } = outcome;
    println!();
    println!("commands sent and answered        {}", load.commands);
    println!("error replies                     {}", load.errors);
    println!("connections lost                  {}", load.disconnects);
    println!("own counters or writes not seen   {}", load.broken_promises);
    println!("longest pause a client saw        {:.1?}", load.longest_pause);
    for flip in flips {
        println!("  {:<9} held at most           {:.2} ms (longest pause in its phase {:.1?})", flip.name, flip.held_ms, flip.seen);
    }
    println!("keys on old, on new               {}, {}", keys[0], keys[1]);
    println!("keys compared                     {} ({} about to expire)", report.keys_compared, report.dying);
    println!("keys that differ                  {}", report.differing);
    println!("keys whose DEBUG DIGEST differs   {}", digests.differing);
    println!("acknowledged counts not held      {}", wrong_counters.len());
    for line in load.complaints.iter().chain(wrong_counters) {
        println!("  {line}");
    }
    for report in [report, digests].into_iter().filter(|report| !report.is_equal()) {
        println!("{report}");
    }
    println!();
    println!("{}", if outcome.held() { "Everything held." } else { "NOT everything held: see above." });
}
