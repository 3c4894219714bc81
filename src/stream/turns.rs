//! Giving way inside a stream: guests may have much to do with what came in one read, and others have requests on the
//! same worker.
//!
//! Costs a look at the clock where guests are asked, and nothing where they are not.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::host::ticker::TURN;

/// The turns of one stream.
#[derive(Default)]
pub(super) struct Turns {
    /// When the present one began.
    began: Option<Instant>,
    /// Others have theirs.
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Turns {
    /// Whether the present turn is over; the first look begins it.
    pub fn is_over(&mut self) -> bool {
        self.began.get_or_insert_with(Instant::now).elapsed() >= TURN
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
        self.began = None;
    }
}
