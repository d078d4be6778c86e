//! From a configuration to "it is safe to serve": ask both servers what they are and what they remember, let
//! [`judge_start`] decide, and write what a first start or a restart must write before the first client (I8).
//!
//! The hard case is a crash between two of these writes. The first record is epoch 0, then come the marks of epoch 1, then
//! the record of epoch 1: so a missing mark at epoch 1 or later really means that a server lost its data. A primary
//! that lost its data gets no mark here, or a restart would forget the loss; the driver writes it once the operator spoke.

use crate::config::Config;
use crate::control::ControlReceiver;
use crate::net::{NetError, Target};
use crate::store::{Facts, Mark, Record, SideFacts, Start, Store, StoreError, judge_start, new_installation};
use crate::upstream::conn::{Conn, ConnError, Keys, ServerInfo};
use crate::upstream::pair::{Neighbour, neighbours, same, try_both};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use twinlane_core::endpoint::{Db, Endpoint};
use twinlane_core::limits;

/// A start that may serve.
#[derive(Debug)]
pub struct Started {
    /// The record in force, already durable.
    pub record: Record,
    /// It came back without its data: raise the alarm, shut the gate, delete nothing on the mirror. Its mark is not written.
    pub primary_lost_data: bool,
    /// The mirror's mark was gone (and has been written again): nothing is known of its data.
    pub mirror_unsynced: bool,
    /// Nobody was ever served by this installation.
    pub first: bool,
    /// How to reach both sides, by [`Endpoint::index`].
    pub targets: [Target; 2],
    /// What both sides are; the mirror may have been out of reach, and the text says why.
    pub probes: [Result<Probe, String>; 2],
}

/// What a server is and holds.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What `INFO` says.
    pub info: ServerInfo,
    /// The reserved key.
    pub mark: Option<Mark>,
    /// Keys per database, the reserved key left out.
    pub keyspace: BTreeMap<Db, Keys>,
    /// How many databases there are; `None` where the server does not tell.
    pub databases: Option<u32>,
    /// Commands it knows, in upper case.
    pub commands: HashSet<String>,
    /// Connections of Twinlane processes; `None` where the server does not list its clients.
    pub neighbours: Option<Vec<Neighbour>>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator must act; the text says how.
    #[error("{0}")]
    Refused(String),
    /// The configuration of a side cannot work.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The state directory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no randomness.
    #[error("no random name for this installation: {0}")]
    Random(getrandom::Error),
}

