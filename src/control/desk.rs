//! Where work for the publisher is left. Of each kind there is one pile at most, however many ask.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::live::{Outcome, Trigger};
use crate::plan::{Learned, WorkerKey};

/// The queue in front of the publisher.
#[derive(Debug, Default)]
pub(super) struct Desk {
    inbox: Mutex<Inbox>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    reload: Option<Request>,
    facts: BTreeMap<WorkerKey, Learned>,
}

/// A reload that somebody wants. All who ask before it begins share one run and its outcome; who
/// asks later gets the next run, since the files may have changed after this one has read them.
#[derive(Debug)]
pub(super) struct Request {
    /// What asked last.
    pub(super) trigger: Trigger,
    /// Those who wait.
    pub(super) askers: Vec<oneshot::Sender<Outcome>>,
}

impl Desk {
    /// Asks for a reload and its outcome. Nothing comes if the publisher has stopped.
    pub(super) fn ask(&self, trigger: Trigger) -> oneshot::Receiver<Outcome> {
        let (asker, outcome) = oneshot::channel();
        self.request(trigger, Some(asker));
        outcome
    }

    /// Asks for a reload.
    pub(super) fn post(&self, trigger: Trigger) {
        self.request(trigger, None);
    }

    /// Tells what a worker has said about itself.
    pub(super) fn learn(&self, worker: WorkerKey, learned: Learned) {
        self.inbox.lock().facts.insert(worker, learned);
        self.bell.notify_one();
    }

    /// The reload that is wanted, if any.
    pub(super) fn take_reload(&self) -> Option<Request> {
        self.inbox.lock().reload.take()
    }

    /// The facts that have come in.
    pub(super) fn take_facts(&self) -> BTreeMap<WorkerKey, Learned> {
        std::mem::take(&mut self.inbox.lock().facts)
    }

    /// Whether facts have come in.
    pub(super) fn has_facts(&self) -> bool {
        !self.inbox.lock().facts.is_empty()
    }

    /// Waits until something has been left since the last call returned.
    pub(super) async fn wait(&self) {
        self.bell.notified().await;
    }

    fn request(&self, trigger: Trigger, asker: Option<oneshot::Sender<Outcome>>) {
        let mut inbox = self.inbox.lock();
        let request = inbox.reload.get_or_insert(Request {
            trigger,
            askers: Vec::new(),
        });
        // A change that the watcher saw is told apart from one that somebody asked for: only the
        // former may pass without a word when there is nothing new.
        if trigger != Trigger::File {
            request.trigger = trigger;
        }
        request.askers.extend(asker);
        drop(inbox);
        self.bell.notify_one();
    }
}
