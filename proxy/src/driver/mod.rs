//! The data thread: sockets on one side, the sequencer on the other, nothing decided here.
//!
//! Everything that touches data runs on this one thread, so the sequencer needs no lock and a turn (`turns.rs`) stays batched: all sockets
//! that are ready are read first, and then the lanes write what was appended, once each. What came is handed to the sequencer;
//! `Shell::flush` carries out what it wants done. Async code here is what a command does not wait for.

mod aside;
mod clients;
mod clock;
mod events;
mod lanes;
mod sides;
mod spill;
mod turns;

use crate::config::{self, Config};
use crate::control::{ControlReceiver, ControlRequest};
use crate::net::{self, Stream, Target};
use crate::start::start;
use crate::store::{NewData, Opened, Record, Store, instances, keep_verify, kept_verify, note_instances, open_journal};
use crate::upstream::conn::ServerInfo;
use anyhow::Context;
use clients::Clients;
use lanes::Lanes;
use mio::net::TcpListener;
use mio::{Interest, Poll};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use twinlane_core::divergence::VerifyResult;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::sequencer::{self, Action, Now, Sequencer, Settings};
use twinlane_core::status::Outcome;

/// What the tasks of the data thread share.
pub(crate) struct Shell {
    /// This very value, for tasks that are spawned from within it.
    itself: Weak<Shell>,
    core: RefCell<Sequencer>,
    clients: Clients,
    lanes: Lanes,
    targets: [Target; 2],
    store: Arc<Mutex<Store>>,
    /// The state directory.
    directory: PathBuf,
    answers: RefCell<HashMap<u64, oneshot::Sender<Outcome>>>,
    tickets: Cell<u64>,
    begun: Instant,
    /// The side tells another `run_id` on each connection.
    many_names: [Cell<bool>; 2],
    /// Where sockets are read into; used within one poll and never across a wait.
    buffer: RefCell<Box<[u8]>>,
    record: RefCell<Record>,
    /// Names this process among the connections to the servers.
    instance: String,
    /// It, and those that ran on this state directory before.
    ours: Vec<String>,
    /// What each side said it is, when it was last connected.
    met: [RefCell<Option<ServerInfo>>; 2],
    flushing: Cell<bool>,
    /// The loop ends behind its turn.
    stopping: Cell<bool>,
    /// Told to tasks that wait for a role to move or a side to be lost.
    standing: watch::Sender<Standing>,
    /// A flip waits for the event connection of a side.
    ping_events: [tokio::sync::Notify; 2],
    /// Events that are off are turned on.
    enable_events: bool,
    /// The journal's file, where it is synced before anything leaves, and up to which place it is.
    journal: Option<(std::fs::File, Cell<u64>)>,
    /// A connection beside the lanes to each side, between two questions.
    aside: [RefCell<Option<Stream>>; 2],
}

/// Which side answers, and the connection to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    primary: Endpoint,
    generations: [u64; 2],
}

impl Standing {
    fn of(core: &Sequencer) -> Standing {
        Standing { primary: core.primary(), generations: Endpoint::BOTH.map(|side| core.generation(side)) }
    }
}

/// Bytes read from a socket at a time.
const READ_BUFFER: usize = 128 * 1024;

/// Bytes for a client past which the others are written to first: the kernel needs its time to copy them.
const LARGE_OUTPUT: usize = 64 * 1024;

/// Serves until the process is told to stop.
///
/// # Errors
/// When serving is not safe, or the state directory fails.
pub fn run(config: Config, store: Store, control: ControlReceiver, stop: impl Future<Output = ()> + 'static) -> anyhow::Result<()> {
    // Its thread waits for the sockets and timers of tasks; what is done when they are ready is done on this one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("waits").enable_all().build()?;
    let _inside = runtime.enter();
    let tasks = LocalSet::new();
    let mut stop = Box::pin(stop);
    let begun = tasks.block_on(&runtime, async {
        tokio::select! {
            begun = begin(config, store, control) => begun.map(Some),
            () = &mut stop => Ok(None),
        }
    })?;
    let Some((shell, poll)) = begun else { return Ok(()) };
    let _spawning = tasks.enter();
    let stopped = shell.clone();
    spawn_local(async move {
        stop.await;
        stopped.stopping.set(true);
    });
    turns::serve(&shell, poll, tasks).context("the poll of the sockets")
}

