//! `portcullis replay`: an access log played once more under other policies, beside what happened or beside a second
//! version.
//!
//! Asks nobody and writes nothing; what the log does not hold (prompts, headers) is filled in, and said so.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::{REFUSED, config_path, env, fail, say};
use crate::auth::Principal;
use crate::config::{Cache, Config, Hook, HooksDir, Named, Redis, Secret};
use crate::generation::Builder;
use crate::provider::PROVIDERS;
use crate::trial::replay::{Failures, Outcome, Player, Recorded};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The access log: a file of JSON lines, or `-` for standard input.
    log: PathBuf,
    /// The policies to try: a folder as `hooks_dir` names one, or the folder or file of one policy in it.
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// The policies to compare with. Without it: what the log says that happened.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// The configuration under which both run; `config/portcullis.yaml` when it is not named.
    #[arg(long, short, env = "PORTCULLIS_CONFIG")]
    config: Option<PathBuf>,
    /// Everything as JSON, every exchange that changed included.
    #[arg(long)]
    json: bool,
    /// Exchanges that are shown of those that changed.
    #[arg(long, default_value_t = 20)]
    show: usize,
}

pub(super) fn run(args: Args) -> ExitCode {
    super::diagnostics("off");
    match compare(&args) {
        Ok(report) if args.json => {
            say(&serde_json::to_string_pretty(&report).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Ok(report) => {
            say(&report.text(args.show));
            ExitCode::SUCCESS
        }
        Err(error) => fail(REFUSED, &error),
    }
}

fn compare(args: &Args) -> Result<Report, String> {
    let (mut log, skipped) = read(&args.log)?;
    log.sort_by_key(|recorded| recorded.unix_ms());
    if log.is_empty() {
        return Err(format!(
            "{}: holds no exchange that asked a model; it takes the gateway's JSON access log (`log.file`)",
            args.log.display()
        ));
    }
    let config = config_path(args.config.clone());
    let mut tried = player(config.as_deref(), &args.policy, &log)?;
    let mut before = args.against.as_ref().map(|dir| player(config.as_deref(), dir, &log)).transpose()?;
    let mut report = Report {
        before: args.against.as_ref().map_or_else(|| "recorded".to_owned(), |dir| dir.display().to_string()),
        after: args.policy.display().to_string(),
        skipped,
        ..Report::default()
    };
    for recorded in &log {
        let old = before.as_mut().map_or_else(|| Ok(recorded.outcome()), |player| player.play(recorded));
        match (old, tried.play(recorded)) {
            (Ok(old), Ok(new)) => report.add(recorded, old, new),
            // What one of them cannot play tells nothing.
            (Err(_), _) | (_, Err(_)) => report.skipped += 1,
        }
    }
    report.failures = tried.failures();
    report.leaves_auth_out = tried.leaves_auth_out();
    report.old.finish();
    report.new.finish();
    Ok(report)
}

/// The exchanges of a log, and the number of lines that are none.
fn read(path: &Path) -> Result<(Vec<Recorded>, usize), String> {
    let wrong = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(wrong)?),
    };
    let (mut log, mut skipped) = (Vec::new(), 0);
    for line in BufReader::new(source).lines() {
        let line = line.map_err(wrong)?;
        match Recorded::read(&line) {
            Some(recorded) => log.push(recorded),
            None => skipped += usize::from(!line.trim().is_empty()),
        }
    }
    Ok((log, skipped))
}

/// The operator's configuration with other policies, and without what would count the replay itself.
fn player(path: Option<&Path>, dir: &Path, log: &[Recorded]) -> Result<Player, String> {
    let (folder, single) = policies(dir)?;
    let asked = asked(log).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let amend = move |config: &mut Config| {
        config.hooks_dir = HooksDir(folder.clone());
        if let Some(name) = &single
            && !config.hooks.iter().any(|hook| hook.lua.as_deref() == Some(name))
        {
            config.hooks.push(Hook { lua: Some(name.clone()), ..Hook::default() });
        }
        speak_past_adapters(config);
        revive(config, &asked);
        // Limits go by the clock of the wall, keys are the log's, and answers are not from before.
        config.limits.clear();
        config.budgets.clear();
        config.cache = Cache::default();
        config.redis = Redis::default();
        config.listen.workers = Some(1);
    };
    let builder = Builder::new(path.map(Path::to_owned), Box::new(filled(path, log))).amended(amend);
    let keys = builder.load()?.config.keys;
    let generation = builder.build(1)?;
    let known = |name: &str| {
        let key = keys.iter().find(|key| key.name == name)?;
        let (models, disable_fallbacks) = (key.allowed_models(), key.disable_fallbacks);
        Some(Principal { models, disable_fallbacks, ..Principal::default() })
    };
    Player::new(generation, log, &known)
}

