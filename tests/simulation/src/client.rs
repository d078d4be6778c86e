//! A client: it sends pipelines, counts and checks every reply, and keeps a server of its own beside it that tells what its own
//! keys must answer (I3).
//!
//! The hard case is a connection that the proxy closes: the client does not know which of its writes ran, so it begins anew with
//! other keys. And a refusal (OOM of the server, or a primary that cannot be reached) says that the command did not run.

use crate::audience::{CHANNEL, Published, Publisher};
use crate::commands;
use crate::plan::Plan;
use std::collections::{HashMap, HashSet, VecDeque};
use twinlane_core::command::{Rule, Table};
use twinlane_core::resp::reply::{Reply, Scanner};
use twinlane_core::resp::request::{Parsed, Request, Resume, Spans, parse};
use twinlane_core::sequencer::SessionId;
use twinlane_model::invocations::Command;
use twinlane_model::server::{Entry, Value, encode};
use twinlane_model::{ConnId, ModelServer, Rng};

/// What is known of the reply to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It is one reply.
    Shape,
    /// It is what the client's own server answers.
    Own,
    /// It is what the client's own server answers to EXEC; refused, the transaction is discarded there.
    OwnExec,
    /// As `OwnExec`, of a transaction that watches: nil is a legal answer at any time.
    OwnWatched,
    /// A number that nobody else got.
    Shared,
    /// EXEC of a transaction that watches a key of everybody.
    Watched,
    /// A message with this number was published.
    Published(u64),
}

/// A request that is not answered.
#[derive(Debug)]
struct Asked {
    frame: Vec<u8>,
    check: Check,
    writes: bool,
    /// How often the primary had been lost when it was sent.
    losses: u64,
}

/// What clients may rely on in this history.
#[derive(Debug, Default)]
pub struct Rules {
    /// Nobody takes own keys away, and no server has lost its data.
    pub own: bool,
    /// How often the primary's connection was lost.
    pub losses: u64,
    /// A server did not answer a handshake.
    pub slow_start: bool,
    /// A server refused writes at some time.
    pub refused: bool,
    /// Connections may be closed for a missing confirmation.
    pub strict: bool,
    /// What the shared counter has given out.
    pub shared: HashSet<i64>,
    /// Increments of the shared counter that were sent.
    pub shared_sent: u64,
    /// Keys that any request named.
    pub named: HashSet<Vec<u8>>,
    /// Replies so far.
    pub replies: u64,
    /// What was published.
    pub published: HashMap<Publisher, Published>,
    /// Messages that subscribers got.
    pub heard: u64,
    /// Waiters that were given what was pushed later.
    pub served: u64,
    /// Transactions of watching clients that ran, and those that were answered nil.
    pub watched: [u64; 2],
}

/// One client; `life` counts its connections.
#[derive(Debug)]
pub struct Client {
    index: usize,
    /// Counts connections.
    pub life: u32,
    /// The session, while connected.
    pub session: Option<SessionId>,
    /// When the last piece on its way to the proxy arrives.
    pub arrives: u64,
    resp3: bool,
    db: u16,
    own: ModelServer,
    own_conn: ConnId,
    asked: VecDeque<Asked>,
    input: Vec<u8>,
    scanner: Scanner,
    last_shared: i64,
    /// It has closed its end, and waits for its replies.
    pub ended: bool,
    /// It thinks between WATCH and MULTI; whether what it watches is its own.
    watching: Option<bool>,
}

/// Whether a request may wait for a key: a server forgets it when its client closes its end.
fn waits_for_keys(frame: &[u8]) -> bool {
    let name = frame.split(|byte| *byte == b'\n').nth(2).unwrap_or_default().trim_ascii().to_ascii_uppercase();
    [&b"BL"[..], b"BR", b"BZ", b"XREAD"].iter().any(|start| name.starts_with(start))
}

impl Client {
    /// Not connected yet.
    pub fn new(index: usize, databases: usize) -> Client {
        let own = ModelServer::new(index as u64, databases);
        Client {
            index,
            life: 0,
            session: None,
            arrives: 0,
            resp3: false,
            db: 0,
            own,
            own_conn: 0,
            asked: VecDeque::new(),
            input: Vec::new(),
            scanner: Scanner::default(),
            last_shared: i64::MIN,
            ended: false,
            watching: None,
        }
    }

