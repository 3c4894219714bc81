//! What guests keep between requests: `cache`, which forgets, and `kv`, which refuses when it is full.
//!
//! Every operation is atomic for its key. A guest has a namespace of its own; others are granted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Cx, HostError};
use crate::state::kv::{KvError, Space};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Cache,
    Kv,
}

/// Longest life of a value, in seconds: a month.
const MAX_TTL_S: f64 = 31.0 * 24.0 * 3600.0;

/// The name of the namespace that a call means: the guest's own when it names none.
///
/// # Errors
/// It is not granted.
pub fn granted<'a>(cx: &'a Cx, name: Option<&'a str>) -> Result<&'a str, HostError> {
    let own = &*cx.guest.name;
    let name = name.unwrap_or(own);
    if name != own && !cx.guest.grants.kv.iter().any(|granted| granted == name) {
        let text = format!(
            "the namespace `{name}` is not granted; the operator writes it under `grants.kv` of the hook `{own}`"
        );
        return Err(HostError(text));
    }
    Ok(name)
}

/// The namespace that a call means: the guest's own when it names none.
///
/// # Errors
/// It is not granted.
pub fn space(cx: &Cx, store: Store, name: Option<&str>) -> Result<Arc<Space>, HostError> {
    let name = granted(cx, name)?;
    let state = cx.world()?.state();
    Ok(match store {
        Store::Cache => state.guest_cache.space(name),
        Store::Kv => state.kv.space(name),
    })
}

/// A time to live in seconds.
///
/// # Errors
/// It is no time, or longer than a month.
pub fn ttl(seconds: Option<f64>) -> Result<Option<Duration>, HostError> {
    let Some(seconds) = seconds else { return Ok(None) };
    let span = Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds > 0.0 && seconds <= MAX_TTL_S);
    span.map(Some).ok_or_else(|| HostError(format!("a time to live is more than 0 and at most {MAX_TTL_S} seconds")))
}

pub fn get(space: &Space, key: &str) -> Option<Bytes> {
    space.get(key)
}

/// # Errors
/// There is no room, or it is too long.
pub fn set(space: &Space, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), HostError> {
    space.set(key, Bytes::copy_from_slice(value), ttl).map_err(refused)
}

/// # Errors
/// As [`set`].
pub fn add(space: &Space, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<bool, HostError> {
    space.add(key, Bytes::copy_from_slice(value), ttl).map_err(refused)
}

/// # Errors
/// As [`set`].
pub fn swap(
    space: &Space,
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl: Option<Duration>,
) -> Result<bool, HostError> {
    space.swap(key, expected, Bytes::copy_from_slice(value), ttl).map_err(refused)
}

/// # Errors
/// As [`set`], and when what is there is no whole number.
pub fn incr(space: &Space, key: &str, by: f64, ttl: Option<Duration>) -> Result<i64, HostError> {
    if by.fract() != 0.0 || by.abs() > 9_007_199_254_740_992.0 {
        return Err(HostError(format!("{by} is no whole number to add")));
    }
    space.incr(key, by as i64, ttl).map_err(refused)
}

fn refused(error: KvError) -> HostError {
    HostError(error.to_string())
}
