//! Chunks that say little, which nearly all of a stream are: read in one pass, without a tree.
//!
//! Mostly they add a text; others tell a role, a finish reason or the usage and nothing else. Whatever says more, or says
//! it oddly, is left to the decoder that reads everything.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::Frame;
use crate::dialect::told::Told;
use crate::json::scan::{self, Malformed, Scan};

/// What a frame has around its data at most: `data: ` and an empty line.
const AROUND: usize = b"data: \r\n\r\n".len();

/// Such a chunk.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plain<'a> {
    /// 0 also where the chunk has no choice.
    pub choice: u32,
    /// The text that it adds; never empty.
    pub text: Option<Cow<'a, str>>,
    /// The finish reason that it gives.
    pub finish: Option<Cow<'a, str>>,
    /// The stop sequence that it stopped at.
    pub sequence: Option<Cow<'a, str>>,
    role: bool,
    /// It has usage, and no choice.
    usage: bool,
    /// It has fields that the gateway does not know.
    foreign: bool,
    /// Where these stand in the frame, without their quotes.
    at: Range<usize>,
    finish_at: Range<usize>,
    sequence_at: Range<usize>,
}

/// Reads such a chunk. `data` is the frame's.
pub(super) fn read<'a>(frame: &Frame<'a>, data: &[u8]) -> Option<Plain<'a>> {
    // A frame with a name of its own, or in several lines, may mean something else.
    let line = frame.0.strip_prefix(b"data:")?;
    if frame.0.len() > data.len() + AROUND {
        return None;
    }
    let skipped = frame.0.len() - line.trim_ascii_start().len();
    let (mut plain, mut choices) = (Plain::default(), None);
    let read = scan::object(data, |scan, key| match &data[key.clone()] {
        b"id" | b"created" | b"model" | b"service_tier" | b"system_fingerprint" | b"obfuscation" => {
            scan.skip().map(drop)
        }
        b"object" => word(scan, data, b"\"chat.completion.chunk\""),
        b"choices" if choices.is_none() => {
            choices = Some(0);
            scan.array(|scan| {
                let first = choices.replace(1) == Some(0) && scan.at_object();
                if first { choice_of(scan, data, &mut plain) } else { Err(Malformed) }
            })
        }
        b"choices" => Err(Malformed),
        b"usage" => {
            plain.usage = data[scan.skip()?] != *b"null";
            Ok(())
        }
        b"error" | b"x_groq" => word(scan, data, b"null"),
        _ => foreign(scan, data, key, &mut plain),
    });
    read.ok()?;
    // Usage beside a choice is another matter.
    if plain.usage && choices == Some(1) {
        return None;
    }
    let Plain { at, text, finish_at, finish, sequence_at, sequence, .. } = &mut plain;
    for (at, found) in [(at, text), (finish_at, finish), (sequence_at, sequence)] {
        if at.start < at.end {
            *at = at.start + skipped..at.end + skipped;
            *found = Some(inside(frame.0, at.clone())?);
        }
    }
    Some(plain)
}

fn choice_of(scan: &mut Scan<'_>, data: &[u8], plain: &mut Plain<'_>) -> Result<(), Malformed> {
    let mut spoke = false;
    scan.object(|scan, key| match &data[key.clone()] {
        b"index" => {
            plain.choice = number(data, scan.skip()?)?;
            Ok(())
        }
        b"delta" if !spoke && scan.at_object() => {
            spoke = true;
            delta_of(scan, data, plain)
        }
        b"delta" => Err(Malformed),
        b"finish_reason" => {
            let at = scan.skip()?;
            plain.finish_at = match &data[at.clone()] {
                [b'"', .., b'"'] => at.start + 1..at.end - 1,
                b"null" => 0..0,
                _ => return Err(Malformed),
            };
            Ok(())
        }
        b"stop_reason" | b"matched_stop" => {
            let at = scan.skip()?;
            plain.foreign |= data[at.clone()] != *b"null";
            if let [b'"', .., b'"'] = data[at.clone()] {
                plain.sequence_at = at.start + 1..at.end - 1;
            }
            Ok(())
        }
        b"logprobs" | b"usage" | b"error" => word(scan, data, b"null"),
        _ => foreign(scan, data, key, plain),
    })?;
    // Without a delta other fields count.
    if spoke { Ok(()) } else { Err(Malformed) }
}

