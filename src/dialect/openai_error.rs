//! The error form that the OpenAI dialects share, and the many shapes that compatible servers send in its place.
//!
//! Reads anything into a [`Refusal`] and never fails; what it means is `refusal::classify`'s business.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::fault::{Fault, Kind, Refusal};
use crate::json;

/// Longest message kept of a body that is no JSON (proxies' HTML pages), in characters.
const MAX_TEXT_CHARS: usize = 500;

/// How deep an error may be wrapped in another (OpenRouter's `metadata.raw`, FastAPI's `detail`).
const MAX_DEPTH: u8 = 4;

/// Reads the body of an error answer.
pub(crate) fn decode(dialect: &'static str, status: u16, body: &Bytes) -> Refusal {
    let mut refusal = match serde_json::from_slice::<Value>(body) {
        Ok(value) => of_value(dialect, status, &value),
        Err(_) => Refusal { status, message: readable(&String::from_utf8_lossy(body)), dialect, ..Refusal::default() },
    };
    refusal.body = body.clone();
    refusal
}

/// Reads an error that came as JSON, whole or as the data of a stream event.
pub(crate) fn of_value(dialect: &'static str, status: u16, value: &Value) -> Refusal {
    let mut refusal = Refusal { status, dialect, ..Refusal::default() };
    read(value, &mut refusal, 0);
    refusal.retry_after = wait(&refusal.message);
    refusal
}

/// How long to wait, where the words say so: "Please try again in 1.5s." Also in `ms`, and in the form `1h2m3s`.
fn wait(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("try again in ")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | 'h' | 'm' | 's'))).unwrap_or(rest.len());
    let mut rest = rest[..end].trim_end_matches('.');
    let (mut seconds, mut read) = (0.0, false);
    while let Some(digits) = rest.find(|c: char| c.is_ascii_alphabetic()).filter(|digits| *digits > 0) {
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let (unit, scale) = match unit.as_bytes() {
            [b'm', b's', ..] => (2, 0.001),
            [b'h', ..] => (1, 3600.0),
            [b'm', ..] => (1, 60.0),
            _ => (1, 1.0),
        };
        (seconds, read) = (seconds + number * scale, true);
        rest = &rest[digits + unit..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| read && rest.is_empty())
}

/// The error body for a client: the upstream's own bytes where a caller of this form understands them.
pub(crate) fn encode(fault: &Fault) -> Vec<u8> {
    match own(fault) {
        Some(refusal) if is_object(&refusal.body) => refusal.body.to_vec(),
        _ => json::written(&json!({ "error": object(fault) })),
    }
}

/// The `error` object: the upstream's own words where it speaks this form, else those of the fault table.
pub(crate) fn object(fault: &Fault) -> Value {
    let row = fault.class();
    let (kind, code) = match own(fault) {
        // A stated type says that the server speaks the form properly; then an absent code means null.
        Some(Refusal { kind: Some(kind), code, .. }) => (kind.as_str(), code.as_deref()),
        Some(Refusal { code: Some(code), .. }) => (row.openai, Some(code.as_str())),
        _ => (row.openai, Some(fault.told_code())),
    };
    let mut object = json!({ "message": fault.text(), "type": kind, "param": fault.param, "code": code });
    if let Some(availability) = &fault.availability {
        object["availability"] = Value::clone(availability);
    }
    object
}

/// What an upstream of an OpenAI form said to the caller (not to us, as a refused credential is).
fn own(fault: &Fault) -> Option<&Refusal> {
    let refusal = fault.refusal.as_deref()?;
    let ours = fault.kind == Kind::UpstreamCredential;
    (!ours && matches!(refusal.dialect, "openai_chat" | "openai_responses")).then_some(refusal)
}

fn is_object(body: &[u8]) -> bool {
    // Servers' own page bodies are short; errors are not on the hot path.
    serde_json::from_slice::<Map<String, Value>>(body).is_ok_and(|object| !object.is_empty())
}

fn read(value: &Value, into: &mut Refusal, depth: u8) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::String(text) => set(&mut into.message, text),
        // Google's compatible endpoint wraps the object in a list; Hugging Face lists messages.
        Value::Array(list) => match list.first() {
            Some(first) if list.len() == 1 => read(first, into, depth + 1),
            _ => validation(list, into),
        },
        Value::Object(object) => read_object(object, into, depth),
        _ => {}
    }
}

