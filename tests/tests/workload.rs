//! The workload against a plain server: it must find nothing to complain about there, or it proves nothing elsewhere;
//! and it must complain when a promise is broken.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::compare::{self, compare};
use twinlane_tests::pair::{PATIENCE, until};
use twinlane_tests::servers::{Server, Version};
use twinlane_tests::workload::{Options, Workload};

fn wait_for(workload: &Workload, commands: u64) {
    until(&format!("{commands} commands"), PATIENCE, || Ok(workload.commands() >= commands)).unwrap();
}

#[test]
fn a_plain_server_keeps_every_promise() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey81, Version::Valkey91] {
        let server = Server::plain(version).unwrap();
        let workload = Workload::start(&server.address(), &Options::default()).unwrap();
        wait_for(&workload, 20_000);
        let summary = workload.stop();
        assert!(summary.is_clean(), "{version:?}: {summary:#?}");
        assert_eq!(summary.counters.len(), 8);
        // The comparer reads everything the workload makes, and a server is equal to itself.
        let same = compare(&server.address(), &server.address(), &compare::Options::default()).unwrap();
        assert!(same.is_equal() && same.keys_compared > 50, "{same}");
    }
}

#[test]
fn a_meddled_counter_and_a_killed_server_are_noticed() {
    let mut server = Server::plain(Version::Redis70).unwrap();
    let workload = Workload::start(&server.address(), &Options::default()).unwrap();
    wait_for(&workload, 1_000);
    server.client().unwrap().cmd("INCRBY counter:3 5").unwrap();
    let reached = workload.commands();
    wait_for(&workload, reached + 5_000);
    server.kill();
    server.restart_empty().unwrap();
    let summary = workload.stop();
    assert!(summary.broken_promises >= 1 && summary.disconnects >= 1 && !summary.is_clean(), "{summary:#?}");
    assert!(summary.complaints.iter().any(|what| what.contains("counter:3")), "{summary:#?}");
}
