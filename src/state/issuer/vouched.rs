//! Tokens that have been verified, until their time is over.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::RwLock;

use crate::plan::{Digest, OperatorRole};

/// Tokens in each half of what is remembered.
const HALF: usize = 5_000;

/// What a token that has been verified says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whom it was made for.
    pub subject: Arc<str>,
    /// What its bearer may do on the control plane.
    pub role: Option<OperatorRole>,
    /// The tenant that it names.
    pub tenant: Option<Arc<str>>,
}

/// Verified tokens by their hash. There is one cell for each way to read tokens, so that what is
/// remembered is what the settings of the reader make of it.
///
/// Bounded without any search: when one half is full, the other is forgotten.
#[derive(Debug, Default)]
pub struct VouchedCell {
    halves: RwLock<Halves>,
}

#[derive(Debug, Default)]
struct Halves {
    young: AHashMap<Digest, Vouched>,
    old: AHashMap<Digest, Vouched>,
}

#[derive(Debug)]
struct Vouched {
    claims: Arc<Claims>,
    epoch: u64,
    until: Duration,
}

impl VouchedCell {
    /// What `token` says, if it was verified with the keys of `epoch` and its time, counted from the
    /// Unix epoch, is not over at `now`.
    pub fn get(&self, token: &Digest, epoch: u64, now: Duration) -> Option<Arc<Claims>> {
        let halves = self.halves.read();
        let known = halves.young.get(token).or_else(|| halves.old.get(token))?;
        let is_good = known.epoch == epoch && now < known.until;
        is_good.then(|| Arc::clone(&known.claims))
    }

    /// Remembers what `token` says, verified with the keys of `epoch`, for as long as it is good.
    pub fn put(&self, token: Digest, claims: &Arc<Claims>, epoch: u64, until: Duration) {
        let vouched = Vouched {
            claims: Arc::clone(claims),
            epoch,
            until,
        };
        let mut halves = self.halves.write();
        if halves.young.len() >= HALF {
            halves.old = mem::take(&mut halves.young);
        }
        halves.young.insert(token, vouched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(1_000);

    fn claims(subject: &str) -> Arc<Claims> {
        Arc::new(Claims {
            subject: subject.into(),
            role: None,
            tenant: None,
        })
    }

    #[test]
    fn a_token_is_good_for_its_keys_and_its_time() {
        let cell = VouchedCell::default();
        let (token, other) = (Digest::of(b"token"), Digest::of(b"other"));
        cell.put(token, &claims("ann"), 3, NOON);
        let before = NOON - Duration::from_millis(1);
        assert_eq!(cell.get(&token, 3, before), Some(claims("ann")));
        assert_eq!(cell.get(&other, 3, before), None);
        assert_eq!(cell.get(&token, 3, NOON), None);
        assert_eq!(cell.get(&token, 4, before), None);
        cell.put(token, &claims("bob"), 4, NOON);
        assert_eq!(cell.get(&token, 4, before), Some(claims("bob")));
    }

    #[test]
    fn no_more_than_ten_thousand() {
        let cell = VouchedCell::default();
        let digest = |number: u32| Digest::of(&number.to_be_bytes());
        let ann = claims("ann");
        for number in 0..25_000 {
            cell.put(digest(number), &ann, 1, NOON);
        }
        let halves = cell.halves.read();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
        drop(halves);
        let now = Duration::ZERO;
        assert!(cell.get(&digest(24_999), 1, now).is_some());
        assert!(cell.get(&digest(20_000), 1, now).is_some());
        assert!(cell.get(&digest(0), 1, now).is_none());
    }
}
