//! Four producers of every kind, and whatever happens to them and to their machine, in any order:
//! the log agrees with a model of what each was told.

use std::{collections::BTreeMap, time::Duration};

use duralog::{
    Acks, ErrorKind, FlushPolicy, Log, Producer, Receipt, Record, WriteMode,
    testing::sim::{Choices, Disk, Machine},
};
use proptest::prelude::*;

use crate::{
    common::{run, see},
    sim::{
        oracle::Oracle,
        world::{World, options},
    },
};

/// A named one that numbers its records itself, a named one that lingers, a direct durable one, and
/// a durable one that lingers.
const IMPORTER: usize = 0;
const NAMED: usize = 1;
const DIRECT: usize = 2;
const LINGERS: usize = 3;
const PRODUCERS: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Flush(usize),
    /// The name is opened again.
    Fence(usize),
    Sync,
    FillDisk,
    FreeDisk,
    Sleep(u64),
    Reopen,
    Kill,
    PowerCut(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (0..PRODUCERS).prop_map(Op::Send),
        3 => (0..PRODUCERS).prop_map(Op::Flush),
        2 => (0..2_usize).prop_map(Op::Fence),
        2 => Just(Op::Sync),
        1 => Just(Op::FillDisk),
        2 => Just(Op::FreeDisk),
        2 => (1..20_u64).prop_map(Op::Sleep),
        1 => Just(Op::Reopen),
        2 => Just(Op::Kill),
        2 => any::<u64>().prop_map(Op::PowerCut),
    ]
}

/// What a producer was told of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It failed, or a crash took it: it never comes.
    Never,
    /// Nothing yet.
    Untold,
    Written,
    Durable,
}

/// All records, by producer and number.
#[derive(Debug, Default)]
struct Model {
    fates: BTreeMap<(usize, u64), Fate>,
    next: [u64; PRODUCERS],
}

impl Model {
    fn set(&mut self, record: (usize, u64), fate: Fate) {
        self.fates.insert(record, fate);
    }

    /// What was written is durable now.
    fn synced(&mut self) {
        for fate in self
            .fates
            .values_mut()
            .filter(|fate| **fate == Fate::Written)
        {
            *fate = Fate::Durable;
        }
    }

    /// Compares a log that was just opened with what it must have: all that is at least so sure.
    fn judge(&mut self, log: &Log, sure: Fate) {
        let mut last = [None; PRODUCERS];
        let mut found = BTreeMap::new();
        for (offset, value) in see(log).records {
            let (who, number) = value.split_once(' ').unwrap();
            let (who, number): (usize, u64) = (who.parse().unwrap(), number.parse().unwrap());
            assert!(
                last[who] < Some(number),
                "{value} at {offset} is not in order"
            );
            last[who] = Some(number);
            found.insert((who, number), offset);
        }
        for (record, fate) in &mut self.fates {
            let is_there = found.contains_key(record);
            assert!(
                *fate != Fate::Never || !is_there,
                "{record:?} was refused, and came"
            );
            assert!(
                *fate < sure || is_there,
                "{record:?} was {fate:?}, and is lost"
            );
            // What is served now survives; what is not there never comes.
            *fate = if is_there { Fate::Durable } else { Fate::Never };
        }
        for record in found.keys() {
            assert!(self.fates.contains_key(record), "{record:?} was never sent");
        }
        self.next[IMPORTER] = last[IMPORTER].map_or(0, |last| last + 1);
        let imported = found.keys().filter(|(who, _)| *who == IMPORTER).count() as u64;
        assert_eq!(imported, self.next[IMPORTER], "one is missing between");
    }
}

/// A life of the process: an open log, and its producers.
struct Life<'a> {
    world: &'a World,
    model: &'a mut Model,
    log: Log,
    producers: Vec<Producer>,
    /// Records that nothing is known of yet.
    untold: Vec<((usize, u64), Receipt)>,
}

fn build(log: &Log, who: usize) -> Producer {
    let linger = Duration::from_millis(5);
    let builder = log.producer();
    let builder = match who {
        IMPORTER => builder.name("importer").acks(Acks::Written),
        NAMED => builder.name("named").acks(Acks::Written).linger(linger),
        DIRECT => builder.acks(Acks::Durable),
        _ => builder.acks(Acks::Durable).linger(linger),
    };
    builder.build().unwrap()
}

impl<'a> Life<'a> {
    fn begin(world: &'a World, model: &'a mut Model, sure: Fate) -> Self {
        let log = world.open();
        model.judge(&log, sure);
        let producers: Vec<_> = (0..PRODUCERS).map(|who| build(&log, who)).collect();
        let last = producers[IMPORTER].last_sequence().unwrap();
        assert_eq!(last.map_or(0, |last| last + 1), model.next[IMPORTER]);
        Self {
            world,
            model,
            log,
            producers,
            untold: Vec::new(),
        }
    }

