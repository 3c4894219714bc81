//! What a server that has stopped answering costs, by a clock that stands still while anything runs: a busy machine is not
//! to be taken for a wait.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::super::tests::{ONE, facts, requests};
use super::super::{Estimate, Limits};
use super::{Policy, Shared};
use crate::state::redis::Link;
use crate::state::unix_ms;

const BUDGET: Duration = Duration::from_millis(20);

/// Most that an exchange waits: timers are a millisecond coarse, and four are for what is done before and after.
const MOST: Duration = Duration::from_millis(25);

/// A server that tells the time, so that links find it well, and never answers a script.
fn mute() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.expect("a connection");
            std::thread::spawn(move || answer(connection));
        }
    });
    port
}

/// Reads commands until the connection ends.
fn answer(connection: TcpStream) -> Option<()> {
    let mut writer = connection.try_clone().ok()?;
    let mut reader = BufReader::new(connection);
    let number = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.get(1..)?.trim().parse::<usize>().ok()
    };
    loop {
        let count = number(&mut reader)?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut word = vec![0; number(&mut reader)? + 2];
            reader.read_exact(&mut word).ok()?;
            words.push(String::from_utf8_lossy(&word).trim().to_ascii_uppercase());
        }
        let now = unix_ms();
        match words.first()?.as_str() {
            "TIME" => {
                let (seconds, micros) = ((now / 1000).to_string(), (now % 1000 * 1000).to_string());
                let text = format!("*2\r\n${}\r\n{seconds}\r\n${}\r\n{micros}\r\n", seconds.len(), micros.len());
                writer.write_all(text.as_bytes()).ok()?;
            }
            "EVALSHA" | "EVAL" | "SCRIPT" => {}
            _ => writer.write_all(b"+OK\r\n").ok()?,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_budget_for_a_server_that_has_stopped_answering() {
    let link = Link::start("tests", &format!("redis://127.0.0.1:{}/0", mute()), BUDGET, "t").expect("a link");
    let limits = Arc::new(Limits::new());
    Shared::start(&limits, link.clone(), Policy::Local);
    let shared = limits.shared().expect("shares").clone();
    let rules = [requests("r", 1_000_000)];
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let facts = facts("a", &headers, &metadata);
    let mut slow = 0;
    for _ in 0..5 {
        // The link's own thread lives by a real clock: its pings are answered, so it opens each time anew.
        let deadline = unix_ms() + 30_000;
        while !link.is_up() {
            assert!(unix_ms() < deadline, "the link does not open");
            std::thread::yield_now();
        }
        let waits = (0..64).map(|_| async {
            let (began, now) = (Instant::now(), limits.time(unix_ms()));
            let charges = limits.charges(&rules, &facts, now);
            let held = shared.reserve(&limits, &charges, &Estimate::exact(ONE), now).await;
            assert!(held.expect("within this process's part").away);
            began.elapsed()
        });
        for waited in all_at_once(waits).await {
            assert!(waited <= MOST, "somebody waited for {waited:?}");
            slow += u32::from(waited >= BUDGET);
        }
    }
    assert!(slow > 0, "nobody has asked the server at all");
}

/// All at once.
async fn all_at_once<T>(all: impl Iterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        for (one, done) in &mut all {
            if done.is_none()
                && let std::task::Poll::Ready(value) = one.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if all.iter().all(|(_, done)| done.is_some()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}
