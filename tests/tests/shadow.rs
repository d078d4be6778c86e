//! Shadow reads on real servers: every read family finds what another connection changed on the mirror, and reports nothing else; under contended
//! writes, flips, watching transactions and a mirror that is frozen or killed no difference is reported, and no client waits (I6, I7).

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value as Json, json};
use twinlane_tests::asking::ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, Command, command};
use twinlane_tests::servers::Version;
use twinlane_tests::workload::{Options, Workload};

fn change(pair: &Pair, body: Json) {
    let answer = pair.proxy.post("/v1/shadow", &body).unwrap();
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
}

fn look(pair: &Pair) -> Json {
    pair.proxy.get("/v1/shadow").unwrap().body
}

fn count(of: &Json, name: &str) -> u64 {
    of[name].as_u64().unwrap()
}

/// Waits until every read has been compared and every key examined.
fn judged(pair: &Pair) -> Json {
    // It comes behind all reads that were sent to the mirror before, and is there when they are answered.
    ok(&mut pair.client().unwrap(), "SET judged x");
    pair.settle().unwrap();
    let mut last = Json::Null;
    until("the last exam to end", PATIENCE, || {
        last = look(pair);
        Ok(count(&last, "examining") == 0)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last}"));
    last
}

/// Reads that were drawn and not compared because of the mirror: it was slow just then.
fn missed(told: &Json) -> u64 {
    ["behind", "doubt"].iter().map(|why| told["skipped"][why].as_u64().unwrap_or(0)).sum()
}

/// Has each of these reads compared, in few turns as long as none is missed.
fn compare_each(pair: &Pair, client: &mut Client, lines: impl Iterator<Item = String>) -> Json {
    let lines: Vec<String> = lines.collect();
    let deadline = Instant::now() + PATIENCE;
    let mut told = judged(pair);
    for part in lines.chunks(20) {
        loop {
            let before = missed(&told);
            run(client, part.iter().cloned());
            told = judged(pair);
            if missed(&told) == before {
                break;
            }
            assert!(Instant::now() < deadline, "reads are missed again and again: {told}");
        }
    }
    told
}

/// Database, key, kind, command.
type Found = BTreeSet<(u64, String, String, String)>;

fn divergences(pair: &Pair) -> Found {
    let body = pair.proxy.get("/v1/divergences?reveal=true").unwrap().body;
    let text = |item: &Json, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let found = |item: &Json| (item["db"].as_u64().unwrap(), text(item, "key"), text(item, "kind"), text(item, "command"));
    body["items"].as_array().unwrap().iter().map(found).collect()
}

fn assert_none(pair: &Pair) -> Json {
    let told = judged(pair);
    assert!(divergences(pair).is_empty() && count(&told, "differing") == 0, "{:?}\n{told}\n{}", divergences(pair), pair.proxy.log_tail());
    told
}

fn run(client: &mut Client, lines: impl Iterator<Item = String>) {
    let commands: Vec<Command> = lines.map(|line| command(&line)).collect();
    for (reply, line) in client.pipeline(&commands).unwrap().iter().zip(&commands) {
        assert!(!reply.is_error(), "{reply} to {}", line.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" "));
    }
}

