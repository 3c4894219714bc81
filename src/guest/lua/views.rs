//! Views as userdata: one type a view, its fields read when the script names them.
//!
//! Nothing of the exchange is copied into the machine before it is asked for. A name that a view does not have is an
//! error that names the nearest one.

use std::sync::Arc;

use mlua::{AnyUserData, Error, Function, Lua, LuaString, MetaMethod, Result, UserData, UserDataMethods, Value as Lv};

use super::super::view::{self, Subject, Val, View, conversation};
use super::{Running, convert, running};
use crate::host::visit::Kept;
use crate::host::{secret, targets};

/// A view in a script's hands.
struct Shown<T>(Arc<T>);

impl<T: View> UserData for Shown<T> {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Index, |lua, this, key: LuaString| {
            let key = key.to_str()?;
            if let Some(value) = this.0.get(&key) {
                return val(lua, value);
            }
            match lua.app_data_ref::<Methods>().and_then(|methods| methods.find(T::NAME, &key)) {
                Some(method) => Ok(Lv::Function(method)),
                None => Err(Error::runtime(unknown::<T>(&key))),
            }
        });
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok(T::NAME));
    }
}

fn unknown<T: View>(key: &str) -> String {
    let names = T::FIELDS.iter().chain(T::METHODS).map(|(name, _, _)| *name);
    let near = names
        .clone()
        .map(|name| (strsim::jaro_winkler(name, key), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => format!("{} has no `{key}`; did you mean `{name}`?", T::NAME),
        None => format!("{} has no `{key}`; it has: {}", T::NAME, names.collect::<Vec<_>>().join(", ")),
    }
}

fn val(lua: &Lua, value: Val<'_>) -> Result<Lv> {
    Ok(match value {
        Val::Nil => Lv::Nil,
        Val::Bool(bool) => Lv::Boolean(bool),
        Val::Number(number) => Lv::Number(number),
        Val::Text(text) => Lv::String(lua.create_string(text.as_ref())?),
        Val::Json(value) => convert::to_lua(lua, &value)?,
    })
}

/// The methods of every view, made once for a machine.
struct Methods(Vec<(&'static str, &'static str, Function)>);

impl Methods {
    fn find(&self, view: &str, name: &str) -> Option<Function> {
        self.0.iter().find(|(of, known, _)| *known == name && *of == view).map(|(_, _, method)| method.clone())
    }
}

/// Shows what a call is about.
pub(super) fn show(lua: &Lua, running: &Running, subject: &Subject) -> Result<Option<AnyUserData>> {
    let view = match subject {
        Subject::Head(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Request(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Try(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Failure(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Answer(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Event(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Done(view) => lua.create_userdata(Shown(view.clone()))?,
        Subject::Tick => return Ok(None),
    };
    running.show(view.clone());
    Ok(Some(view))
}

fn show_request(lua: &Lua, request: &Arc<view::Request>) -> Result<AnyUserData> {
    let view = lua.create_userdata(Shown(request.clone()))?;
    running()?.show(view.clone());
    Ok(view)
}

/// Puts the methods of every view into a machine.
pub(super) fn register(lua: &Lua) -> Result<()> {
    let mut methods = Methods(Vec::new());
    macro_rules! method {
        ($view:ident $name:literal, $body:expr) => {{
            let function = lua.create_function($body)?;
            methods.0.push((view::$view::NAME, $name, function));
        }};
    }
    method!(Head "header", |lua, (this, name): (This<view::Head>, LuaString)| header(lua, &this.0.headers, &name, false));
    method!(Request "header", |lua, (this, name): (This<view::Request>, LuaString)| {
        header(lua, this.0.call.headers(), &name, true)
    });
    method!(Request "param", |lua, (this, name): (This<view::Request>, String)| {
        match this.0.call.envelope().get::<serde_json::Value>(&name) {
            Some(value) => convert::to_lua(lua, &value),
            None => Ok(Lv::Nil),
        }
    });
    method!(Request "metadata", |lua, (this, name): (This<view::Request>, String)| {
        let value = this.0.visit.principal().and_then(|principal| principal.metadata.get(&name));
        value.map_or(Ok(Lv::Nil), |value| lua.create_string(value).map(Lv::String))
    });
    method!(Request "system", |_, this: This<view::Request>| {
        Ok(conversation::system(&*this.chat()?))
    });
    method!(Request "message", |lua, (this, index): (This<view::Request>, i64)| {
        conversation::message(&*this.chat()?, index).map(|turn| message(lua, &turn)).transpose()
    });
    method!(Request "messages", |lua, this: This<view::Request>| {
        view::messages(&*this.chat()?).iter().map(|turn| message(lua, turn)).collect::<Result<Vec<_>>>()
    });
    method!(Request "last_user", |_, this: This<view::Request>| {
        Ok(conversation::last_user(&*this.chat()?))
    });
    method!(Request "texts", |lua, this: This<view::Request>| {
        conversation::texts_of(&*this.chat()?).iter().map(|part| text(lua, part)).collect::<Result<Vec<_>>>()
    });
    method!(Request "plan", |lua, this: This<view::Request>| {
        let running = running()?;
        let views = this.0.plan.iter().map(|target| targets::View::of(&running.cx, target).map_err(Error::external));
        views.map(|view| super::api::target(lua, &view?)).collect::<Result<Vec<_>>>()
    });
    method!(Try "request", |lua, this: This<view::Try>| show_request(lua, &this.0.request));
    method!(Failure "request", |lua, this: This<view::Failure>| show_request(lua, &this.0.request));
    method!(Answer "request", |lua, this: This<view::Answer>| show_request(lua, &this.0.request));
    method!(Answer "texts", |lua, this: This<view::Answer>| {
        let texts = this.0.chat().map(|answer| conversation::texts_of_answer(answer)).unwrap_or_default();
        texts.iter().map(|part| text(lua, part)).collect::<Result<Vec<_>>>()
    });
    method!(Answer "json", |lua, this: This<view::Answer>| {
        match serde_json::from_slice::<serde_json::Value>(&this.0.body) {
            Ok(value) => convert::to_lua(lua, &value),
            Err(_) => Ok(Lv::Nil),
        }
    });
    lua.set_app_data(methods);
    Ok(())
}

/// The view that a method is called on.
struct This<T>(Arc<T>);

impl<T: View> mlua::FromLua for This<T> {
    fn from_lua(value: Lv, _: &Lua) -> Result<Self> {
        match &value {
            Lv::UserData(data) => match data.borrow::<Shown<T>>() {
                Ok(shown) => Ok(This(shown.0.clone())),
                Err(Error::UserDataDestructed) => {
                    Err(Error::runtime(format!("this {} is of a call that has ended; do not keep it", T::NAME)))
                }
                Err(_) => Err(Error::runtime(format!("call it with a colon on a {}", T::NAME))),
            },
            _ => Err(Error::runtime(format!("call it with a colon on a {}", T::NAME))),
        }
    }
}

impl This<view::Request> {
    fn chat(&self) -> Result<Arc<crate::chat::Ask>> {
        self.0
            .call
            .chat()
            .map_err(|fault| Error::runtime(format!("this request holds no conversation: {}", fault.message)))
    }
}

fn header(lua: &Lua, headers: &http::HeaderMap, name: &LuaString, hide: bool) -> Result<Lv> {
    let name = name.to_str()?;
    if hide && conversation::is_credential(&name) {
        return Ok(Lv::Nil);
    }
    let value = headers.get(&*name);
    value.map_or(Ok(Lv::Nil), |value| lua.create_string(value.as_bytes()).map(Lv::String))
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
    let table = lua.create_table_with_capacity(0, 3)?;
    table.raw_set("index", text.index)?;
    table.raw_set("role", text.role)?;
    table.raw_set("text", text.text.as_str())?;
    Ok(table)
}

/// `ctx`: what a script keeps of one exchange. One for all calls of a machine; which exchange is meant, the call says.
pub(super) struct Context;

impl UserData for Context {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |lua, _, key: String| {
            let running = running()?;
            Ok(match running.cx.visit.get(&running.cx.guest.name, &key) {
                None => Lv::Nil,
                Some(Kept::Bool(bool)) => Lv::Boolean(bool),
                Some(Kept::Number(number)) => Lv::Number(number),
                Some(Kept::Text(text)) => Lv::String(lua.create_string(text)?),
            })
        });
        methods.add_method("set", |_, _, (key, value): (String, Lv)| {
            let running = running()?;
            let value = match value {
                Lv::Nil => None,
                Lv::Boolean(bool) => Some(Kept::Bool(bool)),
                Lv::Integer(number) => Some(Kept::Number(number as f64)),
                Lv::Number(number) => Some(Kept::Number(number)),
                Lv::String(text) => Some(Kept::Text(text.as_bytes().to_vec())),
                other => {
                    let text = format!(
                        "ctx keeps texts, numbers and booleans, not a {}; use gw.json.encode",
                        other.type_name()
                    );
                    return Err(Error::runtime(text));
                }
            };
            running.cx.visit.set(&running.cx.guest.name, &key, value).map_err(Error::external)
        });
    }
}

/// A secret in a script's hands. Prints as its name, and is nothing that a string can be made of.
pub(super) struct SecretHandle(pub secret::Handle);

impl UserData for SecretHandle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(format!("secret({})", this.0.name())));
        methods.add_meta_method(MetaMethod::Concat, |_, _, _: mlua::MultiValue| -> Result<()> {
            Err(Error::runtime("a secret cannot become a part of a text; pass it as it is to a header of gw.http"))
        });
    }
}
