//! The addresses of a host: what is known, since when, and who is asking.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Addresses of one host. A host that is written as an address has that one and is never looked up.
#[derive(Debug)]
pub struct NameCell {
    host: Arc<str>,
    literal: Option<SocketAddr>,
    known: Mutex<Known>,
    /// Changes with the set of addresses.
    version: AtomicU64,
    /// Moves with every use, so that connections are spread over the addresses.
    turn: AtomicUsize,
    /// Look-ups that have ended.
    landed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Those that did not connect since they were learned.
    failed: Vec<SocketAddr>,
    learned: Option<Instant>,
    /// When the last look-up ended, well or not.
    asked: Option<Instant>,
    asking: bool,
    trouble: Option<Trouble>,
}

/// Why a look-up failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot resolve the host: {0}")]
pub struct Trouble(Arc<io::Error>);

/// What a look-up has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The same addresses as before, or the first ones.
    None,
    /// Others than before.
    Changed(Vec<IpAddr>),
    /// It failed for the first time; the addresses known before stay.
    Lost,
}

impl NameCell {
    /// A host of which nothing is known, unless it is an address.
    pub fn new(host: &Arc<str>) -> Self {
        Self {
            literal: host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0)),
            host: Arc::clone(host),
            known: Mutex::default(),
            version: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            landed: watch::Sender::new(0),
        }
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address that the host is written as.
    #[inline]
    pub fn literal(&self) -> Option<SocketAddr> {
        self.literal
    }

    /// Changes with the set of addresses; constant for a host that is written as one.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether the host has this address.
    pub fn lists(&self, address: IpAddr) -> bool {
        let same = |known: &SocketAddr| known.ip() == address;
        self.literal.as_ref().is_some_and(same) || self.known.lock().addresses.iter().any(same)
    }

    /// The known addresses in the order in which they are to be tried: each use starts with another
    /// one, and those that did not connect lately come last. The ports are 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        if let Some(literal) = self.literal {
            return vec![literal];
        }
        let known = self.known.lock();
        let failed = |address: &SocketAddr| known.failed.contains(address);
        let (last, mut first): (Vec<_>, Vec<_>) = known.addresses.iter().copied().partition(failed);
        if !first.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % first.len();
            first.rotate_left(turn);
        }
        first.extend(last);
        first
    }

    /// When the known addresses were learned.
    pub fn learned(&self) -> Option<Instant> {
        self.known.lock().learned
    }

    /// When the last look-up ended; nothing before the first.
    pub fn asked(&self) -> Option<Instant> {
        self.known.lock().asked
    }

    /// Whether the last look-up ended at least `age` ago, or there was none.
    pub fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        let asked = self.known.lock().asked;
        self.literal.is_none()
            && asked.is_none_or(|asked| now.saturating_duration_since(asked) >= age)
    }

    /// Why the last look-up failed, if it did.
    pub fn trouble(&self) -> Option<Trouble> {
        self.known.lock().trouble.clone()
    }

    /// Notes that nothing connects to `address`.
    pub fn failed(&self, address: SocketAddr) {
        let mut known = self.known.lock();
        if known.addresses.contains(&address) && !known.failed.contains(&address) {
            known.failed.push(address);
        }
    }

    /// Becomes the one who looks the host up; nothing while somebody does.
    pub fn ask(self: &Arc<Self>) -> Option<Asking> {
        let mut known = self.known.lock();
        if self.literal.is_some() || std::mem::replace(&mut known.asking, true) {
            return None;
        }
        Some(Asking(Arc::clone(self)))
    }

    /// To wait for the end of a look-up with: to be called before it begins.
    pub fn landings(&self) -> watch::Receiver<u64> {
        self.landed.subscribe()
    }
}

/// A look-up under way.
#[derive(Debug)]
pub struct Asking(Arc<NameCell>);

impl Asking {
    /// Who is looked up.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Ends it with this outcome. Addresses known before outlive a failure.
    pub fn land(self, outcome: io::Result<Vec<SocketAddr>>, now: Instant) -> News {
        let mut known = self.0.known.lock();
        known.asked = Some(now);
        let outcome = outcome.and_then(|found| {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            (!found.is_empty()).then_some(found).ok_or_else(none)
        });
        match outcome {
            Ok(mut found) => {
                found.dedup();
                let first = known.learned.replace(now).is_none();
                known.trouble = None;
                known.failed.clear();
                let gone = known.addresses.iter().any(|known| !found.contains(known));
                let come = found.iter().any(|found| !known.addresses.contains(found));
                known.addresses = found;
                if !gone && !come {
                    return News::None;
                }
                self.0.version.fetch_add(1, Ordering::Relaxed);
                if first {
                    return News::None;
                }
                News::Changed(known.addresses.iter().map(SocketAddr::ip).collect())
            }
            Err(error) => {
                let before = known.trouble.replace(Trouble(Arc::new(error)));
                if before.is_none() && known.learned.is_some() {
                    News::Lost
                } else {
                    News::None
                }
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.known.lock().asking = false;
        self.0.landed.send_modify(|landed| *landed += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> io::Result<Vec<SocketAddr>> {
        Ok(addresses.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn one_asks_at_a_time_and_one_who_gives_up_leaves_it_to_others() {
        let names = Arc::new(NameCell::new(&"w".into()));
        let asking = names.ask().unwrap();
        assert!(names.ask().is_none());
        drop(asking);
        assert!(names.asked().is_none());
        names.ask().unwrap().land(found(&["10.0.0.1:0"]), clock());
        assert!(names.asked().is_some());
        let literal = Arc::new(NameCell::new(&"10.0.0.1".into()));
        assert!(literal.ask().is_none());
        assert!(literal.lists("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn only_other_addresses_are_news_and_a_failure_is_told_once() {
        let names = Arc::new(NameCell::new(&"w".into()));
        let land = |outcome| names.ask().unwrap().land(outcome, clock());
        assert_eq!(land(found(&["10.0.0.1:0", "10.0.0.2:0"])), News::None);
        let version = names.version();
        assert_eq!(land(found(&["10.0.0.2:0", "10.0.0.1:0"])), News::None);
        let down = || Err(io::Error::other("down"));
        assert_eq!(land(down()), News::Lost);
        assert_eq!(land(down()), News::None);
        assert_eq!(land(found(&[])), News::None);
        assert_eq!(names.addresses().len(), 2);
        assert_eq!(names.version(), version);
        let other = land(found(&["10.0.0.3:0"]));
        assert_eq!(other, News::Changed(vec!["10.0.0.3".parse().unwrap()]));
        assert_ne!(names.version(), version);
        assert!(names.trouble().is_none());
        assert!(!names.lists("10.0.0.1".parse().unwrap()));
    }

    fn clock() -> Instant {
        crate::base::clock::now()
    }
}
