//! Lanes' sockets. What was appended is written by the turn that appended it, but for half a request now and then; what came is read once in a turn.

use super::{READ_BUFFER, Shell};
use crate::net::{Socket, Stream};
use ahash::RandomState;
use mio::event::Event;
use mio::{Registry, Token};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::rc::Rc;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::limits;
use twinlane_core::sequencer::{LaneId, Role, Sequencer};

/// Pieces that are written at once.
const PIECES: usize = 16;

/// Bytes of requests of which a server may read one at a time for ever, because they come whole: its query buffer of 20 KiB grows where a read ends more
/// than 4 KiB into a request (redis 7.0.15 networking.c readQueryFromClient; a larger argument has a buffer of its own). With room for three it
/// needs 4 microseconds less for each of 16 KiB.
const CUT: Range<usize> = 8 * 1024..32 * 1024;

/// Of so many writes to a lane that end with one of these, one keeps half of it back for the next turn.
const CUT_ONE_OF: u32 = 32;

/// One lane's connection.
struct Handle {
    id: LaneId,
    generation: u64,
    /// Its place among the open ones, which is its token.
    place: usize,
    /// None behind its end.
    socket: RefCell<Option<Socket>>,
    /// There may be something to read that no event will tell again.
    readable: Cell<bool>,
    /// The other end has closed, or the socket is broken: what there is to read ends.
    ends: Cell<bool>,
    /// Why it is broken: its side learns of it at its next visit.
    broken: RefCell<Option<String>>,
    /// It is in the list of those to be visited.
    due: Cell<bool>,
    /// What it has to write stays a moment, so that more goes with it.
    lingers: Cell<bool>,
    /// When effects were last written, microseconds.
    written_at: Cell<u64>,
    /// Writes that ended with a request that may be cut.
    large: Cell<u32>,
    /// Half of it waits for the next turn.
    cut: Cell<bool>,
}

/// All lanes.
pub(super) struct Lanes {
    registry: Registry,
    /// The token of the first place.
    first_token: usize,
    /// Their names are ours: no attacker chooses them.
    by_id: RefCell<HashMap<LaneId, Rc<Handle>, RandomState>>,
    by_place: RefCell<Vec<Option<Rc<Handle>>>>,
    free: RefCell<Vec<usize>>,
    /// Those that are to be visited, of each side.
    due: [RefCell<Vec<Rc<Handle>>>; 2],
    /// Those whose output lingers.
    lingering: RefCell<Vec<Rc<Handle>>>,
    /// Those of which half a request waits for the next turn.
    cut: RefCell<Vec<Rc<Handle>>>,
}

