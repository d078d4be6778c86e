//! What shadow reads tell, and what an operator wants of them: `GET /v1/shadow` and `POST /v1/shadow` as plain numbers and words.

use serde::Serialize;
use std::collections::BTreeMap;

/// Which reads are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShadowWish {
    /// Of a million reads, so many; 0: none, 1,000,000: all.
    pub per_million: u32,
    /// Rows of the command table; empty: all that can be compared.
    pub commands: Vec<usize>,
    /// Only reads of a key that begins with one of these; empty: of any key.
    pub prefixes: Vec<Vec<u8>>,
}

/// All reads.
pub const MILLION: u32 = 1_000_000;

/// A part of [`ShadowWish`]; what is None stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShadowChange {
    /// See [`ShadowWish::per_million`].
    pub per_million: Option<u32>,
    /// Names of commands, in any case.
    pub commands: Option<Vec<String>>,
    /// See [`ShadowWish::prefixes`].
    pub prefixes: Option<Vec<Vec<u8>>>,
}

/// Why a read that was drawn was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Nothing is mirrored, or the primary lost its data.
    Off,
    /// The mirror is not connected.
    Down,
    /// The mirror has not answered what was sent before, refuses writes, or a command of whole databases waits for it.
    Behind,
    /// A flip is under way.
    Flip,
    /// The reply, or the request, is too large to be asked for twice.
    Large,
    /// The proxy knows that the key may differ: the ledger, a database that is being copied, a script's report that is due.
    Doubt,
    /// No two servers need answer it alike, or the mirror does not have the command.
    Kind,
    /// It travelled on a connection of its session's own.
    Own,
    /// The mirror would not answer.
    Refused,
    /// The mirror's connection was lost before it answered.
    Lost,
}

impl Skip {
    /// All reasons.
    pub const ALL: [Skip; 10] =
        [Skip::Off, Skip::Down, Skip::Behind, Skip::Flip, Skip::Large, Skip::Doubt, Skip::Kind, Skip::Own, Skip::Refused, Skip::Lost];

    /// The word of metrics and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Skip::Off => "off",
            Skip::Down => "down",
            Skip::Behind => "behind",
            Skip::Flip => "flip",
            Skip::Large => "large",
            Skip::Doubt => "doubt",
            Skip::Kind => "kind",
            Skip::Own => "own",
            Skip::Refused => "refused",
            Skip::Lost => "lost",
        }
    }
}

/// Reads that were drawn, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Both servers answered alike.
    pub equal: u64,
    /// They did not, and the proxy knows why: doubt that came meanwhile, a key that is examined or reported already.
    pub explained: u64,
    /// They did not, and a key was found to differ when it was examined.
    pub differing: u64,
    /// They did not, and the keys were equal when they were examined, gone, or could not be judged: a key that ended by its time to live, a
    /// difference that a later write has healed.
    pub unexplained: u64,
    /// They did not, and the keys are being examined.
    pub examining: u64,
    /// Not compared, by [`Skip`].
    pub skipped: [u64; Skip::ALL.len()],
}

impl ShadowCounts {
    /// Compared, whatever came of it.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.equal + self.explained + self.differing + self.unexplained + self.examining
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &ShadowCounts) -> ShadowCounts {
        self.equal += other.equal;
        self.explained += other.explained;
        self.differing += other.differing;
        self.unexplained += other.unexplained;
        self.examining += other.examining;
        self.skipped.iter_mut().zip(other.skipped).for_each(|(count, more)| *count += more);
        self
    }

    /// Drawn and not compared.
    #[must_use]
    pub fn skips(&self) -> u64 {
        self.skipped.iter().sum()
    }
}

impl Serialize for ShadowCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("compared", &self.compared())?;
        map.serialize_entry("equal", &self.equal)?;
        map.serialize_entry("explained", &self.explained)?;
        map.serialize_entry("differing", &self.differing)?;
        map.serialize_entry("unexplained", &self.unexplained)?;
        map.serialize_entry("examining", &self.examining)?;
        let reasons = Skip::ALL.iter().zip(self.skipped).filter(|(_, count)| *count > 0);
        map.serialize_entry("skipped", &reasons.map(|(skip, count)| (skip.word(), count)).collect::<BTreeMap<_, _>>())?;
        map.end()
    }
}

/// `GET /v1/shadow`; all counts since the process began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShadowStatus {
    /// Share of the reads that are drawn, 0 to 1.
    pub share: f64,
    /// The commands that it is limited to; empty: all that can be compared.
    pub commands: Vec<&'static str>,
    /// The prefixes that it is limited to; empty: any key.
    pub prefixes: Vec<String>,
    /// Of all commands and keys.
    #[serde(flatten)]
    pub total: ShadowCounts,
    /// By command; only those with traffic.
    pub by_command: BTreeMap<&'static str, ShadowCounts>,
    /// By the prefixes that it is limited to now.
    pub by_prefix: BTreeMap<String, ShadowCounts>,
}
