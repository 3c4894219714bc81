//! Giving way inside a stream: guests may have much to do with what came in one read, and others have requests on the
//! same worker.
//!
//! Costs a look at the clock for every further piece of a turn that has several, and nothing where guests are not asked.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::host::ticker::TURN;

/// Looks of a turn that begins after a rest before one at the clock: most are one piece, which is worked off in any case,
/// and the look at whether there is another.
const UNTIMED: u8 = 2;

/// The turns of one stream.
#[derive(Default)]
pub(super) struct Turns {
    /// Looks of the present one, as far as they are untimed.
    looks: u8,
    /// Since when it is timed.
    began: Option<Instant>,
    /// Others have theirs.
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Turns {
    /// Whether the present turn is over; the first look begins it.
    pub fn is_over(&mut self) -> bool {
        match self.began {
            Some(began) => began.elapsed() >= TURN,
            None if self.looks < UNTIMED => {
                self.looks += 1;
                false
            }
            None => {
                self.began = Some(Instant::now());
                false
            }
        }
    }

    /// Ready at once within a turn, else when others have had theirs.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pause.is_none() && self.is_over() {
            self.pause = Some(Box::pin(tokio::task::yield_now()));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            self.began = Some(Instant::now());
        }
        Poll::Ready(())
    }

    /// The stream waits: what it does next is a new turn.
    pub fn rest(&mut self) {
        (self.looks, self.began) = (0, None);
    }
}
