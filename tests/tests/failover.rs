//! H11: a server that acknowledged writes and does not have them any more. An asynchronous failover, a snapshot restored, a disk that
//! lost its last second: the server is there, its mark is there, its identity may even be the same, and nothing but the count in
//! the mark tells. Keys that were written since the count found are doubted, and no other; where it is the primary that forgot, the
//! mirror holds the better copy, and nobody may overwrite it before the operator has spoken (H12).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value as Json, json};
use twinlane_tests::asking::ok;
use twinlane_tests::compare::{self, compare};
use twinlane_tests::forward::Forwarder;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, in_step, until};
use twinlane_tests::proxy::{Options, Proxy};
use twinlane_tests::resp::Client;
use twinlane_tests::servers::{self, Server, Version};

const QUIET: u64 = 1_500;
const LATE: u64 = 200;

/// Keys that nobody touches again, and the first state of those that are.
fn seed(client: &mut Client) {
    (0..QUIET).for_each(|n| _ = ok(client, &format!("SET quiet:{n} {n}")));
    (0..LATE).for_each(|n| _ = ok(client, &format!("HSET late:{n} state early")));
}

/// What is acknowledged, and forgotten.
fn write_late(client: &mut Client) {
    (0..LATE).for_each(|n| _ = ok(client, &format!("HSET late:{n} state late more {n}")));
    ok(client, "SET only:late here");
}

fn state(server: &Server, key: u64) -> String {
    server.client().unwrap().cmd(&format!("HGET late:{key} state")).unwrap().text()
}

/// The highest count that the proxy has raised, whoever has it by now.
fn raised(status: &Json) -> u64 {
    status["recent"]["count"].as_u64().unwrap()
}

/// Waits until both sides have confirmed a count that was raised after `than`.
fn counted(status: impl Fn() -> Json, than: u64) {
    until("both sides to confirm a count", PATIENCE, || {
        let now = status();
        let (count, recent) = (raised(&now), &now["recent"]);
        Ok(count > than && recent["old"] == count && recent["new"] == count)
    })
    .unwrap();
}

/// Both sides hold the seed, the named one keeps a snapshot, then both hold what is late. A count that was on its way when the seed was
/// written, or the snapshot, tells nothing about what came behind it.
fn with_snapshot(pair: &Pair, side: &str) -> Client {
    let mut client = pair.client().unwrap();
    let status = || pair.proxy.status().unwrap();
    seed(&mut client);
    pair.settle().unwrap();
    let before = raised(&status());
    ok(&mut client, "SET seeded all");
    counted(status, before);
    let server = if side == "old" { &pair.old } else { &pair.new };
    ok(&mut server.client().unwrap(), "SAVE");
    let saved = raised(&status());
    write_late(&mut client);
    pair.settle().unwrap();
    counted(status, saved);
    client
}

fn scanned(pair: &Pair) -> u64 {
    pair.proxy.status().unwrap()["mirror"]["scanned_keys"].as_u64().unwrap()
}

/// What was written since the count found was doubted, not much else, and nothing was walked.
fn assert_only_the_late_are_doubted(pair: &Pair, scanned_before: u64) {
    assert_eq!(scanned(pair), scanned_before, "{}", pair.proxy.log_tail());
    let doubted = pair.metric("twinlane_dirty_keys_total", "failover").unwrap() as u64;
    assert!((LATE..QUIET).contains(&doubted), "{doubted} keys were doubted\n{}", pair.proxy.log_tail());
    assert_eq!(pair.proxy.status().unwrap()["recent"]["forgotten"], 1);
}

#[test]
fn h11_a_mirror_with_an_older_snapshot_gets_what_it_forgot_and_nothing_else() {
    let mut pair = Pair::plain().unwrap();
    let mut client = with_snapshot(&pair, "new");
    let (connects, before) = (pair.connects("new"), scanned(&pair));
    pair.new.restart_with_snapshot().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    ok(&mut client, "HSET late:7 once again");
    pair.assert_equal().unwrap();
    assert_eq!(state(&pair.new, 7), "late");
    assert_only_the_late_are_doubted(&pair, before);
    // Nothing is forgotten a second time: the same process goes on.
    let connects = pair.connects("new");
    ok(&mut pair.new.client().unwrap(), "CLIENT KILL TYPE normal SKIPME yes");
    pair.wait_reconnected("new", connects).unwrap();
    pair.assert_equal().unwrap();
    assert_eq!(pair.proxy.status().unwrap()["recent"]["forgotten"], 1);
}

