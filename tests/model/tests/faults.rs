//! The faults that a simulation injects: each does to the model what it does to a real server, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use twinlane_model::server::{OOM, encode};
use twinlane_model::{ConnId, ModelServer, diff};

const NOW: u64 = 1_000_000;

fn ask(server: &mut ModelServer, conn: ConnId, line: &str, now: u64) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    server.feed(conn, &encode(&words), now);
    server.step(conn, now);
    String::from_utf8(server.take_output(conn)).unwrap()
}

#[test]
fn a_hung_up_connection_still_executes_what_it_sent() {
    let mut server = ModelServer::new(1, 1);
    let (old, new) = (server.open(), server.open());
    server.feed(old, &encode(&["SET", "k", "late"]), NOW);
    server.feed(old, &encode(&["SET", "k", "later"]), NOW);
    server.hang_up(old);
    assert_eq!(ask(&mut server, new, "GET k", NOW), "$-1\r\n");
    assert!(server.step(old, NOW));
    assert_eq!(ask(&mut server, new, "GET k", NOW), "$4\r\nlate\r\n");
    assert_eq!(ask(&mut server, new, &format!("CLIENT KILL ID {old}"), NOW), ":1\r\n");
    assert!(!server.step(old, NOW), "a killed connection executes nothing");
    assert_eq!(ask(&mut server, new, "GET k", NOW), "$4\r\nlate\r\n");
    assert_eq!(ask(&mut server, new, &format!("CLIENT KILL ID {old}"), NOW), ":0\r\n");
}

#[test]
fn a_frame_in_two_pieces_is_one_command() {
    let mut server = ModelServer::new(1, 1);
    let conn = server.open();
    let bytes = encode(&["SET", "k", "value"]);
    for cut in 1..bytes.len() {
        server.feed(conn, &bytes[..cut], NOW);
        assert!(!server.step(conn, NOW));
        server.feed(conn, &bytes[cut..], NOW);
        assert!(server.step(conn, NOW));
        assert_eq!(server.take_output(conn), b"+OK\r\n");
    }
}

#[test]
fn refused_writes_change_nothing_and_abort_a_transaction() {
    let mut server = ModelServer::new(1, 1);
    let conn = server.open();
    ask(&mut server, conn, "MULTI", NOW);
    ask(&mut server, conn, "SET k 1", NOW);
    server.refuse_with = Some(OOM.to_string());
    assert_eq!(ask(&mut server, conn, "EXEC", NOW), format!("-EXECABORT Transaction discarded because of: {OOM}\r\n"));
    assert_eq!(ask(&mut server, conn, "SET k 1", NOW), format!("-{OOM}\r\n"));
    assert_eq!(ask(&mut server, conn, "GET k", NOW), "$-1\r\n");
    server.refuse_with = None;
    assert_eq!(ask(&mut server, conn, "SET k 1", NOW), "+OK\r\n");
}

