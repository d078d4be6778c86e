//! Who is measured: running servers and proxies, and peers that this process starts itself.

use super::peers::{Recipe, Started};
use crate::admin::Admin;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How a target's figures are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The server itself: what ratios of throughput are taken to.
    Direct,
    /// Another Redis proxy that writes once: the best of them is what we compare ourselves with.
    Peer,
    /// A proxy that writes to two servers as well: shown, and compared by name.
    Dual,
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
    /// The mirroring of a twinlane that was started here; None for anything else.
    mirroring: Option<bool>,
}

/// How long a twinlane may take until it follows.
const SETTLING_MAX: Duration = Duration::from_secs(60);

impl Target {
    /// `NAME=HOST:PORT[,pid=N][,role=direct|peer|dual|floor|subject]` is running; `NAME=spawn:HOST:PORT[,...]` is started before the server at
    /// HOST:PORT: nutcracker, haproxy, predixy, envoy, shotover and twinlane by name, any other with `binary=PATH,args=WORDS,config=FILE` (see
    /// [`super::peers`]). `new=HOST:PORT` is the second server of those that write to two; `mirroring=off` stops a twinlane's.
    /// Without a role, the first target is the direct one, haproxy a floor, shotover a dual one, twinlane the subject.
    pub async fn parse(text: &str, first: bool) -> Result<Target> {
        let (name, rest) = text.split_once('=').context("a target is NAME=HOST:PORT")?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default().to_owned();
        let mut role = match name {
            _ if first => Role::Direct,
            name if name.starts_with("haproxy") => Role::Floor,
            name if name.starts_with("shotover") => Role::Dual,
            name if name.starts_with("twinlane") => Role::Subject,
            _ => Role::Peer,
        };
        let (mut pid, mut new, mut binary, mut args, mut config, mut mirroring) = (None, None, None, None, None, true);
        for part in parts {
            match part.split_once('=') {
                Some(("pid", value)) => pid = Some(value.parse().context("pid")?),
                Some(("role", "direct")) => role = Role::Direct,
                Some(("role", "peer")) => role = Role::Peer,
                Some(("role", "dual")) => role = Role::Dual,
                Some(("role", "floor")) => role = Role::Floor,
                Some(("role", "subject")) => role = Role::Subject,
                Some(("new", value)) => new = Some(value),
                Some(("binary", value)) => binary = Some(value),
                Some(("args", value)) => args = Some(value),
                Some(("config", value)) => config = Some(value),
                Some(("mirroring", "off")) => mirroring = false,
                _ => bail!("{part:?} is none of pid=N, role=..., new=HOST:PORT, binary=PATH, args=WORDS, config=FILE, mirroring=off"),
            }
        }
        let Some(old) = address.strip_prefix("spawn:") else {
            if new.or(binary).or(args).or(config).is_some() || !mirroring {
                bail!("{name} is not started here (spawn:HOST:PORT), so it takes only pid and role");
            }
            return Ok(Target { name: name.to_owned(), address, pid, role, started: None, mirroring: None });
        };
        let recipe = Recipe::find(name, binary, args, config)?;
        let mirroring = recipe.twinlane.then_some(mirroring);
        let started = Started::start(name, recipe, old, new)?;
        if let Some(mirroring) = mirroring {
            let admin = Admin::new(&started.spare);
            settle(&admin, true).await.with_context(|| name.to_owned())?;
            if !mirroring {
                stop_mirroring(&admin).await.with_context(|| name.to_owned())?;
            }
        }
        let address = started.address.clone();
        Ok(Target { name: name.to_owned(), address, pid: started.pid(), role, started: Some(started), mirroring })
    }

    /// Ends its process and starts another one, if this process started it: no two starts of a program are equally fast.
    pub async fn restart(&mut self) -> Result<()> {
        let Some(started) = &mut self.started else { return Ok(()) };
        started.restart()?;
        (self.address, self.pid) = (started.address.clone(), started.pid());
        match self.mirroring {
            Some(mirroring) => settle(&Admin::new(&started.spare), mirroring).await.with_context(|| self.name.clone()),
            None => Ok(()),
        }
    }

    /// Whether this process started it.
    pub fn is_ours(&self) -> bool {
        self.started.is_some()
    }
}

/// Waits until it serves and, with mirroring on, until every key is known to be equal.
async fn settle(admin: &Admin, mirroring: bool) -> Result<()> {
    let deadline = Instant::now() + SETTLING_MAX;
    loop {
        let status = admin.status().await.unwrap_or_default();
        let settled = match mirroring {
            true => status["gate"].as_array().is_some_and(Vec::is_empty),
            false => admin.call("GET", "/readyz", "").await.is_ok_and(|(code, _)| code == 200),
        };
        if settled {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("it is not ready: {status}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn stop_mirroring(admin: &Admin) -> Result<()> {
    let (code, body) = admin.call("POST", "/v1/mirror/stop", "{}").await?;
    if code != 200 {
        bail!("its mirroring does not stop: {code} {body}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn roles_follow_from_names_and_order() {
        for (text, first, role, pid) in [
            ("redis=h:1", true, Role::Direct, None),
            ("twinlane=h:1,pid=7", false, Role::Subject, Some(7)),
            ("haproxy=h:1", false, Role::Floor, None),
            ("predixy=h:1", false, Role::Peer, None),
            ("shotover=h:1", false, Role::Dual, None),
            ("mine=h:1,role=subject", false, Role::Subject, None),
        ] {
            let target = Target::parse(text, first).await.unwrap();
            assert_eq!((target.role, target.pid), (role, pid), "{text}");
        }
        for wrong in ["x=h:1,cpu=1", "x=h:1,new=h:2", "x=spawn:h:1"] {
            assert!(Target::parse(wrong, false).await.is_err(), "{wrong}");
        }
    }
}
