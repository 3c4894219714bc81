//! From a file, or from none, to a checked configuration.
//!
//! The only place that reads files: the configuration itself, and the secrets it points to. Never keeps half of a
//! broken file: it gives a whole configuration or everything that is wrong with it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::check::{Known, check};
use super::error::{ConfigError, Errors, Issue, Severity};
use super::expand::expand;
use super::path::KeyPath;
use super::read::read;
use super::tree::{self, Node, Place, Scalar, Value};
use super::value::Secret;
use super::{Config, Env, Key};

/// The largest configuration file.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The largest file with one secret.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What holds where there is no file. The environment can move the listeners, so that a container needs no file.
const BUILTIN: &str = "\
listen: { address: '${PORTCULLIS_LISTEN:-127.0.0.1:4100}' }
admin: { address: '${PORTCULLIS_ADMIN:-127.0.0.1:4101}', token: '${PORTCULLIS_ADMIN_TOKEN:-}' }
";
/// The variable with the one key that callers need where there is no file.
const BUILTIN_KEY: &str = "PORTCULLIS_KEY";

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<ConfigError>,
}

/// Reads a file. Relative paths in it are taken from the folder it is in.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(path: &Path, env: Env<'_>, known: &Known<'_>) -> Result<Loaded, Errors> {
    let file = path.display().to_string();
    let whole = |message: String| {
        Errors(vec![ConfigError { file: file.clone(), line: 0, column: 0, path: String::new(), message }])
    };
    let bytes = read_bounded(path, MAX_FILE_BYTES).map_err(&whole)?;
    let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8 text; save it as UTF-8".to_owned()))?;
    // At a start every default may be meant. Under a process that serves it is a file that somebody is writing.
    if known.serving.is_some() && says_nothing(&text) {
        return Err(whole("is empty; write the configuration into it, or `{}` if every default is meant".to_owned()));
    }
    parse(&file, &text, path.parent().unwrap_or(Path::new("")), env, known)
}

/// The configuration with no file: everything default, no provider written. `PORTCULLIS_LISTEN`, `PORTCULLIS_ADMIN`,
/// `PORTCULLIS_ADMIN_TOKEN` and `PORTCULLIS_KEY` of the environment count.
///
/// # Errors
/// The variables that do not fit.
pub fn builtin(env: Env<'_>, known: &Known<'_>) -> Result<Loaded, Errors> {
    let key = env(BUILTIN_KEY).filter(|key| !key.is_empty());
    let keys = key.map_or("", |_| "keys: [{ name: default, env: PORTCULLIS_KEY }]\n");
    parse("(no file)", &format!("{BUILTIN}{keys}"), Path::new(""), env, known)
}

/// Reads a configuration from its text. `file` is its name in messages, `folder` where relative paths begin.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn parse(file: &str, text: &str, folder: &Path, env: Env<'_>, known: &Known<'_>) -> Result<Loaded, Errors> {
    let mut found = Found { file, errors: Vec::new(), warnings: Vec::new() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = match tree::parse(text) {
        Ok(tree) => tree,
        Err(unreadable) => {
            found.error(&KeyPath::default(), unreadable.at, unreadable.message);
            return Err(found.errors());
        }
    };
    tree.refuse_duplicates(&mut KeyPath::default(), &mut |path, at, message| found.error(path, at, message));
    drop_extensions(&mut tree);
    expand(&mut tree, env, &mut KeyPath::default(), &mut |path, at, message| found.error(path, at, message));
    let config: Option<Config> = read(&mut tree, &mut |path, at, message| found.error(path, at, message));
    let Some(mut config) = config else { return Err(found.errors()) };
    for path in config.paths_mut() {
        *path = folder.join(&path);
    }
    let mut issues = check(&config, known);
    resolve_secrets(&mut config, env, &mut issues);
    check_sendable(&config, &mut issues);
    check_files(&config, &mut issues);
    check_parts(&config, known, &mut issues);
    check_hooks(&config, known, &mut issues);
    check_adapters(&config, known, &mut issues);
    for issue in issues {
        found.issue(&tree, issue);
    }
    if found.errors.is_empty() { Ok(Loaded { config, warnings: found.warnings() }) } else { Err(found.errors()) }
}

