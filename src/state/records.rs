//! The newest exchanges, as their log lines: a ring that `GET /v1/generation` looks into.
//!
//! The id names its slot, so keeping and finding need no index. Never grows.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde_json::Value;

/// A ring of log lines.
#[derive(Debug)]
pub struct Records {
    next: AtomicU32,
    // One lock a slot: two exchanges meet only when the ring has turned once between them.
    slots: Box<[Mutex<Bytes>]>,
}

impl Records {
    pub fn new(keep: usize) -> Self {
        Records { next: AtomicU32::new(0), slots: (0..keep).map(|_| Mutex::default()).collect() }
    }

    /// A fresh id: `gen-`, 16 random hexadecimal digits, and 8 that name the slot.
    pub fn id(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let number = (u128::from(fastrand::u64(..)) << 32) | u128::from(self.next.fetch_add(1, Ordering::Relaxed));
        let mut id = String::with_capacity(28);
        id.push_str("gen-");
        for digit in (0..24).rev() {
            id.push(char::from(HEX[(number >> (digit * 4)) as usize & 15]));
        }
        id
    }

    /// Whether this is an id as they are given here.
    pub fn is_id(&self, id: &str) -> bool {
        self.slot(id).is_some()
    }

    /// Keeps the log line of the exchange with this id.
    pub fn keep(&self, id: &str, line: Bytes) {
        if let Some(slot) = self.slot(id) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    }

    /// The record with this id, if it is still there.
    pub fn find(&self, id: &str) -> Option<Value> {
        let line = self.slot(id)?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let record: Value = serde_json::from_slice(&line).ok()?;
        (record["id"] == id).then_some(record)
    }

    /// The newest record of a caller's key whose answer has this id at its provider: what clients find in the answer
    /// itself. Callers that share an answer share its id. Looks through the whole ring.
    pub fn find_upstream(&self, id: &str, key: Option<&str>) -> Option<Value> {
        let quoted = serde_json::to_string(id).ok()?;
        let mark = format!("\"upstream_id\":{quoted}");
        let finder = memchr::memmem::Finder::new(&mark);
        let lines = self.slots.iter().map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let found = lines.filter(|line| finder.find(line).is_some());
        let records = found.filter_map(|line| serde_json::from_slice::<Value>(&line).ok());
        let fits = |record: &Value| record["upstream_id"] == id && record["key"].as_str() == key;
        records.filter(fits).max_by(|a, b| a["time"].as_str().cmp(&b["time"].as_str()))
    }

    /// Adds a field to the record with this id, if it is still there. False when it is not.
    pub fn amend(&self, id: &str, field: &str, value: Value) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let mut line = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match serde_json::from_slice::<Value>(&line) {
            Ok(mut record) if record["id"] == id => {
                record[field] = value;
                *line = record.to_string().into();
                true
            }
            _ => false,
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, id: &str) -> Option<&Mutex<Bytes>> {
        let number = id.strip_prefix("gen-").filter(|digits| digits.len() == 24)?.get(16..)?;
        let number = usize::from_str_radix(number, 16).ok()?;
        self.slots.get(number.checked_rem(self.slots.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_found_and_the_oldest_forgotten() {
        let records = Records::new(2);
        let ids: Vec<String> = (0..3).map(|_| records.id()).collect();
        for id in &ids {
            records.keep(id, format!("{{\"id\":\"{id}\"}}").into());
        }
        assert!(records.find(&ids[0]).is_none());
        assert!(records.find(&ids[1]).is_some() && records.find(&ids[2]).is_some());
    }

    #[test]
    fn a_record_is_found_by_the_providers_id_and_can_be_amended() {
        let records = Records::new(4);
        let ids: Vec<String> = (0..3).map(|_| records.id()).collect();
        for (at, id) in ids.iter().enumerate() {
            let key = ["one", "one", "two"][at];
            let line = format!("{{\"time\":\"{at}\",\"id\":\"{id}\",\"key\":\"{key}\",\"upstream_id\":\"resp_1\"}}");
            records.keep(id, line.into());
        }
        let found = |id: &str, key: &str| records.find_upstream(id, Some(key)).map(|record| record["id"].clone());
        assert_eq!(found("resp_1", "one"), Some(ids[1].as_str().into()), "the newest of this caller counts");
        assert_eq!(found("resp_1", "two"), Some(ids[2].as_str().into()));
        assert!(found("resp_", "one").is_none() && found("", "one").is_none());
        assert!(records.amend(&ids[0], "feedback", 1.into()));
        assert_eq!(records.find(&ids[0]).expect("a record")["feedback"], 1);
        assert!(!records.amend("gen-000000000000000000000000", "feedback", 1.into()));
    }

    #[test]
    fn a_ring_without_room_keeps_nothing() {
        let records = Records::new(0);
        let id = records.id();
        records.keep(&id, format!("{{\"id\":\"{id}\"}}").into());
        assert!(records.find(&id).is_none());
    }

    #[test]
    fn odd_ids_find_nothing() {
        let records = Records::new(2);
        for id in ["", "gen-", "gen-zzzzzzzzzzzzzzzzzzzzzzzz", "gen-éééééééééééé", "chatcmpl-1"] {
            assert!(records.find(id).is_none() && !records.is_id(id), "{id}");
        }
    }
}
