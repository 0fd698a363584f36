//! The forms of a report, of results made up for the purpose.

use std::time::{Duration, SystemTime};

use local_daemon_conformance::case::Case;
use local_daemon_conformance::report::terminal::{self, Style};
use local_daemon_conformance::report::{CaseResult, Format, Report, SubjectFacts};
use local_daemon_conformance::verdict::{ExitCode, Verdict};
use local_daemon_harness::transcript::Event;
use local_daemon_spec::Profile;

static CASES: [Case; 5] = [
    Case::new("publish/partial-record-never-observed", &["PUB-3"], "A reader spins on the record.", |_| {
        Ok(())
    }),
    Case::new("publish/loopback-only", &["PUB-1"], "Every socket is looked at.", |_| Ok(())),
    Case::new("handshake/missing-authorization", &["HS-6"], "No header.", |_| Ok(())),
    Case::new("handshake/oracle", &["HS-22"], "A nonce without a MAC.", |_| Ok(())).profile(Profile::Proof),
    Case::new("gate/other-name", &["GATE-1"], "Another name.", |_| Ok(())).profile(Profile::Proof),
];

fn report() -> Report {
    let text = |text: &str| Some(text.to_owned());
    let event = |at_ms, actor: &str, what: &str, detail: &str| Event {
        at_ms,
        actor: actor.to_owned(),
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let failed = CaseResult {
        duration_ms: 412,
        precondition: text("daemon-1 (pid 7) was ready after 20 ms"),
        expected: text("every read finds a whole record"),
        observed: text("read 1812 found 17 of 140 bytes: <b>\"[redacted]\x1b[2J|"),
        transcript: vec![
            event(0, "daemon-1", "start", "pid 7: /opt/my-daemon"),
            event(400, "files", "torn", "17 bytes"),
        ],
        ..CaseResult::new(&CASES[0], Verdict::Fail)
    };
    let passed = CaseResult { duration_ms: 30, ..CaseResult::new(&CASES[1], Verdict::Pass) };
    let results = vec![
        failed,
        passed,
        CaseResult::new(&CASES[2], Verdict::Inconclusive).observed("the daemon was never seen"),
        CaseResult::new(&CASES[3], Verdict::Pass),
        CaseResult::new(&CASES[4], Verdict::NotApplicable).observed("no way to change the protocol"),
    ];
    let subject = SubjectFacts {
        name: "my-daemon".to_owned(),
        version: Some("my-daemon 1.2.3".to_owned()),
        sha256: Some("ab".repeat(32)),
    };
    Report::new(subject, 7, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), 5, results)
}

/// Without what may change by itself: the specification's sentences and the suite's version.
fn stable(text: &str) -> String {
    let mut text = text.replace(concat!("suite ", env!("CARGO_PKG_VERSION")), "suite <version>");
    for requirement in local_daemon_spec::catalogue().requirements() {
        text = text.replace(&requirement.text, "<sentence>");
    }
    text
}

#[test]
fn the_terminal_shows_what_needs_a_look_and_ends_with_a_line_for_scripts() {
    insta::assert_snapshot!("terminal", stable(&terminal::render(&report(), Style::default())));
}

#[test]
fn verbose_names_every_case() {
    let style = Style { verbose: true, ..Style::default() };
    let text = terminal::render(&report(), style);
    for result in &report().results {
        assert!(
            text.contains(&format!("{} {}  ", result.verdict.as_str().to_uppercase(), result.case)),
            "{text}"
        );
    }
}

#[test]
fn colour_changes_nothing_but_colour_and_a_subject_cannot_steer_the_terminal() {
    let plain = terminal::render(&report(), Style::default());
    assert!(!plain.contains('\x1b'));
    let coloured = terminal::render(&report(), Style { colour: true, ..Style::default() });
    let mut rest = coloured.as_str();
    let mut stripped = String::new();
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped += before;
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(stripped + rest, plain);
}

#[test]
fn the_json_form_satisfies_its_schema() {
    let schema = serde_json::from_str(local_daemon_spec::schemas::get("report").unwrap()).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let json: serde_json::Value = serde_json::from_str(&Format::Json.render(&report())).unwrap();
    let faults: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(json["summary"]["fail"], 1);
    assert_eq!(json["complete"], true);
}

