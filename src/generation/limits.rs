//! From written limits and budgets to rules.

use crate::config::{
    Algorithm, Config, Limit, Match, MoneyBudget, OnExhausted, Portion, Quota, Span, Texts, Unpriced, Zone,
};
use crate::state::limit::calendar::{Calendar, Period};
use crate::state::limit::meter::{Shape, Unit};
use crate::state::limit::rule::{self, Condition, Exhausted, Network, Part, Rule, Rules, Share, Window};

/// Builds every rule.
///
/// # Errors
/// A part or network that cannot be read; the check of the configuration has found it before.
pub(super) fn build(config: &Config) -> Result<Rules, String> {
    let limits = config.limits.iter().map(limit);
    let budgets = config.budgets.iter().map(budget);
    limits.chain(budgets).collect::<Result<_, _>>().map(Rules::new)
}

fn limit(written: &Limit) -> Result<Rule, String> {
    let name = written.name();
    let mut windows = Vec::new();
    for (unit, quotas) in [
        (Unit::Requests, &written.requests.0),
        (Unit::Tokens, &written.tokens.0),
        (Unit::InputTokens, &written.input_tokens.0),
        (Unit::OutputTokens, &written.output_tokens.0),
        (Unit::Money, &written.money.0),
    ] {
        windows.extend(quotas.iter().map(|quota| window(unit, quota, written.algorithm, written.zone)));
    }
    windows.extend(written.concurrency.map(|limit| Window { unit: Unit::Concurrency, shape: Shape::InFlight, limit }));
    let shares = written.shares.iter();
    Ok(Rule {
        conditions: conditions(&written.matches)?,
        per: per(&written.per)?,
        windows,
        exhausted: exhausted(&written.on_exhausted),
        class: written.class.as_deref().map_or(Ok(Part::Key), part)?,
        shares: shares.map(|(name, part)| Share { name: name.as_str().into(), permille: part.permille() }).collect(),
        hard: true,
        unpriced: written.unpriced == Unpriced::Free,
        lease: written.lease.map_or(0, Portion::permille),
        budget: None,
        name: name.into(),
    })
}

fn budget(written: &MoneyBudget) -> Result<Rule, String> {
    let money = written.money.0.iter();
    let webhook = written.webhook.as_ref().filter(|url| !url.is_empty()).map(|url| url.expose().to_owned());
    Ok(Rule {
        conditions: conditions(&written.matches)?,
        per: per(&written.per)?,
        windows: money.map(|quota| window(Unit::Money, quota, Algorithm::Sliding, written.zone)).collect(),
        exhausted: exhausted(&written.on_exhausted),
        class: Part::Key,
        shares: Vec::new(),
        hard: written.hard,
        unpriced: written.unpriced == Unpriced::Free || !written.hard,
        lease: 0,
        budget: Some(rule::Budget {
            thresholds: written.thresholds.iter().map(|threshold| threshold.permille() / 10).collect(),
            webhook,
        }),
        name: written.name().into(),
    })
}

fn window(unit: Unit, quota: &Quota, algorithm: Algorithm, zone: Zone) -> Window {
    let shape = match quota.span {
        Span::Total => Shape::Total,
        Span::Calendar(word) => {
            let period = Period::ALL.into_iter().find(|period| period.as_str() == word).unwrap_or(Period::Day);
            Shape::Calendar(Calendar { period, offset: zone.minutes() })
        }
        Span::Every(every) => {
            let length = u64::try_from(every.get().as_millis()).unwrap_or(u64::MAX).max(1);
            match algorithm {
                Algorithm::Sliding => Shape::Sliding(length),
                Algorithm::Fixed => Shape::Fixed(length),
                Algorithm::Bucket => Shape::Bucket(length),
            }
        }
    };
    Window { unit, shape, limit: quota.amount }
}

fn exhausted(written: &OnExhausted) -> Exhausted {
    match written {
        OnExhausted::Reject => Exhausted::Reject,
        OnExhausted::Queue(queue) => Exhausted::Queue {
            wait_ms: u64::try_from(queue.wait.get().as_millis()).unwrap_or(u64::MAX),
            max: queue.max,
        },
        OnExhausted::Route(model) => Exhausted::Route(model.clone()),
    }
}

fn conditions(written: &Match) -> Result<Vec<Condition>, String> {
    let conditions = written.conditions().into_iter().map(|(name, texts)| match name.as_str() {
        "ip" => {
            let networks = texts.iter().map(|text| {
                Network::read(text).ok_or_else(|| format!("limits: `{text}` is neither an address nor a network"))
            });
            networks.collect::<Result<_, _>>().map(Condition::Ip)
        }
        name => part(name).map(|part| Condition::Text(part, texts.to_vec())),
    });
    conditions.collect()
}

fn per(written: &Texts) -> Result<Vec<Part>, String> {
    written.0.iter().map(|text| part(text)).collect()
}

fn part(text: &str) -> Result<Part, String> {
    Part::read(text).ok_or_else(|| format!("limits: nothing is counted by `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_words_of_the_configuration_are_the_engines() {
        for word in ["minute", "hour", "day", "week", "month", "year"] {
            assert!(Period::ALL.iter().any(|period| period.as_str() == word), "{word}");
        }
    }
}
