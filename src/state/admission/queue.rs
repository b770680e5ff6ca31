//! Who waits, in which order, and whose turn it is.
//!
//! Within a class and a model entry it is strictly first come, first served. The heads take turns:
//! the classes in rounds in which each has as many turns as its weight, the models of a class one
//! after the other. Who cannot go when its turn comes is passed over and keeps it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::EntryCell;

/// The place of one waiting request; later ones are greater.
pub(super) type Ticket = u64;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// A class stays when it is empty, so that coming back gives nobody a second turn in a round.
    classes: BTreeMap<Arc<str>, Line>,
    length: usize,
}

/// The requests of one class.
#[derive(Debug, Default)]
struct Line {
    /// Turns left in this round.
    turns: u32,
    length: usize,
    /// The models whose requests wait; the one whose turn is next stands first.
    lanes: VecDeque<Lane>,
}

/// The requests of one class for one model entry, never none.
#[derive(Debug)]
struct Lane {
    entry: Arc<EntryCell>,
    tickets: BTreeSet<Ticket>,
}

/// A head that may go.
struct Turn {
    class: Arc<str>,
    lane: usize,
    left: u32,
    weight: u32,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many of a class wait.
    pub(super) fn len_of(&self, class: &str) -> usize {
        self.classes.get(class).map_or(0, |line| line.length)
    }

    /// The classes and how many of each wait.
    pub(super) fn lengths(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.classes.iter().map(|(name, line)| (name, line.length))
    }

    /// Whether some request of this class for this model waits.
    pub(super) fn has(&self, class: &str, entry: &Arc<EntryCell>) -> bool {
        let line = self.classes.get(class);
        line.is_some_and(|line| line.lane(entry).is_some())
    }

    /// The model entries for which requests wait; once for each class.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<EntryCell>> {
        let lanes = self.classes.values().flat_map(|line| &line.lanes);
        lanes.map(|lane| &lane.entry)
    }

    /// Puts a request at the end of its lane.
    pub(super) fn push(&mut self, class: &Arc<str>, entry: &Arc<EntryCell>, ticket: Ticket) {
        let line = self.classes.entry(Arc::clone(class)).or_default();
        let lane = line.lane(entry).and_then(|at| line.lanes.get_mut(at));
        match lane {
            Some(lane) => {
                lane.tickets.insert(ticket);
            }
            None => line.lanes.push_back(Lane {
                entry: Arc::clone(entry),
                tickets: BTreeSet::from([ticket]),
            }),
        }
        line.length += 1;
        self.length += 1;
        entry.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a request out, wherever it stands.
    pub(super) fn remove(&mut self, class: &str, entry: &Arc<EntryCell>, ticket: Ticket) {
        let Some(line) = self.classes.get_mut(class) else {
            return;
        };
        let Some(at) = line.lane(entry) else {
            return;
        };
        let Some(lane) = line.lanes.get_mut(at) else {
            return;
        };
        if lane.tickets.remove(&ticket) {
            entry.waiting.fetch_sub(1, Ordering::Relaxed);
            line.length -= 1;
            self.length -= 1;
        }
        if lane.tickets.is_empty() {
            line.lanes.remove(at);
        }
    }

    /// Takes out the head whose turn it is among those whose model is `open`.
    pub(super) fn next(
        &mut self,
        weight: impl Fn(&str) -> u32,
        mut open: impl FnMut(&EntryCell) -> bool,
    ) -> Option<Ticket> {
        let mut best: Option<Turn> = None;
        for (class, line) in &self.classes {
            let Some(lane) = line.lanes.iter().position(|lane| open(&lane.entry)) else {
                continue;
            };
            let weight = weight(class);
            let turn = Turn {
                class: Arc::clone(class),
                lane,
                left: line.turns.min(weight),
                weight,
            };
            if best.as_ref().is_none_or(|best| turn.is_before(best)) {
                best = Some(turn);
            }
        }
        let turn = best?;
        if turn.left == 0 {
            // All that can go have had their turns: the next round.
            for (class, line) in &mut self.classes {
                line.turns = weight(class);
            }
        }
        let line = self.classes.get_mut(&turn.class)?;
        line.turns = line.turns.min(turn.weight).saturating_sub(1);
        let mut lane = line.lanes.remove(turn.lane)?;
        let ticket = lane.tickets.pop_first()?;
        lane.entry.waiting.fetch_sub(1, Ordering::Relaxed);
        line.length -= 1;
        self.length -= 1;
        if !lane.tickets.is_empty() {
            line.lanes.push_back(lane);
        }
        Some(ticket)
    }

    /// Forgets classes that are empty and not `known` any more.
    pub(super) fn retain(&mut self, known: impl Fn(&str) -> bool) {
        self.classes
            .retain(|class, line| line.length > 0 || known(class));
    }
}

