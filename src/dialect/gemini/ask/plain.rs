//! What only Gemini knows of an ask, in forms that every dialect has; and what of it is refused, because nobody else has
//! it: files that Google holds.

use serde_json::{Value, json};

use crate::chat::{Ask, Block, Content, Media};
use crate::dialect::Encoding;
use crate::dialect::gemini::field::{take_object, take_string};
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
    let voice = ask.modalities.iter().any(|kind| kind == "audio").then(|| voice(ask)).flatten();
    let words = words(ask);
    if voice.is_none() && words.is_none() {
        return Ok(None);
    }
    let mut ask = ask.clone();
    ask.audio = voice.map(|voice| json!({ "voice": voice })).or(ask.audio);
    if let Some(words) = words {
        ask.system.push(Block::text(one_of(&words, to)));
    }
    Ok(Some(ask))
}

fn one_of(words: &[Value], to: &mut Encoding<'_>) -> String {
    to.dropped.push(("responseMimeType", "the model was told which words it may answer with instead"));
    let words: Vec<String> = words.iter().map(Value::to_string).collect();
    format!(
        "Answer with exactly one of the following, without its quotation marks and without any other word: {}",
        words.join(", ")
    )
}

/// The voice that is to speak, where there is one.
fn voice(ask: &Ask) -> Option<String> {
    let mut config = ask.extra.get("generationConfig")?.as_object()?.clone();
    let mut speech = take_object(&mut config, "speechConfig")?;
    let mut voice = take_object(&mut speech, "voiceConfig")?;
    take_string(&mut take_object(&mut voice, "prebuiltVoiceConfig")?, "voiceName")
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
fn words(ask: &Ask) -> Option<Vec<Value>> {
    let config = ask.extra.get("generationConfig")?;
    config.get("responseMimeType").filter(|mime| *mime == "text/x.enum")?;
    let schemas = ["responseSchema", "responseJsonSchema"].into_iter().filter_map(|key| config.get(key));
    schemas.filter_map(|schema| schema.get("enum")?.as_array()).find(|words| !words.is_empty()).cloned()
}
