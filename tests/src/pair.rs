//! Two servers with the proxy between them, and the waits that every integration test needs: for a condition with a
//! deadline, never for a while.
//!
//! [`Pair::assert_equal`] is the sentence most tests end with: the proxy says that nothing is queued, dirty or unsynced, and
//! then the comparer must find both servers equal at once. It compares once on purpose: a proxy that calls itself in step
//! before it is would otherwise be forgiven.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use crate::compare::{self, Report, compare};
use crate::proxy::{self, Answer, Proxy};
use crate::resp::Client;
use crate::servers::{self, Server, Version};

/// Longest wait for anything that must happen by itself, on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Version and options of the endpoint `old`.
    pub old: (Version, servers::Options),
    /// Version and options of the endpoint `new`.
    pub new: (Version, servers::Options),
    /// Options of the proxy.
    pub proxy: proxy::Options,
}

impl Setup {
    /// Two plain servers of these versions.
    pub fn of(old: Version, new: Version) -> Setup {
        Setup { old: (old, servers::Options::default()), new: (new, servers::Options::default()), proxy: proxy::Options::default() }
    }

    /// Two plain servers of 7.0, and these arguments for the proxy.
    pub fn with_args(args: &[&str]) -> Setup {
        let mut setup = Setup::of(Version::Redis70, Version::Redis70);
        setup.proxy.args = args.iter().map(|arg| (*arg).to_string()).collect();
        setup
    }

    /// Further arguments for `old`.
    pub fn old_args(mut self, args: &[&str]) -> Setup {
        self.old.1.args = args.iter().map(|arg| (*arg).to_string()).collect();
        self
    }

    /// Further arguments for `new`.
    pub fn new_args(mut self, args: &[&str]) -> Setup {
        self.new.1.args = args.iter().map(|arg| (*arg).to_string()).collect();
        self
    }

    /// `old` keeps an append-only file.
    pub fn old_persists(mut self) -> Setup {
        self.old.1.appendonly = true;
        self
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pair {
    /// The endpoint `old`.
    pub old: Server,
    /// The endpoint `new`.
    pub new: Server,
    /// Between them.
    pub proxy: Proxy,
}

impl Pair {
    /// Two servers of 7.0 and a proxy with its defaults.
    pub fn plain() -> Result<Pair> {
        Pair::start(Setup::of(Version::Redis70, Version::Redis70))
    }

    /// Starts the servers, then the proxy, and waits until the first scan has ended.
    pub fn start(setup: Setup) -> Result<Pair> {
        let pair = Pair::begin(setup)?;
        pair.settle()?;
        Ok(pair)
    }

    /// The same, without waiting for both sides to be in step: without a backfill they never are.
    pub fn begin(setup: Setup) -> Result<Pair> {
        let old = Server::start(setup.old.0, setup.old.1)?;
        let new = Server::start(setup.new.0, setup.new.1)?;
        let proxy = Proxy::start(&old.address(), &new.address(), setup.proxy)?;
        Ok(Pair { old, new, proxy })
    }

    /// A new client connection through the proxy.
    pub fn client(&self) -> Result<Client> {
        self.proxy.client()
    }

    /// How often the proxy has connected a side (`"old"` or `"new"`) so far: one more after each loss.
    pub fn connects(&self, side: &str) -> usize {
        self.proxy.log().matches(&format!("`{side}` is connected")).count()
    }

    /// Waits until the proxy has connected a side once more than `before`.
    pub fn wait_reconnected(&self, side: &str, before: usize) -> Result<()> {
        until(&format!("`{side}` to be connected anew"), PATIENCE, || Ok(self.connects(side) > before))
            .with_context(|| self.proxy.log_tail())
    }

    /// Waits until status satisfies the condition, and returns it.
    pub fn wait_status(&self, what: &str, holds: impl FnMut(&Json) -> bool) -> Result<Json> {
        self.proxy.wait_status(what, PATIENCE, holds)
    }

    /// Waits until nothing is queued, in doubt or unsynced, twice in a row.
    pub fn settle(&self) -> Result<Json> {
        self.proxy.wait_until_synced(PATIENCE)
    }

    /// Waits until the proxy says that both sides are in step, and compares them.
    pub fn assert_equal(&self) -> Result<Report> {
        self.settle()?;
        self.compare().with_context(|| self.proxy.log_tail())
    }

    /// Compares both sides as they are.
    pub fn compare(&self) -> Result<Report> {
        compare(&self.old.address(), &self.new.address(), &compare::Options::default())?.into_result()
    }

    /// Moves the primary role to `new`, asking again while the gate is shut for something that passes.
    pub fn cutover(&self) -> Result<Answer> {
        self.proxy.flip("/v1/cutover", &json!({}))
    }

    /// Moves it to `new` although the old primary lost its data.
    pub fn leave_lost_primary(&self) -> Result<Answer> {
        self.proxy.flip("/v1/cutover", &json!({"force": ["primary-lost"]}))
    }

    /// Moves the primary role back to `old`.
    pub fn rollback(&self) -> Result<Answer> {
        self.proxy.flip("/v1/rollback", &json!({}))
    }

    /// The sum of all samples of a metric whose name begins so and whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let mut text = String::new();
        // What is too busy to tell them leaves most of them out.
        until("metrics", PATIENCE, || {
            let Json::String(told) = self.proxy.get("/metrics")?.body else { bail!("no metrics") };
            text = told;
            Ok(text.contains("\ntwinlane_client_bytes_total"))
        })?;
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// Whether status says that the mirror holds everything.
pub fn in_step(status: &Json) -> bool {
    let mirror = &status["mirror"];
    mirror["state"] == "following"
        && mirror["queued_effects"] == 0
        && mirror["dirty_keys"] == 0
        && mirror["unsynced_databases"].as_array().is_some_and(Vec::is_empty)
        && status["old"]["healthy"] == true
        && status["new"]["healthy"] == true
}

/// Waits until a condition holds; the error says for what it waited.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("waited {limit:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
