//! `inlineData` and `fileData`: images, sound, documents and video. Moves base64 and URLs, never looks inside.

use serde_json::Value;

use super::field::{self, Object, put, take_string};
use crate::chat::{Content, Media, known_mime};

/// Reads a blob, and gives its MIME type when the neutral form cannot hold it.
pub fn read_inline(mut blob: Object) -> (Content, Option<String>) {
    let mime = take_string(&mut blob, "mimeType").unwrap_or_default();
    let data = standard(take_string(&mut blob, "data").unwrap_or_default());
    let name = take_string(&mut blob, "displayName");
    if mime.starts_with("image/") {
        return (Content::Image { source: Media::Inline { mime, data }, detail: None }, None);
    }
    if mime.starts_with("audio/") {
        let format = audio_format(&mime);
        let odd = (audio_mime(&format, &data) != mime).then_some(mime);
        return (Content::Audio { data, format, transcript: None, id: None }, odd);
    }
    (Content::File { source: Media::Inline { mime, data }, name }, None)
}

/// Google's JSON takes both alphabets of base64 and its Python SDK sends the URL-safe one; everybody else takes only the
/// standard one.
fn standard(data: String) -> String {
    if memchr::memchr2(b'-', b'_', data.as_bytes()).is_none() {
        return data;
    }
    data.replace('-', "+").replace('_', "/")
}

pub fn read_file(mut file: Object) -> Content {
    let mime = take_string(&mut file, "mimeType").filter(|mime| !mime.is_empty());
    let url = take_string(&mut file, "fileUri").unwrap_or_default();
    let name = take_string(&mut file, "displayName");
    let image = mime.as_deref().is_some_and(|mime| mime.starts_with("image/"));
    let source = Media::Url { url, mime };
    if image { Content::Image { source, detail: None } } else { Content::File { source, name } }
}

/// A blob as a part.
pub fn inline(mime: &str, data: &str) -> Object {
    let mut blob = field::object("mimeType", known_mime(mime));
    blob.insert("data".into(), data.into());
    field::object("inlineData", blob)
}

/// Media as a part. None for files that some provider holds.
///
/// A URL becomes `fileData`: Vertex fetches public and `gs://` ones, AI Studio its own files, YouTube and, for newer
/// models, public ones. What it cannot fetch it refuses by name; the gateway fetches nothing on a client's word.
pub fn part(source: &Media, fallback: Option<&str>, name: Option<&str>) -> Option<Object> {
    Some(match source {
        Media::Inline { mime, data } => {
            let mut part = inline(mime, data);
            if let Some(Value::Object(blob)) = part.get_mut("inlineData") {
                put(blob, "displayName", name);
            }
            part
        }
        Media::Url { url, mime } => {
            let mut file = Object::new();
            put(&mut file, "mimeType", mime.as_deref().map(known_mime).or_else(|| mime_of(url)).or(fallback));
            file.insert("fileUri".into(), url.clone().into());
            put(&mut file, "displayName", name);
            field::object("fileData", file)
        }
        Media::Text(text) => field::object("text", text.clone()),
        Media::Id(_) => return None,
    })
}

/// OpenAI's word for a sound format.
fn audio_format(mime: &str) -> String {
    let kind = mime.trim_start_matches("audio/");
    let kind = kind.split(';').next().unwrap_or(kind).trim().to_ascii_lowercase();
    match kind.as_str() {
        "mpeg" | "mp3" => "mp3".to_owned(),
        "wav" | "x-wav" | "wave" => "wav".to_owned(),
        "l16" | "pcm" => "pcm16".to_owned(),
        other => other.to_owned(),
    }
}

/// The type of some sound. Answers of chat do not state it: then its first bytes tell.
pub fn audio_mime(format: &str, data: &str) -> String {
    const BEGINNINGS: &[(&str, &str)] =
        &[("UklGR", "wav"), ("SUQz", "mp3"), ("//", "mp3"), ("T2dnUw", "ogg"), ("ZkxhQ", "flac")];
    let known = || BEGINNINGS.iter().find(|(beginning, _)| data.starts_with(beginning));
    match format {
        "" => audio_mime(known().map_or("pcm16", |(_, format)| format), data),
        "pcm16" => "audio/pcm;rate=24000".to_owned(),
        other => format!("audio/{other}"),
    }
}

/// The MIME type that a URL's ending stands for.
fn mime_of(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let (_, ending) = path.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "html" => "text/html",
        "csv" => "text/csv",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => return None,
    })
}
/// Whether data can be base64, in either alphabet, by its letters.
pub fn is_base64(data: &str) -> bool {
    data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte))
}
