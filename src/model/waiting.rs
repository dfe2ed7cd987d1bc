//! Idle stacks that no fresh one has passed over yet, by who would reuse them and by size.

use std::collections::BTreeMap;

use super::mapping::{Maker, MappingId};

/// Who would reuse an idle stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reuser {
    /// glibc's pthread_create, by its cache.
    Glibc,
    /// The program.
    Program,
}

/// The stacks that wait.
#[derive(Clone, Debug, Default)]
pub struct Waiting(BTreeMap<(Reuser, u64), Vec<MappingId>>);

impl Waiting {
    /// A stack has become idle. Those of which no reuse is expected do not wait.
    pub fn add(&mut self, id: MappingId, maker: Maker, region_bytes: u64) {
        if let Some(reuser) = reuser(maker) {
            self.0.entry((reuser, region_bytes)).or_default().push(id);
        }
    }

    /// A stack is idle no more.
    pub fn remove(&mut self, id: MappingId, maker: Maker, region_bytes: u64) {
        let Some(key) = reuser(maker).map(|reuser| (reuser, region_bytes)) else {
            return;
        };
        if let Some(ids) = self.0.get_mut(&key) {
            ids.retain(|waiting| *waiting != id);
            if ids.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Those that would serve a request of `wanted` bytes: of the same maker, of this size up to `largest`. Those for
    /// which `passed_over` says so wait no longer.
    pub fn pass_over(
        &mut self,
        maker: Maker,
        wanted: u64,
        largest: u64,
        mut passed_over: impl FnMut(MappingId) -> bool,
    ) {
        let Some(reuser) = reuser(maker) else { return };
        for (_, ids) in self.0.range_mut((reuser, wanted)..=(reuser, largest)) {
            ids.retain(|id| !passed_over(*id));
        }
        self.0.retain(|_, ids| !ids.is_empty());
    }
}

fn reuser(maker: Maker) -> Option<Reuser> {
    match maker {
        Maker::Glibc => Some(Reuser::Glibc),
        Maker::Program => Some(Reuser::Program),
        Maker::Musl | Maker::Unsettled | Maker::Unknown => None,
    }
}
