//! A strict JSON reader that keeps nothing: it only finds where values begin and end.
//!
//! Accepts exactly what RFC 8259 calls JSON, so that no two parsers behind it can read a body in two ways, and at the
//! speed of a byte search, because prompts are long. Never builds a value.

mod twice;

use std::ops::Range;
use std::sync::LazyLock;

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, u8x16, u8x64};

pub use twice::has_each_key_once;

/// Deepest nesting; the decoders behind this bound it alike.
const MAX_DEPTH: u32 = 128;

/// What strings begin with that this gateway made for another provider's eyes.
const SEALS: [&[u8]; 2] = [b"portcullis.", b"portcullis-call."];

/// Fields in which turns of a chat carry what a model thought, or what its provider sealed.
pub const THOUGHTS: &[&str] = &["reasoning_content", "reasoning", "reasoning_details", "extra_content"];

/// Base64 shorter than this is more likely to be something else than a file, and counts for little.
const LEAST_FILE_BYTES: usize = 256;

/// Bytes within which most strings end.
const NEAR: usize = 32;

/// The widest vectors that this processor has: long strings are searched with them.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::new);

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
            let (length, foreign) = dispatch!(Level::baseline(), simd => near(simd, block));
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
        let (end, foreign) = dispatch!(*LEVEL, simd => far(simd, self.text, from)).ok_or(Malformed)?;
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

/// What may follow a backslash, but for `u`.
const LETTERS: [bool; 256] = {
    let mut letters = [false; 256];
    let mut rest: &[u8] = b"\"\\/bfnrt";
    while let [letter, more @ ..] = rest {
        letters[*letter as usize] = true;
        rest = more;
    }
    letters
};

/// Whether what stands here may stand behind a backslash.
#[inline]
fn may_be_escaped(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(letter) if LETTERS[usize::from(*letter)] => true,
        Some(b'u') => text.get(at + 1..at + 5).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        _ => false,
    }
}

/// Whether a text stands in a JSON string as it is, without escapes.
pub fn is_plain(text: &str) -> bool {
    let (blocks, rest) = text.as_bytes().as_chunks::<16>();
    let mut last = [b' '; 16];
    last[..rest.len()].copy_from_slice(rest);
    let plain = |block| dispatch!(Level::baseline(), simd => marks(simd, u8x16::from_slice(simd, block)) == 0);
    blocks.iter().chain([&last]).all(|block| plain(&block[..]))
}

/// Where bytes are that mean anything inside of a string, a bit each: quotes, backslashes, control characters.
#[inline(always)]
fn marks<S: Simd, V: SimdInt<S, Element = u8>>(simd: S, bytes: V) -> u64 {
    let is = |byte| bytes.simd_eq(V::splat(simd, byte));
    (is(b'"') | is(b'\\') | bytes.simd_lt(V::splat(simd, b' '))).to_bitmask()
}

/// Whether one of the bytes is not ASCII.
#[inline(always)]
fn has_foreign<S: Simd, V: SimdInt<S, Element = u8>>(simd: S, bytes: V) -> bool {
    bytes.simd_ge(V::splat(simd, 0x80)).any_true()
}

/// How far it is to the first mark, and whether anything up to the end of its half is not ASCII.
#[inline(always)]
fn near<S: Simd>(simd: S, block: &[u8; NEAR]) -> (usize, bool) {
    let (first, second) = block.split_at(NEAR / 2);
    let mut seen = u8x16::from_slice(simd, first);
    let mut found = marks(simd, seen);
    if found == 0 {
        let second = u8x16::from_slice(simd, second);
        found = marks(simd, second) << (NEAR / 2);
        seen |= second;
    }
    (found.trailing_zeros() as usize, has_foreign(simd, seen))
}

/// Bytes that are searched at once: what a mask of 64 bits tells apart.
const BLOCK: usize = 64;

