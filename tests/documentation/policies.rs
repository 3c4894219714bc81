//! The types of policies, made from the tables of views and host functions, and the same tables as an engine has them.

use std::fmt::Write;

use portcullis::guest::view::{self, View};
use portcullis::host::{FUNCTIONS, Phase, Phases};

use super::{read, root};

/// Compares what stands between two comments of the types with what should, or writes it.
fn assert_block(name: &str, block: &str) {
    let file = "scripts/gw.d.luau";
    let text = read(file);
    let (begin, end) = (format!("-- {name}: begin\n"), format!("-- {name}: end\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{file} has no `{begin}`"));
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no `{end}`"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join(file), format!("{before}{begin}{block}{end}{after}")).expect("is writable");
        return;
    }
    assert!(written == block, "{file}: the block `{name}` is stale: run the tests with UPDATE_DOCS=1");
}

fn view<V: View>(out: &mut String) {
    let _ = writeln!(out, "\n--- {}\nexport type {} = {{", V::DOC, V::NAME);
    for (name, kind, doc) in V::FIELDS {
        let _ = writeln!(out, "\t--- {doc}\n\t{name}: {kind},");
    }
    for (name, kind, doc) in V::METHODS {
        let _ = writeln!(out, "\t--- {doc}\n\t{name}: {kind},");
    }
    out.push_str("}\n");
}

#[test]
fn the_types_of_views_are_fresh() {
    let mut out = String::new();
    view::<view::Head>(&mut out);
    view::<view::Request>(&mut out);
    view::<view::Try>(&mut out);
    view::<view::Failure>(&mut out);
    view::<view::Answer>(&mut out);
    view::<view::Event>(&mut out);
    view::<view::Done>(&mut out);
    out.push('\n');
    assert_block("views from src/guest/view.rs", &out);
}

/// What makes verdicts, and what stands for null: every engine's own, and no host function.
const CONSTRUCTORS: &[(&str, &str, &str)] = &[
    ("config", "any", "The settings of the hook, checked against the manifest's schema. Read-only."),
    ("null", "any", "A null of JSON. It is not nil, and true in a condition."),
    (
        "respond",
        "(status: number, body: any, headers: { [string]: string }?) -> Verdict",
        "Answers with a body as it stands: a text, or a table as JSON.",
    ),
    (
        "say",
        "(text: string) -> Verdict",
        "Answers as if the model had said this, in the caller's dialect, streamed where a stream was asked for.",
    ),
    (
        "reject",
        "(code: string, message: string, status: number?, retry_after_ms: number?) -> Verdict",
        "Refuses, as an error of the caller's dialect; 403 when no status is given.",
    ),
    ("same", "(after_ms: number?) -> Verdict", "on_fault: asks the same target again after a while."),
    ("stop", "(stop: Stop?) -> Verdict", "on_event: ends the stream. on_fault: tries nothing more."),
    ("fault", "(message: string?) -> Verdict", "on_answer: treats the answer as a failed try; the plan goes on."),
    ("drop", "() -> Verdict", "on_event: the text does not go out."),
];

#[test]
fn the_types_of_functions_are_fresh() {
    let mut out = "declare gw: {\n".to_owned();
    for (name, kind, doc) in CONSTRUCTORS {
        let _ = writeln!(out, "\t--- {doc}\n\t{name}: {kind},");
    }
    let mut module = "";
    for row in FUNCTIONS {
        let (of, name) = row.name.split_once('.').expect("a module and a name");
        if of != module {
            if !module.is_empty() {
                out.push_str("\t},\n");
            }
            let _ = writeln!(out, "\t{of}: {{");
            module = of;
        }
        let waits = if row.awaits { " Waits." } else { "" };
        let grant = row.grant.map(|grant| format!(" Needs `grants.{grant}`.")).unwrap_or_default();
        let _ = writeln!(out, "\t\t--- {}{waits}{grant} In {}.\n\t\t{name}: {},", row.doc, row.phases, row.luau);
    }
    out.push_str("\t},\n}\n");
    assert_block("functions from src/host/table.rs", &out);
}

/// When each hook is called and what happens where it fails; whether it may wait is the phase's own word.
const HOOKS: &[(Phase, &str, &str, &str)] = &[
    (Phase::Init, "config", "once a machine, when a policy is loaded", "the load is refused, what was in force stays"),
    (Phase::Auth, "head, ctx", "with the head of a request, before the keys are looked at", "refused"),
    (Phase::Request, "req, ctx", "once it is known who asks for what", "a guard refuses, others are passed by"),
    (
        Phase::Route,
        "req, ctx",
        "with the plan made, also where no target of the model takes the request",
        "a guard refuses, else the plan stands",
    ),
    (
        Phase::Attempt,
        "try, ctx",
        "before each try of a target, what goes on after a cut and the copy for a mirror among them",
        "a guard refuses, else it goes as it was",
    ),
    (
        Phase::Fault,
        "failure, ctx",
        "after each failed try, and where no target takes the request",
        "a guard refuses, else the plan goes on",
    ),
    (
        Phase::Answer,
        "answer, ctx",
        "before the answer goes out: whole, or a stream's head",
        "a guard refuses, else it goes as it was",
    ),
    (
        Phase::Event,
        "event, ctx",
        "for text of a stream, and for arguments of tools if the manifest says so, with a stream mode in it",
        "a guard ends the stream",
    ),
    (Phase::Done, "done, ctx", "at the end, once, also when the caller has gone", "nothing"),
    (Phase::Tick, "ctx", "every `tick` of the manifest, on one worker", "nothing"),
];