fn read_object(object: &Map<String, Value>, into: &mut Refusal, depth: u8) {
    let text = |keys: &[&str]| keys.iter().find_map(|key| object.get(*key)?.as_str()).filter(|text| !text.is_empty());
    // What the wrapper says of itself counts only where the error inside is silent, so the inside goes first.
    for key in ["error", "errors", "detail", "response", "base_resp"] {
        match object.get(key) {
            // FastAPI's list of what did not fit.
            Some(Value::Array(list)) if key == "detail" => validation(list, into),
            Some(inner @ (Value::Object(_) | Value::Array(_) | Value::String(_))) => read(inner, into, depth + 1),
            _ => {}
        }
    }
    match object.get("message") {
        Some(inner @ Value::Object(_)) => read(inner, into, depth + 1),
        _ => {
            if let Some(message) = text(&["message", "Message", "msg", "status_msg", "error_message", "title"]) {
                set(&mut into.message, message);
            }
        }
    }
    // `type: error` names the envelope or the event, `status: failed` the response, not the kind.
    let named = |kind: &&str| !matches!(*kind, "error" | "failed") && !event(kind);
    let kind = text(&["type", "status", "error_type", "__type"]).filter(named);
    into.kind = into.kind.take().or_else(|| kind.map(str::to_owned));
    into.param = into.param.take().or_else(|| text(&["param"]).map(str::to_owned));
    for code in [object.get("code"), object.get("status_code")].into_iter().flatten() {
        read_code(code, into);
    }
    if let Some(inner) = object.get("innererror").and_then(|inner| inner.get("code")).and_then(Value::as_str) {
        into.code.get_or_insert_with(|| inner.to_owned());
    }
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        read_metadata(metadata, into, depth);
    }
}

/// Words become the code. A number is an HTTP status more often than not: in a stream, where the real one is 200, it
/// stands in for it.
fn read_code(code: &Value, into: &mut Refusal) {
    let number = code.as_u64().or_else(|| code.as_str().and_then(|text| text.parse().ok()));
    if let Some(number @ 400..=599) = number {
        if into.status == 200 {
            into.status = number as u16;
        }
        return;
    }
    match code {
        Value::String(text) if !text.is_empty() && into.code.is_none() => into.code = Some(text.clone()),
        Value::Number(number) if into.code.is_none() => into.code = Some(number.to_string()),
        _ => {}
    }
}

/// OpenRouter says "Provider returned error" and keeps what the provider said in `metadata.raw`, often as JSON text.
fn read_metadata(metadata: &Map<String, Value>, into: &mut Refusal, depth: u8) {
    let mut inner = Refusal { status: into.status, ..Refusal::default() };
    match metadata.get("raw") {
        Some(Value::String(raw)) => match serde_json::from_str::<Value>(raw) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => read(&value, &mut inner, depth + 1),
            _ => inner.message = readable(raw),
        },
        Some(value) => read(value, &mut inner, depth + 1),
        None => {}
    }
    if !inner.message.is_empty() && !into.message.contains(&inner.message) {
        let provider = metadata.get("provider_name").and_then(Value::as_str);
        let from = provider.map(|name| format!(" ({name})")).unwrap_or_default();
        into.message = format!("{}{from}: {}", into.message, inner.message).trim_start_matches(": ").to_owned();
    }
    into.kind = into.kind.take().or(inner.kind);
    into.code = into.code.take().or(inner.code);
    into.param = into.param.take().or(inner.param);
}

/// A list of what did not fit, as pydantic gives it: `[{loc: [..], msg, type}]`, or of messages.
fn validation(list: &[Value], into: &mut Refusal) {
    let mut lines = Vec::new();
    for entry in list {
        let message = ["msg", "message"].iter().find_map(|key| entry.get(*key)?.as_str()).or(entry.as_str());
        let place = entry.get("loc").and_then(Value::as_array).map(|parts| place(parts)).filter(|at| !at.is_empty());
        match (message, &place) {
            (Some(message), Some(place)) => lines.push(format!("{place}: {message}")),
            (Some(message), None) => lines.push(message.to_owned()),
            _ => {}
        }
        into.param = into.param.take().or(place);
    }
    set(&mut into.message, &lines.join("; "));
}

/// `["body", "messages", 0]` as `messages.0`: the caller sees only bodies.
fn place(parts: &[Value]) -> String {
    let words = parts.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
    words.skip_while(|word| word == "body").collect::<Vec<_>>().join(".")
}

/// Keeps the first, which is the innermost.
fn set(message: &mut String, text: &str) {
    if message.is_empty() {
        message.push_str(text.trim());
    }
}

/// Whether a `type` names a stream event of the Responses form.
fn event(kind: &str) -> bool {
    kind.starts_with("response.")
}

