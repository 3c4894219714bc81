//! Adapters as they must behave, hostile ones too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::{Taught, nobody};
use crate::body::Inbound;
use crate::chat::event::Collector;
use crate::chat::{
    Answer, Ask, Block, Content, Event, Finish, Media, Message, Reasoning, Role, Tool, ToolCall, ToolChoice, ToolResult,
};
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came, Read, Written};
use crate::embed::{EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind, Refusal};
use crate::guest::Bundle;
use crate::guest::adapter::Lease;
use crate::guest::stand;
use crate::guest::tests::{assert_gives_way, assert_gives_way_to_sockets};
use crate::stream::Adapted;

/// What every adapter here does, unless a test says otherwise.
const PLAIN: &str = "
    function encode(ask) return { path = '/x', body = ask } end
    function decode(answer) return { text = answer.body, finish = 'stop' } end
";

/// Reads a stream of words, and a few that it obeys.
const STREAM: &str = "
    function encode(ask) return { path = '/x', body = {}, streamed = true } end
    function decode(answer) return { text = answer.body } end
    function decoder()
        local said = {}
        return {
            push = function(line)
                if line == 'loop' then while true do end end
                if line == 'throw' then error('as told') end
                if line == 'grow' then while true do said[#said + 1] = table.create(1000, #said) end end
                if line == 'huge' then return { text = string.rep('x', 5000000) } end
                if line == 'refuse' then return nil, { status = 502, message = 'nonsense' } end
                if line == 'fault' then return { fault = { message = 'too busy', code = 'overloaded_error' } } end
                if line == 'call' then
                    return {
                        { tool_call = { key = 3, id = 'c1', name = 'f' } },
                        { arguments = { key = 3, text = '{\"a\"' } },
                        { arguments = { key = 3, text = ':1}' } },
                    }
                end
                if line == 'wrong' then return { txet = 'a' } end
                if line == 'end' then return { { usage = { input = 3, output = #said } }, { finish = 'stop' } } end
                table.insert(said, line)
                return { text = line }
            end,
            finish = function() return {} end,
        }
    end
";

fn bundle(text: &str, framing: bool) -> Bundle {
    let mut bundle = stand::bundle(text);
    let framing = if framing { "framing = 'lines'" } else { "" };
    let models = "models = ['m1', { id = 'm2', context = 1000 }]";
    let manifest = format!("[adapter]\noperations = ['chat', 'embed']\n{framing}\n{models}\n");
    bundle.manifest = toml::from_str(&manifest).expect("a manifest");
    bundle
}

/// Little of everything, so that tests are short.
fn tight() -> Lease {
    Lease { cpu: Duration::from_millis(30), memory: 8 << 20, host_calls: 2000, output: 4 << 20 }
}

fn try_load(text: &str, framing: bool, config: Value, lease: Lease) -> Result<Arc<Taught>, String> {
    Taught::load("test", Arc::new(bundle(text, framing)), config, lease)
}

fn load(text: &str) -> Arc<Taught> {
    try_load(text, false, json!({}), Lease::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn streaming(lease: Lease) -> Arc<Taught> {
    try_load(STREAM, true, json!({}), lease).unwrap_or_else(|error| panic!("{error}"))
}

fn asked(text: &str) -> Ask {
    let messages = vec![Message::new(Role::User, vec![Block::text(text)])];
    Ask { source: "openai_chat", messages, ..Ask::default() }
}

async fn encode(taught: &Arc<Taught>, ask: &Ask) -> Result<Written, Fault> {
    taught.encode(&nobody(), "up", Asking::Chat(ask)).await
}

async fn body(taught: &Arc<Taught>, ask: &Ask) -> Value {
    let written = encode(taught, ask).await.expect("encodes");
    serde_json::from_slice(&written.body).expect("JSON")
}

async fn decode(taught: &Arc<Taught>, op: Op, body: &str) -> Result<Read, Fault> {
    let (headers, body) = (HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes()));
    taught.decode(&nobody(), op, Came { status: 200, headers: &headers, body: &body }).await
}

async fn answered(taught: &Arc<Taught>, body: &str) -> Answer {
    match decode(taught, Op::Generate, body).await {
        Ok(Read::Chat(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

async fn refusal(taught: &Arc<Taught>, status: u16, body: &str) -> Refusal {
    let (headers, body) = (HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes()));
    taught.decode_error(&nobody(), Came { status, headers: &headers, body: &body }).await
}

/// The events of a stream in these pieces, and how it ended.
async fn streamed(taught: &Arc<Taught>, pieces: &[&[u8]]) -> (Vec<Event>, Result<(), Fault>) {
    let decoder = taught.decoder(&nobody()).await.expect("a decoder");
    let mut adapted = Adapted::new(Inbound::pieces(pieces.iter().map(|piece| Bytes::copy_from_slice(piece))), decoder);
    let (mut events, mut ended) = (Vec::new(), Ok(()));
    while let Some(worked) = std::future::poll_fn(|cx| adapted.poll_events(cx, &mut events)).await {
        ended = worked;
        if ended.is_err() {
            break;
        }
    }
    (events, ended)
}

#[tokio::test]
async fn an_ask_is_told_whole() {
    let call = ToolCall { id: "c1".into(), name: "f".into(), arguments: "{\"a\": 1}".into(), ..ToolCall::default() };
    let result = ToolResult { id: "c1".into(), content: vec![Block::text("Rain.")], ..ToolResult::default() };
    let image = Media::Inline { mime: "image/png".into(), data: "iVBO".into() };
    let foreign = Reasoning { text: "hm".into(), signature: Some("theirs".into()), ..Reasoning::default() };
    let hidden = Reasoning { encrypted: Some("theirs".into()), ..Reasoning::default() };
    let mut deep = json!({ "type": "string" });
    for _ in 0..12 {
        deep = json!({ "type": "object", "properties": { "x": deep }, "required": [] });
    }
    let tool = Tool::Function {
        name: "f".into(),
        description: None,
        parameters: Some(deep.clone()),
        strict: Some(true),
        cache: None,
        extra: Default::default(),
    };
    let ask = Ask {
        system: vec![Block::text("Be brief.")],
        messages: vec![
            Message::new(Role::User, vec![Block::new(Content::Image { source: image, detail: None })]),
            Message::new(
                Role::Assistant,
                vec![
                    Block::new(Content::Reasoning(foreign)),
                    Block::new(Content::Reasoning(hidden)),
                    Block::new(Content::ToolCall(call)),
                ],
            ),
            Message::new(Role::User, vec![Block::new(Content::ToolResult(result))]),
        ],
        tools: vec![tool],
        tool_choice: Some(ToolChoice::Named("f".into())),
        max_tokens: Some(50),
        temperature: serde_json::Number::from_f64(0.5),
        stream: true,
        source: "anthropic",
        ..Ask::default()
    };
    let told = body(&load(PLAIN), &ask).await;
    let wanted = json!({
        "operation": "chat", "model": "up", "streamed": true, "source": "anthropic", "max_tokens": 50, "temperature": 0.5,
        "system": [{ "kind": "text", "text": "Be brief." }],
        "messages": [
            { "role": "user", "blocks": [{ "kind": "image", "source": { "mime": "image/png", "data": "iVBO" } }] },
            { "role": "assistant", "blocks": [
                { "kind": "reasoning", "text": "hm" },
                { "kind": "tool_call", "id": "c1", "name": "f", "arguments": "{\"a\": 1}" },
            ] },
            { "role": "user", "blocks": [
                { "kind": "tool_result", "id": "c1", "content": [{ "kind": "text", "text": "Rain." }] },
            ] },
        ],
        "tools": [{ "kind": "function", "name": "f", "parameters": deep, "strict": true }],
        "tool_choice": { "named": "f" },
    });
    assert_eq!(told, wanted);
}

#[tokio::test]
async fn a_request_is_what_the_script_wrote() {
    let taught = load(
        "function encode(ask)
             if ask.operation == 'embed' then return { path = '/e', body = { input = ask.inputs } } end
             local say = ask.messages[1].blocks[1].text
             if say == 'plain' then return { path = '/p', body = 'a=b', headers = { ['x-a'] = '1' }, method = 'PUT' } end
             if say == 'get' then return { path = '/g?x=1', dropped = { n = 'one only' } } end
             if say == 'refuse' then return nil, { message = 'no', param = 'n' } end
             if say == 'wrong' then return { paht = '/x' } end
             if say == 'header' then return { path = '/x', headers = { ['a b'] = '1' } } end
             if say == 'stream' then return { path = '/x', streamed = true } end
         end
         function decode(answer) return { text = 'x' } end",
    );
    let written = encode(&taught, &asked("plain")).await.expect("encodes");
    assert_eq!((written.method.as_str(), &*written.path, &*written.body), ("PUT", "/p", &b"a=b"[..]));
    assert_eq!(written.headers["x-a"], "1");
    let written = encode(&taught, &asked("get")).await.expect("encodes");
    assert_eq!((written.method.as_str(), written.body.len()), ("GET", 0));
    assert_eq!(written.dropped, [("n".to_owned(), "one only".to_owned())]);
    let fault = encode(&taught, &asked("refuse")).await.expect_err("refuses");
    assert_eq!((fault.kind, &*fault.message, fault.param.as_deref()), (Kind::UnsupportedFeature, "no", Some("n")));
    for (say, why) in [
        ("wrong", "a request has no `paht`; did you mean `path`?"),
        ("nothing", "a request: nothing stands where a table should"),
        ("header", ""),
        ("stream", ""),
    ] {
        let fault = encode(&taught, &asked(say)).await.expect_err(say);
        assert_eq!(fault.kind, Kind::GuestFailed, "{say}");
        assert!(fault.source.unwrap_or_default().contains(why), "{say}");
    }
    let inputs = vec![EmbedInput::Text("a".into()), EmbedInput::Text("b".into())];
    let ask = EmbedAsk { inputs, ..EmbedAsk::default() };
    let written = taught.encode(&nobody(), "up", Asking::Embed(&ask)).await.expect("encodes");
    assert_eq!(written.body, r#"{"input":["a","b"]}"#);
}

#[tokio::test]
async fn an_answer_is_what_the_script_read() {
    let taught = load(
        "function encode(ask) return { path = '/x' } end
         function decode(answer, operation)
             local body = gw.json.decode(answer.body)
             if body.refused then return nil, body.refused end
             return body
         end",
    );
    let body = json!({
        "id": "a1", "model": "m", "usage": { "input": 5, "output": 3, "cache_read": 2 },
        "choices": [
            { "text": "Hi", "blocks": [
                { "kind": "tool_call", "id": "c", "name": "f", "arguments": { "b": 1, "a": [] } },
                { "kind": "reasoning", "text": "hm", "signature": "s" },
              ],
              "finish": { "reason": "tool_calls", "native": "TOOL" } },
            { "text": "Ho", "finish": "length" },
        ],
    });
    let answer = answered(&taught, &body.to_string()).await;
    assert_eq!((&*answer.id, &*answer.model, answer.source), ("a1", "m", "lua:test"));
    assert_eq!(answer.usage.expect("usage").cache_read, Some(2));
    assert_eq!((answer.choices[0].finish, answer.choices[1].finish), (Some(Finish::ToolCalls), Some(Finish::Length)));
    assert_eq!(answer.choices[0].native_finish.as_deref(), Some("TOOL"));
    let blocks = &answer.choices[0].blocks;
    assert!(
        matches!(&blocks[1].content, Content::ToolCall(call) if call.arguments == r#"{"a":[],"b":1}"#),
        "{blocks:?}"
    );
    assert!(matches!(&blocks[2].content, Content::Reasoning(thought) if thought.origin == "lua:test"), "{blocks:?}");
    let vectors = decode(&taught, Op::Embed, r#"{"vectors":[[0.5,1],[2,3]],"usage":{"input":2}}"#).await;
    assert!(matches!(vectors, Ok(Read::Embed(answer)) if answer.vectors == [[0.5, 1.0], [2.0, 3.0]]));
    let later = r#"{"follow_up":{"request":{"path":"/later"},"wait_ms":250}}"#;
    match decode(&taught, Op::Generate, later).await.expect("reads") {
        Read::FollowUp(next, wait) => assert_eq!((&*next.path, wait), ("/later", Duration::from_millis(250))),
        other => panic!("{other:?}"),
    }
    let kind = async |body: &str| decode(&taught, Op::Generate, body).await.expect_err("fails").kind;
    assert_eq!(kind(r#"{"refused":{"status":502,"message":"nonsense"}}"#).await, Kind::BadAnswer);
    assert_eq!(kind(r#"{"refused":{"status":429,"message":"slow down"}}"#).await, Kind::RateLimited);
    for wrong in [
        r#"{"finish":"because"}"#,
        r#"{"blocks":[{"kind":"txt","text":"a"}]}"#,
        r#"{"blocks":[{"kind":"tool_call","name":"f"}]}"#,
        r#"{"usage":{"input":-1}}"#,
        r#"{"usage":{"input":1.5}}"#,
        r#"{"text":"a","blocks":{"kind":"text"}}"#,
        r#"{"texts":"a"}"#,
        "no JSON",
    ] {
        assert_eq!(kind(wrong).await, Kind::GuestFailed, "{wrong}");
    }
}

#[tokio::test]
async fn an_error_answer_is_read_by_the_script_or_stands_as_it_came() {
    let taught = load(&format!(
        "{PLAIN} function decode_error(answer)
             if answer.body == 'throw' then error('as told') end
             if answer.body == 'word' then return 'in a word' end
             return {{ message = 'said: ' .. answer.body, code = 'busy', retry_after_ms = 1500 }}
         end"
    ));
    let said = refusal(&taught, 429, "wait").await;
    assert_eq!((said.status, &*said.message, said.code.as_deref()), (429, "said: wait", Some("busy")));
    assert_eq!(said.retry_after, Some(Duration::from_millis(1500)));
    assert_eq!(refusal(&taught, 400, "word").await.message, "in a word");
    assert_eq!(refusal(&taught, 500, "throw").await.message, "throw");
    assert_eq!(refusal(&load(PLAIN), 500, "as it is").await.message, "as it is");
}

#[tokio::test]
async fn a_stream_is_the_same_at_every_split() {
    let taught = streaming(Lease::default());
    let text = "Grüße\r\n\n an\ncall\n alle\nend".as_bytes();
    let answer = async |pieces: &[&[u8]]| {
        let (events, ended) = streamed(&taught, pieces).await;
        ended.expect("ends well");
        let mut collector = Collector::default();
        events.into_iter().try_for_each(|event| collector.event(event)).expect("no fault");
        collector.finish()
    };
    let whole = answer(&[text]).await;
    assert_eq!(whole.text(), "Grüße an alle");
    assert_eq!(whole.usage.as_ref().expect("usage").output, 3);
    let called = |block: &Block| matches!(&block.content, Content::ToolCall(call) if call.arguments == r#"{"a":1}"#);
    assert!(whole.choices[0].blocks.iter().any(called), "{whole:?}");
    for cut in 1..text.len() {
        let (first, second) = text.split_at(cut);
        assert_eq!(answer(&[first, second]).await, whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(answer(&bytes).await, whole);
}

#[tokio::test]
async fn a_stream_breaks_alone() {
    let taught = streaming(tight());
    for how in ["loop\n", "throw\n", "grow\n", "huge\n", "wrong\n"] {
        let (events, ended) = streamed(&taught, &[b"first\n", how.as_bytes(), b"never\n"]).await;
        assert_eq!(ended.expect_err(how).kind, Kind::GuestFailed, "{how}");
        assert!(events.iter().any(Event::is_content), "what came before is the client's");
    }
    let kind = async |pieces: &[&[u8]]| streamed(&taught, pieces).await.1.expect_err("fails").kind;
    assert_eq!(kind(&[b"a\n", b"b"]).await, Kind::StreamBroken, "no end");
    assert_eq!(kind(&[b"a\nrefuse\n"]).await, Kind::BadAnswer);
    assert_eq!(kind(&[b"fault\n"]).await, Kind::Overloaded);
    streamed(&taught, &[b"a\nend\n"]).await.1.expect("others go on");
}

#[tokio::test]
async fn a_runaway_costs_its_own_call_and_no_more() {
    let text = "
        local kept = {}
        function encode(ask)
            local how = ask.messages[1].blocks[1].text
            if how == 'loop' then while true do end end
            if how == 'caught' then pcall(function() while true do end end) return { path = '/x' } end
            if how == 'throw' then error('as told') end
            if how == 'grow' then while true do kept[#kept + 1] = table.create(1000, #kept) end end
            if how == 'huge' then return { path = '/x', body = string.rep('x', 5000000) } end
            if how == 'many' then local t = {} for i = 1, 300000 do t[i] = 'xxxxxxxxxxx' .. i end return { path = '/x', body = t } end
            if how == 'move' then table.move({}, 1, 2e9, 2, {}) end
            if how == 'storm' then while true do gw.rand.number() end end
            if how == 'recurse' then local function f() return 1 + f() end f() end
            if how == 'deep' then local t = {} for i = 1, 100000 do t = { t } end return { path = '/x', body = t } end
            return { path = '/well' }
        end
        function decode(answer) return { text = '' } end";
    let taught = try_load(text, false, json!({}), tight()).expect("loads");
    for how in ["loop", "caught", "throw", "grow", "huge", "many", "move", "storm", "recurse", "deep"] {
        let fault = encode(&taught, &asked(how)).await.expect_err(how);
        assert_eq!(fault.kind, Kind::GuestFailed, "{how}");
        assert!(!fault.message.contains(".luau"), "where the script lies is nothing for callers: {}", fault.message);
        assert_eq!(encode(&taught, &asked("well")).await.expect("the next call is served").path, "/well");
    }
    let why = async |how: &str| encode(&taught, &asked(how)).await.expect_err(how);
    assert!(
        why("loop")
            .await
            .message
            .contains("used up its 30ms of processor time in `encode`; raise `adapters.test.cpu`.")
    );
    assert!(why("grow").await.message.contains("raise `adapters.test.memory`"));
    assert!(why("storm").await.message.contains("more than 2000 host functions"));
    assert!(why("throw").await.source.expect("a cause").contains("test.luau:7: as told"));
}

/// Also on a clock that stands still, as the tests of scripts have it.
#[tokio::test(start_paused = true)]
async fn others_go_on_while_a_script_runs_away() {
    let text = "function encode(ask) while true do end end function decode() end";
    let with = |cpu| try_load(text, false, json!({}), Lease { cpu, ..Lease::default() }).expect("loads");
    assert_gives_way(encode(&with(Duration::from_secs(60)), &asked("loop")), "a loop").await;
    let ended = encode(&with(Duration::from_millis(30)), &asked("loop")).await;
    assert_eq!(ended.expect_err("is stopped").kind, Kind::GuestFailed);
}

#[tokio::test]
async fn sockets_are_looked_at_between_two_turns() {
    let text = "function encode(ask) while true do end end function decode() end";
    let lease = Lease { cpu: Duration::from_secs(60), ..Lease::default() };
    let taught = try_load(text, false, json!({}), lease).expect("loads");
    assert_gives_way_to_sockets(encode(&taught, &asked("loop"))).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_nothing_behind() {
    let text = format!("local encoded = 0 {PLAIN} local plain = encode
        function encode(ask) encoded += 1 if ask.messages[1].blocks[1].text == 'loop' then while true do end end return {{ path = '/' .. encoded }} end");
    let taught =
        try_load(&text, false, json!({}), Lease { cpu: Duration::from_secs(60), ..Lease::default() }).expect("loads");
    let path = async || encode(&taught, &asked("well")).await.expect("encodes").path;
    assert_eq!((path().await, path().await), ("/1".to_owned(), "/2".to_owned()), "the same machine");
    let gone = tokio::time::timeout(Duration::from_millis(20), encode(&taught, &asked("loop"))).await;
    assert!(gone.is_err(), "the client left");
    assert_eq!(path().await, "/1", "a new machine");
}

#[test]
fn a_machine_is_small() {
    let taught = streaming(Lease::default());
    let warm = super::machine::at_once(taught.fresh()).expect("starts");
    let bytes = crate::guest::pool::Rests::memory(&warm);
    assert!((1..1 << 20).contains(&bytes), "{bytes} bytes");
}

#[tokio::test]
async fn a_script_reaches_nobody() {
    let taught = load(
        "function encode(ask)
             for _, name in { 'cache', 'kv', 'limit', 'targets', 'cost', 'http', 'llm', 'secret', 'metrics', 'trace', 'reject' } do
                 if rawget(gw, name) ~= nil then error(name .. ' is there') end
             end
             if rawget(gw.time, 'sleep') or coroutine then error('it could wait') end
             local ok = pcall(require, 'x')
             if ok or not gw.json or not gw.re or not gw.hash or not gw.log or not gw.rand then error('too little') end
             gw.log.debug('here')
             GLOBAL = (GLOBAL or 0) + 1
         end
         function decode() end",
    );
    let fault = encode(&taught, &asked("x")).await.expect_err("globals are read-only");
    assert!(fault.source.clone().unwrap_or_default().contains("readonly"), "{:?}", fault.source);
}

#[test]
fn a_script_that_could_not_serve_is_not_loaded() {
    let refused = |text: &str, framing: bool| try_load(text, framing, json!({ "a": 1 }), tight()).expect_err(text);
    let has = |text: &str, framing: bool, why: &str| {
        let said = refused(text, framing);
        assert!(said.contains(why), "{said}");
    };
    has("function encode() end", false, "test.luau: has no function `decode`");
    has(
        "return { encode = function() end, decode = function() end, deocder = 1 }",
        false,
        "an adapter has no `deocder`",
    );
    has("return 1", false, "returns a integer; return nothing");
    has("local x = = 1", false, "test.luau:1:");
    has(PLAIN, true, "has a `framing`, and no function `decoder`");
    has(STREAM, false, "framing = \"lines\"");
    has(&format!("{PLAIN}\nfunction on_init(config) error('no key `b`') end"), false, "test.luau:5: no key `b`");
    has(&format!("{PLAIN}\nerror('as told')"), false, "test.luau:5: as told");
    has("while true do end", false, "used up its 300ms of processor time");
    let policy = Taught::load("p", Arc::new(stand::bundle(PLAIN)), json!({}), tight()).expect_err("a policy");
    assert!(policy.contains("its manifest has no `[adapter]`"), "{policy}");
}

#[test]
fn a_manifest_says_what_a_script_is() {
    let read = |text: &str| toml::from_str::<crate::guest::Manifest>(text).map_err(|error| error.message().to_owned());
    let manifest = read("[adapter]\noperations = ['chat']\nauth = { header = 'x-key' }").expect("reads");
    let adapter = manifest.adapter.clone().expect("an adapter");
    assert_eq!(adapter.auth, crate::guest::adapter::AuthKind::Header("x-key".into()));
    manifest.check().expect("is sound");
    let wrong = |text: &str| read(text).and_then(|manifest| manifest.check()).expect_err(text);
    assert!(wrong("guard = true\n[adapter]\noperations = ['chat']").contains("keys of policies"));
    assert!(wrong("[adapter]\noperations = []").contains("names no operation"));
    assert!(wrong("[adapter]\noperations = ['sing']").contains("unknown variant `sing`"));
    assert!(wrong("[adapter]\noperations = ['chat']\nframing = 'frames'").contains("unknown variant"));
}
