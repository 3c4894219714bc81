//! What types cannot say: names that must exist, addresses that must parse, choices that exclude each other.
//!
//! Pure: looks at the configuration and at the names it is given, never at files, sockets or the environment.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::error::{Issue, nearest};
use super::path::KeyPath;
use super::value::Secret;
use super::{Config, Demand, Hook, Key, Plugin};

mod cache;
mod limits;
mod routing;
mod upstream;

pub(super) use upstream::without_user;

/// Names that other modules own: the rows of the built-in provider table, and the dialects.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub providers: &'a [&'a str],
    /// Whether a bare name of a model is known to be its maker's, who is one of those.
    pub is_makers: &'a dyn Fn(&str) -> bool,
    pub dialects: &'a [&'a str],
    /// Patterns of the paths that are served.
    pub endpoints: &'a [&'a str],
    /// Fields of requests that are the ask itself.
    pub asks: &'a [&'a str],
    /// Fields of requests that say how it is to be answered.
    pub parameters: &'a [&'a str],
    /// Looks at the policy behind a hook: its files, its manifest, and whether its settings fit.
    pub hooks: HookCheck<'a>,
    /// Looks at a script or plugin that is to speak for a provider.
    pub adapters: AdapterCheck<'a>,
    /// Looks at what only those can judge who build with it: certificates and prices.
    pub parts: PartsCheck<'a>,
    /// Where clients are served until the process ends, whatever is written; None before it listens.
    pub serving: Option<SocketAddr>,
}

/// Says what is wrong with a hook of a configuration: the way to it inside the hook, and what to do.
pub type HookCheck<'a> = &'a dyn Fn(&Config, &Hook) -> Vec<(Vec<String>, String)>;

/// Says what is wrong with what a provider's dialect names, if it is a script or a plugin: the way to it inside the
/// settings of the script, None for the dialect itself, and what to do.
pub type AdapterCheck<'a> = &'a dyn Fn(&Config, &str) -> Vec<(Option<Vec<String>>, String)>;

/// Says what is wrong with the parts of a configuration that are built without a network: the way to it, and what to do.
pub type PartsCheck<'a> = &'a dyn Fn(&Config) -> Vec<(Vec<String>, String)>;

/// Everything that is wrong with a configuration that is well-formed, and what is worth a warning.
pub fn check(config: &Config, known: &Known<'_>) -> Vec<Issue> {
    let mut issues = Vec::new();
    addresses(config, known.serving, &mut issues);
    amounts(config, &mut issues);
    auth(config, &mut issues);
    keys(config, known, &mut issues);
    upstream::providers(config, known, &mut issues);
    routing::models(config, known, &mut issues);
    routing::general(config, &mut issues);
    upstream::prices(config, known, &mut issues);
    cache::cache(config, known, &mut issues);
    shared_kv(config, &mut issues);
    plugins(config, &mut issues);
    adapters(config, &mut issues);
    limits::limits(config, known, &mut issues);
    limits::shared(config, &mut issues);
    hooks(config, &mut issues);
    issues
}

/// What is kept together needs a server to be on.
fn shared_kv(config: &Config, issues: &mut Vec<Issue>) {
    if config.redis.kv && config.redis.url.is_none() {
        let message = "has no server to be on; write `redis.url`, or take this out";
        issues.push(Issue::error(KeyPath::of(&["redis", "kv"]), message));
    }
}

