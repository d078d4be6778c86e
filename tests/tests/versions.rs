//! The contended workload with a cutover and a rollback in the middle of it, on every pair of versions that a migration meets.
//!
//! What is contended is the order (I1), and what each client checks for itself is what it would see without us (I3): no error, no
//! lost connection, a counter that never skips or repeats, its own writes. After the traffic both sides are equal (I5). Where
//! the versions differ, images travel type by type in one direction, replies come in the shapes of either version, and a command may be
//! known to one side only; the workload uses what 6.2 has.
//!
//! The other half (`borders_*`) is about values: every type at the borders of its encodings, streams with all that can be in them, small and
//! in pieces, copied up, written on, flipped, copied down, written on, and flipped back. A verify is clean at each stage.
//!
//! `TWINLANE_OLD_SERVER` and `TWINLANE_NEW_SERVER` name programs for a pair of versions that is not fetched here (`a_pair_by_hand`).

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use twinlane_tests::asking::ok;
use twinlane_tests::compare;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::{Options as ProxyOptions, Proxy};
use twinlane_tests::resp::{Client, Command, command};
use twinlane_tests::servers::{self, Server, Version};
use twinlane_tests::workload::{Options, Workload};

fn check(old: Version, new: Version) {
    let pair = Pair::start(Setup::of(old, new)).unwrap();
    let workload = Workload::start(&pair.proxy.address(), &Options { clients: 6, seed: 7, ..Options::default() }).unwrap();
    let work_on = |commands: u64| {
        let goal = workload.commands() + commands;
        until("the clients to go on", PATIENCE, || Ok(workload.commands() >= goal))
            .unwrap_or_else(|error| panic!("{error}\n{}", pair.proxy.log_tail()));
    };
    for _ in 0..2 {
        work_on(4_000);
        pair.cutover().unwrap();
        work_on(4_000);
        pair.rollback().unwrap();
    }
    work_on(4_000);
    let summary = workload.stop();
    assert!(summary.is_clean(), "{old:?} -> {new:?}: {summary:#?}\n{}", pair.proxy.log_tail());
    let report = pair.assert_equal().unwrap_or_else(|error| panic!("{old:?} -> {new:?}: {error:#}"));
    assert!(report.keys_compared > 100, "{report}");
    for (counter, last) in &summary.counters {
        let found = pair.old.client().unwrap().cmd(&format!("GET {counter}")).unwrap().text();
        assert_eq!(found, last.to_string(), "{counter}");
    }
    if old == new && old.at_least_7() {
        let options = compare::Options::default();
        compare::digest_check(&pair.old.address(), &pair.new.address(), &options).unwrap().into_result().unwrap();
    }
}

#[test]
fn redis_6_2() {
    check(Version::Redis62, Version::Redis62);
}

#[test]
fn redis_7_0() {
    check(Version::Redis70, Version::Redis70);
}

#[test]
fn valkey_8_1() {
    check(Version::Valkey81, Version::Valkey81);
}

#[test]
fn valkey_9_1() {
    check(Version::Valkey91, Version::Valkey91);
}

#[test]
fn redis_6_2_to_7_0() {
    check(Version::Redis62, Version::Redis70);
}

#[test]
fn redis_7_0_to_valkey_9_1() {
    check(Version::Redis70, Version::Valkey91);
}

