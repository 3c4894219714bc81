//! From a file to a component that is linked and has shown what it is.
//!
//! Everything slow happens here, off the request path. Never loads what the operator's demands do not let pass.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use wasmtime::component::{HasSelf, InstancePre, Linker};

use super::bindings::{
    cache, chat, cost, ctx, decision, exchange, hash, http, json, kv, limit, llm, log, metrics, pick, rand, re, secret,
    targets, time, tokens, trace,
};
use super::compiled::{self, Compiled};
use super::engine::Machine;
use super::shape::Shape;
use super::store::Held;
use crate::guest::adapter::Lease;

/// The largest component. Python's are near 20 MB.
const MAX_WASM_BYTES: u64 = 128 << 20;

/// How long a plugin may take to describe itself and to take its configuration, waiting included.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A component as it lies on disk.
pub struct Bytes {
    pub path: PathBuf,
    pub wasm: Vec<u8>,
    /// Lower-case hexadecimal digits.
    pub sha256: String,
}

impl Bytes {
    /// # Errors
    /// The file cannot be read, or is no component.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |what: String| format!("{}: {what}", path.display());
        let length = std::fs::metadata(path).map_err(|error| told(format!("cannot be read: {error}")))?.len();
        if length > MAX_WASM_BYTES {
            return Err(told(format!("is larger than {MAX_WASM_BYTES} bytes; a component is smaller")));
        }
        let wasm = std::fs::read(path).map_err(|error| told(format!("cannot be read: {error}")))?;
        match wasm.get(..8) {
            Some(b"\0asm\x0d\0\x01\0") => {}
            Some([0, b'a', b's', b'm', 1, ..]) => {
                let what = "is a core module; make a component of it (for wasm32-wasip2 cargo does, else wasm-component-ld \
                            or `wasm-tools component new`)";
                return Err(told(what.to_owned()));
            }
            _ => return Err(told("is not WebAssembly; build the plugin first".to_owned())),
        }
        let sha256 = digest::digest(&digest::SHA256, &wasm);
        let sha256 = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Bytes { path: path.to_owned(), wasm, sha256 })
    }
}

/// What loading needs beside the file.
pub struct Loading<'a> {
    pub machine: &'a Arc<Machine>,
    /// None: compile each time.
    pub compiled: Option<&'a Compiled>,
    /// The plugin's name, for logs and errors.
    pub name: &'a str,
    pub lease: Lease,
    /// What sets the memory in the lease, where it is not the key of the configuration.
    pub memory_by: Option<&'static str>,
    /// The operator's configuration of the plugin: JSON text, or empty.
    pub config: String,
}

/// What a component is built for, and so what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    Provider,
    Policy,
}

impl World {
    /// What a component is that was built for the other world, from its exports, and where it belongs.
    fn mistaken(self, exports: &[String], name: &str) -> Option<String> {
        let has = |interface: &str| {
            exports.iter().any(|export| export.starts_with(&format!("portcullis:gateway/{interface}@")))
        };
        match self {
            World::Provider if has("manifest") && !has("adapter") => {
                Some(format!("is a policy, not an adapter; attach it under `hooks` with `wasm: {name}`"))
            }
            World::Policy if has("adapter") && !has("manifest") => {
                Some(format!("is an adapter, not a policy; name it in a provider with `dialect: wasm:{name}`"))
            }
            _ => None,
        }
    }
}

/// A component, linked.
pub struct Linked {
    pub pre: InstancePre<Held>,
    /// The names of everything it exports.
    pub exports: Vec<String>,
}

impl Loading<'_> {
    /// Compiles and links.
    ///
    /// # Errors
    /// The bytes are no component, or it wants what nobody gives.
    pub fn link(&self, bytes: &Bytes, world: World) -> Result<Linked, String> {
        let engine = &self.machine.engine;
        let component = match self.compiled {
            Some(compiled) => compiled.component(engine, &bytes.sha256, &bytes.wasm),
            None => compiled::compile(engine, &bytes.wasm),
        };
        let told = |what: String| format!("{}: {what}", bytes.path.display());
        let component = component.map_err(told)?;
        let shape = Shape::of(bytes)?;
        if let Some(what) = world.mistaken(&shape.exports, self.name) {
            return Err(told(what));
        }
        let wasi = shape.imports.iter().any(|name| name.starts_with("wasi:"));
        let linker = linker(self.machine, world, wasi).map_err(|error| told(format!("{error:#}")))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| {
            told(format!("wants what the gateway does not give: {error:#}; build it for a world of portcullis:gateway"))
        })?;
        Ok(Linked { pre, exports: shape.exports })
    }
}

fn linker(machine: &Machine, world: World, wasi: bool) -> wasmtime::Result<Linker<Held>> {
    let mut linker = Linker::new(&machine.engine);
    macro_rules! give {
        ($($module:ident)*) => { $($module::add_to_linker::<_, HasSelf<Held>>(&mut linker, |held| held)?;)* };
    }
    give!(log json hash time rand);
    match world {
        World::Provider => {
            give!(chat);
        }
        World::Policy => {
            give!(cache kv limit targets pick cost tokens re trace metrics secret http llm ctx exchange decision);
        }
    }
    if wasi {
        // All of it, over an empty context: a component may ask for files and sockets, and there are none.
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    }
    Ok(linker)
}

/// Waits for a guest outside the request path, on a thread and a runtime of its own: the caller may be inside one.
pub fn wait<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|error| format!("no runtime to load plugins with: {error}"))?;
            runtime.block_on(async {
                tokio::time::timeout(START_TIMEOUT, work)
                    .await
                    .map_err(|_| format!("did not start within {START_TIMEOUT:?}"))
            })
        });
        waiting.join().unwrap_or_else(|_| Err("broke while it was loaded".to_owned()))
    })
}
