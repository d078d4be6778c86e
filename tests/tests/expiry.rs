//! Keys that die, on real servers (H3, H16, H32): what each level of knowledge about the primary's expiry guarantees.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use serde_json::{Value as Json, json};
use twinlane_tests::asking::ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::Client;
use twinlane_tests::servers::{Server, Version};

fn expiry(pair: &Pair) -> Json {
    pair.proxy.status().unwrap()["expiry"].clone()
}

fn events_on(version: Version) -> Setup {
    Setup::of(version, version).old_args(&["--notify-keyspace-events", "AKE"])
}

fn wait_followed(pair: &Pair) {
    until("expiry to be followed", PATIENCE, || Ok(expiry(pair)["mode"] == "followed")).unwrap();
}

/// The boundary: keys of every kind die on the primary, and partial writes make new ones while the mirror, whose times carry the margin,
/// still has the old ones. Every reply is the same on both sides.
fn cross_the_boundary(pair: &Pair, rounds: usize) {
    // COPY came with 6.2.
    let copies = pair.old.version() != Version::Redis50;
    let mut client = pair.client().unwrap();
    for round in 0..rounds {
        let keys = ["HSET h{} old 1", "SADD s{} old", "ZADD z{} 1 old", "SETBIT b{} 3 1", "PFADD p{} old", "XADD x{} * f old", "SET n{} 0"];
        let mut lines: Vec<String> = Vec::new();
        for at in 0..30 {
            for key in keys {
                let line = key.replace("{}", &at.to_string());
                let name = line.split(' ').nth(1).unwrap().to_owned();
                lines.push(format!("DEL {name}"));
                lines.push(line);
                lines.push(format!("PEXPIRE {name} {}", 60 + at * 3));
            }
        }
        lines.iter().for_each(|line| drop(ok(&mut client, line)));
        let mut direct = pair.old.client().unwrap();
        // Each is written the moment it is dead there.
        for at in 0..30 {
            until("the keys to die", PATIENCE, || Ok(direct.cmd(&format!("PTTL n{at}"))?.int() == Some(-2))).unwrap();
            for line in [
                "HSET h{} new 1",
                "SADD s{} new",
                "ZADD z{} 1 new",
                "SETBIT b{} 9 1",
                "PFADD p{} new",
                "XADD x{} * f new",
                "INCR n{}",
                "SUNIONSTORE union{} s{} more{}",
                "COPY h{} copied{} REPLACE",
            ] {
                if copies || !line.starts_with("COPY") {
                    ok(&mut client, &line.replace("{}", &at.to_string()));
                }
            }
        }
        pair.assert_equal().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        let mut mirror = pair.new.client().unwrap();
        assert_eq!(ok(&mut mirror, "HKEYS h7").to_string(), ok(&mut direct, "HKEYS h7").to_string());
        assert_eq!(ok(&mut mirror, "HLEN h7").int(), Some(1), "the mirror kept a field of the dead hash");
        assert_eq!(ok(&mut mirror, "PTTL h7").int(), Some(-1), "the mirror kept the dead hash's time");
    }
}

/// H16 where the primary sends no events: the mirror is asked around the writes.
#[test]
fn h16_compared_a_key_made_anew_at_the_boundary_is_equal() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey91] {
        let pair = Pair::start(Setup::of(version, version)).unwrap();
        until("the setting to be read", PATIENCE, || Ok(expiry(&pair)["command"].is_string())).unwrap();
        assert_eq!(expiry(&pair)["mode"], "compared");
        assert_eq!(expiry(&pair)["command"], "CONFIG SET notify-keyspace-events Exe");
        cross_the_boundary(&pair, 2);
        assert!(expiry(&pair)["probes"].as_u64().unwrap() > 0);
        assert_eq!(expiry(&pair)["events"], 0);
    }
}

/// H16 where the primary sends events: they tell, and the mirror is asked nothing.
#[test]
fn h16_followed_a_key_made_anew_at_the_boundary_is_equal() {
    for version in [Version::Redis50, Version::Redis70, Version::Valkey91] {
        let pair = Pair::start(events_on(version)).unwrap();
        wait_followed(&pair);
        cross_the_boundary(&pair, 2);
        assert!(expiry(&pair)["events"].as_u64().unwrap() > 0);
    }
}

