//! Scripts on their stand.

use serde_json::Value;

use crate::guest::bundle::Bundle;
use crate::guest::stand::{self, Stand};
use crate::host::{Budget, Grants};

pub use crate::guest::stand::{Stand as Bench, bundle};

pub fn try_load(text: &str, budget: Budget, config: Value) -> Result<Stand, String> {
    load_bundle(bundle(text), budget, config, Grants::default())
}

pub fn load_bundle(bundle: Bundle, budget: Budget, config: Value, grants: Grants) -> Result<Stand, String> {
    Stand::luau(bundle, budget, config, grants)
}

pub fn load(text: &str) -> Stand {
    try_load(text, stand::unhurried(), Value::Null).unwrap_or_else(|error| panic!("{error}"))
}
