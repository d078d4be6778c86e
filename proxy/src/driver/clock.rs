//! The clock of the loop: an event every ten milliseconds, of a timer that the kernel keeps. A sleep with an end of its own would set one up and take
//! it down each time.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Between two ticks of the sequencer.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Its timer.
pub(super) struct Clock(OwnedFd);

impl Clock {
    /// A clock that rings under this token from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Clock> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: TICK, it_value: TICK })?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Clock(timer))
    }

    /// It was heard: the next ring is an event again, and those that were missed are none.
    ///
    /// # Errors
    /// The system's.
    pub fn answer(&self) -> io::Result<()> {
        match rustix::io::read(&self.0, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
