//! `GET /metrics`: one snapshot of the data thread, rendered at scrape. The hot path only counts plain integers; nothing
//! here is touched by a command.
//!
//! [`METRICS`] is the table of everything that is exported; `docs/metrics.md` is compared with it. Label sets are bounded:
//! commands come from the command table, causes and classes are closed words.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use twinlane_core::endpoint::Endpoint;
use twinlane_core::shadow::{ShadowCounts, Skip};
use twinlane_core::status::{Counters, Latency, Level, Status};

/// One exported metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
    values: fn(&Status, &Counters) -> Vec<Sample>,
}

/// Label values and the number.
type Sample = (Vec<String>, Value);

enum Value {
    Number(f64),
    Histogram(Box<Latency>),
}

/// The exporter behind `GET /metrics`.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
    snapshot: Snapshot,
}

/// What the collector shows at the next scrape; `None` while the process starts.
type Snapshot = Arc<Mutex<Option<(Status, Counters)>>>;

impl Exporter {
    /// Registers every metric.
    ///
    /// # Errors
    /// When two rows of [`METRICS`] have one name.
    pub fn new() -> Result<Exporter, prometheus::Error> {
        let (registry, snapshot) = (Registry::new(), Snapshot::default());
        registry.register(Box::new(Rows { descs: descs()?, snapshot: Arc::clone(&snapshot) }))?;
        Ok(Exporter { registry, snapshot })
    }

