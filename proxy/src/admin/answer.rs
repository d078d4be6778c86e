//! The shapes of answers: done, refused by a gate, or a failed request that names who is at fault.

use crate::control::ControlError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use twinlane_core::status::Outcome;

/// An operation's answer: 200 when done (or a dry run that found nothing against it), 409 when a gate refused.
pub(super) struct Answer(StatusCode, Value);

impl Answer {
    /// Refused, nothing changed.
    pub(super) fn refused(reason: String) -> Answer {
        Answer(StatusCode::CONFLICT, json!({"done": false, "reasons": [reason]}))
    }
}

/// What an answer says, for the audit log.
#[derive(Debug, Clone)]
pub(super) struct Told(pub String);

/// Bytes of an answer that the audit log keeps.
const TOLD_MAX: usize = 1024;

fn told(status: StatusCode, body: &Value) -> Response {
    let text: String = body.to_string().chars().take(TOLD_MAX).collect();
    let mut response = (status, Json(body)).into_response();
    response.extensions_mut().insert(Told(text));
    response
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        told(self.0, &self.1)
    }
}

/// Turns the data thread's outcome into an answer.
pub(super) fn outcome(outcome: Outcome, dry_run: bool) -> Answer {
    match outcome {
        Outcome::Done if dry_run => Answer(StatusCode::OK, json!({"done": false, "dry_run": true, "reasons": []})),
        Outcome::Done => Answer(StatusCode::OK, json!({"done": true})),
        Outcome::Explained(told) => Answer(StatusCode::OK, super::ledger::explained(&told)),
        Outcome::ToConfirm(extra) => {
            let samples: Vec<Value> =
                extra.samples.iter().map(|(db, key)| json!({"db": db, "key": twinlane_core::keyname::shown(key)})).collect();
            Answer(StatusCode::OK, json!({"done": false, "count": extra.count, "samples": samples, "endpoint": extra.endpoint}))
        }
        Outcome::Flipped { primary, epoch, pause_us, held_requests } => {
            let pause_ms = pause_us as f64 / 1e3;
            Answer(
                StatusCode::OK,
                json!({"done": true, "primary": primary, "epoch": epoch, "pause_ms": pause_ms, "held_requests": held_requests}),
            )
        }
        Outcome::Refused { reasons, aborted: false } if dry_run => {
            Answer(StatusCode::CONFLICT, json!({"done": false, "dry_run": true, "reasons": reasons}))
        }
        Outcome::Refused { reasons, aborted: false } => Answer(StatusCode::CONFLICT, json!({"done": false, "reasons": reasons})),
        Outcome::Refused { reasons, aborted: true } => {
            Answer(StatusCode::CONFLICT, json!({"done": false, "aborted": true, "reasons": reasons}))
        }
    }
}

/// A request that could not be carried out: `{"error":{"code","message","who"}}`.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Who can mend it: `client` (of the admin port) or `twinlane`.
    who: &'static str,
}

impl Failure {
    /// The request is at fault.
    pub(super) fn client(status: StatusCode, code: &'static str, message: String) -> Failure {
        Failure { status, code, message, who: "client" }
    }

    /// We are.
    pub(super) fn ours(code: &'static str, message: String) -> Failure {
        Failure { status: StatusCode::INTERNAL_SERVER_ERROR, code, message, who: "twinlane" }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = json!({"code": self.code, "message": self.message, "who": self.who});
        told(self.status, &json!({"error": error}))
    }
}

/// The data thread gave no answer.
pub(super) fn failure(error: &ControlError) -> Failure {
    let (status, code) = match error {
        ControlError::Starting(_) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        ControlError::Busy => (StatusCode::CONFLICT, "busy"),
        ControlError::Slow(_) => (StatusCode::GATEWAY_TIMEOUT, "slow"),
        ControlError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    Failure { status, code, message: error.to_string(), who: "twinlane" }
}
