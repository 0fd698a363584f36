//! One daemon that serves all the time: handshakes, reads, notes, and streams on which each accepted note must come.

mod traffic;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_harness::process::{Proc, Signal};
use local_daemon_harness::proof;
use local_daemon_harness::wait::until;
use local_daemon_spec::Profile;
use serde::Serialize;

use self::traffic::{Shared, listens, posts, reads, shakes_hands, watches};
use super::Plan;
use super::connections::open_stream;
use super::strikes::{STRIKES, Strike};
use crate::fixtures::stream::Poster;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop, ensure, fail};
use crate::runner::Stopper;
use crate::stage::{Daemon, Notes, ReadyDaemon, Stage};
use crate::verdict::Verdict;

/// The name that replaces a case's name in `{case}` and seeds random choices.
const NAME: &str = "soak/load";

/// How long after the last note a stream may deliver it, and a struck daemon may take to answer again.
const AGAIN: Duration = Duration::from_secs(5);
/// What memory may grow by and be called stable: what allocators keep. In bytes.
const KEPT: u64 = 4 * 1024 * 1024;

/// One fault's name, what came of it, and what was seen.
pub(super) type Struck = (&'static str, Verdict, Option<String>);

/// What a daemon has of the host.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: u64,
    /// Its own memory and its share of what is shared, in bytes.
    pub memory: u64,
}

/// How the daemon that served all the time did.
#[derive(Debug, Serialize)]
pub struct Load {
    /// Requests that were answered as they have to be.
    pub requests: u64,
    /// Requests that came to nothing, or were turned away, while the daemon was struck.
    pub refused: u64,
    /// Notes that it accepted.
    pub accepted: u64,
    /// Accepted notes that a stream which was open all the time never had, or had otherwise.
    pub lost: u64,
    /// How often a stream was told that something is not held any more.
    pub gaps: u64,
    /// How often it did not answer again after a fault.
    pub wedged: u64,
    /// When it was ready.
    pub before: Usage,
    /// After each fault was done once: what it holds by design, such as its log, is full. Absent where time was short.
    pub warm: Option<Usage>,
    /// At the end, without a connection.
    pub after: Usage,
    /// The most memory that was seen.
    pub peak: u64,
    /// What else was wrong: the first of it.
    pub wrong: Vec<String>,
}

impl Load {
    /// Nothing lost, nothing wedged, and no more in use than before.
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.wedged == 0 && self.wrong.is_empty()
    }

    /// What it has more of than it had.
    fn grown(before: Usage, warm: Option<Usage>, after: Usage) -> Vec<String> {
        let mut grown = Vec::new();
        if after.descriptors > before.descriptors {
            grown.push("descriptors are left open".to_owned());
        }
        if warm.is_some_and(|warm| after.memory > warm.memory + warm.memory / 4 + KEPT) {
            grown.push("memory grows".to_owned());
        }
        grown
    }

    pub(super) fn tell(&self, text: &mut String) {
        let kib = |bytes: u64| bytes / 1024;
        for wrong in &self.wrong {
            let _ = writeln!(text, "wrong: {wrong}");
        }
        let Self { before, warm, after, .. } = self;
        let _ = writeln!(
            text,
            "requests: {}, refused while struck: {}\nnotes: {} accepted, {} lost, {} gaps told\nwedged: {}",
            self.requests, self.refused, self.accepted, self.lost, self.gaps, self.wedged
        );
        let _ = writeln!(
            text,
            "memory: {} KiB at first, {} warm, {} at the end, {} at most\ndescriptors: {} at first, {} at the end",
            kib(before.memory),
            warm.map_or_else(|| "never".to_owned(), |warm| kib(warm.memory).to_string()),
            kib(after.memory),
            kib(self.peak),
            before.descriptors,
            after.descriptors
        );
    }
}

/// How the load is struck.
struct Striker<'a, T> {
    strikes: Vec<(&'static str, Strike)>,
    end: Instant,
    stopper: &'a Stopper,
    tell: &'a T,
    struck: Vec<Struck>,
    wedged: u64,
    warm: Option<Usage>,
}

/// Loads one daemon until `end`, strikes it meanwhile, and looks at what it has come to.
pub(super) fn run(
    manifest: &Arc<Manifest>,
    plan: &Plan,
    end: Instant,
    stopper: &Stopper,
    tell: &impl Fn(&str),
) -> (Result<Load, String>, Vec<Struck>) {
    let arena = match Arena::new() {
        Ok(arena) => Arc::new(arena),
        Err(error) => return (Err(format!("cannot make a directory: {error}")), Vec::new()),
    };
    let notes = Arc::new(Notes::default());
    let mut stage = Stage::without_engine(NAME, manifest, &arena, &notes, plan.seed);
    let strikes = STRIKES.iter().copied();
    let mut striker = Striker {
        strikes: strikes.filter(|(name, _)| plan.faults.contains(name)).collect(),
        end,
        stopper,
        tell,
        struck: Vec::new(),
        wedged: 0,
        warm: None,
    };
    let load = loaded(&mut stage, &mut striker);
    notes.end();
    drop(stage);
    arena.end_leaks();
    (load.map_err(|stop| verdict(stop).1), striker.struck)
}

