//! Moments that random histories do not meet, played by hand: the test is both servers, and answers each request when it likes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use twinlane_core::endpoint::Endpoint;
use twinlane_core::journal::{Facts, HEADER_BYTES, Journal, Known, Left, Opening, RING_BYTES_MIN};
use twinlane_core::sequencer::{
    Ack, Action, Addresses, FlushPolicy, LaneId, LaneInfo, Now, Probe, Record, Role, Sequencer, SessionId, Settings, SideUp,
};
use twinlane_core::status::{Operation, Outcome};

const OLD: LaneId = LaneId { side: Endpoint::Old, db: 0, role: Role::Shared };
const OLD_BULK: LaneId = LaneId { side: Endpoint::Old, db: 0, role: Role::Bulk };
const NEW: LaneId = LaneId { side: Endpoint::New, db: 0, role: Role::Shared };
const OLD_1: LaneId = LaneId { db: 1, ..OLD };
const NEW_1: LaneId = LaneId { db: 1, ..NEW };

fn info() -> LaneInfo {
    LaneInfo { client_id: 1, address: String::new(), run_id: String::new() }
}

/// A server as it is found; `marked`: it has the key that the proxy keeps there.
fn up(side: Endpoint, version: &str, marked: bool) -> SideUp {
    SideUp {
        run_id: format!("{side}"),
        version: version.into(),
        major: 7,
        resp: 3,
        databases: 2,
        keyspace: vec![0],
        mark: marked.then(|| b"mark".to_vec()),
        killed: true,
        lanes: vec![(0, info())],
        ..SideUp::default()
    }
}

struct Hand {
    core: Sequencer,
    now: Now,
    disk: Vec<u8>,
    wanted: Option<(usize, usize)>,
    /// It cannot be opened.
    refused: Option<LaneId>,
    /// Connections of one session each, as they were opened.
    own: Vec<LaneId>,
    /// What the operator was answered.
    outcomes: Vec<Outcome>,
}

/// See [`Hand::tick`].
fn answer(lane: LaneId, request: &str) -> String {
    let name = request.split(' ').next().unwrap_or_default();
    match name {
        "SCAN" if lane == OLD => (0..10).fold("*2\r\n$1\r\n0\r\n*10\r\n".into(), |page, n| format!("{page}$2\r\nk{n}\r\n")),
        "SCAN" => "*2\r\n$1\r\n0\r\n*0\r\n".into(),
        "EXISTS" | "EVAL" => ":1\r\n".into(),
        "MEMORY" if request == "MEMORY USAGE large" => ":800000\r\n".into(),
        "MEMORY" => ":50\r\n".into(),
        "GET" => "_\r\n".into(),
        "DUMP" | "PTTL" => "+QUEUED\r\n".into(),
        "EXEC" => "*2\r\n$3\r\n\0ab\r\n:-1\r\n".into(),
        _ => "+OK\r\n".into(),
    }
}

impl Hand {
    /// Both sides are connected, and have taken what the proxy says to begin with.
    fn begin(version: &str, settings: Settings) -> Hand {
        Hand::begin_with(version, settings, None)
    }

    /// The same with a journal.
    fn begin_with(version: &str, settings: Settings, journal: Option<(Journal, Left)>) -> Hand {
        let record = Record { installation: "by hand".into(), epoch: 1, primary: Endpoint::Old, mirroring: true };
        let core = Sequencer::new(settings, record, ["old:1".into(), "new:2".into()], false, journal);
        let mut hand =
            Hand { core, now: Now::default(), disk: Vec::new(), wanted: None, refused: None, own: Vec::new(), outcomes: Vec::new() };
        while let Some(action) = hand.core.poll_action() {
            let Action::ConnectSide { side, generation, .. } = action else { continue };
            hand.core.handle_side_up(side, generation, up(side, version, true), hand.now);
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
        bytes.extend(self.core.lane_output(lane).flatten());
        self.core.handle_lane_written(lane, generation, bytes.len());
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
                    self.own.extend(matches!(lane.role, Role::Own(_)).then_some(lane));
                    let opened = if self.refused == Some(lane) { Err("max number of clients reached".into()) } else { Ok(Some(info())) };
                    self.core.handle_lane_open(lane, generation, opened, self.now);
                }
                Action::Spill { at, bytes } => {
                    self.disk.truncate(at as usize);
                    self.disk.extend(bytes);
                    self.core.handle_spilled(Ok(()), self.now);
                }
                Action::Answer { outcome, .. } => self.outcomes.push(outcome),
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

    /// Time passes, and both servers answer everything (what is empty is no answer): `old` holds ten short strings, and `new` nothing.
    fn tick(&mut self) {
        self.tick_with(answer);
    }

    /// The same with other answers.
    fn tick_with(&mut self, mut answer: impl FnMut(LaneId, &str) -> String) {
        self.now.us += 10_000;
        self.core.handle_tick(self.now);
        let mut moved = true;
        while std::mem::take(&mut moved) {
            self.act();
            for lane in [OLD, NEW, OLD_1, NEW_1].into_iter().chain(self.own.clone()) {
                for request in self.sent(lane) {
                    moved = true;
                    let reply = answer(lane, &request);
                    if !reply.is_empty() {
                        self.reply(lane, &reply);
                    }
                }
            }
        }
    }

    /// The connection to a side is lost with all that is in flight, and made anew to the same process; `marked`: it has its mark.
    fn reconnect(&mut self, side: Endpoint, marked: bool) {
        let generation = self.core.generation(side);
        self.core.handle_side_down(side, generation, "gone", self.now);
        self.now.us += 1_000_000;
        self.core.handle_tick(self.now);
        while let Some(action) = self.core.poll_action() {
            if let Action::ConnectSide { side, generation, .. } = action {
                self.core.handle_side_up(side, generation, up(side, "7.0.15", marked), self.now);
            }
        }
    }

    /// The same of `old`, which has lost its data.
    fn reconnect_old(&mut self) {
        self.reconnect(Endpoint::Old, false);
        let begun = self.sent(NEW).len();
        self.reply(NEW, &"+OK\r\n".repeat(begun));
        assert_eq!(self.sent(OLD), ["FUNCTION LIST WITHCODE"], "no mark before the operator has decided");
        self.reply(OLD, "*0\r\n");
        assert_eq!(self.core.status().stage, "PRIMARY LOST DATA");
    }

    fn reply(&mut self, lane: LaneId, bytes: &str) {
        let generation = self.core.generation(lane.side);
        assert!(self.core.handle_lane_bytes(lane, generation, bytes.as_bytes(), self.now), "{bytes:?} answers nothing");
    }

    /// Lanes that have something to write, in the order in which the shell would write it.
    fn visit(&mut self) -> Vec<LaneId> {
        let lanes: Vec<LaneId> = std::iter::from_fn(|| self.core.poll_lane()).collect();
        lanes.iter().for_each(|lane| self.core.handle_lane_polled(*lane));
        lanes
    }

    fn client(&mut self) -> SessionId {
        self.core.handle_client_open(Addresses::default(), self.now)
    }

    /// What the client was answered since this was asked last.
    fn told(&mut self, client: SessionId) -> String {
        let told = String::from_utf8_lossy(self.core.output(client)).into_owned();
        self.core.handle_output_written(client, told.len());
        told
    }

    fn ask(&mut self, client: SessionId, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.core.handle_client_bytes(client, format!("*{}\r\n{bytes}", words.len()).as_bytes(), self.now);
    }
}

/// H37: a flip that is undone behind its question what is watched. What was written is nil to its watcher, what was not is watched on, and a connection that
/// watches for nobody any more is told so before the next session has it.
#[test]
fn h37_a_flip_that_is_undone_leaves_watches_as_they_were() {
    let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
    (0..50).for_each(|_| hand.tick());
    let (one, two) = (hand.client(), hand.client());
    hand.ask(one, "WATCH written");
    hand.ask(two, "WATCH untouched");
    hand.tick();
    assert_eq!((hand.told(one), hand.told(two)), ("+OK\r\n".into(), "+OK\r\n".into()));
    let [of_one, of_two] = hand.own[..] else { panic!("{:?}", hand.own) };
    hand.core.handle_operation(1, Operation::Flip { to: Endpoint::New, force_primary_lost: false, dry_run: false }, hand.now);
    let mut begun = 0;
    while hand.outcomes.is_empty() {
        hand.tick_with(|lane, request| match request.split(' ').next() {
            // The question what is watched; over there nobody answers.
            Some("EXEC") if lane == of_one => "*-1\r\n".into(),
            Some("EXEC") if lane == of_two => "*0\r\n".into(),
            Some("WATCH") if lane.side == Endpoint::New => {
                begun += 1;
                String::new()
            }
            _ => answer(lane, request),
        });
    }
    let Outcome::Refused { reasons, aborted: true } = &hand.outcomes[0] else { panic!("{:?}", hand.outcomes) };
    assert!(reasons.iter().any(|reason| reason.contains("what clients watch")), "{reasons:?}");
    assert_eq!(begun, 2);
    for client in [one, two] {
        ["MULTI", "GET k", "EXEC"].iter().for_each(|line| hand.ask(client, line));
    }
    assert_eq!(hand.told(one), "+OK\r\n+QUEUED\r\n*-1\r\n");
    assert_eq!(hand.sent(of_one), ["UNWATCH"]);
    assert_eq!(hand.sent(of_two), ["MULTI", "GET k", "EXEC"], "its watch, which the question ended, had begun anew behind it");
    hand.reply(of_one, "+OK\r\n");
    hand.reply(of_two, "+OK\r\n+QUEUED\r\n*1\r\n_\r\n");
    assert_eq!(hand.told(two), "+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n");
    // Whoever comes next has one of the two, which watches nothing else.
    let three = hand.client();
    hand.ask(three, "WATCH other");
    assert_eq!([hand.sent(of_one), hand.sent(of_two)].concat(), ["WATCH other"]);
}

/// What two clients send one after the other on lanes of one server leaves in that order: a PUBLISH behind the UNSUBSCRIBE of another client finds it
/// gone, as it does on a server itself.
#[test]
fn lanes_are_visited_in_the_order_in_which_they_came_to_have_something() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let (one, two) = (hand.client(), hand.client());
    hand.ask(one, "SELECT 1");
    for _ in 0..2 {
        hand.ask(one, "GET k");
        hand.tick();
        hand.ask(two, "GET k");
        hand.tick();
    }
    hand.visit();
    for first in [one, two] {
        let second = if first == one { two } else { one };
        hand.ask(first, "GET k");
        hand.ask(second, "GET k");
        let lane = |client| if client == one { OLD_1 } else { OLD };
        assert_eq!(hand.visit(), [lane(first), lane(second)]);
        for lane in [OLD, OLD_1] {
            assert_eq!(hand.sent(lane), ["GET k"]);
            hand.reply(lane, "_\r\n");
        }
        hand.visit();
    }
}

