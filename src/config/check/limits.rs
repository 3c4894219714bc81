//! Checks of limits, budgets and what their counts are kept in.

use std::collections::HashMap;

use super::super::Config;
use super::super::error::{Issue, nearest};
use super::super::limit::{Algorithm, Away, Limit, Match, OnExhausted};
use super::super::path::KeyPath;
use super::super::value::{Quota, Texts};
use super::{Known, is_header_name, is_network, unknown_model};

/// What may be counted apart; `header.NAME` and `metadata.NAME` besides.
const PARTS: &[&str] = &["key", "project", "user", "model", "endpoint", "ip", "provider", "target"];

/// Longest name of a rule: it is a label of metrics and a part of every key.
const MAX_NAME_BYTES: usize = 120;

pub(super) fn limits(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    let mut names: HashMap<String, KeyPath> = HashMap::new();
    for (index, limit) in config.limits.iter().enumerate() {
        let path = KeyPath::of(&["limits"]).index(index);
        name(limit.name.as_deref(), limit.name(), &path, &mut names, issues);
        common(config, known, &limit.matches, &limit.per, &limit.on_exhausted, &path, issues);
        windows(limit, &path, issues);
        shares(limit, &path, issues);
        lease(config, limit, &path, issues);
    }
    for (index, budget) in config.budgets.iter().enumerate() {
        let path = KeyPath::of(&["budgets"]).index(index);
        name(budget.name.as_deref(), budget.name(), &path, &mut names, issues);
        common(config, known, &budget.matches, &budget.per, &budget.on_exhausted, &path, issues);
        if budget.money.0.is_empty() {
            issues.push(Issue::error(path.clone(), "has no amount; add `money`, such as `money: $500 / month`"));
        }
        times(&budget.money.0, path.key("money"), issues);
        if budget.webhook.as_ref().is_some_and(|url| !url.is_empty() && !is_web_address(url.expose())) {
            issues.push(Issue::error(path.key("webhook"), "is no address; write https://host/path"));
        }
        if budget.thresholds.iter().any(|threshold| threshold.permille() % 10 != 0) {
            issues.push(Issue::error(path.key("thresholds"), "holds parts of a percent; write whole ones"));
        }
    }
}

fn is_web_address(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        let has_host = url.host().is_some_and(|host| !host.is_empty());
        has_host && matches!(url.scheme_str(), Some("http" | "https"))
    })
}

fn name(
    given: Option<&str>,
    name: String,
    path: &KeyPath,
    names: &mut HashMap<String, KeyPath>,
    issues: &mut Vec<Issue>,
) {
    let at = path.key("name");
    if given.is_some_and(|name| name.trim().is_empty() || name.contains(':') || name.len() > MAX_NAME_BYTES) {
        let message = "is not a name; write up to 120 letters without a colon";
        issues.push(Issue::error(at, message));
    } else if let Some(first) = names.get(&name) {
        let place = if given.is_some() { at } else { path.clone() };
        let message = format!("would share its counts with {first}, as both are called `{name}`; give it a `name`");
        issues.push(Issue::error(place, message));
    } else {
        names.insert(name, path.clone());
    }
}

