//! Those who are in no file: found again by their identity, for as long as there is room.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::Mutex;

use super::account::{AccountCell, Sums};
use crate::plan::Identity;

/// Identities that are counted by themselves.
const MOST: usize = 10_000;

/// Accounts under way that are passed over at most, to find one that is not.
const TRIES: usize = 64;

/// The accounts of everybody who is no tenant of the file. There are never more than so many; the
/// one that has not been used for longest makes room. Whoever finds all of them under way is counted
/// together with the others who do: a flood of identities does not lift the limits.
#[derive(Debug)]
pub struct Strangers {
    most: usize,
    known: Mutex<Known>,
    together: Arc<AccountCell>,
    sums: Arc<Sums>,
}

#[derive(Debug, Default)]
struct Known {
    accounts: AHashMap<Identity, Entry>,
    /// By when they were last used; each of `accounts` once.
    order: BTreeMap<u64, Identity>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    account: Arc<AccountCell>,
    used: u64,
}

impl Default for Strangers {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Strangers {
    fn new(most: usize) -> Self {
        let sums = Arc::new(Sums::default());
        Self {
            most,
            known: Mutex::default(),
            together: Arc::new(AccountCell::new(Arc::clone(&sums))),
            sums,
        }
    }

    /// The account of `who`.
    pub fn account(&self, who: &Identity) -> Arc<AccountCell> {
        let mut known = self.known.lock();
        if let Some(account) = known.use_again(who) {
            return account;
        }
        if known.accounts.len() >= self.most && !known.make_room() {
            return Arc::clone(&self.together);
        }
        let account = Arc::new(AccountCell::new(Arc::clone(&self.sums)));
        known.add(who, Arc::clone(&account));
        account
    }

    /// What all of them have asked for.
    pub fn sums(&self) -> &Arc<Sums> {
        &self.sums
    }
}

impl Known {
    fn use_again(&mut self, who: &Identity) -> Option<Arc<AccountCell>> {
        let now = self.next;
        let entry = self.accounts.get_mut(who)?;
        let before = std::mem::replace(&mut entry.used, now);
        let account = Arc::clone(&entry.account);
        if let Some(name) = self.order.remove(&before) {
            self.order.insert(now, name);
        }
        self.next += 1;
        Some(account)
    }

    fn add(&mut self, who: &Identity, account: Arc<AccountCell>) {
        let used = self.next;
        self.next += 1;
        self.order.insert(used, who.clone());
        self.accounts.insert(who.clone(), Entry { account, used });
    }

    /// Forgets the one that has not been used for longest. Those with a request under way count as
    /// used now.
    fn make_room(&mut self) -> bool {
        for _ in 0..TRIES {
            let Some((_, who)) = self.order.pop_first() else {
                return false;
            };
            let Some(entry) = self.accounts.remove(&who) else {
                continue;
            };
            if Arc::strong_count(&entry.account) == 1 {
                return true;
            }
            self.add(&who, entry.account);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(n: u32) -> Identity {
        Identity::Address(std::net::Ipv4Addr::from(n).into())
    }

    fn is_known(strangers: &Strangers, n: u32) -> bool {
        strangers.known.lock().accounts.contains_key(&who(n))
    }

    #[test]
    fn the_one_not_used_for_longest_makes_room() {
        let strangers = Strangers::new(3);
        for n in [1, 2, 3, 1] {
            drop(strangers.account(&who(n)));
        }
        drop(strangers.account(&who(4)));
        assert_eq!(
            [1, 2, 3, 4].map(|n| is_known(&strangers, n)),
            [true, false, true, true]
        );
    }

    #[test]
    fn an_account_in_use_stays_and_is_the_same() {
        let strangers = Strangers::new(2);
        let (first, second) = (strangers.account(&who(1)), strangers.account(&who(2)));
        let others = [3, 4].map(|n| strangers.account(&who(n)));
        assert!(Arc::ptr_eq(&others[0], &others[1]), "counted together");
        assert!(Arc::ptr_eq(&first, &strangers.account(&who(1))));
        drop(second);
        drop(strangers.account(&who(5)));
        assert_eq!(
            [1, 2, 5].map(|n| is_known(&strangers, n)),
            [true, false, true]
        );
    }

    #[test]
    fn a_flood_of_identities_stays_within_bounds() {
        let strangers = Strangers::default();
        for n in 0..30_000 {
            drop(strangers.account(&who(n)));
        }
        let known = strangers.known.lock();
        assert_eq!((known.accounts.len(), known.order.len()), (MOST, MOST));
        assert!(known.accounts.contains_key(&who(29_999)));
    }
}
