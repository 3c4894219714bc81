//! What becomes of verdicts that refuse, fail or cannot be done: who pays, who is blamed, and for how long.

use std::fs;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses, Turn};
use super::policies::with;
use super::support::{Folder, Gateway, Mock, together};
use super::wire::{Conn, Reply, request};

/// Three nano-dollars in, 7.5 out for each token, times a thousand.
const PRICES: &str = "prices:
  models:
    chat/mock-fast: { input: 3, output: 7.50 }
    responses/mock-fast: { input: 3, output: 7.50 }
    anthropic/mock-fast: { input: 3, output: 7.50 }
    gemini/mock-fast: { input: 3, output: 7.50 }
";

async fn said(gateway: &Gateway, from: Dialect, model: &str, stream: bool) -> (Reply, Value) {
    let reply = gateway.post(&from.path(model, stream), from.ask(model, stream, Turn::Text, "Hello you")).await;
    let line = gateway.logged(reply.head.id()).await;
    (reply, line)
}

/// Input and output tokens of a log line.
fn usage(line: &Value) -> (u64, u64) {
    let count = |name: &str| line["usage"][name].as_u64().unwrap_or_default();
    (count("input"), count("output"))
}

fn cost(line: &Value) -> f64 {
    line["cost_usd"].as_f64().unwrap_or_default()
}

