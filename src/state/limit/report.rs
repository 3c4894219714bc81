//! What the counts say to others: rows that outlive the process, and the state that operators ask for.
//!
//! Rows hold what was settled, never what is only reserved: a process that dies owes nothing to what died with it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::adhoc::PREFIX;
use super::calendar::{Calendar, Period};
use super::cell::{Cell, Counts, Slot, Threshold};
use super::meter::{Meter, Shape, Unit};
use super::rule::{Rule, Window};
use super::shared::{Elsewhere, Found, Known};
use super::{Limits, WHOLE};

/// One window's count as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub rule: String,
    pub partition: String,
    pub unit: Unit,
    pub shape: Shape,
    pub share: String,
    pub limit: u64,
    pub start: u64,
    pub cur: u128,
    pub prev: u128,
    pub told: Threshold,
    pub told_start: u64,
}

impl Row {
    /// Whether nothing of it is left by now, so that it need not be brought back.
    pub fn is_over(&self, now: u64) -> bool {
        let mut meter = self.meter();
        meter.roll(self.shape, self.limit, now);
        // What was told of a window is of use as long as that goes on, whatever has been given back.
        meter.is_empty() && (self.told.percent == 0 || meter.start != self.start)
    }

    fn meter(&self) -> Meter {
        Meter { start: self.start, cur: self.cur, prev: self.prev, ..Meter::default() }
    }
}

impl Shape {
    /// As text, for rows and keys of a store.
    pub fn text(self) -> String {
        match self {
            Shape::Fixed(length) => format!("fixed:{length}"),
            Shape::Sliding(length) => format!("sliding:{length}"),
            Shape::Bucket(length) => format!("bucket:{length}"),
            Shape::Calendar(calendar) => format!("{}:{}", calendar.period.as_str(), calendar.offset),
            Shape::Total => "total".to_owned(),
            Shape::InFlight => "in_flight".to_owned(),
        }
    }

    /// Reads what [`Shape::text`] wrote.
    pub fn from_text(text: &str) -> Option<Shape> {
        let (word, number) = match text {
            "total" => return Some(Shape::Total),
            "in_flight" => return Some(Shape::InFlight),
            _ => text.split_once(':')?,
        };
        let length = || number.parse().ok().filter(|length| *length > 0);
        Some(match word {
            "fixed" => Shape::Fixed(length()?),
            "sliding" => Shape::Sliding(length()?),
            "bucket" => Shape::Bucket(length()?),
            _ => {
                let period = Period::ALL.into_iter().find(|period| period.as_str() == word)?;
                Shape::Calendar(Calendar { period, offset: number.parse().ok()? })
            }
        })
    }

    /// For people: `1m`, `day`, `total`.
    pub fn words(self) -> String {
        match self {
            Shape::Fixed(length) | Shape::Sliding(length) | Shape::Bucket(length) => {
                humantime::format_duration(std::time::Duration::from_millis(length)).to_string().replace(' ', "")
            }
            Shape::Calendar(calendar) => calendar.period.as_str().to_owned(),
            Shape::Total => "total".to_owned(),
            Shape::InFlight => "in flight".to_owned(),
        }
    }
}

impl Limits {
    /// The lasting counts that changed since the last call.
    pub fn changed(&self) -> Vec<Row> {
        let cells = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows = Vec::with_capacity(cells.len());
        for cell in cells {
            // Before reading: what changes from here on makes it dirty again.
            cell.dirty.store(false, Ordering::Release);
            write_down(&cell, &cell.lock(), &mut rows);
        }
        rows
    }

    /// Puts counts back that were written down, as far as their windows are not over.
    pub fn restore(&self, rows: Vec<Row>, now: u64) {
        for row in rows.into_iter().filter(|row| !row.is_over(now)) {
            let name: Arc<str> = Arc::from(row.rule.as_str());
            let cell = self.cells.get(&name, &row.partition, now);
            let mut counts = cell.lock();
            let place = counts.place(row.unit, row.shape, &Arc::from(row.share.as_str()), row.limit);
            let slot = &mut counts.slots[place];
            if *cell.partition == *row.partition {
                slot.meter = row.meter();
                (slot.told, slot.told_start) = (row.told, row.told_start);
                continue;
            }
            // There is no room for it: it counts with the others that have none.
            let mut meter = row.meter();
            meter.roll(row.shape, row.limit, now);
            slot.roll(now);
            slot.meter.start = slot.meter.start.max(meter.start);
            slot.meter.cur += meter.cur;
            slot.meter.prev += meter.prev;
        }
    }

