//! "Done when" 3: servers that die, freeze and forget, under load.
//!
//! A mirror may do anything: clients notice nothing, and when it is back both sides become equal without anybody's help (I5,
//! I6). A primary may be slow: clients wait, as they would without us. A primary that dies and comes back with its data costs
//! the connections that had a write in flight, nothing else: an error reply would say "not executed", which nobody knows (I2).
//! A primary that comes back *without* its data is the one case in which the mirror is not made equal by itself: it holds the
//! only good copy (H12), so the proxy says so, shuts the gate, deletes nothing, and waits for the operator, whose three
//! answers are the last three tests.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use twinlane_tests::compare::{self, compare};
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::Client;
use twinlane_tests::servers::{Server, Version};
use twinlane_tests::workload::{Options, Summary, Workload};

/// How long a primary stands still.
const FREEZE: Duration = Duration::from_secs(5);
/// How long a mirror does: a client that waited for half of it has noticed something, and no busy machine makes it wait as long.
const LONG_FREEZE: Duration = Duration::from_secs(12);
/// A client that waited this long has noticed a mirror that was away.
const NOTICED: Duration = Duration::from_secs(10);
/// What is held while the primary is away is held until it is back.
const PATIENT: [&str; 2] = ["--set", "primary.wait_ms=60000"];
const BIG: usize = 3 * 1024 * 1024;

fn load(pair: &Pair) -> Workload {
    let workload = Workload::start(&pair.proxy.address(), &Options { clients: 6, ..Options::default() }).unwrap();
    work_on(&workload, 2_000);
    workload
}

/// Waits until the clients have got `commands` more answers.
fn work_on(workload: &Workload, commands: u64) {
    let goal = workload.commands() + commands;
    until("the clients to go on", PATIENCE, || Ok(workload.commands() >= goal)).unwrap();
}

fn assert_clean(summary: &Summary) {
    assert!(summary.is_clean(), "{summary:#?}");
}

/// Writes values of 3 MB, one after the other, so that one is on its way whenever a server stops.
struct BigWriter {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration, String>>,
}

impl BigWriter {
    fn start(pair: &Pair) -> BigWriter {
        let (stop, sent, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut client = pair.client().unwrap();
        client.set_timeout(Duration::from_secs(20)).unwrap();
        let (stopped, sends, answers) = (stop.clone(), sent.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let number = sends.fetch_add(1, Ordering::Relaxed);
                let value = vec![b'a' + (number % 26) as u8; BIG];
                let begun = Instant::now();
                let reply = client.call(&[b"SET", format!("huge:{}", number % 3).as_bytes(), &value]).map_err(|error| error.to_string())?;
                longest = longest.max(begun.elapsed());
                if !reply.is_ok() {
                    return Err(format!("SET of 3 MB answers {reply}"));
                }
                answers.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(longest)
        });
        BigWriter { stop, sent, answered, thread }
    }

