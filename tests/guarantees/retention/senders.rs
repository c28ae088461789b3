//! Producers that gather batches, or try again, on a log that is full: each record is told of.

use std::time::Duration;

use duralog::{Acks, ErrorKind, GroupRetention, Log, Receipt, Record, Retention, WhenFull};

use super::common::{LEN, PER_SEGMENT, SEGMENT, group_at, settle, world};
use crate::{
    common::{Case, in_both_modes, run, see, written},
    sim::world::{World, value},
};

const SECOND: Duration = Duration::from_secs(1);
/// So many records a full log has at most, in batches, which take less room than one by one.
const FULL: u64 = 4 * (PER_SEGMENT + 1);
const LINGER: Duration = Duration::from_millis(20);

const POLICIES: [WhenFull; 4] = [
    WhenFull::Reject,
    WhenFull::Block(SECOND),
    WhenFull::DropNewest,
    WhenFull::DropOldest,
];

fn full_world(case: Case, policy: WhenFull) -> World {
    world(case, |options| {
        options
            .retention(Retention::new().max_bytes(4 * SEGMENT))
            .group_retention(GroupRetention::KeepUnconsumed)
            .when_full(policy)
    })
}

/// What became of each send, in order.
type Told = Vec<(String, duralog::Result<u64>)>;

fn wait_for_all(sends: Vec<(String, Receipt)>) -> Told {
    let told = sends.into_iter().map(|(value, receipt)| {
        let result = receipt.wait().map(duralog::Offset::get);
        (value, result)
    });
    told.collect()
}

/// The log has what it said it has, where it said, and nothing that it said it has not.
fn assert_told_the_truth(log: &Log, told: &Told) {
    let start = log.log_start_offset().get();
    let seen = see(log);
    let there: Vec<_> = told
        .iter()
        .filter_map(|(value, result)| Some((*result.as_ref().ok()?, value.clone())))
        .filter(|(at, _)| *at >= start)
        .collect();
    assert_eq!(seen.records, there);
    let written = told.iter().filter(|(_, result)| result.is_ok()).count();
    assert_eq!(log.log_end_offset().get(), written as u64);
}

fn assert_refused_as(policy: WhenFull, error: &duralog::Error) {
    let is_right = match (policy, error.kind()) {
        (WhenFull::DropNewest, ErrorKind::Dropped { source })
        | (WhenFull::Reject | WhenFull::Block(_), ErrorKind::DeliveryTimeout { source, .. }) => {
            source.is_full()
        }
        _ => false,
    };
    assert!(is_right, "{policy:?}: {error:?}");
}

