//! The comparer must be able to fail: every kind of difference is planted by hand and has to be found, and every pair
//! that is equal in another shape has to pass.
//!
//! Each case starts from two servers with the same keys, does something to one or both, and names the kinds of
//! differences that the comparer must report (`""`: none). Between cases both servers are flushed.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::compare::{Options, compare, digest_check};
use twinlane_tests::resp::{Client, Value};
use twinlane_tests::servers::{Server, Version};

/// Two servers and a connection to each.
struct Pair {
    servers: [Server; 2],
    old: Client,
    new: Client,
}

impl Pair {
    fn start(old: Version, new: Version) -> Pair {
        let servers = [Server::plain(old).unwrap(), Server::plain(new).unwrap()];
        let (old, new) = (servers[0].client().unwrap(), servers[1].client().unwrap());
        Pair { servers, old, new }
    }

    /// The kinds that the comparer reports, sorted, with their keys: `"missing k, ttl t"`.
    fn findings(&self) -> String {
        let report = compare(&self.servers[0].address(), &self.servers[1].address(), &Options::default()).unwrap();
        assert_eq!(report.differing as usize, report.differences.len());
        let finding = |d: &twinlane_tests::compare::Difference| {
            let db = if d.db == 0 { String::new() } else { format!("{}/", d.db) };
            format!("{} {db}{}", d.kind, d.key.escape_ascii())
        };
        let mut kinds: Vec<String> = report.differences.iter().map(finding).collect();
        kinds.sort();
        kinds.join(", ")
    }

    /// Common content on both, then each side's own commands; the comparer must report `expect`.
    fn check(&mut self, both: &[&str], old: &[&str], new: &[&str], expect: &str) {
        run(&mut self.old, &["SELECT 0", "FLUSHALL"]);
        run(&mut self.new, &["SELECT 0", "FLUSHALL"]);
        run(&mut self.old, both);
        run(&mut self.new, both);
        run(&mut self.old, old);
        run(&mut self.new, new);
        assert_eq!(self.findings(), expect, "both {both:?}, old {old:?}, new {new:?}");
    }

    /// `new` alone does something; before it both are equal.
    fn plant(&mut self, both: &[&str], new: &[&str], expect: &str) {
        self.check(both, &[], &[], "");
        self.check(both, &[], new, expect);
    }
}

fn run(client: &mut Client, lines: &[&str]) {
    for line in lines {
        let reply = client.cmd(line).unwrap();
        assert!(!reply.is_error(), "{line}: {reply}");
    }
}

const STREAM: &[&str] =
    &["XADD s 1-1 a 1", "XADD s 2-1 b 2", "XADD s 3-1 c 3", "XGROUP CREATE s g 0", "XREADGROUP GROUP g ann COUNT 2 STREAMS s >"];

/// One of each type, each within the small reads.
const ONE_OF_EACH: &[&str] = &[
    "SET string value",
    "RPUSH list a b c",
    "SADD set a b c",
    "HSET hash f 1 g 2",
    "ZADD zset 0.1 a 2 b",
    "PFADD hll a b c d",
    "SET volatile v PX 100000",
];

#[test]
fn every_planted_difference_is_found() {
    plant_all(&mut Pair::start(Version::Redis70, Version::Redis70));
}

#[test]
fn every_planted_difference_is_found_between_versions() {
    plant_all(&mut Pair::start(Version::Redis62, Version::Valkey91));
    plant_all(&mut Pair::start(Version::Redis50, Version::Redis70));
    plant_all(&mut Pair::start(Version::Valkey81, Version::Redis62));
}

