//! Is this pair a pair, and is it ours? One server under two names, a follower of the other, a second proxy on the same servers: each
//! would write twice, or over what another has written. Nothing is served then, and the refusal says what to do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;
use std::process::Command;

use twinlane_tests::asking::ok;
use twinlane_tests::forward::{Disguise, Forwarder};
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::proxy::{Options, Proxy, binary};
use twinlane_tests::resp::{command, is_timeout};
use twinlane_tests::servers::{Server, Version};

fn server() -> Server {
    Server::plain(Version::Redis70).unwrap()
}

/// Starts the proxy, which must end by itself, and gives what it said.
fn refusal(proxy: &mut Proxy) -> String {
    proxy.launch().unwrap();
    until("the start to be refused", PATIENCE, || Ok(proxy.try_wait()?.is_some()))
        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    proxy.log()
}

#[test]
fn h39_one_server_under_two_addresses_is_refused() {
    let server = server();
    let other_way = Forwarder::start(&server.address()).unwrap();
    let mut proxy = Proxy::prepare(&server.address(), &other_way.address(), Options::default()).unwrap();
    let said = refusal(&mut proxy);
    assert!(said.contains("one and the same server") && said.contains("give two servers"), "{said}");
    assert_eq!(ok(&mut server.client().unwrap(), "DBSIZE").int(), Some(0), "nothing is left behind");
}

#[test]
fn h39_a_follower_of_the_other_is_refused_and_a_follower_of_the_follower() {
    let [old, between, last] = [(); 3].map(|()| server());
    ok(&mut between.client().unwrap(), &format!("REPLICAOF 127.0.0.1 {}", old.port()));
    ok(&mut last.client().unwrap(), &format!("REPLICAOF 127.0.0.1 {}", between.port()));
    ok(&mut old.client().unwrap(), "SET k v");
    until("the chain to be in step", PATIENCE, || Ok(last.client()?.cmd("GET k")?.text() == "v")).unwrap();
    for (old, new) in [(&old, &between), (&old, &last), (&last, &old)] {
        let mut proxy = Proxy::prepare(&old.address(), &new.address(), Options::default()).unwrap();
        let said = refusal(&mut proxy);
        assert!(said.contains("replicate the same data") && said.contains("REPLICAOF NO ONE"), "{said}");
    }
}

/// A service behind a front of its own tells another name at each address: one server looks like two, and only what is written at one address and read
/// at the other tells. Nothing of the attempt stays behind.
#[test]
fn h39_one_server_that_gives_itself_two_names_is_found_out_by_a_write() {
    let server = server();
    let front = Forwarder::start(&server.address()).unwrap();
    front.disguise(Disguise::One);
    let direct = server.address();
    for (old, new) in [(&direct, &front.address()), (&front.address(), &direct)] {
        let mut proxy = Proxy::prepare(old, new, Options::default()).unwrap();
        let said = refusal(&mut proxy);
        assert!(said.contains("what is written to ") && said.contains("appears on "), "{said}");
        assert!(said.contains("give two servers of their own") && !said.contains("run_id"), "{said}");
        assert_eq!(ok(&mut server.client().unwrap(), "DBSIZE").int(), Some(0), "nothing is left behind");
    }
}

#[test]
fn h39_our_own_listener_is_refused() {
    let old = server();
    let mut proxy = Proxy::prepare(&old.address(), "127.0.0.1:1", Options::default()).unwrap();
    proxy.new = format!("redis://{}", proxy.address());
    let said = refusal(&mut proxy);
    assert!(said.contains("this proxy's own listen.address"), "{said}");
}

