//! Every file name of a log, built and parsed here alone.

use crate::{
    error::{Error, ErrorKind, Result},
    offset::Offset,
};

/// Locked while a writer has the log open.
pub(crate) const LOCK: &str = "LOCK";
/// Options and identity. A directory is a log if and only if it has this file.
pub(crate) const META: &str = "meta";
/// `meta` before it is complete.
pub(crate) const META_NEW: &str = "meta.new";
/// Durable point, offset reservation and what else recovery starts from.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// The directory of the groups' files.
pub(crate) const GROUPS: &str = "groups";
/// Durable commits of many groups, in the directory of the groups.
pub(crate) const COMMITS: &str = "commits";
/// The directory of what recovery took out.
pub(crate) const QUARANTINE: &str = "quarantine";

/// What is known of named producers, in two files that are written in turn.
const PRODUCERS: [&str; 2] = ["producers-0", "producers-1"];

const SEGMENT_SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".index";
const CLEANED_SUFFIX: &str = ".cleaned";
const GROUP_SUFFIX: &str = ".offset";
const PREPARED_PREFIX: &str = "next-";
/// Digits of the largest offset.
const OFFSET_DIGITS: usize = 20;
/// Longest name of a group; leaves room for suffixes below the 255 bytes of a file name.
const NAME_MAX: usize = 200;

/// The segment that starts at `base`.
pub(crate) fn segment(base: Offset) -> String {
    format!("{base:0OFFSET_DIGITS$}{SEGMENT_SUFFIX}")
}

/// The base offset in a segment's name; `None` if it is not one.
pub(crate) fn parse_segment(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let canonical = digits.len() == OFFSET_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if canonical {
        digits.parse().ok().map(Offset::new)
    } else {
        None
    }
}

/// The index of the segment that starts at `base`.
pub(crate) fn index(base: Offset) -> String {
    format!("{base:0OFFSET_DIGITS$}{INDEX_SUFFIX}")
}

/// The base offset in an index's name; `None` if it is not one.
pub(crate) fn parse_index(name: &str) -> Option<Offset> {
    let stem = name.strip_suffix(INDEX_SUFFIX)?;
    parse_segment(&format!("{stem}{SEGMENT_SUFFIX}"))
}

/// What is to take the place of the segment that starts at `base`, or of its index.
pub(crate) fn cleaned(base: Offset) -> String {
    format!("{base:0OFFSET_DIGITS$}{CLEANED_SUFFIX}")
}

pub(crate) fn is_cleaned(name: &str) -> bool {
    name.strip_suffix(CLEANED_SUFFIX)
        .is_some_and(|stem| parse_segment(&format!("{stem}{SEGMENT_SUFFIX}")).is_some())
}

/// A prepared segment whose first offset is not known yet.
pub(crate) fn prepared(id: u64) -> String {
    format!("{PREPARED_PREFIX}{id:016x}")
}

pub(crate) fn is_prepared(name: &str) -> bool {
    name.strip_prefix(PREPARED_PREFIX)
        .is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The file of the snapshot of this generation.
pub(crate) fn producers(generation: u64) -> &'static str {
    let [even, odd] = PRODUCERS;
    if generation.is_multiple_of(2) {
        even
    } else {
        odd
    }
}

pub(crate) fn is_producers(name: &str) -> bool {
    PRODUCERS.contains(&name)
}

/// The file of a group.
pub(crate) fn group(name: &str) -> String {
    format!("{name}{GROUP_SUFFIX}")
}

/// The group whose file this is.
pub(crate) fn parse_group(file: &str) -> Option<&str> {
    file.strip_suffix(GROUP_SUFFIX)
}

/// Bytes taken out of the segment at `base`, from `position` on; `copy` tells several apart.
pub(crate) fn quarantined(base: Offset, position: u64, copy: u32) -> String {
    format!("{base:0OFFSET_DIGITS$}-at-{position}-{copy}.unproven")
}

/// The bytes of a group's file that did not verify; `copy` tells several apart.
pub(crate) fn quarantined_group(name: &str, copy: u32) -> String {
    format!("{name}{GROUP_SUFFIX}-{copy}.damaged")
}

/// The note that says where the bytes of such a file are from.
pub(crate) fn quarantine_note(quarantined: &str) -> String {
    format!("{quarantined}.txt")
}

/// Checks a name that becomes part of a file name.
///
/// # Errors
///
/// [`ErrorKind::InvalidName`].
pub(crate) fn check_name(name: &str) -> Result<()> {
    let refuse = |reason| {
        let name = name.chars().take(NAME_MAX).collect();
        Err(ErrorKind::InvalidName { name, reason }.into())
    };
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > NAME_MAX {
        return refuse("it is longer than 200 bytes");
    }
    if name.starts_with('.') {
        return refuse("it starts with a dot");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return refuse("it has a character outside [A-Za-z0-9._-]");
    }
    Ok(())
}

/// Refuses `name` if one of `others` differs from it in case alone: some file systems would take
/// the two for one.
///
/// # Errors
///
/// [`ErrorKind::InvalidName`].
pub(crate) fn check_case<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Result<()> {
    for other in others {
        if other != name && other.eq_ignore_ascii_case(name) {
            let reason = "another one differs from it in case alone";
            return Err(Error::from(ErrorKind::InvalidName {
                name: name.to_owned(),
                reason,
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_sort_as_their_offsets_do_and_come_back() {
        let name = segment(Offset::new(131_072));
        assert_eq!(name, "00000000000000131072.log");
        assert_eq!(parse_segment(&name), Some(Offset::new(131_072)));
        assert_eq!(parse_segment(&segment(Offset::MAX)), Some(Offset::MAX));
    }

    #[test]
    fn what_is_to_take_a_segment_s_place_is_told_from_all_else() {
        let name = cleaned(Offset::new(131_072));
        assert_eq!(name, "00000000000000131072.cleaned");
        assert!(is_cleaned(&name));
        for other in ["1.cleaned", ".cleaned", &segment(Offset::ZERO)] {
            assert!(!is_cleaned(other), "{other}");
        }
    }

    #[test]
    fn what_is_not_the_one_spelling_of_an_offset_is_no_segment() {
        for name in [
            "1.log",
            "+0000000000000131072.log",
            "00000000000000131072",
            "x.log",
            ".log",
        ] {
            assert_eq!(parse_segment(name), None, "{name}");
        }
        assert_eq!(
            parse_segment("99999999999999999999.log"),
            None,
            "beyond 64 bits"
        );
    }

    #[test]
    fn names_outside_the_rule_are_refused() {
        let long = "x".repeat(300);
        for name in [
            "",
            ".hidden",
            "..",
            "a/b",
            "a b",
            "na\u{ef}ve",
            "a\0",
            &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "billing", "A-b_c.9", &"x".repeat(200)] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn names_that_differ_in_case_alone_are_refused() {
        assert!(check_case("Billing", ["billing"].into_iter()).is_err());
        assert!(check_case("billing", ["billing", "audit"].into_iter()).is_ok());
    }
}
