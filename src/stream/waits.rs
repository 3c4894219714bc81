//! What a stream waits for: the deadlines of its upstream, the comments its client is owed, text that is held back.
//!
//! One timer serves them all.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{Framing, Mode, Relay, SEQUEL, Step};
use crate::body::Inbound;
use crate::fault::{Fault, Kind};

/// When to look again where no clock runs.
const FAR: Duration = Duration::from_secs(60);

impl Relay {
    /// Waits for the next deadline: a fault when the upstream missed one, silence when the client should hear something.
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Fault>> {
        // hyper polls a few times for each chunk. Within one wait the timer stands at the first deadline or before it,
        // so until it rings neither the clock nor the deadlines need to be read again.
        if self.waiting.is_some() {
            ready!(self.timer.as_mut().poll(cx));
        }
        loop {
            let now = Instant::now();
            let waiting = *self.waiting.get_or_insert(now);
            let spoke = *self.spoke.get_or_insert(now);
            if let Some(fault) = self.overdue(now, waiting) {
                if fault.kind != Kind::IdleTimeout || !self.may_be_over() {
                    return Poll::Ready(Err(fault));
                }
                // The upstream only does not close.
                self.body = Inbound::Ready(None);
                let ended = match self.mode {
                    Mode::Raw(_) => {
                        self.end();
                        Ok(())
                    }
                    _ => self.finish(),
                };
                return Poll::Ready(ended.map(|()| Step::Worked));
            }
            let held = self.setting.filter.as_ref().and_then(|filter| filter.due());
            if held.is_some_and(|due| due <= now) {
                return Poll::Ready(self.encode().map(|()| Step::Worked));
            }
            let keep_alive = self.keep_alive_due(spoke);
            if keep_alive.is_some_and(|due| due <= now) {
                return Poll::Ready(Ok(Step::Silence));
            }
            let upstream = match self.seen.first_content {
                // Whoever is asked to go on has clocks of its own.
                _ if self.is_going_on() => now + FAR,
                None => self.setting.first_token.0.min(self.setting.deadline.at),
                Some(_) => (waiting + self.idle()).min(self.setting.deadline.at),
            };
            let next = upstream.min(keep_alive.unwrap_or(upstream)).min(held.unwrap_or(upstream));
            // A timer that rings too early only costs another round; moving it with every chunk would cost more.
            if self.timer.is_elapsed() || self.timer.deadline() > next {
                self.timer.as_mut().reset(next);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    /// Whether another upstream is being asked to go on.
    pub(super) fn is_going_on(&self) -> bool {
        self.setting.onward.as_ref().is_some_and(|onward| onward.going.is_some())
    }

    /// When a comment is due. Before the commit nothing may be sent, and a JSON array has no comments.
    fn keep_alive_due(&self, spoke: Instant) -> Option<Instant> {
        let after = self.setting.keep_alive.filter(|_| self.committed && self.setting.framing == Framing::Sse)?;
        Some(spoke + after)
    }

    /// Whether all may have been said.
    fn may_be_over(&self) -> bool {
        match &self.mode {
            Mode::Raw(raw) => raw.complete(),
            Mode::Translate { decoder, .. } => decoder.may_be_over(),
            Mode::Adapt { .. } => false,
        }
    }

    /// How long the upstream may be silent.
    fn idle(&self) -> Duration {
        match &self.mode {
            Mode::Translate { decoder, .. } if decoder.may_be_over() => self.setting.idle.min(SEQUEL),
            _ => self.setting.idle,
        }
    }

    fn overdue(&self, now: Instant, waiting: Instant) -> Option<Fault> {
        let setting = &self.setting;
        // The clocks are those of an upstream that is given up already.
        if self.is_going_on() {
            return None;
        }
        if now >= setting.deadline.at {
            return Some(setting.deadline.missed());
        }
        if self.seen.first_content.is_none() && now >= setting.first_token.0 {
            let text = format!("No first token within {:?}.", setting.first_token.1);
            return Some(Fault::new(Kind::FirstTokenTimeout, text));
        }
        if self.seen.first_content.is_some() && now >= waiting + self.idle() {
            let text = format!("The provider was silent for {:?} inside the stream.", setting.idle);
            return Some(Fault::new(Kind::IdleTimeout, text));
        }
        None
    }
}
