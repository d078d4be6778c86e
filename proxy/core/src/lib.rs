//! Every decision of Twinlane. This crate has no sockets, no clock, no tasks and no randomness: time and seeds are
//! arguments, bytes come in and go out, so that a seed replays any bug.
pub mod command;
pub mod divergence;
pub mod doubt;
pub mod effect;
pub mod endpoint;
pub mod explained;
pub mod hyperloglog;
pub mod journal;
pub mod keyname;
pub mod limits;
pub mod resp;
pub mod sequencer;
pub mod sha1;
pub mod shadow;
pub mod spill;
pub mod status;
pub mod synced;
pub mod tape;
