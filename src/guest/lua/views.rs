//! Views as numbers: what a script holds stands for something that its call shows it, and its fields are read when the script
//! names them.
//!
//! Nothing of the exchange is copied into the machine before it is asked for, and nothing is made there for a view itself. A
//! script that keeps one keeps a number that stands for nothing once its call has ended. A name that a view does not have is
//! an error that names the nearest one.

use std::sync::Arc;

use mlua::{
    Either, Error, FromLuaMulti, Function, IntoLuaMulti, LightUserData, Lua, LuaString, MetaMethod, ObjectLike, Result,
    UserData, UserDataMethods, UserDataRegistry, Value as Lv,
};

use super::super::view::{self, KINDS, Kind, Subject, Val, conversation};
use super::build::{self, Undecoded};
use super::turn::{Running, excused, with_running};
use super::{convert, entries, hearing};
use crate::fault::{self, Fault};
use crate::host::visit::Kept;
use crate::host::{secret, targets};

/// Shows what a call is about. Events have numbers of their own: see [`hearing`].
pub(super) fn show(running: &Running, subject: Subject) -> Option<LightUserData> {
    running.show(subject).map(shown)
}

/// A number in a script's hands.
pub(super) fn shown(number: usize) -> LightUserData {
    LightUserData(std::ptr::without_provenance_mut(number))
}

/// The kind of what a number stands for, or has stood for; None for `gw.null`.
fn kind(this: LightUserData) -> Option<&'static Kind> {
    let number = this.0.addr();
    (number != 0).then(|| &KINDS[number % KINDS.len()])
}

/// What a number stands for in the call that runs, and its kind.
fn seen(this: LightUserData, key: &str) -> Result<(&'static Kind, Subject)> {
    let kind = kind(this).ok_or_else(|| no_fields(key))?;
    let subject = with_running(|running| Ok(running.seen(this.0.addr())))?;
    let ended = || Error::runtime(format!("this {} is of a call that has ended; do not keep it", kind.name));
    Ok((kind, subject.ok_or_else(ended)?))
}

/// What stands where a view should.
type This = Either<LightUserData, Lv>;

/// The view that a method is called on, and its kind.
fn called_on(this: This, method: &str) -> Result<(&'static Kind, Subject)> {
    match this {
        Either::Left(this) if kind(this).is_none_or(|kind| kind.has_method(method)) => seen(this, method),
        Either::Left(this) => Err(kind(this).map_or_else(|| no_fields(method), |kind| unknown(kind, method))),
        Either::Right(_) => {
            let kind = with_running(|running| Ok(running.kind_with(method)))?;
            let what = kind.map_or("view", |kind| kind.name);
            Err(Error::runtime(format!("call it with a colon on a {what}: `:{method}(…)`")))
        }
    }
}

fn index(lua: &Lua, (this, key): (LightUserData, String)) -> Result<Lv> {
    if let Some(value) = hearing::field(lua, this.0.addr(), &key) {
        return value;
    }
    let (kind, subject) = seen(this, &key)?;
    if let Some(value) = subject.get(&key) {
        return val(lua, value);
    }
    let methods = lua.app_data_ref::<Methods>().filter(|_| kind.has_method(&key));
    methods.and_then(|methods| methods.find(&key)).map(Lv::Function).ok_or_else(|| unknown(kind, &key))
}

fn read_only(this: LightUserData, key: &str) -> Error {
    kind(this).map_or_else(
        || no_fields(key),
        |Kind { name, .. }| {
            Error::runtime(format!("a {name} is read-only; return what is to change, as {{ {key} = … }}"))
        },
    )
}

fn no_fields(key: &str) -> Error {
    Error::runtime(format!("gw.null has no `{key}`: it stands for a null of JSON"))
}

pub(super) fn unknown(Kind { name, fields, methods }: &Kind, key: &str) -> Error {
    let names: Vec<&str> = fields.iter().chain(*methods).map(|(name, _, _)| *name).collect();
    entries::unknown(name, key, &names)
}

