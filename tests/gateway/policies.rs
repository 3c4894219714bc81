//! Policies as they meet requests: every phase against the real gateway, hot loading, failure, and going back.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Folder, Gateway, Mock, SOON, portcullis, together};
use super::upstream::Upstream;
use super::wire::Reply;

/// A gateway with these policies by name, and whatever else `yaml` says.
pub async fn with(mock: &Mock, policies: &[(&str, &str)], yaml: &str) -> Gateway {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("scripts")).expect("a folder");
    for (name, text) in policies {
        folder.write(&format!("scripts/{name}.luau"), text);
    }
    Gateway::prepared(folder, mock, yaml).await
}

async fn ask(gateway: &Gateway, model: &str, stream: bool) -> Reply {
    gateway.post("/v1/chat/completions", Chat.ask(model, stream, Turn::Text, "Hello")).await
}

fn went_to(reply: &Reply) -> String {
    let header = |name| reply.head.header(name).unwrap_or_default();
    format!("{}/{}", header("x-portcullis-provider"), header("x-portcullis-model"))
}

#[tokio::test]
async fn a_route_hook_chooses_the_target_and_a_request_hook_the_model() {
    let mock = Mock::start().await;
    let route = "function on_route(req) if req.stream then return { 'chat/streams' } end end";
    let tiers = "--[[manifest\nversion = \"1.0\"\n[config.properties.gold]\ntype = \"string\"\n]]\n\
                 function on_request(req) if req:header('x-tier') == 'gold' then return { model = gw.config.gold } end end";
    let yaml = "hooks: [{ lua: route }, { lua: tiers, on: { models: [plain] }, config: { gold: anthropic/best } }]\n\
                models: { plain: chat/plain }\n";
    let gateway = with(&mock, &[("route", route), ("tiers", tiers)], yaml).await;
    assert_eq!(went_to(&ask(&gateway, "plain", false).await), "chat/plain");
    assert_eq!(went_to(&ask(&gateway, "plain", true).await), "chat/streams");
    let gold = [("content-type", "application/json"), ("x-tier", "gold")];
    let reply = gateway.call("POST", "/v1/chat/completions", &gold, Chat.ask("plain", false, Turn::Text, "Hi")).await;
    assert_eq!(went_to(&reply), "anthropic/best");
    let reply = gateway.call("POST", "/v1/chat/completions", &gold, Chat.ask("chat/x", false, Turn::Text, "Hi")).await;
    assert_eq!(went_to(&reply), "chat/x");
}

#[tokio::test]
async fn answers_and_refusals_of_policies_come_in_every_dialect() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        if req.model == 'chat/say' then return gw.say('Closed today.') end
        if req.model == 'chat/no' then return gw.reject('closed_today', 'We are closed.', 451) end
      end";
    let gateway = with(&mock, &[("closed", policy)], "hooks: [{ lua: closed }]\n").await;
    for dialect in ALL {
        for stream in [false, true] {
            let reply = gateway
                .post(&dialect.path("chat/say", stream), dialect.ask("chat/say", stream, Turn::Text, "Hi"))
                .await;
            assert_eq!(reply.status(), 200, "{dialect:?} {stream}: {}", reply.text());
            assert!(reply.text().contains("Closed today."), "{dialect:?} {stream}: {}", reply.text());
        }
        let reply =
            gateway.post(&dialect.path("chat/no", false), dialect.ask("chat/no", false, Turn::Text, "Hi")).await;
        assert_eq!(reply.status(), 451, "{dialect:?}");
        assert!(reply.text().to_lowercase().contains("closed_today"), "{dialect:?}: {}", reply.text());
    }
    assert!(mock.journal().await.is_empty());
}

#[tokio::test]
async fn an_edited_conversation_reaches_the_upstream_and_the_rest_stays() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        local texts = {}
        for _, t in req:texts() do texts[t.index] = (gw.re.replace('Hello', t.text, 'Goodbye')) end
        return { texts = texts, params = { temperature = 0.25, seed = gw.null } }
      end";
    let gateway = with(&mock, &[("edit", policy)], "hooks: [{ lua: edit }]\n").await;
    for dialect in ALL {
        let body = dialect.ask("chat/m", false, Turn::Text, "Hello you");
        assert_eq!(gateway.post(&dialect.path("chat/m", false), body).await.status(), 200, "{dialect:?}");
        let sent = mock.last().await["body"].to_string();
        assert!(sent.contains("Goodbye you") && !sent.contains("Hello you"), "{dialect:?}: {sent}");
    }
    let body = r#"{"model":"chat/m","seed":7,"odd":1.50,"messages":[{"role":"user","content":"Hello"}]}"#;
    gateway.post("/v1/chat/completions", body).await;
    let sent = mock.last().await["body"].as_str().expect("a body").to_owned();
    assert!(sent.contains("\"odd\":1.50") && sent.contains("\"temperature\":0.25") && !sent.contains("seed"), "{sent}");
}

#[tokio::test]
async fn a_fault_hook_is_a_fallback_of_ones_own() {
    let mock = Mock::start().await;
    let policy = "function on_fault(f, ctx)
        if f.kind == 'content_policy' then return { 'anthropic/mild' } end
        if f.kind == 'rate_limited' then return gw.say('Busy, ask later.') end
        if f.kind == 'upstream_error' and not ctx:get('again') then ctx:set('again', true) return gw.same(10) end
        return 'stop'
      end";
    let gateway = with(&mock, &[("fallback", policy)], "hooks: [{ lua: fallback }]\n").await;
    let reply = ask(&gateway, "chat/mock-fast:fault=policy", false).await;
    assert_eq!((reply.status(), went_to(&reply)), (200, "anthropic/mild".to_owned()), "{}", reply.text());
    let reply = ask(&gateway, "chat/mock-fast:fault=429", false).await;
    assert!(reply.status() == 200 && reply.text().contains("Busy, ask later."), "{}", reply.text());
    let reply = ask(&gateway, "chat/mock-fast:fault=500", false).await;
    assert_eq!((reply.status(), reply.head.attempts()), (500, 2), "{}", reply.text());
}

#[tokio::test]
async fn fields_that_policies_name_alike_are_all_in_the_log() {
    let mock = Mock::start().await;
    let policies = [
        ("p", "function on_done() return { verdict = 'p', more = 1 } end"),
        ("q", "function on_done() return { verdict = 'q' } end"),
    ];
    let gateway = with(&mock, &policies, "hooks: [{ lua: p }, { lua: q }]\n").await;
    let reply = ask(&gateway, "chat/one", false).await;
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    assert_eq!(line["policy"], json!({ "verdict": "p", "more": 1, "q.verdict": "q" }), "{line}");
}

