use super::*;
use serde_json::json;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text, Path::new("cases.toml"), PathBuf::from("/folder"))
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// Every key of a case, as the documentation shows them.
#[test]
fn a_case_in_full() {
    let manifest = parse(
        r#"
        [[case]]
        name = "unjoined"
        build = "cc -g -pthread -o leak leak.c"
        run = "./leak 15"
        timeout = "500ms"
        modes = ["launch", "attach"]
        options = "--min-confidence possible"
        exit = "SIGTERM"
        verify = false
        expect = [{ reason = "unjoined", regions = 15, period_seconds = 1.5, thread_function = { symbol = "job" } }]
        notes = [{ kind = "stack-cache" }]
        "#,
    )
    .unwrap();
    let [case] = manifest.cases.as_slice() else { panic!("one case") };
    assert_eq!(case.name, "unjoined");
    assert_eq!(case.build.as_deref().unwrap(), ["sh", "-c", "cc -g -pthread -o leak leak.c"]);
    assert_eq!(case.run, ["./leak", "15"]);
    assert_eq!(case.timeout, Duration::from_millis(500));
    assert_eq!(case.modes, [Mode::Launch, Mode::Attach]);
    assert_eq!(case.options, ["--min-confidence", "possible"]);
    assert_eq!(case.exit, Some(ExpectedExit::Signal("SIGTERM".to_owned())));
    assert_eq!(case.verify, None);
    assert_eq!(
        json!(case.expect),
        json!([{"reason": "unjoined", "regions": 15, "period_seconds": 1.5, "thread_function": {"symbol": "job"}}])
    );
    assert_eq!(json!(case.notes), json!([{"kind": "stack-cache"}]));
}

/// What a case may leave out, and other names for the same keys; arrays of arguments keep their blanks.
#[test]
fn a_short_case() {
    let manifest = parse(
        r#"
        [[test]]
        name = "clean"
        command = ["./clean", "two words"]
        findings = []
        timeout = 5
        exit = 3
        "#,
    )
    .unwrap();
    let case = &manifest.cases[0];
    assert_eq!(case.run, ["./clean", "two words"]);
    assert_eq!(case.timeout, Duration::from_secs(5));
    assert_eq!(
        (case.build.as_ref(), case.modes.as_slice(), case.verify),
        (None, &[Mode::Launch][..], NonZeroU64::new(1))
    );
    assert_eq!(case.exit, Some(ExpectedExit::Status(3)));
    assert!(case.expect.is_empty() && case.notes.is_empty() && case.options.is_empty());
    let case = &parse("[[cases]]\nname = 'a'\nrun = 'a'").unwrap().cases[0];
    assert_eq!(case.timeout, TIMEOUT);
}

/// Expected findings may be written as tables of their own.
#[test]
fn expectations_as_tables() {
    let text = "[[case]]\nname='a'\nrun='a'\n[[case.expect]]\nregions = 2\n[[case.expect]]\nregions = 3\n";
    let manifest = parse(text).unwrap();
    assert_eq!(json!(manifest.cases[0].expect), json!([{"regions": 2}, {"regions": 3}]));
}

/// A source may show something else of a case, or cannot show it; only ptrace can verify.
#[test]
fn what_sources_show() {
    let manifest = parse(
        r#"
        [by.perf]
        without = ["site"]
        [[case]]
        name = "a"
        run = "a"
        verify = 100
        expect = [{ regions = 2, site = [] }]
        [case.by.perf]
        differ = { reason = "unjoined" }
        without = ["regions"]
        [case.by.threads]
        expect = [{ regions = 1 }]
        notes = [{ kind = "incomplete" }]
        [case.by.strace-log]
        cannot = "strace does not follow it"
        "#,
    )
    .unwrap();
    let shown = |by| {
        manifest.cases[0].by(by).map(|case| (json!(case.expect), json!(case.notes), case.verify.map(NonZeroU64::get)))
    };
    assert_eq!(shown(By::Ptrace), Some((json!([{"regions": 2, "site": []}]), json!([]), Some(100))));
    assert_eq!(shown(By::Perf), Some((json!([{"reason": "unjoined"}]), json!([]), None)));
    assert_eq!(shown(By::Threads), Some((json!([{"regions": 1}]), json!([{"kind": "incomplete"}]), None)));
    assert_eq!(shown(By::StraceLog), None);
}

/// A wrong manifest is told in one line, with the place and with what would be right.
#[test]
fn errors_name_the_line_and_the_way_out() {
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrum = 'a'\n"), @"cases.toml:3: unknown field `rum`, expected one of `name`, `build`, `command`, `run`, `timeout`, `expect`, `expected`, `findings`, `notes`, `modes`, `exit`, `options`, `verify`, `by`");
    insta::assert_snapshot!(error("[[kase]]\nname = 'a'\nrun = 'a'\n"), @"cases.toml:1: unknown field `kase`, expected one of `by`, `case`, `cases`, `test`, `tests`");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\n"), @"cases.toml:1: missing field `run`");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 7\n"), @"cases.toml:3: invalid type: integer `7`, expected a command line or a list of arguments");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\nverify = 0\n"), @"cases.toml:4: invalid value: integer `0`, expected true, false, or at every how many changes");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = ' '\n"), @"cases.toml:1: a: run is empty; it must say what to execute");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\ntimeout = '2 days'\n"), @"cases.toml:4: '2 days' is no duration: write 500ms, 30s, 2m or 1h");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\ntimeout = 0\n"), @r#"cases.toml:4: invalid value: integer `0`, expected a duration such as "500ms", "20s", "2m" or "1h", or a number of seconds"#);
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\nmodes = ['detach']\n"), @"cases.toml:4: unknown variant `detach`, expected `launch` or `attach`");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\nexit = 1.5\n"), @r#"cases.toml:4: expected an exit status such as 0, or a signal's name such as "SIGTERM""#);
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\nexpect = { regions = 1 }\n"), @"cases.toml:4: invalid type: map, expected a sequence");
    insta::assert_snapshot!(error("[[case]]\nname = 'a'\nrun = 'a'\n\n[[case]]\nname = 'a'\nrun = 'a'\n"), @"cases.toml:5: a second case is named a; names must differ");
    insta::assert_snapshot!(error("[[case]]\nname = 'a\n"), @"cases.toml:2: invalid literal string, expected `'`");
    insta::assert_snapshot!(error("# nothing yet\n"), @"cases.toml: no [[case]] in it");
}

/// Names select cases; one that does not exist is an error, for a typing mistake must not pass as success.
#[test]
fn names_select_cases() {
    let manifest = parse("[[case]]\nname='a'\nrun='a'\n[[case]]\nname='b'\nrun='b'\n").unwrap();
    let names = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cases = manifest.select(&names).map_err(|error| error.to_string())?;
        Ok::<_, String>(cases.iter().map(|case| case.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(names(&[]).unwrap(), ["a", "b"]);
    assert_eq!(names(&["b"]).unwrap(), ["b"]);
    assert_eq!(names(&["b", "c"]).unwrap_err(), "no case is named c; there are: a, b");
}

/// A file that is too large is refused, before it is understood.
#[test]
fn a_manifest_is_bounded() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[case]]\nname='a'\nrun='a'\n#").unwrap();
    assert_eq!(Manifest::read(file.path()).unwrap().cases.len(), 1);
    let long = format!("[[case]]\nname='a'\nrun='a'\n#{}", " ".repeat(LARGEST as usize));
    std::fs::write(file.path(), long).unwrap();
    let error = Manifest::read(file.path()).unwrap_err().to_string();
    assert!(error.ends_with("too large for a manifest"), "{error}");
}