fn addresses(config: &Config, serving: Option<SocketAddr>, issues: &mut Vec<Issue>) {
    let listen = KeyPath::of(&["listen", "address"]);
    let admin = KeyPath::of(&["admin", "address"]);
    let clients = match socket(&config.listen.address) {
        Ok(address) => Some(address),
        Err(message) => {
            issues.push(Issue::error(listen.clone(), message));
            None
        }
    };
    let open = config.keys.is_empty() && !config.auth.open;
    let reached = |address: Option<SocketAddr>| address.filter(|address| open && !address.ip().is_loopback());
    let message = match (reached(clients), reached(serving)) {
        (Some(address), _) => Some(format!(
            "other machines can reach {}, and without `keys` everybody could spend your money; \
             add keys, listen on 127.0.0.1, or set `auth.open: true`",
            address.ip()
        )),
        // What is written counts from the next start, the keys at once.
        (None, Some(address)) => Some(format!(
            "clients are served at {address} until the process ends, which other machines can reach, and without `keys` \
             everybody could spend your money; keep the keys, set `auth.open: true`, or start anew"
        )),
        (None, None) => None,
    };
    if let Some(message) = message {
        let about = vec![KeyPath::of(&["keys"]), KeyPath::of(&["auth"])];
        issues.push(Issue { about, ..Issue::error(listen, message) });
    }
    if config.admin.is_off() {
        return;
    }
    match socket(&config.admin.address) {
        Err(message) => issues.push(Issue::error(admin, format!("{message}, or off"))),
        Ok(address) if Some(address) == clients && address.port() != 0 => {
            issues.push(Issue::error(admin, "is the address of `listen` too; give it another port"));
        }
        Ok(address) if clients.is_some_and(|clients| overlap(address, clients)) => {
            let message = format!(
                "is on the port {} as `listen` is, and one of them has every address of this machine; give it another port",
                address.port()
            );
            issues.push(Issue::error(admin, message));
        }
        Ok(address) if !address.ip().is_loopback() && config.admin.token.is_none() => {
            let message = format!(
                "other machines can reach {}, and there is no `admin.token`; set one, or listen on 127.0.0.1",
                address.ip()
            );
            let about = vec![KeyPath::of(&["admin", "token"])];
            issues.push(Issue { about, ..Issue::error(admin, message) });
        }
        Ok(_) => {}
    }
    for (index, proxy) in config.listen.trusted_proxies.iter().enumerate() {
        if !is_network(proxy) {
            let path = KeyPath::of(&["listen", "trusted_proxies"]).index(index);
            let message = format!("`{proxy}` is neither an address nor a network; write 10.0.0.1 or 10.0.0.0/8");
            issues.push(Issue::error(path, message));
        }
    }
}

/// Whether two sockets of one family cannot both listen: the same port, and one of them on every address.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_everywhere = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (is_everywhere(one) || is_everywhere(other))
}

/// Hooks as far as the file alone tells; their policies are looked at by [`Known::hooks`].
fn hooks(config: &Config, issues: &mut Vec<Issue>) {
    let mut names = HashMap::new();
    for (index, hook) in config.hooks.iter().enumerate() {
        let path = KeyPath::of(&["hooks"]).index(index);
        let Some(name) = hook.title() else {
            issues.push(Issue::error(path, "names no policy; write `lua: NAME` or `wasm: NAME`"));
            continue;
        };
        issues.extend(engine(hook).map(|(key, message)| Issue::error(path.key(key), message)));
        if names.insert(name, index).is_some() {
            let message = format!("another hook is called `{name}`; give one of them a `name` of its own");
            issues.push(Issue::error(path.clone(), message));
        }
        let zero = [
            (hook.budget.cpu.is_zero(), "cpu"),
            (hook.budget.total.is_zero(), "total"),
            (hook.budget.safepoints == 0, "safepoints"),
            (hook.budget.output.get() == 0, "output"),
        ];
        for (_, field) in zero.iter().filter(|(zero, _)| *zero) {
            issues.push(Issue::error(path.key("budget").key(field), "is zero, so nothing could run; write more"));
        }
        if hook.budget.memory.get() < MIN_HOOK_MEMORY {
            let path = path.key("budget").key("memory");
            issues.push(Issue::error(path, "is less than an empty machine takes; write 2MiB or more"));
        }
        for (at, host) in hook.grants.http.iter().enumerate() {
            let bare = !host.is_empty() && !host.contains(['/', ' ', '@', '?']);
            if !bare
                || host.rfind('*').is_some_and(|star| star > 0)
                || (host.starts_with('*') && !host.starts_with("*."))
            {
                let message =
                    format!("`{host}` is no host; write api.example.com, api.example.com:8443 or *.example.com");
                issues.push(Issue::error(path.key("grants").key("http").index(at), message));
            }
        }
    }
}

