//! Metric names, logs, the access log.