/// Everything before the first client.
async fn begin(config: Config, mut store: Store, control: ControlReceiver) -> anyhow::Result<(Rc<Shell>, Poll)> {
    let instance = format!("{:08x}", random()?[0] as u32);
    let mut ours = instances(store.directory());
    ours.push(instance.clone());
    let started = start(&config, &mut store, &ours, &control).await?;
    note_instances(store.directory(), std::slice::from_ref(&instance)).context("the state directory")?;
    let settings = settings(&config, &started.record)?;
    let record = started.record;
    let addresses = [started.targets[0].address(), started.targets[1].address()];
    tracing::info!("primary is `{}` at epoch {}", record.primary, record.epoch);
    let distrust = (started.mirror_unsynced || started.primary_lost_data).then_some("a server has lost its data meanwhile");
    let (journal, journal_file) = match open_journal(store.directory(), &record.installation, &config.journal, distrust)? {
        Some(Opened { journal, left, file }) => (Some((journal, left)), Some(file)),
        None => (None, None),
    };
    let mut core = Sequencer::new(settings, core_record(&record), addresses, started.primary_lost_data, journal);
    if let Some(result) = kept_verify(store.directory(), &record.installation) {
        core.recall_verify(result);
    }
    let (standing, _) = watch::channel(Standing::of(&core));
    let listener = net::listen(config.listen.address).with_context(|| format!("listen.address {}", config.listen.address))?;
    let mut listener = TcpListener::from_std(listener);
    let poll = Poll::new().context("the poll of the sockets")?;
    let registry = || poll.registry().try_clone().context("the poll of the sockets");
    poll.registry().register(&mut listener, turns::LISTENER, Interest::READABLE).context("the poll of the sockets")?;
    let (clients, lanes) = (Clients::new(registry()?, listener, config.listen.max_clients), Lanes::new(registry()?, turns::FIRST_LANE));
    let synced = match (&journal_file, config.journal.sync) {
        (Some(file), config::Sync::Always) => Some((file.try_clone()?, Cell::new(0))),
        _ => None,
    };
    let shell = Rc::new_cyclic(|itself| Shell {
        itself: itself.clone(),
        core: RefCell::new(core),
        clients,
        lanes,
        targets: started.targets,
        directory: store.directory().to_owned(),
        store: Arc::new(Mutex::new(store)),
        answers: RefCell::default(),
        tickets: Cell::new(0),
        begun: Instant::now(),
        buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
        record: RefCell::new(record),
        instance,
        ours,
        met: Default::default(),
        many_names: Default::default(),
        flushing: Cell::new(false),
        stopping: Cell::new(false),
        standing,
        ping_events: [tokio::sync::Notify::new(), tokio::sync::Notify::new()],
        enable_events: config.expiry.enable_events,
        journal: synced,
        aside: [RefCell::new(None), RefCell::new(None)],
    });
    shell.flush();
    if let (Some(file), config::Sync::Interval) = (journal_file.as_ref(), config.journal.sync) {
        spawn_local(sync_every_second(shell.clone(), file.try_clone()?));
    }
    control.serving();
    tracing::info!("serving clients on {}", config.listen.address);
    spawn_local(operate(shell.clone(), control));
    Ok((shell, poll))
}

/// Carries out what the operator's side asks for.
async fn operate(shell: Rc<Shell>, mut control: ControlReceiver) {
    while let Some(request) = control.next().await {
        shell.control(request);
    }
    shell.stopping.set(true);
}

/// Makes the journal durable every second.
async fn sync_every_second(shell: Rc<Shell>, file: std::fs::File) {
    let file = Arc::new(file);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        shell.core.borrow_mut().seal_journal();
        let synced = file.clone();
        let outcome = tokio::task::spawn_blocking(move || synced.sync_data()).await;
        let failure = outcome.map_err(|error| error.to_string()).and_then(|synced| synced.map_err(|error| error.to_string())).err();
        shell.with(|core, _| core.handle_journal_synced(failure.as_deref()));
    }
}

impl Shell {
    fn now(&self) -> Now {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Now { us: self.begun.elapsed().as_micros() as u64, unix_ms }
    }

    /// Tells the sequencer something, and does what it wants done.
    fn with<T>(&self, tell: impl FnOnce(&mut Sequencer, Now) -> T) -> T {
        let told = tell(&mut self.core.borrow_mut(), self.now());
        self.flush();
        told
    }

