//! One address in front of servers that change: what a managed service does when it fails over. Connections are carried as they
//! are, and all of them are cut when the address is pointed at another server, unless only its name changes hands.
//!
//! The answers to `TIME` can be shifted, as if the server's clock were set: a real clock belongs to the machine, which is not a test's. And a
//! server can be given another name in `INFO`, once or on each connection, as some services do that stand in front of theirs.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;

/// See the module. Its threads end with their connections.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` refuses connections.
    target: Mutex<Option<String>>,
    open: Mutex<Vec<TcpStream>>,
    shift_s: AtomicI64,
    disguise: Mutex<Disguise>,
}

/// Whose name the server tells.
#[derive(Clone, Copy, Debug, Default)]
pub enum Disguise {
    /// Its own.
    #[default]
    None,
    /// Another, and the same on each connection.
    One,
    /// Another on each connection.
    Each,
}

impl Forwarder {
    /// Listens on a free port of the loopback and carries connections to `target`.
    pub fn start(target: &str) -> Result<Forwarder> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let target = Mutex::new(Some(target.to_owned()));
        let shared = Arc::new(Shared { target, open: Mutex::default(), shift_s: AtomicI64::default(), disguise: Mutex::default() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let target = lock(&accepting.target).clone();
                let Some(server) = target.and_then(|target| TcpStream::connect(target).ok()) else { continue };
                let _ = carry(&accepting, number, client, server);
            }
        });
        Ok(Forwarder { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on the address leads there, for who connects: a name that was given to another server.
    pub fn rename(&self, target: &str) {
        *lock(&self.shared.target) = Some(target.to_owned());
    }

    /// Cuts every connection; from now on the address leads there, or nowhere.
    pub fn point_at(&self, target: Option<&str>) {
        *lock(&self.shared.target) = target.map(str::to_owned);
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on the server tells a time that is so many seconds later.
    pub fn shift_clock(&self, seconds: i64) {
        self.shared.shift_s.store(seconds, Ordering::SeqCst);
    }

    /// From now on the server tells another `run_id` and `master_replid` than its own, or its own again.
    pub fn disguise(&self, disguise: Disguise) {
        *lock(&self.shared.disguise) = disguise;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn carry(shared: &Arc<Shared>, number: usize, client: TcpStream, server: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    lock(&shared.open).extend([client.try_clone()?, server.try_clone()?]);
    for (mut from, mut to, answers) in [(client.try_clone()?, server.try_clone()?, false), (server, client, true)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let seconds = shared.shift_s.load(Ordering::SeqCst);
                if answers && seconds != 0 {
                    shift_time(&mut buffer[..n], seconds);
                }
                let name = match *lock(&shared.disguise) {
                    Disguise::None => None,
                    Disguise::One => Some(0),
                    Disguise::Each => Some(number),
                };
                if let Some(name) = name.filter(|_| answers) {
                    disguise(&mut buffer[..n], name);
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}

/// The identifiers of an INFO are 40 digits of base 16, and begin with `name` then. An answer of INFO comes in one piece.
fn disguise(bytes: &mut [u8], name: usize) {
    let digits = format!("{name:016x}");
    for field in [&b"\nrun_id:"[..], b"\nmaster_replid:"] {
        let Some(at) = bytes.windows(field.len()).position(|window| window == field) else { continue };
        if let Some(place) = bytes.get_mut(at + field.len()..at + field.len() + digits.len()) {
            place.copy_from_slice(digits.as_bytes());
        }
    }
}

/// `*2 $10 <seconds> $6 <microseconds>`: nothing else that the proxy asks for is answered so. A small answer comes in one piece.
fn shift_time(bytes: &mut [u8], seconds: i64) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    if !bytes.starts_with(HEAD) || bytes.len() < HEAD.len() + 10 {
        return;
    }
    let digits = &mut bytes[HEAD.len()..HEAD.len() + 10];
    let Some(told) = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok()) else { return };
    let shifted = (told + seconds).to_string();
    if shifted.len() == digits.len() {
        digits.copy_from_slice(shifted.as_bytes());
    }
}
