//! Where in the program things come from: captured while the task stands still.

use std::collections::HashMap;
use std::sync::Arc;

use nix::libc::user_regs_struct;
use slotmap::Key;

use crate::abi::{clone, map};
use crate::event::{Birth, Call, CloneArgs, CloneCall, Event, EventKind, Prot};
use crate::model::mapping::Maker;
use crate::model::{Calls, Model, SpaceId};
use crate::procfs::memory::HeldMemory;
use crate::source::Stand;
use crate::symbols::capture::{CallStacks, Task};
use crate::symbols::names::perf_map::Writer;
use crate::sys;
use crate::threadlib::{Libraries, Memory, Reader, ThreadLists};
use crate::units::{Addr, CodeId, Pid, Range, Tid};

/// Captures call stacks and functions of followed tasks.
#[derive(Debug, Default)]
pub struct Origins {
    stacks: CallStacks,
    curiosity: Curiosity,
    writers: HashMap<Pid, Writer>,
}

impl Origins {
    /// Fills in where the event's task stands, and what a new task is made to run, where that is worth knowing.
    ///
    /// The task must be stopped where the event happened, and the model not know of the event yet.
    pub fn annotate(
        &mut self,
        event: &mut Event,
        model: &Model,
        libraries: &mut Libraries,
        stand: Stand<'_>,
        held: Option<&Arc<HeldMemory>>,
    ) {
        let Some(space) = model.space_of(event.tid) else { return };
        let task = Task { tid: event.tid, held };
        match &mut event.kind {
            EventKind::Born(birth) if birth.args.shares_memory() && birth.args.flags & clone::VFORK == 0 => {
                if model.calls() == Calls::Untold {
                    // Other code may have been mapped since.
                    self.stacks.forget(key(space));
                }
                event.call_stack = self.stacks.capture(task, key(space), stand);
                birth.function = match stand {
                    Stand::Stopped => self.function(task, space, birth, libraries),
                    Stand::Copied { registers, .. } => {
                        self.function_of_running(task, space, birth, libraries, registers)
                    }
                    Stand::Unknown => None,
                };
            }
            EventKind::Syscall(syscall) => {
                let Ok(result) = syscall.result else { return };
                if let Some(bytes) = bytes_of_possible_stack(&syscall.call)
                    && (matches!(stand, Stand::Copied { .. }) || self.curiosity.wants(bytes))
                {
                    event.call_stack = self.stacks.capture(task, key(space), stand);
                }
                if let Some(changed) = changed_code(&syscall.call, result) {
                    self.stacks.code_changed(key(space), changed);
                }
            }
            _ => {}
        }
    }

    /// Takes notice of what the event has turned out to mean. Gives the size of mappings that the program uses for its own
    /// stacks, where it has shown one.
    pub fn learn(&mut self, event: &Event, model: &Model) -> Option<u64> {
        let EventKind::Born(birth) = &event.kind else { return None };
        let task = model.task(birth.child)?;
        let mapping = task.stack.and_then(|stack| model.space(task.space)?.mappings.get(stack))?;
        let stack = mapping.stack.as_deref().filter(|stack| stack.maker == Maker::Program);
        stack?;
        self.curiosity.expect(mapping.made_bytes);
        Some(mapping.made_bytes)
    }

    /// The places of the functions that the thread library's lists name.
    pub fn functions(&mut self, space: SpaceId, task: Task<'_>, lists: &ThreadLists) -> HashMap<Addr, CodeId> {
        let mut functions = HashMap::new();
        for thread in &lists.threads {
            let routine = thread.start_routine;
            if routine.0 != 0 && !functions.contains_key(&routine) {
                functions.extend(self.stacks.locate(task, key(space), routine).map(|place| (routine, place)));
            }
        }
        functions
    }

