//! Random numbers that can be had again: splitmix64, from a seed that the test prints.

use std::time::Duration;

/// A sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A new seed each time, or the seed in `IMSUP_TEST_SEED`; printed, so that a failed run can be
    /// repeated.
    pub fn seed() -> u64 {
        let given = std::env::var("IMSUP_TEST_SEED").ok();
        let seed = match given {
            Some(text) => text.parse().expect("IMSUP_TEST_SEED is a number"),
            None => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        eprintln!("IMSUP_TEST_SEED={seed}");
        seed
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time from `least` to below `end`.
    pub fn between(&mut self, least: Duration, end: Duration) -> Duration {
        let span = (end - least).as_nanos() as u64;
        least + Duration::from_nanos(self.below(span.max(1)))
    }
}
