//! The types and calls of the contract in `plugins/wit`, generated.
//!
//! Nothing is written by hand here. Exports may wait, as a guest is stopped and let on by the clock; of the imports only
//! those do that ask others.

wasmtime::component::bindgen!({
    path: "plugins/wit",
    // One world of both kinds of plugin, so that they share the types; which of it a component may have, the linker says.
    inline: "
        package portcullis:host;
        world plugin {
            include portcullis:gateway/provider@0.1.0;
            include portcullis:gateway/policy@0.1.0;
        }
    ",
    world: "portcullis:host/plugin",
    imports: {
        // On another machine where the operator keeps it there.
        "portcullis:gateway/kv": async | trappable,
        "portcullis:gateway/time.sleep": async | trappable,
        "portcullis:gateway/http.fetch": async | trappable,
        "portcullis:gateway/llm.ask": async | trappable,
        "portcullis:gateway/llm.embed": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

pub use self::portcullis::gateway::{
    cache, chat, cost, ctx, decision, exchange, hash, http, json, kv, limit, llm, log, metrics, pick, rand, re, secret,
    targets, time, tokens, trace,
};
pub use exports::portcullis::gateway::adapter;
pub use exports::portcullis::gateway::{
    manifest, on_answer, on_arguments, on_attempt, on_auth, on_done, on_event, on_fault, on_request, on_route, on_tick,
};
