//! Everything that a server executes, as its MONITOR tells it: the witness of order, and of what the proxy sends on its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow, ensure};

use crate::resp::Client;
use crate::servers::Server;

/// Reads along until it is ended.
#[derive(Debug)]
pub struct Monitor {
    lines: JoinHandle<Vec<String>>,
    stop: Arc<AtomicBool>,
}

impl Monitor {
    /// From now on.
    pub fn start(server: &Server) -> Result<Monitor> {
        let mut client: Client = server.client()?;
        ensure!(client.cmd("MONITOR")?.is_ok(), "MONITOR is refused");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let lines = std::thread::spawn(move || {
            let mut lines = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                // The server itself ends the wait: somebody asks it for something all the time.
                match client.receive() {
                    Ok(line) => lines.push(line.text()),
                    Err(_) => break,
                }
            }
            lines
        });
        Ok(Monitor { lines, stop })
    }

    /// The lines so far: `1700000000.123456 [0 127.0.0.1:4000] "SET" "k" "v"`.
    pub fn end(self, server: &Server) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = server.client()?.cmd("PING")?;
        self.lines.join().map_err(|_| anyhow!("the reader of MONITOR panicked"))
    }
}
