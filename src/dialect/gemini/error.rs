//! Errors: google.rpc.Status in JSON, both directions. Never decides what a refusal means: `refusal` does.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::NAME;
use super::field;
use crate::dialect::refusal;
use crate::fault::{Fault, Kind, Refusal};
use crate::json;

/// Longest piece of a body without any structure that is taken for a message.
const MAX_MESSAGE_BYTES: usize = 2000;

/// Reads an error body: `{"error": {…}}`, the same in an array of one (streaming endpoints), or anything else.
pub fn decode(status: u16, body: &Bytes) -> Refusal {
    let refusal = Refusal { status, dialect: NAME, body: body.clone(), ..Refusal::default() };
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let error = parsed.as_ref().and_then(|value| match value {
        Value::Array(all) => all.first().and_then(|first| first.get("error")),
        other => other.get("error"),
    });
    match error {
        Some(error @ Value::Object(_)) => read(error, refusal),
        Some(Value::String(message)) => Refusal { message: message.clone(), ..refusal },
        _ => Refusal { message: as_it_stands(body), ..refusal },
    }
}

fn as_it_stands(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_MESSAGE_BYTES)]);
    text.trim().to_owned()
}

/// The fault that an error inside a stream is. Its `code` is the HTTP status it would have had.
pub fn in_stream(error: &Value) -> Fault {
    let code = error.get("code").and_then(field::uint).and_then(|code| u16::try_from(code).ok());
    let status = code.filter(|code| (400..600).contains(code)).unwrap_or(200);
    let refusal = read(error, Refusal { status, dialect: NAME, ..Refusal::default() });
    refusal::fault(refusal, None)
}

fn read(error: &Value, mut refusal: Refusal) -> Refusal {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    refusal.message = text(error, "message").unwrap_or_default();
    refusal.kind = text(error, "status");
    let mut per_day = false;
    for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
        let kind = detail.get("@type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "ErrorInfo" => refusal.code = refusal.code.or_else(|| text(detail, "reason")),
            "RetryInfo" => refusal.retry_after = text(detail, "retryDelay").as_deref().and_then(delay),
            "RequestInfo" => refusal.request_id = text(detail, "requestId"),
            "BadRequest" => {
                let first = detail.get("fieldViolations").and_then(|list| list.get(0));
                refusal.param = first.and_then(|violation| text(violation, "field"));
            }
            "QuotaFailure" => {
                let violations = detail.get("violations").and_then(Value::as_array).into_iter().flatten();
                per_day |= violations.filter_map(|one| text(one, "quotaId")).any(|id| id.contains("PerDay"));
            }
            _ => {}
        }
    }
    if per_day {
        // Google states some seconds even when the day's quota is gone: waiting them out does not help.
        refusal.retry_after = None;
    }
    refusal
}

/// A protobuf duration: `30s`, `0.5s`.
fn delay(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

pub fn encode(fault: &Fault) -> Vec<u8> {
    if let Some(refusal) = &fault.refusal
        && refusal.dialect == NAME
        // A page that some proxy put in the provider's place is not in the dialect.
        && matches!(refusal.body.trim_ascii_start().first(), Some(b'{' | b'['))
        && fault.kind != Kind::UpstreamCredential
    {
        return refusal.body.to_vec();
    }
    status(fault)
}

/// The last frame of a stream that fails after it began.
pub fn encode_frame(fault: &Fault, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(&status(fault));
    out.extend_from_slice(b"\r\n\r\n");
}

/// SDKs look for `error` as the first field and for a number in `code`.
fn status(fault: &Fault) -> Vec<u8> {
    let refusal = fault.refusal.as_deref().filter(|_| fault.kind != Kind::UpstreamCredential);
    let own = refusal.filter(|refusal| refusal.dialect == NAME);
    let word = own.and_then(|refusal| refusal.kind.as_deref()).unwrap_or(fault.class().gemini);
    let (reason, domain) = match own.and_then(|refusal| refusal.code.clone()) {
        Some(reason) => (reason, "googleapis.com"),
        None => (fault.told_code().to_ascii_uppercase(), "portcullis"),
    };
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": domain,
    })];
    if let Some(wait) = fault.retry_after {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{}s", wait.as_secs_f64()),
        }));
    }
    if let Some(availability) = &fault.availability {
        details.push(json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "portcullis", "availability": availability}));
    }
    let error = json!({
        "error": { "code": fault.status(NAME), "message": fault.text(), "status": word, "details": details }
    });
    json::written(&error)
}
