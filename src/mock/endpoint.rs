//! Which endpoint a path is, and whom it answers to. Every path the mock serves stands in [`find`].

use super::answer::{Answer, Dialect, Outcome, Turn};
use super::refusal::Refusal;
use super::wire::Request;
use super::{anthropic, chat, completions, embeddings, gemini, models, rerank, responses};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Rerank,
    Responses,
    ResponseTokens,
    Response(String),
    ResponseDelete(String),
    ResponseCancel(String),
    ResponseItems(String),
    Messages,
    CountMessages,
    Gemini {
        model: String,
        verb: Verb,
    },
    Models,
    Model(String),
    Journal,
    JournalClear,
    /// A known path with another method.
    WrongMethod,
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Generate,
    Stream,
    Count,
    Embed,
    EmbedBatch,
}

/// Gemini's verbs, after the last colon of the path.
const VERBS: &[(&str, Verb)] = &[
    ("generateContent", Verb::Generate),
    ("streamGenerateContent", Verb::Stream),
    ("countTokens", Verb::Count),
    ("embedContent", Verb::Embed),
    ("batchEmbedContents", Verb::EmbedBatch),
];

/// Prefixes under which the paths stand: the providers' own, and none.
const PREFIXES: &[&str] = &["/v1beta/", "/v1alpha/", "/v1/", "/v2/", "/openai/v1/", "/"];

/// The endpoint of a request.
pub fn find(request: &Request) -> Endpoint {
    let path = request.path.as_str();
    if path == "/__mock/last" {
        return match request.method.as_str() {
            "GET" => Endpoint::Journal,
            "DELETE" => Endpoint::JournalClear,
            _ => Endpoint::WrongMethod,
        };
    }
    let bare = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)).unwrap_or(path);
    // Azure names the model's deployment in the path; the body may name a model too.
    let bare =
        bare.strip_prefix("openai/deployments/").and_then(|rest| rest.split_once('/')).map_or(bare, |(_, rest)| rest);
    if let Some((before, verb)) = bare.rsplit_once(':')
        && let Some((_, verb)) = VERBS.iter().find(|(name, _)| *name == verb)
        && let Some((_, model)) = before.split_once("models/")
    {
        let found = Endpoint::Gemini { model: model.to_owned(), verb: *verb };
        return only("POST", request, found);
    }
    let segments: Vec<&str> = bare.trim_end_matches('/').split('/').collect();
    let id = |id: &str| id.to_owned();
    match segments.as_slice() {
        ["chat", "completions"] => only("POST", request, Endpoint::Chat),
        ["completions"] => only("POST", request, Endpoint::Completions),
        ["embeddings"] => only("POST", request, Endpoint::Embeddings),
        ["rerank"] => only("POST", request, Endpoint::Rerank),
        ["responses"] => only("POST", request, Endpoint::Responses),
        ["responses", "input_tokens"] => only("POST", request, Endpoint::ResponseTokens),
        ["responses", name] if request.method == "DELETE" => Endpoint::ResponseDelete(id(name)),
        ["responses", name] => only("GET", request, Endpoint::Response(id(name))),
        ["responses", name, "cancel"] => only("POST", request, Endpoint::ResponseCancel(id(name))),
        ["responses", name, "input_items"] => only("GET", request, Endpoint::ResponseItems(id(name))),
        ["messages"] => only("POST", request, Endpoint::Messages),
        ["messages", "count_tokens"] => only("POST", request, Endpoint::CountMessages),
        ["models"] => only("GET", request, Endpoint::Models),
        ["models", rest @ ..] => only("GET", request, Endpoint::Model(rest.join("/"))),
        _ => Endpoint::Nowhere,
    }
}

fn only(method: &str, request: &Request, endpoint: Endpoint) -> Endpoint {
    if request.method == method { endpoint } else { Endpoint::WrongMethod }
}