impl Config {
    /// Every file that the configuration points to for reading, so that a watcher sees their changes.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.listen.tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]);
        let providers = self.providers.iter().map(|(_, provider)| provider.api_key_file.as_ref());
        let pools = self.providers.iter().flat_map(|(_, provider)| provider.keys.iter().map(|key| key.file.as_ref()));
        let keys = self.keys.iter().map(|key| key.file.as_ref());
        let prices = std::iter::once(self.prices.file.as_ref());
        let files = tls.chain(providers).chain(pools).chain(keys).chain(prices).flatten().cloned();
        files.chain(self.plugin_files()).collect()
    }

    /// The scripts that speak for providers, as often as they are named.
    pub fn scripted(&self) -> impl Iterator<Item = &str> {
        let dialects =
            self.providers.iter().flat_map(|(_, provider)| provider.dialect.iter().chain(&provider.dialects));
        dialects.filter_map(|dialect| dialect.strip_prefix("lua:"))
    }

    /// The component of a plugin.
    pub fn plugin_file(&self, name: &str) -> PathBuf {
        let written = self.plugins.settings.get(name).and_then(|plugin| plugin.file.clone());
        written.unwrap_or_else(|| self.plugins.folder.join(format!("{name}.wasm")))
    }

    /// Plugins that providers and hooks name.
    pub(super) fn plugged(&self) -> impl Iterator<Item = &str> {
        let dialects =
            self.providers.iter().flat_map(|(_, provider)| provider.dialect.iter().chain(&provider.dialects));
        let policies = self.hooks.iter().filter_map(|hook| hook.wasm.as_deref());
        dialects.filter_map(|dialect| dialect.strip_prefix("wasm:")).chain(policies)
    }

    /// Every component that is named, and where its signature would lie.
    fn plugin_files(&self) -> Vec<PathBuf> {
        let files = self.plugged().map(|name| self.plugin_file(name));
        files.flat_map(|file| [file.clone(), PathBuf::from(format!("{}.sig", file.display()))]).collect()
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let tls = self.listen.tls.iter_mut();
        let tls = tls.flat_map(|tls| [Some(&mut tls.cert), Some(&mut tls.key), tls.client_ca.as_mut()]);
        let providers = self.providers.iter_mut().flat_map(|(_, provider)| {
            std::iter::once(provider.api_key_file.as_mut()).chain(provider.keys.iter_mut().map(|key| key.file.as_mut()))
        });
        let keys = self.keys.iter_mut().map(|key| key.file.as_mut());
        let store = self.store.path.as_mut().filter(|path| path.as_os_str() != "off");
        let others = [self.prices.file.as_mut(), self.log.file.as_mut(), Some(&mut self.hooks_dir.0), store];
        let plugins = [Some(&mut self.plugins.folder), self.plugins.compiled.as_mut()];
        let components = self.plugins.settings.iter_mut().map(|(_, plugin)| plugin.file.as_mut());
        tls.chain(providers).chain(keys).chain(others).chain(plugins).chain(components).flatten().collect()
    }
}

/// What was found wrong so far.
struct Found<'a> {
    file: &'a str,
    errors: Vec<(Place, ConfigError)>,
    warnings: Vec<(Place, ConfigError)>,
}

impl Found<'_> {
    fn error(&mut self, path: &KeyPath, at: Place, message: String) {
        let error = self.at(path, at, message);
        self.errors.push((at, error));
    }

    fn at(&self, path: &KeyPath, at: Place, message: String) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: at.line, column: at.column, path: path.to_string(), message }
    }

    /// Takes an issue in, unless what it speaks about was found wrong before.
    fn issue(&mut self, tree: &Node, issue: Issue) {
        let path = tree.original(&issue.path);
        let about = issue.about.iter().map(|path| tree.original(path)).chain([path.clone()]);
        if about.into_iter().any(|path| tree.find(path.segs()).is_some_and(Node::is_damaged)) {
            return;
        }
        let at = tree.place(path.segs());
        let scalar = tree.scalar_at(path.segs());
        let message = scalar.map_or(issue.message.clone(), |scalar| as_written(&issue.message, scalar));
        match issue.severity {
            Severity::Error => self.error(&path, at, message),
            // A variable with an empty default was meant to be allowed to be empty.
            Severity::Warning if scalar.is_some_and(|scalar| scalar.optional) => {}
            Severity::Warning => {
                let warning = self.at(&path, at, message);
                self.warnings.push((at, warning));
            }
        }
    }

    fn errors(&mut self) -> Errors {
        Errors(in_order(&mut self.errors))
    }

    fn warnings(&mut self) -> Vec<ConfigError> {
        in_order(&mut self.warnings)
    }
}

