//! What a seed stands for: bounds, clients, latencies, and which faults strike when. Nothing here knows how they are carried out.

use twinlane_core::endpoint::Endpoint;
use twinlane_core::journal::RING_BYTES_MIN;
use twinlane_core::sequencer::{Ack, Faults, Settings};
use twinlane_core::shadow::MILLION;
use twinlane_model::Rng;
use twinlane_model::server::implements;

/// How histories are played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Rules of the core that are turned off, to show that it is noticed.
    pub faults: Faults,
    /// The simulated shell does not kill predecessors (H1).
    pub no_kill: bool,
    /// Every event is noted.
    pub trace: bool,
}

impl Options {
    /// Something of the core or the shell is turned off.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        self.no_kill || format!("{:?}", self.faults) != format!("{:?}", Faults::default())
    }
}

/// Something that goes wrong, or that an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One connection to a side breaks, so all of them are given up.
    LaneLost(Endpoint),
    /// The server's end closes: what it had not executed is gone.
    ServerCloses(Endpoint),
    /// The server restarts, with its data or without, and is away for a while.
    Restart { side: Endpoint, empty: bool, away_us: u64 },
    /// The server's state is kept, for [`Fault::GoesBack`].
    Remember(Endpoint),
    /// The server restarts with what it held when it was last remembered: a failover, a snapshot restored (H11).
    GoesBack { side: Endpoint, away_us: u64 },
    /// The server does nothing for a while, but its sockets stay.
    Freeze { side: Endpoint, us: u64 },
    /// The server takes no more connections for a while but those without which the side is not up.
    Full { side: Endpoint, us: u64 },
    /// Whoever is the mirror then refuses writes for a while.
    Refuse { us: u64 },
    /// Whoever is the primary then has used up its memory for a while.
    PrimaryFull { us: u64 },
    /// Whoever is the mirror then evicts a few keys.
    Evict,
    /// The operator moves the role; with a refusal that begins while the flip drains.
    Flip { refused: bool },
    /// The operator stops or starts the mirroring.
    Toggle,
    /// The proxy is killed and started again.
    ProxyDies,
    /// The machine below it loses its power: of what was not synced, any sector may be there or not.
    MachineDies,
    /// Some clients hang up.
    ClientsLeave,
    /// The operator begins a verify.
    Verify,
    /// The operator tells the backfill something.
    Backfill(Told),
    /// The operator has keys copied anew: those of a pattern, in this database, or all.
    Repair(Option<u16>),
}

/// What a backfill is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// To begin, at this many keys a second.
    Start(u64),
    /// To go on at this many keys and bytes a second.
    Rate(u64, u64),
    /// To rest.
    Pause,
    /// To go on.
    Resume,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Replays it.
    pub seed: u64,
    /// Bounds and switches of the core.
    pub settings: Settings,
    /// How many clients.
    pub clients: usize,
    /// How many subscribers.
    pub subscribers: usize,
    /// How many pairs of one who waits for a key and one who pushes.
    pub waiters: usize,
    /// How many databases the servers have.
    pub databases: usize,
    /// Rows of the command table whose invocations are used.
    pub rows: Vec<&'static str>,
    /// FLUSHALL, FLUSHDB and SWAPDB are used.
    pub barriers: bool,
    /// Scripts write keys that they do not declare. Where there is no backfill, a lane that is lost before it reported them leaves a doubt
    /// that nothing heals.
    pub undeclared: bool,
    /// Values are sometimes larger than a lane carries.
    pub large: bool,
    /// How long clients write.
    pub traffic_us: u64,
    /// Longest pause of a client between two pipelines.
    pub think_us: u64,
    /// Requests in a pipeline.
    pub pipeline: i64,
    /// Time of a piece on the wire, and what chance adds.
    pub latency_us: u64,
    /// See `latency_us`.
    pub jitter_us: u64,
    /// Time of one command on a server.
    pub service_us: u64,
    /// Pieces are cut at random places.
    pub fragment: bool,
    /// Clocks of the servers less ours, milliseconds.
    pub offsets_ms: [i64; 2],
    /// What strikes, and when.
    pub faults: Vec<(u64, Fault)>,
    /// Servers refuse CLIENT KILL.
    pub kill_refused: bool,
    /// `old` holds keys when the proxy starts.
    pub filled: bool,
    /// `new` holds other keys then, which may go.
    pub leftover: bool,
    /// No backfill: only what clients write is mirrored.
    pub import: bool,
    /// Bytes of the journal's ring, which outlives the proxy; None: there is no journal.
    pub journal: Option<usize>,
    /// The journal is synced before what it announces is sent.
    pub journal_synced: bool,
    /// Longest time the record takes to become durable.
    pub save_us: u64,
    /// Time between two looks at a side.
    pub probe_us: u64,
    /// The disk under the file of keys in doubt refuses now and then.
    pub disk_fails: bool,
    /// When all is quiet, differences are planted, and a verify must find these and no other.
    pub verified: bool,
    /// It is not a verify that finds them then, but a client that reads every planted key once.
    pub read_back: bool,
}

