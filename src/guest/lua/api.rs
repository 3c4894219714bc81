//! `gw`: the host's functions as scripts call them. Conversion only; what each does is `host`'s.
//!
//! Every row of `FUNCTIONS` has an entry here and nothing else has: [`modules`] fails to build otherwise.

use std::sync::Arc;

use bytes::Bytes;
use mlua::{Error, FromLua, Function, IntoLua, IntoLuaMulti, Lua, LuaSerdeExt, LuaString, Result, Table, Value as Lv};

use super::args::{Args, Signature};
use super::build::decoded;
use super::convert::{Left, kind_of, to_json, to_lua};
use super::entries::{list, wrong};
use super::turn::{Running, running, with_running};
use super::views::{SecretHandle, made, out, small};
use super::{entries, read, verdicts};
use crate::host::keep::{self, Store};
use crate::host::log::Level;
use crate::host::table::find;
use crate::host::{
    self, Cx, FUNCTIONS, HostError, Phases, Words, hash, http, limit, llm, log, metrics, pick, re, secret, targets,
    time,
};
use crate::json;
use crate::state::limit::Given;
use crate::state::tally::Kind;

/// The modules of `gw` and its constructors of verdicts, read-only.
///
/// `kv_waits`: what is kept in `kv` is on another machine.
pub(super) fn modules(lua: &Lua, kv_waits: bool) -> Result<Table> {
    let modules = of(lua, kv_waits, |_| true)?;
    verdicts::add(lua, &modules)?;
    Ok(modules)
}

/// Lets a table that is about to be closed say which names it has to whoever looks for another one.
pub(super) fn guard(lua: &Lua, table: &Table, what: String) -> Result<()> {
    let index = lua.create_function(move |_, (table, key): (Table, Lv)| -> Result<()> {
        let mut names = Vec::new();
        table.for_each(|name: String, _: Lv| {
            names.push(name);
            Ok(())
        })?;
        names.sort_unstable();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Err(entries::unknown(&what, &key.to_string()?, &names))
    })?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", index)?;
    // Shared by all scripts of the machine: none of them gets hold of it.
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    table.set_metatable(Some(meta))
}

/// The modules of `gw` for scripts that reach nobody: what is there in every phase and needs no grant.
pub(super) fn tools(lua: &Lua) -> Result<Table> {
    of(lua, false, |function| function.phases == Phases::ALL && function.grant.is_none())
}

/// The modules with those rows of the table that are wanted.
fn of(lua: &Lua, kv_waits: bool, wanted: fn(&host::Function) -> bool) -> Result<Table> {
    let gw = Gw { lua, modules: lua.create_table()?, kv_waits, wanted };
    keeping(&gw, ["cache.get", "cache.set", "cache.add", "cache.incr", "cache.delete"], Store::Cache)?;
    keeping(&gw, ["kv.get", "kv.set", "kv.add", "kv.incr", "kv.delete"], Store::Kv)?;
    swapping(&gw)?;
    limiting(&gw)?;
    looking(&gw)?;
    texts(&gw)?;
    saying(&gw)?;
    clocks(&gw)?;
    outside(&gw)?;
    for function in FUNCTIONS.iter().filter(|function| wanted(function)) {
        let (module, name) = split(function.name);
        let table: Option<Table> = gw.modules.raw_get(module)?;
        if !table.is_some_and(|table| table.raw_get::<Lv>(name).is_ok_and(|value| !value.is_nil())) {
            return Err(Error::runtime(format!("gw.{} is in no engine", function.name)));
        }
    }
    gw.modules.for_each(|name: String, module: Lv| {
        if let Lv::Table(module) = module {
            guard(lua, &module, format!("gw.{name}"))?;
            module.set_readonly(true);
        }
        Ok(())
    })?;
    gw.modules.raw_set("null", lua.null())?;
    Ok(gw.modules)
}

struct Gw<'a> {
    lua: &'a Lua,
    modules: Table,
    kv_waits: bool,
    wanted: fn(&host::Function) -> bool,
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

