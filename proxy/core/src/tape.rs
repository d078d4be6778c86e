//! Bytes that were appended to a lane and are kept until they are answered.
//!
//! One copy serves twice: the socket is written from it, and when the reply comes the request is still there to derive its
//! effect from. Frames never straddle chunks, so each can be read as one slice; chunks are freed in order, so a small frame
//! never keeps a large buffer alive for longer than it is in flight.

use std::collections::VecDeque;

/// Bytes of an ordinary chunk; a larger frame gets a chunk of its own.
const CHUNK: usize = 64 * 1024;

/// Chunks that are kept to be filled again: what fifty requests of 16 KiB take. Given back to the allocator, their pages were to be had from the
/// system anew, one by one.
const SPARES: usize = 16;

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Place of its first byte.
    base: u64,
    /// Length, kept while the bytes are lent out.
    len: usize,
    lent: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tape {
    chunks: VecDeque<Chunk>,
    written: u64,
    sent: u64,
    released: u64,
    spares: Vec<Vec<u8>>,
    /// Spares that were not needed since the tape was last empty.
    unused: usize,
}

/// The frame at the tape's front, lent out while its effect is derived.
#[derive(Debug)]
pub struct Lent {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Lent {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(self.from..self.to).unwrap_or(&[])
    }
}

impl Tape {
    /// Appends one frame, given in parts.
    pub fn append(&mut self, parts: &[&[u8]]) -> u32 {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if !self.chunks.back().is_some_and(|chunk| !chunk.lent && chunk.bytes.capacity() - chunk.bytes.len() >= len) {
            let mut bytes = if len <= CHUNK { self.spares.pop().unwrap_or_default() } else { Vec::new() };
            self.unused = self.unused.min(self.spares.len());
            bytes.reserve_exact(len.max(CHUNK));
            self.chunks.push_back(Chunk { bytes, base: self.written, len: 0, lent: false });
        }
        if let Some(chunk) = self.chunks.back_mut() {
            parts.iter().for_each(|part| chunk.bytes.extend_from_slice(part));
            chunk.len = chunk.bytes.len();
        }
        self.written += len as u64;
        len as u32
    }

    /// Bytes that wait to be written to the socket, piece by piece.
    pub fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        let at = self.chunks.partition_point(|chunk| chunk.base + chunk.len as u64 <= self.sent);
        let from = |chunk: &Chunk| self.sent.saturating_sub(chunk.base) as usize;
        self.chunks.range(at..).map(move |chunk| chunk.bytes.get(from(chunk)..).unwrap_or(&[])).take_while(|piece| !piece.is_empty())
    }

    /// The socket took `n` bytes.
    pub fn mark_sent(&mut self, n: usize) {
        self.sent += n as u64;
        debug_assert!(self.sent <= self.written);
        self.trim();
    }

    /// Bytes appended and not yet released.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        (self.written - self.released) as usize
    }

    /// Whether everything was written to the socket.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent == self.written
    }

    /// Bytes appended so far; the place where the next frame will begin.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.written
    }

    /// Bytes the socket took so far.
    #[must_use]
    pub fn sent_to(&self) -> u64 {
        self.sent
    }

    /// Bytes released so far: where the oldest frame begins.
    #[must_use]
    pub fn front_at(&self) -> u64 {
        self.released
    }

    /// The frame of `len` bytes at place `at`.
    #[must_use]
    pub fn frame(&self, at: u64, len: u32) -> &[u8] {
        let chunk = self.chunks.partition_point(|chunk| chunk.base + chunk.len as u64 <= at);
        let Some(chunk) = self.chunks.get(chunk) else { return &[] };
        let from = (at.saturating_sub(chunk.base)) as usize;
        chunk.bytes.get(from..from + len as usize).unwrap_or(&[])
    }

    /// Lends the front frame of `len` bytes; [`Tape::give_back`] returns it. Appending meanwhile is fine.
    pub fn lend_front(&mut self, len: u32) -> Lent {
        let Some(chunk) = self.chunks.front_mut() else { return Lent { bytes: Vec::new(), from: 0, to: 0 } };
        let from = (self.released - chunk.base) as usize;
        chunk.lent = true;
        Lent { bytes: std::mem::take(&mut chunk.bytes), from, to: from + len as usize }
    }

    /// Takes the bytes back.
    pub fn give_back(&mut self, lent: Lent) {
        if let Some(chunk) = self.chunks.front_mut().filter(|chunk| chunk.lent) {
            chunk.bytes = lent.bytes;
            chunk.lent = false;
        }
    }

    /// The front frame of `len` bytes is answered.
    pub fn release(&mut self, len: u32) {
        self.released += u64::from(len);
        self.trim();
    }

    fn trim(&mut self) {
        let done = self.released.min(self.sent);
        while let Some(chunk) = self.chunks.front() {
            if chunk.lent || chunk.base + chunk.len as u64 > done {
                return;
            }
            let only = self.chunks.len() == 1;
            let Some(mut chunk) = self.chunks.pop_front() else { return };
            if chunk.bytes.capacity() > CHUNK {
                continue;
            }
            chunk.bytes.clear();
            if only {
                self.chunks.push_back(Chunk { bytes: chunk.bytes, base: self.written, len: 0, lent: false });
                self.spares.truncate(self.spares.len() - self.unused);
                self.unused = self.spares.len();
                return;
            }
            if self.spares.len() < SPARES {
                self.spares.push(chunk.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_sent_once_and_kept_until_released() {
        let mut tape = Tape::default();
        let mut sent = Vec::new();
        let mut wanted = Vec::new();
        let mut lens = VecDeque::new();
        for round in 0u32..5000 {
            let frame = vec![(round % 251) as u8; 1 + (round as usize * 37) % 70_000 % (1 + round as usize % 300 * 300)];
            lens.push_back((tape.append(&[&frame]), frame.clone()));
            wanted.extend_from_slice(&frame);
            // What a socket takes may end within any piece.
            while round % 3 == 0 && !tape.is_sent() {
                let pieces: Vec<u8> = tape.unsent().take(1 + round as usize % 4).flatten().copied().collect();
                let n = pieces.len().div_ceil(2);
                sent.extend_from_slice(&pieces[..n]);
                tape.mark_sent(n);
            }
            while tape.is_sent() && lens.len() > 20 {
                let (len, frame) = lens.pop_front().unwrap();
                let lent = tape.lend_front(len);
                assert_eq!(lent.frame(), &frame[..]);
                lens.push_back((tape.append(&[b"x"]), b"x".to_vec()));
                wanted.push(b'x');
                tape.give_back(lent);
                tape.release(len);
                if lens.len() <= 21 {
                    break;
                }
            }
            let (len, frame) = &lens[0];
            assert_eq!(tape.frame(tape.front_at(), *len), &frame[..]);
        }
        sent.extend(tape.unsent().flatten());
        assert!(sent == wanted);
    }
}
