//! Functions that any guest may call, adapters too: they need nothing but a lease. (`time.sleep` alone is for policies.)
//!
//! Takes nothing of an exchange but its clock and its chance, so that trials of policies have their own.

use std::sync::Arc;

use serde_json::Value;
use wasmtime::{Error, Result};

use super::super::bindings::{hash, json, log, pick, rand, re, time, tokens};
use super::super::store::Held;
use super::{Given, policy, row, text};
use crate::host::{self, Cx};

/// Longest line that a guest writes to the log, in bytes.
const MAX_LOG_BYTES: usize = 4 << 10;

impl log::Host for Held {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        let (row, to) = match level {
            log::Level::Debug => (row!("log.debug"), host::log::Level::Debug),
            log::Level::Info => (row!("log.info"), host::log::Level::Info),
            log::Level::Warn => (row!("log.warn"), host::log::Level::Warn),
            log::Level::Error => (row!("log.error"), host::log::Level::Error),
        };
        self.anyone(row, message.len())?;
        let line = &message[..message.floor_char_boundary(MAX_LOG_BYTES)];
        if let Some(cx) = self.cx() {
            return host::log::line(cx, to, line, None).map_err(|error| Error::msg(error.0));
        }
        let plugin = self.plugin();
        match level {
            log::Level::Debug => tracing::debug!(plugin, "{line}"),
            log::Level::Info => tracing::info!(plugin, "{line}"),
            log::Level::Warn => tracing::warn!(plugin, "{line}"),
            log::Level::Error => tracing::error!(plugin, "{line}"),
        }
        Ok(())
    }
}

/// The value at a pointer of a document.
fn within(document: &str, pointer: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(document).ok()?;
    value.pointer_mut(pointer).map(Value::take)
}

impl json::Host for Held {
    fn get(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).map(|value| value.to_string()))
    }

    fn get_string(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).and_then(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        }))
    }

    fn get_number(&mut self, document: String, pointer: String) -> Result<Option<f64>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).and_then(|value| value.as_f64()))
    }

    fn length(&mut self, document: String, pointer: String) -> Result<Option<u32>> {
        self.anyone(row!("json.decode"), document.len())?;
        let length = within(&document, &pointer).and_then(|value| match value {
            Value::Array(items) => Some(items.len()),
            Value::Object(entries) => Some(entries.len()),
            _ => None,
        });
        Ok(length.and_then(|length| u32::try_from(length).ok()))
    }

    fn quote(&mut self, text: String) -> Result<String> {
        self.anyone(row!("json.encode"), text.len())?;
        Ok(Value::String(text).to_string())
    }

    fn valid(&mut self, document: String) -> Result<bool> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(serde_json::from_str::<serde::de::IgnoredAny>(&document).is_ok())
    }
}

impl hash::Host for Held {
    fn sha256(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.sha256"), data.len())?;
        Ok(host::hash::sha256(&data))
    }

    fn hmac_sha256(&mut self, key: hash::Key, data: Vec<u8>) -> Given<String> {
        self.anyone(row!("hash.hmac_sha256"), data.len())?;
        Ok(match (&key, self.cx()) {
            (hash::Key::Bytes(key), _) => Ok(host::hash::hmac_sha256(key, &data)),
            (hash::Key::Secret(name), Some(cx)) => {
                let handle = host::secret::get(cx, name);
                text(handle.and_then(|handle| Ok(host::hash::hmac_sha256(handle.expose(cx)?.as_bytes(), &data))))
            }
            (hash::Key::Secret(_), None) => Err("an adapter holds no secrets".to_owned()),
        })
    }

    fn base64(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.base64"), data.len())?;
        Ok(host::hash::base64(&data))
    }

    fn unbase64(&mut self, text: String) -> Result<Option<Vec<u8>>> {
        self.anyone(row!("hash.unbase64"), text.len())?;
        Ok(host::hash::unbase64(text.as_bytes()))
    }
}

impl time::Host for Held {
    fn now_ms(&mut self) -> Result<u64> {
        self.anyone(row!("time.now_ms"), 0)?;
        Ok(self.cx().map_or_else(host::time::unix_ms, |cx| host::time::now_ms(cx)))
    }

    fn elapsed_ms(&mut self) -> Result<f64> {
        self.anyone(row!("time.now_ms"), 0)?;
        Ok(self.cx().map_or(0.0, |cx| cx.visit.started.elapsed().as_secs_f64() * 1000.0))
    }

