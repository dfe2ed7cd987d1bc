//! Which stacks on the thread library's list of used ones have been left for good: a rule over several looks.
//!
//! The target runs on while it is looked at, so a look may come at a bad moment:
//!
//! * *A thread is being created*: it is on the list before its task exists. Its descriptor says so ([`Stage::Starting`]),
//!   from before it is on the list until the new thread itself takes that back; a recycled descriptor does too.
//! * *A thread is ending*: at the end of a task the kernel itself clears its number in the descriptor (CLONE_CHILD_CLEARTID);
//!   since glibc 2.43 glibc does that, and the kernel clears the field of which [`Stage::Claimed`] speaks. Before that it
//!   is not counted. (And where a live task's stack pointer lies, nothing is left: see [`super`].)
//! * *A thread is being joined*: up to 2.42 the descriptor says by whom from the beginning of the join, and any version
//!   says so before the stack leaves the list ([`Stage::Claimed`]).
//! * *A thread has ended and its creator is about to join it*: nothing tells that from one that is never joined, but the
//!   creator needs a processor to do so. So a stack counts when it was left in every look, and every thread that wanted to
//!   run at the first of them has run since; and not before [`LEAST`], for a creator may also sleep for a while.
//! * *It was joined and has been used again, and that thread has ended as well*: the same descriptor, another thread. New
//!   ones are put at the head of the list, so what was used again has only newer ones before it. It was not if one of them
//!   is known to be older ([`Look::unbroken_since`]), and it was if one has come behind it ([`Look::used_again_since`]).
//!   Where neither can be shown it counts after [`GRACE`], when it was left in every look of that time, and is not called
//!   definite; looks are close together then, for the loop that uses it again may sleep most of the time.
//!
//! After [`GRACE`], which following gives as well, nothing is waited for. A stopped process has no thread that wants to
//! run: what it has left it has left as long as it is stopped.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::diagnose::finding::Confidence;
use crate::procfs::task::Activity;
use crate::threadlib::{List, ListedThread, Stage};
use crate::units::{Addr, Tid};

/// How far apart looks are at first, where threads run, and where some may have been used again: then few new ones come
/// in between.
const SHORT: Duration = Duration::from_millis(1);

/// How far apart they are at most where nothing runs.
const LONG: Duration = Duration::from_millis(50);

/// How long a process is watched at least in which something seems to be left.
const LEAST: Duration = Duration::from_millis(200);

/// How long a process is watched at most.
const GRACE: Duration = Duration::from_secs(1);

/// One look at a process.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The number that the kernel had given last to a new task, before the rest of the look.
    pub last_before: i32,
    /// The thread library's threads, as they stand on its lists.
    pub threads: Vec<ListedThread>,
    /// The number that the kernel had given last to a new task, after that.
    pub last_after: i32,
    /// How much each of the kernel's tasks had run after that. Empty where nothing is in question.
    pub activity: HashMap<Tid, Activity>,
}

/// Numbers of tasks go up to this, and begin again.
#[derive(Clone, Copy, Debug)]
pub struct HighestNumber(pub i32);

impl Look {
    fn used(&self) -> impl Iterator<Item = &ListedThread> {
        self.threads.iter().filter(|thread| thread.list == List::Used)
    }

    /// Those on the list of used stacks that have ended, and that nobody joins.
    fn left(&self) -> impl Iterator<Item = &ListedThread> {
        self.used().filter(|thread| {
            let has_run = matches!(thread.stage, Stage::Started | Stage::Unknown);
            thread.tid.0 == 0 && has_run && thread.stack.is_some()
        })
    }

    /// The descriptors on the list of used stacks that are those of the same threads as in an `earlier` look.
    ///
    /// New ones are put at the head (nptl/nptl-stack.c, `__nptl_stack_list_add`). So one that was used again in between
    /// has only such before it that were made in between too, and is the same if among these is a thread that kept its
    /// number, or if they are as many as there were new tasks on the whole system, or more.
    fn unbroken_since(&self, earlier: &Look, highest: HighestNumber) -> HashSet<Addr> {
        if self.stands_still_since(earlier) {
            return self.used().map(|thread| thread.descriptor).collect();
        }
        let new_tasks = match self.last_after - earlier.last_before {
            new @ 0.. => new,
            wrapped => wrapped.saturating_add(highest.0),
        };
        let numbers: HashMap<Addr, Tid> =
            earlier.used().map(|thread| (thread.descriptor, thread.tid)).filter(|(_, tid)| tid.0 > 0).collect();
        let mut before = 0;
        let mut is_unbroken = false;
        let mut unbroken = HashSet::new();
        for thread in self.used() {
            let kept_number = thread.stage != Stage::Starting && numbers.get(&thread.descriptor) == Some(&thread.tid);
            is_unbroken |= kept_number || before >= new_tasks;
            before += i32::from(thread.stage != Stage::Starting);
            if is_unbroken {
                unbroken.insert(thread.descriptor);
            }
        }
        unbroken
    }

