//! `daemonspec dev soak`

use std::time::Duration;

use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::runner::Stopper;
use local_daemon_conformance::soak::{Plan, names, run};
use local_daemon_conformance::verdict::ExitCode;

use super::mutants::globs;
use super::{Problem, begin, print, progress};
use crate::SoakArgs;

pub(crate) fn soak(args: &SoakArgs) -> Result<ExitCode, Problem> {
    let manifest = Manifest::load(&args.subject).map_err(|fault| Problem::of(&fault))?;
    let stopper = Stopper::default();
    begin(&stopper)?;
    let names: Vec<&str> = names().into_iter().collect();
    let globs = globs(&args.faults, "fault", &names)?;
    let wanted = |name: &&str| globs.is_empty() || globs.iter().any(|glob| glob.is_match(name));
    let plan = Plan {
        time: Duration::from_secs_f64(args.minutes * 60.0),
        seed: args.seed,
        faults: names.into_iter().filter(wanted).collect(),
    };
    // Its length is the time; what it shows beside is the last fault.
    let bar = progress(usize::try_from(plan.time.as_secs()).unwrap_or(usize::MAX));
    let soak = run(&manifest, &plan, &stopper, |fault| {
        bar.set_position(bar.elapsed().as_secs());
        bar.set_prefix(fault.to_owned());
    });
    bar.finish_and_clear();
    print(&if args.json { soak.json() } else { soak.text() })?;
    Ok(if stopper.is_stopped() { ExitCode::Interrupted } else { soak.exit_code() })
}
