//! Records, owned and borrowed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{format::body::EncodedHeaders, offset::Offset};

/// Milliseconds since the Unix epoch, as Kafka's timestamps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// This many milliseconds after (or, negative, before) the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    /// Whole milliseconds; what does not fit saturates.
    fn from(time: SystemTime) -> Self {
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

/// A record to be sent: an optional key, an optional value, headers and an optional timestamp.
///
/// A value of zero bytes is a value; a record without a value is a
/// [tombstone](Record::tombstone). To send bytes that stand elsewhere without copying them first,
/// send a [`RecordRef`].
///
/// ```
/// use duralog::Record;
///
/// let record = Record::new("paid").key("order-17").header("trace", "af31");
/// assert_eq!(record.as_ref().value(), Some(&b"paid"[..]));
/// assert_eq!(record.as_ref().key(), Some(&b"order-17"[..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
    timestamp: Option<Timestamp>,
}

/// A header of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    name: String,
    value: Vec<u8>,
}

impl Record {
    /// A record with this value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record with this key and no value: in a compacted log it deletes the key.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header. Names may repeat; their order is kept.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// With a time of its own. Without one, a consumer is told the time of the append.
    #[must_use]
    pub fn timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// With its first `count` headers alone.
    pub(crate) fn first_headers(mut self, count: usize) -> Self {
        self.headers.truncate(count);
        self
    }

    /// Without the headers of this name.
    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|header| header.name != name);
        self
    }

    /// The same record, borrowed.
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef {
            offset: None,
            append_time: Timestamp::default(),
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: Headers(Inner::Owned(&self.headers)),
            timestamp: self.timestamp,
        }
    }
}

/// A borrowed record: what a consumer is given, and what can be sent without a copy.
///
/// ```
/// use duralog::RecordRef;
///
/// let line = b"17;paid".as_slice();
/// let record = RecordRef::new(line).with_key(&line[..2]);
/// assert_eq!(record.key(), Some(&b"17"[..]));
/// assert!(record.offset().is_none(), "it was not read from a log");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub(crate) offset: Option<Offset>,
    pub(crate) append_time: Timestamp,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) timestamp: Option<Timestamp>,
}

impl<'a> RecordRef<'a> {
    /// A record with this value, to be sent. (To send headers, take a [`Record`].)
    pub fn new<V: AsRef<[u8]> + ?Sized>(value: &'a V) -> Self {
        Self {
            offset: None,
            append_time: Timestamp::default(),
            key: None,
            value: Some(value.as_ref()),
            headers: Headers::default(),
            timestamp: None,
        }
    }

    /// With this key.
    #[must_use]
    pub fn with_key<K: AsRef<[u8]> + ?Sized>(mut self, key: &'a K) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// With a time of its own.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// Its offset; `None` for a record that was not read from a log.
    pub fn offset(&self) -> Option<Offset> {
        self.offset
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` is a tombstone, a value of zero bytes is `Some`.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in the order in which they were added.
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The record's own time if it was sent with one, else the time of the append.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp.unwrap_or(self.append_time)
    }

    /// The record's own time, if it was sent with one.
    pub fn own_timestamp(&self) -> Option<Timestamp> {
        self.timestamp
    }

    /// When it was appended, by a clock that may be 10 ms behind (the kernel's coarse one). Never
    /// goes back within a log.
    pub fn append_time(&self) -> Timestamp {
        self.append_time
    }

    /// An owned copy of what was sent: key, value, headers and own time.
    pub fn to_record(&self) -> Record {
        Record {
            key: self.key.map(<[u8]>::to_vec),
            value: self.value.map(<[u8]>::to_vec),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| Header {
                    name: name.to_owned(),
                    value: value.to_vec(),
                })
                .collect(),
            timestamp: self.timestamp,
        }
    }

    /// Whether nothing but a value is there, which has the shortest form on disk.
    pub(crate) fn is_plain(&self) -> bool {
        self.key.is_none()
            && self.value.is_some()
            && self.timestamp.is_none()
            && self.headers.is_empty()
    }
}

/// The headers of a record: names and values, in the order in which they were added.
///
/// ```
/// use duralog::Record;
///
/// let record = Record::new("paid").header("trace", "af31");
/// for (name, value) in record.as_ref().headers() {
///     assert_eq!((name, value), ("trace", &b"af31"[..]));
/// }
/// assert_eq!(record.as_ref().headers().find("trace"), Some(&b"af31"[..]));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a>(Inner<'a>);

#[derive(Clone, Copy, Debug)]
enum Inner<'a> {
    Owned(&'a [Header]),
    Encoded(EncodedHeaders<'a>),
}

impl Default for Inner<'_> {
    fn default() -> Self {
        Self::Owned(&[])
    }
}

impl<'a> Headers<'a> {
    pub(crate) fn encoded(headers: EncodedHeaders<'a>) -> Self {
        Self(Inner::Encoded(headers))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self.0 {
            Inner::Owned(headers) => headers.len(),
            Inner::Encoded(headers) => headers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of the first header with this name.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// The names and values.
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// The names and values of [`Headers`].
#[derive(Clone, Debug)]
pub struct HeadersIter<'a>(Inner<'a>);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::Owned(headers) => {
                let (first, rest) = headers.split_first()?;
                *headers = rest;
                Some((&first.name, &first.value))
            }
            Inner::Encoded(headers) => headers.take_first(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = Headers(self.0).len();
        (left, Some(left))
    }
}

impl ExactSizeIterator for HeadersIter<'_> {}

/// What a producer takes: [`Record`], `&Record` and [`RecordRef`].
pub trait AsRecord: sealed::Sealed {
    /// The record, borrowed.
    fn as_record(&self) -> RecordRef<'_>;
}

impl AsRecord for Record {
    fn as_record(&self) -> RecordRef<'_> {
        self.as_ref()
    }
}

impl AsRecord for &Record {
    fn as_record(&self) -> RecordRef<'_> {
        (*self).as_ref()
    }
}

impl AsRecord for RecordRef<'_> {
    fn as_record(&self) -> RecordRef<'_> {
        *self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Record {}
    impl Sealed for &super::Record {}
    impl Sealed for super::RecordRef<'_> {}
}
