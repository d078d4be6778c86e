//! The long proofs, each on real servers of its own, run before an issue is closed:
//!
//! - `prove contended --runs 10`: clients write a dozen contended keys of every family, with cutovers and rollbacks in between;
//!   no reply that Redis would not give, no client disconnected, and afterwards both servers equal by the comparer and by
//!   `DEBUG DIGEST-VALUE`.
//! - `prove crashes --kills 100`: `kill -9` of the proxy at random moments under load, with the mirror frozen or not; equal each time, without
//!   a walk over the keyspace.
//! - `prove flips --flips 200`: a constant rate of commands, flips in turn; how long a request was held, beside what a direct
//!   connection suffers in the same windows.
//! - `prove verify-speed`: keys per second of verify, beside a plain pipelined reader of both servers.
//!
//! The load itself comes from the `loadtest` program beside this one.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use twinlane_tests::compare::{self, Report, compare, digest_check};
use twinlane_tests::pair::{PATIENCE, until};
use twinlane_tests::proxy::{Options as ProxyOptions, Proxy};
use twinlane_tests::resp::Value;
use twinlane_tests::servers::{Options as ServerOptions, Server, Version};

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
    /// The speed of verify beside a plain pipelined reader of both servers, in turns.
    VerifySpeed {
        /// Keys on each side.
        #[arg(long, default_value_t = 200_000)]
        keys: u32,
        /// How often each runs.
        #[arg(long, default_value_t = 5)]
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
        What::Contended { runs, seconds, clients, old, new, events, first, without } => {
            (first..first + runs).try_for_each(|seed| contended(seed, seconds, clients, [old, new], events, &without)).map(|()| {
                println!("contended: {runs} runs of {runs} held");
            })
        }
        What::Crashes { kills, seed } => crashes(kills, seed),
        What::VerifySpeed { keys, rounds } => verify_speed(keys, rounds),
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

/// One contended run with four flips.
fn contended(seed: u32, seconds: u32, clients: u32, pair: [Version; 2], events: Events, without: &str) -> Result<()> {
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
        .map(|(at, flip)| format!("{flip}@{}", f64::from((at as u32 + 1) * seconds) / 5.0))
        .collect();
    let admin = proxy.admin_url().trim_start_matches("http://").to_owned();
    let status = loadtest()?
        .args(["contended", "--target", &proxy.address(), "--admin", &admin, "--flips", &flips.join(",")])
        .args(["--seconds", &seconds.to_string(), "--clients", &clients.to_string(), "--seed", &seed.to_string()])
        .args(["--without", without])
        .status()?;
    ensure!(status.success(), "seed {seed}: the load saw something unexpected");
    proxy_settles(&proxy)?;
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
        proxy.post("/v1/verify", &serde_json::json!({}))?;
        let mut result = serde_json::Value::Null;
        until("the verify to end", Duration::from_secs(300), || {
            result = proxy.get("/v1/verify")?.body;
            Ok(result["state"] == "done")
        })?;
        let took = begun.elapsed();
        ensure!(result["clean"] == true && result["keys_compared"] == keys, "{result}");
        let rate = |took: Duration| f64::from(keys) / took.as_secs_f64();
        println!("round {round}: plain reader {:.0} keys/s, verify {:.0} keys/s", rate(plain), rate(took));
        (verified, read) = (verified + took, read + plain);
    }
    println!("verify reaches {:.0} % of a plain pipelined reader of both servers", 100.0 * read.as_secs_f64() / verified.as_secs_f64());
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

/// Waits until nothing is in doubt and nothing waits for the mirror.
fn proxy_settles(proxy: &Proxy) -> Result<()> {
    let mut status = proxy.status()?;
    until("the mirror to settle", PATIENCE, || {
        status = proxy.status()?;
        let mirror = &status["mirror"];
        let synced = mirror["unsynced_databases"].as_array().is_some_and(Vec::is_empty);
        Ok(mirror["dirty_keys"] == 0 && mirror["queued_effects"] == 0 && synced)
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
