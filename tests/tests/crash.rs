//! `kill -9` of the proxy, and what the next process knows (I4, H23). `make prove` kills a hundred times.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::io::Write;
use twinlane_tests::asking::ok;
use twinlane_tests::crash::kill_again_and_again;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, command, encode};
use twinlane_tests::servers::Version;

/// Two equal servers with keys that nobody writes again, and a journal that knows it.
fn quiet_pair(keys: u32) -> Pair {
    quiet_pair_of(Setup::of(Version::Redis70, Version::Redis70), keys)
}

fn quiet_pair_of(setup: Setup, keys: u32) -> Pair {
    let pair = Pair::start(setup).unwrap();
    let mut client = pair.client().unwrap();
    (0..keys).for_each(|n| _ = ok(&mut client, &format!("SET quiet:{n} {n}")));
    pair.settle().unwrap();
    complete(&pair);
    pair
}

/// The mirror stands still, and what is written from now on goes to the ledger.
fn freeze_mirror(pair: &mut Pair, client: &mut Client) {
    pair.new.freeze().unwrap();
    ok(client, "SET first x");
    pair.wait_status("the effects to collapse", |status| status["mirror"]["state"] != "following").unwrap();
}

fn complete(pair: &Pair) {
    pair.wait_status("the journal to be complete", |status| status["journal"]["complete"] == true).unwrap();
}

#[test]
fn i4_behind_a_kill_the_keys_of_the_journal_are_repaired_and_nothing_is_walked() {
    let totals = kill_again_and_again(8, 1).unwrap();
    assert_eq!(totals.kills, 8);
    assert!(totals.frozen > 0, "{totals:?}");
}

/// The mirror is away for longer than the process lives: what was written meanwhile is still known.
#[test]
fn what_was_dirty_at_the_kill_is_dirty_behind_it() {
    let mut pair = quiet_pair(2_000);
    let mut client = pair.client().unwrap();
    pair.new.freeze().unwrap();
    for n in 0..300 {
        ok(&mut client, &format!("RPUSH list:{n} a b c"));
    }
    pair.wait_status("the effects to collapse", |status| status["mirror"]["state"] != "following").unwrap();
    pair.proxy.kill9();
    // Killed again before it has met the mirror.
    pair.proxy.restart().unwrap();
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    pair.new.thaw().unwrap();
    let status = pair.settle().unwrap();
    assert_eq!(status["mirror"]["scanned_keys"], 0, "{status}\n{}", pair.proxy.log_tail());
    pair.compare().unwrap();
}

/// A server that was started anew between the two processes is not the one that the journal speaks of.
#[test]
fn h09_a_mirror_that_is_another_process_now_is_copied_anew() {
    let mut pair = quiet_pair(500);
    pair.proxy.kill9();
    pair.new.restart_empty().unwrap();
    pair.proxy.restart().unwrap();
    pair.assert_equal().unwrap();
    assert_eq!(pair.new.client().unwrap().cmd("GET quiet:7").unwrap().text(), "7");
}

/// The way there and back, each with a kill behind it.
#[test]
fn a_kill_behind_a_flip_walks_nothing_either() {
    let mut pair = quiet_pair(2_000);
    for flip in 0..2 {
        pair.settle().unwrap();
        if flip == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
        pair.settle().unwrap();
        complete(&pair);
        let mut client = pair.client().unwrap();
        ok(&mut client, &format!("APPEND text {flip}"));
        pair.proxy.kill9();
        pair.proxy.restart().unwrap();
        let status = pair.settle().unwrap();
        assert_eq!(status["mirror"]["scanned_keys"], 0, "{status}\n{}", pair.proxy.log_tail());
        pair.compare().unwrap();
    }
}

/// An older or newer layout, or a file that is no journal: it is said, and everything is copied.
#[test]
fn a_journal_that_cannot_be_read_costs_a_walk_and_no_more() {
    let mut pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k v");
    pair.settle().unwrap();
    pair.proxy.kill9();
    let path = pair.proxy.state_dir().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 250;
    std::fs::write(&path, bytes).unwrap();
    pair.proxy.restart().unwrap();
    assert!(pair.proxy.log().contains("it has format 250, and this version reads format 3"), "{}", pair.proxy.log_tail());
    pair.assert_equal().unwrap();
}

/// Synced or not, the death of the process alone costs nothing; without a journal everything is copied.
#[test]
fn every_policy_of_the_journal_outlives_the_process() {
    for (key, value, walks) in [("SYNC", "always", false), ("SYNC", "interval", false), ("BYTES", "0", true)] {
        let mut setup = Setup::of(Version::Redis70, Version::Redis70);
        setup.proxy.env = vec![(format!("TWINLANE__JOURNAL__{key}"), value.to_owned())];
        let mut pair = Pair::start(setup).unwrap();
        let mut client = pair.client().unwrap();
        (0..200).for_each(|n| _ = ok(&mut client, &format!("RPUSH list:{} {n}", n % 7)));
        pair.settle().unwrap();
        if !walks {
            complete(&pair);
        }
        let mut client = pair.client().unwrap();
        pair.new.freeze().unwrap();
        (0..50).for_each(|n| _ = ok(&mut client, &format!("RPUSH list:{} late", n % 7)));
        pair.proxy.kill9();
        pair.new.thaw().unwrap();
        pair.proxy.restart().unwrap();
        let status = pair.settle().unwrap();
        assert_eq!(status["mirror"]["scanned_keys"] != 0, walks, "{key} = {value}: {status}\n{}", pair.proxy.log_tail());
        pair.compare().unwrap();
    }
}

