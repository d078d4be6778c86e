//! Real client libraries and real job queues through the proxy, with cutovers in the middle.
//!
//! A *program* (Python, JavaScript, Rust) uses one library as its documentation says, and checks what it gets. It knows
//! an address and nothing else; when it is in the middle of something it writes `flip`, the harness moves the primary
//! role and answers, and the program goes on meanwhile. [`Stage`] is what the address leads to: two servers with the proxy
//! between, or one plain server, which is the control: what fails there is the program's own fault.

pub mod missing;
pub mod program;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::NamedTempFile;
use twinlane_tests::pair::{Pair, Setup};
use twinlane_tests::servers::{self, Server, Version};

/// What clients must say at connect, to the proxy and to the control alike.
pub const PASSWORD: &str = "open-sesame";
/// A program that says nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How much of a program's stderr an error shows, in bytes.
const ERRORS_SHOWN: usize = 6_000;

/// What programs talk to.
#[derive(Debug)]
pub enum Stage {
    /// Two servers and the proxy.
    Proxy(Box<Pair>),
    /// One plain server.
    Control(Server),
}

impl Stage {
    /// Starts `old` and `new` with the proxy between, or as the control only a server as `old` would be. Further environment goes to the proxy.
    pub fn start(control: bool, versions: (Version, Version), env: &[(&str, &str)]) -> Result<Stage> {
        if control {
            let server = Server::plain(versions.0)?;
            let answer = server.client()?.call(&[b"CONFIG", b"SET", b"requirepass", PASSWORD.as_bytes()])?;
            ensure!(answer.is_ok(), "CONFIG SET requirepass answers {answer}");
            return Ok(Stage::Control(server));
        }
        let mut setup = Setup::of(versions.0, versions.1);
        let password = [("TWINLANE__LISTEN__CLIENT_PASSWORD", PASSWORD)];
        setup.proxy.env = password.iter().chain(env).map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        Ok(Stage::Proxy(Box::new(Pair::start(setup)?)))
    }

    /// Where clients connect: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        match self {
            Stage::Proxy(pair) => pair.proxy.address(),
            Stage::Control(server) => server.address(),
        }
    }

    /// Moves the primary role to the other side and says what happened. The control has no other side.
    pub fn flip(&self) -> Result<String> {
        let Stage::Proxy(pair) = self else { return Ok("nothing to flip".into()) };
        let at_old = pair.proxy.status()?["primary"] == "old";
        let answer = if at_old { pair.cutover()? } else { pair.rollback()? };
        let name = if at_old { "cutover" } else { "rollback" };
        Ok(format!("{name}: {} requests held, at most {} ms", answer.body["held_requests"], answer.body["pause_ms"]))
    }

    /// Behind the traffic: both servers must hold the same. Returns a sentence about it.
    pub fn compare(&self) -> Result<String> {
        let Stage::Proxy(pair) = self else { return Ok("no second server".into()) };
        let report = pair.assert_equal()?;
        Ok(format!("both servers equal, {} keys", report.keys_compared))
    }

    /// The end of the proxy's log.
    pub fn log_tail(&self) -> String {
        match self {
            Stage::Proxy(pair) => pair.proxy.log_tail(),
            Stage::Control(_) => String::new(),
        }
    }
}

/// How a program is started.
#[derive(Clone, Debug)]
pub enum Launch {
    /// A file of `tests/clients/python`, run by the environment in `.clients/`.
    Python(&'static str),
    /// A file of `tests/clients/js`, run by node with the modules in `.clients/`.
    Node(&'static str),
    /// A program beside this one in `target/`.
    Rust(&'static str),
}

impl Launch {
    fn command(&self) -> Result<Command> {
        let (here, store) = (here(), store());
        let program = match self {
            Launch::Python(_) => store.join("python/bin/python"),
            Launch::Node(_) => store.join("node"),
            Launch::Rust(name) => std::env::current_exe()?.with_file_name(name),
        };
        ensure!(program.exists(), "no {}: run tests/clients/fetch.sh and build twinlane-clients", program.display());
        let mut command = Command::new(program);
        match self {
            Launch::Python(file) => command.arg("-u").arg(here.join("python").join(file)),
            Launch::Node(file) => command.arg(here.join("js").join(file)).env("NODE_PATH", store.join("node_modules")),
            Launch::Rust(_) => &mut command,
        };
        // The interpreter's caches belong into .clients/, not beside the sources.
        command.env("PYTHONPYCACHEPREFIX", store.join("pycache"));
        Ok(command)
    }
}

/// A running program, and a conversation in lines with it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: NamedTempFile,
}

impl Program {
    /// Starts it. It finds `HOST`, `PORT`, `PASSWORD` and what else is given in its environment.
    pub fn start(name: &str, launch: &Launch, arguments: &[&str], address: &str, env: &[(&str, String)]) -> Result<Program> {
        let (host, port) = address.rsplit_once(':').context("an address is host:port")?;
        let mut command = launch.command()?;
        command.args(arguments).env("HOST", host).env("PORT", port).env("PASSWORD", PASSWORD);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        // A group of its own, so that what it starts ends with it.
        command.process_group(0);
        let errors = tempfile::NamedTempFile::new()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.reopen()?);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (send, lines) = channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(|line| line.ok()).try_for_each(|line| send.send(line)));
        Ok(Program { name: name.to_string(), stdin: child.stdin.take(), child, lines, errors })
    }

    /// The next line; `None` when it has closed its output. Silence is an error.
    pub fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("{} has said nothing for {SILENCE_MAX:?}\n{}", self.name, self.errors()),
        }
    }

    /// Waits for a line; libraries may say other things before it.
    pub fn expect(&mut self, what: &str) -> Result<()> {
        loop {
            match self.line()? {
                Some(line) if line == what => return Ok(()),
                Some(_) => {}
                None => bail!("{} ended without saying {what:?}\n{}", self.name, self.errors()),
            }
        }
    }

    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("{} does not listen", self.name))?;
        Ok(stdin.flush()?)
    }

    /// Closes its input, and waits until it has ended.
    pub fn finish(mut self) -> Result<ExitStatus> {
        self.stdin = None;
        let deadline = Instant::now() + SILENCE_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of what it wrote to stderr.
    pub fn errors(&self) -> String {
        let bytes = std::fs::read(self.errors.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(ERRORS_SHOWN)..]).into_owned()
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// `tests/clients`.
pub fn here() -> PathBuf {
    servers::root().join("tests/clients")
}

/// Where `fetch.sh` installs.
fn store() -> PathBuf {
    std::env::var_os("TWINLANE_CLIENTS").map_or_else(|| servers::root().join(".clients"), PathBuf::from)
}
