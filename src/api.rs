//! ENDPOINTS: every path on one page, and which room serves it.
//!
//! A path is claimed by one dialect. Where two dialects share one (`/v1/models`), the caller's headers decide.

pub mod ask;
pub mod feedback;
pub mod generation;
pub mod health;
pub mod models;
pub mod responses;

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use matchit::Router;

use crate::dialect::{self, Dialect, Op};
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::pipeline::Cx;
use crate::reply::{Content, Outbound, Reply};

/// One path and how it is served.
pub struct Endpoint {
    pub methods: &'static [Method],
    /// The pattern, without parameters where there are none; the label in logs and metrics.
    pub path: &'static str,
    /// The wire form of the caller; [`ANY`] where its headers tell.
    pub dialect: &'static str,
    pub serve: Serve,
}

/// How an endpoint is served.
#[derive(Clone, Copy)]
pub enum Serve {
    /// An ask for a model.
    Ask { op: Op },
    /// Gemini's `models/{model}:{verb}`: the verb is the operation.
    Verb,
    /// A stored response of the Responses form: relayed to the target that made it.
    Stored,
    /// Answered here, for callers with a key.
    Keyed(fn(&Cx, &Exchange, &Matched) -> Result<Reply, Fault>),
    /// Answered here out of the body that came, for callers with a key.
    Posted(fn(&Cx, &mut Exchange, &Bytes, &Matched) -> Result<Reply, Fault>),
    /// Answered here, for everybody.
    Open(fn(&Cx, &Parts) -> Response<Outbound>),
}

/// Longest path that is compared with ours where it is none of them: strangers write as long ones as a head may be.
const MAX_LIKE_BYTES: usize = 256;

/// The dialect is told by the caller's headers.
pub const ANY: &str = "";

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const GET_DELETE: &[Method] = &[Method::GET, Method::DELETE];

macro_rules! endpoints {
    ($($methods:ident $path:literal $dialect:expr, $serve:expr;)*) => {
        /// Every path this gateway serves to callers.
        pub const ENDPOINTS: &[Endpoint] =
            &[$(Endpoint { methods: $methods, path: $path, dialect: $dialect, serve: $serve }),*];
    };
}

endpoints! {
    POST "/v1/chat/completions" "openai_chat", Serve::Ask { op: Op::Generate };
    POST "/v1/completions" "openai_chat", Serve::Ask { op: Op::Complete };
    POST "/v1/embeddings" "openai_chat", Serve::Ask { op: Op::Embed };
    POST "/v1/rerank" "openai_chat", Serve::Ask { op: Op::Rerank };
    // Cohere's own client names its version of the same form.
    POST "/v2/rerank" "openai_chat", Serve::Ask { op: Op::Rerank };
    POST "/v1/responses" "openai_responses", Serve::Ask { op: Op::Generate };
    POST "/v1/responses/input_tokens" "openai_responses", Serve::Ask { op: Op::CountTokens };
    GET_DELETE "/v1/responses/{id}" "openai_responses", Serve::Stored;
    POST "/v1/responses/{id}/cancel" "openai_responses", Serve::Stored;
    GET "/v1/responses/{id}/input_items" "openai_responses", Serve::Stored;
    POST "/v1/messages" "anthropic", Serve::Ask { op: Op::Generate };
    POST "/v1/messages/count_tokens" "anthropic", Serve::Ask { op: Op::CountTokens };
    GET "/v1/models" ANY, Serve::Keyed(models::list);
    GET "/v1/models/{*model}" ANY, Serve::Keyed(models::one);
    POST "/v1/models/{*model}" "gemini", Serve::Verb;
    GET "/v1beta/models" "gemini", Serve::Keyed(models::list);
    GET "/v1beta/models/{*model}" "gemini", Serve::Keyed(models::one);
    POST "/v1beta/models/{*model}" "gemini", Serve::Verb;
    // The AI SDK leaves `models/` out where the name of the model has a slash.
    POST "/v1beta/{*model}" "gemini", Serve::Verb;
    GET "/v1/generation" ANY, Serve::Keyed(generation::get);
    POST "/v1/feedback" ANY, Serve::Posted(feedback::post);
    GET "/livez" ANY, Serve::Open(health::live);
    GET "/readyz" ANY, Serve::Open(health::ready);
    GET "/health" ANY, Serve::Open(health::summary);
}

