//! Many cheap connections under one pacer, on one thread.
//!
//! The generator shares two cores with the servers it measures, so it must cost little: requests are composed
//! into one buffer per connection, written with one call, and replies are scanned, not parsed. Two ways to
//! drive it:
//!
//! - *open loop*: requests arrive at a constant rate whatever the server does, and latency counts from the
//!   moment a request was due, not from when it could be sent. A server that stalls for 50 ms therefore shows
//!   50 ms to everything that fell due meanwhile (no coordinated omission). Arrivals lie on a grid of
//!   [`TICK`], kept by a timerfd, because tokio's timers are a millisecond coarse.
//! - *closed loop*: each connection sends its next batch when the last one is answered.
//!
//! Sockets are written with `try_write` from the pacer; what does not fit waits in the connection's buffer and
//! goes with the next tick, so one slow connection holds up no other.

use crate::resp::{self, Scanner};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The grid of arrivals.
pub const TICK: Duration = Duration::from_micros(500);

/// What one reply must be.
#[derive(Debug, Clone)]
pub enum Check {
    /// `+OK`
    Ok,
    /// Exactly this integer.
    Int(i64),
    /// Exactly this bulk string.
    Bulk(Vec<u8>),
    /// A bulk string that begins with this key's digits, as [`value_into`] writes it, or nil.
    ValueOf(u64),
    /// Anything but an error.
    NoError,
}

impl Check {
    fn accepts(&self, reply: &[u8]) -> bool {
        match self {
            Check::Ok => reply == b"+OK\r\n",
            Check::Int(number) => line(reply, b':').is_some_and(|line| resp::number(line).is_ok_and(|got| got == *number)),
            Check::Bulk(body) => body_of(reply) == Some(body),
            Check::ValueOf(key) => match body_of(reply) {
                Some(body) => body.get(..KEY_DIGITS).is_some_and(|digits| digits == key_digits(*key)),
                None => reply == b"$-1\r\n" || reply == b"_\r\n",
            },
            Check::NoError => !matches!(reply.first(), Some(b'-' | b'!')),
        }
    }
}

fn line(reply: &[u8], kind: u8) -> Option<&[u8]> {
    reply.strip_prefix(&[kind])?.strip_suffix(b"\r\n")
}

fn body_of(reply: &[u8]) -> Option<&[u8]> {
    let newline = line(reply, b'$')?.iter().position(|byte| *byte == b'\n')?;
    reply.get(newline + 2..reply.len() - 2)
}

/// Digits of a key in names and values: fixed, so that requests of one kind have one length.
pub const KEY_DIGITS: usize = 12;

/// A key's number as fixed digits.
pub fn key_digits(mut key: u64) -> [u8; KEY_DIGITS] {
    let mut digits = [b'0'; KEY_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (key % 10) as u8;
        key /= 10;
    }
    digits
}

/// A value that says to which key it belongs, `length` bytes long (at least the digits).
pub fn value_into(key: u64, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&key_digits(key));
    out.resize(out.len() + length.saturating_sub(KEY_DIGITS), b'x');
}

/// Where a connection's requests come from.
pub trait Source {
    /// Appends the next request and says what its reply must be.
    fn request(&mut self, out: &mut Vec<u8>) -> Check;
}

/// How requests fall due.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many a second over all connections, in batches of `depth` on one connection.
    Open {
        /// Commands per second.
        rate: f64,
        /// Commands per batch.
        depth: usize,
    },
    /// The next batch when the last is answered.
    Closed {
        /// Commands per batch.
        depth: usize,
        /// Pause between batches.
        think: Duration,
    },
}

