//! HTML: one file that refers to nothing outside itself.

use local_daemon_harness::transcript::Event;
use local_daemon_spec::catalogue;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{CaseResult, Report, Summary, groups};

const STYLE: &str = "
:root{color-scheme:light dark;--bad:#b3261e;--good:#2f7d32;--odd:#7a4fb5;--warn:#946200;--dim:#6b6b6b;--line:#8884}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--good:#7fd184;--odd:#c7a6ff;--warn:#ffcb66;--dim:#a0a0a0}}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}
.dim,dt{color:var(--dim)}
details{border-top:1px solid var(--line);padding:.35rem 0}
summary{cursor:pointer;display:flex;gap:.8rem;align-items:baseline}
summary code{flex:1;overflow-wrap:anywhere}
.v{min-width:8.5rem;font-weight:600}
.pass{color:var(--good)}.fail{color:var(--bad)}.warn{color:var(--warn)}
.untestable,.inconclusive,.harness-error{color:var(--odd)}.not-applicable,.not-run{color:var(--dim)}
dl{margin:.5rem 0 .5rem 1rem;display:grid;grid-template-columns:6rem 1fr;gap:.2rem .8rem}
dd{margin:0;overflow-wrap:anywhere}
.hash{overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font:12px/1.5 ui-monospace,monospace;margin-left:1rem}
td{padding:0 .8rem 0 0;vertical-align:top;white-space:nowrap}td:last-child{white-space:pre-wrap;overflow-wrap:anywhere;min-width:24rem}
td:first-child{text-align:right;color:var(--dim)}
";

pub(super) fn render(report: &Report) -> String {
    let subject = &report.subject;
    let title = format!("{}: {}", subject.name, report.title());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p .dim {
                    (subject.version.as_deref().unwrap_or("version unknown")) " · " (report.spec)
                    " · suite " (report.suite_version) " · seed " (report.seed) " · " (report.started)
                    @if let Some(sha256) = &subject.sha256 { br; "executable " code .hash { (sha256) } }
                }
                p { (report.summary.words()) }
                @if !report.complete { p .fail { "The run was interrupted; cases without a result are not counted." } }
                @for stale in &report.stale_baseline { p .fail { "stale baseline: " (stale) } }
                @for line in report.inapplicable() { p .dim { (line) } }
                @let groups = groups(report);
                @if !groups.is_empty() {
                    h2 { "What needs a look" }
                    ul {
                        @for group in &groups {
                            li {
                                span class=(group.verdict.as_str()) { (group.verdict.as_str()) } ": " (group.observed())
                                ul { @for result in &group.results { li { a href={ "#" (result.case) } { (result.case) } } } }
                            }
                        }
                    }
                }
                @for (chapter, results) in report.chapters() {
                    h2 { (chapter) " " span .dim { (Summary::of(results).words()) } }
                    @for result in results { (case(result)) }
                }
            }
        }
    };
    page.into_string() + "\n"
}

fn case(result: &CaseResult) -> Markup {
    let sides = [
        ("arranged", &result.precondition),
        ("expected", &result.expected),
        ("observed", &result.observed),
    ];
    html! {
        details id=(result.case) open[result.verdict.needs_a_look() && result.known.is_none()] {
            summary {
                span class={ "v " (result.verdict.as_str()) } { (result.verdict.as_str()) }
                code { (result.case) }
                span .dim { (result.duration_ms) " ms" }
            }
            dl {
                @for id in result.requirements {
                    dt { (id) }
                    dd { (catalogue().get(id).map_or("", |requirement| requirement.text.as_str())) }
                }
                @if let Some(reason) = &result.known { dt { "known" } dd { (reason) } }
                @for (word, side) in sides {
                    @if let Some(side) = side { dt { (word) } dd { (side) } }
                }
            }
            @if !result.transcript.is_empty() { (transcript(&result.transcript)) }
        }
    }
}

fn transcript(events: &[Event]) -> Markup {
    html! {
        details {
            summary { "transcript (" (events.len()) ")" }
            div .scroll {
                table {
                    @for event in events {
                        tr { td { (event.at_ms) } td { (event.actor) } td { (event.what) } td { (event.detail) } }
                    }
                }
            }
        }
    }
}
