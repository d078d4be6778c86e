//! The shell around `twinlane-core`: everything that waits. Sockets, files, clocks and tasks live here; every decision
//! about order, effects and doubt lives in the core.
//!
//! From the ground up: [`secret`] and [`net`] reach servers; [`config`] says what the operator wants; [`store`] holds the
//! durable record; [`upstream`] talks to a server; [`control`] carries the operator's words to the data thread;
//! [`start`] decides whether serving is safe; [`driver`] serves; [`admin`], [`telemetry`] and [`cli`] are the operator's side.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod driver;
pub mod net;
pub mod secret;
pub mod start;
pub mod store;
pub mod telemetry;
pub mod upstream;
