//! A body as it came off the wire: in one piece, or in several where it is long.
//!
//! Long bodies are mostly files in base64, and relayed: joining their pieces would cost more than everything else that is done
//! with them. Whoever must see all of one in a row has it joined, once.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Pieces, without_mark};

#[derive(Debug, Clone)]
pub enum Text {
    One(Bytes),
    Many(Arc<Many>),
}

/// At least two pieces, none of them empty.
#[derive(Debug)]
pub struct Many {
    pieces: Vec<Bytes>,
    /// Where each begins.
    starts: Vec<usize>,
    length: usize,
    joined: OnceLock<Bytes>,
}

impl Text {
    /// Pieces as they came, less the mark that some writers of UTF-8 begin with.
    pub fn of(mut pieces: Vec<Bytes>) -> Self {
        if let Some(first) = pieces.first_mut() {
            *first = without_mark(std::mem::take(first));
        }
        pieces.retain(|piece| !piece.is_empty());
        if pieces.len() < 2 {
            return Text::One(pieces.pop().unwrap_or_default());
        }
        let mut length = 0;
        let starts = pieces.iter().map(|piece| (length, length += piece.len()).0).collect();
        Text::Many(Arc::new(Many { pieces, starts, length, joined: OnceLock::new() }))
    }

    pub fn size(&self) -> usize {
        match self {
            Text::One(text) => text.len(),
            Text::Many(many) => many.length,
        }
    }

    /// All of it in a row.
    pub fn whole(&self) -> &Bytes {
        match self {
            Text::One(text) => text,
            Text::Many(many) => many.joined.get_or_init(|| many.pieces.concat().into()),
        }
    }

    pub fn pieces(&self) -> &[Bytes] {
        match self {
            Text::One(text) => std::slice::from_ref(text),
            Text::Many(many) => &many.pieces,
        }
    }

    /// What stands there.
    pub fn get(&self, at: Range<usize>) -> &[u8] {
        match self {
            Text::One(text) => &text[at],
            Text::Many(many) => many.within(&at).unwrap_or_else(|| &self.whole()[at]),
        }
    }

    /// Adds what stands there to `pieces`.
    pub fn slice(&self, at: Range<usize>, pieces: &mut Pieces) {
        match self {
            _ if at.is_empty() => {}
            Text::One(text) => pieces.push(text.slice(at)),
            Text::Many(many) => pieces.extend(many.parts(at)),
        }
    }
}

impl Many {
    /// The piece in which a byte stands.
    fn piece(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// What stands there, if it stands in one piece.
    fn within(&self, at: &Range<usize>) -> Option<&[u8]> {
        let piece = self.piece(at.start);
        let start = self.starts[piece];
        self.pieces[piece].get(at.start - start..at.end - start)
    }

    fn parts(&self, at: Range<usize>) -> impl Iterator<Item = Bytes> {
        let pieces = self.pieces.iter().zip(&self.starts).skip(self.piece(at.start));
        pieces
            .take_while(move |(_, start)| **start < at.end)
            .map(move |(piece, start)| piece.slice(at.start.saturating_sub(*start)..piece.len().min(at.end - start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_joined_text_wherever_it_is_torn() {
        let all = b"0123456789";
        for (one, two) in (0..=all.len()).flat_map(|one| (one..=all.len()).map(move |two| (one, two))) {
            let pieces = [&all[..one], &all[one..two], &all[two..]].map(Bytes::from_static).to_vec();
            let text = Text::of(pieces);
            assert_eq!((text.size(), &text.whole()[..]), (all.len(), &all[..]));
            for (from, to) in (0..=all.len()).flat_map(|from| (from..=all.len()).map(move |to| (from, to))) {
                let mut parts = Pieces::new();
                text.slice(from..to, &mut parts);
                assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
                assert_eq!(parts.concat(), all[from..to]);
                assert_eq!(text.get(from..to), &all[from..to]);
            }
        }
    }

    #[test]
    fn the_mark_of_utf8_is_left_out() {
        let pieces = ["\u{feff}", "{", "}"].map(|piece| Bytes::from_static(piece.as_bytes())).to_vec();
        assert_eq!(&Text::of(pieces).whole()[..], b"{}");
        assert_eq!(Text::of(Vec::new()).size(), 0);
    }
}
