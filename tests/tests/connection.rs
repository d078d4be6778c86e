//! Everything about a connection: what a client can ask about itself, about other clients and about the server. A plain server of the same
//! version is asked the same, and the answers must have the same shape; where the answer is about clients, the clients are the
//! proxy's.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::time::Instant;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::Options;
use twinlane_tests::resp::{Client, Value, is_timeout};
use twinlane_tests::servers::{Server, Version};

const VERSIONS: [Version; 5] = [Version::Redis50, Version::Redis62, Version::Redis70, Version::Valkey81, Version::Valkey91];

fn pair_of(version: Version) -> Pair {
    Pair::start(Setup::of(version, version)).unwrap()
}

/// Both protocols that a version speaks.
fn protocols(version: Version) -> &'static [u8] {
    if version.has_resp3() { &[2, 3] } else { &[2] }
}

fn connect(client: anyhow::Result<Client>, resp: u8) -> Client {
    let mut client = client.unwrap();
    if resp == 3 {
        client.hello3().unwrap();
    }
    client
}

fn field(line: &str, name: &str) -> String {
    let found = line.split_whitespace().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{name} in {line}")).to_owned()
}

/// The text of a bulk or verbatim reply.
fn text(value: &Value) -> String {
    let text = value.text();
    text.strip_prefix("txt:").unwrap_or(&text).to_owned()
}

fn blocked(client: &mut Client) -> String {
    info_field(&text(&client.cmd("INFO clients").unwrap()), "blocked_clients").unwrap()
}

fn info_field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
}

/// A reply as text, up to the id in a greeting, which is each server's own.
fn without_id(reply: &Value) -> String {
    reply.to_string().split("\"id\": ").next().unwrap().to_owned()
}

/// A line of CLIENT LIST has the fields of the primary's version, in their order, and speaks of the client that connected to
/// the proxy: its own address, name, database, protocol, transaction, last command.
#[test]
fn client_list_has_the_fields_of_the_primarys_version() {
    for version in VERSIONS {
        let pair = pair_of(version);
        let plain = Server::plain(version).unwrap();
        for resp in protocols(version) {
            let mut ours = connect(pair.client(), *resp);
            let mut theirs = connect(plain.client(), *resp);
            let names = |lines: &str| -> Vec<String> {
                let line = lines.lines().last().unwrap();
                line.split_whitespace().map(|part| part.split('=').next().unwrap().to_owned()).collect()
            };
            for client in [&mut ours, &mut theirs] {
                assert!(client.cmd("CLIENT SETNAME somebody").unwrap().is_ok());
                assert!(client.cmd("SELECT 3").unwrap().is_ok());
            }
            let (own, other) = (ours.cmd("CLIENT LIST").unwrap(), theirs.cmd("CLIENT LIST").unwrap());
            assert_eq!(std::mem::discriminant(&own), std::mem::discriminant(&other), "{version:?} RESP{resp}");
            assert_eq!(names(&text(&own)), names(&text(&other)), "{version:?} RESP{resp}");
            let (own, other) = (text(&own), text(&other));
            let (own, other) = (own.lines().last().unwrap(), other.lines().last().unwrap());
            for name in ["name", "db", "flags", "multi", "sub", "psub", "cmd", "qbuf"] {
                assert_eq!(field(own, name), field(other, name), "{version:?} RESP{resp} {name}");
            }
            if version.at_least_7() {
                assert_eq!(field(own, "resp"), resp.to_string());
                assert_eq!(field(own, "laddr"), pair.proxy.address());
                assert_eq!(field(own, "user"), "default");
            }
            assert!(field(own, "addr").starts_with("127.0.0.1:"), "{own}");
            assert!(ours.cmd("MULTI").unwrap().is_ok());
            let id = field(own, "id");
            let mut observer = pair.client().unwrap();
            assert_eq!(ours.cmd("PING").unwrap().text(), "QUEUED");
            let list = text(&observer.cmd("CLIENT LIST").unwrap());
            let line = list.lines().find(|line| field(line, "id") == id).unwrap();
            assert_eq!((field(line, "flags"), field(line, "multi")), ("x".to_owned(), "1".to_owned()));
        }
    }
}