/// Makes something small in a machine, past the bound on its memory: to go by the bound, a step must be safe from failing
/// half-way, which costs ten times the step. What is made counts all the same, so the script's own next step meets it.
pub(super) fn small<T>(lua: &Lua, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let bound = lua.set_memory_limit(0)?;
    let made = make();
    lua.set_memory_limit(bound)?;
    made
}

/// Bytes up to which a text is small, and up to which it is a word.
const SMALL: usize = 1024;
const WORD: usize = 64;

/// A text on its way into a machine.
pub(super) fn made(lua: &Lua, text: &[u8]) -> Result<LuaString> {
    let make = || lua.create_string(text);
    if text.len() <= SMALL { small(lua, make) } else { make() }
}

/// The same where it may be one that scripts are given again and again.
pub(super) fn out(lua: &Lua, text: &[u8]) -> Result<Lv> {
    let known = if text.len() <= WORD { lua.app_data_mut::<Words>() } else { None };
    known.map_or_else(|| made(lua, text), |mut words| words.get(lua, text)).map(Lv::String)
}

/// Names of models, keys, projects, tiers, as a machine has them: to hand one out again costs half of finding out that the
/// machine has it.
pub(super) struct Words(Vec<Word>);

/// One place for words. What stands in it is what came twice running: names do, numbers of exchanges do not.
#[derive(Default)]
struct Word {
    last: usize,
    kept: Option<(Box<[u8]>, LuaString)>,
}

impl Words {
    const PLACES: usize = 64;

    pub fn new() -> Self {
        Words(std::iter::repeat_with(Word::default).take(Words::PLACES).collect())
    }

    fn get(&mut self, lua: &Lua, text: &[u8]) -> Result<LuaString> {
        let sum = text.iter().fold(text.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let place = &mut self.0[sum % Words::PLACES];
        if let Some((_, word)) = place.kept.as_ref().filter(|(kept, _)| **kept == *text) {
            return Ok(word.clone());
        }
        let word = made(lua, text)?;
        if std::mem::replace(&mut place.last, sum) == sum {
            place.kept = Some((text.into(), word.clone()));
        }
        Ok(word)
    }
}

pub(super) fn val(lua: &Lua, value: Val<'_>) -> Result<Lv> {
    Ok(match value {
        Val::Nil => Lv::Nil,
        Val::Bool(bool) => Lv::Boolean(bool),
        Val::Number(number) => Lv::Number(number),
        Val::Text(text) => out(lua, text.as_bytes())?,
        Val::Json(value) => convert::to_lua(lua, &value)?,
    })
}

/// An argument, or what stands in its place: without the colon it is the first that is missing, and of that another
/// error speaks.
type Arg<T> = Either<T, Lv>;

fn wanted<T>(arg: Arg<T>, what: &str) -> Result<T> {
    match arg {
        Either::Left(arg) => Ok(arg),
        Either::Right(other) => Err(Error::runtime(format!("{} stands where {what} should", convert::kind_of(&other)))),
    }
}

fn name(arg: Arg<String>) -> Result<String> {
    wanted(arg, "a name")
}

/// The methods of views, whatever view has them: each looks for itself what it is called on.
struct Methods(Vec<(&'static str, Function)>);

impl Methods {
    fn find(&self, name: &str) -> Option<Function> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, method)| method.clone())
    }
}

/// What has the methods in a machine. The engine calls those of a type by their names, without a look for the function.
struct Holder;

/// Adds a method. `body` gives None for a view that has none of this name after all.
fn add<A, R>(
    methods: &mut UserDataRegistry<Holder>,
    name: &'static str,
    body: impl Fn(&Lua, &Subject, A) -> Option<Result<R>> + Send + 'static,
) where
    A: FromLuaMulti,
    R: IntoLuaMulti,
{
    // Arguments must not fail before it is looked what they are for: see [`Arg`].
    methods.add_function(name, move |lua, (this, args): (This, A)| {
        let (kind, subject) = called_on(this, name)?;
        body(lua, &subject, args).unwrap_or_else(|| Err(unknown(kind, name)))
    });
}

