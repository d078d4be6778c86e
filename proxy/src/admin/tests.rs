//! The contract of `docs/admin-api.md`, spoken over a real socket to a stand-in for the data thread.

use super::*;
use crate::control::{ControlReceiver, ControlRequest, channel};
use crate::telemetry::metrics::tests::snapshot;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use twinlane_core::divergence::{Divergence, DivergenceKind, Divergences, ExtraKeys};
use twinlane_core::doubt::{Cause, State, WideCause};
use twinlane_core::explained::{Dirty, DirtyDatabase, DirtyKey, Explained};
use twinlane_core::status::Outcome;

/// A data thread that answers like one whose primary is `new` at epoch 4; rollback is done, anything else as scripted. Counts the operations.
fn stand_in(mut receiver: ControlReceiver) -> Arc<AtomicUsize> {
    receiver.serving();
    let operations = Arc::new(AtomicUsize::new(0));
    let counted = operations.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            while let Some(request) = receiver.next().await {
                match request {
                    ControlRequest::Snapshot { answer } => drop(answer.send(snapshot())),
                    ControlRequest::Divergences { answer } => drop(answer.send(divergences())),
                    ControlRequest::Dirty { most, answer } => drop(answer.send(dirty(most))),
                    ControlRequest::Operate { operation, answer } => {
                        drop(answer.send(reaction(&operation)));
                        counted.fetch_add(1, Relaxed);
                    }
                }
            }
        });
    });
    operations
}

fn divergences() -> Divergences {
    let mut found = Divergences::default();
    found.note(Divergence {
        db: 3,
        key: b"user:4711".as_slice().into(),
        kind: DivergenceKind::Ttl,
        cause: "unexplained",
        first_seen: 9,
        command: None,
    });
    found
}

fn dirty(most: usize) -> Dirty {
    let item = |key: &str, first_seen: i64| DirtyKey {
        db: 3,
        key: key.as_bytes().into(),
        cause: Cause::Mismatch,
        state: State::Restoring(8),
        first_seen,
        attempts: 1,
        position: 7,
    };
    let items: Vec<DirtyKey> = vec![item("user:1", 5), item("user:2", 6)].into_iter().take(most).collect();
    let databases = vec![DirtyDatabase { db: Some(2), cause: WideCause::Evicted, since: Some(4) }];
    Dirty { total: 2, spilled: 0, by_cause: vec![(Cause::Mismatch, 2)], items, databases }
}

fn reaction(operation: &Operation) -> Outcome {
    match operation {
        Operation::Flip { dry_run: true, .. } => Outcome::Done,
        Operation::Flip { force_primary_lost: true, .. } => Outcome::Refused { reasons: vec!["budget".into()], aborted: true },
        Operation::Flip { to, .. } => Outcome::Flipped { primary: *to, epoch: 5, pause_us: 1500, held_requests: 3 },
        Operation::MirrorStop { lose_rollback: false } => Outcome::Refused { reasons: vec!["the way back ends".into()], aborted: false },
        Operation::RepairExtras { confirm: None } => {
            Outcome::ToConfirm(ExtraKeys { count: 2, samples: vec![(1, b"k".as_slice().into())], endpoint: Endpoint::New })
        }
        Operation::Explain { db, key } => Outcome::Explained(Box::new(Explained {
            key: key.as_slice().into(),
            db: *db,
            primary: Endpoint::New,
            sides: [None, None],
            position: 9,
            mirror_unread: Some("mirroring is off".into()),
            dirty: None,
            spilled: false,
            synced: true,
            excuse: None,
            divergences: Vec::new(),
            writes: Vec::new(),
        })),
        _ => Outcome::Done,
    }
}

/// A log that stays open when its directory is gone.
fn audit() -> Arc<Audit> {
    Arc::new(Audit::open(tempfile::tempdir().unwrap().path()).unwrap())
}

fn serve() -> String {
    let (control, receiver) = channel();
    stand_in(receiver);
    spawn("127.0.0.1:0".parse().unwrap(), control, audit()).unwrap().to_string()
}

/// Longest wait for what must happen, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

