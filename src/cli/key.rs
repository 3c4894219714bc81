//! `portcullis key`: new gateway keys, and the hashes under which the configuration may know them.

use std::io::Read;
use std::process::ExitCode;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{env, fail, say};
use crate::auth::{Keys, hex};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print a new random key.
    New,
    /// Read a key from standard input and print its hash under PORTCULLIS_PEPPER.
    Hash,
}

pub(super) fn run(args: Args) -> ExitCode {
    match args.command {
        Command::New => {
            let mut bytes = [0; 32];
            if rand::fill(&mut bytes).is_err() {
                return fail(1, "the system gives no random bytes");
            }
            say(&format!("sk-pc-{}", URL_SAFE_NO_PAD.encode(bytes)));
            ExitCode::SUCCESS
        }
        Command::Hash => {
            let Some(pepper) = env("PORTCULLIS_PEPPER").filter(|pepper| !pepper.is_empty()) else {
                return fail(1, "set PORTCULLIS_PEPPER to the value of `auth.pepper`: hashes are keyed with it");
            };
            let mut key = String::new();
            if let Err(error) = std::io::stdin().read_to_string(&mut key) {
                return fail(1, &format!("standard input: {error}"));
            }
            let keys = Keys::new(Some(pepper.as_bytes()), Vec::new());
            say(&format!("hmac-sha256:{}", hex(&keys.digest(key.trim()))));
            ExitCode::SUCCESS
        }
    }
}
