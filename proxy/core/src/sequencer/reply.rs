//! Where replies come in. On the primary: the session gets its reply at once, in its own protocol, and the effect is derived and
//! handed on. On the mirror: the reply is compared with what the primary answered.

use super::lane::{InFlight, Lane, LaneId, What};
use super::session::SessionId;
use super::transaction::{Block, Element, Hidden, push_array};
use super::{Ack, Now, Sequencer};
use crate::command::{Command, Rule, Table};
use crate::effect::{Clock, Effect, Executed, derive};
use crate::endpoint::Db;
use crate::resp::downgrade::{Shape, downgrade, null};
use crate::resp::reply::{Reply, Scanned};
use crate::resp::request::{Parsed, Request, Resume, Spans, parse};

/// Bytes that are taken at least to complete a reply: of one with many elements only the next one's length is known.
const STEP: usize = 4096;

/// Bytes of a buffer for the beginnings of replies that a lane keeps.
const INPUT_KEPT: usize = 64 * 1024;

impl Sequencer {
    /// Bytes to be written to a lane's socket, piece by piece.
    pub fn lane_output(&self, lane: LaneId) -> impl Iterator<Item = &[u8]> {
        self.lane(lane).into_iter().flat_map(|lane| lane.tape.unsent())
    }

    /// Bytes of the request that was appended last, if it is not answered.
    #[must_use]
    pub fn lane_last(&self, lane: LaneId) -> usize {
        self.lane(lane).and_then(|lane| lane.in_flight.back()).map_or(0, |last| last.len as usize)
    }

    /// Whether they may stay a moment ([`crate::limits::LINGERING_US`]), so that more go with one write: effects that no client waits for.
    #[must_use]
    pub fn lane_can_wait(&self, lane: LaneId) -> bool {
        self.flip.is_none() && !self.mirror_owes() && lane.side != self.primary() && self.lane(lane).is_some_and(Lane::can_wait)
    }

    /// The socket took `n` of them.
    pub fn handle_lane_written(&mut self, lane: LaneId, generation: u64, n: usize) {
        if self.sides[lane.side.index()].generation == generation
            && let Some(lane) = self.lane_mut(lane)
        {
            lane.tape.mark_sent(n);
        }
    }

    /// The shell has dealt with what [`Sequencer::poll_lane`] named.
    pub fn handle_lane_polled(&mut self, lane: LaneId) {
        if let Some(lane) = self.lane_mut(lane) {
            lane.touched = false;
        }
    }

    /// Bytes came from a server. False when they are not RESP, or answer nothing: the connection must be given up.
    #[must_use]
    pub fn handle_lane_bytes(&mut self, id: LaneId, generation: u64, bytes: &[u8], now: Now) -> bool {
        self.now = now;
        if self.sides[id.side.index()].generation != generation {
            return true;
        }
        let Some(mut at) = self.relay(id, bytes) else { return false };
        let Some(lane) = self.lane_mut(id) else { return true };
        let mut scanner = std::mem::take(&mut lane.scanner);
        let mut input = std::mem::take(&mut lane.input);
        let mut sound = true;
        // A reply that began in an earlier read gets the bytes that it needs; those behind it are read where they are.
        while sound && !input.is_empty() && at < bytes.len() {
            let step = scanner.needs(&input).max(STEP).min(bytes.len() - at);
            input.extend_from_slice(&bytes[at..at + step]);
            at += step;
            match scanner.scan(&input) {
                Ok(None) if self.begin_relay(id, &input, &scanner) => {
                    input.clear();
                    match self.relay(id, &bytes[at..]) {
                        Some(relayed) => at += relayed,
                        None => sound = false,
                    }
                }
                Ok(None) => {}
                Err(_) => sound = false,
                Ok(Some(scanned)) => {
                    sound = self.take_reply(id, &input[..scanned.len], scanned);
                    at -= input.len() - scanned.len;
                    input.clear();
                }
            }
        }
        while sound && input.is_empty() {
            match scanner.scan(&bytes[at..]) {
                Ok(None) => {
                    if self.begin_relay(id, &bytes[at..], &scanner) {
                        at = bytes.len();
                    }
                    break;
                }
                Err(_) => sound = false,
                Ok(Some(scanned)) => {
                    sound = self.take_reply(id, &bytes[at..at + scanned.len], scanned);
                    at += scanned.len;
                }
            }
        }
        if input.is_empty() {
            if input.capacity() > INPUT_KEPT || !id.is_shared() {
                input = Vec::new();
            }
            input.extend_from_slice(&bytes[at..]);
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.scanner = scanner;
            lane.input = input;
        }
        self.settle();
        sound
    }

