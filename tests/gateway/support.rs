//! Processes under test: the gateway and the mock on free ports, their files in a folder of their own.
//!
//! Nothing here sleeps for luck: everything waited for is polled, and every wait has an end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::wire::{self, Reply};

/// Longest wait for anything that is bound to happen soon.
pub const SOON: Duration = Duration::from_secs(10);

/// The four accounts at the mock, one a dialect, and the timeouts that let a stall be seen quickly.
const PROVIDERS: &str = "
providers:
  chat: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none }
  responses: { dialect: openai_responses, base_url: http://MOCK/v1, auth: none }
  anthropic: { preset: anthropic, base_url: http://MOCK/v1, api_key: sk-upstream-anthropic }
  gemini: { preset: gemini, base_url: http://MOCK/v1beta, api_key: sk-upstream-gemini }
";

/// A folder that is removed when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portcullis-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A free port below those that the system gives to outgoing connections, so that nothing takes it in between.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 100) as u16 * 100;
    for _ in 0..12_000 {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("an address");
        }
    }
    panic!("no free port");
}

/// Runs futures at the same time.
pub async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *output = Some(value);
            }
        }
        if running.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// A child that is killed when it is dropped.
pub struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    fn start(command: &mut Command, stderr: PathBuf) -> Self {
        let errors = fs::File::create(&stderr).expect("a file for stderr");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().expect("starts");
        Process { child, stderr }
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(sent.expect("a shell").success(), "no signal was sent");
    }

    /// Waits for its end.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}:\n{}", self.stderr());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it answers on this address.
    async fn ready(&mut self, address: SocketAddr) {
        let deadline = Instant::now() + SOON;
        loop {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("ended with {status} before it listened:\n{}", self.stderr());
            }
            assert!(Instant::now() < deadline, "does not listen on {address}:\n{}", self.stderr());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Resident memory in bytes, without that of the program's own file.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary with nothing of the caller's environment but what a test sets.
pub fn portcullis() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_clear();
    command
}

/// The mock provider.
pub struct Mock {
    pub address: SocketAddr,
    _process: Process,
    _folder: Folder,
}

