//! `loadtest`: see the library for the story; this is its table of contents.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twinlane_loadtest::contended::{self, table::Selection};

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
    /// SWAPDB and FLUSHDB: one in so many of one per cent of the commands.
    #[arg(long, default_value_t = 20)]
    flush_one_in: u64,
    /// Only these families (comma separated), as named in commands.table.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Not these families.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Families that are off by default: blocking.
    #[arg(long, value_delimiter = ',')]
    also: Vec<String>,
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

async fn contended_verb(args: ContendedArgs) -> Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
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
        flush_one_in: args.flush_one_in.max(1),
        selection: Selection { only: args.only, without: args.without, also: args.also, version: (0, 0) },
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
