//! Paths, splices, errors, token counts, embeddings.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json as value;

use super::*;
use crate::dialect::{Begun, refusal};
use crate::embed::{EmbedAnswer, EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::json::Envelope;

#[test]
fn paths_name_the_model_and_what_to_do() {
    let path = |op, model, stream| Gemini.path(op, model, stream).unwrap_or_default();
    assert_eq!(path(Op::Generate, "gemini-2.5-pro", false), "/models/gemini-2.5-pro:generateContent");
    assert_eq!(path(Op::Generate, "models/m@1:x", true), "/models/m@1:x:streamGenerateContent?alt=sse");
    assert_eq!(path(Op::CountTokens, "a/b c?", false), "/models/a%2Fb%20c%3F:countTokens");
    assert_eq!(path(Op::Embed, "e", false), "/models/e:embedContent");
    assert_eq!(path(Op::EmbedBatch, "e", true), "/models/e:batchEmbedContents");
    assert_eq!(Gemini.path(Op::Complete, "m", false), None);
}

fn spliced(body: &str) -> String {
    let mut envelope = Envelope::read(Bytes::copy_from_slice(body.as_bytes())).expect("an object");
    Gemini.splice(&mut envelope, "good", &Quirks::NONE);
    String::from_utf8(envelope.pieces().concat()).expect("UTF-8")
}

#[test]
fn a_relayed_body_changes_only_where_it_names_a_model() {
    let plain = r#"{ "contents":[{"parts":[{"text":"ü"}]}], "odd": 1.50e+2 }"#;
    assert_eq!(spliced(plain), plain);
    assert_eq!(
        spliced(r#"{"model": "models/x", "content": {"n": 1.0e1}}"#),
        r#"{"model": "models/good", "content": {"n": 1.0e1}}"#
    );
    assert_eq!(
        spliced(r#"{"requests": [{"model":"models/x", "v":1.50}, {"v":2}]}"#),
        r#"{"requests": [{"model":"models/good", "v":1.50},{"v":2}]}"#
    );
    assert_eq!(
        spliced(r#"{"generateContentRequest":{"model":"x","a":1e3}}"#),
        r#"{"generateContentRequest":{"model":"models/good","a":1e3}}"#
    );
}

#[test]
fn no_second_model_hides_in_a_relayed_body() {
    for body in [
        r#"{"requests":[{"model":"models/evil","model":"models/x"}]}"#,
        r#"{"requests":{"model":"models/evil"}}"#,
        r#"{"requests":[{"mod\u0065l":"models/evil"}]}"#,
        r#"{"generate_content_request":{"model":"models/evil"}}"#,
        r#"{"generateContentRequest":{"model":"models/evil","Model":"models/evil"}}"#,
    ] {
        assert!(!spliced(body).contains("evil"), "{body} → {}", spliced(body));
    }
}

fn refused(status: u16, name: &str) -> Fault {
    refusal::fault(Gemini.decode_error(status, &Bytes::from(fixture(name))), None)
}

#[test]
fn errors_of_google_are_understood() {
    let key = refused(400, "error_key.json");
    assert_eq!(key.kind, Kind::UpstreamCredential);
    let refusal = key.refusal.as_deref().expect("a refusal");
    assert_eq!((refusal.kind.as_deref(), refusal.code.as_deref()), (Some("INVALID_ARGUMENT"), Some("API_KEY_INVALID")));
    let minute = refused(429, "error_minute.json");
    assert_eq!((minute.kind, minute.retry_after), (Kind::RateLimited, Some(Duration::from_millis(33_500))));
    let day = refused(429, "error_day.json");
    assert_eq!((day.kind, day.retry_after), (Kind::QuotaExceeded, None));
    assert_eq!(refused(400, "error_array.json").kind, Kind::ContextLength);
}

#[test]
fn an_error_body_in_no_form_is_its_own_message() {
    for (body, message) in [
        ("<html>Bad gateway</html>\n", "<html>Bad gateway</html>"),
        ("", ""),
        (r#"{"error":"nope"}"#, "nope"),
        (r#"{"detail":"x"}"#, r#"{"detail":"x"}"#),
        ("[]", "[]"),
    ] {
        let refusal = Gemini.decode_error(502, &Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!((refusal.status, refusal.message.as_str()), (502, message));
    }
}

#[test]
fn a_refusal_goes_on_byte_for_byte_unless_it_was_about_our_key() {
    for name in ["error_minute.json", "error_array.json"] {
        assert_eq!(Gemini.encode_error(&refused(429, name), "req"), fixture(name), "{name}");
    }
    let body = json(&Gemini.encode_error(&refused(400, "error_key.json"), "req"));
    assert_eq!((&body["error"]["code"], &body["error"]["status"]), (&value!(502), &value!("UNAVAILABLE")));
    assert!(!body.to_string().contains("API key not valid"));
}

#[test]
fn errors_of_the_gateway_have_googles_form() {
    let fault = Fault::new(Kind::ModelNotFound, "No model `x`.").retry_after(Some(Duration::from_millis(1500)));
    let body = json(&Gemini.encode_error(&fault, "req"));
    assert_eq!(
        body,
        value!({"error": {"code": 404, "message": fault.text(), "status": "NOT_FOUND", "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "MODEL_NOT_FOUND", "domain": "portcullis"},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"},
        ]}})
    );
    let mut out = Vec::new();
    Gemini.encode_stream_error(&Fault::new(Kind::StreamBroken, "Cut."), &Begun::default(), &mut out);
    let frame = String::from_utf8(out).expect("UTF-8");
    assert!(frame.starts_with("data: {\"error\":{\"code\":502,") && frame.ends_with("}\r\n\r\n"), "{frame}");
}

#[test]
fn token_counts_go_both_ways_in_both_forms() {
    let whole = decoded(Op::CountTokens, &fixture("count_ask.json"));
    assert_eq!(
        (shape(&whole.system), shape(&whole.messages[0].blocks)),
        (vec!["text Count.".into()], vec!["text How many?".into()])
    );
    let mut to = Encoding::new("gemini-2.5-flash", &Quirks::NONE);
    let body = Gemini.encode_count(&whole, &mut to).expect("it counts").expect("encodes");
    let body = json(&body);
    assert_eq!(body["generateContentRequest"]["model"], "models/gemini-2.5-flash");
    assert_eq!(body["generateContentRequest"]["systemInstruction"]["parts"][0]["text"], "Count.");

    let plain = decoded(Op::CountTokens, br#"{"contents":[{"parts":[{"text":"x"}]}]}"#);
    let body = Gemini.encode_count(&plain, &mut to).expect("it counts").expect("encodes");
    assert_eq!(json(&body), value!({"contents": [{"role": "user", "parts": [{"text": "x"}]}]}));

    let answer = br#"{"totalTokens": 31, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 31}]}"#;
    assert_eq!(Gemini.decode_count(answer).expect("a count"), 31);
    assert_eq!(Gemini.decode_count(&Gemini.encode_count_answer(7)).expect("a count"), 7);
    assert_eq!(Gemini.decode_count(b"{}").expect_err("no count").kind, Kind::BadAnswer);
}

fn embed_ask(op: Op, body: &[u8]) -> Result<EmbedAsk, Fault> {
    Gemini.decode_embed(&RawAsk { op, body, model: Some("e"), stream: false })
}

#[test]
fn one_content_or_a_batch_is_embedded() {
    let one = embed_ask(
        Op::Embed,
        br#"{"model":"models/e","content":{"parts":[{"text":"hi"}]},"taskType":"RETRIEVAL_QUERY","output_dimensionality":3}"#,
    )
    .expect("decodes");
    assert_eq!((one.single, one.inputs.as_slice()), (true, &[EmbedInput::Text("hi".into())][..]));
    assert_eq!((one.task.as_deref(), one.dimensions), (Some("RETRIEVAL_QUERY"), Some(3)));
    let mut to = Encoding::new("e2", &Quirks::NONE);
    assert_eq!(
        json(&Gemini.encode_embed(&one, &mut to).expect("encodes")),
        value!({"model": "models/e2", "content": {"parts": [{"text": "hi"}]}, "taskType": "RETRIEVAL_QUERY",
            "outputDimensionality": 3})
    );

    let batch = embed_ask(Op::EmbedBatch, &fixture("embed_batch_ask.json")).expect("decodes");
    assert_eq!((batch.single, batch.inputs.len(), batch.dimensions), (false, 2, Some(8)));
    assert_eq!(batch.title, None, "the two have their own");
    let mut to = Encoding::new("e2", &Quirks::NONE);
    let body = json(&Gemini.encode_embed(&batch, &mut to).expect("encodes"));
    assert_eq!((&body["requests"][0]["title"], &body["requests"][1]["title"]), (&value!("One"), &value!("Two")));
    assert_eq!(body["requests"][1]["model"], "models/e2");
    assert_eq!(body["requests"][1]["content"]["parts"][0]["text"], "second\nline");
}

#[test]
fn inputs_that_are_no_text_are_refused() {
    let tokens = EmbedAsk { inputs: vec![EmbedInput::Tokens(vec![1])], source: "openai_chat", ..EmbedAsk::default() };
    let mut to = Encoding::new("e", &Quirks::NONE);
    assert_eq!(Gemini.encode_embed(&tokens, &mut to).expect_err("refused").kind, Kind::UnsupportedFeature);
    for (op, body) in
        [(Op::Embed, "{}"), (Op::EmbedBatch, r#"{"requests":[]}"#), (Op::EmbedBatch, r#"{"requests":[{}]}"#)]
    {
        assert_eq!(embed_ask(op, body.as_bytes()).expect_err(body).kind, Kind::InvalidRequest);
    }
}

#[test]
fn vectors_are_read_from_all_three_answers_and_written_in_two() {
    let one = Gemini.decode_embed_answer(br#"{"embedding":{"values":[0.5,-1]}}"#).expect("decodes");
    let many = br#"{"embeddings":[{"values":[0.5,-1]},{"values":[1,2e-3]}],"usageMetadata":{"promptTokenCount":4}}"#;
    let many = Gemini.decode_embed_answer(many).expect("decodes");
    let predicted = br#"{"predictions":[{"embeddings":{"values":[0.5,-1],"statistics":{"token_count":2}}}]}"#;
    let predicted = Gemini.decode_embed_answer(predicted).expect("decodes");
    assert_eq!((&one.vectors, &predicted.vectors), (&vec![vec![0.5, -1.0]], &vec![vec![0.5, -1.0]]));
    assert_eq!((many.vectors.len(), many.usage.map(|usage| usage.input)), (2, Some(4)));
    let ask = EmbedAsk::default();
    let answer =
        EmbedAnswer { vectors: many.vectors, usage: many.usage, source: "openai_chat", ..EmbedAnswer::default() };
    assert_eq!(
        json(&Gemini.encode_embed_answer(&answer, &ask, Op::EmbedBatch)),
        value!({"embeddings": [{"values": [0.5, -1.0]}, {"values": [1.0, 0.002f32]}],
            "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}})
    );
    assert_eq!(
        json(&Gemini.encode_embed_answer(&one, &ask, Op::Embed)),
        value!({"embedding": {"values": [0.5, -1.0]}})
    );
    for body in ["{}", "[]", r#"{"embeddings":[]}"#, r#"{"embedding":{}}"#, r#"{"embeddings":[{"values":["x"]}]}"#] {
        assert_eq!(Gemini.decode_embed_answer(body.as_bytes()).expect_err(body).kind, Kind::BadAnswer);
    }
}
