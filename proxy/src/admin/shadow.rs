//! Shadow reads: which share of the clients' reads is compared, and what came of it.

use super::answer::{Failure, failure};
use super::{Desk, Request, perform};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use twinlane_core::shadow::{MILLION, ShadowChange};
use twinlane_core::status::Operation;

/// The body of `POST /v1/shadow`; what is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ShadowBody {
    share: Option<f64>,
    commands: Option<Vec<String>>,
    prefixes: Option<Vec<String>>,
}

impl ShadowBody {
    fn change(self) -> Result<ShadowChange, String> {
        let per_million = self.share.map(per_million).transpose()?;
        let prefixes = self.prefixes.map(|prefixes| prefixes.into_iter().map(String::into_bytes).collect());
        Ok(ShadowChange { per_million, commands: self.commands, prefixes })
    }
}

/// A share as a part of a million; an error in words when it is none.
pub(crate) fn per_million(share: f64) -> Result<u32, String> {
    if (0.0..=1.0).contains(&share) { Ok((share * f64::from(MILLION)).round() as u32) } else { Err("a share lies between 0 and 1".into()) }
}

pub(super) async fn show(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(Json(status.shadow).into_response())
}

pub(super) async fn change(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<ShadowBody>().map(ShadowBody::change) {
        Ok(Ok(change)) => perform(&desk, Operation::Shadow(change)).await,
        Ok(Err(text)) => Failure::client(StatusCode::BAD_REQUEST, "bad_json", text).into_response(),
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}