fn common(
    config: &Config,
    known: &Known<'_>,
    matches: &Match,
    per: &Texts,
    exhausted: &OnExhausted,
    path: &KeyPath,
    issues: &mut Vec<Issue>,
) {
    for (index, part) in per.0.iter().enumerate() {
        if let Err(message) = check_part(part) {
            issues.push(Issue::error(path.key("per").index(index), message));
        }
    }
    let of = path.key("match");
    for (index, network) in matches.ip.0.iter().enumerate().filter(|(_, network)| !is_network(network)) {
        let message = format!("`{network}` is neither an address nor a network; write 10.0.0.1 or 10.0.0.0/8");
        issues.push(Issue::error(of.key("ip").index(index), message));
    }
    for header in matches.header.keys().filter(|header| !is_header_name(header)) {
        issues.push(Issue::error(of.key("header"), format!("`{header}` is not a header name; write one")));
    }
    for key in matches.key.0.iter().filter(|key| !key.contains('*')) {
        let names = config.keys.iter().map(|known| known.name.as_str());
        if !names.clone().any(|name| name == key) && !config.keys.is_empty() {
            let hint =
                nearest(key, names).map_or("add it under `keys`".to_owned(), |near| format!("did you mean `{near}`?"));
            issues.push(Issue::warning(of.key("key"), format!("there is no key `{key}`; {hint}")));
        }
    }
    strangers(config, known, matches, &of, issues);
    let at = path.key("on_exhausted");
    let of_target = !matches.provider.0.is_empty()
        || !matches.target.0.is_empty()
        || per.0.iter().any(|part| matches!(part.as_str(), "provider" | "target"));
    match exhausted {
        OnExhausted::Reject => {}
        _ if of_target => {
            let message = "has no effect on a limit of providers or targets: where one is exhausted the next target is tried; leave it out, or match `model` in place of them";
            issues.push(Issue::error(at, message));
        }
        OnExhausted::Queue(queue) if queue.wait.is_zero() || queue.max == 0 => {
            issues.push(Issue::error(at, "lets nobody wait; write more, or reject"));
        }
        OnExhausted::Queue(_) => {}
        OnExhausted::Route(model) => {
            if let Some(message) = unknown_model(config, known, model) {
                issues.push(Issue::error(at, message));
            } else if matches.model.0 == [model.as_str()] {
                issues.push(Issue::error(
                    at,
                    format!("leads back to `{model}`, the model that is limited; name another"),
                ));
            }
        }
    }
}

/// Warns of conditions that nobody can meet, as far as the configuration alone says who there is.
fn strangers(config: &Config, known: &Known<'_>, matches: &Match, of: &KeyPath, issues: &mut Vec<Issue>) {
    // Policies may name callers that no key does.
    if !config.keys.is_empty() && config.hooks.is_empty() {
        let projects = config.keys.iter().filter_map(|key| key.project.as_deref());
        for (index, project) in matches.project.0.iter().enumerate().filter(|(_, project)| !project.contains('*')) {
            if !projects.clone().any(|known| known == project) {
                let hint = meant(project, projects.clone(), "give it to one");
                let message = format!("no key has the project `{project}`, so this limits nobody; {hint}");
                issues.push(Issue::warning(of.key("project").index(index), message));
            }
        }
        let labels = config.keys.iter().flat_map(|key| key.metadata.keys().map(String::as_str));
        for label in matches.metadata.keys().filter(|label| !labels.clone().any(|known| known == *label)) {
            let hint = meant(label, labels.clone(), "give it to one");
            let message = format!("no key has the label `{label}`, so this limits nobody; {hint}");
            issues.push(Issue::warning(of.key("metadata"), message));
        }
    }
    for (index, model) in matches.model.0.iter().enumerate() {
        if let Some(message) = unknown_model(config, known, model) {
            issues.push(Issue::warning(of.key("model").index(index), message));
        }
    }
    for (index, endpoint) in matches.endpoint.0.iter().enumerate().filter(|(_, endpoint)| !endpoint.contains('*')) {
        if !known.endpoints.contains(&endpoint.as_str()) {
            let hint = meant(endpoint, known.endpoints.iter().copied(), "write one as the README lists them");
            let message = format!("nothing is served at `{endpoint}`, so this limits nobody; {hint}");
            issues.push(Issue::warning(of.key("endpoint").index(index), message));
        }
    }
    let providers = || config.providers.names().chain(known.providers.iter().copied());
    let targets = matches.target.0.iter().map(|target| target.split_once('/').map_or(&**target, |(name, _)| name));
    let named = matches.provider.0.iter().map(String::as_str).enumerate().map(|named| ("provider", named));
    for (key, (index, provider)) in named.chain(targets.enumerate().map(|named| ("target", named))) {
        if !provider.contains('*') && !providers().any(|known| known == provider) {
            let hint = meant(provider, providers(), "add it under `providers`");
            let message = format!("there is no provider `{provider}`, so this limits nobody; {hint}");
            issues.push(Issue::warning(of.key(key).index(index), message));
        }
    }
}

fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(word, known).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}

fn check_part(part: &str) -> Result<(), String> {
    let named = part.split_once('.').is_some_and(|(of, name)| match of {
        "header" => is_header_name(name),
        "metadata" => !name.is_empty(),
        _ => false,
    });
    if named || PARTS.contains(&part) {
        return Ok(());
    }
    let what = match nearest(part, PARTS.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write one of: {}, header.NAME, metadata.NAME", PARTS.join(", ")),
    };
    Err(format!("nothing is counted by `{part}`; {what}"))
}

