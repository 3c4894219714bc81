//! A sandboxed machine with the scripts of one domain in it.
//!
//! Each script has an environment of its own: the safe libraries, `gw`, and `require` for its own bundle. After loading
//! it is read-only, so that what one request leaves in a global cannot reach another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use mlua::chunk::{ChunkMode, Compiler};
use mlua::{Error, Function, Lua, LuaOptions, StdLib, Table, Thread, Value as Lv};
use serde_json::Value;

use super::super::verdict::Verdict;
use super::super::view::Subject;
use super::super::{Bundle, Wanted};
use super::turn::{self, Running, Spent, running};
use super::{Returned, api, convert, coverage, function_name, library, read, safepoints, views};
use crate::guest::bundle::Source;
use crate::host::{Cx, Guest, Lease, Phase, Phases, Visit};

/// Coroutines kept for reuse: about as many as calls wait at a time.
const THREAD_POOL: usize = 16;

/// Words in a source that tell that it may wait: the modules with awaiting functions, and `sleep`.
const WAITING: &[&str] = &["http", "llm", "sleep"];

/// What scripts find as globals beside `gw` and `require`. Whatever reads files, loads code, measures the host's memory
/// or reaches into others' environments is not here.
const GLOBALS: &[&str] = &[
    "_VERSION",
    "assert",
    "error",
    "getmetatable",
    "ipairs",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "xpcall",
    "math",
    "string",
    "table",
    "coroutine",
    "utf8",
    "bit32",
    "buffer",
];

/// What each script has of its own among the globals.
const OWN: &[&str] = &["gw", "print", "require"];

/// Everything that a script is made from, again and again.
pub(super) struct Recipe {
    pub guest: Arc<Guest>,
    pub bundle: Arc<Bundle>,
    pub config: Value,
    pub main: Vec<u8>,
    modules: HashMap<String, (String, Vec<u8>)>,
}

impl Recipe {
    /// Compiles.
    ///
    /// # Errors
    /// File, line and what is wrong.
    pub fn new(wanted: Wanted) -> Result<Recipe, String> {
        let Wanted { guest, bundle, config, .. } = wanted;
        let main = compile(&bundle.main)?;
        let mut modules = HashMap::new();
        for (name, source) in &bundle.modules {
            modules.insert(name.clone(), (source.label.clone(), compile(source)?));
        }
        Ok(Recipe { guest, bundle, config, main, modules })
    }

    /// Whether it may wait.
    pub fn waits(&self) -> bool {
        self.mentions(WAITING) || self.guest.grants.shared_kv && self.mentions(&["kv"])
    }

    /// Whether one of the words stands anywhere in the sources.
    fn mentions(&self, words: &[&str]) -> bool {
        let sources = std::iter::once(&self.bundle.main).chain(self.bundle.modules.values());
        sources.into_iter().any(|source| words.iter().any(|word| source.text.contains(word)))
    }
}

/// Whether every source of a bundle compiles.
///
/// # Errors
/// File, line and what is wrong.
pub fn compiles(bundle: &Bundle) -> Result<(), String> {
    compile(&bundle.main)?;
    bundle.modules.values().try_for_each(|source| compile(source).map(drop))
}

fn compile(source: &Source) -> Result<Vec<u8>, String> {
    let compiler = Compiler::new().set_optimization_level(1).set_debug_level(1);
    let compiled = match coverage::is_gathered() {
        true => compiler.set_coverage_level(1).compile(&source.text),
        false => safepoints::compile(&compiler, &source.text),
    };
    compiled.map_err(|error| match &error {
        Error::SyntaxError { message, .. } => format!("{}:{}", source.label, message.trim_start_matches(':')),
        other => format!("{}: {other}", source.label),
    })
}

/// A machine.
pub(super) struct Machine {
    // Declared before `lua`: its handles must not outlive the machine they belong to.
    scripts: Vec<Loaded>,
    context: mlua::AnyUserData,
    /// Coroutines that have ended well, for the next calls.
    threads: Mutex<Vec<Thread>>,
    /// Bytes in use when it was last collected.
    collected: AtomicUsize,
    /// The chunks of every script, where their lines are counted.
    chunks: coverage::Chunks,
    lua: Lua,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.chunks.gather();
    }
}

/// What a turn of a call came to.
pub(super) enum Step {
    Over(Verdict),
    Way(Suspended),
}

/// A call that has given way.
pub(super) struct Suspended {
    thread: Thread,
}

/// One script's functions.
struct Loaded {
    hooks: [Option<Function>; Phase::ALL.len()],
}