    /// A new connection, with keys of its own that nobody has written.
    pub fn begin(&mut self, session: SessionId, databases: usize) {
        self.life += 1;
        self.ended = false;
        self.session = Some(session);
        self.own = ModelServer::new(self.index as u64, databases);
        self.own_conn = self.own.open();
        (self.resp3, self.db, self.last_shared, self.watching) = (false, 0, i64::MIN, None);
        self.asked.clear();
        self.input.clear();
        self.scanner = Scanner::default();
    }

    /// Every request is answered.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// For a failure's text.
    pub fn waits_for(&self) -> String {
        self.asked.front().map_or_else(String::new, |asked| asked.frame.escape_ascii().to_string())
    }

    fn prefix(&self) -> String {
        format!("own:{}.{}:", self.index, self.life)
    }

    /// The next pipeline.
    pub fn pipeline(&mut self, r: &mut Rng, plan: &Plan, rules: &mut Rules) -> Vec<u8> {
        let mut out = Vec::new();
        if self.life % 2 == 1 && !self.resp3 && self.own.executed == 0 && self.index.is_multiple_of(2) {
            self.resp3 = true;
            self.ask(&encode(&["HELLO", "3"]), Check::Shape, rules, &mut out);
            let hello = encode(&["HELLO", "3"]);
            self.own.feed(self.own_conn, &hello, 0);
            self.own.step(self.own_conn, 0);
            self.own.take_output(self.own_conn);
        }
        if self.watching.is_some() && r.one_in(4) {
            self.transaction(r, plan, rules, &mut out, true);
        }
        for _ in 0..r.between(1, plan.pipeline) {
            self.one(r, plan, rules, &mut out);
        }
        out
    }

    fn one(&mut self, r: &mut Rng, plan: &Plan, rules: &mut Rules, out: &mut Vec<u8>) {
        let prefix = self.prefix();
        match r.below(100) {
            0..=29 => self.ask(&encode(&commands::own(r, &prefix, plan)), Check::Own, rules, out),
            30..=35 if self.db == 0 => {
                rules.shared_sent += 1;
                self.ask(b"*2\r\n$4\r\nINCR\r\n$8\r\nshared:n\r\n", Check::Shared, rules, out);
            }
            36..=38 => self.publish(rules, out),
            39 | 40 => self.ask(&encode(&commands::read(r)), Check::Shape, rules, out),
            41..=55 => self.ask(&encode(&commands::generated(r, &plan.rows)), Check::Shape, rules, out),
            56..=58 if plan.databases > 1 => {
                self.db = r.below(plan.databases as u64) as u16;
                let text = self.db.to_string();
                self.ask(&encode(&["SELECT", text.as_str()]), Check::Own, rules, out);
            }
            59..=63 => self.transaction(r, plan, rules, out, true),
            64..=67 => self.transaction(r, plan, rules, out, false),
            68 | 69 if plan.barriers => self.ask(&encode(&commands::whole(r)), Check::Shape, rules, out),
            _ => self.ask(&encode(&commands::contended(r, plan.large, plan.undeclared)), Check::Shape, rules, out),
        }
    }

    fn publish(&mut self, rules: &mut Rules, out: &mut Vec<u8>) {
        let published = rules.published.entry((self.index, self.life)).or_default();
        published.sent += 1;
        let number = published.sent;
        let text = format!("{}.{}.{number}", self.index, self.life);
        self.ask(&encode(&["PUBLISH", CHANNEL, &text]), Check::Published(number), rules, out);
        // Whether it ran is not known when the primary is lost: it is not published again.
        if let Some(asked) = self.asked.back_mut() {
            asked.writes = true;
        }
    }