    fn take_reply(&mut self, id: LaneId, reply: &[u8], scanned: Scanned) -> bool {
        if (!id.is_shared() || reply[0] == b'>') && self.take_feed(id, Reply(reply)) {
            // What nobody asked for, and a session wants.
            return true;
        }
        if reply[0] == b'>' {
            self.take_push(id, Reply(reply));
            return true;
        }
        if scanned.pushed {
            let (clean, pushes) = crate::resp::reply::split_pushes(reply);
            let taken = self.take_reply(id, &clean, Scanned { pushed: false, ..scanned });
            pushes.iter().for_each(|push| self.take_push(id, Reply(push)));
            return taken;
        }
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id) else { return true };
        let Some(front) = lane.in_flight.front_mut() else { return false };
        if matches!(front.what, What::Subscription(_)) {
            // An error for all of its names.
            front.replies = 1;
        }
        front.replies -= 1;
        if let Some(gathered) = &mut front.gathered {
            gathered.extend_from_slice(reply);
        }
        if front.replies > 0 {
            if Reply(reply).is_error() && front.failed.is_none() && front.gathered.is_none() {
                front.failed = Some(reply.into());
            }
            if let What::Verify(reading) = &mut front.what {
                reading.take(Reply(reply));
            }
            return true;
        }
        let Some(mut flight) = lane.in_flight.pop_front() else { return false };
        lane.answered += 1;
        let waited = now.saturating_sub(flight.at);
        self.totals.latency[id.side.index()].observe(waited, 1);
        let gathered = flight.gathered.take();
        self.take_answer(id, flight, Reply(gathered.as_deref().unwrap_or(reply)), scanned.resp3);
        true
    }

    fn take_answer(&mut self, id: LaneId, flight: InFlight, reply: Reply<'_>, resp3: bool) {
        let len = flight.len;
        // The common case first: a read needs nothing but its reply.
        if let What::Client { session, command } = flight.what
            && !command.writes()
            && command.rule == Rule::None
        {
            self.answer_read(id, session, command, reply, resp3, len);
            if self.shadow.draws() {
                self.shadow_read(id, command, Some(reply), len);
            }
            if !id.is_shared() {
                self.end_own_writes(session);
            }
            return self.release(id, len);
        }
        let Some(lane) = self.lane_mut(id) else { return };
        let lent = lane.tape.lend_front(len);
        if matches!(flight.what, What::Restore(_)) && !self.ends_are_absolute() {
            self.note_delay(flight.at);
        }
        if matches!(flight.what, What::ImageRead { .. } | What::FieldsRead { .. } | What::CopyRead(_)) {
            self.note_delay(flight.at);
        }
        if matches!(flight.what, What::ImageRead { .. }) {
            self.verify.repairs.note_wait(self.now.us.saturating_sub(flight.at));
        }
        match flight.what {
            What::Client { session, command } => {
                self.answer_write(id, session, command, lent.frame(), reply, resp3);
                self.lower(session);
            }
            What::Block(block) if self.send_plainly(&block, lent.frame(), flight.failed.as_deref()) => {}
            What::Block(block) => {
                let owner = block.session;
                self.answer_block(id, &block, lent.frame(), reply, resp3, flight.failed.as_deref());
                if let Some(owner) = owner {
                    self.lower(owner);
                    if !id.is_shared() {
                        self.finish_own(owner);
                    }
                }
            }
            What::Attempt(attempt) => self.answer_attempt(id, &attempt, lent.frame(), reply, resp3, flight.failed.as_deref()),
            What::LastId { session, at } => self.answer_last_id(session, at, reply),
            What::Look(look) => self.answer_look(&look, reply),
            What::ImageSize { key, repair } => self.answer_size(id.db, key, repair, reply),
            What::FieldsRead { key, names } => self.answer_fields(id.db, &key, &names, reply),
            What::CopyRead(copy) => self.answer_piece(copy, reply),
            What::Piece(piece) => self.confirm_piece(self.db_now(id.db), &piece, reply, flight.failed.as_deref()),
            What::ImageRead { key, form } => self.answer_image(id.db, &key, form, reply, flight.failed.as_deref()),
            What::ScanPage(page) | What::ScanExtras(page) => self.answer_scan(id.db, page, reply),
            What::ScanKeys { page, keys } => self.answer_scan_keys(id.db, page, &keys, reply),
            What::Effect(effect) => self.confirm(id, &effect, lent.frame(), reply, flight.failed.as_deref(), flight.at),
            What::EffectBlock(block) => self.confirm_block(id, &block, lent.frame(), reply, flight.failed.as_deref(), flight.at),
            What::Restore(image) => self.confirm_image(self.db_now(id.db), &image, len, reply, flight.failed.as_deref()),
            What::Barrier => self.confirm_barrier(reply, flight.failed.as_deref()),
            What::Mark(count) => self.check_mark(id.side, count, reply),
            What::Census => self.answer_census(id.side, reply),
            What::Trial => self.confirm_trial(reply),
            What::Watch(session) => self.answer_watch(session, reply.0, flight.failed.as_deref()),
            What::Handover(session) => self.answer_handover(session, id.side, reply),
            What::Ask(session) => {
                self.answer_ask(session, reply.0, flight.failed.as_deref());
                self.end_refused_monitor(session, id, reply);
            }
            What::Subscription(session) => self.refuse_subscription(session, id, reply.0),
            What::Position(session) => self.pass_mark(session, id),
            What::Learn(name) => self.answer_learn(id.side, &name, reply),
            What::Tracking(session) => self.answer_client_tracking(session, id, reply),
            What::Remember(session) => self.end_remembering(session),
            What::Leave(session) => self.end_leaving(session),
            What::FeedSelect(session, db) => self.answer_feed_select(session, db, reply),
            What::Verify(reading) => self.answer_verify(id, *reading, lent.frame(), reply, flight.at),
            What::Shadow(read) => self.answer_shadow(id, read, lent.frame(), reply, flight.at),
            What::Silent => {}
            What::Track(on) => self.answer_tracking(id, on, reply),
            What::Sync => self.judge_flushes(id, true),
            What::ScriptLoad(name) => self.answer_script(&name, true, reply),
            What::ScriptExists(name) => self.answer_script(&name, false, reply),
            What::Functions => self.answer_functions(reply),
            What::Boundary(boundary) => self.answer_boundary(id, &boundary, reply),
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.tape.give_back(lent);
        }
        self.release(id, len);
        self.settle_own(id);
        if !self.doubts.is_empty() {
            self.settle_doubts();
        }
    }

    pub(super) fn release(&mut self, id: LaneId, len: u32) {
        if let Some(lane) = self.lane_mut(id) {
            lane.tape.release(len);
        }
    }

    pub(super) fn count(&mut self, command: &Command, reply: Reply<'_>) {
        let (ok, failed) = &mut self.totals.commands[command.index];
        if reply.is_error() { *failed += 1 } else { *ok += 1 }
    }

    fn answer_read(&mut self, id: LaneId, session: SessionId, command: &'static Command, reply: Reply<'_>, resp3: bool, len: u32) {
        self.count(command, reply);
        let arguments = if resp3 && matches!(command.shape, Shape::NullArrayFrom(_)) {
            self.lane(id).map_or(0, |lane| argument_count(lane.tape.frame(lane.tape.front_at(), len)))
        } else {
            0
        };
        if command.simple {
            return self.give(session, command.shape, arguments, reply.0, resp3, false, None);
        }
        if self.lists_keys(command) {
            let shown = self.hide_reserved(id, command, reply);
            return self.give(session, command.shape, arguments, &shown, resp3, false, None);
        }
        if Self::speaks_of_clients(command) {
            let shown = self.retell_front(id, command, reply, len);
            return self.give(session, command.shape, arguments, &shown, resp3, false, None);
        }
        self.give(session, command.shape, arguments, reply.0, resp3, false, None);
    }

    /// The reply to the request at the front of a lane, where what is told depends on what was asked.
    fn retell_front(&self, id: LaneId, command: &Command, reply: Reply<'_>, len: u32) -> Vec<u8> {
        let frame = self.lane(id).map_or(&[][..], |lane| lane.tape.frame(lane.tape.front_at(), len));
        let mut spans = Spans::default();
        match parse(frame, &mut spans, &mut Resume::default(), true) {
            Parsed::Complete { .. } => self.retell(id, command, &Request { frame, spans: &spans }, reply),
            _ => reply.0.to_vec(),
        }
    }

    /// Hands a reply to its session, converted when the session speaks RESP2.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn give(
        &mut self,
        id: SessionId,
        shape: Shape,
        arguments: usize,
        reply: &[u8],
        resp3: bool,
        wrote: bool,
        awaits: Option<u64>,
    ) {
        // Nested pairs hold no type that RESP2 lacks, so the shape counts too.
        let lane3 = self.sides[self.primary().index()].resp == 3;
        let differs = resp3 || (shape == Shape::Flat && reply.first() == Some(&b'*'));
        let down = lane3 && differs && self.sessions.get(id).is_some_and(|session| session.resp < 3);
        if !down {
            self.deliver(id, reply, wrote, awaits);
            return;
        }
        if reply == b"_\r\n" {
            self.deliver(id, null(shape, arguments), wrote, awaits);
            return;
        }
        let mut out = Vec::with_capacity(reply.len() + 16);
        downgrade(reply, shape, arguments, &mut out);
        self.deliver(id, &out, wrote, awaits);
    }

    pub(super) fn clock(&self) -> Clock {
        let (primary, mirror) = (&self.sides[self.primary().index()], &self.sides[self.mirror_side().index()]);
        Clock {
            primary_unix_ms: self.now.unix_ms + primary.clock_offset_ms,
            margin_ms: self.settings.expiry_margin_ms,
            eager_consumers: primary.eager_consumers,
            eager_mirror: mirror.eager_consumers,
            claims_alike: (primary.major >= 7) == (mirror.major >= 7),
        }
    }

    fn answer_write(&mut self, id: LaneId, session: SessionId, command: &'static Command, frame: &[u8], reply: Reply<'_>, resp3: bool) {
        self.count(command, reply);
        let mut spans = std::mem::take(&mut self.scratch.reply_spans);
        let mut frames = std::mem::take(&mut self.scratch.frames);
        frames.clear();
        if let Parsed::Complete { .. } = parse(frame, &mut spans, &mut Resume::default(), true) {
            let request = Request { frame, spans: &spans };
            self.ambiguous = self.is_ambiguous(id);
            let executed = Executed { command, request, reply, length: None, clock: self.clock() };
            let effect = self.derive(&executed, &mut frames);
            self.after_script(id, id.db, command, &request, reply);
            let ack = self.next_ack(session);
            self.writes.writer = Some(session);
            let pending = self.apply(id.db, command, &request, effect, &frames, ack);
            self.ambiguous = false;
            self.after_effect(id, id.db, &executed, effect);
            self.give(session, command.shape, request.len(), reply.0, resp3, true, pending.then(|| self.ack_deadline()));
        }
        self.scratch.reply_spans = spans;
        self.scratch.frames = frames;
    }

    /// The effect of a command, and what it means for knowledge about whole databases.
    fn derive(&mut self, executed: &Executed<'_>, frames: &mut Vec<u8>) -> Effect {
        let Executed { command, request, reply, .. } = *executed;
        if self.is_replayed(command, &request, reply) && self.can_replay(command, &request, reply) {
            return Effect::Replay(crate::effect::Expect::of_script(reply));
        }
        if self.settings.faults.no_rewrite && executed.command.rule == Rule::SPop && !executed.reply.is_error() {
            return Effect::Replay(crate::effect::Expect::Any);
        }
        if command.rule == Rule::HIncrByFloat && !reply.is_error() && self.sides[self.primary().index()].has_field_times() {
            // HSET would take the field's time to live, which the command leaves.
            return Effect::Replay(crate::effect::Expect::same(reply));
        }
        derive(executed, frames)
    }

    /// What was in flight when a script was answered may have run in the same turn and hidden what the script wrote.
    fn is_ambiguous(&self, id: LaneId) -> bool {
        !self.settings.faults.no_ambiguity && self.lane(id).is_some_and(super::lane::Lane::is_unreported)
    }

    /// A flush of ours will be reported to tracked lanes; a script that was to be replayed and could not be is doubted.
    fn after_effect(&mut self, id: LaneId, db: Db, executed: &Executed<'_>, effect: Effect) {
        let Executed { command, request, reply, .. } = *executed;
        if matches!(command.rule, Rule::FlushDb | Rule::FlushAll) {
            self.note_own_flush(!reply.is_error());
        }
        if effect == Effect::Image && self.is_replayed(command, &request, reply) {
            self.doubt_unreplayed(id, db);
        }
    }

    /// Under `ack = "both"`: the session and the number of the reply that is about to be given.
    pub(super) fn next_ack(&self, id: SessionId) -> Option<(SessionId, u64)> {
        if self.settings.ack == Ack::Primary {
            return None;
        }
        self.sessions.get(id).map(|session| (id, session.answered + 1))
    }

    pub(super) fn ack_deadline(&self) -> u64 {
        match self.settings.ack {
            Ack::Both { timeout_us, .. } => self.now.us + timeout_us,
            Ack::Primary => 0,
        }
    }

    /// A block: every element's effect in one block, and to the client what it asked for.
    fn answer_block(&mut self, id: LaneId, block: &Block, frame: &[u8], reply: Reply<'_>, resp3: bool, failed: Option<&[u8]>) {
        if !reply.is_aggregate() {
            // MULTI itself was refused: what followed it ran alone, and nobody knows with which replies [H44].
            if failed.is_some() && reply.error().is_some_and(|text| text.ends_with(b"without MULTI")) {
                self.doubt_request(id.db, frame);
            }
            return self.answer_aborted(block, reply, failed, resp3);
        }
        // On a connection of a session's own, the block's database is not the connection's.
        let id = LaneId { db: block.db, ..id };
        let ack = block.session.and_then(|session| self.next_ack(session));
        let mut spans = Spans::default();
        let mut frames = Vec::new();
        let mut outgoing = super::mirror::Outgoing::new(id.db);
        let mut db = id.db;
        let lane3 = self.sides[self.primary().index()].resp == 3;
        let mut shown = Vec::new();
        let mut replies = reply.elements().peekable();
        let mut pending = false;
        self.writes.writer = block.session;
        self.ambiguous = self.is_ambiguous(id);
        for (at, element) in block.elements.iter().enumerate() {
            if let (Element::Local { command, frame }, Some(id)) = (element, block.session) {
                shown.extend_from_slice(&self.run_local(id, command, frame));
                continue;
            }
            let Some(reply) = replies.next() else { continue };
            let Element::Shown { command, at: from, len } = element else { continue };
            let length = match block.elements.get(at + 1) {
                Some(Element::Hidden(Hidden::Length)) => replies.peek().and_then(|length| length.integer()),
                _ => None,
            };
            let element_frame = &frame[*from..from + len];
            let Parsed::Complete { .. } = parse(element_frame, &mut spans, &mut Resume::default(), true) else { continue };
            let request = Request { frame: element_frame, spans: &spans };
            self.count(command, reply);
            frames.clear();
            let executed = Executed { command, request, reply, length, clock: self.clock() };
            let effect = self.derive(&executed, &mut frames);
            let scripted = self.after_script(id, db, command, &request, reply);
            if command.name == "SELECT" && !reply.is_error() {
                pending |= self.send_outgoing(std::mem::replace(&mut outgoing, super::mirror::Outgoing::new(db)), ack);
                db = crate::resp::encode::parse_integer(request.arg(1)).map_or(db, |index| index as Db);
                outgoing.db = db;
            }
            if matches!(effect, Effect::FlushDb | Effect::Keyless { .. }) {
                // It goes to the mirror by itself: what the block did before it goes first.
                pending |= self.send_outgoing(std::mem::replace(&mut outgoing, super::mirror::Outgoing::new(db)), ack);
            }
            pending |= self.gather(&mut outgoing, command, &request, effect, &frames, ack);
            self.ambiguous |= scripted && !self.settings.faults.no_ambiguity;
            self.after_effect(id, db, &executed, effect);
            let again = block.elements[at + 1..].iter().take_while(|element| matches!(element, Element::Hidden(Hidden::Again))).count();
            let reserved = |key: &Reply<'_>| key.text().starts_with(super::RESERVED_PREFIX);
            let reply = match reserved(&reply) && again > 0 {
                true => replies.clone().take(again).find(|other| !reserved(other)).unwrap_or(reply),
                false => reply,
            };
            let listed = match () {
                () if self.lists_keys(command) => Some(self.hide_reserved(id, command, reply)),
                () if Self::speaks_of_clients(command) => Some(self.retell(id, command, &request, reply)),
                () => None,
            };
            let reply = listed.as_deref().map_or(reply, Reply);
            let down = lane3 && block.session.and_then(|id| self.sessions.get(id)).is_none_or(|session| session.resp < 3);
            if down {
                downgrade(reply.0, command.shape, request.len(), &mut shown);
            } else {
                shown.extend_from_slice(reply.0);
            }
        }
        self.ambiguous = false;
        if let (true, Some(Element::Hidden(Hidden::Silent)), Some(mark)) = (block.plain, block.elements.last(), reply.elements().last()) {
            // What it replaced went with the command before it.
            self.sides[id.side.index()].marked &= !mark.is_error();
            let count = self.recent.sent(id.side);
            self.check_mark(id.side, count, mark);
        }
        pending |= self.send_outgoing(outgoing, ack);
        let count = block.elements.iter().filter(|element| !matches!(element, Element::Hidden(_))).count();
        let Some(session) = block.session else { return };
        if !block.single {
            let mut whole = Vec::with_capacity(shown.len() + 8);
            push_array(&mut whole, count);
            whole.extend_from_slice(&shown);
            shown = whole;
        }
        if db != id.db
            && let Some(session) = self.sessions.get_mut(session)
        {
            session.db = db;
        }
        self.deliver(session, &shown, block.wrote, pending.then(|| self.ack_deadline()));
    }

    /// The session's own business, at its place in EXEC.
    fn run_local(&mut self, id: SessionId, command: &'static Command, frame: &[u8]) -> Vec<u8> {
        let mut spans = Spans::default();
        let Parsed::Complete { .. } = parse(frame, &mut spans, &mut Resume::default(), true) else { return Vec::new() };
        self.capture(id, |this| {
            this.local(id, command, &Request { frame, spans: &spans });
        })
    }

    /// The block did not run: EXECABORT, or an error at queue time that only the server knows (-OOM).
    fn answer_aborted(&mut self, block: &Block, reply: Reply<'_>, failed: Option<&[u8]>, resp3: bool) {
        let Some(session) = block.session else { return };
        let told;
        let shown = match failed {
            Some(failed) if block.single => failed,
            // Every command was answered +QUEUED, so the reason is told with EXEC (multi.c execCommandAbort).
            Some([b'-', why @ ..]) => {
                told = [b"-EXECABORT Transaction discarded because of: ", why].concat();
                &told
            }
            _ => reply.0,
        };
        for element in &block.elements {
            if let Element::Shown { command, .. } = element {
                self.count(command, Reply(shown));
            }
        }
        self.give(session, Shape::NullArray, 1, shown, resp3 && shown[0] == b'_', block.wrote, None);
    }

    fn lists_keys(&self, command: &Command) -> bool {
        command.class == crate::command::Class::Cursor || matches!(command.name, "KEYS" | "DBSIZE" | "RANDOMKEY")
    }

    /// Replies that list keys leave the reserved ones out, as far as that can be done (H31); cursors name their side.
    fn hide_reserved(&mut self, id: LaneId, command: &Command, reply: Reply<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(reply.0.len());
        let push_keys = |keys: Reply<'_>, out: &mut Vec<u8>| {
            let shown: Vec<Reply<'_>> = keys.elements().filter(|key| !key.text().starts_with(super::RESERVED_PREFIX)).collect();
            push_array(out, shown.len());
            shown.iter().for_each(|key| out.extend_from_slice(key.0));
        };
        match command.name {
            "DBSIZE" if id.db == 0 => {
                let own = i64::from(self.sides[id.side.index()].marked) + self.verify.planted[id.side.index()] as i64;
                let keys = reply.integer().map_or(0, |keys| (keys - own).max(0));
                crate::resp::encode::push_header(&mut out, b':', keys);
            }
            "KEYS" if reply.is_aggregate() => push_keys(reply, &mut out),
            "RANDOMKEY" if reply.text().starts_with(super::RESERVED_PREFIX) => {
                let null: &[u8] = if self.sides[id.side.index()].resp == 3 { b"_\r\n" } else { b"$-1\r\n" };
                out.extend_from_slice(null);
            }
            "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN" if reply.len() == 2 => {
                let mut parts = reply.elements();
                push_array(&mut out, 2);
                if let Some(cursor) = parts.next() {
                    super::cursor::push_cursor(&mut out, cursor, id.side);
                }
                match parts.next() {
                    Some(keys) if command.name == "SCAN" => push_keys(keys, &mut out),
                    Some(elements) => out.extend_from_slice(elements.0),
                    None => {}
                }
            }
            _ => out.extend_from_slice(reply.0),
        }
        out
    }
}

/// Number of arguments that a request's header announces.
fn argument_count(frame: &[u8]) -> usize {
    let end = frame.iter().position(|byte| *byte == b'\r').unwrap_or(0);
    crate::resp::encode::parse_integer(frame.get(1..end).unwrap_or(&[])).unwrap_or(0).max(0) as usize
}

/// The requests of a frame of ours, one behind the other.
pub(super) fn each_request(mut frame: &[u8], mut each: impl FnMut(&'static Command, &Request<'_>)) {
    let mut spans = Spans::default();
    while let Parsed::Complete { len, .. } = parse(frame, &mut spans, &mut Resume::default(), true) {
        let (one, rest) = frame.split_at(len);
        let request = Request { frame: one, spans: &spans };
        if let Some(command) = Table::get().find(&request) {
            each(command, &request);
        }
        frame = rest;
    }
}
