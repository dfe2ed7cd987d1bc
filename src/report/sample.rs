//! Reports that the tests of all formats write.

use std::time::Duration;

use super::{Clock, Counts, Engine, Memory, Mode, Report, Target, Verify};
use crate::diagnose::finding::{
    Confidence, Evidence, EvidenceCall, Finding, Frame, Member, Origin, Reason, Recurrence, Rule,
};
use crate::event::{Call, CloneArgs, CloneCall, Exit};
use crate::source::Follow;
use crate::units::{Addr, Pid, Range, Tid, Time};

/// The documented case: 15 stacks of 10,489,856 bytes, one a minute, of threads that lived for a second.
pub(crate) fn documented() -> Report {
    let members = (0..15).map(member).collect();
    Report { findings: vec![finding(members)], ..clean() }
}

/// The same process with nothing to say about it.
pub(super) fn clean() -> Report {
    Report {
        target: Target {
            pid: Pid(31108),
            command: vec!["/opt/app/bin/app_server".to_owned(), "--port=80".to_owned()],
            mode: Mode::Attach,
            engine: Engine::Ptrace,
            from_start: false,
            follow: Some(Follow::Memory),
            exit: None,
        },
        clock: Clock::new("2019-02-21T22:59:58.5+08:00[+08:00]".parse().unwrap()),
        followed: Duration::from_millis(902_100),
        at_end: false,
        counts: Counts {
            events: 12_391,
            lost: 0,
            stops: 24_782,
            threads_seen: 24,
            threads_live: 9,
            mappings_live: 240,
        },
        memory: Memory {
            virtual_bytes: Some(306_231_427_072),
            resident_bytes: Some(4 << 30),
            vmas: Some(58_012),
            max_map_count: Some(65_530),
        },
        breakdown: vec![],
        verify: Some(Verify { checks: 41, ..Verify::default() }),
        findings: vec![],
        notes: vec![],
        min_confidence: Confidence::Probable,
    }
}

/// A finding of these members, in the documented case's words.
pub(super) fn finding(members: Vec<Member>) -> Finding {
    Finding {
        rule: Rule::OrphanedStack,
        reason: Reason::Unjoined,
        confidence: Confidence::Definite,
        recurrence: Some(Recurrence::Recurrent),
        pid: Pid(31108),
        created: Some(members.len() as u64),
        region_bytes: 10_489_856,
        guard_bytes: 4096,
        resident_bytes: Some(81_920 * members.len() as u64),
        origin: Origin::default(),
        thread_function: Some(frame("/opt/app/bin/app_server", "minute_job", 61)),
        site: vec![
            Frame { file: None, line: None, ..frame("/usr/lib/x86_64-linux-gnu/libc.so.6", "clone3", 0) },
            Frame {
                file: None,
                line: None,
                ..frame("/usr/lib/x86_64-linux-gnu/libc.so.6", "pthread_create@GLIBC_2.34", 0)
            },
            frame("/opt/app/bin/app_server", "start_minute_job", 88),
            frame("/opt/app/bin/app_server", "on_timer", 120),
            frame("/opt/app/bin/app_server", "main", 140),
            Frame {
                file: None,
                line: None,
                ..frame("/usr/lib/x86_64-linux-gnu/libc.so.6", "__libc_start_call_main", 0)
            },
            Frame { file: None, line: None, ..frame("/opt/app/bin/app_server", "_start", 0) },
        ],
        mapped_site: vec![],
        proof: "never joined: on the thread library's list of used stacks, its task is gone".to_owned(),
        advice: "call pthread_join or pthread_detach for the thread created at app.c:88".to_owned(),
        awaits_proof: false,
        members,
    }
}

/// A function of the program.
pub(super) fn frame(module: &str, symbol: &str, line: u32) -> Frame {
    Frame {
        module: module.to_owned(),
        offset: 0x11d0 + u64::from(line),
        symbol: Some(symbol.to_owned()),
        file: Some("/src/app/app.c".to_owned()),
        line: Some(line),
    }
}

/// The stack of the n-th minute.
pub(super) fn member(minute: u32) -> Member {
    let at = |milliseconds: u64| Time(Duration::from_millis(1500 + 60_000 * u64::from(minute) + milliseconds));
    let (owner, creator) = (Tid(20_603 + minute as i32), Tid(31_151));
    let start = Addr(0x7fa9_4bbc_0000 - 0xa0_1000 * u64::from(minute));
    let range = Range::of_len(start, 10_489_856).unwrap();
    let clone = CloneArgs {
        call: CloneCall::Clone,
        flags: 0x3d_0f00,
        exit_signal: 0,
        stack: Addr(start.0 + 0x9e_fe50),
        stack_size: 0,
        tls: Addr(start.0 + 0xa0_0700),
        parent_tid: Addr(start.0 + 0xa0_09d0),
        child_tid: Addr(start.0 + 0xa0_09d0),
    };
    let returned = |call, result| EvidenceCall::Returned { call, result };
    let evidence = |milliseconds, tid, what| Evidence { at: at(milliseconds), tid, what };
    let mmap = Call::Mmap { addr: Addr(0), len: 10_489_856, prot: 3, flags: 0x2_0022, fd: -1, offset: 0 };
    Member {
        range,
        virtual_bytes: range.bytes(),
        pieces: vec![range],
        owner: Some(owner),
        creator: Some(creator),
        mapped_at: Some(at(0)),
        born_at: Some(at(2)),
        exited_at: Some(at(1002)),
        evidence: vec![
            evidence(0, creator, returned(mmap, start.0)),
            evidence(1, creator, returned(Call::Mprotect { addr: start, len: 4096, prot: 0 }, 0)),
            evidence(2, creator, returned(Call::Clone(clone), owner.0 as u64)),
            evidence(1002, owner, EvidenceCall::Ended(Exit::Code(0))),
        ],
    }
}
