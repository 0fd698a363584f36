//! XML for CI systems: a suite a chapter.

use quick_junit::{NonSuccessKind, Property, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use std::time::Duration;

use super::{CaseResult, Report};
use crate::verdict::Verdict;

pub(super) fn render(report: &Report) -> String {
    let mut xml = Xml::new(format!("daemonspec {}", report.subject.name));
    for (chapter, results) in report.chapters() {
        let mut suite = TestSuite::new(chapter);
        suite.add_property(Property::new("seed", report.seed.to_string()));
        suite.add_property(Property::new("claim", report.claim.to_string()));
        suite.add_property(Property::new("complete", report.complete.to_string()));
        suite.add_test_cases(results.iter().map(case));
        xml.add_test_suite(suite);
    }
    xml.to_string().expect("quick-junit drops what XML cannot hold")
}

fn case(result: &CaseResult) -> TestCase {
    let mut status = match result.verdict {
        _ if result.known.is_some() => TestCaseStatus::skipped(),
        Verdict::Pass | Verdict::Warn => TestCaseStatus::success(),
        Verdict::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Inconclusive | Verdict::HarnessError => TestCaseStatus::non_success(NonSuccessKind::Error),
        Verdict::NotApplicable | Verdict::NotRun | Verdict::Untestable => TestCaseStatus::skipped(),
    };
    let side = |side: &Option<String>| side.clone().unwrap_or_default();
    if !matches!(result.verdict, Verdict::Pass | Verdict::Warn) {
        status.set_message(side(&result.observed)).set_type(result.verdict.as_str());
        status.set_description(format!(
            "arranged: {}\nexpected: {}\nobserved: {}",
            side(&result.precondition),
            side(&result.expected),
            side(&result.observed)
        ));
    }
    let mut case = TestCase::new(result.case, status);
    case.set_classname(result.chapter()).set_time(Duration::from_millis(result.duration_ms));
    case.add_property(Property::new("verdict", result.verdict.as_str()));
    if let Some(reason) = &result.known {
        case.add_property(Property::new("known-failure", reason));
    }
    case.add_property(Property::new("requirements", result.requirements.join(" ")));
    if result.verdict.needs_a_look() {
        let lines = result
            .transcript
            .iter()
            .map(|e| format!("{} ms {} {}: {}", e.at_ms, e.actor, e.what, e.detail));
        case.set_system_out(lines.collect::<Vec<_>>().join("\n"));
    }
    case
}
