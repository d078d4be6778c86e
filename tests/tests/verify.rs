//! Verify on real servers: it finds every difference that is planted by a connection of its own, of every kind and in every type, and
//! none else; it reports nothing on an equal pair under contended writes, across versions, flips and a mirror that dies (I7).

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value as Json, json};
use twinlane_tests::asking::ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, Command, command};
use twinlane_tests::servers::Version;
use twinlane_tests::workload::{Options, Workload};

fn look(pair: &Pair) -> Json {
    pair.proxy.get("/v1/verify").unwrap().body
}

/// A whole verify.
fn verify(pair: &Pair) -> Json {
    pair.proxy.verify(PATIENCE * 3).unwrap()
}

fn assert_clean(pair: &Pair, result: &Json) {
    let found = pair.proxy.get("/v1/divergences?reveal=true").unwrap().body;
    assert!(result["clean"] == true && result["alive"] == true && result["fresh"] == true, "{result}\n{found}\n{}", pair.proxy.log_tail());
}

/// Database, key, kind.
type Found = BTreeSet<(u64, String, String)>;

fn divergences(pair: &Pair) -> Found {
    let body = pair.proxy.get("/v1/divergences?reveal=true").unwrap().body;
    let text = |item: &Json, name: &str| item[name].as_str().unwrap().to_owned();
    body["items"].as_array().unwrap().iter().map(|item| (item["db"].as_u64().unwrap(), text(item, "key"), text(item, "kind"))).collect()
}

/// Every type, small and large, with and without a time to live.
fn fill(client: &mut Client, keys: usize) {
    let mut commands: Vec<Command> = Vec::new();
    let mut line = |text: String| commands.push(command(&text));
    for n in 0..keys {
        line(format!("SET string:{n} value-{n}"));
        line(format!("SET volatile:{n} value-{n} EX {}", 1000 + n));
        line(format!("HSET hash:{n} a {n} b two"));
        line(format!("SADD set:{n} {n} b c d"));
        line(format!("SADD ints:{n} {n} 1 2 3"));
        line(format!("ZADD zset:{n} 0.1 a {n} b -1e30 c 3.0000000000000004 d"));
        line(format!("RPUSH list:{n} {n} b c"));
        line(format!("XADD stream:{n} {}-1 f {n}", n + 1));
        line(format!("XGROUP CREATE stream:{n} g 0"));
        line(format!("XREADGROUP GROUP g one STREAMS stream:{n} >"));
        line(format!("PFADD hll:{n} {n} b c"));
        line(format!("SETBIT bits:{n} {n} 1"));
    }
    for n in 0..3000 {
        line(format!("HSET big:hash field-{n} value-{n}"));
        line(format!("SADD big:set member-{n}"));
        line(format!("ZADD big:zset {n}.5 member-{n}"));
        line(format!("RPUSH big:list element-{n}"));
        line(format!("XADD big:stream {}-0 field value-{n}", n + 1));
    }
    line("XGROUP CREATE big:stream g 0".into());
    line("XREADGROUP GROUP g one COUNT 1500 STREAMS big:stream >".into());
    line(format!("SET big:string {}", "x".repeat(600_000)));
    for reply in client.pipeline(&commands).unwrap() {
        assert!(!reply.is_error(), "{reply}");
    }
}

/// Values above 64 KiB are large here, so that they are read in pieces.
fn pieces(setup: Setup) -> Setup {
    let mut setup = setup;
    setup.proxy.args.extend(["--set".to_owned(), "verify.large_bytes=65536".to_owned()]);
    setup
}

fn filled(setup: Setup) -> Pair {
    let pair = Pair::start(pieces(setup)).unwrap();
    let mut client = pair.client().unwrap();
    fill(&mut client, 40);
    ok(&mut client, "SELECT 3");
    ok(&mut client, "SET in-three x");
    pair.settle().unwrap();
    pair
}

