//! Going on after a cut: what a stream had said when it broke off, and how another upstream's events follow in its place.
//!
//! The client sees one stream: one start, one numbering of blocks, one end, usage that sums all parts. Half a tool call is
//! never gone on from. Used only where the model asks for it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Deadline;
use crate::body::Inbound;
use crate::chat::{Delta, Event, Opened, Usage};
use crate::dialect::Decoder;
use crate::exchange::Attempt;
use crate::fault::{Fault, Retry};
use crate::state::limit::Hold;

/// Something that finds an upstream to go on with.
pub trait GoOn: Send {
    /// Asks the next target to go on after `text`, of about so many tokens; None when nothing is left.
    fn go_on(&mut self, text: &str, tokens: u64) -> Option<Going>;
}

/// A target being asked.
pub struct Going {
    pub opens: Pin<Box<dyn Future<Output = Result<Opening, Fault>> + Send>>,
    pub attempt: Underway,
}

/// The attempt that is under way: there from when the target took it, so that it is known of also where the client leaves
/// before anything comes of it.
#[derive(Clone, Default)]
pub struct Underway(Arc<Mutex<Option<Box<Attempt>>>>);

impl Underway {
    pub fn begin(&self, attempt: Attempt) {
        *self.attempt() = Some(Box::new(attempt));
    }

    /// Notes what came of it.
    pub fn end(&self, note: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = &mut *self.attempt() {
            note(attempt);
        }
    }

    /// None where the target has not taken it.
    pub(super) fn take(&self) -> Option<Box<Attempt>> {
        self.attempt().take()
    }

    fn attempt(&self) -> MutexGuard<'_, Option<Box<Attempt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upstream that goes on.
pub struct Opening {
    pub body: Inbound,
    pub decoder: Box<dyn Decoder>,
    /// The answer, where it came whole.
    pub events: Vec<Event>,
    pub idle: Duration,
    pub deadline: Deadline,
    /// `provider/model`, for people.
    pub name: String,
    /// What the limits of its target hold for it.
    pub hold: Option<Hold>,
}

/// What happened to an exchange's attempts inside its stream, for the exchange to note.
pub enum Turn {
    /// The attempt that answered so far was cut, after this much.
    Cut(Box<Fault>, Usage),
    /// Another was made; the limits of its target hold that for it, where it goes on.
    Tried(Box<Attempt>, Option<Hold>),
    /// Another was made, and nobody waited for what would come of it.
    Left(Box<Attempt>),
}

/// A stream's second chances.
pub struct Onward {
    source: Box<dyn GoOn>,
    pub(super) going: Option<Going>,
    /// Why the present part ended; told when nothing is left to go on with.
    pub(super) fault: Option<Fault>,
    pub(super) said: Said,
    /// What the parts before this one used.
    before: Option<Usage>,
    pub(super) turns: Vec<Turn>,
}

impl Onward {
    pub fn new(source: Box<dyn GoOn>) -> Self {
        Onward { source, going: None, fault: None, said: Said::default(), before: None, turns: Vec::new() }
    }

    /// Begins to go on after this fault. False when that cannot be.
    pub(super) fn begin(&mut self, fault: &Fault, tokens: u64) -> bool {
        // What goes wrong while somebody is being asked is not that one's.
        if self.going.is_some() || fault.retry() == Retry::Never || !self.said.may_go_on() {
            return false;
        }
        self.going = self.source.go_on(&self.said.text, tokens);
        if self.going.is_some() && self.fault.is_none() {
            self.fault = Some(fault.clone());
        }
        self.going.is_some()
    }

    /// The part before is over, having used this.
    pub(super) fn cut(&mut self, used: Usage) {
        if let Some(fault) = self.fault.take() {
            self.turns.push(Turn::Cut(Box::new(fault), used));
        }
        self.before = Some(self.before.map_or(used, |before| before.plus(&used)));
    }

