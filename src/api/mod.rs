//! Wire shapes: body scan and changes, SSE frames, error bodies. Pure.
//!
//! What runs per request ([`scan`], [`members`]) or per chunk ([`sse`], [`usage`]) works on the bytes
//! as they came and builds no tree; what runs once in a while ([`rerank`], [`models`]) uses serde.

mod ceiling;
mod endpoint;
mod lex;
mod quote;

pub mod error;
pub mod load;
pub mod logprobs;
pub mod members;
pub mod models;
pub mod overview;
pub mod payload;
pub mod prompt;
pub mod rerank;
pub mod scan;
pub mod skim;
pub mod sse;
pub mod usage;

pub use ceiling::{answers, ceiling};
pub use endpoint::Endpoint;
pub use lex::Span;
pub use payload::Payload;
pub use quote::quoted;
pub use usage::Usage;
