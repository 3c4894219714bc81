//! HTTP/1.1 by hand, the server's side: a whole library would not let a frame be cut in its middle.
//!
//! Reads one request at a time and writes bytes as given; knows nothing of what they mean. While nothing is to be
//! written it watches whether the client is still there.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest request line with headers.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// Longest request body.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// What a client may send ahead while an answer is under way; beyond that it is left in the socket.
const MAX_AHEAD_BYTES: usize = 64 << 10;

/// Longest silence within a request, and between two of one connection.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Longest time that a client may read nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// One request, as received.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// The path, percent-decoded.
    pub path: String,
    pub query: Vec<(String, String)>,
    /// In the order and casing they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub keep_alive: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A copy without the body.
    pub fn head_only(&self) -> Request {
        Request {
            method: self.method.clone(),
            target: self.target.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: Vec::new(),
            keep_alive: self.keep_alive,
        }
    }
}

/// Why no request came.
#[derive(Debug)]
pub enum NoRequest {
    /// The client closed the connection, or fell silent.
    Gone,
    /// What came is refused with this status.
    Bad(u16, &'static str),
}

/// The client closed the connection or cannot be written to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// A connection and what was read ahead on it.
#[derive(Debug)]
pub struct Wire<'a, I> {
    io: &'a mut I,
    ahead: BytesMut,
    /// Bytes written since [`Wire::request`].
    pub sent: u64,
}

impl<'a, I: AsyncRead + AsyncWrite + Unpin> Wire<'a, I> {
    pub fn new(io: &'a mut I) -> Self {
        Wire { io, ahead: BytesMut::new(), sent: 0 }
    }

    /// The next request with its whole body.
    ///
    /// # Errors
    /// [`NoRequest`] says why there is none; the connection is of no more use then.
    pub async fn request(&mut self) -> Result<Request, NoRequest> {
        self.sent = 0;
        let end = loop {
            // Empty lines before a request are tolerated, as RFC 9112 asks.
            while matches!(self.ahead.first(), Some(b'\r' | b'\n')) {
                self.ahead.advance(1);
            }
            if let Some(end) = memchr::memmem::find(&self.ahead, b"\r\n\r\n") {
                break end;
            }
            if self.ahead.len() > MAX_HEAD_BYTES {
                return Err(NoRequest::Bad(431, "Request Header Fields Too Large"));
            }
            self.more().await?;
        };
        let head = self.ahead.split_to(end + 4);
        let mut request = parse_head(&head[..end]).ok_or(NoRequest::Bad(400, "Bad Request"))?;
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|Gone| NoRequest::Gone)?;
        }
        request.body = self.body(&request).await?;
        self.sent = 0;
        Ok(request)
    }

    async fn body(&mut self, request: &Request) -> Result<Vec<u8>, NoRequest> {
        let chunked = request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        if chunked {
            return self.chunked_body().await;
        }
        let length = match request.header("content-length") {
            Some(text) => text.trim().parse::<usize>().map_err(|_| NoRequest::Bad(400, "Bad Request"))?,
            None => 0,
        };
        if length > MAX_BODY_BYTES {
            return Err(NoRequest::Bad(413, "Content Too Large"));
        }
        self.take(length).await
    }

    async fn chunked_body(&mut self) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| NoRequest::Bad(400, "Bad Request"))?;
            if size == 0 {
                // Trailers end with an empty line.
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            if size > MAX_BODY_BYTES - body.len() {
                return Err(NoRequest::Bad(413, "Content Too Large"));
            }
            body.extend(self.take(size).await?);
            self.line().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, NoRequest> {
        while self.ahead.len() < length {
            self.more().await?;
        }
        Ok(self.ahead.split_to(length).to_vec())
    }

    async fn line(&mut self) -> Result<String, NoRequest> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.ahead) {
                let line = self.ahead.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.ahead.len() > MAX_HEAD_BYTES {
                return Err(NoRequest::Bad(400, "Bad Request"));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), NoRequest> {
        match tokio::time::timeout(READ_TIMEOUT, self.io.read_buf(&mut self.ahead)).await {
            Ok(Ok(n)) if n > 0 => Ok(()),
            _ => Err(NoRequest::Gone),
        }
    }

    /// Writes and flushes.
    ///
    /// # Errors
    /// [`Gone`] when the client takes no more, or nothing for too long.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let written = tokio::time::timeout(WRITE_TIMEOUT, async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        });
        match written.await {
            Ok(Ok(())) => self.sent += bytes.len() as u64,
            Ok(Err(_)) | Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// Waits, unless the client leaves first.
    ///
    /// # Errors
    /// [`Gone`] as soon as it has left.
    pub async fn wait(&mut self, time: Duration) -> Result<(), Gone> {
        if time.is_zero() {
            return Ok(());
        }
        let sleep = tokio::time::sleep(time);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return Ok(()),
                read = self.io.read_buf(&mut self.ahead), if self.ahead.len() < MAX_AHEAD_BYTES => match read {
                    Ok(n) if n > 0 => {}
                    _ => return Err(Gone),
                },
            }
        }
    }

    /// Ends the connection in the clean way.
    pub async fn close(&mut self) {
        let _ = self.io.shutdown().await;
    }
}

fn parse_head(head: &[u8]) -> Option<Request> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target, version) = (first.next()?, first.next()?, first.next()?);
    if first.next().is_some() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") || method.is_empty() {
        return None;
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return None;
        }
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    // A proxy-style target carries the authority before the path.
    let local = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        path: decode(path),
        query: query.collect(),
        headers,
        body: Vec::new(),
        keep_alive: false,
    };
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    request.keep_alive =
        if version == "HTTP/1.1" { !connection.contains("close") } else { connection.contains("keep-alive") };
    Some(request)
}

/// The reason phrase of a status that the mock sends.
pub fn reason(status: u16) -> &'static str {
    match status {
        529 => "Overloaded",
        _ => http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Status"),
    }
}

/// Undoes percent-encoding; what is not one stays as it is.
fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| byte == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &'static [u8]) -> Result<Request, NoRequest> {
        let (mut here, mut there) = tokio::io::duplex(64);
        let writer = tokio::spawn(async move {
            for byte in text {
                if there.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            there
        });
        let request = Wire::new(&mut here).request().await;
        drop(here);
        let _ = writer.await;
        request
    }

    #[tokio::test]
    async fn a_request_is_read_at_every_split_with_its_headers_as_they_came() {
        let text = b"\r\nPOST /v1/models/a%3Ab:do?alt=sse&x=%20 HTTP/1.1\r\nX-Odd-Case:  v \r\ncontent-length: 3\r\n\r\nabcREST";
        let request = read(text).await.expect("reads");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/models/a:b:do"));
        assert_eq!((request.query("alt"), request.query("x")), (Some("sse"), Some(" ")));
        assert_eq!(request.headers[0], ("X-Odd-Case".to_owned(), "v".to_owned()));
        assert_eq!(request.body, b"abc");
        assert!(request.keep_alive);
    }

    #[tokio::test]
    async fn a_chunked_body_is_put_together() {
        let text = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nt: 1\r\n\r\n";
        let request = read(text).await.expect("reads");
        assert_eq!(request.body, b"abcde");
        assert!(!request.keep_alive);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        assert!(matches!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, Err(NoRequest::Bad(400, _))));
        let too_big = b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n";
        assert!(matches!(read(too_big).await, Err(NoRequest::Bad(413, _))));
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_wait() {
        let (mut here, there) = tokio::io::duplex(64);
        drop(there);
        assert_eq!(Wire::new(&mut here).wait(Duration::from_secs(60)).await, Err(Gone));
    }
}