#[test]
fn every_other_form_names_the_failure_and_holds_what_was_observed_as_text() {
    let report = report();
    for format in [Format::Junit, Format::Html, Format::Markdown] {
        let text = format.render(&report);
        assert!(text.contains("publish/partial-record-never-observed"), "{text}");
        assert!(text.contains("17 of 140"), "{text}");
        assert!(!text.contains("<b>\""), "{text}");
    }
    let html = Format::Html.render(&report);
    for outside in ["http://", "https://", "src=", "@import", "<script"] {
        assert!(
            !html
                .replace("http://127.0.0.1:PORT", "")
                .replace("http://[::1]:PORT", "")
                .contains(outside),
            "{outside}"
        );
    }
    insta::assert_snapshot!("markdown", stable(&Format::Markdown.render(&report)));
    insta::assert_snapshot!("junit", stable(&Format::Junit.render(&report)));
    insta::assert_snapshot!("badge", stable(&Format::Badge.render(&report)));
}

#[test]
fn failures_of_one_cause_are_told_once_and_what_was_not_run_is_counted() {
    let text = |pid: u32, after: u32| format!("daemon-1 (pid {pid}) is not ready after {after} ms");
    let mut results: Vec<CaseResult> = CASES[..3]
        .iter()
        .map(|case| CaseResult::new(case, Verdict::Fail).observed(text(7, 5003)))
        .collect();
    results[1].observed = Some(text(81, 5010));
    results[2].observed = Some("answered 202".to_owned());
    results.push(CaseResult::new(&CASES[3], Verdict::NotRun).observed("never ready"));
    results.push(CaseResult::unclaimed(&CASES[4]));
    let report = Report::new(report().subject, 7, SystemTime::UNIX_EPOCH, 5, results);
    let terminal = terminal::render(&report, Style::default());
    assert!(terminal.contains("FAIL 2 cases in which the same was observed\n"), "{terminal}");
    let end = "\nnot claimed: proof (`subject.profiles`, `--profile`)\n\n\
               does not conform: daemon; core, proof\ncases: 3 fail, 1 not-applicable, 1 not-run\n";
    assert!(terminal.ends_with(end), "{terminal}");
    let markdown = Format::Markdown.render(&report);
    assert!(markdown.contains("## fail: 2 cases in which the same was observed\n"), "{markdown}");
    for text in [terminal, markdown] {
        assert_eq!(text.matches("is not ready after").count(), 1, "{text}");
        assert!(text.contains("publish/loopback-only") && text.contains("202"), "{text}");
    }
    let html = Format::Html.render(&report);
    assert!(html.contains("What needs a look") && html.contains("href=\"#publish/loopback-only\""), "{html}");
    let json: serde_json::Value = serde_json::from_str(&Format::Json.render(&report)).unwrap();
    assert_eq!((&json["summary"]["not-run"], &json["results"][3]["verdict"]), (&1.into(), &"not-run".into()));
    assert_eq!(json["claim"]["profiles"], serde_json::json!(["core", "proof"]));
    assert!(Format::Junit.render(&report).contains("type=\"not-run\""));
}

#[test]
fn an_interrupted_report_says_so_in_every_form() {
    let mut report = report();
    report.complete = false;
    assert_eq!(report.exit_code(false), ExitCode::Interrupted);
    assert!(terminal::render(&report, Style::default()).contains("interrupted"));
    for format in [Format::Html, Format::Markdown, Format::Badge] {
        assert!(format.render(&report).contains("interrupted"));
    }
    assert!(Format::Json.render(&report).contains("\"complete\": false"));
}

#[test]
fn a_known_failure_and_a_stale_entry_say_so_in_every_form() {
    let mut report = report();
    for result in &mut report.results {
        if result.verdict == Verdict::Fail {
            result.known = Some("PUB-3: writes in place until 2.0".to_owned());
        }
    }
    report.results.retain(|result| result.verdict != Verdict::Inconclusive);
    assert_eq!(report.exit_code(true), ExitCode::Conforms);
    for format in [Format::Json, Format::Junit, Format::Html, Format::Markdown] {
        assert!(format.render(&report).contains("writes in place until 2.0"), "{format:?}");
    }
    assert!(!Format::Badge.render(&report).contains("#2f7d32"), "not the green of a clean run");
    assert!(Format::Badge.render(&report).contains("conforms but for known failures"));

    report.stale_baseline = vec!["gate/gone (GATE-1): no such case".to_owned()];
    assert_eq!(report.exit_code(false), ExitCode::StaleBaseline);
    for format in [Format::Json, Format::Html, Format::Markdown] {
        assert!(format.render(&report).contains("gate/gone"), "{format:?}");
    }
    assert!(terminal::render(&report, Style::default()).contains("STALE BASELINE gate/gone"));
}
