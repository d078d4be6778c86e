//! The ledger for people, on real servers: what is in doubt and why, what is known of one key, repairs that an operator asks for, and the gate
//! that a verify opens.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use serde_json::{Value as Json, json};
use std::process::Command;
use twinlane_tests::asking::ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, in_step, until};
use twinlane_tests::proxy::binary;
use twinlane_tests::resp::{Client, Value, command};

fn get(pair: &Pair, path: &str) -> Json {
    let answer = pair.proxy.get(path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

fn post(pair: &Pair, path: &str, body: Json) -> Json {
    let answer = pair.proxy.post(path, &body).unwrap();
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    answer.body
}

/// A whole verify.
fn verify(pair: &Pair) -> Json {
    pair.proxy.verify(PATIENCE).unwrap()
}

#[test]
fn keys_in_doubt_are_listed_oldest_first_with_their_causes() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET quiet x");
    pair.settle().unwrap();
    assert_eq!(get(&pair, "/v1/dirty"), json!({"total": 0, "spilled": 0, "by_cause": {}, "items": [], "databases": []}));
    pair.new.freeze().unwrap();
    ok(&mut client, "SET first:secret x");
    // The effect of the first is in flight: the others wait for it until the mirror is behind its bound.
    pair.wait_status("the effects to collapse", |status| status["mirror"]["state"] != "following").unwrap();
    for n in 0..20 {
        ok(&mut client, &format!("RPUSH list:{n} a"));
    }
    let shown = get(&pair, "/v1/dirty?reveal=true&limit=5");
    assert_eq!(shown["items"].as_array().unwrap().len(), 5, "{shown}");
    assert!(shown["total"].as_u64() >= Some(20) && shown["by_cause"].as_object().is_some_and(|causes| !causes.is_empty()), "{shown}");
    let times: Vec<i64> = shown["items"].as_array().unwrap().iter().map(|item| item["first_seen"].as_i64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 1_600_000_000_000, "{shown}");
    let listed = |item: &&Json| item["key"].as_str().unwrap().starts_with("list:");
    let first = shown["items"].as_array().unwrap().iter().find(listed).unwrap();
    assert!(first["state"] == "dirty" && first["db"] == 0, "{shown}");
    let hidden = get(&pair, "/v1/dirty").to_string();
    assert!(hidden.contains("list:*") && !hidden.contains("list:1\""), "{hidden}");
    pair.new.thaw().unwrap();
    pair.settle().unwrap();
    assert_eq!(get(&pair, "/v1/dirty")["total"], 0);
    pair.assert_equal().unwrap();
}

#[test]
fn a_database_in_doubt_is_listed_with_its_cause() {
    let pair = Pair::begin(Setup::with_args(&["--set", "mirror.backfill=off"])).unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.wait_status("both sides", |status| status["old"]["healthy"] == true && status["new"]["healthy"] == true).unwrap();
    let shown = get(&pair, "/v1/dirty");
    let causes: Vec<&Json> = shown["databases"].as_array().unwrap().iter().map(|database| &database["cause"]).collect();
    assert_eq!(causes, ["start"], "{shown}");
    post(&pair, "/v1/mirror/stop", json!({}));
    post(&pair, "/v1/mirror/start", json!({}));
    let shown = get(&pair, "/v1/dirty");
    assert!(shown["databases"][0]["cause"] == "mirroring_off" && shown["databases"][0]["first_seen"].is_i64(), "{shown}");
}

/// Type, time to live and digest of both sides at one position, and who wrote last.
#[test]
fn a_key_is_explained() {
    // What reaches a mirror behind its bounds is no effect of a command, but an image.
    let pair = Pair::start(Setup::with_args(&["--set", "mirror.queue_age_max_ms=60000"])).unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "CLIENT SETNAME writer");
    for line in ["HSET h a 1 b 2", "HSET h c 3", "EXPIRE h 1000", "RPUSH l a b", "SADD s a b c", "ZADD z 0.1 a", "XADD x * f v", "SPOP s"] {
        ok(&mut client, line);
    }
    pair.settle().unwrap();
    let told = get(&pair, "/v1/explain?key=h");
    assert_eq!((&told["primary"], &told["old"]["type"], &told["new"]["type"]), (&json!("old"), &json!("hash"), &json!("hash")), "{told}");
    assert!(told["old"]["digest"].is_string() && told["old"]["digest"] == told["new"]["digest"], "{told}");
    let ttl = |side: &str| told[side]["ttl_ms"].as_i64().unwrap();
    assert!(["old", "new"].iter().all(|side| (900_000..=1_010_000).contains(&ttl(side))), "{told}");
    let commands: Vec<&str> = told["writes"].as_array().unwrap().iter().map(|write| write["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["EXPIRE", "HSET", "HSET"], "{told}");
    let writer = &told["writes"][0]["client"];
    assert!(writer["name"] == "writer" && writer["connected"] == true && !writer["address"].as_str().unwrap().is_empty(), "{told}");
    assert_eq!(get(&pair, "/v1/explain?key=s")["writes"][0]["effect"], "rewritten", "SPOP");
    for key in ["l", "s", "z", "x"] {
        let told = get(&pair, &format!("/v1/explain?key={key}"));
        assert!(told["old"]["digest"].is_string() && told["old"]["digest"] == told["new"]["digest"], "{told}");
        assert_eq!(told["dirty"], Json::Null, "{told}");
    }
    // Somebody else changes the mirror.
    ok(&mut pair.new.client().unwrap(), "HSET h a other");
    let told = get(&pair, "/v1/explain?key=h");
    assert_ne!(told["old"]["digest"], told["new"]["digest"], "{told}");
    drop(client);
    until("the client to be gone", PATIENCE, || Ok(pair.proxy.status()?["clients"] == 0)).unwrap();
    let told = get(&pair, "/v1/explain?key=h");
    assert!(told["writes"][0]["client"]["name"] == "writer" && told["writes"][0]["client"]["connected"] == false, "{told}");
    let absent = get(&pair, "/v1/explain?key=nothing&db=0");
    assert!(absent["old"]["type"] == "none" && absent["old"]["ttl_ms"] == -2 && absent["writes"] == json!([]), "{absent}");
}

/// What is printed of a key that is no text can be pasted back: here the string "abc" as Java serialises it.
#[test]
fn a_key_that_is_no_text_is_named_as_it_is_printed() {
    const KEY: &[u8] = b"\xac\xed\x00\x05t\x00\x03abc";
    const PRINTED: &str = "\\xac\\xed\\x00\\x05t\\x00\\x03abc";
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    client.call(&[b"SET", KEY, b"right"]).unwrap();
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    mirror.call(&[b"SET", KEY, b"wrong"]).unwrap();
    let query = PRINTED.replace('\\', "%5C");
    let told = get(&pair, &format!("/v1/explain?key={query}"));
    assert!(told["key"] == PRINTED && told["old"]["type"] == "string" && told["writes"][0]["command"] == "SET", "{told}");
    assert_ne!(told["old"]["digest"], told["new"]["digest"], "{told}");
    post(&pair, "/v1/repair", json!({"key": PRINTED}));
    pair.settle().unwrap();
    assert_eq!(mirror.call(&[b"GET", KEY]).unwrap().text(), "right");
    mirror.call(&[b"SET", KEY, b"wrong"]).unwrap();
    assert_eq!(verify(&pair)["differing"]["value"], 1);
    assert_eq!(get(&pair, "/v1/divergences?reveal=true")["items"][0]["key"], PRINTED);
}

/// A database that nobody has used has no connection yet, and one that is not there never has: each is said.
#[test]
fn a_key_of_a_database_that_nobody_uses_is_explained() {
    let pair = Pair::plain().unwrap();
    pair.wait_status("both sides", |status| status["old"]["healthy"] == true && status["new"]["healthy"] == true).unwrap();
    let refused = |path: &str| {
        let answer = pair.proxy.get(path).unwrap();
        assert_eq!(answer.status, 409, "{path}: {}", answer.body);
        answer.body["reasons"][0].as_str().unwrap().to_owned()
    };
    let first = refused("/v1/explain?key=k&db=9");
    assert!(first.ends_with("is being opened: ask again"), "{first}");
    let mut told = Json::Null;
    until("both connections to be opened", PATIENCE, || {
        let answer = pair.proxy.get("/v1/explain?key=k&db=9")?;
        told = answer.body;
        Ok(answer.status == 200)
    })
    .unwrap();
    assert_eq!((&told["old"]["type"], &told["new"]["type"]), (&json!("none"), &json!("none")), "{told}");
    assert_eq!(refused("/v1/explain?key=k&db=99"), "`old` has no database 99");
    assert_eq!(refused("/v1/explain?key=__twinlane:record"), "keys of this prefix are the proxy's own");
    let answer = pair.proxy.post("/v1/repair", &json!({"key": "k", "db": 99})).unwrap();
    assert_eq!((answer.status, &answer.body["reasons"][0]), (409, &json!("`old` has no database 99")));
}

#[test]
fn what_the_mirror_does_not_follow_is_explained_from_the_primary_alone() {
    let mut pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET k v");
    pair.settle().unwrap();
    pair.new.kill();
    pair.wait_status("the mirror to be down", |status| status["mirror"]["state"] == "down").unwrap();
    ok(&mut client, "APPEND k w");
    let told = get(&pair, "/v1/explain?key=k");
    assert!(told["old"]["digest"].is_string() && told["new"]["digest"].is_null() && told["new"]["unread"].is_string(), "{told}");
    assert_eq!((&told["dirty"]["state"], &told["writes"][0]["effect"]), (&json!("dirty"), &json!("collapsed")), "{told}");
}

/// A confirmed difference names the command that wrote the key last.
#[test]
fn a_divergence_names_the_last_command() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET k v");
    ok(&mut client, "APPEND k w");
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    ok(&mut mirror, "SET k other");
    ok(&mut mirror, "SET nobody x");
    assert_eq!(verify(&pair)["differing"]["value"], 1);
    let found = get(&pair, "/v1/divergences?reveal=true");
    let command = |key: &str| found["items"].as_array().unwrap().iter().find(|item| item["key"] == key).unwrap()["command"].clone();
    assert_eq!((command("k"), command("nobody")), (json!("APPEND"), Json::Null), "{found}");
}

#[test]
fn keys_of_a_pattern_are_repaired_and_no_others() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    for n in 0..300 {
        ok(&mut client, &format!("SET user:{n} {n}"));
        ok(&mut client, &format!("SET other:{n} {n}"));
    }
    pair.settle().unwrap();
    let mut mirror = pair.new.client().unwrap();
    for n in 0..300 {
        ok(&mut mirror, &format!("SET user:{n} wrong"));
    }
    ok(&mut mirror, "SET other:7 wrong");
    post(&pair, "/v1/repair", json!({"pattern": "user:*", "db": 0}));
    until("the repair to end", 5 * PATIENCE, || Ok(get(&pair, "/v1/repair")["state"] == "done")).unwrap();
    assert_eq!(get(&pair, "/v1/repair")["keys_marked"], 300);
    pair.settle().unwrap();
    assert_eq!(ok(&mut mirror, "GET user:211").text(), "211");
    assert_eq!(ok(&mut mirror, "GET other:7").text(), "wrong", "nobody asked for it");
    post(&pair, "/v1/repair", json!({"all": true}));
    pair.assert_equal().unwrap();
    let answer = pair.proxy.post("/v1/repair", &json!({"all": true, "key": "k"})).unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
}

