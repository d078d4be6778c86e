//! The long proofs, each on real servers of its own, run before an issue is closed:
//!
//! - `prove contended --runs 10`: clients write a dozen contended keys of every family, with cutovers and rollbacks in between;
//!   no reply that Redis would not give, no client disconnected, and afterwards both servers equal by the comparer and by
//!   `DEBUG DIGEST-VALUE`.
//! - `prove crashes --kills 100`: `kill -9` of the proxy at random moments under load, with the mirror frozen or not; equal each time, without
//!   a walk over the keyspace.
//! - `prove warm`: a million keys of all types in `old`, some of them huge, clients on them from the first second, a backfill, with a `kill -9`
//!   of the proxy in the middle or without; verify is clean and both servers are equal.
//! - `prove backfill-speed`: keys per second of the backfill, beside a plain pipelined copier.
//! - `prove flips --flips 200`: a constant rate of commands, flips in turn; how long a request was held, beside what a direct
//!   connection suffers in the same windows.
//! - `prove contended --watched-by shadow` (or `verify`): the same with all reads compared, or with one verify after the other; no difference is
//!   reported. `prove verify-quiet` is ten minutes of the latter without flips.
//! - `prove verify-finds`: a thousand differences planted at random, one element of a million among them; a verify finds exactly these.
//! - `prove shadow-price`: CPU of the proxy per read with all reads compared, and with none.
//! - `prove outage`: the mirror frozen, killed, and back empty under 20,000 writes a second; clients beside clients without it, memory,
//!   and the time until both sides are equal.
//! - `prove verify-speed`: keys per second of verify, beside a plain pipelined reader of both servers.
//!
//! The load itself comes from the `loadtest` program beside this one.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use twinlane_tests::compare::{self, Report, compare, digest_check};
use twinlane_tests::outage;
use twinlane_tests::pair::{PATIENCE, Pair, in_step, until};
use twinlane_tests::planted;
use twinlane_tests::proxy::{Options as ProxyOptions, Proxy};
use twinlane_tests::resp::Value;
use twinlane_tests::servers::{Options as ServerOptions, Server, Version};
use twinlane_tests::warm;

