//! Lines come out as they went in, however the stream is cut and whatever the limits are.

use std::{
    io::{self, Read},
    sync::mpsc::{self, Receiver},
};

use super::*;

const LIMITS: Limits = Limits {
    lines: 7,
    batch_bytes: 100,
    line_bytes: 300,
    linger: None,
};

/// A stream that yields these pieces one by one, and pauses while there is none.
struct Pieces(Receiver<io::Result<Vec<u8>>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Ok(piece) = self.0.recv() else {
            return Ok(0);
        };
        let piece = piece?;
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

fn pieces(pieces: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Pieces {
    let (sender, receiver) = mpsc::channel();
    for piece in pieces {
        sender.send(piece).unwrap();
    }
    Pieces(receiver)
}

/// All batches, and how it ended.
fn collect(mut lines: Lines) -> (Vec<Vec<Vec<u8>>>, Result<(), Failure>) {
    let mut batches = Vec::new();
    loop {
        match lines.next() {
            Ok(Next::Batch(batch)) => batches.push(batch.lines().map(<[u8]>::to_vec).collect()),
            Ok(Next::Waiting) => {}
            Ok(Next::End) => return (batches, Ok(())),
            Err(failure) => return (batches, Err(failure)),
        }
    }
}

/// A small generator of numbers: the same ones for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Lines of which most are short, some as long as a batch, some longer.
fn some_lines(numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let mut line = || {
        let longest = [1, 5, 40, 101, LIMITS.line_bytes + 1][numbers.below(5)];
        let byte = u8::try_from(numbers.below(256)).unwrap();
        let byte = if byte == b'\n' { 0 } else { byte };
        vec![byte; numbers.below(longest)]
    };
    (0..40).map(|_| line()).collect()
}

fn cut(mut stream: &[u8], numbers: &mut Numbers, longest: usize) -> Vec<io::Result<Vec<u8>>> {
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(stream.len().min(1 + numbers.below(longest)));
        pieces.push(Ok(piece.to_vec()));
        stream = rest;
    }
    pieces
}

#[test]
fn lines_come_out_as_they_went_in_however_the_stream_is_cut() {
    for seed in 0..300 {
        let mut numbers = Numbers(seed);
        let expected = some_lines(&mut numbers);
        let mut stream = expected.join(&b'\n');
        if seed % 2 == 0 || expected.last().unwrap().is_empty() {
            stream.push(b'\n');
        }
        let longest = [1, 3, 50, 1000][numbers.below(4)];
        let source = pieces(cut(&stream, &mut numbers, longest));
        let (batches, end) = collect(Lines::read(source, LIMITS));
        end.unwrap();
        assert_eq!(batches.concat(), expected, "seed {seed}");
        for batch in batches {
            let bytes: usize = batch.iter().map(Vec::len).sum();
            assert!(!batch.is_empty() && batch.len() <= LIMITS.lines);
            assert!(batch.len() == 1 || bytes <= LIMITS.batch_bytes);
        }
    }
}

#[test]
fn a_stream_that_does_not_pause_fills_its_batches() {
    let stream = "line\n".repeat(20);
    let (batches, end) = collect(Lines::read(io::Cursor::new(stream), LIMITS));
    end.unwrap();
    let lens: Vec<_> = batches.iter().map(Vec::len).collect();
    // 6 lines of 4 bytes, with what they take in a frame, come to no more than 100.
    assert_eq!(lens, [6, 6, 6, 2]);
}

#[test]
fn the_numbers_of_lines_go_through_all_batches() {
    let mut lines = Lines::read(io::Cursor::new("a\nb\n\nc".repeat(5)), LIMITS);
    let mut next = 1;
    loop {
        match lines.next().unwrap() {
            Next::Batch(batch) => {
                assert_eq!(*batch.numbers().start(), next);
                next += batch.len() as u64;
                assert_eq!(*batch.numbers().end(), next - 1);
            }
            Next::Waiting => {}
            Next::End => break,
        }
    }
    assert_eq!(next, 17);
}

#[test]
fn a_pause_closes_a_batch_without_the_line_that_is_not_complete() {
    let (sender, receiver) = mpsc::channel();
    let mut lines = Lines::read(Pieces(receiver), LIMITS);
    sender.send(Ok(b"one\ntwo\nthr".to_vec())).unwrap();
    let mut waits = 0;
    let first: Vec<_> = loop {
        match lines.next().unwrap() {
            Next::Batch(batch) => break batch.lines().map(<[u8]>::to_vec).collect(),
            Next::Waiting => waits += 1,
            Next::End => panic!("the stream goes on"),
        }
    };
    assert_eq!(first, [b"one", b"two"]);
    assert!(waits > 0, "the caller was told that the stream pauses");
    sender.send(Ok(b"ee\n".to_vec())).unwrap();
    drop(sender);
    let (rest, end) = collect(lines);
    end.unwrap();
    assert_eq!(rest, [[b"three"]]);
}

#[test]
fn a_line_that_is_too_long_is_named_and_all_before_it_come_out() {
    let longest = vec![b'x'; LIMITS.line_bytes];
    for newline in ["", "\n"] {
        let stream = [
            b"a\n\n",
            &longest[..],
            b"\nb\nx",
            &longest[..],
            newline.as_bytes(),
        ]
        .concat();
        let (batches, end) = collect(Lines::read(io::Cursor::new(stream), LIMITS));
        assert_eq!(batches.concat(), [b"a", &b""[..], &longest[..], b"b"]);
        let failure = end.unwrap_err();
        assert!(
            matches!(
                failure,
                Failure::LineTooLong {
                    line: 5,
                    limit: 300
                }
            ),
            "{failure:?}"
        );
    }
}

#[test]
fn a_line_that_never_ends_is_refused_without_being_kept() {
    let endless = io::Cursor::new("a\n").chain(io::repeat(b'x'));
    let (batches, end) = collect(Lines::read(endless, LIMITS));
    assert_eq!(batches, [[b"a"]]);
    assert!(matches!(
        end,
        Err(Failure::LineTooLong {
            line: 2,
            limit: 300
        })
    ));
}

#[test]
fn a_stream_that_breaks_yields_its_complete_lines_first() {
    let broken = io::Error::other("unplugged");
    let source = pieces([Ok(b"one\ntwo\nhal".to_vec()), Err(broken)]);
    let (batches, end) = collect(Lines::read(source, LIMITS));
    assert_eq!(batches.concat(), [b"one", b"two"]);
    assert!(matches!(end, Err(Failure::Input(error)) if error.to_string() == "unplugged"));
}

#[test]
fn an_empty_stream_has_no_lines() {
    let (batches, end) = collect(Lines::read(io::empty(), LIMITS));
    end.unwrap();
    assert!(batches.is_empty());
}
