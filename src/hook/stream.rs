//! Streams under the eyes of guests: text put together, shown, held back, changed, stopped.
//!
//! Works on neutral events, so a guest never sees half a character or half a frame, and what a dialect repeats of a
//! text at its end is what the guest made of it. Never waits: a guest's function runs between two reads.

mod beside;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::Hooks;
use crate::chat::event::{Delta, Event, Opened};
use crate::chat::{Block, Content, Finish};
use crate::fault::{Fault, Kind, Own};
use crate::guest::verdict::{Stop, Verdict};
use crate::guest::{Ear, StreamMode, view};
use crate::host::visit::Apart;
use crate::host::{Visit, World};
use crate::stream::{Filter, Flow};
use beside::{Beside, text_of};

/// Text that is held for one block at most; a guest that buffers sees longer texts in parts.
const MAX_HELD_BYTES: usize = 1 << 20;

/// The guests of one stream, one behind the other.
pub(super) struct Sieve {
    hooks: Arc<Hooks>,
    visit: Arc<Visit>,
    /// What the guests keep until something of the stream goes out.
    apart: Arc<Apart>,
    goes_out: bool,
    world: Arc<dyn World>,
    guests: Vec<Guest>,
    /// A guest that is in force is among them; otherwise the stream is as it would be without them.
    in_force: bool,
    /// No guest has text put together for it.
    piecewise: bool,
    /// A guest is shown what tools are called with.
    arguments: bool,
    /// Blocks of text that are open, innermost last, and what the last text of each was; calls of tools too, where a guest
    /// is shown them.
    open: Vec<(u32, u32, Lane)>,
    /// The tools that are called in blocks that are open.
    tools: Vec<(u32, u32, Arc<str>)>,
    /// Citations wait for the end of their block: then nobody holds a text back that they could be taken for.
    citations: Vec<(u32, u32, Value)>,
    beside: Beside,
    choices: u32,
    stopped: bool,
    /// The block that a guest was shown when it ended the stream.
    stopped_at: (u32, u32),
    /// A guest has changed something in this turn: what text goes out, or when.
    changed: bool,
    /// Room for the events of one turn, kept for the next.
    spare: Vec<Event>,
}

/// One guest and what it has not seen yet.
struct Guest {
    /// Its place among the hooks.
    at: usize,
    /// It is shown copies, and the stream goes on without it.
    shadow: bool,
    /// It is shown what tools are called with.
    arguments: bool,
    /// Events that are put together before it looks.
    events: u32,
    wait: Option<Duration>,
    held: Vec<Held>,
    ear: Ear,
}

/// What a text is to the dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Text,
    Reasoning,
    Summary(u32),
    Refusal,
    /// What a tool is called with, JSON.
    Arguments,
    /// What a tool of free text is given.
    Input,
}

impl Lane {
    /// The word for guests.
    fn kind(self) -> &'static str {
        match self {
            Lane::Text => "text",
            Lane::Reasoning | Lane::Summary(_) => "reasoning",
            Lane::Refusal => "refusal",
            Lane::Arguments => view::ARGUMENTS,
            Lane::Input => "text",
        }
    }

    fn is_of_a_call(self) -> bool {
        matches!(self, Lane::Arguments | Lane::Input)
    }

    fn delta(self, text: String) -> Delta {
        match self {
            Lane::Text => Delta::Text(text),
            Lane::Reasoning => Delta::Reasoning(text),
            Lane::Summary(part) => Delta::Summary { part, text },
            Lane::Refusal => Delta::Refusal(text),
            Lane::Arguments | Lane::Input => Delta::Arguments(text),
        }
    }

    /// What a delta that guests are shown is. `call` is what its block is, where a guest is shown calls.
    fn of(delta: Delta, call: Option<Lane>) -> Result<(Lane, String), Delta> {
        Ok(match (delta, call) {
            (Delta::Arguments(text), Some(lane)) => (lane, text),
            (delta, _) => Lane::of_words(delta)?,
        })
    }

    fn of_words(delta: Delta) -> Result<(Lane, String), Delta> {
        Ok(match delta {
            Delta::Text(text) => (Lane::Text, text),
            Delta::Reasoning(text) => (Lane::Reasoning, text),
            Delta::Summary { part, text } => (Lane::Summary(part), text),
            Delta::Refusal(text) => (Lane::Refusal, text),
            other => return Err(other),
        })
    }
}