/// Without a key that has a time to live nobody pays.
#[test]
fn h16_nothing_is_asked_where_no_key_has_a_time_to_live() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    for at in 0..200 {
        ok(&mut client, &format!("HSET h{} f {at}", at % 9));
        ok(&mut client, &format!("INCR n{}", at % 9));
    }
    pair.assert_equal().unwrap();
    assert_eq!(expiry(&pair)["probes"], 0);
}

/// A key that is evicted on the primary is gone on the mirror; one that dies unseen too.
#[test]
fn h16_followed_evicted_keys_go_on_the_mirror() {
    let pair =
        Pair::start(events_on(Version::Redis70).old_args(&["--notify-keyspace-events", "Exe", "--maxmemory-policy", "allkeys-random"]))
            .unwrap();
    wait_followed(&pair);
    let mut client = pair.client().unwrap();
    for at in 0..1_000 {
        ok(&mut client, &format!("SET big:{at} {}", "v".repeat(1_000)));
    }
    pair.settle().unwrap();
    let mut direct = pair.old.client().unwrap();
    let info = ok(&mut direct, "INFO memory").text();
    let used: u64 = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap();
    ok(&mut direct, &format!("CONFIG SET maxmemory {}", used - 300_000));
    ok(&mut client, "SET trigger 1");
    until("keys to be evicted", PATIENCE, || Ok(ok(&mut direct, "DBSIZE").int().unwrap() < 900)).unwrap();
    ok(&mut direct, "CONFIG SET maxmemory 0");
    until("both sides to be equal", PATIENCE, || Ok(pair.settle().is_ok() && pair.compare().is_ok())).unwrap();
}

/// A number in the server's INFO.
fn info(direct: &mut Client, field: &str) -> u64 {
    let info = ok(direct, "INFO").text();
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap().trim().parse().unwrap()
}

/// Has the primary evict some hundred keys; `meanwhile` runs again and again until it has.
fn evict(direct: &mut Client, mut meanwhile: impl FnMut(&mut Client)) {
    let (used, before) = (info(direct, "used_memory"), info(direct, "evicted_keys"));
    ok(direct, "CONFIG SET maxmemory-policy allkeys-random");
    meanwhile(direct);
    ok(direct, &format!("CONFIG SET maxmemory {}", used - 300_000));
    until("keys to be evicted", PATIENCE, || {
        meanwhile(direct);
        Ok(info(direct, "evicted_keys") >= before + 200)
    })
    .unwrap();
    ok(direct, "CONFIG SET maxmemory 0");
}

/// A pair whose gate asks for a verify, hashes on it, and a verify that opened the gate.
fn proven(setup: Setup) -> Pair {
    let mut setup = setup;
    setup.proxy.args.extend(["--set", "cutover.require_verify=fresh"].map(String::from));
    let pair = Pair::start(setup).unwrap();
    let mut client = pair.client().unwrap();
    for at in 0..2_000 {
        ok(&mut client, &format!("HSET hash:{at} a {} b {at}", "v".repeat(500)));
    }
    pair.settle().unwrap();
    verify(&pair);
    pair
}

fn verify(pair: &Pair) -> Json {
    pair.proxy.verify(PATIENCE).unwrap()
}

fn evicts(status: &Json) -> bool {
    status["alarms"].to_string().contains("EVICTS KEYS")
}

