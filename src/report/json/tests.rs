use super::super::sample::{clean, documented, finding, member};
use super::*;
use crate::units::Range;
use serde_json::Value;

fn json(report: &Report) -> String {
    let mut out = Vec::new();
    write(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn parsed(report: &Report) -> Value {
    serde_json::from_str(&json(report)).unwrap()
}

/// Everything that the contract names, for one stack of the documented case.
#[test]
fn a_finding_in_full() {
    let mut report = documented();
    report.findings = vec![finding(vec![member(0)])];
    report.findings[0].site.truncate(3);
    report.findings[0].site.remove(0);
    insta::assert_snapshot!(json(&report), @r#"
    {
      "schema": "vmtrace.report/1",
      "version": "0.1.0",
      "target": {
        "pid": 31108,
        "command": [
          "/opt/app/bin/app_server",
          "--port=80"
        ],
        "mode": "attach",
        "engine": "ptrace",
        "follow": "memory",
        "exit": null
      },
      "span": {
        "start": "2019-02-21T14:59:58.500000Z",
        "seconds": 902.1
      },
      "counts": {
        "events": 12391,
        "lost": 0,
        "stops": 24782,
        "threads_seen": 24,
        "threads_live": 9,
        "mappings_live": 240
      },
      "memory": {
        "virtual_bytes": 306231427072,
        "resident_bytes": 4294967296,
        "vmas": 58012,
        "max_map_count": 65530,
        "leaked_virtual_bytes": 10489856,
        "leaked_resident_bytes": 81920,
        "breakdown": null
      },
      "verify": {
        "checks": 41,
        "mismatches": 0,
        "tolerated": {
          "stack-growth": 0,
          "uprobes": 0,
          "vdso": 0
        }
      },
      "min_confidence": "probable",
      "unlisted": 0,
      "findings": [
        {
          "rule": "orphaned-stack",
          "reason": "unjoined",
          "confidence": "definite",
          "recurrence": "recurrent",
          "pid": 31108,
          "regions": 1,
          "created": 1,
          "virtual_bytes": 10489856,
          "resident_bytes": 81920,
          "region_bytes": 10489856,
          "guard_bytes": 4096,
          "period_seconds": null,
          "growth_bytes_per_second": null,
          "idle_seconds": {
            "oldest": 899.598,
            "youngest": 899.598
          },
          "thread_function": {
            "module": "/opt/app/bin/app_server",
            "offset": 4621,
            "symbol": "minute_job",
            "file": "/src/app/app.c",
            "line": 61
          },
          "site": [
            {
              "module": "/usr/lib/x86_64-linux-gnu/libc.so.6",
              "offset": 4560,
              "symbol": "pthread_create@GLIBC_2.34",
              "file": null,
              "line": null
            },
            {
              "module": "/opt/app/bin/app_server",
              "offset": 4648,
              "symbol": "start_minute_job",
              "file": "/src/app/app.c",
              "line": 88
            }
          ],
          "mapped_site": [],
          "proof": "never joined: on the thread library's list of used stacks, its task is gone",
          "advice": "call pthread_join or pthread_detach for the thread created at app.c:88",
          "members": [
            {
              "start": "0x7fa94bbc0000",
              "end": "0x7fa94c5c1000",
              "virtual_bytes": 10489856,
              "owner_tid": 20603,
              "creator_tid": 31151,
              "mapped_at": "2019-02-21T15:00:00.000000Z",
              "born_at": "2019-02-21T15:00:00.002000Z",
              "exited_at": "2019-02-21T15:00:01.002000Z",
              "evidence": [
                {
                  "at": "2019-02-21T15:00:00.000000Z",
                  "tid": 31151,
                  "call": "mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa94bbc0000"
                },
                {
                  "at": "2019-02-21T15:00:00.001000Z",
                  "tid": 31151,
                  "call": "mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0"
                },
                {
                  "at": "2019-02-21T15:00:00.002000Z",
                  "tid": 31151,
                  "call": "clone(child_stack=0x7fa94c5afe50, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, parent_tid=[20603], tls=0x7fa94c5c0700, child_tidptr=0x7fa94c5c09d0) = 20603"
                },
                {
                  "at": "2019-02-21T15:00:01.002000Z",
                  "tid": 20603,
                  "call": "+++ exited with 0 +++"
                }
              ]
            }
          ]
        }
      ],
      "notes": []
    }
    "#);
}

/// What is not known is null, and nothing is left out.
#[test]
fn unknown_is_null() {
    let mut report = clean();
    report.verify = None;
    report.memory = super::super::Memory::default();
    let unknown = Member { mapped_at: None, born_at: None, exited_at: None, evidence: vec![], ..member(0) };
    let anonymous =
        Finding { recurrence: None, created: None, thread_function: None, site: vec![], ..finding(vec![unknown]) };
    report.findings = vec![anonymous];
    let value = parsed(&report);
    for path in [
        "/verify",
        "/target/exit",
        "/memory/virtual_bytes",
        "/memory/max_map_count",
        "/findings/0/recurrence",
        "/findings/0/created",
        "/findings/0/period_seconds",
        "/findings/0/growth_bytes_per_second",
        "/findings/0/idle_seconds",
        "/findings/0/thread_function",
        "/findings/0/members/0/mapped_at",
        "/findings/0/members/0/exited_at",
    ] {
        assert_eq!(value.pointer(path), Some(&Value::Null), "{path}");
    }
}

/// A log without times gives none, one with distances alone gives no moments, and a number that is not known is null.
#[test]
fn unknown_times_are_null() {
    let mut report = documented();
    report.clock.known = Known::Distances;
    report.target.pid = Pid(0);
    let value = parsed(&report);
    for path in ["/span/start", "/findings/0/members/0/mapped_at", "/findings/0/members/0/evidence/0/at", "/target/pid"]
    {
        assert_eq!(value.pointer(path), Some(&Value::Null), "{path}");
    }
    assert_eq!((&value["span"]["seconds"], &value["findings"][0]["period_seconds"]), (&902.1.into(), &60.0.into()));
    report.clock.known = Known::Order;
    let value = parsed(&report);
    for path in ["/span/start", "/span/seconds", "/findings/0/idle_seconds"] {
        assert_eq!(value.pointer(path), Some(&Value::Null), "{path}");
    }
}

/// The documented series: its interval, its growth, its sums.
#[test]
fn a_series_is_measured() {
    let value = parsed(&documented());
    let finding = &value["findings"][0];
    assert_eq!(finding["regions"], 15);
    assert_eq!(finding["virtual_bytes"], 157_347_840);
    assert_eq!(finding["period_seconds"], 60.0);
    assert!((finding["growth_bytes_per_second"].as_f64().unwrap() - 174_830.93).abs() < 0.01);
    assert_eq!(finding["idle_seconds"]["youngest"], 59.598);
    assert_eq!(value["memory"]["leaked_virtual_bytes"], 157_347_840);
    assert_eq!(value["memory"]["leaked_resident_bytes"], 1_228_800);
}

/// What is below the minimum confidence is neither listed nor part of the sums, but counted.
#[test]
fn only_listed_findings_count() {
    let mut report = documented();
    let left = Member { range: Range::of_len(Addr(0x1000), 4096).unwrap(), virtual_bytes: 4096, ..member(0) };
    report.findings.push(Finding { confidence: Confidence::Possible, ..finding(vec![left]) });
    let value = parsed(&report);
    assert_eq!(value["findings"].as_array().unwrap().len(), 1);
    assert_eq!(value["unlisted"], 1);
    assert_eq!(value["memory"]["leaked_virtual_bytes"], 157_347_840);
}

/// How the program ended, and notes as they were given.
#[test]
fn ends_and_notes() {
    use crate::diagnose::finding::NoteKind;
    let mut report = clean();
    report.target.exit = Some(Exit::Signal(11));
    let note = |pid| Note { kind: NoteKind::StackCache, pid, regions: 4, virtual_bytes: 40, text: "kept".to_owned() };
    report.notes = vec![note(None), note(Some(Pid(7)))];
    let value = parsed(&report);
    assert_eq!(value["target"]["exit"], serde_json::json!({"signal": "SIGSEGV"}));
    assert_eq!(
        value["notes"],
        serde_json::json!([
            {"kind": "stack-cache", "regions": 4, "virtual_bytes": 40, "text": "kept"},
            {"kind": "stack-cache", "pid": 7, "regions": 4, "virtual_bytes": 40, "text": "kept"},
        ])
    );
    report.target.exit = Some(Exit::Code(3));
    assert_eq!(parsed(&report)["target"]["exit"], serde_json::json!({"code": 3}));
}

/// A command line with control characters survives a round trip and writes none of them.
#[test]
fn control_characters_are_escaped() {
    let mut report = clean();
    report.target.command = vec!["a\x1b[2J\x7f\u{9b}b\n".to_owned()];
    assert!(!json(&report).chars().any(|character| character.is_control() && character != '\n'));
    assert_eq!(parsed(&report)["target"]["command"][0], "a\x1b[2J\x7f\u{9b}b\n");
}
