//! From a scene as a test describes it to the configuration that an operator would have written for it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Subject, What, catalogue};

/// What a test said, with empty things where it said nothing.
pub(super) struct Scene<'a>(pub &'a Value);

impl Scene<'_> {
    pub fn map(&self, name: &str) -> Map<String, Value> {
        self.0.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Every target that is spoken of, `provider/model`.
    fn targets(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.map("targets").keys().cloned().collect();
        names.extend(self.map("upstreams").keys().cloned());
        for model in self.map("models").values() {
            named(model, &mut names);
        }
        named(&self.0["config"], &mut names);
        names
    }

    /// The configuration, and the catalogue beside it. `room` is for what the scene leaves behind.
    pub fn config(&self, subject: &Subject, room: &Path, catalogue_file: &Path) -> (Value, Option<Value>) {
        let targets = self.map("targets");
        let mut providers = Map::new();
        let usual = match subject.what {
            What::Adapter => json!(format!("lua:{}", subject.name)),
            What::Script | What::Plugin => json!("openai_chat"),
        };
        for name in self.targets() {
            let Some((provider, _)) = name.split_once('/') else { continue };
            let dialect = |name: &String| targets.get(name)?.get("dialect").cloned();
            let known = providers.get(provider).is_some();
            if !known || dialect(&name).is_some() {
                let dialect = dialect(&name).unwrap_or_else(|| usual.clone());
                let base = format!("http://{provider}.test/v1");
                providers.insert(provider.to_owned(), json!({"dialect": dialect, "base_url": base, "api_key": "k"}));
            }
        }
        if providers.is_empty() {
            providers.insert("a".to_owned(), json!({"dialect": usual, "base_url": "http://a.test/v1"}));
        }
        let models: Map<String, Value> = self
            .map("models")
            .into_iter()
            .map(|(name, what)| if what.is_array() { (name, json!({"fallback": what})) } else { (name, what) })
            .collect();
        let mut config = json!({
            "listen": {"workers": 1}, "log": {"stdout": "off"}, "hooks_dir": subject.folder,
            "providers": providers, "models": models,
        });
        match subject.what {
            What::Script => config["hooks"] = json!([self.hook("lua", subject)]),
            What::Adapter => config["adapters"] = json!({ &subject.name: self.adapter() }),
            What::Plugin => {
                config["hooks"] = json!([self.hook("wasm", subject)]);
                config["plugins"] = json!({"folder": subject.folder, "compiled": room.join("compiled")});
            }
        }
        if let Some(key) = self.0.get("key").and_then(Value::as_object) {
            let mut key = key.clone();
            key.entry("name").or_insert_with(|| json!("caller"));
            key.insert("key".to_owned(), json!(super::client::KEY));
            config["keys"] = json!([key]);
        }
        let catalogue = catalogue::of(&targets);
        if catalogue.is_some() {
            config["prices"] = json!({"file": catalogue_file});
        }
        for (name, value) in self.map("settings") {
            config[name] = value;
        }
        (config, catalogue)
    }

    /// The hook that attaches a policy of this engine.
    fn hook(&self, engine: &str, subject: &Subject) -> Map<String, Value> {
        let mut hook = self.map("hook");
        hook.insert(engine.to_owned(), json!(subject.name));
        // Safepoints are the same everywhere; time depends on the machine, so tests have plenty unless they say otherwise.
        let budget = hook.entry("budget").or_insert_with(|| json!({}));
        // An interpreter inside a plugin needs memory, and the clock of trials stands still, so that it is ticks that end one.
        let plugin = [("memory", json!("512MiB")), ("safepoints", json!(30_000))];
        let time = [("cpu", json!("1s")), ("total", json!("10s"))];
        for (key, plenty) in time.into_iter().chain(plugin.into_iter().filter(|_| subject.what == What::Plugin)) {
            if budget.get(key).is_none() {
                budget[key] = plenty;
            }
        }
        self.settings(hook)
    }

    /// An adapter's settings; what it does not know is refused as everywhere.
    fn adapter(&self) -> Map<String, Value> {
        let mut settings = self.map("hook");
        settings.entry("cpu").or_insert_with(|| json!("5s"));
        self.settings(settings)
    }

    /// With what the test says of configuration and grants.
    fn settings(&self, mut settings: Map<String, Value>) -> Map<String, Value> {
        for key in ["config", "grants"] {
            let said = self.map(key);
            if !said.is_empty() {
                settings.insert(key.to_owned(), Value::Object(said));
            }
        }
        settings
    }
}

/// Every text of the form `provider/model` inside a value.
fn named(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            let target = text.split_once('/').is_some_and(|(provider, model)| {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
                !provider.is_empty() && !model.is_empty() && text.chars().all(plain) && !text.contains("//")
            });
            if target {
                names.insert(text.clone());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, names)),
        Value::Object(entries) => entries.values().for_each(|value| named(value, names)),
        _ => {}
    }
}
