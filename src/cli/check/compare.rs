//! What was expected against what was found. JSON in, differences out.
//!
//! | expected | matches |
//! |---|---|
//! | a number | the same number; where a time was measured (`*_seconds`, `*_per_second`) one within a fifth of it |
//! | `{ min = …, max = … }`, either or both | a number between them |
//! | a table | a table with at least these keys, and values that match |
//! | an array | an array that holds matching elements in this order, among others |
//! | a string | the same string; of `proof`, `advice`, `text` and `call` a part; of `file` and `module` the last parts |

use serde_json::{Map, Number, Value};

/// How far a measured time may be from the expected one, as a part of it.
const MEASURED: f64 = 0.2;

/// One thing that is not as expected.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Difference {
    /// Where: `thread_function.symbol`.
    pub path: String,
    /// What was expected there.
    pub expected: String,
    /// What was found there.
    pub found: String,
}

/// How the findings of a report fall short of a case's expectations.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Failure {
    /// This expectation (from 1) is nearest to a finding that differs from it.
    Differs(usize, Vec<Difference>),
    /// No finding is left for this expectation (from 1).
    Missing(usize, String),
    /// Nothing was expected like this finding.
    Unexpected(String),
}

/// Compares the findings with what was expected: each expectation takes a finding of its own, and none is left over.
pub(super) fn judge(expected: &[Map<String, Value>], found: &[Value]) -> Vec<Failure> {
    let pairs = pair_up(expected, found);
    let mut spare: Vec<usize> = (0..found.len()).filter(|index| !pairs.contains(&Some(*index))).collect();
    let mut failures = Vec::new();
    for (number, wanted) in expected.iter().enumerate().filter(|(number, _)| pairs[*number].is_none()) {
        let wanted = Value::Object(wanted.clone());
        let nearest = (0..spare.len()).min_by_key(|place| differences(&wanted, &found[spare[*place]]).len());
        failures.push(match nearest.map(|place| spare.remove(place)) {
            Some(nearest) => Failure::Differs(number + 1, differences(&wanted, &found[nearest])),
            None => Failure::Missing(number + 1, wanted.to_string()),
        });
    }
    failures.extend(spare.into_iter().map(|index| Failure::Unexpected(summary(&found[index]))));
    failures
}

/// For each expectation the finding that it takes, so that as many as possible are met.
fn pair_up(expected: &[Map<String, Value>], found: &[Value]) -> Vec<Option<usize>> {
    let fits: Vec<Vec<bool>> = expected
        .iter()
        .map(|wanted| {
            let wanted = Value::Object(wanted.clone());
            found.iter().map(|finding| matches(&wanted, finding)).collect()
        })
        .collect();
    let mut taken_by: Vec<Option<usize>> = vec![None; found.len()];
    for wanted in 0..expected.len() {
        take(wanted, &fits, &mut taken_by, &mut vec![false; found.len()]);
    }
    (0..expected.len()).map(|wanted| taken_by.iter().position(|taker| *taker == Some(wanted))).collect()
}

/// Finds a finding for `wanted`, where needed by moving an earlier expectation to another one that fits it.
fn take(wanted: usize, fits: &[Vec<bool>], taken_by: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for finding in 0..taken_by.len() {
        if fits[wanted][finding] && !tried[finding] {
            tried[finding] = true;
            if taken_by[finding].is_none_or(|other| take(other, fits, taken_by, tried)) {
                taken_by[finding] = Some(wanted);
                return true;
            }
        }
    }
    false
}

/// Whether all that is expected is found.
pub(super) fn matches(expected: &Value, found: &Value) -> bool {
    differences(expected, found).is_empty()
}

/// What of `expected` is not so in `found`.
pub(super) fn differences(expected: &Value, found: &Value) -> Vec<Difference> {
    let mut list = Vec::new();
    compare(&mut Vec::new(), expected, Some(found), &mut list);
    list
}

