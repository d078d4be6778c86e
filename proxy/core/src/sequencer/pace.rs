//! How work that nobody waits for gives way to clients: verify's reads and the backfill's. A reading that took long on the primary has made
//! clients wait too, so what is under way halves then and grows again slowly, while clients are there; alone on the primary, the work has
//! its full window. What the operator bounds by the second is handed out in shares.

/// What may be under way while clients use the primary.
#[derive(Debug)]
pub(super) struct Pace {
    least: u64,
    most: u64,
    /// Commands of clients that had been answered at the last tick.
    commands: u64,
    /// Clients used the primary between the last two ticks.
    pub busy: bool,
    /// Keys at a time, or per tick, as whoever paces himself counts them.
    pub keys: u64,
    /// The longest that a reading of ours waited on the primary since the last tick, microseconds.
    waited: u64,
}

impl Pace {
    /// A reading that took longer has made clients wait too.
    const LONG_US: u64 = 4_000;
    /// What it begins with, and by how much it grows in a tick.
    const FIRST: u64 = 64;
    const STEP: u64 = 8;

    /// Between so many keys and so many. `commands`: those of clients that have been answered.
    pub fn new(least: u64, most: u64, commands: u64) -> Pace {
        Pace { least, most, commands, busy: false, keys: Pace::FIRST.clamp(least, most), waited: 0 }
    }

    /// A reading of ours was answered.
    pub fn note_wait(&mut self, us: u64) {
        self.waited = self.waited.max(us);
    }

    /// Time passes; `commands` as in [`Pace::new`].
    pub fn tick(&mut self, commands: u64) {
        self.busy = commands != self.commands;
        self.commands = commands;
        let keys = if self.waited > Pace::LONG_US { self.keys / 2 } else { self.keys + Pace::STEP };
        self.keys = keys.clamp(self.least, self.most);
        self.waited = 0;
    }
}

/// A bound by the second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    /// 0: there is none.
    pub per_second: u64,
    /// What may be taken now; below zero when more was taken than was there.
    credit: i64,
    /// What is left of a share below one, in millionths.
    fraction: u64,
}

impl Rate {
    /// Nothing is in hand at the beginning.
    pub fn new(per_second: u64) -> Rate {
        Rate { per_second, ..Rate::default() }
    }

    /// What this many microseconds bring.
    pub fn share(&mut self, us: u64) -> u64 {
        let share = self.per_second.saturating_mul(us).saturating_add(self.fraction);
        self.fraction = share % 1_000_000;
        share / 1_000_000
    }

    /// This many microseconds have passed. What nobody takes is kept for a tenth of a second.
    pub fn refill(&mut self, us: u64) {
        let share = self.share(us).min(i64::MAX as u64) as i64;
        let most = (self.per_second / 10).clamp(1, i64::MAX as u64) as i64;
        self.credit = self.credit.saturating_add(share).min(most);
    }

    /// Whether something may be taken.
    pub fn is_open(&self) -> bool {
        self.per_second == 0 || self.credit > 0
    }

    /// Takes so much, also more than there is: the next ones wait for it.
    pub fn take(&mut self, count: u64) {
        if self.per_second > 0 {
            self.credit = self.credit.saturating_sub(count.min(i64::MAX as u64) as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_halves_and_calm_grows() {
        let mut pace = Pace::new(4, 80, 0);
        pace.note_wait(5_000);
        pace.note_wait(10);
        pace.tick(7);
        assert_eq!((pace.busy, pace.keys), (true, 32));
        pace.tick(7);
        assert_eq!((pace.busy, pace.keys), (false, 40));
        (0..20).for_each(|_| pace.tick(8));
        assert_eq!(pace.keys, 80);
        (0..20).for_each(|_| {
            pace.note_wait(1_000_000);
            pace.tick(8);
        });
        assert_eq!(pace.keys, 4);
    }

    #[test]
    fn a_rate_is_kept_over_seconds() {
        for per_second in [1, 7, 100, 12_345] {
            let mut rate = Rate::new(per_second);
            let mut taken = 0;
            for _ in 0..1_000 {
                rate.refill(10_000);
                while rate.is_open() {
                    rate.take(1);
                    taken += 1;
                }
            }
            assert_eq!(taken, per_second * 10);
        }
    }

    #[test]
    fn what_is_taken_beyond_the_rate_is_waited_for() {
        let mut rate = Rate::new(1_000);
        rate.refill(10_000);
        rate.take(110);
        (0..10).for_each(|_| rate.refill(10_000));
        assert!(!rate.is_open());
        rate.refill(10_000);
        assert!(rate.is_open());
        assert!(Rate::new(0).is_open(), "no bound");
    }
}
