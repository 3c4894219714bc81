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
        .map_err(|error| whole(format!("the manifest's [config] is no JSON Schema: {}", unfit(&error))))?;
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

/// Where a schema is none, and what stands there.
fn unfit(error: &jsonschema::ValidationError<'_>) -> String {
    let place = error.instance_path().to_string();
    let path: Vec<&str> = place.split('/').filter(|part| !part.is_empty()).collect();
    let path: String = std::iter::once("config").chain(path).collect::<Vec<_>>().join(".");
    match path.ends_with(".type") {
        true => format!(
            "`{path}` is {}, and not one of \"string\", \"number\", \"integer\", \"boolean\", \"array\", \"object\", \"null\"",
            error.instance()
        ),
        false => format!("`{path}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_that_is_none_names_the_property() {
        let told = |schema: Value| {
            let manifest = Manifest { config: Some(schema), ..Manifest::default() };
            settings(&manifest, &Map::new()).expect_err("no schema").remove(0).1
        };
        let error = told(json!({ "type": "object", "properties": { "kinds": { "type": "list" } } }));
        assert!(error.contains("`config.properties.kinds.type` is \"list\", and not one of \"string\""), "{error}");
        let error = told(json!({ "properties": { "kinds": { "minimum": "1" } } }));
        assert!(error.contains("`config.properties.kinds.minimum`: "), "{error}");
    }
}
