//! A strict JSON reader that keeps nothing: it only finds where values begin and end.
//!
//! Accepts exactly what RFC 8259 calls JSON, so that no two parsers behind it can read a body in two ways, and at the
//! speed of a byte search, because prompts are long. Never builds a value.

use std::ops::Range;

use memchr::memchr2;

/// Deepest nesting; the decoders behind this bound it alike.
const MAX_DEPTH: u32 = 128;

/// What strings begin with that this gateway made for another provider's eyes.
const SEALS: [&[u8]; 2] = [b"portcullis.", b"portcullis-call."];

/// It is not JSON. Whoever wants to know why asks a parser that can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One member of an object: positions of the key, without its quotes, and of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub key: Range<usize>,
    pub value: Range<usize>,
}

/// Calls `each` with every member of the object that `text` is. Returns whether a sealed string was met anywhere.
///
/// # Errors
/// [`Malformed`] when the text is not one JSON object and white space; `each` may have been called before.
pub fn object(text: &[u8], mut each: impl FnMut(Member)) -> Result<bool, Malformed> {
    let mut scan = Scan::new(text)?;
    scan.space();
    scan.expect(b'{')?;
    scan.space();
    let mut more = !scan.eat(b'}');
    while more {
        let key = scan.key()?;
        each(Member { key, value: scan.value()? });
        more = scan.goes_on(b'}')?;
    }
    scan.end()?;
    Ok(scan.sealed)
}

/// Calls `each` with every element of the array that `text` is.
///
/// # Errors
/// As [`object`].
pub fn array(text: &[u8], mut each: impl FnMut(Range<usize>)) -> Result<(), Malformed> {
    let mut scan = Scan::new(text)?;
    scan.space();
    scan.expect(b'[')?;
    scan.space();
    let mut more = !scan.eat(b']');
    while more {
        each(scan.value()?);
        more = scan.goes_on(b']')?;
    }
    scan.end()
}

/// A string value; None for any other.
pub fn text(raw: &[u8]) -> Option<String> {
    let inside = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inside.contains(&b'\\') {
        return serde_json::from_slice(raw).ok();
    }
    std::str::from_utf8(inside).ok().map(str::to_owned)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// No control characters anywhere: then no string needs to be searched for them.
    clean: bool,
    sealed: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a [u8]) -> Result<Self, Malformed> {
        // One pass that compilers turn into vector code tells both that it is ASCII and that it is clean.
        let (low, high) = text.iter().fold((u8::MAX, 0), |(low, high), byte| (low.min(*byte), high.max(*byte)));
        if !high.is_ascii() && std::str::from_utf8(text).is_err() {
            return Err(Malformed);
        }
        Ok(Scan { text, at: 0, clean: low >= b' ', sealed: false })
    }

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

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed) }
    }

    /// After a member or element: whether another one follows; otherwise `close` was there.
    fn goes_on(&mut self, close: u8) -> Result<bool, Malformed> {
        self.space();
        if self.eat(b',') {
            self.space();
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    /// A key with its colon, up to the value's first byte.
    fn key(&mut self) -> Result<Range<usize>, Malformed> {
        let key = self.string()?;
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(key)
    }

    fn value(&mut self) -> Result<Range<usize>, Malformed> {
        let from = self.at;
        match self.peek() {
            Some(b'{' | b'[') => self.nested()?,
            _ => self.flat()?,
        }
        Ok(from..self.at)
    }

    /// A value without others inside.
    fn flat(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
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
    fn string(&mut self) -> Result<Range<usize>, Malformed> {
        self.expect(b'"')?;
        let from = self.at;
        if self.peek() == Some(b'p') {
            self.sealed |= SEALS.iter().any(|seal| self.text[from..].starts_with(seal));
        }
        loop {
            self.at = quote_or_backslash(self.text, self.at).ok_or(Malformed)?;
            if self.text[self.at] == b'"' {
                break;
            }
            self.escape()?;
        }
        let inside = from..self.at;
        self.at += 1;
        let control = |text: &[u8]| text.iter().fold(false, |seen, byte| seen | (*byte < b' '));
        if !self.clean && control(&self.text[inside.clone()]) {
            return Err(Malformed);
        }
        Ok(inside)
    }

    /// An escape, from its backslash.
    fn escape(&mut self) -> Result<(), Malformed> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.text.get(self.at + 2..self.at + 6).ok_or(Malformed)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Malformed);
                }
                self.at += 6;
            }
            _ => return Err(Malformed),
        }
        Ok(())
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

