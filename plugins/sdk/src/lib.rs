//! The contract of Portcullis plugins for Rust.
//!
//! An adapter implements [`adapter::Guest`] and ends with `portcullis_plugin::provider!(MyAdapter)`. The types are those
//! of `plugins/wit`, documented there line by line.

wit_bindgen::generate!({
    path: "../wit",
    world: "provider",
    pub_export_macro: true,
    export_macro_name: "provider",
    default_bindings_module: "portcullis_plugin",
});

pub use exports::portcullis::gateway::adapter;
pub use portcullis::gateway::{chat, hash, json, log, rand, time};
pub use {serde, serde_json};

use std::borrow::Cow;

use adapter::{HttpAnswer, HttpRequest, Payload};
use chat::{Content, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A JSON request that is posted. A body of the adapter's own types is written for half of what a [`Value`] costs.
///
/// # Panics
/// The body cannot be JSON: a map in it has keys that are no texts.
pub fn post(path: impl Into<String>, body: &impl Serialize, streamed: bool) -> HttpRequest {
    HttpRequest {
        method: "POST".into(),
        path: path.into(),
        headers: Vec::new(),
        body: Payload::Text(serde_json::to_string(body).expect("is JSON")),
        streamed,
        dropped: Vec::new(),
    }
}

/// The body of an answer as text; empty where it is none.
pub fn text(answer: &HttpAnswer) -> &str {
    match &answer.body {
        Payload::Text(text) => text,
        Payload::Bytes(_) => "",
    }
}

/// The JSON of an answer, as a tree.
///
/// # Errors
/// As [`read`].
pub fn body(answer: &HttpAnswer) -> Result<Value, Refusal> {
    read(text(answer), "The body")
}

/// JSON text as a type of the adapter's own; `what` is its name in the refusal. Fields that the type does not have are
/// passed over, so that a provider may add some.
///
/// # Errors
/// It is not JSON, or not of this form: the refusal that says so.
pub fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| match error.is_data() {
        true => nonsense(format!("{what} is not in the provider's form: {error}")),
        false => nonsense(format!("{what} is not JSON: {error}")),
    })
}

/// The answer makes no sense in this wire form.
pub fn nonsense(message: impl Into<String>) -> Refusal {
    refusal(502, message)
}

/// The wire form cannot do what was asked for and must not leave it out.
pub fn unsupported(message: impl Into<String>, param: &str) -> Refusal {
    Refusal { param: Some(param.into()), ..refusal(400, message) }
}

pub fn refusal(status: u16, message: impl Into<String>) -> Refusal {
    Refusal { status, message: message.into(), kind: None, code: None, param: None, retry_after_ms: None }
}

/// The text of blocks, one after the other; what is no text is left out. That of one block is not copied.
pub fn plain<'a>(blocks: impl IntoIterator<Item = &'a chat::Block>) -> Cow<'a, str> {
    let mut texts = blocks.into_iter().filter_map(|block| match &block.content {
        Content::Text(text) | Content::Refusal(text) => Some(text.as_str()),
        _ => None,
    });
    let mut whole = Cow::Borrowed(texts.next().unwrap_or_default());
    for text in texts {
        whole += "\n";
        whole += text;
    }
    whole
}

/// A URL for an image or file, `data:` where the bytes are at hand. None for one that another provider holds.
pub fn url(media: &chat::Media) -> Option<String> {
    match media {
        chat::Media::Url(url) => Some(url.clone()),
        chat::Media::Inline(inline) => Some(format!("data:{};base64,{}", inline.mime, inline.data)),
        chat::Media::Id(_) | chat::Media::Text(_) => None,
    }
}

/// A block of text.
pub fn text_block(text: impl Into<String>) -> chat::Block {
    block(Content::Text(text.into()))
}

pub fn block(content: Content) -> chat::Block {
    chat::Block { content, cache: None, citations: String::new() }
}

/// Puts a field into an object, if there is a value for it.
pub fn set(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(name.into(), value.into());
    }
}