fn delta_of(scan: &mut Scan<'_>, data: &[u8], plain: &mut Plain<'_>) -> Result<(), Malformed> {
    let mut spoke = false;
    scan.object(|scan, key| {
        let at = scan.skip()?;
        match (&data[key.clone()], &data[at.clone()]) {
            (b"role", _) => plain.role = true,
            (b"content", [b'"', .., b'"']) if !spoke => {
                spoke = true;
                plain.at = at.start + 1..at.end - 1;
            }
            (b"content", b"null") if !spoke => {}
            (b"content", _) => return Err(Malformed),
            // What says nothing, whatever it is.
            (name, b"null" | b"\"\"" | b"[]") if !name.contains(&b'\\') => {}
            _ => return Err(Malformed),
        }
        Ok(())
    })
}

/// Moves past a field that the gateway does not know. With an escape in its name it may be one that it does.
fn foreign(scan: &mut Scan<'_>, data: &[u8], key: Range<usize>, plain: &mut Plain<'_>) -> Result<(), Malformed> {
    plain.foreign |= data[scan.skip()?] != *b"null";
    if data[key].contains(&b'\\') { Err(Malformed) } else { Ok(()) }
}

/// The text between these quotes.
fn inside(frame: &[u8], at: Range<usize>) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(&frame[at.clone()]).ok()?;
    if scan::is_plain(text) {
        return Some(Cow::Borrowed(text));
    }
    // Fails also where one of the quotes is no end of a string.
    serde_json::from_slice(&frame[at.start - 1..at.end + 1]).ok().map(Cow::Owned)
}

fn number(data: &[u8], at: Range<usize>) -> Result<u32, Malformed> {
    std::str::from_utf8(&data[at]).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

/// Moves past a value that must be this one.
fn word(scan: &mut Scan<'_>, data: &[u8], word: &[u8]) -> Result<(), Malformed> {
    if data[scan.skip()?] == *word { Ok(()) } else { Err(Malformed) }
}

impl Plain<'_> {
    /// Whether it has fields that the gateway does not know.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// How much of it its events tell.
    pub fn told(&self) -> Told {
        let foreign = self.foreign;
        match (self.finish.is_some(), &self.text) {
            (true, Some(_)) => Told::Partly,
            (true, None) => Told::Ending { foreign, usage: false, last: false },
            (false, _) if self.usage => Told::Ending { foreign, usage: true, last: false },
            (false, _) => Told::Wholly { foreign, role: self.role.then_some(self.choice) },
        }
    }
}

/// The frame read last that only adds a text: the next one differs in nothing but the text, as a rule, and need not be
/// read where it does not.
#[derive(Default)]
pub(super) struct Last {
    frame: Vec<u8>,
    at: Range<usize>,
    choice: u32,
    foreign: bool,
}

impl Last {
    pub fn keep(&mut self, frame: &[u8], plain: &Plain<'_>) {
        self.frame.clear();
        // One with a role is the first and the only one.
        if !plain.role {
            self.frame.extend_from_slice(frame);
        }
        (self.at, self.choice, self.foreign) = (plain.at.clone(), plain.choice, plain.foreign);
    }

