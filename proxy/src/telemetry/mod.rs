//! What the process says about itself: log lines ([`init`]) and metrics ([`metrics`]).
//!
//! Logs go to standard error, so that `twinlane ... --json` on standard output stays clean. Who did what at the admin port
//! has the target `audit`, which a filter cannot turn off by naming a level for the rest.

pub mod metrics;

use crate::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Installs the log for the whole process; a second call changes nothing.
///
/// # Errors
/// When `log.level` is not a filter.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level: {error}; write error, warn, info, debug or trace"))?;
    let audit = "audit=info".parse().map_err(|error| format!("log.level: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter.add_directive(audit)).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
