//! `POST /v1/feedback`: what a caller thinks of an answer it got. Kept with the record of the exchange, and the score in
//! the access log; never sent to a provider.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Matched, generation};
use crate::exchange::{Exchange, Feedback};
use crate::fault::{Fault, Kind};
use crate::pipeline::Cx;
use crate::reply::Reply;

/// Longest comment, in bytes: it is kept in memory beside the record.
const MAX_COMMENT_BYTES: usize = 4096;

/// Most bytes of metadata as JSON, for the same reason.
const MAX_METADATA_BYTES: usize = 4096;

/// The body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    /// The gateway's id of the exchange, or the answer's own.
    id: String,
    /// From -1, as bad as can be, to 1.
    score: f64,
    comment: Option<String>,
    metadata: Option<Map<String, Value>>,
}

/// Takes it down.
///
/// # Errors
/// [`Kind::InvalidRequest`], and [`Kind::ResponseNotFound`] for exchanges unknown or of other callers.
pub fn post(cx: &Cx, x: &mut Exchange, body: &Bytes, _: &Matched) -> Result<Reply, Fault> {
    let wrong = |text: String| Fault::new(Kind::InvalidRequest, text);
    let sent: Sent = serde_json::from_slice(body).map_err(|error| {
        wrong(format!(
            "Feedback is {{\"id\": \"gen-…\", \"score\": -1 to 1}}, with `comment` and `metadata` if you like: {error}."
        ))
    })?;
    if !(-1.0..=1.0).contains(&sent.score) {
        return Err(wrong("The field `score` must be from -1 to 1.".to_owned()).param("score"));
    }
    if sent.comment.as_ref().is_some_and(|comment| comment.len() > MAX_COMMENT_BYTES) {
        return Err(wrong(format!("The field `comment` is longer than {MAX_COMMENT_BYTES} bytes.")).param("comment"));
    }
    if sent.metadata.as_ref().is_some_and(|metadata| json!(metadata).to_string().len() > MAX_METADATA_BYTES) {
        return Err(wrong(format!("The field `metadata` is longer than {MAX_METADATA_BYTES} bytes.")).param("metadata"));
    }
    let record = generation::find(cx, x, &sent.id)?;
    let id = record["id"].as_str().unwrap_or_default().to_owned();
    let kept = json!({"score": sent.score, "comment": sent.comment, "metadata": sent.metadata});
    cx.state.records.amend(&id, "feedback", kept);
    let reply = json!({"id": id, "status": "kept"});
    x.feedback = Some(Box::new(Feedback { id, score: sent.score }));
    Ok(Reply::json(StatusCode::OK, reply.to_string()))
}
