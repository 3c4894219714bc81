//! The components that are checked in are what their sources say.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::root;

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Every file in a folder and below that `wanted` holds of.
fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files(&path, wanted, found);
        } else if path.is_file() && wanted(&path) {
            found.push(path);
        }
    }
}

/// As `plugins/build` computes it.
fn sources(name: &str) -> String {
    let plugins = root().join("plugins");
    let mut found = vec![plugins.join("Cargo.toml"), plugins.join("Cargo.lock")];
    files(&plugins.join("wit"), &|path| path.extension().is_some_and(|extension| extension == "wit"), &mut found);
    let rust = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "rs")
            || path.file_name().is_some_and(|name| name == "Cargo.toml")
    };
    files(&plugins.join("sdk"), &rust, &mut found);
    files(&plugins.join(name), &rust, &mut found);
    // By their names' bytes below `plugins`, as `sort` does in the C locale.
    found.sort_by_key(|path| path.strip_prefix(&plugins).expect("below").as_os_str().as_encoded_bytes().to_vec());
    let bytes: Vec<u8> = found.iter().flat_map(|path| fs::read(path).expect("a source")).collect();
    hex(&bytes)
}

/// As `portcullis plugin build` tells one contract and world from others.
fn contract(more: Option<(&str, &str)>, world: &str) -> String {
    let plugins = root().join("plugins");
    let mut found = Vec::new();
    files(&plugins.join("wit"), &|path| path.extension().is_some_and(|extension| extension == "wit"), &mut found);
    let name = |path: &Path| path.file_name().expect("a name").to_str().expect("text").to_owned();
    let mut all: Vec<_> = found.iter().map(|path| (name(path), fs::read(path).expect("a source"))).collect();
    all.extend(more.map(|(name, path)| (name.to_owned(), fs::read(plugins.join(path)).expect("a source"))));
    all.sort();
    let bytes = all.into_iter().flat_map(|(name, text)| [name.as_bytes(), b"\n", &text].concat());
    hex(&bytes.chain(world.bytes()).collect::<Vec<_>>())
}

#[test]
fn types_for_c_are_those_of_the_contract() {
    let told = |folder: &str| {
        let path = root().join("plugins/template").join(folder).join("gen/CONTRACT");
        fs::read_to_string(path).expect("is checked in").trim_end().to_owned()
    };
    let why = "the contract has changed: run plugins/build bindings";
    assert_eq!(told("c"), contract(None, "provider"), "{why}");
    assert_eq!(told("policy-c"), contract(Some(("mine.wit", "template/mine.wit.txt")), "mine"), "{why}");
}

#[test]
fn prebuilt_plugins_are_fresh() {
    let prebuilt = root().join("plugins/prebuilt");
    let list = fs::read_to_string(prebuilt.join("SOURCES")).expect("is checked in");
    let rows = list.lines().filter(|line| !line.starts_with('#'));
    let mut names = Vec::new();
    for row in rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [name, of_sources, of_component, ..] = words.as_slice() else { panic!("`{row}` is no row") };
        assert_eq!(*of_sources, sources(name), "{name} has other sources: run plugins/build prebuilt");
        let wasm = fs::read(prebuilt.join(format!("{name}.wasm"))).expect("is checked in");
        assert_eq!(*of_component, hex(&wasm), "{name}.wasm is not the one of the list: run plugins/build prebuilt");
        names.push(format!("{name}.wasm"));
    }
    for entry in fs::read_dir(&prebuilt).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        assert!(name == "SOURCES" || names.contains(&name), "nobody builds plugins/prebuilt/{name}");
    }
}