    /// The descriptors on the list of used stacks that are surely those of other threads than in an `earlier` look: behind
    /// one that stays there is only what has been behind it before.
    fn used_again_since(&self, earlier: &Look) -> HashSet<Addr> {
        let places: HashMap<Addr, usize> =
            earlier.used().enumerate().map(|(place, thread)| (thread.descriptor, place + 1)).collect();
        let mut foremost = usize::MAX;
        let mut again = HashSet::new();
        for thread in self.used().collect::<Vec<_>>().into_iter().rev() {
            let place = places.get(&thread.descriptor).copied().unwrap_or(0);
            if foremost < place {
                again.insert(thread.descriptor);
            }
            foremost = foremost.min(place);
        }
        again
    }

    /// Whether no task has run since an `earlier` look.
    fn stands_still_since(&self, earlier: &Look) -> bool {
        !self.activity.is_empty()
            && self.activity == earlier.activity
            && self.activity.values().all(|activity| !activity.wants_to_run && activity.is_counted())
    }
}

/// What several looks have in common.
#[derive(Clone, Debug)]
pub struct Confirmation {
    highest: HighestNumber,
    last: Look,
    /// Descriptors of threads that have been left in all looks, and whether each has been the same thread's all the time.
    left: HashMap<Addr, Sameness>,
    /// Threads that wanted to run at the first look, and have not done so since.
    waiting: HashMap<Tid, Activity>,
    pause: Duration,
    looks: u32,
}

/// Whether a descriptor has been that of the same thread in all looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sameness {
    Shown,
    Unknown,
}

impl Confirmation {
    /// Begins with a first look.
    pub fn new(first: Look, highest: HighestNumber) -> Confirmation {
        let sameness = |thread: &ListedThread| match thread.stage {
            Stage::Unknown => Sameness::Unknown,
            _ => Sameness::Shown,
        };
        Confirmation {
            highest,
            left: first.left().map(|thread| (thread.descriptor, sameness(thread))).collect(),
            waiting: first.activity.iter().filter(|(_, one)| one.wants_to_run).map(|(tid, one)| (*tid, *one)).collect(),
            last: first,
            pause: SHORT,
            looks: 1,
        }
    }

    /// Takes in a further look.
    pub fn again(&mut self, look: Look) {
        let still: HashSet<Addr> = look.left().map(|thread| thread.descriptor).collect();
        let unbroken = look.unbroken_since(&self.last, self.highest);
        let again = look.used_again_since(&self.last);
        self.left.retain(|descriptor, _| still.contains(descriptor) && !again.contains(descriptor));
        for (descriptor, sameness) in &mut self.left {
            if !unbroken.contains(descriptor) {
                *sameness = Sameness::Unknown;
            }
        }
        self.waiting.retain(|tid, before| look.activity.get(tid) == Some(before));
        // What may come and go is caught by looking often: a long pause could always fall on the same phase of a loop.
        let is_quiet = self.all_shown() && look.stands_still_since(&self.last);
        self.pause = if is_quiet { LONG.min(2 * self.pause) } else { SHORT };
        self.last = look;
        self.looks += 1;
    }

    /// Whether it is settled, so long after the first look.
    pub fn is_settled(&self, elapsed: Duration) -> bool {
        let nothing_to_wait_for = || self.waiting.is_empty() && self.all_shown();
        let is_long_enough = elapsed >= GRACE || elapsed >= LEAST && nothing_to_wait_for();
        self.left.is_empty() || self.looks > 1 && is_long_enough
    }

    /// Whether each descriptor has been the same thread's all the time.
    fn all_shown(&self) -> bool {
        self.left.values().all(|sameness| *sameness == Sameness::Shown)
    }

    /// How long to wait before the next look.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// The last look.
    pub fn last(&self) -> &Look {
        &self.last
    }

