//! Where the decoder of a stream and whoever reads the stream meet: bytes one way, events the other.
//!
//! One piece is on it at a time: the next is put down when the decoder is through with the last, so a slow guest slows
//! its upstream. Neither side wakes the other: the reader polls the decoder itself.

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

    /// Takes what the decoder made of the piece, good events before a fault included. None: it is still at it.
    pub fn take(&self, out: &mut Vec<Event>) -> Option<Result<(), Fault>> {
        let mut trays = self.trays();
        let worked = trays.worked.take()?;
        out.append(&mut trays.events);
        Some(worked)
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
