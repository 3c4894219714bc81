//! Values of the wrong type in every place: refused or understood, never a panic, and never written out broken.

use serde_json::json;

use super::*;
use crate::chat::event::replay;
use crate::dialect::{Encoding, Quirks};

/// The value with each of its parts, one at a time, put in the place of something else.
fn mutants(value: &Value) -> Vec<Value> {
    let mut mutants: Vec<Value> =
        [json!(null), json!(5), json!(-1.5), json!("x"), json!([]), json!({}), json!([{}]), json!({"type": "text"})]
            .into();
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                for mutant in self::mutants(inner) {
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), mutant);
                    mutants.push(Value::Object(fields));
                }
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                for mutant in self::mutants(inner) {
                    let mut items = items.clone();
                    items[i] = mutant;
                    mutants.push(Value::Array(items));
                }
            }
        }
        _ => {}
    }
    mutants
}

#[test]
fn asks_with_a_wrong_part_are_refused_or_written_as_asks() {
    for name in ["claude_code", "everything", "count"] {
        let mut understood = 0;
        for mutant in mutants(&json(&fixture(&format!("asks/{name}.json")))) {
            let Ok(mut ask) = decode(mutant.to_string().as_bytes()) else { continue };
            understood += 1;
            for source in ["anthropic", "openai_chat"] {
                ask.source = source;
                if let Ok(body) = Anthropic.encode_ask(&ask, &mut Encoding::new("claude-opus-4-5", &Quirks::NONE)) {
                    assert!(decode(&body).is_ok(), "{}", String::from_utf8_lossy(&body));
                }
            }
        }
        assert!(understood > 0, "{name}");
    }
}

#[test]
fn answers_with_a_wrong_part_are_refused_or_written_as_answers() {
    let mut understood = 0;
    for mutant in mutants(&json(&fixture("answers/full.json"))) {
        let body = mutant.to_string();
        let _ = Anthropic.summary(Op::Generate, body.as_bytes());
        let _ = Anthropic.decode_error(400, &bytes::Bytes::from(body.clone()));
        let Ok(mut answer) = Anthropic.decode_answer(body.as_bytes()) else { continue };
        understood += 1;
        for source in ["anthropic", "gemini"] {
            answer.source = source;
            assert!(Anthropic.decode_answer(&Anthropic.encode_answer(&answer, &asked())).is_ok(), "{body}");
            let (mut encoder, mut out) = (Anthropic.encoder(&asked()), Vec::new());
            replay(&answer).iter().for_each(|event| encoder.event(event, &mut out));
            encoder.finish(&mut out);
            assert!(read(&[&out]).1.is_ok(), "{body}");
        }
    }
    assert!(understood > 0);
}

#[test]
fn events_with_a_wrong_part_are_refused_or_passed_over() {
    for name in ["web_search", "overloaded"] {
        let text = String::from_utf8(fixture(&format!("streams/{name}.sse"))).expect("UTF-8");
        let whole: Vec<&str> = text.split_inclusive("\n\n").collect();
        for at in 0..whole.len() {
            for mutant in mutants(&json(&Frame(whole[at].as_bytes()).data())) {
                let odd = format!("data: {mutant}\n\n");
                let mut frames = whole.clone();
                frames[at] = &odd;
                let _ = read(&[frames.concat().as_bytes()]);
                let mut nose = Anthropic.sniffer(Op::Generate);
                frames.iter().for_each(|frame| drop(nose.frame(&Frame(frame.as_bytes()))));
            }
        }
    }
}
