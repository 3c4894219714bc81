//! `generationConfig`, both directions: sampling, limits, output format, thinking.
//!
//! Never invents a parameter: what the caller left out stays out.

use serde_json::{Map, Value};

use crate::chat::{Ask, Effort, OutputFormat, ReasoningAsk, Tool};
use crate::dialect::gemini::field::{self, Object, put, take, take_bool, take_list, take_number, take_object};
use crate::dialect::gemini::field::{take_string, take_uint};
use crate::dialect::gemini::{NAME, schema};
use crate::dialect::{Encoding, foreign};
use crate::fault::Fault;

/// Reads the configuration into the ask; what has no neutral form stays in `extra.generationConfig`.
pub fn decode(mut config: Object, ask: &mut Ask) -> Result<(), Fault> {
    ask.temperature = take_number(&mut config, "temperature");
    ask.top_p = take_number(&mut config, "topP");
    ask.top_k = take_number(&mut config, "topK");
    ask.n = take_uint(&mut config, "candidateCount");
    ask.max_tokens = take_uint(&mut config, "maxOutputTokens");
    ask.seed = take_number(&mut config, "seed");
    ask.presence_penalty = take_number(&mut config, "presencePenalty");
    ask.frequency_penalty = take_number(&mut config, "frequencyPenalty");
    ask.logprobs = take_bool(&mut config, "responseLogprobs");
    ask.top_logprobs = take_uint(&mut config, "logprobs");
    for stop in take_list(&mut config, "stopSequences") {
        let Value::String(stop) = stop else {
            return Err(field::wrong("generationConfig.stopSequences", "a list of strings"));
        };
        ask.stop.push(stop);
    }
    for modality in take_list(&mut config, "responseModalities") {
        ask.modalities.extend(modality.as_str().map(str::to_ascii_lowercase));
    }
    ask.reasoning = take_object(&mut config, "thinkingConfig").map(thinking);
    ask.output = output(&mut config);
    if !config.is_empty() {
        ask.extra.insert("generationConfig".into(), config.into());
    }
    Ok(())
}

fn thinking(mut config: Object) -> ReasoningAsk {
    let mut asked = ReasoningAsk { include: take_bool(&mut config, "includeThoughts"), ..ReasoningAsk::default() };
    match take(&mut config, "thinkingBudget").as_ref().and_then(field::int) {
        Some(0) => asked.effort = Some(Effort::None),
        Some(budget @ 1..) => asked.budget = u64::try_from(budget).ok(),
        Some(_) => asked.adaptive = true,
        None => {}
    }
    let level = take_string(&mut config, "thinkingLevel").map(|level| level.to_ascii_lowercase());
    asked.effort = level.and_then(|level| Effort::parse(&level)).or(asked.effort);
    asked
}

fn output(config: &mut Object) -> Option<OutputFormat> {
    let mime = take_string(config, "responseMimeType");
    let json_schema = take(config, "responseJsonSchema").or_else(|| take(config, "_responseJsonSchema"));
    let own_schema = take(config, "responseSchema");
    match mime.as_deref() {
        Some("application/json") => {
            let schema = json_schema.or_else(|| own_schema.map(schema::to_json_schema));
            Some(schema.map_or(OutputFormat::JsonObject, |schema| OutputFormat::JsonSchema {
                name: schema_name(&schema),
                description: None,
                schema,
                strict: None,
            }))
        }
        Some("text/plain") => Some(OutputFormat::Text),
        // `text/x.enum` and what may come have no neutral form; they go back to Gemini as they were.
        _ => {
            put(config, "responseMimeType", mime);
            put(config, "responseJsonSchema", json_schema);
            put(config, "responseSchema", own_schema);
            None
        }
    }
}

/// OpenAI wants a name of `[a-zA-Z0-9_-]{1,64}` for a schema; the title is the nearest that Gemini has.
fn schema_name(schema: &Value) -> String {
    let title = schema.get("title").and_then(Value::as_str).unwrap_or_default();
    let name: String =
        title.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).take(64).collect();
    if name.is_empty() { "response".to_owned() } else { name }
}

/// What is said in words where a foreign ask wants JSON beside its tools and the model takes only one of them.
pub fn json_in_words(ask: &Ask, to: &mut Encoding<'_>) -> Option<String> {
    let declares = ask.tools.iter().any(|tool| !matches!(tool, Tool::Hosted(_)));
    if ask.source == NAME || !declares || version(to.model).is_none_or(|version| version >= 3.0) {
        return None;
    }
    let schema = match ask.output.as_ref()? {
        OutputFormat::Text => return None,
        OutputFormat::JsonObject => None,
        OutputFormat::JsonSchema { schema, .. } => Some(schema),
    };
    to.drop_if(true, "response_format", "this model takes no format beside tools; it was told instead");
    Some(foreign::json_in_words(schema))
}

