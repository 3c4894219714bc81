//! What is known of a text before it is read.

use std::ops::Range;

use super::search::{LEVEL, edges};

/// Stretches shorter than this are not kept: to search them again costs next to nothing.
const LEAST_BYTES: usize = 16 << 10;

/// Stretches of a text, from one byte that may mean something inside of a string to the next.
///
/// By the time that a text of megabytes is all there, its first pieces have left the processor's caches. They are looked through
/// as they come, and a string that is a file in base64 is not fetched again to find its end.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    /// The last one is still open.
    stretches: Vec<Range<usize>>,
    /// Bytes looked through.
    len: usize,
}

/// Of a text that nobody has looked through.
pub(super) static NOTHING: Plain = Plain { stretches: Vec::new(), len: 0 };

impl Plain {
    /// Looks through the piece that comes next.
    pub fn note(&mut self, piece: &[u8]) {
        let (begin, end) = (self.len, self.len + piece.len());
        self.len = end;
        if self.stretches.is_empty() {
            self.stretches.push(begin..begin);
        }
        let Some(open) = self.stretches.last_mut() else { return };
        let Some((first, last)) = edges(*LEVEL, piece) else {
            open.end = end;
            return;
        };
        open.end = begin + first;
        if open.len() < LEAST_BYTES {
            self.stretches.pop();
        }
        self.stretches.push(begin + last + 1..end);
    }

    /// Where to look for the end of a string that begins here.
    pub(super) fn end(&self, from: usize) -> usize {
        // A stretch begins behind a byte that means something, as the quote of a string does.
        let known = self.stretches.binary_search_by_key(&from, |stretch| stretch.start);
        known.map_or(from, |at| self.stretches[at].end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::scan::{Noticed, Scan, object, object_in};

    #[test]
    fn stretches_go_from_one_mark_to_the_next_across_pieces() {
        let long = "x".repeat(LEAST_BYTES);
        let text = format!("{{\"a\":\"{long}\",\"b\":\"{long}{long}\\n{long}\"}}");
        let b = text.find("\"b\":\"").expect("stands there") + 5;
        for cut in (1..text.len()).step_by(997).chain([1, 6, 7, 8, b - 1, b, b + 1, text.len() - 3]) {
            let mut plain = Plain::default();
            [&text[..cut], &text[cut..]].iter().for_each(|piece| plain.note(piece.as_bytes()));
            // What lies between the first and the last mark of a piece is not looked at.
            let found = (plain.end(6), plain.end(b));
            assert!([6, 6 + long.len()].contains(&found.0), "{cut}: {found:?}");
            assert!([b, b + 2 * long.len()].contains(&found.1), "{cut}: {found:?}");
            if (b + 1..b + long.len()).contains(&cut) {
                assert_eq!(found.1, b + 2 * long.len(), "{cut}");
            }
        }
    }

    /// The same judgement and the same places with what is known as without, wherever the text is cut.
    #[test]
    fn what_is_known_changes_nothing_of_what_is_read() {
        let long = "x".repeat(LEAST_BYTES + 3);
        let parts = ["{\"a\":\"", "\\", "\\n", "\"", "\"}", "\u{e9}", "\u{1}", &long, &long];
        let skim = |scan: &mut Scan<'_>, _: Range<usize>| scan.skip().map(drop);
        let mut valid = 0;
        for number in 0..parts.len().pow(4) {
            let picked = (0..4).map(|place| parts[number / parts.len().pow(place) % parts.len()]);
            let text = format!("{{\"a\":\"{}\"}}", picked.collect::<String>());
            let bytes = text.as_bytes();
            let without: Result<Noticed, _> = object(bytes, skim);
            for piece in [bytes.len(), 20_000, 4_099] {
                let mut plain = Plain::default();
                bytes.chunks(piece).for_each(|piece| plain.note(piece));
                assert_eq!(object_in(bytes, &plain, skim), without, "{} in pieces of {piece}", text.len());
            }
            valid += usize::from(without.is_ok());
        }
        assert!(valid > 400, "{valid}");
    }
}
