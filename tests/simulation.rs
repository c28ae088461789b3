//! smoke
use duralog::testing::sim::*;
use duralog::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn go(seed: u64, mode: WriteMode) -> (u64, u64, u64, Duration) {
    let machine = Machine::new(seed);
    let options = Log::options()
        .segment_bytes(MIN_SEGMENT_BYTES)
        .write_mode(mode)
        .flush(FlushPolicy::every(Duration::from_millis(5)));
    let began = Instant::now();
    machine.run(|| {
        let log = duralog::testing::open(Arc::new(machine.clone()), &options, "/data/log").unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        for n in 0..40 {
            drop(producer.send(Record::new(format!("{n:0500}"))).unwrap());
        }
        machine.sleep(Duration::from_millis(20));
        log.sync().unwrap();
        let mut reader = log.reader().build().unwrap();
        let mut seen = 0;
        while seen < 40 {
            seen += reader.poll(Duration::ZERO).unwrap().len();
        }
        drop(reader);
        drop(producer);
        log.close().unwrap();
    });
    assert_eq!(machine.problems(), Vec::<String>::new());
    (
        machine.process_crash().fingerprint(),
        machine.moments(),
        machine.switches(),
        began.elapsed(),
    )
}

#[test]
fn smoke() {
    for mode in [WriteMode::Mapped, WriteMode::Buffered] {
        for seed in 0..20 {
            let a = go(seed, mode);
            let b = go(seed, mode);
            println!("{a:?}");
            assert_eq!((a.0, a.1, a.2), (b.0, b.1, b.2));
        }
    }
}
