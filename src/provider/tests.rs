//! The table against its own rules, and the functions that read it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::dialect::Quirks;

fn env<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| set.iter().find(|(var, _)| *var == name).map(|(_, value)| (*value).to_owned())
}

fn names(live: &[Live]) -> Vec<&'static str> {
    live.iter().map(|live| live.row.name).collect()
}

/// Those who speak OpenAI's chat and take this.
fn chats(takes: impl Fn(&Quirks) -> bool) -> Vec<&'static str> {
    let takes = |row: &&Row| row.dialects.contains(&"openai_chat") && takes(&row.quirks_for("openai_chat"));
    PROVIDERS.iter().filter(takes).map(|row| row.name).collect()
}

/// A template with every field filled.
fn filled(template: &str) -> String {
    let base = expand(template, &|_| Some("abc".to_owned())).expect("every field has a value");
    name_model(&base, "m").expect("a plain name").into_owned()
}

#[test]
fn every_row_is_sound() {
    let mut seen = HashSet::new();
    let mut owned = HashSet::new();
    assert!(PROVIDERS.len() >= 40, "{}", PROVIDERS.len());
    for row in PROVIDERS {
        let name = row.name;
        assert!(seen.insert(name), "{name} stands twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(!row.title.is_empty(), "{name} has no title");
        assert!(!row.dialects.is_empty(), "{name} speaks nothing");
        let spoken: HashSet<_> = row.dialects.iter().collect();
        assert_eq!(spoken.len(), row.dialects.len(), "{name} speaks something twice");
        for dialect in row.dialects {
            assert!(crate::dialect::find(dialect).is_some(), "{name}: no dialect {dialect}");
            assert!(row.template(dialect).is_some() || row.base_url.is_none(), "{name}: {dialect} has no address");
        }
        let versioned = row.headers.iter().any(|(header, _)| *header == "anthropic-version");
        assert_eq!(versioned, row.speaks("anthropic"), "{name}: Anthropic's dialect wants a version");
        for apart in row.elsewhere {
            assert!(row.speaks(apart.dialect), "{name} does not list {}", apart.dialect);
            assert_ne!(apart.dialect, row.dialects[0], "{name}: the first dialect's address is base_url");
        }
        for (header, value) in row.headers {
            HeaderName::from_lowercase(header.as_bytes()).unwrap_or_else(|e| panic!("{name}: {header}: {e}"));
            HeaderValue::from_str(value).unwrap_or_else(|e| panic!("{name}: {value}: {e}"));
        }
        for scheme in [row.auth].into_iter().chain(row.dialects.iter().map(|dialect| row.auth_for(dialect))) {
            let header = scheme.header("k").unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(header.is_none_or(|(_, value)| value.is_sensitive()), "{name}");
        }
        for (var, _) in row.env_auth {
            assert!(row.env.contains(var), "{name}: {var} is not read");
        }
        assert!(row.keyless || !row.env.is_empty(), "{name} has no variable for its key");
        for claim in row.owns {
            assert!(owned.insert(*claim), "{claim} has two owners");
        }
        if let Some(prices) = row.prices {
            assert!(find(prices).is_some(), "{name}: no provider {prices}");
        }
    }
}

#[test]
fn every_address_is_a_url_and_encrypted_unless_local() {
    for row in PROVIDERS {
        let templates = row.base_url.into_iter().chain(row.elsewhere.iter().map(|apart| apart.base_url));
        for template in templates {
            let uri: http::Uri = filled(template).parse().unwrap_or_else(|e| panic!("{}: {e}", row.name));
            let local = uri.host() == Some("127.0.0.1");
            assert_eq!(uri.scheme_str(), Some(if local { "http" } else { "https" }), "{template}");
            assert_eq!(local, row.keyless, "{template}");
            assert!(!template.ends_with('/'), "{template}");
            for field in template.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
                let known = field == "model" || row.fields.iter().any(|known| known.name == field);
                assert!(known, "{}: nobody says what {field} is", row.name);
            }
        }
    }
}

#[test]
fn the_page_of_providers_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/providers.md");
    let page = markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("writing the page");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "config/providers.md is stale: run the tests with UPDATE_DOCS=1");
}

