//! Between Lua values and JSON, within bounds.
//!
//! Tables are read raw: a metatable of the guest's never runs here. Each table is a safepoint, as each turn of a loop is.

use mlua::{Error, Lua, LuaSerdeExt, Result, Table, Value as Lv};
use serde_json::{Map, Number, Value};

use super::list::{self, List};
use super::turn;
use super::views::{SECRET, SecretHandle};
use crate::host::MAX_WHOLE;
use crate::host::lease::MAX_DEPTH;

/// A value on its way to Lua. Nulls are absent in objects and `gw.null` in arrays.
pub fn to_lua(lua: &Lua, value: &Value) -> Result<Lv> {
    Ok(match value {
        Value::Null => lua.null(),
        Value::Bool(bool) => Lv::Boolean(*bool),
        Value::Number(number) => Lv::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Lv::String(lua.create_string(text)?),
        Value::Array(items) => {
            turn::step()?;
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (at, item) in items.iter().enumerate() {
                table.raw_seti(at + 1, to_lua(lua, item)?)?;
            }
            table.set_metatable(Some(lua.array_metatable()))?;
            Lv::Table(table)
        }
        Value::Object(entries) => {
            turn::step()?;
            let table = lua.create_table_with_capacity(0, entries.len())?;
            for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
                table.raw_set(key.as_str(), to_lua(lua, value)?)?;
            }
            Lv::Table(table)
        }
    })
}

/// What kind of value it is, in the words of the guide.
pub fn kind_of(value: &Lv) -> &'static str {
    match value {
        Lv::Nil => "nothing",
        Lv::LightUserData(data) if data.0.is_null() => "gw.null",
        Lv::Boolean(_) => "a boolean",
        Lv::Integer(_) | Lv::Number(_) => "a number",
        Lv::String(_) => "a text",
        Lv::Table(_) => "a table",
        Lv::Function(_) => "a function",
        Lv::Thread(_) => "a coroutine",
        Lv::UserData(data) if data.is::<SecretHandle>() => "a secret",
        Lv::UserData(_) | Lv::LightUserData(_) => "a view of the gateway's",
        _ => "something else",
    }
}

/// What is left to read of a value.
pub struct Left {
    bytes: usize,
}

impl Left {
    pub fn new(bytes: usize) -> Self {
        Left { bytes }
    }

    /// Takes so many bytes of what is left.
    ///
    /// # Errors
    /// There are not so many.
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| Error::runtime(TOO_LARGE))?;
        Ok(())
    }
}

/// The text of the error of a value that is larger than it may be.
pub const TOO_LARGE: &str = "the value is larger than `budget.output` allows";

/// A value on its way from Lua.
pub fn to_json(value: &Lv, left: &mut Left) -> Result<Value> {
    nested(value, left, 0)
}

fn nested(value: &Lv, left: &mut Left, depth: usize) -> Result<Value> {
    left.take(8)?;
    if depth > MAX_DEPTH {
        return Err(Error::runtime(format!("a value is nested deeper than {MAX_DEPTH} tables")));
    }
    Ok(match value {
        Lv::Nil => Value::Null,
        Lv::LightUserData(data) if data.0.is_null() => Value::Null,
        Lv::Boolean(bool) => Value::Bool(*bool),
        Lv::Integer(number) => Value::from(*number),
        Lv::Number(number) => self::number(*number)?,
        Lv::String(text) => {
            left.take(text.as_bytes().len())?;
            Value::String(text.to_str()?.to_owned())
        }
        Lv::Table(table) => table_to_json(table, left, depth)?,
        Lv::UserData(data) if data.is::<SecretHandle>() => return Err(Error::runtime(SECRET)),
        other => return Err(Error::runtime(format!("{} is no JSON", kind_of(other)))),
    })
}

/// Whole numbers stay whole.
pub fn number(number: f64) -> Result<Value> {
    if number.fract() == 0.0 && number.abs() <= MAX_WHOLE {
        return Ok(Value::from(number as i64));
    }
    let number = Number::from_f64(number).ok_or_else(|| Error::runtime(format!("{number} is no JSON number")))?;
    Ok(Value::Number(number))
}

fn table_to_json(table: &Table, left: &mut Left, depth: usize) -> Result<Value> {
    turn::step()?;
    let (mut list, mut names) = (List::default(), Map::new());
    table.for_each(|key: Lv, value: Lv| {
        let value = nested(&value, left, depth + 1)?;
        match (list::place(&key), &key) {
            (Some(place), _) => list.put(place, value),
            (None, Lv::String(name)) => {
                left.take(name.as_bytes().len())?;
                names.insert(name.to_str()?.to_owned(), value);
            }
            (None, other) => {
                return Err(Error::runtime(format!("{} as a name is no JSON; names are texts", kind_of(other))));
            }
        }
        if list.len() > 0 && !names.is_empty() {
            return Err(Error::runtime("a table with both a list and names in it is no JSON"));
        }
        Ok(())
    })?;
    if list.len() > 0 || names.is_empty() && table.has_metatable() && is_array(table) {
        return list.whole(|_| left.take(8).map(|()| Value::Null)).map(Value::Array);
    }
    // Lua's order is its own; a sorted one is the same on every machine.
    names.sort_keys();
    Ok(Value::Object(names))
}

/// Whether an empty table came from a JSON array.
fn is_array(table: &Table) -> bool {
    let array = table.weak_lua().try_upgrade().map(|lua| lua.array_metatable());
    table.metatable() == array
}
