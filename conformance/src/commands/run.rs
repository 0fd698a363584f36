//! `daemonspec run`

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use local_daemon_conformance::baseline::Baseline;
use local_daemon_conformance::cases;
use local_daemon_conformance::check_trace::Checker;
use local_daemon_conformance::destination::Destination;
use local_daemon_conformance::engines::Engines;
use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::replay::Replay;
use local_daemon_conformance::report::{CaseResult, Claim, Output, Report, SubjectFacts};
use local_daemon_conformance::runner::{
    self, First, Plan, Selected, Selection, SelectionFault, Stopper, first_launch,
};
use local_daemon_conformance::verdict::{ExitCode, Verdict};
use local_daemon_spec::Profile;

use super::{Problem, begin, jobs, print, progress, show, show_aside};
use crate::RunArgs;

pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Problem> {
    let profiles: BTreeSet<Profile> = args.profiles.into_iter().collect();
    let selection = Selection { globs: args.cases, profiles: profiles.clone(), role: args.role };
    let Selected { cases, unmatched } = selection.of(cases::all()).map_err(|fault| unselected(&fault))?;
    for glob in unmatched {
        eprintln!("daemonspec: no case matches `{glob}`{}", meant(&glob));
    }
    if cases.is_empty() {
        let help = Some("`daemonspec list` names every case with its profile");
        return Err(Problem::new(ExitCode::NothingSelected, "no case is selected", help));
    }
    let manifest = match (args.subject, args.command) {
        (Some(path), _) => Manifest::load(&path).map_err(|fault| Problem::of(&fault))?,
        (None, command) if !command.is_empty() => {
            let claimed = if profiles.is_empty() { BTreeSet::from([Profile::Core]) } else { profiles };
            Manifest::of_command(command, claimed).map_err(|fault| Problem::of(&fault))?
        }
        (None, _) => {
            let help = Some(
                "give a manifest, or the daemon's command after `--`; `daemonspec init` writes a manifest",
            );
            return Err(Problem::new(ExitCode::Fault, "no subject", help));
        }
    };
    let claim = Claim::of(&manifest, &selection);
    judged(&claim)?;
    let baseline = match &args.baseline {
        Some(path) => Baseline::load(path).map_err(|fault| Problem::of(&fault))?,
        None => Baseline::default(),
    };
    if let Some(folder) = &args.failures {
        std::fs::create_dir_all(folder)
            .map_err(|error| Problem::fault(format!("cannot make {}: {error}", folder.display())))?;
    }
    let checker = match &args.check_trace {
        Some(program) => {
            let checker = Checker::of(program, args.failures.clone());
            Some(Arc::new(checker.map_err(|fault| Problem::of(&fault))?))
        }
        None => None,
    };
    let outputs: Vec<Output> =
        args.reports.iter().map(Output::open).collect::<Result<_, _>>().map_err(Problem::fault)?;
    let to_stdout = outputs.iter().filter(|output| output.is_stdout()).count();
    if to_stdout > 1 {
        return Err(Problem::fault("only one report can go to standard output"));
    }
    let write_baseline = args.write_baseline.as_deref().map(Destination::open);
    let write_baseline = write_baseline.transpose().map_err(Problem::fault)?;

    let stopper = Stopper::default();
    begin(&stopper)?;
    let subject = SubjectFacts::of(&manifest);
    let planned = cases.len();
    let plan = Plan {
        manifest: Arc::new(manifest),
        cases,
        jobs: jobs(args.jobs),
        seed: args.seed,
        engines: Engines::of(args.browser),
        checker: checker.clone(),
    };

    let started = SystemTime::now();
    let first = if args.never_ready {
        First::Ready
    } else {
        first_launch(&plan.manifest, &plan.cases, args.seed, &stopper)
    };
    let broken = match first {
        First::Ready | First::Stopped => None,
        First::Wrong(result) => Some(*result),
        First::NotReady { what, help } => return Err(Problem::new(ExitCode::Fault, what, Some(&help))),
        First::Fault(why) => return Err(Problem::fault(why)),
    };
    let progress = progress(planned);
    let mut failed = 0;
    let planned = planned + usize::from(broken.is_some());
    let finished = |result: &CaseResult| {
        failed += usize::from(result.verdict == Verdict::Fail);
        if failed > 0 {
            progress.set_message(format!("{failed} failed"));
        }
        progress.set_prefix(result.case);
        progress.inc(1);
    };
    let mut results = match broken {
        None => runner::run(&plan, &stopper, finished),
        Some(broken) => not_run(broken, &plan),
    };
    progress.finish_and_clear();

    let stale = baseline.apply(&mut results);
    let replays: Vec<Replay> = match &args.failures {
        Some(_) => results
            .iter()
            .filter_map(|result| Replay::of(result, args.seed, &subject, &plan.manifest))
            .collect(),
        None => Vec::new(),
    };
    let mut report = Report {
        stale_baseline: stale,
        claim: claim.narrowed(&results),
        ..Report::new(subject, args.seed, started, planned, results)
    };
    report.host.engines = plan.engines.facts();
    // The files are written even if standard output cannot be written to.
    let shown = if to_stdout == 0 {
        show(&report, args.strict, args.verbose)
    } else {
        show_aside(&report, args.strict, args.verbose);
        Ok(())
    };
    for replay in &replays {
        let path = replay.save(args.failures.as_deref().unwrap_or(Path::new("."))).map_err(Problem::fault)?;
        eprintln!("repeat it with: daemonspec replay {}", path.display());
    }
    for output in outputs {
        output.write(&report).map_err(Problem::fault)?;
    }
    if let Some(destination) = write_baseline {
        destination.write(&baseline.of(&report.results).text()).map_err(Problem::fault)?;
    }
    shown?;
    let code = report.exit_code(args.strict);
    Ok(match checker {
        Some(checker) => {
            let summary = checker.summary(args.verbose);
            if to_stdout == 0 {
                print(&summary)?;
            } else {
                eprint!("{summary}");
            }
            checker.code(code)
        }
        None => code,
    })
}