/// The message with what it quotes of a variable's value replaced by the variable: it may be a secret in a wrong place.
fn as_written(message: &str, scalar: &Scalar) -> String {
    let Some(written) = &scalar.written else { return message.to_owned() };
    let parts = message.split('`').enumerate().map(|(place, part)| {
        let quotes_value = place % 2 == 1 && !part.is_empty() && scalar.text.contains(part);
        if quotes_value { written.as_str() } else { part }
    });
    parts.collect::<Vec<_>>().join("`")
}

fn in_order(found: &mut Vec<(Place, ConfigError)>) -> Vec<ConfigError> {
    found.sort_by_key(|(at, _)| *at);
    found.drain(..).map(|(_, error)| error).collect()
}

/// Whether there is nothing but white space and comments in it.
fn says_nothing(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim).all(|line| line.is_empty() || line == "---" || line.starts_with('#'))
}

/// Takes out the top-level keys that begin with `x-`: they hold anchors for the rest of the file.
fn drop_extensions(tree: &mut Node) {
    if let Value::Map(entries) = &mut tree.value {
        entries.retain(|entry| !entry.key.starts_with("x-"));
    }
}

/// Reads secrets from files and the environment to where the written ones are.
fn resolve_secrets(config: &mut Config, env: Env<'_>, issues: &mut Vec<Issue>) {
    for (name, provider) in config.providers.iter_mut() {
        if let (Some(file), None) = (&provider.api_key_file, &provider.api_key) {
            let path = KeyPath::of(&["providers", name, "api_key_file"]);
            provider.api_key = take(read_secret(file), path, issues);
        }
        for (index, key) in provider.keys.iter_mut().enumerate() {
            let path = KeyPath::of(&["providers", name, "keys"]).index(index);
            match (&key.key, &key.env, &key.file) {
                // One whose variable is not set is left out, and the rest of the pool serves.
                (None, Some(variable), None) => {
                    key.key = env(variable).filter(|value| !value.is_empty()).map(Secret::new);
                }
                (None, None, Some(file)) => key.key = take(read_secret(file), path.key("file"), issues),
                _ => {}
            }
        }
    }
    for (index, key) in config.keys.iter_mut().enumerate() {
        let path = KeyPath::of(&["keys"]).index(index);
        match &*key {
            Key { key: None, hash: None, env: Some(name), file: None, .. } => {
                let unset =
                    || format!("the environment variable {name} is not set, or empty; set it, or take the key out");
                let secret = env(name).filter(|value| !value.is_empty()).map(Secret::new).ok_or_else(unset);
                key.key = take(secret, path.key("env"), issues);
            }
            Key { key: None, hash: None, env: None, file: Some(file), .. } => {
                key.key = take(read_secret(file), path.key("file"), issues);
            }
            _ => {}
        }
    }
    let secrets: Vec<Option<&Secret>> = config.keys.iter().map(|key| key.key.as_ref()).collect();
    for (index, secret) in secrets.iter().enumerate() {
        let twin = secrets[..index].iter().position(|other| other.is_some() && other == secret);
        if let Some(twin) = twin {
            let other = &config.keys[twin].name;
            let message =
                format!("is the same key as that of `{other}`, so the caller cannot be told; give each its own");
            issues.push(Issue::error(KeyPath::of(&["keys"]).index(index), message));
        }
    }
}

fn take(secret: Result<Secret, String>, path: KeyPath, issues: &mut Vec<Issue>) -> Option<Secret> {
    secret.map_err(|message| issues.push(Issue::error(path, message))).ok()
}

/// The secret in a file, without the line end that editors and `echo` put after it.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let named = |reason: &str| format!("{} {reason}", path.display());
    let bytes = read_bounded(path, MAX_SECRET_BYTES).map_err(|reason| named(&reason))?;
    let text = String::from_utf8(bytes).map_err(|_| named("is not UTF-8 text; write the secret alone into it"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(named("is empty; write the secret into it"));
    }
    Ok(Secret::new(text))
}

/// Says which secrets that travel in headers no header can carry: usually a line end came along.
fn check_sendable(config: &Config, issues: &mut Vec<Issue>) {
    let token = [(KeyPath::of(&["admin", "token"]), config.admin.token.as_ref())];
    let providers = config.providers.iter().map(|(name, provider)| {
        let from = if provider.api_key_file.is_some() { "api_key_file" } else { "api_key" };
        (KeyPath::of(&["providers", name, from]), provider.api_key.as_ref())
    });
    let pools = config.providers.iter().flat_map(|(name, provider)| {
        let path = KeyPath::of(&["providers", name, "keys"]);
        provider.keys.iter().enumerate().map(move |(index, key)| (path.index(index), key.key.as_ref()))
    });
    let keys = config.keys.iter().enumerate().map(|(index, key)| {
        let sources = [("env", key.env.is_some()), ("file", key.file.is_some())];
        let from = sources.iter().find(|(_, given)| *given).map_or("key", |(name, _)| *name);
        (KeyPath::of(&["keys"]).index(index).key(from), key.key.as_ref())
    });
    for (path, secret) in token.into_iter().chain(providers).chain(pools).chain(keys) {
        if secret.is_some_and(|secret| http::HeaderValue::from_str(secret.expose()).is_err()) {
            let message = "holds a line end or another character that no header can carry; check where it comes from";
            issues.push(Issue::error(path, message));
        }
    }
}

