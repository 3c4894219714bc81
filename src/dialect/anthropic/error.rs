//! Error bodies and error events, both ways.
//!
//! What an Anthropic provider refused reaches an Anthropic caller byte for byte; everything else is written in the same
//! shape from the fault table. Never shows how our own credential was refused.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::NAME;
use super::ask::THREAD;
use super::wire::str_of;
use crate::dialect::refusal;
use crate::fault::{Fault, Kind, Refusal};
use crate::json;
use crate::sse;

/// Longest stretch of an unreadable error body that is passed on as the message.
const MAX_MESSAGE_BYTES: usize = 2000;

pub fn decode(status: u16, body: &Bytes) -> Refusal {
    let mut refusal = match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_object() => read(&value),
        _ => Refusal { message: beginning(&String::from_utf8_lossy(body)), ..Refusal::default() },
    };
    refusal.status = status;
    refusal.dialect = NAME;
    refusal.body = body.clone();
    refusal
}

/// The fault that an error object under status 200, or an error event, reports.
pub fn reported(value: &Value) -> Fault {
    let mut refusal = read(value);
    refusal.status = 200;
    refusal.dialect = NAME;
    refusal::fault(refusal, None)
}

/// Reads `{"type":"error","error":{…}}`, and the shapes that gateways and compatible servers put in its place.
fn read(value: &Value) -> Refusal {
    let error = value.get("error").unwrap_or(value);
    let text = |of: &Value, key: &str| str_of(of, key).map(str::to_owned);
    let message = error.as_str().map(str::to_owned);
    let message = message.or_else(|| text(error, "message")).or_else(|| text(value, "message"));
    let message = message.or_else(|| text(value, "detail")).or_else(|| text(value, "error_description"));
    Refusal {
        message: message.unwrap_or_else(|| beginning(&value.to_string())),
        kind: text(error, "type").filter(|kind| kind != "error"),
        code: text(error, "code"),
        param: text(error, "param"),
        request_id: text(value, "request_id"),
        ..Refusal::default()
    }
}

