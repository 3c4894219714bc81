//! The scan beside the parser that reads behind it, and what it notices.

use fearless_simd::Level;

use super::search::BLOCK;
use super::*;

fn members(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    object(text.as_bytes(), |scan, key| {
        found.push((&text[key], &text[scan.skip()?]));
        Ok(())
    })
    .ok()?;
    Some(found)
}

fn is_object(text: &[u8]) -> bool {
    object(text, |scan, _| scan.skip().map(drop)).is_ok()
}

#[test]
fn members_are_found_where_they_stand() {
    let text =
        " {\"a\" :\t1.50e+2 ,\r\n\"\u{fc}\\\"b\":{\"c\":[ ]}, \"\":[[],{\"d\":\"]}\"},null], \"e\":\"\\u00fc\"}\n";
    let expected =
        [("a", "1.50e+2"), ("\u{fc}\\\"b", "{\"c\":[ ]}"), ("", "[[],{\"d\":\"]}\"},null]"), ("e", "\"\\u00fc\"")];
    assert_eq!(members(text).as_deref(), Some(&expected[..]));
    assert_eq!(members("{}").as_deref(), Some(&[][..]));
}

#[test]
fn values_are_read_in_passing_and_others_passed_over() {
    let text = br#"{"a":"x\u00fc","a":[{"b":"1"},{"b":2.9},"c",{"b":[7]},{"b":-1},{"b":12}],"a":"", "a":{"b":1}}"#;
    let (mut texts, mut counts) = (Vec::new(), Vec::new());
    object(text, |scan, _| {
        if scan.peek() == Some(b'[') {
            return scan.array(|scan| {
                scan.object(|scan, _| {
                    counts.push(scan.count()?);
                    Ok(())
                })
            });
        }
        texts.push(scan.text()?);
        Ok(())
    })
    .expect("an object");
    assert_eq!(texts, [Some("x\u{fc}".to_owned()), None, None]);
    assert_eq!(counts, [None, Some(2), None, None, Some(12)]);
}

/// Every short text over the characters that matter is judged as the parser behind it judges.
#[test]
fn the_judgement_is_serde_jsons_for_every_short_text() {
    const LETTERS: &[u8] = b"{}[]\":,\\0-.e1tu \n";
    let mut text = [0; 5];
    for number in 0..LETTERS.len().pow(5) {
        let mut rest = number;
        for letter in &mut text {
            *letter = LETTERS[rest % LETTERS.len()];
            rest /= LETTERS.len();
        }
        let whole = [b"{\"a\":", &text[..], b"}"].concat();
        let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&whole).is_ok();
        assert_eq!(is_object(&whole), theirs, "{}", String::from_utf8_lossy(&whole));
    }
}

#[test]
fn strings_are_read_at_every_length_and_offset() {
    for length in 0..80 {
        for special in ["\\\"", "\\\\", "\\u0041", "\\n", "", "\u{1f600}"] {
            let text = format!("{{\"{}{special}{}\":true}}", "x".repeat(length), "y".repeat(80 - length));
            assert_eq!(members(&text).map(|found| found[0].1), Some("true"), "{text}");
        }
        for broken in ["\u{1}", "\n", "\\x", "\\u12", "\\u12g4", "\"", "\\"] {
            let text = format!("{{\"a\":\"{}{broken}", "x".repeat(length));
            assert!(members(&format!("{text}\"}}")).is_none() && members(&text).is_none(), "{text}");
        }
    }
    assert!(!is_object(b"{\"a\":\"\xff\"}"));
}

/// Escapes where one block ends and the next begins are judged as the parser behind it judges.
#[test]
fn the_judgement_is_serde_jsons_across_blocks() {
    const LETTERS: &[u8] = b"\\\"nx\n";
    let before_text = b"{\"a\":\"".len();
    let mut text = [0; 6];
    for number in 0..LETTERS.len().pow(6) {
        let mut rest = number;
        for letter in &mut text {
            *letter = LETTERS[rest % LETTERS.len()];
            rest /= LETTERS.len();
        }
        for before in BLOCK - 6..BLOCK {
            let whole = [b"{\"a\":\"", "x".repeat(before).as_bytes(), &text, b"\"}"].concat();
            let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&whole).is_ok();
            assert_eq!(is_object(&whole), theirs, "{}", String::from_utf8_lossy(&whole));
            // With the narrowest vectors as with the widest.
            let found = |level| far(level, &whole, before_text);
            assert_eq!(found(Level::baseline()), found(*LEVEL), "{}", String::from_utf8_lossy(&whole));
        }
    }
}

