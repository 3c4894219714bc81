//! `portcullis test`: runs the tests of policies, on the engine they run on in service.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{REFUSED, fail, say};
use crate::trial::{self, Report};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Test files (`*_test.luau`), or folders that hold some; `scripts` when none is named.
    paths: Vec<PathBuf>,
    /// Only tests whose name holds this text are reported on.
    #[arg(long, short)]
    filter: Option<String>,
}

pub(super) fn run(args: Args) -> ExitCode {
    super::diagnostics("error");
    let paths = if args.paths.is_empty() { vec![PathBuf::from("scripts")] } else { args.paths };
    let files = match trial::files(&paths) {
        Ok(files) if files.is_empty() => return fail(REFUSED, "no `*_test.luau` is there"),
        Ok(files) => files,
        Err(error) => return fail(REFUSED, &error),
    };
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let report = trial::run(&file);
        tell(&report, args.filter.as_deref());
        failed += report.failed();
        passed += report.cases.len() - report.cases.iter().filter(|case| case.outcome.is_err()).count();
    }
    say(&format!("{passed} passed, {failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(report: &Report, filter: Option<&str>) {
    say(&format!("{} ({} ms)", report.file.display(), report.took.as_millis()));
    for case in &report.cases {
        if filter.is_some_and(|filter| !case.name.contains(filter)) {
            continue;
        }
        match &case.outcome {
            Ok(()) => say(&format!("  ok    {}", case.name)),
            Err(message) => say(&format!("  FAIL  {}\n        {}", case.name, message.replace('\n', "\n        "))),
        }
    }
    if let Some(broken) = &report.broken {
        say(&format!("  BROKEN  {broken}"));
    }
}
