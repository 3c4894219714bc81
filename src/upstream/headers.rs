//! Headers of a request as they go out, shared by the requests that have the same.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;

/// Headers of a request. Nearly all requests to a target have the same ones, so they are shared, with the lines that they
/// make in a head of HTTP/1.1; whoever changes them has their own from then on.
#[derive(Clone, Default)]
pub struct Headers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    map: HeaderMap,
    lines: OnceLock<Box<[u8]>>,
}

impl Headers {
    /// The headers, to be changed.
    pub fn edit(&mut self) -> &mut HeaderMap {
        let shared = Arc::make_mut(&mut self.0);
        shared.lines.take();
        &mut shared.map
    }

    /// The lines that they make in a head of HTTP/1.1, each with its end.
    pub fn lines(&self) -> &[u8] {
        self.0.lines.get_or_init(|| {
            let parts = self
                .0
                .map
                .iter()
                .flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            parts.flatten().copied().collect()
        })
    }
}

impl Clone for Shared {
    /// To be changed, so that the lines would not be theirs.
    fn clone(&self) -> Self {
        Shared { map: self.map.clone(), lines: OnceLock::new() }
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        Headers(Arc::new(Shared { map, lines: OnceLock::new() }))
    }
}

impl Deref for Headers {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.0.map
    }
}

impl std::fmt::Debug for Headers {
    /// Without the lines, which know nothing of values that must not be shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn who_changes_shared_headers_changes_their_own() {
        let mut map = HeaderMap::new();
        map.insert("a", HeaderValue::from_static("1"));
        let first = Headers::from(map);
        let mut second = first.clone();
        assert_eq!(second.lines(), b"a: 1\r\n");
        second.edit().append("a", HeaderValue::from_static("2"));
        assert_eq!((first.lines(), second.lines()), (&b"a: 1\r\n"[..], &b"a: 1\r\na: 2\r\n"[..]));
        second.edit().remove("a");
        assert_eq!((first.len(), second.lines()), (1, &b""[..]));
    }

    #[test]
    fn what_must_not_be_shown_is_not() {
        let mut value = HeaderValue::from_static("secret");
        value.set_sensitive(true);
        let headers = Headers::from(HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]));
        assert!(headers.lines().ends_with(b"secret\r\n") && !format!("{headers:?}").contains("secret"));
    }
}