fn call(address: &str, method: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{kind}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn every_answer_of_a_post() {
    let address = serve();
    let check = |path: &str, body: &str, status: u16, expect: Value| {
        let (code, text) = call(&address, "POST", path, "application/json", body);
        assert_eq!((code, serde_json::from_str::<Value>(&text).unwrap()), (status, expect), "{path} {body}");
    };
    check("/v1/rollback", "{}", 200, json!({"done": true, "primary": "old", "epoch": 5, "pause_ms": 1.5, "held_requests": 3}));
    check("/v1/rollback", "", 200, json!({"done": true, "primary": "old", "epoch": 5, "pause_ms": 1.5, "held_requests": 3}));
    check("/v1/rollback", r#"{"dry_run":true}"#, 200, json!({"done": false, "dry_run": true, "reasons": []}));
    check("/v1/rollback", r#"{"force":["primary-lost"]}"#, 409, json!({"done": false, "aborted": true, "reasons": ["budget"]}));
    check("/v1/cutover", "{}", 409, json!({"done": false, "reasons": ["new is already primary (epoch 4)"]}));
    check("/v1/mirror/start", "", 200, json!({"done": true}));
    check("/v1/mirror/stop", "{}", 409, json!({"done": false, "reasons": ["the way back ends"]}));
    check("/v1/mirror/stop", r#"{"lose_rollback":true}"#, 200, json!({"done": true}));
    check("/v1/primary-loss/accept", "{}", 200, json!({"done": true}));
}

#[test]
fn the_ledger_for_people() {
    let address = serve();
    let get = |path: &str| -> Value { serde_json::from_str(&call(&address, "GET", path, "", "").1).unwrap() };
    let shown = get("/v1/dirty?reveal=true&limit=1");
    let item = json!({"key": "user:1", "db": 3, "cause": "mismatch", "state": "restoring", "first_seen": 5, "attempts": 1, "position": 7});
    let databases = json!([{"db": 2, "cause": "evicted", "first_seen": 4}]);
    assert_eq!(shown, json!({"total": 2, "spilled": 0, "by_cause": {"mismatch": 2}, "items": [item], "databases": databases}));
    let hidden = get("/v1/dirty");
    assert!(hidden["items"].as_array().is_some_and(|items| items.len() == 2), "{hidden}");
    assert!(!hidden.to_string().contains("user:1"), "{hidden}");
    let told = get("/v1/explain?key=user%3A1&db=3");
    assert_eq!((&told["key"], &told["db"], &told["synced"]), (&json!("user:1"), &json!(3), &json!(true)), "{told}");
    // As Java serialises the string "abc": what is printed can be asked for.
    let told = get("/v1/explain?key=%5Cxac%5Cxed%5Cx00%5Cx05t%5Cx00%5Cx03abc");
    assert_eq!(told["key"], "\\xac\\xed\\x00\\x05t\\x00\\x03abc", "{told}");
}

/// The audit log is a pipe that nobody reads, as a disk that hangs: the POST waits for it, and nobody else does.
#[test]
fn a_state_disk_that_hangs_holds_up_no_probe() {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    // Both ends, so that neither waits for the other; then it is filled.
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(&path).unwrap();
    let audit = Arc::new(Audit::open(directory.path()).unwrap());
    let mut filled = 0;
    while let Ok(written) = pipe.write(&[b'x'; 4096]) {
        filled += written;
    }
    let (control, receiver) = channel();
    let answered = stand_in(receiver);
    let address = spawn("127.0.0.1:0".parse().unwrap(), control, audit).unwrap().to_string();
    let post = std::thread::spawn({
        let address = address.clone();
        move || call(&address, "POST", "/v1/rollback", "", "")
    });
    while answered.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    for _ in 0..20 {
        assert_eq!(call(&address, "GET", "/healthz", "", "").0, 200);
        assert_eq!(call(&address, "GET", "/readyz", "", "").0, 200);
    }
    assert!(!post.is_finished(), "its entry is not written yet");
    let mut drained = vec![0; filled];
    pipe.read_exact(&mut drained).unwrap();
    assert_eq!(post.join().unwrap().0, 200);
    let mut line = [0; 4096];
    let taken = pipe.read(&mut line).unwrap();
    assert!(String::from_utf8_lossy(&line[..taken]).contains("/v1/rollback"));
}

/// `O_NONBLOCK`.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// The asker is gone before the operation ends: it is done, and so is its entry.
#[test]
fn an_operation_whose_asker_hangs_up_is_written_down() {
    use std::io::Write;
    let directory = tempfile::tempdir().unwrap();
    let audit = Arc::new(Audit::open(directory.path()).unwrap());
    let (control, mut receiver) = channel();
    receiver.serving();
    let address = spawn("127.0.0.1:0".parse().unwrap(), control, audit.clone()).unwrap().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut asker = std::net::TcpStream::connect(&address).unwrap();
    write!(asker, "POST /v1/mirror/start HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
    let Some(ControlRequest::Operate { answer, .. }) = runtime.block_on(receiver.next()) else { panic!("nothing was asked for") };
    drop(asker);
    // The port has seen that the asker has gone when it has answered others who came later.
    for _ in 0..20 {
        assert_eq!(call(&address, "GET", "/healthz", "", "").0, 200);
    }
    answer.send(Outcome::Done).unwrap();
    let begun = Instant::now();
    while audit.last(1).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nobody wrote it down");
        std::thread::yield_now();
    }
    assert_eq!(audit.last(1)[0].what, "/v1/mirror/start");
}

#[test]
fn every_failed_request_says_who_and_why() {
    let address = serve();
    let check = |method: &str, path: &str, kind: &str, body: &str, status: u16, code: &str| {
        let (found, text) = call(&address, method, path, kind, body);
        let error = serde_json::from_str::<Value>(&text).unwrap()["error"].clone();
        assert_eq!((found, &error["code"], &error["who"]), (status, &json!(code), &json!("client")), "{text}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
    };
    let json = "application/json";
    check("GET", "/v2", "", "", 404, "not_found");
    check("GET", "/v1/cutover", "", "", 405, "wrong_method");
    check("POST", "/v1/status", json, "{}", 405, "wrong_method");
    for path in ["/v1/explain", "/v1/explain?key=k&db=x", "/v1/explain?key=k&db=70000", "/v1/dirty?limit=many", "/v1/dirty?shown=true"] {
        check("GET", path, "", "", 400, "bad_query");
    }
    check("GET", "/v1/divergences?reveal=yes", "", "", 400, "bad_query");
    check("GET", "/v1/audit?limit=-1", "", "", 400, "bad_query");
    check("POST", "/v1/rollback", json, "{", 400, "bad_json");
    check("POST", "/v1/rollback", json, "[]", 400, "bad_json");
    check("POST", "/v1/rollback", json, r#"{"dryrun":true}"#, 400, "bad_json");
    check("POST", "/v1/rollback", json, r#"{"force":["everything"]}"#, 400, "bad_json");
    check("POST", "/v1/mirror/start", json, r#"{"x":1}"#, 400, "bad_json");
    check("POST", "/v1/rollback", "application/x-www-form-urlencoded", "{}", 415, "not_json");
    check("POST", "/v1/rollback", "", "{}", 415, "not_json");
    check("POST", "/v1/rollback", json, &" ".repeat(BODY_MAX + 1), 413, "bad_body");
}

#[test]
fn status_metrics_and_probes() {
    let address = serve();
    let (code, text) = call(&address, "GET", "/v1/status", "", "");
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &status["primary"], &status["mirror"]["lag_ms"], &status["old"]["role"]),
        (200, &json!("new"), &json!(40), &json!("mirror"))
    );
    assert!(call(&address, "GET", "/metrics", "", "").1.contains("twinlane_epoch 4\n"));
    assert_eq!(call(&address, "GET", "/healthz", "", "").0, 200);
    assert_eq!(call(&address, "GET", "/readyz", "", ""), (200, "ready\n".into()));
}

#[test]
fn before_serving_it_is_alive_but_not_ready() {
    let (control, receiver) = channel();
    receiver.starting("old cannot be used yet");
    let address = spawn("127.0.0.1:0".parse().unwrap(), control, audit()).unwrap().to_string();
    assert_eq!(call(&address, "GET", "/healthz", "", "").0, 200);
    let (code, text) = call(&address, "GET", "/readyz", "", "");
    assert!(code == 503 && text.contains("old cannot be used yet"));
    let (code, text) = call(&address, "POST", "/v1/cutover", "", "");
    assert!(code == 503 && text.contains("\"starting\""), "{text}");
    assert!(call(&address, "GET", "/metrics", "", "").1.contains("twinlane_serving 0\n"));
}

#[test]
fn readiness_is_about_the_primary_only() {
    let (mut status, _) = snapshot();
    status.old.healthy = false;
    assert_eq!(primary_trouble(&status), None);
    (status.new.healthy, status.new.error) = (false, Some("connection refused".into()));
    let reason = primary_trouble(&status).unwrap();
    assert!(reason.contains("new (h:1)") && reason.contains("connection refused"), "{reason}");
}

#[test]
fn the_reference_page_names_every_route() {
    let page = include_str!("../../../docs/admin-api.md");
    for route in include_str!("mod.rs").lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let path = route.split('"').next().unwrap();
        let method = if route.contains("post(") { "POST" } else { "GET" };
        assert!(page.contains(&format!("`{method} {path}`")), "{method} {path} is missing in docs/admin-api.md");
    }
}

/// Every code of readiness, and every cause of doubt, stands in the reference page.
#[test]
fn the_reference_page_names_every_code_and_cause() {
    let page = include_str!("../../../docs/admin-api.md");
    let sequencer = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("core/src/sequencer");
    let mut codes = 0;
    for file in std::fs::read_dir(sequencer).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        // `code: "..."` of a finding, or the word behind its level.
        let behind_levels = text.split("Level::").skip(1).filter_map(|rest| rest.split_once(',')?.1.trim_start().strip_prefix('"'));
        let named = text.split("code: \"").skip(1).chain(behind_levels);
        for code in named.filter_map(|rest| rest.split('"').next()).filter(|code| !code.contains(' ')) {
            codes += 1;
            assert!(page.contains(&format!("| `{code}` |")), "readiness code {code} is missing");
        }
    }
    assert!(codes >= 10, "{codes}");
    for cause in Cause::ALL {
        assert!(page.contains(&format!("| `{}` |", cause.word())), "cause {} is missing", cause.word());
    }
}

#[test]
fn the_backfill_is_begun_slowed_down_and_watched() {
    let address = serve();
    let post = |path: &str, body: &str| {
        let (code, text) = call(&address, "POST", path, "application/json", body);
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let done = (200, json!({"done": true}));
    assert_eq!(post("/v1/backfill", ""), done);
    assert_eq!(post("/v1/backfill", r#"{"rate":100,"bytes_rate":1000000}"#), done);
    assert_eq!(post("/v1/backfill/rate", r#"{"rate":0}"#), done);
    assert_eq!(post("/v1/backfill/pause", ""), done);
    assert_eq!(post("/v1/backfill/resume", "{}"), done);
    assert_eq!(post("/v1/backfill", r#"{"speed":1}"#).0, 400);
    assert_eq!(post("/v1/backfill/rate", r#"{"rate":-1}"#).0, 400);
    assert_eq!(post("/v1/backfill/pause", r#"{"rate":1}"#).0, 400);
    let shown = serde_json::from_str::<Value>(&call(&address, "GET", "/v1/backfill", "", "").1).unwrap();
    assert_eq!(shown["state"], "running");
    for field in ["keys_done", "keys_estimate", "bytes_done", "rate", "eta_s"] {
        assert!(shown[field].is_u64(), "{field} in {shown}");
    }
}

#[test]
fn verify_and_what_it_found() {
    let address = serve();
    let post = |path: &str, body: &str| {
        let (code, text) = call(&address, "POST", path, "application/json", body);
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    assert_eq!(post("/v1/verify", r#"{"rate":100,"continuous":true}"#), (200, json!({"done": true})));
    assert_eq!(post("/v1/verify", r#"{"speed":1}"#).0, 400);
    for action in ["pause", "resume", "cancel"] {
        assert_eq!(post(&format!("/v1/verify/{action}"), ""), (200, json!({"done": true})));
    }
    let told = json!({"done": false, "count": 2, "samples": [{"db": 1, "key": "k"}], "endpoint": "new"});
    assert_eq!(post("/v1/repair", r#"{"delete_extra":true}"#), (200, told));
    assert_eq!(post("/v1/repair", r#"{"delete_extra":true,"confirm":2}"#), (200, json!({"done": true})));
    assert_eq!(post("/v1/repair", r#"{"key":"k","db":1}"#), (200, json!({"done": true})));
    assert_eq!(post("/v1/repair", "{}").0, 400, "a repair of nothing");
    let get = |path: &str| serde_json::from_str::<Value>(&call(&address, "GET", path, "", "").1).unwrap();
    let shown = json!({"key": "user:4711", "db": 3, "kind": "ttl", "cause": "unexplained", "first_seen": 9, "command": null});
    assert_eq!(get("/v1/divergences?reveal=true"), json!({"total": 1, "items": [shown]}));
    let hidden = get("/v1/divergences")["items"][0]["key"].as_str().unwrap().to_owned();
    assert!(hidden.starts_with("user:*") && !hidden.contains("4711"), "{hidden}");
    let verify = get("/v1/verify");
    for field in
        ["state", "keys_compared", "differing", "unverifiable", "coverage", "as_of", "clean", "alive", "fresh", "primary_only_until"]
    {
        assert!(!verify[field].is_null() || ["as_of", "primary_only_until"].contains(&field), "{field} in {verify}");
    }
}
