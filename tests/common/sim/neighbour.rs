//! Another log on the same machine, served by the same threads.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, FlushPolicy, Log, LogOptions, MIN_SEGMENT_BYTES, Record, testing::sim::Machine,
};

const PATH: &str = "/neighbour";
/// So often one of the sends beside it reaches this log: each call that it makes is one more
/// moment to crash at.
const EVERY: usize = 4;
/// A few of them fill a segment.
const VALUE: &str = "a value that somebody else appends";
const LARGE: usize = 3 << 10;

#[derive(Clone, Debug, Default)]
pub struct Neighbour {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    log: Option<Log>,
    sends: usize,
    sent: Vec<String>,
}

fn options() -> LogOptions {
    // It is flushed between the calls of whoever is looked at.
    let often = FlushPolicy::every(Duration::from_millis(20));
    Log::options().segment_bytes(MIN_SEGMENT_BYTES).flush(often)
}

fn open(machine: &Machine) -> Log {
    duralog::testing::open(Arc::new(machine.clone()), &options(), PATH).unwrap()
}

impl Neighbour {
    // The state is not held while the machine is called, which may let another thread go on.

    pub fn open(&self, machine: &Machine) {
        if self.state.lock().unwrap().log.is_none() {
            let log = open(machine);
            self.state.lock().unwrap().log = Some(log);
        }
    }

    pub fn send(&self) {
        let Some((log, value)) = self.next() else {
            return;
        };
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        drop(producer.send(Record::new(value)).unwrap());
    }

    /// What is to be sent now, if anything is.
    fn next(&self) -> Option<(Log, String)> {
        let mut state = self.state.lock().unwrap();
        state.sends += 1;
        if !state.sends.is_multiple_of(EVERY) {
            return None;
        }
        let value = format!("{} {VALUE}{:.>LARGE$}", state.sends, "");
        let log = state.log.clone()?;
        state.sent.push(value.clone());
        Some((log, value))
    }

    pub fn leave(&self, machine: &Machine) {
        let log = self.state.lock().unwrap().log.take();
        let Some(log) = log else {
            return;
        };
        log.close().unwrap();
        let log = open(machine);
        let mut sent = self.state.lock().unwrap().sent.clone();
        let mut found = Vec::new();
        let mut reader = log.reader().build().unwrap();
        loop {
            let batch = reader.poll(Duration::ZERO).unwrap();
            if batch.is_empty() {
                break;
            }
            found.extend(
                batch
                    .iter()
                    .map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()),
            );
        }
        // Several threads send: they note what they send in another order than it arrives.
        found.sort();
        sent.sort();
        assert_eq!(found, sent, "what the other log has");
    }
}
