//! Test files of policies: a machine of their own, with `t` around a stage that somebody else sets up.
//!
//! Runs the file and hands over what it says; the policy itself runs elsewhere, in the production engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlua::{Error, Function, Lua, LuaOptions, StdLib, Value as Lv, VmState};
use serde_json::Value;

use super::convert::{Left, to_json, to_lua};
use super::read;

/// What test files find as `t`.
const PRELUDE: &str = include_str!("trial.luau");

/// Bytes that one call of the stage may hold.
const MAX_CALL_BYTES: usize = 8 << 20;

/// Memory of a test file.
const MEMORY: usize = 256 << 20;

/// Calls in each other that are looked through for the file's own line.
const MAX_FRAMES: usize = 64;

/// What happens on the stage: a word and what is said with it, as JSON both ways.
pub type Stage = Box<dyn FnMut(&str, Value) -> Result<Value, String> + Send>;

/// The time that what runs has had, once it is over.
pub type Over = Box<dyn Fn() -> Option<Duration> + Send>;

/// Runs a test file against a stage. Whatever runs when its time is over is ended, at its next safepoint and at every
/// further one, so that no `pcall` saves it; the stage hears `end` when a test has come to its end, well or not.
///
/// # Errors
/// The file does not compile, or breaks outside its tests: file, line and what is wrong.
pub fn run(label: &str, source: &str, over: Over, stage: Stage) -> Result<(), String> {
    let said = |error: Error| read::message(&error);
    let libraries = StdLib::MATH | StdLib::STRING | StdLib::TABLE | StdLib::COROUTINE | StdLib::UTF8 | StdLib::BIT;
    let lua = Lua::new_with(libraries, LuaOptions::new()).map_err(said)?;
    for name in ["require", "loadstring", "getfenv", "setfenv", "newproxy", "collectgarbage", "gcinfo"] {
        lua.globals().raw_remove(name).map_err(said)?;
    }
    let stage = Arc::new(Mutex::new(stage));
    let ends = stage.clone();
    let host = lua.create_function(move |lua, (word, said): (String, Lv)| {
        let said = to_json(&said, &mut Left::new(MAX_CALL_BYTES))?;
        // An error goes over as a text: the prelude throws it from the test's own line.
        match say(&stage, &word, said) {
            Ok(answer) => Ok((true, to_lua(lua, &answer)?)),
            Err(text) => Ok((false, Lv::String(lua.create_string(text)?))),
        }
    });
    // Not the prelude's `pcall`: between a test that is ended and the end of its time the prelude would be ended too.
    let attempt = lua.create_function(move |_, body: Function| {
        let outcome = body.call::<()>(());
        let ended = say(&ends, "end", Value::Null);
        Ok(outcome.err().map(|error| told(&error)).or(ended.err()))
    });
    for (name, function) in [("host", host), ("attempt", attempt)] {
        lua.globals().raw_set(name, function.map_err(said)?).map_err(said)?;
    }
    let t: Lv = lua.load(PRELUDE).set_name("=t").call(()).map_err(said)?;
    lua.globals().raw_set("t", t).map_err(said)?;
    for name in ["host", "attempt"] {
        lua.globals().raw_remove(name).map_err(said)?;
    }
    lua.set_memory_limit(MEMORY).map_err(said)?;
    let file = label.to_owned();
    lua.set_interrupt(move |lua| match over() {
        Some(time) => Err(Error::runtime(format!("{} did not end within {time:?}", place(lua, &file)))),
        None => Ok(VmState::Continue),
    });
    lua.load(source).set_name(format!("={label}")).exec().map_err(said)
}

fn say(stage: &Mutex<Stage>, word: &str, said: Value) -> Result<Value, String> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)(word, said)
}

/// What went wrong in a test; what it says of tables may be long.
fn told(error: &Error) -> String {
    match error {
        Error::RuntimeError(text) => text.split("\nstack traceback:").next().unwrap_or(text).to_owned(),
        other => read::message(other),
    }
}

/// Where the file is.
fn place(lua: &Lua, file: &str) -> String {
    let line = |level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let own = source.source.is_some_and(|source| source.trim_start_matches('=') == file);
            frame.current_line().filter(|_| own)
        })
    };
    match (0..MAX_FRAMES).map_while(line).flatten().next() {
        Some(line) => format!("{file}:{line}:"),
        None => format!("{file}:"),
    }
}
