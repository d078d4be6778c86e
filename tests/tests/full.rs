//! A primary at its memory limit, on real servers: it queues nothing in MULTI, and executes what frees memory all the same. What an
//! operator does then must work through the proxy as it does without, and what is in doubt must heal meanwhile.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::pair::{PATIENCE, Pair, until};
use twinlane_tests::resp::Client;

fn told(client: &mut Client, line: &str) -> String {
    let reply = client.cmd(line).unwrap();
    reply.error().map_or_else(|| reply.text(), |error| format!("error:{error}"))
}

fn int(client: &mut Client, line: &str) -> Option<i64> {
    client.cmd(line).unwrap().int()
}

fn fill(client: &mut Client) {
    let value = vec![b'v'; 64 * 1024];
    for at in 0..200 {
        assert!(client.call(&[b"SET", format!("key:{at}").as_bytes(), &value]).unwrap().is_ok());
    }
    for at in 0..1000 {
        assert!(!client.cmd(&format!("XADD stream {}-1 f v", at + 1)).unwrap().is_error());
    }
    assert_eq!(told(client, "SET volatile v EX 10000"), "OK");
}

/// The server holds more than it may from now on.
fn make_full(pair: &Pair) {
    let mut direct = pair.old.client().unwrap();
    assert_eq!(told(&mut direct, "CONFIG SET maxmemory-policy noeviction"), "OK");
    assert_eq!(told(&mut direct, "CONFIG SET maxmemory 8mb"), "OK");
}

fn assert_full(client: &mut Client) {
    assert!(told(client, "SET more v").starts_with("error:OOM"));
}

#[test]
fn a_full_primary_is_emptied_through_the_proxy() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    fill(&mut client);
    assert_eq!(told(&mut client, "SELECT 1"), "OK");
    assert_eq!(told(&mut client, "SET one 1"), "OK");
    assert_eq!(told(&mut client, "SELECT 0"), "OK");
    make_full(&pair);
    assert_full(&mut client);
    assert!(client.cmd("XTRIM stream MAXLEN ~ 100").unwrap().int().unwrap() > 0);
    assert!(!told(&mut client, "RANDOMKEY").starts_with("error:"));
    assert_eq!(told(&mut client, "SWAPDB 0 1"), "OK");
    assert_eq!(told(&mut client, "GET one"), "1");
    assert_full(&mut client);
    assert_eq!(told(&mut client, "FLUSHDB"), "OK");
    assert_eq!(told(&mut client, "GET one"), "");
    assert_eq!(int(&mut client, "DBSIZE"), Some(0));
    assert_full(&mut client);
    pair.assert_equal().unwrap();
    assert_eq!(told(&mut client, "SELECT 5"), "OK");
    assert_eq!(told(&mut client, "FLUSHALL"), "OK");
    assert_eq!(told(&mut client, "SET more v"), "OK");
    assert_eq!(int(&mut pair.new.client().unwrap(), "EXISTS __twinlane:record"), Some(1));
    until("the primary to have its mark again", PATIENCE, || Ok(int(&mut pair.old.client()?, "EXISTS __twinlane:record") == Some(1)))
        .unwrap();
    pair.assert_equal().unwrap();
    let mut direct = pair.new.client().unwrap();
    assert_eq!(told(&mut direct, "SELECT 5"), "OK");
    assert_eq!(int(&mut direct, "DBSIZE"), Some(1));
}

#[test]
fn keys_in_doubt_heal_while_the_primary_is_full() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    pair.new.freeze().unwrap();
    fill(&mut client);
    pair.wait_status("keys in doubt", |status| status["mirror"]["dirty_keys"].as_u64().is_some_and(|keys| keys > 0)).unwrap();
    make_full(&pair);
    assert_full(&mut client);
    pair.new.thaw().unwrap();
    pair.assert_equal().unwrap();
    assert_full(&mut client);
    let ttl = pair.new.client().unwrap().cmd("TTL volatile").unwrap().int().unwrap();
    assert!((1..=10_001).contains(&ttl), "{ttl}");
}
