//! The sequencer: the owner of the order. One value, driven by plain calls: bytes of clients and servers go in
//! (`handle_*`), bytes for sockets and [`Action`]s come out (`poll_*`). It waits for nothing.
//!
//! A command's way: `admit` takes it from the session's input and appends it to the primary's lane; `reply` meets the
//! answer, hands it to the session and derives the effect; `mirror` appends the effect to the mirror's lane and meets its
//! confirmation. Around that way stand `image` (healing), `parked` (sessions that wait for a key), `scan` (whole databases),
//! `flip` (moving the role) and `sides` (connections that come and go), `scripts` (writes that name no key), `expiry` (keys
//! that die) and `evicted` (keys that the primary gives up).

mod admit;
mod backfill;
mod busy;
mod client;
mod cursor;
mod evicted;
mod expiry;
mod explain;
mod feed;
mod fence;
mod findings;
mod flip;
mod handover;
mod image;
mod info;
mod intents;
mod lane;
mod learn;
mod local;
mod mirror;
mod opening;
mod own;
mod pace;
mod pair;
mod parked;
mod pause;
mod recent;
mod relay;
mod reply;
mod report;
mod scan;
mod scripts;
mod session;
mod shadow;
mod sides;
mod spilled;
mod track;
mod transaction;
mod verify;
mod watch;
mod wreck;
mod writes;

pub use busy::Asked;
pub use expiry::Events;
pub use lane::{LaneId, LaneInfo, Role};
pub use pair::Memory;
pub use scripts::ScriptMode;
pub use session::{Addresses, SessionId};
pub use shadow::can_be_shadowed;
pub use sides::{Bypassing, Eviction, Probe, SideUp};

use crate::doubt::Ledger;
use crate::endpoint::{Db, Endpoint};
use crate::journal::{Journal, Left};
use crate::limits;
use crate::resp::request::Spans;
use crate::spill::Spill;
use crate::status::{Latency, Operation, Outcome};
use crate::synced::Synced;
use fence::Fences;
use flip::Flip;
use mirror::Mirror;
use parked::Parked;
use pause::Pause;
use recent::Recent;
use scan::Scans;
use session::Sessions;
use sides::Side;
use std::collections::VecDeque;

/// The time at which an input arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds on a monotonic clock.
    pub us: u64,
    /// Unix milliseconds on our wall clock.
    pub unix_ms: i64,
}

/// When a client gets the reply to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When the primary has answered.
    Primary,
    /// When the mirror has confirmed the effect too, or `timeout_us` has passed.
    Both {
        /// Longest wait in microseconds.
        timeout_us: u64,
        /// Close the connection instead of delivering late.
        strict: bool,
    },
}

/// What happens to a command that speaks of whole databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Carried and mirrored like any write.
    Mirror,
    /// Refused with an error.
    Refuse,
    /// Carried and not mirrored: as if the primary had lost its data, the operator decides which side goes on.
    Alarm,
}

/// What the keys on `new` were when this installation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewData {
    /// There were none, or the operator said they may go: everything on the mirror was put there by this proxy.
    Ours,
    /// The operator keeps them: nothing on the mirror is deleted to match the primary.
    Keep,
}