/// H29 where nobody names the evicted keys: the primary gives up hashes, and a client's next HSET makes a new one there and joins the
/// old one on the mirror, with the same reply. What a verify had proved is proved no longer, and it is said. A verify
/// finds the keys that only the mirror has; and when events are turned on, everything is copied anew.
#[test]
fn h29_compared_evictions_end_what_a_verify_has_proved() {
    let pair = proven(Setup::of(Version::Redis70, Version::Redis70));
    pair.wait_status("the gate to open", |status| status["gate"] == json!([]) && status["stage"] == "SYNCED").unwrap();
    assert!(pair.metric("twinlane_verify_proven", "").unwrap() > 0.0);
    let mut direct = pair.old.client().unwrap();
    evict(&mut direct, |_| ());
    let status = pair.wait_status("the evictions to be told", evicts).unwrap();
    assert_eq!(status["stage"], "MIRROR", "{status}");
    assert!(status["gate"].to_string().contains("no verify stands"), "{status}");
    assert!(pair.proxy.get("/v1/readiness").unwrap().body.to_string().contains("primary-evicts"));
    assert!(pair.metric("twinlane_verify_proven", "").unwrap() < 1.0);
    let mut client = pair.client().unwrap();
    assert_eq!(pair.proxy.post("/v1/cutover", &json!({})).unwrap().status, 409);
    // The proxy's own key may be among them, and comes back by itself.
    until("the mark to be there", PATIENCE, || Ok(ok(&mut direct, "EXISTS __twinlane:record").int() == Some(1))).unwrap();
    let gone = 2_000 - ok(&mut client, "DBSIZE").int().unwrap();
    let found = verify(&pair);
    assert_eq!(found["differing"]["extra"].as_i64(), Some(gone), "{found}");
    assert!(evicts(&pair.proxy.status().unwrap()), "the mirror has them still");
    for at in 0..2_000 {
        ok(&mut client, &format!("HSET hash:{at} new 1"));
    }
    ok(&mut direct, "CONFIG SET notify-keyspace-events Exe");
    pair.wait_status("everything to be copied anew", |status| !evicts(status)).unwrap();
    pair.assert_equal().unwrap();
    let found = verify(&pair);
    assert!(found["clean"] == true && found["fresh"] == true, "{found}");
    pair.cutover().unwrap();
}

/// H29 where events are followed: their connection is killed again and again while the primary evicts. That is told, and what
/// was evicted meanwhile goes on the mirror too.
#[test]
fn h29_followed_evictions_whose_events_were_lost_go_on_the_mirror() {
    let pair = proven(events_on(Version::Redis70));
    wait_followed(&pair);
    let mut direct = pair.old.client().unwrap();
    evict(&mut direct, |direct| drop(ok(direct, "CLIENT KILL TYPE pubsub")));
    until("the evictions to be told", PATIENCE, || Ok(pair.proxy.log().contains("THE PRIMARY EVICTS KEYS"))).unwrap();
    assert_eq!(pair.proxy.get("/v1/verify").unwrap().body["fresh"], false);
    wait_followed(&pair);
    pair.wait_status("everything to be copied anew", |status| !evicts(status)).unwrap();
    pair.assert_equal().unwrap();
    let found = verify(&pair);
    assert!(found["clean"] == true && found["fresh"] == true, "{found}");
    // Followed without a break, evictions are no gap.
    evict(&mut direct, |_| ());
    until("both sides to be equal", PATIENCE, || Ok(pair.settle().is_ok() && pair.compare().is_ok())).unwrap();
    assert_eq!(pair.proxy.get("/v1/verify").unwrap().body["fresh"], true);
    pair.cutover().unwrap();
    pair.assert_equal().unwrap();
}

/// A loss of events is a gap, whatever died meanwhile: a verify from before it proves nothing (H29).
#[test]
fn h29_lost_events_are_a_gap() {
    let pair = proven(events_on(Version::Redis70));
    wait_followed(&pair);
    assert_eq!(verify(&pair)["fresh"], true);
    ok(&mut pair.old.client().unwrap(), "CLIENT KILL TYPE pubsub");
    until("the gap to be noted", PATIENCE, || Ok(pair.proxy.get("/v1/verify").unwrap().body["fresh"] == false)).unwrap();
    wait_followed(&pair);
    assert_eq!(verify(&pair)["fresh"], true);
}

