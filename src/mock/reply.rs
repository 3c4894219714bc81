//! What the mock says: text, tool calls, reasoning and their tokens, decided from a [`Prompt`] alone.
//!
//! The same prompt gets the same words. Knows no wire form.

use serde_json::{Value, json};

use super::knobs::Knobs;
use super::prompt::{Choice, Format, Prompt, Thinking, Tool};
use super::schema;

/// Longest echo of what the user said.
const MAX_ECHO_BYTES: usize = 2000;

/// Most choices in one answer.
const MAX_CHOICES: usize = 128;

/// Most pieces that one text is streamed in, so that long texts do not become millions of frames.
const MAX_PIECES: usize = 8192;

const PARAGRAPH: &str = "This answer comes from the mock provider: the same question always gets the same words, the \
    tokens are counted as one for each four bytes, and nothing here was thought by a model.";

/// One choice of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub reasoning: String,
    pub text: String,
    pub calls: Vec<Call>,
    pub finish: Finish,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    /// JSON text, or free text for custom tools.
    pub arguments: String,
    pub custom: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Finish {
    Stop,
    StopSequence(String),
    Length,
    Calls,
}

impl Reply {
    /// Tokens of the reasoning alone.
    pub fn reasoning_tokens(&self) -> u64 {
        tokens(&self.reasoning)
    }

    /// All tokens, reasoning included.
    pub fn tokens(&self) -> u64 {
        let calls: u64 = self.calls.iter().map(|call| tokens(&call.name) + tokens(&call.arguments)).sum();
        self.reasoning_tokens() + tokens(&self.text) + calls
    }
}

/// One token for each four bytes begun.
pub fn tokens(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

/// Every choice of the answer.
pub fn say(prompt: &Prompt, knobs: &Knobs) -> Vec<Reply> {
    (0..prompt.choices.clamp(1, MAX_CHOICES)).map(|index| choice(prompt, knobs, index)).collect()
}

fn choice(prompt: &Prompt, knobs: &Knobs, index: usize) -> Reply {
    let thinking = match knobs.reasoning {
        Some(true) => prompt.thinking.or(Thinking::of_effort("medium")),
        Some(false) => None,
        None => prompt.thinking,
    };
    let calls = calls(prompt, knobs);
    let text = match (calls.as_slice(), &prompt.format) {
        ([first, ..], _) if prompt.preface => format!("I will call {}.", first.name),
        ([_, ..], _) => String::new(),
        ([], Some(Format::Schema(schema))) => schema::example(schema, "value", index).to_string(),
        ([], Some(Format::JsonObject)) => json!({"echo": prompt.last, "turns": prompt.turns}).to_string(),
        ([], None) => prose(prompt, knobs.length, index),
    };
    let finish = if calls.is_empty() { Finish::Stop } else { Finish::Calls };
    let mut reply = Reply { reasoning: reasoning(prompt, thinking), text, calls, finish };
    stop(&mut reply, &prompt.stop);
    if let Some(most) = prompt.max_tokens {
        shorten(&mut reply, most);
    }
    reply
}

fn prose(prompt: &Prompt, length: Option<usize>, index: usize) -> String {
    let mut text = match prompt.results.as_slice() {
        [] => format!("You said: \"{}\".", cut(&spoken(&prompt.last), MAX_ECHO_BYTES)),
        [result] => format!("The tool answered: {result}."),
        results => format!("The tools answered: {}.", results.join("; ")),
    };
    if prompt.turns > 1 {
        text.push_str(&format!(" I have seen {} user turns.", prompt.turns));
    }
    if prompt.system_bytes > 0 {
        text.push_str(&format!(" The system prompt has {} bytes.", prompt.system_bytes));
    }
    let media = [(prompt.images, "image"), (prompt.audios, "sound"), (prompt.files, "file")];
    for (count, name) in media.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(" You sent {count} {name}{}.", if count == 1 { "" } else { "s" }));
    }
    if index > 0 {
        text.push_str(&format!(" This is choice {}.", index + 1));
    }
    text.push(' ');
    text.push_str(PARAGRAPH);
    if let Some(length) = length {
        while text.len() < length {
            text.push(' ');
            text.push_str(PARAGRAPH);
        }
        text.truncate(cut(&text, length).len());
    }
    text
}

