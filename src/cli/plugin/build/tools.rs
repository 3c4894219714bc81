//! The tools that building needs: found on PATH or beside the plugin, run with their words on standard error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program on PATH.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A program on PATH, or how to get it.
///
/// # Errors
/// It is not there.
pub(super) fn need(name: &str, how: &str) -> Result<PathBuf, String> {
    find(name).ok_or_else(|| format!("`{name}` is not on PATH: {how}"))
}

/// Runs a tool. Its output is for people, as this command's own is for programs.
///
/// # Errors
/// It cannot be run, or failed.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.stdout(std::io::stderr()).status().map_err(|error| told(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(command))) }
}

/// What a tool prints, its complaints apart.
///
/// # Errors
/// It cannot be run, or failed.
pub(super) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| told(command, &error))?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", shown(command), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn told(command: &Command, error: &std::io::Error) -> String {
    format!("{} cannot be run: {error}", shown(command))
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let first = command.get_args().next().unwrap_or(OsStr::new(""));
    format!("`{} {}`", name.display(), first.display())
}

/// Where rustup's toolchain keeps what links WebAssembly.
pub(super) struct Linkers {
    pub sysroot: PathBuf,
    /// Holds `wasm-component-ld`; `gcc-ld` below it holds the `wasm-ld` that this one calls.
    pub bin: PathBuf,
}

impl Linkers {
    /// # Errors
    /// There is no rustc, or one without them.
    pub fn find() -> Result<Self, String> {
        let rustc = need("rustc", "install Rust with rustup (https://rustup.rs)")?;
        let sysroot = PathBuf::from(said(Command::new(&rustc).args(["--print", "sysroot"]))?.trim_end());
        let about = said(Command::new(&rustc).arg("-vV"))?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let bin = sysroot.join("lib/rustlib").join(host).join("bin");
        Ok(Linkers { sysroot, bin })
    }

    /// The linker that makes components.
    ///
    /// # Errors
    /// This toolchain has none.
    pub fn component(&self) -> Result<PathBuf, String> {
        let own = self.bin.join("wasm-component-ld");
        if own.is_file() {
            return Ok(own);
        }
        need("wasm-component-ld", "it comes with Rust from rustup, or `cargo install wasm-component-ld`")
    }

    /// PATH with the inner linker on it.
    pub fn path(&self) -> std::ffi::OsString {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin.join("gcc-ld")).chain(std::env::split_paths(&old));
        std::env::join_paths(folders).unwrap_or(old)
    }
}