    /// The rules, and what guests count, with how full their fullest partitions are. Of counts that are shared, what all processes have together
    /// as the server last said, and this process's own; `elsewhere` are those that it has not met.
    pub fn state(&self, rules: &[Arc<Rule>], now: u64, top: usize, elsewhere: Option<&Elsewhere>) -> Value {
        // What guests count is this process's, and so is its time.
        let guests = self.guests(now, top);
        let (now, shares) = (self.time(now), self.shared().is_some());
        let rules = rules.iter().map(|rule| {
            let mut partitions = Vec::new();
            let mut count = 0;
            self.cells.each(|cell| {
                if cell.rule == rule.name {
                    count += 1;
                    partitions.push(partition(cell, rule, now, shares));
                }
            });
            for found in elsewhere.iter().flat_map(|known| &known.found).filter(|found| found.rule.name == rule.name) {
                count += 1;
                partitions.push(unmet(found, now));
            }
            partitions.sort_by(|a: &(f64, Value), b| b.0.total_cmp(&a.0));
            partitions.truncate(top);
            let windows = rule.windows.iter().map(
                |window| json!({"unit": window.unit.as_str(), "limit": window.limit, "window": window.shape.words()}),
            );
            json!({
                "name": &*rule.name,
                "hard": rule.hard,
                "windows": windows.collect::<Vec<_>>(),
                "partitions": count,
                "fullest": partitions.into_iter().map(|(_, state)| state).collect::<Vec<_>>(),
            })
        });
        let mut state = json!({"keys": self.keys(), "rules": rules.collect::<Vec<_>>(), "guests": guests});
        if let Some(known) = elsewhere {
            state["others"] = match known.known {
                Known::All => "all",
                Known::Some => "some",
                Known::None => "away",
            }
            .into();
        }
        state
    }

    /// What guests count, by namespace, with the keys whose windows are fullest.
    fn guests(&self, now: u64, top: usize) -> Vec<Value> {
        let mut spaces: BTreeMap<String, Vec<(f64, Arc<Cell>)>> = BTreeMap::new();
        self.cells.each(|cell| {
            let Some(name) = cell.rule.strip_prefix(PREFIX) else { return };
            spaces.entry(name.to_owned()).or_default().push((fullest_made_up(cell, now), cell.clone()));
        });
        let space = |(name, mut keys): (String, Vec<(f64, Arc<Cell>)>)| {
            let count = keys.len();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            keys.truncate(top);
            let fullest: Vec<_> = keys.iter().map(|(_, cell)| made_up(cell, now, top)).collect();
            json!({"namespace": name, "partitions": count, "fullest": fullest})
        };
        spaces.into_iter().map(space).collect()
    }

    /// Partitions counted apart, all rules together.
    pub fn keys(&self) -> usize {
        self.cells.count()
    }

    /// Sets counts of a rule to nothing used: of one partition, or of all. What is reserved now stays so. Gives the number
    /// of partitions.
    pub fn reset(&self, rule: &str, partition: Option<&str>) -> usize {
        self.reset_but(rule, partition, |_| (0, 0))
    }

    /// The same for a reset that another process has made while this one had listened so often: what it has counted while
    /// it could not hear of it stays, too.
    pub(super) fn reset_heard(&self, rule: &str, partition: Option<&str>, listened: u64) {
        let now = self.time(crate::state::unix_ms());
        self.reset_but(rule, partition, |slot| {
            slot.roll(now);
            slot.since_away(listened, now)
        });
    }

    /// Resets all but what `keep` says of a slot's windows, the present one and the one before.
    fn reset_but(&self, rule: &str, partition: Option<&str>, keep: impl Fn(&mut Slot) -> (u128, u128)) -> usize {
        let mut count = 0;
        let mut reset = |cell: &Arc<Cell>| {
            for slot in &mut cell.lock().slots {
                let (cur, prev) = keep(slot);
                let meter = &mut slot.meter;
                (meter.cur, meter.prev) = (meter.held.max(cur), meter.held_prev.max(prev));
                (slot.told, slot.told_start, slot.owed) = (Threshold::default(), 0, None);
                // Void: what was leased counts as used where it was taken, until this process states its counts anew.
                (slot.lease, slot.heard, slot.away) = (None, None, None);
            }
            cell.ring();
            self.changed_in(cell);
            count += 1;
        };
        match partition {
            Some(partition) => self.cells.find(rule, partition).iter().for_each(&mut reset),
            None => self.cells.each(|cell| {
                if &*cell.rule == rule {
                    reset(cell);
                }
            }),
        }
        count
    }
}

