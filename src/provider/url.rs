//! URLs of upstreams as text: templates, joining, versions. Never resolves or checks a host: `upstream` does.

use std::borrow::Cow;
use std::fmt;

/// A base URL could not be made because the operator has not said enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoBaseUrl {
    pub provider: &'static str,
    /// The missing key of the provider's configuration.
    pub field: String,
    /// The variables that could hold it.
    pub env: &'static [&'static str],
}

impl fmt::Display for NoBaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "provider `{}` has no `{}`: set `providers.{0}.{1}`", self.provider, self.field)?;
        for var in self.env {
            write!(f, " or {var}")?;
        }
        if self.field != "base_url" {
            write!(f, ", or the whole `providers.{}.base_url`", self.provider)?;
        }
        Ok(())
    }
}

impl std::error::Error for NoBaseUrl {}

/// Fills the `{field}`s of a template; `{model}` stays for [`name_model`]. Errors: the name of the field without a value.
pub fn expand(template: &str, field: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        out.push_str(before);
        match name {
            "model" => out.push_str("{model}"),
            name => out.push_str(&field(name).ok_or_else(|| name.to_owned())?),
        }
        rest = after;
    }
    out.push_str(rest);
    // Vertex's worldwide location has a host without the location's name in front.
    Ok(out.replacen("://global-aiplatform.", "://aiplatform.", 1))
}

/// Puts the model into a base URL that names it in its path; most do not. None where the name would lead out of its place
/// there: `..` is a way up even to servers that read `%2E` and `%2F` before they look.
pub fn name_model<'u>(base: &'u str, model: &str) -> Option<Cow<'u, str>> {
    if !base.contains("{model}") {
        return Some(base.into());
    }
    let leads_out = model.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
    (!leads_out).then(|| base.replace("{model}", &encoded(model)).into())
}

/// The URL of `path` under `base`. Both may have a query; where both name a version of the API, the base's counts:
/// `https://host/v1` and `/v1/messages` make `https://host/v1/messages`.
pub fn join_url(base: &str, path: &str) -> String {
    let (base, base_query) = split_query(base);
    let (path, path_query) = split_query(path);
    let base = base.trim_end_matches('/');
    let path = path.trim_start_matches('/');
    let path = match path.split_once('/') {
        Some((first, rest)) if is_version(first) && has_version(base) => rest,
        _ => path,
    };
    let mut url = String::with_capacity(base.len() + path.len() + 48);
    url.push_str(base);
    if !path.is_empty() {
        url.push('/');
        url.push_str(path);
    }
    for (query, mark) in [base_query, path_query].into_iter().filter(|query| !query.is_empty()).zip(['?', '&']) {
        url.push(mark);
        url.push_str(query);
    }
    url
}

/// A server's address as people put it into variables: `host`, `host:port`, `:port` or a URL, without its path. The
/// address that a server listens on everywhere is not one to connect to.
pub(super) fn origin(value: &str, port: Option<u16>) -> String {
    let value = value.trim().trim_end_matches('/');
    let (scheme, host) = value.split_once("://").unwrap_or(("http", value));
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let (name, own_port) = match host.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => (name, digits.parse().ok()),
        _ => (host, None),
    };
    let name = match name {
        "" | "0.0.0.0" | "[::]" => "127.0.0.1",
        name => name,
    };
    // With a scheme that is written out the port is the scheme's.
    let port = own_port.or(port.filter(|_| !value.contains("://")));
    port.map_or_else(|| format!("{scheme}://{name}"), |port| format!("{scheme}://{name}:{port}"))
}

fn split_query(url: &str) -> (&str, &str) {
    url.split_once('?').unwrap_or((url, ""))
}

/// Whether some segment of the path names a version of the API.
fn has_version(base: &str) -> bool {
    let path = base.split_once("://").map_or(base, |(_, rest)| rest);
    path.split('/').skip(1).any(is_version)
}

/// `v1`, `v4`, `v1beta`, `v1alpha`, `v1beta2`.
fn is_version(segment: &str) -> bool {
    let Some(rest) = segment.strip_prefix('v') else { return false };
    let word = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let stage = word.trim_end_matches(|c: char| c.is_ascii_digit());
    word.len() < rest.len() && matches!(stage, "" | "alpha" | "beta")
}

