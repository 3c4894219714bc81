//! What a request says of the cache: headers, and the body's `cache` object.
//!
//! What is said twice must be said alike: the header counts. Nothing of it goes upstream.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::policy::Policy;
use crate::fault::{Fault, Kind};

static CONTROL: HeaderName = HeaderName::from_static("x-portcullis-cache");
static TTL: HeaderName = HeaderName::from_static("x-portcullis-cache-ttl");
static NAMESPACE: HeaderName = HeaderName::from_static("x-portcullis-cache-namespace");

/// The body's field.
pub const FIELD: &str = "cache";

/// Longest name of a namespace.
const MAX_NAMESPACE_BYTES: usize = 128;

/// What a request wants of the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Controls {
    /// It takes an answer that is kept, or one under way.
    pub read: bool,
    /// Its own answer may be kept and shared.
    pub write: bool,
    pub ttl: Duration,
    /// The oldest answer it takes.
    pub max_age: Option<Duration>,
    pub namespace: String,
}

/// Reads what the request says, in its headers and in the body's field, within what the operator allows.
///
/// # Errors
/// [`Kind::InvalidRequest`] for what cannot be understood: a caller that believes it is not cached must not be.
pub fn read(headers: &HeaderMap, said: Option<&[u8]>, policy: &Policy) -> Result<Controls, Fault> {
    let mut controls = Controls { read: true, write: true, ttl: policy.ttl, max_age: None, namespace: String::new() };
    if !policy.general.client_control {
        return Ok(controls);
    }
    if let Some(raw) = said {
        controls.body(&serde_json::from_slice(raw).unwrap_or_default())?;
    }
    controls.headers(headers)?;
    controls.ttl = controls.ttl.min(policy.general.max_ttl.max(policy.ttl));
    Ok(controls)
}

impl Controls {
    fn headers(&mut self, headers: &HeaderMap) -> Result<(), Fault> {
        if let Some(words) = text(headers, &CONTROL)? {
            words.split(',').try_for_each(|word| self.word(word.trim(), CONTROL.as_str()))?;
        }
        if let Some(seconds) = text(headers, &TTL)? {
            let seconds = seconds.trim().parse().map_err(|_| wrong(TTL.as_str(), "takes a whole number of seconds"))?;
            self.live(seconds);
        }
        if let Some(name) = text(headers, &NAMESPACE)? {
            self.name(name, NAMESPACE.as_str())?;
        }
        Ok(())
    }

