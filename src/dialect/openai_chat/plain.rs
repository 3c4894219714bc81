//! Chunks that add a text and say nothing else, which nearly all of a stream are: read in one pass, without a tree.
//!
//! Whatever else a chunk says, or says oddly, is left to the decoder that reads everything.

use std::ops::Range;

use crate::dialect::Frame;
use crate::json::scan::{self, Malformed, Scan};

/// What a frame has around its data at most: `data: ` and an empty line.
const AROUND: usize = b"data: \r\n\r\n".len();

/// The choice and the text of such a chunk. `data` is the frame's.
pub(super) fn text_of(frame: &Frame<'_>, data: &[u8]) -> Option<(u32, String)> {
    // A frame with a name of its own, or in several lines, may mean something else.
    if !frame.0.starts_with(b"data:") || frame.0.len() > data.len() + AROUND {
        return None;
    }
    let mut choice = None;
    let read = scan::object(data, |scan, key| match &data[key] {
        b"id" | b"created" | b"model" | b"service_tier" | b"system_fingerprint" | b"obfuscation" => {
            scan.skip().map(drop)
        }
        b"object" => word(scan, data, b"\"chat.completion.chunk\""),
        b"choices" if choice.is_none() => scan.array(|scan| {
            let another = choice.replace(choice_of(scan, data)?);
            if another.is_none() { Ok(()) } else { Err(Malformed) }
        }),
        _ => word(scan, data, b"null"),
    });
    read.ok()?;
    let (index, text) = choice?;
    Some((index, text?))
}

fn choice_of(scan: &mut Scan<'_>, data: &[u8]) -> Result<(u32, Option<String>), Malformed> {
    let (mut index, mut text) = (0, None);
    scan.object(|scan, key| match &data[key] {
        b"index" => {
            index = number(data, scan.skip()?)?;
            Ok(())
        }
        b"delta" if text.is_none() => scan.object(|scan, key| match &data[key] {
            b"role" => scan.skip().map(drop),
            b"content" if text.is_none() => {
                text = scan.text()?;
                Ok(())
            }
            _ => word(scan, data, b"null"),
        }),
        _ => word(scan, data, b"null"),
    })?;
    Ok((index, text))
}

fn number(data: &[u8], at: Range<usize>) -> Result<u32, Malformed> {
    std::str::from_utf8(&data[at]).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

/// Moves past a value that must be this one.
fn word(scan: &mut Scan<'_>, data: &[u8], word: &[u8]) -> Result<(), Malformed> {
    if data[scan.skip()?] == *word { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::super::decoder::Decoder;
    use super::*;
    use crate::dialect::Decoder as _;

    fn read(data: &str) -> Option<(u32, String)> {
        text_of(&Frame(format!("data: {data}\n\n").as_bytes()), data.as_bytes())
    }

    #[test]
    fn a_chunk_that_adds_a_text_is_read() {
        for (data, found) in [
            (
                r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":null,"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
                (0, "Hi"),
            ),
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":"\u00fc\n","reasoning_content":null,"tool_calls":null},"index":2}]}"#,
                (2, "\u{fc}\n"),
            ),
            (
                r#"{"choices":[{"index":1,"delta":{"content":"ü \"x\""},"stop_reason":null}],"obfuscation":"abc"}"#,
                (1, "ü \"x\""),
            ),
        ] {
            assert_eq!(read(data), Some((found.0, found.1.to_owned())), "{data}");
        }
    }

    /// A stream of these chunks, each with something beside it that is no text.
    fn decoded(chunks: &[&str], beside: &str) -> String {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            let frame = format!("data: {{{beside}{}\n\n", &chunk[1..]);
            decoder.frame(&Frame(frame.as_bytes()), &mut events).expect("decodes");
        }
        decoder.finish(&mut events).expect("a whole stream");
        format!("{events:?}")
    }

    #[test]
    fn the_events_are_those_of_the_decoder_that_reads_everything() {
        let chunks = [
            r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":"One"}}]}"#,
            r#"{"id":"c","choices":[{"index":1,"delta":{"content":"Other"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":" two\u00fc"}}]}"#,
            r#"{"id":"c","choices":[{"index":1,"delta":{"content":" more"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":" three"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{}"}}]}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":" late"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"},{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
        ];
        assert_eq!(decoded(&chunks, ""), decoded(&chunks, r#""beside":1,"#));
    }

    #[test]
    fn whatever_says_more_is_left_to_others() {
        for data in [
            "[DONE]",
            "",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"index":0,"delta":{}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":""}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":null}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":["x"]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x","content":"y"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"delta":{"content":"y"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"choices":[]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"choices":[{"index":0,"delta":{"content":"y"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}},{"index":1,"delta":{"content":"y"}}]}"#,
            r#"{"choices":[{"index":0.0,"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"index":-1,"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x","reasoning":"y"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x","cont\u0065nt":"y"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"error":{"message":"m"}}"#,
            r#"{"object":"error","choices":[{"index":0,"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"index":0,"text":"x"}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}]"#,
            r#"{"choices":[{"index":0,"delta":{"content":"\ud800"}}]}"#,
        ] {
            assert_eq!(read(data), None, "{data}");
        }
        let data = r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
        for frame in [format!("event: error\ndata: {data}\n\n"), format!("data: {data}\nevent: error\n\n")] {
            assert_eq!(text_of(&Frame(frame.as_bytes()), data.as_bytes()), None, "{frame}");
        }
    }
}
