//! CLIENT TRACKING through the proxy: a client that caches is told of every change, whoever makes it and whatever side is the primary.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, Value, command};
use twinlane_tests::servers::{Server, Version};

/// The next thing that comes without having been asked for.
fn pushed(client: &mut Client) -> String {
    client.push().unwrap_or_else(|| client.receive().unwrap()).to_string()
}

fn tracking(pair: &Pair, options: &str) -> Client {
    let mut client = pair.client().unwrap();
    client.hello3().unwrap();
    let reply = client.cmd(format!("CLIENT TRACKING ON {options}").trim()).unwrap();
    assert!(reply.is_ok(), "{reply}");
    client
}

/// What one client is told of, in every mode.
#[test]
fn every_mode_tells_what_a_server_tells() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey91] {
        let pair = Pair::start(Setup::of(version, version)).unwrap();
        let mut writer = pair.client().unwrap();
        let mut plain = tracking(&pair, "");
        plain.cmd("GET a").unwrap();
        writer.cmd("SET a 1").unwrap();
        assert_eq!(pushed(&mut plain), r#">["invalidate", ["a"]]"#, "{}", version.name());
        // Pipelined reads and writes keep their order, whatever connection carries them.
        let lines = ["SET a 2", "GET a", "INCR a", "MGET a b", "APPEND a 0", "GET a"].map(command);
        let replies: Vec<String> = plain.pipeline(&lines).unwrap().iter().map(Value::to_string).collect();
        assert_eq!(replies, ["+OK", "\"2\"", "3", "[\"3\", (null)]", "2", "\"30\""]);
        // In a transaction too.
        let mut cautious = tracking(&pair, "");
        cautious.pipeline(&["MULTI", "GET t", "EXEC"].map(command)).unwrap();
        writer.cmd("SET t 1").unwrap();
        assert_eq!(pushed(&mut cautious), r#">["invalidate", ["t"]]"#);
        // Only what was asked for.
        let mut optin = tracking(&pair, "OPTIN");
        optin.cmd("GET o1").unwrap();
        optin.cmd("CLIENT CACHING YES").unwrap();
        optin.cmd("GET o2").unwrap();
        writer.pipeline(&["SET o1 1", "SET o2 1"].map(command)).unwrap();
        assert_eq!(pushed(&mut optin), r#">["invalidate", ["o2"]]"#);
        // By prefix, and not its own.
        let mut broadcast = tracking(&pair, "BCAST PREFIX p: NOLOOP");
        broadcast.cmd("SET p:own 1").unwrap();
        writer.pipeline(&["SET q 1", "SET p:other 1"].map(command)).unwrap();
        assert_eq!(pushed(&mut broadcast), r#">["invalidate", ["p:other"]]"#);
        // Told to another client, which speaks RESP2.
        let mut ear = pair.client().unwrap();
        let number = ear.cmd("CLIENT ID").unwrap().int().unwrap();
        ear.cmd("SUBSCRIBE __redis__:invalidate").unwrap();
        let mut mouth = pair.client().unwrap();
        assert!(mouth.cmd(&format!("CLIENT TRACKING ON REDIRECT {number}")).unwrap().is_ok());
        assert_eq!(mouth.cmd("CLIENT GETREDIR").unwrap().int(), Some(number));
        mouth.cmd("GET r").unwrap();
        writer.cmd("SET r 1").unwrap();
        assert_eq!(ear.receive().unwrap().to_string(), r#"["message", "__redis__:invalidate", ["r"]]"#);
        pair.assert_equal().unwrap();
    }
}

/// Turned on once more, prefixes add up, and the new primary has to be told all of them. (The side a flip moves to was told the
/// last command alone.)
#[test]
fn prefixes_add_up_and_cross_a_flip() {
    let pair = Pair::plain().unwrap();
    let (mut client, mut writer) = (tracking(&pair, "BCAST PREFIX b:"), pair.client().unwrap());
    let mut everything = tracking(&pair, "BCAST");
    let info = |client: &mut Client| client.cmd("CLIENT TRACKINGINFO").unwrap().field("prefixes").unwrap().to_string();
    assert!(client.cmd("CLIENT TRACKING ON BCAST PREFIX a:").unwrap().is_ok());
    assert!(everything.cmd("CLIENT TRACKING ON BCAST").unwrap().is_ok());
    for flip in 0..3 {
        assert_eq!(info(&mut client), r#"["a:", "b:"]"#);
        assert_eq!(info(&mut everything), r#"[""]"#);
        for key in ["a:1", "b:1"] {
            writer.cmd(&format!("SET {key} {flip}")).unwrap();
            let word = format!(r#">["invalidate", ["{key}"]]"#);
            assert_eq!([pushed(&mut client), pushed(&mut everything)], [word.clone(), word]);
        }
        if flip % 2 == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
        let word = r#">["invalidate", (null)]"#;
        assert_eq!([pushed(&mut client), pushed(&mut everything)], [word, word]);
    }
    pair.assert_equal().unwrap();
}

/// H41: at a flip everything that was cached is invalid, before the first held request goes on; and the new primary tracks from then on.
#[test]
fn h41_a_flip_declares_everything_invalid() {
    let pair = Pair::plain().unwrap();
    let (mut client, mut writer) = (tracking(&pair, ""), pair.client().unwrap());
    for flip in 0..4 {
        client.cmd("GET k").unwrap();
        if flip % 2 == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
        assert_eq!(pushed(&mut client), r#">["invalidate", (null)]"#);
        client.cmd("GET k").unwrap();
        writer.cmd(&format!("SET k {flip}")).unwrap();
        assert_eq!(pushed(&mut client), r#">["invalidate", ["k"]]"#);
    }
    pair.assert_equal().unwrap();
}

/// Clients that cache what they read and drop what they are told to, among writers and flips: when everything is quiet, what is still
/// cached is what the primary holds.
#[test]
fn no_cache_is_stale() {
    let pair = Pair::plain().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    // What each of them has done.
    let turns: Vec<Arc<AtomicU64>> = (0..6).map(|_| Arc::default()).collect();
    let writers: Vec<_> = (0..3)
        .map(|at| {
            let (mut client, stop, turns) = (pair.client().unwrap(), stop.clone(), turns[at].clone());
            std::thread::spawn(move || {
                let mut turn = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let lines = [format!("SET k{} {at}-{turn}", turn % 20), format!("APPEND k{} x", (turn * 7) % 20)];
                    client.pipeline(&lines.map(|line| command(&line))).unwrap();
                    turns.store(turn, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let readers: Vec<_> = ["", "NOLOOP", "OPTOUT"]
        .into_iter()
        .zip(&turns[3..])
        .map(|(options, turns)| {
            let (mut client, stop, turns) = (tracking(&pair, options), stop.clone(), turns.clone());
            std::thread::spawn(move || {
                let mut cache: HashMap<String, String> = HashMap::new();
                let mut turn = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let key = format!("k{}", turn % 20);
                    if !cache.contains_key(&key) {
                        let value = client.cmd(&format!("GET {key}")).unwrap().to_string();
                        forget(&mut client, &mut cache);
                        cache.insert(key.clone(), value);
                    }
                    if turn.is_multiple_of(50) {
                        client.cmd(&format!("SET {key} own-{turn}")).unwrap();
                        cache.remove(&key);
                    }
                    forget(&mut client, &mut cache);
                    turns.store(turn, Ordering::Relaxed);
                }
                (client, cache)
            })
        })
        .collect();
    for flip in 0..4 {
        let before: Vec<u64> = turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect();
        let moved = || turns.iter().zip(&before).all(|(turns, before)| turns.load(Ordering::Relaxed) >= before + 200);
        until("everybody to have written and read", PATIENCE, || Ok(moved())).unwrap();
        if flip % 2 == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for reader in readers {
        let (mut client, mut cache) = reader.join().unwrap();
        // What is still on its way comes before an answer on the connection that brings it.
        let mut direct = pair.client().unwrap();
        until("the caches to be right", PATIENCE, || {
            client.cmd("GET nothing")?;
            forget(&mut client, &mut cache);
            for (key, value) in &cache {
                if direct.cmd(&format!("GET {key}"))?.to_string() != *value {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .unwrap();
    }
    pair.assert_equal().unwrap();
}

/// Drops what the client was told is invalid.
fn forget(client: &mut Client, cache: &mut HashMap<String, String>) {
    while let Some(push) = client.push() {
        match push.items() {
            [_, keys] if keys.is_nil() => cache.clear(),
            [_, keys] => keys.items().iter().for_each(|key| {
                cache.remove(&key.text());
            }),
            _ => panic!("{push}"),
        }
    }
}

/// A server that has no CLIENT TRACKING answers as it does.
#[test]
fn a_server_without_tracking_says_so() {
    let (pair, plain) = (Pair::start(Setup::of(Version::Redis50, Version::Redis70)).unwrap(), Server::plain(Version::Redis50).unwrap());
    for line in ["CLIENT TRACKING ON", "CLIENT CACHING YES", "CLIENT GETREDIR"] {
        let (ours, theirs) = (pair.client().unwrap().cmd(line).unwrap(), plain.client().unwrap().cmd(line).unwrap());
        assert_eq!(ours.to_string(), theirs.to_string(), "{line}");
    }
}
