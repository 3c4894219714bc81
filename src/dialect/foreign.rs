//! Asks on their way to providers of another dialect, and answers on their way back.
//!
//! What every pair of dialects needs stands here once: what only its source's providers keep is refused, what only the
//! source knows is said in forms that all have (its own room does that: [`Dialect::plainly`]), and tools get names that
//! the target takes. Equal dialects on both sides pass as they are.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::names::{Names, Restoring};
use super::{Decoder, Dialect, Encoding, find, openai_marks};
use crate::chat::{Answer, Ask, Block, Content, OutputFormat, Tool, ToolChoice};
use crate::fault::{Fault, Kind};

/// The ask as `target` is to write it.
///
/// # Errors
/// [`Kind::UnsupportedFeature`] for what no other provider has and must not be left out.
pub fn told<'a>(target: &dyn Dialect, ask: &'a Ask, to: &mut Encoding<'_>) -> Result<Cow<'a, Ask>, Fault> {
    if ask.source == target.name() {
        return Ok(Cow::Borrowed(ask));
    }
    if let Some(field) = ask.kept_elsewhere() {
        let text = format!("`{field}` names what only another provider keeps; send the conversation itself.");
        return Err(Fault::new(Kind::UnsupportedFeature, text).param(field));
    }
    let plain = match find(ask.source) {
        Some(source) => source.plainly(ask, to)?,
        None => None,
    };
    let mut ask = plain.map_or(Cow::Borrowed(ask), Cow::Owned);
    if forces_hosted(&ask) {
        return Err(no_tool("A tool that only another provider offers", "tool_choice"));
    }
    if marks(&ask) > MAX_MARKS && !openai_marks::taken(to) {
        thin_marks(ask.to_mut());
    }
    if let Some(names) = target.tool_names().and_then(|rule| Names::of(&ask, rule)) {
        names.spell(ask.to_mut());
    }
    Ok(ask)
}

/// Most cache marks that Anthropic takes, also behind routers; OpenAI takes any number and heeds the last.
const MAX_MARKS: usize = 4;

fn marks(ask: &Ask) -> usize {
    let blocks = ask.system.iter().chain(ask.messages.iter().flat_map(|message| &message.blocks));
    blocks.filter(|block| block.cache.is_some()).count()
}

/// Keeps the first mark, behind which other conversations differ, and the last ones, from which this one goes on.
fn thin_marks(ask: &mut Ask) {
    let last = marks(ask) - (MAX_MARKS - 1);
    let blocks = ask.system.iter_mut().chain(ask.messages.iter_mut().flat_map(|message| &mut message.blocks));
    let marked = blocks.filter(|block| block.cache.is_some());
    marked.take(last).skip(1).for_each(|block| block.cache = None);
}

/// Tells a model in words to answer in JSON, in that of a schema where there is one.
pub fn json_in_words(schema: Option<&Value>) -> String {
    const ONLY: &str = "Answer with one JSON object and nothing else: no code fence, no words around it.";
    match schema {
        Some(schema) => format!("{ONLY} The object must fit this JSON Schema: {schema}"),
        None => ONLY.to_owned(),
    }
}

/// The ask with JSON said in words too where a foreign one wants a JSON object and nothing in it says so. OpenAI and others
/// refuse their JSON mode then.
pub fn saying_json<'a>(ask: Cow<'a, Ask>, target: &str) -> Cow<'a, Ask> {
    if ask.source == target || ask.output != Some(OutputFormat::JsonObject) || says_json(&ask) {
        return ask;
    }
    let mut ask = ask.into_owned();
    ask.system.push(Block::text(json_in_words(None)));
    Cow::Owned(ask)
}

/// What providers refuse at the top of a function's parameters, though not below.
const NOT_AT_THE_TOP: &[&str] = &["anyOf", "oneOf", "allOf", "not"];

/// The parameters of a foreign function as OpenAI and Anthropic take them: an object with properties. A choice at the top,
/// such as one of what must be there, becomes words.
pub fn parameters(schema: Option<&Value>) -> Value {
    let mut fields = schema.and_then(Value::as_object).cloned().unwrap_or_default();
    let refused = NOT_AT_THE_TOP.iter().filter_map(|key| Some(format!("{key}: {}", fields.shift_remove(*key)?)));
    let told: Vec<String> = refused.collect();
    describe(&mut fields, &told);
    fields.entry("type").or_insert_with(|| "object".into());
    fields.entry("properties").or_insert_with(|| json!({}));
    Value::Object(fields)
}

