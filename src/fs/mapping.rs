//! Mapped memory. One writer appends behind an end that it publishes, and any number of readers read
//! below it: the split is what makes it sound. Or one writer stores pieces in place, and nobody reads
//! them through memory. Nothing outside this file can break that.

#![expect(
    unsafe_code,
    reason = "shared mapped memory is beyond the borrow checker"
)]

use std::{
    fmt, io,
    ptr::NonNull,
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
};

use memmap2::{Advice, MmapRaw, UncheckedAdvice};

/// A mapping. Its invariants:
///
/// 1. `published <= prepared <= len` of `memory`, and none of the three ever shrinks.
/// 2. Bytes below `published` are never written again.
/// 3. Bytes from `published` on are touched by the one `MapWriter` alone.
/// 4. Bytes below `prepared` have blocks in the file, which nobody cuts while this lives.
struct Shared {
    memory: MmapRaw,
    published: AtomicUsize,
    prepared: AtomicUsize,
    #[cfg(feature = "testing")]
    watch: Option<Arc<dyn MapWatch>>,
}

impl Shared {
    fn new(memory: MmapRaw, published: usize, prepared: usize) -> Self {
        assert!(
            published <= prepared && prepared <= memory.len(),
            "invariant 1"
        );
        Self {
            memory,
            published: AtomicUsize::new(published),
            prepared: AtomicUsize::new(prepared),
            #[cfg(feature = "testing")]
            watch: None,
        }
    }

    /// The same, and `watch` is told of each write, and lives as long as the mapping.
    #[cfg(feature = "testing")]
    fn watched(memory: MmapRaw, published: usize, watch: Arc<dyn MapWatch>) -> Self {
        Self {
            watch: Some(watch),
            ..Self::new(memory, published, published)
        }
    }

    /// The address of a byte of the mapping.
    #[inline]
    fn at(&self, position: usize) -> NonNull<u8> {
        debug_assert!(position <= self.memory.len());
        // SAFETY: `position` is at most `prepared`, so by invariant 1 the result is in the mapping
        // or one behind it.
        let address = unsafe { self.memory.as_mut_ptr().add(position) };
        // SAFETY: a mapping is not at address 0, and the addition above does not wrap.
        unsafe { NonNull::new_unchecked(address) }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // Acquire: pairs with the Release store in `publish`, so the bytes below are seen too.
        let published = self.published.load(Ordering::Acquire);
        // SAFETY: invariants 1 and 4: the bytes are mapped and have blocks. By invariant 2 nobody
        // writes them while the slice lives, which is not longer than `self` and so the mapping.
        unsafe { slice::from_raw_parts(self.at(0).as_ptr(), published) }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("len", &self.memory.len())
            .field("published", &self.published)
            .field("prepared", &self.prepared)
            .finish_non_exhaustive()
    }
}

/// Is told what a writer does to a mapping. A simulated machine learns so what the memory holds.
#[cfg(feature = "testing")]
pub(super) trait MapWatch: fmt::Debug + Send + Sync {
    /// The writer is about to write this range.
    fn before_copy(&self, position: usize, len: usize);
    /// It has written these bytes, and not published them yet.
    fn after_copy(&self, position: usize, bytes: &[u8]);
    /// They are published.
    fn after_publish(&self, end: usize);
    /// A word was stored in place, as one.
    fn after_word(&self, position: usize, word: Word);
}

/// Appends to a mapping. There is one for each mapping.
#[derive(Debug)]
pub struct MapWriter {
    shared: Arc<Shared>,
}

impl MapWriter {
    pub(super) fn new(memory: MmapRaw, published: usize) -> Self {
        Self {
            shared: Arc::new(Shared::new(memory, published, published)),
        }
    }

    /// The same, and `watch` is told of each write.
    #[cfg(feature = "testing")]
    pub(super) fn watched(memory: MmapRaw, published: usize, watch: Arc<dyn MapWatch>) -> Self {
        Self {
            shared: Arc::new(Shared::watched(memory, published, watch)),
        }
    }

