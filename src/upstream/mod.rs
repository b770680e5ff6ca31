//! Talks to one worker.

pub mod fetch;
pub mod headers;
pub mod http;
pub mod loads;

pub use self::fetch::{FetchError, Fetched, fetch};
pub use self::http::{Answer, Failure};
