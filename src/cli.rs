//! The command line: one file a subcommand.

mod bench;
mod cache;
mod check;
mod generations;
mod key;
mod mock;
#[cfg(feature = "wasm")]
mod plugin;
mod replay;
mod schema;
mod script;
mod serve;
mod test;
mod types;
mod welcome;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::generation::Generation;
use crate::trial::smoke::Smoke;

/// The configuration that is used when none is named.
const DEFAULT_CONFIG: &str = "config/portcullis.yaml";

/// Exit status of a configuration that is refused, as `getopt` programs use it for wrong usage.
const REFUSED: u8 = 2;

/// A programmable AI gateway: any client dialect to any model provider.
#[derive(Parser)]
#[command(name = "portcullis", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a subcommand these are `serve`'s.
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve(serve::Args),
    /// Check a configuration and print every error at once.
    Check(check::Args),
    /// Run the mock provider on a port of its own.
    Mock(mock::Args),
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Judge the semantic cache on pairs of texts.
    Cache(cache::Args),
    /// Run the tests of policies.
    Test(test::Args),
    /// Play an access log once more under other policies: what would have gone elsewhere, at what cost.
    Replay(replay::Args),
    /// Begin a policy or an adapter in Lua, or measure one.
    Script(script::Args),
    /// Make keys and their hashes.
    Key(key::Args),
    /// Make, look at, test and sign WebAssembly plugins.
    #[cfg(feature = "wasm")]
    Plugin(plugin::Args),
    /// List, compare and put back what was in force in a running gateway.
    Generations(generations::Args),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Mock(args) => mock::run(args),
        Command::Schema => schema::run(),
        Command::Cache(args) => cache::run(args),
        Command::Test(args) => test::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Script(args) => script::run(args),
        Command::Key(args) => key::run(args),
        #[cfg(feature = "wasm")]
        Command::Plugin(args) => plugin::run(args),
        Command::Generations(args) => generations::run(args),
    }
}

/// The file to read: the one named, or the default where it exists, or none.
fn config_path(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()))
}

/// Reads the process's environment for the configuration, which tells a variable that is empty from one that is not set.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The policies' own tests, where the configuration wants them run.
fn smoke(smoke: &Smoke, generation: &Generation) -> Result<(), String> {
    if !generation.hooks_tests {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.map_err(|error| error.to_string())?.block_on(smoke.test(&generation.scripts))
}

/// Diagnostics go to standard error; standard output is the access log's.
fn diagnostics(level: &str) {
    let wanted = std::env::var("PORTCULLIS_LOG").ok().filter(|wanted| !wanted.is_empty());
    // A lone word that is no level would be taken for the name of a module, and silence all others.
    let is_filter = |text: &String| text.contains(['=', ',']) || text.parse::<LevelFilter>().is_ok();
    let filter = wanted.clone().filter(is_filter).and_then(|text| EnvFilter::try_new(text).ok());
    let is_wrong = wanted.is_some() && filter.is_none();
    let filter = filter.unwrap_or_else(|| EnvFilter::new(level));
    // A second call, in tests, leaves the first in place.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if is_wrong {
        tracing::warn!("PORTCULLIS_LOG is no level; write error, warn, info, debug or trace");
    }
}

/// Prints an error and gives the exit status.
#[expect(clippy::print_stderr, reason = "the command's own words to its user")]
fn fail(status: u8, text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(status)
}

/// Prints to standard output. A reader that has seen enough (`head`) closes it, which is no failure.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints beside the output: it may be redirected into a file.
fn hint(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