/// Waits until serving is safe; says for what it waits once in the log, and at the admin port all the time. `ours`: names of
/// processes that ran on this state directory, this one among them.
///
/// # Errors
/// [`StartError`], when waiting would not help.
pub async fn start(config: &Config, store: &mut Store, ours: &[String], control: &ControlReceiver) -> Result<Started, StartError> {
    let targets = config.targets()?;
    refuse_ourselves(config, &targets).await?;
    let mut told = String::new();
    loop {
        match attempt(config, &targets, ours, store).await? {
            Attempt::Started(started) => return Ok(*started),
            Attempt::Wait(reason) => {
                if reason != told {
                    tracing::warn!("waiting: {reason}");
                }
                control.starting(reason.clone());
                told = reason;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

enum Attempt {
    Started(Box<Started>),
    Wait(String),
}

async fn attempt(config: &Config, targets: &[Target; 2], ours: &[String], store: &mut Store) -> Result<Attempt, StartError> {
    // 1. Ask both sides.
    let (old, new) = tokio::join!(probe(&targets[0]), probe(&targets[1]));
    let probes = [old, new];
    refuse_unusable(&probes)?;
    if let Some(reason) = holder(&probes, ours) {
        return Ok(Attempt::Wait(reason));
    }
    if let Some(reason) = beating(targets, &probes).await {
        return Ok(Attempt::Wait(reason));
    }
    // 2. Judge.
    let sides = [side_facts(&probes[0]), side_facts(&probes[1])];
    let addresses = [targets[0].address(), targets[1].address()];
    let facts =
        Facts { local: store.record(), sides: [&sides[0], &sides[1]], addresses: [&addresses[0], &addresses[1]], choice: config.new_data };
    let judgement = judge_start(&facts);
    if matches!(judgement, Start::First { .. } | Start::Serve { .. }) {
        refuse_one_server(targets, &probes).await?;
    }
    // 3. Write, and hand over.
    match judgement {
        Start::Refuse(reason) => Err(StartError::Refused(reason)),
        Start::Wait(reason) => wait_or_refuse(reason, &probes),
        Start::First { new_data } => {
            let record = match store.record() {
                Some(record) => record.clone(),
                None => Record::first(new_installation().map_err(StartError::Random)?, addresses, new_data),
            };
            match write_first(record, targets, store).await? {
                Ok(record) => Ok(started(record, (false, false), true, targets, probes)),
                Err(error) => Ok(Attempt::Wait(error.to_string())),
            }
        }
        Start::Serve { primary_lost_data, mirror_unsynced } => {
            let Some(record) = store.record().cloned() else { return Err(StartError::Refused("the record is gone".into())) };
            if let Err(error) = refresh_marks(&record, primary_lost_data, targets, &probes).await {
                return Ok(Attempt::Wait(error.to_string()));
            }
            Ok(started(record, (primary_lost_data, mirror_unsynced), false, targets, probes))
        }
    }
}

fn started(record: Record, doubt: (bool, bool), first: bool, targets: &[Target; 2], probes: [Result<Probe, Unusable>; 2]) -> Attempt {
    let (primary_lost_data, mirror_unsynced) = doubt;
    let probes = probes.map(|probe| probe.map_err(|unusable| unusable.reason));
    Attempt::Started(Box::new(Started { record, primary_lost_data, mirror_unsynced, first, targets: targets.clone(), probes }))
}

/// Record of epoch 0, marks of epoch 1, record of epoch 1. The inner error is a server's: try again.
async fn write_first(mut record: Record, targets: &[Target; 2], store: &mut Store) -> Result<Result<Record, ConnError>, StoreError> {
    if store.record().is_none() {
        store.commit(&record)?;
    }
    record.epoch = 1;
    for target in targets {
        if let Err(error) = write_mark(target, &record, 0).await {
            return Ok(Err(error));
        }
    }
    store.commit(&record)?;
    Ok(Ok(record))
}

/// Brings marks up to the record: a crash may have come between the record's sync and the marks.
async fn refresh_marks(record: &Record, lost: bool, targets: &[Target; 2], probes: &[Result<Probe, Unusable>; 2]) -> Result<(), ConnError> {
    for (endpoint, target) in Endpoint::BOTH.into_iter().zip(targets) {
        let is_primary = endpoint == record.primary;
        let Ok(probe) = &probes[endpoint.index()] else { continue };
        let skip = if is_primary { lost } else { !record.mirroring || record.completed };
        let count = probe.mark.as_ref().map_or(0, |mark| mark.count);
        if skip || probe.mark.as_ref() == Some(&record.mark(endpoint, count)) {
            continue;
        }
        match write_mark(target, record, count).await {
            Err(error) if is_primary => return Err(error),
            Err(error) => tracing::warn!("the mirror's copy of the record was not written: {error}"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Writes one server's copy of the record.
///
/// # Errors
/// [`ConnError`], when it cannot be reached or refuses.
pub async fn write_mark(target: &Target, record: &Record, count: u64) -> Result<(), ConnError> {
    Conn::open(target, NAME, PATIENCE).await?.set_mark(&record.mark(target.side, count)).await
}

/// A server that cannot be used now.
#[derive(Debug)]
pub struct Unusable {
    /// What is wrong and what to do.
    pub reason: String,
    /// Waiting will not help: a wrong password, a cluster node.
    pub permanent: bool,
    /// Whatever its role is, nothing may be served: a reserved key that is not ours, a kind of server not carried yet.
    pub fatal: bool,
    /// What it is, if it told.
    pub info: Option<Box<ServerInfo>>,
}

impl From<ConnError> for Unusable {
    fn from(error: ConnError) -> Self {
        let fatal = matches!(error, ConnError::BadMark { .. });
        Unusable { reason: error.to_string(), permanent: error.is_permanent(), fatal, info: None }
    }
}

/// Asks a server everything that a start depends on.
///
/// # Errors
/// [`Unusable`]: out of reach, loading, a replica, or a kind of server that is not carried yet.
pub async fn probe(target: &Target) -> Result<Probe, Unusable> {
    let mut conn = Conn::open(target, NAME, PATIENCE).await?;
    let info = conn.info().await?;
    check_kind(target, &info)?;
    let mark = conn.get_mark().await?;
    let mut keyspace = conn.keyspace().await?;
    if let (Some(_), Some(home)) = (&mark, keyspace.get_mut(&0)) {
        home.keys = home.keys.saturating_sub(1);
    }
    let (databases, commands) = (conn.databases().await?, conn.commands().await?);
    let neighbours = neighbours(&mut conn).await?;
    Ok(Probe { info, mark, keyspace, databases, commands, neighbours })
}

impl Probe {
    /// Keys in all databases, the reserved key left out.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keyspace.values().map(|keys| keys.keys).sum()
    }
}

fn check_kind(target: &Target, info: &ServerInfo) -> Result<(), Unusable> {
    let place = format!("{} ({})", target.side, target.address());
    let unusable = |reason: String, fatal: bool| Err(Unusable { reason, permanent: fatal, fatal, info: Some(Box::new(info.clone())) });
    if info.cluster {
        return unusable(
            format!("{place} is a node of a Redis Cluster, which is not carried yet; use an endpoint with cluster mode disabled"),
            true,
        );
    }
    if info.loading {
        return unusable(format!("{place} is reading its data from disk"), false);
    }
    if info.role == "slave" {
        return unusable(format!("{place} is a replica and takes no writes; promote it or name its primary"), false);
    }
    Ok(())
}

/// What no role of the side can mend, and one server under two names.
fn refuse_unusable(probes: &[Result<Probe, Unusable>; 2]) -> Result<(), StartError> {
    for probe in probes {
        if let Err(Unusable { reason, fatal: true, .. }) = probe {
            return Err(StartError::Refused(reason.clone()));
        }
    }
    let info = |probe: &Result<Probe, Unusable>| match probe {
        Ok(probe) => Some(probe.info.clone()),
        Err(unusable) => unusable.info.as_deref().cloned(),
    };
    if let (Some(old), Some(new)) = (info(&probes[0]), info(&probes[1]))
        && let Some(reason) = same(&old, &new)
    {
        return Err(StartError::Refused(reason));
    }
    Ok(())
}

/// An address of a side is our own: what we send there would come back for ever.
async fn refuse_ourselves(config: &Config, targets: &[Target; 2]) -> Result<(), StartError> {
    let ours = config.listen.address;
    for target in targets {
        let found = target.resolve().await.unwrap_or_default();
        let local =
            |address: &std::net::SocketAddr| address.ip() == ours.ip() || (ours.ip().is_unspecified() && address.ip().is_loopback());
        if found.iter().any(|address| address.port() == ours.port() && local(address)) {
            return Err(StartError::Refused(format!(
                "{} ({}) is this proxy's own listen.address; name the server, not the proxy",
                target.side,
                target.address()
            )));
        }
    }
    Ok(())
}

/// Another process has connections to a server: it holds the pair (H10).
fn holder(probes: &[Result<Probe, Unusable>; 2], ours: &[String]) -> Option<String> {
    let probes = probes.iter().filter_map(|probe| probe.as_ref().ok());
    let mut found = probes.flat_map(|probe| probe.neighbours.iter().flatten());
    found.find(|neighbour| !ours.contains(&neighbour.instance)).map(Neighbour::sentence)
}

/// Where a server does not list its clients, another process is known by the count in the mark, which a living one raises (H10).
async fn beating(targets: &[Target; 2], probes: &[Result<Probe, Unusable>; 2]) -> Option<String> {
    let mut counts = Vec::new();
    for (target, probe) in targets.iter().zip(probes) {
        if let Ok(Probe { neighbours: None, mark: Some(mark), .. }) = probe {
            counts.push((target, mark.count));
        }
    }
    let deadline = Instant::now() + BEATS;
    while !counts.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(BEAT_LOOK).await;
        for (target, count) in &counts {
            let mark = async { Conn::open(target, NAME, PATIENCE).await?.get_mark().await };
            if mark.await.ok().flatten().is_some_and(|mark| mark.count != *count) {
                return Some(format!(
                    "another Twinlane holds this pair: the count in the record on {} ({}) rises, and the server does not list its clients to \
                     say who it is. This one serves when that one has gone",
                    target.side,
                    target.address()
                ));
            }
        }
    }
    None
}

/// What is written on one side must not appear on the other (H39).
async fn refuse_one_server(targets: &[Target; 2], probes: &[Result<Probe, Unusable>; 2]) -> Result<(), StartError> {
    let [Ok(old), Ok(new)] = probes else { return Ok(()) };
    // As far as INFO shows, nobody follows anybody: what is one server shows at once.
    let patient = [old, new].iter().any(|probe| probe.info.followers > 0 || probe.info.run_id.is_empty());
    let tried = async {
        let mut old = Conn::open(&targets[0], NAME, PATIENCE).await?;
        let mut new = Conn::open(&targets[1], NAME, PATIENCE).await?;
        try_both(&mut old, &mut new, &new_installation().unwrap_or_default(), patient).await
    };
    match tried.await {
        Ok(tried) => tried.refusal().map_or(Ok(()), |reason| Err(StartError::Refused(reason))),
        Err(error) => {
            tracing::warn!("whether old and new are two servers could not be tried: {error}");
            Ok(())
        }
    }
}

/// A wait that a permanent error would make endless is a refusal.
fn wait_or_refuse(reason: String, probes: &[Result<Probe, Unusable>; 2]) -> Result<Attempt, StartError> {
    let blamed: Vec<&Unusable> = probes.iter().filter_map(|probe| probe.as_ref().err()).collect();
    let words = blamed.iter().map(|unusable| unusable.reason.as_str()).collect::<Vec<_>>().join("; ");
    let full = format!("{reason}: {words}");
    if blamed.iter().any(|unusable| unusable.permanent) { Err(StartError::Refused(full)) } else { Ok(Attempt::Wait(full)) }
}

fn side_facts(probe: &Result<Probe, Unusable>) -> SideFacts {
    match probe {
        Ok(probe) => SideFacts { reachable: true, mark: probe.mark.clone(), keys: probe.keys() },
        Err(_) => SideFacts::default(),
    }
}

/// Twice the time after which a living process raises the count, and some.
const BEATS: Duration = Duration::from_micros(2 * limits::RECENT_BEAT_US + 1_000_000);
/// Between two looks at the count meanwhile.
const BEAT_LOOK: Duration = Duration::from_millis(200);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);
/// What connections of the start are called.
pub(crate) const NAME: &str = "twinlane:start";
/// For one answer of a server at start.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
