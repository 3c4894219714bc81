//! `portcullis check`: every error of a configuration at once; with `--print`, what it comes to.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{REFUSED, config_path, env, fail, hint, say, types};
use crate::config;
use crate::generation::Builder;
use crate::trial::smoke::Smoke;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The file; `config/portcullis.yaml` when it is not named.
    file: Option<PathBuf>,
    /// Print the configuration in force: every default visible, every secret masked.
    #[arg(long)]
    print: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let path = config_path(args.file);
    let builder = Builder::new(path.clone(), Box::new(env));
    let loaded = match builder.load() {
        Ok(loaded) => loaded,
        Err(errors) => return fail(REFUSED, &errors),
    };
    // Building finds what reading cannot: certificates, price files, addresses. Then come the policies' own tests and types.
    let generation = match builder.build(1) {
        Ok(generation) => generation,
        Err(errors) => return fail(REFUSED, &errors),
    };
    if let Err(errors) = super::smoke(&Smoke::default(), &generation) {
        return fail(REFUSED, &errors);
    }
    match types::check(&generation.scripts) {
        types::Found::Nothing => {}
        types::Found::NoChecker => hint(types::NO_CHECKER),
        types::Found::Wrong(errors) => return fail(REFUSED, &errors),
        types::Found::Unclear(why) => hint(&format!("warning: the types of policies were not checked: {why}")),
    }
    for warning in &generation.warnings {
        hint(&format!("warning: {warning}"));
    }
    if args.print {
        say(&config::print(&loaded.config));
        return ExitCode::SUCCESS;
    }
    let source = path.map_or_else(|| "the built-in configuration".to_owned(), |path| path.display().to_string());
    let live: Vec<&str> = generation.routes.providers.iter().map(|provider| provider.name.as_str()).collect();
    say(&format!("{source}: ok; live providers: {}", live.join(", ")));
    ExitCode::SUCCESS
}
