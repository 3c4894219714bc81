//! `portcullis schema`: the JSON Schema of the configuration, for editors and CI.

use std::process::ExitCode;

use super::say;
use crate::config;

pub(super) fn run() -> ExitCode {
    say(&format!("{:#}", config::schema()));
    ExitCode::SUCCESS
}