impl Gw<'_> {
    fn put(&self, name: &str, function: Function) -> Result<()> {
        let (module, name) = split(name);
        let table = match self.modules.raw_get::<Option<Table>>(module)? {
            Some(table) => table,
            None => {
                let table = self.lua.create_table()?;
                self.modules.raw_set(module, &table)?;
                table
            }
        };
        table.raw_set(name, function)
    }

    /// Registers a function of the table.
    fn add<A, R, F>(&self, name: &'static str, body: F) -> Result<()>
    where
        A: Args,
        R: IntoLuaMulti,
        F: Fn(&Lua, &Cx, A) -> Result<R> + Send + 'static,
    {
        let row = find(name).ok_or_else(|| Error::runtime(format!("gw.{name} is in no table")))?;
        if !(self.wanted)(row) {
            return Ok(());
        }
        let signature = signature(row);
        let function = self.lua.create_function(move |lua, args: A::Raw| {
            with_running(|running| {
                let entered = running.cx.enter(row, Words::Lua).map_err(refused);
                let done = entered.and_then(|()| body(lua, &running.cx, A::read(args, signature)?));
                running.look(lua);
                done
            })
        })?;
        self.put(name, function)
    }

    /// Registers a function that waits.
    fn add_waiting<A, R, F, Fut>(&self, name: &'static str, body: F) -> Result<()>
    where
        A: Args + Send + 'static,
        R: IntoLuaMulti + Send + 'static,
        F: Fn(Lua, Arc<Running>, A) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
    {
        let row = find(name).ok_or_else(|| Error::runtime(format!("gw.{name} is in no table")))?;
        if !(self.wanted)(row) {
            return Ok(());
        }
        let signature = signature(row);
        let waiting = self.lua.create_async_function(move |lua, args: A::Raw| {
            let body = body.clone();
            // Looked at now, on the first poll: later ones may run while another call does.
            let entered = running().and_then(|running| {
                let entered = running.cx.enter(row, Words::Lua).map_err(refused);
                running.look(&lua);
                entered.map(|()| running)
            });
            let args = A::read(args, signature);
            async move { body(lua, entered?, args?).await }
        })?;
        self.put(name, waiting)
    }
}

fn signature(row: &host::Function) -> Signature {
    Signature { name: row.name, luau: row.luau }
}

fn refused(error: HostError) -> Error {
    Error::runtime(error.0)
}

type Place = Option<String>;

/// A value that was kept.
struct Kept(Option<Bytes>);

impl IntoLua for Kept {
    fn into_lua(self, lua: &Lua) -> Result<Lv> {
        match self.0 {
            Some(value) => out(lua, &value),
            None => Ok(Lv::Nil),
        }
    }
}

impl Gw<'_> {
    /// Registers an operation on a namespace, which waits where the namespace is elsewhere.
    fn keep<A, R, F, Fut>(&self, name: &'static str, store: Store, body: F) -> Result<()>
    where
        A: Args + Send + 'static,
        R: IntoLuaMulti + Send + 'static,
        F: Fn(Arc<Running>, A) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = std::result::Result<R, HostError>> + Send + 'static,
    {
        if self.kv_waits && store == Store::Kv {
            return self.add_waiting(name, move |_, running, args| {
                let done = body(running.clone(), args);
                async move { running.cx.lease.wait(done).await.and_then(|done| done).map_err(refused) }
            });
        }
        self.add(name, move |_, _, args| keep::at_once(body(running()?, args)).map_err(refused))
    }
}

fn bytes(text: &LuaString) -> Bytes {
    Bytes::copy_from_slice(&text.as_bytes())
}

type Set = (String, LuaString, Option<f64>, Place);

fn keeping(gw: &Gw<'_>, names: [&'static str; 5], store: Store) -> Result<()> {
    let [get, set, add, incr, delete] = names;
    gw.keep(get, store, move |running, (key, place): (String, Place)| async move {
        let space = keep::space(&running.cx, store, place.as_deref())?;
        keep::get(&space, &key).await.map(Kept)
    })?;
    gw.keep(set, store, move |running, (key, value, ttl, place): Set| async move {
        let space = keep::space(&running.cx, store, place.as_deref())?;
        keep::set(&space, &key, bytes(&value), keep::ttl(ttl)?).await
    })?;
    gw.keep(add, store, move |running, (key, value, ttl, place): Set| async move {
        let space = keep::space(&running.cx, store, place.as_deref())?;
        keep::add(&space, &key, bytes(&value), keep::ttl(ttl)?).await
    })?;
    gw.keep(
        incr,
        store,
        move |running, (key, by, ttl, place): (String, Option<f64>, Option<f64>, Place)| async move {
            let space = keep::space(&running.cx, store, place.as_deref())?;
            keep::incr(&space, &key, by.unwrap_or(1.0), keep::ttl(ttl)?).await.map(|sum| sum as f64)
        },
    )?;
    gw.keep(delete, store, move |running, (key, place): (String, Place)| async move {
        let space = keep::space(&running.cx, store, place.as_deref())?;
        keep::delete(&space, &key).await
    })
}

