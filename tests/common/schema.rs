//! The contract of the JSON report, field by field, as the design states it. Further fields are allowed.

use serde_json::Value;

type Check = fn(&Value) -> bool;

const TARGET: &[(&str, Check)] = &[
    // A log may not tell it.
    ("pid", |value| or_null(value, is_count)),
    ("command", |value| all(value, Value::is_string)),
    ("mode", |value| one_of(value, &["launch", "attach", "inspect", "replay"])),
    ("follow", |value| or_null(value, |value| one_of(value, &["memory", "threads"]))),
    ("engine", |value| one_of(value, &["ptrace", "perf", "procfs", "strace-log", "recording"])),
    ("exit", |value| value.is_null() || is_exit(value)),
];
// A log may have no times.
const SPAN: &[(&str, Check)] =
    &[("start", |value| or_null(value, is_moment)), ("seconds", |value| or_null(value, is_amount))];
const COUNTS: &[(&str, Check)] = &[
    ("events", is_count),
    ("lost", is_count),
    ("stops", is_count),
    ("threads_seen", is_count),
    ("threads_live", is_count),
    ("mappings_live", is_count),
];
const MEMORY: &[(&str, Check)] = &[
    ("virtual_bytes", |value| or_null(value, is_count)),
    ("resident_bytes", |value| or_null(value, is_count)),
    ("leaked_virtual_bytes", is_count),
    ("leaked_resident_bytes", |value| or_null(value, is_count)),
    ("vmas", |value| or_null(value, is_count)),
    ("max_map_count", |value| or_null(value, is_count)),
    ("breakdown", |value| value.is_null() || all(value, |share| conforms(share, SHARE).is_ok())),
];
const SHARE: &[(&str, Check)] =
    &[("kind", is_text), ("regions", is_count), ("virtual_bytes", is_count), ("resident_bytes", is_count)];
const VERIFY: &[(&str, Check)] =
    &[("checks", is_count), ("mismatches", is_count), ("tolerated", |value| conforms(value, TOLERATED).is_ok())];
const TOLERATED: &[(&str, Check)] = &[("stack-growth", is_count), ("uprobes", is_count), ("vdso", is_count)];
const FINDING: &[(&str, Check)] = &[
    ("rule", |value| one_of(value, &["orphaned-stack", "orphaned-mapping"])),
    ("reason", is_text),
    ("confidence", |value| one_of(value, &["possible", "probable", "definite"])),
    ("recurrence", |value| value.is_null() || one_of(value, &["recurrent", "occasional", "one-time"])),
    ("pid", |value| or_null(value, is_count)),
    ("regions", is_count),
    ("created", |value| or_null(value, is_count)),
    ("virtual_bytes", is_count),
    ("resident_bytes", |value| or_null(value, is_count)),
    ("region_bytes", is_count),
    ("guard_bytes", is_count),
    ("period_seconds", |value| or_null(value, is_amount)),
    ("growth_bytes_per_second", |value| or_null(value, is_amount)),
    ("idle_seconds", |value| value.is_null() || conforms(value, IDLE).is_ok()),
    ("thread_function", |value| value.is_null() || conforms(value, FRAME).is_ok()),
    ("site", |value| all(value, |frame| conforms(frame, FRAME).is_ok())),
    ("mapped_site", |value| all(value, |frame| conforms(frame, FRAME).is_ok())),
    ("proof", is_text),
    ("advice", is_text),
    ("members", |value| value.as_array().is_some_and(|members| !members.is_empty())),
];
const IDLE: &[(&str, Check)] = &[("oldest", is_amount), ("youngest", is_amount)];
const FRAME: &[(&str, Check)] = &[
    ("module", is_text),
    ("offset", is_count),
    ("symbol", |value| or_null(value, Value::is_string)),
    ("file", |value| or_null(value, Value::is_string)),
    ("line", |value| or_null(value, is_count)),
];
const MEMBER: &[(&str, Check)] = &[
    ("start", is_address),
    ("end", is_address),
    ("virtual_bytes", is_count),
    // Not known of threads that ended before vmtrace attached.
    ("owner_tid", |value| or_null(value, is_count)),
    ("creator_tid", |value| or_null(value, is_count)),
    ("mapped_at", |value| or_null(value, is_moment)),
    ("exited_at", |value| or_null(value, is_moment)),
    ("evidence", Value::is_array),
];
const EVIDENCE: &[(&str, Check)] =
    &[("at", |value| or_null(value, is_moment)), ("tid", |value| or_null(value, is_count)), ("call", is_text)];
