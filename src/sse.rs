//! Server-sent events: cutting a byte stream into frames at any split, and reading a frame.
//!
//! Frames come out as the bytes that came in, so that a relay stays byte-exact; nothing is decoded that nobody asks
//! for. Pure: no clock, no network.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memmem};

use crate::fault::{Fault, Kind};

/// Longest frame that is held while waiting for its end, unless stated. Images in a single event are the largest seen
/// (a few MB).
pub const MAX_FRAME_BYTES: usize = 32 << 20;

/// The byte order mark that a stream may begin with.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Cuts a stream into frames. A frame ends with an empty line; CRLF, LF and CR all end lines.
///
/// Frames are first scanned, then taken: a relay looks at each one and still takes neighbours in one piece.
#[derive(Debug)]
pub struct Scanner {
    max_frame_bytes: usize,
    held: BytesMut,
    /// A whole chunk that needs no copying, as long as nothing is held.
    chunk: Bytes,
    /// End of the last frame found; everything before it waits to be taken.
    found: usize,
    /// Length of the last frame found.
    last: usize,
    /// How far the bytes have been searched.
    searched: usize,
    /// `searched` is the start of a line.
    line_start: bool,
    /// The last byte searched was a CR that already ended its line: an LF right after belongs to it.
    after_cr: bool,
    /// The last line that was ended was ended with CRLF.
    crlf: bool,
    started: bool,
}

impl Scanner {
    /// A scanner at the start of a stream.
    pub fn new() -> Self {
        Scanner::bounded(MAX_FRAME_BYTES)
    }

    /// A scanner that refuses frames longer than this.
    pub fn bounded(max_frame_bytes: usize) -> Self {
        Scanner {
            max_frame_bytes,
            held: BytesMut::new(),
            chunk: Bytes::new(),
            found: 0,
            last: 0,
            searched: 0,
            line_start: true,
            after_cr: false,
            crlf: false,
            started: false,
        }
    }

    /// Takes the next bytes of the stream. Scan until nothing is found before the next push.
    pub fn push(&mut self, chunk: Bytes) {
        if self.held.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.hold();
            self.held.extend_from_slice(&chunk);
        }
    }

    /// Finds the next whole frame, without taking it. False when the bytes at hand hold none.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`] when a frame does not end within its bound.
    pub fn scan(&mut self) -> Result<bool, Fault> {
        let Some(end) = self.find_end() else {
            let held = self.bytes().len() - self.found;
            return if held > self.max_frame_bytes { Err(self.too_long()) } else { Ok(false) };
        };
        if end - self.found > self.max_frame_bytes {
            return Err(self.too_long());
        }
        self.last = end - self.found;
        self.found = end;
        self.searched = end;
        self.line_start = true;
        self.started = true;
        Ok(true)
    }

    /// The frame that [`Scanner::scan`] found last.
    pub fn last(&self) -> &[u8] {
        &self.bytes()[self.found - self.last..self.found]
    }

    /// Takes the frames found so far, in one piece; empty when there are none.
    pub fn take(&mut self) -> Bytes {
        self.last = 0;
        self.split(self.found)
    }

    /// Takes the frames before the last one found, which stays.
    pub fn take_before_last(&mut self) -> Bytes {
        self.split(self.found - self.last)
    }

    /// Drops the last frame found and takes those before it.
    pub fn take_without_last(&mut self) -> Bytes {
        let before = self.split(self.found - self.last);
        self.split(self.last);
        self.last = 0;
        before
    }

    /// The next whole frame with the line ends that close it, as it came.
    ///
    /// # Errors
    /// As [`Scanner::scan`].
    pub fn frame(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(if self.scan()? { Some(self.take()) } else { None })
    }

    /// What is left when the stream ends: a last frame that lacks its empty line, if it holds anything.
    pub fn rest(&mut self) -> Option<Bytes> {
        let rest = self.split(self.bytes().len());
        rest.iter().any(|byte| !matches!(byte, b'\r' | b'\n')).then_some(rest)
    }

    fn too_long(&self) -> Fault {
        let text = format!("One event of the stream is longer than {} bytes.", self.max_frame_bytes);
        Fault::new(Kind::BadAnswer, text)
    }

    fn bytes(&self) -> &[u8] {
        if self.held.is_empty() { &self.chunk } else { &self.held }
    }

    /// Copies what is left of the chunk to where it can grow.
    fn hold(&mut self) {
        if self.held.is_empty() {
            self.held.extend_from_slice(&self.chunk);
            self.chunk.clear();
        }
    }

    fn split(&mut self, at: usize) -> Bytes {
        self.found = self.found.saturating_sub(at);
        self.searched = self.searched.saturating_sub(at);
        if self.held.is_empty() { self.chunk.split_to(at) } else { self.held.split_to(at).freeze() }
    }

    fn find_end(&mut self) -> Option<usize> {
        let bytes: &[u8] = if self.held.is_empty() { &self.chunk } else { &self.held };
        let mut at = self.searched;
        // A BOM is no content: the first line begins after it. It stays in the frame for the relay.
        if !self.started && at == 0 && bytes.starts_with(BOM) {
            at = BOM.len();
        }
        while at < bytes.len() {
            if self.after_cr {
                self.after_cr = false;
                self.crlf = bytes[at] == b'\n';
                if self.crlf {
                    at += 1;
                    continue;
                }
            }
            let Some(offset) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_start = false;
                at = bytes.len();
                break;
            };
            let empty = offset == 0 && self.line_start;
            at += offset;
            match (bytes[at], bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    self.crlf = true;
                    at += 1;
                }
                // The LF is on its way. Without it the frame would leave it to the next one, and one of the two may not
                // go on to the client.
                (b'\r', None) if empty && self.crlf => {
                    self.searched = at;
                    return None;
                }
                // Elsewhere the frame may end here although an LF can still follow: waiting for it would delay the event.
                (b'\r', None) => self.after_cr = true,
                _ => self.crlf = false,
            }
            at += 1;
            self.line_start = true;
            if empty {
                return Some(at);
            }
        }
        self.searched = at;
        None
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner::new()
    }
}

