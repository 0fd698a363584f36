//! Runs cases: each in a world of its own, several at a time, none longer than its deadline.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use globset::{Glob, GlobMatcher};
use local_daemon_harness::arena::Arena;
use local_daemon_harness::browser::Kind;
use local_daemon_spec::{Profile, Role, catalogue};

use crate::case::Case;
use crate::check_trace::Checker;
use crate::engines::Engines;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop};
use crate::report::CaseResult;
use crate::stage::{Notes, Stage};
use crate::verdict::{Verdict, violation};

/// After its subjects were ended, a case has so long to return before it is left to itself.
const GRACE: Duration = Duration::from_secs(2);

/// So many of those that do little but wait are begun beside the others.
const MOST_IDLE: usize = 8;

/// Which cases to run. An empty list selects everything.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of names; `*` also matches the slash.
    pub globs: Vec<String>,
    /// Profiles.
    pub profiles: BTreeSet<Profile>,
    /// The role.
    pub role: Option<Role>,
}

/// A selection that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionFault {
    /// Not a pattern.
    #[error("`{glob}` is not a pattern: {why}")]
    NotAPattern {
        /// As given.
        glob: String,
        /// What is wrong with it.
        why: String,
    },
    /// A pattern that no case's name matches.
    #[error("no case matches `{0}`")]
    NoSuchCase(String),
}

impl Selection {
    /// The selected ones of `cases`, in their order.
    pub fn of(
        &self,
        cases: impl Iterator<Item = &'static Case>,
    ) -> Result<Vec<&'static Case>, SelectionFault> {
        let cases: Vec<&'static Case> = cases.collect();
        let compile = |glob: &String| match Glob::new(glob) {
            Ok(compiled) => Ok(compiled.compile_matcher()),
            Err(error) => {
                Err(SelectionFault::NotAPattern { glob: glob.clone(), why: error.kind().to_string() })
            }
        };
        let globs: Vec<GlobMatcher> = self.globs.iter().map(compile).collect::<Result<_, _>>()?;
        if let Some(dead) = globs.iter().find(|glob| !cases.iter().any(|case| glob.is_match(case.name))) {
            return Err(SelectionFault::NoSuchCase(dead.glob().glob().to_owned()));
        }
        let selected = |case: &&'static Case| {
            (globs.is_empty() || globs.iter().any(|glob| glob.is_match(case.name)))
                && (self.profiles.is_empty() || self.profiles.contains(&case.profile))
                && self.role.is_none_or(|role| role.binds(case.role))
        };
        Ok(cases.into_iter().filter(selected).collect())
    }
}

/// How to run the selected cases.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The subject.
    pub manifest: Arc<Manifest>,
    /// In the order of the report.
    pub cases: Vec<&'static Case>,
    /// How many run at the same time, at least 1.
    pub jobs: usize,
    /// The seed of every random choice.
    pub seed: u64,
    /// The browsers, which have ended when the run has.
    pub engines: Engines,
    /// Asked of each case whether a model admits what was seen.
    pub checker: Option<Arc<Checker>>,
}

/// Ends a run from another thread: all subjects are ended, and what has no result yet gets none.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<StopperInner>);

#[derive(Debug, Default)]
struct StopperInner {
    stopped: AtomicBool,
    running: Mutex<Vec<(Weak<Notes>, Sender<Word>)>>,
}

impl Stopper {
    /// Ends the run.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        let running = std::mem::take(&mut *self.0.running.lock().unwrap_or_else(PoisonError::into_inner));
        for (notes, worker) in running {
            // A worker that is gone has its result already.
            let _ = worker.send(Word::Stop);
            if let Some(notes) = notes.upgrade() {
                notes.end();
            }
        }
    }

    /// Whether the run was ended.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Lets `stop` reach a case; it is told at once if it comes too late.
    fn register(&self, notes: &Arc<Notes>, worker: &Sender<Word>) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(notes, _)| notes.strong_count() > 0);
        running.push((Arc::downgrade(notes), worker.clone()));
        drop(running);
        if self.is_stopped() {
            self.stop();
        }
    }
}

