//! What the system says when it has nothing left to open a socket or a file with.

use std::io;

use rustix::io::Errno;

/// Whether `error` means that descriptors, or the system's memory for sockets, have run out: it would
/// be the same for any other socket, and may be over in a moment.
pub fn are_short(error: &io::Error) -> bool {
    const SHORT: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| SHORT.iter().any(|short| short.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_a_refusal() {
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS] {
            assert!(are_short(&io::Error::from_raw_os_error(
                code.raw_os_error()
            )));
        }
        for code in [Errno::CONNREFUSED, Errno::CONNABORTED, Errno::ADDRNOTAVAIL] {
            assert!(!are_short(&io::Error::from_raw_os_error(
                code.raw_os_error()
            )));
        }
        assert!(!are_short(&io::ErrorKind::OutOfMemory.into()));
    }
}
