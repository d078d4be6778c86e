//! The backfill: begin, slow down, rest, look.

use super::answer::{Failure, failure};
use super::{Desk, EmptyBody, Request, perform};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use twinlane_core::status::{BackfillRates, Operation};

/// The body of `POST /v1/backfill` and `POST /v1/backfill/rate`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RatesBody {
    rate: Option<u64>,
    bytes_rate: Option<u64>,
}

impl RatesBody {
    fn rates(&self) -> BackfillRates {
        BackfillRates { keys: self.rate, bytes: self.bytes_rate }
    }
}

pub(super) async fn show(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(Json(status.backfill).into_response())
}

pub(super) async fn start(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<RatesBody>() {
        Ok(body) => perform(&desk, Operation::BackfillStart(body.rates())).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

pub(super) async fn rate(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<RatesBody>() {
        Ok(body) => perform(&desk, Operation::BackfillRate(body.rates())).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

pub(super) async fn pause(State(desk): State<Desk>, request: Request) -> Response {
    plain(&desk, request, Operation::BackfillPause).await
}

pub(super) async fn resume(State(desk): State<Desk>, request: Request) -> Response {
    plain(&desk, request, Operation::BackfillResume).await
}

async fn plain(desk: &Desk, request: Request, operation: Operation) -> Response {
    let answer = match request.options::<EmptyBody>() {
        Ok(EmptyBody {}) => perform(desk, operation).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}
