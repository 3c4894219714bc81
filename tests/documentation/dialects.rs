//! The tables of `src/dialect/README.md` that come from the encoders: an ask with everything in it is written for each
//! dialect, and what the encoder notes as left out, or refuses, is the table.

use std::collections::BTreeMap;

use portcullis::chat::{
    Ask, Block, CacheMark, Content, Effort, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Tool,
    ToolCall, ToolChoice, ToolResult,
};
use portcullis::dialect::{DIALECTS, Dialect, Encoding, Quirks, find};
use portcullis::provider;
use serde_json::{Map, Value, json};

use super::assert_block;

const PAGE: &str = "src/dialect/README.md";

/// A model of each dialect's own maker, with the quirks of its endpoint.
fn setting(dialect: &str) -> (&'static str, Quirks) {
    match dialect {
        "openai_chat" => {
            // What it does not take back of other servers is no matter of what this form can say.
            let row = provider::find("openai").expect("a row").quirks_for(dialect);
            ("gpt-5", Quirks { refuses_thoughts: &[], ..row })
        }
        "openai_responses" => ("gpt-5", Quirks::NONE),
        "anthropic" => ("claude-sonnet-4-5", Quirks::NONE),
        _ => ("gemini-2.5-flash", Quirks::NONE),
    }
}

/// An ask that came in `source` and holds everything that some dialect can say and none refuses.
fn maximal(source: &'static str) -> Ask {
    let number = |value: f64| serde_json::Number::from_f64(value);
    let object = |value: Value| match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                        "additionalProperties": false});
    let image = Content::Image {
        source: Media::Inline { mime: "image/png".into(), data: "iVBO".into() },
        detail: Some("low".into()),
    };
    let thought = Reasoning { text: "Hm.".into(), signature: Some("EqQB".into()), ..Reasoning::default() };
    let call = ToolCall { id: "call_1".into(), name: "look".into(), arguments: "{}".into(), ..ToolCall::default() };
    let result = ToolResult {
        id: "call_1".into(),
        content: vec![Block::text("nothing")],
        is_error: Some(true),
        ..ToolResult::default()
    };
    let marked = Block { cache: Some(CacheMark { ttl: Some("1h".into()) }), ..Block::text("Be brief.") };
    let named =
        Message { name: Some("ann".into()), ..Message::new(Role::User, vec![Block::text("Look."), Block::new(image)]) };
    Ask {
        model: "m".into(),
        system: vec![marked],
        messages: vec![
            named,
            Message::new(
                Role::Assistant,
                vec![Block::new(Content::Reasoning(thought)), Block::new(Content::ToolCall(call))],
            ),
            Message::new(
                Role::User,
                vec![
                    Block::new(Content::ToolResult(result)),
                    Block::new(Content::Other(json!({"type": "server_block"}))),
                ],
            ),
        ],
        tools: vec![
            Tool::Function {
                name: "look".into(),
                description: None,
                parameters: Some(schema.clone()),
                strict: Some(true),
                cache: None,
                extra: Map::new(),
            },
            Tool::Custom {
                name: "sh".into(),
                description: None,
                format: Some(json!({"type": "grammar", "syntax": "regex", "definition": "."})),
            },
            Tool::Hosted(json!({"type": "web_search"})),
        ],
        tool_choice: Some(ToolChoice::Allowed { names: vec!["look".into(), "sh".into()], required: false }),
        parallel_tools: Some(false),
        max_tokens: Some(4000),
        temperature: number(1.5),
        top_p: number(0.5),
        top_k: Some(40.into()),
        min_p: number(0.1),
        frequency_penalty: number(0.5),
        presence_penalty: number(0.5),
        stop: vec!["END".into(), " ".into()],
        seed: Some(7.into()),
        n: Some(1),
        logprobs: Some(true),
        top_logprobs: Some(3),
        logit_bias: Some(json!({"50256": -100})),
        output: Some(OutputFormat::JsonSchema { name: "answer".into(), description: None, schema, strict: Some(true) }),
        verbosity: Some("low".into()),
        reasoning: Some(ReasoningAsk { effort: Some(Effort::High), ..ReasoningAsk::default() }),
        modalities: vec!["text".into()],
        audio: Some(json!({"voice": "alloy", "format": "wav"})),
        stream: true,
        user: Some("u".repeat(300)),
        metadata: Some(object(json!({"team": "search"}))),
        service_tier: Some("flex".into()),
        store: Some(true),
        cache_key: Some("k".into()),
        source,
        extra: object(json!({"only_here": true})),
        ..Ask::default()
    }
}

/// The dialect that the ask comes from: never the target's own, nor one of its family.
fn source_for(target: &str) -> &'static str {
    if target == "gemini" { "anthropic" } else { "gemini" }
}

fn encode(dialect: &dyn Dialect, ask: &Ask) -> Result<Vec<(&'static str, &'static str)>, String> {
    let (model, quirks) = setting(dialect.name());
    let mut to = Encoding::new(model, &quirks);
    match dialect.encode_ask(ask, &mut to) {
        Ok(_) => Ok(to.dropped),
        Err(fault) => {
            assert_eq!(fault.code(), "unsupported_feature", "{}: {fault}", dialect.name());
            Err(fault.message)
        }
    }
}

