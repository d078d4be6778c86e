//! The backfill: a warm cache behind a fresh proxy, copied while clients use it. Begun, paused, slowed down, killed in the middle, cut off from
//! servers that come back as other processes; and what clients delete, rename, rewrite and let expire meanwhile comes out right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use twinlane_tests::asking::ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::Proxy;
use twinlane_tests::resp::{Client, command};
use twinlane_tests::servers::{Server, Version};

/// A pair whose `old` holds this many keys of every type before the proxy starts.
fn warm(keys: usize, mut setup: Setup, args: &[&str]) -> Pair {
    let old = Server::start(setup.old.0, setup.old.1).unwrap();
    let new = Server::start(setup.new.0, setup.new.1).unwrap();
    fill(&mut old.client().unwrap(), keys);
    setup.proxy.args.extend(args.iter().flat_map(|arg| ["--set".to_owned(), (*arg).to_owned()]));
    let proxy = Proxy::start(&old.address(), &new.address(), setup.proxy).unwrap();
    Pair { old, new, proxy }
}

fn plain() -> Setup {
    Setup::of(Version::Redis70, Version::Redis70)
}

fn fill(client: &mut Client, keys: usize) {
    let lines: Vec<_> = (0..keys).map(|at| command(&line(at))).collect();
    for chunk in lines.chunks(1_000) {
        let replies = client.pipeline(chunk).unwrap();
        assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
    }
}

fn line(at: usize) -> String {
    match at % 8 {
        0 => format!("SET key:{at} {at}"),
        1 => format!("SET key:{at} {at} PX {}", 600_000 + at),
        2 => format!("RPUSH key:{at} a b c {at}"),
        3 => format!("HSET key:{at} a 1 b {at}"),
        4 => format!("SADD key:{at} a b {at}"),
        5 => format!("ZADD key:{at} 1 a 2.5 b"),
        6 => format!("XADD key:{at} 1-1 a {at}"),
        _ => format!("PFADD key:{at} a b {at}"),
    }
}

