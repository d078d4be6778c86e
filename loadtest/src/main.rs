//! `loadtest`: see the library for the story; this is its table of contents.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twinlane_loadtest::contended::{self, table::Selection};
use twinlane_loadtest::run::{
    self,
    targets::{Role, Target},
    workload::{BENCH, Workload},
};
use twinlane_loadtest::{fairness, flips, idle};

/// Load for Twinlane and its peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Clients fight over a dozen keys of every family; every reply is checked; flips meanwhile.
    Contended(ContendedArgs),
    /// Flip after flip under a constant arrival rate: the longest hold of each, beside a plain server's stalls.
    Flips(FlipsArgs),
    /// Workload files against several targets in turn.
    Run(RunArgs),
    /// The standard set against several targets in turn: the rows of the peers' table.
    Bench(BenchArgs),
    /// Memory of targets with many idle connections.
    Idle(IdleArgs),
    /// A light client beside one that pipelines, or reads a large value: its latencies.
    Fairness(FairnessArgs),
}

#[derive(Debug, clap::Args)]
struct IdleArgs {
    /// As for `bench`; each needs a process.
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Fail if a subject's memory is above this with them.
    #[arg(long)]
    mib_max: Option<f64>,
    /// Write the report here too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FairnessArgs {
    /// As for `bench`.
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    /// Commands a second of the light client.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Beside each neighbour.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Commands that the greedy client sends at a time.
    #[arg(long, default_value_t = 100_000)]
    pipeline: usize,
    /// Bytes of the value that it reads.
    #[arg(long, default_value_t = 100_000_000)]
    large_bytes: usize,
    /// Write the report here too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FlipsArgs {
    /// The proxy's data port.
    #[arg(long)]
    target: String,
    /// A plain server for comparison.
    #[arg(long)]
    direct: Option<String>,
    /// The proxy's admin port.
    #[arg(long)]
    admin: String,
    /// Commands a second through the target.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Commands a second at the plain server: enough to see any stall of half a millisecond, few enough not to cause one.
    #[arg(long, default_value_t = 4_000.0)]
    direct_rate: f64,
    /// How many flips, cutover and rollback in turn.
    #[arg(long, default_value_t = 200)]
    flips: usize,
    #[arg(long, default_value_t = 24)]
    clients: usize,
    /// Commands per batch.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// From one flip's end to the next.
    #[arg(long, default_value_t = 150)]
    gap_ms: u64,
    /// How long a flip that a gate refuses is asked for again.
    #[arg(long, default_value_t = 10.0)]
    flip_patience_seconds: f64,
    /// Fail unless the median hold is under this.
    #[arg(long)]
    median_ms_max: Option<f64>,
    /// Fail unless the 95th percentile of the holds is under this.
    #[arg(long)]
    p95_ms_max: Option<f64>,
    /// Write the report here too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct BenchArgs {
    /// `NAME=HOST:PORT[,pid=N][,role=direct|peer|dual|floor|subject]`, the direct one first; `NAME=spawn:HOST:PORT[,new=HOST:PORT]
    /// [,mirroring=off][,binary=PATH][,args=WORDS][,config=FILE]` starts it before the server at HOST:PORT: nutcracker, haproxy,
    /// predixy, envoy, shotover and twinlane by name, others with binary, args and config, in which {port}, {spare}, {old}, {old_port}, {new}, {folder} and {config}
    /// are filled in.
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    /// Visits of each target for each workload.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measured time of one visit, instead of the workload's own.
    #[arg(long)]
    seconds: Option<f64>,
    #[arg(long, default_value_t = 0.5)]
    warmup_seconds: f64,
    /// A server behind the targets, whose CPU is shown too; may be repeated.
    #[arg(long = "server-pid")]
    server_pids: Vec<u32>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only workloads whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Write the report here too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The same as a page with plots.
    #[arg(long)]
    html: Option<PathBuf>,
    /// The same as Markdown tables.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Workload files, TOML or JSON.
    #[arg(required = true)]
    workloads: Vec<PathBuf>,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Debug, clap::Args)]
struct ContendedArgs {
    /// The data port.
    #[arg(long)]
    target: String,
    /// The admin port, for flips.
    #[arg(long)]
    admin: Option<String>,
    /// How long the clients write.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    #[arg(long, default_value_t = 24)]
    clients: usize,
    /// Contended keys of each family.
    #[arg(long, default_value_t = 12)]
    keys: u64,
    /// When to flip, as "cutover@5,rollback@10,cutover@15"; with --admin only.
    #[arg(long, default_value = "")]
    flips: String,
    /// How long a flip that a gate refuses is asked for again.
    #[arg(long, default_value_t = 5.0)]
    flip_patience_seconds: f64,
    /// 2, 3 or mixed (every other client).
    #[arg(long, default_value = "mixed", value_parser = ["2", "3", "mixed"])]
    resp: String,
    /// Same seed, same commands; the default is the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Average pause between a client's pipelines.
    #[arg(long, default_value_t = 0)]
    think_ms: u64,
    /// No MULTI blocks.
    #[arg(long)]
    no_multi: bool,
    /// SWAPDB and FLUSHDB, which belong to the family `databases`: one in so many of one per cent of the commands.
    #[arg(long, default_value_t = 20)]
    flush_one_in: u64,
    /// Only these families (comma separated), as named in commands.table; `watch` is an optimistic lock beside them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Not these families.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Write the report here too.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            match cli.verb {
                Verb::Contended(args) => contended_verb(args).await,
                Verb::Flips(args) => flips_verb(args).await,
                Verb::Run(args) => {
                    let workloads = args.workloads.iter().map(|path| Workload::read(path)).collect();
                    run_verb(workloads, args.bench).await
                }
                Verb::Idle(args) => idle_verb(args).await,
                Verb::Fairness(args) => fairness_verb(args).await,
                Verb::Bench(args) => run_verb(BENCH.iter().map(|text| Workload::parse(text)).collect(), args).await,
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Milliseconds of the epoch: tells one run's keys from another's.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
}