    /// What the client is told of the usage: all parts together.
    pub(super) fn told(&self, usage: Usage) -> Usage {
        self.before.map_or(usage, |before| before.plus(&usage))
    }
}

/// What went by of a stream, as far as going on needs it.
#[derive(Debug, Default)]
pub(super) struct Said {
    text: String,
    started: bool,
    finished: bool,
    /// Another upstream than the first speaks, perhaps in another dialect.
    changed: bool,
    /// Something was said that cannot be gone on from: a tool call, a picture, a second choice.
    stuck: bool,
    /// The open block, and whether it is text.
    open: Option<(u32, bool)>,
    /// The next free number of a block.
    next: u32,
    /// Numbers of the present upstream and what they are to the client.
    numbers: Vec<(u32, u32)>,
    /// The text block that the next upstream's first text goes into.
    joins: Option<u32>,
    /// The text so far ends in white space, so that the next must not begin with it.
    trims: bool,
}

impl Said {
    pub fn may_go_on(&self) -> bool {
        self.started && !self.finished && !self.stuck
    }

    /// Another upstream follows: gives what must be closed before.
    pub fn cut(&mut self) -> Option<Event> {
        self.numbers.clear();
        self.changed = true;
        self.trims = self.text.ends_with(char::is_whitespace);
        match self.open.take() {
            Some((index, true)) => {
                self.joins = Some(index);
                None
            }
            Some((index, false)) => Some(Event::Close { choice: 0, index }),
            // A second cut may come before anything was joined.
            None => None,
        }
    }

    /// Hands an event on to `out` under the client's numbers, or keeps it back.
    pub fn pass(&mut self, mut event: Event, out: &mut Vec<Event>) {
        match &mut event {
            Event::Start(_) => {
                if std::mem::replace(&mut self.started, true) {
                    return;
                }
            }
            Event::Open { choice: 0, index, block } => {
                let text = matches!(block, Opened::Text);
                if text && let Some(joined) = self.joins.take() {
                    self.numbers.push((*index, joined));
                    self.open = Some((joined, true));
                    return;
                }
                self.unjoin(out);
                self.stuck |= matches!(block, Opened::ToolCall(_) | Opened::Whole(_));
                self.numbers.push((*index, self.next));
                *index = self.next;
                self.next += 1;
                self.open = Some((*index, text));
            }
            Event::Delta { choice: 0, index, delta } => {
                *index = self.number(*index);
                if let Delta::Text(text) = delta {
                    if std::mem::take(&mut self.trims) {
                        *text = text.trim_start().to_owned();
                        self.trims = text.is_empty();
                    }
                    self.text.push_str(text);
                    if text.is_empty() {
                        return;
                    }
                }
            }
            Event::Close { choice: 0, index } => {
                *index = self.number(*index);
                self.open = None;
            }
            Event::Finish { choice: 0, native, .. } => {
                self.unjoin(out);
                self.finished = true;
                // The client takes it for a word of the first upstream's.
                if self.changed {
                    *native = None;
                }
            }
            Event::Open { .. } | Event::Delta { .. } | Event::Close { .. } | Event::Finish { .. } => self.stuck = true,
            // They tell of a part of the answer alone.
            Event::Message(_) | Event::Extra(_) if self.changed => return,
            Event::Usage(_) | Event::Message(_) | Event::Extra(_) | Event::Tier(_) | Event::Ping | Event::Fault(_) => {}
        }
        out.push(event);
    }

    /// Nothing follows in the open text block.
    fn unjoin(&mut self, out: &mut Vec<Event>) {
        out.extend(self.joins.take().map(|index| Event::Close { choice: 0, index }));
    }

    fn number(&self, theirs: u32) -> u32 {
        self.numbers.iter().rfind(|(known, _)| *known == theirs).map_or(theirs, |(_, ours)| *ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Extra, Finish, Start, ToolCall};

    fn open(index: u32, block: Opened) -> Event {
        Event::Open { choice: 0, index, block }
    }

    fn text(index: u32, text: &str) -> Event {
        Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) }
    }

