//! The operator's port: HTTP and JSON, on a thread and runtime of its own, so that a scrape never waits behind a client and
//! a client never behind a scrape. The contract is `docs/admin-api.md`.
//!
//! It has no credentials yet, so it listens on loopback only, and a web page that the operator happens to have open must not be
//! able to use it: requests with a foreign `Host` (a rebound name) or `Origin` are refused. Every POST to a route is audited.
//! This room decides nothing about data; it turns requests into `Operation`s and `Outcome`s into JSON.

mod answer;
mod backfill;
mod guard;
mod ledger;
pub(crate) mod shadow;
mod verify;

use crate::control::{Control, ControlError, Phase};
use crate::store::{Audit, Entry};
use crate::telemetry::metrics::Exporter;
use answer::{Answer, Failure, Told, failure, outcome};
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::status::{Operation, Status};
use verify::divergence;

/// Listens and serves until the process ends; gives the address that was bound.
///
/// # Errors
/// When the address is taken, or no thread can be made.
pub fn spawn(address: SocketAddr, control: Control, audit: Arc<Audit>) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(crate::net::listen(address)?)?
    };
    let bound = listener.local_addr()?;
    let service = router(control, audit)?.into_make_service_with_connect_info::<SocketAddr>();
    let serve = move || {
        if let Err(error) = runtime.block_on(async { axum::serve(listener, service).await }) {
            tracing::error!("the admin port ended: {error}");
        }
    };
    std::thread::Builder::new().name("admin".into()).spawn(serve)?;
    Ok(bound)
}

/// The routes, for [`spawn`] and for tests.
fn router(control: Control, audit: Arc<Audit>) -> io::Result<Router> {
    let exporter = Arc::new(Exporter::new().map_err(io::Error::other)?);
    Ok(Router::new()
        .route("/v1/status", get(status))
        .route("/v1/readiness", get(readiness))
        .route("/v1/mirror/start", post(mirror_start))
        .route("/v1/mirror/stop", post(mirror_stop))
        .route("/v1/cutover", post(cutover))
        .route("/v1/rollback", post(rollback))
        .route("/v1/primary-loss/accept", post(accept_loss))
        .route("/v1/backfill", get(backfill::show).post(backfill::start))
        .route("/v1/backfill/rate", post(backfill::rate))
        .route("/v1/backfill/pause", post(backfill::pause))
        .route("/v1/backfill/resume", post(backfill::resume))
        .route("/v1/verify", get(verify::show).post(verify::start))
        .route("/v1/verify/pause", post(verify::pause))
        .route("/v1/verify/resume", post(verify::resume))
        .route("/v1/verify/cancel", post(verify::cancel))
        .route("/v1/divergences", get(verify::divergences))
        .route("/v1/shadow", get(shadow::show).post(shadow::change))
        .route("/v1/repair", get(verify::repairing).post(verify::repair))
        .route("/v1/dirty", get(ledger::dirty))
        .route("/v1/explain", get(ledger::explain))
        .route("/v1/audit", get(ledger::audit))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(to_its_end))
        .layer(middleware::from_fn(guard::refuse_foreign))
        .layer(Extension(Scribe { audit: audit.clone(), turn: Arc::default() }))
        .with_state(Desk { control, exporter, audit }))
}

/// What every handler needs.
#[derive(Clone)]
struct Desk {
    control: Control,
    exporter: Arc<Exporter>,
    audit: Arc<Audit>,
}

/// The audit log as handlers write it: one entry behind the other, in the order in which operations ended, on threads that may wait for the
/// disk. This port's own may not: a disk that hangs must not keep `/healthz` and `/readyz` from answering.
#[derive(Clone)]
struct Scribe {
    audit: Arc<Audit>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Scribe {
    /// Writes an entry down; when this returns it is durable, or the log says that it is not.
    async fn note(&self, entry: Entry) {
        let _turn = self.turn.lock().await;
        let audit = self.audit.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || audit.note(&entry)).await {
            tracing::error!("the audit log was not written: {error}");
        }
    }
}

/// What was asked for goes to its end, also when the asker hangs up meanwhile: it is done all the same, and its entry in the audit log must be.
async fn to_its_end(request: axum::extract::Request, next: middleware::Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => Failure::ours("failed", error.to_string()).into_response(),
    }
}

/// The body of cutover and rollback.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FlipBody {
    dry_run: bool,
    force: Vec<Force>,
}

/// A gate that the operator overrides by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Force {
    /// Go on from the mirror although the primary lost its data.
    PrimaryLost,
}

/// The body of mirror stop.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StopBody {
    lose_rollback: bool,
}

/// A body without options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmptyBody {}

async fn status(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(axum::Json(status).into_response())
}

async fn readiness(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.control.status().await.map_err(|error| failure(&error))?;
    Ok(axum::Json(serde_json::json!({"findings": status.findings})).into_response())
}

async fn cutover(State(desk): State<Desk>, request: Request) -> Response {
    flip(desk, request, Endpoint::New).await
}

async fn rollback(State(desk): State<Desk>, request: Request) -> Response {
    flip(desk, request, Endpoint::Old).await
}

async fn flip(desk: Desk, request: Request, to: Endpoint) -> Response {
    let options = match request.options::<FlipBody>() {
        Ok(options) => options,
        Err(refused) => return request.audited(refused.into_response()).await,
    };
    let force_primary_lost = options.force.contains(&Force::PrimaryLost);
    let operation = Operation::Flip { to, force_primary_lost, dry_run: options.dry_run };
    let answer = match desk.control.status().await {
        Ok(now) if now.primary == to => Answer::refused(format!("{to} is already primary (epoch {})", now.epoch)).into_response(),
        Ok(_) => perform(&desk, operation).await,
        Err(error) => failure(&error).into_response(),
    };
    request.audited(answer).await
}

