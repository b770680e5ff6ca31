//! Looking up host names: one look-up per host at a time, its answer kept for a while, and used for
//! longer when no better one can be had.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::base::{clock, descriptors, task};
use crate::state::{NameCell, News};

/// How long an answer is good for: the system's resolver tells no lifetime.
const KEPT: Duration = Duration::from_secs(30);
/// How soon a look-up may follow another one when no address is known or none connects.
const APART: Duration = Duration::from_secs(1);
/// How long a connection that could go to an old address waits for a new answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Look-ups of all hosts at once: each holds a thread, possibly for long.
const ABREAST: usize = 32;

/// Where addresses come from.
pub(super) trait Lookup: Copy + Send + 'static {
    /// All addresses of `host`, with port 0.
    fn addresses(self, host: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// The resolver of the system.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Lookup for System {
    async fn addresses(self, host: &str) -> io::Result<Vec<SocketAddr>> {
        static PLACES: Semaphore = Semaphore::const_new(ABREAST);
        let place = PLACES.acquire().await;
        let found = tokio::net::lookup_host((host, 0)).await?.collect();
        drop(place);
        Ok(found)
    }
}

/// Looks the host of `names` up again if it has been looked up before and the answer has grown old.
/// Does not wait for it.
pub fn refresh(names: &Arc<NameCell>) {
    if names.asked().is_some() && names.is_older_than(KEPT, clock::now()) {
        ask(names, System);
    }
}

/// The addresses of a host in the order in which they are to be tried.
///
/// An old answer is given rather than none, and rather than keeping the caller waiting for long.
/// How long to wait for a first one is the caller's to bound; the look-up itself goes on without.
///
/// # Errors
/// The resolver's, when nothing is known.
pub(super) async fn addresses(
    names: &Arc<NameCell>,
    lookup: impl Lookup,
) -> io::Result<Vec<SocketAddr>> {
    let is_known = names.learned().is_some();
    // That there is no answer is not kept: a host that comes up gets its name any moment.
    let kept = if is_known { KEPT } else { APART };
    if names.is_older_than(kept, clock::now()) {
        let landed = landing(names, lookup);
        if is_known {
            // Late is as good as never: the old addresses may well connect.
            timeout(PATIENCE, landed).await.ok();
        } else {
            landed.await;
        }
    }
    let known = names.addresses();
    if known.is_empty() {
        // A resolver that cannot open its files or sockets does not say why it fails, so the system
        // is asked.
        if let Err(why) = TcpSocket::new_v4()
            && descriptors::are_short(&why)
        {
            return Err(why);
        }
        let trouble = names.trouble().map(io::Error::other);
        return Err(trouble.unwrap_or_else(|| io::ErrorKind::NotFound.into()));
    }
    Ok(known)
}

/// To be called when no known address connects. Looks the host up at once, unless that has just
/// been done, and says whether there may be other addresses now than at `since`.
pub(super) async fn again(names: &Arc<NameCell>, lookup: impl Lookup, since: Instant) -> bool {
    let newer = || names.learned().is_some_and(|learned| learned > since);
    if newer() || !names.is_older_than(APART, clock::now()) {
        return newer();
    }
    timeout(PATIENCE, landing(names, lookup)).await.is_ok() && newer()
}

/// The same without waiting for it.
pub(super) fn hurry(names: &Arc<NameCell>, lookup: impl Lookup, since: Instant) {
    let newer = names.learned().is_some_and(|learned| learned > since);
    if !newer && names.is_older_than(APART, clock::now()) {
        ask(names, lookup);
    }
}

/// Waits for the end of the look-up under way, or of a new one.
async fn landing(names: &Arc<NameCell>, lookup: impl Lookup) {
    let mut landings = names.landings();
    ask(names, lookup);
    // The sender lives in the cell.
    landings.changed().await.ok();
}

/// Begins a look-up unless one is under way. It ends by itself, whoever has lost interest.
fn ask(names: &Arc<NameCell>, lookup: impl Lookup) {
    let Some(asking) = names.ask() else {
        return;
    };
    task::spawn("name look-up", async move {
        let outcome = lookup.addresses(asking.host()).await;
        let why = outcome.as_ref().err().map(io::Error::to_string);
        let host: Arc<str> = asking.host().into();
        match asking.land(outcome, clock::now()) {
            News::None => {}
            News::Changed(addresses) => {
                tracing::info!(%host, ?addresses, "host has other addresses than before");
            }
            News::Lost => {
                let error = why.unwrap_or_default();
                tracing::warn!(%host, %error, "cannot resolve the host, its old addresses are used");
            }
        }
    });
}