    /// Writes what sessions are owed and what lanes have to send, carries out actions.
    fn flush(&self) {
        if self.flushing.replace(true) {
            return;
        }
        loop {
            let mut core = self.core.borrow_mut();
            let mut large = Vec::new();
            while let Some(id) = core.poll_session() {
                core.handle_session_polled(id);
                if core.output(id).len() > LARGE_OUTPUT {
                    large.push(id);
                } else {
                    self.clients.write(&mut core, id);
                }
            }
            large.into_iter().for_each(|id| self.clients.write(&mut core, id));
            if core.has_output_room() {
                core.handle_output_room(self.now());
            }
            if core.owes_sessions() {
                // What went on because there was room has replies of its own, and nothing else would write them.
                continue;
            }
            self.sync_journal(&mut core);
            while let Some(lane) = core.poll_lane() {
                core.handle_lane_polled(lane);
                self.lanes.serve(&mut core, lane, || self.now().us);
            }
            self.lanes.end_lingering(&mut core, || self.now().us);
            let Some(action) = core.poll_action() else { break };
            drop(core);
            self.act(action);
        }
        let standing = Standing::of(&self.core.borrow());
        self.standing.send_if_modified(|told| std::mem::replace(told, standing) != standing);
        self.flushing.set(false);
    }

    /// Under `journal.sync = "always"`: what was written into the journal is durable before the lanes send. It holds everything up, which
    /// is what the operator asked for.
    fn sync_journal(&self, core: &mut Sequencer) {
        let (Some((file, synced)), Some(changes)) = (&self.journal, core.journal_changes()) else { return };
        if synced.get() == changes {
            return;
        }
        core.seal_journal();
        let failure = file.sync_data().err();
        core.handle_journal_synced(failure.map(|error| error.to_string()).as_deref());
        synced.set(changes);
    }

    fn act(&self, action: Action) {
        let Some(shell) = self.itself.upgrade() else { return };
        match action {
            Action::ConnectSide { side, generation, predecessors, databases } => {
                self.lanes.drop_side(side);
                spawn_local(sides::connect(shell, side, generation, predecessors, databases));
            }
            Action::OpenLane { lane, generation } => {
                spawn_local(sides::open_lane(shell, lane, generation));
            }
            Action::CloseLane { lane } => self.lanes.drop_lane(lane),
            Action::AskAside { side, asked, frame } => {
                spawn_local(aside::ask(shell, side, asked, frame));
            }
            Action::PingEvents { side, .. } => self.ping_events[side.index()].notify_one(),
            Action::SaveRecord(record) => {
                spawn_local(save(shell, record));
            }
            Action::Spill { at, bytes } => {
                spawn_local(spill::write(shell, at, bytes));
            }
            Action::Unspill { at, len } => {
                spawn_local(spill::read(shell, at, len));
            }
            Action::VerifyEnded(result) => {
                spawn_local(keep(shell, result));
            }
            Action::Answer { ticket, outcome } => {
                if let Some(asker) = self.answers.borrow_mut().remove(&ticket) {
                    // An asker who hung up does not want it any more.
                    let _ = asker.send(outcome);
                }
            }
            Action::Log { warn: true, text } => tracing::warn!("{text}"),
            Action::Log { warn: false, text } => tracing::info!("{text}"),
        }
    }

    fn control(&self, request: ControlRequest) {
        match request {
            ControlRequest::Snapshot { answer } => {
                let core = self.core.borrow();
                let _ = answer.send((core.status(), core.counters()));
            }
            ControlRequest::Divergences { answer } => {
                let _ = answer.send(self.core.borrow().divergences().clone());
            }
            ControlRequest::Dirty { most, answer } => {
                let _ = answer.send(self.core.borrow().dirty(most));
            }
            ControlRequest::Operate { operation, answer } => {
                let ticket = self.tickets.get() + 1;
                self.tickets.set(ticket);
                self.answers.borrow_mut().insert(ticket, answer);
                self.with(|core, now| core.handle_operation(ticket, operation, now));
            }
        }
    }
}

/// Keeps what a verify found for the next process. It is for people, so a disk that refuses costs a line in the log.
async fn keep(shell: Rc<Shell>, result: VerifyResult) {
    let (directory, installation) = (shell.directory.clone(), shell.record.borrow().installation.clone());
    let kept = tokio::task::spawn_blocking(move || keep_verify(&directory, &installation, &result)).await;
    if let Some(error) = kept.map_err(std::io::Error::other).and_then(|kept| kept).err() {
        tracing::error!("what the verify found was not kept for the next process: {error}");
    }
}