fn compare<'a>(path: &mut Vec<&'a str>, expected: &'a Value, found: Option<&Value>, list: &mut Vec<Difference>) {
    if let (Value::Object(wanted), None | Some(Value::Object(_))) = (expected, found) {
        for (key, wanted) in wanted {
            path.push(key);
            compare(path, wanted, found.and_then(|found| found.get(key)), list);
            path.pop();
        }
        return;
    }
    if !found.is_some_and(|found| value_matches(path, expected, found)) {
        let found = found.map_or("no such field".to_owned(), in_short);
        list.push(Difference { path: path.join("."), expected: in_short(expected), found });
    }
}

/// Whether a value that is no table of fields matches.
fn value_matches(path: &[&str], expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(wanted), Value::Number(found)) => number_matches(path, wanted, found),
        (Value::Object(bounds), Value::Number(found)) => within(bounds, found),
        (Value::String(wanted), Value::String(found)) => text_matches(path.last().copied(), wanted, found),
        (Value::Array(wanted), Value::Array(found)) => {
            let mut rest = found.iter();
            wanted.iter().all(|wanted| rest.any(|found| matches(wanted, found)))
        }
        _ => expected == found,
    }
}

fn number_matches(path: &[&str], wanted: &Number, found: &Number) -> bool {
    let measured = path.iter().any(|key| key.ends_with("_seconds") || key.ends_with("_per_second"));
    match (wanted.as_i64(), found.as_i64(), wanted.as_f64(), found.as_f64()) {
        (Some(wanted), Some(found), ..) if !measured => wanted == found,
        (_, _, Some(wanted), Some(found)) if measured => (wanted - found).abs() <= wanted.abs() * MEASURED,
        (_, _, Some(wanted), Some(found)) => wanted == found,
        _ => false,
    }
}

/// Whether a number lies between `min` and `max`; not where the bounds say anything else.
fn within(bounds: &Map<String, Value>, found: &Number) -> bool {
    let Some(found) = found.as_f64() else {
        return false;
    };
    !bounds.is_empty()
        && bounds.iter().all(|(key, bound)| match (key.as_str(), bound.as_f64()) {
            ("min", Some(least)) => least <= found,
            ("max", Some(most)) => found <= most,
            _ => false,
        })
}

fn text_matches(key: Option<&str>, wanted: &str, found: &str) -> bool {
    match key {
        Some("proof" | "advice" | "text" | "call") => found.contains(wanted),
        Some("file" | "module") => {
            found == wanted || found.strip_suffix(wanted).is_some_and(|before| before.ends_with('/'))
        }
        _ => wanted == found,
    }
}

