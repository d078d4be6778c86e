//! Clients that listen and clients that wait: what a plain client's pipelines cannot check.
//!
//! A [`Subscriber`] is subscribed to the channel on which every client publishes numbered messages. Of each publisher's messages it gets
//! every one that was answered, once and in order, whatever flips (H30), unless its connection is closed: then it begins anew. A [`Waiter`]
//! waits for a key of its own, for ever; a pusher who knows that it waits finds the key empty directly behind its push (H20).

use crate::client::Rules;
use std::collections::BTreeSet;
use std::collections::HashMap;
use twinlane_core::resp::reply::{Reply, Scanner};
use twinlane_core::sequencer::SessionId;
use twinlane_model::Rng;
use twinlane_model::server::encode;

/// Who publishes: a client and its life.
pub type Publisher = (usize, u32);

/// What a publisher has sent in one life.
#[derive(Debug, Default)]
pub struct Published {
    /// Numbers given out, from 1.
    pub sent: u64,
    /// Those that the server answered.
    pub answered: BTreeSet<u64>,
}

/// The channel of the numbered messages.
pub const CHANNEL: &str = "news";

/// One connection's end of a client here.
#[derive(Debug, Default)]
pub struct Line {
    /// The session, while connected.
    pub session: Option<SessionId>,
    /// How often the primary had been lost when it was opened.
    losses: u64,
    resp3: bool,
    input: Vec<u8>,
    scanner: Scanner,
}

impl Line {
    fn begin(&mut self, session: SessionId, rules: &Rules, resp3: bool) {
        *self = Line { session: Some(session), losses: rules.losses, resp3, ..Line::default() };
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let scanned = self.scanner.scan(&self.input).map_err(|_| format!("I3: bytes that are no reply: {}", self.input.escape_ascii()))?;
        Ok(scanned.map(|scanned| self.input.drain(..scanned.len).collect()))
    }