/// What is wrong with the engine that a hook names: the key, and what to do.
fn engine(hook: &Hook) -> Option<(&'static str, String)> {
    let plugin = hook.wasm.as_deref()?;
    if cfg!(not(feature = "wasm")) {
        return Some((
            "wasm",
            "is a plugin, and this build is without them; take one with the feature `wasm`".to_owned(),
        ));
    }
    if hook.lua.is_some() {
        return Some(("wasm", "names a second policy; write a hook for each".to_owned()));
    }
    if !upstream::is_plugin_name(plugin) {
        let message =
            format!("`{plugin}` is no name of a plugin; write lower-case letters, digits and `-`, without `.wasm`");
        return Some(("wasm", message));
    }
    let shared = hook.domain.is_some();
    shared.then(|| ("domain", "is for scripts; a plugin has machines of its own".to_owned()))
}

/// What a Luau machine with the host's functions in it takes, with room for a policy.
const MIN_HOOK_MEMORY: u64 = 2 << 20;

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
        match (port, text.parse::<IpAddr>()) {
            (_, Ok(IpAddr::V6(ip))) => format!("`{text}` has no port; write [{ip}]:4100"),
            (_, Ok(ip)) => format!("`{text}` has no port; write {ip}:4100"),
            (Some(port), _) if text.starts_with("localhost:") => {
                format!("`{text}` is a name; write 127.0.0.1:{port} or [::1]:{port}")
            }
            (Some(port), _) if text.starts_with([':', '*']) => {
                format!("`{text}` has no IP address; write 0.0.0.0:{port} for every one of this machine")
            }
            _ => format!("`{text}` is not an IP address and port; write 127.0.0.1:4100"),
        }
    })
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

/// Bounds and times of which zero would let nothing through.
fn amounts(config: &Config, issues: &mut Vec<Issue>) {
    let limits = &config.listen.limits;
    let timeouts = &config.timeouts;
    let exact = config.cache.exact.as_ref();
    let zero = |value: Option<std::time::Duration>| value.is_some_and(|value| value.is_zero());
    for (is_zero, path) in [
        (config.listen.workers == Some(0), &["listen", "workers"][..]),
        (limits.max_head_bytes.get() == 0, &["listen", "limits", "max_head_bytes"]),
        (limits.max_headers == 0, &["listen", "limits", "max_headers"]),
        (limits.head_timeout.is_zero(), &["listen", "limits", "head_timeout"]),
        (limits.max_body_bytes.get() == 0, &["listen", "limits", "max_body_bytes"]),
        (limits.body_timeout.is_zero(), &["listen", "limits", "body_timeout"]),
        (limits.max_answer_bytes.get() == 0, &["listen", "limits", "max_answer_bytes"]),
        (limits.max_connections == 0, &["listen", "limits", "max_connections"]),
        (limits.keep_alive_timeout.is_zero(), &["listen", "limits", "keep_alive_timeout"]),
        (limits.max_streams == 0, &["listen", "limits", "max_streams"]),
        (timeouts.connect.is_zero(), &["timeouts", "connect"]),
        (zero(timeouts.head.get()), &["timeouts", "head"]),
        (zero(timeouts.first_token.get()), &["timeouts", "first_token"]),
        (zero(timeouts.idle.get()), &["timeouts", "idle"]),
        (zero(timeouts.total.get()), &["timeouts", "total"]),
        (zero(config.stream.keep_alive.get()), &["stream", "keep_alive"]),
        (config.stream.max_event_bytes.get() == 0, &["stream", "max_event_bytes"]),
        (exact.is_some_and(|exact| exact.ttl.is_zero()), &["cache", "exact", "ttl"]),
        (exact.is_some_and(|exact| exact.max_ttl.is_zero()), &["cache", "exact", "max_ttl"]),
        (exact.is_some_and(|exact| exact.max_bytes.get() == 0), &["cache", "exact", "max_bytes"]),
        (exact.is_some_and(|exact| exact.max_entry_bytes.get() == 0), &["cache", "exact", "max_entry_bytes"]),
    ] {
        if is_zero {
            let off = matches!(path, ["timeouts", last] if *last != "connect") || path == ["stream", "keep_alive"];
            let message = if off { "is zero; write a time, or off" } else { "is zero; write more" };
            issues.push(Issue::error(KeyPath::of(path), message));
        }
    }
}

