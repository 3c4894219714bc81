//! Heads of HTTP/1.1: a request's as bytes, an answer's from bytes.
//!
//! Pure. Refuses what two readers could frame in two ways.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httparse::{ParserConfig, Status};

use super::framing::{Framing, Malformed};
use crate::cost::decimal::digits;
use crate::upstream::Outbound;
use crate::upstream::connect::Hop;

/// Longest head of an answer. Cookies and policies of the big providers' front ends come to a few KB.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// Most headers of an answer.
const MAX_HEADERS: usize = 128;

thread_local! {
    /// Where heads are put together; what goes out is a copy of the right length.
    static DRAFT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1024));
}

/// The head of a request. A proxy wants the whole address in its first line, and may want to know who asks.
pub fn write(request: &Outbound, proxy: Option<&Hop>) -> Bytes {
    DRAFT.with_borrow_mut(|draft| {
        draft.clear();
        fill(draft, request, proxy);
        Bytes::copy_from_slice(draft)
    })
}

fn fill(head: &mut Vec<u8>, request: &Outbound, proxy: Option<&Hop>) {
    let Outbound { method, uri, headers, body, .. } = request;
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| head.extend_from_slice(part));
    put(&[method.as_str().as_bytes(), b" "]);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // What stands before an `@` is a credential and no part of the host.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if proxy.is_some() {
        put(&[uri.scheme_str().unwrap_or("http").as_bytes(), b"://", host.as_bytes()]);
    }
    put(&[uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes(), b" HTTP/1.1\r\n"]);
    if !headers.contains_key(HOST) {
        put(&[b"host: ", host.strip_suffix(":80").unwrap_or(host).as_bytes(), b"\r\n"]);
    }
    if let Some(auth) = proxy.and_then(|proxy| proxy.auth.as_ref()) {
        put(&[b"proxy-authorization: ", auth.as_bytes(), b"\r\n"]);
    }
    put(&[headers.lines()]);
    let length = body.len();
    if length > 0 || *method == Method::POST {
        put(&[b"content-length: "]);
        digits(head, length);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection can serve another request once the body has been read.
    pub keep: bool,
}

/// Reads a head, if it is whole: the head and its length. An answer to a HEAD ends with it. Notices that others follow (1xx) are passed over.
///
/// # Errors
/// [`Malformed`] when the bytes are no HTTP/1.1 answer, or one that could be framed in two ways.
pub fn read(bytes: &[u8], of_head: bool) -> Result<Option<(Head, usize)>, Malformed> {
    let mut from = 0;
    loop {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = ParserConfig::default();
        let outcome = config.parse_response_with_uninit_headers(&mut parsed, &bytes[from..], &mut room);
        let length = match outcome {
            Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
            Ok(Status::Complete(_)) => return Err(Malformed("the head is too long")),
            Ok(Status::Partial) if bytes.len() > MAX_HEAD_BYTES => return Err(Malformed("the head is too long")),
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed("the head has too many headers")),
            Err(_) => return Err(Malformed("the head is not HTTP/1.1")),
        };
        match parsed.code {
            Some(101) => return Err(Malformed("the provider wants another protocol")),
            Some(100..200) => from += length,
            _ => {
                let head = made(&parsed, &bytes[from..from + length], of_head)?;
                return Ok(Some((head, from + length)));
            }
        }
    }
}

fn made(parsed: &httparse::Response<'_, '_>, text: &[u8], of_head: bool) -> Result<Head, Malformed> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("the status is no number"))?;
    // One copy for all values, which are slices of it.
    let text_start = text.as_ptr() as usize;
    let shared = Bytes::copy_from_slice(text);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed("a header's name is odd"))?;
        let at = header.value.as_ptr() as usize - text_start;
        let value = HeaderValue::from_maybe_shared(shared.slice(at..at + header.value.len()));
        headers.append(name, value.map_err(|_| Malformed("a header's value is odd"))?);
    }
    let asks_for = |word: &str| {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let lasting = if parsed.version == Some(1) { !asks_for("close") } else { asks_for("keep-alive") };
    let framing = if of_head { Framing::Length(0) } else { framing(status, &headers)? };
    // Two statements of length: the chunks count, but nothing after them is trusted.
    let twice = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    let keep = lasting && !twice && !matches!(framing, Framing::Close);
    Ok(Head { status, headers, framing, keep })
}

