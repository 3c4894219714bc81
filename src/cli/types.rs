//! The types of policies, by a checker that is at hand: `luau-lsp`, or `luau-analyze`.
//!
//! Runs what the operator has installed, on copies in a folder of its own; never on a request's behalf, and never in
//! `serve`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::guest::Bundle;

/// The types of everything that a policy sees and calls.
const TYPES: &str = include_str!("../../scripts/gw.d.luau");
const TYPES_FILE: &str = "gw.d.luau";

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
type Checker = fn(&Path, &Path, &mut [Source]) -> Found;

/// Checks every script, whose places do not matter here.
pub(super) fn check(scripts: &[(String, Arc<Bundle>)]) -> Found {
    if !scripts.iter().any(|(_, bundle)| bundle.main.label.ends_with(".luau")) {
        return Found::Nothing;
    }
    let checkers = [("luau-lsp", lsp as Checker), ("luau-analyze", analyze)];
    let found = checkers.into_iter().find_map(|(name, check)| Some((on_path(name)?, check)));
    let Some((program, check)) = found else { return Found::NoChecker };
    let room = std::env::temp_dir().join(format!("portcullis-types-{}", std::process::id()));
    let mut sources = match copy(scripts, &room) {
        Ok(sources) => sources,
        Err(error) => return Found::Unclear(format!("{}: {error}", room.display())),
    };
    let found = check(&program, &room, &mut sources);
    let _ = fs::remove_dir_all(&room);
    found
}

/// A source under its own name, and its copy.
struct Source {
    label: String,
    text: String,
    copy: PathBuf,
    /// Lines that stand before the source in its copy.
    above: usize,
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Copies every source once: as they were read, whatever lies on disk by now. Only what `require` is given is another: a
/// checker takes paths, and the copies have names of their own.
fn copy(scripts: &[(String, Arc<Bundle>)], room: &Path) -> std::io::Result<Vec<Source>> {
    fs::create_dir_all(room)?;
    // Plugins have no source here.
    let is_script = |label: &str| label.ends_with(".luau") || label.ends_with(".lua");
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sources: Vec<Source> = Vec::new();
    for (_, bundle) in scripts {
        let files = || std::iter::once(&bundle.main).chain(bundle.modules.values());
        let fresh: Vec<_> =
            files().filter(|file| is_script(&file.label) && !numbers.contains_key(&*file.label)).collect();
        for (file, number) in fresh.iter().zip(sources.len()..) {
            numbers.insert(&file.label, number);
        }
        let module = |name: &str| numbers.get(&*bundle.modules.get(name)?.label).copied();
        for file in fresh {
            let copy = room.join(format!("{}.luau", sources.len()));
            let text = linked(&file.text, module);
            fs::write(&copy, &text)?;
            sources.push(Source { label: file.label.clone(), text, copy, above: 0 });
        }
    }
    Ok(sources)
}

/// The text with `require("name")` of a module as `require("./3")` of its copy; what follows keeps its column where it can.
fn linked(text: &str, module: impl Fn(&str) -> Option<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("require") {
        let (before, after) = rest.split_at(at + "require".len());
        out.push_str(before);
        rest = after;
        let literal = after.trim_start_matches([' ', '\t', '(']);
        let Some(quote) = literal.chars().next().filter(|quote| matches!(quote, '"' | '\'')) else { continue };
        let Some((name, behind)) = literal[1..].split_once(quote) else { continue };
        // Names are taken as `require` itself takes them.
        let Some(number) = module(name.trim_start_matches("./").trim_end_matches(".luau")) else { continue };
        out.push_str(&after[..after.len() - literal.len()]);
        let path = format!("{quote}./{number}{quote}");
        out.push_str(&format!("{path:<width$}", width = name.chars().count() + 2));
        rest = behind;
    }
    out + rest
}

fn lsp(program: &Path, room: &Path, sources: &mut [Source]) -> Found {
    let types = room.join(TYPES_FILE);
    if let Err(error) = fs::write(&types, TYPES) {
        return Found::Unclear(error.to_string());
    }
    let mut command = Command::new(program);
    command.args(["analyze", "--platform=standard"]).arg(format!("--definitions={}", types.display()));
    run(command, sources)
}

/// `luau-analyze` reads no definitions: they are put in front of each source, as a module could have them.
fn analyze(program: &Path, _: &Path, sources: &mut [Source]) -> Found {
    let types = TYPES.replace("declare gw: {", "local gw: {").trim_end().to_owned() + " = nil :: any\n";
    for source in sources.iter_mut() {
        // A directive such as `--!strict` counts before the first word of the code only.
        let mut before: String = directives(&source.text).flat_map(|line| [line, "\n"]).collect();
        before += &own_types(&source.text).fold(types.clone(), |types, name| renamed(&types, name));
        if let Err(error) = fs::write(&source.copy, format!("{before}{}", source.text)) {
            return Found::Unclear(error.to_string());
        }
        source.above = before.lines().count();
    }
    run(Command::new(program), sources)
}

/// The directives among the comments with which a text begins.
fn directives(text: &str) -> impl Iterator<Item = &str> {
    let mut long = false;
    let comments = text.lines().map(str::trim).take_while(move |line| {
        let begins = line.starts_with("--[[");
        let comment = long || line.is_empty() || line.starts_with("--");
        long = (long || begins) && !line.contains("]]");
        comment
    });
    comments.filter(|line| line.starts_with("--!"))
}

/// Names of the types that a source declares itself.
fn own_types(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let name = line.strip_prefix("export ").unwrap_or(line).trim_start().strip_prefix("type ")?.trim_start();
        let end = name.find(|letter: char| !is_of_name(letter)).unwrap_or(name.len());
        Some(&name[..end]).filter(|name| !name.is_empty())
    })
}

