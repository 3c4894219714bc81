//! The types of policies, made from the tables of views and host functions, and the same tables as an engine has them.

use std::fmt::Write;

use portcullis::guest::view::{self, View};
use portcullis::host::FUNCTIONS;

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
        let _ = writeln!(out, "\t--- {doc}\n\tread {name}: {kind},");
    }
    for (name, kind, doc) in V::METHODS {
        let _ = writeln!(out, "\t--- {doc}\n\tread {name}: {kind},");
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
        "(code: string, message: string, status: number?) -> Verdict",
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

/// A machine is built from the same tables: it fails to load when a row has no function. What is left to hold is that
/// it has no function without a row.
#[test]
fn a_machine_has_what_the_tables_have_and_nothing_else() {
    let mut wanted: Vec<String> = FUNCTIONS.iter().map(|row| row.name.to_owned()).collect();
    wanted.extend(CONSTRUCTORS.iter().map(|(name, _, _)| (*name).to_owned()));
    wanted.sort();
    assert_eq!(portcullis::guest::lua::names().expect("a machine"), wanted);
}
