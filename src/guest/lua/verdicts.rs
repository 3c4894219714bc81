//! What scripts make verdicts with, `gw.reject` and its like: tables with one name that says which.
//!
//! Only makes them; what one means, and whether its phase may have it, is read after the hook has returned.

use mlua::{Function, Lua, LuaString, Result, Table, Value as Lv};

/// Adds them to the modules of `gw`.
pub(super) fn add(lua: &Lua, modules: &Table) -> Result<()> {
    let wrap = |lua: &Lua, name: &str, inner: Table| -> Result<Table> {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set(name, inner)?;
        Ok(table)
    };
    let set = |name: &str, function: Function| modules.raw_set(name, function);
    set(
        "respond",
        lua.create_function(move |lua, (status, body, headers): (f64, Lv, Option<Table>)| {
            let inner = lua.create_table_with_capacity(0, 3)?;
            inner.raw_set("status", status)?;
            inner.raw_set("body", body)?;
            inner.raw_set("headers", headers)?;
            wrap(lua, "respond", inner)
        })?,
    )?;
    set(
        "say",
        lua.create_function(move |lua, text: LuaString| {
            let inner = lua.create_table_with_capacity(0, 1)?;
            inner.raw_set("say", text)?;
            wrap(lua, "respond", inner)
        })?,
    )?;
    set(
        "reject",
        lua.create_function(
            move |lua, (code, message, status, wait): (LuaString, LuaString, Option<f64>, Option<f64>)| {
                let inner = lua.create_table_with_capacity(0, 4)?;
                inner.raw_set("code", code)?;
                inner.raw_set("message", message)?;
                inner.raw_set("status", status)?;
                inner.raw_set("retry_after_ms", wait)?;
                wrap(lua, "reject", inner)
            },
        )?,
    )?;
    set(
        "same",
        lua.create_function(move |lua, after_ms: Option<f64>| {
            let inner = lua.create_table_with_capacity(0, 1)?;
            inner.raw_set("after_ms", after_ms.unwrap_or(0.0))?;
            wrap(lua, "same", inner)
        })?,
    )?;
    set(
        "stop",
        lua.create_function(move |lua, inner: Option<Table>| {
            let inner = inner.map_or_else(|| lua.create_table(), Ok)?;
            wrap(lua, "stop", inner)
        })?,
    )?;
    set(
        "fault",
        lua.create_function(move |lua, message: Option<LuaString>| {
            let inner = lua.create_table_with_capacity(0, 1)?;
            inner.raw_set("message", message)?;
            wrap(lua, "fault", inner)
        })?,
    )?;
    set(
        "drop",
        lua.create_function(move |lua, ()| {
            let table = lua.create_table_with_capacity(0, 1)?;
            table.raw_set("drop", true)?;
            Ok(table)
        })?,
    )
}