fn plant_all(pair: &mut Pair) {
    let each = ONE_OF_EACH;
    pair.plant(each, &["SET string valuf"], "value string");
    pair.plant(each, &["DEL string"], "missing string");
    pair.plant(each, &["SET more 1"], "extra more");
    pair.plant(each, &["DEL list", "SET list x"], "type list");
    pair.plant(each, &["DEL list", "RPUSH list b a c"], "value list");
    pair.plant(each, &["LSET list 1 x"], "value list");
    pair.plant(each, &["RPUSH list d"], "value list");
    pair.plant(each, &["SREM set a", "SADD set x"], "value set");
    pair.plant(each, &["SREM set a"], "value set");
    pair.plant(each, &["HSET hash f 9"], "value hash");
    pair.plant(each, &["HDEL hash f", "HSET hash h 1"], "value hash");
    pair.plant(each, &["HSET hash f 2 g 1"], "value hash");
    pair.plant(each, &["ZADD zset 0.10000000000000002 a"], "value zset");
    pair.plant(each, &["ZREM zset a", "ZADD zset 0.1 x"], "value zset");
    pair.plant(each, &["PFADD hll e"], "value hll");
    pair.plant(each, &["PERSIST volatile"], "ttl volatile");
    pair.plant(each, &["PEXPIRE string 100000"], "ttl string");
    pair.plant(each, &["PEXPIRE volatile 103000"], "ttl volatile");
    pair.plant(each, &["PEXPIRE volatile 90000", "APPEND volatile w"], "ttl volatile, value volatile");
    pair.plant(each, &["DEL volatile"], "missing volatile");
    pair.plant(each, &["SELECT 3", "SET string value"], "extra 3/string");
    pair.plant(&["SELECT 5", "SET k v"], &["SET k w"], "value 5/k");
    streams(pair);
    if pair.servers.iter().all(|server| server.version().at_least_7()) {
        functions(pair);
    }
}

fn streams(pair: &mut Pair) {
    pair.plant(STREAM, &["XADD s 4-1 d 4"], "value s");
    pair.plant(STREAM, &["XDEL s 2-1"], "value s");
    pair.plant(STREAM, &["XADD s 4-1 d 4", "XDEL s 4-1"], "value s");
    pair.plant(STREAM, &["XSETID s 9-9"], "value s");
    pair.plant(STREAM, &["XGROUP CREATE s h 0"], "value s");
    pair.plant(STREAM, &["XGROUP DESTROY s g"], "value s");
    pair.plant(STREAM, &["XGROUP SETID s g 3-1"], "value s");
    pair.plant(STREAM, &["XACK s g 1-1"], "value s");
    pair.plant(STREAM, &["XCLAIM s g ann 0 1-1"], "value s");
    pair.plant(STREAM, &["XCLAIM s g ann 0 1-1 RETRYCOUNT 7"], "value s");
    pair.plant(STREAM, &["XCLAIM s g ben 0 1-1 RETRYCOUNT 1"], "value s");
    // The same consumers with the same counts, but not of the same entries.
    let shared = [STREAM, &["XCLAIM s g ben 0 1-1 RETRYCOUNT 1"]].concat();
    let swapped = ["XCLAIM s g ann 0 1-1 RETRYCOUNT 1", "XCLAIM s g ben 0 2-1 RETRYCOUNT 1"];
    pair.plant(&shared, &swapped, "value s");
    // A consumer that waits for nothing.
    pair.plant(STREAM, &["XREADGROUP GROUP g ben COUNT 1 STREAMS s 0"], "value s");
    pair.check(&["XADD s 1-1 a 1"], &[], &["XDEL s 1-1", "XADD s 1-2 a 1"], "value s");
}

fn functions(pair: &mut Pair) {
    let library = |body: &str| format!("#!lua name=lib\nredis.register_function('f', function(keys, args) return {body} end)").into_bytes();
    let load = |client: &mut Client, body: &str| {
        let reply = client.call(&[b"FUNCTION", b"LOAD", b"REPLACE", &library(body)]).unwrap();
        assert_eq!(reply, Value::Bulk(b"lib".to_vec()));
    };
    load(&mut pair.old, "1");
    pair.check(&[], &[], &[], "function lib");
    load(&mut pair.new, "2");
    pair.check(&[], &[], &[], "function lib");
    load(&mut pair.new, "1");
    pair.check(&[], &[], &[], "");
    run(&mut pair.old, &["FUNCTION FLUSH"]);
    pair.check(&[], &[], &[], "function lib");
    run(&mut pair.new, &["FUNCTION FLUSH"]);
}

