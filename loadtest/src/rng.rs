//! Seeds: a small generator whose sequence is ours for ever, so that a seed printed by a failing run replays
//! the same commands with any later build. (SplitMix64, Steele, Lea, Flood 2014.)

/// A seeded source of choices.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Two different seeds give unrelated sequences, neighbours too.
    pub fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// Zipf-distributed ranks in constant time per draw (Gray et al., "Quickly generating billion-record synthetic
/// databases", 1994; the same method as YCSB). Rank 0 is the most popular.
#[derive(Debug, Clone)]
pub struct Zipf {
    items: f64,
    theta: f64,
    alpha: f64,
    zeta_n: f64,
    eta: f64,
}

impl Zipf {
    /// `theta` in (0, 1); 0.99 is YCSB's default.
    pub fn new(items: u64, theta: f64) -> Zipf {
        let zeta = |count: u64| (1..=count).map(|i| 1.0 / (i as f64).powf(theta)).sum::<f64>();
        let zeta_n = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta(2) / zeta_n);
        Zipf { items: items as f64, theta, alpha: 1.0 / (1.0 - theta), zeta_n, eta }
    }

    /// One rank in `0..items`.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        let unit = rng.unit();
        let scaled = unit * self.zeta_n;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(self.theta) {
            return 1;
        }
        let rank = self.items * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_low_ranks_as_its_formula_says() {
        let (items, theta, draws) = (1000, 0.99, 200_000);
        let zipf = Zipf::new(items, theta);
        let mut rng = Rng::new(1);
        let first = (0..draws).filter(|_| zipf.draw(&mut rng) == 0).count() as f64 / f64::from(draws);
        assert!((first - 1.0 / zipf.zeta_n).abs() < 0.01, "{first}");
    }
}
