//! A fixed script of traffic through the core, between two model servers: what one command costs the sequencer, in instructions
//! (`make price`) and in allocations (`tests/allocations.rs`), which do not depend on the machine's mood.
//!
//! Sixteen sessions send GET, SET, INCR, HSET, SADD and LPUSH on a thousand keys, so many in each of their pipelines. Only the sequencer's own calls
//! count, those whose name has `counted` in it; what the model servers do is left out.

use std::collections::HashMap;
use std::fmt::Write as _;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::journal::{HEADER_BYTES, Journal, Opening};
use twinlane_core::sequencer::{Action, Addresses, LaneId, LaneInfo, Now, Record, Sequencer, SessionId, Settings, SideUp};
use twinlane_core::shadow::ShadowWish;
use twinlane_model::ConnId;
use twinlane_model::server::ModelServer;

const SESSIONS: usize = 16;
const KEYS: usize = 1_000;
/// Commands of each kind that fill the keys before those that are asked for.
const PREPARED: usize = 4_000;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Half reads, half writes of five kinds.
    Mixed,
    /// GET alone.
    Reads,
    /// SET alone.
    Sets,
}

/// See the module.
pub struct Script {
    /// What is measured.
    pub core: Sequencer,
    servers: [ModelServer; 2],
    lanes: HashMap<LaneId, ConnId>,
    sessions: Vec<SessionId>,
    now: Now,
    /// Bytes of replies.
    pub replies: usize,
    /// What has been counted so far of whatever the measure counts.
    pub spent: usize,
    measure: fn() -> usize,
}

impl Script {
    /// With the journal or without; of a million reads so many are compared with the mirror. `measure` is read around each call that counts.
    #[must_use]
    pub fn begin(journal: bool, shadow: u32, measure: fn() -> usize) -> Script {
        let journal = journal.then(|| {
            let opening = Opening { installation: "price", file: [0; 3], boot: "once", synced: false };
            Journal::open(Box::new(vec![0u8; HEADER_BYTES + (1 << 20)]), &opening)
        });
        let record = Record { installation: "price".into(), epoch: 1, primary: Endpoint::Old, mirroring: true };
        let addresses = ["old:1".into(), "new:2".into()];
        let shadow = ShadowWish { per_million: shadow, ..ShadowWish::default() };
        let core = Sequencer::new(Settings { shadow, ..Settings::default() }, record, addresses, false, journal.flatten());
        let servers = [ModelServer::new(1, 1), ModelServer::new(2, 1)];
        let mut script =
            Script { core, servers, lanes: HashMap::new(), sessions: Vec::new(), now: Now::default(), replies: 0, spent: 0, measure };
        script.turn();
        for _ in 0..SESSIONS {
            let id = script.core.handle_client_open(Addresses::default(), script.now);
            script.sessions.push(id);
        }
        script
    }

    /// The keys are there, and every buffer has its size.
    pub fn prepare(&mut self) {
        self.play(PREPARED, 16, Kind::Sets);
        self.play(PREPARED, 16, Kind::Mixed);
    }

    /// Plays so many commands, `depth` in each pipeline.
    pub fn play(&mut self, commands: usize, depth: usize, kind: Kind) {
        let mut asked = 0;
        let mut pipeline = String::new();
        while asked < commands {
            for session in 0..SESSIONS {
                pipeline.clear();
                for _ in 0..depth {
                    push_command(&mut pipeline, asked, kind);
                    asked += 1;
                }
                let before = (self.measure)();
                counted_request(&mut self.core, self.sessions[session], pipeline.as_bytes(), self.now);
                self.spent += (self.measure)() - before;
            }
            self.turn();
        }
    }

