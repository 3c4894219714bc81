//! An upstream's stream on its way to the client: frames in, bytes out, with the commit point between.
//!
//! Pulled by the client's connection, so a client that stops reading stops the upstream. Never retries and never logs:
//! before the commit a failure is a [`Fault`] for `attempt`, afterwards an error event in the client's dialect.

mod adapted;
pub mod onward;
mod outbox;
mod raw;
mod said;
mod setting;
mod spoken;
mod turns;
mod waits;
mod watched;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::body::Inbound;
use crate::chat::{Event, Opened};
use crate::dialect::{Begun, Decoder, Encoder};
use crate::exchange::Seen;
use crate::fault::{Fault, Kind};
use crate::sse::{Frame, Scanner};
use onward::{Going, Opening, Turn};
use outbox::Outbox;
use turns::Turns;

pub use adapted::Adapted;
pub use raw::Raw;
pub use said::{Said, said};
pub use setting::{AtEnd, CostWriter, Deadline, Filter, Flow, Framing, Setting};
pub use spoken::Spoken;
pub use watched::Watch;

/// What is done with the frames.
pub enum Mode {
    /// Relay them byte for byte and look at what goes by.
    Raw(Raw),
    /// Turn them into another dialect's. With `watch` both are of one dialect, and only what a guest changes is encoded.
    Translate { decoder: Box<dyn Decoder>, encoder: Box<dyn Encoder>, events: Vec<Event>, watch: Option<Watch> },
    /// Encode the events that an adapter makes of the bytes. The relay's own body is empty.
    Adapt { source: Adapted, encoder: Box<dyn Encoder>, events: Vec<Event> },
}

/// What a look at the upstream came to.
enum Step {
    /// Something was read, or the stream ended.
    Worked,
    /// Nothing was, for so long that the client should get a comment.
    Silence,
}

/// How long the end of a body is waited for whose end mark has come.
const LINGER: Duration = Duration::from_secs(1);

/// How soon something must follow what may be the end.
const SEQUEL: Duration = Duration::from_secs(3);

/// A stream under way.
pub struct Relay {
    body: Inbound,
    scanner: Scanner,
    mode: Mode,
    setting: Setting,
    pub seen: Seen,
    out: Outbox,
    committed: bool,
    /// Nothing more comes from upstream.
    ended: bool,
    /// How it ended, when it did not end well.
    failed: Option<Fault>,
    /// Since when the upstream owes us something.
    waiting: Option<Instant>,
    /// When the client last got something; None until that moment is needed, which is as soon as we have to wait.
    spoke: Option<Instant>,
    /// One timer for every deadline; it is moved only when it rings, not with every chunk.
    timer: Pin<Box<Sleep>>,
    /// What the upstream said so far, as it said it, up to so many bytes; for whoever looks at it afterwards.
    heard: Option<(Vec<u8>, usize)>,
    turns: Turns,
    /// Its turn was over before every frame at hand was worked off.
    unread: bool,
}

impl Relay {
    pub fn new(mut body: Inbound, mut mode: Mode, setting: Setting) -> Self {
        if let Mode::Raw(raw) = &mut mode {
            raw.begin(&mut body, &setting);
        }
        let timer = Box::pin(tokio::time::sleep_until(setting.first_token.0.min(setting.deadline.at)));
        Relay {
            body,
            scanner: Scanner::bounded(setting.max_event_bytes),
            out: Outbox::new(setting.framing),
            mode,
            setting,
            seen: Seen::default(),
            committed: false,
            ended: false,
            failed: None,
            waiting: None,
            spoke: None,
            timer,
            heard: None,
            turns: Turns::default(),
            unread: false,
        }
    }

    /// Keeps what the upstream says, unless it is more than that.
    pub fn overhear(&mut self, max_bytes: usize) {
        self.heard = Some((Vec::new(), max_bytes));
    }

    /// What the upstream said from beginning to end, where it was kept; None also when it was too much, or when another
    /// one went on.
    pub fn overheard(&mut self) -> Option<Bytes> {
        self.heard.take().map(|(heard, _)| heard.into())
    }

    fn keep(&mut self, chunk: &[u8]) {
        if let Some((heard, max_bytes)) = &mut self.heard {
            if heard.len() + chunk.len() > *max_bytes {
                self.heard = None;
            } else {
                heard.extend_from_slice(chunk);
            }
        }
    }

