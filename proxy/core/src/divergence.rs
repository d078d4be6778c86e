//! What verify tells: the answers of `GET /v1/verify` and `GET /v1/divergences` as plain numbers and words. The shell serves them and adds
//! nothing.

use crate::endpoint::{Db, Endpoint};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What differs between the two sides in one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DivergenceKind {
    /// The mirror does not have it.
    Missing,
    /// Only the mirror has it.
    Extra,
    /// Another type.
    Type,
    /// The same type, another value.
    Value,
    /// The same value, another time to live.
    Ttl,
}

impl DivergenceKind {
    /// All kinds.
    pub const ALL: [DivergenceKind; 5] =
        [DivergenceKind::Missing, DivergenceKind::Extra, DivergenceKind::Type, DivergenceKind::Value, DivergenceKind::Ttl];

    /// The word of metrics and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            DivergenceKind::Missing => "missing",
            DivergenceKind::Extra => "extra",
            DivergenceKind::Type => "type",
            DivergenceKind::Value => "value",
            DivergenceKind::Ttl => "ttl",
        }
    }
}

/// Keys that differ, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// See [`DivergenceKind::Missing`]; the other fields likewise.
    pub missing: u64,
    /// Only on the mirror.
    pub extra: u64,
    /// Another type.
    #[serde(rename = "type")]
    pub kind: u64,
    /// Another value.
    pub value: u64,
    /// Another time to live.
    pub ttl: u64,
}

impl Differing {
    /// One more of this kind.
    pub fn add(&mut self, kind: DivergenceKind) {
        *self.of(kind) += 1;
    }

    fn of(&mut self, kind: DivergenceKind) -> &mut u64 {
        match kind {
            DivergenceKind::Missing => &mut self.missing,
            DivergenceKind::Extra => &mut self.extra,
            DivergenceKind::Type => &mut self.kind,
            DivergenceKind::Value => &mut self.value,
            DivergenceKind::Ttl => &mut self.ttl,
        }
    }

    /// Of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.missing + self.extra + self.kind + self.value + self.ttl
    }
}

/// When the last key that is only on the primary will be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// Unix milliseconds.
    At(i64),
    /// At least one has no time to live.
    Never,
}

impl Serialize for Until {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Until::At(ms) => serializer.serialize_i64(*ms),
            Until::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Until, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Never,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Told {
            At(i64),
            Word(Word),
        }
        Ok(match Told::deserialize(deserializer)? {
            Told::At(ms) => Until::At(ms),
            Told::Word(Word::Never) => Until::Never,
        })
    }
}

/// What one pass has found so far, or found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Keys that were compared at a position, those that differ among them.
    pub keys_compared: u64,
    /// Keys there were on the primary when the pass began.
    pub keys_estimate: u64,
    /// Keys that differ.
    pub differing: Differing,
    /// Keys that could not be judged: in doubt or dying whenever they were read, or of a type that cannot be read.
    pub unverifiable: u64,
    /// Why, and how many keys each.
    pub unverifiable_by_reason: BTreeMap<String, u64>,
    /// Share of the keys that were compared, 0 to 1.
    pub coverage: f64,
    /// When it began, unix milliseconds.
    pub began: Option<i64>,
    /// When it ended, unix milliseconds. Each key was compared at some position between the two.
    pub as_of: Option<i64>,
    /// It has ended, every key was compared and none differs, and the pass proved itself alive.
    pub clean: bool,
    /// The differences that were planted for the pass were found.
    pub alive: bool,
    /// It has ended, and both sides have been observed without a gap since it began.
    pub fresh: bool,
    /// The moment by which the last key that only the primary has will have expired.
    pub primary_only_until: Option<Until>,
    /// Monotonic time of the beginning, microseconds.
    #[serde(skip)]
    pub began_us: u64,
}

/// `GET /v1/verify`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyStatus {
    /// `idle` (none since the process began), `running`, `waiting`, `paused`, `done`, `cancelled`.
    pub state: &'static str,
    /// For what it waits, while it is `waiting`.
    pub waits_for: Option<String>,
    /// Of the pass that runs, or of the last one.
    #[serde(flatten)]
    pub result: VerifyResult,
    /// Keys per second over the last second, while it runs.
    pub keys_per_second: u64,
    /// How often the pass began anew: a side was lost, the roles moved, a database was emptied.
    pub restarts: u64,
    /// One pass follows the other.
    pub continuous: bool,
    /// The last pass that ended, while another one runs.
    pub last: Option<Box<VerifyResult>>,
}

/// One confirmed difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The database.
    pub db: Db,
    /// The key.
    pub key: Arc<[u8]>,
    /// What differs.
    pub kind: DivergenceKind,
    /// A fixed word: `unexplained` (nothing that this proxy knows of explains it: a write that bypassed it, for one) or `unsynced`
    /// (it was never copied, and there is no backfill).
    pub cause: &'static str,
    /// Unix milliseconds.
    pub first_seen: i64,
    /// The command by which it was noticed, where one was.
    pub command: Option<&'static str>,
}

/// Confirmed differences, the last of them with their keys.
#[derive(Debug, Clone, Default)]
pub struct Divergences {
    /// How many there were since the process began.
    pub total: u64,
    /// The last ones, oldest first.
    pub items: VecDeque<Divergence>,
}

impl Divergences {
    /// Notes one. What is known already keeps its time.
    pub fn note(&mut self, divergence: Divergence) {
        let known = |item: &Divergence| (item.db, &item.key, item.kind) == (divergence.db, &divergence.key, divergence.kind);
        if self.items.iter().any(known) {
            return;
        }
        self.total += 1;
        if self.items.len() >= crate::limits::DIVERGENCES_MAX {
            self.items.pop_front();
        }
        self.items.push_back(divergence);
    }
}

/// Keys that a repair would delete, told before it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraKeys {
    /// How many.
    pub count: u64,
    /// Some of them.
    pub samples: Vec<(Db, Arc<[u8]>)>,
    /// Of which endpoint.
    pub endpoint: Endpoint,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_is_noted_once_and_the_oldest_goes() {
        let divergence = |n: usize| Divergence {
            db: 0,
            key: n.to_string().into_bytes().into(),
            kind: DivergenceKind::Value,
            cause: "unexplained",
            first_seen: n as i64,
            command: None,
        };
        let mut divergences = Divergences::default();
        (0..crate::limits::DIVERGENCES_MAX + 2).for_each(|n| divergences.note(divergence(n)));
        divergences.note(divergence(5));
        assert_eq!(divergences.total as usize, crate::limits::DIVERGENCES_MAX + 2);
        assert_eq!(divergences.items.len(), crate::limits::DIVERGENCES_MAX);
        assert_eq!(divergences.items[0].first_seen, 2);
    }
}
