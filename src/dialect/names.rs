//! Names of tools that a target's providers would refuse: respelt on the way there, put back in what comes from there.
//!
//! One [`Names`] is made anew wherever it is needed, from the ask alone, so that a request, its answer and a later turn
//! agree on it. Never changes a name that the target takes, unless another tool has it already.

use std::collections::HashSet;

use super::told::Told;
use super::{Decoder, Event};
use crate::chat::{Answer, Ask, Content, Opened, Tool, ToolChoice};
use crate::fault::Fault;
use crate::sse::Frame;

/// What a dialect's providers take for a name: letters, digits, `_` and `-`, and what is said here.
#[derive(Debug)]
pub struct Rule {
    /// Longest name, in bytes.
    pub longest: usize,
    /// Further characters.
    pub further: &'static str,
    /// It must begin with a letter or `_`.
    pub begins_with_letter: bool,
    /// What stands for a name of nothing.
    pub empty: &'static str,
}

impl Rule {
    fn takes(&self, name: &str) -> bool {
        let begins = !self.begins_with_letter || name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        begins && !name.is_empty() && name.len() <= self.longest && name.chars().all(|c| self.fits(c))
    }

    fn fits(&self, c: char) -> bool {
        c.is_ascii_alphanumeric() || c == '_' || c == '-' || self.further.contains(c)
    }

    /// The nearest name that is taken. Other characters become underscores, so that it may be cut anywhere.
    fn nearest(&self, name: &str) -> String {
        if name.is_empty() {
            return self.empty.to_owned();
        }
        let begins = !self.begins_with_letter || name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let fitted = name.chars().map(|c| if self.fits(c) { c } else { '_' });
        let lead = (!begins && self.fits(name.chars().next().unwrap_or('_'))).then_some('_');
        lead.into_iter().chain(fitted).take(self.longest).collect()
    }
}

/// Spellings given out, each once.
#[derive(Debug, Default)]
pub struct Taken(HashSet<String>);

impl Taken {
    /// The nearest spelling that nobody has yet; a number tells it from those before it.
    pub fn spell(&mut self, name: &str, rule: &Rule) -> String {
        let stem = rule.nearest(name);
        let mut spelling = stem.clone();
        let mut number = 2;
        while !self.0.insert(spelling.clone()) {
            let end = format!("_{number}");
            spelling = format!("{}{end}", &stem[..stem.len().min(rule.longest - end.len())]);
            number += 1;
        }
        spelling
    }
}

/// The names of an ask that its target knows otherwise: as the caller has them, as the target has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<(String, String)>);

impl Names {
    /// None where the target takes every name as it is.
    pub fn of(ask: &Ask, rule: &Rule) -> Option<Names> {
        let declared = || ask.tools.iter().filter_map(name_of);
        let mut told = Vec::new();
        each_name(ask, &mut |name| told.push(name));
        if declared().chain(told.iter().copied()).all(|name| rule.takes(name)) {
            return None;
        }
        let mut names = Names(Vec::new());
        let (mut taken, mut known) = (Taken::default(), HashSet::new());
        // Tools first, so that their spelling does not change as the conversation grows; names that are fine before
        // others, so that they stay.
        let fine = declared().filter(|name| rule.takes(name));
        let others = declared().filter(|name| !rule.takes(name));
        for name in fine.chain(others).chain(told.iter().copied()) {
            if !known.insert(name) {
                continue;
            }
            let spelling = taken.spell(name, rule);
            if spelling != name {
                names.0.push((name.to_owned(), spelling));
            }
        }
        Some(names)
    }

    /// Writes the target's names into the ask.
    pub fn spell(&self, ask: &mut Ask) {
        for tool in &mut ask.tools {
            match tool {
                Tool::Function { name, .. } | Tool::Custom { name, .. } => self.there(name),
                Tool::Hosted(_) => {}
            }
        }
        match &mut ask.tool_choice {
            Some(ToolChoice::Named(name)) => self.there(name),
            Some(ToolChoice::Allowed { names, .. }) => names.iter_mut().for_each(|name| self.there(name)),
            _ => {}
        }
        for block in ask.messages.iter_mut().flat_map(|message| &mut message.blocks) {
            match &mut block.content {
                Content::ToolCall(call) => self.there(&mut call.name),
                Content::ToolResult(result) => result.name.iter_mut().for_each(|name| self.there(name)),
                _ => {}
            }
        }
    }

    /// Puts the caller's names back into an answer.
    pub fn restore(&self, answer: &mut Answer) {
        for block in answer.choices.iter_mut().flat_map(|choice| &mut choice.blocks) {
            if let Content::ToolCall(call) = &mut block.content {
                self.back(&mut call.name);
            }
        }
    }

    fn there(&self, name: &mut String) {
        if let Some((_, theirs)) = self.0.iter().find(|(ours, _)| ours == name) {
            name.clone_from(theirs);
        }
    }

