//! Verify and what it found: begin, rest, look; divergences; repair.

use super::answer::{Failure, failure};
use super::{Desk, EmptyBody, Query, Request, perform};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use twinlane_core::divergence::Divergence;
use twinlane_core::keyname;
use twinlane_core::status::Operation;

/// The body of `POST /v1/verify`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StartBody {
    rate: u64,
    continuous: bool,
}

/// The body of `POST /v1/repair`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RepairBody {
    delete_extra: bool,
    confirm: Option<u64>,
    key: Option<String>,
    pattern: Option<String>,
    all: bool,
    db: u16,
}

impl RepairBody {
    /// What is asked for; None: nothing, or several things at once.
    fn operation(self) -> Option<Operation> {
        let db = self.db;
        match self {
            RepairBody { delete_extra: true, confirm, key: None, pattern: None, all: false, .. } => {
                Some(Operation::RepairExtras { confirm })
            }
            RepairBody { delete_extra: false, key: Some(key), pattern: None, all: false, .. } => {
                Some(Operation::RepairKey { db, key: keyname::named(&key) })
            }
            RepairBody { delete_extra: false, key: None, pattern: Some(pattern), all: false, .. } => {
                Some(Operation::RepairPattern { db, pattern: pattern.into_bytes() })
            }
            RepairBody { delete_extra: false, key: None, pattern: None, all: true, .. } => Some(Operation::RepairAll),
            _ => None,
        }
    }
}

/// The query of `GET /v1/divergences`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shown {
    reveal: bool,
}

pub(super) async fn show(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(Json(status.verify).into_response())
}

pub(super) async fn start(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<StartBody>() {
        Ok(StartBody { rate, continuous }) => perform(&desk, Operation::VerifyStart { rate, continuous }).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

pub(super) async fn pause(State(desk): State<Desk>, request: Request) -> Response {
    plain(&desk, request, Operation::VerifyPause).await
}

pub(super) async fn resume(State(desk): State<Desk>, request: Request) -> Response {
    plain(&desk, request, Operation::VerifyResume).await
}

pub(super) async fn cancel(State(desk): State<Desk>, request: Request) -> Response {
    plain(&desk, request, Operation::VerifyCancel).await
}

async fn plain(desk: &Desk, request: Request, operation: Operation) -> Response {
    let answer = match request.options::<EmptyBody>() {
        Ok(EmptyBody {}) => perform(desk, operation).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

pub(super) async fn repair(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<RepairBody>() {
        Ok(body) => match body.operation() {
            Some(operation) => perform(&desk, operation).await,
            None => {
                let text = "name one of: a \"key\" or a \"pattern\" (and its \"db\"), \"all\": true, or \"delete_extra\": true".to_owned();
                Failure::client(StatusCode::BAD_REQUEST, "bad_json", text).into_response()
            }
        },
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

/// How far the repair of a pattern is.
pub(super) async fn repairing(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(Json(status.repair).into_response())
}

pub(super) async fn divergences(State(desk): State<Desk>, Query(shown): Query<Shown>) -> Result<Response, Failure> {
    let found = desk.control.divergences().await.map_err(|error| failure(&error))?;
    if shown.reveal {
        tracing::info!(target: "audit", path = "/v1/divergences", "keys were shown in clear");
    }
    let items: Vec<Value> = found.items.iter().map(|item| divergence(item, shown.reveal)).collect();
    Ok(Json(json!({"total": found.total, "items": items})).into_response())
}

pub(super) fn divergence(item: &Divergence, reveal: bool) -> Value {
    let Divergence { db, key, kind, cause, first_seen, command } = item;
    let key = if reveal { keyname::shown(key) } else { redacted(key) };
    json!({"key": key, "db": db, "kind": kind, "cause": cause, "first_seen": first_seen, "command": command})
}

/// What stands before the first colon, and a fingerprint that tells keys apart and is another one in the next process.
pub(super) fn redacted(key: &[u8]) -> String {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let family = key.iter().position(|byte| *byte == b':').filter(|at| *at <= FAMILY_MAX).map_or(&[][..], |at| &key[..=at]);
    format!("{}*{:08x}", keyname::shown(family), SEED.hash_one(key) as u32)
}

/// A longer name before a colon may be the secret itself.
const FAMILY_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_it_is_printed() {
        let body = RepairBody { key: Some("\\xac\\xed\\x00\\x05t\\x00\\x03abc".into()), db: 2, ..RepairBody::default() };
        assert_eq!(body.operation(), Some(Operation::RepairKey { db: 2, key: b"\xac\xed\x00\x05t\x00\x03abc".to_vec() }));
    }

    #[test]
    fn a_redacted_key_shows_its_family_only() {
        let shown = redacted(b"session:4711-secret");
        assert!(shown.starts_with("session:*") && !shown.contains("4711"), "{shown}");
        assert_eq!(shown, redacted(b"session:4711-secret"));
        assert_ne!(shown, redacted(b"session:4712-secret"));
        assert!(redacted(b"no-family").starts_with('*'));
    }
}