/// Everything that is set from outside.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Added once to a remaining time to live, milliseconds (H2).
    pub expiry_margin_ms: i64,
    /// See [`Ack`].
    pub ack: Ack,
    /// Unconfirmed bytes towards the mirror, above which effects collapse into dirty keys.
    pub queue_bytes_max: usize,
    /// Age of the oldest unconfirmed effect, above which effects collapse into dirty keys.
    pub queue_age_max_us: u64,
    /// Dirty keys, above which a database is in doubt as a whole.
    pub dirty_keys_max: usize,
    /// See [`FlushPolicy`]: of FLUSHDB, FLUSHALL, SWAPDB.
    pub flush: [FlushPolicy; 3],
    /// Whether PUBLISH goes to the mirror too.
    pub publish: bool,
    /// Whether unsynced databases are scanned without being asked.
    pub backfill: bool,
    /// Keys that a backfill copies per second at most; 0: as fast as the servers allow.
    pub backfill_rate_max: u64,
    /// Bytes of images that it sends to the mirror per second at most; 0: no bound.
    pub backfill_bytes_rate_max: u64,
    /// Longest pause of a flip, microseconds.
    pub pause_budget_us: u64,
    /// Longest time a flip waits for the right moment before it holds anybody, microseconds.
    pub arm_max_us: u64,
    /// Lag of the mirror above which a flip does not begin to hold, microseconds.
    pub flip_lag_max_us: u64,
    /// Follow a primary that came back without its data, instead of holding.
    pub follow_loss: bool,
    /// How long commands wait for a lost primary before they are answered with an error, microseconds.
    pub primary_wait_us: u64,
    /// Unread reply bytes of one client above which it is disconnected.
    pub client_output_max: usize,
    /// The same of a client that is subscribed.
    pub subscriber_output_max: usize,
    /// Bytes of requests being received, over all clients.
    pub request_bytes_max: usize,
    /// A request above this many bytes does not travel on a lane that others share.
    pub lane_frame_max: usize,
    /// See [`limits::RELAY_BYTES_MIN`].
    pub relay_bytes_min: usize,
    /// Clients that may be connected at a time, as they are told; the shell sees to it.
    pub clients_max: usize,
    /// User name and password clients must give, if any.
    pub client_auth: Option<(Vec<u8>, Vec<u8>)>,
    /// Rows of refused commands that clients may use all the same; see [`Command::can_be_allowed`](crate::command::Command::can_be_allowed).
    pub allowed: Vec<usize>,
    /// What the operator says of scripts, by digest in lower case, and of functions, by name; see [`ScriptMode`].
    pub scripts: std::collections::HashMap<Vec<u8>, ScriptMode>,
    /// Seed of keyed hashes.
    pub seed: [u64; 2],
    /// Slots of the table of synced keys; see [`limits::SYNCED_SLOTS`].
    pub synced_slots: usize,
    /// See [`NewData`].
    pub new_data: NewData,
    /// How long keys in doubt are doubted again where a dead connection could not be killed, microseconds (H1).
    pub zombie_grace_us: u64,
    /// How long a connection to a server may carry nothing before it is asked with PING, microseconds; 0: for ever.
    pub keepalive_us: u64,
    /// Keys that take more bytes than this on the primary are copied in pieces; 0: none are.
    pub image_bytes_max: usize,
    /// Bytes of one piece, and elements.
    pub piece_bytes: usize,
    /// See `piece_bytes`.
    pub piece_items: usize,
    /// Keys that a verify compares per second at most; 0: as fast as the servers allow.
    pub verify_rate_max: u64,
    /// Values that take more bytes than this on the primary are compared in pieces.
    pub verify_large_bytes: usize,
    /// A cutover is refused without a verify that is fresh, clean and alive.
    pub require_verify: bool,
    /// Bytes of the file for keys in doubt past `dirty_keys_max`; 0: their databases are in doubt as a whole at once.
    pub spill_bytes_max: u64,
    /// See [`limits::SPILL_SLOTS`].
    pub spill_slots: usize,
    /// Keys repaired per second at most; 0: as many as the bounds of images allow.
    pub repair_rate_max: u64,
    /// See [`limits::VERIFY_SEEN_SLOTS`].
    pub verify_seen_slots: usize,
    /// Which reads of clients are compared, until the operator says otherwise.
    pub shadow: crate::shadow::ShadowWish,
    /// Switches that turn a rule off, so that tests can show that they would notice.
    pub faults: Faults,
}

/// Rules that can be turned off. Only tests do; production settings come from [`Settings::default`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// SPOP is replayed instead of rewritten.
    pub no_rewrite: bool,
    /// A mismatch marks nothing dirty.
    pub no_dirty: bool,
    /// Doubt does not spread (H13).
    pub no_contagion: bool,
    /// Unsynced keys are treated as synced (H36).
    pub no_unsynced: bool,
    /// The gate is not evaluated again behind the drain (H7).
    pub no_recheck: bool,
    /// Now and then an effect is held back and appended behind the next one.
    pub no_order: bool,
    /// What scripts are reported to have written is not doubted (H15).
    pub no_reports: bool,
    /// Plain writes that may have hidden a script's write from the report are replayed.
    pub no_ambiguity: bool,
    /// Nobody asks whether the mirror's key may be dead on the primary (H16).
    pub no_boundary: bool,
    /// Nothing is written into the journal before a request leaves.
    pub no_intents: bool,
    /// What a server may have forgotten is not doubted (H11).
    pub no_recent: bool,
    /// A write between two pieces of a large key does not end its copy (H33).
    pub torn_copies: bool,
    /// Waiters are not tried behind the write that can serve them, but later (H20).
    pub late_retries: bool,
    /// A flip hands watches over without a question whether anything watched was written (H37).
    pub no_question: bool,
}

