//! Publish and subscribe through the proxy: what a plain server says, and every message once across flips.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::time::Duration;

use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, Value, command};
use twinlane_tests::servers::{Server, Version};

/// Everything that comes, as text, until `count` things came.
fn take(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.receive().unwrap().to_string()).collect()
}

/// Asks and notes what came, in order of its text: the order in which a set is told is the server's own.
fn ask(line: &str, replies: usize, client: &mut Client, seen: &mut Vec<String>) {
    client.send(&command(line)).unwrap();
    seen.push(line.into());
    let mut replies = take(client, replies);
    replies.sort();
    seen.extend(replies);
}

/// A subscriber's whole life, compared with a plain server's, in both protocols and on servers of several ages.
#[test]
fn a_subscriber_sees_what_a_plain_server_says() {
    for (version, resp3) in [(Version::Redis70, false), (Version::Redis70, true), (Version::Redis50, false), (Version::Valkey81, true)] {
        let (pair, plain) = (Pair::start(Setup::of(version, version)).unwrap(), Server::plain(version).unwrap());
        let mut sides = [(pair.client().unwrap(), pair.client().unwrap()), (plain.client().unwrap(), plain.client().unwrap())];
        let mut seen: [Vec<String>; 2] = [Vec::new(), Vec::new()];
        for ((subscriber, publisher), seen) in sides.iter_mut().zip(&mut seen) {
            if resp3 {
                subscriber.hello3().unwrap();
            }
            ask("UNSUBSCRIBE", 1, subscriber, seen);
            ask("UNSUBSCRIBE nothing", 1, subscriber, seen);
            ask("SUBSCRIBE a b a", 3, subscriber, seen);
            ask("PSUBSCRIBE a* ?", 2, subscriber, seen);
            if !resp3 {
                ask("GET k", 1, subscriber, seen);
                ask("PING", 1, subscriber, seen);
                ask("PING hello", 1, subscriber, seen);
            } else {
                ask("SET k 1", 1, subscriber, seen);
                ask("PING", 1, subscriber, seen);
            }
            ask("SUBSCRIBE", 1, subscriber, seen);
            for line in [
                "PUBLISH a one",
                "PUBLISH b two",
                "PUBLISH abc three",
                "PUBLISH nobody four",
                "PUBSUB CHANNELS",
                "PUBSUB NUMSUB a b c",
                "PUBSUB NUMPAT",
            ] {
                let mut reply = publisher.cmd(line).unwrap();
                if let (Value::Array(items), true) = (&mut reply, line.ends_with("CHANNELS")) {
                    items.sort_by_key(Value::to_string);
                }
                seen.push(format!("{line}: {reply}"));
            }
            for messages in [3, 2, 1] {
                // Patterns are told in an order of the server's own.
                let mut messages = take(subscriber, messages);
                messages.sort();
                seen.extend(messages);
            }
            ask("UNSUBSCRIBE b x", 2, subscriber, seen);
            ask("PUNSUBSCRIBE ?", 1, subscriber, seen);
            ask("PUNSUBSCRIBE", 1, subscriber, seen);
            ask("UNSUBSCRIBE", 1, subscriber, seen);
            ask("GET k", 1, subscriber, seen);
            if version.at_least_7() {
                ask("SSUBSCRIBE s", 1, subscriber, seen);
                seen.push(publisher.cmd("SPUBLISH s five").unwrap().to_string());
                seen.extend(take(subscriber, 1));
                ask("SUNSUBSCRIBE", 1, subscriber, seen);
            }
            ask("SUBSCRIBE again", 1, subscriber, seen);
            if version != Version::Redis50 {
                ask("RESET", 1, subscriber, seen);
                ask("PING", 1, subscriber, seen);
            }
        }
        assert_eq!(seen[0], seen[1], "{} resp3 {resp3}", version.name());
        pair.assert_equal().unwrap();
    }
}

/// H30: numbered messages across ten flips, to subscribers by channel and by pattern, in both protocols: none lost, none doubled, in
/// order; and PUBLISH counts those who received it, whatever the flip is doing.
#[test]
fn h30_no_message_is_lost_or_doubled_across_flips() {
    let pair = Pair::plain().unwrap();
    let total = 50_000;
    let listen = |line: &str, resp3: bool| {
        let mut client = pair.client().unwrap();
        if resp3 {
            client.hello3().unwrap();
        }
        client.send(&command(line)).unwrap();
        client.receive().unwrap();
        client
    };
    let subscribers =
        [listen("SUBSCRIBE news", false), listen("PSUBSCRIBE n*", true), listen("SUBSCRIBE news", true), listen("PSUBSCRIBE *", false)];
    let count = subscribers.len() as i64;
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for expected in 0..total {
                    let message = client.receive().unwrap();
                    let payload = message.items().last().unwrap().text();
                    assert_eq!(payload, expected.to_string(), "{message}");
                }
                client
            })
        })
        .collect();
    let published = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let publisher = {
        let (mut client, published) = (pair.client().unwrap(), published.clone());
        std::thread::spawn(move || {
            for batch in 0..total / 50 {
                let lines: Vec<_> = (0..50).map(|at| command(&format!("PUBLISH news {}", batch * 50 + at))).collect();
                for reply in client.pipeline(&lines).unwrap() {
                    assert_eq!(reply.int(), Some(count));
                }
                published.store((batch + 1) * 50, std::sync::atomic::Ordering::Relaxed);
            }
        })
    };
    for flip in 0..10 {
        until("messages to flow", PATIENCE, || Ok(published.load(std::sync::atomic::Ordering::Relaxed) >= flip * total / 12)).unwrap();
        if flip % 2 == 0 { pair.cutover() } else { pair.rollback() }.unwrap();
    }
    publisher.join().unwrap();
    for reader in readers {
        let mut client = reader.join().unwrap();
        client.set_timeout(Duration::from_millis(200)).unwrap();
        assert!(client.receive().is_err(), "nothing more comes");
    }
}

