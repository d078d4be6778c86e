//! A script that does not end, on real servers: it holds up the lane that everybody shares, so SCRIPT KILL goes beside it, and
//! whoever comes meanwhile is told what a plain server would tell.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::{Client, command};
use twinlane_tests::servers::Version;

const FOR_EVER: &[u8] = b"while true do end";

/// What a command answers, `error:` before an error's text.
fn told(client: &mut Client, line: &str) -> String {
    let reply = client.cmd(line).unwrap();
    reply.error().map_or_else(|| reply.text(), |error| format!("error:{error}"))
}

/// Waits until the primary is busy, as a client sees it.
fn wait_busy(client: &mut Client) -> String {
    let mut last = String::new();
    until("clients to be told that the server is busy", PATIENCE, || {
        last = told(client, "PING");
        Ok(last.starts_with("error:BUSY"))
    })
    .unwrap();
    last
}

fn wait_idle(client: &mut Client) {
    until("the server to be heard again", PATIENCE, || Ok(told(client, "PING") == "PONG")).unwrap();
}

fn pair(version: Version) -> Pair {
    let pair = Pair::start(Setup::of(version, version)).unwrap();
    for server in [&pair.old, &pair.new] {
        assert_eq!(told(&mut server.client().unwrap(), "CONFIG SET lua-time-limit 10"), "OK");
    }
    pair
}

/// The same script is ended four times, in every version: others are told `-BUSY` meanwhile, what was in the lane is executed behind it,
/// and both servers are equal in the end.
#[test]
fn script_kill_ends_a_script_that_holds_the_lane() {
    for version in [Version::Redis50, Version::Redis62, Version::Redis70, Version::Valkey81] {
        let pair = pair(version);
        let (mut runner, mut other, mut queued) = (pair.client().unwrap(), pair.client().unwrap(), pair.client().unwrap());
        assert_eq!(told(&mut other, "SCRIPT KILL"), "error:NOTBUSY No scripts in execution right now.", "{}", version.name());
        for round in 0..4 {
            runner.send(&[&b"EVAL"[..], FOR_EVER, b"0"]).unwrap();
            // Behind the script in its own connection: answered when that has ended, and not refused.
            runner.send(&command(&format!("INCR behind:{round}"))).unwrap();
            let busy = wait_busy(&mut other);
            let plain = told(&mut pair.old.client().unwrap(), "PING");
            assert_eq!(busy, plain, "{}: the words are the server's", version.name());
            assert_eq!(told(&mut other, "SET refused 1"), plain);
            assert_eq!(told(&mut other, "MULTI"), "OK");
            assert_eq!(told(&mut other, "SET refused 1"), plain);
            assert!(told(&mut other, "EXEC").starts_with("error:EXECABORT Transaction discarded because of: BUSY"), "{}", version.name());
            assert_eq!(told(&mut queued, "GET refused"), plain);
            assert_eq!(told(&mut queued, "SCRIPT KILL"), "OK");
            assert!(runner.reply().unwrap().is_error(), "the script was ended");
            assert_eq!(runner.reply().unwrap().int(), Some(1));
            wait_idle(&mut other);
            assert!(other.cmd("GET refused").unwrap().is_nil());
        }
        pair.assert_equal().unwrap_or_else(|error| panic!("{}: {error:#}", version.name()));
        assert_eq!(told(&mut pair.new.client().unwrap(), "GET behind:3"), "1");
    }
}

/// A function is ended by FUNCTION KILL and not by SCRIPT KILL; FUNCTION STATS tells which one runs, and a script that has written
/// cannot be ended.
#[test]
fn function_kill_and_its_limits() {
    let pair = pair(Version::Redis70);
    let (mut runner, mut other) = (pair.client().unwrap(), pair.client().unwrap());
    let library = b"#!lua name=endless\nredis.register_function('endless', function() while true do end end)";
    assert!(!runner.call(&[b"FUNCTION", b"LOAD", library]).unwrap().is_error());
    assert_eq!(told(&mut other, "FUNCTION KILL"), "error:NOTBUSY No scripts in execution right now.");
    runner.send(&command("FCALL endless 0")).unwrap();
    assert!(wait_busy(&mut other).contains("FUNCTION KILL"));
    assert!(told(&mut other, "SCRIPT KILL").starts_with("error:BUSY"));
    let stats = other.cmd("FUNCTION STATS").unwrap();
    assert!(stats.to_string().contains("endless"), "{stats}");
    assert_eq!(told(&mut other, "FUNCTION KILL"), "OK");
    assert!(runner.reply().unwrap().is_error());
    wait_idle(&mut other);
    let writes: &[u8] = b"redis.call('SET', KEYS[1], 1) local now = redis.call('TIME') \
        repeat local t = redis.call('TIME') until t[1] - now[1] > 6 return 'done'";
    runner.send(&[&b"EVAL"[..], writes, b"1", b"written"]).unwrap();
    wait_busy(&mut other);
    assert!(told(&mut other, "SCRIPT KILL").starts_with("error:UNKILLABLE"));
    assert_eq!(runner.reply().unwrap().text(), "done");
    wait_idle(&mut other);
    pair.assert_equal().unwrap();
}

/// SCRIPT KILL follows the role: behind a cutover it ends what runs on the other server.
#[test]
fn script_kill_follows_a_cutover() {
    let pair = pair(Version::Redis70);
    let (mut runner, mut other) = (pair.client().unwrap(), pair.client().unwrap());
    runner.send(&[&b"EVAL"[..], FOR_EVER, b"0"]).unwrap();
    wait_busy(&mut other);
    assert_eq!(told(&mut other, "SCRIPT KILL"), "OK");
    assert!(runner.reply().unwrap().is_error());
    wait_idle(&mut other);
    pair.settle().unwrap();
    assert_eq!(pair.cutover().unwrap().status, 200);
    runner.send(&[&b"EVAL"[..], FOR_EVER, b"0"]).unwrap();
    wait_busy(&mut other);
    assert_eq!(told(&mut other, "SCRIPT KILL"), "OK");
    assert!(runner.reply().unwrap().is_error());
    wait_idle(&mut other);
    pair.assert_equal().unwrap();
}