    fn in_flight(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > self.answered.load(Ordering::Relaxed)
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}

#[test]
fn a_mirror_killed_and_restarted_empty_is_made_equal_and_no_client_notices() {
    let mut pair = Pair::plain().unwrap();
    let workload = load(&pair);
    let connects = pair.connects("new");
    pair.new.kill();
    work_on(&workload, 2_000);
    pair.new.restart_empty().unwrap();
    work_on(&workload, 2_000);
    pair.wait_reconnected("new", connects).unwrap();
    work_on(&workload, 2_000);
    let summary = workload.stop();
    assert_clean(&summary);
    assert!(summary.longest_pause < NOTICED, "{summary:#?}");
    assert!(pair.assert_equal().unwrap().keys_compared > 30);
}

#[test]
fn a_frozen_mirror_is_not_noticed_with_three_megabytes_in_flight() {
    let pair = Pair::plain().unwrap();
    let big = BigWriter::start(&pair);
    let workload = load(&pair);
    until("a large value to be on its way to the mirror", PATIENCE, || {
        pair.new.freeze()?;
        // It takes no more, so what is queued for it stays.
        if pair.proxy.status()?["mirror"]["queued_bytes"].as_u64() >= Some(BIG as u64 / 2) {
            return Ok(true);
        }
        pair.new.thaw()?;
        Ok(false)
    })
    .unwrap();
    let thaw_at = Instant::now() + LONG_FREEZE;
    while Instant::now() < thaw_at {
        work_on(&workload, 200);
    }
    pair.new.thaw().unwrap();
    work_on(&workload, 2_000);
    let longest = big.stop();
    let summary = workload.stop();
    assert_clean(&summary);
    assert!(summary.longest_pause < LONG_FREEZE / 2 && longest < LONG_FREEZE / 2, "{longest:?} {summary:#?}");
    pair.assert_equal().unwrap();
}

#[test]
fn a_frozen_primary_makes_clients_wait_and_nothing_else() {
    let pair = Pair::plain().unwrap();
    let big = BigWriter::start(&pair);
    let workload = load(&pair);
    until("a large value to be on its way", PATIENCE, || Ok(big.in_flight())).unwrap();
    pair.old.freeze().unwrap();
    // The length of the fault, not a wait for anything.
    std::thread::sleep(FREEZE);
    assert!(big.in_flight());
    pair.old.thaw().unwrap();
    work_on(&workload, 2_000);
    big.stop();
    let summary = workload.stop();
    assert_clean(&summary);
    assert!(summary.longest_pause > FREEZE - Duration::from_millis(500), "{summary:#?}");
    pair.assert_equal().unwrap();
}

/// Reads all the time; what it sees must always be a value that was there.
fn reader(pair: &Pair, stop: &Arc<AtomicBool>) -> JoinHandle<Result<u64, String>> {
    let (stop, mut client) = (stop.clone(), pair.client().unwrap());
    client.set_timeout(Duration::from_secs(20)).unwrap();
    std::thread::spawn(move || {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            match client.cmd("GET constant") {
                Ok(reply) if reply.text() == "here" => reads += 1,
                other => return Err(format!("after {reads} reads: {other:?}")),
            }
        }
        Ok(reads)
    })
}

#[test]
fn a_primary_killed_and_restarted_with_its_data_costs_only_connections_with_a_write_in_flight() {
    let mut pair = Pair::start(Setup::with_args(&PATIENT).old_persists()).unwrap();
    let mut idle = pair.client().unwrap();
    idle.cmd("SET constant here").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2).map(|_| reader(&pair, &stop)).collect();
    let workload = load(&pair);
    for _ in 0..2 {
        let connects = pair.connects("old");
        pair.old.kill();
        pair.old.restart_with_data().unwrap();
        pair.wait_reconnected("old", connects).unwrap();
        work_on(&workload, 3_000);
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap().unwrap() > 100);
    }
    assert_eq!(idle.cmd("GET constant").unwrap().text(), "here", "an idle connection goes on");
    let summary = workload.stop();
    assert!(summary.errors == 0 && summary.broken_promises == 0, "{summary:#?}");
    let status = pair.settle().unwrap();
    assert_ne!(status["stage"], "PRIMARY LOST DATA", "{status}");
    // What an append-only file says of XREADGROUP (XCLAIM ... LASTID) does not bring a group's `entries-read` back: the primary
    // itself has forgotten that one figure, as a server without a proxy would have (redis 7.0.15 t_stream.c streamPropagateXCLAIM).
    let report = compare(&pair.old.address(), &pair.new.address(), &compare::Options::default()).unwrap();
    let forgotten = report.differences.iter().filter(|one| one.old.contains("entries-read")).count() as u64;
    assert_eq!(report.differing, forgotten, "{report}");
}

