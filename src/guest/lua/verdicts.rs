//! What scripts make verdicts with, `gw.reject` and its like: tables with one name that says which.
//!
//! Only makes them; what one means, and whether its phase may have it, is read after the hook has returned.

use mlua::{Lua, LuaString, Result, Table, Value as Lv};

use super::args::{Args, Signature};
use super::views::small;

/// Adds them to the modules of `gw`.
pub(super) fn add(lua: &Lua, modules: &Table) -> Result<()> {
    let made = Made { lua, modules };
    made.by(
        "respond",
        "(status: number, body: any, headers: { [string]: string }?)",
        |lua, (status, body, headers): (f64, Lv, Option<Table>)| {
            let inner = lua.create_table_with_capacity(0, 3)?;
            inner.raw_set("status", status)?;
            inner.raw_set("body", body)?;
            inner.raw_set("headers", headers)?;
            wrap(lua, "respond", inner)
        },
    )?;
    made.by("say", "(text: string)", |lua, text: LuaString| {
        let inner = lua.create_table_with_capacity(0, 1)?;
        inner.raw_set("say", text)?;
        wrap(lua, "respond", inner)
    })?;
    made.by(
        "reject",
        "(code: string, message: string, status: number?, retry_after_ms: number?)",
        |lua, (code, message, status, wait): (LuaString, LuaString, Option<f64>, Option<f64>)| {
            let inner = lua.create_table_with_capacity(0, 4)?;
            inner.raw_set("code", code)?;
            inner.raw_set("message", message)?;
            inner.raw_set("status", status)?;
            inner.raw_set("retry_after_ms", wait)?;
            wrap(lua, "reject", inner)
        },
    )?;
    made.by("same", "(after_ms: number?)", |lua, after_ms: Option<f64>| {
        let inner = lua.create_table_with_capacity(0, 1)?;
        inner.raw_set("after_ms", after_ms.unwrap_or(0.0))?;
        wrap(lua, "same", inner)
    })?;
    made.by("stop", "({ message: string?, code: string?, text: string? }?)", |lua, inner: Option<Table>| {
        let inner = inner.map_or_else(|| lua.create_table(), Ok)?;
        wrap(lua, "stop", inner)
    })?;
    made.by("fault", "(message: string?)", |lua, message: Option<LuaString>| {
        let inner = lua.create_table_with_capacity(0, 1)?;
        inner.raw_set("message", message)?;
        wrap(lua, "fault", inner)
    })?;
    made.by("drop", "()", |lua, ()| {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set("drop", true)?;
        Ok(table)
    })
}

struct Made<'a> {
    lua: &'a Lua,
    modules: &'a Table,
}

impl Made<'_> {
    /// A verdict is made by a function of this name, which is called so.
    fn by<A: Args>(
        &self,
        name: &'static str,
        luau: &'static str,
        make: impl Fn(&Lua, A) -> Result<Table> + Send + 'static,
    ) -> Result<()> {
        let signature = Signature { name, luau };
        let function = self.lua.create_function(move |lua, args: A::Raw| {
            let args = A::read(args, signature)?;
            // A table or two, of what the script has made before.
            small(lua, || make(lua, args))
        })?;
        self.modules.raw_set(name, function)
    }
}

fn wrap(lua: &Lua, name: &str, inner: Table) -> Result<Table> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, inner)?;
    Ok(table)
}