type Swap = (String, Option<LuaString>, LuaString, Option<f64>, Place);

fn swapping(gw: &Gw<'_>) -> Result<()> {
    gw.keep("kv.swap", Store::Kv, |running, (key, expected, value, ttl, place): Swap| async move {
        let space = keep::space(&running.cx, Store::Kv, place.as_deref())?;
        let expected = expected.as_ref().map(bytes);
        keep::swap(&space, &key, expected.as_deref(), bytes(&value), keep::ttl(ttl)?).await
    })
}

type Counted = (LuaString, Table, Option<f64>, Place);

/// Calls `body` with what a script wants counted.
fn counted<T>(
    (key, window, amount, place): &Counted,
    body: impl FnOnce(&limit::Count<'_>) -> std::result::Result<T, HostError>,
) -> Result<T> {
    let key = key.to_str()?;
    let window = read::window(window)?;
    let amount = limit::amount("amount", amount.unwrap_or(1.0)).map_err(refused)?;
    body(&limit::Count { key: &key, window, amount, space: place.as_deref() }).map_err(refused)
}

fn limiting(gw: &Gw<'_>) -> Result<()> {
    let shown = |given: &Given| (given.remaining as f64, limit::retry_after_ms(given).map(|ms| ms as f64));
    gw.add("limit.take", move |_, cx, wanted: Counted| {
        let given = counted(&wanted, |count| limit::take(cx, count))?;
        let (remaining, wait) = shown(&given);
        Ok((given.allowed, remaining, wait))
    })?;
    gw.add("limit.peek", move |_, cx, wanted: Counted| {
        let given = counted(&wanted, |count| limit::peek(cx, count))?;
        let (remaining, wait) = shown(&given);
        Ok((given.allowed, remaining, wait))
    })?;
    gw.add("limit.reserve", move |_, cx, wanted: Counted| {
        let (number, given) = counted(&wanted, |count| limit::reserve(cx, count))?;
        let (remaining, wait) = shown(&given);
        Ok((number, remaining, wait))
    })?;
    gw.add("limit.settle", |_, cx, (number, actual): (u32, f64)| {
        let actual = limit::amount("actual", actual).map_err(refused)?;
        limit::settle(cx, number, actual).map_err(refused)
    })
}

fn looking(gw: &Gw<'_>) -> Result<()> {
    gw.add("targets.get", |lua, cx, name: String| {
        targets::get(cx, &name).map_err(refused)?.map(|view| target(lua, &view)).transpose()
    })?;
    gw.add("targets.list", |lua, cx, model: String| {
        let views = targets::list(cx, &model).map_err(refused)?;
        views.iter().map(|view| target(lua, view)).collect::<Result<Vec<_>>>()
    })?;
    gw.add("targets.models", |_, cx, ()| Ok(cx.world().map_err(refused)?.models()))?;
    gw.add("pick.weighted", |lua, cx, (weights, key): (Table, Option<LuaString>)| {
        let mut list: Vec<(String, f64)> = Vec::new();
        weights.for_each(|name: String, weight: f64| {
            list.push((name, weight));
            Ok(())
        })?;
        // Lua's order of names is its own.
        list.sort_by(|a, b| a.0.cmp(&b.0));
        let point = match key {
            Some(key) => pick::point(&key.as_bytes()),
            None => random(cx),
        };
        let name = pick::weighted(&list, point).map_err(refused)?;
        name.map(|name| out(lua, name.as_bytes())).transpose()
    })?;
    gw.add("pick.hash", |lua, cx, (names, key): (Table, LuaString)| {
        let names = words(lua, cx, &names, "gw.pick.hash: names")?;
        pick::hash(&names, &key.as_bytes()).map(|name| out(lua, name.as_bytes())).transpose()
    })?;
    gw.add("cost.estimate", |_, cx, (name, input, output): (String, f64, f64)| {
        let tokens = |name, tokens| targets::reckoned(name, tokens).map_err(refused);
        let (input, output) = (tokens("input_tokens", input)?, tokens("output_tokens", output)?);
        targets::cost(cx, &name, input, output).map_err(refused)
    })?;
    gw.add("tokens.estimate", |_, _, text: LuaString| Ok(targets::tokens(&text.as_bytes())))
}

/// A list of texts that a function of this name takes.
fn words(lua: &Lua, cx: &Cx, table: &Table, what: &str) -> Result<Vec<String>> {
    let mut left = Left::new(cx.lease.budget().output);
    list(table, what, |word| {
        if let Lv::String(text) = word {
            left.take(text.as_bytes().len())?;
        }
        String::from_lua(word.clone(), lua).map_err(|_| wrong(what, "texts", word))
    })
}

fn random(cx: &Cx) -> f64 {
    cx.world.as_ref().map_or_else(fastrand::f64, |world| world.random())
}

/// A target as a table.
pub(super) fn target(lua: &Lua, view: &targets::View) -> Result<Table> {
    small(lua, || target_within(lua, view))
}

fn target_within(lua: &Lua, view: &targets::View) -> Result<Table> {
    let table = lua.create_table_with_capacity(0, 24)?;
    let measure = &view.measure;
    table.raw_set("name", view.name.as_str())?;
    table.raw_set("provider", view.provider.as_str())?;
    table.raw_set("model", view.model.as_str())?;
    table.raw_set("healthy", view.healthy())?;
    table.raw_set("standing", view.standing())?;
    table.raw_set("in_flight", measure.in_flight)?;
    table.raw_set("error_rate", measure.error_rate)?;
    table.raw_set("samples", measure.samples)?;
    for (name, value) in [
        ("ttft_ms", measure.ttft_ewma_ms),
        ("ttft_p50_ms", measure.ttft.p50),
        ("ttft_p95_ms", measure.ttft.p95),
        ("latency_ms", measure.duration_ewma_ms),
        ("latency_p50_ms", measure.duration.p50),
        ("latency_p95_ms", measure.duration.p95),
        ("tokens_per_s", measure.throughput.p50),
        ("tool_validity", measure.tool_validity),
        ("usage_left", measure.usage_left),
        ("price_in", view.price_in),
        ("price_out", view.price_out),
        ("context", view.context.map(|tokens| tokens as f64)),
        ("max_output", view.max_output.map(|tokens| tokens as f64)),
    ] {
        if let Some(value) = value {
            table.raw_set(name, value)?;
        }
    }
    let can = [
        ("tools", view.tools),
        ("vision", view.vision),
        ("reasoning", view.reasoning),
        ("json_schema", view.json_schema),
    ];
    for (name, value) in can {
        if let Some(value) = value {
            table.raw_set(name, value)?;
        }
    }
    Ok(table)
}

fn texts(gw: &Gw<'_>) -> Result<()> {
    gw.add("json.decode", |lua, _, text: LuaString| {
        // Built in the machine, whose memory is its bound.
        decoded(lua, &text.as_bytes()).map_err(Error::from)
    })?;
    gw.add("json.encode", |lua, cx, value: Lv| {
        let value = to_json(&value, &mut Left::new(cx.lease.budget().output))?;
        made(lua, value.to_string().as_bytes())
    })?;
    gw.add("re.test", |_, cx, (pattern, text): (String, LuaString)| {
        let text = text.to_str()?;
        cx.lease.work(text.len(), || re::test(&pattern, &text)).map_err(refused)
    })?;
    gw.add("re.match", |lua, cx, (pattern, text): (String, LuaString)| {
        let text = text.to_str()?;
        let groups = cx.lease.work(text.len(), || re::first(&pattern, &text)).map_err(refused)?;
        // Into the machine, whose memory is bounded: groups in groups are as many copies of a text.
        let copies =
            |groups: Vec<&str>| groups.iter().map(|group| made(lua, group.as_bytes())).collect::<Result<Vec<_>>>();
        groups.map(copies).transpose()
    })?;
    gw.add("re.find", |lua, cx, (pattern, text, max): (String, LuaString, Option<usize>)| {
        let text = text.to_str()?;
        let max = max.unwrap_or(re::MAX_MATCHES);
        let found = cx.lease.work(text.len(), || re::find(&pattern, &text, max)).map_err(refused)?;
        let tables = found.into_iter().map(|found| {
            let table = lua.create_table_with_capacity(0, 3)?;
            table.raw_set("first", found.first + 1)?;
            table.raw_set("last", found.end)?;
            table.raw_set("text", &text[found.first..found.end])?;
            Ok(table)
        });
        tables.collect::<Result<Vec<_>>>()
    })?;
    gw.add("re.replace", |lua, cx, (pattern, text, with): (String, LuaString, String)| {
        let text = text.to_str()?;
        let (text, count) = cx.lease.work(text.len(), || re::replace(&pattern, &text, &with)).map_err(refused)?;
        Ok((made(lua, text.as_bytes())?, count))
    })?;
    gw.add("hash.sha256", |lua, cx, text: LuaString| {
        let text = text.as_bytes();
        made(lua, cx.lease.work(text.len(), || hash::sha256(&text)).as_bytes())
    })?;
    gw.add("hash.hmac_sha256", |_, cx, (key, text): (Lv, LuaString)| match key {
        Lv::String(key) => {
            let (key, text) = (key.as_bytes(), text.as_bytes());
            Ok(cx.lease.work(text.len(), || hash::hmac_sha256(&key, &text)))
        }
        Lv::UserData(data) => {
            let key = data.borrow::<SecretHandle>()?;
            let (key, text) = (key.0.expose(cx).map_err(refused)?, text.as_bytes());
            Ok(cx.lease.work(text.len(), || hash::hmac_sha256(key.as_bytes(), &text)))
        }
        other => {
            Err(Error::runtime(format!("gw.hash.hmac_sha256: the key is {}; give a text or a secret", kind_of(&other))))
        }
    })?;
    gw.add("hash.base64", |_, cx, text: LuaString| {
        let text = text.as_bytes();
        Ok(cx.lease.work(text.len(), || hash::base64(&text)))
    })?;
    gw.add("hash.unbase64", |lua, cx, text: LuaString| {
        let text = text.as_bytes();
        cx.lease.work(text.len(), || hash::unbase64(&text)).map(|bytes| lua.create_string(bytes)).transpose()
    })
}

fn saying(gw: &Gw<'_>) -> Result<()> {
    for (name, level) in
        [("log.debug", Level::Debug), ("log.info", Level::Info), ("log.warn", Level::Warn), ("log.error", Level::Error)]
    {
        gw.add(name, move |_, cx, (message, fields): (LuaString, Option<Table>)| {
            let mut left = Left::new(cx.lease.budget().output);
            let fields = fields.map(|fields| to_json(&Lv::Table(fields), &mut left)).transpose()?;
            log::line(cx, level, &message.to_string_lossy(), fields.as_ref()).map_err(refused)
        })?;
    }
    gw.add("trace.note", |_, cx, what: Lv| {
        let what = to_json(&what, &mut Left::new(cx.lease.budget().output))?;
        let bytes = what.to_string().len();
        log::note(cx, what, bytes).map_err(refused)
    })?;
    gw.add("metrics.count", |_, cx, (name, by, labels): (String, Option<f64>, Option<Table>)| {
        metrics::record(cx, &name, Kind::Counter, by.unwrap_or(1.0), &pairs(cx, labels)?).map_err(refused)
    })?;
    gw.add("metrics.gauge", |_, cx, (name, value, labels): (String, f64, Option<Table>)| {
        metrics::record(cx, &name, Kind::Gauge, value, &pairs(cx, labels)?).map_err(refused)
    })?;
    gw.add("metrics.observe", |_, cx, (name, value, labels): (String, f64, Option<Table>)| {
        metrics::record(cx, &name, Kind::Histogram, value, &pairs(cx, labels)?).map_err(refused)
    })
}

fn pairs(cx: &Cx, table: Option<Table>) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    if let Some(table) = table {
        let mut left = Left::new(cx.lease.budget().output);
        table.for_each(|name: String, value: String| {
            left.take(name.len() + value.len())?;
            pairs.push((name, value));
            Ok(())
        })?;
    }
    Ok(pairs)
}