/// The closing quote of a string of any length, and whether a byte up to the end of its block is not ASCII. None where
/// there is none, or something before it that JSON has no place for.
///
/// Prompts are long and full of escapes. All of a block are told apart by arithmetic: where they stand is different each
/// time, so that a branch for each is guessed wrong half the time.
#[inline(always)]
fn far<S: Simd>(simd: S, text: &[u8], from: usize) -> Option<(usize, bool)> {
    let (blocks, rest) = text[from..].as_chunks::<BLOCK>();
    let mut search = Search { seen: u8x64::splat(simd, 0), carried: 0 };
    let mut start = from;
    // One loop over what lies in memory: chained with the block below, each would wait to learn where it is.
    for block in blocks {
        if let Some(found) = search.block(simd, block, text, start) {
            return found;
        }
        start += BLOCK;
    }
    // Behind the text there is nothing that ends a string.
    let mut last = [b' '; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    search.block(simd, &last, text, start).flatten()
}

/// What blocks before this one say.
struct Search<S: Simd> {
    /// All bytes so far, or-ed.
    seen: u8x64<S>,
    /// 1 where a backslash at the end of the block before escapes what this begins with.
    carried: u64,
}

impl<S: Simd> Search<S> {
    /// What [`far`] says if the string ends in this block, which begins at `start`, or must not go on.
    #[inline(always)]
    fn block(&mut self, simd: S, block: &[u8; BLOCK], text: &[u8], start: usize) -> Option<Option<(usize, bool)>> {
        let bytes = u8x64::from_slice(simd, block);
        self.seen |= bytes;
        let marks = marks(simd, bytes);
        if marks | self.carried == 0 {
            return None;
        }
        let is = |byte| bytes.simd_eq(u8x64::splat(simd, byte));
        let backslashes = is(b'\\').to_bitmask();
        let escaped = escaped(backslashes, &mut self.carried);
        // The first of these is the closing quote, or a control character.
        let ends = marks & !backslashes & !escaped;
        let before = ends.wrapping_sub(1) & !ends;
        // Nearly all that is escaped in prose and code; what else it may be, is looked at one by one.
        let usual = || (is(b'"') | is(b'\\') | is(b'n') | is(b't') | is(b'r')).to_bitmask();
        let inside = escaped & before;
        if inside != 0 && !each_bit(inside & !usual(), |bit| may_be_escaped(text, start + bit)) {
            return Some(None);
        }
        if ends == 0 {
            return None;
        }
        let bit = ends.trailing_zeros() as usize;
        Some((block[bit % BLOCK] == b'"').then(|| (start + bit, has_foreign(simd, self.seen))))
    }
}

/// Which bytes of a block are escaped by the backslashes in it, and by one at the end of the block before, which is what
/// `carried` is 1 for. Of backslashes in a row every other one escapes: adding where a row begins carries to its end, and
/// whether that is an odd place or an even one tells which. The way of simdjson.
#[inline(always)]
fn escaped(backslashes: u64, carried: &mut u64) -> u64 {
    const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    let begun = backslashes & !*carried;
    let escaping = ((begun << 1 | ODD).wrapping_sub(begun)) ^ ODD;
    let escaped = escaping ^ (backslashes | *carried);
    *carried = (escaping & backslashes) >> (BLOCK - 1);
    escaped
}

/// Whether it holds for each bit that is set.
#[inline]
fn each_bit(mut bits: u64, holds: impl Fn(usize) -> bool) -> bool {
    while bits != 0 {
        if !holds(bits.trailing_zeros() as usize) {
            return false;
        }
        bits &= bits - 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut found = Vec::new();
        object(text.as_bytes(), |scan, key| {
            found.push((&text[key], &text[scan.skip()?]));
            Ok(())
        })
        .ok()?;
        Some(found)
    }

    fn is_object(text: &[u8]) -> bool {
        object(text, |scan, _| scan.skip().map(drop)).is_ok()
    }

    #[test]
    fn members_are_found_where_they_stand() {
        let text =
            " {\"a\" :\t1.50e+2 ,\r\n\"\u{fc}\\\"b\":{\"c\":[ ]}, \"\":[[],{\"d\":\"]}\"},null], \"e\":\"\\u00fc\"}\n";
        let expected =
            [("a", "1.50e+2"), ("\u{fc}\\\"b", "{\"c\":[ ]}"), ("", "[[],{\"d\":\"]}\"},null]"), ("e", "\"\\u00fc\"")];
        assert_eq!(members(text).as_deref(), Some(&expected[..]));
        assert_eq!(members("{}").as_deref(), Some(&[][..]));
    }

    #[test]
    fn values_are_read_in_passing_and_others_passed_over() {
        let text = br#"{"a":"x\u00fc","a":[{"b":"1"},{"b":2.9},"c",{"b":[7]},{"b":-1},{"b":12}],"a":"", "a":{"b":1}}"#;
        let (mut texts, mut counts) = (Vec::new(), Vec::new());
        object(text, |scan, _| {
            if scan.peek() == Some(b'[') {
                return scan.array(|scan| {
                    scan.object(|scan, _| {
                        counts.push(scan.count()?);
                        Ok(())
                    })
                });
            }
            texts.push(scan.text()?);
            Ok(())
        })
        .expect("an object");
        assert_eq!(texts, [Some("x\u{fc}".to_owned()), None, None]);
        assert_eq!(counts, [None, Some(2), None, None, Some(12)]);
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
            assert_eq!(is_object(&whole), theirs, "{}", String::from_utf8_lossy(&whole));
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
        assert!(!is_object(b"{\"a\":\"\xff\"}"));
    }

    /// Escapes where one block ends and the next begins are judged as the parser behind it judges.
    #[test]
    fn the_judgement_is_serde_jsons_across_blocks() {
        const LETTERS: &[u8] = b"\\\"nx\n";
        let before_text = b"{\"a\":\"".len();
        let mut text = [0; 6];
        for number in 0..LETTERS.len().pow(6) {
            let mut rest = number;
            for letter in &mut text {
                *letter = LETTERS[rest % LETTERS.len()];
                rest /= LETTERS.len();
            }
            for before in BLOCK - 6..BLOCK {
                let whole = [b"{\"a\":\"", "x".repeat(before).as_bytes(), &text, b"\"}"].concat();
                let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&whole).is_ok();
                assert_eq!(is_object(&whole), theirs, "{}", String::from_utf8_lossy(&whole));
                // With the narrowest vectors as with the widest.
                let found = |level| dispatch!(level, simd => far(simd, &whole, before_text));
                assert_eq!(found(Level::baseline()), found(*LEVEL), "{}", String::from_utf8_lossy(&whole));
            }
        }
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(members(&nested(128)).is_some());
        assert!(members(&nested(129)).is_none());
    }

    #[test]
    fn sealed_strings_are_noticed_where_they_begin() {
        let sealed = |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop));
        let sealed = |text: &str| sealed(text).map(|noticed| noticed.sealed);
        assert_eq!(sealed(r#"{"a":[{"signature":"portcullis.x.y"}]}"#), Ok(true));
        assert_eq!(sealed(r#"{"a":"portcullis-call.x"}"#), Ok(true));
        assert_eq!(sealed(r#"{"a":"the portcullis.x", "portcullis":1}"#), Ok(false));
    }

    #[test]
    fn fields_of_thoughts_are_noticed_and_told_from_texts_about_them() {
        let noticed =
            |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop)).expect("an object").thoughts;
        for name in THOUGHTS {
            let field = format!(r#"{{"a":[{{"{name}" : "x"}}]}}"#);
            assert!(noticed(&field) && has_key(field.as_bytes(), name), "{name}");
            let word = format!(r#"{{"a":["{name}"]}}"#);
            assert!(!has_key(word.as_bytes(), name), "{name}");
            let text = format!(r#"{{"a":"it says \"{name}\": 1, {name}"}}"#);
            assert!(!noticed(&text) && !has_key(text.as_bytes(), name), "{name}");
        }
    }

    #[test]
    fn files_are_told_from_texts_about_them() {
        let base64 = "A".repeat(1000);
        let files = |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop)).expect("an object").files;
        let one = Files { count: 1, bytes: 1000 };
        for text in [
            format!(r#"{{"a":[{{"image_url":{{"url":"data:image/png;base64,{base64}"}}}}]}}"#),
            format!(r#"{{"a":[{{"inlineData":{{"mimeType":"image/png","data" : "{base64}"}}}}]}}"#),
            format!(r#"{{"data":"{base64}"}}"#),
            format!(r#"{{"data":"data:image/png;base64,{base64}"}}"#),
        ] {
            assert_eq!(files(&text), one, "{}", &text[..60]);
        }
        for text in [
            r#"{"a":[{"type":"image_url","image_url":{"url":"https://a.b/c.png","detail":"low"}}]}"#,
            r#"{"a":[{"type":"image_url","image_url":{"detail":"low","url":"https://a.b/c.png"}}]}"#,
            r#"{"a":[{"type":"input_image","image_url":"https://a.b/c.png"}]}"#,
            r#"{"a":[{"type":"image","source":{"type":"url","url":"https://a.b/c.png"}}]}"#,
            r#"{"a":[{"type":"image","source":{"type":"file","file_id":"file_1"}}]}"#,
            r#"{"a":[{"fileData":{"mimeType":"video/mp4","fileUri":"gs://a/b.mp4"}}]}"#,
        ] {
            assert_eq!(files(text), Files { count: 1, bytes: 0 }, "{text}");
        }
        for text in [
            format!(r#"{{"a":"it says \"data\":\"{base64}\" and data:image/png;base64,{base64}"}}"#),
            format!(r#"{{"a":"data: {base64}","data":{{"text":"{base64}"}}}}"#),
            r#"{"data":"short"}"#.to_owned(),
            r#"{"a":[{"type":"url_citation","url":"https://a.b"}],"b":{"url":"https://a.b"}}"#.to_owned(),
            r#"{"properties":{"image_url":{"type":"string","description":"https://a.b"},"source":{"type":"string"}}}"#
                .to_owned(),
        ] {
            assert_eq!(files(&text), Files::default(), "{}", &text[..16]);
        }
    }
}