    /// There are findings in this process, whose run-time code has names only it can write down.
    pub fn remember(&mut self, pid: Pid) {
        /// Findings of more processes are not kept either.
        const MOST: usize = 1000;
        if self.writers.len() < MOST {
            self.writers.extend(Writer::of(pid).map(|writer| (pid, writer)));
        }
    }

    /// The address space is over.
    pub fn forget(&mut self, space: SpaceId) {
        self.stacks.forget(key(space));
    }

    /// All call stacks and places that were captured.
    pub fn captured(&self) -> &CallStacks {
        &self.stacks
    }

    /// Who the processes with findings were.
    pub fn writers(&self) -> HashMap<Pid, Writer> {
        self.writers.clone()
    }

    /// The function that a new task, which has not run yet, is made to run.
    ///
    /// Of a thread of glibc's its descriptor knows. What clone(3) is given lies on the new stack: glibc puts the
    /// function there (sysdeps/unix/sysv/linux/x86_64/clone.S, i386/clone.S), musl its argument, with the function in
    /// a register (src/thread/x86_64/clone.s); for pthread_create the argument begins with the function that the
    /// program gave (src/thread/pthread_create.c, struct start_args).
    fn function(&mut self, task: Task<'_>, space: SpaceId, birth: &Birth, libraries: &mut Libraries) -> Option<CodeId> {
        let args = &birth.args;
        let reader = libraries.reader(space, task.tid, task.held.map(Arc::as_ref));
        if args.flags & clone::SETTLS != 0
            && let Some(routine) = libraries.start_routine(space, &reader, args.tls)
            && let Some(place) = self.stacks.locate(task, key(space), routine)
        {
            return Some(place);
        }
        let (CloneCall::Clone, Some(top)) = (args.call, args.stack_top()) else { return None };
        let registers = sys::registers(task.tid).ok()?;
        let word = if registers.cs == CODE_SEGMENT_I386 { 4 } else { 8 };
        let caller = Caller { task, space, word, reader: &reader };
        if caller.word == 4 {
            return self.code_at(caller, top.checked_add(8)?);
        }
        let by_glibc = self.code_at(caller, top);
        by_glibc.or_else(|| self.function_by_musl(caller, args, top, Addr(registers.r9)))
    }

    /// The same of a task that has run meanwhile, created by one that stood with these `registers`.
    ///
    /// The descriptor keeps the function for as long as the thread has it, and shows by its number that it does. What
    /// clone(2) was given has been taken from the stack. Of musl's, the function is in a register, and its argument points
    /// right above itself (src/thread/x86_64/clone.s, pthread_create.c); of glibc's, what the function has called tells.
    fn function_of_running(
        &mut self,
        task: Task<'_>,
        space: SpaceId,
        birth: &Birth,
        libraries: &mut Libraries,
        registers: &user_regs_struct,
    ) -> Option<CodeId> {
        let args = &birth.args;
        let reader = libraries.reader(space, task.tid, task.held.map(Arc::as_ref));
        // It is 0, or −1, once the thread has ended.
        let is_its_own = |number: Tid| number == birth.child || number.0 <= 0;
        if args.flags & clone::SETTLS != 0 && libraries.number(space, &reader, args.tls).is_some_and(is_its_own) {
            let routine = libraries.start_routine(space, &reader, args.tls)?;
            return self.stacks.locate(task, key(space), routine);
        }
        let (CloneCall::Clone, Some(top)) = (args.call, args.stack_top()) else { return None };
        let caller = Caller { task, space, word: 8, reader: &reader };
        if args.flags & clone::SETTLS == 0 {
            // With glibc the register may hold anything: `_dl_fini`, since the first instruction.
            let by_stack = self.stacks.started_on(task, key(space), top);
            return by_stack.or_else(|| self.stacks.locate(task, key(space), Addr(registers.r9)));
        }
        if self.stacks.locate(task, key(space), Addr(registers.r9)).is_none() {
            return self.stacks.started_on(task, key(space), top);
        }
        [8, 16].into_iter().find_map(|above| self.code_at(caller, top.checked_add(above)?))
    }

