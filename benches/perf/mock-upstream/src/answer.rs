//! The canned answers, in all wire forms, as real servers write them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

use crate::ask::{Ask, Form};

/// The head of a stream.
pub fn stream_head(ask: &Ask, out: &mut Vec<u8>) {
    let kind = if ask.form == Form::Ollama { "application/x-ndjson" } else { "text/event-stream; charset=utf-8" };
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: no-cache\r\nx-request-id: req_mock\r\ntransfer-encoding: chunked\r\n\r\n"
    );
}

const TEXT: &str =
    "The quick brown fox jumps over the lazy dog, and then it does so again, and once more for good measure.";

/// Writing into memory does not fail; the results of `write!` below are dropped for that reason.
pub fn whole(ask: &Ask, asks: u64, out: &mut Vec<u8>) {
    let model = &ask.model;
    let text = match ask.text_kb {
        0 => Cow::Borrowed(TEXT),
        kb => Cow::Owned(TEXT.repeat(kb * 1024 / TEXT.len())),
    };
    let (status, body) = match ask.form {
        Form::OpenAi => (
            "200 OK",
            format!(
                r#"{{"id":"chatcmpl-mock00000000000000000001","object":"chat.completion","created":1700000000,"model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":25,"completion_tokens":24,"total_tokens":49,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_mock"}}"#
            ),
        ),
        Form::Anthropic => (
            "200 OK",
            format!(
                r#"{{"id":"msg_mock000000000000000001","type":"message","role":"assistant","model":"{model}","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":25,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":24,"service_tier":"standard"}}}}"#
            ),
        ),
        Form::Cohere => (
            "200 OK",
            format!(
                r#"{{"id":"c14c80c3-18eb-4519-9460-6c92edd8cfb4","finish_reason":"COMPLETE","message":{{"role":"assistant","content":[{{"type":"text","text":"{text}"}}]}},"usage":{{"billed_units":{{"input_tokens":20,"output_tokens":24}},"tokens":{{"input_tokens":25,"output_tokens":24}}}}}}"#
            ),
        ),
        Form::Ollama => (
            "200 OK",
            format!(
                r#"{{"model":"{model}","created_at":"2023-11-14T22:13:20.0Z","message":{{"role":"assistant","content":"{text}"}},"done_reason":"stop","done":true,"total_duration":174560334,"load_duration":101397084,"prompt_eval_count":25,"prompt_eval_duration":13074791,"eval_count":24,"eval_duration":52479709}}"#
            ),
        ),
        Form::Health => ("200 OK", format!(r#"{{"status":"ok","asks":{asks}}}"#)),
        Form::Unknown => ("404 Not Found", r#"{"error":{"message":"no such path"}}"#.to_owned()),
    };
    let length = body.len();
    let _ = write!(
        out,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\ncontent-length: {length}\r\n\r\n{body}"
    );
}

/// One HTTP chunk.
pub fn frame(text: &str, out: &mut Vec<u8>) {
    let _ = write!(out, "{:x}\r\n{text}\r\n", text.len());
}

/// What comes before the text, where a form has something.
pub fn open(ask: &Ask, out: &mut String) {
    match ask.form {
        Form::Anthropic => open_anthropic(ask, out),
        Form::Cohere => out.push_str("event: message-start\ndata: {\"id\":\"29f14a5a\",\"type\":\"message-start\",\"delta\":{\"message\":{\"role\":\"assistant\",\"content\":[],\"tool_plan\":\"\",\"tool_calls\":[],\"citations\":[]}}}\n\nevent: content-start\ndata: {\"type\":\"content-start\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"type\":\"text\",\"text\":\"\"}}}}\n\n"),
        _ => {}
    }
}

fn open_anthropic(ask: &Ask, out: &mut String) {
    let _ = write!(
        out,
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"msg_mock0001\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"{}\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{{\"input_tokens\":25,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":1}}}}}}\n\nevent: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n",
        ask.model
    );
}

/// The `number`th piece of the text, stamped with the time.
pub fn chunk(ask: &Ask, number: u64, out: &mut String) {
    let (model, now) = (&ask.model, now_ns());
    let _ = match ask.form {
        Form::Anthropic => write!(
            out,
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"t={now} w\"}}}}\n\n"
        ),
        Form::Cohere => write!(
            out,
            "event: content-delta\ndata: {{\"type\":\"content-delta\",\"index\":0,\"delta\":{{\"message\":{{\"content\":{{\"text\":\"t={now} w\"}}}}}}}}\n\n"
        ),
        Form::Ollama => writeln!(
            out,
            "{{\"model\":\"{model}\",\"created_at\":\"2023-11-14T22:13:20.0Z\",\"message\":{{\"role\":\"assistant\",\"content\":\"t={now} w\"}},\"done\":false}}"
        ),
        _ => {
            let role = if number == 0 { "\"role\":\"assistant\"," } else { "" };
            write!(
                out,
                "data: {{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"{model}\",\"choices\":[{{\"index\":0,\"delta\":{{{role}\"content\":\"t={now} w\"}},\"finish_reason\":null}}]}}\n\n"
            )
        }
    };
}

/// Everything after the text.
pub fn close(ask: &Ask, out: &mut String) {
    let (model, chunks) = (&ask.model, ask.chunks);
    let _ = match ask.form {
        Form::Anthropic => write!(
            out,
            "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\nevent: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}},\"usage\":{{\"output_tokens\":{chunks}}}}}\n\nevent: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
        ),
        Form::Cohere => write!(
            out,
            "event: content-end\ndata: {{\"type\":\"content-end\",\"index\":0}}\n\nevent: message-end\ndata: {{\"type\":\"message-end\",\"delta\":{{\"finish_reason\":\"COMPLETE\",\"usage\":{{\"billed_units\":{{\"input_tokens\":20,\"output_tokens\":{chunks}}},\"tokens\":{{\"input_tokens\":25,\"output_tokens\":{chunks}}}}}}}}}\n\n"
        ),
        Form::Ollama => writeln!(
            out,
            "{{\"model\":\"{model}\",\"created_at\":\"2023-11-14T22:13:20.0Z\",\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done_reason\":\"stop\",\"done\":true,\"total_duration\":174560334,\"prompt_eval_count\":25,\"eval_count\":{chunks}}}"
        ),
        _ => {
            close_openai(ask, out);
            Ok(())
        }
    };
}

fn close_openai(ask: &Ask, out: &mut String) {
    let (model, chunks) = (&ask.model, ask.chunks);
    let head = format!(
        "data: {{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"{model}\",\"choices\":["
    );
    let _ = write!(out, "{head}{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n");
    if ask.usage {
        let total = 25 + chunks;
        let _ = write!(
            out,
            "{head}],\"usage\":{{\"prompt_tokens\":25,\"completion_tokens\":{chunks},\"total_tokens\":{total}}}}}\n\n"
        );
    }
    out.push_str("data: [DONE]\n\n");
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
