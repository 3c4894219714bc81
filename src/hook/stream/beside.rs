//! What a stream says beside its text: probabilities of tokens, which repeat it word for word.
//!
//! They follow the text out when all of it has gone out as the model said it. Once a guest has changed or swallowed a text
//! of a choice, the probabilities of that choice say what must not be said, and go nowhere.

use crate::chat::event::{Delta, Event};

/// Text of a choice that guests may hold before it counts as swallowed.
const MAX_AHEAD_BYTES: usize = 1 << 20;

/// The choices of one stream.
#[derive(Debug, Default)]
pub struct Beside {
    choices: Vec<Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    choice: u32,
    /// What the model has said and guests have not let out yet.
    ahead: String,
    /// What waits for it.
    waiting: Vec<Event>,
    /// Something else went out than was said.
    changed: bool,
}

/// The text of a delta that guests are shown.
pub fn text_of(delta: &Delta) -> Option<&str> {
    match delta {
        Delta::Text(text) | Delta::Reasoning(text) | Delta::Summary { text, .. } | Delta::Refusal(text) => Some(text),
        _ => None,
    }
}

impl Beside {
    /// The model said this.
    pub fn came(&mut self, choice: u32, text: &str) {
        let choice = self.choice(choice);
        if choice.changed {
            return;
        }
        choice.ahead.push_str(text);
        if choice.ahead.len() > MAX_AHEAD_BYTES {
            choice.change();
        }
    }

    /// This goes out. Gives what may now follow it.
    pub fn went(&mut self, choice: u32, text: &str) -> Vec<Event> {
        let choice = self.choice(choice);
        if choice.changed {
            return Vec::new();
        }
        if !choice.ahead.starts_with(text) {
            choice.change();
            return Vec::new();
        }
        choice.ahead.drain(..text.len());
        if choice.ahead.is_empty() { std::mem::take(&mut choice.waiting) } else { Vec::new() }
    }

    /// The probabilities of what was said last: back if they may go out at once.
    pub fn probabilities(&mut self, choice: u32, event: Event) -> Option<Event> {
        let choice = self.choice(choice);
        if choice.changed {
            return None;
        }
        if choice.ahead.is_empty() {
            return Some(event);
        }
        choice.waiting.push(event);
        None
    }

    /// A block of the choice is over: what has not gone out by now never will.
    pub fn closed(&mut self, choice: u32) {
        let choice = self.choice(choice);
        if !choice.ahead.is_empty() {
            choice.change();
        }
    }

    fn choice(&mut self, number: u32) -> &mut Choice {
        let at = self.choices.iter().position(|known| known.choice == number).unwrap_or_else(|| {
            self.choices.push(Choice { choice: number, ..Choice::default() });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }
}

impl Choice {
    fn change(&mut self) {
        *self = Choice { choice: self.choice, changed: true, ..Choice::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprobs() -> Event {
        Event::Delta { choice: 0, index: 0, delta: Delta::Logprobs(Vec::new()) }
    }

    #[test]
    fn probabilities_wait_for_their_text_and_go_nowhere_once_it_was_changed() {
        let mut beside = Beside::default();
        beside.came(0, "My ");
        assert!(beside.went(0, "My ").is_empty() && beside.probabilities(0, logprobs()).is_some());
        beside.came(0, "secret");
        assert!(beside.probabilities(0, logprobs()).is_none(), "its text is held");
        assert!(beside.went(0, "sec").is_empty());
        assert_eq!(beside.went(0, "ret").len(), 1, "all of it is out");
        beside.came(0, "secret");
        assert!(beside.probabilities(0, logprobs()).is_none());
        assert!(beside.went(0, "[x]").is_empty());
        beside.came(0, "more");
        assert!(beside.went(0, "more").is_empty() && beside.probabilities(0, logprobs()).is_none());
        beside.came(1, "another choice");
        assert!(beside.went(1, "another choice").is_empty() && beside.probabilities(1, logprobs()).is_some());
    }

    #[test]
    fn what_was_swallowed_when_its_block_ends_was_changed() {
        let mut beside = Beside::default();
        beside.came(0, "secret");
        beside.closed(0);
        assert!(beside.probabilities(0, logprobs()).is_none());
    }
}
