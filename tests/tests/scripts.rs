//! Scripts and functions on real servers (H15, H40, H59): keys that no request names reach the mirror, in every order of writes around
//! them, and what cannot be known is said.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use serde_json::Value as Json;
use twinlane_tests::asking::ok_call as ok;
use twinlane_tests::pair::{PATIENCE, Pair, Setup, until};
use twinlane_tests::resp::command;
use twinlane_tests::servers::Version;

fn findings(pair: &Pair) -> Vec<Json> {
    pair.proxy.get("/v1/readiness").unwrap().body["findings"].as_array().unwrap().clone()
}

fn finding(pair: &Pair, code: &str) -> Option<Json> {
    findings(pair).into_iter().find(|finding| finding["code"] == code)
}

/// What BullMQ does: the names of the keys are made inside the script.
const ADD_JOB: &str = "local id = redis.call('INCR', ARGV[1] .. ':id') \
    redis.call('HSET', ARGV[1] .. ':' .. id, 'data', ARGV[2], 'at', redis.call('TIME')[1]) \
    redis.call('LPUSH', ARGV[1] .. ':wait', id) return id";

/// H15: scripts that build the names of their keys. Images of the declared keys carry nothing of it.
#[test]
fn h15_undeclared_keys_of_scripts_reach_the_mirror() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey81, Version::Valkey91] {
        let pair = Pair::start(Setup::of(version, version)).unwrap();
        let mut client = pair.client().unwrap();
        for job in 0..200 {
            ok(&mut client, &[b"EVAL", ADD_JOB.as_bytes(), b"0", b"queue", job.to_string().as_bytes()]);
        }
        ok(&mut client, &[b"SELECT", b"5"]);
        let sha = ok(&mut client, &[b"SCRIPT", b"LOAD", ADD_JOB.as_bytes()]).text();
        let mut commands = Vec::new();
        for job in 0..300 {
            commands.push(vec![b"EVALSHA".to_vec(), sha.clone().into_bytes(), b"0".to_vec(), b"q5".to_vec(), job.to_string().into_bytes()]);
            if job % 7 == 0 {
                commands.extend(["MULTI", "SET plain 1"].map(command));
                commands.push(vec![b"EVAL".to_vec(), ADD_JOB.into(), b"0".to_vec(), b"inmulti".to_vec(), b"x".to_vec()]);
                commands.extend(["HSET inmulti:1 behind 1", "EXEC"].map(command));
            }
        }
        assert!(client.pipeline(&commands).unwrap().iter().all(|reply| !reply.is_error()));
        pair.assert_equal().unwrap_or_else(|error| panic!("{}: {error:#}", version.name()));
        assert_eq!(pair.new.client().unwrap().cmd("LLEN queue:wait").unwrap().int(), Some(200));
        assert_eq!(pair.proxy.status().unwrap()["scripts"]["undeclared"], "tracked");
        assert!(finding(&pair, "script-keys-unknown").is_none(), "{:?}", findings(&pair));
    }
}

/// H15, the hole: in one turn of the server's event loop the last writer of a key hides the ones before it. A plain write of the lane
/// right behind a script takes the key out of the report; replayed on the mirror it meets a key that the script never wrote
/// there, and both sides answer alike.
#[test]
fn h15_a_plain_write_behind_a_script_does_not_hide_it() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey81, Version::Valkey91] {
        let pair = Pair::start(Setup::of(version, version)).unwrap();
        let mut client = pair.client().unwrap();
        let hset = "redis.call('DEL', ARGV[1]) redis.call('HSET', ARGV[1], 'script', ARGV[2]) return 1";
        let eval = |key: &str, value: usize| vec![b"EVAL".to_vec(), hset.into(), b"0".to_vec(), key.into(), value.to_string().into_bytes()];
        for round in 0..50 {
            let mut commands = Vec::new();
            for at in 0..20 {
                let key = format!("h:{at}");
                commands.push(eval(&key, round));
                commands.push(command(&format!("HSET {key} plain{round} {at}")));
                commands.push(eval(&format!("src:{at}"), round));
                commands.push(command(&format!("COPY src:{at} dst:{at} REPLACE")));
                commands.push(command(&format!("HSET src:{at} more 1")));
                commands.push(command(&format!("SET total:{at} {round}")));
            }
            if version == Version::Redis50 {
                commands.retain(|command| command[0] != b"COPY");
            }
            assert!(client.pipeline(&commands).unwrap().iter().all(|reply| !reply.is_error()));
        }
        pair.assert_equal().unwrap_or_else(|error| panic!("{}: {error:#}", version.name()));
    }
}

