//! `portcullis plugin build`: from a plugin's folder to its component, with the tools of its language.
//!
//! The one place that knows how components are made; `plugins/build` asks it too. Of the tools it installs nothing: it says
//! what is missing and how to get it.

mod c;
mod js;
mod python;
mod rust;
mod tools;
mod world;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{hint, say};
use crate::guest::wasm::Bytes;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The plugin's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where the component goes; when not named, NAME.wasm in the folder.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// What the tool is told beside, after `--`: cargo for Rust, the compiler for C.
    #[arg(last = true)]
    more: Vec<OsString>,
}

/// What a plugin is written in, told by its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lang {
    Rust,
    Js,
    Python,
    C,
}

impl Lang {
    fn name(self) -> &'static str {
        match self {
            Lang::Rust => "Rust",
            Lang::Js => "JavaScript",
            Lang::Python => "Python",
            Lang::C => "C",
        }
    }
}

/// A plugin's folder, and where its building may leave things.
struct Project {
    folder: PathBuf,
    /// The folder's own name.
    name: String,
    /// Gone with nothing lost: sources as the tools want them, and what they need installed.
    work: PathBuf,
    more: Vec<OsString>,
}

pub(super) fn run(args: Args) -> Result<(), String> {
    let folder = args.folder.canonicalize().map_err(|error| format!("{}: {error}", args.folder.display()))?;
    let lang = lang(&folder)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| folder.join("target"), PathBuf::from);
    let target = std::path::absolute(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let work = target.join("plugin").join(&name);
    if lang != Lang::Rust {
        fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    }
    let project = Project { folder, name, work, more: args.more };
    hint(&format!("{} is written in {}", project.name, lang.name()));
    let made = match lang {
        Lang::Rust => rust::build(&project)?,
        Lang::Js => js::build(&project)?,
        Lang::Python => python::build(&project)?,
        Lang::C => c::build(&project)?,
    };
    // Nothing that is no component takes the place of one that was.
    let bytes = Bytes::read(&made)?;
    let output = args.output.unwrap_or_else(|| args.folder.join(format!("{}.wasm", project.name)));
    fs::write(&output, &bytes.wasm).map_err(|error| format!("{}: {error}", output.display()))?;
    say(&format!("file     {}", output.display()));
    say(&format!("size     {} bytes", bytes.wasm.len()));
    say(&format!("sha256   {}", bytes.sha256));
    Ok(())
}

fn lang(folder: &Path) -> Result<Lang, String> {
    if folder.join("Cargo.toml").is_file() {
        return Ok(Lang::Rust);
    }
    let known = [(Lang::Js, "js"), (Lang::Python, "py"), (Lang::C, "c")];
    let found = known.into_iter().find(|(_, ending)| files(folder, ending).is_ok_and(|files| !files.is_empty()));
    found.map(|(lang, _)| lang).ok_or_else(|| {
        format!("{}: holds no Cargo.toml, *.js, *.py or *.c; begin with `portcullis plugin new`", folder.display())
    })
}

/// The files of a folder with this ending, in order.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.is_file() && path.extension().is_some_and(|found| found == ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The one source that building begins with: of this name, else the only one there is.
fn main_file(folder: &Path, ending: &str, usual: &str) -> Result<PathBuf, String> {
    let found = files(folder, ending)?;
    let named = found.iter().find(|path| path.file_stem().is_some_and(|stem| stem == usual));
    match (named, found.as_slice()) {
        (Some(path), _) => Ok(path.clone()),
        (None, [only]) => Ok(only.clone()),
        _ => Err(format!(
            "{}: has several sources; name the one that exports the world {usual}.{ending}",
            folder.display()
        )),
    }
}

/// A fresh folder with the sources and the contract in it: several tools want both below the folder they run in.
fn staged(project: &Project) -> Result<PathBuf, String> {
    let stage = project.work.join("src");
    let _ = fs::remove_dir_all(&stage);
    copy(&project.folder, &stage).map_err(|error| format!("{}: {error}", stage.display()))?;
    world::contract(&project.folder, &stage.join("wit"))?;
    Ok(stage)
}

/// What is no source of a plugin.
const NO_SOURCES: &[&str] = &["target", "node_modules", "fixtures", "wit", "__pycache__"];

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || NO_SOURCES.contains(&&*name) || name.ends_with(".wasm") {
            continue;
        }
        if path.is_dir() { copy(&path, &to.join(&*name))? } else { fs::copy(&path, to.join(&*name)).map(drop)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("portcullis-build-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for (file, text) in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("is writable");
            fs::write(path, text).expect("is writable");
        }
        folder
    }

    #[test]
    fn the_files_tell_the_language_and_the_world() {
        for (files, wanted) in [
            (&[("Cargo.toml", ""), ("x.py", "")][..], Lang::Rust),
            (&[("a.js", ""), ("package.json", "{}")], Lang::Js),
            (&[("app.py", "")], Lang::Python),
            (&[("a.c", ""), ("gen/a.h", "")], Lang::C),
        ] {
            let folder = folder("lang", files);
            assert_eq!(lang(&folder), Ok(wanted));
        }
        assert!(lang(&folder("lang", &[("notes.txt", "")])).expect_err("no language").contains("plugin new"));
        let policy = folder("world", &[("mine.wit", "package a:b;\n// world other {\nworld mine {\n}\n")]);
        assert_eq!(world::name(&policy).as_deref(), Ok("mine"));
        assert_eq!(world::name(&folder("world", &[("app.py", "")])).as_deref(), Ok("provider"));
        let two = folder("world", &[("wit/a.wit", "world a {}\nworld b {}\n")]);
        assert!(world::name(&two).expect_err("two").contains("a, b"));
    }

    #[test]
    fn sources_are_staged_with_the_contract_and_without_what_was_built() {
        let from = folder(
            "stage",
            &[("app.py", "x"), ("more/util.py", "y"), ("old.wasm", ""), ("wit/mine.wit", "world mine {}")],
        );
        let project = Project { work: from.join("target/plugin/p"), folder: from, name: "p".into(), more: Vec::new() };
        let stage = staged(&project).expect("stages");
        for file in ["app.py", "more/util.py", "wit/mine.wit", "wit/policy.wit", "wit/host.wit"] {
            assert!(stage.join(file).is_file(), "{file}");
        }
        assert!(!stage.join("old.wasm").exists() && !stage.join("target").exists());
        fs::remove_dir_all(&project.folder).expect("is there");
    }

    #[test]
    fn the_source_to_begin_with_is_the_named_or_the_only_one() {
        let one = folder("main", &[("policy.js", "")]);
        assert!(main_file(&one, "js", "acme").expect("the only one").ends_with("policy.js"));
        let two = folder("main", &[("acme.js", ""), ("util.js", "")]);
        assert!(main_file(&two, "js", "acme").expect("the named one").ends_with("acme.js"));
        assert!(main_file(&two, "js", "other").expect_err("which").contains("other.js"));
    }
}