async fn mirror_start(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<EmptyBody>() {
        Ok(EmptyBody {}) => perform(&desk, Operation::MirrorStart).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

async fn mirror_stop(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<StopBody>() {
        Ok(StopBody { lose_rollback }) => perform(&desk, Operation::MirrorStop { lose_rollback }).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

async fn accept_loss(State(desk): State<Desk>, request: Request) -> Response {
    let answer = match request.options::<EmptyBody>() {
        Ok(EmptyBody {}) => perform(&desk, Operation::AcceptLoss).await,
        Err(refused) => refused.into_response(),
    };
    request.audited(answer).await
}

async fn perform(desk: &Desk, operation: Operation) -> Response {
    let dry_run = matches!(operation, Operation::Flip { dry_run: true, .. });
    match desk.control.operate(operation).await {
        Ok(result) => outcome(result, dry_run).into_response(),
        Err(ControlError::Busy) => Answer::refused(ControlError::Busy.to_string()).into_response(),
        Err(error) => failure(&error).into_response(),
    }
}

async fn metrics(State(desk): State<Desk>) -> Result<Response, Failure> {
    let snapshot = desk.control.counters().await.ok();
    let text = desk.exporter.render(snapshot).map_err(|error| Failure::ours("metrics", error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

/// Whether a client that connects now would be served.
async fn readyz(State(desk): State<Desk>) -> (StatusCode, String) {
    let reason = match (desk.control.phase(), desk.control.status().await) {
        (Phase::Starting(reason), _) => format!("not serving yet: {reason}"),
        (Phase::Serving, Err(error)) => error.to_string(),
        (Phase::Serving, Ok(status)) => match primary_trouble(&status) {
            Some(reason) => reason,
            None => return (StatusCode::OK, "ready\n".into()),
        },
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
}

fn primary_trouble(status: &Status) -> Option<String> {
    let side = match status.primary {
        Endpoint::Old => &status.old,
        Endpoint::New => &status.new,
    };
    let words = side.error.as_deref().unwrap_or("no reason given");
    (!side.healthy).then(|| format!("the primary, {} ({}), is not healthy: {words}", status.primary, side.address))
}

async fn not_found(uri: Uri) -> Failure {
    Failure::client(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}; see docs/admin-api.md", uri.path()))
}

async fn wrong_method(uri: Uri) -> Failure {
    let text = format!("{} does not take this method; reading is GET, doing is POST", uri.path());
    Failure::client(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", text)
}

/// A POST, not yet judged.
struct Request {
    path: String,
    peer: SocketAddr,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
    scribe: Option<Scribe>,
}

/// The options of a GET, in its query; unknown ones are refused, as those of a body are.
struct Query<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> axum::extract::FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let read = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        let bad = |error: QueryRejection| Failure::client(error.status(), "bad_query", error.body_text());
        read.map(|query| Query(query.0)).map_err(bad)
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Request {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |info| info.0);
        let scribe = request.extensions().get::<Scribe>().cloned();
        let headers = request.headers().clone();
        let body = <Bytes as axum::extract::FromRequest<S>>::from_request(request, state).await;
        Ok(Request { path, peer, headers, body, scribe })
    }
}

impl Request {
    /// The body's options; an empty body has none.
    fn options<T: Default + for<'de> Deserialize<'de>>(&self) -> Result<T, Failure> {
        let body = match &self.body {
            Ok(body) => body,
            Err(error) => {
                return Err(Failure::client(error.status(), "bad_body", format!("the body cannot be read: {}", error.body_text())));
            }
        };
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            let text = format!("the body is {kind:?}; send it as Content-Type: application/json");
            return Err(Failure::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", text));
        }
        // Through a Value, because serde would take an array for an object with its fields in order.
        let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| bad_json(&error))?;
        if !value.is_object() {
            return Err(Failure::client(StatusCode::BAD_REQUEST, "bad_json", "the body must be a JSON object".into()));
        }
        serde_json::from_value(value).map_err(|error| bad_json(&error))
    }

    /// Writes the audit line, into the log and into the state directory: who asked for what, and what was answered.
    async fn audited(&self, response: Response) -> Response {
        let body = self.body.as_ref().map(|body| String::from_utf8_lossy(&body[..body.len().min(AUDIT_BODY_MAX)]).into_owned());
        tracing::info!(target: "audit", peer = %self.peer, path = %self.path, body = body.as_deref().unwrap_or("unreadable"), status = response.status().as_u16(), "admin request");
        if let Some(scribe) = &self.scribe {
            let told = response.extensions().get::<Told>().map_or("", |told| &told.0);
            let outcome = format!("{} {told}", response.status().as_u16());
            let options = body.as_deref().unwrap_or("unreadable");
            scribe.note(Entry::now(&self.peer.to_string(), &self.path, options, outcome.trim_end())).await;
        }
        response
    }
}

fn bad_json(error: &serde_json::Error) -> Failure {
    Failure::client(StatusCode::BAD_REQUEST, "bad_json", error.to_string())
}

/// Bytes of a body; the longest sensible one has fifty.
const BODY_MAX: usize = 64 * 1024;
/// Bytes of a body in an audit line.
const AUDIT_BODY_MAX: usize = 512;

#[cfg(test)]
mod tests;
