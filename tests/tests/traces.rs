//! What of the proxy's own can be seen on the servers, and what it costs them: commands that nobody but the proxy sent (H60), and the one
//! key that stays (H31).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use twinlane_tests::asking::ok;
use twinlane_tests::monitor::Monitor;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::Client;
use twinlane_tests::servers::{Server, Version};

/// The words of a MONITOR line that begin a command: `"XADD"`.
fn is(line: &str, name: &str) -> bool {
    line.split_once("] ").is_some_and(|(_, command)| command.split(' ').next() == Some(&format!("\"{name}\"")))
}

fn count(lines: &[String], name: &str) -> usize {
    lines.iter().filter(|line| is(line, name)).count()
}

/// H60: `MULTI; PTTL k; HSET k ...; EXEC` would be four commands for one. Where no key has a time to live, a write brings nothing of the
/// proxy's along, on either side; a trim to an exact length neither; an approximate one brings one XLEN to the primary, since the reply
/// does not tell where the trim stopped, and none to the mirror.
#[test]
fn h60_a_write_brings_nothing_along_but_the_length_of_an_approximate_trim() {
    const ROUNDS: usize = 50;
    for version in [Version::Redis62, Version::Redis70, Version::Valkey91] {
        let mut setup = Setup::of(version, version);
        // Effects that wait for longer become images, which bring more along.
        setup.proxy.args = ["--set", "mirror.queue_age_max_ms=60000"].map(String::from).into();
        let pair = Pair::start(setup).unwrap();
        // What is tried once, behind the start, is no part of a write.
        pair.wait_status("both ways to be tried", |status| status["images"]["to_new"] != "unknown").unwrap();
        let mut client = pair.client().unwrap();
        let mut run = |lines: &[&str], last: &str| {
            let monitors = [&pair.old, &pair.new].map(|server| (Monitor::start(server).unwrap(), server));
            for round in 0..ROUNDS {
                lines.iter().for_each(|line| _ = ok(&mut client, &line.replace("{}", &round.to_string())));
            }
            ok(&mut client, &format!("SET {last} 1"));
            pair.settle().unwrap();
            monitors.map(|(monitor, server)| monitor.end(server).unwrap())
        };
        let plain = ["SET k {}", "HSET h f{} {}", "XADD s MAXLEN 10 * f {}", "XADD s MAXLEN = 9 * f {}", "XTRIM s MAXLEN 8"];
        for (ran, side) in run(&plain, "plain").iter().zip(["old", "new"]) {
            let told = format!("{version:?}, {side}: {ran:#?}");
            for (name, times) in [("HSET", ROUNDS), ("XADD", 2 * ROUNDS), ("SET", ROUNDS + 1)] {
                let clients = ran.iter().filter(|line| is(line, name) && !line.contains("__twinlane:")).count();
                assert_eq!(clients, times, "{name}, {told}");
            }
            for ours in ["MULTI", "EXEC", "PTTL", "TTL", "XLEN", "EXISTS", "DUMP", "RESTORE"] {
                assert_eq!(count(ran, ours), 0, "{ours}, {told}");
            }
        }
        let [old, new] = run(&["XADD s MAXLEN ~ 100 * f {}"], "approximate");
        assert_eq!((count(&old, "XADD"), count(&old, "XLEN"), count(&old, "PTTL")), (ROUNDS, ROUNDS, 0), "{version:?}: {old:#?}");
        assert_eq!((count(&new, "XADD"), count(&new, "XLEN"), count(&new, "MULTI")), (ROUNDS, 0, 0), "{version:?}: {new:#?}");
        pair.assert_equal().unwrap();
    }
}

/// Whether the server has the key that stays, in its database 0.
fn is_marked(server: &Server) -> bool {
    server.client().unwrap().cmd("EXISTS __twinlane:record").unwrap().int() == Some(1)
}

/// What clients see of database 0: the lines of INFO for it, DBSIZE, SCAN, KEYS, RANDOMKEY a few times.
fn shown(client: &mut Client) -> String {
    let info = ok(client, "INFO keyspace").text();
    let zero = info.lines().find(|line| line.starts_with("db0:")).unwrap_or("no db0").to_owned();
    let keys = zero.split(',').next().unwrap_or_default().to_owned();
    let lines = ["DBSIZE", "SCAN 0 COUNT 1000", "KEYS *", "RANDOMKEY", "RANDOMKEY", "RANDOMKEY"];
    let told: Vec<String> = lines.iter().map(|line| ok(client, line).to_string()).collect();
    format!("{keys} {}", told.join(" "))
}

/// H31: one key per side stays, in database 0. Clients do not see it; and FLUSHALL, FLUSHDB and SWAPDB, which take it away or carry it to
/// another database, are followed by its return, on both sides.
#[test]
fn h31_the_key_that_stays_is_hidden_and_comes_back_behind_flush_and_swap() {
    let pair = Pair::start(Setup::of(Version::Redis70, Version::Redis70)).unwrap();
    let (mut client, plain) = (pair.client().unwrap(), Server::plain(Version::Redis70).unwrap());
    let mut direct = plain.client().unwrap();
    let marked = |what: &str| {
        pair.settle().unwrap();
        until(&format!("the key to be back behind {what}"), PATIENCE, || Ok(is_marked(&pair.old) && is_marked(&pair.new))).unwrap();
    };
    marked("the start");
    for lines in [
        &[][..],
        &["SET only 1"],
        &["FLUSHALL"],
        &["SET only 2"],
        &["SELECT 3", "SET three 1", "SELECT 0", "SWAPDB 0 3"],
        &["SELECT 3", "FLUSHALL", "SELECT 0"],
        &["SELECT 5", "SET five 1", "SWAPDB 5 0", "SELECT 0"],
        &["FLUSHDB"],
    ] {
        for line in lines {
            assert_eq!(ok(&mut client, line).to_string(), ok(&mut direct, line).to_string(), "{line}");
        }
        // A server without the proxy shows the same.
        assert_eq!(shown(&mut client), shown(&mut direct), "{lines:?}");
        marked(&format!("{lines:?}"));
        for server in [&pair.old, &pair.new] {
            let mut server = server.client().unwrap();
            for db in [3, 5] {
                ok(&mut server, &format!("SELECT {db}"));
                assert_eq!(ok(&mut server, "EXISTS __twinlane:record").int(), Some(0), "{lines:?}: it was carried to database {db}");
            }
        }
        pair.compare().unwrap();
    }
}