/// H28: who says QUIT, or closes its end, under `ack = "both"` is not told of a write before the mirror has confirmed it.
#[test]
fn h28_the_end_of_a_session_waits_for_the_mirror_too() {
    for end in ["QUIT", "", "BLPOP l 0"] {
        let mut hand = Hand::begin(
            "7.0.15",
            Settings { ack: Ack::Both { timeout_us: 1_000_000, strict: false }, image_bytes_max: 0, ..Settings::default() },
        );
        (0..50).for_each(|_| hand.tick());
        let client = hand.client();
        hand.ask(client, "SET k0 v");
        if !end.is_empty() {
            hand.ask(client, end);
        }
        if end != "QUIT" {
            assert!(!hand.core.handle_client_ended(client, hand.now));
        }
        let sent = hand.sent(OLD);
        assert_eq!(sent[0], "SET k0 v");
        hand.reply(OLD, if sent.len() == 1 { "+OK\r\n" } else { "+OK\r\n_\r\n" });
        assert_eq!(hand.sent(NEW), ["SET k0 v"]);
        assert_eq!(hand.told(client), "", "the mirror has not confirmed it");
        assert!(!hand.core.is_closing(client));
        hand.reply(NEW, "+OK\r\n");
        assert_eq!(hand.told(client), if end == "QUIT" { "+OK\r\n+OK\r\n" } else { "+OK\r\n" });
        assert!(hand.core.is_closing(client));
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

/// H35: which databases a mirror holds that came back without its data is asked behind the SWAPDB that it owes: it lists them by the names
/// they have there until then, and what the swap moves would never be compared.
#[test]
fn h35_databases_are_listed_behind_a_swap_that_is_owed() {
    let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
    let client = hand.client();
    (0..300).for_each(|_| hand.tick());
    assert_eq!(hand.core.status().backfill.state, "done", "{:?}", hand.core.status().backfill);
    let generation = hand.core.generation(Endpoint::New);
    hand.core.handle_side_down(Endpoint::New, generation, "gone", hand.now);
    hand.ask(client, "SWAPDB 0 1");
    // The block that renames both databases of a side, and the mark with them.
    let swaps = |request: &str| if request == "EXEC" { "*3\r\n:1\r\n+OK\r\n+OK\r\n".into() } else { "+QUEUED\r\n".to_owned() };
    hand.tick_with(|_, request| if request == "MULTI" { "+OK\r\n".into() } else { swaps(request) });
    assert_eq!(hand.told(client), "+OK\r\n");
    hand.now.us += 1_000_000;
    hand.core.handle_tick(hand.now);
    while let Some(action) = hand.core.poll_action() {
        if let Action::ConnectSide { side, generation, .. } = action {
            hand.core.handle_side_up(side, generation, up(side, "7.0.15", false), hand.now);
        }
    }
    // The mirror does not answer that block for a while, and nothing behind it.
    let (mut walked, mut held) = (0, String::new());
    let mut ticks = |hand: &mut Hand, count: usize, answers: bool| {
        for _ in 0..count {
            hand.tick_with(|lane, request| {
                walked += usize::from(request.starts_with("SCAN"));
                let reply = answer(lane, request);
                if lane.side == Endpoint::New && !answers && (request == "EXEC" || !held.is_empty()) {
                    held += &reply;
                    return String::new();
                }
                reply
            });
        }
        (std::mem::take(&mut walked), std::mem::take(&mut held))
    };
    let (walked, held) = ticks(&mut hand, 50, false);
    let listed = hand.core.status().backfill.databases.len();
    assert_eq!((walked, listed), (0, 0), "the mirror has other names for its databases");
    hand.reply(NEW, &held.replacen("*2\r\n$3\r\n\0ab\r\n:-1\r\n", "*3\r\n:1\r\n+OK\r\n+OK\r\n", 1));
    let (walked, _) = ticks(&mut hand, 300, true);
    assert_eq!((walked, hand.core.status().backfill.state), (4, "done"), "two databases of two sides");
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

/// Whether the key that the operator asks for is read within so many ticks, with a client that asks something, `ask`, in each.
fn is_repaired(hand: &mut Hand, ask: &str, ticks: usize) -> bool {
    let client = hand.client();
    let asks = |hand: &mut Hand| {
        hand.ask(client, ask);
        let mut read = false;
        hand.tick_with(|lane, request| {
            read |= lane == OLD && request == "DUMP late";
            answer(lane, request)
        });
        read
    };
    (0..50).for_each(|_| _ = asks(hand));
    let operation = Operation::RepairKey { db: 0, key: b"late".to_vec() };
    hand.core.handle_operation(1, operation, hand.now);
    (0..ticks).any(|_| asks(hand))
}

/// Keys that were copied while nobody waited were owed as soon as clients came: of a million, none was healed for minutes.
#[test]
fn what_was_copied_while_nobody_waited_is_not_owed() {
    let settings = Settings { image_bytes_max: 0, ..Settings::default() };
    let mut hand = Hand::begin("7.0.15", settings);
    for _ in 0..100 {
        hand.tick_with(|lane, request| match request.split(' ').collect::<Vec<_>>()[..] {
            ["SCAN", page, ..] if lane == OLD => {
                let page: usize = page.parse().unwrap();
                let next = if page < 200 { page + 1 } else { 0 }.to_string();
                let keys = (1000..1100).map(|n| format!("$8\r\n{page:03}:{n}\r\n"));
                format!("*2\r\n${}\r\n{next}\r\n*100\r\n{}", next.len(), keys.collect::<String>())
            }
            _ => answer(lane, request),
        });
    }
    assert_eq!(hand.core.status().backfill.state, "done");
    assert!(is_repaired(&mut hand, "GET other", 10));
}

/// A flip waits for no pace and for no rate, and what it heals is not owed when it is undone.
#[test]
fn what_a_flip_healed_is_not_owed() {
    let settings = Settings { image_bytes_max: 0, repair_rate_max: 100, ..Settings::default() };
    let mut hand = Hand::begin("7.0.15", settings);
    let client = hand.client();
    (0..50).for_each(|_| hand.tick());
    for n in 0..10_000 {
        // The mirror's reply is another one.
        hand.ask(client, &format!("SADD k{n} v"));
    }
    hand.tick_with(|lane, request| match request.split(' ').next() {
        Some("SADD") if lane == OLD => ":1\r\n".into(),
        _ => answer(lane, request),
    });
    let flip = Operation::Flip { to: Endpoint::New, force_primary_lost: false, dry_run: false };
    hand.core.handle_operation(2, flip, hand.now);
    let mut restored = 0;
    for _ in 0..300 {
        hand.tick_with(|lane, request| match request.split(' ').next() {
            Some("RESTORE") => {
                restored += 1;
                // The mirror is full for a moment, so the flip is undone.
                if restored == 9_990 { "-OOM command not allowed\r\n".into() } else { answer(lane, request) }
            }
            _ => answer(lane, request),
        });
    }
    assert!(restored >= 9_990 && hand.core.status().flip == "idle", "{restored}");
    assert!(is_repaired(&mut hand, "GET other", 10));
}

/// H59: a script's images are no repairs. Where one wrote a large key all the time, no repair had its turn any more.
#[test]
fn images_of_scripts_hold_no_repair_up() {
    let settings = Settings { backfill: false, ..Settings::default() };
    let mut hand = Hand::begin("7.0.15", settings);
    assert!(is_repaired(&mut hand, "EVAL x 1 large", 10));
}

/// A client whose script writes a key so often that twenty images of it are on their way when the mirror answers the first, with what is said for each.
fn many_images(answer_of: impl Fn(usize) -> &'static str) -> Hand {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, image_bytes_max: 0, ..Settings::default() });
    let client = hand.client();
    (0..50).for_each(|_| hand.tick());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        hand.ask(client, "EVAL x 1 k");
        hand.tick_with(|lane, request| {
            if lane == NEW {
                waiting.push(request.starts_with("RESTORE"));
                return String::new();
            }
            answer(lane, request)
        });
    }
    assert_eq!(waiting.iter().filter(|image| **image).count(), 20);
    let mut images = 0..;
    let answers = waiting.iter().map(|image| if *image { answer_of(images.next().unwrap_or(0)) } else { "+OK\r\n" });
    hand.reply(NEW, &answers.collect::<String>());
    hand
}

/// H34: a mirror of another version refuses every payload that is on its way when the first answer tells that it cannot read them. A key that was written
/// all the time had six of them there, and was set aside for good before it was once copied type by type.
#[test]
fn h34_payloads_that_were_on_their_way_are_no_failures_of_their_key() {
    let mut hand = many_images(|_| "-ERR DUMP payload version or checksum are wrong\r\n");
    let mut typed = false;
    hand.tick_with(|lane, request| {
        typed |= lane == OLD && request == "TYPE k";
        if lane == OLD && request == "EXEC" { String::new() } else { answer(lane, request) }
    });
    assert!(typed, "{:?}", hand.core.status().alarms);
    assert_eq!(hand.core.status().mirror.unmirrorable_keys, 0);
}

/// A key that is doubtful all the time is set aside for images that failed in a row, not for some of a thousand.
#[test]
fn images_fail_in_a_row_or_not_at_all() {
    let hand = many_images(|image| if image % 2 == 0 { "-ERR no\r\n" } else { "+OK\r\n" });
    assert_eq!(hand.core.status().mirror.unmirrorable_keys, 0, "{:?}", hand.core.status().alarms);
    let hand = many_images(|_| "-ERR no\r\n");
    assert_eq!(hand.core.status().mirror.unmirrorable_keys, 1);
}

/// A client of a pair whose primary has lost its data, and whose operator has not decided; images are read without a question for their size.
fn lossy() -> (Hand, SessionId) {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, image_bytes_max: 0, ..Settings::default() });
    hand.reconnect_old();
    let client = hand.client();
    (hand, client)
}

