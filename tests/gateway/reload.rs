//! New configurations: every way they arrive, what happens to a broken one, and that nobody notices the change.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, Event, EventKind};
use notify::{RecursiveMode, Watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Folder, Gateway, Mock, SOON, portcullis, together};
use super::wire::{Conn, request};

/// A configuration whose model `probe` tells which one it is.
fn version(number: u32) -> String {
    format!("models:\n  probe: chat/version-{number}\n")
}

/// The model behind `probe`.
async fn probed(gateway: &Gateway) -> String {
    let reply = gateway.post("/v1/chat/completions", Chat.ask("probe", false, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.head.header("x-portcullis-model").expect("a model").to_owned()
}

async fn becomes(gateway: &Gateway, number: u32) {
    let deadline = Instant::now() + SOON;
    while probed(gateway).await != format!("version-{number}") {
        assert!(Instant::now() < deadline, "version {number} never came:\n{}", gateway.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn generation(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/admin/generation").await.json()
}

#[tokio::test]
async fn a_file_that_is_rewritten_is_taken_up() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    for number in 2..5 {
        gateway.configure(&version(number));
        becomes(&gateway, number).await;
    }
    assert_eq!(generation(&gateway).await["number"], 4);
    assert_eq!(gateway.metric("portcullis_generation").await, Some(4.0));
}

#[tokio::test]
async fn a_file_that_is_replaced_by_renaming_is_taken_up_again_and_again() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    for number in 2..5 {
        let new = gateway.folder.write("portcullis.yaml.new", &gateway.text(&version(number)));
        fs::rename(new, gateway.folder.path("portcullis.yaml")).expect("renames");
        becomes(&gateway, number).await;
    }
}

#[tokio::test]
async fn a_look_at_the_files_is_no_reason_for_the_next_one() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    gateway.configure(&version(2));
    becomes(&gateway, 2).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let seen = looks.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let opened = |event: Event| matches!(event.kind, EventKind::Access(AccessKind::Open(_)));
        seen.fetch_add(usize::from(event.is_ok_and(opened)), Ordering::SeqCst);
    })
    .expect("a watcher");
    let file = gateway.folder.path("portcullis.yaml");
    watcher.watch(&file, RecursiveMode::NonRecursive).expect("watches");
    // The files are looked at every two seconds, and once after each event that could be a change.
    sleep(Duration::from_millis(1500)).await;
    assert!(looks.load(Ordering::SeqCst) <= 2, "{looks:?} looks");
    gateway.configure(&version(3));
    becomes(&gateway, 3).await;
    assert!(looks.load(Ordering::SeqCst) > 0);
}

/// As the kubelet does it: the file is a link through `..data`, which is a link to a folder that is exchanged.
#[tokio::test]
async fn a_config_map_that_is_swapped_is_taken_up_again_and_again() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    let mount = folder.path("mount");
    let mut gateway = Gateway::unstarted(folder, Some(mock.address));
    let put = |gateway: &Gateway, number: u32| {
        let data = mount.join(format!("..v{number}"));
        fs::create_dir_all(&data).expect("a folder");
        fs::write(data.join("portcullis.yaml"), gateway.text(&version(number))).expect("a file");
        symlink(format!("..v{number}"), mount.join("..data_tmp")).expect("a link");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("renames");
        if number > 1 {
            fs::remove_dir_all(mount.join(format!("..v{}", number - 1))).expect("removes");
        }
    };
    put(&gateway, 1);
    symlink("..data/portcullis.yaml", mount.join("portcullis.yaml")).expect("a link");
    gateway.serve(&mount.join("portcullis.yaml")).await;
    assert_eq!(probed(&gateway).await, "version-1");
    for number in 2..5 {
        put(&gateway, number);
        becomes(&gateway, number).await;
    }
    assert_eq!(generation(&gateway).await["last_reload_error"], Value::Null);
}

#[tokio::test]
async fn a_signal_and_the_admin_api_reload_as_well() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    gateway.process.signal("HUP");
    let deadline = Instant::now() + SOON;
    while generation(&gateway).await["number"] != 2 {
        assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
        sleep(Duration::from_millis(10)).await;
    }
    let reply = gateway.admin("POST", "/admin/reload").await;
    assert_eq!((reply.status(), reply.json()["generation"].clone()), (200, json!(3)));
    assert_eq!(gateway.admin("GET", "/admin/reload").await.status(), 404);
}

