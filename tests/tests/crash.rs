//! `kill -9` of the proxy, and what the next process knows (I4, H23). `make prove` kills a hundred times.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use twinlane_tests::asking::ok;
use twinlane_tests::crash::kill_again_and_again;
use twinlane_tests::pair::{Pair, Setup};
use twinlane_tests::servers::Version;

/// Two equal servers with keys that nobody writes again, and a journal that knows it.
fn quiet_pair(keys: u32) -> Pair {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    (0..keys).for_each(|n| _ = ok(&mut client, &format!("SET quiet:{n} {n}")));
    pair.settle().unwrap();
    complete(&pair);
    pair
}

fn complete(pair: &Pair) {
    pair.wait_status("the journal to be complete", |status| status["journal"]["complete"] == true).unwrap();
}

#[test]
fn i4_behind_a_kill_the_keys_of_the_journal_are_repaired_and_nothing_is_walked() {
    let totals = kill_again_and_again(8, 1).unwrap();
    assert_eq!(totals.kills, 8);
    assert!(totals.frozen > 0, "{totals:?}");
}

/// The mirror is away for longer than the process lives: what was written meanwhile is still known.
#[test]
fn what_was_dirty_at_the_kill_is_dirty_behind_it() {
    let mut pair = quiet_pair(2_000);
    let mut client = pair.client().unwrap();
    pair.new.freeze().unwrap();
    for n in 0..300 {
        ok(&mut client, &format!("RPUSH list:{n} a b c"));
    }
    pair.wait_status("the effects to collapse", |status| status["mirror"]["state"] != "following").unwrap();
    pair.proxy.kill9();
    // Killed again before it has met the mirror.
    pair.proxy.restart().unwrap();
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    pair.new.thaw().unwrap();
    let status = pair.settle().unwrap();
    assert_eq!(status["mirror"]["scanned_keys"], 0, "{status}\n{}", pair.proxy.log_tail());
    pair.compare().unwrap();
}

/// A server that was started anew between the two processes is not the one that the journal speaks of.
#[test]
fn h9_a_mirror_that_is_another_process_now_is_copied_anew() {
    let mut pair = quiet_pair(500);
    pair.proxy.kill9();
    pair.new.restart_empty().unwrap();
    pair.proxy.restart().unwrap();
    pair.assert_equal().unwrap();
    assert_eq!(pair.new.client().unwrap().cmd("GET quiet:7").unwrap().text(), "7");
}

/// The way there and back, each with a kill behind it.
#[test]
fn a_kill_behind_a_flip_walks_nothing_either() {
    let mut pair = quiet_pair(2_000);
    for flip in 0..2 {
        pair.settle().unwrap();
        if flip == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
        pair.settle().unwrap();
        complete(&pair);
        let mut client = pair.client().unwrap();
        ok(&mut client, &format!("APPEND text {flip}"));
        pair.proxy.kill9();
        pair.proxy.restart().unwrap();
        let status = pair.settle().unwrap();
        assert_eq!(status["mirror"]["scanned_keys"], 0, "{status}\n{}", pair.proxy.log_tail());
        pair.compare().unwrap();
    }
}

/// An older or newer layout, or a file that is no journal: it is said, and everything is copied.
#[test]
fn a_journal_that_cannot_be_read_costs_a_walk_and_no_more() {
    let mut pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.settle().unwrap();
    pair.proxy.kill9();
    let path = pair.proxy.state_dir().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 250;
    std::fs::write(&path, bytes).unwrap();
    pair.proxy.restart().unwrap();
    assert!(pair.proxy.log().contains("it has format 250, and this version reads format 2"), "{}", pair.proxy.log_tail());
    pair.assert_equal().unwrap();
}

/// Synced or not, the death of the process alone costs nothing; without a journal everything is copied.
#[test]
fn every_policy_of_the_journal_outlives_the_process() {
    for (key, value, walks) in [("SYNC", "always", false), ("SYNC", "interval", false), ("BYTES", "0", true)] {
        let mut setup = Setup::of(Version::Redis70, Version::Redis70);
        setup.proxy.env = vec![(format!("TWINLANE__JOURNAL__{key}"), value.to_owned())];
        let mut pair = Pair::start(setup).unwrap();
        let mut client = pair.client().unwrap();
        (0..200).for_each(|n| _ = ok(&mut client, &format!("RPUSH list:{} {n}", n % 7)));
        pair.settle().unwrap();
        if !walks {
            complete(&pair);
        }
        let mut client = pair.client().unwrap();
        pair.new.freeze().unwrap();
        (0..50).for_each(|n| _ = ok(&mut client, &format!("RPUSH list:{} late", n % 7)));
        pair.proxy.kill9();
        pair.new.thaw().unwrap();
        pair.proxy.restart().unwrap();
        let status = pair.settle().unwrap();
        assert_eq!(status["mirror"]["scanned_keys"] != 0, walks, "{key} = {value}: {status}\n{}", pair.proxy.log_tail());
        pair.compare().unwrap();
    }
}
