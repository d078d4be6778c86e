//! Who is measured: running servers and proxies, and peers that this process starts itself.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a target's figures are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The server itself: what ratios of throughput are taken to.
    Direct,
    /// Another Redis proxy: the best of them is what we compare ourselves with.
    Peer,
    /// A plain TCP proxy: shown, but it does less.
    Floor,
    /// What we are building.
    Subject,
}

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Shown in the report.
    pub name: String,
    /// `host:port`
    pub address: String,
    /// The process whose CPU and memory are counted.
    pub pid: Option<u32>,
    /// What it stands for.
    pub role: Role,
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    child: Child,
    folder: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Target {
    /// `name=host:port[,pid=N][,role=direct|peer|floor|subject]`, or `nutcracker=spawn:host:port` and
    /// `haproxy=spawn:host:port`, which start that peer before the server at host:port.
    /// Without a role, the first target is the direct one, haproxy a floor, twinlane the subject.
    pub fn parse(text: &str, first: bool) -> Result<Target> {
        let (name, rest) = text.split_once('=').context("a target is NAME=HOST:PORT")?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default().to_owned();
        let mut role = match name {
            _ if first => Role::Direct,
            name if name.starts_with("haproxy") => Role::Floor,
            name if name.starts_with("twinlane") => Role::Subject,
            _ => Role::Peer,
        };
        let mut pid = None;
        for part in parts {
            match part.split_once('=') {
                Some(("pid", value)) => pid = Some(value.parse().context("pid")?),
                Some(("role", "direct")) => role = Role::Direct,
                Some(("role", "peer")) => role = Role::Peer,
                Some(("role", "floor")) => role = Role::Floor,
                Some(("role", "subject")) => role = Role::Subject,
                _ => bail!("{part:?} is neither pid=N nor role=direct|peer|floor|subject"),
            }
        }
        let mut target = Target { name: name.to_owned(), address, pid, role, started: None };
        if let Some(upstream) = target.address.strip_prefix("spawn:").map(str::to_owned) {
            target.start(&upstream)?;
        }
        Ok(target)
    }

    fn start(&mut self, upstream: &str) -> Result<()> {
        let (port, stats) = (free_port()?, free_port()?);
        let folder = std::env::temp_dir().join(format!("loadtest-{}-{}", self.name, std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("config");
        let (config, mut command) = match self.name.as_str() {
            "nutcracker" => {
                let config = format!(
                    "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  servers:\n   - {upstream}:1\n"
                );
                let mut command = Command::new("nutcracker");
                command.arg("-c").arg(&file).args(["-a", "127.0.0.1", "-s", &stats.to_string()]);
                command.arg("-o").arg(folder.join("log"));
                (config, command)
            }
            "haproxy" => {
                let config = format!(
                    "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\nlisten bench\n  bind 127.0.0.1:{port}\n  server redis {upstream}\n"
                );
                let mut command = Command::new("haproxy");
                command.args(["-q", "-db", "-f"]).arg(&file);
                (config, command)
            }
            other => bail!("{other} cannot be started here: start it and give its address and pid"),
        };
        std::fs::write(&file, config)?;
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let child = child.with_context(|| format!("{} is not on PATH", self.name))?;
        self.pid = Some(child.id());
        self.address = format!("127.0.0.1:{port}");
        self.started = Some(Started { child, folder });
        self.wait_until_listening()
    }

    fn wait_until_listening(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(&self.address).is_err() {
            if Instant::now() > deadline {
                bail!("{} does not listen on {}", self.name, self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether this process started it.
    pub fn is_ours(&self) -> bool {
        self.started.is_some()
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_from_names_and_order() {
        for (text, first, role, pid) in [
            ("redis=h:1", true, Role::Direct, None),
            ("twinlane=h:1,pid=7", false, Role::Subject, Some(7)),
            ("haproxy=h:1", false, Role::Floor, None),
            ("predixy=h:1", false, Role::Peer, None),
            ("mine=h:1,role=subject", false, Role::Subject, None),
        ] {
            let target = Target::parse(text, first).unwrap();
            assert_eq!((target.role, target.pid), (role, pid), "{text}");
        }
        assert!(Target::parse("x=h:1,cpu=1", false).is_err());
    }
}
