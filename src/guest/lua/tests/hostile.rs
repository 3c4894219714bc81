//! Scripts that want to hurt. None survives its budget by much, none takes the process or its machine along.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::support::{Bench, load, try_load};
use crate::guest::tests::{PAST, PAST_UNOPTIMISED, thread_time};
use crate::guest::{Engine, Verdict, stand};
use crate::host::{Budget, Grants, Guest, Killed, Phase};

/// The sixteen runaways: each runs until it is stopped.
const RUNAWAYS: &[(&str, &str)] = &[
    ("a loop", "while true do end"),
    ("a counting loop", "local i = 0 repeat i += 1 until false"),
    ("a loop of calls", "while true do math.sin(1) end"),
    ("a loop under pcall", "while true do pcall(function() while true do end end) end"),
    ("pcall in pcall", "local function f() pcall(f) pcall(f) end f() while true do pcall(f) end"),
    ("a coroutine", "local co = coroutine.wrap(function() while true do end end) co()"),
    (
        "coroutines that yield",
        "while true do local co = coroutine.create(function() while true do coroutine.yield() end end) for i = 1, 100 do coroutine.resume(co) end end",
    ),
    (
        "a pattern that blows up",
        "string.find(string.rep('a', 5000), string.rep('a?', 40) .. string.rep('a', 5001)) while true do string.find(string.rep('a', 2000), '.-.-.-.-b') end",
    ),
    ("a callback of gsub", "string.gsub(string.rep('x', 100), 'x', function() while true do end end)"),
    (
        "a callback of sort",
        "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) while true do end return a < b end)",
    ),
    (
        "an index metamethod",
        "local t = setmetatable({}, { __index = function(t, k) while true do end end }) local x = t.y",
    ),
    ("a tostring metamethod", "tostring(setmetatable({}, { __tostring = function() while true do end end }))"),
    ("big concats", "local t = {} for i = 1, 10000 do t[i] = 'xxxxxxxxxx' end while true do table.concat(t) end"),
    ("big reps", "while true do string.rep('x', 1000000) end"),
    (
        "a returned table whose metatable loops",
        "return setmetatable({}, { __index = function() while true do end end, __iter = function() while true do end end, __len = function() while true do end end })",
    ),
    (
        "an error value whose tostring loops",
        "error(setmetatable({}, { __tostring = function() while true do end end }))",
    ),
];

/// Calls into the libraries and the host that take long by themselves, as often as the budget lets them.
const LONG_CALLS: &[(&str, &str)] = &[
    (
        "a plain search",
        "local h, n = string.rep('a', 4000000), string.rep('a', 2000000) .. 'b' while true do string.find(h, n, 1, true) end",
    ),
    (
        "a search without magic",
        "local h, n = string.rep('a', 4000000), string.rep('a', 2000000) .. 'b' while true do h:find(n) end",
    ),
    (
        "a split",
        "local h, n = string.rep('a', 4000000), string.rep('a', 2000000) .. 'b' while true do string.split(h, n) end",
    ),
    ("a split into characters", "local h = string.rep('ab', 200000) while true do string.split(h, '') end"),
    (
        "a sort",
        "local t = table.create(300000, 0) for i = 1, #t do t[i] = (i * 7919) % 300007 end while true do table.sort(t) end",
    ),
    ("a join of numbers", "local t = table.create(200000, 0.1234567890123) while true do table.concat(t, ',') end"),
    ("JSON in", "local j = '[' .. string.rep('[1,[2],{}],', 80000) .. '1]' while true do gw.json.decode(j) end"),
    ("JSON out", "local t = table.create(50000, 'x\\n') while true do gw.json.encode(t) end"),
    (
        "a pattern with many states",
        "local s = string.rep('ab', 500000) while true do gw.re.test('(a|b){1,300}c', s) end",
    ),
    (
        "a pattern with groups",
        "local s = string.rep('ab', 100000) while true do gw.re.replace('(a)(b)', s, '$2$1') end",
    ),
    ("a long set", "local s = string.rep('b', 1000000) while true do string.gsub(s, '[a-b]*c', '') end"),
    ("a hash", "local s = string.rep('x', 4000000) while true do gw.hash.sha256(s) end"),
    ("base64", "local s = string.rep('x', 3000000) while true do gw.hash.base64(s) end"),
    ("the texts of the request", "while true do req:texts() end"),
    ("a long way to move nothing", "table.move({}, 1, 2000000000, 2, {})"),
    ("the same, told in texts", "table.move({}, '1', '2000000000', '2', {})"),
    ("from beyond the range of numbers", "table.move({}, -1e10, -5, -1e10, {})"),
    ("a list over and over", "while true do table.create(500000, 0) end"),
];

