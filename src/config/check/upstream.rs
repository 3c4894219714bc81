//! Checks of providers, models and prices.

use serde_json::{Map, Value};

use super::super::error::{Issue, hint, nearest};
use super::super::path::KeyPath;
use super::super::provider::{AuthScheme, Provider};
use super::super::timeouts::TimeoutOverrides;
use super::super::value::Secret;
use super::super::{BreakerOrOff, Config};
use super::{Known, is_header_name};

/// Parameters that decide what is authorised and how the answer comes; not to be changed behind the core's back.
const GUARDED: &[&str] = &["model", "stream"];
/// What may stand in braces in a base URL: keys of a provider, and the model of the request.
const FIELDS: &[&str] = &["model", "resource", "account", "project", "region", "api_version"];
/// Headers that belong to a connection, not to an operator.
const HOP_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn providers(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (name, provider) in config.providers.iter() {
        let path = KeyPath::of(&["providers", name]);
        if name.is_empty() || name.contains(|c: char| matches!(c, '/' | '*' | '#') || c.is_whitespace()) {
            // What follows `#` in the name of a target is a key of its pool.
            let message =
                "a provider's name holds no slash, star, `#` or space, because it begins `provider/model`; rename it";
            issues.push(Issue::error(path.clone(), message));
        }
        origin(name, provider, known, &path, issues);
        credentials(provider, &path, issues);
        headers(provider, &path, issues);
        if let Some(Err(message)) = provider.base_url.as_deref().map(base_url) {
            issues.push(Issue::error(path.key("base_url"), message));
        }
        if let Some(endpoint) = endpoint(provider) {
            let message = format!("ends with `{endpoint}`, which is added to it; write what stands before that");
            issues.push(Issue::warning(path.key("base_url"), message));
        }
        if let Some(proxy) = provider.proxy.as_deref().filter(|proxy| !is_proxy(proxy)) {
            let message = format!("`{}` is not a proxy; write http://host:port, or off", without_user(proxy));
            issues.push(Issue::error(path.key("proxy"), message));
        }
        parameters(&path, &provider.set, &provider.default, &provider.drop, issues);
        timeouts(&path, &provider.timeouts, issues);
        pool(provider, &path, issues);
        guards(provider, &path, issues);
        probe(provider, &path, issues);
    }
}

/// The keys of a pool.
fn pool(provider: &Provider, path: &KeyPath, issues: &mut Vec<Issue>) {
    let given = provider.api_key.is_some() || provider.api_key_file.is_some();
    if given && !provider.keys.is_empty() {
        issues.push(Issue::error(path.clone(), "has both `api_key` and `keys`; put the key into the list"));
    }
    let mut aliases = Vec::new();
    for (index, key) in provider.keys.iter().enumerate() {
        let path = path.key("keys").index(index);
        let sources = [("key", key.key.is_some()), ("env", key.env.is_some()), ("file", key.file.is_some())];
        let given: Vec<&str> = sources.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        match given.as_slice() {
            [] => issues.push(Issue::error(path.clone(), "has no key; add one of `key`, `env` and `file`")),
            [_] => {}
            several => {
                let message = format!("has more than one key ({}); keep one of them", several.join(", "));
                issues.push(Issue::error(path.clone(), message));
            }
        }
        let alias = key.alias.clone().unwrap_or_else(|| (index + 1).to_string());
        if alias.is_empty() || alias.contains(|c: char| c == '#' || c == '/' || c.is_whitespace()) {
            let message = format!("`{alias}` cannot name a key; write a word without `#`, slash or space");
            issues.push(Issue::error(path.key("alias"), message));
        } else if aliases.contains(&alias) {
            let message = format!("`{alias}` is the alias of another key too; give each its own");
            issues.push(Issue::error(path.key("alias"), message));
        }
        aliases.push(alias);
    }
    if !provider.keys.is_empty() && provider.keys.iter().all(|key| key.weight == 0) {
        issues.push(Issue::error(path.key("keys"), "every key has the weight 0, so none is used; raise one"));
    }
}

