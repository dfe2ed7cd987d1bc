//! Places in code, and call stacks of them; each is stored once and goes by a number.

use indexmap::IndexSet;
use serde::{Deserialize, Serialize};

use crate::units::{Addr, CallStackId, CodeId};

use super::module::ModuleId;

/// A place in code, whatever address it was mapped to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Place {
    /// In a file, or the vDSO.
    Module {
        /// Which.
        module: ModuleId,
        /// Offset into the file, in bytes.
        offset: u64,
    },
    /// In memory without a file: code that was made at run time.
    Anonymous(Addr),
}

/// All places and call stacks that were seen.
///
/// Their number is that of different ones, and bounded: what comes after that many is not told apart any more.
#[derive(Debug)]
pub struct Places {
    places: IndexSet<Place>,
    stacks: IndexSet<Box<[CodeId]>>,
    /// Of either, at most.
    most: usize,
}

impl Default for Places {
    fn default() -> Places {
        Places { places: IndexSet::new(), stacks: IndexSet::new(), most: MOST }
    }
}

/// So many places and stacks are told apart. A program that recurses at random could make any number of them.
const MOST: usize = 1 << 18;

impl Places {
    /// The number of a place; none where there are too many.
    pub fn place(&mut self, place: Place) -> Option<CodeId> {
        let id = if self.places.len() < self.most {
            self.places.insert_full(place).0
        } else {
            self.places.get_index_of(&place)?
        };
        u32::try_from(id).ok().map(CodeId)
    }

    /// The number of a call stack, innermost frame first; none where there are too many, and for an empty one.
    pub fn stack(&mut self, frames: &[CodeId]) -> Option<CallStackId> {
        if frames.is_empty() {
            return None;
        }
        let id = match self.stacks.get_index_of(frames) {
            Some(id) => id,
            None if self.stacks.len() < self.most => self.stacks.insert_full(frames.into()).0,
            None => return None,
        };
        u32::try_from(id).ok().map(CallStackId)
    }

    /// The place with this number.
    pub fn get(&self, id: CodeId) -> Option<Place> {
        self.places.get_index(id.0 as usize).copied()
    }

    /// All places, by number.
    pub fn all(&self) -> impl Iterator<Item = Place> {
        self.places.iter().copied()
    }

    /// All call stacks, by number.
    pub fn all_stacks(&self) -> impl Iterator<Item = &[CodeId]> {
        self.stacks.iter().map(|frames| &**frames)
    }

    /// The frames of a call stack, innermost first.
    pub fn frames(&self, id: CallStackId) -> &[CodeId] {
        self.stacks.get_index(id.0 as usize).map_or(&[], |frames| frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal stacks are one, and keep their number.
    #[test]
    fn equal_stacks_are_stored_once() {
        let mut places = Places::default();
        let [one, other] = [1, 2].map(|addr| places.place(Place::Anonymous(Addr(addr))).unwrap());
        assert_ne!(one, other);
        assert_eq!(places.place(Place::Anonymous(Addr(1))), Some(one));
        let stack = places.stack(&[one, other]).unwrap();
        assert_ne!(places.stack(&[other, one]), Some(stack));
        assert_eq!(places.stack(&[one, other]), Some(stack));
        assert_eq!(places.frames(stack), [one, other]);
        assert_eq!(places.get(other), Some(Place::Anonymous(Addr(2))));
        assert_eq!(places.stack(&[]), None);
    }

    /// Beyond the bound there are no new numbers, and those that there are stay.
    #[test]
    fn places_and_stacks_are_bounded() {
        let place = |number| Place::Anonymous(Addr(number));
        let mut places = Places { most: 5, ..Places::default() };
        for code in 0..5 {
            assert_eq!(places.place(place(code)), Some(CodeId(code as u32)));
            assert_eq!(places.stack(&[CodeId(code as u32)]), Some(CallStackId(code as u32)));
        }
        assert_eq!(places.place(place(5)), None);
        assert_eq!(places.place(place(3)), Some(CodeId(3)));
        assert_eq!(places.stack(&[CodeId(1), CodeId(2)]), None);
        assert_eq!(places.stack(&[CodeId(3)]), Some(CallStackId(3)));
        assert_eq!((places.all().count(), places.all_stacks().count()), (5, 5));
    }
}
