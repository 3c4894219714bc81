//! `portcullis plugin new`: a folder with an adapter or a policy that builds and waits to be changed.
//!
//! The files are those of `plugins/template` and `plugins/wit`, as they were when this program was built.

use std::fs;
use std::path::PathBuf;

use super::{hint, say};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Small letters, digits and `-`; the provider's dialect is `wasm:NAME` then.
    name: String,
    /// The language.
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// A policy, for `hooks`, instead of an adapter.
    #[arg(long)]
    policy: bool,
    /// The folder; when not named, the name.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Lang {
    Rust,
    Js,
    Python,
    C,
}

/// The contract, which goes along.
const WIT: &[(&str, &str)] = &[
    ("wit/chat.wit", include_str!("../../../plugins/wit/chat.wit")),
    ("wit/host.wit", include_str!("../../../plugins/wit/host.wit")),
    ("wit/provider.wit", include_str!("../../../plugins/wit/provider.wit")),
    ("wit/policy.wit", include_str!("../../../plugins/wit/policy.wit")),
];

/// The world of a policy.
const MINE: (&str, &str) = ("wit/mine.wit", include_str!("../../../plugins/template/mine.wit.txt"));

const POLICY_RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../plugins/template/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../../../plugins/template/policy-rust/lib.rs.txt")),
    ("build", include_str!("../../../plugins/template/rust/build.txt")),
    MINE,
];

const POLICY_PYTHON: &[(&str, &str)] = &[
    ("app.py", include_str!("../../../plugins/template/policy-python/app.py.txt")),
    ("build", include_str!("../../../plugins/template/policy-python/build.txt")),
    MINE,
];

const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../plugins/template/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../../../plugins/template/rust/lib.rs.txt")),
    ("build", include_str!("../../../plugins/template/rust/build.txt")),
];

const JS: &[(&str, &str)] = &[
    ("package.json", include_str!("../../../plugins/template/js/package.json.txt")),
    ("adapter.js", include_str!("../../../plugins/template/js/adapter.js.txt")),
    ("build", include_str!("../../../plugins/template/js/build.txt")),
];

const PYTHON: &[(&str, &str)] = &[
    ("app.py", include_str!("../../../plugins/template/python/app.py.txt")),
    ("build", include_str!("../../../plugins/template/python/build.txt")),
];

const C: &[(&str, &str)] = &[
    ("adapter.c", include_str!("../../../plugins/template/c/adapter.c.txt")),
    ("build", include_str!("../../../plugins/template/c/build.txt")),
];

const POLICY_C: &[(&str, &str)] = &[
    ("policy.c", include_str!("../../../plugins/template/policy-c/policy.c.txt")),
    ("build", include_str!("../../../plugins/template/policy-c/build.txt")),
    MINE,
];

/// The same for every language: they are the same adapter.
const FIXTURES: &[(&str, &str)] = &[
    (
        "fixtures/ask/plain.json",
        r#"{
  "ask": { "model": "m", "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello" }] },
  "request": {
    "method": "POST",
    "path": "/generate",
    "body": { "model": "m", "prompt": "Be brief.\n\nHello", "stream": false },
    "streamed": false
  }
}
"#,
    ),
    ("fixtures/stream/two_lines.txt", "{\"text\":\"Gr\u{fc}\u{df}\"}\n{\"text\":\"e.\",\"done\":true}\n"),
    (
        "fixtures/error/busy.json",
        r#"{
  "status": 503,
  "body": { "error": "busy" },
  "expected": { "code": "upstream_overloaded", "message": "busy" }
}
"#,
    ),
];

pub(super) fn run(args: &Args) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if args.name.is_empty() || !args.name.bytes().all(fits) {
        return Err(format!("`{}` is no plugin's name; write small letters, digits and `-`", args.name));
    }
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if folder.exists() {
        return Err(format!("{}: is there already; choose another folder", folder.display()));
    }
    let (files, fixtures) = match (args.policy, args.lang) {
        (false, Lang::Rust) => (RUST, FIXTURES),
        (false, Lang::Js) => (JS, FIXTURES),
        (false, Lang::Python) => (PYTHON, FIXTURES),
        (false, Lang::C) => (C, FIXTURES),
        (true, Lang::Rust) => (POLICY_RUST, &[] as &[_]),
        (true, Lang::Js) => {
            // Its engine keeps the handle of a request when a call ends, which ends the call.
            return Err("there is no engine of JavaScript yet that policies can be built for; write it in another \
                        language, or in Lua"
                .to_owned());
        }
        (true, Lang::Python) => (POLICY_PYTHON, &[] as &[_]),
        (true, Lang::C) => (POLICY_C, &[] as &[_]),
    };
    for (name, text) in files.iter().chain(WIT).chain(fixtures) {
        let path = folder.join(name);
        let contract = name.starts_with("wit/") && *name != MINE.0;
        let text = if contract { (*text).to_owned() } else { text.replace("NAME", &args.name) };
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    executable(&folder.join("build"))?;
    say(&folder.display().to_string());
    let then = if args.policy { "inspect" } else { "test" };
    let more = if args.policy { "" } else { " --bless, and look at what it wrote" };
    hint(&format!("next: {0}/build, then portcullis plugin {then} {0}/{1}.wasm{more}", folder.display(), args.name));
    Ok(())
}

fn executable(path: &std::path::Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let set = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        set.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