    /// It was closed by the proxy. Allowed only where the primary was lost meanwhile.
    fn closed(&mut self, rules: &Rules, who: &str) -> Result<(), String> {
        self.session = None;
        if rules.losses > self.losses {
            return Ok(());
        }
        Err(format!("I3: {who} was disconnected, and the primary was not lost"))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Subscriber {
    /// Its connection.
    pub line: Line,
    /// Requests without an answer.
    waiting: usize,
    /// What publishers had sent when the subscription was confirmed.
    floor: Option<HashMap<Publisher, u64>>,
    got: HashMap<Publisher, BTreeSet<u64>>,
}

impl Subscriber {
    /// Every request is answered.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0
    }

    /// A new connection, which subscribes.
    pub fn begin(&mut self, session: SessionId, r: &mut Rng, rules: &Rules) -> Vec<u8> {
        let resp3 = r.one_in(2);
        *self = Subscriber::default();
        self.line.begin(session, rules, resp3);
        let mut out = Vec::new();
        if resp3 {
            self.waiting += 1;
            out.extend(encode(&["HELLO", "3"]));
        }
        out.extend(self.subscribe(r));
        out
    }

    fn subscribe(&mut self, r: &mut Rng) -> Vec<u8> {
        self.waiting += 1;
        if r.one_in(3) { encode(&["PSUBSCRIBE", "ne*s"]) } else { encode(&["SUBSCRIBE", CHANNEL]) }
    }

    /// What it says next: it subscribes again where it was refused, comes and goes elsewhere, or asks whether the server lives.
    pub fn speak(&mut self, r: &mut Rng) -> Vec<u8> {
        if self.floor.is_none() {
            return self.subscribe(r);
        }
        self.waiting += 1;
        match r.below(4) {
            0 => encode(&["SUBSCRIBE", "weather"]),
            1 => encode(&["UNSUBSCRIBE", "weather"]),
            2 => encode(&["PSUBSCRIBE", "wea*"]),
            _ => encode(&["PING"]),
        }
    }

    /// Bytes came from the proxy.
    pub fn receive(&mut self, bytes: &[u8], rules: &mut Rules) -> Result<(), String> {
        self.line.input.extend_from_slice(bytes);
        while let Some(reply) = self.line.next()? {
            self.take(Reply(&reply), rules)?;
        }
        Ok(())
    }

    fn take(&mut self, reply: Reply<'_>, rules: &mut Rules) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("I3: a subscriber: {what}: `{}`", reply.0.escape_ascii()));
        let parts: Vec<&[u8]> = if reply.is_aggregate() { reply.elements().map(Reply::text).collect() } else { Vec::new() };
        let push = reply.0[0] == b'>';
        if push && !self.line.resp3 {
            return wrong("it speaks RESP2 and got a push");
        }
        match parts[..] {
            [b"message", channel, text] | [b"pmessage", _, channel, text] if push == self.line.resp3 => {
                if channel == CHANNEL.as_bytes() {
                    self.hear(text, rules)
                } else {
                    wrong("it is not subscribed to that")
                }
            }
            [b"subscribe" | b"psubscribe" | b"unsubscribe", name, _] if push == self.line.resp3 => {
                if !name.starts_with(b"wea") {
                    self.floor = Some(rules.published.iter().map(|(who, published)| (*who, published.sent)).collect());
                }
                self.answered(reply)
            }
            _ if reply.is_error() && rules.losses == 0 && !rules.slow_start => wrong("the primary was never lost"),
            _ if push => wrong("nobody knows such a push"),
            _ => self.answered(reply),
        }
    }

    fn answered(&mut self, reply: Reply<'_>) -> Result<(), String> {
        match self.waiting.checked_sub(1) {
            Some(left) => self.waiting = left,
            None => return Err(format!("I3: a subscriber got an answer that it did not ask for: `{}`", reply.0.escape_ascii())),
        }
        Ok(())
    }

    fn hear(&mut self, text: &[u8], rules: &mut Rules) -> Result<(), String> {
        let shown = text.escape_ascii().to_string();
        let mut numbers = std::str::from_utf8(text).unwrap_or("").split('.').filter_map(|word| word.parse::<u64>().ok());
        let (Some(client), Some(life), Some(number)) = (numbers.next(), numbers.next(), numbers.next()) else {
            return Err(format!("I3: nobody published `{shown}`"));
        };
        rules.heard += 1;
        let got = self.got.entry((client as usize, life as u32)).or_default();
        match got.last() {
            Some(last) if *last >= number => Err(format!("I3: message {shown} comes behind {last}: doubled, or out of order (H30)")),
            _ => {
                got.insert(number);
                Ok(())
            }
        }
    }

    /// The proxy closed the connection.
    pub fn closed(&mut self, rules: &Rules) -> Result<(), String> {
        self.waiting = 0;
        self.line.closed(rules, "a subscriber")
    }

    /// It hangs up, or the proxy died.
    pub fn leave(&mut self) -> Option<SessionId> {
        self.waiting = 0;
        self.line.session.take()
    }

    /// A message that was answered while it was subscribed, and that never came.
    pub fn missed(&self, rules: &Rules) -> Option<String> {
        let floor = self.floor.as_ref().filter(|_| self.line.session.is_some())?;
        rules.published.iter().find_map(|(who, published)| {
            let (from, got) = (floor.get(who).copied().unwrap_or(0), self.got.get(who));
            let lost = published.answered.range(from + 1..).find(|number| !got.is_some_and(|got| got.contains(number)))?;
            Some(format!("message {}.{}.{lost} was published and answered, and never came (H30)", who.0, who.1))
        })
    }
}

/// What a waiter and its pusher are doing: two connections and a key that nobody else names.
#[derive(Debug, Default)]
pub struct Waiter {
    /// Who waits.
    pub waits: Line,
    /// Who pushes.
    pub pushes: Line,
    /// The pop is asked for.
    popping: bool,
    /// Counts lives of both.
    life: u64,
    pushed: u64,
    /// Of the push whose replies are due: the value, replies seen, and whether the waiter was known to wait then.
    push: Option<(u64, u8, bool)>,
    /// The last value that came.
    came: u64,
}

impl Waiter {
    /// The replies of its push are all there.
    pub fn is_idle(&self) -> bool {
        self.push.is_none()
    }

