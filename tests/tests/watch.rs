//! WATCH, UNWATCH and EXEC through the proxy: a real optimistic lock, on real servers.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, Value, command};
use twinlane_tests::servers::{Server, Version};

fn lines(client: &mut Client, lines: &[&str]) -> Vec<String> {
    let commands: Vec<_> = lines.iter().map(|line| command(line)).collect();
    client.pipeline(&commands).unwrap().iter().map(Value::to_string).collect()
}

/// What a plain server answers to everything a single client can do with WATCH, pipelined and one by one, in both protocols.
#[test]
fn a_single_client_sees_what_a_plain_server_answers() {
    let scripts: &[&[&str]] = &[
        &["SET k 1", "WATCH k", "MULTI", "INCR k", "EXEC", "GET k"],
        &["WATCH k", "SET k 5", "MULTI", "INCR k", "EXEC", "GET k", "MULTI", "INCR k", "EXEC"],
        &["WATCH k", "SET k 5", "UNWATCH", "MULTI", "INCR k", "EXEC"],
        &["WATCH k", "MULTI", "INCR k", "WATCH j", "DISCARD", "SET k 1", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "MULTI", "NOSUCHCOMMAND", "EXEC", "SET k 2", "MULTI", "GET k", "EXEC"],
        &["WATCH k", "MULTI", "EXEC", "WATCH k", "SET k 3", "MULTI", "EXEC"],
        &["WATCH a b k", "SET other 1", "MULTI", "UNWATCH", "GET k", "EXEC"],
        &["SELECT 3", "SET x 30", "WATCH x", "SELECT 1", "SET x 10", "SELECT 3", "MULTI", "PING", "EXEC"],
        &["SELECT 3", "WATCH x", "SELECT 1", "MULTI", "SET y 10", "EXEC", "GET y", "SELECT 3", "GET y"],
        &["SELECT 3", "WATCH x", "SELECT 1", "WATCH x", "SET x 1", "MULTI", "SET y 11", "EXEC", "GET y"],
        &["WATCH s", "SADD s a", "UNWATCH", "WATCH s", "MULTI", "SPOP s", "EVAL return{redis.call('incr',KEYS[1])} 1 n", "EXEC"],
        &["WATCH k", "FLUSHALL", "MULTI", "SET k 1", "EXEC", "WATCH k", "MULTI", "FLUSHDB", "SET k 9", "EXEC", "GET k"],
        &["WATCH", "EXEC", "DISCARD", "UNWATCH", "MULTI", "WATCH k", "EXEC"],
        &["RESET", "WATCH k", "SET k 7", "RESET", "MULTI", "GET k", "EXEC"],
    ];
    let (pair, plain) = (Pair::plain().unwrap(), Server::plain(Version::Redis70).unwrap());
    for resp3 in [false, true] {
        for script in scripts {
            let (mut proxied, mut direct) = (pair.client().unwrap(), plain.client().unwrap());
            if resp3 {
                proxied.hello3().unwrap();
                direct.hello3().unwrap();
            }
            assert_eq!(lines(&mut proxied, script), lines(&mut direct, script), "{script:?} pipelined");
            for line in *script {
                let (ours, theirs) = (proxied.cmd(line).unwrap().to_string(), direct.cmd(line).unwrap().to_string());
                assert_eq!(ours, theirs, "{line} of {script:?}");
            }
        }
    }
    pair.assert_equal().unwrap();
}