impl Settings {
    /// The policy for a command, if it is one of those that have one.
    fn flush_policy(&self, rule: crate::command::Rule) -> FlushPolicy {
        use crate::command::Rule;
        match rule {
            Rule::FlushDb => self.flush[0],
            Rule::FlushAll => self.flush[1],
            Rule::SwapDb => self.flush[2],
            _ => FlushPolicy::Mirror,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            expiry_margin_ms: 500,
            ack: Ack::Primary,
            queue_bytes_max: 64 * 1024 * 1024,
            queue_age_max_us: 500_000,
            dirty_keys_max: 1_000_000,
            flush: [FlushPolicy::Mirror; 3],
            publish: true,
            backfill: true,
            backfill_rate_max: 0,
            backfill_bytes_rate_max: 0,
            pause_budget_us: 250_000,
            arm_max_us: 5_000_000,
            flip_lag_max_us: 100_000,
            follow_loss: false,
            primary_wait_us: 5_000_000,
            client_output_max: 256 * 1024 * 1024,
            subscriber_output_max: 32 * 1024 * 1024,
            request_bytes_max: 1024 * 1024 * 1024,
            lane_frame_max: 1024 * 1024,
            relay_bytes_min: limits::RELAY_BYTES_MIN,
            clients_max: 10_000,
            client_auth: None,
            allowed: Vec::new(),
            scripts: std::collections::HashMap::new(),
            seed: [0, 0],
            synced_slots: limits::SYNCED_SLOTS,
            new_data: NewData::Ours,
            zombie_grace_us: 60_000_000,
            keepalive_us: 60_000_000,
            image_bytes_max: 1024 * 1024,
            piece_bytes: limits::COPY_PIECE_BYTES,
            piece_items: limits::COPY_PIECE_ITEMS,
            verify_rate_max: 0,
            verify_large_bytes: 1024 * 1024,
            require_verify: false,
            spill_bytes_max: 1 << 30,
            spill_slots: limits::SPILL_SLOTS,
            repair_rate_max: 0,
            verify_seen_slots: limits::VERIFY_SEEN_SLOTS,
            shadow: crate::shadow::ShadowWish::default(),
            faults: Faults::default(),
        }
    }
}

/// The durable facts: who is primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// This installation, as written into the reserved key of both sides.
    pub installation: String,
    /// Version of the record.
    pub epoch: u64,
    /// Who answers clients.
    pub primary: Endpoint,
    /// Whether the other side follows.
    pub mirroring: bool,
}

