//! smg: an LLM gateway configured by one declarative `smg.toml`.

#![forbid(unsafe_code)]

pub mod base;

pub mod api;
pub mod telemetry;
pub mod tls;

pub mod config;

pub mod plan;

pub mod state;

pub mod policy;

pub mod live;

pub mod upstream;

pub mod dispatch;

pub mod control;
pub mod serve;

pub mod daemon;

pub mod cmd;