/// H12: a key that clients wrote since a loss, and that died on the primary while its image was on its way, was taken for equal.
#[test]
fn h12_a_key_that_dies_behind_its_image_while_a_loss_waits_is_in_doubt() {
    let (mut hand, client) = lossy();
    hand.ask(client, "SADD k a");
    assert_eq!(hand.sent(OLD), ["SADD k a"]);
    hand.reply(OLD, ":1\r\n");
    assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
    hand.reply(OLD, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n\0ab\r\n:-1\r\n");
    assert_eq!(hand.sent(NEW), ["RESTORE k 0 \0ab REPLACE"]);
    hand.core.handle_key_event(Endpoint::Old, hand.core.generation(Endpoint::Old), 0, b"k", hand.now);
    assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
    hand.reply(OLD, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n_\r\n:-2\r\n");
    assert_eq!(hand.sent(NEW), ["UNLINK k"]);
}

/// H12: a write that was in flight when the connection broke may not have run. Its key was read anew, and was deleted on the mirror, which had the
/// only copy.
#[test]
fn h12_a_write_of_unknown_fate_does_not_carry_the_loss_to_the_mirror() {
    let (mut hand, client) = lossy();
    hand.ask(client, "HSET k f v");
    assert_eq!(hand.sent(OLD), ["HSET k f v"]);
    hand.reconnect_old();
    (0..10).for_each(|_| hand.tick_with(|lane, request| panic!("{request} on {lane:?}")));
    // What a client is told of is on the primary.
    let client = hand.client();
    hand.ask(client, "HSET k g v");
    assert_eq!(hand.sent(OLD), ["HSET k g v"]);
    hand.reply(OLD, ":1\r\n");
    assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
}

/// H2, H32: an image tells when the key ends by the mirror's clock, however long it waits for its turn there; how long it lives where that clock is
/// not known, or RESTORE takes no such end.
#[test]
fn h32_an_image_tells_when_its_key_ends_by_the_mirrors_clock() {
    let hour = 3_600_000;
    let told = [("7.0.15", Some(hour), "RESTORE k 4610500 \0ab REPLACE ABSTTL"), ("7.0.15", None, "RESTORE k 10500 \0ab REPLACE")];
    for (version, offset, image) in told.into_iter().chain([("4.0.14", Some(hour), "RESTORE k 10500 \0ab REPLACE")]) {
        let mut hand = Hand::begin(version, Settings { backfill: false, image_bytes_max: 0, ..Settings::default() });
        hand.now.unix_ms = 1_000_000;
        for (side, clock_offset_ms) in [(Endpoint::New, offset), (Endpoint::Old, Some(-hour))] {
            hand.core.handle_probe(side, Probe { clock_offset_ms, evicted_keys: Some(0), ..Probe::default() }, hand.now);
        }
        let client = hand.client();
        hand.sent(OLD);
        hand.ask(client, "SADD k a");
        assert_eq!(hand.sent(OLD), ["SADD k a"]);
        hand.reply(OLD, ":1\r\n");
        assert_eq!(hand.sent(OLD), ["MULTI", "DUMP k", "PTTL k", "EXEC"]);
        hand.reply(OLD, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n\0ab\r\n:10000\r\n");
        assert_eq!(hand.sent(NEW).last().map(String::as_str), Some(image), "{version} {offset:?}");
    }
}

/// I4: what a mirror had in flight when it died is doubted a few effects at a time. The journal names each of them until then, they count as keys in
/// doubt, and a SWAPDB finds all of them in the ledger.
#[test]
fn i4_what_a_dead_mirror_left_in_flight_is_named_at_every_moment() {
    const EFFECTS: usize = 1_000;
    let opening = Opening { installation: "by hand", file: [1; 3], boot: "boot", synced: false };
    let journal = || Journal::open(Box::new(vec![0u8; HEADER_BYTES + (1 << 20)]), &opening).unwrap();
    let key = |n: usize| format!("k{n}").into_bytes();
    for swapped in [false, true] {
        let mut hand = Hand::begin_with("7.0.15", Settings::default(), Some(journal()));
        let client = hand.client();
        (0..300).for_each(|_| hand.tick());
        assert_eq!((hand.core.status().backfill.state, hand.core.status().mirror.dirty_keys), ("done", 0));
        (0..EFFECTS).for_each(|n| hand.ask(client, &format!("SET k{n} v")));
        let asked = hand.sent(OLD).len();
        hand.reply(OLD, &"+OK\r\n".repeat(asked));
        hand.sent(NEW);
        hand.core.handle_side_down(Endpoint::New, hand.core.generation(Endpoint::New), "gone", hand.now);
        if swapped {
            hand.ask(client, "SWAPDB 0 1");
        }
        let ticks = EFFECTS / 100;
        for tick in 1..=ticks {
            hand.tick_with(|_, request| match request {
                "MULTI" => "+OK\r\n".into(),
                "EXEC" => "*3\r\n:1\r\n+OK\r\n+OK\r\n".into(),
                _ => "+QUEUED\r\n".into(),
            });
            assert_eq!(hand.core.status().mirror.dirty_keys, EFFECTS);
            assert!((0..EFFECTS).all(|n| hand.core.explains(u16::from(swapped), &key(n))));
            let pages = hand.core.journal_bytes().unwrap().to_vec();
            let (_, left) = Journal::open(Box::new(pages), &opening).unwrap();
            let Left::Known { keys, .. } = left else { panic!("{left:?}") };
            // By the database's name behind the swap as well, when all are in the ledger.
            let by_name = |db: u16| tick < ticks || db == u16::from(swapped);
            let named = |n: usize| keys.iter().any(|(db, named)| by_name(*db) && *named == key(n));
            assert!((0..EFFECTS).all(named), "{} keys are named", keys.len());
        }
    }
}

/// H14, H29: behind `CONFIG RESETSTAT` a server counts from zero again: what it evicted from then on was not noticed before it had evicted as much
/// as ever. One lower count alone is an answer that came late.
#[test]
fn h14_evictions_are_counted_behind_a_reset_of_the_counters() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let mut look = |side: Endpoint, evicted_keys: u64| {
        hand.core.handle_probe(side, Probe { evicted_keys: Some(evicted_keys), ..Probe::default() }, hand.now);
        hand.core.status().alarms.iter().filter(|alarm| alarm.contains("evicted keys")).count()
    };
    for (at, side) in [Endpoint::New, Endpoint::Old].into_iter().enumerate() {
        assert_eq!([1_000, 999, 1_000, 0, 0].map(|count| look(side, count)), [at; 5], "{side}");
        assert_eq!(look(side, 1), at + 1, "{side}");
    }
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    for count in [1_000, 5, 6] {
        hand.core.handle_probe(Endpoint::New, Probe { evicted_keys: Some(count), ..Probe::default() }, hand.now);
    }
    assert_eq!(hand.core.status().alarms.len(), 1, "{:?}", hand.core.status().alarms);
}

/// I7: a look that was not answered told of no evictions, and of no clock: the first answer behind it looked like both.
#[test]
fn i7_a_look_without_an_answer_tells_nothing() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    for side in [Endpoint::New, Endpoint::Old] {
        let unanswered = Probe { error: Some("no answer".into()), ..hand.core.last_probe(side) };
        let answered = Probe { evicted_keys: Some(7), clock_offset_ms: Some(9_000), expires: [(0, 1)].into(), ..Probe::default() };
        [unanswered, answered].into_iter().for_each(|probe| hand.core.handle_probe(side, probe, hand.now));
    }
    assert_eq!(hand.core.status().alarms, [""; 0]);
    while let Some(action) = hand.core.poll_action() {
        assert!(!matches!(&action, Action::Log { text, .. } if text.contains("jumped")), "{action:?}");
    }
}

/// A process that was killed while a loss waited leaves the names of what clients wrote since and the mirror had not confirmed: the next one holds
/// them for older than the loss, and a forced cutover would miss them without a word.
#[test]
fn h12_a_restart_while_a_loss_waits_tells_of_writes_that_a_forced_cutover_may_miss() {
    let told = |known: Known, keys: &[&[u8]]| {
        let opening = Opening { installation: "by hand", file: [1; 3], boot: "boot", synced: false };
        let (journal, _) = Journal::open(Box::new(vec![0u8; HEADER_BYTES + RING_BYTES_MIN]), &opening).unwrap();
        let mut facts = Facts { epoch: 1, ..Facts::default() };
        facts.databases[0] = known;
        let left = Left::Known { facts, keys: keys.iter().map(|key| (0, key.to_vec())).collect(), spilled: (0, 0) };
        let record = Record { installation: "by hand".into(), epoch: 1, primary: Endpoint::Old, mirroring: true };
        let core = Sequencer::new(Settings::default(), record, ["old:1".into(), "new:2".into()], true, Some((journal, left)));
        core.status().alarms.iter().any(|alarm| alarm.starts_with("WRITES SINCE THE LOSS"))
    };
    assert!(told(Known::Nothing, &[b"k"]));
    assert!(!told(Known::Nothing, &[]), "all was confirmed");
    assert!(!told(Known::Equal, &[b"k"]), "the primary lost its data behind the end of that process");
}

/// H12: the alarm of a loss names the mirror as the better copy. When that comes back without its data as well, a forced cutover would go on from nothing.
#[test]
fn h12_a_mirror_that_loses_its_data_while_a_loss_waits_is_no_better_copy() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let told = |hand: &Hand| hand.core.status().alarms.iter().filter(|alarm| alarm.contains("look at it before a forced cutover")).count();
    hand.reconnect_old();
    hand.reconnect(Endpoint::New, true);
    assert_eq!(told(&hand), 0, "its connection was lost, and nothing else");
    hand.reconnect(Endpoint::New, false);
    assert_eq!(told(&hand), 1);
}

