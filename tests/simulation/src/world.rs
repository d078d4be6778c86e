//! The world of one history: a heap of events in virtual time, the sequencer, two sites, clients, an operator.

use crate::audience::{Subscriber, Waiter};
use crate::check::differing;
use crate::client::{Client, Rules};
use crate::plan::{Fault, Options, Plan, Told};
use crate::shell::{BASE_MS, Site};
use crate::{Summary, commands};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use twinlane_core::endpoint::{Db, Endpoint};
use twinlane_core::journal::{HEADER_BYTES, Journal, Known, Left, Opening, Pages};
use twinlane_core::sequencer::{Ack, Action, Addresses, LaneId, LaneInfo, Now, RECORD_KEY, Record, Sequencer, SessionId, SideUp};
use twinlane_core::status::{BackfillRates, Operation, Outcome};
use twinlane_model::server::OOM;
use twinlane_model::{ConnId, Rng};

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    /// Time passes for the sequencer.
    Tick,
    /// A client sends its next pipeline, or connects.
    Act {
        client: usize,
    },
    /// A subscriber says something, or connects.
    Listen {
        subscriber: usize,
    },
    /// A waiter and its pusher do something, or connect.
    Wait {
        waiter: usize,
    },
    /// A piece reaches the proxy.
    FromClient {
        client: usize,
        life: u32,
        bytes: Vec<u8>,
    },
    /// A lane's socket is written.
    Write(LaneId),
    /// A piece reaches a server.
    Feed {
        side: Endpoint,
        conn: ConnId,
        bytes: Vec<u8>,
    },
    /// The server learns that we closed a connection.
    HangUp {
        side: Endpoint,
        conn: ConnId,
    },
    /// A server executes.
    Step(Endpoint),
    /// A piece of a reply reaches the proxy.
    Receive {
        side: Endpoint,
        conn: ConnId,
        bytes: Vec<u8>,
    },
    /// We learn that the server closed a connection.
    EndOfFile {
        side: Endpoint,
        conn: ConnId,
    },
    /// Handshake, first half.
    Ask {
        side: Endpoint,
        generation: u64,
        predecessors: Vec<LaneInfo>,
        databases: Vec<Db>,
        process: u32,
        since: u64,
    },
    /// Handshake, second half.
    Open {
        side: Endpoint,
        generation: u64,
        databases: Vec<Db>,
        up: Box<SideUp>,
        process: u32,
    },
    /// One more lane.
    OpenLane {
        id: LaneId,
        generation: u64,
        process: u32,
    },
    /// The regular look at a side.
    Look {
        side: Endpoint,
        generation: u64,
        process: u32,
    },
    /// The record is durable.
    Saved {
        record: Record,
        process: u32,
    },
    Spilled {
        at: usize,
        bytes: Vec<u8>,
        fails: bool,
        process: u32,
    },
    Unspilled {
        at: usize,
        len: usize,
        process: u32,
    },
    /// Something goes wrong.
    Strike(Fault),
    /// A server accepts writes again.
    Accept(Endpoint),
    /// Differences are explained (I4).
    Explain,
    /// Traffic and faults have ended: is everything settled?
    Settle,
}

struct Timed {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.number == other.number
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// An operation without its answer.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    /// The flip was first seen holding.
    held_at: Option<u64>,
}

/// See the module.
pub struct World<'t> {
    pub plan: Plan,
    pub options: Options,
    pub rng: Rng,
    pub now: u64,
    pub core: Sequencer,
    pub sites: [Site; 2],
    pub rules: Rules,
    /// When the proxy's present life began: its clock counts from there.
    began: u64,
    /// Counts lives of the proxy.
    pub process: u32,
    /// Counts starts of the machine.
    boot: u32,
    /// Changes of the journal when it was synced last, and its bytes then.
    synced: (u64, Vec<u8>),
    /// The machine dies in the middle of the next sync.
    dies_in_sync: bool,
    clients: Vec<Client>,
    subscribers: Vec<Subscriber>,
    waiters: Vec<Waiter>,
    durable: Record,
    /// A record that is being written.
    saving: Option<Record>,
    /// The file of keys in doubt that memory has no room for.
    pub spilled: Vec<u8>,
    events: BinaryHeap<Reverse<Timed>>,
    number: u64,
    pub tickets: u64,
    pending: Option<Pending>,
    /// How long the record of the pending operation takes to write.
    save_us: u64,
    /// Traffic has ended.
    over: bool,
    pub broken: Option<String>,
    trace: &'t mut Vec<String>,
    pub summary: Summary,
    /// Keys that the mirror held when the primary lost its data and that no client has named.
    kept: Option<Vec<(usize, Vec<u8>)>>,
    flushing: bool,
    quiet_since: Option<u64>,
    /// What is planted and looked for when all is quiet.
    pub finale: crate::verified::Finale,
    /// What `old` held when the proxy started.
    initial: Vec<twinlane_model::server::Db>,
}

/// Virtual time in which everything must settle once nothing goes wrong any more (I5). Two handshakes with their retries, the
/// grace time of connections that could not be killed, the trials of a refusing mirror and a few scans are about ten seconds.
const SETTLE_US: u64 = 60_000_000;

/// Remaining times to live may differ by the margin and by the time an effect was late.
const TTL_TOLERANCE_MS: u64 = 60_000;