/// The name of a tool that the provider runs, of a block that comes in one piece.
fn hosted(block: &Block) -> Arc<str> {
    let Content::Other(value) = &block.content else { return "".into() };
    ["name", "type"].iter().find_map(|key| value.get(*key)?.as_str()).unwrap_or_default().into()
}

/// The word for guests at the end of a block.
const END: &str = "end";

/// Text of one block that a guest has not seen yet.
struct Held {
    choice: u32,
    index: u32,
    /// None for the end of the block.
    lane: Option<Lane>,
    text: String,
    merged: u32,
    /// When it began to wait; None for what does not.
    since: Option<Instant>,
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
            hooks.all()[at].called(&visit);
            let (shadow, arguments) = (hooks.all()[at].shadow, manifest.arguments);
            Guest { at, shadow, arguments, events, wait, held: Vec::new(), ear: Ear::default() }
        });
        let guests: Vec<Guest> = guests.collect();
        let in_force = guests.iter().any(|guest| !guest.shadow);
        let arguments = guests.iter().any(|guest| guest.arguments);
        let piecewise = guests.iter().all(|guest| guest.events <= 1);
        Sieve {
            hooks,
            apart: Arc::new(visit.apart()),
            goes_out: false,
            visit,
            world,
            guests,
            in_force,
            piecewise,
            arguments,
            open: Vec::new(),
            tools: Vec::new(),
            citations: Vec::new(),
            beside: Beside::default(),
            choices: 0,
            stopped: false,
            stopped_at: (0, 0),
            changed: false,
            spare: Vec::new(),
        }
    }

    /// Sends an event through the guests from this place in the row on. What comes out at their end goes to `out`, as it
    /// comes: what was said before a stop has gone on to the others, and what comes after it does not.
    fn send(&mut self, row: usize, event: Event, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        if row == self.guests.len() {
            return self.leave(event, out);
        }
        match event {
            Event::Delta { choice, index, delta } => match Lane::of(delta, self.call_shown(row, choice, index)) {
                Ok((lane, text)) => {
                    let copy = self.guests[row].shadow.then(|| lane.delta(text.clone()));
                    let stop =
                        self.take(row, Held { choice, index, lane: Some(lane), text, merged: 1, since: None }, out)?;
                    match copy {
                        Some(delta) => self.send(row + 1, Event::Delta { choice, index, delta }, out),
                        None => Ok(stop),
                    }
                }
                Err(delta) => self.send(row + 1, Event::Delta { choice, index, delta }, out),
            },
            Event::Close { choice, index } => {
                let stop = self.release(row, |held| held.choice == choice && held.index == index, out)?;
                if stop.is_some() {
                    return Ok(stop);
                }
                // Only blocks of text have an end worth showing, and calls to who is shown them.
                if self.is_shown(row, choice, index) {
                    let last = Held { choice, index, lane: None, text: String::new(), merged: 0, since: None };
                    let stop = self.show(row, last, out)?;
                    if stop.is_some() {
                        return Ok(stop);
                    }
                }
                self.send(row + 1, event, out)
            }
            other => self.send(row + 1, other, out),
        }
    }

    /// Lets out what has passed every guest, and what has waited for it.
    fn leave(&mut self, event: Event, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let mut after = Vec::new();
        match &event {
            Event::Delta { choice, delta, .. } => {
                if let Some(text) = text_of(delta) {
                    after = self.beside.went(*choice, text);
                }
            }
            Event::Close { choice, index } => {
                self.beside.closed(*choice);
                let stop = self.cite(*choice, *index, out)?;
                if stop.is_some() {
                    return Ok(stop);
                }
            }
            _ => {}
        }
        self.changed |= !after.is_empty();
        out.push(event);
        out.append(&mut after);
        Ok(None)
    }

    /// Shows the citations of a block that is about to close, and lets them out.
    fn cite(&mut self, choice: u32, index: u32, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let mut waiting = std::mem::take(&mut self.citations);
        let of_block: Vec<_> = waiting.extract_if(.., |(of, at, _)| (*of, *at) == (choice, index)).collect();
        self.citations = waiting;
        for (_, _, citation) in of_block {
            self.changed |= self.in_force;
            let mut block = Block::new(Content::Other(citation));
            if let Some(stop) = self.show_whole(choice, index, &mut block)? {
                return Ok(Some(stop));
            }
            if let (true, Content::Other(citation)) = (self.in_force, block.content) {
                out.push(Event::Delta { choice, index, delta: Delta::Citation(citation) });
            }
        }
        Ok(None)
    }

    /// Shows every guest the texts of something that comes in one piece, each as if it were a block of its own.
    fn show_whole(&mut self, choice: u32, index: u32, block: &mut Block) -> Result<Option<Stop>, Fault> {
        let mut texts = BTreeMap::new();
        for text in view::texts_of_block(block) {
            let called = text.spot.kind == view::ARGUMENTS;
            if text.text.is_empty() || called && !self.arguments {
                continue;
            }
            let (place, said) = (text.spot.index, text.text.clone());
            let tool = called.then(|| hosted(block));
            let left = match self.pass_whole(choice, index, text, tool)? {
                Ok(left) => left,
                Err(stop) => return Ok(Some(stop)),
            };
            if left != said {
                self.changed = true;
                texts.insert(place, left);
            }
        }
        view::replace_in_block(block, &texts);
        Ok(None)
    }

    /// What all guests that are shown it make of one text and its end; `tool`: which tool is called with it.
    fn pass_whole(
        &mut self,
        choice: u32,
        index: u32,
        text: view::Text,
        tool: Option<Arc<str>>,
    ) -> Result<Result<String, Stop>, Fault> {
        let (kind, mut text) = (text.spot.kind, text.text);
        for row in 0..self.guests.len() {
            if tool.is_some() && !self.guests[row].arguments {
                continue;
            }
            let mut left = String::new();
            for (kind, text, merged) in [(kind, text, 1), (END, String::new(), 0)] {
                if kind != END && text.is_empty() {
                    continue;
                }
                let tool = tool.clone();
                match self.hear(row, view::Event { kind, tool, text, choice, index, merged })? {
                    Ok(said) => left.push_str(&said),
                    Err(stop) => return Ok(Err(stop)),
                }
            }
            text = left;
        }
        Ok(Ok(text))
    }

    /// Shows the guest at this place some text and sends on what it makes of it: of one in shadow nothing.
    fn show(&mut self, row: usize, held: Held, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let Held { choice, index, lane, text, merged, .. } = held;
        let kind = lane.map_or(END, Lane::kind);
        let tool = self.tool(choice, index);
        let text = match self.hear(row, view::Event { kind, tool, text, choice, index, merged })? {
            Ok(text) => text,
            Err(stop) => return Ok(Some(stop)),
        };
        if text.is_empty() || self.guests[row].shadow {
            return Ok(None);
        }
        let lane = lane.unwrap_or_else(|| self.lane(choice, index));
        self.send(row + 1, Event::Delta { choice, index, delta: lane.delta(text) }, out)
    }

    /// What the guest at this place makes of a text, or that it ends the stream.
    fn hear(&mut self, row: usize, event: view::Event) -> Result<Result<String, Stop>, Fault> {
        let guest = &mut self.guests[row];
        let hook = &self.hooks.all()[guest.at];
        Ok(Ok(match hook.hear(&mut guest.ear, &self.visit, &self.apart, &self.world, event)? {
            (Verdict::Text(text), event) => {
                self.changed |= text != event.text;
                text
            }
            (Verdict::Stop(stop), event) => {
                self.stopped_at = (event.choice, event.index);
                return Ok(Err(stop));
            }
            (_, event) => event.text,
        }))
    }

    /// Sends one text through the guests, where each sees it at once: what nearly every turn is, without its turns.
    fn pass(&mut self, choice: u32, index: u32, text: &mut String) -> Result<Option<Stop>, Fault> {
        for row in 0..self.guests.len() {
            let event = view::Event { kind: "text", tool: None, text: std::mem::take(text), choice, index, merged: 1 };
            match self.hear(row, event)? {
                Ok(left) if left.is_empty() => break,
                Ok(left) => *text = left,
                Err(stop) => return Ok(Some(stop)),
            }
        }
        Ok(None)
    }

    fn block(&self, choice: u32, index: u32) -> Option<Lane> {
        self.open.iter().find(|block| (block.0, block.1) == (choice, index)).map(|block| block.2)
    }

    /// Whether the guest at this place is shown the texts of a block.
    fn is_shown(&self, row: usize, choice: u32, index: u32) -> bool {
        self.block(choice, index).is_some_and(|lane| self.guests[row].arguments || !lane.is_of_a_call())
    }

    /// What a block is that the guest at this place is shown the call in.
    fn call_shown(&self, row: usize, choice: u32, index: u32) -> Option<Lane> {
        match self.guests[row].arguments {
            true => self.block(choice, index).filter(|lane| lane.is_of_a_call()),
            false => None,
        }
    }

    /// What was held back to a block's end is what the block's last text was.
    fn lane(&self, choice: u32, index: u32) -> Lane {
        self.block(choice, index).unwrap_or(Lane::Text)
    }

    /// The tool that is called in a block.
    fn tool(&self, choice: u32, index: u32) -> Option<Arc<str>> {
        self.tools.iter().find(|block| (block.0, block.1) == (choice, index)).map(|block| block.2.clone())
    }

    /// Shows a guest this text, or holds it until there is as much as it wants to see at once.
    fn take(&mut self, row: usize, new: Held, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let guest = &mut self.guests[row];
        let place = (new.choice, new.index, new.lane);
        let same = |held: &Held| (held.choice, held.index, held.lane) == place;
        let full = match guest.held.iter_mut().find(|held| same(held)) {
            Some(held) => {
                self.changed |= !guest.shadow;
                held.text.push_str(&new.text);
                held.merged += 1;
                held.merged >= guest.events || held.text.len() >= MAX_HELD_BYTES
            }
            None if guest.events <= 1 => return self.show(row, new, out),
            None => {
                self.changed |= !guest.shadow;
                guest.held.push(Held { since: Some(Instant::now()), ..new });
                false
            }
        };
        if full { self.release(row, same, out) } else { Ok(None) }
    }

    /// Shows a guest what is held for it and fits.
    fn release(
        &mut self,
        row: usize,
        fits: impl Fn(&Held) -> bool,
        out: &mut Vec<Event>,
    ) -> Result<Option<Stop>, Fault> {
        while let Some(place) = self.guests[row].held.iter().position(&fits) {
            let held = self.guests[row].held.remove(place);
            self.changed |= !self.guests[row].shadow;
            let stop = self.show(row, held, out)?;
            if stop.is_some() {
                return Ok(stop);
            }
        }
        Ok(None)
    }

    /// Shows guests what has waited long enough for them.
    fn release_due(&mut self, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        // Without a wait nothing is due, and the clock is not looked at.
        if self.guests.iter().all(|guest| guest.wait.is_none()) {
            return Ok(None);
        }
        let now = Instant::now();
        for row in 0..self.guests.len() {
            let Some(wait) = self.guests[row].wait else { continue };
            let stop = self.release(row, |held| held.since.is_some_and(|since| since + wait <= now), out)?;
            if stop.is_some() {
                return Ok(stop);
            }
        }
        Ok(None)
    }

    /// Sends one event of the provider through all guests.
    fn sift(&mut self, mut event: Event, out: &mut Vec<Event>) -> Result<Option<Stop>, Fault> {
        let mut closed = None;
        match &mut event {
            Event::Open { choice, index, block } => {
                self.choices = self.choices.max(*choice);
                let lane = match block {
                    Opened::Text => Lane::Text,
                    Opened::Reasoning { .. } => Lane::Reasoning,
                    Opened::Refusal => Lane::Refusal,
                    Opened::Whole(block) => {
                        let stop = self.show_whole(*choice, *index, block)?;
                        return if stop.is_some() { Ok(stop) } else { self.send(0, event, out) };
                    }
                    Opened::ToolCall(call) if self.arguments => {
                        self.tools.push((*choice, *index, call.name.as_str().into()));
                        if call.custom { Lane::Input } else { Lane::Arguments }
                    }
                    Opened::ToolCall(_) => return self.send(0, event, out),
                };
                self.open.push((*choice, *index, lane));
                // Whatever the head says already is shown as what follows it.
                if let Opened::ToolCall(call) = block
                    && !call.arguments.is_empty()
                {
                    let begun = Delta::Arguments(std::mem::take(&mut call.arguments));
                    let begun = Event::Delta { choice: *choice, index: *index, delta: begun };
                    let stop = self.send(0, event, out)?;
                    return if stop.is_some() { Ok(stop) } else { self.send(0, begun, out) };
                }
            }
            Event::Delta { choice, index, delta: Delta::Citation(citation) } => {
                self.changed |= self.in_force;
                if self.in_force {
                    self.citations.push((*choice, *index, std::mem::take(citation)));
                    return Ok(None);
                }
                self.citations.push((*choice, *index, citation.clone()));
            }
            Event::Delta { choice, delta: Delta::Logprobs(_), .. } if self.in_force => {
                let at_once = self.beside.probabilities(*choice, event);
                self.changed |= at_once.is_none();
                out.extend(at_once);
                return Ok(None);
            }
            Event::Delta { choice, index, delta } => {
                if let Delta::Summary { part, .. } = delta {
                    let block = self.open.iter_mut().find(|block| (block.0, block.1) == (*choice, *index));
                    block.into_iter().for_each(|block| block.2 = Lane::Summary(*part));
                }
                if let Some(text) = text_of(delta) {
                    self.beside.came(*choice, text);
                }
            }
            Event::Close { choice, index } => closed = Some((*choice, *index)),
            _ => {}
        }
        let stop = self.send(0, event, out)?;
        if let (None, Some(closed)) = (&stop, closed) {
            self.open.retain(|block| (block.0, block.1) != closed);
            self.tools.retain(|block| (block.0, block.1) != closed);
        }
        Ok(stop)
    }

    fn way(&mut self, stop: Option<Stop>, events: &mut Vec<Event>) -> Result<Flow, Fault> {
        match stop {
            Some(stop) => self.end(stop, events),
            None if self.changed => Ok(Flow::On),
            None => Ok(Flow::Same),
        }
    }

    /// Ends the stream as a guest wants it.
    fn end(&mut self, stop: Stop, out: &mut Vec<Event>) -> Result<Flow, Fault> {
        self.stopped = true;
        if let Some(message) = stop.message {
            let mut fault = Fault::new(Kind::PolicyRejected, message);
            fault.own = stop.code.map(|code| Box::new(Own { code, status: None }));
            return Err(fault);
        }
        // With last words it is as if the model had said them and stopped.
        let reason = if stop.text.is_some() { Finish::Stop } else { Finish::ContentFilter };
        if let Some(text) = stop.text.filter(|text| !text.is_empty()) {
            let (choice, index) = self.last_block(out);
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
        }
        for (choice, index, _) in self.open.drain(..).rev() {
            out.push(Event::Close { choice, index });
        }
        for choice in 0..=self.choices {
            out.push(Event::Finish { choice, reason, native: None, stop_sequence: None });
        }
        Ok(Flow::End)
    }

    /// The block of text that last words belong to: that which the guest was shown, or one behind its choice's reasoning.
    fn last_block(&mut self, out: &mut Vec<Event>) -> (u32, u32) {
        let (choice, shown) = self.stopped_at;
        if self.open.contains(&(choice, shown, Lane::Text)) {
            return (choice, shown);
        }
        let mut index = shown;
        for block in self.open.extract_if(.., |block| block.0 == choice) {
            out.push(Event::Close { choice, index: block.1 });
            index = index.max(block.1 + 1);
        }
        out.push(Event::Open { choice, index, block: Opened::Text });
        self.open.push((choice, index, Lane::Text));
        (choice, index)
    }
}