/// All of `user:*` is wrong on the mirror, and their repair, which is slow, has begun.
fn slow_repair(keys: usize) -> Pair {
    let pair = Pair::start(Setup::with_args(&["--set", "mirror.repair_rate_max=1000"])).unwrap();
    let set = |client: &mut Client, value: &str| {
        let lines: Vec<_> = (0..keys).map(|n| command(&format!("SET user:{n} {value}"))).collect();
        lines.chunks(2_000).for_each(|chunk| assert!(client.pipeline(chunk).unwrap().iter().all(Value::is_ok)));
    };
    set(&mut pair.client().unwrap(), "right");
    pair.settle().unwrap();
    set(&mut pair.new.client().unwrap(), "wrong");
    post(&pair, "/v1/repair", json!({"pattern": "user:*", "db": 0}));
    until("some to be marked", PATIENCE, || Ok(get(&pair, "/v1/repair")["keys_marked"].as_u64() > Some(500))).unwrap();
    pair
}

/// H43: a cursor belongs to one life of one server. A repair that goes on with the old primary's cursor on the new one leaves out keys, and they
/// differ for ever.
#[test]
fn h43_a_repair_by_pattern_begins_anew_when_the_roles_move() {
    let pair = slow_repair(20_000);
    pair.cutover().unwrap();
    assert_eq!(get(&pair, "/v1/repair")["state"], "running", "the flip came too late to show anything");
    until("the repair to end", 5 * PATIENCE, || Ok(get(&pair, "/v1/repair")["state"] == "done")).unwrap();
    assert!(pair.proxy.log().contains("the repair of a pattern begins anew: the roles have moved"), "{}", pair.proxy.log_tail());
    assert!(get(&pair, "/v1/repair")["keys_marked"].as_u64() >= Some(20_000));
    pair.settle().unwrap();
    pair.assert_equal().unwrap();
}

