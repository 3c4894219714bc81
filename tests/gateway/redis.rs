//! A real redis-server of the test's own, on a free port, without persistence: killed, it comes back empty.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::{Folder, Gateway, SOON, free_address};

/// The server.
pub struct Redis {
    pub address: SocketAddr,
    child: Child,
    folder: Folder,
}

impl Redis {
    pub async fn start() -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let child = Redis::spawn(address, &folder);
        let redis = Redis { address, child, folder };
        redis.ready().await;
        redis
    }

    fn spawn(address: SocketAddr, folder: &Folder) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("redis-server is installed (`tests/run install` does it)")
    }

    async fn ready(&self) {
        let deadline = Instant::now() + SOON;
        while self.cli(&["PING"]).trim() != "PONG" {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.address.port().to_string()]).args(words).stderr(Stdio::null());
        String::from_utf8_lossy(&command.output().expect("redis-cli is installed").stdout).into_owned()
    }

    /// Sends it a signal by name: STOP cuts it off without a word, as a lost network does, until CONT.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success(), "no signal was sent");
    }

    /// Names of keys that hold `mark`.
    pub fn keys(&self, mark: &str) -> Vec<String> {
        self.cli(&["--scan"]).lines().filter(|key| key.contains(mark)).map(str::to_owned).collect()
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at the same address, empty.
    pub async fn again(&mut self) {
        self.child = Redis::spawn(self.address, &self.folder);
        self.ready().await;
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Waits until each gateway has so many links that have found the server, and those of gateways that ended are gone.
    pub async fn linked(&self, gateways: usize, links: usize) {
        // A gateway takes a connection for its own before it asks for the time on it.
        let opening = ["cmd=NULL", "cmd=client", "cmd=hello", "cmd=auth", "cmd=select"];
        let is_link = |line: &&str| !opening.iter().any(|word| line.contains(word));
        let deadline = Instant::now() + SOON;
        while self.cli(&["CLIENT", "LIST"]).lines().filter(is_link).count() != gateways * links {
            assert!(Instant::now() < deadline, "not every gateway has found redis");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a value of the metrics page is as it should be.
pub async fn counted(gateway: &Gateway, name: &str, fits: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let value = gateway.metric(name).await;
        if value.is_some_and(&fits) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {value:?}: {}", gateway.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
}
