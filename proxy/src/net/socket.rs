//! A connection to a server without a runtime: for a poll that its owner asks.

use super::Stream;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::Duration;

/// A connection that never waits: what cannot be done now is [`ErrorKind::WouldBlock`], and an event tells when it can.
#[derive(Debug)]
pub enum Socket {
    /// `redis://`.
    Plain(TcpStream),
    /// `rediss://`.
    Tls(Box<Tls>),
}

/// What encrypts, and the TCP connection below.
#[derive(Debug)]
pub struct Tls {
    session: ClientConnection,
    tcp: TcpStream,
    /// The last read ended because the socket had nothing more.
    drained: bool,
    /// It ended with this, behind bytes that were good; the next one tells it.
    failed: Option<io::Error>,
}

impl Stream {
    /// Takes the connection out of its runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn into_socket(self) -> io::Result<Socket> {
        let polled = |tcp: tokio::net::TcpStream| tcp.into_std().map(TcpStream::from_std);
        match self {
            Stream::Plain(tcp) => polled(tcp).map(Socket::Plain),
            Stream::Tls(tls) => {
                let (tcp, session) = tls.into_inner();
                Ok(Socket::Tls(Box::new(Tls { session, tcp: polled(tcp)?, drained: false, failed: None })))
            }
        }
    }
}

impl Socket {
    /// Has its events told under this token: edges, each once.
    ///
    /// # Errors
    /// The system's.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.tcp_mut(), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Reads what is there: zero bytes at the end of the connection.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::InvalidData`] where TLS was broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.read(buffer),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }

    /// Whether the last read, if it gave fewer bytes than there was room for, has emptied the connection: an event tells of more.
    #[must_use]
    pub fn is_emptied_by_a_short_read(&self) -> bool {
        match self {
            Socket::Plain(_) => true,
            Socket::Tls(tls) => tls.drained,
        }
    }

    /// Writes as much as it takes.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            // A list of one costs the kernel more than its one piece.
            Socket::Plain(tcp) => match pieces {
                [piece] => tcp.write(piece),
                pieces => tcp.write_vectored(pieces),
            },
            Socket::Tls(tls) => tls.write(pieces),
        }
    }

    /// What encryption holds back goes too, as far as the connection takes it.
    ///
    /// # Errors
    /// The system's, but for [`ErrorKind::WouldBlock`].
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(_) => Ok(()),
            Socket::Tls(tls) => match tls.push() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                pushed => pushed,
            },
        }
    }

    /// Closes with a reset: bytes that the kernel has not sent yet are thrown away instead of reaching the server after we gave the connection up.
    /// It does not take back what has left; only `CLIENT KILL` does (H1). Of TLS, no farewell delays it.
    pub fn reset(mut self) {
        let _ = socket2::SockRef::from(&*self.tcp_mut()).set_linger(Some(Duration::ZERO));
    }

    fn tcp_mut(&mut self) -> &mut TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => &mut tls.tcp,
        }
    }
}

impl Tls {
    /// As much as there is, record by record.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.drained = false;
        let mut at = 0;
        while at < buffer.len() {
            let step = match self.session.reader().read(&mut buffer[at..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.fetch().map(|there_is_more| (0, there_is_more)),
                read => read.map(|n| (n, n > 0)),
            };
            match step {
                Ok((n, true)) => at += n,
                Ok((_, false)) => break,
                Err(error) => {
                    self.drained = error.kind() == ErrorKind::WouldBlock;
                    if at == 0 {
                        return Err(error);
                    }
                    self.failed = Some(error).filter(|_| !self.drained);
                    break;
                }
            }
        }
        Ok(at)
    }

    /// Takes from the socket what there is of the next records; false at the end of the connection.
    fn fetch(&mut self) -> io::Result<bool> {
        if self.session.read_tls(&mut self.tcp)? == 0 {
            return Ok(false);
        }
        let processed = self.session.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
        // Answers of TLS itself, and what it has to say of an error.
        let answered = self.push();
        processed?;
        match answered {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(true),
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // Nothing is taken before what was taken has gone: what is encrypted can wait for the socket, and must not grow.
        self.push()?;
        let taken = self.session.writer().write_vectored(pieces)?;
        match self.push() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Writes what is encrypted.
    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                // What was taken must not be taken again.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }
}
