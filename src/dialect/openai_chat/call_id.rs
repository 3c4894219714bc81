//! Ids of tool calls for servers that take nine letters and digits only (Mistral).
//!
//! Others are respelt from the id alone, so that a call and its result, and the next turn, agree. Never touches an id that
//! fits, nor a relayed body whose ids all do.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::dialect::stable_hash;
use crate::json::Envelope;

/// How long they are.
const LETTERS: usize = 9;

const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// The id as such a server takes it.
pub(super) fn short(id: &str) -> Cow<'_, str> {
    if id.len() == LETTERS && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Cow::Borrowed(id);
    }
    let mut rest = stable_hash(&[id]);
    let mut letter = || {
        let at = (rest % 62) as usize;
        rest /= 62;
        char::from(ALPHABET[at])
    };
    Cow::Owned((0..LETTERS).map(|_| letter()).collect())
}

/// The messages of a relayed body with their ids respelt; None where all fit.
pub(super) fn respelt(messages: &[u8]) -> Option<Vec<u8>> {
    list(messages, message)
}

fn message(raw: &str) -> Option<Vec<u8>> {
    let mut message = object(raw)?;
    let answers = respell_field(&mut message, "tool_call_id");
    let calls = message.raw("tool_calls").and_then(|calls| list(calls, call));
    if !answers && calls.is_none() {
        return None;
    }
    if let Some(calls) = calls {
        message.set("tool_calls", calls);
    }
    Some(message.pieces().concat())
}

fn call(raw: &str) -> Option<Vec<u8>> {
    let mut call = object(raw)?;
    respell_field(&mut call, "id").then(|| call.pieces().concat())
}

/// None for what is none, which the provider shall judge.
fn object(raw: &str) -> Option<Envelope> {
    Envelope::read(Bytes::copy_from_slice(raw.as_bytes())).ok()
}

/// Whether there was something to respell.
fn respell_field(object: &mut Envelope, key: &str) -> bool {
    let respelt = object.str(key).and_then(|id| match short(&id) {
        Cow::Borrowed(_) => None,
        Cow::Owned(respelt) => Some(respelt),
    });
    respelt.inspect(|id| object.set_str(key, id)).is_some()
}

/// A list with some of its entries changed, the others byte for byte; None where none is.
fn list(raw: &[u8], change: fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let entries: Vec<&RawValue> = serde_json::from_slice(raw).ok()?;
    let mut changed = false;
    let mut out = Vec::with_capacity(raw.len());
    for entry in entries {
        out.push(if out.is_empty() { b'[' } else { b',' });
        match change(entry.get()) {
            Some(new) => {
                changed = true;
                out.extend_from_slice(&new);
            }
            None => out.extend_from_slice(entry.get().as_bytes()),
        }
    }
    out.push(b']');
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_fits_stays_and_any_other_becomes_nine_letters_always_the_same() {
        assert_eq!(short("x7Jk29QpZ"), "x7Jk29QpZ");
        for odd in ["toolu_01AbCdEf", "call_1", "", "x7Jk29Qp-", "functions.get:0"] {
            let respelt = short(odd);
            assert!(respelt.len() == LETTERS && respelt.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{respelt}");
            assert_eq!(short(odd), respelt);
            assert_eq!(short(&respelt), respelt);
        }
        assert_ne!(short("call_1"), short("call_2"));
        // A conversation goes on after an upgrade.
        assert_eq!(short("toolu_01AbCdEf"), "2xENVX3RE");
    }
}