/// The types with one under another name: a source may have its own of that name, and two would be an error where both
/// stand in a file.
fn renamed(types: &str, name: &str) -> String {
    let mut out = String::with_capacity(types.len());
    let mut rest = types;
    while let Some(at) = rest.find(name) {
        let (before, after) = rest.split_at(at);
        let (word, behind) = after.split_at(name.len());
        out.push_str(before);
        out.push_str(word);
        if !before.ends_with(is_of_name) && !behind.starts_with(is_of_name) {
            out.push('_');
        }
        rest = behind;
    }
    out + rest
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn run(mut command: Command, sources: &[Source]) -> Found {
    command.args(sources.iter().map(|source| &source.copy));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Found::Unclear(format!("{}: {error}", command.get_program().display())),
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match read(&text, sources) {
        // Lints alone end with a failure too, and are the author's affair.
        Found::Nothing if !output.status.success() && !text.contains("): ") => {
            Found::Unclear(text.lines().next().unwrap_or("it failed and said nothing").to_owned())
        }
        found => found,
    }
}

/// Reads `FILE(LINE,COLUMN): KIND: MESSAGE`, where a message may go on in the lines below.
fn read(text: &str, sources: &[Source]) -> Found {
    let mut wrong: Vec<String> = Vec::new();
    // Whether the lines that follow belong to the last of these.
    let mut goes_on = false;
    for line in text.lines() {
        let Some((source, row, column, message)) = place(line, sources) else {
            // A definitions file has no place in what luau-lsp says of it.
            if line.split_once(": ").is_some_and(|(file, _)| file.ends_with(TYPES_FILE)) {
                return Found::Unclear(line.to_owned());
            }
            if let Some(last) = wrong.last_mut().filter(|_| goes_on) {
                last.push('\n');
                last.push_str(line);
            }
            continue;
        };
        goes_on = message.starts_with("TypeError") || message.starts_with("SyntaxError");
        if goes_on {
            // An error of the types says nothing of who uses them.
            let Some(row) = row.checked_sub(source.above).filter(|row| *row > 0) else {
                return Found::Unclear(format!("{TYPES_FILE}: {message}"));
            };
            wrong.push(format!("{}:{row}:{column}: {message}", source.label));
        }
    }
    // Some are said twice.
    let mut known = HashSet::new();
    wrong.retain(|error| known.insert(error.clone()));
    if wrong.is_empty() { Found::Nothing } else { Found::Wrong(wrong.join("\n")) }
}

/// The source, line and column that a line of the checker's begins with, and its message.
fn place<'a, 'b>(line: &'a str, sources: &'b [Source]) -> Option<(&'b Source, usize, &'a str, &'a str)> {
    let (place, message) = line.split_once("): ")?;
    let (file, place) = place.rsplit_once('(')?;
    let (row, column) = place.split_once(',')?;
    let name = Path::new(file).file_name()?;
    let source = sources.iter().find(|source| source.copy.file_name() == Some(name))?;
    Some((source, row.parse().ok()?, column, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(label: &str, copy: &str, above: usize) -> Source {
        Source { label: label.to_owned(), text: String::new(), copy: copy.into(), above }
    }

    #[test]
    fn a_message_keeps_the_lines_that_it_goes_on_in_and_comes_once() {
        let sources = [source("p.luau", "/room/x/0.luau", 10), source("q.luau", "/room/x/1.luau", 11)];
        let said = "/room/x/1.luau(12,3): LocalUnused: a lint\n/room/x/0.luau(13,9): TypeError: Expected this to be\n\t'string?'\n\
                    but got\n\t'number'\n/room/x/0.luau(14,1): FunctionUnused: a lint\nof two lines\n\
                    ../x/1.luau(13,1): SyntaxError: no end\n../x/1.luau(13,1): SyntaxError: no end\n";
        let Found::Wrong(errors) = read(said, &sources) else { panic!("two errors") };
        let wanted = "p.luau:3:9: TypeError: Expected this to be\n\t'string?'\nbut got\n\t'number'\nq.luau:2:1: SyntaxError: no end";
        assert_eq!(errors, wanted);
        assert!(matches!(read("/room/x/0.luau(14,1): FunctionUnused: a lint\n", &sources), Found::Nothing));
    }

    #[test]
    fn an_error_of_the_types_themselves_accuses_nobody() {
        let sources = [source("p.luau", "/room/x/0.luau", 10)];
        for said in ["/room/x/0.luau(10,1): SyntaxError: what is `read`?\n", "/room/x/gw.d.luau: what is `read`?\n"] {
            let said = format!("{said}/room/x/0.luau(12,1): TypeError: Unknown type 'Request'\n");
            let Found::Unclear(why) = read(&said, &sources) else { panic!("not clear") };
            assert!(why.contains("gw.d.luau: ") && why.ends_with("what is `read`?"), "{why}");
        }
    }

    #[test]
    fn modules_are_required_by_the_names_of_their_copies() {
        let module = |name: &str| [("patterns", 3), ("x", 12)].into_iter().find(|row| row.0 == name).map(|row| row.1);
        let text = "local a = require(\"patterns\") -- require it\nlocal b = require './patterns.luau'\nlocal c = require(\"x\")\nrequire(\"y\")";
        let wanted = "local a = require(\"./3\"     ) -- require it\nlocal b = require './3'            \nlocal c = require(\"./12\")\nrequire(\"y\")";
        assert_eq!(linked(text, module), wanted);
    }

    #[test]
    fn directives_may_stand_after_other_comments_and_before_code_only() {
        let text = "-- scripts/p.luau\n--!strict\n--[[manifest\ntype = 1\n]]\n\n--!nolint\nlocal a = 1\n--!nocheck\n";
        assert_eq!(directives(text).collect::<Vec<_>>(), ["--!strict", "--!nolint"]);
        assert_eq!(directives("local a\n--!strict\n").count(), 0);
    }

    #[test]
    fn a_source_may_have_a_type_of_a_name_that_the_gateway_uses() {
        let text = "type Step = { above: number }\nexport type Own<T> = T\nlocal type = 1\n";
        assert_eq!(own_types(text).collect::<Vec<_>>(), ["Step", "Own"]);
        let types = "type Step = { a: string }\ntype Steps = { Step }\ntype First_Step = Step?\n";
        let wanted = "type Step_ = { a: string }\ntype Steps = { Step_ }\ntype First_Step = Step_?\n";
        assert_eq!(renamed(types, "Step"), wanted);
        assert_eq!(renamed(TYPES, "Step").lines().count(), TYPES.lines().count());
    }
}