/// `formatted`: whether the format of the answer is to be written, not said elsewhere.
pub fn encode(ask: &Ask, formatted: bool, to: &mut Encoding<'_>) -> Object {
    let mut config = match ask.extra.get("generationConfig") {
        Some(Value::Object(config)) if ask.source == NAME => config.clone(),
        _ => Map::new(),
    };
    let numbers = [
        ("temperature", &ask.temperature),
        ("topP", &ask.top_p),
        ("topK", &ask.top_k),
        ("seed", &ask.seed),
        ("presencePenalty", &ask.presence_penalty),
        ("frequencyPenalty", &ask.frequency_penalty),
    ];
    for (name, number) in numbers {
        put(&mut config, name, number.clone().map(Value::Number));
    }
    // Some models refuse penalties and logprobs by name. Switched off they are the default, and clients of other
    // dialects send them switched off by habit.
    if ask.source != NAME {
        config.retain(|name, value| !(name.ends_with("Penalty") && value.as_f64() == Some(0.0)));
        if version(to.model).is_some_and(|version| version >= 2.5) {
            const WHY: &str = "this model refuses it";
            to.drop_if(config.shift_remove("presencePenalty").is_some(), "presence_penalty", WHY);
            to.drop_if(config.shift_remove("frequencyPenalty").is_some(), "frequency_penalty", WHY);
        }
    }
    let logprobs = ask.logprobs.filter(|wanted| *wanted || ask.source == NAME);
    put(&mut config, "maxOutputTokens", ask.max_tokens);
    put(&mut config, "candidateCount", ask.n);
    put(&mut config, "responseLogprobs", logprobs);
    put(&mut config, "logprobs", ask.top_logprobs.filter(|_| ask.logprobs == Some(true) || ask.source == NAME));
    put(&mut config, "stopSequences", (!ask.stop.is_empty()).then(|| ask.stop.clone()));
    // Text alone is what Gemini does unasked, and models without a choice refuse the field.
    if ask.source == NAME || ask.modalities.iter().any(|modality| modality != "text") {
        // Models that read aloud do nothing else.
        let speaks = ask.source != NAME && to.model.contains("-tts") && ask.wants("audio");
        let kinds = ask.modalities.iter().filter(|kind| !speaks || *kind == "audio");
        let modalities: Vec<String> = kinds.map(|modality| modality.to_ascii_uppercase()).collect();
        put(&mut config, "responseModalities", (!modalities.is_empty()).then_some(modalities));
    }
    match ask.output.as_ref().filter(|_| formatted) {
        None => {}
        Some(OutputFormat::Text) => put(&mut config, "responseMimeType", (ask.source == NAME).then_some("text/plain")),
        Some(OutputFormat::JsonObject) => put(&mut config, "responseMimeType", Some("application/json")),
        Some(OutputFormat::JsonSchema { schema, .. }) => {
            config.insert("responseMimeType".into(), "application/json".into());
            config.insert("responseJsonSchema".into(), schema::for_gemini(schema));
        }
    }
    if let Some(thinking) = ask.reasoning.as_ref().and_then(|asked| encode_thinking(asked, ask, to)) {
        config.insert("thinkingConfig".into(), thinking.into());
    }
    config
}

/// How a model is told how much to think. Its name is all there is to go by.
#[derive(Debug, PartialEq)]
enum Thinking {
    /// `thinkingLevel` (from 3 on). `minimal`: whether it knows that step; `medium`: whether it knows that one.
    Level { minimal: bool, medium: bool },
    /// `thinkingBudget` within these bounds; `off` is the budget that means as little as possible.
    Budget { min: u64, max: u64, off: u64 },
    /// It does not think.
    Never,
}

/// Whether a model is known not to speak: those of Google that do say so in their names.
pub fn is_mute(model: &str) -> bool {
    let name = super::super::bare_model(model).rsplit('/').next().unwrap_or_default();
    name.starts_with("gemini-") && !["tts", "audio", "live"].iter().any(|word| name.contains(word))
}

/// The number in a model's name.
fn version(model: &str) -> Option<f64> {
    let version = super::super::bare_model(model).rsplit('/').next()?.strip_prefix("gemini-")?;
    version.split('-').next()?.parse().ok()
}

fn thinking_of(model: &str) -> Thinking {
    let is = |word: &str| model.contains(word);
    match version(model) {
        Some(number) if number >= 3.0 => Thinking::Level { minimal: is("flash"), medium: is("flash") || number > 3.0 },
        Some(number) if number < 2.5 => Thinking::Never,
        Some(_) if is("pro") => Thinking::Budget { min: 128, max: 32_768, off: 128 },
        Some(_) if is("lite") => Thinking::Budget { min: 512, max: 24_576, off: 0 },
        Some(_) => Thinking::Budget { min: 1, max: 24_576, off: 0 },
        None if is("gemma") || is("learnlm") => Thinking::Never,
        // An alias or a tuned model: every thinking model takes budgets, also those that prefer levels.
        None => Thinking::Budget { min: 128, max: 24_576, off: if is("pro") { 128 } else { 0 } },
    }
}

