//! The contended workload: clients that fight over a dozen keys of every family while the primary role moves.
//!
//! This is the checker behind "an application notices nothing": [`table`] says what Redis can answer, a
//! [`player`] per client sends and checks, and a task beside them flips. The run is good only if not one reply
//! was a surprise, not one connection was lost and every flip was done. Whether both servers are equal
//! afterwards is the comparer's question, not this room's.

pub mod player;
pub mod table;

use crate::admin::{Admin, Direction, Flip};
use crate::client::Client;
use crate::resp::Value;
use anyhow::{Context, Result};
use player::Player;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use table::{COMMANDS, Selection, Table};

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` of the data port.
    pub target: String,
    /// `host:port` of the admin port, if there is one.
    pub admin: Option<String>,
    /// How long the clients write.
    pub seconds: f64,
    /// How many clients.
    pub clients: usize,
    /// Contended keys of each family.
    pub keys: u64,
    /// When to flip.
    pub flips: Vec<PlannedFlip>,
    /// How long a refused flip is asked for again.
    pub patience: Duration,
    /// 2, 3, or 0 for one after the other.
    pub resp: u8,
    /// Same seed, same commands per client.
    pub seed: u64,
    /// Tells this run's own keys from an earlier run's.
    pub run: u64,
    /// Average pause between a client's pipelines.
    pub think_ms: u64,
    /// MULTI blocks too.
    pub multi: bool,
    /// An optimistic lock that all clients fight for, too.
    pub watch: bool,
    /// How rare SWAPDB and FLUSHDB are: one in so many of one per cent of the commands.
    pub flush_one_in: u64,
    /// Which families.
    pub selection: Selection,
}

/// `cutover@5`: a flip at a time of the run.
#[derive(Debug, Clone, Copy)]
pub struct PlannedFlip {
    /// Which way.
    pub direction: Direction,
    /// Seconds from the start.
    pub at_seconds: f64,
}

/// Reads `cutover@5,rollback@10`.
pub fn parse_flips(text: &str) -> Result<Vec<PlannedFlip>> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (verb, at) = part.trim().split_once('@').context("a flip is VERB@SECONDS")?;
            let direction = match verb {
                "cutover" => Direction::Cutover,
                "rollback" => Direction::Rollback,
                other => anyhow::bail!("{other:?} is neither cutover nor rollback"),
            };
            Ok(PlannedFlip { direction, at_seconds: at.parse().context("seconds")? })
        })
        .collect()
}

/// What happened.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// Nothing unexpected, nobody disconnected, every flip done.
    pub good: bool,
    /// The seed, to run it again.
    pub seed: u64,
    /// Replies received and checked; those inside an EXEC are counted in `checked_rows` too.
    pub replies: u64,
    /// Replies checked against a row of the table.
    pub checked_rows: u64,
    /// Pipelines sent.
    pub pipelines: u64,
    /// Replies that the table does not allow.
    pub unexpected_replies: u64,
    /// Replies on own keys, counters and marks that were not the one that is right.
    pub wrong_own_replies: u64,
    /// Unexpected replies by command.
    pub unexpected_by_command: BTreeMap<String, u64>,
    /// Connections lost or refused.
    pub disconnects: u64,
    /// The longest time any pipeline took, in milliseconds.
    pub longest_wait_ms: f64,
    /// EXECs under WATCH that succeeded.
    pub watched_raises: i64,
    /// EXECs under WATCH that were answered nil.
    pub watched_refused: i64,
    /// The flips, in order.
    pub flips: Vec<Flip>,
    /// Rows of the table that took part.
    pub rows: usize,
    /// Rows that were never answered but by an error: they proved little.
    pub rows_never_successful: Vec<String>,
    /// The first surprises in full.
    pub stories: Vec<String>,
}

/// How many surprises are printed in full; the rest are counted.
const STORIES_MAX: usize = 60;
/// How many stream ids the clients share.
const IDS_MAX: usize = 64;

/// What the clients of one run share. One thread, so a cell and no lock.
#[derive(Debug, Default)]
pub struct Shared {
    report: Report,
    successes: Vec<u64>,
    watched_raises: i64,
    ids: Vec<Vec<u8>>,
    next_id: usize,
}

impl Shared {
    fn seen(&mut self, row: usize, error: bool) {
        self.report.checked_rows += 1;
        self.successes[row] += u64::from(!error);
    }

    fn remember_id(&mut self, id: Vec<u8>) {
        if self.ids.len() < IDS_MAX {
            self.ids.push(id);
        } else {
            self.ids[self.next_id] = id;
            self.next_id = (self.next_id + 1) % IDS_MAX;
        }
    }

    fn surprised(&mut self, command: &[u8], own: bool, story: String) {
        let name = String::from_utf8_lossy(command.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        *self.report.unexpected_by_command.entry(name).or_default() += 1;
        if own {
            self.report.wrong_own_replies += 1;
        } else {
            self.report.unexpected_replies += 1;
        }
        self.tell(story);
    }

    fn disconnected(&mut self, story: String) {
        self.report.disconnects += 1;
        self.tell(story);
    }

    fn tell(&mut self, story: String) {
        if self.report.stories.len() < STORIES_MAX {
            eprintln!("UNEXPECTED {story}");
            self.report.stories.push(story);
        }
    }
}

/// Runs the workload on a runtime of its own thread (`current_thread`, inside a `LocalSet`).
pub async fn run(mut options: Options) -> Result<Report> {
    let mut client = Client::connect(&options.target, 2).await?;
    options.selection.version = server_version(&mut client).await?;
    if options.selection.has("function") && options.selection.version >= (7, 0) {
        let reply = client.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", table::FUNCTIONS.as_bytes()]).await?;
        anyhow::ensure!(reply == Value::Bulk(b"loadtest".to_vec()), "FUNCTION LOAD answered {reply}");
    }
    let table = Rc::new(Table::parse(COMMANDS, &options.selection)?);
    let shas = match player::load_scripts(&mut client).await {
        Ok(shas) => Rc::new(shas),
        Err(error) if options.selection.without.iter().any(|name| name == "evalsha") => {
            eprintln!("no scripts: {error:#}");
            Rc::default()
        }
        Err(error) => return Err(error),
    };
    let shared = Rc::new(RefCell::new(Shared { successes: vec![0; table.rows.len()], ..Shared::default() }));
    let options = Rc::new(options);
    let start = Instant::now();
    let deadline = start + Duration::from_secs_f64(options.seconds);
    let mut tasks = Vec::new();
    for id in 0..options.clients {
        let resp = if options.resp == 0 { 2 + (id % 2) as u8 } else { options.resp };
        let player = Player::new(id, resp, table.clone(), options.clone(), shared.clone(), shas.clone());
        tasks.push(tokio::task::spawn_local(player.play(deadline)));
    }
    let flips = flip_as_planned(&options, start).await;
    for task in tasks {
        task.await?;
    }
    if options.watch {
        check_watched(&options, &shared).await?;
    }
    let shared = shared.borrow();
    let mut report = shared.report.clone();
    report.flips = flips;
    report.seed = options.seed;
    report.rows = table.rows.len();
    let never = table.rows.iter().zip(&shared.successes).filter(|(row, successes)| **successes == 0 && row.can_succeed());
    report.rows_never_successful = never.map(|(row, _)| row.text.clone()).collect();
    report.good = report.unexpected_replies == 0
        && report.wrong_own_replies == 0
        && report.disconnects == 0
        && report.replies > 0
        && report.flips.len() == options.flips.len()
        && report.flips.iter().all(|flip| flip.done);
    Ok(report)
}

/// The watched counter must equal the raises that were answered. (After a disconnect an EXEC may have run
/// without an answer, so then it may be larger.)
async fn check_watched(options: &Options, shared: &RefCell<Shared>) -> Result<()> {
    let mut client = Client::connect(&options.target, 2).await?;
    let reply = client.ask(&[b"GET", &player::watched_key(options.run)]).await?;
    let mut shared = shared.borrow_mut();
    shared.report.watched_raises = shared.watched_raises;
    let counted = match &reply {
        Value::Bulk(text) => crate::resp::number(text)?,
        _ => 0,
    };
    if counted != shared.watched_raises && shared.report.disconnects == 0 {
        let story = format!("the watched counter is {counted} after {} answered raises", shared.watched_raises);
        shared.surprised(b"EXEC (watched)", true, story);
    }
    Ok(())
}

async fn flip_as_planned(options: &Options, start: Instant) -> Vec<Flip> {
    let Some(admin) = options.admin.as_ref().map(Admin::new) else {
        return Vec::new();
    };
    let mut flips = Vec::new();
    for planned in &options.flips {
        let at = start + Duration::from_secs_f64(planned.at_seconds);
        tokio::time::sleep_until(at.into()).await;
        let flip = admin.flip(planned.direction, options.patience).await;
        eprintln!("flip {flip:?}");
        flips.push(flip);
    }
    flips
}

/// The server's version from INFO, as far as rows depend on it. A Valkey answers with the Redis version it is
/// compatible with.
async fn server_version(client: &mut Client) -> Result<(u32, u32)> {
    let info = match client.ask(&[b"INFO", b"server"]).await? {
        Value::Bulk(text) | Value::Verbatim(text) => String::from_utf8_lossy(&text).into_owned(),
        other => anyhow::bail!("INFO answered {other:?}"),
    };
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("7.0.0");
    let mut parts = version.split('.').map(|part| part.trim().parse().unwrap_or(0));
    Ok((parts.next().unwrap_or(7), parts.next().unwrap_or(0)))
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "contended: {}\n  replies checked      {} ({} pipelines, {} rows of the table, seed {})\n  unexpected replies   {}\n  wrong own replies    {}\n  disconnects          {}\n  longest wait         {:.1} ms\n",
            if self.good { "good" } else { "NOT GOOD" },
            self.replies,
            self.pipelines,
            self.rows,
            self.seed,
            self.unexpected_replies,
            self.wrong_own_replies,
            self.disconnects,
            self.longest_wait_ms,
        );
        if self.watched_raises + self.watched_refused > 0 {
            text += &format!("  EXECs under WATCH    {} done, {} answered nil\n", self.watched_raises, self.watched_refused);
        }
        for flip in &self.flips {
            text += &format!(
                "  {:<20} {} pause {:.2} ms, {} held, took {:.0} ms, {} refusals {}\n",
                format!("{:?}", flip.direction).to_lowercase(),
                if flip.done { "done" } else { "FAILED" },
                flip.pause_ms,
                flip.held_requests,
                flip.took_ms,
                flip.refusals,
                flip.answer.as_deref().unwrap_or(""),
            );
        }
        for (command, count) in &self.unexpected_by_command {
            text += &format!("  unexpected {command:<12} {count}\n");
        }
        if !self.rows_never_successful.is_empty() {
            text += &format!("  rows answered by errors only: {}\n", self.rows_never_successful.join("; "));
        }
        text
    }
}