impl Record {
    /// What the reserved key of a side holds. `count` is raised while there are writes (H11). `side` shows at a start that the names were swapped, even where addresses do not.
    #[must_use]
    pub fn mark(&self, side: Endpoint, count: u64) -> Vec<u8> {
        let Record { installation, epoch, primary, .. } = self;
        format!(r#"{{"count":{count},"epoch":{epoch},"installation":"{installation}","primary":"{primary}","side":"{side}"}}"#).into_bytes()
    }
}

/// The one reserved key that stays on each side, in database 0.
pub const RECORD_KEY: &[u8] = b"__twinlane:record";

/// Keys that clients may not touch begin with this.
pub const RESERVED_PREFIX: &[u8] = b"__twinlane:";

/// What the shell must do. Everything that needs a socket, a file or a person.
#[derive(Debug)]
pub enum Action {
    /// Connect to a side: kill `predecessors` there first, then open a lane for each database of `databases`; report with
    /// [`Sequencer::handle_side_up`], or [`Sequencer::handle_side_down`] when there is none for database 0. All older connections to the side are closed.
    ConnectSide {
        /// Which side.
        side: Endpoint,
        /// To be given back with every report.
        generation: u64,
        /// Connections whose bytes may still run on the server (H1).
        predecessors: Vec<LaneInfo>,
        /// Databases to open lanes for.
        databases: Vec<Db>,
    },
    /// Open one more lane; report with [`Sequencer::handle_lane_open`].
    OpenLane {
        /// Which lane.
        lane: LaneId,
        /// To be given back.
        generation: u64,
    },
    /// Close one lane's connection; nothing is reported of it any more.
    CloseLane {
        /// Which lane.
        lane: LaneId,
    },
    /// Send a PING on the event connection now; report with [`Sequencer::handle_events_alive`].
    PingEvents {
        /// Which side's.
        side: Endpoint,
        /// To be given back.
        generation: u64,
    },
    /// Send one request on a connection to the side of its own, which only authenticates and says HELLO: a server that is busy
    /// with a script takes nothing else. Report the reply with [`Sequencer::handle_aside`].
    AskAside {
        /// Which side.
        side: Endpoint,
        /// Who asks, to be given back.
        asked: Asked,
        /// The request.
        frame: Vec<u8>,
    },
    /// Make the record durable; report with [`Sequencer::handle_record_saved`].
    SaveRecord(Record),
    /// Write these bytes into the spill file, at this place; at its beginning it is emptied first. Report with [`Sequencer::handle_spilled`].
    Spill {
        /// Where.
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Read so many bytes of the spill file from this place on; report with [`Sequencer::handle_unspilled`].
    Unspill {
        /// Where.
        at: u64,
        /// How many.
        len: usize,
    },
    /// A verify has ended: what it found is worth keeping; hand it to the next process with [`Sequencer::recall_verify`].
    VerifyEnded(crate::divergence::VerifyResult),
    /// An operation has its answer.
    Answer {
        /// The ticket given with the operation.
        ticket: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Something an operator should read.
    Log {
        /// Needs attention.
        warn: bool,
        /// The sentence.
        text: String,
    },
}

/// Counters that only grow.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    commands: Vec<(u64, u64)>,
    mismatches: Vec<u64>,
    dirty: [u64; crate::doubt::Cause::ALL.len()],
    repairs: u64,
    images: u64,
    effects: u64,
    ack_degraded: u64,
    refusals: std::collections::BTreeMap<String, u64>,
    flips_done: u64,
    flips_aborted: u64,
    closed: std::collections::BTreeMap<&'static str, u64>,
    accepted: u64,
    requests: u64,
    latency: [Latency; 2],
    bytes_in: u64,
    bytes_out: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    settings: Settings,
    now: Now,
    record: Record,
    sessions: Sessions,
    sides: [Side; 2],
    mirror: Mirror,
    ledger: Ledger,
    copies: image::Copies,
    synced: Synced,
    scans: Scans,
    backfill: backfill::Backfill,
    flip: Option<Flip>,
    fences: Fences,
    parked: Parked,
    /// Place in the order: counts effects, images and losses.
    position: u64,
    /// The primary lost its data at this position and the operator has not decided.
    lost: Option<u64>,
    /// Requests are held for a flip.
    holding: bool,
    /// Requests wait because a client said so.
    pause: Option<Pause>,
    /// A record is being saved for something else than a flip.
    saving: VecDeque<(u64, Record)>,
    /// Keys in doubt because of a connection that may still be alive on its server (H1).
    zombies: Vec<(Db, Box<[u8]>)>,
    /// Such a connection is of an earlier process: what it may write is not known.
    zombies_unknown: bool,
    /// Effects that a mirror left in flight when its connection died.
    wreck: wreck::Wreck,
    /// A mark was refused: both are written again then, microseconds.
    marks_due: Option<u64>,
    /// Requests of a lost primary that are asked again on the new lanes.
    again: Vec<(LaneId, lane::InFlight, Vec<u8>)>,
    actions: VecDeque<Action>,
    /// A session waits for a connection of its own, and all are in use.
    own_wanted: bool,
    /// Numbers the connections of sessions' own.
    own_serial: u32,
    /// Sessions with a feed.
    feeds: std::collections::BTreeSet<SessionId>,
    /// Of those, the ones that track under NOLOOP.
    no_loop: std::collections::BTreeSet<SessionId>,
    touched_lanes: VecDeque<LaneId>,
    touched_sessions: VecDeque<SessionId>,
    alarms: Vec<String>,
    totals: Totals,
    scratch: Scratch,
    /// Frames on the mirror whose keys became doubtful while one of them was lent out.
    doubts: Vec<(LaneId, Vec<u8>, crate::doubt::Cause, u64)>,
    settling: bool,
    scripts: scripts::Scripts,
    busy: busy::Busy,
    /// The write that is being answered may have hidden a script's write of its key from the report.
    ambiguous: bool,
    expiry: expiry::Expiry,
    evicted: evicted::Evicted,
    intents: intents::Intents,
    recent: Recent,
    /// Whether each side's `DUMP` is taken by the other.
    images_carried: [Option<bool>; 2],
    /// Idle connections are looked for again then, microseconds.
    idle_look_at: u64,
    findings: Vec<crate::status::Finding>,
    writes: writes::Writes,
    spill: Spill,
    errands: spilled::Errands,
    wide: report::Wide,
    verify: verify::Verify,
    shadow: shadow::Shadow,
}

/// Buffers that are used again and again.
#[derive(Debug, Default)]
struct Scratch {
    spans: Spans,
    reply_spans: Spans,
    frames: Vec<u8>,
}

impl Sequencer {
    /// A sequencer that has yet to meet its servers. `addresses` of old and new are for people.
    #[must_use]
    pub fn new(
        settings: Settings,
        record: Record,
        addresses: [String; 2],
        primary_lost_data: bool,
        journal: Option<(Journal, Left)>,
    ) -> Sequencer {
        let table = crate::command::Table::get();
        let [old, new] = addresses;
        let writes = writes::Writes::new(settings.seed);
        let spill = Spill::new(settings.spill_slots, settings.seed);
        let verify = verify::Verify::new(settings.repair_rate_max);
        let mut sequencer = Sequencer {
            synced: Synced::new(settings.synced_slots, limits::DATABASES_MAX, settings.seed),
            ledger: Ledger::new(settings.seed),
            copies: image::Copies::default(),
            scans: Scans::default(),
            shadow: shadow::Shadow::new(settings.shadow.clone()),
            backfill: backfill::Backfill::new(settings.backfill_rate_max, settings.backfill_bytes_rate_max),
            settings,
            now: Now::default(),
            record,
            sessions: Sessions::default(),
            sides: [Side::new(Endpoint::Old, old), Side::new(Endpoint::New, new)],
            mirror: Mirror::default(),
            flip: None,
            fences: Fences::default(),
            parked: Parked::default(),
            position: 0,
            lost: None,
            holding: false,
            pause: None,
            saving: VecDeque::new(),
            zombies: Vec::new(),
            zombies_unknown: false,
            wreck: wreck::Wreck::default(),
            marks_due: None,
            again: Vec::new(),
            actions: VecDeque::new(),
            own_wanted: false,
            own_serial: 0,
            feeds: std::collections::BTreeSet::new(),
            no_loop: std::collections::BTreeSet::new(),
            touched_lanes: VecDeque::new(),
            touched_sessions: VecDeque::new(),
            alarms: Vec::new(),
            totals: Totals { commands: vec![(0, 0); table.rows().len()], mismatches: vec![0; table.rows().len()], ..Totals::default() },
            scratch: Scratch::default(),
            doubts: Vec::new(),
            settling: false,
            scripts: scripts::Scripts::default(),
            busy: busy::Busy::default(),
            ambiguous: false,
            expiry: expiry::Expiry::default(),
            evicted: evicted::Evicted::default(),
            intents: intents::Intents::default(),
            recent: Recent::default(),
            images_carried: [None; 2],
            idle_look_at: 0,
            findings: Vec::new(),
            writes,
            spill,
            errands: spilled::Errands::default(),
            wide: report::Wide::default(),
            verify,
        };
        if primary_lost_data {
            sequencer.primary_lost_data("it came back without its data while the proxy was not running");
        }
        // What the journal does not know is walked.
        sequencer.scans.want_all(sequencer.settings.new_data == NewData::Ours);
        if let Some((journal, left)) = journal {
            sequencer.intents.journal = Some(journal);
            sequencer.take_over(left);
        }
        sequencer.note_spill();
        for side in Endpoint::BOTH {
            sequencer.connect(side);
        }
        sequencer
    }

