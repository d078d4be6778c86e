//! Moments that random histories do not meet, played by hand: the test is both servers, and answers each request when it likes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use twinlane_core::endpoint::Endpoint;
use twinlane_core::sequencer::{Action, Addresses, LaneId, LaneInfo, Now, Record, Role, Sequencer, SessionId, Settings, SideUp};

const OLD: LaneId = LaneId { side: Endpoint::Old, db: 0, role: Role::Shared };
const OLD_BULK: LaneId = LaneId { side: Endpoint::Old, db: 0, role: Role::Bulk };
const NEW: LaneId = LaneId { side: Endpoint::New, db: 0, role: Role::Shared };

fn info() -> LaneInfo {
    LaneInfo { client_id: 1, address: String::new(), run_id: String::new() }
}

struct Hand {
    core: Sequencer,
    now: Now,
    disk: Vec<u8>,
    wanted: Option<(usize, usize)>,
}

/// See [`Hand::tick`].
fn answer(lane: LaneId, request: &str) -> String {
    let name = request.split(' ').next().unwrap_or_default();
    match name {
        "SCAN" if lane == OLD => (0..10).fold("*2\r\n$1\r\n0\r\n*10\r\n".into(), |page, n| format!("{page}$2\r\nk{n}\r\n")),
        "SCAN" => "*2\r\n$1\r\n0\r\n*0\r\n".into(),
        "DUMP" | "PTTL" => "+QUEUED\r\n".into(),
        "EXEC" => "*2\r\n$3\r\n\0ab\r\n:-1\r\n".into(),
        _ => "+OK\r\n".into(),
    }
}

impl Hand {
    /// Both sides are connected, and have taken what the proxy says to begin with.
    fn begin(version: &str, settings: Settings) -> Hand {
        let record = Record { installation: "by hand".into(), epoch: 1, primary: Endpoint::Old, mirroring: true };
        let core = Sequencer::new(settings, record, ["old:1".into(), "new:2".into()], false, None);
        let mut hand = Hand { core, now: Now::default(), disk: Vec::new(), wanted: None };
        while let Some(action) = hand.core.poll_action() {
            let Action::ConnectSide { side, generation, .. } = action else { continue };
            let up = SideUp {
                run_id: format!("{side}"),
                version: version.into(),
                major: 7,
                resp: 3,
                databases: 1,
                keyspace: vec![0],
                mark: Some(b"mark".to_vec()),
                killed: true,
                lanes: vec![(0, info())],
                ..SideUp::default()
            };
            hand.core.handle_side_up(side, generation, up, hand.now);
        }
        for lane in [OLD, NEW] {
            let begun = hand.sent(lane).len();
            hand.reply(lane, &"+OK\r\n".repeat(begun));
        }
        hand
    }

    /// Requests that were sent on a lane since this was asked last.
    fn sent(&mut self, lane: LaneId) -> Vec<String> {
        self.act();
        let generation = self.core.generation(lane.side);
        let mut bytes = Vec::new();
        loop {
            let output = self.core.lane_output(lane);
            if output.is_empty() {
                break;
            }
            let n = output.len();
            bytes.extend_from_slice(output);
            self.core.handle_lane_written(lane, generation, n);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let requests = text.split('*').filter(|request| !request.is_empty());
        requests
            .map(|request| {
                request.split("\r\n").skip(1).filter(|word| !word.starts_with('$')).collect::<Vec<_>>().join(" ").trim().to_owned()
            })
            .collect()
    }

    /// What the shell would do: lanes open at once, what goes to the disk is there at once, and what is wanted back is kept for [`Hand::bring`].
    fn act(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::OpenLane { lane, generation } => {
                    self.core.handle_lane_open(lane, generation, Ok(Some(info())), self.now);
                }
                Action::Spill { at, bytes } => {
                    self.disk.truncate(at as usize);
                    self.disk.extend(bytes);
                    self.core.handle_spilled(Ok(()), self.now);
                }
                Action::Unspill { at, len } => self.wanted = Some((at as usize, len)),
                _ => {}
            }
        }
    }

    /// Brings what is wanted from the disk.
    fn bring(&mut self) {
        if let Some((at, len)) = self.wanted.take() {
            let end = self.disk.len().min(at + len);
            let bytes = self.disk[at..end].to_vec();
            self.core.handle_unspilled(Ok(&bytes), self.now);
        }
    }

    /// Time passes, and both servers answer everything: `old` holds ten short strings, and `new` nothing.
    fn tick(&mut self) {
        self.now.us += 10_000;
        self.core.handle_tick(self.now);
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for lane in [OLD, NEW] {
                for request in self.sent(lane) {
                    moved = true;
                    self.reply(lane, &answer(lane, &request));
                }
            }
        }
    }

    fn reply(&mut self, lane: LaneId, bytes: &str) {
        let generation = self.core.generation(lane.side);
        assert!(self.core.handle_lane_bytes(lane, generation, bytes.as_bytes(), self.now), "{bytes:?} answers nothing");
    }

    fn client(&mut self) -> SessionId {
        self.core.handle_client_open(Addresses::default(), self.now)
    }

    fn ask(&mut self, client: SessionId, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.core.handle_client_bytes(client, format!("*{}\r\n{bytes}", words.len()).as_bytes(), self.now);
    }
}

/// H24, H25, H32: a hash whose fields have times to live is read a second time behind its image's answer. Where a fence was raised between the two,
/// that reading would run beside the fenced request, on another connection, before or behind it, and nobody would know which: the mirror's copy
/// would be taken for one that contains the request.
#[test]
fn h25_no_second_reading_of_a_hash_runs_beside_a_fenced_request() {
    let settings = Settings { backfill: false, image_bytes_max: 0, lane_frame_max: 100, ..Settings::default() };
    let mut hand = Hand::begin("valkey 9.1.0", settings);
    let (one, two) = (hand.client(), hand.client());
    hand.ask(one, "HSET k f v");
    assert_eq!(hand.sent(OLD), ["HSET k f v"]);
    // The key is not known to be equal: its image is asked for.
    hand.reply(OLD, ":1\r\n");
    assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
    let large = format!("HSET k g {}", "x".repeat(100));
    hand.ask(two, &large);
    assert_eq!(hand.sent(OLD_BULK), [""; 0], "the image is under way");
    // Type 22: fields with times to live.
    hand.reply(OLD, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n\u{16}ab\r\n:-1\r\n");
    assert_eq!(hand.sent(OLD), [""; 0], "a reading beside the fence");
    assert_eq!(hand.sent(OLD_BULK), [large]);
    assert_eq!(hand.sent(NEW), [""; 0]);
    // When the fence has fallen, the key is read from the beginning.
    hand.reply(OLD_BULK, ":1\r\n");
    assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
}

/// A backfill has not ended while keys that it found wait on the disk, whatever the ledger says.
#[test]
fn a_backfill_is_not_done_while_keys_of_it_are_on_the_disk() {
    let settings = Settings { image_bytes_max: 0, dirty_keys_max: 2, spill_bytes_max: 1 << 20, repair_rate_max: 10, ..Settings::default() };
    let mut hand = Hand::begin("7.0.15", settings);
    (0..100).for_each(|_| hand.tick());
    assert!(hand.wanted.is_some(), "keys went to the disk, and are wanted back");
    let backfill = hand.core.status().backfill;
    assert_eq!((backfill.state, backfill.waiting), ("running", 0), "{backfill:?}");
    for _ in 0..300 {
        hand.bring();
        hand.tick();
    }
    let backfill = hand.core.status().backfill;
    assert_eq!(backfill.state, "done", "{backfill:?}");
}