/// Whether the next process would doubt this key.
fn names(left: &Left, world: &World<'_>, db: Db, key: &[u8]) -> bool {
    let Left::Known { facts, keys, spilled } = left else { return true };
    // It believes nothing of another server, of one that has lost its mark, or has evicted keys since.
    let known = |side: Endpoint| {
        let server = &world.sites[side.index()].server;
        let evicted = facts.evicted_keys[side.index()].is_some_and(|before| before != server.evicted_keys);
        facts.run_ids[side.index()] == server.run_id() && server.dbs[0].contains_key(RECORD_KEY) && !evicted
    };
    // What a walk has not reached is not equal either.
    let unsure = matches!(facts.databases[usize::from(db)], Known::Nothing | Known::Walked { .. });
    let named = || keys.iter().any(|(other, named)| *other == db && named == key) || world.spill_names(*spilled, db, key);
    unsure || !Endpoint::BOTH.into_iter().all(known) || named()
}

fn open_journal(pages: Pages, boot: u32, synced: bool) -> (Journal, Left) {
    let boot = boot.to_string();
    let opening = Opening { installation: "simulation", file: [0; 3], boot: &boot, synced };
    Journal::open(pages, &opening).unwrap_or_else(|| unreachable!("the plan draws rings of a right size"))
}

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;

impl<'t> World<'t> {
    pub fn new(plan: Plan, options: &Options, trace: &'t mut Vec<String>) -> World<'t> {
        let mut rng = Rng::new(plan.seed);
        let record = Record { installation: "simulation".into(), epoch: 1, primary: Endpoint::Old, mirroring: true };
        let mut sites = [0, 1].map(|at| Site::new(&mut rng, plan.databases, plan.offsets_ms[at]));
        if plan.settings.image_bytes_max > 0 {
            sites.iter_mut().for_each(|site| site.server.small_value = 3);
        }
        for (site, filled) in sites.iter_mut().zip([plan.filled, plan.leftover]) {
            let clock = site.clock_ms(0);
            let filling = if filled { commands::fill(&mut rng) } else { Vec::new() };
            for command in filling {
                let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                site.server.run(0, &words, clock);
            }
            // The start of the real proxy leaves its mark on both sides before it serves.
            site.server.run(0, &[b"SET", RECORD_KEY, b"mark"], clock);
        }
        let rules = Rules { own: !plan.barriers, strict: matches!(plan.settings.ack, Ack::Both { strict: true, .. }), ..Rules::default() };
        let journal = plan.journal.map(|ring| open_journal(Box::new(vec![0u8; HEADER_BYTES + ring]), 1, plan.journal_synced));
        let core = Sequencer::new(plan.settings.clone(), record.clone(), ["old:1".into(), "new:2".into()], false, journal);
        let initial = sites[0].server.snapshot();
        let subscribers = (0..plan.subscribers).map(|_| Subscriber::default()).collect();
        let waiters = (0..plan.waiters).map(|_| Waiter::default()).collect();
        let clients = (0..plan.clients).map(|index| Client::new(index, plan.databases)).collect();
        World {
            plan,
            options: *options,
            rng,
            now: 0,
            core,
            sites,
            rules,
            began: 0,
            process: 1,
            boot: 1,
            synced: (0, Vec::new()),
            dies_in_sync: false,
            clients,
            subscribers,
            waiters,
            durable: record,
            saving: None,
            spilled: Vec::new(),
            events: BinaryHeap::new(),
            number: 0,
            tickets: 0,
            pending: None,
            save_us: 0,
            over: false,
            broken: None,
            trace,
            summary: Summary::default(),
            kept: None,
            flushing: false,
            quiet_since: None,
            finale: crate::verified::Finale::default(),
            initial,
        }
    }

    /// Plays it to its end.
    pub fn play(mut self) -> Result<Summary, String> {
        self.note_plan();
        self.at(0, Event::Tick);
        for client in 0..self.clients.len() {
            let at = self.rng.below(40_000);
            self.at(at, Event::Act { client });
        }
        for subscriber in 0..self.subscribers.len() {
            let at = self.rng.below(40_000);
            self.at(at, Event::Listen { subscriber });
        }
        for waiter in 0..self.waiters.len() {
            let at = self.rng.below(40_000);
            self.at(at, Event::Wait { waiter });
        }
        for (at, fault) in self.plan.faults.clone() {
            self.at(at, Event::Strike(fault));
        }
        // Drawn apart: how often one looks changes nothing else.
        let looks = &mut Rng::new(self.plan.seed ^ 0x6c6f_6f6b);
        for _ in 0..20 {
            let at = looks.below(self.plan.traffic_us + 1_000_000);
            self.at(at, Event::Explain);
        }
        self.at(self.plan.traffic_us, Event::Settle);
        self.flush();
        while self.broken.is_none()
            && let Some(Reverse(timed)) = self.events.pop()
        {
            self.now = timed.at;
            if self.happen(timed.event) {
                break;
            }
            if self.core.primary() != self.durable.primary {
                self.violate(format!("I8: `{}` is the primary, the durable record says `{}`", self.core.primary(), self.durable.primary));
            }
        }
        let counters = self.core.counters();
        self.summary.virtual_us = self.now;
        self.summary.replies = self.rules.replies;
        (self.summary.heard, self.summary.served, self.summary.watched) = (self.rules.heard, self.rules.served, self.rules.watched);
        self.summary.shadowed[0] += self.core.status().shadow.total.compared();
        (self.summary.images, self.summary.effects) = (self.summary.images + counters.images, self.summary.effects + counters.effects);
        match self.broken {
            None => Ok(self.summary),
            Some(what) => Err(what),
        }
    }

    fn note_plan(&mut self) {
        if self.options.trace {
            let plan = format!("{:?}", self.plan);
            self.note(|| plan);
        }
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse(Timed { at: at.max(self.now), number: self.number, event }));
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.options.trace {
            self.trace.push(format!("{:>9} us  {}", self.now, text()));
        }
    }

