//! Bills against figures worked out by hand and by another implementation; the catalogue's files against its rules.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::{Catalogue, Cost, Modality, Stated, nano_to_decimal};
use crate::chat::Usage;
use crate::provider;

/// A catalogue with one provider `p` and one model `m` of this cost.
fn priced(cost: &str) -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.overlay(&format!(r#"{{"p":{{"models":{{"m":{{"cost":{cost}}}}}}}}}"#)).expect("valid cost");
    catalogue
}

fn bill(cost: &str, usage: Usage) -> String {
    priced(cost).lookup("p", "m").expect("a price").cost(&usage).decimal()
}

#[derive(Deserialize)]
struct Fixture {
    oracle: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    cost: Box<serde_json::value::RawValue>,
    usage: FixtureUsage,
    usd: String,
}

#[derive(Deserialize)]
struct FixtureUsage {
    input: u64,
    output: u64,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
    reasoning: Option<u64>,
    input_audio: Option<u64>,
    output_audio: Option<u64>,
}

impl From<FixtureUsage> for Usage {
    fn from(from: FixtureUsage) -> Usage {
        Usage {
            input: from.input,
            output: from.output,
            cache_read: from.cache_read,
            cache_write: from.cache_write,
            cache_write_1h: from.cache_write_1h,
            reasoning: from.reasoning,
            input_audio: from.input_audio,
            output_audio: from.output_audio,
            ..Usage::default()
        }
    }
}

/// The oracle's exact decimal, cut to nano-dollars half up.
fn rounded(usd: &str) -> String {
    nano_to_decimal(super::decimal::parse_nano(usd).expect("a decimal"))
}

#[test]
fn bills_equal_those_in_the_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cost");
    let mut seen = 0;
    for file in fs::read_dir(folder).expect("the folder of fixtures") {
        let path = file.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a fixture");
        let fixture: Fixture = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for case in fixture.cases {
            seen += 1;
            let expected = rounded(&case.usd);
            assert_eq!(bill(case.cost.get(), case.usage.into()), expected, "{} ({})", case.name, fixture.oracle);
        }
    }
    assert!(seen > 100, "only {seen} cases were found");
}

#[test]
fn overlapping_and_impossible_parts_charge_every_token_once() {
    let cost = r#"{"input":1,"output":10,"cache_read":0.1,"cache_write":1.25,"input_audio":3,"reasoning":5}"#;
    // 80 of 100 tokens were cached and 50 were sound, so at most 20 fresh ones can be sound.
    let overlap = Usage { input: 100, cache_read: Some(80), input_audio: Some(50), ..Usage::default() };
    assert_eq!(bill(cost, overlap), "0.000068");
    // A stream that was cut stated more cached than total input, and more reasoning than output.
    let cut = Usage {
        input: 10,
        cache_read: Some(25),
        cache_write: Some(9),
        output: 4,
        reasoning: Some(7),
        ..Usage::default()
    };
    assert_eq!(bill(cost, cut), "0.000021");
    // Only the hour's share of the write was stated.
    let hour = Usage { input: 100, cache_write_1h: Some(100), ..Usage::default() };
    assert_eq!(bill(cost, hour), "0.0002");
}

#[test]
fn unstated_parts_cost_what_they_would_without_a_discount() {
    let cost = r#"{"input":2,"output":8}"#;
    let usage = Usage {
        input: 1000,
        cache_read: Some(400),
        cache_write: Some(300),
        cache_write_1h: Some(100),
        input_audio: Some(200),
        output: 500,
        reasoning: Some(300),
        output_audio: Some(100),
        ..Usage::default()
    };
    assert_eq!(bill(cost, usage), "0.006");
}

