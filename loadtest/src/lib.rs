//! Load for Twinlane and its peers: what an application would do to the proxy, and whether it noticed anything.
//!
//! Stories, one room each, on shared floors:
//!
//! - [`contended`]: many clients fight over a dozen keys of every family while the primary moves, and every
//!   reply is held against a table of what Redis can answer. It proves I3 as a client sees it.
//! - [`flips`]: constant arrival rate, a flip every few hundred milliseconds, the longest hold of each (I9).
//! - [`run`]: workloads as files, several targets in turn, throughput, latency, CPU and memory side by side.
//! - [`idle`]: memory of connections that do nothing. [`fairness`]: a light client beside a greedy one.
//!
//! The floors: [`resp`] (bytes), [`rng`] (seeds), [`client`] (one checking connection), [`engine`] (many cheap
//! connections under one pacer), [`admin`] (the admin port), [`proc_stat`] (what a process cost).
//!
//! The generator knows nothing of the proxy's inside: it depends on none of its crates, so that a mistake in
//! the proxy's parser or command table cannot hide itself here.

// A test that unwraps is a test that fails with the error in its message.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod client;
pub mod contended;
pub mod engine;
pub mod fairness;
pub mod flips;
pub mod idle;
pub mod proc_stat;
pub mod resp;
pub mod rng;
pub mod run;
