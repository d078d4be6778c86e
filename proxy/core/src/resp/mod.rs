//! RESP: requests as they come from clients, replies as they come from servers, and the way from RESP3 down to RESP2.
//!
//! Framing on the hot path is ours: strict where a server would close the connection, resumable, without recursion, bounded.
//! `redis-protocol` is the oracle it is tested against (`tests/` of this crate).

pub mod downgrade;
pub mod encode;
pub mod reply;
pub mod request;
