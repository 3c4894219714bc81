//! What guests say: lines of the process's own log, and notes in the decision trace.
//!
//! Bounded by the lease's output; never holds a secret, because guests have none to say. A text of theirs is never more
//! than a part of a line.

use std::fmt;

use serde_json::Value;

use super::{Cx, HostError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A line with the guest's name and the exchange's id.
///
/// # Errors
/// The call has put out too much.
pub fn line(cx: &Cx, level: Level, message: &str, fields: Option<&Value>) -> Result<(), HostError> {
    let fields = fields.map(Value::to_string).unwrap_or_default();
    cx.lease.output(message.len() + fields.len())?;
    let (message, fields) = (in_line(message), in_line(&fields));
    let (guest, id) = (&cx.guest.name, &cx.visit.id);
    match level {
        Level::Debug => tracing::debug!("{guest}: {message} {fields} {id}"),
        Level::Info => tracing::info!("{guest}: {message} {fields} {id}"),
        Level::Warn => tracing::warn!("{guest}: {message} {fields} {id}"),
        Level::Error => tracing::error!("{guest}: {message} {fields} {id}"),
    }
    Ok(())
}

/// A note in the decision trace.
///
/// # Errors
/// The call has put out too much.
pub fn note(cx: &Cx, what: Value, bytes: usize) -> Result<(), HostError> {
    cx.lease.output(bytes)?;
    cx.visit.note(&cx.guest.name, || what);
    Ok(())
}

/// A guest's text as a part of a line of the log. Every text of a guest passes here on its way to the log.
pub fn in_line(text: &str) -> InLine<'_> {
    InLine(text)
}

/// Writes what would end the line, or move the cursor of whoever reads it, as its escape; costs nothing where the line is
/// not written.
pub struct InLine<'a>(&'a str);

impl fmt::Display for InLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let mut rest = self.0;
        while let Some(at) = rest.find(breaks) {
            f.write_str(&rest[..at])?;
            let mut chars = rest[at..].chars();
            if let Some(c) = chars.next() {
                write!(f, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_text_cannot_begin_a_line() {
        let forged = "good\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{2028}x\ty";
        assert_eq!(in_line(forged).to_string(), r"good\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{2028}x\ty");
        let plain = r#"Grüße \ "a""#;
        assert_eq!(in_line(plain).to_string(), plain);
    }
}
