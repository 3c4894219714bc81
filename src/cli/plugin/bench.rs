//! `portcullis plugin bench`: how long an adapter takes, as the gateway would call it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::{Plugin, say, wait};
use crate::chat::{Ask, Block, Message, Role};
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came};
use crate::guest::adapter::Lease;
use crate::guest::wasm::{Machine, Taught};

/// How long each figure is measured for.
const SPAN: Duration = Duration::from_millis(500);

pub(super) fn run(plugin: &Plugin, loaded: &Arc<Taught>) -> Result<(), String> {
    let machine = Arc::new(Machine::new()?);
    let began = Instant::now();
    plugin.load_on(&machine, Lease::default())?;
    say(&format!("compile, link and start    {:>10.2?}", began.elapsed()));
    let ask = ask();
    let nothing = HeaderMap::new();
    let body = Bytes::from_static(b"{}");
    wait(async {
        let (mut calls, began) = (0u32, Instant::now());
        while began.elapsed() < SPAN {
            // What it makes of the ask does not matter here; that it breaks would.
            drop(loaded.encode("model", Asking::Chat(&ask)).await);
            calls += 1;
        }
        say(&format!("encode, 1 KiB in 4 turns   {:>10.2?}", began.elapsed() / calls));
        let (mut calls, began) = (0u32, Instant::now());
        while began.elapsed() < SPAN {
            drop(loaded.decode(Op::Generate, Came { status: 200, headers: &nothing, body: &body }).await);
            calls += 1;
        }
        say(&format!("decode, an empty object    {:>10.2?}", began.elapsed() / calls));
        let (mut calls, began) = (0u32, Instant::now());
        while began.elapsed() < SPAN {
            let decoder = loaded.decoder().await.map_err(|fault| fault.to_string())?;
            drop(decoder.finish().await);
            calls += 1;
        }
        say(&format!("begin and end a stream     {:>10.2?}", began.elapsed() / calls));
        Ok::<_, String>(())
    })?
}

fn ask() -> Ask {
    let turn = |role| Message::new(role, vec![Block::text("words and words ".repeat(16))]);
    Ask {
        messages: [Role::User, Role::Assistant, Role::User, Role::Assistant].map(turn).into(),
        source: "openai_chat",
        ..Ask::default()
    }
}