    fn function_by_musl(&mut self, caller: Caller<'_>, args: &CloneArgs, top: Addr, function: Addr) -> Option<CodeId> {
        let function = self.stacks.locate(caller.task, key(caller.space), function)?;
        if args.flags & clone::SETTLS == 0 {
            return Some(function);
        }
        let argument = caller.word_at(top)?;
        self.code_at(caller, argument)
    }

    /// The place of the code that a word of the target's memory points to.
    fn code_at(&mut self, caller: Caller<'_>, at: Addr) -> Option<CodeId> {
        let code = caller.word_at(at)?;
        self.stacks.locate(caller.task, key(caller.space), code)
    }
}

/// The code segment of 32-bit programs (arch/x86/include/asm/segment.h, __USER32_CS).
const CODE_SEGMENT_I386: u64 = 0x23;

/// A stopped task, in the middle of clone.
#[derive(Clone, Copy)]
struct Caller<'a> {
    task: Task<'a>,
    space: SpaceId,
    /// Bytes in a pointer.
    word: usize,
    reader: &'a Reader<'a>,
}

impl Caller<'_> {
    fn word_at(self, at: Addr) -> Option<Addr> {
        let mut bytes = [0; 8];
        Memory::read(self.reader, at, &mut bytes[..self.word]).ok()?;
        Some(Addr(u64::from_ne_bytes(bytes)))
    }
}

fn key(space: SpaceId) -> u64 {
    space.data().as_ffi()
}

/// The size of a mapping, in bytes, that a program may be going to use as a stack.
fn bytes_of_possible_stack(call: &Call) -> Option<u64> {
    let Call::Mmap { len, prot, flags, .. } = *call else { return None };
    let private = flags & map::TYPE == map::PRIVATE && flags & map::ANONYMOUS != 0;
    (private && Prot::from_bits(prot).contains(Prot::WRITE)).then_some(crate::units::page_up(len))
}

/// The addresses at which there may be other code than before this call.
fn changed_code(call: &Call, result: u64) -> Option<Range> {
    let (addr, len) = match *call {
        Call::Mmap { len, .. } => (Addr(result), len),
        Call::Munmap { addr, len } => (addr, len),
        Call::Mprotect { addr, len, prot } | Call::PkeyMprotect { addr, len, prot, .. } if executable(prot) => {
            (addr, len)
        }
        Call::Mremap { old, old_len, .. } => (old, old_len),
        _ => return None,
    };
    Range::of_len(addr, len)
}

fn executable(prot: u32) -> bool {
    Prot::from_bits(prot).contains(Prot::EXEC)
}

/// Which mapping calls deserve a look at their call stack: not known before a task is created on what they have mapped.
///
/// So the first few of each size are looked at, and all of a size that the program has used for its own stacks.
#[derive(Debug, Default)]
struct Curiosity(HashMap<u64, Interest>);

#[derive(Clone, Copy, Debug)]
enum Interest {
    /// So many have been looked at.
    Looked(u32),
    Stacks,
}

impl Curiosity {
    /// So many of a size are looked at without a reason.
    const FIRST: u32 = 4;
    /// So many sizes are looked at. malloc's large blocks may have any.
    const SIZES: usize = 256;

    fn wants(&mut self, bytes: u64) -> bool {
        if self.0.len() >= Self::SIZES && !self.0.contains_key(&bytes) {
            return false;
        }
        match self.0.entry(bytes).or_insert(Interest::Looked(0)) {
            Interest::Looked(looked) if *looked >= Self::FIRST => false,
            Interest::Looked(looked) => {
                *looked += 1;
                true
            }
            Interest::Stacks => true,
        }
    }

    fn expect(&mut self, bytes: u64) {
        self.0.insert(bytes, Interest::Stacks);
    }
}
