//! CLIENT: what clients may know and do about each other. Clients here are the proxy's own; those of the servers are our lanes.
//!
//! The fields of CLIENT LIST and their order are the primary's: they are taken from the line in which it describes one of our
//! connections, so that every version's are right without a table of versions (`networking.c catClientInfoString`).

use super::Sequencer;
use super::local::is_plain;
use super::session::{Admit, ReplyMode, Session, SessionId, Wait};
use crate::command::Command;
use crate::resp::encode::parse_integer;
use crate::resp::request::Request;

/// A line of CLIENT LIST of 7.0.15, for a primary that has not told its own yet.
const LINE: &str = "id=0 addr= laddr= fd=8 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=26 qbuf-free=20448 argv-mem=10 multi-mem=0 rbs=16384 rbp=16384 obl=0 oll=0 omem=0 tot-mem=37658 events=r cmd=client|list user=default redir=-1 resp=2";

/// Which clients are meant. Every condition given must hold.
#[derive(Debug, Default)]
struct Filter {
    ids: Option<Vec<i64>>,
    address: Option<String>,
    local: Option<String>,
    kind: Option<Kind>,
    /// Seconds it has been connected at least.
    age: Option<u64>,
    name: Option<Vec<u8>>,
    skip_me: bool,
}

/// A client's type: no client of ours is a replica or a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Pubsub,
    None,
}

impl Kind {
    fn of(session: &Session) -> Kind {
        if session.is_subscriber() { Kind::Pubsub } else { Kind::Normal }
    }

    fn parse(text: &[u8]) -> Option<Kind> {
        Some(match text.to_ascii_uppercase().as_slice() {
            b"NORMAL" => Kind::Normal,
            b"PUBSUB" => Kind::Pubsub,
            b"MASTER" | b"REPLICA" | b"SLAVE" | b"PRIMARY" => Kind::None,
            _ => return None,
        })
    }
}

impl Sequencer {
    pub(super) fn client(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        match command.name {
            "CLIENT ID" => self.line(id, format!(":{}\r\n", id.number())),
            "CLIENT GETNAME" => {
                let (name, resp) = self.sessions.get(id).map(|session| (session.about.name.clone(), session.resp)).unwrap_or_default();
                if name.is_empty() {
                    return self.line(id, if resp == 3 { "_\r\n" } else { "$-1\r\n" }.to_owned());
                }
                self.bulk(id, &name)
            }
            "CLIENT SETNAME" => {
                if !is_plain(request.arg(2)) {
                    return self.error(id, "ERR Client names cannot contain spaces, newlines or special characters.");
                }
                if let Some(session) = self.sessions.get_mut(id) {
                    session.about.name = request.arg(2).to_vec();
                }
                self.ok(id)
            }
            "CLIENT SETINFO" => self.set_info(id, request),
            "CLIENT INFO" => {
                let line = self.sessions.get(id).map(|session| self.describe_client(session, id, request)).unwrap_or_default();
                self.text(id, &line)
            }
            "CLIENT LIST" => self.list_clients(id, request),
            "CLIENT KILL" => self.kill_clients(id, request),
            "CLIENT PAUSE" => self.pause_clients(id, request),
            "CLIENT UNPAUSE" => {
                self.end_pause();
                self.ok(id)
            }
            "CLIENT NO-EVICT" | "CLIENT NO-TOUCH" => self.set_switch(id, command, request),
            "CLIENT REPLY" => self.reply_mode(id, request),
            "CLIENT UNBLOCK" => self.unblock(id, request),
            // What a client is capable of is a hint to a cluster's server.
            "CLIENT CAPA" => self.ok(id),
            _ => self.error(id, &format!("ERR twinlane: {} is not supported yet", command.name)),
        }
    }

    fn line(&mut self, id: SessionId, reply: String) -> Admit {
        self.say(id, reply.as_bytes());
        Admit::Taken
    }