impl Lanes {
    /// None yet; their tokens begin here.
    pub fn new(registry: Registry, first_token: usize) -> Lanes {
        let by_id = RefCell::new(HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4)));
        let (by_place, free) = (RefCell::default(), RefCell::default());
        Lanes {
            registry,
            first_token,
            by_id,
            by_place,
            free,
            due: Default::default(),
            lingering: RefCell::default(),
            cut: RefCell::default(),
        }
    }

    /// A lane has a connection. To be told in the same turn in which the sequencer learns of it.
    ///
    /// # Errors
    /// The system's, when it cannot be watched.
    pub fn open(&self, id: LaneId, generation: u64, stream: Stream) -> io::Result<()> {
        let mut socket = stream.into_socket()?;
        let place = self.free.borrow().last().copied().unwrap_or(self.by_place.borrow().len());
        socket.register(&self.registry, Token(self.first_token + place))?;
        let no = || Cell::new(false);
        let handle = Rc::new(Handle {
            id,
            generation,
            place,
            socket: RefCell::new(Some(socket)),
            // With the handshake of TLS something may have been read already.
            readable: Cell::new(true),
            ends: no(),
            broken: RefCell::default(),
            due: no(),
            lingers: no(),
            written_at: Cell::new(0),
            large: Cell::new(0),
            cut: no(),
        });
        match self.free.borrow_mut().pop() {
            Some(free) => self.by_place.borrow_mut()[free] = Some(handle.clone()),
            None => self.by_place.borrow_mut().push(Some(handle.clone())),
        }
        self.visit_again(&handle);
        if let Some(earlier) = self.by_id.borrow_mut().insert(id, handle) {
            self.close(&earlier);
        }
        Ok(())
    }

    /// The socket of a lane has something. What was waiting for room is written, what is to be read waits for its visit.
    pub fn meet(&self, token: usize, event: &Event, core: &RefCell<Sequencer>) {
        let by_place = self.by_place.borrow();
        let Some(handle) = by_place.get(token - self.first_token).and_then(Option::as_ref) else { return };
        let ends = event.is_read_closed() || event.is_error();
        handle.ends.set(handle.ends.get() || ends);
        handle.readable.set(handle.readable.get() || ends || event.is_readable());
        if event.is_writable() {
            self.write(handle, &mut core.borrow_mut(), handle.lingers.get());
        }
        if handle.readable.get() {
            self.visit_again(handle);
        }
    }

    /// Whether some have something to do in the next turn.
    pub fn are_due(&self) -> bool {
        self.due.iter().any(|due| !due.borrow().is_empty()) || !self.cut.borrow().is_empty()
    }

    /// Writes what was kept back in the turn before. Before anything of this one is read: what is on the tapes then may leave.
    pub fn end_cuts(&self, core: &RefCell<Sequencer>) {
        for handle in self.cut.take() {
            if handle.cut.take() {
                self.write(&handle, &mut core.borrow_mut(), false);
            }
        }
    }

    fn visit_again(&self, handle: &Rc<Handle>) {
        if !handle.due.replace(true) {
            self.due[handle.id.side.index()].borrow_mut().push(handle.clone());
        }
    }

    /// The lane has something to write; or something that can wait, when it was written a moment ago.
    pub fn serve(&self, core: &mut Sequencer, id: LaneId, now: impl FnOnce() -> u64) {
        let by_id = self.by_id.borrow();
        let Some(handle) = by_id.get(&id) else { return };
        if core.primary() == id.side {
            handle.lingers.set(false);
            return self.write(handle, core, false);
        }
        let now = now();
        if core.lane_can_wait(id) && now.saturating_sub(handle.written_at.get()) < limits::LINGERING_US {
            if !handle.lingers.replace(true) {
                self.lingering.borrow_mut().push(handle.clone());
            }
            return;
        }
        handle.lingers.set(false);
        handle.written_at.set(now);
        self.write(handle, core, false);
    }

    /// Writes what has lingered long enough. To be asked behind everything that happens, and with the tick, when nothing does: no timer is as cheap.
    pub fn end_lingering(&self, core: &mut Sequencer, now: impl FnOnce() -> u64) {
        let mut lingering = self.lingering.borrow_mut();
        if lingering.is_empty() {
            return;
        }
        let now = now();
        lingering.retain(|handle| {
            if !handle.lingers.get() {
                return false;
            }
            let waits = now.saturating_sub(handle.written_at.get()) < limits::LINGERING_US;
            if !waits {
                handle.lingers.set(false);
                handle.written_at.set(now);
                self.write(handle, core, false);
            }
            waits
        });
    }

    /// Writes what was appended, or only what encryption holds back, as far as the socket takes it. An event tells when there is room again; that the
    /// connection is broken is told at its visit, because nothing that could come back here may be called now.
    fn write(&self, handle: &Rc<Handle>, core: &mut Sequencer, only_held_back: bool) {
        let mut socket = handle.socket.borrow_mut();
        let Some(socket) = socket.as_mut() else { return };
        let was_cut = handle.cut.get();
        let written = if only_held_back { socket.flush() } else { write(core, socket, handle) };
        if handle.cut.get() && !was_cut {
            self.cut.borrow_mut().push(handle.clone());
        }
        if let Err(error) = written {
            handle.broken.borrow_mut().get_or_insert_with(|| format!("the connection broke while writing: {error}"));
            self.visit_again(handle);
        }
    }

    /// Resets one connection.
    pub fn drop_lane(&self, id: LaneId) {
        if let Some(handle) = self.by_id.borrow_mut().remove(&id) {
            self.close(&handle);
        }
    }

    /// Resets all connections to a side.
    pub fn drop_side(&self, side: Endpoint) {
        self.by_id.borrow_mut().retain(|id, handle| {
            if id.side == side {
                self.close(handle);
            }
            id.side != side
        });
    }

    /// This one is lost; a later one of the same lane is not.
    fn drop_lost(&self, lost: &Rc<Handle>) {
        let mut by_id = self.by_id.borrow_mut();
        if by_id.get(&lost.id).is_some_and(|handle| Rc::ptr_eq(handle, lost)) {
            by_id.remove(&lost.id);
        }
        self.close(lost);
    }

    fn close(&self, handle: &Handle) {
        if let Some(socket) = handle.socket.take() {
            socket.reset();
            handle.broken.take();
            self.by_place.borrow_mut()[handle.place] = None;
            self.free.borrow_mut().push(handle.place);
        }
    }
}

