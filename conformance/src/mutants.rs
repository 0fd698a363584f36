//! The suite is judged: every fault of a subject, and which cases find it out.
//!
//! # What counts as a kill
//!
//! A fault breaks one requirement. A case kills it if the case lists that requirement and its verdict is the one that
//! a violation of the requirement has: `fail` for a MUST, `warn` or `fail` for a recommendation. Of the ways in which a
//! case ends, therefore:
//!
//! - a violation that was seen after a precondition, and a process that was left behind where that is judged, count;
//! - a subject that was [never ready](crate::outcome::Stop::NotReady) counts if a plain start of it, in an empty home,
//!   does become ready, so that what the case arranged made the difference, or if the requirement is one of those that
//!   readiness itself consists of ([`READINESS`]). A subject that never works fails every case, and that shows nothing;
//! - `inconclusive`, `untestable`, `not-applicable` and `harness-error`, an overrun deadline among them, do not.
//!
//! A case counts only if the subject without a fault passes it: [`judge`] looks at that first, and goes on without the
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use local_daemon_spec::{Requirement, Role, catalogue};
use local_daemon_subject::faults::Fault;
use serde::Serialize;

use crate::case::Case;
use crate::engines::Engines;
use crate::manifest::Manifest;
use crate::report::CaseResult;
use crate::rng::Rng;
use crate::runner::{self, Stopper, Task};
use crate::stage::READINESS;
use crate::verdict::Verdict;

mod render;

/// Name and version of the JSON form, whose schema is `spec/schemas/kills.schema.json`.
pub const SCHEMA: &str = "local-daemon-conformance-kills/1";

/// A plain start, for the faults whose only accusation is that the subject was not ready.
static PLAIN_START: Case =
    Case::new("mutants/plain-start", &["PUB-4"], "The subject is started in an empty home.", |stage| {
        stage.launch_ready().map(drop)
    });

/// What to judge the suite by.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The subject without a fault; `--fault NAME` at the end of its commands gives it one.
    pub manifest: Manifest,
    /// The faults.
    pub faults: Vec<&'static Fault>,
    /// The cases that may kill.
    pub cases: Vec<&'static Case>,
    /// Whether every case runs against every fault, and not only those that list the broken requirement. What the others
    /// find is shown and kills nothing.
    pub all: bool,
    /// Whether these are all faults: only then can a case be called superfluous.
    pub whole: bool,
    /// How many cases run at the same time, at least 1.
    pub jobs: usize,
    /// The seed of every random choice.
    pub seed: u64,
    /// The browsers.
    pub engines: Engines,
}

/// One case against one fault.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The case's name.
    pub case: &'static str,
    /// What it came to.
    pub verdict: Verdict,
    /// Whether it lists the broken requirement.
    pub covers: bool,
    /// Whether this is a kill.
    pub kills: bool,
    /// Whether it ended because the subject was not ready.
    pub never_ready: bool,
    /// How long it took.
    pub duration_ms: u64,
    /// What was seen.
    pub observed: Option<String>,
}

/// What becomes of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// At least one case kills it.
    Killed,
    /// No case does: the suite is too weak, or the fault breaks nothing.
    Survived,
    /// There are cases, and this host or this subject lets none of them judge.
    Unjudged,
}

/// One fault against its cases.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `ID.shape`.
    pub fault: &'static str,
    /// What the programmer did.
    pub about: &'static str,
    /// The requirement that it breaks.
    pub requirement: &'static str,
    /// What became of it.
    pub fate: Fate,
    /// Why it is not killed, where that is known.
    pub why: Option<String>,
    /// In the order of the cases.
    pub cells: Vec<Cell>,
}

impl Row {
    /// The cases that kill it.
    pub fn killers(&self) -> impl Iterator<Item = &'static str> {
        self.cells.iter().filter(|cell| cell.kills).map(|cell| cell.case)
    }
}

/// What one case is good for.
#[derive(Debug, Clone, Serialize)]
pub struct Worth {
    /// The case's name.
    pub case: &'static str,
    /// The faults that it kills.
    pub kills: Vec<&'static str>,
    /// Those of them that nothing else kills: without the case they would survive.
    pub alone: Vec<&'static str>,
}

/// Fault × case.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The suite's own version.
    pub suite_version: &'static str,
    /// The seed of every random choice.
    pub seed: u64,
    /// Whether every fault took part.
    pub whole: bool,
    /// Whether every task has a result.
    pub complete: bool,
    /// How many faults were looked at, and what became of them.
    pub score: Score,
    /// In the order of the faults.
    pub faults: Vec<Row>,
    /// In the order of the cases.
    pub cases: Vec<Worth>,
    /// Cases that the subject without a fault does not pass here and is not accused by: they judge nothing.
    pub idle: Vec<Idle>,
    /// What accuses the subject without a fault, or comes to no verdict on it: the matrix is not to be relied on.
    pub unclean: Vec<CaseResult>,
    /// Cases of claimed profiles whose requirements no fault breaks.
    pub untried: Vec<&'static str>,
}

