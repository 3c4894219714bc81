//! Reads catalogue files into the catalogue. Never keeps half of a bad file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Catalogue, Modality, Shelf};
use crate::cost::decimal::parse_nano;
use crate::cost::price::{Price, Stated};

/// models.dev's names of providers where ours differ, so that its `api.json` is an overlay as it stands.
const FOREIGN_NAMES: &[(&str, &str)] = &[
    ("alibaba", "dashscope"),
    ("amazon-bedrock", "bedrock"),
    ("cloudflare-workers-ai", "cloudflare"),
    ("fireworks-ai", "fireworks"),
    ("github-models", "github"),
    ("google", "gemini"),
    ("google-vertex", "vertex"),
    ("inference", "inference_net"),
    ("io-net", "io_net"),
    ("moonshotai", "moonshot"),
    ("novita-ai", "novita"),
    ("ollama-cloud", "ollama_cloud"),
    ("stepfun-ai", "stepfun"),
    ("togetherai", "together"),
    ("zhipuai", "zhipu"),
];

/// Why a catalogue file was refused: where in it, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCatalogue {
    /// `provider.models.model.field`, as far as known.
    pub path: String,
    pub reason: String,
}

impl fmt::Display for BadCatalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" | "." => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl std::error::Error for BadCatalogue {}

/// A provider in the file. Unknown fields are models.dev's business.
#[derive(Deserialize)]
struct FileShelf<'a> {
    #[serde(borrow, default)]
    models: BTreeMap<String, FileCard<'a>>,
    #[serde(default)]
    resells: HashMap<String, String>,
}

#[derive(Deserialize)]
struct FileCard<'a> {
    name: Option<String>,
    /// The outer None is "not stated", the inner one a stated `null`.
    #[serde(borrow, default, deserialize_with = "stated")]
    cost: Option<Option<Amounts<'a>>>,
    limit: Option<FileLimit>,
    modalities: Option<FileModalities>,
    reasoning: Option<bool>,
    tool_call: Option<bool>,
    structured_output: Option<bool>,
}

/// A `cost` object. Amounts stay text until [`amount`] reads them: a float would round them first.
type Amounts<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct FileLimit {
    context: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
}

#[derive(Deserialize)]
struct FileModalities {
    input: Option<Vec<String>>,
    output: Option<Vec<String>>,
}

/// What a tier is bounded by.
#[derive(Deserialize)]
struct Bound {
    #[serde(rename = "type")]
    kind: String,
    size: u64,
}

/// Lays `json` over the catalogue, all of it or nothing.
pub(super) fn overlay(catalogue: &mut Catalogue, json: &str) -> Result<(), BadCatalogue> {
    let file: BTreeMap<String, FileShelf<'_>> = serde_json::from_str(json).map_err(|_| located(json))?;
    let mut next = catalogue.clone();
    for (provider, written) in file {
        let ours = FOREIGN_NAMES.iter().find(|(theirs, _)| *theirs == provider).map_or(&*provider, |(_, ours)| ours);
        let shelf = next.shelves.entry(ours.to_owned()).or_default();
        shelf.resells.extend(written.resells);
        for (model, card) in written.models {
            let at = || format!("{provider}.models.{model}");
            merge(shelf, &model, card)
                .map_err(|(field, reason)| BadCatalogue { path: format!("{}.cost{field}", at()), reason })?;
        }
    }
    *catalogue = next;
    Ok(())
}

/// Reads the file once more, slower, to say where it is wrong.
fn located(json: &str) -> BadCatalogue {
    let mut from = serde_json::Deserializer::from_str(json);
    let read: Result<BTreeMap<String, FileShelf<'_>>, _> = serde_path_to_error::deserialize(&mut from);
    match read.map_err(|error| (error.path().to_string(), error.into_inner())) {
        Err((path, error)) => BadCatalogue { path, reason: error.to_string() },
        // The values are fine, so something follows them.
        Ok(_) => BadCatalogue {
            path: String::new(),
            reason: from.end().err().map_or_else(|| "unreadable".to_owned(), |error| error.to_string()),
        },
    }
}

/// A field under `cost`, with its dot, and what is wrong with it.
type Slip = (String, String);

