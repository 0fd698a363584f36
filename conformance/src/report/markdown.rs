//! Markdown: a table a run, and a section for everything that needs a look.

use std::fmt::Write as _;

use local_daemon_spec::catalogue;

use super::{CaseResult, Report, Summary, groups};

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {}: {}\n\n", escape(&report.subject.name), report.title());
    let version = report.subject.version.as_deref().unwrap_or("version unknown");
    let complete = if report.complete { "" } else { ", interrupted" };
    let _ = writeln!(
        text,
        "{} · {} · suite {} · seed {} · {}{complete}\n",
        escape(version),
        report.spec,
        report.suite_version,
        report.seed,
        report.started,
    );
    text.push_str("| Chapter | Verdicts |\n|---|---|\n");
    for (chapter, results) in report.chapters() {
        let _ = writeln!(text, "| {chapter} | {} |", Summary::of(results).words());
    }
    for stale in &report.stale_baseline {
        let _ = writeln!(text, "\nStale entry of the baseline: {}", escape(stale));
    }
    for line in report.inapplicable() {
        let _ = writeln!(text, "\n{}", escape(&line));
    }
    for group in groups(report) {
        let Some(result) = group.single() else {
            let _ = writeln!(
                text,
                "\n## {}: {} cases in which the same was observed\n",
                group.verdict,
                group.results.len()
            );
            for result in &group.results {
                let _ = writeln!(text, "- {} ({})", result.case, result.requirements.join(", "));
            }
            let _ = writeln!(text, "\nObserved: {}", escape(group.observed()));
            continue;
        };
        let _ = writeln!(text, "\n## {}: {}", result.verdict, result.case);
        render_sides(&mut text, result);
    }
    for result in &report.results {
        if let Some(reason) = &result.known {
            let _ = writeln!(
                text,
                "\n## {}: {}\n\nKnown and expected: {}",
                result.verdict,
                result.case,
                escape(reason)
            );
            render_sides(&mut text, result);
        }
    }
    let _ = writeln!(text, "\n{}", report.summary.line());
    text
}

fn render_sides(text: &mut String, result: &CaseResult) {
    text.push('\n');
    for id in result.requirements {
        let sentence = catalogue().get(id).map_or("", |requirement| requirement.text.as_str());
        let _ = writeln!(text, "- **{id}** {sentence}");
    }
    let sides = [
        ("Arranged", &result.precondition),
        ("Expected", &result.expected),
        ("Observed", &result.observed),
    ];
    for (word, side) in sides {
        if let Some(side) = side {
            let _ = writeln!(text, "\n{word}: {}", escape(side));
        }
    }
}

/// What was observed is text: it makes no markup and stays on its line.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '!' | '&' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
