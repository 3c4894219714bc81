//! `portcullis script new`: a policy to begin with, and a test that passes.
//!
//! Writes files that are not there yet; never changes one that is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::{REFUSED, fail, say};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write a policy to begin with: `DIR/NAME/main.luau`, its manifest and a test that passes.
    New {
        /// Its name, in lower case, with dashes.
        name: String,
        /// What it is to do.
        #[arg(long, value_enum, default_value_t = Kind::Route)]
        kind: Kind,
        /// The folder of the policies.
        #[arg(long, default_value = "scripts")]
        dir: PathBuf,
    },
}

/// What a policy is mainly for.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Orders the targets of a plan.
    Route,
    /// Refuses prompts.
    Guard,
    /// Decides after a failed try.
    Fallback,
    /// Edits answers and streams.
    Stream,
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
    }
}

pub(super) fn run(args: Args) -> ExitCode {
    let What::New { name, kind, dir } = args.what;
    match write(&dir, &name, kind) {
        Ok(folder) => {
            let folder = folder.display();
            say(&format!(
                "{folder}: written. Try it with `portcullis test {folder}`, attach it with `hooks: [{{ lua: {name} }}]`."
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(REFUSED, &error),
    }
}

fn write(dir: &Path, name: &str, kind: Kind) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.is_empty() || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(format!("`{name}` is no name for a policy; write small letters, digits and dashes"));
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
