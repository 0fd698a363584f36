//! Explores the protocol's machines: `check`, `ablate`, `show`, `table`, `boxes`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use std::{fs, io};

use clap::{Parser, Subcommand};
use local_daemon_model::ablation::{ABLATIONS, ablation};
use local_daemon_model::admit::{self, Verdict};
use local_daemon_model::explore::{Report, Search, explore};
use local_daemon_model::observed::Observed;
use local_daemon_model::property::PROPERTIES;
use local_daemon_model::render;
use local_daemon_model::scenario::{SCENARIOS, Scenario, scenario};
use local_daemon_model::world::Setting;
use serde_json::{Value, json};

/// Explores the machines that daemons and clients of the Local Daemon Protocol run.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 as it must be, 1 a violation where there must be none, none where there must be one, a \
                  refused trace, or a file that cannot be written, 2 usage, 3 a trace that is no trace, 4 one that is \
                  outside the model."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Explore the scenarios with every rule in place: nothing may be violated.
    Check {
        /// Only this one.
        #[arg(long, value_name = "NAME")]
        scenario: Option<String>,
        /// How many at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Leave out one rule after the other: each must be missed.
    Ablate {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the shortest trace of what goes wrong without a rule.
    Show {
        /// Such as `literal-removal`; `ablate` lists them.
        trace: String,
    },
    /// Write `spec/model-table.md` anew.
    Table {
        /// The folder of the specification.
        #[arg(long, value_name = "DIR", default_value = SPECIFICATION)]
        spec: PathBuf,
        /// How many scenarios at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Judge whether the machines can have done what a suite saw of a run (`daemonspec run --check-trace` asks it).
    Admits {
        /// `spec/schemas/observed-trace.schema.json`; `-` is standard input.
        trace: PathBuf,
    },
    /// Write `spec/traces/` anew, and the boxes of the chapters that show them.
    Boxes {
        /// The folder of the specification.
        #[arg(long, value_name = "DIR", default_value = SPECIFICATION)]
        spec: PathBuf,
    },
}

const SPECIFICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const WRONG: u8 = 1;
const USAGE: u8 = 2;
const NO_TRACE: u8 = 3;
const OUTSIDE: u8 = 4;

fn main() -> ExitCode {
    let status = match Arguments::parse().command {
        Command::Check { scenario: None, jobs, json } => check(SCENARIOS, jobs, json),
        Command::Check { scenario: Some(name), jobs, json } => match scenario(&name) {
            Some(found) => check(std::slice::from_ref(found), jobs, json),
            None => unknown("scenario", &name, SCENARIOS.iter().map(|scenario| scenario.name)),
        },
        Command::Ablate { json } => ablate(json),
        Command::Show { trace } => show(&trace),
        Command::Table { spec, jobs } => {
            let mut reports = Vec::new();
            explore_all(SCENARIOS, jobs, |_, report| reports.push(report));
            written(fs::write(spec.join("model-table.md"), render::table(&reports)), &spec)
        }
        Command::Boxes { spec } => boxes(&spec),
        Command::Admits { trace } => admits(&trace),
    };
    ExitCode::from(status)
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> u8 {
    eprintln!("there is no {what} {name}; there are:");
    for name in known {
        eprintln!("  {name}");
    }
    USAGE
}

fn written(result: io::Result<()>, path: &Path) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            WRONG
        }
    }
}

/// Explores some at once and hands the reports over in order, each as soon as those before it are there.
fn explore_all(scenarios: &[Scenario], jobs: usize, mut each: impl FnMut(&Scenario, Report)) {
    let every = PROPERTIES.iter().fold(0, |all, property| all | property.breach);
    // The long ones first, so that the last is not left alone.
    let mut order: Vec<usize> = (0..scenarios.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(weight(&scenarios[*index])));
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next, order) = (sender.clone(), &next, &order);
            scope.spawn(move || {
                while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = explore(&Setting::new(scenarios[*index], every), Search::Symmetric);
                    // The receiver outlives the threads.
                    let _ = sender.send((*index, report));
                }
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = 0;
        for (index, report) in receiver {
            waiting.insert(index, report);
            while let Some(report) = waiting.remove(&due) {
                each(&scenarios[due], report);
                due += 1;
            }
        }
    });
}

fn weight(scenario: &Scenario) -> usize {
    let faults = scenario.faults;
    let faults = usize::from(faults.crash + faults.pause + faults.stop + faults.remove);
    (1 + scenario.clients.len() * 2 + scenario.daemons.len()) * (1 + faults)
}