#[test]
fn every_planted_difference_is_found_named_rightly_and_healed() {
    let pair = filled(Setup::of(Version::Redis70, Version::Redis70));
    assert_clean(&pair, &verify(&pair));
    assert!(divergences(&pair).is_empty());
    let mut mirror = pair.new.client().unwrap();
    let mut expect = Found::new();
    let mut plant = |db: u64, line: &str, kind: &str| {
        ok(&mut mirror, line);
        expect.insert((db, line.split(' ').nth(1).unwrap().to_owned(), kind.to_owned()));
    };
    for (line, kind) in [
        ("SET string:1 other", "value"),
        ("APPEND string:2 x", "value"),
        ("DEL string:3", "missing"),
        ("SET extra:1 x", "extra"),
        ("RPUSH extra:2 x", "extra"),
        ("EXPIRE string:4 1000", "ttl"),
        ("PERSIST volatile:4", "ttl"),
        ("EXPIRE volatile:5 5000", "ttl"),
        ("HSET hash:1 a other", "value"),
        ("HSET hash:2 c x", "value"),
        ("HDEL hash:3 b", "value"),
        ("SADD set:1 x", "value"),
        ("SREM set:2 b", "value"),
        ("SADD ints:2 77", "value"),
        ("ZADD zset:1 0.10000000000000002 a", "value"),
        ("ZREM zset:2 a", "value"),
        ("RPUSH list:1 d", "value"),
        ("LSET list:2 1 x", "value"),
        ("XADD stream:1 * f x", "value"),
        ("XDEL stream:2 3-1", "value"),
        ("XGROUP stream:3", "value"),
        ("XACK stream:4 g 5-1", "value"),
        ("PFADD hll:1 something else", "value"),
        ("SETBIT bits:1 900 1", "value"),
        ("HSET big:hash field-1234 other", "value"),
        ("LSET big:list 2222 other", "value"),
        ("ZADD big:zset 7 member-2999", "value"),
        ("SETRANGE big:string 400000 y", "value"),
        ("XACK big:stream g 1200-0", "value"),
    ] {
        match line {
            "XGROUP stream:3" => {
                ok(&mut pair.new.client().unwrap(), "XGROUP DESTROY stream:3 g");
                plant(0, "EXISTS stream:3", kind);
            }
            _ => plant(0, line, kind),
        }
    }
    // The same number of members, and one of them another.
    plant(0, "SREM big:set member-7", "value");
    plant(0, "SADD big:set member-x", "value");
    let other = ["DEL string:9", "RPUSH string:9 x"].map(command);
    assert!(pair.new.client().unwrap().pipeline(&other).unwrap().iter().all(|reply| !reply.is_error()));
    plant(0, "EXISTS string:9", "type");
    plant(0, "SELECT 3", "");
    plant(3, "SET in-three y", "value");
    plant(3, "SET only-there x", "extra");
    plant(0, "SELECT 5", "");
    plant(5, "SET only-there x", "extra");
    expect.retain(|(_, _, kind)| !kind.is_empty());
    let result = verify(&pair);
    assert_eq!(divergences(&pair), expect);
    let of = |kind: &str| expect.iter().filter(|found| found.2 == kind).count();
    for kind in ["missing", "extra", "type", "value", "ttl"] {
        assert_eq!(result["differing"][kind], of(kind), "{kind} in {result}");
    }
    assert!(result["clean"] == false && result["alive"] == true && result["unverifiable"] == 0, "{result}");
    assert_eq!(result["primary_only_until"], "never", "string:3 has no time to live: {result}");
    // What is not extra heals by itself, and what is extra stays.
    pair.settle().unwrap();
    let result = verify(&pair);
    assert_eq!(result["differing"], json!({"missing": 0, "extra": 4, "type": 0, "value": 0, "ttl": 0}), "{result}");
    let mut mirror = pair.new.client().unwrap();
    assert_eq!(ok(&mut mirror, "EXISTS extra:1 extra:2").int(), Some(2));
    // The operator is told what would go, and a wrong number is no word.
    let repair = |body: Json| pair.proxy.post("/v1/repair", &body).unwrap().body;
    for body in [json!({"delete_extra": true}), json!({"delete_extra": true, "confirm": 3})] {
        let told = repair(body);
        assert_eq!((&told["done"], &told["count"], &told["endpoint"]), (&json!(false), &json!(4), &json!("new")), "{told}");
        assert_eq!(told["samples"].as_array().unwrap().len(), 4);
    }
    assert_eq!(ok(&mut mirror, "EXISTS extra:1 extra:2").int(), Some(2));
    assert_eq!(repair(json!({"delete_extra": true, "confirm": 4})), json!({"done": true}));
    pair.assert_equal().unwrap();
    assert_clean(&pair, &verify(&pair));
}

