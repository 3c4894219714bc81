//! What guests say: lines of the process's own log, and notes in the decision trace.
//!
//! Bounded by the lease's output, and lines by what one exchange may leave in a log that is the operator's; never holds a
//! secret, because guests have none to say. A text of theirs is never more than a part of a line.

use std::cell::RefCell;
use std::fmt;

use serde_json::Value;

use super::{Cx, HostError};

/// Lines that a guest may write in one exchange, and their bytes. What comes after is left out, and that is said once.
const MAX_LINES: u32 = 200;
const MAX_BYTES: usize = 64 << 10;

/// Lines that whoever tries a guest is shown of one trial, and characters of one.
const MAX_HEARD: usize = 20;
const MAX_HEARD_CHARS: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    /// Whether a line of this level is written anywhere.
    fn is_on(self) -> bool {
        match self {
            Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(tracing::Level::INFO),
            Level::Warn => tracing::enabled!(tracing::Level::WARN),
            Level::Error => tracing::enabled!(tracing::Level::ERROR),
        }
    }
}

/// What a guest has written in one exchange.
#[derive(Debug, Default)]
pub struct Written {
    lines: u32,
    bytes: usize,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// It is the first that is left out.
    Over,
    None,
}

impl Written {
    /// Counts a line of so many bytes.
    pub fn count(&mut self, bytes: usize) -> Room {
        if self.lines > MAX_LINES {
            return Room::None;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.lines += 1;
        if self.bytes > MAX_BYTES || self.lines > MAX_LINES {
            self.lines = MAX_LINES + 1;
            return Room::Over;
        }
        Room::Enough
    }
}

/// A line with the guest's name and the exchange's id, unless the guest has written too many in it.
///
/// # Errors
/// The call has put out too much.
pub fn line(cx: &Cx, level: Level, message: &str, fields: Option<&Value>) -> Result<(), HostError> {
    let fields = fields.map(Value::to_string).unwrap_or_default();
    let bytes = message.len() + fields.len();
    cx.lease.output(bytes)?;
    hear(level, message, &fields);
    if !level.is_on() {
        return Ok(());
    }
    let (message, fields) = (in_line(message), in_line(&fields));
    let (guest, id) = (&cx.guest.name, &cx.visit.id);
    match cx.visit.room_for_line(guest, bytes) {
        Room::Enough => {}
        Room::Over => {
            let most = MAX_BYTES >> 10;
            tracing::warn!("{guest}: writes more than {MAX_LINES} lines or {most} KiB; the rest is left out {id}");
            return Ok(());
        }
        Room::None => return Ok(()),
    }
    match level {
        Level::Debug => tracing::debug!("{guest}: {message} {fields} {id}"),
        Level::Info => tracing::info!("{guest}: {message} {fields} {id}"),
        Level::Warn => tracing::warn!("{guest}: {message} {fields} {id}"),
        Level::Error => tracing::error!("{guest}: {message} {fields} {id}"),
    }
    Ok(())
}

thread_local! {
    /// Set while somebody on this thread tries a guest and wants to see what it says.
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    /// Lines that there was no room for.
    left_out: usize,
    paused: bool,
}

/// Keeps what guests on this thread say, until [`heard`].
pub fn listen() {
    HEARD.set(Some(Heard::default()));
}

/// Keeps no more of what guests on this thread say, until [`heard`].
pub fn pause() {
    HEARD.with_borrow_mut(|heard| {
        if let Some(heard) = heard {
            heard.paused = true;
        }
    });
}

/// What guests on this thread have said, the first lines of it.
pub fn heard() -> Vec<String> {
    let Heard { mut lines, left_out, .. } = HEARD.take().unwrap_or_default();
    if left_out > 0 {
        lines.push(format!("log … and {left_out} lines more"));
    }
    lines
}

fn hear(level: Level, message: &str, fields: &str) {
    HEARD.with_borrow_mut(|heard| {
        let Some(heard) = heard.as_mut().filter(|heard| !heard.paused) else { return };
        if heard.lines.len() == MAX_HEARD {
            heard.left_out += 1;
            return;
        }
        let line = format!("log {}: {} {}", level.as_str(), in_line(message), in_line(fields));
        heard.lines.push(line.trim_end().chars().take(MAX_HEARD_CHARS).collect());
    });
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
    fn an_exchange_has_room_for_so_many_lines_and_says_once_that_it_has_no_more() {
        let mut many = Written::default();
        let rooms: Vec<Room> = (0..1000).map(|_| many.count(10)).collect();
        assert_eq!(rooms.iter().filter(|room| **room == Room::Enough).count(), 200);
        assert_eq!(rooms.iter().filter(|room| **room == Room::Over).count(), 1);
        assert_eq!((rooms[200], rooms[201]), (Room::Over, Room::None));
        let mut long = Written::default();
        let rooms = [60 << 10, 4 << 10, 1, 1].map(|bytes| long.count(bytes));
        assert_eq!(rooms, [Room::Enough, Room::Enough, Room::Over, Room::None]);
    }

    #[test]
    fn who_listens_hears_the_first_lines() {
        hear(Level::Info, "to nobody", "");
        listen();
        (0..30).for_each(|number| hear(Level::Warn, &format!("a\n{number}"), ""));
        pause();
        hear(Level::Error, "later", "");
        let lines = heard();
        assert_eq!((lines.len(), lines[0].as_str()), (21, r"log warn: a\n0"));
        assert_eq!(lines[20], "log … and 10 lines more");
        assert_eq!(heard(), Vec::<String>::new());
    }

    #[test]
    fn a_guests_text_cannot_begin_a_line() {
        let forged = "good\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{2028}x\ty";
        assert_eq!(in_line(forged).to_string(), r"good\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{2028}x\ty");
        let plain = r#"Grüße \ "a""#;
        assert_eq!(in_line(plain).to_string(), plain);
    }
}