/// Optimistic counters: every increment that EXEC confirmed counts, none twice, whatever else is written, across flips. The values on
/// both sides are the number of confirmed increments.
#[test]
fn optimistic_increments_add_up_across_flips() {
    for (old, new) in [(Version::Redis70, Version::Redis70), (Version::Redis50, Version::Redis62)] {
        let pair = Pair::start(Setup::of(old, new)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..6)
            .map(|at| {
                let (mut client, stop) = (pair.client().unwrap(), stop.clone());
                std::thread::spawn(move || {
                    let (mut done, mut lost) = (0i64, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let key = format!("counter:{}", at % 2);
                        assert!(client.cmd(&format!("WATCH {key}")).unwrap().is_ok());
                        let value: i64 = client.cmd(&format!("GET {key}")).unwrap().text().parse().unwrap_or(0);
                        let block =
                            [command("MULTI"), command(&format!("SET {key} {}", value + 1)), command("LPUSH log x"), command("EXEC")];
                        let replies = client.pipeline(&block).unwrap();
                        match &replies[3] {
                            reply if reply.is_nil() => lost += 1,
                            reply => {
                                assert_eq!(reply.items().len(), 2, "{reply}");
                                done += 1;
                            }
                        }
                    }
                    (at % 2, done, lost)
                })
            })
            .collect();
        let noise = {
            let (mut client, stop) = (pair.client().unwrap(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let block = [
                        command("MULTI"),
                        command("INCR plain"),
                        command("EXEC"),
                        command("EVAL return{redis.call('incr','script')} 1 script"),
                    ];
                    client.pipeline(&block).unwrap().iter().for_each(|reply| assert!(!reply.is_error(), "{reply}"));
                }
            })
        };
        for flip in 0..4 {
            // Each flip waits until the workers have got somewhere since the last one.
            let before = pair.client().unwrap().cmd("LLEN log").unwrap().int().unwrap();
            until("the counters to grow", PATIENCE, || Ok(pair.client()?.cmd("LLEN log")?.int().unwrap_or(0) > before + 100)).unwrap();
            if flip % 2 == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        noise.join().unwrap();
        let mut sums = [0i64; 2];
        for worker in workers {
            let (at, done, _) = worker.join().unwrap();
            sums[at] += done;
        }
        let mut client = pair.client().unwrap();
        for (at, sum) in sums.iter().enumerate() {
            assert!(*sum > 0);
            assert_eq!(client.cmd(&format!("GET counter:{at}")).unwrap().text(), sum.to_string(), "{}", old.name());
        }
        assert_eq!(client.cmd("LLEN log").unwrap().int(), Some(sums[0] + sums[1]));
        pair.assert_equal().unwrap();
    }
}

/// A flip hands watches over: EXEC runs behind it unless what is watched was written, before the flip or behind it, here or in another database.
/// Programs that take nil for what it hardly ever is with them (RQ does not clean up behind it) see none.
#[test]
fn h37_a_watch_lives_on_behind_a_flip() {
    for (old, new) in [(Version::Redis70, Version::Redis70), (Version::Redis50, Version::Redis62)] {
        let pair = Pair::start(Setup::of(old, new)).unwrap();
        let mut writer = pair.client().unwrap();
        let (mut turn, deadline) = (0, Instant::now() + PATIENCE);
        while turn < 6 {
            let mut clients: Vec<Client> = (0..64).map(|_| pair.client().unwrap()).collect();
            for (at, client) in clients.iter_mut().enumerate() {
                let watch = [format!("WATCH a:{at} k:{at}"), "SELECT 3".into(), format!("WATCH k:{at}"), format!("SELECT {}", at % 2 * 3)];
                let watch: Vec<_> = watch.iter().map(|line| command(line)).collect();
                client.pipeline(&watch).unwrap().iter().for_each(|reply| assert!(reply.is_ok(), "{reply}"));
                if at % 3 == 0 {
                    assert!(client.cmd("MULTI").unwrap().is_ok());
                }
            }
            // In turn: nothing is written; it is written before the flip; behind it; in the other database; what nobody watches.
            let write = |client: &mut Client, at: usize, db: u8, key: String| {
                let block = [command(&format!("SELECT {db}")), command(&format!("SET {key} {turn}"))];
                client.pipeline(&block).unwrap().iter().for_each(|reply| assert!(reply.is_ok(), "{at}: {reply}"));
            };
            let mut written = |behind: bool| {
                for at in 0..64 {
                    match (at % 5, behind) {
                        (1, false) | (2, true) => write(&mut writer, at, 0, format!("k:{at}")),
                        (3, _) if behind == (at % 2 == 0) => write(&mut writer, at, 3, format!("k:{at}")),
                        (4, _) => write(&mut writer, at, 3, format!("a:{at}")),
                        _ => {}
                    }
                }
            };
            written(false);
            // One that vanishes while it watches hinders nobody.
            let mut gone = pair.client().unwrap();
            assert!(gone.cmd("WATCH k:0").unwrap().is_ok());
            drop(gone);
            let answer = if turn % 2 == 0 { pair.proxy.cutover() } else { pair.proxy.rollback() }.unwrap();
            if answer.status == 409 && Instant::now() < deadline {
                // A server was slow just then. A flip that is undone may end watches, so that the turn begins anew.
                continue;
            }
            assert_eq!(answer.status, 200, "{}", answer.body);
            written(true);
            for (at, client) in clients.iter_mut().enumerate() {
                if at % 3 != 0 {
                    assert!(client.cmd("MULTI").unwrap().is_ok());
                }
                let replies = client.pipeline(&[command(&format!("INCR ran:{at}")), command("EXEC")]).unwrap();
                assert_eq!(replies[1].is_nil(), matches!(at % 5, 1..=3), "{at} in turn {turn}: {}", replies[1]);
                // The next one watches as ever.
                let block = lines(client, &["WATCH other", "MULTI", "PING", "EXEC"]);
                assert_eq!(block[3], "[+PONG]", "{at} in turn {turn}");
            }
            turn += 1;
        }
        let mut direct = pair.old.client().unwrap();
        assert_eq!(direct.cmd("GET ran:0").unwrap().text(), "6");
        pair.assert_equal().unwrap();
    }
}

