//! Views as userdata: one type a view, its fields read when the script names them.
//!
//! Nothing of the exchange is copied into the machine before it is asked for. A name that a view does not have is an
//! error that names the nearest one.

use std::marker::PhantomData;
use std::sync::Arc;

use mlua::{
    AnyUserData, Either, Error, FromLuaMulti, Function, IntoLuaMulti, Lua, MetaMethod, Result, UserData,
    UserDataMethods, UserDataRef, UserDataRegistry, Value as Lv,
};

use super::super::view::{self, Subject, Val, View, conversation};
use super::build::{self, Undecoded};
use super::turn::{excused, with_running};
use super::{convert, entries};
use crate::fault::Fault;
use crate::host::visit::Kept;
use crate::host::{secret, targets};

/// A view in a script's hands.
struct Shown<T>(Arc<T>);

impl<T: View> UserData for Shown<T> {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        // A text of ours for the name: a handle on the script's costs more than the copy.
        methods.add_meta_method(MetaMethod::Index, |lua, this, key: String| {
            if let Some(value) = this.0.get(&key) {
                return val(lua, value);
            }
            match lua.app_data_ref::<Methods<T>>().and_then(|methods| methods.find(&key)) {
                Some(method) => Ok(Lv::Function(method)),
                None => Err(unknown::<T>(&key)),
            }
        });
        methods.add_meta_method(MetaMethod::NewIndex, |_, _, (key, _): (String, Lv)| -> Result<()> {
            Err(read_only::<T>(&key))
        });
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok(T::NAME));
    }
}

pub(super) fn read_only<T: View>(key: &str) -> Error {
    Error::runtime(format!("a {} is read-only; return what is to change, as {{ {key} = … }}", T::NAME))
}

pub(super) fn unknown<T: View>(key: &str) -> Error {
    let names: Vec<&str> = T::FIELDS.iter().chain(T::METHODS).map(|(name, _, _)| *name).collect();
    entries::unknown(T::NAME, key, &names)
}

/// Makes something small in a machine, past the bound on its memory: to go by the bound, a step must be safe from failing
/// half-way, which costs ten times the step. What is made counts all the same, so the script's own next step meets it.
fn small<T>(lua: &Lua, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let bound = lua.set_memory_limit(0)?;
    let made = make();
    lua.set_memory_limit(bound)?;
    made
}

/// Bytes up to which a text is small.
const SMALL: usize = 1024;

/// A text on its way into a machine.
fn out(lua: &Lua, text: &[u8]) -> Result<Lv> {
    let make = || lua.create_string(text).map(Lv::String);
    if text.len() <= SMALL { small(lua, make) } else { make() }
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

/// The methods of one view, made once for a machine.
struct Methods<T>(Vec<(&'static str, Function)>, PhantomData<fn() -> T>);

impl<T> Methods<T> {
    fn find(&self, name: &str) -> Option<Function> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, method)| method.clone())
    }
}

/// A view as it was handed to a script. Taken back when this is dropped: a script that keeps it keeps nothing alive.
pub(super) struct Seen {
    data: AnyUserData,
    take: fn(&AnyUserData),
}

impl Seen {
    fn new<T: View>(lua: &Lua, view: &Arc<T>) -> Result<Seen> {
        let data = small(lua, || lua.create_userdata(Shown(view.clone())))?;
        Ok(Seen { data, take: |data| drop(data.take::<Shown<T>>()) })
    }

    pub fn data(&self) -> &AnyUserData {
        &self.data
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        (self.take)(&self.data);
    }
}

/// Shows what a call is about.
pub(super) fn show(lua: &Lua, subject: &Subject) -> Result<Option<Seen>> {
    Ok(Some(match subject {
        Subject::Head(view) => Seen::new(lua, view)?,
        Subject::Request(view) => Seen::new(lua, view)?,
        Subject::Try(view) => Seen::new(lua, view)?,
        Subject::Failure(view) => Seen::new(lua, view)?,
        Subject::Answer(view) => Seen::new(lua, view)?,
        Subject::Done(view) => Seen::new(lua, view)?,
        // Of events scripts get a number: see `hearing`.
        Subject::Event(_) | Subject::Tick => return Ok(None),
    }))
}

fn show_request(lua: &Lua, request: &Arc<view::Request>) -> Result<AnyUserData> {
    let seen = Seen::new(lua, request)?;
    let data = seen.data.clone();
    with_running(|running| {
        running.show(seen);
        Ok(data)
    })
}

/// The methods of one view, on their way into a machine.
struct Adding<'a, T>(&'a Lua, Methods<T>);

