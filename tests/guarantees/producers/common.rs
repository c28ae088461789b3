//! Buffered producers, and books of what their callbacks were told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{Acks, Delivery, ErrorKind, Log, Producer, ProducerBuilder, Receipt, Record};

use crate::sim::world::value;

pub const LINGER: Duration = Duration::from_millis(20);
pub const HOUR: Duration = Duration::from_secs(3600);

/// What became of a record: its offset, or its error.
pub type Told = (String, Result<u64, String>);

/// What the callback was told, in order.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Vec<Told>>>);

impl Book {
    pub fn note(&self, delivery: &Delivery<'_>) {
        let value = String::from_utf8_lossy(delivery.record().value().unwrap()).into_owned();
        let result = delivery.result();
        assert_eq!(delivery.record().offset(), result.ok());
        let result = result.map(duralog::Offset::get);
        let told = result.map_err(|error| format!("{:?}", error.kind()));
        self.0.lock().unwrap().push((value, told));
    }

    pub fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    /// The records that were acknowledged.
    pub fn written(&self) -> Vec<(u64, String)> {
        let told = self.told().into_iter();
        told.filter_map(|(value, result)| Some((result.ok()?, value)))
            .collect()
    }

    /// The values that were told of.
    pub fn values(&self) -> Vec<String> {
        self.told().into_iter().map(|(value, _)| value).collect()
    }
}

/// A producer that lingers, and whose sends are only written.
pub fn lingering(log: &Log) -> ProducerBuilder {
    log.producer().acks(Acks::Written).linger(LINGER)
}

/// The same, with a book.
pub fn noting(log: &Log) -> (ProducerBuilder, Book) {
    let book = Book::default();
    let noted = book.clone();
    let builder = lingering(log).on_completion(move |delivery| noted.note(delivery));
    (builder, book)
}

/// Sends so many records of this size; returns what was sent.
pub fn send_values(
    producer: &Producer,
    writer: &str,
    numbers: std::ops::Range<usize>,
    len: usize,
) -> (Vec<String>, Vec<Receipt>) {
    let sent = numbers.map(|number| {
        let value = value(writer, number, len);
        let receipt = producer.send(Record::new(value.as_str())).unwrap();
        (value, receipt)
    });
    sent.unzip()
}

/// How many records the error says were not acknowledged.
pub fn not_acknowledged(error: &duralog::Error) -> u64 {
    match error.kind() {
        ErrorKind::NotAcknowledged { records, .. } => *records,
        other => panic!("{other:?}"),
    }
}

/// Values in the order of the log, from its first offset on.
pub fn in_order(values: &[String]) -> Vec<(u64, String)> {
    (0..).zip(values.iter().cloned()).collect()
}
