//! The seeds of the acceptance list that concern attempts, each under its number.

use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Act, Bed, MS, good, hosts, late, limited, pooled, refused, roles, said, status, twice};
use crate::attempt::run;
use crate::exchange::{Outcome, Role};
use crate::fault::Kind;
use crate::reply;
use crate::route::{Plan, Retry};
use crate::settle::Settle;
use crate::state::health::{Breaker, Settings, Standing};

#[tokio::test(start_paused = true)]
async fn seed_1_a_429_with_a_wait_is_tried_once_more_after_it() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "200")])]);
    let (outcome, x) = bed.ask(&bed.plan(&["a"], twice())).await;
    assert_eq!(said(&outcome), "from a");
    assert_eq!(bed.script.at(), [MS(0), MS(200)]);
    assert_eq!((roles(&x), x.attempts[1].waited), (vec![Role::First, Role::Again], MS(200)));
}

#[tokio::test(start_paused = true)]
async fn seed_1_with_a_pool_another_key_is_tried_at_once() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "200")])]);
    let mut plan = bed.plan(&["a"], Retry::default());
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false)]);
    let (outcome, x) = bed.ask(&plan).await;
    assert_eq!(said(&outcome), "from a");
    let seen = bed.script.seen();
    assert_eq!((seen.len(), seen[1].at), (2, MS(0)));
    assert_ne!(seen[0].key, seen[1].key);
    assert_eq!(roles(&x), [Role::First, Role::Key]);
    // The limited key has a rest; the target has none.
    let first = seen[0].key.as_deref().expect("a key");
    let standing = |name: &str| bed.cx.state.health.record(name).standing(bed.cx.state.now());
    assert!(matches!(standing(&format!("a#{first}")), Standing::Open { .. }), "{:?}", standing(first));
    assert_eq!(standing("a/m"), Standing::Closed);
}

#[tokio::test(start_paused = true)]
async fn seed_2_a_wait_beyond_the_bounds_is_not_begun_and_the_next_target_answers() {
    for (retry_after, targets) in [("3600", &["a", "b"][..]), ("30", &["a", "b"])] {
        let bed = Bed::new(&[("a", vec![limited("retry-after", retry_after)])]);
        let (outcome, _) = bed.ask(&bed.plan(targets, Retry::default())).await;
        assert_eq!((said(&outcome), bed.script.at()), ("from b".to_owned(), vec![MS(0), MS(0)]));
    }
    // And without another target the caller hears it at once, with the wait.
    let bed = Bed::new(&[("a", vec![limited("retry-after", "30")])]);
    let (outcome, _) = bed.ask(&bed.plan(&["a"], Retry::default())).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.kind, fault.retry_after), (Kind::RateLimited, Some(MS(30_000))));
    assert_eq!(bed.script.began.elapsed(), MS(0));
}

#[tokio::test(start_paused = true)]
async fn seed_3_a_dead_key_is_passed_over_without_a_wait_and_all_dead_is_a_502() {
    for bad in [401, 402, 403] {
        let bed = Bed::new(&[("a", vec![status(bad)])]);
        let mut plan = bed.plan(&["a"], Retry::default());
        plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("spare", 1, true)]);
        let (outcome, x) = bed.ask(&plan).await;
        assert_eq!(said(&outcome), "from a", "{bad}");
        let keys: Vec<_> = bed.script.seen().into_iter().map(|seen| seen.key.expect("a key")).collect();
        assert_eq!((keys, bed.script.at()), (vec!["one".to_owned(), "spare".to_owned()], vec![MS(0), MS(0)]));
        assert_eq!(x.attempts[1].key.as_deref(), Some("spare"));
        // The next exchange does not ask the dead one.
        assert!(bed.ask(&plan).await.0.is_ok());
        assert_eq!(bed.script.seen()[2].key.as_deref(), Some("spare"), "{bad}");
    }
    let bed = Bed::new(&[("a", vec![status(401), status(401), status(401)])]);
    let mut plan = bed.plan(&["a"], Retry::default());
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false), ("off", 0, false)]);
    let (outcome, _) = bed.ask(&plan).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.code(), fault.status("openai_chat")), ("upstream_credential_refused", 502));
    assert_eq!(bed.script.seen().len(), 2, "a key without weight was used, or one twice");
}

