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
        assert!(read("main.luau").contains(&format!("lua: {name}")), "{name} shows no hook");
        count += 1;
    }
    assert!(count >= 16, "{count}");
}

#[test]
fn a_new_policy_of_every_kind_passes_its_test_and_is_not_written_twice() {
    let folder = Folder::new("new");
    for kind in ["route", "guard", "fallback", "stream"] {
        let new = ["script", "new", kind, "--kind", kind, "--dir", folder.path()];
        let output = portcullis(&new);
        assert!(output.status.success(), "{kind}: {}", said(&output));
        let again = portcullis(&new);
        assert_eq!(again.status.code(), Some(2), "{kind}");
        assert!(said(&again).contains("is there already"), "{}", said(&again));
    }
    let output = portcullis(&["test", folder.path()]);
    assert!(output.status.success() && said(&output).contains("8 passed, 0 failed"), "{}", said(&output));
    let wrong = portcullis(&["script", "new", "../Up", "--dir", folder.path()]);
    assert!(said(&wrong).contains("is no name for a policy"), "{}", said(&wrong));
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