fn clocks(gw: &Gw<'_>) -> Result<()> {
    gw.add("time.now_ms", |_, cx, ()| Ok(time::now_ms(cx) as f64))?;
    gw.add("time.elapsed_ms", |_, cx, ()| Ok(cx.visit.started.elapsed().as_secs_f64() * 1000.0))?;
    gw.add("time.date", |lua, cx, (ms, offset): (Option<f64>, Option<f64>)| {
        let ms = ms.unwrap_or_else(|| time::now_ms(cx) as f64);
        // Within what calendars are made for; beyond it the arithmetic would overflow.
        let offset = offset.unwrap_or(0.0);
        if !(ms.abs() < 1e15 && offset.abs() < 1e6 && offset.fract() == 0.0) {
            return Err(Error::runtime("gw.time.date takes Unix milliseconds and whole minutes"));
        }
        let date = time::date(ms.floor() as i64, offset as i64);
        let table = lua.create_table_with_capacity(0, 7)?;
        table.raw_set("year", date.year)?;
        for (name, value) in [
            ("month", date.month),
            ("day", date.day),
            ("hour", date.hour),
            ("minute", date.minute),
            ("second", date.second),
            ("weekday", date.weekday),
        ] {
            table.raw_set(name, value)?;
        }
        Ok(table)
    })?;
    gw.add_waiting(
        "time.sleep",
        |_, running, ms: f64| async move { time::sleep(&running.cx, ms).await.map_err(refused) },
    )?;
    gw.add("rand.number", |_, cx, ()| Ok(random(cx)))?;
    gw.add("rand.int", |_, cx, (first, last): (i64, i64)| {
        if first > last {
            return Err(Error::runtime(format!("rand.int: {first} is above {last}")));
        }
        let span = (last as f64) - (first as f64) + 1.0;
        Ok(((first as f64) + (random(cx) * span).floor()).min(last as f64))
    })?;
    gw.add("rand.id", |lua, cx, ()| {
        let half = |cx: &Cx| (random(cx) * (1u64 << 48) as f64) as u64;
        made(lua, format!("{:012x}{:012x}", half(cx), half(cx)).as_bytes())
    })
}

