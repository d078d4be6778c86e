//! Scripts and functions: which keys they wrote, declared or not, and that the other side can run them after a flip.
//!
//! The hard case is the undeclared key (H15): it is named nowhere. The server tells it: with `CLIENT TRACKING ON BCAST NOLOOP` on
//! the lane itself, the keys that scripts of this lane wrote are reported behind the replies of the server's turn, because the
//! server books them under the script's own client; plain commands of the lane are not reported (redis 7.0.15 tracking.c
//! trackingRememberKeyToBroadcast). Each reported key is doubtful and gets an image. Two holes are closed here:
//!
//! - Last writer wins: a plain command of the lane that wrote the key *behind* the script in the same turn hides it. So what was
//!   in flight behind a script when its reply came ([`Lane::is_unreported`](super::lane::Lane::is_unreported)) is not replayed but
//!   imaged; what was appended later ran in a later turn, and its reply comes behind the report.
//! - A report may be lost with its lane: then nobody knows which keys it named, and the database is in doubt as a whole.
//!
//! Reports carry no database, so a key is doubted in the database of each lane that was told of it. Other writers are reported
//! too (other lanes, direct writers, active expiry, eviction): their keys get an image as well, which is right and not free.

use super::lane::{Lane, LaneId, Tracking, What};
use super::{Sequencer, image::field};
use crate::command::{Command, Rule, Table};
use crate::doubt::{Cause, WideCause};
use crate::endpoint::{Db, Endpoint};
use crate::limits;
use crate::resp::encode::push_request;
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use crate::sha1::sha1_hex;
use crate::status::{Finding, Level, ScriptStatus};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// How a script's or function's effect reaches the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScriptMode {
    /// Images of its declared keys and of all keys the server reports.
    #[default]
    Track,
    /// Images of its declared keys: the operator says that it writes no others.
    Declared,
    /// The same again: the operator says that it is deterministic.
    Replay,
}

/// A script's digest in lower case, or a function's name.
type Name = Arc<[u8]>;

/// Whether the mirror has a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnMirror {
    Unknown,
    Asked,
    Yes,
    /// It has not, and its body is not known here.
    No,
}

/// A script or function that a client used.
#[derive(Debug)]
struct Known {
    body: Option<Arc<[u8]>>,
    function: bool,
    /// It may write.
    writes: bool,
    mirror: OnMirror,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    known: HashMap<Name, Known>,
    by_body: HashMap<Arc<[u8]>, Name>,
    bytes: usize,
    /// The table is full.
    full: bool,
    /// Names whose presence on the mirror is to be made sure of.
    todo: VecDeque<Name>,
    /// Absent ones are asked for again then, microseconds.
    ask_again_at: u64,
    functions: Functions,
    /// Why the primary refuses to report.
    refusal: Option<String>,
    /// Keys reported.
    pub reported: u64,
}

/// The function libraries of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Functions {
    /// To be read and put on the mirror.
    #[default]
    Due,
    Asked,
    Done,
    /// The mirror's version has none.
    Impossible,
}

const TRACKING_ON: &[&[u8]] = &[b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"NOLOOP"];
const TRACKING_OFF: &[&[u8]] = &[b"CLIENT", b"TRACKING", b"OFF"];

impl Scripts {
    fn name_of(&self, command: &Command, request: &Request<'_>) -> Name {
        match command.name {
            "EVAL" | "EVAL_RO" => self.by_body.get(request.arg(1)).cloned().unwrap_or_else(|| sha1_hex(request.arg(1)).as_slice().into()),
            "EVALSHA" | "EVALSHA_RO" => request.arg(1).to_ascii_lowercase().into(),
            _ => request.arg(1).into(),
        }
    }

    fn note(&mut self, name: Name, body: Option<&[u8]>, function: bool, writes: bool) {
        if let Some(known) = self.known.get_mut(&name) {
            known.writes |= writes;
            if known.body.is_some() || body.is_none() {
                return;
            }
        }
        let more = body.map_or(0, <[u8]>::len);
        if (self.known.len() >= limits::SCRIPTS_MAX && !self.known.contains_key(&name)) || self.bytes + more > limits::SCRIPTS_BYTES_MAX {
            self.full = true;
            return;
        }
        self.bytes += more;
        let body: Option<Arc<[u8]>> = body.map(Into::into);
        if let Some(body) = &body {
            self.by_body.insert(body.clone(), name.clone());
        }
        let writes = writes || self.known.get(&name).is_some_and(|known| known.writes);
        if !function {
            self.todo.push_back(name.clone());
        }
        self.known.insert(name, Known { body, function, writes, mirror: OnMirror::Unknown });
    }

