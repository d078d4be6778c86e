//! The state directory: the durable word on who is primary (I8).
//!
//! The directory belongs to one process at a time. The record is a file of its own, because a decision must not queue
//! behind other rows at the one moment when clients are held (H8). A copy of its essence, the [`Mark`], is kept on both
//! servers: a guard against a lost directory, never the authority (H9). What to make of record and marks together is
//! [`judge_start`], a plain function. The journal of intents lies beside the record; its layout is the core's.
//! What is there for people alone lies beside them: the audit log, and what the last verify found.

mod audit;
mod directory;
mod instances;
mod journal;
mod judge;
mod kept;
mod lines;
mod record;
mod slots;

pub use audit::{Audit, Entry};
pub use directory::{Store, StoreError};
pub use instances::{instances, note_instances};
pub use journal::{Opened, open_journal};
pub use judge::{Facts, SideFacts, Start, judge_start};
pub use kept::{keep_verify, kept_verify};
pub use record::{Mark, NewData, Record, new_installation};

#[cfg(test)]
mod tests;
