//! Where a command enters: one complete request, looked up in the table, checked as a server would check it before executing
//! anything, and appended to the primary's lane. What may not enter now waits in the session's input; what must never enter is
//! answered here.

use super::lane::{LaneId, What};
use super::parked::may_wait;
use super::session::{Admit, SessionId, Wait};
use super::transaction::{Block, Element, Hidden};
use super::{FlushPolicy, RECORD_KEY, RESERVED_PREFIX, Sequencer};
use crate::command::{Class, Command, Rule, Table, unknown_command, unknown_subcommand, wrong_arity};
use crate::effect::wants_length;
use crate::endpoint::Db;
use crate::limits::RANDOM_KEYS_AGAIN;
use crate::resp::encode::{number, push_request};
use crate::resp::reply::Reply;
use crate::resp::request::Request;

impl Sequencer {
    /// Takes one request of a session, or says why it must wait.
    pub(super) fn admit(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        let (in_multi, authenticated) = (session.multi.is_some(), session.authenticated);
        let listens = session.resp == 2 && session.is_subscriber();
        if session.elsewhere || session.changing {
            return Admit::Wait(Wait::Drain);
        }
        // Valkey says nothing about commands to strangers (valkey 9 server.c processCommand); before 7.0 subcommands were the command's own affair.
        let primary = &self.sides[self.primary().index()];
        let silent = !authenticated && (primary.is_since(None, Some((9, 0))) || (primary.major < 7 && self.is_container(request)));
        let looked_up = self.look_up(request);
        if let Ok(command) = looked_up
            && self.send_simple(id, command, request)
        {
            return Admit::Taken;
        }
        let command = match looked_up {
            Err(_) if silent => return self.refuse_request(id, b"-NOAUTH Authentication required.\r\n"),
            Ok(command) => command,
            Err(error) => {
                // POST and Host: are what a browser sends that was tricked into speaking to a cache (server.c securityWarningCommand).
                if request.is(0, "POST") || request.is(0, "HOST:") {
                    self.close(id, "cross_protocol");
                    return Admit::Taken;
                }
                match self.stranger(id, request).filter(|_| authenticated) {
                    Some(Ok(command)) => command,
                    Some(Err(admit)) => return admit,
                    None => return self.refuse_request(id, &error),
                }
            }
        };
        if !authenticated && !matches!(command.name, "AUTH" | "HELLO" | "QUIT" | "RESET") {
            return self.refuse_request(id, b"-NOAUTH Authentication required.\r\n");
        }
        if listens && !command.name.ends_with("SUBSCRIBE") && !matches!(command.name, "PING" | "QUIT" | "RESET") {
            let error = only_subscriptions(command, self.sides[self.primary().index()].major);
            return self.refuse_request(id, error.as_bytes());
        }
        if let Some(admit) = self.meet_busy(id, command, request) {
            return admit;
        }
        if self.is_paused(id, command, request) {
            return Admit::Wait(Wait::Pause);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.about.last = Some(command);
            session.about.commands += 1;
            self.totals.requests += 1;
        }
        if in_multi && !matches!(command.name, "EXEC" | "DISCARD" | "MULTI" | "RESET" | "QUIT" | "WATCH") {
            return self.queue(id, command, request);
        }
        if in_multi && command.name == "WATCH" {
            // An error that does not abort the transaction (multi.c watchCommand).
            self.say(id, b"-ERR WATCH inside MULTI is not allowed\r\n");
            return Admit::Taken;
        }
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        let on_feed = self.reads_on_feed(session, command, request);
        if command.class != Class::Local && on_feed != session.on_feed && !session.is_drained() {
            // It changes connections only when it has nothing unanswered on the one it leaves (H4).
            return Admit::Wait(Wait::Drain);
        }
        let admitted = if on_feed { self.send_tracked(id, command, request) } else { self.enter(id, command, request) };
        if admitted == Admit::Taken {
            self.end_caching(id, command);
        }
        admitted
    }