/// H35: behind SWAPDB, a name that the operator was shown stands for another key, which nobody was told of: it is not deleted by his word.
#[test]
fn h35_what_swapdb_renamed_is_not_deleted_by_an_earlier_word() {
    let pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k right");
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    ok(&mut mirror, "SET extra shown");
    assert_eq!(verify(&pair)["differing"]["extra"], 1);
    ok(&mut pair.client().unwrap(), "SWAPDB 0 1");
    pair.settle().unwrap();
    ok(&mut mirror, "SET extra never-shown");
    let told = pair.proxy.post("/v1/repair", &json!({"delete_extra": true, "confirm": 1})).unwrap().body;
    assert_eq!((&told["done"], &told["count"]), (&json!(false), &json!(0)), "{told}");
    pair.settle().unwrap();
    assert_eq!(ok(&mut mirror, "GET extra").text(), "never-shown");
}

#[test]
fn one_key_is_repaired_and_what_only_the_mirror_has_is_not_deleted_by_that() {
    let pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k right");
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    ok(&mut mirror, "SET k wrong");
    ok(&mut mirror, "SET extra x");
    let repair = |key: &str| pair.proxy.post("/v1/repair", &json!({"key": key})).unwrap();
    assert_eq!(repair("k").body, json!({"done": true}));
    assert_eq!(repair("extra").status, 409);
    pair.settle().unwrap();
    assert_eq!(ok(&mut mirror, "GET k").text(), "right");
    assert_eq!(ok(&mut mirror, "GET extra").text(), "x");
}

/// I5: a repair of everything copies everything, and is not the operator's word that foreign keys go: they were told as extra before, and
/// are told so still. What was deleted while nothing was mirrored does go with the next start, and its number is told.
#[test]
fn i5_a_repair_of_everything_leaves_what_only_the_mirror_has() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    for n in 0..100 {
        ok(&mut client, &format!("SET k{n} {n}"));
    }
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    for line in ["SET foreign:1 x", "RPUSH foreign:2 x", "SET k1 wrong", "DEL k2"] {
        ok(&mut mirror, line);
    }
    let visited = || pair.proxy.status().unwrap()["mirror"]["scanned_keys"].as_u64().unwrap();
    let before = visited();
    assert_eq!(pair.proxy.post("/v1/repair", &json!({"all": true})).unwrap().body, json!({"done": true}));
    until("everything to be copied", PATIENCE, || Ok(visited() >= before + 100)).unwrap();
    pair.settle().unwrap();
    assert_eq!(ok(&mut mirror, "GET k1").text(), "1");
    assert_eq!(ok(&mut mirror, "GET k2").text(), "2");
    assert_eq!(ok(&mut mirror, "EXISTS foreign:1 foreign:2").int(), Some(2), "{}", pair.proxy.log_tail());
    let result = verify(&pair);
    assert_eq!(result["differing"], json!({"missing": 0, "extra": 2, "type": 0, "value": 0, "ttl": 0}), "{result}");
    for path in ["/v1/mirror/stop", "/v1/mirror/start"] {
        assert_eq!(pair.proxy.post(path, &json!({})).unwrap().status, 200);
        ok(&mut client, "DEL k3");
    }
    pair.assert_equal().unwrap();
    let told = "3 keys that only `new` had are deleted there";
    until("their number to be told", PATIENCE, || Ok(pair.proxy.log().contains(told))).unwrap();
}