    /// The `len` bytes behind the published end, to be filled before they are published. `None`
    /// if they are not prepared.
    #[inline]
    pub fn tail(&mut self, len: usize) -> Option<&mut [u8]> {
        // Relaxed: no other thread stores it.
        let published = self.shared.published.load(Ordering::Relaxed);
        // Acquire: what was prepared, in the file and the mapping, happened before.
        let prepared = self.shared.prepared.load(Ordering::Acquire);
        if len > prepared.saturating_sub(published) {
            return None;
        }
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.shared.watch {
            watch.before_copy(published, len);
        }
        let start = self.shared.at(published);
        // SAFETY: the range is within `prepared` (checked above), so mapped and backed by blocks.
        // By invariant 3 only this writer touches it, and `&mut self` makes this the one slice.
        Some(unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// Makes the first `len` bytes of the tail readable. They can't be written again.
    ///
    /// # Panics
    ///
    /// If the tail is shorter.
    #[inline]
    pub fn publish(&mut self, len: usize) {
        let published = self.shared.published.load(Ordering::Relaxed);
        let end = published + len;
        assert!(
            end <= self.shared.prepared.load(Ordering::Relaxed),
            "invariant 1"
        );
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.shared.watch {
            let start = self.shared.at(published);
            // SAFETY: the range is within `prepared` (asserted above). By invariant 3 only this
            // writer writes it, and it does not while `self` is borrowed here.
            let copied = unsafe { slice::from_raw_parts(start.as_ptr(), len) };
            watch.after_copy(published, copied);
        }
        // Release: whoever sees the new end sees the bytes below it.
        self.shared.published.store(end, Ordering::Release);
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.shared.watch {
            watch.after_publish(end);
        }
    }

    /// Reads what is published, now and later.
    pub fn reader(&self) -> MapReader {
        MapReader {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Prepares memory ahead of the writer, from another thread.
    pub fn preparer(&self) -> Preparer {
        Preparer {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Reads the published part of a mapping; cheap to clone.
#[derive(Clone, Debug)]
pub struct MapReader {
    shared: Arc<Shared>,
}

impl MapReader {
    pub(super) fn new(memory: MmapRaw, len: usize) -> Self {
        Self {
            shared: Arc::new(Shared::new(memory, len, len)),
        }
    }

    /// The same; `watch` lives as long as the mapping.
    #[cfg(feature = "testing")]
    pub(super) fn watched(memory: MmapRaw, len: usize, watch: Arc<dyn MapWatch>) -> Self {
        Self {
            shared: Arc::new(Shared::watched(memory, len, watch)),
        }
    }

    /// What is published by now.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.shared.bytes()
    }

    /// Takes the pages between two published positions out of the mapping; whoever reads there
    /// next faults them in again. Writing back a page that is mapped interrupts every CPU that may
    /// write to it; this takes one interrupt for all of them. Best effort.
    pub(crate) fn release(&self, from: usize, end: usize) {
        const PAGE: usize = 4096;
        // Simulated memory has no file behind it.
        #[cfg(feature = "testing")]
        if self.shared.watch.is_some() {
            return;
        }
        let end = end.min(self.bytes().len()) / PAGE * PAGE;
        let from = from.next_multiple_of(PAGE);
        let Some(len) = end.checked_sub(from).filter(|len| *len > 0) else {
            return;
        };
        let memory = &self.shared.memory;
        // SAFETY: the range is within `memory`, a shared mapping of a file whose blocks stay
        // (invariant 4): what is taken out is in the page cache, and there again for the next who
        // reads it. Nobody writes there any more (invariant 2).
        drop(unsafe { memory.unchecked_advise_range(UncheckedAdvice::DontNeed, from, len) });
    }

    /// Whether neither the writer nor another reader holds the mapping any more: once this is
    /// dropped, the file may be cut.
    pub fn is_sole_holder(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

/// Makes more of a mapping ready to be written.
#[derive(Debug)]
pub struct Preparer {
    shared: Arc<Shared>,
}

impl Preparer {
    /// How far the mapping is prepared.
    pub fn prepared(&self) -> usize {
        self.shared.prepared.load(Ordering::Acquire)
    }

    /// Takes the bytes up to `end` as prepared: the caller must have allocated blocks for them, or
    /// the first store into a full disk is a `SIGBUS`. Touches
    /// their pages, so that the writer need not fault them in one by one.
    ///
    /// # Errors
    ///
    /// What `madvise(2)` says, except where it can't do that: then the writer takes the faults.
    pub(crate) fn prepare(&self, end: usize) -> io::Result<()> {
        let from = self.prepared();
        if end <= from {
            return Ok(());
        }
        assert!(end <= self.shared.memory.len(), "invariant 1");
        match self
            .shared
            .memory
            .advise_range(Advice::PopulateWrite, from, end - from)
        {
            Ok(()) => {}
            // EINVAL: a kernel before 5.14.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
        // Release: the writer that sees the new end finds blocks and pages. `fetch_max`, because
        // two threads may prepare at once.
        self.shared.prepared.fetch_max(end, Ordering::Release);
        Ok(())
    }
}

/// What is stored as one: a kill comes before or after it.
pub(super) type Word = [u8; 8];
const WORD: usize = size_of::<Word>();

/// Stores pieces of a file in place. The invariant: the memory is touched by nobody else in this
/// process, and here by atomic stores alone, so whatever the file is read or written by meanwhile is
/// no data race. All of it has blocks in the file, which nobody cuts while this lives.
pub struct MapCells {
    memory: MmapRaw,
    #[cfg(feature = "testing")]
    watch: Option<Arc<dyn MapWatch>>,
}

impl MapCells {
    pub(super) fn new(memory: MmapRaw) -> Self {
        Self {
            memory,
            #[cfg(feature = "testing")]
            watch: None,
        }
    }

    /// The same, and `watch` is told of each store.
    #[cfg(feature = "testing")]
    pub(super) fn watched(memory: MmapRaw, watch: Arc<dyn MapWatch>) -> Self {
        let watch = Some(watch);
        Self { memory, watch }
    }

    /// Stores `bytes` at `position`; both in words of 8 bytes. The first word is zero before any
    /// other is stored, and is stored last, as one: whoever reads the file meanwhile, or after a kill
    /// in between, finds it as it was before, or zero, or all of `bytes`.
    ///
    /// A store can't fail. Of a device that can't take it the next sync tells.
    ///
    /// # Panics
    ///
    /// If they are not in words, or reach behind the mapping.
    pub fn store(&mut self, position: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<WORD>();
        assert!(rest.is_empty(), "a piece consists of words");
        let place = self.words(position, words.len());
        let (Some((first, behind)), Some((to_first, to_behind))) =
            (words.split_first(), place.split_first())
        else {
            return;
        };
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.watch {
            watch.before_copy(position, bytes.len());
        }
        to_first.store(0, Ordering::Relaxed);
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.watch {
            watch.after_word(position, [0; WORD]);
        }
        // Release: no store below may be seen, or be there after a kill, without the one above.
        fence(Ordering::Release);
        for (to, word) in to_behind.iter().zip(behind) {
            to.store(in_memory(*word), Ordering::Relaxed);
        }
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.watch {
            watch.after_copy(position + WORD, behind.as_flattened());
        }
        // Release: nor this one without those above.
        to_first.store(in_memory(*first), Ordering::Release);
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.watch {
            watch.after_word(position, *first);
        }
    }

    #[expect(clippy::cast_ptr_alignment, reason = "asserted")]
    fn words(&self, position: usize, count: usize) -> &[AtomicU64] {
        let len = self.memory.len();
        assert!(
            position.is_multiple_of(WORD) && position <= len && count <= (len - position) / WORD,
            "a piece lies within the mapping, at a word"
        );
        // SAFETY: `position` is within the mapping (asserted above).
        let start = unsafe { self.memory.as_mut_ptr().add(position) };
        // SAFETY: the range is within the mapping (asserted above), writable and backed by blocks,
        // and lives as long as `self`. A mapping starts at a page and `position` is a multiple of 8,
        // so it is aligned; any bytes are an `AtomicU64`. By the invariant all that this process does
        // to it is atomic.
        unsafe { slice::from_raw_parts(start.cast::<AtomicU64>(), count) }
    }
}

/// The number that has these bytes in memory.
const fn in_memory(word: Word) -> u64 {
    u64::from_le_bytes(word).to_le()
}

impl fmt::Debug for MapCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapCells")
            .field("len", &self.memory.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use memmap2::MmapOptions;

    use super::*;

    /// Anonymous memory, which Miri can map too, prepared as a whole.
    fn writer(len: usize, published: usize) -> MapWriter {
        let memory = MmapRaw::from(MmapOptions::new().len(len).map_anon().unwrap());
        MapWriter {
            shared: Arc::new(Shared::new(memory, published, len)),
        }
    }

    #[test]
    fn a_reader_sees_whole_appends_while_the_writer_goes_on() {
        const PIECE: usize = 16;
        const PIECES: usize = 64;
        let mut writer = writer(PIECE * PIECES, 0);
        let reader = writer.reader();
        let reading = thread::spawn(move || {
            let mut seen = 0;
            while seen < PIECES {
                let bytes = reader.bytes();
                assert_eq!(bytes.len() % PIECE, 0);
                for (number, piece) in bytes.chunks(PIECE).enumerate().skip(seen) {
                    assert!(piece.iter().all(|&byte| usize::from(byte) == number));
                    seen = number + 1;
                }
                thread::yield_now();
            }
        });
        for number in 0..PIECES {
            let tail = writer.tail(PIECE).unwrap();
            tail.fill(u8::try_from(number).unwrap());
            writer.publish(PIECE);
        }
        reading.join().unwrap();
    }

    #[test]
    fn a_slice_that_a_reader_holds_outlives_the_writer() {
        let mut writer = writer(64, 0);
        writer.tail(5).unwrap().copy_from_slice(b"first");
        writer.publish(5);
        let reader = writer.reader();
        let first = reader.bytes();
        writer.tail(6).unwrap().copy_from_slice(b"second");
        writer.publish(6);
        assert!(!reader.is_sole_holder());
        drop(writer);
        assert_eq!(first, b"first");
        assert_eq!(reader.bytes(), b"firstsecond");
        assert!(reader.is_sole_holder());
    }

    #[test]
    fn more_than_is_prepared_is_refused() {
        let mut writer = writer(64, 60);
        assert!(writer.tail(5).is_none());
        assert!(writer.tail(4).is_some());
        assert!(writer.tail(usize::MAX).is_none());
    }

    #[test]
    #[should_panic(expected = "invariant 1")]
    fn publishing_more_than_is_prepared_panics() {
        writer(64, 60).publish(5);
    }

    fn cells(len: usize) -> MapCells {
        MapCells::new(MmapRaw::from(
            MmapOptions::new().len(len).map_anon().unwrap(),
        ))
    }

    fn stored(cells: &MapCells) -> Vec<u8> {
        let words = cells.words(0, cells.memory.len() / WORD).iter();
        let words = words.map(|word| word.load(Ordering::Relaxed));
        words.flat_map(|word| word.to_le().to_le_bytes()).collect()
    }

    #[test]
    fn a_piece_is_stored_where_it_belongs_and_over_what_was_there() {
        let mut cells = cells(64);
        cells.store(48, &[7; 16]);
        cells.store(8, &[1; 24]);
        cells.store(16, &[2; 8]);
        cells.store(64, &[]);
        let expected = [
            [0; 8], [1; 8], [2; 8], [1; 8], [0; 8], [0; 8], [7; 8], [7; 8],
        ];
        assert_eq!(stored(&cells), expected.concat());
    }

    /// Notes what it is told.
    #[cfg(feature = "testing")]
    #[derive(Debug, Default)]
    struct Notes(std::sync::Mutex<Vec<(usize, Vec<u8>)>>);

    #[cfg(feature = "testing")]
    impl MapWatch for Notes {
        fn before_copy(&self, position: usize, len: usize) {
            self.0.lock().unwrap().push((position, vec![b'?'; len]));
        }

        fn after_copy(&self, position: usize, bytes: &[u8]) {
            self.0.lock().unwrap().push((position, bytes.to_vec()));
        }

        fn after_publish(&self, _: usize) {}

        fn after_word(&self, position: usize, word: Word) {
            self.0.lock().unwrap().push((position, word.to_vec()));
        }
    }

    #[cfg(feature = "testing")]
    #[test]
    fn the_first_word_of_a_piece_is_gone_first_and_there_last() {
        let memory = MmapRaw::from(MmapOptions::new().len(64).map_anon().unwrap());
        let notes = Arc::<Notes>::default();
        let mut cells = MapCells::watched(memory, Arc::<Notes>::clone(&notes));
        let piece: Vec<u8> = (1..=24).collect();
        cells.store(16, &piece);
        let expected = [
            (16, vec![b'?'; 24]),
            (16, vec![0; 8]),
            (24, piece[8..].to_vec()),
            (16, piece[..8].to_vec()),
        ];
        assert_eq!(*notes.0.lock().unwrap(), expected);
        assert_eq!(stored(&cells)[16..40], piece);
    }

    #[test]
    #[should_panic(expected = "within the mapping")]
    fn a_piece_that_reaches_behind_the_mapping_panics() {
        cells(64).store(56, &[1; 16]);
    }

    #[test]
    #[should_panic(expected = "at a word")]
    fn a_piece_that_starts_within_a_word_panics() {
        cells(64).store(4, &[1; 8]);
    }

    #[test]
    #[should_panic(expected = "consists of words")]
    fn a_piece_that_ends_within_a_word_panics() {
        cells(64).store(8, &[1; 12]);
    }
}