    /// The next thing the shell must do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Lanes that have bytes to write since the last call, in the order in which they came to have them: what two clients send one after the other on lanes
    /// of one server is to leave in that order.
    pub fn poll_lane(&mut self) -> Option<LaneId> {
        self.touched_lanes.pop_front()
    }

    /// Sessions that have bytes to write, or are to be closed, since the last call, in the order in which they were answered.
    pub fn poll_session(&mut self) -> Option<SessionId> {
        self.touched_sessions.pop_front()
    }

    /// Whether [`Sequencer::poll_session`] has something to tell.
    #[must_use]
    pub fn owes_sessions(&self) -> bool {
        !self.touched_sessions.is_empty()
    }

    /// Time passes: bounds of age and waiting are looked at. Every 10 milliseconds is right.
    pub fn handle_tick(&mut self, now: Now) {
        self.now = now;
        self.tick_wreck();
        self.tick_mirror();
        self.tick_acks();
        self.tick_ended();
        self.tick_pause();
        self.tick_parked();
        self.tick_sides();
        self.tick_scripts();
        self.tick_busy();
        self.tick_verify();
        self.tick_backfill();
        self.tick_repairs();
        self.tick_intents();
        self.tick_recent();
        self.tick_idle();
        self.settle();
    }

    /// The endpoint that answers clients.
    #[must_use]
    pub fn primary(&self) -> Endpoint {
        self.record.primary
    }

