//! The contended workload with a cutover and a rollback in the middle of it, on every pair of versions that a migration meets.
//!
//! What is contended is the order (I1), and what each client checks for itself is what it would see without us (I3): no error, no
//! lost connection, a counter that never skips or repeats, its own writes. After the traffic both sides are equal (I5). Where
//! the versions differ, images travel type by type in one direction, replies come in the shapes of either version, and a command may be
//! known to one side only; the workload uses what 6.2 has.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::compare;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::servers::Version;
use twinlane_tests::workload::{Options, Workload};

fn check(old: Version, new: Version) {
    let pair = Pair::start(Setup::of(old, new)).unwrap();
    let workload = Workload::start(&pair.proxy.address(), &Options { clients: 6, seed: 7, ..Options::default() }).unwrap();
    let work_on = |commands: u64| {
        let goal = workload.commands() + commands;
        until("the clients to go on", PATIENCE, || Ok(workload.commands() >= goal))
            .unwrap_or_else(|error| panic!("{error}\n{}", pair.proxy.log_tail()));
    };
    for _ in 0..2 {
        work_on(4_000);
        pair.cutover().unwrap();
        work_on(4_000);
        pair.rollback().unwrap();
    }
    work_on(4_000);
    let summary = workload.stop();
    assert!(summary.is_clean(), "{old:?} -> {new:?}: {summary:#?}\n{}", pair.proxy.log_tail());
    let report = pair.assert_equal().unwrap_or_else(|error| panic!("{old:?} -> {new:?}: {error:#}"));
    assert!(report.keys_compared > 100, "{report}");
    for (counter, last) in &summary.counters {
        let found = pair.old.client().unwrap().cmd(&format!("GET {counter}")).unwrap().text();
        assert_eq!(found, last.to_string(), "{counter}");
    }
    if old == new && old.at_least_7() {
        let options = compare::Options::default();
        compare::digest_check(&pair.old.address(), &pair.new.address(), &options).unwrap().into_result().unwrap();
    }
}

#[test]
fn redis_6_2() {
    check(Version::Redis62, Version::Redis62);
}

#[test]
fn redis_7_0() {
    check(Version::Redis70, Version::Redis70);
}

#[test]
fn valkey_8_1() {
    check(Version::Valkey81, Version::Valkey81);
}

#[test]
fn valkey_9_1() {
    check(Version::Valkey91, Version::Valkey91);
}

#[test]
fn redis_6_2_to_7_0() {
    check(Version::Redis62, Version::Redis70);
}

#[test]
fn redis_7_0_to_valkey_9_1() {
    check(Version::Redis70, Version::Valkey91);
}
