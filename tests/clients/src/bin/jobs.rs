//! `jobs`: BullMQ, Celery and RQ through the proxy, with a cutover and a rollback in the middle.
//!
//! One producer and two workers, each a process of its own, and a *ledger*: a plain server which is not behind the proxy,
//! where every job writes down each of its attempts and its one completion. The harness flips when the ledger shows a third
//! and two thirds of the jobs done. At the end the ledger must hold every job exactly once (two attempts for each job
//! that was made to fail at first), the library must find nothing waiting, delayed or active, and both servers must hold
//! the same.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use twinlane_clients::missing::missing;
use twinlane_clients::{Launch, Program, Stage};
use twinlane_tests::resp::{Client, Value};
use twinlane_tests::servers::{Server, Version};

/// A queue in which nothing is completed for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);
const WORKERS: usize = 2;

/// Runs the job queues.
#[derive(Debug, Parser)]
#[command(name = "jobs")]
struct Arguments {
    /// Only these queues (all by default): bullmq, celery, rq.
    queues: Vec<String>,
    /// Jobs of each.
    #[arg(long, env = "TWINLANE_JOBS", default_value_t = 20_000)]
    jobs: usize,
    /// Against one plain server, without the proxy.
    #[arg(long)]
    control: bool,
    /// Run what `missing.tsv` names, too.
    #[arg(long)]
    all: bool,
}

const QUEUES: [(&str, Launch); 3] =
    [("bullmq", Launch::Node("bullmq_jobs.js")), ("celery", Launch::Python("celery_jobs.py")), ("rq", Launch::Python("rq_jobs.py"))];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} failed");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("jobs: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<usize> {
    for name in &arguments.queues {
        ensure!(QUEUES.iter().any(|(queue, _)| queue == name), "there is no queue {name}");
    }
    let (mut failed, missing) = (0, missing()?);
    for (name, launch) in
        QUEUES.iter().filter(|(name, _)| arguments.queues.is_empty() || arguments.queues.iter().any(|chosen| chosen == name))
    {
        let left_out = missing.iter().find(|entry| entry.phase == "jobs" && entry.concerns(name));
        if let Some(entry) = left_out.filter(|_| !arguments.control && !arguments.all) {
            println!("{name:<8} left out: {}", entry.reason);
            continue;
        }
        let start = Instant::now();
        match play(name, launch, arguments) {
            Ok(summary) => println!("{name:<8} {} jobs: {summary} ({:.1} s)", arguments.jobs, start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("{name:<8} FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    Ok(failed)
}

fn play(name: &str, launch: &Launch, arguments: &Arguments) -> Result<String> {
    let stage = Stage::start(arguments.control, (Version::Redis70, Version::Redis70), &[])?;
    let ledger = Ledger::start()?;
    let env = [("LEDGER", ledger.server.port().to_string()), ("JOBS", arguments.jobs.to_string())];
    let start = |role: &str, number: usize| {
        Program::start(&format!("{name} {role}"), launch, &[role, &format!("{role}-{number}")], &stage.address(), &env)
    };
    let mut workers = (0..WORKERS).map(|number| start("work", number)).collect::<Result<Vec<_>>>()?;
    for worker in &mut workers {
        worker.expect("ready")?;
    }
    let mut producer = start("produce", 0)?;
    let mut flips = Vec::new();
    let through = (|| {
        for goal in [arguments.jobs / 3, arguments.jobs * 2 / 3] {
            ledger.wait_done(goal, &mut workers, &mut producer)?;
            flips.push(stage.flip()?);
        }
        producer.expect("produced")?;
        ledger.wait_done(arguments.jobs, &mut workers, &mut producer)
    })();
    through.with_context(|| stage.log_tail())?;
    ensure!(producer.finish()?.success(), "the producer failed");
    for mut worker in workers {
        worker.tell("stop")?;
        worker.expect("stopped")?;
        let status = worker.finish()?;
        ensure!(status.success(), "a worker ended with {status}");
    }
    ledger.check(arguments.jobs)?;
    let mut check = start("check", 0)?;
    check.expect("checked").with_context(|| stage.log_tail())?;
    let equal = stage.compare()?;
    Ok(format!("each exactly once; {}; {equal}", flips.join("; ")))
}

struct Ledger {
    server: Server,
}

impl Ledger {
    fn start() -> Result<Ledger> {
        Ok(Ledger { server: Server::plain(Version::Redis70)? })
    }

    /// Waits until so many jobs are completed. Ends with an error when that stands still, or a process has ended.
    fn wait_done(&self, goal: usize, workers: &mut [Program], producer: &mut Program) -> Result<()> {
        let mut client = self.server.client()?;
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let done = client.cmd("GET done")?.text().parse().unwrap_or(0);
            if done >= goal {
                return Ok(());
            }
            if done > seen {
                (seen, moved) = (done, Instant::now());
            }
            for worker in workers.iter_mut() {
                if let Some(status) = worker.ended()? {
                    bail!("a worker ended with {status} when {done} jobs were done\n{}", worker.errors());
                }
            }
            if let Some(status) = producer.ended()? {
                ensure!(status.success(), "the producer ended with {status} when {done} jobs were done\n{}", producer.errors());
            }
            ensure!(moved.elapsed() < STUCK, "stuck: {done} jobs done, {goal} awaited, nothing new for {STUCK:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every job completed once; attempted twice where the first attempt was made to fail, else once.
    fn check(&self, jobs: usize) -> Result<()> {
        let mut client = self.server.client()?;
        let (runs, attempts) = (numbers(&mut client, "HGETALL runs")?, numbers(&mut client, "HGETALL attempts")?);
        let mut wrong = Vec::new();
        for job in 0..jobs {
            let expected = (Some(1), Some(if job % 20 == 7 { 2 } else { 1 }));
            let found = (runs.get(&job).copied(), attempts.get(&job).copied());
            if found != expected {
                wrong.push(format!("job {job}: completed {:?} times in {:?} attempts", found.0, found.1));
            }
        }
        ensure!(wrong.is_empty(), "{} jobs not exactly once:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
        ensure!(runs.len() == jobs, "jobs that nobody produced");
        Ok(())
    }
}

fn numbers(client: &mut Client, command: &str) -> Result<std::collections::HashMap<usize, u64>> {
    let reply = client.cmd(command)?;
    let number = |value: &Value| value.text().parse::<u64>().context("a number");
    reply.items().chunks(2).map(|pair| Ok((number(&pair[0])? as usize, number(&pair[1])?))).collect()
}
