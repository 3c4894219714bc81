//! A stream that goes on byte for byte: what each stretch of it means for the exchange, and the few that are changed.
//!
//! Where several clients hear one body it is worked off once, by whoever is ahead, and the others are given the same
//! bytes. What one of them hides or has written into its usage never reaches another.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Relay, Setting};
use crate::body::Inbound;
use crate::body::tape::Found;
use crate::dialect::relayed::{Relayed, Stretch};
use crate::dialect::{Sighting, Sniffer};
use crate::fault::{Fault, Kind};
use crate::sse::{Frame, Scanner};

/// A raw stream's side of a relay.
pub struct Raw {
    /// None where the body's tape has one for all.
    relayed: Option<Relayed>,
    /// The client did not ask for the usage event that we asked the upstream for.
    hide_usage: bool,
    complete: bool,
    /// How many frames went on before the first content.
    early: u64,
}

impl Raw {
    pub fn new(sniffer: Box<dyn Sniffer>, hide_usage: bool) -> Self {
        Raw { relayed: Some(Relayed::new(sniffer)), hide_usage, complete: false, early: 0 }
    }

    pub(super) fn begin(&mut self, body: &mut Inbound, setting: &Setting) {
        let Some(relayed) = self.relayed.take() else { return };
        let relayed = relayed.bounded(setting.max_event_bytes);
        match body {
            Inbound::Shared(reader) => reader.work_off(relayed.with_usage_apart()),
            _ if setting.add_cost.is_some() => self.relayed = Some(relayed.with_usage_apart()),
            _ => self.relayed = Some(relayed),
        }
    }

    pub(super) fn early(&self) -> u64 {
        self.early
    }

    /// Whether the stream may end after what was handed on.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }
}

impl Relay {
    /// Reads one piece of a raw stream and hands on what it holds.
    pub(super) fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if let Inbound::Shared(reader) = &mut self.body {
            let found = ready!(reader.poll_frames(cx));
            return Poll::Ready(self.found(found));
        }
        let piece = ready!(self.body.poll_data(cx));
        let Some(relayed) = self.relayed() else { return Poll::Ready(Ok(())) };
        let worked = match piece {
            Some(Ok(piece)) => {
                relayed.push(piece);
                self.waiting = None;
                self.stretches()
            }
            Some(Err(source)) => self.broken(source),
            None => {
                relayed.close();
                self.stretches().and_then(|()| self.close())
            }
        };
        Poll::Ready(worked)
    }

    fn relayed(&mut self) -> Option<&mut Relayed> {
        match &mut self.mode {
            super::Mode::Raw(raw) => raw.relayed.as_mut(),
            _ => None,
        }
    }

    fn stretches(&mut self) -> Result<(), Fault> {
        while !self.ended
            && let Some(relayed) = self.relayed()
            && let Some(stretch) = relayed.stretch()?
        {
            self.hand_on(stretch)?;
        }
        Ok(())
    }

    /// The same of a body that was worked off for all.
    fn found(&mut self, found: Found) -> Result<(), Fault> {
        let (worked, ends) = match found {
            Found::Frames(worked) => (worked, false),
            Found::End(worked) => (worked, true),
            Found::Broken(source) => return self.broken(source),
        };
        self.waiting = None;
        for stretch in worked.stretches {
            self.hand_on(stretch)?;
            if self.ended {
                return Ok(());
            }
        }
        match worked.fault {
            Some(fault) => Err(*fault),
            None if ends => self.close(),
            None => Ok(()),
        }
    }

    /// Hands a stretch on, and notes what it shows.
    fn hand_on(&mut self, stretch: Stretch) -> Result<(), Fault> {
        let Stretch { bytes, frames, early, content, complete, told } = stretch;
        self.keep(&bytes);
        if content {
            self.committed = true;
            self.seen.first_content.get_or_insert_with(Instant::now);
        }
        self.seen.frames += u64::from(frames);
        if let super::Mode::Raw(raw) = &mut self.mode {
            raw.complete = complete;
            raw.early += u64::from(early);
        }
        match told {
            Some(told) => self.tell(bytes, Arc::unwrap_or_clone(told)),
            None => {
                self.push(bytes);
                Ok(())
            }
        }
    }

    /// The same of what shows something.
    fn tell(&mut self, bytes: Bytes, told: Sighting) -> Result<(), Fault> {
        self.seen.finish = told.finish.or(self.seen.finish);
        self.seen.id = self.seen.id.take().or(told.id);
        self.seen.created = self.seen.created.or(told.created);
        let mut bytes = if told.model.is_some() { self.calling(bytes) } else { bytes };
        self.seen.model = self.seen.model.take().or(told.model);
        if let Some(usage) = told.usage {
            let so_far = self.seen.usage.get_or_insert_default();
            so_far.update(&usage);
            let rewritten = self.setting.add_cost.as_ref().and_then(|write| write(&bytes, so_far));
            bytes = rewritten.map_or(bytes, Bytes::from);
        }
        if let Some(fault) = told.fault {
            if !self.committed {
                return Err(self.with_stream(fault, bytes));
            }
            // Its own frame is the best account of it; but as a reason to stop it would pass for an end.
            self.push(bytes);
            match told.finish {
                Some(_) => self.fail(fault),
                None => self.end_with(fault),
            }
            return Ok(());
        }
        let is_hidden = told.only_usage && matches!(&self.mode, super::Mode::Raw(raw) if raw.hide_usage);
        if !is_hidden {
            self.push(bytes);
        }
        Ok(())
    }

    /// The frames with the client's own name for the model in the first of them that names one.
    fn calling(&self, frames: Bytes) -> Bytes {
        let Some(called) = &self.setting.called else { return frames };
        let mut scanner = Scanner::bounded(usize::MAX);
        scanner.push(frames.clone());
        let mut at = 0;
        while let Ok(true) = scanner.scan() {
            let frame = Frame(scanner.last());
            let after = at + frame.0.len();
            if let Some(data) = self.setting.dialect.calling(&frame.data(), called) {
                return [&frames[..at], &frame.with_data(&data), &frames[after..]].concat().into();
            }
            at = after;
        }
        frames
    }

    /// A fault that the stream itself reports, with all of the stream, where the client makes more of that.
    fn with_stream(&mut self, mut fault: Fault, last: Bytes) -> Fault {
        if self.setting.dialect.fails_in_streams(fault.kind)
            && let Some(refusal) = &mut fault.refusal
        {
            self.out.push(last);
            refusal.body = self.out.drain();
        }
        fault
    }

    /// The upstream closed the stream in good order.
    fn close(&mut self) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        let super::Mode::Raw(Raw { complete: true, .. }) = self.mode else {
            return Err(Fault::new(Kind::StreamBroken, "The provider ended the stream before it was complete."));
        };
        self.end();
        Ok(())
    }
}
