//! Errors inside a stream of the Responses form.
//!
//! Outside of streams the form shares `openai_error` with OpenAI chat.

use serde_json::{Value, json};

use crate::dialect::{Begun, openai_error};
use crate::fault::{Fault, Kind};
use crate::sse;

/// The `error` event. Its fields stand flat, as documented, and nested, as the service sends them and as the SDKs look
/// for them to raise an exception.
pub(super) fn write_error(fault: &Fault, number: u64, out: &mut Vec<u8>) {
    let error = openai_error::object(fault);
    let event = json!({
        "type": "error",
        "sequence_number": number,
        "code": error["code"],
        "message": error["message"],
        "param": error["param"],
        "error": error,
    });
    sse::write(out, "error", &event);
}

/// The `error` of a failed response. Its codes are a short list of the form's own, which agents act on.
pub(super) fn response_error(fault: &Fault) -> Value {
    let stated = fault.refusal.as_ref().filter(|refusal| refusal.dialect == super::NAME);
    let stated = stated.filter(|_| fault.kind != Kind::UpstreamCredential).and_then(|refusal| refusal.code.as_deref());
    let code = stated.unwrap_or(match fault.kind {
        Kind::ContextLength => "context_length_exceeded",
        Kind::QuotaExceeded => "insufficient_quota",
        Kind::RateLimited => "rate_limit_exceeded",
        Kind::ContentPolicy | Kind::UpstreamRejected | Kind::InvalidRequest | Kind::UnsupportedFeature => {
            "invalid_prompt"
        }
        _ => "server_error",
    });
    json!({"type": fault.class().openai, "code": code, "message": fault.text()})
}

/// The last frames of a stream that has no encoder (a relay of bytes). What it had put out is not known here.
pub(super) fn write_stream_error(fault: &Fault, begun: &Begun<'_>, out: &mut Vec<u8>) {
    write_error(fault, begun.frames, out);
    let failed = json!({
        "type": "response.failed",
        "sequence_number": begun.frames + 1,
        "response": {
            "id": begun.id.map_or_else(|| super::response::prefixed(begun.request_id), str::to_owned),
            "object": "response",
            "created_at": begun.created.unwrap_or(0),
            "status": "failed",
            "error": response_error(fault),
            "incomplete_details": null,
            "model": begun.model.unwrap_or_default(),
            "output": [],
            "parallel_tool_calls": true,
            "tool_choice": "auto",
            "tools": [],
            "usage": null,
        },
    });
    sse::write(out, "response.failed", &failed);
}