/// While the proxy runs, the mirror's address begins to lead to the primary: it is not mirrored to, and clients do not notice.
#[test]
fn h39_an_address_that_turns_to_the_other_side_is_not_used() {
    let (old, new) = (server(), server());
    let address = Forwarder::start(&new.address()).unwrap();
    let proxy = Proxy::start(&old.address(), &address.address(), Options::default()).unwrap();
    let mut client = proxy.client().unwrap();
    ok(&mut client, "RPUSH list a");
    address.point_at(Some(&old.address()));
    until("the turn to be noticed", PATIENCE, || {
        Ok(proxy.status()?["new"]["error"].as_str().is_some_and(|error| error.contains("one and the same server")))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    ok(&mut client, "RPUSH list b");
    assert_eq!(ok(&mut old.client().unwrap(), "LLEN list").int(), Some(2), "it ran once");
    address.point_at(Some(&new.address()));
    until("the mirror to have it", PATIENCE, || Ok(new.client()?.cmd("LLEN list")?.int() == Some(2))).unwrap();
}

/// A pair whose old side is reached by a name that a test gives to others: the servers, the name, the proxy.
fn by_name() -> (Server, Server, Forwarder, Proxy) {
    let (old, new) = (server(), server());
    let name = Forwarder::start(&old.address()).unwrap();
    let proxy = Proxy::start(&name.address(), &new.address(), Options::default()).unwrap();
    (old, new, name, proxy)
}

/// A name changes hands while its connections live: the retired tier's is given to its successor, say. What connects from then on would be at another
/// server than the lanes.
#[test]
fn h39_a_name_that_changes_hands_is_noticed_while_its_connections_live() {
    let (old, new, name, proxy) = by_name();
    let mut client = proxy.client().unwrap();
    ok(&mut client, "RPUSH list a");
    until("the mirror to have it", PATIENCE, || Ok(new.client()?.cmd("LLEN list")?.int() == Some(1))).unwrap();
    name.rename(&new.address());
    until("the new hands to be noticed", PATIENCE, || {
        Ok(proxy.status()?["old"]["error"].as_str().is_some_and(|error| error.contains("one and the same server")))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    assert_eq!(ok(&mut new.client().unwrap(), "LRANGE list 0 -1").to_string(), "[\"a\"]", "it ran once");
    name.rename(&old.address());
    until("the primary to be back", PATIENCE, || Ok(proxy.client()?.cmd("RPUSH list b")?.int() == Some(2))).unwrap();
    until("the mirror to have both", PATIENCE, || Ok(new.client()?.cmd("LLEN list")?.int() == Some(2))).unwrap();
}

/// A session's own connection is opened when it is needed, which may be behind that: it is not taken for one to the server of the lanes.
#[test]
fn h39_connections_of_a_side_lead_to_one_server() {
    let (old, new, name, proxy) = by_name();
    let mut client = proxy.client().unwrap();
    ok(&mut client, "SET k v");
    name.rename(&new.address());
    // It waits for the side, which is connected anew as a whole, and not there.
    client.send(&["WATCH", "k"]).unwrap();
    until("the side to be connected anew", PATIENCE, || Ok(proxy.log().contains("the address leads to another server process now")))
        .unwrap();
    name.rename(&old.address());
    assert!(client.reply().unwrap().is_ok());
    let replies = client.pipeline(&["MULTI", "INCR n", "EXEC"].map(command)).unwrap();
    assert_eq!(replies[2].to_string(), "[1]");
    until("the mirror to have it", PATIENCE, || Ok(new.client()?.cmd("GET n")?.text() == "1")).unwrap();
}

/// A name that leads to a replica, or to a server that still loads, is one in the middle of a failover: the lanes stay where they are, which is where
/// the data is, and what the other one says is not taken for the primary's.
#[test]
fn h39_a_name_that_leads_to_a_replica_moves_nothing() {
    let (old, _new, name, proxy) = by_name();
    let replica = server();
    ok(&mut replica.client().unwrap(), &format!("REPLICAOF 127.0.0.1 {}", old.port()));
    let mut client = proxy.client().unwrap();
    ok(&mut client, "RPUSH list a");
    let error = || Ok::<_, anyhow::Error>(proxy.status()?["old"]["error"].as_str().map(str::to_owned));
    name.rename(&replica.address());
    until("the replica to be seen", PATIENCE, || Ok(error()?.is_some_and(|error| error.contains("is a replica"))))
        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    ok(&mut client, "RPUSH list b");
    assert_eq!(proxy.cutover().unwrap().status, 409, "nothing moves while nobody knows which server is which");
    name.rename(&old.address());
    until("the primary to be seen again", PATIENCE, || Ok(error()?.is_none()))
        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    assert_eq!(ok(&mut client, "RPUSH list c").int(), Some(3));
    assert!(!proxy.log().contains("connected anew"), "its connections live on\n{}", proxy.log_tail());
    proxy.wait_until_synced(PATIENCE).unwrap();
    proxy.flip("/v1/cutover", &json!({})).unwrap();
    assert_eq!(ok(&mut client, "LRANGE list 0 -1").to_string(), "[\"a\", \"b\", \"c\"]");
}

/// A service that tells another name on each connection is served: what follows from names elsewhere does not follow there, and the operator is told.
#[test]
fn h39_a_service_of_many_names_is_served() {
    let (old, new) = (server(), server());
    let front = Forwarder::start(&old.address()).unwrap();
    front.disguise(Disguise::Each);
    let proxy = Proxy::start(&front.address(), &new.address(), Options::default()).unwrap();
    assert!(proxy.log().contains("tells another run_id on each connection"), "{}", proxy.log_tail());
    let mut client = proxy.client().unwrap();
    // The lane, connections of its own, one more database, a large request.
    ok(&mut client, "RPUSH list a");
    let large = "x".repeat(2_000_000);
    for block in [&["WATCH list", "MULTI", "RPUSH list b", "EXEC"][..], &["SELECT 3", "SET k v"], &["SELECT 0"]] {
        let block: Vec<_> = block.iter().map(|line| command(line)).collect();
        client.pipeline(&block).unwrap().iter().for_each(|reply| assert!(!reply.is_error(), "{reply}"));
    }
    client.send(&["SET", "large", &large]).unwrap();
    assert!(client.reply().unwrap().is_ok());
    // Its connections are cut, and it comes back with other names.
    let connected = || proxy.log().matches("`old` is connected").count();
    let before = connected();
    front.point_at(Some(&old.address()));
    until("the primary to be back", PATIENCE, || Ok(connected() > before)).unwrap();
    assert_eq!(ok(&mut proxy.client().unwrap(), "RPUSH list c").int(), Some(3));
    proxy.wait_until_synced(PATIENCE).unwrap();
    proxy.flip("/v1/cutover", &json!({})).unwrap();
    let mut client = proxy.client().unwrap();
    assert_eq!(ok(&mut client, "LRANGE list 0 -1").to_string(), "[\"a\", \"b\", \"c\"]");
    assert_eq!(ok(&mut client, "STRLEN large").int(), Some(2_000_000));
    ok(&mut client, "SELECT 3");
    assert_eq!(ok(&mut client, "GET k").text(), "v");
}

/// A copy of a proxy's state directory, without the name of the process that runs now: restored from a backup, say.
fn copy_of(pair: &mut Pair) -> Proxy {
    pair.proxy.stop();
    let second = Proxy::prepare(&pair.proxy.old, &pair.proxy.new, Options::default()).unwrap();
    std::fs::create_dir_all(second.state_dir()).unwrap();
    for entry in std::fs::read_dir(pair.proxy.state_dir()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), second.state_dir().join(entry.file_name())).unwrap();
    }
    pair.proxy.restart().unwrap();
    pair.settle().unwrap();
    second
}

/// What `/readyz` says while it does not say 200.
fn unready(proxy: &Proxy, words: &str) -> String {
    let mut said = String::new();
    until("the proxy to say why it does not serve", PATIENCE, || {
        let Ok(answer) = proxy.get("/readyz") else { return Ok(false) };
        said = answer.body.to_string();
        Ok(answer.status == 503 && said.contains(words))
    })
    .unwrap_or_else(|error| panic!("{error}: {said}\n{}", proxy.log_tail()));
    said
}

#[test]
fn h10_a_second_proxy_waits_and_names_the_first_and_serves_when_that_one_is_gone() {
    let mut pair = Pair::plain().unwrap();
    let mut second = copy_of(&mut pair);
    let mut client = pair.client().unwrap();
    ok(&mut client, "SET k first");
    let connects = pair.connects("old");
    second.launch().unwrap();
    let said = unready(&second, "another Twinlane holds this pair");
    assert!(said.contains("instance") && said.contains("127.0.0.1:") && said.contains("adopt"), "{said}");
    assert!(second.client().is_err(), "it does not listen");
    ok(&mut client, "SET k still");
    assert_eq!(pair.connects("old"), connects, "the first was not disturbed\n{}", pair.proxy.log_tail());
    pair.proxy.kill9();
    second.wait_until_ready(PATIENCE).unwrap();
    let mut client = second.client().unwrap();
    assert_eq!(ok(&mut client, "GET k").text(), "still");
    ok(&mut client, "SET k second");
}

/// Takes the pair over for a proxy that is to start; what is said.
fn adopt(second: &Proxy) -> String {
    let output = Command::new(binary().unwrap())
        .args(["adopt", "--yes", "--old", &second.old, "--new", &second.new, "--state-dir"])
        .arg(second.state_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `adopt` is the operator's word: the second takes over, the first steps back and says to whom.
#[test]
fn h10_adopt_takes_over_from_a_proxy_that_lives() {
    let pair = Pair::plain().unwrap();
    ok(&mut pair.client().unwrap(), "SET k first");
    let mut second = Proxy::prepare(&pair.proxy.old, &pair.proxy.new, Options::default()).unwrap();
    let said = adopt(&second);
    assert!(said.contains("in use by"), "{said}");
    second.restart().unwrap();
    assert_eq!(ok(&mut second.client().unwrap(), "GET k").text(), "first");
    unready(&pair.proxy, "another Twinlane holds this pair");
    ok(&mut second.client().unwrap(), "SET k second");
}

/// The holder is no dead process: it stands still (a machine that is moved), with a client's write in its hands, and wakes behind the
/// take-over. Its connections were killed meanwhile, so what it sends reaches nobody: it steps back, and the write is not executed.
#[test]
fn h10_a_holder_that_wakes_behind_the_take_over_steps_back() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    for line in ["SET k first", "RPUSH list a", "HSET h f 1"] {
        ok(&mut client, line);
    }
    pair.settle().unwrap();
    pair.proxy.freeze().unwrap();
    for line in ["SET k late", "RPUSH list late"] {
        client.send(&twinlane_tests::resp::command(line)).unwrap();
    }
    let mut second = Proxy::prepare(&pair.proxy.old, &pair.proxy.new, Options::default()).unwrap();
    adopt(&second);
    second.restart().unwrap();
    let mut other = second.client().unwrap();
    assert_eq!(ok(&mut other, "GET k").text(), "first", "what was acknowledged is there");
    for line in ["SET k second", "RPUSH list b"] {
        ok(&mut other, line);
    }
    pair.proxy.thaw().unwrap();
    unready(&pair.proxy, "another Twinlane holds this pair");
    let said = client.receive();
    assert!(!said.as_ref().is_ok_and(|reply| reply.is_ok()), "the write of the one that stepped back was acknowledged: {said:?}");
    ok(&mut other, "SET k third");
    second.wait_until_synced(PATIENCE).unwrap();
    pair.compare().unwrap();
    for server in [&pair.old, &pair.new] {
        let mut direct = server.client().unwrap();
        assert_eq!(ok(&mut direct, "GET k").text(), "third");
        assert_eq!(ok(&mut direct, "LRANGE list 0 -1").items().iter().map(|item| item.text()).collect::<Vec<_>>(), ["a", "b"]);
    }
}

/// A fresh state directory never serves a marked pair by itself (H9); while its holder lives, that is what it says.
#[test]
fn h10_a_proxy_with_a_fresh_state_directory_waits_and_then_asks_for_adopt() {
    let mut pair = Pair::plain().unwrap();
    let mut second = Proxy::prepare(&pair.proxy.old, &pair.proxy.new, Options::default()).unwrap();
    second.launch().unwrap();
    unready(&second, "another Twinlane holds this pair");
    pair.proxy.kill9();
    until("the second to end", PATIENCE, || Ok(second.try_wait()?.is_some())).unwrap();
    assert!(second.log().contains("twinlane adopt"), "{}", second.log_tail());
}

/// A server that does not list its clients: the count in the record rises as long as the first one lives.
#[test]
fn h10_where_clients_are_not_listed_the_record_tells_of_the_first() {
    let (old, new) = (server(), server());
    let url = |server: &Server| {
        ok(&mut server.client().unwrap(), "ACL SETUSER limited on >pw ~* &* +@all -client|list");
        format!("redis://limited:pw@{}", server.address())
    };
    let urls = [url(&old), url(&new)];
    let mut first = Proxy::start(&urls[0], &urls[1], Options::default()).unwrap();
    let mut second = Proxy::prepare(&urls[0], &urls[1], Options::default()).unwrap();
    second.launch().unwrap();
    unready(&second, "the count in the record");
    first.kill9();
    until("the second to ask for adopt", PATIENCE, || Ok(second.try_wait()?.is_some())).unwrap();
    assert!(second.log().contains("twinlane adopt"), "{}", second.log_tail());
}

/// Servers that close what is idle: lanes, a subscriber's connection and a watcher's are asked often enough.
#[test]
fn idle_connections_are_kept_alive() {
    let mut setup = Setup::of(Version::Redis70, Version::Redis70).old_args(&["--timeout", "5"]).new_args(&["--timeout", "5"]);
    setup.proxy.env = vec![("TWINLANE__UPSTREAM__KEEPALIVE_S".into(), "1".into())];
    let pair = Pair::start(setup).unwrap();
    let (mut watcher, mut listener) = (pair.client().unwrap(), pair.client().unwrap());
    ok(&mut watcher, "SELECT 3");
    ok(&mut watcher, "SET k 1");
    ok(&mut watcher, "WATCH k");
    ok(&mut listener, "SUBSCRIBE news");
    pair.settle().unwrap();
    let connects = [pair.connects("old"), pair.connects("new")];
    // Twice as long as the servers bear: that they have closed one who says nothing, and another one behind it, shows it.
    for _ in 0..2 {
        let silent = [&pair.old, &pair.new].map(|server| server.client().unwrap());
        for mut client in silent {
            client.set_timeout(PATIENCE).unwrap();
            assert!(client.receive().is_err_and(|error| !is_timeout(&error)));
        }
    }
    ok(&mut watcher, "MULTI");
    ok(&mut watcher, "SET k 2");
    assert!(!ok(&mut watcher, "EXEC").is_nil(), "the watcher's connection was closed");
    ok(&mut pair.client().unwrap(), "PUBLISH news hello");
    let heard = listener.receive().unwrap();
    assert_eq!(heard.items()[2].text(), "hello", "{heard}");
    assert_eq!([pair.connects("old"), pair.connects("new")], connects, "{}", pair.proxy.log_tail());
    pair.assert_equal().unwrap();
}

fn findings(pair: &Pair) -> String {
    pair.proxy.get("/v1/readiness").unwrap().body["findings"].to_string()
}

#[test]
fn readiness_tells_what_does_not_fit() {
    let setup = Setup::of(Version::Redis62, Version::Redis70);
    let pair = Pair::start(setup.new_args(&["--databases", "8", "--maxmemory-policy", "allkeys-lru"])).unwrap();
    let status = pair.wait_status("both ways to be tried", |status| status["images"]["to_new"] != "unknown").unwrap();
    assert_eq!((status["images"]["to_new"].as_str(), status["images"]["to_old"].as_str()), (Some("dump"), Some("typed")), "{status}");
    until("what differs to be found", PATIENCE, || {
        let found = findings(&pair);
        Ok(["memory-policy", "databases-fewer", "images-typed"].iter().all(|code| found.contains(code)))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", findings(&pair)));
    ok(&mut pair.new.client().unwrap(), "CONFIG SET maxmemory 100000");
    until("the mirror to be too small", PATIENCE, || Ok(findings(&pair).contains("mirror-memory"))).unwrap();
    assert!(findings(&pair).contains("give it more memory"));
}

/// H32: an absolute time is one of the primary's clock. Its clock is a minute ahead: what ends there in 200 s by the shared wall clock has
/// 140 s left. A clock that is set puts what has a time to live in doubt.
#[test]
fn h32_absolute_times_are_translated_and_a_clock_that_is_set_is_noticed() {
    let (old, new) = (server(), server());
    let address = Forwarder::start(&old.address()).unwrap();
    address.shift_clock(60);
    let proxy = Proxy::start(&address.address(), &new.address(), Options::default()).unwrap();
    let mut client = proxy.client().unwrap();
    ok(&mut client, "SET k v");
    until("the offset to be measured and the time to be translated", PATIENCE, || {
        let now: i64 = new.client()?.cmd("TIME")?.items()[0].text().parse()?;
        client.cmd(&format!("EXPIREAT k {}", now + 1_000))?;
        let left = new.client()?.cmd("TTL k")?.int().unwrap_or(0);
        Ok((930..=942).contains(&left))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log_tail()));
    // By real clocks the mirror's is a minute short. Nothing can be copied while the mirror stands still, so the doubt can be looked at.
    ok(&mut client, "SELECT 3");
    ok(&mut client, "SET without-a-time v");
    until("the effects to arrive", PATIENCE, || Ok(proxy.status()?["mirror"]["queued_effects"] == 0)).unwrap();
    new.freeze().unwrap();
    address.shift_clock(-300);
    let mut dirty = serde_json::Value::Null;
    until("the jump to put its databases in doubt", PATIENCE, || {
        dirty = proxy.get("/v1/dirty")?.body;
        Ok(dirty["databases"].as_array().is_some_and(|databases| !databases.is_empty()))
    })
    .unwrap_or_else(|error| panic!("{error}: {dirty}\n{}", proxy.log_tail()));
    let databases: Vec<_> =
        dirty["databases"].as_array().unwrap().iter().map(|found| (found["db"].as_u64(), found["cause"].as_str())).collect();
    assert_eq!(databases, [(Some(0), Some("expiry"))], "{dirty}");
    assert!(proxy.log().contains("the clock of `old` jumped"), "{}", proxy.log_tail());
    new.thaw().unwrap();
    let pair = Pair { old, new, proxy };
    pair.assert_equal().unwrap();
}
