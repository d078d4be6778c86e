//! Blocking commands: sessions are parked in the proxy, the lane never waits (H20, H38, H57).
//!
//! What a client sees is asked of a plain server: the same clients, the same commands, the same order, once directly and once
//! through the proxy, whose replies must be the same. What no plain server can tell (who is put back, how often keys are looked at,
//! what a flip does to those who wait) has a test of its own. Every test ends with both sides equal.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::time::Instant;

use twinlane_tests::asking::{ok, pipeline};
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, command};
use twinlane_tests::servers::{Server, Version};

/// Waits until the proxy says that so many clients wait.
fn wait_parked(pair: &Pair, count: u64) {
    pair.wait_status(&format!("{count} clients to wait"), |status| status["blocked_clients"] == count).unwrap();
}

/// A client that has sent a blocking command and now waits, as the `count`th.
fn park(pair: &Pair, line: &str, count: u64) -> Client {
    let mut client = pair.client().unwrap();
    client.send(&command(line)).unwrap();
    wait_parked(pair, count);
    client
}

fn reply(client: &mut Client) -> String {
    client.reply().unwrap().to_string()
}

/// H20: Redis serves a waiter within the write that serves it. A retry behind the *reply* of the write would come behind whatever
/// was pipelined with it: LLEN would say 1, LPOP and DEL would take what is the waiter's.
#[test]
fn h20_a_waiter_is_served_before_whatever_follows_the_write() {
    let pair = Pair::plain().unwrap();
    let mut writer = pair.client().unwrap();
    for (then, expected) in [("LLEN l", "0"), ("LPOP l", "(nil)"), ("DEL l", "0"), ("LRANGE l 0 -1", "[]")] {
        let mut waiter = park(&pair, "BLPOP l 0", 1);
        assert_eq!(pipeline(&mut writer, &["LPUSH l x", then]), ["1", expected], "{then}");
        assert_eq!(reply(&mut waiter), r#"["l", "x"]"#, "{then}");
    }
    // Another session's commands do not come between either.
    let mut waiter = park(&pair, "BLPOP l 0", 1);
    let mut thieves: Vec<Client> = (0..8).map(|_| pair.client().unwrap()).collect();
    for round in 0..50 {
        thieves.iter_mut().for_each(|thief| thief.send(&command("LPOP l")).unwrap());
        writer.send(&command(&format!("RPUSH l {round}"))).unwrap();
        thieves.iter_mut().for_each(|thief| thief.send(&command("LPOP l")).unwrap());
        assert_eq!(reply(&mut waiter), format!(r#"["l", "{round}"]"#));
        assert_eq!(reply(&mut writer), "1");
        for thief in &mut thieves {
            assert_eq!([reply(thief), reply(thief)], ["(nil)", "(nil)"]);
        }
        waiter.send(&command("BLPOP l 0")).unwrap();
        wait_parked(&pair, 1);
    }
    drop(waiter);
    pair.assert_equal().unwrap();
}

/// One scene: what waits, in this order, and what is written then. `-` in front of a waiter: it is answered at once.
struct Scene {
    prepare: &'static [&'static str],
    waiters: &'static [&'static str],
    writes: &'static [&'static str],
    /// How many of the waiters are answered by the writes; the others are unblocked.
    served: &'static [usize],
    since: Since,
}

#[derive(PartialEq, PartialOrd, Clone, Copy)]
enum Since {
    V5,
    V62,
    V70,
}

const fn scene(
    since: Since,
    prepare: &'static [&'static str],
    waiters: &'static [&'static str],
    writes: &'static [&'static str],
    served: &'static [usize],
) -> Scene {
    Scene { prepare, waiters, writes, served, since }
}

use Since::{V5, V62, V70};

