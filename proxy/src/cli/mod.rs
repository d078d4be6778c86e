//! The command line: what an operator types. `serve` runs the proxy; `adopt` and `check-config` work on this machine; every
//! other verb is a request to the admin port of a running proxy.
//!
//! Exit codes are a contract: 0 done, 1 refused by a gate (or a start that refuses), 2 wrong use, 3 the proxy cannot be
//! reached, 4 failed or aborted.

mod adopt;
mod backfill;
mod client;
mod shadow;
mod table;
mod verify;

use crate::config::{Config, Layers, Mistakes, load};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves a live application from one Redis to another, without losing a write and with a way back.
#[derive(Debug, Parser)]
#[command(name = "twinlane", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused by a gate, 2 wrong use, 3 cannot reach the proxy, 4 failed or aborted.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the proxy.
    Serve(Box<ServeArgs>),
    /// Show how things stand.
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// List what stands against a cutover, or should be known before it; the exit code is 1 if something blocks.
    Readiness {
        #[command(flatten)]
        admin: AdminArgs,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Start or stop the mirroring.
    Mirror {
        #[command(flatten)]
        admin: AdminArgs,
        /// Which.
        #[command(subcommand)]
        action: MirrorAction,
    },
    /// Move the primary role to `new`.
    Cutover(FlipArgs),
    /// Move the primary role back to `old`.
    Rollback(FlipArgs),
    /// Copy what is not known to be equal, or tell the copying that is under way how to go on; with --wait the exit code is 0 done, 4 failed.
    Backfill(BackfillArgs),
    /// Compare every key of both sides at one position each; with --wait the exit code is 0 clean, 1 differences, 2 it could not tell.
    Verify(VerifyArgs),
    /// Copy one key anew, those that match a pattern, or everything; or delete what the last verify found on the mirror alone.
    Repair(RepairArgs),
    /// Compare a share of the clients' reads with the mirror at their position, or show what came of it.
    Shadow(ShadowArgs),
    /// List what is in doubt: keys, oldest first, and databases as a whole.
    Dirty {
        #[command(flatten)]
        admin: AdminArgs,
        /// Show keys in clear.
        #[arg(long)]
        reveal: bool,
        /// Keys at most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Tell what both sides hold of a key at one position, and everything that is known of it.
    Explain {
        #[command(flatten)]
        admin: AdminArgs,
        /// The key, as it is printed: \xNN is a byte, \\ a backslash.
        key: String,
        /// Its database.
        #[arg(long, default_value_t = 0)]
        db: u16,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// List what operators did, and what came of it, the youngest first.
    Audit {
        #[command(flatten)]
        admin: AdminArgs,
        /// Operations at most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// The primary lost its data and that is fine: make the mirror equal to it, deletions included.
    AcceptLoss {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Write a new record after the state directory was lost or the servers moved (the proxy must be stopped).
    Adopt(Box<AdoptArgs>),
    /// Check a configuration and print what it comes to, secrets left out.
    CheckConfig(Box<ServeArgs>),
}

/// Where the running proxy is.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Admin port of the running proxy.
    #[arg(long, global = true, value_name = "ADDR", env = "TWINLANE__ADMIN__ADDRESS", default_value = "127.0.0.1:6401")]
    admin: String,
}

/// Start or stop.
#[derive(Debug, Subcommand)]
pub enum MirrorAction {
    /// The other endpoint follows from now on.
    Start,
    /// It follows no more; everything becomes unsynced.
    Stop {
        /// Confirms that the way back ends (needed while `new` is primary).
        #[arg(long)]
        lose_rollback: bool,
    },
}

/// Options of cutover and rollback.
#[derive(Debug, Args)]
pub struct FlipArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Check the gate and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Override a gate by its name.
    #[arg(long, value_name = "GATE", value_parser = ["primary-lost"])]
    force: Vec<String>,
}

/// Options of backfill.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BackfillArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    rates: RateArgs,
    /// Stay until it has ended; one that is under way already is watched.
    #[arg(long)]
    wait: bool,
    /// The admin port's own JSON, for scripts.
    #[arg(long)]
    json: bool,
    /// What to tell it instead.
    #[command(subcommand)]
    action: Option<BackfillAction>,
}

/// How fast; what is not given stays as it is.
#[derive(Debug, Args)]
pub struct RateArgs {
    /// Keys per second at most; 0: what the configuration says.
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Bytes per second at most; 0: what the configuration says.
    #[arg(long, value_name = "N")]
    bytes_rate: Option<u64>,
}

/// What to tell a backfill.
#[derive(Debug, Subcommand)]
pub enum BackfillAction {
    /// Rest where it is.
    Pause {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Go on.
    Resume {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Go on at another rate.
    Rate {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        rates: RateArgs,
    },
    /// Show how it stands.
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        /// The admin port's own JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
}

/// Options of verify.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Stay until it has ended, and end with its verdict.
    #[arg(long)]
    wait: bool,
    /// Keys per second at most.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u64,
    /// Begin again whenever it has ended.
    #[arg(long)]
    continuous: bool,
    /// Begin nothing: show how it stands.
    #[arg(long, conflicts_with_all = ["wait", "rate", "continuous"])]
    show: bool,
    /// Begin nothing: let the one under way rest, go on, or end without a result.
    #[arg(long, value_name = "ACTION", value_parser = ["pause", "resume", "cancel"], conflicts_with_all = ["wait", "rate", "continuous", "show"])]
    tell: Option<String>,
    /// The admin port's own JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Options of repair.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["key", "pattern", "all", "delete_extra"]))]
pub struct RepairArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// The key to copy from the primary to the mirror, as it is printed: \xNN is a byte, \\ a backslash.
    key: Option<String>,
    /// Copy every key of the primary that matches, as SCAN MATCH takes it.
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Copy everything.
    #[arg(long, conflicts_with = "db")]
    all: bool,
    /// Its database.
    #[arg(long, default_value_t = 0)]
    db: u16,
    /// Delete the keys that the last verify found on the mirror alone. Without --confirm nothing is done but told.
    #[arg(long, conflicts_with = "db")]
    delete_extra: bool,
    /// How many they are, as the answer without it says.
    #[arg(long, value_name = "COUNT", requires = "delete_extra", conflicts_with_all = ["key", "pattern", "all"])]
    confirm: Option<u64>,
}

/// Options of shadow.
#[derive(Debug, Args)]
pub struct ShadowArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// The share from now on: 0.1 or 10%; 0 ends it. Without any option, nothing changes and the counts are shown.
    #[arg(value_parser = shadow::share)]
    share: Option<f64>,
    /// Only these commands, with commas between them; "" for all that can be compared.
    #[arg(long, value_name = "NAMES")]
    commands: Option<String>,
    /// Only reads of keys that begin with one of these, with commas between them; "" for all.
    #[arg(long, value_name = "PREFIXES")]
    prefixes: Option<String>,
    /// The admin port's own JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Options of serve; each one overrides the key of the config file that it names.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Where applications connect [listen.address].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where operators connect, loopback only [admin.address].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// What becomes of keys that `new` already holds at the first start [new_data].
    #[arg(long, value_parser = ["ask", "keep", "overwrite"])]
    new_data: Option<String>,
    /// What a primary that came back without its data means for the mirror [primary.on_loss].
    #[arg(long, value_parser = ["hold", "follow"])]
    on_primary_loss: Option<String>,
    /// When a write is answered [mirror.ack].
    #[arg(long, value_parser = ["primary", "both"])]
    ack: Option<String>,
    /// Shape of log lines [log.format].
    #[arg(long, value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// Log filter [log.level].
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// Any other key, as SECTION.KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// Which servers and which record.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// TOML file; config/twinlane.toml shows every option.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server the application comes from, redis:// or rediss:// [old.url]. Other users see passwords on a command line: prefer TWINLANE__OLD__PASSWORD.
    #[arg(long, value_name = "URL")]
    old: Option<String>,
    /// The server the application goes to [new.url].
    #[arg(long, value_name = "URL")]
    new: Option<String>,
    /// Where the record of who is primary lives [state_dir].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
}

/// Options of adopt.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Who is primary, when it is not what the newest record says.
    #[arg(long, value_parser = ["old", "new"])]
    primary: Option<String>,
    /// What becomes of keys that only `new` has.
    #[arg(long, value_parser = ["keep", "overwrite"])]
    new_data: Option<String>,
    /// Do it; without this, only show what would be done.
    #[arg(long)]
    yes: bool,
}