fn look(pair: &Pair) -> Json {
    let answer = pair.proxy.get("/v1/backfill").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn tell(pair: &Pair, path: &str, body: &Json) -> (u16, Json) {
    let answer = pair.proxy.post(path, body).unwrap();
    (answer.status, answer.body)
}

fn done(answer: (u16, Json)) {
    assert_eq!(answer, (200, json!({"done": true})));
}

fn refused(answer: &(u16, Json), reason: &str) {
    assert!(answer.0 == 409 && answer.1["reasons"][0].as_str().unwrap().contains(reason), "{answer:?}");
}

fn wait(pair: &Pair, what: &str, mut holds: impl FnMut(&Json) -> bool) -> Json {
    let mut now = Json::Null;
    let found = until(what, PATIENCE, || {
        now = look(pair);
        Ok(holds(&now))
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {now}\n{}", pair.proxy.log_tail()));
    now
}

fn wait_keys(pair: &Pair, keys: u64) -> Json {
    wait(pair, &format!("{keys} keys"), |now| now["keys_done"].as_u64() >= Some(keys))
}

fn wait_done(pair: &Pair) -> Json {
    wait(pair, "the end of the backfill", |now| now["state"] == "done")
}

/// As fast as it goes, where a test has slowed it down.
const FAST: u64 = 1_000_000;

#[test]
fn it_is_slowed_down_paused_and_ended() {
    let pair = warm(3_000, plain(), &["backfill.rate_max=400"]);
    let going = |now: &Json| now["keys_done"].as_u64() > Some(0) && now["keys_estimate"] == 3_000 && now["waits_for"].is_null();
    let now = wait(&pair, "some keys", going);
    assert!(now["state"] == "running" && now["rate_limit"] == 400, "{now}");
    refused(&tell(&pair, "/v1/backfill", &json!({})), "a backfill is under way");
    refused(&tell(&pair, "/v1/backfill/resume", &json!({})), "not paused");
    wait(&pair, "a rate", |now| now["rate"].as_u64() > Some(0) && now["eta_s"].is_u64() && now["bytes_per_second"].as_u64() > Some(0));

    done(tell(&pair, "/v1/backfill/pause", &json!({})));
    let rest = wait(&pair, "what is in hand to be restored", |now| now["state"] == "paused" && now["waiting"] == 0);
    assert!(rest["keys_done"].as_u64() < Some(3_000) && rest["eta_s"].is_null(), "{rest}");
    refused(&tell(&pair, "/v1/backfill", &json!({"rate": 5})), "it go on");
    refused(&tell(&pair, "/v1/cutover", &json!({})), "the backfill is paused");
    // What clients write is mirrored all the same.
    ok(&mut pair.client().unwrap(), "APPEND key:0 more");
    until("the written key", PATIENCE, || Ok(pair.new.client()?.cmd("GET key:0")?.text() == "0more")).unwrap();
    assert_eq!(look(&pair)["keys_done"], rest["keys_done"]);

    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": FAST})));
    done(tell(&pair, "/v1/backfill/resume", &json!({})));
    let end = wait_done(&pair);
    assert!(end["keys_done"] == 3_000 && end["keys_estimate"] == 3_000 && end["bytes_done"].as_u64() > Some(3_000 * 10), "{end}");
    assert_eq!(end["databases"], json!([]));
    refused(&tell(&pair, "/v1/backfill/pause", &json!({})), "no backfill is under way");
    pair.assert_equal().unwrap();
    // What is known to be equal is not copied again.
    done(tell(&pair, "/v1/backfill", &json!({})));
    assert_eq!((look(&pair)["state"].clone(), look(&pair)["bytes_done"].clone()), (json!("done"), end["bytes_done"].clone()));
    assert_eq!(pair.metric("twinlane_backfill_keys_total", "").unwrap(), 3_000.0);
    assert_eq!(pair.metric("twinlane_backfill_state", "done").unwrap(), 1.0);
}

/// The bound by bytes: keys of 10 kB at 200 kB a second.
#[test]
fn a_thin_line_bounds_the_bytes() {
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    let mut direct = old.client().unwrap();
    // Random bytes: DUMP does not make them smaller.
    let noise = "for i = 1, 60 do local t = {} for j = 1, 10000 do t[j] = string.char(math.random(0, 255)) end redis.call('SET', 'key:'..i, table.concat(t)) end";
    let _ = direct.call(&[b"EVAL", noise.as_bytes(), b"0"]).unwrap();
    let mut setup = plain();
    setup.proxy.args = ["--set", "backfill.bytes_rate_max=200000"].map(str::to_owned).into();
    let began = std::time::Instant::now();
    let proxy = Proxy::start(&old.address(), &new.address(), setup.proxy).unwrap();
    let pair = Pair { old, new, proxy };
    wait_done(&pair);
    let took = began.elapsed().as_secs_f64();
    // 600 kB at 200 kB a second; eight keys are in hand when the bound is met, and a tenth of a second is kept.
    assert!(took > 2.0, "{took}");
    pair.assert_equal().unwrap();
}

#[test]
fn what_does_not_begin_by_itself_begins_when_asked() {
    let mut pair = warm(500, plain(), &["mirror.backfill=off"]);
    let now = look(&pair);
    assert!(now["state"] == "idle" && now["reason"].as_str().unwrap().contains("is off"), "{now}");
    ok(&mut pair.client().unwrap(), "APPEND key:0 x");
    until("the written key", PATIENCE, || Ok(pair.new.client()?.cmd("GET key:0")?.text() == "0x")).unwrap();
    assert_eq!(ok(&mut pair.new.client().unwrap(), "EXISTS key:1 key:2 key:3").int(), Some(0), "nothing was copied unasked");
    refused(&tell(&pair, "/v1/backfill/pause", &json!({})), "no backfill is under way");
    done(tell(&pair, "/v1/backfill", &json!({"rate": FAST})));
    wait_done(&pair);
    pair.assert_equal().unwrap();
    // What it proved outlives the process.
    pair.wait_status("the journal to be complete", |status| status["journal"]["complete"] == true).unwrap();
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    wait_done(&pair);
    assert_eq!(pair.metric("twinlane_backfill_keys_total", "").unwrap(), 0.0);
    pair.assert_equal().unwrap();

    assert_eq!(tell(&pair, "/v1/mirror/stop", &json!({})).0, 200);
    assert_eq!((look(&pair)["state"].clone(), look(&pair)["reason"].clone()), (json!("idle"), json!("mirroring is off")));
    refused(&tell(&pair, "/v1/backfill", &json!({})), "mirroring is off");
}

/// A cursor stored before a restart of the server is accepted by the new process, whose table has another order, and keys are skipped in silence.
#[test]
fn h43_a_primary_that_was_started_anew_is_walked_from_the_beginning() {
    let mut pair = warm(4_000, plain().old_persists(), &["backfill.rate_max=1500"]);
    wait_keys(&pair, 1_500);
    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": 300})));
    pair.old.restart_with_data().unwrap();
    wait(&pair, "the walk to begin anew", |now| now["keys_done"].as_u64() < Some(1_500));
    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": FAST})));
    wait_done(&pair);
    pair.assert_equal().unwrap();

    // The same with the proxy away meanwhile, whose journal has the cursor.
    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": 1_000})));
    pair.new.restart_empty().unwrap();
    wait(&pair, "the mirror to be copied anew", |now| {
        now["state"] == "running" && (500..3_000).contains(&now["keys_done"].as_u64().unwrap())
    });
    pair.proxy.kill9();
    pair.old.restart_with_data().unwrap();
    pair.proxy.restart().unwrap();
    assert!(pair.proxy.log().contains("`old` is not the server that the journal knew"), "{}", pair.proxy.log_tail());
    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": FAST})));
    wait_done(&pair);
    assert!(pair.metric("twinlane_backfill_keys_total", "").unwrap() >= 4_000.0);
    pair.assert_equal().unwrap();
}

/// The walk goes on where the process died: no key in front of the cursor is walked again but those of one page, none is missed.
#[test]
fn h43_a_killed_proxy_goes_on_at_its_cursor() {
    let mut pair = warm(4_000, plain(), &["backfill.rate_max=1500"]);
    for part in 1..=3u64 {
        wait_keys(&pair, part * 1_000);
        pair.proxy.kill9();
        // What is written while no proxy runs belongs to nobody; what was written before must be there.
        let far = |now: &Json| assert!(now["keys_done"].as_u64() > Some(part * 1_000 - 400), "behind {part}000 keys: {now}");
        let told = |now: &Json| now["keys_estimate"].as_u64() >= Some(4_000);
        if part == 2 {
            // It is told also while the walk cannot go on yet.
            pair.new.freeze().unwrap();
            pair.proxy.restart().unwrap();
            let now = wait(&pair, "the walk to be told", told);
            assert_eq!(now["waits_for"], "`new` is not connected", "{now}");
            far(&now);
            pair.new.thaw().unwrap();
        } else {
            pair.proxy.restart().unwrap();
        }
        far(&wait(&pair, "the walk to go on", |now| told(now) && now["waits_for"].is_null()));
    }
    done(tell(&pair, "/v1/backfill/rate", &json!({"rate": FAST})));
    wait_done(&pair);
    let walked = pair.metric("twinlane_backfill_keys_total", "").unwrap();
    assert!(walked < 2_000.0, "{walked} of 4000 keys were walked behind the last kill");
    pair.assert_equal().unwrap();
}

/// Everything that can happen to a key between SCAN and its image, by clients who do not wait for one another.
#[test]
fn what_clients_do_meanwhile_comes_out_right() {
    let pair = warm(6_000, plain(), &["backfill.rate_max=2000"]);
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4usize)
        .map(|number| {
            let (mut client, ended) = (pair.client().unwrap(), ended.clone());
            std::thread::spawn(move || {
                let mut turn = number * 7_919;
                let mut replies = 0;
                while !ended.load(Ordering::Relaxed) {
                    turn = turn.wrapping_mul(6_364_136_223).wrapping_add(1_442_695_041);
                    let (at, other) = ((turn >> 16) % 6_000, (turn >> 30) % 6_000);
                    let lines = [
                        format!("DEL key:{at}"),
                        line(at),
                        format!("RENAME key:{at} key:{other}"),
                        format!("RENAME key:{other} moved:{}", at % 100),
                        format!("COPY moved:{} key:{at} REPLACE", other % 100),
                        format!("PEXPIRE key:{other} {}", 1 + turn % 300),
                        line(other),
                        format!("PERSIST key:{}", (at + 1) % 6_000),
                        format!("SET key:{} other KEEPTTL", (other + 1) % 6_000),
                        format!("APPEND key:{} more", (at + 2) % 6_000),
                        format!("HSET key:{} c {turn}", (at / 8) * 8 + 3),
                        format!("XADD key:{} * a b", (other / 8) * 8 + 6),
                        format!("LPOP key:{}", (at / 8) * 8 + 2),
                        format!("SPOP key:{}", (other / 8) * 8 + 4),
                        format!("MOVE key:{} 3", (at + 3) % 6_000),
                    ];
                    let commands: Vec<_> = lines.iter().map(|line| command(line)).collect();
                    replies += client.pipeline(&commands).unwrap().len();
                }
                replies
            })
        })
        .collect();
    wait_keys(&pair, 1_000);
    done(tell(&pair, "/v1/backfill/pause", &json!({})));
    wait(&pair, "the pause", |now| now["state"] == "paused");
    done(tell(&pair, "/v1/backfill/resume", &json!({})));
    wait_done(&pair);
    ended.store(true, Ordering::Relaxed);
    let replies: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(replies > 1_000, "{replies}");
    until("what has a short time to live to die", PATIENCE, || {
        let mut dying = false;
        for server in [&pair.old, &pair.new] {
            let mut client = server.client()?;
            let keys = client.cmd("KEYS *")?;
            let asked: Vec<_> = keys.items().iter().map(|key| [b"PTTL".to_vec(), key.bytes().unwrap_or_default().to_vec()]).collect();
            dying |= client.pipeline(&asked)?.iter().any(|left| left.int().is_some_and(|left| (0..5_000).contains(&left)));
        }
        Ok(!dying)
    })
    .unwrap();
    pair.assert_equal().unwrap();
}

/// What can never be copied is named, shuts the gate, and is tried again when the operator asks for it.
#[test]
fn what_cannot_be_copied_is_a_failure_and_no_end() {
    let setup = plain().new_args(&["--proto-max-bulk-len", "1mb"]);
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::start(setup.new.0, setup.new.1).unwrap());
    fill(&mut old.client().unwrap(), 200);
    let mut noise = vec![0u8; 2 << 20];
    let mut seed = 1u64;
    for byte in &mut noise {
        // Without order, so that DUMP does not make it small.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (seed >> 40) as u8;
    }
    let _ = old.client().unwrap().call(&[b"SET", b"large", &noise]).unwrap();
    let proxy = Proxy::start(&old.address(), &new.address(), setup.proxy).unwrap();
    let pair = Pair { old, new, proxy };
    let now = wait(&pair, "the failure", |now| now["state"] == "failed");
    assert!(now["reason"].as_str().unwrap().contains("1 keys cannot be copied to `new`"), "{now}");
    assert_eq!(ok(&mut pair.new.client().unwrap(), "EXISTS key:0 key:199").int(), Some(2), "all the others are there");
    assert_eq!(pair.proxy.cutover().unwrap().status, 409);

    ok(&mut pair.new.client().unwrap(), "CONFIG SET proto-max-bulk-len 512mb");
    done(tell(&pair, "/v1/backfill", &json!({})));
    wait_done(&pair);
    pair.assert_equal().unwrap();
    let status = pair.proxy.status().unwrap();
    assert_eq!(status["alarms"], json!([]), "{status}");
}

/// A mirror with fewer databases: the others are copied, and it is said that one cannot be.
#[test]
fn a_database_that_the_mirror_does_not_have_is_a_failure() {
    let setup = plain().new_args(&["--databases", "4"]);
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::start(setup.new.0, setup.new.1).unwrap());
    let mut direct = old.client().unwrap();
    for db in [9, 2, 0] {
        ok(&mut direct, &format!("SELECT {db}"));
        fill(&mut direct, 100);
    }
    let proxy = Proxy::start(&old.address(), &new.address(), setup.proxy).unwrap();
    let pair = Pair { old, new, proxy };
    let now = wait(&pair, "the failure", |now| now["state"] == "failed");
    assert!(now["reason"].as_str().unwrap().contains("does not have database 9"), "{now}");
    let mut new = pair.new.client().unwrap();
    ok(&mut new, "SELECT 2");
    assert_eq!(ok(&mut new, "DBSIZE").int(), Some(100));
    assert_eq!(pair.proxy.cutover().unwrap().status, 409);
}