    fn transaction(&mut self, r: &mut Rng, plan: &Plan, rules: &mut Rules, out: &mut Vec<u8>, own: bool) {
        let thought = self.watching.take();
        let (own, watches) = (thought.unwrap_or(own), thought.is_some() || r.one_in(3));
        let (check, exec) = match (own, watches) {
            (true, true) => (Check::Own, Check::OwnWatched),
            (true, false) => (Check::Own, Check::OwnExec),
            (false, true) => (Check::Shape, Check::Watched),
            (false, false) => (Check::Shape, Check::Shape),
        };
        if watches && thought.is_none() {
            let key = if own { format!("{}n", self.prefix()) } else { "hs:0".into() };
            self.ask(&encode(&["WATCH", key.as_str()]), check, rules, out);
            // A dying primary takes it along.
            if let Some(asked) = self.asked.back_mut() {
                asked.writes = true;
            }
            if r.one_in(4) {
                let prefix = self.prefix();
                let command = if own { commands::own(r, &prefix, plan) } else { commands::contended(r, plan.large, plan.undeclared) };
                self.ask(&encode(&command), check, rules, out);
            } else if r.one_in(4) {
                // Its EXEC is to answer nil, on whichever side it runs.
                self.ask(&encode(&["INCR", key.as_str()]), check, rules, out);
            }
            if r.one_in(2) {
                self.watching = Some(own);
                return;
            }
        }
        self.ask(&encode(&["MULTI"]), check, rules, out);
        for _ in 0..1 + r.index(4) {
            let prefix = self.prefix();
            let command: Command = match r.below(8) {
                _ if own => commands::own(r, &prefix, plan),
                0 if plan.barriers => commands::whole(r),
                1 => commands::generated(r, &plan.rows),
                _ => commands::contended(r, plan.large, plan.undeclared),
            };
            self.ask(&encode(&command), check, rules, out);
        }
        if r.one_in(12) {
            return self.ask(&encode(&["DISCARD"]), check, rules, out);
        }
        self.ask(&encode(&["EXEC"]), exec, rules, out);
        // What EXEC runs counts as a write, whatever it was.
        if let Some(asked) = self.asked.back_mut() {
            asked.writes = true;
        }
    }

    fn ask(&mut self, frame: &[u8], check: Check, rules: &mut Rules, out: &mut Vec<u8>) {
        let mut writes = false;
        look(frame, |request| {
            let Some(command) = Table::get().find(request) else { return };
            writes = command.writes() || command.name == "PFCOUNT";
            for key in command.keys(request) {
                rules.named.insert(key.name.to_vec());
            }
            if command.rule == Rule::Script {
                // A script may write a key that it is given as an argument.
                rules.named.extend((3..request.len()).map(|at| request.arg(at).to_vec()));
            }
        });
        out.extend_from_slice(frame);
        self.asked.push_back(Asked { frame: frame.to_vec(), check, writes, losses: rules.losses });
    }

