//! A map of shared cells that live as long as somebody uses them.

use std::hash::Hash;
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use parking_lot::Mutex;

/// Reference-counted map: holds its values weakly, so that a cell dies by itself when the last
/// snapshot (or request) that uses it is gone. Nobody removes entries by hand.
#[derive(Debug)]
pub struct Keyed<K, C> {
    cells: Mutex<AHashMap<K, Weak<C>>>,
}

impl<K, C> Default for Keyed<K, C> {
    fn default() -> Self {
        Self {
            cells: Mutex::new(AHashMap::new()),
        }
    }
}

impl<K: Eq + Hash + Clone, C> Keyed<K, C> {
    /// The living cell of `key`, or the one that `make` returns.
    pub fn get_or_insert(&self, key: &K, make: impl FnOnce() -> C) -> Arc<C> {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(key).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(make());
        cells.insert(key.clone(), Arc::downgrade(&cell));
        cell
    }

    /// The living cell of `key`.
    pub fn get(&self, key: &K) -> Option<Arc<C>> {
        self.cells.lock().get(key).and_then(Weak::upgrade)
    }

    /// Forgets the names of cells that have died. Called once per new snapshot, so the map never
    /// grows with the number of reloads.
    pub fn sweep(&self) {
        self.cells.lock().retain(|_, cell| cell.strong_count() > 0);
    }

    /// Number of living cells.
    pub fn len(&self) -> usize {
        self.cells
            .lock()
            .values()
            .filter(|cell| cell.strong_count() > 0)
            .count()
    }

    /// Whether no cell lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_lives_while_used_and_is_shared() {
        let keyed: Keyed<&str, u32> = Keyed::default();
        let first = keyed.get_or_insert(&"a", || 1);
        let second = keyed.get_or_insert(&"a", || 2);
        assert_eq!(*second, 1);
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert!(keyed.get(&"a").is_none());
        keyed.sweep();
        assert!(keyed.is_empty());
        assert_eq!(*keyed.get_or_insert(&"a", || 3), 3);
    }
}
