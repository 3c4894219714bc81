//! Plugins in C: wit-bindgen writes the types into `gen/`, a clang for WebAssembly does the rest.

use std::path::PathBuf;
use std::process::Command;

use super::tools::{self, Linkers};
use super::{Project, files, world};

pub(super) fn build(project: &Project) -> Result<PathBuf, String> {
    let world = world::name(&project.folder)?;
    let generated = project.folder.join("gen");
    // Files are named after the world as an identifier.
    let file = world.replace('-', "_");
    let bindings = generated.join(format!("{file}.c"));
    match tools::find("wit-bindgen") {
        Some(tool) => {
            let contract = project.work.join("wit");
            world::contract(&project.folder, &contract)?;
            let mut command = Command::new(tool);
            command.arg("c").arg(&contract).args(["--world", &world, "--out-dir"]).arg(&generated);
            tools::run(&mut command)?;
        }
        None if bindings.is_file() => super::hint("`wit-bindgen` is not on PATH; gen/ is taken as it is"),
        None => {
            return Err("`wit-bindgen` is not on PATH: `cargo install wit-bindgen-cli@0.63.0 --no-default-features \
                        --features c`"
                .to_owned());
        }
    }
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
