//! `twinlane`: parse, then either run the proxy or one verb of the operator.

use clap::Parser;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use twinlane::cli::{self, Cli, ServeArgs, Verb};
use twinlane::{admin, control, driver, net, store, telemetry};

fn main() -> ExitCode {
    net::install_provider();
    match Cli::parse().verb {
        Verb::Serve(args) => serve(&args),
        verb => cli::run(verb),
    }
}

/// A mistake in the configuration is wrong use (2); everything that keeps a good configuration from serving is a refusal (1).
fn serve(args: &ServeArgs) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(mistakes) => return end(2, &mistakes.to_string()),
    };
    if let Err(mistake) = telemetry::init(&config.log) {
        return end(2, &mistake);
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(1, &format!("does not serve: {error:#}")),
    }
}

/// The process: the record, the operator's port on a thread of its own, and the data path on this one.
fn run(config: twinlane::config::Config) -> anyhow::Result<()> {
    raise_file_limit(config.listen.max_clients);
    let store = store::Store::open(&config.state_dir)?;
    let (control, receiver) = control::channel();
    let audit = std::sync::Arc::new(store::Audit::open(&config.state_dir)?);
    let epoch = store.record().map_or(0, |record| record.epoch);
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    audit.note(&store::Entry::now("process", "start", &version, &format!("the record is of epoch {epoch}")));
    let bound = admin::spawn(config.admin.address, control, audit)?;
    tracing::info!("twinlane {}, admin port on {bound}", env!("CARGO_PKG_VERSION"));
    driver::run(config, store, receiver, told_to_stop())
}

/// Ends with the first signal that asks for it. Where none can be heard, they end the process as the system does.
async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be heard: SIGTERM ends the process at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
    }
}

/// As Redis does: take all the files the system allows us, and say when they are fewer than `max_clients` needs.
fn raise_file_limit(max_clients: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = max_clients as u64 + FILES_OF_OUR_OWN;
    if allowed < needed {
        tracing::warn!(
            "listen.max_clients = {max_clients} needs {needed} open files, and the system allows {allowed}; raise `ulimit -n` or lower it"
        );
    }
}

/// Lanes, probes, the record, the admin port and its clients.
const FILES_OF_OUR_OWN: u64 = 128;

fn end(code: u8, text: &str) -> ExitCode {
    eprintln!("twinlane: {text}");
    ExitCode::from(code)
}