/// Puts keywords of a schema that a target refuses into its description, which the model still reads.
pub fn describe(schema: &mut Map<String, Value>, told: &[String]) {
    if told.is_empty() {
        return;
    }
    let told = format!("({})", told.join(", "));
    let text = match schema.get("description").and_then(Value::as_str) {
        Some(text) if !text.is_empty() => format!("{text} {told}"),
        _ => told,
    };
    schema.insert("description".to_owned(), Value::String(text));
}

fn says_json(ask: &Ask) -> bool {
    let mut blocks = ask.system.iter().chain(ask.messages.iter().flat_map(|message| &message.blocks));
    blocks.any(|block| match &block.content {
        Content::Text { text, .. } => text.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"json")),
        _ => false,
    })
}

/// Goes before what a tool answered when it failed, for targets without a field for it.
pub const FAILED: &str = "The tool failed:";

/// The fault of a tool that must be had and cannot be.
pub fn no_tool(what: &str, param: &'static str) -> Fault {
    Fault::new(Kind::UnsupportedFeature, format!("{what} cannot be called by this target.")).param(param)
}

/// Whether what must be called is nothing that another provider could.
fn forces_hosted(ask: &Ask) -> bool {
    let named = |tool: &Tool, name: &str| tool.name() == Some(name);
    let hosted = |tool: &Tool, name: &str| matches!(tool, Tool::Hosted(tool) if tool.get("name").is_some_and(|known| known == name));
    match &ask.tool_choice {
        Some(ToolChoice::Required) => {
            !ask.tools.is_empty() && ask.tools.iter().all(|tool| matches!(tool, Tool::Hosted(_)))
        }
        Some(ToolChoice::Named(name)) => {
            let known = ask.tools.iter().any(|tool| named(tool, name));
            !known && ask.tools.iter().any(|tool| hosted(tool, name))
        }
        _ => false,
    }
}

/// The names that providers of `from` were told in place of the caller's.
fn names(from: &dyn Dialect, ask: &Ask) -> Option<Names> {
    if ask.source == from.name() {
        return None;
    }
    Names::of(ask, from.tool_names()?)
}

/// The answer of a provider of `from` with the caller's names in it.
#[must_use]
pub fn restored(from: &dyn Dialect, mut answer: Answer, ask: &Ask) -> Answer {
    if let Some(names) = names(from, ask) {
        names.restore(&mut answer);
    }
    answer
}

/// A decoder for a stream of a provider of `from`, whose events have the caller's names.
pub fn decoder(from: &dyn Dialect, ask: &Ask) -> Box<dyn Decoder> {
    let decoder = from.decoder();
    match names(from, ask) {
        Some(names) => Box::new(Restoring { decoder, names }),
        None => decoder,
    }
}