    /// The common case: a read or write of one key, with nothing in its way. False: it was not sent, and goes the careful way, which does
    /// the same and looks at more.
    fn send_simple(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> bool {
        let open = !self.holding && self.fences.is_empty() && self.pause.is_none() && !self.busy.is_met();
        let alone = self.parked.is_empty() && self.no_loop.is_empty();
        if !(command.simple && open && alone) || request.frame.len() > self.settings.lane_frame_max {
            return false;
        }
        let side = self.record.primary;
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.is_simple() && session.has_window()) else { return false };
        let lane = LaneId::shared(side, session.db);
        let is_open = self.sides[side.index()].lane(lane).is_some_and(super::lane::Lane::is_open);
        if !is_open || command.lone_key(request).is_none_or(|key| key.starts_with(RESERVED_PREFIX)) {
            return false;
        }
        session.about.last = Some(command);
        session.about.commands += 1;
        self.totals.requests += 1;
        session.sent += 1;
        if command.writes() {
            session.writes += 1;
            self.intend(lane.db, command, request);
        }
        let now = self.now.us;
        if let Some(to) = self.sides[side.index()].lane_mut(lane) {
            to.push(&[request.frame], What::Client { session: id, command }, 1, now);
            if !std::mem::replace(&mut to.touched, true) {
                self.touched_lanes.push_back(lane);
            }
        }
        true
    }

    /// A request that travels as its class says.
    fn enter(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        if let Some(session) = self.sessions.get_mut(id) {
            session.on_feed &= !session.is_drained();
        }
        match self.class_of(command) {
            Class::Local => self.local(id, command, request),
            Class::Transaction => self.transaction(id, command, request),
            Class::Read | Class::Write | Class::Blocking if may_wait(command, request) => self.send_blocking(id, command, request),
            Class::Read | Class::Forward | Class::Write | Class::Keyless | Class::Blocking => self.send(id, command, request),
            Class::Cursor => self.send_cursor(id, command, request),
            Class::Barrier => self.send_barrier(id, command, request),
            Class::Own => self.send_wait(id, request),
            Class::Aside => self.ask_aside(id, command, request),
            Class::Feed if command.name == "MONITOR" => self.monitor(id),
            Class::Feed if command.name.starts_with("CLIENT") => self.tracking(id, command, request),
            Class::Feed => self.subscribe(id, command, request),
            Class::Refused => {
                let error = refusal(command);
                self.refuse_request(id, error.as_bytes())
            }
        }
    }

    /// The command's class, as the operator has it.
    pub(super) fn class_of(&self, command: &Command) -> Class {
        if command.class == Class::Refused && self.settings.allowed.contains(&command.index) { Class::Forward } else { command.class }
    }

