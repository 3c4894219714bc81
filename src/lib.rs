//! Portcullis, an AI gateway. This page is the map; it is completed as the rooms are.

pub mod chat;
pub mod dialect;
pub mod embed;
pub mod fault;
pub mod json;
pub mod mock;
pub mod sse;