fn reasoning(prompt: &Prompt, thinking: Option<Thinking>) -> String {
    const STEPS: &[&str] = &[
        " I will answer with a fixed paragraph.",
        " First I look for a tool that fits; then I count the tokens.",
        " Nothing speaks against it, so I go on.",
        " I check once more that the answer is the same as last time.",
    ];
    let Some(thinking) = thinking else { return String::new() };
    let mut text = format!("The user says: \"{}\".", cut(&spoken(&prompt.last), 100));
    text.extend(STEPS.iter().take(thinking.steps).copied());
    let most = thinking.budget.map_or(usize::MAX, |budget| usize::try_from(budget).unwrap_or(usize::MAX));
    cut(&text, most.saturating_mul(4)).to_owned()
}

/// The tools to call: those that are demanded or mentioned; none once results are there.
fn calls(prompt: &Prompt, knobs: &Knobs) -> Vec<Call> {
    if prompt.tools.is_empty() || prompt.choice == Choice::None || !prompt.results.is_empty() {
        return Vec::new();
    }
    let said = spoken(&prompt.last);
    let mentioned: Vec<&Tool> = prompt.tools.iter().filter(|tool| mentions(&said, &tool.name)).collect();
    let weather = prompt.tools.iter().find(|tool| tool.name.contains("weather")).filter(|_| mentions(&said, "weather"));
    let general = prompt.tools.first().filter(|_| mentions(&said, "tool") || mentions(&said, "tools"));
    let picked = mentioned.first().copied().or(weather).or(general);
    let forced = knobs.tools == Some(true) || prompt.choice == Choice::Required;
    let first = match &prompt.choice {
        Choice::Named(name) => prompt.tools.iter().find(|tool| tool.name == *name),
        _ if forced => picked.or(prompt.tools.first()),
        _ => picked,
    };
    let Some(first) = first else { return Vec::new() };
    let mut calls = vec![call(first, 0)];
    if prompt.parallel && mentions(&said, "parallel") {
        match mentioned.get(1) {
            Some(second) => calls.push(call(second, 0)),
            None => calls.push(call(first, 1)),
        }
    }
    calls
}

fn call(tool: &Tool, variant: usize) -> Call {
    let arguments = match tool.custom {
        true if variant > 0 => format!("input {} for {}", variant + 1, tool.name),
        true => format!("input for {}", tool.name),
        false => match schema::example(&tool.schema, "value", variant) {
            Value::Object(fields) => Value::Object(fields).to_string(),
            _ => "{}".to_owned(),
        },
    };
    Call { name: tool.name.clone(), arguments, custom: tool.custom }
}

/// The user's words without the reminders that coding agents put into the same turn, where tools are named in passing.
fn spoken(last: &str) -> String {
    if !last.contains("<system-reminder>") {
        return last.to_owned();
    }
    let mut rest = last;
    let mut said = String::new();
    while let Some((before, after)) = rest.split_once("<system-reminder>") {
        said.push_str(before);
        rest = after.split_once("</system-reminder>").map_or("", |(_, after)| after);
    }
    said.push_str(rest);
    said.trim().to_owned()
}

/// Whether `word` stands in the text as a word of its own.
fn mentions(text: &str, word: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(inner) && !after.is_some_and(inner)
    })
}

/// Ends the text before the first stop sequence.
fn stop(reply: &mut Reply, stops: &[String]) {
    let hits = stops.iter().filter(|stop| !stop.is_empty());
    let first = hits.filter_map(|stop| reply.text.find(stop.as_str()).map(|at| (at, stop))).min_by_key(|(at, _)| *at);
    if let Some((at, stop)) = first {
        reply.text.truncate(at);
        reply.calls.clear();
        reply.finish = Finish::StopSequence(stop.clone());
    }
}

/// Keeps the whole within `most` tokens: reasoning comes first, calls are left out whole.
fn shorten(reply: &mut Reply, most: u64) {
    let bytes = |tokens: u64| usize::try_from(tokens.saturating_mul(4)).unwrap_or(usize::MAX);
    if reply.tokens() <= most {
        return;
    }
    if let Some(first) = reply.calls.first().filter(|_| reply.text.is_empty()) {
        reply.text = format!("I will call {}.", first.name);
    }
    reply.calls.clear();
    reply.reasoning.truncate(cut(&reply.reasoning, bytes(most)).len());
    let left = most - reply.reasoning_tokens();
    reply.text.truncate(cut(&reply.text, bytes(left)).len());
    reply.finish = Finish::Length;
}

