//! Bodies that come off a socket and bodies that go out to one.
//!
//! Only moves bytes; what they mean is `stream`'s and `dialect`'s affair. With `server`, `upstream` and `mock` this is
//! the only room that knows hyper.

pub mod bell;
pub mod paced;
pub mod tape;
mod waiting;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::exchange::Used;
use crate::fault::Fault;
use crate::json::Pieces;
use crate::upstream;

/// A body that somebody sends us: a client's request or an upstream's answer.
#[derive(Debug)]
pub enum Inbound {
    Socket(Incoming),
    /// An upstream's answer over HTTP/1.1, read off its socket by whoever polls.
    Direct(Box<upstream::Body>),
    /// Bytes at hand, for tests and answers made here.
    Ready(Option<Bytes>),
    /// The same in pieces.
    Pieces(std::collections::VecDeque<Bytes>),
    /// A stream at hand, event by event.
    Paced(Box<paced::Paced>),
    /// One of several readers of a body.
    Shared(tape::Reader),
    /// Pieces that somebody in this process sends: the upstreams of trials.
    Channel(tokio::sync::mpsc::UnboundedReceiver<Result<Bytes, String>>),
    /// A stream that is made here while it is read.
    Made(Box<dyn Made>),
}

/// A body that is made piece by piece for whoever reads it.
pub trait Made: Send + std::fmt::Debug {
    /// As [`Inbound::poll_data`].
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>>;

    /// What it broke off with.
    fn fault(&self) -> Option<&Fault>;
}

/// A stream at hand: all at once, or with a pause after each event.
pub fn at_pace(stream: Bytes, pace: Option<std::time::Duration>) -> Inbound {
    match pace {
        None => Inbound::Ready(Some(stream)),
        Some(pace) => Inbound::Paced(Box::new(paced::Paced::new(stream, pace))),
    }
}

/// A body that is sent piece by piece from within the process.
pub fn channel() -> (tokio::sync::mpsc::UnboundedSender<Result<Bytes, String>>, Inbound) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (sender, Inbound::Channel(receiver))
}

/// Why a body could not be read to its end.
#[derive(Debug)]
pub enum ReadError {
    /// It is longer than allowed.
    TooLarge,
    /// It broke off.
    Broken(String),
    /// It is not framed as its protocol wants it.
    Malformed(String),
    /// Nothing came for too long.
    Silent,
}

/// How long a reader waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When the first piece is due.
    pub first: Instant,
    /// The longest silence after it.
    pub idle: std::time::Duration,
}

impl Inbound {
    /// Bytes at hand, to be given in these pieces.
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Inbound::Pieces(pieces.into_iter().collect())
    }

    /// The next piece; None at the end. Errors: the connection broke, in hyper's words.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        match self {
            Inbound::Ready(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Inbound::Direct(body) => body.poll_data(cx),
            Inbound::Paced(paced) => paced.poll_next(cx).map(|event| event.map(Ok)),
            Inbound::Pieces(pieces) => Poll::Ready(pieces.pop_front().map(Ok)),
            Inbound::Shared(reader) => reader.poll_data(cx),
            Inbound::Channel(receiver) => receiver.poll_recv(cx),
            Inbound::Made(made) => made.poll_data(cx),
            Inbound::Socket(incoming) => {
                poll_socket(incoming, cx).map(|next| next.map(|data| data.map_err(|error| error_chain(&error))))
            }
        }
    }

    /// What it broke off with, where more is known of that than words.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Inbound::Made(made) => made.fault().cloned(),
            Inbound::Shared(reader) => reader.fault(),
            _ => None,
        }
    }

    /// The same with what is wrong told apart, as far as it can be.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        match self {
            Inbound::Socket(incoming) => {
                poll_socket(incoming, cx).map(|next| next.map(|data| data.map_err(read_error)))
            }
            other => other.poll_data(cx).map(|next| next.map(|data| data.map_err(ReadError::Broken))),
        }
    }

    /// Reads to the end, or until `limit` bytes are exceeded, or, with patience, until that has an end.
    pub async fn read(&mut self, limit: usize, patience: Option<Patience>) -> Result<Bytes, ReadError> {
        if self.stated_len().is_some_and(|len| len > limit as u64) {
            return Err(ReadError::TooLarge);
        }
        let mut first = Bytes::new();
        let mut whole: Option<BytesMut> = None;
        let mut due = patience.map(|patience| patience.first);
        loop {
            let next = std::future::poll_fn(|cx| self.poll_piece(cx));
            let next = match due {
                Some(due) => timeout_at(due, next).await.map_err(|_| ReadError::Silent)?,
                None => next.await,
            };
            let Some(piece) = next else { break };
            let piece = piece?;
            let have = whole.as_ref().map_or(first.len(), BytesMut::len);
            if have + piece.len() > limit {
                return Err(ReadError::TooLarge);
            }
            match &mut whole {
                Some(whole) => whole.extend_from_slice(&piece),
                // Most bodies come in one piece and are never copied.
                None if first.is_empty() => first = piece,
                None => {
                    // The stated length, within the limit, saves growing; without one the buffer doubles.
                    let rest = self.stated_len().unwrap_or(0).min(limit as u64) as usize;
                    let mut bytes = BytesMut::with_capacity(first.len() + piece.len() + rest);
                    bytes.extend_from_slice(&first);
                    bytes.extend_from_slice(&piece);
                    whole = Some(bytes);
                }
            }
            // Of what has come whole nothing more is waited for, and no clock is read.
            if self.is_over() {
                break;
            }
            due = patience.map(|patience| Instant::now() + patience.idle);
        }
        Ok(whole.map_or(first, BytesMut::freeze))
    }

    /// Whether nothing more comes, as far as its framing tells already.
    fn is_over(&self) -> bool {
        match self {
            Inbound::Socket(incoming) => incoming.is_end_stream(),
            Inbound::Direct(body) => body.is_at_hand() && body.left() == Some(0),
            _ => false,
        }
    }

    /// Whether all of it is here, so that reading it takes no time.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Inbound::Ready(_) | Inbound::Pieces(_) => true,
            Inbound::Direct(body) => body.is_at_hand(),
            Inbound::Socket(_) | Inbound::Paced(_) | Inbound::Shared(_) | Inbound::Channel(_) | Inbound::Made(_) => {
                false
            }
        }
    }

    /// What is left to come, where the sender stated a length.
    fn stated_len(&self) -> Option<u64> {
        match self {
            Inbound::Socket(incoming) => incoming.size_hint().exact(),
            Inbound::Direct(body) => body.left(),
            Inbound::Ready(bytes) => bytes.as_ref().map(|bytes| bytes.len() as u64),
            Inbound::Paced(paced) => Some(paced.len() as u64),
            Inbound::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Inbound::Shared(_) | Inbound::Channel(_) | Inbound::Made(_) => None,
        }
    }
}

