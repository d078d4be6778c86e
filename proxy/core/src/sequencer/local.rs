//! What is the session's own business: who it is, which protocol it speaks, which database it uses. Nothing of this may reach a
//! lane, which others share.

use super::Sequencer;
use super::lane::LaneId;
use super::session::{Admit, ReplyMode, Session, SessionId, Wait};
use crate::command::Command;
use crate::endpoint::Db;
use crate::resp::encode::{parse_integer, push_bulk, push_header};
use crate::resp::request::Request;

impl Sequencer {
    pub(super) fn local(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        match command.name {
            "PING" => self.ping(id, request),
            "ECHO" => self.bulk(id, request.arg(1)),
            "SELECT" => self.select(id, request),
            "AUTH" => self.auth(id, request),
            "HELLO" => self.hello(id, request),
            "RESET" => self.reset(id),
            "QUIT" => {
                self.say(id, b"+OK\r\n");
                self.close_behind_replies(id, "quit");
                Admit::Taken
            }
            "READONLY" | "READWRITE" | "ASKING" => self.error(id, "ERR This instance has cluster support disabled"),
            "ACL WHOAMI" => {
                let name = self.settings.client_auth.as_ref().map_or(&b"default"[..], |(name, _)| name).to_vec();
                self.bulk(id, &name)
            }
            _ => self.client(id, command, request),
        }
    }

    fn ok(&mut self, id: SessionId) -> Admit {
        self.say(id, b"+OK\r\n");
        Admit::Taken
    }

    fn error(&mut self, id: SessionId, text: &str) -> Admit {
        self.say(id, format!("-{text}\r\n").as_bytes());
        Admit::Taken
    }

    fn bulk(&mut self, id: SessionId, bytes: &[u8]) -> Admit {
        let mut out = Vec::with_capacity(bytes.len() + 16);
        push_bulk(&mut out, bytes);
        self.say(id, &out);
        Admit::Taken
    }

    fn ping(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        if request.len() <= 2 && self.sessions.get(id).is_some_and(|session| session.resp == 2 && session.is_subscriber()) {
            let mut out = b"*2\r\n$4\r\npong\r\n".to_vec();
            push_bulk(&mut out, request.arg(1));
            self.say(id, &out);
            return Admit::Taken;
        }
        match request.len() {
            1 => self.say(id, b"+PONG\r\n"),
            2 => return self.bulk(id, request.arg(1)),
            _ => return self.error(id, "ERR wrong number of arguments for 'ping' command"),
        }
        Admit::Taken
    }

    /// A session changes its lane only when it has nothing unanswered on the one it leaves (H4).
    fn select(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let primary = &self.sides[self.primary().index()];
        let (databases, major) = (primary.databases, primary.major);
        let Some(index) = parse_integer(request.arg(1)).filter(|index| i32::try_from(*index).is_ok()) else {
            let text = if major >= 7 { "ERR value is not an integer or out of range" } else { "ERR invalid DB index" };
            return self.error(id, text);
        };
        if index < 0 || index as usize >= databases.min(crate::limits::DATABASES_MAX) {
            return self.error(id, "ERR DB index is out of range");
        }
        let mirror = self.mirror_side();
        if self.record.mirroring && self.sides[mirror.index()].is_up() && index as usize >= self.sides[mirror.index()].databases {
            return self.error(id, &format!("ERR twinlane: `{mirror}` has no database {index}, so it cannot be mirrored"));
        }
        let Some(session) = self.sessions.get_mut(id) else { return Admit::Taken };
        if !session.is_drained() && (session.db != index as Db || self.fences.owns_barrier(id)) {
            return Admit::Wait(Wait::Drain);
        }
        session.db = index as Db;
        let lane = LaneId::shared(self.primary(), index as Db);
        self.open_lane(lane);
        self.open_lane(LaneId { side: mirror, ..lane });
        self.ok(id)
    }

    /// Whether these are the client's credentials. Without any configured, the default user needs none, as in Redis.
    fn credentials(&self, user: &[u8], password: &[u8]) -> bool {
        match &self.settings.client_auth {
            None => user == b"default",
            Some((name, secret)) => {
                let name: &[u8] = if name.is_empty() { b"default" } else { name };
                // Compared in full, whatever the first difference.
                let same = secret.len() == password.len() && secret.iter().zip(password).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
                name == user && same
            }
        }
    }

    fn auth(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let (user, password): (&[u8], &[u8]) = match request.len() {
            2 if self.settings.client_auth.is_none() => {
                return self.error(id, "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?");
            }
            2 => (b"default", request.arg(1)),
            3 => (request.arg(1), request.arg(2)),
            _ => return self.error(id, "ERR syntax error"),
        };
        if !self.credentials(user, password) {
            return self.error(id, "WRONGPASS invalid username-password pair or user is disabled.");
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.authenticated = true;
        }
        self.ok(id)
    }

