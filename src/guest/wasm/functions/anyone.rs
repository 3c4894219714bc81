//! Functions that any guest may call, adapters too: they need nothing but a lease. (`time.sleep` alone is for policies.)
//!
//! Takes nothing of an exchange but its clock and its chance, so that trials of policies have their own.

use serde_json::Value;
use wasmtime::{Error, Result};

use super::super::bindings::{hash, json, log, pick, rand, re, time, tokens};
use super::super::store::Held;
use super::super::turn;
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
        let cx = self.anyone(row)?;
        let line = &message[..message.floor_char_boundary(MAX_LOG_BYTES)];
        host::log::line(cx, to, line, None).map_err(|error| Error::msg(error.0))
    }
}

/// The value at a pointer of a document.
fn within(document: &str, pointer: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(document).ok()?;
    value.pointer_mut(pointer).map(Value::take)
}

impl json::Host for Held {
    fn get(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"))?;
        Ok(within(&document, &pointer).map(|value| value.to_string()))
    }

    fn get_string(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"))?;
        Ok(within(&document, &pointer).and_then(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        }))
    }

    fn get_number(&mut self, document: String, pointer: String) -> Result<Option<f64>> {
        self.anyone(row!("json.decode"))?;
        Ok(within(&document, &pointer).and_then(|value| value.as_f64()))
    }

    fn length(&mut self, document: String, pointer: String) -> Result<Option<u32>> {
        self.anyone(row!("json.decode"))?;
        let length = within(&document, &pointer).and_then(|value| match value {
            Value::Array(items) => Some(items.len()),
            Value::Object(entries) => Some(entries.len()),
            _ => None,
        });
        Ok(length.and_then(|length| u32::try_from(length).ok()))
    }

    fn quote(&mut self, text: String) -> Result<String> {
        self.anyone(row!("json.encode"))?;
        Ok(Value::String(text).to_string())
    }

    fn valid(&mut self, document: String) -> Result<bool> {
        self.anyone(row!("json.decode"))?;
        Ok(serde_json::from_str::<serde::de::IgnoredAny>(&document).is_ok())
    }
}

impl hash::Host for Held {
    fn sha256(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.sha256"))?;
        Ok(host::hash::sha256(&data))
    }

    fn hmac_sha256(&mut self, key: hash::Key, data: Vec<u8>) -> Given<String> {
        let cx = self.anyone(row!("hash.hmac_sha256"))?;
        Ok(match &key {
            hash::Key::Bytes(key) => Ok(host::hash::hmac_sha256(key, &data)),
            hash::Key::Secret(name) => {
                let handle = host::secret::get(cx, name);
                text(handle.and_then(|handle| Ok(host::hash::hmac_sha256(handle.expose(cx)?.as_bytes(), &data))))
            }
        })
    }

    fn base64(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.base64"))?;
        Ok(host::hash::base64(&data))
    }

    fn unbase64(&mut self, text: String) -> Result<Option<Vec<u8>>> {
        self.anyone(row!("hash.unbase64"))?;
        Ok(host::hash::unbase64(text.as_bytes()))
    }
}

impl time::Host for Held {
    fn now_ms(&mut self) -> Result<u64> {
        Ok(host::time::now_ms(self.anyone(row!("time.now_ms"))?))
    }

    fn elapsed_ms(&mut self) -> Result<f64> {
        let cx = self.anyone(row!("time.now_ms"))?;
        // Without an exchange nothing has begun.
        Ok(cx.world.as_ref().map_or(0.0, |_| cx.visit.started.elapsed().as_secs_f64() * 1000.0))
    }

    fn date(&mut self, unix_ms: Option<i64>, offset_minutes: Option<i32>) -> Result<time::Moment> {
        let cx = self.anyone(row!("time.date"))?;
        let now = || host::time::now_ms(cx) as i64;
        let date = host::time::date(unix_ms.unwrap_or_else(now), i64::from(offset_minutes.unwrap_or(0)));
        let host::time::Date { year, month, day, hour, minute, second, weekday } = date;
        Ok(time::Moment { year, month, day, hour, minute, second, weekday })
    }

    async fn sleep(&mut self, ms: u32) -> Given<()> {
        let cx = policy!(self, "time.sleep");
        Ok(text(turn::hosted(host::time::sleep(&cx, f64::from(ms))).await))
    }
}

impl rand::Host for Held {
    fn number(&mut self) -> Result<f64> {
        Ok(random(self.anyone(row!("rand.number"))?))
    }

    fn int(&mut self, first: i64, last: i64) -> Result<i64> {
        let cx = self.anyone(row!("rand.int"))?;
        let (first, last) = (first.min(last), first.max(last));
        let width = (i128::from(last) - i128::from(first) + 1) as f64;
        let step = (random(cx) * width) as i128;
        Ok(i64::try_from(i128::from(first) + step).unwrap_or(last).min(last))
    }

    fn id(&mut self) -> Result<String> {
        let cx = self.anyone(row!("rand.id"))?;
        let half = || (random(cx) * (1u64 << 48) as f64) as u64;
        Ok(format!("{:012x}{:012x}", half(), half()))
    }
}

fn random(cx: &Cx) -> f64 {
    cx.world.as_ref().map_or_else(fastrand::f64, |world| world.random())
}

impl pick::Host for Held {
    fn weighted(&mut self, weights: Vec<pick::Weight>, key: Option<String>) -> Result<Option<String>> {
        let cx = self.anyone(row!("pick.weighted"))?;
        let weights: Vec<(String, f64)> = weights.into_iter().map(|weight| (weight.name, weight.weight)).collect();
        let point = key.map_or_else(|| random(cx), |key| host::pick::point(key.as_bytes()));
        let name = host::pick::weighted(&weights, point).map_err(|error| Error::msg(error.0))?;
        Ok(name.map(str::to_owned))
    }

    fn hash(&mut self, names: Vec<String>, key: String) -> Result<Option<String>> {
        self.anyone(row!("pick.hash"))?;
        Ok(host::pick::hash(&names, key.as_bytes()).map(str::to_owned))
    }
}

impl tokens::Host for Held {
    fn estimate(&mut self, text: String) -> Result<u64> {
        self.anyone(row!("tokens.estimate"))?;
        Ok(host::targets::tokens(text.as_bytes()))
    }
}

impl re::Host for Held {
    fn test(&mut self, pattern: String, subject: String) -> Given<bool> {
        let cx = self.anyone(row!("re.test"))?;
        Ok(text(cx.lease.work(subject.len(), || host::re::test(&pattern, &subject))))
    }

    fn match_(&mut self, pattern: String, subject: String) -> Given<Option<Vec<String>>> {
        let cx = self.anyone(row!("re.match"))?;
        let groups = text(cx.lease.work(subject.len(), || host::re::first(&pattern, &subject)));
        Ok(groups.map(|groups| groups.map(|groups| groups.into_iter().map(str::to_owned).collect())))
    }

    fn find(&mut self, pattern: String, subject: String, max: Option<u32>) -> Given<Vec<re::Found>> {
        let cx = self.anyone(row!("re.find"))?;
        let max = max.map_or(host::re::MAX_MATCHES, |max| max as usize);
        let found = text(cx.lease.work(subject.len(), || host::re::find(&pattern, &subject, max)));
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
        let cx = self.anyone(row!("re.replace"))?;
        let replaced = text(cx.lease.work(subject.len(), || host::re::replace(&pattern, &subject, &with)));
        Ok(replaced.map(|(text, count)| re::Replaced { text, count: u32::try_from(count).unwrap_or(u32::MAX) }))
    }
}
