//! "Done when" 4: who is primary is written down, and the proxy obeys what is written (I8).
//!
//! After a cutover the config file is a lie: it lists the endpoints, not their roles. A proxy that was killed and starts again
//! must go on with `new`; one that has lost its state directory, or whose two URLs were swapped, must not serve at all,
//! because whatever it believed, half of the time it would write an old copy over the good one (H9). Each refusal says what
//! was found and names the command that gets the operator out of it: `adopt`.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::{Options, Proxy, binary};
use twinlane_tests::servers::{Server, Version};
use twinlane_tests::workload::{Options as Load, Workload};

/// A start that refuses does so within this.
const REFUSES_WITHIN: Duration = Duration::from_secs(15);

/// Starts the proxy and waits for its end; what it said and how it ended.
fn refused(proxy: &mut Proxy) -> (ExitStatus, String) {
    let before = proxy.log().len();
    proxy.launch().unwrap();
    let mut status = None;
    until("the start to be refused", REFUSES_WITHIN, || {
        status = proxy.try_wait()?;
        Ok(status.is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    (status.unwrap(), proxy.log()[before..].to_string())
}

/// A pair after a cutover, with `k` written before and behind it.
fn cut_over() -> Pair {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    client.cmd("SET k before").unwrap();
    pair.cutover().unwrap();
    client.cmd("SET k behind").unwrap();
    pair
}

fn adopt(proxy: &Proxy, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary().unwrap())
        .args(["adopt", "--old", &proxy.old, "--new", &proxy.new, "--state-dir"])
        .arg(proxy.state_dir())
        .args(more)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[test]
fn after_kill_9_right_behind_a_cutover_new_is_primary() {
    let mut pair = Pair::plain().unwrap();
    let workload = Workload::start(&pair.proxy.address(), &Load { clients: 3, ..Load::default() }).unwrap();
    until("some work", PATIENCE, || Ok(workload.commands() > 1_000)).unwrap();
    let answer = pair.cutover().unwrap();
    pair.proxy.kill9();
    let epoch = answer.body["epoch"].as_u64().unwrap();
    pair.proxy.restart().unwrap();
    let status = pair.proxy.status().unwrap();
    assert_eq!((status["primary"].as_str(), status["epoch"].as_u64()), (Some("new"), Some(epoch)), "{status}");
    let summary = workload.stop();
    assert!(summary.errors == 0 && summary.broken_promises == 0, "{summary:#?}");
    // What was in flight at the kill is made equal too.
    pair.assert_equal().unwrap();
    pair.rollback().unwrap();
    pair.assert_equal().unwrap();
}

#[test]
fn a_config_that_orders_otherwise_changes_nothing() {
    let mut pair = cut_over();
    pair.proxy.kill9();
    pair.proxy.options.args = vec!["--new-data".into(), "overwrite".into()];
    pair.proxy.restart().unwrap();
    assert_eq!(pair.proxy.status().unwrap()["primary"], "new");
    assert_eq!(pair.client().unwrap().cmd("GET k").unwrap().text(), "behind");
    pair.assert_equal().unwrap();
}

#[test]
fn h09_without_its_state_directory_it_refuses_and_names_the_newer_record() {
    let mut pair = cut_over();
    pair.proxy.kill9();
    std::fs::remove_dir_all(pair.proxy.state_dir()).unwrap();
    let (status, said) = refused(&mut pair.proxy);
    assert_eq!(status.code(), Some(1), "{said}");
    for word in ["adopt", "primary", "new", "epoch"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(pair.proxy.client().is_err(), "it must not listen");
    // Nothing was written by the refused start; adopt shows first, and writes only when told to.
    let (code, shown) = adopt(&pair.proxy, &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert_eq!(refused(&mut pair.proxy).0.code(), Some(1));
    let (code, shown) = adopt(&pair.proxy, &["--yes"]);
    assert_eq!(code, Some(0), "{shown}");
    pair.proxy.restart().unwrap();
    let status = pair.proxy.status().unwrap();
    assert_eq!(status["primary"], "new", "{status}");
    assert_eq!(pair.client().unwrap().cmd("GET k").unwrap().text(), "behind");
    pair.assert_equal().unwrap();
}

#[test]
fn h09_with_the_two_urls_swapped_it_refuses() {
    let mut pair = cut_over();
    pair.proxy.kill9();
    let proxy = &mut pair.proxy;
    std::mem::swap(&mut proxy.old, &mut proxy.new);
    let (status, said) = refused(proxy);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("swapped") && said.contains("adopt"), "{said}");
    // With the state directory gone as well, the servers' own marks say it.
    std::fs::remove_dir_all(proxy.state_dir()).unwrap();
    let (status, said) = refused(proxy);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("adopt"), "{said}");
    // Put right again, nothing was lost: the same data, and the words as adopt reads them from the servers.
    let (code, shown) = adopt(proxy, &["--yes"]);
    assert_eq!(code, Some(0), "{shown}");
    proxy.restart().unwrap();
    // The server that was called `new` is primary, under whichever word this config gives it.
    assert_eq!(proxy.status().unwrap()["primary"], "old");
    assert_eq!(pair.client().unwrap().cmd("GET k").unwrap().text(), "behind");
}

#[test]
fn h09_another_server_in_the_place_of_one_is_refused() {
    let mut pair = cut_over();
    pair.proxy.kill9();
    let stranger = Server::plain(Version::Redis70).unwrap();
    pair.proxy.new = stranger.url();
    let (status, said) = refused(&mut pair.proxy);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&pair.new.address()) && said.contains(&stranger.address()), "{said}");
}

#[test]
fn a_second_process_on_the_same_state_directory_is_refused() {
    let mut pair = cut_over();
    let other = Proxy::prepare(&pair.proxy.old, &pair.proxy.new, Options::default()).unwrap();
    let output = Command::new(binary().unwrap())
        .args(["serve", "--listen", &other.address(), "--admin", other.admin_url().trim_start_matches("http://")])
        .args(["--old", &pair.proxy.old, "--new", &pair.proxy.new, "--state-dir"])
        .arg(pair.proxy.state_dir())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && said.contains("state"), "{said}");
    assert_eq!(pair.client().unwrap().cmd("GET k").unwrap().text(), "behind", "the first goes on");
    // A state directory of its own does not help it, also when the first is gone: the servers carry the first one's mark.
    pair.proxy.kill9();
    let mut other = other;
    let (status, said) = refused(&mut other);
    assert_eq!(status.code(), Some(1), "{said}");
}