/// Makes the record durable. If the outcome is unknown the proxy keeps holding and tries again; if it cannot know, it stops.
async fn save(shell: Rc<Shell>, record: sequencer::Record) {
    let mut durable = shell.record.borrow().clone();
    (durable.epoch, durable.primary, durable.mirroring) = (record.epoch, record.primary, record.mirroring);
    for attempt in 1..=SAVE_ATTEMPTS {
        let (store, wanted) = (shell.store.clone(), durable.clone());
        let saved = tokio::task::spawn_blocking(move || match store.lock() {
            Ok(mut store) => store.commit(&wanted).map_err(|error| error.to_string()),
            Err(_) => Err("the store's lock is poisoned".to_owned()),
        })
        .await;
        match saved {
            Ok(Ok(())) => {
                *shell.record.borrow_mut() = durable;
                return shell.with(|core, now| core.handle_record_saved(&record, now));
            }
            Ok(Err(error)) => tracing::error!("the record was not written (attempt {attempt}): {error}"),
            Err(error) => tracing::error!("the record was not written (attempt {attempt}): {error}"),
        }
        // A disk that was full or busy may have recovered behind a pause.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::error!(
        "nobody knows whether epoch {} is durable: stopping rather than guess; the next start obeys what is on disk",
        record.epoch
    );
    std::process::exit(1);
}

const SAVE_ATTEMPTS: u32 = 20;

fn core_record(record: &Record) -> sequencer::Record {
    let Record { installation, epoch, primary, mirroring, .. } = record.clone();
    sequencer::Record { installation, epoch, primary, mirroring }
}

fn random() -> anyhow::Result<[u64; 2]> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let (low, high) = bytes.split_at(8);
    Ok([u64::from_le_bytes(low.try_into()?), u64::from_le_bytes(high.try_into()?)])
}

fn policy(flush: config::Flush) -> sequencer::FlushPolicy {
    match flush {
        config::Flush::Mirror => sequencer::FlushPolicy::Mirror,
        config::Flush::Refuse => sequencer::FlushPolicy::Refuse,
        config::Flush::Alarm => sequencer::FlushPolicy::Alarm,
    }
}

/// The core's settings, from the configuration.
fn settings(config: &Config, record: &Record) -> anyhow::Result<Settings> {
    let mirror = &config.mirror;
    let password = config.listen.client_password.expose();
    Ok(Settings {
        expiry_margin_ms: mirror.expiry_margin_ms as i64,
        ack: match mirror.ack {
            config::Ack::Primary => sequencer::Ack::Primary,
            config::Ack::Both => sequencer::Ack::Both { timeout_us: mirror.ack_timeout_ms * 1000, strict: mirror.ack_strict },
        },
        queue_bytes_max: mirror.queue_bytes_max,
        queue_age_max_us: mirror.queue_age_max_ms * 1000,
        dirty_keys_max: mirror.dirty_keys_max,
        image_bytes_max: mirror.image_bytes_max,
        flush: [policy(mirror.flushdb), policy(mirror.flushall), policy(mirror.swapdb)],
        publish: mirror.publish,
        backfill: mirror.backfill == config::Backfill::Auto,
        pause_budget_us: config.cutover.pause_budget_ms * 1000,
        flip_lag_max_us: config.cutover.lag_max_ms * 1000,
        require_verify: config.cutover.require_verify == config::RequireVerify::Fresh,
        repair_rate_max: mirror.repair_rate_max,
        spill_bytes_max: mirror.spill_bytes_max,
        follow_loss: config.primary.on_loss == config::OnLoss::Follow,
        primary_wait_us: config.primary.wait_ms * 1000,
        client_output_max: config.limits.client_output_bytes_max,
        subscriber_output_max: config.limits.subscriber_output_bytes_max,
        request_bytes_max: config.limits.request_bytes_total_max,
        lane_frame_max: config.limits.lane_frame_max,
        clients_max: config.listen.max_clients,
        client_auth: (!password.is_empty()).then(|| (config.listen.client_username.clone().into_bytes(), password.as_bytes().to_vec())),
        allowed: config.allowed_commands().map_err(|name| anyhow::anyhow!("commands.allow: {name}"))?,
        scripts: config.scripts.modes(),
        keepalive_us: config.upstream.keepalive_s * 1_000_000,
        backfill_rate_max: config.backfill.rate_max,
        backfill_bytes_rate_max: config.backfill.bytes_rate_max,
        verify_rate_max: config.verify.rate_max,
        verify_large_bytes: config.verify.large_bytes,
        shadow: config.shadow_wish().map_err(anyhow::Error::msg)?,
        seed: random()?,
        new_data: if record.new_data == NewData::Keep { sequencer::NewData::Keep } else { sequencer::NewData::Ours },
        ..Settings::default()
    })
}