/// An endpoint with what its path held.
pub struct Matched {
    pub endpoint: &'static Endpoint,
    pub dialect: &'static dyn Dialect,
    /// The value of the path's parameter, percent-decoded.
    pub param: Option<String>,
    pub query: Option<String>,
    pub op: Op,
    /// Gemini: the verb streams.
    pub streams: bool,
}

/// Why a request matches no endpoint.
pub struct Unserved {
    fault: Box<Fault>,
    allow: Option<HeaderValue>,
}

/// Paths to the rows that share them.
static ROUTER: LazyLock<Router<Vec<&'static Endpoint>>> = LazyLock::new(|| {
    let mut paths: Vec<(String, Vec<&'static Endpoint>)> = Vec::new();
    let mut add = |path: &str, endpoint| match paths.iter_mut().find(|(known, _)| known == path) {
        Some((_, rows)) => rows.push(endpoint),
        None => paths.push((path.to_owned(), vec![endpoint])),
    };
    for endpoint in ENDPOINTS {
        add(endpoint.path, endpoint);
        // The same paths without /v1, for base URLs that end too early.
        if let Some(bare) = endpoint.path.strip_prefix("/v1/") {
            add(&format!("/{bare}"), endpoint);
        }
    }
    let mut router = Router::new();
    for (path, rows) in paths {
        // `every_path_is_routed` holds that no two patterns collide.
        let _ = router.insert(path, rows);
    }
    router
});

/// The endpoint for a request.
pub fn find(head: &Parts) -> Result<Matched, Unserved> {
    let path = head.uri.path();
    let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let found = ROUTER.at(trimmed).map_err(|_| Unserved::unknown(&head.method, path))?;
    // HEAD is a GET whose body the server keeps to itself; probes of load balancers send it.
    let serves = |row: &&&Endpoint| match head.method {
        Method::HEAD => row.methods.contains(&Method::GET) && !matches!(row.serve, Serve::Stored),
        _ => row.methods.contains(&head.method),
    };
    let Some(endpoint) = found.value.iter().find(serves) else {
        return Err(Unserved::method(&head.method, path, found.value));
    };
    let param = found.params.iter().next().map(|(_, value)| decoded(value));
    let dialect = dialect_of(endpoint, path, &head.headers);
    let mut matched = Matched {
        endpoint,
        dialect,
        param,
        query: head.uri.query().map(str::to_owned),
        op: Op::Generate,
        streams: false,
    };
    match endpoint.serve {
        Serve::Ask { op } => matched.op = op,
        Serve::Verb => verb(&mut matched).ok_or_else(|| Unserved::unknown(&head.method, path))?,
        _ => {}
    }
    Ok(matched)
}

/// Gemini's verb, split off the model.
fn verb(matched: &mut Matched) -> Option<()> {
    let param = matched.param.take()?;
    let (model, verb) = param.rsplit_once(':')?;
    (matched.op, matched.streams) = match verb {
        "generateContent" => (Op::Generate, false),
        "streamGenerateContent" => (Op::Generate, true),
        "countTokens" => (Op::CountTokens, false),
        "embedContent" => (Op::Embed, false),
        "batchEmbedContents" => (Op::EmbedBatch, false),
        _ => return None,
    };
    matched.param = Some(model.to_owned());
    Some(())
}

fn dialect_of(endpoint: &Endpoint, path: &str, headers: &HeaderMap) -> &'static dyn Dialect {
    let name = match endpoint.dialect {
        ANY => guess(path, headers),
        name => name,
    };
    // `every_path_is_routed` holds that rows name dialects that exist.
    dialect::find(name).unwrap_or(dialect::DIALECTS[0])
}

/// The caller's dialect where the path does not tell.
fn guess(path: &str, headers: &HeaderMap) -> &'static str {
    if headers.contains_key("anthropic-version") || path.contains("/messages") {
        "anthropic"
    } else if headers.contains_key("x-goog-api-key")
        || headers.contains_key("x-goog-api-client")
        || path.starts_with("/v1beta")
    {
        "gemini"
    } else {
        "openai_chat"
    }
}

/// The value of a query's parameter.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(&value.replace('+', " ")))
}

fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

