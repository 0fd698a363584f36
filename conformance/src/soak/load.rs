//! One daemon that serves all the time: handshakes, reads, notes, and streams on which each accepted note must come.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_harness::http::{Connection, HttpFault, Request, probe_with_proof};
use local_daemon_harness::process::{Proc, Signal};
use local_daemon_harness::proof;
use local_daemon_harness::sse::EventStream;
use local_daemon_harness::wait::until;
use local_daemon_spec::Profile;
use serde::Serialize;

use super::connections::{open_stream, soon};
use super::strikes::{STRIKES, Strike};
use super::{MOST_TEXTS, Plan};
use crate::engines::Engines;
use crate::fixtures::stream::{Poster, follow, split};
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Stop, ensure, fail};
use crate::runner::Stopper;
use crate::stage::{Daemon, Notes, ReadyDaemon, Stage};
use crate::verdict::Verdict;

/// The name that replaces a case's name in `{case}` and seeds random choices.
const NAME: &str = "soak/load";

/// How long after the last note a stream may deliver it, and a struck daemon may take to answer again.
const AGAIN: Duration = Duration::from_secs(5);
/// A stream that is taken up again has had so many events.
const TAKEN_UP: u64 = 100;
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

/// What those who send and those who listen share.
#[derive(Debug, Default)]
struct Shared {
    requests: AtomicU64,
    refused: AtomicU64,
    gaps: AtomicU64,
    peak: AtomicU64,
    /// Nobody sends any more.
    is_over: AtomicBool,
    /// Nobody listens any more.
    is_quiet: AtomicBool,
    notes: Mutex<Ledger>,
}

/// Each note from both sides: whichever is seen first waits for the other.
#[derive(Debug, Default)]
struct Ledger {
    accepted: u64,
    /// Accepted, and not on the stream yet: what was posted, by the event's number.
    awaited: HashMap<u64, u64>,
    /// On the stream, and not answered yet.
    early: HashMap<u64, u64>,
    wrong: Vec<String>,
}

impl Ledger {
    fn wrong(&mut self, seen: String) {
        if self.wrong.len() < MOST_TEXTS {
            self.wrong.push(seen);
        }
    }

    fn accept(&mut self, seq: u64, note: u64) {
        self.accepted += 1;
        match self.early.remove(&seq) {
            Some(seen) if seen == note => {}
            Some(seen) => self.wrong.push(format!("event {seq} is note {note}, and came as {seen}")),
            None => drop(self.awaited.insert(seq, note)),
        }
    }

    fn see(&mut self, seq: u64, note: u64) {
        match self.awaited.remove(&seq) {
            Some(posted) if posted == note => {}
            Some(posted) => self.wrong.push(format!("event {seq} is note {posted}, and came as {note}")),
            None => drop(self.early.insert(seq, note)),
        }
    }

    /// The numbers up to this one are gone, and the stream was told so.
    fn forgive(&mut self, first: u64) {
        self.awaited.retain(|seq, _| *seq >= first);
    }
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Ledger> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, is_answered: bool) {
        if is_answered {
            self.requests.fetch_add(1, Relaxed);
        } else {
            self.refused.fetch_add(1, Relaxed);
            // A daemon that is out of descriptors is not asked again at once, as nobody would.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wrong(&self, seen: String) {
        self.notes().wrong(seen);
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
    let mut stage = Stage::new(
        NAME,
        None,
        Arc::clone(manifest),
        Arc::clone(&arena),
        Arc::clone(&notes),
        Engines::default(),
        plan.seed,
    );
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

fn shakes_hands(live: &ReadyDaemon, shared: &Shared) {
    while !shared.is_over.load(Relaxed) {
        let answer = probe_with_proof(&live.target, &live.credential, &proof::nonce(), soon());
        match answer {
            Ok(answer) if answer.response.status == 200 => {
                if answer.proven().is_none_or(|handshake| handshake.id != live.record.id) {
                    shared.wrong("a handshake was answered 200 without its proof".to_owned());
                }
                shared.count(true);
            }
            _ => shared.count(false),
        }
    }
}

fn reads(address: SocketAddr, read: &Request, shared: &Shared) {
    let mut connection = None;
    while !shared.is_over.load(Relaxed) {
        let answer = on(&mut connection, address, read);
        shared.count(answer.is_ok_and(|status| status == 200));
    }
}

/// One request on a connection that is kept, or a new one.
fn on(kept: &mut Option<Connection>, address: SocketAddr, request: &Request) -> Result<u16, HttpFault> {
    let deadline = soon();
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address, deadline)?,
    };
    let answer = connection.exchange(&request.bytes(), deadline)?;
    if !answer.closes {
        *kept = Some(connection);
    }
    Ok(answer.status)
}

fn posts(mut poster: Poster, place: u64, shared: &Shared) {
    // Two of them never post the same.
    let mut note = place;
    while !shared.is_over.load(Relaxed) {
        note += 2;
        let answered = poster.try_note(&note.to_string());
        let seq = answered.ok().as_deref().and_then(split).map(|(_, seq)| seq);
        if let Some(seq) = seq {
            shared.notes().accept(seq, note);
        }
        shared.count(seq.is_some());
    }
}

/// Follows the stream. Where that ends, or every now and then where `is_fickle`, it goes on after the last event.
fn listens(
    address: SocketAddr,
    request: &Request,
    mut stream: Option<EventStream>,
    is_fickle: bool,
    shared: &Shared,
) {
    let mut last: Option<String> = None;
    while !shared.is_quiet.load(Relaxed) {
        let Some(open) = &mut stream else {
            stream = open_stream(address, request, last.as_deref());
            shared.count(stream.is_some());
            continue;
        };
        let mut count = 0;
        let seen = follow(open, Instant::now() + Duration::from_millis(100), |_| {
            count += 1;
            count == TAKEN_UP
        });
        for event in &seen.events {
            if event.name == "gap" {
                shared.gaps.fetch_add(1, Relaxed);
                if let Some(first) = event.first() {
                    shared.notes().forgive(first);
                }
                last = None;
            }
            let Some(id) = &event.id else { continue };
            let (before, now) = (last.as_deref().and_then(split), split(id));
            if let (Some((_, before)), Some((_, now))) = (before, now)
                && now != before + 1
            {
                shared.wrong(format!("after event {before} came {now}"));
            }
            if let (Some((_, seq)), Some(note), false) = (now, event.payload().as_u64(), is_fickle) {
                shared.notes().see(seq, note);
            }
            last = Some(id.clone());
        }
        if seen.ending.is_some() || is_fickle && seen.found {
            stream = None;
        }
    }
}

/// Looks at what the daemon has.
fn watches(process: &Proc, shared: &Shared) {
    while !shared.is_quiet.load(Relaxed) {
        shared.peak.fetch_max(usage(process).memory, Relaxed);
        std::thread::sleep(Duration::from_millis(100));
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
