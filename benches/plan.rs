//! Planning: a lone target, and ten with every measure read. `cargo bench --bench plan`.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::generation::{Builder, Generation};
use portcullis::route::Target;
use portcullis::route::facts::{Facts, Health, Needs, Source};
use portcullis::route::planner::{Request, plan};
use portcullis::route::policy::Policy;
use portcullis::state::health::{self, End, Measure, Millis, Standing};

struct Ask;

impl Facts for Ask {
    fn stream(&self) -> bool {
        true
    }
    fn value(&self, _: &Source) -> Option<serde_json::Value> {
        Some("user-17".into())
    }
    fn tokens(&self) -> u64 {
        500
    }
    fn tokens_at_most(&self) -> u64 {
        500
    }
    fn max_tokens(&self) -> Option<u64> {
        None
    }
    fn needs(&self) -> Needs {
        Needs::NONE
    }
    fn parameters(&self) -> Vec<String> {
        Vec::new()
    }
    fn loses(&self, _: &Target) -> Option<(String, String)> {
        None
    }
}

struct Ward<'a>(&'a health::Health, Millis);

impl Health for Ward<'_> {
    fn now(&self) -> Millis {
        self.1
    }
    fn standing(&self, target: &Arc<Target>) -> Standing {
        target.record(self.0).standing(self.1)
    }
    fn measure(&self, target: &Arc<Target>) -> Measure {
        target.record(self.0).measure(self.1)
    }
}

fn generation() -> Generation {
    let targets: Vec<String> = (0..10).map(|number| format!("p/m{number}")).collect();
    let by = |by: &str| format!("{{ balance: {{ by: {by}, targets: [{}] }} }}", targets.join(", "));
    let hash = format!("{{ balance: {{ by: hash, hash: session, targets: [{}] }} }}", targets.join(", "));
    let text = format!(
        "providers: {{ p: {{ dialect: openai_chat, base_url: 'http://127.0.0.1:9/v1' }} }}\n\
         models: {{ lone: p/m0, weighted: {}, latency: {}, hash: {hash} }}\n",
        by("weighted"),
        by("latency")
    );
    let path: PathBuf = std::env::temp_dir().join(format!("portcullis-plan-{}.yaml", std::process::id()));
    std::fs::write(&path, text).expect("is writable");
    let built = Builder::new(Some(path.clone()), Box::new(|_| None)).build(1);
    std::fs::remove_file(&path).expect("is there");
    built.expect("builds")
}

fn planning(c: &mut Criterion) {
    let generation = generation();
    let health = health::Health::default();
    // Measures to read: a thousand answers of each target.
    for target in generation.tree("latency").expect("is there").targets() {
        for round in 0..1000 {
            let mut flight = target.record(&health).begin(round).expect("is closed");
            flight.first_content(round + 20);
            flight.end(round + 200, End::Good { output_tokens: Some(50) });
        }
    }
    for model in ["lone", "weighted", "latency", "hash"] {
        let trees = [generation.tree(model).expect("is there")];
        let policy = Policy::default();
        let mut seed = 0;
        c.bench_function(&format!("plan/{model}"), |bench| {
            bench.iter(|| {
                seed += 1;
                let ward = Ward(&health, 2000);
                let request = Request {
                    facts: &Ask,
                    health: &ward,
                    policy: &policy,
                    seed,
                    kept: None,
                    trace: false,
                    no_fallbacks: false,
                };
                black_box(plan(black_box(&trees), &request))
            });
        });
    }
    let targets = generation.tree("latency").expect("is there").targets();
    c.bench_function("measure/one", |bench| bench.iter(|| black_box(targets[3].record(&health).measure(2000))));
}

criterion_group!(benches, planning);
criterion_main!(benches);
