//! `twinlane backfill`: begins the copying, watches it, tells it how to go on. Exit codes: 0 done (without --wait: begun), 1 refused, 4 failed,
//! or ended without having copied everything because mirroring was stopped.

use super::client::{failed, post, send};
use super::{BackfillAction, BackfillArgs, RateArgs, exit, table};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks between two lines where there is no terminal for a bar.
const LINE_EVERY: u32 = 25;

/// Does what was typed.
pub(super) fn run(args: &BackfillArgs) -> ExitCode {
    match &args.action {
        Some(BackfillAction::Pause { admin }) => post(&admin.admin, "/v1/backfill/pause", &json!({})),
        Some(BackfillAction::Resume { admin }) => post(&admin.admin, "/v1/backfill/resume", &json!({})),
        Some(BackfillAction::Rate { admin, rates }) => post(&admin.admin, "/v1/backfill/rate", &body(rates)),
        Some(BackfillAction::Status { admin, json }) => match look(&admin.admin) {
            Ok(now) => {
                print(&now, *json);
                if now["state"] == "failed" { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS }
            }
            Err(code) => code,
        },
        None => begin(args),
    }
}

fn body(rates: &RateArgs) -> Value {
    let mut body = json!({});
    for (name, rate) in [("rate", rates.rate), ("bytes_rate", rates.bytes_rate)] {
        if let Some(rate) = rate {
            body[name] = rate.into();
        }
    }
    body
}

fn begin(args: &BackfillArgs) -> ExitCode {
    let admin = &args.admin.admin;
    let answer = match send(admin, "/v1/backfill", Some(&body(&args.rates))) {
        Ok((200, answer)) => answer,
        Ok((409, answer)) if answer["reasons"].is_array() => answer,
        Ok((code, answer)) => return failed(code, &answer),
        Err(code) => return code,
    };
    if answer["reasons"].is_array() {
        // One that is under way is what was asked for.
        let now = match look(admin) {
            Ok(now) => now,
            Err(code) => return code,
        };
        if !args.wait || !matches!(now["state"].as_str(), Some("running" | "paused")) {
            eprintln!("{}", table::refused(&answer));
            return ExitCode::from(exit::REFUSED);
        }
        if args.rates.rate.is_some() || args.rates.bytes_rate.is_some() {
            let told = post(admin, "/v1/backfill/rate", &body(&args.rates));
            if told != ExitCode::SUCCESS {
                return told;
            }
        }
    }
    if args.wait {
        return watch(admin, args.json);
    }
    let told = if args.json { answer.to_string() } else { "the backfill has begun; `twinlane backfill status` tells how it stands".into() };
    println!("{told}");
    ExitCode::SUCCESS
}

fn watch(admin: &str, json: bool) -> ExitCode {
    let terminal = std::io::stderr().is_terminal();
    for turn in 0u32.. {
        let now = match look(admin) {
            Ok(now) => now,
            Err(code) => return code,
        };
        let over = !matches!(now["state"].as_str(), Some("running" | "paused"));
        if !json && terminal {
            eprint!("\r\x1b[K{}", if over { String::new() } else { table::backfill_progress(&now) });
            let _ = std::io::stderr().flush();
        } else if !json && !over && turn % LINE_EVERY == 0 {
            eprintln!("{}", table::backfill_progress(&now));
        }
        if over {
            print(&now, json);
            return verdict(&now);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    ExitCode::from(exit::FAILED)
}

fn verdict(now: &Value) -> ExitCode {
    if now["state"] == "done" { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

fn look(admin: &str) -> Result<Value, ExitCode> {
    match send(admin, "/v1/backfill", None)? {
        (200, now) => Ok(now),
        (code, answer) => Err(failed(code, &answer)),
    }
}

fn print(now: &Value, json: bool) {
    if json { println!("{now}") } else { print!("{}", table::backfill(now)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_answer() {
        assert_eq!(verdict(&json!({"state": "done"})), ExitCode::SUCCESS);
        for state in ["failed", "idle"] {
            assert_eq!(verdict(&json!({"state": state})), ExitCode::from(exit::FAILED), "{state}");
        }
    }

    #[test]
    fn only_what_was_typed_is_sent() {
        assert_eq!(body(&RateArgs { rate: None, bytes_rate: None }), json!({}));
        assert_eq!(body(&RateArgs { rate: Some(0), bytes_rate: Some(7) }), json!({"rate": 0, "bytes_rate": 7}));
    }
}
