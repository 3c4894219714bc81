//! A strict JSON reader that keeps nothing: it only finds where values begin and end.
//!
//! Accepts exactly what RFC 8259 calls JSON, so that no two parsers behind it can read a body in two ways, and at the
//! speed of a byte search, because prompts are long. Never builds a value.

mod search;
#[cfg(test)]
mod tests;
mod twice;

use std::ops::Range;

pub use search::is_plain;
use search::{LEVEL, NEAR, far, near};
pub use twice::has_each_key_once;

/// Deepest nesting; the decoders behind this bound it alike.
const MAX_DEPTH: u32 = 128;

/// What strings begin with that this gateway made for another provider's eyes.
const SEALS: [&[u8]; 2] = [b"portcullis.", b"portcullis-call."];

/// Fields in which turns of a chat carry what a model thought, or what its provider sealed.
pub const THOUGHTS: &[&str] = &["reasoning_content", "reasoning", "reasoning_details", "extra_content"];

/// Base64 shorter than this is more likely to be something else than a file, and counts for little.
const LEAST_FILE_BYTES: usize = 256;

/// Longest head of a data URL: media type and parameters.
const MAX_URL_HEAD_BYTES: usize = 256;

/// What is noticed on the way through a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noticed {
    /// A string begins like those that this gateway seals.
    pub sealed: bool,
    /// A string is one of [`THOUGHTS`], be it a key or not.
    pub thoughts: bool,
    pub files: Files,
    /// Values within others: what it takes to hold the text decoded goes by their number.
    pub values: u64,
}

/// Files that stand in a text as base64, in a data URL or in a field called `data`, and those it names by a URL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    pub count: u64,
    /// Length of the base64 altogether.
    pub bytes: u64,
}

/// What the key read last says of a string behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// It may be the bytes of a file.
    Data,
    /// It may be where a file lies.
    Link,
    /// Nothing, but a `url` beside it is where a file lies.
    Beside,
    Other,
}

impl Of {
    /// The same of the key that follows. URLs of other things, such as sources of an answer, do not stand under these names.
    #[inline]
    fn then(self, key: &[u8]) -> Of {
        match (key, self) {
            (b"data", _) => Of::Data,
            (b"image_url" | b"file_url" | b"fileUri" | b"file_uri", _) => Of::Link,
            (b"url" | b"file_id", Of::Link | Of::Beside) => Of::Link,
            (b"source", _) | (b"type" | b"detail", Of::Link | Of::Beside) => Of::Beside,
            _ => Of::Other,
        }
    }
}

/// It is not JSON. Whoever wants to know why asks a parser that can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads the one JSON object that `text` is: `each` is called at the value of every member, told where its key stands
/// without the quotes, and must move past the value by one of the calls below.
///
/// Returns what was noticed in it.
///
/// # Errors
/// [`Malformed`] when the text is not one JSON object and white space; `each` may have been called before.
pub fn object<'a>(
    text: &'a [u8],
    each: impl FnMut(&mut Scan<'a>, Range<usize>) -> Result<(), Malformed>,
) -> Result<Noticed, Malformed> {
    let mut scan = Scan { text, at: 0, foreign: false, of: Of::Other, noticed: Noticed::default() };
    scan.space();
    if scan.peek() != Some(b'{') {
        return Err(Malformed);
    }
    scan.object(each)?;
    scan.space();
    // Outside of strings the grammar itself is ASCII.
    let utf8 = !scan.foreign || std::str::from_utf8(text).is_ok();
    if scan.at == text.len() && utf8 { Ok(scan.noticed) } else { Err(Malformed) }
}

/// A place in a JSON text.
pub struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// A string had bytes that are not ASCII.
    foreign: bool,
    of: Of,
    noticed: Noticed,
}

/// At the first byte of a value, each of these moves past it. A value of another kind than asked for is passed over.
impl<'a> Scan<'a> {
    /// Any value; where it stands.
    pub fn skip(&mut self) -> Result<Range<usize>, Malformed> {
        let from = self.at;
        match self.peek() {
            Some(b'{' | b'[') => self.nested()?,
            _ => self.flat()?,
        }
        Ok(from..self.at)
    }

