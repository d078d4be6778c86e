//! What a Rust program needs for its conversation with the harness; the same as `python/common.py` and `js/common.js`.

use std::cell::Cell;
use std::future::Future;
use std::io::BufRead;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::task::{JoinSet, LocalSet, spawn_blocking};

/// Longest wait for a condition, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A phase that has not begun.
pub type Phase = Pin<Box<dyn Future<Output = Result<()>>>>;

/// What the harness has put into the environment.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where to connect.
    pub host: String,
    /// Where to connect.
    pub port: u16,
    /// What to say there.
    pub password: String,
    /// Version of RESP: 2 or 3.
    pub protocol: u8,
}

impl Place {
    /// Reads the environment.
    pub fn from_env() -> Result<Place> {
        let get = std::env::var;
        Ok(Place { host: get("HOST")?, port: get("PORT")?.parse()?, password: get("PASSWORD")?, protocol: get("PROTOCOL")?.parse()? })
    }

    /// As a URL.
    pub fn url(&self, db: u8) -> String {
        format!("redis://:{}@{}:{}/{db}", self.password, self.host, self.port)
    }
}

/// How often the primary role has moved.
static FLIPS: AtomicU64 = AtomicU64::new(0);

/// How many flips have ended.
pub fn flips() -> u64 {
    FLIPS.load(Ordering::Relaxed)
}

/// The primary role moves to the other side; returns when it has.
pub async fn flip() -> Result<()> {
    println!("flip");
    let mut line = String::new();
    let read = spawn_blocking(move || std::io::stdin().lock().read_line(&mut line)).await??;
    ensure!(read > 0, "the harness has gone");
    FLIPS.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Every phase in turn; the next one is tried when one fails.
fn run(phases: Vec<(&'static str, Phase)>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let left_out = std::env::var("LEAVE_OUT").unwrap_or_default();
    let only = std::env::var("ONLY").ok();
    for (name, phase) in phases {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        if left_out.split(',').any(|left_out| left_out == name) {
            println!("left-out {name}");
            continue;
        }
        println!("phase {name}");
        match LocalSet::new().block_on(&runtime, async { tokio::time::timeout(PATIENCE * 2, phase).await }) {
            Ok(Ok(())) => println!("pass {name}"),
            Ok(Err(error)) => println!("fail {name}: {}", format!("{error:#}").replace('\n', "\\n")),
            Err(_) => println!("fail {name}: the phase does not end"),
        }
    }
    println!("done");
    Ok(())
}

/// The phases that every library has, in this order, and what RESP3 adds.
pub fn run_library(phases: [Phase; 10], tracking: Phase) -> Result<()> {
    let names = ["handshake", "pipeline", "transaction", "watch", "script", "pubsub", "blocking", "streams", "scan", "reconnect"];
    let resp3 = Place::from_env()?.protocol == 3;
    run(names.into_iter().zip(phases).chain(resp3.then_some(("tracking", tracking))).collect())
}

/// Asks again and again until a condition holds; the error says for what it waited, also when asking itself does not end.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let held = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap_or_else(|_| bail!("waited {PATIENCE:?} for {what}"))
}

/// A count that several tasks share.
pub type Count = Rc<Cell<u64>>;

/// One more.
pub fn add_one(count: &Count) {
    count.set(count.get() + 1);
}

/// Work that is done again and again in tasks of its own. An error in one is the phase's error.
#[derive(Debug, Default)]
pub struct Workers {
    set: JoinSet<Result<()>>,
    stopped: Rc<Cell<bool>>,
}

impl Workers {
    /// Begins to call it.
    pub fn repeat(&mut self, mut work: impl AsyncFnMut() -> Result<()> + 'static) {
        let stopped = self.stopped.clone();
        self.set.spawn_local(async move {
            while !stopped.get() {
                work().await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        });
    }

    /// Waits for a condition; the end of the work by an error ends the wait.
    pub async fn until(&mut self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        until(what, async || {
            let held = holds();
            if !held && let Some(ended) = self.set.try_join_next() {
                ended??;
            }
            Ok(held)
        })
        .await
    }

    /// Two flips, each behind `step` more of what is counted, and as much again behind the last; then the end of the work.
    pub async fn across_flips(mut self, count: &Count, step: u64) -> Result<()> {
        for flips in [true, true, false] {
            let goal = count.get() + step;
            self.until(&format!("{step} more of the work"), || count.get() >= goal).await?;
            if flips {
                flip().await?;
            }
        }
        self.stopped.set(true);
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.set.join_next()).await? {
            ended??;
        }
        Ok(())
    }
}