/// Keys in doubt of a database whose lane the mirror refuses filled the room that a walk has for its own: no other database was walked any more.
#[test]
fn a_database_that_cannot_be_reached_holds_no_backfill_of_others_up() {
    let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
    hand.refused = Some(NEW_1);
    let client = hand.client();
    hand.ask(client, "SELECT 1");
    (0..600).for_each(|n| hand.ask(client, &format!("SET k{n} v")));
    (0..100).for_each(|_| hand.tick());
    assert_eq!(hand.core.status().backfill.keys_done, 10, "{:?}", hand.core.status().backfill);
    hand.refused = None;
    (0..100).for_each(|_| hand.tick());
    assert_eq!(hand.core.status().mirror.dirty_keys, 0);
}

/// A half-closed client that reads all the time: its socket takes bytes in lumps (a third of the send buffer), every 7 s at 200 kB/s.
#[test]
fn a_slow_client_that_closed_its_end_gets_its_whole_reply() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let client = hand.client();
    hand.tick();
    hand.ask(client, "GET big");
    hand.sent(OLD);
    let big = "x".repeat(8_000_000);
    hand.reply(OLD, &format!("$8000000\r\n{big}\r\n"));
    let whole = hand.core.output(client).len();
    let mut taken = 4_000_000;
    hand.core.handle_output_written(client, taken);
    assert!(!hand.core.handle_client_ended(client, hand.now));
    while taken < whole {
        for _ in 0..700 {
            hand.now.us += 10_000;
            hand.core.handle_tick(hand.now);
        }
        let lump = hand.core.output(client).len().min(1_300_000);
        assert!(lump > 0, "the reply is cut off behind {taken} of {whole} bytes");
        hand.core.handle_output_written(client, lump);
        taken += lump;
    }
}

