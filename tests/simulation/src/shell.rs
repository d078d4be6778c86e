//! The shell of the simulation: what `proxy/src/driver` does with sockets, done with model servers and a heap of events.

use crate::world::{Event, World};
use twinlane_core::endpoint::{Db, Endpoint};
use twinlane_core::sequencer::{Eviction, LaneId, LaneInfo, Probe, RECORD_KEY, Role, SideUp};
use twinlane_model::server::encode;
use twinlane_model::{ConnId, ModelServer, Rng};

/// A lane's socket, as we hold it.
#[derive(Debug)]
pub struct Socket {
    pub id: LaneId,
    pub generation: u64,
    pub conn: ConnId,
    /// When the last piece on its way arrives, there and here.
    arrives_there: u64,
    arrives_here: u64,
    /// A write is due.
    scheduled: bool,
    /// It was only for lingering.
    lingers: bool,
    /// Bytes on the wire and in the server's buffer.
    unread: usize,
}

/// One server and what surrounds it.
#[derive(Debug)]
pub struct Site {
    pub server: ModelServer,
    /// Its clock less ours, milliseconds.
    pub offset_ms: i64,
    pub sockets: Vec<Socket>,
    /// Connections that may have a complete command.
    ready: Vec<ConnId>,
    stepping: bool,
    /// It does nothing until then.
    pub frozen_until: u64,
    /// It accepts no connections until then.
    pub away_until: u64,
    /// It takes no connections until then but those without which the side is not up.
    pub full_until: u64,
    /// What it held some time ago.
    pub remembered: Option<Vec<twinlane_model::server::Db>>,
    /// Keys were evicted and no look has told.
    pub evicted: bool,
    /// Connections of ours from earlier lives of the proxy.
    pub strays: Vec<ConnId>,
}

impl Site {
    pub fn new(r: &mut Rng, databases: usize, offset_ms: i64) -> Site {
        Site {
            server: ModelServer::new(r.next_u64(), databases),
            offset_ms,
            sockets: Vec::new(),
            ready: Vec::new(),
            stepping: false,
            frozen_until: 0,
            away_until: 0,
            full_until: 0,
            remembered: None,
            evicted: false,
            strays: Vec::new(),
        }
    }

    pub fn clock_ms(&self, now: u64) -> u64 {
        (BASE_MS + self.offset_ms) as u64 + now / 1000
    }
}

/// Unix milliseconds at which histories begin.
pub const BASE_MS: i64 = 1_700_000_000_000;

/// Longest wait of a handshake for a server that does not answer.
const HANDSHAKE_US: u64 = 5_000_000;

