//! What the sequencer tells the operator: one snapshot of plain numbers and words, and the closed set of things
//! an operator can ask for. The shell serves the snapshot as `GET /v1/status` and as metrics; it adds nothing to it.

use crate::endpoint::Endpoint;
use serde::Serialize;

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Stage name for people, derived from the facts below: `PASS`, `MIRROR`, `SYNCED`, `SOAK`, or with the reason why the
    /// way back is closed: `SOAK (way back closed: ...)`; `PRIMARY LOST DATA` while that alarm stands.
    pub stage: String,
    /// Who answers clients.
    pub primary: Endpoint,
    /// Whether the other endpoint follows.
    pub mirroring: bool,
    /// Version of the durable record; each flip adds one.
    pub epoch: u64,
    /// The two sides.
    pub old: SideStatus,
    /// See `old`.
    pub new: SideStatus,
    /// The mirror's distance from the primary.
    pub mirror: MirrorStatus,
    /// Connected clients.
    pub clients: usize,
    /// Those that wait in a blocking command.
    pub blocked_clients: usize,
    /// Why a flip (to the present mirror) would be refused now; empty when it would not.
    pub gate: Vec<String>,
    /// Standing alarms, one sentence each.
    pub alarms: Vec<String>,
    /// Writes of scripts and functions that name no key.
    pub scripts: ScriptStatus,
    /// How keys that die on the primary are noticed.
    pub expiry: ExpiryStatus,
    /// What a restart would know; None: there is no journal.
    pub journal: Option<crate::journal::JournalStatus>,
    /// In which form keys are copied each way.
    pub images: ImageStatus,
    /// How much of what was written lately is known, should a server forget it.
    pub recent: RecentStatus,
    /// `GET /v1/readiness`; not part of the status page.
    #[serde(skip)]
    pub findings: Vec<Finding>,
    /// `GET /v1/verify`.
    pub verify: crate::divergence::VerifyStatus,
    /// `GET /v1/shadow`.
    pub shadow: crate::shadow::ShadowStatus,
    /// `GET /v1/backfill`.
    pub backfill: BackfillStatus,
    /// `GET /v1/repair`.
    pub repair: RepairStatus,
    /// State of the flip that is under way: `idle`, `arming`, `draining`, `committing`.
    pub flip: &'static str,
}

/// One side in [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct SideStatus {
    /// host:port as configured, without credentials.
    pub address: String,
    /// Reachable and able to serve its role.
    pub healthy: bool,
    /// Server version as `INFO` gives it, e.g. `7.0.15` or `valkey 8.0.1`; empty before the first connect.
    pub version: String,
    /// `primary` or `mirror`.
    pub role: &'static str,
    /// Why it is not healthy.
    pub error: Option<String>,
    /// Open lanes.
    pub lanes: usize,
}

/// The mirror in [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct MirrorStatus {
    /// `following`, `collapsing` (behind its bounds: effects become dirty keys), `paused` (it refuses writes), `down`, `off`.
    pub state: &'static str,
    /// Why it is not following.
    pub cause: Option<String>,
    /// Effects sent or waiting that the mirror has not confirmed.
    pub queued_effects: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Age of the oldest unconfirmed effect in milliseconds.
    pub lag_ms: u64,
    /// Keys in doubt: dirty, image asked for, image not confirmed.
    pub dirty_keys: usize,
    /// Databases of which nothing is known until a scan ends.
    pub unsynced_databases: Vec<u16>,
    /// Keys the running scan has visited, if one runs.
    pub scanned_keys: u64,
    /// Keys that no image can carry; they shut the gate.
    pub unmirrorable_keys: usize,
}

/// Scripts in [`Status`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScriptStatus {
    /// Whether undeclared keys of scripts are learnt: `tracked` (the primary reports them), `idle` (no script ran lately), `unknown`
    /// (the primary does not report them: each script is a finding of readiness).
    pub undeclared: &'static str,
    /// Why they are unknown.
    pub cause: Option<String>,
    /// Scripts and functions seen.
    pub seen: usize,
    /// Keys that the primary reported.
    pub reported_keys: u64,
}

/// Expiry in [`Status`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExpiryStatus {
    /// `followed` (the primary sends an event for each key that dies) or `compared` (the mirror is asked around writes).
    pub mode: &'static str,
    /// Why it is not followed.
    pub cause: Option<String>,
    /// The command that would turn events on, where that is what is missing. The proxy sends it only with `expiry.enable_events`.
    pub command: Option<String>,
    /// Events received.
    pub events: u64,
    /// Keys whose time to live the mirror was asked for.
    pub probes: u64,
}

/// How keys are copied, in [`Status`]: `dump` (the receiver takes the sender's DUMP), `typed` (it does not: type by type), `unknown`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ImageStatus {
    /// From `old` to `new`.
    pub to_new: &'static str,
    /// From `new` to `old`.
    pub to_old: &'static str,
}

