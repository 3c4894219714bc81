//! A script on disk, a policy or an adapter: a folder with a manifest, or a single file with the manifest in its first comment.
//!
//! Reads and checks; runs nothing. Everything that is read here counts for the watcher.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::adapter::Description;
use super::near;
use crate::host::hash;
use crate::host::metrics::Declared;

/// The largest source file. What is larger takes long to compile and is no policy.
const MAX_SOURCE_BYTES: u64 = 256 << 10;
/// Most modules of one policy.
const MAX_MODULES: usize = 64;
/// What begins the manifest of a single file; `]]` on a line of its own ends it.
const HEADER: &str = "--[[manifest";
/// The version of hooks and host functions that this gateway has.
const API: u32 = 1;

/// A policy as read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The manifest's name, or that of the folder or file.
    pub name: String,
    pub manifest: Manifest,
    pub main: Source,
    /// Further files of the folder by the name that `require` takes.
    pub modules: BTreeMap<String, Source>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// Its test files.
    pub tests: Vec<PathBuf>,
    /// The first half of the SHA-256 of everything that was read.
    pub digest: String,
}

impl Bundle {
    /// A component as the gateway lists what it has loaded: it has no text, and of its bytes the hash tells.
    pub fn of_component(name: String, manifest: Manifest, label: String, sha256: String) -> Bundle {
        Bundle {
            name,
            manifest,
            main: Source { text: format!("sha256:{sha256}\n"), label: label.clone() },
            modules: BTreeMap::new(),
            files: vec![label.into()],
            tests: Vec::new(),
            digest: sha256.chars().take(32).collect(),
        }
    }
}

/// A source file.
#[derive(Debug, Clone)]
pub struct Source {
    /// As it stands in messages.
    pub label: String,
    pub text: String,
}

/// What a policy says of itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    pub name: Option<String>,
    pub version: Option<String>,
    pub description: Option<String>,
    /// The version of hooks and host functions it is written for.
    pub api: Option<u32>,
    /// It protects somebody: where it fails, requests are refused unless the operator says otherwise.
    pub guard: bool,
    pub stream: StreamMode,
    pub coalesce: Option<Coalesce>,
    /// `on_event` is shown what tools are called with, too.
    pub arguments: bool,
    /// How often `on_tick` is called, such as `30s`.
    pub tick: Option<String>,
    pub metrics: BTreeMap<String, Declared>,
    /// JSON Schema of its settings.
    pub config: Option<Value>,
    /// It is no policy, but speaks for providers.
    pub adapter: Option<Description>,
}

/// What it wants to see of streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// Nothing; streams stay as they are.
    #[default]
    None,
    /// Text as it comes.
    Event,
    /// Text once it is whole; the caller waits.
    Buffer,
}

/// How much text is put together before `on_event` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coalesce {
    /// Events of the provider; 1 when not given.
    #[serde(default = "one")]
    pub events: u32,
    /// Longest time the first of them waits.
    #[serde(default)]
    pub ms: Option<u64>,
}

fn one() -> u32 {
    1
}

impl Manifest {
    /// How often `on_tick` is called.
    pub fn tick(&self) -> Option<Duration> {
        self.tick.as_deref().and_then(|tick| humantime::parse_duration(tick).ok())
    }

    /// # Errors
    /// What is wrong with it, and what to write.
    pub(in crate::guest) fn check(&self) -> Result<(), String> {
        if let Some(api) = self.api.filter(|api| *api != API) {
            return Err(format!("is written for api {api}; this gateway has api {API}"));
        }
        if let Some(adapter) = &self.adapter {
            return self.check_adapter(adapter);
        }
        if let Some(tick) = &self.tick
            && self.tick().is_none_or(|span| span < Duration::from_millis(100))
        {
            return Err(format!("tick `{tick}` is no span of 100ms or more; write 30s or 5m"));
        }
        if self.coalesce.is_some() && self.stream == StreamMode::None {
            return Err("has `coalesce` but no stream mode; add stream = \"event\"".to_owned());
        }
        if self.arguments && self.stream == StreamMode::None {
            return Err("has `arguments` but no stream mode; add stream = \"event\"".to_owned());
        }
        if self.coalesce.is_some_and(|coalesce| coalesce.events == 0) {
            return Err("coalesce.events is 0; write 1 or more".to_owned());
        }
        for (name, metric) in &self.metrics {
            metric.check(name)?;
        }
        Ok(())
    }

