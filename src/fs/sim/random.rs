//! The one source of chance in a simulation: everything follows from the seed.

/// `SplitMix64` (Steele, Lea, Flood 2014): good enough to draw schedules from, and the same on every
/// platform for ever, so that a seed can be kept.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// All that is drawn follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let drawn = self.number() >> 1;
        usize::try_from(drawn % (limit.max(1) as u64)).unwrap_or(0)
    }

    /// True in `odds` of 256 cases.
    pub fn chance(&mut self, odds: u16) -> bool {
        self.number() & 0xff < u64::from(odds)
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// A source of its own, for a part whose draws must not depend on another's.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }
}
