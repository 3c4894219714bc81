//! What a configuration becomes.

use std::path::Path;

use super::*;
use crate::dialect::{self, Op};
use crate::fault::Kind;
use crate::route::{Auth, Overrides};
use crate::state::health::{End, Standing, Wanted};
use crate::state::log::Log;
use crate::upstream::Proxy;

fn built(name: &str, text: &str) -> Generation {
    let path = std::env::temp_dir().join(format!("portcullis-{}-{name}.yaml", std::process::id()));
    std::fs::write(&path, text).expect("is writable");
    let built = Builder::new(Some(path.clone()), Box::new(|_| None)).build(1);
    std::fs::remove_file(&path).expect("is there");
    built.expect("builds")
}

#[test]
fn what_a_provider_says_of_its_connection_is_done() {
    let generation = built(
        "dial",
        "providers: {
           direct: { dialect: openai_chat, base_url: 'https://a/v1', proxy: off, http2: false },
           behind: { dialect: openai_chat, base_url: 'https://b/v1', proxy: 'http://proxy:3128' },
           plain: { dialect: openai_chat, base_url: 'http://c/v1', http2: true },
         }",
    );
    let dials: Vec<_> = generation.routes.providers.iter().map(|provider| &*provider.faces[0].dial).collect();
    assert_eq!(dials[0].proxy, Proxy::Off);
    assert_eq!(dials[1].proxy, Proxy::Url("http://proxy:3128".into()));
    assert_eq!(dials[2].proxy, Proxy::Environment);
    assert_eq!(dials.iter().map(|dial| dial.http1_only).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(dials.iter().map(|dial| dial.http2_only).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn models_that_openais_chat_form_lacks_are_asked_in_its_other_form() {
    let generation = built("faces", "providers: { openai: { api_key: x } }");
    let provider = &generation.routes.providers[0];
    let form = |caller: &str, model: &str, op: Op| {
        let timeouts = provider.timeouts;
        let target = Target::new(provider.clone(), model.to_owned(), Overrides::default(), timeouts, None);
        target.face_for(dialect::find(caller).expect("built in"), op).expect("a face").form()
    };
    for model in ["gpt-5-codex", "gpt-5.2-pro", "o3-pro", "o4-mini-deep-research"] {
        assert_eq!(form("anthropic", model, Op::Generate), "openai_responses", "{model}");
        assert_eq!(form("openai_chat", model, Op::Generate), "openai_responses", "{model}");
    }
    assert_eq!(form("anthropic", "gpt-5.5", Op::Generate), "openai_responses");
    assert_eq!(form("openai_chat", "gpt-5.5", Op::Generate), "openai_chat", "is there, but for tools with reasoning");
    assert_eq!(form("anthropic", "gpt-5.1", Op::Generate), "openai_chat");
    assert_eq!(form("gemini", "text-embedding-3-small", Op::Embed), "openai_chat");
}

#[test]
fn a_key_without_weight_is_never_used_also_where_no_other_is_set() {
    let generation = built(
        "weightless",
        "providers: {
           openai: { keys: [{ key: spare, weight: 0 }, { env: NOT_SET }] },
           groq: { keys: [{ key: spare, weight: 0 }, { key: used }] },
         }",
    );
    assert_eq!(generation.routes.dormant, [("openai".to_owned(), "NOT_SET".to_owned())]);
    let groq = generation.routes.providers.iter().find(|provider| provider.name == "groq").expect("is live");
    assert!(groq.keys.is_empty(), "one key alone is no pool");
    let Auth::Header(_, value) = &groq.faces[0].auth else { panic!("{:?}", groq.faces[0].auth) };
    assert_eq!(value, "Bearer used");
}

#[cfg(feature = "wasm")]
#[test]
fn a_folder_of_compiled_plugins_that_is_none_is_told_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generation = built(
        "uncompiled",
        &format!(
            "plugins: {{ folder: '{}', compiled: '{}' }}\nproviders:\n  \
             one: {{ dialect: 'wasm:cohere', base_url: 'https://a' }}\n  \
             two: {{ dialect: 'wasm:replicate', base_url: 'https://b' }}\n",
            root.join("plugins/prebuilt").display(),
            root.join("Cargo.toml").display()
        ),
    );
    let told: Vec<_> = generation.warnings.iter().filter(|told| told.starts_with("plugins.compiled: ")).collect();
    assert_eq!(told.len(), 1, "{:?}", generation.warnings);
    assert!(told[0].contains("are not kept: ") && told[0].contains("Cargo.toml"), "{told:?}");
}