/// Two clients, of which the first has asked for what is large, and both for what is not.
fn relaying(settings: Settings) -> (Hand, [SessionId; 2]) {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, relay_bytes_min: 20, ..settings });
    let clients = [hand.client(), hand.client()];
    hand.tick();
    hand.ask(clients[0], "GET large");
    hand.ask(clients[0], "GET small");
    hand.ask(clients[1], "GET small");
    assert_eq!(hand.sent(OLD), ["GET large", "GET small", "GET small"]);
    (hand, clients)
}

/// A large reply is told as it comes, wherever the connection cuts it, and nothing stands in it that is no part of it.
#[test]
fn a_large_reply_goes_as_it_comes() {
    let whole = format!("$30\r\n{}\r\n$1\r\ns\r\n$1\r\nt\r\n", "x".repeat(30));
    for first in 1..whole.len() {
        for second in first..whole.len() {
            let (mut hand, [client, other]) = relaying(Settings::default());
            let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
            let mut told = String::new();
            for (piece, end) in pieces.into_iter().zip([first, second, whole.len()]) {
                hand.reply(OLD, piece);
                told += &hand.told(client);
                // Its header is known, and its end is not there.
                if (5..36).contains(&first) && (5..36).contains(&end) {
                    assert_eq!(told.len(), end, "cut at {first} and {second}");
                }
            }
            assert_eq!((told, hand.told(other)), (whole[..44].into(), whole[44..].into()), "cut at {first} and {second}");
        }
    }
}

/// What comes up amid it stands behind it: replies of the proxy's own, and what the client is told unasked.
#[test]
fn nothing_stands_within_a_large_reply() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, relay_bytes_min: 20, ..Settings::default() });
    let client = hand.client();
    hand.ask(client, "HELLO 3");
    hand.ask(client, "SUBSCRIBE c");
    hand.act();
    let feed = hand.own[0];
    hand.sent(feed);
    hand.reply(feed, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    hand.told(client);
    hand.ask(client, "GET large");
    assert_eq!(hand.sent(OLD), ["GET large"]);
    hand.reply(OLD, "$30\r\n0123456789");
    assert_eq!(hand.told(client), "$30\r\n0123456789");
    let message = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
    hand.reply(feed, message);
    hand.ask(client, "CLIENT GETNAME");
    assert_eq!(hand.told(client), "");
    hand.reply(OLD, "01234567890123456789\r\n");
    assert_eq!(hand.told(client), format!("01234567890123456789\r\n{message}_\r\n"));
}

/// Who was told a part of a reply is not told another one when the connection to the server is lost, nor an error: its own ends. The others' reads are
/// asked again.
#[test]
fn a_large_reply_that_was_told_in_part_is_not_asked_for_again() {
    let (mut hand, [client, other]) = relaying(Settings::default());
    hand.reply(OLD, "$30\r\n0123456789");
    hand.reconnect(Endpoint::Old, true);
    assert_eq!((hand.told(client), hand.core.is_closing(client)), ("$30\r\n0123456789".into(), true));
    hand.tick_with(|_, request| if request == "GET small" { "$1\r\ns\r\n".into() } else { answer(OLD, request) });
    assert_eq!((hand.told(client), hand.told(other), hand.core.is_closing(other)), (String::new(), "$1\r\ns\r\n".into(), false));
}

/// A client that is closed amid it, or does not read it, or goes: it is told nothing more, and the others get theirs.
#[test]
fn a_large_reply_outlives_its_client() {
    for end in ["CLIENT KILL", "output bound", "goes"] {
        let (mut hand, [client, other]) = relaying(Settings { client_output_max: 25, ..Settings::default() });
        hand.reply(OLD, "$30\r\n0123456789");
        if end == "CLIENT KILL" {
            hand.ask(other, &format!("CLIENT KILL ID {}", client.number()));
        } else if end == "goes" {
            hand.core.handle_client_closed(client, hand.now);
        }
        hand.reply(OLD, "0123456789");
        hand.reply(OLD, "0123456789\r\n$1\r\ns\r\n$1\r\nt\r\n");
        assert_eq!((hand.told(client), hand.core.is_closing(client)), (String::new(), true), "{end}");
        assert_eq!(hand.told(other), if end == "CLIENT KILL" { "$1\r\nt\r\n:1\r\n" } else { "$1\r\nt\r\n" }, "{end}");
    }
}