#[derive(Debug, Parser)]
#[command(name = "prove")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The contended workload, several times.
    Contended {
        /// How often; every run must hold.
        #[arg(long, default_value_t = 10)]
        runs: u32,
        /// Length of one run.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        /// Concurrent clients.
        #[arg(long, default_value_t = 24)]
        clients: u32,
        /// The server behind `old`: redis-7.0, redis-6.2, valkey-8.1...
        #[arg(long, default_value = "redis-7.0", value_parser = version)]
        old: Version,
        /// The server behind `new`.
        #[arg(long, default_value = "redis-7.0", value_parser = version)]
        new: Version,
        /// Whether the servers send keyspace events, so that keys that die are followed and not compared.
        #[arg(long, value_enum, default_value_t = Events::InTurn)]
        events: Events,
        /// Seed of the first run.
        #[arg(long, default_value_t = 1)]
        first: u32,
        /// Families that are left out, to narrow a failure down.
        #[arg(long, default_value = "")]
        without: String,
        /// What looks for differences meanwhile, and must find none.
        #[arg(long, value_enum, default_value_t = Watch::Nobody)]
        watched_by: Watch,
        /// No flips.
        #[arg(long)]
        no_flips: bool,
    },
    /// One verify after the other under contended traffic on an equal pair: none reports a difference.
    VerifyQuiet {
        /// How long.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// A verify finds every planted difference, and nothing else.
    VerifyFinds {
        /// Ordinary keys.
        #[arg(long, default_value_t = 100_000)]
        keys: u64,
        /// Elements of each of the four large keys.
        #[arg(long, default_value_t = 1_000_000)]
        elements: u64,
        /// Differences.
        #[arg(long, default_value_t = 1_000)]
        differences: usize,
        /// How often, with other differences each time.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// `kill -9` of the proxy at random moments.
    Crashes {
        /// How often.
        #[arg(long, default_value_t = 100)]
        kills: u32,
        /// Chooses the moments.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What comparing all reads costs the proxy's CPU per read, in turns with comparing none.
    ShadowPrice {
        /// How often each runs.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// The speed of verify beside a plain pipelined reader of both servers, in turns.
    VerifySpeed {
        /// Keys on each side.
        #[arg(long, default_value_t = 200_000)]
        keys: u32,
        /// How often each runs.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// The mirror frozen, killed, and back empty under a constant rate of writes.
    Outage {
        /// How often.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Length of one visit of the load; a round has three.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
    },
    /// A warm cache is copied under traffic.
    Warm {
        /// Keys in `old`.
        #[arg(long, default_value_t = 1_000_000)]
        keys: u32,
        /// Elements of the largest hash, list, set, sorted set and stream.
        #[arg(long, default_value_t = 1_000_000)]
        elements: u32,
        /// Bytes of the largest strings.
        #[arg(long, default_value_t = 100_000_000)]
        bytes: usize,
        /// Kill the proxy in the middle.
        #[arg(long)]
        kill: bool,
        /// The server behind `old`.
        #[arg(long, default_value = "redis-7.0", value_parser = version)]
        old: Version,
        /// The server behind `new`.
        #[arg(long, default_value = "redis-7.0", value_parser = version)]
        new: Version,
    },
    /// The speed of the backfill beside a plain pipelined copier, in turns.
    BackfillSpeed {
        /// Keys in `old`.
        #[arg(long, default_value_t = 200_000)]
        keys: u32,
        /// How often each runs.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Flips under a constant rate.
    Flips {
        /// How many, cutovers and rollbacks together.
        #[arg(long, default_value_t = 200)]
        flips: u32,
        /// Commands a second.
        #[arg(long, default_value_t = 20_000)]
        rate: u32,
    },
}

/// What looks for differences under the contended load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Watch {
    /// Only the comparison at the end.
    Nobody,
    /// Every read is compared at its position.
    Shadow,
    /// One verify after the other.
    Verify,
}

/// One contended run.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    seconds: u32,
    clients: u32,
    pair: [Version; 2],
    events: Events,
    without: &'a str,
    watched_by: Watch,
    flips: bool,
}

/// Whether servers send keyspace events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Events {
    /// In every run.
    On,
    /// In none.
    Off,
    /// In every other run.
    InTurn,
}

fn version(name: &str) -> Result<Version, String> {
    let named = Version::ALL.into_iter().find(|version| version.name() == name);
    named.ok_or_else(|| format!("one of {}", Version::ALL.map(Version::name).join(", ")))
}

/// A key with less than this left to live is one that the load gave a short time (300 ms at most, and the mirror's margin); the others
/// have a quarter of an hour.
const SHORT_TTL_MS: i64 = 5_000;

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Contended { runs, seconds, clients, old, new, events, first, without, watched_by, no_flips } => {
            let run = Run { seconds, clients, pair: [old, new], events, without: &without, watched_by, flips: !no_flips };
            (first..first + runs).try_for_each(|seed| contended(seed, &run)).map(|()| {
                println!("contended: {runs} runs of {runs} held");
            })
        }
        What::VerifyQuiet { seconds } => {
            // A verify begins anew whenever a database is emptied or swapped, and would not end.
            let (pair, without) = ([Version::Redis70; 2], "databases");
            contended(1, &Run { seconds, clients: 24, pair, events: Events::On, without, watched_by: Watch::Verify, flips: false })
        }
        What::VerifyFinds { keys, elements, differences, rounds } => {
            (1..=rounds).try_for_each(|seed| verify_finds(&planted::Plan { keys, elements, differences, seed: u64::from(seed) }))
        }
        What::Crashes { kills, seed } => crashes(kills, seed),
        What::ShadowPrice { rounds } => shadow_price(rounds),
        What::VerifySpeed { keys, rounds } => verify_speed(keys, rounds),
        What::Outage { rounds, seconds } => outage(rounds, seconds),
        What::Warm { keys, elements, bytes, kill, old, new } => {
            warm::copy_under_traffic(&warm::Cache { keys, elements, bytes }, [old, new], kill)
        }
        What::BackfillSpeed { keys, rounds } => warm::backfill_speed(keys, rounds),
        What::Flips { flips, rate } => flip(flips, rate),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nIt does not hold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One contended run with four flips, or none.
fn contended(seed: u32, run: &Run<'_>) -> Result<()> {
    let Run { seconds, clients, pair, events, without, watched_by, flips } = *run;
    let followed = events == Events::On || (events == Events::InTurn && seed % 2 == 1);
    let start = |version| {
        let args = if followed { vec!["--notify-keyspace-events".into(), "KEA".into()] } else { Vec::new() };
        Server::start(version, ServerOptions { args, ..ServerOptions::default() })
    };
    let (old, new) = (start(pair[0])?, start(pair[1])?);
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    let flips: Vec<String> = ["cutover", "rollback", "cutover", "rollback"]
        .iter()
        .enumerate()
        .filter(|_| flips)
        .map(|(at, flip)| format!("{flip}@{}", f64::from((at as u32 + 1) * seconds) / 5.0))
        .collect();
    let admin = proxy.admin_url().trim_start_matches("http://").to_owned();
    match watched_by {
        Watch::Nobody => {}
        Watch::Shadow => drop(proxy.post("/v1/shadow", &serde_json::json!({"share": 1.0}))?),
        Watch::Verify => {
            proxy_settles(&proxy)?;
            proxy.post("/v1/verify", &serde_json::json!({"continuous": true}))?;
        }
    }
    let status = loadtest()?
        .args(["contended", "--target", &proxy.address(), "--admin", &admin, "--flips", &flips.join(",")])
        .args(["--seconds", &seconds.to_string(), "--clients", &clients.to_string(), "--seed", &seed.to_string()])
        .args(["--without", without])
        .status()?;
    ensure!(status.success(), "seed {seed}: the load saw something unexpected");
    proxy_settles(&proxy)?;
    no_differences(&proxy, watched_by).with_context(|| format!("seed {seed}"))?;
    // Each server ends keys by its own clock, and the mirror's times carry the margin.
    for server in [&old, &new] {
        until("the keys with a short time to live to die", PATIENCE, || Ok(dying(server)? == 0))?;
    }
    proxy_settles(&proxy)?;
    let mode = if followed { "followed" } else { "compared" };
    let equal = |report: Report| report.into_result().with_context(|| format!("seed {seed}, expiry {mode}"));
    let report = equal(compare(&old.address(), &new.address(), &compare::Options::default())?)?;
    let same = pair[0] == pair[1];
    if same {
        equal(digest_check(&old.address(), &new.address(), &compare::Options::default())?)?;
    }
    let digest = if same { ", by digest too" } else { "" };
    println!("seed {seed}, expiry {mode}: {} keys compared, equal{digest}\n", report.keys_compared);
    Ok(())
}

/// What looked for differences looked, and reported none.
fn no_differences(proxy: &Proxy, watched_by: Watch) -> Result<()> {
    let found = proxy.get("/v1/divergences?reveal=true")?.body;
    ensure!(found["total"] == 0, "differences are reported on an equal pair: {found}");
    match watched_by {
        Watch::Nobody => {}
        Watch::Shadow => {
            let told = proxy.get("/v1/shadow")?.body;
            ensure!(told["equal"].as_u64() > Some(1000) && told["differing"] == 0, "{told}");
            let part = |name: &str| told[name].to_string();
            println!(
                "shadow reads: {} compared, {} alike, {} explained, {} not reproduced by an exam, none differing; skipped {}",
                part("compared"),
                part("equal"),
                part("explained"),
                part("unexplained"),
                part("skipped")
            );
        }
        Watch::Verify => {
            let status = proxy.get("/v1/verify")?.body;
            let last = &status["last"];
            let text = proxy.get("/metrics")?.body;
            let sample = |name: &str| {
                text.as_str().and_then(|text| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()))
            };
            let [passes, keys] = ["twinlane_verify_passes_total ", "twinlane_verify_keys_total "].map(|name| sample(name).unwrap_or(0.0));
            ensure!(passes >= 1.0 && last["alive"] == true, "no verify ended: {status}");
            println!("{passes} verifies compared {keys} keys under the load, and reported no difference; the last: {last}");
        }
    }
    Ok(())
}

fn verify_finds(plan: &planted::Plan) -> Result<()> {
    let (old, new) = (Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?);
    planted::fill(&old, plan)?;
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    proxy_settles(&proxy)?;
    let found = planted::plant_and_find(&proxy, &new, plan)?;
    println!(
        "seed {}: {} differences planted among {} keys and {} elements, {} found, none besides, in {:.1} s: {:?}, {} of them one element of {}",
        plan.seed,
        plan.differences,
        plan.keys,
        4 * plan.elements,
        plan.differences,
        found.took.as_secs_f64(),
        found.by_kind,
        found.elements,
        plan.elements
    );
    Ok(())
}

fn crashes(kills: u32, seed: u64) -> Result<()> {
    let mut totals = twinlane_tests::crash::kill_again_and_again(kills, seed)?;
    totals.settled.sort();
    totals.named.sort_unstable();
    let (settled, named) = (&totals.settled, &totals.named);
    println!(
        "crashes: {} kills, {} of them with the mirror frozen; equal each time, nothing walked. In step {:?} after the start (median; at most {:?}); the journal named {} keys (median; at most {})",
        totals.kills,
        totals.frozen,
        settled[settled.len() / 2],
        settled[settled.len() - 1],
        named[named.len() / 2],
        named[named.len() - 1]
    );
    Ok(())
}

/// Reads of eight clients at depth 1 and 16, with and without shadow reads in turns: CPU time of the proxy's process.
fn shadow_price(rounds: u32) -> Result<()> {
    const CLIENTS: usize = 8;
    let (old, new) = (Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?);
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    proxy_settles(&proxy)?;
    let mut client = proxy.client()?;
    let filling: Vec<_> = (0..1000).map(|n| twinlane_tests::resp::command(&format!("SET key:{n:04} {}", "v".repeat(64)))).collect();
    client.pipeline(&filling)?;
    proxy_settles(&proxy)?;
    let pid = proxy.pid().context("the proxy does not run")?;
    for (depth, pipelines) in [(1usize, 20_000usize), (16, 4_000)] {
        let mut spent = [0u64; 2];
        for _ in 0..rounds {
            for (at, share) in [0.0, 1.0].into_iter().enumerate() {
                proxy.post("/v1/shadow", &serde_json::json!({"share": share}))?;
                let clients = (0..CLIENTS).map(|_| proxy.client()).collect::<Result<Vec<_>, _>>()?;
                let before = ticks(pid)?;
                let readers = clients.into_iter().enumerate().map(|(at, mut client)| {
                    std::thread::spawn(move || -> Result<()> {
                        let reads: Vec<_> =
                            (0..depth).map(|n| twinlane_tests::resp::command(&format!("GET key:{:04}", (at * 100 + n) % 1000))).collect();
                        (0..pipelines / CLIENTS).try_for_each(|_| client.pipeline(&reads).map(drop).map_err(Into::into))
                    })
                });
                for reader in readers.collect::<Vec<_>>() {
                    reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
                }
                spent[at] += ticks(pid)? - before;
            }
        }
        let reads = (pipelines * depth) as f64 * f64::from(rounds);
        let us = |at: usize| spent[at] as f64 * 10_000.0 / reads;
        let more = 100.0 * (us(1) / us(0) - 1.0);
        println!("depth {depth}: {:.2} us of CPU per read without, {:.2} us with all reads compared: {more:.0} % more", us(0), us(1));
    }
    let told = proxy.get("/v1/shadow")?.body;
    println!("{} compared, {} alike; skipped {}", told["compared"], told["equal"], told["skipped"]);
    Ok(())
}

/// CPU time of a process in hundredths of a second.
fn ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).context("no such field");
    Ok(field(11)? + field(12)?)
}

