//! `daemonspec dev mutants`

use std::path::PathBuf;
use std::time::SystemTime;

use globset::{Glob, GlobMatcher};
use local_daemon_conformance::case::Case;
use local_daemon_conformance::cases;
use local_daemon_conformance::destination::Destination;
use local_daemon_conformance::engines::{Engines, Wanted};
use local_daemon_conformance::manifest::Manifest;
use local_daemon_conformance::mutants::{Matrix, Plan, Progress, judge, sample};
use local_daemon_conformance::nearest::nearest;
use local_daemon_conformance::report::{Report, SubjectFacts};
use local_daemon_conformance::runner::Stopper;
use local_daemon_conformance::verdict::ExitCode;
use local_daemon_spec::catalogue;
use local_daemon_subject::faults::{self, Fault};

use super::{Problem, begin, jobs, print, progress, show};
use crate::MutantsArgs;

pub(crate) fn mutants(args: &MutantsArgs) -> Result<ExitCode, Problem> {
    let cases = cases_without(&args.without, &args.browser)?;
    let mut faults = faults(args)?;
    let whole = faults.len() == faults::all().count();
    faults.retain(|fault| shows_without(fault, &args.browser));
    if faults.is_empty() {
        let what = "what is selected shows in pages alone";
        let help = "`--browser` names the engines that may judge";
        return Err(Problem::new(ExitCode::NothingSelected, what, Some(help)));
    }
    let manifest = args.subject.as_deref().map_or_else(Manifest::independent, Manifest::load);
    let manifest = manifest.map_err(|fault| Problem::of(&fault))?;
    // Before minutes of work, not after them.
    let destination =
        |file: &Option<PathBuf>| file.as_deref().map(Destination::open).transpose().map_err(Problem::fault);
    let (markdown, json) = (destination(&args.markdown)?, destination(&args.json)?);
    let facts = SubjectFacts::of(&manifest);
    let plan = Plan {
        manifest,
        whole,
        faults,
        cases,
        all: args.all,
        jobs: jobs(args.jobs),
        seed: args.seed,
        engines: Engines::of(args.browser.clone()),
    };

    let stopper = Stopper::default();
    begin(&stopper)?;
    let started = SystemTime::now();
    let bar = progress(0);
    let judged = judge(&plan, &stopper, |step| match step {
        Progress::Ahead(tasks) => {
            bar.set_position(0);
            bar.set_length(tasks as u64);
        }
        Progress::Done(fault, result) => {
            bar.set_prefix(fault.unwrap_or("no fault").to_owned());
            bar.set_message(result.case);
            bar.inc(1);
        }
    });
    bar.finish_and_clear();
    let Some(matrix) = judged else {
        return Ok(ExitCode::Interrupted);
    };
    if !matrix.unclean.is_empty() {
        let unclean = matrix.unclean.clone();
        show(&Report::new(facts, args.seed, started, unclean.len(), unclean), false, false)?;
        print("\n")?;
    }
    let printed = print(&matrix.text());
    for (destination, text) in [(markdown, matrix.markdown()), (json, matrix.json())] {
        if let Some(destination) = destination {
            destination.write(&text).map_err(Problem::fault)?;
        }
    }
    printed?;
    if !matrix.unclean.is_empty() {
        let help = "mend the subject or these cases first: `daemonspec run` with its manifest shows the same";
        let what =
            "the subject without a fault is not clean; what its faults change is known but for these cases";
        return Err(Problem::new(ExitCode::Fault, what, Some(help)));
    }
    Ok(exit_code(&matrix))
}

fn exit_code(matrix: &Matrix) -> ExitCode {
    if !matrix.complete {
        ExitCode::Interrupted
    } else if matrix.score.survived > 0 {
        ExitCode::DoesNotConform
    } else if matrix.score.unjudged > 0 {
        ExitCode::Undecided
    } else {
        ExitCode::Conforms
    }
}

fn faults(args: &MutantsArgs) -> Result<Vec<&'static Fault>, Problem> {
    let all: Vec<&'static Fault> = faults::all().collect();
    let names: Vec<&str> = all.iter().map(|fault| fault.name).collect();
    let globs = globs(&args.faults, "fault", &names)?;
    let selected = |fault: &&'static Fault| {
        let profile = catalogue().get(fault.requirement()).map(|requirement| requirement.profile);
        (globs.is_empty() || globs.iter().any(|glob| glob.is_match(fault.name)))
            && (args.profiles.is_empty() || profile.is_some_and(|profile| args.profiles.contains(&profile)))
    };
    let mut faults: Vec<&'static Fault> = all.into_iter().filter(selected).collect();
    if let Some(most) = args.sample {
        faults = sample(&faults, usize::from(most), args.seed);
    }
    if faults.is_empty() {
        return Err(Problem::new(ExitCode::NothingSelected, "no fault is selected", None));
    }
    Ok(faults)
}

fn cases_without(left_out: &[String], browser: &Wanted) -> Result<Vec<&'static Case>, Problem> {
    let names: Vec<&str> = cases::all().map(|case| case.name).collect();
    let globs = globs(left_out, "case", &names)?;
    let stays = |case: &&'static Case| {
        !globs.iter().any(|glob| glob.is_match(case.name))
            && case.engine.is_none_or(|engine| browser.0.contains(&engine))
    };
    Ok(cases::all().filter(stays).collect())
}

/// Whether a fault shows without the engines that are left out. One that no case is about survives, whatever is left out.
fn shows_without(fault: &Fault, browser: &Wanted) -> bool {
    let covers = |case: &&&Case| case.requirements.contains(&fault.requirement());
    let covering: Vec<&Case> = cases::all().filter(|case| covers(&case)).collect();
    let judges = |case: &&Case| case.engine.is_none_or(|engine| browser.0.contains(&engine));
    covering.is_empty() || covering.iter().any(judges)
}

/// Patterns, each of which matches one of `names`.
pub(super) fn globs(patterns: &[String], kind: &str, names: &[&str]) -> Result<Vec<GlobMatcher>, Problem> {
    let compile = |pattern: &String| {
        let glob = Glob::new(pattern)
            .map_err(|error| Problem::fault(format!("`{pattern}` is not a pattern: {}", error.kind())))?
            .compile_matcher();
        if names.iter().any(|name| glob.is_match(name)) {
            return Ok(glob);
        }
        let near = nearest(pattern, names.iter().copied(), 3);
        let help = (!near.is_empty()).then(|| format!("did you mean {}?", near.join(", ")));
        Err(Problem::new(
            ExitCode::NothingSelected,
            format!("no {kind} matches `{pattern}`"),
            help.as_deref(),
        ))
    };
    patterns.iter().map(compile).collect()
}
