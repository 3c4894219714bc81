//! Tables that scripts return, read out by name: each name once, and none that is not known.
//!
//! Raw reads within bounds: a metatable of the script's never runs here.

use std::time::Duration;

use mlua::{Either, Error, FromLua, Result, Table, Value as Lv};

use super::super::{near, verdict::span};
use super::convert::kind_of;
use super::list::{self, List};
use super::turn;

/// Most names in a table of a verdict.
const MAX_NAMES: usize = 64;

/// The names and values of a table, read in one pass: to look a name up in a machine costs more than to read it out.
#[derive(Default)]
pub(super) struct Entries(Vec<(String, Lv)>);

impl Entries {
    pub fn of(table: &Table) -> Result<Self> {
        let mut entries = Vec::new();
        table.for_each(|name: String, value: Lv| {
            if entries.len() >= MAX_NAMES {
                return Err(Error::runtime(format!("a table of a verdict has more than {MAX_NAMES} names")));
            }
            entries.push((name, value));
            Ok(())
        })?;
        Ok(Entries(entries))
    }

    /// Every name must be one of these.
    pub fn known(&self, what: &str, names: &[&str]) -> Result<()> {
        let Some((key, _)) = self.0.iter().find(|(key, _)| !names.contains(&key.as_str())) else { return Ok(()) };
        Err(unknown(what, key, names))
    }

    /// Whether there is such a name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub fn take(&mut self, name: &str) -> Lv {
        let place = self.0.iter().position(|(known, _)| known == name);
        place.map_or(Lv::Nil, |place| self.0.swap_remove(place).1)
    }

    pub fn sub(&mut self, name: &str) -> Result<Option<Table>> {
        match self.take(name) {
            Lv::Nil => Ok(None),
            Lv::Table(inner) => Ok(Some(inner)),
            other => Err(wrong(name, "a table", &other)),
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            Lv::Nil => Ok(None),
            Lv::String(text) => Ok(Some(text.to_str()?.to_owned())),
            other => Err(wrong(name, "a text", &other)),
        }
    }

    pub fn number(&mut self, name: &str) -> Result<Option<f64>> {
        match self.take(name) {
            Lv::Nil => Ok(None),
            value => match value.as_f64().or_else(|| value.as_integer().map(|whole| whole as f64)) {
                Some(number) if number.is_finite() => Ok(Some(number)),
                Some(number) => Err(Error::runtime(format!("{name}: {number} is no number that can be reckoned with"))),
                _ => Err(wrong(name, "a number", &value)),
            },
        }
    }

    pub fn ms(&mut self, name: &str) -> Result<Option<Duration>> {
        self.number(name)?.map(|ms| span(name, ms)).transpose().map_err(Error::runtime)
    }
}

/// The error of a name that is not there: the nearest one, or all that are.
pub(super) fn unknown(what: &str, key: &str, names: &[&str]) -> Error {
    Error::runtime(match near(key, names) {
        Some(name) => format!("{what} has no `{key}`; did you mean `{name}`?"),
        None => format!("{what} has no `{key}`; it has: {}", names.join(", ")),
    })
}

/// Most entries of a list in a verdict, and those between two looks at the lease.
const MAX_ENTRIES: usize = 10_000;
const ENTRIES_A_LOOK: usize = 256;

/// A list that has an entry in each of its places. The machine holds a text once in however many places it stands: who
/// copies them charges each copy.
pub(super) fn list<T>(table: &Table, what: &str, mut each: impl FnMut(&Lv) -> Result<T>) -> Result<Vec<T>> {
    placed(table, what, |_, value: Lv| each(&value))
}

/// The same for a list whose entries are names as a rule: `each` gets a name, or the value that is none. It charges the
/// names, of which one is copied by then.
pub(super) fn names<T>(
    table: &Table,
    what: &str,
    mut each: impl FnMut(Either<String, Lv>) -> Result<T>,
) -> Result<Vec<T>> {
    placed(table, what, |place, entry: Either<String, Lv>| match entry {
        // To hold on to a value of the machine costs several times the copy. It would turn a number into a text, too.
        Either::Left(text) if text.parse::<f64>().is_ok() => match table.raw_get::<Lv>(place)? {
            Lv::String(_) => each(Either::Left(text)),
            value => each(Either::Right(value)),
        },
        entry => each(entry),
    })
}

fn placed<V: FromLua, T>(table: &Table, what: &str, mut each: impl FnMut(usize, V) -> Result<T>) -> Result<Vec<T>> {
    let mut list = List::default();
    table.for_each(|key: Lv, value: V| {
        let place = list::place(&key).ok_or_else(|| {
            let key = match &key {
                Lv::String(name) => format!("`{}`", name.to_string_lossy()),
                other => kind_of(other).to_owned(),
            };
            Error::runtime(format!("{what}: write a list, {{ …, … }}; {key} is no place in one"))
        })?;
        if list.len() >= MAX_ENTRIES {
            return Err(Error::runtime(format!("{what} has more than {MAX_ENTRIES} entries")));
        }
        if list.len() % ENTRIES_A_LOOK == ENTRIES_A_LOOK - 1 {
            turn::step()?;
        }
        list.put(place, each(place, value)?);
        Ok(())
    })?;
    list.whole(|place| Err(Error::runtime(format!("{what}: nothing stands at [{place}], and more behind it"))))
}

pub(super) fn wrong(what: &str, wanted: &str, found: &Lv) -> Error {
    Error::runtime(format!("{what}: {} stands where {wanted} should", kind_of(found)))
}