async fn flips_verb(args: FlipsArgs) -> Result<bool> {
    let options = flips::Options {
        target: args.target,
        direct: args.direct,
        admin: args.admin,
        rate: args.rate,
        direct_rate: args.direct_rate,
        flips: args.flips,
        clients: args.clients.max(1),
        depth: args.depth.max(1),
        gap: Duration::from_millis(args.gap_ms),
        patience: Duration::from_secs_f64(args.flip_patience_seconds),
        run: now_ms(),
        median_ms_max: args.median_ms_max,
        p95_ms_max: args.p95_ms_max,
    };
    let report = flips::run(&options).await?;
    print!("{}", report.text());
    save(args.json, &report)?;
    Ok(report.good)
}

async fn run_verb(workloads: Result<Vec<Workload>>, args: BenchArgs) -> Result<bool> {
    let mut workloads = workloads?;
    if let Some(filter) = &args.filter {
        workloads.retain(|workload| workload.name.contains(filter));
    }
    let options = run::Options {
        workloads,
        targets: targets(&args.targets, true).await?,
        rounds: args.rounds,
        seconds: args.seconds,
        warmup_seconds: args.warmup_seconds,
        server_pids: args.server_pids,
        seed: args.seed,
    };
    let report = run::run(options).await?;
    print!("{}", report.text());
    save(args.json, &report)?;
    if let Some(path) = args.html {
        std::fs::write(path, report.html())?;
    }
    if let Some(path) = args.markdown {
        std::fs::write(path, report.markdown())?;
    }
    Ok(report.good)
}

async fn targets(texts: &[String], direct_first: bool) -> Result<Vec<Target>> {
    let mut targets = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        targets.push(Target::parse(text, direct_first && index == 0).await?);
    }
    Ok(targets)
}

async fn idle_verb(args: IdleArgs) -> Result<bool> {
    let (mut found, mut good) = (Vec::new(), true);
    for target in targets(&args.targets, false).await? {
        let idle = idle::measure(&target, args.connections).await?;
        print!("{}", idle.text());
        let mib = idle.after_kib as f64 / 1024.0;
        if target.role == Role::Subject && args.mib_max.is_some_and(|most| mib > most) {
            println!("{}: {mib:.1} MiB is more than --mib-max", target.name);
            good = false;
        }
        found.push(idle);
    }
    save(args.json, &found)?;
    Ok(good)
}

async fn fairness_verb(args: FairnessArgs) -> Result<bool> {
    let FairnessArgs { rate, seconds, pipeline, large_bytes, .. } = args;
    let options = fairness::Options { rate, seconds, pipeline, large_bytes };
    let mut found = Vec::new();
    for target in targets(&args.targets, true).await? {
        for beside in fairness::measure(&target, &options).await? {
            print!("{}", beside.text());
            found.push(beside);
        }
    }
    save(args.json, &found)?;
    Ok(found.iter().all(|beside| beside.errors == 0))
}

async fn contended_verb(args: ContendedArgs) -> Result<bool> {
    let now = now_ms();
    if args.admin.is_none() && !args.flips.is_empty() {
        anyhow::bail!("--flips needs --admin");
    }
    let selection = Selection { only: args.only, without: args.without, version: (0, 0) };
    let options = contended::Options {
        target: args.target,
        flips: contended::parse_flips(&args.flips)?,
        patience: Duration::from_secs_f64(args.flip_patience_seconds),
        admin: args.admin,
        seconds: args.seconds,
        clients: args.clients,
        keys: args.keys,
        resp: args.resp.parse().unwrap_or(0),
        seed: args.seed.unwrap_or(now),
        run: now,
        think_ms: args.think_ms,
        multi: !args.no_multi,
        watch: selection.has("watch"),
        flush_one_in: args.flush_one_in.max(1),
        selection,
    };
    let report = contended::run(options).await?;
    print!("{}", report.text());
    save(args.json, &report)?;
    Ok(report.good)
}

fn save(path: Option<PathBuf>, report: &impl serde::Serialize) -> Result<()> {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_string_pretty(report)?)?;
    }
    Ok(())
}
