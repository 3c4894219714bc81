//! Compiled components on disk: a plugin that takes seconds to compile is loaded in milliseconds the next time.
//!
//! Compiled code is trusted by the engine, so it must be ours: each file begins with a keyed hash over what follows and over
//! what it was compiled from and for, and the key lies beside it, readable by this user alone. What does not verify, such as
//! the code of one component under the name of another, is compiled anew, never loaded.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Length of the keyed hash, HMAC-SHA256, that a file begins with.
const TAG_BYTES: usize = 32;

/// Length of the key.
const KEY_BYTES: usize = 32;

/// A folder of compiled components.
pub struct Compiled {
    folder: PathBuf,
    key: hmac::Key,
    /// What is to be told of it.
    notes: Mutex<Vec<String>>,
}

impl Compiled {
    /// Opens the folder, or makes it with a fresh key.
    ///
    /// # Errors
    /// Why nothing can be kept there. Plugins are compiled each time then.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(told)?;
        let path = folder.join("key");
        let key = match fs::read(&path) {
            Ok(key) if key.len() == KEY_BYTES => {
                private(&path)?;
                key
            }
            _ => fresh_key(&path).map_err(told)?,
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Compiled { folder: folder.to_owned(), key, notes: Mutex::default() })
    }

    /// What was found there that is not ours, and what could not be kept. Told by whoever loads: the first plugins are loaded
    /// before there is a log.
    pub fn notes(self) -> Vec<String> {
        self.notes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, path: &Path, what: &str) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{}: {what}", path.display()));
    }

    /// The component that `wasm`, with this SHA-256, compiles to: from disk where it is there and ours.
    ///
    /// # Errors
    /// The bytes are no component, or one that this engine does not run; in wasmtime's words.
    pub fn component(&self, engine: &Engine, sha256: &str, wasm: &[u8]) -> Result<Component, String> {
        // Everything that the code depends on: its component, and the engine's version, its settings and this processor.
        let of = format!("{sha256}-{:016x}", settings(engine));
        let path = self.folder.join(format!("{of}.cwasm"));
        if let Some(component) = self.load(engine, &of, &path) {
            return Ok(component);
        }
        let component = compile(engine, wasm)?;
        if let Err(error) = self.keep(&component, &of, &path) {
            self.note(&path, &format!("the compiled plugin is not kept: {error}"));
        }
        Ok(component)
    }

    /// What is kept there, if it was written by us and belongs to `of`.
    fn load(&self, engine: &Engine, of: &str, path: &Path) -> Option<Component> {
        let why = match fs::read(path) {
            Ok(file) => match self.verified(of, &file) {
                Some(code) => match deserialize(engine, code) {
                    Ok(component) => return Some(component),
                    Err(error) => format!("{error:#}"),
                },
                None => "is not what this gateway wrote for this plugin".to_owned(),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => format!("cannot be read: {error}"),
        };
        self.note(path, &format!("{why}; the plugin is compiled anew"));
        None
    }

    /// The code in a file that belongs to `of`.
    fn verified<'f>(&self, of: &str, file: &'f [u8]) -> Option<&'f [u8]> {
        let (tag, code) = file.split_at_checked(TAG_BYTES)?;
        // A name of a file proves nothing: whoever can write here can give it to another.
        let whole = aws_lc_rs::constant_time::verify_slices_are_equal(self.tag(of, code).as_ref(), tag);
        whole.is_ok().then_some(code)
    }

    fn tag(&self, of: &str, code: &[u8]) -> hmac::Tag {
        let mut hash = hmac::Context::with_key(&self.key);
        hash.update(of.as_bytes());
        // Ends the name, which holds no such byte: where the code begins is a part of what is hashed.
        hash.update(&[0]);
        hash.update(code);
        hash.sign()
    }

    /// Writes beside the place and moves there: a reader never sees half a file.
    fn keep(&self, component: &Component, of: &str, path: &Path) -> Result<(), String> {
        let code = component.serialize().map_err(|error| error.to_string())?;
        let tag = self.tag(of, &code);
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::File::create(&beside).and_then(|mut file| {
            file.write_all(tag.as_ref())?;
            file.write_all(&code)?;
            fs::rename(&beside, path)
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&beside);
            error.to_string()
        })
    }
}

/// Compiles. Takes milliseconds for Rust and C, seconds for JavaScript and Python.
///
/// # Errors
/// As [`Compiled::component`].
pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Component, String> {
    Component::from_binary(engine, wasm).map_err(|error| format!("{error:#}"))
}