impl Filter for Sieve {
    fn events(&mut self, events: &mut Vec<Event>) -> Result<Flow, Fault> {
        if self.stopped {
            events.clear();
            return Ok(Flow::End);
        }
        self.changed = false;
        if let (true, [Event::Delta { choice, index, delta: Delta::Text(text) }]) = (self.piecewise, &mut events[..]) {
            let choice = *choice;
            self.beside.came(choice, text);
            let stop = self.pass(choice, *index, text)?;
            // What waits for a text has waited since another turn.
            let mut after = if text.is_empty() { Vec::new() } else { self.beside.went(choice, text) };
            if text.is_empty() {
                events.clear();
            }
            self.changed |= !after.is_empty();
            events.append(&mut after);
            return self.way(stop, events);
        }
        let mut waiting = std::mem::replace(events, std::mem::take(&mut self.spare));
        let mut stop = self.release_due(events)?;
        let mut left = waiting.drain(..);
        while let (None, Some(event)) = (&stop, left.next()) {
            stop = self.sift(event, events)?;
        }
        drop(left);
        self.spare = waiting;
        self.way(stop, events)
    }

    fn goes_out(&mut self) {
        if !std::mem::replace(&mut self.goes_out, true) {
            self.visit.join(&self.apart);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.guests.iter().filter_map(|guest| Some(guest.held.first()?.since? + guest.wait?)).min()
    }
}