impl Unserved {
    fn unknown(method: &Method, path: &str) -> Self {
        // A long one is like none of ours, and looking for that would take long.
        let known = ENDPOINTS.iter().map(|endpoint| endpoint.path).filter(|_| path.len() <= MAX_LIKE_BYTES);
        let near =
            known.map(|known| (strsim::normalized_levenshtein(known, path), known)).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.filter(|(likeness, _)| *likeness > 0.6).map(|(_, path)| format!(" Did you mean `{path}`?"));
        let text = format!("Nothing is served at {method} {path}.{}", hint.unwrap_or_default());
        Unserved { fault: Box::new(Fault::new(Kind::UnknownEndpoint, text)), allow: None }
    }

    fn method(method: &Method, path: &str, rows: &[&Endpoint]) -> Self {
        let methods: Vec<&str> = rows.iter().flat_map(|row| row.methods).map(Method::as_str).collect();
        let allowed = methods.join(", ");
        let text = format!("{path} does not take {method}; it takes {allowed}.");
        Unserved {
            fault: Box::new(Fault::new(Kind::MethodNotAllowed, text)),
            allow: HeaderValue::from_str(&allowed).ok(),
        }
    }
}

/// The answer to a request that no endpoint serves. No exchange begins: there is no one to account it to.
pub fn refuse(unserved: Unserved, head: &Parts) -> Response<Outbound> {
    let dialect = dialect::find(guess(head.uri.path(), &head.headers)).unwrap_or(dialect::DIALECTS[0]);
    let mut reply = Reply::fault(&unserved.fault, dialect, "");
    if let Some(allow) = unserved.allow {
        reply.headers.insert(ALLOW, allow);
    }
    answer(reply)
}

/// A reply that is no exchange.
pub fn answer(reply: Reply) -> Response<Outbound> {
    let body = match reply.content {
        Content::Whole(bytes) => Outbound::whole(bytes),
        Content::Stream(_) => Outbound::whole(""),
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_path(method: Method, path: &str) -> Result<(&'static str, Op, Option<String>), u16> {
        let request = http::Request::builder().method(method).uri(path).body(()).expect("request");
        let (head, ()) = request.into_parts();
        match find(&head) {
            Ok(matched) => Ok((matched.endpoint.path, matched.op, matched.param)),
            Err(unserved) => Err(unserved.fault.status("openai_chat")),
        }
    }

    #[test]
    fn every_path_is_routed() {
        for endpoint in ENDPOINTS {
            assert!(endpoint.dialect == ANY || dialect::find(endpoint.dialect).is_some(), "{}", endpoint.path);
            let path = endpoint.path.replace("{*model}", "a/b:generateContent").replace("{id}", "resp_1");
            for method in endpoint.methods {
                assert_eq!(find_path(method.clone(), &path).map(|found| found.0), Ok(endpoint.path), "{path}");
                if let Some(bare) = path.strip_prefix("/v1/") {
                    assert_eq!(find_path(method.clone(), &format!("/{bare}")).map(|found| found.0), Ok(endpoint.path));
                }
            }
        }
    }

    #[test]
    fn gemini_verbs_are_split_from_models_with_slashes_and_colons() {
        let found = find_path(Method::POST, "/v1beta/models/mock/m%2Fx:v1:streamGenerateContent?alt=sse");
        assert_eq!(found, Ok(("/v1beta/models/{*model}", Op::Generate, Some("mock/m/x:v1".into()))));
        let found = find_path(Method::POST, "/v1beta/mock/mock-fast:generateContent");
        assert_eq!(found, Ok(("/v1beta/{*model}", Op::Generate, Some("mock/mock-fast".into()))));
        assert_eq!(find_path(Method::POST, "/v1/models/m:frobnicate"), Err(404));
        assert_eq!(find_path(Method::POST, "/v1beta/frobnicate"), Err(404));
        assert_eq!(
            find_path(Method::GET, "/v1/models/openai/gpt-5"),
            Ok(("/v1/models/{*model}", Op::Generate, Some("openai/gpt-5".into())))
        );
    }

    #[test]
    fn wrong_paths_and_methods_are_told_apart() {
        assert_eq!(find_path(Method::POST, "/v1/chat/completion"), Err(404));
        assert_eq!(find_path(Method::GET, "/v1/chat/completions"), Err(405));
        assert_eq!(find_path(Method::HEAD, "/v1/chat/completions"), Err(405));
        assert_eq!(find_path(Method::HEAD, "/v1/responses/resp_1"), Err(405));
        assert_eq!(find_path(Method::HEAD, "/readyz").map(|found| found.0), Ok("/readyz"));
    }
}
