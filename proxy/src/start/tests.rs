//! Starts against real servers: the first, the restarts, the lost directory, the swapped addresses, the primary that came
//! back empty, and the crash between the first record and the marks (I8, H9, H12).

use super::*;
use crate::config::{Layers, load};
use crate::control::channel;
use crate::store::NewData;
use crate::upstream::conn::tests::Server;

fn config(old: &Server, new: &Server, choice: &str) -> Config {
    configured(&old.url(), &new.url(), choice)
}

pub(crate) fn configured(old: &str, new: &str, choice: &str) -> Config {
    let flags = [("old.url", old), ("new.url", new), ("new_data", choice)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    load(&Layers { flags: flags.into(), ..Layers::default() }).unwrap()
}

async fn run(config: &Config, directory: &std::path::Path) -> Result<Started, StartError> {
    let (_control, receiver) = channel();
    start(config, &mut open(directory).await, &[], &receiver).await
}

/// A server that another test spawns holds a copy of our lock from its fork to its exec; so the lock is asked for again.
async fn open(directory: &std::path::Path) -> Store {
    for _ in 0..100 {
        match Store::open(directory) {
            Err(StoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the lock is never free");
}

async fn ask(server: &Server, args: &[&[u8]]) {
    let url = crate::net::ServerUrl::parse(&server.url()).unwrap();
    let secret = crate::secret::Secret::default();
    let options = crate::net::TargetOptions { url: &url, password: &secret, ca_file: None, server_name: None };
    let target = Target::new(Endpoint::Old, &options).unwrap();
    Conn::open(&target, "twinlane:test", PATIENCE).await.unwrap().ask(args).await.unwrap();
}

fn refusal(result: Result<Started, StartError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn i8_the_life_of_an_installation() {
    let (Some(old), Some(new)) = (Server::start(&[]).await, Server::start(&[]).await) else { return };
    let directory = tempfile::tempdir().unwrap();
    ask(&old, &[b"SET", b"k", b"v"]).await;
    let plain = config(&old, &new, "ask");

    // The first start writes the record and both marks.
    let started = run(&plain, directory.path()).await.unwrap();
    assert!(started.first && !started.primary_lost_data && started.record.epoch == 1 && started.record.mirroring);
    assert_eq!(started.record.new_data, NewData::Empty);
    let started = run(&plain, directory.path()).await.unwrap();
    let probe = started.probes[0].as_ref().unwrap();
    assert!(!started.first && probe.mark == Some(started.record.mark(Endpoint::Old, 0)) && probe.keys() == 1);

    // The directory is lost: the servers remember.
    let empty = tempfile::tempdir().unwrap();
    let text = refusal(run(&plain, empty.path()).await);
    assert!(text.contains(&started.record.installation) && text.contains("twinlane adopt"), "{text}");

    // The two URLs are swapped.
    let text = refusal(run(&config(&new, &old, "ask"), directory.path()).await);
    assert!(text.contains("swapped"), "{text}");

    // Each side comes back empty; a loss of the primary is not forgotten by another restart.
    ask(&new, &[b"FLUSHALL"]).await;
    let started = run(&plain, directory.path()).await.unwrap();
    assert!(started.mirror_unsynced && !started.primary_lost_data);
    ask(&old, &[b"FLUSHALL"]).await;
    for _ in 0..2 {
        assert!(run(&plain, directory.path()).await.unwrap().primary_lost_data);
    }
}

#[tokio::test]
async fn a_new_server_with_keys_asks_for_a_choice() {
    let (Some(old), Some(new)) = (Server::start(&[]).await, Server::start(&[]).await) else { return };
    let directory = tempfile::tempdir().unwrap();
    ask(&new, &[b"SET", b"k", b"v"]).await;
    let text = refusal(run(&config(&old, &new, "ask"), directory.path()).await);
    assert!(text.contains("already holds 1 keys"), "{text}");
    // Interrupted between the first record and the marks, then resumed: neither a loss nor a question.
    let mut first = Record::first("i".into(), [old.url(), new.url()].map(|url| url["redis://".len()..].to_owned()), NewData::Keep);
    open(directory.path()).await.commit(&first).unwrap();
    let started = run(&config(&old, &new, "ask"), directory.path()).await.unwrap();
    first.epoch = 1;
    assert!(started.first && started.record == first, "{started:?}");
}

#[tokio::test]
async fn what_cannot_be_served_says_why() {
    let (Some(old), Some(new)) = (Server::start(&[]).await, Server::start(&["--requirepass", "pw"]).await) else { return };
    let directory = tempfile::tempdir().unwrap();
    let text = refusal(run(&config(&old, &new, "ask"), directory.path()).await);
    assert!(text.contains("NOAUTH") && text.contains("new"), "{text}");
    let same = configured(&old.url(), &format!("redis://localhost:{}", old.port), "ask");
    let text = refusal(run(&same, directory.path()).await);
    assert!(text.contains("one and the same server"), "{text}");
    let Some(cluster) = Server::start(&["--cluster-enabled", "yes"]).await else { return };
    let text = refusal(run(&config(&old, &cluster, "ask"), directory.path()).await);
    assert!(text.contains("Redis Cluster"), "{text}");
}

#[tokio::test]
async fn the_first_start_waits_for_both_and_says_so() {
    let (Some(old), Some(new)) = (Server::start(&[]).await, Server::start(&[]).await) else { return };
    let directory = tempfile::tempdir().unwrap();
    let plain = config(&old, &new, "ask");
    drop(new);
    let (control, receiver) = channel();
    let mut store = open(directory.path()).await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), start(&plain, &mut store, &[], &receiver)).await;
    assert!(waiting.is_err());
    let crate::control::Phase::Starting(reason) = control.phase() else { panic!() };
    assert!(reason.contains("needs both servers") && reason.contains("cannot connect"), "{reason}");
}
