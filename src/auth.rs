//! Who is calling, from the head alone.
//!
//! Keys are looked up by keyed hash, so neither the table nor a timing tells a key. Never reads a body.

pub mod forwarded;
pub mod page;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use http::{HeaderMap, HeaderName, Uri};
use percent_encoding::percent_decode_str;

use crate::fault::{Fault, Kind};
use crate::route;

use page::Names;

/// Longest credential that is hashed at all.
const MAX_CREDENTIAL_BYTES: usize = 4096;

/// Who is calling: a key, and what it stands for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Principal {
    /// Name of the key.
    pub key: String,
    pub project: Option<String>,
    /// Models it may use, exact or with one `*`; None for all of them.
    pub models: Option<Vec<String>>,
    pub metadata: BTreeMap<String, String>,
    /// Unix seconds after which the key is refused.
    pub expires: Option<u64>,
    /// No other target is tried when the first fails.
    pub disable_fallbacks: bool,
    /// How urgent its requests are where they wait for a place at a provider; higher is more urgent.
    pub priority: u8,
    /// It may ask for the decision trace.
    pub trace: bool,
    /// It is everybody, as there are no keys.
    pub is_anyone: bool,
}

impl Principal {
    /// Whether this caller may use the model it named.
    ///
    /// # Errors
    /// [`Kind::ModelNotAllowed`].
    pub fn may_use(&self, model: &str) -> Result<(), Fault> {
        if self.models.as_ref().is_none_or(|models| route::allows(models, model)) {
            return Ok(());
        }
        let text = format!("The key `{}` may not use the model `{model}`.", self.key);
        Err(Fault::new(Kind::ModelNotAllowed, text).param("model"))
    }
}

/// The keys of one generation.
pub struct Keys {
    /// Keys the hashes.
    pepper: hmac::Key,
    principals: HashMap<[u8; 32], Arc<Principal>>,
    /// Headers that may carry a credential, in order.
    headers: Vec<HeaderName>,
    /// Who everybody is when there are no keys, and the names by which they may call.
    anyone: Option<(Arc<Principal>, Names)>,
}

impl Keys {
    /// `pepper` keys the hashes; without one a random one is made, good for this process.
    pub fn new(pepper: Option<&[u8]>, headers: Vec<HeaderName>) -> Self {
        let mut random = [0; 32];
        let secret = pepper.unwrap_or_else(|| {
            // The system's source itself: aws-lc measures the processor's jitter for 40 ms before its first number, which
            // would be most of the time to start. Failure leaves zeroes, which still keeps keys out of the table.
            let _ = getrandom::fill(&mut random);
            &random
        });
        Keys { pepper: hmac::Key::new(hmac::HMAC_SHA256, secret), principals: HashMap::new(), headers, anyone: None }
    }

    /// Lets everybody in as this caller, but no web pages of others. For gateways without keys.
    pub fn open(&mut self, principal: Principal, names: Names) {
        self.anyone = Some((Arc::new(principal), names));
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.anyone.is_some()
    }

    /// Adds a key.
    ///
    /// # Errors
    /// The name of another that is the same key: who presents it could be either.
    pub fn add(&mut self, key: &str, principal: Principal) -> Result<(), String> {
        self.add_hashed(self.digest(key), principal)
    }

    /// Adds a key known only by its hash under the pepper.
    ///
    /// # Errors
    /// As [`Keys::add`].
    pub fn add_hashed(&mut self, digest: [u8; 32], principal: Principal) -> Result<(), String> {
        match self.principals.entry(digest) {
            Entry::Occupied(known) => Err(known.get().key.clone()),
            Entry::Vacant(place) => {
                place.insert(Arc::new(principal));
                Ok(())
            }
        }
    }

    /// The hash under which a key is known.
    pub fn digest(&self, key: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.pepper, key.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(tag.as_ref());
        digest
    }

