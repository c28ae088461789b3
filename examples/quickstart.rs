//! Writes, consumes, commits, reopens, and says what it did.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```

use std::{error::Error, time::Duration};

use duralog::{Acks, Log, Record};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("orders");

    let log = Log::open(&path)?;
    let producer = log.producer().acks(Acks::Durable).build()?;
    for number in 0..5 {
        let record = Record::new(format!("paid {number}")).key(format!("order-{number}"));
        let offset = producer.send(record)?.wait()?;
        println!("sent order-{number}: on the device, at offset {offset}");
    }

    let mut billing = log.consumer("billing").max_poll_records(3).build()?;
    let batch = billing.poll(Duration::from_secs(1))?;
    for record in &batch {
        let key = String::from_utf8_lossy(record.key().unwrap_or_default());
        println!("billing processes {key}");
    }
    billing.commit()?;
    println!("billing committed offset {} and stops", billing.committed());
    drop(billing);
    drop(producer);
    log.close()?;

    let log = Log::open(&path)?;
    println!(
        "reopened: clean: {}, end {}",
        log.recovery().clean,
        log.log_end_offset()
    );
    let mut billing = log.consumer("billing").build()?;
    for record in &billing.poll(Duration::from_secs(1))? {
        let key = String::from_utf8_lossy(record.key().unwrap_or_default());
        println!("billing goes on with {key}");
    }
    billing.commit()?;
    println!(
        "billing committed offset {}, {} to go",
        billing.committed(),
        billing.lag()?.records
    );
    drop(billing);
    log.close()?;
    Ok(())
}