/// H3: the event connection is its own, so a large reply closes no lane; when it is lost, or the setting is turned off, the level falls
/// and says so, and what was written in trust of it is looked at; when it is back, so is the level.
#[test]
fn h03_events_are_followed_on_a_connection_of_their_own() {
    let pair = Pair::start(events_on(Version::Redis70)).unwrap();
    wait_followed(&pair);
    let mut direct = pair.old.client().unwrap();
    let list = ok(&mut direct, "CLIENT LIST").text();
    let event = list.lines().find(|line| line.contains("psub=3")).expect("nobody subscribes");
    assert!(event.contains(":events "), "{event}");
    assert!(list.lines().filter(|line| line.contains(":lane-")).all(|line| line.contains("sub=0 psub=0")), "{list}");
    let (mut client, connects) = (pair.client().unwrap(), pair.connects("old"));
    ok(&mut client, &format!("SET large {}", "x".repeat(500_000)));
    let large: Vec<_> = (0..100).map(|_| twinlane_tests::resp::command("GET large")).collect();
    assert!(client.pipeline(&large).unwrap().iter().all(|reply| reply.text().len() == 500_000));
    // Lost: it comes back by itself, and says both.
    ok(&mut client, "HSET h f 1");
    ok(&mut client, "PEXPIRE h 100000");
    ok(&mut client, "HSET h g 1");
    ok(&mut direct, "CLIENT KILL TYPE pubsub");
    until("the loss to be said", PATIENCE, || Ok(pair.proxy.log().contains("the connection for keyspace events ended"))).unwrap();
    wait_followed(&pair);
    // Turned off by somebody.
    ok(&mut direct, "CONFIG SET notify-keyspace-events KEA");
    ok(&mut direct, "CONFIG SET notify-keyspace-events E");
    until("the fall to be said", PATIENCE, || Ok(expiry(&pair)["mode"] == "compared")).unwrap();
    assert_eq!(expiry(&pair)["command"], "CONFIG SET notify-keyspace-events Exe");
    assert_eq!(pair.connects("old"), connects, "a lane was lost with it");
    pair.assert_equal().unwrap();
}

/// The proxy changes a server's configuration only where it is told to, and keeps what is set there.
#[test]
fn h16_events_are_turned_on_by_the_option_alone() {
    let setting = |pair: &Pair| pair.old.client().unwrap().cmd("CONFIG GET notify-keyspace-events").unwrap().items()[1].text();
    let pair = Pair::start(Setup::with_args(&[]).old_args(&["--notify-keyspace-events", "Kg"])).unwrap();
    until("the setting to be read", PATIENCE, || Ok(expiry(&pair)["command"].is_string())).unwrap();
    assert_eq!(setting(&pair), "gK");
    let pair =
        Pair::start(Setup::with_args(&["--set", "expiry.enable_events=true"]).old_args(&["--notify-keyspace-events", "Kg"])).unwrap();
    wait_followed(&pair);
    assert_eq!(setting(&pair), "gxeKE");
}

/// Waits until a hundred keys more have died on a server.
fn wait_dying(server: &Server) {
    let mut direct = server.client().unwrap();
    let mut died = || -> u64 {
        let info = ok(&mut direct, "INFO stats").text();
        info.lines().find_map(|line| line.strip_prefix("expired_keys:")).unwrap().trim().parse().unwrap()
    };
    let before = died();
    until("keys to die", PATIENCE, || Ok(died() >= before + 100)).unwrap();
}

/// A flip under short times to live: roles move while keys die, events move with the role, and both sides are equal.
#[test]
fn h16_flips_while_keys_die() {
    for setup in [events_on(Version::Redis70).new_args(&["--notify-keyspace-events", "AKE"]), Setup::of(Version::Redis70, Version::Redis70)]
    {
        let pair = Pair::start(setup).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for id in 0..3 {
                let (mut client, stop) = (pair.client().unwrap(), &stop);
                scope.spawn(move || {
                    for round in 0.. {
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            return;
                        }
                        let key = format!("h{id}:{}", round % 40);
                        ok(&mut client, &format!("HSET {key} f{} 1", round % 7));
                        ok(&mut client, &format!("PEXPIRE {key} {}", 20 + round % 90));
                        ok(&mut client, &format!("SADD s{id}:{} m{}", round % 40, round % 7));
                        ok(&mut client, &format!("PEXPIRE s{id}:{} {}", round % 40, 20 + round % 70));
                        // However fast the machine is, some key is not renewed in time.
                        ok(&mut client, &format!("SET once{id}:{round} 1 PX 25"));
                    }
                });
            }
            for _ in 0..2 {
                wait_dying(&pair.old);
                pair.cutover().unwrap();
                wait_dying(&pair.new);
                pair.rollback().unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut client = pair.client().unwrap();
        for at in 0..120 {
            ok(&mut client, &format!("HSET h{}:{} last 1", at % 3, at / 3));
        }
        pair.assert_equal().unwrap();
    }
}