/// Verify and the plain reader in turns on one pair at rest: strings, hashes, lists and sorted sets, every tenth key with a time to live.
fn verify_speed(keys: u32, rounds: u32) -> Result<()> {
    let (old, new) = (Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?);
    let script = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do local k = 'key:'..i local m = i % 10
        if m < 5 then redis.call('SET', k, string.rep('v', 20 + i % 180)) elseif m == 5 then redis.call('SET', k, i, 'EX', 100000)
        elseif m < 8 then redis.call('HSET', k, 'name', 'n'..i, 'mail', i..'@example.org', 'n', i)
        elseif m == 8 then redis.call('RPUSH', k, i, i + 1, 'three') else redis.call('ZADD', k, i, 'a', i / 3, 'b') end end";
    let mut client = old.client()?;
    for from in (1..=keys).step_by(10_000) {
        let to = (from + 9_999).min(keys);
        let reply = client.call(&[b"EVAL", script.as_bytes(), b"0", from.to_string().as_bytes(), to.to_string().as_bytes()])?;
        ensure!(!reply.is_error(), "{reply}");
    }
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    proxy_settles(&proxy)?;
    let (mut verified, mut read) = (Duration::ZERO, Duration::ZERO);
    for round in 1..=rounds {
        let begun = Instant::now();
        let (found, differing) = twinlane_tests::reader::read_both(&old.address(), &new.address())?;
        let plain = begun.elapsed();
        ensure!(found as u32 == keys + 1 && differing <= 1, "{found} keys, {differing} differ");
        let begun = Instant::now();
        let result = proxy.verify(Duration::from_secs(300))?;
        let took = begun.elapsed();
        ensure!(result["clean"] == true && result["keys_compared"] == keys, "{result}");
        let rate = |took: Duration| f64::from(keys) / took.as_secs_f64();
        println!("round {round}: plain reader {:.0} keys/s, verify {:.0} keys/s", rate(plain), rate(took));
        (verified, read) = (verified + took, read + plain);
    }
    println!("verify reaches {:.0} % of a plain pipelined reader of both servers", 100.0 * read.as_secs_f64() / verified.as_secs_f64());
    Ok(())
}

