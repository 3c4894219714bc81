//! An upstream's stream through an adapter: bytes in, events out, one piece at a time.
//!
//! While the guest works nothing more is read, so a slow guest slows its upstream and nobody else. Never commits and
//! never encodes: the relay does.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use crate::body::Inbound;
use crate::chat::Event;
use crate::dialect::adapter::{Desk, Pending, StreamDecoder};
use crate::fault::{Fault, Kind};

/// The upstream's body and the guest's decoder for it.
pub struct Adapted {
    body: Inbound,
    desk: Desk,
    /// The decoder. None once the stream is at its end, or broke.
    work: Option<Pending<'static, ()>>,
    at: At,
    /// Events of the last piece that are still to be given, and how that piece went.
    held: VecDeque<Event>,
    worked: Option<Result<(), Fault>>,
}

/// Events that are given at a time: each may be shown to guests, and others are to have their turn in between.
const MAX_EVENTS: usize = 16;

/// What is waited for.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// The upstream.
    Reading,
    /// The guest, which is at a piece.
    Working,
    /// The guest, which has been told that nothing more comes.
    Ending,
}

impl Adapted {
    pub fn new(body: Inbound, decoder: Box<dyn StreamDecoder>) -> Self {
        let desk = Desk::default();
        let work = Some(decoder.run(desk.clone()));
        Adapted { body, desk, work, at: At::Reading, held: VecDeque::new(), worked: None }
    }

    /// Appends the next events, a few at a time. None: the stream is at its end, and was complete. What was good before a
    /// fault is in `out` as well.
    pub fn poll_events(&mut self, cx: &mut Context<'_>, out: &mut Vec<Event>) -> Poll<Option<Result<(), Fault>>> {
        if self.held.is_empty() {
            let before = out.len();
            let worked = ready!(self.poll_piece(cx, out));
            if out.len() - before <= MAX_EVENTS {
                return Poll::Ready(worked);
            }
            self.held = out.drain(before + MAX_EVENTS..).collect();
            self.worked = worked;
            return Poll::Ready(Some(Ok(())));
        }
        let some = self.held.len().min(MAX_EVENTS);
        out.extend(self.held.drain(..some));
        Poll::Ready(if self.held.is_empty() { self.worked.take() } else { Some(Ok(())) })
    }

    /// Appends what the next piece of the stream says, or a part of it.
    fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<Event>) -> Poll<Option<Result<(), Fault>>> {
        loop {
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if self.at == At::Reading {
                let bytes = match ready!(self.body.poll_data(cx)) {
                    Some(Ok(bytes)) => Some(bytes),
                    // All has been said: it only left without a word.
                    Some(Err(_)) if self.desk.is_finished() => None,
                    Some(Err(source)) => {
                        self.work = None;
                        let fault = Fault::new(Kind::StreamBroken, "The provider's stream broke off.");
                        return Poll::Ready(Some(Err(fault.because(source))));
                    }
                    None => None,
                };
                self.at = if bytes.is_some() { At::Working } else { At::Ending };
                self.desk.put(bytes);
            }
            let over = work.as_mut().poll(cx).is_ready();
            let before = out.len();
            let Some(worked) = self.desk.take(out) else {
                // It is over only after it has said how it went.
                debug_assert!(!over, "a decoder ends with a word");
                return if out.len() > before { Poll::Ready(Some(Ok(()))) } else { Poll::Pending };
            };
            if over || worked.is_err() {
                self.work = None;
            }
            let worked = match self.at {
                At::Ending => worked.and_then(|()| self.ended()),
                // A piece may hold half a line: there is nothing to hand on yet.
                _ if worked.is_ok() && out.len() == before => {
                    self.at = At::Reading;
                    continue;
                }
                _ => worked,
            };
            self.at = At::Reading;
            return Poll::Ready(Some(worked));
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// Whatever ended the stream before it was complete.
    pub async fn all(mut self) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        while let Some(worked) = std::future::poll_fn(|cx| self.poll_events(cx, &mut events)).await {
            worked?;
        }
        Ok(events)
    }

    fn ended(&self) -> Result<(), Fault> {
        match self.desk.is_finished() {
            true => Ok(()),
            false => Err(Fault::new(Kind::StreamBroken, "The provider ended the stream before it was complete.")),
        }
    }
}
