//! What adapters say, in the order and within the bounds that encoders rely on.
//!
//! An adapter need not know the invariants of [`crate::chat::event`]: they are kept here, once for all languages. Never
//! says more than was said.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Step;
use crate::chat::event::Blocks;
use crate::chat::{Answer, Choice, Content, Delta, Event, Finish, Opened, Start, ToolCall};
use crate::fault::{Fault, Kind};

/// Choices of one answer: OpenAI takes no ask for more.
const MAX_CHOICES: usize = 128;

/// Tool calls of one answer, over all its choices. They stay open side by side, and are looked for one by one.
const MAX_CALLS: usize = 1024;

/// Makes events of steps.
#[derive(Debug)]
pub struct Assembler {
    /// The adapter's name: signatures in its streams belong to it.
    source: &'static str,
    /// The answer's id.
    id: String,
    started: bool,
    choice: u32,
    /// Those that were spoken of.
    choices: Vec<u32>,
    calls: usize,
    blocks: Blocks,
    /// Choices with tool calls.
    calling: Vec<u32>,
    /// Calls that are open, with their arguments so far.
    arguing: Vec<Said>,
    /// What was said in the middle of a call's arguments, with its choice: said when the call is over, as no encoder can say
    /// both side by side.
    held: Vec<(u32, Step)>,
    /// Choices of which something was said and that have not ended.
    open: Vec<u32>,
    /// How choices ended, told when the stream is at its end: what is said after a finish is still said before it.
    ends: Vec<End>,
}

/// The arguments of a call so far.
#[derive(Debug)]
struct Said {
    choice: u32,
    key: u64,
    arguments: String,
}

impl Said {
    fn is_whole(&self) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok()
    }
}

/// How a choice ended.
#[derive(Debug)]
struct End {
    choice: u32,
    reason: Finish,
    native: Option<String>,
    stop_sequence: Option<String>,
}