#[test]
fn sums_are_rounded_once_and_half_up() {
    // Three parts of 0.4 nano-dollars each: apart they would vanish, together they are one.
    let cost = r#"{"input":0.0004,"output":0.0004,"cache_read":0.0004}"#;
    let usage = Usage { input: 2, cache_read: Some(1), output: 1, ..Usage::default() };
    assert_eq!(bill(cost, usage), "0.000000001");
    assert_eq!(bill(r#"{"input":0.0005,"output":0}"#, Usage { input: 1, ..Usage::default() }), "0.000000001");
    assert_eq!(bill(r#"{"input":0.000499999,"output":0}"#, Usage { input: 1, ..Usage::default() }), "0");
}

#[test]
fn absurd_counts_saturate_instead_of_wrapping() {
    let price = priced(r#"{"input":18446744073.709551615,"output":18446744073.709551615}"#);
    let usage = Usage { input: u64::MAX, output: u64::MAX, ..Usage::default() };
    let cost = price.lookup("p", "m").expect("a price").cost(&usage);
    assert_eq!(cost.nano_usd, u64::MAX);
    assert_eq!(cost + Cost { nano_usd: 1 }, cost);
}

#[test]
fn the_built_in_catalogue_is_readable() {
    let mut catalogue = Catalogue::default();
    catalogue.overlay(super::catalogue::BUILT_IN).expect("config/prices.json");
    let listed: usize = catalogue.providers().map(|p| catalogue.models(p).count()).sum();
    assert!(listed >= 200, "{listed}");
    assert!(super::catalogue::BUILT_IN.len() < 250_000);
    for provider in catalogue.providers() {
        assert!(provider::find(provider).is_some(), "{provider} has prices but no row");
        for (model, card) in catalogue.models(provider) {
            let price = card.price.as_ref().unwrap_or_else(|| panic!("{provider}/{model} has no price"));
            let mut above = 0;
            for tier in &price.tiers {
                assert!(tier.above > above, "{provider}/{model}: tiers out of order");
                above = tier.above;
            }
            if let Some(read) = price.base.cache_read {
                assert!(read <= price.base.input, "{provider}/{model}: a cache read dearer than fresh input");
            }
        }
    }
}

#[test]
fn well_known_models_have_their_well_known_prices() {
    let built_in = Catalogue::built_in();
    let usage = Usage {
        input: 10_000,
        cache_read: Some(4_000),
        cache_write: Some(2_000),
        output: 1_000,
        reasoning: Some(600),
        ..Usage::default()
    };
    for (provider, model, usd) in [
        // 6000 × 0.15 + 4000 × 0.075 + 1000 × 0.60
        ("openai", "gpt-4o-mini-2024-07-18", "0.0018"),
        // 6000 × 1.25 + 4000 × 0.125 + 1000 × 10
        ("openai", "gpt-5", "0.018"),
        // 4000 × 3 + 4000 × 0.30 + 2000 × 3.75 + 1000 × 15
        ("anthropic", "claude-sonnet-4-5-20250929", "0.0357"),
        ("anthropic", "claude-3-5-sonnet-20241022", "0.0357"),
        ("vertex", "claude-sonnet-4-5@20250929", "0.0357"),
        // 6000 × 1.25 + 4000 × 0.125 + 1000 × 10
        ("gemini", "models/gemini-2.5-pro", "0.018"),
        // 6000 × 0.10 + 4000 × 0.025 + 1000 × 0.40
        ("gemini", "gemini-2.0-flash-001", "0.0011"),
        // 10000 × 0.59 + 1000 × 0.79
        ("groq", "llama-3.3-70b-versatile", "0.00669"),
    ] {
        let price = built_in.lookup(provider, model).unwrap_or_else(|| panic!("{provider}/{model} is unknown"));
        assert_eq!(price.cost(&usage).decimal(), usd, "{provider}/{model}");
    }
}

#[test]
fn bills_worked_out_by_hand_from_the_built_in_prices() {
    let bill = |provider, model, usage: Usage| {
        Catalogue::built_in().lookup(provider, model).expect("a price").cost(&usage).decimal()
    };
    // Anthropic, both lifetimes: 1000 × 3 + 20000 × 0.30 + 5000 × 3.75 + 2000 × 6 (1.6 × 3.75) + 800 × 15
    let claude = Usage {
        input: 28_000,
        cache_read: Some(20_000),
        cache_write: Some(7_000),
        cache_write_1h: Some(2_000),
        output: 800,
        ..Usage::default()
    };
    assert_eq!(bill("anthropic", "claude-sonnet-4-5", claude), "0.05175");
    // OpenAI, reasoning as output: 904 × 2 + 1024 × 0.50 + 1500 × 8
    let o3 = Usage { input: 1928, cache_read: Some(1024), output: 1500, reasoning: Some(1280), ..Usage::default() };
    assert_eq!(bill("openai", "o3-2025-04-16", o3), "0.01432");
    // Gemini above 200k, the whole request: 150001 × 2.50 + 50000 × 0.25 + 1000 × 15
    let long = Usage { input: 200_001, cache_read: Some(50_000), output: 1000, ..Usage::default() };
    assert_eq!(bill("gemini", "gemini-2.5-pro", long), "0.4025025");
    // At the bound, not above it: 150000 × 1.25 + 50000 × 0.125 + 1000 × 10
    assert_eq!(bill("gemini", "gemini-2.5-pro", Usage { input: 200_000, ..long }), "0.20375");
    // Sound both ways: 20 × 2.50 + 300 × 32 + 40 × 10 + 200 × 64
    let spoken = Usage { input: 320, input_audio: Some(300), output: 240, output_audio: Some(200), ..Usage::default() };
    assert_eq!(bill("openai", "gpt-audio-2025-08-28", spoken), "0.02285");
}

#[test]
fn what_is_not_listed_is_unknown() {
    let built_in = Catalogue::built_in();
    for (provider, model) in [
        ("openai", "gpt-4o-mini-of-my-own"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("openai", ""),
        ("openai", "*"),
        ("openrouter", "openai/gpt-5:nitro"),
        ("openrouter", "unheard-of/gpt-5"),
        // Only providers that say so sell at the maker's price.
        ("together", "openai/gpt-5"),
        ("groq", "anthropic/claude-sonnet-4-5"),
        ("no-such-provider", "gpt-5"),
    ] {
        assert!(built_in.lookup(provider, model).is_none(), "{provider}/{model}");
    }
}

#[test]
fn a_reseller_that_says_so_has_the_makers_price() {
    let built_in = Catalogue::built_in();
    assert_eq!(built_in.model("vercel", "openai/gpt-5-mini"), built_in.model("openai", "gpt-5-mini"));
    assert!(built_in.model("vercel", "openai/gpt-5-mini").is_some());
    assert!(built_in.lookup("openrouter", "openai/gpt-5-2025-08-07").is_some());
}

#[test]
fn the_first_provider_name_that_knows_the_model_is_taken() {
    let mut catalogue = Catalogue::built_in().clone();
    catalogue.overlay(r#"{"house":{"models":{"gpt-5":{"cost":{"input":1,"output":1}}}}}"#).expect("valid");
    let price = |model| catalogue.find(&["house", "openai"], model).and_then(|card| card.price.clone());
    assert_eq!(price("gpt-5").map(|p| p.base.input), Some(1_000_000_000));
    assert_eq!(price("gpt-5-mini").map(|p| p.base.input), Some(250_000_000));
}

#[test]
fn an_overlay_replaces_the_price_whole_and_keeps_the_rest_of_the_card() {
    let mut catalogue = Catalogue::built_in().clone();
    let before = catalogue.model("openai", "gpt-5").expect("listed").clone();
    catalogue.overlay(r#"{"openai":{"models":{"gpt-5":{"cost":{"input":"1.00","output":9e0}}}}}"#).expect("valid");
    let after = catalogue.model("openai", "gpt-5").expect("listed");
    let rates = after.price.as_ref().expect("priced").base;
    assert_eq!((rates.input, rates.output, rates.cache_read), (1_000_000_000, 9_000_000_000, None));
    assert_eq!((after.context, &after.input, after.reasoning), (before.context, &before.input, before.reasoning));

    catalogue.overlay(r#"{"openai":{"models":{"gpt-5":{"cost":null,"limit":{"context":7}}}}}"#).expect("valid");
    let after = catalogue.model("openai", "gpt-5").expect("listed");
    assert_eq!((&after.price, after.context, after.max_output), (&None, Some(7), before.max_output));
}

#[test]
fn a_star_prices_every_model_of_a_provider_that_is_not_listed() {
    let mut catalogue = Catalogue::default();
    catalogue
        .overlay(
            r#"{"gpu-box":{"models":{"*":{"cost":{"input":0,"output":0}},"big":{"cost":{"input":1,"output":2}}}}}"#,
        )
        .expect("valid");
    assert_eq!(catalogue.lookup("gpu-box", "qwen3").map(|p| p.base.output), Some(0));
    assert_eq!(catalogue.lookup("gpu-box", "big").map(|p| p.base.output), Some(2_000_000_000));
}

#[test]
fn what_is_said_of_every_provider_counts_after_the_row_of_one_by_another_name() {
    let mut catalogue = Catalogue::built_in().clone();
    let listed = catalogue.lookup("openai", "gpt-5.4").expect("listed").clone();
    catalogue.overlay(r#"{"*":{"models":{"*":{"cost":{"input":1,"output":2}}}}}"#).expect("valid");
    let price = |names: &[&str], model| catalogue.find(names, model).and_then(|card| card.price.clone());
    assert_eq!(price(&["openai"], "gpt-5.4"), Some(listed.clone()));
    assert_eq!(price(&["a-name-of-my-own", "openai"], "gpt-5.4"), Some(listed));
    let output = |names: &[&str]| price(names, "made-up").map(|price| price.base.output);
    assert_eq!(
        (output(&["a-name-of-my-own", "openai"]), output(&["gpu-box"])),
        (Some(2_000_000_000), Some(2_000_000_000))
    );
}

#[test]
fn an_operator_changes_single_rates_of_one_provider_or_of_all() {
    let mut catalogue = Catalogue::built_in().clone();
    let old = catalogue.lookup("openai", "gpt-5.4").expect("listed").clone();
    assert!(!old.tiers.is_empty());
    let dearer = Stated { output: Some(20_000_000_000), ..Stated::default() };
    assert!(catalogue.reprice(Some("openai"), "gpt-5.4", &dearer, &[]));
    let new = catalogue.lookup("openai", "gpt-5.4").expect("priced");
    assert_eq!((new.base.output, new.base.input, &new.tiers), (20_000_000_000, old.base.input, &old.tiers));
    assert_eq!(catalogue.lookup("azure", "gpt-5.4"), Some(&old), "another provider's price changed");

    let flat = Stated { input: Some(1), output: Some(2), ..Stated::default() };
    assert!(catalogue.reprice(None, "gpt-5.4", &flat, &[(9, Stated { input: Some(3), ..Stated::default() })]));
    for provider in ["openai", "azure", "a-provider-of-my-own"] {
        let price = catalogue.lookup(provider, "gpt-5.4").expect("priced");
        assert_eq!((price.base.input, price.rates(10).input, price.rates(10).output), (1, 3, 2), "{provider}");
    }
    assert!(!catalogue.reprice(Some("mine"), "new", &dearer, &[]), "an output price alone was called enough");
    assert!(catalogue.lookup("mine", "new").is_none());
    assert!(catalogue.providers().all(|name| name != "*"));
}

#[test]
fn a_file_of_models_dev_is_an_overlay_as_it_stands() {
    let mut catalogue = Catalogue::default();
    let file = r#"{"google":{"id":"google","env":["GEMINI_API_KEY"],"npm":"@ai-sdk/google","doc":"x","name":"Google",
        "models":{"gemini-x":{"id":"gemini-x","name":"Gemini X","attachment":true,"reasoning":true,"tool_call":true,
        "temperature":true,"knowledge":"2026-01","modalities":{"input":["text","smell","pdf"],"output":["text"]},
        "open_weights":false,"limit":{"context":1000,"output":0},"interleaved":{"field":"reasoning_content"},
        "cost":{"input":1,"output":2,"context_over_200k":{"input":3,"output":4},
        "tiers":[{"input":5,"output":6,"tier":{"type":"context","size":272000}}]}}}}}"#;
    catalogue.overlay(file).expect("valid");
    let card = catalogue.model("gemini", "gemini-x").expect("under our name");
    assert_eq!(card.input, [Modality::Text, Modality::Pdf]);
    assert_eq!((card.context, card.max_output), (Some(1000), None));
    let price = card.price.as_ref().expect("priced");
    let inputs = [272_000, 272_001].map(|tokens| price.rates(tokens).input);
    assert_eq!(inputs, [1_000_000_000, 5_000_000_000], "tiers say it better than context_over_200k");
}

#[test]
fn prices_that_do_not_say_enough_are_unknown() {
    for cost in [
        "{}",
        r#"{"input":1}"#,
        r#"{"output":1}"#,
        r#"{"input":1,"output":null}"#,
        r#"{"input":1,"output":1,"tiers":[{"input":2,"tier":{"type":"hour","size":3}}]}"#,
        r#"{"input":1,"output":1,"tiers":[{"input":2}]}"#,
    ] {
        assert!(priced(cost).model("p", "m").is_some_and(|card| card.price.is_none()), "{cost}");
    }
}

#[test]
fn a_bad_file_is_refused_whole_with_the_place_of_the_slip() {
    let bad: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
        vec![
            (r#"{"a":{"models":{"m":{"cost":{"input":-1,"output":1}}}}}"#, "a.models.m.cost.input"),
            (r#"{"a":{"models":{"m":{"cost":{"input":true,"output":1}}}}}"#, "a.models.m.cost.input"),
            (
                r#"{"a":{"models":{"m":{"cost":{"input":1,"output":1,"context_over_200k":{"input":"x"}}}}}}"#,
                "a.models.m.cost.context_over_200k.input",
            ),
            (
                r#"{"a":{"models":{"m":{"cost":{"input":1,"output":1,"tiers":[{"input":-2,"tier":{"type":"context","size":1}}]}}}}}"#,
                "a.models.m.cost.tiers.input",
            ),
            (r#"{"a":{"models":{"m":{"limit":{"context":"many"}}}}}"#, "a.models.m.limit.context"),
            (r#"{"a":{"models":[]}}"#, "a.models"),
            (r#"{"a":{"models":{}}} x"#, ""),
            ("", ""),
        ]
    });
    for (text, path) in bad.iter() {
        let mut catalogue = priced(r#"{"input":1,"output":1}"#);
        let both = text.replacen(r#"{"a""#, r#"{"p":{"models":{"m":{"cost":null}}},"a""#, 1);
        let error = catalogue.overlay(&both).expect_err(text);
        assert_eq!(error.path.trim_end_matches('.'), *path, "{error}");
        assert!(catalogue.lookup("p", "m").is_some(), "half of a bad file was kept: {text}");
    }
}