/// Values at the borders of encodings: one more element, or one more byte, and they are stored, dumped and read in another way.
fn fill_borders(client: &mut Client, streams: bool) {
    let mut lines: Vec<String> = Vec::new();
    let mut many = |name: &str, key: &str, items: Vec<String>| {
        items.chunks(200).for_each(|chunk| lines.push(format!("{name} {key} {}", chunk.join(" "))));
    };
    for n in [1usize, 128, 129, 512, 513, 3000] {
        many("HSET", &format!("hash:{n}"), (0..n).map(|at| format!("f{at} v{at}")).collect());
        many("SADD", &format!("set:{n}"), (0..n).map(|at| format!("m{at}")).collect());
        many("SADD", &format!("ints:{n}"), (0..n).map(|at| at.to_string()).collect());
        many("ZADD", &format!("zset:{n}"), (0..n).map(|at| format!("{at}.1 m{at}")).collect());
        many("RPUSH", &format!("list:{n}"), (0..n).map(|at| format!("e{at}")).collect());
    }
    let long = |bytes: usize| "x".repeat(bytes);
    for bytes in [0usize, 44, 45, 64, 65, 8192, 8193, 70_000] {
        let text = long(bytes.max(1));
        lines.push(format!("SET string:{bytes} {text}"));
        lines.push(format!("HSET hash:bytes:{bytes} f {text}"));
        lines.push(format!("SADD set:bytes:{bytes} {text}"));
        lines.push(format!("ZADD zset:bytes:{bytes} 1 {text}"));
        lines.push(format!("RPUSH list:bytes:{bytes} a {text} b"));
    }
    for (key, int) in [("16", "32767"), ("17", "32768"), ("32", "2147483647"), ("33", "2147483648"), ("64", "9223372036854775807")] {
        lines.push(format!("SADD ints:width:{key} 1 {int} -{int}"));
        lines.push(format!("SET int:{key} {int}"));
        lines.push(format!("RPUSH list:ints:{key} 0 12 13 {int} -{int} 127 128 -4096"));
    }
    lines.push("ZADD zset:scores inf top -inf bottom 0.1 tenth 1e300 large -0 zero 3.0000000000000004 odd".into());
    lines.push("PFADD hll:sparse a b c".into());
    for at in 0..40 {
        lines.push(format!("PFADD hll:dense {}", (0..100).map(|n| format!("e{}", at * 100 + n)).collect::<Vec<_>>().join(" ")));
    }
    lines.push("SETBIT bits 70000 1".into());
    for at in 1..=250 {
        lines.push(format!("XADD stream:groups {at}-1 f {at} g x"));
        lines.push(format!("XADD stream:trimmed {at}-0 other{} {at}", at % 3));
    }
    lines.extend(
        [
            "XGROUP CREATE stream:groups g 0",
            "XGROUP CREATE stream:groups half 100-1",
            "XREADGROUP GROUP g one COUNT 30 STREAMS stream:groups >",
            "XREADGROUP GROUP g two COUNT 150 STREAMS stream:groups >",
            "XREADGROUP GROUP half one COUNT 1 STREAMS stream:groups >",
            "XACK stream:groups g 3-1 40-1",
            "XDEL stream:groups 5-1 6-1 41-1 250-1",
            "XTRIM stream:trimmed MAXLEN 50",
            "XGROUP CREATE stream:trimmed late $",
            "XGROUP CREATE stream:empty g $ MKSTREAM",
            "XADD stream:emptied 5-5 f v",
            "XDEL stream:emptied 5-5",
            "PEXPIRE hash:513 80000000",
            "PEXPIRE stream:trimmed 80000000",
            "PEXPIRE string:8193 80000000",
            "SELECT 3",
            "SET elsewhere 1",
            "SELECT 0",
        ]
        .map(String::from),
    );
    let lines: Vec<Command> = lines.iter().filter(|line| streams || !line.contains("stream:")).map(|line| command(line)).collect();
    for reply in client.pipeline(&lines).unwrap() {
        assert!(!reply.is_error(), "{reply}");
    }
}

/// Writes in the middle of it: over the borders and back, on every type.
fn write_on(client: &mut Client, round: u32, streams: bool) {
    let lines = [
        format!("HSET hash:128 more{round} v"),
        format!("HSET hash:512 more{round} v"),
        "HINCRBY hash:129 counter 7".into(),
        format!("HSET hash:bytes:64 g {}", "y".repeat(70)),
        format!("SADD set:128 more{round}"),
        format!("SADD ints:512 {}", 100_000 + round),
        format!("SADD ints:width:16 {}", 40_000 + round),
        format!("SREM ints:513 {round}"),
        format!("ZADD zset:128 5.5 more{round}"),
        "ZINCRBY zset:scores 0.3 tenth".into(),
        format!("ZREM zset:3000 m{round}"),
        format!("RPUSH list:128 more{round}"),
        "LPOP list:513".into(),
        format!("LINSERT list:129 BEFORE e5 inserted{round}"),
        format!("APPEND string:44 {round}"),
        format!("SETRANGE string:70000 60000 changed{round}"),
        "INCR int:16".into(),
        format!("PFADD hll:sparse d{round}"),
        format!("PFADD hll:dense d{round}"),
        "PFMERGE hll:merged hll:sparse hll:dense".into(),
        format!("XADD stream:groups * round {round}"),
        "XREADGROUP GROUP g three COUNT 5 STREAMS stream:groups >".into(),
        format!("XACK stream:groups g {}-1", 10 + round),
        "XADD stream:trimmed MAXLEN = 40 * f v".into(),
        format!("XADD stream:emptied * round {round}"),
        "PERSIST string:8193".into(),
        "PEXPIRE string:8192 70000000".into(),
        "RENAME list:1 list:renamed".into(),
        "RENAME list:renamed list:1".into(),
    ];
    for line in lines.iter().filter(|line| streams || !line.contains("stream:")) {
        ok(client, line);
    }
}

/// Every key gets an image: a script that changes nothing says nothing of what it did.
fn image_everything(client: &mut Client) {
    let keys = client.cmd("KEYS *").unwrap();
    for key in keys.items() {
        let reply = client.call(&[b"EVAL", b"return redis.call('EXISTS', KEYS[1])", b"1", key.bytes().unwrap()]).unwrap();
        assert_eq!(reply.int(), Some(1), "{key}");
    }
}

