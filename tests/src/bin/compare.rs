//! `compare --old host:port --new host:port`: are two servers at rest equal? Exit status 0 only if they are.
//!
//! What "equal" means is told in [`twinlane_tests::compare`]. Differences go to stdout, one a line, a summary last.

use std::process::ExitCode;

use clap::Parser;
use twinlane_tests::compare::{self, Options, TTL_TOLERANCE_MS_DEFAULT};

/// Compares every key of every database of two Redis servers at rest.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Arguments {
    /// The one server, as host:port.
    #[arg(long)]
    old: String,
    /// The other server, as host:port.
    #[arg(long)]
    new: String,
    /// Remaining TTLs may differ by this many milliseconds.
    #[arg(long, default_value_t = TTL_TOLERANCE_MS_DEFAULT)]
    ttl_tolerance_ms: u64,
    /// Cross-check with DEBUG DIGEST-VALUE as well (one version, 7.0 or later, on both sides).
    #[arg(long)]
    digest: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let options = Options { ttl_tolerance_ms: arguments.ttl_tolerance_ms, ..Options::default() };
    let report = compare::compare(&arguments.old, &arguments.new, &options)?;
    println!("{report}");
    if !arguments.digest {
        return Ok(report.is_equal());
    }
    let digests = compare::digest_check(&arguments.old, &arguments.new, &options)?;
    println!("by DEBUG DIGEST-VALUE: {digests}");
    Ok(report.is_equal() && digests.is_equal())
}
