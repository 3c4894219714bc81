//! An upstream that keeps the very bytes it was sent and answers with the very bytes a test gives it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Number of the request on its connection, from 0.
    pub number: usize,
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

/// What is done with a request.
pub enum Act {
    /// These bytes are written; the connection stays.
    Answer(Vec<u8>),
    /// The same after so long.
    AnswerAfter(Duration, Vec<u8>),
    /// These bytes are written, and the connection is closed.
    AnswerAndClose(Vec<u8>),
    /// The connection is closed without a byte.
    Close,
    /// The connection is closed without the request being read, which resets it.
    Reset,
}

pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Does with each request what `act` says. A reset is asked for before the request is read: its body is empty.
    pub async fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (act, kept) = (Arc::new(act), seen.clone());
        let task = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, connection, act.clone(), kept.clone()));
                connection += 1;
            }
        });
        Upstream { address, seen, task }
    }

    /// Answers every request with the same body.
    pub async fn saying(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Upstream::start(move |_| Act::Answer(answer(kind, &body))).await
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer with status 200.
pub fn answer(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    act: Arc<dyn Fn(&Seen) -> Act + Send + Sync>,
    kept: Arc<Mutex<Vec<Seen>>>,
) {
    let mut number = 0;
    loop {
        let mut request = Seen { connection, number, head: String::new(), body: Vec::new() };
        if stream.readable().await.is_err() {
            return;
        }
        let mut first = [0; 1];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return;
        }
        if matches!(act(&request), Act::Reset) {
            kept.lock().expect("no panic").push(request);
            return;
        }
        if read(&mut stream, &mut request).await.is_none() {
            return;
        }
        let act = act(&request);
        kept.lock().expect("no panic").push(request);
        match act {
            Act::AnswerAfter(wait, bytes) => {
                sleep(wait).await;
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
                number += 1;
            }
            Act::Answer(bytes) if stream.write_all(&bytes).await.is_ok() => number += 1,
            Act::AnswerAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            _ => return,
        }
    }
}

async fn read(stream: &mut TcpStream, request: &mut Seen) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
    };
    request.head = String::from_utf8(bytes.drain(..end).collect()).ok()?;
    let length = request.head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while bytes.len() < length.unwrap_or(0) {
        stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
    }
    request.body = bytes;
    Some(())
}
