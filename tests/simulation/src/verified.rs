//! I7: what verifies and shadow reads tell. During a history none may report a difference that nothing explains. When all is quiet, differences
//! are planted on the mirror by nobody the proxy knows of, and a verify, or the shadow reads of one client, must find these, by their
//! kinds, and no other; what is not extra then heals by itself, and what is extra goes by the operator's word.

use crate::world::World;
use std::collections::BTreeSet;
use twinlane_core::divergence::DivergenceKind;
use twinlane_core::resp::encode::push_request;
use twinlane_core::sequencer::{Addresses, SessionId};
use twinlane_core::shadow::{MILLION, ShadowChange};
use twinlane_core::status::Operation;
use twinlane_model::Rng;
use twinlane_model::server::Value;

/// Tickets above this are of operations that stand beside the one at a time.
pub const ASIDE: u64 = 1 << 40;

/// Database, key, kind.
type Found = BTreeSet<(usize, Vec<u8>, DivergenceKind)>;

/// How far the end of a history is.
#[derive(Debug, Default)]
pub enum Finale {
    /// It has not begun.
    #[default]
    Before,
    /// These were planted, and the pass must find them.
    Verifying(Found),
    /// These were planted, and the shadow reads of this session must find them.
    Reading(Found, SessionId),
    /// What was found heals.
    Healing,
}

impl Finale {
    pub fn is_begun(&self) -> bool {
        !matches!(self, Finale::Before)
    }
}