    /// Waits for the commit point: the first content, or a good end without any.
    ///
    /// # Errors
    /// Whatever went wrong before; nothing has been sent to the client.
    pub async fn commit(&mut self) -> Result<(), Fault> {
        while !self.committed && !self.ended {
            match std::future::poll_fn(|cx| self.poll_upstream(cx)).await {
                Ok(_) => {}
                // Content and what went wrong after it came in one piece: it counts as if they had come one by one.
                Err(fault) if self.committed => {
                    if !self.goes_on(&fault) {
                        self.fail(fault);
                    }
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        self.committed = true;
        self.spoke = None;
        Ok(())
    }

    /// The next bytes for the client; None at the end. Failures come out as error events in the client's dialect.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(filter) = &mut self.setting.filter {
            filter.goes_out();
        }
        loop {
            if let Some(bytes) = self.out.pop() {
                self.spoke = None;
                return Poll::Ready(Some(bytes));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.poll_upstream(cx)) {
                Ok(Step::Worked) => {}
                Ok(Step::Silence) => self.out.comment(self.setting.dialect.keep_alive()),
                Err(fault) if self.goes_on(&fault) => {}
                Err(fault) => self.fail(fault),
            }
        }
    }

    /// Ends the stream at once, unless all that matters was said.
    pub fn cut(&mut self, fault: Fault) {
        if !self.ended && !self.has_said_all() {
            self.fail(fault);
        }
    }

    /// How the stream ended: None while it runs, then a fault or a good end.
    pub fn ending(&mut self) -> Option<Result<(), Fault>> {
        self.ended.then(|| self.failed.take().map_or(Ok(()), Err))
    }

    /// Whether the client has everything that matters: many SDKs close the connection at the final marker, before the
    /// upstream has closed its own.
    pub fn has_said_all(&self) -> bool {
        let said = match &self.mode {
            Mode::Raw(raw) => raw.complete(),
            // Ends are known when the upstream closes; what came before them is in `out`.
            Mode::Translate { .. } | Mode::Adapt { .. } => self.ended,
        };
        said && self.failed.is_none() && self.out.is_empty()
    }

    /// When all of it is due.
    pub fn due(&self) -> Instant {
        self.setting.deadline.at
    }

    /// Its client is gone or does not read on: where it is late, that is how it ends.
    pub fn abandon(&mut self) {
        self.leave();
        if Instant::now() >= self.due() {
            self.cut(self.setting.deadline.outlasted());
        }
    }

    /// As [`Relay::poll_piece`], within the deadline. Who waits looks at the clock; an upstream that is always ahead of its
    /// client is never waited for.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Fault>> {
        let waited = self.waiting.is_some();
        let piece = ready!(self.poll_piece(cx));
        if !waited && piece.is_ok() && !self.ended && !self.is_going_on() && Instant::now() >= self.due() {
            return Poll::Ready(Err(self.setting.deadline.outlasted()));
        }
        Poll::Ready(piece)
    }