#[test]
fn a_full_server_takes_what_frees_memory_outside_of_a_transaction_alone() {
    let mut server = ModelServer::new(1, 1);
    let conn = server.open();
    ask(&mut server, conn, "SET k 1", NOW);
    server.full = true;
    assert_eq!(ask(&mut server, conn, "SET k 2", NOW), format!("-{OOM}\r\n"));
    assert_eq!(ask(&mut server, conn, "MULTI", NOW), "+OK\r\n");
    assert_eq!(ask(&mut server, conn, "GET k", NOW), format!("-{OOM}\r\n"));
    assert_eq!(ask(&mut server, conn, "EXEC", NOW), "-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_eq!(ask(&mut server, conn, "GET k", NOW), "$1\r\n1\r\n");
    assert_eq!(ask(&mut server, conn, "DEL k", NOW), ":1\r\n");
}

#[test]
fn keys_die_of_access_of_the_cycle_and_of_eviction() {
    let mut server = ModelServer::new(1, 2);
    let conn = server.open();
    for key in ["a", "b", "c"] {
        ask(&mut server, conn, &format!("SET {key} 1 PX 100"), NOW);
    }
    assert_eq!(ask(&mut server, conn, "PTTL a", NOW + 40), ":60\r\n");
    assert!(server.evict(0, b"c"));
    assert_eq!(ask(&mut server, conn, "GET a", NOW + 101), "$-1\r\n");
    assert_eq!(server.expire_cycle(NOW + 101), [(0, b"b".to_vec())]);
    assert_eq!((server.expired_keys, server.evicted_keys), (2, 1));
    assert!(ask(&mut server, conn, "INFO", NOW).contains("evicted_keys:1\r\n"));
}

#[test]
fn a_restart_ends_every_connection_and_changes_the_run_id() {
    let mut server = ModelServer::new(1, 1);
    let conn = server.open();
    ask(&mut server, conn, "SET k 1", NOW);
    let before = server.run_id().to_string();
    server.restart_with_data(2);
    assert!(!server.is_open(conn) && server.run_id() != before && server.run_id().len() == 40);
    let conn = server.open();
    assert_eq!(ask(&mut server, conn, "GET k", NOW), "$1\r\n1\r\n");
    server.restart_empty(3);
    let conn = server.open();
    assert_eq!(ask(&mut server, conn, "GET k", NOW), "$-1\r\n");
}

#[test]
fn an_image_carries_every_type_and_a_newer_version_is_refused() {
    let mut old = ModelServer::new(1, 1);
    let mut new = ModelServer::new(2, 1);
    new.rdb_version = 11;
    let conn = new.open();
    for line in [
        "SET str v",
        "RPUSH list a b",
        "HSET hash f v",
        "SADD set a b c",
        "ZADD zset 1.5 a -inf b",
        "XADD stream 1-1 f v",
        "XADD stream 2-1 f v",
        "XGROUP CREATE stream g 0",
        "XREADGROUP GROUP g c COUNT 1 STREAMS stream >",
        "XDEL stream 2-1",
    ] {
        ask(&mut new, conn, line, NOW);
    }
    for version in [11, 10] {
        new.rdb_version = version;
        for key in ["str", "list", "hash", "set", "zset", "stream"] {
            let dump = new.run(0, &[b"DUMP", key.as_bytes()], NOW);
            let start = dump.iter().position(|b| *b == b'\n').unwrap() + 1;
            let answer = old.run(0, &[b"RESTORE", key.as_bytes(), b"0", &dump[start..dump.len() - 2]], NOW);
            let expect: &[u8] = if version == 11 { b"-ERR DUMP payload version or checksum are wrong\r\n" } else { b"+OK\r\n" };
            assert_eq!(answer, expect, "{key}");
        }
    }
    assert_eq!(diff(&old, &new, [NOW; 2], 0), Vec::<String>::new());
}

#[test]
fn every_kind_of_difference_is_found_once() {
    let base = [
        "SET str v",
        "HSET hash f v g w",
        "SADD set a b",
        "ZADD zset 1 a",
        "RPUSH list a b",
        "XADD stream 1-1 f v",
        "XGROUP CREATE stream g 0",
        "SET ttl v PX 10000",
    ];
    let changes = [
        "SET str w",
        "SET other v",
        "DEL str",
        "HSET hash f x",
        "HDEL hash g",
        "SADD set c",
        "ZADD zset 2 a",
        "LSET list 0 b",
        "XADD stream 2-1 f v",
        "XDEL stream 1-1",
        "XGROUP CREATE stream h 0",
        "XGROUP SETID stream g 1-1",
        "XREADGROUP GROUP g c STREAMS stream >",
        "XGROUP CREATECONSUMER stream g c",
        "PEXPIRE ttl 90000",
        "PERSIST ttl",
        "PEXPIRE str 90000",
        "RENAME str moved",
        "MOVE str 1",
    ];
    let build = |extra: &[&str]| {
        let mut server = ModelServer::new(1, 2);
        let conn = server.open();
        for line in base.iter().chain(extra) {
            assert!(!ask(&mut server, conn, line, NOW).starts_with('-'), "{line}");
        }
        server
    };
    for change in changes {
        let expect = if change.starts_with("RENAME") || change.starts_with("MOVE") { 2 } else { 1 };
        assert_eq!(diff(&build(&[]), &build(&[change]), [NOW; 2], 1000).len(), expect, "{change}");
        assert_eq!(diff(&build(&[change]), &build(&[]), [NOW; 2], 1000).len(), expect, "{change} on the left");
    }
    let same = ["SET __twinlane:x 1", "PEXPIRE ttl 10500", "HSET hash f v"];
    assert_eq!(diff(&build(&[]), &build(&same), [NOW; 2], 1000), Vec::<String>::new());
    assert_eq!(
        diff(&build(&["SET dead v PX 1"]), &build(&[]), [NOW + 5; 2], 1000),
        Vec::<String>::new(),
        "an expired key is no difference"
    );
}
