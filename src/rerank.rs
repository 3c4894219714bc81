//! The neutral form of ranking: documents in the order of their fitness for a query. Holds values, never does IO.

use crate::chat::Usage;

/// One request for a ranking.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RerankAsk {
    pub model: String,
    pub query: String,
    pub documents: Vec<String>,
    /// How many to give back; None: all.
    pub top_n: Option<u64>,
    /// The caller wants the documents' texts back beside their places.
    pub with_documents: bool,
}

/// A document's place in a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Index into the documents of the ask.
    pub index: u64,
    pub score: f64,
}

/// A ranking, the fittest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RerankAnswer {
    pub model: String,
    pub ranked: Vec<Ranked>,
    pub usage: Option<Usage>,
}
