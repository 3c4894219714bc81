//! Holds the documentation to the code: tables that come from it are fresh, what it lists is all there is, and links
//! lead somewhere. `UPDATE_DOCS=1` writes the tables anew.

#[path = "documentation/dialects.rs"]
mod dialects;
#[path = "documentation/plugins.rs"]
mod plugins;
#[path = "documentation/policies.rs"]
mod policies;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::api::ENDPOINTS;
use portcullis::dialect::DIALECTS;
use portcullis::fault::{FAULTS, Retry};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Compares what stands between two marks of a file with what should, or writes it.
fn assert_block(file: &str, name: &str, block: &str) {
    let text = read(file);
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{file} has no `{begin}`"));
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no `{end}`"));
    let wanted = format!("\n{block}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(file), format!("{before}{begin}{wanted}{end}{after}")).expect("is writable");
        return;
    }
    assert!(written == wanted, "{file}: the block `{name}` is stale: run the tests with UPDATE_DOCS=1");
}

#[test]
fn the_table_of_errors_is_fresh() {
    let mut table = "| code | status | `type` for OpenAI, Anthropic; `status` for Gemini | fallback | what to do |\n\
                     |---|---|---|---|---|\n"
        .to_owned();
    for row in FAULTS {
        let fallback = if row.retry == Retry::Never { "" } else { "yes" };
        let words = format!("`{}`, `{}`; `{}`", row.openai, row.anthropic, row.gemini);
        let _ = writeln!(table, "| `{}` | {} | {words} | {fallback} | {} |", row.code, row.status, row.advice);
    }
    assert_block("README.md", "errors from src/fault.rs", &table);
}

#[test]
fn the_table_of_paths_is_fresh() {
    let mut table = "| path | methods | for |\n|---|---|---|\n".to_owned();
    for endpoint in ENDPOINTS {
        let methods: Vec<&str> = endpoint.methods.iter().map(|method| method.as_str()).collect();
        let open = matches!(endpoint.serve, portcullis::api::Serve::Open(_));
        let of = match endpoint.dialect {
            "" if open => "everybody, without a key",
            "" => "callers of any dialect",
            dialect => dialect,
        };
        let path = endpoint.path.replace("{*model}", "{model}");
        let verb = if matches!(endpoint.serve, portcullis::api::Serve::Verb) { ":{verb}" } else { "" };
        let _ = writeln!(table, "| `{path}{verb}` | {} | {of} |", methods.join(", "));
    }
    assert_block("README.md", "paths from src/api.rs", &table);
}

/// The names after a mark in a source file, such as `register!("`.
fn names_in(file: &str, mark: &str) -> Vec<String> {
    let text = read(file);
    let names = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_metric_header_and_log_field_is_explained() {
    let readme = read("README.md");
    let metrics = names_in("src/state/metrics.rs", "register!(\"");
    assert!(metrics.len() >= 10, "{metrics:?}");
    let headers: Vec<String> =
        names_in("src/reply.rs", "from_static(\"").into_iter().filter(|name| name.starts_with("x-")).collect();
    assert!(headers.len() >= 8, "{headers:?}");
    let fields: Vec<String> = ["with", "word", "text", "text_or_null", "optional", "flag", "number", "json"]
        .iter()
        .flat_map(|call| names_in("src/state/log/line.rs", &format!("record.{call}(name!(\"")))
        .collect();
    assert!(fields.len() >= 25, "{fields:?}");
    let all = metrics.iter().chain(&headers).chain(&fields).map(String::as_str);
    let missing: Vec<&str> = all.filter(|name| !readme.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "README.md says nothing of {missing:?}");
}

#[test]
fn every_link_to_a_file_leads_somewhere() {
    for file in ["README.md", "CHANGELOG.md", "config/README.md", "src/dialect/README.md"] {
        let text = read(file);
        let folder = root().join(Path::new(file).parent().expect("a folder"));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if path.contains("://") {
                continue;
            }
            let path = if path.is_empty() { root().join(file) } else { folder.join(path) };
            assert!(path.exists(), "{file} links to {target}");
            if !anchor.is_empty() {
                let page = fs::read_to_string(&path).expect("is text");
                let anchors = page.lines().filter(|line| line.starts_with('#')).map(slug);
                assert!(anchors.into_iter().any(|known| known == anchor), "{file} links to {target}");
            }
        }
    }
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>().replace(' ', "-")
}

#[test]
fn every_dialect_has_a_column() {
    let page = read("src/dialect/README.md");
    for dialect in DIALECTS {
        assert!(page.contains(&format!("`{}`", dialect.name())), "{}", dialect.name());
    }
}