/// A key is read from a named pipe that nobody writes to, so that the build never ends.
#[tokio::test]
async fn a_build_that_takes_its_time_keeps_nobody_waiting_and_the_process_from_nothing() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, &version(1)).await;
    let pipe = gateway.folder.path("key");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    let held = format!(
        "{}providers:\n  held: {{ dialect: openai_chat, base_url: 'http://127.0.0.1:9/v1', api_key_file: {} }}\n",
        version(2),
        pipe.display()
    );
    gateway.configure(&held);
    gateway.process.signal("HUP");
    // It is being built once its reader is there.
    let writer = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(pipe).expect("opens"));
    let writer = timeout(SOON, writer).await.expect("it is read").expect("opens");
    assert_eq!(gateway.admin("GET", "/livez").await.status(), 200);
    assert_eq!(generation(&gateway).await["number"], 1);
    assert_eq!(probed(&gateway).await, "version-1");
    // Whoever asks for a reload waits for it, and nobody else does.
    let mut asks = Conn::open(gateway.admin).await;
    asks.send(&request("POST", "/admin/reload", &[], b"")).await;
    assert_eq!(gateway.admin("GET", "/livez").await.status(), 200);
    gateway.process.signal("TERM");
    assert!(gateway.process.exit(SOON).await.success(), "{}", gateway.process.stderr());
    drop(writer);
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_generation_and_says_where_it_is_wrong() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    let broken = "models:\n  probe: chat/version-2\n  other: { targett: chat/x }\n";
    gateway.configure(broken);
    let place = "portcullis.yaml:3:";
    let deadline = Instant::now() + SOON;
    loop {
        let health = gateway.get("/health").await.json();
        if health["last_reload_error"].as_str().is_some_and(|error| error.contains(place)) {
            assert_eq!((&health["generation"], &health["status"]), (&json!(1), &json!("ok")));
            break;
        }
        assert!(Instant::now() < deadline, "{health}");
        sleep(Duration::from_millis(20)).await;
    }
    let shown = generation(&gateway).await;
    assert_eq!(shown["number"], 1);
    let error = shown["last_reload_error"].as_str().expect("an error");
    assert!(error.contains(place) && error.contains("targett") && error.contains("target"), "{error}");
    assert!(gateway.process.stderr().contains(place), "{}", gateway.process.stderr());
    let page = gateway.admin("GET", "/metrics").await.text();
    assert!(page.contains("portcullis_reloads_total{result=\"refused\"} 1"), "{page}");
    assert_eq!(probed(&gateway).await, "version-1");
    let reply = gateway.admin("POST", "/admin/reload").await;
    assert_eq!(reply.status(), 422);
    assert!(reply.json()["error"]["message"].as_str().is_some_and(|text| text.contains(place)), "{}", reply.text());
    // A file that is gone is broken too.
    fs::remove_file(gateway.folder.path("portcullis.yaml")).expect("removes");
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 422);
    assert_eq!(probed(&gateway).await, "version-1");
    gateway.configure(&version(3));
    becomes(&gateway, 3).await;
    assert_eq!(gateway.get("/health").await.json()["last_reload_error"], Value::Null);
}

/// What is written of `listen` counts from the next start, what is written of keys at once.
#[tokio::test]
async fn a_gateway_that_others_reach_keeps_its_keys_wherever_it_is_told_to_listen_next() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::unstarted(Folder::new(), Some(mock.address));
    let listen = format!("listen: {{ address: \"0.0.0.0:{}\" }}\n", gateway.address.port());
    let path = gateway.configure(&format!("{listen}keys: [{{ name: k, key: sk-one }}]\n"));
    gateway.serve(&path).await;
    let open = "auth: { open: true }\n";
    for (text, why) in [
        (gateway.text(""), "0.0.0.0"),
        (gateway.text("keys: []\n"), "0.0.0.0"),
        (gateway.text(&listen), "0.0.0.0"),
        (String::new(), "is empty"),
        ("# to be written\n\n---\n".to_owned(), "is empty"),
    ] {
        gateway.folder.write("portcullis.yaml", &text);
        let reply = gateway.admin("POST", "/admin/reload").await;
        let message = reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(reply.status() == 422 && message.contains(why), "{text}: {}", reply.text());
        assert_eq!(gateway.get("/v1/models").await.status(), 401, "{text}");
    }
    assert_eq!(generation(&gateway).await["number"], 1);
    gateway.configure(&format!("{open}listen: {{ address: LISTEN }}\n"));
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    assert_eq!(gateway.get("/v1/models").await.status(), 200);
}