fn beginning(text: &str) -> String {
    let text = text.trim();
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

pub fn encode(fault: &Fault, request_id: &str) -> Vec<u8> {
    match own(fault) {
        // A page that some proxy put in the provider's place is not in the dialect.
        Some(refusal) if refusal.body.trim_ascii_start().starts_with(b"{") => refusal.body.to_vec(),
        _ => json::written(&object(fault, request_id)),
    }
}

pub fn encode_event(fault: &Fault, request_id: &str, out: &mut Vec<u8>) {
    sse::write(out, "error", &object(fault, request_id));
}

/// The refusal, when it is Anthropic's and the caller may see it.
fn own(fault: &Fault) -> Option<&Refusal> {
    fault.refusal.as_deref().filter(|refusal| refusal.dialect == NAME && fault.kind != Kind::UpstreamCredential)
}

/// What Anthropic's own message of a conversation that does not fit begins with. There is no code for it: agents make
/// the conversation shorter when they see these words.
const TOO_LONG: &str = "prompt is too long";

/// The words of a fault. `own`: they are Anthropic's.
fn message(fault: &Fault, own: bool) -> String {
    let text = fault.text();
    let foreign = fault.kind == Kind::ContextLength && !own && !text.to_ascii_lowercase().contains(TOO_LONG);
    if foreign { format!("{TOO_LONG}: {text}") } else { text }
}

fn object(fault: &Fault, request_id: &str) -> Value {
    let refusal = own(fault);
    let kind = refusal.and_then(|refusal| refusal.kind.as_deref()).unwrap_or(fault.class().anthropic);
    let mut error = Map::new();
    error.insert("type".to_owned(), kind.into());
    error.insert("message".to_owned(), message(fault, refusal.is_some()).into());
    // The provider's own errors stay as its SDK knows them.
    if refusal.is_none() {
        error.insert("code".to_owned(), fault.told_code().into());
    }
    if fault.kind == Kind::UnsupportedFeature && fault.param.as_deref() == Some(THREAD) {
        // What makes the SDK send the whole conversation instead.
        let details = json!({"error_code": "thread_unsupported_request", "unsupported": [THREAD]});
        error.insert("details".to_owned(), details);
    }
    if let Some(availability) = &fault.availability {
        error.insert("availability".to_owned(), Value::clone(availability));
    }
    json!({"type": "error", "error": error, "request_id": request_id})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("valid JSON")
    }

    #[test]
    fn an_anthropic_refusal_reaches_the_caller_byte_for_byte() {
        let body = Bytes::from_static(
            b"{ \"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"max_tokens: 5 > 4\"},\"request_id\":\"req_1\" }",
        );
        let refusal = decode(400, &body);
        assert_eq!(
            (refusal.kind.as_deref(), refusal.request_id.as_deref()),
            (Some("invalid_request_error"), Some("req_1"))
        );
        let fault = refusal::fault(refusal, None);
        assert_eq!((fault.kind, fault.status(NAME)), (Kind::UpstreamRejected, 400));
        assert_eq!(encode(&fault, "ours"), body);
    }

    #[test]
    fn a_refused_gateway_credential_is_not_shown() {
        let body = Bytes::from_static(
            br#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key sk-ant-secret"}}"#,
        );
        let fault = refusal::fault(decode(401, &body), None);
        let shown = json(&encode(&fault, "r"));
        assert_eq!(shown["error"]["type"], "api_error");
        assert_eq!(shown["error"]["code"], "upstream_credential_refused");
        assert!(!shown.to_string().contains("secret"));
    }

    #[test]
    fn errors_of_other_dialects_and_our_own_take_the_type_of_the_table() {
        let fault = Fault::new(Kind::ModelNotFound, "No model `x`.");
        let shown = json(&encode(&fault, "req_9"));
        assert_eq!(shown["type"], "error");
        assert_eq!(shown["error"]["type"], "not_found_error");
        assert_eq!(shown["error"]["code"], "model_not_found");
        assert_eq!(shown["request_id"], "req_9");
        let foreign = Refusal {
            status: 429,
            message: "slow down".into(),
            kind: Some("tokens".into()),
            dialect: "openai_chat",
            body: Bytes::from_static(b"{\"error\":{}}"),
            ..Refusal::default()
        };
        let shown = json(&encode(&refusal::fault(foreign, None), "r"));
        assert_eq!(
            (&shown["error"]["type"], &shown["error"]["message"]),
            (&json!("rate_limit_error"), &json!("slow down"))
        );
    }

    #[test]
    fn bodies_out_of_the_dialect_become_messages() {
        assert_eq!(decode(502, &Bytes::from_static(b"<html>Bad gateway</html>\n")).message, "<html>Bad gateway</html>");
        assert_eq!(decode(400, &Bytes::from_static(br#"{"error":"no such model"}"#)).message, "no such model");
        let openai =
            decode(400, &Bytes::from_static(br#"{"error":{"message":"m","type":"t","code":"c","param":null}}"#));
        assert_eq!((openai.message.as_str(), openai.code.as_deref(), openai.param), ("m", Some("c"), None));
        assert_eq!(decode(404, &Bytes::from_static(br#"{"detail":"Not Found"}"#)).message, "Not Found");
        assert_eq!(decode(500, &Bytes::new()).message, "");
    }

    #[test]
    fn a_page_of_a_proxy_reaches_the_caller_as_a_message() {
        let fault = refusal::fault(decode(502, &Bytes::from_static(b"<html>Bad gateway</html>")), None);
        let shown = json(&encode(&fault, "r"));
        assert_eq!(shown["error"], json!({"type": "api_error", "message": "<html>Bad gateway</html>"}));
    }

    #[test]
    fn an_error_in_a_stream_keeps_the_providers_type() {
        let fault = reported(&json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
        assert_eq!(fault.kind, Kind::Overloaded);
        let mut out = Vec::new();
        encode_event(&fault, "req_2", &mut out);
        let frame = sse::Frame(&out);
        assert_eq!(frame.event(), "error");
        assert_eq!(
            json(&frame.data()),
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_2"})
        );
    }

    #[test]
    fn a_conversation_that_does_not_fit_is_said_in_anthropics_words() {
        let told = |message: &str| {
            let fault = Fault::new(Kind::ContextLength, message).refusal(Refusal { status: 400, ..Refusal::default() });
            json(&encode(&fault, "r"))["error"]["message"].clone()
        };
        let words = "This model's maximum context length is 128000 tokens.";
        assert_eq!(told(words), format!("prompt is too long: {words}"));
        assert_eq!(told("Prompt is too long: 5 tokens > 4 maximum"), "Prompt is too long: 5 tokens > 4 maximum");
        let other = Fault::new(Kind::UpstreamRejected, "no");
        assert_eq!(json(&encode(&other, "r"))["error"]["message"], "no");
    }
}
