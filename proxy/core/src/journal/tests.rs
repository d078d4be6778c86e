use super::*;

/// Memory of a test.
fn pages(bytes: Vec<u8>) -> Pages {
    Box::new(bytes)
}

const RING: usize = RING_BYTES_MIN;

fn opening() -> Opening<'static> {
    Opening { installation: "one", file: [1, 2, 3], boot: "boot", synced: false }
}

fn begin() -> Journal {
    begin_as(&opening())
}

fn begin_as(opening: &Opening<'_>) -> Journal {
    let (journal, left) = Journal::open(pages(vec![0; HEADER_BYTES + RING]), opening).expect("a ring of the least size");
    assert_eq!(left, Left::Nothing);
    journal
}

/// The process is killed here, and another one opens what it left.
fn reopen(mut journal: Journal, opening: &Opening<'_>) -> (Journal, Left) {
    let bytes = (*journal.pages).as_mut().to_vec();
    Journal::open(pages(bytes), opening).expect("the same size")
}

fn keys(left: &Left) -> Vec<(Db, String)> {
    match left {
        Left::Known { keys, .. } => keys.iter().map(|(db, key)| (*db, String::from_utf8_lossy(key).into_owned())).collect(),
        other => panic!("{other:?}"),
    }
}

fn equal_everywhere() -> Facts {
    Facts {
        epoch: 7,
        run_ids: ["a".repeat(40), "b".repeat(40)],
        evicted_keys: [Some(3), None],
        delay_max_us: 2_000_000,
        databases: vec![Known::Equal; DATABASES_MAX],
    }
}

#[test]
fn what_was_intended_and_what_is_dirty_is_known_behind_a_kill() {
    let mut journal = begin();
    let facts =
        Facts { databases: [Known::Equal, Known::Walked { on_mirror: true, cursor: 99 }, Known::Unaligned].into(), ..equal_everywhere() };
    let mut stored = facts.clone();
    stored.databases.resize(DATABASES_MAX, Known::Nothing);
    journal.set_facts(&stored);
    journal.intend(0, b"a");
    journal.doubt(3, b"b");
    journal.intend(0, b"a");
    let (_, left) = reopen(journal, &opening());
    assert_eq!(keys(&left), [(0, "a".to_owned()), (3, "b".to_owned())]);
    assert!(matches!(left, Left::Known { facts, .. } if facts == stored));
}

#[test]
fn a_wide_intent_and_a_key_too_long_put_their_database_in_doubt() {
    let mut journal = begin();
    journal.set_facts(&equal_everywhere());
    journal.intend_any(4);
    journal.intend(5, &vec![b'x'; KEY_BYTES_MAX + 1]);
    let (_, left) = reopen(journal, &opening());
    let Left::Known { facts, keys, .. } = left else { panic!("{left:?}") };
    assert!(keys.is_empty());
    let unknown: Vec<usize> = (0..DATABASES_MAX).filter(|db| facts.databases[*db] == Known::Nothing).collect();
    assert_eq!(unknown, [4, 5]);
}

#[test]
fn what_a_wide_intent_said_outlives_its_record() {
    let mut journal = begin();
    journal.set_facts(&equal_everywhere());
    journal.intend_any(4);
    let (mut journal, left) = reopen(journal, &opening());
    let Left::Known { facts, .. } = left else { panic!("{left:?}") };
    // The next process believes as much, and its tail passes the record.
    journal.set_facts(&facts);
    let end = journal.head();
    journal.retire(end, 100, |_, _| false);
    let (_, left) = reopen(journal, &opening());
    assert!(matches!(left, Left::Known { facts, .. } if facts.databases[4] == Known::Nothing && facts.databases[5] == Known::Equal));
}

#[test]
fn the_tail_follows_and_stops_at_a_dirty_key_while_there_is_room() {
    let mut journal = begin();
    journal.intend(0, b"a");
    journal.doubt(0, b"dirty");
    journal.intend(0, b"b");
    let end = journal.head();
    journal.intend(0, b"late");
    journal.retire(end, 100, |_, key| key == b"dirty");
    let (mut journal, left) = reopen(journal, &opening());
    assert_eq!(keys(&left), [(0, "b".to_owned()), (0, "dirty".to_owned()), (0, "late".to_owned())]);
    journal.retire(end, 100, |_, _| false);
    let (_, left) = reopen(journal, &opening());
    assert_eq!(keys(&left), [(0, "late".to_owned())]);
}