impl World<'_> {
    fn socket(&mut self, id: LaneId) -> Option<&mut Socket> {
        self.sites[id.side.index()].sockets.iter_mut().find(|socket| socket.id == id)
    }

    fn wire(&mut self) -> u64 {
        self.plan.latency_us + self.rng.below(self.plan.jitter_us)
    }

    /// The lane has something to write: it will, in a moment, or in a longer one where the core lets it.
    pub fn wake_lane(&mut self, id: LaneId) {
        let lingers = self.core.lane_can_wait(id);
        let at = self.now + self.rng.below(if lingers { 10_000 } else { 30 });
        let Some(socket) = self.socket(id) else { return };
        let hurries = !lingers && std::mem::take(&mut socket.lingers);
        if !std::mem::replace(&mut socket.scheduled, true) || hurries {
            socket.lingers = lingers;
            self.at(at, Event::Write(id));
        }
    }

    /// Writes what was appended, as far as the socket takes it.
    pub fn write_lane(&mut self, id: LaneId) {
        let delay = self.wire();
        let now = self.now;
        let Some(socket) = self.sites[id.side.index()].sockets.iter_mut().find(|socket| socket.id == id) else { return };
        socket.scheduled = false;
        socket.lingers = false;
        if self.core.generation(id.side) != socket.generation {
            return;
        }
        let room = SOCKET_BYTES.saturating_sub(socket.unread);
        // A socket's room may end within any piece.
        let output: Vec<u8> = self.core.lane_output(id).flatten().copied().take(room).collect();
        let mut n = output.len();
        if n > 1 && self.plan.fragment {
            n = 1 + self.rng.index(n);
        }
        if n > 0 {
            let bytes = output[..n].to_vec();
            let (conn, generation) = (socket.conn, socket.generation);
            socket.unread += n;
            socket.arrives_there = socket.arrives_there.max(now + delay);
            let at = socket.arrives_there;
            self.core.handle_lane_written(id, generation, n);
            self.at(at, Event::Feed { side: id.side, conn, bytes });
        }
        if self.core.lane_output(id).next().is_some() {
            let wait = if n == 0 { 1_000 } else { 5 };
            if let Some(socket) = self.socket(id) {
                socket.scheduled = true;
            }
            self.at(now + wait, Event::Write(id));
        }
    }

    /// A piece reached the server's buffer.
    pub fn feed(&mut self, side: Endpoint, conn: ConnId, bytes: &[u8]) {
        let site = &mut self.sites[side.index()];
        if let Some(socket) = site.sockets.iter_mut().find(|socket| socket.conn == conn) {
            socket.unread -= bytes.len();
        }
        site.server.feed(conn, bytes, 0);
        if !site.ready.contains(&conn) {
            site.ready.push(conn);
        }
        self.start_steps(side);
    }

    pub fn start_steps(&mut self, side: Endpoint) {
        let at = self.now.max(self.sites[side.index()].frozen_until) + self.plan.service_us;
        let site = &mut self.sites[side.index()];
        if !site.ready.is_empty() && !std::mem::replace(&mut site.stepping, true) {
            self.at(at, Event::Step(side));
        }
    }

    /// The server executes a few commands of one connection.
    pub fn step(&mut self, side: Endpoint) {
        let now = self.now;
        let site = &mut self.sites[side.index()];
        site.stepping = false;
        if site.frozen_until > now || site.ready.is_empty() {
            return self.start_steps(side);
        }
        let at = self.rng.index(site.ready.len());
        let conn = site.ready[at];
        let clock = site.clock_ms(now);
        for _ in 0..1 + self.rng.index(8) {
            if !site.server.step(conn, clock) {
                site.ready.swap_remove(at);
                break;
            }
        }
        let told = site.server.end_turn();
        for conn in std::iter::once(conn).chain(told.into_iter().filter(|told| *told != conn)) {
            let bytes = self.sites[side.index()].server.take_output(conn);
            if !bytes.is_empty() {
                self.reply(side, conn, bytes);
            }
        }
        self.start_steps(side);
    }

    fn reply(&mut self, side: Endpoint, conn: ConnId, bytes: Vec<u8>) {
        let (delay, between) = (self.wire(), if self.plan.fragment { self.wire() } else { 0 });
        let now = self.now;
        let cut = if self.plan.fragment && bytes.len() > 1 { 1 + self.rng.index(bytes.len() - 1) } else { bytes.len() };
        let Some(socket) = self.sites[side.index()].sockets.iter_mut().find(|socket| socket.conn == conn) else { return };
        socket.arrives_here = socket.arrives_here.max(now + delay);
        let at = socket.arrives_here;
        socket.arrives_here += between;
        let (first, rest) = bytes.split_at(cut);
        self.at(at, Event::Receive { side, conn, bytes: first.to_vec() });
        if !rest.is_empty() {
            self.at(at + between, Event::Receive { side, conn, bytes: rest.to_vec() });
        }
    }

    /// A piece came back from a server.
    pub fn receive(&mut self, side: Endpoint, conn: ConnId, bytes: &[u8]) {
        let Some(socket) = self.sites[side.index()].sockets.iter().find(|socket| socket.conn == conn) else { return };
        let (id, generation) = (socket.id, socket.generation);
        let sound = self.core.handle_lane_bytes(id, generation, bytes, self.clock());
        if !sound {
            self.violate(format!("the core found no sense in `{side}`'s reply {}", bytes.escape_ascii()));
        }
        self.flush();
    }

    /// The server closed a connection of ours.
    pub fn end_of_file(&mut self, side: Endpoint, conn: ConnId) {
        let Some(socket) = self.sites[side.index()].sockets.iter().find(|socket| socket.conn == conn) else { return };
        let (id, generation) = (socket.id, socket.generation);
        if !matches!(id.role, Role::Own(_)) {
            return self.lose(side, generation, "the server closed the connection");
        }
        self.close_lane(id);
        let now = self.clock();
        // A flip that is being made durable has its new primary already.
        if side == self.core.primary() || self.core.status().flip == "committing" {
            self.rules.losses += 1;
        }
        self.core.handle_lane_lost(id, generation, "the server closed the connection", now);
        if !self.core.is_up(side) {
            self.drop_side(side);
        }
        self.flush();
    }

    /// The proxy closes one connection; the server notices at once or later.
    pub fn close_lane(&mut self, id: LaneId) {
        let sockets = &mut self.sites[id.side.index()].sockets;
        let Some(at) = sockets.iter().position(|socket| socket.id == id) else { return };
        let socket = sockets.remove(at);
        let after = self.rng.below(2_000);
        self.sites[id.side.index()].strays.push(socket.conn);
        self.at(self.now + after, Event::HangUp { side: id.side, conn: socket.conn });
    }

    /// A side is lost: its sockets are reset, the sequencer learns of it.
    pub fn lose(&mut self, side: Endpoint, generation: u64, error: &str) {
        if self.core.generation(side) != generation {
            return;
        }
        self.note(|| format!("`{side}` is lost: {error}"));
        // A flip that is being made durable has its new primary already.
        if side == self.core.primary() || self.core.status().flip == "committing" {
            self.rules.losses += 1;
        }
        self.drop_side(side);
        let now = self.clock();
        self.core.handle_side_down(side, generation, error, now);
        self.flush();
    }

    /// Closes our sockets to a side. The server notices at some time, or never: until then it executes what it was sent (H1).
    pub fn drop_side(&mut self, side: Endpoint) {
        let sockets = std::mem::take(&mut self.sites[side.index()].sockets);
        for socket in sockets {
            let after = match self.rng.below(4) {
                0 => 0,
                1 => self.rng.below(2_000),
                2 => self.rng.below(500_000),
                _ => self.rng.below(3_000_000),
            };
            self.sites[side.index()].strays.push(socket.conn);
            self.at(self.now + after, Event::HangUp { side, conn: socket.conn });
        }
    }

    pub fn connect(&mut self, side: Endpoint, generation: u64, predecessors: Vec<LaneInfo>, databases: Vec<Db>) {
        self.drop_side(side);
        let at = self.now + 2 * self.wire() + self.rng.below(2_000);
        self.at(at, Event::Ask { side, generation, predecessors, databases, process: self.process, since: self.now });
    }

    /// First half of a handshake: what the server is; what is left of us there is killed.
    pub fn ask(&mut self, side: Endpoint, generation: u64, predecessors: Vec<LaneInfo>, databases: Vec<Db>, since: u64) {
        if self.core.generation(side) != generation {
            return;
        }
        let now = self.now;
        let site = &mut self.sites[side.index()];
        if site.away_until > now {
            return self.lose(side, generation, "connection refused");
        }
        if site.frozen_until > now {
            self.rules.slow_start = true;
            if now >= since + HANDSHAKE_US {
                return self.lose(side, generation, "no answer");
            }
            let at = site.frozen_until.min(since + HANDSHAKE_US) + 10;
            return self.at(at, Event::Ask { side, generation, predecessors, databases, process: self.process, since });
        }
        let run_id = site.server.run_id().to_owned();
        let mut killed = true;
        let strays = std::mem::take(&mut site.strays);
        if self.plan.kill_refused {
            killed = strays.is_empty() && !predecessors.iter().any(|old| old.run_id == run_id);
        } else if !self.options.no_kill {
            for old in predecessors.iter().filter(|old| old.run_id == run_id) {
                site.server.kill_client(old.client_id);
            }
            // By name: connections of an earlier process.
            if self.process > 1 {
                strays.iter().for_each(|conn| {
                    site.server.kill_client(*conn);
                });
            }
        }
        let mark = site.server.dbs[0].get(RECORD_KEY).map(mark_in);
        let up = SideUp {
            run_id,
            version: "7.0.15".into(),
            major: 7,
            resp: 3,
            databases: site.server.dbs.len(),
            mark,
            keyspace: keyspace(&site.server),
            killed,
            ..SideUp::default()
        };
        let at = now + 2 * self.wire() + self.rng.below(1_000);
        self.at(at, Event::Open { side, generation, databases, up: Box::new(up), process: self.process });
    }

    /// Second half: the lanes are opened, the sequencer learns of them in the same turn.
    pub fn open(&mut self, side: Endpoint, generation: u64, databases: &[Db], mut up: SideUp) {
        if self.core.generation(side) != generation {
            return;
        }
        let now = self.now;
        let site = &mut self.sites[side.index()];
        if site.away_until > now || up.run_id != site.server.run_id() {
            return self.lose(side, generation, "the connection broke during the handshake");
        }
        if site.frozen_until > now {
            self.rules.slow_start = true;
            let at = site.frozen_until + 10;
            return self.at(at, Event::Open { side, generation, databases: databases.to_vec(), up: Box::new(up), process: self.process });
        }
        let full = site.full_until > now;
        for db in databases.iter().filter(|db| usize::from(**db) < up.databases) {
            let id = LaneId::shared(side, *db);
            if full && *db != 0 {
                self.rules.slow_start = true;
                up.unopened.push((*db, FULL.into()));
                continue;
            }
            let info = self.socket_for(id, generation);
            up.lanes.push((*db, info));
        }
        self.note(|| format!("`{side}` is connected, generation {generation}, marked {}", up.mark.is_some()));
        let now = self.clock();
        self.core.handle_side_up(side, generation, up, now);
        self.flush();
        self.at(self.now, Event::Look { side, generation, process: self.process });
    }

    fn socket_for(&mut self, id: LaneId, generation: u64) -> LaneInfo {
        let now = self.now;
        let site = &mut self.sites[id.side.index()];
        let conn = site.server.open();
        let number = id.db.to_string();
        for frame in [encode(&["HELLO", "3"]), encode(&["SELECT", number.as_str()])] {
            site.server.feed(conn, &frame, 0);
            site.server.step(conn, site.clock_ms(now));
        }
        site.server.take_output(conn);
        site.sockets.push(Socket {
            id,
            generation,
            conn,
            arrives_there: now,
            arrives_here: now,
            scheduled: false,
            lingers: false,
            unread: 0,
        });
        LaneInfo { client_id: conn, address: ModelServer::address_of(conn), run_id: site.server.run_id().to_owned() }
    }

    /// Opens a lane that came to be needed.
    pub fn open_lane(&mut self, id: LaneId, generation: u64) {
        if self.core.generation(id.side) != generation {
            return;
        }
        let now = self.now;
        let site = &self.sites[id.side.index()];
        if self.core.lane_is_gone(id) {
            return;
        }
        if site.away_until > now || self.core.run_id(id.side) != site.server.run_id() {
            self.rules.slow_start = true;
            let now = self.clock();
            self.core.handle_lane_open(id, generation, Err("refused".into()), now);
            if !self.core.is_up(id.side) {
                self.rules.losses += u64::from(id.side == self.core.primary() || self.core.status().flip == "committing");
                self.drop_side(id.side);
            }
            return self.flush();
        }
        if site.frozen_until > now {
            let at = site.frozen_until + 10;
            return self.at(at, Event::OpenLane { id, generation, process: self.process });
        }
        if site.full_until > now && !matches!(id.role, Role::Own(_)) {
            self.rules.slow_start = true;
            let now = self.clock();
            self.core.handle_lane_open(id, generation, Err(FULL.into()), now);
            if !self.core.is_up(id.side) {
                self.violate(format!("`{}` is given up because one lane could not be opened", id.side));
            }
            return self.flush();
        }
        let info = self.socket_for(id, generation);
        let now = self.clock();
        self.core.handle_lane_open(id, generation, Ok(Some(info)), now);
        self.flush();
    }

    /// The regular look at a side.
    pub fn look(&mut self, side: Endpoint, generation: u64) {
        if self.core.generation(side) != generation {
            return;
        }
        let now = self.now;
        let last = self.core.last_probe(side);
        let evicts = self.plan.faults.iter().any(|(_, fault)| *fault == crate::plan::Fault::Evict);
        let policy = if evicts { "allkeys-random" } else { "noeviction" };
        let memory = twinlane_core::sequencer::Memory { used: 0, max: 1 << 20, policy: policy.into() };
        let site = &mut self.sites[side.index()];
        let probe = if site.away_until > now || site.frozen_until > now + 2_000_000 {
            Probe { error: Some("no answer".into()), ..last }
        } else if site.frozen_until > now {
            let at = site.frozen_until + 10;
            return self.at(at, Event::Look { side, generation, process: self.process });
        } else {
            if self.core.run_id(side) != site.server.run_id() {
                return self.lose(side, generation, "the address leads to another server process now");
            }
            site.evicted = false;
            let volatile = |db: &twinlane_model::server::Db| db.values().filter(|entry| entry.deadline_ms.is_some()).count() as u64;
            Probe {
                error: None,
                run_id: String::new(),
                evicted_keys: Some(site.server.evicted_keys),
                expires: site.server.dbs.iter().enumerate().map(|(db, keys)| (db as Db, volatile(keys))).collect(),
                keys: site.server.dbs.iter().enumerate().map(|(db, keys)| (db as Db, keys.len() as u64)).collect(),
                clock_offset_ms: Some(site.offset_ms),
                keyspace: keyspace(&site.server),
                memory,
                eviction: Eviction::default(),
                bypassing: None,
            }
        };
        let clock = self.clock();
        self.core.handle_probe(side, probe, clock);
        self.flush();
        self.at(now + self.plan.probe_us, Event::Look { side, generation, process: self.process });
    }
}

/// Bytes on the wire and in the server's buffer before a socket takes no more.
const SOCKET_BYTES: usize = 8 * 1024;

/// The bytes of the reserved key.
fn mark_in(entry: &twinlane_model::server::Entry) -> Vec<u8> {
    match &entry.value {
        twinlane_model::server::Value::Str(bytes) => bytes.clone(),
        _ => Vec::new(),
    }
}

/// What a server says that takes no more connections.
const FULL: &str = "ERR max number of clients reached";

fn keyspace(server: &ModelServer) -> Vec<Db> {
    let holds = |db: &twinlane_model::server::Db| db.keys().any(|key| !key.starts_with(b"__twinlane:"));
    server.dbs.iter().enumerate().filter(|(_, db)| holds(db)).map(|(db, _)| db as Db).collect()
}
