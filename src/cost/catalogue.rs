//! The price catalogue: models, their prices, limits and abilities, in the shape of models.dev's `api.json`.
//!
//! Built in, overlaid by the operator's files. Never guesses: a name is found as it stands, without its date, or where
//! the catalogue itself says to look; otherwise the model is unknown.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

pub use read::BadCatalogue;

use super::price::{Price, Stated};

/// The figures of the release; `config/prices.md` says where they come from.
pub(super) const BUILT_IN: &str = include_str!("../../config/prices.json");

/// Stands for every model of a provider, and every provider, that is not listed; only operators use it.
const ANY: &str = "*";

/// Everything the catalogue says of one model. `None` is "not stated".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The name for people.
    pub name: Option<String>,
    /// None when the price is unknown; a price of zero is a statement.
    pub price: Option<Price>,
    /// Tokens of input and output together.
    pub context: Option<u64>,
    /// Where the input is bounded apart from the context.
    pub max_input: Option<u64>,
    pub max_output: Option<u64>,
    pub input: Vec<Modality>,
    pub output: Vec<Modality>,
    pub reasoning: Option<bool>,
    pub tool_call: Option<bool>,
    pub structured_output: Option<bool>,
}

/// What a model takes or gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Modality {
    Text,
    Image,
    Audio,
    Video,
    Pdf,
}

impl Modality {
    pub const ALL: [Modality; 5] = [Modality::Text, Modality::Image, Modality::Audio, Modality::Video, Modality::Pdf];

    pub fn as_str(self) -> &'static str {
        match self {
            Modality::Text => "text",
            Modality::Image => "image",
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::Pdf => "pdf",
        }
    }
}

/// One provider's models.
#[derive(Debug, Clone, Default)]
struct Shelf {
    models: BTreeMap<String, ModelCard>,
    /// For providers that sell other makers' models at the makers' prices under `maker/model`: maker → provider.
    resells: HashMap<String, String>,
}

/// Prices and abilities by provider and model.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    shelves: HashMap<String, Shelf>,
}

impl Catalogue {
    /// The catalogue of the release, parsed at first use.
    pub fn built_in() -> &'static Catalogue {
        static PARSED: LazyLock<Catalogue> = LazyLock::new(|| {
            let mut catalogue = Catalogue::default();
            // `the_built_in_catalogue_is_readable` holds that this never fails; without prices costs are unknown.
            if let Err(bad) = catalogue.overlay(BUILT_IN) {
                tracing::error!(%bad, "the built-in price catalogue is unreadable");
            }
            catalogue
        });
        &PARSED
    }

    /// Lays a file in models.dev's shape over this catalogue. Cards are merged field by field, but a `cost` replaces
    /// the whole price, so that no discount of an older price survives a newer one; `"cost": null` makes it unknown.
    /// Providers may have our names or models.dev's. On an error the catalogue is left as it was.
    pub fn overlay(&mut self, json: &str) -> Result<(), BadCatalogue> {
        read::overlay(self, json)
    }

    /// Changes the price of one model, for one provider or for all, as the operator states it: what is not stated stays
    /// as it was, and so do the tiers when none are given. False when input or output are left without a price.
    pub fn reprice(&mut self, provider: Option<&str>, model: &str, stated: &Stated, tiers: &[(u64, Stated)]) -> bool {
        let providers: Vec<String> = match provider {
            Some(one) => vec![one.to_owned()],
            // Those that list it, and whoever does not.
            None => {
                let lists = |(_, shelf): &(&String, &Shelf)| shelf.models.contains_key(model);
                self.shelves.iter().filter(lists).map(|(name, _)| name.clone()).chain([ANY.to_owned()]).collect()
            }
        };
        let mut known = true;
        for provider in providers {
            let mut card = self.model(&provider, model).cloned().unwrap_or_default();
            let old = card.price.take();
            card.price = stated.over(old.as_ref().map(|price| &price.base)).map(|base| {
                let kept = old.filter(|_| tiers.is_empty()).map_or_else(Vec::new, |old| old.tiers);
                if kept.is_empty() { Price::new(base, tiers) } else { Price { base, tiers: kept } }
            });
            // Nobody's own price need not be complete: the providers that list the model have one.
            known &= card.price.is_some() || provider == ANY;
            self.shelves.entry(provider).or_default().models.insert(model.to_owned(), card);
        }
        known
    }

    /// The card of a provider's model; see [`Catalogue::find`] for several names of a provider.
    pub fn model(&self, provider: &str, model: &str) -> Option<&ModelCard> {
        self.card(provider, model, true).or_else(|| self.card(ANY, model, false))
    }

    /// The card under the first of these provider names that knows the model: the operator's own name for the
    /// provider, then the name of its built-in row. What is said of a model whoever serves it counts after both.
    pub fn find(&self, providers: &[&str], model: &str) -> Option<&ModelCard> {
        let known = providers.iter().find_map(|provider| self.card(provider, model, true));
        known.or_else(|| self.card(ANY, model, false))
    }

    /// The price of a provider's model. None is unknown, and so is every cost made of it.
    pub fn lookup(&self, provider: &str, model: &str) -> Option<&Price> {
        self.model(provider, model)?.price.as_ref()
    }

    /// The models listed for a provider, by name.
    pub fn models(&self, provider: &str) -> impl Iterator<Item = (&str, &ModelCard)> {
        let shelf = self.shelves.get(provider);
        let listed = shelf.into_iter().flat_map(|shelf| &shelf.models).map(|(name, card)| (name.as_str(), card));
        listed.filter(|(name, _)| *name != ANY)
    }

    /// The names of the providers that have models.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.shelves.keys().map(String::as_str).filter(|name| *name != ANY)
    }

    fn card(&self, provider: &str, model: &str, may_resell: bool) -> Option<&ModelCard> {
        let shelf = self.shelves.get(provider)?;
        // Gemini's own listing prefixes names with their collection.
        let model = model.strip_prefix("models/").unwrap_or(model);
        if let Some(card) = shelf.models.get(model) {
            return Some(card);
        }
        if let Some(card) = undated(model).and_then(|name| shelf.models.get(name)) {
            return Some(card);
        }
        // One step only: a maker's shelf is not asked for whom it resells in turn.
        if may_resell
            && let Some((maker, rest)) = model.split_once('/')
            && let Some(card) = shelf.resells.get(maker).and_then(|maker| self.card(maker, rest, false))
        {
            return Some(card);
        }
        shelf.models.get(ANY)
    }
}