    pub fn violate(&mut self, what: String) {
        self.note(|| format!("BROKEN: {what}"));
        self.broken.get_or_insert(what);
    }

    pub fn clock(&self) -> Now {
        Now { us: self.now - self.began, unix_ms: BASE_MS + (self.now / 1000) as i64 }
    }

    /// True when the history is over.
    fn happen(&mut self, event: Event) -> bool {
        if self.options.trace && !matches!(event, Event::Tick | Event::Step(_) | Event::Write(_) | Event::Settle | Event::Look { .. }) {
            let text = match &event {
                Event::FromClient { client, bytes, .. } => format!("client {client} -> proxy: {}", bytes.escape_ascii()),
                Event::Feed { side, conn, bytes } => format!("proxy -> `{side}` #{conn}: {}", bytes.escape_ascii()),
                Event::Receive { side, conn, bytes } => format!("`{side}` #{conn} -> proxy: {}", bytes.escape_ascii()),
                other => format!("{other:?}"),
            };
            self.note(|| text);
        }
        match event {
            Event::Tick => self.tick(),
            Event::Act { client } => self.act(client),
            Event::Listen { subscriber } => self.listen(subscriber),
            Event::Wait { waiter } => self.wait(waiter),
            Event::FromClient { client, life, bytes } => self.hear_client(client, life, &bytes),
            Event::Write(id) => self.write_lane(id),
            Event::Feed { side, conn, bytes } => self.feed(side, conn, &bytes),
            Event::HangUp { side, conn } => self.sites[side.index()].server.hang_up(conn),
            Event::Step(side) => self.step(side),
            Event::Receive { side, conn, bytes } => self.receive(side, conn, &bytes),
            Event::EndOfFile { side, conn } => self.end_of_file(side, conn),
            Event::Ask { side, generation, predecessors, databases, process, since } if process == self.process => {
                self.ask(side, generation, predecessors, databases, since);
            }
            Event::Open { side, generation, databases, up, process } if process == self.process => {
                self.open(side, generation, &databases, *up);
            }
            Event::OpenLane { id, generation, process } if process == self.process => self.open_lane(id, generation),
            Event::Look { side, generation, process } if process == self.process => self.look(side, generation),
            Event::Saved { record, process } if process == self.process => self.saved(record),
            Event::Spilled { at, bytes, fails, process } if process == self.process => self.written(at, &bytes, fails),
            Event::Unspilled { at, len, process } if process == self.process => self.unspill(at, len),
            Event::Ask { .. } | Event::Open { .. } | Event::OpenLane { .. } | Event::Look { .. } => {}
            Event::Saved { .. } | Event::Spilled { .. } | Event::Unspilled { .. } => {}
            Event::Strike(fault) => self.strike(fault),
            Event::Accept(side) => {
                let server = &mut self.sites[side.index()].server;
                (server.refuse_with, server.full) = (None, false);
            }
            Event::Explain => self.explain(),
            Event::Settle => return self.settle(),
        }
        false
    }

    fn tick(&mut self) {
        let clock = self.clock();
        self.core.handle_tick(clock);
        self.flush();
        self.watch_hold();
        self.watch_verify();
        self.at(self.now + 10_000, Event::Tick);
    }

    /// Notes when a flip begins to hold: the status tells it at most one tick late.
    fn watch_hold(&mut self) {
        let now = self.now;
        if let Some(pending) = &mut self.pending
            && pending.held_at.is_none()
            && matches!(self.core.status().flip, "draining" | "committing")
        {
            pending.held_at = Some(now);
        }
        self.check_hold(now);
    }

    fn check_hold(&mut self, now: u64) {
        let budget = self.plan.settings.pause_budget_us + self.save_us + 25_000;
        if let Some(held_at) = self.pending.as_ref().and_then(|pending| pending.held_at)
            && now > held_at + budget
        {
            self.violate(format!("I9: a flip holds clients for {} us, its budget is {budget} us with the record's time", now - held_at));
        }
    }