/// The model as one path segment; slashes and what else a segment cannot hold are encoded.
fn encoded(model: &str) -> String {
    let mut out = String::with_capacity(model.len());
    for byte in model.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b':' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_and_path_are_joined_with_one_version() {
        for (base, path, url) in [
            ("https://api.openai.com/v1", "/chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", "/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com", "/v1/embeddings", "https://api.openai.com/v1/embeddings"),
            ("https://api.anthropic.com", "/v1/messages", "https://api.anthropic.com/v1/messages"),
            ("https://openrouter.ai/api/v1", "/v1/messages", "https://openrouter.ai/api/v1/messages"),
            ("https://api.deepseek.com/anthropic", "/v1/messages", "https://api.deepseek.com/anthropic/v1/messages"),
            ("https://api.z.ai/api/paas/v4", "/chat/completions", "https://api.z.ai/api/paas/v4/chat/completions"),
            ("https://api.z.ai/api/paas/v4", "/v1/chat/completions", "https://api.z.ai/api/paas/v4/chat/completions"),
            (
                "https://generativelanguage.googleapis.com/v1beta",
                "/v1beta/models/g:streamGenerateContent?alt=sse",
                "https://generativelanguage.googleapis.com/v1beta/models/g:streamGenerateContent?alt=sse",
            ),
            (
                "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4/publishers/google",
                "/v1beta/models/g:generateContent",
                "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4/publishers/google/models/g:generateContent",
            ),
            (
                "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
                "/chat/completions",
                "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
            ("http://h/v1?a=1", "/x?b=2", "http://h/v1/x?a=1&b=2"),
            ("http://v1/", "/v1/models", "http://v1/v1/models"),
            ("http://h/v1", "", "http://h/v1"),
            ("http://h/vision", "/v1/models", "http://h/vision/v1/models"),
            ("unix:///run/llama.sock:/v1", "/v1/messages", "unix:///run/llama.sock:/v1/messages"),
        ] {
            assert_eq!(join_url(base, path), url);
        }
    }

    #[test]
    fn templates_are_filled_or_name_what_is_missing() {
        let field = |name: &str| match name {
            "region" => Some("global".to_owned()),
            "project" => Some("p-1".to_owned()),
            _ => None,
        };
        let vertex = "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}";
        assert_eq!(
            expand(vertex, &field),
            Ok("https://aiplatform.googleapis.com/v1/projects/p-1/locations/global".to_owned())
        );
        assert_eq!(expand("https://{resource}.openai.azure.com", &field), Err("resource".to_owned()));
        assert_eq!(expand("https://h/{model}", &field), Ok("https://h/{model}".to_owned()));
        let named = |base, model| name_model(base, model).map(|url| url.into_owned());
        assert_eq!(named("https://h/d/{model}?v=1", "a/b c..d").as_deref(), Some("https://h/d/a%2Fb%20c..d?v=1"));
        for model in ["..", ".", "../admin", "a/../../b", "a\\.."] {
            assert_eq!(named("https://h/d/{model}/x", model), None, "{model}");
            assert_eq!(named("https://h/v1", model).as_deref(), Some("https://h/v1"), "{model}");
        }
    }

    #[test]
    fn addresses_in_variables_are_read_as_people_write_them() {
        for (value, url) in [
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            (":8080", "http://127.0.0.1:8080"),
            ("box", "http://box:11434"),
            ("[::1]:9", "http://[::1]:9"),
            ("http://box:1/", "http://box:1"),
            ("https://box.example/", "https://box.example"),
            (" https://box.example/v1/ ", "https://box.example"),
        ] {
            assert_eq!(origin(value, Some(11434)), url);
        }
    }

    #[test]
    fn only_versions_are_taken_for_versions() {
        for segment in ["v1", "v4", "v1beta", "v1alpha", "v1beta2", "v10"] {
            assert!(is_version(segment), "{segment}");
        }
        for segment in ["", "v", "vx", "version1", "v1x", "beta", "vbeta", "1"] {
            assert!(!is_version(segment), "{segment}");
        }
    }
}
