//! `portcullis generations`: what was in force, what changed, and going back, asked of a running gateway's admin API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::{REFUSED, config_path, env, fail, say};
use crate::generation::Builder;

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The running gateway's configuration: it holds the admin address and token.
    #[arg(long, short, env = "PORTCULLIS_CONFIG", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// What was in force (the default).
    List,
    /// What differs between a generation and the one in force.
    Diff { number: u64 },
    /// Put a generation back in force, until the next change of a file.
    Rollback { number: u64 },
}

pub(super) fn run(args: Args) -> ExitCode {
    let config = match Builder::new(config_path(args.config), Box::new(env)).load_alone() {
        Ok(loaded) => loaded.config,
        Err(errors) => return fail(REFUSED, &errors),
    };
    let token = config.admin.token.as_ref().map(|token| token.expose().to_owned());
    let (method, path) = match &args.what {
        None | Some(What::List) => ("GET", "/admin/generations".to_owned()),
        Some(What::Diff { number }) => ("GET", format!("/admin/generations/{number}/diff")),
        Some(What::Rollback { number }) => ("POST", format!("/admin/generations/{number}/rollback")),
    };
    match ask(&config.admin.address, method, &path, token.as_deref()) {
        Ok((200, body)) => {
            say(&shown(&args.what, &body));
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            let message = body["error"]["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
            fail(1, &message)
        }
        Err(error) => fail(1, &format!("{}: {error}; is the gateway running?", config.admin.address)),
    }
}

fn shown(what: &Option<What>, body: &Value) -> String {
    match what {
        None | Some(What::List) => {
            let rows = body["generations"].as_array().into_iter().flatten().map(|row| {
                let mark = if row["in_force"] == true { "*" } else { " " };
                let guests =
                    ["policies", "adapters"].into_iter().flat_map(|kind| row[kind].as_array().into_iter().flatten());
                let policies = guests.map(|policy| {
                    let digest = policy["digest"].as_str().unwrap_or_default();
                    format!("{}@{}", policy["name"].as_str().unwrap_or_default(), digest.get(..8).unwrap_or(digest))
                });
                let policies = policies.collect::<Vec<_>>().join(" ");
                let number = row["number"].as_u64().unwrap_or_default();
                format!("{mark} {number:>4}  {}  {policies}", row["loaded_at"].as_str().unwrap_or_default())
            });
            rows.collect::<Vec<_>>().join("\n")
        }
        Some(What::Diff { .. }) => {
            let changes = body["changes"].as_array().into_iter().flatten().map(|change| {
                let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
                format!("--- {}\n{}", text("file"), text("diff"))
            });
            changes.collect::<Vec<_>>().join("\n")
        }
        Some(What::Rollback { .. }) => {
            format!("generation {} is in force, with the keys and other secrets that it had", body["generation"])
        }
    }
}

/// One request to the admin API: HTTP/1.0, so that the end of the answer is the end of the connection.
fn ask(address: &str, method: &str, path: &str, token: Option<&str>) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let auth = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: {address}\r\n{auth}content-length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let wrong = || std::io::Error::other("it does not speak the admin API");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}
