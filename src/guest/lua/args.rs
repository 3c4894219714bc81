//! Arguments of what `gw` has, read so that an error names the function and how it is called.
//!
//! Whatever fits is converted once, as the engine does it; only what does not fit costs more.

use mlua::{Either, Error, FromLua, FromLuaMulti, LuaString, Result, Table, Value as Lv};

use super::convert::kind_of;
use super::views::{SECRET, SecretHandle};

/// How a function is called.
#[derive(Clone, Copy)]
pub(super) struct Signature {
    /// What follows `gw.`.
    pub name: &'static str,
    /// Its type, in Luau.
    pub luau: &'static str,
}

/// Arguments that a function of `gw` takes.
pub(super) trait Args: Sized {
    /// As they come from the machine: what does not fit is kept as it is.
    type Raw: FromLuaMulti + Send + 'static;

    /// # Errors
    /// One of them is missing, or is something else.
    fn read(raw: Self::Raw, signature: Signature) -> Result<Self>;
}

impl Args for () {
    type Raw = ();

    fn read((): (), _: Signature) -> Result<Self> {
        Ok(())
    }
}

macro_rules! alone {
    ($($kind:ty),*) => {$(
        impl Args for $kind {
            type Raw = Either<$kind, Lv>;

            fn read(raw: Self::Raw, signature: Signature) -> Result<Self> {
                one(raw, 1, signature)
            }
        }
    )*};
}

alone!(String, LuaString, f64, Table, Option<f64>, Option<LuaString>, Option<Table>, Lv);

macro_rules! several {
    ($($kind:ident $value:ident $place:literal),*) => {
        impl<$($kind: FromLua + Send + 'static),*> Args for ($($kind,)*) {
            type Raw = ($(Either<$kind, Lv>,)*);

            fn read(($($value,)*): Self::Raw, signature: Signature) -> Result<Self> {
                Ok(($(one($value, $place, signature)?,)*))
            }
        }
    };
}

several!(A a 1, B b 2);
several!(A a 1, B b 2, C c 3);
several!(A a 1, B b 2, C c 3, D d 4);
several!(A a 1, B b 2, C c 3, D d 4, E e 5);

fn one<T: FromLua>(raw: Either<T, Lv>, place: usize, signature: Signature) -> Result<T> {
    match raw {
        Either::Left(value) => Ok(value),
        Either::Right(found) => Err(misfit(&found, place, signature)),
    }
}

fn misfit(found: &Lv, place: usize, Signature { name, luau }: Signature) -> Error {
    let taken = luau.split(" -> ").next().unwrap_or(luau);
    let parameter = taken.trim_matches(['(', ')']).split(", ").nth(place - 1).unwrap_or("…");
    let what = match found {
        Lv::Nil => "is missing".to_owned(),
        Lv::Number(number) => format!("is {number}, which does not fit"),
        Lv::String(text) if text.to_str().is_err() => "is a text that is no UTF-8".to_owned(),
        found => format!("is {}", kind_of(found)),
    };
    let advice = match found {
        Lv::UserData(data) if data.is::<SecretHandle>() => format!(": {SECRET}"),
        _ => String::new(),
    };
    Error::runtime(format!("gw.{name}: argument {place}, `{parameter}`, {what}{advice}; call it as gw.{name}{taken}"))
}