/// Rows that the model carries and the generators make for it.
fn usable_rows() -> Vec<&'static str> {
    // The last four are here for verify and copies in pieces, and clients of a history keep to what they used before.
    let whole = ["EVAL", "FLUSHALL", "FLUSHDB", "SWAPDB", "MEMORY USAGE", "SSCAN", "HSCAN", "ZSCAN"];
    let fits = |row: &&&str| implements(&row.to_ascii_lowercase().replace(' ', "|")) && !whole.contains(*row);
    twinlane_model::invocations::rows().iter().filter(fits).copied().collect()
}

/// In all histories but one of so many, replies to reads go to clients as they come, however short they are.
const KEPT_EVERY: u64 = 4;

/// In one history of so many, servers run out of connections.
const FULL_EVERY: u64 = 5;

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, options: &Options) -> Plan {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let r = &mut rng;
        let import = r.one_in(8);
        let databases = 1 + r.index(3);
        let all = usable_rows();
        let rows = (0..3 + r.index(5)).map(|_| all[r.index(all.len())]).collect();
        let traffic_us = 60_000 + r.below(500_000);
        let mut settings = Settings {
            synced_slots: 64,
            seed: [r.next_u64(), r.next_u64()],
            zombie_grace_us: 1_500_000,
            primary_wait_us: if r.one_in(3) { 400_000 } else { 5_000_000 },
            arm_max_us: 1_000_000,
            backfill: !import,
            image_bytes_max: 0,
            faults: options.faults,
            ..Settings::default()
        };
        if r.one_in(3) {
            settings.queue_bytes_max = 200 + r.index(4000);
        }
        if r.one_in(3) {
            settings.queue_age_max_us = 2_000 + r.below(100_000);
        }
        if !import && r.one_in(4) {
            settings.dirty_keys_max = 1 + r.index(12);
        }
        if r.one_in(4) {
            settings.ack = Ack::Both { timeout_us: 1_000 + r.below(100_000), strict: r.one_in(4) };
        }
        let large = r.one_in(4);
        if large {
            settings.lane_frame_max = 150 + r.index(300);
        }
        if r.one_in(6) {
            settings.request_bytes_max = 2_000;
        }
        if !seed.is_multiple_of(KEPT_EVERY) {
            settings.relay_bytes_min = 1 + (seed % 20) as usize;
        }
        let wide = |r: &mut Rng| {
            let most = if r.one_in(4) { 20_000 } else { 600 };
            r.below(most)
        };
        let clock = |r: &mut Rng| if r.one_in(3) { r.between(-40_000, 40_000) } else { 0 };
        let mut plan = Plan {
            seed,
            settings,
            clients: 2 + r.index(5),
            subscribers: r.index(3),
            waiters: r.index(2),
            databases,
            rows,
            barriers: !import && r.one_in(5),
            undeclared: !import,
            large,
            traffic_us,
            think_us: 3_000 + r.below(40_000),
            pipeline: 1 + r.between(0, 9),
            latency_us: 10 + r.below(300),
            jitter_us: 1 + wide(r),
            service_us: 1 + r.below(60),
            fragment: r.one_in(3),
            offsets_ms: [clock(r), clock(r)],
            faults: Vec::new(),
            kill_refused: r.one_in(12),
            filled: import || !r.one_in(3),
            leftover: !import && r.one_in(3),
            import,
            journal: None,
            journal_synced: false,
            save_us: if r.one_in(5) { 400_000 } else { 15_000 },
            probe_us: 50_000 + r.below(950_000),
            verified: false,
            read_back: false,
            disk_fails: false,
        };
        let count = r.index(7);
        for _ in 0..count {
            let at = r.below(traffic_us);
            if let Some(fault) = plan.draw_fault(r) {
                plan.faults.push((at, fault));
            }
        }
        if plan.subscribers > 0 && !import && r.one_in(2) {
            let at = r.below(traffic_us);
            plan.faults.push((at, Fault::Flip { refused: false }));
        }
        plan.journal = (!r.one_in(8)).then(|| if r.one_in(4) { RING_BYTES_MIN } else { 4 * RING_BYTES_MIN });
        let deaths = if import { 0 } else { r.index(3) };
        for _ in 0..deaths {
            let at = r.below(traffic_us);
            plan.faults.push((at, Fault::ProxyDies));
        }
        if databases > 1 && seed % FULL_EVERY == 3 {
            for _ in 0..1 + r.index(4) {
                let (at, side) = (r.below(traffic_us), Endpoint::BOTH[r.index(2)]);
                plan.faults.push((at, Fault::Full { side, us: 1_000 + r.below(600_000) }));
            }
        }
        plan.draw_disk();
        plan.draw_verifies(options);
        plan.draw_full();
        plan.draw_machine();
        plan.draw_way_back(options);
        plan.draw_backfills(options);
        plan.draw_pieces(options);
        plan.draw_repairs(options);
        plan
    }

    /// Drawn apart, as [`Plan::draw_verifies`].
    fn draw_way_back(&mut self, options: &Options) {
        let r = &mut Rng::new(self.seed ^ 0x6261_636b);
        if !options.is_faulty() && r.one_in(3) {
            self.settings.keepalive_us = 400_000 + r.below(1_000_000);
        }
        let wanted = !options.is_faulty() || options.faults.no_recent;
        if !wanted || self.import || !r.one_in(4) {
            return;
        }
        for _ in 0..1 + r.index(2) {
            let side = Endpoint::BOTH[r.index(2)];
            let at = r.below(self.traffic_us);
            let most = if r.one_in(3) { self.traffic_us } else { 150_000 };
            self.faults.push((at.saturating_sub(r.below(most)), Fault::Remember(side)));
            self.faults.push((at, Fault::GoesBack { side, away_us: r.below(300_000) }));
        }
    }

    /// Small keys are large, and copied in small pieces. Drawn apart for the same reason.
    fn draw_pieces(&mut self, options: &Options) {
        let r = &mut Rng::new(self.seed ^ 0x7069_6563_6573);
        if (options.is_faulty() && !options.faults.torn_copies) || !r.one_in(2) {
            return;
        }
        // The model says that a key takes 48 bytes and what it has.
        let most = if r.one_in(2) { 20 } else { 100 };
        self.settings.image_bytes_max = 50 + r.index(most);
        self.settings.piece_bytes = 1 + r.index(60);
        self.settings.piece_items = 1 + r.index(4);
    }

    /// Drawn apart, for the same reason as below: how much memory has room for, what the disk has, and when it refuses.
    fn draw_disk(&mut self) {
        let r = &mut Rng::new(self.seed ^ 0x6469_736b);
        self.settings.spill_slots = 1 << r.index(8);
        self.disk_fails = r.one_in(4);
        self.settings.spill_bytes_max = match r.below(6) {
            0 => 0,
            1 => 100 + r.below(2_000),
            _ => 1 << 20,
        };
    }

    /// Drawn apart, so that a seed's history is what it was before there was a verify. Where a rule is turned off there is none: it would heal
    /// what the missing rule left behind.
    fn draw_verifies(&mut self, options: &Options) {
        let r = &mut Rng::new(self.seed ^ 0x7665_7269_6679);
        if options.is_faulty() {
            return;
        }
        self.settings.verify_seen_slots = 1 << r.index(7);
        self.settings.verify_large_bytes = if r.one_in(2) { 60 + r.index(100) } else { 1 << 20 };
        // More dirty keys than the bound are a doubt of the whole database, which heals what was planted unseen.
        self.verified = r.one_in(3) && !self.kill_refused && self.settings.dirty_keys_max > 6;
        self.read_back = r.one_in(3);
        self.settings.shadow.per_million = [0, 0, MILLION / 100, MILLION / 3, MILLION, MILLION][r.index(6)];
        if r.one_in(3) && !self.kill_refused && !self.faults.iter().any(|(_, fault)| *fault == Fault::Evict) {
            for _ in 0..1 + r.index(3) {
                let at = r.below(self.traffic_us);
                self.faults.push((at, Fault::Verify));
            }
        }
    }

    /// Drawn apart, for the same reason. Databases are emptied and swapped on a full primary too.
    fn draw_full(&mut self) {
        let r = &mut Rng::new(self.seed ^ 0x6675_6c6c);
        if self.import || !r.one_in(6) {
            return;
        }
        self.barriers |= r.one_in(2);
        for _ in 0..1 + r.index(3) {
            let at = r.below(self.traffic_us);
            self.faults.push((at, Fault::PrimaryFull { us: 1_000 + r.below(300_000) }));
        }
    }

    /// Drawn apart, for the same reason.
    fn draw_machine(&mut self) {
        let r = &mut Rng::new(self.seed ^ 0x0070_6f77_6572);
        self.journal_synced = r.one_in(3);
        if !self.import && r.one_in(3) {
            for _ in 0..1 + r.index(2) {
                let at = r.below(self.traffic_us);
                self.faults.push((at, Fault::MachineDies));
            }
        }
    }

    /// Drawn apart, as verifies are.
    fn draw_backfills(&mut self, options: &Options) {
        let r = &mut Rng::new(self.seed ^ 0x6261_636b_6669_6c6c);
        if options.is_faulty() {
            return;
        }
        if r.one_in(4) {
            self.settings.backfill_rate_max = 500 + r.below(5_000);
        }
        if r.one_in(2) {
            for _ in 0..1 + r.index(5) {
                let told = match r.below(5) {
                    0 => Told::Start(r.below(3) * 700),
                    1 => Told::Rate(r.below(2) * (100 + r.below(3_000)), r.below(2) * (1_000 + r.below(100_000))),
                    2 => Told::Resume,
                    _ => Told::Pause,
                };
                let at = r.below(self.traffic_us);
                self.faults.push((at, Fault::Backfill(told)));
            }
        }
    }

    /// Drawn apart, as verifies are: a repair would heal what a missing rule left behind. Half of them come shortly before a flip.
    fn draw_repairs(&mut self, options: &Options) {
        let r = &mut Rng::new(self.seed ^ 0x7265_7061_6972);
        if options.is_faulty() || !r.one_in(3) {
            return;
        }
        for _ in 0..1 + r.index(3) {
            let flips = self.faults.iter().filter(|(_, fault)| matches!(fault, Fault::Flip { .. } | Fault::LaneLost(_)));
            let flips: Vec<u64> = flips.map(|(at, _)| *at).collect();
            let at = match flips.len() {
                0 => r.below(self.traffic_us),
                _ if r.one_in(2) => r.below(self.traffic_us),
                many => flips[r.index(many)].saturating_sub(r.below(20_000)),
            };
            let all = !self.import && r.one_in(6);
            let wish = (!all).then(|| r.index(self.databases) as u16);
            self.faults.push((at, Fault::Repair(wish)));
        }
    }

    fn draw_fault(&self, r: &mut Rng) -> Option<Fault> {
        let side = Endpoint::BOTH[r.index(2)];
        let fault = match r.below(24) {
            0..=4 => Fault::LaneLost(side),
            5 | 6 => Fault::ServerCloses(side),
            7 => Fault::Restart { side, empty: false, away_us: r.below(600_000) },
            8 => Fault::Restart { side, empty: true, away_us: r.below(600_000) },
            9..=11 => {
                let most = if r.one_in(3) { 1_500_000 } else { 100_000 };
                Fault::Freeze { side, us: 1_000 + r.below(most) }
            }
            12 | 13 => Fault::Refuse { us: 1_000 + r.below(400_000) },
            14 => Fault::Evict,
            15..=19 => Fault::Flip { refused: r.one_in(3) },
            20 => Fault::Toggle,
            21 => Fault::ProxyDies,
            _ => Fault::ClientsLeave,
        };
        let restarts = matches!(fault, Fault::Restart { .. } | Fault::Evict | Fault::Flip { .. } | Fault::Toggle | Fault::ProxyDies);
        (!(self.import && restarts)).then_some(fault)
    }
}