/// CLIENT KILL by each of its filters: the counts and errors of a plain server, and the one that asks dies behind its reply.
#[test]
fn client_kill_counts_and_refuses_as_a_server_does() {
    for version in VERSIONS {
        let (pair, plain) = (pair_of(version), Server::plain(version).unwrap());
        let addresses = [pair.proxy.address(), plain.address()];
        let each = |line: &str| -> [String; 2] {
            addresses.each_ref().map(|address| Client::connect(address.as_str()).unwrap().cmd(line).unwrap().to_string())
        };
        let mut differ = Vec::new();
        for line in [
            "CLIENT KILL",
            "CLIENT KILL 1.2.3.4:5",
            "CLIENT KILL ID",
            "CLIENT KILL ID x",
            "CLIENT KILL ID 123456",
            "CLIENT KILL ADDR 1.2.3.4:5",
            "CLIENT KILL LADDR 1.2.3.4:5",
            "CLIENT KILL TYPE nonsense",
            "CLIENT KILL TYPE replica",
            "CLIENT KILL TYPE pubsub",
            "CLIENT KILL USER nobody",
            "CLIENT KILL SKIPME maybe",
            "CLIENT KILL MAXAGE 100000",
            "CLIENT KILL nonsense x",
            "CLIENT LIST TYPE normal x",
            "CLIENT LIST TYPE nonsense",
            "CLIENT LIST ID x",
            "CLIENT UNBLOCK x",
            "CLIENT UNBLOCK 1 maybe",
            "CLIENT UNBLOCK 123456",
            "CLIENT NO-EVICT maybe",
            "CLIENT NO-TOUCH on",
            "CLIENT SETINFO lib-name x",
            "CLIENT SETINFO nonsense x",
            "CLIENT GETREDIR",
            "CLIENT nonsense",
            "CLIENT HELP",
            "CLIENT REPLY maybe",
            "CLIENT PAUSE x",
            "CLIENT PAUSE -1",
            "CLIENT PAUSE 1 maybe",
            "CLIENT UNPAUSE",
            "CLIENT TRACKINGINFO",
        ] {
            let [ours, theirs] = each(line);
            if ours != theirs {
                differ.push(format!("{version:?} {line}: {ours} instead of {theirs}"));
            }
        }
        assert!(differ.is_empty(), "{differ:#?}");
        let mut one = pair.client().unwrap();
        let mut two = pair.client().unwrap();
        let (own, other) = (one.cmd("CLIENT ID").unwrap().int().unwrap(), two.cmd("CLIENT ID").unwrap().int().unwrap());
        assert_eq!(one.cmd(&format!("CLIENT KILL ID {other}")).unwrap(), Value::Int(1));
        assert!(two.cmd("PING").is_err(), "{version:?}: the killed connection is closed");
        // Oneself is skipped, unless told otherwise: then the reply comes first.
        assert_eq!(one.cmd(&format!("CLIENT KILL ID {own}")).unwrap(), Value::Int(0));
        assert_eq!(one.cmd(&format!("CLIENT KILL ID {own} SKIPME no")).unwrap(), Value::Int(1));
        assert!(one.cmd("PING").is_err(), "{version:?}: it killed itself");
        drop((one, two));
        // The old form names an address.
        let (mut one, mut two) = (pair.client().unwrap(), pair.client().unwrap());
        let id = two.cmd("CLIENT ID").unwrap().int().unwrap();
        let list = text(&one.cmd("CLIENT LIST").unwrap());
        let address = field(list.lines().find(|line| field(line, "id") == id.to_string()).unwrap(), "addr");
        assert!(one.cmd(&format!("CLIENT KILL {address}")).unwrap().is_ok());
        assert!(two.cmd("PING").is_err());
        drop((one, two));
        // What the killed one had sent is answered to nobody and mirrored all the same.
        let (mut one, mut two) = (pair.client().unwrap(), pair.client().unwrap());
        two.cmd("SET killed soon").unwrap();
        until("the others to be gone", PATIENCE, || Ok(text(&one.cmd("CLIENT LIST")?).lines().count() == 2)).unwrap();
        assert_eq!(one.cmd("CLIENT KILL TYPE normal").unwrap(), Value::Int(1));
        assert!(two.cmd("PING").is_err());
        pair.assert_equal().unwrap();
    }
}