const SCENES: &[Scene] = &[
    scene(V5, &[], &["BLPOP a 0"], &["RPUSH a 1 2", "LRANGE a 0 -1"], &[0]),
    scene(V5, &[], &["BRPOP a 0", "BLPOP a 0"], &["RPUSH a 1 2 3", "LRANGE a 0 -1"], &[0, 1]),
    scene(V5, &[], &["BLPOP a b 0", "BLPOP b a 0"], &["RPUSH b 1", "RPUSH a 2", "EXISTS a b"], &[0, 1]),
    scene(V5, &[], &["BLPOP a 0", "BLPOP a 0", "BLPOP a 0"], &["RPUSH a 1 2", "LLEN a"], &[0, 1]),
    scene(V5, &[], &["BLPOP a 0"], &["SET a x", "DEL a", "SADD a x", "DEL a", "RPUSH a 1"], &[0]),
    scene(V5, &[], &["BLPOP a 0"], &["MULTI", "RPUSH a 1", "DEL a", "EXEC"], &[]),
    scene(V5, &[], &["BLPOP a 0"], &["MULTI", "RPUSH a 1", "RPUSH a 2", "EXEC", "LRANGE a 0 -1"], &[0]),
    scene(V5, &["RPUSH s 1 2"], &["BLPOP a 0"], &["RENAME s a", "LRANGE a 0 -1"], &[0]),
    scene(V5, &["RPUSH s 3 1 2"], &["BLPOP a 0", "BLPOP a 0"], &["SORT s STORE a", "LRANGE a 0 -1"], &[0, 1]),
    scene(V5, &["RPUSH s 1 2"], &["BLPOP a 0"], &["RPOPLPUSH s a", "EXISTS a"], &[0]),
    scene(V5, &["RPUSH s 1 2"], &["BLPOP a 0"], &["EVAL return(redis.call('rpoplpush',KEYS[1],KEYS[2])) 2 s a", "EXISTS a"], &[0]),
    scene(V5, &[], &["BRPOPLPUSH a b 0", "BLPOP b 0"], &["RPUSH a 1", "EXISTS a b"], &[0, 1]),
    scene(V5, &[], &["BRPOPLPUSH a b 0", "BRPOPLPUSH b a 0"], &["RPUSH a 1", "LRANGE a 0 -1"], &[0, 1]),
    scene(V5, &[], &["BRPOPLPUSH a a 0"], &["RPUSH a 1", "LRANGE a 0 -1"], &[0]),
    scene(V5, &["SET b x"], &["BRPOPLPUSH a b 0"], &["RPUSH a 1", "LRANGE a 0 -1"], &[0]),
    scene(V5, &[], &["BRPOPLPUSH a b 0"], &["SET a x", "DEL a", "RPUSH a 1", "LRANGE b 0 -1"], &[0]),
    scene(V5, &[], &["BZPOPMIN z 0", "BZPOPMAX z 0"], &["ZADD z 1 a 2.5 b 3 c", "ZRANGE z 0 -1"], &[0, 1]),
    scene(V5, &[], &["BZPOPMIN y z 0"], &["ZADD z inf a", "EXISTS z"], &[0]),
    scene(V5, &["ZADD s 1 a 2 b"], &["BZPOPMAX z 0"], &["ZUNIONSTORE z 1 s", "ZRANGE z 0 -1"], &[0]),
    scene(V5, &[], &["BZPOPMIN z 0", "BLPOP z 0"], &["RPUSH z 1", "DEL z", "ZADD z 1 a"], &[1, 0]),
    scene(V5, &["XADD s 1-1 f v"], &["XREAD BLOCK 0 STREAMS s $", "XREAD BLOCK 0 COUNT 1 STREAMS t s 0 1-1"], &["XADD s 2-1 f w"], &[0, 1]),
    scene(V5, &[], &["XREAD BLOCK 0 STREAMS s $"], &["XADD s 1-1 f v", "DEL s", "XLEN s"], &[0]),
    scene(
        V5,
        &["XGROUP CREATE s g $ MKSTREAM"],
        &["XREADGROUP GROUP g a BLOCK 0 STREAMS s >", "XREADGROUP GROUP g b BLOCK 0 STREAMS s >"],
        &["XADD s 1-1 f v", "XADD s 2-1 f w", "XLEN s"],
        &[0, 1],
    ),
    // Redis 5.0 tells it at the next XADD; here it is told at once.
    scene(V62, &["XGROUP CREATE s g $ MKSTREAM"], &["XREADGROUP GROUP g a BLOCK 0 STREAMS s >"], &["XGROUP DESTROY s g"], &[0]),
    scene(V70, &["XGROUP CREATE s g $ MKSTREAM"], &["XREADGROUP GROUP g a BLOCK 0 STREAMS s >"], &["DEL s"], &[0]),
    scene(V70, &["XGROUP CREATE s g $ MKSTREAM"], &["XREADGROUP GROUP g a BLOCK 0 STREAMS s >"], &["SET s x"], &[0]),
    scene(V70, &["XGROUP CREATE s g $ MKSTREAM"], &["XREADGROUP GROUP g a BLOCK 0 STREAMS s >"], &["FLUSHDB"], &[0]),
    scene(
        V62,
        &["RPUSH s 1 2"],
        &["BLMOVE a b LEFT RIGHT 0", "BLMOVE b c RIGHT LEFT 0"],
        &["LMOVE s a LEFT LEFT", "LRANGE c 0 -1"],
        &[0, 1],
    ),
    scene(V62, &["RPUSH s 1 2"], &["BLPOP a 0"], &["COPY s a", "LRANGE a 0 -1"], &[0]),
    scene(V5, &["SELECT 3", "RPUSH a 1 2", "SELECT 0"], &["BLPOP a 0"], &["SWAPDB 0 3", "LRANGE a 0 -1"], &[0]),
    scene(V5, &["SELECT 3", "RPUSH a 1 2"], &["BLPOP a 0"], &["MOVE a 0", "SELECT 0", "LRANGE a 0 -1"], &[0]),
    scene(V70, &[], &["BLMPOP 0 2 a b LEFT COUNT 2", "BLMPOP 0 1 b RIGHT"], &["RPUSH b 1 2 3 4", "LRANGE b 0 -1"], &[0, 1]),
    scene(V70, &[], &["BZMPOP 0 2 y z MIN COUNT 2"], &["ZADD z 1 a 2 b 3 c", "ZRANGE z 0 -1"], &[0]),
];

