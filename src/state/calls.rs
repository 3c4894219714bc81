//! Whether the tool calls of answers are what was asked for: their arguments parse and fit the schema of their tool.
//!
//! A thread of its own judges, behind the answers; it is handed what an upstream said, as it said it. Never delays an
//! exchange: while the thread is busy, what comes more is not judged.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::cache::Form;
use super::health::{Millis, Record};
use crate::chat::{Answer, Ask, Content, Tool, ToolCall};
use crate::dialect::{self, Dialect, Op, RawAsk, foreign};

/// Answers that wait to be judged. Each holds what the upstream said, so few are enough.
const QUEUE: usize = 32;

/// Sets of tools whose schemas are kept compiled: agents send the same ones again and again.
const MAX_SETS: usize = 64;

/// The longest answer, and the longest list of tools, that is looked at.
pub const MAX_BYTES: usize = 256 << 10;

/// An answer to an ask that offered tools.
#[derive(Debug)]
pub struct Heard {
    /// The target that answered.
    pub record: Arc<Record>,
    /// The caller's dialect, in which the tools are written.
    pub asked: &'static dyn Dialect,
    /// The value of `tools`, as the caller wrote it.
    pub tools: Bytes,
    /// The dialect in which the upstream spoke.
    pub from: &'static dyn Dialect,
    pub form: Form,
    pub said: Bytes,
}

/// The way to the thread that judges; it is started with the first answer.
#[derive(Debug, Default)]
pub struct Calls(OnceLock<Option<SyncSender<(Millis, Heard)>>>);

impl Calls {
    /// Hands an answer over, if there is room.
    pub fn judge(&self, now: Millis, heard: Heard) {
        let thread = self.0.get_or_init(|| {
            let (sender, receiver) = sync_channel(QUEUE);
            let named = std::thread::Builder::new().name("tool calls".into());
            let started = named.spawn(move || run(&receiver));
            started.map_err(|error| tracing::warn!(%error, "tool calls are not judged: no thread")).ok().map(|_| sender)
        });
        if let Some(thread) = thread.as_ref().filter(|_| !heard.said.is_empty()) {
            let _ = thread.try_send((now, heard));
        }
    }
}

fn run(queue: &Receiver<(Millis, Heard)>) {
    let mut sets = Sets::default();
    // Ends with the process's state.
    while let Ok((now, heard)) = queue.recv() {
        let Some(answer) = decoded(&heard).filter(|answer| calls(answer).next().is_some()) else { continue };
        let set = sets.of(heard.asked, &heard.tools);
        let answer = foreign::restored(heard.from, answer, &set.ask);
        let calls: Vec<&ToolCall> = calls(&answer).collect();
        let valid = calls.iter().filter(|call| set.takes(call)).count() as u32;
        heard.record.tool_calls(now, valid, calls.len() as u32 - valid);
    }
}

/// The answer, where it can be read to its end: one that broke off says nothing of its calls.
fn decoded(heard: &Heard) -> Option<Answer> {
    match heard.form {
        Form::Whole => heard.from.decode_answer(&heard.said).ok(),
        Form::Stream => dialect::collect(heard.from, heard.said.clone()).ok(),
    }
}

fn calls(answer: &Answer) -> impl Iterator<Item = &ToolCall> {
    answer.choices.iter().flat_map(|choice| &choice.blocks).filter_map(|block| match &block.content {
        Content::ToolCall(call) => Some(call),
        _ => None,
    })
}

/// The tools of one ask, by name.
#[derive(Debug, Default)]
struct Set {
    /// None: nothing is known of its arguments but that they are an object.
    functions: HashMap<String, Option<Validator>>,
    /// Tools that take free text.
    custom: Vec<String>,
    /// The ask that they stand in, and nothing else of it.
    ask: Ask,
}

