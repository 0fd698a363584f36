//! The report on a terminal or in a pipe: counts by chapter, then everything that needs a look, then one line for
//! scripts.

use std::fmt::Write as _;

use local_daemon_harness::transcript::{Event, printable};
use local_daemon_spec::catalogue;

use super::{CaseResult, Group, Report, Summary, groups};
use crate::verdict::Verdict;

/// At most so many of a transcript's last events are shown; the JSON report has them all.
const EVENTS: usize = 40;

/// At most so many characters of an event are shown.
const WIDTH: usize = 240;

/// How to render.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// Whether warnings count as failures.
    pub strict: bool,
    /// Whether every case has a line of its own.
    pub verbose: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn verdict(self, verdict: Verdict) -> String {
        let code = match verdict {
            Verdict::Pass => "32",
            Verdict::Fail => "1;31",
            Verdict::Warn => "33",
            Verdict::NotApplicable | Verdict::NotRun => "2",
            Verdict::Untestable | Verdict::Inconclusive | Verdict::HarnessError => "35",
        };
        self.paint(code, &verdict.as_str().to_uppercase())
    }
}

/// The whole report.
pub fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    let subject = &report.subject;
    let version = subject.version.as_deref().unwrap_or("of unknown version");
    // Most programs print their own name before the number.
    let version = version.strip_prefix(&subject.name).unwrap_or(version).trim_start();
    let name = style.paint("1", &clean(&subject.name));
    let _ = writeln!(text, "{name} {}, seed {}\n", clean(version), report.seed);

    let width = report.chapters().map(|(chapter, _)| chapter.len()).max().unwrap_or_default();
    for (chapter, results) in report.chapters() {
        let _ = writeln!(text, "  {chapter:width$}  {}", Summary::of(results).words());
        for result in results.iter().filter(|_| style.verbose) {
            let verdict = style.verdict(result.verdict);
            let _ = writeln!(text, "    {verdict} {}  {} ms", result.case, result.duration_ms);
        }
    }
    for group in groups(report) {
        text.push('\n');
        match group.single() {
            Some(result) => render_result(&mut text, result, style),
            None => render_group(&mut text, &group, style),
        }
    }
    for result in &report.results {
        if let Some(reason) = &result.known {
            let verdict = style.verdict(result.verdict);
            let _ = writeln!(text, "\nknown {verdict} {}\n  {}", result.case, clean(reason));
        }
    }
    for stale in &report.stale_baseline {
        let _ = writeln!(text, "\n{} {}", style.paint("1;31", "STALE BASELINE"), clean(stale));
    }
    let inapplicable = report.inapplicable();
    if !inapplicable.is_empty() {
        text.push('\n');
    }
    for line in inapplicable {
        let _ = writeln!(text, "{}", style.paint("2", &clean(&line)));
    }
    let _ = writeln!(text, "\n{}", style.paint("1", &report.title()));
    if style.strict && report.summary.warn > 0 {
        text.push_str("A warning counts as a failure (`--strict`).\n");
    }
    if !report.complete {
        text.push_str("The run was interrupted; cases without a result are not counted.\n");
    }
    text.push_str(&report.summary.line());
    text.push('\n');
    text
}

/// Several cases of one cause: it is shown once, with the transcript of the first.
fn render_group(text: &mut String, group: &Group<'_>, style: Style) {
    let count = style.paint("1", &format!("{} cases", group.results.len()));
    let _ = writeln!(text, "{} {count} in which the same was observed", style.verdict(group.verdict));
    let _ = writeln!(text, "  {}  {}", style.paint("1", "observed"), clean(group.observed()));
    for result in &group.results {
        let _ = writeln!(text, "  {}  {}", result.case, result.requirements.join(" "));
    }
    render_transcript(text, group.results[0], style);
}

fn render_result(text: &mut String, result: &CaseResult, style: Style) {
    let name = style.paint("1", result.case);
    let _ = writeln!(text, "{} {name}  {} ms", style.verdict(result.verdict), result.duration_ms);
    for id in result.requirements {
        let sentence = catalogue().get(id).map_or("", |requirement| requirement.text.as_str());
        let _ = writeln!(text, "  {id}: {sentence}");
    }
    let sides = [
        ("arranged", &result.precondition),
        ("expected", &result.expected),
        ("observed", &result.observed),
    ];
    for (word, side) in sides {
        if let Some(side) = side {
            let _ = writeln!(text, "  {}  {}", style.paint("1", word), clean(side));
        }
    }
    render_transcript(text, result, style);
}

fn render_transcript(text: &mut String, result: &CaseResult, style: Style) {
    // What was arranged, expected and observed stands above.
    let told = |event: &&Event| {
        event.actor == "suite" && matches!(event.what.as_str(), "precondition" | "expect" | "observed")
    };
    let events: Vec<&Event> = result.transcript.iter().filter(|event| !told(event)).collect();
    let skipped = events.len().saturating_sub(EVENTS);
    if skipped > 0 {
        let _ = writeln!(text, "  … {skipped} earlier events");
    }
    for event in &events[skipped..] {
        let mut detail = clean(&event.detail);
        if let Some((cut, _)) = detail.char_indices().nth(WIDTH) {
            detail.truncate(cut);
            detail.push('…');
        }
        let line = format!("{:>7} ms  {:10} {}  {detail}", event.at_ms, event.actor, event.what);
        let _ = writeln!(text, "  {}", style.paint("2", line.trim_end()));
    }
}

/// What a subject said must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    if text.chars().any(char::is_control) {
        printable(text.as_bytes())
    } else {
        text.to_owned()
    }
}
