//! The loop of the data thread: one poll for the sockets of clients and lanes, and whatever else waits, as tasks.
//!
//! A turn asks once what has happened. What the primary says goes first, because clients wait for it; then what clients say; what the mirror says
//! comes behind both. Tasks (connects, probes, keyspace events, files) wait in a runtime of another thread, which rings here when one of them can go on: the
//! way of a command has none of that.

use super::clock::Clock;
use super::{Shell, clients, lanes};
use mio::{Events, Poll, Token, Waker};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};
use std::time::Duration;
use tokio::task::LocalSet;

/// Tokens: those of clients are their slots.
pub(super) const FIRST_LANE: usize = 1 << 40;
pub(super) const LISTENER: Token = Token(usize::MAX);
const BELL: Token = Token(usize::MAX - 1);
const CLOCK: Token = Token(usize::MAX - 2);

/// Sockets that one look can name; the others come with the next one.
const EVENTS: usize = 1024;

/// Wakes the loop for its tasks.
struct Bell {
    waker: Waker,
    rung: AtomicBool,
    /// The loop sleeps, or is about to: a ring must reach the poll.
    asleep: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) && self.asleep.load(Ordering::SeqCst) {
            // Fails only when the poll is gone, and the loop with it.
            let _ = self.waker.wake();
        }
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
/// The system's.
pub(super) fn serve(shell: &Shell, mut poll: Poll, tasks: LocalSet) -> io::Result<()> {
    let waker = Waker::new(poll.registry(), BELL)?;
    let bell = Arc::new(Bell { waker, rung: AtomicBool::new(true), asleep: AtomicBool::new(false) });
    let waker = std::task::Waker::from(bell.clone());
    let mut context = Context::from_waker(&waker);
    let mut tasks = pin!(tasks);
    let mut events = Events::with_capacity(EVENTS);
    let clock = Clock::new(poll.registry(), CLOCK)?;
    while !shell.stopping.get() {
        bell.asleep.store(true, Ordering::SeqCst);
        let busy = shell.lanes.are_due() || shell.clients.are_due() || bell.rung.load(Ordering::SeqCst);
        let asked = poll.poll(&mut events, busy.then_some(Duration::ZERO));
        bell.asleep.store(false, Ordering::SeqCst);
        if let Err(error) = asked
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        let ticks = turn(shell, &events);
        if bell.rung.swap(false, Ordering::SeqCst) {
            let _ = tasks.as_mut().poll(&mut context);
        }
        if ticks {
            clock.answer()?;
            shell.with(|core, now| core.handle_tick(now));
        }
    }
    Ok(())
}

/// Everything that is ready, once; whether the clock rang.
fn turn(shell: &Shell, events: &Events) -> bool {
    let mut ticks = false;
    shell.lanes.end_cuts(&shell.core);
    for event in events {
        match event.token() {
            LISTENER => shell.clients.knock(),
            BELL => {}
            CLOCK => ticks = true,
            Token(lane) if lane >= FIRST_LANE => shell.lanes.meet(lane, event, &shell.core),
            Token(slot) => shell.clients.meet(slot, event, &shell.core),
        }
    }
    let primary = shell.core.borrow().primary();
    lanes::visit_due(shell, primary);
    clients::accept(shell);
    clients::visit_due(shell);
    lanes::visit_due(shell, primary.other());
    ticks
}
