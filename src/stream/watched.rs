//! A raw stream under the eyes of guests: decoded for them, while what they leave as it is goes on byte for byte.
//!
//! Encoded is only what they change, and what a frame says beside its events or will say as events later. So no client
//! gets a byte whose meaning a guest has not passed, and fields that only the provider knows stay.

use bytes::{Bytes, BytesMut};

use super::{Flow, Mode, Relay};
use crate::chat::Event;
use crate::dialect::told::Told;
use crate::fault::Fault;
use crate::sse::Frame;

/// Longest end that is held back; two or three short frames make one. A longer one is encoded.
const MAX_END_BYTES: usize = 64 << 10;

/// A watched stream's side of a relay.
pub struct Watch {
    /// The client did not ask for the usage event that we asked the upstream for.
    hide_usage: bool,
    /// Guests have changed something. Frames with foreign fields are encoded from here on: they may repeat what it was.
    edited: bool,
    /// The frames that end the stream. They wait for the last events, before which a guest may have something to say.
    /// None when the end is to be encoded.
    end: Option<BytesMut>,
    /// The dialect's final mark is among them.
    over: bool,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on as it is.
    Raw,
    /// It is a part of the end.
    Held,
    /// Its events are encoded.
    Encoded,
}

impl Watch {
    pub fn new(hide_usage: bool) -> Self {
        Watch { hide_usage, edited: false, end: Some(BytesMut::new()), over: false }
    }

    /// Whether everything has been said, so that it does not matter how the upstream leaves.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    fn is_ending(&self) -> bool {
        self.end.as_ref().is_some_and(|end| !end.is_empty())
    }

    /// Decides on a frame whose events guests have looked at.
    fn fate(&mut self, told: Told, flow: Flow, events: &[Event], frame: &[u8]) -> Fate {
        self.edited |= flow != Flow::Same;
        if self.over {
            // Nothing counts any more; what there is was held by a guest.
            return Fate::Encoded;
        }
        let (foreign, of_end) = match told {
            Told::Partly => (false, false),
            Told::Wholly { foreign, .. } => {
                (foreign, self.is_ending() && events.iter().all(|event| matches!(event, Event::Ping)))
            }
            Told::Ending { foreign, .. } => (foreign, true),
        };
        let known = told != Told::Partly && !(foreign && self.edited);
        if known && of_end && self.end.is_some() {
            self.hold(told, frame);
            return Fate::Held;
        }
        // What looked like the end was none, or is told in part by the encoder, which then tells all of it.
        if self.is_ending() || !known && (of_end || events.iter().any(|event| matches!(event, Event::Usage(_)))) {
            self.end = None;
        }
        if known && !of_end && flow == Flow::Same { Fate::Raw } else { Fate::Encoded }
    }

    fn hold(&mut self, told: Told, frame: &[u8]) {
        if let Told::Ending { usage, last, .. } = told {
            self.over |= last;
            if usage && self.hide_usage {
                return;
            }
        }
        let fits = |end: &BytesMut| end.len() + frame.len() <= MAX_END_BYTES;
        self.end = self.end.take().filter(fits);
        if let Some(end) = &mut self.end {
            end.extend_from_slice(frame);
        }
    }
}

impl Relay {
    /// Works off the frame scanned last.
    pub(super) fn watched_frame(&mut self) -> Result<(), Fault> {
        let Mode::Translate { decoder, events, watch: Some(_), .. } = &mut self.mode else { return Ok(()) };
        let looked = decoder.told(&Frame(self.scanner.last()), events).and_then(|told| Ok((told, self.look()?)));
        let (told, flow) = match looked {
            Ok(looked) => looked,
            Err(fault) => {
                self.drop_last();
                return Err(fault);
            }
        };
        let Mode::Translate { encoder, events, watch: Some(watch), .. } = &mut self.mode else { return Ok(()) };
        let fate = watch.fate(told, flow, events, self.scanner.last());
        if fate == Fate::Raw {
            if let Told::Wholly { role: Some(choice), .. } = told {
                encoder.introduced(choice);
            }
            let due = self.given();
            if !due.is_empty() {
                let before = self.scanner.take_before_last();
                self.push(before);
                self.push(due);
            }
            return Ok(());
        }
        self.drop_last();
        if fate == Fate::Held && flow == Flow::Same {
            let due = self.given();
            self.push(due);
            return Ok(());
        }
        self.write(flow)
    }

    /// Hands on the frames before the last one, which does not go on itself.
    fn drop_last(&mut self) {
        let before = self.scanner.take_without_last();
        self.push(before);
    }

    /// Notes the events of a frame that goes on itself. Gives what the client is owed before it.
    fn given(&mut self) -> Bytes {
        let Mode::Translate { encoder, events, .. } = &mut self.mode else { return Bytes::new() };
        let mut before = Vec::new();
        for event in events.drain(..) {
            self.committed |= event.is_content();
            super::note(&mut self.seen, &event, self.setting.filter.is_some());
            encoder.given(&event, &mut before);
        }
        before.into()
    }

    /// The upstream closed the stream, and the last events are there.
    pub(super) fn finish_watched(&mut self) -> Result<(), Fault> {
        let flow = self.look()?;
        let Mode::Translate { watch: Some(watch), .. } = &mut self.mode else { return Ok(()) };
        let end = watch.end.take().filter(|_| watch.over && flow == Flow::Same);
        let Some(end) = end else {
            self.write(flow)?;
            if !self.ended {
                self.finish_encoder();
                self.end();
            }
            return Ok(());
        };
        let due = self.given();
        self.push(due);
        let end = self.with_cost(end.freeze());
        self.push(end);
        self.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
