//! One request to the admin port, its answer for people, and the exit code it comes to.

use super::{exit, table};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Prints the status.
pub(super) fn status(admin: &str, json: bool) -> ExitCode {
    match show(admin, "/v1/status", json, table::status) {
        Ok(_) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// Prints the findings of readiness; one that blocks is a refusal.
pub(super) fn readiness(admin: &str, json: bool) -> ExitCode {
    match show(admin, "/v1/readiness", json, table::readiness) {
        Ok(body) => readiness_code(&body),
        Err(code) => code,
    }
}

/// Prints what came of shadow reads.
pub(super) fn shadow(admin: &str, json: bool) -> ExitCode {
    match show(admin, "/v1/shadow", json, super::shadow::page) {
        Ok(_) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// Prints an answer that is no verdict.
pub(super) fn page(admin: &str, path: &str, json: bool, for_people: impl Fn(&Value) -> String) -> ExitCode {
    match show(admin, path, json, for_people) {
        Ok(_) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// A value of a query.
pub(super) fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Asks for something, and prints it as JSON or for people; gives it back.
fn show(admin: &str, path: &str, json: bool, for_people: impl Fn(&Value) -> String) -> Result<Value, ExitCode> {
    let (code, body) = send(admin, path, None)?;
    if code == 409 && body["reasons"].is_array() {
        eprintln!("{}", table::refused(&body));
        return Err(ExitCode::from(refusal_code(&body)));
    }
    if code != 200 {
        return Err(failed(code, &body));
    }
    if json {
        println!("{body}");
    } else {
        print!("{}", for_people(&body));
    }
    Ok(body)
}

fn readiness_code(body: &Value) -> ExitCode {
    let blocks = body["findings"].as_array().is_some_and(|findings| findings.iter().any(|finding| finding["level"] == "BLOCK"));
    if blocks { ExitCode::from(exit::REFUSED) } else { ExitCode::SUCCESS }
}

/// Sends an operation and prints how it went.
pub(super) fn post(admin: &str, path: &str, body: &Value) -> ExitCode {
    outcome(send(admin, path, Some(body)))
}

fn outcome(answered: Result<(u16, Value), ExitCode>) -> ExitCode {
    match answered {
        Ok((200, answer)) => {
            println!("{}", table::done(&answer));
            ExitCode::SUCCESS
        }
        Ok((409, answer)) if answer["reasons"].is_array() => {
            eprintln!("{}", table::refused(&answer));
            ExitCode::from(refusal_code(&answer))
        }
        Ok((code, answer)) => failed(code, &answer),
        Err(code) => code,
    }
}

/// Deletes what only the mirror has, if the count is right; a wrong one is a refusal. Without a count it only tells.
pub(super) fn delete_extra(admin: &str, confirm: Option<u64>) -> ExitCode {
    match send(admin, "/v1/repair", Some(&json!({"delete_extra": true, "confirm": confirm}))) {
        Ok((200, answer)) if confirm.is_some() && answer["done"] == false => {
            eprintln!("{}", table::done(&answer));
            ExitCode::from(exit::REFUSED)
        }
        answered => outcome(answered),
    }
}

/// A flip that had begun and was undone is "aborted", anything else a gate.
fn refusal_code(answer: &Value) -> u8 {
    if answer["aborted"] == true { exit::FAILED } else { exit::REFUSED }
}

pub(super) fn failed(status: u16, answer: &Value) -> ExitCode {
    let message = answer["error"]["message"].as_str().unwrap_or("no reason given");
    eprintln!("twinlane: the proxy answered {status}: {message}");
    ExitCode::from(if status == 400 { exit::USAGE } else { exit::FAILED })
}

/// Longer than the proxy's own wait for a flip, so that its word is heard.
const PATIENCE: Duration = Duration::from_secs(70);

pub(super) fn send(admin: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), ExitCode> {
    // No proxy from the environment: the admin port is on this machine.
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE)).build();
    let agent = ureq::Agent::new_with_config(config);
    let url = format!("http://{admin}{path}");
    let sent = match body {
        // On one line: it stands in the audit log as it is sent.
        Some(body) => agent.post(&url).content_type("application/json").send(body.to_string()),
        None => agent.get(&url).call(),
    };
    let unreachable = |error: ureq::Error| {
        eprintln!("twinlane: no answer from the admin port at {admin}: {error}; check that `twinlane serve` runs, and --admin");
        ExitCode::from(exit::UNREACHABLE)
    };
    let mut answer = sent.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().map_err(unreachable)?;
    match serde_json::from_str(&text) {
        Ok(body) => Ok((status, body)),
        Err(_) => {
            eprintln!("twinlane: what answers at {admin} is not a Twinlane admin port (HTTP {status})");
            Err(ExitCode::from(exit::UNREACHABLE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_any_key() {
        assert_eq!(quoted("a-1"), "a-1");
        assert_eq!(quoted("user:1 &=ä"), "user%3A1%20%26%3D%C3%A4");
    }

    #[test]
    fn a_gate_is_not_an_abort() {
        assert_eq!(refusal_code(&json!({"done": false, "reasons": ["x"]})), exit::REFUSED);
        assert_eq!(refusal_code(&json!({"done": false, "aborted": true, "reasons": ["x"]})), exit::FAILED);
    }
}
