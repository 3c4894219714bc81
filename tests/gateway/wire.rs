//! A client of bytes: HTTP/1.1 by hand, so that requests can be half sent, slow or wrong, and answers left unread.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest silence of the other side.
const SILENCE: Duration = Duration::from_secs(20);

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The gateway's id of the exchange.
    pub fn id(&self) -> &str {
        self.header("x-portcullis-id").expect("x-portcullis-id")
    }

    pub fn attempts(&self) -> u32 {
        self.header("x-portcullis-attempts").and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub whole: bool,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// What lies under a connection.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection, and what was read ahead on it.
pub struct Conn {
    io: Box<dyn Io>,
    ahead: Vec<u8>,
    /// How the body under way is framed.
    body: Body,
}

#[derive(Debug, Clone, Copy)]
enum Body {
    None,
    Length(usize),
    Chunked,
    ToEnd,
}

/// A request as bytes, with its content-length.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One request on a connection of its own.
pub async fn call(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut conn = Conn::open(to).await;
    conn.send(&request(method, path, headers, body)).await;
    conn.reply().await
}

impl Conn {
    pub async fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        Conn::over(stream)
    }

    pub fn over(io: impl Io + 'static) -> Self {
        Conn { io: Box::new(io), ahead: Vec::new(), body: Body::None }
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the other side takes it");
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(SILENCE, async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads more; false at the end, also at a broken one.
    async fn more(&mut self) -> bool {
        let read = timeout(SILENCE, self.io.read_buf(&mut self.ahead)).await;
        matches!(read.expect("the other side says something within 20 s"), Ok(n) if n > 0)
    }

    /// The head of the next answer; None when the connection ends instead.
    pub async fn try_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                return None;
            }
        };
        let text = String::from_utf8(self.ahead.drain(..end + 4).collect()).expect("an ASCII head");
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let head = Head { status: status.expect("a status"), headers: headers.collect() };
        self.body = match (head.header("transfer-encoding"), head.header("content-length")) {
            _ if head.status < 200 => Body::None,
            (Some("chunked"), _) => Body::Chunked,
            (_, Some(length)) => Body::Length(length.parse().expect("a length")),
            _ => Body::ToEnd,
        };
        Some(head)
    }

    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("an answer")
    }

    /// The next piece of the body: `Ok(None)` at its good end, an error when it breaks off.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, ()> {
        match self.body {
            Body::None | Body::Length(0) => Ok(None),
            Body::Length(left) => {
                if self.ahead.is_empty() && !self.more().await {
                    return Err(());
                }
                let take = left.min(self.ahead.len());
                self.body = Body::Length(left - take);
                Ok(Some(self.ahead.drain(..take).collect()))
            }
            Body::ToEnd => {
                if self.ahead.is_empty() && !self.more().await {
                    self.body = Body::None;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.ahead)))
            }
            Body::Chunked => self.chunk().await,
        }
    }

    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let line = loop {
            if let Some(at) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                break at;
            }
            if !self.more().await {
                return Err(());
            }
        };
        let size = std::str::from_utf8(&self.ahead[..line]).expect("a chunk size");
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        while self.ahead.len() < line + 2 + size + 2 {
            if !self.more().await {
                return Err(());
            }
        }
        let chunk = self.ahead[line + 2..line + 2 + size].to_vec();
        self.ahead.drain(..line + 2 + size + 2);
        if size == 0 {
            self.body = Body::None;
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    /// Reads the body until it holds `mark`.
    pub async fn until(&mut self, mark: &str) -> Vec<u8> {
        let mut body = Vec::new();
        while !String::from_utf8_lossy(&body).contains(mark) {
            match self.piece().await {
                Ok(Some(piece)) => body.extend(piece),
                end => panic!("the body ended ({end:?}) before `{mark}`: {}", String::from_utf8_lossy(&body)),
            }
        }
        body
    }

    /// The rest of the body, and whether it ended well.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => return (body, true),
                Err(()) => return (body, false),
            }
        }
    }

    /// The next answer, whole.
    pub async fn reply(&mut self) -> Reply {
        let head = self.head().await;
        let (body, whole) = self.rest().await;
        Reply { head, body, whole }
    }

    /// Whether the other side closes the connection without another byte.
    pub async fn closed(&mut self) -> bool {
        !self.more().await && self.ahead.is_empty()
    }
}
