//! Items that a later ask names by id: found in answers, put back into asks.
//!
//! OpenAI keeps the items of stored answers, so SDKs send `item_reference` instead of repeating them. For answers that
//! another provider gave, the gateway has to keep them. Never keeps anything itself: its caller does.

use bytes::Bytes;
use memchr::memmem;
use serde_json::Value;

use crate::json::Envelope;

/// What an SDK puts in an item's place.
const REFERENCE: &str = "item_reference";

/// The items of a whole answer, or of the last event of a stream, by id.
pub fn items(body: &[u8]) -> Vec<(String, Value)> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let output = match value.get_mut("response") {
        Some(response) => response["output"].take(),
        None => value["output"].take(),
    };
    let Value::Array(items) = output else { return Vec::new() };
    items.into_iter().filter_map(|item| Some((item["id"].as_str()?.to_owned(), item))).collect()
}

/// The ask with every reference replaced that `find` knows; None when there is nothing to replace.
pub fn recall(envelope: &Envelope, find: &dyn Fn(&str) -> Option<Value>) -> Option<Bytes> {
    memmem::find(envelope.body(), REFERENCE.as_bytes())?;
    let mut input: Vec<Value> = envelope.get("input")?;
    let mut found = false;
    for item in input.iter_mut().filter(|item| item["type"] == REFERENCE) {
        if let Some(mut known) = item["id"].as_str().and_then(find) {
            // The id is ours; a provider that keeps items would look for it in vain.
            if let Some(fields) = known.as_object_mut() {
                fields.shift_remove("id");
                fields.shift_remove("status");
            }
            *item = known;
            found = true;
        }
    }
    let mut changed = envelope.clone();
    changed.set("input", serde_json::to_vec(&input).ok()?);
    found.then(|| changed.pieces().concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_answer_held_comes_back_where_it_is_named() {
        let message = json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}]});
        let event = json!({"type": "response.completed", "response": {"output": [message, {"type": "odd"}]}});
        let kept = items(event.to_string().as_bytes());
        assert_eq!(kept.len(), 1);
        let find = |id: &str| kept.iter().find(|(known, _)| known == id).map(|(_, item)| item.clone());
        let ask = json!({"model": "m", "n": 1, "input": [{"role": "user", "content": "a"},
            {"type": "item_reference", "id": "msg_1"}, {"type": "item_reference", "id": "msg_other"}]});
        let envelope = Envelope::read(ask.to_string().into()).expect("reads");
        let body: Value = serde_json::from_slice(&recall(&envelope, &find).expect("found")).expect("JSON");
        assert_eq!(body["input"][1]["content"][0]["text"], "Hi");
        assert_eq!(body["input"][1].get("id"), None);
        assert_eq!(body["input"][2]["id"], "msg_other");
        assert!(recall(&envelope, &|_| None).is_none());
    }
}