/// A flip that is undone leaves every subscription as it was.
#[test]
fn a_flip_that_is_undone_keeps_the_stream() {
    let pair = Pair::plain().unwrap();
    let (mut subscriber, mut publisher) = (pair.client().unwrap(), pair.client().unwrap());
    subscriber.send(&["SUBSCRIBE", "news"]).unwrap();
    subscriber.receive().unwrap();
    for turn in 0..3 {
        pair.new.freeze().unwrap();
        assert_eq!(publisher.cmd(&format!("PUBLISH news {turn}a")).unwrap().int(), Some(1));
        let answer = pair.proxy.cutover().unwrap();
        assert_ne!(answer.status, 200, "{}", answer.body);
        pair.new.thaw().unwrap();
        assert_eq!(publisher.cmd(&format!("PUBLISH news {turn}b")).unwrap().int(), Some(1));
        for wanted in ["a", "b"] {
            assert_eq!(subscriber.receive().unwrap().items()[2].text(), format!("{turn}{wanted}"));
        }
    }
}

/// Keyspace notifications follow the primary, and nobody hears of the proxy's own key.
#[test]
fn keyspace_events_follow_the_primary() {
    let args = ["--notify-keyspace-events", "KEA"];
    let pair = Pair::start(Setup::with_args(&[]).old_args(&args).new_args(&args)).unwrap();
    let (mut subscriber, mut writer) = (pair.client().unwrap(), pair.client().unwrap());
    subscriber.send(&["PSUBSCRIBE", "__key*__:*"]).unwrap();
    subscriber.receive().unwrap();
    for turn in 0..2 {
        assert!(writer.cmd(&format!("SET k{turn} v")).unwrap().is_ok());
        assert_eq!(subscriber.receive().unwrap().items()[2].text(), format!("__keyspace@0__:k{turn}"));
        assert_eq!(subscriber.receive().unwrap().items()[2].text(), "__keyevent@0__:set");
        if turn == 0 {
            pair.cutover().unwrap();
        }
    }
}

/// A subscriber that does not read is closed at its bound, and nobody else notices.
#[test]
fn a_subscriber_that_does_not_read_is_closed() {
    let setup = Setup::with_args(&["--set", "limits.subscriber_output_bytes_max=1048576"]);
    let pair = Pair::start(setup).unwrap();
    let (mut slow, mut publisher) = (pair.client().unwrap(), pair.client().unwrap());
    slow.send(&["SUBSCRIBE", "news"]).unwrap();
    slow.receive().unwrap();
    let payload = "x".repeat(100_000);
    until("the subscriber to be closed", PATIENCE, || Ok(publisher.cmd(&format!("PUBLISH news {payload}"))?.int() == Some(0))).unwrap();
    assert!(pair.metric("twinlane_clients_closed_total", "subscriber_output_bound").unwrap_or(0.0) >= 1.0);
}

/// MONITOR shows what the primary executes, and nothing of the proxy's own.
#[test]
fn monitor_shows_the_primary() {
    let pair = Pair::plain().unwrap();
    let (mut watcher, mut writer) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(watcher.cmd("MONITOR").unwrap().is_ok());
    assert!(writer.cmd("SET monitored yes").unwrap().is_ok());
    let line = watcher.receive().unwrap().text();
    assert!(line.ends_with("\"SET\" \"monitored\" \"yes\""), "{line}");
    pair.cutover().unwrap();
    assert!(writer.cmd("SET monitored again").unwrap().is_ok());
    until("the line of the new primary", PATIENCE, || Ok(watcher.receive()?.text().ends_with("\"again\""))).unwrap();
}

/// Clients that speak to a server directly, publishers among them, are named in the report of readiness.
#[test]
fn direct_clients_are_found() {
    let pair = Pair::plain().unwrap();
    let mut direct = pair.old.client().unwrap();
    assert_eq!(direct.cmd("PUBLISH news x").unwrap().int(), Some(0));
    until("the finding", PATIENCE, || {
        let findings = pair.proxy.get("/v1/readiness")?.body;
        let found = findings["findings"].as_array().cloned().unwrap_or_default();
        Ok(found.iter().any(|finding| {
            finding["code"] == "direct-clients" && finding["text"].as_str().unwrap_or_default().contains("of 1 of them was PUBLISH")
        }))
    })
    .unwrap();
}

