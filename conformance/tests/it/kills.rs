//! `KILLS.md`, where it is written, is of the faults and the cases that there are.

use std::collections::BTreeSet;
use std::path::Path;

use local_daemon_conformance::case::Case;
use local_daemon_conformance::cases;
use local_daemon_subject::faults;

/// The names in back quotes with which lines begin behind `mark`.
fn names<'a>(text: &'a str, mark: &str) -> BTreeSet<&'a str> {
    text.lines()
        .filter_map(|line| Some(line.strip_prefix(mark)?.strip_prefix('`')?.split_once('`')?.0))
        .collect()
}

/// What in the text of the file is no longer so.
fn stale(text: &str) -> Vec<String> {
    let (cases_in_it, faults_in_it): (BTreeSet<&str>, BTreeSet<&str>) =
        names(text, "| ").into_iter().partition(|name| name.contains('/'));
    // What shows in pages alone is none of the matrix.
    let shows = |requirement| {
        let mut cases = cases::all().filter(|case| case.engine.is_none());
        cases.any(|case| case.requirements.contains(&requirement))
    };
    let faults = faults::all().filter(|fault| shows(fault.requirement()));
    let faults: BTreeSet<&str> = faults.map(|fault| fault.name).collect();
    // Those that some fault is about and that need no browser; the others are none of the matrix.
    let takes_part = |case: &&Case| {
        case.engine.is_none() && faults::all().any(|fault| case.requirements.contains(&fault.requirement()))
    };
    let cases: BTreeSet<&str> = cases::all().filter(takes_part).map(|case| case.name).collect();
    // A case that cannot judge on the host that wrote the file stands in a list of its own.
    let idle = names(text, "- ");

    let mut stale = Vec::new();
    let mut tell = |what: &str, names: BTreeSet<&str>| {
        stale.extend(names.iter().map(|name| format!("{name} {what}")));
    };
    tell("is not in it", &faults - &faults_in_it);
    tell("is a fault no longer", &faults_in_it - &faults);
    tell("is not in it", &(&cases - &cases_in_it) - &idle);
    tell("is a case no longer", &cases_in_it - &cases);
    let whole =
        format!("**{0}** of {0} faults are killed (100 %), 0 survive, 0 cannot be judged", faults.len());
    if !text.contains(&whole) {
        stale.push(format!("it does not say: {whole}"));
    }
    if text.contains("## Cases that kill nothing of their own") {
        stale.push("a case is superfluous".to_owned());
    }
    stale
}

#[test]
fn the_file_is_of_these_faults_and_these_cases() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("KILLS.md");
    // It is made and committed as a whole, and until then there is nothing to be stale.
    let Ok(text) = std::fs::read_to_string(file) else {
        return;
    };
    let stale = stale(&text);
    assert!(
        stale.is_empty(),
        "conformance/KILLS.md is out of date; `ci/kills` writes it anew:\n{}",
        stale.join("\n")
    );
}

#[test]
fn what_is_missing_gone_or_alive_is_found() {
    let text = "**1** of 2 faults are killed (50 %), 1 survive, 0 cannot be judged here\n\
                | `PUB-3.no-such` | is wrong | `publish/no-such` |\n\
                | `publish/no-such` | 1 | `PUB-3.no-such` |\n\
                - `publish/loopback-only`: untestable\n\
                ## Cases that kill nothing of their own";
    let stale = stale(text).join("\n");
    for part in [
        "PUB-3.in-place is not in it",
        "PUB-3.no-such is a fault no longer",
        "publish/answers-from-the-first-instant is not in it",
        "publish/no-such is a case no longer",
        "faults are killed (100 %), 0 survive",
        "a case is superfluous",
    ] {
        assert!(stale.contains(part), "{part}\n---\n{stale}");
    }
    assert!(!stale.contains("publish/loopback-only"), "{stale}");
}
