//! Large keys are copied in pieces: clients are served between the pieces, writes between them are in the copy, a key that is written all
//! the time is copied all the same, and nothing of a copy that was given up stays behind.
//!
//! What is shown is order, never time: MONITOR of a server says which command ran between which.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::json;
use twinlane_tests::asking::ok;
use twinlane_tests::compare::{self, compare};
use twinlane_tests::monitor::Monitor;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::{Options, Proxy};
use twinlane_tests::resp::{Client, Command, command};
use twinlane_tests::servers::{Server, Version};

/// Writes commands in batches, all of which must be accepted.
fn write(client: &mut Client, lines: impl Iterator<Item = String>) {
    let lines: Vec<Command> = lines.map(|line| command(&line)).collect();
    for batch in lines.chunks(5000) {
        for reply in client.pipeline(batch).unwrap() {
            assert!(!reply.is_error(), "{reply}");
        }
    }
}

/// One large key of each type, written in many commands.
fn fill(client: &mut Client, elements: usize) {
    let chunks = |make: &dyn Fn(usize) -> String| -> Vec<String> {
        let items: Vec<String> = (0..elements).map(make).collect();
        items.chunks(500).map(|chunk| chunk.join(" ")).collect()
    };
    write(client, chunks(&|n| format!("field-{n} value-{n}")).into_iter().map(|items| format!("HSET big:hash {items}")));
    write(client, chunks(&|n| format!("member-{n}")).into_iter().map(|items| format!("SADD big:set {items}")));
    write(client, chunks(&|n| format!("{n}.25 member-{n}")).into_iter().map(|items| format!("ZADD big:zset {items}")));
    write(client, chunks(&|n| format!("element-{n}")).into_iter().map(|items| format!("RPUSH big:list {items}")));
    write(client, (0..elements).map(|n| format!("XADD big:stream {}-1 f {n}", n + 1)));
    write(client, ["XGROUP CREATE big:stream g 0", "XREADGROUP GROUP g one COUNT 2500 STREAMS big:stream >"].map(String::from).into_iter());
    write(client, ["XGROUP CREATE big:stream idle $", "XDEL big:stream 7-1 9-1", "XACK big:stream g 5-1"].map(String::from).into_iter());
    write(client, [format!("SET big:string {}", "0123456789".repeat(elements * 10)), "PEXPIRE big:set 90000000".into()].into_iter());
}

/// `old` is filled, then the proxy starts; keys above 64 KiB are large.
fn pair_of(old: Version, new: Version, elements: usize) -> Pair {
    let (old, new) = (Server::plain(old).unwrap(), Server::plain(new).unwrap());
    fill(&mut old.client().unwrap(), elements);
    let options = Options { args: vec!["--set".into(), "mirror.image_bytes_max=65536".into()], ..Options::default() };
    let proxy = Proxy::start(&old.address(), &new.address(), options).unwrap();
    Pair { old, new, proxy }
}

fn large_keys(pair: &Pair, outcome: &str) -> f64 {
    pair.metric("twinlane_large_keys_total", outcome).unwrap()
}

/// A client that counts until it is told to stop, always with more on the way.
fn count(pair: &Pair) -> (JoinHandle<u64>, Arc<AtomicBool>) {
    let mut client = pair.client().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut counted = 0;
        while !ended.load(Ordering::Relaxed) {
            for reply in client.pipeline(&vec![command("INCR counter"); 32]).unwrap() {
                counted += 1;
                assert_eq!(reply.int(), Some(counted as i64));
            }
        }
        counted
    });
    (thread, stop)
}

