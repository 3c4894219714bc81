//! Where strings end: bytes compared many at a time, as the processor allows.

use std::sync::LazyLock;

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, u8x16, u8x64};

/// Bytes within which most strings end.
pub(super) const NEAR: usize = 32;

/// The widest vectors that this processor has: long strings are searched with them.
pub(super) static LEVEL: LazyLock<Level> = LazyLock::new(Level::new);

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
#[inline]
pub(super) fn near(block: &[u8; NEAR]) -> (usize, bool) {
    dispatch!(Level::baseline(), simd => near_with(simd, block))
}

#[inline(always)]
fn near_with<S: Simd>(simd: S, block: &[u8; NEAR]) -> (usize, bool) {
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
pub(super) const BLOCK: usize = 64;

/// The closing quote of a string of any length, and whether a byte up to the end of its block is not ASCII. None where
/// there is none, or something before it that JSON has no place for.
///
/// Prompts are long and full of escapes. All of a block are told apart by arithmetic: where they stand is different each
/// time, so that a branch for each is guessed wrong half the time.
#[inline]
pub(super) fn far(level: Level, text: &[u8], from: usize) -> Option<(usize, bool)> {
    dispatch!(level, simd => far_with(simd, text, from))
}

#[inline(always)]
fn far_with<S: Simd>(simd: S, text: &[u8], from: usize) -> Option<(usize, bool)> {
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
