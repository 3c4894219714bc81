//! Has the linker put the functions that requests run next to each other.
//!
//! The program is 36 MB of code, nearly all of it compilers for guests; what a request runs is half a megabyte of that. In
//! the order of crates it lies on hundreds of pages, each of which the processor has to find again after every request for
//! something else. In the order of `functions`, which `benches/instructions --layout` writes, a request takes 3 % less time,
//! and a first token, which mostly finds the caches cold, comes 30 µs sooner.
//!
//! Names of functions hold hashes that go by the compiler and the versions of dependencies. Under others the list means
//! nothing and does no harm.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// What the list was made for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo:rerun-if-changed=benches/layout");
    // What `benches/profile/rustc` compiles the program with: a new profile means a new program.
    println!("cargo:rerun-if-changed=benches/profile");
    println!("cargo:rerun-if-env-changed=PORTCULLIS_PROFILE");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let functions = Path::new(&root).join("benches/layout/functions");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("TARGET", TARGET) || !is("PROFILE", "release") || !functions.exists() {
        return;
    }
    // Functions that are not there any more are no mistake.
    let order = format!("-Wl,--symbol-ordering-file={},--no-warn-symbol-ordering", functions.display());
    if linker_takes(&order) {
        println!("cargo:rustc-link-arg-bins={order}");
    }
}

/// Whether the linker knows what is asked of it: LLVM's does, which is the usual one here, and others may be set.
fn linker_takes(arg: &str) -> bool {
    let Ok(out) = env::var("OUT_DIR").map(|out| PathBuf::from(out).join("probe")) else { return false };
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let linker = env::var("RUSTC_LINKER").map(|linker| format!("-Clinker={linker}")).ok();
    let mut rustc = Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty())).args(linker);
    rustc.args(["-", "--target", TARGET, "--crate-type=bin", "--crate-name=probe"]);
    rustc.arg(format!("-Clink-arg={arg}")).arg("-o").arg(&out);
    let mut run = || -> std::io::Result<bool> {
        let mut child = rustc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"fn main() {}"))?;
        Ok(child.wait()?.success())
    };
    let takes = run().unwrap_or(false);
    let _ = fs::remove_file(out);
    takes
}
