//! An answer on its way to the client, and the request that it ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::activity::{Activity, Ending, Stream};
use crate::reply::Outbound;

/// A request that has begun and whose answer has not ended, and over HTTP/2 its stream.
pub(super) struct UnderWay(pub Arc<Activity>, Option<Arc<Stream>>);

impl UnderWay {
    pub fn new(activity: Arc<Activity>) -> Self {
        activity.begin();
        let stream = activity.h2.then(Arc::<Stream>::default);
        if let Some(stream) = &stream {
            activity.streams().push(stream.clone());
        }
        UnderWay(activity, stream)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end();
        if let Some(stream) = &self.1 {
            self.0.streams().retain(|other| !Arc::ptr_eq(other, stream));
        }
    }
}

/// An answer's body, counted as under way until it is dropped.
pub struct Answer {
    body: Outbound,
    under_way: UnderWay,
    ending: Option<Ending>,
    /// When the last of it is due, as far as the connection knows.
    due: Option<Instant>,
}

impl Answer {
    pub fn new(body: Outbound, under_way: UnderWay) -> Self {
        if matches!(body, Outbound::Stream { .. }) {
            under_way.0.hurries.store(true, Ordering::Relaxed);
        }
        // It is not asked for a frame before its client takes one.
        if let UnderWay(activity, Some(stream)) = &under_way {
            stream.untaken.store(activity.now(), Ordering::Relaxed);
        }
        let mut answer = Answer { body, under_way, ending: None, due: None };
        answer.tell_due();
        answer
    }

    /// Tells the connection when the last of it is due, which another target that goes on may change.
    fn tell_due(&mut self) {
        let due = self.body.due();
        if self.due != due {
            self.due = due;
            let UnderWay(activity, stream) = &self.under_way;
            let known = stream.as_ref().map_or(&activity.due, |stream| &stream.due);
            due.into_iter().for_each(|due| known.store(activity.at(due), Ordering::Relaxed));
        }
    }
}

impl Body for Answer {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        let Answer { body, under_way, ending, .. } = &mut *self;
        let polled = Pin::new(&mut *body).poll_frame(cx);
        under_way.0.set_waits(!under_way.0.h2 && polled.is_pending());
        let polled = match polled {
            // It knows by itself what there is to say.
            Poll::Pending if under_way.0.ends(ending, cx) => Pin::new(body).poll_frame(cx),
            polled => polled,
        };
        if let UnderWay(activity, Some(stream)) = &*under_way {
            // What has nothing to say at present is not waited for by its client's doing.
            stream.untaken.store(if polled.is_pending() { 0 } else { activity.now() }, Ordering::Relaxed);
        }
        self.tell_due();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::Executor;
    use tokio::task::AbortHandle;

    use super::super::activity::{CLIENT_STALL, Streams};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_over_http2_that_its_client_takes_none_of_is_given_up() {
        let activity = Arc::new(Activity::new(true));
        let begin = |text: &'static str| {
            let under_way = UnderWay::new(activity.clone());
            Streams(activity.clone()).execute(std::future::pending());
            (under_way.1.clone().expect("a stream"), Answer::new(Outbound::whole(text), under_way))
        };
        let is_ended = async |(stream, _): &(Arc<Stream>, Answer)| {
            activity.end_untaken();
            tokio::task::yield_now().await;
            stream.task.get().is_some_and(AbortHandle::is_finished)
        };
        let (mut first, second) = (begin("first"), begin("second"));
        tokio::time::advance(CLIENT_STALL / 2).await;
        let _ = poll_fn(|cx| Pin::new(&mut first.1).poll_frame(cx)).await;
        assert!(!is_ended(&second).await);
        tokio::time::advance(CLIENT_STALL / 2).await;
        assert!(is_ended(&second).await, "nothing of it is taken");
        assert!(!is_ended(&first).await, "others go on");
        tokio::time::advance(CLIENT_STALL / 2).await;
        assert!(is_ended(&first).await, "nothing is taken of what comes after its frame");
        drop((first, second));
        assert!(activity.streams().is_empty() && activity.rests(std::time::Duration::ZERO));
    }
}