/// What a worker hears about its case.
#[derive(Debug)]
enum Word {
    Done(Result<Outcome, String>),
    Stop,
}

/// Runs the plan and returns the results in its order; `finished` is called for each as it comes. Fewer results than
/// cases means that the run was stopped.
pub fn run(plan: &Plan, stopper: &Stopper, mut finished: impl FnMut(&CaseResult) + Send) -> Vec<CaseResult> {
    let tasks: Vec<Task> = plan.cases.iter().map(|case| (Arc::clone(&plan.manifest), *case)).collect();
    let mut results = Vec::new();
    let setting = Setting {
        seed: plan.seed,
        stopper,
        engines: &plan.engines,
        checker: plan.checker.as_deref(),
    };
    work(&tasks, plan.jobs, setting, |place, result| {
        finished(&result);
        results.push((place, result));
    });
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A case and the subject that it judges.
pub type Task = (Arc<Manifest>, &'static Case);

/// Runs every task, `jobs` at a time, begun in their order; then those of the engines side by side, one of each at a
/// time; the exclusive ones last and alone, the idle ones beside all. `finished` is given each result as it comes, with
/// the place of its task. Once the run is stopped, nothing more comes.
pub fn run_tasks(
    tasks: &[Task],
    jobs: usize,
    seed: u64,
    stopper: &Stopper,
    engines: &Engines,
    finished: impl FnMut(usize, CaseResult) + Send,
) {
    let setting = Setting { seed, stopper, engines, checker: None };
    work(tasks, jobs, setting, finished);
}

/// What all cases of a run have in common.
#[derive(Debug, Clone, Copy)]
struct Setting<'a> {
    seed: u64,
    stopper: &'a Stopper,
    engines: &'a Engines,
    checker: Option<&'a Checker>,
}

fn work(tasks: &[Task], jobs: usize, setting: Setting<'_>, finished: impl FnMut(usize, CaseResult) + Send) {
    let finished = Mutex::new(finished);
    let of = |wanted: &dyn Fn(&Case) -> bool| -> Vec<(usize, &Task)> {
        tasks.iter().enumerate().filter(|(_, (_, case))| wanted(case)).collect()
    };
    let work = |tasks: &[(usize, &Task)], jobs: usize| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(tasks.len()) {
                scope.spawn(|| {
                    while let Some((place, (manifest, case))) = tasks.get(next.fetch_add(1, Ordering::SeqCst))
                    {
                        let Some(result) = perform(case, manifest, setting) else {
                            return;
                        };
                        (*finished.lock().unwrap_or_else(PoisonError::into_inner))(*place, result);
                    }
                });
            }
        });
    };
    let idle = of(&|case| case.idle);
    let lanes = Kind::ALL.map(|kind| of(&|case| case.engine == Some(kind)));
    std::thread::scope(|scope| {
        scope.spawn(|| work(&idle, MOST_IDLE));
        let ordinary = |case: &Case| !case.exclusive && !case.idle && case.engine.is_none();
        work(&of(&ordinary), jobs.max(1));
        if jobs > 1 {
            std::thread::scope(|scope| {
                for lane in &lanes {
                    scope.spawn(|| work(lane, 1));
                }
            });
        } else {
            work(&lanes.concat(), 1);
        }
        setting.engines.end();
        work(&of(&|case| case.exclusive && !case.idle), 1);
    });
}

/// Runs one case to its verdict; `None` once the run is stopped.
pub fn run_case(
    case: &'static Case,
    manifest: &Arc<Manifest>,
    seed: u64,
    stopper: &Stopper,
) -> Option<CaseResult> {
    let setting = Setting { seed, stopper, engines: &Engines::default(), checker: None };
    perform(case, manifest, setting)
}

