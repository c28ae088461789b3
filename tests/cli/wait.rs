//! Two processes on one log: what one of them appends wakes whoever waits in the other.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use duralog::{Batch, Log, ReadOnlyLog};

use crate::cli::{DEADLINE, Place};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(DEADLINE),
        }
    }
}

fn values(batch: &Batch<'_>) -> Vec<String> {
    let value = |record: duralog::RecordRef<'_>| record.value().unwrap().to_vec();
    let values = batch.iter().map(value);
    values
        .map(|value| String::from_utf8(value).unwrap())
        .collect()
}

/// A process that appends to the log, once the log is there.
fn producer(place: &Place) -> (crate::cli::Live, ReadOnlyLog) {
    let mut producer = place.start("produce", ["--acks", "written", "--batch", "1"]);
    producer.say("first\n");
    assert_eq!(producer.line(), "0");
    (producer, Log::open_read_only(place.log()).unwrap())
}

#[test]
fn what_another_process_appends_wakes_a_task_and_a_thread() {
    let place = Place::new();
    let (mut producer, look) = producer(&place);
    let mut tasks = look.consumer("tasks").build().unwrap();
    let mut threads = look.consumer("threads").build().unwrap();
    assert_eq!(values(&block_on(tasks.next()).unwrap()), ["first"]);
    assert_eq!(values(&threads.poll(DEADLINE).unwrap()), ["first"]);
    for line in ["second", "third"] {
        thread::scope(|scope| {
            let task = scope.spawn(|| values(&block_on(tasks.next()).unwrap()));
            let thread = scope.spawn(|| values(&threads.poll(DEADLINE).unwrap()));
            producer.say(&format!("{line}\n"));
            assert_eq!(task.join().unwrap(), [line]);
            assert_eq!(thread.join().unwrap(), [line]);
        });
    }
    tasks.commit().unwrap();
    assert_eq!(place.committed("tasks"), 3);
    assert!(producer.end().0.success());
}

#[test]
fn who_waits_for_another_process_can_be_stopped() {
    let place = Place::new();
    let (producer, look) = producer(&place);
    let mut consumer = look.consumer("billing").build().unwrap();
    assert_eq!(values(&consumer.try_poll().unwrap()), ["first"]);
    let handle = consumer.handle();
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let an_hour = Duration::from_secs(3600);
            assert!(consumer.poll(an_hour).unwrap().is_empty());
            assert!(block_on(consumer.next()).unwrap().is_empty());
        });
        handle.stop();
        waits.join().unwrap();
    });
    assert!(producer.end().0.success());
}