/// A value, what is changed of it on the mirror alone, a read that sees it, and what kind of difference it is. `@` is the key.
const CASES: [(&str, &str, &str, &str); 62] = [
    ("SET @ abc", "SETRANGE @ 1 x", "BITCOUNT @", "value"),
    ("SET @ abc", "SETRANGE @ 0 x", "BITFIELD_RO @ GET u8 0", "value"),
    ("SET @ abc", "SETRANGE @ 0 \x01", "BITPOS @ 1", "value"),
    ("SET @ abc", "DEL @", "EXISTS @", "missing"),
    ("SET @ abc EX 9000", "EXPIRE @ 500", "EXPIRETIME @", "ttl"),
    ("GEOADD @ 1 1 a", "GEOADD @ 2 2 a", "GEOHASH @ a", "value"),
    ("SET @ abc", "SET @ abd", "GET @", "value"),
    ("SET @ abc", "SETRANGE @ 0 b", "GETBIT @ 7", "value"),
    ("SET @ abc", "APPEND @ x", "GETRANGE @ 0 -1", "value"),
    ("HSET @ a 1", "HSET @ b 1", "HEXISTS @ b", "value"),
    ("HSET @ a 1 b 2", "HSET @ b 3", "HGET @ b", "value"),
    ("HSET @ a 1 b 2", "HSET @ b 3", "HGETALL @", "value"),
    ("HSET @ a 1 b 2", "HSET @ c 3", "HKEYS @", "value"),
    ("HSET @ a 1 b 2", "HSET @ c 3", "HLEN @", "value"),
    ("HSET @ a 1 b 2", "HSET @ a 2", "HMGET @ a b", "value"),
    ("HSET @ a 1 b 2", "HSET @ a 22", "HSTRLEN @ a", "value"),
    ("HSET @ a 1 b 2", "HSET @ a 22", "HVALS @", "value"),
    ("SET @ abc", "SET @ xyz", "LCS @ @", "value"),
    ("RPUSH @ a b", "LSET @ 1 c", "LINDEX @ 1", "value"),
    ("RPUSH @ a b", "RPUSH @ c", "LLEN @", "value"),
    ("RPUSH @ a b", "LSET @ 0 c", "LPOS @ a", "value"),
    ("RPUSH @ a b", "LSET @ 0 c", "LRANGE @ 0 -1", "value"),
    ("SET @ abc", "SET @ abd", "MGET @ nobody:@", "value"),
    ("SET @ abc EX 9000", "PERSIST @", "PEXPIRETIME @", "ttl"),
    ("SET @ abc EX 9000", "EXPIRE @ 500", "PTTL @", "ttl"),
    ("SADD @ a b", "SADD @ c", "SCARD @", "value"),
    ("SADD @ a b", "SADD @ c", "SDIFF @ nobody:@", "value"),
    ("SADD @ a b", "SADD @ c", "SINTER @", "value"),
    ("SADD @ a b", "SADD @ c", "SINTERCARD 1 @", "value"),
    ("SADD @ a b", "SADD @ c", "SISMEMBER @ c", "value"),
    ("SADD @ a b", "SADD @ c", "SMEMBERS @", "value"),
    ("SADD @ a b", "SADD @ c", "SMISMEMBER @ a c", "value"),
    ("RPUSH @ 2 1", "LSET @ 0 3", "SORT_RO @", "value"),
    ("SET @ abc", "APPEND @ x", "STRLEN @", "value"),
    ("SET @ abc", "APPEND @ x", "SUBSTR @ 0 -1", "value"),
    ("SADD @ a b", "SADD @ c", "SUNION @ nobody:@", "value"),
    ("SET @ abc", "EXPIRE @ 9000", "TTL @", "ttl"),
    ("SET @ abc", "DEL @", "TYPE @", "missing"),
    ("XADD @ 1-1 f v", "XADD @ 2-1 f v", "XLEN @", "value"),
    ("XADD @ 1-1 f v", "XADD @ 2-1 f v", "XRANGE @ - +", "value"),
    ("XADD @ 1-1 f v", "XADD @ 2-1 f v", "XREAD COUNT 9 STREAMS @ 0", "value"),
    ("XADD @ 1-1 f v", "XADD @ 2-1 f v", "XREVRANGE @ + -", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZCARD @", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZCOUNT @ 0 9", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZDIFF 1 @", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 b", "ZINTER 1 @ WITHSCORES", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZINTERCARD 1 @", "value"),
    ("ZADD @ 0 a 0 b", "ZADD @ 0 c", "ZLEXCOUNT @ - +", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 0.1 a", "ZMSCORE @ a b", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 a", "ZRANGE @ 0 -1", "value"),
    ("ZADD @ 0 a 0 b", "ZADD @ 0 c", "ZRANGEBYLEX @ - +", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZRANGEBYSCORE @ 0 9", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 a", "ZRANK @ a", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 a", "ZREVRANGE @ 0 -1 WITHSCORES", "value"),
    ("ZADD @ 0 a 0 b", "ZADD @ 0 c", "ZREVRANGEBYLEX @ + -", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZREVRANGEBYSCORE @ 9 0", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 a", "ZREVRANK @ a", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 0.1 a", "ZSCORE @ a", "value"),
    ("ZADD @ 1 a 2 b", "ZADD @ 3 c", "ZUNION 1 @", "value"),
    ("GEOADD @ 1 1 a 3 3 b", "GEOADD @ 2 2 a", "GEODIST @ a b", "value"),
    ("GEOADD @ 1 1 a 3 3 b", "GEOADD @ 2 2 a", "GEOPOS @ a", "value"),
    ("GEOADD @ 1 1 a 3 3 b", "GEOADD @ 50 50 a", "GEOSEARCH @ FROMLONLAT 1 1 BYRADIUS 1000 km", "value"),
];

/// The line of a case for its own key.
fn of(case: usize, line: &str) -> String {
    line.replace('@', &format!("key:{case}"))
}

#[test]
fn every_read_family_finds_what_differs_and_nothing_else() {
    for resp3 in [false, true] {
        let pair = Pair::plain().unwrap();
        let mut client = pair.client().unwrap();
        if resp3 {
            client.hello3().unwrap();
        }
        run(&mut client, CASES.iter().enumerate().map(|(at, case)| of(at, case.0)));
        run(&mut client, ["XADD pending 1-1 f v", "XGROUP CREATE pending g 0"].map(str::to_owned).into_iter());
        pair.settle().unwrap();
        change(&pair, json!({"share": 1.0}));
        let reads = || CASES.iter().enumerate().map(|(at, case)| of(at, case.2));
        compare_each(&pair, &mut client, reads().chain(["XPENDING pending g".to_owned()]));
        let told = assert_none(&pair);
        assert!(count(&told, "equal") == count(&told, "compared") && count(&told, "equal") > CASES.len() as u64, "{told}");
        let mut mirror = pair.new.client().unwrap();
        run(&mut mirror, CASES.iter().enumerate().map(|(at, case)| of(at, case.1)));
        run(&mut mirror, ["SET extra x", "XGROUP DESTROY pending g", "XGROUP CREATE pending g 1-1"].map(str::to_owned).into_iter());
        let told = compare_each(&pair, &mut client, reads().chain(["GET extra".to_owned()]));
        let mut expect: Found = CASES
            .iter()
            .enumerate()
            .map(|(at, case)| (0, format!("key:{at}"), case.3.to_owned(), case.2.split(' ').next().unwrap().to_owned()))
            .collect();
        expect.insert((0, "extra".into(), "extra".into(), "GET".into()));
        let found = divergences(&pair);
        assert_eq!(found, expect, "missing {:?}, more {:?}", expect.difference(&found), found.difference(&expect));
        assert_eq!((count(&told, "differing"), count(&told, "unexplained")), (expect.len() as u64, 0), "{told}");
        // What is not extra has been healed by now, and what is extra stays until the operator says otherwise.
        assert_eq!(count(&compare_each(&pair, &mut client, reads()), "differing"), expect.len() as u64);
        assert!(!ok(&mut mirror, "GET extra").is_nil());
        let again = compare_each(&pair, &mut client, ["GET extra".to_owned()].into_iter());
        assert_eq!(count(&again, "explained"), count(&told, "explained") + 1, "it was reported already");
        let answer = pair.proxy.post("/v1/repair", &json!({"delete_extra": true, "confirm": 1})).unwrap();
        assert_eq!(answer.body, json!({"done": true}));
        pair.settle().unwrap();
        assert!(ok(&mut mirror, "GET extra").is_nil());
    }
}

#[test]
fn share_commands_and_prefixes_are_chosen_while_it_runs() {
    let pair = Pair::start(Setup::with_args(&["--set", "shadow.share=0.5", "--set", "shadow.commands=get"])).unwrap();
    let mut client = pair.client().unwrap();
    run(&mut client, ["SET user:1 a", "SET other:1 b", "HSET user:h f v"].map(str::to_owned).into_iter());
    pair.settle().unwrap();
    let reads = |client: &mut Client| run(client, (0..3000).map(|n| ["GET user:1", "GET other:1", "HGET user:h f"][n % 3].to_owned()));
    let compared = |told: &Json, command: &str| told["by_command"][command]["compared"].as_u64().unwrap_or(0);
    reads(&mut client);
    let told = assert_none(&pair);
    assert_eq!((told["share"].as_f64(), &told["commands"]), (Some(0.5), &json!(["GET"])));
    assert!((990..=1010).contains(&(compared(&told, "GET") + missed(&told))) && compared(&told, "HGET") == 0, "{told}");
    let before = missed(&told);
    change(&pair, json!({"share": 1.0, "commands": [], "prefixes": ["user:", "nobody:"]}));
    reads(&mut client);
    let told = assert_none(&pair);
    let missed = missed(&told) - before;
    let equal = |prefix: &str| count(&told["by_prefix"][prefix], "equal");
    assert_eq!((equal("user:") + missed, equal("nobody:")), (2000, 0), "{told}");
    assert!((1000 - missed..=1000).contains(&compared(&told, "HGET")), "{told}");
    // What no two servers need answer alike is skipped, and said so; transactions and cursors are left out.
    change(&pair, json!({"prefixes": []}));
    run(
        &mut client,
        [
            "RANDOMKEY",
            "DBSIZE",
            "KEYS *",
            "OBJECT ENCODING user:1",
            "SCAN 0",
            "MULTI",
            "GET user:1",
            "EXEC",
            "EVAL return{redis.call('get',KEYS[1])} 1 user:1",
        ]
        .map(str::to_owned)
        .into_iter(),
    );
    let last = assert_none(&pair);
    assert_eq!(count(&last, "compared"), count(&told, "compared"));
    assert_eq!(last["skipped"]["kind"], 4, "{last}");
    for (body, status) in [(json!({"share": 1.5}), 400), (json!({"commands": ["RANDOMKEY"]}), 409), (json!({"shares": 1}), 400)] {
        assert_eq!(pair.proxy.post("/v1/shadow", &body).unwrap().status, status, "{body}");
    }
    change(&pair, json!({"share": 0}));
    reads(&mut client);
    assert_eq!(look(&pair)["compared"], last["compared"]);
}

/// I6: a mirror that does not answer delays no read, and what it owes is bounded.
#[test]
fn i6_a_mirror_that_is_frozen_or_dead_holds_nobody_up() {
    let mut pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET k v");
    pair.settle().unwrap();
    change(&pair, json!({"share": 1.0}));
    pair.new.freeze().unwrap();
    until("reads to be skipped", PATIENCE, || {
        run(&mut client, (0..100).map(|_| "GET k".to_owned()));
        Ok(look(&pair)["skipped"]["behind"].as_u64() > Some(100))
    })
    .unwrap();
    pair.new.thaw().unwrap();
    assert_none(&pair);
    let connects = pair.connects("new");
    pair.new.kill();
    until("reads to be skipped", PATIENCE, || {
        run(&mut client, (0..100).map(|_| "GET k".to_owned()));
        Ok(look(&pair)["skipped"]["down"].as_u64() > Some(100))
    })
    .unwrap();
    pair.new.restart_empty().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    pair.settle().unwrap();
    let before = count(&look(&pair), "equal");
    compare_each(&pair, &mut client, (0..100).map(|_| "GET k".to_owned()));
    assert!(count(&assert_none(&pair), "equal") >= before + 100);
}

/// Reads whatever there is, by its type, until it is told to stop.
fn reader(pair: &Pair, stop: &Arc<AtomicBool>, reads: &Arc<AtomicU64>) -> JoinHandle<()> {
    let (mut client, stop, reads) = (pair.client().unwrap(), stop.clone(), reads.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let keys = client.cmd("KEYS *").unwrap().items().iter().map(|key| key.text()).collect::<Vec<_>>();
            let types = client.pipeline(&keys.iter().map(|key| command(&format!("TYPE {key}"))).collect::<Vec<_>>()).unwrap();
            let lines = keys.iter().zip(&types).flat_map(|(key, kind)| match kind.text().as_str() {
                "string" => [format!("GET {key}"), format!("STRLEN {key}")],
                "list" => [format!("LRANGE {key} 0 -1"), format!("LLEN {key}")],
                "set" => [format!("SMEMBERS {key}"), format!("SCARD {key}")],
                "hash" => [format!("HGETALL {key}"), format!("HLEN {key}")],
                "zset" => [format!("ZRANGE {key} 0 -1 WITHSCORES"), format!("ZCARD {key}")],
                "stream" => [format!("XRANGE {key} - +"), format!("XLEN {key}")],
                _ => [format!("EXISTS {key}"), format!("PTTL {key}")],
            });
            let commands: Vec<Command> = lines.map(|line| command(&line)).collect();
            reads.fetch_add(client.pipeline(&commands).unwrap().len() as u64, Ordering::Relaxed);
        }
    })
}

/// I7: contended writes of every family and reads of all they write, with flips in the middle, and no difference.
#[test]
fn i7_contended_writes_under_full_shadow_reads_are_no_difference() {
    for args in [&[][..], &["--notify-keyspace-events", "KEA"]] {
        let pair = Pair::start(Setup::of(Version::Redis70, Version::Redis70).old_args(args).new_args(args)).unwrap();
        change(&pair, json!({"share": 1.0}));
        let workload = Workload::start(&pair.proxy.address(), &Options { clients: 6, ..Options::default() }).unwrap();
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let readers = [(); 2].map(|()| reader(&pair, &stop, &reads));
        for flip in [Pair::cutover, Pair::rollback, Pair::cutover, Pair::rollback] {
            let from = count(&look(&pair), "equal");
            until("a thousand reads to be compared", PATIENCE, || Ok(count(&look(&pair), "equal") > from + 1000)).unwrap();
            flip(&pair).unwrap();
        }
        let summary = workload.stop();
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(summary.is_clean(), "{summary:#?}");
        let told = assert_none(&pair);
        println!("{} reads: {told}", reads.load(Ordering::Relaxed));
        pair.assert_equal().unwrap();
    }
}

/// Versions that answer the same reads in other words.
#[test]
fn i7_versions_that_answer_differently_are_equal() {
    for (old, new) in [(Version::Redis50, Version::Redis70), (Version::Redis62, Version::Valkey91), (Version::Redis70, Version::Redis62)] {
        let pair = Pair::start(Setup::of(old, new)).unwrap();
        let mut client = pair.client().unwrap();
        let known = |case: &&(usize, &(&str, &str, &str, &str))| match old {
            Version::Redis50 => ![
                "BITFIELD_RO",
                "EXPIRETIME",
                "PEXPIRETIME",
                "LCS",
                "LPOS",
                "SINTERCARD",
                "SMISMEMBER",
                "SORT_RO",
                "ZDIFF",
                "ZINTER",
                "ZINTERCARD",
                "ZMSCORE",
                "ZUNION",
                "GEOSEARCH",
            ]
            .contains(&case.1.2.split(' ').next().unwrap()),
            Version::Redis62 => {
                !["EXPIRETIME", "PEXPIRETIME", "LCS", "SINTERCARD", "SORT_RO", "ZINTERCARD"].contains(&case.1.2.split(' ').next().unwrap())
            }
            _ => true,
        };
        let cases: Vec<_> = CASES.iter().enumerate().collect();
        let cases: Vec<_> = cases.iter().filter(known).collect();
        run(&mut client, cases.iter().map(|(at, case)| of(*at, case.0)));
        ok(&mut client, "ZADD doubles 0.1 a 3.0000000000000004 b -1e30 c inf d");
        pair.settle().unwrap();
        change(&pair, json!({"share": 1.0}));
        let doubles = ["ZRANGE doubles 0 -1 WITHSCORES", "ZSCORE doubles a", "ZSCORE doubles d"];
        compare_each(&pair, &mut client, cases.iter().map(|(at, case)| of(*at, case.2)).chain(doubles.map(str::to_owned)));
        let told = assert_none(&pair);
        assert_eq!((count(&told, "unexplained"), count(&told, "explained")), (0, 0), "{old:?} {new:?} {told}");
        assert!(count(&told, "equal") > 30, "{told}");
    }
}

/// H25: a read at a position while EXEC of a watching client is in flight on a connection of its own: the read stands before or behind the
/// transaction on both sides.
#[test]
fn h25_a_read_beside_a_watching_exec_is_no_difference() {
    let pair = Pair::plain().unwrap();
    change(&pair, json!({"share": 1.0}));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watchers = [0, 1, 2].map(|at| {
        let (mut client, stop, done) = (pair.client().unwrap(), stop.clone(), done.clone());
        std::thread::spawn(move || {
            let key = format!("counter:{}", at % 2);
            while !stop.load(Ordering::Relaxed) {
                client.cmd(&format!("WATCH {key}")).unwrap();
                let value: i64 = client.cmd(&format!("GET {key}")).unwrap().text().parse().unwrap_or(0);
                let block = [
                    command("MULTI"),
                    command(&format!("SET {key} {}", value + 1)),
                    command("LPUSH log x"),
                    command("LTRIM log 0 9"),
                    command("EXEC"),
                ];
                done.fetch_add(u64::from(!client.pipeline(&block).unwrap()[4].is_nil()), Ordering::Relaxed);
            }
        })
    });
    let mut client = pair.client().unwrap();
    until("reads beside transactions", PATIENCE, || {
        run(&mut client, (0..100).map(|n| ["GET counter:0", "MGET counter:0 counter:1", "LRANGE log 0 -1", "LLEN log"][n % 4].to_owned()));
        Ok(count(&look(&pair), "equal") > 2_000 && done.load(Ordering::Relaxed) > 20)
    })
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    watchers.into_iter().for_each(|watcher| watcher.join().unwrap());
    assert_eq!(count(&assert_none(&pair), "unexplained"), 0);
    pair.assert_equal().unwrap();
}