/// Adds a method of requests alone.
fn add_of_request<A, R>(
    methods: &mut UserDataRegistry<Holder>,
    name: &'static str,
    body: impl Fn(&Lua, &view::Request, A) -> Result<R> + Send + 'static,
) where
    A: FromLuaMulti,
    R: IntoLuaMulti,
{
    add(methods, name, move |lua, subject, args| match subject {
        Subject::Request(this) => Some(body(lua, this, args)),
        _ => None,
    });
}

impl UserData for Holder {
    fn register(methods: &mut UserDataRegistry<Self>) {
        methods.enable_namecall();
        // What has no other way to its members gets no calls by name.
        methods.add_meta_method(MetaMethod::Index, |_, _, _: String| Ok(()));
        add(methods, "header", |lua, subject, arg: Arg<String>| match subject {
            Subject::Head(this) => Some(name(arg).and_then(|name| header(lua, &this.headers, &name, false))),
            Subject::Request(this) => Some(name(arg).and_then(|name| header(lua, this.call.headers(), &name, true))),
            _ => None,
        });
        add_of_request(methods, "param", |lua, this, arg: Arg<String>| param(lua, this, &name(arg)?));
        add_of_request(methods, "metadata", |lua, this, arg: Arg<String>| {
            let name = name(arg)?;
            let value = this.visit.principal().and_then(|principal| principal.metadata.get(&name));
            value.map(|value| out(lua, value.as_bytes())).transpose()
        });
        add_of_request(methods, "system", |_, this, ()| Ok(conversation::system(&*chat(this)?)));
        add_of_request(methods, "message", |lua, this, index: Arg<i64>| {
            let index = wanted(index, "the number of a turn")?;
            conversation::message(&*chat(this)?, index).map(|turn| message(lua, &turn)).transpose()
        });
        add_of_request(methods, "messages", |lua, this, ()| {
            let ask = chat(this)?;
            build::within(lua, |build| {
                build.list(view::messages(&ask), |turn| {
                    build.piece(turn.text.len())?;
                    message(lua, &turn)
                })
            })
        });
        add_of_request(methods, "last_user", |_, this, ()| Ok(conversation::last_user(&*chat(this)?)));
        add_of_request(methods, "plan", |lua, this, ()| {
            with_running(|running| {
                let views =
                    this.plan.iter().map(|target| targets::View::of(&running.cx, target).map_err(Error::external));
                views.map(|view| super::api::target(lua, &view?)).collect::<Result<Vec<_>>>()
            })
        });
        add(methods, "texts", |lua, subject, ()| match subject {
            Subject::Request(this) => Some(all_texts(this).and_then(|texts| {
                let texts = texts.map_err(|fault| Error::runtime(view::no_texts(&fault)))?;
                text_list(lua, &texts)
            })),
            Subject::Answer(this) => {
                let texts = this.chat().map(|answer| conversation::texts_of_answer(answer)).unwrap_or_default();
                Some(text_list(lua, &texts))
            }
            _ => None,
        });
        add(methods, "request", |_, subject, ()| {
            let request = match subject {
                Subject::Try(this) => &this.request,
                Subject::Failure(this) => &this.request,
                Subject::Answer(this) => &this.request,
                _ => return None,
            };
            Some(with_running(|running| Ok(show(running, Subject::Request(request.clone())))))
        });
        add(methods, "json", |lua, subject, ()| match subject {
            Subject::Answer(this) => Some(body(lua, &this.body)),
            _ => None,
        });
    }
}

/// What may have been meant by a method that no view has.
pub(super) fn instead_of(method: &str) -> Option<String> {
    let rows = |of: fn(&Kind) -> &'static [view::Row]| KINDS.iter().flat_map(of).map(|(name, _, _)| *name);
    if rows(|kind| kind.fields).any(|field| field == method) {
        return Some(format!("it is a field; write `.{method}`"));
    }
    let methods: Vec<&str> = rows(|kind| kind.methods).collect();
    crate::guest::near(method, &methods).map(|name| format!("did you mean `{name}`?"))
}