/// H31: what a pass plants is hidden from clients and gone when it has ended.
#[test]
fn h31_what_is_planted_is_hidden_and_taken_away() {
    let pair = filled(Setup::of(Version::Redis70, Version::Redis70));
    let mut client = pair.client().unwrap();
    let size = ok(&mut client, "DBSIZE").int();
    assert_eq!(pair.proxy.post("/v1/verify", &json!({"rate": 20})).unwrap().status, 200);
    let mut direct = pair.old.client().unwrap();
    until("differences to be planted", PATIENCE, || Ok(direct.cmd("EXISTS __twinlane:verify:value")?.int() == Some(1))).unwrap();
    assert_eq!(ok(&mut client, "DBSIZE").int(), size);
    let keys = ok(&mut client, "KEYS *").items().iter().map(|key| key.text()).collect::<Vec<_>>();
    assert_eq!((keys.len() as i64, keys.iter().any(|key| key.starts_with("__twinlane:"))), (size.unwrap(), false));
    // It rests where it is, and goes on.
    assert_eq!(pair.proxy.post("/v1/verify/pause", &json!({})).unwrap().status, 200);
    assert_eq!(look(&pair)["state"], "paused");
    assert_eq!(pair.proxy.post("/v1/verify", &json!({})).unwrap().status, 409, "one at a time");
    assert_eq!(pair.proxy.post("/v1/verify/resume", &json!({})).unwrap().status, 200);
    assert_eq!(pair.proxy.post("/v1/verify/cancel", &json!({})).unwrap().status, 200);
    assert_eq!(look(&pair)["state"], "cancelled");
    until("what was planted to be taken away", PATIENCE, || Ok(direct.cmd("KEYS __twinlane:verify:*")?.items().is_empty())).unwrap();
    assert_eq!(ok(&mut client, "DBSIZE").int(), size);
    assert_clean(&pair, &verify(&pair));
    assert!(ok(&mut direct, "KEYS __twinlane:verify:*").items().is_empty());
    assert!(ok(&mut pair.new.client().unwrap(), "KEYS __twinlane:verify:*").items().is_empty());
}

/// I7: contended writes of every family, verify after verify, and no difference.
#[test]
fn i7_contended_writes_on_an_equal_pair_are_no_difference() {
    for args in [&[][..], &["--notify-keyspace-events", "KEA"]] {
        let pair = filled(Setup::of(Version::Redis70, Version::Redis70).old_args(args));
        let workload = Workload::start(&pair.proxy.address(), &Options { clients: 6, ..Options::default() }).unwrap();
        let begun = Instant::now();
        for _ in 0..5 {
            let result = verify(&pair);
            assert!(divergences(&pair).is_empty(), "{:?}\n{result}", divergences(&pair));
            assert!(result["alive"] == true && result["keys_compared"].as_u64() > Some(380), "{result}");
        }
        let summary = workload.stop();
        assert!(summary.is_clean() && summary.commands > 100, "{summary:#?} in {:?}", begun.elapsed());
        pair.assert_equal().unwrap();
        assert_clean(&pair, &verify(&pair));
    }
}

#[test]
fn i7_versions_that_write_the_same_values_differently_are_equal() {
    for (old, new) in [(Version::Redis50, Version::Redis70), (Version::Redis62, Version::Valkey91), (Version::Redis70, Version::Redis62)] {
        let pair = filled(Setup::of(old, new));
        let result = verify(&pair);
        assert_clean(&pair, &result);
        assert!(result["keys_compared"].as_u64() > Some(400), "{old:?} {new:?} {result}");
        let mut mirror = pair.new.client().unwrap();
        for line in
            ["HSET hash:7 a other", "SREM set:7 b", "ZADD zset:7 5 a", "LSET list:7 0 x", "XACK stream:7 g 8-1", "APPEND string:7 x"]
        {
            ok(&mut mirror, line);
        }
        let result = verify(&pair);
        assert_eq!(result["differing"], json!({"missing": 0, "extra": 0, "type": 0, "value": 6, "ttl": 0}), "{old:?} {new:?} {result}");
        pair.settle().unwrap();
        assert_clean(&pair, &verify(&pair));
    }
}

