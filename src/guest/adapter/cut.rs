//! Cutting an upstream's bytes into the pieces that an adapter asked for.
//!
//! Pure. A piece is handed on only when it is whole, wherever the network cut it.

use bytes::{Bytes, BytesMut};

use super::Framing;
use crate::fault::{Fault, Kind};
use crate::sse::{Frame, MAX_FRAME_BYTES, Scanner};

/// A piece of a stream, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Bytes(Bytes),
    Line(String),
    Event(StreamEvent),
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// The field `event`; empty where there is none.
    pub name: String,
    /// The field `data`, its lines joined.
    pub data: String,
}

/// The pieces of one stream.
pub enum Cutter {
    Bytes,
    Lines { held: BytesMut, max: usize },
    Events(Scanner),
}

impl Cutter {
    pub fn new(framing: Framing) -> Self {
        Cutter::bounded(framing, MAX_FRAME_BYTES)
    }

    fn bounded(framing: Framing, max: usize) -> Self {
        match framing {
            Framing::Bytes => Cutter::Bytes,
            Framing::Lines => Cutter::Lines { held: BytesMut::new(), max },
            Framing::Events => Cutter::Events(Scanner::bounded(max)),
        }
    }

    /// The whole pieces at hand after these bytes.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`]: a piece does not end within its bound.
    pub fn push(&mut self, bytes: Bytes) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        match self {
            Cutter::Bytes => pieces.push(Piece::Bytes(bytes)),
            Cutter::Lines { held, max } => {
                held.extend_from_slice(&bytes);
                while let Some(end) = memchr::memchr(b'\n', held) {
                    let line = held.split_to(end + 1);
                    pieces.extend(self::line(&line[..end]));
                }
                if held.len() > *max {
                    let text = format!("A line of the provider's stream is longer than {max} bytes.");
                    return Err(Fault::new(Kind::BadAnswer, text));
                }
            }
            Cutter::Events(scanner) => {
                scanner.push(bytes);
                while scanner.scan()? {
                    pieces.extend(event(&Frame(scanner.last())));
                }
                drop(scanner.take());
            }
        }
        Ok(pieces)
    }

    /// What is left at the end: a last line or event may lack its end.
    pub fn rest(&mut self) -> Option<Piece> {
        match self {
            Cutter::Bytes => None,
            Cutter::Lines { held, .. } => line(&held.split()),
            Cutter::Events(scanner) => event(&Frame(&scanner.rest()?)),
        }
    }
}

fn line(line: &[u8]) -> Option<Piece> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty()).then(|| Piece::Line(String::from_utf8_lossy(line).into_owned()))
}

fn event(frame: &Frame<'_>) -> Option<Piece> {
    let data = String::from_utf8_lossy(&frame.data()).into_owned();
    let name = frame.event().to_owned();
    (!data.is_empty() || !name.is_empty()).then_some(Piece::Event(StreamEvent { name, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text that comes in two, for every place of the cut.
    fn at_every_split(framing: Framing, text: &str) -> Vec<String> {
        let told = |cut: usize| {
            let mut cutter = Cutter::new(framing);
            let (first, second) = text.as_bytes().split_at(cut);
            let mut pieces = cutter.push(Bytes::copy_from_slice(first)).expect("fits");
            pieces.extend(cutter.push(Bytes::copy_from_slice(second)).expect("fits"));
            pieces.extend(cutter.rest());
            pieces.iter().map(|piece| format!("{piece:?}")).collect::<Vec<_>>()
        };
        let whole = told(0);
        for cut in 1..=text.len() {
            assert_eq!(told(cut), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn lines_are_whole_at_any_split() {
        let pieces = at_every_split(Framing::Lines, "{\"a\":\"é\"}\r\n\n{\"b\":1}\nlast");
        assert_eq!(pieces.len(), 3, "{pieces:?}");
    }

    #[test]
    fn events_are_whole_at_any_split() {
        let pieces =
            at_every_split(Framing::Events, "event: a\ndata: {\"x\":\ndata: 1}\n\n: quiet\n\ndata: é\n\ndata: end");
        assert_eq!(pieces.len(), 3, "{pieces:?}");
    }

    #[test]
    fn a_line_has_a_bound() {
        let mut cutter = Cutter::bounded(Framing::Lines, 10);
        cutter.push(Bytes::from_static(b"0123456789")).expect("just fits");
        assert_eq!(cutter.push(Bytes::from_static(b"0")).expect_err("refused").kind, Kind::BadAnswer);
    }
}
