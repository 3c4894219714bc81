//! The host functions as plugins call them: conversion only, the work is `host`'s.
//!
//! Every function goes through its row of the table, which knows phase, grant and lease. What ends a lease is a trap;
//! what a guest may cope with is an error that it is given.

mod anyone;
mod exchange;

use std::sync::Arc;

use wasmtime::{Error, Result};

pub(super) use exchange::{fields, target};

use super::store::Held;
use crate::host::{Cx, FUNCTIONS, Function, HostError, Phase, Words};

/// The row of a function; a name that is in no table does not compile.
macro_rules! row {
    ($name:literal) => {{
        const ROW: &$crate::host::Function = $crate::guest::wasm::functions::at($name);
        ROW
    }};
}

const fn at(name: &str) -> &'static Function {
    let mut index = 0;
    while index < FUNCTIONS.len() {
        if same(FUNCTIONS[index].name.as_bytes(), name.as_bytes()) {
            return &FUNCTIONS[index];
        }
        index += 1;
    }
    panic!("no such host function")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// What a guest is given where a function may refuse.
type Given<T> = Result<std::result::Result<T, String>>;

fn text<T>(outcome: std::result::Result<T, HostError>) -> std::result::Result<T, String> {
    outcome.map_err(|error| error.0)
}

impl Held {
    /// The call that the instance is in.
    ///
    /// # Errors
    /// It is in none: nothing of it should run.
    fn called(&self) -> Result<&Arc<Cx>> {
        self.cx().ok_or_else(|| Error::msg("is called by nobody"))
    }

    /// Lets a policy into a function of its exchange; the refusal is the guest's to read, unless its lease is over.
    fn policy(&self, row: &Function) -> Given<Arc<Cx>> {
        let cx = self.called()?;
        if cx.world.is_none() && cx.phase != Phase::Init {
            return Ok(Err(format!("`{}` is for policies; an adapter has no exchange to ask about", row.name)));
        }
        match cx.enter(row, Words::Wasm) {
            Ok(()) => Ok(Ok(cx.clone())),
            Err(error) if cx.lease.killed().is_some() => Err(Error::msg(error.0)),
            Err(error) => Ok(Err(error.0)),
        }
    }

    /// Lets any guest into a function that needs nothing but a lease.
    fn anyone(&self, row: &Function) -> Result<&Arc<Cx>> {
        let cx = self.called()?;
        cx.enter(row, Words::Wasm).map_err(|error| Error::msg(error.0))?;
        Ok(cx)
    }
}

/// Enters a function of the exchange, or gives the guest the refusal.
macro_rules! policy {
    ($held:ident, $name:literal) => {
        match $held.policy(row!($name))? {
            Ok(cx) => cx,
            Err(refused) => return Ok(Err(refused)),
        }
    };
}

use {policy, row};