#[test]
fn the_table_of_hooks_is_fresh() {
    let mut table = "| hook | called | may wait | where it fails, `fail: default` |\n|---|---|---|---|\n".to_owned();
    assert!(HOOKS.iter().map(|row| row.0).eq(Phase::ALL), "a phase is missing");
    for (phase, arguments, called, fails) in HOOKS {
        let waits = if phase.awaits() { "yes" } else { "" };
        let _ = writeln!(table, "| `on_{}({arguments})` | {called} | {waits} | {fails} |", phase.name());
    }
    super::assert_block("scripts/README.md", "hooks from src/host/phase.rs", &table);
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn view_rows<V: View>(out: &mut String) {
    let _ = writeln!(out, "\n### {}\n\n{}\n\n| | type | |\n|---|---|---|", V::NAME, V::DOC);
    for (name, kind, doc) in V::FIELDS {
        let _ = writeln!(out, "| `.{name}` | `{}` | {} |", cell(kind), cell(doc));
    }
    for (name, kind, doc) in V::METHODS {
        // Without the receiver, as it is called.
        let kind = kind.replace(&format!("self: {}, ", V::NAME), "").replace(&format!("self: {}", V::NAME), "");
        let _ = writeln!(out, "| `:{name}` | `{}` | {} |", cell(&kind), cell(doc));
    }
}

#[test]
fn the_reference_of_policies_is_fresh() {
    let mut out = "### gw\n\n| | type | | in |\n|---|---|---|---|\n".to_owned();
    for (name, kind, doc) in CONSTRUCTORS {
        let _ = writeln!(out, "| `gw.{name}` | `{}` | {} | |", cell(kind), cell(doc));
    }
    for row in FUNCTIONS {
        let waits = if row.awaits { " Waits." } else { "" };
        let grant = row.grant.map(|grant| format!(" Needs `grants.{grant}`.")).unwrap_or_default();
        let phases = match row.phases {
            Phases::ALL => "everywhere".to_owned(),
            Phases::LIVE => "everywhere but `on_init`".to_owned(),
            phases => format!("`{}`", phases.to_string().replace(", ", "`, `")),
        };
        let kind = cell(row.luau);
        let _ = writeln!(out, "| `gw.{}` | `{kind}` | {}{waits}{grant} | {phases} |", row.name, cell(row.doc));
    }
    view_rows::<view::Head>(&mut out);
    view_rows::<view::Request>(&mut out);
    view_rows::<view::Try>(&mut out);
    view_rows::<view::Failure>(&mut out);
    view_rows::<view::Answer>(&mut out);
    view_rows::<view::Event>(&mut out);
    view_rows::<view::Done>(&mut out);
    // What hooks return and what functions give and take, as the types say it.
    let types = read("scripts/gw.d.luau");
    let from = types.find("-- ---- What hooks return").expect("its first part");
    let to = types.find("-- ---- What hooks are shown").expect("its last part");
    let _ = write!(out, "\n### Types\n\n```luau\n{}\n```\n", types[from..to].trim_end());
    super::assert_block("scripts/README.md", "reference from src/host/table.rs and src/guest/view.rs", &out);
}

/// Everything that authors copy: what is shipped, what `script new` writes, and what stands in the guide.
fn examples() -> Vec<(String, String)> {
    let inside =
        |folder: &str| std::fs::read_dir(root().join(folder)).expect("a folder").flatten().map(|entry| entry.path());
    let files = inside("scripts").map(|folder| folder.join("main.luau")).chain(inside("src/cli/script"));
    let files = files.filter(|path| path.is_file() && !path.to_string_lossy().ends_with("_test.luau"));
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "luau"));
    let mut all: Vec<(String, String)> =
        files.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("is readable"))).collect();
    let lax = all.iter().find(|(_, text)| !text.starts_with("--!strict\n"));
    assert!(lax.is_none(), "{} is not strict", lax.map_or("", |(name, _)| name));
    let guide = read("scripts/README.md");
    let blocks = guide.split("```lua\n-- scripts/").skip(1).filter_map(|block| block.split_once('\n'));
    let blocks = blocks.filter(|(_, text)| text.starts_with("--!strict\n"));
    all.extend(blocks.map(|(name, text)| (name.to_owned(), text.split("\n```").next().expect("an end").to_owned())));
    all
}

/// Without its result a hook has the type of its first `return`, and a checker of types refuses the next.
#[test]
fn every_hook_of_a_strict_example_names_its_result() {
    let types = read("scripts/gw.d.luau");
    let mut count = 0;
    for (name, text) in examples() {
        for phase in Phase::ALL {
            let begin = format!("function on_{}(", phase.name());
            let end = match phase {
                Phase::Init => "(config: any)".to_owned(),
                Phase::Tick => "(ctx: Ctx)".to_owned(),
                phase => {
                    let (first, rest) = phase.name().split_at(1);
                    let result = format!("{}{rest}Result", first.to_uppercase());
                    assert!(types.contains(&format!("export type {result} = ")), "gw.d.luau has no {result}");
                    format!("ctx: Ctx): {result}")
                }
            };
            for line in text.lines().filter(|line| line.starts_with(&begin)) {
                assert!(line.ends_with(&end), "{name}: `{line}` has to end with `{end}`");
                count += 1;
            }
        }
    }
    assert!(count >= 45, "only {count} hooks were found");
}

/// A machine is built from the same tables: it fails to load when a row has no function. What is left to hold is that
/// it has no function without a row.
#[test]
fn a_machine_has_what_the_tables_have_and_nothing_else() {
    let mut wanted: Vec<String> = FUNCTIONS.iter().map(|row| row.name.to_owned()).collect();
    wanted.extend(CONSTRUCTORS.iter().map(|(name, _, _)| (*name).to_owned()));
    wanted.sort();
    assert_eq!(portcullis::guest::lua::names().expect("a machine"), wanted);
}