/// Plays a scene with `connect`; everything that anybody was answered. `parked` waits until so many wait.
fn play(scene: &Scene, resp3: bool, connect: &dyn Fn() -> Client, parked: &dyn Fn(usize)) -> Vec<String> {
    let mut said = Vec::new();
    let mut writer = connect();
    said.extend(pipeline(&mut writer, scene.prepare));
    let mut waiters = Vec::new();
    for line in scene.waiters {
        let mut waiter = connect();
        if resp3 {
            waiter.hello3().unwrap();
        }
        let id = ok(&mut waiter, "CLIENT ID").int().unwrap();
        waiter.send(&command(line)).unwrap();
        waiters.push((waiter, id));
        parked(waiters.len());
    }
    said.extend(pipeline(&mut writer, scene.writes));
    for at in scene.served {
        said.push(format!("waiter {at}: {}", reply(&mut waiters[*at].0)));
    }
    let rest = waiters.iter_mut().enumerate().filter(|(at, _)| !scene.served.contains(at));
    for (at, (waiter, id)) in rest {
        said.push(ok(&mut writer, &format!("CLIENT UNBLOCK {id} {}", if at % 2 == 0 { "ERROR" } else { "TIMEOUT" })).to_string());
        said.push(format!("waiter {at}: {}", reply(waiter)));
    }
    parked(0);
    ok(&mut writer, "FLUSHALL");
    said
}

fn blocked_on(server: &Server) -> usize {
    let info = server.client().unwrap().cmd("INFO clients").unwrap().text();
    info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).and_then(|n| n.trim().parse().ok()).unwrap()
}

