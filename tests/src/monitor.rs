//! Everything that a server executes, as its MONITOR tells it: the witness of order, and of what the proxy sends on its own.

use std::thread::JoinHandle;

use anyhow::{Result, anyhow, ensure};

use crate::pair::PATIENCE;
use crate::resp::Client;
use crate::servers::Server;

/// Reads along until it is ended.
#[derive(Debug)]
pub struct Monitor {
    lines: JoinHandle<Vec<String>>,
}

/// What is said last.
const END: &str = "the end of the monitor";

impl Monitor {
    /// From now on.
    pub fn start(server: &Server) -> Result<Monitor> {
        let mut client: Client = server.client()?;
        ensure!(client.cmd("MONITOR")?.is_ok(), "MONITOR is refused");
        client.set_timeout(PATIENCE)?;
        let lines = std::thread::spawn(move || {
            let mut lines = Vec::new();
            while let Ok(line) = client.receive() {
                let line = line.text();
                if line.contains(END) {
                    break;
                }
                lines.push(line);
            }
            lines
        });
        Ok(Monitor { lines })
    }

    /// The lines so far: `1700000000.123456 [0 127.0.0.1:4000] "SET" "k" "v"`.
    pub fn end(self, server: &Server) -> Result<Vec<String>> {
        let _ = server.client()?.call(&[b"ECHO", END.as_bytes()])?;
        self.lines.join().map_err(|_| anyhow!("the reader of MONITOR panicked"))
    }
}
