//! Portcullis, an AI gateway: any client dialect to any model provider, streaming.
//!
//! # The way of a request
//!
//! ```text
//! server ─▶ pipeline ─▶ api ─▶ auth ─▶ route ─▶ attempt ─▶ upstream ─▶ stream ─▶ reply ─▶ settle
//!           (one page)  path   head   model    encode,     pooled      frames,   body,   exactly
//!                       table  only   → plan   send, judge connections commit    headers once
//! ```
//!
//! * [`server`] accepts: TLS, HTTP/1.1 and HTTP/2, clocks for slow clients, the drain. What it and [`upstream`] write goes out by
//!   [`defer`], behind whatever is ready.
//! * [`pipeline`] calls every stage by name, in order; the page to read first.
//! * [`api`] is the table of paths; [`exchange`] the value that travels.
//! * [`auth`] names the caller from the head; [`admit`] holds it to its limits; [`route`] turns a model name into targets; [`attempt`] tries them, and is
//!   the only code that tries again.
//! * [`cache`] answers asks that come again from what is kept, and lets identical ones share one upstream call.
//! * [`dialect`] holds one wire form a file, each against the neutral forms of [`chat`], [`embed`] and [`rerank`]; [`provider`] one
//!   row an upstream. [`sse`], [`json`] and [`cost`] are pure.
//! * [`hook`] calls guests between the stages and does what they decide; [`guest`] loads and leases them, one engine a
//!   file; [`host`] is what they may call, written once for every language.
//! * [`stream`] carries frames past the commit point; [`reply`] makes the answer; [`settle`] ends the exchange.
//! * [`probe`] asks providers whether they are there, where the operator wants it; beside the requests.
//! * [`fault`] is the one table of errors; [`trace`] says what was decided and why.
//! * [`config`] is what was written, [`generation`] what runs of it, [`reload`] swaps one for the next; [`state`] outlives
//!   them all.
//!
//! # Invariants
//!
//! * Nothing reaches a client before the commit point, and nothing is tried again after it.
//! * An exchange settles exactly once, when its [`settle::Settle`] is dropped, whatever ended it.
//! * An exchange ends on the generation it began with.
//! * The name that was authorised is the name that decides the target.
//! * Equal dialects on both sides: bytes are relayed, not rewritten.
//! * `dialect`, `chat`, `route`, `cost`, `sse` and `json` know neither a runtime nor a socket.

pub mod admin;
pub mod admit;
pub mod alert;
pub mod api;
pub mod attempt;
pub mod auth;
pub mod body;
pub mod boxed;
pub mod cache;
pub mod chat;
pub mod cli;
pub mod config;
pub mod cost;
pub mod defer;
pub mod dialect;
pub mod embed;
pub mod exchange;
pub mod fault;
pub mod generation;
pub mod guest;
pub mod hook;
pub mod host;
pub mod json;
pub mod mock;
pub mod pipeline;
pub mod probe;
pub mod provider;
pub mod reload;
pub mod reply;
pub mod rerank;
pub mod route;
pub mod server;
pub mod settle;
pub mod sse;
pub mod state;
pub mod stream;
pub mod trace;
pub mod trial;
pub mod upstream;
