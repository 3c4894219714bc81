//! Fixtures are files: `tests/fixtures/config/good/*.yaml` must load, `bad/*.yaml` must give exactly the text beside
//! them. Lines `# env: NAME=value` at the head of a fixture are its environment.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::*;

/// The names of the real tables, so that the shipped files are held against them.
static PROVIDERS: LazyLock<Vec<&str>> =
    LazyLock::new(|| crate::provider::PROVIDERS.iter().map(|row| row.name).collect());
static PARAMETERS: LazyLock<Vec<&str>> = LazyLock::new(|| crate::cache::fields::parameters().collect());
static DIALECTS: LazyLock<Vec<&str>> =
    LazyLock::new(|| crate::dialect::DIALECTS.iter().map(|row| row.name()).collect());
static ENDPOINTS: LazyLock<Vec<&str>> = LazyLock::new(|| crate::api::ENDPOINTS.iter().map(|row| row.path).collect());

fn known() -> Known<'static> {
    Known {
        providers: &PROVIDERS,
        is_makers: &|model| crate::provider::owner_of(model).is_some(),
        dialects: &DIALECTS,
        endpoints: &ENDPOINTS,
        asks: crate::cache::fields::THE_ASK,
        parameters: &PARAMETERS,
        hooks: &|_, _| Vec::new(),
        adapters: &|_, _| Vec::new(),
        parts: &|_| Vec::new(),
        serving: None,
    }
}

/// Set, the fixtures' texts, the schema and the reference are written anew instead of compared.
const BLESS: &str = "PORTCULLIS_BLESS";

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new("tests/fixtures/config").join(kind);
    let files = std::fs::read_dir(&folder).expect("the folder of fixtures is there");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("is readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "no fixtures in {}", folder.display());
    files
}