/// Teaches a machine what numbers stand for.
pub(super) fn register(lua: &Lua) -> Result<()> {
    lua.set_app_data(Words::new());
    let holder = lua.create_userdata(Holder)?;
    let mut methods: Vec<(&str, Function)> = Vec::new();
    for (name, _, _) in KINDS.iter().flat_map(|kind| kind.methods) {
        if !methods.iter().any(|(known, _)| known == name) {
            methods.push((*name, holder.get(*name)?));
        }
    }
    lua.set_app_data(Methods(methods));
    let meta = lua.create_table()?;
    meta.raw_set("__index", lua.create_function(index)?)?;
    meta.raw_set("__namecall", holder.metatable()?.get::<Function>("__namecall")?)?;
    let set = |_: &Lua, (this, key, _): (LightUserData, String, Lv)| -> Result<()> { Err(read_only(this, &key)) };
    meta.raw_set("__newindex", lua.create_function(set)?)?;
    let name = |_: &Lua, this: LightUserData| Ok(kind(this).map_or("null", |kind| kind.name));
    meta.raw_set("__tostring", lua.create_function(name)?)?;
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    lua.set_type_metatable::<LightUserData>(Some(meta));
    Ok(())
}

/// A field of the body. One that is there and cannot be read is an error: it goes upstream as it is, and a policy that
/// looks for something in it must not take it for absent.
fn param(lua: &Lua, request: &view::Request, name: &str) -> Result<Lv> {
    let fault = match request.param(name) {
        Ok(None) => return Ok(Lv::Nil),
        Ok(Some(raw)) => match build::decoded(lua, &raw) {
            Ok(value) => return Ok(value),
            Err(Undecoded::Call(error)) => return Err(error),
            Err(Undecoded::Json(error)) => {
                Fault::new(fault::Kind::InvalidJson, format!("The field `{name}` cannot be decoded: {error}."))
            }
        },
        Err(fault) => fault,
    };
    Err(Error::runtime(request.cannot_be_read(&fault)))
}

/// The body of an answer; nil for what is not meant to be JSON.
fn body(lua: &Lua, text: &[u8]) -> Result<Lv> {
    match build::decoded(lua, text) {
        Ok(value) => Ok(value),
        Err(Undecoded::Json(error)) if matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) => {
            Err(Error::runtime(format!("this answer cannot be read: {error}")))
        }
        Err(Undecoded::Json(_)) => Ok(Lv::Nil),
        Err(Undecoded::Call(error)) => Err(error),
    }
}

/// Whether the call can hold the words of its request.
fn fits(request: &view::Request) -> Result<()> {
    with_running(|running| conversation::fits(request, running.cx.lease.budget().memory).map_err(Error::runtime))
}

/// Every text. To decode an ask is the gateway's own work, once; what is made of it each time is the call's.
fn all_texts(request: &view::Request) -> Result<std::result::Result<Vec<view::Text>, Fault>> {
    fits(request)?;
    let is_chat = !["embeddings", "rerank"].contains(&request.visit.op);
    if is_chat && let Err(fault) = excused(|| request.call.chat()) {
        return Ok(Err(fault));
    }
    let bytes = request.call.envelope().body().len();
    with_running(|running| Ok(running.cx.lease.work(bytes, || request.call.texts())))
}

fn text_list(lua: &Lua, texts: &[view::Text]) -> Result<mlua::Table> {
    build::within(lua, |build| {
        build.list(texts, |part| {
            build.piece(part.text.len())?;
            text(lua, part)
        })
    })
}

fn chat(request: &view::Request) -> Result<Arc<crate::chat::Ask>> {
    fits(request)?;
    excused(|| request.call.chat())
        .map_err(|fault| Error::runtime(format!("this request holds no conversation: {}", fault.message)))
}