impl Assembler {
    pub fn new(source: &'static str) -> Self {
        Assembler {
            source,
            id: String::new(),
            started: false,
            choice: 0,
            choices: vec![0],
            calls: 0,
            calling: Vec::new(),
            arguing: Vec::new(),
            held: Vec::new(),
            blocks: Blocks::default(),
            open: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// # Errors
    /// [`Kind::BadAnswer`] when arguments come for a call that was never opened; [`Kind::GuestFailed`] past a bound.
    pub fn step(&mut self, step: Step, out: &mut Vec<Event>) -> Result<(), Fault> {
        if let Step::Start { id, model } = step {
            if !self.started {
                self.start(id, model, out);
            }
            return Ok(());
        }
        if !self.started && step != Step::Ping {
            self.start(String::new(), String::new(), out);
        }
        let choice = self.choice;
        if step.is_said() && !self.open.contains(&choice) && !self.has_ended(choice) {
            self.open.push(choice);
        }
        match step {
            Step::Text(text) | Step::Reasoning(text) | Step::Refusal(text) if text.is_empty() => Ok(()),
            Step::Text(_) | Step::Reasoning(_) | Step::Signature(_) | Step::Refusal(_) | Step::Citation(_) => {
                if self.arguing.iter().any(|call| call.choice == choice && !call.is_whole()) {
                    self.held.push((choice, step));
                    return Ok(());
                }
                self.said(step, out)
            }
            Step::Call { .. } => {
                self.let_go(Some(choice), out)?;
                self.said(step, out)
            }
            _ => self.said(step, out),
        }
    }

    /// Says what was held back in a choice, or in all of them: its calls are over.
    fn let_go(&mut self, of: Option<u32>, out: &mut Vec<Event>) -> Result<(), Fault> {
        let now = self.choice;
        for (choice, step) in std::mem::take(&mut self.held) {
            if of.is_none_or(|of| of == choice) {
                self.choice = choice;
                self.said(step, out)?;
            } else {
                self.held.push((choice, step));
            }
        }
        self.choice = now;
        Ok(())
    }

    /// Makes events of a step at its turn.
    fn said(&mut self, step: Step, out: &mut Vec<Event>) -> Result<(), Fault> {
        let choice = self.choice;
        if step.is_said() && !matches!(step, Step::Call { .. } | Step::Arguments { .. }) {
            self.arguing.retain(|call| call.choice != choice);
        }
        let mut delta = |blocks: &mut Blocks, kind: Opened, delta: Delta| {
            let index = blocks.running(choice, kind, out);
            out.push(Event::Delta { choice, index, delta });
        };
        let thinking = || Opened::Reasoning { id: None, encrypted: None };
        match step {
            Step::Start { .. } => {}
            Step::Choice(next) => self.choose(next)?,
            Step::Text(text) => delta(&mut self.blocks, Opened::Text, Delta::Text(text)),
            Step::Reasoning(text) => delta(&mut self.blocks, thinking(), Delta::Reasoning(text)),
            Step::Signature(text) => {
                delta(&mut self.blocks, thinking(), Delta::Signature(text));
                self.blocks.close(choice, out);
            }
            Step::Refusal(text) => delta(&mut self.blocks, Opened::Refusal, Delta::Refusal(text)),
            Step::Citation(citation) => delta(&mut self.blocks, Opened::Text, Delta::Citation(citation)),
            Step::Call { key, id, name } => self.call(key, id, name, out)?,
            Step::Arguments { key, text } => {
                let index = self.blocks.call(choice, key).ok_or_else(|| {
                    let why = format!("Arguments came for the tool call {key}, which never began or was over.");
                    Fault::new(Kind::BadAnswer, why)
                })?;
                if let Some(call) = self.arguing.iter_mut().find(|call| call.choice == choice && call.key == key) {
                    call.arguments.push_str(&text);
                }
                out.push(Event::Delta { choice, index, delta: Delta::Arguments(text) });
            }
            // The first counts.
            Step::Finish { .. } if self.has_ended(choice) => {}
            Step::Finish { reason, native, stop_sequence } => {
                self.open.retain(|open| *open != choice);
                self.ends.push(End { choice, reason, native, stop_sequence });
            }
            Step::Usage(usage) => out.push(Event::Usage(usage)),
            Step::Ping => out.push(Event::Ping),
        }
        Ok(())
    }

    /// Whether the end of all that was begun was told of, so that the stream may end.
    pub fn is_finished(&self) -> bool {
        !self.ends.is_empty() && self.open.is_empty()
    }

    fn has_ended(&self, choice: u32) -> bool {
        self.ends.iter().any(|end| end.choice == choice)
    }

    /// Closes what is open, and tells how choices ended: the stream is at its end.
    pub fn close(&mut self, out: &mut Vec<Event>) {
        // Nothing that is held back can be refused.
        let _ = self.let_go(None, out);
        self.blocks.close_all(out);
        for End { choice, reason, native, stop_sequence } in self.ends.drain(..) {
            let called = self.calling.contains(&choice);
            out.push(Event::Finish { choice, reason: reason_of(reason, called), native, stop_sequence });
        }
    }

    fn start(&mut self, id: String, model: String, out: &mut Vec<Event>) {
        self.started = true;
        self.id.clone_from(&id);
        out.push(Event::Start(Start { id, model, source: self.source, ..Start::default() }));
    }

    fn choose(&mut self, next: u32) -> Result<(), Fault> {
        self.choice = next;
        if !self.choices.contains(&next) {
            if self.choices.len() == MAX_CHOICES {
                return Err(too_many(self.source, "choices", MAX_CHOICES));
            }
            self.choices.push(next);
        }
        Ok(())
    }

    fn call(&mut self, key: u64, id: String, name: String, out: &mut Vec<Event>) -> Result<(), Fault> {
        if self.calls == MAX_CALLS {
            return Err(too_many(self.source, "tool calls", MAX_CALLS));
        }
        let id = if id.is_empty() { made_up_id(&self.id, self.choice, self.calls) } else { id };
        self.calls += 1;
        if !self.calling.contains(&self.choice) {
            self.calling.push(self.choice);
        }
        self.arguing.retain(|call| call.choice != self.choice || call.key != key);
        self.arguing.push(Said { choice: self.choice, key, arguments: String::new() });
        self.blocks.open_call(self.choice, key, ToolCall { id, name, ..ToolCall::default() }, out);
        Ok(())
    }
}

/// Makes a whole answer of an adapter what a stream of it would be.
///
/// # Errors
/// [`Kind::GuestFailed`] past a bound.
pub fn sound(answer: &mut Answer) -> Result<(), Fault> {
    let Answer { id: of, choices, source, .. } = answer;
    if choices.len() > MAX_CHOICES {
        return Err(too_many(source, "choices", MAX_CHOICES));
    }
    let mut calls = 0;
    for Choice { index, blocks, finish, .. } in choices {
        let before = calls;
        for block in blocks {
            let Content::ToolCall(call) = &mut block.content else { continue };
            if call.id.is_empty() {
                call.id = made_up_id(of, *index, calls);
            }
            calls += 1;
        }
        *finish = finish.map(|reason| reason_of(reason, calls > before));
    }
    if calls > MAX_CALLS {
        return Err(too_many(source, "tool calls", MAX_CALLS));
    }
    Ok(())
}

/// Providers that know no other end say that a choice with tool calls has stopped.
fn reason_of(said: Finish, called: bool) -> Finish {
    if said == Finish::Stop && called { Finish::ToolCalls } else { said }
}

/// An id for a call that was given none: without one nobody could answer it. The same for the same stream, however it
/// was cut.
fn made_up_id(answer: &str, choice: u32, number: usize) -> String {
    let mut hasher = DefaultHasher::new();
    (answer, choice, number).hash(&mut hasher);
    format!("call_{:016x}", hasher.finish())
}

fn too_many(source: &str, what: &str, most: usize) -> Fault {
    Fault::new(Kind::GuestFailed, format!("The adapter `{source}` tells of more than {most} {what} in one answer."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Block;
    use crate::chat::event::Collector;

    fn assembled(steps: Vec<Step>) -> (Vec<Event>, Answer) {
        let mut assembler = Assembler::new("wasm:test");
        let mut events = Vec::new();
        for step in steps {
            assembler.step(step, &mut events).expect("fits");
        }
        assembler.close(&mut events);
        let mut collector = Collector::default();
        events.iter().cloned().try_for_each(|event| collector.event(event)).expect("no fault");
        (events, collector.finish())
    }

    fn finish(reason: Finish) -> Step {
        Step::Finish { reason, native: None, stop_sequence: None }
    }

    fn call(key: u64, id: &str) -> Step {
        Step::Call { key, id: id.into(), name: "f".into() }
    }

    #[test]
    fn blocks_open_and_close_when_the_kind_changes() {
        let (events, answer) = assembled(vec![
            Step::Reasoning("hm".into()),
            Step::Signature("sig".into()),
            Step::Text("a".into()),
            Step::Text("b".into()),
            call(7, "c1"),
            Step::Arguments { key: 7, text: "{}".into() },
            finish(Finish::ToolCalls),
        ]);
        assert!(matches!(&events[0], Event::Start(start) if start.source == "wasm:test"));
        let opened = events.iter().filter(|event| matches!(event, Event::Open { .. })).count();
        let closed = events.iter().filter(|event| matches!(event, Event::Close { .. })).count();
        assert_eq!((opened, closed), (3, 3));
        assert_eq!(answer.text(), "ab");
        assert_eq!(answer.choices[0].blocks.len(), 3);
    }

    #[test]
    fn what_is_said_in_the_middle_of_arguments_comes_after_the_call() {
        let arguments = |text: &str| Step::Arguments { key: 1, text: text.into() };
        for (between, said) in [("", ""), ("Now.", "Now.")] {
            let (events, answer) = assembled(vec![
                call(1, "c1"),
                arguments("{\"x\""),
                Step::Text(between.into()),
                arguments(":1}"),
                finish(Finish::Stop),
            ]);
            let Content::ToolCall(call) = &answer.choices[0].blocks[0].content else { panic!("{answer:?}") };
            assert_eq!((call.arguments.as_str(), answer.text()), ("{\"x\":1}", said.to_owned()));
            let opened = events.iter().filter(|event| matches!(event, Event::Open { .. })).count();
            assert_eq!(opened, 1 + usize::from(!said.is_empty()), "{events:?}");
        }
        // Where the arguments are whole it is said at once, and before the next call.
        let (events, _) = assembled(vec![
            call(1, "c1"),
            arguments("{}"),
            Step::Text("a".into()),
            call(2, "c2"),
            Step::Text("b".into()),
            call(3, "c3"),
        ]);
        let kinds: Vec<&str> = events
            .iter()
            .filter_map(|event| match event {
                Event::Open { block: Opened::ToolCall(_), .. } => Some("call"),
                Event::Open { .. } => Some("text"),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, ["call", "text", "call", "text", "call"]);
    }

    #[test]
    fn arguments_without_a_call_are_refused() {
        let step = Step::Arguments { key: 1, text: "{}".into() };
        let fault = Assembler::new("wasm:test").step(step, &mut Vec::new()).expect_err("refused");
        assert_eq!(fault.kind, Kind::BadAnswer);
    }

    #[test]
    fn a_choice_ends_once_and_after_all_that_is_said_of_it() {
        let (events, answer) = assembled(vec![
            Step::Text("a".into()),
            finish(Finish::Length),
            Step::Text("b".into()),
            finish(Finish::Stop),
            Step::Choice(1),
            Step::Text("c".into()),
            finish(Finish::Stop),
        ]);
        assert_eq!(answer.text(), "ab");
        let ends: Vec<_> = answer.choices.iter().map(|choice| choice.finish).collect();
        assert_eq!(ends, [Some(Finish::Length), Some(Finish::Stop)]);
        let told = events.iter().position(|event| matches!(event, Event::Finish { .. })).expect("an end");
        assert_eq!(events[told..].len(), 2, "nothing but ends: {events:?}");
    }

    #[test]
    fn a_stream_has_ended_when_every_choice_has() {
        let mut assembler = Assembler::new("wasm:test");
        let mut after = |steps: Vec<Step>| {
            steps.into_iter().for_each(|step| assembler.step(step, &mut Vec::new()).expect("fits"));
            assembler.is_finished()
        };
        assert!(!after(vec![Step::Text("a".into()), Step::Choice(1), Step::Text("b".into()), Step::Choice(0)]));
        assert!(!after(vec![finish(Finish::Stop)]), "the other goes on");
        assert!(!after(vec![Step::Text("more".into()), Step::Choice(1), Step::Ping]));
        assert!(after(vec![finish(Finish::Stop)]));
        assert!(after(vec![Step::Choice(7), Step::Usage(crate::chat::Usage::default())]), "nothing is said of it");
        assert!(!after(vec![Step::Text("late".into())]));
    }

    #[test]
    fn calls_without_an_id_get_one_and_their_choice_ends_with_them() {
        let steps = || vec![call(1, ""), call(2, ""), call(3, "own"), finish(Finish::Stop)];
        let ids = |answer: &Answer| -> Vec<String> {
            let blocks = answer.choices[0].blocks.iter();
            let id = |block: &Block| match &block.content {
                Content::ToolCall(call) => call.id.clone(),
                other => panic!("{other:?}"),
            };
            blocks.map(id).collect()
        };
        let (_, streamed) = assembled(steps());
        let given = ids(&streamed);
        assert!(given[0].starts_with("call_") && given[0] != given[1] && given[2] == "own", "{given:?}");
        assert_eq!(streamed.choices[0].finish, Some(Finish::ToolCalls));
        assert_eq!(ids(&assembled(steps()).1), given, "the same at any cut");
        let empty = Block::new(Content::ToolCall(ToolCall { name: "f".into(), ..ToolCall::default() }));
        let choice = Choice { blocks: vec![empty], finish: Some(Finish::Stop), ..Choice::default() };
        let mut whole = Answer { choices: vec![choice], ..Answer::default() };
        sound(&mut whole).expect("fits");
        assert_eq!(ids(&whole), given[..1]);
        assert_eq!(whole.choices[0].finish, Some(Finish::ToolCalls));
    }

    #[test]
    fn arguments_belong_to_the_latest_call_under_their_key() {
        let arguments = |key: u64, text: &str| Step::Arguments { key, text: text.into() };
        let (events, answer) = assembled(vec![
            call(0, "a"),
            call(5, "b"),
            arguments(0, "{\"a\":"),
            arguments(5, "{}"),
            arguments(0, "1}"),
            call(0, "c"),
            arguments(0, "{\"c\":1}"),
            finish(Finish::Stop),
        ]);
        let said = |block: &Block| match &block.content {
            Content::ToolCall(call) => (call.id.clone(), call.arguments.clone()),
            other => panic!("{other:?}"),
        };
        let calls: Vec<_> = answer.choices[0].blocks.iter().map(said).collect();
        let expected = [("a", "{\"a\":1}"), ("b", "{}"), ("c", "{\"c\":1}")];
        assert_eq!(calls, expected.map(|(id, arguments)| (id.to_owned(), arguments.to_owned())));
        let at = |wanted: fn(&Event) -> bool| events.iter().position(wanted).expect("told");
        let closed = at(|event| matches!(event, Event::Close { index: 0, .. }));
        assert!(
            closed < at(|event| matches!(event, Event::Open { index: 2, .. })),
            "the one before is over: {events:?}"
        );
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Close { .. })).count(), 3);
    }

    #[test]
    fn choices_and_calls_have_a_bound_which_the_fault_names() {
        let refused = |steps: Vec<Step>| {
            let (mut assembler, mut out) = (Assembler::new("wasm:test"), Vec::new());
            let fault = steps.into_iter().find_map(|step| assembler.step(step, &mut out).err()).expect("refused");
            assert_eq!(fault.kind, Kind::GuestFailed);
            fault.message
        };
        let choices = refused((0..40_000).map(Step::Choice).collect());
        assert!(choices.contains("more than 128 choices"), "{choices}");
        let calls = refused((0..20_000).map(|key| call(key, "c")).collect());
        assert!(calls.contains("more than 1024 tool calls"), "{calls}");
        let mut whole = Answer { choices: vec![Choice::default(); 129], ..Answer::default() };
        assert_eq!(sound(&mut whole).expect_err("refused").kind, Kind::GuestFailed);
    }
}
