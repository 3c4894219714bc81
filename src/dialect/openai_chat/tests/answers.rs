//! What answers hold beside their text: sources, sound, ids of calls.

use super::*;
use crate::chat::{Choice, Delta, Start};
use crate::dialect;

fn stream(chunks: &[Value]) -> Vec<u8> {
    let frames = chunks.iter().map(|chunk| format!("data: {chunk}\n\n"));
    frames.chain(["data: [DONE]\n\n".to_owned()]).collect::<String>().into_bytes()
}

/// The citations of each text.
fn cited(answer: &Answer) -> Vec<&[Value]> {
    let blocks = answer.choices.iter().flat_map(|choice| &choice.blocks);
    let texts = blocks.filter_map(|block| match &block.content {
        Content::Text { citations, .. } => Some(citations.as_slice()),
        _ => None,
    });
    texts.collect()
}

/// An answer for a caller of another dialect.
fn told(dialect: &str, answer: &Answer) -> Value {
    let dialect = dialect::find(dialect).expect("built in");
    let asked = asked(Op::Generate, Ask { model: "m".into(), source: dialect.name(), ..Ask::default() });
    value(&dialect.encode_answer(answer, &asked))
}

/// The same as a stream, put together again.
fn told_in_pieces(dialect: &str, events: &[Event]) -> Answer {
    let dialect = dialect::find(dialect).expect("built in");
    let asked = asked(Op::Generate, Ask { model: "m".into(), source: dialect.name(), ..Ask::default() });
    let (mut encoder, mut out) = (dialect.encoder(&asked), Vec::new());
    events.iter().for_each(|event| encoder.event(event, &mut out));
    encoder.finish(&mut out);
    dialect::collect(dialect, out.into()).expect("our own stream")
}

