//! The program under test, as an operator runs it: `twinlane serve` in a process of its own.
//!
//! The proxy is driven through its admin port only. It can be killed without a word ([`Proxy::kill9`]) and started
//! again over the same state directory and ports ([`Proxy::restart`]); what it says on stderr goes to a log whose tail
//! is part of every error. The endpoints are public, so that a test can restart it with the two swapped.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::pair::{PATIENCE, in_step, until};
use crate::resp::Client;
use crate::servers::{free_port, root};

/// From the start of the process to `/readyz` = 200.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// From SIGTERM to the end of the process; past it, SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// One answer of the admin port (a flip may wait for its arm phase).
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of the log an error shows.
const LOG_TAIL_LINES: usize = 40;

/// What may differ from `twinlane serve` with its defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further arguments: `["--new-data", "overwrite"]`.
    pub args: Vec<String>,
    /// Environment variables: `TWINLANE__SECTION__KEY`.
    pub env: Vec<(String, String)>,
}

/// One answer of the admin port.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; a body that is not JSON stands here as one string.
    pub body: Json,
}

/// One proxy process and the state directory that outlives it.
#[derive(Debug)]
pub struct Proxy {
    /// URL of the endpoint `old`, used at the next (re)start.
    pub old: String,
    /// URL of the endpoint `new`, used at the next (re)start.
    pub new: String,
    /// Used at the next (re)start.
    pub options: Options,
    listen: u16,
    admin: u16,
    /// Holds `state/`, `twinlane.log`.
    dir: TempDir,
    child: Option<Child>,
    agent: ureq::Agent,
}

impl Proxy {
    /// Starts a proxy between two servers (`host:port` or a URL) and waits until it says that it is ready.
    pub fn start(old: &str, new: &str, options: Options) -> Result<Proxy> {
        let mut proxy = Proxy::prepare(old, new, options)?;
        proxy.restart()?;
        Ok(proxy)
    }

