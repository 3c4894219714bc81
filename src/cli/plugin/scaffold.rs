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
pub(super) const WIT: &[(&str, &str)] = &[
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
    MINE,
];

const POLICY_PYTHON: &[(&str, &str)] =
    &[("app.py", include_str!("../../../plugins/template/policy-python/app.py.txt")), MINE];

const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../plugins/template/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../../../plugins/template/rust/lib.rs.txt")),
];

const JS: &[(&str, &str)] = &[
    ("package.json", include_str!("../../../plugins/template/js/package.json.txt")),
    ("adapter.js", include_str!("../../../plugins/template/js/adapter.js.txt")),
];

const POLICY_JS: &[(&str, &str)] = &[
    ("package.json", include_str!("../../../plugins/template/policy-js/package.json.txt")),
    ("policy.js", include_str!("../../../plugins/template/policy-js/policy.js.txt")),
    MINE,
];

const PYTHON: &[(&str, &str)] = &[
    ("app.py", include_str!("../../../plugins/template/python/app.py.txt")),
    ("adapter.py", include_str!("../../../plugins/template/python/adapter.py.txt")),
];

const C: &[(&str, &str)] = &[
    ("adapter.c", include_str!("../../../plugins/template/c/adapter.c.txt")),
    ("gen/provider.c", include_str!("../../../plugins/template/c/gen/provider.c")),
    ("gen/provider.h", include_str!("../../../plugins/template/c/gen/provider.h")),
    ("gen/CONTRACT", include_str!("../../../plugins/template/c/gen/CONTRACT")),
];

const POLICY_C: &[(&str, &str)] = &[
    ("policy.c", include_str!("../../../plugins/template/policy-c/policy.c.txt")),
    ("gen/mine.c", include_str!("../../../plugins/template/policy-c/gen/mine.c")),
    ("gen/mine.h", include_str!("../../../plugins/template/policy-c/gen/mine.h")),
    ("gen/CONTRACT", include_str!("../../../plugins/template/policy-c/gen/CONTRACT")),
    MINE,
];

/// What of the types in C is no text.
type Object = (&'static str, &'static [u8]);

const OBJECT: Object =
    ("gen/provider_component_type.o", include_bytes!("../../../plugins/template/c/gen/provider_component_type.o"));

const POLICY_OBJECT: Object =
    ("gen/mine_component_type.o", include_bytes!("../../../plugins/template/policy-c/gen/mine_component_type.o"));

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
        "fixtures/stream/two_lines.expected.json",
        r#"{
  "id": "chatcmpl-gen-fixture",
  "object": "chat.completion",
  "created": 0,
  "model": "",
  "choices": [
    {
      "index": 0,
      "message": { "role": "assistant", "content": "Grüße.", "refusal": null },
      "logprobs": null,
      "finish_reason": "stop"
    }
  ]
}
"#,
    ),
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

/// Of a policy, likewise.
const POLICY_FIXTURES: &[(&str, &str)] = &[
    (
        "fixtures/short.json",
        r#"{
  "config": { "model": "big", "tokens": 100 },
  "models": { "small": ["a/small"], "big": ["a/big"] },
  "chat": { "model": "small", "text": "Hello" },
  "expected": {
    "status": 200,
    "tries": ["a/small"],
    "headers": { "x-answered-by": "a/small" },
    "verdicts": [{ "answer": { "patch": { "headers": ["x-answered-by"] } } }]
  }
}
"#,
    ),
    (
        "fixtures/long.json",
        r#"{
  "config": { "model": "big", "tokens": 10 },
  "models": { "small": ["a/small"], "big": ["a/big"] },
  "chat": { "model": "small", "text": "Please tell me all that you know of the history of Rome." },
  "expected": {
    "status": 200,
    "tries": ["a/big"],
    "headers": { "x-answered-by": "a/big" },
    "verdicts": [{ "request": { "patch": { "model": "big" } } }, { "answer": { "patch": { "headers": ["x-answered-by"] } } }]
  }
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
        (true, Lang::Rust) => (POLICY_RUST, POLICY_FIXTURES),
        (true, Lang::Js) => (POLICY_JS, POLICY_FIXTURES),
        (true, Lang::Python) => (POLICY_PYTHON, POLICY_FIXTURES),
        (true, Lang::C) => (POLICY_C, POLICY_FIXTURES),
    };
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        written.map_err(|error| format!("{}: {error}", path.display()))
    };
    for (name, text) in files.iter().chain(WIT).chain(fixtures) {
        // The contract and what was made of it are the same for everybody.
        let own = !name.starts_with("wit/") && !name.starts_with("gen/");
        put(name, if own { text.replace("NAME", &args.name) } else { (*text).to_owned() }.as_bytes())?;
    }
    if let Lang::C = args.lang {
        let (name, bytes) = if args.policy { POLICY_OBJECT } else { OBJECT };
        put(name, bytes)?;
    }
    say(&folder.display().to_string());
    let at = folder.display();
    hint(&format!("next: portcullis plugin build {at}, then portcullis plugin test {at}/{}.wasm", args.name));
    Ok(())
}
