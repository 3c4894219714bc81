//! Scripts that run for long, and the others meanwhile: calls in turns, on one machine, each with what is its own.

use std::pin::pin;
use std::time::Duration;

use serde_json::json;

use super::support::{Bench, load, try_load};
use crate::guest::tests::{PAST, assert_gives_way, assert_gives_way_to_sockets, thread_time};
use crate::guest::verdict::Body;
use crate::guest::{Called, Verdict};
use crate::host::{Budget, Killed, Phase};

/// Time is what ends everything here, and so much of it.
fn for_so_long(text: &str, cpu: Duration) -> Bench {
    let (safepoints, host_calls) = (u64::MAX / 200, u32::MAX / 200);
    let budget = Budget { cpu, total: Duration::from_secs(60), safepoints, host_calls, ..Budget::default() };
    try_load(text, budget, json!({})).unwrap_or_else(|error| panic!("{error}"))
}

fn short(text: &str) -> Bench {
    for_so_long(text, Duration::from_millis(30))
}

/// So much that nothing of it ends.
fn ample(text: &str) -> Bench {
    for_so_long(text, Duration::from_secs(60))
}

fn said(called: Called) -> String {
    match called.0 {
        Ok(Verdict::Respond(respond)) => match respond.body {
            Body::Raw(text) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Calls it, and something else whenever it gives way; gives how often that was.
async fn beside(call: impl Future<Output = Called>, mut others: impl AsyncFnMut()) -> (Called, u32) {
    let (mut call, mut turns) = (pin!(call), 0);
    loop {
        tokio::select! {
            biased;
            called = &mut call => return (called, turns),
            () = tokio::task::yield_now() => {
                turns += 1;
                others().await;
            }
        }
    }
}

#[tokio::test]
async fn others_go_on_while_a_policy_runs_away() {
    for (what, body) in [
        ("a loop", "while true do end"),
        ("a loop under pcall", "while true do pcall(function() while true do end end) end"),
        ("a storm", "while true do pcall(gw.rand.number) end"),
        ("a wrapped coroutine", "coroutine.wrap(function() while true do end end)()"),
        ("a coroutine", "coroutine.resume(coroutine.create(function() while true do end end))"),
        ("coroutines in each other", "local function f(n) while n == 0 do end coroutine.wrap(f)(n - 1) end f(20)"),
        (
            "coroutines that yield",
            "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
        ),
        ("texts that come and go", "while true do string.rep('x', 100000) end"),
        ("a loop of one that waits", "if false then gw.time.sleep(1) end while true do end"),
        (
            "a coroutine of one that waits",
            "if false then gw.time.sleep(1) end coroutine.wrap(function() while true do end end)()",
        ),
    ] {
        let text = format!("function on_request() {body} end function on_route() return 'a/b' end");
        assert_gives_way(ample(&text).wait(Phase::Request), what).await;
        let bench = short(&text);
        let failed = bench.wait(Phase::Request).await.0.expect_err(what);
        assert_eq!(failed.killed, Some(Killed::Deadline), "{what}: {}", failed.message);
        assert!(matches!(bench.wait(Phase::Route).await.0, Ok(Verdict::Plan(_))), "after {what}");
    }
}

/// Where nothing may wait for others, others need not wait for it.
#[tokio::test]
async fn a_try_gives_way_and_does_not_wait() {
    assert_gives_way(ample("function on_attempt() while true do end end").wait(Phase::Attempt), "a loop").await;
    let failed = ample("function on_attempt() gw.time.sleep(1) end").wait(Phase::Attempt).await.0.expect_err("refused");
    assert!(failed.message.contains("gw.time.sleep cannot be called in on_attempt"), "{}", failed.message);
}

/// What cannot be left in the middle goes on, and the call gives way where it can.
#[tokio::test]
async fn where_a_call_cannot_give_way_it_ends_all_the_same() {
    for (what, body) in [
        ("a callback of gsub", "string.gsub('x', 'x', function() while true do end end)"),
        (
            "an index metamethod",
            "local t = setmetatable({}, { __index = function() while true do end end }) return t.x",
        ),
        (
            "a coroutine in a callback",
            "table.sort({ 2, 1 }, function() coroutine.wrap(function() while true do end end)() end)",
        ),
    ] {
        let bench = short(&format!("function on_request() {body} end function on_route() return 'a/b' end"));
        let ((outcome, _), turns) = beside(bench.wait(Phase::Request), async || {}).await;
        assert_eq!(outcome.expect_err(what).killed, Some(Killed::Deadline), "{what}");
        assert!(turns < 5, "{what} gave way {turns} times");
        assert!(matches!(bench.wait(Phase::Route).await.0, Ok(Verdict::Plan(_))), "after {what}");
    }
}

/// Out of thousands of `pcall`s it would take far longer than a budget to throw.
#[tokio::test]
async fn a_call_that_has_ended_is_left_where_it_is() {
    for (what, body) in [
        ("nested calls", "f()"),
        ("those of a coroutine", "coroutine.wrap(f)()"),
        ("a loop under them", "local function g(n) if n == 0 then while true do end end pcall(g, n - 1) end g(6000)"),
        ("those of one that waits", "if false then gw.time.sleep(1) end f()"),
        (
            "those around a callback",
            "local function g(n) if n > 0 then pcall(g, n - 1) else string.gsub('x', 'x', f) end end g(3000)",
        ),
    ] {
        let bench = short(&format!(
            "local function f() pcall(f) pcall(f) end function on_request() {body} end function on_route() return 'a/b' end"
        ));
        for round in 0..3 {
            let began = thread_time();
            let failed = bench.wait(Phase::Request).await.0.expect_err(what);
            let took = thread_time() - began;
            assert_eq!(failed.killed, Some(Killed::Deadline), "{what}: {}", failed.message);
            assert!(failed.message.starts_with("test.luau:1: on_request ran longer"), "{what}: {}", failed.message);
            assert!(took < bench.guest.budget.cpu + PAST, "{what} went on for {took:?} in round {round}");
        }
        assert!(matches!(bench.wait(Phase::Route).await.0, Ok(Verdict::Plan(_))), "after {what}");
    }
}

/// A clock that a test holds still lets nothing run for ever.
#[tokio::test(start_paused = true)]
async fn a_runaway_ends_and_gives_way_where_the_clock_stands_still() {
    let text = "function on_request() while true do end end";
    assert_gives_way(ample(text).wait(Phase::Request), "a loop").await;
    let ended = short(text).wait(Phase::Request).await.0;
    assert_eq!(ended.expect_err("is stopped").killed, Some(Killed::Deadline));
}

#[tokio::test]
async fn sockets_are_looked_at_between_two_turns() {
    for waits in ["", "if false then gw.time.sleep(1) end"] {
        let bench = ample(&format!("function on_request() {waits} while true do end end"));
        assert_gives_way_to_sockets(bench.wait(Phase::Request)).await;
    }
}

/// Coroutines of a script's own yield and return what they did where nothing gives way.
#[tokio::test]
async fn coroutines_of_a_script_do_not_see_turns() {
    let text = "
        local function work(n) local sum = 0 for i = 1, n do sum = (sum * 31 + i) % 1000003 end return sum end
        function on_request(req, ctx)
            local log = {}
            local nothing = coroutine.create(function(a)
                for i = 1, 5 do
                    work(20000)
                    log[#log + 1] = tostring(coroutine.yield()) .. select('#', coroutine.yield(nil, i))
                end
                return work(20000), a
            end)
            for i = 1, 20 do
                local results = table.pack(coroutine.resume(nothing, i, i))
                log[#log + 1] = coroutine.status(nothing) .. results.n .. tostring(results[1]) .. tostring(results[2]) .. tostring(results[3])
            end
            local sorting = coroutine.create(function()
                local t = {} for i = 1, 2000 do t[i] = (i * 7919) % 2003 end
                table.sort(t, function(a, b) return a < b end)
            end)
            local results = table.pack(coroutine.resume(sorting))
            log[#log + 1] = `{results.n} {results[1]} {coroutine.status(sorting)}`
            local outer = coroutine.wrap(function(x)
                local inner = coroutine.wrap(function(y) for i = 1, 3 do y = coroutine.yield(work(20000) + y) end error('inner end') end)
                while true do x = coroutine.yield(inner(x)) end
            end)
            for i = 1, 5 do log[#log + 1] = table.concat({ tostring(select(2, pcall(outer, i))) }, ' ') end
            log[#log + 1] = tostring(pcall(coroutine.yield, 1))
            log[#log + 1] = tostring(pcall(coroutine.resume, 3)) .. tostring(coroutine.resume(coroutine.create(error), 'told'))
            log[#log + 1] = tostring(pcall(coroutine.wrap(function() while true do work(20000) error({ 1 }) end end)))
            return gw.respond(200, table.concat(log, '\\n'))
        end";
    let bench = ample(text);
    let (called, turns) = beside(bench.wait(Phase::Request), async || {}).await;
    assert!(turns > 5, "it was too short to show anything: {turns} turns");
    let at_once = said(bench.call_with(Phase::Request, bench.request()));
    assert_eq!(said(called), at_once);
}

#[tokio::test]
async fn safepoints_are_counted_the_same_in_turns() {
    let bench = ample("function on_request() local n = 0 for i = 1, 30000 do n += math.sin(i) end end");
    let ((outcome, in_turns), turns) = beside(bench.wait(Phase::Request), async || {}).await;
    let (_, at_once) = bench.call_with(Phase::Request, bench.request());
    assert!(turns > 0 && outcome == Ok(Verdict::Pass), "{turns} turns: {outcome:?}");
    assert_eq!(in_turns.safepoints, at_once.safepoints);
}

/// Calls that overlap on one machine: each sees its own exchange and pays from its own lease.
#[tokio::test]
async fn calls_that_overlap_keep_their_own() {
    for waits in ["", "if false then gw.time.sleep(1) end"] {
        let text = format!("
            local open, most, n = 0, 0, 0
            function on_request(req, ctx)
                {waits}
                n += 1 open += 1 most = math.max(most, open)
                local own = n
                ctx:set('own', own)
                local sum = 0
                local long = own == 2 and 1e9 or 60000
                for i = 1, long do sum += i % 3 if i % 10000 == 0 then assert(req.model == 'fast' and ctx:get('own') == own) end end
                open -= 1
                return gw.respond(200, `{{own}} {{ctx:get('own')}} {{most}}`)
            end
            function on_route(req, ctx) return gw.respond(200, tostring(ctx:get('own'))) end");
        let mut bench = for_so_long(&text, Duration::from_secs(2));
        let mut began = Vec::new();
        let mut visits = Vec::new();
        for _ in 0..3 {
            bench.renew();
            began.push((bench.cx(Phase::Request), bench.request()));
            visits.push((bench.cx(Phase::Route), bench.request()));
        }
        let mut calls = began.into_iter().map(|(cx, subject)| bench.engine.call(cx, subject));
        let (one, two, three) = (calls.next().expect("one"), calls.next().expect("two"), calls.next().expect("three"));
        let (one, two, three) = tokio::join!(one, two, three);
        assert_eq!(two.0.as_ref().expect_err("is stopped").killed, Some(Killed::Deadline));
        assert!(one.1.cpu < two.1.cpu && three.1.cpu < two.1.cpu, "each pays for its own: {:?} {:?}", one.1, two.1);
        let (one, three) = (said(one), said(three));
        assert_eq!((&one[..4], &three[..4]), ("1 1 ", "3 3 "));
        assert!(three.ends_with('3'), "they did not overlap: {one}, {three}");
        for (own, (cx, subject)) in ["1", "2", "3"].iter().zip(visits) {
            assert_eq!(&said(bench.engine.call(cx, subject).await), own);
        }
    }
}

/// Who fills a machine while it gives way has it for itself.
/// Whoever resumed it would be woken in its owner's place, and that one never.
#[tokio::test(start_paused = true)]
async fn a_coroutine_that_waits_is_its_calls_own() {
    for (way, told) in [("coroutine.resume(co)", "false"), ("pcall(go)", "false")] {
        let bench = ample(&format!(
            "local co, go
            function on_request()
                if not co or coroutine.status(co) == 'dead' then
                    co = coroutine.create(function() gw.time.sleep(200) return 'done' end)
                    local running = co
                    go = coroutine.wrap(function() return select(2, coroutine.resume(running)) end)
                    if '{way}' == 'pcall(go)' then return gw.respond(200, tostring(go())) end
                end
                local ok, said = {way}
                return gw.respond(200, tostring(ok) .. ' ' .. tostring(said))
            end"
        ));
        let (first, second) = tokio::join!(bench.wait(Phase::Request), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            bench.wait(Phase::Request).await
        });
        assert!(said(first).contains("done"), "{way}");
        let second = said(second);
        assert!(second.starts_with(told) && second.contains("waits for something in another call"), "{way}: {second}");
    }
}

#[tokio::test]
async fn a_call_that_grows_in_turns_takes_no_memory_from_others() {
    for waits in ["", "if false then gw.time.sleep(1) end"] {
        let text = format!(
            "
            function on_request() {waits} local t = {{}} while true do t[#t + 1] = string.rep('x', 500) .. #t end end
            function on_route() local s = string.rep('x', 2000000) return 'a/b' end"
        );
        let bench = ample(&text);
        let others = async || {
            let (outcome, used) = bench.wait(Phase::Route).await;
            assert!(matches!(outcome, Ok(Verdict::Plan(_))), "{outcome:?} {used:?}");
        };
        let ((outcome, used), turns) = beside(bench.wait(Phase::Request), others).await;
        assert_eq!(outcome.expect_err("is stopped").killed, Some(Killed::Memory));
        assert!(used.replaced && turns > 0, "{turns} turns: {used:?}");
        assert!(matches!(bench.wait(Phase::Route).await.0, Ok(Verdict::Plan(_))));
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_in_between_leaves_nothing_behind() {
    let text = "local kept = {}
        function on_request(req, ctx) kept[1] = req while true do end end
        function on_route() return gw.respond(200, tostring(pcall(function() return kept[1].model end))) end";
    let bench = ample(text);
    for _ in 0..100 {
        let gone = tokio::time::timeout(Duration::from_millis(1), bench.wait(Phase::Request)).await;
        assert!(gone.is_err(), "the client left");
    }
    assert_eq!(said(bench.wait(Phase::Route).await), "false", "a view outlived its call");
}

#[test]
fn a_yield_outside_of_coroutines_is_an_error_that_a_script_can_catch() {
    let bench = load(
        "function on_request() coroutine.yield(1) end
         function on_route() local ok, why = pcall(coroutine.yield) return gw.respond(200, tostring(ok) .. tostring(why)) end",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let error = runtime.block_on(bench.wait(Phase::Request)).0.expect_err("refused").message;
    assert!(error.contains("attempt to yield"), "{error}");
    let caught = said(runtime.block_on(bench.wait(Phase::Route)));
    assert!(caught.starts_with("falseattempt to yield"), "{caught}");
}
