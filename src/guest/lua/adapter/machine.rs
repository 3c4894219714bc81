//! A machine with one adapter in it, and how its functions are called.
//!
//! A call runs on a coroutine and gives way to others when its turn is over. What broke is never used again: whoever calls
//! drops it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use mlua::{Error, IntoLuaMulti, Lua, MultiValue, Value as Lv};

use super::super::entries::{Entries, wrong};
use super::super::machine::{Recipe, bare, chunk, environment};
use super::super::turn::{self, Running, Spent};
use super::super::{api, convert, coverage, read};
use crate::guest::adapter::{Description, Function, cx};
use crate::guest::pool::Rests;
use crate::guest::{Failed, Used, give_way};
use crate::host::{Cx, Killed, Visit};

/// Machines of all adapters together, those at rest and those in streams: each takes less than a MiB by itself.
const MAX_MACHINES: usize = 4000;

static MACHINES: AtomicUsize = AtomicUsize::new(0);

/// A machine's place among [`MAX_MACHINES`].
struct Place;

impl Place {
    fn take() -> Result<Place, Failed> {
        let there = MACHINES.fetch_add(1, Relaxed);
        // Given back by its drop where it is one too many.
        let place = Place;
        match there < MAX_MACHINES {
            true => Ok(place),
            false => Err(Failed::new(format!("there are {MAX_MACHINES} machines of adapters already"))),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        MACHINES.fetch_sub(1, Relaxed);
    }
}

/// Why a call gave nothing, with file and line where the engine knows them.
fn failed(error: &Error) -> Failed {
    Failed { killed: read::is_memory(error).then_some(Killed::Memory), message: read::message(error) }
}

/// What a script gives the gateway to call.
pub struct Exports {
    pub encode: mlua::Function,
    pub decode: mlua::Function,
    pub decode_error: Option<mlua::Function>,
    pub decoder: Option<mlua::Function>,
}

/// The names of what scripts may give.
const EXPORTS: &[&str] = &["encode", "decode", "decode_error", "decoder", "on_init"];

/// A machine, ready for the next call.
pub struct Warm {
    // Declared before `lua`: handles must not outlive their machine.
    pub exports: Exports,
    chunks: coverage::Chunks,
    lua: Lua,
    calls: u32,
    _place: Place,
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.chunks.gather();
    }
}

impl Rests for Warm {
    fn count(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }

    fn memory(&self) -> usize {
        self.lua.used_memory()
    }
}

impl Warm {
    /// Builds a machine, runs the script in it, and lets it look at its settings.
    ///
    /// # Errors
    /// What is wrong with the script, with file and line.
    pub async fn build(recipe: &Recipe, visit: &Arc<Visit>) -> Result<Warm, Failed> {
        let place = Place::take()?;
        let furnished = bare(recipe.guest.budget.memory, |lua| {
            lua.globals().raw_remove("coroutine")?;
            api::tools(lua)
        });
        let (lua, gw) = furnished.map_err(|error| failed(&error))?;
        let chunks = coverage::Chunks::default();
        let env = environment(&lua, recipe, &gw, &chunks).map_err(|error| failed(&error))?;
        let label = &recipe.bundle.main.label;
        let main = chunk(&lua, label, &recipe.main, &env, &chunks).map_err(|error| failed(&error))?;
        let cx = || cx(&recipe.guest, visit, Function::Start);
        let globals = env.clone();
        let (found, _) =
            run(&lua, cx(), &main, |_| Ok(MultiValue::new()), |values| exports(values, globals, label)).await;
        let (exports, init) = found?;
        if let Some(init) = init {
            let give = |lua: &Lua| convert::to_lua(lua, &recipe.config)?.into_lua_multi(lua);
            run(&lua, cx(), &init, give, |_| Ok(())).await.0?;
        }
        env.set_readonly(true);
        Ok(Warm { exports, chunks, lua, calls: 0, _place: place })
    }