    /// `HELLO [2|3] [AUTH user password] [SETNAME name]`: all or nothing (networking.c helloCommand).
    fn hello(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let resp = self.sides[self.primary().index()].resp;
        if resp < 3 && request.len() > 1 {
            // Lanes of such a server speak RESP2 only; it answers as it does.
            let error = crate::command::unknown_command(request, self.sides[self.primary().index()].major);
            return self.refuse_request(id, &error);
        }
        if !self.sessions.get(id).is_some_and(Session::is_drained) {
            return Admit::Wait(Wait::Drain);
        }
        let mut version = None;
        if request.len() > 1 {
            match parse_integer(request.arg(1)) {
                None => return self.error(id, "ERR Protocol version is not an integer or out of range"),
                Some(2 | 3) => version = parse_integer(request.arg(1)),
                Some(_) => return self.error(id, "NOPROTO unsupported protocol version"),
            }
        }
        let (mut credentials, mut name, mut at) = (None, None, 2);
        while at < request.len() {
            if request.is(at, "AUTH") && at + 2 < request.len() {
                credentials = Some((request.arg(at + 1), request.arg(at + 2)));
                at += 3;
            } else if request.is(at, "SETNAME") && at + 1 < request.len() {
                name = Some(request.arg(at + 1));
                at += 2;
            } else {
                let text = format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(request.arg(at)));
                return self.error(id, &text);
            }
        }
        if let Some((user, password)) = credentials
            && !self.credentials(user, password)
        {
            return self.error(id, "WRONGPASS invalid username-password pair or user is disabled.");
        }
        let authenticated = credentials.is_some() || self.sessions.get(id).is_some_and(|session| session.authenticated);
        if !authenticated {
            return self.error(id, "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time");
        }
        if name.is_some_and(|name| !is_plain(name)) {
            return self.error(id, "ERR Client names cannot contain spaces, newlines or special characters.");
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.authenticated = true;
            session.resp = version.map_or(session.resp, |version| version as u8);
            if let Some(name) = name {
                session.name = name.to_vec();
            }
        }
        let greeting = self.greeting(id);
        self.say(id, &greeting);
        Admit::Taken
    }

    fn greeting(&self, id: SessionId) -> Vec<u8> {
        let resp = self.sessions.get(id).map_or(2, |session| session.resp);
        let side = &self.sides[self.primary().index()];
        let version = side.version.rsplit(' ').next().unwrap_or("7.0.0");
        let server = if side.version.starts_with("valkey") { "valkey" } else { "redis" };
        let mut out = Vec::with_capacity(160);
        push_header(&mut out, if resp == 3 { b'%' } else { b'*' }, if resp == 3 { 7 } else { 14 });
        let text = |out: &mut Vec<u8>, name: &str, value: &str| {
            push_bulk(out, name.as_bytes());
            push_bulk(out, value.as_bytes());
        };
        text(&mut out, "server", server);
        text(&mut out, "version", version);
        push_bulk(&mut out, b"proto");
        push_header(&mut out, b':', i64::from(resp));
        push_bulk(&mut out, b"id");
        push_header(&mut out, b':', id.number() as i64);
        text(&mut out, "mode", "standalone");
        text(&mut out, "role", "master");
        push_bulk(&mut out, b"modules");
        out.extend_from_slice(b"*0\r\n");
        out
    }

    fn reset(&mut self, id: SessionId) -> Admit {
        if !self.sessions.get(id).is_some_and(Session::is_drained) {
            return Admit::Wait(Wait::Drain);
        }
        let open = self.settings.client_auth.is_none();
        self.unwatch(id);
        self.end_feed(id);
        if let Some(session) = self.sessions.get_mut(id) {
            session.multi = None;
            session.db = 0;
            session.resp = 2;
            session.name.clear();
            session.mode = ReplyMode::On;
            session.authenticated = open;
        }
        self.say(id, b"+RESET\r\n");
        Admit::Taken
    }

    fn client(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        match command.name {
            "CLIENT ID" => {
                self.say(id, format!(":{}\r\n", id.number()).as_bytes());
                Admit::Taken
            }
            "CLIENT GETNAME" => {
                let (name, resp) = self.sessions.get(id).map(|session| (session.name.clone(), session.resp)).unwrap_or_default();
                if name.is_empty() {
                    self.say(id, if resp == 3 { b"_\r\n" } else { b"$-1\r\n" });
                    return Admit::Taken;
                }
                self.bulk(id, &name)
            }
            "CLIENT SETNAME" => {
                if !is_plain(request.arg(2)) {
                    return self.error(id, "ERR Client names cannot contain spaces, newlines or special characters.");
                }
                if let Some(session) = self.sessions.get_mut(id) {
                    session.name = request.arg(2).to_vec();
                }
                self.ok(id)
            }
            "CLIENT SETINFO" => self.set_info(id, request),
            "CLIENT INFO" => {
                let line = self.sessions.get(id).map(|session| self.describe_client(session)).unwrap_or_default();
                self.text(id, &line)
            }
            "CLIENT LIST" => self.list_clients(id, request),
            "CLIENT NO-EVICT" | "CLIENT NO-TOUCH" if request.is(2, "ON") || request.is(2, "OFF") => self.ok(id),
            "CLIENT NO-EVICT" | "CLIENT NO-TOUCH" => self.error(id, "ERR syntax error"),
            "CLIENT REPLY" => self.reply_mode(id, request),
            "CLIENT GETREDIR" => {
                self.say(id, b":-1\r\n");
                Admit::Taken
            }
            "CLIENT TRACKINGINFO" => {
                let resp3 = self.sessions.get(id).is_some_and(|session| session.resp == 3);
                let (map, set) = if resp3 { ("%3", "~1") } else { ("*6", "*1") };
                let text = format!("{map}\r\n$5\r\nflags\r\n{set}\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n");
                self.say(id, text.as_bytes());
                Admit::Taken
            }
            _ => self.error(id, &format!("ERR twinlane: {} is not supported yet", command.name)),
        }
    }

    /// `CLIENT LIST [TYPE type] [ID id ...]` (networking.c clientCommand).
    fn list_clients(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let mut wanted = None;
        if request.len() == 4 && request.is(2, "TYPE") {
            let known = ["NORMAL", "MASTER", "REPLICA", "SLAVE", "PUBSUB"];
            let Some(kind) = known.into_iter().find(|kind| request.is(3, kind)) else {
                let text = format!("ERR Unknown client type '{}'", String::from_utf8_lossy(request.arg(3)));
                return self.error(id, &text);
            };
            wanted = (kind != "NORMAL").then(Vec::new);
        } else if request.len() > 3 && request.is(2, "ID") {
            let ids: Option<Vec<i64>> = request.args_from(3).map(|text| parse_integer(text).filter(|id| *id >= 1)).collect();
            let Some(ids) = ids else { return self.error(id, "ERR Invalid client ID") };
            wanted = Some(ids);
        } else if request.len() != 2 {
            return self.error(id, "ERR syntax error");
        }
        let is_wanted = |session: &&Session| wanted.as_ref().is_none_or(|ids| ids.contains(&(session.id.number() as i64)));
        let lines: String = self.sessions.iter().filter(is_wanted).map(|session| self.describe_client(session)).collect();
        self.text(id, &lines)
    }

    fn set_info(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let slot = match () {
            () if request.is(2, "LIB-NAME") => 0,
            () if request.is(2, "LIB-VER") => 1,
            () => {
                let text = format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(request.arg(2)));
                return self.error(id, &text);
            }
        };
        if !is_plain(request.arg(3)) {
            let name = if slot == 0 { "lib-name" } else { "lib-ver" };
            return self.error(id, &format!("ERR {name} cannot contain spaces, newlines or special characters."));
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.lib[slot] = request.arg(3).to_vec();
        }
        self.ok(id)
    }

    /// A text reply: verbatim in RESP3.
    fn text(&mut self, id: SessionId, text: &str) -> Admit {
        if self.sessions.get(id).is_some_and(|session| session.resp == 3) {
            self.say(id, format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
            return Admit::Taken;
        }
        self.bulk(id, text.as_bytes())
    }

    fn describe_client(&self, session: &Session) -> String {
        let age = self.now.us.saturating_sub(session.opened_us) / 1_000_000;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "id={} addr=?:0 laddr=?:0 fd=0 name={} age={age} idle=0 flags={} db={} sub=0 psub=0 ssub=0 multi={} resp={} lib-name={} lib-ver={}\n",
            session.id.number(),
            text(&session.name),
            if session.multi.is_some() { "x" } else { "N" },
            session.db,
            if session.multi.is_some() { 0 } else { -1 },
            session.resp,
            text(&session.lib[0]),
            text(&session.lib[1]),
        )
    }

    /// CLIENT REPLY is kept here: the lane still sees every reply.
    fn reply_mode(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        if !self.sessions.get(id).is_some_and(Session::is_drained) {
            return Admit::Wait(Wait::Drain);
        }
        let mode = match () {
            () if request.is(2, "ON") => ReplyMode::On,
            () if request.is(2, "OFF") => ReplyMode::Off,
            () if request.is(2, "SKIP") => ReplyMode::SkipNext,
            () => return self.error(id, "ERR syntax error"),
        };
        let Some(session) = self.sessions.get_mut(id) else { return Admit::Taken };
        // SKIP while replies are off changes nothing (networking.c clientCommand).
        if !(mode == ReplyMode::SkipNext && session.mode == ReplyMode::Off) {
            session.mode = mode;
        }
        if mode == ReplyMode::On {
            return self.ok(id);
        }
        Admit::Taken
    }
}

/// Printable, without spaces (networking.c validateClientAttr).
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