/// Older than the ring of recent keys: nobody knows what is missing, and everything is copied.
#[test]
fn h11_a_mirror_that_is_older_than_what_is_remembered_is_copied_as_a_whole() {
    let mut setup = Setup::of(Version::Redis70, Version::Redis70);
    setup.proxy.env = vec![("TWINLANE__JOURNAL__BYTES".into(), (1u64 << 20).to_string())];
    let mut pair = Pair::start(setup).unwrap();
    let mut client = with_snapshot(&pair, "new");
    for n in 0..20_000 {
        ok(&mut client, &format!("SET {:0>100} v", n % 50));
    }
    pair.settle().unwrap();
    let (connects, before) = (pair.connects("new"), scanned(&pair));
    pair.new.restart_with_snapshot().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    pair.assert_equal().unwrap();
    assert!(scanned(&pair) > before, "{}", pair.proxy.log_tail());
}

/// The alarm stands, names the loss, and the mirror keeps the newer values while other keys go on.
fn assert_held(pair: &Pair, client: &mut Client) {
    let status = pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    let alarms = status["alarms"].to_string();
    assert!(alarms.contains("earlier state") && alarms.contains("late:"), "{alarms}");
    assert_eq!(status["recent"]["forgotten"], 1, "{status}");
    assert!(status["recent"]["samples"].as_array().is_some_and(|samples| !samples.is_empty()), "{status}");
    assert_eq!(pair.proxy.cutover().unwrap().status, 409);
    assert_eq!(ok(client, "HGET late:7 state").text(), "early", "clients go on as without a proxy");
    ok(client, "SET quiet:7 changed");
    until("an ordinary effect to reach the mirror", PATIENCE, || Ok(pair.new.client()?.cmd("GET quiet:7")?.text() == "changed")).unwrap();
    (0..LATE).step_by(13).for_each(|n| assert_eq!(state(&pair.new, n), "late", "late:{n} was overwritten"));
}

fn lose_late(pair: &mut Pair) -> Client {
    drop(with_snapshot(pair, "old"));
    let connects = pair.connects("old");
    pair.old.restart_with_snapshot().unwrap();
    pair.wait_reconnected("old", connects).unwrap();
    pair.client().unwrap()
}

#[test]
fn h11_a_primary_that_forgot_is_held_and_left_by_a_forced_flip_with_the_newer_values() {
    let mut pair = Pair::plain().unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    pair.leave_lost_primary().unwrap();
    pair.assert_equal().unwrap();
    assert_eq!((state(&pair.old, 7).as_str(), state(&pair.new, 7).as_str()), ("late", "late"));
}

#[test]
fn h11_a_primary_that_forgot_is_followed_when_the_loss_is_accepted() {
    let mut pair = Pair::plain().unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    let before = scanned(&pair);
    assert_eq!(pair.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap().status, 200);
    pair.assert_equal().unwrap();
    assert_eq!(state(&pair.new, 7), "early");
    assert_only_the_late_are_doubted(&pair, before);
    assert_eq!(pair.proxy.status().unwrap()["stage"], "SYNCED");
}

/// Values of the late keys that the mirror held at the loss, and still holds.
fn assert_kept(pair: &Pair) {
    let lost: Vec<u64> = (0..LATE).filter(|n| state(&pair.new, *n) != "late").collect();
    assert!(lost.is_empty(), "{lost:?} were overwritten by what the primary has left of them");
}

/// Connections that end without harm to the mirror name its last writes once more: they are not read from a primary that has lost them.
#[test]
fn h12_a_mirror_that_is_connected_anew_keeps_what_the_primary_lost() {
    let mut pair = Pair::plain().unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    for _ in 0..3 {
        let connects = pair.connects("new");
        ok(&mut pair.new.client().unwrap(), "CLIENT KILL TYPE normal SKIPME yes");
        pair.wait_reconnected("new", connects).unwrap();
        // An effect has arrived, so what came before it has.
        ok(&mut client, &format!("SET quiet:8 {connects}"));
        until("an ordinary effect to reach the mirror", PATIENCE, || {
            Ok(pair.new.client()?.cmd("GET quiet:8")?.text() == connects.to_string())
        })
        .unwrap();
    }
    assert_kept(&pair);
}

