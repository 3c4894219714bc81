//! Hard constraints: what removes a target from a plan, whatever else speaks for it.
//!
//! Pure. Each says in its word and in figures why; rank and preference are `planner`'s.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{Facts, Health, Needs};
use super::policy::Policy;
use super::tree::{Require, Tree, able, lacking};
use super::{Target, Verdict};
use crate::state::health::Standing;

/// Everything that may remove a target from one request's plan.
pub(super) struct Filter<'a> {
    pub require: &'a Require,
    pub policy: &'a Policy,
    pub facts: &'a dyn Facts,
    pub health: &'a dyn Health,
    /// What the request needs, of the abilities that some target is known to lack.
    needs: Needs,
    /// Tokens of the ask and its answer, where some target is too small for a long ask.
    tokens: Option<u64>,
}

/// Which constraint, and its figures.
pub(super) struct Removed {
    pub by: &'static str,
    pub why: Cow<'static, str>,
    pub retry_after: Option<Duration>,
}

impl Removed {
    fn because(by: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Removed { by, why: why.into(), retry_after: None }
    }

    pub fn verdict(self, target: &Target) -> Verdict {
        let Removed { by, why, retry_after } = self;
        Verdict { target: target.name(), removed_by: Some(by), why: why.into_owned(), retry_after }
    }
}

impl<'a> Filter<'a> {
    pub fn new(
        tree: &Tree,
        require: &'a Require,
        policy: &'a Policy,
        facts: &'a dyn Facts,
        health: &'a dyn Health,
    ) -> Self {
        let watched = if policy.require_parameters { Needs::NONE } else { tree.lacking };
        let needs = if watched.is_empty() && !policy.require_parameters { Needs::NONE } else { facts.needs() };
        let long = tree.least_context.filter(|least| facts.tokens_at_most() > *least);
        let tokens = long.map(|least| (least, facts.tokens())).filter(|(least, tokens)| tokens > least);
        Filter { require, policy, facts, health, needs, tokens: tokens.map(|(_, tokens)| tokens) }
    }

    /// What removes the target, if anything does.
    pub fn removes(&self, target: &Arc<Target>) -> Option<Removed> {
        unwell(self.health, target).or_else(|| self.unfit(target))
    }

    /// What removes the target however well it is.
    pub fn unfit(&self, target: &Target) -> Option<Removed> {
        let of_policy = (!self.policy.is_none()).then(|| self.policy(target)).flatten();
        of_policy
            .or_else(|| (!self.require.is_none()).then(|| self.require(target)).flatten())
            .or_else(|| self.card(target))
    }

    fn policy(&self, target: &Target) -> Option<Removed> {
        let policy = self.policy;
        if policy.ignore.iter().any(|slug| names(slug, target)) {
            return Some(Removed::because("ignore", "the request ignores it"));
        }
        if !policy.only.is_empty() && !policy.only.iter().any(|slug| names(slug, target)) {
            return Some(Removed::because("only", "the request wants others only"));
        }
        let ordered = !policy.order.is_empty() && policy.allow_fallbacks == Some(false);
        if ordered && !policy.order.iter().any(|slug| names(slug, target)) {
            return Some(Removed::because("order", "the request allows no others than those it orders"));
        }
        policy.require_parameters.then(|| self.parameters(target)).flatten()
    }

    /// `require_parameters`: every parameter must reach the model.
    fn parameters(&self, target: &Target) -> Option<Removed> {
        let parameters = self.facts.parameters();
        let unset = |name: &&String| target.overrides.drop.iter().any(|dropped| dropped == *name);
        if let Some(name) = parameters.iter().find(unset) {
            return Some(Removed::because("require_parameters", format!("`{name}` is taken out for it")));
        }
        let lacks = target.card.as_deref().map_or(Needs::NONE, lacking).and(self.needs);
        if let Some(word) = word(lacks) {
            return Some(Removed::because("require_parameters", format!("it has no {word}")));
        }
        let (name, why) = self.facts.loses(target)?;
        Some(Removed::because("require_parameters", format!("`{name}` is lost: {why}")))
    }