/// What was written lately, in [`Status`] (H11).
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecentStatus {
    /// The count in the reserved keys, raised while there are writes.
    pub count: u64,
    /// What `old` has confirmed.
    pub old: Option<u64>,
    /// What `new` has confirmed.
    pub new: Option<u64>,
    /// For so long back the keys written are known, milliseconds. A server that has gone back further is copied as a whole.
    pub reaches_back_ms: u64,
    /// Times that a server was found to have gone back to an earlier state.
    pub forgotten: u64,
    /// Keys that were doubted because they were written shortly before a server was lost.
    pub keys: u64,
    /// Some of them, of the last time, with their databases.
    pub samples: Vec<String>,
}

/// `GET /v1/backfill`: how far the copying of keys that are not known to be equal is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackfillStatus {
    /// `idle` (nothing is to be copied by itself: see `reason`), `running`, `paused`, `done` (every database is known to be equal, or its
    /// doubtful keys are in the ledger, and all that was copied has been restored), `failed` (what is left cannot be copied: see `reason`).
    pub state: &'static str,
    /// Why it is idle, or failed.
    pub reason: Option<String>,
    /// What it waits for while it runs; None: it goes on at its pace.
    pub waits_for: Option<String>,
    /// Keys of the primary that were walked and are known to be equal. What an earlier process walked is reckoned from the cursor.
    pub keys_done: u64,
    /// Keys of the primary that are to be walked, by its own count, at most a second old.
    pub keys_estimate: u64,
    /// Bytes of images sent to the mirror.
    pub bytes_done: u64,
    /// Keys in the last second.
    pub rate: u64,
    /// Bytes in the last second.
    pub bytes_per_second: u64,
    /// Seconds that are left at this rate.
    pub eta_s: Option<u64>,
    /// Keys per second at most; 0: as fast as the servers allow.
    pub rate_limit: u64,
    /// Bytes per second at most; 0: no bound.
    pub bytes_limit: u64,
    /// Keys that were walked and wait in the ledger for their image.
    pub waiting: u64,
    /// Databases that are being walked, or are to be.
    pub databases: Vec<WalkStatus>,
    /// Databases whose values are equal, and whose times to live are being set anew behind a flip.
    pub realigning: Vec<crate::endpoint::Db>,
}

/// The walk of one database in [`BackfillStatus`].
#[derive(Clone, Debug, Serialize)]
pub struct WalkStatus {
    /// Which.
    pub db: crate::endpoint::Db,
    /// The side that is walked now: the primary first, then the mirror, for keys that the primary does not have.
    pub walks: Endpoint,
    /// Keys of the primary that were walked.
    pub keys_done: u64,
    /// Of so many.
    pub keys_estimate: u64,
}

/// Repairs of keys that match a pattern, in [`Status`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairStatus {
    /// `idle`, `running`, or `done`.
    pub state: &'static str,
    /// The database and the pattern, of the one that runs or of the last one.
    pub db: crate::endpoint::Db,
    /// See `db`.
    pub pattern: String,
    /// Keys that matched and were put into the ledger.
    pub keys_marked: u64,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Do not cut over before it is mended.
    Block,
    /// Know it before.
    Warn,
    /// Good to know.
    Info,
}

/// One finding of `GET /v1/readiness`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub level: Level,
    /// What kind it is, a fixed word.
    pub code: &'static str,
    /// Of what it speaks: tells findings of one code apart.
    pub subject: String,
    /// The finding.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// Counters for `/metrics`; all are totals since start unless said otherwise.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Per command: name, class word, answered without error, answered with an error. Only rows with traffic.
    pub commands: Vec<(&'static str, &'static str, u64, u64)>,
    /// Mirror replies that differed from the primary's, per command.
    pub mismatches: Vec<(&'static str, u64)>,
    /// Keys that became dirty, per cause word.
    pub dirty_by_cause: Vec<(&'static str, u64)>,
    /// Keys healed by an image.
    pub repairs: u64,
    /// Images taken, for whatever reason.
    pub images: u64,
    /// Large keys copied in pieces; see [`CopyCounters`].
    pub copies: CopyCounters,
    /// Effects applied (confirmed by the mirror).
    pub effects: u64,
    /// Replies delivered before the mirror had confirmed under `ack = "both"`.
    pub ack_degraded: u64,
    /// Mirror refusals of the whole side, per first word of the error.
    pub side_refusals: Vec<(String, u64)>,
    /// Flips done and aborted.
    pub flips_done: u64,
    /// See `flips_done`.
    pub flips_aborted: u64,
    /// Sessions closed by us, per reason word.
    pub closed_sessions: Vec<(&'static str, u64)>,
    /// Sessions accepted.
    pub accepted_sessions: u64,
    /// Latency from sending to the reply, per side (old, new); see [`Latency`].
    pub latency: [Latency; 2],
    /// What verify did; see [`VerifyCounters`].
    pub verify: VerifyCounters,
    /// Times that a side was found to have gone back to an earlier state (old, new).
    pub forgotten: [u64; 2],
    /// What backfills did; see [`BackfillCounters`].
    pub backfill: BackfillCounters,
    /// Bytes read from clients and written to clients.
    pub client_bytes: (u64, u64),
}

/// Large keys since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyCounters {
    /// Pieces asked of the primary.
    pub pieces: u64,
    /// Copies in pieces that came to their end.
    pub done: u64,
    /// Copies in pieces that began anew, because of a write or of the mirror.
    pub restarts: u64,
    /// Large keys that were copied whole, because they are written all the time.
    pub whole: u64,
}

/// What verify did since the start, over all passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyCounters {
    /// Keys compared.
    pub compared: u64,
    /// Of those, keys that differed.
    pub differing: crate::divergence::Differing,
    /// Keys that could not be judged.
    pub unverifiable: u64,
    /// Passes that ended.
    pub passes: u64,
    /// The last result is clean, alive and fresh.
    pub proven: bool,
}