/// Who was told a part of something, and the rest was thrown away, is told nothing behind it: it would be taken for the rest.
#[test]
fn nothing_stands_behind_a_reply_that_was_cut() {
    // Replies behind the one that crossed the bound, and behind a kill.
    for killed in [false, true] {
        let bound = if killed { 1_000 } else { 60 };
        let mut hand = Hand::begin("7.0.15", Settings { backfill: false, client_output_max: bound, ..Settings::default() });
        let (client, other) = (hand.client(), hand.client());
        hand.tick();
        (0..3).for_each(|_| hand.ask(client, "GET k"));
        hand.sent(OLD);
        let reply = format!("$50\r\n{}\r\n", "x".repeat(50));
        hand.reply(OLD, &reply);
        hand.core.handle_output_written(client, 20);
        if killed {
            hand.ask(other, &format!("CLIENT KILL ID {}", client.number()));
        }
        hand.reply(OLD, &reply.repeat(2));
        assert_eq!((hand.told(client), hand.core.is_closing(client)), (String::new(), true), "killed: {killed}");
    }
    // Messages behind the one that crossed a subscriber's.
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, subscriber_output_max: 60, ..Settings::default() });
    let client = hand.client();
    hand.ask(client, "SUBSCRIBE c");
    hand.act();
    let feed = hand.own[0];
    hand.sent(feed);
    hand.reply(feed, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    hand.told(client);
    let message = format!(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$30\r\n{}\r\n", "m".repeat(30));
    hand.reply(feed, &message.repeat(4));
    assert_eq!((hand.told(client), hand.core.is_closing(client)), (String::new(), true));
}

/// A reply that does not end where it said it would breaks the connection, as one that is kept does.
#[test]
fn a_large_reply_ends_where_it_says() {
    for (last, end) in [("\r", "x"), ("", "x\n"), ("", "\n\r"), ("", "x")] {
        let (mut hand, [client, _]) = relaying(Settings::default());
        hand.reply(OLD, &format!("$30\r\n{}", "0".repeat(20)));
        hand.reply(OLD, &format!("{}{last}", "0".repeat(10)));
        let generation = hand.core.generation(Endpoint::Old);
        assert!(!hand.core.handle_lane_bytes(OLD, generation, end.as_bytes(), hand.now), "{last:?} and {end:?}");
        assert_eq!(hand.told(client).len(), 35 + last.len());
        hand.reconnect(Endpoint::Old, true);
        assert!(hand.core.is_closing(client));
    }
}

/// The lane goes on behind it: its client has it written, and a request that waits for what is in flight waits for no more.
#[test]
fn a_large_reply_counts_when_it_is_whole() {
    let (mut hand, [client, other]) = relaying(Settings { lane_frame_max: 100, ..Settings::default() });
    let large = format!("SET k {}", "x".repeat(100));
    hand.ask(other, &large);
    while let Some(touched) = hand.core.poll_session() {
        hand.core.handle_session_polled(touched);
    }
    hand.reply(OLD, "$30\r\n0123456789");
    assert_eq!((hand.core.poll_session(), hand.core.poll_session()), (Some(client), None));
    hand.reply(OLD, "01234567890123456789\r\n$1\r\ns\r\n");
    assert_eq!(hand.sent(OLD_BULK), [""; 0]);
    hand.reply(OLD, "$1\r\nt\r\n");
    assert_eq!(hand.sent(OLD_BULK), [large]);
}

/// A half-closed client that reads every piece at once is waited for while pieces come.
#[test]
fn a_large_reply_that_comes_slowly_is_waited_for() {
    let (mut hand, [client, _]) = relaying(Settings::default());
    hand.reply(OLD, "$30\r\n");
    assert!(!hand.core.handle_client_ended(client, hand.now));
    for piece in 0..30 {
        for _ in 0..300 {
            hand.now.us += 10_000;
            hand.core.handle_tick(hand.now);
        }
        hand.reply(OLD, "x");
        assert_eq!(hand.told(client), if piece == 0 { "$30\r\nx" } else { "x" });
    }
    hand.reply(OLD, "\r\n$1\r\ns\r\n");
    assert_eq!((hand.told(client), hand.core.is_closing(client)), ("\r\n$1\r\ns\r\n".into(), true));
}

/// What may be compared with the mirror's, and what cannot be told at once, is kept until it is whole.
#[test]
fn a_reply_that_is_needed_as_a_whole_is_kept() {
    let shadow = twinlane_core::shadow::ShadowWish { per_million: 1_000_000, ..Default::default() };
    let (mut hand, [client, _]) = relaying(Settings { shadow, ..Settings::default() });
    hand.reply(OLD, "$30\r\n0123456789");
    assert_eq!(hand.told(client), "");
    hand.reply(OLD, "01234567890123456789\r\n");
    assert_eq!(hand.told(client).len(), 37);
    // What is too large to be compared is not kept, and counted like it.
    let skipped = |hand: &Hand| hand.core.status().shadow.total.skipped.iter().sum::<u64>();
    hand.reply(OLD, "$1\r\ns\r\n$1\r\nt\r\n");
    hand.told(client);
    let before = skipped(&hand);
    hand.ask(client, "GET larger");
    hand.sent(OLD);
    hand.reply(OLD, "$2000000\r\nx");
    assert_eq!(hand.told(client), "$2000000\r\nx");
    hand.reply(OLD, &format!("{}\r\n", "x".repeat(1_999_999)));
    assert_eq!(skipped(&hand), before + 1);
    // Behind a write that the mirror has not confirmed.
    let ack = Ack::Both { timeout_us: 1_000_000, strict: false };
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, relay_bytes_min: 20, ack, image_bytes_max: 0, ..Settings::default() });
    let client = hand.client();
    hand.tick();
    hand.ask(client, "SET k v");
    hand.ask(client, "GET large");
    hand.sent(OLD);
    hand.reply(OLD, "+OK\r\n$30\r\n0123456789");
    assert_eq!(hand.told(client), "");
    hand.reply(OLD, "01234567890123456789\r\n");
    assert_eq!(hand.told(client), "");
    assert_eq!(hand.sent(NEW), ["SET k v"]);
    hand.reply(NEW, "+OK\r\n");
    assert_eq!(hand.told(client).len(), 5 + 37);
}

/// The same while a command is still unanswered: what was answered already and is not read yet.
#[test]
fn replies_before_a_wait_are_still_owed() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let client = hand.client();
    hand.tick();
    hand.ask(client, "GET big");
    hand.sent(OLD);
    hand.reply(OLD, "$3\r\nbig\r\n");
    hand.ask(client, "WAIT 5 0");
    (0..3).for_each(|_| hand.tick_with(|_, request| if request.starts_with("WAIT") { String::new() } else { answer(OLD, request) }));
    assert!(!hand.core.handle_client_ended(client, hand.now));
    for _ in 0..600 {
        hand.now.us += 10_000;
        hand.core.handle_tick(hand.now);
    }
    assert_eq!(hand.told(client), "$3\r\nbig\r\n");
}

/// WAIT that is never answered, in a session that hears messages all the time.
#[test]
fn a_subscriber_that_closed_its_end_is_not_kept_for_ever() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let client = hand.client();
    hand.tick();
    let answers = |lane: LaneId, request: &str| match request.split(' ').next().unwrap_or_default() {
        "WAIT" => String::new(),
        "SUBSCRIBE" => ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n".into(),
        _ => answer(lane, request),
    };
    hand.ask(client, "HELLO 3");
    (0..3).for_each(|_| hand.tick_with(answers));
    hand.ask(client, "SUBSCRIBE c");
    (0..3).for_each(|_| hand.tick_with(answers));
    hand.told(client);
    let feed = hand.own[0];
    hand.ask(client, "WAIT 5 0");
    (0..3).for_each(|_| hand.tick_with(answers));
    assert!(!hand.core.handle_client_ended(client, hand.now));
    for n in 0..6_000 {
        hand.tick_with(answers);
        if n % 100 == 0 && !hand.core.is_closing(client) {
            hand.reply(feed, ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
        }
        hand.told(client);
    }
    assert!(hand.core.is_closing(client), "a minute later it is still there");
}

/// A dead connection wrote before a SWAPDB; its grace ends behind it.
#[test]
fn h1_what_a_zombie_may_have_written_is_doubted_where_it_is_now() {
    let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
    let client = hand.client();
    (0..300).for_each(|_| hand.tick());
    hand.ask(client, "SET z v");
    hand.tick_with(|lane, request| if lane.side == Endpoint::New { String::new() } else { answer(lane, request) });
    let generation = hand.core.generation(Endpoint::New);
    hand.core.handle_side_down(Endpoint::New, generation, "gone", hand.now);
    hand.now.us += 1_000_000;
    hand.core.handle_tick(hand.now);
    while let Some(action) = hand.core.poll_action() {
        if let Action::ConnectSide { side, generation, .. } = action {
            hand.core.handle_side_up(side, generation, SideUp { killed: false, ..up(side, "7.0.15", true) }, hand.now);
        }
    }
    (0..500).for_each(|_| hand.tick());
    assert!(!hand.core.explains(0, b"z"), "healed");
    // Here the zombie runs SET z on database 0.
    hand.ask(client, "SWAPDB 0 1");
    for _ in 0..5 {
        hand.tick_with(|_, request| match request {
            "MULTI" => "+OK\r\n".into(),
            "EXEC" => "*3\r\n:1\r\n+OK\r\n+OK\r\n".into(),
            request if request.starts_with("SCAN") => "*2\r\n$1\r\n0\r\n*0\r\n".into(),
            _ => "+QUEUED\r\n".into(),
        });
    }
    hand.now.us += 61_000_000;
    hand.core.handle_tick(hand.now);
    assert!(hand.core.explains(1, b"z"), "database 1 has the key now");
}

