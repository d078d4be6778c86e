//! The ledger for people: keys and databases in doubt, everything that is known of one key, and what operators did.

use super::answer::{Failure, failure};
use super::verify::redacted;
use super::{Desk, Query, divergence};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use twinlane_core::endpoint::Endpoint;
use twinlane_core::explained::{Dirty, DirtyKey, Explained};
use twinlane_core::keyname;
use twinlane_core::status::Operation;

/// The query of `GET /v1/dirty`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listed {
    reveal: bool,
    limit: usize,
}

impl Default for Listed {
    fn default() -> Self {
        Listed { reveal: false, limit: 100 }
    }
}

/// The query of `GET /v1/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    key: String,
    #[serde(default)]
    db: u16,
}

pub(super) async fn dirty(State(desk): State<Desk>, Query(listed): Query<Listed>) -> Result<Response, Failure> {
    let dirty = desk.control.dirty(listed.limit).await.map_err(|error| failure(&error))?;
    if listed.reveal {
        tracing::info!(target: "audit", path = "/v1/dirty", "keys were shown in clear");
    }
    Ok(Json(told(&dirty, listed.reveal)).into_response())
}

/// Reads the key on both sides; the operator names it, so it is told in clear.
pub(super) async fn explain(State(desk): State<Desk>, Query(Asked { key, db }): Query<Asked>) -> Response {
    super::perform(&desk, Operation::Explain { db, key: keyname::named(&key) }).await
}

/// The query of `GET /v1/audit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Youngest {
    limit: usize,
}

impl Default for Youngest {
    fn default() -> Self {
        Youngest { limit: 100 }
    }
}

/// Operations, the youngest first.
pub(super) async fn audit(State(desk): State<Desk>, Query(Youngest { limit }): Query<Youngest>) -> Response {
    let items = tokio::task::spawn_blocking(move || desk.audit.last(limit)).await.unwrap_or_default();
    Json(json!({"items": items})).into_response()
}

fn told(dirty: &Dirty, reveal: bool) -> Value {
    let by_cause: Map<String, Value> = dirty.by_cause.iter().map(|(cause, keys)| (cause.word().to_owned(), json!(keys))).collect();
    let items: Vec<Value> = dirty.items.iter().map(|item| item_of(item, reveal)).collect();
    let databases: Vec<Value> = dirty
        .databases
        .iter()
        .map(|database| json!({"db": database.db, "cause": database.cause.word(), "first_seen": database.since}))
        .collect();
    json!({"total": dirty.total, "spilled": dirty.spilled, "by_cause": by_cause, "items": items, "databases": databases})
}

fn item_of(item: &DirtyKey, reveal: bool) -> Value {
    let DirtyKey { db, key, cause, state, first_seen, attempts, position } = item;
    let key = if reveal { keyname::shown(key) } else { redacted(key) };
    json!({
        "key": key, "db": db, "cause": cause.word(), "state": state.word(), "first_seen": first_seen, "attempts": attempts,
        "position": position,
    })
}

/// `GET /v1/explain`.
pub(super) fn explained(told: &Explained) -> Value {
    let side = |endpoint: Endpoint| match &told.sides[endpoint.index()] {
        Some(held) => json!(held),
        None => json!({"type": null, "ttl_ms": null, "digest": null, "unread": told.mirror_unread}),
    };
    let divergences: Vec<Value> = told.divergences.iter().map(|item| divergence(item, true)).collect();
    json!({
        "key": keyname::shown(&told.key), "db": told.db, "primary": told.primary, "position": told.position,
        "old": side(Endpoint::Old), "new": side(Endpoint::New),
        "dirty": told.dirty.as_ref().map(|item| item_of(item, true)), "spilled": told.spilled, "synced": told.synced,
        "excuse": told.excuse, "divergences": divergences, "writes": told.writes,
    })
}
