//! Reading the frames of one segment.

use super::{Cursor, Limits, Pause, Place, Refusal, Span, Unpacked};
use crate::{
    error::{DecodeError, Error, Result},
    format::wire::widen,
    offset::Offset,
    segment::{Buffer, FrameAt},
};

impl Cursor {
    pub(super) fn read_frames(&mut self, limits: Limits) -> Result<Pause> {
        let Some(place) = &mut self.place else {
            return Ok(Pause::Segment);
        };
        let published = place.view.published();
        let segment_end = place.spot.next.map_or(Offset::MAX, |(base, _)| base);
        let mut records = 0;
        let mut bytes = 0;
        while place.at < published {
            let full = records >= limits.records || bytes >= limits.bytes;
            // Reading on must not replace the bytes of frames that are to be delivered.
            if full || (bytes > 0 && place.view.must_refill(place.at, &self.buffer)) {
                return Ok(Pause::Enough);
            }
            if let Some(span) = place.plain(self.position..segment_end.min(limits.end)) {
                self.position = place.expected;
                self.spans.push(span);
                records += 1;
                bytes += span.len;
                continue;
            }
            let frame = match place
                .frame(&mut self.buffer)
                .map_err(|error| place.io(error))?
            {
                Ok(frame) => frame,
                // What was read before it is delivered first.
                Err(DecodeError::Version { .. }) if bytes > 0 => return Ok(Pause::Enough),
                Err(error @ DecodeError::Version { .. }) => {
                    return Err(Error::decode(&place.spot.path, place.at as u64, error));
                }
                Err(_) => return Ok(Pause::Unreadable),
            };
            if frame.first >= segment_end || frame.count == 0 {
                // The footer; or frames that were cut, in a segment that has not been yet.
                return Ok(Pause::Segment);
            }
            if frame.first >= limits.end {
                return Ok(Pause::Enough);
            }
            if place.reaches(&frame, self.position, &self.buffer) {
                let (unpacked, len) = if frame.unpacked.is_some() && limits.unpack {
                    let room = (bytes > 0).then(|| limits.bytes.saturating_sub(bytes));
                    match unpack(place, &frame, &self.buffer, &mut self.unpacked, room)? {
                        Ok((number, len)) => (Some(number), len),
                        Err(pause) => return Ok(pause),
                    }
                } else {
                    (None, frame.len)
                };
                self.spans.push(Span::of(&frame, unpacked));
                records += widen(frame.count);
                bytes += len;
            }
            // Also past those of its last records that were removed.
            self.position = self.position.max(frame.end());
            place.pass(&frame);
        }
        Ok(if place.spot.next.is_some() {
            Pause::Segment
        } else {
            Pause::Enough
        })
    }
}

/// Decompresses a frame: its number, and the bytes of its records; or why reading stops in front of
/// it. `room` is how many bytes are left, if something was read before it, which is delivered
/// first.
fn unpack(
    place: &Place,
    frame: &FrameAt,
    buffer: &Buffer,
    into: &mut Unpacked,
    room: Option<usize>,
) -> Result<Result<(u32, usize), Pause>> {
    let len = frame.unpacked.map_or(0, |size| widen(size.get()));
    if room.is_some_and(|room| len > room) {
        return Ok(Err(Pause::Enough));
    }
    match place.unpack(frame, buffer, into) {
        Ok(number) => Ok(Ok((number, len))),
        Err(Refusal::Damaged) => Ok(Err(Pause::Undecodable(*frame))),
        Err(Refusal::Unsupported(_)) if room.is_some() => Ok(Err(Pause::Enough)),
        Err(Refusal::Unsupported(codec)) => Err(place.unsupported(frame, codec)),
    }
}
