//! `daemonspec run`

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use local_daemon_conformance::cases;
use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::report::terminal::{self, Style};
use local_daemon_conformance::report::{Output, Report, SubjectFacts};
use local_daemon_conformance::runner::{self, Plan, Selection, SelectionFault, Stopper};
use local_daemon_conformance::verdict::{ExitCode, Verdict};
use local_daemon_spec::Profile;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Problem, print};
use crate::RunArgs;

pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Problem> {
    let profiles: BTreeSet<Profile> = args.profiles.into_iter().collect();
    let selection = Selection {
        globs: args.cases,
        profiles: profiles.clone(),
        role: args.role,
    };
    let cases = selection.of(cases::all()).map_err(|fault| unselected(&fault))?;
    if cases.is_empty() {
        let help = Some("`daemonspec list` names every case with its profile");
        return Err(Problem::new(
            ExitCode::NothingSelected,
            "no case is selected",
            help,
        ));
    }
    let manifest = match (args.subject, args.command) {
        (Some(path), _) => Manifest::load(&path).map_err(|fault| Problem::of(&fault))?,
        (None, command) if !command.is_empty() => {
            let claimed = if profiles.is_empty() {
                BTreeSet::from([Profile::Core])
            } else {
                profiles
            };
            Manifest::of_command(command, claimed).map_err(|fault| Problem::of(&fault))?
        }
        (None, _) => {
            let help = Some(
                "give a manifest, or the daemon's command after `--`; `daemonspec init` writes a manifest",
            );
            return Err(Problem::new(ExitCode::Fault, "no subject", help));
        }
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
    };

    let started = SystemTime::now();
    let progress = progress(planned);
    let mut failed = 0;
    let results = runner::run(&plan, &stopper, |result| {
        failed += usize::from(result.verdict == Verdict::Fail);
        if failed > 0 {
            progress.set_message(format!("{failed} failed"));
        }
        progress.set_prefix(result.case);
        progress.inc(1);
    });
    progress.finish_and_clear();

    let report = Report::new(subject, args.seed, started, planned, results);
    let colour =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&terminal::render(
        &report,
        Style {
            colour,
            strict: args.strict,
            verbose: args.verbose,
        },
    ));
    for output in outputs {
        output.write(&report).map_err(Problem::fault)?;
    }
    Ok(report.exit_code(args.strict))
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

fn jobs(wanted: Option<u16>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.map_or_else(|| (cores * 2).min(4), usize::from)
}

/// The first signal ends the run in order, the second at once.
fn stop_on_signal(stopper: &Stopper) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let stopper = stopper.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if stopper.is_stopped() {
                    std::process::exit(i32::from(ExitCode::Interrupted as u8));
                }
                stopper.stop();
            }
        })?;
    Ok(())
}

/// A line while it runs, on a terminal alone.
fn progress(length: usize) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {prefix} {msg}")
        .expect("the template is a constant");
    let bar = ProgressBar::with_draw_target(Some(length as u64), target).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
