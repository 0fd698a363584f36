//! Runs cases: each in a world of its own, several at a time, none longer than its deadline.

mod first;
mod perform;
mod selection;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use local_daemon_harness::browser::Kind;

pub use self::first::{First, first_launch};
use self::perform::perform;
pub use self::selection::{Selected, Selection, SelectionFault};
use crate::case::Case;
use crate::check_trace::Checker;
use crate::engines::Engines;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::report::CaseResult;
use crate::stage::Notes;

/// So many of those that do little but wait are begun beside the others.
const MOST_IDLE: usize = 8;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use local_daemon_spec::Profile;

    use super::*;
    use crate::outcome::{ensure, fail};
    use crate::verdict::Verdict;

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
}
