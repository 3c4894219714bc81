//! Where the decoder of a stream and whoever reads the stream meet: bytes one way, events the other.
//!
//! One piece is on it at a time: the next is put down when the decoder is through with the last, so a slow guest slows
//! its upstream. Many events are handed over in parts, and the next part is made when the last was taken. Neither side wakes the other: the reader polls the decoder itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;

use crate::chat::Event;
use crate::fault::Fault;

/// One end of a desk; both ends are alike.
#[derive(Debug, Clone, Default)]
pub struct Desk(Arc<Mutex<Trays>>);

#[derive(Debug, Default)]
struct Trays {
    /// The next bytes, until the decoder takes them.
    bytes: Option<Bytes>,
    /// There are none to come.
    last: bool,
    events: Vec<Event>,
    /// The stream has told of its end.
    finished: bool,
    /// How the present piece went, once it is worked off.
    worked: Option<Result<(), Fault>>,
}

impl Desk {
    /// Puts the next bytes down; None: the upstream has closed the stream in good order. The decoder is to be polled then.
    pub fn put(&self, bytes: Option<Bytes>) {
        let mut trays = self.trays();
        trays.last = bytes.is_none();
        trays.bytes = bytes;
    }

    /// Takes what the decoder made of the piece so far, good events before a fault included. None: it is still at it.
    pub fn take(&self, out: &mut Vec<Event>) -> Option<Result<(), Fault>> {
        let mut trays = self.trays();
        out.append(&mut trays.events);
        trays.worked.take()
    }

    /// Whether the stream has told of its end, so that it does not matter how the upstream leaves.
    pub fn is_finished(&self) -> bool {
        self.trays().finished
    }

    /// The next bytes, for the decoder; None at the end of the stream.
    pub async fn next(&self) -> Option<Bytes> {
        std::future::poll_fn(|_| {
            let mut trays = self.trays();
            match trays.bytes.take() {
                Some(bytes) => Poll::Ready(Some(bytes)),
                None if trays.last => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Hands over a part of what is in the present piece, which leaves the list empty, and waits until it is taken.
    pub async fn part(&self, events: &mut Vec<Event>) {
        self.trays().events.append(events);
        std::future::poll_fn(|_| if self.trays().events.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Whether the stream has told of its end by now.
    pub fn finished(&self, finished: bool) {
        self.trays().finished = finished;
    }

    /// The decoder is through with a piece: these events are in it, which leaves the list empty.
    pub fn worked(&self, events: &mut Vec<Event>, worked: Result<(), Fault>) {
        let mut trays = self.trays();
        trays.events.append(events);
        trays.worked = Some(worked);
    }

    fn trays(&self) -> MutexGuard<'_, Trays> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
