//! Two shipped policies as callers meet them: in every dialect, whole and streamed. The mock says the prompt again, so
//! what the model saw comes back.

use std::path::Path;

use super::dialect::{ALL, Turn};
use super::support::{Folder, Gateway, Mock};

async fn with(mock: &Mock, hook: &str) -> Gateway {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    // Time is not what is tested here: an unoptimised build on a busy machine is slow.
    let yaml = format!("hooks_dir: {}\nhooks: [{{ {hook}, budget: {{ cpu: 2s, total: 20s }} }}]\n", scripts.display());
    Gateway::prepared(Folder::new(), mock, &yaml).await
}

#[tokio::test]
async fn personal_data_never_reaches_the_model_and_comes_back_to_the_caller() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "lua: pii-redact").await;
    for from in ALL {
        for to in ALL {
            for stream in [false, true] {
                let model = format!("{}/mock-fast", to.account());
                let ask = from.ask(&model, stream, Turn::Text, "Mail ann@example.com now");
                let reply = gateway.post(&from.path(&model, stream), ask).await;
                assert_eq!(reply.status(), 200, "{from:?} {to:?}: {}", reply.text());
                let text = if stream { from.read_stream(&reply.text()).text } else { reply.text() };
                assert!(text.contains("ann@example.com"), "{from:?} {to:?} {stream}: {text}");
                assert!(!text.contains("EMAIL_1"), "{from:?} {to:?} {stream}: {text}");
                let sent = mock.last().await["body"].to_string();
                assert!(sent.contains("[EMAIL_1]") && !sent.contains("ann@"), "{from:?} {to:?} {stream}: {sent}");
            }
        }
    }
}

#[tokio::test]
async fn what_must_not_be_said_never_reaches_the_caller() {
    let mock = Mock::start().await;
    let hook = "lua: output-guard, fail: closed, config: { deny: { codename: 'project\\s+nightingale' } }";
    let gateway = with(&mock, hook).await;
    for from in ALL {
        for stream in [false, true] {
            let ask = from.ask("chat/mock-fast", stream, Turn::Text, "Tell me of Project Nightingale today");
            let reply = gateway.post(&from.path("chat/mock-fast", stream), ask).await;
            let text = reply.text();
            assert!(!text.to_lowercase().contains("nightingale"), "{from:?} {stream}: {text}");
            assert!(text.contains("stopped by a rule"), "{from:?} {stream}: {text}");
            let ask = from.ask("chat/mock-fast", stream, Turn::Text, "Tell me of larks");
            let reply = gateway.post(&from.path("chat/mock-fast", stream), ask).await;
            assert!(reply.status() == 200 && reply.text().contains("larks"), "{from:?} {stream}: {}", reply.text());
        }
    }
}