/// The model's name without the mark of its version: `-2025-08-07`, `-20250929`, `@20250929`, `@default`, `-latest`,
/// Gemini's `-001`. None when it has no such mark. Marks of another product (`:free`, `-preview`, `ft:`) are none.
fn undated(model: &str) -> Option<&str> {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if model.starts_with("ft:") {
        return None;
    }
    if let Some((name, version)) = model.rsplit_once('@') {
        return (version == "default" || digits(version, 8)).then_some(name);
    }
    if let Some(name) = model.strip_suffix("-latest") {
        return Some(name);
    }
    let (name, last) = model.rsplit_once('-')?;
    let year = |text: &str| text.starts_with("20");
    if digits(last, 8) && year(last) || digits(last, 3) && last.starts_with("00") {
        return Some(name);
    }
    let (name, month) = name.rsplit_once('-')?;
    let (name, first) = name.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(first, 4) && year(first)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::undated;

    #[test]
    fn only_version_marks_are_cut_off() {
        for (model, name) in [
            ("gpt-5-2025-08-07", Some("gpt-5")),
            ("gpt-4o-mini-2024-07-18", Some("gpt-4o-mini")),
            ("claude-sonnet-4-5-20250929", Some("claude-sonnet-4-5")),
            ("claude-sonnet-4-5@20250929", Some("claude-sonnet-4-5")),
            ("claude-opus-4-6@default", Some("claude-opus-4-6")),
            ("mistral-large-latest", Some("mistral-large")),
            ("gemini-2.0-flash-001", Some("gemini-2.0-flash")),
            ("gpt-4-0613", None),
            ("gpt-4o", None),
            ("mistral-large-2411", None),
            ("deepseek/deepseek-r1:free", None),
            ("ft:gpt-4o-mini-2024-07-18", None),
            ("ft:gpt-4o-mini-2024-07-18:acme::abc", None),
            ("llama-3.3-70b", None),
            ("x-19990101", None),
            ("gemini-2.5-pro-preview-05-06", None),
            ("@cf/meta/llama-3.1-8b-instruct", None),
            ("", None),
        ] {
            assert_eq!(undated(model), name, "{model}");
        }
    }
}
