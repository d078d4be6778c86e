//! The admin port, as a script would speak to it: one request, one answer, one connection.
//!
//! Written by hand because a flip must be measured from inside the load's own runtime: a blocking HTTP client
//! on another thread would take its wake-ups from the two cores that the servers share.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Which way the primary role moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// `old` to `new`
    Cutover,
    /// `new` to `old`
    Rollback,
}

impl Direction {
    /// The verb's path.
    pub fn path(self) -> &'static str {
        match self {
            Direction::Cutover => "/v1/cutover",
            Direction::Rollback => "/v1/rollback",
        }
    }

    /// The way back.
    pub fn reversed(self) -> Direction {
        match self {
            Direction::Cutover => Direction::Rollback,
            Direction::Rollback => Direction::Cutover,
        }
    }
}

/// How one flip went.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Flip {
    /// Which way.
    pub direction: Direction,
    /// The server answered 200.
    pub done: bool,
    /// The longest time that any one request was held, as the proxy reports it, in milliseconds.
    pub pause_ms: f64,
    /// Requests held, as the proxy reports it.
    pub held_requests: u64,
    /// From the first request to the final answer, refusals included, in milliseconds.
    pub took_ms: f64,
    /// How often a gate refused (409) before that.
    pub refusals: u32,
    /// The last answer, when it was not a success.
    pub answer: Option<String>,
}

/// The admin port of one proxy.
#[derive(Debug, Clone)]
pub struct Admin {
    address: String,
}

impl Admin {
    /// `address` is `host:port`.
    pub fn new(address: impl Into<String>) -> Admin {
        Admin { address: address.into() }
    }

    /// One request; the status code and the body.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let work = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            let length = body.len();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
                self.address
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(60), work).await.context("no answer in 60 s")??;
        parse_answer(&answer)
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Value> {
        let (code, body) = self.call("GET", "/v1/status", "").await?;
        if code != 200 {
            bail!("status answered {code}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// The way the next flip must go, from the present primary.
    pub async fn next_direction(&self) -> Result<Direction> {
        let status = self.status().await?;
        Ok(if status["primary"] == "new" { Direction::Rollback } else { Direction::Cutover })
    }

    /// Asks for a flip and asks again while a gate refuses, up to `patience`.
    pub async fn flip(&self, direction: Direction, patience: Duration) -> Flip {
        let start = Instant::now();
        let mut refusals = 0;
        loop {
            let answer = self.call("POST", direction.path(), "{}").await;
            let took_ms = start.elapsed().as_secs_f64() * 1e3;
            let mut flip = Flip { direction, done: false, pause_ms: 0.0, held_requests: 0, took_ms, refusals, answer: None };
            match answer {
                Ok((200, body)) => {
                    let body: Value = serde_json::from_str(&body).unwrap_or_default();
                    flip.done = body["done"] == true;
                    flip.pause_ms = body["pause_ms"].as_f64().unwrap_or(0.0);
                    flip.held_requests = body["held_requests"].as_u64().unwrap_or(0);
                    flip.answer = (!flip.done).then(|| body.to_string());
                    return flip;
                }
                Ok((409, _)) if start.elapsed() < patience => refusals += 1,
                Ok((code, body)) => {
                    flip.answer = Some(format!("{code}: {}", body.trim()));
                    return flip;
                }
                Err(error) => {
                    flip.answer = Some(format!("{error:#}"));
                    return flip;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Status code and body of a whole HTTP/1.1 answer, chunked or not.
fn parse_answer(answer: &[u8]) -> Result<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let code = head.split_whitespace().nth(1).context("no status code")?.parse()?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((code, body.to_owned()));
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16)?;
        if size == 0 {
            break;
        }
        whole.push_str(after.get(..size).context("chunk cut short")?);
        rest = after.get(size + 2..).unwrap_or("");
    }
    Ok((code, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port that gives these answers, one a connection.
    async fn scripted(answers: Vec<&'static str>) -> Admin {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = Admin::new(listener.local_addr().unwrap().to_string());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        admin
    }

    #[tokio::test]
    async fn a_refused_flip_is_asked_for_again_until_patience_ends() {
        let refused = "HTTP/1.1 409 Conflict\r\n\r\n{\"done\":false,\"reasons\":[\"dirty\"]}";
        let done = "HTTP/1.1 200 OK\r\n\r\n{\"done\":true,\"primary\":\"new\",\"pause_ms\":1.5,\"held_requests\":3}";
        let admin = scripted(vec![refused, done]).await;
        let flip = admin.flip(Direction::Cutover, Duration::from_secs(5)).await;
        assert_eq!((flip.done, flip.refusals, flip.pause_ms, flip.held_requests), (true, 1, 1.5, 3));
        let admin = scripted(vec![refused]).await;
        let flip = admin.flip(Direction::Rollback, Duration::ZERO).await;
        assert!(!flip.done && flip.answer.unwrap().contains("dirty"));
    }

    #[test]
    fn answers_are_read_plain_and_chunked() {
        let plain = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse_answer(plain).unwrap(), (409, "{}".into()));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked).unwrap(), (200, "{\"a\":1}".into()));
    }
}
