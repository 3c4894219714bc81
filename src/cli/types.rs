//! The types of policies, by a checker that is at hand: `luau-lsp`, or `luau-analyze`.
//!
//! Runs what the operator has installed, on copies in a folder of its own; never on a request's behalf, and never in
//! `serve`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::guest::Bundle;

/// The types of everything that a policy sees and calls.
const TYPES: &str = include_str!("../../scripts/gw.d.luau");

/// What is said when there is none.
pub(super) const NO_CHECKER: &str = "note: neither luau-lsp nor luau-analyze is on PATH, so the types of policies were not checked; they were compiled and loaded";

/// What came of it.
pub(super) enum Found {
    Nothing,
    NoChecker,
    /// What is wrong, a line each: file, line, column.
    Wrong(String),
    /// The checker was there and said nothing that can be read.
    Unclear(String),
}

/// Runs a checker, whose program is given, in a folder, on sources.
type Checker = fn(&Path, &Path, &[Source]) -> Found;

/// Checks every script, whose places do not matter here.
pub(super) fn check(scripts: &[(String, Arc<Bundle>)]) -> Found {
    if !scripts.iter().any(|(_, bundle)| bundle.main.label.ends_with(".luau")) {
        return Found::Nothing;
    }
    let checkers = [("luau-lsp", lsp as Checker), ("luau-analyze", analyze)];
    let found = checkers.into_iter().find_map(|(name, check)| Some((on_path(name)?, check)));
    let Some((program, check)) = found else { return Found::NoChecker };
    let room = std::env::temp_dir().join(format!("portcullis-types-{}", std::process::id()));
    let sources = match copy(scripts, &room) {
        Ok(sources) => sources,
        Err(error) => return Found::Unclear(format!("{}: {error}", room.display())),
    };
    let found = check(&program, &room, &sources);
    let _ = fs::remove_dir_all(&room);
    found
}

/// A source under its own name, and its copy.
struct Source {
    label: String,
    text: String,
    copy: PathBuf,
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Copies every source once: as they were read, whatever lies on disk by now.
fn copy(scripts: &[(String, Arc<Bundle>)], room: &Path) -> std::io::Result<Vec<Source>> {
    fs::create_dir_all(room)?;
    let mut sources: Vec<Source> = Vec::new();
    for (_, bundle) in scripts {
        for source in std::iter::once(&bundle.main).chain(bundle.modules.values()) {
            // Plugins have no source here.
            let is_script = source.label.ends_with(".luau") || source.label.ends_with(".lua");
            if !is_script || sources.iter().any(|known| known.label == source.label) {
                continue;
            }
            let copy = room.join(format!("{}.luau", sources.len()));
            fs::write(&copy, &source.text)?;
            sources.push(Source { label: source.label.clone(), text: source.text.clone(), copy });
        }
    }
    Ok(sources)
}

fn lsp(program: &Path, room: &Path, sources: &[Source]) -> Found {
    let types = room.join("gw.d.luau");
    if let Err(error) = fs::write(&types, TYPES) {
        return Found::Unclear(error.to_string());
    }
    let mut command = Command::new(program);
    command.arg("analyze").arg(format!("--definitions={}", types.display()));
    command.args(sources.iter().map(|source| &source.copy));
    run(command, sources, 0)
}

/// `luau-analyze` reads no definitions: they are put in front of each source, as a module could have them.
fn analyze(program: &Path, _: &Path, sources: &[Source]) -> Found {
    let types = TYPES.replace("declare gw: {", "local gw: {").trim_end().to_owned() + " = nil :: any\n";
    for source in sources {
        // A directive such as `--!strict` counts on the first line only.
        let mode = source.text.lines().next().filter(|line| line.starts_with("--!")).unwrap_or("--!nonstrict");
        if let Err(error) = fs::write(&source.copy, format!("{mode}\n{types}{}", source.text)) {
            return Found::Unclear(error.to_string());
        }
    }
    let mut command = Command::new(program);
    command.args(sources.iter().map(|source| &source.copy));
    run(command, sources, types.lines().count() + 1)
}

/// Reads `FILE(LINE,COLUMN): KIND: MESSAGE`; `above` lines stand in front of each source.
fn run(mut command: Command, sources: &[Source], above: usize) -> Found {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Found::Unclear(format!("{}: {error}", command.get_program().display())),
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let wrong: Vec<String> = text.lines().filter_map(|line| error(line, sources, above)).collect();
    match wrong.is_empty() {
        false => Found::Wrong(wrong.join("\n")),
        true if output.status.success() => Found::Nothing,
        // Lints alone end with a failure too, and are the author's affair.
        true if text.lines().any(|line| line.contains("): ")) => Found::Nothing,
        true => Found::Unclear(text.lines().next().unwrap_or("it failed and said nothing").to_owned()),
    }
}

/// An error of types or syntax, under the source's own name.
fn error(line: &str, sources: &[Source], above: usize) -> Option<String> {
    let (place, message) = line.split_once("): ")?;
    if !message.starts_with("TypeError") && !message.starts_with("SyntaxError") {
        return None;
    }
    let (file, place) = place.rsplit_once('(')?;
    let (row, column) = place.split_once(',')?;
    let row = row.parse::<usize>().ok()?.checked_sub(above).filter(|row| *row > 0)?;
    let name = Path::new(file).file_name()?;
    let source = sources.iter().find(|source| source.copy.file_name() == Some(name))?;
    Some(format!("{}:{row}:{column}: {message}", source.label))
}
