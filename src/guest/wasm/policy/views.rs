//! What a policy is shown, read from the views that guests of every language have.
//!
//! Values come from the one table of each view; this only gives them their types. A handle is good for the call it was
//! given to, which the store holds under the handle's number.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime::{Error, Result};

use super::super::bindings::exchange::{self as wit, Host, HostAnswer, HostHead, HostRequest};
use super::super::functions::{fields, target};
use super::super::store::Held;
use crate::guest::Subject;
use crate::guest::view::conversation::{self, is_credential};
use crate::guest::view::{self, Val, View};
use crate::host::targets;

/// Reads the fields of a view.
struct Reader<'a, V>(&'a V);

impl<V: View> Reader<'_, V> {
    fn maybe(&self, field: &str) -> Option<String> {
        match self.0.get(field) {
            Some(Val::Text(text)) => Some(text.into_owned()),
            _ => None,
        }
    }

    fn text(&self, field: &str) -> String {
        self.maybe(field).unwrap_or_default()
    }

    fn number(&self, field: &str) -> Option<f64> {
        match self.0.get(field) {
            Some(Val::Number(number)) => Some(number),
            _ => None,
        }
    }

    fn ms(&self, field: &str) -> f64 {
        self.number(field).unwrap_or_default()
    }

    fn count<N: TryFrom<u64>>(&self, field: &str) -> Option<N> {
        self.number(field).and_then(|number| N::try_from(number as u64).ok())
    }

    fn some<N: TryFrom<u64> + Default>(&self, field: &str) -> N {
        self.count(field).unwrap_or_default()
    }

    fn flag(&self, field: &str) -> bool {
        self.0.get(field) == Some(Val::Bool(true))
    }
}

pub(super) fn attempt(view: &view::Try) -> wit::Attempt {
    let view = Reader(view);
    wit::Attempt {
        target: view.text("target"),
        provider: view.text("provider"),
        model: view.text("model"),
        number: view.some("number"),
        elapsed_ms: view.ms("elapsed_ms"),
    }
}

pub(super) fn failure(view: &view::Failure) -> wit::Failure {
    let view = Reader(view);
    wit::Failure {
        kind: view.text("kind"),
        status: view.count("status"),
        code: view.maybe("code"),
        message: view.text("message"),
        retry: view.text("retry"),
        retry_after_ms: view.number("retry_after_ms"),
        target: view.text("target"),
        provider: view.text("provider"),
        number: view.some("number"),
        took_ms: view.ms("took_ms"),
        elapsed_ms: view.ms("elapsed_ms"),
        left_ms: view.ms("left_ms"),
        remaining: view.some("remaining"),
    }
}

pub(super) fn event(view: &view::Event) -> wit::Event {
    let view = Reader(view);
    wit::Event {
        kind: view.text("kind"),
        text: view.text("text"),
        choice: view.some("choice"),
        index: view.some("index"),
        merged: view.some("merged"),
    }
}

pub(super) fn done(view: &view::Done) -> wit::Done {
    let view = Reader(view);
    wit::Done {
        id: view.text("id"),
        endpoint: view.text("endpoint"),
        model: view.text("model"),
        stream: view.flag("stream"),
        status: view.some("status"),
        ok: view.flag("ok"),
        code: view.maybe("code"),
        target: view.maybe("target"),
        attempts: view.some("attempts"),
        input_tokens: view.count("input_tokens"),
        output_tokens: view.count("output_tokens"),
        estimated: view.flag("estimated"),
        cost: view.number("cost"),
        finish: view.maybe("finish"),
        duration_ms: view.ms("duration_ms"),
        first_token_ms: view.number("first_token_ms"),
        bytes_in: view.some("bytes_in"),
        bytes_out: view.some("bytes_out"),
        key: view.maybe("key"),
        project: view.maybe("project"),
    }
}

/// A handle outlived its call. A policy may keep what it is given, but not look at another exchange with it.
const OVER: &str = "the call that this was given to has ended";

