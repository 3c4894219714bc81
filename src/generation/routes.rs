//! From written providers and models to routes.

use std::borrow::Cow;
use std::sync::Arc;

use super::adapters::Known;
use super::providers::{self, Built, Env, MOCK};
use super::{Wrong, strategy};
use crate::config::{Config, PriceOverride, PriceTier, Provider as Written, Usd};
use crate::cost::{Catalogue, Stated};
use crate::provider::live_from_env;
use crate::route::Routes;

/// Builds every provider and model.
///
/// # Errors
/// Each thing that does not fit, a line each.
pub(super) fn build(
    config: &Config,
    env: Env<'_>,
    adapter: &dyn Fn(&str) -> Option<Result<Known, String>>,
    warnings: &mut Vec<String>,
) -> Result<Routes, String> {
    let mut routes = Routes::default();
    let mut wrong = Vec::new();
    let mut add = |name: &str, written: &Written, routes: &mut Routes| match providers::build(
        name,
        written,
        &config.timeouts,
        env,
        adapter,
    ) {
        Ok(Built::Live(provider)) => routes.providers.push(Arc::from(provider)),
        Ok(Built::Dormant(variable)) => routes.dormant.push((name.to_owned(), variable)),
        Err(error) => wrong.push(error),
    };
    for (name, written) in config.providers.iter() {
        add(name, written, &mut routes);
    }
    for live in live_from_env(env) {
        if !config.providers.contains(live.row.name) {
            add(live.row.name, &Written::default(), &mut routes);
        }
    }
    if routes.providers.is_empty() && !config.providers.contains(MOCK) {
        add(MOCK, &Written::default(), &mut routes);
    }
    routes.general = strategy::general(&config.routing);
    routes.locks = strategy::locks(&config.routing.request_policy);
    for (name, model) in config.models.iter() {
        let mut built =
            strategy::Build { config, routes: &routes, name, model, left_out: Vec::new(), wrong: Vec::new() };
        let route = built.route();
        let strategy::Build { left_out, wrong: wrong_here, .. } = built;
        wrong.extend(wrong_here);
        if !left_out.is_empty() {
            warnings.push(format!("models.{name}: left out, because their key is not set: {}", left_out.join(", ")));
        }
        // A model none of whose targets is live is unknown to callers; the warning above says why.
        let Some(route) = route else { continue };
        if name.contains('*') {
            routes.wildcards.push((name.to_owned(), route));
        } else {
            routes.models.insert(name.to_owned(), route);
        }
    }
    routes.wildcards.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    if wrong.is_empty() { Ok(routes) } else { Err(wrong.join("\n")) }
}

/// The price catalogue: built in, then the operator's file, then single prices.
///
/// # Errors
/// The file cannot be read or is not a catalogue, and each price that is none: the way to it, and what to do.
pub(super) fn catalogue(config: &Config) -> Result<Cow<'static, Catalogue>, Vec<Wrong>> {
    let mut catalogue = Cow::Borrowed(Catalogue::built_in());
    let mut wrong = Vec::new();
    let way = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    if let Some(path) = &config.prices.file {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let laid = read.and_then(|text| catalogue.to_mut().overlay(&text).map_err(|error| error.to_string()));
        if let Err(error) = laid {
            let message = format!("{} is no catalogue ({error}); write it as models.dev does", path.display());
            wrong.push((way(&["prices", "file"]), message));
        }
    }
    for (name, price) in config.prices.models.iter() {
        let (provider, model) = match name.split_once('/') {
            Some((provider, model)) => (Some(provider), model),
            None => (None, name),
        };
        let tiers: Vec<(u64, Stated)> = price.tiers.iter().map(|tier| (tier.above, tier_rates(tier))).collect();
        if !catalogue.to_mut().reprice(provider, model, &rates(price), &tiers) {
            let message = "neither it nor the catalogue states both `input` and `output`; add what is missing";
            wrong.push((way(&["prices", "models", name]), message.to_owned()));
        }
    }
    if wrong.is_empty() { Ok(catalogue) } else { Err(wrong) }
}

fn rates(price: &PriceOverride) -> Stated {
    Stated {
        input: price.input.map(Usd::nanos),
        output: price.output.map(Usd::nanos),
        cache_read: price.cache_read.map(Usd::nanos),
        cache_write: price.cache_write.map(Usd::nanos),
        cache_write_1h: price.cache_write_1h.map(Usd::nanos),
        reasoning: price.reasoning.map(Usd::nanos),
        input_audio: price.input_audio.map(Usd::nanos),
        output_audio: price.output_audio.map(Usd::nanos),
    }
}

fn tier_rates(tier: &PriceTier) -> Stated {
    Stated {
        input: tier.input.map(Usd::nanos),
        output: tier.output.map(Usd::nanos),
        cache_read: tier.cache_read.map(Usd::nanos),
        cache_write: tier.cache_write.map(Usd::nanos),
        cache_write_1h: tier.cache_write_1h.map(Usd::nanos),
        reasoning: tier.reasoning.map(Usd::nanos),
        ..Stated::default()
    }
}