/// What the server refuses leaves nothing behind: the client is no subscriber, and MONITOR is refused as often as it is asked.
#[test]
fn what_is_refused_leaves_nothing() {
    let pair = Pair::plain().unwrap();
    let mut direct = pair.old.client().unwrap();
    assert!(direct.cmd("ACL SETUSER default resetchannels &open -monitor").unwrap().is_ok());
    let mut client = pair.client().unwrap();
    for line in ["SUBSCRIBE closed", "SUBSCRIBE open closed", "MONITOR", "MONITOR"] {
        assert!(client.cmd(line).unwrap().to_string().starts_with("-NOPERM"), "{line}");
        assert!(client.cmd("SET k 1").unwrap().is_ok(), "after {line}");
    }
    client.cmd("SUBSCRIBE open").unwrap();
    assert!(client.cmd("PSUBSCRIBE *").unwrap().is_error());
    assert!(client.cmd("GET k").unwrap().is_error());
    client.cmd("UNSUBSCRIBE").unwrap();
    assert_eq!(client.cmd("GET k").unwrap().text(), "1");
}

/// A subscription that the other side refuses is not lost with a cutover: the cutover is refused.
#[test]
fn a_cutover_does_not_lose_a_subscription() {
    let pair = Pair::plain().unwrap();
    assert!(pair.new.client().unwrap().cmd("ACL SETUSER default resetchannels").unwrap().is_ok());
    let (mut subscriber, mut publisher) = (pair.client().unwrap(), pair.client().unwrap());
    subscriber.cmd("SUBSCRIBE news").unwrap();
    let answer = pair.proxy.cutover().unwrap();
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.to_string().contains("NOPERM"), "{}", answer.body);
    assert_eq!(publisher.cmd("PUBLISH news still").unwrap().int(), Some(1));
    assert_eq!(subscriber.receive().unwrap().items()[2].text(), "still");
}

/// A server without connections left refuses the one who asks for a redirection, not the one who was to be told.
#[test]
fn a_redirection_that_fails_is_told_to_who_asked() {
    let pair = Pair::plain().unwrap();
    let (mut told, mut asking) = (pair.client().unwrap(), pair.client().unwrap());
    let id = told.cmd("CLIENT ID").unwrap().int().unwrap();
    let mut direct = pair.old.client().unwrap();
    assert!(direct.cmd("CONFIG SET maxclients 1").unwrap().is_ok());
    let refused = asking.cmd(&format!("CLIENT TRACKING ON REDIRECT {id}")).unwrap();
    assert!(refused.to_string().contains("cannot be reached"), "{refused}");
    assert!(told.cmd("PING").unwrap().to_string().contains("PONG"));
    assert!(direct.cmd("CONFIG SET maxclients 1000").unwrap().is_ok());
    assert!(asking.cmd(&format!("CLIENT TRACKING ON REDIRECT {id}")).unwrap().is_ok());
}

/// A client that waits for a key is told at once what is invalid; one that does not read is closed at its bound.
#[test]
fn a_tracker_that_waits_is_told_and_one_that_does_not_read_is_closed() {
    let pair = Pair::start(Setup::with_args(&["--set", "limits.subscriber_output_bytes_max=1048576"])).unwrap();
    let (mut waiting, mut writer) = (pair.client().unwrap(), pair.client().unwrap());
    waiting.hello3().unwrap();
    assert!(waiting.cmd("CLIENT TRACKING ON BCAST").unwrap().is_ok());
    waiting.send(&["BLPOP", "nothing", "0"]).unwrap();
    until("the client to wait", PATIENCE, || Ok(writer.cmd("CLIENT LIST")?.text().contains("cmd=blpop"))).unwrap();
    assert!(writer.cmd("SET k 1").unwrap().is_ok());
    let told = waiting.receive().unwrap().to_string();
    assert!(told.contains("invalidate") && told.contains('k'), "{told}");
    let key = "x".repeat(100_000);
    until("the tracker to be closed", PATIENCE, || {
        writer.cmd(&format!("SET {key} 1"))?;
        Ok(!writer.cmd("CLIENT LIST")?.text().contains("cmd=blpop"))
    })
    .unwrap();
}

/// A read that waits for a key does so beside the server's connection for a tracking client, so a cutover does not wait for it.
#[test]
fn a_tracking_client_that_waits_for_a_stream_holds_no_cutover_up() {
    let pair = Pair::plain().unwrap();
    let (mut reader, mut writer) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(reader.cmd("CLIENT TRACKING ON").unwrap().is_ok());
    reader.send(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]).unwrap();
    until("the client to wait", PATIENCE, || Ok(writer.cmd("CLIENT LIST")?.text().contains("cmd=xread"))).unwrap();
    pair.cutover().unwrap();
    assert_eq!(writer.cmd("XADD s 1-1 f v").unwrap().text(), "1-1");
    assert!(reader.reply().unwrap().to_string().contains("1-1"));
}