    fn check_adapter(&self, adapter: &Description) -> Result<(), String> {
        let (name, version, description) = (self.name.clone(), self.version.clone(), self.description.clone());
        let (config, adapter_too) = (self.config.clone(), self.adapter.clone());
        let plain =
            Manifest { name, version, description, api: self.api, config, adapter: adapter_too, ..Manifest::default() };
        if plain != *self {
            return Err("has `[adapter]` and keys of policies; a script is one or the other".to_owned());
        }
        match adapter.operations.is_empty() {
            true => Err("names no operation, so it could serve nothing; write operations = [\"chat\"]".to_owned()),
            false => Ok(()),
        }
    }
}

/// Where a policy is: the main file of a folder, or the file itself.
fn locate(name: &str, folder: &Path) -> Result<(PathBuf, bool), String> {
    let direct = Path::new(name);
    if direct.extension().is_some_and(|end| end == "luau" || end == "lua") {
        let path = folder.join(direct);
        return if path.is_file() { Ok((path, false)) } else { Err(missing(&[path])) };
    }
    let main = folder.join(name).join("main.luau");
    if main.is_file() {
        return Ok((main, true));
    }
    let single = folder.join(format!("{name}.luau"));
    if single.is_file() { Ok((single, false)) } else { Err(missing(&[main, single])) }
}

fn missing(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
    format!("there is no {}; check the name and `hooks_dir`", paths.join(" and no "))
}

/// Every file of a policy, as far as it can be found, and the folder itself where it has one of its own: for the watcher,
/// also when the policy is broken, and so that a test or a module that comes is seen.
pub fn files(name: &str, folder: &Path) -> Vec<PathBuf> {
    match locate(name, folder) {
        Ok((main, true)) => {
            let own = main.parent().map(|folder| sources(folder, false)).unwrap_or_default();
            let manifest = main.with_file_name("manifest.toml");
            let folder = main.parent().map(Path::to_owned);
            own.into_iter().map(|(_, path)| path).chain([manifest]).chain(tests(&main, true)).chain(folder).collect()
        }
        // The test is watched for its coming.
        Ok((main, false)) => vec![beside(&main), main],
        // Watched for its coming.
        Err(_) => vec![folder.join(name).join("main.luau"), folder.join(format!("{name}.luau"))],
    }
}

/// The tests of the script whose source this file is.
pub fn tests_of(source: &Path) -> Vec<PathBuf> {
    tests(source, source.ends_with("main.luau"))
}

/// The tests of a policy: those in its folder, or the one beside its file.
fn tests(main: &Path, in_folder: bool) -> Vec<PathBuf> {
    if in_folder {
        let folder = main.parent().unwrap_or(Path::new("."));
        return sources(folder, true).into_iter().map(|(_, path)| path).collect();
    }
    let beside = beside(main);
    if beside.is_file() { vec![beside] } else { Vec::new() }
}

/// Where the test of a policy in a file of its own lies, if it has one.
fn beside(main: &Path) -> PathBuf {
    let stem = main.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    main.with_file_name(format!("{stem}_test.luau"))
}

/// The sources and tests that a policy's folder holds, by name.
pub fn listing(folder: &Path) -> Vec<String> {
    let both = [sources(folder, false), sources(folder, true)];
    both.into_iter().flatten().map(|(name, _)| name).collect()
}

/// The sources of a folder and its folders, or its tests, by the name that `require` takes.
fn sources(folder: &Path, tests: bool) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if path.is_dir() && prefix.is_empty() {
                waiting.push((format!("{stem}/"), path));
            } else if path.extension().is_some_and(|end| end == "luau") && stem.ends_with("_test") == tests {
                found.push((format!("{prefix}{stem}"), path));
            }
        }
    }
    found.sort();
    found
}

