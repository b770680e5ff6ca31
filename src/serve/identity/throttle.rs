//! Clients that show wrong credentials, and how often. Who guesses is slowed down; who has a good
//! credential never meets this.
//!
//! Bounded: beyond [`CLIENTS`] that have failed within a minute all others are counted as one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::base::clock;

/// Wrong credentials that a client may show in a [`WINDOW`].
const MOST: u32 = 20;

/// How long failures are remembered, from the first one.
const WINDOW: Duration = Duration::from_secs(60);

/// Clients that are told apart.
const CLIENTS: usize = 8192;

/// How often old entries are looked for while the table is full.
const SWEEP: Duration = Duration::from_secs(1);

static FAILURES: LazyLock<Mutex<Failures>> = LazyLock::new(Mutex::default);

/// Counts a wrong credential of the client at `address`. Where that is one too many: how long none of
/// its wrong ones gets another answer.
pub(super) fn failed(address: Option<IpAddr>) -> Option<Duration> {
    FAILURES.lock().failed(address, clock::now())
}

#[derive(Default)]
struct Failures {
    clients: AHashMap<IpAddr, Window>,
    /// Everybody for whom there is no room.
    others: Option<Window>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    failures: u32,
}

impl Failures {
    fn failed(&mut self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let client = client(address);
        let is_known = self.clients.contains_key(&client);
        if !is_known && self.clients.len() >= CLIENTS {
            self.sweep(now);
        }
        let fresh = Window {
            began: now,
            failures: 0,
        };
        let window = match is_known || self.clients.len() < CLIENTS {
            true => self.clients.entry(client).or_insert(fresh),
            false => self.others.get_or_insert(fresh),
        };
        if window.left(now).is_zero() {
            *window = fresh;
        }
        window.failures = window.failures.saturating_add(1);
        (window.failures > MOST).then(|| window.left(now))
    }

    fn sweep(&mut self, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.swept.is_none_or(|at| since(at) >= SWEEP) {
            self.swept = Some(now);
            self.clients.retain(|_, window| !window.left(now).is_zero());
        }
    }
}

impl Window {
    fn left(&self, now: Instant) -> Duration {
        WINDOW.saturating_sub(now.saturating_duration_since(self.began))
    }
}

/// What counts as one client: an IPv4 address, or the network of an IPv6 one, which a single host has
/// to itself. Clients without an address count as one.
fn client(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(address)) => address.into(),
        Some(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_21st_failure_of_a_minute_is_one_too_many() {
        let mut failures = Failures::default();
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..20 {
            assert_eq!(failures.failed(address("192.0.2.1"), at(second)), None);
        }
        let wait = failures.failed(address("192.0.2.1"), at(20));
        assert_eq!(wait, Some(Duration::from_secs(40)));
        // Others are others; the minute begins anew.
        assert_eq!(failures.failed(address("192.0.2.2"), at(20)), None);
        assert_eq!(failures.failed(None, at(20)), None);
        assert!(failures.failed(address("192.0.2.1"), at(59)).is_some());
        assert_eq!(failures.failed(address("192.0.2.1"), at(60)), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(
                client(address(one)) == client(address(other)),
                same,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn the_table_has_an_end_and_those_beyond_it_are_one() {
        let mut failures = Failures::default();
        let start = clock::now();
        let nth = |n: usize| {
            Some(IpAddr::V4(Ipv4Addr::from_bits(
                u32::try_from(n).unwrap() + 1,
            )))
        };
        for n in 0..CLIENTS + 20 {
            assert_eq!(failures.failed(nth(n), start), None);
        }
        assert_eq!(failures.clients.len(), CLIENTS);
        assert!(failures.failed(nth(CLIENTS + 20), start).is_some());
        assert_eq!(failures.failed(nth(0), start), None);
        // What is over makes room.
        let later = start + WINDOW;
        assert_eq!(failures.failed(nth(CLIENTS + 21), later), None);
        assert_eq!(failures.clients.len(), 1);
    }
}
