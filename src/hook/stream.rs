//! Streams under the eyes of guests: text put together, shown, held back, changed, stopped.
//!
//! Works on neutral events, so a guest never sees half a character or half a frame, and what a dialect repeats of a
//! text at its end is what the guest made of it. Never waits: a guest's function runs between two reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Hooks, at_once};
use crate::chat::Finish;
use crate::chat::event::{Delta, Event, Opened};
use crate::fault::{Fault, Kind, Own};
use crate::guest::verdict::{Stop, Verdict};
use crate::guest::{StreamMode, view};
use crate::host::{Phase, Visit, World};
use crate::stream::{Filter, Flow};

/// Text that is held for one block at most; a guest that buffers sees longer texts in parts.
const MAX_HELD_BYTES: usize = 1 << 20;

/// The guests of one stream, one behind the other.
pub(super) struct Sieve {
    hooks: Arc<Hooks>,
    visit: Arc<Visit>,
    world: Arc<dyn World>,
    guests: Vec<Guest>,
    /// Blocks that are open, innermost last, and whether they are of reasoning.
    open: Vec<(u32, u32, bool)>,
    choices: u32,
    stopped: bool,
}

/// One guest and what it has not seen yet.
struct Guest {
    /// Its place among the hooks.
    at: usize,
    /// Events that are put together before it looks.
    events: u32,
    wait: Option<Duration>,
    held: Vec<Held>,
}

/// Text of one block that a guest has not seen yet.
struct Held {
    choice: u32,
    index: u32,
    kind: &'static str,
    text: String,
    merged: u32,
    since: Instant,
}

/// What became of an event at one guest.
enum Passed {
    Events(Vec<Event>),
    Stop(Vec<Event>, Stop),
}

impl Sieve {
    pub fn new(hooks: Arc<Hooks>, places: Vec<usize>, visit: Arc<Visit>, world: Arc<dyn World>) -> Self {
        let guests = places.into_iter().map(|at| {
            let manifest = &hooks.all()[at].bundle.manifest;
            let (events, wait) = match (manifest.stream, manifest.coalesce) {
                (StreamMode::Buffer, _) => (u32::MAX, None),
                (_, Some(coalesce)) => (coalesce.events, coalesce.ms.map(Duration::from_millis)),
                (_, None) => (1, None),
            };
            Guest { at, events, wait, held: Vec::new() }
        });
        let guests = guests.collect();
        Sieve { hooks, visit, world, guests, open: Vec::new(), choices: 0, stopped: false }
    }

    /// Shows one guest some text and gives what goes on from it.
    fn show(&self, at: usize, held: Held) -> Result<Passed, Fault> {
        let Held { choice, index, kind, text, merged, .. } = held;
        let hook = &self.hooks.all()[at];
        let view = Arc::new(view::Event { visit: self.visit.clone(), kind, text, choice, index, merged });
        let call = hook.call(Phase::Event, &self.visit, &self.world, view::Subject::Event(view.clone()));
        let verdict = at_once(call)?;
        let delta = |text: String| match text.is_empty() {
            true => Vec::new(),
            false => vec![Event::Delta { choice, index, delta: self.delta_of(choice, index, kind, text) }],
        };
        Ok(match verdict {
            Verdict::Text(text) => Passed::Events(delta(text)),
            Verdict::Stop(stop) => Passed::Stop(Vec::new(), stop),
            _ => Passed::Events(delta(view.text.clone())),
        })
    }

    /// Passes an event through the guest at this place in the row; what comes out may be none or several.
    fn pass(&mut self, row: usize, event: Event) -> Result<Passed, Fault> {
        match event {
            Event::Delta { choice, index, delta: Delta::Text(text) } => self.take(row, choice, index, "text", text),
            Event::Delta { choice, index, delta: Delta::Reasoning(text) } => {
                self.take(row, choice, index, "reasoning", text)
            }
            Event::Close { choice, index } => {
                let (mut out, stop) = match self.release(row, |held| held.choice == choice && held.index == index)? {
                    Passed::Events(events) => (events, None),
                    Passed::Stop(events, stop) => (events, Some(stop)),
                };
                if let Some(stop) = stop {
                    return Ok(Passed::Stop(out, stop));
                }
                // Only blocks of text have an end worth showing.
                if self.is_text(choice, index) {
                    let last =
                        Held { choice, index, kind: "end", text: String::new(), merged: 0, since: Instant::now() };
                    match self.show(self.guests[row].at, last)? {
                        Passed::Events(events) => out.extend(events),
                        Passed::Stop(events, stop) => {
                            out.extend(events);
                            return Ok(Passed::Stop(out, stop));
                        }
                    }
                }
                out.push(Event::Close { choice, index });
                Ok(Passed::Events(out))
            }
            other => Ok(Passed::Events(vec![other])),
        }
    }

    fn is_text(&self, choice: u32, index: u32) -> bool {
        self.open.iter().any(|block| (block.0, block.1) == (choice, index))
    }

    /// What was held back to a block's end is what the block is.
    fn delta_of(&self, choice: u32, index: u32, kind: &str, text: String) -> Delta {
        if kind == "reasoning" || self.open.contains(&(choice, index, true)) {
            Delta::Reasoning(text)
        } else {
            Delta::Text(text)
        }
    }

