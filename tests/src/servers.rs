//! Real servers for tests: five versions, each in a folder and on a port of its own, gone when the test is.
//!
//! The programs come from `tests/servers/fetch.sh` (Debian's own redis-server is used where it is installed).
//! A server can be frozen in the middle of whatever it does ([`Server::freeze`]), killed without a word
//! ([`Server::kill`]), and started again on the same port, with its data or without. Ready means that the very process
//! we started answers PING: another process may win the race for the port, and is then never mistaken for ours.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::resp::{self, Client};

/// A server starts within this time, even on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a first start may lose its port to somebody else.
const PORT_ATTEMPTS: usize = 5;

/// The servers we test against, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Redis 5.0.7: no RESP3, no ACL, no `XINFO ... FULL`.
    Redis50,
    /// Redis 6.2.14: the last that Azure and AWS call "6".
    Redis62,
    /// Redis 7.0.15, Debian's own: the reference.
    Redis70,
    /// Valkey 8.1.8.
    Valkey81,
    /// Valkey 9.1.2.
    Valkey91,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 5] = [Version::Redis50, Version::Redis62, Version::Redis70, Version::Valkey81, Version::Valkey91];

    /// The name that people and file names use.
    pub fn name(self) -> &'static str {
        match self {
            Version::Redis50 => "redis-5.0",
            Version::Redis62 => "redis-6.2",
            Version::Redis70 => "redis-7.0",
            Version::Valkey81 => "valkey-8.1",
            Version::Valkey91 => "valkey-9.1",
        }
    }

    /// Whether it has functions, `enable-debug-command` and the newer stream counters.
    pub fn at_least_7(self) -> bool {
        !matches!(self, Version::Redis50 | Version::Redis62)
    }

    /// Whether `HELLO 3` works.
    pub fn has_resp3(self) -> bool {
        self != Version::Redis50
    }

    /// The program, fetched if it is not there yet.
    pub fn program(self) -> Result<PathBuf> {
        if let Some(found) = self.find() {
            return Ok(found);
        }
        let script = root().join("tests/servers/fetch.sh");
        let fetched = Command::new("bash").arg(&script).status().with_context(|| format!("{}", script.display()))?;
        self.find().with_context(|| format!("no {} ({} ended with {fetched})", self.name(), script.display()))
    }

    fn find(self) -> Option<PathBuf> {
        let store = store();
        let candidates = match self {
            Version::Redis70 => {
                let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
                places.push(store.join("debian/usr/bin"));
                places.into_iter().map(|place| place.join("redis-server")).collect()
            }
            other => vec![store.join(other.name())],
        };
        candidates.into_iter().find(|path| path.is_file())
    }
}

/// What may differ from a plain server without persistence.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep an append-only file, so that [`Server::restart_with_data`] finds everything that was acknowledged.
    pub appendonly: bool,
    /// Further arguments for the server, as on its command line: `["--maxmemory", "10mb"]`.
    pub args: Vec<String>,
    /// Another program than the version's own, which then says no more than what the program is like.
    pub program: Option<PathBuf>,
}

/// One running (or killed, or frozen) server. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Server {
    version: Version,
    port: u16,
    options: Options,
    dir: TempDir,
    child: Option<Child>,
}

impl Server {
    /// Starts a server on a free port of the loopback and waits until it answers.
    pub fn start(version: Version, options: Options) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix(&format!("twinlane-{}-", version.name())).tempdir()?;
        let mut server = Server { version, port: 0, options, dir, child: None };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port()?;
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error) if server.log().contains("ddress already in use") => {
                    eprintln!("port {} was taken meanwhile: {error:#}", server.port);
                    server.end();
                }
                Err(error) => return Err(error),
            }
        }
        bail!("no free port for {} in {PORT_ATTEMPTS} attempts", version.name())
    }

    /// [`Server::start`] with nothing special.
    pub fn plain(version: Version) -> Result<Server> {
        Server::start(version, Options::default())
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The port, the same for the server's whole life, restarts included.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Which server this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its folder: append-only file and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new connection to it.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address()).with_context(|| format!("connecting to {}", self.version.name()))
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// SIGSTOP: connections stay open, nothing is answered any more.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: goes on as if nothing had happened.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL: connections are reset, unsaved data is gone.
    pub fn kill(&mut self) {
        self.end();
    }

    /// Kills it if it runs, forgets all its data, and starts it again on the same port.
    pub fn restart_empty(&mut self) -> Result<()> {
        self.end();
        for entry in fs::read_dir(self.dir.path())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
        self.launch()
    }

    /// Kills it if it runs, and starts it again with what its append-only file holds.
    pub fn restart_with_data(&mut self) -> Result<()> {
        ensure!(self.options.appendonly, "a server without `appendonly` has no data to come back with");
        self.end();
        self.launch()
    }

    /// Kills it if it runs, and starts it again with what its last `SAVE` wrote, or empty.
    pub fn restart_with_snapshot(&mut self) -> Result<()> {
        ensure!(!self.options.appendonly, "a server with `appendonly` does not read its snapshot");
        self.end();
        self.launch()
    }

    fn launch(&mut self) -> Result<()> {
        let program = self.options.program.clone().map_or_else(|| self.version.program(), Ok)?;
        let log = File::create(self.log_path())?;
        let mut command = Command::new(&program);
        command
            .current_dir(self.dir.path())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(["--dir", &self.dir.path().to_string_lossy()])
            .args(["--appendonly", if self.options.appendonly { "yes" } else { "no" }])
            // Every write reaches the kernel before its reply, which SIGKILL cannot undo; no fsync needed.
            .args(["--appendfsync", "no"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if self.version.at_least_7() {
            command.args(["--enable-debug-command", "yes"]);
        }
        if program.starts_with(store().join("debian")) {
            command.env("LD_LIBRARY_PATH", unpacked_libraries());
        }
        command.args(&self.options.args);
        self.child = Some(command.spawn().with_context(|| format!("{}", program.display()))?);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                bail!("{} ended with {status} while starting:\n{}", self.version.name(), self.log());
            }
            if self.answers() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer after {START_TIMEOUT:?}:\n{}", self.version.name(), self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// PING is answered, and by the process we started.
    fn answers(&self) -> bool {
        let Some(pid) = self.child.as_ref().map(Child::id) else {
            return false;
        };
        let Ok(mut client) = Client::connect_within(self.address(), Duration::from_secs(1)) else {
            return false;
        };
        let commands = [resp::command("PING"), resp::command("INFO server")];
        match client.pipeline(&commands).as_deref() {
            Ok([pong, info]) => pong.text() == "PONG" && info.text().contains(&format!("process_id:{pid}\r\n")),
            _ => false,
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the server is not running")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL ends a stopped process as well; woken first, a frozen server would still run what its sockets hold.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port of the loopback that nobody listens on now. It lies below the kernel's range for outgoing connections, so that
/// a server that is down for a while finds its port free when it comes back.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 211) as u16 * 104;
    for _ in 0..COUNT {
        let port = FIRST + offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn store() -> PathBuf {
    std::env::var_os("TWINLANE_SERVERS").map_or_else(|| root().join(".servers"), PathBuf::from)
}

/// Where Debian's unpacked packages keep their shared libraries.
fn unpacked_libraries() -> PathBuf {
    let place = store().join("debian/usr/lib");
    fs::read_dir(&place)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .unwrap_or(place)
}