impl Set {
    fn read(asked: &'static dyn Dialect, tools: &[u8]) -> Self {
        let mut set = Set::default();
        // The least ask that every dialect reads, with these tools in it.
        let mut body = br#"{"model":"m","max_tokens":1,"input":"-","#.to_vec();
        body.extend_from_slice(
            br#""messages":[{"role":"user","content":"-"}],"contents":[{"parts":[{"text":"-"}]}],"tools":"#,
        );
        body.extend_from_slice(tools);
        body.push(b'}');
        let raw = RawAsk { op: Op::Generate, body: &body, model: None, stream: false };
        let Ok(ask) = asked.decode_ask(&raw) else { return set };
        for tool in &ask.tools {
            match tool {
                Tool::Function { name, parameters, .. } => {
                    let schema = parameters.as_ref().and_then(compiled);
                    set.functions.insert(name.clone(), schema);
                }
                Tool::Custom { name, .. } => set.custom.push(name.clone()),
                // Those that have a name of their own are called by it; their arguments are their maker's affair.
                Tool::Hosted(tool) => {
                    let name = tool.get("name").and_then(Value::as_str);
                    set.functions.extend(name.map(|name| (name.to_owned(), None)));
                }
            }
        }
        set.ask = ask;
        set
    }

    /// Whether a call is one that the tools' owner can carry out.
    fn takes(&self, call: &ToolCall) -> bool {
        if call.custom || self.custom.contains(&call.name) {
            return true;
        }
        // Of tools within a namespace, and of those that the provider runs, nothing is known.
        let Some(schema) = self.functions.get(&call.name) else { return call.namespace.is_some() };
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let Ok(arguments) = serde_json::from_str::<Value>(text) else { return false };
        arguments.is_object() && schema.as_ref().is_none_or(|schema| schema.is_valid(&arguments))
    }
}

/// A schema ready to be held against arguments; None when it is none that can be. Callers write schemas: their patterns
/// are matched in linear time, nothing is fetched, and what might not end is left alone.
fn compiled(schema: &Value) -> Option<Validator> {
    let mut steps = MAX_STEPS;
    ends(schema, schema, MAX_REFERENCES, &mut steps)
        .then(|| jsonschema::options().with_pattern_options(PatternOptions::regex()).build(schema).ok())?
}

/// References within references that are followed, and the parts of a schema with all of them followed. A schema that
/// refers to itself, as those of trees do, runs into the first; one that doubles with every reference into the second.
const MAX_REFERENCES: u32 = 16;
const MAX_STEPS: u32 = 10_000;

/// Whether holding a schema against a value is sure to end soon.
fn ends(part: &Value, whole: &Value, references: u32, steps: &mut u32) -> bool {
    let Some(left) = steps.checked_sub(1) else { return false };
    *steps = left;
    match part {
        Value::Object(map) => map.iter().all(|(key, value)| match (key.as_str(), value) {
            ("$dynamicRef" | "$recursiveRef", _) => false,
            ("$ref", Value::String(path)) => {
                let meant = path.strip_prefix('#').and_then(|pointer| whole.pointer(pointer));
                references > 0 && meant.is_some_and(|meant| ends(meant, whole, references - 1, steps))
            }
            _ => ends(value, whole, references, steps),
        }),
        Value::Array(list) => list.iter().all(|value| ends(value, whole, references, steps)),
        _ => true,
    }
}

/// Sets of tools by what they were written as, the newest last.
#[derive(Debug, Default)]
struct Sets(VecDeque<(u64, Set)>);

impl Sets {
    fn of(&mut self, asked: &'static dyn Dialect, tools: &[u8]) -> &Set {
        let mut hasher = DefaultHasher::new();
        (asked.name(), tools).hash(&mut hasher);
        let key = hasher.finish();
        let known = self.0.iter().position(|(known, _)| *known == key).and_then(|at| self.0.remove(at));
        if self.0.len() >= MAX_SETS {
            self.0.pop_front();
        }
        self.0.push_back(known.unwrap_or_else(|| (key, Set::read(asked, tools))));
        &self.0[self.0.len() - 1].1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { name: name.to_owned(), arguments: arguments.to_owned(), ..ToolCall::default() }
    }

