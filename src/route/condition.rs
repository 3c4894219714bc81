//! Conditions over a request, compiled once and decided for each request that meets them.
//!
//! Pure. A test of a value that is not there fails, `ne`, `not_in` and `exists: false` apart.

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::facts::{Facts, Source};

/// What a request must look like.
#[derive(Debug, Clone)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Test(Source, Test),
}

/// One comparison.
#[derive(Debug, Clone)]
pub enum Test {
    Eq(Value),
    Ne(Value),
    Gt(f64),
    Gte(f64),
    Lt(f64),
    Lte(f64),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Regex(Arc<Regex>),
    Exists(bool),
}

impl Condition {
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        match self {
            Condition::All(inner) => inner.iter().all(|condition| condition.holds(facts)),
            Condition::Any(inner) => inner.iter().any(|condition| condition.holds(facts)),
            Condition::Not(inner) => !inner.holds(facts),
            Condition::Test(source, test) => test.holds(facts.value(source).as_ref()),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> bool {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return matches!(self, Test::Ne(_) | Test::NotIn(_) | Test::Exists(false));
        };
        let number = |compare: fn(&f64, &f64) -> bool, bound: &f64| number(value).is_some_and(|it| compare(&it, bound));
        match self {
            Test::Eq(wanted) => same(value, wanted),
            Test::Ne(wanted) => !same(value, wanted),
            Test::Gt(bound) => number(f64::gt, bound),
            Test::Gte(bound) => number(f64::ge, bound),
            Test::Lt(bound) => number(f64::lt, bound),
            Test::Lte(bound) => number(f64::le, bound),
            Test::In(list) => list.iter().any(|wanted| same(value, wanted)),
            Test::NotIn(list) => !list.iter().any(|wanted| same(value, wanted)),
            Test::Regex(pattern) => value.as_str().is_some_and(|text| pattern.is_match(text)),
            Test::Exists(wanted) => *wanted,
        }
    }
}

/// Equal in meaning: headers and labels are always text, also when they hold a number or a truth value.
fn same(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::String(text), Value::Number(_)) => number(wanted) == text.parse().ok(),
        (Value::Number(_), Value::Number(_)) => number(value) == number(wanted),
        (Value::String(text), Value::Bool(wanted)) => text.parse() == Ok(*wanted),
        (Value::Number(number), Value::String(text)) => number.to_string() == *text,
        (Value::Bool(value), Value::String(text)) => text.parse() == Ok(*value),
        _ => value == wanted,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_test_holds_when_it_should() {
        let regex = |pattern: &str| Test::Regex(Arc::new(Regex::new(pattern).expect("a pattern")));
        let gone = Value::Null;
        for (test, value, holds) in [
            (Test::Eq(json!("gold")), json!("gold"), true),
            (Test::Eq(json!("gold")), json!("Gold"), false),
            (Test::Eq(json!(5)), json!("5"), true),
            (Test::Eq(json!(5)), json!(5.0), true),
            (Test::Eq(json!(5)), json!("five"), false),
            (Test::Eq(json!(true)), json!("true"), true),
            (Test::Eq(json!("7")), json!(7), true),
            (Test::Eq(json!(["a"])), json!(["a"]), true),
            (Test::Eq(json!("x")), gone.clone(), false),
            (Test::Ne(json!("gold")), json!("silver"), true),
            (Test::Ne(json!("gold")), json!("gold"), false),
            (Test::Ne(json!("gold")), gone.clone(), true),
            (Test::Gt(10.0), json!(10), false),
            (Test::Gt(10.0), json!("11"), true),
            (Test::Gt(10.0), json!("eleven"), false),
            (Test::Gt(10.0), gone.clone(), false),
            (Test::Gte(10.0), json!(10), true),
            (Test::Lt(10.0), json!(9.5), true),
            (Test::Lt(10.0), json!("NaN"), false),
            (Test::Lte(10.0), json!(10), true),
            (Test::Lte(10.0), json!(true), false),
            (Test::In(vec![json!("a"), json!(2)]), json!("2"), true),
            (Test::In(vec![json!("a"), json!(2)]), json!("b"), false),
            (Test::NotIn(vec![json!("a")]), json!("b"), true),
            (Test::NotIn(vec![json!("a")]), gone.clone(), true),
            (Test::NotIn(vec![json!("a")]), json!("a"), false),
            (regex("^eu-"), json!("eu-west"), true),
            (regex("^eu-"), json!("us-eu-1"), false),
            (regex("."), json!(1), false),
            (Test::Exists(true), json!(false), true),
            (Test::Exists(true), gone.clone(), false),
            (Test::Exists(false), gone, true),
        ] {
            assert_eq!(test.holds(Some(&value)), holds, "{test:?} of {value}");
        }
        assert!(Test::Exists(false).holds(None) && !Test::Exists(true).holds(None));
    }
}