    /// Reads one piece from the upstream and works it off. Ready also when the stream ended.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Fault>> {
        if let Some(going) = self.setting.onward.as_mut().and_then(|onward| onward.going.as_mut()) {
            return match going.opens.as_mut().poll(cx) {
                Poll::Ready(opened) => Poll::Ready(self.opened(opened).map(|()| Step::Worked)),
                Poll::Pending => self.poll_deadlines(cx),
            };
        }
        if let Mode::Adapt { source, events, .. } = &mut self.mode {
            ready!(self.turns.poll(cx));
            let Poll::Ready(worked) = source.poll_events(cx, events) else {
                self.turns.rest();
                return self.poll_deadlines(cx);
            };
            self.waiting = None;
            // What came before a fault is the client's.
            let encoded = self.encode();
            let worked = match worked {
                Some(worked) => encoded.and(worked),
                None => encoded.and_then(|()| self.finish()),
            };
            return Poll::Ready(worked.map(|()| Step::Worked));
        }
        if matches!(self.mode, Mode::Raw(_)) {
            return match self.poll_raw(cx) {
                Poll::Ready(worked) => Poll::Ready(worked.map(|()| Step::Worked)),
                Poll::Pending => self.poll_deadlines(cx),
            };
        }
        if self.unread {
            ready!(self.turns.poll(cx));
            return Poll::Ready(self.frames().and_then(|()| self.end_mark(cx)).map(|()| Step::Worked));
        }
        let worked = match self.body.poll_data(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.waiting = None;
                self.keep(&chunk);
                self.scanner.push(chunk);
                self.frames().and_then(|()| self.end_mark(cx))
            }
            Poll::Ready(Some(Err(source))) => self.broken(source),
            Poll::Ready(None) => self.finish(),
            Poll::Pending => {
                self.turns.rest();
                return self.poll_deadlines(cx);
            }
        };
        Poll::Ready(worked.map(|()| Step::Worked))
    }

    /// Works off every whole frame at hand, or those that there is time for in this turn.
    fn frames(&mut self) -> Result<(), Fault> {
        let worked = self.every_frame();
        let left = self.scanner.take();
        if let Mode::Translate { watch: Some(_), .. } = self.mode {
            self.push(left);
        }
        worked
    }

    /// Ends the stream where the upstream has said that it is over, whenever it closes.
    fn end_mark(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let is_over = matches!(&self.mode, Mode::Translate { decoder, .. } if decoder.is_over());
        // A body that others hear, or that is kept, is read to its end: only then is it whole.
        if self.ended || !is_over || matches!(self.body, Inbound::Shared(_)) {
            return Ok(());
        }
        let mut body = std::mem::replace(&mut self.body, Inbound::Ready(None));
        // Mostly the end came along with the mark. A body read to its end leaves its connection to others.
        if body.poll_data(cx).is_pending() {
            tokio::spawn(tokio::time::timeout(LINGER, async move {
                while let Some(Ok(_)) = std::future::poll_fn(|cx| body.poll_data(cx)).await {}
            }));
        }
        self.finish()
    }

    fn every_frame(&mut self) -> Result<(), Fault> {
        self.unread = false;
        while !self.ended && self.scanner.scan()? {
            match &mut self.mode {
                Mode::Translate { watch: Some(_), .. } => self.watched_frame()?,
                Mode::Translate { decoder, events, .. } => {
                    decoder.frame(&Frame(self.scanner.last()), events)?;
                    self.encode()?;
                }
                _ => {}
            }
            if self.setting.filter.is_some() && self.turns.is_over() {
                self.unread = true;
                break;
            }
        }
        Ok(())
    }

    /// Encodes the events that a decoder gave, as those who look at them leave them.
    fn encode(&mut self) -> Result<(), Fault> {
        let flow = self.look()?;
        self.write(flow)
    }

    /// Shows the events to those who look at them.
    fn look(&mut self) -> Result<Flow, Fault> {
        let (Mode::Translate { events, .. } | Mode::Adapt { events, .. }) = &mut self.mode else {
            return Ok(Flow::Same);
        };
        if let Some(onward) = &mut self.setting.onward {
            let theirs = std::mem::take(events);
            theirs.into_iter().for_each(|event| onward.said.pass(event, events));
        }
        let Some(filter) = &mut self.setting.filter else { return Ok(Flow::Same) };
        // What the upstream has said is used, whatever is held back of it.
        events.iter().for_each(|event| heard(&mut self.seen, event));
        let flow = filter.events(events)?;
        self.seen.stopped |= flow == Flow::End;
        Ok(flow)
    }

    /// Encodes the events.
    fn write(&mut self, flow: Flow) -> Result<(), Fault> {
        let (Mode::Translate { encoder, events, .. } | Mode::Adapt { encoder, events, .. }) = &mut self.mode else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        let mut reported = None;
        for event in events.drain(..) {
            self.committed |= event.is_content();
            note(&mut self.seen, &event, self.setting.filter.is_some());
            if let Event::Open { block: Opened::Whole(block), .. } = &event {
                self.seen.note_unshown(self.setting.dialect, &block.content);
            }
            match event {
                Event::Usage(_) if let Some(onward) = &self.setting.onward => {
                    let so_far = self.seen.usage.unwrap_or_default();
                    encoder.event(&Event::Usage(onward.told(so_far)), &mut bytes);
                }
                Event::Fault(fault) => {
                    reported = Some(fault);
                    break;
                }
                event => encoder.event(&event, &mut bytes),
            }
        }
        if flow == Flow::End {
            encoder.finish(&mut bytes);
        }
        let bytes = self.with_cost(bytes.into());
        self.push(bytes);
        if flow == Flow::End && !self.ended {
            // Nothing more is read: dropping the body stops the upstream.
            self.body = Inbound::Ready(None);
            self.end();
        }
        reported.map_or(Ok(()), Err)
    }

    /// After the commit: begins to ask another upstream to go on, if there may and can be one.
    fn goes_on(&mut self, fault: &Fault) -> bool {
        let tokens = self.seen.usage.map_or(0, |usage| usage.output).max(self.seen.frames);
        let begun = self.setting.onward.as_mut().is_some_and(|onward| onward.begin(fault, tokens));
        if begun {
            self.waiting = None;
        }
        begun
    }

    /// Another upstream was asked to go on.
    fn opened(&mut self, opened: Result<Opening, Fault>) -> Result<(), Fault> {
        let Some(onward) = &mut self.setting.onward else { return Ok(()) };
        let attempt = onward.going.take().and_then(|going| going.attempt.take());
        let opening = match opened {
            Ok(opening) => opening,
            Err(fault) => {
                onward.turns.extend(attempt.map(|attempt| Turn::Tried(attempt, None)));
                return Err(fault);
            }
        };
        onward.cut(self.seen.part(self.setting.input_tokens));
        onward.turns.extend(attempt.map(|attempt| Turn::Tried(attempt, opening.hold)));
        self.heard = None;
        self.unread = false;
        self.body = opening.body;
        self.scanner = Scanner::bounded(self.setting.max_event_bytes);
        self.setting.idle = opening.idle;
        self.setting.deadline = opening.deadline;
        self.waiting = None;
        let closes = onward.said.cut();
        let comments = self.setting.framing == Framing::Sse && self.setting.dialect.keep_alive().starts_with(b":");
        if comments {
            self.push(format!(": continued by {}\n\n", opening.name).into());
        }
        let Mode::Translate { decoder, encoder, events, .. } = &mut self.mode else { return Ok(()) };
        *decoder = opening.decoder;
        encoder.continued(&opening.name);
        let mut bytes = Vec::new();
        closes.iter().for_each(|event| encoder.event(event, &mut bytes));
        // What the part before had left is void.
        *events = opening.events;
        self.push(bytes.into());
        self.encode()
    }

    /// Nobody waits any longer for what would come of asking another upstream to go on. It was asked all the same, and it was
    /// to go on from a cut.
    pub fn leave(&mut self) {
        let Some(onward) = &mut self.setting.onward else { return };
        let Some(Going { opens, attempt }) = onward.going.take() else { return };
        // Asks no longer.
        drop(opens);
        if let Some(attempt) = attempt.take() {
            onward.cut(self.seen.part(self.setting.input_tokens));
            onward.turns.push(Turn::Left(attempt));
        }
    }

    /// What happened to the exchange's attempts since this was last asked.
    pub fn turns(&mut self) -> Vec<Turn> {
        self.setting.onward.as_mut().map(|onward| std::mem::take(&mut onward.turns)).unwrap_or_default()
    }

    /// Shows the data of the last frames to whoever wants to keep something of them.
    fn show_end(&self, frames: &Bytes) {
        if let Some(at_end) = &self.setting.at_end {
            show(at_end, frames.clone());
        }
    }

    /// Writes the cost into the usage of encoded frames, where the caller asked for it.
    fn with_cost(&self, frames: Bytes) -> Bytes {
        let (Some(write), Some(usage)) = (&self.setting.add_cost, &self.seen.usage) else { return frames };
        let mut scanner = Scanner::bounded(usize::MAX);
        let mut out = Vec::with_capacity(frames.len() + 32);
        scanner.push(frames);
        while let Ok(true) = scanner.scan() {
            let frame = scanner.last();
            match write(frame, usage) {
                Some(rewritten) => out.extend_from_slice(&rewritten),
                None => out.extend_from_slice(frame),
            }
        }
        out.into()
    }

    /// The upstream closed a stream that is decoded, in good order.
    fn finish(&mut self) -> Result<(), Fault> {
        if let Some(rest) = self.scanner.rest() {
            // A last event may lack its empty line.
            let mut whole = rest.to_vec();
            whole.extend_from_slice(b"\n\n");
            self.scanner.push(whole.into());
            self.frames()?;
            // It is one frame.
            self.unread = false;
        }
        match &mut self.mode {
            Mode::Translate { decoder, events, watch: Some(_), .. } => {
                decoder.finish(events)?;
                return self.finish_watched();
            }
            Mode::Translate { decoder, events, .. } => {
                decoder.finish(events)?;
                self.encode()?;
                if self.ended {
                    return Ok(());
                }
                self.finish_encoder();
            }
            Mode::Adapt { .. } => self.finish_encoder(),
            Mode::Raw(_) => {}
        }
        self.end();
        Ok(())
    }

    fn finish_encoder(&mut self) {
        if let Mode::Translate { encoder, .. } | Mode::Adapt { encoder, .. } = &mut self.mode {
            let mut bytes = Vec::new();
            encoder.finish(&mut bytes);
            let bytes = self.with_cost(bytes.into());
            self.show_end(&bytes);
            self.push(bytes);
        }
    }

    /// The connection broke. That is no failure when everything had been said.
    fn broken(&mut self, source: String) -> Result<(), Fault> {
        match &mut self.mode {
            Mode::Raw(raw) if raw.complete() => self.end(),
            Mode::Translate { watch: Some(watch), .. } if watch.is_over() => return self.finish(),
            // Half a frame is lost; the decoder knows whether the end was among those before it.
            Mode::Translate { decoder, events, watch: None, .. } => {
                let before = events.len();
                if decoder.finish(events).is_ok() {
                    self.encode()?;
                    if !self.ended {
                        self.finish_encoder();
                        self.end();
                    }
                } else {
                    events.truncate(before);
                }
            }
            _ => {}
        }
        if self.ended {
            return Ok(());
        }
        let broken = || Fault::new(Kind::StreamBroken, "The provider's stream broke off.").because(source);
        Err(self.body.fault().unwrap_or_else(broken))
    }

    /// After the commit: the failure becomes the last event.
    fn fail(&mut self, fault: Fault) {
        self.leave();
        // Where another upstream was asked to go on in vain, the cut itself is what the client hears of.
        let cut = self.setting.onward.as_mut().and_then(|onward| onward.fault.take());
        let fault = cut.unwrap_or(fault);
        let mut bytes = Vec::new();
        if let Mode::Translate { encoder, .. } | Mode::Adapt { encoder, .. } = &mut self.mode {
            encoder.event(&Event::Fault(fault.clone()), &mut bytes);
        }
        if bytes.is_empty() {
            self.setting.dialect.encode_stream_error(&fault, &self.begun(), &mut bytes);
        }
        self.push(bytes.into());
        self.end_with(fault);
    }

    /// What the client knows of the stream.
    fn begun(&self) -> Begun<'_> {
        let early = match &self.mode {
            Mode::Raw(raw) => raw.early(),
            _ => 0,
        };
        Begun {
            request_id: &self.setting.request_id,
            id: self.seen.id.as_deref(),
            model: self.setting.called.as_deref().or(self.seen.model.as_deref()),
            created: self.seen.created,
            frames: early + self.seen.frames,
        }
    }

    fn end_with(&mut self, fault: Fault) {
        self.end();
        self.failed = Some(fault);
    }

    fn end(&mut self) {
        if !self.ended {
            self.out.close();
        }
        self.ended = true;
    }

    /// Queues bytes for the client. Those that cannot be held back commit it.
    fn push(&mut self, bytes: Bytes) {
        self.out.push(bytes);
        self.committed |= self.out.is_overfull();
    }
}

/// Shows the data of frames, one after the other.
fn show(at_end: &AtEnd, frames: Bytes) {
    let mut scanner = Scanner::bounded(usize::MAX);
    scanner.push(frames);
    while let Ok(true) = scanner.scan() {
        at_end(&Frame(scanner.last()).data());
    }
}

/// Notes what an event that goes out shows of the stream. `watched`: what it used was noted when it came.
fn note(seen: &mut Seen, event: &Event, watched: bool) {
    if let Event::Finish { reason, .. } = event {
        seen.finish = Some(*reason);
    }
    if !watched {
        heard(seen, event);
    }
}

/// Notes what an event of the upstream says of it, and of what it has used.
fn heard(seen: &mut Seen, event: &Event) {
    if seen.first_content.is_none() && event.is_content() {
        seen.first_content = Some(Instant::now());
    }
    match event {
        Event::Start(start) => {
            seen.id = Some(start.id.clone()).filter(|id| !id.is_empty());
            seen.model = Some(start.model.clone()).filter(|model| !model.is_empty());
        }
        Event::Delta { .. } => seen.frames += 1,
        Event::Usage(usage) => seen.usage.get_or_insert_default().update(usage),
        _ => {}
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("committed", &self.committed).field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