    /// The text of one scrape; without a snapshot (the process is starting) only what is true without one.
    ///
    /// # Errors
    /// When the text cannot be encoded.
    pub fn render(&self, snapshot: Option<(Status, Counters)>) -> Result<String, prometheus::Error> {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

struct Rows {
    descs: Vec<Desc>,
    snapshot: Snapshot,
}

impl Collector for Rows {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut families = vec![family(&UP, vec![(vec![], number(snapshot.is_some()))]), family(&BUILD, build(&()))];
        if let Some((status, counters)) = snapshot.as_ref() {
            families.extend(METRICS.iter().map(|metric| family(metric, (metric.values)(status, counters))));
        }
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

/// Every metric that needs a snapshot, in the order of the reference page.
pub static METRICS: &[Metric] = &[
    row("twinlane_epoch", "gauge", &[], "Epoch of the durable record; each flip adds one", |s, _| one(s.epoch as f64)),
    row("twinlane_primary", "gauge", &["endpoint"], "1 for the endpoint that answers clients", |s, _| {
        Endpoint::BOTH.map(|endpoint| (label(endpoint.name()), number(s.primary == endpoint))).into()
    }),
    row("twinlane_mirroring", "gauge", &[], "1 while the other endpoint follows", |s, _| one(f64::from(u8::from(s.mirroring)))),
    row("twinlane_stage", "gauge", &["stage"], "1 for the present stage", |s, _| {
        STAGES.iter().map(|stage| (label(stage), number(stage_word(&s.stage) == *stage))).collect()
    }),
    row("twinlane_healthy", "gauge", &["endpoint"], "1 while the endpoint can serve its role", |s, _| {
        [(label("old"), number(s.old.healthy)), (label("new"), number(s.new.healthy))].into()
    }),
    row("twinlane_gate_reasons", "gauge", &[], "Reasons for which a flip would be refused now; 0 when it would not", |s, _| {
        one(s.gate.len() as f64)
    }),
    row("twinlane_alarms", "gauge", &[], "Standing alarms; their words are in the status", |s, _| one(s.alarms.len() as f64)),
    row("twinlane_connections", "gauge", &["kind"], "Open connections: client, or lane to old or new", |s, _| {
        [("client", s.clients), ("old", s.old.lanes), ("new", s.new.lanes)]
            .map(|(kind, count)| (label(kind), Value::Number(count as f64)))
            .into()
    }),
    row("twinlane_blocked_clients", "gauge", &[], "Clients that wait in a blocking command", |s, _| one(s.blocked_clients as f64)),
    row("twinlane_mirror_queue_effects", "gauge", &[], "Effects sent or waiting that the mirror has not confirmed", |s, _| {
        one(s.mirror.queued_effects as f64)
    }),
    row("twinlane_mirror_queue_bytes", "gauge", &[], "Bytes of those effects", |s, _| one(s.mirror.queued_bytes as f64)),
    row("twinlane_mirror_lag_seconds", "gauge", &[], "Age of the oldest unconfirmed effect", |s, _| one(s.mirror.lag_ms as f64 / 1e3)),
    row("twinlane_mirror_state", "gauge", &["state"], "1 for the mirror's present state", |s, _| {
        MIRROR_STATES.iter().map(|state| (label(state), number(s.mirror.state == *state))).collect()
    }),
    row("twinlane_dirty_keys", "gauge", &[], "Keys in doubt now", |s, _| one(s.mirror.dirty_keys as f64)),
    row("twinlane_unsynced_databases", "gauge", &[], "Databases of which nothing is known until a scan ends", |s, _| {
        one(s.mirror.unsynced_databases.len() as f64)
    }),
    row("twinlane_scanned_keys", "gauge", &[], "Keys the running scan has visited; 0 when none runs", |s, _| {
        one(s.mirror.scanned_keys as f64)
    }),
    row("twinlane_unmirrorable_keys", "gauge", &[], "Keys that no image can carry; they shut the gate", |s, _| {
        one(s.mirror.unmirrorable_keys as f64)
    }),
    row(
        "twinlane_expiry_followed",
        "gauge",
        &[],
        "1 while keys that die on the primary are followed by its events, 0 while compared",
        |s, _| one(f64::from(u8::from(s.expiry.mode == "followed"))),
    ),
    row("twinlane_journal_used_bytes", "gauge", &[], "Bytes of the journal that a restart would read", |s, _| {
        s.journal.iter().flat_map(|journal| one(journal.used_bytes as f64)).collect()
    }),
    row("twinlane_journal_complete", "gauge", &[], "1 while a restart would know which keys may differ", |s, _| {
        s.journal.iter().flat_map(|journal| one(f64::from(u8::from(journal.complete)))).collect()
    }),
    row("twinlane_journal_overflows_total", "counter", &[], "Times the journal was full", |s, _| {
        s.journal.iter().flat_map(|journal| total(journal.overflows)).collect()
    }),
    row("twinlane_expiry_events_total", "counter", &[], "Events of keys that expired or were evicted", |s, _| total(s.expiry.events)),
    row("twinlane_expiry_probes_total", "counter", &[], "Keys whose time to live the mirror was asked for", |s, _| total(s.expiry.probes)),
    row(
        "twinlane_script_keys_reported_total",
        "counter",
        &[],
        "Keys that the primary reported written without a command naming them",
        |s, _| total(s.scripts.reported_keys),
    ),
    row("twinlane_findings", "gauge", &["level"], "Findings of readiness, by level", |s, _| {
        [("BLOCK", Level::Block), ("WARN", Level::Warn), ("INFO", Level::Info)]
            .map(|(word, level)| (label(word), Value::Number(s.findings.iter().filter(|finding| finding.level == level).count() as f64)))
            .into()
    }),
    row(
        "twinlane_commands_total",
        "counter",
        &["command", "class", "result"],
        "Commands answered, by class and by result (ok, error)",
        |_, c| {
            let sample = |(command, class, ok, error): &(&'static str, &'static str, u64, u64)| {
                [("ok", *ok), ("error", *error)].map(|(result, count)| (labels(&[command, class, result]), count_of(count)))
            };
            c.commands.iter().flat_map(sample).collect()
        },
    ),
    row("twinlane_command_duration_seconds", "histogram", &["side"], "From sending a command or effect to its reply, by side", |_, c| {
        Endpoint::BOTH.map(|side| (label(side.name()), Value::Histogram(Box::new(c.latency[side.index()].clone())))).into()
    }),
    row("twinlane_effects_total", "counter", &[], "Effects that the mirror confirmed", |_, c| total(c.effects)),
    row("twinlane_images_total", "counter", &[], "Images taken, for whatever reason", |_, c| total(c.images)),
    row("twinlane_large_key_pieces_total", "counter", &[], "Pieces of large keys read on the primary", |_, c| total(c.copies.pieces)),
    row(
        "twinlane_large_keys_total",
        "counter",
        &["outcome"],
        "Large keys: copied in pieces; begun anew because they were written; copied whole because they always are",
        |_, c| words(&[("copied", c.copies.done), ("begun_anew", c.copies.restarts), ("whole", c.copies.whole)]),
    ),
    row("twinlane_repairs_total", "counter", &[], "Keys healed by an image", |_, c| total(c.repairs)),
    row("twinlane_dirty_keys_total", "counter", &["cause"], "Keys that came into doubt, by cause", |_, c| words(&c.dirty_by_cause)),
    row(
        "twinlane_forgotten_total",
        "counter",
        &["endpoint"],
        "Times that the endpoint was found to have gone back to an earlier state: a failover, a snapshot restored",
        |_, c| Endpoint::BOTH.map(|endpoint| (label(endpoint.name()), Value::Number(c.forgotten[endpoint.index()] as f64))).into(),
    ),
    row("twinlane_reply_mismatches_total", "counter", &["command"], "Mirror replies that differed from the primary's", |_, c| {
        words(&c.mismatches)
    }),
    row("twinlane_backfill_state", "gauge", &["state"], "1 for the backfill's present state", |s, _| {
        BACKFILLING.iter().map(|state| (label(state), number(s.backfill.state == *state))).collect()
    }),
    row(
        "twinlane_backfill_keys",
        "gauge",
        &["kind"],
        "Keys of the primary that are copied (done), and that there are (estimate)",
        |s, _| [(label("done"), count_of(s.backfill.keys_done)), (label("estimate"), count_of(s.backfill.keys_estimate))].into(),
    ),
    row("twinlane_backfill_keys_total", "counter", &[], "Keys of the primary that backfills walked", |_, c| total(c.backfill.keys)),
    row("twinlane_backfill_bytes_total", "counter", &[], "Bytes of images that backfills sent to the mirror", |_, c| {
        total(c.backfill.bytes)
    }),
    row("twinlane_verify_running", "gauge", &[], "1 while a verify is under way, also while it waits or is paused", |s, _| {
        one(f64::from(u8::from(VERIFYING.contains(&s.verify.state))))
    }),
    row("twinlane_verify_proven", "gauge", &[], "1 while the last verify found no difference, proved itself alive and is fresh", |_, c| {
        one(f64::from(u8::from(c.verify.proven)))
    }),
    row(
        "twinlane_verify_coverage_ratio",
        "gauge",
        &[],
        "Share of the keys that the present verify, or the last one, has compared",
        |s, _| one(s.verify.result.coverage),
    ),
    row("twinlane_verify_passes_total", "counter", &[], "Verifies that ended", |_, c| total(c.verify.passes)),
    row("twinlane_verify_keys_total", "counter", &[], "Keys that verifies compared", |_, c| total(c.verify.compared)),
    row("twinlane_verify_unverifiable_total", "counter", &[], "Keys that verifies could not judge", |_, c| total(c.verify.unverifiable)),
    row("twinlane_verify_differences_total", "counter", &["kind"], "Confirmed differences that verifies found, by kind", |_, c| {
        let found = &c.verify.differing;
        [("missing", found.missing), ("extra", found.extra), ("type", found.kind), ("value", found.value), ("ttl", found.ttl)]
            .map(|(kind, count)| (label(kind), count_of(count)))
            .into()
    }),
    row("twinlane_shadow_share_ratio", "gauge", &[], "Share of the clients' reads that is drawn to be compared", |s, _| {
        one(s.shadow.share)
    }),
    row(
        "twinlane_shadow_reads_total",
        "counter",
        &["command", "result"],
        "Reads compared at their position, by result (equal, explained, differing, unexplained)",
        |s, _| {
            let sample = |(command, counts): (&&'static str, &ShadowCounts)| {
                let ShadowCounts { equal, explained, differing, unexplained, .. } = *counts;
                [("equal", equal), ("explained", explained), ("differing", differing), ("unexplained", unexplained)]
                    .map(|(result, count)| (labels(&[command, result]), count_of(count)))
            };
            s.shadow.by_command.iter().flat_map(sample).collect()
        },
    ),
    row("twinlane_shadow_skipped_total", "counter", &["reason"], "Reads drawn and not compared, by reason", |s, _| {
        Skip::ALL.map(|skip| (label(skip.word()), count_of(s.shadow.total.skipped[skip as usize]))).into()
    }),
    row("twinlane_mirror_refusals_total", "counter", &["error"], "Refusals of the whole mirror, by the first word of its error", |_, c| {
        c.side_refusals.iter().map(|(word, count)| (label(word), count_of(*count))).collect()
    }),
    row("twinlane_ack_degraded_total", "counter", &[], "Replies delivered before the mirror had confirmed, under ack = both", |_, c| {
        total(c.ack_degraded)
    }),
    row("twinlane_flips_total", "counter", &["result"], "Cutovers and rollbacks begun, by result (done, aborted)", |_, c| {
        [(label("done"), count_of(c.flips_done)), (label("aborted"), count_of(c.flips_aborted))].into()
    }),
    row("twinlane_clients_accepted_total", "counter", &[], "Client connections accepted", |_, c| total(c.accepted_sessions)),
    row("twinlane_clients_closed_total", "counter", &["reason"], "Client connections that the proxy closed, by reason", |_, c| {
        words(&c.closed_sessions)
    }),
    row("twinlane_client_bytes_total", "counter", &["direction"], "Bytes read from clients (in) and written to them (out)", |_, c| {
        [(label("in"), count_of(c.client_bytes.0)), (label("out"), count_of(c.client_bytes.1))].into()
    }),
];

/// True without a snapshot.
pub static UP: Metric =
    row("twinlane_serving", "gauge", &[], "1 while the data thread answers; 0 while the process starts or stalls", |_, _| vec![]);
/// True without a snapshot.
pub static BUILD: Metric = row("twinlane_build_info", "gauge", &["version"], "Always 1; the version is the label", |_, _| vec![]);

/// Stage names without their reasons.
const STAGES: [&str; 7] = ["PASS", "MIRROR", "SYNCED", "CANARY", "SOAK", "COMPLETE", "PRIMARY LOST DATA"];
const VERIFYING: [&str; 3] = ["running", "waiting", "paused"];
const BACKFILLING: [&str; 5] = ["idle", "running", "paused", "done", "failed"];
const MIRROR_STATES: [&str; 5] = ["following", "collapsing", "paused", "down", "off"];

const fn row(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    values: fn(&Status, &Counters) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind, labels, help, values }
}

fn build(_: &()) -> Vec<Sample> {
    vec![(label(env!("CARGO_PKG_VERSION")), number(true))]
}

/// `SOAK (way back closed: ...)` is `SOAK`: a reason is no label.
fn stage_word(stage: &str) -> &str {
    stage.split(" (").next().unwrap_or_default()
}

fn label(value: &str) -> Vec<String> {
    vec![value.to_owned()]
}

fn labels(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn number(condition: bool) -> Value {
    Value::Number(f64::from(u8::from(condition)))
}

fn count_of(count: u64) -> Value {
    Value::Number(count as f64)
}

fn one(value: f64) -> Vec<Sample> {
    vec![(vec![], Value::Number(value))]
}

fn total(count: u64) -> Vec<Sample> {
    one(count as f64)
}

fn words(counts: &[(&'static str, u64)]) -> Vec<Sample> {
    counts.iter().map(|(word, count)| (label(word), count_of(*count))).collect()
}

fn descs() -> Result<Vec<Desc>, prometheus::Error> {
    let desc = |metric: &Metric| {
        let labels = metric.labels.iter().map(|name| (*name).to_owned()).collect();
        Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, HashMap::new())
    };
    [&UP, &BUILD].into_iter().chain(METRICS).map(desc).collect()
}

fn family(metric: &Metric, samples: Vec<Sample>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        "counter" => MetricType::COUNTER,
        "histogram" => MetricType::HISTOGRAM,
        _ => MetricType::GAUGE,
    });
    family.set_metric(samples.into_iter().map(|(values, value)| sample(metric, values, value)).collect());
    family
}

fn sample(metric: &Metric, values: Vec<String>, value: Value) -> proto::Metric {
    let pair = |(name, value): (&&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    };
    let mut sample = proto::Metric::from_label(metric.labels.iter().zip(values).map(pair).collect());
    match value {
        Value::Histogram(latency) => sample.set_histogram(histogram(&latency)),
        Value::Number(number) if metric.kind == "counter" => {
            let mut counter = proto::Counter::default();
            counter.set_value(number);
            sample.set_counter(counter);
        }
        Value::Number(number) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(number);
            sample.set_gauge(gauge);
        }
    }
    sample
}

/// Cumulative buckets in seconds; the last one, above every bound, is the encoder's `+Inf`.
fn histogram(latency: &Latency) -> proto::Histogram {
    let mut seen = 0;
    let bucket = |(bound, count): (&u64, &u64)| {
        seen += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(seen);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(Latency::BOUNDS_US.iter().zip(&latency.buckets).map(bucket).collect());
    histogram.set_sample_count(latency.buckets.iter().sum());
    histogram.set_sample_sum(latency.sum_us as f64 / 1e6);
    histogram
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use twinlane_core::shadow::ShadowStatus;
    use twinlane_core::status::{BackfillStatus, ExpiryStatus, Finding, MirrorStatus, ScriptStatus, SideStatus};

    /// A snapshot in which every label set has a row.
    pub(crate) fn snapshot() -> (Status, Counters) {
        let side = |role| SideStatus { address: "h:1".into(), healthy: true, version: "7.0.15".into(), role, error: None, lanes: 2 };
        let mirror = MirrorStatus {
            state: "following",
            cause: None,
            queued_effects: 3,
            queued_bytes: 120,
            lag_ms: 40,
            dirty_keys: 1,
            unsynced_databases: vec![0],
            scanned_keys: 0,
            unmirrorable_keys: 0,
        };
        let status = Status {
            stage: "SOAK (way back closed: mirror down)".into(),
            primary: Endpoint::New,
            mirroring: true,
            epoch: 4,
            old: side("mirror"),
            new: side("primary"),
            mirror,
            clients: 7,
            blocked_clients: 2,
            gate: vec!["dirty keys: 1".into()],
            alarms: vec![],
            scripts: ScriptStatus { undeclared: "idle", ..ScriptStatus::default() },
            expiry: ExpiryStatus { mode: "compared", ..ExpiryStatus::default() },
            journal: Some(twinlane_core::journal::JournalStatus::default()),
            images: twinlane_core::status::ImageStatus::default(),
            recent: twinlane_core::status::RecentStatus::default(),
            findings: vec![Finding {
                level: Level::Block,
                code: "script-missing",
                subject: "abc".into(),
                text: "it is not there".into(),
                remedy: "load it".into(),
            }],
            verify: twinlane_core::divergence::VerifyStatus { state: "idle", ..Default::default() },
            shadow: ShadowStatus {
                by_command: [("GET", ShadowCounts { equal: 1, ..ShadowCounts::default() })].into(),
                ..ShadowStatus::default()
            },
            backfill: BackfillStatus {
                state: "running",
                keys_done: 700,
                keys_estimate: 1000,
                bytes_done: 2_500_000,
                rate: 150,
                bytes_per_second: 500_000,
                eta_s: Some(2),
                ..BackfillStatus::default()
            },
            repair: twinlane_core::status::RepairStatus::default(),
            flip: "idle",
        };
        let mut counters = Counters {
            commands: vec![("SET", "replay", 10, 2)],
            mismatches: vec![("SPOP", 1)],
            dirty_by_cause: vec![("mismatch", 1)],
            side_refusals: vec![("OOM".into(), 1)],
            closed_sessions: vec![("output", 1)],
            ..Counters::default()
        };
        counters.latency[0].observe(60, 2);
        counters.latency[0].observe(9_000_000, 1);
        (status, counters)
    }

    #[test]
    fn numbers_arrive_in_base_units() {
        let text = Exporter::new().unwrap().render(Some(snapshot())).unwrap();
        for line in [
            "twinlane_serving 1",
            "twinlane_epoch 4",
            "twinlane_primary{endpoint=\"new\"} 1",
            "twinlane_primary{endpoint=\"old\"} 0",
            "twinlane_stage{stage=\"SOAK\"} 1",
            "twinlane_mirror_lag_seconds 0.04",
            "twinlane_connections{kind=\"client\"} 7",
            "twinlane_commands_total{command=\"SET\",class=\"replay\",result=\"error\"} 2",
            "twinlane_command_duration_seconds_bucket{side=\"old\",le=\"0.00005\"} 0",
            "twinlane_command_duration_seconds_bucket{side=\"old\",le=\"0.0001\"} 2",
            "twinlane_command_duration_seconds_bucket{side=\"old\",le=\"5\"} 2",
            "twinlane_command_duration_seconds_bucket{side=\"old\",le=\"+Inf\"} 3",
            "twinlane_command_duration_seconds_count{side=\"old\"} 3",
            "twinlane_command_duration_seconds_sum{side=\"old\"} 9.00012",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_starting_process_says_only_what_it_knows() {
        let text = Exporter::new().unwrap().render(None).unwrap();
        let names: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(names.len(), 2, "{text}");
        assert!(names.contains(&"twinlane_serving 0"));
    }

    /// `docs/metrics.md` has one table row a metric, in order, and every one of them is really exported.
    #[test]
    fn the_reference_page_is_what_is_exported() {
        let page = include_str!("../../../docs/metrics.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `twinlane_")).collect();
        let expected: Vec<String> = [&UP, &BUILD].into_iter().chain(METRICS).map(page_row).collect();
        assert_eq!(rows, expected, "docs/metrics.md should have:\n{}", expected.join("\n"));
        let text = Exporter::new().unwrap().render(Some(snapshot())).unwrap();
        for metric in [&UP, &BUILD].into_iter().chain(METRICS) {
            assert!(text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind)), "{}", metric.name);
        }
    }

    /// Every metric that the Grafana board asks for exists.
    #[test]
    fn the_board_asks_for_what_is_exported() {
        let board = include_str!("../../../docker/grafana/dashboards/twinlane.json");
        let mut asked = 0;
        for word in board.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("twinlane_")) {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            assert!([&UP, &BUILD].into_iter().chain(METRICS).any(|metric| metric.name == name), "{word}");
            asked += 1;
        }
        assert!(asked > 15);
    }

    fn page_row(metric: &Metric) -> String {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind, labels.join(", "), metric.help)
    }
}
