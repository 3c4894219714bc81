//! Test files of policies: a machine of their own, with `t` around a stage that somebody else sets up.
//!
//! Runs the file and hands over what it says; the policy itself runs elsewhere, in the production engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlua::{Error, Lua, LuaOptions, StdLib, Value as Lv, VmState};
use serde_json::Value;

use super::convert::{Left, to_json, to_lua};
use super::read;

/// What test files find as `t`.
const PRELUDE: &str = include_str!("trial.luau");

/// Bytes that one call of the stage may hold.
const MAX_CALL_BYTES: usize = 8 << 20;

/// Memory of a test file.
const MEMORY: usize = 256 << 20;

/// What happens on the stage: a word and what is said with it, as JSON both ways.
pub type Stage = Box<dyn FnMut(&str, Value) -> Result<Value, String> + Send>;

/// Runs a test file against a stage, for at most so much real time.
///
/// # Errors
/// The file does not compile, or breaks outside its tests: file, line and what is wrong.
#[expect(clippy::disallowed_types, reason = "bounds real time; the runtime's is the test's own")]
pub fn run(label: &str, source: &str, time: Duration, stage: Stage) -> Result<(), String> {
    let said = |error: Error| read::message(&error);
    let libraries = StdLib::MATH | StdLib::STRING | StdLib::TABLE | StdLib::COROUTINE | StdLib::UTF8 | StdLib::BIT;
    let lua = Lua::new_with(libraries, LuaOptions::new()).map_err(said)?;
    for name in ["require", "loadstring", "getfenv", "setfenv", "newproxy", "collectgarbage", "gcinfo"] {
        lua.globals().raw_remove(name).map_err(said)?;
    }
    let stage = Arc::new(Mutex::new(stage));
    let host = lua.create_function(move |lua, (word, said): (String, Lv)| {
        let said = to_json(&said, &mut Left::new(MAX_CALL_BYTES))?;
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        // An error goes over as a text: the prelude throws it from the test's own line.
        match stage(&word, said) {
            Ok(answer) => Ok((true, to_lua(lua, &answer)?)),
            Err(text) => Ok((false, Lv::String(lua.create_string(text)?))),
        }
    });
    lua.globals().raw_set("host", host.map_err(said)?).map_err(said)?;
    let t: Lv = lua.load(PRELUDE).set_name("=t").call(()).map_err(said)?;
    lua.globals().raw_set("t", t).map_err(said)?;
    lua.globals().raw_remove("host").map_err(said)?;
    lua.set_memory_limit(MEMORY).map_err(said)?;
    let began = std::time::Instant::now();
    lua.set_interrupt(move |_| match began.elapsed() > time {
        true => Err(Error::runtime(format!("the file has run for more than {time:?}"))),
        false => Ok(VmState::Continue),
    });
    lua.load(source).set_name(format!("={label}")).exec().map_err(said)
}