impl Machine {
    /// Builds a machine and loads every script in it.
    ///
    /// # Errors
    /// The place of the script that failed, and why.
    pub fn build(recipes: &[Recipe], memory: usize) -> Result<Machine, (usize, String)> {
        let furnished = bare(memory, |lua| {
            let modules = api::modules(lua, recipes.iter().any(|recipe| recipe.guest.grants.shared_kv))?;
            let context = lua.create_userdata(views::Context)?;
            views::register(lua)?;
            Ok((modules, context))
        });
        let (lua, (modules, context)) = furnished.map_err(|error| (0, error.to_string()))?;
        let chunks = coverage::Chunks::default();
        let mut scripts = Vec::with_capacity(recipes.len());
        for (at, recipe) in recipes.iter().enumerate() {
            scripts.push(load(&lua, recipe, &modules, &chunks).map_err(|error| (at, error))?);
        }
        Ok(Machine { scripts, context, threads: Mutex::default(), collected: AtomicUsize::new(0), chunks, lua })
    }

    /// The phases that the script at this place has functions for.
    pub fn phases(&self, at: usize) -> Phases {
        let hooks = &self.scripts[at].hooks;
        Phase::ALL
            .into_iter()
            .filter(|phase| hooks[*phase as usize].is_some())
            .fold(Phases::NONE, |set, phase| set.with(Phases::of(&[phase])))
    }

    /// A script's function for a phase.
    pub fn hook(&self, at: usize, phase: Phase) -> Option<&Function> {
        self.scripts[at].hooks[phase as usize].as_ref()
    }

    /// The `ctx` of every script.
    pub fn context(&self) -> &mlua::AnyUserData {
        &self.context
    }

    /// Where the script's function of a phase begins, as `file:line`, for errors that know no line of their own.
    pub fn place(&self, at: usize, phase: Phase) -> Option<String> {
        let info = self.hook(at, phase)?.info();
        Some(format!("{}:{}", info.short_src?, info.line_defined?))
    }

    /// Bytes in use.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Collects garbage. False when even that failed.
    pub fn collect(&self) -> bool {
        let collected = self.lua.gc_collect().is_ok();
        self.collected.store(self.memory(), Relaxed);
        collected
    }

    /// Collects it when calls have left so much that the next one might run out of its `bound`: large texts come faster
    /// than the engine's own steps take them away. What is in use for good is not looked through at each call. The bytes in
    /// use afterwards.
    pub fn tidy(&self, bound: usize) -> usize {
        let used = self.memory();
        if used > bound / 2 && used > self.collected.load(Relaxed) + bound / 4 {
            self.collect();
            return self.memory();
        }
        used
    }

    /// Calls a script's function to its end and reads what it decided.
    pub fn call(&self, at: usize, running: &Running, subject: Subject) -> mlua::Result<Verdict> {
        let Some(hook) = &self.scripts[at].hooks[running.cx.phase as usize] else { return Ok(Verdict::Pass) };
        let value = match views::show(running, subject) {
            Some(seen) => hook.call::<Lv>((seen, &self.context))?,
            None => hook.call::<Lv>(&self.context)?,
        };
        self.read(&running.cx, value)
    }

    /// Calls a script's function for one turn.
    pub fn begin(&self, at: usize, running: &Running, subject: Subject) -> mlua::Result<Step> {
        let Some(hook) = &self.scripts[at].hooks[running.cx.phase as usize] else {
            return Ok(Step::Over(Verdict::Pass));
        };
        let thread = self.thread(hook)?;
        let returned = match views::show(running, subject) {
            Some(seen) => turn::resume(running, &thread, (seen, &self.context))?,
            None => turn::resume(running, &thread, &self.context)?,
        };
        self.after(running, Suspended { thread }, returned)
    }

    /// Goes on with a call for another turn.
    pub fn go_on(&self, running: &Running, call: Suspended) -> mlua::Result<Step> {
        let returned = turn::resume(running, &call.thread, ())?;
        self.after(running, call, returned)
    }

    fn after(&self, running: &Running, call: Suspended, returned: Option<Lv>) -> mlua::Result<Step> {
        let Some(value) = returned else { return Ok(Step::Way(call)) };
        let verdict = self.read(&running.cx, value)?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.len() < THREAD_POOL {
            threads.push(call.thread);
        }
        Ok(Step::Over(verdict))
    }

    /// A coroutine that is about to run this function.
    fn thread(&self, hook: &Function) -> mlua::Result<Thread> {
        let rested = self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match rested {
            Some(thread) => thread.reset(hook.clone()).map(|()| thread),
            None => self.lua.create_thread(hook.clone()),
        }
    }

    /// Begins a call that may wait. None when there is no such function.
    pub fn start(
        &self,
        at: usize,
        running: &Running,
        subject: Subject,
    ) -> Option<impl Future<Output = Returned> + Send + use<>> {
        let hook = self.scripts[at].hooks[running.cx.phase as usize].as_ref()?;
        Some(match views::show(running, subject) {
            Some(seen) => hook.call_async::<Lv>((seen, &self.context)),
            None => hook.call_async::<Lv>(&self.context),
        })
    }