/// What backfills did since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackfillCounters {
    /// Keys of the primary that they walked.
    pub keys: u64,
    /// Bytes of images that they sent to the mirror.
    pub bytes: u64,
}

/// A latency histogram with fixed bounds.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Count per bucket; bucket `i` holds observations up to [`Latency::BOUNDS_US`]`[i]`, the last one everything above.
    pub buckets: [u64; Self::BOUNDS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: u64,
}

impl Latency {
    /// Upper bounds in microseconds.
    pub const BOUNDS_US: [u64; 18] = [
        50, 100, 200, 400, 700, 1_000, 1_500, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        5_000_000,
    ];

    /// Adds `count` observations of `us` microseconds.
    pub fn observe(&mut self, us: u64, count: u64) {
        let bucket = Self::BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket] += count;
        self.sum_us += us * count;
    }
}

/// How fast a backfill may be. None leaves a bound as it is, 0 stands for what is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackfillRates {
    /// Keys per second.
    pub keys: Option<u64>,
    /// Bytes of images per second.
    pub bytes: Option<u64>,
}

/// What an operator can ask of the sequencer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Move the primary role to `to`.
    Flip {
        /// The endpoint that becomes primary.
        to: Endpoint,
        /// Go on from the mirror although the primary lost its data (`force: ["primary-lost"]`).
        force_primary_lost: bool,
        /// Check the gate and change nothing.
        dry_run: bool,
    },
    /// Start mirroring.
    MirrorStart,
    /// Stop mirroring: everything becomes unsynced.
    MirrorStop {
        /// Confirms that the way back ends (needed while `new` is primary).
        lose_rollback: bool,
    },
    /// Accept that the primary lost its data: the mirror is made equal to it, deletions included.
    AcceptLoss,
    /// Compare every key of both sides.
    VerifyStart {
        /// Keys per second; 0: what the configuration says.
        rate: u64,
        /// Begin again whenever it has ended.
        continuous: bool,
    },
    /// Let the verify rest where it is.
    VerifyPause,
    /// Let it go on.
    VerifyResume,
    /// End it without a result.
    VerifyCancel,
    /// Compare another share of the reads, or others.
    Shadow(crate::shadow::ShadowChange),
    /// Copy what is not known to be equal, also where that does not begin by itself, and try again what could not be copied.
    BackfillStart(BackfillRates),
    /// Change how fast backfills may be, until the process ends.
    BackfillRate(BackfillRates),
    /// Let the backfill rest where it is.
    BackfillPause,
    /// Let it go on.
    BackfillResume,
    /// Delete the keys that the last verify found on the mirror alone.
    RepairExtras {
        /// How many they are, as the answer without it says.
        confirm: Option<u64>,
    },
    /// Copy the keys that the primary has and that match a pattern anew.
    RepairPattern {
        /// Their database.
        db: crate::endpoint::Db,
        /// As SCAN takes it.
        pattern: Vec<u8>,
    },
    /// Copy everything anew.
    RepairAll,
    /// Tell what is known of a key, and what both sides hold.
    Explain {
        /// Its database.
        db: crate::endpoint::Db,
        /// Its name.
        key: Vec<u8>,
    },
    /// Copy one key from the primary to the mirror anew.
    RepairKey {
        /// Its database.
        db: crate::endpoint::Db,
        /// Its name.
        key: Vec<u8>,
    },
}

/// Answer to an [`Operation`].
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A flip ended.
    Flipped {
        /// The primary now.
        primary: Endpoint,
        /// The epoch now.
        epoch: u64,
        /// Longest time any one request was held.
        pause_us: u64,
        /// Requests held.
        held_requests: u64,
    },
    /// Done; nothing more to say.
    Done,
    /// Nothing was done: these keys would be deleted, and the operator is to confirm how many they are.
    ToConfirm(crate::divergence::ExtraKeys),
    /// What is known of a key.
    Explained(Box<crate::explained::Explained>),
    /// Refused by the gate, or aborted within the budget: nothing changed. The reasons name their figures.
    Refused {
        /// One sentence each.
        reasons: Vec<String>,
        /// True when the flip had begun and was undone.
        aborted: bool,
    },
}