    fn close(index: u32) -> Event {
        Event::Close { choice: 0, index }
    }

    fn finish() -> Event {
        Event::Finish { choice: 0, reason: Finish::Stop, native: None, stop_sequence: None }
    }

    fn start() -> Event {
        Event::Start(Start::default())
    }

    fn reasoning() -> Opened {
        Opened::Reasoning { id: None, encrypted: None }
    }

    /// What a client gets of these parts, in short.
    fn told(parts: Vec<Vec<Event>>) -> (Vec<String>, Said) {
        let mut said = Said::default();
        let mut out = Vec::new();
        for (number, part) in parts.into_iter().enumerate() {
            if number > 0 {
                assert!(said.may_go_on());
                out.extend(said.cut());
            }
            part.into_iter().for_each(|event| said.pass(event, &mut out));
        }
        let short = |event: &Event| match event {
            Event::Start(_) => "start".to_owned(),
            Event::Open { index, block, .. } => {
                format!("open {index} {}", if matches!(block, Opened::Text) { "text" } else { "other" })
            }
            Event::Delta { index, delta: Delta::Text(text), .. } => format!("{index} {text:?}"),
            Event::Close { index, .. } => format!("close {index}"),
            Event::Finish { .. } => "finish".to_owned(),
            other => format!("{other:?}"),
        };
        (out.iter().map(short).collect(), said)
    }

    #[test]
    fn a_text_that_is_cut_goes_on_in_the_same_block() {
        let first = vec![start(), open(0, reasoning()), close(0), open(1, Opened::Text), text(1, "One, ")];
        let own = || Extra::from_iter([("id".to_owned(), "msg_2".into())]);
        let begun = vec![start(), Event::Message(own()), open(0, Opened::Text), text(0, " two"), text(0, " three")];
        let second = [begun, vec![close(0), Event::Extra(own()), finish()]].concat();
        let (events, said) = told(vec![first, second]);
        let expected = [
            "start",
            "open 0 other",
            "close 0",
            "open 1 text",
            "1 \"One, \"",
            "1 \"two\"",
            "1 \" three\"",
            "close 1",
            "finish",
        ];
        assert_eq!(events, expected);
        assert_eq!((said.text.as_str(), said.may_go_on()), ("One, two three", false));
    }

    #[test]
    fn what_reasons_first_gets_a_block_of_its_own_and_is_cut_again() {
        let first = vec![start(), open(0, Opened::Text), text(0, "A")];
        let second = vec![start(), open(0, reasoning())];
        let third = vec![start(), open(0, Opened::Text), text(0, "B"), close(0), finish()];
        let (events, _) = told(vec![first, second, third]);
        let expected = [
            "start",
            "open 0 text",
            "0 \"A\"",
            "close 0",
            "open 1 other",
            "close 1",
            "open 2 text",
            "2 \"B\"",
            "close 2",
            "finish",
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_upstream_with_nothing_to_add_closes_what_was_open() {
        let first = vec![start(), open(0, Opened::Text), text(0, "All said.")];
        let (events, _) = told(vec![first, vec![start()], vec![start(), finish()]]);
        assert_eq!(events[3..], ["close 0", "finish"]);
    }

    #[test]
    fn a_tool_call_a_second_choice_and_an_end_are_not_gone_on_from() {
        let call = open(1, Opened::ToolCall(ToolCall::default()));
        let other = Event::Open { choice: 1, index: 0, block: Opened::Text };
        for last in [call, other, finish()] {
            let (_, said) = told(vec![vec![start(), open(0, Opened::Text), text(0, "A"), close(0), last]]);
            assert!(!said.may_go_on());
        }
        assert!(!Said::default().may_go_on());
    }
}
