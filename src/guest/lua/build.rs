//! Large values on their way into a machine: JSON, texts and turns of conversations, built piece by piece.
//!
//! What is built is the machine's memory and the call's time from the first piece on: the lease is looked at every few
//! hundred pieces, and nothing as large as the whole stands beside it meanwhile.

use std::cell::{Cell, RefCell};
use std::fmt;

use mlua::{Error, Lua, LuaSerdeExt, Result, Table, Value as Lv};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::turn;

/// Pieces, and bytes of texts, between two looks at the lease and the memory.
const PIECES: usize = 256;
const BYTES: usize = 64 << 10;

/// Something under construction.
pub(super) struct Build<'a> {
    lua: &'a Lua,
    /// Bytes that the machine may use; 0 without a bound.
    bound: usize,
    pieces: Cell<usize>,
    bytes: Cell<usize>,
}

/// Builds something in a machine. Its bound is looked at between pieces instead of at each: to go by it, a step must be
/// safe from failing half-way, which costs ten times the step.
///
/// # Errors
/// What `make` says, or the memory or the time of the call is used up.
pub(super) fn within<T>(lua: &Lua, make: impl FnOnce(&Build<'_>) -> Result<T>) -> Result<T> {
    let bound = lua.set_memory_limit(0)?;
    let build = Build { lua, bound, pieces: Cell::new(0), bytes: Cell::new(0) };
    let made = make(&build).and_then(|made| build.fits(0).map(|()| made));
    lua.set_memory_limit(bound)?;
    made
}

impl Build<'_> {
    /// Called before each piece with the bytes of text in it.
    ///
    /// # Errors
    /// The memory or the time of the call is used up.
    pub fn piece(&self, bytes: usize) -> Result<()> {
        let (pieces, sum) = (self.pieces.get() + 1, self.bytes.get().saturating_add(bytes));
        self.pieces.set(pieces);
        self.bytes.set(sum);
        if pieces < PIECES && sum < BYTES {
            return Ok(());
        }
        self.pieces.set(0);
        self.bytes.set(0);
        turn::step()?;
        self.fits(bytes)
    }

    fn fits(&self, more: usize) -> Result<()> {
        match self.bound != 0 && self.lua.used_memory().saturating_add(more) > self.bound {
            true => Err(Error::MemoryError("not enough memory".to_owned())),
            false => Ok(()),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Build::piece`].
    pub fn text(&self, text: &str) -> Result<Lv> {
        self.piece(text.len())?;
        self.lua.create_string(text).map(Lv::String)
    }

    /// A list of what `each` makes of the items.
    ///
    /// # Errors
    /// As [`Build::piece`], and what `each` says.
    pub fn list<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(T) -> Result<Table>,
    ) -> Result<Table> {
        let list = self.lua.create_table()?;
        for (at, item) in items.into_iter().enumerate() {
            self.piece(0)?;
            list.raw_seti(at + 1, each(item)?)?;
        }
        Ok(list)
    }
}

/// Why a JSON text became no value.
pub(super) enum Undecoded {
    /// It is no JSON.
    Json(serde_json::Error),
    /// The call has ended.
    Call(Error),
}

impl From<Undecoded> for Error {
    fn from(why: Undecoded) -> Error {
        match why {
            Undecoded::Json(error) => Error::runtime(format!("no JSON: {error}")),
            Undecoded::Call(error) => error,
        }
    }
}

/// The value that a JSON text is. Nulls are absent in objects and `gw.null` elsewhere.
///
/// # Errors
/// It is no JSON, or too much for what the call has left.
pub(super) fn decoded(lua: &Lua, text: &[u8]) -> std::result::Result<Lv, Undecoded> {
    let ended = RefCell::new(None);
    let read = within(lua, |build| {
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = Seed { build, ended: &ended }.deserialize(&mut json);
        Ok(read.and_then(|value| json.end().map(|()| value)))
    });
    match (ended.into_inner(), read) {
        (Some(error), _) | (None, Err(error)) => Err(Undecoded::Call(error)),
        (None, Ok(read)) => read.map_err(Undecoded::Json),
    }
}

/// Where a value goes as it is read. The parser's errors cannot hold one of the machine's: that waits in `ended`.
#[derive(Clone, Copy)]
struct Seed<'a> {
    build: &'a Build<'a>,
    ended: &'a RefCell<Option<Error>>,
}

impl Seed<'_> {
    fn ok<T, E: serde::de::Error>(self, made: Result<T>) -> std::result::Result<T, E> {
        made.map_err(|error| {
            self.ended.replace(Some(error));
            E::custom("it is too much")
        })
    }

    fn plain<E: serde::de::Error>(self, value: Lv) -> std::result::Result<Lv, E> {
        self.ok(self.build.piece(0)).map(|()| value)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Lv;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Lv, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Lv;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Lv, E> {
        self.plain(self.build.lua.null())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<Lv, E> {
        self.plain(Lv::Boolean(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<Lv, E> {
        self.plain(Lv::Number(value as f64))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<Lv, E> {
        self.plain(Lv::Number(value as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Lv, E> {
        self.plain(Lv::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Lv, E> {
        self.ok(self.build.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Lv, A::Error> {
        let lua = self.build.lua;
        // A table is as much as a turn of a loop, as wherever one is read.
        let table = self.ok(turn::step().and_then(|()| lua.create_table()))?;
        let mut at = 0;
        while let Some(item) = items.next_element_seed(self)? {
            at += 1;
            self.ok(table.raw_seti(at, item))?;
        }
        self.ok(table.set_metatable(Some(lua.array_metatable())))?;
        Ok(Lv::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Lv, A::Error> {
        let lua = self.build.lua;
        let table = self.ok(turn::step().and_then(|()| lua.create_table()))?;
        while let Some(key) = entries.next_key_seed(self)? {
            let value = match entries.next_value_seed(self)? {
                Lv::LightUserData(null) if null.0.is_null() => Lv::Nil,
                value => value,
            };
            self.ok(table.raw_set(key, value))?;
        }
        Ok(Lv::Table(table))
    }
}
