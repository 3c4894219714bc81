//! Plugins in Rust: cargo, for rustup's target where it is installed, else with a distribution's compiler for WebAssembly.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Project;
use super::tools::{self, Linkers};

/// Where Debian's `rustc-web` and `rust-web-src` put the compiler and the library that it builds.
const DISTRIBUTION: (&str, &str) = ("/usr/bin/rustc", "/usr/lib/rustlib/src/rust");

pub(super) fn build(project: &Project) -> Result<PathBuf, String> {
    let cargo = tools::need("cargo", "install Rust with rustup (https://rustup.rs)")?;
    let manifest = project.folder.join("Cargo.toml");
    let mut command = Command::new(&cargo);
    command.args(["build", "--release", "--message-format=json-render-diagnostics", "--manifest-path"]).arg(&manifest);
    super::hint(&format!("for {}", target(&mut command)?));
    let mut locate = Command::new(&cargo);
    locate.args(["locate-project", "--workspace", "--message-format=plain", "--manifest-path"]).arg(&manifest);
    let workspace = PathBuf::from(tools::said(&mut locate)?.trim_end());
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace.parent().unwrap_or(&project.folder)));
    command.env_remove("RUSTFLAGS").args(&project.more);
    let messages = tools::said(command.stderr(Stdio::inherit()))?;
    component(&messages, &manifest)
        .ok_or_else(|| format!("{}: makes no .wasm; add `crate-type = [\"cdylib\"]` to its [lib]", manifest.display()))
}

/// Sets what a compiler for WebAssembly is, of those that are there; gives its target in words.
fn target(command: &mut Command) -> Result<&'static str, String> {
    let linkers = Linkers::find()?;
    if linkers.sysroot.join("lib/rustlib/wasm32-wasip2").is_dir() {
        command.args(["--target", "wasm32-wasip2"]);
        return Ok("wasm32-wasip2, with WASI");
    }
    let (rustc, library) = DISTRIBUTION;
    if !Path::new(rustc).is_file() || !Path::new(library).is_dir() {
        return Err("there is no compiler for WebAssembly: `rustup target add wasm32-wasip2`, or on Debian \
                    `apt install rustc-web rust-web-src`"
            .to_owned());
    }
    // The linkers are those of rustup's toolchain; the compiler and its library are the distribution's.
    command.args(["--target", "wasm32-unknown-unknown", "-Zbuild-std=std,panic_abort"]);
    command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env("PATH", linkers.path());
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linkers.component()?);
    Ok("wasm32-unknown-unknown, without WASI: take clocks and random numbers from the host")
}

/// Paths of this machine do not belong into a component, and differ on the next.
fn flags(workspace: &Path) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let own = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut flags: Vec<String> = own.split_whitespace().map(str::to_owned).collect();
    flags.push(format!("--remap-path-prefix={}=/cargo", cargo.display()));
    flags.push(format!("--remap-path-prefix={}=/plugins", workspace.display()));
    flags.join("\u{1f}")
}

/// The component of this manifest among what cargo says it made.
fn component(messages: &str, manifest: &Path) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mine = messages.filter(|message| {
        message["reason"] == "compiler-artifact" && message["manifest_path"].as_str().map(Path::new) == Some(manifest)
    });
    let files = mine.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    files.filter_map(|file| file.as_str().map(PathBuf::from)).find(|file| file.extension().is_some_and(|e| e == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_one_of_the_manifest() {
        let line = |manifest: &str, file: &str| {
            serde_json::json!({ "reason": "compiler-artifact", "manifest_path": manifest, "filenames": [file] })
                .to_string()
        };
        let messages = [
            line("/p/sdk/Cargo.toml", "/t/libsdk.rlib"),
            "{\"reason\":\"x\"}".into(),
            line("/p/a/Cargo.toml", "/t/a.wasm"),
        ];
        let found = |manifest: &str| component(&messages.join("\n"), Path::new(manifest));
        assert_eq!(found("/p/a/Cargo.toml"), Some("/t/a.wasm".into()));
        assert_eq!(found("/p/sdk/Cargo.toml"), None);
    }
}
