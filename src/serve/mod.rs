//! Sockets, the stack of layers, endpoints.
//!
//! Invariant: a request loads the snapshot once, when its head has been read. Only [`error`] knows
//! statuses and error bodies.

mod audit;
mod body;
mod console;
mod endpoint;
mod error;
pub mod explain;
mod exposition;
mod gate;
mod guarded;
mod identity;
#[cfg(test)]
mod idle;
mod intake;
mod layer;
mod listen;
mod observe;
mod overview;
mod request_id;
mod routes;
mod stack;

#[doc(hidden)]
pub use identity::read_unverified;
pub use identity::warn_of_open_doors;
pub use listen::{ControlSocket, Listeners};
pub use overview::sample;
