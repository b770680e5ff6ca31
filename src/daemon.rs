//! Wiring, start order, signals, drain.