/// How full the fullest window is, and the state of all of them.
fn partition(cell: &Cell, rule: &Rule, now: u64, shares: bool) -> (f64, Value) {
    let mut counts = cell.lock();
    let mut fullest: f64 = 0.0;
    let mut windows = Vec::new();
    for window in &rule.windows {
        let place = counts.place(window.unit, window.shape, &WHOLE, window.limit);
        let slot = &mut counts.slots[place];
        slot.roll(now);
        let (own, settled) = (slot.meter.used(window.shape, now), slot.meter.settled(window.shape, now));
        // What was leased and not given out is nobody's yet. What was counted while the server is away it cannot say.
        let heard = slot.heard.as_ref().map(|heard| heard.meter.used(window.shape, now).saturating_sub(slot.leased()));
        let used = heard.map_or(own, |heard| heard.max(own));
        let meter = slot.heard.as_ref().filter(|_| used > own).map_or(&slot.meter, |heard| &heard.meter);
        let (full, mut told) = window_state(window, used, own.saturating_sub(settled), meter, now);
        fullest = fullest.max(full);
        if shares {
            told["used_here"] = own.into();
            told["heard_ms_ago"] = slot.heard.as_ref().map(|heard| now.saturating_sub(heard.at)).into();
        }
        windows.push(told);
    }
    (fullest, json!({"partition": &*cell.partition, "windows": windows}))
}

/// The same of a partition that only other processes have met.
fn unmet(found: &Found, now: u64) -> (f64, Value) {
    let mut fullest: f64 = 0.0;
    let mut windows = Vec::new();
    for (window, there) in found.rule.windows.iter().zip(&found.windows) {
        let (full, mut told) = window_state(window, there.used, 0, &there.meter(window.shape), now);
        told["used_here"] = 0.into();
        told["heard_ms_ago"] = 0.into();
        fullest = fullest.max(full);
        windows.push(told);
    }
    (fullest, json!({"partition": found.partition, "windows": windows}))
}

/// How full the fullest of the windows is that guests have made up for a key.
fn fullest_made_up(cell: &Cell, now: u64) -> f64 {
    cell.lock().slots.iter_mut().map(|slot| fullness(slot, now)).fold(0.0, f64::max)
}

/// The state of the fullest of them, without a unit: what their amounts are the guest alone knows.
fn made_up(cell: &Cell, now: u64, top: usize) -> Value {
    let mut counts = cell.lock();
    let mut slots: Vec<_> = counts.slots.iter_mut().map(|slot| (fullness(slot, now), &*slot)).collect();
    slots.sort_by(|a, b| b.0.total_cmp(&a.0));
    let windows = slots.into_iter().take(top).map(|(_, slot)| {
        let (used, settled) = (slot.meter.used(slot.shape, now), slot.meter.settled(slot.shape, now));
        json!({
            "window": slot.shape.words(),
            "limit": slot.limit,
            "used": used,
            "reserved": used.saturating_sub(settled),
            "remaining": slot.limit.saturating_sub(used),
            "reset_ms": slot.meter.reset(slot.shape, slot.limit, now),
        })
    });
    json!({"partition": &*cell.partition, "windows": windows.collect::<Vec<_>>()})
}

fn fullness(slot: &mut Slot, now: u64) -> f64 {
    slot.roll(now);
    slot.meter.used(slot.shape, now) as f64 / slot.limit.max(1) as f64
}

/// How full a window is, and what is told of it.
fn window_state(window: &Window, used: u64, reserved: u64, meter: &Meter, now: u64) -> (f64, Value) {
    let told = json!({
        "unit": window.unit.as_str(),
        "window": window.shape.words(),
        "used": used,
        "reserved": reserved,
        "remaining": window.limit.saturating_sub(used),
        "reset_ms": meter.reset(window.shape, window.limit, now),
    });
    (used as f64 / window.limit.max(1) as f64, told)
}

fn write_down(cell: &Cell, counts: &Counts, rows: &mut Vec<Row>) {
    for slot in counts.slots.iter().filter(|slot| slot.shape.lasts()) {
        rows.push(Row {
            rule: cell.rule.to_string(),
            partition: cell.partition.to_string(),
            unit: slot.unit,
            shape: slot.shape,
            share: slot.share.to_string(),
            limit: slot.limit,
            start: slot.meter.start,
            cur: slot.meter.cur - slot.meter.held,
            prev: slot.meter.prev - slot.meter.held_prev,
            told: slot.owed.unwrap_or(slot.told),
            told_start: slot.told_start,
        });
    }
}
