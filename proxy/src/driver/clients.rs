//! Client connections: one task for all of them. Their sockets are in a poll of their own, whose file the runtime watches: a turn asks
//! it once which of them have something, reads each of those once, and writes the lanes behind that, or where much has come. A task each would cost a
//! wake-up, a place in the runtime's queue and its memory with every request. Replies are written by whoever produced them.

use super::Shell;
use crate::net;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll as Turn, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use twinlane_core::sequencer::{Addresses, Sequencer, SessionId};

/// Sockets that one look at the poll can name, and connections that are due in one turn; the others come with the next one.
const EVENTS: usize = 1024;

/// Bytes that are read from clients before lanes are written, in one turn.
const READ_AT_ONCE: usize = 128 * 1024;

/// One connection.
struct Client {
    id: SessionId,
    stream: TcpStream,
    /// There may be something to read that no event will tell again.
    readable: Cell<bool>,
    /// The other end has closed, or the socket is broken: what there is to read ends.
    ends: Cell<bool>,
    /// The socket is broken or the session is over: the connection goes at its next visit.
    over: Cell<bool>,
    /// It is in the list of those to be visited.
    due: Cell<bool>,
}

/// All connections.
pub(super) struct Clients {
    registry: Registry,
    /// Each at the slot of its session.
    by_slot: RefCell<Vec<Option<Rc<Client>>>>,
    count: Cell<usize>,
    /// Those with something to do that no event tells.
    due: RefCell<Vec<SessionId>>,
    waker: RefCell<Option<Waker>>,
    /// Bytes read since lanes were last written.
    read: Cell<usize>,
    /// Their task is at work.
    at_work: Cell<bool>,
}

impl Clients {
    /// No connections yet, and the poll that is to be given to [`serve`].
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<(Clients, Poll)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let (by_slot, due, waker) = (RefCell::default(), RefCell::default(), RefCell::default());
        Ok((Clients { registry, by_slot, count: Cell::new(0), due, waker, read: Cell::new(0), at_work: Cell::new(false) }, poll))
    }

    /// Writes as much of a session's output as the socket takes.
    pub fn write(&self, core: &mut Sequencer, id: SessionId) {
        let by_slot = self.by_slot.borrow();
        let Some(client) = by_slot.get(id.slot()).and_then(Option::as_ref).filter(|client| client.id == id) else { return };
        client.write(core);
        if client.over.get() || (client.readable.get() && core.wants_input(id)) {
            self.visit_again(client);
        }
    }

    /// Has it visited in the next turn, whether or not an event comes.
    fn visit_again(&self, client: &Client) {
        if !client.due.replace(true) {
            self.due.borrow_mut().push(client.id);
            if let Some(waker) = self.waker.borrow().as_ref().filter(|_| !self.at_work.get()) {
                waker.wake_by_ref();
            }
        }
    }

    fn at(&self, slot: usize) -> Option<Rc<Client>> {
        self.by_slot.borrow().get(slot)?.clone()
    }

    fn insert(&self, id: SessionId, mut stream: TcpStream) -> io::Result<()> {
        self.registry.register(&mut stream, Token(id.slot()), Interest::READABLE | Interest::WRITABLE)?;
        let no = || Cell::new(false);
        let client = Rc::new(Client { id, stream, readable: no(), ends: no(), over: no(), due: no() });
        let mut by_slot = self.by_slot.borrow_mut();
        if by_slot.len() <= id.slot() {
            by_slot.resize_with(id.slot() + 1, || None);
        }
        by_slot[id.slot()] = Some(client);
        self.count.set(self.count.get() + 1);
        Ok(())
    }

    /// The last handle closes the socket, and with it the poll forgets it.
    fn remove(&self, client: &Client) {
        self.by_slot.borrow_mut()[client.id.slot()] = None;
        self.count.set(self.count.get() - 1);
    }
}