impl Endpoint {
    /// Whose manners the answer has. For paths of several dialects the headers tell.
    pub fn dialect(&self, request: &Request) -> Dialect {
        match self {
            Endpoint::Responses
            | Endpoint::ResponseTokens
            | Endpoint::Response(_)
            | Endpoint::ResponseDelete(_)
            | Endpoint::ResponseCancel(_)
            | Endpoint::ResponseItems(_) => Dialect::Responses,
            Endpoint::Messages | Endpoint::CountMessages => Dialect::Anthropic,
            Endpoint::Gemini { .. } => Dialect::Gemini,
            Endpoint::Models | Endpoint::Model(_) => models::dialect(request),
            _ => Dialect::OpenAi,
        }
    }

    /// Whether the request has a JSON body.
    pub fn takes_body(&self) -> bool {
        matches!(
            self,
            Endpoint::Chat
                | Endpoint::Completions
                | Endpoint::Embeddings
                | Endpoint::Rerank
                | Endpoint::Responses
                | Endpoint::ResponseTokens
                | Endpoint::Messages
                | Endpoint::CountMessages
                | Endpoint::Gemini { .. }
        )
    }

    /// Whether the body must name a model (Gemini's paths do).
    pub fn needs_model(&self) -> bool {
        self.takes_body() && !matches!(self, Endpoint::Gemini { .. } | Endpoint::ResponseTokens)
    }

    /// What the endpoint says.
    pub fn answer(&self, turn: &Turn<'_>) -> Outcome {
        match self {
            Endpoint::Chat => chat::answer(turn),
            Endpoint::Completions => completions::answer(turn),
            Endpoint::Embeddings => embeddings::answer(turn),
            Endpoint::Rerank => rerank::answer(turn),
            Endpoint::Responses => responses::create(turn),
            Endpoint::ResponseTokens => responses::input_tokens(turn),
            Endpoint::Response(id) => responses::retrieve(turn, id),
            Endpoint::ResponseDelete(id) => responses::delete(turn, id),
            Endpoint::ResponseCancel(id) => responses::cancel(turn, id),
            Endpoint::ResponseItems(id) => responses::input_items(turn, id),
            Endpoint::Messages => anthropic::answer(turn),
            Endpoint::CountMessages => anthropic::count(turn),
            Endpoint::Gemini { verb, .. } => match verb {
                Verb::Generate | Verb::Stream => gemini::generate(turn),
                Verb::Count => gemini::count(turn),
                Verb::Embed => gemini::embed(turn),
                Verb::EmbedBatch => gemini::embed_batch(turn),
            },
            Endpoint::Models => models::list(turn),
            Endpoint::Model(name) => models::one(turn, name),
            Endpoint::Journal => Ok(Answer::json(turn.state.journal.to_json())),
            Endpoint::JournalClear => {
                turn.state.journal.clear();
                Ok(Answer::json(turn.state.journal.to_json()))
            }
            Endpoint::WrongMethod => {
                let message = format!("Invalid method for URL ({} {})", turn.request.method, turn.request.path);
                Err(Refusal { status: 405, ..Refusal::openai(message, None, None) })
            }
            Endpoint::Nowhere => {
                let message = format!("Invalid URL ({} {})", turn.request.method, turn.request.path);
                Err(Refusal { status: 404, ..Refusal::openai(message, None, None) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(method: &str, path: &str) -> Endpoint {
        find(&Request { method: method.to_owned(), path: path.to_owned(), ..Request::default() })
    }

    #[test]
    fn paths_are_found_with_and_without_their_prefixes() {
        for path in ["/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions"] {
            assert_eq!(at("POST", path), Endpoint::Chat);
        }
        assert_eq!(at("POST", "/openai/deployments/d/chat/completions"), Endpoint::Chat);
        let gemini = |model: &str, verb| Endpoint::Gemini { model: model.to_owned(), verb };
        assert_eq!(at("POST", "/v1beta/models/m:chunks=2:countTokens"), gemini("m:chunks=2", Verb::Count));
        assert_eq!(
            at("POST", "/v1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent"),
            gemini("m", Verb::Stream)
        );
        assert_eq!(at("GET", "/v1/models/a/b"), Endpoint::Model("a/b".to_owned()));
        assert_eq!(at("DELETE", "/v1/responses/r"), Endpoint::ResponseDelete("r".to_owned()));
        assert_eq!(at("GET", "/v1/messages"), Endpoint::WrongMethod);
        assert_eq!(at("GET", "/"), Endpoint::Nowhere);
    }
}