impl Held {
    /// What the present call is about, for a handle of it.
    fn subject<R: 'static>(&self, handle: &Resource<R>) -> Result<&Subject> {
        match &self.call {
            Some(call) if handle.rep() == call.number => Ok(&call.subject),
            _ => Err(Error::msg(OVER)),
        }
    }

    fn head(&self, handle: &Resource<wit::Head>) -> Result<&view::Head> {
        match self.subject(handle)? {
            Subject::Head(head) => Ok(head),
            _ => Err(Error::msg(OVER)),
        }
    }

    fn request(&self, handle: &Resource<wit::Request>) -> Result<&Arc<view::Request>> {
        match self.subject(handle)? {
            Subject::Request(request) => Ok(request),
            Subject::Try(next) => Ok(&next.request),
            Subject::Failure(failed) => Ok(&failed.request),
            Subject::Answer(answer) => Ok(&answer.request),
            _ => Err(Error::msg(OVER)),
        }
    }

    fn answer(&self, handle: &Resource<wit::Answer>) -> Result<&view::Answer> {
        match self.subject(handle)? {
            Subject::Answer(answer) => Ok(answer),
            _ => Err(Error::msg(OVER)),
        }
    }

    /// Whether the plugin can hold the words of its request.
    fn fits(&self, request: &view::Request) -> std::result::Result<(), String> {
        self.cx().map_or(Ok(()), |cx| conversation::fits(request, cx.lease.budget().memory))
    }

    /// Reads from the conversation of the request.
    fn conversation<T>(
        &self,
        handle: &Resource<wit::Request>,
        read: impl FnOnce(&crate::chat::Ask) -> T,
    ) -> Result<std::result::Result<T, String>> {
        let request = self.request(handle)?;
        if let Err(why) = self.fits(request) {
            return Ok(Err(why));
        }
        Ok(match request.call.chat() {
            Ok(ask) => Ok(read(&ask)),
            Err(fault) => Err(format!("this request holds no conversation: {}", fault.message)),
        })
    }
}

