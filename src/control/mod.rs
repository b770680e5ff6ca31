//! The one writer: watches, compiles, publishes; registers and probes workers.
