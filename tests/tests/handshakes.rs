//! What each client library sends when it connects is answered as it needs (`tests/data/handshakes.tsv`), and as a plain server of that
//! version answers it. The bytes go over a bare socket: no library of ours smooths anything over.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use std::collections::BTreeMap;
use twinlane_tests::pair::{Pair, Setup};
use twinlane_tests::proxy::Options;
use twinlane_tests::resp::{Client, Value};
use twinlane_tests::servers::{Server, Version};

const HANDSHAKES: &str = include_str!("../data/handshakes.tsv");

#[derive(Debug)]
struct Step {
    need: &'static str,
    source: &'static str,
    command: &'static str,
}

fn cases() -> BTreeMap<(&'static str, &'static str), Vec<Step>> {
    let mut cases: BTreeMap<_, Vec<Step>> = BTreeMap::new();
    for line in HANDSHAKES.lines().filter(|line| !line.starts_with('#')) {
        let [client, case, need, source, command] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("five columns: {line}") };
        cases.entry((client, case)).or_default().push(Step { need, source, command });
    }
    cases
}

/// Whether an answer is what the client needs.
fn suffices(need: &str, answer: &Value, version: Version) -> bool {
    let error = answer.error().unwrap_or_default();
    let number = |value: Option<&Value>| value.and_then(Value::int);
    match need {
        // Before 6.0 no HELLO: exactly these words make clients fall back to RESP2.
        "map2" | "map3" if !version.has_resp3() => error.starts_with("ERR unknown command"),
        "map3" => number(answer.field("proto")) == Some(3) && answer.field("role").is_some_and(|role| role.text() == "master"),
        "map2" => number(answer.pairs().iter().find(|(name, _)| name.text() == "proto").map(|(_, proto)| *proto)) == Some(2),
        "ok6" if !version.has_resp3() => true,
        "ok" | "ok6" => answer.is_ok(),
        "pong" => answer.text() == "PONG",
        "int" => answer.int().is_some(),
        "bulk" => matches!(answer, Value::Bulk(_)),
        "null" => answer.is_nil(),
        "error" => answer.is_error(),
        "any" | "ignored" => true,
        _ => answer.text().contains(need.strip_prefix("text:").unwrap()),
    }
}

/// What must be equal: everything but what each server has of its own.
fn shape(command: &str, answer: &Value) -> String {
    let word = command.split(' ').next().unwrap().to_ascii_uppercase();
    match word.as_str() {
        _ if answer.is_error() => answer.to_string(),
        "HELLO" => answer
            .pairs()
            .iter()
            .filter(|(name, _)| !["id", "modules"].contains(&name.text().as_str()))
            .map(|(a, b)| format!("{a}={b} "))
            .collect(),
        "INFO" => format!("{:?}", std::mem::discriminant(answer)),
        "CLIENT" if answer.int().is_some() => "a number".to_owned(),
        "COMMAND" => format!("{:?} {} {}", std::mem::discriminant(answer), answer.items().len(), answer.pairs().len()),
        _ => answer.to_string(),
    }
}

fn replay(address: &str, steps: &[Step]) -> Vec<Value> {
    let mut client = Client::connect(address).unwrap();
    let answers = steps.iter().map(|step| client.cmd(&step.command.replace("%PASS%", "secret")));
    answers.enumerate().map(|(at, answer)| answer.unwrap_or_else(|error| panic!("{:?}: {error}", steps[at]))).collect()
}

fn check(version: Version) {
    let mut wrong = Vec::new();
    for locked in [false, true] {
        let mut setup = Setup::of(version, version);
        let plain = Server::plain(version).unwrap();
        if locked {
            setup.proxy = Options { env: vec![("TWINLANE__LISTEN__CLIENT_PASSWORD".into(), "secret".into())], ..Options::default() };
            assert!(plain.client().unwrap().cmd("CONFIG SET requirepass secret").unwrap().is_ok());
        }
        let pair = Pair::start(setup).unwrap();
        for ((client, case), steps) in cases() {
            if steps.iter().any(|step| step.command.contains("%PASS%")) != locked {
                continue;
            }
            let (ours, theirs) = (replay(&pair.proxy.address(), &steps), replay(&plain.address(), &steps));
            // Before 6.0 HELLO authenticates nobody; the client goes on with AUTH.
            let shut_out = !version.has_resp3() && locked && steps[0].command.to_ascii_uppercase().starts_with("HELLO");
            for ((step, own), other) in steps.iter().zip(&ours).zip(&theirs) {
                let name = format!("{version:?} {client} {case}: {} ({})", step.command, step.source);
                if !shut_out && !suffices(step.need, own, version) {
                    wrong.push(format!("{name}: {:.200} is not {}", own.to_string(), step.need));
                }
                if shape(step.command, own) != shape(step.command, other) {
                    wrong.push(format!("{name}: {:.300} instead of {:.300}", own.to_string(), other.to_string()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn handshakes_with_redis_5_0() {
    check(Version::Redis50);
}

#[test]
fn handshakes_with_redis_6_2() {
    check(Version::Redis62);
}

#[test]
fn handshakes_with_redis_7_0() {
    check(Version::Redis70);
}

#[test]
fn handshakes_with_valkey_8_1() {
    check(Version::Valkey81);
}

#[test]
fn handshakes_with_valkey_9_1() {
    check(Version::Valkey91);
}