/// CLIENT PAUSE holds writes, or everything, at the proxy; a flip in the middle of it works, and what was held then runs on the new
/// primary.
#[test]
fn client_pause_holds_writes_and_a_flip_goes_on_below_it() {
    let pair = Pair::plain().unwrap();
    let (mut boss, mut reader, mut writer, mut block) =
        (pair.client().unwrap(), pair.client().unwrap(), pair.client().unwrap(), pair.client().unwrap());
    writer.cmd("SET k before").unwrap();
    assert!(block.cmd("MULTI").unwrap().is_ok());
    assert_eq!(block.cmd("SET block held").unwrap().text(), "QUEUED");
    assert!(boss.cmd("CLIENT PAUSE 600000 WRITE").unwrap().is_ok());
    writer.send(&["SET", "k", "behind"]).unwrap();
    block.send(&["EXEC"]).unwrap();
    until("both writers to be held", PATIENCE, || Ok(blocked(&mut boss) == "2")).unwrap();
    assert_eq!(reader.cmd("GET k").unwrap().text(), "before");
    assert_eq!(text(&reader.cmd("EVAL_RO return{'x'} 0").unwrap_or(Value::Null)), "");
    pair.cutover().unwrap();
    assert_eq!(reader.cmd("GET k").unwrap().text(), "before");
    assert_eq!(blocked(&mut boss), "2", "the flip lets nobody out");
    assert!(boss.cmd("CLIENT UNPAUSE").unwrap().is_ok());
    assert!(writer.reply().unwrap().is_ok());
    assert_eq!(block.reply().unwrap().items().len(), 1);
    assert_eq!(pair.new.client().unwrap().cmd("GET k").unwrap().text(), "behind");
    // Everything is held, and ends by itself.
    let began = std::time::Instant::now();
    assert!(boss.cmd("CLIENT PAUSE 300 ALL").unwrap().is_ok());
    assert_eq!(reader.cmd("GET k").unwrap().text(), "behind");
    assert!(began.elapsed().as_millis() >= 300, "it was held");
    assert_eq!(blocked(&mut boss), "0");
    pair.assert_equal().unwrap();
}

/// INFO is the primary's; what speaks of clients is ours, the reserved key is not counted, and our own section follows.
#[test]
fn info_speaks_of_the_proxys_clients() {
    for version in VERSIONS {
        let pair = pair_of(version);
        for resp in protocols(version) {
            let mut client = connect(pair.client(), *resp);
            let _others: Vec<Client> = (0..6).map(|_| connect(pair.client(), 2)).collect();
            until("all to be connected", PATIENCE, || {
                Ok(info_field(&text(&client.cmd("INFO")?), "connected_clients").as_deref() == Some("7"))
            })
            .unwrap();
            let whole = client.cmd("INFO").unwrap();
            let info = text(&whole);
            assert_eq!(matches!(whole, Value::Verbatim(_)), *resp == 3);
            assert!(info_field(&info, "redis_version").is_some());
            assert_eq!(info_field(&info, "twinlane_primary").as_deref(), Some("old"));
            assert!(info.contains("\r\n\r\n# Twinlane\r\n"), "{info}");
            let clients = text(&client.cmd("INFO clients").unwrap());
            assert!(clients.starts_with("# Clients\r\n") && !clients.contains("Twinlane"), "{clients}");
            let ours = text(&client.cmd("INFO twinlane").unwrap());
            assert!(ours.starts_with("# Twinlane\r\n"), "{ours}");
            until("the gate to open", PATIENCE, || {
                Ok(info_field(&text(&client.cmd("INFO twinlane")?), "twinlane_gate").as_deref() == Some("open"))
            })
            .unwrap();
            // While the sides are being met, a key of ours shows for milliseconds whether they are one server.
            until("no key to be counted", PATIENCE, || Ok(info_field(&text(&client.cmd("INFO keyspace")?), "db0").is_none())).unwrap();
            client.cmd("MULTI").unwrap();
            client.cmd("SET k v").unwrap();
            client.cmd("INFO").unwrap();
            let replies = client.cmd("EXEC").unwrap();
            let inside = text(&replies.items()[1]);
            assert_eq!(info_field(&inside, "connected_clients").as_deref(), Some("7"));
            assert!(info_field(&inside, "db0").unwrap().starts_with("keys=1,"), "{inside}");
            assert!(inside.contains("# Twinlane"));
            if let Ok(stats) = client.cmd("MEMORY STATS") {
                let keys = stats.pairs().iter().find(|(name, _)| name.text() == "keys.count").map(|(_, count)| count.int());
                assert_eq!(keys.flatten(), Some(1));
            }
            client.cmd("DEL k").unwrap();
        }
    }
}

