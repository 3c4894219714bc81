//! Holds answers to the JSON Schema that the caller asked for, or that the operator set: an answer that does not fit is a
//! failed try, so that the plan goes on to a target that does better.
//!
//! Looks at whole answers only; streams have gone out before they are whole.

portcullis_policy::policy!(
    "portcullis:json-schema-guard/json-schema-guard",
    "
    package portcullis:json-schema-guard;
    world json-schema-guard {
        include portcullis:gateway/policy-base@0.1.0;
        export portcullis:gateway/on-answer@0.1.0;
    }
    "
);

mod schema;

use std::cell::RefCell;

use exports::portcullis::gateway::manifest::{Description, Metric, MetricKind, StreamMode};
use exports::portcullis::gateway::{manifest, on_answer};
use portcullis_policy::decision::AnswerVerdict;
use portcullis_policy::exchange::{Answer, Request};
use portcullis_policy::serde_json::{self, Value};
use portcullis_policy::{label, metrics, reject, trace};

struct Guard;

#[derive(Clone, Default)]
struct Settings {
    /// Stands where the caller asked for none.
    schema: Option<Value>,
    reject: bool,
}

thread_local!(static SETTINGS: RefCell<Settings> = RefCell::default());

/// Where each dialect has its schema: a field of the body, and the pointer within.
const PLACES: &[(&str, &str)] = &[
    ("response_format", "/json_schema/schema"),
    ("text", "/format/schema"),
    ("output_format", "/schema"),
    ("output_config", "/format/schema"),
    ("generationConfig", "/responseJsonSchema"),
    ("generationConfig", "/responseSchema"),
];

impl manifest::Guest for Guard {
    fn describe() -> Description {
        Description {
            title: "json-schema-guard".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Holds answers to the JSON Schema that was asked for.".into(),
            guard: true,
            stream: StreamMode::None,
            coalesce: None,
            tick_ms: None,
            metrics: vec![Metric {
                name: "misfits_total".into(),
                kind: MetricKind::Counter,
                help: "Answers that did not fit their schema.".into(),
                labels: vec!["target".into()],
                buckets: Vec::new(),
            }],
            config: r#"{
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "schema": { "type": "object" },
                    "otherwise": { "enum": ["next", "reject"], "default": "next" }
                }
            }"#
            .into(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        let config: Value = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        let schema = config.get("schema").cloned();
        SETTINGS.set(Settings { schema, reject: config["otherwise"] == "reject" });
        Ok(())
    }
}

/// The schema that the caller asked for.
fn asked(ask: &Request) -> Option<Value> {
    PLACES.iter().find_map(|(field, pointer)| {
        let value: Value = serde_json::from_str(&ask.param(field)?).ok()?;
        value.pointer(pointer).filter(|schema| schema.is_object()).cloned()
    })
}

impl on_answer::Guest for Guard {
    fn handle(ask: Request, given: Answer) -> Result<AnswerVerdict, String> {
        let settings = SETTINGS.with_borrow(Settings::clone);
        let facts = given.facts();
        // An answer that calls tools has no text yet, and one that was cut off says so itself.
        if facts.stream || facts.status != 200 || facts.finish.as_deref() == Some("tool_calls") {
            return Ok(AnswerVerdict::Pass);
        }
        let (Some(schema), Some(text)) = (asked(&ask).or(settings.schema), given.text()) else {
            return Ok(AnswerVerdict::Pass);
        };
        let wrong = match serde_json::from_str::<Value>(&text) {
            Ok(value) => schema::misfit(&schema, &value),
            Err(error) => Some(format!("it is not JSON: {error}")),
        };
        let Some(wrong) = wrong else { return Ok(AnswerVerdict::Pass) };
        metrics::count("misfits_total", 1.0, &[label("target", facts.target)])?;
        trace::note(&Value::String(wrong.clone()).to_string())?;
        let message = format!("The answer does not fit the schema: {wrong}.");
        Ok(match settings.reject {
            true => AnswerVerdict::Reject(reject("schema_misfit", message, 502)),
            false => AnswerVerdict::Fault(message),
        })
    }
}

export!(Guard);
