//! The long proofs, each on real servers of its own, run before an issue is closed:
//!
//! - `prove contended --runs 10`: clients write a dozen contended keys of every family, with cutovers and rollbacks in between;
//!   no reply that Redis would not give, no client disconnected, and afterwards both servers equal by the comparer and by
//!   `DEBUG DIGEST-VALUE`.
//! - `prove flips --flips 200`: a constant rate of commands, flips in turn; how long a request was held, beside what a direct
//!   connection suffers in the same windows.
//!
//! The load itself comes from the `loadtest` program beside this one.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use twinlane_tests::compare::{self, compare, digest_check};
use twinlane_tests::proxy::{Options as ProxyOptions, Proxy};
use twinlane_tests::servers::{Server, Version};

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

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Contended { runs, seconds, clients } => contended(runs, seconds, clients),
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

fn contended(runs: u32, seconds: u32, clients: u32) -> Result<()> {
    for run in 1..=runs {
        let (old, new) = (Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?);
        let proxy = Proxy::start(&old.address(), &new.address(), ProxyOptions::default())?;
        let flips: Vec<String> = ["cutover", "rollback", "cutover", "rollback"]
            .iter()
            .enumerate()
            .map(|(at, flip)| format!("{flip}@{}", (at as u32 + 1) * seconds / 5))
            .collect();
        let admin = proxy.admin_url().trim_start_matches("http://").to_owned();
        let status = loadtest()?
            .args(["contended", "--target", &proxy.address(), "--admin", &admin, "--flips", &flips.join(",")])
            .args(["--seconds", &seconds.to_string(), "--clients", &clients.to_string(), "--seed", &run.to_string()])
            .status()?;
        ensure!(status.success(), "run {run}: the load saw something unexpected");
        proxy_settles(&proxy)?;
        let report = compare(&old.address(), &new.address(), &compare::Options::default())?.into_result()?;
        digest_check(&old.address(), &new.address(), &compare::Options::default())?.into_result()?;
        println!("run {run} of {runs}: {} keys compared, equal, by digest too\n", report.keys_compared);
    }
    println!("contended: {runs} runs of {runs} held");
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
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = proxy.status()?;
        let mirror = &status["mirror"];
        if mirror["dirty_keys"] == 0 && mirror["queued_effects"] == 0 && mirror["unsynced_databases"].as_array().is_some_and(Vec::is_empty)
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the mirror did not settle: {status}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The load generator: built beside this program.
fn loadtest() -> Result<Command> {
    let beside: PathBuf = std::env::current_exe()?.with_file_name("loadtest");
    ensure!(beside.exists(), "{} is missing: run `make prove`", beside.display());
    Ok(Command::new(beside.to_str().context("a path that is not text")?))
}