    fn forget(&mut self, name: &[u8]) {
        if let Some(known) = self.known.remove(name)
            && let Some(body) = known.body
        {
            self.bytes -= body.len();
            self.by_body.remove(&body);
        }
    }

    /// The primary has forgotten every script.
    fn flush(&mut self) {
        self.known.retain(|_, known| known.function);
        self.by_body.clear();
        self.todo.clear();
        self.bytes = 0;
        self.full = false;
    }

    /// The primary is connected anew: it may report now, and have other libraries.
    pub fn primary_is_new(&mut self) {
        self.refusal = None;
        self.functions = Functions::Due;
    }

    /// The mirror is another one, or was away: it may have nothing.
    pub fn mirror_is_new(&mut self) {
        self.functions = Functions::Due;
        self.todo.clear();
        for (name, known) in self.known.iter_mut().filter(|(_, known)| !known.function) {
            known.mirror = OnMirror::Unknown;
            self.todo.push_back(name.clone());
        }
    }
}

impl Sequencer {
    fn script_mode(&self, name: &[u8]) -> ScriptMode {
        if self.settings.scripts.is_empty() {
            return ScriptMode::Track;
        }
        self.settings.scripts.get(name).copied().unwrap_or_default()
    }

    /// The script may have written keys that its request does not name.
    pub(super) fn writes_undeclared(&self, command: &Command, request: &Request<'_>) -> bool {
        self.script_mode(&self.scripts.name_of(command, request)) != ScriptMode::Declared
    }

    /// The mirror can repeat the script.
    fn is_replayable(&self, command: &Command, name: &[u8]) -> bool {
        command.name != "EVALSHA" || self.scripts.known.get(name).is_some_and(|known| known.mirror == OnMirror::Yes)
    }