/// A value as JSON, cut where it is long.
fn in_short(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(120) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What a reader needs to recognise a finding.
fn summary(finding: &Value) -> String {
    let text = |key: &str| match &finding[key] {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let mut summary = format!(
        "{} {} ({}): {} of {} bytes in process {}",
        text("rule"),
        text("reason"),
        text("confidence"),
        text("regions"),
        text("region_bytes"),
        text("pid"),
    );
    if let Some(symbol) = finding.pointer("/thread_function/symbol").and_then(Value::as_str) {
        summary.push_str(&format!(", thread {symbol}"));
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn finding(regions: u64, reason: &str) -> Value {
        json!({
            "rule": "orphaned-stack", "reason": reason, "confidence": "definite", "recurrence": null, "pid": 7,
            "regions": regions, "region_bytes": 10_489_856, "period_seconds": 59.4,
            "proof": "never joined: on the thread library's list of used stacks",
            "thread_function": {"symbol": "job", "file": "/src/app/app.c", "line": 61},
            "site": [{"symbol": "clone3"}, {"symbol": "start"}, {"symbol": "main"}],
        })
    }

    fn paths(expected: Value, found: &Value) -> Vec<String> {
        differences(&expected, found).into_iter().map(|difference| difference.path).collect()
    }

    fn tables(expected: Value) -> Vec<Map<String, Value>> {
        serde_json::from_value(expected).unwrap()
    }

    /// A part of a finding is enough: numbers as numbers, nested tables and arrays in part.
    #[test]
    fn a_part_matches() {
        let found = finding(15, "unjoined");
        let all = json!({
            "regions": 15.0, "reason": "unjoined", "recurrence": null, "proof": "never joined",
            "thread_function": {"symbol": "job", "file": "app.c"},
            "site": [{"symbol": "start"}, {"symbol": "main"}],
        });
        assert_eq!(paths(all, &found), [""; 0]);
        assert_eq!(paths(json!({}), &found), [""; 0]);
    }

    /// Every field that differs is named, with a missing one told apart from a wrong one.
    #[test]
    fn differences_name_the_field() {
        let expected = json!({"regions": 14, "region": 15, "thread_function": {"symbol": "jab", "file": "p.c"},
            "site": [{"symbol": "main"}, {"symbol": "start"}]});
        let found = differences(&expected, &finding(15, "unjoined"));
        let lines: Vec<String> = found.iter().map(|d| format!("{}: {} | {}", d.path, d.expected, d.found)).collect();
        assert_eq!(
            lines,
            [
                "region: 15 | no such field",
                "regions: 14 | 15",
                r#"site: [{"symbol":"main"},{"symbol":"start"}] | [{"symbol":"clone3"},{"symbol":"start"},{"symbol":"main"}]"#,
                r#"thread_function.file: "p.c" | "/src/app/app.c""#,
                r#"thread_function.symbol: "jab" | "job""#,
            ]
        );
    }

    /// Numbers may be bounded, and measured times are never exact.
    #[test]
    fn bounds_and_measured_times() {
        let found = finding(15, "unjoined");
        assert_eq!(paths(json!({"period_seconds": 60}), &found), [""; 0]);
        assert_eq!(paths(json!({"period_seconds": 75.0}), &found), ["period_seconds"]);
        assert_eq!(paths(json!({"regions": {"min": 15}}), &found), [""; 0]);
        assert_eq!(paths(json!({"regions": {"min": 15, "max": 20}}), &found), [""; 0]);
        assert_eq!(paths(json!({"regions": {"max": 14}}), &found), ["regions"]);
        assert_eq!(paths(json!({"regions": {"least": 1}}), &found), ["regions"]);
        assert_eq!(paths(json!({"regions": "15"}), &found), ["regions"]);
        assert_eq!(paths(json!({"thread_function": {"line": 61.5}}), &found), ["thread_function.line"]);
    }

    /// A null field fails a table of expectations field by field.
    #[test]
    fn null_is_not_a_table() {
        assert_eq!(paths(json!({"idle_seconds": {"oldest": 1}}), &json!({"idle_seconds": null})), ["idle_seconds"]);
    }

    /// Each expectation needs a finding of its own, whatever the order.
    #[test]
    fn expectations_share_no_finding() {
        let found = [finding(3, "unjoined"), finding(3, "unmanaged")];
        // The first could take either finding, the second only the one that the first would take first.
        let expected = tables(json!([{"regions": 3}, {"reason": "unjoined"}]));
        assert_eq!(judge(&expected, &found), []);
        let twice = tables(json!([{"reason": "unjoined"}, {"reason": "unjoined"}]));
        let failures = judge(&twice, &found);
        let [Failure::Differs(2, differences)] = failures.as_slice() else { panic!("{failures:?}") };
        assert_eq!(differences[0].path, "reason");
    }

    /// Nothing expected means nothing may be found; too few and too many are both failures.
    #[test]
    fn neither_more_nor_less() {
        assert_eq!(judge(&[], &[]), []);
        assert_eq!(
            judge(&[], &[finding(2, "unjoined")]),
            [Failure::Unexpected(
                "orphaned-stack unjoined (definite): 2 of 10489856 bytes in process 7, thread job".to_owned()
            )]
        );
        let expected = tables(json!([{"regions": 2}]));
        assert_eq!(judge(&expected, &[]), [Failure::Missing(1, r#"{"regions":2}"#.to_owned())]);
    }
}
