//! Lines of a stream, in batches that borrow from what was read.

use std::{
    io::{self, Read},
    mem,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use memchr::{memchr, memchr_iter};

use crate::{
    failure::Failure,
    input::{Arrival, Chunk, Input},
};

/// A batch closes when nothing comes for this long.
const PAUSE: Duration = Duration::from_millis(1);
/// More than a line takes in a frame beside its bytes, and more than its newline.
const LINE_OVERHEAD: usize = 12;

/// When a batch is complete.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most lines in a batch.
    pub lines: usize,
    /// Most bytes in a batch of several lines.
    pub batch_bytes: usize,
    /// Longest line; a longer one is an error.
    pub line_bytes: usize,
    /// How long the first line of a batch waits for others if none come; without it a batch closes
    /// at the first pause.
    pub linger: Option<Duration>,
}

/// Lines that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
    first_line: u64,
}

/// What comes next.
#[derive(Debug)]
pub enum Next<'a> {
    /// A complete batch.
    Batch(Batch<'a>),
    /// Nothing more has come so far: the next call waits. What was put off is best done now.
    Waiting,
    /// There are no more lines.
    End,
}

/// The lines of a stream. How much memory they take depends on the limits, not on the stream.
#[derive(Debug)]
pub struct Lines {
    input: Input,
    limits: Limits,
    /// What was read and is not handed out yet: the open batch, then the start of a line, then
    /// what is not scanned.
    window: Chunk,
    scanned: usize,
    open: Open,
    /// A line that is too long for the window, as far as it has come.
    long: Option<Vec<u8>>,
    /// The number of the first line that is not handed out yet.
    line: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What has come already is taken first.
    Looking,
    /// The caller was told that the next call waits.
    Waiting,
    /// The stream is over.
    Ended,
    /// The stream broke; the lines before are handed out first.
    Failed(io::Error),
}

/// The batch that is being filled.
#[derive(Debug, Default)]
struct Open {
    /// Where its lines end, counted from the window's start.
    ends: Vec<usize>,
    /// Upper bound of what it takes in a frame.
    weight: usize,
    /// Since when it has lines, if they linger.
    since: Option<Instant>,
    /// It has been handed out.
    taken: bool,
}

/// What a line is to the open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is in, and more may follow.
    Room,
    /// It is in, and is the last.
    Full,
    /// It is for the next batch.
    Next,
    /// It is too long for any.
    TooLong,
}

impl<'a> Batch<'a> {
    /// The lines, without their newlines.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            line
        })
    }

    /// How many lines there are: at least one.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Their numbers in the stream, from 1.
    pub fn numbers(&self) -> RangeInclusive<u64> {
        let last = self.first_line + (self.len() as u64).saturating_sub(1);
        self.first_line..=last
    }
}

impl Lines {
    /// The lines of `source`.
    pub fn read(source: impl Read + Send + 'static, limits: Limits) -> Self {
        Self {
            input: Input::read(source, limits.batch_bytes),
            limits,
            window: Chunk::default(),
            scanned: 0,
            open: Open::default(),
            long: None,
            line: 1,
            state: State::Looking,
        }
    }

