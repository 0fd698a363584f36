//! The model against itself, against the machines, and against what stands in `spec/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use local_daemon_model::ablation::ABLATIONS;
use local_daemon_model::automaton::Automaton;
use local_daemon_model::explore::{Report, Search, explore};
use local_daemon_model::machine::{Alphabet, Root, Subject};
use local_daemon_model::property::PROPERTIES;
use local_daemon_model::render;
use local_daemon_model::scenario::{SCENARIOS, Scenario};
use local_daemon_model::world::Setting;

fn spec(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(spec(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const EVERY_BREACH: u16 = u16::MAX;
const STALE_TABLE: &str = "stale: run `local-daemon-model table` in release";
/// Scenarios of more states are left to the binary in release: seconds each.
const SMALL: usize = 60_000;

#[test]
fn each_rule_left_out_has_its_counterexample_and_spec_shows_it() {
    for ablation in ABLATIONS {
        let trace = ablation.counterexample();
        let trace = trace.unwrap_or_else(|| panic!("{} holds without {}", ablation.breaks, ablation.name));
        insta::assert_snapshot!(ablation.name, render::counterexample(ablation, &trace));
        let shown = read(&format!("traces/{}.txt", ablation.name));
        assert_eq!(shown, render::trace_file(ablation, &trace), "stale: run `local-daemon-model boxes`");
    }
    let shown = fs::read_dir(spec("traces")).unwrap().count();
    assert_eq!(shown, ABLATIONS.len(), "a trace that nothing generates");
}

/// The chapters show what the model generates, and nothing that was typed.
#[test]
fn the_chapters_boxes_are_the_models() {
    let trace = |name: &str| Some(read(&format!("traces/{name}.txt")));
    let mut boxes = 0;
    for chapter in fs::read_dir(spec("chapters")).unwrap() {
        let path = chapter.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        boxes += text.matches("\n```trace ").count();
        let filled = render::fill_boxes(&text, trace);
        assert!(filled == text, "{}: stale, run `local-daemon-model boxes`", path.display());
    }
    assert!(boxes >= 3, "the chapters have {boxes} boxes");
}

#[test]
fn with_the_rule_nothing_breaks_where_it_breaks_without() {
    for ablation in ABLATIONS {
        let report = ablation.whole(true);
        assert_eq!(render::verdict(&report), "holds", "{}", ablation.name);
    }
}

/// A property that nothing can break says nothing.
#[test]
fn each_property_breaks_somewhere() {
    let broken: BTreeSet<&str> = ABLATIONS
        .iter()
        .flat_map(|ablation| ablation.whole(false).violations)
        .map(|(property, _)| property.name)
        .collect();
    let all: BTreeSet<&str> = PROPERTIES.iter().map(|property| property.name).collect();
    assert_eq!(broken, all);
}

/// What is taken for one because it differs in names hides nothing: the same properties break, in as many steps.
#[test]
fn symmetry_hides_no_violation() {
    let found = |report: Report| -> Vec<(&str, usize)> {
        let violations = report.violations.into_iter();
        violations
            .map(|(property, trace)| (property.name, if property.is_of_cycles() { 0 } else { trace.len() }))
            .collect()
    };
    for ablation in ABLATIONS {
        let setting = Setting::new(ablation.scenario, EVERY_BREACH);
        let symmetric = explore(&setting, Search::Symmetric);
        let named = explore(&setting, Search::Named);
        assert!(symmetric.states <= named.states, "{}", ablation.name);
        assert_eq!(found(symmetric), found(named), "{}", ablation.name);
    }
}

/// The rows of the table in `spec/` are what the model finds, times left aside; of the big scenarios, that they are
/// these scenarios, and hold.
#[test]
fn the_table_is_up_to_date() {
    let shown = read("model-table.md");
    let mut small = 0;
    let reports: Vec<Report> = SCENARIOS
        .iter()
        .map(|scenario| {
            let cells = shown_cells(&shown, scenario);
            if cells[0] > SMALL {
                return Report {
                    states: cells[0],
                    edges: cells[1] as u64,
                    depth: u32::try_from(cells[2]).unwrap(),
                    cut: cells[3],
                    took: Duration::ZERO,
                    violations: Vec::new(),
                };
            }
            small += 1;
            explore(&Setting::new(*scenario, EVERY_BREACH), Search::Symmetric)
        })
        .collect();
    assert!(small >= 20, "only {small} scenarios are small");
    let found = render::table(&reports);
    for (shown, found) in shown.lines().zip(found.lines()) {
        assert_eq!(without_time(shown), without_time(found), "{STALE_TABLE}");
    }
    assert_eq!(shown.lines().count(), found.lines().count(), "{STALE_TABLE}");
}

/// States, steps, depth and cut worlds, as they stand in the table.
fn shown_cells(table: &str, scenario: &Scenario) -> Vec<usize> {
    let start = format!("| `{}` |", scenario.name);
    let row = table.lines().find(|line| line.starts_with(&start));
    let row = row.unwrap_or_else(|| panic!("{} is not in the table", scenario.name));
    row.split('|').skip(4).take(4).map(|cell| cell.trim().parse().unwrap()).collect()
}

/// A scenario's row without its last cell, every other line as it is.
fn without_time(line: &str) -> String {
    let cells: Vec<&str> = line.split('|').collect();
    let timed = cells.len() == 11 && cells[9].trim().parse::<f64>().is_ok();
    if timed { cells[..9].join("|") } else { line.to_owned() }
}

#[test]
fn the_requirements_that_are_named_are_in_the_chapters() {
    let chapters: String = fs::read_dir(spec("chapters"))
        .unwrap()
        .map(|chapter| fs::read_to_string(chapter.unwrap().path()).unwrap())
        .collect();
    let guarded = PROPERTIES.iter().flat_map(|property| property.guards);
    let left_out = ABLATIONS.iter().flat_map(|ablation| ablation.rules);
    for id in guarded.chain(left_out) {
        assert!(chapters.contains(&format!("- **{id}** ")), "{id} is in no chapter");
    }
}

/// The table of transitions says what the crate's own machines say, on a thousand walks of each.
#[test]
fn the_automaton_is_the_machines() {
    let alphabet = Alphabet {
        ids: 4,
        protocols: 2,
        mixed: false,
        pauses: true,
        torn: true,
        foreign: true,
        places: true,
    };
    let automaton = Automaton::of(alphabet);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut steps = 0;
    for walk in 0..2000 {
        let root = if walk % 2 == 0 {
            Root::Daemon { id: 1, protocol: 1, yields: walk % 4 == 0 }
        } else {
            Root::Call { protocol: 2, spawn: true, replace: false }
        };
        let mut subject = Subject::new(root);
        let mut local = automaton.start(root);
        for _ in 0..60 {
            assert_eq!(automaton.out(local), subject.out(), "{subject:?}");
            let letters = subject.letters(alphabet);
            if letters.is_empty() {
                break;
            }
            let letter = letters[draw(letters.len())];
            subject.hear(letter);
            local = automaton.step(local, letter);
            steps += 1;
        }
    }
    assert!(steps > 10_000, "the walks end too soon: {steps} steps");
}