    /// The verdict in a returned value.
    pub fn read(&self, cx: &Cx, value: Lv) -> mlua::Result<Verdict> {
        read::verdict(cx.phase, cx.lease.budget().output, &value)
    }
}

/// A sandboxed machine without a script, and what `furnish` made in it before it was closed.
pub(super) fn bare<T>(memory: usize, furnish: impl FnOnce(&Lua) -> mlua::Result<T>) -> mlua::Result<(Lua, T)> {
    let libraries =
        StdLib::MATH | StdLib::STRING | StdLib::TABLE | StdLib::COROUTINE | StdLib::UTF8 | StdLib::BIT | StdLib::BUFFER;
    // For the library of ours alone, see below.
    let libraries = libraries | StdLib::DEBUG;
    // `catch_rust_panics(false)` would put a `pcall` in place across which nothing can wait.
    let options = LuaOptions::new().thread_pool_size(THREAD_POOL);
    let lua = Lua::new_with(libraries, options)?;
    for name in ["print", "require", "loadstring", "load", "getfenv", "setfenv", "newproxy", "collectgarbage", "gcinfo"]
    {
        lua.globals().raw_remove(name)?;
    }
    library::mend(&lua)?;
    lua.globals().raw_remove("debug")?;
    let furnished = furnish(&lua)?;
    lua.sandbox(true)?;
    lua.set_memory_limit(memory)?;
    lua.set_interrupt(turn::safepoint);
    Ok((lua, furnished))
}

/// Loads one script under the lease of its loading, and lets it look at its settings.
fn load(lua: &Lua, recipe: &Recipe, modules: &Table, chunks: &coverage::Chunks) -> Result<Loaded, String> {
    let guest = &recipe.guest;
    let cx = Cx {
        guest: guest.clone(),
        phase: Phase::Init,
        visit: Arc::new(Visit::nobody(0)),
        apart: None,
        world: None,
        lease: Lease::new(guest.budget.of(Phase::Init)),
        awaits: false,
        gives_way: false,
    };
    let running = Arc::new(Running::new(cx));
    let loaded = running.turn(&mut Spent::default(), || run(lua, recipe, modules, chunks));
    let killed = running.cx.lease.killed();
    if let Some(killed) = killed {
        let place = running.ended_at().unwrap_or(&recipe.bundle.main.label);
        return Err(format!("{place}: loading it {}", running.cx.lease.explain(killed)));
    }
    loaded.map_err(|error| {
        let (label, budget) = (&recipe.bundle.main.label, guest.budget);
        let said = match read::is_memory(&error) {
            true => format!("loading it needed more than {} bytes; raise `budget.memory`", budget.memory),
            false => read::message(&error),
        };
        if read::has_place(&said) || said.starts_with(label.as_str()) { said } else { format!("{label}: {said}") }
    })
}

fn run(lua: &Lua, recipe: &Recipe, modules: &Table, chunks: &coverage::Chunks) -> mlua::Result<Loaded> {
    let env = environment(lua, recipe, modules, chunks)?;
    let main = chunk(lua, &recipe.bundle.main.label, &recipe.main, &env, chunks)?;
    let returned: Lv = main.call(())?;
    let hooks = match &returned {
        Lv::Table(table) => table.clone(),
        Lv::Nil => env.clone(),
        other => {
            let text = format!(
                "{}: returns {}; return nothing, or a table of `on_` functions",
                recipe.bundle.main.label,
                convert::kind_of(other)
            );
            return Err(Error::runtime(text));
        }
    };
    let mut functions: [Option<Function>; Phase::ALL.len()] = Default::default();
    for phase in Phase::ALL {
        let name = function_name(phase);
        functions[phase as usize] = match hooks.raw_get::<Lv>(name.as_str())? {
            Lv::Nil => None,
            Lv::Function(function) => Some(function),
            other => {
                let (label, kind) = (&recipe.bundle.main.label, convert::kind_of(&other));
                return Err(Error::runtime(format!("{label}: {name} is {kind}, not a function")));
            }
        };
    }
    misspelt(&hooks, &recipe.bundle.main.label)?;
    for name in Phase::ALL.map(function_name) {
        if hooks.raw_get::<Lv>(name.as_str())?.is_nil() && !env.raw_get::<Lv>(name.as_str())?.is_nil() {
            let label = &recipe.bundle.main.label;
            let text =
                format!("{label}: returns a table without `{name}`, so that the global of this name would never run");
            return Err(Error::runtime(text));
        }
    }
    if functions[1..].iter().all(Option::is_none) {
        let label = &recipe.bundle.main.label;
        let text = format!(
            "{label}: has no `on_` function, so it would never run; a hook is a global of the file, as in `function \
             on_request(req, ctx)`, or a field of a table that it returns"
        );
        return Err(Error::runtime(text));
    }
    if let Some(init) = &functions[Phase::Init as usize] {
        init.call::<()>(convert::to_lua(lua, &recipe.config)?)?;
    }
    env.set_readonly(true);
    Ok(Loaded { hooks: functions })
}