/// One frame, read lazily.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(pub &'a [u8]);

impl<'a> Frame<'a> {
    /// The value of the last `event:` line, empty when there is none.
    pub fn event(&self) -> &'a str {
        if let Some((name, _)) = self.usual() {
            return std::str::from_utf8(name).unwrap_or_default();
        }
        let name = self.lines().filter_map(|line| field(line, b"event")).last();
        name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// The data, several lines joined by LF. Empty when there is none.
    pub fn data(&self) -> Cow<'a, [u8]> {
        if let Some((_, data)) = self.usual() {
            return Cow::Borrowed(data);
        }
        let mut data = self.lines().filter_map(|line| field(line, b"data"));
        let first = data.next().unwrap_or_default();
        let mut joined: Option<Vec<u8>> = None;
        for line in data {
            let joined = joined.get_or_insert_with(|| first.to_vec());
            joined.push(b'\n');
            joined.extend_from_slice(line);
        }
        joined.map_or(Cow::Borrowed(first), Cow::Owned)
    }

    /// The frame with other data; all else of it stays where its data stands in one line, as it nearly always does.
    pub fn with_data(&self, data: &[u8]) -> Vec<u8> {
        let now = self.data();
        if let Some(at) = memmem::find(self.0, &now) {
            return [&self.0[..at], data, &self.0[at + now.len()..]].concat();
        }
        let mut out = Vec::with_capacity(self.0.len() + data.len());
        if !self.event().is_empty() {
            out.extend_from_slice(format!("event: {}\n", self.event()).as_bytes());
        }
        out.extend_from_slice(b"data: ");
        // In JSON a line end is white space.
        out.extend(data.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        out.extend_from_slice(b"\n\n");
        out
    }

    /// Whether the frame's data may be what every dialect sends: JSON, `[DONE]`, or nothing. With `fully` the JSON is
    /// read to its end, else its last byte tells, which is where a torn frame shows.
    pub fn is_sound(&self, fully: bool) -> bool {
        if !fully && self.0.trim_ascii_end().ends_with(b"}") {
            return true;
        }
        let data = self.data();
        let data = data.trim_ascii();
        data.is_empty() || data == b"[DONE]" || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
    }

    /// Whether the bytes occur anywhere in the frame: a cheap test before a costly parse.
    pub fn contains(&self, needle: &[u8]) -> bool {
        memmem::find(self.0, needle).is_some()
    }

    /// Name and data of a frame as nearly all are written: a line of data, perhaps with a line for the name before it. It
    /// is not looked at line by line, which would cost more than all else that is done to it.
    fn usual(&self) -> Option<(&'a [u8], &'a [u8])> {
        let lines = self.0.strip_suffix(b"\n\n")?;
        let (name, data) = match lines.strip_prefix(b"event:") {
            Some(lines) => lines.split_at(memchr2(b'\n', b'\r', lines)?),
            None => (&b""[..], lines),
        };
        let data = data.strip_prefix(b"\n").unwrap_or(data).strip_prefix(b"data:")?;
        let value = |text: &'a [u8]| text.strip_prefix(b" ").unwrap_or(text);
        memchr2(b'\n', b'\r', data).is_none().then(|| (value(name), value(data)))
    }

    fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.0.strip_prefix(BOM).unwrap_or(self.0);
        bytes.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty())
    }
}