#[tokio::test]
async fn a_file_without_a_word_is_a_configuration_at_the_start_alone() {
    let mut gateway = Gateway::unstarted(Folder::new(), None);
    let path = gateway.configure("");
    gateway.serve(&path).await;
    gateway.folder.write("portcullis.yaml", " \n");
    let reply = gateway.admin("POST", "/admin/reload").await;
    assert!(reply.status() == 422 && reply.text().contains("is empty"), "{}", reply.text());
    gateway.folder.write("portcullis.yaml", "{}\n");
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    let output = portcullis().arg("check").arg(gateway.folder.write("empty.yaml", "")).output().expect("runs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_anew_at_a_hangup_and_by_itself() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    let log = gateway.folder.path("access.log");
    let ask = async || {
        let reply = gateway.post("/v1/chat/completions", Chat.ask("probe", false, Turn::Text, "Hello")).await;
        gateway.logged(reply.head.id()).await
    };
    ask().await;
    for (moved, hangup) in [("access.log.1", true), ("access.log.2", false)] {
        fs::rename(&log, gateway.folder.path(moved)).expect("renames");
        if hangup {
            gateway.process.signal("HUP");
            let deadline = Instant::now() + SOON;
            while !log.exists() {
                assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
                sleep(Duration::from_millis(10)).await;
            }
        } else {
            // Lines go into the moved file until it is noticed.
            let deadline = Instant::now() + SOON;
            while !log.exists() {
                probed(&gateway).await;
                assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
                sleep(Duration::from_millis(100)).await;
            }
        }
        ask().await;
        let before = fs::read_to_string(gateway.folder.path(moved)).expect("is there");
        assert!(before.ends_with('\n') && before.lines().count() >= 1, "{before}");
    }
}

#[tokio::test]
async fn a_callers_key_that_changes_in_its_file_counts_at_once() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    folder.write("caller.key", "sk-before\n");
    let gateway = Gateway::prepared(folder, &mock, "keys: [{ name: k, file: FOLDER/caller.key }]\n").await;
    let status = async |key: &str| {
        let body = Chat.ask("chat/mock-fast", false, Turn::Text, "Hello");
        gateway.call("POST", "/v1/chat/completions", &[("x-api-key", key)], body).await.status()
    };
    assert_eq!((status("sk-before").await, status("sk-after").await), (200, 401));
    gateway.folder.write("caller.key", "sk-after\n");
    let deadline = Instant::now() + SOON;
    while status("sk-after").await != 200 {
        assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status("sk-before").await, 401);
}

#[tokio::test]
async fn no_request_is_lost_in_twenty_reloads_and_streams_end_on_the_generation_they_began_with() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &version(1)).await;
    let mut streams = Vec::new();
    for from in ALL {
        let mut conn = Conn::open(gateway.address).await;
        let model = "chat/mock-fast:chunks=60,delay=50ms";
        conn.send(&request("POST", &from.path(model, true), &[], &from.ask(model, true, Turn::Text, "Hello"))).await;
        let head = conn.head().await;
        let begun = conn.until("You").await;
        streams.push((from, head, conn, begun));
    }
    let done = AtomicBool::new(false);
    let callers = (0..4_usize).map(|number| {
        let (gateway, done) = (&gateway, &done);
        Box::pin(async move {
            let mut conn = Conn::open(gateway.address).await;
            let (from, mut served) = (ALL[number], 0_u32);
            while !done.load(Ordering::Relaxed) || served < 100 {
                let stream = served.is_multiple_of(2);
                let body = from.ask("probe", stream, Turn::Text, "Hello");
                conn.send(&request("POST", &from.path("probe", stream), &[], &body)).await;
                let reply = conn.reply().await;
                assert_eq!(reply.status(), 200, "{}", reply.text());
                assert!(from.read(&reply).done, "{}", reply.text());
                served += 1;
            }
            served
        }) as std::pin::Pin<Box<dyn Future<Output = u32> + '_>>
    });
    let reloads = async {
        for number in 2..22 {
            gateway.configure(&version(number));
            let reply = gateway.admin("POST", "/admin/reload").await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            assert_eq!(probed(&gateway).await, format!("version-{number}"));
        }
        done.store(true, Ordering::Relaxed);
        0_u32
    };
    let reloads = Box::pin(reloads) as std::pin::Pin<Box<dyn Future<Output = u32> + '_>>;
    let served: u32 = together(callers.chain([reloads])).await.into_iter().sum();
    println!("{served} requests were served during the reloads");
    assert!(served >= 400);
    for (from, head, mut conn, mut text) in streams {
        let (rest, whole) = conn.rest().await;
        text.extend(rest);
        assert!(whole && from.read_stream(&String::from_utf8(text).expect("UTF-8")).done, "{from:?}");
        assert_eq!(gateway.logged(head.id()).await["generation"], 1, "{from:?}");
    }
    assert!(generation(&gateway).await["number"].as_u64() >= Some(21));
}
