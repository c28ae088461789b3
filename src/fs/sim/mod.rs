//! A simulated machine: files, mapped memory, threads, clocks and power, all of it deterministic.
//!
//! The library runs on it as on the real one. What is left to chance (which thread goes on, what a
//! power cut leaves, which sectors a failed sync wrote) follows from a seed.
//!
//! ```
//! use std::sync::Arc;
//!
//! use duralog::{
//!     Log, Record,
//!     testing::{
//!         self,
//!         sim::{Choices, Machine},
//!     },
//! };
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let machine = Machine::new(1);
//!     let host = Arc::new(machine.clone());
//!     let disk = machine.run(|| {
//!         let log = testing::open(host, &Log::options(), "/data/log")?;
//!         let producer = log.producer().build()?;
//!         producer.send(Record::new("durable"))?.wait()?;
//!         drop(producer.send(Record::new("only written"))?);
//!         Ok::<_, Box<dyn std::error::Error>>(machine.power_cut(&mut Choices::nothing()))
//!     })?;
//!
//!     // The power is back.
//!     let machine = Machine::boot(disk, 2);
//!     let host = Arc::new(machine.clone());
//!     machine.run(|| {
//!         let log = testing::open(host, &Log::options(), "/data/log")?;
//!         assert_eq!(log.recovery().lost_tail.as_ref().unwrap().start, 1);
//!         assert_eq!(machine.problems(), [""; 0]);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! What is simulated, and after what:
//!
//! * **Sectors.** A device writes 512 bytes as a whole or not at all. Since the last sync each
//!   sector may have got there in any of its versions, or half copied, whatever others did.
//! * **Lengths** get there in order; bytes that a cut took off do not come back behind it. (They may
//!   be zeros before it: in the page that is cut, the file system writes them.)
//! * **Directories.** Each change since the last sync got there or not, in order or not. A file
//!   that is renamed may be found under both names. What comes or goes while a directory is listed
//!   is listed or not, each for itself (`readdir(3p)`).
//! * **A failed sync** leaves some sectors written and the others marked as written: they read as
//!   new until the page cache forgets them, and the next sync returns success. (Measured on Linux
//!   with ext4, XFS and btrfs; "Can Applications Recover from fsync Failures?", ATC 2020.) Changes
//!   of a directory stay pending: a file system whose journal fails takes no more of them.
//! * **Mapped memory** is the same page cache: the versions before a copy, in the middle of it and
//!   behind it are versions of its sectors. A store that has no block, or is behind the end of the
//!   file, is noted as the `SIGBUS` that it would be.
//! * **Hardware**: bits that flip, a sector that is written over another one, reads that fail.
//! * **Threads** run one at a time and change places only at calls and locks. (So races between
//!   atomics alone are not seen.)

mod choices;
mod content;
mod fault;
mod file;
mod host;
mod image;
mod machine;
mod random;
mod schedule;
mod storage;

pub use choices::Choices;
pub use content::{PAGE, SECTOR};
pub use fault::{Call, Effect, Fault};
pub use image::Disk;
pub(crate) use machine::take_in_turn;
pub use machine::{Machine, Moment};
pub use random::Random;