/// Bounds and times of which zero would let nothing through.
fn guards(provider: &Provider, path: &KeyPath, issues: &mut Vec<Issue>) {
    let mut zero = |is_zero: bool, path: KeyPath, what: &str| {
        if is_zero {
            issues.push(Issue::error(path, format!("is zero; write more{what}")));
        }
    };
    zero(provider.max_inflight == Some(0), path.key("max_inflight"), ", or drain the provider by the admin API");
    if let Some(BreakerOrOff::On(breaker)) = &provider.breaker {
        let path = path.key("breaker");
        let off = ", or `breaker: off`";
        zero(breaker.failure_rate.is_zero(), path.key("failure_rate"), off);
        zero(breaker.min_samples == 0, path.key("min_samples"), off);
        zero(breaker.consecutive == 0, path.key("consecutive"), off);
        zero(breaker.window.is_zero(), path.key("window"), off);
        zero(breaker.cool_down.is_zero(), path.key("cool_down"), off);
        zero(breaker.probes == 0, path.key("probes"), off);
    }
    if let Some(queue) = &provider.queue {
        zero(queue.wait.is_zero(), path.key("queue").key("wait"), "");
    }
    if let Some(bounds) = &provider.concurrency {
        zero(bounds.min == 0, path.key("concurrency").key("min"), "");
        if bounds.max < bounds.min {
            let message = format!("is below `min` ({}); write that or more", bounds.min);
            issues.push(Issue::error(path.key("concurrency").key("max"), message));
        }
    }
    if provider.queue.is_some() && provider.max_inflight.is_none() && provider.concurrency.is_none() {
        let message =
            "nothing bounds the requests under way, so nobody would ever wait; set `max_inflight` or `concurrency`";
        issues.push(Issue::warning(path.key("queue"), message));
    }
}

/// Probes that would never be made, or that would cost money unasked.
fn probe(provider: &Provider, path: &KeyPath, issues: &mut Vec<Issue>) {
    let Some(probe) = &provider.probe else { return };
    let path = path.key("probe");
    for (name, is_zero) in
        [("every", probe.every.is_zero()), ("timeout", probe.timeout.is_zero()), ("failures", probe.failures == 0)]
    {
        if is_zero {
            issues.push(Issue::error(path.key(name), "is zero; write more, or take `probe` out"));
        }
    }
    let (name, message) = match (&probe.model, probe.paid, &probe.path) {
        (Some(_), false, _) => {
            ("model", "every probe of a model costs money; add `paid: true` if that is meant, or take it out")
        }
        (Some(_), true, Some(_)) => ("path", "stands beside `model`; keep one of them"),
        (None, true, _) => {
            ("paid", "stands without `model`, so no probe would cost anything; name one, or take it out")
        }
        _ => return,
    };
    issues.push(Issue::error(path.key(name), message));
}