/// H23: what may write keys that nobody can name is a wide intent: its database is walked behind a kill, and no other.
#[test]
fn h23_a_flush_in_flight_at_the_kill_puts_its_database_in_doubt() {
    let mut pair = quiet_pair(500);
    let mut client = pair.client().unwrap();
    ok(&mut client, "SELECT 3");
    (0..20).for_each(|n| _ = ok(&mut client, &format!("SET three:{n} {n}")));
    pair.settle().unwrap();
    complete(&pair);
    let records = || pair.proxy.status().unwrap()["journal"]["records"].as_u64().unwrap();
    let before = records();
    pair.old.freeze().unwrap();
    let mut stream = std::net::TcpStream::connect(pair.proxy.address()).unwrap();
    stream.write_all(b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$7\r\nFLUSHDB\r\n").unwrap();
    until("the intent to be written down", PATIENCE, || Ok(records() > before)).unwrap();
    pair.proxy.kill9();
    pair.old.thaw().unwrap();
    pair.proxy.restart().unwrap();
    let status = pair.settle().unwrap();
    let scanned = status["mirror"]["scanned_keys"].as_u64().unwrap();
    // Whether the flush ran or not, the keys of that database are on one side at least.
    assert!((1..=40).contains(&scanned), "{status}\n{}", pair.proxy.log_tail());
    pair.compare().unwrap();
}

/// What was on its way at a kill, and what the primary shows when it has executed it.
struct InFlight {
    what: &'static str,
    /// Sent and answered before.
    before: &'static [&'static str],
    /// Sent to the frozen primary.
    sent: &'static [&'static str],
    /// By another client, behind that.
    pushed: &'static [&'static str],
    shows: (&'static str, &'static str),
    /// Its keys cannot be named, so their database is walked.
    walks: bool,
}

/// H23: every connection that can write journals, and what cannot be named is a doubt of its database. The primary stands still with the request in
/// its socket's buffer, the proxy is killed, the primary wakes and executes it, and nobody saw a reply: the next process must know.
#[test]
fn h23_what_was_in_flight_at_the_kill_is_known_behind_it() {
    let long = "k".repeat(5_000);
    for InFlight { what, before, sent, pushed, shows, walks } in [
        InFlight {
            what: "EXEC of a watcher, on a connection of its own",
            before: &["SET w 1", "WATCH w", "MULTI", "INCRBY w 41", "RPUSH in-exec x"],
            sent: &["EXEC"],
            pushed: &[],
            shows: ("GET w", "42"),
            walks: false,
        },
        InFlight {
            what: "the retry for a parked pop, behind the push",
            before: &["SET other 1"],
            sent: &["BLPOP parked 0"],
            pushed: &["RPUSH parked popped stays"],
            shows: ("LRANGE parked 0 -1", "stays"),
            walks: false,
        },
        InFlight { what: "a key above 4 KiB", before: &[], sent: &["SET LONG v"], pushed: &[], shows: ("GET LONG", "v"), walks: true },
        InFlight {
            what: "a script that writes a key it does not declare",
            before: &[],
            sent: &["EVAL return(redis.call('SET','unde'..'clared','v')) 0"],
            pushed: &[],
            shows: ("GET undeclared", "v"),
            walks: true,
        },
    ] {
        let mut pair = quiet_pair(50);
        let named = |line: &str| line.replace("LONG", &long);
        let (mut client, mut other) = (pair.client().unwrap(), pair.client().unwrap());
        before.iter().for_each(|line| _ = ok(&mut client, &named(line)));
        pair.settle().unwrap();
        complete(&pair);
        let taken = |before: f64, line: &str| {
            let mut bytes = Vec::new();
            encode(&command(line), &mut bytes);
            let most = before + bytes.len() as f64;
            until("the proxy to read it", PATIENCE, || Ok(pair.metric("twinlane_client_bytes_total", "in")? >= most)).unwrap();
        };
        let bytes_in = || pair.metric("twinlane_client_bytes_total", "in").unwrap();
        let send = |client: &mut Client, line: &str| {
            let before = bytes_in();
            client.send(&command(&named(line))).unwrap();
            taken(before, &named(line));
        };
        let parks = !pushed.is_empty();
        if parks {
            sent.iter().for_each(|line| send(&mut client, line));
            pair.wait_status("the client to be parked", |status| status["blocked_clients"] == 1).unwrap();
        }
        pair.old.freeze().unwrap();
        if parks {
            pushed.iter().for_each(|line| send(&mut other, line));
        } else {
            sent.iter().for_each(|line| send(&mut client, line));
        }
        pair.proxy.kill9();
        pair.old.thaw().unwrap();
        let mut direct = pair.old.client().unwrap();
        until(&format!("{what}: the primary to execute it"), PATIENCE, || {
            Ok(direct.cmd(&named(shows.0))?.to_string().contains(shows.1)
                && !direct.cmd("LRANGE parked 0 -1")?.to_string().contains("popped"))
        })
        .unwrap();
        pair.proxy.restart().unwrap();
        let status = pair.settle().unwrap();
        assert_eq!(status["mirror"]["scanned_keys"] != 0, walks, "{what}: {status}\n{}", pair.proxy.log_tail());
        pair.compare().unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let mirror = ok(&mut pair.new.client().unwrap(), &named(shows.0)).to_string();
        assert!(mirror.contains(shows.1), "{what}: {mirror}");
    }
}