/// The failure of the first launch, and every case as what could not be seen after it.
fn not_run(broken: CaseResult, plan: &Plan) -> Vec<CaseResult> {
    let why = format!("the subject was never ready: {}", broken.case);
    let results = plan.cases.iter().map(|case| {
        if case.is_asked_of(&plan.manifest) {
            CaseResult::new(case, Verdict::NotRun).observed(&why)
        } else {
            CaseResult::unclaimed(case)
        }
    });
    std::iter::once(broken).chain(results).collect()
}

/// Refuses a claim that this suite cannot judge.
fn judged(claim: &Claim) -> Result<(), Problem> {
    // It has nothing of its own: its parts are judged.
    let parts = claim.profiles.iter().filter(|profile| **profile != Profile::ControlPlane);
    let unjudged: Vec<&str> = parts
        .filter(|profile| !cases::all().any(|case| case.profile == **profile))
        .map(|profile| profile.as_str())
        .collect();
    if unjudged.is_empty() {
        return Ok(());
    }
    let what = format!("no case judges {} yet, and the subject claims it", unjudged.join(", "));
    let help = "take it out of `subject.profiles`, or judge the others alone with `--profile`";
    Err(Problem::new(ExitCode::Fault, what, Some(help)))
}

fn meant(glob: &str) -> String {
    match nearest(glob, cases::all().map(|case| case.name), 3)[..] {
        [] => String::new(),
        ref near => format!("; did you mean {}?", near.join(", ")),
    }
}

fn unselected(fault: &SelectionFault) -> Problem {
    match fault {
        SelectionFault::NotAPattern { .. } => Problem::fault(fault),
        SelectionFault::NoSuchCase(glob) => {
            let near = nearest(glob, cases::all().map(|case| case.name), 3);
            let help = match near[..] {
                [] => "`daemonspec list` names every case".to_owned(),
                _ => format!("did you mean {}?", near.join(", ")),
            };
            Problem::new(ExitCode::NothingSelected, fault, Some(&help))
        }
    }
}
