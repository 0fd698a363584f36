//! `daemonspec replay`

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use local_daemon_conformance::cases;
use local_daemon_conformance::engines::{Engines, Wanted};
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::replay::Replay;
use local_daemon_conformance::report::{Report, SubjectFacts};
use local_daemon_conformance::runner::{self, Plan, Stopper};
use local_daemon_conformance::verdict::ExitCode;

use super::{Problem, begin, print, show};

/// Repeats the result of a file, and says whether it came again.
pub(crate) fn replay(file: &Path) -> Result<ExitCode, Problem> {
    let replay = Replay::load(file).map_err(|fault| {
        let help = "`daemonspec run --failures DIR` writes one for each case that fails";
        Problem::new(ExitCode::Fault, fault, Some(help))
    })?;
    let Some(case) = cases::get(&replay.case) else {
        let near = nearest(&replay.case, cases::all().map(|case| case.name), 3);
        let help = (!near.is_empty()).then(|| format!("there are {}", near.join(", ")));
        let what = format!("this suite has no case `{}`", replay.case);
        return Err(Problem::new(ExitCode::NothingSelected, what, help.as_deref()));
    };
    let subject = SubjectFacts::of(&replay.manifest);
    for difference in replay.differences(&subject) {
        eprintln!("daemonspec: {difference}");
    }
    let stopper = Stopper::default();
    begin(&stopper)?;
    let plan = Plan {
        manifest: Arc::new(replay.manifest),
        cases: vec![case],
        jobs: 1,
        seed: replay.seed,
        engines: Engines::of(Wanted::all()),
        checker: None,
    };
    let started = SystemTime::now();
    let results = runner::run(&plan, &stopper, |_| {});
    let again = match &results[..] {
        [result] if result.verdict == replay.verdict => format!("{} again", replay.verdict),
        [result] => format!("{} now, {} then", result.verdict, replay.verdict),
        _ => "interrupted".to_owned(),
    };
    let report = Report::new(subject, replay.seed, started, 1, results);
    show(&report, false, true)?;
    print(&format!("replay: {} {again}\n", case.name))?;
    Ok(report.exit_code(false))
}