#[test]
fn a_key_in_the_environment_makes_a_provider_live() {
    let set = [("GROQ_API_KEY", "k"), ("CO_API_KEY", "k"), ("GOOGLE_API_KEY", "k"), ("MISTRAL_API_KEY", " ")];
    let live = live_from_env(&env(&set));
    assert_eq!(names(&live), ["gemini", "cohere", "groq"]);
    assert_eq!(live[1].var, "CO_API_KEY");
    assert!(live_from_env(&env(&[])).is_empty());
}

#[test]
fn the_first_variable_wins_and_says_how_its_key_is_sent() {
    let both = [("ANTHROPIC_AUTH_TOKEN", "t"), ("ANTHROPIC_API_KEY", "k")];
    let live = live_from_env(&env(&both));
    assert_eq!((live[0].var, live[0].auth), ("ANTHROPIC_API_KEY", live[0].row.auth));
    let live = live_from_env(&env(&both[..1]));
    assert_eq!((live[0].var, live[0].auth), ("ANTHROPIC_AUTH_TOKEN", AuthScheme::Bearer));
    let header = live[0].auth.header("t").expect("a header").expect("a bearer");
    assert_eq!((header.0.as_str(), header.1.to_str().ok()), ("authorization", Some("Bearer t")));
}

#[test]
fn a_key_without_the_rest_of_the_address_is_not_enough() {
    let key = ("AZURE_OPENAI_API_KEY", "k");
    assert!(live_from_env(&env(&[key])).is_empty());
    assert_eq!(
        names(&live_from_env(&env(&[key, ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/")]))),
        ["azure", "azure_v1"]
    );
    assert_eq!(names(&live_from_env(&env(&[("CLOUDFLARE_API_TOKEN", "k")]))), [""; 0]);
    let set = [("CLOUDFLARE_API_TOKEN", "k"), ("CLOUDFLARE_ACCOUNT_ID", "a")];
    assert_eq!(names(&live_from_env(&env(&set))), ["cloudflare"]);
}

#[test]
fn servers_at_home_are_not_live_because_of_the_environment() {
    let set = [("OLLAMA_HOST", "0.0.0.0"), ("VLLM_API_KEY", "k"), ("LITELLM_API_KEY", "k")];
    assert!(live_from_env(&env(&set)).is_empty());
}

#[test]
fn addresses_of_gateways_are_not_read() {
    // These point at us: reading them would send every request in a circle.
    for row in PROVIDERS {
        let vars =
            row.env_base.iter().map(|base| base.var).chain(row.fields.iter().flat_map(|f| f.env.iter().copied()));
        for var in vars {
            assert!(!["OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL"].contains(&var), "{}", row.name);
        }
    }
}

#[test]
fn base_urls_are_made_of_configuration_environment_and_defaults() {
    let azure = find("azure").expect("a row");
    let set = [("AZURE_RESOURCE_NAME", "from-env"), ("OPENAI_API_VERSION", "2024-10-21")];
    assert_eq!(
        azure.base_from_env("openai_chat", &env(&set)).as_deref(),
        Ok("https://from-env.openai.azure.com/openai/deployments/{model}?api-version=2024-10-21")
    );
    let config = |field: &str| (field == "resource").then(|| "mine".to_owned());
    assert_eq!(
        azure.base_with("openai_chat", &config, &env(&[])).as_deref(),
        Ok("https://mine.openai.azure.com/openai/deployments/{model}?api-version=2025-04-01-preview")
    );
    let ollama = find("ollama").expect("a row");
    assert_eq!(ollama.base_from_env("anthropic", &env(&[])).as_deref(), Ok("http://127.0.0.1:11434/v1"));
    assert_eq!(
        ollama.base_from_env("openai_chat", &env(&[("OLLAMA_HOST", "gpu:80")])).as_deref(),
        Ok("http://gpu:80/v1")
    );
    let deepseek = find("deepseek").expect("a row");
    assert_eq!(deepseek.base_from_env("anthropic", &env(&[])).as_deref(), Ok("https://api.deepseek.com/anthropic"));
}

#[test]
fn a_missing_part_of_an_address_is_named_with_what_to_do() {
    let error = find("cloudflare").expect("a row").base_from_env("openai_chat", &env(&[])).expect_err("no account");
    assert_eq!(
        error.to_string(),
        "provider `cloudflare` has no `account`: set `providers.cloudflare.account` or CLOUDFLARE_ACCOUNT_ID, or the \
         whole `providers.cloudflare.base_url`"
    );
    let error = find("mock").expect("a row").base_from_env("gemini", &env(&[])).expect_err("no address");
    assert_eq!(error.to_string(), "provider `mock` has no `base_url`: set `providers.mock.base_url`");
    assert!(find("groq").expect("a row").base_from_env("gemini", &env(&[])).is_err());
}

#[test]
fn bare_model_names_belong_to_their_makers() {
    for (model, owner) in [
        ("gpt-5-mini", Some("openai")),
        ("chatgpt-4o-latest", Some("openai")),
        ("o1", Some("openai")),
        ("o3-mini-2025-01-31", Some("openai")),
        ("text-embedding-3-small", Some("openai")),
        ("claude-sonnet-4-5", Some("anthropic")),
        ("gemini-2.5-flash", Some("gemini")),
        ("codestral-latest", Some("mistral")),
        ("codestral", Some("mistral")),
        ("grok-4", Some("xai")),
        ("deepseek-chat", Some("deepseek")),
        ("command-a-03-2025", Some("cohere")),
        ("sonar", Some("perplexity")),
        ("sonar-pro", Some("perplexity")),
        ("kimi-k2.6", Some("moonshot")),
        ("glm-4.6", Some("zai")),
        ("qwen3-max", Some("dashscope")),
        ("MiniMax-M2", Some("minimax")),
        ("mock", Some("mock")),
        ("mock-reasoning:x=1", Some("mock")),
        ("gpt-oss-120b", None),
        ("o10", None),
        ("o", None),
        ("gpt-", None),
        ("sonarqube", None),
        ("llama-3.3-70b-versatile", None),
        ("openai/gpt-5", None),
        ("ö1", None),
        ("", None),
    ] {
        assert_eq!(owner_of(model).map(|row| row.name), owner, "{model}");
    }
}

#[test]
fn each_dialect_has_its_address_and_its_way_to_send_the_key() {
    let gemini = find("gemini").expect("a row");
    assert_eq!(gemini.auth_for("gemini"), AuthScheme::Header { name: "x-goog-api-key", prefix: "" });
    assert_eq!(gemini.auth_for("openai_chat"), AuthScheme::Bearer);
    assert_eq!(gemini.template("anthropic"), None);
    assert_eq!((gemini.otel_name(), gemini.prices_name()), ("gcp.gemini", "gemini"));
    assert_eq!(find("azure_v1").expect("a row").prices_name(), "azure");
    let perplexity = find("perplexity").expect("a row");
    assert!(perplexity.quirks_for("openai_chat").refuses.contains(&"tools"));
    assert!(perplexity.quirks_for("openai_responses").refuses.is_empty());
    let moonshot = find("moonshot").expect("a row").quirks_for("openai_chat");
    assert!(["temperature", "top_p"].iter().all(|name| moonshot.refuses.contains(name)), "Kimi has its own");
    assert!(find("no-such").is_none());
}

#[test]
fn only_openais_own_endpoints_are_sent_tools_of_free_text_and_only_mistral_short_ids_and_answered_results() {
    assert_eq!(chats(|quirks| quirks.custom_tools), ["openai", "azure", "azure_v1", "mock"]);
    assert_eq!(chats(|quirks| quirks.short_call_ids), ["mistral"]);
    assert_eq!(chats(|quirks| quirks.assistant_after_tools), ["mistral"]);
}

#[test]
fn whoever_spells_the_bound_as_openai_does_need_not_take_what_else_openai_has() {
    let spelt = chats(|quirks| quirks.max_completion_tokens);
    assert!(["xai", "groq", "cerebras"].iter().all(|name| spelt.contains(name)), "{spelt:?}");
    let facts: [fn(&Quirks) -> bool; 5] = [
        |quirks| quirks.verbosity,
        |quirks| quirks.prompt_cache_key,
        |quirks| quirks.service_tier,
        |quirks| quirks.store,
        |quirks| quirks.speech,
    ];
    for fact in facts {
        assert_eq!(chats(fact), ["openai", "azure", "azure_v1", "mock"]);
    }
}