/// H43: a cursor is valid for one life of a server.
#[test]
fn h43_a_mirror_that_is_killed_in_the_middle_begins_the_pass_anew() {
    let mut pair = filled(Setup::of(Version::Redis70, Version::Redis70));
    assert_clean(&pair, &verify(&pair));
    let connects = pair.connects("new");
    assert_eq!(pair.proxy.post("/v1/verify", &json!({"rate": 80})).unwrap().status, 200);
    until("some keys to be compared", PATIENCE, || Ok(look(&pair)["keys_compared"].as_u64() > Some(50))).unwrap();
    pair.new.kill();
    until("the pass to wait", PATIENCE, || Ok(look(&pair)["state"] == "waiting")).unwrap();
    assert_eq!(look(&pair)["last"]["fresh"], false, "the mirror was not observed since");
    pair.new.restart_empty().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    let result = pair.proxy.verified(PATIENCE * 3).unwrap();
    assert_clean(&pair, &result);
    assert!(result["keys_compared"].as_u64() > Some(380), "{result}");
    assert!(divergences(&pair).is_empty());
}

#[test]
fn a_flip_in_the_middle_begins_the_pass_anew_and_is_not_held_up() {
    let pair = filled(Setup::of(Version::Redis70, Version::Redis70));
    let workload = Workload::start(&pair.proxy.address(), &Options { clients: 4, ..Options::default() }).unwrap();
    for flip in [Pair::cutover, Pair::rollback] {
        assert_eq!(pair.proxy.post("/v1/verify", &json!({"rate": 80})).unwrap().status, 200);
        until("some keys to be compared", PATIENCE, || Ok(look(&pair)["keys_compared"].as_u64() > Some(30))).unwrap();
        flip(&pair).unwrap();
        assert!(look(&pair)["restarts"].as_u64() >= Some(1));
        let result = pair.proxy.verified(PATIENCE * 3).unwrap();
        assert!(divergences(&pair).is_empty(), "{:?}", divergences(&pair));
        assert!(result["alive"] == true && result["keys_compared"].as_u64() > Some(380), "{result}");
    }
    let summary = workload.stop();
    assert!(summary.is_clean(), "{summary:#?}");
    pair.assert_equal().unwrap();
    assert_clean(&pair, &verify(&pair));
}

/// Without a backfill, what was never written through the proxy is on the primary only, and is not copied by a verify; the answer names the
/// moment by which it will be gone.
#[test]
fn without_a_backfill_the_date_of_the_last_old_key_is_told() {
    let mut setup = Setup::of(Version::Redis70, Version::Redis70);
    setup.proxy.args = ["--set", "mirror.backfill=off"].map(str::to_owned).into();
    let old = twinlane_tests::servers::Server::start(setup.old.0, setup.old.1).unwrap();
    let new = twinlane_tests::servers::Server::start(setup.new.0, setup.new.1).unwrap();
    let mut direct = old.client().unwrap();
    for line in ["SET soon x EX 500", "SET later x EX 2000"] {
        ok(&mut direct, line);
    }
    let proxy = twinlane_tests::proxy::Proxy::start(&old.address(), &new.address(), setup.proxy).unwrap();
    let pair = Pair { old, new, proxy };
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET through-the-proxy x");
    let deadline = ok(&mut direct, "TIME").items()[0].text().parse::<i64>().unwrap() * 1000 + ok(&mut direct, "PTTL later").int().unwrap();
    let result = verify(&pair);
    assert_eq!(result["differing"]["missing"], 2, "{result}");
    let until = result["primary_only_until"].as_i64().unwrap();
    assert!((until - deadline).abs() < 3_000, "{until} and {deadline}");
    assert_eq!(ok(&mut pair.new.client().unwrap(), "EXISTS soon later through-the-proxy").int(), Some(1), "a verify copied keys");
    ok(&mut direct, "PERSIST later");
    assert_eq!(verify(&pair)["primary_only_until"], "never");
    ok(&mut direct, "DEL soon later");
    let result = verify(&pair);
    assert!(result["clean"] == true && result["primary_only_until"].is_null(), "{result}");
}