/// Rounds of one pair, each with an outage between two calm visits. Clients do not notice it when the visit with it differs from those beside it
/// by no more than those differ from each other (medians of the rounds).
fn outage(rounds: u32, seconds: u32) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("loadtest");
    ensure!(program.exists(), "{} is missing: run `make prove`", program.display());
    let workload = twinlane_tests::servers::root().join("loadtest/workloads/outage.toml");
    let mut pair = Pair::plain()?;
    let load = outage::Load { program: &program, workload: &workload, seconds };
    let (mut ratios, mut noises, mut settled, mut grown) = (Vec::new(), Vec::new(), Duration::ZERO, 0);
    for number in 1..=rounds {
        let round = outage::round(&mut pair, &load)?;
        let [before, behind] = &round.calm;
        println!(
            "round {number}: p99 {:.2} ms with the outage, {:.2} and {:.2} ms without (ratio {:.2}; longest {:.1}, {:.1}, {:.1} ms); {:.0} answered a second; memory {} KiB before, {} KiB at most; in step {:.1} s after the return, equal",
            round.outage.p99_ms,
            before.p99_ms,
            behind.p99_ms,
            round.ratio(),
            round.outage.max_ms,
            before.max_ms,
            behind.max_ms,
            round.outage.rps,
            round.memory_kib[0],
            round.memory_kib[1],
            round.settled.as_secs_f64()
        );
        let seconds: Vec<String> = round.outage.seconds_ms.iter().map(|ms| format!("{ms:.1}")).collect();
        println!(
            "  p99 of each second, the mirror frozen in the fourth, killed in the eighth, back in the twelfth: {} ms",
            seconds.join(" ")
        );
        ratios.push(round.ratio());
        noises.push(round.noise());
        settled = settled.max(round.settled);
        grown = grown.max(round.memory_kib[1].saturating_sub(round.memory_kib[0]));
    }
    // Of an even number, the mean of the two in the middle.
    let median = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        let middle = &ratios[ratios.len().saturating_sub(1) / 2..ratios.len() / 2 + 1];
        middle.iter().sum::<f64>() / middle.len() as f64
    };
    let (ratio, noise) = (median(ratios), median(noises));
    println!(
        "outage: {rounds} rounds, p99 ratio {ratio:.2}, of visits without an outage to each other {noise:.2} (medians), memory grew by {grown} KiB at most, equal within {:.1} s",
        settled.as_secs_f64()
    );
    ensure!(ratio <= noise, "clients noticed the outage: ratio {ratio:.2}, above the noise of {noise:.2}");
    ensure!(grown <= outage::MEMORY_KIB_MAX, "memory grew by {grown} KiB, more than {} KiB", outage::MEMORY_KIB_MAX);
    Ok(())
}

