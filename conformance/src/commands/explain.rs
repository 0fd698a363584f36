//! `daemonspec explain`

use std::fmt::Write as _;

use local_daemon_conformance::case::Case;
use local_daemon_conformance::cases;
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::traceability;
use local_daemon_conformance::verdict::ExitCode;
use local_daemon_spec::catalogue;

use super::list::citations;
use super::{Problem, print};

/// Explains a case by its name or a requirement by its id, in any case of letters.
pub(crate) fn explain(name: &str) -> Result<ExitCode, Problem> {
    let text = if let Some(case) = cases::get(name) {
        explain_case(case)
    } else if let Some(text) = explain_requirement(&name.to_uppercase())? {
        text
    } else {
        let names = catalogue().requirements().map(|requirement| requirement.id.as_str());
        let near = nearest(name, names.chain(cases::all().map(|case| case.name)), 3);
        let help = match near[..] {
            [] => "`daemonspec list` and `daemonspec list --requirements` name everything".to_owned(),
            _ => format!("did you mean {}?", near.join(", ")),
        };
        let what = format!("no case and no requirement is called `{name}`");
        return Err(Problem::new(ExitCode::NothingSelected, what, Some(&help)));
    };
    print(&text)?;
    Ok(ExitCode::Conforms)
}

fn explain_case(case: &Case) -> String {
    let mut text = format!("{}\n\n  {}\n\n", case.name, case.about);
    let _ = writeln!(
        text,
        "  profile {}, role {}, at most {} s",
        case.profile,
        case.role,
        case.deadline.as_secs()
    );
    if case.exclusive {
        text.push_str("  runs alone\n");
    }
    if case.idle {
        text.push_str("  runs beside the others, and waits most of the time\n");
    }
    if case.no_leaks {
        text.push_str("  fails where the subject leaves a process behind\n");
    }
    text.push_str("\nJudges\n");
    for id in case.requirements {
        if let Some(requirement) = catalogue().get(id) {
            let _ = writeln!(text, "  {id}  {}", requirement.text);
        }
    }
    text
}

fn explain_requirement(id: &str) -> Result<Option<String>, Problem> {
    let code = citations()?;
    let cases: Vec<&Case> = cases::all().collect();
    let traces = traceability::traces(catalogue(), code.as_deref().unwrap_or_default(), &cases);
    let Some(trace) = traces.iter().find(|trace| trace.requirement.id == id) else {
        return Ok(None);
    };
    let requirement = trace.requirement;
    let file = catalogue()
        .chapter(&requirement.chapter)
        .map(|chapter| format!("spec/chapters/{}", chapter.file()));
    let mut text =
        format!("{}  {}\n\n  {}\n\n", requirement.id, requirement.level.key_word(), requirement.text);
    let _ = writeln!(
        text,
        "  role {}, profile {}, {}, {}:{}",
        requirement.role,
        requirement.profile,
        trace.status(),
        file.unwrap_or_default(),
        requirement.line
    );
    for (word, reason) in [("Why", &requirement.why), ("Untestable", &requirement.untestable)] {
        if let Some(reason) = reason {
            let _ = writeln!(text, "\n{word}\n  {reason}");
        }
    }
    text.push_str("\nCases\n");
    if trace.cases.is_empty() {
        text.push_str("  none\n");
    }
    for case in &trace.cases {
        let _ = writeln!(text, "  {}\n      {}", case.name, case.about);
    }
    text.push_str("\nMet in\n");
    if code.is_none() {
        text.push_str("  the code is not beside this suite\n");
    } else if trace.citations.is_empty() {
        text.push_str("  no code cites it\n");
    }
    for citation in &trace.citations {
        let _ = writeln!(text, "  {}:{}", citation.file.display(), citation.line);
    }
    Ok(Some(text))
}