fn header(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn field((name, value): (String, String)) -> wit::Field {
    wit::Field { name, value }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn text(text: view::Text) -> wit::Text {
    wit::Text { index: number(text.spot.index), role: text.spot.role.to_owned(), text: text.text }
}

fn message(turn: view::Message) -> wit::Message {
    let kinds = turn.kinds.into_iter().map(str::to_owned).collect();
    wit::Message { index: number(turn.index), role: turn.role.to_owned(), text: turn.text, kinds }
}

impl Host for Held {}

impl HostHead for Held {
    fn facts(&mut self, this: Resource<wit::Head>) -> Result<wit::HeadFacts> {
        let view = Reader(self.head(&this)?);
        Ok(wit::HeadFacts {
            id: view.text("id"),
            method: view.text("method"),
            path: view.text("path"),
            query: view.maybe("query"),
            endpoint: view.text("endpoint"),
            peer: view.maybe("peer"),
        })
    }

    fn header(&mut self, this: Resource<wit::Head>, name: String) -> Result<Option<String>> {
        Ok(header(&self.head(&this)?.headers, &name))
    }

    fn headers(&mut self, this: Resource<wit::Head>) -> Result<Vec<wit::Field>> {
        Ok(fields(&self.head(&this)?.headers).map(field).collect())
    }

    fn drop(&mut self, _: Resource<wit::Head>) -> Result<()> {
        Ok(())
    }
}

impl HostRequest for Held {
    fn facts(&mut self, this: Resource<wit::Request>) -> Result<wit::RequestFacts> {
        let view = Reader(&**self.request(&this)?);
        Ok(wit::RequestFacts {
            id: view.text("id"),
            request_id: view.text("request_id"),
            endpoint: view.text("endpoint"),
            dialect: view.text("dialect"),
            op: view.text("op"),
            model: view.text("model"),
            stream: view.flag("stream"),
            max_tokens: view.count("max_tokens"),
            temperature: view.number("temperature"),
            tokens: view.some("tokens"),
            bytes: view.some("bytes"),
            message_count: view.some("message_count"),
            tool_count: view.some("tool_count"),
            key: view.maybe("key"),
            project: view.maybe("project"),
            peer: view.maybe("peer"),
            attempts: view.some("attempts"),
        })
    }

    fn model(&mut self, this: Resource<wit::Request>) -> Result<String> {
        Ok(self.request(&this)?.call.model().to_owned())
    }

    fn header(&mut self, this: Resource<wit::Request>, name: String) -> Result<Option<String>> {
        Ok(if is_credential(&name) { None } else { header(self.request(&this)?.call.headers(), &name) })
    }

    fn headers(&mut self, this: Resource<wit::Request>) -> Result<Vec<wit::Field>> {
        let all = fields(self.request(&this)?.call.headers());
        Ok(all.filter(|(name, _)| !is_credential(name)).map(field).collect())
    }

    fn param(&mut self, this: Resource<wit::Request>, name: String) -> Result<Option<String>> {
        let request = self.request(&this)?;
        // The contract has no error here, and a guard that missed what is there would be worse than a call that ends.
        let raw = request.param(&name).map_err(|fault| Error::msg(request.cannot_be_read(&fault)))?;
        Ok(raw.map(|raw| String::from_utf8_lossy(&raw).into_owned()))
    }

    fn metadata(&mut self, this: Resource<wit::Request>, name: String) -> Result<Option<String>> {
        Ok(self.request(&this)?.visit.principal().and_then(|principal| principal.metadata.get(&name).cloned()))
    }

    fn system(&mut self, this: Resource<wit::Request>) -> Result<std::result::Result<Option<String>, String>> {
        self.conversation(&this, conversation::system)
    }

    fn message(
        &mut self,
        this: Resource<wit::Request>,
        index: i32,
    ) -> Result<std::result::Result<Option<wit::Message>, String>> {
        self.conversation(&this, |ask| conversation::message(ask, i64::from(index)).map(message))
    }

    fn messages(&mut self, this: Resource<wit::Request>) -> Result<std::result::Result<Vec<wit::Message>, String>> {
        self.conversation(&this, |ask| view::messages(ask).map(message).collect())
    }

    fn last_user(&mut self, this: Resource<wit::Request>) -> Result<std::result::Result<Option<String>, String>> {
        self.conversation(&this, conversation::last_user)
    }

    fn texts(&mut self, this: Resource<wit::Request>) -> Result<std::result::Result<Vec<wit::Text>, String>> {
        let request = self.request(&this)?;
        if let Err(why) = self.fits(request) {
            return Ok(Err(why));
        }
        let texts = request.call.texts();
        Ok(texts.map(|texts| texts.into_iter().map(text).collect()).map_err(|fault| view::no_texts(&fault)))
    }

    fn plan(
        &mut self,
        this: Resource<wit::Request>,
    ) -> Result<std::result::Result<Vec<super::super::bindings::targets::Target>, String>> {
        let plan = &self.request(&this)?.plan;
        let Some(cx) = self.cx() else { return Err(Error::msg(OVER)) };
        let views = plan.iter().map(|of| targets::View::of(cx, of).map(target).map_err(|error| error.0));
        Ok(views.collect())
    }

    fn read_body(&mut self, this: Resource<wit::Request>, offset: u64, max: u32) -> Result<Vec<u8>> {
        let body = self.request(&this)?.call.envelope().body();
        let rest = usize::try_from(offset).ok().and_then(|offset| body.get(offset..)).unwrap_or_default();
        Ok(rest[..rest.len().min(max as usize)].to_vec())
    }

    fn drop(&mut self, _: Resource<wit::Request>) -> Result<()> {
        Ok(())
    }
}

impl HostAnswer for Held {
    fn facts(&mut self, this: Resource<wit::Answer>) -> Result<wit::AnswerFacts> {
        let view = Reader(self.answer(&this)?);
        Ok(wit::AnswerFacts {
            status: view.some("status"),
            stream: view.flag("stream"),
            finish: view.maybe("finish"),
            input_tokens: view.count("input_tokens"),
            output_tokens: view.count("output_tokens"),
            target: view.text("target"),
            provider: view.text("provider"),
            number: view.some("number"),
            elapsed_ms: view.ms("elapsed_ms"),
        })
    }

    fn text(&mut self, this: Resource<wit::Answer>) -> Result<Option<String>> {
        Ok(self.answer(&this)?.chat().map(|answer| answer.text()))
    }

    fn texts(&mut self, this: Resource<wit::Answer>) -> Result<Vec<wit::Text>> {
        let texts = self.answer(&this)?.chat().map(|answer| conversation::texts_of_answer(answer)).unwrap_or_default();
        Ok(texts.into_iter().map(text).collect())
    }

    fn json(&mut self, this: Resource<wit::Answer>) -> Result<Option<String>> {
        let answer = self.answer(&this)?;
        let body = std::str::from_utf8(&answer.body).ok().filter(|_| !answer.stream);
        Ok(body.filter(|body| serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok()).map(str::to_owned))
    }

    fn drop(&mut self, _: Resource<wit::Answer>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As scripts see it.
    #[test]
    fn a_header_that_is_no_text_is_still_seen() {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-name", http::HeaderValue::from_bytes(b"Jos\xe9").expect("a value"));
        headers.insert("x-city", http::HeaderValue::from_bytes("Köln".as_bytes()).expect("a value"));
        assert_eq!(header(&headers, "x-name").as_deref(), Some("Jos\u{fffd}"));
        assert_eq!(header(&headers, "x-city").as_deref(), Some("Köln"));
        assert_eq!(header(&headers, "x-none"), None);
    }
}