/// A function that is called like a hook and is none would never run, and nobody would know.
fn misspelt(hooks: &Table, label: &str) -> mlua::Result<()> {
    hooks.for_each(|key: Lv, value: Lv| {
        let (Lv::String(key), Lv::Function(_)) = (key, value) else { return Ok(()) };
        let key = key.to_string_lossy();
        let known = Phase::ALL.iter().any(|phase| function_name(*phase) == key);
        if !key.starts_with("on_") || known {
            return Ok(());
        }
        let names: Vec<String> = Phase::ALL.iter().map(|phase| function_name(*phase)).collect();
        Err(Error::runtime(format!("{label}: `{key}` is no hook; there are: {}", names.join(", "))))
    })
}

/// A source in an environment, ready to run.
pub(super) fn chunk(
    lua: &Lua,
    label: &str,
    code: &[u8],
    env: &Table,
    chunks: &coverage::Chunks,
) -> mlua::Result<Function> {
    // The engine binds names like `gw.time.now_ms` once, as it loads a source, and looks for them among the machine's
    // globals whatever the environment is: what differs from script to script stands there meanwhile.
    let globals = lua.globals();
    for name in OWN {
        globals.raw_set(*name, env.raw_get::<Lv>(*name)?)?;
    }
    // `=` keeps the name as it is: messages then begin with file and line.
    let function = lua
        .load(code)
        .set_name(format!("={label}"))
        .set_mode(ChunkMode::Binary)
        .set_environment(env.clone())
        .into_function();
    for name in OWN {
        globals.raw_remove(*name)?;
    }
    let function = function?;
    chunks.note(label, &function);
    Ok(function)
}

/// What a script finds around it.
pub(super) fn environment(
    lua: &Lua,
    recipe: &Recipe,
    modules: &Table,
    chunks: &coverage::Chunks,
) -> mlua::Result<Table> {
    let (env, globals) = (lua.create_table()?, lua.globals());
    for name in GLOBALS {
        env.raw_set(*name, globals.get::<Lv>(*name)?)?;
    }
    let gw = lua.create_table()?;
    modules.for_each(|name: mlua::LuaString, module: Lv| gw.raw_set(name, module))?;
    let config = convert::to_lua(lua, &recipe.config)?;
    if let Lv::Table(config) = &config {
        freeze(config)?;
    }
    gw.raw_set("config", config)?;
    api::guard(lua, &gw, "gw".to_owned())?;
    gw.set_readonly(true);
    env.raw_set("gw", gw)?;
    env.raw_set("print", api::print(lua)?)?;
    env.raw_set("require", require(lua, recipe, &env, chunks.clone())?)?;
    // Lets the compiler's shortcuts to builtins and `gw.module.name` work: nothing above changes any more.
    env.set_safeenv(true);
    Ok(env)
}

fn freeze(table: &Table) -> mlua::Result<()> {
    table.for_each(|_: Lv, value: Lv| if let Lv::Table(inner) = value { freeze(&inner) } else { Ok(()) })?;
    table.set_readonly(true);
    Ok(())
}

/// `require` of files beside the script, each run once; while the script is loaded only.
fn require(lua: &Lua, recipe: &Recipe, env: &Table, chunks: coverage::Chunks) -> mlua::Result<Function> {
    let modules = recipe.modules.clone();
    let done = lua.create_table()?;
    let env = env.clone();
    lua.create_function(move |lua, name: String| -> Returned {
        if running()?.cx.phase != Phase::Init {
            return Err(Error::runtime("require works while a script is loaded; call it at the top of the file"));
        }
        let bare = name.trim_start_matches("./").trim_end_matches(".luau").to_owned();
        let Some((label, code)) = modules.get(&bare) else {
            let mut known: Vec<&str> = modules.keys().map(String::as_str).collect();
            known.sort_unstable();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("this script has no module `{name}`; it has: {known}");
            return Err(Error::runtime(text));
        };
        match done.raw_get::<Lv>(bare.as_str())? {
            Lv::Nil => {}
            Lv::Boolean(false) => return Err(Error::runtime(format!("the module `{name}` requires itself"))),
            known => return Ok(known),
        }
        done.raw_set(bare.as_str(), false)?;
        let value: Lv = chunk(lua, label, code, &env, &chunks)?.call(())?;
        let value = if value.is_nil() { Lv::Boolean(true) } else { value };
        done.raw_set(bare.as_str(), &value)?;
        Ok(value)
    })
}
