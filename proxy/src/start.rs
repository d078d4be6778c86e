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
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use twinlane_core::endpoint::{Db, Endpoint};

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

/// Waits until serving is safe; says for what it waits once in the log, and at the admin port all the time.
///
/// # Errors
/// [`StartError`], when waiting would not help.
pub async fn start(config: &Config, store: &mut Store, control: &ControlReceiver) -> Result<Started, StartError> {
    let targets = config.targets()?;
    let mut told = String::new();
    loop {
        match attempt(config, &targets, store).await? {
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

async fn attempt(config: &Config, targets: &[Target; 2], store: &mut Store) -> Result<Attempt, StartError> {
    // 1. Ask both sides.
    let (old, new) = tokio::join!(probe(&targets[0]), probe(&targets[1]));
    let probes = [old, new];
    refuse_unusable(&probes)?;
    // 2. Judge.
    let sides = [side_facts(&probes[0]), side_facts(&probes[1])];
    let addresses = [targets[0].address(), targets[1].address()];
    let facts =
        Facts { local: store.record(), sides: [&sides[0], &sides[1]], addresses: [&addresses[0], &addresses[1]], choice: config.new_data };
    let judgement = judge_start(&facts);
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
        if let Err(error) = write_mark(target, &record).await {
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
        if skip || probe.mark.as_ref() == Some(&record.mark(endpoint)) {
            continue;
        }
        match write_mark(target, record).await {
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
pub async fn write_mark(target: &Target, record: &Record) -> Result<(), ConnError> {
    Conn::open(target, "twinlane:start", PATIENCE).await?.set_mark(&record.mark(target.side)).await
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
}

impl From<ConnError> for Unusable {
    fn from(error: ConnError) -> Self {
        let fatal = matches!(error, ConnError::BadMark { .. });
        Unusable { reason: error.to_string(), permanent: error.is_permanent(), fatal }
    }
}

/// Asks a server everything that a start depends on.
///
/// # Errors
/// [`Unusable`]: out of reach, loading, a replica, or a kind of server that is not carried yet.
pub async fn probe(target: &Target) -> Result<Probe, Unusable> {
    let mut conn = Conn::open(target, "twinlane:start", PATIENCE).await?;
    let info = conn.info().await?;
    check_kind(target, &info)?;
    let mark = conn.get_mark().await?;
    let mut keyspace = conn.keyspace().await?;
    if let (Some(_), Some(home)) = (&mark, keyspace.get_mut(&0)) {
        home.keys = home.keys.saturating_sub(1);
    }
    let (databases, commands) = (conn.databases().await?, conn.commands().await?);
    Ok(Probe { info, mark, keyspace, databases, commands })
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
    let unusable = |reason: String, fatal: bool| Err(Unusable { reason, permanent: fatal, fatal });
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
    if let [Ok(old), Ok(new)] = probes
        && !old.info.run_id.is_empty()
        && old.info.run_id == new.info.run_id
    {
        return Err(StartError::Refused("old and new are one and the same server (same run_id); give two servers".into()));
    }
    Ok(())
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

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);
/// For one answer of a server at start.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