#[test]
fn equal_in_another_shape_is_equal() {
    equal_shapes(&mut Pair::start(Version::Redis70, Version::Redis70));
    equal_shapes(&mut Pair::start(Version::Redis50, Version::Valkey91));
    equal_shapes(&mut Pair::start(Version::Redis62, Version::Valkey81));
}

fn equal_shapes(pair: &mut Pair) {
    pair.check(&[], &[], &[], "");
    pair.check(&[], &["SADD s a b c"], &["SADD s c", "SADD s b a"], "");
    pair.check(&[], &["HSET h a 1 b 2"], &["HSET h b 2 a 1"], "");
    // The same value in another encoding: ints against a table, listpack against a skip list, int against raw.
    pair.check(&[], &["SADD s 1 2 3"], &["SADD s 1 2 3 x", "SREM s x"], "");
    pair.check(&[], &["SET n 12"], &["SET n 1", "APPEND n 2"], "");
    let long = "x".repeat(300);
    let (add, rem) = (format!("ZADD z 1 {long}"), format!("ZREM z {long}"));
    pair.check(&[], &["ZADD z 0.1 a inf b -inf c 1e300 d"], &[&add, "ZADD z 0.1 a inf b -inf c 1e300 d", &rem], "");
    // A HyperLogLog whose cardinality one side has cached, and one that is dense here and sparse there.
    pair.check(&["PFADD h a b c"], &["PFCOUNT h"], &["PFADD h a"], "");
    pair.check(&["PFADD h a b c"], &["PFCOUNT h"], &[], "");
    pair.check(&["CONFIG SET hll-sparse-max-bytes 3000"], &[], &["CONFIG SET hll-sparse-max-bytes 0"], "");
    run(&mut pair.old, &["PFADD h a b c d"]);
    run(&mut pair.new, &["PFADD h a b c d"]);
    let lengths = [pair.old.cmd("STRLEN h").unwrap(), pair.new.cmd("STRLEN h").unwrap()];
    assert_ne!(lengths[0], lengths[1], "one is sparse, one dense");
    assert_eq!(pair.findings(), "");
    run(&mut pair.new, &["PFADD h e"]);
    assert_eq!(pair.findings(), "value h");
    run(&mut pair.new, &["CONFIG SET hll-sparse-max-bytes 3000"]);
    // Times of delivery are not part of a stream's value.
    pair.check(STREAM, &["XCLAIM s g ann 0 1-1 IDLE 5000 RETRYCOUNT 3"], &["XCLAIM s g ann 0 1-1 RETRYCOUNT 3"], "");
    // TTLs within the tolerance, and a key that is about to die.
    pair.check(&[], &["SET k v PX 50000"], &["SET k v PX 51000"], "");
    pair.check(&[], &["SET k v PX 1500"], &[], "");
    pair.check(&[], &[], &["XADD k 1-1 a b", "PEXPIRE k 1500"], "");
    pair.check(&[], &["SET k v PX 60000"], &[], "missing k");
    // The proxy's own keys.
    pair.check(&[], &["SET __twinlane:a 1"], &["SET __twinlane:a 2", "SET __twinlane:b 1"], "");
}

/// Where both sides let fields expire by themselves, a field's TTL counts like a key's.
#[test]
fn ttls_of_hash_fields_are_compared() {
    let mut pair = Pair::start(Version::Valkey91, Version::Valkey91);
    let small = "HSET h a 1 b 2 c 3".to_string();
    let fields: Vec<String> = (0..1_000).map(|i| format!("f{i} {i}")).collect();
    let big = format!("HSET h a 1 {}", fields.join(" "));
    for hash in [small, big] {
        let expire = "HPEXPIRE h 100000 FIELDS 1 a";
        pair.check(&[&hash, expire], &[], &[], "");
        pair.check(&[&hash, expire], &[], &["HPEXPIRE h 100500 FIELDS 1 a"], "");
        pair.check(&[&hash, expire], &[], &["HPEXPIRE h 110000 FIELDS 1 a"], "ttl h");
        pair.check(&[&hash, expire], &[], &["HPERSIST h FIELDS 1 a"], "ttl h");
        pair.check(&[&hash], &[expire], &[], "ttl h");
    }
}