    fn require(&self, target: &Target) -> Option<Removed> {
        let (require, tags) = (self.require, &target.provider.tags);
        if !require.region.is_empty() {
            let region = tags.region.as_deref();
            if !region.is_some_and(|region| require.region.iter().any(|wanted| wanted == region)) {
                return Some(Removed::because("region", format!("it is in {}", region.unwrap_or("no stated region"))));
            }
        }
        if require.data_deny && !tags.data_deny {
            return Some(Removed::because("data_collection", "its provider may collect data"));
        }
        if require.zdr && !tags.zdr {
            return Some(Removed::because("zdr", "its provider may keep what it is sent"));
        }
        if let Some((name, value)) = require.labels.iter().find(|label| !tags.labels.contains(label)) {
            return Some(Removed::because("labels", format!("it is not labelled {name}: {value}")));
        }
        if !require.max_price.is_none()
            && let Some(removed) = self.price(target)
        {
            return Some(removed);
        }
        let stated = target.card.as_deref().map_or(Needs::NONE, able);
        let missing = Needs::ALL.iter().find(|(need, _)| require.abilities.contains(*need) && !stated.contains(*need));
        missing.map(|(_, word)| Removed::because("abilities", format!("the catalogue states no {word} of it")))
    }

    fn price(&self, target: &Target) -> Option<Removed> {
        let bound = self.require.max_price;
        let Some(price) = target.card.as_deref().and_then(|card| card.price.as_ref()) else {
            return Some(Removed::because("max_price", "its price is not known"));
        };
        let sides = [("input", bound.input, price.base.input), ("output", bound.output, price.base.output)];
        let over = sides.into_iter().find(|(_, bound, price)| bound.is_some_and(|bound| *price > bound));
        over.map(|(side, _, price)| {
            Removed::because("max_price", format!("its {side} costs ${} per million tokens", price as f64 / 1e9))
        })
    }

    /// What the catalogue knows that it cannot do.
    fn card(&self, target: &Target) -> Option<Removed> {
        if self.needs.is_empty() && self.tokens.is_none() {
            return None;
        }
        let card = target.card.as_deref()?;
        if let Some(word) = word(lacking(card).and(self.needs)) {
            return Some(Removed::because(word, format!("it has no {word}")));
        }
        let tokens = self.tokens?;
        let context = card.context.filter(|context| tokens > *context)?;
        Some(Removed::because("context", format!("about {tokens} tokens do not fit into {context}")))
    }
}

/// What keeps the target from taking requests now.
pub(super) fn unwell(health: &dyn Health, target: &Arc<Target>) -> Option<Removed> {
    match health.standing(target) {
        Standing::Closed | Standing::HalfOpen => None,
        Standing::Drained => Some(Removed::because("drained", "the operator wants no requests to it")),
        Standing::Open { until } => {
            let left = until.map(|until| Duration::from_millis(until.saturating_sub(health.now())));
            let why = match left {
                Some(left) => format!("it failed or asked for a pause; {:.1} s are left", left.as_secs_f64()).into(),
                None => Cow::Borrowed("the operator holds it open"),
            };
            Some(Removed { by: "open", why, retry_after: left })
        }
    }
}

fn word(needs: Needs) -> Option<&'static str> {
    Needs::ALL.iter().find(|(need, _)| !needs.and(*need).is_empty()).map(|(_, word)| *word)
}

/// Whether a request's word for a provider or target means this one: `provider`, the built-in name it is made from,
/// `provider/region`, or `provider/model`.
pub(super) fn names(slug: &str, target: &Target) -> bool {
    let provider = &target.provider;
    let is = |name: &str| name == provider.name || (!provider.preset.is_empty() && name == provider.preset);
    if is(slug) {
        return true;
    }
    let Some((name, rest)) = slug.split_once('/').filter(|(name, _)| is(name)) else { return false };
    debug_assert!(!name.is_empty());
    rest == target.model || provider.tags.region.as_deref() == Some(rest)
}
