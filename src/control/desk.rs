//! Where work for the publisher is left. Of each kind there is one pile at most, however many ask.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::fleet::{Asked, Order};
use crate::live::{ChangeError, Outcome, Trigger};
use crate::plan::{Learned, WorkerKey};

/// Changes of workers that wait to be judged; further ones are refused. The publisher takes all
/// there are at once.
const ORDERS: usize = 1000;

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
    orders: Vec<Asked>,
    /// Nothing but facts is worked on.
    is_held: bool,
    /// Waits until nothing is being worked on, and for what is to be known of the fleet then.
    holder: Option<oneshot::Sender<String>>,
    /// Nobody works here any more.
    is_closed: bool,
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

impl Request {
    /// Tells everybody who waits how it ended.
    pub(super) fn answer(self, outcome: &Outcome) {
        for asker in self.askers {
            // Who has gone away does not need to know.
            asker.send(outcome.clone()).ok();
        }
    }
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

    /// Asks for a change of workers and whether it is made. Nothing comes if too many wait already.
    pub(super) fn order(&self, order: Order) -> oneshot::Receiver<Result<(), ChangeError>> {
        let (answer, outcome) = oneshot::channel();
        let mut inbox = self.inbox.lock();
        if inbox.is_held || inbox.is_closed {
            answer.send(Err(ChangeError::Upgrading)).ok();
        } else if inbox.orders.len() < ORDERS {
            let answer = Some(answer);
            inbox.orders.push(Asked { order, answer });
        }
        drop(inbox);
        self.bell.notify_one();
        outcome
    }

    /// Asks for a change of workers that follows from one that was made.
    pub(super) fn tell(&self, order: Order) {
        let answer = None;
        let mut inbox = self.inbox.lock();
        if !inbox.is_closed {
            inbox.orders.push(Asked { order, answer });
        }
        drop(inbox);
        self.bell.notify_one();
    }

    /// The changes of workers that are wanted.
    pub(super) fn take_orders(&self) -> Vec<Asked> {
        let mut inbox = self.inbox.lock();
        match inbox.is_held {
            true => Vec::new(),
            false => std::mem::take(&mut inbox.orders),
        }
    }

    /// Whether changes of workers are wanted that nobody has taken yet.
    pub(super) fn has_orders(&self) -> bool {
        let inbox = self.inbox.lock();
        !inbox.is_held && !inbox.orders.is_empty()
    }

    /// The reload that is wanted, if any.
    pub(super) fn take_reload(&self) -> Option<Request> {
        let mut inbox = self.inbox.lock();
        match inbox.is_held {
            true => None,
            false => inbox.reload.take(),
        }
    }

    /// The facts that have come in.
    pub(super) fn take_facts(&self) -> BTreeMap<WorkerKey, Learned> {
        std::mem::take(&mut self.inbox.lock().facts)
    }

    /// Whether facts have come in.
    pub(super) fn has_facts(&self) -> bool {
        !self.inbox.lock().facts.is_empty()
    }

    /// From now on changes of workers are refused and reloads wait. What comes back is the fleet, once
    /// what was being worked on is done.
    pub(super) fn hold(&self) -> oneshot::Receiver<String> {
        let (holder, held) = oneshot::channel();
        let mut inbox = self.inbox.lock();
        inbox.is_held = true;
        inbox.holder = Some(holder);
        drop(inbox);
        self.bell.notify_one();
        held
    }

    /// Goes on where [`Desk::hold`] has stopped.
    pub(super) fn release(&self) {
        self.inbox.lock().is_held = false;
        self.bell.notify_one();
    }

    /// Whether nothing but facts is to be worked on.
    pub(super) fn is_held(&self) -> bool {
        self.inbox.lock().is_held
    }

    /// Whoever waits until nothing is being worked on.
    pub(super) fn take_holder(&self) -> Option<oneshot::Sender<String>> {
        self.inbox.lock().holder.take()
    }

    /// Nothing is worked on any more: who asked is told so, and who asks from now on.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        inbox.reload = None;
        inbox.orders.clear();
        inbox.holder = None;
    }

    /// Waits until something has been left since the last call returned.
    pub(super) async fn wait(&self) {
        self.bell.notified().await;
    }

    fn request(&self, trigger: Trigger, asker: Option<oneshot::Sender<Outcome>>) {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return;
        }
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