    fn mirror_side(&self) -> Endpoint {
        self.record.primary.other()
    }

    /// The operator asks for something; the answer comes as [`Action::Answer`] with the same ticket.
    pub fn handle_operation(&mut self, ticket: u64, operation: Operation, now: Now) {
        self.now = now;
        self.clear_wreck();
        match operation {
            Operation::Flip { to, force_primary_lost, dry_run } => self.begin_flip(ticket, to, force_primary_lost, dry_run),
            Operation::MirrorStart => self.set_mirroring(ticket, true, false),
            Operation::MirrorStop { lose_rollback } => self.set_mirroring(ticket, false, lose_rollback),
            Operation::AcceptLoss => self.accept_loss(ticket),
            Operation::VerifyStart { rate, continuous } => self.start_verify(ticket, rate, continuous),
            Operation::VerifyPause => self.pause_verify(ticket, true),
            Operation::VerifyResume => self.pause_verify(ticket, false),
            Operation::VerifyCancel => self.cancel_verify(ticket),
            Operation::Shadow(change) => self.change_shadow(ticket, change),
            Operation::BackfillStart(rates) => self.start_backfill(ticket, rates),
            Operation::BackfillRate(rates) => self.set_backfill_rate(ticket, rates),
            Operation::BackfillPause => self.pause_backfill(ticket, true),
            Operation::BackfillResume => self.pause_backfill(ticket, false),
            Operation::RepairExtras { confirm } => self.repair_extras(ticket, confirm),
            Operation::RepairKey { db, key } => self.repair_key(ticket, db, key),
            Operation::RepairPattern { db, pattern } => self.repair_pattern(ticket, db, pattern),
            Operation::RepairAll => self.repair_all(ticket),
            Operation::Explain { db, key } => self.tell_key(ticket, db, &key),
        }
        self.settle();
    }

    fn answer(&mut self, ticket: u64, outcome: Outcome) {
        self.actions.push_back(Action::Answer { ticket, outcome });
    }

    fn refuse(&mut self, ticket: u64, reason: impl Into<String>) {
        self.answer(ticket, Outcome::Refused { reasons: vec![reason.into()], aborted: false });
    }

    fn log(&mut self, warn: bool, text: impl Into<String>) {
        self.actions.push_back(Action::Log { warn, text: text.into() });
    }

    fn alarm(&mut self, text: &str) {
        if !self.alarms.iter().any(|alarm| alarm == text) {
            self.alarms.push(text.to_owned());
            self.log(true, text);
        }
    }

    fn clear_alarm(&mut self, start: &str) {
        self.alarms.retain(|alarm| !alarm.starts_with(start));
    }

    fn next_position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    /// What follows from what has just happened, until nothing more does: waiting sessions, repairs, scans, barriers, the flip.
    fn settle(&mut self) {
        if std::mem::replace(&mut self.settling, true) {
            return;
        }
        loop {
            // Sessions whose barriers follow one another would leave no moment for reads of ours: those come first between two of them.
            let mut moved =
                self.fences.take_fallen() && (self.pump_copies() | self.pump_repairs() | self.pump_scans() | self.pump_verify());
            moved |= self.pump_parked();
            moved |= self.pump_sessions();
            moved |= self.pump_fences();
            moved |= self.pump_mirror();
            moved |= self.pump_scripts();
            moved |= self.pump_reports();
            moved |= self.pump_copies();
            moved |= self.pump_repairs();
            moved |= self.pump_spill();
            moved |= self.pump_scans();
            moved |= self.pump_verify();
            moved |= self.pump_shadow();
            moved |= self.pump_sweep();
            moved |= self.pump_flip();
            if !moved {
                break;
            }
        }
        self.pump_wreck();
        self.settling = false;
    }
}
