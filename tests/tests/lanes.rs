//! Lanes that cannot be opened, on real servers that take no more clients: whoever needs such a lane is told, or left for later,
//! and everybody else goes on.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::pair::{PATIENCE, Pair, until};
use twinlane_tests::resp::{Client, command};
use twinlane_tests::servers::Server;

/// Above `limits.lane_frame_max`: it travels on a lane of its own.
const BIG: usize = 3 * 1024 * 1024;

fn set(client: &mut Client, value: &[u8]) -> Result<(), String> {
    let reply = client.call(&[b"SET", b"k", value]).unwrap();
    reply.error().map_or(Ok(()), Err)
}

/// Lets nobody in any more; who is there stays. What comes back can let others in again.
fn close(server: &Server) -> Client {
    let mut client = server.client().unwrap();
    assert!(client.cmd("CONFIG SET maxclients 1").unwrap().is_ok());
    client
}

fn open(client: &mut Client) {
    assert!(client.cmd("CONFIG SET maxclients 10000").unwrap().is_ok());
}

fn assert_told(error: &str) {
    assert!(error.starts_with("ERR twinlane: `old`"), "{error}");
    assert!(error.contains("max number of clients reached"), "{error}");
    assert!(error.ends_with("the command was not executed"), "{error}");
}

#[test]
fn a_lane_that_cannot_be_opened_fails_only_those_who_need_it() {
    let pair = Pair::plain().unwrap();
    let before = pair.connects("old");
    let (mut other, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    let mut operator = close(&pair.old);
    assert!(client.cmd("SELECT 3").unwrap().is_ok());
    assert_told(&set(&mut client, b"v").unwrap_err());
    assert_told(&set(&mut other, &vec![b'v'; BIG]).unwrap_err());
    assert_eq!(set(&mut other, b"small"), Ok(()));
    assert!(client.cmd("MULTI").unwrap().is_ok());
    assert!(!client.cmd("INCR n").unwrap().is_error());
    assert_told(&client.cmd("EXEC").unwrap().error().unwrap());
    open(&mut operator);
    until("the lane to be opened", PATIENCE, || Ok(set(&mut client, b"v").is_ok())).unwrap();
    until("the other lane to be opened", PATIENCE, || Ok(set(&mut other, &vec![b'w'; BIG]).is_ok())).unwrap();
    assert_eq!(pair.connects("old"), before, "the side was lost");
    pair.assert_equal().unwrap();
}

/// Closes every connection to the server but the operator's, with room for two others: the one that looks after the side and the lane
/// of database 0.
fn shake(server: &Server) -> Client {
    let mut operator = server.client().unwrap();
    assert!(operator.cmd("CONFIG SET maxclients 3").unwrap().is_ok());
    assert!(!operator.cmd("CLIENT KILL USER default SKIPME yes").unwrap().is_error());
    operator
}

#[test]
fn a_primary_comes_back_with_the_lanes_that_it_has_room_for() {
    let pair = Pair::plain().unwrap();
    let (mut other, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(client.cmd("SELECT 3").unwrap().is_ok());
    assert_eq!(set(&mut client, b"v"), Ok(()));
    let before = pair.connects("old");
    let mut operator = shake(&pair.old);
    pair.wait_reconnected("old", before).unwrap();
    assert_told(&set(&mut client, b"w").unwrap_err());
    assert_eq!(set(&mut other, b"w"), Ok(()));
    open(&mut operator);
    until("the lane to be opened", PATIENCE, || Ok(set(&mut client, b"w").is_ok())).unwrap();
    assert_eq!(pair.connects("old"), before + 1, "the side was lost once more");
    pair.assert_equal().unwrap();
}

#[test]
fn a_waiter_is_served_when_its_lane_is_open_again() {
    let pair = Pair::plain().unwrap();
    let (mut waiter, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    for client in [&mut waiter, &mut client] {
        assert!(client.cmd("SELECT 3").unwrap().is_ok());
    }
    waiter.send(&command("BLPOP l 0")).unwrap();
    pair.wait_status("a waiter", |status| status["blocked_clients"] == 1).unwrap();
    let before = pair.connects("old");
    let mut operator = shake(&pair.old);
    pair.wait_reconnected("old", before).unwrap();
    assert_told(&client.cmd("RPUSH l x").unwrap().error().unwrap());
    // By another writer: only the lane itself can find it.
    assert!(operator.cmd("SELECT 3").unwrap().is_ok());
    assert!(!operator.cmd("RPUSH l y").unwrap().is_error());
    open(&mut operator);
    let reply = waiter.reply().unwrap();
    assert_eq!(reply.items()[1].text(), "y");
}

#[test]
fn what_a_lane_of_the_mirror_cannot_carry_heals_when_it_can() {
    let pair = Pair::plain().unwrap();
    let before = pair.connects("new");
    let (mut other, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    let mut operator = close(&pair.new);
    assert!(client.cmd("SELECT 3").unwrap().is_ok());
    assert_eq!(set(&mut client, b"v"), Ok(()));
    assert_eq!(set(&mut other, b"v"), Ok(()));
    pair.wait_status("one key in doubt", |status| status["mirror"]["dirty_keys"].as_u64() == Some(1)).unwrap();
    until("the other database to be mirrored", PATIENCE, || Ok(operator.cmd("GET k")?.text() == "v")).unwrap();
    // A whole database that the mirror owes does not hold up the repair of another either.
    assert!(client.cmd("FLUSHDB").unwrap().is_ok());
    assert_eq!(set(&mut client, b"w"), Ok(()));
    assert!(!operator.cmd("RPUSH l strange").unwrap().is_error());
    assert!(!other.cmd("RPUSH l own").unwrap().is_error());
    until("the other database to be repaired", PATIENCE, || Ok(operator.cmd("LLEN l")?.int() == Some(1))).unwrap();
    open(&mut operator);
    pair.assert_equal().unwrap();
    assert_eq!(pair.connects("new"), before, "the side was lost");
}

#[test]
fn a_mirror_comes_back_with_the_lanes_that_it_has_room_for() {
    let pair = Pair::plain().unwrap();
    let (mut other, mut client) = (pair.client().unwrap(), pair.client().unwrap());
    assert!(client.cmd("SELECT 3").unwrap().is_ok());
    assert_eq!(set(&mut client, b"v"), Ok(()));
    pair.assert_equal().unwrap();
    let before = pair.connects("new");
    let mut operator = shake(&pair.new);
    pair.wait_reconnected("new", before).unwrap();
    assert_eq!(set(&mut client, b"w"), Ok(()));
    assert_eq!(set(&mut other, b"w"), Ok(()));
    until("the other database to be mirrored", PATIENCE, || Ok(operator.cmd("GET k")?.text() == "w")).unwrap();
    let shut = |status: &serde_json::Value| status["gate"].to_string().contains("`new` has no connection for database 3");
    pair.wait_status("the gate to be shut", shut).unwrap();
    open(&mut operator);
    pair.assert_equal().unwrap();
    assert_eq!(pair.connects("new"), before + 1, "the side was lost once more");
    pair.cutover().unwrap();
    assert_eq!(set(&mut client, b"x"), Ok(()));
}

/// Bytes of the query buffer that the server keeps for the connection on which it last got a SET.
fn query_buffer(operator: &mut Client) -> Option<usize> {
    let list = operator.cmd("CLIENT LIST").unwrap().text();
    let line = list.lines().find(|line| line.contains(" cmd=set "))?;
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.parse::<usize>().ok());
    Some(field("qbuf=")? + field("qbuf-free=")?)
}

/// Requests of 16 KiB that come whole, one at a time, leave a server with a query buffer for one of them; the proxy gets it out of that.
#[test]
fn a_server_gets_room_to_read_several_large_requests_at_a_time() {
    let pair = Pair::plain().unwrap();
    let (mut client, mut operator) = (pair.client().unwrap(), pair.old.client().unwrap());
    for (what, holds) in [("room for one", (|room| room < 24_576) as fn(usize) -> bool), ("room for several", |room| room > 40_960)] {
        until(what, PATIENCE, || {
            for _ in 0..8 {
                set(&mut client, &[b'v'; 16_384]).unwrap();
            }
            Ok(query_buffer(&mut operator).is_some_and(holds))
        })
        .unwrap();
    }
    pair.assert_equal().unwrap();
}