/// The ring turns many times: dirty keys travel along, retired intents go, records never cross the end of the ring.
#[test]
fn the_ring_turns_and_keeps_what_is_dirty() {
    let mut journal = begin();
    let dirty: Vec<String> = (0..100).map(|n| format!("dirty:{n}")).collect();
    dirty.iter().for_each(|key| journal.doubt(1, key.as_bytes()));
    for n in 0..50_000u32 {
        let key = format!("key:{n}:{}", "y".repeat(n as usize % 37));
        journal.intend(0, key.as_bytes());
        if n % 16 == 0 {
            let end = journal.head();
            journal.retire(end, 64, |db, key| db == 1 && key.starts_with(b"dirty"));
        }
        assert!(!journal.is_full(), "at {n}");
    }
    let end = journal.head();
    journal.retire(end, usize::MAX, |db, _| db == 1);
    let (_, left) = reopen(journal, &opening());
    let found: Vec<String> = keys(&left).into_iter().filter(|(db, _)| *db == 1).map(|(_, key)| key).collect();
    let mut dirty = dirty;
    dirty.sort();
    assert_eq!(found, dirty);
}

#[test]
fn a_full_ring_says_that_it_knows_nothing_until_it_is_complete_again() {
    let mut journal = begin();
    journal.set_facts(&equal_everywhere());
    (0..20_000u32).for_each(|n| journal.intend(0, &n.to_be_bytes()));
    assert!(journal.is_full());
    let (mut journal, left) = reopen(journal, &opening());
    assert!(matches!(left, Left::Unknown(_)), "{left:?}");
    // The same within one process.
    (0..20_000u32).for_each(|n| journal.intend(0, &n.to_be_bytes()));
    journal.begin_anew();
    journal.intend(0, b"k");
    assert!(!journal.is_complete());
    journal.set_complete();
    let (_, left) = reopen(journal, &opening());
    assert_eq!(keys(&left), [(0, "k".to_owned())]);
}

#[test]
fn another_installation_machine_start_format_or_size_is_not_believed() {
    let written = || {
        let mut journal = begin();
        journal.set_facts(&equal_everywhere());
        journal.intend(0, b"k");
        journal
    };
    let unknown = |left: Left| assert!(matches!(left, Left::Unknown(_)), "{left:?}");
    unknown(reopen(written(), &Opening { installation: "two", ..opening() }).1);
    unknown(reopen(written(), &Opening { boot: "another", ..opening() }).1);
    let bytes = |mut journal: Journal| (*journal.pages).as_mut().to_vec();
    let mut other = bytes(written());
    other[AT_FORMAT] = 9;
    unknown(Journal::open(pages(other), &opening()).expect("the same size").1);
    let mut larger = bytes(written());
    larger.resize(HEADER_BYTES + 2 * RING, 0);
    unknown(Journal::open(pages(larger), &opening()).expect("a larger ring").1);
    assert!(Journal::open(pages(vec![0; 5000]), &opening()).is_none());
}

/// A state directory that was copied, or restored from a backup, names keys of another time: what was written since is in none of them.
#[test]
fn a_copied_file_is_not_relied_on() {
    let check = |synced: bool, opening: Opening<'_>, known: bool| {
        let mut journal = begin_as(&Opening { synced, ..super::tests::opening() });
        journal.set_facts(&equal_everywhere());
        journal.intend(0, b"k");
        if synced {
            journal.seal();
        }
        let left = reopen(journal, &opening).1;
        assert_eq!(matches!(left, Left::Known { .. }), known, "{opening:?}: {left:?}");
    };
    check(false, opening(), true);
    check(false, Opening { file: [1, 9, 3], ..opening() }, false);
    check(false, Opening { file: [1, 2, 9], ..opening() }, false);
    check(false, Opening { file: [9, 2, 3], ..opening() }, false);
    // The device may have another number behind the machine's next start.
    check(true, Opening { file: [9, 2, 3], boot: "next", ..opening() }, true);
    check(true, Opening { file: [9, 4, 3], boot: "next", ..opening() }, false);
    // A system that does not tell.
    check(false, Opening { file: [0; 3], ..opening() }, true);
}