    /// The key of this life.
    pub fn key(&self) -> String {
        format!("waited:{}", self.life)
    }

    /// Both have connections, perhaps new ones: with a key that nobody has used.
    pub fn begin(&mut self, waits: SessionId, pushes: SessionId, rules: &Rules) {
        *self = Waiter { life: self.life + 1, ..Waiter::default() };
        self.waits.begin(waits, rules, false);
        self.pushes.begin(pushes, rules, false);
    }

    /// The pop that it waits in, if it does not yet.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        (!std::mem::replace(&mut self.popping, true)).then(|| encode(&["BLPOP", &self.key(), "0"]))
    }

    /// A push, and a look behind it. `known`: the waiter's pop has come back empty and it waits.
    pub fn push(&mut self, known: bool) -> Vec<u8> {
        self.pushed += 1;
        self.push = Some((self.pushed, 0, known));
        let (key, value) = (self.key(), self.pushed.to_string());
        [encode(&["RPUSH", &key, &value]), encode(&["LLEN", &key])].concat()
    }

    /// Whether the push entered at once, so that the waiter is tried behind it.
    pub fn entered(&mut self, entered: bool) {
        if let Some((.., known)) = &mut self.push {
            *known &= entered;
        }
    }

    /// Bytes for the one who waits.
    pub fn served(&mut self, bytes: &[u8], rules: &mut Rules) -> Result<(), String> {
        self.waits.input.extend_from_slice(bytes);
        while let Some(reply) = self.waits.next()? {
            let reply = Reply(&reply);
            self.popping = false;
            if reply.is_error() {
                if rules.losses == 0 && !rules.slow_start && !rules.refused {
                    return Err(format!("I3: a waiter got `{}`", reply.0.escape_ascii()));
                }
                continue;
            }
            let value = reply.elements().nth(1).and_then(|value| std::str::from_utf8(value.text()).ok()?.parse::<u64>().ok());
            match value {
                // What a primary that lost its data leaves behind may come again.
                Some(value) if value > self.came || !rules.own => {
                    self.came = value;
                    rules.served += 1;
                }
                _ => return Err(format!("I3: a waiter that got {} before got `{}`", self.came, reply.0.escape_ascii())),
            }
        }
        Ok(())
    }

    /// Bytes for the one who pushes.
    pub fn pushed(&mut self, bytes: &[u8], rules: &Rules) -> Result<(), String> {
        self.pushes.input.extend_from_slice(bytes);
        while let Some(reply) = self.pushes.next()? {
            let reply = Reply(&reply);
            if self.waits.session.is_none() {
                // Both begin anew.
                continue;
            }
            let Some((value, seen, mut known)) = self.push else {
                return Err(format!("I3: a pusher got a reply that it did not ask for: `{}`", reply.0.escape_ascii()));
            };
            known &= !reply.is_error();
            self.push = (seen == 0).then_some((value, 1, known));
            if seen == 1 && known && rules.own && reply.integer() != Some(0) {
                return Err(format!("I3: push {value} met a waiter, and the key's length behind it is `{}` (H20)", reply.0.escape_ascii()));
            }
        }
        Ok(())
    }

    /// The proxy closed one of the connections: both begin anew.
    pub fn closed(&mut self, waits: bool, rules: &Rules) -> Result<(), String> {
        self.push = None;
        if rules.strict {
            // A missing confirmation closes it.
            let line = if waits { &mut self.waits } else { &mut self.pushes };
            line.session = None;
            return Ok(());
        }
        if waits { self.waits.closed(rules, "a waiter") } else { self.pushes.closed(rules, "a pusher") }
    }

    /// Both hang up, or the proxy died.
    pub fn leave(&mut self) -> [Option<SessionId>; 2] {
        self.push = None;
        [self.waits.session.take(), self.pushes.session.take()]
    }
}