fn perform(case: &'static Case, manifest: &Arc<Manifest>, setting: Setting<'_>) -> Option<CaseResult> {
    let Setting { stopper, checker, .. } = setting;
    if stopper.is_stopped() {
        return None;
    }
    let began = Instant::now();
    if !case.is_asked_of(manifest) {
        let why = format!("the subject does not claim the profile {}", case.profile);
        return Some(CaseResult::new(case, Verdict::NotApplicable).observed(why));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{ensure, fail};

    fn manifest(command: &[&str]) -> Arc<Manifest> {
        let run = command.iter().map(|&word| word.to_owned()).collect();
        Arc::new(Manifest::of_command(run, BTreeSet::from([Profile::Core])).unwrap())
    }

    fn judge(case: &'static Case) -> CaseResult {
        run_case(case, &manifest(&["sleep", "60"]), 0, &Stopper::default()).unwrap()
    }

    #[test]
    fn a_pass_without_a_precondition_is_no_pass() {
        static CASE: Case = Case::new("publish/x", &["PUB-3"], "", |_| Ok(()));
        static SEEN: Case = Case::new("publish/x", &["PUB-3"], "", |stage| {
            stage.precondition("seen");
            Ok(())
        });
        assert_eq!(judge(&CASE).verdict, Verdict::HarnessError);
        assert_eq!(judge(&SEEN).verdict, Verdict::Pass);
    }

    #[test]
    fn a_violation_without_a_precondition_proves_nothing() {
        static CASE: Case = Case::new("publish/x", &["PUB-3"], "", |_| fail("torn"));
        static SEEN: Case = Case::new("publish/x", &["PUB-3"], "", |stage| {
            stage.precondition("seen");
            ensure!(false, "torn");
            Ok(())
        });
        let result = judge(&CASE);
        assert_eq!(result.verdict, Verdict::Inconclusive);
        assert!(result.observed.unwrap().contains("torn"));
        assert_eq!(judge(&SEEN).verdict, Verdict::Fail);
    }

    #[test]
    fn a_violated_recommendation_is_a_warning() {
        static CASE: Case = Case::new("registration/x", &["REG-8"], "", |stage| {
            stage.precondition("seen");
            ensure!(false, "no protocol");
            Ok(())
        });
        assert_eq!(judge(&CASE).verdict, Verdict::Warn);
    }

    #[test]
    fn a_subject_that_is_never_ready_follows_no_recommendation_and_breaks_none() {
        static MUST: Case = Case::new("publish/x", &["PUB-4"], "", |stage| stage.launch_ready().map(drop));
        static SHOULD: Case =
            Case::new("registration/x", &["REG-8"], "", |stage| stage.launch_ready().map(drop));
        let judge = |case| run_case(case, &manifest(&["true"]), 0, &Stopper::default()).unwrap().verdict;
        assert_eq!(judge(&MUST), Verdict::Fail);
        assert_eq!(judge(&SHOULD), Verdict::Inconclusive);
    }

    #[test]
    fn a_panic_is_the_suites_own_fault_and_says_where() {
        static CASE: Case = Case::new("publish/x", &["PUB-3"], "", |_| panic!("ouch"));
        let result = judge(&CASE);
        assert_eq!(result.verdict, Verdict::HarnessError);
        let seen = result.observed.unwrap();
        assert!(seen.contains("ouch") && seen.contains("runner.rs"), "{seen}");
    }

    #[test]
    fn an_overrun_ends_the_subject_and_is_the_suites_own_fault() {
        static PID: AtomicUsize = AtomicUsize::new(0);
        static CASE: Case = Case::new("publish/x", &["PUB-3"], "", |stage| {
            let daemon = stage.launch()?;
            PID.store(daemon.pid() as usize, Ordering::SeqCst);
            daemon.wait_exit(Instant::now() + Duration::from_secs(50));
            stage.precondition("seen");
            fail("counts for nothing")
        })
        .deadline_s(1);
        let result = judge(&CASE);
        assert_eq!(result.verdict, Verdict::HarnessError);
        assert!(result.observed.unwrap().contains("deadline of 1 s"));
        let pid = PID.load(Ordering::SeqCst);
        assert_ne!(pid, 0);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn what_a_subject_leaves_behind_is_ended_and_noted() {
        static CASE: Case = Case::new("publish/x", &["PUB-3"], "", |stage| {
            let daemon = stage.launch()?;
            ensure!(daemon.wait_exit(stage.ready_deadline()).is_some(), "still running");
            stage.precondition("exited");
            Ok(())
        });
        static STRICT: Case = CASE.no_leaks();
        let script = "setsid sh -c 'touch $HOME/apart; exec sleep 60' & \
                      until [ -e $HOME/apart ]; do :; done; sleep 60 & exit 0";
        let leaky = manifest(&["sh", "-c", script]);
        let noted = run_case(&CASE, &leaky, 0, &Stopper::default()).unwrap();
        assert_eq!(noted.verdict, Verdict::Pass);
        let left = noted.observed.unwrap();
        assert_eq!(left.matches("pid ").count(), 2, "{left}");
        assert_eq!(run_case(&STRICT, &leaky, 0, &Stopper::default()).unwrap().verdict, Verdict::Fail);
    }

    #[test]
    fn a_subject_that_exits_is_accused_at_once_and_its_words_are_kept() {
        static CASE: Case = Case::new("publish/x", &["PUB-4"], "", |stage| stage.launch_ready().map(drop));
        let began = Instant::now();
        let subject = manifest(&["sh", "-c", "echo no disk >&2; exit 7"]);
        let result = run_case(&CASE, &subject, 0, &Stopper::default()).unwrap();
        assert_eq!(result.verdict, Verdict::Fail);
        let seen = result.observed.unwrap();
        assert!(seen.contains("exit status 7"), "{seen}");
        assert!(began.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_stopped_run_has_no_further_results_and_no_subjects() {
        static CASE: Case = Case::new("publish/x", &["PUB-4"], "", |stage| stage.launch_ready().map(drop));
        let stopper = Stopper::default();
        let plan = Plan {
            manifest: manifest(&["sleep", "60"]),
            cases: vec![&CASE, &CASE, &CASE],
            jobs: 2,
            seed: 0,
            engines: Engines::default(),
            checker: None,
        };
        let stop = stopper.clone();
        let stopping = std::thread::spawn(move || {
            let registered = || (stop.0.running.lock().unwrap().len() == 2).then_some(());
            local_daemon_harness::wait::until(Instant::now() + Duration::from_secs(5), registered).unwrap();
            stop.stop();
        });
        let began = Instant::now();
        assert!(run(&plan, &stopper, |_| {}).is_empty());
        assert!(began.elapsed() < Duration::from_secs(4));
        stopping.join().unwrap();
    }

    #[test]
    fn a_selection_is_by_pattern_profile_and_role() {
        let of = |globs: &[&str], profiles: &[Profile], role| {
            let selection = Selection {
                globs: globs.iter().map(|&glob| glob.to_owned()).collect(),
                profiles: profiles.iter().copied().collect(),
                role,
            };
            selection.of(crate::cases::all()).map(|cases| cases.len())
        };
        let all = crate::cases::all().count();
        assert_eq!(of(&[], &[], None), Ok(all));
        assert_eq!(of(&["*"], Profile::ALL, None), Ok(all));
        let by_role = |role| of(&[], &[], Some(role)).unwrap();
        assert_eq!(by_role(Role::Daemon) + by_role(Role::Client), all);
        assert_eq!(of(&["registration/round-*"], &[], None), Ok(1));
        let browser = crate::cases::all().filter(|case| case.profile == Profile::Browser);
        assert_eq!(of(&[], &[Profile::Browser], None), Ok(browser.count()));
        assert_eq!(of(&["nothing/*"], &[], None), Err(SelectionFault::NoSuchCase("nothing/*".to_owned())));
        assert!(matches!(of(&["["], &[], None), Err(SelectionFault::NotAPattern { .. })));
    }
}
