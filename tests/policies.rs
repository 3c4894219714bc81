//! The shipped policies and those that `portcullis script new` writes pass their own tests, on the engine of service.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn portcullis(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(args).output().expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// A folder of one's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-policies-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("plain")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_shipped_policies_pass_their_tests() {
    let output = portcullis(&["test", scripts().to_str().expect("plain")]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn every_shipped_policy_has_tests_a_manifest_and_says_how_it_is_attached() {
    let mut count = 0;
    for entry in std::fs::read_dir(scripts()).expect("is there").flatten().filter(|entry| entry.path().is_dir()) {
        let read = |name: &str| {
            let path = entry.path().join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let name = entry.file_name().into_string().expect("plain");
        assert!(read("main_test.luau").contains("t.test("), "{name}");
        assert!(read("manifest.toml").contains("description = "), "{name}");
        let shown = [format!("lua: {name}"), format!("dialect: lua:{name}")];
        assert!(
            shown.iter().any(|shown| read("main.luau").contains(shown)),
            "{name} shows neither a hook nor a provider"
        );
        count += 1;
    }
    assert!(count >= 16, "{count}");
}

#[test]
fn a_new_policy_of_every_kind_passes_its_test_and_is_not_written_twice() {
    let folder = Folder::new("new");
    for kind in ["route", "guard", "fallback", "stream", "adapter"] {
        let new = ["script", "new", kind, "--kind", kind, "--dir", folder.path()];
        let output = portcullis(&new);
        assert!(output.status.success(), "{kind}: {}", said(&output));
        let again = portcullis(&new);
        assert_eq!(again.status.code(), Some(2), "{kind}");
        assert!(said(&again).contains("is there already"), "{}", said(&again));
        // Who may hold something back must not be passed by where it fails.
        let manifest = std::fs::read_to_string(folder.0.join(kind).join("manifest.toml")).expect("is written");
        assert_eq!(manifest.contains("\nguard = true\n"), matches!(kind, "guard" | "stream"), "{kind}");
    }
    let output = portcullis(&["test", folder.path()]);
    assert!(output.status.success() && said(&output).contains("14 passed, 0 failed"), "{}", said(&output));
    let wrong = portcullis(&["script", "new", "../Up", "--dir", folder.path()]);
    assert!(said(&wrong).contains("is no name for a script"), "{}", said(&wrong));
}

#[test]
fn what_calls_of_a_script_cost_can_be_measured() {
    let folder = Folder::new("bench");
    let adapter = &["encode, 1 KiB", "decode, an empty", "begin and end"][..];
    for (kind, config, lines) in
        [("adapter", "{}", adapter), ("stream", r#"{"word":"some","with":"many"}"#, &["on_event"])]
    {
        let output = portcullis(&["script", "new", kind, "--kind", kind, "--dir", folder.path()]);
        assert!(output.status.success(), "{kind}: {}", said(&output));
        let path = format!("{}/{kind}", folder.path());
        let output = portcullis(&["script", "bench", &path, "--config", config]);
        let said = said(&output);
        assert!(output.status.success() && lines.iter().all(|line| said.contains(line)), "{kind}: {said}");
    }
    let output = portcullis(&["script", "bench", &format!("{}/adapter", folder.path()), "--config", "{\"joind\": 1}"]);
    assert!(!output.status.success() && said(&output).contains("joind"), "{}", said(&output));
}

#[test]
fn a_policy_that_chooses_is_measured_with_targets_to_choose_from() {
    let folder = Folder::new("bench-route");
    let script = "function on_route(req)
	local plan = req:plan()
	assert(#plan == 3 and #gw.targets.list(req.model) == 3, 'nobody to choose from')
	for _, target in plan do
		assert(target.healthy and target.samples > 0 and target.latency_p50_ms and target.price_in and target.context)
	end
	table.sort(plan, function(a, b) return a.price_in < b.price_in end)
	return { steps = { plan[1].name, plan[2].name } }
end
";
    std::fs::write(folder.0.join("cheap.luau"), script).expect("is writable");
    let output = portcullis(&["script", "bench", &format!("{}/cheap.luau", folder.path())]);
    let said = said(&output);
    let line = said.lines().find(|line| line.starts_with("on_route")).unwrap_or_default();
    assert!(output.status.success() && line.ends_with('s') && !line.contains(':'), "{said}");
}

#[test]
fn a_test_tells_of_a_policy_that_fails_on_its_way_and_of_what_is_warned_of() {
    let folder = Folder::new("notes");
    let write = |name: &str, text: &str| std::fs::write(folder.0.join(name), text).expect("is writable");
    write("slip.luau", "function on_request(req)\n\treturn { modell = 'x' }\nend\nfunction on_event() end\n");
    write(
        "slip_test.luau",
        "t.test('goes on', function()\n\tlocal answer = t.chat({ model = 'a/m', text = 'x' })\n\tt.eq(answer.status, 200)\n\t\
         t.contains(answer.failed, 'did you mean `model`?')\nend)\n",
    );
    let output = portcullis(&["test", folder.path()]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("the policy failed on the way:") && said.contains("a patch of on_request has no `modell`"),
        "{said}"
    );
    assert!(said.contains("warning: hooks.slip") && said.contains("on_event"), "{said}");
}

/// What somebody who has only the guide would write: every policy in it, with the tests that stand beside it.
#[test]
fn the_policies_of_the_guide_pass_the_tests_of_the_guide() {
    let guide = std::fs::read_to_string(scripts().join("README.md")).expect("is there");
    let folder = Folder::new("guide");
    let mut tests = 0;
    for block in guide.split("```lua\n-- scripts/").skip(1) {
        let (name, text) = block.split_once('\n').expect("a name");
        let text = text.split("\n```").next().expect("an end");
        std::fs::write(folder.0.join(name), format!("-- scripts/{name}\n{text}\n")).expect("writes");
        tests += usize::from(name.ends_with("_test.luau"));
    }
    assert!(tests >= 3, "{tests}");
    let output = portcullis(&["test", folder.path()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_test_that_fails_says_where_and_what_and_fails_the_command() {
    let folder = Folder::new("failing");
    std::fs::write(folder.0.join("p.luau"), "function on_request(req) return gw.say('Hi') end\n").expect("writes");
    let test = "t.test('a', function()\n\tt.eq(t.chat({ model = 'a/m', text = 'x' }).text, 'Ho')\nend)\n";
    std::fs::write(folder.0.join("p_test.luau"), test).expect("writes");
    let output = portcullis(&["test", folder.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("p_test.luau:2: got \"Hi\", want \"Ho\""), "{}", said(&output));

    std::fs::write(folder.0.join("p.luau"), "function on_request(req) retrun nil end\n").expect("writes");
    let output = portcullis(&["test", folder.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("p.luau:1:"), "{}", said(&output));
}

#[test]
fn lines_that_never_run_are_told_and_can_be_too_many() {
    let folder = Folder::new("coverage");
    let policy = "function on_request(req)\n\tif req.stream then\n\t\treturn gw.say('Hi')\n\tend\n\treturn nil\nend\n";
    std::fs::write(folder.0.join("p.luau"), policy).expect("writes");
    let test = "t.test('a', function()\n\tt.eq(t.chat({ model = 'a/m', text = 'x' }).status, 200)\nend)\n";
    std::fs::write(folder.0.join("p_test.luau"), test).expect("writes");
    let output = portcullis(&["test", "--coverage", folder.path()]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("p.luau  never: 3\n"), "{}", said(&output));
    let output = portcullis(&["test", "--coverage-at-least", "95", folder.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("each file needs 95 %"), "{}", said(&output));
    let both = format!(
        "{test}t.test('b', function()\n\tt.eq(t.chat({{ model = 'a/m', text = 'x', stream = true }}).text, 'Hi')\nend)\n"
    );
    std::fs::write(folder.0.join("p_test.luau"), both).expect("writes");
    let output = portcullis(&["test", "--coverage-at-least", "100", folder.path()]);
    assert!(output.status.success() && said(&output).contains("100.0 %"), "{}", said(&output));
}

#[test]
fn a_test_that_hangs_is_ended_and_a_filter_counts_what_it_lets_run() {
    let folder = Folder::new("bounds");
    std::fs::write(folder.0.join("p.luau"), "function on_request() end\n").expect("writes");
    let tests = "t.test('it hangs', function()\n\twhile true do end\nend)\nt.test('it is good', function() end)\n";
    std::fs::write(folder.0.join("p_test.luau"), tests).expect("writes");
    let output = portcullis(&["test", "--timeout", "300ms", folder.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("p_test.luau:2: did not end within 300ms"), "{}", said(&output));
    assert!(said(&output).contains("1 passed, 1 failed"), "{}", said(&output));
    let output = portcullis(&["test", "--filter", "good", folder.path()]);
    assert!(output.status.success() && said(&output).contains("1 passed, 0 failed"), "{}", said(&output));
    let output = portcullis(&["test", "--filter", "goood", folder.path()]);
    assert!(!output.status.success() && said(&output).contains("no test has `goood` in its name"), "{}", said(&output));
}

#[test]
fn a_fresh_guard_tries_its_patterns_as_it_is_loaded() {
    let folder = Folder::new("patterns");
    let scripts = folder.0.join("scripts");
    let output = portcullis(&["script", "new", "words", "--kind", "guard", "--dir", scripts.to_str().expect("plain")]);
    assert!(output.status.success(), "{}", said(&output));
    let config = folder.0.join("c.yaml");
    let check = |words: &str| {
        std::fs::write(&config, format!("hooks: [{{ lua: words, config: {{ words: [{words}] }} }}]\n"))
            .expect("writes");
        portcullis(&["check", config.to_str().expect("plain")])
    };
    assert!(check("bird").status.success(), "{}", said(&check("bird")));
    let output = check("'('");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("hooks.words: ") && said(&output).contains("main.luau:"), "{}", said(&output));
}

/// A policy and its test in a folder, and a configuration that attaches it.
fn attached(name: &str, test: &str) -> Folder {
    let folder = Folder::new(name);
    std::fs::create_dir_all(folder.0.join("scripts")).expect("a folder");
    let policy = "--!strict\nfunction on_request(req: Request, ctx: Ctx)\n\treturn gw.say('Hi')\nend\n";
    std::fs::write(folder.0.join("scripts/p.luau"), policy).expect("writes");
    std::fs::write(folder.0.join("scripts/p_test.luau"), test).expect("writes");
    std::fs::write(folder.0.join("c.yaml"), "hooks: [{ lua: p }]\n").expect("writes");
    folder
}

#[test]
fn a_policy_that_fails_its_own_tests_is_refused_with_their_lines() {
    let test = "t.test('it says Ho', function()\n\tt.eq(t.chat({ model = 'a/m', text = 'x' }).text, 'Ho')\nend)\n";
    let folder = attached("smoke", test);
    let config = folder.0.join("c.yaml");
    let check = || portcullis(&["check", config.to_str().expect("plain")]);
    let output = check();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("hooks.p: its test \"it says Ho\" fails:"), "{}", said(&output));
    assert!(said(&output).contains("p_test.luau:2: got \"Hi\", want \"Ho\""), "{}", said(&output));
    std::fs::write(&config, "hooks_tests: false\nhooks: [{ lua: p }]\n").expect("writes");
    assert!(check().status.success(), "{}", said(&check()));
    std::fs::write(&config, "hooks: [{ lua: p }]\n").expect("writes");
    std::fs::write(folder.0.join("scripts/p_test.luau"), "while true do end\n").expect("writes");
    let told = said(&check());
    assert!(
        told.contains("hooks.p: its test fails: ") && told.contains("p_test.luau:1: did not end within 10s"),
        "{told}"
    );
}

/// A checker that finds something in the third line of whatever it is given last, under the name of the copy.
fn checker(folder: &Folder, name: &str, line: u32) -> String {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.0.join("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\ngrep -q 'return gw.say' \"$last\" || exit 3\necho \"$last({line},9): TypeError: Key 'say' not found\"\n\
         echo \"$last(2,1): LocalUnused: never used\"\nexit 1\n"
    );
    std::fs::write(bin.join(name), script).expect("writes");
    std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).expect("executable");
    format!("{}:/usr/bin:/bin", bin.display())
}

#[test]
fn types_are_checked_where_a_checker_is_at_hand_and_its_absence_is_said() {
    let test = "t.test('a', function()\n\tt.eq(t.chat({ model = 'a/m', text = 'x' }).text, 'Hi')\nend)\n";
    let folder = attached("types", test);
    let config = folder.0.join("c.yaml");
    let check = |path: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("check").arg(&config).env("PATH", path).output().expect("runs")
    };
    let output = check("/nowhere");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("neither luau-lsp nor luau-analyze is on PATH"), "{}", said(&output));
    let output = check(&checker(&folder, "luau-lsp", 3));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("scripts/p.luau:3:9: TypeError: Key 'say' not found"), "{}", said(&output));
    // The other one reads the types in front of each source; its lines are counted from there.
    let types = std::fs::read_to_string(scripts().join("gw.d.luau")).expect("is there");
    let above = u32::try_from(types.trim_end().lines().count()).expect("a number") + 1;
    let other = attached("types-other", test);
    let config = other.0.join("c.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let path = checker(&other, "luau-analyze", above + 3);
    let output = command.arg("check").arg(&config).env("PATH", path).output().expect("runs");
    assert!(said(&output).contains("scripts/p.luau:3:9: TypeError: Key 'say' not found"), "{}", said(&output));
}

/// A log of a gateway with two providers: answers, a failure that went on, a stream, and lines that ask nothing.
const LOG: &str = r#"{"time":"2026-01-05T12:00:00.000Z","id":"gen-1","request_id":"r","key":"ann","project":"shop","metadata":{"tier":"gold"},"endpoint":"/v1/chat/completions","dialect":"openai_chat","operation":"chat","model":"smart","provider":"a","target_model":"large","stream":false,"status":200,"duration_ms":900.0,"usage":{"input":1000,"output":100},"cost_usd":0.013,"bytes_in":4000,"attempts":[{"provider":"a","model":"large","at_ms":0.1,"took_ms":900.0,"status":200}],"generation":1}
{"time":"2026-01-05T12:00:01.000Z","id":"gen-2","key":"bob","endpoint":"/v1/messages","dialect":"anthropic","operation":"chat","model":"smart","stream":true,"status":200,"ttft_ms":200.0,"duration_ms":400.0,"usage":{"input":1000,"output":100},"cost_usd":0.0013,"bytes_in":4000,"attempts":[{"provider":"a","model":"large","took_ms":30.0,"status":429,"error":"rate_limited","message":"slow down"},{"provider":"b","model":"small","took_ms":200.0,"status":200}]}
{"time":"2026-01-05T12:02:00.000Z","id":"gen-3","key":"bob","endpoint":"/v1/chat/completions","dialect":"openai_chat","operation":"chat","model":"smart","stream":false,"status":200,"duration_ms":800.0,"usage":{"input":1000,"output":100},"cost_usd":0.013,"bytes_in":4000,"attempts":[{"provider":"a","model":"large","took_ms":800.0,"status":200}]}
{"time":"2026-01-05T12:02:03.000Z","id":"gen-4","key":"eve","endpoint":"/v1/chat/completions","dialect":"openai_chat","operation":"chat","model":"large","asked_model":"smart","stream":false,"status":200,"duration_ms":800.0,"usage":{"input":10,"output":1},"cost_usd":0.0001,"bytes_in":400,"attempts":[{"provider":"a","model":"large","took_ms":800.0,"status":200}]}
{"time":"2026-01-05T12:02:04.000Z","id":"gen-5","key":null,"endpoint":"/v1/chat/completions","dialect":"openai_chat","operation":"chat","model":"","stream":false,"status":401,"attempts":[]}
not a line of the log
"#;

const LOG_CONFIG: &str = "
providers:
  a: { dialect: openai_chat, base_url: http://a.test/v1, api_key: '${A_KEY}' }
  b: { dialect: anthropic, base_url: http://b.test/v1, api_key: '${B_KEY}' }
models: { smart: { fallback: [a/large, b/small], retry: { per_target: 1 } }, large: a/large }
keys: [{ name: ann, env: ANN_KEY }, { name: bob, env: BOB_KEY }]
limits: [{ name: one, requests: 1 / 1h }]
prices:
  models:
    a/large: { input: 10, output: 30 }
    b/small: { input: 1, output: 3 }
";

#[test]
fn a_log_is_replayed_under_other_policies_beside_what_happened() {
    let folder = Folder::new("replay");
    let write = |name: &str, text: &str| {
        let path = folder.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("writes");
    };
    write("log.jsonl", LOG);
    write("c.yaml", &format!("{LOG_CONFIG}hooks: [{{ lua: tiers }}]\n"));
    write("scripts/tiers.luau", "function on_route() return nil end\n");
    // Gold keeps the large one, eve is refused, everybody else gets the small one; noon is noon.
    write(
        "next/tiers.luau",
        "function on_request(req)\n\tif req.key == 'eve' then return gw.reject('no_eve', 'No.') end\nend\n\
         function on_route(req)\n\tif gw.time.date().hour ~= 12 then error('not noon') end\n\
         \tif req:metadata('tier') ~= 'gold' then return { 'b/small' } end\nend\n",
    );
    let path = |name: &str| folder.0.join(name).to_str().expect("plain").to_owned();
    let (log, config, next) = (path("log.jsonl"), path("c.yaml"), path("next"));
    let args = ["replay", log.as_str(), "--config", config.as_str(), "--policy", next.as_str()];
    let output = portcullis(&[&args[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["replayed"], &report["skipped"]), (&4.into(), &2.into()), "{report}");
    let sums = |side: &str| {
        let side = &report[side];
        [&side["answered"], &side["refused"], &side["failed"], &side["tries"]]
            .map(|count| count.as_u64().expect("a count"))
    };
    assert_eq!((sums("old"), sums("new")), ([4, 0, 0, 5], [3, 1, 0, 3]), "{report}");
    assert_eq!(report["moves"]["a/large → b/small"], 1, "{report}");
    assert_eq!(report["moves"]["a/large → refused (policy_rejected)"], 1, "{report}");
    // 1,000 tokens in and 100 out: 0.013 at the large one, 0.0013 at the small one.
    let cost = report["new"]["cost_usd"].as_f64().expect("a sum");
    assert!((cost - 0.0156).abs() < 1e-9, "{cost}");
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    let text = said(&portcullis(&args));
    for line in
        ["4 exchanges replayed, 2 lines skipped", "2 went elsewhere", "gen-3  key=bob model=smart  a/large → b/small"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Beside the version that is in force: it changes nothing, so the difference is the same.
    let scripts = path("scripts");
    let output = portcullis(&[&args[..], &["--against", scripts.as_str(), "--json"]].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["old"]["answered"], 4, "{report}");
    assert_eq!(report["old"]["tries"], 5, "a recorded failure fails again: {report}");
    assert_eq!(report["moves"]["a/large → b/small"], 1, "{report}");
    let p50 = report["old"]["latency_p50_ms"].as_f64().expect("a time");
    assert!((700.0..900.0).contains(&p50), "times are those of the log: {report}");
    // Who called is in the log, what they showed is not: nobody is asked for it again, no target is made out of it.
    write(
        "auth/tiers.luau",
        "function on_auth() error('nobody') end\nfunction on_request() gw.http.fetch({ url = 'http://x.test/' }) end\n",
    );
    let auth = path("auth");
    let granted = format!("{LOG_CONFIG}hooks: [{{ lua: tiers, fail: open, grants: {{ http: [x.test] }} }}]\n");
    write("granted.yaml", &granted);
    let granted = path("granted.yaml");
    let args = ["replay", log.as_str(), "--config", granted.as_str(), "--policy", auth.as_str()];
    let text = said(&portcullis(&args));
    assert!(text.contains("on_auth was left out: the callers are those of the log."), "{text}");
    assert!(!text.contains("a target that the log does not know") && text.contains("\n0 went elsewhere"), "{text}");
    assert!(text.contains("tiers failed 4 times in on_request") && text.contains("nobody outside is asked"), "{text}");
    // Who never answered does not, and who is not in the log is unknown.
    let down = LOG.replace(
        r#""model":"small","took_ms":200.0,"status":200"#,
        r#""model":"small","took_ms":200.0,"status":503,"error":"upstream_error""#,
    );
    write("down.jsonl", &down);
    write("small/tiers.luau", "function on_route() return 'b/small' end\n");
    write("other/tiers.luau", "function on_route() return 'b/other' end\n");
    for (policy, counts) in [("small", [0, 0, 4]), ("other", [0, 4, 0])] {
        let (down, policy) = (path("down.jsonl"), path(policy));
        let args = ["replay", down.as_str(), "--config", config.as_str(), "--policy", policy.as_str(), "--json"];
        let report: serde_json::Value = serde_json::from_slice(&portcullis(&args).stdout).expect("JSON");
        let new = &report["new"];
        let told = [&new["answered"], &new["unknown"], &new["failed"]].map(|count| count.as_u64().expect("a count"));
        assert_eq!(told, counts, "{report}");
    }
    // A policy that breaks is said to.
    write("broken/tiers.luau", "function on_route(req) error('no way') end\n");
    let broken = path("broken");
    let args = ["replay", log.as_str(), "--config", config.as_str(), "--policy", broken.as_str()];
    let text = said(&portcullis(&args));
    assert!(text.contains("tiers failed 4 times in on_route") && text.contains("no way"), "{text}");
}

/// What a stream used is in the log, with the parts that have a price of their own, and providers answer past adapters.
#[test]
fn a_replay_without_a_change_costs_what_the_log_says_of_streams_and_of_adapters_too() {
    let folder = Folder::new("replay-usage");
    let write = |name: &str, text: &str| {
        let path = folder.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("writes");
    };
    let adapter = "--[[manifest\n[adapter]\noperations = [\"chat\"]\nframing = \"lines\"\n]]\n\
        function encode(ask) return { path = '/talk', body = { m = ask.model } } end\n\
        function decode(answer) return { text = gw.json.decode(answer.body).say } end\n\
        function decoder() return function(line) return { text = line } end end\n";
    write("scripts/acme.luau", adapter);
    std::fs::create_dir_all(folder.0.join("empty")).expect("a folder");
    write(
        "c.yaml",
        "providers:\n  a: { dialect: openai_chat, base_url: http://a.test/v1, auth: none }\n\
         \x20 l: { dialect: 'lua:acme', base_url: http://l.test/v1, api_key: k }\n\
         adapters: { acme: { cpu: 50ms } }\nkeys: [{ name: ann, key: sk-ann }]\nprices:\n  models:\n\
         \x20   a/m: { input: 10, output: 10, cache_read: 1 }\n    l/m: { input: 10, output: 10 }\n",
    );
    let line = |at: u32, provider: &str, stream: bool, usage: &str, cost: f64| {
        format!(
            r#"{{"time":"2026-01-05T12:00:0{at}.000Z","id":"gen-{at}","key":"ann","dialect":"openai_chat","operation":"chat","model":"{provider}/m","stream":{stream},"status":200,"duration_ms":90.0,"usage":{usage},"cost_usd":{cost},"bytes_in":400,"attempts":[{{"provider":"{provider}","model":"m","took_ms":90.0,"status":200}}]}}"#
        )
    };
    let plain = r#"{"input":1000,"output":500}"#;
    let cached = r#"{"input":1000,"cache_read":900,"output":100}"#;
    let log = [
        line(0, "a", false, plain, 0.015),
        line(1, "a", true, plain, 0.015),
        line(2, "a", true, cached, 0.0029),
        line(3, "l", false, plain, 0.015),
        line(4, "l", true, plain, 0.015),
    ];
    write("log.jsonl", &log.join("\n"));
    let path = |name: &str| folder.0.join(name).to_str().expect("plain").to_owned();
    let (log, config, empty) = (path("log.jsonl"), path("c.yaml"), path("empty"));
    let output = portcullis(&["replay", &log, "--config", &config, "--policy", &empty, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["changed"], serde_json::json!([]), "{report}");
    for side in ["old", "new"] {
        let sums = &report[side];
        let counts = [&sums["answered"], &sums["unknown"], &sums["tries"]].map(|count| count.as_u64());
        assert_eq!(counts, [Some(5), Some(0), Some(5)], "{report}");
        let cost = sums["cost_usd"].as_f64().expect("a sum");
        assert!((cost - 0.0629).abs() < 1e-9, "{side}: {cost}");
    }
}

/// The exchanges of a hook's share are the same under every version, and those that were its share when they were logged.
#[test]
fn a_share_is_the_same_in_every_replay() {
    let folder = Folder::new("replay-share");
    let path = |name: &str| folder.0.join(name).to_str().expect("plain").to_owned();
    let lines: Vec<&str> = LOG.lines().collect();
    let log: String =
        (0..200u64).map(|number| lines[0].replace("gen-1", &format!("gen-{:024x}", number * 7919)) + "\n").collect();
    std::fs::write(path("log.jsonl"), log).expect("writes");
    let hooks = "hooks: [{ lua: half, share: 50% }]\n";
    std::fs::write(path("c.yaml"), format!("{LOG_CONFIG}{hooks}")).expect("writes");
    std::fs::create_dir_all(path("scripts")).expect("a folder");
    std::fs::write(path("scripts/half.luau"), "function on_route() return 'b/small' end\n").expect("writes");
    let (log, config, scripts) = (path("log.jsonl"), path("c.yaml"), path("scripts"));
    let args = ["replay", log.as_str(), "--config", config.as_str(), "--policy", scripts.as_str(), "--json"];
    let replayed = |more: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&portcullis(&[&args[..], more].concat()).stdout).expect("JSON")
    };
    let alone = replayed(&[]);
    let moved = alone["changed"].as_array().expect("a list").len();
    assert!((60..140).contains(&moved), "{moved} of 200");
    assert_eq!(replayed(&[])["changed"], alone["changed"], "the same again");
    assert_eq!(replayed(&["--against", scripts.as_str()])["changed"], serde_json::json!([]));
}

/// Tests that play on a clock of their own, where the real one would have to be waited for.
#[test]
fn text_that_waits_to_be_put_together_goes_when_its_time_is_over() {
    let folder = Folder::new("coalesce");
    let policy = "--[[manifest\nstream = \"event\"\ncoalesce = { events = 100, ms = 50 }\n]]\n\
                  function on_event(e) if e.kind == 'text' then return `<{e.text}>` end end\n";
    std::fs::write(folder.0.join("p.luau"), policy).expect("writes");
    let test = "t.test('by time', function()\n\
                \tt.upstream('a/m'):streams({ 'a', 'b', 'c', 'd', 'e' }, { gap_ms = 40 })\n\
                \tt.eq(t.chat({ model = 'a/m', text = 'x', stream = true }).text, '<ab><cd><e>')\nend)\n";
    std::fs::write(folder.0.join("p_test.luau"), test).expect("writes");
    let output = portcullis(&["test", folder.path()]);
    assert!(output.status.success(), "{}", said(&output));
}