/// Lines that take long by themselves, with no call and no loop between them.
#[test]
fn long_lines_end_with_the_budget_too() {
    let texts = "local s, x = string.rep('1', 1000000), 0 local a, b = s .. '1', s .. '2'\n";
    for line in [
        "x = s + 0",
        "x = s // 7 < 3",
        "x = -s",
        "x = a < b",
        "x = a <= b and 1",
        "x = b .. a",
        "if a < b then x = 1 end",
    ] {
        for body in [format!("{line}\n").repeat(1000), format!("if x then {} end", format!("{line} ").repeat(1000))] {
            let bench = with(&format!("{texts}{body}"));
            let killed = within(&bench, line, Phase::Request, PAST);
            assert!(killed.is_some(), "{line} was not stopped: {:?}", bench.call(Phase::Request));
            is_well(&bench, line);
        }
    }
    let within_one = format!("local t = {{ {} }}", "s + 0, ".repeat(1000));
    let bench = with(&format!("{texts}{within_one}"));
    assert!(within(&bench, "a table", Phase::Request, PAST).is_some());
    is_well(&bench, "a table");
}

fn contained(bench: &Bench, what: &str, phase: Phase) -> Option<Killed> {
    within(bench, what, phase, PAST)
}

fn within(bench: &Bench, what: &str, phase: Phase, past: Duration) -> Option<Killed> {
    let began = thread_time();
    let outcome = bench.call(phase);
    let took = thread_time() - began;
    let most = bench.guest.budget.cpu + past;
    assert!(took < most, "{what} went on for {took:?}, more than {most:?}");
    outcome.err().and_then(|failed| failed.killed)
}

fn with(body: &str) -> Bench {
    let text = format!("function on_request(req, ctx) {body} end\nfunction on_route() return 'a/b' end");
    try_load(&text, Budget::default(), json!({})).unwrap_or_else(|error| panic!("{error}"))
}

fn is_well(bench: &Bench, what: &str) {
    assert!(matches!(bench.call(Phase::Route), Ok(Verdict::Plan(_))), "the machine is not well after {what}");
}

#[test]
fn every_runaway_is_stopped_and_the_machine_goes_on() {
    for (what, body) in RUNAWAYS {
        // Ends like `return …` must stand last in their block.
        let bench = with(&format!("do {body} end"));
        let killed = contained(&bench, what, Phase::Request);
        if !what.contains("returned table") {
            assert!(killed.is_some(), "{what} was not stopped");
        }
        is_well(&bench, what);
    }
}

#[test]
fn long_calls_end_with_the_budget_too() {
    for (what, body) in LONG_CALLS {
        let budget = Budget { safepoints: u64::MAX / 200, host_calls: u32::MAX / 200, ..Budget::default() };
        let text = format!("function on_request(req, ctx) do {body} end end\nfunction on_route() return 'a/b' end");
        let bench = try_load(&text, budget, json!({})).unwrap_or_else(|error| panic!("{error}"));
        let killed = within(&bench, what, Phase::Request, PAST_UNOPTIMISED);
        assert!(killed.is_some(), "{what} was not stopped: {:?}", bench.call(Phase::Request));
        is_well(&bench, what);
    }
}