/// The value of `name: value`, one leading space removed. Comments begin with a colon and match no name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => rest.is_empty().then_some(rest),
    }
}

/// Appends one frame with a JSON value: `event:` line when `event` is not empty, then the data.
pub fn write(out: &mut Vec<u8>, event: &str, data: &impl serde::Serialize) {
    if !event.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    // Serialising our own types into memory fails only for maps with odd keys, which they do not have.
    let _ = serde_json::to_writer(&mut *out, data);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &[u8], sizes: impl Iterator<Item = usize>) -> Vec<(String, String)> {
        let mut scanner = Scanner::new();
        let (mut out, mut raw, mut from) = (Vec::new(), Vec::new(), 0);
        let mut read = |frame: Bytes, raw: &mut Vec<u8>| {
            raw.extend_from_slice(&frame);
            let view = Frame(&frame);
            out.push((view.event().to_owned(), String::from_utf8_lossy(&view.data()).into_owned()));
        };
        for size in sizes {
            let to = (from + size).min(text.len());
            scanner.push(Bytes::copy_from_slice(&text[from..to]));
            from = to;
            while let Some(frame) = scanner.frame().expect("bounded") {
                read(frame, &mut raw);
            }
            if from == text.len() {
                break;
            }
        }
        if let Some(frame) = scanner.rest() {
            read(frame, &mut raw);
        }
        let kept = text.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
        assert_eq!(raw.iter().filter(|byte| !byte.is_ascii_whitespace()).count(), kept, "bytes got lost");
        out.retain(|(event, data)| !event.is_empty() || !data.is_empty());
        out
    }

    const ODD: &[u8] = b"\xef\xbb\xbfevent: a\r\ndata: {\"x\":\r\ndata: 1}\r\n\r\n: keep-alive\n\ndata:\xc3\xbc\rdata\r\rid: 7\nevent:b\ndata:  two\n\n\n\ndata: [DONE]";

    #[test]
    fn every_split_gives_the_same_frames() {
        let whole = frames(ODD, std::iter::repeat(ODD.len()));
        let expected = [("a", "{\"x\":\n1}"), ("", "ü\n"), ("b", " two"), ("", "[DONE]")];
        assert_eq!(whole, expected.map(|(event, data)| (event.to_owned(), data.to_owned())));
        for first in 1..ODD.len() {
            assert_eq!(frames(ODD, [first, ODD.len()].into_iter()), whole, "split at {first}");
        }
        for size in 1..9 {
            assert_eq!(frames(ODD, std::iter::repeat(size)), whole, "pieces of {size}");
        }
    }

    #[test]
    fn line_ends_mix_at_every_split() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("data: 1{end}{end}event: x{end}data: 2{end}{end}data: 3{end}{end}");
            let whole = frames(text.as_bytes(), std::iter::repeat(text.len()));
            assert_eq!(whole.len(), 3, "{end:?}");
            for first in 1..text.len() {
                assert_eq!(frames(text.as_bytes(), [first, text.len()].into_iter()), whole, "{end:?} at {first}");
            }
        }
    }

    #[test]
    fn a_frame_comes_out_as_soon_as_its_empty_line_is_there() {
        for end in ["\r\r", "\n\n", "\r\n\r\n", "\n\r"] {
            let mut scanner = Scanner::new();
            let text = format!("data: 1{end}");
            scanner.push(Bytes::from(text.clone()));
            assert_eq!(scanner.frame().expect("bounded").as_deref(), Some(text.as_bytes()), "{end:?}");
        }
    }

    #[test]
    fn a_frame_ends_where_its_event_does_at_every_split() {
        for end in ["\n", "\r\n", "\r"] {
            let frames = ["event: x", "data: 2", "data: 3"].map(|line| format!("{line}{end}data: 1{end}{end}"));
            let text = frames.concat();
            for size in 1..=text.len() {
                for first in 0..size {
                    let mut scanner = Scanner::new();
                    let mut cut = Vec::new();
                    let (head, rest) = text.as_bytes().split_at(first);
                    for piece in std::iter::once(head).chain(rest.chunks(size)) {
                        scanner.push(Bytes::copy_from_slice(piece));
                        while let Some(frame) = scanner.frame().expect("bounded") {
                            cut.push(String::from_utf8(frame.to_vec()).expect("text"));
                        }
                    }
                    assert_eq!((cut.as_slice(), scanner.rest()), (&frames[..], None), "{end:?} {first} {size}");
                }
            }
        }
    }

    #[test]
    fn an_lf_that_never_comes_costs_no_event() {
        let mut scanner = Scanner::new();
        scanner.push(Bytes::from_static(b"data: 1\r\n\r"));
        assert!(scanner.frame().expect("bounded").is_none());
        scanner.push(Bytes::from_static(b"data: 2\r\n\r"));
        let frame = scanner.frame().expect("bounded").expect("the first");
        assert_eq!(frame.as_ref(), b"data: 1\r\n\r");
        assert!(scanner.frame().expect("bounded").is_none());
        assert_eq!(scanner.rest().as_deref(), Some(&b"data: 2\r\n\r"[..]));
    }

    #[test]
    fn a_frame_says_the_same_however_it_is_read() {
        let lines = [
            "data: {\"a\":1}",
            "data:x",
            "data:  x ",
            "data",
            "event: a",
            "event:b",
            "event",
            ": c",
            "id: 1",
            "dat: x",
            "",
        ];
        let of = |frame: &[u8], name: &[u8]| -> Vec<Vec<u8>> {
            let lines = frame.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty());
            lines.filter_map(|line| field(line, name).map(<[u8]>::to_vec)).collect()
        };
        let mut usual = 0;
        for first in lines {
            for second in lines {
                for end in ["\n\n", "\r\n\r\n", "\r\r", "\n", ""] {
                    for between in ["\n", "\r", "\r\n", ""] {
                        let text = format!("{first}{between}{second}{end}");
                        let frame = Frame(text.as_bytes());
                        let name = of(frame.0, b"event").pop().unwrap_or_default();
                        assert_eq!(frame.event().as_bytes(), name, "{text:?}");
                        assert_eq!(frame.data().as_ref(), of(frame.0, b"data").join(&b'\n'), "{text:?}");
                        usual += usize::from(frame.usual().is_some());
                    }
                }
            }
        }
        assert!(usual > 10);
    }

    #[test]
    fn torn_and_foreign_data_is_not_sound() {
        for sound in [
            "data: {\"a\":1}\n\n",
            ": ping\n\n",
            "data: [DONE]\n\n",
            "event: x\n\n",
            "data: {\ndata: }\n\n",
            "data: 1\n\n",
        ] {
            assert!(Frame(sound.as_bytes()).is_sound(true) && Frame(sound.as_bytes()).is_sound(false), "{sound}");
        }
        for torn in ["data: {\"a\":[1,\n\n", "data: <html>\n\n", "data: {\"a\":\"b\n\n"] {
            assert!(!Frame(torn.as_bytes()).is_sound(true) && !Frame(torn.as_bytes()).is_sound(false), "{torn}");
        }
        assert!(!Frame(b"data: {\"a\":{}\n\n").is_sound(true));
    }

    #[test]
    fn a_frame_longer_than_its_bound_is_refused_whole_or_not() {
        for text in ["data: 123456789\n\n", "data: 123456789"] {
            let mut scanner = Scanner::bounded(10);
            scanner.push(Bytes::copy_from_slice(text.as_bytes()));
            assert!(scanner.scan().is_err(), "{text}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut scanner = Scanner::new();
        let mut refused = false;
        for _ in 0..40 {
            scanner.push(Bytes::from(vec![b'x'; 1 << 20]));
            refused |= scanner.frame().is_err();
        }
        assert!(refused);
    }

    #[test]
    fn a_frame_with_other_data_is_else_as_it_came() {
        let with = |frame: &str| String::from_utf8(Frame(frame.as_bytes()).with_data(b"{}")).expect("UTF-8");
        assert_eq!(with("event: a\r\nid: 7\r\ndata:{\"x\":1}\r\n\r\n"), "event: a\r\nid: 7\r\ndata:{}\r\n\r\n");
        assert_eq!(with("data: {\"x\":1}\n\n"), "data: {}\n\n");
        assert_eq!(with("event: a\ndata: {\ndata: }\n\n"), "event: a\ndata: {}\n\n");
    }
}
