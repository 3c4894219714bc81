//! Vectors for texts: from a static table on this machine, or from an embedding model behind this gateway.
//!
//! Whatever fails or is late is no vector, which is a miss and never an error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use model2vec_rs::model::StaticModel;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::pipeline::{self, Asker, Cx};
use crate::state::cache::index::normal;

/// Longest text that is compared. Longer ones are seldom asked twice in other words.
pub const MAX_TEXT_BYTES: usize = 8 << 10;

/// How deep the gateway's own asks count: those of a policy must not come back here for ever.
const DEPTH: u8 = 1;

/// Where vectors come from.
#[derive(Debug)]
pub enum Embedder {
    Table(Arc<Table>),
    /// A model as callers name it, asked as the caller of the exchange.
    Model {
        name: String,
        within: Duration,
    },
}

/// A static table with the folder it was read from.
pub struct Table {
    folder: PathBuf,
    model: StaticModel,
}

/// Tables that are in use, so that a reload does not read them again.
static TABLES: LazyLock<Mutex<HashMap<PathBuf, Weak<Table>>>> = LazyLock::new(Mutex::default);

impl Table {
    /// Reads a folder with `model.safetensors`, `tokenizer.json` and `config.json`.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn open(folder: &Path) -> Result<Arc<Table>, String> {
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(folder).and_then(Weak::upgrade) {
            return Ok(table);
        }
        if !folder.is_dir() {
            return Err(format!(
                "{} is no folder; it holds model.safetensors, tokenizer.json and config.json",
                folder.display()
            ));
        }
        let model = StaticModel::from_pretrained(folder, None, Some(true), None)
            .map_err(|error| format!("{}: {error:#}", folder.display()))?;
        let table = Arc::new(Table { folder: folder.to_owned(), model });
        tables.insert(folder.to_owned(), Arc::downgrade(&table));
        Ok(table)
    }

    pub fn embed(&self, text: &str) -> Option<Box<[f32]>> {
        normal(self.model.encode_single(text))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.folder.display())
    }
}

impl Embedder {
    /// Part of every scope: vectors of two embedders have nothing to do with each other.
    pub fn name(&self) -> String {
        match self {
            Embedder::Table(table) => format!("table {}", table.folder.display()),
            Embedder::Model { name, .. } => format!("model {name}"),
        }
    }

    pub async fn embed(&self, cx: &Cx, asker: Asker, text: &str) -> Option<Box<[f32]>> {
        match self {
            Embedder::Table(table) => table.embed(text),
            Embedder::Model { name, within } => {
                let asked = ask(cx.clone(), asker, json!({"model": name, "input": text}));
                timeout(*within, asked).await.ok()?
            }
        }
    }
}

/// A vector that is on its way; None when none comes.
type Coming = Pin<Box<dyn Future<Output = Option<Box<[f32]>>> + Send>>;

/// Asks an embedding model through the pipeline, as every caller does: limits, budgets and the log hold. Boxed under its
/// trait, because the pipeline leads here.
fn ask(cx: Cx, asker: Asker, body: Value) -> Coming {
    Box::pin(async move {
        let body = body.to_string().into();
        let (status, body) = pipeline::inner(cx, asker, "/v1/embeddings", body, DEPTH).await.ok()?;
        if status != 200 {
            return None;
        }
        let answer: Value = serde_json::from_slice(&body).ok()?;
        let parts = answer["data"][0]["embedding"].as_array()?;
        normal(parts.iter().filter_map(|part| part.as_f64().map(|part| part as f32)).collect())
    })
}
