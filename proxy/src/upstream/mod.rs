//! Connections to the servers: [`conn`] for questions off the hot path (and for the handshake of every connection), [`pair`] for those that
//! concern both servers.

pub mod conn;
pub mod pair;