const NOTE: &[(&str, Check)] =
    &[("kind", is_text), ("regions", is_count), ("virtual_bytes", is_count), ("text", is_text)];

/// Where a report breaks the contract; nothing where it keeps it.
pub fn violations(report: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let mut check = |place: &str, value: &Value, fields| {
        violations.extend(conforms(value, fields).err().map(|error| format!("{place}{error}")));
    };
    const TOP: &[(&str, Check)] = &[
        ("schema", |value| value == "vmtrace.report/1"),
        ("version", is_text),
        ("verify", |value| value.is_null() || conforms(value, VERIFY).is_ok()),
        ("findings", Value::is_array),
        ("notes", Value::is_array),
    ];
    check("", report, TOP);
    for (name, fields) in [("target", TARGET), ("span", SPAN), ("counts", COUNTS), ("memory", MEMORY)] {
        check(&format!("{name}."), &report[name], fields);
    }
    for (number, finding) in items(&report["findings"]).enumerate() {
        check(&format!("findings[{number}]."), finding, FINDING);
        for member in items(&finding["members"]) {
            check("member.", member, MEMBER);
            for evidence in items(&member["evidence"]) {
                check("evidence.", evidence, EVIDENCE);
            }
        }
    }
    for note in items(&report["notes"]) {
        check("note.", note, NOTE);
    }
    violations
}

/// What must add up: sizes of members to their finding's, those to the whole, and the counts.
pub fn contradictions(report: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut equal = |what: &str, left: u64, right: u64| {
        if left != right {
            wrong.push(format!("{what}: {left} and {right}"));
        }
    };
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let sum = |values: &Value, key: &str| items(values).map(|value| number(&value[key])).sum::<u64>();
    let findings = &report["findings"];
    for finding in items(findings) {
        equal("regions and members", number(&finding["regions"]), items(&finding["members"]).count() as u64);
        equal("bytes of members", sum(&finding["members"], "virtual_bytes"), number(&finding["virtual_bytes"]));
        for member in items(&finding["members"]) {
            let address = |key: &str| u64::from_str_radix(&member[key].as_str().unwrap_or("")[2..], 16).unwrap_or(0);
            let span = address("end").saturating_sub(address("start"));
            equal("bytes beyond a member's span", number(&member["virtual_bytes"]).saturating_sub(span), 0);
        }
    }
    equal("leaked bytes", sum(findings, "virtual_bytes"), number(&report["memory"]["leaked_virtual_bytes"]));
    equal("leaked resident bytes", sum(findings, "resident_bytes"), number(&report["memory"]["leaked_resident_bytes"]));
    let shares = &report["memory"]["breakdown"];
    if !shares.is_null() {
        equal("shares of VIRT", sum(shares, "virtual_bytes"), number(&report["memory"]["virtual_bytes"]));
    }
    let counts = &report["counts"];
    equal(
        "live threads never seen",
        number(&counts["threads_live"]).saturating_sub(number(&counts["threads_seen"])),
        0,
    );
    wrong
}

/// Whether a value is an object with these fields; otherwise which field is wrong.
fn conforms(value: &Value, fields: &[(&str, Check)]) -> Result<(), String> {
    for (name, is_right) in fields {
        match value.get(name) {
            None => return Err(format!("{name} is missing")),
            Some(field) if !is_right(field) => return Err(format!("{name} is {field}")),
            Some(_) => {}
        }
    }
    Ok(())
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn all(value: &Value, check: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|values| values.iter().all(check))
}

fn or_null(value: &Value, check: fn(&Value) -> bool) -> bool {
    value.is_null() || check(value)
}

fn one_of(value: &Value, names: &[&str]) -> bool {
    value.as_str().is_some_and(|name| names.contains(&name))
}

/// A whole number from 0 on.
fn is_count(value: &Value) -> bool {
    value.is_u64()
}

/// Any number from 0 on.
fn is_amount(value: &Value) -> bool {
    value.as_f64().is_some_and(|amount| amount >= 0.0)
}

/// Text that says something.
fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

/// A moment by RFC 3339.
fn is_moment(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
}

/// A number in hex, as a string.
fn is_address(value: &Value) -> bool {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    digits.is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok())
}

/// `{"code": 0}` or `{"signal": "SIGTERM"}`.
fn is_exit(value: &Value) -> bool {
    let only = |key: &str| value.as_object().is_some_and(|exit| exit.len() == 1 && exit.contains_key(key));
    only("code") && value["code"].is_u64() || only("signal") && is_text(&value["signal"])
}