/// With limits the plan is made before the first policy is called.
#[tokio::test]
async fn where_every_target_is_out_policies_are_asked_also_behind_limits() {
    let mock = Mock::start().await;
    let route = "function on_route(req) if req:header('x-tier') == 'gold' then return 'anthropic/spare' end end";
    let yaml = "hooks: [{ lua: route }]\nmodels: { smart: chat/lone }\n\
                prices: { models: { chat/lone: { input: 1, output: 1 } } }\n\
                limits: [{ name: daily, per: key, money: $100 / 1d }]\n";
    let gateway = with(&mock, &[("route", route)], yaml).await;
    assert_eq!(gateway.admin("POST", "/admin/targets/chat%2Flone/drain").await.status(), 200);
    let body = || Chat.ask("smart", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", "/v1/chat/completions", &[("x-tier", "gold")], body()).await;
    assert_eq!((reply.status(), went_to(&reply)), (200, "anthropic/spare".to_owned()), "{}", reply.text());
    let reply = gateway.post("/v1/chat/completions", body()).await;
    assert_eq!(reply.status(), 503, "{}", reply.text());
    let availability = &reply.json()["error"]["availability"];
    assert_eq!(availability["targets"][0]["removed_by"], "drained", "{availability}");
}

#[tokio::test]
async fn a_try_and_an_answer_can_be_patched_and_an_answer_refused() {
    let mock = Mock::start().await;
    let policy = "function on_attempt(try) return { headers = { ['x-try'] = tostring(try.number) }, params = { user = 'u' } } end
      function on_answer(a)
        if a.target == 'chat/bad' then return gw.fault('not good enough') end
        if not a.stream then return { text = 'Edited.', headers = { ['x-policy'] = 'seen' } } end
      end";
    let yaml = "hooks: [{ lua: patch }]\nmodels: { two: { fallback: [chat/bad, anthropic/good] } }\n";
    let gateway = with(&mock, &[("patch", policy)], yaml).await;
    for dialect in ALL {
        let reply = gateway.post(&dialect.path("two", false), dialect.ask("two", false, Turn::Text, "Hi")).await;
        assert_eq!((reply.status(), went_to(&reply)), (200, "anthropic/good".to_owned()), "{}", reply.text());
        assert!(reply.text().contains("Edited."), "{dialect:?}: {}", reply.text());
        assert_eq!(reply.head.header("x-policy"), Some("seen"));
        let headers = mock.last().await["headers"].clone();
        assert!(headers.as_array().expect("a list").contains(&json!(["x-try", "2"])), "{headers}");
    }
}

/// Holds a word back until it is whole, however it is cut, and replaces it.
const REDACT: &str = "--[[manifest\nguard = true\nstream = \"event\"\n]]
local function clean(s) return (gw.re.replace('(?i)[a-z]+', s, 'x')) end
function on_event(e, ctx)
  local key = e.choice .. '/' .. e.index
  local held = ctx:get(key) or ''
  if e.kind == 'end' then ctx:set(key, nil) return clean(held) end
  if e.kind ~= 'text' then return nil end
  local all = held .. e.text
  local cut = 0
  for _, m in gw.re.find('[^A-Za-z]', all) do cut = m.last end
  ctx:set(key, string.sub(all, cut + 1))
  return clean(string.sub(all, 1, cut))
end";

#[tokio::test]
async fn a_stream_is_edited_event_by_event_in_every_dialect() {
    let mock = Mock::start().await;
    let buffer = REDACT.replace("\"event\"", "\"buffer\"");
    // Time is not what is tested here: patterns are compiled by an unoptimised build on a busy machine.
    let yaml = "hooks: [{ lua: redact, budget: { cpu: 2s } }]\n";
    let gateway = with(&mock, &[("redact", REDACT)], yaml).await;
    let buffered = with(&mock, &[("redact", &buffer)], yaml).await;
    for from in ALL {
        for to in ALL {
            let model = format!("{}/mock-fast", to.account());
            for gateway in [&gateway, &buffered] {
                let reply = gateway.post(&from.path(&model, true), from.ask(&model, true, Turn::Text, "Hello")).await;
                let said = from.read_stream(&reply.text());
                assert_eq!(reply.status(), 200, "{from:?} {to:?}");
                assert!(!said.text.is_empty(), "{from:?} {to:?}: {}", reply.text());
                let words: Vec<&str> =
                    said.text.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
                assert!(words.iter().all(|word| *word == "x"), "{from:?} {to:?}: {}", said.text);
                assert!(said.error.is_none(), "{from:?} {to:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_guard_ends_a_stream_in_an_error_or_as_if_the_model_had_stopped() {
    let mock = Mock::start().await;
    let hard = "--[[manifest\nguard = true\nstream = \"event\"\n]]\nfunction on_event(e) return gw.stop{ message = 'Not this.', code = 'nope' } end";
    let soft = "--[[manifest\nstream = \"event\"\n]]\nfunction on_event(e) return gw.stop{ text = 'Enough.' } end";
    let yaml = "hooks: [{ lua: hard, on: { models: ['chat/hard'] } }, { lua: soft, on: { models: ['chat/soft'] } }]\n";
    let gateway = with(&mock, &[("hard", hard), ("soft", soft)], yaml).await;
    for from in ALL {
        let reply = gateway.post(&from.path("chat/hard", true), from.ask("chat/hard", true, Turn::Text, "Hi")).await;
        assert!(reply.text().contains("Not this."), "{from:?}: {}", reply.text());
        let reply = gateway.post(&from.path("chat/soft", true), from.ask("chat/soft", true, Turn::Text, "Hi")).await;
        let said = from.read_stream(&reply.text());
        assert_eq!((said.text.as_str(), said.error.is_none()), ("Enough.", true), "{from:?}: {}", reply.text());
    }
}

#[tokio::test]
async fn policies_run_by_priority_where_they_are_attached_and_see_what_those_before_made() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        return { params = { user = (req:param('user') or '') .. gw.config.word } }
      end";
    let yaml = "hooks:
  - { lua: word, name: last, config: { word: d } }
  - { lua: word, name: one, priority: 5, on: { keys: [a], models: ['chat/*'] }, config: { word: b } }
  - { lua: word, name: project, on: { projects: [p] }, priority: 5, config: { word: c } }
  - { lua: word, name: first, priority: 10, config: { word: a } }
  - { lua: word, name: never, on: { keys: [a], projects: [q] }, config: { word: x } }
keys: [{ name: a, key: sk-a, project: p }, { name: b, key: sk-b, project: q }]
";
    let gateway = with(&mock, &[("word", policy)], yaml).await;
    for (key, words) in [("sk-a", "abcd"), ("sk-b", "ad")] {
        let bearer = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let body = Chat.ask("chat/m", false, Turn::Text, "Hello");
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let sent = mock.last().await["body"].as_str().expect("a body").to_owned();
        assert!(sent.contains(&format!("\"user\":\"{words}\"")), "{key}: {sent}");
    }
}

/// As one that is attached to everything, which is there before anybody knows the model.
#[tokio::test]
async fn a_policy_of_one_model_sees_every_end_of_its_requests() {
    let mock = Mock::start().await;
    let policy =
        "--[[manifest\n[metrics.seen]\ntype = \"counter\"\nhelp = \"Exchanges\"\nlabels = [\"phase\", \"status\"]\n]]
      function on_request(req) gw.metrics.count('seen', 1, { phase = req.model }) end
      function on_done(d) gw.metrics.count('seen', 1, { phase = 'done', status = tostring(d.status) }) end";
    let mut seen = Vec::new();
    for on in ["", ", on: { models: [chat/mock-fast], keys: [a] }"] {
        let yaml = format!(
            "hooks: [{{ lua: seen{on} }}]
keys: [{{ name: a, key: sk-a }}]
routing: {{ request_policy: {{ sort: ignore }} }}
"
        );
        let gateway = with(&mock, &[("seen", policy)], &yaml).await;
        let headers = [("content-type", "application/json"), ("authorization", "Bearer sk-a")];
        let ask = |model: &str| Chat.ask(model, false, Turn::Text, "Hello");
        for (body, status) in [
            (ask("chat/mock-fast"), 200),
            (ask("chat/mock-fast:floor"), 200),
            (json!({"model": "chat/mock-fast", "messages": [], "models": 7}).to_string().into(), 400),
            (json!({"model": "chat/mock-fast", "messages": [], "stream": "yes"}).to_string().into(), 400),
        ] {
            let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
            assert_eq!(reply.status(), status, "{on}: {}", reply.text());
        }
        gateway.settled().await;
        let metrics = gateway.admin("GET", "/metrics").await.text();
        let mut lines: Vec<_> =
            metrics.lines().filter(|line| line.contains("seen_total{")).map(str::to_owned).collect();
        lines.sort();
        seen.push(lines);
    }
    assert_eq!(seen[0].len(), 3, "{seen:?}");
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn who_is_attached_to_a_model_stays_when_another_takes_its_place() {
    let mock = Mock::start().await;
    let policies = [
        ("move", "function on_request(req) if req.model == 'smart' then return { model = 'cheap' } end end"),
        (
            "guard",
            "--[[manifest\nguard = true\nstream = \"event\"\n]]
            function on_event(e) return string.rep(gw.config.sign, #e.text) end
            function on_answer(a) return { headers = { ['x-' .. gw.config.name] = '1' } } end
            function on_done() return { [gw.config.name] = true } end",
        ),
    ];
    let yaml = "models: { smart: chat/dear, cheap: chat/mock-fast }
hooks:
  - { lua: move, on: { models: [smart] } }
  - { lua: guard, name: first, on: { models: [smart] }, config: { name: first, sign: '*' } }
  - { lua: guard, name: second, on: { models: [cheap] }, config: { name: second, sign: '+' } }
  - { lua: guard, name: third, on: { models: [other] }, config: { name: third, sign: '-' } }
";
    let gateway = with(&mock, &policies, yaml).await;
    for (model, stream, guards) in
        [("smart", false, [true, true]), ("smart", true, [true, true]), ("cheap", false, [false, true])]
    {
        let reply = gateway.post(&Chat.path(model, stream), Chat.ask(model, stream, Turn::Text, "Hi")).await;
        if stream {
            let said = Chat.read_stream(&reply.text()).text;
            assert!(!said.is_empty() && said.chars().all(|letter| letter == '+'), "{said}");
        }
        let seen = ["x-first", "x-second"].map(|name| reply.head.header(name).is_some());
        assert_eq!(seen, guards, "{model} {stream}");
        let line = gateway.logged(reply.head.id()).await;
        let done = ["first", "second", "third"].map(|name| line["policy"][name] == json!(true));
        assert_eq!(done, [guards[0], guards[1], false], "{line}");
    }
}

#[tokio::test]
async fn a_policy_names_callers_and_sees_exchanges_end() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\n[metrics.seen]\ntype = \"counter\"\nhelp = \"Exchanges\"\nlabels = [\"project\"]
[metrics.long]\ntype = \"counter\"\nhelp = \"A label that is cut\"\nlabels = [\"text\"]\n]]
      function on_auth(head)
        local who = head:header('x-user')
        if who == 'mallory' then return gw.reject('banned', 'Not you.', 403) end
        if who then return { key = who, project = 'p', metadata = { tier = 'gold' }, models = { 'chat/*' } } end
      end
      function on_done(d)
        gw.metrics.count('seen', 1, { project = d.project or '' })
        gw.metrics.count('long', 1, { text = 'x' .. string.rep('ü', 100) })
        return { who = d.key, ok = d.ok, tokens = d.output_tokens, code = d.code }
      end";
    let yaml = "hooks: [{ lua: users }]\nkeys: [{ name: k, key: sk-one }]\n";
    let gateway = with(&mock, &[("users", policy)], yaml).await;
    let as_user = async |user: &str, model: &str| {
        let headers = [("content-type", "application/json"), ("x-user", user)];
        gateway.call("POST", "/v1/chat/completions", &headers, Chat.ask(model, false, Turn::Text, "Hi")).await
    };
    let good = as_user("alice", "chat/m").await;
    assert_eq!(good.status(), 200, "{}", good.text());
    let line = gateway.logged(good.head.id()).await;
    assert_eq!((&line["policy"]["who"], &line["policy"]["ok"]), (&json!("alice"), &json!(true)), "{line}");
    assert_eq!(as_user("alice", "anthropic/m").await.status(), 403);
    let banned = as_user("mallory", "chat/m").await;
    assert_eq!(banned.status(), 403);
    let line = gateway.logged(banned.head.id()).await;
    assert_eq!((&line["error"]["code"], &line["error"]["own_code"]), (&json!("invalid_credential"), &json!("banned")));
    assert_eq!(line["policy"]["code"], "banned", "{line}");
    assert_eq!(ask(&gateway, "chat/m", false).await.status(), 401);
    gateway.settled().await;
    let count = gateway.metric("portcullis_policy_seen_total{guest=\"users\",project=\"p\"}").await;
    assert_eq!(count, Some(2.0));
    // A label has 128 bytes, and no half of a character; exchanges that were refused are counted too.
    let cut = format!("portcullis_policy_long_total{{guest=\"users\",text=\"x{}\"}}", "ü".repeat(63));
    assert_eq!(gateway.metric(&cut).await, Some(4.0));
}

#[tokio::test]
async fn failures_cost_what_the_operator_says_and_are_seen() {
    let mock = Mock::start().await;
    let loops = "function on_request(req) while true do end end";
    let policies = [("open", loops), ("closed", loops)];
    let yaml = "hooks: [{ lua: open, on: { models: ['chat/open'] } }, { lua: closed, on: { models: ['chat/closed'] }, fail: closed }]\n";
    let gateway = with(&mock, &policies, yaml).await;
    assert_eq!(ask(&gateway, "chat/open", false).await.status(), 200);
    let refused = ask(&gateway, "chat/closed", false).await;
    assert_eq!((refused.status(), refused.json()["error"]["code"].clone()), (500, json!("policy_failed")));
    let guests = gateway.admin("GET", "/admin/guests").await.json();
    let open = &guests["guests"][0];
    assert_eq!((&open["name"], &open["phases"]["request"]["killed"]), (&json!("open"), &json!(1)), "{guests}");
    assert!(open["last_error"].as_str().is_some_and(|error| error.contains("raise `budget.")), "{guests}");
    // Again and again: then it is switched off, and asks no longer wait for it.
    for _ in 0..12 {
        assert_eq!(ask(&gateway, "chat/open", false).await.status(), 200);
    }
    let off = gateway.metric("portcullis_guest_switched_off_total{guest=\"open\"}").await;
    assert_eq!(off, Some(1.0));
    let others = ask(&gateway, "chat/other", false).await;
    assert_eq!(others.status(), 200);
}

#[tokio::test]
async fn shadow_decides_nothing_and_a_share_is_a_share() {
    let mock = Mock::start().await;
    let policy = "function on_route() return { 'chat/moved' } end";
    let yaml = "hooks: [{ lua: move, shadow: true, on: { models: ['chat/shadow'] } }, { lua: move, name: some, share: 30%, on: { models: ['chat/share'] } }]\n";
    let gateway = with(&mock, &[("move", policy)], yaml).await;
    assert_eq!(went_to(&ask(&gateway, "chat/shadow", false).await), "chat/shadow");
    let shadowed = "portcullis_guest_calls_total{guest=\"move\",phase=\"route\",outcome=\"shadow\"}";
    assert_eq!(gateway.metric(shadowed).await, Some(1.0));
    let replies = together((0..100).map(|_| ask(&gateway, "chat/share", false))).await;
    let moved = replies.iter().filter(|reply| went_to(reply) == "chat/moved").count();
    assert!((10..55).contains(&moved), "{moved} of 100");
}

/// Looks at answers whole and in pieces, steers, and would change all of it.
const SHADOW: &str = "--[[manifest\nstream = \"buffer\"\n]]
function on_request(req) return { params = { temperature = 2 } } end
function on_route(req) return { 'chat/moved' } end
function on_attempt(try) return { model = 'moved' } end
function on_answer(a) return { text = 'other' } end
function on_event(e) return 'other' end";

#[tokio::test]
async fn a_policy_in_shadow_leaves_the_cache_and_its_partitions_as_they_are() {
    let mock = Mock::start().await;
    let yaml = "keys: [{ name: one, key: sk-one }, { name: two, key: sk-two }]\n\
                cache: { exact: { ttl: 10m, partition: global } }\n\
                hooks: [{ lua: seen, shadow: true, budget: { cpu: 2s } }, { lua: seen, name: alone, budget: { cpu: 2s }, on: { models: ['chat/guarded'] } }]\n";
    let gateway = with(&mock, &[("seen", SHADOW)], yaml).await;
    let cached = async |model: &str, key: &str, stream: bool| {
        let headers = [("content-type", "application/json"), ("authorization", key)];
        let body = Chat.ask(model, stream, Turn::Text, "Hello");
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        reply.head.header("x-portcullis-cache").unwrap_or_default().to_owned()
    };
    let (one, two) = ("Bearer sk-one", "Bearer sk-two");
    for (key, stream, status) in [(one, false, "miss"), (two, false, "hit"), (two, true, "hit")] {
        assert_eq!(cached("chat/mock-fast", key, stream).await, status, "{key} {stream}");
    }
    for _ in 0..2 {
        assert_eq!(cached("chat/guarded", one, true).await, "bypass", "one in force sees every answer");
    }
    let shadowed = "portcullis_guest_calls_total{guest=\"seen\",phase=\"answer\",outcome=\"shadow\"}";
    assert!(gateway.metric(shadowed).await >= Some(1.0), "it was called where an answer was made");
}

#[tokio::test]
async fn a_stream_goes_past_a_policy_in_shadow_byte_for_byte_and_at_once() {
    let mock = Mock::start().await;
    let piece = |text: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let end = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\
               \"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let said = format!("{}{}{}{end}", piece("One "), piece("two "), piece("three."));
    let upstream = Upstream::saying("text/event-stream", said.clone()).await;
    let shout = "--[[manifest\nstream = \"event\"\n]]\nfunction on_event(e) return (string.upper(e.text)) end";
    let yaml = format!(
        "providers:\n  up: {{ dialect: openai_chat, base_url: 'http://{}/v1', auth: none }}\n\
         hooks: [{{ lua: seen, shadow: true, budget: {{ cpu: 2s }} }}, {{ lua: shout, budget: {{ cpu: 2s }}, on: {{ models: [up/loud] }} }}]\n",
        upstream.address
    );
    let gateway = with(&mock, &[("seen", SHADOW), ("shout", shout)], &yaml).await;
    assert_eq!(ask(&gateway, "up/m", true).await.text(), said);
    let loud = ask(&gateway, "up/loud", true).await.text();
    for word in ["\"ONE \"", "\"TWO \"", "\"THREE.\""] {
        assert!(loud.contains(word), "what is held for one in shadow alone waits for nobody: {loud}");
    }
    let shadowed = "portcullis_guest_calls_total{guest=\"seen\",phase=\"event\",outcome=\"shadow\"}";
    assert!(gateway.metric(shadowed).await >= Some(2.0), "it has heard both");
}

#[tokio::test]
async fn a_caller_whom_a_policy_gives_no_models_may_use_none() {
    let mock = Mock::start().await;
    let policy = "function on_auth(head)
        local models = { none = {}, some = { 'chat/m' } }
        return { key = 'k', models = models[head:header('x-who')] }
      end";
    let gateway = with(&mock, &[("who", policy)], "hooks: [{ lua: who }]\n").await;
    for (who, model, status) in
        [("none", "chat/m", 403), ("some", "chat/m", 200), ("some", "chat/n", 403), ("all", "chat/n", 200)]
    {
        let headers = [("content-type", "application/json"), ("x-who", who)];
        let body = Chat.ask(model, false, Turn::Text, "Hello");
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
        assert_eq!(reply.status(), status, "{who} {model}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_first_ask_under_tls_is_not_charged_to_its_policy() {
    let mock = Mock::start().await;
    // It is no TLS that answers, which is found out when everything is set up.
    let policy = format!(
        "function on_auth(head)
            local ok, why = pcall(gw.http.fetch, {{ url = 'https://{}/' }})
            return {{ key = 'k', metadata = {{ failed = tostring(not ok) }} }}
         end
         function on_request(req) return gw.say(req:metadata('failed') or 'unheard') end",
        mock.address
    );
    let yaml = format!("hooks: [{{ lua: asks, grants: {{ http: ['{}'], private_addresses: true }} }}]\n", mock.address);
    let gateway = with(&mock, &[("asks", &policy)], &yaml).await;
    let reply = ask(&gateway, "chat/m", false).await;
    assert_eq!((reply.status(), reply.text().contains("\"true\"")), (200, true), "{}", reply.text());
}

#[tokio::test]
async fn the_trace_tells_what_each_hook_saw_and_decided() {
    let mock = Mock::start().await;
    let policy = "function on_request(req) end
        function on_route(req) gw.trace.note({ own = 'word' }) return { 'chat/moved' } end
        function on_answer(answer) error('boom') end";
    let gateway = with(&mock, &[("look", policy)], "hooks: [{ lua: look }]\n").await;
    let asked = [("content-type", "application/json"), ("x-portcullis-trace", "1")];
    let body = Chat.ask("chat/x", false, Turn::Text, "a secret prompt");
    let reply = gateway.call("POST", "/v1/chat/completions", &asked, body).await;
    let trace: Value = serde_json::from_str(reply.head.header("x-portcullis-trace").expect("a trace")).expect("JSON");
    let steps = trace["steps"].as_array().expect("steps").iter().filter(|step| step["stage"] == "hook");
    let mut notes: Vec<Value> = steps.map(|step| step["what"].clone()).collect();
    for note in &mut notes {
        assert_eq!(note["guest"], "look");
        // The gateway's own notes say how long it took.
        let took = note["note"].as_object_mut().and_then(|note| note.remove("us"));
        assert_eq!(took.is_some_and(|us| us.is_u64()), note["note"]["phase"].is_string(), "{note}");
    }
    let notes: Vec<&Value> = notes.iter().map(|note| &note["note"]).collect();
    assert_eq!(notes[0], &json!({ "phase": "request", "saw": { "model": "chat/x" }, "decided": "pass" }));
    assert_eq!(notes[1], &json!({ "own": "word" }));
    let saw = json!({ "model": "chat/x", "plan": ["chat/x"] });
    assert_eq!(notes[2], &json!({ "phase": "route", "saw": saw, "decided": { "plan": ["chat/moved"] } }));
    assert_eq!(notes[3]["saw"], json!({ "status": 200, "target": "chat/moved" }));
    assert!(notes[3]["decided"]["failed"].as_str().is_some_and(|why| why.contains("look.luau:3: boom")), "{notes:?}");
    assert!(!trace.to_string().contains("secret"));
}

async fn generation(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let list = gateway.admin("GET", "/admin/generations").await.json();
        if wanted(&list) {
            return list;
        }
        assert!(Instant::now() < deadline, "{list}\n{}", gateway.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
}

fn version(number: u32) -> String {
    format!("function on_route() return {{ 'chat/version-{number}' }} end\n")
}

#[tokio::test]
async fn a_saved_policy_is_live_a_broken_one_is_not_and_one_can_go_back() {
    let mock = Mock::start().await;
    let gateway = with(&mock, &[("v", &version(1))], "hooks: [{ lua: v }]\n").await;
    assert_eq!(went_to(&ask(&gateway, "chat/m", false).await), "chat/version-1");
    gateway.folder.write("scripts/v.luau", &version(2));
    generation(&gateway, |list| list["in_force"] == 2).await;
    assert_eq!(went_to(&ask(&gateway, "chat/m", false).await), "chat/version-2");
    gateway.folder.write("scripts/v.luau", "function on_route()\n  return {\nend\n");
    let list = generation(&gateway, |list| !list["last_reload_error"].is_null()).await;
    let error = list["last_reload_error"].as_str().expect("an error");
    assert!(error.contains("portcullis.yaml:1:") && error.contains("v.luau:3:"), "{error}");
    assert_eq!(
        (&list["in_force"], went_to(&ask(&gateway, "chat/m", false).await).as_str()),
        (&json!(2), "chat/version-2")
    );
    let diff = gateway.admin("GET", "/admin/generations/1/diff").await.json();
    let change = diff["changes"][0]["diff"].as_str().expect("a change");
    assert!(
        change.contains("-function on_route() return { 'chat/version-1'") && change.contains("+function"),
        "{diff}"
    );
    assert_eq!(gateway.admin("POST", "/admin/generations/1/rollback").await.status(), 200);
    assert_eq!(went_to(&ask(&gateway, "chat/m", false).await), "chat/version-1");
    assert_eq!(gateway.admin("POST", "/admin/generations/77/rollback").await.status(), 404);
    let command = |what: &[&str]| {
        let config = gateway.folder.path("portcullis.yaml");
        let output = portcullis().arg("generations").args(what).arg("--config").arg(config).output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // The broken policy is on disk still, and the command reads the configuration for the address alone.
    let (good, text) = command(&["rollback", "2"]);
    assert!(good && text.contains("generation 2 is in force"), "{text}");
    gateway.folder.write("scripts/v.luau", &version(3));
    generation(&gateway, |list| list["in_force"] == 3).await;
    let (good, text) = command(&[]);
    assert!(good && text.contains("*    3") && text.contains("v@"), "{text}");
}

/// Reloads under load; `PORTCULLIS_RELOADS` says otherwise.
const RELOADS: u32 = 100;

#[tokio::test]
async fn reloads_under_load_lose_no_request_and_streams_end_on_their_own_generation() {
    // Versions that differ in every byte that counts, and name few targets: what is learnt of a target outlives a reload.
    let version = |number: u32| format!("-- {number}\n{}", version(number % 3));
    let reloads: u32 = std::env::var("PORTCULLIS_RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(RELOADS);
    let mock = Mock::start().await;
    let gateway = with(&mock, &[("v", &version(1))], "hooks: [{ lua: v }]\n").await;
    let stop = std::cell::Cell::new(false);
    let load = async |stream: bool| {
        let mut count = 0;
        while !stop.get() {
            let reply = ask(&gateway, "chat/mock-fast", stream).await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            assert!(went_to(&reply).starts_with("chat/version-"), "{}", went_to(&reply));
            assert!(!stream || reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
            count += 1;
        }
        count
    };
    let reload = async {
        let mut early = 0;
        for number in 2..2 + reloads {
            gateway.folder.write("scripts/v.luau", &version(number));
            let reply = gateway.admin("POST", "/admin/reload").await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            // By then everything has been there that a reload needs for a while.
            if number == 2 + reloads / 2 {
                early = gateway.process.memory();
            }
            if reloads > RELOADS && number % (reloads / 10) == 0 {
                println!("{number} reloads, {} KiB", gateway.process.memory() >> 10);
            }
        }
        stop.set(true);
        early
    };
    let (one, two, three, early) = tokio::join!(load(false), load(true), load(false), reload);
    assert!(one + two + three > 20, "{one} {two} {three}");
    let list = generation(&gateway, |list| list["retired_in_use"] == 0).await;
    assert!(list["in_force"].as_u64().is_some_and(|number| number > u64::from(reloads)), "{list}");
    let late = gateway.process.memory();
    // Five generations are kept whole, whatever their number; 4 MiB are the allocator's, which takes back later what is built
    // on one thread and dropped on others. What one reload leaves behind is counted to the byte by `tests/allocations.rs`.
    let leaked = u64::from(reloads / 2) << 10;
    assert!(late < early + leaked + (4 << 20), "memory grew from {early} to {late} in {} reloads", reloads / 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_hook_is_said_with_its_line() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/typed.luau", "--[[manifest\n[config]\nrequired = [\"gold\"]\n[config.properties.gold]\ntype = \"string\"\n]]\nfunction on_route() end\n");
    folder.write("scripts/picky.luau", "function on_init(c) error('no thanks') end\nfunction on_route() end\n");
    let check = |yaml: &str| {
        let path = folder.write("c.yaml", yaml);
        let output = portcullis().arg("check").arg(path).output().expect("runs");
        assert!(!output.status.success(), "{yaml}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (yaml, expected) in [
        ("hooks:\n  - { lua: none }\n", "c.yaml:2:12: hooks[0].lua: there is no"),
        ("hooks:\n  - lua: typed\n    config: { gold: 3 }\n", "c.yaml:3:21: hooks[0].config.gold: does not fit"),
        ("hooks:\n  - { lua: typed }\n", "\"gold\" is a required property"),
        ("hooks:\n  - { lua: picky }\n", "picky.luau:1: no thanks"),
        (
            "hooks:\n  - { lua: typed, config: { gold: x } }\n  - { lua: typed, config: { gold: x } }\n",
            "c.yaml:3:5: hooks[1]: another hook is called `typed`",
        ),
        ("hooks: [{ lua: typed, share: 200% }]\n", "is not a share"),
        ("hooks: [{ lua: typed, grants: { http: ['https://a/b'] } }]\n", "is no host"),
    ] {
        let error = check(yaml);
        assert!(error.contains(expected), "{yaml}\n{error}");
    }
}

#[tokio::test]
async fn a_policy_goes_live_with_its_own_tests_or_not_at_all() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    fs::create_dir_all(folder.path("scripts")).expect("a folder");
    let test = |number: u32| {
        format!(
            "t.test('its version', function()\n\tt.target('chat/version-{number}', {{}})\n\
             \tt.eq(t.chat({{ model = 'a/m', text = 'x' }}).target, 'chat/version-{number}')\nend)\n"
        )
    };
    folder.write("scripts/v.luau", &version(1));
    folder.write("scripts/v_test.luau", &test(1));
    let gateway = Gateway::prepared(folder, &mock, "hooks: [{ lua: v }]\n").await;
    gateway.folder.write("scripts/v.luau", &version(2));
    let list = generation(&gateway, |list| !list["last_reload_error"].is_null()).await;
    let error = list["last_reload_error"].as_str().expect("an error");
    assert!(error.contains("its test \"its version\" fails") && error.contains("v_test.luau:3:"), "{error}");
    assert_eq!(went_to(&ask(&gateway, "chat/m", false).await), "chat/version-1");
    // The test alone is mended, and the version that waits for it goes live.
    gateway.folder.write("scripts/v_test.luau", &test(2));
    generation(&gateway, |list| list["in_force"] == 2).await;
    assert_eq!(went_to(&ask(&gateway, "chat/m", false).await), "chat/version-2");
}

#[tokio::test]
async fn a_new_policy_that_was_broken_is_taken_up_as_soon_as_it_is_mended() {
    let mock = Mock::start().await;
    let gateway = with(&mock, &[("v", &version(1))], "hooks: [{ lua: v }]\n").await;
    gateway.folder.write("scripts/more.luau", "function on_request(\n");
    gateway.configure("hooks: [{ lua: v }, { lua: more }]\n");
    let list = generation(&gateway, |list| !list["last_reload_error"].is_null()).await;
    assert!(list["last_reload_error"].as_str().is_some_and(|error| error.contains("more.luau:")), "{list}");
    gateway.folder.write("scripts/more.luau", "function on_request(req) return gw.say('More.') end\n");
    generation(&gateway, |list| list["in_force"] == 2).await;
    assert!(ask(&gateway, "chat/m", false).await.text().contains("More."));
}

#[tokio::test]
async fn the_limits_of_the_model_that_a_policy_chose_hold() {
    let mock = Mock::start().await;
    let policy = "function on_request(req) if req.model == 'chat/small' then return { model = 'chat/large' } end end";
    let yaml = "hooks: [{ lua: up }]\nstore: { path: off }\nlimits:\n\
                  \x20 - { name: large, match: { model: chat/large }, requests: 2 / 1h }\n\
                  \x20 - { name: small, match: { model: chat/small }, requests: 4 / 1h }\n";
    let gateway = with(&mock, &[("up", policy)], yaml).await;
    for _ in 0..2 {
        assert_eq!(went_to(&ask(&gateway, "chat/small", false).await), "chat/large");
    }
    let refused = ask(&gateway, "chat/small", false).await;
    assert_eq!(refused.status(), 429, "{}", refused.text());
    assert!(refused.text().contains("`large`"), "{}", refused.text());
    // What the first model held is given back, so its own limit is where it was.
    for _ in 0..2 {
        assert!(ask(&gateway, "chat/small", false).await.text().contains("`large`"));
    }
}

#[tokio::test]
async fn a_guard_refuses_in_whatever_hook_it_fails() {
    let mock = Mock::start().await;
    for hook in ["on_request", "on_route", "on_attempt", "on_answer"] {
        let policy = format!("--[[manifest\nguard = true\n]]\nfunction {hook}() error('broken') end\n");
        let gateway = with(&mock, &[("guard", &policy)], "hooks: [{ lua: guard }]\n").await;
        let reply = ask(&gateway, "chat/m", false).await;
        assert_eq!((reply.status(), &reply.json()["error"]["code"]), (500, &json!("policy_failed")), "{hook}");
        let open = policy.replace("guard = true", "guard = false");
        let gateway = with(&mock, &[("guard", &open)], "hooks: [{ lua: guard }]\n").await;
        assert_eq!(ask(&gateway, "chat/m", false).await.status(), 200, "{hook}");
    }
}

#[tokio::test]
async fn a_policy_asks_granted_hosts_and_no_others() {
    let mock = Mock::start().await;
    let policy = format!(
        "function on_request(req)
           local ok, answer = pcall(gw.http.fetch, {{
             url = 'http://{address}' .. (req:header('x-path') or '/__mock/last'), headers = {{ ['x-secret'] = gw.secret.get('token') }} }})
           return gw.respond(200, {{ ok = ok, status = ok and answer.status, why = not ok and tostring(answer), body = ok and #answer.body }})
         end",
        address = mock.address
    );
    let fetch = async |grants: &str| {
        let yaml = format!("hooks: [{{ lua: ask, grants: {{ {grants}, secrets: {{ token: sesame }} }} }}]\n");
        let gateway = with(&mock, &[("ask", &policy)], &yaml).await;
        ask(&gateway, "chat/m", false).await.json()
    };
    let host = format!("http: ['127.0.0.1:{}']", mock.address.port());
    let told = fetch(&format!("{host}, private_addresses: true")).await;
    assert_eq!((&told["ok"], &told["status"]), (&json!(true), &json!(200)), "{told}");
    let told = fetch(&host).await;
    assert!(told["why"].as_str().is_some_and(|why| why.contains("private_addresses: true")), "{told}");
    let told = fetch("http: [example.com], private_addresses: true").await;
    assert!(told["why"].as_str().is_some_and(|why| why.contains("is not granted")), "{told}");
    let told = fetch(&format!("http: ['127.0.0.1:{}'], private_addresses: true", mock.address.port() - 1)).await;
    assert!(told["why"].as_str().is_some_and(|why| why.contains("is not granted")), "a grant is for its port: {told}");
}

#[tokio::test]
async fn a_policy_asks_models_as_its_caller_and_not_without_end() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        if req.model == 'chat/judge' then return nil end
        if req.model == 'chat/deep' then
          local ok, answer = pcall(gw.llm.ask, { model = 'chat/deep', prompt = 'deeper' })
          return gw.say(if ok then answer.text else tostring(answer))
        end
        local answer = gw.llm.ask({ model = 'chat/judge', prompt = 'May they?', max_tokens = 5 })
        local ok, why = pcall(gw.llm.ask, { model = 'chat/other', prompt = 'x' })
        return gw.respond(200, { judge = answer.text, tokens = answer.output_tokens, other = tostring(why) })
      end";
    let yaml = "hooks: [{ lua: judge, grants: { models: [chat/judge, chat/deep] }, budget: { cpu: 1s } }]\n\
                keys: [{ name: ann, key: sk-ann }]\nstore: { path: off }\n\
                limits: [{ name: asks, per: key, requests: 6 / 1h }]\n";
    let gateway = with(&mock, &[("judge", policy)], yaml).await;
    let headers = [("content-type", "application/json"), ("authorization", "Bearer sk-ann")];
    let as_ann = async |model: &str| {
        gateway.call("POST", "/v1/chat/completions", &headers, Chat.ask(model, false, Turn::Text, "Hi")).await
    };
    let told = as_ann("chat/m").await.json();
    assert!(told["judge"].as_str().is_some_and(|text| text.contains("May they?")), "{told}");
    assert!(told["tokens"].as_f64().is_some_and(|count| count > 0.0), "{told}");
    assert!(told["other"].as_str().is_some_and(|why| why.contains("`grants.models`")), "{told}");
    assert_eq!(mock.journal().await.len(), 1);
    // Three exchanges stand in each other, the third may not ask; all of them count for the caller.
    let deep = as_ann("chat/deep").await.text();
    assert!(deep.contains("2 deep in each other"), "{deep}");
    let last = as_ann("chat/m").await;
    assert_eq!((last.status(), as_ann("chat/judge").await.status()), (200, 429), "{}", last.text());
}

#[tokio::test]
async fn a_policy_waits_for_a_model_no_longer_than_it_wants() {
    let mock = Mock::start().await;
    let policy = "function on_request(req)
        local ok, late = pcall(gw.llm.ask, { model = 'slow', prompt = 'May they?', timeout_ms = 50 })
        return gw.respond(200, tostring(ok) .. ' ' .. tostring(late))
      end";
    let yaml = "models: { slow: 'chat/mock-fast:head=20s' }
hooks: [{ lua: hasty, on: { models: [chat/m] }, grants: { models: [slow] }, budget: { cpu: 1s } }]\n";
    let gateway = with(&mock, &[("hasty", policy)], yaml).await;
    let told = ask(&gateway, "chat/m", false).await.text();
    assert!(told.starts_with("false ") && told.contains("`slow` did not answer within 50ms"), "{told}");
}

#[tokio::test]
async fn a_policy_asks_from_where_its_caller_does_and_not_from_the_proxy() {
    let mock = Mock::start().await;
    let judge = "function on_request() gw.llm.ask({ model = 'chat/judge', prompt = 'May they?' }) end";
    let yaml = "listen: { address: LISTEN, trusted_proxies: [127.0.0.1] }\nstore: { path: off }\n\
                hooks: [{ lua: judge, on: { models: [chat/m] }, grants: { models: [chat/judge] }, fail: closed }]\n\
                limits: [{ name: asks, per: ip, match: { model: chat/judge }, requests: 1 / 1h }]\n";
    let gateway = with(&mock, &[("judge", judge)], yaml).await;
    let from = async |address: &str| {
        let headers = [("content-type", "application/json"), ("x-forwarded-for", address)];
        let ask = Chat.ask("chat/m", false, Turn::Text, "Hi");
        gateway.call("POST", "/v1/chat/completions", &headers, ask).await.status()
    };
    let told = [from("203.0.113.1").await, from("203.0.113.2").await, from("203.0.113.2").await];
    assert_eq!(told, [200, 200, 500]);
    let lines = gateway.lines(6).await;
    let peers = lines.iter().filter(|line| line["model"] == "chat/judge").map(|line| line["peer"].as_str());
    assert_eq!(peers.collect::<Vec<_>>(), [Some("203.0.113.1:0"), Some("203.0.113.2:0"), Some("203.0.113.2:0")]);
}

/// One worker serves everybody; whoever runs away on it has seconds of budget.
#[tokio::test]
async fn others_are_answered_while_a_guest_runs_away_on_their_worker() {
    let mock = Mock::start().await;
    let long = "fail: closed, budget: { cpu: 3s, total: 3s, safepoints: 1000000000000 }";
    let hook = |name: &str| format!("{{ name: {name}, lua: {name}, on: {{ models: [chat/{name}] }}, {long} }}");
    let loops = "function on_request() while true do end end";
    let inner = "function on_route() coroutine.wrap(function() while true do end end)() end";
    let waits = "function on_request() gw.time.sleep(1) while true do end end";
    let tries = "function on_attempt() while true do end end";
    let mut yaml = format!(
        "listen: {{ address: LISTEN, workers: 1 }}\nhooks:\n- {}\n- {}\n- {}\n- {}\n",
        hook("loops"),
        hook("inner"),
        hook("waits"),
        hook("tries")
    );
    let mut runaways = vec!["chat/loops", "chat/inner", "chat/waits", "chat/tries"];
    if cfg!(feature = "wasm") {
        let prebuilt = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/prebuilt");
        yaml += &format!(
            "- {{ name: wasm, wasm: probe, config: {{ request: loop }}, on: {{ models: [chat/wasm] }}, {long} }}\n\
             - {{ name: other, wasm: probe, config: {{ attempt: loop }}, on: {{ models: [chat/other] }}, {long} }}\n\
             plugins: {{ folder: '{}', compiled: '{}/compiled-plugins', settings: {{ hostile: {{ cpu: 3s }} }} }}\n\
             providers:\n  bad: {{ dialect: 'wasm:hostile', base_url: http://MOCK/v1, auth: none, breaker: off }}\n  \
             chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n",
            prebuilt.display(),
            env!("CARGO_TARGET_TMPDIR"),
        );
        runaways.extend(["chat/wasm", "chat/other", "bad/loop"]);
    }
    let gateway = with(&mock, &[("loops", loops), ("inner", inner), ("waits", waits), ("tries", tries)], &yaml).await;
    for runaway in runaways {
        let others = async {
            for _ in 0..10 {
                let reply = ask(&gateway, "chat/mock-fast", false).await;
                assert_eq!(reply.status(), 200, "beside {runaway}: {}", reply.text());
            }
        };
        let mut hostile = std::pin::pin!(ask(&gateway, runaway, false));
        tokio::select! {
            biased;
            reply = &mut hostile => panic!("{runaway} ended before others were answered: {}", reply.text()),
            () = others => {}
        }
        let reply = hostile.await;
        assert!(reply.status() >= 500, "{runaway}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_policy_is_called_by_the_clock_on_one_worker() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\ntick = \"100ms\"\n]]
      function on_tick(ctx) gw.kv.incr('turns') gw.time.sleep(1) end
      function on_request() return gw.respond(200, { turns = gw.kv.get('turns') }) end";
    // Somebody else's turn may take as long as it likes.
    let slow = "--[[manifest\ntick = \"100ms\"\n]]\nfunction on_tick(ctx) gw.time.sleep(60000) end";
    let gateway = with(&mock, &[("slow", slow), ("clock", policy)], "hooks: [{ lua: slow }, { lua: clock }]\n").await;
    let turns = async || {
        ask(&gateway, "chat/m", false).await.json()["turns"]
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let deadline = Instant::now() + SOON;
    while turns().await < 3 {
        assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
    let calls = gateway.metric("portcullis_guest_calls_total{guest=\"clock\",phase=\"tick\",outcome=\"pass\"}").await;
    assert!(calls.is_some_and(|calls| calls >= 2.0), "{calls:?}");
}

#[tokio::test]
async fn a_policy_that_reads_texts_is_shown_no_body_that_reads_in_two_ways() {
    let mock = Mock::start().await;
    let policy = "function on_request(req) for _, text in req:texts() do if text.text:find('EVIL') then \
                  return gw.reject('evil', 'No.', 400) end end end";
    let gateway = with(&mock, &[("p", policy)], "hooks: [{ lua: p, fail: closed }]\n").await;
    for (body, status, code) in [
        (r#""messages":[{"role":"user","content":"EVIL","content":"good"}]"#, 400, "ambiguous_request"),
        (r#""messages":[{"role":"user","content":"EVIL"}]"#, 400, "evil"),
        (r#""messages":[{"role":"user","content":"good"}]"#, 200, ""),
        // The caller's mistake is told to the caller, and is none of the policy's.
        (r#""text":"good""#, 400, "invalid_request"),
    ]
    .into_iter()
    .chain([(r#""messages":7"#, 400, "invalid_request"); 20])
    {
        let body = format!(r#"{{"model":"chat/mock-fast",{body}}}"#);
        let reply = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status(), status, "{body}: {}", reply.text());
        if status != 200 {
            assert_eq!(reply.json()["error"]["code"], code, "{body}");
        }
    }
    assert_eq!(ask(&gateway, "chat/mock-fast", false).await.status(), 200, "it was switched off");
}
