//! Who may come in.

mod token;