#[test]
fn depth_has_an_end() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(members(&nested(128)).is_some());
    assert!(members(&nested(129)).is_none());
}

#[test]
fn sealed_strings_are_noticed_where_they_begin() {
    let sealed = |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop));
    let sealed = |text: &str| sealed(text).map(|noticed| noticed.sealed);
    assert_eq!(sealed(r#"{"a":[{"signature":"portcullis.x.y"}]}"#), Ok(true));
    assert_eq!(sealed(r#"{"a":"portcullis-call.x"}"#), Ok(true));
    assert_eq!(sealed(r#"{"a":"the portcullis.x", "portcullis":1}"#), Ok(false));
}

#[test]
fn fields_of_thoughts_are_noticed_and_told_from_texts_about_them() {
    let noticed = |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop)).expect("an object").thoughts;
    for name in THOUGHTS {
        let field = format!(r#"{{"a":[{{"{name}" : "x"}}]}}"#);
        assert!(noticed(&field) && has_key(field.as_bytes(), name), "{name}");
        let word = format!(r#"{{"a":["{name}"]}}"#);
        assert!(!has_key(word.as_bytes(), name), "{name}");
        let text = format!(r#"{{"a":"it says \"{name}\": 1, {name}"}}"#);
        assert!(!noticed(&text) && !has_key(text.as_bytes(), name), "{name}");
    }
}

#[test]
fn files_are_told_from_texts_about_them() {
    let base64 = "A".repeat(1000);
    let files = |text: &str| object(text.as_bytes(), |scan, _| scan.skip().map(drop)).expect("an object").files;
    let one = Files { count: 1, bytes: 1000 };
    for text in [
        format!(r#"{{"a":[{{"image_url":{{"url":"data:image/png;base64,{base64}"}}}}]}}"#),
        format!(r#"{{"a":[{{"inlineData":{{"mimeType":"image/png","data" : "{base64}"}}}}]}}"#),
        format!(r#"{{"data":"{base64}"}}"#),
        format!(r#"{{"data":"data:image/png;base64,{base64}"}}"#),
    ] {
        assert_eq!(files(&text), one, "{}", &text[..60]);
    }
    for text in [
        r#"{"a":[{"type":"image_url","image_url":{"url":"https://a.b/c.png","detail":"low"}}]}"#,
        r#"{"a":[{"type":"image_url","image_url":{"detail":"low","url":"https://a.b/c.png"}}]}"#,
        r#"{"a":[{"type":"input_image","image_url":"https://a.b/c.png"}]}"#,
        r#"{"a":[{"type":"image","source":{"type":"url","url":"https://a.b/c.png"}}]}"#,
        r#"{"a":[{"type":"image","source":{"type":"file","file_id":"file_1"}}]}"#,
        r#"{"a":[{"fileData":{"mimeType":"video/mp4","fileUri":"gs://a/b.mp4"}}]}"#,
    ] {
        assert_eq!(files(text), Files { count: 1, bytes: 0 }, "{text}");
    }
    for text in [
        format!(r#"{{"a":"it says \"data\":\"{base64}\" and data:image/png;base64,{base64}"}}"#),
        format!(r#"{{"a":"data: {base64}","data":{{"text":"{base64}"}}}}"#),
        r#"{"data":"short"}"#.to_owned(),
        r#"{"a":[{"type":"url_citation","url":"https://a.b"}],"b":{"url":"https://a.b"}}"#.to_owned(),
        r#"{"properties":{"image_url":{"type":"string","description":"https://a.b"},"source":{"type":"string"}}}"#
            .to_owned(),
    ] {
        assert_eq!(files(&text), Files::default(), "{}", &text[..16]);
    }
}