/// Exit codes.
pub(crate) mod exit {
    /// Refused by a gate, or a start that refuses.
    pub(crate) const REFUSED: u8 = 1;
    /// Wrong use, a mistake in the configuration.
    pub(crate) const USAGE: u8 = 2;
    /// The proxy cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// Failed or aborted.
    pub(crate) const FAILED: u8 = 4;
}

/// Does what every verb but `serve` asks for.
#[must_use]
pub fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Serve(_) => ExitCode::from(exit::USAGE), // `main` serves
        Verb::Status { admin, json } => client::status(&admin.admin, json),
        Verb::Readiness { admin, json } => client::readiness(&admin.admin, json),
        Verb::Mirror { admin, action: MirrorAction::Start } => client::post(&admin.admin, "/v1/mirror/start", &serde_json::json!({})),
        Verb::Mirror { admin, action: MirrorAction::Stop { lose_rollback } } => {
            client::post(&admin.admin, "/v1/mirror/stop", &serde_json::json!({"lose_rollback": lose_rollback}))
        }
        Verb::Cutover(args) => flip("/v1/cutover", &args),
        Verb::Rollback(args) => flip("/v1/rollback", &args),
        Verb::Backfill(args) => backfill::run(&args),
        Verb::Verify(args) => verify(&args),
        Verb::Repair(args) => repair(&args),
        Verb::Shadow(args) => shadow::run(&args),
        Verb::Dirty { admin, reveal, limit, json } => {
            client::page(&admin.admin, &format!("/v1/dirty?reveal={reveal}&limit={limit}"), json, table::dirty)
        }
        Verb::Explain { admin, key, db, json } => {
            client::page(&admin.admin, &format!("/v1/explain?db={db}&key={}", client::quoted(&key)), json, table::explained)
        }
        Verb::Audit { admin, limit, json } => client::page(&admin.admin, &format!("/v1/audit?limit={limit}"), json, table::audit),
        Verb::AcceptLoss { admin } => client::post(&admin.admin, "/v1/primary-loss/accept", &serde_json::json!({})),
        Verb::Adopt(args) => adopt::run(&args),
        Verb::CheckConfig(args) => check_config(&args),
    }
}

