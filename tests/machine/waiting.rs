//! What the seam promises of clocks and threads, on both machines.

use std::{
    sync::{Arc, Mutex},
    task::Waker,
    time::Duration,
};

use duralog::testing::Joiner;

use crate::conformance::on_both;

/// A short wait.
const MOMENT: Duration = Duration::from_millis(2);

#[test]
fn the_clocks_go_forward() {
    on_both(|host, dir| {
        let year_2020 = 1_577_836_800_000;
        assert!(host.wall_millis() > year_2020);
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            host.read_dir(dir).unwrap();
            let now = host.monotonic();
            assert!(now >= last);
            last = now;
        }
        assert!(last > Duration::ZERO);
    });
}

#[test]
fn a_park_ends_at_its_deadline_and_not_before() {
    on_both(|host, _| {
        let parker = host.parker();
        for _ in 0..3 {
            let until = host.monotonic() + MOMENT;
            parker.park(Some(until));
            assert!(host.monotonic() >= until);
        }
        parker.park(Some(Duration::ZERO));
        parker.park(Some(host.monotonic()));
    });
}

#[test]
fn a_wake_up_counts_before_the_park_and_for_one() {
    on_both(|host, _| {
        let parker = host.parker();
        let waker = parker.waker();
        waker.wake_by_ref();
        parker.park(None);
        let other = waker.clone();
        waker.wake_by_ref();
        other.wake();
        parker.park(Some(host.monotonic() + Duration::from_secs(3600)));
        let until = host.monotonic() + MOMENT;
        parker.park(Some(until));
        assert!(host.monotonic() >= until, "one wake-up counted twice");
        waker.wake_by_ref();
        parker.park(Some(Duration::ZERO));
        let until = host.monotonic() + MOMENT;
        parker.park(Some(until));
        assert!(host.monotonic() >= until, "a park that was over kept it");
    });
}

#[test]
fn a_wake_up_is_for_its_own_parker() {
    on_both(|host, _| {
        let (mine, other) = (host.parker(), host.parker());
        other.waker().wake();
        let until = host.monotonic() + MOMENT;
        mine.park(Some(until));
        assert!(host.monotonic() >= until);
        other.park(None);
    });
}

#[test]
fn threads_wake_each_other_and_a_join_waits_for_the_end() {
    on_both(|host, _| {
        let log: Arc<Mutex<Vec<&str>>> = Arc::default();
        let here = host.parker();
        let there: Arc<Mutex<Option<Waker>>> = Arc::default();
        let thread = {
            let (host, log, there) = (Arc::clone(host), Arc::clone(&log), Arc::clone(&there));
            let wake_main = here.waker();
            move || {
                let parker = host.parker();
                *there.lock().unwrap() = Some(parker.waker());
                wake_main.wake();
                parker.park(None);
                log.lock().unwrap().push("woken");
                parker.park(Some(host.monotonic() + MOMENT));
                log.lock().unwrap().push("over");
            }
        };
        let joiner = host.spawn("other", Box::new(thread)).unwrap();
        here.park(None);
        log.lock().unwrap().push("waking");
        let waker = there.lock().unwrap().take();
        waker.unwrap().wake();
        joiner.join();
        log.lock().unwrap().push("joined");
        let log = log.lock().unwrap();
        assert_eq!(*log, ["waking", "woken", "over", "joined"]);
    });
}

#[test]
fn a_join_after_the_end_or_in_the_thread_itself_returns() {
    on_both(|host, _| {
        let slot: Arc<Mutex<Option<Box<dyn Joiner>>>> = Arc::default();
        let done = host.parker();
        let run = {
            let (host, slot, wake) = (Arc::clone(host), Arc::clone(&slot), done.waker());
            move || {
                let parker = host.parker();
                loop {
                    let own = slot.lock().unwrap().take();
                    if let Some(own) = own {
                        break own.join();
                    }
                    parker.park(Some(host.monotonic() + MOMENT));
                }
                wake.wake();
            }
        };
        let joiner = host.spawn("itself", Box::new(run)).unwrap();
        *slot.lock().unwrap() = Some(joiner);
        done.park(None);

        let wake = done.waker();
        let joiner = host.spawn("short", Box::new(move || wake.wake())).unwrap();
        done.park(None);
        joiner.join();
    });
}
