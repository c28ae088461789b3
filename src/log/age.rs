//! How old things are. While a log is open its clock advances by the monotonic one, from what the
//! wall clock said when it was opened: whoever sets the wall clock makes nothing older or younger.

use std::time::Duration;

use crate::fs::Host;

/// The wall clock may stray so far before that is told: the two clocks are read one after the
/// other, and one of them moves in steps of up to 10 ms.
const STRAY: u64 = 1_000;

/// The clock by which a log's records age, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgeClock {
    wall: u64,
    at: Duration,
}

impl AgeClock {
    pub(super) fn start(host: &dyn Host) -> Self {
        Self {
            wall: host.wall_millis(),
            at: host.monotonic(),
        }
    }

    /// Its reading at this moment of the monotonic clock.
    pub(super) fn at(&self, now: Duration) -> u64 {
        let since = self.since(now).as_millis();
        self.wall
            .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// What the wall clock said when the log was opened.
    pub(super) fn opened(&self) -> u64 {
        self.wall
    }

    /// How long the log has been open.
    pub(super) fn since(&self, now: Duration) -> Duration {
        now.saturating_sub(self.at)
    }

    /// How far the wall clock was set ahead, and how far back, since the log was opened.
    pub(super) fn strayed(&self, host: &dyn Host) -> (Duration, Duration) {
        let (now, wall) = (self.at(host.monotonic()), host.wall_millis());
        let told = |millis: u64| Duration::from_millis(if millis < STRAY { 0 } else { millis });
        (
            told(wall.saturating_sub(now)),
            told(now.saturating_sub(wall)),
        )
    }

    /// The latest moment that is known of, with this stamp, if it is not from the future.
    pub(super) fn believed(&self, stamp: Option<u64>, before: u64) -> u64 {
        let believed = stamp.filter(|stamp| *stamp <= self.wall);
        believed.unwrap_or(0).max(before)
    }

    /// When something was done that was stamped with `stamp` before the log was opened: never
    /// later than it was opened. A stamp from the future says nothing; `latest` is another reading
    /// of the wall clock, from after it, which may.
    pub(super) fn past(&self, stamp: Option<u64>, latest: Option<u64>) -> u64 {
        let past = |millis: &u64| *millis <= self.wall;
        stamp
            .filter(past)
            .or(latest.filter(past))
            .unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: AgeClock = AgeClock {
        wall: 1_000_000,
        at: Duration::from_secs(5),
    };

    #[test]
    fn it_advances_by_the_monotonic_clock() {
        assert_eq!(CLOCK.at(Duration::from_secs(5)), 1_000_000);
        assert_eq!(CLOCK.at(Duration::from_secs(65)), 1_060_000);
    }

    #[test]
    fn what_was_before_the_opening_has_its_stamp_and_a_stamp_from_the_future_is_not_believed() {
        for (stamp, latest, past) in [
            (Some(900_000), Some(950_000), 900_000),
            (Some(2_000_000), Some(950_000), 950_000),
            (Some(2_000_000), Some(2_000_001), 1_000_000),
            (Some(2_000_000), None, 1_000_000),
            (None, Some(950_000), 950_000),
            (None, None, 1_000_000),
        ] {
            assert_eq!(CLOCK.past(stamp, latest), past, "{stamp:?}, {latest:?}");
        }
    }
}