    fn take(&mut self, row: usize, choice: u32, index: u32, kind: &'static str, text: String) -> Result<Passed, Fault> {
        let guest = &mut self.guests[row];
        let same = |held: &Held| (held.choice, held.index, held.kind) == (choice, index, kind);
        let full = match guest.held.iter_mut().find(|held| same(held)) {
            Some(held) => {
                held.text.push_str(&text);
                held.merged += 1;
                held.merged >= guest.events || held.text.len() >= MAX_HELD_BYTES
            }
            None => {
                guest.held.push(Held { choice, index, kind, text, merged: 1, since: Instant::now() });
                guest.events <= 1
            }
        };
        if full { self.release(row, same) } else { Ok(Passed::Events(Vec::new())) }
    }

    /// Shows a guest what is held for it and fits.
    fn release(&mut self, row: usize, fits: impl Fn(&Held) -> bool) -> Result<Passed, Fault> {
        let mut out = Vec::new();
        while let Some(place) = self.guests[row].held.iter().position(&fits) {
            let held = self.guests[row].held.remove(place);
            match self.show(self.guests[row].at, held)? {
                Passed::Events(events) => out.extend(events),
                Passed::Stop(events, stop) => {
                    out.extend(events);
                    return Ok(Passed::Stop(out, stop));
                }
            }
        }
        Ok(Passed::Events(out))
    }

    /// Sends events through the guests from this place in the row on.
    fn run(&mut self, from: usize, events: Vec<Event>, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let mut waiting = events;
        for row in from..self.guests.len() {
            let mut next = Vec::with_capacity(waiting.len());
            for event in waiting {
                match self.pass(row, event)? {
                    Passed::Events(events) => next.extend(events),
                    Passed::Stop(events, stop) => {
                        next.extend(events);
                        // What was said before goes on to the others; what comes after does not.
                        if let Some(sooner) = self.run(row + 1, next, out)? {
                            return Ok(Some(sooner));
                        }
                        return Ok(Some(stop));
                    }
                }
            }
            waiting = next;
        }
        out.extend(waiting);
        Ok(None)
    }

    /// Ends the stream as a guest wants it.
    fn end(&mut self, stop: Stop, out: &mut Vec<Event>) -> Result<Flow, Fault> {
        self.stopped = true;
        if let Some(message) = stop.message {
            let mut fault = Fault::new(Kind::PolicyRejected, message);
            fault.own = stop.code.map(|code| Box::new(Own { code, status: None }));
            return Err(fault);
        }
        if let Some(text) = stop.text.filter(|text| !text.is_empty()) {
            let (choice, index) = match self.open.last() {
                Some((choice, index, false)) => (*choice, *index),
                _ => {
                    out.push(Event::Open { choice: 0, index: 0, block: Opened::Text });
                    self.open.push((0, 0, false));
                    (0, 0)
                }
            };
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
        }
        for (choice, index, _) in self.open.drain(..).rev() {
            out.push(Event::Close { choice, index });
        }
        for choice in 0..=self.choices {
            out.push(Event::Finish { choice, reason: Finish::ContentFilter, native: None, stop_sequence: None });
        }
        Ok(Flow::End)
    }
}

impl Filter for Sieve {
    fn events(&mut self, events: &mut Vec<Event>) -> Result<Flow, Fault> {
        if self.stopped {
            events.clear();
            return Ok(Flow::End);
        }
        let mut out = Vec::with_capacity(events.len());
        // Whatever has waited long enough goes first.
        let now = Instant::now();
        for row in 0..self.guests.len() {
            let wait = self.guests[row].wait;
            let passed = self.release(row, |held| wait.is_some_and(|wait| held.since + wait <= now));
            let (ready, stop) = match passed? {
                Passed::Events(ready) => (ready, None),
                Passed::Stop(ready, stop) => (ready, Some(stop)),
            };
            let stop = self.run(row + 1, ready, &mut out)?.or(stop);
            if let Some(stop) = stop {
                let flow = self.end(stop, &mut out);
                *events = out;
                return flow;
            }
        }
        for event in std::mem::take(events) {
            match &event {
                Event::Open { choice, index, block: block @ (Opened::Text | Opened::Reasoning { .. }) } => {
                    self.open.push((*choice, *index, matches!(block, Opened::Reasoning { .. })));
                    self.choices = self.choices.max(*choice);
                }
                Event::Fault(_) => {}
                _ => {}
            }
            let closed = match &event {
                Event::Close { choice, index } => Some((*choice, *index)),
                _ => None,
            };
            let stop = self.run(0, vec![event], &mut out)?;
            if let Some(stop) = stop {
                let flow = self.end(stop, &mut out);
                *events = out;
                return flow;
            }
            if let Some(closed) = closed {
                self.open.retain(|block| (block.0, block.1) != closed);
            }
        }
        *events = out;
        Ok(Flow::On)
    }

    fn due(&self) -> Option<Instant> {
        self.guests.iter().filter_map(|guest| Some(guest.held.first()?.since + guest.wait?)).min()
    }
}
