//! Test files as authors write them, and what they are told.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;

/// A folder with a policy `p` and its test, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn with(policy: &str, test: &str) -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = std::env::temp_dir().join(format!("portcullis-trials-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("is writable");
        std::fs::write(folder.join("p.luau"), policy).expect("is writable");
        std::fs::write(folder.join("p_test.luau"), test).expect("is writable");
        Folder(folder)
    }

    fn run(&self, running: Running<'_>) -> Report {
        run(&self.0.join("p_test.luau"), running)
    }
}

const IDLE: &str = "function on_request() end\n";

/// One test with this body.
fn one(body: &str) -> String {
    format!("t.test('a', function()\n{body}\nend)\n")
}

/// What is told of a test with this body, which fails.
fn wrong(policy: &str, body: &str) -> String {
    let report = Folder::with(policy, &one(body)).run(Running::default());
    assert_eq!((report.cases.len(), &report.broken), (1, &None));
    report.cases.into_iter().find_map(|case| case.outcome.err()).unwrap_or_else(|| panic!("passes: {body}"))
}

fn passes(policy: &str, body: &str) {
    let report = Folder::with(policy, &one(body)).run(Running::default());
    assert_eq!((report.failed(), report.cases.len()), (0, 1), "{report:?}");
    assert!(report.cases[0].notes.is_empty(), "{report:?}");
}

#[test]
fn a_script_stands_for_its_tests() {
    let folder = Folder::with(IDLE, "");
    let path = |name: &str| folder.0.join(name);
    assert_eq!(files(&[path("p.luau")]), Ok(vec![path("p_test.luau")]));
    assert_eq!(files(&[path("p_test.luau"), path("")]), Ok(vec![path("p_test.luau")]));
    std::fs::remove_file(path("p_test.luau")).expect("is there");
    assert_eq!(files(&[path("p.luau")]), Ok(vec![]));
}

#[test]
fn a_typo_of_a_scene_fails_the_test_at_its_line_with_the_nearest_word() {
    let chat = "t.chat({ model = 'a/m', text = 'x' })";
    for (body, told) in [
        ("t.upstream('a/m'):fails({ code = 'content_polcy' })", "did you mean `content_policy`?"),
        ("t.upstream('a/m'):fails({ stat = 503 })", ":fails has no `stat`; did you mean `status`?"),
        ("t.upstream('a/m'):answers('x', { finsh = 'stop' })", "did you mean `finish`?"),
        ("t.upstream('a/m'):answers('x', { finish = 'stopp' })", "did you mean `stop`?"),
        ("t.upstream('a/m'):streams('hello')", "it takes a list of texts"),
        ("t.upstream('a/m'):sends('x', { gapms = 1 })", "did you mean `gap_ms`?"),
        ("t.upstream('a/m'):anwsers('x')", "an upstream has no `anwsers`; did you mean `answers`?"),
        ("t.target('a/m', { price = 1 })", "did you mean `price_in`?"),
        ("t.target('a/m', { standing = 'openn' })", "did you mean `open`?"),
        ("t.chat({ model = 'a/m', txt = 'x' })", "did you mean `text`?"),
        ("t.send({ path = '/v1/models', metod = 'GET' })", "did you mean `method`?"),
        ("t.advanse(5)", "t has no `advanse`; did you mean `advance`?"),
        ("t.budget(5)", "this test has made no exchange yet"),
        ("t.chat({ model = 'a/m', text = 'x', stream = true, split = 0 })", "bytes of a piece; write 1 or more"),
        ("t.upstream('a/m'):unreachable({ after_ms = 1e300 })", "it takes a number from 0 to 1e12"),
        ("t.advance(1e300)", "t.advance takes milliseconds, from 0 to 1e12"),
    ] {
        let said = wrong(IDLE, body);
        assert!(said.contains("p_test.luau:2: ") && said.contains(told), "{body}: {said}");
    }
    for (read, told) in [
        (".tires", "an answer has no `tires`; did you mean `tries`?"),
        (".record.ussage", "a record has no `ussage`; did you mean `usage`?"),
        (".sent[1].boddy", "a request that was sent has no `boddy`; did you mean `body`?"),
    ] {
        let said = wrong(IDLE, &format!("return {chat}{read}"));
        assert!(said.contains("p_test.luau:2: ") && said.contains(told), "{read}: {said}");
    }
    // What an answer may have and this one has not is nothing.
    passes(IDLE, &format!("t.eq({chat}.code, nil)\nt.eq({chat}.record.error, nil)"));
}

#[test]
fn a_budget_is_not_that_of_the_test_before() {
    let chat = one("t.chat({ model = 'a/m', text = 'x' })");
    let report = Folder::with(IDLE, &format!("{chat}{}", one("t.budget(100)"))).run(Running::default());
    assert_eq!(report.failed(), 1, "{report:?}");
}

