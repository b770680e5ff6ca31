//! Who may come in.

mod token;

#[doc(hidden)]
pub use token::read_unverified;
