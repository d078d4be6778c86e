//! Client connections: a task each that reads, and writes only when the socket did not take everything at once. Replies are
//! otherwise written by whoever produced them, so a reply costs no wake-up.

use super::Shell;
use crate::net;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use twinlane_core::sequencer::{Addresses, Sequencer, SessionId};

/// One connection.
struct Client {
    writer: OwnedWriteHalf,
    waker: RefCell<Option<Waker>>,
    /// The task does not read, because the session did not want input when it last looked.
    paused: Cell<bool>,
    /// The socket is broken or the session is over: the task ends.
    over: Cell<bool>,
}

/// All connections.
#[derive(Default)]
pub(super) struct Clients {
    by_session: RefCell<HashMap<SessionId, Rc<Client>>>,
}

impl Clients {
    /// Writes as much of a session's output as the socket takes.
    pub fn write(&self, core: &mut Sequencer, id: SessionId) {
        let Some(client) = self.by_session.borrow().get(&id).cloned() else { return };
        client.write(core, id);
    }
}

impl Client {
    fn write(&self, core: &mut Sequencer, id: SessionId) {
        let (reads, mut full) = (core.wants_input(id), false);
        loop {
            let output = core.output(id);
            if output.is_empty() {
                break;
            }
            match self.writer.try_write(output) {
                Ok(n) => core.handle_output_written(id, n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    full = true;
                    break;
                }
                Err(_) => {
                    self.over.set(true);
                    break;
                }
            }
        }
        if core.is_closing(id) && core.output(id).is_empty() {
            self.over.set(true);
        }
        if (reads || full || self.over.get()) && self.must_wake(core, id) {
            self.wake();
        }
    }

    /// The task has something to do that no readiness of the socket will tell it.
    fn must_wake(&self, core: &Sequencer, id: SessionId) -> bool {
        self.over.get() || !core.output(id).is_empty() || self.paused.replace(false)
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Takes connections.
pub(super) async fn accept(shell: Rc<Shell>, listener: TcpListener, max_clients: usize) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of files: those that are connected go on.
                tracing::warn!("a client could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = net::prepare_client(&stream) {
            tracing::debug!("a client's socket: {error}");
        }
        if shell.clients.by_session.borrow().len() >= max_clients {
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            continue;
        }
        spawn_local(session(shell.clone(), stream));
    }
}

async fn session(shell: Rc<Shell>, stream: TcpStream) {
    let text = |address: io::Result<SocketAddr>| address.map_or_else(|_| "?:0".into(), |address| address.to_string().into_boxed_str());
    let addresses = Addresses { peer: text(stream.peer_addr()), local: text(stream.local_addr()) };
    let id = shell.core.borrow_mut().handle_client_open(addresses, shell.now());
    let (mut reader, writer) = stream.into_split();
    let client = Rc::new(Client { writer, waker: RefCell::new(None), over: Cell::new(false), paused: Cell::new(false) });
    shell.clients.by_session.borrow_mut().insert(id, client.clone());
    poll_fn(|cx| turn(&shell, &client, &mut reader, id, cx)).await;
    shell.clients.by_session.borrow_mut().remove(&id);
    shell.with(|core, now| core.handle_client_closed(id, now));
}

/// One turn of a session's task; ready when the session is over.
fn turn(shell: &Shell, client: &Client, reader: &mut OwnedReadHalf, id: SessionId, cx: &mut Context<'_>) -> Poll<()> {
    if !client.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *client.waker.borrow_mut() = Some(cx.waker().clone());
    }
    loop {
        if client.over.get() {
            return Poll::Ready(());
        }
        if !shell.core.borrow().output(id).is_empty() {
            match client.writer.as_ref().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {
                    client.write(&mut shell.core.borrow_mut(), id);
                    shell.flush();
                    continue;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if !shell.core.borrow().wants_input(id) {
            client.paused.set(true);
            return Poll::Pending;
        }
        match read(shell, reader, id, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(n)) if n < super::READ_BUFFER => {}
            Poll::Ready(Ok(_)) => {
                // More may wait; the others come first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

/// Reads once and tells the sequencer.
fn read(shell: &Shell, reader: &mut OwnedReadHalf, id: SessionId, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = shell.buffer.borrow_mut();
    let mut space = ReadBuf::new(&mut buffer);
    match Pin::new(reader).poll_read(cx, &mut space) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            let bytes = space.filled();
            if !bytes.is_empty() {
                shell.core.borrow_mut().handle_client_bytes(id, bytes, shell.now());
            }
            let n = bytes.len();
            drop(buffer);
            shell.flush();
            Poll::Ready(Ok(n))
        }
    }
}