    /// How sure it is that a thread was left for good; none where it was not.
    pub fn left(&self, thread: &ListedThread) -> Option<Confidence> {
        let sameness = self.left.get(&thread.descriptor).filter(|_| thread.list == List::Used)?;
        Some(match sameness {
            Sameness::Shown => Confidence::Definite,
            Sameness::Unknown => Confidence::Probable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threadlib::StackBlock;
    use crate::units::Range;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const HIGHEST: HighestNumber = HighestNumber(32_768);

    /// A thread with the n-th stack.
    fn thread(number: u64, tid: i32, stage: Stage) -> ListedThread {
        let range = Range::of_len(Addr(number << 20), 1 << 20).unwrap();
        ListedThread {
            descriptor: Addr(range.end().0 - 0x940),
            list: List::Used,
            tid: Tid(tid),
            start_routine: Addr(0x40_1000),
            stage,
            stack: Some(StackBlock { range, guard_bytes: 4096 }),
            task: None,
        }
    }

    /// A look between two new tasks; the given ones want to run, and have run so long.
    fn look(threads: &[ListedThread], running: &[(i32, u64)], last: (i32, i32)) -> Look {
        let activity = |nanoseconds| Activity { wants_to_run: true, nanoseconds, turns: 1 };
        Look {
            last_before: last.0,
            threads: threads.to_vec(),
            last_after: last.1,
            activity: running.iter().map(|(tid, nanoseconds)| (Tid(*tid), activity(*nanoseconds))).collect(),
        }
    }

    fn after(looks: &[Look]) -> Confirmation {
        let mut confirmation = Confirmation::new(looks[0].clone(), HIGHEST);
        looks[1..].iter().for_each(|look| confirmation.again(look.clone()));
        confirmation
    }

    const QUIET: (i32, i32) = (200, 200);

    /// What is left in two looks at a process that stands still is left; one look does not do.
    #[test]
    fn two_looks_at_a_quiet_process() {
        let (left, live) = (thread(1, 0, Stage::Started), thread(2, 102, Stage::Started));
        let seen = look(&[left, live], &[], QUIET);
        assert!(!after(std::slice::from_ref(&seen)).is_settled(LEAST));
        let twice = after(&[seen.clone(), seen]);
        assert!(twice.is_settled(LEAST));
        assert_eq!((twice.left(&left), twice.left(&live)), (Some(Confidence::Definite), None));
    }

    /// Threads that begin, on fresh stacks or on cached ones, that end, and that are being joined are not left.
    #[test]
    fn moments_of_a_life() {
        let moments = [
            thread(1, 0, Stage::Starting),
            thread(2, -1, Stage::Starting),
            thread(3, 103, Stage::Started),
            thread(4, 0, Stage::Claimed),
            thread(5, -1, Stage::Claimed),
            ListedThread { list: List::Cached, ..thread(6, 0, Stage::Started) },
            ListedThread { list: List::User, ..thread(7, 0, Stage::Started) },
        ];
        let seen = look(&moments, &[], QUIET);
        let twice = after(&[seen.clone(), seen]);
        assert!(twice.is_settled(Duration::ZERO), "nothing is in question");
        assert!(moments.iter().all(|thread| twice.left(thread).is_none()));
    }

    /// What is joined between two looks, and what is left only in the second, is not claimed.
    #[test]
    fn only_what_is_left_in_all_looks() {
        let [first, both, second] = [1, 2, 3].map(|number| thread(number, 0, Stage::Started));
        let twice = after(&[look(&[first, both], &[], QUIET), look(&[second, both], &[], (201, 201))]);
        assert_eq!([first, both, second].map(|thread| twice.left(&thread).is_some()), [false, true, false]);
        assert!(!twice.is_settled(LEAST - MILLISECOND) && twice.is_settled(LEAST));
    }

    /// A descriptor may be another thread's by now, unless there are more before it than new tasks on the system, or one
    /// that kept its number.
    #[test]
    fn descriptors_that_may_have_been_used_again() {
        let [newest, older, oldest] = [3, 2, 1].map(|number| thread(number, 0, Stage::Started));
        let judge = |threads: &[ListedThread], new_tasks| {
            let first = look(threads, &[], QUIET);
            let twice = after(&[first, look(threads, &[], (200, 200 + new_tasks))]);
            let sure = |thread| twice.left(&thread) == Some(Confidence::Definite);
            ([newest, older, oldest].map(sure), twice.is_settled(GRACE - MILLISECOND))
        };
        assert_eq!(judge(&[newest, older, oldest], 0), ([true, true, true], true));
        assert_eq!(judge(&[newest, older, oldest], 1), ([false, true, true], false));
        assert_eq!(judge(&[newest, older, oldest], 2), ([false, false, true], false));
        assert_eq!(judge(&[newest, older, oldest], 9), ([false, false, false], false));
        // Those that are not on the system yet do not count.
        let starting = thread(5, 0, Stage::Starting);
        assert_eq!(judge(&[newest, starting, older, oldest], 2).0, [false, false, true]);
        let live = thread(4, 104, Stage::Started);
        assert_eq!(judge(&[newest, live, older, oldest], 9).0, [false, true, true]);
        assert_eq!(judge(&[newest, older, oldest, live], 9).0, [false, false, false]);
        // Numbers begin again: from 200 up to 32,767, and on to 202.
        assert_eq!(judge(&[newest, older, oldest], -198).0, [false, false, false]);
    }

    /// What has come behind another thread, be it older or new, says that this one was put on the list after it.
    #[test]
    fn descriptors_that_were_used_again() {
        let [a, b, c, d] = [4, 3, 2, 1].map(|number| thread(number, 0, Stage::Started));
        let judge = |then: &[ListedThread]| {
            let twice = after(&[look(&[a, b, c], &[], QUIET), look(then, &[], (300, 300))]);
            [a, b, c].map(|thread| twice.left(&thread).is_some())
        };
        assert_eq!(judge(&[a, b, c]), [true, true, true]);
        assert_eq!(judge(&[b, a, c]), [true, false, true]);
        assert_eq!(judge(&[c, b, a]), [true, false, false]);
        assert_eq!(judge(&[a, c, d]), [false, false, false]);
        assert_eq!(judge(&[d, a, c]), [true, false, true]);
    }

    /// Where nothing has run, nothing was used again, whatever other processes do.
    #[test]
    fn a_process_that_sleeps_on_a_busy_machine() {
        let left = thread(1, 0, Stage::Started);
        let asleep = |last, turns| Look {
            activity: HashMap::from([(Tid(100), Activity { wants_to_run: false, nanoseconds: 1000, turns })]),
            ..look(&[left], &[], last)
        };
        let slept = after(&[asleep((200, 210), 7), asleep((900, 910), 7)]);
        assert!(slept.is_settled(LEAST) && slept.left(&left) == Some(Confidence::Definite));
        let ran = after(&[asleep((200, 210), 7), asleep((900, 910), 8)]);
        assert!(!ran.is_settled(LEAST) && ran.left(&left) == Some(Confidence::Probable));
    }

    /// A loop that makes threads and joins them late stands still most of the time: looks stay close together once it
    /// has been seen to run, or they would find it asleep every time.
    #[test]
    fn loops_are_looked_at_often() {
        let left = thread(1, 0, Stage::Started);
        let asleep = |last, turns| Look {
            activity: HashMap::from([(Tid(100), Activity { wants_to_run: false, nanoseconds: 1000, turns })]),
            ..look(&[left], &[], last)
        };
        let still = [asleep((200, 200), 7), asleep((200, 200), 7), asleep((200, 200), 7)];
        assert!(after(&still).pause() > SHORT);
        let then = [asleep((250, 250), 8), asleep((250, 250), 8), asleep((250, 250), 8)];
        assert_eq!(after(&[&still[..], &then].concat()).pause(), SHORT);
    }

    /// As long as a thread waits for a processor, which might be going to join, nothing is settled; but not for ever.
    #[test]
    fn a_creator_that_cannot_run() {
        let left = thread(1, 0, Stage::Started);
        let waits = look(&[left], &[(100, 5)], QUIET);
        let twice = [waits.clone(), waits];
        assert!(!after(&twice).is_settled(GRACE - MILLISECOND) && after(&twice).is_settled(GRACE));
        let then = |running: &[(i32, u64)]| {
            let mut confirmation = after(&twice);
            confirmation.again(look(&[left], running, QUIET));
            confirmation
        };
        assert!(then(&[(100, 6)]).is_settled(LEAST), "it has run");
        assert!(then(&[]).is_settled(LEAST), "it sleeps, so it has run");
    }

    /// A descriptor whose stage cannot be read is watched for the whole grace, and never definite.
    #[test]
    fn unknown_descriptors() {
        let left = thread(1, 0, Stage::Unknown);
        let seen = look(&[left], &[], QUIET);
        let twice = after(&[seen.clone(), seen]);
        assert!(!twice.is_settled(GRACE - MILLISECOND) && twice.is_settled(GRACE));
        assert_eq!(twice.left(&left), Some(Confidence::Probable));
    }
}
