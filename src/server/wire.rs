//! A client's stream, written to [behind whatever is ready](crate::defer).
//!
//! Order is kept, and what a client does not take at once is held for it alone, which holds its connection back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use crate::defer::{self, MAX_BYTES_EACH, Writer};

/// A client's stream.
pub(super) struct Wire<S>(Arc<Mutex<End<S>>>);

/// Its end on our side. The lock is never contended: connection and worker are one thread.
struct End<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes that lie with the worker.
    left: usize,
    /// What the client did not take in the worker's turn. It goes out before anything else, by the connection's own hand.
    rest: BytesMut,
    unflushed: bool,
    failed: Option<io::Error>,
    /// The connection's task, and whether it waits until nothing of its own lies with the worker.
    task: Option<Waker>,
    waits: bool,
}

impl<S> Wire<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        let (left, rest, unflushed, failed, task, waits) = (0, BytesMut::new(), false, None, None, false);
        Wire(Arc::new(Mutex::new(End { stream, activity, left, rest, unflushed, failed, task, waits })))
    }

    fn end(&self) -> MutexGuard<'_, End<S>> {
        lock(&self.0)
    }
}

fn lock<S>(end: &Mutex<End<S>>) -> MutexGuard<'_, End<S>> {
    end.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin + Send> Writer for Mutex<End<S>> {
    fn write(&self, bytes: &[u8], cx: &mut Context<'_>) {
        let mut end = lock(self);
        end.left -= bytes.len();
        end.write(bytes, cx);
        let is_called = (end.waits && end.left == 0) || end.is_behind();
        let Some(task) = end.task.as_ref().filter(|_| is_called).cloned() else { return };
        end.waits = false;
        drop(end);
        task.wake();
    }
}

impl<S: AsyncWrite + Unpin> End<S> {
    /// Writes what the worker had. What does not go out at once is the connection's to see to.
    fn write(&mut self, mut bytes: &[u8], cx: &mut Context<'_>) {
        if self.is_behind() {
            self.rest.extend_from_slice(bytes);
            return;
        }
        while !bytes.is_empty() && !self.is_behind() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => self.failed = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                Poll::Ready(Err(error)) => self.failed = Some(error),
                Poll::Pending => self.rest.extend_from_slice(bytes),
            }
        }
        self.activity.wrote(self.is_behind());
        if self.is_behind() {
            return;
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => self.failed = Some(error),
            Poll::Pending => self.unflushed = true,
        }
    }

    fn is_behind(&self) -> bool {
        self.unflushed || self.failed.is_some() || !self.rest.is_empty()
    }

    /// Writes what did not go out in the worker's turn.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_behind() {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let written = self.poll_write_rest(cx);
        self.activity.wrote(written.is_pending());
        written
    }

    fn poll_write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.advance(written);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        self.rest = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Waits until nothing lies with the worker.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            return Poll::Ready(());
        }
        self.waits = true;
        self.know(cx);
        Poll::Pending
    }

    /// Knows whom to wake.
    fn know(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            task => *task = Some(cx.waker().clone()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut end = self.end();
        let polled = Pin::new(&mut end.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            end.activity.read(&buf.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin + Send + 'static> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut end = self.end();
        ready!(end.poll_rest(cx))?;
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let may_wait = end.left + len <= MAX_BYTES_EACH;
        // A stream's first token is what somebody waits for; what follows it comes at its own pace.
        if !end.activity.take_hurry() && may_wait && defer::leave(|| self.0.clone(), bufs) {
            end.left += len;
            end.know(cx);
            return Poll::Ready(Ok(len));
        }
        ready!(end.poll_left(cx));
        let polled = Pin::new(&mut end.stream).poll_write_vectored(cx, bufs);
        end.activity.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.end().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut end = self.end();
        ready!(end.poll_rest(cx))?;
        if end.left == 0 {
            return Pin::new(&mut end.stream).poll_flush(cx);
        }
        // The worker sees to it, and calls when it cannot. Where the answer waits for more, hyper would ask it once more if
        // it heard that all is written; it is polled again when there is more in any case.
        if end.activity.awaits_more() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut end = self.end();
        ready!(end.poll_left(cx));
        ready!(end.poll_rest(cx))?;
        Pin::new(&mut end.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::*;

    /// A wire on a worker that writes for all, and the client's end of it.
    async fn wire(room: usize) -> (Wire<DuplexStream>, DuplexStream) {
        defer::write_for_all();
        yield_now().await;
        let (ours, theirs) = duplex(room);
        (Wire::new(ours, Arc::new(Activity::new(false))), theirs)
    }

    /// What has come and has not been read.
    async fn at_hand(theirs: &mut DuplexStream) -> String {
        let mut bytes = [0; 64];
        let mut buf = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *theirs).poll_read(cx, &mut buf).is_ready())).await;
        String::from_utf8_lossy(buf.filled()).into_owned()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn all_that_are_ready_work_before_anything_is_written() {
        let (mut wire, mut theirs) = wire(64).await;
        wire.write_all(b"one ").await.expect("taken");
        let (mut ready, ours) = (tokio::spawn(yield_now()), &mut wire);
        ours.write_all(b"two").await.expect("taken");
        ours.flush().await.expect("no matter");
        assert_eq!(at_hand(&mut theirs).await, "");
        // The worker's turn was asked for before this task became ready.
        (&mut ready).await.expect("ran");
        assert_eq!(at_hand(&mut theirs).await, "one two");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_client_does_not_take_holds_its_connection_back_and_stays_in_order() {
        let (mut wire, mut theirs) = wire(8).await;
        wire.write_all(b"0123456789").await.expect("taken");
        wire.write_all(b"abcdef").await.expect("taken");
        yield_now().await;
        // Eight bytes are on their way; the rest has to go before anything else is taken.
        let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_write(cx, b"x").is_pending()));
        assert!(more.await);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_flush(cx).is_pending())).await);
        let writer = tokio::spawn(async move {
            wire.write_all(b"ghij").await.expect("taken in time");
            wire.shutdown().await.expect("all of it has gone");
        });
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "0123456789abcdefghij");
        writer.await.expect("ends");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_writes_go_at_once_but_never_before_earlier_ones() {
        let (mut wire, mut theirs) = wire(100_000).await;
        let long = "x".repeat(MAX_BYTES_EACH + 1);
        wire.write_all(b"head").await.expect("taken");
        wire.write_all(long.as_bytes()).await.expect("waits for the worker");
        wire.shutdown().await.expect("nothing is left");
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, format!("head{long}"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_is_gone_is_told_of_by_the_next_flush() {
        let (mut wire, theirs) = wire(64).await;
        wire.write_all(b"one").await.expect("taken");
        drop(theirs);
        // Its task is called, as nothing else would.
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_shutdown(cx).is_pending())).await);
        assert!(poll_fn(|cx| Pin::new(&mut wire).poll_flush(cx)).await.is_ok(), "not known yet");
        yield_now().await;
        assert!(wire.flush().await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn while_an_answer_waits_for_more_its_connection_is_not_asked_again() {
        let (mut wire, mut theirs) = wire(64).await;
        let activity = wire.end().activity.clone();
        let mut is_flushed = async |waits: bool| {
            activity.set_waits(waits);
            wire.write_all(b"x").await.expect("taken");
            poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_flush(cx).is_ready())).await
        };
        assert!(!is_flushed(true).await && is_flushed(false).await);
        yield_now().await;
        assert_eq!(at_hand(&mut theirs).await, "xx");
    }
}