/// Clients that write keys of their own and remember what was acknowledged. A lost connection is replaced, an error is not
/// forgiven.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<BTreeMap<String, String>>>,
    writes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Writers {
    fn start(pair: &Pair) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let (written, writes) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicU64::new(0)));
        let threads = (0..3)
            .map(|id| {
                let (stop, written, writes, address) = (stop.clone(), written.clone(), writes.clone(), pair.proxy.address());
                std::thread::spawn(move || {
                    let mut client = Client::connect(&address).map_err(|error| error.to_string())?;
                    for cycle in 0u64.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let (key, value) = (format!("load:{id}:{}", cycle % 20), cycle.to_string());
                        match client.call(&[b"SET", key.as_bytes(), value.as_bytes()]) {
                            Ok(reply) if reply.is_ok() => {
                                written.lock().unwrap().insert(key, value);
                                writes.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(reply) => return Err(format!("SET answers {reply}")),
                            Err(_) => client = Client::connect(&address).map_err(|error| error.to_string())?,
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        Writers { stop, written, writes, threads }
    }

    fn go_on(&self) {
        let goal = self.writes.load(Ordering::Relaxed) + 300;
        until("the writers to go on", PATIENCE, || Ok(self.writes.load(Ordering::Relaxed) >= goal)).unwrap();
    }

    fn stop(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        self.written.lock().unwrap().clone()
    }
}

const SEEDED: usize = 300;

/// Data from before the loss, of several types, in two databases.
fn seed(pair: &Pair) {
    let mut client = pair.client().unwrap();
    for at in 0..SEEDED {
        client.cmd(&format!("SET seed:string:{at} {at}")).unwrap();
        client.cmd(&format!("HSET seed:hash:{at} a {at} b 2")).unwrap();
        client.cmd(&format!("RPUSH seed:list:{at} {at} 2 3")).unwrap();
    }
    client.cmd("SELECT 3").unwrap();
    client.cmd("SET seed:other there").unwrap();
    pair.assert_equal().unwrap();
}

fn holds_seed(server: &Server) -> bool {
    let mut client = server.client().unwrap();
    let mut all = true;
    for at in 0..SEEDED {
        all &= client.cmd(&format!("GET seed:string:{at}")).unwrap().text() == at.to_string();
        all &= client.cmd(&format!("HLEN seed:hash:{at}")).unwrap().int() == Some(2);
        all &= client.cmd(&format!("LLEN seed:list:{at}")).unwrap().int() == Some(3);
    }
    client.cmd("SELECT 3").unwrap();
    all && client.cmd("GET seed:other").unwrap().text() == "there"
}

/// Kills the primary under load and lets it come back empty; returns the writers, still at work.
fn lose_primary(pair: &mut Pair) -> Writers {
    seed(pair);
    let writers = Writers::start(pair);
    writers.go_on();
    let connects = pair.connects("old");
    pair.old.kill();
    writers.written.lock().unwrap().clear();
    pair.old.restart_empty().unwrap();
    pair.wait_reconnected("old", connects).unwrap();
    writers.go_on();
    writers
}

/// The named state: gate shut, nothing deleted, the writes of clients still reach the mirror.
fn assert_loss_is_held(pair: &Pair, writers: &Writers) {
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    writers.go_on();
    let refused = pair.proxy.cutover().unwrap();
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body["reasons"].to_string().contains("primary-lost"), "{}", refused.body);
    let status = pair.proxy.status().unwrap();
    assert!(status["alarms"].to_string().contains("PRIMARY LOST DATA"), "{status}");
    assert!(status["gate"].as_array().is_some_and(|gate| !gate.is_empty()), "{status}");
    assert!(holds_seed(&pair.new), "the mirror lost what it held");
    // A lane that is lost now changes nothing about that.
    writers.go_on();
    assert!(holds_seed(&pair.new), "the mirror lost what it held");
}

fn assert_holds(server: &Server, written: &BTreeMap<String, String>) {
    let mut client = server.client().unwrap();
    for (key, value) in written {
        assert_eq!(client.cmd(&format!("GET {key}")).unwrap().text(), *value, "{key}");
    }
}

#[test]
fn h12_a_primary_that_lost_its_data_is_left_by_a_forced_flip_with_all_data() {
    let mut pair = Pair::start(Setup::with_args(&PATIENT)).unwrap();
    let writers = lose_primary(&mut pair);
    assert_loss_is_held(&pair, &writers);
    pair.leave_lost_primary().unwrap();
    writers.go_on();
    let written = writers.stop();
    pair.assert_equal().unwrap();
    assert!(holds_seed(&pair.new) && holds_seed(&pair.old));
    assert_holds(&pair.new, &written);
    let status = pair.proxy.status().unwrap();
    assert_eq!((&status["primary"], &status["stage"]), (&json!("new"), &json!("SOAK")), "{status}");
}

#[test]
fn h12_a_loss_that_is_accepted_makes_the_mirror_equal_to_the_primary() {
    let mut pair = Pair::start(Setup::with_args(&PATIENT)).unwrap();
    let writers = lose_primary(&mut pair);
    assert_loss_is_held(&pair, &writers);
    let answer = pair.proxy.post("/v1/primary-loss/accept", &json!({})).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    writers.go_on();
    let written = writers.stop();
    let report = pair.assert_equal().unwrap();
    assert!(report.keys_compared <= written.len() as u64, "{report}");
    assert!(!holds_seed(&pair.new));
    assert_holds(&pair.old, &written);
}

#[test]
fn h12_with_follow_a_lost_primary_is_followed_at_once() {
    let mut pair = Pair::start(Setup::with_args(&["--on-primary-loss", "follow", PATIENT[0], PATIENT[1]])).unwrap();
    let writers = lose_primary(&mut pair);
    writers.go_on();
    let written = writers.stop();
    let report = pair.assert_equal().unwrap();
    assert!(report.keys_compared <= written.len() as u64, "{report}");
    let status = pair.proxy.status().unwrap();
    assert_eq!((&status["primary"], &status["stage"]), (&json!("old"), &json!("SYNCED")), "{status}");
}

/// A loss survives the proxy: the reserved key is missing on the primary, and a restarted proxy must not take the emptiness
/// for the truth.
#[test]
fn h12_a_loss_is_still_known_after_kill_9_of_the_proxy() {
    let mut pair = Pair::start(Setup::with_args(&PATIENT)).unwrap();
    let writers = lose_primary(&mut pair);
    pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    writers.stop.store(true, Ordering::Relaxed);
    pair.proxy.kill9();
    drop(writers);
    pair.proxy.restart().unwrap();
    let status = pair.wait_status("the named state", |status| status["stage"] == "PRIMARY LOST DATA").unwrap();
    assert!(holds_seed(&pair.new), "{status}");
    let server = pair.old.version();
    assert_eq!(server, Version::Redis70);
    pair.leave_lost_primary().unwrap();
    pair.assert_equal().unwrap();
    assert!(holds_seed(&pair.old));
}

/// A mirror that is made a replica refuses every write (READONLY), and goes on when it is promoted again.
#[test]
fn h27_a_mirror_that_is_a_replica_for_a_while_is_not_noticed() {
    let pair = Pair::plain().unwrap();
    let workload = load(&pair);
    let mut mirror = pair.new.client().unwrap();
    // Nobody listens there: it keeps its data and waits for its primary.
    mirror.cmd("REPLICAOF 127.0.0.1 1").unwrap();
    pair.wait_status("the refusal to be known", |status| status["mirror"]["cause"] == "READONLY").unwrap();
    pair.wait_status("the role to be known", |status| status["new"]["error"].to_string().contains("replica")).unwrap();
    work_on(&workload, 2_000);
    mirror.cmd("REPLICAOF NO ONE").unwrap();
    work_on(&workload, 2_000);
    let summary = workload.stop();
    assert_clean(&summary);
    assert!(summary.longest_pause < NOTICED, "{summary:#?}");
    pair.assert_equal().unwrap();
}

/// A mirror that reads its snapshot answers -LOADING; it is connected when it has read it, and gets what it forgot.
#[test]
fn h11_a_mirror_that_is_loading_is_waited_for() {
    let mut pair =
        Pair::start(Setup::with_args(&[]).new_args(&["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]))
            .unwrap();
    let mut client = pair.client().unwrap();
    for at in 0..1_500 {
        client.cmd(&format!("SET load:{at} {at}")).unwrap();
    }
    pair.settle().unwrap();
    pair.new.client().unwrap().cmd("SAVE").unwrap();
    let connects = pair.connects("new");
    let address = pair.new.address();
    let Pair { new, proxy, .. } = &mut pair;
    std::thread::scope(|scope| {
        let restarted = scope.spawn(|| new.restart_with_snapshot());
        until("the loading to be told", PATIENCE, || {
            client.cmd("INCR meanwhile")?;
            Ok(proxy.status()?["new"]["error"].to_string().contains("loading"))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
        // It has lasted long enough.
        Client::connect(&address).unwrap().cmd("CONFIG SET key-load-delay 0").unwrap();
        restarted.join().unwrap().unwrap();
    });
    pair.wait_reconnected("new", connects).unwrap();
    pair.assert_equal().unwrap();
}