    /// The members of an object, as [`object`].
    pub fn object(
        &mut self,
        mut each: impl FnMut(&mut Scan<'a>, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if self.peek() != Some(b'{') {
            return self.skip().map(drop);
        }
        self.at += 1;
        self.space();
        let mut more = !self.eat(b'}');
        while more {
            let key = self.key()?;
            each(self, key)?;
            more = self.goes_on(b'}')?;
        }
        Ok(())
    }

    /// The elements of an array.
    pub fn array(&mut self, mut each: impl FnMut(&mut Scan<'a>) -> Result<(), Malformed>) -> Result<(), Malformed> {
        if self.peek() != Some(b'[') {
            return self.skip().map(drop);
        }
        self.at += 1;
        self.space();
        let mut more = !self.eat(b']');
        while more {
            each(self)?;
            more = self.goes_on(b']')?;
        }
        Ok(())
    }

    /// Whether an object begins here.
    pub fn at_object(&self) -> bool {
        self.peek() == Some(b'{')
    }

    /// A string that is not empty.
    pub fn text(&mut self) -> Result<Option<String>, Malformed> {
        if self.peek() != Some(b'"') {
            return self.skip().map(|_| None);
        }
        let at = self.string()?;
        let inside = &self.text[at.clone()];
        Ok(match std::str::from_utf8(inside) {
            _ if inside.contains(&b'\\') => serde_json::from_slice(&self.text[at.start - 1..at.end + 1]).ok(),
            Ok(text) => Some(text).filter(|text| !text.is_empty()).map(str::to_owned),
            Err(_) => None,
        })
    }

    /// A count: a number that is not negative, without its fraction.
    pub fn count(&mut self) -> Result<Option<u64>, Malformed> {
        // Short and plain, as counts are; what is not is read by a parser.
        const SHORT: usize = 18;
        let rest = &self.text[self.at..];
        let (mut count, mut length) = (0, 0);
        while let Some(digit @ b'0'..=b'9') = rest.get(length) {
            if length == SHORT {
                break;
            }
            count = count * 10 + u64::from(digit - b'0');
            length += 1;
        }
        let goes_on = matches!(rest.get(length), Some(b'0'..=b'9' | b'.' | b'e' | b'E'));
        if length > 0 && !goes_on && (rest[0] != b'0' || length == 1) {
            self.at += length;
            return Ok(Some(count));
        }
        let at = self.skip()?;
        let number = serde_json::from_slice::<f64>(&self.text[at]).ok();
        Ok(number.filter(|number| *number >= 0.0).map(|number| number as u64))
    }
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.eat(byte) { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    fn space(&mut self) {
        // Nothing else that JSON is made of is as low: mostly one comparison tells that there is none.
        if self.peek() <= Some(b' ') {
            self.spaces();
        }
    }

    #[inline(never)]
    fn spaces(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// After a member or element: whether another one follows; otherwise `close` was there.
    fn goes_on(&mut self, close: u8) -> Result<bool, Malformed> {
        self.space();
        if self.peek() == Some(b',') {
            self.pass();
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    /// A key with its colon, up to the value's first byte.
    #[inline]
    fn key(&mut self) -> Result<Range<usize>, Malformed> {
        let key = self.string()?;
        self.of = self.of.then(&self.text[key.clone()]);
        self.space();
        if self.peek() != Some(b':') {
            return Err(Malformed);
        }
        self.pass();
        Ok(key)
    }

    /// Past the byte that stands here, up to what is no white space.
    #[inline]
    fn pass(&mut self) {
        self.at += 1;
        self.space();
    }

    /// A value without others inside.
    #[inline]
    fn flat(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'"') => {
                let at = self.string()?;
                match self.of {
                    Of::Data if !self.text[at.clone()].starts_with(b"data:") => self.notice_file(at.len()),
                    Of::Link => self.noticed.files.count += u64::from(is_link(&self.text[at])),
                    _ => {}
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(Malformed),
        }
    }

    /// An object or array with all that is inside, without recursion: clients choose the depth.
    fn nested(&mut self) -> Result<(), Malformed> {
        let mut open = Open::default();
        loop {
            self.noticed.values += 1;
            // A value is due.
            let object = self.peek() == Some(b'{');
            if object || self.peek() == Some(b'[') {
                self.at += 1;
                self.space();
                open.push(object)?;
                if self.peek() != Some(open.close()) {
                    if object {
                        self.key()?;
                    }
                    continue;
                }
                self.at += 1;
                open.pop();
            } else {
                self.flat()?;
            }
            // A value has ended, and perhaps those around it with it.
            while !open.is_empty() && !self.goes_on(open.close())? {
                open.pop();
            }
            if open.is_empty() {
                return Ok(());
            }
            if open.is_object() {
                self.key()?;
            }
        }
    }

    /// A string; the positions are those between the quotes.
    #[inline]
    fn string(&mut self) -> Result<Range<usize>, Malformed> {
        if self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        let from = self.at + 1;
        // Keys and words end within a few bytes, and have no escapes.
        if let Some(block) = self.text[from..].first_chunk::<NEAR>() {
            let (length, foreign) = near(block);
            if block.get(length) == Some(&b'"') {
                self.foreign |= foreign;
                self.notice_word(from..from + length);
                self.at = from + length + 1;
                return Ok(from..from + length);
            }
        }
        self.long(from)
    }

    /// A string of any length. Apart, so that short ones do without its room.
    #[inline(never)]
    fn long(&mut self, from: usize) -> Result<Range<usize>, Malformed> {
        let to = self.end(from)?;
        self.at = to + 1;
        let string = &self.text[from..to];
        match string.first() {
            Some(b'd') if string.len() >= LEAST_FILE_BYTES => self.notice_file(url_data(string)),
            _ => self.notice_word(from..to),
        }
        Ok(from..to)
    }

    #[inline]
    fn notice_word(&mut self, at: Range<usize>) {
        let string = &self.text[at];
        match string.first() {
            Some(b'p') => self.noticed.sealed |= is_sealed(string),
            Some(b'r' | b'e') => self.noticed.thoughts |= THOUGHTS.iter().any(|name| string == name.as_bytes()),
            _ => {}
        }
    }

    fn notice_file(&mut self, bytes: usize) {
        if bytes >= LEAST_FILE_BYTES {
            self.noticed.files.count += 1;
            self.noticed.files.bytes += bytes as u64;
        }
    }

    /// The closing quote of a string.
    fn end(&mut self, from: usize) -> Result<usize, Malformed> {
        let (end, foreign) = far(*LEVEL, self.text, from).ok_or(Malformed)?;
        self.foreign |= foreign;
        Ok(end)
    }

    fn number(&mut self) -> Result<(), Malformed> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(Malformed) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }
}

/// The brackets that are open, innermost last; a bit each.
#[derive(Default)]
struct Open {
    depth: u32,
    objects: u128,
}

impl Open {
    fn push(&mut self, object: bool) -> Result<(), Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(Malformed);
        }
        self.objects = self.objects << 1 | u128::from(object);
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    fn is_empty(&self) -> bool {
        self.depth == 0
    }

    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn close(&self) -> u8 {
        if self.is_object() { b'}' } else { b']' }
    }
}

/// Whether a string says where a file lies, and is not the file itself.
fn is_link(string: &[u8]) -> bool {
    [b"http".as_slice(), b"gs://", b"file"].iter().any(|begin| string.starts_with(begin))
}

/// Whether a string begins like those that this gateway seals.
#[inline]
fn is_sealed(string: &[u8]) -> bool {
    SEALS.iter().any(|seal| string.starts_with(seal))
}

/// Whether a key of this name stands in sound JSON, however deep.
pub fn has_key(json: &[u8], name: &str) -> bool {
    let quoted = format!("\"{name}\"");
    // Quotes within strings are escaped, so what is found is a whole string; before a colon it is a key.
    memchr::memmem::find_iter(json, quoted.as_bytes())
        .any(|at| json[at + quoted.len()..].trim_ascii_start().first() == Some(&b':'))
}

/// Length of the base64 in a data URL (RFC 2397); 0 for any other text.
fn url_data(text: &[u8]) -> usize {
    const MARK: &[u8] = b";base64,";
    let head = &text[..text.len().min(MAX_URL_HEAD_BYTES)];
    let mark = if head.starts_with(b"data:") { memchr::memmem::find(head, MARK) } else { None };
    mark.map_or(0, |at| text.len() - at - MARK.len())
}
