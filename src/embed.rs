//! The neutral form of embeddings. Holds values, never does IO.

use serde_json::Value;

use crate::chat::{Extra, Usage};

/// One request for embeddings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedAsk {
    pub model: String,
    pub inputs: Vec<EmbedInput>,
    /// Length of the vectors wanted.
    pub dimensions: Option<u64>,
    /// Vectors as base64 of little-endian f32 instead of JSON numbers (OpenAI).
    pub base64: bool,
    /// What the vectors are for, in Gemini's words (`RETRIEVAL_QUERY`, …).
    pub task: Option<String>,
    /// Title of the document (Gemini).
    pub title: Option<String>,
    pub user: Option<String>,
    /// Whether the caller used a form for exactly one input (Gemini `embedContent`, OpenAI with a bare string).
    pub single: bool,
    pub source: &'static str,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq)]
pub enum EmbedInput {
    Text(String),
    /// Token ids (OpenAI).
    Tokens(Vec<u64>),
    /// Content in the source dialect's own shape (images, …).
    Other(Value),
}

/// Vectors in the order of the inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedAnswer {
    pub model: String,
    pub vectors: Vec<Vec<f32>>,
    pub usage: Option<Usage>,
    pub source: &'static str,
    pub extra: Extra,
}