/// H35: what was to be repaired has another number behind SWAPDB.
#[test]
fn h35_a_repair_by_pattern_follows_swapdb() {
    let pair = slow_repair(20_000);
    ok(&mut pair.client().unwrap(), "SWAPDB 0 3");
    assert_eq!(get(&pair, "/v1/repair")["state"], "running", "SWAPDB came too late to show anything");
    until("the repair to end", 5 * PATIENCE, || Ok(get(&pair, "/v1/repair")["state"] == "done")).unwrap();
    assert_eq!(get(&pair, "/v1/repair")["db"], 3);
    pair.settle().unwrap();
    pair.assert_equal().unwrap();
}

/// Keys in doubt are healed at the rate that the operator allows; a flip is not made to wait for it.
#[test]
fn repairs_have_a_rate() {
    let pair = Pair::start(Setup::with_args(&["--set", "mirror.repair_rate_max=100"])).unwrap();
    let mut client = pair.client().unwrap();
    (0..400).for_each(|n| _ = ok(&mut client, &format!("SET key:{n} {n}")));
    pair.settle().unwrap();
    let images = || pair.metric("twinlane_images_total", "").unwrap();
    let (before, begun) = (images(), std::time::Instant::now());
    post(&pair, "/v1/repair", json!({"pattern": "key:*"}));
    until("half of them to be repaired", PATIENCE, || Ok(images() - before >= 200.0)).unwrap();
    // A rate is a bound: two hundred keys take no less than two seconds, however slow the machine is, but for the tenth of a second that may be in
    // hand when it begins, and one tick.
    let (copied, took) = (images() - before, begun.elapsed().as_secs_f64());
    assert!(copied <= 100.0 * took + 11.0, "{copied} keys in {took} s");
    pair.settle().unwrap();
    pair.assert_equal().unwrap();
}

