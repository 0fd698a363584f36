//! The threat model, line by line: whatever holds against an attack is seen by a case and broken by a fault.

use std::collections::BTreeSet;

use local_daemon_conformance::cases;
use local_daemon_spec::{catalogue, chapters};
use local_daemon_subject::faults;

/// Where nothing is promised, or only what is planned.
const UNHELD: [&str; 5] = [
    // How long a comparison takes is not seen from outside: `ci/bench timing` measures it.
    "Guesses",
    // The same user reads what it likes.
    "`/proc/PID/mem` and debuggers",
    // Chapters 13, 14 and 15, which no case judges yet.
    "A successor's socket removed",
    "Lines smuggled into the hosts file",
    "Unit files",
];

/// The ids in a text; `HS-6 to HS-8` are three.
fn ids(text: &str) -> Vec<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| !word.is_empty())
        .collect();
    let split = |word: &str| {
        let (prefix, number) = word.split_once('-')?;
        let upper = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_uppercase());
        Some((prefix.to_owned(), number.parse::<u32>().ok().filter(|_| upper)?))
    };
    let mut ids = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let Some((prefix, number)) = split(word) else {
            continue;
        };
        let range = place >= 2 && words[place - 1] == "to";
        let from = range.then(|| split(words[place - 2])).flatten();
        let first = from.filter(|(of, _)| *of == prefix).map_or(number, |(_, first)| first + 1);
        ids.extend((first..=number).map(|number| format!("{prefix}-{number}")));
    }
    ids
}

/// The rows of the tables that say what holds: the attack, and what.
fn rows(chapter: &str) -> Vec<(&str, &str)> {
    let mut holds = false;
    let mut rows = Vec::new();
    for line in chapter.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            [_, "What holds", _] => holds = true,
            [attack, what, _] if holds && !attack.starts_with("---") => rows.push((attack, what)),
            [_, _, _] => {}
            _ => holds = false,
        }
    }
    rows
}

/// What keeps a row from being held.
fn wrong(attack: &str, what: &str) -> Option<String> {
    let ids = ids(what);
    if let Some(id) = ids.iter().find(|id| catalogue().get(id).is_none()) {
        return Some(format!("{attack}: there is no {id}"));
    }
    let seen = |id: &String| cases::all().any(|case| case.requirements.contains(&id.as_str()));
    let broken = |id: &String| faults::all().any(|fault| fault.requirement() == *id);
    let held = ids.iter().any(|id| seen(id) && broken(id));
    (held == UNHELD.contains(&attack)).then(|| format!("{attack}: {what}: held: {held}"))
}

#[test]
fn every_attack_meets_what_a_case_sees_and_a_fault_breaks() {
    let rows = rows(chapters::get("17-threat-model").unwrap());
    assert!(rows.len() > 30, "{}", rows.len());
    let attacks: BTreeSet<&str> = rows.iter().map(|(attack, _)| *attack).collect();
    assert!(UNHELD.iter().all(|attack| attacks.contains(attack)));
    let wrongs: Vec<String> = rows.iter().filter_map(|(attack, what)| wrong(attack, what)).collect();
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn a_line_that_nothing_holds_is_found() {
    assert_eq!(ids("proof: HS-25 to HS-27; and CRED-8, I/O"), ["HS-25", "HS-26", "HS-27", "CRED-8"]);
    assert_eq!(
        rows("| A | What holds | N |\n|---|---|---|\n| x | HS-6 | – |\n\n| x | y | z |"),
        [("x", "HS-6")]
    );
    assert!(wrong("x", "HS-6").is_none());
    assert!(wrong("x", "HS-999").unwrap().contains("no HS-999"));
    assert!(wrong("x", "nothing").unwrap().contains("held: false"));
    assert!(wrong("Unit files", "LIFE-30").is_none());
    assert!(wrong("Unit files", "HS-6").unwrap().contains("held: true"));
}