fn environment(text: &str) -> HashMap<String, String> {
    let lines = text.lines().map_while(|line| line.strip_prefix('#'));
    let pairs = lines.filter_map(|line| line.trim().strip_prefix("env: ")?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn load_fixture(path: &Path) -> Result<Loaded, Errors> {
    // Not UTF-8 is a fixture too.
    let env = environment(&String::from_utf8_lossy(&std::fs::read(path).expect("is readable")));
    load(path, &|name| env.get(name).cloned(), &known())
}

fn parse_text(text: &str) -> Result<Loaded, Errors> {
    parse("test.yaml", text, Path::new(""), &|_| None, &known())
}

fn parsed(text: &str) -> Config {
    parse_text(text).unwrap_or_else(|errors| panic!("{text}\n{errors}")).config
}

fn errors(text: &str) -> String {
    parse_text(text).map(|loaded| loaded.config).expect_err(text).to_string()
}

fn assert_is_file(path: &Path, text: &str) {
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(path, text).expect("is writable");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, written, "{} is stale; {BLESS}=1 cargo test --lib config writes it", path.display());
}

#[test]
fn bad_files_give_exactly_the_errors_beside_them() {
    for path in fixtures("bad") {
        let errors = match load_fixture(&path) {
            Ok(_) => panic!("{} is good", path.display()),
            Err(errors) => errors,
        };
        assert_is_file(&path.with_extension("txt"), &format!("{errors}\n"));
    }
}

#[test]
fn good_files_load_and_warn_as_said_beside_them() {
    for path in fixtures("good") {
        let loaded = load_fixture(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings = loaded.warnings.iter().fold(String::new(), |mut text, warning| {
            let _ = writeln!(text, "{warning}");
            text
        });
        let beside = path.with_extension("txt");
        if warnings.is_empty() {
            assert!(!beside.exists(), "{} expects warnings and there are none", beside.display());
        } else {
            assert_is_file(&beside, &warnings);
        }
        let printed = path.with_extension("printed");
        if printed.exists() {
            assert_is_file(&printed, &print(&loaded.config));
        }
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    for path in fixtures("good") {
        let config = load_fixture(&path).unwrap_or_else(|errors| panic!("{errors}")).config;
        let printed = print(&config);
        let env = environment(&std::fs::read_to_string(&path).expect("is readable"));
        // A masked hash cannot be read back, nor can a masked address.
        let readable = printed.replace("hash: \"***\"", &format!("hash: hmac-sha256:{}", "0".repeat(64)));
        let readable = readable.replace("\n  url: \"***\"", "\n  url: redis://localhost");
        let again = parse("printed.yaml", &readable, Path::new(""), &|name| env.get(name).cloned(), &known())
            .unwrap_or_else(|errors| panic!("{}:\n{errors}\n{printed}", path.display()));
        assert_eq!(print(&again.config), printed, "{}", path.display());
    }
}

#[test]
fn no_secret_is_in_print_debug_errors_or_warnings() {
    let env = |name: &str| name.starts_with("SECRET").then(|| format!("hush-{name}"));
    let good = "
        admin: { token: '${SECRET_A}' }
        auth: { pepper: '${SECRET_B}' }
        providers: { openai: { api_key: '${SECRET_C}', base_url: 'https://h/v1?key=${SECRET_H}', proxy: 'http://me:${SECRET_F}@proxy:3128', headers: { X-Api-Token: '${SECRET_G}' } } }
        keys:
          - { name: a, key: '${SECRET_D}' }
          - { name: b, env: SECRET_E }
    ";
    let loaded = parse("t.yaml", good, Path::new(""), &env, &known()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.keys[1].key.as_ref().map(Secret::expose), Some("hush-SECRET_E"));
    let shown = format!("{:?}{}", loaded, print(&loaded.config));
    assert!(!shown.contains("hush"), "{shown}");
    // A variable in the wrong place is quoted by its name.
    let bad = "
        listen: { workers: '${SECRET_A}', address: x-${SECRET_B}, limits: { head_timeout: '${SECRET_C}', max_headers: '${SECRET_C}' } }
        log: { stdout: '${SECRET_D}', level: '${SECRET_D}' }
        auth: { open: '${SECRET_D}' }
        providers: { groq: { base_url: '${SECRET_A}', proxy: 'http://${SECRET_B}@', dialect: '${SECRET_C}', preset: '${SECRET_D}' }, openai: { auth: '${SECRET_E}', http2: '${SECRET_E}', models: '${SECRET_F}', drop: '${SECRET_F}' } }
        keys: [{ name: a, hash: '${SECRET_G}', expires: '${SECRET_H}' }, { name: b, models: ['${SECRET_G}'] }]
        models: { a: '${SECRET_A}/x', b: '${SECRET_B}', c: { fallback: ['x${SECRET_C}/'] } }
        prices: { models: { openai/m: { input: '${SECRET_I}' } } }
    ";
    let shown = parse("t.yaml", bad, Path::new(""), &env, &known()).map(|_| ()).expect_err("is bad").to_string();
    assert!(shown.lines().count() > 20, "{shown}");
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn a_secret_with_yaml_in_it_harms_nothing() {
    let odd = "p@ss: [#'\"\\ ${NOT} $${X}: - |";
    let env = |name: &str| (name == "ODD").then(|| odd.to_owned());
    let text = "admin: { token: ${ODD} }\nauth:\n  pepper: ${ODD} # a comment\n";
    let config =
        parse("t.yaml", text, Path::new(""), &env, &known()).unwrap_or_else(|errors| panic!("{errors}")).config;
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some(odd));
    assert_eq!(config.auth.pepper.as_ref().map(Secret::expose), Some(odd));
}

#[test]
fn an_empty_variable_counts_as_not_written_whatever_its_key_wants() {
    let text = "
        auth: { open: \"${T:-}\" }
        listen: { address: '${T:-}', limits: { max_headers: '${EMPTY}' } }
        admin: { address: '${T:-}' }
        timeouts: { head: '${T:-}' }
        log: { level: '${T:-}', stdout: '${T:-}' }
        cache: { exact: { ttl: '${T:-}', partition: '${T:-}' } }
    ";
    let env = |name: &str| (name == "EMPTY").then(String::new);
    let read = |text: &str| parse("t.yaml", text, Path::new(""), &env, &known()).map(|loaded| print(&loaded.config));
    let silent = "{auth: {}, listen: {limits: {}}, timeouts: {}, log: {}, cache: {exact: {}}}";
    assert_eq!(read(text).unwrap_or_else(|errors| panic!("{errors}")), read(silent).expect("is good"));
    // A secret does not: a key that is empty is no key at all.
    let errors = read("keys: [{ name: a, key: '${EMPTY}' }]").expect_err("is bad").to_string();
    assert!(errors.contains("is empty"), "{errors}");
}

#[test]
fn variables_fill_numbers_and_booleans_where_the_type_wants_them() {
    let env = |name: &str| match name {
        "N" => Some("7".to_owned()),
        "T" => Some("true".to_owned()),
        "F" => Some("0.25".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let text = "
        listen: { workers: '${N}', limits: { max_headers: '${NONE:-50}', max_body_bytes: '${N}MiB' } }
        auth: { open: '${T}' }
        keys: [{ name: '${N}', key: '${N}', project: '${EMPTY}' }]
        providers:
          openai:
            http2: ${EMPTY}
            base_url: ${NONE:-}
            set: { temperature: ${F}, user: '${N}', n: ${N}, stop: x${N}, flag: ${T} }
    ";
    let text = text.replace("'${N}', limits", "${N}, limits").replace("'${NONE:-50}'", "${NONE:-50}");
    let text = text.replace("'${T}'", "${T}").replace("project: '${EMPTY}'", "project: ${EMPTY}");
    let config =
        parse("t.yaml", &text, Path::new(""), &env, &known()).unwrap_or_else(|errors| panic!("{errors}")).config;
    assert_eq!(config.listen.workers, Some(7));
    assert_eq!(config.listen.limits.max_headers, 50);
    assert_eq!(config.listen.limits.max_body_bytes, ByteSize::mib(7));
    assert!(config.auth.open);
    assert_eq!((config.keys[0].name.as_str(), config.keys[0].project.as_deref()), ("7", None));
    let openai = config.providers.get("openai").expect("is there");
    assert_eq!((openai.http2, openai.base_url.as_deref()), (None, None));
    let expected = serde_json::json!({ "temperature": 0.25, "user": "7", "n": 7, "stop": "x7", "flag": true });
    assert_eq!(serde_json::Value::from(openai.set.clone()), expected);
}

#[test]
fn habits_of_yaml_1_1_are_text_where_text_is_wanted_and_errors_elsewhere() {
    let config = parsed(
        "keys: [{ name: no, key: on, project: 1.10, metadata: { country: no, code: 0755, big: 1_000, t: 12:30:00, v: true } }]",
    );
    let key = &config.keys[0];
    assert_eq!((key.name.as_str(), key.project.as_deref()), ("no", Some("1.10")));
    assert_eq!(key.key.as_ref().map(Secret::expose), Some("on"));
    let metadata: Vec<&str> = key.metadata.values().map(String::as_str).collect();
    assert_eq!(metadata, ["1_000", "0755", "no", "12:30:00", "true"]);
    let set = "providers: { openai: { set: { a: no, b: 1_000, c: 0755, d: 0x1F, e: 1e3, f: ~, g: 'true', h: .5, i: -3, j: .inf } } }";
    let set = parsed(set).providers.get("openai").expect("is there").set.clone();
    let expected = serde_json::json!({
        "a": "no", "b": "1_000", "c": "0755", "d": 31, "e": 1000.0, "f": null, "g": "true", "h": 0.5, "i": -3, "j": ".inf",
    });
    assert_eq!(serde_json::Value::from(set), expected);
    for (text, message) in [
        ("auth: { open: yes }", "auth.open: `yes` is text in YAML 1.2; write true"),
        ("auth: { open: off }", "auth.open: `off` is text in YAML 1.2; write false"),
        ("auth: { open: 'true' }", "auth.open: `true` is text; write true or false without quotes"),
        ("records: { keep: 1_000 }", "records.keep: `1_000` is text in YAML 1.2; write the number without `_`"),
        (
            "records: { keep: 0755 }",
            "records.keep: `0755` begins with 0, which some readers take for octal; write it without",
        ),
        ("records: { keep: '5' }", "records.keep: `5` is text; write a whole number without quotes"),
        ("records: { keep: -5 }", "records.keep: `-5` is negative; write 0 or more"),
        ("records: { keep: 1e3 }", "records.keep: `1e3` is not a whole number; write one"),
    ] {
        let found = errors(text);
        assert!(found.ends_with(message), "{found}");
    }
    // Tools that speak YAML 1.1 write `off` back as `false`.
    let config = parsed("admin: { address: false }\nlog: { stdout: false }\nstream: { keep_alive: false }\n");
    assert!(config.admin.is_off());
    assert_eq!((config.log.stdout, config.stream.keep_alive), (Stdout::Off, DurationOrOff::OFF));
}

#[test]
fn sections_without_anything_in_them_are_the_defaults() {
    for text in
        ["", "---\n", "# nothing\n", "{}", "listen:\nadmin:\nproviders:\nmodels:\nkeys:\nlog:\n", "\u{feff}listen:\n"]
    {
        assert_eq!(parsed(text), Config::default(), "{text:?}");
    }
    let config = parsed("providers:\n  openai:\n  ollama: ~\n");
    assert_eq!(config.providers.names().collect::<Vec<_>>(), ["openai", "ollama"]);
    assert_eq!(config.providers.get("ollama"), Some(&Provider::default()));
}

#[test]
fn anchors_aliases_and_merges_work_and_bombs_do_not() {
    let config = parsed(
        "
        x-common: &common { drop: [user], timeouts: { total: 1m } }
        providers:
          openai: { <<: *common, base_url: 'http://a/v1' }
          groq: *common
        ",
    );
    for name in ["openai", "groq"] {
        assert_eq!(config.providers.get(name).expect(name).drop, ["user"]);
    }
    let mut bomb = "x-a: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(bomb, "x-{level}: &a{level} [{items}]");
    }
    assert!(errors(&bomb).contains("test.yaml:"), "{}", errors(&bomb));
    let deep = format!("x-deep: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(errors(&deep).contains("test.yaml:1:"));
    let endless = "x-a: &a [*a]\n";
    assert!(parse_text(endless).is_err());
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let folder = std::env::temp_dir().join(format!("portcullis-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("temp is writable");
    let path = folder.join("large.yaml");
    std::fs::write(&path, "#".repeat(5 << 20)).expect("temp is writable");
    let error = load(&path, &|_| None, &known()).expect_err("is too large").to_string();
    assert!(error.contains("is larger than 4194304 bytes"), "{error}");
    std::fs::remove_dir_all(&folder).expect("was made here");
}

#[test]
fn every_error_counts_but_not_its_consequences() {
    // The key is broken, so it is not said that there are no keys; the model's target is, so not that it has none.
    let text = "
        listen: { address: 0.0.0.0:4100 }
        keys: [{ name: a, env: [] }]
        models: { fast: { target: [] }, slow: { tarket: openai/x } }
    ";
    let found = errors(text);
    let paths: Vec<&str> = found.lines().map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    assert_eq!(paths, ["keys[0].env:", "models.fast.target:", "models.slow.tarket:"], "{found}");
    // An element that is gone does not move the others.
    let found = errors("keys:\n- { name: [] }\n- { name: b }\n");
    assert!(found.contains("test.yaml:3:3: keys[1]: has no key"), "{found}");
}

#[test]
fn without_a_file_the_environment_moves_the_listeners() {
    let loaded = builtin(&|_| None, &known()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded, Loaded { config: Config::default(), warnings: Vec::new() });
    let env = |name: &str| match name {
        "PORTCULLIS_LISTEN" => Some("0.0.0.0:8080".to_owned()),
        "PORTCULLIS_ADMIN" => Some("off".to_owned()),
        "PORTCULLIS_KEY" => Some("hush".to_owned()),
        _ => None,
    };
    let config = builtin(&env, &known()).unwrap_or_else(|errors| panic!("{errors}")).config;
    assert_eq!(config.listen.address, "0.0.0.0:8080");
    assert!(config.admin.is_off());
    assert_eq!(config.keys[0].key.as_ref().map(Secret::expose), Some("hush"));
    let env = |name: &str| (name == "PORTCULLIS_LISTEN").then(|| "0.0.0.0:8080".to_owned());
    assert!(builtin(&env, &known()).is_err(), "open to everybody without a key");
}

#[test]
fn a_bare_name_that_is_its_makers_is_a_model_wherever_one_is_named() {
    let text = |model: &str| {
        format!(
            "keys: [{{ name: a, key: b, models: [{model}] }}]\nlimits:\n  - {{ match: {{ model: smart }}, \
             requests: 1 / 1m, on_exhausted: {{ route: {model} }} }}\nmodels: {{ smart: openai/gpt-5 }}\n"
        )
    };
    for model in ["gpt-5-mini", "claude-haiku-4-5", "models/gemini-2.5-flash"] {
        let loaded = parse_text(&text(model)).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
    assert!(errors(&text("gpt-oss-120b")).contains("on_exhausted: there is no model `gpt-oss-120b`;"));
    let said = errors(&text("smrat"));
    assert!(said.contains("on_exhausted: there is no model `smrat`; did you mean `smart`?"), "{said}");
}

#[test]
fn the_admin_api_does_not_stand_on_a_port_that_clients_have_everywhere() {
    let text = |listen: &str, admin: &str| {
        format!(
            "keys: [{{ name: a, key: b }}]\nlisten: {{ address: '{listen}' }}\nadmin: {{ address: '{admin}', token: t }}\n"
        )
    };
    for (listen, admin, refused) in [
        ("0.0.0.0:4100", "127.0.0.1:4100", true),
        ("127.0.0.1:4100", "0.0.0.0:4100", true),
        ("[::]:4100", "[::1]:4100", true),
        ("0.0.0.0:4100", "127.0.0.1:4101", false),
        ("0.0.0.0:0", "127.0.0.1:0", false),
        ("0.0.0.0:4100", "[::1]:4100", false),
        ("127.0.0.1:4100", "127.0.0.2:4100", false),
    ] {
        let loaded = parse_text(&text(listen, admin)).map(drop);
        assert_eq!(loaded.is_err(), refused, "{listen} {admin}: {loaded:?}");
        let said = loaded.map_or_else(|errors| errors.to_string(), |()| String::new());
        assert!(!refused || said.contains("admin.address: is on the port 4100 as `listen` is"), "{said}");
    }
}

#[test]
fn files_that_the_configuration_points_to_are_known() {
    let config = load_fixture(Path::new("tests/fixtures/config/good/everything.yaml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}")).config;
    let files = config.files();
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    assert_eq!(names, ["server.crt", "server.key", "clients.crt", "upstream.key", "caller.key", "prices.json"]);
    assert!(files.iter().all(|file| file.starts_with("tests/fixtures/config/good")), "{files:?}");
}

#[test]
fn the_shipped_file_and_every_example_load_without_a_warning() {
    let mut files = vec![PathBuf::from("config/portcullis.yaml")];
    files.extend(std::fs::read_dir("config/examples").expect("is there").map(|file| file.expect("is readable").path()));
    assert!(files.len() > 3);
    let none = |_: &str| None;
    // Every variable that an example asks for is set; files that it points to are not there.
    let all = |name: &str| Some(format!("{name}-0123456789"));
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "yaml")) {
        let envs: &[Env<'_>] = if path.ends_with("portcullis.yaml") { &[&none, &vendors] } else { &[&all] };
        for env in envs {
            let loaded = load(path, env, &known());
            match loaded {
                Ok(loaded) => assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings),
                Err(errors) => {
                    let real: Vec<_> =
                        errors.0.iter().filter(|error| !error.message.contains("no such file")).collect();
                    assert!(real.is_empty(), "{errors}");
                }
            }
        }
    }
}

/// An environment with the vendors' keys and nothing else.
fn vendors(name: &str) -> Option<String> {
    name.ends_with("_API_KEY").then(|| "sk-test".to_owned())
}

#[test]
fn every_configuration_in_the_reference_loads() {
    let text = std::fs::read_to_string("config/README.md").expect("is there");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let sections = ["providers:", "models:", "keys:", "auth:"];
    let ours: Vec<&&str> = blocks.iter().filter(|block| sections.iter().any(|name| block.starts_with(name))).collect();
    assert!(ours.len() > 8, "{}", ours.len());
    let env = |name: &str| Some(format!("{name}-0123456789"));
    for block in ours {
        // A hash that is cut short in print.
        let block = block.replace("4f2c…", &"0".repeat(64));
        if let Err(errors) = parse("README.md", &block, Path::new(""), &env, &known()) {
            let real = errors.0.iter().find(|error| !error.message.contains("there is no such file"));
            assert!(real.is_none_or(|error| error.message.starts_with("there is no model")), "{errors}\n{block}");
        }
    }
}

#[test]
fn no_broken_file_makes_the_reader_panic() {
    let text = std::fs::read_to_string("tests/fixtures/config/good/everything.yaml").expect("is there");
    for end in (0..text.len()).step_by(13).filter(|end| text.is_char_boundary(*end)) {
        let _ = parse_text(&text[..end]);
    }
    let mut dice = fastrand::Rng::with_seed(7);
    let bits = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "\n",
        "- ",
        "\"",
        "'",
        "#",
        "${",
        "$${",
        "&a ",
        "*a",
        "<<: ",
        "|",
        "\t",
        "!!str ",
        "~",
        "é",
        "\u{e000}",
        "-1",
        "99999999999999999999",
    ];
    for _ in 0..300 {
        let mut broken = text.clone();
        for _ in 0..dice.usize(1..4) {
            let at = dice.usize(..broken.len());
            if broken.is_char_boundary(at) {
                broken.insert_str(at, bits[dice.usize(..bits.len())]);
            }
        }
        match parse_text(&broken) {
            Ok(loaded) => assert!(!print(&loaded.config).is_empty()),
            Err(errors) => {
                assert!(errors.0.iter().all(|error| !error.message.is_empty() && error.line > 0), "{errors}")
            }
        }
    }
}

#[test]
fn the_schema_that_is_checked_in_is_fresh() {
    let mut text = serde_json::to_string_pretty(&schema()).expect("is JSON");
    text.push('\n');
    assert_is_file(Path::new("config/portcullis.schema.json"), &text);
}

#[test]
fn every_key_of_the_schema_says_what_it_means() {
    fn walk(value: &serde_json::Value, path: &str, silent: &mut Vec<String>) {
        for (key, property) in value["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                silent.push(format!("{path}.{key}"));
            }
        }
    }
    let schema = schema();
    let mut silent = Vec::new();
    walk(&schema, "", &mut silent);
    for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
        walk(definition, name, &mut silent);
    }
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_tables_of_the_reference_are_fresh() {
    const BEGIN: &str = "<!-- tables from the types: begin -->\n";
    const END: &str = "<!-- tables from the types: end -->\n";
    let path = Path::new("config/README.md");
    let text = std::fs::read_to_string(path).expect("is there");
    let (before, rest) = text.split_once(BEGIN).expect("has the begin mark");
    let (_, after) = rest.split_once(END).expect("has the end mark");
    assert_is_file(path, &format!("{before}{BEGIN}\n{}{END}{after}", reference()));
}

#[test]
fn secrets_are_compared_by_marks_and_never_shown() {
    let prints = |key: &str, header: &str, of_variable: &str| {
        let text = format!(
            "keys: [{{ name: a, key: {key} }}, {{ name: b, env: B }}]\n\
             providers: {{ x: {{ dialect: openai_chat, base_url: http://x/v1, headers: {{ x-auth: {header} }} }} }}\n"
        );
        let env = |name: &str| (name == "B").then(|| of_variable.to_owned());
        let loaded = parse("a.yaml", &text, Path::new(""), &env, &known()).expect("is good");
        (print(&loaded.config), print_marked(&loaded.config))
    };
    let long = |letter: &str| letter.repeat(32);
    let (plain, marked) = prints(&long("k"), "h1", &long("v"));
    assert_eq!(prints(&long("k"), "h1", &long("v")), (plain.clone(), marked.clone()));
    for other in [
        prints(&long("m"), "h1", &long("v")),
        prints(&long("k"), "h2", &long("v")),
        prints(&long("k"), "h1", &long("w")),
    ] {
        assert_eq!(other.0, plain);
        assert_ne!(other.1, marked);
        for secret in ["kkk", "mmm", "vvv", "www", "h1", "h2"] {
            assert!(!other.1.contains(secret) && !marked.contains(secret), "{}", other.1);
        }
    }
}