/// Servers where `new` holds keys of its own before the very first start.
fn new_with_keys() -> (Server, Server) {
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    old.client().unwrap().cmd("MSET both old only-old 1").unwrap();
    new.client().unwrap().cmd("MSET both new only-new 1").unwrap();
    (old, new)
}

fn start_with(choice: &str) -> Pair {
    let (old, new) = new_with_keys();
    let args = vec!["--new-data".to_string(), choice.to_string()];
    let proxy = Proxy::start(&old.address(), &new.address(), Options { args, env: vec![] }).unwrap();
    Pair { old, new, proxy }
}

#[test]
fn keys_on_new_need_a_word_of_the_operator() {
    let (old, new) = new_with_keys();
    let mut proxy = Proxy::prepare(&old.address(), &new.address(), Options::default()).unwrap();
    let (status, said) = refused(&mut proxy);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("--new-data keep") && said.contains("--new-data overwrite"), "{said}");
    assert_eq!(new.client().unwrap().cmd("DBSIZE").unwrap().int(), Some(2), "nothing was touched");
    assert_eq!(old.client().unwrap().cmd("DBSIZE").unwrap().int(), Some(2), "nothing was touched");
}

#[test]
fn keep_leaves_alone_what_only_new_has() {
    let pair = start_with("keep");
    pair.client().unwrap().cmd("SET fresh 1").unwrap();
    pair.settle().unwrap();
    let mut new = pair.new.client().unwrap();
    let found = new.cmd("MGET both only-old only-new fresh").unwrap();
    let found: Vec<String> = found.items().iter().map(|value| value.text()).collect();
    assert_eq!(found, ["old", "1", "1", "1"]);
}

#[test]
fn overwrite_makes_new_equal() {
    let pair = start_with("overwrite");
    pair.assert_equal().unwrap();
    assert!(pair.new.client().unwrap().cmd("GET only-new").unwrap().is_nil());
}

#[test]
fn adopt_lets_the_operator_name_the_primary() {
    let mut pair = Pair::start(Setup::of(Version::Redis70, Version::Redis70)).unwrap();
    pair.client().unwrap().cmd("SET k v").unwrap();
    pair.assert_equal().unwrap();
    pair.proxy.stop();
    let (code, shown) = adopt(&pair.proxy, &["--primary", "new", "--yes"]);
    assert_eq!(code, Some(0), "{shown}");
    pair.proxy.restart().unwrap();
    let status = pair.proxy.status().unwrap();
    assert_eq!(status["primary"], "new", "{status}");
    pair.client().unwrap().cmd("SET k w").unwrap();
    pair.assert_equal().unwrap();
    // Without anything to go by there is nothing to adopt.
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    let proxy = Proxy::prepare(&old.address(), &new.address(), Options::default()).unwrap();
    let (code, shown) = adopt(&proxy, &["--yes"]);
    assert!(code != Some(0) && shown.contains("nothing to adopt"), "{shown}");
}

/// The proxy of another pair must not write into a server that is in use (the same server under two configs).
#[test]
fn a_server_that_carries_another_installations_mark_is_refused() {
    let mut pair = cut_over();
    pair.proxy.kill9();
    let third = Server::plain(Version::Redis70).unwrap();
    let mut other = Proxy::prepare(&third.address(), &pair.new.address(), Options::default()).unwrap();
    let (status, said) = refused(&mut other);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(third.client().unwrap().cmd("DBSIZE").unwrap().int(), Some(0), "nothing was written");
}