/// Visits the lanes of a side that are due, each once, and carries out what follows.
pub(super) fn visit_due(shell: &Shell, side: Endpoint) {
    let list = &shell.lanes.due[side.index()];
    if list.borrow().is_empty() {
        return;
    }
    let mut due = list.take();
    for handle in due.drain(..) {
        handle.due.set(false);
        if let Err(error) = visit(shell, &handle) {
            shell.lanes.drop_lost(&handle);
            shell.lose_lane(handle.id, handle.generation, &error);
        }
    }
    // The room stays, for the next turn.
    due.append(&mut list.borrow_mut());
    list.replace(due);
    shell.flush();
}

/// Reads once and tells the sequencer; an error says why the connection is lost.
fn visit(shell: &Shell, handle: &Rc<Handle>) -> Result<(), String> {
    if let Some(error) = handle.broken.take() {
        return Err(error);
    }
    let mut buffer = shell.buffer.borrow_mut();
    let (read, emptied) = match handle.socket.borrow_mut().as_mut().filter(|_| handle.readable.get()) {
        Some(socket) => (socket.read(&mut buffer), socket.is_emptied_by_a_short_read()),
        None => return Ok(()),
    };
    match read {
        Ok(0) => return Err("the server closed the connection".into()),
        Ok(n) => {
            handle.readable.set(n == READ_BUFFER || handle.ends.get() || !emptied);
            let bytes = &buffer[..n];
            if !shell.core.borrow_mut().handle_lane_bytes(handle.id, handle.generation, bytes, shell.now()) {
                return Err("the server sent something that is no reply to what was asked".into());
            }
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => handle.readable.set(false),
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(format!("the connection broke while reading: {error}")),
    }
    if handle.readable.get() {
        shell.lanes.visit_again(handle);
    }
    Ok(())
}

/// Writes what was appended, or all but half of the last request, as far as the socket takes it.
fn write(core: &mut Sequencer, socket: &mut Socket, handle: &Handle) -> io::Result<()> {
    if core.generation(handle.id.side) != handle.generation {
        return Ok(());
    }
    let mut left: usize = core.lane_output(handle.id).map(<[u8]>::len).sum();
    let last = core.lane_last(handle.id);
    if handle.id.role == Role::Shared && CUT.contains(&last) && left >= last {
        let large = handle.large.replace(handle.large.get().wrapping_add(1));
        if large.is_multiple_of(CUT_ONE_OF) {
            handle.cut.set(true);
            left -= last / 2;
        }
    }
    while left > 0 {
        let (mut pieces, mut count, mut room) = ([IoSlice::new(&[]); PIECES], 0, left);
        for (place, piece) in pieces.iter_mut().zip(core.lane_output(handle.id)) {
            *place = IoSlice::new(&piece[..piece.len().min(room)]);
            room -= place.len();
            count += 1;
        }
        match socket.write(&pieces[..count]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                left -= n;
                core.handle_lane_written(handle.id, handle.generation, n);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    socket.flush()
}
