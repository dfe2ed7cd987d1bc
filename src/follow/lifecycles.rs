//! What is looked up where mapping calls are not told: at births where the stack lies, at ends what is left in it, and
//! before a judgment what is still mapped.

use super::Follower;
use crate::diagnose::finding::{Diagnosis, Note};
use crate::event::{Event, EventKind};
use crate::model::{Calls, SpaceId};
use crate::units::Tid;

impl Follower<'_> {
    /// From here on mapping calls are not told: what is idle now will be recognised by its contents.
    pub(super) fn look_at_idle_stacks(&mut self) {
        let spaces: Vec<SpaceId> = self.model.unfinished().map(|(id, _)| id).collect();
        for id in spaces {
            let Some(reader) = self.model.any_task_of(id) else { continue };
            let Some(space) = self.model.space_mut(id) else { continue };
            let idle: Vec<_> = space.imprinted().collect();
            for (mapping, top, _) in idle {
                space.keep_imprint(mapping, self.target.imprint(id, reader, top));
            }
        }
    }

    /// Looks at the stack of a task that is being born, or ends.
    pub(super) fn look_around(&mut self, event: &Event) {
        if self.model.calls() == Calls::Told {
            return;
        }
        match &event.kind {
            EventKind::Born(birth) if birth.args.shares_memory() => {
                if let Some(region) = self.target.stack_region(event, &birth.args, &self.model) {
                    self.model.stack_region(event.tid, &birth.args, &region);
                }
            }
            EventKind::Ended(_) => {
                let Some((id, stack)) = self.model.task(event.tid).and_then(|task| Some((task.space, task.stack?)))
                else {
                    return;
                };
                let Some(space) = self.model.space_mut(id).filter(|space| !space.finished) else { return };
                let born = space.mappings.get(stack).and_then(|mapping| mapping.stack.as_deref()?.last.born);
                if let Some(top) = born.and_then(|born| born.args.stack_top()) {
                    let imprint = self.target.imprint(id, event.tid, top);
                    space.keep_imprint(stack, imprint);
                }
            }
            _ => {}
        }
    }

    /// Brings the model up to date before a judgment; false where nobody was left who could be asked.
    pub(super) fn bring_up_to_date(&mut self, id: SpaceId, reader: Option<Tid>) -> bool {
        if self.model.calls() == Calls::Told {
            return true;
        }
        let Some((tid, maps)) = reader.and_then(|tid| Some((tid, self.target.maps(tid)?))) else { return false };
        self.model.apply(&Event { at: self.now, tid, call_stack: None, kind: EventKind::Maps(maps) });
        let Some(space) = self.model.space(id) else { return false };
        let imprinted: Vec<_> = space.imprinted().collect();
        for (mapping, top, imprint) in imprinted {
            if (imprint.is_none() || self.target.imprint(id, tid, top) != imprint)
                && let Some(space) = self.model.space_mut(id)
            {
                space.disown(mapping);
            }
        }
        true
    }

    /// Withdraws what cannot be known because the address space was gone before it could be looked at.
    pub(super) fn withdraw(&self, id: SpaceId, diagnosis: &mut Diagnosis) {
        let Some(space) = self.model.space(id) else { return };
        let idle = space.mappings.values().filter(|mapping| !mapping.inherited && mapping.idle_stack().is_some());
        let count = idle.count() as u64;
        diagnosis.findings.clear();
        diagnosis.notes.clear();
        if count > 0 {
            let text = format!(
                "what {count} ended threads have left could not be looked at: the address space was gone before \
                 (by execve, or killed); following memory sees it in time"
            );
            diagnosis.notes.push(Note::incomplete(Some(space.pid), count, text));
        }
    }
}