/// More effects were in flight than the ledger takes, and a client empties the primary, which the policy does not mirror, right behind the death.
#[test]
fn h12_what_was_lost_before_the_loss_hides_no_write_since() {
    let settings = Settings { dirty_keys_max: 100, spill_bytes_max: 0, flush: [FlushPolicy::Alarm; 3], ..Settings::default() };
    let mut hand = Hand::begin("7.0.15", settings);
    let client = hand.client();
    (0..300).for_each(|_| hand.tick());
    (0..400).for_each(|n| hand.ask(client, &format!("SET k{n} v")));
    let asked = hand.sent(OLD).len();
    hand.reply(OLD, &"+OK\r\n".repeat(asked));
    hand.sent(NEW);
    hand.core.handle_side_down(Endpoint::New, hand.core.generation(Endpoint::New), "gone", hand.now);
    hand.ask(client, "FLUSHALL");
    for _ in 0..4 {
        let asked = hand.sent(OLD);
        let reply = |request: &String| match request.as_str() {
            "FLUSHALL" | "MULTI" | "SET since v" => "+OK\r\n",
            "EXEC" => "*2\r\n+OK\r\n+OK\r\n",
            _ => "+QUEUED\r\n",
        };
        asked.iter().for_each(|request| hand.reply(OLD, reply(request)));
    }
    assert_eq!(hand.core.status().stage, "PRIMARY LOST DATA");
    hand.ask(client, "SET since v");
    assert_eq!(hand.sent(OLD), ["SET since v"]);
    hand.reply(OLD, "+OK\r\n");
    let named = |hand: &Hand| hand.core.dirty(1000).items.iter().any(|item| &*item.key == b"since");
    (0..10).for_each(|_| hand.tick());
    assert!(named(&hand), "a write since the loss is not named any more: {:?}", hand.core.status().alarms);
    assert!(!hand.core.status().alarms.iter().any(|alarm| alarm.starts_with("WRITES SINCE")), "{:?}", hand.core.status().alarms);
}

/// As i4, and the mirror comes back at once; then the roles move.
#[test]
fn i4_nothing_is_forgotten_when_the_mirror_comes_back_at_once() {
    let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
    let client = hand.client();
    (0..300).for_each(|_| hand.tick());
    (0..1000).for_each(|n| hand.ask(client, &format!("SET k{n} v")));
    let asked = hand.sent(OLD).len();
    hand.reply(OLD, &"+OK\r\n".repeat(asked));
    hand.sent(NEW);
    hand.core.handle_side_down(Endpoint::New, hand.core.generation(Endpoint::New), "gone", hand.now);
    hand.now.us += 250_000;
    hand.core.handle_tick(hand.now);
    while let Some(action) = hand.core.poll_action() {
        if let Action::ConnectSide { side, generation, .. } = action {
            hand.core.handle_side_up(side, generation, up(side, "7.0.15", true), hand.now);
        }
    }
    assert_eq!(hand.core.dirty(10).by_cause.iter().map(|(_, n)| n).sum::<usize>(), 1000);
    // What needs what was there goes as an image.
    hand.ask(client, "APPEND k999 w");
    hand.sent(OLD);
    let asked = hand.sent(NEW);
    assert!(!asked.iter().any(|request| request.starts_with("APPEND")), "{asked:?}");
}
/// Who has closed its end and reads nothing any more is not kept for ever.
#[test]
fn a_deaf_client_that_closed_its_end_is_not_kept_for_ever() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let client = hand.client();
    hand.tick();
    hand.ask(client, "GET big");
    hand.sent(OLD);
    hand.reply(OLD, "$3\r\nbig\r\n");
    assert!(!hand.core.handle_client_ended(client, hand.now));
    let mut seconds = 0;
    while !hand.core.output(client).is_empty() {
        hand.now.us += 1_000_000;
        hand.core.handle_tick(hand.now);
        seconds += 1;
        assert!(seconds < 100, "it is kept");
    }
    assert!(seconds > 30 && hand.core.is_closing(client), "{seconds}");
}

/// I7: an image that came late left a time to live that is too long by as much, and the next process compares it: it must know of the delay.
#[test]
fn i7_how_late_images_came_is_in_the_journal() {
    let opening = Opening { installation: "by hand", file: [1; 3], boot: "boot", synced: false };
    let open = |pages: Vec<u8>| Journal::open(Box::new(pages), &opening).unwrap();
    let mut hand = Hand::begin_with("6.2.0", Settings::default(), Some(open(vec![0; HEADER_BYTES + RING_BYTES_MIN])));
    // The mirror takes two seconds for its images.
    let mut late = 0;
    for _ in 0..20 {
        hand.tick_with(|lane, request| {
            let waits = late > 0 || request.starts_with("RESTORE");
            if lane == NEW && waits {
                late += 1;
                return String::new();
            }
            answer(lane, request).replace(":-1\r\n", ":100000\r\n")
        });
    }
    hand.now.us += 2_000_000;
    hand.reply(NEW, &"+OK\r\n".repeat(late));
    (0..300).for_each(|_| hand.tick());
    let delay = |left: &Left| if let Left::Known { facts, .. } = left { facts.delay_max_us } else { panic!("{left:?}") };
    let (journal, left) = open(hand.core.journal_bytes().unwrap().to_vec());
    assert!(delay(&left) >= 2_000_000);
    let mut next = Hand::begin_with("6.2.0", Settings::default(), Some((journal, left.clone())));
    (0..300).for_each(|_| next.tick());
    let (_, again) = open(next.core.journal_bytes().unwrap().to_vec());
    assert_eq!(delay(&again), delay(&left));
}