fn windows(limit: &Limit, path: &KeyPath, issues: &mut Vec<Issue>) {
    let counts = [&limit.requests, &limit.tokens, &limit.input_tokens, &limit.output_tokens];
    let none = counts.iter().all(|quotas| quotas.0.is_empty()) && limit.money.0.is_empty();
    if none && limit.concurrency.is_none() {
        let message =
            "limits nothing; add `requests`, `tokens`, `input_tokens`, `output_tokens`, `money` or `concurrency`";
        issues.push(Issue::error(path.clone(), message));
    }
    if limit.concurrency == Some(0) {
        issues.push(Issue::error(path.key("concurrency"), "lets nothing through; write more"));
    }
    let [requests, tokens, input, output] = counts;
    let named = [("requests", requests), ("tokens", tokens), ("input_tokens", input), ("output_tokens", output)];
    for (name, quotas) in named {
        times(&quotas.0, path.key(name), issues);
    }
    times(&limit.money.0, path.key("money"), issues);
}

/// Amounts for one time would be one count, which an exchange would be charged to twice.
fn times(quotas: &[Quota], path: KeyPath, issues: &mut Vec<Issue>) {
    let twice = (1..quotas.len()).any(|at| quotas[..at].iter().any(|before| before.span == quotas[at].span));
    if twice {
        issues.push(Issue::error(path, "has two amounts for the same time; write the smaller one"));
    }
}

fn shares(limit: &Limit, path: &KeyPath, issues: &mut Vec<Issue>) {
    if let Some(class) = &limit.class {
        let wrong = match check_part(class) {
            Ok(()) if matches!(class.as_str(), "ip" | "provider" | "target") => {
                Some(format!("`{class}` tells no share; write another part, such as metadata.tier"))
            }
            Ok(()) if limit.shares.is_empty() => Some("tells a share, but there are no `shares`; add them".to_owned()),
            Ok(()) => None,
            Err(message) => Some(message),
        };
        issues.extend(wrong.map(|message| Issue::error(path.key("class"), message)));
    } else if !limit.shares.is_empty() {
        let message = "need to know whose they are; add `class`, such as `class: metadata.tier`";
        issues.push(Issue::error(path.key("shares"), message));
    }
    if limit.shares.values().map(|share| share.permille()).sum::<u64>() > 1000 {
        issues.push(Issue::error(path.key("shares"), "are more than 100% together; write less"));
    }
}

/// A lease is a part of windows that can be given out in parts, from a server.
fn lease(config: &Config, limit: &Limit, path: &KeyPath, issues: &mut Vec<Issue>) {
    let Some(lease) = limit.lease else { return };
    let path = path.key("lease");
    let wrong = if lease.permille() > 500 {
        "is more than half of the limit; write less, such as 2%"
    } else if limit.concurrency.is_some() || limit.algorithm == Algorithm::Bucket {
        "cannot be taken of `concurrency` or of buckets; write those as a limit of their own"
    } else if !limit.shares.is_empty() {
        "cannot be taken of a limit with `shares`; take one of the two out"
    } else if config.redis.url.is_none() {
        issues.push(Issue::warning(path, "has no effect without `redis.url`: counts in memory need no lease"));
        return;
    } else {
        return;
    };
    issues.push(Issue::error(path, wrong));
}

/// Checks of what several processes share.
pub(super) fn shared(config: &Config, issues: &mut Vec<Issue>) {
    let path = KeyPath::of(&["redis"]);
    let url = config.redis.url.as_ref().filter(|url| !url.is_empty());
    // The library's text may hold the address, and with it a password.
    if url.is_some_and(|url| ::redis::Client::open(url.expose()).is_err()) {
        let message = "is no address; write redis://host:6379/0, or rediss:// for TLS";
        issues.push(Issue::error(path.key("url"), message));
    }
    if config.redis.url.is_none() && config.redis.away != Away::default() {
        issues.push(Issue::warning(path.key("away"), "has no effect without `redis.url`; set that, or take this out"));
    }
    if config.redis.timeout.is_zero() {
        issues.push(Issue::error(path.key("timeout"), "is zero; write a time"));
    }
    if config.redis.prefix.contains(['{', '}', '*', ' ']) || config.redis.prefix.is_empty() {
        issues.push(Issue::error(path.key("prefix"), "is empty or holds braces, stars or spaces; write a plain word"));
    }
}
