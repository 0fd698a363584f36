//! `BUGS.md`: every bug that a real daemon has shipped leads to what judges it here.

use std::collections::BTreeSet;

use local_daemon_conformance::cases;
use local_daemon_spec::catalogue;
use local_daemon_subject::faults;

/// The words in back quotes.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// What is wrong with one row of the table: number, bug, where, requirements, cases, faults or why there are none.
fn wrongs(row: &str) -> Vec<String> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [number, _, _, requirements, cases, faults] = cells[..] else {
        return vec![format!("{row}: not six cells")];
    };
    let mut wrongs = Vec::new();
    let mut wrong = |what: String| wrongs.push(format!("row {number}: {what}"));
    let ids: Vec<&str> = requirements.split_whitespace().collect();
    for id in ids.iter().filter(|id| catalogue().get(id).is_none()) {
        wrong(format!("no requirement {id}"));
    }
    if ids.is_empty() {
        wrong("no requirement".to_owned());
    }
    for name in names(cases) {
        match cases::get(name) {
            None => wrong(format!("no case {name}")),
            Some(case) if !case.requirements.iter().any(|id| ids.contains(id)) => {
                wrong(format!("{name} covers none of {requirements}"));
            }
            Some(_) => {}
        }
    }
    for name in names(faults) {
        match faults::all().find(|fault| fault.name == name) {
            None => wrong(format!("no fault {name}")),
            Some(fault) if !ids.contains(&fault.requirement()) => {
                wrong(format!("{name} breaks none of {requirements}"));
            }
            Some(_) => {}
        }
    }
    for id in &ids {
        let of_it = |name: &str| faults::all().any(|fault| fault.name == name && fault.requirement() == *id);
        if faults::all().any(|fault| fault.requirement() == *id) && !names(faults).into_iter().any(of_it) {
            wrong(format!("faults break {id}, and none of them is named"));
        }
    }
    // A reason is what is written beside the names, or in their place.
    for (cell, what) in [(cases, "case"), (faults, "fault")] {
        if names(cell).is_empty() && cell.split_whitespace().count() < 4 {
            wrong(format!("neither a {what} nor a reason"));
        }
    }
    wrongs
}

#[test]
fn every_bug_leads_to_requirements_cases_and_faults_or_to_a_reason() {
    let table = include_str!("../../BUGS.md");
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| {
            line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    let numbers: BTreeSet<usize> = rows
        .iter()
        .filter_map(|row| row.trim_matches('|').split('|').next()?.trim().parse().ok())
        .collect();
    assert_eq!(numbers, (1..=37).collect(), "every bug has its row");
    assert_eq!(rows.len(), 37);
    let wrongs: Vec<String> = rows.iter().flat_map(|row| wrongs(row)).collect();
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn a_name_that_leads_nowhere_is_found() {
    let of = |row| wrongs(row).join("\n");
    assert!(
        of("| 1 | x | y | PUB-999 | `publish/loopback-only` | a reason of four words |")
            .contains("no requirement PUB-999")
    );
    let row = "| 1 | x | y | PUB-2 | `publish/loopback-only` `no/such` | |";
    for part in [
        "covers none of PUB-2",
        "no case no/such",
        "neither a fault nor a reason",
    ] {
        assert!(of(row).contains(part), "{part}: {}", of(row));
    }
    assert!(of("| 1 | x | y | PUB-2 | | `PUB-2.no-such` |").contains("no fault PUB-2.no-such"));
    assert!(
        of("| 1 | x | y | PUB-1 | `publish/loopback-only` | a reason of four words |")
            .contains("faults break PUB-1, and none of them is named")
    );
    assert_eq!(of("| 1 | x | y | LIFE-5 | a reason of four words | another of four words |"), "");
}