fn auth(config: &Config, issues: &mut Vec<Issue>) {
    let secrets = [(&config.admin.token, &["admin", "token"][..]), (&config.auth.pepper, &["auth", "pepper"])];
    for (secret, path) in secrets {
        if secret.as_ref().is_some_and(Secret::is_empty) {
            issues.push(Issue::error(KeyPath::of(path), "is empty; write a secret, or take the key out"));
        }
    }
    let path = KeyPath::of(&["auth", "headers"]);
    if config.auth.headers.is_empty() {
        issues.push(Issue::error(path.clone(), "is empty, so no key could ever be shown; name a header"));
    }
    for (index, header) in config.auth.headers.iter().enumerate() {
        if !is_header_name(header) {
            issues.push(Issue::error(path.index(index), format!("`{header}` is not a header name; write one")));
        }
    }
}

fn keys(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, key) in config.keys.iter().enumerate() {
        let path = KeyPath::of(&["keys"]).index(index);
        if key.name.trim().is_empty() {
            issues.push(Issue::error(path.key("name"), "is empty; give the key a name for logs and reports"));
        } else if let Some(first) = names.insert(&key.name, index) {
            let message = format!("`{}` is the name of keys[{first}] too; give each key its own", key.name);
            issues.push(Issue::error(path.key("name"), message));
            names.insert(&key.name, first);
        }
        key_source(config, key, &path, issues);
        for (place, model) in key.models.iter().enumerate() {
            if let Some(message) = unknown_model(config, known, model) {
                issues.push(Issue::warning(path.key("models").index(place), message));
            }
        }
    }
}

fn plugins(config: &Config, issues: &mut Vec<Issue>) {
    let path = KeyPath::of(&["plugins"]);
    if config.plugins.demand == Demand::Signed && config.plugins.signers.is_empty() {
        let message = "is `signed`, and without `plugins.signers` nobody could sign; add a public key";
        issues.push(Issue::error(path.key("demand"), message));
    }
    for (index, signer) in config.plugins.signers.iter().enumerate() {
        // 32 bytes in base64.
        if signer.trim().len() != 44 || !signer.trim().ends_with('=') {
            let message = "is no public key; write the one that `portcullis plugin keygen` printed";
            issues.push(Issue::error(path.key("signers").index(index), message));
        }
    }
    for (name, plugin) in config.plugins.settings.iter() {
        let path = path.key("settings").key(name);
        if !config.plugged().any(|known| known == name) {
            issues.push(unplugged(config, name, plugin, path.clone()));
        }
        if !upstream::is_plugin_name(name) {
            let message = format!("`{name}` is no plugin's name; write small letters, digits and `-`");
            issues.push(Issue::error(path.clone(), message));
        }
        let Plugin { cpu, memory, .. } = plugin;
        if cpu.is_some_and(|cpu| cpu.get() < MIN_CPU) {
            issues.push(Issue::error(path.key("cpu"), UNCOUNTED));
        }
        if memory.is_some_and(|memory| memory.get() < MIN_PLUGIN_MEMORY) {
            let message = "is less than a component begins with; write 1MiB or more";
            issues.push(Issue::error(path.key("memory"), message));
        }
        if let Some(pin) = &plugin.sha256 {
            let digits = pin.strip_prefix("sha256:").unwrap_or(pin);
            if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                issues.push(Issue::error(path.key("sha256"), "is not 64 hexadecimal digits; `sha256sum` prints them"));
            }
        }
    }
}

