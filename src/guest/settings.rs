//! Settings of a guest: what the operator wrote, against the schema in its manifest.
//!
//! The same for policies and adapters of every language. Never asks the guest itself: that is its `init`.

use serde_json::{Map, Value};

use super::Manifest;

/// The way to what is wrong inside whatever holds the settings, and what to do.
pub type Wrong = (Vec<String>, String);

/// The settings with the schema's defaults in them.
///
/// # Errors
/// What of them does not fit.
pub fn settings(manifest: &Manifest, written: &Map<String, Value>) -> Result<Value, Vec<Wrong>> {
    let mut settings = written.clone();
    let Some(schema) = &manifest.config else { return Ok(Value::Object(settings)) };
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(default) = property.get("default") {
            settings.entry(name).or_insert_with(|| default.clone());
        }
    }
    let settings = Value::Object(settings);
    let whole = |message: String| vec![(Vec::new(), message)];
    let validator = jsonschema::validator_for(schema)
        .map_err(|error| whole(format!("the manifest's `config` is no JSON Schema: {error}")))?;
    let wrong: Vec<_> = validator
        .iter_errors(&settings)
        .map(|error| {
            let place = error.instance_path().to_string();
            let inside = place.split('/').filter(|part| !part.is_empty() && part.parse::<usize>().is_err());
            let path = std::iter::once("config").chain(inside).map(str::to_owned).collect();
            (path, format!("does not fit the policy's schema: {error}"))
        })
        .collect();
    if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
}
