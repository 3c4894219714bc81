//! One request and its answer, timed.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use memchr::{memchr, memmem};

use crate::link::{Conn, One};
use crate::report::Stats;
use crate::{Shared, proc};

async fn more(conn: &mut One, place: &str) -> io::Result<()> {
    match conn.read().await? {
        0 => Err(odd(&format!("closed in {place}"))),
        _ => Ok(()),
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Makes one request; gives the connection back if it can serve another.
pub async fn one(shared: &Shared, conn: Option<Conn>) -> Option<Conn> {
    let mut conn = match conn {
        Some(conn) => conn,
        None => match shared.way.open().await {
            Ok(conn) => conn,
            Err(error) => {
                shared.stats.borrow_mut().unreached(&error);
                tokio::time::sleep(Duration::from_millis(20)).await;
                return None;
            }
        },
    };
    let mut exchange = Exchange::new(shared);
    let outcome = exchange.go(&mut conn).await;
    exchange.count(&outcome);
    outcome.unwrap_or(false).then_some(conn)
}

struct Exchange<'a> {
    shared: &'a Shared,
    /// Of all requests of the run.
    number: u64,
    began: Instant,
    first: Option<Instant>,
    chunks: u64,
    /// The stream's end was seen.
    done: bool,
    status: u16,
    /// A stream's unread rest, or the start of any other body.
    seen: Vec<u8>,
}

/// How a body ends.
enum Length {
    Known(usize),
    Chunked,
    Close,
}

impl<'a> Exchange<'a> {
    fn new(shared: &'a Shared) -> Self {
        let number = shared.numbered();
        Exchange {
            shared,
            number,
            began: Instant::now(),
            first: None,
            chunks: 0,
            done: false,
            status: 0,
            seen: Vec::new(),
        }
    }

    /// True when the connection can be kept.
    async fn go(&mut self, conn: &mut Conn) -> io::Result<bool> {
        match conn {
            Conn::One(one) => self.alone(one).await,
            Conn::Many(send) => self.multiplexed(send).await.map_err(io::Error::other),
        }
    }

    async fn multiplexed(&mut self, send: &mut SendRequest<Bytes>) -> Result<bool, h2::Error> {
        let request = &self.shared.request;
        *send = send.clone().ready().await?;
        let (answer, mut body) = send.send_request(request.head(), false)?;
        body.send_data(request.body(self.number), true)?;
        let answer = answer.await?;
        self.status = answer.status().as_u16();
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.body(&data);
        }
        Ok(true)
    }

    async fn alone(&mut self, conn: &mut One) -> io::Result<bool> {
        match self.shared.request.varied(self.number) {
            None => conn.send(&self.shared.request.bytes).await?,
            Some(bytes) => conn.send(&bytes).await?,
        }
        let (length, keep) = self.head(conn).await?;
        match length {
            Length::Known(length) => {
                while conn.buf.len() < length {
                    more(conn, "the body").await?;
                }
                self.body(&conn.buf[..length]);
                conn.buf.drain(..length);
                Ok(keep)
            }
            Length::Chunked => self.chunked(conn).await.map(|()| keep),
            Length::Close => loop {
                let all = std::mem::take(&mut conn.buf);
                self.body(&all);
                if conn.read().await? == 0 {
                    return Ok(false);
                }
            },
        }
    }

    async fn head(&mut self, conn: &mut One) -> io::Result<(Length, bool)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 96];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(end) = head.parse(&conn.buf).map_err(|error| odd(&error.to_string()))? {
                self.status = head.code.unwrap_or(0);
                let (mut length, mut keep) = (Length::Close, true);
                for header in head.headers.iter() {
                    let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
                    if header.name.eq_ignore_ascii_case("content-length") {
                        length = Length::Known(value.parse().map_err(|_| odd("content-length"))?);
                    } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                        length = Length::Chunked;
                    } else if header.name.eq_ignore_ascii_case("connection") {
                        keep = !value.eq_ignore_ascii_case("close");
                    }
                }
                conn.buf.drain(..end);
                return Ok((length, keep));
            }
            more(conn, "the head").await?;
        }
    }

    async fn chunked(&mut self, conn: &mut One) -> io::Result<()> {
        loop {
            // As many whole chunks as are at hand.
            let (mut at, mut last) = (0, false);
            while let Some(line_end) = memchr(b'\n', &conn.buf[at..]) {
                let line = std::str::from_utf8(&conn.buf[at..at + line_end]).map_err(|_| odd("chunk size"))?;
                let size = line.trim().split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| odd("chunk size"))?;
                let from = at + line_end + 1;
                if conn.buf.len() < from + size + 2 {
                    break;
                }
                self.body(&conn.buf[from..from + size]);
                at = from + size + 2;
                if size == 0 {
                    last = true;
                    break;
                }
            }
            conn.buf.drain(..at);
            if last {
                return Ok(());
            }
            more(conn, "a chunked body").await?;
        }
    }

    fn body(&mut self, data: &[u8]) {
        if !self.shared.args.sse || self.status != 200 {
            let room = 200usize.saturating_sub(self.seen.len());
            self.seen.extend_from_slice(&data[..data.len().min(room)]);
            return;
        }
        self.seen.extend_from_slice(data);
        let form = self.shared.args.form;
        let mut at = 0;
        while let Some(length) = memmem::find(&self.seen[at..], form.between()) {
            let event = &self.seen[at..at + length];
            at += length + form.between().len();
            if form.ends(event) {
                self.done = true;
            } else if let Some(mark) = memmem::find(event, b"t=") {
                let digits = event[mark + 2..].iter().take_while(|byte| byte.is_ascii_digit());
                let written = digits.fold(0u64, |sum, byte| sum * 10 + u64::from(byte - b'0'));
                let now = Instant::now();
                self.first.get_or_insert(now);
                self.chunks += 1;
                let mut stats = self.shared.stats.borrow_mut();
                if now >= stats.from && now <= stats.until {
                    stats.chunks += 1;
                    let micros = proc::now_ns().saturating_sub(written) / 1000;
                    let _ = stats.chunk.record(micros.max(1));
                }
            }
        }
        self.seen.drain(..at);
    }

    fn count(&self, outcome: &io::Result<bool>) {
        let ended = Instant::now();
        let mut stats = self.shared.stats.borrow_mut();
        let by_number = self.shared.args.requests.is_some();
        if !by_number && (self.began < stats.from || ended > stats.until) {
            return;
        }
        let args = &self.shared.args;
        let micros = |from: Instant| ((ended - from).as_micros() as u64).max(1);
        match outcome {
            Err(error) => {
                if args.sse && self.status == 200 {
                    stats.incomplete += 1;
                } else {
                    stats.errors += 1;
                }
                stats.bad(&error.to_string());
            }
            Ok(_) if !(200..300).contains(&self.status) => {
                stats.refused += 1;
                stats.bad(&format!("{} {}", self.status, String::from_utf8_lossy(&self.seen)));
            }
            Ok(_) if args.sse && (!self.done || args.expect.is_some_and(|expected| expected != self.chunks)) => {
                stats.incomplete += 1;
                stats.bad(&format!("done={} chunks={}", self.done, self.chunks));
            }
            Ok(_) => self.good(&mut stats, micros(self.began)),
        }
    }

    fn good(&self, stats: &mut Stats, micros: u64) {
        stats.ok += 1;
        let _ = stats.latency.record(micros);
        if let Some(first) = self.first {
            let _ = stats.first.record(((first - self.began).as_micros() as u64).max(1));
        }
    }
}
