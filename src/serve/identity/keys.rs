//! Whose key a credential is. Every key is looked at, and in the same time, whichever it is.

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::base::clock;
use crate::plan::{Auth, Digest, Key};

/// Whose key `shown` is now; `None` if it is nobody's, or its time is over or has not come.
pub(super) fn holder<'a, T>(keys: &'a [Key<T>], shown: &Digest) -> Option<&'a T> {
    let now = i64::try_from(clock::unix().as_secs()).unwrap_or(i64::MAX);
    holder_at(keys, shown, now)
}

fn holder_at<'a, T>(keys: &'a [Key<T>], shown: &Digest, now: i64) -> Option<&'a T> {
    let mut found = u32::MAX;
    for (index, key) in (0u32..).zip(keys) {
        let begun = key.not_before.is_none_or(|from| from.unix() <= now);
        let over = key.expires_at.is_some_and(|until| until.unix() <= now);
        let is_it = equal(&key.digest, shown) & Choice::from(u8::from(begun && !over));
        found.conditional_assign(&index, is_it);
    }
    keys.get(found as usize).map(|key| &key.of)
}

/// Whether `shown` is what `key` is the digest of.
pub(super) fn is(key: Option<&Digest>, shown: &Digest) -> bool {
    key.is_some_and(|key| equal(key, shown).into())
}

/// Whether `shown` is any key of the gateway, whatever it opens, and whether or not it is its time.
pub(super) fn is_any(auth: &Auth, shown: &Digest) -> bool {
    let tenants = auth.tenant_keys.iter().map(|key| &key.digest);
    let operators = auth.operators.iter().map(|key| &key.digest);
    let all = auth.api_key.iter().chain(tenants).chain(operators);
    let none = Choice::from(0);
    all.fold(none, |found, key| found | equal(key, shown))
        .into()
}

fn equal(key: &Digest, shown: &Digest) -> Choice {
    key.bytes().ct_eq(shown.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::moment::Moment;

    fn key(text: &str, of: u8, not_before: Option<i64>, expires_at: Option<i64>) -> Key<u8> {
        Key {
            digest: Digest::of(text.as_bytes()),
            of,
            not_before: not_before.map(Moment::from_unix),
            expires_at: expires_at.map(Moment::from_unix),
        }
    }

    #[test]
    fn a_key_is_its_holders_in_its_time() {
        let keys = [
            key("a", 0, None, None),
            key("b", 1, Some(100), None),
            key("c", 2, None, Some(200)),
            key("d", 3, Some(100), Some(200)),
        ];
        for (shown, now, expected) in [
            ("a", 0, Some(0)),
            ("b", 99, None),
            ("b", 100, Some(1)),
            ("c", 199, Some(2)),
            ("c", 200, None),
            ("d", 99, None),
            ("d", 150, Some(3)),
            ("d", 200, None),
            ("e", 150, None),
            ("", 150, None),
        ] {
            let got = holder_at(&keys, &Digest::of(shown.as_bytes()), now);
            assert_eq!(got.copied(), expected, "{shown} at {now}");
        }
        assert_eq!(holder_at::<u8>(&[], &Digest::of(b"a"), 0), None);
    }

    #[test]
    fn a_key_that_is_replaced_and_its_successor_open_together() {
        let keys = [
            key("old", 7, None, Some(200)),
            key("new", 7, Some(100), None),
        ];
        let opens = |text: &str, now| holder_at(&keys, &Digest::of(text.as_bytes()), now).is_some();
        assert_eq!([opens("old", 50), opens("new", 50)], [true, false]);
        assert_eq!([opens("old", 150), opens("new", 150)], [true, true]);
        assert_eq!([opens("old", 250), opens("new", 250)], [false, true]);
    }

    #[test]
    fn one_key() {
        let key = Digest::of(b"a");
        assert!(is(Some(&key), &Digest::of(b"a")));
        assert!(!is(Some(&key), &Digest::of(b"b")) && !is(None, &Digest::of(b"a")));
    }
}