    fn send(&mut self, who: usize) {
        let number = self.model.next[who];
        let record = (who, number);
        let value = Record::new(format!("{who} {number}"));
        let producer = &self.producers[who];
        let fate = match who {
            IMPORTER => match producer.send_sequenced(number, value) {
                Ok(receipt) => {
                    assert!(!receipt.is_duplicate());
                    Fate::Written
                }
                // The sequence is still the next one.
                Err(_) => return,
            },
            DIRECT => match producer.send(value) {
                Ok(receipt) => {
                    receipt.wait().unwrap();
                    // One sync makes all durable that was written before.
                    self.model.synced();
                    Fate::Durable
                }
                Err(_) => Fate::Never,
            },
            _ => {
                let receipt = producer.send(value).unwrap();
                self.untold.push((record, receipt));
                Fate::Untold
            }
        };
        self.model.set(record, fate);
        self.model.next[who] += 1;
        if who == IMPORTER && number > 0 {
            let again = Record::new("a duplicate");
            let receipt = self.producers[who].send_sequenced(number - 1, again);
            assert!(receipt.unwrap().is_duplicate());
        }
    }

    /// Takes in what is known by now of the records that linger, or lingered.
    fn listen(&mut self) {
        for (record, receipt) in std::mem::take(&mut self.untold) {
            let fate = match receipt.wait_timeout(Duration::ZERO) {
                Ok(_) if record.0 == LINGERS => Fate::Durable,
                Ok(_) => Fate::Written,
                Err(error) => match error.into_receipt() {
                    Some(receipt) => {
                        self.untold.push((record, receipt));
                        continue;
                    }
                    None => Fate::Never,
                },
            };
            self.model.set(record, fate);
        }
    }

    fn flush(&mut self, who: usize) {
        // On a full disk it says what was not written; so do the receipts.
        drop(self.producers[who].flush());
        self.listen();
        let waiting = self.untold.iter().filter(|((of, _), _)| *of == who).count();
        assert_eq!(waiting, 0, "a flush leaves nothing undecided");
    }

    fn fence(&mut self, who: usize) {
        let new = build(&self.log, who);
        let old = std::mem::replace(&mut self.producers[who], new);
        let refused = old.send_sequenced(0, Record::new("fenced"));
        if let Err(error) = refused {
            let error = error.error();
            let of_old = matches!(
                error.kind(),
                ErrorKind::Fenced { .. } | ErrorKind::NotAcknowledged { .. }
            );
            assert!(of_old, "{error}");
        } else {
            panic!("it is fenced");
        }
        drop(old);
        self.listen();
    }

    fn sync(&mut self) {
        self.listen();
        self.log.sync().unwrap();
        self.model.synced();
    }

    /// Ends in order.
    fn close(mut self) {
        self.world.machine.set_free(None);
        self.producers.clear();
        self.listen();
        assert!(
            self.untold.is_empty(),
            "who drops a producer knows what came of all"
        );
        self.log.clone().close().unwrap();
        self.model.synced();
    }

    /// What is left if this is the end.
    fn crash(mut self, power: Option<u64>) -> Disk {
        self.listen();
        let machine = &self.world.machine;
        let disk = match power {
            Some(seed) => machine.power_cut(&mut Choices::of(seed)),
            None => machine.process_crash(),
        };
        // So that its threads end; nobody learns of it.
        machine.set_free(None);
        self.producers.clear();
        drop(self.log.clone().close());
        disk
    }
}

/// Runs as many of the operations as one life takes; the disk that it leaves, and how sure a record
/// has to be to be on it.
fn live(
    world: &World,
    model: &mut Model,
    sure: Fate,
    ops: &mut std::vec::IntoIter<Op>,
) -> (Disk, Fate) {
    run(world, |world| {
        let mut life = Life::begin(world, model, sure);
        for op in ops.by_ref() {
            match op {
                Op::Send(who) => life.send(who),
                Op::Flush(who) => life.flush(who),
                Op::Fence(who) => life.fence(who),
                Op::Sync => life.sync(),
                Op::FillDisk => world.machine.set_free(Some(0)),
                Op::FreeDisk => world.machine.set_free(None),
                Op::Sleep(millis) => world.machine.sleep(Duration::from_millis(millis)),
                Op::Reopen => break,
                Op::Kill => return (life.crash(None), Fate::Written),
                Op::PowerCut(seed) => return (life.crash(Some(seed)), Fate::Durable),
            }
        }
        life.close();
        (world.machine.process_crash(), Fate::Written)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn four_producers_agree_with_a_model(
        ops in prop::collection::vec(op(), 1..80),
        seed in any::<u64>(),
        mapped in any::<bool>(),
    ) {
        let mode = if mapped { WriteMode::Mapped } else { WriteMode::Buffered };
        let options = options(mode).flush(FlushPolicy::never());
        let mut model = Model::default();
        let (mut disk, mut sure) = (Machine::new(seed).process_crash(), Fate::Durable);
        let mut ops = ops.into_iter();
        for life in 0.. {
            let machine = Machine::boot(disk, seed.wrapping_add(life));
            let world = World::on(machine, options.clone(), Oracle::default());
            let is_over = ops.len() == 0;
            (disk, sure) = live(&world, &mut model, sure, &mut ops);
            if is_over {
                break;
            }
        }
    }
}
