//! What only Gemini knows of an ask, in forms that every dialect has; and what of it is refused, because nobody else has
//! it: files that Google holds.

use serde_json::Value;

use crate::chat::{Ask, Block, Content, Media};
use crate::dialect::Encoding;
use crate::fault::{Fault, Kind};

/// What addresses of files begin with that no other provider can fetch: those of the Files API, of Google's storage, and
/// films, which Gemini alone watches.
const GOOGLES: &[&str] =
    &["https://generativelanguage.googleapis.com/", "gs://", "https://www.youtube.com/", "https://youtu.be/"];

/// See [`crate::dialect::Dialect::plainly`].
pub fn plainly(ask: &Ask, to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
    if ask.messages.iter().flat_map(|message| &message.blocks).any(|block| is_googles(&block.content)) {
        let text = "A file that Google holds cannot be sent to another provider; send its bytes or a public URL.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("fileUri"));
    }
    let Some(words) = words(ask) else { return Ok(None) };
    to.dropped.push(("responseMimeType", "the model was told which words it may answer with instead"));
    let words: Vec<String> = words.iter().map(Value::to_string).collect();
    let text = format!(
        "Answer with exactly one of the following, without its quotation marks and without any other word: {}",
        words.join(", ")
    );
    let mut ask = ask.clone();
    ask.system.push(Block::text(text));
    Ok(Some(ask))
}

fn is_googles(content: &Content) -> bool {
    match content {
        Content::Image { source: Media::Url { url, .. }, .. }
        | Content::File { source: Media::Url { url, .. }, .. } => {
            GOOGLES.iter().any(|beginning| url.starts_with(beginning))
        }
        Content::ToolResult(result) => result.content.iter().any(|block| is_googles(&block.content)),
        _ => false,
    }
}

/// The words that the answer is one of, where one of some words is asked for.
fn words(ask: &Ask) -> Option<&Vec<Value>> {
    let config = ask.extra.get("generationConfig")?;
    config.get("responseMimeType").filter(|mime| *mime == "text/x.enum")?;
    let schemas = ["responseSchema", "responseJsonSchema"].into_iter().filter_map(|key| config.get(key));
    schemas.filter_map(|schema| schema.get("enum")?.as_array()).find(|words| !words.is_empty())
}