    fn back(&self, name: &mut String) {
        if let Some((ours, _)) = self.0.iter().find(|(_, theirs)| theirs == name) {
            name.clone_from(ours);
        }
    }
}

/// What a tool is called by. One that the provider runs keeps its name: it cannot be called otherwise.
fn name_of(tool: &Tool) -> Option<&str> {
    match tool {
        Tool::Hosted(tool) => tool.get("name")?.as_str(),
        tool => tool.name(),
    }
}

/// Shows every name but those of the tools themselves.
fn each_name<'a>(ask: &'a Ask, each: &mut impl FnMut(&'a str)) {
    match &ask.tool_choice {
        Some(ToolChoice::Named(name)) => each(name),
        Some(ToolChoice::Allowed { names, .. }) => names.iter().for_each(|name| each(name)),
        _ => {}
    }
    for block in ask.messages.iter().flat_map(|message| &message.blocks) {
        match &block.content {
            Content::ToolCall(call) => each(&call.name),
            Content::ToolResult(result) => result.name.iter().for_each(|name| each(name)),
            _ => {}
        }
    }
}

/// A decoder whose events have the caller's names.
pub struct Restoring {
    pub decoder: Box<dyn Decoder>,
    pub names: Names,
}

impl Restoring {
    fn restore(&self, events: &mut [Event]) {
        for event in events {
            if let Event::Open { block: Opened::ToolCall(call), .. } = event {
                self.names.back(&mut call.name);
            }
        }
    }
}

impl Decoder for Restoring {
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault> {
        let before = out.len();
        let read = self.decoder.frame(frame, out);
        self.restore(&mut out[before..]);
        read
    }

    // The frame has other names than its events.
    fn told(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<Told, Fault> {
        self.frame(frame, out).map(|()| Told::Partly)
    }

    fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    fn may_be_over(&self) -> bool {
        self.decoder.may_be_over()
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        let before = out.len();
        let ended = self.decoder.finish(out);
        self.restore(&mut out[before..]);
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Block, Message, Role, ToolCall};

    const PLAIN: Rule = Rule { longest: 8, further: "", begins_with_letter: false, empty: "tool" };

    fn ask(tools: &[&str], calls: &[&str]) -> Ask {
        let custom = |name: &&str| Tool::Custom { name: (*name).to_owned(), description: None, format: None };
        let call =
            |name: &&str| Block::new(Content::ToolCall(ToolCall { name: (*name).to_owned(), ..ToolCall::default() }));
        let turn = Message::new(Role::Assistant, calls.iter().map(call).collect());
        Ask { tools: tools.iter().map(custom).collect(), messages: vec![turn], ..Ask::default() }
    }

    fn spelt(tools: &[&str], calls: &[&str], rule: &Rule) -> Vec<String> {
        let mut ask = ask(tools, calls);
        if let Some(names) = Names::of(&ask, rule) {
            names.spell(&mut ask);
        }
        let mut names: Vec<String> = ask.tools.iter().filter_map(Tool::name).map(str::to_owned).collect();
        each_name(&ask, &mut |name| names.push(name.to_owned()));
        names
    }

    #[test]
    fn names_that_are_taken_stay_and_others_never_become_one_of_them() {
        assert_eq!(Names::of(&ask(&["a_b", "c-1"], &["gone"]), &PLAIN), None);
        assert_eq!(spelt(&["a.b", "a_b", "a:b"], &[], &PLAIN), ["a_b_2", "a_b", "a_b_3"]);
        assert_eq!(spelt(&["123456789", "123456780"], &[], &PLAIN), ["12345678", "123456_2"]);
        assert_eq!(spelt(&["größe", ""], &[], &PLAIN), ["gr__e", "tool"]);
        let letters = Rule { further: ".:", begins_with_letter: true, ..PLAIN };
        assert_eq!(spelt(&["a.b:c", "1a", ".a", "a b"], &[], &letters), ["a.b:c", "_1a", "_.a", "a_b"]);
    }

    #[test]
    fn what_a_tool_is_called_does_not_depend_on_the_conversation() {
        let before = spelt(&["a.b"], &[], &PLAIN);
        let after = spelt(&["a.b"], &["a_b", "a.b", "a_b"], &PLAIN);
        assert_eq!(before, ["a_b"]);
        assert_eq!(after, ["a_b", "a_b_2", "a_b", "a_b_2"]);
    }

    #[test]
    fn answers_have_the_callers_names_again() {
        let ask = ask(&["a.b", "a_b"], &[]);
        let names = Names::of(&ask, &PLAIN).expect("one is respelt");
        for (theirs, ours) in [("a_b", "a_b"), ("a_b_2", "a.b"), ("other", "other")] {
            let mut name = theirs.to_owned();
            names.back(&mut name);
            assert_eq!(name, ours);
        }
    }
}
