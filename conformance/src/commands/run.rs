//! `daemonspec run`

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use local_daemon_conformance::baseline::Baseline;
use local_daemon_conformance::cases;
use local_daemon_conformance::check_trace::Checker;
use local_daemon_conformance::engines::Engines;
use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::replay::Replay;
use local_daemon_conformance::report::{Output, Report, SubjectFacts};
use local_daemon_conformance::runner::{self, Plan, Selection, SelectionFault, Stopper};
use local_daemon_conformance::verdict::{ExitCode, Verdict};
use local_daemon_spec::Profile;

use super::{Problem, jobs, print, progress, show, stop_on_signal};
use crate::RunArgs;

pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Problem> {
    let profiles: BTreeSet<Profile> = args.profiles.into_iter().collect();
    let selection = Selection { globs: args.cases, profiles: profiles.clone(), role: args.role };
    let cases = selection.of(cases::all()).map_err(|fault| unselected(&fault))?;
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
    let outputs: Vec<Output> = args
        .reports
        .into_iter()
        .map(Output::open)
        .collect::<Result<_, _>>()
        .map_err(Problem::fault)?;

    let stopper = Stopper::default();
    stop_on_signal(&stopper).map_err(|error| Problem::fault(format!("cannot handle signals: {error}")))?;
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
    let progress = progress(planned);
    let mut failed = 0;
    let mut results = runner::run(&plan, &stopper, |result| {
        failed += usize::from(result.verdict == Verdict::Fail);
        if failed > 0 {
            progress.set_message(format!("{failed} failed"));
        }
        progress.set_prefix(result.case);
        progress.inc(1);
    });
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
        ..Report::new(subject, args.seed, started, planned, results)
    };
    report.host.engines = plan.engines.facts();
    // The files are written even if standard output cannot be written to.
    let shown = show(&report, args.strict, args.verbose);
    for replay in &replays {
        let path = replay.save(args.failures.as_deref().unwrap_or(Path::new("."))).map_err(Problem::fault)?;
        eprintln!("repeat it with: daemonspec replay {}", path.display());
    }
    for output in outputs {
        output.write(&report).map_err(Problem::fault)?;
    }
    shown?;
    let code = report.exit_code(args.strict);
    Ok(match checker {
        Some(checker) => {
            print(&checker.summary(args.verbose))?;
            checker.code(code)
        }
        None => code,
    })
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
