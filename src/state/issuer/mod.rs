//! An issuer of tokens: its keys, and who waits for newer ones.

mod keys;
mod vouched;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

pub use self::keys::{Found, Keys, KeysError};
pub use self::vouched::{Claims, VouchedCell};
use crate::plan::Jwt;

/// How long keys serve that cannot be fetched anew.
const LAST: Duration = Duration::from_secs(24 * 3600);

/// How far apart tokens with unknown keys have the keys fetched.
const APART: Duration = Duration::from_secs(30);

/// Identity of an issuer: whose keys they are, and from where they may come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerKey {
    /// The `iss` of its tokens.
    pub issuer: Arc<str>,
    /// Where its keys are; `None`: it says so itself.
    pub jwks_uri: Option<Arc<str>>,
    /// Whether they may come from private addresses.
    pub allow_private: bool,
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct IssuerCell {
    key: IssuerKey,
    held: RwLock<Option<Held>>,
    up: AtomicBool,
    wishes: Mutex<Wishes>,
    wished: Notify,
    served: watch::Sender<u64>,
}

/// Keys as they are now.
#[derive(Debug, Clone)]
pub struct Held {
    /// The keys.
    pub keys: Arc<Keys>,
    /// Grows whenever a key comes, goes or changes.
    pub epoch: u64,
    learned: Instant,
}

#[derive(Debug, Default)]
struct Wishes {
    made: u64,
    last: Option<Instant>,
}

/// What somebody waits for who has met an unknown key.
#[derive(Debug)]
pub struct Wish {
    number: u64,
    served: watch::Receiver<u64>,
}

impl From<&Jwt> for IssuerKey {
    fn from(jwt: &Jwt) -> Self {
        Self {
            issuer: Arc::clone(&jwt.issuer),
            jwks_uri: jwt.jwks_uri.clone(),
            allow_private: jwt.allow_private,
        }
    }
}

impl IssuerCell {
    /// An issuer whose keys have not been fetched yet.
    pub fn new(key: IssuerKey) -> Self {
        Self {
            key,
            held: RwLock::default(),
            up: AtomicBool::new(false),
            wishes: Mutex::default(),
            wished: Notify::new(),
            served: watch::Sender::new(0),
        }
    }

    /// Which issuer it is.
    pub fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// The keys that may be used at `now`; `None`: none can be had.
    pub fn held(&self, now: Instant) -> Option<Held> {
        let held = self.held.read();
        let fresh = |held: &&Held| now.saturating_duration_since(held.learned) < LAST;
        held.as_ref().filter(fresh).cloned()
    }

    /// Whether the last fetch brought keys.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Uses `keys`, fetched at `now`, from here on. Returns whether they differ from those before.
    pub fn learn(&self, keys: Keys, now: Instant) -> bool {
        self.up.store(true, Ordering::Relaxed);
        let mut held = self.held.write();
        if let Some(held) = held.as_mut()
            && held.keys.is_same(&keys)
        {
            held.learned = now;
            return false;
        }
        let epoch = held.as_ref().map_or(0, |held| held.epoch) + 1;
        *held = Some(Held {
            keys: Arc::new(keys),
            epoch,
            learned: now,
        });
        true
    }

    /// A fetch has failed. What is held stays, for as long as it may.
    pub fn lose(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Wishes at `now` for newer keys, or joins those who wait for them. `None` if the last wish has
    /// been served too recently.
    pub fn wish(&self, now: Instant) -> Option<Wish> {
        let mut wishes = self.wishes.lock();
        let waits = wishes.made > *self.served.borrow();
        if !waits {
            let is_soon = |last| now.saturating_duration_since(last) < APART;
            if wishes.last.is_some_and(is_soon) {
                return None;
            }
            wishes.last = Some(now);
            wishes.made += 1;
            self.wished.notify_one();
        }
        Some(Wish {
            number: wishes.made,
            served: self.served.subscribe(),
        })
    }

    /// The wishes made so far, which a fetch that begins now will serve.
    pub fn wishes(&self) -> u64 {
        self.wishes.lock().made
    }

    /// Those `wishes` have been served: a fetch has ended, in whichever way.
    pub fn serve(&self, wishes: u64) {
        self.served.send_replace(wishes);
    }

    /// Waits until there is a wish that has not been served.
    ///
    /// Cancel safety: no wish is lost.
    pub async fn wished(&self) {
        while self.wishes() <= *self.served.borrow() {
            self.wished.notified().await;
        }
    }
}

impl Wish {
    /// Waits until a fetch that began after the wish has ended. How long is the caller's to bound.
    pub async fn served(mut self) {
        // An error means that nobody fetches any more.
        let served = self.served.wait_for(|served| *served >= self.number).await;
        drop(served);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    fn cell() -> IssuerCell {
        IssuerCell::new(IssuerKey {
            issuer: "https://issuer.example".into(),
            jwks_uri: None,
            allow_private: false,
        })
    }

    fn keys(kid: &str) -> Keys {
        let text = format!(r#"{{"keys":[{{"kty":"oct","kid":"{kid}","k":"AAAA"}}]}}"#);
        Keys::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_serve_for_a_day_after_they_were_last_fetched() {
        let (cell, begin) = (cell(), clock::now());
        assert!(cell.held(begin).is_none() && !cell.is_up());
        assert!(cell.learn(keys("a"), begin));
        assert!(cell.is_up());
        cell.lose();
        let nearly = begin + LAST - Duration::from_secs(1);
        assert!(cell.held(nearly).is_some() && !cell.is_up());
        assert!(cell.held(begin + LAST).is_none());
        assert!(!cell.learn(keys("a"), nearly));
        assert!(cell.held(begin + LAST).is_some());
        assert!(cell.held(nearly + LAST).is_none());
    }

    #[test]
    fn the_epoch_follows_what_the_keys_are() {
        let (cell, now) = (cell(), clock::now());
        let epoch = || cell.held(now).unwrap().epoch;
        cell.learn(keys("a"), now);
        let first = epoch();
        cell.learn(keys("a"), now);
        assert_eq!(epoch(), first);
        cell.learn(keys("b"), now);
        assert!(epoch() > first);
    }

    #[tokio::test]
    async fn one_wish_in_half_a_minute_and_all_wait_for_it() {
        let (cell, now) = (cell(), clock::now());
        let first = cell.wish(now).unwrap();
        let second = cell.wish(now + Duration::from_secs(1)).unwrap();
        cell.wished().await;
        // A fetch that began before the wishes does not serve them.
        cell.serve(0);
        assert!(*first.served.borrow() < first.number);
        let serves = cell.wishes();
        assert_eq!(serves, 1);
        cell.serve(serves);
        first.served().await;
        second.served().await;
        assert!(cell.wish(now + Duration::from_secs(29)).is_none());
        assert!(cell.wish(now + Duration::from_secs(30)).is_some());
        assert_eq!(cell.wishes(), 2);
    }
}
