//! `daemonspec dev interop`

use local_daemon_conformance::interop::{CHECKS, Matrix, Missing, SUBJECTS, run};
use local_daemon_conformance::manifest::{Manifest, ManifestFault};
use local_daemon_conformance::runner::Stopper;
use local_daemon_conformance::traceability;
use local_daemon_conformance::verdict::{ExitCode, Verdict};

use super::{Problem, begin, jobs, print, progress};
use crate::InteropArgs;

pub(crate) fn interop(args: InteropArgs) -> Result<ExitCode, Problem> {
    let paths = if args.subjects.is_empty() {
        let Some(root) = traceability::repository() else {
            let help = Some("name the manifests, two or more");
            return Err(Problem::new(
                ExitCode::Fault,
                "the code is not beside this suite, and with it the subjects",
                help,
            ));
        };
        SUBJECTS.map(|name| root.join(format!("conformance/subjects/{name}.toml"))).to_vec()
    } else {
        args.subjects
    };
    let (mut subjects, mut missing) = (Vec::new(), Vec::new());
    for path in paths {
        match Manifest::load(&path) {
            Ok(manifest) => subjects.push(manifest),
            Err(fault @ ManifestFault::NoProgram { .. }) => missing.push(Missing {
                name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                why: fault.to_string(),
            }),
            Err(fault) => return Err(Problem::of(&fault)),
        }
    }
    if let Some(name) = twice(&subjects) {
        return Err(Problem::fault(format!("two of the manifests name their subject `{name}`")));
    }

    let stopper = Stopper::default();
    begin(&stopper)?;
    let bar = progress(subjects.len().pow(2) * CHECKS.len());
    let matrix = run(&subjects, missing, jobs(args.jobs), args.seed, &stopper, |check| {
        bar.set_prefix(check.to_owned());
        bar.inc(1);
    });
    bar.finish_and_clear();
    print(&if args.json { matrix.json() } else { matrix.text() })?;
    Ok(exit_code(&matrix))
}

fn twice(subjects: &[Manifest]) -> Option<&str> {
    let mut names: Vec<&str> = subjects.iter().map(|subject| subject.subject.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// The gravest of all checks; who is missing leaves the whole undecided at best.
fn exit_code(matrix: &Matrix) -> ExitCode {
    let checks = matrix.pairs.iter().flat_map(|pair| &pair.checks);
    let verdicts: Vec<Verdict> = checks.map(|check| check.verdict).collect();
    match ExitCode::of(&verdicts, matrix.complete, true) {
        ExitCode::Conforms if matrix.working() < matrix.pairs.len() || !matrix.missing.is_empty() => {
            ExitCode::Undecided
        }
        code => code,
    }
}
