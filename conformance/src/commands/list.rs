//! `daemonspec list`

use std::fmt::Write as _;

use local_daemon_conformance::case::Case;
use local_daemon_conformance::cases;
use local_daemon_conformance::traceability::{self, Citation, Trace};
use local_daemon_conformance::verdict::{ExitCode, level};
use local_daemon_spec::catalogue;
use serde_json::{Value, json};

use super::{Problem, print};

/// Every case, by chapter.
pub(crate) fn cases(as_json: bool) -> Result<ExitCode, Problem> {
    let all: Vec<&Case> = cases::all().collect();
    if as_json {
        let list: Vec<Value> = all.iter().map(|case| case_json(case)).collect();
        print(&format!("{:#}\n", json!({ "cases": list })))?;
        return Ok(ExitCode::Conforms);
    }
    let width = all.iter().map(|case| case.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for case in &all {
        let _ = writeln!(text, "{:width$}  {:5}  {}", case.name, case.profile, case.requirements.join(" "));
    }
    let _ = writeln!(text, "\n{} cases", all.len());
    print(&text)?;
    Ok(ExitCode::Conforms)
}

fn case_json(case: &Case) -> Value {
    json!({
        "case": case.name,
        "requirements": case.requirements,
        "profile": case.profile,
        "role": case.role,
        "level": level(catalogue(), case.requirements),
        "about": case.about,
    })
}

/// The citations of the repository that this suite was built in; none where its code is not there.
pub(crate) fn citations() -> Result<Option<Vec<Citation>>, Problem> {
    let Some(root) = traceability::repository() else {
        return Ok(None);
    };
    let found = traceability::citations(catalogue(), &root);
    found
        .map(Some)
        .map_err(|error| Problem::fault(format!("cannot read the code in {}: {error}", root.display())))
}

/// Every requirement with what meets and what judges it.
pub(crate) fn requirements(as_json: bool) -> Result<ExitCode, Problem> {
    let code = citations()?;
    let cited = code.as_deref().unwrap_or_default();
    let cases: Vec<&Case> = cases::all().collect();
    let traces = traceability::traces(catalogue(), cited, &cases);
    if as_json {
        let list: Vec<Value> = traces.iter().map(trace_json).collect();
        print(&format!("{:#}\n", json!({ "requirements": list })))?;
        return Ok(ExitCode::Conforms);
    }
    let mut text = String::new();
    for traces in traces.chunk_by(|a, b| a.requirement.chapter == b.requirement.chapter) {
        let slug = &traces[0].requirement.chapter;
        let chapter = catalogue().chapter(slug);
        let note = chapter.and_then(|chapter| chapter.planned.note()).unwrap_or_default();
        let note = if note.is_empty() { String::new() } else { format!("  ({note})") };
        let _ = writeln!(text, "{slug}{note}");
        for trace in traces {
            let requirement = trace.requirement;
            let _ = writeln!(
                text,
                "  {:8} {:10}  {:6}  {:13}  {:10}  {:>2} cases  {:>2} citations",
                requirement.id,
                requirement.level.key_word(),
                requirement.role,
                requirement.profile,
                trace.status(),
                trace.cases.len(),
                trace.citations.len(),
            );
            let refers = trace.cases.iter().map(|case| case.name.to_owned()).chain(
                trace
                    .citations
                    .iter()
                    .map(|citation| format!("{}:{}", citation.file.display(), citation.line)),
            );
            for line in refers {
                let _ = writeln!(text, "             {line}");
            }
        }
        text.push('\n');
    }
    let count = |status: &str| traces.iter().filter(|trace| trace.status() == status).count();
    let _ = writeln!(
        text,
        "{} requirements: {} judged, {} open, {} untestable, {} planned",
        traces.len(),
        count("judged"),
        count("open"),
        count("untestable"),
        count("planned"),
    );
    if code.is_none() {
        text.push_str("The code that meets them is not beside this suite; no citations are shown.\n");
    }
    print(&text)?;
    Ok(ExitCode::Conforms)
}

fn trace_json(trace: &Trace<'_>) -> Value {
    let requirement = trace.requirement;
    json!({
        "id": requirement.id,
        "chapter": requirement.chapter,
        "level": requirement.level,
        "role": requirement.role,
        "profile": requirement.profile,
        "status": trace.status(),
        "untestable": requirement.untestable,
        "text": requirement.text,
        "cases": trace.cases.iter().map(|case| case.name).collect::<Vec<_>>(),
        "citations": trace.citations,
    })
}
