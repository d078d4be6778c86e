//! The data thread's loop. For now only the start: it decides whether serving is safe, and then waits.

use crate::config::Config;
use crate::control::ControlReceiver;
use crate::start::start;
use crate::store::Store;

/// Serves until the process is told to stop.
///
/// # Errors
/// When serving is not safe, or the state directory fails.
pub async fn run(config: Config, mut store: Store, mut control: ControlReceiver) -> anyhow::Result<()> {
    let started = start(&config, &mut store, &control).await?;
    tracing::info!("primary {} at epoch {}", started.record.primary, started.record.epoch);
    while control.next().await.is_some() {}
    Ok(())
}