impl Line {
    fn lane(&self, entry: &Arc<EntryCell>) -> Option<usize> {
        let same = |lane: &Lane| Arc::ptr_eq(&lane.entry, entry);
        self.lanes.iter().position(same)
    }
}

impl Turn {
    /// Whether more of its round is left, so that the turns of a heavy class are spread over the
    /// round.
    fn is_before(&self, other: &Self) -> bool {
        let left = |turn: &Self, weight: u32| u64::from(turn.left) * u64::from(weight);
        left(self, other.weight) > left(other, self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::AdmissionCell;

    fn entries<const N: usize>(names: [&str; N]) -> [Arc<EntryCell>; N] {
        let cell = Arc::new(AdmissionCell::default());
        names.map(|name| Arc::new(EntryCell::new(&name.into(), &cell)))
    }

    /// All that wait, in the order in which they go.
    fn order(queue: &mut Queue, weight: impl Fn(&str) -> u32) -> Vec<Ticket> {
        std::iter::from_fn(|| queue.next(&weight, |_| true)).collect()
    }

    #[test]
    fn classes_have_as_many_turns_as_their_weights_and_are_mixed() {
        let [m] = entries(["m"]);
        let mut queue = Queue::default();
        let (gold, lead): (Arc<str>, Arc<str>) = ("gold".into(), "lead".into());
        for ticket in 0..8 {
            queue.push(&gold, &m, ticket);
            queue.push(&lead, &m, 100 + ticket);
        }
        let order = order(&mut queue, |class| if class == "gold" { 3 } else { 1 });
        assert_eq!(order[..8], [0, 100, 1, 2, 3, 101, 4, 5]);
        assert_eq!((queue.len(), m.waiting()), (0, 0));
    }

    #[test]
    fn models_of_a_class_go_in_turn() {
        let [a, b, c] = entries(["a", "b", "c"]);
        let mut queue = Queue::default();
        let class = "default".into();
        for ticket in 0..3 {
            queue.push(&class, &a, ticket);
        }
        queue.push(&class, &b, 10);
        queue.push(&class, &b, 11);
        queue.push(&class, &c, 20);
        assert_eq!(order(&mut queue, |_| 1), [0, 10, 20, 1, 11, 2]);
    }

    #[test]
    fn who_is_passed_over_keeps_the_turn() {
        let [a, b] = entries(["a", "b"]);
        let mut queue = Queue::default();
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        for ticket in 0..4 {
            queue.push(&one, &a, ticket);
            queue.push(&two, &b, 10 + ticket);
        }
        let shut = |name: &'static str| move |entry: &EntryCell| *entry.name != *name;
        for ticket in [10, 11, 12] {
            assert_eq!(queue.next(|_| 1, shut("a")), Some(ticket));
        }
        // Nothing was saved up meanwhile.
        assert_eq!(order(&mut queue, |_| 1), [0, 1, 13, 2, 3]);
        assert_eq!(queue.next(|_| 1, |_| true), None);
    }

    #[test]
    fn coming_back_gives_no_second_turn() {
        let [m] = entries(["m"]);
        let mut queue = Queue::default();
        let (busy, patient): (Arc<str>, Arc<str>) = ("busy".into(), "patient".into());
        for ticket in 0..3 {
            queue.push(&patient, &m, 100 + ticket);
        }
        let mut served = Vec::new();
        for ticket in 0..6 {
            // As soon as its only request has gone, there is another.
            if queue.len_of(&busy) == 0 {
                queue.push(&busy, &m, ticket);
            }
            served.extend(queue.next(|_| 1, |_| true));
        }
        assert_eq!(served.iter().filter(|ticket| **ticket >= 100).count(), 3);
    }

    #[test]
    fn whoever_leaves_leaves_nothing_behind() {
        let [a, b] = entries(["a", "b"]);
        let mut queue = Queue::default();
        let class: Arc<str> = "gone".into();
        queue.push(&class, &a, 1);
        queue.push(&class, &a, 2);
        queue.push(&class, &b, 3);
        queue.remove(&class, &a, 1);
        queue.remove(&class, &a, 1);
        queue.remove(&class, &b, 3);
        assert!(queue.has(&class, &a) && !queue.has(&class, &b));
        assert_eq!((queue.len(), a.waiting(), b.waiting()), (1, 1, 0));
        queue.retain(|_| false);
        assert_eq!(queue.next(|_| 1, |_| true), Some(2));
        queue.retain(|_| false);
        assert_eq!(queue.lengths().count(), 0);
    }
}