/// A machine that lost its power has what was synced, and of what came later any part.
#[test]
fn what_was_sealed_outlives_the_machine_and_a_torn_record_below_it_is_noticed_at_every_byte() {
    let synced = Opening { synced: true, ..opening() };
    let next = Opening { boot: "the machine's next start", ..synced.clone() };
    let mut journal = begin_as(&synced);
    journal.set_facts(&equal_everywhere());
    (0..20u32).for_each(|n| journal.intend(2, format!("key:{n}").as_bytes()));
    let unsealed = (*journal.pages).as_mut().to_vec();
    assert!(matches!(Journal::open(pages(unsealed), &next).expect("the same size").1, Left::Unknown(_)), "it was never synced");
    journal.seal();
    let head = journal.head() as usize;
    let sealed = (*journal.pages).as_mut().to_vec();
    assert_eq!(keys(&Journal::open(pages(sealed.clone()), &next).expect("the same size").1).len(), 20);
    for at in 0..head {
        let mut torn = sealed.clone();
        torn[HEADER_BYTES + at] ^= 0x55;
        let (_, left) = Journal::open(pages(torn), &next).expect("the same size");
        assert!(matches!(left, Left::Unknown(_)), "byte {at}: {left:?}");
    }
    // Behind the seal: a record that is there is read, whatever the header says of it, and a later seal that is torn is passed over.
    journal.intend(3, b"later");
    journal.set_facts(&Facts::default());
    journal.seal();
    let later = AT_SEALS + (journal.seals & 1) as usize * SEAL;
    let mut after = (*journal.pages).as_mut().to_vec();
    after[later + 16 + AT_EPOCH] ^= 1;
    let (_, left) = Journal::open(pages(after), &next).expect("the same size");
    let Left::Known { facts, keys, .. } = left else { panic!("{left:?}") };
    assert_eq!((facts, keys.len()), (equal_everywhere(), 21));
}

/// A process may be killed between any two stores: whatever of a record and of the header is there, an intent that was announced before
/// is never lost.
#[test]
fn nothing_announced_is_lost_between_two_stores() {
    let mut journal = begin();
    journal.set_facts(&equal_everywhere());
    journal.intend(0, b"before");
    let before = (*journal.pages).as_mut().to_vec();
    journal.intend(0, b"behind");
    let after = (*journal.pages).as_mut().to_vec();
    // The record's bytes come first, in any part; the head comes last.
    let head = AT_HEAD..AT_HEAD + 8;
    for written in 0..after.len() - HEADER_BYTES {
        let mut partly = before.clone();
        partly[HEADER_BYTES..HEADER_BYTES + written].copy_from_slice(&after[HEADER_BYTES..HEADER_BYTES + written]);
        if written > 64 && written % 4096 != 0 {
            continue;
        }
        let (_, left) = Journal::open(pages(partly.clone()), &opening()).expect("the same size");
        assert_eq!(keys(&left), [(0, "before".to_owned())]);
    }
    let mut whole = after.clone();
    whole[head.clone()].copy_from_slice(&before[head]);
    assert_eq!(keys(&Journal::open(pages(whole), &opening()).expect("the same size").1), [(0, "before".to_owned())]);
}

/// What the spill file names is in no record: the header says which part of it the next process must read.
#[test]
fn the_header_points_at_what_was_spilled() {
    let part = |journal: Journal| match reopen(journal, &opening()).1 {
        Left::Known { spilled, .. } => spilled,
        left => panic!("{left:?}"),
    };
    let told = |ranges: &[(u64, u64)]| {
        let mut journal = begin();
        journal.set_facts(&equal_everywhere());
        ranges.iter().for_each(|(begin, end)| journal.set_spill(*begin, *end));
        part(journal)
    };
    assert_eq!(told(&[]), (0, 0));
    assert_eq!(told(&[(0, 900)]), (0, 900));
    assert_eq!(told(&[(0, 900), (400, 1_200)]), (400, 1_200));
    assert_eq!(told(&[(400, 1_200), (0, 0)]), (0, 0));
}