/// What clients write while the loss is held is on the mirror before a forced flip, however much it is, and whatever waits on the disk.
#[test]
fn h12_a_forced_flip_takes_along_what_was_written_since_the_loss() {
    for bound in [1_000_000, 100] {
        let mut pair = Pair::start(Setup::with_args(&["--set", &format!("mirror.dirty_keys_max={bound}")])).unwrap();
        let mut client = lose_late(&mut pair);
        assert_held(&pair, &mut client);
        // All at once: more than there are images asked for at a time.
        let requests: Vec<String> = (0..LATE).map(|n| format!("HSET late:{n} since {n}")).collect();
        requests.iter().for_each(|request| client.send(&request.split(' ').collect::<Vec<_>>()).unwrap());
        requests.iter().for_each(|_| assert!(!client.reply().unwrap().is_error()));
        pair.new.freeze().unwrap();
        (0..600).for_each(|n| _ = ok(&mut client, &format!("HSET fresh:{n} since {n}")));
        pair.new.thaw().unwrap();
        pair.leave_lost_primary().unwrap();
        let mut new = pair.new.client().unwrap();
        for (kind, count) in [("late", LATE), ("fresh", 600)] {
            let missing: Vec<u64> =
                (0..count).filter(|n| ok(&mut new, &format!("HGET {kind}:{n} since")).text() != n.to_string()).collect();
            assert!(missing.is_empty(), "bound {bound}: acknowledged writes to {} of {count} {kind} keys are gone", missing.len());
        }
        pair.assert_equal().unwrap();
    }
}

/// Where neither memory nor disk has room to name what clients write while the loss is held, the operator is told before he decides.
#[test]
fn h12_writes_since_the_loss_that_nobody_can_name_are_told_before_the_decision() {
    let bounds = ["--set", "mirror.dirty_keys_max=1000", "--set", "mirror.spill_bytes_max=0"];
    let mut pair = Pair::start(Setup::with_args(&bounds)).unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    let told = |status: &Json| status["alarms"].to_string().contains("WRITES SINCE THE LOSS");
    assert!(!told(&pair.proxy.status().unwrap()), "all can be named so far");
    pair.new.freeze().unwrap();
    ok(&mut client, "HSET fresh since first");
    pair.wait_status("effects to become dirty keys", |status| status["mirror"]["state"] == "collapsing").unwrap();
    (0..2_000).for_each(|n| _ = ok(&mut client, &format!("HSET fresh:{n} since {n}")));
    pair.wait_status("the alarm", told).unwrap();
    pair.new.thaw().unwrap();
    assert_eq!(pair.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap().status, 200);
    pair.assert_equal().unwrap();
    assert!(!told(&pair.proxy.status().unwrap()));
}

/// Before anybody has decided the primary goes back once more: what was written between is lost as well, and the mirror is made equal all the same.
#[test]
fn h11_a_primary_that_goes_back_twice_is_followed_as_a_whole() {
    let mut pair = Pair::plain().unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    ok(&mut client, "SET between here");
    ok(&mut client, "HSET late:3 state between");
    until("the effect to reach the mirror", PATIENCE, || Ok(pair.new.client()?.cmd("GET between")?.text() == "here")).unwrap();
    let connects = pair.connects("old");
    pair.old.restart_with_snapshot().unwrap();
    pair.wait_reconnected("old", connects).unwrap();
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    assert_eq!(pair.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap().status, 200);
    pair.assert_equal().unwrap();
    assert!(pair.new.client().unwrap().cmd("GET between").unwrap().is_nil());
}

/// Keys in doubt from before the loss that wait on the disk, left there by a process that is gone, are not copied over what the mirror holds.
#[test]
fn h12_keys_on_the_disk_are_held_like_those_in_memory() {
    let mut pair = Pair::start(Setup::with_args(&["--set", "mirror.dirty_keys_max=100"])).unwrap();
    let mut client = pair.client().unwrap();
    seed(&mut client);
    pair.settle().unwrap();
    let refuse =
        |pair: &Pair, replicas: u8| _ = ok(&mut pair.new.client().unwrap(), &format!("CONFIG SET min-replicas-to-write {replicas}"));
    refuse(&pair, 1);
    (0..QUIET).for_each(|n| _ = ok(&mut client, &format!("APPEND quiet:{n} x")));
    let spilled = |pair: &Pair| pair.proxy.get("/v1/dirty?limit=1").unwrap().body["spilled"].as_u64().unwrap();
    until("keys on the disk", PATIENCE, || Ok(spilled(&pair) > QUIET / 2)).unwrap();
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    let connects = pair.connects("old");
    pair.old.restart_empty().unwrap();
    pair.wait_reconnected("old", connects).unwrap();
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    refuse(&pair, 0);
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET fresh here");
    until("an ordinary effect to reach the mirror", PATIENCE, || Ok(pair.new.client()?.cmd("GET fresh")?.text() == "here")).unwrap();
    assert!(spilled(&pair) > QUIET / 2);
    let mut new = pair.new.client().unwrap();
    (0..QUIET).for_each(|n| assert_eq!(ok(&mut new, &format!("GET quiet:{n}")).text(), n.to_string(), "quiet:{n}"));
    pair.leave_lost_primary().unwrap();
    pair.assert_equal().unwrap();
    assert_eq!(ok(&mut pair.old.client().unwrap(), "GET quiet:7").text(), "7");
}