fn flip(path: &str, args: &FlipArgs) -> ExitCode {
    client::post(&args.admin.admin, path, &serde_json::json!({"dry_run": args.dry_run, "force": args.force}))
}

fn verify(args: &VerifyArgs) -> ExitCode {
    let admin = &args.admin.admin;
    match &args.tell {
        Some(action) => client::post(admin, &format!("/v1/verify/{action}"), &serde_json::json!({})),
        None if args.show => verify::show(admin, args.json),
        None => verify::begin(admin, args.rate, args.continuous, args.wait, args.json),
    }
}

fn repair(args: &RepairArgs) -> ExitCode {
    let body = match (&args.key, &args.pattern) {
        (Some(key), _) => serde_json::json!({"key": key, "db": args.db}),
        (None, Some(pattern)) => serde_json::json!({"pattern": pattern, "db": args.db}),
        (None, None) if args.all => serde_json::json!({"all": true}),
        (None, None) => return client::delete_extra(&args.admin.admin, args.confirm),
    };
    client::post(&args.admin.admin, "/v1/repair", &body)
}

impl ServeArgs {
    /// The configuration: file, environment, flags.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn config(&self) -> Result<Config, Mistakes> {
        let own = [
            ("listen.address", &self.listen),
            ("admin.address", &self.admin),
            ("new_data", &self.new_data),
            ("primary.on_loss", &self.on_primary_loss),
            ("mirror.ack", &self.ack),
            ("log.format", &self.log_format),
            ("log.level", &self.log_level),
        ];
        let mut flags = self.place.flags();
        flags.extend(given(&own));
        flags.extend(self.set.iter().cloned());
        load(&Layers::of_process(self.place.config.clone(), flags))
    }
}

impl PlaceArgs {
    fn flags(&self) -> Vec<(String, String)> {
        given(&[("old.url", &self.old), ("new.url", &self.new), ("state_dir", &self.state_dir)])
    }
}

fn given(flags: &[(&str, &Option<String>)]) -> Vec<(String, String)> {
    flags.iter().filter_map(|(key, value)| Some(((*key).to_owned(), (*value).clone()?))).collect()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write SECTION.KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn check_config(args: &ServeArgs) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("twinlane: {mistakes}");
            return ExitCode::from(exit::USAGE);
        }
    };
    if let Err(error) = config.targets() {
        eprintln!("twinlane: {error}");
        return ExitCode::from(exit::USAGE);
    }
    println!("{}", serde_json::to_string_pretty(&config).unwrap_or_default());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests;
