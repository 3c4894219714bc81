//! What a server that has stopped answering costs, by a clock that stands still while anything runs: a busy machine is not
//! to be taken for a wait.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Longest wait for anything that is bound to happen soon.
const SOON: Duration = Duration::from_secs(10);

/// A server that tells the time, so that links find it well, and answers scripts as `script` says; None: never.
fn server(script: impl Fn(&[String]) -> Option<&'static str> + Send + Sync + 'static) -> u16 {
    let script = Arc::new(script);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.expect("a connection");
            let script = script.clone();
            std::thread::spawn(move || answer(connection, &*script));
        }
    });
    port
}

/// Reads commands until the connection ends.
fn answer(connection: TcpStream, script: &dyn Fn(&[String]) -> Option<&'static str>) -> Option<()> {
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
            "EVALSHA" | "EVAL" | "SCRIPT" => writer.write_all(script(&words).unwrap_or_default().as_bytes()).ok()?,
            "XRANGE" => writer.write_all(b"*0\r\n").ok()?,
            _ => writer.write_all(b"+OK\r\n").ok()?,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_budget_for_a_server_that_has_stopped_answering() {
    let link = Link::start("tests", &format!("redis://127.0.0.1:{}/0", server(|_| None)), BUDGET, "t").expect("a link");
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

#[tokio::test]
async fn what_the_server_has_heard_too_late_is_stated_again() {
    let stated = Arc::new(AtomicUsize::new(0));
    let count = stated.clone();
    let port = server(move |words| {
        count.fetch_add(usize::from(words.iter().any(|word| word == "PUT")), Ordering::Relaxed);
        Some("*1\r\n$4\r\nlate\r\n")
    });
    let link = Link::start("tests", &format!("redis://127.0.0.1:{port}/0"), BUDGET * 50, "t").expect("a link");
    let limits = Arc::new(Limits::new());
    assert!(link.ready(SOON).await, "the link does not open");
    Shared::start(&limits, link, Policy::Local);
    let shared = limits.shared().expect("shares").clone();
    let rules = [requests("r", 10)];
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let now = limits.time(unix_ms());
    let charges = limits.charges(&rules, &facts("a", &headers, &metadata), now);
    let held = shared.reserve(&limits, &charges, &Estimate::exact(ONE), now).await;
    assert!(held.expect("within this process's part").away);
    let again = async {
        while stated.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, again).await.is_ok(), "it takes for stated what was not");
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