    fn weather() -> Value {
        json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]})
    }

    #[test]
    fn the_tools_of_every_dialect_are_read() {
        let chat = json!([{"type": "function", "function": {"name": "weather", "parameters": weather()}}]);
        let responses = json!([{"type": "function", "name": "weather", "parameters": weather()}]);
        let anthropic = json!([{"name": "weather", "input_schema": weather()}]);
        let gemini = json!([{"functionDeclarations": [{"name": "weather", "parameters": {
            "type": "OBJECT", "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}}, "required": ["city"],
        }}]}]);
        for (name, tools) in
            [("openai_chat", chat), ("openai_responses", responses), ("anthropic", anthropic), ("gemini", gemini)]
        {
            let set = Set::read(dialect::find(name).expect("a dialect"), tools.to_string().as_bytes());
            assert!(set.takes(&call("weather", r#"{"city":"Bonn","days":2}"#)), "{name}");
            for (wrong, why) in [
                (r#"{"city":"Bonn""#, "it breaks off"),
                (r#"{"days":2}"#, "a field is missing"),
                (r#"{"city":"Bonn","days":"two"}"#, "a field has another type"),
                (r#""Bonn""#, "it is no object"),
                ("", "nothing at all where a field is required"),
            ] {
                assert!(!set.takes(&call("weather", wrong)), "{name}: {why}");
            }
            assert!(!set.takes(&call("wether", "{}")), "{name}: no such tool");
        }
    }

    #[test]
    fn a_tool_that_anthropics_callers_run_is_known_by_its_name() {
        let tools = json!([{"type": "bash_20250124", "name": "bash"}]);
        let set = Set::read(dialect::find("anthropic").expect("a dialect"), tools.to_string().as_bytes());
        assert!(set.takes(&call("bash", r#"{"command":"ls"}"#)) && !set.takes(&call("sh", "{}")));
    }

    #[test]
    fn calls_are_judged_by_the_names_that_their_caller_has() {
        let tools = json!([{"functionDeclarations": [{"name": "a.b"}]}]);
        let set = Set::read(dialect::find("gemini").expect("a dialect"), tools.to_string().as_bytes());
        let block = crate::chat::Block::new(Content::ToolCall(call("a_b", "{}")));
        let choice = crate::chat::Choice { blocks: vec![block], ..Default::default() };
        let answer = Answer { choices: vec![choice], ..Answer::default() };
        let answer = foreign::restored(dialect::find("openai_chat").expect("a dialect"), answer, &set.ask);
        assert!(calls(&answer).all(|call| call.name == "a.b" && set.takes(call)));
    }

    #[test]
    fn schemas_that_need_not_end_are_held_against_nothing() {
        let endless = json!({"allOf": [{"$ref": "#"}]});
        // Each definition names the next one twice: two to the power of twelve parts.
        let mut doubling = json!({"$ref": "#/$defs/d0", "$defs": {"d12": {"type": "string"}}});
        for number in 0..12 {
            let next = json!({"$ref": format!("#/$defs/d{}", number + 1)});
            doubling["$defs"][format!("d{number}")] = json!({"allOf": [next, next]});
        }
        let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        let away = json!({"$ref": "http://127.0.0.1:9/schema"});
        let tools = json!([
            {"name": "endless", "input_schema": endless}, {"name": "doubling", "input_schema": doubling},
            {"name": "tree", "input_schema": tree}, {"name": "away", "input_schema": away}, {"name": "none"},
        ]);
        let set = Set::read(dialect::find("anthropic").expect("a dialect"), tools.to_string().as_bytes());
        for name in ["endless", "doubling", "tree", "away", "none"] {
            assert!(set.takes(&call(name, "")) && set.takes(&call(name, r#"{"x":1}"#)), "{name}");
            assert!(!set.takes(&call(name, "{")), "{name}");
        }
    }

    #[test]
    fn a_schema_with_definitions_of_its_own_is_held_against_arguments() {
        let schema = json!({
            "type": "object", "properties": {"where": {"$ref": "#/$defs/Place"}},
            "$defs": {"Place": {"type": "object", "required": ["city"]}},
        });
        let tools = json!([{"name": "go", "input_schema": schema}]);
        let set = Set::read(dialect::find("anthropic").expect("a dialect"), tools.to_string().as_bytes());
        assert!(set.takes(&call("go", r#"{"where":{"city":"Bonn"}}"#)));
        assert!(!set.takes(&call("go", r#"{"where":{}}"#)));
    }

    #[test]
    fn sets_are_kept_for_the_next_ask_and_the_oldest_goes_first() {
        let mut sets = Sets::default();
        let anthropic = dialect::find("anthropic").expect("a dialect");
        let tools = |number: usize| json!([{"name": format!("t{number}")}]).to_string();
        for number in 0..MAX_SETS {
            assert!(sets.of(anthropic, tools(number).as_bytes()).takes(&call(&format!("t{number}"), "{}")));
        }
        sets.of(anthropic, tools(0).as_bytes());
        sets.of(anthropic, tools(MAX_SETS).as_bytes());
        assert_eq!(sets.0.len(), MAX_SETS);
        assert!(sets.0[0].1.functions.contains_key("t2"), "t1 went, t0 was used since");
    }
}
