//! Library functions in forms that can be stopped, and that give way: the built-in ones look at no budget while they
//! search, split, sort, join or move, and some take quadratic time; and a coroutine that gives way would seem to have
//! yielded.
//!
//! Results are those of the built-in ones. Put in before the machine is sandboxed; scripts cannot tell them apart.

use std::time::Duration;

use mlua::chunk::Compiler;
use mlua::{Error, Function, Lua, LuaString, Result, Table, Value, Variadic};

use super::{read, turn};

/// Pieces between two looks at the budget.
const PIECES: usize = 1024;

/// What an element of a list takes.
const ELEMENT_BYTES: f64 = 16.0;

/// What it takes to compare a byte of a text with one of a set.
const COMPARED: Duration = Duration::from_nanos(1);

/// What the engine throws when a machine is full.
const NO_MEMORY: &[u8] = b"not enough memory";

/// Replaces what cannot be stopped.
pub(super) fn mend(lua: &Lua) -> Result<()> {
    let seek = lua.create_function(|_, (text, wanted, init): (LuaString, LuaString, Option<f64>)| {
        let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
        let length = text.len() as f64;
        // As the built-in one reads it: from the end when negative, never before the begin.
        let init = match init.unwrap_or(1.0).trunc() {
            init if init < 0.0 => (length + init + 1.0).max(1.0),
            init => init.max(1.0),
        };
        let from = init as usize - 1;
        let seek = || text.get(from..).and_then(|rest| memchr::memmem::find(rest, &wanted));
        let found = turn::working(text.len(), seek);
        Ok(match found {
            Some(at) => Variadic::from_iter([Some(from + at + 1), Some(from + at + wanted.len())]),
            None => Variadic::from_iter([None]),
        })
    })?;
    let cut = lua.create_function(|lua, (text, separator): (LuaString, Option<LuaString>)| {
        let (text, comma) = (text.as_bytes(), b",".as_slice());
        let separator = separator.as_ref().map(LuaString::as_bytes);
        let separator = separator.as_deref().unwrap_or(comma);
        let pieces = lua.create_table()?;
        if separator.is_empty() {
            for (at, byte) in text.iter().enumerate() {
                piece(lua, &pieces, at, &[*byte])?;
            }
            return Ok(pieces);
        }
        let (mut from, mut count) = (0, 0);
        for at in memchr::memmem::find_iter(&text, separator) {
            piece(lua, &pieces, count, &text[from..at])?;
            (from, count) = (at + separator.len(), count + 1);
        }
        piece(lua, &pieces, count, &text[from..])?;
        Ok(pieces)
    })?;
    let weigh = lua.create_function(|_, (length, pattern): (usize, LuaString)| {
        let set = repeated_set(&pattern.as_bytes());
        match turn::has_time_for(COMPARED.saturating_mul(u32::try_from(length.saturating_mul(set)).unwrap_or(u32::MAX)))
        {
            true => Ok(()),
            false => Err(Error::runtime(format!(
                "a set of {set} bytes may take too long on a text of {length} bytes; write a shorter one, or look at \
                 the text in parts"
            ))),
        }
    })?;
    // What the gateway threw, in the words that a person reads. Memory that has run out is not to be caught.
    let words = lua.create_function(|lua, error: Value| match error {
        Value::Error(error) if read::is_memory(&error) => {
            turn::out_of_memory(lua);
            Err(*error)
        }
        Value::String(text) if text.as_bytes() == NO_MEMORY => {
            turn::out_of_memory(lua);
            Err(Error::MemoryError("not enough memory".to_owned()))
        }
        Value::Error(error) => Ok(Some(read::message(&error))),
        _ => Ok(None),
    })?;
    // A text or a value so many times over: one call that may fill a machine.
    let rep: Function = lua.globals().get::<Table>("string")?.get("rep")?;
    let fill = lua.create_function(move |_, (text, times): (LuaString, f64)| {
        let bytes = text.as_bytes().len() as f64 * times;
        turn::working(bytes as usize, || rep.call::<Value>((text, times)))
    })?;
    let create: Function = lua.globals().get::<Table>("table")?.get("create")?;
    let make = lua.create_function(move |_, (count, value): (f64, Value)| {
        let bytes = ELEMENT_BYTES * count;
        turn::working(bytes as usize, || create.call::<Value>((count, value)))
    })?;
    let again = lua.create_function(|_, ()| {
        turn::again();
        Ok(())
    })?;
    let ended = lua.create_function(|_, ()| Ok(turn::has_ended()))?;
    let whose = lua.create_function(|_, ()| turn::with_running(|call| Ok(call.id() as f64)))?;
    // Without lines of its own: an error of what it calls is one of the script's line.
    let library = lua.load(include_str!("library.luau")).set_name("=library");
    library.set_compiler(Compiler::new().set_debug_level(0)).call((
        seek,
        cut,
        weigh,
        words,
        again,
        whose,
        ended,
        fill,
        make,
        Lua::poll_pending(),
    ))
}

/// Bytes of the longest set in a pattern that is repeated, read as the engine reads it.
fn repeated_set(pattern: &[u8]) -> usize {
    let (mut at, mut longest) = (0, 0);
    while at < pattern.len() {
        let from = at;
        at += match &pattern[at..] {
            [b'%', b'b', ..] => 4,
            [b'%', ..] | [b'[', b'^', ..] => 2,
            _ => 1,
        };
        if pattern[from] != b'[' {
            continue;
        }
        // What comes first is of the set, whatever it is.
        loop {
            at += if pattern.get(at) == Some(&b'%') { 2 } else { 1 };
            if at >= pattern.len() || pattern[at] == b']' {
                break;
            }
        }
        at += 1;
        if matches!(pattern.get(at), Some(b'*' | b'+')) {
            longest = longest.max(at - from);
        }
    }
    longest
}

fn piece(lua: &Lua, pieces: &Table, at: usize, bytes: &[u8]) -> Result<()> {
    if at.is_multiple_of(PIECES) {
        turn::step()?;
    }
    pieces.raw_seti(at + 1, lua.create_string(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_of_a_pattern_are_found() {
        for (pattern, bytes) in [
            ("", 0),
            ("a*b", 0),
            ("[abc]", 0),
            ("[abc]-[ab]?", 0),
            ("^([ab]+)[^abc]*$", 6),
            ("[]ab]*", 5),
            ("[^]ab]*", 6),
            ("[%]a]+", 5),
            ("%[abc]*", 0),
            ("%b]%[abc]*", 5),
            ("%f[ab][abc]*", 5),
            ("[ab", 0),
            ("[", 0),
            ("[^", 0),
            ("[a%", 0),
            ("%", 0),
            ("%b", 0),
        ] {
            assert_eq!(repeated_set(pattern.as_bytes()), bytes, "{pattern}");
        }
    }
}