/// A script in a transaction of a watcher that has gone to another database: what the connection is told behind it was never sent, and the next command that
/// waits for everything waited for ever.
#[test]
fn h25_a_script_of_a_watcher_in_another_database_holds_nobody_up() {
    let pair = Pair::plain().unwrap();
    let (mut watcher, mut other) = (pair.client().unwrap(), pair.client().unwrap());
    let script = "EVAL return{redis.call('incr','undeclared')} 0";
    let block = lines(&mut watcher, &["SELECT 3", "WATCH k", "SELECT 0", "MULTI", script, "EXEC"]);
    assert_eq!(block[5], "[[1]]");
    assert!(other.cmd("FLUSHALL").unwrap().is_ok());
    pair.assert_equal().unwrap();
    pair.cutover().unwrap();
}

/// H25: EXEC of a watcher runs beside the lane. Without the fence its effect crosses those of other clients on the same keys.
#[test]
fn h25_a_watching_transaction_has_a_place_in_the_order() {
    let pair = Pair::plain().unwrap();
    let workers: Vec<_> = (0..6)
        .map(|at| {
            let mut client = pair.client().unwrap();
            std::thread::spawn(move || {
                for turn in 0..3_000 {
                    let block = match at % 3 {
                        0 => vec![
                            "WATCH guard".to_string(),
                            "MULTI".into(),
                            format!("APPEND shared w{at}"),
                            format!("SET last {at}-{turn}"),
                            "EXEC".into(),
                        ],
                        1 => vec![format!("APPEND shared p{at}"), format!("SET last {at}-{turn}")],
                        _ => vec!["MULTI".into(), format!("SETRANGE shared 3 {at}"), format!("SET last {at}-{turn}"), "EXEC".into()],
                    };
                    let block: Vec<_> = block.iter().map(|line| command(line)).collect();
                    client.pipeline(&block).unwrap().iter().for_each(|reply| assert!(!reply.is_error(), "{reply}"));
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(pair.metric("twinlane_reply_mismatches_total", "").unwrap(), 0.0, "the mirror saw another order");
    pair.assert_equal().unwrap();
}

/// H37: more watchers than connections: the one that has waited longest loses its watch, and nobody waits for ever.
#[test]
fn h37_more_watchers_than_connections() {
    let pair = Pair::plain().unwrap();
    let mut clients: Vec<Client> = (0..300).map(|_| pair.client().unwrap()).collect();
    for client in &mut clients {
        assert!(client.cmd("WATCH k").unwrap().is_ok());
    }
    let mut nil = 0;
    for (at, client) in clients.iter_mut().enumerate() {
        let replies = client.pipeline(&[command("MULTI"), command(&format!("SET own:{at} 1")), command("EXEC")]).unwrap();
        nil += usize::from(replies[2].is_nil());
    }
    assert_eq!(nil, 300 - 256);
    assert_eq!(clients[299].cmd("DBSIZE").unwrap().int(), Some(256));
    pair.assert_equal().unwrap();
}

/// A watcher whose client vanishes gives its connection back, and what it watched is forgotten there.
#[test]
fn a_watch_does_not_outlive_its_client() {
    let pair = Pair::plain().unwrap();
    for turn in 0..50 {
        let mut gone = pair.client().unwrap();
        assert!(gone.cmd("WATCH k").unwrap().is_ok());
        drop(gone);
        let mut next = pair.client().unwrap();
        let replies = lines(&mut next, &["WATCH other", &format!("SET k {turn}"), "MULTI", "GET k", "EXEC"]);
        assert_eq!(replies[4], format!("[\"{turn}\"]"));
    }
}

/// WAIT answers for what the session was told before, and holds nobody else up.
#[test]
fn wait_is_truthful_and_alone() {
    let pair = Pair::plain().unwrap();
    let (mut waiting, mut other) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(waiting.cmd("SET k 1").unwrap().is_ok());
    // There is no replica: it waits for its time.
    waiting.send(&["WAIT", "1", "700"]).unwrap();
    for _ in 0..50 {
        assert!(other.cmd("SET other 1").unwrap().is_ok());
    }
    assert_eq!(waiting.reply().unwrap().int(), Some(0));
    assert_eq!(waiting.cmd("WAIT 0 0").unwrap().int(), Some(0));
    assert_eq!(waiting.cmd("WAIT x 0").unwrap().to_string(), "-ERR value is not an integer or out of range");
    // One replica that has everything.
    let replica = Server::plain(Version::Redis70).unwrap();
    let (host, port) = ("127.0.0.1", pair.old.port());
    assert!(replica.client().unwrap().cmd(&format!("REPLICAOF {host} {port}")).unwrap().is_ok());
    let mut direct = pair.old.client().unwrap();
    until("the replica to have a copy", PATIENCE, || Ok(direct.cmd("INFO replication")?.text().contains("state=online"))).unwrap();
    assert!(waiting.cmd("SET k 2").unwrap().is_ok());
    assert_eq!(waiting.cmd("WAIT 1 30000").unwrap().int(), Some(1));
    assert_eq!(replica.client().unwrap().cmd("GET k").unwrap().text(), "2");
    // One that a flip meets is answered by the server that it asked.
    waiting.send(&["WAIT", "3", "1500"]).unwrap();
    until("the wait to be asked", PATIENCE, || Ok(direct.cmd("INFO clients")?.text().contains("blocked_clients:1"))).unwrap();
    pair.cutover().unwrap();
    pair.rollback().unwrap();
    assert_eq!(waiting.reply().unwrap().int(), Some(1));
    assert!(waiting.cmd("SET k 3").unwrap().is_ok());
    // A wait without end ends with its client.
    waiting.send(&["WAIT", "5", "0"]).unwrap();
    drop(waiting);
    pair.assert_equal().unwrap();
    pair.cutover().unwrap();
}

/// A WAIT that is unanswered when the roles move gets the answer of the server that was asked.
#[test]
fn a_wait_outlives_a_cutover() {
    let pair = Pair::plain().unwrap();
    let (mut waiting, mut other) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(waiting.cmd("SET k 1").unwrap().is_ok());
    waiting.send(&["WAIT", "1", "3000"]).unwrap();
    let mut direct = pair.old.client().unwrap();
    until("the server to wait", PATIENCE, || Ok(direct.cmd("CLIENT LIST")?.text().contains("cmd=wait"))).unwrap();
    pair.cutover().unwrap();
    assert!(other.cmd("SET k 2").unwrap().is_ok());
    assert_eq!(waiting.reply().unwrap().int(), Some(0));
    assert_eq!(waiting.cmd("GET k").unwrap().text(), "2");
}

/// More watchers at the same moment than connections: none is refused.
#[test]
fn h37_a_herd_of_watchers() {
    let pair = Pair::plain().unwrap();
    let mut clients: Vec<Client> = (0..300).map(|_| pair.client().unwrap()).collect();
    for client in &mut clients {
        client.send(&["WATCH", "k"]).unwrap();
    }
    for client in &mut clients {
        assert!(client.reply().unwrap().is_ok());
    }
}