#[tokio::test]
async fn an_answer_that_a_policy_refuses_was_paid_for() {
    let mock = Mock::start().await;
    let policy = "function on_answer(a, ctx)
        local how = gw.config.how
        if how == 'reject' then return gw.reject('no', 'Not this.') end
        if how == 'fail' then error('boom') end
        if how == 'say' then return gw.say('Something else.') end
      end
      function on_done(d) return { input = d.input_tokens, output = d.output_tokens } end";
    let policy = format!(
        "--[[manifest\nversion = \"1.0\"\nguard = true\n[config.properties.how]\ntype = \"string\"\n]]\n{policy}"
    );
    for (how, status) in [("reject", 403), ("fail", 500), ("say", 200)] {
        let hook = format!(
            "hooks: [{{ lua: judge, config: {{ how: {how} }}, on: {{ models: [judged] }} }}]
models:
  judged: chat/mock-fast
{PRICES}"
        );
        let gateway = with(&mock, &[("judge", &policy)], &hook).await;
        for from in ALL {
            for stream in [false, true] {
                let what = format!("{how} {from:?} {stream}");
                let (_, plain) = said(&gateway, from, "chat/mock-fast", stream).await;
                let (reply, line) = said(&gateway, from, "judged", stream).await;
                assert_eq!(reply.status(), status, "{what}: {}", reply.text());
                let (input, output) = usage(&line);
                assert_eq!(
                    (line["policy"]["input"].as_u64(), line["policy"]["output"].as_u64()),
                    (Some(input), Some(output))
                );
                assert!(cost(&line) > 0.0 && line["cost_usd"] != 0, "{what}: {line}");
                if stream {
                    // What the stream had used by then: what it had said of it, or an estimate.
                    assert!(input > 0 && output > 0, "{what}: {line}");
                } else {
                    assert_eq!((input, output), usage(&plain), "{what}: {line}");
                    assert_eq!(line["cost_usd"], plain["cost_usd"], "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_a_policy_looks_at_when_the_client_leaves_was_paid_for() {
    let mock = Mock::start().await;
    let policy = "function on_answer(a)
        if a.target == 'chat/mock-fast' then gw.llm.ask({ model = 'judge', prompt = 'Good?' }) end
      end";
    let yaml = format!(
        "hooks: [{{ lua: judge, on: {{ models: [judged] }}, grants: {{ models: [judge] }} }}]
models: {{ judged: chat/mock-fast, judge: 'chat/mock-smart:head=60s,key=thinks' }}
limits: [{{ name: t, match: {{ model: judged }}, tokens: 100k / 1h, algorithm: fixed }}]
store: {{ path: off }}
{PRICES}"
    );
    let gateway = with(&mock, &[("judge", policy)], &yaml).await;
    let (_, plain) = said(&gateway, Chat, "chat/mock-fast", false).await;
    let mut conn = Conn::open(gateway.address).await;
    let ask = Chat.ask("judged", false, Turn::Text, "Hello you");
    conn.send(&request("POST", &Chat.path("judged", false), &[], &ask)).await;
    mock.seen("key=thinks", |_| true).await;
    drop(conn);
    let line = gateway.logged_where("judged", |line| line["model"] == "judged").await;
    assert_eq!(line["error"]["code"], "client_gone", "{line}");
    assert_eq!((usage(&line), &line["cost_usd"]), (usage(&plain), &plain["cost_usd"]), "{line}");
    gateway.settled().await;
    let state = gateway.admin("GET", "/admin/limits").await.json();
    let window = &state["rules"][0]["fullest"][0]["windows"][0];
    let (input, output) = usage(&plain);
    assert_eq!((window["used"].as_u64(), window["reserved"].as_u64()), (Some(input + output), Some(0)), "{state}");
}

#[tokio::test]
async fn refused_answers_are_charged_to_limits_and_each_try_is_paid_for() {
    let mock = Mock::start().await;
    let policy = "function on_answer(a)
        if a.target == 'chat/mock-fast' then return gw.fault('not good enough') end
        if a.target == 'gemini/mock-fast' then return gw.reject('no', 'Not this.') end
      end";
    let yaml = format!(
        "hooks: [{{ lua: judge, on: {{ models: [two, one] }} }}]
models: {{ two: {{ fallback: [chat/mock-fast, anthropic/mock-fast] }}, one: gemini/mock-fast }}
limits: [{{ name: t, match: {{ model: one }}, tokens: 4000 / 1h, algorithm: fixed }}]
store: {{ path: off }}
{PRICES}"
    );
    let gateway = with(&mock, &[("judge", policy)], &yaml).await;
    let (_, first) = said(&gateway, Chat, "chat/mock-fast", false).await;
    let (_, second) = said(&gateway, Chat, "anthropic/mock-fast", false).await;
    let (reply, both) = said(&gateway, Chat, "two", false).await;
    assert_eq!((reply.status(), reply.head.attempts()), (200, 2), "{}", reply.text());
    let sum = |pair: ((u64, u64), (u64, u64))| (pair.0.0 + pair.1.0, pair.0.1 + pair.1.1);
    assert_eq!(usage(&both), sum((usage(&first), usage(&second))), "{both}");
    assert!((cost(&both) - cost(&first) - cost(&second)).abs() < 1e-12, "{both}");
    let (reply, line) = said(&gateway, Chat, "one", false).await;
    assert_eq!(reply.status(), 403, "{}", reply.text());
    assert!(usage(&line).1 > 0, "{line}");
    gateway.settled().await;
    let state = gateway.admin("GET", "/admin/limits").await.json();
    let (input, output) = usage(&line);
    assert_eq!(state["rules"][0]["fullest"][0]["windows"][0]["used"], input + output, "{state}");
}

#[tokio::test]
async fn a_stream_that_a_policy_stops_was_paid_for() {
    let mock = Mock::start().await;
    let head = "--[[manifest\nstream = \"event\"\n]]\n";
    let hard = format!("{head}function on_event(e) return gw.stop{{ message = 'Not this.' }} end");
    let soft = format!("{head}function on_event(e) return gw.stop{{ text = 'Enough.' }} end");
    let held = head.replace("event", "buffer") + "function on_event(e) error('boom') end";
    let yaml = format!(
        "hooks:
  - {{ lua: hard, on: {{ models: [hard] }} }}
  - {{ lua: soft, on: {{ models: [soft] }} }}
  - {{ lua: held, on: {{ models: [held] }}, fail: closed }}
models: {{ hard: chat/mock-fast, soft: chat/mock-fast, held: chat/mock-fast }}
{PRICES}"
    );
    let gateway = with(&mock, &[("hard", &hard), ("soft", &soft), ("held", &held)], &yaml).await;
    for from in ALL {
        for model in ["hard", "soft", "held"] {
            let (reply, line) = said(&gateway, from, model, true).await;
            let (input, output) = usage(&line);
            assert!(input > 0 && output > 0, "{from:?} {model}: {line}\n{}", reply.text());
            assert!(cost(&line) > 0.0, "{from:?} {model}: {line}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_a_failure_like_any_other() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        if req.model == 'chat/texts' then return { texts = { [99] = 'x' } } end
        if req.model == 'chat/turns' then return { messages = { 7 } } end
        if req.model == 'chat/stream' then return { params = { stream = true } } end
        if req.model == 'chat/said' then
            return { respond = { say = 'x', headers = { ['content-type'] = 'text/plain' } } }
        end
        if req.model == 'chat/header' then return gw.respond(200, 'x', { ['content-length'] = '7' }) end
      end
      function on_answer(a)
        if a.target == 'chat/answer' then return { headers = { ['x-one'] = '1', ['content-length'] = '7' } } end
        if a.target == 'chat/type' then return { headers = { ['Content-Type'] = 'text/plain' } } end
      end";
    let places = [
        ("chat/texts", "request", "texts[99]"),
        ("chat/turns", "request", "turns, not 7"),
        ("chat/stream", "request", "`stream` is no parameter"),
        ("chat/header", "request", "`content-length` is the gateway's"),
        ("chat/answer", "answer", "`content-length` is the gateway's"),
        ("chat/type", "answer", "`content-type` is the gateway's"),
        ("chat/said", "request", "`content-type` is the gateway's"),
    ];
    for (fail, status) in [("open", 200), ("default", 200), ("closed", 500)] {
        let yaml = format!("hooks: [{{ lua: odd, fail: {fail}, budget: {{ cpu: 2s }} }}]\n");
        let gateway = with(&mock, &[("odd", policy)], &yaml).await;
        for (model, phase, why) in places {
            let (reply, line) = said(&gateway, Chat, model, false).await;
            assert_eq!(reply.status(), status, "{fail} {model}: {}", reply.text());
            assert_eq!(reply.head.header("x-one"), None);
            let guests = gateway.admin("GET", "/admin/guests").await.json();
            let seen = &guests["guests"][0];
            assert!(seen["last_error"].as_str().is_some_and(|error| error.contains(why)), "{model}: {seen}");
            assert!(seen["phases"][phase]["error"].as_u64() > Some(0), "{model}: {seen}");
            if status == 500 {
                assert_eq!(line["error"]["code"], "policy_failed", "{line}");
                assert!(reply.text().contains(&format!("failed in on_{phase}")), "{}", reply.text());
            }
        }
    }
}

#[tokio::test]
async fn of_a_stream_only_the_headers_can_be_changed_and_nobody_else_is_blamed() {
    let mock = Mock::start().await;
    let policy = "function on_answer(a)
        local model = a:request().model
        if model == 'text' then return { text = 'Edited.' } end
        if model == 'texts' then return { texts = { 'Edited.' } } end
        return { body = { x = 1 } }
      end";
    let yaml = "hooks: [{ lua: edit, fail: closed }]
models: { text: chat/mock-fast, texts: chat/mock-fast, body: chat/mock-fast }\n";
    let gateway = with(&mock, &[("edit", policy)], yaml).await;
    for model in ["text", "texts", "body"] {
        let (reply, line) = said(&gateway, Chat, model, true).await;
        assert_eq!((reply.status(), reply.head.attempts()), (500, 1), "{model}: {}", reply.text());
        assert_eq!(line["error"]["code"], "policy_failed", "{line}");
        assert!(line["error"]["source"].as_str().is_some_and(|why| why.contains("of a stream only headers")), "{line}");
    }
    let targets = gateway.admin("GET", "/admin/targets").await.json();
    let text = targets.to_string();
    assert!(!text.contains("bad_upstream_answer"), "{text}");
}

#[tokio::test]
async fn one_caller_among_others_does_not_switch_a_policy_off_and_an_exchange_counts_once() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\nstream = \"event\"\n]]
      function on_request(req) if req.model == 'chat/odd' then error('boom') end end
      function on_event(e) error('boom') end";
    let yaml = "hooks: [{ lua: touchy, budget: { cpu: 2s } }]\n";
    let gateway = with(&mock, &[("touchy", policy)], yaml).await;
    let off = async || gateway.metric("portcullis_guest_switched_off_total{guest=\"touchy\"}").await;
    // One stream of many events is one exchange.
    let (reply, _) = said(&gateway, Chat, "chat/mock-fast", true).await;
    assert_eq!(reply.status(), 200);
    let failed =
        gateway.metric("portcullis_guest_calls_total{guest=\"touchy\",phase=\"event\",outcome=\"error\"}").await;
    assert!(failed >= Some(2.0), "{failed:?}");
    together((0..30).map(|_| said(&gateway, Chat, "chat/even", false))).await;
    for _ in 0..14 {
        said(&gateway, Chat, "chat/odd", false).await;
    }
    assert_eq!(off().await, Some(0.0));
    // When most of them fail, it is switched off.
    together((0..40).map(|_| said(&gateway, Chat, "chat/odd", false))).await;
    assert_eq!(off().await, Some(1.0));
}

#[tokio::test]
async fn a_policy_waits_no_longer_than_its_exchange_may_take() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\nversion = \"1.0\"\n[config.properties.at]\ntype = \"string\"\n]]
      local function wait(phase) if gw.config.at == phase then pcall(gw.time.sleep, 20000) end end
      function on_request(req) wait('request') end
      function on_route(req) wait('route') end
      function on_fault(f) wait('fault') end
      function on_answer(a) wait('answer') end";
    for at in ["request", "route", "fault", "answer"] {
        let yaml =
            format!("timeouts: {{ total: 700ms }}\nhooks: [{{ lua: slow, config: {{ at: {at} }}, fail: open }}]\n");
        let gateway = with(&mock, &[("slow", policy)], &yaml).await;
        let model = if at == "fault" { "chat/mock-fast:fault=500" } else { "chat/mock-fast" };
        let began = Instant::now();
        let (reply, line) = said(&gateway, Chat, model, false).await;
        let took = began.elapsed().as_millis();
        assert_eq!((reply.status(), &line["error"]["code"]), (504, &json!("total_timeout")), "{at}: {}", reply.text());
        assert!((650..10_000).contains(&took), "{at}: {took} ms");
        if at == "answer" {
            assert!(usage(&line).1 > 0, "it was paid for: {line}");
        }
    }
}

#[tokio::test]
async fn last_words_end_a_stream_as_the_model_would() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\nstream = \"event\"\n]]
      function on_event(e, ctx)
        if ctx:get('seen') then return gw.stop{ text = ' Enough.' } end
        ctx:set('seen', true)
      end";
    let gateway = with(&mock, &[("soft", policy)], "hooks: [{ lua: soft }]\n").await;
    for from in ALL {
        for to in ALL {
            let model = format!("{}/mock-fast", to.account());
            let (reply, line) = said(&gateway, from, &model, true).await;
            let text = reply.text();
            let mark = match from {
                Chat => "\"finish_reason\":\"stop\"",
                Anthropic => "\"stop_reason\":\"end_turn\"",
                Responses => "\"type\":\"response.completed\"",
                Gemini => "\"finishReason\":\"STOP\"",
            };
            assert!(text.contains(" Enough."), "{from:?} {to:?}: {text}");
            assert!(text.replace("\": ", "\":").contains(mark), "{from:?} {to:?}: {text}");
            assert_eq!(line["finish"], "stop", "{from:?} {to:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_of_the_class_that_its_status_is_of() {
    let mock = Mock::start().await;
    let policy = "local function refuse(head)
        local status = tonumber(head:header('x-status'))
        return gw.reject('my_code', 'My words.', status, 3000)
      end
      function on_auth(head) if head:header('x-at') == 'auth' then return refuse(head) end end
      function on_request(req) if req:header('x-at') == 'request' then return refuse(req) end end";
    let gateway = with(&mock, &[("no", policy)], "hooks: [{ lua: no }]\n").await;
    for (at, status, openai, anthropic, gemini, again) in [
        ("auth", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", "false"),
        ("auth", 403, "permission_error", "permission_error", "PERMISSION_DENIED", "false"),
        ("auth", 429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED", "true"),
        ("auth", 503, "server_error", "overloaded_error", "UNAVAILABLE", "true"),
        ("request", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", "false"),
        ("request", 404, "invalid_request_error", "not_found_error", "NOT_FOUND", "false"),
        ("request", 422, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", "false"),
        ("request", 403, "invalid_request_error", "permission_error", "PERMISSION_DENIED", "false"),
        ("request", 429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED", "true"),
        ("request", 500, "server_error", "api_error", "INTERNAL", "false"),
    ] {
        for from in ALL {
            let number = status.to_string();
            let headers = [("content-type", "application/json"), ("x-at", at), ("x-status", &number)];
            let body = from.ask("chat/m", false, Turn::Text, "Hi");
            let reply = gateway.call("POST", &from.path("chat/m", false), &headers, body).await;
            let what = format!("{at} {status} {from:?}: {}", reply.text());
            assert_eq!(reply.status(), status, "{what}");
            let error = &reply.json()["error"];
            assert_eq!(error["message"], "My words.", "{what}");
            let (key, class) = match from {
                Anthropic => ("type", anthropic),
                Gemini => ("status", gemini),
                _ => ("type", openai),
            };
            assert_eq!(error[key], class, "{what}");
            assert_eq!(reply.head.header("x-should-retry"), Some(again), "{what}");
        }
    }
}

#[tokio::test]
async fn a_policy_asks_the_models_of_its_grants_whatever_the_callers_key_may() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        if req.model == 'judge' then return end
        local ok, answer = pcall(gw.llm.ask, { model = 'judge', prompt = 'Good?', models = req:header('x-more') and { 'other' } or nil })
        if not ok then return gw.reject('judge', tostring(answer), 400) end
      end";
    let yaml = "hooks: [{ lua: judge, grants: { models: [judge] }, budget: { cpu: 2s } }]
keys: [{ name: c, key: sk-c, models: [smart] }]
models: { smart: chat/mock-fast, judge: chat/mock-fast, other: chat/mock-fast }\n";
    let gateway = with(&mock, &[("judge", policy)], yaml).await;
    let asks = async |model: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("content-type", "application/json"), ("authorization", "Bearer sk-c")];
        headers.extend_from_slice(more);
        gateway.call("POST", "/v1/chat/completions", &headers, Chat.ask(model, false, Turn::Text, "Hi")).await
    };
    let reply = asks("smart", &[]).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(mock.journal().await.len(), 2);
    // The caller itself may not, and neither may the policy go further than its grants.
    assert_eq!(asks("judge", &[]).await.status(), 403);
    let reply = asks("smart", &[("x-more", "1")]).await;
    assert!(reply.status() == 400 && reply.text().contains("may not use the model"), "{}", reply.text());
}

#[tokio::test]
async fn of_a_conversation_that_is_named_a_share_is_all_or_nothing() {
    let mock = Mock::start().await;
    let policy = "function on_route() return { 'chat/moved' } end";
    let gateway = with(&mock, &[("move", policy)], "hooks: [{ lua: move, share: 50% }]\n").await;
    let mut moved = 0;
    for session in 0..16 {
        let name = format!("conversation {session}");
        let headers = [("content-type", "application/json"), ("x-portcullis-session", &name)];
        let named = format!(
            "{{\"model\":\"chat/m\",\"session_id\":\"{name}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}"
        );
        let mut went = Vec::new();
        for _ in 0..3 {
            let body = Chat.ask("chat/m", false, Turn::Text, "Hi");
            went.push(gateway.call("POST", "/v1/chat/completions", &headers, body).await);
            went.push(gateway.post("/v1/chat/completions", &named).await);
        }
        let went: Vec<bool> =
            went.iter().map(|reply| reply.head.header("x-portcullis-model") == Some("moved")).collect();
        assert!(went.iter().all(|one| *one == went[0]), "{name}: {went:?}");
        moved += usize::from(went[0]);
    }
    assert!((1..16).contains(&moved), "{moved} of 16");
}

#[tokio::test]
async fn what_a_hook_is_attached_to_must_be_there() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/auth.luau", "function on_auth(head) end\nfunction on_request(req) end");
    folder.write("scripts/look.luau", "function on_request(req) end");
    folder.write("scripts/ticks.luau", "function on_tick() end");
    let check = |hooks: &str| {
        let text = format!(
            "hooks_dir: {}\n{hooks}\nkeys: [{{ name: k, key: sk-k, project: p }}]\nproviders: {{ a: {{ base_url: 'http://127.0.0.1:1/v1', dialect: openai_chat, api_key: x }}, b: {{ base_url: 'http://127.0.0.1:1/v1', dialect: openai_chat, api_key: x }} }}\nmodels: {{ smart: a/m }}\n",
            folder.path("scripts").display()
        );
        let path = folder.write("p.yaml", &text);
        let output = super::support::portcullis().arg("check").arg(path).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    for on in ["models: [smart]", "keys: [k]", "projects: [p]"] {
        let (good, said) = check(&format!("hooks: [{{ lua: auth, on: {{ {on} }} }}]"));
        assert!(!good && said.contains("hooks.auth: has on_auth and is attached with `on`"), "{on}: {said}");
    }
    let (good, said) = check(
        "hooks:
  - { lua: auth }
  - { lua: look, on: { models: [smart, 'sm*', a/x, 'b/*', '*-mini', '*'], keys: [k, '*'], projects: [p] }, grants: { models: [smart, a/x] } }",
    );
    assert!(good && !said.contains("is called"), "{said}");
    let (good, said) = check(
        "hooks:
  - { lua: look, on: { models: [smrt, 'smrt*', c/x], keys: [k2], projects: [zz] }, grants: { models: [nope] } }
  - { lua: ticks }",
    );
    assert!(good, "{said}");
    for line in [
        "hooks.look: on.models: no model is called `smrt`",
        "hooks.look: on.models: no model is called `smrt*`",
        "hooks.look: on.models: no model is called `c/x`",
        "hooks.look: on.keys: no key is called `k2`",
        "hooks.look: on.projects: no project of a key is called `zz`",
        "hooks.look: grants.models: no model is called `nope`",
        "hooks.ticks: has on_tick, but its manifest says no `tick`",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test]
async fn a_stream_leaves_room_in_the_trace() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\nstream = \"event\"\n]]
      function on_event(e) if e.kind == 'text' then return e.text .. '!' end end
      function on_done(d) gw.trace.note({ last = true }) end";
    let gateway = with(
        &mock,
        &[("loud", policy)],
        "hooks: [{ lua: loud }]\nlog: { stdout: off, file: FOLDER/access.log, trace: true }\n",
    )
    .await;
    let (_, line) = said(&gateway, Chat, "chat/mock-fast", true).await;
    let events = line["trace"].to_string().matches(r#""phase":"event""#).count();
    assert_eq!(events, 1, "{line}");
}

#[tokio::test]
async fn what_one_policy_says_passes_the_answer_guards_of_the_others_and_not_its_own() {
    let mock = Mock::start().await;
    let speaker = "--[[manifest\nversion = \"1.0\"\n[config.properties.at]\ntype = \"string\"\n]]
        local function say(at) if gw.config.at == at then return gw.say('The key is SECRET-42.') end end
        function on_request() return say('request') end
        function on_route() return say('route') end
        function on_fault() return say('fault') end
        function on_answer(a)
            if not a.stream and a.target == '' then return gw.reject('again', 'It was asked of its own words.') end
            return say('answer')
        end";
    let redactor = "--[[manifest\nguard = true\nstream = \"buffer\"\n]]
        local function clean(text) return (gw.re.replace('SECRET-[0-9]+', text, '[gone]')) end
        function on_answer(a)
            if a.stream then return end
            local texts = {}
            for _, text in a:texts() do texts[text.index] = clean(text.text) end
            return { texts = texts }
        end
        function on_event(e) return clean(e.text) end";
    for (at, model) in
        [("request", "mock-fast"), ("route", "mock-fast"), ("fault", "mock-fast:fault=500"), ("answer", "mock-fast")]
    {
        for order in [
            "{ lua: speaker, config: { at: AT } }, { lua: redactor }",
            "{ lua: redactor }, { lua: speaker, config: { at: AT } }",
        ] {
            let hooks = format!("hooks: [{}]\n", order.replace("AT", at));
            let gateway = with(&mock, &[("speaker", speaker), ("redactor", redactor)], &hooks).await;
            for from in ALL {
                for stream in [false, true] {
                    let model = format!("chat/{model}");
                    let reply =
                        gateway.post(&from.path(&model, stream), from.ask(&model, stream, Turn::Text, "Hello")).await;
                    let told = format!("{at} {hooks} {from:?} {stream}: {}", reply.text());
                    assert_eq!(reply.status(), 200, "{told}");
                    assert!(reply.text().contains("[gone]") && !reply.text().contains("SECRET"), "{told}");
                }
            }
        }
    }
}
