//! HTTP/1.1 to an upstream, driven by whoever waits for the answer.
//!
//! No task and no channel stand between the socket and the exchange: the task that serves the client polls the
//! upstream's socket itself. That saves two wake-ups a request and one a chunk, and a connection that waits for its next
//! chunk holds no buffer. Never retries; says whether it would be safe.

mod framing;
mod head;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{Method, Response};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Outbound;
use super::connect::Io;
use super::lane::Lane;
use crate::body::Sent;
use crate::defer::{self, Writer};
use framing::{Framing, Malformed};

/// Bytes read at once.
const SCRATCH: usize = 64 << 10;

thread_local! {
    /// Where all connections of a worker read to; what is read is worked off before anybody else reads.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// One connection.
pub struct Conn {
    line: Arc<Mutex<Line>>,
    /// An earlier request was answered on it.
    answered: bool,
    /// The present request is a HEAD, whose answer has no body whatever its head says.
    of_head: bool,
}

/// A connection's socket, to which its request is written by whoever waits for the answer or by the worker. The lock is
/// never contended: both are one thread.
struct Line {
    io: Io,
    /// What of the request is still to be written.
    unsent: Unsent,
}

/// Why a request got no answer.
#[derive(Debug)]
pub struct Lost {
    pub why: String,
    /// It answered, with a head that we do not read.
    pub unread: bool,
    /// The upstream closed a kept connection at the very moment we used it: no byte came back, so the request was not
    /// served and may be sent again.
    pub raced: bool,
}

/// The body of an answer. Dropped before its end it closes the connection, which tells the upstream to stop.
pub struct Body {
    conn: Option<Box<Conn>>,
    framing: Framing,
    /// What came along with the head.
    first: Bytes,
    keep: bool,
    lane: Arc<Lane>,
}

/// A head, the first of the body, and whether nothing came after it.
type Answered = (head::Head, Bytes, bool);

/// Why there is no head, and whether one came that we do not read.
type Unanswered = (String, bool);

impl Conn {
    pub fn new(io: Io) -> Box<Self> {
        Box::new(Conn {
            line: Arc::new(Mutex::new(Line { io, unsent: Unsent::default() })),
            answered: false,
            of_head: false,
        })
    }

    /// Whether the connection is as it was left. Anything that comes in between, an end most of all, ends its use.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.line().io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends a request and waits for the head of its answer. The connection goes to `lane` when the body has been read.
    ///
    /// # Errors
    /// [`Lost`] when none came.
    pub async fn send(mut self: Box<Self>, request: &Outbound, lane: Arc<Lane>) -> Result<Response<Body>, Lost> {
        self.of_head = request.method == Method::HEAD;
        self.begin(request);
        // A head that comes in pieces; mostly it does not.
        let mut held = Vec::new();
        let mut heard = false;
        let answered = std::future::poll_fn(|cx| self.poll_head(cx, &mut held, &mut heard)).await;
        let (head, first, framed) = match answered {
            Ok(answered) => answered,
            Err((why, unread)) => return Err(Lost { why, unread, raced: self.answered && !heard }),
        };
        let mut body = Body { conn: Some(self), framing: head.framing, first, keep: head.keep, lane };
        if body.framing.is_over() {
            body.release(framed);
        }
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    fn begin(&self, request: &Outbound) {
        let mut line = self.line();
        line.unsent = Unsent::of(head::write(request, line.io.proxy()), request);
    }

    /// Writes and reads until a head is there.
    fn poll_head(
        &self,
        cx: &mut Context<'_>,
        held: &mut Vec<u8>,
        heard: &mut bool,
    ) -> Poll<Result<Answered, Unanswered>> {
        let mut line = self.line();
        // An upstream may answer before it has read everything, and close: what it says counts more than our failure.
        let written = self.poll_write(&mut line, cx);
        loop {
            let read = line.poll_read(cx, |bytes| {
                *heard |= !bytes.is_empty();
                if bytes.is_empty() {
                    return Err(("the connection closed before the answer".to_owned(), false));
                }
                let text = if held.is_empty() {
                    bytes
                } else {
                    held.extend_from_slice(bytes);
                    &held[..]
                };
                let unread = |malformed| (said(malformed), true);
                let Some((mut head, length)) = head::read(text, self.of_head).map_err(unread)? else {
                    if held.is_empty() {
                        held.extend_from_slice(bytes);
                    }
                    return Ok(None);
                };
                let (first, taken) = head.framing.take(&text[length..]).map_err(unread)?;
                Ok(Some((head, first, length + taken == text.len())))
            });
            match (read, &written) {
                (Poll::Ready(Ok(Ok(Some(answered)))), _) => return Poll::Ready(Ok(answered)),
                (Poll::Ready(Ok(Ok(None))), _) => {}
                (Poll::Ready(Ok(Err(why))), _) => return Poll::Ready(Err(why)),
                (_, Poll::Ready(Err(error))) => return Poll::Ready(Err((error.to_string(), false))),
                (Poll::Ready(Err(error)), _) => return Poll::Ready(Err((error.to_string(), false))),
                (Poll::Pending, _) => return Poll::Pending,
            }
        }
    }

    /// Writes what is still to be written. A request waits for the worker's turn first, and this task for nothing but a
    /// socket that does not take all of it then.
    fn poll_write(&self, line: &mut Line, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut line.unsent.waits) && defer::leave(|| self.line.clone(), &[]) {
            line.unsent.left = Some(cx.waker().clone());
        }
        match &mut line.unsent.left {
            Some(task) => {
                task.clone_from(cx.waker());
                Poll::Pending
            }
            None => line.poll_write(cx),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // What lies with the worker is not sent for somebody who is gone.
        self.line().unsent = Unsent::default();
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// Reads what is there and has it worked off.
    fn poll_read<T>(&mut self, cx: &mut Context<'_>, work: impl FnOnce(&[u8]) -> T) -> Poll<io::Result<T>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(work(buffer.filled())))
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsent.poll(&mut self.io, cx)
    }
}

impl Writer for Mutex<Line> {
    fn write(&self, _: &[u8], cx: &mut Context<'_>) {
        let mut line = lock(self);
        let Some(task) = line.unsent.left.take() else { return };
        match line.poll_write(cx) {
            Poll::Ready(Ok(())) => return,
            Poll::Ready(Err(error)) => line.unsent.failed = Some(error),
            Poll::Pending => {}
        }
        drop(line);
        task.wake();
    }
}

impl Body {
    /// The next piece; None at the end. Errors: the connection broke, or is not framed as HTTP/1.1.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        loop {
            let Some(conn) = &self.conn else { return Poll::Ready(None) };
            let mut line = conn.line();
            // Its failure is not ours to judge: the upstream has answered already.
            let _ = conn.poll_write(&mut line, cx);
            let framing = &mut self.framing;
            let read = line.poll_read(cx, |bytes| {
                if bytes.is_empty() {
                    return match framing {
                        Framing::Close => Ok(None),
                        _ => Err("the connection closed before the answer was complete".to_owned()),
                    };
                }
                let (piece, taken) = framing.take(bytes).map_err(said)?;
                Ok(Some((piece, taken == bytes.len())))
            });
            drop(line);
            let (piece, framed) = match ready!(read).map_err(|error| error.to_string()).flatten() {
                Ok(Some(read)) => read,
                Ok(None) => {
                    self.conn = None;
                    return Poll::Ready(None);
                }
                Err(why) => {
                    self.conn = None;
                    return Poll::Ready(Some(Err(why)));
                }
            };
            if self.framing.is_over() {
                self.release(framed);
            }
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
    }

    /// Whether all of it has been read off the connection.
    pub fn is_at_hand(&self) -> bool {
        self.conn.is_none()
    }

    /// What is left to come, where its length was stated.
    pub fn left(&self) -> Option<u64> {
        self.framing.left().map(|left| left + self.first.len() as u64)
    }

    /// The body has been read to its end: the connection serves others, if nothing is wrong with it.
    fn release(&mut self, framed: bool) {
        if let Some(mut conn) = self.conn.take().filter(|conn| self.keep && framed && conn.line().unsent.is_done()) {
            conn.answered = true;
            self.lane.put(conn);
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("framing", &self.framing).finish_non_exhaustive()
    }
}

fn said(malformed: Malformed) -> String {
    malformed.0.to_owned()
}

/// Bytes on their way out, in slices that are never joined.
#[derive(Default)]
struct Unsent {
    pieces: SmallVec<[Bytes; 6]>,
    at: usize,
    flushed: bool,
    /// The worker is to write it, and has not been asked yet.
    waits: bool,
    /// It lies with the worker; the task that goes on where the worker could not.
    left: Option<Waker>,
    /// Why the worker could not.
    failed: Option<io::Error>,
    /// Who is told when it has been written.
    sent: Option<Sent>,
}

impl Unsent {
    fn of(head: Bytes, request: &Outbound) -> Self {
        let mut pieces = SmallVec::with_capacity(1 + request.body.pieces().len());
        pieces.push(head);
        pieces.extend(request.body.pieces().iter().cloned());
        // Who waits for a first token does not wait for others. What is long is still in the processor's cache, and would not be
        // after the others' turns.
        let waits = !request.body.hurries() && request.body.len() <= defer::MAX_BYTES_EACH as u64;
        Unsent { pieces, waits, sent: request.body.sent().cloned(), ..Unsent::default() }
    }

    fn is_done(&self) -> bool {
        self.at >= self.pieces.len() && self.flushed
    }

    fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while self.at < self.pieces.len() {
            let mut written = {
                let slices: SmallVec<[IoSlice<'_>; 6]> =
                    self.pieces[self.at..].iter().map(|piece| IoSlice::new(piece)).collect();
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(piece) = self.pieces.get_mut(self.at).filter(|_| written > 0) {
                let part = written.min(piece.len());
                piece.advance(part);
                written -= part;
                self.at += usize::from(piece.is_empty());
            }
        }
        if !self.flushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flushed = true;
            if let Some(sent) = self.sent.take() {
                sent.note();
            }
            // What was sent is not held until the answer has ended.
            self.pieces.clear();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::*;

    /// A connection on a worker that writes for all, and the upstream's end of it.
    async fn connection(room: usize) -> (Box<Conn>, DuplexStream) {
        defer::write_for_all();
        yield_now().await;
        let (ours, theirs) = duplex(room);
        (Conn::new(Io::within(ours)), theirs)
    }

    fn request(body: &str) -> Outbound {
        Outbound {
            method: http::Method::POST,
            uri: http::Uri::from_static("http://upstream/v1"),
            headers: Default::default(),
            body: body.as_bytes().to_vec().into(),
            target: None,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_waits_for_the_workers_turn_and_is_not_sent_for_somebody_who_is_gone() {
        for stays in [true, false] {
            let (conn, mut theirs) = connection(1024).await;
            let request = request("{}");
            let mut sending = Box::pin(conn.send(&request, Arc::default()));
            assert!(std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_pending())).await);
            let kept = stays.then_some(sending);
            yield_now().await;
            drop(kept);
            let mut seen = String::new();
            theirs.read_to_string(&mut seen).await.expect("ends");
            assert_eq!(seen.ends_with("\r\n\r\n{}"), stays, "{seen:?}");
            assert_eq!(seen.is_empty(), !stays, "{seen:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_worker_cannot_write_at_once_goes_out_by_and_by() {
        let (conn, mut theirs) = connection(8).await;
        let body = "x".repeat(300);
        let upstream = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !seen.ends_with(&[b'x'; 300]) {
                assert_ne!(theirs.read_buf(&mut seen).await.expect("reads"), 0, "all of it comes");
            }
            theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("is read");
        });
        let answered = conn.send(&request(&body), Arc::default()).await;
        assert_eq!(answered.map(|answer| answer.status().as_u16()).map_err(|lost| lost.why), Ok(200));
        upstream.await.expect("ends");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_breaks_in_the_workers_turn_is_told_of() {
        let (conn, theirs) = connection(8).await;
        let request = request("{}");
        let mut sending = Box::pin(conn.send(&request, Arc::default()));
        assert!(std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_pending())).await);
        drop(theirs);
        assert!(sending.await.is_err());
    }
}