    /// The request's row, or the error that the primary would give.
    fn look_up(&self, request: &Request<'_>) -> Result<&'static Command, Vec<u8>> {
        let table = Table::get();
        let primary = &self.sides[self.primary().index()];
        let known = table.find(request).filter(|command| table.has(command) && primary.knows(command));
        let Some(command) = known else {
            let container = self.is_container(request);
            return Err(match container {
                true if primary.major < 7 && request.is(0, "CLUSTER") => no_cluster(),
                true => unknown_subcommand(request, primary.major),
                false => unknown_command(request, primary.major),
            });
        };
        if !command.accepts(request.len()) {
            return Err(wrong_arity(command, request, primary.major));
        }
        Ok(command)
    }

    /// Whether the request names a command of the primary that has subcommands.
    fn is_container(&self, request: &Request<'_>) -> bool {
        let primary = &self.sides[self.primary().index()];
        let names = |row: &Command| row.name.contains(' ') && request.is(0, row.container()) && primary.knows(row);
        request.len() > 1 && Table::get().rows().iter().any(names)
    }

    /// An error before anything was executed; inside a transaction EXEC aborts for it.
    pub(super) fn refuse_request(&mut self, id: SessionId, error: &[u8]) -> Admit {
        if let Some(multi) = self.sessions.get_mut(id).and_then(|session| session.multi.as_mut()) {
            multi.failed = true;
        }
        self.say(id, error);
        Admit::Taken
    }

    /// Why a request of this command is refused whatever the state is: reserved keys, policies, options that come later.
    pub(super) fn objection(&self, command: &'static Command, request: &Request<'_>) -> Option<String> {
        let is_reserved = |key: &[u8]| key.starts_with(RESERVED_PREFIX);
        let reserved = match command.lone_key(request) {
            Some(key) => is_reserved(key),
            None => command.keys(request).any(|key| is_reserved(key.name)),
        };
        if reserved {
            return Some("-ERR twinlane: keys beginning with `__twinlane:` are reserved\r\n".into());
        }
        match command.rule {
            rule if self.settings.flush_policy(rule) == FlushPolicy::Refuse => {
                let option = command.name.to_ascii_lowercase();
                Some(format!("-ERR twinlane: {} is refused by the policy `mirror.{option} = \"refuse\"`\r\n", command.name))
            }
            Rule::SwapDb | Rule::Move => self.missing_database(request),
            Rule::Copy => (3..request.len()).find(|at| request.is(*at, "DB")).and_then(|at| self.database_objection(request.arg(at + 1))),
            _ => None,
        }
    }

    fn missing_database(&self, request: &Request<'_>) -> Option<String> {
        let from = if request.is(0, "MOVE") { 2 } else { 1 };
        (from..request.len()).find_map(|at| self.database_objection(request.arg(at)))
    }

    /// A database that only one side has cannot be mirrored.
    fn database_objection(&self, index: &[u8]) -> Option<String> {
        let index = crate::resp::encode::parse_integer(index)?;
        let primary = self.sides[self.primary().index()].databases;
        let mirror = self.sides[self.mirror_side().index()].databases;
        let out = self.record.mirroring && index >= 0 && (index as usize) < primary && (index as usize) >= mirror;
        out.then(|| format!("-ERR twinlane: `{}` has no database {index}, so it cannot be mirrored\r\n", self.mirror_side()))
    }

    /// Whether a command may enter a lane of this database now.
    pub(super) fn may_enter(&mut self, id: SessionId, db: Db, command: &'static Command, request: &Request<'_>) -> Result<LaneId, Admit> {
        let Some(session) = self.sessions.get(id) else { return Err(Admit::Taken) };
        if !session.has_window() {
            return Err(Admit::Wait(Wait::Window));
        }
        let stands = self.holding || self.fences.stops(id, db, command, request);
        if stands {
            return Err(Admit::Wait(Wait::Gate));
        }
        self.open_shared(id, db)
    }

    /// The shared lane of a database, once it is open.
    fn open_shared(&mut self, id: SessionId, db: Db) -> Result<LaneId, Admit> {
        let lane = LaneId::shared(self.primary(), db);
        if self.lane(lane).is_some_and(super::lane::Lane::is_open) {
            return Ok(lane);
        }
        Err(self.wait_for_lane(id, lane))
    }

    /// The lane is not open: wait for it, within the bound.
    pub(super) fn wait_for_lane(&mut self, id: SessionId, lane: LaneId) -> Admit {
        if self.lane(lane).is_some_and(|lane| lane.state == super::lane::LaneState::Refused) {
            return self.refuse_request(id, b"-ERR DB index is out of range\r\n");
        }
        if let Some(error) = self.unopened_error(lane) {
            self.drop_fence_of(id);
            return self.refuse_request(id, error.as_bytes());
        }
        let side = &self.sides[lane.side.index()];
        if side.is_up() {
            self.open_lane(lane);
            return Admit::Wait(Wait::Gate);
        }
        if self.now.us.saturating_sub(side.down_since) < self.settings.primary_wait_us {
            return Admit::Wait(Wait::Gate);
        }
        let error = format!("-ERR twinlane: `{}` ({}) cannot be reached; the command was not executed\r\n", lane.side, side.address);
        // It may have raised a barrier or a fence before the side was lost.
        self.drop_fence_of(id);
        self.refuse_request(id, error.as_bytes())
    }

    /// Appends a command to the primary's lane.
    pub(super) fn send(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let Some(db) = self.sessions.get(id).map(|session| session.db) else { return Admit::Taken };
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        if command.rule == Rule::Copy && (3..request.len()).any(|at| request.is(at, "DB")) {
            return self.send_barrier(id, command, request);
        }
        if command.rule == Rule::FlushDb && db == 0 {
            // It may have to be sent once more, at the same place.
            return self.send_barrier(id, command, request);
        }
        if request.frame.len() > self.settings.lane_frame_max {
            return self.send_bulk(id, command, request);
        }
        let lane = match self.may_enter(id, db, command, request) {
            Ok(lane) => lane,
            Err(admit) => return admit,
        };
        self.append_request(id, lane, command, request);
        Admit::Taken
    }

    /// The request, alone or in the block that it needs.
    pub(super) fn append_request(&mut self, id: SessionId, lane: LaneId, command: &'static Command, request: &Request<'_>) {
        let now = self.now.us;
        self.before_script(lane, command, request);
        self.intend(lane.db, command, request);
        match self.companions(command, request, lane.db) {
            None => {
                if let Some(lane) = self.lane_mut(lane) {
                    lane.push(&[request.frame], What::Client { session: id, command }, 1, now);
                }
            }
            Some((before, behind)) => {
                // A full server queues nothing, and trims and draws keys all the same. Should another writer come between, the mirror trims
                // to another length, which the comparison of replies finds.
                let plain = command.rule == Rule::XTrim || command.name == "RANDOMKEY";
                let mut block = if plain { Block::plain(Some(id), lane.db) } else { Block::begin(Some(id), lane.db, true) };
                before.iter().for_each(|args| block.hide(args, Hidden::Silent));
                block.show(command, request.frame);
                behind.iter().for_each(|(args, kind)| block.hide(args, *kind));
                block.wrote = command.writes() || command.rule == Rule::PfCount;
                self.append_block(lane, block);
            }
        }
        self.note_own_write(id, command, request);
        self.count_sent(id, command.writes() || command.rule == Rule::PfCount);
        self.note_barrier(id);
        self.touch_lane(lane);
        self.serve_behind(lane.db, command, request);
    }

    /// Commands of ours that must run in the same block: the mark goes back behind a flush, the length of a trimmed stream.
    fn companions(&self, command: &Command, request: &Request<'_>, db: Db) -> Option<Companions> {
        let words = |args: &[&[u8]]| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        if self.settings.flush_policy(command.rule) == FlushPolicy::Alarm {
            // Without its mark the primary counts as one that lost its data, after a restart of the proxy too.
            let home = number(i64::from(db));
            let gone: [&[&[u8]]; 3] = [&[b"SELECT", b"0"], &[b"DEL", RECORD_KEY], &[b"SELECT", &home]];
            return Some((vec![], gone.iter().map(|args| (words(args), Hidden::Silent)).collect()));
        }
        let mark = || (words(&[b"SET", RECORD_KEY, &self.mark(self.primary())]), Hidden::Silent);
        match command.rule {
            Rule::FlushDb if db == 0 => Some((vec![], vec![mark()])),
            Rule::FlushAll if db == 0 => Some((vec![], vec![mark()])),
            Rule::FlushAll => {
                let (home, zero) = (number(i64::from(db)), words(&[b"SELECT", b"0"]));
                Some((vec![], vec![(zero, Hidden::Silent), mark(), (words(&[b"SELECT", &home]), Hidden::Silent)]))
            }
            Rule::SwapDb if request.arg(1) == b"0" || request.arg(2) == b"0" => {
                let zero = || words(&[b"SELECT", b"0"]);
                let home = words(&[b"SELECT", &number(i64::from(db))]);
                let delete = words(&[b"DEL", RECORD_KEY]);
                let before = if db == 0 { vec![delete] } else { vec![zero(), delete, home.clone()] };
                let behind = if db == 0 { vec![mark()] } else { vec![(zero(), Hidden::Silent), mark(), (home, Hidden::Silent)] };
                Some((before, behind))
            }
            Rule::XAdd | Rule::XTrim if wants_length(request, command.name) => {
                Some((vec![], vec![(words(&[b"XLEN", request.arg(1)]), Hidden::Length)]))
            }
            _ if command.name == "RANDOMKEY" && db == 0 => {
                let again = || (words(&[b"RANDOMKEY"]), Hidden::Again);
                Some((vec![], std::iter::repeat_with(again).take(RANDOM_KEYS_AGAIN).collect()))
            }
            _ => None,
        }
    }

    /// A full server refused to queue the block around a command that empties or swaps databases, and would execute the command
    /// itself. It is sent once more without MULTI: the barrier stands, so its place in the order is the same. All of it travels on the
    /// lane of database 0, where the mark is, so that no SELECT can fail apart from what depends on it (H5). True when it was sent.
    pub(super) fn send_plainly(&mut self, block: &Block, frame: &[u8], failed: Option<&[u8]>) -> bool {
        let full = failed.is_some_and(|error| Reply(error).error_word() == Some(b"OOM"));
        let Some(id) = block.session.filter(|id| full && block.single && !block.plain && self.fences.owns_barrier(*id)) else {
            return false;
        };
        let shown = block.elements.iter().find_map(|element| match element {
            Element::Shown { command, at, len } => Some((*command, &frame[*at..at + len])),
            _ => None,
        });
        let movable = |command: &Command| match command.rule {
            Rule::FlushAll | Rule::SwapDb => true,
            // On the lane of database 0 it would empty that one.
            Rule::FlushDb => block.db == 0,
            _ => false,
        };
        let Some((command, request)) = shown.filter(|(command, _)| movable(command)) else { return false };
        let lane = LaneId::shared(self.primary(), 0);
        if !self.lane(lane).is_some_and(super::lane::Lane::is_open) {
            return false;
        }
        let words = |args: &[&[u8]]| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        let mut plain = Block::plain(Some(id), block.db);
        if command.rule == Rule::SwapDb {
            plain.hide(&words(&[b"DEL", RECORD_KEY]), Hidden::Silent);
        }
        plain.show(command, request);
        if self.settings.flush_policy(command.rule) == FlushPolicy::Alarm {
            plain.hide(&words(&[b"DEL", RECORD_KEY]), Hidden::Silent);
        } else {
            plain.hide(&words(&[b"SET", RECORD_KEY, &self.mark(self.primary())]), Hidden::Silent);
        }
        plain.wrote = block.wrote;
        // The refused block may have been retired already: what is sent again is announced again.
        self.intend_frame(block.db, request);
        self.append_block(lane, plain);
        self.touch_lane(lane);
        true
    }

    pub(super) fn count_sent(&mut self, id: SessionId, wrote: bool) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.sent += 1;
            session.writes += u32::from(wrote);
        }
    }

    /// A command that needs to be alone: everything in flight is answered first, nothing enters until it is answered too.
    pub(super) fn send_barrier(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        if let Some(error) = self.objection(command, request) {
            return self.refuse_request(id, error.as_bytes());
        }
        let Some(db) = self.sessions.get(id).map(|session| session.db) else { return Admit::Taken };
        match self.raise_barrier(id, db) {
            Ok(lane) => {
                self.append_request(id, lane, command, request);
                Admit::Taken
            }
            Err(admit) => admit,
        }
    }

    /// The shared lane of `db` once nothing is in flight anywhere; until then the session owns the barrier and waits.
    pub(super) fn raise_barrier(&mut self, id: SessionId, db: Db) -> Result<LaneId, Admit> {
        if self.holding {
            return Err(Admit::Wait(Wait::Gate));
        }
        let lane = LaneId::shared(self.primary(), db);
        if !self.lane(lane).is_some_and(super::lane::Lane::is_open) {
            return Err(self.wait_for_lane(id, lane));
        }
        if !self.fences.take_barrier(id) {
            return Err(Admit::Wait(Wait::Gate));
        }
        if !self.primary_is_idle() {
            return Err(Admit::Wait(Wait::Gate));
        }
        Ok(lane)
    }

    /// Whether nothing may enter any lane now.
    pub(super) fn is_held(&self) -> bool {
        self.holding || self.fences.has_barrier()
    }

    /// Appends EXEC's block, as the transaction room made it.
    pub(super) fn enter_block(&mut self, id: SessionId, db: Db, alone: bool) -> Result<LaneId, Admit> {
        if alone {
            return self.raise_barrier(id, db);
        }
        if !self.sessions.get(id).is_some_and(super::session::Session::has_window) {
            return Err(Admit::Wait(Wait::Window));
        }
        if self.is_held() {
            return Err(Admit::Wait(Wait::Gate));
        }
        self.open_shared(id, db)
    }
}

/// A request in parts.
type Words = Vec<Vec<u8>>;

/// Commands of ours before and behind a client's, in one block.
type Companions = (Vec<Words>, Vec<(Words, Hidden)>);

/// What a subscribed RESP2 connection is told (server.c processCommand).
fn only_subscriptions(command: &Command, major: u32) -> String {
    match major {
        0..=5 => "-ERR only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT allowed in this context\r\n".into(),
        _ => format!(
            "-ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n",
            command.error_name
        ),
    }
}

/// Why a command is not carried.
pub(super) fn refusal(command: &Command) -> String {
    // Neither side is a cluster's node, and that is what a server that is none says.
    if command.container() == "CLUSTER" {
        return String::from_utf8_lossy(&no_cluster()).into_owned();
    }
    format!("-ERR twinlane: {} is not carried: it administers a server or a connection that others share\r\n", command.name)
}

fn no_cluster() -> Vec<u8> {
    b"-ERR This instance has cluster support disabled\r\n".to_vec()
}

/// Appends a request of ours to a frame buffer.
pub(super) fn push_words(out: &mut Vec<u8>, args: &[Vec<u8>]) {
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    push_request(out, &args);
}
