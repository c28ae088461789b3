//! Records and gaps as JSON, an object on a line each.

use std::io::{self, Write};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use duralog::{Compression, Gap, Offset, RecordRef};
use serde_json::json;

/// Bytes of a record, as its encoding says.
#[derive(Clone, Copy)]
enum Encoding {
    Text,
    Base64,
}

impl Encoding {
    /// Text if all of the record is.
    fn of(record: &RecordRef<'_>) -> Self {
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        let all = record.key().is_none_or(is_text)
            && record.value().is_none_or(is_text)
            && record.headers().iter().all(|(_, value)| is_text(value));
        if all { Self::Text } else { Self::Base64 }
    }

    fn write(self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Text, Ok(text)) => Ok(serde_json::to_writer(out, text)?),
            _ => write!(out, "\"{}\"", Base64Display::new(bytes, &STANDARD)),
        }
    }

    fn write_optional(self, out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
        match bytes {
            None => write!(out, "null"),
            Some(bytes) => self.write(out, bytes),
        }
    }
}

/// A record as a consumer sees it.
pub fn write_record(out: &mut impl Write, record: &RecordRef<'_>) -> io::Result<()> {
    write!(out, "{{")?;
    write_fields(out, record)?;
    writeln!(out, "}}")
}

/// A record with all that is stored about it.
pub fn write_stored_record(
    out: &mut impl Write,
    record: &RecordRef<'_>,
    compression: Compression,
) -> io::Result<()> {
    let appended = record.append_time().as_millis();
    let own = json!(record.own_timestamp().map(duralog::Timestamp::as_millis));
    let compression = compression.name();
    write!(out, r#"{{"append_time":{appended},"own_timestamp":{own},"#)?;
    write!(out, r#""compression":"{compression}","#)?;
    write_fields(out, record)?;
    writeln!(out, "}}")
}

fn write_fields(out: &mut impl Write, record: &RecordRef<'_>) -> io::Result<()> {
    let encoding = Encoding::of(record);
    let offset = json!(record.offset().map(Offset::get));
    let timestamp = record.timestamp().as_millis();
    write!(out, r#""offset":{offset},"timestamp":{timestamp},"key":"#)?;
    encoding.write_optional(out, record.key())?;
    write!(out, r#","value":"#)?;
    encoding.write_optional(out, record.value())?;
    write!(out, r#","headers":["#)?;
    for (index, (name, value)) in record.headers().iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(out, r#"{separator}{{"name":{},"value":"#, json!(name))?;
        encoding.write(out, value)?;
        write!(out, "}}")?;
    }
    write!(out, "]")?;
    if let Encoding::Base64 = encoding {
        write!(out, r#","encoding":"base64""#)?;
    }
    Ok(())
}

/// Offsets of records that this build can't decompress.
pub fn write_undecoded(
    out: &mut impl Write,
    from: Offset,
    to: Offset,
    codec: &str,
) -> io::Result<()> {
    let undecoded = json!({"from": from.get(), "to": to.get(), "compression": codec});
    writeln!(out, r#"{{"undecoded":{undecoded}}}"#)
}

/// Offsets without records.
pub fn write_gap(out: &mut impl Write, gap: &Gap) -> io::Result<()> {
    let gap = json!({
        "from": gap.from.get(),
        "to": gap.to.get(),
        "reason": gap.reason.to_string(),
    });
    writeln!(out, r#"{{"gap":{gap}}}"#)
}
