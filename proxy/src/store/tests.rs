//! The record survives what disks and crashes do to it, and a start is judged by a table (I8, H8, H9).

use super::slots::{self, Content, SLOT};
use super::*;
use crate::config::NewDataChoice;
use std::path::Path;
use twinlane_core::endpoint::Endpoint;

fn record(epoch: u64, primary: Endpoint) -> Record {
    let mut record = Record::first("i1".into(), ["a:1".into(), "b:2".into()], NewData::Empty);
    (record.epoch, record.primary) = (epoch, primary);
    record
}

/// As `Store::open`, asking again while a server that another test spawns holds a copy of our lock from fork to exec.
fn reopen(directory: &Path) -> Result<Store, StoreError> {
    for _ in 0..100 {
        match Store::open(directory) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other,
        }
    }
    Store::open(directory)
}

fn corrupt(directory: &Path, slot: usize) {
    let path = directory.join("record");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[slot * SLOT + 40] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn i8_the_newest_committed_record_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/state");
    assert_eq!(reopen(&path).unwrap().record(), None);
    for epoch in 0..5 {
        let mut store = reopen(&path).unwrap();
        store.commit(&record(epoch, Endpoint::New)).unwrap();
        store.probe_sync().unwrap();
        drop(store);
        assert_eq!(reopen(&path).unwrap().record(), Some(&record(epoch, Endpoint::New)));
    }
}

#[test]
fn a_second_process_is_refused_by_the_name_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _held = reopen(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains(&directory.path().display().to_string()) && error.contains("in use"), "{error}");
}

#[test]
fn h8_a_torn_slot_falls_back_to_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = reopen(directory.path()).unwrap();
    store.commit(&record(1, Endpoint::Old)).unwrap(); // both slots
    store.commit(&record(2, Endpoint::New)).unwrap(); // slot 0
    drop(store);
    corrupt(directory.path(), 0);
    let mut store = reopen(directory.path()).unwrap();
    assert_eq!(store.record(), Some(&record(1, Endpoint::Old)));
    store.commit(&record(3, Endpoint::New)).unwrap();
    drop(store);
    assert_eq!(reopen(directory.path()).unwrap().record(), Some(&record(3, Endpoint::New)));
}

#[test]
fn two_damaged_slots_are_refused_and_adoption_can_replace_them() {
    let directory = tempfile::tempdir().unwrap();
    reopen(directory.path()).unwrap().commit(&record(1, Endpoint::Old)).unwrap();
    corrupt(directory.path(), 0);
    corrupt(directory.path(), 1);
    let error = reopen(directory.path()).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("twinlane adopt"), "{error}");
    drop(reopen(directory.path()));
    let mut store = Store::open_for_adoption(directory.path()).unwrap();
    store.commit(&record(7, Endpoint::New)).unwrap();
    drop(store);
    assert_eq!(reopen(directory.path()).unwrap().record(), Some(&record(7, Endpoint::New)));
}

#[test]
fn a_record_of_an_unknown_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut newer = record(1, Endpoint::Old);
    newer.format = 9;
    reopen(directory.path()).unwrap().commit(&newer).unwrap();
    let error = reopen(directory.path()).unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("start the version that wrote it"), "{error}");
    assert!(Store::open_for_adoption(directory.path()).is_err());
}

/// A write may stop after any byte: whatever it leaves, the file is read as the record before or the record after.
#[test]
fn h8_every_length_of_a_torn_write_is_the_record_before_or_after() {
    let (before, after) = (record(1, Endpoint::Old), record(2, Endpoint::New));
    let mut file = vec![0; slots::FILE];
    file[..SLOT].copy_from_slice(&slots::encode(2, &before).unwrap());
    file[SLOT..2 * SLOT].copy_from_slice(&slots::encode(1, &before).unwrap());
    let bytes = slots::encode(3, &after).unwrap();
    for length in 0..=SLOT {
        let mut torn = file.clone();
        torn[SLOT..SLOT + length].copy_from_slice(&bytes[..length]);
        let Content::Record { record, .. } = slots::read(&torn) else { panic!("length {length}") };
        assert!(*record == before || *record == after, "length {length}");
    }
}

#[test]
fn an_interrupted_first_write_is_no_record() {
    let bytes = slots::encode(1, &record(0, Endpoint::Old)).unwrap();
    let mut file = vec![0; slots::FILE];
    file[..100].copy_from_slice(&bytes[..100]);
    assert_eq!(slots::read(&file), Content::Never);
    assert_eq!(slots::read(&vec![0; slots::FILE]), Content::Never);
    assert_eq!(slots::read(&[]), Content::Damaged);
    assert_eq!(slots::read(&vec![0xff; slots::FILE]), Content::Damaged);
}

