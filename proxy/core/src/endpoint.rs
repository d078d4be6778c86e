//! The two endpoints and the roles they play.
//!
//! `old` and `new` are names and never swap; `primary` and `mirror` are roles and move at a flip.

use serde::{Deserialize, Serialize};

/// One of the two configured endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// The endpoint the application comes from.
    Old,
    /// The endpoint the application goes to.
    New,
}

impl Endpoint {
    /// Both endpoints, in the order of their indexes.
    pub const BOTH: [Endpoint; 2] = [Endpoint::Old, Endpoint::New];

    /// The other endpoint.
    #[must_use]
    pub fn other(self) -> Endpoint {
        match self {
            Endpoint::Old => Endpoint::New,
            Endpoint::New => Endpoint::Old,
        }
    }

    /// Index into a two-element array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name that people and JSON see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Endpoint::Old => "old",
            Endpoint::New => "new",
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A database number. A key's database is part of its identity.
pub type Db = u16;
