//! A stream that is at hand, given event by event with a pause between, as if somebody were making it.
//!
//! Only cuts where an event ends; what the events are is not its affair.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use tokio::time::{Sleep, sleep};

/// The rest of a stream, and its pace.
#[derive(Debug)]
pub struct Paced {
    rest: Bytes,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub fn new(stream: Bytes, pace: Duration) -> Self {
        Paced { rest: stream, pace, pause: None }
    }

    /// The next event, when its time has come; None at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let event = self.rest.split_to(event_end(&self.rest));
        // The end of the stream is no event of its own.
        if !self.rest.is_empty() {
            self.pause = Some(Box::pin(sleep(self.pace)));
        }
        Poll::Ready(Some(event))
    }

    pub fn len(&self) -> usize {
        self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Where the first event ends, its blank line included.
fn event_end(stream: &[u8]) -> usize {
    let ends = [b"\n\n".as_slice(), b"\r\n\r\n"];
    let ends = ends.into_iter().filter_map(|end| memmem::find(stream, end).map(|at| at + end.len()));
    ends.min().unwrap_or(stream.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn events_come_one_by_one_with_the_pause_between_them() {
        let stream = Bytes::from_static(b"data: 1\n\nevent: x\ndata: 2\r\n\r\ndata: [DONE]\n\nrest");
        let mut paced = Paced::new(stream.clone(), Duration::from_millis(30));
        let began = Instant::now();
        let mut events = Vec::new();
        while let Some(event) = std::future::poll_fn(|cx| paced.poll_next(cx)).await {
            events.push((began.elapsed().as_millis(), event));
        }
        let times: Vec<u128> = events.iter().map(|(at, _)| *at).collect();
        assert!(times.iter().zip([0, 30, 60, 90]).all(|(at, due)| at.abs_diff(due) <= 3), "{times:?}");
        assert_eq!((events.len(), &events[1].1[..]), (4, &b"event: x\ndata: 2\r\n\r\n"[..]));
        assert_eq!(events.iter().map(|(_, event)| &event[..]).collect::<Vec<_>>().concat(), stream);
        assert!(began.elapsed() < Duration::from_millis(100), "no pause after the last");
    }
}
