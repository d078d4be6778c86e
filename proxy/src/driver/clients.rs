//! Client connections: a turn reads each that has something once, and what follows is carried out behind that, or where many requests have come.
//! Replies are written by whoever produced them.

use super::Shell;
use crate::net;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use twinlane_core::sequencer::{Addresses, Sequencer, SessionId};

/// Bytes that are read from clients in one turn; the others come behind the servers.
const READ_IN_A_TURN: usize = 1 << 20;

/// Requests with which a server has enough to do: it need not wait for those of the other clients. Fewer would reach it in more and smaller pieces, each of
/// which wakes it.
const REQUESTS_AT_ONCE: u64 = 1024;

/// Connections that are taken in one turn.
const ACCEPTED_AT_ONCE: usize = 128;

/// Microseconds before the next is taken where the system refused one: out of files, those that are connected go on.
const ACCEPT_AGAIN_US: u64 = 100_000;

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
    listener: TcpListener,
    /// When connections that wait are taken, microseconds; none waits otherwise.
    accept_at: Cell<Option<u64>>,
    most: usize,
    /// Each at the slot of its session.
    by_slot: RefCell<Vec<Option<Rc<Client>>>>,
    count: Cell<usize>,
    /// Those that are to be visited, in the order in which they came to be.
    due: RefCell<VecDeque<Rc<Client>>>,
    /// Bytes read in this turn.
    read: Cell<usize>,
}

impl Clients {
    /// No connections yet, and at most so many.
    pub fn new(registry: Registry, listener: TcpListener, most: usize) -> Clients {
        Clients {
            registry,
            listener,
            accept_at: Cell::new(None),
            most,
            by_slot: RefCell::default(),
            count: Cell::new(0),
            due: RefCell::default(),
            read: Cell::new(0),
        }
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

    /// Has it visited, whether or not an event comes.
    fn visit_again(&self, client: &Rc<Client>) {
        if !client.due.replace(true) {
            self.due.borrow_mut().push_back(client.clone());
        }
    }

    /// Whether some are to be visited.
    pub fn are_due(&self) -> bool {
        !self.due.borrow().is_empty()
    }

    /// The socket of a session has something. What was waiting for room is written, what is to be read waits for its visit.
    pub fn meet(&self, slot: usize, event: &Event, core: &RefCell<Sequencer>) {
        let by_slot = self.by_slot.borrow();
        let Some(client) = by_slot.get(slot).and_then(Option::as_ref) else { return };
        let ends = event.is_read_closed() || event.is_error();
        client.ends.set(client.ends.get() || ends);
        client.readable.set(client.readable.get() || ends || event.is_readable());
        if event.is_writable() {
            let mut core = core.borrow_mut();
            if !core.output(client.id).is_empty() {
                client.write(&mut core);
                // Room may let its input go on: what follows is carried out behind its visit.
                self.visit_again(client);
            }
        }
        if client.readable.get() || client.over.get() {
            self.visit_again(client);
        }
    }

    /// Somebody wants to connect.
    pub fn knock(&self) {
        // Where the system refused one, the next knock does not make it willing.
        self.accept_at.set(self.accept_at.get().or(Some(0)));
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

/// Takes those that want to connect; what more there are come with the next turn.
pub(super) fn accept(shell: &Shell) {
    let clients = &shell.clients;
    if clients.accept_at.get().is_none_or(|at| shell.now().us < at) {
        return;
    }
    for _ in 0..ACCEPTED_AT_ONCE {
        match clients.listener.accept() {
            Ok((stream, peer)) => take(shell, stream, peer),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return clients.accept_at.set(None);
            }
            Err(error) => {
                tracing::warn!("a client could not be accepted: {error}");
                return clients.accept_at.set(Some(shell.now().us + ACCEPT_AGAIN_US));
            }
        }
    }
}

fn take(shell: &Shell, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = net::prepare_client(&stream) {
        tracing::debug!("a client's socket: {error}");
    }
    if shell.clients.count.get() >= shell.clients.most {
        let _ = (&stream).write(b"-ERR max number of clients reached\r\n");
        return;
    }
    let local = stream.local_addr().map_or_else(|_| "?:0".to_owned(), |address| address.to_string());
    let addresses = Addresses { peer: peer.to_string().into_boxed_str(), local: local.into_boxed_str() };
    let id = shell.core.borrow_mut().handle_client_open(addresses, shell.now());
    if let Err(error) = shell.clients.insert(id, stream) {
        tracing::warn!("a client could not be accepted: {error}");
        shell.with(|core, now| core.handle_client_closed(id, now));
    }
}

/// Visits those that are due, each once, and carries out what follows.
pub(super) fn visit_due(shell: &Shell) {
    let clients = &shell.clients;
    let waiting = clients.due.borrow().len();
    if waiting == 0 {
        return;
    }
    clients.read.set(0);
    let mut carried_out = shell.core.borrow().requests();
    for _ in 0..waiting {
        let Some(client) = clients.due.borrow_mut().pop_front() else { break };
        client.due.set(false);
        visit(shell, &client);
        if clients.read.get() >= READ_IN_A_TURN {
            break;
        }
        let requests = shell.core.borrow().requests();
        if requests - carried_out >= REQUESTS_AT_ONCE {
            carried_out = requests;
            shell.flush();
        }
    }
    shell.flush();
}

fn visit(shell: &Shell, client: &Rc<Client>) {
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
}
