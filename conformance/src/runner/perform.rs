//! One case, from its world to its verdict.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_spec::{Role, catalogue};

use super::{Setting, Word};
use crate::case::Case;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop};
use crate::report::CaseResult;
use crate::stage::{Notes, Stage};
use crate::verdict::{Verdict, violation};

/// After its subjects were ended, a case has so long to return before it is left to itself.
const GRACE: Duration = Duration::from_secs(2);

/// Runs one case to its verdict; `None` once the run is stopped.
pub(super) fn perform(
    case: &'static Case,
    manifest: &Arc<Manifest>,
    setting: Setting<'_>,
) -> Option<CaseResult> {
    let Setting { stopper, checker, .. } = setting;
    if stopper.is_stopped() {
        return None;
    }
    let began = Instant::now();
    if !case.is_asked_of(manifest) {
        return Some(CaseResult::unclaimed(case));
    }
    let arena = match Arena::shaped(case.shape) {
        Ok(arena) => Arc::new(arena),
        Err(error) => {
            let why = format!("cannot make a directory for the case: {error}");
            return Some(CaseResult::new(case, Verdict::HarnessError).observed(why));
        }
    };
    let notes = Arc::new(Notes::default());
    if checker.is_some()
        && let Err(error) = notes.record(arena.state_dir(), &manifest.binding.registration)
    {
        let why = format!("cannot record the case: {error}");
        return Some(CaseResult::new(case, Verdict::HarnessError).observed(why));
    }
    let (words, heard) = mpsc::channel();
    stopper.register(&notes, &words);
    let outcome = match start(case, manifest, &arena, &notes, setting, words) {
        Err(error) => Err(format!("cannot start a thread: {error}")),
        Ok(()) => match heard.recv_timeout(case.deadline) {
            Ok(Word::Done(outcome)) => {
                // What comes after the case is the runner's doing.
                if let (Some(checker), Some(trace)) = (checker, notes.recorded(case.name, arena.transcript()))
                {
                    checker.judge(case.name, &trace);
                }
                outcome
            }
            Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => {
                notes.end();
                let _ = heard.recv_timeout(GRACE);
                clear(arena);
                return None;
            }
            Err(RecvTimeoutError::Timeout) => {
                arena.transcript().note("suite", "deadline", "the case is ended");
                notes.end();
                // What it says now comes of its subjects' end and counts for nothing.
                let _ = heard.recv_timeout(GRACE);
                Err(format!("the case overran its deadline of {} s", case.deadline.as_secs()))
            }
        },
    };
    if stopper.is_stopped() {
        notes.end();
        clear(arena);
        return None;
    }
    let mut leaks = notes.left_behind();
    notes.end();
    leaks.extend(arena.end_leaks().iter().map(ToString::to_string));
    if case.role == Role::Client && !case.no_leaks {
        // What a client starts is meant to outlive it.
        leaks.clear();
    }
    notes.hide_credentials(manifest, arena.transcript());

    let ended = notes.lock();
    let never_ready = matches!(outcome, Ok(Err(Stop::NotReady(_))));
    let (verdict, mut sights) = settle(case, outcome, !ended.preconditions.is_empty(), &leaks);
    sights.splice(0..0, ended.observed.iter().cloned());
    if !leaks.is_empty() {
        sights.push(format!("left behind and ended: {}", leaks.join(", ")));
    }
    once(&mut sights);
    let redacted =
        |texts: &[String]| (!texts.is_empty()).then(|| arena.transcript().redact(&texts.join("; ")));
    let result = CaseResult {
        duration_ms: began.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        precondition: redacted(&brief(&ended.preconditions)),
        expected: redacted(&ended.expected).or_else(|| Some(case.about.to_owned())),
        observed: redacted(&sights),
        transcript: arena.transcript().events(),
        never_ready,
        ..CaseResult::new(case, verdict)
    };
    drop(ended);
    clear(arena);
    Some(result)
}