/// Big values are read in pieces; one wrong element far inside must be found, and nothing else.
#[test]
fn differences_deep_inside_big_values_are_found() {
    let mut pair = Pair::start(Version::Redis70, Version::Valkey91);
    run(&mut pair.old, &["FLUSHALL"]);
    for client in [&mut pair.old, &mut pair.new] {
        for start in (0..5_000).step_by(500) {
            let ids = start..start + 500;
            let each = |f: &dyn Fn(u32) -> String| ids.clone().map(f).collect::<Vec<_>>().join(" ");
            run(client, &[&format!("RPUSH list {}", each(&|i| format!("e{i}")))]);
            run(client, &[&format!("SADD set {}", each(&|i| format!("e{i}")))]);
            run(client, &[&format!("HSET hash {}", each(&|i| format!("f{i} v{i}")))]);
            run(client, &[&format!("ZADD zset {}", each(&|i| format!("{i}.1 e{i}")))]);
            for id in ids {
                run(client, &[&format!("XADD stream {id}-1 f {id}")]);
            }
        }
        run(client, &["XGROUP CREATE stream g 0", "XREADGROUP GROUP g c COUNT 4000 STREAMS stream >"]);
        let big = vec![b'x'; 3_000_000];
        assert!(client.call(&[b"SET", b"big", &big]).unwrap().is_ok());
    }
    assert_eq!(pair.findings(), "");
    let one_by_one = [
        ("LSET list 4321 x", "LSET list 4321 e4321", "value list"),
        ("SREM set e4321", "SADD set e4321", "value set"),
        ("HSET hash f4321 x", "HSET hash f4321 v4321", "value hash"),
        ("ZADD zset 4321.100000000001 e4321", "ZADD zset 4321.1 e4321", "value zset"),
        ("SETRANGE big 2999999 y", "SETRANGE big 2999999 x", "value big"),
        ("SETRANGE big 3000000 y", "SET big x", "value big"),
        ("XACK stream g 3999-1", "XGROUP DESTROY stream g", "value big, value stream"),
        ("XDEL stream 4500-1", "DEL stream", "value big, value stream"),
    ];
    for (plant, undo, expect) in one_by_one {
        run(&mut pair.new, &[plant]);
        assert_eq!(pair.findings(), expect, "{plant}");
        run(&mut pair.new, &[undo]);
    }
}

/// More keys than one batch or one SCAN step, one of them wrong.
#[test]
fn one_wrong_key_among_many_is_found() {
    let mut pair = Pair::start(Version::Redis62, Version::Redis70);
    for client in [&mut pair.old, &mut pair.new] {
        for start in (0..20_000).step_by(1_000) {
            let keys = (start..start + 1_000).map(|i| format!("key:{i} {i}")).collect::<Vec<_>>().join(" ");
            run(client, &[&format!("MSET {keys}")]);
        }
    }
    run(&mut pair.new, &["SET key:7777 x", "DEL key:8888", "SET key:more 1"]);
    assert_eq!(pair.findings(), "extra key:more, missing key:8888, value key:7777");
    let report = compare(&pair.servers[0].address(), &pair.servers[1].address(), &Options::default()).unwrap();
    assert_eq!(report.keys_compared, 20_001);
    assert!(report.into_result().is_err());
}

/// The servers' own digests agree with us, and see a planted difference.
#[test]
fn digests_are_a_second_witness() {
    let mut pair = Pair::start(Version::Redis70, Version::Redis70);
    let digests = |pair: &Pair| {
        let addresses = [pair.servers[0].address(), pair.servers[1].address()];
        digest_check(&addresses[0], &addresses[1], &Options::default()).unwrap()
    };
    pair.check(ONE_OF_EACH, &["PFCOUNT hll"], &[], "");
    assert_eq!(digests(&pair).differing, 0);
    assert_eq!(digests(&pair).keys_compared, ONE_OF_EACH.len() as u64);
    run(&mut pair.new, &["HSET hash f 7", "SET more 1", "DEL set"]);
    assert_eq!(digests(&pair).differing, 3);
}