/// A turn of the ask that the call which runs is about, counted from 1.
pub(super) fn turn(index: usize) -> Option<view::Message> {
    let request = with_running(|running| Ok(running.request())).ok()??;
    let ask = excused(|| request.call.chat()).ok()?;
    conversation::message(&ask, i64::try_from(index).ok()?)
}

fn header(lua: &Lua, headers: &http::HeaderMap, name: &str, hide: bool) -> Result<Option<Lv>> {
    if hide && conversation::is_credential(name) {
        return Ok(None);
    }
    headers.get(name).map(|value| out(lua, value.as_bytes())).transpose()
}

fn message(lua: &Lua, turn: &view::Message) -> Result<mlua::Table> {
    let table = lua.create_table_with_capacity(0, 4)?;
    table.raw_set("index", turn.index)?;
    table.raw_set("role", turn.role)?;
    table.raw_set("text", turn.text.as_str())?;
    table.raw_set("kinds", turn.kinds.clone())?;
    Ok(table)
}

fn text(lua: &Lua, text: &view::Text) -> Result<mlua::Table> {
    let table = lua.create_table_with_capacity(0, 4)?;
    table.raw_set("index", text.spot.index)?;
    table.raw_set("role", text.spot.role)?;
    table.raw_set("kind", text.spot.kind)?;
    table.raw_set("text", text.text.as_str())?;
    Ok(table)
}

/// `ctx`: what a script keeps of one exchange. One for all calls of a machine; which exchange is meant, the call says.
pub(super) struct Context;

impl UserData for Context {
    fn register(methods: &mut UserDataRegistry<Self>) {
        // Nothing but methods, so calls of them need not look for a field first.
        methods.enable_namecall();
        methods.add_method("get", |lua, _, key: String| {
            let kept = with_running(|running| Ok(running.cx.kept(&key)))?;
            Ok(match kept {
                None => Lv::Nil,
                Some(Kept::Bool(bool)) => Lv::Boolean(bool),
                Some(Kept::Number(number)) => Lv::Number(number),
                Some(Kept::Text(text)) => out(lua, &text)?,
            })
        });
        methods.add_method("set", |_, _, (key, value): (String, Lv)| {
            let value = match value {
                Lv::Nil => None,
                Lv::Boolean(bool) => Some(Kept::Bool(bool)),
                Lv::Integer(number) => Some(Kept::Number(number as f64)),
                Lv::Number(number) => Some(Kept::Number(number)),
                Lv::String(text) => Some(Kept::Text(text.as_bytes().to_vec())),
                other => {
                    let kind = convert::kind_of(&other);
                    let text = format!("ctx keeps texts, numbers and booleans, not {kind}; use gw.json.encode");
                    return Err(Error::runtime(text));
                }
            };
            with_running(|running| running.cx.keep(&key, value).map_err(Error::external))
        });
        methods.add_meta_method(MetaMethod::Index, |_, _, key: String| -> Result<()> {
            Err(Error::runtime(format!("ctx has no `{key}`; write ctx:get(\"{key}\")")))
        });
        methods.add_meta_method(MetaMethod::NewIndex, |_, _, (key, _): (String, Lv)| -> Result<()> {
            Err(Error::runtime(format!("ctx has no `{key}`; write ctx:set(\"{key}\", …)")))
        });
    }
}

/// What can be done with a secret, for whoever tries something else.
pub(super) const SECRET: &str = "a secret becomes no text, no JSON and no line of a log; give it as it is to a header of \
    gw.http.fetch or of on_attempt, and let what must stand before it be a part of it: secrets: { token: \"Bearer …\" }";

/// A secret in a script's hands. Prints as its name, and is nothing that a string can be made of.
pub(super) struct SecretHandle(pub secret::Handle);

impl UserData for SecretHandle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(format!("secret({})", this.0.name())));
        // No method: the secret may stand on either side.
        methods.add_meta_function(MetaMethod::Concat, |_, _: mlua::MultiValue| -> Result<()> {
            Err(Error::runtime(SECRET))
        });
    }
}
