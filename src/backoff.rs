//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// How long to wait between tries: twice as long each time, up to a limit, and up to a fifth more
/// or less, so that not all who wait for the same disk try at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

/// The waits of one thing that is tried again.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: Waits,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(policy: Waits) -> Self {
        let next = policy.first;
        Self { policy, next }
    }

    /// The next wait. `random` is any number.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let base = self.next;
        self.next = base.saturating_mul(2).min(self.policy.max);
        // Between 80 and 120.
        let percent = 80 + u32::try_from(random % 41).unwrap_or(0);
        let jittered = base.saturating_mul(percent) / 100;
        jittered.min(self.policy.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_stay_within_a_fifth() {
        let policy = Waits {
            first: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        let mut backoff = Backoff::new(policy);
        for (random, base) in [
            (0, 100),
            (7, 200),
            (40, 400),
            (99, 800),
            (40, 1000),
            (0, 1000),
        ] {
            let wait = backoff.next(random);
            let base = Duration::from_millis(base);
            assert!(wait >= base * 4 / 5 && wait <= base * 6 / 5, "{wait:?}");
            assert!(wait <= policy.max);
        }
    }
}
