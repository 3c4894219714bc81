//! Streams that break off after the commit point and are gone on with by another target.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use http_body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Act, Bed, good, hosts, late, status};
use crate::attempt::run;
use crate::fault::Kind;
use crate::reply::{self, Outbound};
use crate::route::{Plan, Retry, Rules};
use crate::settle::Settle;
use crate::sse::{Frame, Scanner};
use crate::state::State;
use crate::state::health::End;
use crate::state::log::Log;

fn sse(frames: &[Value], done: bool) -> Act {
    let mut text: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    if done {
        text.push_str("data: [DONE]\n\n");
    }
    Act::Say(200, vec![("content-type", "text/event-stream")], text)
}

fn delta(delta: Value, finish: Option<&str>) -> Value {
    json!({"id": "up", "object": "chat.completion.chunk", "created": 1, "model": "m",
           "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn say(text: &str) -> Value {
    delta(json!({ "content": text }), None)
}

fn usage(input: u64, output: u64) -> Value {
    json!({"id": "up", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
           "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}})
}

fn end() -> Value {
    delta(json!({}), Some("stop"))
}

fn plan(bed: &Bed, providers: &[&str]) -> Plan {
    let rules = Rules { continue_on_cut: true, ..Rules::default() };
    Plan { rules: Arc::new(rules), ..bed.plan(providers, Retry::default()) }
}

/// What a client reads, and the exchange's log line.
async fn stream(bed: &Bed, plan: &Plan, path: &str, body: Value) -> (String, Value) {
    let state = Arc::new(State::new(8, Log::off()));
    let (mut x, call) = bed.exchange_at(path, body);
    let outcome = run(&bed.cx, &mut x, &call, plan).await;
    let id = x.id.clone();
    let response = reply::finish(outcome, Settle::new(x, state.clone()));
    let body = response.into_body().collect().await.expect("never fails").to_bytes();
    let record = state.records.find(&id).expect("a record");
    (String::from_utf8(body.to_vec()).expect("UTF-8"), record)
}

fn frames(text: &str) -> Vec<Value> {
    let mut scanner = Scanner::new();
    scanner.push(text.to_owned().into());
    let mut frames = Vec::new();
    while scanner.scan().expect("bounded") {
        let data = Frame(scanner.last()).data();
        frames.extend(serde_json::from_slice::<Value>(&data).ok());
    }
    frames
}

fn chat_text(text: &str) -> String {
    let pieces = frames(text);
    pieces.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str()).collect()
}

fn ask() -> Value {
    json!({"model": "any", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 50,
           "messages": [{"role": "user", "content": "Count"}]})
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test(start_paused = true)]
async fn who_goes_on_has_no_rest_unless_there_is_nobody_else() {
    let too_many = End::Failed { kind: Kind::RateLimited, retry_after: Some(Duration::from_secs(60)) };
    for (providers, asked) in [(&["a", "b", "c"][..], &["a", "c"][..]), (&["a"], &["a", "a"])] {
        let cut = sse(&[say("One, ")], false);
        let rest = || sse(&[say("two."), end()], true);
        let bed = Bed::new(&[("a", vec![cut, rest()]), ("b", vec![rest()]), ("c", vec![rest()])]);
        let plan = plan(&bed, providers);
        let (mut x, call) = bed.exchange(ask());
        let outcome = run(&bed.cx, &mut x, &call, &plan).await;
        // Meanwhile others have asked too often: the first alone, or the next.
        let rests = plan.targets.get(1).unwrap_or(&plan.targets[0]).record(&bed.cx.state.health).clone();
        rests.begin(bed.cx.state.now()).expect("a place").end(bed.cx.state.now(), too_many);
        let response = reply::finish(outcome, Settle::new(x, Arc::new(State::new(8, Log::off()))));
        let body = response.into_body().collect().await.expect("never fails").to_bytes();
        assert_eq!(chat_text(std::str::from_utf8(&body).expect("UTF-8")), "One, two.", "{providers:?}");
        assert_eq!(bed.script.hosts(), hosts(asked));
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_gets_one_stream_with_one_end_and_the_usage_of_both_parts() {
    let first = sse(&[delta(json!({"role": "assistant"}), None), say("One, "), say("two, ")], false);
    let second = sse(&[delta(json!({"role": "assistant"}), None), say(" three."), end(), usage(20, 4)], true);
    let bed = Bed::new(&[("a", vec![first]), ("b", vec![second])]);
    let (text, line) = stream(&bed, &plan(&bed, &["a", "b"]), CHAT, ask()).await;
    assert_eq!(chat_text(&text), "One, two, three.", "{text}");
    assert_eq!((text.matches("[DONE]").count(), text.matches("\"finish_reason\":\"stop\"").count()), (1, 1), "{text}");
    assert!(frames(&text).iter().all(|frame| frame["id"] == "up"), "{text}");
    assert!(text.contains(": continued by b/m\n\n"), "{text}");
    let last = frames(&text).into_iter().find(|frame| frame["choices"][0]["finish_reason"] == "stop").expect("an end");
    assert_eq!(last["portcullis"], json!({"continued_by": ["b/m"]}));
    assert_eq!(text.matches("portcullis").count(), 1, "{text}");
    // What was asked of the second: the text so far, an instruction, and no more tokens than are left.
    let asked: Value = serde_json::from_str(&bed.script.seen()[1].body).expect("JSON");
    let turns = asked["messages"].as_array().expect("turns");
    assert_eq!((turns.len(), &turns[1]["role"], &turns[1]["content"]), (3, &json!("assistant"), &json!("One, two,")));
    assert!(asked["max_tokens"].as_u64() < Some(50), "{asked}");
    // The first part is our estimate: two pieces, and four bytes of the ask a token.
    let told = frames(&text).pop().expect("frames");
    assert_eq!(told["usage"]["completion_tokens"], 6, "{told}");
    assert_eq!(line["usage"]["output"], 6, "{line}");
    assert_eq!(
        (&line["provider"], &line["status"], &line["usage_estimated"]),
        (&json!("b"), &json!(200), &json!(true))
    );
    let attempts = line["attempts"].as_array().expect("attempts");
    let told: Vec<_> = attempts.iter().map(|attempt| (&attempt["error"], &attempt["role"])).collect();
    assert_eq!(told, [(&json!("stream_broken"), &Value::Null), (&Value::Null, &json!("continuation"))]);
    let health = &bed.cx.state.health;
    assert!(health.record("a/m").totals().1.iter().any(|(kind, _)| kind.row().code == "stream_broken"));
}

/// Reads until the text is there, and once more, so that what follows has begun.
async fn read_until(body: &mut Outbound, text: &str) {
    let mut said = String::new();
    while !said.contains(text) {
        let frame = body.frame().await.expect("more").expect("never fails");
        said.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8"));
    }
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(body).poll_frame(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn what_is_being_asked_to_go_on_when_the_client_leaves_is_noted_and_paid_for() {
    let hour = Duration::from_secs(3600);
    for ends in [false, true] {
        let bed = Bed::new(&[
            ("a", vec![sse(&[say("One, "), say("two, ")], false)]),
            ("b", vec![status(500)]),
            ("c", vec![late(hour, good("three."))]),
        ]);
        let state = Arc::new(State::new(8, Log::off()));
        let (mut x, call) = bed.exchange_at(CHAT, ask());
        x.input_estimate = 100;
        let outcome = run(&bed.cx, &mut x, &call, &plan(&bed, &["a", "b", "c"])).await;
        let id = x.id.clone();
        let mut body = reply::finish(outcome, Settle::new(x, state.clone())).into_body();
        read_until(&mut body, "two, ").await;
        assert_eq!(bed.script.hosts(), hosts(&["a", "b", "c"]));
        if ends {
            state.end();
            body.frame().await.expect("an error").expect("never fails");
        }
        drop(body);
        let line = state.records.find(&id).expect("a record");
        let attempts = line["attempts"].as_array().expect("attempts");
        let told: Vec<_> = attempts.iter().map(|attempt| (&attempt["provider"], &attempt["error"])).collect();
        let [cut, failed] = [json!("stream_broken"), json!("upstream_error")];
        assert_eq!(told, [(&json!("a"), &cut), (&json!("b"), &failed), (&json!("c"), &Value::Null)], "{line}");
        assert_eq!(attempts[2]["role"], "continuation");
        // The ask of the first and of the last, and two pieces of the first.
        assert_eq!((&line["usage"]["input"], &line["usage"]["output"]), (&json!(200), &json!(2)), "{line}");
        assert_eq!(line["error"]["code"], if ends { "draining" } else { "client_gone" }, "{line}");
        assert_eq!(bed.script.dropped(), 1, "it is still being asked");
        let health = &bed.cx.state.health;
        let failed = |target: &str| health.record(target).totals().1.into_iter().map(|(kind, _)| kind.row().code);
        assert_eq!(failed("a/m").collect::<Vec<_>>(), ["stream_broken"]);
        assert_eq!(failed("c/m").count(), 0, "it did nothing wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_another_dialect_see_one_message() {
    let first = sse(&[say("One, ")], false);
    let second = sse(&[say("two."), end(), usage(20, 4)], true);
    let bed = Bed::new(&[("a", vec![first]), ("b", vec![second])]);
    let body =
        json!({"model": "any", "stream": true, "max_tokens": 50, "messages": [{"role": "user", "content": "Count"}]});
    let (text, line) = stream(&bed, &plan(&bed, &["a", "b"]), "/v1/messages", body).await;
    let kinds: Vec<String> =
        frames(&text).iter().map(|frame| frame["type"].as_str().unwrap_or("").to_owned()).collect();
    let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
    for once in ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"] {
        assert_eq!(count(once), 1, "{once}: {text}");
    }
    let said: String = frames(&text).iter().filter_map(|frame| frame["delta"]["text"].as_str()).collect();
    assert_eq!(said, "One, two.");
    assert_eq!(line["finish"], "stop");
    let end = frames(&text).into_iter().find(|frame| frame["type"] == "message_delta").expect("an end");
    assert_eq!(end["portcullis"], json!({"continued_by": ["b/m"]}));
}

#[tokio::test(start_paused = true)]
async fn the_end_says_who_went_on_in_the_places_that_responses_and_gemini_have_for_it() {
    let bed = || {
        let first = sse(&[say("One, ")], false);
        let second = sse(&[say("two."), end(), usage(20, 4)], true);
        Bed::new(&[("a", vec![first]), ("b", vec![second])])
    };
    let body = json!({"model": "any", "stream": true, "input": "Count", "metadata": {"mine": "kept"}});
    let here = bed();
    let (text, _) = stream(&here, &plan(&here, &["a", "b"]), "/v1/responses", body).await;
    let told: Vec<Value> = frames(&text).iter().map(|frame| frame["response"]["metadata"].clone()).collect();
    assert_eq!(told[0], json!({"mine": "kept"}), "{text}");
    let last = told.last().expect("frames");
    assert_eq!(*last, json!({"mine": "kept", "portcullis_continued_by": "b/m"}), "{text}");
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "Count"}]}]});
    let here = bed();
    let path = "/v1beta/models/any:streamGenerateContent?alt=sse";
    let (text, _) = stream(&here, &plan(&here, &["a", "b"]), path, body).await;
    let told: Vec<Value> = frames(&text).iter().map(|frame| frame["candidates"][0]["finishMessage"].clone()).collect();
    let (last, before) = told.split_last().expect("frames");
    assert_eq!(*last, "Continued by b/m.", "{text}");
    assert!(before.iter().all(Value::is_null), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_goes_on_from_its_own_turn_needs_no_instruction() {
    let first = sse(&[say("One, ")], false);
    let second = sse(&[say("two."), end()], true);
    let bed = Bed::new(&[("a", vec![first]), ("prefilling", vec![second])]);
    let (text, _) = stream(&bed, &plan(&bed, &["a", "prefilling"]), CHAT, ask()).await;
    assert_eq!(chat_text(&text), "One, two.", "{text}");
    let asked: Value = serde_json::from_str(&bed.script.seen()[1].body).expect("JSON");
    let turns = asked["messages"].as_array().expect("turns");
    assert_eq!((turns.len(), &turns[1]), (2, &json!({"role": "assistant", "content": "One,", "prefix": true})));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_whole_is_gone_on_with_too_and_a_failed_try_leads_to_the_next() {
    let bed = Bed::new(&[("a", vec![sse(&[say("One, ")], false)]), ("b", vec![status(500)])]);
    let (text, line) = stream(&bed, &plan(&bed, &["a", "b", "c"]), CHAT, ask()).await;
    assert_eq!(chat_text(&text), "One, from c", "{text}");
    assert_eq!(bed.script.hosts(), hosts(&["a", "b", "c"]));
    let told: Vec<_> =
        line["attempts"].as_array().into_iter().flatten().map(|attempt| attempt["error"].clone()).collect();
    assert_eq!(told, [json!("stream_broken"), json!("upstream_error"), Value::Null]);
}

#[tokio::test(start_paused = true)]
async fn with_nobody_to_go_on_the_client_hears_of_the_cut() {
    let cut = || sse(&[say("One, ")], false);
    let bed = Bed::new(&[("a", vec![cut(), status(500)]), ("b", vec![status(500)])]);
    let (text, line) = stream(&bed, &plan(&bed, &["a", "b"]), CHAT, ask()).await;
    assert!(text.contains("ended before") || text.contains("before it was complete"), "{text}");
    assert_eq!((&line["error"]["code"], text.matches("[DONE]").count()), (&json!("stream_broken"), 0), "{line}");
    assert_eq!(bed.script.hosts(), hosts(&["a", "b", "a"]), "not each once, itself last");
}

#[tokio::test(start_paused = true)]
async fn half_a_tool_call_a_structured_answer_and_an_ended_one_are_not_gone_on_with() {
    let call = delta(
        json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}}]}),
        None,
    );
    for (frames, more) in [
        (vec![say("I call "), call], json!({})),
        (vec![say("{\"a\":")], json!({"response_format": {"type": "json_object"}})),
        (vec![say("a")], json!({"n": 2})),
    ] {
        let bed = Bed::new(&[("a", vec![sse(&frames, false)])]);
        let mut body = ask();
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let (text, line) = stream(&bed, &plan(&bed, &["a", "b"]), CHAT, body).await;
        assert_eq!((bed.script.hosts(), &line["error"]["code"]), (hosts(&["a"]), &json!("stream_broken")), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn seed_8_without_the_rule_a_cut_is_an_error_event_and_the_stream_is_relayed_as_it_is() {
    let bed = Bed::new(&[("a", vec![sse(&[say("One, ")], false)])]);
    let (text, line) = stream(&bed, &bed.plan(&["a", "b"], Retry::default()), CHAT, ask()).await;
    assert_eq!((bed.script.hosts(), &line["error"]["code"]), (hosts(&["a"]), &json!("stream_broken")), "{text}");
    assert!(text.starts_with(&format!("data: {}\n\n", say("One, "))), "{text}");
}