#[test]
fn what_is_wrong_with_certificates_and_prices_is_said_with_its_place_and_together_with_all_else() {
    let folder = std::env::temp_dir().join(format!("portcullis-{}-parts", std::process::id()));
    std::fs::create_dir_all(&folder).expect("is writable");
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let tls = tls.display();
    let said = |listen: &str| {
        let text = format!(
            "listen: {{ tls: {listen} }}\nmodels: {{ x: opnai/y }}\nprices:\n  file: p.json\n  models:\n    \
             openai/nobodys: {{ input: 1 }}\n    openai/nobodys-too: {{ output: 1 }}\n\
             budgets: [{{ name: b, money: $1 / day, webhook: nope }}]\n"
        );
        std::fs::write(folder.join("p.json"), "[]").expect("is writable");
        std::fs::write(folder.join("c.yaml"), text).expect("is writable");
        let said =
            Builder::new(Some(folder.join("c.yaml")), Box::new(|_| None)).load().map(|_| ()).expect_err("is refused");
        said.replace(&format!("{}/", folder.display()), "").replace(&format!("{tls}/"), "")
    };
    let rest = "\
c.yaml:2:14: models.x.target: there is no provider `opnai`; did you mean `openai`?
c.yaml:4:9: prices.file: p.json is no catalogue (";
    let twins = said(&format!("{{ cert: {tls}/first.crt, key: {tls}/second.key }}"));
    let (pair, others) = twins.split_once('\n').expect("lines");
    assert!(
        pair.starts_with("c.yaml:1:") && pair.contains(" listen.tls.key: second.key does not fit first.crt ("),
        "{pair}"
    );
    assert!(others.starts_with(rest), "{others}");
    for line in [
        "c.yaml:6:5: prices.models.\"openai/nobodys\": neither it nor the catalogue states both `input` and `output`;",
        "c.yaml:7:5: prices.models.\"openai/nobodys-too\": neither it nor",
        "c.yaml:8:48: budgets[0].webhook: is no address; write https://host/path",
    ] {
        assert!(others.contains(line), "{line} is not in:\n{others}");
    }
    let swapped = said(&format!("{{ cert: {tls}/first.key, key: {tls}/first.crt, client_ca: {tls}/first.key }}"));
    for what in [
        "listen.tls.cert: first.key holds no certificate;",
        "listen.tls.key: first.crt holds no private key (",
        "listen.tls.client_ca: first.key holds no certificate;",
    ] {
        assert!(swapped.contains(what), "{what} is not in:\n{swapped}");
    }
    // Else nobody would see it when the pair is whole.
    let pair = format!("listen: {{ tls: {{ cert: {tls}/first.crt, key: {tls}/second.key }} }}\n");
    std::fs::write(folder.join("c.yaml"), pair).expect("is writable");
    let watched = Builder::new(Some(folder.join("c.yaml")), Box::new(|_| None)).files();
    assert!(watched.iter().any(|file| file.ends_with("second.key")), "{watched:?}");
    std::fs::remove_dir_all(&folder).expect("is there");
}

/// The shipped file under some variables.
fn shipped(env: &'static [(&'static str, &'static str)]) -> Generation {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/portcullis.yaml");
    let env = move |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Builder::new(Some(path), Box::new(env)).build(1).expect("the shipped file builds")
}

fn target(generation: &Generation, model: &str) -> Result<String, String> {
    let targets = generation.targets(model).map_err(|fault| fault.message)?;
    Ok(targets.first().map(|target| target.name()).unwrap_or_default())
}

/// Else the watcher, which knows the files in order, would see a change where there is none, again and again.
#[test]
fn the_files_of_a_generation_are_in_order_and_each_is_there_once() {
    let folder = std::env::temp_dir().join(format!("portcullis-{}-files", std::process::id()));
    std::fs::create_dir_all(&folder).expect("is writable");
    for name in ["a", "z"] {
        let text = "function on_request() end";
        std::fs::write(folder.join(format!("{name}.luau")), text).expect("is writable");
    }
    let path = folder.join("m.yaml");
    std::fs::write(&path, "hooks_dir: .\nhooks: [{ lua: z }, { lua: a }, { lua: a, name: again }]\n").expect("writes");
    let generation = Builder::new(Some(path), Box::new(|_| None)).build(1).expect("builds");
    std::fs::remove_dir_all(&folder).expect("is there");
    let mut sorted = generation.files.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(generation.files, sorted);
    assert!(sorted.len() >= 3, "{sorted:?}");
}

#[test]
fn a_test_that_comes_to_an_attached_policy_is_a_change() {
    let folder = std::env::temp_dir().join(format!("portcullis-{}-coming", std::process::id()));
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("is writable");
    std::fs::create_dir_all(folder.join("whole")).expect("is writable");
    write("single.luau", "function on_request() end");
    write("whole/main.luau", "function on_request() end");
    write("m.yaml", "hooks_dir: .\nhooks: [{ lua: single }, { lua: whole }]\n");
    let generation = Builder::new(Some(folder.join("m.yaml")), Box::new(|_| None)).build(1).expect("builds");
    let mut before = fingerprint(&generation.files);
    assert_eq!(before, generation.fingerprint);
    for name in ["single_test.luau", "whole/any_test.luau", "whole/module.luau"] {
        write(name, "");
        let now = fingerprint(&generation.files);
        assert_ne!(before, now, "{name}");
        before = now;
    }
    write("whole/notes.txt", "");
    assert_eq!(before, fingerprint(&generation.files), "no source");
    std::fs::remove_dir_all(&folder).expect("is there");
}

#[test]
fn a_provider_without_a_key_is_not_stood_in_for() {
    let generation = shipped(&[]);
    let why = target(&generation, "openai/gpt-5").expect_err("refused");
    assert!(why.contains("OPENAI_API_KEY"), "{why}");
    // A name that means nobody is for the only provider there is.
    assert_eq!(target(&generation, "gpt-5").as_deref(), Ok("mock/gpt-5"));
}

#[tokio::test]
async fn a_generation_that_is_put_back_brings_its_bounds_and_breakers() {
    let state = State::new(0, Log::off());
    let of = |number: u32| {
        let provider = format!(
            "{{ dialect: openai_chat, base_url: 'http://a', max_inflight: {number}, breaker: {{ consecutive: {number} }} }}"
        );
        built(
            &format!("back-{number}"),
            &format!("providers: {{ a: {provider}, ab: {{ preset: openai, api_key: k, max_inflight: 9 }} }}"),
        )
    };
    let (first, second) = (of(7), of(1));
    let bounds = |generation: &Generation| {
        generation.activate(&state);
        for model in ["a/m", "ab/m"] {
            let tree = generation.tree(model).expect("a provider");
            tree.targets().iter().for_each(|target| drop(target.record(&state.health).clone()));
        }
        let places = |name: &str| state.health.record(name).measure(0).places;
        let flight = state.health.record("a/m").begin(0).expect("is let through");
        flight.end(0, End::Failed { kind: Kind::UpstreamError, retry_after: None });
        let opens = matches!(state.health.record("a/m").standing(0), Standing::Open { .. });
        state.health.record("a/m").want(Wanted::Closed);
        (places("a"), places("ab"), opens)
    };
    let (ours, theirs) = ((Some(7), Some(9), false), (Some(1), Some(9), true));
    assert_eq!([&first, &second, &first].map(bounds), [ours, theirs, ours]);
}

#[test]
fn a_model_is_listed_once_however_often_it_is_known() {
    let generation = built(
        "listed",
        "providers: { openai: { api_key: k, models: { gpt-5: gpt-5-2025-08-07, ours: ft-1 } } }
models: { openai/gpt-5-mini: { target: openai/gpt-5-mini, description: small } }",
    );
    let mut names: Vec<String> = generation.listed().into_iter().map(|model| model.id).collect();
    let count = names.len();
    for name in ["openai/gpt-5", "openai/gpt-5-mini", "openai/ours"] {
        assert_eq!(names.iter().filter(|known| *known == name).count(), 1, "{name}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(generation.listed()[0].description.as_deref(), Some("small"));
}

#[test]
fn a_bare_name_goes_to_its_maker() {
    let generation = shipped(&[("OPENAI_API_KEY", "sk-a"), ("ANTHROPIC_API_KEY", "sk-b")]);
    assert_eq!(target(&generation, "gpt-5").as_deref(), Ok("openai/gpt-5"));
    assert_eq!(target(&generation, "claude-sonnet-4-5").as_deref(), Ok("anthropic/claude-sonnet-4-5"));
    assert_eq!(target(&generation, "smart").as_deref(), Ok("anthropic/claude-sonnet-4-5"));
    // Open weights of a maker that does not serve them, and what only begins like a name.
    for model in ["gpt-oss:20b", "gpt-oss-120b", "o10", "o1x"] {
        assert!(target(&generation, model).is_err(), "{model}");
    }
    assert_eq!(target(&generation, "o1-mini").as_deref(), Ok("openai/o1-mini"));
    assert!(target(&generation, "no-such-model").is_err());
}

#[test]
fn settings_that_wait_for_the_next_start_are_named_where_they_differ() {
    let running = Config::default();
    let mut written = running.clone();
    assert_eq!(waiting(&running, &written).count(), 0);
    written.listen.address = "127.0.0.1:1".to_owned();
    written.admin.address = "off".to_owned();
    written.log.trace = !written.log.trace;
    written.log.file = Some("access.log".into());
    written.listen.limits.max_streams += 1;
    assert_eq!(waiting(&running, &written).collect::<Vec<_>>(), ["listen.address", "admin.address", "log.file"]);
}
