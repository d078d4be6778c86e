//! Keys that wait, in the order they came, for a ledger of millions whose keys are mostly healed by what clients write before their turn
//! comes. What is left of those is swept out in small pieces: cleaning a list of a hundred thousand at once holds every client up for
//! ten milliseconds.

use crate::endpoint::Db;
use std::collections::VecDeque;
use std::sync::Arc;

/// A place in the list: it stands for its key as long as the key's entry has the same ticket.
#[derive(Debug, Clone)]
pub struct Name {
    /// Of the key.
    pub db: Db,
    /// Never given twice, never 0.
    pub ticket: u64,
    /// The key.
    pub key: Arc<[u8]>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Names {
    /// In order; none is empty.
    pieces: VecDeque<VecDeque<Name>>,
    len: usize,
    /// The piece that is swept next.
    sweep: usize,
}

/// Names in a piece.
const PIECE: usize = 256;

impl Names {
    /// Names, those that stand for nothing any more among them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts it behind all others.
    pub fn push_back(&mut self, name: Name) {
        self.len += 1;
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push_back(name),
            _ => self.pieces.push_back(VecDeque::from([name])),
        }
    }

    /// The first.
    pub fn pop_front(&mut self) -> Option<Name> {
        let piece = self.pieces.front_mut()?;
        let name = piece.pop_front();
        if piece.is_empty() {
            self.pieces.pop_front();
            self.sweep = self.sweep.saturating_sub(1);
        }
        self.len -= usize::from(name.is_some());
        name
    }

    /// The last.
    pub fn pop_back(&mut self) -> Option<Name> {
        let piece = self.pieces.back_mut()?;
        let name = piece.pop_back();
        if piece.is_empty() {
            self.pieces.pop_back();
        }
        self.len -= usize::from(name.is_some());
        name
    }

    /// Puts all of another list behind.
    pub fn append(&mut self, other: &mut Names) {
        self.len += other.len;
        self.pieces.append(&mut other.pieces);
        other.clear();
    }

    /// None is left.
    pub fn clear(&mut self) {
        *self = Names::default();
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        self.pieces.iter().flatten()
    }

    /// In order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Name> {
        self.pieces.iter_mut().flatten()
    }

    /// Drops the names of the next piece that stand for nothing; some 20 microseconds.
    pub fn sweep(&mut self, stands: impl Fn(&Name) -> bool) {
        if self.sweep >= self.pieces.len() {
            self.sweep = 0;
        }
        let at = self.sweep;
        let Some(piece) = self.pieces.get_mut(at) else { return };
        let before = piece.len();
        piece.retain(stands);
        let left = piece.len();
        self.len -= before - left;
        let room = at.checked_sub(1).and_then(|at| self.pieces.get(at)).map_or(0, |last| PIECE.saturating_sub(last.len()));
        if left > room {
            self.sweep += 1;
            return;
        }
        // The next sweep finds the next piece in this place.
        let mut rest = self.pieces.remove(at).unwrap_or_default();
        if let Some(last) = at.checked_sub(1).and_then(|at| self.pieces.get_mut(at)) {
            last.append(&mut rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> Name {
        Name { db: 0, ticket: n, key: Arc::from(&n.to_be_bytes()[..]) }
    }

    fn tickets(names: &Names) -> Vec<u64> {
        names.iter().map(|name| name.ticket).collect()
    }

    #[test]
    fn both_ends_and_the_order() {
        let (mut names, mut other) = (Names::default(), Names::default());
        (0..1_000).for_each(|n| names.push_back(name(n)));
        (1_000..1_300).for_each(|n| other.push_back(name(n)));
        names.append(&mut other);
        assert_eq!((names.len(), other.len()), (1_300, 0));
        assert_eq!(names.pop_front().map(|name| name.ticket), Some(0));
        assert_eq!(names.pop_back().map(|name| name.ticket), Some(1_299));
        assert_eq!(tickets(&names), (1..1_299).collect::<Vec<_>>());
        let rest = std::iter::from_fn(|| names.pop_front()).count();
        assert_eq!((rest, names.len()), (1_298, 0));
        assert!(names.pop_back().is_none());
    }

    #[test]
    fn sweeps_drop_what_stands_for_nothing_and_keep_the_order() {
        let mut names = Names::default();
        (0..10_000).for_each(|n| names.push_back(name(n)));
        let stands = |name: &Name| name.ticket.is_multiple_of(9);
        let mut sweeps = 0;
        while names.len() > 10_000 / 9 + 1 {
            names.sweep(stands);
            sweeps += 1;
        }
        assert_eq!(sweeps, 10_000_usize.div_ceil(PIECE));
        assert_eq!(tickets(&names), (0..10_000).step_by(9).collect::<Vec<_>>());
        assert!(names.pieces.len() <= 10_000 / 9 / PIECE * 2 + 2, "{} pieces", names.pieces.len());
        assert!(names.pieces.iter().all(|piece| !piece.is_empty()));
        (0..100).for_each(|_| names.sweep(|_| false));
        assert_eq!((names.len(), names.pieces.len()), (0, 0));
        names.sweep(|_| true);
    }
}
