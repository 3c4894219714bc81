//! The contract as a plugin is built against it, and the world of it that the plugin is for.
//!
//! A plugin's own files win; what it does not bring is that of this program.

use std::fs;
use std::path::Path;

use super::super::scaffold::WIT;
use super::files;
use crate::host::hash;

/// The world of adapters, which need not be written down.
const PROVIDER: &str = "provider";

/// Puts the contract into a folder: the plugin's own files, then those beside it where plugins are many, then ours.
pub(super) fn contract(plugin: &Path, into: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", into.display());
    fs::create_dir_all(into).map_err(told)?;
    for (name, text) in WIT {
        let name = name.trim_start_matches("wit/");
        let beside = plugin.join("../wit").join(name);
        match beside.is_file() {
            true => fs::copy(&beside, into.join(name)).map(drop).map_err(told)?,
            false => fs::write(into.join(name), text).map_err(told)?,
        }
    }
    for path in own(plugin) {
        fs::copy(&path, into.join(path.file_name().unwrap_or_default())).map_err(told)?;
    }
    Ok(())
}

/// What tells one contract, and the world of it that is built for, from others.
pub(super) fn mark(contract: &Path, world: &str) -> Result<String, String> {
    let mut text = Vec::new();
    for path in files(contract, "wit")? {
        text.extend_from_slice(path.file_name().unwrap_or_default().as_encoded_bytes());
        text.push(b'\n');
        text.extend(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    text.extend_from_slice(world.as_bytes());
    Ok(hash::sha256(&text))
}

/// The WIT files that a plugin brings.
fn own(plugin: &Path) -> Vec<std::path::PathBuf> {
    [plugin.to_owned(), plugin.join("wit")].iter().flat_map(|folder| files(folder, "wit").unwrap_or_default()).collect()
}

/// The world that a plugin is for: the one that its own files declare, else an adapter's.
///
/// # Errors
/// They declare several.
pub(super) fn name(plugin: &Path) -> Result<String, String> {
    let contract = |path: &Path| WIT.iter().any(|(known, _)| Path::new(known).file_name() == path.file_name());
    let mut worlds = Vec::new();
    for path in own(plugin).into_iter().filter(|path| !contract(path)) {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("world ")?.split_whitespace().next());
        worlds.extend(names.map(|name| name.trim_end_matches('{').to_owned()));
    }
    match worlds.as_slice() {
        [] => Ok(PROVIDER.to_owned()),
        [only] => Ok(only.clone()),
        _ => Err(format!("{}: declares the worlds {}; keep one", plugin.display(), worlds.join(", "))),
    }
}