/// The gate that the operator asked for: no cutover without a verify that is clean and fresh.
#[test]
fn a_cutover_may_require_a_verify() {
    let pair = Pair::start(Setup::with_args(&["--set", "cutover.require_verify=fresh"])).unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.settle().unwrap();
    let refused = |answer: twinlane_tests::proxy::Answer| {
        assert_eq!(answer.status, 409, "{}", answer.body);
        assert!(answer.body["reasons"].to_string().contains("require_verify"), "{}", answer.body);
    };
    refused(pair.proxy.post("/v1/cutover", &json!({"dry_run": true})).unwrap());
    refused(pair.proxy.post("/v1/cutover", &json!({})).unwrap());
    assert_eq!(verify(&pair)["clean"], true);
    until("the gate to open", PATIENCE, || Ok(pair.proxy.post("/v1/cutover", &json!({"dry_run": true}))?.status == 200)).unwrap();
    pair.cutover().unwrap();
    // The way back asks for none.
    pair.settle().unwrap();
    pair.rollback().unwrap();
    pair.assert_equal().unwrap();
}

/// H29: what was found says nothing of a time in which a side was not observed.
#[test]
fn h29_a_gap_in_observation_ends_the_freshness_of_a_verify() {
    let mut pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    (0..50).for_each(|n| _ = ok(&mut client, &format!("SET key:{n} {n}")));
    pair.settle().unwrap();
    let fresh = |pair: &Pair| get(pair, "/v1/verify")["fresh"].clone();
    let warned = |pair: &Pair| get(pair, "/v1/readiness").to_string().contains("not-verified");
    assert!(warned(&pair), "there was none yet");
    verify(&pair);
    assert!(fresh(&pair) == true && !warned(&pair), "{}", get(&pair, "/v1/verify"));
    // 1. Nothing was mirrored for a while.
    post(&pair, "/v1/mirror/stop", json!({}));
    post(&pair, "/v1/mirror/start", json!({}));
    assert!(fresh(&pair) == false && warned(&pair));
    pair.settle().unwrap();
    verify(&pair);
    assert_eq!(fresh(&pair), true);
    // 2. The mirror was away.
    let connects = pair.connects("new");
    pair.new.kill();
    pair.wait_status("the mirror to be down", |status| status["mirror"]["state"] == "down").unwrap();
    assert_eq!(fresh(&pair), false);
    pair.new.restart_empty().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    pair.settle().unwrap();
    assert_eq!(fresh(&pair), false, "that it is connected again proves nothing");
    assert_eq!(verify(&pair)["clean"], true);
    assert_eq!(fresh(&pair), true);
}