/// Where a provider's row comes from: a preset, its own name, or what is written.
fn origin(name: &str, provider: &Provider, known: &Known<'_>, path: &KeyPath, issues: &mut Vec<Issue>) {
    let dialects = known.dialects.iter().copied();
    let named = provider.dialect.iter().map(|dialect| (path.key("dialect"), dialect));
    let more = provider.dialects.iter().enumerate();
    for (path, dialect) in named.chain(more.map(|(index, dialect)| (path.key("dialects").index(index), dialect))) {
        if let Some(plugin) = dialect.strip_prefix("wasm:") {
            issues.extend(adapter(plugin, provider).map(|message| Issue::error(path, message)));
        } else if let Some(script) = dialect.strip_prefix("lua:") {
            issues.extend(script_adapter(script, provider).map(|message| Issue::error(path, message)));
        } else if !known.dialects.contains(&dialect.as_str()) {
            let message =
                format!("there is no dialect `{dialect}`; {}", hint(dialect, dialects.clone(), "write one of"));
            issues.push(Issue::error(path, message));
        }
    }
    if let Some(preset) = &provider.preset {
        if !known.providers.contains(&preset.as_str()) {
            let what = match nearest(preset, known.providers.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "without one, set `base_url` and `dialect`".to_owned(),
            };
            issues.push(Issue::error(path.key("preset"), format!("there is no built-in provider `{preset}`; {what}")));
        }
        return;
    }
    if known.providers.contains(&name) {
        return;
    }
    let missing = match (&provider.base_url, &provider.dialect) {
        (Some(_), Some(_)) => return,
        (None, None) => "`base_url` and `dialect`",
        (None, Some(_)) => "`base_url`",
        (Some(_), None) => "`dialect`",
    };
    let message = match nearest(name, known.providers.iter().copied()) {
        Some(meant) => format!("`{name}` is not built in; did you mean `{meant}`? One of your own needs {missing}"),
        None => format!("`{name}` is not built in; add {missing}, or `preset` with a built-in name"),
    };
    issues.push(Issue::error(path.clone(), message));
}

/// What is wrong with a wire form that a plugin teaches.
fn adapter(plugin: &str, provider: &Provider) -> Option<String> {
    if !cfg!(feature = "wasm") {
        return Some("is a plugin, and this build is without them; take one with the feature `wasm`".to_owned());
    }
    if !is_plugin_name(plugin) {
        return Some(format!("`{plugin}` is no plugin's name; write small letters, digits and `-`"));
    }
    if provider.base_url.is_none() {
        let message = "has no address: a plugin never decides where a key is sent; add `base_url` \
                       (`portcullis plugin inspect` shows where the provider usually is)";
        return Some(message.to_owned());
    }
    None
}

/// What is wrong with a wire form that a script teaches.
fn script_adapter(script: &str, provider: &Provider) -> Option<String> {
    if !is_plugin_name(script) {
        return Some(format!("`{script}` is no adapter's name; write small letters, digits and `-`, without `.luau`"));
    }
    let message = "has no address: a script never decides where a key is sent; add `base_url`";
    provider.base_url.is_none().then(|| message.to_owned())
}

/// Names are parts of file names, metrics and sealed signatures.
pub(super) fn is_plugin_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn credentials(provider: &Provider, path: &KeyPath, issues: &mut Vec<Issue>) {
    if provider.api_key.is_some() && provider.api_key_file.is_some() {
        issues.push(Issue::error(path.clone(), "has both `api_key` and `api_key_file`; keep one of them"));
    } else if provider.api_key.as_ref().is_some_and(Secret::is_empty) {
        let message = "is empty, so this provider is not live; set it, or write ${VARIABLE:-} if that is meant";
        issues.push(Issue::warning(path.key("api_key"), message));
    }
    if let Some(AuthScheme::Header(auth)) = &provider.auth {
        let header = path.key("auth").key("header");
        if !is_header_name(&auth.header) || is_hop_header(&auth.header) {
            issues.push(Issue::error(header, format!("`{}` cannot carry a key; write a header's name", auth.header)));
        }
        if http::HeaderValue::from_str(&auth.prefix).is_err() {
            issues.push(Issue::error(path.key("auth").key("prefix"), "holds what no header can; write plain text"));
        }
    }
}

fn headers(provider: &Provider, path: &KeyPath, issues: &mut Vec<Issue>) {
    for (name, value) in &provider.headers {
        let path = path.key("headers").key(name);
        if !is_header_name(name) {
            issues.push(Issue::error(path, format!("`{name}` is not a header name; write one")));
        } else if is_hop_header(name) {
            issues.push(Issue::error(path, format!("`{name}` is set by the gateway for each connection; take it out")));
        } else if http::HeaderValue::from_str(value).is_err() {
            issues.push(Issue::error(path, "holds what no header can, such as a line end; write plain text"));
        }
    }
}

