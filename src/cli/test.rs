//! `portcullis test`: runs the tests of policies, on the engine they run on in service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{REFUSED, fail, say};
use crate::guest::lua::coverage::Lines;
use crate::trial::{self, Report, Running};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Test files (`*_test.luau`), scripts that have some, or folders that hold some; `scripts` when none is named.
    paths: Vec<PathBuf>,
    /// Only tests whose name holds this text run.
    #[arg(long, short)]
    filter: Option<String>,
    /// Real time that each test may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    timeout: Duration,
    /// Also say which lines of the policies never ran.
    #[arg(long)]
    coverage: bool,
    /// Fail unless so many percent of the lines of every policy ran.
    #[arg(long, value_name = "PERCENT")]
    coverage_at_least: Option<f64>,
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
    let covered = args.coverage || args.coverage_at_least.is_some();
    let mut lines = Lines::new();
    let filter = args.filter.as_deref();
    let running = Running { each: args.timeout, filter, ..Running::default() };
    for file in files {
        let report = if covered {
            let (report, more) = trial::run_covered(&file, running);
            for (label, hits) in more {
                let known = lines.entry(label).or_default();
                hits.into_iter().for_each(|(line, count)| *known.entry(line).or_default() += count);
            }
            report
        } else {
            trial::run(&file, running)
        };
        if filter.is_none() || !report.cases.is_empty() || report.broken.is_some() {
            tell(&report);
        }
        failed += report.failed();
        passed += report.cases.len() - report.cases.iter().filter(|case| case.outcome.is_err()).count();
    }
    let short = covered && !tell_lines(&lines, args.coverage_at_least.unwrap_or(0.0));
    if let Some(filter) = filter.filter(|_| passed + failed == 0) {
        return fail(REFUSED, &format!("no test has `{filter}` in its name"));
    }
    say(&format!("{passed} passed, {failed} failed"));
    if failed == 0 && !short { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says which lines ran. False when it was too few of a file's.
fn tell_lines(lines: &Lines, at_least: f64) -> bool {
    let folder = std::env::current_dir().map(|path| format!("{}/", path.display())).unwrap_or_default();
    say("lines of policies that ran");
    let mut enough = true;
    for (file, hits) in lines.iter().filter(|(_, hits)| !hits.is_empty()) {
        let missed: Vec<usize> = hits.iter().filter(|(_, count)| **count == 0).map(|(line, _)| *line).collect();
        let percent = 100.0 * (hits.len() - missed.len()) as f64 / hits.len() as f64;
        let missed = if missed.is_empty() { String::new() } else { format!("  never: {}", ranges(&missed)) };
        say(&format!("  {percent:5.1} %  {}{missed}", file.strip_prefix(&folder).unwrap_or(file)));
        enough &= percent >= at_least;
    }
    if !enough {
        say(&format!("  too few: each file needs {at_least} %"));
    }
    enough
}

/// Numbers in order, those that follow each other as one range.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let shown = parts.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn tell(report: &Report) {
    say(&format!("{} ({} ms)", report.file.display(), report.took.as_millis()));
    for case in &report.cases {
        match &case.outcome {
            Ok(()) => say(&format!("  ok    {}", case.name)),
            Err(message) => say(&format!("  FAIL  {}\n        {}", case.name, message.replace('\n', "\n        "))),
        }
        for note in &case.notes {
            say(&format!("        {note}"));
        }
    }
    if let Some(broken) = &report.broken {
        say(&format!("  BROKEN  {broken}"));
    }
}
