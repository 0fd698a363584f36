//! Every client with every daemon: what one implementation publishes, another one finds, proves and judges.
//!
//! A pair is a subject of its own, the daemon of one manifest and the client of another, and is judged by cases that are
//! run like any others. They are no part of the suite: what they show of each side, its own cases show as well.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use local_daemon_harness::process::Signal;
use local_daemon_spec::Profile;
use serde::Serialize;

use crate::case::Case;
use crate::engines::Engines;
use crate::manifest::{Manifest, SubjectSection};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::report::SubjectFacts;
use crate::report::terminal::clean;
use crate::runner::{self, Stopper, Task};
use crate::stage::{Answer, Call, Daemon, ReadyDaemon, Stage, Start};
use crate::verdict::Verdict;

/// Name and version of the JSON form, whose schema is `spec/schemas/interop.schema.json`.
pub const SCHEMA: &str = "local-daemon-conformance-interop/1";

/// The implementations whose manifests lie in `conformance/subjects`.
pub const SUBJECTS: [&str; 4] = ["locald", "independent", "python", "javascript"];

/// What each pair has to show.
pub static CHECKS: [Case; 6] = [
    Case::new(
        "interop/ready",
        &["CONN-4", "HS-17", "HS-26"],
        "The daemon runs and speaks the client's protocol; the client connects and names its id.",
        ready,
    )
    .client(),
    Case::new(
        "interop/spawns-nothing-beside-it",
        &["CONN-4", "CONV-13"],
        "The client may spawn, and finds the daemon that runs.",
        spawns_nothing,
    )
    .client(),
    Case::new(
        "interop/follows-a-displacement",
        &["CONN-11", "CONV-8"],
        "A second daemon displaces the first; the client connects to the second.",
        follows,
    )
    .client(),
    Case::new(
        "interop/incompatible",
        &["GATE-7", "GATE-2"],
        "The daemon speaks another protocol than the client.",
        incompatible,
    )
    .client(),
    Case::new(
        "interop/absent-after-a-stop",
        &["CONN-5", "CONV-16"],
        "The daemon is asked to stop, and has ended.",
        absent,
    )
    .client(),
    Case::new(
        "interop/stale-after-a-kill",
        &["CONN-6"],
        "The daemon is killed, and its record is left.",
        stale,
    )
    .client(),
];

/// The daemon of the pair, ready, speaking the client's protocol.
fn launched(stage: &mut Stage) -> Outcome<(Daemon, ReadyDaemon)> {
    let protocol = stage.client()?.protocol;
    let start = match stage.manifest().daemon.protocol_override {
        Some(_) => Start::new().protocol(protocol),
        None => Start::new(),
    };
    let daemon = stage.launch_with(start)?;
    let live = stage.ready(&daemon)?;
    Ok((daemon, live))
}

/// The client's answer must be `ready`, with the id of `live`.
fn finds(stage: &mut Stage, call: Call, live: &ReadyDaemon) -> Outcome {
    stage.expect(format!("ready, with the id {}", live.record.id));
    let answer = stage.ask(call)?;
    let right = answer.outcome == "ready" && answer.id.as_ref() == Some(&live.record.id);
    ensure!(right, "{answer}");
    stage.observed(brief(&answer));
    Ok(())
}

/// The client's answer must be `outcome`.
fn answers(stage: &mut Stage, outcome: &str) -> Outcome {
    stage.expect(outcome);
    let answer = stage.ask(Call::connect())?;
    ensure!(answer.outcome == outcome, "{answer}");
    stage.observed(brief(&answer));
    Ok(())
}

fn brief(answer: &Answer) -> String {
    format!("{} ({}) after {} ms", answer.outcome, answer.exit, answer.after.as_millis())
}

fn ready(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launched(stage)?;
    finds(stage, Call::connect(), &live)
}

fn spawns_nothing(stage: &mut Stage) -> Outcome {
    let (daemon, live) = launched(stage)?;
    finds(stage, Call::spawn(), &live)?;
    ensure!(daemon.is_running(), "the daemon has ended");
    let now = stage.find(stage.state_dir());
    let same = now.as_ref().is_ok_and(|now| now.record.id == live.record.id);
    ensure!(same, "another record stands there: {:?}", now.map(|now| now.record.id));
    Ok(())
}

fn follows(stage: &mut Stage) -> Outcome {
    let (first, _) = launched(stage)?;
    let (_second, live) = launched(stage)?;
    finds(stage, Call::connect(), &live)?;
    let exit = first.wait_exit(stage.stand_down_deadline());
    ensure!(exit.is_some(), "the displaced daemon still runs");
    Ok(())
}

fn incompatible(stage: &mut Stage) -> Outcome {
    let daemon = stage.launch_with(Start::new().protocol("interop-other/1"))?;
    stage.ready(&daemon)?;
    answers(stage, "incompatible")
}

fn absent(stage: &mut Stage) -> Outcome {
    let (daemon, live) = launched(stage)?;
    finds(stage, Call::connect(), &live)?;
    let _ = daemon.signal(Signal::TERM);
    if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
        return fail("the daemon was asked to stop and still runs");
    }
    answers(stage, "absent")
}

fn stale(stage: &mut Stage) -> Outcome {
    let (daemon, _) = launched(stage)?;
    let _ = daemon.signal(Signal::KILL);
    if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
        return inconclusive("the daemon was killed and still runs");
    }
    answers(stage, "stale")
}

