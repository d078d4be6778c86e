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
                if let Some(admit) = self.leave_feed(id) {
                    return admit;
                }
                self.say(id, b"+OK\r\n");
                self.close_behind_replies(id, "quit");
                Admit::Taken
            }
            // Before 7.0 it was taken everywhere (redis 6.2.14 cluster.c readwriteCommand).
            "READWRITE" if self.sides[self.primary().index()].major < 7 => self.ok(id),
            "READONLY" | "READWRITE" if self.sides[self.primary().index()].is_since(None, Some((8, 0))) => self.ok(id),
            "READONLY" | "READWRITE" | "ASKING" => self.error(id, "ERR This instance has cluster support disabled"),
            "ACL WHOAMI" => {
                let name = self.user_name().to_vec();
                self.bulk(id, &name)
            }
            _ => self.client(id, command, request),
        }
    }

    pub(super) fn ok(&mut self, id: SessionId) -> Admit {
        self.say(id, b"+OK\r\n");
        Admit::Taken
    }

    pub(super) fn error(&mut self, id: SessionId, text: &str) -> Admit {
        self.say(id, format!("-{text}\r\n").as_bytes());
        Admit::Taken
    }

    pub(super) fn bulk(&mut self, id: SessionId, bytes: &[u8]) -> Admit {
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
        let (databases, integers) = (primary.databases, primary.is_since(Some((6, 2)), Some((7, 2))));
        let Some(index) = parse_integer(request.arg(1)).filter(|index| i32::try_from(*index).is_ok()) else {
            let text = if integers { "ERR value is not an integer or out of range" } else { "ERR invalid DB index" };
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

    /// The one user that clients are.
    pub(super) fn user_name(&self) -> &[u8] {
        match &self.settings.client_auth {
            Some((name, _)) if !name.is_empty() => name,
            _ => b"default",
        }
    }

    /// Whether these are the client's credentials. Without any configured, the default user needs none, as in Redis.
    fn credentials(&self, user: &[u8], password: &[u8]) -> bool {
        match &self.settings.client_auth {
            None => user == b"default",
            Some((_, secret)) => {
                let name = self.user_name();
                // Compared in full, whatever the first difference.
                let same = secret.len() == password.len() && secret.iter().zip(password).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
                name == user && same
            }
        }
    }

    fn auth(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        // Users came with 6.0; before it there was one password (redis 5.0.14 server.c authCommand).
        let before_users = self.sides[self.primary().index()].major < 6;
        let (user, password): (&[u8], &[u8]) = match request.len() {
            3 if before_users => return self.error(id, "ERR wrong number of arguments for 'auth' command"),
            2 if before_users && self.settings.client_auth.is_none() => {
                return self.error(id, "ERR Client sent AUTH, but no password is set");
            }
            2 if self.settings.client_auth.is_none() => {
                return self.error(id, "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?");
            }
            2 => (b"default", request.arg(1)),
            3 => (request.arg(1), request.arg(2)),
            _ => return self.error(id, "ERR syntax error"),
        };
        if !self.credentials(user, password) {
            let text = if before_users { "ERR invalid password" } else { WRONG_PASSWORD };
            return self.error(id, text);
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
        if !self.sessions.get(id).is_some_and(Session::is_settled) {
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
            return self.error(id, WRONG_PASSWORD);
        }
        let authenticated = credentials.is_some() || self.sessions.get(id).is_some_and(|session| session.authenticated);
        if !authenticated {
            let proto = if self.sides[self.primary().index()].is_since(Some((7, 2)), Some((7, 2))) { "<proto> " } else { "" };
            let text = format!(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO {proto}AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
            );
            return self.error(id, &text);
        }
        if name.is_some_and(|name| !is_plain(name)) {
            return self.error(id, "ERR Client names cannot contain spaces, newlines or special characters.");
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.authenticated = true;
            session.resp = version.map_or(session.resp, |version| version as u8);
            if let Some(name) = name {
                session.about.name = name.to_vec();
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
        if let Some(admit) = self.leave_feed(id) {
            return admit;
        }
        let open = self.settings.client_auth.is_none();
        self.unwatch(id);
        self.end_feed(id);
        if let Some(session) = self.sessions.get_mut(id) {
            session.multi = None;
            session.db = 0;
            session.resp = 2;
            session.about.name.clear();
            (session.about.no_evict, session.about.no_touch) = (false, false);
            session.mode = ReplyMode::On;
            session.authenticated = open;
        }
        self.say(id, b"+RESET\r\n");
        Admit::Taken
    }
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Printable, without spaces (networking.c validateClientAttr).
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