    /// A command is about to be appended to a lane of the primary: if it runs a script, the server must be told to report first.
    pub(super) fn before_script(&mut self, id: LaneId, command: &'static Command, request: &Request<'_>) {
        if !command.runs_script() {
            return;
        }
        let name = self.scripts.name_of(command, request);
        let body = matches!(command.name, "EVAL" | "EVAL_RO").then(|| request.arg(1));
        let function = matches!(command.name, "FCALL" | "FCALL_RO");
        self.scripts.note(name.clone(), body, function, command.rule == Rule::Script);
        if command.rule != Rule::Script {
            return;
        }
        let follows = self.mirror.mode == super::mirror::Mode::Following && self.synced.is_whole(id.db);
        match self.script_mode(&name) {
            ScriptMode::Declared => {}
            ScriptMode::Replay if follows && self.is_replayable(command, &name) => {}
            ScriptMode::Track | ScriptMode::Replay => self.track(id),
        }
        // The script itself is appended next.
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id) {
            (lane.script_at, lane.script_sent) = (now, lane.appended + 1);
        }
    }

    /// As [`Sequencer::before_script`], for a frame that is appended once more on a new lane.
    pub(super) fn before_scripts_of(&mut self, id: LaneId, frame: &[u8]) {
        let mut scripted = false;
        super::reply::each_request(frame, |command, _| scripted |= command.rule == Rule::Script);
        if scripted {
            self.track(id);
            let now = self.now.us;
            if let Some(lane) = self.lane_mut(id) {
                (lane.script_at, lane.script_sent) = (now, lane.appended + 1);
            }
        }
    }

    /// The server is to report written keys on this lane from now on.
    fn track(&mut self, id: LaneId) {
        if self.sides[id.side.index()].resp == 3 && self.lane(id).is_some_and(|lane| lane.tracking == Tracking::Off) {
            self.push_tracking(id, true);
        }
    }

    fn push_tracking(&mut self, id: LaneId, on: bool) {
        let mut frame = Vec::new();
        push_request(&mut frame, if on { TRACKING_ON } else { TRACKING_OFF });
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id) else { return };
        lane.push(&[&frame], What::Track(on), 1, now);
        lane.tracking = if on { Tracking::On } else { Tracking::Off };
        lane.flushes = (0, 0);
        self.touch_lane(id);
    }

    pub(super) fn answer_tracking(&mut self, id: LaneId, on: bool, reply: Reply<'_>) {
        if !reply.is_error() || !on {
            return;
        }
        let text = String::from_utf8_lossy(reply.text()).into_owned();
        self.log(true, format!("`{}` refuses to report what scripts write: {text}", id.side));
        self.scripts.refusal = Some(text);
        if let Some(lane) = self.lane_mut(id) {
            lane.tracking = Tracking::Refused;
        }
    }

    /// A command of a lane that may run scripts was answered. True when what comes behind it in its block may hide what it wrote.
    pub(super) fn after_script(&mut self, id: LaneId, db: Db, command: &'static Command, request: &Request<'_>, reply: Reply<'_>) -> bool {
        match command.name {
            "SCRIPT LOAD" if !reply.is_error() => {
                self.scripts.note(reply.text().into(), Some(request.arg(2)), false, false);
            }
            "SCRIPT FLUSH" if !reply.is_error() => self.scripts.flush(),
            _ => {}
        }
        if command.rule != Rule::Script {
            return false;
        }
        if reply.error_word() == Some(b"NOSCRIPT") {
            let name = self.scripts.name_of(command, request);
            if self.scripts.known.get(&name).is_some_and(|known| known.body.is_none()) {
                self.scripts.forget(&name);
            }
            return false;
        }
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id) else { return false };
        lane.script_at = now;
        if lane.tracking != Tracking::On {
            return false;
        }
        if !lane.is_unreported() {
            lane.script_dbs.clear();
        }
        if !lane.script_dbs.contains(&db) {
            lane.script_dbs.push(db);
        }
        lane.script_until = lane.appended;
        if !id.is_shared() && !lane.has_script() {
            // Others write the same database meanwhile, and every key of theirs is reported here.
            self.push_tracking(id, false);
        }
        true
    }

    /// A script that the operator calls deterministic is repeated on the mirror, if nothing stands against it.
    pub(super) fn is_replayed(&self, command: &Command, request: &Request<'_>, reply: Reply<'_>) -> bool {
        if self.settings.scripts.is_empty() || command.rule != Rule::Script || reply.error_word() == Some(b"NOSCRIPT") {
            return false;
        }
        let name = self.scripts.name_of(command, request);
        self.script_mode(&name) == ScriptMode::Replay
    }

    /// Whether a replayed script can be sent as it is.
    pub(super) fn can_replay(&self, command: &Command, request: &Request<'_>, reply: Reply<'_>) -> bool {
        let name = self.scripts.name_of(command, request);
        !reply.is_error() && self.is_replayable(command, &name)
    }

    /// A script that counts on being replayed was not: if nobody reported its keys, nobody knows them.
    pub(super) fn doubt_unreplayed(&mut self, id: LaneId, db: Db) {
        if !self.lane(id).is_some_and(|lane| lane.tracking == Tracking::On) {
            self.unsync(&[db], WideCause::Script);
        }
    }

    /// The server sent something that nobody asked for: a report of written keys, or of an emptied database.
    pub(super) fn take_push(&mut self, id: LaneId, push: Reply<'_>) {
        let mut parts = push.elements();
        let (Some(kind), Some(keys)) = (parts.next(), parts.next()) else { return };
        if kind.text() != b"invalidate" || id.side != self.primary() || !self.record.mirroring || self.settings.faults.no_reports {
            return;
        }
        if keys.is_null() {
            if let Some(lane) = self.lane_mut(id) {
                lane.flushes.0 += 1;
            }
            return self.judge_flushes(id, false);
        }
        // A block may have changed the database before its script ran.
        let mut databases = self.lane(id).map(|lane| lane.script_dbs.clone()).unwrap_or_default();
        if (id.is_shared() || databases.is_empty()) && !databases.contains(&id.db) {
            databases.push(id.db);
        }
        for db in databases {
            keys.elements().for_each(|key| self.report_key(db, key.text(), !id.is_shared() || db != id.db, Cause::Reported));
        }
    }

    /// Two databases changed places, perhaps behind a script of the same block, which has not been reported yet.
    pub(super) fn swap_scripted(&mut self, a: Db, b: Db) {
        let side = self.primary();
        let lanes: Vec<LaneId> = self.sides[side.index()].all_lanes().map(|(id, _)| id).collect();
        for id in lanes {
            if let Some(lane) = self.lane_mut(id) {
                lane.script_dbs.iter_mut().for_each(|db| *db = super::mirror::swapped(*db, a, b));
            }
        }
    }

    /// A key was written, or died, on the primary without a command that names it. `aside`: learnt by another connection than the
    /// one that reads images.
    pub(super) fn report_key(&mut self, db: Db, key: &[u8], aside: bool, cause: Cause) {
        if key.starts_with(super::RESERVED_PREFIX) || !self.record.mirroring {
            return;
        }
        self.scripts.reported += u64::from(cause == Cause::Reported);
        self.disturb_copy(db, key);
        // A key that dies on a primary which has lost data may be one of what it has left from before.
        let position = if cause == Cause::Expired { self.doubt_position() } else { self.next_position() };
        if aside && self.ledger.mark_from_aside(db, key, cause, position, self.now.unix_ms) {
            self.note_doubt(db, key);
            self.totals.dirty[cause as usize] += 1;
        } else {
            self.mark_dirty(db, key, cause, position);
        }
        // Its value on the mirror was wrong before we heard of it.
        let lane = LaneId::shared(self.mirror_side(), db);
        if self.lane(lane).is_some_and(|lane| lane.sourced > 0) {
            self.spread(lane, HashSet::from([key.to_vec()]));
        }
    }

    /// A flush of ours was answered: every tracked lane is told of it, and of no other.
    pub(super) fn note_own_flush(&mut self, done: bool) {
        let side = self.primary();
        let tracked: Vec<LaneId> = self.tracked_lanes(side).collect();
        let now = self.now.us;
        for id in tracked {
            if let Some(lane) = self.lane_mut(id) {
                lane.flushes.1 += u32::from(done);
                lane.push(&[b"*1\r\n$4\r\nPING\r\n"], What::Sync, 1, now);
            }
            self.touch_lane(id);
        }
    }

    fn tracked_lanes(&self, side: Endpoint) -> impl Iterator<Item = LaneId> + '_ {
        let tracked = |(_, lane): &(LaneId, &Lane)| lane.is_open() && lane.tracking == Tracking::On;
        self.sides[side.index()].all_lanes().filter(tracked).map(|(id, _)| id)
    }

    /// Compares reports of emptied databases with our own flushes; one that is not ours puts everything in doubt.
    pub(super) fn judge_flushes(&mut self, id: LaneId, behind: bool) {
        let flushes = |what: &What| match what {
            What::Client { command, .. } => matches!(command.rule, Rule::FlushDb | Rule::FlushAll),
            What::Block(block) => block.flushes(),
            _ => false,
        };
        let side = &self.sides[id.side.index()];
        if side.all_lanes().any(|(_, lane)| lane.in_flight.iter().any(|flight| flushes(&flight.what))) {
            return;
        }
        let Some(lane) = self.lane_mut(id) else { return };
        let (seen, ours) = lane.flushes;
        if behind || seen > ours {
            lane.flushes = (0, 0);
        }
        if seen > ours {
            self.log(true, "the primary was emptied by somebody else, or by a script: everything is copied anew");
            self.unsync(&[], WideCause::Emptied);
            self.refresh_keyspaces();
            self.marks_due.get_or_insert(self.now.us);
        }
    }

    /// Where something waits for the lanes to be quiet, a read behind the last script brings what it reported.
    pub(super) fn pump_reports(&mut self) -> bool {
        if !(self.holding || self.fences.has_barrier()) {
            return false;
        }
        self.ask_reports()
    }

    fn ask_reports(&mut self) -> bool {
        if self.flip.as_ref().is_some_and(super::flip::Flip::is_committing) {
            return false;
        }
        let side = self.primary();
        let owing = |(_, lane): &(LaneId, &Lane)| lane.is_open() && lane.in_flight.is_empty() && lane.is_unreported();
        let owing: Vec<LaneId> = self.sides[side.index()].all_lanes().filter(owing).map(|(id, _)| id).collect();
        let now = self.now.us;
        for id in &owing {
            if let Some(lane) = self.lane_mut(*id) {
                lane.push(&[b"*1\r\n$4\r\nPING\r\n"], What::Sync, 1, now);
            }
            self.touch_lane(*id);
        }
        !owing.is_empty()
    }

    /// Time passes: reports are fetched, idle lanes stop reporting, absent scripts are asked for again.
    pub(super) fn tick_scripts(&mut self) {
        self.ask_reports();
        let now = self.now.us;
        let idle =
            |lane: &Lane| !lane.has_script() && !lane.is_unreported() && now.saturating_sub(lane.script_at) > limits::TRACKING_IDLE_US;
        let side = self.primary();
        let idle: Vec<LaneId> = self.tracked_lanes(side).filter(|id| self.lane(*id).is_some_and(idle)).collect();
        if self.may_ask() {
            idle.into_iter().for_each(|id| self.push_tracking(id, false));
        }
        if now >= self.scripts.ask_again_at {
            self.scripts.ask_again_at = now + 5_000_000;
            let absent = |known: &Known| known.mirror == OnMirror::No;
            let names: Vec<Name> = self.scripts.known.iter().filter(|(_, known)| absent(known)).map(|(name, _)| name.clone()).collect();
            self.scripts.todo.extend(names);
        }
    }

    /// Roles moved: the former primary's lanes report no more.
    pub(super) fn stop_reports(&mut self, side: Endpoint) {
        let lanes: Vec<LaneId> = self.tracked_lanes(side).collect();
        for id in lanes {
            self.push_tracking(id, false);
            if let Some(lane) = self.lane_mut(id) {
                (lane.script_until, lane.script_sent) = (0, 0);
            }
        }
        self.scripts.refusal = None;
    }

    /// Makes sure that the mirror has the scripts and functions that clients use (H40).
    pub(super) fn pump_scripts(&mut self) -> bool {
        if self.scripts.todo.is_empty() && self.scripts.functions != Functions::Due {
            return false;
        }
        let flipping = self.flip.as_ref().is_some_and(super::flip::Flip::is_committing);
        if !self.record.mirroring || flipping || self.mirror_refuses(0).is_some() || !self.sides[self.primary().index()].is_up() {
            return false;
        }
        let mut moved = self.ask_functions();
        let (id, now) = (LaneId::shared(self.mirror_side(), 0), self.now.us);
        for name in std::mem::take(&mut self.scripts.todo) {
            let Some(known) = self.scripts.known.get_mut(&name) else { continue };
            known.mirror = OnMirror::Asked;
            let (mut frame, what) = (
                Vec::new(),
                match &known.body {
                    Some(_) => What::ScriptLoad(name.clone()),
                    None => What::ScriptExists(name.clone()),
                },
            );
            match &known.body {
                Some(body) => push_request(&mut frame, &[b"SCRIPT", b"LOAD", body]),
                None => push_request(&mut frame, &[b"SCRIPT", b"EXISTS", &name]),
            }
            if let Some(lane) = self.lane_mut(id) {
                lane.push(&[&frame], what, 1, now);
            }
            moved = true;
        }
        self.touch_lane(id);
        moved
    }

    pub(super) fn answer_script(&mut self, name: &[u8], loaded: bool, reply: Reply<'_>) {
        if loaded && reply.is_error() {
            // The primary would not have it either.
            return self.scripts.forget(name);
        }
        let has = loaded || reply.elements().next().and_then(Reply::integer) == Some(1);
        if let Some(known) = self.scripts.known.get_mut(name).filter(|known| known.mirror == OnMirror::Asked) {
            known.mirror = if has { OnMirror::Yes } else { OnMirror::No };
        }
    }

    /// The mirror's connection was lost before it answered.
    pub(super) fn lose_script(&mut self, name: &[u8]) {
        if let Some(known) = self.scripts.known.get_mut(name) {
            known.mirror = OnMirror::Unknown;
        }
    }

    fn ask_functions(&mut self) -> bool {
        let Some(list) = Table::get().named("FUNCTION LIST") else { return false };
        let id = LaneId::shared(self.primary(), 0);
        if self.scripts.functions != Functions::Due || !self.may_ask() || !self.lane(id).is_some_and(Lane::is_open) {
            return false;
        }
        if !self.sides[id.side.index()].knows(list) {
            self.scripts.functions = Functions::Done;
            return false;
        }
        self.scripts.functions = Functions::Asked;
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(id) {
            let mut frame = Vec::new();
            push_request(&mut frame, &[b"FUNCTION", b"LIST", b"WITHCODE"]);
            lane.push(&[&frame], What::Functions, 1, now);
        }
        self.touch_lane(id);
        true
    }

    pub(super) fn answer_functions(&mut self, reply: Reply<'_>) {
        if self.scripts.functions != Functions::Asked {
            return;
        }
        let codes: Vec<&[u8]> = reply.elements().filter_map(|library| field(library, "library_code")).map(Reply::text).collect();
        let can = Table::get().named("FUNCTION LOAD").is_some_and(|load| self.sides[self.mirror_side().index()].knows(load));
        self.scripts.functions = if codes.is_empty() || can { Functions::Done } else { Functions::Impossible };
        if codes.is_empty() || !can {
            return;
        }
        let mut frame = b"*1\r\n$5\r\nMULTI\r\n".to_vec();
        codes.iter().for_each(|code| push_request(&mut frame, &[b"FUNCTION", b"LOAD", b"REPLACE", code]));
        push_request(&mut frame, &[b"EXEC"]);
        self.push_libraries(frame, codes.len() as u32 + 2);
    }

    pub(super) fn lose_functions(&mut self) {
        self.scripts.functions = Functions::Due;
    }

    /// An image of a key that scripts write was read: a large one holds both servers each time (H59).
    pub(super) fn note_script_image(&mut self, db: Db, key: &[u8], bytes: usize) {
        let scripted = |cause| matches!(cause, Cause::Image | Cause::Reported);
        if bytes < limits::SCRIPT_IMAGE_WARN_BYTES || !self.ledger.get(db, key).is_some_and(|entry| scripted(entry.cause)) {
            return;
        }
        let level = if bytes >= limits::SCRIPT_IMAGE_BLOCK_BYTES { Level::Block } else { Level::Warn };
        self.find(Finding {
            level,
            code: "large-script-key",
            subject: format!("{db}:{}", crate::keyname::shown(key)),
            text: format!(
                "scripts write the key \"{}\" of database {db}, whose image has {bytes} bytes: each image holds both servers while it is read and restored",
                crate::keyname::shown(key)
            ),
            remedy: "name the script in `scripts.replay` if it is deterministic, or split the key".into(),
        });
    }

    /// What the operator should know of scripts.
    pub(super) fn script_findings(&self, found: &mut Vec<Finding>) {
        let blind = self.blindness();
        for (name, known) in &self.scripts.known {
            let kind = if known.function { "function" } else { "script" };
            let subject = String::from_utf8_lossy(name).into_owned();
            if let (Some(why), true, ScriptMode::Track) = (&blind, known.writes, self.script_mode(name)) {
                found.push(Finding {
                    level: Level::Block,
                    code: "script-keys-unknown",
                    text: format!("the {kind} {subject} may write keys that it does not declare, and they cannot be learnt: {why}"),
                    remedy: "if it writes none, name it in `scripts.declared`; if it is deterministic, in `scripts.replay`".into(),
                    subject: subject.clone(),
                });
            }
            if known.mirror == OnMirror::No {
                found.push(Finding {
                    level: Level::Block,
                    code: "script-missing",
                    text: format!(
                        "clients call the script {subject} by its digest; `{}` does not have it, and its body was never sent through this proxy",
                        self.mirror_side()
                    ),
                    remedy: "send SCRIPT LOAD with its body through the proxy, or to that server".into(),
                    subject,
                });
            }
        }
        if self.scripts.full {
            found.push(Finding {
                level: Level::Warn,
                code: "scripts-forgotten",
                subject: String::new(),
                text: format!(
                    "more than {} scripts, or {} bytes of them, were seen: further ones are not put on the other side",
                    limits::SCRIPTS_MAX,
                    limits::SCRIPTS_BYTES_MAX
                ),
                remedy: "pass what varies as arguments instead of writing it into the script".into(),
            });
        }
        if self.scripts.functions == Functions::Impossible {
            found.push(Finding {
                level: Level::Block,
                code: "functions-missing",
                subject: String::new(),
                text: format!("`{}` has function libraries, and `{}` has no functions", self.primary(), self.mirror_side()),
                remedy: "move to a server of version 7.0 or later, or stop using functions".into(),
            });
        }
    }

    /// Why the primary cannot tell which keys scripts write.
    fn blindness(&self) -> Option<String> {
        let side = &self.sides[self.primary().index()];
        if side.is_up() && side.resp < 3 {
            return Some(format!("`{}` ({}) cannot report them, servers do from version 6 on", self.primary(), side.version));
        }
        self.scripts.refusal.as_ref().map(|text| format!("`{}` refuses CLIENT TRACKING: {text}", self.primary()))
    }

    pub(super) fn script_status(&self) -> ScriptStatus {
        let cause = self.blindness();
        let tracked = self.tracked_lanes(self.primary()).count();
        ScriptStatus {
            undeclared: match (&cause, tracked) {
                (Some(_), _) => "unknown",
                (None, 0) => "idle",
                _ => "tracked",
            },
            cause,
            seen: self.scripts.known.len(),
            reported_keys: self.scripts.reported,
        }
    }
}
