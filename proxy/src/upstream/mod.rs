//! Connections to the servers: [`conn`] for questions off the hot path (and for the handshake of every connection).

pub mod conn;