fn merge(shelf: &mut Shelf, model: &str, written: FileCard<'_>) -> Result<(), Slip> {
    let price = written.cost.map(|cost| cost.map_or(Ok(None), |amounts| price(&amounts))).transpose()?;
    let card = shelf.models.entry(model.to_owned()).or_default();
    if let Some(price) = price {
        card.price = price;
    }
    if let Some(limit) = written.limit {
        // models.dev writes 0 where a limit makes no sense.
        set(&mut card.context, limit.context.filter(|tokens| *tokens > 0));
        set(&mut card.max_input, limit.input.filter(|tokens| *tokens > 0));
        set(&mut card.max_output, limit.output.filter(|tokens| *tokens > 0));
    }
    if let Some(stated) = written.modalities {
        card.input = stated.input.map_or_else(|| std::mem::take(&mut card.input), modalities);
        card.output = stated.output.map_or_else(|| std::mem::take(&mut card.output), modalities);
    }
    set(&mut card.name, written.name);
    set(&mut card.reasoning, written.reasoning);
    set(&mut card.tool_call, written.tool_call);
    set(&mut card.structured_output, written.structured_output);
    Ok(())
}

fn set<T>(field: &mut Option<T>, stated: Option<T>) {
    if stated.is_some() {
        *field = stated;
    }
}

/// Words that we have no meaning for are left out.
fn modalities(words: Vec<String>) -> Vec<Modality> {
    words.iter().filter_map(|word| Modality::ALL.into_iter().find(|known| known.as_str() == word)).collect()
}

/// The price in a `cost` object. None when it does not say enough to bill with: no input or output price, or a tier
/// that is bounded by something we do not count.
fn price(amounts: &Amounts<'_>) -> Result<Option<Price>, Slip> {
    let Some(base) = rates(amounts)?.over(None) else { return Ok(None) };
    let mut tiers: Vec<(u64, Stated)> = Vec::new();
    if let Some(listed) = amounts.get("tiers").filter(|raw| raw.get() != "null") {
        let slip = |error: serde_json::Error| (".tiers".to_owned(), error.to_string());
        for written in serde_json::from_str::<Vec<Amounts<'_>>>(listed.get()).map_err(slip)? {
            let bound = written.get("tier").map_or("null", |raw| raw.get());
            let Some(bound) = serde_json::from_str::<Option<Bound>>(bound).map_err(slip)? else { return Ok(None) };
            if bound.kind != "context" {
                return Ok(None);
            }
            tiers.push((bound.size, rates(&written).map_err(|slip| under(".tiers", slip))?));
        }
    } else {
        // The older form, which models.dev still writes beside `tiers`, then with a rounded bound.
        for (key, raw) in amounts {
            let Some(above) = long_context(key) else { continue };
            let slip = |error: serde_json::Error| (format!(".{key}"), error.to_string());
            let Some(written) = serde_json::from_str::<Option<Amounts<'_>>>(raw.get()).map_err(slip)? else { continue };
            tiers.push((above, rates(&written).map_err(|slip| under(&format!(".{key}"), slip))?));
        }
    }
    Ok(Some(Price::new(base, &tiers)))
}

/// The bound in `context_over_200k`.
fn long_context(key: &str) -> Option<u64> {
    let thousands: u64 = key.strip_prefix("context_over_")?.strip_suffix('k')?.parse().ok()?;
    thousands.checked_mul(1000)
}

fn under(outer: &str, (field, reason): Slip) -> Slip {
    (format!("{outer}{field}"), reason)
}

/// The rates that `amounts` states.
fn rates(amounts: &Amounts<'_>) -> Result<Stated, Slip> {
    Ok(Stated {
        input: amount(amounts, "input")?,
        output: amount(amounts, "output")?,
        cache_read: amount(amounts, "cache_read")?,
        cache_write: amount(amounts, "cache_write")?,
        cache_write_1h: amount(amounts, "cache_write_1h")?,
        reasoning: amount(amounts, "reasoning")?,
        input_audio: amount(amounts, "input_audio")?,
        output_audio: amount(amounts, "output_audio")?,
    })
}

/// Dollars per million tokens, written as a number or, to be safe from other tools' floats, as a string.
fn amount(amounts: &Amounts<'_>, field: &str) -> Result<Option<u64>, Slip> {
    let Some(text) = amounts.get(field).map(|raw| raw.get()).filter(|text| *text != "null") else { return Ok(None) };
    match parse_nano(text.trim_matches('"')) {
        Some(nano) => Ok(Some(nano)),
        None => Err((format!(".{field}"), format!("{text} is not an amount of dollars per million tokens"))),
    }
}

fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}
