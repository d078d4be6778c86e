//! Sockets: how we reach a server and how clients reach us.
//!
//! A name is resolved anew at every connect, because a managed service moves behind its name; every address it gives is
//! tried. TLS checks the name and takes its provider explicitly (two providers in one process make rustls panic). An
//! error says which side it is about and what to do, and never shows credentials. This room knows bytes, not RESP.

mod listen;
mod socket;
mod stream;
mod tls;
mod url;

pub use listen::{listen, prepare_client};
pub use socket::Socket;
pub use stream::Stream;
pub use tls::install_provider;
pub use url::ServerUrl;

use crate::secret::Secret;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use twinlane_core::endpoint::Endpoint;

/// All that is needed to reach one endpoint, checked once at start.
#[derive(Clone)]
pub struct Target {
    /// Which endpoint this is; errors name it.
    pub side: Endpoint,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User for `AUTH`; empty means the default user.
    pub username: String,
    /// Password for `AUTH`; empty means that no `AUTH` is sent.
    pub password: Secret,
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
}

/// The parts of an endpoint's configuration that a [`Target`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct TargetOptions<'a> {
    /// Where, and as whom.
    pub url: &'a ServerUrl,
    /// Used when the URL has none.
    pub password: &'a Secret,
    /// Certificates trusted besides the system's.
    pub ca_file: Option<&'a Path>,
    /// Name in the server's certificate when it is not the host of the URL.
    pub server_name: Option<&'a str>,
}

impl Target {
    /// Checks the options of one endpoint and loads its certificates.
    ///
    /// # Errors
    /// [`NetError::Setup`] when the CA file cannot be read or a name cannot be checked.
    pub fn new(side: Endpoint, options: &TargetOptions<'_>) -> Result<Target, NetError> {
        let url = options.url;
        let tls = if url.tls {
            let name = options.server_name.unwrap_or(&url.host);
            Some(tls::connector(name, options.ca_file).map_err(|reason| NetError::Setup { side, reason })?)
        } else {
            None
        };
        let password = if url.password.is_empty() { options.password } else { &url.password };
        Ok(Target { side, host: url.host.clone(), port: url.port, username: url.username.clone(), password: password.clone(), tls })
    }

    /// `host:port` as configured: what status shows and what the record holds.
    #[must_use]
    pub fn address(&self) -> String {
        url::join(&self.host, self.port)
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects, within `deadline` for everything: resolution, every address, TLS.
    ///
    /// # Errors
    /// [`NetError`], naming the side and the step that failed.
    pub async fn connect(&self, deadline: Duration) -> Result<Stream, NetError> {
        match tokio::time::timeout(deadline, self.connect_unbounded()).await {
            Ok(result) => result,
            Err(_) => Err(self.tcp_error(format!("no connection within {} ms", deadline.as_millis()))),
        }
    }

    async fn connect_unbounded(&self) -> Result<Stream, NetError> {
        let tcp = self.connect_tcp().await?;
        prepare_server(&tcp).map_err(|error| self.tcp_error(error.to_string()))?;
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        match connector.connect(name.clone(), tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(NetError::Tls { side: self.side, address: self.address(), reason: tls::explain(&error) }),
        }
    }

    async fn connect_tcp(&self) -> Result<TcpStream, NetError> {
        let mut last = String::from("the name has no address");
        for address in self.resolve().await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(self.tcp_error(last))
    }

    /// The addresses that the name leads to now.
    ///
    /// # Errors
    /// [`NetError::Resolve`].
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, NetError> {
        match tokio::net::lookup_host((self.host.as_str(), self.port)).await {
            Ok(addresses) => Ok(addresses.collect()),
            Err(error) => Err(NetError::Resolve { side: self.side, host: self.host.clone(), reason: error.to_string() }),
        }
    }

    fn tcp_error(&self, reason: String) -> NetError {
        NetError::Tcp { side: self.side, address: self.address(), reason }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = if self.is_tls() { "tls" } else { "plain" };
        write!(f, "Target({} {} {tls} user {:?} password {:?})", self.side, self.address(), self.username, self.password)
    }
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The configuration of the side cannot work.
    #[error("[{side}] {reason}")]
    Setup {
        /// Whose configuration.
        side: Endpoint,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The name service did not know the host.
    #[error("{side} ({host}): the name cannot be resolved: {reason}; check the host in [{side}] url and the name service")]
    Resolve {
        /// Whose name.
        side: Endpoint,
        /// The name.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// No TCP connection.
    #[error("{side} ({address}): cannot connect: {reason}; check that the server runs and that a firewall lets us through")]
    Tcp {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// The system's words.
        reason: String,
    },
    /// TCP, but no TLS.
    #[error("{side} ({address}): no TLS: {reason}")]
    Tls {
        /// Which side.
        side: Endpoint,
        /// host:port.
        address: String,
        /// What failed and what to do.
        reason: String,
    },
}

/// Slowness never ends a connection to a server; these do, when the other machine has gone.
fn prepare_server(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Silence before the first probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Sent bytes that nobody acknowledges for this long end the connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