fn check(scenarios: &[Scenario], jobs: usize, json: bool) -> u8 {
    let began = Instant::now();
    let mut violated = 0;
    let mut all: Vec<Value> = Vec::new();
    let (mut states, mut edges) = (0, 0);
    if !json {
        println!(
            "{:<50}{:>10}{:>11}{:>7}{:>8}{:>9}  properties",
            "scenario", "states", "steps", "depth", "cut", "seconds"
        );
    }
    explore_all(scenarios, jobs, |scenario, report| {
        violated += usize::from(!report.violations.is_empty());
        states += report.states;
        edges += report.edges;
        let seconds = report.took.as_secs_f64();
        if json {
            all.push(json!({
                "scenario": scenario.name,
                "states": report.states,
                "steps": report.edges,
                "depth": report.depth,
                "cut": report.cut,
                "seconds": seconds,
                "violations": violations(&report),
            }));
            return;
        }
        println!(
            "{:<50}{:>10}{:>11}{:>7}{:>8}{seconds:>9.2}  {}",
            scenario.name,
            report.states,
            report.edges,
            report.depth,
            report.cut,
            render::verdict(&report)
        );
        for (property, _) in &report.violations {
            // The same again with names kept, for a trace that can be read.
            let setting = Setting::new(*scenario, property.breach);
            for (_, trace) in explore(&setting, Search::Until(property.name)).violations {
                println!("{}", render::trace(&setting, &trace));
            }
        }
    });
    if json {
        println!("{:#}", Value::Array(all));
    } else {
        println!(
            "{} scenarios, {} properties, {states} states, {edges} steps, {:.1} s: {}",
            scenarios.len(),
            PROPERTIES.len(),
            began.elapsed().as_secs_f64(),
            if violated == 0 {
                "all hold".to_owned()
            } else {
                format!("violations in {violated}")
            }
        );
    }
    if violated == 0 { 0 } else { WRONG }
}

fn violations(report: &Report) -> Value {
    let violation =
        |(property, trace): &(
            &local_daemon_model::property::Property,
            local_daemon_model::explore::Trace,
        )| { json!({"property": property.name, "guards": property.guards, "steps": trace.len()}) };
    report.violations.iter().map(violation).collect()
}

fn ablate(json: bool) -> u8 {
    let mut unmissed = 0;
    let mut all: Vec<Value> = Vec::new();
    if !json {
        println!("{:<26}{:<20}{:<24}{:>7}{:>9}", "rule left out", "stated by", "breaks", "steps", "states");
    }
    for ablation in ABLATIONS {
        let report = ablation.search();
        let steps = report.violations.first().map(|(_, trace)| trace.len());
        unmissed += usize::from(steps.is_none());
        if json {
            all.push(json!({
                "rule": ablation.name,
                "instead": ablation.instead,
                "requirements": ablation.rules,
                "breaks": ablation.breaks,
                "steps": steps,
                "states": report.states,
            }));
        } else {
            let length = steps.map_or_else(|| "holds!".to_owned(), |steps| steps.to_string());
            println!(
                "{:<26}{:<20}{:<24}{length:>7}{:>9}",
                ablation.name,
                ablation.rules.join(", "),
                ablation.breaks,
                report.states
            );
        }
    }
    if json {
        println!("{:#}", Value::Array(all));
    } else {
        println!(
            "{} rules left out, {} missed; `show NAME` prints a trace",
            ABLATIONS.len(),
            ABLATIONS.len() - unmissed
        );
    }
    if unmissed == 0 { 0 } else { WRONG }
}

fn show(name: &str) -> u8 {
    let Some(ablation) = ablation(name) else {
        return unknown("trace", name, ABLATIONS.iter().map(|ablation| ablation.name));
    };
    if let Some(trace) = ablation.counterexample() {
        print!("{}", render::counterexample(ablation, &trace));
        return 0;
    }
    eprintln!("{} holds without {name}", ablation.breaks);
    WRONG
}

fn admits(path: &Path) -> u8 {
    let text = if path.as_os_str() == "-" {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(path)
    };
    let observed = text.map_err(|error| error.to_string()).and_then(|text| Observed::parse(&text));
    match observed {
        Ok(observed) => {
            let verdict = admit::admits(&observed);
            println!("{verdict}");
            match verdict {
                Verdict::Admitted => 0,
                Verdict::Refused { .. } => WRONG,
                Verdict::Outside(_) => OUTSIDE,
            }
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            NO_TRACE
        }
    }
}

fn boxes(spec: &Path) -> u8 {
    let folder = spec.join("traces");
    let write = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        for ablation in ABLATIONS {
            let trace = ablation.counterexample().ok_or_else(|| {
                io::Error::other(format!("{} holds without {}", ablation.breaks, ablation.name))
            })?;
            let text = render::trace_file(ablation, &trace);
            fs::write(folder.join(format!("{}.txt", ablation.name)), text)?;
        }
        let chapters = spec.join("chapters");
        if chapters.is_dir() {
            for chapter in fs::read_dir(chapters)? {
                let path = chapter?.path();
                let text = fs::read_to_string(&path)?;
                let filled = render::fill_boxes(&text, |name| {
                    fs::read_to_string(folder.join(format!("{name}.txt"))).ok()
                });
                if filled != text {
                    fs::write(&path, filled)?;
                }
            }
        }
        Ok(())
    };
    written(write(), &folder)
}
