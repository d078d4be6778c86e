//! One checking connection: sends pipelines, reads replies in order, and says so when the other side goes away.
//!
//! It is not the cheap one (that is [`crate::engine`]): every reply becomes a [`Value`], because here the point
//! is to look at it.

use crate::resp::{self, Scanner, Value};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that speaks RESP2 or RESP3.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    scanner: Scanner,
    /// A reply that takes longer than this is reported as missing.
    pub patience: Duration,
}

impl Client {
    /// Connects and, for RESP3, says `HELLO 3`.
    pub async fn connect(target: &str, resp: u8) -> Result<Client> {
        let stream = TcpStream::connect(target).await.with_context(|| format!("connect to {target}"))?;
        stream.set_nodelay(true)?;
        let (buffer, scanner) = (Vec::with_capacity(64 << 10), Scanner::default());
        let mut client = Client { stream, buffer, start: 0, scanner, patience: Duration::from_secs(10) };
        if resp == 3 {
            let reply = client.ask(&[b"HELLO", b"3"]).await?;
            if !matches!(reply, Value::Map(_)) {
                bail!("HELLO 3 answered {reply:?}");
            }
        }
        Ok(client)
    }

    /// One command, one reply.
    pub async fn ask(&mut self, args: &[&[u8]]) -> Result<Value> {
        let mut request = Vec::new();
        resp::encode(args, &mut request);
        self.send(&request).await?;
        self.reply().await
    }

    /// Writes encoded requests. Nothing is read meanwhile, so a pipeline's replies must fit the socket buffers.
    pub async fn send(&mut self, requests: &[u8]) -> Result<()> {
        let write = self.stream.write_all(requests);
        tokio::time::timeout(self.patience, write).await.context("the socket took no request for too long")??;
        Ok(())
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Result<Value> {
        loop {
            if let Some(length) = self.scanner.scan(&self.buffer[self.start..])? {
                let value = resp::parse(&self.buffer[self.start..self.start + length])?;
                self.start += length;
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.start = 0;
                }
                return Ok(value);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            let read = self.stream.read_buf(&mut self.buffer);
            let count = tokio::time::timeout(self.patience, read).await.context("no reply for too long")??;
            if count == 0 {
                bail!("the connection was closed");
            }
        }
    }
}