    fn date(&mut self, unix_ms: Option<i64>, offset_minutes: Option<i32>) -> Result<time::Moment> {
        self.anyone(row!("time.date"), 0)?;
        let now = || self.cx().map_or_else(host::time::unix_ms, |cx| host::time::now_ms(cx)) as i64;
        let date = host::time::date(unix_ms.unwrap_or_else(now), i64::from(offset_minutes.unwrap_or(0)));
        let host::time::Date { year, month, day, hour, minute, second, weekday } = date;
        Ok(time::Moment { year, month, day, hour, minute, second, weekday })
    }

    async fn sleep(&mut self, ms: u32) -> Given<()> {
        policy!(self, "time.sleep");
        Ok(text(host::time::sleep(f64::from(ms)).await))
    }
}

impl rand::Host for Held {
    fn number(&mut self) -> Result<f64> {
        self.anyone(row!("rand.number"), 0)?;
        Ok(random(self.cx()))
    }

    fn int(&mut self, first: i64, last: i64) -> Result<i64> {
        self.anyone(row!("rand.int"), 0)?;
        let (first, last) = (first.min(last), first.max(last));
        let width = (i128::from(last) - i128::from(first) + 1) as f64;
        let step = (random(self.cx()) * width) as i128;
        Ok(i64::try_from(i128::from(first) + step).unwrap_or(last).min(last))
    }

    fn id(&mut self) -> Result<String> {
        self.anyone(row!("rand.id"), 0)?;
        let half = || (random(self.cx()) * (1u64 << 48) as f64) as u64;
        Ok(format!("{:012x}{:012x}", half(), half()))
    }
}

fn random(cx: Option<&Arc<Cx>>) -> f64 {
    cx.and_then(|cx| cx.world.as_ref()).map_or_else(fastrand::f64, |world| world.random())
}

impl pick::Host for Held {
    fn weighted(&mut self, weights: Vec<pick::Weight>, key: Option<String>) -> Result<Option<String>> {
        self.anyone(row!("pick.weighted"), weights.len())?;
        let weights: Vec<(String, f64)> = weights.into_iter().map(|weight| (weight.name, weight.weight)).collect();
        let point = key.map_or_else(|| random(self.cx()), |key| host::pick::point(key.as_bytes()));
        Ok(host::pick::weighted(&weights, point).map(str::to_owned))
    }

    fn hash(&mut self, names: Vec<String>, key: String) -> Result<Option<String>> {
        self.anyone(row!("pick.hash"), names.len())?;
        Ok(host::pick::hash(&names, key.as_bytes()).map(str::to_owned))
    }
}

impl tokens::Host for Held {
    fn estimate(&mut self, text: String) -> Result<u64> {
        self.anyone(row!("tokens.estimate"), text.len())?;
        Ok(host::targets::tokens(text.as_bytes()))
    }
}

impl re::Host for Held {
    fn test(&mut self, pattern: String, subject: String) -> Given<bool> {
        self.anyone(row!("re.test"), subject.len())?;
        Ok(text(host::re::test(&pattern, &subject)))
    }

    fn match_(&mut self, pattern: String, subject: String) -> Given<Option<Vec<String>>> {
        self.anyone(row!("re.match"), subject.len())?;
        let groups = text(host::re::first(&pattern, &subject));
        Ok(groups.map(|groups| groups.map(|groups| groups.into_iter().map(str::to_owned).collect())))
    }

    fn find(&mut self, pattern: String, subject: String, max: Option<u32>) -> Given<Vec<re::Found>> {
        self.anyone(row!("re.find"), subject.len())?;
        let max = max.map_or(host::re::MAX_MATCHES, |max| max as usize);
        let found = text(host::re::find(&pattern, &subject, max));
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Ok(found.map(|found| {
            let each = |found: &host::re::Found| re::Found {
                first: place(found.first),
                end: place(found.end),
                text: subject[found.first..found.end].to_owned(),
            };
            found.iter().map(each).collect()
        }))
    }

    fn replace(&mut self, pattern: String, subject: String, with: String) -> Given<re::Replaced> {
        self.anyone(row!("re.replace"), subject.len())?;
        let replaced = text(host::re::replace(&pattern, &subject, &with));
        Ok(replaced.map(|(text, count)| re::Replaced { text, count: u32::try_from(count).unwrap_or(u32::MAX) }))
    }
}