#[test]
fn a_test_that_does_not_end_is_told_with_its_line_and_the_others_run() {
    let running = Running { each: Duration::from_millis(200), ..Running::default() };
    for body in [
        "while true do end",
        // Nothing that catches errors goes on.
        "while true do pcall(function() while true do end end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    ] {
        let test = format!("{}{}", one(&format!("local x\n{body}")), one("t.eq(1, 1)"));
        let report = Folder::with(IDLE, &test).run(running);
        assert_eq!((report.cases.len(), report.failed()), (2, 1), "{report:?}");
        let told = report.cases[0].outcome.as_ref().expect_err("hangs");
        assert!(told.contains("p_test.luau:3: did not end within 200ms"), "{body}: {told}");
    }
    // What stands outside of tests is bounded too.
    let report = Folder::with(IDLE, "while true do end\n").run(running);
    assert!(report.broken.as_ref().is_some_and(|told| told.contains("p_test.luau:1: did not end")), "{report:?}");
}

#[test]
fn an_exchange_that_never_ends_is_told_with_its_line() {
    let watch = Arc::new(Watch::new(Duration::from_millis(100)).expect("a watch"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("builds");
    let told = stage::wait(&runtime, &watch, std::future::pending::<()>()).expect_err("never ends");
    assert!(told.contains("did not end within 100ms of real time"), "{told}");
    watch.renew();
    assert!(!watch.is_over());
    assert_eq!(stage::wait(&runtime, &watch, async { 7 }), Ok(7));
    // A clock that runs by itself is no end either.
    let told = stage::wait(&runtime, &watch, async {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
    assert!(told.is_err());
}

#[test]
fn only_the_tests_that_are_wanted_run() {
    let test = "t.test('good', function() end)\nt.test('bad', function() error('no') end)\n";
    let folder = Folder::with(IDLE, test);
    let ran = |filter| {
        let report = folder.run(Running { filter: Some(filter), ..Running::default() });
        (report.cases.len(), report.failed())
    };
    assert_eq!((ran("good"), ran("bad"), ran("ugly")), ((1, 0), (1, 1), (0, 0)));
}

/// Asks a host who may come in.
const ASKING: &str = "function on_request(req)\n\
    \tlocal got = gw.http.fetch({ url = 'https://idp.test/keys' })\n\
    \treturn gw.say(got.status .. ' ' .. got.body)\nend\n";

#[test]
fn a_host_is_scripted_by_its_name_and_told_how_where_it_is_not() {
    let grants = "t.grants({ http = { 'idp.test' } })\nt.hook({ fail = 'closed' })\n";
    let ask = "local answer = t.chat({ model = 'a/m', text = 'x' })\n";
    passes(
        ASKING,
        &format!(
            "{grants}t.upstream('idp.test'):answers(nil, {{ body = {{ ok = true }} }}):answers('plain')\n\
             :fails({{ status = 503, message = 'later' }})\n\
             {ask}t.eq(answer.text, '200 {{\"ok\":true}}')\nt.eq(answer.sent[1].target, 'idp.test')\n\
             t.eq(answer.sent[1].url, 'https://idp.test/keys')\n\
             t.eq(t.chat({{ model = 'a/m', text = 'x' }}).text, '200 plain')\n\
             t.eq(t.chat({{ model = 'a/m', text = 'x' }}).text, '503 later')"
        ),
    );
    let report =
        Folder::with(ASKING, &one(&format!("{grants}{ask}t.eq(answer.code, 'policy_failed')"))).run(Running::default());
    assert_eq!(report.failed(), 0, "{report:?}");
    let note = report.cases[0].notes.concat();
    assert!(note.contains("`idp.test`: nobody outside is asked in tests"), "{note}");
    assert!(note.contains("t.upstream(\"idp.test\"):answers(nil, { body ="), "{note}");
}

#[test]
fn a_policy_has_its_turns_when_it_is_loaded_and_as_time_passes() {
    let policy = "--[[manifest\ntick = \"30s\"\n]]\nlocal turns, seen = 0, ''\n\
        function on_tick()\n\tturns += 1\n\tseen = gw.http.fetch({ url = 'http://idp.test/' }).body\nend\n\
        function on_request() return gw.say(turns .. ' ' .. seen) end\n";
    let ask = "t.chat({ model = 'a/m', text = 'x' }).text";
    passes(
        policy,
        &format!(
            "t.grants({{ http = {{ 'idp.test' }} }})\nt.advance(60000)\nt.upstream('idp.test'):answers('old')\n\
             t.eq({ask}, '1 old')\nt.advance(29999)\nt.eq({ask}, '1 old')\n\
             t.upstream('idp.test'):answers('new')\nt.advance(1)\nt.eq({ask}, '2 new')\n\
             t.advance(60000)\nt.eq({ask}, '4 new')"
        ),
    );
    let failing = "--[[manifest\ntick = \"30s\"\n]]\nfunction on_tick() error('no turn') end\n";
    let report = Folder::with(failing, &one(ask)).run(Running::default());
    assert_eq!(report.failed(), 1, "an expression is no statement: {report:?}");
    let report = Folder::with(failing, &one(&format!("t.ok({ask})"))).run(Running::default());
    assert!(report.cases[0].notes.concat().contains("no turn"), "{report:?}");
}

#[test]
fn messages_are_the_callers_whatever_they_hold() {
    let body = "local messages = {\n\
        { role = 'system', text = 'Be brief.' },\n\
        { role = 'user', content = { { type = 'text', text = 'Look' }, { type = 'image_url', image_url = { url = 'https://x.test/a.png' } } } },\n\
        { role = 'assistant', tool_calls = { { id = 'c1', name = 'look', arguments = { at = 1 } } } },\n\
        { role = 'tool', tool_call_id = 'c1', text = 'a cat' },\n\
        }\n\
        for _, dialect in { 'openai_chat', 'anthropic', 'gemini', 'openai_responses' } do\n\
        local sent = t.chat({ model = 'a/m', messages = messages, dialect = dialect, max_tokens = 9 }).sent[1].body.messages\n\
        t.eq(#sent, 4, dialect)\n\
        t.eq(sent[2].content[2].image_url.url, 'https://x.test/a.png')\n\
        t.eq(sent[3].tool_calls[1]['function'], { name = 'look', arguments = '{\"at\":1}' })\n\
        t.eq(sent[4].role, 'tool')\n\
        t.eq(sent[4].tool_call_id, sent[3].tool_calls[1].id)\n\
        end";
    passes(IDLE, body);
    let ask = |message: &str| format!("t.chat({{ model = 'a/m', messages = {{ {message} }} }})");
    assert!(wrong(IDLE, &ask("{ role = 'user', txt = 'x' }")).contains("did you mean `text`?"));
    assert!(wrong(IDLE, &ask("{ role = 'asistant', text = 'x' }")).contains("did you mean `assistant`?"));
    assert!(wrong(IDLE, &ask("{ text = 'x' }")).contains("has no `role`"));
}

#[test]
fn tables_are_told_as_tables_however_deep_they_are() {
    let told = wrong(IDLE, "t.eq({ a = { b = { c = { d = { e = { f = { 1 } } } } } } }, nil)");
    assert!(told.contains("f = { 1 }"), "{told}");
    let told = wrong(IDLE, "local a = {}\na.a = a\nt.eq(a, nil)");
    assert!(told.contains("{ … }"), "{told}");
}

/// The policy may fail on the way, and the test passes.
fn holds(policy: &str, body: &str) {
    let report = Folder::with(policy, &one(body)).run(Running::default());
    assert_eq!((report.failed(), report.cases.len()), (0, 1), "{report:?}");
}

#[test]
fn a_policy_that_fails_again_and_again_is_not_switched_off_in_a_test() {
    let body = "for number = 1, 25 do
        local answer = t.chat({ model = 'a/m', text = 'x' })
        t.contains(answer.failed, 'boom', `exchange {number}`)
      end";
    holds("function on_request() error('boom') end\n", body);
}

#[test]
fn a_stream_is_complete_that_came_to_its_end_and_codes_are_spelt_alike_in_every_dialect() {
    let policy = "--[[manifest\nguard = true\nstream = \"event\"\n]]\n\
        function on_request(req) if req:header('x-no') then return gw.reject('my_code', 'No.', 400) end end\n\
        function on_event(event) if string.find(event.text, 'bad') then return gw.stop({ message = 'No.', code = 'nope' }) end end\n";
    let body = "for _, dialect in { 'openai_chat', 'openai_responses', 'anthropic', 'gemini' } do
        local function ask(headers)
          return t.chat({ model = 'a/m', text = 'x', stream = true, dialect = dialect, headers = headers })
        end
        t.upstream('a/m'):streams({ 'all ', 'well' })
        t.eq(ask().complete, true, dialect)
        local refused = t.chat({ model = 'a/m', text = 'x', dialect = dialect, headers = { ['x-no'] = '1' } })
        t.eq({ refused.own_code, refused.code }, { 'my_code', 'policy_rejected' }, dialect)
        local long = string.rep('all is well. ', 100)
        t.upstream('a/m'):streams({ long, long, 'bad' })
        local stopped = ask()
        t.eq({ stopped.complete, stopped.own_code, stopped.code }, { false, 'nope', 'nope' }, dialect)
        t.upstream('a/m'):cuts({ long, long })
        local broken = ask()
        t.eq({ broken.complete, broken.code }, { false, 'stream_broken' }, dialect)
      end";
    holds(policy, body);
}

#[test]
fn a_policy_that_overran_in_a_stream_is_left_alone_for_the_rest_of_it() {
    let policy = |guard: bool| {
        format!(
            "--[[manifest\nguard = {guard}\nstream = \"event\"\n]]\n\
             function on_event() gw.kv.incr('calls') while true do end end\n\
             function on_done() return {{ calls = tonumber(gw.kv.get('calls')) }} end\n"
        )
    };
    let body = "t.upstream('a/m'):streams({ 'one ', 'two ', 'three ', 'four' })
        local answer = t.chat({ model = 'a/m', text = 'x', stream = true })
        t.contains(answer.failed, 'loop turns and calls')
        t.eq(answer.record.policy.calls, 1)";
    holds(&policy(false), &format!("{body} t.eq(answer.text, 'one two three four') t.eq(answer.complete, true)"));
    holds(&policy(true), &format!("{body} t.eq(answer.code, 'policy_failed')"));
}

/// Puts something else in the place of a word, in whatever is sent, and a header beside it.
const CLEAN: &str = "--[[manifest\nguard = true\n]]\n\
    function on_attempt(try)\n\
      local texts = {}\n\
      for _, x in try:request():texts() do\n\
        if x.text == 'break' then error('broken') end\n\
        texts[x.index] = gw.re.replace('secret', x.text, '[x]')\n\
      end\n\
      return { texts = texts, headers = { ['x-try'] = `{try.number} {try.target}` } }\n\
    end\n\
    function on_answer() gw.kv.incr('answers') end\n\
    function on_done() return { answers = tonumber(gw.kv.get('answers')) } end\n";

#[test]
fn what_goes_on_after_a_cut_passes_the_policies_like_any_other_try() {
    let body = "t.model('smart', { fallback = { 'a/m', 'b/m' }, continue_on_cut = true })
        t.upstream('a/m'):cuts({ 'Start of ', 'it' })
        t.upstream('b/m'):streams({ ' all' })
        local answer = t.chat({ model = 'smart', text = 'my secret', stream = true, max_tokens = 90 })
        t.eq(answer.text, 'Start of it all')
        t.eq(#answer.sent, 2)
        t.eq(answer.sent[1].headers['x-try'], '1 a/m')
        t.eq(answer.sent[2].headers['x-try'], '2 b/m')
        local turns = answer.sent[2].body.messages
        t.eq(turns[1].content, 'my [x]')
        t.eq(turns[2].content, 'Start of it')
        t.eq(#turns, 3)
        t.eq(answer.sent[2].body.max_tokens < 90, true)";
    holds(CLEAN, body);
    // What it says in another order stands before what the model has said.
    let anew = "function on_attempt(try) return { messages = { { role = 'user', text = 'Anew' } } } end\n";
    let turns = "t.model('smart', { fallback = { 'a/m', 'b/m' }, continue_on_cut = true })
        t.upstream('a/m'):cuts({ 'Start' })
        t.upstream('b/m'):streams({ ' all' })
        local turns = t.chat({ model = 'smart', text = 'x', stream = true }).sent[2].body.messages
        t.eq({ turns[1].content, turns[2].content, #turns }, { 'Anew', 'Start', 3 })";
    holds(anew, turns);
    // A guard that fails keeps it from being asked.
    let guard = "--[[manifest\nguard = true\n]]\nfunction on_attempt(try) if try.number > 1 then error('no') end end\n";
    let failing = "t.model('smart', { fallback = { 'a/m', 'b/m' }, continue_on_cut = true })
        t.upstream('a/m'):cuts({ 'Start' })
        local answer = t.chat({ model = 'smart', text = 'x', stream = true })
        t.eq(#answer.sent, 1)
        t.eq(answer.complete, false)
        t.contains(answer.failed, 'no')";
    holds(guard, failing);
}

#[test]
fn a_copy_for_a_mirror_passes_the_policies_and_its_answer_does_not() {
    let model = "t.model('smart', { target = 'a/m', mirror = { target = 'b/m', share = '100%' } })\n";
    // The copy goes its own way: now and then an exchange is over before it.
    let body = "local answer, asks
        for at = 1, 50 do
          asks = at
          answer = t.chat({ model = 'smart', text = 'my secret' })
          if #answer.sent == 2 then break end
        end
        t.eq(#answer.sent, 2)
        for _, sent in answer.sent do
          t.eq(sent.headers['x-try'], `1 {sent.target}`)
          t.eq(sent.body.messages[1].content, 'my [x]')
        end
        t.eq(answer.record.policy.answers, asks)
        t.eq(#answer.tries, 1)";
    holds(CLEAN, &format!("{model}{body}"));
    let guard =
        "--[[manifest\nguard = true\n]]\nfunction on_attempt(try) if try.target == 'b/m' then error('no') end end\n";
    let kept = "local answer = t.chat({ model = 'smart', text = 'x' })
        t.eq({ #answer.sent, answer.sent[1].target, answer.status }, { 1, 'a/m', 200 })";
    holds(guard, &format!("{model}{kept}"));
}

#[test]
fn policies_are_asked_where_every_target_of_the_model_is_out() {
    let scene = |standing: &str| {
        format!(
            "t.model('smart', {{ 'a/m' }}) t.target('b/m', {{}}) t.target('a/m', {{ standing = '{standing}' }})\n\
             local answer = t.chat({{ model = 'smart', text = 'x' }})\n"
        )
    };
    for standing in ["open", "drained"] {
        let scene = scene(standing);
        holds("function on_route() return 'b/m' end\n", &format!("{scene}t.eq(answer.target, 'b/m')"));
        holds("function on_fault() return 'b/m' end\n", &format!("{scene}t.eq(answer.target, 'b/m')"));
        holds("function on_request() return { model = 'b/m' } end\n", &format!("{scene}t.eq(answer.target, 'b/m')"));
        let told = "function on_fault(f) return gw.say(`{f.kind} {f.target} {f.number} {f.remaining}`) end\n";
        let said = format!("{scene}t.eq(answer.text, 'no_target_available a/m 0 0') t.eq(#answer.tries, 0)");
        holds(told, &said);
        // Who has nothing to say changes nothing, nor does one who names whom nobody can ask.
        for policy in [
            "function on_request() end function on_route() end function on_fault() end\n",
            "function on_fault() return gw.same(0) end\n",
            "function on_fault() return 'next' end\n",
            "function on_fault() return 'a/m' end\n",
            "function on_route() return 'a/m' end\n",
        ] {
            let body = "t.eq({ answer.status, answer.code, #answer.tries }, { 503, 'no_target_available', 0 })";
            holds(policy, &format!("{scene}{body}"));
        }
    }
}

#[test]
fn the_gateways_own_parameters_are_not_a_trys() {
    let attempt = "function on_attempt() return { params = { model = 'dear' } } end\n";
    let step = "function on_route() return { steps = { { target = 'a/m', params = { stream = true } } } } end\n";
    for (policy, name) in [(attempt, "model"), (step, "stream")] {
        let body = format!(
            "local answer = t.chat({{ model = 'a/m', text = 'x' }})
             t.contains(answer.failed, '`{name}` is no parameter; patch `model`, and leave `stream` alone')
             t.eq(answer.sent[1].body.model, 'm')
             t.eq(answer.sent[1].body.stream, nil)"
        );
        holds(policy, &body);
    }
}

#[test]
fn last_words_go_into_the_choice_that_ends() {
    let policy = "--[[manifest\nstream = \"event\"\n]]\n\
        function on_event(event) if event.choice == 0 and string.find(event.text, 'B') then return gw.stop({ text = 'LAST' }) end end\n";
    let body = "local function chunk(choice, text)
          return `data: \\{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[\\{\"index\":{choice},\"delta\":\\{\"content\":\"{text}\"}}]}\\n\\n`
        end
        t.upstream('a/m'):sends(chunk(0, 'A0') .. chunk(1, 'A1') .. chunk(0, 'B') .. chunk(1, 'C'))
        local answer = t.chat({ model = 'a/m', text = 'x', stream = true, params = { n = 2 } })
        local texts = { [0] = '', [1] = '' }
        for _, event in answer.events do
          for _, choice in event.choices do
            texts[choice.index] ..= choice.delta.content or ''
          end
        end
        t.eq({ texts[0], texts[1] }, { 'A0LAST', 'A1' })";
    holds(policy, body);
}

/// Names its model in the path alone, and throws at what it cannot read.
const ADAPTER: &str = "--[[manifest\n[adapter]\noperations = [\"chat\"]\nframing = \"lines\"\n]]\n\
    function encode(ask)\n\
      return { path = '/models/' .. ask.model .. '/talk', body = { prompt = 'x' }, streamed = ask.streamed }\n\
    end\n\
    function decode(answer)\n\
      return { text = gw.json.decode(answer.body).say .. '!', finish = 'stop' }\n\
    end\n\
    function decoder() return function(line) return { { text = line }, { finish = 'stop' } } end end\n";

#[test]
fn an_adapter_is_answered_by_the_target_that_it_speaks_to_wherever_it_names_its_model() {
    let body = "t.model('smart', { fallback = { 'a/one', 'a/two' }, retry = { per_target = 1 } })
        t.upstream('a/one'):fails({ status = 503 })
        t.upstream('a/two'):answers(nil, { body = { say = 'two' } })
        local answer = t.chat({ model = 'smart', text = 'x' })
        t.eq(answer.text, 'two!')
        t.eq(answer.tries, { 'a/one', 'a/two' })
        t.eq({ answer.sent[1].target, answer.sent[2].target }, { 'a/one', 'a/two' })
        t.contains(answer.sent[2].url, '/models/two/talk')
        t.upstream('a/one'):sends('streamed')
        t.eq(t.chat({ model = 'a/one', text = 'x', stream = true }).text, 'streamed')";
    passes(ADAPTER, body);
    let report = Folder::with(
        ADAPTER,
        &one("t.upstream('a/one'):answers(nil, { body = { says = 'one' } })
        local answer = t.chat({ model = 'a/one', text = 'x' })
        t.eq(answer.code, 'guest_failed')
        t.contains(answer.failed, 'p.luau:10:')
        t.contains(answer.failed, 'decode: ')"),
    )
    .run(Running::default());
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.cases[0].notes[0].starts_with("the adapter failed on the way: decode: "), "{report:?}");
}

#[test]
fn a_stream_states_the_usage_that_the_test_gave_it() {
    let body = "t.target('a/m', { price_in = 1, price_out = 2 })
        t.upstream('a/m'):streams({ 'some', ' words' }, { input_tokens = 1000, output_tokens = 100 })
        local answer = t.chat({ model = 'a/m', text = 'x', stream = true })
        t.eq({ answer.record.usage.input, answer.record.usage.output }, { 1000, 100 })
        t.near(answer.cost, 0.0012, 0.0000001)";
    passes(IDLE, body);
}

#[test]
fn a_refusal_by_an_answer_is_a_failed_try_for_policies_and_stays_the_answer_where_they_know_no_better() {
    let policy = "--[[manifest\nversion = '1'\n]]\n\
        function on_fault(f)\n\
          if f.kind ~= 'content_policy' then return nil end\n\
          local wants = f:request():header('x-wants')\n\
          if wants == 'other' then return { 'b/m' } end\n\
          if wants == 'no' then return gw.reject('not_here', 'Not here.', 422) end\n\
          return nil\n\
        end\n\
        function on_done(done) return { attempts = done.attempts, cost = done.cost } end\n";
    let body = "for _, dialect in { 'openai_chat', 'openai_responses', 'anthropic', 'gemini' } do
        for _, stream in { false, true } do
          for _, finish in { 'content_filter', 'refusal' } do
            local what = `{dialect} {stream} {finish}`
            local function ask(wants)
              t.upstream('a/m'):answers('', { finish = finish })
              t.upstream('b/m'):answers('Well.')
              return t.chat({ model = 'a/m', text = 'x', dialect = dialect, stream = stream, headers = { ['x-wants'] = wants } })
            end
            local other = ask('other')
            t.eq({ other.status, other.text, other.target, #other.sent }, { 200, 'Well.', 'b/m', 2 }, what)
            local no = ask('no')
            t.eq({ no.status, no.own_code, #no.sent }, { 422, 'not_here', 1 }, what)
            local left = ask('nothing')
            t.eq({ left.status, left.target, #left.sent }, { 200, 'a/m', 1 }, what)
            t.eq(left.record.policy.attempts, 1, what)
          end
        end
      end";
    holds(policy, body);
}

#[test]
fn policies_are_asked_after_the_last_try_that_is_allowed_and_may_allow_more() {
    let ten = "local names = { 'a/m' } for at = 1, 9 do table.insert(names, `p{at}/m`) end
        for _, name in names do t.upstream(name):fails({ status = 429 }) end
        t.model('smart', names)
        local answer = t.chat({ model = 'smart', text = 'x' })\n";
    let apology = "function on_fault(f) if f.number == 5 then return gw.say('Nobody.') end end\n";
    holds(apology, &format!("{ten} t.eq({{ answer.status, answer.text, #answer.sent }}, {{ 200, 'Nobody.', 5 }})"));
    for (most, tries) in [(9, 9), (2, 2), (1, 1)] {
        let plan = format!(
            "function on_fault(f) if f.number == 1 then return {{ steps = {{ 'p1/m', 'p2/m', 'p3/m', 'p4/m', 'p5/m', \
             'p6/m', 'p7/m', 'p8/m', 'p9/m' }}, max_attempts = {most} }} end end\n"
        );
        holds(&plan, &format!("{ten} t.eq({{ answer.status, #answer.sent }}, {{ 429, {tries} }})"));
    }
    // Nor can it go on without end, or without time.
    let on = "function on_fault(f) return { steps = { 'b/m' } } end\n";
    holds(on, &format!("{ten} t.eq({{ answer.status, #answer.sent }}, {{ 429, 5 }})"));
}

#[test]
fn what_a_policy_says_where_no_words_are_asked_for_is_its_failure() {
    let says = "function on_request(req) return gw.say('Hello') end\n\
        function on_done(done) return { key = done.key } end\n";
    let body = "t.key({ name = 'ann' }) t.upstream('a/m'):sends('{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.5]}],\
        \"model\":\"m\",\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}}')
        local answer = t.send({ path = '/v1/embeddings', body = { model = 'a/m', input = 'x' } })
        t.eq(answer.status, 200)
        t.contains(answer.failed, 'wants no words')
        local counted = t.send({ path = '/v1/messages/count_tokens', dialect = 'anthropic',
          body = { model = 'a/m', messages = { { role = 'user', content = 'x' } } } })
        t.contains(counted.failed, 'wants no words')
        local broken = t.send({ path = '/v1/chat/completions', body = '{bad' })
        t.eq({ broken.status, broken.record.policy.key }, { 400, 'ann' })";
    holds(says, body);
    let model = "function on_request(req) return { model = 'smrat' } end\n";
    let unknown = "t.model('smart', { 'a/m', 'b/m' })
        local answer = t.chat({ model = 'smart', text = 'x' })
        t.eq({ answer.status, answer.target }, { 200, 'a/m' })
        t.contains(answer.failed, 'No model is called `smrat`')";
    holds(model, unknown);
}

/// One call with its arguments in two pieces, as a chat server streams it.
const CALLING: &str = "local function chunk(delta, finish)
          return `data: \\{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[\\{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish or 'null'}}]}\\n\\n`
        end
        local function calls(kind, field, pieces)
          local said = chunk(`\\{\"content\":\"Look.\"}`)
            .. chunk(`\\{\"tool_calls\":[\\{\"index\":0,\"id\":\"c1\",\"type\":\"{kind}\",\"{kind}\":\\{\"name\":\"f\",\"{field}\":\"\"}}]}`)
          for _, piece in pieces do
            local text = string.gsub(piece, '\"', '\\\\\"')
            said ..= chunk(`\\{\"tool_calls\":[\\{\"index\":0,\"{kind}\":\\{\"{field}\":\"{text}\"}}]}`)
          end
          return said .. chunk('{}', '\"tool_calls\"') .. 'data: [DONE]\\n\\n'
        end\n";

#[test]
fn what_tools_are_called_with_in_a_stream_passes_policies_that_ask_for_it_between_all_dialects() {
    let policy = "--[[manifest\nguard = true\nstream = \"event\"\narguments = true\n]]\n\
        function on_event(event, ctx)\n\
          if not event.tool then return nil end\n\
          if event.kind == 'end' then ctx:set('ends', (ctx:get('ends') or 0) + 1) return nil end\n\
          assert(event.kind == 'arguments' and event.tool == 'f', event.kind)\n\
          return (string.gsub(event.text, 'Rome', 'Oslo'))\n\
        end\n\
        function on_done(done, ctx) return { ends = ctx:get('ends') } end\n";
    let body = "local all = { 'openai_chat', 'openai_responses', 'anthropic', 'gemini' }
        for _, upstream in all do
          t.target('a/m', { dialect = upstream })
          t.upstream('a/m'):answers('Look.', { tool_calls = { { id = 'call_1', name = 'f', arguments = { city = 'Rome' } } } })
          for _, dialect in all do
            local what = `{dialect} of {upstream}`
            local answer = t.chat({ model = 'a/m', text = 'x', stream = true, dialect = dialect, max_tokens = 9 })
            t.eq({ answer.text, answer.complete, answer.failed }, { 'Look.', true }, what)
            t.eq(#answer.tool_calls, 1, what)
            t.eq(answer.tool_calls[1].arguments, '{\"city\":\"Oslo\"}', what)
            t.eq(answer.record.policy.ends, 1, what)
          end
        end";
    holds(policy, body);
}

#[test]
fn what_tools_are_called_with_is_put_together_held_back_and_stopped_as_text_is() {
    let policy = |more: &str, body: &str| {
        format!(
            "--[[manifest\nguard = true\n{more}\n]]\n\
             local function note(event, ctx) ctx:set('seen', `{{ctx:get('seen') or ''}}{{event.kind}} {{event.tool}} {{event.text}};`) end\n\
             function on_event(event, ctx) note(event, ctx) {body} end\n\
             function on_done(done, ctx) return {{ seen = ctx:get('seen') }} end\n"
        )
    };
    let ask = "local function ask() return t.chat({ model = 'a/m', text = 'x', stream = true }) end\n";
    let two = "t.upstream('a/m'):sends(calls('function', 'arguments', { '{\"a\":', '1}' }))\n";
    let case = |more: &str, decides: &str, body: &str| {
        holds(&policy(more, decides), &format!("{CALLING}{ask}{two}local answer = ask()\n{body}"));
    };
    let (each, whole) = ("stream = \"event\"\narguments = true", "stream = \"buffer\"\narguments = true");
    let unchanged = "t.eq({ answer.text, answer.tool_calls[1].arguments, answer.finish }, { 'Look.', '{\"a\":1}', 'tool_calls' })\n";
    let seen = |what: &str| format!("{unchanged}t.eq(answer.record.policy.seen, '{what}')");
    case("stream = \"event\"", "return nil", &seen("text nil Look.;end nil ;"));
    case(each, "return nil", &seen("text nil Look.;end nil ;arguments f {\"a\":;arguments f 1};end f ;"));
    case(whole, "return nil", &seen("text nil Look.;end nil ;arguments f {\"a\":1};end f ;"));
    let held = "if not event.tool then return nil end
        local text = (ctx:get('held') or '') .. event.text
        ctx:set('held', text)
        return if event.kind == 'end' then text else gw.drop()";
    case(each, held, unchanged);
    let shadow = format!("t.hook({{ shadow = true }})\n{two}answer = ask()\n{unchanged}");
    case(each, "return if event.tool then 'x' else nil", &shadow);
    let stop = |how: &str| format!("if event.text == '1}}' then return gw.stop({how}) end");
    case(
        each,
        &stop("{ message = 'No.', code = 'no' }"),
        "t.eq({ answer.own_code, answer.complete }, { 'no', false })",
    );
    let ended = "t.eq({ answer.text, answer.complete, answer.failed }, { 'Look.Enough.', true })";
    case(each, &stop("{ text = 'Enough.' }"), ended);
    case(each, &stop("{}"), "t.eq({ answer.finish, answer.complete }, { 'content_filter', true })");
    // What a tool of free text is given is no JSON.
    let free = format!(
        "{CALLING}{ask}t.upstream('a/m'):sends(calls('custom', 'input', {{ 'say', ' it' }}))\n\
         t.eq(ask().record.policy.seen, 'text nil Look.;end nil ;text f say;text f  it;end f ;')"
    );
    holds(&policy(each, "return nil"), &free);
}

#[test]
fn what_was_held_of_a_stream_that_came_to_nothing_is_not_of_the_next_one() {
    let holder = "--[[manifest\nguard = true\nstream = \"event\"\n]]
        function on_event(event, ctx)
          local held = (ctx:get('held') or ctx:get('first') or '') .. event.text
          ctx:set('pieces', (ctx:get('pieces') or 0) + 1)
          ctx:set('held', held)
          return if event.kind == 'end' then held else ''
        end
        function on_request(req, ctx) ctx:set('first', '> ') end
        function on_fault(failure, ctx) ctx:set('faults', (ctx:get('faults') or 0) + 1) end
        function on_done(done, ctx) return { pieces = ctx:get('pieces'), faults = ctx:get('faults') } end";
    for (dialect, cut) in [("openai_chat", "cuts"), ("anthropic", "stalls")] {
        passes(
            holder,
            &format!(
                "t.model('smart', {{ fallback = {{ 'a/m', 'b/m' }}, retry = {{ attempts = 4 }} }})
                 t.upstream('a/m'):{cut}({{ 'Hel', 'lo' }})
                 t.upstream('b/m'):streams({{ 'Good ', 'day.' }})
                 local answer = t.chat({{ model = 'smart', text = 'x', stream = true, dialect = '{dialect}', max_tokens = 9 }})
                 t.eq(answer.text, '> Good day.')
                 t.eq(answer.record.policy, {{ pieces = 3, faults = #answer.tries - 1 }})"
            ),
        );
    }
    // Beside each other, too.
    passes(
        holder,
        "t.model('smart', { fallback = { 'a/m', 'b/m' }, hedge = { after = '50ms', budget = '100%' } })
         t.upstream('a/m'):streams({ 'A ', 'slow ', 'one ', 'at ', 'its ', 'own ', 'pace.' }, { gap_ms = 30 })
         t.upstream('b/m'):streams({ 'Good ', 'day.' }, { gap_ms = 20 })
         local answer = t.chat({ model = 'smart', text = 'x', stream = true })
         t.eq(#answer.tries, 2)
         t.eq(answer.text, '> Good day.')
         t.eq(answer.record.policy, { pieces = 3 })",
    );
}
