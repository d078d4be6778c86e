//! A fixed script of traffic through the core, between two model servers, for a count of instructions that does not depend on the
//! machine's mood (`make price`): what one command costs the sequencer, with the journal and without.
//!
//! `price COMMANDS DEPTH [--journal] [--reads | --sets] [--shadow=N]` plays so many commands of 16 sessions, DEPTH in each of their pipelines: half of
//! them reads, the other half SET, INCR, HSET, SADD and LPUSH on a thousand keys; with `--reads` all of them reads, with `--sets` all of them SETs. Of a million reads
//! N are compared with the mirror. Under callgrind only the sequencer's own calls are counted
//! (`--toggle-collect='*counted*'`), so what the model servers do is left out, and so is the preparation, by subtracting a run of half the length.

use std::process::ExitCode;
use twinlane_simulation::script::{Kind, Script};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
    let (Some(commands), Some(depth @ 1..)) = (number(0), number(1)) else {
        eprintln!("price COMMANDS DEPTH [--journal] [--reads | --sets] [--shadow=N]");
        return ExitCode::from(2);
    };
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    let shadow = arguments.iter().find_map(|word| word.strip_prefix("--shadow=")?.parse().ok()).unwrap_or(0);
    let mut script = Script::begin(has("--journal"), shadow, || 0);
    script.prepare();
    let kind = if has("--reads") {
        Kind::Reads
    } else if has("--sets") {
        Kind::Sets
    } else {
        Kind::Mixed
    };
    script.play(commands, depth, kind);
    let shadow = script.core.status().shadow.total;
    println!(
        "{commands} commands at depth {depth}: {} bytes of replies; {} reads compared, {} skipped",
        script.replies,
        shadow.compared(),
        shadow.skips()
    );
    ExitCode::SUCCESS
}
