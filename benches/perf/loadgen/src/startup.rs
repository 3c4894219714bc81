//! Time from starting a process to its first 200.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::args::{Args, Request};
use crate::proc;

/// How often the address is tried.
const EVERY: Duration = Duration::from_millis(2);

pub async fn measure(args: Args) {
    let (address, request) = Request::new(&args);
    let mut command = Command::new(&args.cmd[0]);
    command.args(&args.cmd[1..]).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().expect("the command starts");
    let pid = i32::try_from(child.id()).expect("a process id");
    let mut served = None;
    while served.is_none() && began.elapsed().as_secs_f64() < args.timeout {
        match ask(&address, &request.bytes).await {
            true => served = Some(began.elapsed()),
            false => tokio::time::sleep(EVERY).await,
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle_kb = proc::rss_kb(&[pid]);
    let signal = |signal| {
        // SAFETY: the process group is the child's own and the child has not been waited for.
        unsafe { libc::kill(-pid, signal) };
    };
    signal(libc::SIGTERM);
    for _ in 0..100 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if matches!(child.try_wait(), Ok(None)) {
        signal(libc::SIGKILL);
        let _ = child.wait();
    }
    let millis = served.map_or("null".to_owned(), |took| format!("{:.1}", took.as_secs_f64() * 1000.0));
    println!(r#"{{"startup_ms":{millis},"rss_idle_kb":{idle_kb}}}"#);
}

async fn ask(address: &str, request: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request).await?;
        while answer.len() < 12 && stream.read_buf(&mut answer).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    answer.starts_with(b"HTTP/1.1 200")
}
