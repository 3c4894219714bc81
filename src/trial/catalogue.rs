//! What a test says of its targets, as a price catalogue.
//!
//! The catalogue's own reader judges it, so a test cannot say what an operator could not.

use serde_json::{Map, Value, json};

/// The catalogue of a scene's targets; None when nothing is said of any.
pub(super) fn of(targets: &Map<String, Value>) -> Option<Value> {
    let mut shelves = Map::new();
    for (name, facts) in targets {
        let Some((provider, model)) = name.split_once('/') else { continue };
        let mut card = Map::new();
        let mut put = |name: &str, value: Value| drop(card.insert(name.to_owned(), value));
        if let (Some(input), Some(output)) = (facts.get("price_in"), facts.get("price_out")) {
            put("cost", json!({"input": input, "output": output}));
        }
        if let Some(context) = facts.get("context") {
            put("limit", json!({"context": context, "output": facts.get("max_output").unwrap_or(context)}));
        }
        for (fact, field) in [("tools", "tool_call"), ("reasoning", "reasoning"), ("json_schema", "structured_output")]
        {
            if let Some(value) = facts.get(fact) {
                put(field, value.clone());
            }
        }
        if facts.get("vision").is_some_and(|vision| *vision == true) {
            put("modalities", json!({"input": ["text", "image"], "output": ["text"]}));
        }
        if card.is_empty() {
            continue;
        }
        let shelf = shelves.entry(provider).or_insert_with(|| json!({"id": provider, "models": {}}));
        card.insert("id".to_owned(), json!(model));
        shelf["models"][model] = Value::Object(card);
    }
    (!shelves.is_empty()).then_some(Value::Object(shelves))
}
