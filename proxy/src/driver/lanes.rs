//! Lanes' sockets: a task each that writes what was appended and hands over what came.

use super::Shell;
use crate::net::Stream;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::limits;
use twinlane_core::sequencer::LaneId;

/// One lane's task.
struct Handle {
    waker: RefCell<Option<Waker>>,
    /// Its turn is behind everything that was ready when it was woken.
    behind: Cell<bool>,
    /// What it has to write stays a moment, so that more goes with it.
    lingers: Cell<bool>,
    /// The side was given up: the connection is reset.
    over: Cell<bool>,
}

/// All lanes.
#[derive(Default)]
pub(super) struct Lanes {
    by_id: RefCell<HashMap<LaneId, Rc<Handle>>>,
    /// Those whose output lingers, and who is told of the first one.
    lingering: RefCell<Vec<LaneId>>,
    lingers: Notify,
    /// The shell itself, for tasks that are spawned from within it.
    pub shell: RefCell<Weak<Shell>>,
}

impl Lanes {
    /// The lane has something to write.
    pub fn wake(&self, id: LaneId) {
        if let Some(handle) = self.by_id.borrow().get(&id) {
            handle.lingers.set(false);
            handle.behind.set(true);
            handle.wake();
        }
    }

    /// The lane has something to write that can wait.
    pub fn linger(&self, id: LaneId) {
        if self.by_id.borrow().get(&id).is_some_and(|handle| !handle.lingers.replace(true)) {
            let mut lingering = self.lingering.borrow_mut();
            if lingering.is_empty() {
                self.lingers.notify_one();
            }
            lingering.push(id);
        }
    }

    /// Wakes those that have waited, for ever.
    pub async fn end_lingering(&self) {
        loop {
            self.lingers.notified().await;
            tokio::time::sleep(Duration::from_millis(limits::LINGERING_MS)).await;
            let lingering = self.lingering.take();
            lingering.into_iter().for_each(|id| self.wake(id));
        }
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
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Runs a lane until its side is given up. To be entered in the same turn in which the sequencer learns of the lane.
pub(super) fn run(shell: &Rc<Shell>, id: LaneId, generation: u64, stream: Stream) -> impl Future<Output = ()> + use<> {
    let handle = Rc::new(Handle { waker: RefCell::new(None), behind: Cell::new(false), lingers: Cell::new(false), over: Cell::new(false) });
    shell.lanes.by_id.borrow_mut().insert(id, handle.clone());
    let shell = shell.clone();
    async move {
        let mut stream = stream;
        let lost = poll_fn(|cx| turn(&shell, &handle, &mut stream, (id, generation), cx)).await;
        stream.reset();
        if let Some(error) = lost {
            shell.lose_lane(id, generation, &error);
        }
    }
}

/// One turn of a lane's task; ready with the reason when the connection is lost, with none when it was given up.
fn turn(shell: &Shell, handle: &Handle, stream: &mut Stream, lane: (LaneId, u64), cx: &mut Context<'_>) -> Poll<Option<String>> {
    let (id, generation) = lane;
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
    if !handle.lingers.get()
        && let Err(error) = write(shell, stream, id, generation, cx)
    {
        return Poll::Ready(Some(format!("the connection broke while writing: {error}")));
    }
    loop {
        let n = {
            let mut buffer = shell.buffer.borrow_mut();
            let mut space = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *stream).poll_read(cx, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(format!("the connection broke while reading: {error}"))),
                Poll::Ready(Ok(())) => {
                    let bytes = space.filled();
                    if bytes.is_empty() {
                        return Poll::Ready(Some("the server closed the connection".into()));
                    }
                    if !shell.core.borrow_mut().handle_lane_bytes(id, generation, bytes, shell.now()) {
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
fn write(shell: &Shell, stream: &mut Stream, id: LaneId, generation: u64, cx: &mut Context<'_>) -> std::io::Result<()> {
    let mut core = shell.core.borrow_mut();
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
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}
