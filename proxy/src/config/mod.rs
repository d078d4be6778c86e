//! What the operator wants: one TOML file, overridden by `TWINLANE__SECTION__KEY` environment variables, overridden by
//! flags. `config/twinlane.toml` is the reference of every option; a test holds it and these defaults equal.
//!
//! The hard case is a mistake in production: all mistakes are told at once, an unknown key is one of them (a misspelt
//! bound must not silently be the default), and no message shows a secret. This room checks values; it opens no socket.

mod check;
mod load;

pub use load::{Layers, Mistakes, load};

use crate::net::{NetError, ServerUrl, Target, TargetOptions};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twinlane_core::command::Table;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::limits::SHADOW_PREFIXES_MAX;
use twinlane_core::sequencer::{ScriptMode, can_be_shadowed};
use twinlane_core::shadow::{MILLION, ShadowWish};

/// Everything that can be configured, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the durable record lives; one process at a time.
    pub state_dir: PathBuf,
    /// What becomes of keys that `new` already holds at the very first start.
    pub new_data: NewDataChoice,
    /// The port that applications connect to.
    pub listen: Listen,
    /// The operator's port.
    pub admin: Admin,
    /// The endpoint the application comes from.
    pub old: Side,
    /// The endpoint the application goes to.
    pub new: Side,
    /// How the mirror follows.
    pub mirror: Mirror,
    /// What survives the process.
    pub journal: Journal,
    /// How keys that die on the primary are noticed.
    pub expiry: Expiry,
    /// What the operator says of scripts and functions.
    pub scripts: Scripts,
    /// How a flip is bounded.
    pub cutover: Cutover,
    /// How fast keys that are not known to be equal are copied.
    pub backfill: BackfillPace,
    /// How fast both sides are compared.
    pub verify: Verify,
    /// Which reads of clients are compared.
    pub shadow: Shadow,
    /// What happens when the primary fails.
    pub primary: Primary,
    /// Connections to both servers.
    pub upstream: Upstream,
    /// Bounds of memory.
    pub limits: Limits,
    /// What clients may ask for.
    pub commands: Commands,
    /// How the process writes its log.
    pub log: Log,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
    /// User that clients must name; empty means the default user.
    pub client_username: String,
    /// Password that clients must give; empty means none is asked for.
    pub client_password: Secret,
    /// File that holds it instead.
    pub client_password_file: PathBuf,
    /// Clients at one time; one more is answered as Redis does and closed.
    pub max_clients: usize,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port; loopback only.
    pub address: SocketAddr,
}

/// `[old]` and `[new]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Side {
    /// `redis://` or `rediss://`.
    pub url: ServerUrl,
    /// Password when the URL has none; meant for the environment.
    pub password: Secret,
    /// File that holds it instead.
    pub password_file: PathBuf,
    /// Certificates (PEM) trusted besides the system's.
    pub ca_file: PathBuf,
    /// Name in the certificate when it is not the URL's host.
    pub server_name: String,
}

/// `[mirror]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// When a write is answered.
    pub ack: Ack,
    /// Longest wait for the mirror under `ack = "both"`.
    pub ack_timeout_ms: u64,
    /// Past that: close the connection instead of delivering the primary's reply.
    pub ack_strict: bool,
    /// Bytes of effects that may wait for the mirror before they collapse into dirty keys.
    pub queue_bytes_max: usize,
    /// Age of the oldest unconfirmed effect before the same happens.
    pub queue_age_max_ms: u64,
    /// Added once to every relative TTL, so that the mirror never expires a key first.
    pub expiry_margin_ms: u64,
    /// Keys in doubt that are remembered in memory; past it the youngest go to the disk.
    pub dirty_keys_max: usize,
    /// Keys that take more bytes are copied in pieces; 0: none are.
    pub image_bytes_max: usize,
    /// Bytes of the file they go to; past it the database is in doubt as a whole.
    pub spill_bytes_max: u64,
    /// Keys in doubt that are repaired per second at most; 0: as many as the bounds of images allow.
    pub repair_rate_max: u64,
    /// FLUSHDB of a client.
    pub flushdb: Flush,
    /// FLUSHALL of a client.
    pub flushall: Flush,
    /// SWAPDB of a client.
    pub swapdb: Flush,
    /// Whether PUBLISH reaches the mirror.
    pub publish: bool,
    /// Whether a mirror in doubt as a whole is made equal by a scan.
    pub backfill: Backfill,
}

/// `[expiry]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expiry {
    /// Whether keyspace events that are off on the primary are turned on.
    pub enable_events: bool,
}

/// `[scripts]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scripts {
    /// Digests and function names, with commas between them, that are repeated on the mirror.
    pub replay: String,
    /// Those that write no key but the ones they declare.
    pub declared: String,
}

