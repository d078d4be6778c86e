//! Lanes' sockets. What was appended is written by the turn that appended it; a task each hands over what came, and writes what the socket
//! did not take at once.

use super::Shell;
use crate::net::Stream;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use twinlane_core::endpoint::Endpoint;
use twinlane_core::limits;
use twinlane_core::sequencer::{LaneId, Sequencer};

/// One lane's connection and its task.
struct Handle {
    generation: u64,
    /// None behind its end. Nothing that could come back here is called while it is borrowed.
    stream: RefCell<Option<Stream>>,
    waker: RefCell<Option<Waker>>,
    /// Its turn is behind everything that was ready when it was woken.
    behind: Cell<bool>,
    /// What it has to write stays a moment, so that more goes with it.
    lingers: Cell<bool>,
    /// When effects were last written, microseconds.
    written_at: Cell<u64>,
    /// The side was given up: the connection is reset.
    over: Cell<bool>,
}

/// All lanes.
#[derive(Default)]
pub(super) struct Lanes {
    by_id: RefCell<HashMap<LaneId, Rc<Handle>>>,
    /// Those whose output lingers.
    lingering: RefCell<Vec<LaneId>>,
    /// The shell itself, for tasks that are spawned from within it.
    pub shell: RefCell<Weak<Shell>>,
}

impl Lanes {
    /// The lane has something to write; or something that can wait, when it was written a moment ago.
    pub fn serve(&self, core: &mut Sequencer, id: LaneId, now: impl FnOnce() -> u64) {
        let by_id = self.by_id.borrow();
        let Some(handle) = by_id.get(&id) else { return };
        if core.primary() == id.side {
            handle.lingers.set(false);
            return handle.write_now(core, id);
        }
        let now = now();
        if core.lane_can_wait(id) && now.saturating_sub(handle.written_at.get()) < limits::LINGERING_US {
            if !handle.lingers.replace(true) {
                self.lingering.borrow_mut().push(id);
            }
            return;
        }
        handle.lingers.set(false);
        handle.written_at.set(now);
        handle.write_now(core, id);
    }

    /// Writes what has lingered long enough. To be asked behind everything that happens, and with the tick, when nothing does: no timer is as cheap.
    pub fn end_lingering(&self, core: &mut Sequencer, now: impl FnOnce() -> u64) {
        let mut lingering = self.lingering.borrow_mut();
        if lingering.is_empty() {
            return;
        }
        let now = now();
        let by_id = self.by_id.borrow();
        lingering.retain(|id| {
            let Some(handle) = by_id.get(id).filter(|handle| handle.lingers.get()) else { return false };
            let waits = now.saturating_sub(handle.written_at.get()) < limits::LINGERING_US;
            if !waits {
                handle.lingers.set(false);
                handle.written_at.set(now);
                handle.write_now(core, *id);
            }
            waits
        });
    }

    /// Resets one connection.
    pub fn drop_lane(&self, id: LaneId) {
        if let Some(handle) = self.by_id.borrow_mut().remove(&id) {
            handle.over.set(true);
            handle.wake();
        }
    }

    /// Resets all connections to a side.
    pub fn drop_side(&self, side: Endpoint) {
        self.by_id.borrow_mut().retain(|id, handle| {
            if id.side == side {
                handle.over.set(true);
                handle.wake();
            }
            id.side != side
        });
    }
}

impl Handle {
    /// Writes as far as the socket takes it. Its task is woken when there is room again, or when the connection is broken, which it finds out itself.
    fn write_now(&self, core: &mut Sequencer, id: LaneId) {
        let (waker, mut stream) = (self.waker.borrow(), self.stream.borrow_mut());
        // A task that has not run yet begins with what there is to write.
        let (Some(waker), Some(stream)) = (waker.as_ref(), stream.as_mut()) else { return };
        if write(core, stream, id, self.generation, &mut Context::from_waker(waker)).is_err() {
            self.behind.set(true);
            waker.wake_by_ref();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Runs a lane until its side is given up. To be entered in the same turn in which the sequencer learns of the lane.
pub(super) fn run(shell: &Rc<Shell>, id: LaneId, generation: u64, stream: Stream) -> impl Future<Output = ()> + use<> {
    let (stream, waker, no) = (RefCell::new(Some(stream)), RefCell::new(None), || Cell::new(false));
    let handle = Rc::new(Handle { generation, stream, waker, behind: no(), lingers: no(), written_at: Cell::new(0), over: no() });
    shell.lanes.by_id.borrow_mut().insert(id, handle.clone());
    let shell = shell.clone();
    async move {
        let lost = poll_fn(|cx| turn(&shell, &handle, id, cx)).await;
        if let Some(stream) = handle.stream.take() {
            stream.reset();
        }
        if let Some(error) = lost {
            shell.lose_lane(id, generation, &error);
        }
    }
}

/// One turn of a lane's task; ready with the reason when the connection is lost, with none when it was given up.
fn turn(shell: &Shell, handle: &Handle, id: LaneId, cx: &mut Context<'_>) -> Poll<Option<String>> {
    if !handle.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *handle.waker.borrow_mut() = Some(cx.waker().clone());
    }
    if handle.over.get() {
        return Poll::Ready(None);
    }
    if !handle.behind.take() && shell.core.borrow().primary() != id.side {
        // What the mirror says can wait until clients have what the primary says.
        handle.behind.set(true);
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    if let Some(stream) = handle.stream.borrow_mut().as_mut()
        && let Err(error) = match handle.lingers.get() {
            false => write(&mut shell.core.borrow_mut(), stream, id, handle.generation, cx),
            true => flush(stream, cx),
        }
    {
        return Poll::Ready(Some(format!("the connection broke while writing: {error}")));
    }
    loop {
        let n = {
            let mut buffer = shell.buffer.borrow_mut();
            let mut space = ReadBuf::new(&mut buffer);
            let read = match handle.stream.borrow_mut().as_mut() {
                Some(stream) => Pin::new(stream).poll_read(cx, &mut space),
                None => return Poll::Ready(None),
            };
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(format!("the connection broke while reading: {error}"))),
                Poll::Ready(Ok(())) => {
                    let bytes = space.filled();
                    if bytes.is_empty() {
                        return Poll::Ready(Some("the server closed the connection".into()));
                    }
                    if !shell.core.borrow_mut().handle_lane_bytes(id, handle.generation, bytes, shell.now()) {
                        return Poll::Ready(Some("the server sent something that is no reply to what was asked".into()));
                    }
                    bytes.len()
                }
            }
        };
        shell.flush();
        if handle.over.get() {
            return Poll::Ready(None);
        }
        if n == super::READ_BUFFER {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

/// Writes what was appended, as far as the socket takes it.
fn write(core: &mut Sequencer, stream: &mut Stream, id: LaneId, generation: u64, cx: &mut Context<'_>) -> std::io::Result<()> {
    if core.generation(id.side) != generation {
        return Ok(());
    }
    loop {
        let output = core.lane_output(id);
        if output.is_empty() {
            break;
        }
        match Pin::new(&mut *stream).poll_write(cx, output) {
            Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => core.handle_lane_written(id, generation, n),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    flush(stream, cx)
}

/// What encryption holds back goes too.
fn flush(stream: &mut Stream, cx: &mut Context<'_>) -> std::io::Result<()> {
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}
