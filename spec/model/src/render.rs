//! Traces and the table, for people.

use std::fmt::Write;

use crate::ablation::{ABLATIONS, Ablation};
use crate::explore::{Report, Trace};
use crate::property::PROPERTIES;
use crate::scenario::{SCENARIOS, Scenario};
use crate::world::{Action, Log, Setting, World};

/// A trace, one numbered line per step: who, what, and whose record is there then.
pub fn trace(setting: &Setting, trace: &Trace) -> String {
    let mut world = setting.initial();
    let mut lines = Vec::new();
    walk(setting, &mut world, &trace.steps, &mut lines);
    if !trace.cycle.is_empty() {
        lines.push(("     and then, for ever:".to_owned(), None));
        walk(setting, &mut world, &trace.cycle, &mut lines);
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, record) in lines {
        match record {
            Some(record) => push(&mut text, format_args!("{line:<width$}   record={record}\n")),
            None => push(&mut text, format_args!("{line}\n")),
        }
    }
    text
}

fn walk(setting: &Setting, world: &mut World, actions: &[Action], lines: &mut Vec<(String, Option<String>)>) {
    for action in actions {
        let mut log = Log::kept();
        let possible = setting.act(world, *action, &mut log);
        debug_assert!(possible, "a trace of this setting");
        let number = 1 + lines.iter().filter(|(_, record)| record.is_some()).count();
        let line = format!("{number:3}. {:<5}{}", action.who(), log.said());
        lines.push((line, Some(setting.record(world))));
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

/// What is shown of a rule that is left out: what is done instead, what breaks, and how.
pub fn counterexample(ablation: &Ablation, found: &Trace) -> String {
    let property = ablation.property();
    let mut text = String::new();
    push(&mut text, format_args!("{} ({})\n", ablation.name, ablation.rules.join(", ")));
    push(&mut text, format_args!("Instead of the rule: {}\n", ablation.instead));
    push(
        &mut text,
        format_args!("What breaks: {}. {} ({})\n", property.name, property.says, property.guards.join(", ")),
    );
    let scenario = &ablation.scenario;
    push(&mut text, format_args!("Scenario: {}; {}\n\n", scenario.cast(), scenario.conditions()));
    text.push_str(&trace(&ablation.setting(), found));
    text
}

/// A chapter with its boxes filled: the content of each fenced block whose info string is `trace NAME` is the numbered
/// steps of that trace. A name that `counterexample` does not know leaves its block as it is.
pub fn fill_boxes(chapter: &str, counterexample: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(chapter.len());
    let mut lines = chapter.lines();
    while let Some(line) = lines.next() {
        push(&mut filled, format_args!("{line}\n"));
        let Some(text) = line.strip_prefix("```trace ").and_then(&counterexample) else {
            continue;
        };
        let is_step = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
        for step in text.lines().filter(is_step) {
            push(&mut filled, format_args!("{}\n", step.trim_end()));
        }
        if let Some(end) = lines.by_ref().find(|line| line.starts_with("```")) {
            push(&mut filled, format_args!("{end}\n"));
        }
    }
    filled
}

/// One scenario's row of the table; its time stands last, so that it can be left aside.
pub fn scenario_row(scenario: &Scenario, report: &Report) -> String {
    let verdict = verdict(report);
    let (cast, conditions) = (scenario.cast(), scenario.conditions());
    format!(
        "| `{}` | {cast} | {conditions} | {} | {} | {} | {} | {verdict} | {:.1} |",
        scenario.name,
        report.states,
        report.edges,
        report.depth,
        report.cut,
        report.took.as_secs_f64()
    )
}

/// What an exploration found, in a word or two.
pub fn verdict(report: &Report) -> String {
    if report.violations.is_empty() {
        return "holds".to_owned();
    }
    let names: Vec<_> = report.violations.iter().map(|(property, _)| property.name).collect();
    names.join(", ")
}

/// One left-out rule's row of the matrix: in how many steps each property breaks.
pub fn ablation_row(ablation: &Ablation) -> String {
    let without = ablation.whole(false);
    let with = ablation.whole(true);
    let mut row = format!("| `{}` | {} |", ablation.name, ablation.rules.join(", "));
    for property in PROPERTIES {
        let broken = without.violations.iter().find(|(other, _)| other.name == property.name);
        match broken {
            Some((_, trace)) if property.name == ablation.breaks => {
                push(&mut row, format_args!(" **{}** |", trace.len()));
            }
            Some((_, trace)) => push(&mut row, format_args!(" {} |", trace.len())),
            None => row.push_str(" · |"),
        }
    }
    push(&mut row, format_args!(" {} | {} | {} |", without.states, with.states, verdict(&with)));
    row
}

/// The whole table; `reports` are those of [`SCENARIOS`], in their order.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "# What the model explored\n\n\
         Generated by `cargo run --release -p local-daemon-model -- table`; do not edit. A test compares it with what the \
         model finds, times left aside.\n\n\
         ## Properties\n\n| | Property | Guards | What it says |\n|---|---|---|---|\n",
    );
    for (number, property) in PROPERTIES.iter().enumerate() {
        let guards = property.guards.join(", ");
        push(
            &mut text,
            format_args!("| P{} | `{}` | {guards} | {} |\n", number + 1, property.name, property.says),
        );
    }
    text.push_str(
        "\n## Scenarios, with every rule in place\n\n\
         Each is explored whole, for every property; worlds that differ only in the names of daemons and clients count \
         once. Cut are those at which another daemon was wanted than the scenario has room for.\n\n\
         | Scenario | Who | What else, what goes wrong | States | Steps | Depth | Cut | Properties | Seconds |\n\
         |---|---|---|--:|--:|--:|--:|---|--:|\n",
    );
    for (scenario, report) in SCENARIOS.iter().zip(reports) {
        push(&mut text, format_args!("{}\n", scenario_row(scenario, report)));
    }
    text.push_str(
        "\n## Rules left out\n\n\
         In how many steps each property breaks, at least, when one rule is left out; in bold the one whose trace stands in \
         `spec/traces/`. The last columns: states without the rule, with it, and what holds with it.\n\n| Rule left out | |",
    );
    for number in 1..=PROPERTIES.len() {
        push(&mut text, format_args!(" P{number} |"));
    }
    text.push_str(" Without | With | With it |\n|---|---|");
    text.push_str(&"--:|".repeat(PROPERTIES.len() + 2));
    text.push_str("---|\n");
    for ablation in ABLATIONS {
        push(&mut text, format_args!("{}\n", ablation_row(ablation)));
    }
    text
}
