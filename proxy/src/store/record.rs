//! What is remembered across restarts.

use serde::{Deserialize, Serialize};
use twinlane_core::endpoint::Endpoint;

/// The durable record of one installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this shape; see [`Record::FORMAT`].
    pub format: u32,
    /// Random name of this installation (128 bits in hex), written once.
    pub installation: String,
    /// Each flip adds one. 0 means that the marks of the first start may not have reached the servers yet.
    pub epoch: u64,
    /// Who answers clients.
    pub primary: Endpoint,
    /// Whether the other endpoint follows.
    pub mirroring: bool,
    /// The migration was declared ended: the other endpoint is not ours any more.
    pub completed: bool,
    /// host:port that `old` meant when this was written.
    pub old_address: String,
    /// host:port that `new` meant.
    pub new_address: String,
    /// What was decided about keys that `new` held at the first start.
    pub new_data: NewData,
}

impl Record {
    /// The shape that this version writes and reads.
    pub const FORMAT: u32 = 1;

    /// The first record of an installation: primary `old`, mirroring on, marks not yet written.
    #[must_use]
    pub fn first(installation: String, addresses: [String; 2], new_data: NewData) -> Record {
        let [old_address, new_address] = addresses;
        let primary = Endpoint::Old;
        let format = Record::FORMAT;
        Record { format, installation, epoch: 0, primary, mirroring: true, completed: false, old_address, new_address, new_data }
    }

    /// What the server that is `side` is told, when it has this count.
    #[must_use]
    pub fn mark(&self, side: Endpoint, count: u64) -> Mark {
        Mark { installation: self.installation.clone(), epoch: self.epoch, primary: self.primary, side, count }
    }

    /// Addresses as the record has them, old first.
    #[must_use]
    pub fn addresses(&self) -> [&str; 2] {
        [&self.old_address, &self.new_address]
    }
}

/// The record's essence, as JSON in the reserved key of both servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose.
    pub installation: String,
    /// Of which epoch.
    pub epoch: u64,
    /// Who was primary then.
    pub primary: Endpoint,
    /// What this server was called then: shows that the names were swapped even when the addresses do not.
    pub side: Endpoint,
    /// Raised while there are writes, on the primary first: a server that has gone back to an earlier state shows it (H11).
    #[serde(default)]
    pub count: u64,
}

impl Mark {
    /// The reserved key, in database 0.
    pub const KEY: &'static str = "__twinlane:record";

    /// The value of the reserved key.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Mark { installation, epoch, primary, side, count } = self;
        serde_json::json!({"count": count, "installation": installation, "epoch": epoch, "primary": primary, "side": side}).to_string()
    }

    /// Reads the value of the reserved key.
    ///
    /// # Errors
    /// serde's words, when the value is not a mark.
    pub fn from_json(bytes: &[u8]) -> Result<Mark, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "installation {}, epoch {}, primary {}", self.installation, self.epoch, self.primary)
    }
}

/// What was decided about keys that `new` held at the first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewData {
    /// There were none.
    Empty,
    /// Keys that only `new` has are left alone.
    Keep,
    /// `new` is made equal to `old`, deletions included.
    Overwrite,
}

/// A random name for a new installation.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_installation() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