/// What the last verify found is shown by the next process, and proves nothing there: nobody observed the sides in between.
#[test]
fn a_verify_outlives_the_process_and_is_not_fresh_then() {
    let mut pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    (0..50).for_each(|n| _ = ok(&mut client, &format!("SET key:{n} {n}")));
    pair.settle().unwrap();
    let found = verify(&pair);
    assert!(found["fresh"] == true && found["clean"] == true, "{found}");
    let kept = pair.proxy.state_dir().join("verify");
    until("it to be kept", PATIENCE, || Ok(kept.is_file())).unwrap();
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    let recalled = get(&pair, "/v1/verify");
    assert_eq!((&recalled["state"], &recalled["fresh"], &recalled["clean"]), (&json!("done"), &json!(false), &json!(true)), "{recalled}");
    assert_eq!((&recalled["keys_compared"], &recalled["as_of"]), (&found["keys_compared"], &found["as_of"]));
    pair.settle().unwrap();
    assert_eq!(verify(&pair)["fresh"], true);
}

/// What scripts build on: JSON where it was asked for, and exit codes.
#[test]
fn the_command_line_answers_scripts() {
    let pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.settle().unwrap();
    let admin = pair.proxy.admin_url().replace("http://", "");
    let twinlane = |line: &str| {
        let words = line.split(' ');
        let output = Command::new(binary().unwrap()).args(words).env("TWINLANE__ADMIN__ADDRESS", &admin).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, told, _) = twinlane("verify --json");
    assert_eq!((code, serde_json::from_str::<Json>(&told).unwrap()), (0, json!({"done": true})));
    pair.proxy.verified(PATIENCE).unwrap();
    let (code, told, _) = twinlane("backfill --json");
    assert_eq!((code, serde_json::from_str::<Json>(&told).unwrap()), (0, json!({"done": true})));
    let (code, told, _) = twinlane("repair --delete-extra");
    assert!(code == 0 && told.starts_with("nothing to delete"), "{code} {told}");
    ok(&mut pair.new.client().unwrap(), "SET stranger x");
    assert_eq!(verify(&pair)["differing"]["extra"], 1);
    let (code, told, _) = twinlane("repair --delete-extra");
    assert!(code == 0 && told.contains("--confirm 1"), "{code} {told}");
    let (code, _, told) = twinlane("repair --delete-extra --confirm 7");
    assert!(code == 1 && told.contains("nothing was done"), "{code} {told}");
    assert_eq!(ok(&mut pair.new.client().unwrap(), "GET stranger").text(), "x");
    assert_eq!(twinlane("repair --delete-extra --confirm 1").0, 0);
    pair.assert_equal().unwrap();
    assert_eq!(twinlane("repair").0, 2);
    let (code, told, _) = twinlane("audit");
    assert!(code == 0 && told.lines().all(|line| line.get(23..24) == Some("Z")), "a moment begins each line: {told}");
    assert!(told.lines().next().unwrap().contains("/v1/repair {\"confirm\":1,\"delete_extra\":true}: 200 {\"done\":true}"), "{told}");
}

#[test]
fn what_operators_did_is_written_down() {
    let mut pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.wait_status("the gate to open", |status| in_step(status) && status["gate"] == json!([])).unwrap();
    pair.cutover().unwrap();
    let refused = pair.proxy.post("/v1/mirror/stop", &json!({})).unwrap();
    assert_eq!(refused.status, 409);
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    let told = get(&pair, "/v1/audit?limit=99");
    // A cutover that is refused for something that passes is asked for again.
    let passed = |item: &&Json| item["what"] == "/v1/cutover" && item["outcome"].as_str().unwrap().starts_with("409 ");
    let items: Vec<&Json> = told["items"].as_array().unwrap().iter().filter(|item| !passed(item)).collect();
    let what: Vec<&str> = items.iter().map(|item| item["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["start", "/v1/mirror/stop", "/v1/cutover", "start"], "{told}");
    let outcome = |at: usize| items[at]["outcome"].as_str().unwrap();
    assert!(outcome(1).starts_with("409 ") && outcome(2).starts_with("200 ") && outcome(2).contains("\"primary\":\"new\""), "{told}");
    assert!(
        items[2]["who"].as_str().unwrap().starts_with("127.0.0.1:") && items[0]["outcome"].as_str().unwrap().contains("epoch 2"),
        "{told}"
    );
}
