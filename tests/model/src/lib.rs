//! What the proofs of Twinlane are made of, without I/O, clock or randomness of its own.
//!
//! - [`server`]: a small Redis in memory. The seeded simulation of the core puts two of them where the real servers would be.
//! - [`invocations`]: for every write row of the command table, commands that make it do something (and refuse something).
//! - [`rng`]: the one source of chance; a seed replays everything.
//!
//! `tests/against_redis.rs` sends the same invocations to a real redis-server and to the model and compares the replies,
//! so that what the simulation proves about the model holds for Redis.
pub mod invocations;
pub mod reply;
pub mod rng;
pub mod server;

pub use rng::Rng;
pub use server::{ConnId, ModelServer, diff};
