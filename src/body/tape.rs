//! One body that several readers hear, each at its own pace from the beginning.
//!
//! No task drives it: whichever reader is ahead pulls, and what it got is there for the others. So the sender is held
//! back by the fastest reader only, and it is cut off when the last reader leaves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};

use super::Inbound;

/// What pieces are gathered in: a piece of a few hundred bytes must not keep a socket's whole buffer.
const SEGMENT_BYTES: usize = 16 << 10;

/// A body with what came of it so far.
#[derive(Debug)]
pub struct Tape {
    kept: Mutex<Kept>,
    waiting: Arc<Waiting>,
    /// Most bytes kept. Beyond it nobody joins any more, and a reader that is further behind is cut off.
    max_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// None when it has ended, or when nobody listens any more.
    source: Option<Inbound>,
    pieces: VecDeque<Bytes>,
    /// Pieces forgotten at the front.
    gone: usize,
    /// Bytes of `pieces`.
    len: usize,
    segment: BytesMut,
    end: Option<Result<(), String>>,
    /// The next piece of each reader, by its number.
    places: Vec<Place>,
    holds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Next(usize),
    /// It was too far behind.
    Lost,
    Left,
}

/// Keeps the sender as a reader does, without reading.
#[derive(Debug)]
pub struct Hold(Arc<Tape>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut kept = self.0.lock();
        kept.holds -= 1;
        kept.desert();
    }
}

/// Those who wait for the next piece. The sender knows only this one waker, so it does not matter who asked last.
#[derive(Debug, Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self, but: Option<&Waker>) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            if but.is_none_or(|but| !but.will_wake(&waker)) {
                waker.wake();
            }
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all(None);
    }
}

impl Tape {
    /// Begins to record a body; the reader is the first.
    pub fn of(source: Inbound, max_bytes: usize) -> (Arc<Tape>, Reader) {
        let kept = Kept {
            source: Some(source),
            pieces: VecDeque::new(),
            gone: 0,
            len: 0,
            segment: BytesMut::new(),
            end: None,
            places: vec![Place::Next(0)],
            holds: 0,
        };
        let tape = Arc::new(Tape { kept: Mutex::new(kept), waiting: Arc::default(), max_bytes });
        let reader = Reader { tape: tape.clone(), number: 0 };
        (tape, reader)
    }

    /// Another reader, from the beginning. None when the beginning is no longer there, or nobody pulls any more.
    pub fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut kept = self.lock();
        if kept.gone > 0 || (kept.source.is_none() && kept.end.is_none()) {
            return None;
        }
        kept.places.push(Place::Next(0));
        Some(Reader { tape: self.clone(), number: kept.places.len() - 1 })
    }

    pub fn hold(self: &Arc<Self>) -> Hold {
        self.lock().holds += 1;
        Hold(self.clone())
    }

    /// Everything, in one piece of its own, when it came to a good end and is all there. Takes what is at hand first: a
    /// client may have left at the final marker, before the connection's own end was looked at.
    pub fn whole(&self) -> Option<Bytes> {
        let mut kept = self.lock();
        let mut cx = Context::from_waker(Waker::noop());
        while kept.end.is_none() && matches!(kept.pull(&mut cx, self.max_bytes), Poll::Ready(Some(Ok(_)))) {}
        if kept.gone > 0 || kept.end != Some(Ok(())) {
            return None;
        }
        let mut bytes = Vec::with_capacity(kept.len);
        kept.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Some(bytes.into())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Cuts the sender off when nobody is left.
    fn desert(&mut self) {
        if self.holds == 0 && self.places.iter().all(|place| *place == Place::Left) {
            self.source = None;
        }
    }

    /// The next piece from the sender, which is kept.
    fn pull(&mut self, cx: &mut Context<'_>, max_bytes: usize) -> Poll<Option<Result<Bytes, String>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let piece = match std::task::ready!(source.poll_data(cx)) {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                (self.source, self.end) = (None, Some(Err(error.clone())));
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                (self.source, self.end) = (None, Some(Ok(())));
                return Poll::Ready(None);
            }
        };
        let piece = self.own(&piece);
        self.len += piece.len();
        self.pieces.push_back(piece.clone());
        if self.len > max_bytes {
            self.forget(max_bytes);
        }
        Poll::Ready(Some(Ok(piece)))
    }

    /// The piece in memory of the tape's own.
    fn own(&mut self, piece: &[u8]) -> Bytes {
        if self.segment.capacity() < piece.len() {
            self.segment = BytesMut::with_capacity(piece.len().max(SEGMENT_BYTES));
        }
        self.segment.extend_from_slice(piece);
        self.segment.split().freeze()
    }

    /// Lets go of the oldest pieces until the rest is within the bound. Who had not read them is lost.
    fn forget(&mut self, max_bytes: usize) {
        // The newest piece stays: whoever pulled it is about to read it.
        while self.len > max_bytes && self.pieces.len() > 1 {
            self.len -= self.pieces.pop_front().map_or(0, |piece| piece.len());
            self.gone += 1;
        }
        for place in &mut self.places {
            if matches!(place, Place::Next(next) if *next < self.gone) {
                *place = Place::Lost;
            }
        }
    }
}