#[cfg(test)]
pub(in crate::dialect) mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::chat::Content;
    use crate::dialect::openai_marks::BREAKPOINT;
    use crate::dialect::{DIALECTS, Op, Quirks, RawAsk, collect};

    /// The ask with this id on every call and result of a tool.
    pub fn with_call_id(mut ask: Ask, id: &str) -> Ask {
        for block in ask.messages.iter_mut().flat_map(|message| &mut message.blocks) {
            match &mut block.content {
                Content::ToolCall(call) => id.clone_into(&mut call.id),
                Content::ToolResult(result) => id.clone_into(&mut result.id),
                _ => {}
            }
        }
        ask
    }

    fn dialect(name: &str) -> &'static dyn Dialect {
        find(name).expect("a dialect")
    }

    fn ask(from: &str, body: &Value) -> Ask {
        let body = body.to_string();
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: Some("m"), stream: false };
        dialect(from).decode_ask(&raw).expect("can be read")
    }

    /// The ask as it goes out, and the fields that are noted.
    fn sent(from: &str, to: &str, body: &Value) -> Result<(Value, Vec<&'static str>), Fault> {
        let mut encoding = Encoding::new("gemini-2.5-flash", &Quirks::NONE);
        let body = dialect(to).encode_ask(&ask(from, body), &mut encoding)?;
        let body = serde_json::from_slice(&body).expect("JSON");
        Ok((body, encoding.dropped.into_iter().map(|(field, _)| field).collect()))
    }

    fn others(than: &str) -> impl Iterator<Item = &'static str> {
        DIALECTS.iter().map(|dialect| dialect.name()).filter(move |name| *name != than)
    }

    fn refused(from: &str, body: &Value) {
        for to in others(from) {
            let fault = sent(from, to, body).expect_err(to);
            assert_eq!(fault.kind, Kind::UnsupportedFeature, "{to}: {fault}");
        }
        assert!(sent(from, from, body).is_ok(), "its own providers have it");
    }

    #[test]
    fn names_of_tools_fit_every_target_and_come_back_as_the_caller_has_them() {
        let long = format!("mcp__{}", "x".repeat(68));
        let cases = [("gemini", "srv.tool:do"), ("gemini", "a.b"), ("anthropic", long.as_str())];
        for (from, name) in cases {
            let body = match from {
                "gemini" => json!({
                    "contents": [
                        {"role": "user", "parts": [{"text": "x"}]},
                        {"role": "model", "parts": [{"functionCall": {"name": name, "args": {}}}]},
                        {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {"result": "y"}}}]},
                    ],
                    "tools": [{"functionDeclarations": [{"name": name}, {"name": "a_b"}]}],
                    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}},
                }),
                _ => json!({
                    "model": "m", "max_tokens": 9, "tools": [{"name": name, "input_schema": {}}, {"name": "a_b", "input_schema": {}}],
                    "tool_choice": {"type": "tool", "name": name},
                    "messages": [
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": name, "input": {}}]},
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "y"}]},
                    ],
                }),
            };
            for to in others(from) {
                let (out, _) = sent(from, to, &body).expect("can be sent");
                let rule = dialect(to).tool_names().expect("a rule");
                let theirs = Names::of(&ask(from, &body), rule);
                let spelt = theirs.is_some();
                assert_eq!(out.to_string().contains(&format!("\"{name}\"")), !spelt, "{from} to {to}: {out}");
                // What the target calls it in the tools it calls it in the history and in the choice.
                let decoded = ask(to, &out);
                let names: Vec<&str> = decoded.tools.iter().filter_map(Tool::name).collect();
                assert_eq!(decoded.tool_choice, Some(ToolChoice::Named(names[0].to_owned())), "{from} to {to}");
                let called = decoded
                    .messages
                    .iter()
                    .flat_map(|message| &message.blocks)
                    .any(|block| matches!(&block.content, Content::ToolCall(call) if call.name == names[0]));
                assert!(called && names[1] == "a_b", "{from} to {to}: {names:?}");
            }
        }
    }

    #[test]
    fn calls_in_answers_and_streams_have_the_callers_names() {
        let gemini = json!({"contents": [{"parts": [{"text": "x"}]}],
                            "tools": [{"functionDeclarations": [{"name": "a.b"}, {"name": "a_b"}]}]});
        let ask = ask("gemini", &gemini);
        let chat = dialect("openai_chat");
        let call = |index: u32, name: &str| {
            json!({"index": index, "id": format!("c{index}"), "type": "function",
                                                   "function": {"name": name, "arguments": "{}"}})
        };
        let calls = json!([call(0, "a_b_2"), call(1, "a_b")]);
        let whole = json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [{"index": 0,
            "finish_reason": "tool_calls", "message": {"role": "assistant", "content": null, "tool_calls": calls}}]});
        let named = |answer: &Answer| -> Vec<String> {
            let blocks = answer.choices.iter().flat_map(|choice| &choice.blocks);
            let calls = blocks.filter_map(|block| match &block.content {
                Content::ToolCall(call) => Some(call.name.clone()),
                _ => None,
            });
            calls.collect()
        };
        let answer = chat.decode_answer(whole.to_string().as_bytes()).expect("an answer");
        assert_eq!(named(&restored(chat, answer, &ask)), ["a.b", "a_b"]);
        let chunk = |delta: Value, end: Value| {
            format!(
                "data: {}\n\n",
                json!({"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})
            )
        };
        let stream = chunk(json!({"tool_calls": calls}), Value::Null)
            + &chunk(json!({}), json!("tool_calls"))
            + "data: [DONE]\n\n";
        let mut decoder = decoder(chat, &ask);
        let (mut events, mut collector) = (Vec::new(), crate::chat::event::Collector::default());
        for frame in stream.split_inclusive("\n\n") {
            decoder.frame(&crate::sse::Frame(frame.as_bytes()), &mut events).expect("a frame");
        }
        decoder.finish(&mut events).expect("an end");
        events.into_iter().try_for_each(|event| collector.event(event)).expect("good");
        assert_eq!(named(&collector.finish()), ["a.b", "a_b"]);
        // Undone only where it was done.
        let own = collect(chat, Bytes::from(stream)).expect("an answer");
        assert_eq!(named(&own), ["a_b_2", "a_b"]);
    }

    #[test]
    fn search_results_and_what_is_said_of_documents_reach_every_model() {
        let found = json!({"type": "search_result", "source": "https://a.example", "title": "Facts",
                           "content": [{"type": "text", "text": "Ulm has a minster."}]});
        let body = json!({"model": "m", "max_tokens": 9, "messages": [
            {"role": "user", "content": [
                found,
                {"type": "document", "title": "T", "context": "Of 1890.", "source": {"type": "text", "media_type": "text/plain", "data": "It is high."}},
                {"type": "document", "context": "A drawing.", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
                {"type": "text", "text": "Well?"},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "find", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [
                found, {"type": "tool_reference", "tool_name": "get_weather"},
            ]}]},
        ]});
        for to in others("anthropic") {
            let (out, dropped) = sent("anthropic", to, &body).expect("can be sent");
            let text = out.to_string();
            let times = |words: &str| text.matches(words).count();
            assert_eq!(times("Facts (https://a.example):\\n\\nUlm has a minster."), 2, "{to}: {text}");
            assert_eq!((times("T:\\n\\nOf 1890.\\n\\nIt is high."), times("A drawing.")), (1, 1), "{to}: {text}");
            assert_eq!(times("The tool `get_weather` can be called now."), 1, "{to}: {text}");
            assert!(!dropped.contains(&"messages.content"), "{to}: {dropped:?}");
        }
        let (own, _) = sent("anthropic", "anthropic", &body).expect("can be sent");
        assert_eq!(
            (&own["messages"][0]["content"][0], &own["messages"][2]["content"][0]["content"][0]),
            (&found, &found)
        );
    }

    #[test]
    fn parameters_are_an_object_with_properties_and_no_choice_at_the_top() {
        let any = json!([{"required": ["a"]}, {"required": ["b"]}]);
        let body = |schema: Value| {
            json!({"contents": [{"parts": [{"text": "x"}]}], "tools": [{"functionDeclarations": [
                {"name": "f", "parametersJsonSchema": schema}]}]})
        };
        for to in ["openai_chat", "openai_responses", "anthropic"] {
            let told = |schema: Value| {
                let (out, _) = sent("gemini", to, &body(schema)).expect("can be sent");
                let tool = &out["tools"][0];
                let tool = tool.get("function").unwrap_or(tool);
                tool.get("parameters").or(tool.get("input_schema")).expect("parameters").clone()
            };
            let empty = json!({"type": "object", "properties": {}});
            assert_eq!((told(json!({"type": "object"})), told(json!({}))), (empty.clone(), empty), "{to}");
            let properties = json!({"a": {"type": "string"}, "b": {"anyOf": [{"type": "string"}, {"type": "null"}]}});
            let schema = json!({"type": "object", "description": "D.", "properties": properties, "anyOf": any});
            let description = format!("D. (anyOf: {any})");
            let expected = json!({"type": "object", "description": description, "properties": properties});
            assert_eq!(told(schema), expected, "{to}");
        }
        let schema = json!({"type": "object", "anyOf": any});
        let (own, _) = sent("gemini", "gemini", &body(schema.clone())).expect("can be sent");
        assert_eq!(own["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"], schema);
    }

    #[test]
    fn what_only_its_maker_keeps_is_refused() {
        let turn = json!([{"role": "user", "parts": [{"text": "Summarise it"}]}]);
        refused("gemini", &json!({"contents": turn, "cachedContent": "cachedContents/1"}));
        let file = "https://generativelanguage.googleapis.com/v1beta/files/abc";
        for uri in [file, "gs://bucket/a.pdf"] {
            let part = json!({"fileData": {"fileUri": uri, "mimeType": "application/pdf"}});
            refused("gemini", &json!({"contents": [{"role": "user", "parts": [part]}]}));
        }
        for item in
            [json!({"type": "item_reference", "id": "msg_1"}), json!({"type": "compaction", "encrypted_content": "x"})]
        {
            refused("openai_responses", &json!({"model": "m", "input": [item, {"role": "user", "content": "Go on"}]}));
        }
        let upload = json!([{"type": "container_upload", "file_id": "file_1"}]);
        refused(
            "anthropic",
            &json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": upload}]}),
        );
    }

    #[test]
    fn calls_of_the_callers_own_tools_stay_in_the_conversation() {
        let body = json!({"model": "m", "input": [
            {"role": "user", "content": "list"},
            {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "action": {"type": "exec", "command": ["ls"]}},
            {"type": "local_shell_call_output", "id": "lsh_1", "output": "a.txt"},
            {"type": "apply_patch_call", "call_id": "call_2", "operation": {"type": "delete_file", "path": "a.txt"}},
            {"type": "apply_patch_call_output", "call_id": "call_2", "status": "failed", "output": "no such file"},
            {"type": "mcp_call", "id": "mcp_1", "name": "ask", "arguments": "{\"q\":1}", "output": "42"},
        ]});
        for to in others("openai_responses") {
            let (out, dropped) = sent("openai_responses", to, &body).expect("can be sent");
            let text = out.to_string();
            for words in ["local_shell", "ls", "a.txt", "apply_patch", "delete_file", "no such file", "ask", "42"] {
                assert!(text.contains(words), "{to} lacks {words}: {text}");
            }
            assert!(!dropped.contains(&"messages.content"), "{to}: {dropped:?}");
        }
        let (out, _) = sent("openai_responses", "anthropic", &body).expect("can be sent");
        let ids: Vec<&Value> = out["messages"]
            .as_array()
            .expect("turns")
            .iter()
            .flat_map(|turn| turn["content"].as_array())
            .flatten()
            .filter_map(|block| block.get("id").or(block.get("tool_use_id")))
            .collect();
        assert_eq!(ids, ["call_1", "call_1", "call_2", "call_2", "mcp_1", "mcp_1"]);
    }

    #[test]
    fn tools_that_the_caller_runs_are_offered_as_functions_and_others_are_never_forced_in_vain() {
        let claude = |tools: Value, choice: Value| {
            json!({"model": "m", "max_tokens": 9, "tools": tools, "tool_choice": choice,
                   "messages": [{"role": "user", "content": "x"}]})
        };
        let bash = claude(
            json!([{"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}]),
            json!({"type": "tool", "name": "bash"}),
        );
        for to in others("anthropic") {
            let (out, dropped) = sent("anthropic", to, &bash).expect("can be sent");
            let decoded = ask(to, &out);
            let names: Vec<&str> = decoded.tools.iter().filter_map(Tool::name).collect();
            assert_eq!(names, ["bash", "str_replace_based_edit_tool"], "{to}");
            assert_eq!(decoded.tool_choice, Some(ToolChoice::Named("bash".into())), "{to}");
            assert!(!dropped.contains(&"tools"), "{to}");
        }
        let search = json!([{"type": "web_search_20250305", "name": "web_search"}]);
        refused("anthropic", &claude(search.clone(), json!({"type": "tool", "name": "web_search"})));
        refused("anthropic", &claude(search.clone(), json!({"type": "any"})));
        refused(
            "anthropic",
            &claude(json!([{"type": "computer_20250124", "name": "computer"}]), json!({"type": "auto"})),
        );
        assert!(sent("anthropic", "openai_chat", &claude(search, json!({"type": "auto"}))).is_ok());
        let openai =
            |tools: Value, choice: Value| json!({"model": "m", "input": "x", "tools": tools, "tool_choice": choice});
        refused("openai_responses", &openai(json!([{"type": "web_search"}]), json!({"type": "web_search"})));
        refused("openai_responses", &openai(json!([{"type": "local_shell"}]), json!("auto")));
        let some = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]});
        let tools = json!([{"type": "function", "name": "f", "parameters": {}}, {"type": "function", "name": "g", "parameters": {}}, {"type": "web_search"}]);
        let (out, _) = sent("openai_responses", "anthropic", &openai(tools, some)).expect("can be sent");
        assert_eq!(out["tools"].as_array().map(Vec::len), Some(1), "{out}");
    }

    #[test]
    fn cache_marks_reach_whom_they_mean_something_to() {
        let anthropic = json!({"model": "m", "max_tokens": 9,
        "system": [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Short."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": "c"},
        ]});
        let quirks = Quirks { prompt_cache_key: true, ..Quirks::NONE };
        let breakpoint = json!({"mode": "explicit"});
        for (to, model, taken) in [
            ("openai_chat", "gpt-5.6-terra", true),
            ("openai_responses", "gpt-5.6-terra", true),
            ("openai_chat", "gpt-5.5", false),
            ("openai_responses", "gpt-5.5", false),
        ] {
            let mut encoding = Encoding::new(model, &quirks);
            let body = dialect(to).encode_ask(&ask("anthropic", &anthropic), &mut encoding).expect("can be sent");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert!(encoding.dropped.iter().any(|(field, _)| *field == "cache_control"), "{to}: the assistant's");
            let turns = body.get("messages").or(body.get("input")).expect("turns");
            let marked = |turn: usize, part: usize| turns[turn]["content"][part].get(BREAKPOINT) == Some(&breakpoint);
            if taken {
                assert!(marked(0, 0) && !marked(0, 1) && marked(1, 0) && !marked(2, 0), "{to}: {body}");
            } else {
                assert!(!body.to_string().contains(BREAKPOINT), "{to}: {body}");
            }
        }
        let part = |kind: &str, n: usize| json!({"type": kind, "text": format!("{n}"), BREAKPOINT: breakpoint});
        let parts = |kind: &str| (0..6).map(|n| part(kind, n)).collect::<Vec<_>>();
        let chat = json!({"model": "m", "messages": [{"role": "user", "content": parts("text")}]});
        let responses = json!({"model": "m", "input": [{"role": "user", "content": parts("input_text")}]});
        for (from, body) in [("openai_chat", chat), ("openai_responses", responses)] {
            let (out, _) = sent(from, "anthropic", &body).expect("can be sent");
            let said = out["messages"][0]["content"].as_array().expect("blocks");
            let marked: Vec<bool> = said.iter().map(|block| block.get("cache_control").is_some()).collect();
            assert_eq!(marked, [true, false, false, true, true, true], "{from}");
            let (own, dropped) = sent(from, from, &body).expect("can be sent");
            assert_eq!(own.to_string().matches(BREAKPOINT).count(), 6, "{from}: {own}");
            assert!(!dropped.contains(&"cache_control"), "{from}: {dropped:?}");
        }
    }

    #[test]
    fn what_both_forms_of_openai_have_goes_from_one_to_the_other_and_the_user_to_all() {
        let own = json!({"model": "m", "safety_identifier": "u1", "prompt_cache_retention": "24h"});
        let with = |key: &str, value: Value| {
            let mut body = own.clone();
            body[key] = value;
            body
        };
        let turns = json!([{"role": "user", "content": "x"}]);
        let bodies = [("openai_chat", with("messages", turns.clone())), ("openai_responses", with("input", turns))];
        let openai = Quirks { prompt_cache_key: true, ..Quirks::NONE };
        for (from, body) in &bodies {
            let (out, _) = sent(from, "anthropic", body).expect("can be sent");
            assert_eq!(out["metadata"]["user_id"], "u1", "{from}");
            for (to, _) in &bodies {
                let mut encoding = Encoding::new("m", &openai);
                let out = dialect(to).encode_ask(&ask(from, body), &mut encoding).expect("can be sent");
                let out: Value = serde_json::from_slice(&out).expect("JSON");
                let told = (&out["safety_identifier"], &out["prompt_cache_retention"], out.get("user"));
                assert_eq!(told, (&json!("u1"), &json!("24h"), None), "{from} to {to}");
                assert!(encoding.dropped.is_empty(), "{from} to {to}: {:?}", encoding.dropped);
            }
            // Others know the older name alone.
            for (to, _) in bodies.iter().filter(|(to, _)| to != from) {
                let (out, _) = sent(from, to, body).expect("can be sent");
                assert_eq!((&out["user"], out.get("safety_identifier")), (&json!("u1"), None), "{from} to {to}");
            }
        }
    }

    #[test]
    fn one_of_some_words_is_asked_for_in_words() {
        let body = json!({"contents": [{"parts": [{"text": "x"}]}], "generationConfig":
            {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["yes", "no"]}}});
        for to in others("gemini") {
            let (out, dropped) = sent("gemini", to, &body).expect("can be sent");
            assert!(
                out.to_string().contains(r#"\"yes\", \"no\""#) && dropped.contains(&"responseMimeType"),
                "{to}: {out}"
            );
        }
    }
}