/// Whether a model refuses calls without a signature in its history. Names of Google's without a number (`-latest`) stand for
/// the newest models.
pub fn wants_signatures(model: &str) -> bool {
    let newest = || version(model).is_none() && super::super::bare_model(model).starts_with("gemini-");
    matches!(thinking_of(model), Thinking::Level { .. }) || newest()
}

fn encode_thinking(asked: &ReasoningAsk, ask: &Ask, to: &mut Encoding<'_>) -> Option<Object> {
    let mut config = Object::new();
    // Who states a budget or asks for a summary in another dialect is shown the reasoning there.
    let shown = ask.source != NAME && (asked.budget.is_some() || asked.adaptive || asked.summary.is_some());
    let off = asked.effort == Some(Effort::None);
    let include = asked.include.or((shown && !off).then_some(true));
    match thinking_of(to.model) {
        Thinking::Never => {
            to.drop_if(!off, "reasoning", "this model does not think");
            return None;
        }
        Thinking::Level { minimal, medium } => {
            let level = asked.effort_level(ask.max_tokens).map(|effort| match effort {
                Effort::None | Effort::Minimal if minimal => "MINIMAL",
                Effort::None | Effort::Minimal | Effort::Low => "LOW",
                Effort::Medium if medium => "MEDIUM",
                Effort::Medium | Effort::High | Effort::Xhigh | Effort::Max => "HIGH",
            });
            put(&mut config, "thinkingLevel", level);
        }
        Thinking::Budget { min, max, off: least } => {
            let budget = match asked.budget_tokens(ask.max_tokens) {
                Some(0) => Some(Value::from(least)),
                Some(budget) => Some(Value::from(budget.clamp(min, max))),
                None => asked.adaptive.then(|| Value::from(-1)),
            };
            put(&mut config, "thinkingBudget", budget);
        }
    }
    put(&mut config, "includeThoughts", include);
    (!config.is_empty()).then_some(config)
}

/// Gemini's word for a tier in OpenAI's. None for "no wish".
pub fn neutral_tier(tier: &str) -> Option<String> {
    Some(match tier.to_ascii_lowercase().trim_start_matches("service_tier_") {
        "unspecified" | "" => return None,
        "standard" => "default".to_owned(),
        other => other.to_owned(),
    })
}

pub fn gemini_tier(tier: &str) -> Option<&str> {
    match tier {
        "auto" => None,
        "default" => Some("standard"),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Quirks;

    fn told(model: &str, asked: ReasoningAsk) -> Value {
        let ask = Ask { source: "openai_chat", ..Ask::default() };
        let mut to = Encoding::new(model, &Quirks::NONE);
        encode_thinking(&asked, &ask, &mut to).map_or(Value::Null, Value::Object)
    }

    fn effort(effort: Effort) -> ReasoningAsk {
        ReasoningAsk { effort: Some(effort), ..ReasoningAsk::default() }
    }

    #[test]
    fn the_models_name_decides_between_budget_and_level() {
        use serde_json::json;
        assert_eq!(told("gemini-2.5-flash", effort(Effort::Medium)), json!({"thinkingBudget": 8192}));
        assert_eq!(told("gemini-2.5-flash", effort(Effort::None)), json!({"thinkingBudget": 0}));
        assert_eq!(told("gemini-2.5-pro", effort(Effort::None)), json!({"thinkingBudget": 128}));
        assert_eq!(told("gemini-3-pro-preview", effort(Effort::None)), json!({"thinkingLevel": "LOW"}));
        assert_eq!(told("gemini-3-pro-preview", effort(Effort::Medium)), json!({"thinkingLevel": "HIGH"}));
        assert_eq!(told("gemini-3.1-pro-preview", effort(Effort::Medium)), json!({"thinkingLevel": "MEDIUM"}));
        assert_eq!(told("models/gemini-3-flash", effort(Effort::Minimal)), json!({"thinkingLevel": "MINIMAL"}));
        assert_eq!(told("gemini-2.0-flash", effort(Effort::High)), Value::Null);
        assert_eq!(told("gemini-flash-latest", effort(Effort::Low)), json!({"thinkingBudget": 3276}));
        assert_eq!(told("gemini-pro-latest", effort(Effort::None)), json!({"thinkingBudget": 128}));
    }

    #[test]
    fn a_stated_budget_is_kept_within_what_the_model_takes_and_shown() {
        let asked = ReasoningAsk { budget: Some(1 << 20), ..ReasoningAsk::default() };
        assert_eq!(
            told("gemini-2.5-pro", asked),
            serde_json::json!({"thinkingBudget": 32768, "includeThoughts": true})
        );
        let dynamic = ReasoningAsk { adaptive: true, ..ReasoningAsk::default() };
        assert_eq!(told("gemini-2.5-pro", dynamic), serde_json::json!({"thinkingBudget": -1, "includeThoughts": true}));
    }
}