    /// The next batch: of as many lines as the limits allow, or fewer if the stream pauses.
    ///
    /// # Errors
    ///
    /// `Input`, `LineTooLong`; all complete lines before were handed out.
    pub fn next(&mut self) -> Result<Next<'_>, Failure> {
        self.drop_taken();
        loop {
            if self.scan()? {
                return Ok(Next::Batch(self.take()));
            }
            match self.fetch()? {
                Arrival::Chunk(chunk) => self.refill(chunk),
                Arrival::Nothing if matches!(self.state, State::Waiting) => {
                    return Ok(Next::Waiting);
                }
                Arrival::Nothing => return Ok(Next::Batch(self.take())),
                Arrival::End if self.finish() => return Ok(Next::Batch(self.take())),
                Arrival::End => return Ok(Next::End),
            }
        }
    }

    /// Looks for line ends in what is there; whether the batch is complete.
    fn scan(&mut self) -> Result<bool, Failure> {
        if self.long.is_some() {
            return self.scan_long();
        }
        let bytes = self.window.filled();
        let fresh = bytes.get(self.scanned..).unwrap_or_default();
        let mut verdict = Verdict::Room;
        for newline in memchr_iter(b'\n', fresh) {
            let end = self.scanned + newline;
            verdict = self.open.push(end, &self.limits);
            if verdict != Verdict::Room {
                break;
            }
        }
        let all = bytes.len();
        if verdict == Verdict::Room {
            verdict = self.open.weigh(all, &self.limits).0;
            self.scanned = all;
        } else {
            self.scanned = self.open.next_start();
        }
        match verdict {
            Verdict::Full => Ok(true),
            Verdict::Room => Ok(false),
            _ if !self.open.ends.is_empty() => Ok(true),
            Verdict::TooLong => Err(self.too_long()),
            Verdict::Next => {
                self.long = Some(self.window.filled().to_vec());
                self.window.consume(all);
                self.scanned = 0;
                Ok(false)
            }
        }
    }

    /// Goes on with a line that is too long for the window; whether it is complete.
    fn scan_long(&mut self) -> Result<bool, Failure> {
        let Some(long) = &mut self.long else {
            return Ok(false);
        };
        let fresh = self.window.filled();
        let newline = memchr(b'\n', fresh);
        let part = newline.map_or(fresh, |end| fresh.get(..end).unwrap_or_default());
        if long.len() + part.len() > self.limits.line_bytes {
            return Err(self.too_long());
        }
        long.extend_from_slice(part);
        if newline.is_some() {
            self.open.ends.push(long.len());
        }
        let used = part.len() + usize::from(newline.is_some());
        self.window.consume(used);
        Ok(newline.is_some())
    }

    /// At the end of the stream, what is left is a line as well; whether there is a batch.
    fn finish(&mut self) -> bool {
        self.state = State::Ended;
        if let Some(long) = &self.long {
            self.open.ends.push(long.len());
        } else if self.scanned > self.open.next_start() {
            self.open.ends.push(self.scanned);
        }
        !self.open.ends.is_empty()
    }

    /// Takes what has come; waits for it only if the last call said so.
    fn fetch(&mut self) -> Result<Arrival, Failure> {
        let arrival = match mem::replace(&mut self.state, State::Looking) {
            State::Looking => {
                let arrival = self.input.look();
                if matches!(arrival, Ok(Arrival::Nothing)) {
                    self.state = State::Waiting;
                }
                arrival
            }
            State::Waiting if self.open.ends.is_empty() => self.input.wait(),
            State::Waiting => self.input.wait_for(self.open.patience(&self.limits)),
            State::Ended => {
                self.state = State::Ended;
                Ok(Arrival::End)
            }
            State::Failed(error) => Err(error),
        };
        match arrival {
            Err(error) if !self.open.ends.is_empty() => {
                self.state = State::Failed(error);
                Ok(Arrival::Nothing)
            }
            arrival => arrival.map_err(Failure::Input),
        }
    }

    /// Joins what is left with what has come, copying the shorter of the two.
    fn refill(&mut self, mut chunk: Chunk) {
        let is_short = chunk.filled().len() <= self.window.filled().len();
        if !(is_short && self.window.append(chunk.filled())) {
            chunk.prepend(self.window.filled());
            mem::swap(&mut self.window, &mut chunk);
        }
        self.input.recycle(chunk);
    }

    fn take(&mut self) -> Batch<'_> {
        self.open.taken = true;
        Batch {
            bytes: self.long.as_deref().unwrap_or(self.window.filled()),
            ends: &self.open.ends,
            first_line: self.line,
        }
    }

    /// Makes room for the next batch.
    fn drop_taken(&mut self) {
        if !mem::take(&mut self.open.taken) {
            return;
        }
        self.line += self.open.ends.len() as u64;
        if self.long.take().is_none() {
            let used = self.open.next_start();
            self.window.consume(used);
            self.scanned = self.scanned.saturating_sub(used);
        }
        self.open.ends.clear();
        self.open.weight = 0;
        self.open.since = None;
    }

    fn too_long(&self) -> Failure {
        Failure::LineTooLong {
            line: self.line,
            limit: self.limits.line_bytes,
        }
    }
}

impl Open {
    /// Where the next line starts.
    fn next_start(&self) -> usize {
        self.ends.last().map_or(0, |end| end + 1)
    }

    /// What the line from there to `end` is to the batch, and what both weigh together.
    fn weigh(&self, end: usize, limits: &Limits) -> (Verdict, usize) {
        let len = end - self.next_start();
        let weight = self.weight + len + LINE_OVERHEAD;
        let verdict = if len > limits.line_bytes {
            Verdict::TooLong
        } else if len + LINE_OVERHEAD <= limits.line_bytes && weight <= limits.batch_bytes {
            Verdict::Room
        } else {
            Verdict::Next
        };
        (verdict, weight)
    }

    /// How long to wait for more lines.
    fn patience(&mut self, limits: &Limits) -> Duration {
        let Some(linger) = limits.linger else {
            return PAUSE;
        };
        let since = self.since.get_or_insert_with(Instant::now);
        linger.saturating_sub(since.elapsed())
    }

    /// Adds the line that ends at `end`.
    fn push(&mut self, end: usize, limits: &Limits) -> Verdict {
        let (verdict, weight) = self.weigh(end, limits);
        match verdict {
            Verdict::Next if self.ends.is_empty() => {}
            Verdict::Room => {}
            refused => return refused,
        }
        self.ends.push(end);
        self.weight = weight;
        if self.ends.len() >= limits.lines || verdict == Verdict::Next {
            return Verdict::Full;
        }
        Verdict::Room
    }
}

#[cfg(test)]
mod tests;
