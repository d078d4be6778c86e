//! What connections cost while they do nothing: memory of the target per idle client.

use crate::proc_stat;
use crate::run::targets::Target;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One target.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// The target.
    pub target: String,
    /// Clients that are connected and have asked once.
    pub connections: usize,
    /// Resident memory before, KiB.
    pub before_kib: u64,
    /// With them.
    pub after_kib: u64,
}

impl Idle {
    /// Bytes of one connection.
    pub fn bytes_each(&self) -> f64 {
        self.after_kib.saturating_sub(self.before_kib) as f64 * 1024.0 / self.connections.max(1) as f64
    }

    /// For people.
    pub fn text(&self) -> String {
        let mib = |kib: u64| kib as f64 / 1024.0;
        format!(
            "{:<14}{:>7} idle connections: {:>7.1} MiB before, {:>7.1} MiB with them, {:>6.0} bytes each\n",
            self.target,
            self.connections,
            mib(self.before_kib),
            mib(self.after_kib),
            self.bytes_each()
        )
    }
}

/// Connects so many clients, lets each ask once, and looks at the target's memory while all are there.
pub async fn measure(target: &Target, connections: usize) -> Result<Idle> {
    let rss = || target.pid.and_then(proc_stat::rss_kib).with_context(|| format!("{}: no process to look at, give pid=N", target.name));
    let before_kib = rss()?;
    let mut clients = Vec::with_capacity(connections);
    for number in 0..connections {
        let connect = TcpStream::connect(&target.address).await;
        let mut client = connect.with_context(|| format!("{}: connection {number} of {connections}; see ulimit -n", target.name))?;
        client.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
        let mut reply = [0; 7];
        tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut reply)).await.context("no answer to PING")??;
        ensure!(reply == *b"+PONG\r\n", "{} answers PING with {}", target.name, reply.escape_ascii());
        clients.push(client);
    }
    Ok(Idle { target: target.name.clone(), connections, before_kib, after_kib: rss()? })
}
