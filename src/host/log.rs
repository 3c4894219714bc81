//! What guests say: lines of the process's own log, and notes in the decision trace.
//!
//! Bounded by the lease's output; never holds a secret, because guests have none to say.

use std::borrow::Cow;

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
    let (guest, id) = (&cx.guest.name, &cx.visit.id);
    match level {
        Level::Debug => tracing::debug!("{guest}: {} {fields} {id}", one_line(message)),
        Level::Info => tracing::info!("{guest}: {} {fields} {id}", one_line(message)),
        Level::Warn => tracing::warn!("{guest}: {} {fields} {id}", one_line(message)),
        Level::Error => tracing::error!("{guest}: {} {fields} {id}", one_line(message)),
    }
    Ok(())
}

/// A text without line ends, which would make two lines of one.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
        true => text.replace('\r', "\\r").replace('\n', "\\n").into(),
        false => text.into(),
    }
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