    /// Everything but the process: for tests that expect a refusal (see [`Proxy::launch`]).
    pub fn prepare(old: &str, new: &str, options: Options) -> Result<Proxy> {
        let dir = tempfile::Builder::new().prefix("twinlane-proxy-").tempdir()?;
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ADMIN_TIMEOUT));
        Ok(Proxy {
            old: as_url(old),
            new: as_url(new),
            options,
            listen: free_port()?,
            admin: free_port()?,
            dir,
            child: None,
            agent: config.build().new_agent(),
        })
    }

    /// Where clients connect: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.listen)
    }

    /// The admin port: `http://127.0.0.1:port`.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// The directory that holds the durable record.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A new client connection through the proxy.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address()).with_context(|| format!("connecting to the proxy\n{}", self.log_tail()))
    }

    /// Starts the process without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        let program = binary()?;
        fs::create_dir_all(self.state_dir())?;
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--listen", &self.address(), "--admin", &format!("127.0.0.1:{}", self.admin)])
            .args(["--old", &self.old, "--new", &self.new])
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(&self.options.args)
            .envs(self.options.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("{}", program.display()))?);
        Ok(())
    }

    /// Stops the process if it runs, starts it again over the same state, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.launch()?;
        self.wait_until_ready(READY_TIMEOUT)
    }

    /// Waits for `GET /readyz` = 200; the error carries the log's tail, also when the process ended instead.
    pub fn wait_until_ready(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                bail!("twinlane ended with {status} before it was ready\n{}", self.log_tail());
            }
            if self.get("/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("twinlane is not ready after {timeout:?}\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit status, if the process has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: goes on as if nothing had happened.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the proxy does not run")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// SIGKILL, at whatever instruction it was.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM and a wait; SIGKILL if it does not listen. True if it ended by itself.
    pub fn stop(&mut self) -> bool {
        let Some(child) = self.child.as_mut() else {
            return true;
        };
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                self.child = None;
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9();
        false
    }

    /// `GET path`, whatever the status.
    pub fn get(&self, path: &str) -> Result<Answer> {
        answer(self.agent.get(format!("{}{path}", self.admin_url())).call())
    }

    /// `POST path` with a JSON body, whatever the status.
    pub fn post(&self, path: &str, body: &Json) -> Result<Answer> {
        answer(self.agent.post(format!("{}{path}", self.admin_url())).send_json(body))
            .with_context(|| format!("POST {path}\n{}", self.log_tail()))
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Json> {
        let answer = self.get("/v1/status").with_context(|| self.log_tail())?;
        if answer.status != 200 {
            bail!("/v1/status answers {}: {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// `POST /v1/cutover`, whatever it answers (200 done, 409 refused with reasons).
    pub fn cutover(&self) -> Result<Answer> {
        self.post("/v1/cutover", &json!({}))
    }

    /// `POST /v1/rollback`, whatever it answers.
    pub fn rollback(&self) -> Result<Answer> {
        self.post("/v1/rollback", &json!({}))
    }

    /// Moves the primary role: asks `path` with a body until it is done. It is refused for what passes, as a side that is slow for a moment.
    pub fn flip(&self, path: &str, body: &Json) -> Result<Answer> {
        let mut last = None;
        let asked = until(&format!("{path} to be done"), PATIENCE, || {
            let answer = self.post(path, body)?;
            ensure!([200, 409].contains(&answer.status), "{path} answers {}: {}", answer.status, answer.body);
            Ok(last.insert(answer).status == 200)
        });
        asked.with_context(|| format!("{last:?}\n{}", self.log_tail()))?;
        let answer = last.context("it was not asked for")?;
        ensure!(answer.body["done"] == true, "{path} answers {}", answer.body);
        Ok(answer)
    }

    /// Waits until status satisfies the condition, and returns it.
    pub fn wait_status(&self, what: &str, limit: Duration, mut holds: impl FnMut(&Json) -> bool) -> Result<Json> {
        let mut last = Json::Null;
        until(what, limit, || {
            let answer = self.get("/v1/status")?;
            // Another status than 200: it is too busy to tell just now.
            last = answer.body;
            Ok(answer.status == 200 && holds(&last))
        })
        .with_context(|| format!("status: {last}\n{}", self.log_tail()))?;
        Ok(last)
    }

    /// Waits until nothing is queued, in doubt or unsynced, twice in a row.
    pub fn wait_until_synced(&self, limit: Duration) -> Result<Json> {
        let mut calm = 0;
        self.wait_status("the mirror to be in step", limit, |status| {
            calm = if in_step(status) { calm + 1 } else { 0 };
            calm == 2
        })
    }

    /// A whole verify: begins one, waits for its end, and gives what it found.
    pub fn verify(&self, timeout: Duration) -> Result<Json> {
        let answer = self.post("/v1/verify", &json!({}))?;
        ensure!(answer.status == 200, "the verify does not begin: {}", answer.body);
        self.verified(timeout)
    }

    /// Waits for the end of the verify that is under way, and gives what it found.
    pub fn verified(&self, timeout: Duration) -> Result<Json> {
        let mut now = Json::Null;
        until("the verify to end", timeout, || {
            now = self.get("/v1/verify")?.body;
            Ok(now["state"] == "done")
        })
        .with_context(|| format!("{now}\n{}", self.log_tail()))?;
        Ok(now)
    }

    /// Everything the process has said, over all its lives.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of [`Proxy::log`], with a heading.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("--- the proxy's log, last {} lines ---\n{}", tail.len(), tail.join("\n"))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("twinlane.log")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// The program: `TWINLANE_BIN`, else beside the test executable (`target/debug` or `target/release`).
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TWINLANE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let me = std::env::current_exe()?;
    let beside = me.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let target = root().join("target");
    let places = beside.chain([target.join("debug"), target.join("release")]);
    places
        .map(|place| place.join("twinlane"))
        .find(|path| path.is_file())
        .context("no `twinlane` program: run `cargo build -p twinlane`, or name it in TWINLANE_BIN")
}

fn as_url(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_string() } else { format!("redis://{endpoint}") }
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
    let mut response = response?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string()?;
    let body = serde_json::from_str(&text).unwrap_or(Json::String(text));
    Ok(Answer { status, body })
}
