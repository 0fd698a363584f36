//! The first launch: a subject that does not become ready by itself is not judged case by case, because all of them would say
//! the same, each about another requirement.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_harness::transcript::printable;
use local_daemon_harness::wait::until;
use local_daemon_spec::Role;

use super::Stopper;
use crate::case::Case;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop};
use crate::report::CaseResult;
use crate::stage::{Daemon, Missing, Notes, READINESS, Stage};
use crate::verdict::Verdict;

/// A daemon that is late is waited for once more so long, at most, to say how late it is.
const LATE: Duration = Duration::from_secs(10);

/// At most so many characters of what it wrote are shown: the last ones.
const WORDS: usize = 600;

/// What the first launch showed.
#[derive(Debug)]
pub enum First {
    /// The subject is ready, or none of the cases launches it.
    Ready,
    /// It did not become ready, and published nothing that is wrong.
    NotReady {
        /// What was seen, in a paragraph.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// It published something wrong: a failure of this requirement, and nothing else can be seen.
    Wrong(Box<CaseResult>),
    /// The run was stopped.
    Stopped,
    /// The suite failed.
    Fault(String),
}

/// Launches the subject once, before `cases`.
pub fn first_launch(
    manifest: &Arc<Manifest>,
    cases: &[&'static Case],
    seed: u64,
    stopper: &Stopper,
) -> First {
    let launched = |case: &&&Case| case.role == Role::Daemon && case.is_asked_of(manifest);
    if manifest.daemon.run.is_empty() || !cases.iter().any(|case| launched(&case)) {
        return First::Ready;
    }
    let arena = match Arena::new() {
        Ok(arena) => Arc::new(arena),
        Err(error) => return First::Fault(format!("cannot make a directory for the first launch: {error}")),
    };
    let notes = Arc::new(Notes::default());
    let (words, _heard) = mpsc::channel();
    stopper.register(&notes, &words);
    let mut stage = Stage::without_engine(NAME, manifest, &arena, &notes, seed);
    let seen = look(&mut stage, stopper);
    notes.end();
    notes.hide_credentials(manifest, arena.transcript());
    let redacted = |text: String| arena.transcript().redact(&text);
    match seen {
        _ if stopper.is_stopped() => First::Stopped,
        Err(Stop::Fault(why) | Stop::NotApplicable(why) | Stop::Untestable(why)) => First::Fault(why),
        Err(other) => First::Fault(format!("{other:?}")),
        Ok(None) => First::Ready,
        Ok(Some(Never { what, broken: Some(id), began, .. })) => {
            let result = CaseResult {
                duration_ms: began.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
                precondition: Some("the daemon ran and published its record".to_owned()),
                expected: Some(
                    "a record, a credential and a handshake that is answered 200 and ready".to_owned(),
                ),
                observed: Some(redacted(what)),
                transcript: arena.transcript().events(),
                never_ready: true,
                ..CaseResult::new(case(id), Verdict::Fail)
            };
            First::Wrong(Box::new(result))
        }
        Ok(Some(Never { what, help, .. })) => First::NotReady { what: redacted(what), help },
    }
}

const NAME: &str = "ready/first-launch";

/// The first launch as a case of the requirement that it breaks.
fn case(id: &'static str) -> &'static Case {
    let place = READINESS.iter().position(|known| *known == id).unwrap_or_default();
    let requirements = &READINESS[place..=place];
    // Once a run.
    Box::leak(Box::new(Case::new(NAME, requirements, "The subject is launched once, plainly.", |_| Ok(()))))
}

/// Why the subject is not ready.
struct Never {
    what: String,
    help: String,
    broken: Option<&'static str>,
    began: Instant,
}

fn look(stage: &mut Stage, stopper: &Stopper) -> Outcome<Option<Never>> {
    let began = Instant::now();
    let daemon = stage.launch()?;
    let bound = stage.manifest().daemon.ready_timeout();
    let mut missing = Missing::default();
    let mut ready_by = |deadline: Instant| {
        until(deadline, || match stage.find_or_missing(stage.state_dir()) {
            Ok(_) => Some(true),
            Err(why) => {
                missing = why;
                (daemon.exit().is_some() || stopper.is_stopped()).then_some(false)
            }
        })
    };
    let in_time = ready_by(began + bound);
    if in_time == Some(true) {
        return Ok(None);
    }
    let late = in_time.is_none() && ready_by(Instant::now() + bound.min(LATE)) == Some(true);
    let command = command(&daemon);
    let place = format!("in the state directory that it was given, {}", stage.state_dir().display());
    let said = words(&daemon);
    if late {
        let after = began.elapsed();
        return Ok(Some(Never {
            what: format!(
                "`{command}` was ready only after {:.1} s, and `daemon.ready_timeout_ms` gives it {} ms; nothing was \
                 judged{said}",
                after.as_secs_f64(),
                bound.as_millis()
            ),
            help: format!(
                "if that is how long it takes, set `ready_timeout_ms = {}` in the manifest's [daemon]; `daemonspec init` \
                 writes a manifest",
                (after.as_millis() * 2).div_ceil(1_000) * 1_000
            ),
            broken: None,
            began,
        }));
    }
    if let Some(exit) = daemon.exit() {
        return Ok(Some(Never {
            what: format!(
                "`{command}` ended ({exit}) before it was ready, and nothing was judged: {} {place}{said}",
                missing.what
            ),
            help: "`daemon.run` has to stay in the foreground, publish itself in {state_dir} and answer the handshake; \
                   run the command by hand to see why it does not"
                .to_owned(),
            broken: None,
            began,
        }));
    }
    Ok(Some(Never {
        what: match missing.broken {
            Some(_) => missing.what,
            None => format!(
                "`{command}` was not ready within the {} ms of `daemon.ready_timeout_ms`, nor {:.0} s later, and nothing \
                 was judged: {} {place}{said}",
                bound.as_millis(),
                bound.min(LATE).as_secs_f64(),
                missing.what
            ),
        },
        help: "the command needs {state_dir} among its arguments or in its environment, and has to publish itself there; \
               if it takes longer to start, set `ready_timeout_ms` in the manifest's [daemon], which `daemonspec init` \
               writes"
            .to_owned(),
        broken: missing.broken,
        began,
    }))
}

fn command(daemon: &Daemon) -> String {
    printable(daemon.argv().join(" ").as_bytes())
}

/// What it wrote, as the rest of a sentence.
fn words(daemon: &Daemon) -> String {
    let ended = daemon.wait_output_end(Instant::now() + Duration::from_millis(200));
    let output = ended.unwrap_or_else(|| daemon.output()).all();
    let text = String::from_utf8_lossy(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    let text = printable(text.as_bytes());
    let skipped = text.chars().count().saturating_sub(WORDS);
    let last: String = text.chars().skip(skipped).collect();
    match (last.is_empty(), skipped) {
        (true, _) => ". It wrote nothing".to_owned(),
        (false, 0) => format!(". It wrote: {last}"),
        (false, _) => format!(". It wrote at last: …{last}"),
    }
}
