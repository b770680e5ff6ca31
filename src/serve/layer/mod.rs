//! The layers around every endpoint. A layer that a listener does not need is absent.

mod cors;
mod panic;

pub(crate) use cors::{CorsLayer, allows};
pub(crate) use panic::{Panic, PanicLayer, poll_caught};

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use hyper::body::Incoming;

use crate::dispatch::Call;

/// A request that has entered: its call has begun and travels with it.
pub(crate) struct Arrival {
    /// The call.
    pub(crate) call: Box<Call>,
    /// Method.
    pub(crate) method: Method,
    /// Target.
    pub(crate) uri: Uri,
    /// Protocol.
    pub(crate) version: Version,
    /// Headers.
    pub(crate) headers: HeaderMap<HeaderValue>,
    /// Body, not read yet.
    pub(crate) body: Incoming,
}
