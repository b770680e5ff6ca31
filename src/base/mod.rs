//! Ids, units, secrets, addresses, the clock and task spawning. Knows nothing of smg.

pub mod address;
pub mod clock;
pub mod descriptors;
pub mod file;
pub mod memory;
pub mod moment;
pub mod network;
pub mod pem;
pub mod secret;
pub mod task;
pub mod units;
