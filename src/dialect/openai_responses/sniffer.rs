//! What a relayed stream of the Responses form says in passing.
//!
//! Never builds a tree. Deltas are not even parsed once content was seen.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::usage::{self, Counts};
use super::{NAME, answer, item};
use crate::dialect::{Sighting, Sniffer, Summary, openai_error, refusal};
use crate::fault::{Fault, Kind};
use crate::sse::Frame;

#[derive(Debug, Default)]
pub(super) struct ResponsesSniffer {
    named: bool,
    content: bool,
    calls: bool,
    complete: bool,
}

/// The type of an event whose frame has no `event:` line.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    delta: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ItemEvent<'a> {
    #[serde(borrow)]
    item: Option<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    content: Option<Value>,
}

#[derive(Deserialize)]
struct ResponseEvent<'a> {
    #[serde(borrow)]
    response: Option<Head<'a>>,
}

/// What a response says of itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    created_at: Option<Value>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    incomplete_details: Option<Details<'a>>,
    usage: Option<Counts>,
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    output: Option<Vec<Kinded<'a>>>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Kinded<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
}

impl Sniffer for ResponsesSniffer {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting {
        let mut kind = Cow::Borrowed(frame.event());
        let data = frame.data();
        if kind.is_empty() {
            match serde_json::from_slice::<Typed<'_>>(&data) {
                Ok(Typed { kind: Some(said) }) => kind = Cow::Owned(said.into_owned()),
                Ok(_) if frame.contains(b"\"error\"") => kind = Cow::Borrowed("error"),
                _ => return Sighting::default(),
            }
        }
        match kind.as_ref() {
            "response.created" | "response.queued" | "response.in_progress" => self.head(&data),
            "response.completed" | "response.incomplete" | "response.cancelled" => self.terminal(&kind, &data),
            "response.failed" | "error" => self.failed(&data),
            "response.output_item.added" | "response.output_item.done" => self.item(kind.ends_with("done"), &data),
            kind if !self.content && kind.ends_with(".delta") => self.delta(&data),
            _ => Sighting::default(),
        }
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

impl ResponsesSniffer {
    fn seen(&mut self, content: bool) -> Sighting {
        self.content |= content;
        Sighting { content, ..Sighting::default() }
    }

    fn head(&mut self, data: &[u8]) -> Sighting {
        if self.named {
            return Sighting::default();
        }
        let Ok(ResponseEvent { response: Some(head) }) = serde_json::from_slice(data) else {
            return Sighting::default();
        };
        self.named = true;
        let created = head.created_at.as_ref().and_then(answer::seconds);
        Sighting { id: owned(head.id), model: owned(head.model), created, ..Sighting::default() }
    }

    fn delta(&mut self, data: &[u8]) -> Sighting {
        let text = serde_json::from_slice::<Delta<'_>>(data).ok().and_then(|event| event.delta);
        self.seen(text.is_some_and(|text| !text.is_empty()))
    }

    /// Calls and hosted items show at once; messages and reasoning when there is text in them.
    fn item(&mut self, done: bool, data: &[u8]) -> Sighting {
        if self.content && self.calls {
            return Sighting::default();
        }
        let Ok(ItemEvent { item: Some(item) }) = serde_json::from_slice(data) else { return Sighting::default() };
        let kind = item.kind.as_deref().unwrap_or_default();
        self.calls |= item::calls(kind, item.name.as_deref());
        let shows = match kind {
            "message" => {
                done && item.content.is_some_and(|content| content.as_array().is_some_and(|list| !list.is_empty()))
            }
            "reasoning" | "" => false,
            _ => true,
        };
        let first = shows && !self.content;
        self.seen(first)
    }

    fn terminal(&mut self, kind: &str, data: &[u8]) -> Sighting {
        self.complete = true;
        let Ok(ResponseEvent { response: Some(head) }) = serde_json::from_slice(data) else {
            return Sighting::default();
        };
        let calls = self.calls || head.has_calls();
        let status = kind.trim_start_matches("response.");
        let mut sighting = Sighting { finish: usage::finish(status, head.reason(), calls).0, ..Sighting::default() };
        if !self.named {
            sighting.id = owned(head.id);
            sighting.model = owned(head.model);
        }
        sighting.usage = head.usage.and_then(Counts::usage);
        sighting
    }

    /// Rare, so a tree may be built.
    fn failed(&mut self, data: &[u8]) -> Sighting {
        self.complete = true;
        let value: Value = serde_json::from_slice(data).unwrap_or_default();
        let fault = refusal::fault(openai_error::of_value(NAME, 200, &value), None);
        let usage = usage::decode(value.pointer("/response/usage"));
        Sighting { fault: Some(fault), usage, ..Sighting::default() }
    }
}

impl Head<'_> {
    fn reason(&self) -> Option<&str> {
        self.incomplete_details.as_ref()?.reason.as_deref()
    }

    fn has_calls(&self) -> bool {
        let items = self.output.as_deref().unwrap_or_default();
        items.iter().any(|item| item::calls(item.kind.as_deref().unwrap_or_default(), item.name.as_deref()))
    }
}

fn owned(text: Option<Cow<'_, str>>) -> Option<String> {
    text.map(Cow::into_owned).filter(|text| !text.is_empty())
}

/// A whole response, without its output.
pub(super) fn summary(body: &[u8]) -> Result<Summary, Fault> {
    let head: Head<'_> = serde_json::from_slice(body).map_err(|error| {
        Fault::new(Kind::BadAnswer, "The provider's answer is not a response object.").because(error)
    })?;
    if head.error.is_some()
        && let Some(fault) = serde_json::from_slice(body).ok().and_then(|response| answer::failure(&response))
    {
        return Err(fault);
    }
    let status = head.status.as_deref().unwrap_or("completed");
    let finish = usage::finish(status, head.reason(), head.has_calls()).0;
    Ok(Summary { finish, id: owned(head.id), model: owned(head.model), usage: head.usage.and_then(Counts::usage) })
}