/// One check of one pair.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name.
    pub check: &'static str,
    /// What it came to.
    pub verdict: Verdict,
    /// How long it took.
    pub duration_ms: u64,
    /// What was seen.
    pub observed: Option<String>,
}

/// One client with one daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Whose client.
    pub client: String,
    /// Whose daemon.
    pub daemon: String,
    /// In the order of [`CHECKS`].
    pub checks: Vec<Check>,
}

impl Pair {
    /// Whether every check passed.
    pub fn works(&self) -> bool {
        self.checks.len() == CHECKS.len() && self.checks.iter().all(|check| check.verdict == Verdict::Pass)
    }
}

/// An implementation that takes no part, with the reason.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why it cannot run here.
    pub why: String,
}

/// Every client × every daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The suite's own version.
    pub suite_version: &'static str,
    /// Who took part.
    pub subjects: Vec<SubjectFacts>,
    /// Who should have.
    pub missing: Vec<Missing>,
    /// The clients in order, and for each the daemons in order.
    pub pairs: Vec<Pair>,
    /// Whether every check has a result.
    pub complete: bool,
}

/// Runs every check of every pair of `subjects`; `finished` is called as each comes.
pub fn run(
    subjects: &[Manifest],
    missing: Vec<Missing>,
    jobs: usize,
    seed: u64,
    stopper: &Stopper,
    mut finished: impl FnMut(&str) + Send,
) -> Matrix {
    let daemons = || subjects.iter().filter(|subject| !subject.daemon.run.is_empty());
    let clients = subjects.iter().filter(|subject| subject.client.is_some());
    let pairs: Vec<(&Manifest, &Manifest)> =
        clients.flat_map(|client| daemons().map(move |daemon| (client, daemon))).collect();
    let tasks: Vec<Task> = pairs
        .iter()
        .map(|(client, daemon)| Arc::new(pair(client, daemon)))
        .flat_map(|manifest| CHECKS.iter().map(move |check| (Arc::clone(&manifest), check)))
        .collect();
    let mut checks: Vec<Option<Check>> = vec![None; tasks.len()];
    runner::run_tasks(&tasks, jobs, seed, stopper, &Engines::default(), |place, result| {
        finished(result.case);
        checks[place] = Some(Check {
            check: result.case,
            verdict: result.verdict,
            duration_ms: result.duration_ms,
            observed: result.observed,
        });
    });
    Matrix {
        schema: SCHEMA,
        suite_version: env!("CARGO_PKG_VERSION"),
        subjects: subjects.iter().map(SubjectFacts::of).collect(),
        missing,
        complete: checks.iter().all(Option::is_some),
        pairs: pairs
            .iter()
            .zip(checks.chunks(CHECKS.len()))
            .map(|((client, daemon), checks)| Pair {
                client: client.subject.name.clone(),
                daemon: daemon.subject.name.clone(),
                checks: checks.iter().flatten().cloned().collect(),
            })
            .collect(),
    }
}

/// The daemon of one, and the client of the other.
fn pair(client: &Manifest, daemon: &Manifest) -> Manifest {
    Manifest {
        subject: SubjectSection {
            name: format!("{} with {}", client.subject.name, daemon.subject.name),
            component: client.subject.component.clone(),
            version: Vec::new(),
            profiles: BTreeSet::from([Profile::Client]),
            engines: false,
        },
        daemon: daemon.daemon.clone(),
        binding: daemon.binding.clone(),
        client: client.client.clone(),
        browser: None,
    }
}

impl Matrix {
    /// How many pairs work.
    pub fn working(&self) -> usize {
        self.pairs.iter().filter(|pair| pair.works()).count()
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a matrix has string keys only") + "\n"
    }

    /// What does not work, the matrix, who is missing, and one line for scripts.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for pair in &self.pairs {
            for check in pair.checks.iter().filter(|check| check.verdict != Verdict::Pass) {
                let (verdict, observed) = (check.verdict.as_str().to_uppercase(), check.observed.as_deref());
                let _ = writeln!(
                    text,
                    "{verdict} {}: client of {}, daemon of {}",
                    check.check, pair.client, pair.daemon
                );
                let _ = writeln!(text, "  {}\n", clean(observed.unwrap_or_default()));
            }
        }
        let mut daemons: Vec<&str> = Vec::new();
        for pair in &self.pairs {
            if !daemons.contains(&pair.daemon.as_str()) {
                daemons.push(&pair.daemon);
            }
        }
        let corner = "client \\ daemon";
        let clients = self.pairs.iter().map(|pair| pair.client.len());
        let width = clients.chain([corner.len()]).max().unwrap_or_default();
        let _ = write!(text, "{corner:width$}");
        for daemon in &daemons {
            let _ = write!(text, "  {daemon:>5}");
        }
        for row in self.pairs.chunk_by(|a, b| a.client == b.client) {
            let _ = write!(text, "\n{:width$}", row[0].client);
            for pair in row {
                let passed = pair.checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
                let cell = format!("{passed}/{}", CHECKS.len());
                let _ = write!(text, "  {cell:>0$}", pair.daemon.len().max(5));
            }
        }
        text.push_str("\n\n");
        for missing in &self.missing {
            let _ = writeln!(text, "not run: {}: {}", missing.name, clean(&missing.why));
        }
        if !self.complete {
            text.push_str("The run was interrupted.\n");
        }
        let _ = writeln!(text, "pairs: {} of {} work", self.working(), self.pairs.len());
        text
    }
}
