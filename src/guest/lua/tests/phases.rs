//! What scripts see and decide.

use std::time::Duration;

use serde_json::json;

use super::support::{bundle, load, load_bundle, try_load};
use crate::guest::bundle::Source;
use crate::guest::verdict::{Body, Mode, Turn};
use crate::guest::{Failed, Verdict, Wanted};
use crate::host::{Budget, Grants, Guest, Killed, Phase};

/// Runs a script whose `on_request` returns a value as text, and gives the text.
fn shown(expression: &str) -> String {
    let text = format!("function on_request(req, ctx)\n  return gw.respond(200, tostring({expression}))\nend");
    match load(&text).call(Phase::Request) {
        Ok(Verdict::Respond(respond)) => match respond.body {
            Body::Raw(text) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{expression}: {other:?}"),
    }
}

fn failure(text: &str, phase: Phase) -> String {
    match load(text).call(phase) {
        Err(Failed { message, .. }) => message,
        Ok(verdict) => panic!("{text}: {verdict:?}"),
    }
}

#[test]
fn fields_of_a_request_are_read_where_they_are_named() {
    for (expression, value) in [
        ("req.id", "gen-1"),
        ("req.model", "fast"),
        ("req.stream", "true"),
        ("req.max_tokens", "64"),
        ("req.temperature", "0.5"),
        ("req.message_count", "4"),
        ("req.tool_count", "1"),
        ("req.key", "search-prod"),
        ("req.project", "search"),
        ("req.peer", "10.0.0.1"),
        ("req:header('X-Team')", "blue"),
        ("req:header('authorization')", "nil"),
        ("req:metadata('tier')", "gold"),
        ("req:metadata('none')", "nil"),
        ("req:param('max_tokens')", "64"),
        ("req:param('tools')[1]['function'].name", "f"),
        ("req:system()", "Be short."),
        ("req:message(1).text", "Hello"),
        ("req:message(-1).text", "Which day is it?"),
        ("req:message(9)", "nil"),
        ("#req:messages()", "3"),
        ("req:last_user()", "Which day is it?"),
        ("req:texts()[1].role", "system"),
        ("#req:plan()", "0"),
    ] {
        assert_eq!(shown(expression), value, "{expression}");
    }
}

#[test]
fn a_name_that_is_not_there_is_an_error_with_the_nearest_one() {
    let error = failure("function on_request(req)\n  return req.modell\nend", Phase::Request);
    assert!(error.starts_with("test.luau:2:") && error.contains("did you mean `model`?"), "{error}");
    let error = failure("function on_request(req)\n  return { modell = 'x' }\nend", Phase::Request);
    assert_eq!(error, "test.luau:1: a patch of on_request has no `modell`; did you mean `model`?");
    for (expression, expected) in [
        ("gw.sya('x')", "gw has no `sya`; did you mean `say`?"),
        ("gw.kv.gett('x')", "gw.kv has no `gett`; did you mean `get`?"),
        ("gw.kv['gett']", "gw.kv has no `gett`; did you mean `get`?"),
        ("gw.rand.quux()", "gw.rand has no `quux`; it has: id, int, number"),
        ("getmetatable(gw.kv).__index", "attempt to index boolean with '__index'"),
    ] {
        let error = failure(&format!("function on_request(req)\n  return {expression}\nend"), Phase::Request);
        assert!(error.starts_with("test.luau:2: ") && error.ends_with(expected), "{expression}: {error}");
    }
    let settings = "function on_request() return gw.say(tostring(gw.config.missing)) end";
    let stand = try_load(settings, crate::guest::stand::unhurried(), json!({ "given": 1 })).expect("loads");
    assert!(matches!(stand.call(Phase::Request), Ok(Verdict::Respond(_))), "a setting that is not given is absent");
}

#[test]
fn arguments_that_do_not_fit_name_the_function_and_how_it_is_called() {
    let set = "gw.kv.set(key: string, value: string, ttl_s: number?, space: string?)";
    for (call, expected) in [
        ("gw.kv.set('a')", format!("gw.kv.set: argument 2, `value: string`, is missing; call it as {set}")),
        ("gw.kv.set('a', {})", format!("gw.kv.set: argument 2, `value: string`, is a table; call it as {set}")),
        ("gw.kv.get()", "gw.kv.get: argument 1, `key: string`, is missing".into()),
        ("gw.kv.get('\\255')", "`key: string`, is a text that is no UTF-8".into()),
        ("gw.rand.int('one', 2)", "gw.rand.int: argument 1, `first: number`, is a text".into()),
        ("gw.cost.estimate('a/m', 1)", "gw.cost.estimate: argument 3, `output_tokens: number`, is missing".into()),
        ("gw.reject('code')", "gw.reject: argument 2, `message: string`, is missing".into()),
        ("gw.log.info(gw.secret.get('pepper'))", "is a secret: a secret becomes no text".into()),
        ("'Bearer ' .. gw.secret.get('pepper')", "secrets: { token: \"Bearer …\" }".into()),
        ("gw.json.encode({ gw.secret.get('pepper') })", "give it as it is to a header".into()),
    ] {
        let error = failure(&format!("function on_request(req)\n  local _ = {call}\nend"), Phase::Request);
        assert!(error.starts_with("test.luau:2: ") && error.contains(&expected), "{call}: {error}");
    }
}

#[test]
fn what_a_hook_may_not_return_is_told_with_its_place_and_what_it_may() {
    for (phase, body, expected) in [
        (Phase::Request, "return 7", "on_request returned a number; return nil, what is to change"),
        (Phase::Request, "return true", "on_request returned a boolean; return nil"),
        (Phase::Route, "return 7", "return nil, the name of a target, a list of them"),
        (Phase::Attempt, "return 'a/m'", "on_attempt returned the text `a/m`; return nil, or what is to change"),
        (Phase::Fault, "return 7", "\"same\", gw.same(…)"),
        (Phase::Event, "return 7", "return nil, a text, gw.drop() or gw.stop{…}"),
        (Phase::Event, "return { texte = 'x' }", "did you mean `text`?"),
        (Phase::Event, "return { x = 1 }", "it has: drop, text, stop"),
        (
            Phase::Request,
            "return gw.drop()",
            "on_request cannot answer with gw.drop(), which is for on_event; return nil",
        ),
        (Phase::Request, "return gw.fault('x')", "cannot answer with gw.fault(…), which is for on_answer"),
        (Phase::Event, "return gw.fault('x')", "cannot answer with gw.fault(…), which is for on_answer"),
        (Phase::Request, "return gw.same(1)", "on_request cannot answer with `same`"),
        (Phase::Request, "return { messages = {} }", "messages: a conversation without turns"),
        (
            Phase::Request,
            "return { messages = { { role = 'user', content = 'x' } } }",
            "a turn has no `content`; write",
        ),
        (Phase::Request, "return { messages = { { role = 'user' } } }", "messages: write { role ="),
        (Phase::Request, "return { messages = { { role = 'user', texxt = 'x' } } }", "did you mean `text`?"),
        (Phase::Request, "return { messages = { { index = 0, text = 'x' } } }", "messages: turns are counted from 1"),
    ] {
        let error = failure(&format!("local x = 1\nfunction on_{}()\n  {body}\nend", phase.name()), phase);
        assert!(error.starts_with("test.luau:2: ") && error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn what_the_libraries_throw_names_the_line_too() {
    for (body, expected) in [
        ("error({})", "error() was given a table; give it a text"),
        ("error()", "error() was given nothing; give it a text"),
        ("error('no place', 0)", "no place"),
        ("string.find(nil, 'x')", "invalid argument #1 to 'find' (string expected, got nil)"),
        ("string.match('x', '[a')", "malformed pattern (missing ']')"),
        ("table.concat({ {} })", "invalid value (table) at index 1 in table for 'concat'"),
        ("table.sort({ 1, 'a' })", "attempt to compare string < number"),
        ("string.gsub('x', 'x', coroutine.yield)", "nothing can wait or yield; do so before or after"),
    ] {
        let error = failure(&format!("local x = 1\nfunction on_request()\n  {body}\nend"), Phase::Request);
        assert!(error.starts_with("test.luau:3: ") && error.contains(expected), "{body}: {error}");
        assert!(!error.contains("library:"), "{body}: {error}");
    }
    let text = "function on_request() local _, why = pcall(string.find, 'x', '[a') return gw.say(why) end";
    let Ok(Verdict::Respond(said)) = load(text).call(Phase::Request) else { panic!("says why") };
    assert_eq!(said.body, Body::Say("malformed pattern (missing ']')".to_owned()));
    // What a coroutine ends with is what `pcall` catches of it.
    let text = "function on_request()
        local function bad() gw.json.encode(function() end) end
        local _, caught = pcall(bad)
        local _, resumed = coroutine.resume(coroutine.create(bad))
        local _, wrapped = pcall(coroutine.wrap(bad))
        assert(type(resumed) == 'string' and resumed == caught and wrapped == caught, tostring(resumed))
        return gw.say(resumed)
      end";
    let Ok(Verdict::Respond(said)) = load(text).call(Phase::Request) else { panic!("says why") };
    assert_eq!(said.body, Body::Say("test.luau:2: a function is no JSON".to_owned()));
}

#[test]
fn a_turn_that_was_changed_says_what_it_was_changed_to() {
    let patched = |body: &str| {
        let mut stand =
            load(&format!("function on_request(req) local m = req:messages() {body} return {{ messages = m }} end"));
        stand
            .ask(
                r#"{"model":"fast","messages":[{"role":"user","content":"Hello"},{"role":"user","content":
                [{"type":"text","text":"See"},{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}]}]}"#,
            )
            .expect("an ask");
        match stand.call(Phase::Request) {
            Ok(Verdict::Patch(patch)) => Ok(patch.messages.expect("turns")),
            other => Err(other.expect_err("a patch").message),
        }
    };
    let say = |role: &str, text: &str| Turn::say(role.to_owned(), text.to_owned()).expect("a turn");
    assert_eq!(patched(""), Ok(vec![Turn::Keep(1), Turn::Keep(2)]));
    assert_eq!(patched("m[1].text = 'Bye'"), Ok(vec![say("user", "Bye"), Turn::Keep(2)]));
    assert_eq!(patched("m[1].role = 'assistant'"), Ok(vec![say("assistant", "Hello"), Turn::Keep(2)]));
    let lost = patched("m[2].text = 'Bye'").expect_err("the picture would be lost");
    assert!(lost.contains("turn 2 was changed and holds more than text; change it by `texts`"), "{lost}");
}

#[test]
fn a_budget_that_is_used_up_names_the_line() {
    let message = |text: &str| {
        let budget = Budget { safepoints: 1000, ..crate::guest::stand::unhurried() };
        let stand = try_load(text, budget, json!({})).expect("loads");
        let failed = stand.call(Phase::Request).expect_err("ended");
        assert!(failed.killed.is_some(), "{failed:?}");
        failed.message
    };
    let looping = "local function turn()\n  local n = 0\n  while true do\n    n += 1\n  end\nend\nfunction on_request()\n  pcall(turn)\nend";
    let said = message(looping);
    let line = said.strip_prefix("test.luau:").and_then(|rest| rest.split(':').next()).map(str::to_owned);
    assert!(matches!(line.as_deref(), Some("3" | "4" | "5")), "{said}");
    assert!(said.contains("on_request ran through 1000 loop turns"), "{said}");
    let calling = "function on_request()\n  local t = {}\n  for i = 1, 2000 do\n    pcall(gw.kv.get, 'x')\n  end\nend";
    assert!(message(calling).starts_with("test.luau:"), "{}", message(calling));
    for (body, budget) in [
        ("pcall(gw.kv.get, 'x') end", Budget { host_calls: 5, ..crate::guest::stand::unhurried() }),
        ("gw.log.debug(string.rep('x', 500)) end", Budget { output: 1000, ..crate::guest::stand::unhurried() }),
    ] {
        let text = format!("local x = 1\nfunction on_request()\n  local n = 0\n  for i = 1, 9 do\n    {body}\nend");
        let failed = try_load(&text, budget, json!({})).expect("loads").call(Phase::Request).expect_err("ended");
        assert!(failed.killed.is_some() && failed.message.starts_with("test.luau:5:"), "{failed:?}");
    }
    let coroutines =
        "function on_request()\n  local co = coroutine.wrap(function()\n    while true do end\n  end)\n  co()\nend";
    assert!(message(coroutines).starts_with("test.luau:3:"), "{}", message(coroutines));
}

#[test]
fn what_is_decoded_is_what_it_was() {
    let text = r#"function on_request(req)
        local value = gw.json.decode('{"a":[1,-2.5,true,null,"\\u00e9\\n",[],{}],"b":null,"c":{"d":1e3},"e":1,"e":null,"f":18446744073709551615}')
        assert(#value.a == 7 and value.a[1] == 1 and value.a[2] == -2.5 and value.a[3] == true and value.a[4] == gw.null)
        assert(value.a[5] == "é\n" and value.b == nil and value.c.d == 1000 and value.e == nil and value.f > 1e19)
        assert(gw.json.encode(value.a[6]) == "[]" and gw.json.encode(value.a[7]) == "{}")
        assert(gw.json.decode("null") == gw.null and gw.json.decode(" 7 ") == 7 and gw.json.decode('"x"') == "x")
        for _, bad in { "", "{", "[1,]", "1 2", "{1:2}", "nul", string.rep("[", 200) } do
            local ok, said = pcall(gw.json.decode, bad)
            assert(not ok and string.find(said, "no JSON: "), said)
        end
      end"#;
    assert_eq!(load(text).call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn a_wrong_use_of_ctx_is_told_in_words_of_the_guide() {
    for (body, expected) in [
        ("ctx.get('a')", "write ctx:get(\"name\")"),
        ("ctx:set(nil, 1)", "nil stands where a text should"),
        ("gw.pick.weighted({ a = 'x' })", "string stands where a number should"),
    ] {
        let error = failure(&format!("function on_request(req, ctx)\n  {body}\nend"), Phase::Request);
        assert!(error.contains(expected), "{body}: {error}");
    }
    let text = "function on_request() end\nreturn { on_done = function() end }";
    let error = try_load(text, crate::guest::stand::unhurried(), json!({})).err().expect("is not taken");
    assert!(error.contains("the global of this name would never run"), "{error}");
}

#[test]
fn small_slips_are_told_in_words_of_the_guide() {
    let long = "string.rep('x', 300)";
    for (phase, body, expected) in [
        (Phase::Event, "return gw.say('x')", "on_event cannot answer with gw.say(…)"),
        (Phase::Event, "return gw.respond(200, 'x')", "on_event cannot answer with gw.respond(…)"),
        (Phase::Auth, "return gw.say('x')", "on_auth cannot answer with gw.say(…); return nil, { key"),
        (Phase::Attempt, "return gw.respond(200, 'x')", "on_attempt cannot answer with gw.respond(…); return nil"),
        (Phase::Done, "return gw.say('x')", "on_done cannot answer with gw.say(…): the exchange is over"),
        (Phase::Fault, "return gw.same(0/0)", "is no number that can be reckoned with"),
        (Phase::Request, &format!("return {{ model = {long} }}"), "model: a name has at most 256 bytes"),
        (Phase::Route, &format!("return {long}"), "target: a name has at most 256 bytes, not 300"),
        (Phase::Fault, &format!("return {{ {long} }}"), "target: a name has at most 256 bytes, not 300"),
        (Phase::Route, &format!("return {{ steps = {{ {{ target = {long} }} }} }}"), "target: a name has at most 256"),
        (Phase::Request, "return { model = '\\255' }", "a text that is no UTF-8 stands where one should"),
        (Phase::Route, "return { '\\255' }", "a text that is no UTF-8 stands where one should"),
        (Phase::Route, "return { 'fast', 12 }", "steps: a number stands where names or tables should"),
        (Phase::Fault, "return gw.stop({ message = 'x' })", "a stop says nothing to the caller"),
        (Phase::Answer, "return { body = 'x', text = 'y' }", "`body` is the whole answer"),
        (Phase::Route, "return { true }", "steps: a boolean stands where names or tables should"),
    ] {
        let error = failure(&format!("function on_{}()\n  {body}\nend", phase.name()), phase);
        assert!(error.contains(expected) && error.starts_with("test.luau:"), "{body}: {error}");
    }
    let kept = load("local kept\nfunction on_request(req) kept = req end\nfunction on_route() return kept.model end");
    assert_eq!(kept.call(Phase::Request), Ok(Verdict::Pass));
    let error = kept.call(Phase::Route).expect_err("it is over").message;
    assert!(error.contains("of a call that has ended; do not keep it"), "{error}");
    let full = "local kept = {}\nfunction on_request() end\nfor i = 1, 1e6 do kept[i] = { i } end";
    let error = try_load(full, crate::guest::stand::unhurried(), json!({})).err().expect("too much");
    assert!(error.starts_with("test.luau: loading it needed more than 16777216 bytes"), "{error}");
}

#[test]
fn a_name_that_reads_like_a_number_is_a_name() {
    let stand = load("function on_route() return { '1e3', { target = 'nan' }, 'inf' } end");
    let Ok(Verdict::Plan(wish)) = stand.call(Phase::Route) else { panic!("no plan") };
    let names: Vec<&str> = wish.steps.iter().map(|step| step.target.as_str()).collect();
    assert_eq!(names, ["1e3", "nan", "inf"]);
}

/// Words that came twice running are kept in the machine, in fewer places than there are words.
#[test]
fn texts_are_what_they_were_however_often_they_are_given() {
    let text = "function on_request(_, ctx)
        for _ = 1, 2 do
          for number = 1, 150 do
            local text = string.rep('é', number % 40) .. number
            ctx:set('text', text)
            for _ = 1, 3 do assert(ctx:get('text') == text) end
          end
        end
      end";
    assert_eq!(load(text).call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn what_is_written_to_or_called_as_it_cannot_be_says_what_to_write() {
    for (body, expected) in [
        ("req.model = 'x'", "a Request is read-only; return what is to change, as { model = … }"),
        ("req.header('x-team')", "call it with a colon on a Request: `:header(…)`"),
        ("req:header()", "nothing stands where a name should"),
        ("req:hedder('x-team')", "attempt to call an unknown method 'hedder'; did you mean `header`?"),
        ("req:model()", "attempt to call an unknown method 'model'; it is a field; write `.model`"),
        ("gw.null:header('x-team')", "gw.null has no `header`"),
        ("ctx.held = 'x'", "ctx has no `held`; write ctx:set(\"held\", …)"),
        ("return gw.say(ctx.held)", "ctx has no `held`; write ctx:get(\"held\")"),
        ("ctx:put('held')", "attempt to call an unknown method 'put'"),
    ] {
        let error = failure(&format!("function on_request(req, ctx)\n  {body}\nend"), Phase::Request);
        assert!(error.starts_with("test.luau:2:") && error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn a_view_that_is_kept_is_of_no_use_after_its_call() {
    let keep = "local kept = {}
        function on_request(req) kept[1] = req; kept[2] = req.header end
        function on_route(req)
          return gw.say(tostring(pcall(function() return kept[1].model end)) .. (select(2, pcall(kept[2], kept[1], 'x'))))
        end";
    let stand = load(keep);
    assert_eq!(stand.call(Phase::Request), Ok(Verdict::Pass));
    let Ok(Verdict::Respond(respond)) = stand.call(Phase::Route) else { panic!("no answer") };
    let Body::Say(said) = respond.body else { panic!("{:?}", respond.body) };
    assert!(said.starts_with("false") && said.contains("this Request is of a call that has ended"), "{said}");
}

#[test]
fn host_functions_give_what_they_say() {
    for (expression, value) in [
        ("gw.json.encode({ a = { 1, 2 }, b = 'x' })", "{\"a\":[1,2],\"b\":\"x\"}"),
        (
            "gw.json.encode(gw.json.decode('{\"a\":[],\"b\":{},\"c\":null,\"d\":[null]}'))",
            "{\"a\":[],\"b\":{},\"d\":[null]}",
        ),
        // Whatever holes a list has, none of its entries is lost.
        ("gw.json.encode({ [1] = 'a', [3] = 'z' })", "[\"a\",null,\"z\"]"),
        ("(function() local t = { 1, 2, 3 } t[6] = 6 return gw.json.encode(t) end)()", "[1,2,3,null,null,6]"),
        ("gw.json.encode({ 1, nil, 3 })", "[1,null,3]"),
        ("gw.json.encode({ gw.null, { a = gw.null } })", "[null,{\"a\":null}]"),
        ("gw.json.encode({ a = { [2] = true } })", "{\"a\":[null,true]}"),
        ("gw.re.match('(a+)(b)', 'xaab')[2]", "aa"),
        ("gw.re.test('^x', 'yx')", "false"),
        ("gw.re.find('a', 'banana')[2].first", "4"),
        ("select(2, gw.re.replace('[0-9]', 'a1b2', '#'))", "2"),
        ("gw.hash.sha256('abc'):sub(1, 8)", "ba7816bf"),
        ("gw.hash.unbase64(gw.hash.base64('hey'))", "hey"),
        ("gw.hash.hmac_sha256(gw.secret.get('pepper'), 'x') == gw.hash.hmac_sha256('hush', 'x')", "true"),
        ("gw.secret.get('pepper')", "secret(pepper)"),
        ("pcall(function() return gw.secret.get('pepper') .. '' end)", "false"),
        ("pcall(gw.secret.get, 'other')", "false"),
        ("gw.time.now_ms()", "1700000000000"),
        ("gw.time.date().weekday", "2"),
        ("gw.rand.int(1, 3)", "2"),
        ("#gw.rand.id()", "24"),
        ("gw.pick.weighted({ a = 1, b = 0 })", "a"),
        ("gw.pick.hash({ 'a' }, 'k')", "a"),
        ("gw.cache.get('none')", "nil"),
        ("gw.kv.incr('n') + gw.kv.incr('n', 4, 60)", "6"),
        ("tostring(gw.kv.add('a', 'x', 60)) .. tostring(gw.kv.add('a', 'y')) .. gw.kv.get('a')", "truefalsex"),
        ("tostring(gw.kv.swap('s', nil, '1')) .. tostring(gw.kv.swap('s', '2', '3')) .. gw.kv.get('s')", "truefalse1"),
        ("(gw.cache.set('c', 'v', 60))", "nil"),
        ("tostring(gw.cache.delete('c'))", "false"),
        ("pcall(gw.kv.get, 'x', 'others')", "false"),
        ("pcall(gw.kv.set, 'x', 'y', -1)", "false"),
        ("select('#', gw.limit.take('t', { limit = 2, per_s = 60 }))", "3"),
        (
            "tostring(gw.limit.take('u', { limit = 1, per = 'day' })) .. tostring(gw.limit.take('u', { limit = 1, per = 'day' }))",
            "truefalse",
        ),
        ("select(2, gw.limit.peek('p', { limit = 5, per_s = 1, kind = 'bucket' }, 2))", "5"),
        ("select(3, gw.limit.take('w', { limit = 3, per_s = 60, kind = 'fixed' }, 4))", "nil"),
        (
            "gw.limit.settle(gw.limit.reserve('r', { limit = 3, per = 'ever' }, 3), 1) and select(2, gw.limit.peek('r', { limit = 3, per = 'ever' }))",
            "2",
        ),
        ("gw.limit.settle(99, 1)", "false"),
        ("pcall(gw.limit.take, 'k', { limit = 1, per = 'at_once' })", "false"),
        ("pcall(gw.limit.take, 'k', { limit = 1, per_s = 1 }, 1, 'others')", "false"),
        ("gw.tokens.estimate('abcdefgh')", "2"),
        ("gw.targets.models()[1]", "fast"),
        ("gw.targets.get('nobody/x')", "nil"),
        ("(gw.trace.note({ why = 'x' }))", "nil"),
    ] {
        assert_eq!(shown(expression), value, "{expression}");
    }
}

#[test]
fn verdicts_are_read_whole() {
    let bench = load(
        "return {
           on_request = function(req)
             return { model = 'smart', params = { temperature = 0, top_p = gw.null }, system = 'S',
                      messages = { 1, { role = 'user', text = 'More' } }, texts = { [2] = 'x' } }
           end,
           on_route = function(req)
             return { steps = { 'a/x', { target = 'b/y', weight = 3, timeout_ms = 500, params = { seed = 1 } } },
                      mode = 'weighted', max_attempts = 2, deadline_ms = 9000 }
           end,
           on_fault = function(f) return gw.same(250) end,
         }",
    );
    assert!(matches!(load("function on_fault() return 'a/x' end").call(Phase::Fault), Ok(Verdict::Plan(_))));
    let Ok(Verdict::Patch(patch)) = bench.call(Phase::Request) else { panic!("no patch") };
    assert_eq!(patch.model.as_deref(), Some("smart"));
    assert_eq!(patch.params["temperature"], Some(json!(0)));
    assert_eq!(patch.params["top_p"], None);
    assert_eq!(patch.messages.as_ref().map(Vec::len), Some(2));
    assert_eq!(patch.messages.as_ref().and_then(|turns| turns.first()), Some(&Turn::Keep(1)));
    let Ok(Verdict::Plan(wish)) = bench.call(Phase::Route) else { panic!("no plan") };
    assert_eq!((wish.steps.len(), wish.mode, wish.max_attempts), (2, Mode::Weighted, Some(2)));
    assert_eq!(wish.steps[1].timeout, Some(Duration::from_millis(500)));
    assert_eq!(bench.call(Phase::Fault), Ok(Verdict::Same(Duration::from_millis(250))));
}

#[test]
fn short_forms_of_plans_are_plans() {
    for (text, steps) in [("'a/x'", 1), ("{ 'a/x', 'b/y' }", 2), ("{ steps = { 'a/x' } }", 1)] {
        let Ok(Verdict::Plan(wish)) = load(&format!("function on_route() return {text} end")).call(Phase::Route) else {
            panic!("{text}")
        };
        assert_eq!(wish.steps.len(), steps, "{text}");
    }
    for text in
        ["{}", "{ steps = {} }", "42", "{ steps = 'x' }", "{ { target = 1 } }", "{ mode = 'x', steps = { 'a/b' } }"]
    {
        assert!(load(&format!("function on_route() return {text} end")).call(Phase::Route).is_err(), "{text}");
    }
}

#[test]
fn a_verdict_of_another_phase_is_an_error_that_says_where_it_belongs() {
    let error = failure("function on_request() return gw.stop{} end", Phase::Request);
    assert!(error.contains("on_request cannot answer with `stop`") && error.contains("on_event"), "{error}");
}

#[test]
fn what_a_script_keeps_is_there_in_later_phases_and_is_its_own() {
    let bench = load(
        "function on_request(req, ctx) ctx:set('tier', 'gold') ctx:set('n', 3) ctx:set('gone', true) ctx:set('gone', nil) end
         function on_route(req, ctx) return ctx:get('tier') .. '/' .. ctx:get('n') .. tostring(ctx:get('gone')) end",
    );
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    let Ok(Verdict::Plan(wish)) = bench.call(Phase::Route) else { panic!("no plan") };
    assert_eq!(wish.steps[0].target, "gold/3nil");
}

#[test]
fn a_window_that_means_nothing_says_what_to_write() {
    for (window, said) in [
        ("{ per_s = 1 }", "needs `limit`"),
        ("{ limit = 1 }", "needs `per_s`"),
        ("{ limit = 1, per_s = 1, per = 'day' }", "write one"),
        ("{ limit = 1, per = 'fortnight' }", "write one of minute, hour"),
        ("{ limit = 1, per_s = 0 }", "from 0.001"),
        ("{ limit = -1, per_s = 1 }", "`limit` is -1, which is no whole number from 0"),
        ("{ limit = 2.5, per = 'day' }", "`limit` is 2.5, which is no whole number"),
        ("{ limit = 1, per_s = 1, kind = 'round' }", "\"bucket\""),
        ("{ limit = 1, pers = 1 }", "did you mean `per_s`?"),
    ] {
        let error = failure(&format!("function on_request() gw.limit.take('k', {window}) end"), Phase::Request);
        assert!(error.contains(said), "{window}: {error}");
    }
    let long = "function on_request() gw.limit.take(string.rep('k', 300), { limit = 1, per_s = 1 }) end";
    assert!(failure(long, Phase::Request).contains("1 to 256"));
}

#[test]
fn what_would_be_rounded_or_lost_is_refused_by_its_name() {
    let window = "{ limit = 10, per = 'day' }";
    for (call, said) in [
        (&*format!("gw.limit.take('k', {window}, 0.25)"), "`amount` is 0.25, which is no whole number"),
        (&format!("gw.limit.peek('k', {window}, 0/0)"), "`amount` is NaN"),
        (&format!("gw.limit.reserve('k', {window}, 0.5)"), "`amount` is 0.5"),
        (&format!("gw.limit.settle(gw.limit.reserve('k', {window}, 1), 0.01)"), "`actual` is 0.01"),
        ("gw.kv.incr('k', 1.5)", "`by` is 1.5, which is no whole number to add"),
        ("gw.cache.incr('k', 1/0)", "`by` is inf"),
        ("gw.cost.estimate('a/m', -1, 0)", "`input_tokens` is -1"),
        ("gw.cost.estimate('a/m', 1, 0/0)", "`output_tokens` is NaN"),
        ("gw.pick.weighted({ a = 1, b = 1/0 })", "the weight of `b` is inf"),
        ("gw.pick.hash({ 'a', nil, 'b' }, 'k')", "gw.pick.hash: names: nothing stands at [2], and more behind it"),
        ("gw.pick.hash({ a = 'b' }, 'k')", "gw.pick.hash: names: write a list, { …, … }; `a` is no place in one"),
        ("gw.rand.int(1.5, 3)", "`first: number`, is 1.5, which does not fit"),
        ("gw.time.date(0, 5.5)", "whole minutes"),
        ("gw.json.encode({ [1] = 'a', [1000] = 'z' })", "with the numbers up to 1000 in it, but 2 entries, is no list"),
        ("gw.json.encode({ 'a', b = 1 })", "both a list and names in it"),
        ("gw.json.encode({ [1.5] = 'a' })", "a number as a name is no JSON"),
        ("gw.trace.note({ [0] = 'a' })", "a number as a name is no JSON"),
    ] {
        let error = failure(&format!("function on_request()\n  local _ = {call}\nend"), Phase::Request);
        assert!(error.starts_with("test.luau:2: ") && error.contains(said), "{call}: {error}");
    }
    for (phase, returned, said) in [
        (Phase::Auth, "{ key = 'k', models = { 'a', nil, 'b' } }", "models: nothing stands at [2]"),
        (Phase::Auth, "{ key = 'k', models = { a = true } }", "models: write a list"),
        (Phase::Route, "{ 'a/x', nil, 'b/y' }", "steps: nothing stands at [2]"),
        (Phase::Route, "{ 'a/x', mode = 'weighted' }", "steps: write a list"),
        (Phase::Route, "{ steps = { 'a/x' }, max_attempts = 1.5 }", "max_attempts: 1.5 is no whole number"),
        (Phase::Request, "gw.respond(200, { [1] = 1, [50] = 2 })", "is no list"),
        (Phase::Done, "{ field = { [1] = 1, [50] = 2 } }", "is no list"),
    ] {
        let error = failure(&format!("function on_{}() return {returned} end", phase.name()), phase);
        assert!(error.contains(said), "{returned}: {error}");
    }
}

#[test]
fn a_caller_without_models_is_none_that_has_them_all() {
    for (models, may) in [("nil", None), ("{}", Some(vec![])), ("{ 'a' }", Some(vec!["a".to_owned()]))] {
        let text = format!("function on_auth() return {{ key = 'k', models = {models} }} end");
        let Ok(Verdict::Principal(who)) = load(&text).call(Phase::Auth) else { panic!("{models}") };
        assert_eq!(who.models, may, "{models}");
    }
}

#[test]
fn what_is_reserved_and_not_settled_ends_with_the_exchange_once() {
    let text = "function on_request(req, ctx) ctx:set('r', (gw.limit.reserve('k', { limit = 10, per = 'ever' }, 4))) end
                function on_route() return gw.limit.reserve('busy', { limit = 1, per = 'at_once' }) and 'a/free' or 'a/busy' end
                function on_fault() return gw.respond(200, tostring(select(2, gw.limit.peek('k', { limit = 10, per = 'ever' })))) end
                function on_done(d, ctx) return { held = gw.limit.settle(ctx:get('r'), 1) } end";
    let left = |bench: &super::support::Bench| match bench.call(Phase::Fault) {
        Ok(Verdict::Respond(respond)) => respond.body,
        other => panic!("{other:?}"),
    };
    let bench = load(text);
    assert_eq!(left(&bench), Body::Raw("10".into()));
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    assert_eq!(left(&bench), Body::Raw("6".into()));
    bench.visit.held.end(false, || 0);
    assert_eq!(left(&bench), Body::Raw("10".into()), "given back");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    bench.visit.held.end(true, || 0);
    assert_eq!(left(&bench), Body::Raw("6".into()), "charged");
    bench.visit.held.end(false, || 0);
    assert_eq!(left(&bench), Body::Raw("6".into()), "charged twice");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    let Ok(Verdict::Fields(fields)) = bench.call(Phase::Done) else { panic!("no fields") };
    assert_eq!((&fields["held"], left(&bench)), (&json!(true), Body::Raw("5".into())), "settled by the script");
    let target = || match bench.call(Phase::Route) {
        Ok(Verdict::Plan(wish)) => wish.steps[0].target.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!([target(), target()], ["a/free", "a/busy"]);
    bench.visit.held.end(true, || 0);
    assert_eq!(target(), "a/free", "what is under way ends with the exchange");
}

#[test]
fn globals_are_for_loading_only() {
    let bench = load(
        "limit = 3\nlocal count = 0\nfunction on_init(config) factor = 2 end\n\
         function on_request() count += 1 return gw.respond(200, tostring(limit * factor)) end\n\
         function on_route() leaked = 1 end",
    );
    assert!(matches!(bench.call(Phase::Request), Ok(Verdict::Respond(_))));
    let error = bench.call(Phase::Route).expect_err("refused").message;
    assert!(error.contains("readonly") && error.contains("keep what is of one exchange in ctx"), "{error}");
}

#[test]
fn a_view_is_gone_when_its_call_has_ended() {
    let bench = load(
        "local kept = {}\nfunction on_request(req) kept[1] = req end\nfunction on_route() return kept[1].model end",
    );
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    let error = bench.call(Phase::Route).expect_err("refused").message;
    assert!(error.contains("destructed") || error.contains("ended"), "{error}");
}

#[test]
fn settings_are_checked_by_the_script_and_are_read_only() {
    let text = "function on_init(config) if not config.target then error('target is missing') end end\n\
                function on_request() gw.config.target = 'y' end";
    let error = try_load(text, Budget::default(), json!({})).err().expect("refused");
    assert_eq!(error, "test.luau:1: target is missing");
    let bench = try_load(text, Budget::default(), json!({ "target": "x" })).expect("loads");
    assert!(bench.call(Phase::Request).expect_err("refused").message.contains("readonly"));
}

#[test]
fn what_does_not_load_says_where() {
    let error = |text: &str| try_load(text, Budget::default(), json!({})).err().unwrap_or_else(|| panic!("{text}"));
    assert!(error("local x = \nfunction on_request() end").starts_with("test.luau:2:"), "{}", error("local x = \nend"));
    assert!(error("x.y = 1").starts_with("test.luau:1: attempt to index nil"), "{}", error("x.y = 1"));
    assert!(error("return 3").contains("returns a"));
    assert!(error("local x = 1").contains("has no `on_` function, so it would never run; a hook is a global"));
    assert!(error("function on_reqest() end").contains("`on_reqest` is no hook"));
    assert!(error("on_request = 3").contains("not a function"));
    assert!(error("while true do end").contains("raise `budget."));
}

#[test]
fn modules_of_the_bundle_can_be_required_and_nothing_else() {
    let with = |main: &str| {
        let mut bundle = bundle(main);
        let module =
            Source { label: "words.luau".into(), text: "loads = (loads or 0) + 1\nreturn { n = loads }".into() };
        bundle.modules.insert("words".into(), module);
        load_bundle(bundle, Budget::default(), json!({}), Grants::default())
    };
    let bench = with(
        "local a, b = require('./words'), require('words')\n\
                      function on_request() return gw.respond(200, tostring(a == b) .. a.n) end",
    );
    let Ok(Verdict::Respond(respond)) = bench.expect("loads").call(Phase::Request) else { panic!("no answer") };
    assert_eq!(respond.body, Body::Raw("true1".into()));
    let error = with("require('/etc/passwd')\nfunction on_request() end").err().expect("refused");
    assert!(error.contains("has no module `/etc/passwd`; it has: words"), "{error}");
    let alone =
        try_load("require('words') function on_request() end", Budget::default(), json!({})).err().expect("refused");
    assert!(alone.ends_with("has no module `words`; it has: none"), "{alone}");
    let error = failure("function on_request() gw.metrics.count('x') end", Phase::Request);
    assert!(error.ends_with("the manifest declares no metric `x`; it has: none"), "{error}");
    let late = with("function on_request() require('words') end").expect("loads");
    assert!(late.call(Phase::Request).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_script_waits_and_others_go_on_meanwhile() {
    let bench = load(
        "function on_request(req, ctx) ctx:set('a', 1) gw.time.sleep(50) return gw.llm.ask{ model = 'judge', prompt = 'ok?' }.text == 'yes' and { model = 'm' } or nil end",
    );
    let (first, second) = tokio::join!(bench.wait(Phase::Request), bench.wait(Phase::Request));
    for (verdict, used) in [first, second] {
        assert!(matches!(verdict, Ok(Verdict::Patch(_))), "{verdict:?}");
        assert!(used.host_calls >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_coroutine_of_a_script_waits_too_and_shows_nothing_of_it() {
    let bench = load(
        "local function asks(name) gw.time.sleep(50) local more = coroutine.yield(name) gw.time.sleep(50) return name .. more end
         function on_request()
           local seen = {}
           local co, wrapped = coroutine.create(asks), coroutine.wrap(asks)
           local function see(...) for _, value in { ... } do table.insert(seen, tostring(value)) end end
           see(coroutine.resume(co, 'a'))
           see(wrapped('b'))
           see(coroutine.resume(co, 'c'))
           see(wrapped('d'))
           see(coroutine.status(co))
           return gw.respond(200, table.concat(seen, ' '))
         end",
    );
    let (verdict, used) = bench.wait(Phase::Request).await;
    let Ok(Verdict::Respond(respond)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(respond.body, Body::Raw("true a b true ac bd dead".into()));
    assert_eq!(used.host_calls, 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_wait_is_an_error_that_a_script_can_catch() {
    let bench = load(
        "function on_request()
           local ok, why = pcall(gw.llm.ask, { model = 'judge', prompt = 'fail' })
           return gw.reject('judge_gone', tostring(why), 503)
         end
         function on_route() gw.llm.ask{ model = 'other', prompt = 'x' } end",
    );
    for (call, said) in [
        ("gw.llm.ask{ model = 'judge', prompt = 'a', messages = {} }", "give `prompt` or `messages`, not both"),
        ("gw.http.fetch{ url = 'https://a.example', body = '', json = {} }", "give `body` or `json`, not both"),
    ] {
        let both = load(&format!("function on_request() {call} end"));
        let error = both.wait(Phase::Request).await.0.expect_err("which of them").message;
        assert!(error.contains(said), "{error}");
    }
    let (Ok(Verdict::Reject(reject)), _) = bench.wait(Phase::Request).await else { panic!("no refusal") };
    assert_eq!(reject.message, "test.luau:2: it failed");
    let error = bench.wait(Phase::Route).await.0.expect_err("ungranted").message;
    assert!(error.contains("`grants.models`"), "{error}");
}

#[test]
fn a_function_is_there_in_its_phases_only() {
    let error = failure("function on_done() gw.time.sleep(1) end", Phase::Done);
    assert!(error.contains("gw.time.sleep cannot be called in on_done"), "{error}");
    let error = try_load("gw.targets.models()\nfunction on_request() end", Budget::default(), json!({}));
    assert!(error.err().expect("refused").contains("on_init"), "targets at load");
}

#[test]
fn print_is_a_host_call_like_every_other() {
    let budget = Budget { host_calls: 3, ..Budget::default() };
    let bench = try_load("function on_request() for _ = 1, 4 do print('x') end end", budget, json!({})).expect("loads");
    let failed = bench.call(Phase::Request).expect_err("one too many");
    assert_eq!(failed.killed, Some(Killed::HostCalls));
}

#[test]
fn scripts_of_one_domain_share_a_machine_and_nothing_else() {
    let wanted = |name: &str, text: &str, domain: Option<&str>| {
        let budget = Budget { memory: 4 << 20, ..Budget::default() };
        let guest = Guest { name: name.into(), grants: Grants::default(), budget, metrics: Default::default() };
        Wanted {
            guest: guest.into(),
            bundle: bundle(text).into(),
            config: json!({ "name": name }),
            domain: domain.map(str::to_owned),
        }
    };
    let one = "secret = gw.config.name\nfunction on_request() return gw.respond(200, secret) end\nfunction on_route() error('boom') end";
    let two = "function on_request() return gw.respond(200, tostring(secret) .. gw.config.name) end";
    let load =
        |domain| crate::guest::load(vec![wanted("one", one, domain), wanted("two", two, domain)], 1).expect("loads");
    let bench = super::support::load("function on_request() end");
    let said = |engine: &crate::guest::Engine| match engine.call_now(bench.cx(Phase::Request), bench.request()).0 {
        Ok(Verdict::Respond(respond)) => respond.body,
        other => panic!("{other:?}"),
    };
    for domain in [Some("d"), None] {
        let engines = load(domain);
        assert!(engines[0].call_now(bench.cx(Phase::Route), bench.request()).0.is_err());
        assert_eq!([said(&engines[0]), said(&engines[1])], [Body::Raw("one".into()), Body::Raw("niltwo".into())]);
        let used = engines.iter().map(|engine| engine.call_now(bench.cx(Phase::Request), bench.request()).1.memory);
        let used: Vec<usize> = used.collect();
        // One machine has one size.
        assert_eq!(used[0] == used[1], domain.is_some(), "{used:?}");
    }
}

#[test]
fn an_event_that_is_kept_stands_for_nothing_after_its_call() {
    let text = "local kept
        local function why(f) return tostring(select(2, pcall(f))) end
        function on_event(e)
          if not kept then kept = e; return `{e.text} {e.kind} {e.merged} {tostring(e)} {type(e)} {getmetatable(e)}` end
          return why(function() return kept.text end) .. why(function() return e.txt end) .. why(function() e.text = 'x' end)
            .. tostring(e == kept)
        end
        function on_request() return gw.say(why(function() return kept.text end) .. why(function() return gw.null.x end)) end";
    let stand = load(text);
    let said = |phase, subject| match stand.call_with(phase, subject).0 {
        Ok(Verdict::Text(text)) => text,
        Ok(Verdict::Respond(answer)) => format!("{answer:?}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(Phase::Event, stand.event("Hi")), "Hi text 1 Event userdata false");
    let second = said(Phase::Event, stand.event("Ho"));
    for what in ["this Event is of a call that has ended", "did you mean `text`?", "a Event is read-only", "false"] {
        assert!(second.contains(what), "{what}: {second}");
    }
    let later = said(Phase::Request, stand.request());
    assert!(later.contains("of a call that has ended") && later.contains("gw.null has no `x`"), "{later}");
}