/// What a group saw. Times are nanoseconds.
#[derive(Debug)]
pub struct Meter {
    /// Latency of every checked reply.
    pub latency_ns: Histogram<u64>,
    /// Replies, right ones and wrong ones.
    pub replies: u64,
    /// Replies that were not what they must be.
    pub wrong: u64,
    /// Connections that ended before their time.
    pub disconnects: u64,
    /// The first wrong replies in full.
    pub stories: Vec<String>,
    /// The longest latency since the window was opened.
    pub window_max_ns: u64,
    /// How late the pacer woke at worst since then: waiting that is this generator's or the machine's fault.
    pub window_late_ns: u64,
}

impl Meter {
    fn new() -> Result<Meter> {
        // 1 µs to 120 s with three digits: about 200 KiB.
        let latency_ns = Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?;
        Ok(Meter { latency_ns, replies: 0, wrong: 0, disconnects: 0, stories: Vec::new(), window_max_ns: 0, window_late_ns: 0 })
    }

    /// Forgets what was measured, not what went wrong: an error during warm-up is an error.
    pub fn restart(&mut self) {
        self.latency_ns.reset();
        self.replies = 0;
        self.window_max_ns = 0;
        self.window_late_ns = 0;
    }

    fn record(&mut self, latency_ns: u64) {
        self.replies += 1;
        self.window_max_ns = self.window_max_ns.max(latency_ns);
        self.latency_ns.saturating_record(latency_ns);
    }

    fn tell(&mut self, story: String) {
        if self.stories.len() < 20 {
            eprintln!("UNEXPECTED {story}");
            self.stories.push(story);
        }
    }
}

/// Connections to one target that share a pace and a meter.
pub struct Group {
    name: String,
    start: Instant,
    pace: Pace,
    connections: Vec<Connection>,
    /// What they saw.
    pub meter: RefCell<Meter>,
    stopped: Cell<bool>,
    arrivals: Cell<u64>,
    last_tick: Cell<u64>,
    next_connection: Cell<usize>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

struct Connection {
    stream: TcpStream,
    state: RefCell<State>,
}

struct State {
    source: Box<dyn Source>,
    out: Vec<u8>,
    written: usize,
    pending: VecDeque<(u64, Check)>,
    input: Vec<u8>,
    scanner: Scanner,
    closed: bool,
}

impl Group {
    /// Connects; nothing is sent before [`Group::begin`].
    pub async fn connect(name: &str, target: &str, pace: Pace, sources: Vec<Box<dyn Source>>) -> Result<Rc<Group>> {
        let mut connections = Vec::with_capacity(sources.len());
        for source in sources {
            let stream = TcpStream::connect(target).await.with_context(|| format!("connect to {name} at {target}"))?;
            stream.set_nodelay(true)?;
            let input = Vec::with_capacity(16 << 10);
            let (out, pending, scanner) = (Vec::new(), VecDeque::new(), Scanner::default());
            let state = State { source, out, written: 0, pending, input, scanner, closed: false };
            connections.push(Connection { stream, state: RefCell::new(state) });
        }
        Ok(Rc::new(Group {
            name: name.to_owned(),
            start: Instant::now(),
            pace,
            connections,
            meter: RefCell::new(Meter::new()?),
            stopped: Cell::new(false),
            arrivals: Cell::new(0),
            last_tick: Cell::new(0),
            next_connection: Cell::new(0),
            tasks: RefCell::default(),
        }))
    }

    /// Starts the readers, and the pacer if arrivals come at a rate.
    pub fn begin(self: &Rc<Group>) -> Result<()> {
        let mut tasks = self.tasks.borrow_mut();
        for index in 0..self.connections.len() {
            let group = self.clone();
            tasks.push(tokio::task::spawn_local(async move { group.serve(index).await }));
        }
        if let Pace::Open { rate, depth } = self.pace {
            let (timer, group, since) = (timer(TICK)?, self.clone(), self.now_ns());
            tasks.push(tokio::task::spawn_local(async move {
                while !group.stopped.get() && tick(&timer).await {
                    group.issue_due(since, rate, depth);
                }
            }));
        }
        Ok(())
    }

