//! `clients`: every client library through the proxy, one after the other, each with two servers of its own.
//!
//! A program goes through its phases (`handshake`, `pipeline`, `watch`, ...) and asks for a cutover and a rollback in the
//! middle of each. Behind the last one both servers must hold the same. `--control` runs the same programs against one
//! plain server. What cannot pass yet is named in `tests/clients/missing.tsv`, and printed; what is named there and does
//! not exist is an error, so the list cannot go stale unnoticed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use twinlane_clients::missing::{Missing, missing};
use twinlane_clients::{Launch, Program, Stage};
use twinlane_tests::servers::Version;

/// Runs the client libraries.
#[derive(Debug, Parser)]
#[command(name = "clients")]
struct Arguments {
    /// Only these programs (all by default).
    programs: Vec<String>,
    /// Against one plain server, without the proxy.
    #[arg(long)]
    control: bool,
    /// Run what `missing.tsv` names, too.
    #[arg(long)]
    all: bool,
    /// Only this phase.
    #[arg(long)]
    phase: Option<String>,
}

struct Library {
    name: &'static str,
    launch: Launch,
    protocol: u8,
}

impl Library {
    /// RESP2 between two of 7.0. RESP3 where servers are newer: libraries turn on more there (redis-py its cache).
    fn versions(&self) -> (Version, Version) {
        if self.protocol == 2 { (Version::Redis70, Version::Redis70) } else { (Version::Valkey81, Version::Valkey91) }
    }
}

const LIBRARIES: [Library; 12] = [
    Library { name: "redis-py-2", launch: Launch::Python("redis_sync.py"), protocol: 2 },
    Library { name: "redis-py-3", launch: Launch::Python("redis_sync.py"), protocol: 3 },
    Library { name: "redis-py-asyncio-2", launch: Launch::Python("redis_asyncio.py"), protocol: 2 },
    Library { name: "redis-py-asyncio-3", launch: Launch::Python("redis_asyncio.py"), protocol: 3 },
    Library { name: "ioredis-2", launch: Launch::Node("ioredis.js"), protocol: 2 },
    Library { name: "ioredis-3", launch: Launch::Node("ioredis.js"), protocol: 3 },
    Library { name: "node-redis-2", launch: Launch::Node("node_redis.js"), protocol: 2 },
    Library { name: "node-redis-3", launch: Launch::Node("node_redis.js"), protocol: 3 },
    Library { name: "redis-rs-2", launch: Launch::Rust("client-redis-rs"), protocol: 2 },
    Library { name: "redis-rs-3", launch: Launch::Rust("client-redis-rs"), protocol: 3 },
    Library { name: "fred-2", launch: Launch::Rust("client-fred"), protocol: 2 },
    Library { name: "fred-3", launch: Launch::Rust("client-fred"), protocol: 3 },
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            println!("\n{} failed:\n{}", failures.len(), failures.join("\n"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("clients: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let missing = missing()?;
    for name in &arguments.programs {
        ensure!(LIBRARIES.iter().any(|library| library.name == name), "there is no program {name}");
    }
    let mut failures = Vec::new();
    let chosen = |library: &&Library| arguments.programs.is_empty() || arguments.programs.iter().any(|name| name == library.name);
    for library in LIBRARIES.iter().filter(chosen) {
        let start = Instant::now();
        let left_out: Vec<&Missing> =
            missing.iter().filter(|entry| !arguments.control && !arguments.all && entry.concerns(library.name)).collect();
        match play(library, arguments, &left_out) {
            Ok(summary) => println!("{:<20} {summary} ({:.1} s)", library.name, start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("{:<20} FAILED: {error:#}", library.name);
                failures.push(format!("{}: {}", library.name, error.to_string().lines().next().unwrap_or_default()));
            }
        }
    }
    Ok(failures)
}

/// One program from start to end.
fn play(library: &Library, arguments: &Arguments, left_out: &[&Missing]) -> Result<String> {
    let stage = Stage::start(arguments.control, library.versions(), &[])?;
    let phases: Vec<&str> = left_out.iter().map(|entry| entry.phase.as_str()).collect();
    let mut env = vec![("PROTOCOL", library.protocol.to_string()), ("LEAVE_OUT", phases.join(","))];
    env.extend(arguments.phase.clone().map(|phase| ("ONLY", phase)));
    let mut program = Program::start(library.name, &library.launch, &[], &stage.address(), &env)?;
    let told = converse(&stage, &mut program).with_context(|| stage.log_tail());
    let Told { passed, failed, skipped, flips } = told?;
    let status = program.finish()?;
    ensure!(failed.is_empty(), "{}\n{}", failed.join("\n"), stage.log_tail());
    ensure!(status.success(), "ended with {status}\n{}", stage.log_tail());
    for entry in left_out {
        ensure!(skipped.contains(&entry.phase), "missing.tsv names the phase {}, which {} does not have", entry.phase, library.name);
        println!("{:<20} left out {}: {}", library.name, entry.phase, entry.reason);
    }
    ensure!(!passed.is_empty() || arguments.phase.is_some(), "no phase was run");
    let equal = stage.compare()?;
    Ok(format!("{} phases, {flips} flips, {} left out, {equal}", passed.len(), skipped.len()))
}

#[derive(Default)]
struct Told {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: BTreeSet<String>,
    flips: usize,
}

/// Answers the program's requests until it has done all its phases.
fn converse(stage: &Stage, program: &mut Program) -> Result<Told> {
    let (mut told, mut phase) = (Told::default(), String::from("the start"));
    loop {
        let line = program.line().with_context(|| format!("in {phase}"))?;
        let Some(line) = line else { bail!("it ended in {phase}\n{}", program.errors()) };
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "phase" => phase = rest.to_string(),
            "flip" => {
                let answer = stage.flip().with_context(|| format!("in {phase}"))?;
                told.flips += 1;
                program.tell(&answer)?;
            }
            "pass" => told.passed.push(rest.to_string()),
            "fail" => told.failed.push(rest.replace("\\n", "\n")),
            "left-out" => drop(told.skipped.insert(rest.to_string())),
            "done" => return Ok(told),
            _ => println!("    {line}"),
        }
    }
}