/// Reads a policy.
///
/// # Errors
/// What is missing or wrong, with the file.
pub fn read(name: &str, folder: &Path) -> Result<Bundle, String> {
    let (main, in_folder) = locate(name, folder)?;
    let called = Path::new(name);
    let stem = if in_folder { called.file_name() } else { called.file_stem() };
    let stem = stem.and_then(|stem| stem.to_str()).unwrap_or(name).to_owned();
    let mut files = vec![main.clone()];
    let source = source(&main)?;
    let mut modules = BTreeMap::new();
    let commented = header(&source)?;
    let mut written = None;
    if in_folder {
        let path = main.with_file_name("manifest.toml");
        for (name, path) in main.parent().map(|folder| sources(folder, false)).unwrap_or_default() {
            if path != main {
                modules.insert(name, self::source(&path)?);
                files.push(path);
            }
        }
        if modules.len() > MAX_MODULES {
            return Err(format!("has more than {MAX_MODULES} modules beside `{}`", main.display()));
        }
        files.push(path.clone());
        match std::fs::read_to_string(&path) {
            Ok(text) => written = Some(manifest(&text, &path.display().to_string(), 0)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        }
    }
    let manifest = match (written, commented) {
        (Some(_), Some((_, line))) => {
            let label = &source.label;
            return Err(format!(
                "{label}:{}: has a manifest, and so has `manifest.toml` beside it; keep one",
                line + 1
            ));
        }
        (Some(written), None) => written,
        (None, Some((text, line))) => manifest(text, &source.label, line)?,
        (None, None) => Manifest::default(),
    };
    let mut all = format!("{manifest:?}");
    for source in std::iter::once(&source).chain(modules.values()) {
        all.push_str(&source.label);
        all.push_str(&source.text);
    }
    let mut digest = hash::sha256(all.as_bytes());
    digest.truncate(32);
    let tests = tests(&main, in_folder);
    Ok(Bundle { name: manifest.name.clone().unwrap_or(stem), manifest, main: source, modules, files, tests, digest })
}

/// The manifest in the first comment, and the line before it.
///
/// # Errors
/// There is one that would not be read: what it says would be lost without a word.
fn header(source: &Source) -> Result<Option<(&str, usize)>, String> {
    let found = in_first_comment(&source.text);
    match source.text.lines().position(begins_manifest) {
        Some(line) if found.is_none() => Err(format!(
            "{}:{}: this manifest would not be read; write it as the first comment of the file, `--[[manifest` on a line, \
             the TOML, `]]` on a line",
            source.label,
            line + 1
        )),
        _ => Ok(found),
    }
}

/// Whether a line looks like the begin of a manifest, however it is written.
fn begins_manifest(line: &str) -> bool {
    let comment = line.trim_start().strip_prefix("--[").and_then(|rest| rest.trim_start_matches('=').strip_prefix('['));
    let Some((word, rest)) = comment.and_then(|rest| rest.trim().split_at_checked("manifest".len())) else {
        return false;
    };
    word.eq_ignore_ascii_case("manifest") && (rest.is_empty() || rest.starts_with(' ') && rest.contains('='))
}

fn in_first_comment(text: &str) -> Option<(&str, usize)> {
    let start = text.find(HEADER)?;
    let before = &text[..start];
    // Comments and directives such as `--!strict` may come before it.
    let comment = |line: &str| line.starts_with("--") && !line.starts_with("--[");
    if !before.lines().map(str::trim).all(|line| line.is_empty() || comment(line)) {
        return None;
    }
    let inside = &text[start + HEADER.len()..];
    // Of a file with line ends of Windows the last one is cut in two.
    Some((inside[..inside.find("\n]]")?].trim_end_matches('\r'), before.lines().count()))
}

/// `above` is the number of lines above the text in its file.
fn manifest(text: &str, label: &str, above: usize) -> Result<Manifest, String> {
    let at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1 + above;
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1 + above, |span| at(span.start));
        format!("{label}:{line}: {}", told(error.message()))
    })?;
    manifest.check().map_err(|error| format!("{label}: {error}"))?;
    Ok(manifest)
}

/// What the parser says of a manifest, with the word that was meant in the place of all that there are.
fn told(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let (Some(word), known) = (words.next(), words.collect::<Vec<_>>()) else { return message.to_owned() };
    match near(word, &known).zip(message.split_once(", expected")) {
        Some((meant, (unknown, _))) => format!("{unknown}; did you mean `{meant}`?"),
        None => message.to_owned(),
    }
}