    /// Everything that follows, until nothing more does; then a little time passes.
    fn turn(&mut self) {
        loop {
            let mut moved = false;
            while let Some(action) = self.core.poll_action() {
                moved = true;
                if let Action::ConnectSide { side, generation, .. } = action {
                    self.connect(side, generation);
                }
            }
            while let Some(id) = self.core.poll_session() {
                self.core.handle_session_polled(id);
                let n = self.core.output(id).len();
                self.replies += n;
                self.core.handle_output_written(id, n);
            }
            while let Some(lane) = self.core.poll_lane() {
                self.core.handle_lane_polled(lane);
                moved |= self.exchange(lane);
            }
            if !moved {
                break;
            }
        }
        let before = self.now.us / 10_000;
        self.now.us += 400;
        if self.now.us / 10_000 > before {
            counted_tick(&mut self.core, self.now);
        }
    }

    fn exchange(&mut self, lane: LaneId) -> bool {
        let Some(conn) = self.lanes.get(&lane).copied() else { return false };
        let generation = self.core.generation(lane.side);
        let server = &mut self.servers[lane.side.index()];
        let mut n = 0;
        for output in self.core.lane_output(lane) {
            server.feed(conn, output, 0);
            n += output.len();
        }
        self.core.handle_lane_written(lane, generation, n);
        while server.step(conn, 1_700_000_000_000) {}
        server.end_turn();
        let replies = server.take_output(conn);
        if replies.is_empty() {
            return false;
        }
        let before = (self.measure)();
        let sound = counted_reply(&mut self.core, lane, generation, &replies, self.now);
        self.spent += (self.measure)() - before;
        sound
    }

    fn connect(&mut self, side: Endpoint, generation: u64) {
        let server = &mut self.servers[side.index()];
        let conn = server.open();
        server.feed(conn, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", 0);
        while server.step(conn, 0) {}
        server.take_output(conn);
        let info = LaneInfo { client_id: conn, address: String::new(), run_id: server.run_id().to_owned() };
        self.lanes.insert(LaneId::shared(side, 0), conn);
        let up = SideUp {
            run_id: server.run_id().to_owned(),
            version: "7.0.15".into(),
            major: 7,
            resp: 3,
            databases: 1,
            mark: Some(b"mark".to_vec()),
            killed: true,
            lanes: vec![(0, info)],
            ..SideUp::default()
        };
        self.core.handle_side_up(side, generation, up, self.now);
    }
}

// What is counted: `--toggle-collect='*counted*'`.

#[inline(never)]
fn counted_request(core: &mut Sequencer, session: SessionId, bytes: &[u8], now: Now) {
    core.handle_client_bytes(session, bytes, now);
}

#[inline(never)]
fn counted_reply(core: &mut Sequencer, lane: LaneId, generation: u64, bytes: &[u8], now: Now) -> bool {
    core.handle_lane_bytes(lane, generation, bytes, now)
}

#[inline(never)]
fn counted_tick(core: &mut Sequencer, now: Now) {
    core.handle_tick(now);
}

/// The script's next command.
fn push_command(out: &mut String, number: usize, kind: Kind) {
    // Each kind meets every key.
    let key = (number / 10 * 7919) % KEYS;
    let words: Vec<String> = match number % 10 {
        _ if kind == Kind::Reads => vec!["GET".into(), format!("text:{key:06}")],
        _ if kind == Kind::Sets => vec!["SET".into(), format!("text:{key:06}"), "v".repeat(64)],
        0..5 => vec!["GET".into(), format!("text:{key:06}")],
        5 | 6 => vec!["SET".into(), format!("text:{key:06}"), "v".repeat(64)],
        7 => vec!["INCR".into(), format!("count:{key:06}")],
        8 if number.is_multiple_of(20) => vec!["HSET".into(), format!("hash:{key:06}"), "field".into(), number.to_string()],
        8 => vec!["SADD".into(), format!("set:{key:06}"), (number % 50).to_string()],
        _ => vec!["LPUSH".into(), format!("list:{key:06}"), "element".into()],
    };
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n{word}\r\n", word.len());
    }
}