fn framing(status: StatusCode, headers: &HeaderMap) -> Result<Framing, Malformed> {
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        let coding = last.to_str().unwrap_or_default().rsplit(',').next().unwrap_or_default();
        return Ok(match coding.trim().eq_ignore_ascii_case("chunked") {
            true => Framing::Chunks(Default::default()),
            false => Framing::Close,
        });
    }
    let mut stated = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for part in value.to_str().unwrap_or("-").split(',').map(str::trim) {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let length: u64 = part.parse().ok().filter(|_| digits).ok_or(Malformed("the length is no number"))?;
            if stated.is_some_and(|stated| stated != length) {
                return Err(Malformed("two lengths are stated"));
            }
            stated = Some(length);
        }
    }
    Ok(stated.map_or(Framing::Close, Framing::Length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Outgoing;
    use crate::upstream::Headers;

    fn whole(text: &str) -> Head {
        let (head, length) = read(text.as_bytes(), false).expect("is sound").expect("is whole");
        assert_eq!(length, text.len());
        head
    }

    #[test]
    fn a_request_is_written_with_host_and_length() {
        let mut request = Outbound {
            method: Method::POST,
            uri: "http://user@host:80/v1/x?y=1".parse().expect("a URI"),
            headers: Headers::default(),
            body: Outgoing::from(b"{}".to_vec()),
            target: None,
        };
        request.headers.edit().insert("accept", HeaderValue::from_static("*/*"));
        let head = write(&request, None);
        assert_eq!(head, "POST /v1/x?y=1 HTTP/1.1\r\nhost: host\r\naccept: */*\r\ncontent-length: 2\r\n\r\n");
        request.body = Outgoing::default();
        request.headers.edit().insert("host", HeaderValue::from_static("other"));
        let head = write(&request, Some(&Hop { auth: None }));
        let expected =
            "POST http://host:80/v1/x?y=1 HTTP/1.1\r\naccept: */*\r\nhost: other\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(head, expected);
        let known = Hop { auth: Some(HeaderValue::from_static("Basic dTpw")) };
        let head = String::from_utf8_lossy(&write(&request, Some(&known))).into_owned();
        assert!(head.contains("\r\nproxy-authorization: Basic dTpw\r\n"), "{head}");
        request.method = Method::GET;
        assert!(!String::from_utf8_lossy(&write(&request, None)).contains("content-length"));
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length: 7\r\n\r\n";
        for end in 0..text.len() {
            assert!(read(&text.as_bytes()[..end], false).expect("is sound").is_none(), "{end}");
        }
        let head = whole(text);
        assert_eq!(head.headers["content-type"], "a/b");
        assert!(head.keep && head.framing.left() == Some(7));
    }

    #[test]
    fn an_answer_to_a_head_ends_with_it() {
        for length in ["content-length: 7", "transfer-encoding: chunked", "x: y"] {
            let text = format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n");
            let (head, _) = read(text.as_bytes(), true).expect("is sound").expect("is whole");
            assert_eq!((head.framing.left(), head.keep), (Some(0), true), "{length}");
        }
    }

    #[test]
    fn notices_before_the_answer_are_passed_over() {
        let head = whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
        assert_eq!((head.status.as_u16(), head.framing.left()), (204, Some(0)));
        assert!(read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", false).expect("is sound").is_none());
    }

    #[test]
    fn a_connection_is_kept_when_both_sides_can_tell_where_the_answer_ends() {
        for (text, keep) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: Foo, Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(whole(text).keep, keep, "{text}");
        }
    }

    #[test]
    fn what_could_be_framed_in_two_ways_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length : 1\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(read(text.as_bytes(), false).is_err(), "{text}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES));
        assert!(read(long.as_bytes(), false).is_err());
        assert!(read(format!("{long}\r\n\r\n").as_bytes(), false).is_err());
    }
}
