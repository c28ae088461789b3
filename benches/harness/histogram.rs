//! Many times in little memory.

use std::{fmt, time::Duration};

/// As many leading bits of a time count: shorter ones are told apart.
const BITS: usize = 7;
/// Buckets for each further bit: the first of the leading ones is always set.
const HALF: usize = 1 << (BITS - 1);
const BUCKETS: usize = HALF + (64 - BITS + 1) * HALF;

/// How often each time was met; times are nanoseconds, to within 2 %.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            max: 0,
        }
    }

    #[inline]
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("less than five centuries");
        self.buckets[bucket(nanos)] += 1;
        self.max = self.max.max(nanos);
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time that this many of 10,000 do not exceed, in nanoseconds.
    pub fn at(&self, per_myriad: u64) -> u64 {
        let rank = (self.count() * per_myriad).div_ceil(10_000);
        let mut seen = 0;
        let found = self.buckets.iter().position(|times| {
            seen += times;
            seen >= rank
        });
        found.map_or(self.max, |bucket| highest(bucket).min(self.max))
    }
}

impl fmt::Display for Histogram {
    /// Members of a JSON object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#""p50_nanos":{},"p99_nanos":{},"p999_nanos":{},"p9999_nanos":{},"max_nanos":{}"#,
            self.at(5_000),
            self.at(9_900),
            self.at(9_990),
            self.at(9_999),
            self.max,
        )
    }
}

/// The bucket of a time: from its leading bits, and how many are dropped behind them.
#[inline]
fn bucket(nanos: u64) -> usize {
    let bits = (u64::BITS - nanos.leading_zeros()) as usize;
    let dropped = bits.saturating_sub(BITS);
    let leading = usize::try_from(nanos >> dropped).expect("a few bits");
    dropped * HALF + leading
}

/// The longest time of a bucket.
fn highest(bucket: usize) -> u64 {
    let dropped = (bucket / HALF).saturating_sub(1);
    let leading = (bucket - dropped * HALF) as u64;
    (leading << dropped) + ((1 << dropped) - 1)
}
