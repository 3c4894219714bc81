//! The gateway as its users meet it: the real binary, real sockets, the mock provider in a process of its own.
//!
//! Each module holds one promise of the design. Tests start what they need on free ports and stop it when they end.

mod gateway {
    mod adapters;
    mod auth;
    mod cache;
    mod catalogue;
    mod clients;
    mod clocks;
    mod coalesce;
    mod commit;
    mod dialect;
    mod drain;
    mod drill;
    mod ends;
    mod faults;
    mod first;
    #[cfg(feature = "wasm")]
    mod guests;
    mod heard;
    mod hits;
    mod kept;
    mod lasting;
    mod leases;
    mod limits;
    mod meaning;
    mod money;
    mod outages;
    mod pairs;
    #[cfg(feature = "wasm")]
    mod plugins;
    mod policies;
    mod quota;
    mod races;
    mod raw;
    mod redis;
    mod reload;
    mod routing;
    mod shared;
    mod shipped;
    mod spoken;
    mod stored;
    mod support;
    mod taught;
    mod tier;
    mod tls;
    mod trace;
    mod transports;
    mod upstream;
    mod verdicts;
    mod waiting;
    mod watched;
    mod wire;
}