/// H23: a bound that is reached is a doubt of everything, and says so; when there is room again, the journal is complete again.
#[test]
fn h23_a_ring_that_was_full_costs_a_walk_and_no_key() {
    let mut setup = Setup::of(Version::Redis70, Version::Redis70);
    setup.proxy.env = vec![("TWINLANE__JOURNAL__BYTES".to_owned(), "65536".to_owned())];
    let mut pair = quiet_pair_of(setup, 300);
    let mut client = pair.client().unwrap();
    freeze_mirror(&mut pair, &mut client);
    for n in 0..4_000 {
        ok(&mut client, &format!("RPUSH a-key-with-a-rather-long-name:{n} a"));
    }
    let status = pair.wait_status("the ring to be full", |status| status["journal"]["overflows"].as_u64() > Some(0)).unwrap();
    assert_eq!(status["journal"]["complete"], false, "{status}");
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    assert!(pair.proxy.log().contains("more keys were in doubt than it holds"), "{}", pair.proxy.log_tail());
    pair.new.thaw().unwrap();
    let status = pair.settle().unwrap();
    assert!(status["mirror"]["scanned_keys"].as_u64() > Some(4_000), "{status}");
    pair.compare().unwrap();
    complete(&pair);
}

/// A state directory that was copied, or restored from a backup, names keys of another time.
#[test]
fn h09_a_restored_state_directory_is_distrusted() {
    let mut pair = quiet_pair(200);
    pair.proxy.kill9();
    let directory = pair.proxy.state_dir();
    let aside = directory.with_extension("backup");
    std::fs::rename(&directory, &aside).unwrap();
    std::fs::create_dir(&directory).unwrap();
    for file in std::fs::read_dir(&aside).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), directory.join(file.file_name())).unwrap();
    }
    pair.proxy.restart().unwrap();
    assert!(pair.proxy.log().contains("its file is a copy, or was restored"), "{}", pair.proxy.log_tail());
    let status = pair.settle().unwrap();
    assert!(status["mirror"]["scanned_keys"].as_u64() >= Some(200), "{status}");
    pair.compare().unwrap();
    std::fs::remove_dir_all(aside).unwrap();
}

/// More keys in doubt than memory has room for: the youngest wait on the disk, behind a kill too, and no keyspace is walked for them.
#[test]
fn keys_in_doubt_past_the_bound_wait_on_the_disk() {
    let mut setup = Setup::of(Version::Redis70, Version::Redis70);
    setup.proxy.args = ["--set", "mirror.dirty_keys_max=500"].map(str::to_owned).into();
    let mut pair = quiet_pair_of(setup, 2_000);
    let mut client = pair.client().unwrap();
    freeze_mirror(&mut pair, &mut client);
    for round in 0..2 {
        for n in 0..6_000 {
            ok(&mut client, &format!("RPUSH list:{n} {round}"));
        }
    }
    let dirty = || pair.proxy.get("/v1/dirty?limit=1").unwrap().body;
    until("keys to be on the disk", PATIENCE, || Ok(dirty()["spilled"].as_u64() > Some(4_000))).unwrap();
    assert_eq!(dirty()["databases"].as_array().unwrap().len(), 0, "{}", dirty());
    let file = std::fs::metadata(pair.proxy.state_dir().join("spill")).unwrap().len();
    assert!(file < 6_000 * 40, "a key is there once, however often it is written: {file} bytes");
    pair.proxy.kill9();
    pair.proxy.restart().unwrap();
    pair.new.thaw().unwrap();
    let status = pair.settle().unwrap();
    assert_eq!(status["mirror"]["scanned_keys"], 0, "{status}\n{}", pair.proxy.log_tail());
    pair.compare().unwrap();
    // FLUSHDB takes along what waits there.
    let mut client = pair.client().unwrap();
    freeze_mirror(&mut pair, &mut client);
    (0..3_000).for_each(|n| _ = ok(&mut client, &format!("RPUSH other:{n} x")));
    ok(&mut client, "FLUSHDB");
    ok(&mut client, "SET last x");
    pair.new.thaw().unwrap();
    pair.assert_equal().unwrap();
}
