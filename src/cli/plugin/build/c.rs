//! Plugins in C: wit-bindgen writes the types into `gen/`, a clang for WebAssembly does the rest.
//!
//! What `plugin new` writes has its types already. They are written anew only where the contract or the world is another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{self, Linkers};
use super::{Project, files, world};

/// The file in `gen/` that says what the types in it were made of.
const CONTRACT: &str = "CONTRACT";

pub(super) fn build(project: &Project) -> Result<PathBuf, String> {
    let world = world::name(&project.folder)?;
    let generated = project.folder.join("gen");
    // Files are named after the world as an identifier.
    let file = world.replace('-', "_");
    let bindings = generated.join(format!("{file}.c"));
    generate(project, &world, &generated, &bindings)?;
    let linkers = Linkers::find()?;
    let clang = std::env::var_os("CC").map(PathBuf::from).or_else(|| tools::find("clang")).ok_or(
        "`clang` is not on PATH, and CC names none: install the wasi-sdk, or on Debian `apt install clang lld wasi-libc \
         libclang-rt-dev-wasm32`",
    )?;
    let output = project.work.join("component.wasm");
    let mut linker = std::ffi::OsString::from("-fuse-ld=");
    linker.push(linkers.component()?);
    let mut command = Command::new(clang);
    command.current_dir(&project.folder).env("PATH", linkers.path());
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-s", "-Wall"]).arg(linker);
    command.arg("-o").arg(&output).args(files(&project.folder, "c")?).arg(bindings);
    command.arg(generated.join(format!("{file}_component_type.o"))).args(&project.more);
    tools::run(&mut command)?;
    Ok(output)
}

/// Writes the types, unless those that are there are of this contract and world.
fn generate(project: &Project, world: &str, generated: &Path, bindings: &Path) -> Result<(), String> {
    let contract = project.work.join("wit");
    let _ = fs::remove_dir_all(&contract);
    world::contract(&project.folder, &contract)?;
    let mark = world::mark(&contract, world)?;
    let place = generated.join(CONTRACT);
    if bindings.is_file() && fs::read_to_string(&place).is_ok_and(|known| known.trim_end() == mark) {
        return Ok(());
    }
    let tool = tools::find("wit-bindgen").ok_or_else(|| {
        format!(
            "{}: holds no types of the world `{world}` as its .wit files have it now, and `wit-bindgen`, which writes them, \
             is not on PATH: `cargo install wit-bindgen-cli@0.63.0 --no-default-features --features c`",
            generated.display()
        )
    })?;
    let mut command = Command::new(tool);
    command.arg("c").arg(&contract).args(["--world", world, "--out-dir"]).arg(generated);
    tools::run(&mut command)?;
    fs::write(&place, format!("{mark}\n")).map_err(|error| format!("{}: {error}", place.display()))
}
