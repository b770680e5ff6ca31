//! The command line, through the real binary: every flag, its variable and its aliases to the key
//! they set; precedence; what is refused; the exit status of every command.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock as it is"
)]

#[cfg(test)]
mod binary;
#[cfg(test)]
mod dump;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod files;
#[cfg(test)]
mod flags;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod key;
#[cfg(test)]
mod size;
#[cfg(test)]
mod usage;