/// Every scene, with RESP2 and RESP3 waiters, must read the same as on a plain server of the primary's version.
fn same_as_plain(version: Version) {
    let since = match version {
        Version::Redis50 => V5,
        Version::Redis62 => V62,
        _ => V70,
    };
    let (pair, plain) = (Pair::start(Setup::of(version, version)).unwrap(), Server::plain(version).unwrap());
    for scene in SCENES.iter().filter(|scene| scene.since <= since) {
        for resp3 in [false, true] {
            if resp3 && !version.has_resp3() {
                continue;
            }
            let expected = play(scene, resp3, &|| plain.client().unwrap(), &|count| {
                until("clients to wait", PATIENCE, || Ok(blocked_on(&plain) == count)).unwrap();
            });
            let said = play(scene, resp3, &|| pair.client().unwrap(), &|count| wait_parked(&pair, count as u64));
            assert_eq!(said, expected, "{version:?}, RESP3 {resp3}: {:?} then {:?}", scene.waiters, scene.writes);
        }
    }
    pair.assert_equal().unwrap();
}

#[test]
fn waiters_are_served_as_by_redis_5_0() {
    same_as_plain(Version::Redis50);
}

#[test]
fn waiters_are_served_as_by_redis_6_2() {
    same_as_plain(Version::Redis62);
}

#[test]
fn waiters_are_served_as_by_redis_7_0() {
    same_as_plain(Version::Redis70);
}

#[test]
fn waiters_are_served_as_by_valkey_8_1() {
    same_as_plain(Version::Valkey81);
}

/// What is answered at once: elements that are there, errors of arguments and types, times that pass, transactions.
#[test]
fn what_needs_no_wait_is_answered_as_by_a_plain_server() {
    for version in [Version::Redis50, Version::Redis62, Version::Redis70, Version::Valkey81] {
        let (pair, plain) = (Pair::start(Setup::of(version, version)).unwrap(), Server::plain(version).unwrap());
        for resp3 in [false, true] {
            if resp3 && !version.has_resp3() {
                continue;
            }
            let (mut proxied, mut direct) = (pair.client().unwrap(), plain.client().unwrap());
            if resp3 {
                proxied.hello3().unwrap();
                direct.hello3().unwrap();
            }
            let short = if version == Version::Redis50 { "1" } else { "0.01" };
            let lines = format!(
                "RPUSH l 1 2 3 4 5 6;ZADD z 1 a 2.5 b 3 c 4 d;XADD s 1-1 f v;SET t x;XGROUP CREATE s g 0;\
                 BLPOP l 0;BRPOP m l 0;BLPOP m n l 0;BRPOPLPUSH l l2 0;BLMOVE l l2 LEFT RIGHT 0;BLMPOP 0 2 m l LEFT COUNT 2;\
                 BZPOPMIN z 0;BZPOPMAX y z 0;BZMPOP 0 1 z MIN;XREAD BLOCK 0 STREAMS s 0;XREADGROUP GROUP g c BLOCK 0 STREAMS s >;\
                 BLPOP t 0;BLPOP m t 0;BZPOPMIN t 0;BRPOPLPUSH t l 0;BRPOPLPUSH l2 t 0;XREAD BLOCK 0 STREAMS t $;\
                 XREADGROUP GROUP nobody c BLOCK 0 STREAMS s >;BLPOP m -1;BLPOP m x;BLPOP t x;BLMOVE a b UP LEFT 0;BLMOVE a b UP LEFT x;\
                 BLMPOP 0 0 a LEFT;BLMPOP -1 1 a LEFT;BLMPOP x 1 a UP;BZMPOP 0 1 a MID;XREAD BLOCK -1 STREAMS s $;XREAD BLOCK x STREAMS s $;\
                 XREAD BLOCK 0 STREAMS s;XREAD BLOCK;BLPOP m;\
                 BLPOP m {short};BRPOP m n {short};BRPOPLPUSH m l {short};BLMOVE m l LEFT LEFT {short};BLMPOP {short} 1 m LEFT;\
                 BZPOPMIN m {short};BZPOPMAX m n {short};BZMPOP {short} 1 m MAX;XREAD BLOCK 5 STREAMS s $;\
                 XREADGROUP GROUP g c BLOCK 5 STREAMS s >;\
                 MULTI;RPUSH q 1 2 3;BLPOP m q 0;BRPOP q 0;BLPOP m 0;BRPOPLPUSH m q 0;BRPOPLPUSH q r 0;BZPOPMIN m 0;BZPOPMIN m z 0;\
                 XREAD BLOCK 0 STREAMS s $;XADD s 2-1 f w;XREADGROUP GROUP g c BLOCK 0 STREAMS s >;EXEC;\
                 LRANGE l 0 -1;LRANGE r 0 -1;ZRANGE z 0 -1;FLUSHALL"
            );
            let lines: Vec<&str> = lines.split(';').map(str::trim).collect();
            let (said, expected) = (pipeline(&mut proxied, &lines), pipeline(&mut direct, &lines));
            for ((line, said), expected) in lines.iter().zip(&said).zip(&expected) {
                assert_eq!(said, expected, "{version:?}, RESP3 {resp3}: {line}");
            }
        }
        pair.assert_equal().unwrap();
    }
}