/// A flip waits for the reports of the last scripts: the new primary has every key they wrote.
#[test]
fn h15_a_flip_waits_for_what_the_last_scripts_wrote() {
    let pair = Pair::plain().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let counted = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|id| {
                let (mut client, stop) = (pair.client().unwrap(), &stop);
                scope.spawn(move || {
                    let mut last = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let queue = format!("w{id}");
                        let answer = ok(&mut client, &[b"EVAL", ADD_JOB.as_bytes(), b"0", queue.as_bytes(), b"x"]).int().unwrap();
                        assert_eq!(answer, last + 1, "a job of writer {id} is lost or doubled");
                        last = answer;
                    }
                    last
                })
            })
            .collect();
        for _ in 0..3 {
            pair.cutover().unwrap();
            pair.rollback().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(counted.iter().all(|jobs| *jobs > 0), "{counted:?}");
    pair.assert_equal().unwrap();
}

/// Somebody else's FLUSHALL is reported without a key. It must not be ignored, and ours must not be taken for it.
#[test]
fn h15_a_flush_by_somebody_else_is_noticed() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, &[b"EVAL", ADD_JOB.as_bytes(), b"0", b"queue", b"x"]);
    ok(&mut client, &[b"SET", b"k", b"v"]);
    ok(&mut client, &[b"FLUSHALL"]);
    ok(&mut client, &[b"EVAL", ADD_JOB.as_bytes(), b"0", b"queue", b"x"]);
    ok(&mut client, &[b"SET", b"stays", b"v"]);
    pair.assert_equal().unwrap();
    assert!(!pair.proxy.log().contains("emptied by somebody else"));
    pair.old.client().unwrap().cmd("FLUSHALL").unwrap();
    until("the flush to be noticed", PATIENCE, || Ok(pair.proxy.log().contains("emptied by somebody else"))).unwrap();
    pair.assert_equal().unwrap();
    // A script may flush too.
    ok(&mut client, &[b"MSET", b"a", b"1", b"b", b"2"]);
    ok(&mut client, &[b"EVAL", b"redis.call('FLUSHDB') return redis.call('SET', 'after', 1)", b"0"]);
    until("the script's flush to be noticed", PATIENCE, || Ok(pair.proxy.log().matches("emptied by somebody else").count() == 2)).unwrap();
    pair.assert_equal().unwrap();
}

/// A script in flight when the primary's connection is lost: nobody knows which keys it wrote, so everything is looked at.
#[test]
fn h15_a_script_in_flight_at_a_loss_puts_its_database_in_doubt() {
    let pair = Pair::start(Setup::with_args(&[]).old_persists()).unwrap();
    let mut client = pair.client().unwrap();
    let slow = "redis.call('SET', 'hidden:' .. ARGV[1], 'v') local t = redis.call('TIME') \
        repeat local n = redis.call('TIME') until (n[1] - t[1]) * 1000000 + n[2] - t[2] > 300000 return 1";
    pair.settle().unwrap();
    let before = pair.connects("old");
    client.send(&[b"EVAL".to_vec(), slow.into(), b"0".to_vec(), b"1".to_vec()]).unwrap();
    // The kill waits for the script, whose reply then finds no connection.
    let list = {
        let mut direct = pair.old.client().unwrap();
        until("the script to have begun", PATIENCE, || Ok(direct.cmd("EXISTS hidden:1")?.int() == Some(1))).unwrap();
        direct.cmd("CLIENT KILL TYPE normal").unwrap()
    };
    assert!(list.int().unwrap() > 0);
    pair.wait_reconnected("old", before).unwrap();
    pair.assert_equal().unwrap();
    assert_eq!(pair.new.client().unwrap().cmd("GET hidden:1").unwrap().text(), "v");
}

