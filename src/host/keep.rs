//! What guests keep between requests: `cache`, which forgets, and `kv`, which refuses when it is full.
//!
//! Every operation is atomic for its key. A guest has a namespace of its own; others are granted. `kv` may be kept together
//! with other processes: then its operations wait, and are there only where a phase may.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::{Cx, HostError, MAX_WHOLE, Phases};
use crate::state::State;
use crate::state::kv::{self, KvError};

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

/// A namespace, wherever it is.
pub enum Space {
    Here(Arc<kv::Space>),
    /// Kept together with other processes, by this name.
    Shared(Arc<State>, String),
}

/// The namespace that a call means: the guest's own when it names none.
///
/// # Errors
/// It is not granted, or it is where one has to wait and this call may not.
pub fn space(cx: &Cx, store: Store, name: Option<&str>) -> Result<Space, HostError> {
    let name = granted(cx, name)?;
    let state = cx.world()?.state();
    if store == Store::Kv && cx.guest.grants.shared_kv && state.shared_kv.get().is_some() {
        if !cx.awaits {
            let text = format!(
                "gw.kv is on Redis (`redis.kv`) and waits, which on_{} cannot; use it in {}",
                cx.phase.name(),
                Phases::AWAITING
            );
            return Err(HostError(text));
        }
        return Ok(Space::Shared(state.clone(), name.to_owned()));
    }
    Ok(Space::Here(match store {
        Store::Cache => state.guest_cache.space(name),
        Store::Kv => state.kv.space(name),
    }))
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

/// # Errors
/// The namespace is away.
pub async fn get(space: &Space, key: &str) -> Result<Option<Bytes>, HostError> {
    match space {
        Space::Here(space) => Ok(space.get(key)),
        Space::Shared(state, name) => shared(state)?.get(name, key).await.map_err(refused),
    }
}

/// # Errors
/// There is no room, it is too long, or the namespace is away.
pub async fn set(space: &Space, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<(), HostError> {
    let done = match space {
        Space::Here(space) => space.set(key, value, ttl),
        Space::Shared(state, name) => shared(state)?.set(name, key, &value, ttl).await,
    };
    done.map_err(refused)
}

/// # Errors
/// As [`set`].
pub async fn add(space: &Space, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<bool, HostError> {
    let done = match space {
        Space::Here(space) => space.add(key, value, ttl),
        Space::Shared(state, name) => shared(state)?.add(name, key, &value, ttl).await,
    };
    done.map_err(refused)
}

/// # Errors
/// As [`set`].
pub async fn swap(
    space: &Space,
    key: &str,
    expected: Option<&[u8]>,
    value: Bytes,
    ttl: Option<Duration>,
) -> Result<bool, HostError> {
    let done = match space {
        Space::Here(space) => space.swap(key, expected, value, ttl),
        Space::Shared(state, name) => shared(state)?.swap(name, key, expected, &value, ttl).await,
    };
    done.map_err(refused)
}

/// # Errors
/// As [`set`], and when what is there is no whole number.
pub async fn incr(space: &Space, key: &str, by: f64, ttl: Option<Duration>) -> Result<i64, HostError> {
    if by.fract() != 0.0 || by.abs() > MAX_WHOLE {
        return Err(HostError(format!("`by` is {by}, which is no whole number to add")));
    }
    let done = match space {
        Space::Here(space) => space.incr(key, by as i64, ttl),
        Space::Shared(state, name) => shared(state)?.incr(name, key, by as i64, ttl).await,
    };
    done.map_err(refused)
}

/// Whether there was something to delete.
///
/// # Errors
/// The namespace is away.
pub async fn delete(space: &Space, key: &str) -> Result<bool, HostError> {
    match space {
        Space::Here(space) => Ok(space.delete(key)),
        Space::Shared(state, name) => shared(state)?.delete(name, key).await.map_err(refused),
    }
}

/// What an operation on a namespace of this process comes to, which never waits.
///
/// # Errors
/// The operation's own; or it waits.
pub fn at_once<T>(operation: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    match pin!(operation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => Err(HostError::new("the namespace waits, and this call may not")),
    }
}

fn shared(state: &State) -> Result<&kv::shared::Shared, HostError> {
    state.shared_kv.get().ok_or_else(|| HostError::new("the namespace is gone"))
}

fn refused(error: KvError) -> HostError {
    HostError(error.to_string())
}