impl Client {
    fn write(&self, core: &mut Sequencer) {
        loop {
            let output = core.output(self.id);
            if output.is_empty() {
                break;
            }
            match (&self.stream).write(output) {
                Ok(n) => core.handle_output_written(self.id, n),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An event tells when there is room again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.over.set(true);
                    return;
                }
            }
        }
        if core.is_closing(self.id) {
            self.over.set(true);
        }
    }

    /// Reads once and tells the sequencer.
    fn read(&self, shell: &Shell) {
        let mut core = shell.core.borrow_mut();
        if !self.readable.get() || !core.wants_input(self.id) {
            return;
        }
        let mut buffer = shell.buffer.borrow_mut();
        match (&self.stream).read(&mut buffer) {
            Ok(0) if core.handle_client_ended(self.id, shell.now()) => self.over.set(true),
            // The core says when it has been answered.
            Ok(0) => self.readable.set(false),
            Ok(n) => {
                self.readable.set(n == buffer.len() || self.ends.get());
                shell.clients.read.set(shell.clients.read.get() + n);
                core.handle_client_bytes(self.id, &buffer[..n], shell.now());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable.set(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.over.set(true),
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
        let text = |address: io::Result<SocketAddr>| address.map_or_else(|_| "?:0".into(), |address| address.to_string().into_boxed_str());
        let addresses = Addresses { peer: text(stream.peer_addr()), local: text(stream.local_addr()) };
        let stream = match stream.into_std() {
            Ok(stream) => TcpStream::from_std(stream),
            Err(error) => {
                tracing::warn!("a client could not be accepted: {error}");
                continue;
            }
        };
        if shell.clients.count.get() >= max_clients {
            let _ = (&stream).write(b"-ERR max number of clients reached\r\n");
            continue;
        }
        let id = shell.core.borrow_mut().handle_client_open(addresses, shell.now());
        if let Err(error) = shell.clients.insert(id, stream) {
            tracing::warn!("a client could not be accepted: {error}");
            shell.with(|core, now| core.handle_client_closed(id, now));
        }
    }
}

/// Serves all connections, for ever.
///
/// # Errors
/// The system's, when their poll cannot be watched.
pub(super) fn serve(shell: Rc<Shell>, poll: Poll) -> io::Result<impl Future<Output = ()>> {
    let mut poll = watch(poll)?;
    let mut events = Events::with_capacity(EVENTS);
    Ok(poll_fn(move |cx| {
        shell.clients.at_work.set(true);
        let more = turn(&shell, &mut poll, &mut events, cx);
        shell.clients.at_work.set(false);
        if more {
            // Behind a look at all sockets: woken by itself the task would be run again before it, with what it has read left unanswered.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
        Turn::Pending
    }))
}

/// tokio deprecates this for descriptors that could be closed while they are registered, and its replacement is `unsafe`.
#[expect(deprecated, reason = "the replacement is unsafe; a Poll keeps the promise it asks for: nobody else closes its descriptor")]
fn watch(poll: Poll) -> io::Result<AsyncFd<Poll>> {
    AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)
}

/// Visits those that are due and those that have something, each once, and carries out what follows. True when there is more to do.
fn turn(shell: &Shell, poll: &mut AsyncFd<Poll>, events: &mut Events, cx: &mut Context<'_>) -> bool {
    let clients = &shell.clients;
    if !clients.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *clients.waker.borrow_mut() = Some(cx.waker().clone());
    }
    let mut due = clients.due.take();
    let rest = due.split_off(due.len().min(EVENTS));
    clients.due.borrow_mut().extend(rest);
    let mut more = false;
    for id in due {
        if let Some(client) = clients.at(id.slot()).filter(|client| client.id == id) {
            client.due.set(false);
            visit(shell, &client);
        }
    }
    while let Turn::Ready(Ok(mut ready)) = poll.poll_read_ready_mut(cx) {
        let asked = ready.get_inner_mut().poll(events, Some(Duration::ZERO));
        for event in events.iter() {
            if let Some(client) = clients.at(event.token().0) {
                meet(shell, &client, event);
            }
        }
        if asked.is_err() || events.iter().count() == EVENTS {
            // A signal came in between, or there are more than fit: the lanes come first.
            more = true;
            break;
        }
        ready.clear_ready();
    }
    clients.read.set(0);
    shell.flush();
    more || !clients.due.borrow().is_empty()
}

/// The socket has something.
fn meet(shell: &Shell, client: &Client, event: &Event) {
    let ends = event.is_read_closed() || event.is_error();
    client.ends.set(client.ends.get() || ends);
    client.readable.set(client.readable.get() || ends || event.is_readable());
    if event.is_writable() {
        let mut core = shell.core.borrow_mut();
        if !core.output(client.id).is_empty() {
            client.write(&mut core);
        }
    }
    visit(shell, client);
}

fn visit(shell: &Shell, client: &Client) {
    if !client.over.get() {
        client.read(shell);
    }
    if client.over.get() {
        shell.clients.remove(client);
        shell.core.borrow_mut().handle_client_closed(client.id, shell.now());
    } else if client.readable.get() && shell.core.borrow().wants_input(client.id) {
        // More may wait; the others come first.
        shell.clients.visit_again(client);
    }
    if shell.clients.read.get() >= READ_AT_ONCE {
        // A server that has this much to do need not wait for the rest of the turn.
        shell.clients.read.set(0);
        shell.flush();
    }
}