#[test]
fn a_mark_is_json_and_reads_back() {
    let mark = record(3, Endpoint::New).mark(Endpoint::Old, 7);
    assert_eq!(mark.to_json(), r#"{"count":7,"epoch":3,"installation":"i1","primary":"new","side":"old"}"#);
    assert_eq!(Mark::from_json(mark.to_json().as_bytes()).unwrap(), mark);
    assert!(Mark::from_json(b"hello").is_err());
    assert_eq!(new_installation().unwrap().len(), 32);
}

/// A side in the table: unreachable, or its mark (installation, epoch) and its keys.
enum Side {
    Down,
    Bare(u64),
    Marked(&'static str, u64),
}
use Side::{Bare, Down, Marked};

fn facts(endpoint: Endpoint, side: &Side) -> SideFacts {
    match side {
        Down => SideFacts::default(),
        Bare(keys) => SideFacts { reachable: true, mark: None, keys: *keys },
        Marked(installation, epoch) => {
            let mark = Mark { installation: (*installation).into(), epoch: *epoch, primary: Endpoint::New, side: endpoint, count: 0 };
            SideFacts { reachable: true, mark: Some(mark), keys: 5 }
        }
    }
}

fn judge(local: Option<&Record>, old: &Side, new: &Side, addresses: [&str; 2], choice: NewDataChoice) -> Start {
    let (old, new) = (facts(Endpoint::Old, old), facts(Endpoint::New, new));
    judge_start(&Facts { local, sides: [&old, &new], addresses, choice })
}

const HOME: [&str; 2] = ["a:1", "b:2"];

#[test]
fn i8_starts_without_a_record() {
    fn check(old: Side, new: Side, choice: NewDataChoice, expect: &str) {
        let start = format!("{:?}", judge(None, &old, &new, HOME, choice));
        assert!(start.contains(expect), "{expect:?} in {start}");
    }
    use NewDataChoice::{Ask, Keep, Overwrite};
    check(Bare(9), Bare(0), Ask, "First { new_data: Empty }");
    check(Bare(9), Bare(0), Overwrite, "First { new_data: Empty }");
    check(Bare(9), Bare(3), Ask, "already holds 3 keys");
    check(Bare(9), Bare(3), Ask, "--new-data keep");
    check(Bare(9), Bare(3), Keep, "First { new_data: Keep }");
    check(Bare(9), Bare(3), Overwrite, "First { new_data: Overwrite }");
    check(Down, Bare(0), Ask, "Wait");
    check(Bare(0), Down, Keep, "Wait");
    check(Down, Down, Ask, "Wait");
    check(Marked("i9", 4), Bare(0), Ask, "old (a:1) carries one: installation i9, epoch 4, primary new");
    check(Bare(0), Marked("i9", 4), Keep, "twinlane adopt");
    check(Down, Marked("i9", 4), Ask, "Refuse");
}

#[test]
fn i8_starts_with_a_record() {
    fn check(record: &Record, old: Side, new: Side, expect: &str) {
        let start = format!("{:?}", judge(Some(record), &old, &new, HOME, NewDataChoice::Ask));
        assert!(start.contains(expect), "{expect:?} in {start}");
    }
    let (old3, new3) = (&record(3, Endpoint::Old), &record(3, Endpoint::New));
    check(old3, Marked("i1", 3), Marked("i1", 3), "Serve { primary_lost_data: false, mirror_unsynced: false }");
    // Killed between the local sync and the marks: the marks are older.
    check(new3, Marked("i1", 2), Marked("i1", 2), "Serve { primary_lost_data: false, mirror_unsynced: false }");
    check(old3, Bare(0), Marked("i1", 3), "Serve { primary_lost_data: true, mirror_unsynced: false }");
    check(new3, Marked("i1", 3), Bare(0), "Serve { primary_lost_data: true, mirror_unsynced: false }");
    check(old3, Marked("i1", 3), Bare(0), "Serve { primary_lost_data: false, mirror_unsynced: true }");
    check(old3, Marked("i1", 3), Down, "Serve { primary_lost_data: false, mirror_unsynced: false }");
    check(old3, Down, Marked("i1", 3), "Wait(\"the primary, old (a:1)");
    check(old3, Marked("i1", 4), Bare(0), "old (a:1) carries a record that is newer");
    check(old3, Marked("i1", 3), Marked("i1", 4), "new (b:2) carries a record that is newer");
    check(old3, Down, Marked("i1", 4), "is newer");
    check(old3, Marked("i2", 1), Bare(0), "of another installation");
    check(old3, Marked("i1", 3), Marked("i2", 1), "of another installation");
    let mut completed = record(3, Endpoint::New);
    completed.completed = true;
    check(&completed, Marked("i2", 8), Marked("i1", 3), "Serve { primary_lost_data: false");
    check(&completed, Bare(0), Marked("i2", 8), "of another installation");
}

#[test]
fn h9_a_server_that_was_called_by_the_other_name_is_refused() {
    let record = record(3, Endpoint::New);
    let (old, new) = (facts(Endpoint::New, &Marked("i1", 3)), facts(Endpoint::Old, &Marked("i1", 3)));
    let facts = Facts { local: Some(&record), sides: [&old, &new], addresses: HOME, choice: NewDataChoice::Ask };
    let Start::Refuse(reason) = judge_start(&facts) else { panic!() };
    assert!(reason.contains("by the other name"), "{reason}");
}

#[test]
fn an_interrupted_first_start_is_resumed_not_called_a_loss() {
    let first = record(0, Endpoint::Old);
    for (old, new) in [(Bare(1), Bare(0)), (Marked("i1", 1), Bare(0)), (Marked("i1", 1), Marked("i1", 1))] {
        assert_eq!(judge(Some(&first), &old, &new, HOME, NewDataChoice::Ask), Start::First { new_data: NewData::Empty });
    }
    assert!(matches!(judge(Some(&first), &Bare(1), &Down, HOME, NewDataChoice::Ask), Start::Wait(_)));
}

#[test]
fn h9_a_config_that_names_other_servers_is_refused() {
    let record = record(3, Endpoint::New);
    let refusal = |addresses| match judge(Some(&record), &Marked("i1", 3), &Marked("i1", 3), addresses, NewDataChoice::Ask) {
        Start::Refuse(reason) => reason,
        other => panic!("{other:?}"),
    };
    let swapped = refusal(["b:2", "a:1"]);
    assert!(swapped.contains("swapped") && swapped.contains("old = a:1") && swapped.contains("old = b:2"), "{swapped}");
    let moved = refusal(["b:2", "c:3"]);
    assert!(!moved.contains("swapped") && moved.contains("new = c:3") && moved.contains("twinlane adopt"), "{moved}");
}