fn source(path: &Path) -> Result<Source, String> {
    let label = path.display().to_string();
    let length = std::fs::metadata(path).map_err(|error| format!("{label} cannot be read: {error}"))?.len();
    if length > MAX_SOURCE_BYTES {
        return Err(format!("{label} is longer than {MAX_SOURCE_BYTES} bytes; split it into modules"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{label} cannot be read: {error}"))?;
    Ok(Source { label, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_file_carries_its_manifest_in_its_first_comment() {
        let text = "-- A policy.\n--!strict\n--[[manifest\nversion = \"1.2\"\nguard = true\nstream = \"event\"\n]]\nreturn {}\n";
        let source = |text: &str| Source { label: "p.luau".into(), text: text.into() };
        let said = source(text);
        let (inside, above) = header(&said).expect("is in form").expect("a header");
        let manifest = manifest(inside, "x.luau", above).expect("reads");
        assert_eq!(
            (manifest.version.as_deref(), manifest.guard, manifest.stream),
            (Some("1.2"), true, StreamMode::Event)
        );
        let of_windows = text.replace('\n', "\r\n");
        let of_windows = source(&of_windows);
        let (inside, above) = header(&of_windows).expect("is in form").expect("a header");
        assert_eq!(super::manifest(inside, "p.luau", above).expect("reads").version.as_deref(), Some("1.2"));
        for text in [
            "local x = 1\n--[[manifest\n]]",
            "--!strict\n--[[ manifest\nguard = true\n]]",
            "--\n--[[manifest\nguard = true\n  ]]",
            "\n--[[manifest\nguard = true]]",
            "\n--[[Manifest guard = true ]]",
            "\n--[==[manifest\nguard = true\n]==]",
        ] {
            let lost = header(&source(text)).expect_err(text);
            assert!(lost.starts_with("p.luau:2: this manifest would not be read"), "{lost}");
        }
        for text in ["", "-- manifest = 1", "--[[ manifesto ]]", "--[[ Manifest of ours. ]]"] {
            assert_eq!(header(&source(text)), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_folder_may_have_its_manifest_in_the_comment_and_not_twice() {
        let folder = std::env::temp_dir().join(format!("portcullis-manifest-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("p")).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("writes");
        write("p/main.luau", "--[[manifest\nguard = true\n]]\nreturn {}");
        assert!(read("p", &folder).expect("reads").manifest.guard);
        write("p/manifest.toml", "guard = false");
        let twice = read("p", &folder).expect_err("two of them");
        assert!(
            twice.ends_with("p/main.luau:1: has a manifest, and so has `manifest.toml` beside it; keep one"),
            "{twice}"
        );
        std::fs::remove_dir_all(&folder).expect("removes");
    }

    #[test]
    fn a_test_and_a_module_that_come_are_seen() {
        let folder = std::env::temp_dir().join(format!("portcullis-bundle-{}", std::process::id()));
        let write = |name: &str| std::fs::write(folder.join(name), "").expect("writes");
        std::fs::create_dir_all(folder.join("whole")).expect("a folder");
        write("single.luau");
        write("whole/main.luau");
        let single = files("single", &folder);
        assert!(single.contains(&folder.join("single_test.luau")), "{single:?}");
        let whole = files("whole", &folder);
        assert!(whole.contains(&folder.join("whole")), "{whole:?}");
        for name in ["whole/new_test.luau", "whole/new.luau", "whole/notes.txt"] {
            write(name);
        }
        assert_eq!(listing(&folder.join("whole")), ["main", "new", "new_test"]);
        std::fs::remove_dir_all(&folder).expect("removes");
    }

    #[test]
    fn what_is_wrong_in_a_manifest_is_said_with_its_line() {
        let wrong = |text: &str| manifest(text, "m.toml", 0).expect_err(text);
        assert_eq!(
            wrong("version = \"1\"\nstram = \"event\"\n"),
            "m.toml:2: unknown field `stram`; did you mean `stream`?"
        );
        assert!(wrong("stream = \"evnet\"").ends_with("unknown variant `evnet`; did you mean `event`?"));
        assert!(wrong("quux = 1").contains("unknown field `quux`, expected one of"));
        assert!(wrong("api = 9").contains("api 9"));
        assert!(wrong("tick = \"often\"").contains("30s"));
        assert!(wrong("coalesce = { events = 4 }").contains("stream = \"event\""));
    }
}
