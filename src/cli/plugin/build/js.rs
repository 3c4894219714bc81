//! Plugins in JavaScript: npm brings jco, which puts the source into a component with QuickJS in it.
//!
//! The nearest `package.json`, in the plugin's folder or the one above, says which jco; what npm installs for it is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Project, main_file, staged, tools, world};
use crate::host::hash;

/// What is to stand in a `package.json`.
const WANTED: &str = "add `\"devDependencies\": { \"@bytecodealliance/jco\": \"1.35.0\" }` to it";

pub(super) fn build(project: &Project) -> Result<PathBuf, String> {
    tools::need("node", "install Node.js 20 or newer")?;
    let jco = jco(project)?;
    let source = source(project)?;
    let stage = staged(project)?;
    let world = world::name(&project.folder)?;
    let output = project.work.join("component.wasm");
    let mut command = Command::new(jco);
    command.current_dir(&stage).arg("componentize").arg(source.file_name().unwrap_or_default());
    command.args(["--wit", "wit", "-n", &world, "--backend", "quickjs", "--backend-qjs-stub-wasi"]);
    command.args(["--backend-qjs-disable-async", "-o"]).arg(&output);
    tools::run(&mut command)?;
    Ok(output)
}

/// The source to begin with: the package's `main`, where the plugin has a package of its own.
fn source(project: &Project) -> Result<PathBuf, String> {
    let package = fs::read(project.folder.join("package.json")).ok();
    let package: Option<Value> = package.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match package.as_ref().and_then(|package| package["main"].as_str()) {
        Some(main) => Ok(project.folder.join(main)),
        None => main_file(&project.folder, "js", &project.name),
    }
}

/// The compiler: where the author installed it, else installed here, once for each content of the package's files.
fn jco(project: &Project) -> Result<PathBuf, String> {
    const INSTALLED: &str = "node_modules/.bin/jco";
    let up = [Some(project.folder.as_path()), project.folder.parent()];
    let home = up.into_iter().flatten().find(|folder| folder.join("package.json").is_file());
    let home = home.ok_or_else(|| format!("{}: has no package.json; {WANTED}", project.folder.display()))?;
    if home.join(INSTALLED).is_file() {
        return Ok(home.join(INSTALLED));
    }
    let read = |name: &str| fs::read(home.join(name)).ok();
    let (package, lock) = (read("package.json").unwrap_or_default(), read("package-lock.json"));
    let mark = hash::sha256(&[package.as_slice(), lock.as_deref().unwrap_or_default()].concat());
    let shelf = project.work.parent().unwrap_or(&project.work).join(format!("npm-{}", &mark[..16]));
    if !shelf.join(INSTALLED).is_file() {
        install(&shelf, &package, lock.as_deref())?;
    }
    match shelf.join(INSTALLED).is_file() {
        true => Ok(shelf.join(INSTALLED)),
        false => Err(format!("{}: asks for no jco; {WANTED}", home.join("package.json").display())),
    }
}

fn install(shelf: &Path, package: &[u8], lock: Option<&[u8]>) -> Result<(), String> {
    let npm = tools::need("npm", "it comes with Node.js, on Debian as a package of its own")?;
    let put = |name: &str, bytes: &[u8]| fs::write(shelf.join(name), bytes);
    let written = fs::create_dir_all(shelf).and_then(|()| put("package.json", package));
    let written = written.and_then(|()| lock.map_or(Ok(()), |lock| put("package-lock.json", lock)));
    written.map_err(|error| format!("{}: {error}", shelf.display()))?;
    let how = if lock.is_some() { "ci" } else { "install" };
    tools::run(Command::new(npm).current_dir(shelf).args([how, "--no-audit", "--no-fund", "--loglevel=error"]))
}