/// A case that cannot judge here.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// The case's name.
    pub case: &'static str,
    /// `untestable`, `not-applicable` or `warn`.
    pub verdict: Verdict,
    /// Why.
    pub why: Option<String>,
}

/// How many faults have which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are the fates")]
pub struct Score {
    pub faults: usize,
    pub killed: usize,
    pub survived: usize,
    pub unjudged: usize,
}

/// What [`judge`] tells as it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// So many tasks lie ahead: the subject without a fault, or the faults.
    Ahead(usize),
    /// One of them has its result: the fault and the case.
    Done(Option<&'a str>, &'a CaseResult),
}

/// At most `most` faults of each chapter and role, drawn by the seed, in the order of `faults`.
pub fn sample(faults: &[&'static Fault], most: usize, seed: u64) -> Vec<&'static Fault> {
    let mut strata: BTreeMap<(String, Option<Role>), Vec<usize>> = BTreeMap::new();
    for (place, fault) in faults.iter().enumerate() {
        let requirement = catalogue().get(fault.requirement());
        let chapter = requirement.map(|requirement| requirement.chapter.clone());
        let stratum = (chapter.unwrap_or_default(), requirement.map(|requirement| requirement.role));
        strata.entry(stratum).or_default().push(place);
    }
    let mut drawn = BTreeSet::new();
    for ((chapter, role), mut places) in strata {
        let mut rng = Rng::new(seed, &format!("{chapter} {}", role.map_or("", Role::as_str)));
        for _ in 0..most.min(places.len()) {
            let place = usize::try_from(rng.below(places.len() as u64)).expect("an index of a vector fits");
            drawn.insert(places.swap_remove(place));
        }
    }
    drawn.into_iter().map(|place| faults[place]).collect()
}

/// Runs the subject without a fault, then with each one; nothing if it was stopped before the first fault.
pub fn judge(
    plan: &Plan,
    stopper: &Stopper,
    mut progress: impl FnMut(Progress<'_>) + Send,
) -> Option<Matrix> {
    let covers = |fault: &Fault, case: &Case| case.requirements.contains(&fault.requirement());
    let concerned = |case: &&'static Case| plan.all || plan.faults.iter().any(|fault| covers(fault, case));
    let cases: Vec<&'static Case> = plan.cases.iter().copied().filter(concerned).collect();
    progress(Progress::Ahead(cases.len()));
    let clean_plan = runner::Plan {
        manifest: Arc::new(plan.manifest.clone()),
        cases: cases.clone(),
        jobs: plan.jobs,
        seed: plan.seed,
        engines: plan.engines.clone(),
        checker: None,
    };
    let clean = runner::run(&clean_plan, stopper, |result| {
        progress(Progress::Done(None, result));
    });
    if clean.len() < cases.len() {
        return None;
    }
    let broken = |verdict| matches!(verdict, Verdict::Fail | Verdict::Inconclusive | Verdict::HarnessError);
    let (passed, others): (Vec<_>, Vec<_>) =
        clean.into_iter().partition(|result| result.verdict == Verdict::Pass);
    let (unclean, idle): (Vec<_>, Vec<_>) = others.into_iter().partition(|result| broken(result.verdict));
    let idle = idle.into_iter().map(|result| Idle {
        case: result.case,
        verdict: result.verdict,
        why: result.observed,
    });
    let took: BTreeMap<&str, u64> = passed.iter().map(|result| (result.case, result.duration_ms)).collect();
    let able: Vec<&'static Case> = cases.into_iter().filter(|case| took.contains_key(case.name)).collect();

    let manifests: Vec<Arc<Manifest>> = plan
        .faults
        .iter()
        .map(|fault| Arc::new(plan.manifest.with_args(&["--fault", fault.name])))
        .collect();
    let mut pairs: Vec<(usize, &'static Case)> = (0..plan.faults.len())
        .flat_map(|place| able.iter().map(move |case| (place, *case)))
        .filter(|(place, case)| plan.all || covers(plan.faults[*place], case))
        .collect();
    // The longest first, so that no long one is left to run by itself at the end.
    pairs.sort_by_key(|(_, case)| std::cmp::Reverse(took[case.name]));
    progress(Progress::Ahead(pairs.len()));
    let tasks: Vec<Task> =
        pairs.iter().map(|(place, case)| (Arc::clone(&manifests[*place]), *case)).collect();
    let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); plan.faults.len()];
    let mut done = 0;
    runner::run_tasks(&tasks, plan.jobs, plan.seed, stopper, &plan.engines, |task, result| {
        let (place, case) = pairs[task];
        let fault = plan.faults[place];
        progress(Progress::Done(Some(fault.name), &result));
        let covers = covers(fault, case);
        cells[place].push(Cell {
            case: case.name,
            verdict: result.verdict,
            covers,
            kills: covers && accuses(catalogue().get(fault.requirement()), result.verdict),
            never_ready: result.never_ready,
            duration_ms: result.duration_ms,
            observed: result.observed,
        });
        done += 1;
    });

    // A plain start of each whose fate hangs on readiness alone.
    let doubtful: Vec<usize> = (0..plan.faults.len())
        .filter(|place| {
            let mut killing = cells[*place].iter().filter(|cell| cell.kills).peekable();
            killing.peek().is_some()
                && killing.all(|cell| cell.never_ready)
                && !READINESS.contains(&plan.faults[*place].requirement())
        })
        .collect();
    let tasks: Vec<Task> =
        doubtful.iter().map(|place| (Arc::clone(&manifests[*place]), &PLAIN_START)).collect();
    runner::run_tasks(&tasks, plan.jobs, plan.seed, stopper, &plan.engines, |task, result| {
        if result.verdict != Verdict::Pass {
            for cell in &mut cells[doubtful[task]] {
                cell.kills = false;
            }
        }
    });

    let order = |case: &str| able.iter().position(|able| able.name == case);
    let rows: Vec<Row> = plan
        .faults
        .iter()
        .zip(cells)
        .map(|(fault, mut cells)| {
            cells.sort_by_key(|cell| order(cell.case));
            row(fault, cells, &plan.cases, &able)
        })
        .collect();
    let untried = plan.cases.iter().filter(|case| case.is_asked_of(&plan.manifest));
    let untried = untried.filter(|case| !plan.faults.iter().any(|fault| covers(fault, case)));
    Some(Matrix {
        schema: SCHEMA,
        suite_version: env!("CARGO_PKG_VERSION"),
        seed: plan.seed,
        whole: plan.whole,
        complete: done == pairs.len() && !stopper.is_stopped(),
        score: Score::of(&rows),
        cases: able.iter().map(|case| worth(case, &rows)).collect(),
        untried: untried.map(|case| case.name).collect(),
        faults: rows,
        idle: idle.collect(),
        unclean,
    })
}

/// Whether a verdict is the one of a violation of `requirement`.
fn accuses(requirement: Option<&Requirement>, verdict: Verdict) -> bool {
    let must = requirement.is_none_or(|requirement| requirement.level.is_must());
    verdict == Verdict::Fail || (!must && verdict == Verdict::Warn)
}

fn row(fault: &'static Fault, cells: Vec<Cell>, cases: &[&'static Case], able: &[&'static Case]) -> Row {
    let requirement = fault.requirement();
    let covering: Vec<&str> = cases
        .iter()
        .filter(|case| case.requirements.contains(&requirement))
        .map(|case| case.name)
        .collect();
    let able = |case: &&str| able.iter().any(|able| able.name == *case);
    let (fate, why) = if cells.iter().any(|cell| cell.kills) {
        (Fate::Killed, None)
    } else if catalogue().get(requirement).is_none() {
        (Fate::Survived, Some(format!("the specification has no {requirement}")))
    } else if covering.is_empty() {
        (Fate::Survived, Some(format!("no case covers {requirement}")))
    } else if !covering.iter().any(able) {
        let why = format!("no case can judge it here: {}", covering.join(", "));
        (Fate::Unjudged, Some(why))
    } else if cells.iter().any(|cell| cell.covers && cell.never_ready) {
        let why = "a plain start of it is never ready, which says nothing of this requirement";
        (Fate::Survived, Some(why.to_owned()))
    } else {
        (Fate::Survived, None)
    };
    Row { fault: fault.name, about: fault.about, requirement, fate, why, cells }
}

fn worth(case: &Case, rows: &[Row]) -> Worth {
    let killed = rows.iter().filter(|row| row.killers().any(|killer| killer == case.name));
    let (kills, alone): (Vec<_>, Vec<_>) =
        killed.map(|row| (row.fault, (row.killers().count() == 1).then_some(row.fault))).unzip();
    Worth { case: case.name, kills, alone: alone.into_iter().flatten().collect() }
}

impl Score {
    fn of(rows: &[Row]) -> Self {
        let count = |fate| rows.iter().filter(|row| row.fate == fate).count();
        Self {
            faults: rows.len(),
            killed: count(Fate::Killed),
            survived: count(Fate::Survived),
            unjudged: count(Fate::Unjudged),
        }
    }

    /// Killed faults in a hundred of those that could be judged, cut, so that 100 means every one; 0 where there is none.
    pub fn percent(self) -> usize {
        (100 * self.killed).checked_div(self.faults - self.unjudged).unwrap_or_default()
    }
}

impl Matrix {
    /// The rows of this fate.
    pub fn of(&self, fate: Fate) -> impl Iterator<Item = &Row> {
        self.faults.iter().filter(move |row| row.fate == fate)
    }

    /// Cases without which no fault would survive: they are superfluous, or a fault is missing.
    pub fn superfluous(&self) -> impl Iterator<Item = &Worth> {
        self.cases.iter().filter(|worth| worth.alone.is_empty())
    }
}