/// With one key beside the reserved one RANDOMKEY finds it, alone and inside MULTI; without any it is nil.
#[test]
fn randomkey_never_draws_the_reserved_key() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    assert!(client.cmd("RANDOMKEY").unwrap().is_nil());
    client.cmd("SET mine 1").unwrap();
    for _ in 0..500 {
        assert_eq!(client.cmd("RANDOMKEY").unwrap().text(), "mine");
    }
    client.cmd("MULTI").unwrap();
    client.cmd("RANDOMKEY").unwrap();
    client.cmd("GET mine").unwrap();
    assert_eq!(client.cmd("EXEC").unwrap().to_string(), "[\"mine\", \"1\"]");
}

/// What is the session's own business is queued and done at its place in EXEC, as Redis does.
#[test]
fn a_connections_own_commands_inside_multi_run_at_exec() {
    for version in VERSIONS {
        let (pair, plain) = (pair_of(version), Server::plain(version).unwrap());
        let run = |mut client: Client| -> Vec<String> {
            let mut lines =
                vec!["MULTI", "CLIENT SETNAME inside", "SET k v", "CLIENT GETNAME", "SELECT 1", "GET k", "UNWATCH", "AUTH wrong"];
            if version.has_resp3() {
                lines.extend(["HGETALL none", "HELLO 3", "HGETALL none", "ACL WHOAMI"]);
            }
            lines.extend([
                "EXEC",
                "CLIENT GETNAME",
                "GET k",
                "HGETALL none",
                "MULTI",
                "NONSENSE",
                "CLIENT GETNAME",
                "EXEC",
                "CLIENT GETNAME",
            ]);
            lines.iter().map(|line| without_id(&client.cmd(line).unwrap())).collect()
        };
        assert_eq!(run(pair.client().unwrap()), run(plain.client().unwrap()), "{version:?}");
        // Pipelined in one packet: what follows EXEC sees what EXEC has done.
        let mut client = pair.client().unwrap();
        let lines = ["MULTI", "CLIENT SETNAME x", "INCR n", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME", "INCR n"];
        let commands: Vec<_> = lines.iter().map(|line| twinlane_tests::resp::command(line)).collect();
        let shown: Vec<String> = client.pipeline(&commands).unwrap().iter().map(Value::to_string).collect();
        assert_eq!(shown[4..], ["[+OK, 1, \"x\"]", "\"x\"", "2"].map(str::to_owned), "{version:?}");
        let own = client.cmd("CLIENT ID").unwrap().int().unwrap();
        client.cmd("MULTI").unwrap();
        client.cmd(&format!("CLIENT KILL ID {own} SKIPME no")).unwrap();
        client.cmd("INCR n").unwrap();
        assert_eq!(client.cmd("EXEC").unwrap().to_string(), "[1, 3]");
        assert!(client.cmd("PING").is_err(), "{version:?}: killed behind EXEC");
        pair.assert_equal().unwrap();
    }
}

/// Questions about the server itself have the answers of a plain server of that version.
#[test]
fn questions_about_the_server_are_answered_as_by_a_plain_one() {
    let mut all = Vec::new();
    for version in VERSIONS {
        let (pair, plain) = (pair_of(version), Server::plain(version).unwrap());
        // While the sides are being met, a key of ours shows for milliseconds whether they are one server.
        let mut client = pair.client().unwrap();
        until("no key to be counted", PATIENCE, || Ok(client.cmd("DBSIZE")?.int() == Some(0))).unwrap();
        // What is slow is the machine's affair.
        for server in [&pair.old, &plain] {
            server.client().unwrap().cmd("CONFIG SET slowlog-log-slower-than -1").unwrap();
        }
        for resp in protocols(version) {
            let (mut ours, mut theirs) = (connect(pair.client(), *resp), connect(plain.client(), *resp));
            for client in [&mut ours, &mut theirs] {
                client.cmd("SET k 1").unwrap();
                client.cmd("SET other 1").unwrap();
                client.cmd("DEL other").unwrap();
            }
            let mut differ = Vec::new();
            for line in [
                "PING",
                "PING x",
                "ECHO x",
                "DBSIZE",
                "LOLWUT VERSION 5 1 1 1",
                "CLUSTER SLOTS",
                "CLUSTER SHARDS",
                "CLUSTER NODES",
                "CLUSTER MYID",
                "CLUSTER KEYSLOT k",
                "READONLY",
                "READWRITE",
                "ASKING",
                "COMMAND COUNT",
                "COMMAND INFO get nonsense",
                "COMMAND LIST FILTERBY PATTERN xadd*",
                "COMMAND LIST FILTERBY ACLCAT nonsense",
                "COMMAND DOCS get",
                "COMMAND GETKEYS mset a 1 b 2",
                "COMMAND GETKEYSANDFLAGS mset a 1 b 2",
                "COMMAND GETKEYS nonsense",
                "COMMAND NONSENSE",
                "OBJECT ENCODING k",
                "OBJECT REFCOUNT none",
                "OBJECT FREQ k",
                "OBJECT HELP",
                "MEMORY USAGE none",
                "MEMORY NONSENSE",
                "MODULE LIST",
                "LATENCY HISTORY command",
                "LATENCY LATEST",
                "SLOWLOG LEN",
                "SLOWLOG GET 0",
                "ROLE",
                "CONFIG GET nonsense",
                "CONFIG GET maxmemory",
                "ACL WHOAMI",
                "ACL CAT nonsense",
                "SCRIPT EXISTS 0000000000000000000000000000000000000000",
                "PUBSUB NUMPAT",
                "KEYS *",
                "TYPE k",
                "NONSENSE a b",
                "SELECT 99",
                "SELECT x",
                "HELLO 9",
                "GET",
            ] {
                let (own, other) = (ours.cmd(line).unwrap(), theirs.cmd(line).unwrap());
                if own.to_string() != other.to_string() {
                    differ.push(format!("{line}: {:.300} instead of {:.300}", own.to_string(), other.to_string()));
                }
            }
            all.extend(differ.into_iter().map(|differ: String| format!("{version:?} RESP{resp}: {differ}")));
            // Values are each server's own; their shape is not.
            for line in
                ["TIME", "MEMORY DOCTOR", "LATENCY DOCTOR", "CLUSTER INFO", "LASTSAVE", "COMMAND", "MEMORY USAGE k", "OBJECT IDLETIME k"]
            {
                let (own, other) = (ours.cmd(line).unwrap(), theirs.cmd(line).unwrap());
                assert_eq!(std::mem::discriminant(&own), std::mem::discriminant(&other), "{version:?} RESP{resp}: {line}");
                assert_eq!(own.items().len(), other.items().len(), "{version:?} RESP{resp}: {line}");
            }
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// With a password of the proxy's own: what may be said before it, and after it.
#[test]
fn a_password_is_asked_for_as_a_server_asks() {
    for version in VERSIONS {
        let mut setup = Setup::of(version, version);
        setup.proxy = Options { env: vec![("TWINLANE__LISTEN__CLIENT_PASSWORD".into(), "secret".into())], ..Options::default() };
        let pair = Pair::start(setup).unwrap();
        let plain = Server::plain(version).unwrap();
        assert!(plain.client().unwrap().cmd("CONFIG SET requirepass secret").unwrap().is_ok());
        let run = |mut client: Client| -> Vec<String> {
            ["GET k", "PING", "CLIENT ID", "NONSENSE", "AUTH wrong", "AUTH a b", "HELLO 3", "AUTH secret", "GET k", "RESET", "GET k"]
                .iter()
                .map(|line| without_id(&client.cmd(line).unwrap()))
                .collect()
        };
        assert_eq!(run(pair.client().unwrap()), run(plain.client().unwrap()), "{version:?}");
    }
}

/// A module's commands are learnt from the primary at their first use: the effect of a write is an image of its keys, so the mirror
/// needs no module. What names no keys is refused with the reason.
#[test]
fn a_modules_commands_are_learnt_and_mirrored_as_images() {
    let module = tempfile::tempdir().unwrap();
    let object = module.path().join("strange.so");
    let source = twinlane_tests::servers::root().join("tests/modules/strange.c");
    let built = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&object).arg(source).status().unwrap();
    assert!(built.success());
    let setup = Setup::of(Version::Redis70, Version::Redis70).old_args(&["--loadmodule", object.to_str().unwrap()]);
    let pair = Pair::start(setup).unwrap();
    for resp in [2, 3] {
        let mut client = connect(pair.client(), resp);
        client.cmd("DEL one two").unwrap();
        assert_eq!(client.cmd("strange.append one x").unwrap(), Value::Int(1));
        assert_eq!(client.cmd("STRANGE.APPEND one yz").unwrap(), Value::Int(3));
        client.cmd("MULTI").unwrap();
        assert_eq!(client.cmd("strange.append two x").unwrap().text(), "QUEUED");
        assert_eq!(client.cmd("EXEC").unwrap().to_string(), "[1]");
        assert_eq!(client.cmd("strange.length one").unwrap(), Value::Int(3));
        assert_eq!(client.cmd("GET one").unwrap().text(), "xyz");
        let refused = client.cmd("strange.nowhere x").unwrap().error().unwrap();
        assert!(refused.starts_with("ERR twinlane: STRANGE.NOWHERE is not carried: it may write, and names no keys"), "{refused}");
        let arity = client.cmd("strange.append").unwrap().error().unwrap();
        assert!(arity.contains("wrong number of arguments"), "{arity}");
        let reserved = client.cmd("strange.append __twinlane:record x").unwrap().error().unwrap();
        assert!(reserved.contains("reserved"), "{reserved}");
        let unknown = client.cmd("strange.unknown x").unwrap().error().unwrap();
        assert!(unknown.starts_with("ERR unknown command"), "{unknown}");
        pair.assert_equal().unwrap();
        assert_eq!(pair.new.client().unwrap().cmd("GET one").unwrap().text(), "xyz");
    }
}

/// The server's own error for an option that it does not know goes to the client and leaves no trace; an option that the table
/// does not know and the server does is mirrored as an image.
#[test]
fn options_beyond_the_table_are_the_servers_affair() {
    for version in [Version::Redis70, Version::Valkey91] {
        let (pair, plain) = (pair_of(version), Server::plain(version).unwrap());
        let (mut ours, mut theirs) = (pair.client().unwrap(), plain.client().unwrap());
        let mut differ = Vec::new();
        for line in [
            "SET k v NONSENSE",
            "SET k v EX",
            "SET k v IFEQ other",
            "SET k v",
            "SET k w IFEQ v",
            "GET k",
            "DELIFEQ k nonsense",
            "DELIFEQ k w",
            "EXISTS k",
            "ZADD z NONSENSE 1 a",
            "ZADD z XX NX 1 a",
            "EXPIRE k 10 NONSENSE",
            "LPOP k 1 2 3",
            "XADD s NONSENSE 1 * a b",
            "SORT k NONSENSE",
            "GETEX k NONSENSE",
            "HSET h f v",
            "HEXPIRE h 100 NONSENSE FIELDS 1 f",
            "HEXPIRE h 100 FIELDS 1 f",
            "HTTL h FIELDS 1 f",
            "HPERSIST h FIELDS 1 f",
            "HSETEX h EX 100 FIELDS 1 g v",
            "HGETEX h PERSIST FIELDS 1 g",
            "HGETDEL h FIELDS 1 g",
            "HLEN h",
            "MSETEX 2 a 1 b 2 EX 100",
            "ZUNIONSTORE d 9 a b",
            "LMPOP 0 k LEFT",
            "LMPOP x k LEFT",
            "EVAL nonsense x",
            "XREADGROUP GROUP g c COUNT",
            "BITFIELD k NONSENSE u8 0",
            "COPY k l NONSENSE",
            "RESTORE k 0 nonsense",
        ] {
            let (own, other) = (ours.cmd(line).unwrap().to_string(), theirs.cmd(line).unwrap().to_string());
            if own != other {
                differ.push(format!("{version:?} {line}: {own} instead of {other}"));
            }
        }
        assert!(differ.is_empty(), "{differ:#?}");
        pair.assert_equal().unwrap();
    }
}

/// What is pipelined behind QUIT is not executed, though replies to what stands before it are still to come.
#[test]
fn nothing_runs_behind_quit() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    client.send_raw(b"SET before 1\r\nQUIT\r\nSET behind 1\r\n").unwrap();
    assert!(client.receive().unwrap().is_ok());
    assert!(client.receive().unwrap().is_ok());
    assert!(client.receive().is_err());
    assert_eq!(pair.client().unwrap().cmd("EXISTS before behind").unwrap().int(), Some(1));
}

/// One client more than are allowed is told why it is not served.
#[test]
fn a_client_beyond_the_bound_is_told() {
    let pair = Pair::start(Setup::with_args(&["--set", "listen.max_clients=2"])).unwrap();
    let mut served = [pair.client().unwrap(), pair.client().unwrap()];
    served.iter_mut().for_each(|client| assert_eq!(client.cmd("PING").unwrap().to_string(), "+PONG"));
    let mut third = pair.client().unwrap();
    assert_eq!(third.receive().unwrap().to_string(), "-ERR max number of clients reached");
    assert!(third.receive().is_err_and(|error| !is_timeout(&error)));
    drop(served);
    until("room for another", PATIENCE, || Ok(pair.client()?.cmd("PING").is_ok_and(|reply| reply.to_string() == "+PONG"))).unwrap();
}

/// The system gives the proxy no more files: who is connected is served, the log is told now and then and not for each that knocks, and who waited is served
/// when there is room.
#[test]
fn without_files_the_others_are_served_and_the_log_is_not_flooded() {
    const KNOCKS: usize = 300;
    let pair = Pair::plain().unwrap();
    let mut served = pair.client().unwrap();
    let pid = pair.proxy.pid().unwrap();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = Rlimit { current: Some(files + 10), maximum: Some(files + 10) };
    prlimit(Pid::from_raw(pid as i32), Resource::Nofile, limit).unwrap();
    let begun = Instant::now();
    let waiting: Vec<Client> = (0..KNOCKS).map(|_| pair.client().unwrap()).collect();
    let refusals = || pair.proxy.log().matches("a client could not be accepted").count();
    until("the system to refuse one", PATIENCE, || Ok(refusals() > 0)).unwrap();
    assert_eq!(served.cmd("PING").unwrap().to_string(), "+PONG");
    // Ten times a second, and one for a start.
    let (told, most) = (refusals(), begun.elapsed().as_millis() as usize / 100 + 2);
    assert!(told <= most, "{told} lines for {KNOCKS} that knocked");
    drop(waiting);
    until("room for another", PATIENCE, || Ok(pair.client()?.cmd("PING").is_ok_and(|reply| reply.to_string() == "+PONG"))).unwrap();
}

/// A client may close its end behind its last request, as `nc` does: what it sent is carried out and answered, across a flip too; a command that waits for
/// a key is forgotten.
#[test]
fn a_client_that_closes_its_end_is_answered_as_by_a_server() {
    let (pair, plain) = (Pair::plain().unwrap(), Server::plain(Version::Redis70).unwrap());
    let requests: Vec<u8> = (0..20_000).flat_map(|n| format!("INCR count\r\nSET k:{} {n}\r\n", n % 500).into_bytes()).collect();
    let answers = |mut client: Client, requests: &[u8]| {
        client.send_raw(requests).unwrap();
        client.end().unwrap();
        std::iter::from_fn(|| client.receive().ok()).map(|reply| reply.to_string()).collect::<Vec<String>>()
    };
    for turn in 0..4 {
        let (ours, theirs) = std::thread::scope(|scope| {
            let ours = scope.spawn(|| answers(pair.client().unwrap(), &requests));
            if turn > 0 {
                let answer = if turn % 2 == 1 { pair.cutover() } else { pair.rollback() }.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
            (ours.join().unwrap(), answers(plain.client().unwrap(), &requests))
        });
        assert_eq!(ours.len(), 40_000);
        assert!(ours == theirs, "turn {turn}");
    }
    for requests in
        [&b"MULTI\r\nSET never 1\r\n"[..], b"WATCH k:1\r\nMULTI\r\nINCR count\r\nEXEC\r\n", b"SUBSCRIBE c\r\n", b"GET k:1\r\nSET ha", b""]
    {
        assert_eq!(answers(pair.client().unwrap(), requests), answers(plain.client().unwrap(), requests), "{}", requests.escape_ascii());
    }
    // What CLIENT PAUSE holds is forgotten, what came before it is not.
    let paused = [pair.client().unwrap(), plain.client().unwrap()].map(|mut operator| {
        assert!(operator.cmd("CLIENT PAUSE 60000 WRITE").unwrap().is_ok());
        operator
    });
    let requests = b"GET k:1\r\nSET k:1 never\r\n";
    assert_eq!(answers(pair.client().unwrap(), requests), answers(plain.client().unwrap(), requests));
    paused.into_iter().for_each(|mut operator| assert!(operator.cmd("CLIENT UNPAUSE").unwrap().is_ok()));
    for mut client in [pair.client().unwrap(), plain.client().unwrap()] {
        client.send_raw(b"PING\r\nBLPOP list 0\r\n").unwrap();
        assert_eq!(client.receive().unwrap().to_string(), "+PONG");
        client.end().unwrap();
        assert!(client.receive().is_err_and(|error| !is_timeout(&error)));
    }
    pair.wait_status("everybody to be gone", |status| status["clients"] == 0).unwrap();
    for mut client in [pair.client().unwrap(), plain.client().unwrap()] {
        assert_eq!(client.cmd("RPUSH list a").unwrap().int(), Some(1));
        assert_eq!(client.cmd("LLEN list").unwrap().int(), Some(1));
        assert_eq!(client.cmd("EXISTS never").unwrap().int(), Some(0));
    }
    pair.assert_equal().unwrap();
}

/// Whoever closes its end while what it waits for does not come is forgotten: the answer to WAIT, a primary that is away.
#[test]
fn a_client_that_closes_its_end_is_not_kept_for_ever() {
    let mut pair = Pair::start(Setup::with_args(&["--set", "primary.wait_ms=60000"])).unwrap();
    let ends = |pair: &Pair, requests: &[u8]| {
        let mut client = pair.client().unwrap();
        client.send_raw(requests).unwrap();
        client.end().unwrap();
        client
    };
    let mut waits = ends(&pair, b"SET k v\r\nWAIT 5 0\r\n");
    assert!(waits.receive().unwrap().is_ok());
    pair.wait_status("the client to be forgotten", |status| status["clients"] == 0).unwrap();
    pair.old.kill();
    pair.wait_status("the primary to be away", |status| status["old"]["lanes"] == 0).unwrap();
    let mut kept: Vec<Client> = (0..100).map(|_| ends(&pair, b"SET k never\r\n")).collect();
    for client in &mut kept {
        assert!(client.receive().is_err_and(|error| !is_timeout(&error)));
    }
    pair.wait_status("the clients to be forgotten", |status| status["clients"] == 0).unwrap();
}

/// Waiting input is counted right when it is left in the middle: by QUIT, by a list of clients, with more behind it.
#[test]
fn input_that_waits_is_counted_in_the_middle_of_a_pipeline() {
    let pair = Pair::plain().unwrap();
    for last in ["CLIENT LIST", "QUIT"] {
        let mut client = pair.client().unwrap();
        let lines = ["SET a 1", "SELECT 1", "SET b 1", "SELECT 0", last].join("\r\n");
        client.send_raw(format!("{lines}\r\n{}", "PING\r\n".repeat(100)).as_bytes()).unwrap();
        client.end().unwrap();
        let replies = std::iter::from_fn(|| client.receive().ok()).count();
        assert_eq!(replies, if last == "QUIT" { 5 } else { 105 });
    }
}

/// A socket that was left alone while its requests waited is read again, though nothing that it is told would say so.
#[test]
fn a_large_request_goes_on_behind_a_pause() {
    let pair = Pair::plain().unwrap();
    let (mut operator, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(operator.cmd("CLIENT PAUSE 3000 ALL").unwrap().is_ok());
    let sends = std::thread::spawn(move || {
        client.send_raw(b"CLIENT REPLY OFF\r\n").unwrap();
        client.send(&["SET", "large", &"x".repeat(8_000_000)]).unwrap();
        client
    });
    until("its input to wait", PATIENCE, || Ok(pair.metric("twinlane_client_bytes_total", "in")? >= 1_000_000.0)).unwrap();
    until("it to arrive", PATIENCE, || Ok(operator.cmd("STRLEN large")?.int() == Some(8_000_000))).unwrap();
    sends.join().unwrap();
}

/// CLIENT KILL ends a client that does not read what it was sent.
#[test]
fn a_killed_client_is_gone_though_it_does_not_read() {
    let pair = Pair::plain().unwrap();
    let (mut killer, mut deaf) = (pair.client().unwrap(), pair.client().unwrap());
    let value = "x".repeat(5_000_000);
    assert!(killer.call(&[b"SET", b"big", value.as_bytes()]).unwrap().is_ok());
    let id = deaf.cmd("CLIENT ID").unwrap().int().unwrap();
    deaf.send_raw(&b"GET big\r\n".repeat(4)).unwrap();
    let unread = |line: &str| line.contains(&format!("id={id} ")) && !line.contains(" omem=0 ");
    until("replies that nobody reads", PATIENCE, || Ok(killer.cmd("CLIENT LIST")?.text().lines().any(unread))).unwrap();
    assert_eq!(killer.cmd(&format!("CLIENT KILL ID {id}")).unwrap().int(), Some(1));
    pair.wait_status("the killed client to be gone", |status| status["clients"] == 1).unwrap();
}
