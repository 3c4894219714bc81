//! An adapter's stream as a body in the caller's own wire form, for those who cannot ask the adapter: whoever shares the
//! answer, the cache that keeps it, and a stream that another target broke off.
//!
//! Writes what the adapter says and nothing else; who reads it treats it as any upstream's. Never commits: the relay does.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::turns::Turns;
use super::{Adapted, AtEnd, show};
use crate::body::Made;
use crate::chat::Event;
use crate::dialect::Encoder;
use crate::fault::Fault;

/// See the module.
pub struct Spoken {
    source: Adapted,
    encoder: Box<dyn Encoder>,
    events: Vec<Event>,
    /// Is shown the data of the last frames.
    at_end: Option<AtEnd>,
    turns: Turns,
    /// How it ended; what was good before a fault is given before.
    end: Option<Result<(), Fault>>,
}

impl Spoken {
    pub fn new(source: Adapted, encoder: Box<dyn Encoder>, at_end: Option<AtEnd>) -> Self {
        Spoken { source, encoder, events: Vec::new(), at_end, turns: Turns::default(), end: None }
    }

    /// Writes the events at hand, up to a fault that the adapter tells of.
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        for event in self.events.drain(..) {
            match event {
                Event::Fault(fault) => return Err(fault),
                event => self.encoder.event(&event, out),
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let before = out.len();
        self.encoder.finish(out);
        if let Some(at_end) = &self.at_end {
            show(at_end, Bytes::copy_from_slice(&out[before..]));
        }
    }
}

impl Made for Spoken {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        let mut out = Vec::new();
        while out.is_empty() {
            match &self.end {
                Some(Ok(())) => return Poll::Ready(None),
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault.message.clone()))),
                None => {}
            }
            ready!(self.turns.poll(cx));
            let Poll::Ready(worked) = self.source.poll_events(cx, &mut self.events) else {
                self.turns.rest();
                return Poll::Pending;
            };
            let written = self.write(&mut out);
            match worked {
                Some(worked) => self.end = written.and(worked).err().map(Err),
                None => {
                    if written.is_ok() {
                        self.finish(&mut out);
                    }
                    self.end = Some(written);
                }
            }
        }
        Poll::Ready(Some(Ok(out.into())))
    }

    fn fault(&self) -> Option<&Fault> {
        self.end.as_ref()?.as_ref().err()
    }
}

impl std::fmt::Debug for Spoken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spoken").field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use super::*;
    use crate::body::{Inbound, channel};
    use crate::chat::{Ask, Delta, Finish, Opened, Start};
    use crate::dialect::adapter::{Desk, Pending, StreamDecoder};
    use crate::dialect::{self, Asked, Op};
    use crate::fault::Kind;

    /// Takes each piece for a word; `!` is a fault, and the end is an end.
    struct Words;

    impl StreamDecoder for Words {
        fn run(self: Box<Self>, desk: Desk) -> Pending<'static, ()> {
            Box::pin(async move {
                let start = Event::Start(Start { id: "chatcmpl-123456".to_owned(), ..Start::default() });
                let mut events = vec![start, Event::Open { choice: 0, index: 0, block: Opened::Text }];
                while let Some(word) = desk.next().await {
                    let said = String::from_utf8_lossy(&word).into_owned();
                    let broken = said == "!";
                    if !broken {
                        events.push(Event::Delta { choice: 0, index: 0, delta: Delta::Text(said) });
                    }
                    let fault = Fault::new(Kind::RateLimited, "Too many.");
                    desk.worked(&mut events, if broken { Err(fault) } else { Ok(()) });
                }
                desk.finished(true);
                let finish = Event::Finish { choice: 0, reason: Finish::Stop, native: None, stop_sequence: None };
                events.extend([Event::Close { choice: 0, index: 0 }, finish]);
                desk.worked(&mut events, Ok(()));
            })
        }
    }

    fn spoken(body: Inbound, at_end: Option<AtEnd>) -> Spoken {
        let dialect = dialect::find("openai_chat").expect("built in");
        let (ask, model, id) = (Arc::new(Ask::default()), "m".to_owned(), "1".to_owned());
        let asked = Asked { op: Op::Generate, ask, model, id, now: 0 };
        Spoken::new(Adapted::new(body, Box::new(Words)), dialect.encoder(&asked), at_end)
    }

    /// What comes until it must wait or is at the end, and how that is.
    fn read(body: &mut Spoken) -> (String, Poll<Option<String>>) {
        let mut text = String::new();
        loop {
            match body.poll_data(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(bytes))) => text.push_str(std::str::from_utf8(&bytes).expect("text")),
                Poll::Ready(Some(Err(error))) => return (text, Poll::Ready(Some(error))),
                Poll::Ready(None) => return (text, Poll::Ready(None)),
                Poll::Pending => return (text, Poll::Pending),
            }
        }
    }

    #[tokio::test]
    async fn what_an_adapter_says_is_a_stream_of_the_callers_form_to_its_end() {
        let (sender, body) = channel();
        let shown = Arc::new(std::sync::Mutex::new(0));
        let count = shown.clone();
        let at_end: AtEnd = Box::new(move |_| *count.lock().expect("held by nobody") += 1);
        let mut spoken = spoken(body, Some(at_end));
        sender.send(Ok("one ".into())).expect("heard");
        let (text, then) = read(&mut spoken);
        assert!(text.contains("\"content\":\"one \"") && then.is_pending(), "{text}");
        drop(sender);
        let (text, then) = read(&mut spoken);
        assert!(text.contains("\"stop\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!((then, spoken.fault().is_none()), (Poll::Ready(None), true));
        assert_eq!(*shown.lock().expect("held by nobody"), 1, "its last frame alone");
    }

    #[tokio::test]
    async fn a_fault_comes_after_what_was_good_and_is_known_for_what_it_is() {
        let (sender, body) = channel();
        let mut spoken = spoken(body, None);
        sender.send(Ok("one".into())).expect("heard");
        sender.send(Ok("!".into())).expect("heard");
        let (text, then) = read(&mut spoken);
        assert!(text.contains("\"content\":\"one\"") && !text.contains("[DONE]"), "{text}");
        assert_eq!(then, Poll::Ready(Some("Too many.".to_owned())));
        assert_eq!(spoken.fault().map(|fault| fault.kind), Some(Kind::RateLimited));
    }
}