fn assert_verified(pair: &Pair, when: &str) {
    let report = pair.assert_equal().unwrap_or_else(|error| panic!("{when}: {error:#}"));
    assert!(report.keys_compared > 60, "{when}: {report}");
    let result = pair.proxy.verify(PATIENCE * 2).unwrap();
    let found = pair.proxy.get("/v1/divergences?reveal=true").unwrap().body;
    assert!(result["clean"] == true, "{when}: {result}\n{found}\n{}", pair.proxy.log_tail());
}

fn borders_between(old: Server, new: Server) {
    // Redis 4.0 has none.
    let streams = !old.client().unwrap().cmd("COMMAND INFO XADD").unwrap().items()[0].items().is_empty();
    fill_borders(&mut old.client().unwrap(), streams);
    // Low enough that some keys of each type go in pieces, and others in one go.
    let options = ProxyOptions { args: vec!["--set".into(), "mirror.image_bytes_max=16384".into()], ..ProxyOptions::default() };
    let proxy = Proxy::start(&old.address(), &new.address(), options).unwrap();
    let pair = Pair { old, new, proxy };
    assert_verified(&pair, "copied");
    assert!(pair.metric("twinlane_large_keys_total", "copied").unwrap() >= 5.0);
    let mut client = pair.client().unwrap();
    write_on(&mut client, 1, streams);
    image_everything(&mut client);
    assert_verified(&pair, "written on");
    pair.cutover().unwrap();
    write_on(&mut client, 2, streams);
    assert_verified(&pair, "written on behind the cutover");
    image_everything(&mut client);
    assert_verified(&pair, "copied down");
    write_on(&mut client, 3, streams);
    pair.rollback().unwrap();
    write_on(&mut client, 4, streams);
    assert_verified(&pair, "rolled back");
    let status = pair.proxy.status().unwrap();
    assert_eq!(status["mirror"]["unmirrorable_keys"], 0, "{status}");
}

fn borders(old: Version, new: Version) {
    borders_between(Server::plain(old).unwrap(), Server::plain(new).unwrap());
}

#[test]
fn borders_from_5_0_to_7_0() {
    borders(Version::Redis50, Version::Redis70);
}

#[test]
fn borders_from_6_2_to_7_0() {
    borders(Version::Redis62, Version::Redis70);
}

#[test]
fn borders_from_7_0_to_valkey_9_1() {
    borders(Version::Redis70, Version::Valkey91);
}

/// H34: an image from a newer server to an older one, which refuses its payload, is read type by type in one block: no command of anybody
/// else comes between its reads.
#[test]
fn h34_an_image_for_an_older_server_is_read_in_one_block() {
    let pair = Pair::start(Setup::of(Version::Redis70, Version::Redis62)).unwrap();
    let mut watcher = pair.old.client().unwrap();
    assert!(watcher.cmd("MONITOR").unwrap().is_ok());
    let mut writer = pair.client().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "HSET key a 1 b 2");
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let writing = std::thread::spawn(move || {
        for n in 0.. {
            ok(&mut writer, &format!("HSET key a {n} b {n}"));
            if ended.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    until("images to be made", PATIENCE, || {
        (0..10).for_each(|_| _ = ok(&mut client, "EVAL return(1) 1 key"));
        Ok(pair.metric("twinlane_images_total", "")? > 20.0)
    })
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    // What is read behind this is the comparer's.
    ok(&mut client, "SET the-end 1");
    pair.assert_equal().unwrap();
    let mut lines: Vec<String> = Vec::new();
    while !lines.last().is_some_and(|line| line.contains("the-end")) {
        lines.push(watcher.receive().unwrap().text());
    }
    let begins: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("\"TYPE\" \"key\"")).collect();
    assert!(begins.len() > 10, "{} typed images", begins.len());
    let reads = ["TYPE", "PTTL", "GET", "LRANGE", "SMEMBERS", "ZRANGE", "HGETALL", "XRANGE", "XINFO"];
    for begin in begins {
        for (at, read) in reads.iter().enumerate() {
            let line = &lines[begin + at];
            assert!(line.contains(&format!("\"{read}\"")), "{line} stands where {read} should");
        }
    }
}

/// Any two programs: `TWINLANE_OLD_SERVER=/path/redis-server TWINLANE_NEW_SERVER=... cargo test --test versions a_pair_by_hand`. Without them
/// there is nothing to do.
#[test]
fn a_pair_by_hand() {
    let [old, new] = ["TWINLANE_OLD_SERVER", "TWINLANE_NEW_SERVER"].map(std::env::var_os);
    if let (Some(old), Some(new)) = (old, new) {
        let start = |program: std::ffi::OsString| {
            Server::start(Version::Redis62, servers::Options { program: Some(program.into()), ..servers::Options::default() }).unwrap()
        };
        borders_between(start(old), start(new));
    }
}
