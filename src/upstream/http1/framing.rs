//! Where the body of an HTTP/1.1 answer ends: a stated length, chunks, or the connection's own end.
//!
//! Pure: takes bytes as they come, split anywhere, and says which of them are content. Never holds any.

use bytes::Bytes;
use smallvec::SmallVec;

/// Most bytes of chunk extensions and trailers in one answer. Nobody sends any; they are passed over.
const MAX_EXTRA_BYTES: usize = 16 << 10;

/// The answer breaks the rules of HTTP/1.1; what it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// How far a body has come.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes are to come.
    Length(u64),
    Chunks(Chunks),
    /// It ends with the connection.
    Close,
}

/// A chunked body under way.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Bytes to come of the chunk, or its size as far as it has been read.
    size: u64,
    extra: usize,
}

/// What comes next in a chunked body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first digit of a size.
    #[default]
    Size,
    Digits,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    ChunkEnd,
    /// A trailer, or the empty line that ends the body.
    Line,
    Trailer,
    LastEnd,
    Over,
}

impl Framing {
    /// Takes what the connection gave: the content in it, in one piece, and how many bytes belong to this body.
    ///
    /// # Errors
    /// [`Malformed`], after which the connection is good for nothing.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(Bytes, usize), Malformed> {
        match self {
            Framing::Length(left) => {
                let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= length as u64;
                Ok((Bytes::copy_from_slice(&bytes[..length]), length))
            }
            Framing::Chunks(chunks) => chunks.take(bytes),
            Framing::Close => Ok((Bytes::copy_from_slice(bytes), bytes.len())),
        }
    }

    /// Whether the body is complete.
    pub fn is_over(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunks(chunks) => chunks.at == At::Over,
            Framing::Close => false,
        }
    }

    /// What is left to come, where it was stated.
    pub fn left(&self) -> Option<u64> {
        match self {
            Framing::Length(left) => Some(*left),
            Framing::Chunks(_) | Framing::Close => None,
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<(Bytes, usize), Malformed> {
        // Nearly always one chunk comes at a time, and then its content is copied once.
        let mut runs: SmallVec<[&[u8]; 4]> = SmallVec::new();
        let mut rest = bytes;
        while let (false, Some((first, after))) = (self.at == At::Over, rest.split_first()) {
            if self.at == At::Data {
                let length = usize::try_from(self.size).map_or(rest.len(), |left| left.min(rest.len()));
                let (run, after) = rest.split_at(length);
                runs.push(run);
                rest = after;
                self.size -= length as u64;
                if self.size == 0 {
                    self.at = At::DataEnd;
                }
            } else if let Some(after) = self.usual_line(rest) {
                rest = after;
            } else {
                self.at = self.step(*first)?;
                rest = after;
            }
        }
        let content = match runs[..] {
            [] => Bytes::new(),
            [only] => Bytes::copy_from_slice(only),
            _ => runs.concat().into(),
        };
        Ok((content, bytes.len() - rest.len()))
    }

    /// Past what nearly always stands between two chunks' content: a line end, or a size that is digits and a line end
    /// alone, whole. Anything else is looked at byte by byte.
    fn usual_line<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self.at {
            At::DataEnd => {
                let after = bytes.strip_prefix(b"\r\n")?;
                self.at = At::Size;
                Some(after)
            }
            At::Size => {
                let mut size = 0;
                // Eight digits hold any chunk but a monstrous one, and cannot overflow.
                for (at, byte) in bytes.iter().enumerate().take(9) {
                    if let Some(digit) = char::from(*byte).to_digit(16) {
                        size = size << 4 | u64::from(digit);
                        continue;
                    }
                    let after = bytes[at..].strip_prefix(b"\r\n").filter(|_| size > 0)?;
                    (self.size, self.at) = (size, At::Data);
                    return Some(after);
                }
                None
            }
            _ => None,
        }
    }

    /// Past one byte that is not content.
    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            (At::Size | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = self.size.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                self.size = size.ok_or(Malformed("a chunk is too large"))?;
                At::Digits
            }
            (At::Digits | At::Extension, b'\r') => At::SizeEnd,
            (At::Digits, b';' | b' ' | b'\t') => At::Extension,
            (At::Extension, byte) if byte != b'\n' => self.spend(At::Extension)?,
            (At::SizeEnd, b'\n') if self.size == 0 => At::Line,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataEnd, b'\r') => At::ChunkEnd,
            (At::ChunkEnd, b'\n') => At::Size,
            (At::Line, b'\r') => At::LastEnd,
            (At::LastEnd, b'\n') => At::Over,
            (At::Trailer, b'\n') => At::Line,
            (At::Line | At::Trailer, _) => self.spend(At::Trailer)?,
            _ => return Err(Malformed("the chunks are not framed as chunks")),
        })
    }

    fn spend(&mut self, next: At) -> Result<At, Malformed> {
        self.extra += 1;
        if self.extra > MAX_EXTRA_BYTES { Err(Malformed("the chunks carry too much beside them")) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of a chunked body given in two parts, whether it is over, and how much of it was its own.
    fn halves(body: &[u8], cut: usize) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut framing = Framing::Chunks(Chunks::default());
        let (mut content, mut used) = (Vec::new(), 0);
        for part in [&body[..cut], &body[cut..]] {
            let (piece, taken) = framing.take(part)?;
            content.extend_from_slice(&piece);
            used += taken;
        }
        Ok((content, framing.is_over(), used))
    }

    #[test]
    fn chunks_are_read_at_every_split() {
        let body = b"5\r\nhello\r\n1a;name=\"v\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx-sum: 1\r\n\r\n";
        for cut in 0..=body.len() {
            let (content, over, used) = halves(body, cut).expect("is sound");
            assert_eq!(content, b"helloabcdefghijklmnopqrstuvwxyz", "cut at {cut}");
            assert!(over && used == body.len(), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_the_last_chunk_is_not_taken() {
        assert_eq!(halves(b"1\r\na\r\n0\r\n\r\nHTTP/1.1", 3), Ok((b"a".to_vec(), true, 11)));
    }

    #[test]
    fn a_body_that_breaks_off_is_not_over() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        for end in 0..body.len() {
            assert!(!halves(&body[..end], end / 2).expect("is sound").1, "{end}");
        }
    }

    #[test]
    fn what_is_not_framed_as_chunks_is_refused() {
        let long = format!("1;{}\r\na", "x".repeat(MAX_EXTRA_BYTES + 1));
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "5\nhello",
            "5\r\rhello",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "5;a\nb\r\n",
            "10000000000000000\r\n",
            ";\r\n",
            "0\r\n\r\r",
            &long,
        ] {
            assert!(halves(body.as_bytes(), 0).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_stated_length_is_kept_to() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.take(b"hel"), Ok((Bytes::from_static(b"hel"), 3)));
        assert_eq!((framing.is_over(), framing.left()), (false, Some(2)));
        assert_eq!(framing.take(b"loHTTP"), Ok((Bytes::from_static(b"lo"), 2)));
        assert!(framing.is_over());
    }
}