#[test]
fn the_table_of_what_is_dropped_is_fresh() {
    // (field, target) → why; a field may be named for several reasons.
    let mut cells: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for dialect in DIALECTS {
        let dropped = encode(*dialect, &maximal(source_for(dialect.name()))).expect("encodes");
        for (field, why) in dropped {
            let reasons = cells.entry(field).or_default().entry(dialect.name()).or_default();
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
    }
    let names: Vec<String> = DIALECTS.iter().map(|dialect| format!("`{}`", dialect.name())).collect();
    let mut table = format!("| noted field | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (field, targets) in &cells {
        let columns: Vec<String> = DIALECTS
            .iter()
            .map(|dialect| targets.get(dialect.name()).map(|why| why.join("; ")).unwrap_or_default())
            .collect();
        table.push_str(&format!("| `{field}` | {} |\n", columns.join(" | ")));
    }
    assert_block(PAGE, "dropped, from the encoders", &table);
}

type Change = fn(&mut Ask);

/// What some target cannot do and must not ignore.
const CASES: &[(&str, Change)] = &[
    ("several choices (`n`)", |ask| ask.n = Some(2)),
    ("a spoken answer", |ask| ask.modalities = vec!["text".into(), "audio".into()]),
    ("an image as the answer", |ask| ask.modalities = vec!["text".into(), "image".into()]),
    ("`previous_response_id`", |ask| {
        ask.source = "openai_responses";
        ask.previous_response = Some("resp_1".into());
    }),
    ("a stored conversation or prompt, an item that is only named", |ask| {
        ask.source = "openai_responses";
        ask.leans_on = Some("conversation");
    }),
    ("a prompt that Gemini keeps (`cachedContent`)", |ask| {
        ask.source = "gemini";
        ask.leans_on = Some("cachedContent");
    }),
    ("a tool that only another provider runs, forced", |ask| {
        ask.tools.retain(|tool| tool.name().is_none());
        ask.tool_choice = Some(ToolChoice::Required);
    }),
    ("sound in a user's turn", |ask| {
        push(ask, Content::Audio { data: "UklG".into(), format: "wav".into(), transcript: None, id: None });
    }),
    ("a PDF inline", |ask| file(ask, Media::Inline { mime: "application/pdf".into(), data: "JVBE".into() })),
    ("a text file inline", |ask| file(ask, Media::Inline { mime: "text/plain".into(), data: "aGk=".into() })),
    ("another file inline", |ask| file(ask, Media::Inline { mime: "application/zip".into(), data: "UEsD".into() })),
    ("a file by URL", |ask| file(ask, Media::Url { url: "https://example.com/a.pdf".into(), mime: None })),
    ("a file that a provider holds", |ask| file(ask, Media::Id("file_1".into()))),
    ("an image by URL", |ask| {
        push(
            ask,
            Content::Image { source: Media::Url { url: "https://example.com/a.png".into(), mime: None }, detail: None },
        );
    }),
    ("an image that a provider holds", |ask| {
        push(ask, Content::Image { source: Media::Id("file_1".into()), detail: None });
    }),
];

fn push(ask: &mut Ask, content: Content) {
    ask.messages.push(Message::new(Role::User, vec![Block::new(content)]));
}

fn file(ask: &mut Ask, source: Media) {
    push(ask, Content::File { source, name: None });
}

#[test]
fn the_table_of_what_is_refused_is_fresh() {
    let names: Vec<String> = DIALECTS.iter().map(|dialect| format!("`{}`", dialect.name())).collect();
    let mut table = format!("| asked for | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (name, change) in CASES {
        let mut cells = Vec::new();
        for dialect in DIALECTS {
            let mut ask = maximal(source_for(dialect.name()));
            // Alone, so that nothing else decides.
            ask.messages.truncate(1);
            let before = encode(*dialect, &ask).expect("encodes");
            change(&mut ask);
            cells.push(match encode(*dialect, &ask) {
                Err(_) => "refused",
                Ok(after) if after.len() > before.len() => "dropped",
                Ok(_) => "sent",
            });
        }
        table.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    assert_block(PAGE, "refused, from the encoders", &table);
}

#[test]
fn what_is_asked_in_a_dialect_reaches_it_whole() {
    for dialect in DIALECTS {
        let mut ask = maximal(source_for(dialect.name()));
        ask.source = find(dialect.name()).map(Dialect::name).expect("a dialect");
        // Its own reasoning and blocks come back to it; only what no ask of this dialect can hold may be noted.
        let dropped = encode(*dialect, &ask).expect("encodes");
        let own: Vec<&str> = dropped.into_iter().map(|(field, _)| field).collect();
        for carried in ["tools", "extra fields", "messages.content", "messages.reasoning"] {
            assert!(!own.contains(&carried), "{} drops its own {carried}", dialect.name());
        }
    }
}