    /// Names the caller.
    ///
    /// # Errors
    /// [`Kind::MissingCredential`], [`Kind::InvalidCredential`]; [`Kind::ForeignPage`] where nobody needs one.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri, now: u64) -> Result<Arc<Principal>, Fault> {
        if let Some((anyone, names)) = &self.anyone {
            return match page::stranger(headers, uri, *names) {
                None => Ok(anyone.clone()),
                Some(why) => Err(Fault::new(Kind::ForeignPage, why)),
            };
        }
        let Some(credential) = self.credential(headers, uri.query()) else {
            return Err(Fault::new(Kind::MissingCredential, "No credential was sent."));
        };
        let refused = || Fault::new(Kind::InvalidCredential, "The credential is not a key of this gateway.");
        if credential.len() > MAX_CREDENTIAL_BYTES {
            return Err(refused());
        }
        let principal = self.principals.get(&self.digest(&credential)).ok_or_else(refused)?;
        if principal.expires.is_some_and(|expires| expires <= now) {
            let text = format!("The key `{}` has expired.", principal.key);
            return Err(Fault::new(Kind::InvalidCredential, text));
        }
        Ok(principal.clone())
    }

    /// The first credential in the head: a header, or `?key=` as Gemini's REST examples send it.
    fn credential<'a>(&self, headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let from_header = self.headers.iter().find_map(|name| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            let bare = match value.split_once(' ') {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
                // A client whose key is empty: white space at the end does not survive the wire.
                None if value.eq_ignore_ascii_case("bearer") => "",
                _ => value,
            };
            (!bare.is_empty()).then_some(bare)
        });
        from_header.map(Cow::Borrowed).or_else(|| {
            let key = query?.split('&').find_map(|pair| pair.strip_prefix("key=")).filter(|key| !key.is_empty())?;
            percent_decode_str(key).decode_utf8().ok()
        })
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash as written: `hmac-sha256:` and 64 hexadecimal digits.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("hmac-sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.principals.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Principal {
        Principal { key: name.into(), ..Principal::default() }
    }

    fn keys() -> Keys {
        let headers = ["authorization", "x-api-key"].map(HeaderName::from_static).to_vec();
        let mut keys = Keys::new(None, headers);
        keys.add("sk-one", principal("one")).expect("is new");
        keys.add("sk-old", Principal { expires: Some(100), ..principal("old") }).expect("is new");
        keys
    }

    fn check(name: &str, value: &str, query: Option<&str>) -> Result<String, Kind> {
        let mut headers = HeaderMap::new();
        if !name.is_empty() {
            headers.insert(HeaderName::from_bytes(name.as_bytes()).expect("name"), value.parse().expect("value"));
        }
        let uri = format!("/v1/models?{}", query.unwrap_or_default()).parse().expect("a URI");
        keys().check(&headers, &uri, 200).map(|principal| principal.key.clone()).map_err(|fault| fault.kind)
    }

    #[test]
    fn one_key_is_of_one_caller() {
        let mut keys = Keys::new(None, vec![]);
        keys.add("sk-one", principal("one")).expect("is new");
        assert_eq!(keys.add("sk-one", principal("two")), Err("one".to_owned()));
        let digest = keys.digest("sk-one");
        assert_eq!(keys.add_hashed(digest, principal("three")), Err("one".to_owned()));
    }

    #[test]
    fn every_sdks_header_is_accepted() {
        assert_eq!(check("authorization", "Bearer sk-one", None), Ok("one".into()));
        assert_eq!(check("authorization", "bearer  sk-one", None), Ok("one".into()));
        assert_eq!(check("x-api-key", "sk-one", None), Ok("one".into()));
        assert_eq!(check("", "", Some("alt=sse&key=sk-one")), Ok("one".into()));
        assert_eq!(check("", "", Some("key=sk%2Done&alt=sse")), Ok("one".into()));
    }

    #[test]
    fn strangers_and_expired_keys_are_refused() {
        assert_eq!(check("", "", None), Err(Kind::MissingCredential));
        assert_eq!(check("authorization", "Bearer ", None), Err(Kind::MissingCredential));
        assert_eq!(check("authorization", "Bearer", None), Err(Kind::MissingCredential));
        assert_eq!(check("authorization", "Bearer sk-two", None), Err(Kind::InvalidCredential));
        assert_eq!(check("authorization", "Bearer sk-old", None), Err(Kind::InvalidCredential));
        assert_eq!(check("x-goog-api-key", "sk-one", None), Err(Kind::MissingCredential));
    }

    #[test]
    fn a_key_may_use_only_its_models() {
        let key = Principal { models: Some(vec!["fast".into(), "openai/*".into()]), ..principal("k") };
        assert!(key.may_use("fast").is_ok());
        assert!(key.may_use("openai/gpt-5").is_ok());
        assert_eq!(key.may_use("openai/").map_err(|fault| fault.kind), Err(Kind::ModelNotAllowed));
        assert_eq!(key.may_use("Fast").map_err(|fault| fault.kind), Err(Kind::ModelNotAllowed));
    }
}