fn flip(flips: u32, rate: u32) -> Result<()> {
    let (old, new, direct) = (Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?);
    let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
    let admin = proxy.admin_url().trim_start_matches("http://").to_owned();
    let status = loadtest()?
        .args(["flips", "--target", &proxy.address(), "--direct", &direct.address(), "--admin", &admin])
        .args(["--rate", &rate.to_string(), "--flips", &flips.to_string()])
        .args(["--median-ms-max", "5", "--p95-ms-max", "20"])
        .status()?;
    ensure!(status.success(), "the flips did not hold their bounds, or a client saw an error");
    proxy_settles(&proxy)?;
    let report = compare(&old.address(), &new.address(), &compare::Options::default())?.into_result()?;
    println!("flips: {} keys compared, equal", report.keys_compared);
    Ok(())
}

/// Waits until nothing is in doubt and nothing waits for the mirror, twice in a row: before the sides are connected nothing is known to be.
fn proxy_settles(proxy: &Proxy) -> Result<()> {
    let (mut status, mut calm) = (proxy.status()?, 0);
    until("the mirror to settle", PATIENCE, || {
        status = proxy.status()?;
        calm = if in_step(&status) { calm + 1 } else { 0 };
        Ok(calm == 2)
    })
    .with_context(|| format!("status: {status}"))
}

/// How many keys of a server are about to end by their time to live. To look at them ends those whose time has come.
fn dying(server: &Server) -> Result<usize> {
    let mut client = server.client()?;
    let keyspace = client.cmd("INFO keyspace")?.text();
    let databases = keyspace.lines().filter_map(|line| line.strip_prefix("db")?.split(':').next());
    let mut dying = 0;
    for db in databases {
        client.cmd(&format!("SELECT {db}"))?;
        let keys = client.cmd("KEYS *")?;
        let asked: Vec<_> = keys.items().iter().filter_map(Value::bytes).map(|key| [b"PTTL".to_vec(), key.to_vec()]).collect();
        dying += client.pipeline(&asked)?.iter().filter_map(Value::int).filter(|left| (0..SHORT_TTL_MS).contains(left)).count();
    }
    Ok(dying)
}

/// The load generator: built beside this program.
fn loadtest() -> Result<Command> {
    let beside: PathBuf = std::env::current_exe()?.with_file_name("loadtest");
    ensure!(beside.exists(), "{} is missing: run `make prove`", beside.display());
    Ok(Command::new(beside.to_str().context("a path that is not text")?))
}