    /// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`.
    fn unblock(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        if request.len() > 3 && !request.is(3, "TIMEOUT") && !request.is(3, "ERROR") {
            return self.error(id, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        }
        let Some(number) = parse_integer(request.arg(2)) else {
            return self.error(id, "ERR value is not an integer or out of range");
        };
        let unblocked = self.unblock_client(number, request.is(3, "ERROR"));
        self.line(id, format!(":{}\r\n", u8::from(unblocked)))
    }

    fn set_switch(&mut self, id: SessionId, command: &Command, request: &Request<'_>) -> Admit {
        let on = request.is(2, "ON");
        if !on && !request.is(2, "OFF") {
            return self.error(id, "ERR syntax error");
        }
        if let Some(session) = self.sessions.get_mut(id) {
            *(if command.name == "CLIENT NO-EVICT" { &mut session.about.no_evict } else { &mut session.about.no_touch }) = on;
        }
        self.ok(id)
    }

    /// `CLIENT LIST [TYPE type] [ID id ...]` (redis 7.0.15 networking.c clientCommand); Valkey 8.1 takes the filters of KILL.
    fn list_clients(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let mut filter = Filter::default();
        if request.len() == 4 && request.is(2, "TYPE") {
            filter.kind = Kind::parse(request.arg(3));
            if filter.kind.is_none() {
                return self.unknown_type(id, request.arg(3));
            }
        } else if request.len() > 3 && self.sides[self.primary().index()].is_since(None, Some((8, 1))) {
            match self.parse_filter(request) {
                Ok(parsed) => filter = Filter { skip_me: request_says_skip(request), ..parsed },
                Err(error) => return self.error(id, &error),
            }
        } else if request.len() > 3 && request.is(2, "ID") {
            if !self.sides[self.primary().index()].is_since(Some((6, 2)), Some((7, 2))) {
                return self.error(id, "ERR syntax error");
            }
            let ids: Option<Vec<i64>> = request.args_from(3).map(parse_integer).collect();
            let Some(ids) = ids else { return self.error(id, "ERR Invalid client ID") };
            // In the order in which they are asked for, as often as they are.
            let lines: String = ids
                .iter()
                .filter_map(|wanted| self.sessions.iter().find(|session| session.id.number() as i64 == *wanted))
                .map(|session| self.describe_client(session, id, request))
                .collect();
            return self.text(id, &lines);
        } else if request.len() != 2 {
            return self.error(id, "ERR syntax error");
        }
        let lines: String = self
            .clients(&filter, id)
            .into_iter()
            .filter_map(|id| self.sessions.get(id))
            .map(|session| self.describe_client(session, id, request))
            .collect();
        self.text(id, &lines)
    }

    /// The clients a filter means, oldest first.
    fn clients(&self, filter: &Filter, me: SessionId) -> Vec<SessionId> {
        let is_meant = |session: &&Session| {
            let about = &session.about;
            let age = self.now.us.saturating_sub(about.opened_us) / 1_000_000;
            !(filter.skip_me && session.id == me)
                && filter.ids.as_ref().is_none_or(|ids| ids.contains(&(session.id.number() as i64)))
                && filter.address.as_ref().is_none_or(|address| **address == *about.addresses.peer)
                && filter.local.as_ref().is_none_or(|local| **local == *about.addresses.local)
                && filter.kind.is_none_or(|kind| kind == Kind::of(session))
                && filter.age.is_none_or(|least| age >= least)
                && filter.name.as_ref().is_none_or(|name| *name == about.name)
                && !session.closing
        };
        let mut ids: Vec<SessionId> = self.sessions.iter().filter(is_meant).map(|session| session.id).collect();
        ids.sort_by_key(|id| id.number());
        ids
    }

    /// `CLIENT KILL address`, `CLIENT KILL option value ...`.
    fn kill_clients(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let old_form = request.len() == 3;
        let filter = if old_form {
            Filter { address: Some(String::from_utf8_lossy(request.arg(2)).into_owned()), ..Filter::default() }
        } else {
            match self.parse_filter(request) {
                Ok(filter) => filter,
                Err(error) => return self.error(id, &error),
            }
        };
        let mut killed = self.clients(&filter, id);
        let count = killed.len();
        killed.retain(|other| *other != id);
        let suicide = killed.len() < count;
        for other in killed {
            // At once, whether it reads or not.
            self.drop_output(other);
            self.close(other, "killed");
        }
        match (old_form, count) {
            (true, 0) => self.error(id, "ERR No such client"),
            (true, _) => self.ok(id),
            (false, _) => self.line(id, format!(":{count}\r\n")),
        };
        if suicide {
            self.close_behind_replies(id, "killed");
        }
        Admit::Taken
    }

    /// Options of CLIENT KILL, with the errors of the primary's version.
    fn parse_filter(&self, request: &Request<'_>) -> Result<Filter, String> {
        let side = &self.sides[self.primary().index()];
        let many_ids = side.is_since(None, Some((8, 1)));
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        let syntax = || "ERR syntax error".to_owned();
        let lossy = |at: usize| String::from_utf8_lossy(request.arg(at)).into_owned();
        let mut at = 2;
        while at < request.len() {
            if at + 1 == request.len() {
                return Err(syntax());
            }
            let value = request.arg(at + 1);
            if request.is(at, "ID") && many_ids {
                let ids: Vec<i64> = request.args_from(at + 1).map_while(parse_integer).collect();
                if ids.is_empty() {
                    return Err(syntax());
                }
                if ids.iter().any(|id| *id < 1) {
                    return Err("ERR client-id should be greater than 0".into());
                }
                at += ids.len() - 1;
                filter.ids = Some(ids);
            } else if request.is(at, "ID") {
                filter.ids = match parse_integer(value) {
                    Some(id) if id >= 1 || side.major < 7 => Some(vec![id]),
                    _ if side.major < 7 => return Err("ERR value is not an integer or out of range".into()),
                    _ => return Err("ERR client-id should be greater than 0".into()),
                };
            } else if request.is(at, "TYPE") {
                filter.kind = Some(Kind::parse(value).ok_or_else(|| format!("ERR Unknown client type '{}'", lossy(at + 1)))?);
            } else if request.is(at, "ADDR") {
                filter.address = Some(lossy(at + 1));
            } else if request.is(at, "LADDR") && side.is_since(Some((6, 2)), Some((7, 2))) {
                filter.local = Some(lossy(at + 1));
            } else if request.is(at, "USER") && side.major >= 6 {
                if value != self.user_name() && value != b"default" {
                    return Err(format!("ERR No such user '{}'", lossy(at + 1)));
                }
                if value != self.user_name() {
                    filter.kind = Some(Kind::None);
                }
            } else if request.is(at, "MAXAGE") && side.is_since(Some((7, 4)), Some((8, 0))) {
                let age = parse_integer(value).ok_or("ERR value is not an integer or out of range")?;
                filter.age = Some(u64::try_from(age).ok().filter(|age| *age > 0).ok_or("ERR maxage should be greater than 0")?);
            } else if request.is(at, "NAME") && side.is_since(None, Some((8, 1))) {
                filter.name = Some(value.to_vec());
            } else if request.is(at, "SKIPME") {
                filter.skip_me = match value.to_ascii_uppercase().as_slice() {
                    b"YES" => true,
                    b"NO" => false,
                    _ => return Err(syntax()),
                };
            } else {
                return Err(syntax());
            }
            at += 2;
        }
        Ok(filter)
    }

    fn unknown_type(&mut self, id: SessionId, kind: &[u8]) -> Admit {
        let text = format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind));
        self.error(id, &text)
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
            session.about.lib[slot] = request.arg(3).to_vec();
        }
        self.ok(id)
    }

    /// A text reply: verbatim in RESP3.
    fn text(&mut self, id: SessionId, text: &str) -> Admit {
        if self.sessions.get(id).is_some_and(|session| session.resp == 3) {
            return self.line(id, format!("={}\r\ntxt:{text}\r\n", text.len() + 4));
        }
        self.bulk(id, text.as_bytes())
    }

    /// One line of CLIENT LIST, asked for by `me` with this request.
    fn describe_client(&self, session: &Session, me: SessionId, request: &Request<'_>) -> String {
        let side = &self.sides[self.primary().index()];
        let sample = if side.client_line.is_empty() { LINE } else { &side.client_line };
        let fields: Vec<String> = sample
            .split_whitespace()
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| {
                let told = self.client_field(session, name, value, (session.id == me).then_some(request));
                // A field of a version that we do not know: nothing, in the field's own type.
                let unknown = || if value.parse::<i64>().is_ok() { "0".into() } else { String::new() };
                format!("{name}={}", told.unwrap_or_else(unknown))
            })
            .collect();
        fields.join(" ") + "\n"
    }

    /// The value of a field; `sample` is the server's for a connection of ours, `asking` the request of the client that asks.
    fn client_field(&self, session: &Session, name: &str, sample: &str, asking: Option<&Request<'_>>) -> Option<String> {
        let about = &session.about;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let seconds = |since: u64| (self.now.us.saturating_sub(since) / 1_000_000).to_string();
        let counts = session.feed.as_ref().map_or([0; 3], |feed| feed.counts());
        let subcommands = sample.contains('|');
        Some(match name {
            "id" => session.id.number().to_string(),
            "addr" => about.addresses.peer.to_string(),
            "laddr" => about.addresses.local.to_string(),
            // A number that a server might have: its own files come first.
            "fd" => (session.id.slot() + 8).to_string(),
            "name" => text(&about.name),
            "redir" => self.redirection(session.id).to_string(),
            "age" => seconds(about.opened_us),
            "idle" => seconds(about.heard_us),
            "flags" => self.client_flags(session),
            "db" => session.db.to_string(),
            "multi" => session.multi.as_ref().map_or(-1, |multi| multi.len() as i64).to_string(),
            "sub" => counts[0].to_string(),
            "psub" => counts[1].to_string(),
            "ssub" => counts[2].to_string(),
            "watch" => session.watch.as_ref().map_or(0, |watch| watch.len()).to_string(),
            "multi-mem" => session.multi.as_ref().map_or(0, |multi| multi.bytes()).to_string(),
            // Servers that count the running request among what is being received show it to the one who asks.
            "qbuf" => (session.waiting_bytes() + asking.filter(|_| sample != "0").map_or(0, |request| request.frame.len())).to_string(),
            "argv-mem" => asking.map_or(0, |request| request.args_from(0).map(<[u8]>::len).sum()).to_string(),
            "qbuf-free" | "rbs" | "rbp" | "tot-mem" | "events" => sample.to_owned(),
            "omem" => session.unread_bytes().to_string(),
            "cmd" => match about.last {
                None => "NULL".to_owned(),
                Some(command) if subcommands || side_names_subcommands(self) => command.error_name.clone(),
                Some(command) => command.container().to_ascii_lowercase(),
            },
            "user" => text(self.user_name()),
            "resp" => session.resp.to_string(),
            "lib-name" => text(&about.lib[0]),
            "lib-ver" => text(&about.lib[1]),
            "tot-net-in" => about.bytes_in.to_string(),
            "tot-net-out" => about.bytes_out.to_string(),
            "tot-cmds" => about.commands.to_string(),
            _ => return None,
        })
    }

    fn client_flags(&self, session: &Session) -> String {
        let tracking = session.feed.as_ref().and_then(|feed| feed.tracking.as_ref());
        let flags: String = [
            (session.is_subscriber(), 'P'),
            (session.multi.is_some(), 'x'),
            (tracking.is_some(), 't'),
            (tracking.is_some_and(|tracking| tracking.broken), 'R'),
            (tracking.is_some_and(|tracking| tracking.broadcast), 'B'),
            (session.wait == Some(Wait::Pause) || self.is_parked(session.id), 'b'),
            (session.watch.as_ref().is_some_and(|watch| watch.broken), 'd'),
            (session.closing || session.quitting.is_some(), 'c'),
            (session.about.no_evict, 'e'),
            (session.about.no_touch, 'T'),
        ]
        .into_iter()
        .filter_map(|(holds, flag)| holds.then_some(flag))
        .collect();
        if flags.is_empty() { "N".into() } else { flags }
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

/// Redis 7 and later name the subcommand in `cmd`.
fn side_names_subcommands(sequencer: &Sequencer) -> bool {
    sequencer.sides[sequencer.primary().index()].major >= 7
}

/// CLIENT LIST leaves out the one who asks only when told so; CLIENT KILL the other way round.
fn request_says_skip(request: &Request<'_>) -> bool {
    (2..request.len()).any(|at| request.is(at, "SKIPME") && request.is(at + 1, "YES"))
}
