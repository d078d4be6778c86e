//! The listening side.

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

/// Connections that may wait to be accepted: a fleet of application pods that reconnects at once fits, and the kernel
/// caps it at `net.core.somaxconn` anyway.
const BACKLOG: i32 = 4096;

/// Listens, without ever waiting; the address can be taken again directly after a restart.
///
/// # Errors
/// The system's, with the address in the text.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    open(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Options of an accepted client: no delay, and keep-alive as Redis sets it (`tcp-keepalive 300`), so that a client whose
/// machine has gone does not stay for ever.
///
/// # Errors
/// The system's, when the socket is already gone.
pub fn prepare_client(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(100));
    socket.set_tcp_keepalive(&keepalive)
}
