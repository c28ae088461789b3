//! The summary of a scan: what recovery and verification decide from.

use std::io;

use super::scan::{Bytes, Found, Hole, Scanner, Stop};
use crate::{format::segment::Footer, offset::Offset};

/// What a scan of a segment, from some position on, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Where the scan began.
    pub(crate) from: usize,
    pub(crate) holes: Vec<Hole>,
    pub(crate) stop: Stop,
    /// The footer, which stands at the stop then.
    pub(crate) footer: Option<Footer>,
    /// The highest offset below which all was durable, as some frame says.
    pub(crate) durable: Offset,
    pub(crate) frames: u64,
    /// How many of them have compressed records.
    pub(crate) packed: u64,
    /// The append time of the last frame, if there was one.
    pub(crate) last_time: Option<u64>,
}

impl Survey {
    /// Scans to the end.
    ///
    /// # Errors
    ///
    /// What reading the bytes returns.
    pub(crate) fn run(mut scanner: Scanner, bytes: &mut impl Bytes) -> io::Result<Self> {
        let from = scanner.position();
        let mut holes = Vec::new();
        let mut footer = None;
        let mut durable = Offset::ZERO;
        let mut frames = 0;
        let mut packed = 0;
        let mut last_time = None;
        let stop = loop {
            match scanner.step(bytes)? {
                Found::Frame(frame) => {
                    frames += 1;
                    packed += u64::from(frame.unpacked.is_some());
                    durable = durable.max(frame.durable);
                    last_time = last_time.max(Some(frame.append_time));
                }
                Found::Hole(hole) => holes.push(hole),
                Found::Footer(found, at) => {
                    footer = Some(found);
                    durable = durable.max(found.end);
                    break Stop {
                        position: at.position,
                        offset: scanner.expected(),
                        why: None,
                    };
                }
                Found::Stop(stop) => break stop,
            }
        };
        Ok(Self {
            from,
            holes,
            stop,
            footer,
            durable,
            frames,
            packed,
            last_time,
        })
    }
}
