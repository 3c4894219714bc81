//! Mock upstream that costs next to nothing: HTTP/1.1 by hand, no JSON parser, canned answers.
//!
//! `POST …/chat/completions`, `…/messages`, `…/v2/chat` (Cohere) and `…/api/chat` (Ollama), whole or as a stream; `GET
//! /health` says how many asks there were. Listens at `MOCK_LISTEN`
//! (127.0.0.1:9100). The model says how to behave, in parts split at `-`: `cN` chunks (64), `dN` ms between chunks, `tN`
//! ms before the answer, `sN` KB of text in a whole answer: `mock-c64-d10-t50`. Each chunk's text carries
//! `t=<CLOCK_MONOTONIC ns>`, so that a reader on the same machine can tell how long it was under way.

mod answer;
mod ask;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use ask::{Ask, Form};

fn main() -> io::Result<()> {
    let address = std::env::var("MOCK_LISTEN").unwrap_or_else(|_| "127.0.0.1:9100".into());
    let address: SocketAddr = address.parse().expect("MOCK_LISTEN is IP:PORT");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let asks = Rc::new(Cell::new(0));
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from_std(socket.into())?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let asks = asks.clone();
            tokio::task::spawn_local(async move {
                // A client that breaks off is the gateway's affair.
                let _ = connection(stream, &asks).await;
            });
        }
    })
}

async fn connection(mut stream: TcpStream, asks: &Cell<u64>) -> io::Result<()> {
    let mut buf: Vec<u8> = Vec::with_capacity(16 << 10);
    let mut out: Vec<u8> = Vec::with_capacity(4096);
    loop {
        let (ask, used) = loop {
            if let Some(whole) = ask::read(&buf)? {
                break whole;
            }
            if stream.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        };
        buf.drain(..used);
        if ask.form != Form::Health {
            asks.set(asks.get() + 1);
        }
        pause(ask.first_ms).await;
        out.clear();
        if ask.stream {
            play(&mut stream, &ask, &mut out).await?;
        } else {
            answer::whole(&ask, asks.get(), &mut out);
            stream.write_all(&out).await?;
        }
        if ask.close {
            return Ok(());
        }
    }
}

async fn play(stream: &mut TcpStream, ask: &Ask, out: &mut Vec<u8>) -> io::Result<()> {
    answer::stream_head(ask, out);
    let mut event = String::with_capacity(1024);
    answer::open(ask, &mut event);
    for number in 0..ask.chunks {
        if number > 0 {
            pause(ask.every_ms).await;
        }
        answer::chunk(ask, number, &mut event);
        answer::frame(&event, out);
        stream.write_all(out).await?;
        out.clear();
        event.clear();
    }
    answer::close(ask, &mut event);
    answer::frame(&event, out);
    out.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(out).await
}

async fn pause(millis: u64) {
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}