    /// The chunk in a frame that is the same around its text.
    pub fn again<'a>(&self, frame: &'a [u8]) -> Option<Plain<'a>> {
        if self.frame.is_empty() {
            return None;
        }
        let (before, after) = (&self.frame[..self.at.start], &self.frame[self.at.end..]);
        let text = frame.strip_prefix(before)?.strip_suffix(after)?;
        if text.is_empty() {
            return None;
        }
        let at = before.len()..before.len() + text.len();
        let (choice, foreign) = (self.choice, self.foreign);
        Some(Plain { choice, text: Some(inside(frame, at.clone())?), foreign, at, ..Plain::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::decoder::Decoder;
    use super::*;
    use crate::dialect::Decoder as _;

    /// The choice and the text of a chunk that only adds a text.
    fn text_of(frame: &str, data: &str) -> Option<(u32, String)> {
        let plain = read(&Frame(frame.as_bytes()), data.as_bytes()).filter(|plain| plain.finish.is_none())?;
        assert!(plain.at.is_empty() || inside(frame.as_bytes(), plain.at.clone()) == plain.text);
        Some((plain.choice, plain.text?.into_owned()))
    }

    fn read_text(data: &str) -> Option<(u32, String)> {
        text_of(&format!("data: {data}\n\n"), data)
    }

    fn told(data: &str) -> Option<Told> {
        read(&Frame(format!("data: {data}\n\n").as_bytes()), data.as_bytes()).map(|plain| plain.told())
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
            assert_eq!(read_text(data), Some((found.0, found.1.to_owned())), "{data}");
        }
    }

    #[test]
    fn of_every_chunk_it_is_known_how_much_its_events_tell() {
        let whole = |foreign, role| Some(Told::Wholly { foreign, role });
        let end = |foreign, usage| Some(Told::Ending { foreign, usage, last: false });
        for (data, expected) in [
            (
                r#"{"choices":[{"index":1,"delta":{"role":"assistant","content":"","refusal":null}}]}"#,
                whole(false, Some(1)),
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"x","tool_calls":[],"reasoning":""},"finish_reason":""}]}"#,
                whole(false, None),
            ),
            (r#"{"provider":"p","choices":[{"index":0,"delta":{"content":"x"}}]}"#, whole(true, None)),
            (
                r#"{"choices":[{"delta":{"content":"x"},"content_filter_results":{"hate":{"filtered":false}}}]}"#,
                whole(true, None),
            ),
            (r#"{"choices":[{"text":"x","delta":{"content":"x"}}]}"#, whole(true, None)),
            (r#"{"choices":[{"index":0,"delta":{}}]}"#, whole(false, None)),
            (r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#, end(false, false)),
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop","x":1}]}"#, end(true, false)),
            (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, end(false, true)),
            (r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}"#, Some(Told::Partly)),
            (r#"{"choices":[{"delta":{"content":"x","x":1}}]}"#, None),
            (r#"{"choices":[{"delta":{"content":"x"},"usage":{}}]}"#, None),
            (r#"{"choices":[{"delta":{"content":"x"},"finish_reason":1}]}"#, None),
            (r#"{"choices":[{"message":{"content":"x"}}]}"#, None),
            (r#"{"choices":[{"delta":{}}],"ch\u006fices":[]}"#, None),
            (r#"{"choices":[{"delta":{"content":"x"},"d\u0065lta":{}}]}"#, None),
        ] {
            assert_eq!(told(data), expected, "{data}");
        }
    }

    #[test]
    fn a_frame_that_is_the_same_around_its_text_is_read_as_if_anew() {
        let frame = |text: &str| {
            format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"index\":1,\"delta\":{{\"content\":\"{text}\"}},\"x\":1}}]}}\n\n"
            )
        };
        let first = frame("One");
        let mut last = Last::default();
        assert_eq!(last.again(first.as_bytes()), None);
        last.keep(
            first.as_bytes(),
            &read(&Frame(first.as_bytes()), first[6..].trim_ascii().as_bytes()).expect("plain"),
        );
        for text in ["One", " two", "\u{fc}", "a\\n\\u00fc\\\"", "\\\\"] {
            let frame = frame(text);
            let anew = read(&Frame(frame.as_bytes()), frame[6..].trim_ascii().as_bytes());
            assert!(anew.is_some(), "{frame}");
            assert_eq!(last.again(frame.as_bytes()), anew, "{frame}");
        }
        for text in ["", "a\",\"content\":\"b", "a\\", "a\nb", "\\ud800", "\\x"] {
            assert_eq!(last.again(frame(text).as_bytes()), None, "{text}");
        }
        for other in [first.replace("c\"", "d\""), first.replace("}]", "} ]"), first.replace("\n\n", "\r\n\r\n")] {
            assert_eq!(last.again(other.as_bytes()), None, "{other}");
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
        assert_eq!(decoded(&chunks, ""), decoded(&chunks, r#""x_groq":{},"#));
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
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"error":{"message":"m"}}]}"#,
            r#"{"choices":[{"index":0,"text":"x"}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}]"#,
            r#"{"choices":[{"index":0,"delta":{"content":"\ud800"}}]}"#,
        ] {
            assert_eq!(read_text(data), None, "{data}");
        }
        let data = r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
        for frame in [format!("event: error\ndata: {data}\n\n"), format!("data: {data}\nevent: error\n\n")] {
            assert_eq!(text_of(&frame, data), None, "{frame}");
        }
    }
}