/// Plain text as it stands, a page as its title or its words; shortened.
fn readable(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let text = text.trim();
    if !lower.trim_start().starts_with('<') {
        return shorten(text);
    }
    let title = lower.find("<title").and_then(|at| Some(at + lower[at..].find('>')? + 1));
    if let Some((from, to)) = title.and_then(|from| Some((from, from + lower[from..].find("</title")?))) {
        // Lower-casing ASCII moves no byte, but the untrimmed text is the one that was searched.
        let found = lower_source(text, &lower, from, to);
        if !found.is_empty() {
            return shorten(&found);
        }
    }
    shorten(&words_of(text))
}

/// The part of `text` that `lower[from..to]` was made of; `lower` may have leading white space more.
fn lower_source(text: &str, lower: &str, from: usize, to: usize) -> String {
    let lead = lower.len() - lower.trim_start().len();
    let span = from.saturating_sub(lead)..to.saturating_sub(lead);
    text.get(span).map(|title| title.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// A page without its tags.
fn words_of(page: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for character in page.chars() {
        match character {
            '<' => inside = true,
            '>' => {
                inside = false;
                out.push(' ');
            }
            _ if !inside => out.push(character),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::refusal;

    fn refused(status: u16, body: &str) -> Refusal {
        decode("openai_chat", status, &Bytes::copy_from_slice(body.as_bytes()))
    }

    /// (message, kind, code, param)
    fn parts(refusal: &Refusal) -> (&str, Option<&str>, Option<&str>, Option<&str>) {
        (&refusal.message, refusal.kind.as_deref(), refusal.code.as_deref(), refusal.param.as_deref())
    }

    #[test]
    fn the_form_of_openai_is_read_whole() {
        let refusal = refused(
            400,
            r#"{"error":{"message":"Unknown parameter: 'x'.","type":"invalid_request_error","param":"x","code":"unknown_parameter"}}"#,
        );
        assert_eq!(
            parts(&refusal),
            ("Unknown parameter: 'x'.", Some("invalid_request_error"), Some("unknown_parameter"), Some("x"))
        );
    }

    #[test]
    fn shapes_of_compatible_servers_give_their_message() {
        for (body, message, kind, code, param) in [
            (r#"{"error":"model 'x' not found"}"#, "model 'x' not found", None, None, None),
            (
                r#"{"code":"Client specified an invalid argument","error":"Bad model"}"#,
                "Bad model",
                None,
                Some("Client specified an invalid argument"),
                None,
            ),
            (r#"{"message":"Invalid token"}"#, "Invalid token", None, None, None),
            (r#"{"detail":"Not Found"}"#, "Not Found", None, None, None),
            (
                r#"{"detail":[{"type":"missing","loc":["body","messages",0,"role"],"msg":"Field required","input":{}}]}"#,
                "messages.0.role: Field required",
                None,
                None,
                Some("messages.0.role"),
            ),
            (r#"{"detail":{"error":{"message":"deep","type":"t"}}}"#, "deep", Some("t"), None, None),
            (
                r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
                "too long",
                Some("BadRequestError"),
                None,
                None,
            ),
            (
                r#"{"object":"error","message":{"detail":[{"loc":["body","n"],"msg":"bad"},{"msg":"worse"}]},"type":"invalid_request_error"}"#,
                "n: bad; worse",
                Some("invalid_request_error"),
                None,
                Some("n"),
            ),
            (
                r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]"#,
                "API key not valid.",
                Some("INVALID_ARGUMENT"),
                None,
                None,
            ),
            (
                r#"{"success":false,"errors":[{"code":7003,"message":"No route"}]}"#,
                "No route",
                None,
                Some("7003"),
                None,
            ),
            (
                r#"{"code":20012,"message":"Model does not exist","data":null}"#,
                "Model does not exist",
                None,
                Some("20012"),
                None,
            ),
            (
                r#"{"type":"error","code":"server_error","message":"Oops","param":null,"sequence_number":3}"#,
                "Oops",
                None,
                Some("server_error"),
                None,
            ),
            (
                r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"slow"}}}"#,
                "slow",
                None,
                Some("rate_limit_exceeded"),
                None,
            ),
            (
                r#"{"error":{"message":"filtered","type":null,"param":"prompt","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
                "filtered",
                None,
                Some("content_filter"),
                Some("prompt"),
            ),
        ] {
            assert_eq!(parts(&refused(400, body)), (message, kind, code, param), "{body}");
        }
    }

    #[test]
    fn what_a_router_hides_in_its_metadata_is_told() {
        let refusal = refused(
            400,
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"maximum context length is 8192\",\"type\":\"invalid_request_error\",\"code\":\"context_length_exceeded\"}}","provider_name":"Azure"}}}"#,
        );
        assert_eq!(refusal.message, "Provider returned error (Azure): maximum context length is 8192");
        assert_eq!(refusal::classify(&refusal), Kind::ContextLength);
        let plain = refused(
            502,
            r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"upstream died"}}}"#,
        );
        assert_eq!(plain.message, "Provider returned error: upstream died");
    }

    #[test]
    fn a_numeric_code_in_a_stream_stands_for_the_status() {
        let value = json!({"error": {"code": 429, "message": "Rate limit exceeded"}});
        let refusal = of_value("openai_chat", 200, &value);
        assert_eq!((refusal.status, refusal.code.as_deref()), (429, None));
        assert_eq!(refusal::classify(&refusal), Kind::RateLimited);
    }

    #[test]
    fn pages_and_plain_text_become_readable() {
        let page = "\n <HTML><head><Title>502 Bad\n Gateway</title></head><body><h1>x</h1></body></html>";
        assert_eq!(refused(502, page).message, "502 Bad Gateway");
        assert_eq!(refused(502, "<p>It <b>broke</b></p>").message, "It broke");
        assert_eq!(refused(502, "upstream connect error").message, "upstream connect error");
        assert_eq!(refused(502, "").message, "");
        let long = refused(500, &"é".repeat(4000)).message;
        assert_eq!(long.chars().count(), MAX_TEXT_CHARS + 1);
    }

    #[test]
    fn junk_never_fails() {
        for body in
            ["null", "[]", "[[[[[[[[1]]]]]]]]", "{}", "{\"error\":null}", "{\"error\":{}}", "<", "<title", "<title>x"]
        {
            let refusal = refused(500, body);
            assert_eq!(refusal.body.as_ref(), body.as_bytes());
            serde_json::from_slice::<Value>(&encode(&refusal::fault(refusal, None))).expect("an error is JSON");
        }
    }

    #[test]
    fn the_upstreams_own_body_goes_out_byte_for_byte() {
        let body = "{ \"error\" : {\"message\":\"bäd\",\"type\":\"invalid_request_error\",\"odd\":1.50} }";
        let fault = refusal::fault(refused(400, body), None);
        assert_eq!(encode(&fault), body.as_bytes());
        let page = refusal::fault(refused(502, "<title>Bad Gateway</title>"), None);
        let out: Value = serde_json::from_slice(&encode(&page)).expect("JSON");
        assert_eq!(out["error"]["message"], "Bad Gateway");
        assert_eq!(out["error"]["code"], "upstream_error");
    }

    #[test]
    fn a_refused_credential_of_ours_is_not_shown() {
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-secret","type":"invalid_request_error","code":"invalid_api_key"}}"#;
        let out = encode(&refusal::fault(refused(401, body), None));
        let out = String::from_utf8(out).expect("UTF-8");
        assert!(!out.contains("sk-secret"), "{out}");
        assert!(out.contains("upstream_credential_refused"), "{out}");
    }

    #[test]
    fn faults_of_ours_and_of_other_dialects_speak_the_table() {
        let fault = Fault::new(Kind::InvalidRequest, "bad").param("input");
        assert_eq!(
            object(&fault),
            json!({"message": "bad", "type": "invalid_request_error", "param": "input", "code": "invalid_request"})
        );
        let foreign = Refusal {
            status: 529,
            message: "Overloaded".into(),
            kind: Some("overloaded_error".into()),
            dialect: "anthropic",
            body: Bytes::from_static(b"{\"type\":\"error\"}"),
            ..Refusal::default()
        };
        let out: Value = serde_json::from_slice(&encode(&refusal::fault(foreign, None))).expect("JSON");
        assert_eq!(
            out,
            json!({"error": {"message": "Overloaded", "type": "server_error", "param": null, "code": "upstream_overloaded"}})
        );
    }

    #[test]
    fn the_words_of_a_rate_limit_say_how_long_to_wait() {
        for (words, millis) in [
            ("Limit 30000. Please try again in 1.5s. Visit", Some(1500)),
            ("Please try again in 120ms.", Some(120)),
            ("Please try again in 7m12.5s. Need more", Some(432_500)),
            ("Please try again in 1h0m2s", Some(3_602_000)),
            ("Please try again in a while", None),
            ("Please try again in 5 minutes", None),
            ("Slow down", None),
        ] {
            assert_eq!(wait(words).map(|wait| wait.as_millis()), millis, "{words}");
        }
        let event = json!({"type": "response.failed", "response": {"status": "failed",
            "error": {"code": "rate_limit_exceeded", "message": "Please try again in 1.5s."}}});
        let refusal = of_value("openai_responses", 200, &event);
        assert_eq!((refusal.kind.as_deref(), refusal.code.as_deref()), (None, Some("rate_limit_exceeded")));
        let fault = refusal::fault(refusal, None);
        assert_eq!((fault.kind, fault.retry_after), (Kind::RateLimited, Some(Duration::from_millis(1500))));
        assert_eq!(object(&fault)["type"], "rate_limit_error");
    }
}
