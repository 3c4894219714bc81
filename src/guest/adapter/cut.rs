//! Cutting an upstream's bytes into the pieces that an adapter asked for.
//!
//! Pure. A piece is handed on only when it is whole, wherever the network cut it. Push, then take pieces until there are
//! none.

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
    Bytes(Bytes),
    /// Of what is held the first `searched` bytes end no line: a long line that comes in many pieces is looked through once.
    Lines {
        held: BytesMut,
        searched: usize,
        max: usize,
    },
    Events(Scanner),
}

impl Cutter {
    pub fn new(framing: Framing) -> Self {
        Cutter::bounded(framing, MAX_FRAME_BYTES)
    }

    fn bounded(framing: Framing, max: usize) -> Self {
        match framing {
            Framing::Bytes => Cutter::Bytes(Bytes::new()),
            Framing::Lines => Cutter::Lines { held: BytesMut::new(), searched: 0, max },
            Framing::Events => Cutter::Events(Scanner::bounded(max)),
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: Bytes) {
        match self {
            Cutter::Bytes(held) => *held = bytes,
            Cutter::Lines { held, .. } => held.extend_from_slice(&bytes),
            Cutter::Events(scanner) => scanner.push(bytes),
        }
    }

    /// The next whole piece at hand.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`]: a piece does not end within its bound.
    pub fn next(&mut self) -> Result<Option<Piece>, Fault> {
        match self {
            Cutter::Bytes(held) => {
                let bytes = std::mem::take(held);
                Ok((!bytes.is_empty()).then_some(Piece::Bytes(bytes)))
            }
            Cutter::Lines { held, searched, max } => {
                while let Some(end) = memchr::memchr(b'\n', &held[*searched..]) {
                    let end = std::mem::take(searched) + end;
                    if let Some(piece) = line(&held.split_to(end + 1)[..end]) {
                        return Ok(Some(piece));
                    }
                }
                *searched = held.len();
                if held.len() > *max {
                    let text = format!("A line of the provider's stream is longer than {max} bytes.");
                    return Err(Fault::new(Kind::BadAnswer, text));
                }
                Ok(None)
            }
            Cutter::Events(scanner) => {
                while scanner.scan()? {
                    if let Some(piece) = event(&Frame(scanner.last())) {
                        return Ok(Some(piece));
                    }
                }
                drop(scanner.take());
                Ok(None)
            }
        }
    }

    /// What is left at the end: a last line or event may lack its end.
    pub fn rest(&mut self) -> Option<Piece> {
        match self {
            Cutter::Bytes(_) => None,
            Cutter::Lines { held, .. } => line(&held.split()),
            Cutter::Events(scanner) => event(&Frame(&scanner.rest()?)),
        }
    }
}

fn line(line: &[u8]) -> Option<Piece> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty()).then(|| Piece::Line(text(line)))
}

fn event(frame: &Frame<'_>) -> Option<Piece> {
    let data = text(&frame.data());
    let name = frame.event().to_owned();
    (!data.is_empty() || !name.is_empty()).then_some(Piece::Event(StreamEvent { name, data }))
}

/// What is no UTF-8 is replaced, and hardly ever looked for: almost all of it is.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text that comes in two, for every place of the cut.
    fn at_every_split(framing: Framing, text: &str) -> Vec<String> {
        let told = |cut: usize| {
            let mut cutter = Cutter::new(framing);
            let (first, second) = text.as_bytes().split_at(cut);
            let mut pieces = Vec::new();
            for bytes in [first, second] {
                cutter.push(Bytes::copy_from_slice(bytes));
                pieces.extend(std::iter::from_fn(|| cutter.next().expect("fits")));
            }
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
        cutter.push(Bytes::from_static(b"0123456789"));
        assert_eq!(cutter.next().expect("just fits"), None);
        assert!(matches!(cutter, Cutter::Lines { searched: 10, .. }), "and is looked through once");
        cutter.push(Bytes::from_static(b"0"));
        assert_eq!(cutter.next().expect_err("refused").kind, Kind::BadAnswer);
    }
}