impl Scripts {
    /// By digest (lower case) or function name.
    #[must_use]
    pub fn modes(&self) -> std::collections::HashMap<Vec<u8>, ScriptMode> {
        let declared = names(&self.declared).map(|name| (name, ScriptMode::Declared));
        declared
            .chain(names(&self.replay).map(|name| (name, ScriptMode::Replay)))
            .map(|(name, mode)| (digest(name).into_bytes(), mode))
            .collect()
    }

    /// A name that stands in both lists.
    pub(super) fn twice(&self) -> Option<&str> {
        names(&self.replay).find(|name| names(&self.declared).any(|other| digest(other) == digest(name)))
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Digests count in any case; names of functions do not.
fn digest(name: &str) -> String {
    if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) { name.to_ascii_lowercase() } else { name.to_owned() }
}

/// `[cutover]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cutover {
    /// A flip is done or undone within this.
    pub pause_budget_ms: u64,
    /// The gate is shut above this lag.
    pub lag_max_ms: u64,
    /// Whether a cutover needs a verify.
    pub require_verify: RequireVerify,
}

/// `[backfill]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackfillPace {
    /// Keys copied per second at most; 0: no bound.
    pub rate_max: u64,
    /// Bytes of their images per second at most; 0: no bound.
    pub bytes_rate_max: u64,
}

/// `[verify]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// Keys compared per second at most; 0: no bound.
    pub rate_max: u64,
    /// Larger values are compared in pieces.
    pub large_bytes: usize,
}

/// `[shadow]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shadow {
    /// Share of the reads, 0 to 1.
    pub share: f64,
    /// Commands, with commas between them; empty: all that can be compared.
    pub commands: String,
    /// Prefixes of keys, with commas between them; empty: any key.
    pub prefixes: String,
}

/// `[primary]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Primary {
    /// What a primary that came back without its data means for the mirror.
    pub on_loss: OnLoss,
    /// How long commands not yet sent wait for a reconnection.
    pub wait_ms: u64,
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// A connection that has carried nothing for so long is asked with PING; 0: never.
    pub keepalive_s: u64,
}

/// `[journal]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Bytes of the ring, a power of two; 0: there is none.
    pub bytes: usize,
    /// What a machine that loses its power leaves.
    pub sync: Sync,
}

/// When the journal is synced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Never: it outlives the process and not the machine. Behind a start of the machine everything is copied anew.
    None,
    /// Every second: what the last second before a loss of power wrote may be unknown.
    Interval,
    /// Before what it announces is sent: a loss of power costs nothing, and every batch of writes waits for the disk.
    Always,
}

/// Whether a cutover needs a verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireVerify {
    /// It does not; readiness warns.
    Off,
    /// The last one must be clean, alive and fresh.
    Fresh,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Replies that may wait for one client.
    pub client_output_bytes_max: usize,
    /// The same of a client with subscriptions or MONITOR.
    pub subscriber_output_bytes_max: usize,
    /// Requests being received, all clients together.
    pub request_bytes_total_max: usize,
    /// Larger requests take a connection of their own.
    pub lane_frame_max: usize,
}

/// `[commands]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commands {
    /// Names of administrative commands that are carried all the same, with commas between them.
    pub allow: String,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, or `info,twinlane::start=debug`.
    pub level: String,
}

/// What becomes of keys that `new` already holds at the first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewDataChoice {
    /// Do not start; say what was found.
    Ask,
    /// Leave keys alone that only `new` has.
    Keep,
    /// Make `new` equal to `old`, deletions included.
    Overwrite,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When the primary has answered.
    Primary,
    /// When the mirror has confirmed, or the key is recorded as dirty.
    Both,
}

/// What becomes of a command that speaks of whole databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// Done on both sides at one position.
    Mirror,
    /// Refused before it reaches the primary.
    Refuse,
    /// Done on the primary only; the mirror keeps what it has, an alarm stands and the gate is shut until the operator goes on
    /// from the mirror or accepts it.
    Alarm,
}

/// Whether a mirror in doubt as a whole is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backfill {
    /// Whenever it is in doubt.
    Auto,
    /// Never; keys become equal as they are written.
    Off,
}