#[tokio::test(start_paused = true)]
async fn seed_4_what_the_caller_got_wrong_is_not_tried_again() {
    for bad in [400, 422] {
        let bed = Bed::new(&[("a", vec![status(bad)])]);
        let (outcome, _) = bed.ask(&bed.plan(&["a", "b"], Retry::default())).await;
        assert_eq!((said(&outcome).as_str(), bed.script.hosts().len()), ("upstream_rejected", 1), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn seed_5_a_context_that_does_not_fit_goes_to_its_own_chain_alone() {
    let full = || refused(400, "context_length_exceeded");
    let bed = Bed::new(&[("a", vec![full()]), ("c", vec![full()])]);
    let plan = Plan { on_context_length: vec![bed.target("c")], ..bed.plan(&["a", "b"], Retry::default()) };
    let (outcome, _) = bed.ask(&plan).await;
    // It fits nowhere in the chain either: the plain targets are not asked.
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("context_length_exceeded", hosts(&["a", "c"])));
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!(said(&outcome), "from a");
    // Whoever says it, in the words of OpenAI, Anthropic, Gemini and Bedrock.
    for words in [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Input is too long for requested model.",
    ] {
        let refusal = Act::Say(400, vec![], json!({"error": {"message": words}}).to_string());
        let bed = Bed::new(&[("a", vec![refusal])]);
        let plan = Plan { on_context_length: vec![bed.target("c")], ..bed.plan(&["a", "b"], Retry::default()) };
        let (outcome, _) = bed.ask(&plan).await;
        assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from c", hosts(&["a", "c"])), "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn seed_6_a_refused_content_goes_to_its_own_chain_or_nowhere() {
    let bed = Bed::new(&[("a", vec![refused(400, "content_filter"), refused(400, "content_filter")])]);
    let plan = bed.plan(&["a", "b"], Retry::default());
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("content_policy", hosts(&["a"])));
    let plan = Plan { on_content_policy: vec![bed.target("c")], ..plan };
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from c", hosts(&["a", "a", "c"])));
}

#[tokio::test(start_paused = true)]
async fn seed_7_an_error_inside_a_good_stream_before_content_is_another_targets_business() {
    let stream = |text: &str| Act::Say(200, vec![("content-type", "text/event-stream")], text.to_owned());
    let error = r#"data: {"error":{"message":"busy","type":"server_error","code":null}}"#;
    let content = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let fine = format!("{content}\n\ndata: [DONE]\n\n");
    let broken = format!("{error}\n\n");
    let bed = Bed::new(&[("a", vec![stream(&broken), stream(&broken)]), ("b", vec![stream(&fine)])]);
    let body = json!({"model": "any", "stream": true, "messages": []});
    let (outcome, x) = bed.asked(&bed.plan(&["a", "b"], Retry::default()), body).await;
    assert_eq!(said(&outcome), "a stream");
    assert_eq!(bed.script.hosts(), hosts(&["a", "a", "b"]));
    assert_eq!(x.attempts[0].status, Some(200));
}

/// Of the client's dialect it makes no difference where a stream is not begun.
#[tokio::test(start_paused = true)]
async fn seed_7_it_is_as_invisible_to_messages_and_responses() {
    let stream = |text: &str| Act::Say(200, vec![("content-type", "text/event-stream")], text.to_owned());
    let error = r#"data: {"error":{"message":"busy","type":"server_error","code":null}}"#;
    let content = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    for (path, body) in [
        (
            "/v1/messages",
            json!({"model": "any", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
        ),
        ("/v1/responses", json!({"model": "any", "stream": true, "input": "Hi"})),
    ] {
        let broken = stream(&format!("{error}\n\n"));
        let fine = stream(&format!("{content}\n\ndata: [DONE]\n\n"));
        let bed = Bed::new(&[("a", vec![broken.clone(), broken]), ("b", vec![fine])]);
        let (mut x, call) = bed.exchange_at(path, body);
        let outcome = run(&bed.cx, &mut x, &call, &bed.plan(&["a", "b"], Retry::default())).await;
        let response = reply::finish(outcome, Settle::new(x, bed.cx.state.clone()));
        assert_eq!(response.status(), 200, "{path}");
        let body = response.into_body().collect().await.expect("never fails").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("Hi") && !text.contains("error\":{"), "{path}: {text}");
        assert_eq!(bed.script.hosts(), hosts(&["a", "a", "b"]), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn seed_9_a_stream_without_a_first_token_is_given_up_and_the_next_target_answers() {
    let bed = Bed::new(&[("a", vec![Act::Stalls])]);
    let plan = bed.plan(&["a", "b"], Retry::default());
    let first_token = plan.targets[0].timeouts.first_token;
    let body = json!({"model": "any", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let (outcome, x) = bed.asked(&plan, body).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("a stream", hosts(&["a", "b"])));
    assert_eq!(x.attempts[0].fault.as_ref().map(|fault| fault.kind), Some(Kind::FirstTokenTimeout));
    assert_eq!(bed.script.at()[1], first_token);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_head_misses_its_first_token_which_is_what_may_be_raised() {
    let bed = Bed::new(&[("a", vec![late(MS(600_000), good("late"))])]);
    let body = json!({"model": "any", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let (_, x) = bed.asked(&bed.plan(&["a", "b"], Retry::default()), body).await;
    assert_eq!(x.attempts[0].fault.as_ref().map(|fault| fault.kind), Some(Kind::FirstTokenTimeout));
}

#[tokio::test(start_paused = true)]
async fn seed_9_a_late_first_token_is_not_waited_for_a_second_time() {
    let bed = Bed::new(&[("a", vec![late(MS(600_000), good("late"))])]);
    let (outcome, x) = bed.ask(&bed.plan(&["a", "b"], Retry::default())).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from b", hosts(&["a", "b"])));
    assert_eq!(x.attempts[0].fault.as_ref().map(|fault| fault.kind), Some(Kind::HeadTimeout));
}

#[tokio::test(start_paused = true)]
async fn seed_10_trying_ends_at_the_cap_and_at_the_deadline() {
    let bad = || vec![status(500); 9];
    let bed = Bed::new(&[("a", bad()), ("b", bad()), ("c", bad())]);
    let (outcome, _) = bed.ask(&bed.plan(&["a", "b", "c"], Retry { max_attempts: 4, ..Retry::default() })).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("upstream_error", hosts(&["a", "a", "b", "b"])));

    let slow = || vec![late(MS(250_000), status(500)); 9];
    let bed = Bed::new(&[("a", slow()), ("b", slow()), ("c", slow())]);
    let began = Instant::now();
    let (outcome, _) = bed.ask(&bed.plan(&["a", "b", "c"], Retry { per_target: Some(1), ..Retry::default() })).await;
    assert_eq!(said(&outcome), "total_timeout");
    assert_eq!(began.elapsed(), MS(600_000), "longer than timeouts.total");
}

#[tokio::test(start_paused = true)]
async fn seed_11_a_target_that_fails_is_passed_over_and_all_of_them_is_a_503_with_a_wait() {
    let bed = Bed::new(&[("a", vec![Act::Dead; 10]), ("b", vec![])]);
    let once = Retry { per_target: Some(1), ..Retry::default() };
    let plan = bed.plan(&["a", "b"], once);
    for _ in 0..10 {
        assert_eq!(said(&bed.ask(&plan).await.0), "from b");
    }
    assert_eq!(bed.script.hosts().len(), 20);
    // Ten in a row are enough: it is not asked any more.
    let (outcome, x) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), x.attempts.len()), ("from b", 1));
    // Alone it is a 503 that says how long, where the operator wrote a breaker.
    let alone = bed.plan(&["a"], once);
    let strict = Settings { breaker: Some(Breaker::default()), ..Settings::default() };
    alone.targets[0].record(&bed.cx.state.health).configure(&strict);
    let (outcome, x) = bed.ask(&alone).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.code(), fault.status("openai_chat"), x.attempts.len()), ("no_target_available", 503, 0));
    assert_eq!(fault.retry_after, Some(MS(5000)));
    // After the rest one request may see whether it is well again.
    sleep(MS(5001)).await;
    assert_eq!(said(&bed.ask(&plan).await.0), "from a");
}

#[tokio::test(start_paused = true)]
async fn seed_11_six_failures_of_ten_within_a_minute_open_a_target_too() {
    let mix = [true, false, false, true, false, false, true, false, true, false];
    let acts = mix.map(|well| if well { good("from a") } else { Act::Dead });
    let bed = Bed::new(&[("a", acts.to_vec())]);
    let plan = bed.plan(&["a"], Retry { per_target: Some(1), ..Retry::default() });
    let breaker = Breaker { min_samples: 10, window: MS(60_000), ..Breaker::default() };
    let strict = Settings { breaker: Some(breaker), ..Settings::default() };
    plan.targets[0].record(&bed.cx.state.health).configure(&strict);
    for well in mix {
        sleep(MS(5000)).await;
        let (outcome, mut x) = bed.ask(&plan).await;
        assert_eq!(outcome.is_ok(), well);
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
    }
    let fault = bed.ask(&plan).await.0.expect_err("refused");
    assert_eq!((fault.code(), bed.script.hosts().len()), ("no_target_available", 10));
}
