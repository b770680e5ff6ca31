//! A fleet of engines behind a gateway, in virtual time. The engines are models; the policies are
//! the ones of smg, called as the daemon calls them.

pub(crate) mod cache;
pub(crate) mod contender;
pub(crate) mod engine;
pub(crate) mod figures;
pub(crate) mod fleet;
pub(crate) mod gateway;
pub(crate) mod reference;
pub(crate) mod text;
pub(crate) mod trace;
pub(crate) mod traces;
