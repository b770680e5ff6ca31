//! The command line and the environment as an overlay of the file.
//!
//! The flags are a table ([`table::FLAGS`]); parsing, variables, help, man page and reference are
//! made from it. This module reads no environment and no arguments itself: it is given them.

pub mod absent;
pub mod default;
pub mod flag;
pub mod overlay;
pub mod setting;
pub mod table;
pub mod value;