fn outside(gw: &Gw<'_>) -> Result<()> {
    gw.add("secret.get", |_, cx, name: String| secret::get(cx, &name).map(SecretHandle).map_err(refused))?;
    gw.add_waiting("http.fetch", |lua, running, request: Table| {
        let prepared = fetch(&running.cx, &request);
        async move {
            let answer = http::fetch(&running.cx, prepared?).await.map_err(refused)?;
            let table = lua.create_table_with_capacity(0, 3)?;
            table.raw_set("status", answer.status)?;
            let headers = lua.create_table()?;
            for (name, value) in &answer.headers {
                headers.raw_set(name.as_str(), lua.create_string(value.as_bytes())?)?;
            }
            table.raw_set("headers", headers)?;
            table.raw_set("body", lua.create_string(&answer.body)?)?;
            Ok(table)
        }
    })?;
    gw.add_waiting("llm.ask", |lua, running, ask: Table| {
        let prepared = to_json(&Lv::Table(ask), &mut Left::new(running.cx.lease.budget().output));
        async move {
            let answer = llm::ask(&running.cx, prepared?).await.map_err(refused)?;
            to_lua(&lua, &answer)
        }
    })?;
    gw.add_waiting("llm.embed", |lua, running, (model, texts): (String, Table)| {
        let granted = llm::granted(&running.cx, &model).map_err(refused);
        let texts = granted.and_then(|()| words(&lua, &running.cx, &texts, "gw.llm.embed: texts"));
        async move { llm::embed(&running.cx, &model, texts?).await.map_err(refused) }
    })
}