fn loaded<T: Fn(&str)>(stage: &mut Stage, striker: &mut Striker<'_, T>) -> Outcome<Load> {
    let (daemon, live) = stage.launch_ready()?;
    let Some(process) = Proc::of(daemon.pid()) else {
        return fail("the daemon has ended");
    };
    let before = usage(&process);
    let shared = Shared::default();
    let read = stage.manifest().binding.authenticated_read.clone();
    let read = read.map(|operation| {
        live.operation(&operation).header("Authorization", &proof::bearer(&live.credential))
    });
    let mut posters = Vec::new();
    let mut stream = None;
    if stage.manifest().claims(Profile::Streams) {
        posters = vec![Poster::new(&live)?, Poster::new(&live)?];
        stream = Some(live.stream_request("", &[])?);
    }
    let ended: Outcome = std::thread::scope(|scope| {
        let (shared, live, process) = (&shared, &live, &process);
        scope.spawn(move || shakes_hands(live, shared));
        scope.spawn(move || watches(process, shared));
        if let Some(read) = &read {
            scope.spawn(move || reads(live.target.address, read, shared));
        }
        if let Some(stream) = &stream {
            // Open before the first note: it has to have them all.
            let steady = open_stream(live.target.address, stream, None);
            scope.spawn(move || listens(live.target.address, stream, steady, false, shared));
            scope.spawn(move || listens(live.target.address, stream, None, true, shared));
        }
        for (place, poster) in posters.into_iter().enumerate() {
            scope.spawn(move || posts(poster, place as u64, shared));
        }
        let ended = striker.run(stage, &daemon, live);
        shared.is_over.store(true, Relaxed);
        until(Instant::now() + AGAIN, || shared.notes().awaited.is_empty().then_some(()));
        shared.is_quiet.store(true, Relaxed);
        ended
    });
    ended?;
    // Connections that were dropped are noticed, and closed.
    until(Instant::now() + AGAIN, || (usage(&process).descriptors <= before.descriptors).then_some(()));
    let after = usage(&process);
    daemon.signal(Signal::TERM)?;
    ensure!(daemon.wait_exit(stage.stand_down_deadline()).is_some(), "at the end it does not stop");
    let mut ledger = std::mem::take(&mut *shared.notes());
    ledger.wrong.extend(Load::grown(before, striker.warm, after));
    Ok(Load {
        requests: shared.requests.into_inner(),
        refused: shared.refused.into_inner(),
        accepted: ledger.accepted,
        lost: ledger.awaited.len() as u64,
        gaps: shared.gaps.into_inner(),
        wedged: striker.wedged,
        before,
        warm: striker.warm,
        after,
        peak: shared.peak.into_inner(),
        wrong: ledger.wrong,
    })
}

impl<T: Fn(&str)> Striker<'_, T> {
    /// Each once, and then by chance.
    fn run(&mut self, stage: &mut Stage, daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
        let mut count = 0;
        while Instant::now() < self.end && !self.stopper.is_stopped() {
            if self.strikes.is_empty() {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let next = self.strikes.get(count).copied();
            let (name, strike) = next.unwrap_or_else(|| *stage.rng().pick(&self.strikes));
            let outcome = strike(stage, daemon, live);
            let again = until(Instant::now() + AGAIN, || live.is_ready().then_some(()));
            let (verdict, seen) = match outcome {
                _ if again.is_none() => {
                    self.wedged += 1;
                    let how = daemon.exit();
                    let how = how.map_or("does not answer".to_owned(), |exit| exit.to_string());
                    (Verdict::Fail, Some(format!("afterwards the daemon: {how}")))
                }
                Ok(()) => (Verdict::Pass, None),
                Err(stop) => {
                    let (verdict, seen) = verdict(stop);
                    (verdict, Some(seen))
                }
            };
            self.struck.push((name, verdict, seen));
            (self.tell)(name);
            if !daemon.is_running() {
                return fail("the daemon has ended");
            }
            count += 1;
            if count == self.strikes.len() {
                self.warm = Proc::of(daemon.pid()).as_ref().map(usage);
            }
        }
        Ok(())
    }
}

fn verdict(stop: Stop) -> (Verdict, String) {
    match stop {
        Stop::Violation(seen) | Stop::NotReady(seen) => (Verdict::Fail, seen),
        Stop::Deviation(seen) => (Verdict::Warn, seen),
        Stop::Inconclusive(why) => (Verdict::Inconclusive, why),
        Stop::Untestable(why) => (Verdict::Untestable, why),
        Stop::NotApplicable(why) => (Verdict::NotApplicable, why),
        Stop::Fault(why) => (Verdict::HarnessError, why),
    }
}

fn usage(process: &Proc) -> Usage {
    Usage {
        descriptors: process.descriptors().len() as u64,
        memory: process.memory().unwrap_or_default(),
    }
}

/// A little of everything, each answered as it has to be.
pub(super) fn work(stage: &mut Stage, live: &ReadyDaemon) -> Outcome {
    let bearer = proof::bearer(&live.credential);
    let binding = stage.manifest().binding.clone();
    let operations = [binding.authenticated_read, binding.mutation];
    for operation in operations.iter().flatten() {
        let request = live.operation(operation).header("Authorization", &bearer);
        let answer = live.send(&request);
        let well = answer.as_ref().is_ok_and(|answer| answer.status < 300);
        let said = answer.map_or_else(|fault| fault.to_string(), |answer| answer.status.to_string());
        ensure!(well, "{} {}: {said}", operation.method, operation.path);
    }
    let proven = live.probe_with_proof();
    let proven =
        proven.is_ok_and(|answer| !stage.manifest().claims(Profile::Proof) || answer.proven().is_some());
    ensure!(proven, "a handshake with proof is not answered with proof");
    Ok(())
}
