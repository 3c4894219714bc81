//! `portcullis script`: a policy or an adapter to begin with, with a test that passes, and what calls of one cost.
//!
//! Writes files that are not there yet; never changes one that is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use tokio::time::Instant;

use super::{REFUSED, bench, fail, say};
use crate::guest::adapter::Lease;
use crate::guest::bundle;
use crate::guest::lua::adapter::Taught;
use crate::guest::settings::settings;
use crate::guest::stand::Stand;
use crate::host::Grants;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure a script: a policy's phases, an adapter's functions.
    Bench {
        /// The script, or its folder.
        path: PathBuf,
        /// Its settings, as JSON.
        #[arg(long, default_value = "{}")]
        config: String,
    },
    /// Write a script to begin with: `DIR/NAME/main.luau`, its manifest and a test that passes.
    New {
        /// Its name, in lower case, with dashes.
        name: String,
        /// What it is to do.
        #[arg(long, value_enum, default_value_t = Kind::Route)]
        kind: Kind,
        /// The folder of the scripts.
        #[arg(long, default_value = "scripts")]
        dir: PathBuf,
    },
}

/// What a script is mainly for.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Orders the targets of a plan.
    Route,
    /// Refuses prompts.
    Guard,
    /// Decides after a failed try.
    Fallback,
    /// Edits answers and streams.
    Stream,
    /// Speaks for a provider that the gateway does not know.
    Adapter,
}

/// The files of a policy of a kind, by name.
fn files(kind: Kind) -> [(&'static str, &'static str); 3] {
    macro_rules! kind {
        ($name:literal) => {
            [
                ("main.luau", include_str!(concat!("script/", $name, ".luau"))),
                ("main_test.luau", include_str!(concat!("script/", $name, "_test.luau"))),
                ("manifest.toml", include_str!(concat!("script/", $name, ".toml"))),
            ]
        };
    }
    match kind {
        Kind::Route => kind!("route"),
        Kind::Guard => kind!("guard"),
        Kind::Fallback => kind!("fallback"),
        Kind::Stream => kind!("stream"),
        Kind::Adapter => kind!("adapter"),
    }
}

pub(super) fn run(args: Args) -> ExitCode {
    let done = match args.what {
        What::New { name, kind, dir } => write(&dir, &name, kind).map(|folder| begun(&folder, &name, kind)),
        What::Bench { path, config } => bench(&path, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(REFUSED, &error),
    }
}

fn begun(folder: &Path, name: &str, kind: Kind) {
    let folder = folder.display();
    let attach = match kind {
        Kind::Adapter => format!("name it in a provider, with its `base_url`: `dialect: \"lua:{name}\"`"),
        _ => format!("attach it with `hooks: [{{ lua: {name} }}]`"),
    };
    say(&format!("{folder}: written. Try it with `portcullis test {folder}`, {attach}."));
}

/// Measures a script as it would be called in service.
fn bench(path: &Path, config: &str) -> Result<(), String> {
    let whole = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}; give the path of the script, such as scripts/mine", path.display()))?;
    let folder = whole.parent().unwrap_or(Path::new("/"));
    let name = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".luau").unwrap_or(name);
    let written = serde_json::from_str(config).map_err(|error| format!("--config is no JSON object: {error}"))?;
    let began = Instant::now();
    let bundle = bundle::read(name, folder)?;
    let config = settings(&bundle.manifest, &written).map_err(bench::unfit)?;
    if bundle.manifest.adapter.is_some() {
        let adapter = Taught::load(name, Arc::new(bundle), config, Lease::default())?;
        bench::line("read, compile and start", began.elapsed());
        return bench::adapter(&adapter);
    }
    let stand = Stand::luau(bundle, bench::BUDGET, config, Grants::default())?;
    bench::line("read, compile and start", began.elapsed());
    bench::policy(stand)
}

fn write(dir: &Path, name: &str, kind: Kind) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.is_empty() || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(format!("`{name}` is no name for a script; write small letters, digits and dashes"));
    }
    let folder = dir.join(name);
    if folder.exists() {
        return Err(format!("{} is there already; choose another name or remove it", folder.display()));
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    for (file, text) in files(kind) {
        let path = folder.join(file);
        std::fs::write(&path, text.replace("NAME", name))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    Ok(folder)
}