impl Mock {
    pub async fn start() -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let mut command = portcullis();
        command.args(["mock", "--listen", &address.to_string()]);
        let mut process = Process::start(&mut command, folder.path("stderr"));
        process.ready(address).await;
        Mock { address, _process: process, _folder: folder }
    }

    /// The requests that reached it, oldest first.
    pub async fn journal(&self) -> Vec<Value> {
        let reply = wire::call(self.address, "GET", "/__mock/last", &[], b"").await;
        reply.json()["requests"].as_array().expect("a list").clone()
    }

    /// The newest request.
    pub async fn last(&self) -> Value {
        self.journal().await.pop().expect("a request")
    }

    pub async fn clear(&self) {
        wire::call(self.address, "DELETE", "/__mock/last", &[], b"").await;
    }

    /// The newest request whose body or target holds `mark`, as soon as `fits` holds of it.
    pub async fn seen(&self, mark: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let journal = self.journal().await;
            let marked = journal.into_iter().rev().find(|entry| {
                ["body", "target"].iter().any(|key| entry[*key].as_str().is_some_and(|text| text.contains(mark)))
            });
            if let Some(entry) = marked.filter(|entry| fits(entry)) {
                return entry;
            }
            assert!(Instant::now() < deadline, "the mock never saw `{mark}` as expected");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The gateway.
pub struct Gateway {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub process: Process,
    pub folder: Folder,
    /// Words replaced in configurations.
    words: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Starts it with the usual accounts at the mock and whatever else `yaml` says. In it `LISTEN`, `ADMIN`, `MOCK` and
    /// `FOLDER` stand for the addresses and the test's folder.
    pub async fn start(mock: &Mock, yaml: &str) -> Self {
        Gateway::prepared(Folder::new(), mock, yaml).await
    }

    /// The same in a folder that already holds files.
    pub async fn prepared(folder: Folder, mock: &Mock, yaml: &str) -> Self {
        let mut gateway = Gateway::unstarted(folder, Some(mock.address));
        let path = gateway.configure(yaml);
        gateway.serve(&path).await;
        gateway
    }

    /// Addresses and a folder; nothing runs yet.
    pub fn unstarted(folder: Folder, mock: Option<SocketAddr>) -> Self {
        let (address, admin) = (free_address(), free_address());
        let mock = mock.map_or_else(|| "127.0.0.1:9".to_owned(), |mock| mock.to_string());
        let words = vec![
            ("LISTEN", address.to_string()),
            ("ADMIN", admin.to_string()),
            ("MOCK", mock),
            ("FOLDER", folder.0.display().to_string()),
        ];
        let stderr = folder.path("stderr");
        // Stands in until `serve`: a process that has ended.
        let process = Process::start(portcullis().arg("--version"), stderr);
        Gateway { address, admin, process, folder, words }
    }

    /// The whole configuration: what `yaml` says, and the defaults of the tests where it is silent.
    pub fn text(&self, yaml: &str) -> String {
        let says = |key: &str| yaml.lines().any(|line| line.starts_with(key));
        let mut text = String::from(yaml);
        for (key, default) in [
            ("listen:", "\nlisten: { address: LISTEN }"),
            ("admin:", "\nadmin: { address: ADMIN }"),
            ("log:", "\nlog: { stdout: off, file: FOLDER/access.log }"),
            ("providers:", PROVIDERS),
        ] {
            if !says(key) {
                text.push_str(default);
            }
        }
        text.push('\n');
        for (word, value) in &self.words {
            text = text.replace(word, value);
        }
        text
    }

    /// Writes the configuration.
    pub fn configure(&self, yaml: &str) -> PathBuf {
        self.folder.write("portcullis.yaml", &self.text(yaml))
    }

    /// Starts the process on a configuration.
    pub async fn serve(&mut self, config: &Path) {
        let mut command = portcullis();
        command.args(["serve", "--config"]).arg(config);
        self.spawn(&mut command).await;
    }

    /// Starts a prepared command and waits until it listens.
    pub async fn spawn(&mut self, command: &mut Command) {
        self.process = Process::start(command, self.folder.path("stderr"));
        self.process.ready(self.address).await;
        self.process.ready(self.admin).await;
    }

    /// One request on a connection of its own.
    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        wire::call(self.address, method, path, headers, body.as_ref()).await
    }

    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.call("POST", path, &[("content-type", "application/json")], body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"").await
    }

    pub async fn admin(&self, method: &str, path: &str) -> Reply {
        wire::call(self.admin, method, path, &[], b"").await
    }

    /// Every line of the access log so far.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path("access.log")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a log line is JSON")).collect()
    }

    /// The access log once it has so many lines; more are wrong.
    pub async fn lines(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + SOON;
        loop {
            let lines = self.log();
            assert!(lines.len() <= count, "{} lines were logged, not {count}", lines.len());
            if lines.len() == count {
                return lines;
            }
            assert!(Instant::now() < deadline, "{} lines were logged, not {count}", lines.len());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The one log line of an exchange.
    pub async fn logged(&self, id: &str) -> Value {
        self.logged_where(id, |line| line["id"] == id).await
    }

    /// The one log line that `fits`.
    pub async fn logged_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let mut lines = self.log();
            lines.retain(|line| fits(line));
            assert!(lines.len() < 2, "{what} was logged {} times: {lines:?}", lines.len());
            if let Some(line) = lines.pop() {
                return line;
            }
            assert!(Instant::now() < deadline, "{what} was never logged");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A value of the metrics page.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let page = self.admin("GET", "/metrics").await.text();
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until no exchange is under way any more.
    pub async fn settled(&self) {
        let deadline = Instant::now() + SOON;
        while self.metric("portcullis_in_flight").await != Some(0.0) {
            assert!(Instant::now() < deadline, "exchanges are still under way");
            sleep(Duration::from_millis(5)).await;
        }
    }
}