/// Where the primary cannot tell which keys scripts wrote, each script is named and blocks, until the operator speaks for it.
#[test]
fn h15_scripts_that_cannot_be_known_block_readiness() {
    let pair = Pair::start(Setup::of(Version::Redis50, Version::Redis70)).unwrap();
    let mut client = pair.client().unwrap();
    assert!(finding(&pair, "script-keys-unknown").is_none());
    ok(&mut client, &[b"EVAL", b"return redis.call('SET', KEYS[1], 1)", b"1", b"k"]);
    let found = finding(&pair, "script-keys-unknown").unwrap();
    assert_eq!(found["level"], "BLOCK");
    assert_eq!(pair.proxy.status().unwrap()["scripts"]["undeclared"], "unknown");
    let sha = found["subject"].as_str().unwrap().to_owned();
    let mut setup = Setup::of(Version::Redis50, Version::Redis70);
    setup.proxy.args = vec!["--set".into(), format!("scripts.declared={}", sha.to_uppercase())];
    let pair = Pair::start(setup).unwrap();
    let mut client = pair.client().unwrap();
    ok(
        &mut client,
        &[
            b"EVALSHA",
            ok(&mut pair.old.client().unwrap(), &[b"SCRIPT", b"LOAD", b"return redis.call('SET', KEYS[1], 1)"]).text().as_bytes(),
            b"1",
            b"k",
        ],
    );
    assert!(finding(&pair, "script-keys-unknown").is_none());
    pair.assert_equal().unwrap();
}

/// The operator's word: a deterministic script is repeated on the mirror, by its digest, and compared.
#[test]
fn h15_a_script_named_deterministic_is_replayed() {
    let body = "redis.call('INCRBY', ARGV[1] .. ':n', ARGV[2]) return redis.call('RPUSH', ARGV[1] .. ':l', ARGV[2])";
    let sha = ok(&mut Pair::plain().unwrap().client().unwrap(), &[b"SCRIPT", b"LOAD", body.as_bytes()]).text();
    let pair =
        Pair::start(Setup::with_args(&["--set", &format!("scripts.replay={sha}"), "--set", "mirror.queue_age_max_ms=60000"])).unwrap();
    let mut client = pair.client().unwrap();
    ok(&mut client, &[b"EVAL", body.as_bytes(), b"0", b"p", b"1"]);
    let mut mirror = pair.new.client().unwrap();
    until("the mirror to have the script", PATIENCE, || {
        Ok(mirror.call(&[b"SCRIPT", b"EXISTS", sha.as_bytes()])?.items().iter().all(|known| known.int() == Some(1)))
    })
    .unwrap();
    for at in 0..500 {
        ok(&mut client, &[b"EVALSHA", sha.as_bytes(), b"0", b"p", at.to_string().as_bytes()]);
    }
    pair.assert_equal().unwrap();
    let calls = mirror.cmd("INFO commandstats").unwrap().text();
    assert!(calls.contains("cmdstat_evalsha:calls=50") || calls.contains("cmdstat_evalsha:calls=49"), "{calls}");
    // A mirror that holds something else there answers differently, and the database is looked at.
    ok(&mut mirror, &[b"RPUSH", b"p:l", b"planted"]);
    ok(&mut client, &[b"EVALSHA", sha.as_bytes(), b"0", b"p", b"7"]);
    pair.assert_equal().unwrap();
}

