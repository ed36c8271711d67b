//! A table with a small, fixed cost for each task: for tasks that finished long ago, of which there are millions.
//!
//! Rows lie in blocks that never move, so the table grows without copying them. An index of row numbers finds the row of a
//! key. Rows are never removed.

use sha2::{Digest, Sha256};

use crate::id::TaskId;

/// The number of rows in one block.
pub const ROWS_IN_BLOCK: usize = 4096;
/// A slot of the index without a row.
const EMPTY: u32 = u32::MAX;
const LEAST_SLOTS: usize = 64;

/// Stands for a task id: 72 bits of its SHA-256.
///
/// Among ten million ids, two have the same key with a probability of one to a hundred million. Nobody gains by making such
/// ids: it has the same effect as taking the id itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdKey([u8; 9]);

impl IdKey {
    /// The key of this id.
    pub fn of(id: &TaskId) -> Self {
        let mut key = [0; 9];
        key.iter_mut()
            .zip(Sha256::digest(id.as_str()))
            .for_each(|(to, byte)| *to = byte);
        Self(key)
    }

    /// The slot of an index with this many slots at which the search begins.
    fn slot(self, slots: usize) -> usize {
        let [a, b, c, d, ..] = self.0;
        let share = u64::from(u32::from_be_bytes([a, b, c, d])) * slots as u64;
        usize::try_from(share >> 32).unwrap_or_default()
    }
}

#[derive(Debug, Clone)]
struct KeyedValue<T> {
    key: IdKey,
    value: T,
}

/// Values by the keys of task ids. A value should have an alignment of one byte, because a row has no padding then.
#[derive(Debug, Clone)]
pub struct IdTable<T> {
    blocks: Vec<Vec<KeyedValue<T>>>,
    /// Open addressing: the number of a row, or [`EMPTY`]. At most four of five slots are taken.
    slots: Vec<u32>,
}

impl<T> Default for IdTable<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            slots: Vec::new(),
        }
    }
}

impl<T> IdTable<T> {
    /// The number of rows.
    pub fn len(&self) -> usize {
        let in_last = self.blocks.last().map_or(ROWS_IN_BLOCK, Vec::len);
        (self.blocks.len() * ROWS_IN_BLOCK) - (ROWS_IN_BLOCK - in_last)
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The number of the row with this key.
    pub fn find(&self, key: IdKey) -> Option<usize> {
        let taken = self.probe(key).map(|slot| self.slots[slot]);
        taken
            .take_while(|row| *row != EMPTY)
            .map(|row| row as usize)
            .find(|row| self.row(*row).is_some_and(|row| row.key == key))
    }

    /// The value of this row.
    pub fn get(&self, row: usize) -> Option<&T> {
        self.row(row).map(|row| &row.value)
    }

    /// The value of this row.
    pub fn get_mut(&mut self, row: usize) -> Option<&mut T> {
        let block = self.blocks.get_mut(row / ROWS_IN_BLOCK)?;
        block.get_mut(row % ROWS_IN_BLOCK).map(|row| &mut row.value)
    }

    /// All values, in the order of their rows.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten().map(|row| &row.value)
    }

    /// Adds a row; the table must not have this key. The rows are numbered from 0 on.
    pub fn push(&mut self, key: IdKey, value: T) {
        let row = self.len();
        if (row + 1) * 5 > self.slots.len() * 4 {
            self.grow();
        }
        if row.is_multiple_of(ROWS_IN_BLOCK) {
            self.blocks.push(Vec::with_capacity(ROWS_IN_BLOCK));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.push(KeyedValue { key, value });
        }
        self.enter(key, row);
    }

    fn row(&self, row: usize) -> Option<&KeyedValue<T>> {
        self.blocks
            .get(row / ROWS_IN_BLOCK)?
            .get(row % ROWS_IN_BLOCK)
    }

    /// All slots, beginning with the one of this key.
    fn probe(&self, key: IdKey) -> impl Iterator<Item = usize> + use<T> {
        let slots = self.slots.len();
        let first = key.slot(slots);
        (first..slots).chain(0..first)
    }

    fn enter(&mut self, key: IdKey, row: usize) {
        let free = self.probe(key).find(|slot| self.slots[*slot] == EMPTY);
        if let (Some(slot), Ok(row)) = (free, u32::try_from(row)) {
            self.slots[slot] = row;
        }
    }

    /// Makes the index a sixth larger. It grows in small steps, because half of a doubled index would stay empty.
    fn grow(&mut self) {
        let slots = (self.slots.len() + self.slots.len() / 6).max(LEAST_SLOTS);
        self.slots = Vec::new();
        self.slots.reserve_exact(slots);
        self.slots.resize(slots, EMPTY);
        for row in 0..self.len() {
            if let Some(key) = self.row(row).map(|row| row.key) {
                self.enter(key, row);
            }
        }
    }
}

#[cfg(test)]
impl<T> IdTable<T> {
    /// The memory that it holds, without the one block that is being filled.
    pub(crate) fn full_bytes(&self) -> usize {
        let blocks = self.blocks.len().saturating_sub(1);
        blocks * ROWS_IN_BLOCK * size_of::<KeyedValue<T>>()
            + self.slots.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(n: u32) -> TaskId {
        TaskId::new(format!("t-{n}")).expect("an id")
    }

    proptest! {
        #[test]
        fn it_has_what_a_map_has(ids in proptest::collection::vec(0..300_u32, 0..600)) {
            let (mut table, mut map) = (IdTable::default(), HashMap::new());
            for (at, n) in ids.iter().enumerate() {
                let key = IdKey::of(&id(*n));
                match table.find(key) {
                    Some(row) => *table.get_mut(row).expect("a row") = at,
                    None => table.push(key, at),
                }
                map.insert(*n, at);
            }
            prop_assert_eq!(table.len(), map.len());
            prop_assert_eq!(table.values().count(), map.len());
            for n in 0..300 {
                let found = table.find(IdKey::of(&id(n))).and_then(|row| table.get(row));
                prop_assert_eq!(found, map.get(&n));
            }
        }
    }

    #[test]
    fn keys_that_begin_at_the_last_slot_go_on_at_the_first() {
        let mut table = IdTable::default();
        let key = |n: u8| IdKey([255, 255, 255, 255, 0, 0, 0, 0, n]);
        (0..100).for_each(|n| table.push(key(n), n));
        for n in 0..100 {
            let row = table.find(key(n)).expect("each is found");
            assert_eq!(table.get(row), Some(&n), "its own value");
        }
        assert_eq!(table.find(key(100)), None, "another key is not there");
    }

    #[test]
    fn an_empty_table_has_nothing() {
        let table = IdTable::<u8>::default();
        assert_eq!((table.is_empty(), table.len()), (true, 0), "no rows");
        assert_eq!(table.find(IdKey::of(&id(1))), None, "and none is found");
    }
}