#[test]
fn h11_with_follow_a_primary_that_forgot_is_followed_at_once() {
    let mut pair = Pair::start(Setup::with_args(&["--on-primary-loss", "follow"])).unwrap();
    let mut client = lose_late(&mut pair);
    pair.assert_equal().unwrap();
    assert_eq!(ok(&mut client, "HGET late:7 state").text(), "early");
    assert_eq!(state(&pair.new, 7), "early");
}

/// The decision is still to be made after `kill -9` of the proxy.
#[test]
fn h11_a_held_loss_outlives_the_proxy() {
    let mut pair = Pair::plain().unwrap();
    let mut client = lose_late(&mut pair);
    assert_held(&pair, &mut client);
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    assert_eq!(state(&pair.new, 7), "late");
}

/// While no proxy runs the primary goes back: its count is behind the mirror's.
#[test]
fn h11_a_primary_that_went_back_while_no_proxy_ran_is_held() {
    let mut pair = Pair::plain().unwrap();
    drop(with_snapshot(&pair, "old"));
    pair.proxy.kill9();
    pair.old.restart_with_snapshot().unwrap();
    pair.proxy.restart().unwrap();
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    assert_eq!(state(&pair.new, 7), "late");
    assert_eq!(pair.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap().status, 200);
    pair.assert_equal().unwrap();
    assert_eq!(state(&pair.new, 7), "early");
}

/// A server and its replica behind one address, as managed services have them, on the side that is named; the other is plain.
struct Failover {
    address: Forwarder,
    first: Server,
    second: Server,
    plain: Server,
    proxy: Proxy,
}

impl Failover {
    fn start(side: &str) -> Failover {
        let [first, second, plain] = [(); 3].map(|()| Server::start(Version::Redis70, servers::Options::default()).unwrap());
        ok(&mut second.client().unwrap(), &format!("REPLICAOF 127.0.0.1 {}", first.port()));
        let address = Forwarder::start(&first.address()).unwrap();
        let (old, new) = if side == "old" { (address.address(), plain.address()) } else { (plain.address(), address.address()) };
        let proxy = Proxy::start(&old, &new, Options::default()).unwrap();
        Failover { address, first, second, plain, proxy }
    }

    fn settle(&self) {
        let mut last = Json::Null;
        until("the mirror to be in step", PATIENCE, || {
            let before = std::mem::replace(&mut last, self.proxy.status()?);
            Ok(in_step(&last) && (before == Json::Null || in_step(&before)))
        })
        .unwrap_or_else(|error| panic!("{error}: {last}\n{}", self.proxy.log_tail()));
    }

    /// The replica is promoted behind the address, without what was acknowledged since it had lost its link.
    fn fail_over(&mut self) {
        self.settle();
        let (mut first, mut replica) = (self.first.client().unwrap(), self.second.client().unwrap());
        until("the replica to have everything", PATIENCE, || {
            let mark = "GET __twinlane:record";
            Ok(replica.cmd("HGET late:199 state")?.text() == "early" && replica.cmd(mark)? == first.cmd(mark)?)
        })
        .unwrap();
        ok(&mut replica, "REPLICAOF NO ONE");
        let before = raised(&self.proxy.status().unwrap());
        write_late(&mut self.proxy.client().unwrap());
        self.settle();
        counted(|| self.proxy.status().unwrap(), before);
        let second = self.second.address();
        self.address.point_at(Some(&second));
        self.first.kill();
    }

    fn assert_equal(&self) {
        self.settle();
        compare(&self.second.address(), &self.plain.address(), &compare::Options::default()).unwrap().into_result().unwrap();
    }
}

#[test]
fn h11_a_mirror_that_fails_over_loses_nothing() {
    let mut fail = Failover::start("new");
    seed(&mut fail.proxy.client().unwrap());
    fail.fail_over();
    until("the failover to be noticed", PATIENCE, || Ok(fail.proxy.status()?["recent"]["forgotten"] == 1)).unwrap();
    fail.assert_equal();
    assert_eq!(state(&fail.second, 7), "late");
}

#[test]
fn h11_a_primary_that_fails_over_is_held_until_the_loss_is_accepted() {
    let mut fail = Failover::start("old");
    seed(&mut fail.proxy.client().unwrap());
    fail.fail_over();
    until("the failover to be noticed", PATIENCE, || Ok(fail.proxy.status()?["stage"] == "PRIMARY LOST DATA")).unwrap();
    assert_eq!((state(&fail.second, 7).as_str(), state(&fail.plain, 7).as_str()), ("early", "late"));
    assert_eq!(fail.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap().status, 200);
    fail.assert_equal();
    assert_eq!(state(&fail.plain, 7), "early");
}