/// H18, H59: while large keys are copied, commands of others run between the pieces, on the primary and on the mirror, and nothing reads or
/// restores such a key in one go.
#[test]
fn h18_clients_are_served_between_the_pieces_of_a_large_key() {
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    fill(&mut old.client().unwrap(), 20_000);
    let (on_old, on_new) = (Monitor::start(&old).unwrap(), Monitor::start(&new).unwrap());
    let args = ["--set", "mirror.backfill=off", "--set", "mirror.image_bytes_max=65536"].map(String::from).into();
    let options = Options { args, ..Options::default() };
    let proxy = Proxy::start(&old.address(), &new.address(), options).unwrap();
    let pair = Pair { old, new, proxy };
    let (counting, stop) = count(&pair);
    // Without a backfill the first write on a key makes the proxy copy it.
    let mut client = pair.client().unwrap();
    let kinds = ["hash", "set", "zset", "list", "string"];
    for line in ["HSET big:hash x 1", "SADD big:set x", "ZADD big:zset 1 x", "RPUSH big:list x", "APPEND big:string x"] {
        ok(&mut client, line);
    }
    until("the large keys to be copied", PATIENCE, || Ok(large_keys(&pair, "copied") >= 5.0)).unwrap();
    stop.store(true, Ordering::Relaxed);
    let counted = counting.join().unwrap();
    pair.wait_status("no doubt", |status| status["mirror"]["dirty_keys"] == 0).unwrap();
    let (old_ran, new_ran) = (on_old.end(&pair.old).unwrap(), on_new.end(&pair.new).unwrap());
    assert!(counted > 100, "{counted}");
    for kind in kinds {
        let whole = format!("\"DUMP\" \"big:{kind}\"");
        assert!(!old_ran.iter().any(|line| line.contains(&whole)), "{kind} was read in one go");
        // Pieces by their own command; how often another client's came between two of them.
        let reads = [("hash", "HSCAN"), ("set", "SSCAN"), ("zset", "ZSCAN"), ("list", "LRANGE"), ("string", "GETRANGE")];
        let read = reads.iter().find(|(name, _)| *name == kind).unwrap().1;
        let is_piece = |line: &&String| line.contains(&format!("\"{read}\" \"big:{kind}\""));
        let pieces = old_ran.iter().filter(is_piece).count();
        assert!(pieces > 5, "{kind}: {pieces} pieces");
        let first = old_ran.iter().position(|line| is_piece(&line)).unwrap();
        let last = old_ran.iter().rposition(|line| is_piece(&line)).unwrap();
        let between = old_ran[first..last].iter().filter(|line| line.contains("\"INCR\" \"counter\"")).count();
        assert!(between * 4 > pieces, "{kind}: {between} commands of another client between {pieces} pieces");
    }
    let built = |line: &&String| line.contains("__twinlane:image:");
    let (first, last) = (new_ran.iter().position(|line| built(&line)).unwrap(), new_ran.iter().rposition(|line| built(&line)).unwrap());
    let between = new_ran[first..last].iter().filter(|line| line.contains("\"INCR\" \"counter\"")).count();
    assert!(between > 20, "{between} effects between the pieces on the mirror");
    // What was written while nothing but these keys was copied is equal in every element.
    let report = compare(&pair.old.address(), &pair.new.address(), &compare::Options::default()).unwrap();
    let wrong: Vec<_> =
        report.differences.iter().filter(|found| kinds.iter().any(|kind| found.key == format!("big:{kind}").into_bytes())).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// H18: a copy in pieces lets the key's *effects* wait, never its clients. The mirror stands still in the middle of a copy: its twin is
/// there, and the copy cannot end. Clients read and write that very key, and have their replies; when the mirror goes on, it has what they wrote.
#[test]
fn h18_clients_of_the_key_itself_do_not_wait_for_a_mirror_that_stands_still() {
    let pair = pair_of(Version::Redis70, Version::Redis70, 20_000);
    pair.settle().unwrap();
    let (mut client, mut mirror) = (pair.client().unwrap(), pair.new.client().unwrap());
    for (kind, write, read, expect) in [
        ("hash", "HSET big:hash field-7 {}", "HGET big:hash field-7", "{}"),
        ("set", "SADD big:set member-{}", "SISMEMBER big:set member-{}", "1"),
        ("zset", "ZADD big:zset {} member-7", "ZSCORE big:zset member-7", "{}"),
        ("list", "LSET big:list 7 {}", "LINDEX big:list 7", "{}"),
        ("string", "SETRANGE big:string 3 {}", "GETRANGE big:string 3 7", "{}"),
        ("stream", "XADD big:stream 9{}-1 f v", "XRANGE big:stream 9{}-1 +", "9{}-1"),
    ] {
        let mut attempt = 10_000;
        // Stopped between its first piece and its last one; where the copy was faster, once more.
        loop {
            attempt += 1;
            let before = large_keys(&pair, "copied");
            assert_eq!(pair.proxy.post("/v1/repair", &json!({"key": format!("big:{kind}")})).unwrap().body, json!({"done": true}));
            until("a twin on the mirror, or the end of the copy", PATIENCE, || {
                let twin = ok(&mut mirror, "SCAN 0 MATCH __twinlane:image:* COUNT 100000");
                Ok(!twin.items()[1].items().is_empty() || large_keys(&pair, "copied") > before)
            })
            .unwrap();
            pair.new.freeze().unwrap();
            if large_keys(&pair, "copied") == before {
                break;
            }
            pair.new.thaw().unwrap();
            assert!(attempt < 10_100, "{kind}: no copy was ever met in its middle");
        }
        let number = attempt.to_string();
        for value in [&number, "77777"] {
            ok(&mut client, &write.replace("{}", value));
            let said = ok(&mut client, &read.replace("{}", value)).to_string();
            assert!(said.contains(&expect.replace("{}", value)), "{kind}: {said}");
        }
        pair.new.thaw().unwrap();
        pair.assert_equal().unwrap_or_else(|error| panic!("{kind}: {error:#}"));
    }
}

/// H33: what clients write between the pieces is in the copy: elements are followed, everything else begins it anew.
#[test]
fn h33_writes_between_the_pieces_are_in_the_copy() {
    for (old, new) in [(Version::Redis70, Version::Redis70), (Version::Redis62, Version::Valkey81)] {
        let pair = pair_of(old, new, 20_000);
        let mut client = pair.client().unwrap();
        let mut round = 0u64;
        until("all keys to be copied", PATIENCE * 2, || {
            round += 1;
            let n = (round * 7919) % 20_000;
            let mut lines = vec![
                format!("HSET big:hash field-{n} changed-{round}"),
                format!("HDEL big:hash field-{}", n / 2),
                format!("HINCRBY big:hash counter {round}"),
                format!("SADD big:set member-{round} new-{round}"),
                format!("SREM big:set member-{n}"),
                format!("ZADD big:zset {round} member-{n} {round} new-{round}"),
                format!("ZINCRBY big:zset 1.5 member-{}", n / 3),
                format!("ZREM big:zset member-{}", n / 2),
                format!("LPUSH big:list left-{round}"),
                format!("RPUSH big:list right-{round}"),
                "LPOP big:list".into(),
                "RPOP big:list".into(),
                format!("APPEND big:string -{round}"),
                format!("SETRANGE big:string {} changed", n * 9),
            ];
            if round % 50 == 7 {
                // What no copy can follow.
                lines.push("ZREMRANGEBYRANK big:zset 0 1".into());
                lines.push(format!("LSET big:list {n} set"));
                lines.push("XADD big:stream * f late".into());
                lines.push("SPOP big:set 3".into());
            }
            write(&mut client, lines.into_iter());
            // The set has a time to live, so nothing written on it is followed: it may end as one that goes whole.
            Ok(large_keys(&pair, "copied") >= 5.0 && large_keys(&pair, "copied") + large_keys(&pair, "whole") >= 6.0)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", pair.proxy.log_tail()));
        let report = pair.assert_equal().unwrap();
        assert!(report.keys_compared >= 6, "{report}");
        let result = pair.proxy.verify(PATIENCE).unwrap();
        assert!(result["clean"] == true, "{result}");
    }
}

/// A key that is written all the time in ways that no copy can follow is copied whole after some attempts: it is healed, and counted.
#[test]
fn a_large_key_that_is_always_written_is_copied_whole() {
    let pair = pair_of(Version::Redis70, Version::Redis70, 30_000);
    let mut client = pair.client().unwrap();
    let mut round = 0u64;
    until("the key to be copied whole", PATIENCE * 2, || {
        round += 1;
        write(&mut client, [format!("LSET big:list {} set-{round}", round % 30_000)].into_iter());
        Ok(large_keys(&pair, "whole") >= 1.0)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", pair.proxy.log_tail()));
    assert!(large_keys(&pair, "begun_anew") >= 5.0);
    pair.assert_equal().unwrap();
}

/// A backlog of large keys is not asked again and again how large they are: each waits for its place, and is in the list of what is in doubt.
#[test]
fn large_keys_that_wait_are_asked_for_their_size_once() {
    const KEYS: usize = 200;
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    write(&mut old.client().unwrap(), (0..KEYS).map(|n| format!("SETRANGE large:{n} 1000000 x")));
    let args = ["--set", "mirror.image_bytes_max=65536", "--set", "mirror.queue_age_max_ms=60000"].map(String::from).into();
    let proxy = Proxy::start(&old.address(), &new.address(), Options { args, ..Options::default() }).unwrap();
    let pair = Pair { old, new, proxy };
    wait_for_both(&pair);
    pair.new.freeze().unwrap();
    until("copies to wait for the mirror", PATIENCE, || Ok(large_keys_asked(&pair) >= 100)).unwrap();
    let listed = pair.proxy.get("/v1/dirty?limit=1000").unwrap().body;
    assert!(listed["items"].as_array().unwrap().len() as u64 >= listed["total"].as_u64().unwrap().min(100), "{listed}");
    pair.new.thaw().unwrap();
    until("the large keys to be copied", PATIENCE, || Ok(large_keys(&pair, "copied") >= KEYS as f64)).unwrap();
    let asked = large_keys_asked(&pair);
    assert!(asked < 2 * KEYS, "{asked} questions for the size of {KEYS} keys");
    pair.assert_equal().unwrap();
}

/// What is frozen before it is connected takes part in nothing.
fn wait_for_both(pair: &Pair) {
    pair.wait_status("both sides", |status| status["old"]["healthy"] == true && status["new"]["healthy"] == true).unwrap();
}

/// How often `old` was asked how large a key is.
fn large_keys_asked(pair: &Pair) -> usize {
    let told = pair.old.client().unwrap().cmd("INFO commandstats").unwrap().text();
    let line = told.lines().find(|line| line.starts_with("cmdstat_memory|usage:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

/// Sessions whose barriers follow each other without a moment between them do not keep a large key from being copied.
#[test]
fn pieces_are_read_between_back_to_back_barriers() {
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    ok(&mut old.client().unwrap(), "SETRANGE big 4000000 x");
    let args = ["--set", "mirror.backfill=off", "--set", "mirror.image_bytes_max=65536"].map(String::from).into();
    let proxy = Proxy::start(&old.address(), &new.address(), Options { args, ..Options::default() }).unwrap();
    let pair = Pair { old, new, proxy };
    let stop = Arc::new(AtomicBool::new(false));
    ok(&mut pair.client().unwrap(), "SET k v");
    // So many that one of them waits whenever another's barrier falls.
    let movers = [0, 1, 0, 1, 0, 1].map(|db| {
        let (mut client, ended) = (pair.client().unwrap(), stop.clone());
        ok(&mut client, &format!("SELECT {db}"));
        let batch = vec![command(&format!("MOVE k {}", 1 - db)); 100];
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                client.pipeline(&batch).unwrap();
            }
        })
    });
    ok(&mut pair.client().unwrap(), "APPEND big x");
    let copied = until("the large key to be copied", PATIENCE, || Ok(large_keys(&pair, "copied") >= 1.0));
    stop.store(true, Ordering::Relaxed);
    movers.into_iter().for_each(|mover| mover.join().unwrap());
    copied.unwrap_or_else(|error| panic!("{error:#}\n{}", pair.proxy.log_tail()));
    let mut mirror = pair.new.client().unwrap();
    assert_eq!(ok(&mut mirror, "STRLEN big").int(), Some(4_000_002));
}

/// A write that a copy in pieces follows is told to who asks for the last writes of the key.
#[test]
fn a_write_between_the_pieces_is_explained() {
    let (old, new) = (Server::plain(Version::Redis70).unwrap(), Server::plain(Version::Redis70).unwrap());
    fill(&mut old.client().unwrap(), 20_000);
    let sets = ["mirror.backfill=off", "mirror.image_bytes_max=65536", "mirror.queue_age_max_ms=60000"];
    let args = sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect();
    let proxy = Proxy::start(&old.address(), &new.address(), Options { args, ..Options::default() }).unwrap();
    let pair = Pair { old, new, proxy };
    wait_for_both(&pair);
    let mut client = pair.client().unwrap();
    pair.new.freeze().unwrap();
    ok(&mut client, "HSET big:hash before 1");
    // Two pieces are on their way to the mirror, and no more are read before one is confirmed.
    until("two pieces to be read", PATIENCE, || {
        let told = pair.old.client()?.cmd("INFO commandstats")?.text();
        Ok(told.lines().any(|line| line.starts_with("cmdstat_hscan:calls=2")))
    })
    .unwrap();
    ok(&mut client, "HDEL big:hash field-7");
    ok(&mut client, "HSET big:hash between 2");
    pair.new.thaw().unwrap();
    until("the key to be copied", PATIENCE, || Ok(large_keys(&pair, "copied") >= 1.0)).unwrap();
    assert_eq!(large_keys(&pair, "begun_anew"), 0.0, "the writes were followed");
    let told = pair.proxy.get("/v1/explain?key=big:hash").unwrap().body;
    let commands: Vec<&str> = told["writes"].as_array().unwrap().iter().map(|write| write["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["HSET", "HDEL", "HSET"], "{told}");
}

/// A copy that dies with the proxy leaves no twin behind, and no client ever sees one.
#[test]
fn a_killed_copy_leaves_no_twin() {
    let mut pair = pair_of(Version::Redis70, Version::Redis70, 60_000);
    let mut mirror = pair.new.client().unwrap();
    until("a twin to be on the mirror", PATIENCE, || Ok(!mirror.cmd("KEYS __twinlane:image:*").unwrap().items().is_empty())).unwrap();
    pair.new.freeze().unwrap();
    pair.proxy.kill9();
    pair.new.thaw().unwrap();
    assert!(!mirror.cmd("KEYS __twinlane:image:*").unwrap().items().is_empty(), "the kill came too late to show anything");
    pair.proxy.launch().unwrap();
    pair.proxy.wait_until_ready(PATIENCE).unwrap();
    pair.assert_equal().unwrap();
    for server in [&pair.old, &pair.new] {
        let left = server.client().unwrap().cmd("KEYS __twinlane:image:*").unwrap();
        assert!(left.items().is_empty(), "{left}");
    }
}

/// H32: fields of hashes with times to live of their own keep them, in a small hash and in a large one.
#[test]
fn h32_times_to_live_of_fields_are_copied() {
    let pair = pair_of(Version::Valkey91, Version::Valkey91, 5_000);
    let mut client = pair.client().unwrap();
    ok(&mut client, "HSET small a 1 b 2 c 3");
    for line in ["HPEXPIRE small 5000000 FIELDS 2 a b", "HPEXPIRE big:hash 7000000 FIELDS 2 field-1 field-4999"] {
        ok(&mut client, line);
    }
    pair.assert_equal().unwrap();
    for (key, fields, most) in [("small", "3 a b c", 5_000_000), ("big:hash", "3 field-1 field-4999 field-2", 7_000_000)] {
        let times = |server: &Server| -> Vec<i64> {
            let reply = server.client().unwrap().cmd(&format!("HPTTL {key} FIELDS {fields}")).unwrap();
            reply.items().iter().filter_map(twinlane_tests::resp::Value::int).collect()
        };
        let (new, old) = (times(&pair.new), times(&pair.old));
        assert_eq!((old[2], new[2]), (-1, -1), "{key}");
        for at in 0..2 {
            assert!(old[at] > 0 && new[at] >= old[at] && new[at] <= most + 10_000, "{key}: {old:?} {new:?}");
        }
    }
}

/// H32: a command that leaves a field's time to live leaves it on the mirror too.
#[test]
fn h32_increments_leave_times_to_live_of_fields() {
    let pair = Pair::start(Setup::of(Version::Valkey91, Version::Valkey91)).unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "HSET h whole 1 float 1");
    ok(&mut client, "HPEXPIRE h 5000000 FIELDS 2 whole float");
    pair.settle().unwrap();
    ok(&mut client, "HINCRBY h whole 3");
    ok(&mut client, "HINCRBYFLOAT h float 1.5");
    pair.settle().unwrap();
    for server in [&pair.old, &pair.new] {
        let mut client = server.client().unwrap();
        let times = ok(&mut client, "HPTTL h FIELDS 2 whole float");
        assert!(times.items().iter().all(|time| time.int() > Some(4_000_000)), "{times}");
        assert_eq!(ok(&mut client, "HGET h float").text(), "2.5");
    }
    pair.assert_equal().unwrap();
}
