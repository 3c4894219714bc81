//! What limits cost an exchange: five rules with two windows each, reserved and settled, in memory.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use portcullis::state::limit::meter::{Shape, Unit};
use portcullis::state::limit::rule::{Exhausted, Facts, Part, Rule, Rules, Window};
use portcullis::state::limit::{Amounts, Limits};

const NOW: u64 = 1_700_000_000_000;

/// Rules as an operator would stack them: by key, project, model, address, and for all together.
fn rules(count: usize) -> Rules {
    let per = [vec![Part::Key], vec![Part::Project], vec![Part::Key, Part::Model], vec![Part::Ip], vec![]];
    let rule = |at: usize| Rule {
        name: format!("rule-{at}").into(),
        conditions: vec![],
        per: per[at % per.len()].clone(),
        windows: vec![
            Window { unit: Unit::Requests, shape: Shape::Sliding(60_000), limit: u64::MAX >> 20 },
            Window { unit: Unit::Tokens, shape: Shape::Sliding(60_000), limit: u64::MAX >> 20 },
        ],
        exhausted: Exhausted::Reject,
        class: Part::Key,
        shares: vec![],
        hard: true,
        unpriced: false,
        lease: 0,
        budget: None,
    };
    Rules::new((0..count).map(rule).collect())
}

fn exchange(c: &mut Criterion) {
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let facts = Facts {
        key: "search-prod",
        project: Some("search"),
        user: None,
        model: "fast",
        endpoint: "/v1/chat/completions",
        ip: "203.0.113.9".parse().ok(),
        headers: &headers,
        metadata: &metadata,
        provider: None,
        target: None,
    };
    let estimate = Amounts { requests: 1, input: 500, output: 1024, money: Some(12_000) };
    let actual = Amounts { requests: 1, input: 480, output: 210, money: Some(4000) };
    let mut group = c.benchmark_group("limit");
    for count in [1, 5] {
        let (limits, rules) = (Arc::new(Limits::new()), rules(count));
        group.bench_function(format!("{count} rules, reserve and settle"), |b| {
            b.iter(|| {
                let charges = limits.charges(&rules.of_exchange, black_box(&facts), NOW);
                if let Ok(hold) = limits.reserve(&charges, &estimate, NOW) {
                    hold.settle(&actual, NOW);
                }
            });
        });
        group.bench_function(format!("{count} rules, reserve"), |b| {
            b.iter(|| {
                let charges = limits.charges(&rules.of_exchange, black_box(&facts), NOW);
                black_box(limits.reserve(&charges, &estimate, NOW).is_ok())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, exchange);
criterion_main!(benches);