/// The longest beginning of at most `bytes` bytes that ends between two characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A text in the pieces it is streamed in: so many as wanted (or one for each character, if that is fewer), else words.
pub fn pieces(text: &str, chunks: Option<usize>) -> Vec<&str> {
    let Some(chunks) = chunks else { return words(text) };
    let chunks = chunks.min(MAX_PIECES);
    let mut out = Vec::with_capacity(chunks);
    let mut from = 0;
    for i in 1..=chunks {
        let to = text.ceil_char_boundary(text.len() * i / chunks);
        if to > from {
            out.push(&text[from..to]);
            from = to;
        }
    }
    out
}

fn words(text: &str) -> Vec<&str> {
    let least = text.len() / MAX_PIECES;
    let mut out = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(' ') {
        if at > from && at - from > least {
            out.push(&text[from..at]);
            from = at;
        }
    }
    if from < text.len() {
        out.push(&text[from..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(last: &str) -> Prompt {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            schema: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
            custom: false,
        };
        Prompt {
            turns: 1,
            last: last.to_owned(),
            tools: vec![tool("search"), tool("get_weather")],
            parallel: true,
            ..Prompt::default()
        }
    }

    fn one(prompt: &Prompt) -> Reply {
        say(prompt, &Knobs::default()).remove(0)
    }

    #[test]
    fn a_tool_is_called_when_it_is_mentioned_and_not_otherwise() {
        let names = |last: &str| one(&prompt(last)).calls.into_iter().map(|call| call.name).collect::<Vec<_>>();
        assert_eq!(names("how is the weather?"), ["get_weather"]);
        assert_eq!(names("use a tool"), ["search"]);
        assert_eq!(names("please search"), ["search"]);
        assert!(names("researching is fun").is_empty());
        assert!(names("<system-reminder>search</system-reminder>hello").is_empty());
        assert_eq!(names("search and get_weather in parallel"), ["search", "get_weather"]);
    }

    #[test]
    fn two_calls_of_one_tool_differ() {
        let calls = one(&prompt("weather in parallel")).calls;
        assert_eq!(calls.len(), 2);
        assert_ne!(calls[0].arguments, calls[1].arguments);
    }

    #[test]
    fn results_are_quoted_instead_of_calling_again() {
        let mut prompt = prompt("weather");
        prompt.results = vec!["21 degrees".to_owned()];
        let reply = one(&prompt);
        assert!(reply.calls.is_empty() && reply.text.contains("21 degrees"));
    }

    #[test]
    fn a_token_limit_holds_and_is_told() {
        for most in 1..60 {
            let mut prompt = prompt("häßlich → grün");
            prompt.thinking = Thinking::of_effort("low");
            prompt.max_tokens = Some(most);
            let reply = one(&prompt);
            assert!(reply.tokens() <= most, "{most}");
            assert_eq!(reply.finish, Finish::Length);
        }
    }

    #[test]
    fn a_stop_sequence_is_left_out() {
        let mut prompt = prompt("one two three");
        prompt.stop = vec!["three".to_owned(), "two".to_owned()];
        let reply = one(&prompt);
        assert_eq!((reply.text.as_str(), reply.finish), ("You said: \"one ", Finish::StopSequence("two".to_owned())));
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let text = "Grüße, → one two  three ".repeat(20_000);
        for chunks in [None, Some(1), Some(7), Some(64), Some(1_000_000)] {
            let pieces = pieces(&text, chunks);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.len() <= MAX_PIECES + 1 && pieces.iter().all(|piece| !piece.is_empty()));
        }
        assert_eq!(pieces("abcd", Some(4)).len(), 4);
        assert!(pieces("", Some(4)).is_empty());
    }

    #[test]
    fn a_length_is_kept_exactly() {
        let knobs = Knobs { length: Some(2000), ..Knobs::default() };
        assert_eq!(say(&prompt("hi"), &knobs)[0].text.len(), 2000);
    }
}