/// H38: the retry is on its way when its client hangs up: what it pops is nobody's. It goes back to the end it came from.
#[test]
fn h38_what_was_popped_for_a_client_that_has_gone_is_put_back() {
    for (version, waits, write, look) in [
        (Version::Redis70, "BLPOP l 0", "RPUSH l 1 2", "LRANGE l 0 -1"),
        (Version::Redis70, "BRPOP l 0", "RPUSH l 1 2", "LRANGE l 0 -1"),
        (Version::Redis70, "BLMPOP 0 1 l RIGHT COUNT 2", "RPUSH l 1 2", "LRANGE l 0 -1"),
        (Version::Redis70, "BZPOPMIN z 0", "ZADD z 1.5 1 2 2", "ZRANGE z 0 -1"),
        (Version::Redis62, "BLPOP m l 0", "RPUSH l 1 2", "LRANGE l 0 -1"),
        (Version::Redis70, "BZMPOP 0 1 z MAX COUNT 5", "ZADD z 1.5 1 2 2", "ZRANGE z 0 -1"),
    ] {
        let pair = Pair::start(Setup::of(version, version)).unwrap();
        let waiter = park(&pair, waits, 1);
        let before = pair.metric("twinlane_client_bytes_total", "in").unwrap();
        pair.old.freeze().unwrap();
        let mut writer = pair.client().unwrap();
        writer.send(&command(write)).unwrap();
        until("the write to be taken", PATIENCE, || Ok(pair.metric("twinlane_client_bytes_total", "in").unwrap() > before)).unwrap();
        drop(waiter);
        wait_parked(&pair, 0);
        pair.wait_status("the client to be gone", |status| status["clients"] == 1).unwrap();
        pair.old.thaw().unwrap();
        assert_eq!(reply(&mut writer), "2", "{waits}");
        until("the element to be back", PATIENCE, || Ok(writer.cmd(look)?.to_string() == r#"["1", "2"]"#)).unwrap();
        pair.assert_equal().unwrap();
    }
}

fn calls(server: &Server, name: &str) -> u64 {
    let info = server.client().unwrap().cmd("INFO commandstats").unwrap().text();
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")).map(str::to_owned));
    line.and_then(|line| line.split(',').next().and_then(|n| n.parse().ok())).unwrap_or(0)
}

/// H57: a thousand clients wait for three keys, and some for keys of their own. Writers that bypass the proxy are noticed, in order;
/// what that costs is reads, one per key in turn, and a bounded number of them.
#[test]
fn h57_keys_are_looked_at_in_turn_and_never_once_per_client() {
    let pair = Pair::plain().unwrap();
    let mut waiters: Vec<Client> = (0..1000).map(|_| pair.client().unwrap()).collect();
    for (at, waiter) in waiters.iter_mut().enumerate() {
        let line = if at < 900 { format!("BLPOP shared:{} 0", at % 3) } else { format!("BZPOPMIN own:{at} 0") };
        waiter.send(&command(&line)).unwrap();
        // Requests on different sockets have no order until they are read: the first six, two of each key, wait in this one.
        if at < 6 {
            wait_parked(&pair, at as u64 + 1);
        }
    }
    wait_parked(&pair, 1000);
    let counts =
        |pair: &Pair| (calls(&pair.old, "llen") + calls(&pair.old, "zcard"), calls(&pair.old, "lpop") + calls(&pair.old, "zpopmin"));
    let ((looks, pops), begun) = (counts(&pair), Instant::now());
    until("some looks", PATIENCE, || Ok(counts(&pair).0 >= looks + 500)).unwrap();
    let (took, (looked, popped)) = (begun.elapsed(), counts(&pair));
    let most = took.as_secs_f64() * 800.0 + 100.0;
    assert!((looked - looks) as f64 <= most, "{} looks in {took:?}", looked - looks);
    assert_eq!(popped, pops, "a look pops nothing");
    // 103 keys at ten a second each would be 1,030: the shared ones are not looked at more often for having more clients.
    let mut direct = pair.old.client().unwrap();
    ok(&mut direct, "RPUSH shared:1 first second");
    assert_eq!(reply(&mut waiters[1]), r#"["shared:1", "first"]"#);
    assert_eq!(reply(&mut waiters[4]), r#"["shared:1", "second"]"#);
    ok(&mut direct, "ZADD own:950 1 m");
    assert_eq!(reply(&mut waiters[950]), r#"["own:950", "m", "1"]"#);
    wait_parked(&pair, 997);
    drop(waiters);
    wait_parked(&pair, 0);
    let rest = counts(&pair);
    // The proxy looks at the server itself once a second: in the time between two such looks, every key's turn would have come.
    let seconds = calls(&pair.old, "time");
    until("a second to pass in the proxy", PATIENCE, || Ok(calls(&pair.old, "time") >= seconds + 2)).unwrap();
    assert!(counts(&pair).0 <= rest.0 + 16, "nobody waits, and keys are still looked at");
}

/// A stream is looked at by its last id, and a consumer of a group gets what somebody wrote directly.
#[test]
fn h57_streams_written_directly_are_noticed() {
    let pair = Pair::plain().unwrap();
    let mut writer = pair.client().unwrap();
    ok(&mut writer, "XGROUP CREATE s g $ MKSTREAM");
    let mut reader = park(&pair, "XREAD BLOCK 0 STREAMS s $", 1);
    let mut member = park(&pair, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >", 2);
    ok(&mut pair.old.client().unwrap(), "XADD s 5-5 f v");
    let entry = r#"[["s", [["5-5", ["f", "v"]]]]]"#;
    assert_eq!([reply(&mut reader), reply(&mut member)], [entry, entry]);
}

/// A transaction that watches, and a write too large for the shared lane, run beside it under a fence: the waiter is served when the
/// fence is lowered, before those who waited behind it.
#[test]
fn what_is_written_beside_the_lane_serves_before_others_go_on() {
    let pair = Pair::plain().unwrap();
    let mut writer = pair.client().unwrap();
    let mut waiter = park(&pair, "BLPOP l 0", 1);
    let large = vec![b'v'; 1_500_000];
    writer.send(&[b"RPUSH".to_vec(), b"l".to_vec(), large.clone()]).unwrap();
    let mut thief = pair.client().unwrap();
    thief.send(&command("LPOP l")).unwrap();
    assert_eq!(waiter.reply().unwrap().items()[1].bytes(), Some(&large[..]));
    assert_eq!(reply(&mut writer), "1");
    assert_eq!(reply(&mut thief), "(nil)");
    let mut waiter = park(&pair, "BLPOP l 0", 1);
    assert_eq!(
        pipeline(&mut writer, &["WATCH l", "MULTI", "RPUSH l 1 2", "EXEC", "LRANGE l 0 -1"]),
        ["+OK", "+OK", "+QUEUED", "[2]", r#"["2"]"#]
    );
    assert_eq!(reply(&mut waiter), r#"["l", "1"]"#);
    pair.assert_equal().unwrap();
}

/// Nothing behind a blocking command is read while it waits; a time that passes is told, and then the rest goes on.
#[test]
fn what_is_pipelined_behind_a_waiting_command_waits_too() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    for line in ["SET k 1", "BLPOP l 0", "INCR k", "GET k"] {
        client.send(&command(line)).unwrap();
    }
    wait_parked(&pair, 1);
    let mut other = pair.client().unwrap();
    let flags = |list: String| list.lines().filter(|line| line.contains("flags=b")).count();
    assert_eq!(flags(ok(&mut other, "CLIENT LIST").text()), 1);
    assert_eq!(pipeline(&mut other, &["GET k", "RPUSH l x", "LLEN l"]), [r#""1""#, "1", "0"]);
    assert_eq!([(); 4].map(|()| reply(&mut client)), ["+OK", r#"["l", "x"]"#, "2", r#""2""#]);
    assert_eq!(pipeline(&mut client, &["BLPOP l 0.05", "INCR k"]), ["(nil array)", "3"]);
    pair.assert_equal().unwrap();
}

/// Those who wait stay where they are when the roles move, there and back, and are served by whoever is the primary then.
#[test]
fn who_waits_goes_on_with_the_new_primary() {
    let pair = Pair::plain().unwrap();
    let mut writer = pair.client().unwrap();
    let mut waiters: Vec<Client> = (0..20).map(|at| park(&pair, "BLPOP l 0", at + 1)).collect();
    let mut reader = park(&pair, "XREAD BLOCK 0 STREAMS s $", 21);
    let mut mover = park(&pair, "BLMOVE a b LEFT RIGHT 0", 22);
    pair.cutover().unwrap();
    wait_parked(&pair, 22);
    assert_eq!(pipeline(&mut writer, &["RPUSH l 0 1 2 3 4 5 6 7 8 9", "LLEN l"]), ["10", "0"]);
    pair.rollback().unwrap();
    assert_eq!(pipeline(&mut writer, &["RPUSH l 10 11 12 13 14 15 16 17 18 19", "LLEN l"]), ["10", "0"]);
    for (at, waiter) in waiters.iter_mut().enumerate() {
        assert_eq!(reply(waiter), format!(r#"["l", "{at}"]"#));
    }
    pair.cutover().unwrap();
    assert_eq!(pipeline(&mut writer, &["XADD s 1-1 f v", "RPUSH a 1", "LRANGE b 0 -1"]), [r#""1-1""#, "1", r#"["1"]"#]);
    assert_eq!(reply(&mut reader), r#"[["s", [["1-1", ["f", "v"]]]]]"#);
    assert_eq!(reply(&mut mover), r#""1""#);
    pair.assert_equal().unwrap();
}

/// Those who merely wait notice nothing of a primary that is lost and comes back.
#[test]
fn who_waits_outlives_a_lost_connection() {
    let pair = Pair::plain().unwrap();
    let mut waiter = park(&pair, "BLPOP l 0", 1);
    let before = pair.connects("old");
    ok(&mut pair.old.client().unwrap(), "CLIENT KILL TYPE normal SKIPME yes");
    pair.wait_reconnected("old", before).unwrap();
    wait_parked(&pair, 1);
    let mut writer = pair.client().unwrap();
    assert_eq!(pipeline(&mut writer, &["RPUSH l x", "LLEN l"]), ["1", "0"]);
    assert_eq!(reply(&mut waiter), r#"["l", "x"]"#);
    pair.assert_equal().unwrap();
}

/// A primary that is full refuses writes that need memory, also to queue them in MULTI; who drains it must not be refused.
#[test]
fn a_full_primary_can_be_drained() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "RPUSH l 1 2 3");
    ok(&mut client, "ZADD z 1 a 2 b");
    ok(&mut pair.old.client().unwrap(), "CONFIG SET maxmemory 1");
    assert!(client.cmd("SET k v").unwrap().is_error());
    let popped = pipeline(&mut client, &["BLPOP l 0", "BRPOP m l 0", "BLMPOP 0 2 m l LEFT", "BZPOPMIN z 0", "BZPOPMAX y z 0"]);
    let expected = [r#"["l", "1"]"#, r#"["l", "3"]"#, r#"["l", ["2"]]"#, r#"["z", "a", "1"]"#, r#"["z", "b", "2"]"#];
    assert_eq!(popped, expected);
    pair.assert_equal().unwrap();
}