    /// Sends nothing new, waits for what is in flight, and counts what never came.
    pub async fn finish(self: &Rc<Group>, patience: Duration) {
        self.stopped.set(true);
        let deadline = Instant::now() + patience;
        while self.in_flight() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.connections.iter().for_each(Connection::flush);
        }
        let missing = self.in_flight();
        if missing > 0 {
            let mut meter = self.meter.borrow_mut();
            meter.wrong += missing as u64;
            meter.tell(format!("{}: {missing} replies never came", self.name));
        }
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }

    /// Waits until so many requests have been answered; a wrong reply, a lost connection and the end of `patience` are errors.
    pub async fn answered(&self, replies: u64, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            {
                let meter = self.meter.borrow();
                if meter.wrong + meter.disconnects > 0 {
                    bail!("{} refuses: {:?}", self.name, meter.stories);
                }
                if meter.replies >= replies {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("{} answered {} of {replies} requests in {patience:?}", self.name, meter.replies);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Requests sent or waiting to be sent, and not answered.
    pub fn in_flight(&self) -> usize {
        self.connections.iter().map(|connection| connection.state.borrow().pending.len()).sum()
    }

    /// Nanoseconds since this group was made: the clock of its intended times.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Waits until everything that fell due before `moment_ns` is answered, at most `patience`.
    pub async fn settled(&self, moment_ns: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        let oldest = |connection: &Connection| connection.state.borrow().pending.front().map(|entry| entry.0);
        while self.connections.iter().filter_map(oldest).any(|due| due <= moment_ns) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Everything that fell due up to now, on the grid.
    fn issue_due(&self, since: u64, rate: f64, depth: usize) {
        let tick_ns = TICK.as_nanos() as u64;
        let ticks = (self.now_ns() - since) / tick_ns;
        let due = ((ticks * tick_ns) as f64 * rate / 1e9) as u64;
        let behind = ticks.saturating_sub(self.last_tick.replace(ticks) + 1) * tick_ns;
        let mut meter = self.meter.borrow_mut();
        meter.window_late_ns = meter.window_late_ns.max(behind);
        drop(meter);
        let mut issued = self.arrivals.get();
        while issued + depth as u64 <= due {
            // The tick at which this batch fell due, even if the pacer wakes late.
            let due_ticks = ((issued + depth as u64) as f64 / rate * 1e9 / tick_ns as f64).ceil() as u64;
            let intended = since + due_ticks * tick_ns;
            let index = self.next_connection.get();
            self.next_connection.set((index + 1) % self.connections.len());
            self.connections[index].compose(intended, depth);
            issued += depth as u64;
        }
        self.arrivals.set(issued);
        self.connections.iter().for_each(Connection::flush);
    }

    async fn serve(&self, index: usize) {
        let connection = &self.connections[index];
        let refill = |group: &Group| {
            if let (Pace::Closed { depth, .. }, false) = (group.pace, group.stopped.get()) {
                connection.compose(group.now_ns(), depth);
                connection.flush();
            }
        };
        refill(self);
        loop {
            let interest = if connection.has_unsent() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = connection.stream.ready(interest).await;
            if ready.is_ok_and(|ready| ready.is_writable()) {
                connection.flush();
            }
            if let Err(story) = self.take_replies(connection) {
                connection.state.borrow_mut().closed = true;
                let in_flight = connection.state.borrow().pending.len();
                let mut meter = self.meter.borrow_mut();
                meter.disconnects += 1;
                meter.tell(format!("{} connection {index}: {story}, {in_flight} replies outstanding", self.name));
                drop(meter);
                connection.state.borrow_mut().pending.clear();
                return;
            }
            if let Pace::Closed { think, .. } = self.pace
                && connection.state.borrow().pending.is_empty()
            {
                if !think.is_zero() {
                    tokio::time::sleep(think).await;
                }
                refill(self);
            }
        }
    }

    /// Reads what there is and checks every complete reply.
    fn take_replies(&self, connection: &Connection) -> Result<(), String> {
        let mut guard = connection.state.borrow_mut();
        let state = &mut *guard;
        loop {
            state.input.reserve(16 << 10);
            match connection.stream.try_read_buf(&mut state.input) {
                Ok(0) => return Err("closed by the other side".into()),
                Ok(_) => self.check_replies(state)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn check_replies(&self, state: &mut State) -> Result<(), String> {
        let now = self.now_ns();
        let mut meter = self.meter.borrow_mut();
        let mut start = 0;
        while start < state.input.len() {
            let Some(length) = state.scanner.scan(&state.input[start..]).map_err(|error| error.to_string())? else {
                break;
            };
            let reply = &state.input[start..start + length];
            let Some((intended, check)) = state.pending.pop_front() else {
                return Err(format!("a reply too many: {}", resp::show(reply)));
            };
            meter.record(now.saturating_sub(intended));
            if !check.accepts(reply) {
                meter.wrong += 1;
                meter.tell(format!("{}: expected {check:?}, got {}", self.name, resp::show(reply)));
            }
            start += length;
        }
        state.input.drain(..start);
        Ok(())
    }
}

impl Connection {
    fn compose(&self, intended: u64, count: usize) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.closed {
            return;
        }
        for _ in 0..count {
            let check = state.source.request(&mut state.out);
            state.pending.push_back((intended, check));
        }
    }

    fn has_unsent(&self) -> bool {
        let state = self.state.borrow();
        state.written < state.out.len()
    }

    /// Writes what the socket takes. An error shows at the reader, which owns the story.
    fn flush(&self) {
        let mut state = self.state.borrow_mut();
        while state.written < state.out.len() {
            match self.stream.try_write(&state.out[state.written..]) {
                Ok(count) => state.written += count,
                Err(_) => return,
            }
        }
        state.out.clear();
        state.written = 0;
    }
}

/// A periodic timerfd: 500 µs on time at a thousandth of the cost of spinning.
fn timer(period: Duration) -> Result<AsyncFd<OwnedFd>> {
    let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let period = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
    rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
    register(fd)
}

/// tokio deprecates `new` for descriptors that could be closed while registered, and its replacement is
/// `unsafe`, which this workspace forbids. An `OwnedFd` is closed by nobody but the `AsyncFd` that owns it.
#[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps the promise it asks for")]
fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    Ok(AsyncFd::new(fd)?)
}

async fn tick(timer: &AsyncFd<OwnedFd>) -> bool {
    let Ok(mut guard) = timer.readable().await else {
        return false;
    };
    let mut expirations = [0u8; 8];
    // How many ticks passed does not matter: arrivals are counted from the clock.
    let _ = guard.try_io(|fd| rustix::io::read(fd, &mut expirations).map_err(std::io::Error::from));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_held_against_what_it_must_be() {
        for (check, reply, right) in [
            (Check::Ok, b"+OK\r\n".as_slice(), true),
            (Check::Ok, b"-ERR\r\n", false),
            (Check::Int(-7), b":-7\r\n", true),
            (Check::Int(-7), b":7\r\n", false),
            (Check::Bulk(b"a\r\nb".to_vec()), b"$4\r\na\r\nb\r\n", true),
            (Check::Bulk(b"a".to_vec()), b"$-1\r\n", false),
            (Check::ValueOf(42), b"$14\r\n000000000042xx\r\n", true),
            (Check::ValueOf(43), b"$14\r\n000000000042xx\r\n", false),
            (Check::ValueOf(43), b"_\r\n", true),
            (Check::NoError, b":1\r\n", true),
            (Check::NoError, b"-WRONGTYPE\r\n", false),
        ] {
            assert_eq!(check.accepts(reply), right, "{check:?} {}", resp::show(reply));
        }
    }
}
