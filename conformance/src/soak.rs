//! A daemon under load and under faults, for as long as wanted: what the suite's cases look at once, looked at a thousand
//! times, by chance and all at the same time.
//!
//! One daemon serves requests for the whole time (load), and is struck meanwhile by what it has to outlive.
//! Beside it others are started and broken in ways that they may die of; then the next start has to recover.

mod connections;
mod faults;
mod load;
mod strikes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::case::Case;
use crate::manifest::Manifest;
use crate::report::terminal::clean;
use crate::rng::Rng;
use crate::runner::{Stopper, run_case};
use crate::verdict::{ExitCode, Verdict};

pub use load::Load;

/// Name and version of the JSON form, whose schema is `spec/schemas/soak.schema.json`.
pub const SCHEMA: &str = "local-daemon-conformance-soak/1";

/// How one kind of fault went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// How often it was done and everything was as it has to be.
    pub held: u64,
    /// How often it was not.
    pub failed: u64,
    /// How often it could not be done, or came to nothing.
    pub unseen: u64,
    /// What was seen where something failed, and why nothing was: the first few that differ.
    pub seen: Vec<String>,
}

/// All that was seen.
#[derive(Debug, Serialize)]
pub struct Soak {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The suite's own version.
    pub suite_version: &'static str,
    /// Whose daemon.
    pub subject: String,
    /// The seed of every random choice.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    /// The daemon that served all the time; absent where it never became ready.
    pub load: Option<Load>,
    /// Why there is no [`load`](Self::load), or what it ended by.
    pub problem: Option<String>,
    /// By the fault's name.
    pub faults: BTreeMap<&'static str, Tally>,
}

/// What to do, and for how long.
#[derive(Debug)]
pub struct Plan {
    /// How long.
    pub time: Duration,
    /// The seed of every random choice.
    pub seed: u64,
    /// Which faults, of [`names`].
    pub faults: BTreeSet<&'static str>,
}

/// The names of all faults.
pub fn names() -> BTreeSet<&'static str> {
    let strikes = strikes::STRIKES.iter().map(|(name, _)| *name);
    faults::DRAWN.iter().map(|case| case.name).chain(strikes).collect()
}

/// Loads and breaks `manifest`'s daemon; `tell` is called with the name of each fault that was done.
pub fn run(manifest: &Manifest, plan: &Plan, stopper: &Stopper, tell: impl Fn(&str) + Sync) -> Soak {
    let began = Instant::now();
    let (end, seed) = (began + plan.time, plan.seed);
    let manifest = Arc::new(manifest.clone());
    let mut faults: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let (loaded, struck) = std::thread::scope(|scope| {
        let loaded = scope.spawn(|| load::run(&manifest, plan, end, stopper, &tell));
        let drawn = faults::DRAWN.iter().copied();
        let drawn: Vec<&Case> = drawn.filter(|case| plan.faults.contains(case.name)).collect();
        let mut rng = Rng::new(seed, "soak");
        let mut round = 0;
        while !drawn.is_empty() && Instant::now() < end && !stopper.is_stopped() {
            let case = *rng.pick(&drawn);
            round += 1;
            let Some(result) = run_case(case, &manifest, seed.wrapping_add(round), stopper) else {
                break;
            };
            tell(case.name);
            note(&mut faults, case.name, result.verdict, result.observed);
        }
        loaded.join().unwrap_or_else(|_| (Err("the load panicked".to_owned()), Vec::new()))
    });
    for (name, verdict, observed) in struck {
        note(&mut faults, name, verdict, observed);
    }
    let (load, problem) = match loaded {
        Ok(load) => (Some(load), None),
        Err(problem) => (None, Some(problem)),
    };
    Soak {
        schema: SCHEMA,
        suite_version: env!("CARGO_PKG_VERSION"),
        subject: manifest.subject.name.clone(),
        seed,
        seconds: began.elapsed().as_secs(),
        load,
        problem,
        faults,
    }
}

/// How many texts of one kind are kept.
const MOST_TEXTS: usize = 5;

fn note(
    faults: &mut BTreeMap<&'static str, Tally>,
    name: &'static str,
    verdict: Verdict,
    observed: Option<String>,
) {
    let tally = faults.entry(name).or_default();
    match verdict {
        Verdict::Pass => {
            tally.held += 1;
            return;
        }
        Verdict::Fail | Verdict::Warn => tally.failed += 1,
        _ => tally.unseen += 1,
    }
    let seen = format!("{}: {}", verdict.as_str(), observed.unwrap_or_default());
    if tally.seen.len() < MOST_TEXTS && !tally.seen.contains(&seen) {
        tally.seen.push(seen);
    }
}

impl Soak {
    /// How many faults were done, whatever came of them.
    pub fn done(&self) -> u64 {
        self.faults.values().map(|tally| tally.held + tally.failed).sum()
    }

    /// What to exit with.
    pub fn exit_code(&self) -> ExitCode {
        let any = |count: fn(&Tally) -> u64| self.faults.values().any(|tally| count(tally) > 0);
        let holds = self.load.as_ref().is_some_and(Load::holds);
        if any(|tally| tally.failed) || !holds {
            ExitCode::DoesNotConform
        } else if any(|tally| tally.unseen) {
            ExitCode::Undecided
        } else {
            ExitCode::Conforms
        }
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has string keys only") + "\n"
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, tally) in &self.faults {
            let Tally { held, failed, unseen, seen } = tally;
            let _ = writeln!(text, "{name:<28} {held:>6} held {failed:>4} failed {unseen:>4} not seen");
            for seen in seen {
                let _ = writeln!(text, "    {}", clean(seen));
            }
        }
        if let Some(problem) = &self.problem {
            let _ = writeln!(text, "\nno load: {}", clean(problem));
        }
        if let Some(load) = &self.load {
            text.push('\n');
            load.tell(&mut text);
        }
        let _ = writeln!(text, "faults: {}, {} s, seed {}", self.done(), self.seconds, self.seed);
        text
    }
}
