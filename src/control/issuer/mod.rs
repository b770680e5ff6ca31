//! The keys of the issuer of tokens: fetched, and fetched again before they grow old, when a token
//! names an unknown one, and for as long as they cannot be had.

mod ask;
mod place;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

pub(super) use self::ask::NoKeys;
use self::ask::{Network, Wire};
use crate::base::clock;
use crate::base::task::AbortOnDrop;
use crate::live::Live;
use crate::state::{IssuerCell, IssuerKey, Keys};
use crate::telemetry::log::Repeat;

/// How long keys are used before they are fetched again.
const KEPT: Duration = Duration::from_secs(3600);

/// Pauses between failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Follows the issuer of the snapshot, for ever.
pub(super) async fn run(live: Arc<Live>) {
    let mut published = live.subscribe();
    let mut following: Option<(Arc<IssuerCell>, AbortOnDrop)> = None;
    loop {
        let wanted = live.load().issuer().map(|issuer| Arc::clone(&issuer.cell));
        let is_followed = match (&wanted, &following) {
            (Some(wanted), Some((cell, _))) => Arc::ptr_eq(wanted, cell),
            (None, None) => true,
            _ => false,
        };
        if !is_followed {
            following = wanted.map(|cell| {
                let task = follow(Arc::clone(&cell), Wire);
                (cell, AbortOnDrop::spawn("issuer", task))
            });
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// The keys of an issuer, asked for once.
///
/// # Errors
/// Why there are none.
pub(super) async fn keys(key: &IssuerKey) -> Result<Keys, NoKeys> {
    ask::keys(key, &Wire).await
}

/// Keeps the keys of one issuer.
async fn follow(cell: Arc<IssuerCell>, network: impl Network) {
    let told = Repeat::every_minute();
    let mut pause = FIRST_PAUSE;
    loop {
        let wishes = cell.wishes();
        let outcome = ask::keys(cell.key(), &network).await;
        let next = match outcome {
            Ok(keys) => {
                let usable = keys.usable();
                let was_up = cell.is_up();
                if cell.learn(keys, clock::now()) || !was_up {
                    tell_keys(&cell, usable);
                }
                pause = FIRST_PAUSE;
                // Gateways that began together do not ask together for ever.
                KEPT.mul_f64(0.8 + fastrand::f64() * 0.15)
            }
            Err(error) => {
                cell.lose();
                tell_failure(&cell, &error, &told);
                let next = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                next
            }
        };
        cell.serve(wishes);
        tokio::select! {
            () = sleep(next) => {}
            () = cell.wished() => {}
        }
    }
}

fn tell_keys(cell: &IssuerCell, usable: usize) {
    let issuer = &*cell.key().issuer;
    if usable == 0 {
        tracing::warn!(
            target: "smg::auth",
            issuer, "the issuer has no key that tokens may be signed with"
        );
    } else {
        tracing::info!(target: "smg::auth", issuer, keys = usable, "keys of the issuer fetched");
    }
}

fn tell_failure(cell: &IssuerCell, error: &NoKeys, told: &Repeat<()>) {
    let now = clock::now();
    if let Some(silent) = told.allow((), now) {
        let serving = cell.held(now).is_some();
        tracing::warn!(
            target: "smg::auth",
            issuer = &*cell.key().issuer, %error, serving, silent,
            "cannot fetch the keys of the issuer"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bytes::Bytes;
    use parking_lot::Mutex;
    use tokio::sync::watch;
    use url::Url;

    use super::*;
    use crate::state::{IssuerKey, Keys};

    /// Answers with what it was told last, and counts.
    #[derive(Clone)]
    struct Scripted {
        answer: Arc<Mutex<u16>>,
        asked: Arc<watch::Sender<usize>>,
    }

    impl Network for Scripted {
        async fn get(&self, _: &Url, _: fn(IpAddr) -> bool) -> Result<(u16, Bytes), NoKeys> {
            self.asked.send_modify(|asked| *asked += 1);
            let status = *self.answer.lock();
            Ok((status, Bytes::from_static(br#"{"keys":[]}"#)))
        }
    }

    fn cell() -> Arc<IssuerCell> {
        Arc::new(IssuerCell::new(IssuerKey {
            issuer: "https://issuer.example".into(),
            jwks_uri: Some("https://issuer.example/keys".into()),
            allow_private: false,
        }))
    }

    #[tokio::test]
    async fn a_wish_is_served_at_once_and_also_by_a_failure() {
        let network = Scripted {
            answer: Arc::new(Mutex::new(200)),
            asked: Arc::default(),
        };
        let (cell, mut asked) = (cell(), network.asked.subscribe());
        let _task = AbortOnDrop::spawn("issuer", follow(Arc::clone(&cell), network.clone()));
        asked.wait_for(|asked| *asked == 1).await.unwrap();
        while !cell.is_up() {
            tokio::task::yield_now().await;
        }
        *network.answer.lock() = 500;
        let now = clock::now();
        let wish = cell.wish(now).unwrap();
        wish.served().await;
        assert_eq!(*asked.borrow(), 2);
        assert!(!cell.is_up());
        assert!(cell.held(now).is_some());
        assert!(cell.wish(now + Duration::from_secs(5)).is_none());
    }

    #[tokio::test]
    async fn a_fetch_that_has_begun_serves_no_later_wish() {
        let cell = cell();
        cell.learn(Keys::read(br#"{"keys":[]}"#).unwrap(), clock::now());
        let begun = cell.wishes();
        let wish = cell.wish(clock::now()).unwrap();
        cell.serve(begun);
        let mut served = Box::pin(wish.served());
        assert!(futures_util::poll!(&mut served).is_pending());
        cell.serve(cell.wishes());
        served.await;
    }
}