/// The next quote or backslash.
fn quote_or_backslash(text: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The lowest set bit is exact; those above it may be carries, which does not matter.
    let equal = |word: u64, byte: u8| {
        let zero = word ^ (ONES * u64::from(byte));
        zero.wrapping_sub(ONES) & !zero & HIGHS
    };
    let rest = text.get(from..)?;
    // Keys, short values and text full of escapes: the vector search would take longer to begin than this to end.
    let mut at = 0;
    while at < 32
        && let Some(word) = rest[at..].first_chunk()
    {
        let word = u64::from_le_bytes(*word);
        let found = equal(word, b'"') | equal(word, b'\\');
        if found != 0 {
            return Some(from + at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', &rest[at..]).map(|found| from + at + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut found = Vec::new();
        object(text.as_bytes(), |member| found.push((&text[member.key], &text[member.value]))).ok()?;
        Some(found)
    }

    #[test]
    fn members_are_found_where_they_stand() {
        let text =
            " {\"a\" :\t1.50e+2 ,\r\n\"\u{fc}\\\"b\":{\"c\":[ ]}, \"\":[[],{\"d\":\"]}\"},null], \"e\":\"\\u00fc\"}\n";
        let expected =
            [("a", "1.50e+2"), ("\u{fc}\\\"b", "{\"c\":[ ]}"), ("", "[[],{\"d\":\"]}\"},null]"), ("e", "\"\\u00fc\"")];
        assert_eq!(members(text).as_deref(), Some(&expected[..]));
        assert_eq!(members("{}").as_deref(), Some(&[][..]));
        let mut found = Vec::new();
        array(b"[1, {\"a\":[2]} ,\"]\"]", |at| found.push(at)).expect("an array");
        assert_eq!(found, [1..2, 4..13, 15..18]);
        assert_eq!((super::text(br#""a\u00fc""#).as_deref(), super::text(b"1")), (Some("a\u{fc}"), None));
    }

    /// Every short text over the characters that matter is judged as the parser behind it judges.
    #[test]
    fn the_judgement_is_serde_jsons_for_every_short_text() {
        const LETTERS: &[u8] = b"{}[]\":,\\0-.e1tu \n";
        let mut text = [0; 5];
        for number in 0..LETTERS.len().pow(5) {
            let mut rest = number;
            for letter in &mut text {
                *letter = LETTERS[rest % LETTERS.len()];
                rest /= LETTERS.len();
            }
            let whole = [b"{\"a\":", &text[..], b"}"].concat();
            let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&whole).is_ok();
            assert_eq!(object(&whole, |_| ()).is_ok(), theirs, "{}", String::from_utf8_lossy(&whole));
        }
    }

    #[test]
    fn strings_are_read_at_every_length_and_offset() {
        for length in 0..80 {
            for special in ["\\\"", "\\\\", "\\u0041", "\\n", "", "\u{1f600}"] {
                let text = format!("{{\"{}{special}{}\":true}}", "x".repeat(length), "y".repeat(80 - length));
                assert_eq!(members(&text).map(|found| found[0].1), Some("true"), "{text}");
            }
            for broken in ["\u{1}", "\n", "\\x", "\\u12", "\\u12g4", "\"", "\\"] {
                let text = format!("{{\"a\":\"{}{broken}", "x".repeat(length));
                assert!(members(&format!("{text}\"}}")).is_none() && members(&text).is_none(), "{text}");
            }
        }
        assert!(object(b"{\"a\":\"\xff\"}", |_| ()).is_err());
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(members(&nested(128)).is_some());
        assert!(members(&nested(129)).is_none());
    }

    #[test]
    fn sealed_strings_are_noticed_where_they_begin() {
        let sealed = |text: &str| object(text.as_bytes(), |_| ());
        assert_eq!(sealed(r#"{"a":[{"signature":"portcullis.x.y"}]}"#), Ok(true));
        assert_eq!(sealed(r#"{"a":"portcullis-call.x"}"#), Ok(true));
        assert_eq!(sealed(r#"{"a":"the portcullis.x", "portcullis":1}"#), Ok(false));
    }
}
