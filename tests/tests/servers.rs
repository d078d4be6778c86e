//! The servers that other tests stand on: they start, freeze, die and come back as those tests believe.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::time::Duration;

use twinlane_tests::resp::is_timeout;
use twinlane_tests::servers::{Options, Server, Version};

#[test]
fn every_version_runs_and_speaks_its_protocols() {
    for version in Version::ALL {
        let server = Server::plain(version).unwrap();
        let mut client = server.client().unwrap();
        assert!(client.cmd("SET k v").unwrap().is_ok(), "{version:?}");
        assert_eq!(client.hello3().is_ok(), version.has_resp3(), "{version:?}");
        assert_eq!(client.cmd("GET k").unwrap().bytes(), Some(&b"v"[..]), "{version:?}");
        let digest = client.cmd("DEBUG DIGEST-VALUE k").unwrap();
        assert!(!version.at_least_7() || !digest.is_error(), "{version:?}: {digest}");
    }
}

#[test]
fn a_frozen_server_is_silent_and_then_goes_on() {
    let server = Server::plain(Version::Redis70).unwrap();
    let mut client = server.client().unwrap();
    client.set_timeout(Duration::from_millis(200)).unwrap();
    server.freeze().unwrap();
    assert!(is_timeout(&client.cmd("PING").unwrap_err()));
    server.thaw().unwrap();
    assert_eq!(client.reply().unwrap().text(), "PONG");
}

#[test]
fn a_killed_server_comes_back_with_or_without_its_data() {
    let mut server = Server::start(Version::Redis70, Options { appendonly: true, ..Options::default() }).unwrap();
    let address = server.address();
    assert!(server.client().unwrap().cmd("SET k v").unwrap().is_ok());
    server.kill();
    assert!(server.client().is_err());
    server.restart_with_data().unwrap();
    assert_eq!(server.client().unwrap().cmd("GET k").unwrap().text(), "v");
    server.restart_empty().unwrap();
    assert!(server.client().unwrap().cmd("GET k").unwrap().is_nil());
    assert_eq!(server.address(), address);
}
