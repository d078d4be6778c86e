//! What proves Twinlane.
//!
//! `servers` and `proxy` run the real programs, `resp` talks to them, `workload` keeps them busy, and `compare` says
//! what "equal" means in every issue and every test.

pub mod asking;
pub mod commands_page;
pub mod compare;
pub mod crash;
pub mod forward;
pub mod monitor;
pub mod outage;
pub mod pair;
pub mod planted;
pub mod proxy;
pub mod reader;
pub mod resp;
pub mod servers;
pub mod warm;
pub mod workload;