/// Leaves each text once: many cases end with what they had noted.
fn once(texts: &mut Vec<String>) {
    let all = std::mem::take(texts);
    for text in all {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
}

/// The first and the last of many: a case may see hundreds of daemons ready, and the transcript has them all.
fn brief(texts: &[String]) -> Vec<String> {
    const ENOUGH: usize = 6;
    if texts.len() <= ENOUGH {
        return texts.to_vec();
    }
    let mut brief = texts[..ENOUGH - 2].to_vec();
    brief.push(format!("{} more", texts.len() - ENOUGH + 1));
    brief.push(texts[texts.len() - 1].clone());
    brief
}

/// The verdict of a case that returned, and what was seen.
///
/// Nothing is concluded without a precondition that was seen: a violation is then `inconclusive`, because the subject
/// may never have been in the state in which it is judged; a pass is `harness-error`, because a case that passes
/// without having seen anything would pass a subject that does nothing.
fn settle(
    case: &Case,
    outcome: Result<Outcome, String>,
    precondition_seen: bool,
    leaks: &[String],
) -> (Verdict, Vec<String>) {
    let accusation = violation(catalogue(), case.requirements);
    match outcome {
        Ok(Ok(())) if !precondition_seen => {
            (Verdict::HarnessError, vec!["the case passed without having seen a precondition".to_owned()])
        }
        Ok(Ok(())) if case.no_leaks && !leaks.is_empty() => (accusation, Vec::new()),
        Ok(Ok(())) => (Verdict::Pass, Vec::new()),
        Ok(Err(Stop::Deviation(seen))) if precondition_seen => (Verdict::Warn, vec![seen]),
        Ok(Err(Stop::Violation(seen))) if precondition_seen => (accusation, vec![seen]),
        Ok(Err(Stop::Violation(seen) | Stop::Deviation(seen))) => (
            Verdict::Inconclusive,
            vec![
                seen,
                "no precondition was seen, so this proves nothing".to_owned(),
            ],
        ),
        Ok(Err(Stop::NotReady(seen))) if accusation == Verdict::Fail => (Verdict::Fail, vec![seen]),
        Ok(Err(Stop::NotReady(why) | Stop::Inconclusive(why))) => (Verdict::Inconclusive, vec![why]),
        Ok(Err(Stop::Untestable(why))) => (Verdict::Untestable, vec![why]),
        Ok(Err(Stop::NotApplicable(why))) => (Verdict::NotApplicable, vec![why]),
        Ok(Err(Stop::Fault(why))) | Err(why) => (Verdict::HarnessError, vec![why]),
    }
}

/// Starts the case on a thread of its own, so that one that never returns can be left behind.
fn start(
    case: &'static Case,
    manifest: &Arc<Manifest>,
    arena: &Arc<Arena>,
    notes: &Arc<Notes>,
    setting: Setting<'_>,
    words: Sender<Word>,
) -> std::io::Result<()> {
    keep_panics();
    let mut stage = Stage::new(
        case.name,
        case.engine,
        Arc::clone(manifest),
        Arc::clone(arena),
        Arc::clone(notes),
        setting.engines.clone(),
        setting.seed,
    );
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(&mut stage)));
        // The world has to be the runner's alone before the runner looks at what is left of it.
        drop(stage);
        let outcome = outcome.map_err(|_| format!("the case panicked: {}", PANIC.take()));
        // A runner that does not listen any more has given the case up.
        let _ = words.send(Word::Done(outcome));
    };
    std::thread::Builder::new().name(format!("{THREAD}{}", case.name)).spawn(body).map(drop)
}

/// Removes the arena, also if a case that was given up still holds it.
fn clear(arena: Arc<Arena>) {
    if let Err(held) = Arc::try_unwrap(arena) {
        held.end_leaks();
        // What cannot be removed is in a temporary directory.
        let _ = std::fs::remove_dir_all(held.path());
    }
}

const THREAD: &str = "case ";

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the panics of cases for their results instead of printing them between the results of others.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with(THREAD)) {
                PANIC.set(panic.to_string());
            } else {
                others(panic);
            }
        }));
    });
}