fn is_hop_header(name: &str) -> bool {
    HOP_HEADERS.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// Ends of addresses as providers' own pages show them for `curl`.
const ENDPOINTS: &[&str] =
    &["/chat/completions", "/completions", "/responses", "/messages", "/embeddings", "/rerank", "/models"];

/// What a base URL ends with and should not.
fn endpoint(provider: &Provider) -> Option<&'static str> {
    // Adapters say themselves what they add.
    let adapted = provider.dialect.as_deref().is_some_and(|dialect| dialect.contains(':'));
    let url = provider.base_url.as_deref().filter(|_| !adapted)?;
    let path = url.split('?').next()?.trim_end_matches('/');
    ENDPOINTS.iter().find(|endpoint| path.ends_with(**endpoint)).copied()
}

/// Whether a base URL can be used: `http://`, `https://`, or `unix:///path.sock[:/prefix]`.
fn base_url(text: &str) -> Result<(), String> {
    const HOW: &str = "write https://host/v1, http://host:8000/v1 or unix:///path/to.sock:/v1";
    if let Some(rest) = text.strip_prefix("unix:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let (socket, prefix) = path.split_once(":/").unwrap_or((path, ""));
        let absolute = socket.starts_with('/') && socket.len() > 1 && !socket.ends_with('/');
        let sound = absolute && !prefix.contains(|c: char| c == '?' || c == '#' || c.is_whitespace());
        return if sound { Ok(()) } else { Err(format!("`{text}` has no absolute path of a socket; {HOW}")) };
    }
    let url = without_fields(text)?;
    let Ok(url) = url.parse::<http::Uri>() else { return Err(format!("`{text}` is not a URL; {HOW}")) };
    match (url.scheme_str(), url.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err("holds a user or password; put the credential into `api_key`".to_owned())
        }
        (Some("http" | "https"), Some(authority)) if authority.host().is_empty() || bad_port(authority) => {
            Err(format!("`{text}` is not a URL; {HOW}"))
        }
        (Some("http" | "https"), Some(_)) if text.contains('#') => {
            Err(format!("`{text}` holds a fragment, which is never sent; take it out"))
        }
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => Err(format!("`{text}` is not a URL with a scheme and a host; {HOW}")),
    }
}

/// The URL with something in the place of each `{field}`.
fn without_fields(text: &str) -> Result<String, String> {
    let mut url = text.to_owned();
    for field in FIELDS {
        url = url.replace(&format!("{{{field}}}"), "x");
    }
    match url.split_once('{') {
        Some((_, rest)) => {
            let name = rest.split('}').next().unwrap_or_default();
            Err(format!("`{{{name}}}` stands for nothing; {}", hint(name, FIELDS.iter().copied(), "write one of")))
        }
        None => Ok(url),
    }
}

fn is_proxy(text: &str) -> bool {
    let url = without_user(text);
    matches!(text, "off" | "false") || (url.starts_with("http://") && base_url(&url).is_ok())
}

/// A URL without the user and password that a proxy's may hold.
pub(in super::super) fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[host..])
        }
        None => url.to_owned(),
    }
}

fn bad_port(authority: &http::uri::Authority) -> bool {
    let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    !after_host.is_empty() && authority.port_u16().is_none_or(|port| port == 0)
}