/// One who hears a [`Tape`].
#[derive(Debug)]
pub struct Reader {
    tape: Arc<Tape>,
    number: usize,
}

impl Reader {
    /// As [`Inbound::poll_data`].
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        let tape = &self.tape;
        let mut kept = tape.lock();
        let Place::Next(next) = kept.places[self.number] else {
            return Poll::Ready(Some(Err("this reader was too far behind the others".to_owned())));
        };
        if let Some(piece) = kept.pieces.get(next - kept.gone) {
            let piece = piece.clone();
            kept.places[self.number] = Place::Next(next + 1);
            return Poll::Ready(Some(Ok(piece)));
        }
        match &kept.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            None => {}
        }
        // Known before the sender is asked: it may wake us before the question returns.
        tape.waiting.add(cx.waker());
        let waker = Waker::from(tape.waiting.clone());
        let pulled = kept.pull(&mut Context::from_waker(&waker), tape.max_bytes);
        if pulled.is_ready() {
            if matches!(pulled, Poll::Ready(Some(Ok(_)))) {
                kept.places[self.number] = Place::Next(next + 1);
            }
            drop(kept);
            tape.waiting.wake_all(Some(cx.waker()));
        }
        pulled
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut kept = self.tape.lock();
        kept.places[self.number] = Place::Left;
        kept.desert();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces a reader gets until it must wait or is at the end: None when it must wait.
    fn read(reader: &mut Reader) -> (String, Option<Result<(), String>>) {
        let mut text = String::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match reader.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(piece))) => text.push_str(std::str::from_utf8(&piece).expect("text")),
                Poll::Ready(Some(Err(error))) => return (text, Some(Err(error))),
                Poll::Ready(None) => return (text, Some(Ok(()))),
                Poll::Pending => return (text, None),
            }
        }
    }

    #[test]
    fn every_reader_hears_all_of_it_whoever_pulls_and_whoever_leaves() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 1000);
        sender.send(Ok("one ".into())).expect("heard");
        assert_eq!(read(&mut first), ("one ".into(), None));
        let mut second = tape.join().expect("the beginning is there");
        sender.send(Ok("two ".into())).expect("heard");
        assert_eq!(read(&mut second), ("one two ".into(), None));
        // The first leaves; the second goes on by itself.
        drop(first);
        sender.send(Ok("three".into())).expect("heard");
        drop(sender);
        assert_eq!(read(&mut second), ("three".into(), Some(Ok(()))));
        let mut late = tape.join().expect("the beginning is there");
        assert_eq!(read(&mut late), ("one two three".into(), Some(Ok(()))));
        assert_eq!(tape.whole().as_deref(), Some(&b"one two three"[..]));
    }

    #[test]
    fn the_sender_is_cut_off_when_the_last_reader_leaves() {
        let (sender, source) = super::super::channel();
        let (tape, first) = Tape::of(source, 1000);
        let second = tape.join().expect("joins");
        drop(first);
        let hold = tape.hold();
        drop(second);
        assert!(sender.send(Ok("x".into())).is_ok() && tape.join().is_some());
        drop(hold);
        assert!(sender.send(Ok("x".into())).is_err() && tape.join().is_none() && tape.whole().is_none());
    }

    #[test]
    fn a_break_is_heard_by_all_and_nothing_whole_is_left() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 1000);
        sender.send(Ok("half".into())).expect("heard");
        sender.send(Err("cut".into())).expect("heard");
        assert_eq!(read(&mut first), ("half".into(), Some(Err("cut".into()))));
        let mut second = tape.join().expect("joins");
        assert_eq!(read(&mut second), ("half".into(), Some(Err("cut".into()))));
        assert!(tape.whole().is_none());
    }

    #[test]
    fn memory_is_bounded_and_only_who_is_too_far_behind_is_lost() {
        let (sender, source) = super::super::channel();
        let (tape, mut fast) = Tape::of(source, 100);
        let mut slow = tape.join().expect("joins");
        for _ in 0..50 {
            sender.send(Ok("0123456789".into())).expect("heard");
            assert_eq!(read(&mut fast).0.len(), 10);
        }
        let kept = tape.lock().len;
        assert!(kept <= 100, "{kept}");
        assert!(matches!(read(&mut slow), (text, Some(Err(_))) if text.is_empty()));
        drop(sender);
        assert_eq!(read(&mut fast), (String::new(), Some(Ok(()))));
        assert!(tape.join().is_none() && tape.whole().is_none());
    }
}
