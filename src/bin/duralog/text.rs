//! Bytes and times as people read them.

use std::{
    fmt::{self, Display, Formatter, Write},
    time::Duration,
};

use duralog::{Offset, Start, Timestamp};

const MILLIS_OF_DAY: i64 = 24 * 60 * 60 * 1000;

/// Bytes in quotes: text as it is, everything else escaped.
pub struct Quoted<'a>(pub &'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(at) = rest.find(needs_a_look) {
                let (plain, other) = rest.split_at(at);
                f.write_str(plain)?;
                let mut chars = other.chars();
                for char in chars.by_ref().take(1) {
                    write!(f, "{}", char.escape_debug())?;
                }
                rest = chars.as_str();
            }
            f.write_str(rest)?;
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        f.write_char('"')
    }
}

/// Whether a character may have to be escaped. (An apostrophe needs it in single quotes alone.)
fn needs_a_look(char: char) -> bool {
    matches!(char, '"' | '\\') || !(char.is_ascii_graphic() || char == ' ')
}

/// A time in UTC, to the millisecond, as RFC 3339 has it.
pub struct Utc(pub Timestamp);

impl Display for Utc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (year, month, day) = civil(millis.div_euclid(MILLIS_OF_DAY));
        let of_day = millis.rem_euclid(MILLIS_OF_DAY);
        let (seconds, millis) = (of_day / 1000, of_day % 1000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z"
        )
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that a leap day is the last of its year, and months have a
/// regular pattern.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_ERA: i64 = 146_097;
    /// From 0000-03-01, where an era of 400 years begins, to 1970-01-01.
    const EPOCH: i64 = 719_468;
    let days = days + EPOCH;
    let (era, day) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

/// Where to start, or to go on.
pub fn parse_start(text: &str) -> Result<Start, &'static str> {
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    let number = match text.strip_prefix('@') {
        Some(millis) => millis.parse().map(Timestamp::from_millis).map(Start::Time),
        None => text.parse().map(Offset::new).map(Start::At),
    };
    number.map_err(|_| "expected earliest, latest, an offset, or @ and milliseconds")
}

/// A time in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_gregorian_calendar() {
        let told = |millis| Utc(Timestamp::from_millis(millis)).to_string();
        assert_eq!(told(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(told(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(told(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(told(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(told(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(told(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn any_time_at_all_can_be_told() {
        for millis in [i64::MIN, i64::MAX] {
            assert!(
                Utc(Timestamp::from_millis(millis))
                    .to_string()
                    .ends_with('Z')
            );
        }
    }

    #[test]
    fn text_is_told_as_it_is_and_other_bytes_are_escaped() {
        let told = |bytes: &[u8]| Quoted(bytes).to_string();
        assert_eq!(told("it's \u{fc}ber".as_bytes()), "\"it's \u{fc}ber\"");
        assert_eq!(told(b"a\"b\\c\n\0"), r#""a\"b\\c\n\0""#);
        assert_eq!(told(b"x\xff\xfey"), r#""x\xff\xfey""#);
    }
}
