//! `portcullis cache eval`: how often a threshold gives a right answer again, and how often a wrong one.
//!
//! Works on a file of pairs and a static table alone; asks nobody.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use crate::cache::embedder::Table;
use crate::cache::guard;

/// Thresholds that are shown beside the one that was asked for.
const THRESHOLDS: &[f32] = &[0.80, 0.85, 0.90, 0.92, 0.95, 0.97, 0.99];

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hit and false-hit rates of the semantic cache on a file of pairs: one JSON object a line,
    /// {"a": text, "b": text, "same": whether one answer does for both}.
    Eval {
        /// The file of pairs.
        file: PathBuf,
        /// Folder of the static table: model.safetensors, tokenizer.json, config.json.
        #[arg(long)]
        path: PathBuf,
    },
}

#[derive(Deserialize)]
struct Pair {
    a: String,
    b: String,
    same: bool,
}

/// A pair as the cache sees it.
struct Judged {
    likeness: f32,
    guarded: bool,
    same: bool,
}

pub fn run(args: Args) -> ExitCode {
    let Command::Eval { file, path } = args.command;
    match eval(&file, &path) {
        Ok(text) => {
            super::say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(why) => super::fail(super::REFUSED, &format!("portcullis cache eval: {why}")),
    }
}

fn eval(file: &std::path::Path, folder: &std::path::Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let table = Table::open(folder)?;
    let mut judged = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let pair: Pair = serde_json::from_str(line).map_err(|error| {
            format!("{}:{}: {error}; write {{\"a\": text, \"b\": text, \"same\": true}}", file.display(), number + 1)
        })?;
        judged.push(Judged {
            likeness: likeness(&table, &pair),
            guarded: !guard::of(&pair.a).agrees(&guard::of(&pair.b)),
            same: pair.same,
        });
    }
    if judged.is_empty() {
        return Err(format!("{} holds no pair", file.display()));
    }
    Ok(report(&judged))
}

fn likeness(table: &Table, pair: &Pair) -> f32 {
    match (table.embed(&pair.a), table.embed(&pair.b)) {
        (Some(a), Some(b)) => a.iter().zip(&b).map(|(a, b)| a * b).sum(),
        _ => 0.0,
    }
}

fn report(judged: &[Judged]) -> String {
    let of = |same: bool| judged.iter().filter(|one| one.same == same).count();
    let mut text = format!("{} pairs: {} ask for the same, {} do not\n\n", judged.len(), of(true), of(false));
    text.push_str("threshold   hits  false hits   with guard: hits  false hits\n");
    for threshold in THRESHOLDS {
        let rate = |same: bool, guard: bool| {
            let hits =
                judged.iter().filter(|one| one.same == same && one.likeness >= *threshold && !(guard && one.guarded));
            100.0 * hits.count() as f64 / of(same).max(1) as f64
        };
        text.push_str(&format!(
            "{threshold:>9.2} {:>5.1}% {:>10.1}% {:>17.1}% {:>10.1}%\n",
            rate(true, false),
            rate(false, false),
            rate(true, true),
            rate(false, true)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_those_who_should_hit_and_of_those_who_should_not() {
        let judged = [(0.96, false, true), (0.86, false, true), (0.97, true, false), (0.5, false, false)]
            .map(|(likeness, guarded, same)| Judged { likeness, guarded, same });
        let text = report(&judged);
        let line = text.lines().find(|line| line.trim_start().starts_with("0.95")).expect("a line");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["0.95", "50.0%", "50.0%", "50.0%", "0.0%"]);
        assert!(text.starts_with("4 pairs: 2 ask for the same, 2 do not"));
    }
}
