//! An ordered table whose copies are cheap: a copy shares every row with its original until one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<K, V> {
    rows: Arc<BTreeMap<K, Arc<V>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: Arc::new(BTreeMap::new()) }
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|row| &**row)
    }

    /// The row of `key`, to keep.
    pub fn share(&self, key: &K) -> Option<Arc<V>> {
        self.rows.get(key).cloned()
    }

    /// Whether `key` has a row.
    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every row, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, row)| (key, &**row))
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.keys()
    }

    /// Every row, in the order of keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().map(|row| &**row)
    }

    /// Sets the row of `key`.
    pub(crate) fn put(&mut self, key: K, row: V) {
        Arc::make_mut(&mut self.rows).insert(key, Arc::new(row));
    }

    /// Removes the row of `key`.
    pub(crate) fn take(&mut self, key: &K) -> Option<Arc<V>> {
        if self.contains(key) { Arc::make_mut(&mut self.rows).remove(key) } else { None }
    }

    /// The row of `key`, to change.
    pub(crate) fn edit(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains(key) {
            return None;
        }
        Arc::make_mut(&mut self.rows).get_mut(key).map(Arc::make_mut)
    }
}
