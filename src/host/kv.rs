//! What guests keep between requests: `kv`, which refuses when it is full, and `cache`, which forgets.
//!
//! Each guest has a namespace of its own; those that the operator grants are shared by whoever is granted them. Every
//! call is atomic for its key. Lives through reloads, not through restarts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Cx, HostError};
use crate::state::kv::{KvError, MAX_VALUE_BYTES, Space};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    Kv,
    Cache,
}

/// A key, and the namespace that is not the guest's own.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub shelf: Shelf,
    pub key: &'a str,
    pub space: Option<&'a str>,
}

impl Place<'_> {
    fn space(&self, cx: &Cx) -> Result<Arc<Space>, HostError> {
        let state = cx.world()?.state();
        let kv = if self.shelf == Shelf::Kv { &state.kv } else { &state.guest_cache };
        match self.space {
            // A name that is granted can never be that of another guest's own.
            None => Ok(kv.space(&format!("own:{}", cx.guest.name))),
            Some(name) if cx.guest.grants.kv.iter().any(|granted| granted == name) => {
                Ok(kv.space(&format!("shared:{name}")))
            }
            Some(name) => Err(HostError(format!(
                "the namespace `{name}` is not granted; the operator writes it under `grants.kv` of the hook `{}`",
                cx.guest.name
            ))),
        }
    }
}

fn refused(error: KvError) -> HostError {
    HostError(error.to_string())
}

/// A time to live in milliseconds, where one is given.
///
/// # Errors
/// It is none.
pub fn ttl(ms: Option<f64>) -> Result<Option<Duration>, HostError> {
    ms.map(|ms| {
        let wrong = || HostError(format!("{ms} is no time to live; give milliseconds above 0"));
        if ms > 0.0 { Duration::try_from_secs_f64(ms / 1000.0).map_err(|_| wrong()) } else { Err(wrong()) }
    })
    .transpose()
}

/// What stands there.
///
/// # Errors
/// The namespace is not granted.
pub fn get(cx: &Cx, place: Place<'_>) -> Result<Option<Value>, HostError> {
    let found = place.space(cx)?.get(place.key);
    // Whatever stands there was written as JSON, a count included.
    Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Keeps a value; `only_new` where there is none yet. Whether it was kept.
///
/// # Errors
/// The namespace is not granted or full, or key or value are too long.
pub fn set(
    cx: &Cx,
    place: Place<'_>,
    value: &Value,
    ttl: Option<Duration>,
    only_new: bool,
) -> Result<bool, HostError> {
    let text = value.to_string();
    if text.len() > MAX_VALUE_BYTES {
        return Err(refused(KvError::ValueTooLong));
    }
    let space = place.space(cx)?;
    match only_new {
        true => space.add(place.key, text, ttl).map_err(refused),
        false => space.set(place.key, text, ttl).map(|()| true).map_err(refused),
    }
}

/// Adds to a count and gives the sum. An absent one is 0 and lives for `ttl` from its first addition.
///
/// # Errors
/// As [`set`], and when it is no count.
pub fn incr(cx: &Cx, place: Place<'_>, by: f64, ttl: Option<Duration>) -> Result<i64, HostError> {
    // Beyond 2^53 a number is no longer exact for a guest.
    if by.fract() != 0.0 || by.abs() > 9_007_199_254_740_992.0 {
        return Err(HostError(format!("{by} is no whole number to add")));
    }
    place.space(cx)?.incr(place.key, by as i64, ttl).map_err(refused)
}

/// Takes it out. Whether there was something.
///
/// # Errors
/// The namespace is not granted.
pub fn delete(cx: &Cx, place: Place<'_>) -> Result<bool, HostError> {
    Ok(place.space(cx)?.delete(place.key))
}
