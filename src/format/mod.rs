//! Bytes to values and back: pure, without files or paths. This text is the format; the constants
//! beside it are its only other statement, and assertions pin them.
//!
//! Numbers are little-endian. Checksums are CRC-32/IEEE (as in zlib; *not* CRC-32C), started from
//! a [seed](checksum::Seed) that says where the bytes belong, so that bytes which were copied or
//! left over do not verify elsewhere: as zlib's `crc32(seed, bytes)`. With `low` and `high` the
//! halves of a 64-bit identity, and all arithmetic in 32 bits, the seed at a position is
//! `low ^ rotate_left(high, 16) * 0x9e3779b1 ^ 0x64757261 ^ position * 0x9e3779b1`. Bytes that were never written are zeros, and no structure
//! of zeros verifies.
//!
//! # A segment
//!
//! Named by its base offset in 20 digits, `.log` behind. Two copies of the header, then frames
//! back to back, then, once it is sealed, the footer as the last frame. Before it is sealed,
//! zeros may follow.
//!
//! ```text
//!  byte 0       8    10   12    20     28             36        44       52    56       512
//!       +-------+----+----+-----+------+--------------+---------+--------+-----+--------+- - - -
//!       | magic | v  | 0  | id  | base | previous_end | created | log_id | crc | unused | again
//!       +-------+----+----+-----+------+--------------+---------+--------+-----+--------+- - - -
//!        "dlogSEG\n" u16   u64   u64    u64            u64 ms    u64      u32
//! ```
//!
//! The second copy starts at byte 512, so that no sector holds both; frames start at byte 1024.
//! `id` is random; `log_id` is the log's own, from `meta`: a segment of another log is not
//! believed. `crc` covers bytes 0..52 of its copy; its seed is that of the magic as a number, at the copy's
//! position. `previous_end` is where the log ended before this segment: if it is below `base`,
//! the offsets between were skipped, because a power cut may have taken records with them.
//!
//! A segment that was compacted has version 2, and each copy goes on before its `crc`, which covers
//! bytes 0..84 then:
//!
//! ```text
//!  byte 52    60          68        76           80           84    88
//!       +-----+-----------+---------+------------+------------+-----+
//!       | end | last_time | cleaned | frames_end | tombstones | crc |
//!       +-----+-----------+---------+------------+------------+-----+
//!        u64   u64 ms      u64 ms    u32          u32          u32
//! ```
//!
//! It holds offsets `base` to `end`; those between its frames, before the first and behind the last
//! that are missing were removed, and are no gap. Its frames end at the position `frames_end`, where
//! the footer stands. `last_time` is the append time of the last frame that it ever had. `cleaned`
//! is when the whole of it was compacted first, 0 if some of it has not been; it has `tombstones`
//! tombstones. It took the place of the segment that it was made from, by one renaming, once it was
//! durable; its `id` is its own. Until then it is named `.cleaned` for `.log`, and of no
//! account.
//!
//! # A frame
//!
//! ```text
//!  byte 0      4        8                 12                 16            22           24
//!       +------+--------+-----------------+------------------+-------------+------------+- - - -
//!       | crc  | length | relative_offset | durable_distance | append_time | attributes | body
//!       +------+--------+-----------------+------------------+-------------+------------+- - - -
//!        u32    u32      u32               u32                u48 ms        u16
//! ```
//!
//! `length` counts the whole frame; `crc` covers bytes 4..length, seeded with the segment's id
//! and the frame's position. `relative_offset` is its first offset less the segment's base.
//! `durable_distance` is its first offset less the log's durable offset when it was written; the
//! largest value means "that far or farther". So each frame is evidence of what was durable
//! before it. `append_time` never goes back from frame to frame.
//!
//! `attributes`: bits 0..4 are the frame version, 1. Bit 4, *plain*: the body is the value of one
//! record that has no key, no headers and no time of its own. Bit 5, *footer*. Bit 6, *producer*: a
//! named producer sent it, and who that is stands in front of the body. Bits 8 and 9 are how
//! the records are *compressed*: 0 is not at all, 1 is LZ4; a plain frame and a footer are not. Bit
//! 7, *sparse*: records were removed from it, and which are left stands in front of the body; a plain
//! frame and a footer are not, and it stands only in a compacted segment. All
//! others must be zero: a frame that verifies and says anything else was written by a newer
//! release, and is refused.
//!
//! A frame is valid if and only if (1) its length is at least 24 and ends within the segment,
//! (2) its checksum matches, (3) its version and attributes are known, (4) its body decodes to
//! its end, (5) its first offset is not below the end of the frame before. If it is compressed,
//! the numbers in front of its body suffice for (4): so a release, or a build, that does not
//! decompress tells frames from damage, and counts records, as all others do.
//!
//! The body, if neither plain nor compressed: the number of records as a varint, then each record:
//!
//! ```text
//! flags u8 | [key: varint length, bytes] | [value: varint length, bytes] | [time: i64 ms]
//!          | [headers: varint count, then each: varint length, name, varint length, value]
//! ```
//!
//! Flag bits 0 to 3 say which of key, value, headers and time are there. No value is a tombstone.
//! Varints are unsigned LEB128 in their shortest form. Names of headers are UTF-8.
//!
//! The body, if compressed: the number of records as a varint; as a varint the number of bytes that
//! they take as above, behind their number, uncompressed; and to the end, these bytes as one block
//! in the LZ4 block format (no frame, no dictionary). There is a byte for each record at least; and
//! there are no more bytes than 255 times those of the block, and than the largest segment holds.
//! A block that does not decompress to exactly this many bytes, or to other than this many records,
//! is damage: the offsets are taken, the records are none.
//!
//! Who sent it, in front of the body and under the same checksum:
//!
//! ```text
//! id u32 | epoch u32 | sequence u64 | name: u8 length, bytes
//! ```
//!
//! `id` stands for the producer's name in this log, `epoch` counts how often the name was opened,
//! `sequence` is that of the first record; those of the others follow. The name is there in the
//! producer's first frame of each segment, and empty in the others.
//!
//! Which records are left, behind who sent it, if it is sparse:
//!
//! ```text
//! offsets: varint | one bit for each of them, the first one in bit 0 of the first byte
//! ```
//!
//! `offsets` is how many the frame has, from its first one on: it had a record for each once. A bit
//! is set if the record is left. At least one is, and at least one is not; bits behind the last one
//! are 0. The body's number of records is that of the bits that are set. Everything else that a
//! frame says (first offset, append time, sequence) is of the frame as it was sent.
//!
//! The footer's body: `end` (the offset after the last record) and the append time of the last
//! frame, each u64. It is written only once all before it, and the segment's
//! directory entry, are durable. The file ends with it once no mapping of the longer file is left.
//!
//! # The index of a segment
//!
//! Named as the segment, `.index` for `.log`. Written before the footer, so that a sealed segment
//! has it, unless it got lost; it can be made from the segment at any time.
//!
//! ```text
//!  byte 0       8     12   14   16   24     32      36   40
//!       +-------+-----+----+----+----+------+-------+----+- - - - -
//!       | magic | crc | v  | 0  | id | base | count | 0  | entries
//!       +-------+-----+----+----+----+------+-------+----+- - - - -
//!        "dlogIDX\n"    u16  u16  u64  u64    u32
//! ```
//!
//! `id` and `base` are the segment's. An entry, 16 bytes, tells of a frame: relative offset u32,
//! position u32, append time u64 ms. The first is of the first frame that starts 4096 bytes or
//! more behind the start of the frames, each other one of the first frame that far behind the one
//! before. `crc` covers everything behind it, seeded with the magic as a number, exclusive or `id`,
//! at position 0.
//!
//! # A file of slots
//!
//! `meta`, `checkpoint` and `groups/*.offset`: 8192 bytes, in two pages of 4096. A page starts with a
//! slot. One of a group's file has a second slot at its byte 512; a slot is 512 bytes long there.
//!
//! ```text
//!  byte 0       8     12   14   16           24       28
//!       +-------+-----+----+----+------------+--------+- - - - -
//!       | magic | crc | v  | 0  | generation | length | payload
//!       +-------+-----+----+----+------------+--------+- - - - -
//!                u32   u16  u16  u64          u32
//! ```
//!
//! `crc` covers bytes 12..28+length, seeded with the magic as a number at the slot's position.
//! The valid slot of the highest generation counts. Magic and version stand here in all versions.
//!
//! What is not synced is written to the page that does not have what was synced last. In a group's
//! file it is written to the slot there that is not the newest, so that the newest is whole also
//! while, or if for ever, only half of it is written; in the order magic 0, all the rest, magic. There
//! a slot whose magic is 0 holds nothing, whatever is behind it. When a group's consumer has closed,
//! the first slots of both pages say the same and the second ones are 0.
//!
//! * `meta` ("dlogMET\n"): id u64, created u64 ms, then options: tag u8, length u8, value.
//!   Values are u64 each, times in ms, 0 for none: 1 segment bytes, 2 segment age, 3 largest record, 4 flush
//!   (messages, interval), 5 fsync (1 data, 2 full, 3 off), 6 write mode (1 auto, 2 mapped, 3
//!   buffered), 7 retention (age, bytes, segments), 8 groups (1 drop, 2 keep what is unconsumed),
//!   10 age of stale groups, 11 when full (1 reject, 2 block, 3 drop newest, 4 drop oldest; time to
//!   block), 12 least free bytes, 32 cleanup policy (1 delete, 2 compact, 3 both), 33 tombstone
//!   retention, 34 compaction lag, 35 dirty ratio in millionths, 36 compaction memory, 37 compaction
//!   rate. 9 is a name of a group that does not count, once for each; empty for none.
//! * `checkpoint` ("dlogCHK\n"): durable offset u64, its segment's base u64, its position there
//!   u64, the append time before it u64 ms, reservation u64, log start u64, boot id 16 bytes, flags u8 (bit 0: closed in order,
//!   bit 1: unproven, bit 2: there may be named producers, bit 3: compacted, bit 4: records were dropped), records lost to retention, drop-oldest, damage and lost tails u64 each,
//!   number of known damaged ranges u16, each range from u64, to u64; then, if bit 2 is set, the
//!   generation of the snapshot u64, and the offset u64 from which on a frame of a named producer
//!   may be missing in it; then, if bit 3 is set (the log was compacted), `clean` u64 and `redo` u64: no
//!   record below `clean` has one of the same key behind it there, but in segments at `redo` and
//!   behind that could not be read at the time; then, if bit 4 is set, number of ranges that were
//!   dropped u16, each range as above: of what is below the log start, the rest went by retention.
//! * `groups/NAME.offset` ("dlogGRP\n"): id of the log u64, of the group u64, committed offset u64,
//!   time u64 ms, the offset u64 below which losses are counted, records lost to retention,
//!   drop-oldest, damage, lost tails and offset resets u64 each; the rest is the metadata of the
//!   commit, at most 400 bytes. So a slot is one sector of 512 bytes.
//!
//! # Durable commits of many groups
//!
//! `groups/commits` is there once durable commits were made at the same time: 2048 entries of 512
//! bytes, written one behind the other, from the start again at the end, so that one sync serves
//! all of them. The groups' own files are written as well, and synced before an entry is
//! written over that they do not have yet. So a group has committed what its file says, or what the
//! entry of its id (that of the group, not of the log) says that has the highest generation, if that
//! is higher than the one of the file. Opening a log brings the files up to that.
//!
//! ```text
//!  byte 0     4         6        8            16
//!       +-----+---------+--------+------------+- - - - -
//!       | crc | version | length | generation | content of the group's file
//!       +-----+---------+--------+------------+- - - - -
//!         u32   u16       u16      u64
//! ```
//!
//! `crc` covers bytes 4..16+length, seeded with "dlogCMT\n" as a number at the entry's position.
//!
//! # How far named producers have come
//!
//! `producers-0` and `producers-1`, written in turn; the valid one of the higher generation counts.
//! They are there once a named producer has sent something, and hold nothing that is not durable.
//!
//! ```text
//!  byte 0       8     12   14   16       24           32     40      44
//!       +-------+-----+----+----+--------+------------+------+-------+- - - - -
//!       | magic | crc | v  | 0  | log id | generation | upto | count | producers
//!       +-------+-----+----+----+--------+------------+------+-------+- - - - -
//!        "dlogPRD\n"    u16  u16  u64      u64          u64    u32
//!
//! name: varint length, bytes | id u32 | epoch u32 | next sequence u64 | count u8, then offsets
//! ```
//!
//! All frames below `upto` are taken into account. The offsets, at most 64, are those of the last
//! records: the first as a varint, then of each how far it is behind the one before. `crc` covers
//! everything behind it, seeded with the magic as a number, at position 0.

pub(crate) mod body;
pub(crate) mod checkpoint;
pub(crate) mod checksum;
pub(crate) mod commits;
pub(crate) mod compressed;
pub(crate) mod file_name;
pub(crate) mod frame;
pub(crate) mod group;
pub(crate) mod index;
mod lz4;
pub(crate) mod meta;
pub(crate) mod producer;
pub(crate) mod producers;
pub(crate) mod segment;
pub(crate) mod slots;
pub(crate) mod sparse;
pub(crate) mod wire;

/// The version of every file of this release, but for a segment that was compacted.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// The largest body of a frame that fits a segment of this size.
pub(crate) const fn largest_body(segment_bytes: u64) -> u64 {
    let overhead = segment::HEADER_LEN + frame::HEADER_LEN + segment::FOOTER_LEN;
    segment_bytes.saturating_sub(overhead as u64)
}