/// Settings that nothing goes by. A pin under a slip of a name would let any file pass.
fn unplugged(config: &Config, name: &str, plugin: &Plugin, path: KeyPath) -> Issue {
    let message = match nearest(name, config.plugged()) {
        Some(meant) => format!("nothing names a plugin `{name}`, so this means nothing; did you mean `{meant}`?"),
        None => format!(
            "no provider has `dialect: wasm:{name}` and no hook `wasm: {name}`, so this means nothing; take it out"
        ),
    };
    match plugin.sha256 {
        Some(_) => Issue::error(path, message),
        None => Issue::warning(path, message),
    }
}

/// Least time of an adapter's call, and what is said of less.
const MIN_CPU: std::time::Duration = std::time::Duration::from_millis(1);
const UNCOUNTED: &str = "is less than a millisecond, by which it is counted; write 1ms or more";

/// A page of WebAssembly: no component has less.
const MIN_PLUGIN_MEMORY: u64 = 64 << 10;

/// What a Luau machine with room for an answer takes.
const MIN_ADAPTER_MEMORY: u64 = 4 << 20;

fn adapters(config: &Config, issues: &mut Vec<Issue>) {
    for (name, adapter) in config.adapters.iter() {
        let path = KeyPath::of(&["adapters"]).key(name);
        if !config.scripted().any(|known| known == name) {
            let message = format!("no provider has `dialect: lua:{name}`, so this means nothing; take it out");
            issues.push(Issue::warning(path.clone(), message));
        }
        if adapter.memory.is_some_and(|memory| memory.get() < MIN_ADAPTER_MEMORY) {
            issues.push(Issue::error(path.key("memory"), "is too little for a machine; write 4MiB or more"));
        }
        if adapter.cpu.is_some_and(|cpu| cpu.get() < MIN_CPU) {
            issues.push(Issue::error(path.key("cpu"), UNCOUNTED));
        }
    }
}

/// A key must come from one place, and it must be one.
fn key_source(config: &Config, key: &Key, path: &KeyPath, issues: &mut Vec<Issue>) {
    let sources = [
        ("key", key.key.is_some()),
        ("env", key.env.is_some()),
        ("file", key.file.is_some()),
        ("hash", key.hash.is_some()),
    ];
    let given: Vec<&str> = sources.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [] => issues.push(Issue::error(path.clone(), "has no key; add one of `key`, `env`, `file` and `hash`")),
        [_] => {}
        several => {
            let message = format!("has more than one key ({}); keep one of them", several.join(", "));
            issues.push(Issue::error(path.clone(), message));
        }
    }
    if key.key.as_ref().is_some_and(Secret::is_empty) {
        issues.push(Issue::error(path.key("key"), "is empty; set the variable, or take the key out"));
    }
    let Some(hash) = &key.hash else { return };
    let digits = hash.expose().strip_prefix("hmac-sha256:").unwrap_or_default();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let message = "is not a key's hash; write `hmac-sha256:` and 64 hexadecimal digits";
        issues.push(Issue::error(path.key("hash"), message));
    }
    if config.auth.pepper.is_none() {
        let message = "cannot be checked without `auth.pepper`, the secret it was made with; set it";
        let about = vec![KeyPath::of(&["auth"])];
        issues.push(Issue { about, ..Issue::error(path.key("hash"), message) });
    }
}

/// A plain model name that no request can have. What holds `*`, names a provider or is known to be its maker's is left
/// alone.
fn unknown_model(config: &Config, known: &Known<'_>, name: &str) -> Option<String> {
    let provider = name.split_once('/').map(|(provider, _)| provider);
    let has_provider = provider.is_some_and(|it| config.providers.contains(it) || known.providers.contains(&it));
    let is_model = config.models.names().any(|model| fits(model, name));
    if name.contains('*') || has_provider || is_model || (known.is_makers)(name) {
        return None;
    }
    Some(match nearest(name, config.models.names()) {
        Some(meant) => format!("there is no model `{name}`; did you mean `{meant}`?"),
        None => format!("there is no model `{name}`; add it under `models`, or take it out"),
    })
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    }
}

fn is_header_name(name: &str) -> bool {
    name.parse::<http::HeaderName>().is_ok()
}