/// Who is told that its connection is over can rely on it: the server has ended its feed by then, so a PUBLISH that is sent behind it does not count it,
/// and a client whose invalidations were redirected to it is told so.
#[test]
fn the_end_of_a_subscriber_is_told_behind_the_servers() {
    let subscribed = ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    let message = |kind: char| format!("{kind}3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    for (end, told, resp) in
        [("QUIT", "+OK\r\n", '2'), ("QUIT", "+OK\r\n", '3'), ("RESET", "+RESET\r\n", '2'), ("RESET", "+RESET\r\n", '3')]
    {
        let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
        let client = hand.client();
        hand.ask(client, &format!("HELLO {resp}"));
        hand.ask(client, "SUBSCRIBE c");
        let kind = if resp == '3' { '>' } else { '*' };
        hand.act();
        let [feed] = hand.own[..] else { panic!("{:?}", hand.own) };
        assert_eq!(hand.sent(feed), ["SUBSCRIBE c"]);
        hand.reply(feed, subscribed);
        hand.told(client);
        if resp == '3' {
            // What it has sent before comes first, and is told of there.
            hand.ask(client, "PUBLISH c m");
            hand.ask(client, end);
            assert_eq!((hand.sent(OLD), hand.sent(feed)), (vec!["PUBLISH c m".into()], vec![]));
            hand.reply(feed, &message('>'));
            hand.reply(OLD, ":1\r\n");
            assert_eq!(hand.told(client), message('>') + ":1\r\n");
        } else {
            hand.ask(client, end);
        }
        // It asks once, however often it is tried.
        assert_eq!(hand.sent(feed), ["QUIT"]);
        hand.ask(client, "PING");
        assert_eq!(hand.sent(feed), [""; 0]);
        hand.reply(feed, &message('>'));
        assert_eq!((hand.told(client), hand.core.is_closing(client)), (message(kind), false), "{end}");
        hand.reply(feed, "+OK\r\n");
        assert!(hand.core.lane_is_gone(feed));
        let quits = end == "QUIT";
        assert_eq!(hand.told(client), if quits { told.to_owned() } else { format!("{told}+PONG\r\n") });
        assert_eq!(hand.core.is_closing(client), quits);
    }
}

/// The same where the connection is lost before the server has said so.
#[test]
fn the_end_of_a_subscriber_is_told_when_its_feed_is_lost() {
    let mut hand = Hand::begin("7.0.15", Settings { backfill: false, ..Settings::default() });
    let client = hand.client();
    hand.ask(client, "SUBSCRIBE c");
    hand.act();
    let feed = hand.own[0];
    hand.sent(feed);
    hand.reply(feed, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    hand.told(client);
    hand.ask(client, "QUIT");
    assert_eq!(hand.sent(feed), ["QUIT"]);
    let generation = hand.core.generation(feed.side);
    hand.core.handle_lane_lost(feed, generation, "the server closed the connection", hand.now);
    assert_eq!((hand.told(client), hand.core.is_closing(client)), ("+OK\r\n".into(), true));
}

/// Effects that no client waits for may stay a moment, so that many go with one write: not under `ack = "both"`, not when they are many, not behind
/// something that is waited for, and not when a flip is about to hold everybody for what is in flight.
#[test]
fn effects_linger_only_where_nobody_waits() {
    let both = Ack::Both { timeout_us: 1_000_000, strict: false };
    for (ack, value, lingers) in [(Ack::Primary, 1, true), (both, 1, false), (Ack::Primary, 40_000, false)] {
        let mut hand = Hand::begin("7.0.15", Settings { ack, image_bytes_max: 0, ..Settings::default() });
        (0..50).for_each(|_| hand.tick());
        let client = hand.client();
        hand.ask(client, &format!("SET k0 {}", "v".repeat(value)));
        assert!(!hand.core.lane_can_wait(OLD), "the client waits for it");
        hand.sent(OLD);
        hand.reply(OLD, "+OK\r\n");
        assert_eq!(hand.visit(), [OLD, NEW]);
        assert_eq!(hand.core.lane_can_wait(NEW), lingers, "{ack:?} {value}");
        if !lingers {
            continue;
        }
        // A flip waits for all that is in flight.
        hand.core.handle_operation(1, Operation::Flip { to: Endpoint::New, force_primary_lost: false, dry_run: false }, hand.now);
        assert!(hand.visit().contains(&NEW) && !hand.core.lane_can_wait(NEW), "what lingered goes now");
    }
}

/// H28: a reply that has waited too long for the mirror is given and counted, and its effect is queued as before: nothing is in doubt because it is late.
#[test]
fn h28_a_reply_that_waited_too_long_is_given_and_counted() {
    let ack = Ack::Both { timeout_us: 1_000_000, strict: false };
    let mut hand = Hand::begin("7.0.15", Settings { ack, image_bytes_max: 0, ..Settings::default() });
    (0..50).for_each(|_| hand.tick());
    let client = hand.client();
    hand.ask(client, "SET k0 v");
    hand.sent(OLD);
    hand.reply(OLD, "+OK\r\n");
    assert_eq!((hand.sent(NEW), hand.told(client)), (vec!["SET k0 v".into()], String::new()));
    let mirror = |hand: &Hand| hand.core.status().mirror;
    // Not so long that effects collapse into dirty keys: that is another bound.
    hand.now.us += 400_000;
    hand.core.handle_tick(hand.now);
    assert_eq!((hand.told(client), mirror(&hand).queued_effects), (String::new(), 1));
    assert_eq!(hand.core.counters().ack_degraded, 0);
    hand.now.us += 600_000;
    hand.core.handle_tick(hand.now);
    assert_eq!((hand.told(client), hand.core.counters().ack_degraded), ("+OK\r\n".into(), 1));
    hand.reply(NEW, "+OK\r\n");
    (0..50).for_each(|_| hand.tick());
    assert_eq!((mirror(&hand).queued_effects, mirror(&hand).dirty_keys), (0, 0));
}

/// H27, I4: a FLUSHALL that the mirror refuses is owed where the mirror has no memory, also when it says so at EXEC; refused for another reason it
/// leaves all databases in doubt.
#[test]
fn i4_a_refused_flushall_is_not_forgotten() {
    let out_of_memory = "OOM command not allowed when used memory > 'maxmemory'.";
    for (refusal, owed) in [
        (format!("-EXECABORT Transaction discarded because of: {out_of_memory}\r\n"), true),
        ("-EXECABORT Transaction discarded because of: ERR something else\r\n".into(), false),
    ] {
        let mut hand = Hand::begin("7.0.15", Settings { image_bytes_max: 0, ..Settings::default() });
        (0..50).for_each(|_| hand.tick());
        let client = hand.client();
        hand.ask(client, "FLUSHALL");
        assert_eq!(hand.sent(OLD)[1], "FLUSHALL");
        hand.reply(OLD, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+OK\r\n");
        assert_eq!(hand.told(client), "+OK\r\n");
        while !hand.sent(NEW).contains(&"FLUSHALL".to_owned()) {
            hand.tick_with(|lane, request| if lane == NEW { String::new() } else { answer(lane, request) });
        }
        let mark = if owed { format!("-{out_of_memory}\r\n") } else { "+OK\r\n".into() };
        hand.reply(NEW, &format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n{refusal}{mark}"));
        let mirror = hand.core.status().mirror;
        assert_eq!((mirror.state == "paused", mirror.unsynced_databases.is_empty()), (owed, owed), "{mirror:?}");
        assert!(hand.core.explains(0, b"k0"), "the mirror has it still");
        if owed {
            // A full server queues nothing, but would empty itself: it is told so alone.
            hand.now.us += 1_000_000;
            hand.core.handle_tick(hand.now);
            let sent = hand.sent(NEW);
            assert_eq!((&*sent[0], &sent[1][..22]), ("FLUSHALL", "SET __twinlane:record "), "{sent:?}");
            hand.reply(NEW, &"+OK\r\n".repeat(sent.len()));
            (0..50).for_each(|_| hand.tick());
            assert_eq!((hand.core.status().mirror.state, hand.core.explains(0, b"k0")), ("following", false));
        }
    }
}

/// A late reply that comes with an earlier one is not written before it: a client's wait does not grow with what came behind.
#[test]
fn clients_are_told_in_the_order_in_which_they_were_answered() {
    let mut hand = Hand::begin("7.0.15", Settings::default());
    let clients = [0; 3].map(|_| hand.client());
    clients.iter().for_each(|client| hand.ask(*client, "GET k"));
    assert_eq!(hand.sent(OLD), ["GET k"; 3]);
    while let Some(id) = hand.core.poll_session() {
        hand.core.handle_session_polled(id);
    }
    hand.reply(OLD, "$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    let told: Vec<SessionId> = std::iter::from_fn(|| hand.core.poll_session()).collect();
    assert_eq!(told, clients);
}