fn poll_socket(incoming: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        return match std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => Poll::Ready(Some(Ok(data))),
                // Trailers carry nothing that any dialect uses.
                Err(_) => continue,
            },
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        };
    }
}

/// What an error of hyper's says of a body: of one that it could not make sense of, the cause is of a kind of its own.
fn read_error(error: hyper::Error) -> ReadError {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match cause.map(std::io::Error::kind) {
        Some(InvalidInput | InvalidData) => ReadError::Malformed(error_chain(&error)),
        _ => ReadError::Broken(error_chain(&error)),
    }
}

/// An error with its causes, on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Whether a request has been written out, and what its answer had used by then, for those who may have to say so when its
/// sender is gone.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<Way>);

#[derive(Debug, Default)]
struct Way {
    noted: AtomicBool,
    used: OnceLock<Used>,
}

impl Sent {
    pub fn note(&self) {
        self.0.noted.store(true, Ordering::Relaxed);
    }

    pub fn is_noted(&self) -> bool {
        self.0.noted.load(Ordering::Relaxed)
    }

    /// The answer is not waited for any longer, and the provider has stated this.
    pub fn state(&self, used: Used) {
        let _ = self.0.used.set(used);
    }

    /// What it used, where it went out and nothing came of it: what the provider has stated, else `given_up`.
    pub fn used(&self, given_up: Option<Used>) -> Option<Used> {
        let stated = || self.0.used.get().copied().or(given_up);
        self.is_noted().then(stated).flatten()
    }
}

/// A request body for an upstream, in slices that are never joined.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pieces: Pieces,
    next: usize,
    /// Who is told when all of it has gone out.
    sent: Option<Sent>,
    hurries: bool,
}

impl Outgoing {
    pub fn new(pieces: Pieces) -> Self {
        Outgoing { pieces, ..Outgoing::default() }
    }

    /// Has it go out at once rather than with those of others: somebody waits for the first token.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// Has it told when all of it has gone out.
    pub fn tell(&mut self, sent: &Sent) {
        self.sent = Some(sent.clone());
    }

    /// Who is to be told.
    pub fn sent(&self) -> Option<&Sent> {
        self.sent.as_ref()
    }

    /// What is still to go out.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces[self.next..]
    }

    pub fn len(&self) -> u64 {
        self.pieces[self.next..].iter().map(|piece| piece.len() as u64).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Self {
        // No piece rather than an empty one: writing nothing looks like a connection that takes nothing.
        Outgoing::new(if bytes.is_empty() { Pieces::new() } else { smallvec::smallvec![Bytes::from(bytes)] })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let at = self.next;
        match self.pieces.get_mut(at).map(std::mem::take) {
            Some(piece) => {
                self.next += 1;
                if self.is_end_stream()
                    && let Some(sent) = &self.sent
                {
                    sent.note();
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