    /// Whether the script has what its manifest says.
    ///
    /// # Errors
    /// What of it is missing.
    pub fn fits(&self, description: &Description) -> Result<(), String> {
        match (description.framing, &self.exports.decoder) {
            (Some(_), None) => Err("has a `framing`, and no function `decoder` that would read streams".to_owned()),
            (None, Some(_)) => {
                Err("has a `decoder`, and its manifest does not say in which pieces streams are to come; add \
                     framing = \"lines\", \"events\" or \"bytes\" to [adapter]"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Collects garbage where there is more than so much.
    pub fn tidy(&self, bytes: usize) {
        if self.lua.used_memory() > bytes {
            // What cannot be collected is seen to be fat.
            let _ = self.lua.gc_collect();
        }
    }

    /// Calls one of its functions. What is given and taken counts as the call's own work.
    ///
    /// # Errors
    /// It broke.
    pub async fn run<T>(
        &self,
        cx: Cx,
        function: &mlua::Function,
        give: impl FnOnce(&Lua) -> mlua::Result<MultiValue>,
        take: impl FnOnce(MultiValue) -> mlua::Result<T>,
    ) -> (Result<T, Failed>, Used) {
        let (outcome, used) = run(&self.lua, cx, function, give, take).await;
        let replaced = outcome.is_err();
        (outcome, Used { memory: self.lua.used_memory(), replaced, ..used })
    }
}

async fn run<T>(
    lua: &Lua,
    cx: Cx,
    function: &mlua::Function,
    give: impl FnOnce(&Lua) -> mlua::Result<MultiValue>,
    take: impl FnOnce(MultiValue) -> mlua::Result<T>,
) -> (Result<T, Failed>, Used) {
    let (running, mut spent) = (Arc::new(Running::new(cx)), Spent::default());
    let mut take = Some(take);
    // Read in the turn in which it was returned, while the lease still holds: it may be large.
    let mut read = |returned: Option<MultiValue>| {
        let Some(values) = returned else { return Ok(None) };
        let take = take.take().ok_or_else(|| Error::runtime("a call that had ended was asked again"))?;
        take(values).map(Some)
    };
    let outcome = async {
        let (coroutine, mut taken) = running.turn(&mut spent, || {
            let args = give(lua)?;
            let coroutine = lua.create_thread(function.clone())?;
            let taken = read(turn::resume(&running, &coroutine, args)?)?;
            Ok::<_, Error>((coroutine, taken))
        })?;
        loop {
            if let Some(taken) = taken {
                return Ok(taken);
            }
            give_way().await;
            taken = running.turn(&mut spent, || read(turn::resume(&running, &coroutine, ())?))?;
        }
    };
    let outcome = outcome.await;
    let lease = &running.cx.lease;
    // A script that caught its own end has still ended, and so has one that passed no safepoint while it ran too long.
    let outcome = match (outcome, lease.killed()) {
        (Ok(value), None) => Ok(value),
        (Ok(_), Some(killed)) => Err(Failed { killed: Some(killed), message: lease.explain(killed) }),
        (Err(error), killed) => {
            let failed = failed(&error);
            Err(Failed { killed: killed.or(failed.killed), ..failed })
        }
    };
    let (safepoints, host_calls) = (lease.safepoints(), lease.host_calls());
    (outcome, Used { cpu: spent.cpu, safepoints, host_calls, ..Used::default() })
}

/// Runs to its end what never waits for others.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

type Found = (Exports, Option<mlua::Function>);

/// What a script exports: the fields of the table that it returned, or its globals.
fn exports(values: MultiValue, globals: mlua::Table, label: &str) -> mlua::Result<Found> {
    let returned = values.into_iter().next().unwrap_or(Lv::Nil);
    let table = match &returned {
        Lv::Nil => globals,
        Lv::Table(table) => {
            known(table, label)?;
            table.clone()
        }
        other => {
            let text = format!(
                "{label}: returns a {}; return nothing, or a table with: {}",
                other.type_name(),
                EXPORTS.join(", ")
            );
            return Err(Error::runtime(text));
        }
    };
    let find = |name: &str| match table.raw_get::<Lv>(name)? {
        Lv::Nil => Ok(None),
        Lv::Function(function) => Ok(Some(function)),
        other => Err(Error::runtime(format!("{label}: `{name}` is a {}, not a function", other.type_name()))),
    };
    let must = |name: &str, why: &str| {
        find(name)?.ok_or_else(|| Error::runtime(format!("{label}: has no function `{name}`, {why}")))
    };
    let exports = Exports {
        encode: must("encode", "which writes requests")?,
        decode: must("decode", "which reads answers")?,
        decode_error: find("decode_error")?,
        decoder: find("decoder")?,
    };
    Ok((exports, find("on_init")?))
}

/// A function under a name that nobody calls would be a mistake that nobody sees.
fn known(table: &mlua::Table, label: &str) -> mlua::Result<()> {
    table.for_each(|name: Lv, _: Lv| {
        let name = name.to_string()?;
        match EXPORTS.contains(&name.as_str()) {
            true => Ok(()),
            false => {
                Err(Error::runtime(format!("{label}: an adapter has no `{name}`; it has: {}", EXPORTS.join(", "))))
            }
        }
    })
}

/// The functions of a stream's decoder: `push` alone, or a table with `push` and `finish`.
pub fn decoder(value: &Lv) -> mlua::Result<(mlua::Function, Option<mlua::Function>)> {
    match value {
        Lv::Function(push) => Ok((push.clone(), None)),
        Lv::Table(table) => {
            Entries::of(table)?.known("a decoder", &["push", "finish"])?;
            Ok((table.raw_get("push")?, table.raw_get("finish")?))
        }
        other => Err(wrong("decoder", "a function, or a table with `push` and `finish`,", other)),
    }
}