/// Providers answer past their adapters: what those read is not in the log, and they lie with the policies that are in
/// force, not with those that are tried.
fn speak_past_adapters(config: &mut Config) {
    let is_taught = |dialect: &String| dialect.starts_with("lua:") || dialect.starts_with("wasm:");
    for (_, provider) in config.providers.iter_mut() {
        if provider.dialect.as_ref().is_some_and(is_taught) {
            provider.dialect = Some("openai_chat".to_owned());
        }
        provider.dialects.retain(|dialect| !is_taught(dialect));
    }
    config.adapters = Named::default();
}

/// Gives the providers that the log tells of a key where theirs is a variable that may be empty, and is here: they had
/// one then.
fn revive(config: &mut Config, asked: &[String]) {
    let is_none = |key: &Option<Secret>| key.as_ref().is_none_or(Secret::is_empty);
    let some = || Some(Secret::new("replay"));
    for (_, provider) in
        config.providers.iter_mut().filter(|(name, _)| asked.iter().any(|known| known.as_str() == *name))
    {
        if provider.api_key.is_some() && is_none(&provider.api_key) {
            provider.api_key = some();
        }
        provider.keys.iter_mut().filter(|key| is_none(&key.key)).for_each(|key| key.key = some());
    }
}

/// The providers that were asked.
fn asked(log: &[Recorded]) -> Vec<&str> {
    let mut names: Vec<&str> =
        log.iter().flat_map(|line| &line.attempts).map(|tried| tried.provider.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The folder of the policies, and the one policy that is meant, where it is one.
fn policies(dir: &Path) -> Result<(PathBuf, Option<String>), String> {
    let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
    let single = dir.join("main.luau").is_file() || dir.is_file();
    if !single {
        return Ok((dir, None));
    }
    let name = if dir.is_dir() { dir.file_name() } else { dir.file_stem() };
    let name = name.and_then(|name| name.to_str()).map(str::to_owned);
    Ok((dir.parent().unwrap_or(Path::new("/")).to_owned(), name))
}

/// The environment, and something in the place of keys that are not in it: nobody is asked with them.
fn filled(path: Option<&Path>, log: &[Recorded]) -> impl Fn(&str) -> Option<String> + Send + Sync + use<> {
    let written = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let names = asked(log);
    let rows = PROVIDERS.iter().filter(|row| names.contains(&row.name));
    let variables: Vec<&'static str> = rows.flat_map(|row| row.env.first().copied()).collect();
    move |name: &str| {
        let wanted = || {
            variables.contains(&name)
                || written.contains(&format!("${{{name}}}"))
                || written.contains(&format!("env: {name}"))
        };
        env(name).or_else(|| wanted().then(|| format!("replay-{name}")))
    }
}

/// Two versions side by side.
#[derive(Debug, Default, Serialize)]
struct Report {
    before: String,
    after: String,
    replayed: usize,
    /// Lines that ask no model or cannot be asked again.
    skipped: usize,
    old: Sums,
    new: Sums,
    /// How many went from where to where, of those that changed.
    moves: BTreeMap<String, usize>,
    changed: Vec<Value>,
    failures: Vec<Failures>,
    /// Exchanges for whose time the log holds no example.
    guessed: usize,
    /// A policy has `on_auth`, which was not called.
    leaves_auth_out: bool,
}

/// What a version comes to.
#[derive(Debug, Default, Serialize)]
struct Sums {
    answered: usize,
    /// Sent to a target of which the log knows nothing.
    unknown: usize,
    refused: usize,
    failed: usize,
    tries: usize,
    cost_usd: f64,
    /// Answers without a price.
    unpriced: usize,
    latency_p50_ms: f64,
    latency_p95_ms: f64,
    targets: BTreeMap<String, usize>,
    #[serde(skip)]
    latencies: Vec<f64>,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        if outcome.is_refused() {
            self.refused += 1;
        } else if outcome.status >= 400 {
            self.failed += 1;
        } else {
            match outcome.guessed {
                true => self.unknown += 1,
                false => self.answered += 1,
            }
            *self.targets.entry(outcome.place()).or_default() += 1;
            self.latencies.push(outcome.duration_ms);
        }
        self.tries += outcome.tries.len();
        match outcome.cost_usd {
            Some(cost) => self.cost_usd += cost,
            None => self.unpriced += usize::from(outcome.status < 400),
        }
    }

    fn finish(&mut self) {
        self.latencies.sort_by(f64::total_cmp);
        let last = self.latencies.len().saturating_sub(1);
        let at = |part: f64| self.latencies.get((last as f64 * part) as usize).copied().unwrap_or(0.0);
        (self.latency_p50_ms, self.latency_p95_ms) = (at(0.5), at(0.95));
    }
}

impl Report {
    fn add(&mut self, recorded: &Recorded, old: Outcome, new: Outcome) {
        self.replayed += 1;
        self.old.add(&old);
        self.new.add(&new);
        self.guessed += usize::from(new.guessed);
        if old.went_as(&new) {
            return;
        }
        let (from, to) = (old.place(), new.place());
        *self.moves.entry(format!("{from} → {to}")).or_default() += 1;
        self.changed.push(json!({
            "time": recorded.time, "id": recorded.id, "key": recorded.key, "project": recorded.project,
            "model": recorded.asked_model.as_ref().unwrap_or(&recorded.model), "from": from, "to": to,
            "old": old, "new": new,
        }));
    }

    /// For a terminal.
    fn text(&self, show: usize) -> String {
        let mut out = format!("{} exchanges replayed, {} lines skipped\n\n", self.replayed, self.skipped);
        let (old, new) = (&self.old, &self.new);
        let mut row = |name: &str, a: String, b: String| {
            out.push_str(&format!("{name:<24} {a:>20} {b:>20}\n"));
        };
        row("", tail(&self.before, 20), tail(&self.after, 20));
        for (name, a, b) in [
            ("answered", old.answered, new.answered),
            ("unknown to the log", old.unknown, new.unknown),
            ("refused before any try", old.refused, new.refused),
            ("failed", old.failed, new.failed),
            ("tries", old.tries, new.tries),
            ("answers without a price", old.unpriced, new.unpriced),
        ] {
            row(name, a.to_string(), b.to_string());
        }
        row("cost, USD", format!("{:.6}", old.cost_usd), format!("{:.6}", new.cost_usd));
        row("latency p50, ms", format!("{:.0}", old.latency_p50_ms), format!("{:.0}", new.latency_p50_ms));
        row("latency p95, ms", format!("{:.0}", old.latency_p95_ms), format!("{:.0}", new.latency_p95_ms));
        out.push_str("\nanswered by\n");
        let mut names: Vec<&String> = old.targets.keys().chain(new.targets.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let count = |sums: &Sums| sums.targets.get(name).copied().unwrap_or(0);
            out.push_str(&format!("  {name:<22} {:>20} {:>20}\n", count(old), count(new)));
        }
        self.changes(show, &mut out);
        out.push_str("\nCosts and times are estimates: texts are filled in by length, providers answer as the log says they did.\n");
        if self.leaves_auth_out {
            out.push_str("on_auth was left out: the callers are those of the log.\n");
        }
        if self.guessed > 0 {
            out.push_str(&format!(
                "{} exchanges asked a target that the log does not know: nobody knows whether it would have answered. \
                 Their time is that of others.\n",
                self.guessed
            ));
        }
        out.trim_end().to_owned()
    }

    fn changes(&self, show: usize, out: &mut String) {
        out.push_str(&format!("\n{} went elsewhere\n", self.changed.len()));
        let mut moves: Vec<(&String, &usize)> = self.moves.iter().collect();
        moves.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        for (way, count) in moves {
            out.push_str(&format!("  {count:>8}  {way}\n"));
        }
        if !self.changed.is_empty() && show > 0 {
            out.push_str("\nthe first of them\n");
        }
        for change in self.changed.iter().take(show) {
            let text = |name: &str| change[name].as_str().unwrap_or("-").to_owned();
            out.push_str(&format!(
                "  {}  {}  key={} model={}  {} → {}\n",
                text("time"),
                text("id"),
                text("key"),
                text("model"),
                text("from"),
                text("to"),
            ));
        }
        for failed in &self.failures {
            let error = failed.last_error.as_deref().unwrap_or("-");
            out.push_str(&format!(
                "\n{} failed {} times in on_{}: {error}\n",
                failed.policy, failed.count, failed.phase
            ));
        }
    }
}

/// The end of a text that is too long for its column.
fn tail(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        text.to_owned()
    } else {
        format!("…{}", text.chars().skip(count - width + 1).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_then_fails_as_it_did_where_nothing_has_changed() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-failed", std::process::id()));
        std::fs::create_dir_all(folder.join("policies")).expect("is writable");
        let good = json!({ "provider": "a", "model": "m", "took_ms": 50.0, "status": 200 });
        let failed = |code: &str| json!({ "provider": "a", "model": "m", "took_ms": 3000.0, "error": code });
        let other = json!({ "provider": "b", "model": "m", "took_ms": 50.0, "status": 200 });
        let (stream, whole) = (json!(50.0), Value::Null);
        let cases = [
            // After the first content nobody else is asked.
            (502, "stream_broken", &stream, json!([good])),
            (504, "idle_timeout", &stream, json!([good])),
            (504, "total_timeout", &whole, json!([failed("total_timeout")])),
            // Whoever is asked once more does not leave, and of whom got nothing nobody knows what it would have been.
            (499, "client_gone", &stream, json!([good])),
            (499, "client_gone", &whole, json!([good])),
            // Neither is asked twice.
            (200, "", &whole, json!([failed("connect_timeout"), other])),
            (200, "", &stream, json!([failed("first_token_timeout"), other])),
            // A policy's doing is played again, and here is none that would do it.
            (502, "policy_fault", &whole, json!([failed("policy_fault")])),
        ];
        let lines = cases.iter().enumerate().map(|(at, (status, code, ttft, attempts))| {
            let error = if code.is_empty() { Value::Null } else { json!({ "code": code }) };
            json!({
                "time": format!("2026-01-05T12:00:0{at}Z"), "id": format!("gen-{at}"), "key": "k", "operation": "chat",
                "dialect": "openai_chat", "model": "smart", "stream": !ttft.is_null(), "ttft_ms": ttft, "status": status,
                "error": error, "duration_ms": 80.0, "bytes_in": 10, "attempts": attempts,
            })
            .to_string()
        });
        let path = |name: &str| folder.join(name);
        std::fs::write(path("log.jsonl"), lines.collect::<Vec<_>>().join("\n")).expect("is writable");
        let config = "providers:\n  a: { dialect: openai_chat, base_url: http://a.test, auth: none }\n  \
                      b: { dialect: openai_chat, base_url: http://b.test, auth: none }\n\
                      models: { smart: { fallback: [a/m, b/m] } }\n";
        std::fs::write(path("c.yaml"), config).expect("is writable");
        let args = Args {
            log: path("log.jsonl"),
            policy: path("policies"),
            against: None,
            config: Some(path("c.yaml")),
            json: true,
            show: 0,
        };
        let report = compare(&args).expect("is played");
        std::fs::remove_dir_all(&folder).expect("is there");
        let counts = |sums: &Sums| (sums.answered, sums.failed, sums.tries);
        assert_eq!((report.replayed, report.skipped), (7, 1), "{:?}", report.changed);
        assert_eq!((counts(&report.old), counts(&report.new)), ((3, 4, 9), (4, 3, 9)), "{:?}", report.changed);
        assert_eq!(report.moves.keys().collect::<Vec<_>>(), ["a/m failed (policy_fault) → a/m"]);
    }

    #[test]
    fn one_policy_is_called_as_its_folder_or_its_file_is() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-single", std::process::id()));
        std::fs::create_dir_all(folder.join("gold-1.2")).expect("is writable");
        for file in ["gold-1.2/main.luau", "silver.luau"] {
            std::fs::write(folder.join(file), "").expect("is writable");
        }
        let name = |path: &str| policies(&folder.join(path)).expect("is there").1;
        assert_eq!((name("gold-1.2").as_deref(), name("silver.luau").as_deref()), (Some("gold-1.2"), Some("silver")));
        assert_eq!(name(""), None);
        std::fs::remove_dir_all(&folder).expect("is there");
    }

    #[test]
    fn a_provider_that_was_asked_then_has_a_key_in_a_replay() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-revived", std::process::id()));
        std::fs::create_dir_all(folder.join("policies")).expect("is writable");
        let line = json!({
            "time": "2026-01-05T12:00:00Z", "id": "gen-1", "key": "k", "operation": "chat", "dialect": "openai_chat",
            "model": "own/m", "status": 200, "duration_ms": 5.0, "bytes_in": 10,
            "attempts": [{ "provider": "own", "model": "m", "took_ms": 5.0, "status": 200 }],
        });
        let log = [Recorded::read(&line.to_string()).expect("a line of the log")];
        for key in ["api_key: '${A_KEY_OF_NOBODY:-}'", "keys: [A_KEY_OF_NOBODY, ANOTHER_OF_NOBODY]"] {
            let config = folder.join("c.yaml");
            std::fs::write(&config, format!("providers: {{ own: {{ preset: openai, {key} }} }}\n"))
                .expect("is writable");
            let mut player = player(Some(&config), &folder.join("policies"), &log).expect("plays");
            let played = player.play(&log[0]).expect("was played");
            assert_eq!((played.status, played.place().as_str()), (200, "own/m"), "{key}");
        }
        std::fs::remove_dir_all(&folder).expect("is there");
    }
}
