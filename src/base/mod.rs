//! Ids, units, secrets, the clock and task spawning. Knows nothing of smg.

pub mod clock;
pub mod task;