    fn body(&mut self, said: &Value) -> Result<(), Fault> {
        let fields = match said {
            Value::Null | Value::Bool(true) => return Ok(()),
            Value::Bool(false) => {
                (self.read, self.write) = (false, false);
                return Ok(());
            }
            Value::Object(fields) => fields,
            _ => return Err(wrong(FIELD, "takes an object: ttl, no-store, no-cache, refresh, namespace")),
        };
        for (name, value) in fields {
            // Both spellings are about.
            match (name.replace('_', "-").as_str(), value) {
                ("ttl", Value::Number(seconds)) if seconds.is_u64() => self.live(seconds.as_u64().unwrap_or(0)),
                ("s-maxage" | "s-max-age", Value::Number(seconds)) if seconds.is_u64() => {
                    self.max_age = seconds.as_u64().map(Duration::from_secs);
                }
                ("namespace", Value::String(name)) => self.name(name, FIELD)?,
                (word, Value::Bool(true)) => self.word(word, FIELD)?,
                (_, Value::Null | Value::Bool(false)) => {}
                (name, _) => {
                    return Err(wrong(
                        FIELD,
                        &format!(
                            "does not take `{name}` so; it takes ttl and s-maxage (seconds), no-store, no-cache and refresh (true), and namespace (text)"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &str, place: &str) -> Result<(), Fault> {
        // As in `Cache-Control`, capitals mean nothing.
        match word.to_ascii_lowercase().as_str() {
            "no-store" => self.write = false,
            "no-cache" | "refresh" => self.read = false,
            "" => {}
            _ => return Err(wrong(place, &format!("does not know `{word}`; it knows no-store, no-cache and refresh"))),
        }
        Ok(())
    }

    /// Nothing lives for no time.
    fn live(&mut self, seconds: u64) {
        if seconds == 0 {
            self.write = false;
        } else {
            self.ttl = Duration::from_secs(seconds);
        }
    }

    fn name(&mut self, name: &str, place: &str) -> Result<(), Fault> {
        if name.len() > MAX_NAMESPACE_BYTES {
            return Err(wrong(place, &format!("takes a namespace of at most {MAX_NAMESPACE_BYTES} bytes")));
        }
        name.clone_into(&mut self.namespace);
        Ok(())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    headers.get(name).map(|value| value.to_str().map_err(|_| wrong(name.as_str(), "takes plain text"))).transpose()
}

fn wrong(place: &str, what: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{place}` {what}.")).param(place)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::policy::{General, Partition};
    use crate::json::Envelope;

    fn policy(client_control: bool) -> Policy {
        let general = General {
            max_ttl: Duration::from_secs(600),
            max_entry_bytes: 1000,
            order_insensitive: false,
            ignore: vec![],
            finishes: vec![],
            single_flight: true,
            replay: Default::default(),
            shared: false,
            client_control,
        };
        Policy { ttl: Duration::from_secs(60), partition: Partition::Key, semantic: None, general: Arc::new(general) }
    }

    fn said(header: &[(&HeaderName, &str)], body: &str) -> Result<(bool, bool, u64, String), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in header {
            headers.insert((*name).clone(), value.parse().expect("a value"));
        }
        let envelope = Envelope::read(body.to_owned().into()).expect("reads");
        let controls = read(&headers, envelope.raw(FIELD), &policy(true)).map_err(|fault| fault.message)?;
        Ok((controls.read, controls.write, controls.ttl.as_secs(), controls.namespace))
    }

    #[test]
    fn headers_and_the_bodys_object_say_the_same_things() {
        let plain = Ok((true, true, 60, String::new()));
        assert_eq!(said(&[], "{}"), plain);
        assert_eq!(said(&[(&CONTROL, "no-store, no-cache")], "{}"), Ok((false, false, 60, String::new())));
        assert_eq!(said(&[], r#"{"cache":{"no-store":true,"no_cache":true}}"#), Ok((false, false, 60, String::new())));
        assert_eq!(
            said(&[(&CONTROL, "refresh"), (&TTL, "5"), (&NAMESPACE, "n")], "{}"),
            Ok((false, true, 5, "n".into()))
        );
        let body = r#"{"cache":{"refresh":true,"ttl":5,"namespace":"n"}}"#;
        assert_eq!(said(&[], body), Ok((false, true, 5, "n".into())));
        assert_eq!(said(&[(&TTL, "7")], body), Ok((false, true, 7, "n".into())));
        assert_eq!(said(&[], r#"{"cache":false}"#), Ok((false, false, 60, String::new())));
        assert_eq!(said(&[], r#"{"cache":null}"#), plain);
        assert_eq!(said(&[(&TTL, "0")], "{}"), Ok((true, false, 60, String::new())));
        assert_eq!(said(&[(&CONTROL, "No-Cache, NO-STORE")], "{}"), Ok((false, false, 60, String::new())));
        // No longer than the operator allows.
        assert_eq!(said(&[(&TTL, "9999")], "{}"), Ok((true, true, 600, String::new())));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_what_can() {
        for (header, body, word) in [
            (vec![(&CONTROL, "no-stroe")], "{}", "no-stroe"),
            (vec![(&TTL, "1h")], "{}", "seconds"),
            (vec![], r#"{"cache":"no"}"#, "object"),
            (vec![], r#"{"cache":{"ttl":"5m"}}"#, "ttl"),
            (vec![], r#"{"cache":{"no-stoer":true}}"#, "no-stoer"),
        ] {
            let fault = said(&header, body).expect_err(word);
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn a_locked_cache_hears_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(&CONTROL, "nonsense".parse().expect("a value"));
        let said = br#"{"no-store":true}"#;
        let controls = read(&headers, Some(said), &policy(false)).expect("hears nothing");
        assert!(controls.read && controls.write);
    }
}
