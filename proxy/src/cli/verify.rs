//! `twinlane verify`: begins a verify, watches it, and says what it found. Exit codes of its own: 0 clean, 1 differences,
//! 2 it could not tell (no result, keys that could not be judged, or a pass that did not prove itself alive).

use super::client::{failed, send};
use super::table;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Differences were found.
const DIFFERS: u8 = 1;
/// It could not tell.
const UNKNOWN: u8 = 2;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Begins one, and with `wait` stays until it has ended.
pub(super) fn begin(admin: &str, rate: u64, continuous: bool, wait: bool, json: bool) -> ExitCode {
    let begun = match send(admin, "/v1/verify", Some(&json!({"rate": rate, "continuous": continuous}))) {
        Ok((200, answer)) => answer,
        Ok((409, answer)) => {
            eprintln!("{}", table::refused(&answer));
            return ExitCode::from(UNKNOWN);
        }
        Ok((code, answer)) => return failed(code, &answer),
        Err(code) => return code,
    };
    if !wait {
        let told = if json { begun.to_string() } else { "the verify has begun; `twinlane verify --show` tells how it stands".into() };
        println!("{told}");
        return ExitCode::SUCCESS;
    }
    let progress = std::io::stderr().is_terminal() && !json;
    loop {
        std::thread::sleep(LOOK_EVERY);
        let now = match look(admin) {
            Ok(now) => now,
            Err(code) => return code,
        };
        // A continuous one has a result as soon as its first pass has ended.
        let result = if now["last"].is_object() { &now["last"] } else { &now };
        let over = matches!(now["state"].as_str(), Some("done" | "cancelled" | "idle")) || now["last"].is_object() && continuous;
        if progress {
            eprint!("\r\x1b[K{}", if over { String::new() } else { table::verify_progress(&now) });
            let _ = std::io::stderr().flush();
        }
        if over {
            print(result, &now, json);
            return verdict(&now["state"], result);
        }
    }
}

/// Shows how it stands.
pub(super) fn show(admin: &str, json: bool) -> ExitCode {
    match look(admin) {
        Ok(now) => {
            print(&now, &now, json);
            let running = matches!(now["state"].as_str(), Some("running" | "waiting" | "paused"));
            if running { ExitCode::SUCCESS } else { verdict(&now["state"], &now) }
        }
        Err(code) => code,
    }
}

fn look(admin: &str) -> Result<Value, ExitCode> {
    match send(admin, "/v1/verify", None)? {
        (200, now) => Ok(now),
        (code, answer) => Err(failed(code, &answer)),
    }
}

fn print(result: &Value, now: &Value, json: bool) {
    if json { println!("{now}") } else { print!("{}", table::verify(&now["state"], result)) }
}

fn verdict(state: &Value, result: &Value) -> ExitCode {
    let differs = result["differing"].as_object().is_some_and(|kinds| kinds.values().any(|count| count.as_u64() > Some(0)));
    match () {
        () if differs => ExitCode::from(DIFFERS),
        () if state == "cancelled" || result["clean"] != true => ExitCode::from(UNKNOWN),
        () => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_answer() {
        let check = |state: &str, result: Value, code: u8| {
            assert_eq!(verdict(&json!(state), &result), ExitCode::from(code), "{state} {result}");
        };
        check("done", json!({"clean": true, "differing": {"missing": 0}}), 0);
        check("done", json!({"clean": false, "differing": {"missing": 1}}), DIFFERS);
        check("done", json!({"clean": false, "differing": {"missing": 0}, "unverifiable": 3}), UNKNOWN);
        check("cancelled", json!({"clean": true, "differing": {"missing": 0}}), UNKNOWN);
        check("idle", json!({"clean": false, "differing": {"missing": 0}}), UNKNOWN);
    }
}