/// `set`, `default` and `drop` of a provider, a model or a target.
pub(super) fn parameters(
    path: &KeyPath,
    set: &Map<String, Value>,
    default: &Map<String, Value>,
    drop: &[String],
    issues: &mut Vec<Issue>,
) {
    let is_guarded = |name: &str| GUARDED.iter().any(|guarded| name.eq_ignore_ascii_case(guarded));
    let set = set.keys().map(|name| (path.key("set").key(name), name));
    let default = default.keys().map(|name| (path.key("default").key(name), name));
    let dropped = drop.iter().enumerate().map(|(index, name)| (path.key("drop").index(index), name));
    for (path, name) in set.chain(default).chain(dropped) {
        if is_guarded(name) {
            let message =
                format!("`{name}` is what was authorised and cannot be changed here; choose models under `models`");
            issues.push(Issue::error(path, message));
        } else if name.is_empty() || name.split('.').any(str::is_empty) && path.segs().iter().any(is_drop) {
            issues.push(Issue::error(path, format!("`{name}` is not a parameter; write a name such as top_p or a.b")));
        }
    }
}

fn is_drop(seg: &super::super::path::Seg) -> bool {
    matches!(seg, super::super::path::Seg::Key(key) if key == "drop")
}

pub(super) fn timeouts(path: &KeyPath, timeouts: &TimeoutOverrides, issues: &mut Vec<Issue>) {
    let zero = |value: Option<std::time::Duration>| value.is_some_and(|value| value.is_zero());
    for (name, is_zero) in [
        ("connect", timeouts.connect.is_some_and(super::super::value::Duration::is_zero)),
        ("head", timeouts.head.is_some_and(|value| zero(value.get()))),
        ("first_token", timeouts.first_token.is_some_and(|value| zero(value.get()))),
        ("idle", timeouts.idle.is_some_and(|value| zero(value.get()))),
        ("total", timeouts.total.is_some_and(|value| zero(value.get()))),
    ] {
        if is_zero {
            let message = if name == "connect" { "is zero; write more" } else { "is zero; write a time, or off" };
            issues.push(Issue::error(path.key("timeouts").key(name), message));
        }
    }
}

/// Whether a target leads somewhere.
pub(super) fn target(config: &Config, known: &Known<'_>, name: &str, text: &str) -> Result<(), String> {
    let Some((provider, model)) = text.split_once('/') else {
        return Err(if config.models.contains(text) {
            format!("`{text}` is a model of this file; a target is always `provider/model`")
        } else {
            format!("`{text}` names no provider; write `provider/model`")
        });
    };
    if model.is_empty() {
        return Err(format!("`{text}` names no model; write `provider/model`"));
    }
    if let Some(message) = unknown_provider(config, known, provider) {
        return Err(message);
    }
    match (name.matches('*').count(), model.matches('*').count()) {
        (_, 0) => Ok(()),
        (0, _) => Err(format!("`{text}` holds a `*` and the name `{name}` does not; write the model's name")),
        (_, 1) => Ok(()),
        _ => Err(format!("`{text}` holds more than one `*`; it may hold one")),
    }
}

pub(super) fn prices(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (name, price) in config.prices.models.iter() {
        let path = KeyPath::of(&["prices", "models", name]);
        match name.split_once('/') {
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => {
                if let Some(what) = unknown_provider(config, known, provider) {
                    issues.push(Issue::warning(path.clone(), what));
                }
            }
            _ => issues.push(Issue::error(path.clone(), "names no provider; write `provider/model` or `provider/*`")),
        }
        for (index, pair) in price.tiers.windows(2).enumerate() {
            if pair[0].above >= pair[1].above {
                let message = "is not larger than that of the tier before; write the tiers in rising order";
                issues.push(Issue::error(path.key("tiers").index(index + 1).key("above"), message));
            }
        }
    }
}

/// What to say of a provider that is neither written nor built in.
fn unknown_provider(config: &Config, known: &Known<'_>, provider: &str) -> Option<String> {
    if config.providers.contains(provider) || known.providers.contains(&provider) {
        return None;
    }
    let there = config.providers.names().chain(known.providers.iter().copied());
    Some(match nearest(provider, there) {
        Some(meant) => format!("there is no provider `{provider}`; did you mean `{meant}`?"),
        None => format!("there is no provider `{provider}`; add it under `providers`"),
    })
}