/// After a loss of the primary's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// The mirror keeps what the primary lost until the operator decides.
    Hold,
    /// The mirror follows the primary, deletions included.
    Follow,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The configuration of an endpoint.
    #[must_use]
    pub fn side(&self, endpoint: Endpoint) -> &Side {
        match endpoint {
            Endpoint::Old => &self.old,
            Endpoint::New => &self.new,
        }
    }

    /// Both endpoints, ready to connect to, indexed by [`Endpoint::index`].
    ///
    /// # Errors
    /// When a CA file or a server name cannot be used.
    pub fn targets(&self) -> Result<[Target; 2], NetError> {
        Ok([self.target(Endpoint::Old)?, self.target(Endpoint::New)?])
    }

    fn target(&self, endpoint: Endpoint) -> Result<Target, NetError> {
        let side = self.side(endpoint);
        let options = TargetOptions {
            url: &side.url,
            password: &side.password,
            ca_file: given(&side.ca_file),
            server_name: Some(side.server_name.as_str()).filter(|name| !name.is_empty()),
        };
        Target::new(endpoint, &options)
    }

    /// The rows that `commands.allow` names; a name that cannot be allowed instead.
    ///
    /// # Errors
    /// The first name that is not an administrative command, or one that is never carried.
    pub fn allowed_commands(&self) -> Result<Vec<usize>, String> {
        let names = self.commands.allow.split(',').map(|name| name.trim().to_ascii_uppercase()).filter(|name| !name.is_empty());
        names
            .map(|name| match Table::get().named(&name) {
                Some(command) if command.can_be_allowed() => Ok(command.index),
                _ => Err(name),
            })
            .collect()
    }

    /// What `[shadow]` says.
    ///
    /// # Errors
    /// A key and what is wrong with its value.
    pub fn shadow_wish(&self) -> Result<ShadowWish, String> {
        let Shadow { share, commands, prefixes } = &self.shadow;
        if !(0.0..=1.0).contains(share) {
            return Err(format!("shadow.share: {share} does not lie between 0 and 1"));
        }
        let row = |name: &str| {
            let name = name.to_ascii_uppercase();
            let command = Table::get().named(&name).filter(|_| can_be_shadowed(&name));
            command.map(|command| command.index).ok_or(format!("shadow.commands: `{name}` is no read whose replies can be compared"))
        };
        let prefixes: Vec<Vec<u8>> = names(prefixes).map(|prefix| prefix.as_bytes().to_vec()).collect();
        if prefixes.len() > SHADOW_PREFIXES_MAX {
            return Err(format!("shadow.prefixes: at most {SHADOW_PREFIXES_MAX}"));
        }
        Ok(ShadowWish {
            per_million: (share * f64::from(MILLION)).round() as u32,
            commands: names(commands).map(row).collect::<Result<_, _>>()?,
            prefixes,
        })
    }

    /// `wait_ms` of the primary as a duration.
    #[must_use]
    pub fn primary_wait(&self) -> Duration {
        Duration::from_millis(self.primary.wait_ms)
    }
}

/// A path that was configured.
fn given(path: &Path) -> Option<&Path> {
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: PathBuf::from("/var/lib/twinlane"),
            new_data: NewDataChoice::Ask,
            listen: Listen::default(),
            admin: Admin::default(),
            old: Side::default(),
            new: Side::default(),
            mirror: Mirror::default(),
            journal: Journal::default(),
            expiry: Expiry::default(),
            scripts: Scripts::default(),
            cutover: Cutover::default(),
            backfill: BackfillPace::default(),
            verify: Verify::default(),
            shadow: Shadow::default(),
            primary: Primary::default(),
            upstream: Upstream::default(),
            limits: Limits::default(),
            commands: Commands::default(),
            log: Log::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            address: SocketAddr::from(([127, 0, 0, 1], 6400)),
            client_username: String::new(),
            client_password: Secret::default(),
            client_password_file: PathBuf::new(),
            max_clients: 10_000,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Admin { address: SocketAddr::from(([127, 0, 0, 1], 6401)) }
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Mirror {
            ack: Ack::Primary,
            ack_timeout_ms: 1000,
            ack_strict: false,
            queue_bytes_max: 64 << 20,
            queue_age_max_ms: 500,
            expiry_margin_ms: 500,
            dirty_keys_max: 1_000_000,
            image_bytes_max: 1 << 20,
            spill_bytes_max: 1 << 30,
            repair_rate_max: 0,
            flushdb: Flush::Mirror,
            flushall: Flush::Mirror,
            swapdb: Flush::Mirror,
            publish: true,
            backfill: Backfill::Auto,
        }
    }
}

impl Default for Cutover {
    fn default() -> Self {
        Cutover { pause_budget_ms: 250, lag_max_ms: 100, require_verify: RequireVerify::Off }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Verify { rate_max: 0, large_bytes: 1 << 20 }
    }
}

impl Default for Primary {
    fn default() -> Self {
        Primary { on_loss: OnLoss::Hold, wait_ms: 5000 }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream { keepalive_s: 60 }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Journal { bytes: 64 << 20, sync: Sync::None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            client_output_bytes_max: 256 << 20,
            subscriber_output_bytes_max: 32 << 20,
            request_bytes_total_max: 1 << 30,
            lane_frame_max: 1 << 20,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, level: "info".into() }
    }
}

#[cfg(test)]
mod tests;