impl World<'_> {
    /// An operation whose answer is not waited for.
    pub fn ask_aside(&mut self, operation: Operation) {
        self.note(|| format!("the operator, aside: {operation:?}"));
        let clock = self.clock();
        self.core.handle_operation(ASIDE + 1, operation, clock);
        self.flush();
    }

    /// No difference is reported before one is planted, but for keys that were never copied.
    pub fn watch_verify(&mut self) {
        let fault = self.options.is_faulty() || self.plan.kill_refused || self.finale.is_begun();
        if fault || self.core.divergences().items.is_empty() || self.broken.is_some() {
            return;
        }
        let evicts = self.plan.faults.iter().any(|(_, fault)| *fault == crate::plan::Fault::Evict);
        if let Some(found) = self.core.divergences().items.iter().find(|item| item.cause == "unexplained").filter(|_| !evicts) {
            let what = format!("I7: a verify reports a difference that nobody planted: {found:?}");
            self.violate(what);
        }
    }

    /// All is quiet. True when the history is over.
    pub fn finish(&mut self) -> bool {
        let status = self.core.status();
        match std::mem::take(&mut self.finale) {
            Finale::Before if !self.plan.verified || self.plan.import || status.verify.state == "paused" => true,
            Finale::Before => {
                if matches!(status.verify.state, "running" | "waiting") {
                    // One from before goes on; it is to end first.
                    return false;
                }
                self.summary.verified[0] += u64::from(status.verify.state == "done");
                let planted = self.plant();
                if self.plan.read_back {
                    self.ask_aside(Operation::Shadow(ShadowChange { per_million: Some(MILLION), ..ShadowChange::default() }));
                    let clock = self.clock();
                    let session = self.core.handle_client_open(Addresses::default(), clock);
                    self.finale = Finale::Reading(planted, session);
                    return false;
                }
                self.finale = Finale::Verifying(planted);
                self.ask_aside(Operation::VerifyStart { rate: 0, continuous: false });
                false
            }
            Finale::Verifying(planted) => {
                if status.verify.state != "done" {
                    self.finale = Finale::Verifying(planted);
                    return false;
                }
                self.judge_verify(&planted);
                self.confirm_extras(&planted);
                self.finale = Finale::Healing;
                false
            }
            Finale::Reading(planted, session) => {
                let found = self.found();
                if planted.is_subset(&found) {
                    self.summary.shadowed[1] += planted.len() as u64;
                    self.confirm_extras(&planted);
                    self.finale = Finale::Healing;
                } else {
                    if status.shadow.total.examining == 0 {
                        self.read_planted(&planted, session);
                    }
                    self.finale = Finale::Reading(planted, session);
                }
                false
            }
            Finale::Healing => {
                self.finale = Finale::Healing;
                self.compare();
                true
            }
        }
    }

    fn found(&self) -> Found {
        self.core.divergences().items.iter().map(|item| (usize::from(item.db), item.key.to_vec(), item.kind)).collect()
    }

    fn confirm_extras(&mut self, planted: &Found) {
        let extra = planted.iter().filter(|(_, _, kind)| *kind == DivergenceKind::Extra).count() as u64;
        self.ask_aside(Operation::RepairExtras { confirm: Some(extra) });
    }

    /// A client reads every planted key, in every way that its type on the primary has.
    fn read_planted(&mut self, planted: &Found, session: SessionId) {
        let primary = self.core.primary().index();
        let mut bytes = Vec::new();
        for (db, key, _) in planted {
            let mut push = |words: &[&[u8]]| push_request(&mut bytes, words);
            push(&[b"SELECT", db.to_string().as_bytes()]);
            push(&[b"TYPE", key]);
            push(&[b"PTTL", key]);
            match self.sites[primary].server.dbs[*db].get(key).map(|entry| &entry.value) {
                Some(Value::Str(_)) => push(&[b"GET", key]),
                Some(Value::List(_)) => push(&[b"LRANGE", key, b"0", b"-1"]),
                Some(Value::Set(_)) => push(&[b"SMEMBERS", key]),
                Some(Value::Hash(_)) => push(&[b"HGETALL", key]),
                Some(Value::Zset(_)) => push(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
                Some(Value::Stream(_)) => push(&[b"XRANGE", key, b"-", b"+"]),
                None => {}
            }
        }
        self.note(|| format!("the reader -> proxy: {}", bytes.escape_ascii()));
        let clock = self.clock();
        self.core.handle_client_bytes(session, &bytes, clock);
        self.flush();
    }

    fn judge_verify(&mut self, planted: &Found) {
        let (result, found) = (self.core.status().verify.result, self.found());
        self.summary.verified[0] += 1;
        self.summary.verified[1] += planted.len() as u64;
        let shown = |found: &Found| {
            format!("{:?}", found.iter().map(|(db, key, kind)| (db, key.escape_ascii().to_string(), kind)).collect::<Vec<_>>())
        };
        if !planted.is_subset(&found) || result.differing.total() != planted.len() as u64 {
            let what = format!("I7: planted {}, found {} ({result:?})", shown(planted), shown(&found));
            return self.violate(what);
        }
        if !result.alive || result.unverifiable > 0 || !result.fresh || result.clean != planted.is_empty() {
            self.violate(format!("I7: a verify of a quiet pair tells {result:?}"));
        }
    }

    /// Changes the mirror by a connection that the proxy knows nothing of.
    fn plant(&mut self) -> Found {
        let mut r = Rng::new(self.plan.seed ^ 0x0070_6c61_6e74);
        let (primary, mirror) = (self.core.primary().index(), self.core.primary().other().index());
        let clock = self.sites[mirror].clock_ms(self.now);
        let mut planted = Found::new();
        let own = |key: &Vec<u8>| !key.starts_with(b"__twinlane:");
        let keys: Vec<(usize, Vec<u8>)> = (0..self.plan.databases)
            .flat_map(|db| self.sites[primary].server.dbs[db].keys().filter(|key| own(key)).map(move |key| (db, key.clone())))
            .collect();
        for _ in 0..r.index(6) {
            let server = &mut self.sites[mirror].server;
            if keys.is_empty() || r.one_in(4) {
                let (db, key) = (r.index(self.plan.databases), format!("planted:{}", r.index(3)).into_bytes());
                server.run(db, &[b"SET", &key, b"x"], clock);
                planted.insert((db, key, DivergenceKind::Extra));
                continue;
            }
            let (db, key) = keys[r.index(keys.len())].clone();
            if planted.iter().any(|(at, name, _)| (*at, name) == (db, &key)) {
                continue;
            }
            let Some(entry) = server.dbs[db].get(&key).cloned() else { continue };
            let kind = match r.below(4) {
                0 => {
                    server.run(db, &[b"DEL", &key], clock);
                    DivergenceKind::Missing
                }
                1 => {
                    let other: &[&[u8]] =
                        if matches!(entry.value, Value::List(_)) { &[b"SET", &key, b"x"] } else { &[b"RPUSH", &key, b"x"] };
                    server.run(db, &[b"DEL", &key], clock);
                    server.run(db, other, clock);
                    DivergenceKind::Type
                }
                2 if entry.deadline_ms.is_some() => {
                    server.run(db, &[b"PERSIST", &key], clock);
                    DivergenceKind::Ttl
                }
                2 => {
                    server.run(db, &[b"PEXPIRE", &key, b"700000000"], clock);
                    DivergenceKind::Ttl
                }
                _ => {
                    let change: &[&[u8]] = match entry.value {
                        Value::Str(_) => &[b"APPEND", &key, b"planted"],
                        Value::List(_) => &[b"RPUSH", &key, b"planted"],
                        Value::Set(_) => &[b"SADD", &key, b"planted"],
                        Value::Hash(_) => &[b"HSET", &key, b"planted", b"x"],
                        Value::Zset(_) => &[b"ZADD", &key, b"7.25", b"planted"],
                        Value::Stream(_) => &[b"XADD", &key, b"*", b"planted", b"x"],
                    };
                    server.run(db, change, clock);
                    DivergenceKind::Value
                }
            };
            planted.insert((db, key, kind));
        }
        self.note(|| format!("planted on the mirror: {planted:?}"));
        planted
    }
}