/// Says which of the files that are read later are not there, and which of those that are written never could be.
fn check_files(config: &Config, issues: &mut Vec<Issue>) {
    let tls = config.listen.tls.iter().flat_map(|tls| {
        [("cert", Some(&tls.cert)), ("key", Some(&tls.key)), ("client_ca", tls.client_ca.as_ref())]
            .map(|(name, file)| (KeyPath::of(&["listen", "tls", name]), file))
    });
    let prices = [(KeyPath::of(&["prices", "file"]), config.prices.file.as_ref())];
    for (path, file) in tls.chain(prices) {
        if let Some(file) = file
            && let Err(error) = open(file)
        {
            issues.push(Issue::error(path, format!("{} {}", file.display(), cannot_read(&error))));
        }
    }
    let store = config.store.path.as_ref().filter(|path| path.as_os_str() != "off");
    for (path, file) in [(["log", "file"], config.log.file.as_ref()), (["store", "path"], store)] {
        if let Some(message) = file.and_then(|file| no_place(file)) {
            issues.push(Issue::error(KeyPath::of(&path), message));
        }
    }
}

/// Why a file cannot be where it is to be written.
fn no_place(file: &Path) -> Option<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() {
        return Some(format!("{} is a folder; write the name of a file in it", file.display()));
    }
    (!folder.is_dir()).then(|| format!("{}: there is no such folder; make it, or write another", folder.display()))
}

/// Says what is wrong with certificates and prices, as far as it was not found before.
fn check_parts(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (way, message) in (known.parts)(config) {
        let path = way.iter().fold(KeyPath::default(), |path, key| path.key(key));
        if !issues.iter().any(|issue| issue.severity == Severity::Error && issue.path == path) {
            issues.push(Issue::error(path, message));
        }
    }
}

/// Says what is wrong with the policies that hooks name.
fn check_hooks(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (index, hook) in config.hooks.iter().enumerate() {
        if let Some(plugin) = &hook.wasm {
            let file = config.plugin_file(plugin);
            if let Err(error) = open(&file) {
                let path = KeyPath::of(&["hooks"]).index(index).key("wasm");
                issues.push(Issue::error(path, format!("{} {}", file.display(), cannot_read(&error))));
                continue;
            }
        }
        for (inside, message) in (known.hooks)(config, hook) {
            let path = inside.iter().fold(KeyPath::of(&["hooks"]).index(index), |path, key| path.key(key));
            issues.push(Issue::error(path, message));
        }
    }
}

/// Says what is wrong with the scripts and plugins that speak for providers.
fn check_adapters(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (name, provider) in config.providers.iter() {
        let path = KeyPath::of(&["providers"]).key(name);
        let named = provider.dialect.iter().map(|dialect| (path.key("dialect"), dialect));
        let more = provider.dialects.iter().enumerate();
        let more = more.map(|(index, dialect)| (path.key("dialects").index(index), dialect));
        for (path, dialect) in named.chain(more) {
            // A name that is none is no path to a file either.
            if issues.iter().any(|issue| issue.path == path) {
                continue;
            }
            let name = dialect.split_once(':').map_or("", |(_, name)| name);
            for (inside, message) in (known.adapters)(config, dialect) {
                let settings = || KeyPath::of(&["adapters"]).key(name);
                let path = inside
                    .map_or_else(|| path.clone(), |inside| inside.iter().fold(settings(), |path, key| path.key(key)));
                issues.push(Issue::error(path, message));
            }
        }
    }
}

/// Opens a file, and nothing that is none: a folder can be opened, but not read.
fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
}

fn cannot_read(error: &std::io::Error) -> String {
    format!("cannot be read: {}; check the path and its permissions", reason(error))
}

/// The reason in words that are the same on every system, as far as they are known.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = open(path).map_err(|error| cannot_read(&error))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(&error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(format!("is larger than {limit} bytes; check that it is the right file"));
    }
    Ok(bytes)
}