/// A request of `http.fetch`.
fn fetch(cx: &Cx, table: &Table) -> Result<http::Request> {
    let mut left = Left::new(cx.lease.budget().output);
    let (mut request, mut is_json) = (http::Request::default(), false);
    let has = |name: &str| Ok::<_, Error>(!table.raw_get::<Lv>(name)?.is_nil());
    if has("body")? && has("json")? {
        return Err(Error::runtime("gw.http.fetch: give `body` or `json`, not both"));
    }
    table.for_each(|name: String, value: Lv| {
        match (name.as_str(), &value) {
            ("url", Lv::String(url)) => request.url = url.to_str()?.to_owned(),
            ("method", Lv::String(method)) => request.method = Some(method.to_str()?.to_owned()),
            ("headers", Lv::Table(headers)) => request.headers = read::headers(headers, &mut left)?,
            ("body", Lv::String(body)) => {
                left.take(body.as_bytes().len())?;
                request.body = body.as_bytes().to_vec();
            }
            ("json", value) => {
                request.body = json::written(&to_json(value, &mut left)?);
                is_json = true;
            }
            ("timeout_ms", Lv::Number(ms)) => request.timeout_ms = Some(*ms),
            ("timeout_ms", Lv::Integer(ms)) => request.timeout_ms = Some(*ms as f64),
            (name, value) => {
                let text = format!(
                    "gw.http.fetch cannot have {} as `{name}`; it has: url, method, headers, body, json, timeout_ms",
                    kind_of(value)
                );
                return Err(Error::runtime(text));
            }
        }
        Ok(())
    })?;
    if is_json {
        // After all headers, in whatever order the table gave them: the caller's own word goes first.
        let json = || Some(crate::guest::verdict::Header::Text("application/json".into()));
        request.headers.entry("content-type".into()).or_insert_with(json);
    }
    Ok(request)
}

/// `print` goes where `gw.log.info` goes.
pub(super) fn print(lua: &Lua) -> Result<Function> {
    let row = find("log.info").ok_or_else(|| Error::runtime("gw.log.info is in no table"))?;
    lua.create_function(move |_, values: mlua::MultiValue| {
        with_running(|running| {
            running.cx.enter(row, Words::Lua).map_err(refused)?;
            let mut left = Left::new(running.cx.lease.budget().output);
            let word = |value: &Lv| {
                if let Lv::String(text) = value {
                    left.take(text.as_bytes().len())?;
                    return value.to_string();
                }
                // Its own `__tostring` may make a long one of it.
                let word = value.to_string()?;
                left.take(word.len())?;
                Ok(word)
            };
            let words: Result<Vec<String>> = values.iter().map(word).collect();
            log::line(&running.cx, Level::Info, &words?.join("\t"), None).map_err(refused)
        })
    })
}