/// H40: EVALSHA goes on after the flip, with scripts and functions that the other side was never sent by a client; what cannot be
/// put there is named.
#[test]
fn h40_scripts_and_functions_are_on_the_other_side_before_a_flip() {
    let mut pair = Pair::plain().unwrap();
    let before = ok(&mut pair.old.client().unwrap(), &[b"SCRIPT", b"LOAD", b"return 'from before'"]).text();
    let library = b"#!lua name=lib\nredis.register_function('f', function(keys, args) return redis.call('SET', args[1], 'f') end)";
    let mut client = pair.client().unwrap();
    ok(&mut client, &[b"FUNCTION", b"LOAD", library]);
    let sha = ok(&mut client, &[b"SCRIPT", b"LOAD", b"return redis.call('INCR', 'by-sha')"]).text();
    ok(&mut client, &[b"EVAL", b"return 'only evaluated'", b"0"]);
    ok(&mut client, &[b"EVALSHA", before.as_bytes(), b"0"]);
    until("the unknown body to be named", PATIENCE, || Ok(finding(&pair, "script-missing").is_some())).unwrap();
    assert_eq!(finding(&pair, "script-missing").unwrap()["subject"], before.as_str());
    // The mirror comes back without anything.
    let connects = pair.connects("new");
    pair.new.restart_empty().unwrap();
    pair.wait_reconnected("new", connects).unwrap();
    pair.assert_equal().unwrap();
    ok(&mut client, &[b"SCRIPT", b"LOAD", b"return 'from before'"]);
    until("nothing to be missing", PATIENCE, || Ok(finding(&pair, "script-missing").is_none())).unwrap();
    pair.cutover().unwrap();
    for sha in [&before, &sha] {
        ok(&mut client, &[b"EVALSHA", sha.as_bytes(), b"0"]);
    }
    ok(&mut client, &[b"FCALL", b"f", b"0", b"by-function"]);
    pair.assert_equal().unwrap();
}

/// H59: an image of a huge key per script holds both servers. It is named, with what to do.
#[test]
fn h59_a_huge_key_that_scripts_write_is_named() {
    let pair = Pair::plain().unwrap();
    let mut client = pair.client().unwrap();
    let grow = "for i = 1, ARGV[2] do redis.call('RPUSH', ARGV[1], string.rep('x', 1000) .. i) end return redis.call('LLEN', ARGV[1])";
    ok(&mut client, &[b"EVAL", grow.as_bytes(), b"0", b"small", b"10"]);
    pair.assert_equal().unwrap();
    assert!(finding(&pair, "large-script-key").is_none());
    // Values that LZF cannot shrink much.
    let noise = "math.randomseed(ARGV[2]) local t = {} for i = 1, 60000 do t[i] = string.char(math.random(0, 255)) end \
        local s = table.concat(t) for i = 1, ARGV[3] do redis.call('RPUSH', ARGV[1], s .. i) end return 1";
    ok(&mut client, &[b"EVAL", noise.as_bytes(), b"0", b"large", b"1", b"30"]);
    pair.assert_equal().unwrap();
    assert_eq!(finding(&pair, "large-script-key").unwrap()["level"], "WARN");
    ok(&mut client, &[b"EVAL", noise.as_bytes(), b"0", b"large", b"2", b"300"]);
    pair.assert_equal().unwrap();
    assert_eq!(finding(&pair, "large-script-key").unwrap()["level"], "BLOCK");
    // Many scripts, one image at a time.
    let images = || pair.metric("twinlane_images_total", "").unwrap();
    let before = images();
    let many: Vec<_> = (0..200)
        .map(|at| {
            vec![
                b"EVAL".to_vec(),
                b"return redis.call('RPUSH', ARGV[1], ARGV[2])".to_vec(),
                b"0".to_vec(),
                b"large".to_vec(),
                at.to_string().into_bytes(),
            ]
        })
        .collect();
    assert!(client.pipeline(&many).unwrap().iter().all(|reply| !reply.is_error()));
    pair.assert_equal().unwrap();
    assert!(images() - before < 100.0, "{} images for 200 scripts", images() - before);
}
