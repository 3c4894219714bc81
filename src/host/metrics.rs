//! Metrics of guests: names that their manifest declares, with few labels and a bound on series.
//!
//! Counting is `state`'s; here it is checked that a guest counts only what it declared.

use serde::Deserialize;

use super::{Cx, HostError};
use crate::state::tally::{Kind, Series};

/// Most metrics and labels that a manifest may declare.
const MAX_LABELS: usize = 4;
const MAX_LABEL_BYTES: usize = 128;

/// Labels that every metric of a guest has, and every histogram: one of the same name would make a scrape unreadable.
const GUEST: &str = "guest";
const BUCKET: &str = "le";

/// A metric as a manifest declares it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(default)]
    pub help: String,
    /// Names of its labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Upper ends of a histogram's buckets.
    #[serde(default)]
    pub buckets: Vec<f64>,
}

impl Declared {
    /// # Errors
    /// What does not fit a metric.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if !word(name) || !self.labels.iter().all(|label| word(label)) {
            return Err(format!("metric `{name}`: write names of lower-case letters, digits and `_`"));
        }
        if self.labels.iter().any(|label| label == GUEST) {
            return Err(format!(
                "metric `{name}`: the label `{GUEST}` names the policy in every metric; take another name"
            ));
        }
        if let Some((_, twice)) = self.labels.iter().enumerate().find(|(at, label)| self.labels[..*at].contains(label))
        {
            return Err(format!("metric `{name}` has the label `{twice}` twice"));
        }
        if self.kind == Kind::Histogram && self.labels.iter().any(|label| label == BUCKET) {
            return Err(format!(
                "metric `{name}`: the label `{BUCKET}` is that of a histogram's buckets; take another name"
            ));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(format!("metric `{name}` has more than {MAX_LABELS} labels"));
        }
        if self.kind != Kind::Histogram && !self.buckets.is_empty() {
            return Err(format!("metric `{name}`: only a histogram has buckets"));
        }
        if !self.buckets.is_sorted() {
            return Err(format!("metric `{name}`: write its buckets in ascending order"));
        }
        Ok(())
    }
}

/// Counts, sets or observes.
///
/// # Errors
/// The manifest declares no such metric, of this type, with these labels; or the value does not fit one.
pub fn record(cx: &Cx, name: &str, kind: Kind, value: f64, labels: &[(String, String)]) -> Result<(), HostError> {
    let declared = cx.guest.metrics.get(name).ok_or_else(|| {
        let known: Vec<&str> = cx.guest.metrics.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        HostError(format!("the manifest declares no metric `{name}`; it has: {known}"))
    })?;
    if declared.kind != kind {
        return Err(HostError(format!("the metric `{name}` is a {}", declared.kind.as_str())));
    }
    takes(kind, name, value)?;
    if let Some((unknown, _)) = labels.iter().find(|(label, _)| !declared.labels.contains(label)) {
        return Err(HostError(format!("the metric `{name}` has no label `{unknown}`; declare it in the manifest")));
    }
    let value_of = |label: &String| {
        let given = labels.iter().find(|(known, _)| known == label);
        given.map_or("", |(_, value)| &value[..value.floor_char_boundary(MAX_LABEL_BYTES)])
    };
    let labels: Vec<(&str, &str)> = declared.labels.iter().map(|label| (label.as_str(), value_of(label))).collect();
    let series = Series { guest: &cx.guest.name, name, labels: &labels };
    cx.world()?.state().tally.record(&series, kind, &declared.help, &declared.buckets, value);
    Ok(())
}

/// Whether a metric of this type can take the value.
///
/// # Errors
/// Why it cannot.
fn takes(kind: Kind, name: &str, value: f64) -> Result<(), HostError> {
    if !value.is_finite() {
        // Once added it would be in every later sum.
        return Err(HostError(format!("{value} is nothing that the metric `{name}` can hold; write a finite number")));
    }
    if kind == Kind::Counter && value < 0.0 {
        return Err(HostError(format!("a counter only grows; {value} is no amount to add")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_spoil_a_metric_for_good_is_refused() {
        for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
            assert_eq!(takes(kind, "visits", 1.5), Ok(()));
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(
                    takes(kind, "visits", value).expect_err("is refused").0.contains("`visits` can hold"),
                    "{value}"
                );
            }
        }
        assert!(takes(Kind::Counter, "visits", -1.0).is_err());
        assert_eq!(takes(Kind::Gauge, "visits", -1.0), Ok(()));
    }

    #[test]
    fn a_label_that_every_metric_has_or_that_stands_twice_is_refused() {
        let check = |kind, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Declared { kind, help: String::new(), labels, buckets: Vec::new() }.check("visits")
        };
        assert_eq!(check(Kind::Counter, &["tier", "le"]), Ok(()));
        for (kind, labels, why) in [
            (Kind::Counter, &["tier", "guest"][..], "`guest` names the policy"),
            (Kind::Gauge, &["tier", "team", "tier"][..], "the label `tier` twice"),
            (Kind::Histogram, &["le"][..], "`le` is that of a histogram's buckets"),
        ] {
            assert!(check(kind, labels).expect_err("is refused").contains(why), "{why}");
        }
    }
}