/// Everything about the engine that compiled code depends on: its version, its settings, this processor.
fn settings(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

#[expect(
    unsafe_code,
    reason = "the engine trusts compiled code; `load` has verified that this process's user wrote it"
)]
fn deserialize(engine: &Engine, verified: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are those that `serialize` gave: only a holder of the key can have made their keyed hash, and
    // they are in memory, where nobody changes them after the check.
    unsafe { Component::deserialize(engine, verified) }
}

fn fresh_key(path: &Path) -> Result<Vec<u8>, std::io::Error> {
    let mut key = vec![0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| std::io::Error::other("no random numbers"))?;
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(&key)?;
    Ok(key)
}

/// Refuses a key that others can read: whoever has it can have us run what they wrote.
fn private(path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.mode();
        if mode & 0o077 != 0 {
            return Err(format!("{}: others can read it; run chmod 600 on it, or remove the folder", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("portcullis-compiled-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("is there").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
    }

    /// An empty component is enough: what is tested is whom its compiled form is taken from.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn of(engine: &Engine, sha256: &str) -> String {
        format!("{sha256}-{:016x}", settings(engine))
    }

    #[test]
    fn what_was_tampered_with_is_compiled_anew() {
        let engine = Engine::default();
        let folder = folder("tampered");
        let compiled = Compiled::open(&folder).expect("opens");
        compiled.component(&engine, "a", b"(component)").expect_err("text is not taken");
        compiled.component(&engine, "a", EMPTY).expect("compiles");
        let path = files(&folder).pop().expect("is kept");
        let load = |compiled: &Compiled| compiled.load(&engine, &of(&engine, "a"), &path).is_some();
        assert!(load(&compiled));
        let mut bytes = fs::read(&path).expect("reads");
        *bytes.last_mut().expect("has bytes") ^= 1;
        fs::write(&path, &bytes).expect("writes");
        assert!(!load(&compiled), "a changed byte is seen");
        compiled.component(&engine, "a", EMPTY).expect("compiles again");
        assert!(load(&compiled), "and is repaired");
        fs::write(&path, &bytes[..TAG_BYTES - 1]).expect("writes");
        assert!(!load(&compiled), "cut off");
        compiled.component(&engine, "a", EMPTY).expect("compiles again");
        // Another key: another machine's files, or an attacker's.
        fs::remove_file(folder.join("key")).expect("is there");
        let other = Compiled::open(&folder).expect("opens");
        assert!(!load(&other));
        fs::remove_dir_all(&folder).expect("is there");
    }

    #[test]
    fn the_code_of_one_component_is_not_taken_for_another() {
        let engine = Engine::default();
        let folder = folder("another");
        let compiled = Compiled::open(&folder).expect("opens");
        compiled.component(&engine, "evil", EMPTY).expect("compiles");
        let evil = files(&folder).pop().expect("is kept");
        let pinned = folder.join(format!("{}.cwasm", of(&engine, "pinned")));
        fs::copy(&evil, &pinned).expect("copies");
        assert!(compiled.load(&engine, &of(&engine, "pinned"), &pinned).is_none(), "ours, but of another component");
        compiled.component(&engine, "pinned", EMPTY).expect("compiles");
        assert!(compiled.load(&engine, &of(&engine, "pinned"), &pinned).is_some(), "and takes its place");
        // Of an engine with other settings, under the name that this one looks for.
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let stricter = Engine::new(&config).expect("runs here");
        assert_ne!(settings(&engine), settings(&stricter));
        let there = folder.join(format!("{}.cwasm", of(&stricter, "evil")));
        fs::copy(&evil, &there).expect("copies");
        assert!(compiled.load(&stricter, &of(&stricter, "evil"), &there).is_none());
        let notes = compiled.notes();
        let told = "is not what this gateway wrote for this plugin; the plugin is compiled anew";
        assert!(notes.len() == 3 && notes.iter().all(|note| note.ends_with(told)), "{notes:?}");
        fs::remove_dir_all(&folder).expect("is there");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("mode");
        drop(Compiled::open(&folder).expect("opens"));
        fs::set_permissions(folder.join("key"), fs::Permissions::from_mode(0o644)).expect("is ours");
        let refused = Compiled::open(&folder).err().expect("is refused");
        assert!(refused.contains("chmod 600"), "{refused}");
        fs::remove_dir_all(&folder).expect("is there");
    }
}