impl<'a, T: View> Adding<'a, T> {
    fn to(lua: &'a Lua) -> Self {
        Adding(lua, Methods(Vec::new(), PhantomData))
    }

    fn add<A, R, F>(mut self, name: &'static str, body: F) -> Result<Self>
    where
        A: FromLuaMulti,
        R: IntoLuaMulti,
        F: Fn(&Lua, &Arc<T>, A) -> Result<R> + Send + 'static,
    {
        // Arguments must not fail before it is looked what they are for: see [`Arg`].
        let method = self.0.create_function(move |lua, (this, args): (This<T>, A)| match &this {
            Either::Left(this) => body(lua, &this.0, args),
            Either::Right(other) => Err(not_this::<T>(other, name)),
        })?;
        self.1.0.push((name, method));
        Ok(self)
    }

    fn end(self) {
        self.0.set_app_data(self.1);
    }
}

/// The view that a method is called on, or what stands in its place.
type This<T> = Either<UserDataRef<Shown<T>>, Lv>;

fn not_this<T: View>(other: &Lv, method: &str) -> Error {
    let ended = match other {
        Lv::UserData(data) => matches!(data.borrow::<Shown<T>>(), Err(Error::UserDataDestructed)),
        _ => false,
    };
    Error::runtime(match ended {
        true => format!("this {} is of a call that has ended; do not keep it", T::NAME),
        false => format!("call it with a colon on a {}: `:{method}(…)`", T::NAME),
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

/// Puts the methods of every view into a machine.
pub(super) fn register(lua: &Lua) -> Result<()> {
    Adding::<view::Head>::to(lua)
        .add("header", |lua, this, arg: Arg<String>| header(lua, &this.headers, &name(arg)?, false))?
        .end();
    Adding::<view::Request>::to(lua)
        .add("header", |lua, this, arg: Arg<String>| header(lua, this.call.headers(), &name(arg)?, true))?
        .add("param", |lua, this, arg: Arg<String>| match this.param(&name(arg)?) {
            Some(raw) => json(lua, &raw),
            None => Ok(Lv::Nil),
        })?
        .add("metadata", |lua, this, arg: Arg<String>| {
            let name = name(arg)?;
            let value = this.visit.principal().and_then(|principal| principal.metadata.get(&name));
            value.map(|value| out(lua, value.as_bytes())).transpose()
        })?
        .add("system", |_, this, ()| Ok(conversation::system(&*chat(this)?)))?
        .add("message", |lua, this, index: Arg<i64>| {
            let index = wanted(index, "the number of a turn")?;
            conversation::message(&*chat(this)?, index).map(|turn| message(lua, &turn)).transpose()
        })?
        .add("messages", |lua, this, ()| {
            let ask = chat(this)?;
            build::within(lua, |build| {
                build.list(view::messages(&ask), |turn| {
                    build.piece(turn.text.len())?;
                    message(lua, &turn)
                })
            })
        })?
        .add("last_user", |_, this, ()| Ok(conversation::last_user(&*chat(this)?)))?
        .add("texts", |lua, this, ()| {
            let texts = all_texts(this)?.map_err(|fault| Error::runtime(view::no_texts(&fault)))?;
            text_list(lua, &texts)
        })?
        .add("plan", |lua, this, ()| {
            with_running(|running| {
                let views =
                    this.plan.iter().map(|target| targets::View::of(&running.cx, target).map_err(Error::external));
                views.map(|view| super::api::target(lua, &view?)).collect::<Result<Vec<_>>>()
            })
        })?
        .end();
    Adding::<view::Try>::to(lua).add("request", |lua, this, ()| show_request(lua, &this.request))?.end();
    Adding::<view::Failure>::to(lua).add("request", |lua, this, ()| show_request(lua, &this.request))?.end();
    Adding::<view::Answer>::to(lua)
        .add("request", |lua, this, ()| show_request(lua, &this.request))?
        .add("texts", |lua, this, ()| {
            let texts = this.chat().map(|answer| conversation::texts_of_answer(answer)).unwrap_or_default();
            text_list(lua, &texts)
        })?
        .add("json", |lua, this, ()| json(lua, &this.body))?
        .end();
    Ok(())
}

/// A value that the gateway has as JSON; nil for what is none.
fn json(lua: &Lua, text: &[u8]) -> Result<Lv> {
    match build::decoded(lua, text) {
        Ok(value) => Ok(value),
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
            let kept = with_running(|running| Ok(running.cx.visit.get(&running.cx.guest.name, &key)))?;
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
            with_running(|running| running.cx.visit.set(&running.cx.guest.name, &key, value).map_err(Error::external))
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
