//! Talks to one worker.

mod dial;
pub mod fetch;
pub mod headers;
pub mod http;
mod http1;
mod http2;
pub mod https;
pub mod loads;
mod resolve;
mod tls;

pub use self::fetch::{FetchError, Fetched, fetch};
pub use self::http::{Answer, Break, Failure};
pub use self::resolve::refresh;