    /// What the sequencer wants done, as `Shell::flush` does it.
    pub fn flush(&mut self) {
        if std::mem::replace(&mut self.flushing, true) {
            return;
        }
        loop {
            while let Some(id) = self.core.poll_session() {
                self.core.handle_session_polled(id);
                if let Some(client) = self.clients.iter().position(|client| client.session == Some(id)) {
                    self.tell_client(client);
                } else {
                    self.tell_audience(id);
                }
            }
            let clock = self.clock();
            self.core.handle_output_room(clock);
            if self.sync_journal() && std::mem::take(&mut self.dies_in_sync) {
                self.flushing = false;
                return self.proxy_dies(true);
            }
            while let Some(lane) = self.core.poll_lane() {
                self.core.handle_lane_polled(lane);
                self.wake_lane(lane);
            }
            let Some(action) = self.core.poll_action() else { break };
            self.carry_out(action);
        }
        self.flushing = false;
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::ConnectSide { side, generation, predecessors, databases } => self.connect(side, generation, predecessors, databases),
            Action::OpenLane { lane, generation } => {
                let at = self.now + self.rng.below(3_000);
                self.at(at, Event::OpenLane { id: lane, generation, process: self.process });
            }
            Action::CloseLane { lane } => self.close_lane(lane),
            Action::SaveRecord(record) => self.save(record),
            // The simulated servers send no keyspace events.
            Action::PingEvents { .. } => {}
            // Their scripts end before anybody else is heard, as those of a server within its time limit do.
            Action::AskAside { asked, .. } => {
                let now = self.clock();
                self.core.handle_aside(asked, Ok(b"+PONG\r\n"), now);
            }
            Action::VerifyEnded(_) => {}
            Action::Spill { at, bytes } => self.spill(at as usize, bytes),
            Action::Unspill { at, len } => {
                let after = self.now + self.rng.below(2_000);
                self.at(after, Event::Unspilled { at: at as usize, len, process: self.process });
            }
            Action::Answer { ticket, outcome } => self.answered(ticket, &outcome),
            Action::Log { warn, text } => self.note(|| format!("{} {text}", if warn { "WARN" } else { "info" })),
        }
    }

    fn save(&mut self, record: Record) {
        if record.epoch != self.durable.epoch + 1 || self.saving.is_some() {
            self.violate(format!("I8: epoch {} is to follow {}", record.epoch, self.durable.epoch));
        }
        self.save_us = 100 + self.rng.below(self.plan.save_us);
        self.saving = Some(record.clone());
        self.at(self.now + self.save_us, Event::Saved { record, process: self.process });
    }

    fn saved(&mut self, record: Record) {
        self.note(|| format!("durable: {record:?}"));
        self.durable = record.clone();
        self.saving = None;
        let clock = self.clock();
        self.core.handle_record_saved(&record, clock);
        self.flush();
    }

    fn operate(&mut self, operation: Operation) {
        self.note(|| format!("the operator: {operation:?}"));
        self.tickets += 1;
        self.save_us = 0;
        self.pending = Some(Pending { ticket: self.tickets, held_at: None });
        let clock = self.clock();
        self.core.handle_operation(self.tickets, operation, clock);
        self.flush();
    }

    fn answered(&mut self, ticket: u64, outcome: &Outcome) {
        self.note(|| format!("the operator's answer: {outcome:?}"));
        self.check_hold(self.now);
        if ticket > crate::verified::ASIDE {
            return;
        }
        let expected = self.pending.take().map(|pending| pending.ticket);
        if expected != Some(ticket) {
            self.violate(format!("I9: an answer to ticket {ticket}, expected {expected:?}"));
        }
        if let Outcome::Flipped { primary, epoch, pause_us, .. } = *outcome {
            self.summary.flips += 1;
            let budget = self.plan.settings.pause_budget_us + self.save_us + 25_000;
            if pause_us > budget {
                self.violate(format!("I9: the flip paused a client for {pause_us} us, more than {budget}"));
            }
            if (primary, epoch) != (self.durable.primary, self.durable.epoch) {
                self.violate(format!("I8: the operator is told epoch {epoch}, the record says {}", self.durable.epoch));
            }
        }
    }

    // ---- clients ----

    fn act(&mut self, client: usize) {
        if self.over {
            return;
        }
        let at = self.now + self.rng.below(self.plan.think_us);
        self.at(at, Event::Act { client });
        if self.clients[client].session.is_none() {
            let clock = self.clock();
            let session = self.core.handle_client_open(Addresses::default(), clock);
            self.clients[client].begin(session, self.plan.databases);
        } else if !self.clients[client].is_idle() || self.clients[client].ended {
            return;
        }
        let bytes = self.clients[client].pipeline(&mut self.rng, &self.plan, &mut self.rules);
        let mut rest = &bytes[..];
        let life = self.clients[client].life;
        while !rest.is_empty() {
            let n = if self.plan.fragment { 1 + self.rng.index(rest.len()) } else { rest.len() };
            let delay = self.rng.below(1 + self.plan.jitter_us / 4);
            let state = &mut self.clients[client];
            state.arrives = state.arrives.max(self.now + delay);
            let (piece, left) = rest.split_at(n);
            let at = state.arrives;
            self.at(at, Event::FromClient { client, life, bytes: piece.to_vec() });
            rest = left;
        }
    }

    fn hear_client(&mut self, client: usize, life: u32, bytes: &[u8]) {
        let Some(session) = self.clients[client].session.filter(|_| self.clients[client].life == life) else { return };
        if !self.core.wants_input(session) && !self.core.is_closing(session) {
            // The socket is not read now.
            let at = self.now + 500;
            let state = &mut self.clients[client];
            state.arrives = state.arrives.max(at);
            // Later pieces must not overtake this one.
            let later = self.take_pieces(client, life);
            self.at(at, Event::FromClient { client, life, bytes: [bytes, &later].concat() });
            return;
        }
        let clock = self.clock();
        self.core.handle_client_bytes(session, bytes, clock);
        self.flush();
    }

    /// Pieces of a connection that are on their way, in order, out of the heap.
    fn take_pieces(&mut self, wanted: usize, wanted_life: u32) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.events).into_vec();
        all.sort_by(|a, b| b.cmp(a));
        let mut bytes = Vec::new();
        for Reverse(timed) in all {
            match timed.event {
                Event::FromClient { client, life, bytes: piece } if client == wanted && life == wanted_life => bytes.extend(piece),
                event => self.events.push(Reverse(Timed { event, ..timed })),
            }
        }
        bytes
    }

    fn tell_client(&mut self, client: usize) {
        let Some(session) = self.clients[client].session else { return };
        let output = self.core.output(session).to_vec();
        if !output.is_empty() {
            self.core.handle_output_written(session, output.len());
            self.note(|| format!("proxy -> client {client}: {}", output.escape_ascii()));
            if let Err(what) = self.clients[client].receive(&output, &mut self.rules) {
                self.violate(what);
            }
        }
        if self.core.is_closing(session) {
            self.note(|| format!("client {client} is disconnected"));
            // A primary that is away is not waited for by whoever has closed its end.
            let gives_up = !self.core.is_up(self.core.primary());
            if let Err(what) = self.clients[client].closed(&self.rules, gives_up) {
                self.violate(what);
            }
            let clock = self.clock();
            self.core.handle_client_closed(session, clock);
        }
    }

    // ---- those who listen and wait ----

    fn listen(&mut self, subscriber: usize) {
        if self.over {
            return;
        }
        let at = self.now + self.rng.below(4 * self.plan.think_us);
        self.at(at, Event::Listen { subscriber });
        let clock = self.clock();
        let state = &mut self.subscribers[subscriber];
        let (session, bytes) = match state.line.session {
            None => {
                let session = self.core.handle_client_open(Addresses::default(), clock);
                (session, state.begin(session, &mut self.rng, &self.rules))
            }
            Some(session) if state.is_idle() => (session, state.speak(&mut self.rng)),
            Some(_) => return,
        };
        self.say(session, &bytes);
    }

    fn wait(&mut self, waiter: usize) {
        if self.over {
            return;
        }
        let at = self.now + self.rng.below(2 * self.plan.think_us);
        self.at(at, Event::Wait { waiter });
        let clock = self.clock();
        // Nobody moves the roles, and the primary is there: what is pushed enters at once.
        let calm = self.pending.is_none() && self.core.is_up(self.core.primary());
        let state = &mut self.waiters[waiter];
        let (Some(waits), Some(pushes)) = (state.waits.session, state.pushes.session) else {
            let left = state.leave();
            left.into_iter().flatten().for_each(|session| self.core.handle_client_closed(session, clock));
            let [waits, pushes] = [0; 2].map(|_| self.core.handle_client_open(Addresses::default(), clock));
            self.waiters[waiter].begin(waits, pushes, &self.rules);
            return self.flush();
        };
        if let Some(pop) = state.pop() {
            return self.say(waits, &pop);
        }
        if state.is_idle() {
            let known = calm && self.core.is_waiting(waits);
            let push = state.push(known);
            self.rules.named.insert(state.key().into_bytes());
            self.say(pushes, &push);
            // Held back by a barrier it leaves the waiter as it was.
            let entered = !self.core.is_waiting(waits);
            self.waiters[waiter].entered(entered);
        }
    }

    fn say(&mut self, session: SessionId, bytes: &[u8]) {
        self.note(|| format!("audience -> proxy: {}", bytes.escape_ascii()));
        let clock = self.clock();
        self.core.handle_client_bytes(session, bytes, clock);
        self.flush();
    }

    fn tell_audience(&mut self, session: SessionId) {
        let held = |line: &crate::audience::Line| line.session == Some(session);
        let subscriber = self.subscribers.iter().position(|subscriber| held(&subscriber.line));
        let waiter = self.waiters.iter().position(|waiter| held(&waiter.waits) || held(&waiter.pushes));
        let waits = waiter.is_some_and(|waiter| held(&self.waiters[waiter].waits));
        if subscriber.is_none() && waiter.is_none() {
            return;
        }
        let output = self.core.output(session).to_vec();
        let mut went = Ok(());
        if !output.is_empty() {
            self.core.handle_output_written(session, output.len());
            self.note(|| format!("proxy -> audience: {}", output.escape_ascii()));
            went = match (subscriber, waiter) {
                (Some(at), _) => self.subscribers[at].receive(&output, &mut self.rules),
                (_, Some(at)) if waits => self.waiters[at].served(&output, &mut self.rules),
                (_, Some(at)) => self.waiters[at].pushed(&output, &self.rules),
                _ => Ok(()),
            };
        }
        if self.core.is_closing(session) {
            let closed = match (subscriber, waiter) {
                (Some(at), _) => self.subscribers[at].closed(&self.rules),
                (_, Some(at)) => self.waiters[at].closed(waits, &self.rules),
                _ => Ok(()),
            };
            went = went.and(closed);
            let clock = self.clock();
            self.core.handle_client_closed(session, clock);
        }
        if let Err(what) = went {
            self.violate(what);
        }
    }

    // ---- faults ----

    fn strike(&mut self, fault: Fault) {
        if self.over {
            return;
        }
        self.summary.faults += 1;
        match fault {
            Fault::LaneLost(side) => {
                let generation = self.core.generation(side);
                if !self.sites[side.index()].sockets.is_empty() {
                    self.lose(side, generation, "the connection broke");
                }
            }
            Fault::ServerCloses(side) => self.server_closes(side),
            Fault::Restart { side, empty, away_us } => self.restart(side, empty, away_us),
            Fault::Remember(side) => {
                let site = &mut self.sites[side.index()];
                site.remembered = Some(site.server.snapshot());
            }
            Fault::GoesBack { side, away_us } => self.go_back(side, away_us),
            Fault::Freeze { side, us } => self.sites[side.index()].frozen_until = self.now + us,
            Fault::Full { side, us } => self.sites[side.index()].full_until = self.now + us,
            Fault::Refuse { us } => self.refuse(us),
            Fault::PrimaryFull { us } => self.fill_up(us),
            Fault::Evict => self.evict(),
            Fault::Flip { refused } => self.flip(refused),
            Fault::Toggle => self.toggle(),
            Fault::ProxyDies => self.proxy_dies(false),
            Fault::MachineDies if self.plan.journal_synced && self.rng.one_in(2) => self.dies_in_sync = true,
            Fault::MachineDies => self.proxy_dies(true),
            Fault::ClientsLeave => self.clients_leave(),
            Fault::Verify => self.ask_aside(Operation::VerifyStart { rate: 0, continuous: false }),
            Fault::Backfill(told) => self.tell_backfill(told),
            Fault::Repair(None) => self.ask_aside(Operation::RepairAll),
            Fault::Repair(Some(db)) => self.ask_aside(Operation::RepairPattern { db, pattern: b"*".to_vec() }),
        }
    }

    fn tell_backfill(&mut self, told: Told) {
        let rates = |keys, bytes| BackfillRates { keys: Some(keys), bytes: Some(bytes) };
        self.ask_aside(match told {
            Told::Start(keys) => Operation::BackfillStart(rates(keys, 0)),
            Told::Rate(keys, bytes) => Operation::BackfillRate(rates(keys, bytes)),
            Told::Pause => Operation::BackfillPause,
            Told::Resume => Operation::BackfillResume,
        });
    }

    fn server_closes(&mut self, side: Endpoint) {
        let site = &mut self.sites[side.index()];
        let conns: Vec<ConnId> = site.sockets.iter().map(|socket| socket.conn).collect();
        if conns.is_empty() {
            return;
        }
        let conn = conns[self.rng.index(conns.len())];
        site.server.close(conn);
        let at = self.now + self.rng.below(20_000);
        self.at(at, Event::EndOfFile { side, conn });
    }

    fn restart(&mut self, side: Endpoint, empty: bool, away_us: u64) {
        let seed = self.rng.next_u64();
        let primary = side == self.core.primary();
        if empty && self.pending.is_some() {
            return; // What an operation makes of it is not ours to foresee.
        }
        let conns: Vec<ConnId> = self.sites[side.index()].sockets.iter().map(|socket| socket.conn).collect();
        let site = &mut self.sites[side.index()];
        site.away_until = self.now + away_us;
        site.frozen_until = 0;
        site.evicted = false;
        if empty {
            site.server.restart_empty(seed);
        } else {
            site.server.restart_with_data(seed);
        }
        if !primary && empty {
            // The better copy is gone with the server that held it.
            self.kept = None;
        }
        if primary && empty {
            self.rules.own = false;
            let mirror = &self.sites[side.other().index()].server;
            let keys = mirror.dbs.iter().enumerate().flat_map(|(db, keys)| keys.keys().map(move |key| (db, key.clone())));
            let named = &self.rules.named;
            let synced = self.core.status().gate.is_empty() && !self.plan.barriers;
            self.kept = synced.then(|| keys.filter(|(_, key)| !named.contains(key) && !key.starts_with(b"__twinlane:")).collect());
        }
        for conn in conns {
            let at = self.now + self.rng.below(30_000);
            self.at(at, Event::EndOfFile { side, conn });
        }
    }

    fn go_back(&mut self, side: Endpoint, away_us: u64) {
        let Some(data) = self.sites[side.index()].remembered.take().filter(|_| self.pending.is_none()) else { return };
        self.restart(side, false, away_us);
        let seed = self.rng.next_u64();
        self.sites[side.index()].server.restart_with(seed, data);
        // The better copy is on the other side, or is not known any more; what was acknowledged may be gone.
        self.kept = None;
        self.rules.own &= side != self.core.primary();
    }

    fn refuse(&mut self, us: u64) {
        self.rules.refused = true;
        let side = self.core.primary().other();
        self.sites[side.index()].server.refuse_with = Some(OOM.into());
        self.at(self.now + us, Event::Accept(side));
    }

    fn fill_up(&mut self, us: u64) {
        self.rules.refused = true;
        let side = self.core.primary();
        self.sites[side.index()].server.full = true;
        self.at(self.now + us, Event::Accept(side));
    }

    /// Not while a flip is under way: what is evicted between the last look and the swap is not noticed.
    fn evict(&mut self) {
        if self.pending.is_some() {
            return;
        }
        self.kept = None;
        let side = self.core.primary().other();
        let site = &mut self.sites[side.index()];
        let keys: Vec<Vec<u8>> = site.server.dbs[0].keys().filter(|key| !key.starts_with(b"__twinlane:")).cloned().collect();
        for _ in 0..keys.len().min(3) {
            site.evicted |= site.server.evict(0, &keys[self.rng.index(keys.len())]);
        }
    }

    fn flip(&mut self, refused: bool) {
        if self.pending.is_some() || self.sites.iter().any(|site| site.evicted) {
            return;
        }
        let to = self.core.primary().other();
        self.operate(Operation::Flip { to, force_primary_lost: false, dry_run: false });
        if refused && self.pending.is_some() {
            let us = 500 + self.rng.below(100_000);
            self.refuse(us);
        }
    }

    fn toggle(&mut self) {
        if self.pending.is_some() {
            return;
        }
        let mirroring = self.core.status().mirroring;
        self.operate(if mirroring { Operation::MirrorStop { lose_rollback: true } } else { Operation::MirrorStart });
    }

    fn clients_leave(&mut self) {
        if self.rng.one_in(3) {
            for session in self.audience_leaves() {
                let clock = self.clock();
                self.core.handle_client_closed(session, clock);
                self.flush();
            }
        }
        for client in 0..self.clients.len() {
            let Some(session) = self.clients[client].session.filter(|_| self.rng.one_in(2)) else { continue };
            if self.rng.one_in(2) && self.core.wants_input(session) {
                self.client_ends(client, session);
            } else {
                self.clients[client].session = None;
                let clock = self.clock();
                self.core.handle_client_closed(session, clock);
                self.flush();
            }
        }
    }

    /// It closes its end behind what it has sent, and reads on.
    fn client_ends(&mut self, client: usize, session: SessionId) {
        let life = self.clients[client].life;
        let bytes = self.take_pieces(client, life);
        let clock = self.clock();
        self.core.handle_client_bytes(session, &bytes, clock);
        self.note(|| format!("client {client} closes its end"));
        self.clients[client].ended = true;
        if self.core.handle_client_ended(session, clock) {
            self.tell_client(client);
        }
        self.flush();
    }

    fn audience_leaves(&mut self) -> Vec<SessionId> {
        let mut left: Vec<SessionId> = self.subscribers.iter_mut().filter_map(Subscriber::leave).collect();
        left.extend(self.waiters.iter_mut().flat_map(Waiter::leave).flatten());
        left
    }

    /// `kill -9` and a start from the durable record; the one that was being written may be there or not.
    fn proxy_dies(&mut self, power: bool) {
        for side in Endpoint::BOTH {
            self.drop_side(side);
        }
        if let Some(record) = self.saving.take()
            && self.rng.one_in(2)
        {
            self.durable = record;
        }
        let counters = self.core.counters();
        self.summary.shadowed[0] += self.core.status().shadow.total.compared();
        self.summary.images += counters.images;
        self.summary.effects += counters.effects;
        self.pending = None;
        self.process += 1;
        self.began = self.now;
        for client in &mut self.clients {
            client.session = None;
        }
        self.audience_leaves();
        let lost = !self.sites[self.durable.primary.index()].server.dbs[0].contains_key(RECORD_KEY);
        let record = self.durable.clone();
        self.note(|| format!("the proxy starts again: {record:?}, lost {lost}"));
        let addresses = ["old:1".into(), "new:2".into()];
        self.boot += u32::from(power);
        let journal = self.core.take_pages().map(|mut pages| {
            if power {
                self.lose_power((*pages).as_mut());
            }
            open_journal(pages, self.boot, self.plan.journal_synced)
        });
        self.summary.restarts[usize::from(matches!(journal, Some((_, Left::Known { .. }))))] += 1;
        self.note(|| format!("the journal: {:?}", journal.as_ref().map(|(_, left)| left)));
        self.core = Sequencer::new(self.plan.settings.clone(), self.durable.clone(), addresses, lost, journal);
        self.synced = (0, self.core.journal_bytes().map(<[u8]>::to_vec).unwrap_or_default());
        self.flush();
    }

    /// True when there was something to sync; it is not durable yet where the machine dies in the middle.
    fn sync_journal(&mut self) -> bool {
        let Some(changes) = self.core.journal_changes().filter(|changes| self.plan.journal_synced && *changes != self.synced.0) else {
            return false;
        };
        self.core.seal_journal();
        if !self.dies_in_sync {
            self.synced = (changes, self.core.journal_bytes().map(<[u8]>::to_vec).unwrap_or_default());
        }
        true
    }

    /// The disk holds what was synced, and sector by sector that or what came later.
    fn lose_power(&mut self, pages: &mut [u8]) {
        self.synced.1.resize(pages.len(), 0);
        for (newer, synced) in pages.chunks_mut(SECTOR).zip(self.synced.1.chunks(SECTOR)) {
            if newer != synced && self.rng.one_in(2) {
                newer.copy_from_slice(synced);
            }
        }
    }

    /// What the next process would find if this one ended now, and if the machine did.
    fn journals_left(&mut self) -> Vec<Left> {
        let Some(now) = self.core.journal_bytes().map(<[u8]>::to_vec) else { return Vec::new() };
        let synced = self.plan.journal_synced;
        let mut left = vec![open_journal(Box::new(now), self.boot, synced).1];
        if synced && !self.synced.1.is_empty() {
            left.push(open_journal(Box::new(self.synced.1.clone()), self.boot + 1, synced).1);
        }
        left
    }

    // ---- invariants ----

    /// I4: what differs now is written down somewhere.
    fn explain(&mut self) {
        let knows = Endpoint::BOTH.iter().all(|side| {
            let site = &self.sites[side.index()];
            !site.evicted && self.core.run_id(*side) == site.server.run_id()
        });
        // Connections that could not be killed write unseen until their grace time ends.
        if !knows || self.plan.kill_refused || self.broken.is_some() || self.finale.is_begun() {
            return;
        }
        let left = self.journals_left();
        for (db, key, sentence) in self.differences() {
            if !self.core.explains(db, &key) {
                self.violate(format!("I4: nothing explains this difference at {} us: {sentence}", self.now));
            }
            if left.iter().any(|left| !names(left, self, db, &key)) && self.core.status().mirroring {
                self.violate(format!("I4: the journal does not name this difference at {} us: {sentence}", self.now));
            }
        }
    }

    fn differences(&self) -> Vec<(Db, Vec<u8>, String)> {
        let [primary, mirror] = [self.core.primary(), self.core.primary().other()].map(|side| &self.sites[side.index()]);
        let clocks = [primary, mirror].map(|site| site.clock_ms(self.now));
        let tolerance = TTL_TOLERANCE_MS + self.plan.offsets_ms[0].abs_diff(self.plan.offsets_ms[1]);
        differing(&primary.server, &mirror.server, clocks, tolerance)
    }

    /// I5: nothing goes wrong any more, so doubt must end. True when the history is over.
    fn settle(&mut self) -> bool {
        if !std::mem::replace(&mut self.over, true) {
            self.note(|| "traffic and faults end".into());
            // A death that waits for a sync would strike in the middle of what is planted.
            self.dies_in_sync = false;
            for site in &mut self.sites {
                (site.frozen_until, site.away_until, site.full_until) = (self.now, self.now, self.now);
                (site.server.refuse_with, site.server.full) = (None, false);
            }
            for side in Endpoint::BOTH {
                self.start_steps(side);
            }
            self.tell_backfill(Told::Rate(0, 0));
        }
        self.judge_backfill();
        let status = self.core.status();
        if status.stage == "PRIMARY LOST DATA" {
            self.check_kept();
        }
        if self.now > self.plan.traffic_us + SETTLE_US {
            self.violate(format!("I5: nothing settles: {status:?}"));
            return true;
        }
        if self.pending.is_none() {
            if status.stage == "PRIMARY LOST DATA" {
                self.decide_loss();
            } else if !status.mirroring {
                self.operate(Operation::MirrorStart);
            }
        }
        let mirror = &status.mirror;
        let still = mirror.dirty_keys == 0 && mirror.queued_effects == 0 && mirror.state == "following" && self.pending.is_none();
        let still = still && status.backfill.state != "running";
        let settled = if self.plan.import { still } else { still && status.gate.is_empty() && mirror.unsynced_databases.is_empty() };
        let answered = self.clients.iter().all(|client| client.session.is_none() || client.is_idle());
        let answered = answered && self.subscribers.iter().all(Subscriber::is_idle) && self.waiters.iter().all(Waiter::is_idle);
        let quiet = settled && answered && !self.sites.iter().any(|site| site.evicted);
        let since = if quiet { *self.quiet_since.get_or_insert(self.now) } else { self.quiet_since.take().unwrap_or(self.now) };
        // A moment longer: what a dead connection still has in its buffer must not run any more.
        let long = if self.options.no_kill || self.plan.kill_refused { 4_000_000 } else { 200_000 };
        if quiet && self.now >= since + long {
            if !self.finale.is_begun() {
                self.compare();
            }
            if self.broken.is_some() || self.finish() {
                return true;
            }
        }
        self.at(self.now + 25_000, Event::Settle);
        self.broken.is_some()
    }

    /// What is said of the backfill is so, and an operator who let it rest lets it go on at the end.
    fn judge_backfill(&mut self) {
        let status = self.core.status();
        let told = &status.backfill;
        let unsynced = !status.mirror.unsynced_databases.is_empty();
        let waiting = told.waiting > 0 && !self.finale.is_begun();
        if told.state == "done" && (unsynced || waiting || !status.mirroring) {
            self.violate(format!("I5: the backfill says it is done: {status:?}"));
        }
        if told.state == "paused" {
            self.tell_backfill(Told::Resume);
        }
    }

    /// Nothing was deleted from the mirror to match a primary that lost its data.
    fn check_kept(&mut self) {
        let mirror = &self.sites[self.core.primary().other().index()].server;
        let named = &self.rules.named;
        let gone = self.kept.iter().flatten().find(|(db, key)| !named.contains(key) && !mirror.dbs[*db].contains_key(key));
        if let Some((db, key)) = gone {
            self.violate(format!(
                "I5: the primary lost its data, nobody decided, and key {} of database {db} is gone from the mirror",
                key.escape_ascii()
            ));
        }
    }

    fn decide_loss(&mut self) {
        let to = self.core.primary().other();
        let force = self.rng.one_in(2);
        self.operate(if force { Operation::Flip { to, force_primary_lost: true, dry_run: false } } else { Operation::AcceptLoss });
    }

    /// The end: both sides are equal, every client was answered, and its own keys are as it left them.
    pub fn compare(&mut self) {
        for (db, key, sentence) in self.differences() {
            // Without a backfill, what nobody has changed need not be on the mirror.
            let side = self.core.primary();
            let [held, copied] = [side, side.other()].map(|side| self.sites[side.index()].server.dbs[usize::from(db)].get(&key));
            let untouched = self.plan.import && copied.is_none() && held == self.initial.get(usize::from(db)).and_then(|db| db.get(&key));
            if !untouched {
                self.violate(format!("I5: settled, and not equal (left: `{side}`, the primary): {sentence}"));
            }
        }
        if let Some(what) = self.subscribers.iter().find_map(|subscriber| subscriber.missed(&self.rules)) {
            self.violate(format!("I3: {what}"));
        }
        if !self.rules.own {
            return;
        }
        let server = &self.sites[self.core.primary().index()].server;
        let differs = self.clients.iter().filter(|client| client.session.is_some()).find_map(|client| client.own_differs(server));
        if let Some(what) = differs {
            self.violate(format!("I3: {what}"));
        }
    }
}