#[test]
fn of_a_producer_that_lingers_each_receipt_tells_whether_the_record_is_in_the_log() {
    for policy in POLICIES {
        in_both_modes(0..3, |case| {
            run(&full_world(case, policy), |world| {
                let log = world.open();
                let mut slow = group_at(&log, "slow", 0);
                let producer = log.producer().acks(Acks::Written).linger(LINGER);
                let producer = producer.delivery_timeout(3 * SECOND).build().unwrap();
                let send = |number| {
                    let value = value("linger", number, LEN);
                    let receipt = producer.send(Record::new(value.as_str())).unwrap();
                    (value, receipt)
                };
                let mut told = wait_for_all((0..40).map(send).collect());
                assert_told_the_truth(&log, &told);
                let failed: Vec<_> = told.iter().filter_map(|t| t.1.as_ref().err()).collect();
                match policy {
                    WhenFull::DropOldest => assert_eq!(failed.len(), 0),
                    _ => assert!(failed.len() as u64 >= 40 - FULL),
                }
                for error in &failed {
                    assert_refused_as(policy, error);
                }
                let (failed, stats) = (failed.len() as u64, log.stats());
                let newest = u64::from(policy == WhenFull::DropNewest) * failed;
                assert_eq!(stats.dropped_newest, newest);
                assert_eq!(stats.lost_to_drop_oldest, log.log_start_offset().get());
                slow.commit_offset(log.log_end_offset()).unwrap();
                settle(world);
                told.extend(wait_for_all((40..46).map(send).collect()));
                assert!(told[40..].iter().all(|(_, result)| result.is_ok()));
                settle(world);
                assert_told_the_truth(&log, &told);
                drop(producer);
            });
        });
    }
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all_and_the_receipt_says_which() {
    for policy in POLICIES {
        in_both_modes(0..2, |case| {
            run(&full_world(case, policy), |world| {
                let log = world.open();
                drop(group_at(&log, "slow", 0));
                let producer = written(&log);
                let mut told = Told::new();
                let mut refused = 0;
                for batch in 0..10 {
                    let values: Vec<_> = (0..4)
                        .map(|number| value(&format!("batch{batch}"), number, LEN))
                        .collect();
                    let records: Vec<_> = values.iter().map(|v| Record::new(v.as_str())).collect();
                    let sent = producer.send_batch(&records[..]);
                    let result = match sent {
                        Ok(receipt) => receipt.wait(),
                        Err(failed) => {
                            assert!(failed.error().is_full());
                            assert_eq!(failed.record().len(), 4);
                            Err(failed.into())
                        }
                    };
                    refused += u64::from(result.is_err());
                    for (at, value) in (0..).zip(values) {
                        let result = result.clone().map(|first| first.get() + at);
                        told.push((value, result));
                    }
                }
                assert_told_the_truth(&log, &told);
                let stats = log.stats();
                let counted = match policy {
                    WhenFull::DropNewest => stats.dropped_newest / 4,
                    _ => stats.rejected_sends,
                };
                assert_eq!(counted, refused);
                assert_eq!(refused == 0, policy == WhenFull::DropOldest);
            });
        });
    }
}

#[test]
fn a_producer_that_tries_again_gets_through_once_the_group_has_committed() {
    for policy in [WhenFull::Reject, WhenFull::Block(SECOND)] {
        in_both_modes(0..3, |case| {
            run(&full_world(case, policy), |world| {
                let log = world.open();
                let mut slow = group_at(&log, "slow", 0);
                let direct = log.producer().acks(Acks::Written);
                let direct = direct.delivery_timeout(60 * SECOND).build().unwrap();
                let lingering = log.producer().acks(Acks::Written).linger(LINGER);
                let lingering = lingering.delivery_timeout(60 * SECOND).build().unwrap();
                let committer = world.spawn("committer", move |world| {
                    for end in [6_u64, 12, 18, 24, 30] {
                        world.machine.sleep(5 * SECOND);
                        slow.commit_offset(end.into()).unwrap();
                    }
                });
                let gathered: Vec<_> = (0..20)
                    .map(|number| {
                        let value = value("linger", number, LEN);
                        let receipt = lingering.send(Record::new(value.as_str())).unwrap();
                        (value, receipt)
                    })
                    .collect();
                let sent: Vec<_> = (0..20)
                    .map(|number| {
                        let value = value("direct", number, LEN);
                        let receipt = direct.send(Record::new(value.as_str())).unwrap();
                        (value, receipt)
                    })
                    .collect();
                let mut told = wait_for_all(gathered);
                told.extend(wait_for_all(sent));
                told.sort_by_key(|(_, result)| *result.as_ref().unwrap());
                committer.join();
                assert_told_the_truth(&log, &told);
                drop(lingering);
            });
        });
    }
}

#[test]
fn a_buffered_producer_is_closed_in_its_time_although_the_log_blocks_for_longer() {
    in_both_modes(0..3, |case| {
        run(&full_world(case, WhenFull::Block(3600 * SECOND)), |world| {
            let log = world.open();
            drop(group_at(&log, "slow", 0));
            let producer = log.producer().acks(Acks::Written).linger(LINGER);
            let producer = producer.build().unwrap();
            let sends: Vec<_> = (0..40)
                .map(|number| {
                    let value = value("linger", number, LEN);
                    let receipt = producer.send(Record::new(value.as_str())).unwrap();
                    (value, receipt)
                })
                .collect();
            settle(world);
            let before = world.now();
            producer.close(5 * SECOND).unwrap_err();
            let waited = world.now().saturating_sub(before);
            assert!(waited < 7 * SECOND, "{waited:?}");
            assert_told_the_truth(&log, &wait_for_all(sends));
        });
    });
}

#[test]
fn a_buffered_producer_gives_up_at_its_delivery_timeout_although_the_log_blocks_for_longer() {
    in_both_modes(0..3, |case| {
        run(&full_world(case, WhenFull::Block(3600 * SECOND)), |world| {
            let log = world.open();
            drop(group_at(&log, "slow", 0));
            let producer = log.producer().acks(Acks::Written).linger(LINGER);
            let producer = producer.delivery_timeout(10 * SECOND).build().unwrap();
            let sends: Vec<_> = (0..40)
                .map(|number| {
                    let value = value("linger", number, LEN);
                    let receipt = producer.send(Record::new(value.as_str())).unwrap();
                    (value, receipt)
                })
                .collect();
            let told = wait_for_all(sends);
            assert!(world.now() < 60 * SECOND, "{:?}", world.now());
            assert!(told.last().unwrap().1.is_err());
            assert_told_the_truth(&log, &told);
            drop(producer);
        });
    });
}