#[test]
fn sources_of_the_whole_answer_are_those_of_its_text() {
    let named = |mut body: Value| {
        body["citations"] = json!(["https://a.example/", "https://b.example/"]);
        body["search_results"] = json!([{"title": "B", "url": "https://b.example/", "date": "2026-01-01"}]);
        body
    };
    let annotation = json!({"type": "url_citation", "url_citation": {"url": "https://a.example/", "title": "A"}});
    let source = json!({"type": "source", "url": "https://b.example/", "title": "B"});
    let message = json!({"role": "assistant", "content": "So.", "annotations": [annotation]});
    let whole = named(json!({"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}));
    let whole = OpenAiChat.decode_answer(whole.to_string().as_bytes()).expect("valid");
    assert_eq!(cited(&whole), [[annotation.clone(), source.clone()]]);
    let again = value(&OpenAiChat.encode_answer(&whole, &curious(Op::Generate)));
    assert_eq!(again["choices"][0]["message"]["annotations"], json!([annotation]), "the caller has `citations`");
    assert_eq!(again["citations"][1], "https://b.example/");

    let chunk = |delta: Value, finish: Value| json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let begun = [chunk(json!({"content": "S", "annotations": [annotation]}), Value::Null)];
    for rest in [
        // xAI names them with the end, Perplexity in every chunk.
        vec![chunk(json!({"content": "o."}), Value::Null), named(chunk(json!({}), json!("stop")))],
        vec![named(chunk(json!({"content": "o."}), Value::Null)), named(chunk(json!({"content": ""}), json!("stop")))],
        vec![chunk(json!({"content": "o."}), json!("stop")), named(json!({"id": "c", "choices": []}))],
    ] {
        let chunks: Vec<Value> = begun.iter().cloned().chain(rest).collect();
        let events = decode(&stream(&chunks), &[]).expect("valid");
        let answer = collect(events.clone());
        assert_eq!((answer.text().as_str(), cited(&answer)), ("So.", vec![&[annotation.clone(), source.clone()][..]]));
        assert!(!String::from_utf8_lossy(&encode(&events, &curious(Op::Generate))).contains("b.example"));

        let urls =
            |answer: &Answer| cited(answer)[0].iter().map(|citation| citation["url"].clone()).collect::<Vec<_>>();
        let expected = [json!("https://a.example/"), json!("https://b.example/")];
        assert_eq!(urls(&told_in_pieces("openai_responses", &events)), expected);
        assert_eq!(urls(&told_in_pieces("anthropic", &events)), expected);
        let gemini = told_in_pieces("gemini", &events);
        let chunks = &cited(&gemini)[0][0]["groundingMetadata"]["groundingChunks"];
        assert_eq!(chunks[1], json!({"web": {"uri": "https://b.example/", "title": "B"}}));
    }

    let responses = told("openai_responses", &whole);
    let place =
        json!({"type": "url_citation", "start_index": 0, "end_index": 3, "url": "https://b.example/", "title": "B"});
    assert_eq!(responses["output"][0]["content"][0]["annotations"][1], place);
    let message = told("anthropic", &whole);
    let block = &message["content"][0]["citations"][1];
    assert_eq!((&block["type"], &block["url"]), (&json!("web_search_result_location"), &json!("https://b.example/")));
    let gemini = told("gemini", &whole);
    let chunks = &gemini["candidates"][0]["groundingMetadata"]["groundingChunks"];
    assert_eq!(chunks[1], json!({"web": {"uri": "https://b.example/", "title": "B"}}));
}

#[test]
fn a_citation_that_comes_before_its_text_is_of_all_of_it() {
    let delta = |index, delta| Event::Delta { choice: 0, index, delta };
    let citation = json!({"type": "web_search_result_location", "url": "https://e.org", "title": "E"});
    let events = [
        Event::Start(Start { source: "anthropic", ..Start::default() }),
        Event::Open { choice: 0, index: 0, block: Opened::Text },
        delta(0, Delta::Text("Fact: ".into())),
        Event::Close { choice: 0, index: 0 },
        Event::Open { choice: 0, index: 1, block: Opened::Text },
        delta(1, Delta::Citation(citation)),
        delta(1, Delta::Text("it ".into())),
        delta(1, Delta::Text("rains".into())),
        Event::Close { choice: 0, index: 1 },
        Event::Finish { choice: 0, reason: Finish::Pause, native: Some("pause_turn".into()), stop_sequence: None },
    ];
    let streamed = collect(decode(&encode(&events, &curious(Op::Generate)), &[]).expect("our own stream"));
    let place = |annotation: &Value| {
        let place = &annotation["url_citation"];
        (place["start_index"].as_u64(), place["end_index"].as_u64())
    };
    assert_eq!(place(&cited(&streamed).concat()[0]), (Some(6), Some(14)));
    assert_eq!(streamed.choices[0].finish, Some(Finish::Stop), "a pause is a stop");
    let whole = collect(events.to_vec());
    let whole = value(&OpenAiChat.encode_answer(&whole, &curious(Op::Generate)));
    assert_eq!(place(&whole["choices"][0]["message"]["annotations"][0]), (Some(6), Some(14)));
    let responses = told_in_pieces("openai_responses", &events);
    assert_eq!(cited(&responses).concat()[0]["end_index"], 8);
    assert_eq!(responses.choices[0].native_finish.as_deref(), Some("completed"));
}

#[test]
fn what_is_said_between_two_pieces_of_arguments_drops_none_of_them() {
    let call = |call: Value| json!({ "tool_calls": [call] });
    for (between, kind) in [
        (json!({"content": "Now."}), "text"),
        (json!({"reasoning_content": "Hm."}), "reasoning"),
        (json!({"refusal": "No."}), "refusal"),
        (json!({"images": [{"type": "image_url", "image_url": {"url": "https://e.org/a.png"}}]}), "image"),
    ] {
        let deltas = [
            call(json!({"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{\"a\""}})),
            call(json!({"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{"}})),
            between,
            call(json!({"index": 0, "function": {"arguments": ":1}"}})),
            call(json!({"index": 1, "function": {"arguments": "}"}})),
        ];
        let chunks = deltas.map(|delta| json!({"id": "x", "choices": [{"index": 0, "delta": delta}]}));
        let answer = collect(decode(&stream(&chunks), &[]).expect("is read"));
        let blocks = &answer.choices[0].blocks;
        let arguments = |at: usize| match &blocks[at].content {
            Content::ToolCall(call) => call.arguments.as_str(),
            other => panic!("{other:?}"),
        };
        assert_eq!((blocks.len(), arguments(0), arguments(1)), (3, "{\"a\":1}", "{}"), "{kind}");
    }
}

#[test]
fn places_in_one_of_several_texts_are_moved_behind_those_before_it() {
    let delta = |index, delta| Event::Delta { choice: 0, index, delta };
    let citation = |extra: Value| {
        let mut citation = json!({"type": "url_citation", "url": "https://e.org", "title": "E", "start_index": 3,
            "end_index": 7});
        citation.as_object_mut().expect("an object").extend(extra.as_object().cloned().unwrap_or_default());
        citation
    };
    for (source, citation, expected) in
        [("openai_responses", citation(json!({})), (8, 12)), ("gemini", citation(json!({"over_answer": true})), (3, 7))]
    {
        let events = [
            Event::Start(Start { source, ..Start::default() }),
            Event::Open { choice: 0, index: 0, block: Opened::Text },
            delta(0, Delta::Text("Köln ".into())),
            Event::Close { choice: 0, index: 0 },
            Event::Open { choice: 0, index: 1, block: Opened::Text },
            delta(1, Delta::Text("It rains.".into())),
            delta(1, Delta::Citation(citation)),
            Event::Close { choice: 0, index: 1 },
            Event::Finish { choice: 0, reason: Finish::Stop, native: None, stop_sequence: None },
        ];
        let place = |annotation: &Value| {
            let place = &annotation["url_citation"];
            (place["start_index"].as_u64().unwrap_or_default(), place["end_index"].as_u64().unwrap_or_default())
        };
        let streamed = collect(decode(&encode(&events, &curious(Op::Generate)), &[]).expect("our own stream"));
        assert_eq!(place(&cited(&streamed).concat()[0]), expected, "{source}");
        let whole = collect(events.to_vec());
        let whole = value(&OpenAiChat.encode_answer(&whole, &curious(Op::Generate)));
        assert_eq!(place(&whole["choices"][0]["message"]["annotations"][0]), expected, "{source}");
    }
}

#[test]
fn sound_of_another_dialect_has_the_shape_of_openais() {
    let sound = |data: &str| {
        let content = Content::Audio { data: data.into(), format: "wav".into(), transcript: None, id: None };
        let extra = [("mimeType".to_owned(), json!("audio/L16;rate=24000"))].into_iter().collect();
        Block { content, cache: None, extra }
    };
    let choice = Choice { blocks: vec![sound("AAE="), sound("AgM=")], finish: Some(Finish::Stop), ..Choice::default() };
    let answer = Answer { id: "r".into(), choices: vec![choice], source: "gemini", ..Answer::default() };
    let asked = curious(Op::Generate);
    let whole = value(&OpenAiChat.encode_answer(&answer, &asked));
    let expected = json!({"id": "audio_x1_0", "data": "AAECAw==", "transcript": "", "expires_at": 1_700_000_000});
    assert_eq!(whole["choices"][0]["message"]["audio"], expected);

    let text = String::from_utf8(encode(&replay(&answer), &asked)).expect("UTF-8");
    let chunks = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: {"));
    let deltas = chunks.map(|chunk| value(format!("{{{chunk}").as_bytes())["choices"][0]["delta"]["audio"].clone());
    let deltas: Vec<Value> = deltas.filter(|audio| !audio.is_null()).collect();
    let expected =
        [json!({"id": "audio_x1_0", "data": "AAE="}), json!({"data": "AgM="}), json!({"expires_at": 1_700_000_000})];
    assert_eq!(deltas, expected);
}

#[test]
fn calls_of_two_answers_without_any_ids_are_told_apart() {
    let call = json!([{"index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let whole = json!({"choices": [{"message": {"tool_calls": call}, "finish_reason": "tool_calls"}]}).to_string();
    let pieces =
        stream(&[json!({"choices": [{"index": 0, "delta": {"tool_calls": call}, "finish_reason": "tool_calls"}]})]);
    let mut ids = std::collections::HashSet::new();
    for answer in [
        OpenAiChat.decode_answer(whole.as_bytes()).expect("valid"),
        OpenAiChat.decode_answer(whole.as_bytes()).expect("valid"),
        collect(decode(&pieces, &[]).expect("valid")),
        collect(decode(&pieces, &[]).expect("valid")),
    ] {
        assert_eq!(answer.id, "");
        let Content::ToolCall(call) = &answer.choices[0].blocks[0].content else { panic!("a call") };
        assert!(call.id.len() <= 40 && ids.insert(call.id.clone()), "{}", call.id);
    }
}

#[test]
fn a_stop_sequence_that_the_server_names_is_why_it_stopped() {
    let named = |mut choice: Value, key: &str, at: Value| {
        (choice["index"], choice["finish_reason"], choice[key]) = (json!(0), json!("stop"), at);
        json!({"id": "c", "choices": [choice]})
    };
    let ends = |key: &str, at: Value| {
        let whole = named(json!({"message": {"role": "assistant", "content": "So."}}), key, at.clone());
        let whole = OpenAiChat.decode_answer(whole.to_string().as_bytes()).expect("valid");
        let begun = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": "So"}}]});
        let streamed = |last: Value| {
            let last = named(json!({ "delta": last }), key, at.clone());
            collect(decode(&stream(&[begun.clone(), last]), &[]).expect("valid"))
        };
        [whole, streamed(json!({})), streamed(json!({"content": "."}))].map(|answer| {
            let message = told("anthropic", &answer);
            let chat = told("openai_chat", &answer);
            (
                message["stop_reason"].clone(),
                message["stop_sequence"].clone(),
                chat["choices"][0]["finish_reason"].clone(),
            )
        })
    };
    for key in ["stop_reason", "matched_stop"] {
        let (sequence, token) = (ends(key, json!("\nEND")), ends(key, json!(151645)));
        assert!(
            sequence.iter().all(|end| *end == (json!("stop_sequence"), json!("\nEND"), json!("stop"))),
            "{sequence:?}"
        );
        assert!(token.iter().all(|end| *end == (json!("end_turn"), Value::Null, json!("stop"))), "{token:?}");
    }
}

#[test]
fn counts_that_come_with_content_stand_before_it() {
    let usage = json!({"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8});
    let first = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": usage});
    let last = json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage});
    let events = decode(&stream(&[first, last]), &[]).expect("valid");
    assert!(matches!(events[..3], [Event::Start(_), Event::Usage(_), Event::Open { .. }]), "{events:?}");
}

#[test]
fn white_space_in_what_is_said_after_calls_is_kept_and_white_space_alone_is_nothing() {
    let delta = |delta: Value| json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    let call = json!({"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let said = |texts: &[&str]| {
        let texts = texts.iter().map(|text| delta(json!({ "content": text })));
        let end = json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]});
        let chunks: Vec<Value> =
            [delta(json!({ "tool_calls": [call] }))].into_iter().chain(texts).chain([end]).collect();
        let answer = collect(decode(&stream(&chunks), &[]).expect("valid"));
        (answer.text(), answer.choices[0].blocks.len())
    };
    assert_eq!(said(&["\n\n", "December", " ", "1", ", 2025"]), ("\n\nDecember 1, 2025".to_owned(), 2));
    assert_eq!(said(&["\n", " "]), (String::new(), 1));
}