    /// Bytes came from the proxy.
    pub fn receive(&mut self, bytes: &[u8], rules: &mut Rules) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        loop {
            let scanned = self
                .scanner
                .scan(&self.input)
                .map_err(|_| format!("I3: client {} got bytes that are no reply: {}", self.index, self.input.escape_ascii()))?;
            let Some(scanned) = scanned else { return Ok(()) };
            let reply: Vec<u8> = self.input.drain(..scanned.len).collect();
            let Some(asked) = self.asked.pop_front() else {
                return Err(format!("I3: client {} got a reply that it did not ask for: {}", self.index, reply.escape_ascii()));
            };
            rules.replies += 1;
            if scanned.resp3 && !self.resp3 {
                return Err(format!(
                    "I3: client {} speaks RESP2 and got {} for {}",
                    self.index,
                    reply.escape_ascii(),
                    asked.frame.escape_ascii()
                ));
            }
            self.check(&asked, &reply, rules)?;
        }
    }

    fn check(&mut self, asked: &Asked, reply: &[u8], rules: &mut Rules) -> Result<(), String> {
        let index = self.index;
        let wrong = |what: &str| {
            let (frame, reply) = (asked.frame.escape_ascii(), reply.escape_ascii());
            Err(format!("I3: client {index}: {what}: `{frame}` got `{reply}`"))
        };
        let text = reply.get(1..).unwrap_or_default();
        let says = |words: &[u8]| reply[0] == b'-' && text.windows(words.len()).any(|window| window == words);
        let unreachable = says(b"cannot be reached");
        if unreachable && rules.losses == 0 && !rules.slow_start {
            return wrong("the primary was never lost");
        }
        // A block that was refused at queue time aborts with the words for any error at queue time.
        let full = says(b"OOM") || (rules.refused && says(b"because of previous errors"));
        if full && !rules.refused {
            return wrong("no server refused writes");
        }
        match asked.check {
            Check::Watched | Check::OwnWatched if Reply(reply).is_null() => rules.watched[1] += 1,
            Check::Watched | Check::OwnWatched if reply[0] == b'*' => rules.watched[0] += 1,
            Check::Published(number) if Reply(reply).integer().is_some() => {
                rules.published.entry((self.index, self.life)).or_default().answered.insert(number);
            }
            Check::Published(_) if !unreachable => return wrong("nobody refuses messages"),
            _ => {}
        }
        if !rules.own {
            return Ok(());
        }
        match asked.check {
            Check::Shape | Check::Watched | Check::Published(_) => Ok(()),
            Check::Shared if unreachable || full => Ok(()),
            Check::Shared => match Reply(reply).integer() {
                Some(n) if n > self.last_shared && rules.shared.insert(n) => {
                    self.last_shared = n;
                    Ok(())
                }
                _ => wrong("the shared counter repeats, or runs backwards"),
            },
            Check::OwnWatched if Reply(reply).is_null() => {
                self.own_reply(&encode(&["DISCARD"]));
                Ok(())
            }
            Check::Own | Check::OwnExec | Check::OwnWatched if unreachable || full => {
                if asked.check != Check::Own {
                    self.own_reply(&encode(&["DISCARD"]));
                }
                Ok(())
            }
            Check::Own | Check::OwnExec | Check::OwnWatched => {
                let expected = self.own_reply(&asked.frame);
                if expected == reply { Ok(()) } else { wrong(&format!("its own server answers `{}`", expected.escape_ascii())) }
            }
        }
    }

    fn own_reply(&mut self, frame: &[u8]) -> Vec<u8> {
        self.own.feed(self.own_conn, frame, 0);
        self.own.step(self.own_conn, 0);
        self.own.take_output(self.own_conn)
    }

    /// The proxy closed the connection. Allowed only when a write was in flight on a primary that was lost; who has closed its own end is answered first,
    /// unless it waits for a key or `gives_up`.
    pub fn closed(&mut self, rules: &Rules, gives_up: bool) -> Result<(), String> {
        self.session = None;
        let ended = std::mem::take(&mut self.ended);
        if ended && (gives_up || self.asked.front().is_none_or(|asked| waits_for_keys(&asked.frame))) {
            return Ok(());
        }
        let in_doubt = self.asked.iter().any(|asked| asked.writes && asked.losses < rules.losses);
        let cut = self.asked.front().is_some_and(|asked| !asked.writes && asked.losses < rules.losses);
        let told_in_part = cut && self.input.starts_with(b"$");
        if in_doubt || told_in_part || rules.strict {
            return Ok(());
        }
        let waits = self.waits_for();
        Err(format!(
            "I3: client {} was disconnected, and the primary was not lost with a write of its in flight (waits for `{waits}`)",
            self.index
        ))
    }

    /// Where its own keys differ from what a server holds; asked when every request is answered.
    pub fn own_differs(&self, server: &ModelServer) -> Option<String> {
        for (number, db) in self.own.dbs.iter().enumerate() {
            for (key, entry) in db {
                let held = server.dbs.get(number).and_then(|db| db.get(key));
                if !held.is_some_and(|held| in_order(held) == in_order(entry)) {
                    return Some(format!(
                        "db {number} key {}: the client's own server holds {entry:?}, the primary {held:?}",
                        key.escape_ascii()
                    ));
                }
            }
        }
        None
    }
}

/// Fields of a hash have no order: a copy may have brought another one.
fn in_order(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if let Value::Hash(fields) = &mut entry.value {
        fields.sort();
    }
    entry
}

fn look(frame: &[u8], mut each: impl FnMut(&Request<'_>)) {
    let mut spans = Spans::default();
    if let Parsed::Complete { .. } = parse(frame, &mut spans, &mut Resume::default(), true) {
        each(&Request { frame, spans: &spans });
    }
}