/// The engine compares each byte that a repeated set fits with all of the set before it looks at the budget.
#[test]
fn a_set_that_would_take_too_long_is_refused() {
    let set = "local s, set = string.rep('b', 300000), '[' .. string.rep('a', 30000) .. 'b]*'";
    for call in ["string.find(s, set)", "string.match(s, set)", "s:gmatch('%b]%' .. set)()", "s:gsub('x?' .. set, '')"]
    {
        let bench = with(&format!("{set} while true do pcall(function() {call} end) end"));
        assert!(contained(&bench, call, Phase::Request).is_some(), "{call}");
        let failed = with(&format!("{set} {call}")).call(Phase::Request).expect_err(call);
        assert!(
            failed.message.starts_with("test.luau:1: a set of 30003 bytes may take too long"),
            "{call}: {failed:?}"
        );
    }
    let bench = with("assert(#string.match(string.rep('b', 300000), '[a-z]*') == 300000)");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn library_functions_that_can_be_stopped_give_what_the_others_give() {
    let text = "local function same(a, b)
           if type(a) ~= 'table' then return a == b end
           if #a ~= #b then return false end
           for i = 1, #a do if a[i] ~= b[i] then return false end end
           return true
         end
         function on_request(req, ctx)
           local long = string.rep('x', 20000)
           local n = #long
           assert(same({ string.find(long .. 'needle', 'needle', 1, true) }, { n + 1, n + 6 }))
           assert(same({ string.find(long .. 'a.b', 'a.b', 1, true) }, { n + 1, n + 3 }))
           assert(string.find(long .. 'axb', 'a.b') == n + 1)
           assert(string.find(long, 'y', 1, true) == nil and select('#', string.find(long, 'y', 1, true)) == 1)
           assert(string.find(long, 'x', -3, true) == n - 2 and string.find(long, 'x', n + 1, true) == nil)
           assert(string.find(long, '', n + 1, true) == n + 1 and string.find(long, '', n + 2, true) == nil)
           assert(string.find(long, 'x', -n - 5, true) == 1 and (long):find('xx') == 1)
           local parts = string.split(long .. ',b,,c', ',')
           assert(same(parts, { long, 'b', '', 'c' }) and #string.split(long, '') == n and #string.split(long, 'xx') == n / 2 + 1)
           assert(same(string.split('a,b'), { 'a', 'b' }) and same(string.split('ab', ''), { 'a', 'b' }))
           local t, u = {}, {}
           for i = 1, 20000 do t[i] = (i * 7919) % 20011 u[i] = t[i] end
           table.sort(t) table.sort(u, function(a, b) return a < b end)
           assert(same(t, u) and t[1] < t[2])
           assert(table.concat(t, ',', 19999) == t[19999] .. ',' .. t[20000])
           local joined = table.concat(t, ';')
           assert(#string.split(joined, ';') == 20000 and string.sub(joined, -#tostring(t[20000])) == tostring(t[20000]))
           assert(table.concat(t, '', 5, 4) == '' and table.concat(t, ';', '1') == joined)
           assert(#string.rep('x', '20000') == 20000 and #string.rep(12, 10000) == 20000 and string.rep('', 1e9) == '')
           assert(same(table.create(20000, 'x'), string.split(long, '')) and #table.create(3, 0) == 3)
           -- Against an element at a time; up and down in the same table, whole and in part over itself.
           for _, way in { { 1, 20000, 5001 }, { 5001, 20000, 1 }, { 1, 20000, 30001 }, { 101, 19999, 100.9 }, { 2, 20000, 20000 } } do
             local from, to, at = way[1], way[2], way[3]
             local moved, naive = table.clone(t), table.clone(t)
             for i = from, to do naive[math.floor(at) + i - from] = t[i] end
             assert(table.move(moved, from, to, at) == moved and same(moved, naive), at)
             local other = { 7 }
             assert(table.move(t, from, to, at, other) == other and other[math.floor(at) + 9] == t[from + 9] and other[math.floor(at) + to - from] == t[to])
           end
           assert(same(table.move({ 1, 2, 3 }, 1, 3, 2), { 1, 1, 2, 3 }) and #table.move({ 1 }, 1, 0, 5) == 1)
           for _, wrong in { { {}, 1, 2147483647, 2 }, { {}, -5, 2147483647, 1 }, { {}, 1 }, { 1, 1, 20000, 2 }, { table.freeze({}), 1, 20000, 2 } } do
             assert(not pcall(table.move, table.unpack(wrong, 1, 4)))
           end
         end";
    let budget = Budget { safepoints: 5_000_000, ..stand::unhurried() };
    assert_eq!(try_load(text, budget, json!({})).expect("loads").call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn safepoints_are_counted_the_same_every_time() {
    let bench = with("for i = 1, 1000 do end");
    let counts: Vec<u64> = (0..3).map(|_| bench.call_with(Phase::Request, bench.request()).1.safepoints).collect();
    assert!(counts[0] >= 1000 && counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    let budget = Budget { safepoints: 500, ..Budget::default() };
    let bench = try_load("function on_request() for i = 1, 1000 do end end", budget, json!({})).expect("loads");
    assert_eq!(contained(&bench, "a loop", Phase::Request), Some(Killed::Safepoints));
}

#[test]
fn memory_has_an_end_and_a_full_machine_is_replaced() {
    for (what, body) in [
        ("a growing table", "local t = {} while true do t[#t + 1] = { #t } end"),
        ("a growing text", "local s = 'x' while true do s = s .. s end"),
        ("one huge text", "return string.rep('x', 1e9)"),
        ("one huge buffer", "return buffer.create(1e9)"),
        ("many closures", "local t = {} while true do t[#t + 1] = function() return t end end"),
        (
            "memory caught",
            "local keep = {} pcall(function() while true do keep[#keep + 1] = string.rep('x', 100000) .. #keep end end) while true do keep[#keep + 1] = {} end",
        ),
    ] {
        let budget = Budget {
            safepoints: u64::MAX / 200,
            cpu: Duration::from_secs(2),
            total: Duration::from_secs(4),
            ..Budget::default()
        };
        let text = format!("function on_request() do {body} end end\nfunction on_route() return 'a/b' end");
        let bench = try_load(&text, budget, json!({})).expect("loads");
        let failed = bench.call(Phase::Request).expect_err(what);
        assert_eq!(failed.killed, Some(Killed::Memory), "{what}: {failed:?}");
        is_well(&bench, what);
    }
    // What a script keeps beyond its call fills the machine; then it is built anew.
    let budget = Budget { memory: 4 << 20, ..Budget::default() };
    let text = "local kept = {}\nfunction on_request() for i = 1, 200 do kept[#kept + 1] = string.rep('x', 30000) .. #kept end end\n\
                function on_route() return 'a/b' end";
    let bench = try_load(text, budget, json!({})).expect("loads");
    let replaced = (0..5).any(|_| bench.call_with(Phase::Request, bench.request()).1.replaced);
    assert!(replaced);
    is_well(&bench, "a leak");
}

#[test]
fn only_the_first_machine_in_a_full_ones_place_is_built_while_a_worker_waits() {
    let budget = Budget { memory: 4 << 20, ..stand::unhurried() };
    let text = "local kept = {}\nfunction on_init() for i = 1, 4000000 do end end\n\
                function on_request() for i = 1, 200 do kept[#kept + 1] = string.rep('x', 30000) .. #kept end end";
    let bench = try_load(text, budget, json!({})).expect("loads");
    let Engine::Lua(script) = &bench.engine else { unreachable!("it is a script") };
    // The worker's own time of the call that has a machine replaced.
    let replacing = || loop {
        let began = thread_time();
        if bench.call_with(Phase::Request, bench.request()).1.replaced {
            break thread_time() - began;
        }
    };
    let first = replacing();
    for _ in 0..2 {
        while !script.domain.spare.is_ready() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let next = replacing();
        assert!(next < first / 2, "{next:?} after {first:?}");
    }
}

/// Large texts come faster than the engine takes them away by itself.
#[test]
fn what_calls_leave_behind_is_not_the_next_ones_memory() {
    let bench = load("function on_route() return string.rep('x', 2000000) and 'a/b' end");
    for round in 0..50 {
        assert!(matches!(bench.call(Phase::Route), Ok(Verdict::Plan(_))), "round {round}");
    }
}

#[test]
fn recursion_and_odd_sources_do_not_reach_the_native_stack() {
    for (what, body) in [
        ("recursion", "local function f() return 1 + f() end f()"),
        ("recursion through pcall", "local function f() local ok, e = pcall(f) error(e) end f()"),
        ("recursion through gsub", "local function f() string.gsub('x', 'x', f) end f()"),
        (
            "recursion through sort",
            "local function f() table.sort({ 2, 1 }, function(a, b) f() return a < b end) end f()",
        ),
        ("nested coroutines", "local function f() coroutine.wrap(f)() end f()"),
        (
            "recursion through tostring",
            "local m = {} m.__tostring = function(t) return tostring(setmetatable({}, m)) end tostring(setmetatable({}, m))",
        ),
        (
            "recursion through index",
            "local m = {} m.__index = function(t, k) return setmetatable({}, m)[k] end return setmetatable({}, m).x",
        ),
        (
            "a deep table",
            "local t = {} local inner = t for i = 1, 100000 do inner.params = {} inner = inner.params end return { params = t }",
        ),
        ("a table in itself", "local t = {} t.params = t return t"),
    ] {
        let bench = with(&format!("do {body} end"));
        contained(&bench, what, Phase::Request);
        assert!(bench.call(Phase::Request).is_err(), "{what}");
        is_well(&bench, what);
    }
    for (what, text) in [
        ("deep parentheses", format!("local x = {}1{}", "(".repeat(20_000), ")".repeat(20_000))),
        ("deep blocks", format!("{}{}", "do ".repeat(20_000), "end ".repeat(20_000))),
        (
            "a long chain of elseif",
            format!(
                "if x == 0 then {} end",
                (0..20_000).map(|at| format!("elseif x == {at} then ")).collect::<String>()
            ),
        ),
        ("deep tables", format!("local x = {}{}", "{".repeat(20_000), "}".repeat(20_000))),
        ("deep functions", format!("local x = {}{}", "function() return ".repeat(20_000), "end ".repeat(20_000))),
        ("a long concat", format!("local x = 'a'{}", " .. 'a'".repeat(60_000))),
    ] {
        assert!(
            try_load(&format!("{text}\nfunction on_request() end"), Budget::default(), json!({})).is_err(),
            "{what}"
        );
    }
}

#[test]
fn host_calls_and_output_have_an_end() {
    let storm = with("for i = 1, 1000000 do pcall(gw.time.now_ms) end");
    assert_eq!(contained(&storm, "a million host calls", Phase::Request), Some(Killed::HostCalls));
    is_well(&storm, "a storm");
    let budget = Budget { output: 1000, ..Budget::default() };
    for body in [
        "return { params = { x = string.rep('x', 2000) } }",
        "gw.log.debug(string.rep('x', 2000))",
        "gw.trace.note(string.rep('x', 2000))",
        "local t = {} for i = 1, 1000 do t[i] = i end return { params = { x = t } }",
        "return { texts = { [1] = string.rep('x', 2000) } }",
    ] {
        let text = format!("function on_request() {body} end");
        assert!(try_load(&text, budget, json!({})).expect("loads").call(Phase::Request).is_err(), "{body}");
    }
    for (phase, body) in [
        (Phase::Request, "return gw.say(s)"),
        (Phase::Route, "return gw.say(s)"),
        (Phase::Fault, "return gw.say(s)"),
        (Phase::Answer, "return gw.say(s)"),
        (Phase::Answer, "return gw.fault(s)"),
        (Phase::Event, "return { text = s }"),
        (Phase::Request, "return { params = { [s] = 1 } }"),
        (Phase::Auth, "return { key = 'k', metadata = { [s] = '' } }"),
    ] {
        let text = format!("function on_{}() local s = string.rep('x', 2000) {body} end", phase.name());
        let failed = try_load(&text, budget, json!({})).expect("loads").call(phase).expect_err(body);
        assert!(failed.message.contains("larger than `budget.output` allows"), "{phase:?} {body}: {failed:?}");
    }
    // To read is not to put out: what is read is the machine's memory.
    let text = "function on_request() assert(#gw.json.decode('\"' .. string.rep('x', 2000) .. '\"') == 2000) end";
    assert_eq!(try_load(text, budget, json!({})).expect("loads").call(Phase::Request), Ok(Verdict::Pass));
}

/// The machine holds a text once in however many places it stands, the gateway would hold a copy for each.
#[test]
fn a_text_in_many_places_is_copied_no_oftener_than_the_output_allows() {
    let budget = Budget { output: 300_000, ..stand::unhurried() };
    for (body, phase) in [
        ("gw.pick.hash(table.create(10000, s), 'k')", Phase::Request),
        (
            "local labels = {} for i = 1, 1000 do labels['l' .. i] = s end gw.metrics.count('x', 1, labels)",
            Phase::Request,
        ),
        ("print(table.unpack(table.create(200, s)))", Phase::Request),
        ("local t = setmetatable({}, { __tostring = function() return s end }) print(t, t, t, t, t)", Phase::Request),
        ("return { key = 'k', models = table.create(10000, s) }", Phase::Auth),
        ("return table.create(10000, s)", Phase::Route),
        ("return { steps = table.create(10000, s) }", Phase::Route),
        ("return table.create(10000, { target = s })", Phase::Route),
        ("return table.create(10000, s)", Phase::Fault),
        ("return s .. s .. s .. s", Phase::Route),
    ] {
        let text = format!("function on_{}() local s = string.rep('x', 100000) {body} end", phase.name());
        let failed = try_load(&text, budget, json!({})).expect("loads").call(phase).expect_err(body);
        assert!(failed.message.contains("larger than `budget.output` allows"), "{body}: {failed:?}");
    }
    // Groups in groups are as many copies of a text.
    let groups = "gw.re.match(string.rep('(', 100) .. 'x*' .. string.rep(')', 100), string.rep('x', 500000))";
    let failed = load(&format!("function on_request() {groups} end")).call(Phase::Request).expect_err(groups);
    assert!(failed.message.contains("groups"), "{failed:?}");
    // The lease is looked at among short ones as well.
    let few = Budget { safepoints: 30, ..stand::unhurried() };
    let text = "function on_route() return table.create(10000, 'a/b') end";
    let failed = try_load(text, few, json!({})).expect("loads").call(Phase::Route).expect_err("much");
    assert_eq!(failed.killed, Some(Killed::Safepoints), "{failed:?}");
}

#[tokio::test]
async fn texts_for_a_model_that_is_not_granted_are_not_read() {
    let text = "function on_request() gw.llm.embed('other', { {} }) end";
    let bench = load(text);
    let failed = bench.wait(Phase::Request).await.0.expect_err("no grant");
    assert!(failed.message.contains("`grants.models`"), "{failed:?}");
}

#[test]
fn a_field_that_cannot_be_decoded_is_not_taken_for_absent() {
    for tools in [r#""\ud800""#, "[1e999]", r#"[{"type":"function","type":"other"}]"#, r#"{"a":{"b":1,"\u0062":2}}"#] {
        let mut bench = load("function on_request(req) assert(req:param('tools') == nil) end");
        let ask = format!(r#"{{"model":"fast","tools":{tools},"messages":[{{"role":"user","content":"hi"}}]}}"#);
        bench.ask(ask).expect("an ask");
        let failed = bench.call(Phase::Request).expect_err(tools);
        assert!(failed.message.contains("this request cannot be read: "), "{tools}: {failed:?}");
        assert!(bench.visit.unreadable(&failed.message).is_some(), "{tools}: its caller hears of it");
    }
    let mut bench =
        load("function on_request(req) assert(req:param('tools') == nil and req:param('user') == gw.null) end");
    bench.ask(r#"{"model":"fast","user":null,"messages":[{"role":"user","content":"hi"}]}"#).expect("an ask");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn keys_of_ctx_count_as_its_texts_do() {
    let bench = with("ctx:set(string.rep('k', 256), true) ctx:set(string.rep('k', 257), true)");
    let failed = bench.call(Phase::Request).expect_err("long");
    assert!(failed.message.contains("keys of at most 256 bytes, not 257"), "{failed:?}");
    let bench = with("for i = 1, 64 do ctx:set('k' .. i, string.rep('x', 16384 - 4)) end");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    let bench = with("for i = 1, 64 do ctx:set('k' .. i, string.rep('x', 16384 - 1)) end");
    let failed = bench.call(Phase::Request).expect_err("full");
    assert!(failed.message.contains("its texts and keys take 1048576 bytes"), "{failed:?}");
}

#[test]
fn an_error_thrown_in_any_phase_is_that_calls_alone() {
    let functions: Vec<String> =
        Phase::ALL[1..].iter().map(|phase| format!("function on_{}() error('boom') end", phase.name())).collect();
    let bench = load(&functions.join("\n"));
    for phase in &Phase::ALL[1..] {
        for value in [bench.call(*phase), bench.call(*phase)] {
            let failed = value.expect_err(phase.name());
            assert!(failed.message.ends_with("boom") && failed.killed.is_none(), "{failed:?}");
        }
    }
    for value in ["nil", "3", "{}", "setmetatable({}, { __tostring = 3 })", "function() end", "gw.null"] {
        assert!(with(&format!("error({value})")).call(Phase::Request).is_err(), "{value}");
    }
}

#[test]
fn there_is_no_way_out_of_the_sandbox() {
    for body in [
        "_G.string = nil",
        "_G.x = 1",
        "string.upper = nil",
        "getmetatable('').__index.upper = nil",
        "getmetatable('').__index = nil",
        "setmetatable(string, {})",
        "rawset(string, 'upper', nil)",
        "rawset(gw, 'json', nil)",
        "gw.json.encode = nil",
        "gw.config = nil",
        "table.insert(gw, 1)",
        "getfenv(1).x = 1",
        "setfenv(1, {})",
        "loadstring('return 1')()",
        "load('return 1')()",
        "require('io')",
        "dofile('/etc/passwd')",
        "loadfile('/etc/passwd')()",
        "io.open('/etc/passwd')",
        "os.execute('true')",
        "os.getenv('HOME')",
        "debug.getinfo(1)",
        "debug.sethook()",
        "newproxy(true)",
        "collectgarbage('count')",
        "string.dump(function() end)",
        "getmetatable(req).__index = nil",
        "setmetatable(req, {})",
        "req.model = 'x'",
        "rawset(req, 'model', 'x')",
        "ctx.get = nil",
        "coroutine.wrap(function() gw.time.sleep(1) end)()  error('went on')",
    ] {
        let bench = with(body);
        assert!(bench.call(Phase::Request).is_err(), "`{body}` went through");
        is_well(&bench, body);
    }
    // Bytecode is refused as source.
    assert!(try_load("\u{1b}Lua\u{6}", Budget::default(), json!({})).is_err());
    assert!(try_load("\u{6}\u{1}", Budget::default(), json!({})).is_err());
}

#[test]
fn the_bound_of_the_exchange_holds_over_all_its_calls() {
    let budget = Budget {
        cpu: Duration::from_millis(20),
        total: Duration::from_millis(30),
        safepoints: u64::MAX / 200,
        ..Budget::default()
    };
    let bench = try_load("function on_request() while true do end end", budget, json!({})).expect("loads");
    for _ in 0..2 {
        assert_eq!(bench.call(Phase::Request).expect_err("stopped").killed, Some(Killed::Deadline));
    }
    let spent = || bench.visit.spent(&bench.guest.name);
    assert!(spent() >= Duration::from_millis(25), "{:?}", spent());
    contained(&bench, "a spent exchange", Phase::Request);
    let before = spent();
    contained(&bench, "an exchange long spent", Phase::Request);
    assert!(spent() >= before);
    // What one policy has used is not taken from the others.
    let mut other = try_load("function on_request() while true do end end", budget, json!({})).expect("loads");
    other.visit = bench.visit.clone();
    other.guest = Arc::new(Guest {
        name: "other".into(),
        grants: Grants::default(),
        budget,
        metrics: std::collections::BTreeMap::new(),
    });
    let (_, used) = other.call_with(Phase::Request, other.request());
    assert!(used.cpu >= Duration::from_millis(15), "{used:?}");
}

/// A script whose `on_request` is this, for an ask with so many numbers in its metadata, or so many turns.
fn asked(body: &str, budget: Budget, numbers: usize, turns: usize) -> Bench {
    let text = format!("function on_request(req, ctx) {body} end\nfunction on_route() return 'a/b' end");
    let mut bench = try_load(&text, budget, json!({})).unwrap_or_else(|error| panic!("{error}"));
    let (numbers, turns) = ("1,".repeat(numbers), r#"{"role":"user","content":"a"},"#.repeat(turns));
    let ask = format!(
        r#"{{"model":"fast","metadata":{{"a":[{numbers}1]}},"messages":[{turns}{{"role":"user","content":"hi"}}]}}"#
    );
    bench.ask(ask).expect("an ask");
    bench
}

/// Callers choose how much they send.
#[test]
fn what_a_caller_sends_is_read_under_the_lease() {
    let few = Budget { safepoints: 100, ..stand::unhurried() };
    for (body, numbers, turns) in [
        ("req:param('metadata')", 100_000, 0),
        ("pcall(req.param, req, 'metadata')", 100_000, 0),
        ("req:texts()", 0, 15_000),
        ("req:messages()", 0, 15_000),
    ] {
        let bench = asked(body, few, numbers, turns);
        let failed = bench.call(Phase::Request).expect_err(body);
        assert_eq!(failed.killed, Some(Killed::Safepoints), "{body}: {failed:?}");
        is_well(&bench, body);
    }
    let decode = asked("gw.json.decode('[' .. string.rep('1,', 100000) .. '1]')", few, 0, 0);
    assert_eq!(decode.call(Phase::Request).expect_err("much").killed, Some(Killed::Safepoints));
    // The same, where there is enough of everything.
    for (body, numbers, turns) in [("#req:param('metadata').a", 100_000, 0), ("#req:texts()", 0, 15_000)] {
        let bench = asked(&format!("assert({body} == {numbers} + {turns} + 1)"), stand::unhurried(), numbers, turns);
        assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass), "{body}");
    }
    // An unoptimised build on a busy machine takes seconds to come so far.
    let ample = Budget { cpu: Duration::from_secs(20), total: Duration::from_secs(20), ..stand::unhurried() };
    let full = asked("pcall(req.param, req, 'metadata') ctx:set('on', true)", ample, 4_000_000, 0);
    assert_eq!(full.call(Phase::Request).expect_err("much").killed, Some(Killed::Memory));
    is_well(&full, "a large field");
}

#[test]
fn a_conversation_that_no_machine_holds_is_refused_before_it_is_decoded() {
    for read in ["req:texts()", "req:messages()", "req:last_user()", "req:system()", "req:message(1)"] {
        let bench = asked(read, stand::unhurried(), 0, 30_000);
        let failed = bench.call(Phase::Request).expect_err(read);
        assert!(failed.killed.is_none() && failed.message.contains("do not fit into `budget.memory`"), "{failed:?}");
        let caught = asked(&format!("assert(not pcall(function() {read} end))"), stand::unhurried(), 0, 30_000);
        assert_eq!(caught.call(Phase::Request), Ok(Verdict::Pass), "{read}");
    }
    // What is no text does not count.
    let mut bench = load("function on_request(req) assert(req:last_user() == 'what is it?') end");
    let image = "A".repeat(17 << 20);
    bench
        .ask(format!(
            r#"{{"model":"fast","messages":[{{"role":"user","content":[{{"type":"text","text":"what is it?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
        ))
        .expect("an ask");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
}

#[test]
fn memory_that_has_run_out_is_not_caught() {
    let grow = "function() local s = 'x' while true do s = s .. s end end";
    for body in [
        format!("for i = 1, 3 do pcall({grow}) end"),
        "pcall(string.rep, 'x', 1e9)".to_owned(),
        "pcall(buffer.create, 1e9)".to_owned(),
        format!("xpcall({grow}, function() return 'fine' end)"),
        "xpcall(string.rep, tostring, 'x', 1e9)".to_owned(),
        format!("coroutine.resume(coroutine.create({grow}))"),
        format!("pcall(coroutine.wrap({grow}))"),
        "pcall(gw.json.decode, '[' .. string.rep('[],', 300000) .. '1]')".to_owned(),
    ] {
        let text = format!(
            "function on_request(req, ctx) {body} ctx:set('on', true) return gw.reject('x', 'y') end
             function on_route(req, ctx) assert(not ctx:get('on'), 'it went on') return 'a/b' end"
        );
        let budget = Budget { safepoints: u64::MAX / 200, ..stand::unhurried() };
        let bench = try_load(&text, budget, json!({})).expect("loads");
        let failed = bench.call(Phase::Request).expect_err(&body);
        assert_eq!(failed.killed, Some(Killed::Memory), "{body}: {failed:?}");
        is_well(&bench, &body);
    }
    // Whatever else is thrown is caught as before, and what the gateway throws is a text there too.
    let text = "function on_request(req)
        local ok, said = xpcall(error, function(thrown) return thrown .. '!' end, 'no', 0)
        assert(not ok and said == 'no!')
        ok, said = xpcall(gw.kv.get, function(thrown) return 'told: ' .. thrown end)
        assert(not ok and string.find(said, 'told: ') and string.find(said, 'key: string'))
        ok, said = xpcall(function(a, b) return a + b end, print, 1, 2)
        assert(ok and said == 3)
        ok, said = pcall(error, { code = 7 })
        assert(not ok and said.code == 7)
        assert(not pcall(xpcall, print))
      end";
    assert_eq!(load(text).call(Phase::Request), Ok(Verdict::Pass));
}
