//! How work that nobody waits for gives way to clients: verify's reads, and those of repairs and of the backfill. While clients are there it
//! has a share of each tick. A reading that took longer on the primary than the quickest ones has made clients wait too, be it behind the
//! readings of its own share, so the share halves then and grows again slowly; alone on the primary, the work has its full window. What the
//! operator bounds by the second is handed out in shares too.

/// What may be begun in a tick while clients use the primary.
#[derive(Debug)]
pub(super) struct Pace {
    least: u64,
    most: u64,
    /// Commands of clients that had been answered at the last tick, and ticks since one was.
    commands: u64,
    calm: u32,
    /// Clients use the primary.
    pub busy: bool,
    /// Keys per tick.
    pub keys: u64,
    /// The shortest and the longest that a reading of ours took on the primary since the last tick, microseconds.
    waited: Option<(u64, u64)>,
    /// What a reading takes when nothing stands before it, microseconds: the way to the server and back.
    quickest: u64,
}

impl Pace {
    /// A reading that took so much longer than the quickest has made clients wait too.
    const LONG_US: u64 = 300;
    /// What it begins with, and by how much it grows in a tick.
    const FIRST: u64 = 32;
    const STEP: u64 = 2;
    /// Clients that were silent for so many ticks of 10 ms have gone.
    const CALM_TICKS: u32 = 20;

    /// Between so many keys and so many. `commands`: those of clients that have been answered.
    pub fn new(least: u64, most: u64, commands: u64) -> Pace {
        let keys = Pace::FIRST.clamp(least, most);
        Pace { least, most, commands, calm: Pace::CALM_TICKS, busy: false, keys, waited: None, quickest: u64::MAX }
    }

    /// A reading of ours was answered.
    pub fn note_wait(&mut self, us: u64) {
        let (shortest, longest) = self.waited.unwrap_or((us, us));
        self.waited = Some((shortest.min(us), longest.max(us)));
    }

    /// Time passes; `commands` as in [`Pace::new`].
    pub fn tick(&mut self, commands: u64) {
        self.calm = if commands == self.commands { self.calm.saturating_add(1) } else { 0 };
        self.commands = commands;
        self.busy = self.calm < Pace::CALM_TICKS;
        let Some((shortest, longest)) = self.waited.take() else { return };
        // A way that has become longer is believed after some seconds.
        self.quickest = if shortest < self.quickest { shortest } else { self.quickest + (shortest - self.quickest) / 256 };
        let keys = if longest - self.quickest.min(longest) > Pace::LONG_US { self.keys / 2 } else { self.keys + Pace::STEP };
        self.keys = keys.clamp(self.least, self.most);
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
    fn a_long_wait_halves_and_quick_ones_grow() {
        let mut pace = Pace::new(4, 80, 0);
        pace.note_wait(5_000);
        pace.note_wait(10);
        pace.tick(7);
        assert_eq!((pace.busy, pace.keys), (true, 16));
        (0..40).for_each(|_| {
            pace.note_wait(300);
            pace.tick(8);
        });
        assert_eq!((pace.busy, pace.keys), (false, 80), "nobody has asked for anything since");
        (0..20).for_each(|_| {
            pace.note_wait(100);
            pace.note_wait(1_000_000);
            pace.tick(9);
        });
        assert_eq!((pace.busy, pace.keys), (true, 4));
        pace.tick(9);
        assert_eq!(pace.keys, 4, "nothing was learnt");
    }

    #[test]
    fn a_long_way_to_the_server_is_no_long_wait() {
        let mut pace = Pace::new(4, 80, 0);
        for commands in 1..100 {
            pace.note_wait(3_000);
            pace.tick(commands);
        }
        assert_eq!((pace.busy, pace.keys), (true, 80));
        // The way becomes longer: at first that looks like waiting.
        pace.note_wait(9_000);
        pace.tick(100);
        assert_eq!(pace.keys, 40);
        for commands in 101..2_000 {
            pace.note_wait(9_000);
            pace.tick(commands);
        }
        assert_eq!(pace.keys, 80);
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
