//! Holds the shape of the source: every module says what it is for, and imports run the way the design draws them.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its module (the first part of its path) and text without tests.
struct Source {
    path: PathBuf,
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                let relative = path.strip_prefix(&root).expect("under src").to_owned();
                let first = relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
                found.push(Source { module: first.trim_end_matches(".rs").to_owned(), path: relative, code });
            }
        }
    }
    found
}

/// Whether the code, comments aside, uses this path.
fn uses(source: &Source, path: &str) -> bool {
    let code = source.code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().any(|line| {
        line.match_indices(path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + path.len()..].chars().next();
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !word(before) && !word(after)
        })
    })
}

#[test]
fn every_module_says_what_it_is_responsible_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|source| !source.code.starts_with("//! ")).map(|source| source.path).collect();
    assert!(silent.is_empty(), "these files do not begin with `//!`: {silent:?}");
}

#[test]
fn the_pure_core_knows_neither_runtime_nor_socket() {
    const PURE: &[&str] = &["chat", "cost", "dialect", "embed", "fault", "json", "provider", "route", "sse"];
    let banned = ["tokio", "hyper", "hyper_util", "std::net", "SystemTime::now", "Instant::now"];
    for source in sources().iter().filter(|source| PURE.contains(&source.module.as_str())) {
        for path in banned {
            assert!(!uses(source, path), "{} uses {path}", source.path.display());
        }
    }
}

#[test]
fn hyper_stays_at_the_edges() {
    const EDGES: &[&str] = &["admin", "body", "mock", "server", "upstream"];
    for source in sources().iter().filter(|source| !EDGES.contains(&source.module.as_str())) {
        for path in ["hyper", "hyper_util"] {
            assert!(!uses(source, path), "{} uses {path}", source.path.display());
        }
    }
}

#[test]
fn the_engines_of_guests_stay_in_their_rooms() {
    for (engine, room) in [("mlua", "guest/lua"), ("wasmtime", "guest/wasm"), ("wasmtime_wasi", "guest/wasm")] {
        for source in sources().iter().filter(|source| !is_in(&source.path, room)) {
            assert!(!uses(source, engine), "{} uses {engine}", source.path.display());
        }
    }
}

/// Whether a source is a module of this path or one below it.
fn is_in(path: &Path, room: &str) -> bool {
    path.starts_with(room) || path == Path::new(room).with_extension("rs")
}

#[test]
fn only_the_generation_and_the_command_line_read_the_written_configuration() {
    const READERS: &[&str] = &["cli", "config", "generation", "lib"];
    for source in sources().iter().filter(|source| !READERS.contains(&source.module.as_str())) {
        assert!(!uses(source, "crate::config"), "{} reads config", source.path.display());
    }
}

#[test]
fn nothing_imports_upwards() {
    // Each row: rooms, and what they must not know. Tests of a room may.
    let rows: &[(&[&str], &[&str])] = &[
        (
            &["chat", "embed", "rerank", "fault", "json", "sse", "cost"],
            &[
                "api",
                "attempt",
                "dialect",
                "generation",
                "pipeline",
                "reply",
                "server",
                "settle",
                "state",
                "stream",
                "upstream",
            ],
        ),
        (
            &["dialect", "provider"],
            &["api", "attempt", "generation", "pipeline", "reply", "server", "settle", "state", "stream", "upstream"],
        ),
        (&["state"], &["api", "attempt", "generation", "pipeline", "server", "stream", "upstream"]),
        (&["config"], &["api", "attempt", "generation", "pipeline", "server", "state", "stream", "upstream"]),
        (&["upstream", "stream", "route", "auth"], &["api", "attempt", "generation", "pipeline", "server"]),
        (&["mock"], &["api", "attempt", "dialect", "generation", "pipeline", "server", "state", "stream", "upstream"]),
        (&["attempt"], &["api", "server"]),
        (&["host"], &["api", "attempt", "generation", "guest", "hook", "pipeline", "server", "settle"]),
        (&["guest"], &["api", "attempt", "generation", "hook", "pipeline", "server", "settle"]),
    ];
    for (rooms, above) in rows {
        let is_test = |source: &Source| {
            source.path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests"))
        };
        for source in sources().iter().filter(|source| rooms.contains(&source.module.as_str()) && !is_test(source)) {
            for room in *above {
                assert!(!uses(source, &format!("crate::{room}")), "{} knows {room}", source.path.display());
            }
        }
    }
}
