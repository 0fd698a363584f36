//! Connect-or-spawn, the child, and what displaces: chapter 09, its second half.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, FakeDaemon, Squatter};
use local_daemon_harness::files::{FileEventKind, Snapshot, Watch};
use local_daemon_harness::platform::{Setup, make_fifo};
use local_daemon_harness::process::{Proc, Signal, processes};
use local_daemon_harness::record::{Record, Url};
use local_daemon_harness::wait::{ms, until};
use rustix::fs::{FlockOperation, flock};

use super::super::scene::{DeadPort, NOBODYS_PID, count};
use super::outcomes::arrange;
use super::scene::{
    Part, SOON, Spy, World, bystander, ends, ends_after, furnished, gone, lives, not_started, play,
    play_published, publish, ready_with, settled, squat,
};
use crate::case::{Case, Outcome, Stop};
use crate::stage::{Answer, Call, Caller, Command, LATE, Live, Stage};

/// The cases of the chapter's second half.
pub(crate) const CASES: &[Case] = &[
    Case::client(
        "connect/no-second-daemon-beside-a-draining-one",
        &["CONN-13"],
        "The record's daemon is draining; nothing is started while it is. Then its record is gone and no successor has \
         come: a daemon is started.",
        no_second_daemon_beside_a_draining_one,
    ),
    Case::client(
        "connect/reads-again-before-it-spawns",
        &["CONN-14"],
        "While the probe of a stranger is under way, a good daemon's record takes its record's place: nothing is started.",
        reads_again_before_it_spawns,
    ),
    Case::client(
        "connect/many-callers-one-daemon",
        &["CONN-15"],
        "Eight calls at once on a state directory without a record, with a stale one and with a stranger's: all of them \
         end ready on one id (sccache#340, sccache#824).",
        many_callers_one_daemon,
    )
    .deadline_s(60),
    Case::client(
        "connect/waits-for-the-lock",
        &["CONN-16"],
        "The advisory lock is held for 400 ms: until then no daemon is started, afterwards one is.",
        waits_for_the_lock,
    ),
    Case::client(
        "connect/goes-on-without-the-lock",
        &["CONN-17"],
        "The advisory lock is held for good, and then cannot be opened: a daemon is started all the same.",
        goes_on_without_the_lock,
    ),
    Case::client(
        "connect/looks-again-under-the-lock",
        &["CONN-18"],
        "While the client waits for the advisory lock, a daemon's record is published, and then the lock let go.",
        looks_again_under_the_lock,
    ),
    Case::client(
        "connect/gives-the-lock-back",
        &["CONN-19"],
        "The client's child hangs: the advisory lock is free again after a second, while the client still waits. A child \
         that becomes ready does not keep it.",
        gives_the_lock_back,
    ),
    Case::client(
        "connect/one-spawn-a-call",
        &["CONN-20"],
        "The client's child ends with an error, ends without one, and hangs: it is started once in each call \
         (opencode#35455).",
        one_spawn_a_call,
    ),
    Case::client(
        "connect/three-failures-then-no-more",
        &["CONN-21"],
        "Three calls' children end with an error; the fourth call fails at once, starts nothing, and repeats what the last \
         child said (opencode#41696).",
        three_failures_then_no_more,
    ),
    Case::client(
        "connect/tells-its-child-to-yield",
        &["CONN-22"],
        "The client's child starts slowly; meanwhile another daemon is published. The child yields, and the record stays.",
        tells_its_child_to_yield,
    ),
    Case::client(
        "connect/leaves-the-old-record-alone-after-a-spawn",
        &["CONN-23"],
        "The record leads to a mute listener, and the client's child hangs: the listener is not asked again \
         (bazel#5858). Then a good daemon's record comes, and the client is ready with it.",
        leaves_the_old_record_alone,
    ),
    Case::client(
        "connect/takes-any-daemon-that-comes",
        &["CONN-24"],
        "The client's child hangs; a stranger's record comes, and then another daemon's.",
        takes_any_daemon_that_comes,
    ),
    Case::client(
        "connect/a-child-that-yields-is-no-failure",
        &["CONN-25"],
        "The record's daemon is silent, answers the client's child, which yields with status 0, and is silent again: that \
         is no failed spawn.",
        a_child_that_yields_is_no_failure,
    ),
    Case::client(
        "connect/goes-to-the-daemon-that-its-child-yielded-to",
        &["CONN-25"],
        "The record's daemon is silent until the client has started a child, and answers then: the child yields to it, the \
         record does not change, and the client is ready with it.",
        goes_where_its_child_yielded,
    ),
    Case::client(
        "connect/a-failed-child-is-known-at-once",
        &["CONN-26"],
        "The client's child ends with an error at once, and after a while: the call ends with it.",
        a_failed_child_is_known_at_once,
    ),
    Case::client(
        "connect/another-daemon-makes-up-for-a-failed-child",
        &["CONN-26"],
        "While the client is stopped, a daemon is published and the client's child ends with an error.",
        another_daemon_makes_up,
    ),
    Case::client(
        "connect/repeats-the-childs-error",
        &["CONN-27"],
        "The client's child says why it cannot start.",
        repeats_the_childs_error,
    ),
    Case::client(
        "connect/the-daemon-outlives-its-client",
        &["CONN-30"],
        "The started daemon has a session of its own; the client's whole group and its session's get SIGHUP, SIGINT and \
         SIGKILL, and the daemon is still ready (gokcehan/lf#512).",
        the_daemon_outlives_its_client,
    ),
    Case::client(
        "connect/the-daemon-holds-nothing-of-its-client",
        &["CONN-31"],
        "The client has a file as standard input, pipes as outputs and two more descriptors. The daemon that it starts \
         has none of them, and whoever reads the client's outputs sees their end (Tencent/BrowserSkill#55).",
        the_daemon_holds_nothing_of_its_client,
    ),
    Case::client(
        "connect/the-daemon-works-in-the-root",
        &["CONN-32"],
        "The started daemon's working directory is `/`.",
        the_daemon_works_in_the_root,
    ),
    Case::client(
        "connect/no-zombie-while-it-waits",
        &["CONN-33"],
        "The client's child ends at once, without an error and without a daemon: while the client still runs, no zombie \
         of its own stays.",
        no_zombie_while_it_waits,
    ),
    Case::client(
        "connect/displaces-by-publishing-alone",
        &["CONN-34"],
        "The record's daemon speaks the client's protocol with a lower number: the client starts one that publishes over \
         it. No signal reaches the recorded process, the name is never free, and the old daemon is sent nothing but \
         handshakes.",
        displaces_by_publishing_alone,
    ),
    Case::client(
        "connect/displaces-when-told-to",
        &["CONN-34"],
        "A client that is told to replace meets a daemon of another name: one of its own is started and publishes over it.",
        displaces_when_told_to,
    ),
    Case::client(
        "connect/private-leaves-no-trace",
        &["CONN-35"],
        "A throwaway daemon is asked for beside a good one: the shared state directory stays as it is, and after the \
         client's end no process and no directory is left.",
        private_leaves_no_trace,
    ),
    Case::client(
        "connect/restart-means-another-daemon",
        &["CONN-36"],
        "A restart of a daemon that runs, and of one that is stopped (SIGSTOP), ends ready with another id \
         (opencode#37795).",
        restart_means_another_daemon,
    ),
    Case::client(
        "connect/no-restart-no-success",
        &["CONN-36"],
        "The daemon that is to be restarted proves itself, refuses to stop, and stays ready: no success is reported.",
        no_restart_no_success,
    ),
];

/// A connect-or-spawn with the spy in its daemon's place.
fn with(spy: &Spy) -> Call {
    Call::spawn().stand(spy.program())
}

/// A state directory whose record is stale, so that a call has to start a daemon; the client was seen to be ready before.
fn stale(stage: &mut Stage) -> Outcome<(World, DeadPort)> {
    let (world, _) = furnished(stage)?;
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    Ok((world, port))
}

/// The daemon that is ready in the arena's state directory.
fn running(stage: &mut Stage, answer: &Answer) -> Outcome<Live> {
    match stage.find(stage.state_dir()) {
        Ok(live) => {
            stage.precondition(format!(
                "the started daemon (pid {}) answers ready",
                live.record.pid
            ));
            Ok(live)
        }
        Err(why) => {
            stage.precondition("a client was called");
            stage.fail(format!("no daemon is ready ({why}) after {answer}"))
        }
    }
}

/// A daemon that the client started, as it answers now.
fn spawned(stage: &mut Stage) -> Outcome<(Answer, Live)> {
    if stage.client()?.connect_or_spawn.is_none() {
        return stage.not_applicable("the manifest has no `client.connect_or_spawn`");
    }
    let answer = stage.ask(Call::spawn())?;
    let live = running(stage, &answer)?;
    ready_with(stage, &answer, &live.record.id)?;
    Ok((answer, live))
}

fn process_of(stage: &mut Stage, live: &Live) -> Outcome<Proc> {
    match u32::try_from(live.record.pid).ok().and_then(Proc::of) {
        Some(process) => Ok(process),
        None => stage.fail(format!("there is no process {}", live.record.pid)),
    }
}

fn no_second_daemon_beside_a_draining_one(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("no daemon started while one is draining; one when its record is gone");
    let spy = Spy::new(stage, Part::Runs)?;
    let leaving = FakeDaemon {
        state: "draining".to_owned(),
        ..world.daemon()
    };
    let leaving = play_published(stage, leaving)?;
    let caller = stage.call(with(&spy))?;
    if leaving.actor.ledger().wait_request(caller.deadline).is_none() {
        return stage.fail("the record's daemon was not asked");
    }
    stage.precondition("the client asked a daemon that is draining");
    // Nothing announces that nothing is started.
    let early = spy.started(ms(700)).is_some();
    stage.ensure(!early, "a daemon was started beside one that is draining")?;
    std::fs::remove_file(stage.record_path())?;
    drop(leaving);
    let answer = stage.answer(&caller)?;
    ends(stage, &answer, "ready")?;
    stage.ensure(spy.starts().len() == 1, "not one daemon was started")
}

fn reads_again_before_it_spawns(stage: &mut Stage) -> Outcome {
    use local_daemon_harness::actors::response;
    let (_, good) = furnished(stage)?;
    stage.expect("ready with the daemon whose record came, and nothing started");
    let spy = Spy::new(stage, Part::Runs)?;
    let swap = super::scene::publisher(stage, &good.record);
    let stranger = super::scene::at_first(swap, |_, _| response(404, &[], b""));
    let (_actor, _) = squat(stage, stranger)?;
    let lock = hold_lock(stage)?;
    let watch = Watch::with_opens(stage.state_dir())?;
    let answer = stage.ask(with(&spy))?;
    not_started(stage, &spy, "although a good daemon's record had come")?;
    ready_with(stage, &answer, &good.daemon.id)?;
    let name = stage.manifest().binding.lock.clone();
    let spawning = count(&watch.events(), FileEventKind::Opened, &name) > 0;
    drop(lock);
    stage.ensure(
        !spawning,
        "the client went for the spawn's lock before it read again",
    )
}

fn many_callers_one_daemon(stage: &mut Stage) -> Outcome {
    const CALLERS: usize = 8;
    stage.expect("all of them ready, on one id");
    for scene in ["absent", "stale", "foreign"] {
        let world = if scene == "absent" {
            furnished(stage)?.0
        } else {
            World {
                credential: stage.find(stage.state_dir()).map_or_else(
                    |_| local_daemon_harness::proof::Credential::random(),
                    |live| live.credential,
                ),
                protocol: stage.client()?.protocol,
            }
        };
        let _standing = arrange(stage, &world, scene, NOBODYS_PID)?;
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            callers.push(stage.call(Call::spawn())?);
        }
        let mut ids = std::collections::BTreeSet::new();
        for caller in &callers {
            let answer = stage.answer(caller)?;
            ends_after(stage, &answer, "ready", scene)?;
            ids.insert(answer.id.unwrap_or_default());
        }
        stage.ensure(ids.len() == 1, format!("{scene}: {} ids: {ids:?}", ids.len()))?;
        let live = stage.find(stage.state_dir());
        let there = live.as_ref().is_ok_and(|live| ids.contains(&live.record.id));
        stage.ensure(
            there,
            format!("{scene}: the daemon of the record is another or none: {live:?}"),
        )?;
        stage.arena().end_leaks();
    }
    Ok(())
}

/// Holds the advisory lock.
fn hold_lock(stage: &Stage) -> Outcome<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(stage.lock_path())?;
    flock(&lock, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    Ok(lock)
}

/// Whether the advisory lock could be had now; it is given back at once.
fn lock_is_free(stage: &Stage) -> bool {
    let Ok(lock) = File::options().read(true).write(true).open(stage.lock_path()) else {
        return true;
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn waits_for_the_lock(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("no daemon started before the lock is let go, and one afterwards");
    let spy = Spy::new(stage, Part::Runs)?;
    let lock = hold_lock(stage)?;
    let caller = stage.call(with(&spy))?;
    let early = spy.started(ms(400)).is_some();
    drop(lock);
    let answer = stage.answer(&caller)?;
    ends(stage, &answer, "ready")?;
    stage.ensure(
        !early,
        "a daemon was started while the lock was held, within 400 ms",
    )
}

fn goes_on_without_the_lock(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("a daemon started 1 s later at the latest, and ready");
    let spy = Spy::new(stage, Part::Runs)?;
    let lock = hold_lock(stage)?;
    let caller = stage.call(with(&spy))?;
    let started = spy.started(caller.began + Duration::from_secs(1) + LATE);
    stage.ensure(
        started.is_some(),
        "no daemon 2.5 s after the call, with the lock held by another",
    )?;
    let answer = stage.answer(&caller)?;
    ends_after(stage, &answer, "ready", "with the lock held by another")?;
    stage.arena().end_leaks();
    drop(lock);
    std::fs::remove_file(stage.lock_path())?;
    std::fs::create_dir(stage.lock_path())?;
    let answer = stage.ask(with(&spy))?;
    ends_after(stage, &answer, "ready", "with a directory in the lock's place")?;
    stage.arena().end_leaks();
    std::fs::remove_dir(stage.lock_path())?;
    make_fifo(&stage.lock_path())?;
    let answer = stage.ask(with(&spy))?;
    ends_after(stage, &answer, "ready", "with a FIFO in the lock's place")
}

fn looks_again_under_the_lock(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("ready with the daemon that came, and nothing started");
    let spy = Spy::new(stage, Part::Runs)?;
    let came = play(stage, world.daemon())?;
    let lock = hold_lock(stage)?;
    let watch = Watch::with_opens(stage.state_dir())?;
    let caller = stage.call(with(&spy))?;
    let name = stage.manifest().binding.lock.clone();
    let waits = watch.wait_event(caller.began + SOON, FileEventKind::Opened, &name);
    if waits.is_none() {
        return stage.not_applicable("the client does not open the advisory lock");
    }
    stage.precondition("the client opened the advisory lock, which is held");
    publish(stage, &came.record)?;
    drop(lock);
    let answer = stage.answer(&caller)?;
    not_started(
        stage,
        &spy,
        "although one had come while the client waited for the lock",
    )?;
    ready_with(stage, &answer, &came.daemon.id)
}

fn gives_the_lock_back(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the lock free 1 s after the start of a child that hangs, and as soon as one is ready");
    let spy = Spy::new(stage, Part::Hangs)?;
    let caller = stage.call(with(&spy).within(4))?;
    spy.seen_started(stage)?;
    let at = Instant::now();
    if lock_is_free(stage) {
        return stage.not_applicable("the client does not hold the advisory lock for its child");
    }
    stage.precondition("the client holds the advisory lock while its child starts");
    let bound = at + Duration::from_secs(1) + super::super::scene::SLACK;
    let free = until(bound, ms_5(), || lock_is_free(stage).then_some(()));
    stage.ensure(
        free.is_some(),
        "the lock is still held 1.5 s after the start of the child",
    )?;
    stage.ensure(caller.is_running(), "the client did not wait for its child")?;
    caller.kill_group();
    stage.arena().end_leaks();
    let (_, live) = spawned(stage)?;
    let free = lock_is_free(stage);
    stage.ensure(
        free,
        format!("the lock is held beside the ready daemon {}", live.record.pid),
    )
}

const fn ms_5() -> Duration {
    Duration::from_millis(5)
}

fn one_spawn_a_call(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("one start in each call");
    for (what, part) in [
        ("ends with an error", Part::Ends(1, "no luck")),
        ("ends without an error", Part::Ends(0, "nothing to do")),
        ("hangs", Part::Hangs),
    ] {
        let spy = Spy::new(stage, part)?;
        let answer = stage.ask(with(&spy).within(2))?;
        let starts = spy.starts().len();
        stage.ensure(
            starts == 1,
            format!("a child that {what} was started {starts} times: {answer}"),
        )?;
        stage.arena().end_leaks();
        spy.forget()?;
    }
    Ok(())
}

fn three_failures_then_no_more(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("spawn-failed at once, with the last child's words and no start");
    for words in ["the first excuse", "the second excuse", "the third excuse"] {
        let spy = Spy::new(stage, Part::Ends(1, words))?;
        let answer = stage.ask(with(&spy))?;
        ends(stage, &answer, "spawn-failed")?;
        spy.seen_started(stage)?;
        spy.forget()?;
    }
    let spy = Spy::new(stage, Part::Runs)?;
    let answer = stage.ask(with(&spy))?;
    not_started(stage, &spy, "after three that failed within a minute")?;
    ends(stage, &answer, "spawn-failed")?;
    let quick = answer.after < LATE;
    stage.ensure(quick, format!("not at once: {answer}"))?;
    let said = answer.text().contains("the third excuse");
    stage.ensure(
        said,
        format!("what the last child said is not repeated: {answer}"),
    )
}

fn tells_its_child_to_yield(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("the child ends, and the record stays");
    let spy = Spy::new(stage, Part::Waits)?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    let other = play_published(stage, world.daemon())?;
    let answer = stage.answer(&caller)?;
    ready_with(stage, &answer, &other.daemon.id)?;
    let watch = Watch::on(stage.state_dir())?;
    spy.release()?;
    let gone = gone(pid);
    let name = stage.manifest().binding.registration.clone();
    let published = count(&watch.events(), FileEventKind::MovedTo, &name);
    stage.ensure(
        published == 0,
        "the child published over the daemon that was ready",
    )?;
    stage.ensure(gone, "the child has not ended 5 s after it found a ready daemon")
}

fn leaves_the_old_record_alone(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("nothing sent to the old record's address after the spawn");
    let spy = Spy::new(stage, Part::Hangs)?;
    let (old, _) = squat(stage, Squatter::answering(404, "{}"))?;
    let caller = stage.call(with(&spy))?;
    spy.seen_started(stage)?;
    let before = old.ledger().connections().len();
    stage.ensure(before > 0, "the record's address was not asked before the spawn")?;
    let asked = old.ledger().wait_for(ms(1_200), |taken| taken.len() > before);
    stage.ensure(
        asked.is_none(),
        "the old record's address was asked again after the spawn",
    )?;
    let came = play_published(stage, world.daemon())?;
    let answer = stage.answer(&caller)?;
    ready_with(stage, &answer, &came.daemon.id)
}

fn takes_any_daemon_that_comes(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("ready with the other daemon while the child hangs");
    let spy = Spy::new(stage, Part::Hangs)?;
    let caller = stage.call(with(&spy))?;
    spy.seen_started(stage)?;
    let (stranger, _) = squat(stage, Squatter::answering(404, "{}"))?;
    let asked = stranger.ledger().wait_request(Instant::now() + SOON);
    stage.ensure(asked.is_some(), "a record that came was not probed")?;
    let came = play_published(stage, world.daemon())?;
    let at = Instant::now();
    let answer = stage.answer(&caller)?;
    ready_with(stage, &answer, &came.daemon.id)?;
    let late = answer.exit.at.saturating_duration_since(at);
    stage.ensure(
        late < LATE,
        format!("{} ms after the record came: {answer}", late.as_millis()),
    )
}

/// A daemon that answers as long as it is awake, and takes connections when it is not; its record is published.
fn sleeper(stage: &Stage, world: &World) -> Outcome<(Actor, Arc<AtomicBool>, String)> {
    let (daemon, awake) = (world.daemon(), Arc::new(AtomicBool::new(false)));
    let (id, wakes) = (daemon.id.clone(), Arc::clone(&awake));
    let part = Squatter::responding(move |seen, address| {
        let answer = awake.load(Ordering::SeqCst).then(|| daemon.answer(seen, address));
        answer.unwrap_or_default()
    });
    let (actor, record) = squat(stage, part)?;
    let of = id.clone();
    publish(stage, &Record { id: of, ..record })?;
    Ok((actor, wakes, id))
}

/// Calls the client with a child that waits, before the record of a daemon that is asleep; wakes the daemon and lets the
/// child yield to it while the client is stopped.
fn yielded(stage: &mut Stage, spy: &Spy, awake: &AtomicBool, call: Call) -> Outcome<Caller> {
    let caller = stage.call(call)?;
    let Some(pid) = spy.started(caller.deadline) else {
        return Err(Stop::NotReady("the client started no daemon".to_owned()));
    };
    caller.signal(Signal::STOP)?;
    awake.store(true, Ordering::SeqCst);
    spy.release()?;
    if !gone(pid) {
        return stage.inconclusive("the child does not yield");
    }
    stage.precondition(
        "the record's daemon was silent and answered then; while the client was stopped, its child yielded",
    );
    Ok(caller)
}

fn a_child_that_yields_is_no_failure(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("another outcome than spawn-failed");
    let spy = Spy::new(stage, Part::Waits)?;
    let (_actor, awake, _) = sleeper(stage, &world)?;
    let caller = yielded(stage, &spy, &awake, with(&spy).within(5))?;
    awake.store(false, Ordering::SeqCst);
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    let failed = answer.outcome == "spawn-failed";
    stage.ensure(
        !failed,
        format!("although the child ended with status 0: {answer}"),
    )
}

fn goes_where_its_child_yielded(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("ready with the daemon of the record");
    let spy = Spy::new(stage, Part::Waits)?;
    let (_actor, awake, id) = sleeper(stage, &world)?;
    let caller = yielded(stage, &spy, &awake, with(&spy))?;
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    ready_with(stage, &answer, &id)
}

fn a_failed_child_is_known_at_once(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("spawn-failed as soon as the child has ended");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    ends_with_its_child(stage, pid, &caller)?;
    spy.forget()?;
    let spy = Spy::new(stage, Part::WaitsAndEnds(3))?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    // The client is waiting by now, or will be: either way it hears of the end only while it waits.
    spy.release()?;
    ends_with_its_child(stage, pid, &caller)
}

fn ends_with_its_child(stage: &mut Stage, pid: u32, caller: &Caller) -> Outcome {
    if !gone(pid) {
        return Err(Stop::Fault("the spy does not end".to_owned()));
    }
    let at = Instant::now();
    let answer = stage.answer_by(caller, at + Duration::from_secs(2))?;
    match answer {
        Some(answer) => ends(stage, &answer, "spawn-failed"),
        None => stage.fail("the client still waits 2 s after its child ended with an error"),
    }
}

fn another_daemon_makes_up(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("ready with the other daemon");
    let spy = Spy::new(stage, Part::WaitsAndEnds(1))?;
    let came = play(stage, world.daemon())?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    caller.signal(Signal::STOP)?;
    spy.release()?;
    if !gone(pid) {
        return Err(Stop::Fault("the spy does not end".to_owned()));
    }
    // The client hears of the end before it hears of the record.
    publish(stage, &came.record)?;
    stage.precondition("while the client was stopped, its child failed and a daemon was published");
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    ready_with(stage, &answer, &came.daemon.id)
}

fn repeats_the_childs_error(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the child's own words in the error");
    let words = "cannot listen: the address 127.0.0.1:47 is in use";
    let spy = Spy::new(stage, Part::Ends(1, words))?;
    let answer = stage.ask(with(&spy))?;
    spy.seen_started(stage)?;
    let said = answer.text().contains(words);
    stage.ensure(said, format!("the child said {words:?}, the client {answer}"))
}

fn the_daemon_outlives_its_client(stage: &mut Stage) -> Outcome {
    stage.expect("another session than the client's, and ready after the end of everything in that");
    let _ = furnished(stage)?;
    std::fs::remove_file(stage.record_path())?;
    // A leader that lives on, so that the session and the group are there to be signalled.
    let setup = Setup {
        own_session: true,
        ..Setup::default()
    };
    let shell = ["sh", "-c", r#""$@"; status=$?; sleep 600; exit $status"#, "sh"];
    let caller = stage.call(Call::spawn().setup(setup).under(&shell))?;
    let find = |stage: &Stage| stage.find(stage.state_dir()).ok();
    let live = until(caller.deadline, ms_5(), || find(stage));
    let Some(live) = live else {
        return stage.fail("the client started no daemon");
    };
    let process = process_of(stage, &live)?;
    stage.precondition(format!("the client started a daemon, pid {}", process.pid));
    let own = process.session != caller.pid() && process.pgrp != caller.pid();
    stage.ensure(
        own,
        format!("the daemon is in session {} of its client's", process.session),
    )?;
    for signal in [Signal::HUP, Signal::INT, Signal::KILL] {
        let of_session = |process: &Proc| process.session == caller.pid();
        for process in processes().into_iter().filter(of_session) {
            process.signal(signal);
            if signal == Signal::KILL {
                process.wait_gone(Instant::now() + SOON);
            }
        }
    }
    let ready = stage.is_ready(&live);
    stage.ensure(ready, "the daemon is gone with its client")
}

fn the_daemon_holds_nothing_of_its_client(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("null, null, null or a log, and at most a pipe besides");
    let spy = Spy::new(stage, Part::Hangs)?;
    let input = stage.arena().path().join("input");
    std::fs::write(&input, b"input")?;
    let shell = format!(r#"exec <'{0}' 7<'{0}' 9>>'{0}'; exec "$@""#, input.display());
    let caller = stage.call(with(&spy).within(3).under(&["sh", "-c", &shell, "sh"]))?;
    let pid = spy.seen_started(stage)?;
    let Some(child) = settled(pid) else {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    };
    let state_dir = stage.state_dir().to_owned();
    let wrong = || {
        let held = child.descriptors();
        let is_pipe = |to: &Path| to.to_string_lossy().starts_with("pipe:");
        let pipes = held.iter().filter(|(_, to)| is_pipe(to)).count();
        let bad = held.iter().find(|(number, to)| {
            let null = to.as_os_str() == "/dev/null";
            !match number {
                0 | 1 => null,
                2 => null || to.starts_with(&state_dir),
                _ => is_pipe(to) && pipes == 1,
            }
        });
        match bad {
            Some((number, to)) => Some(format!("the daemon's descriptor {number} is {}", to.display())),
            None => (held.len() < 3).then(|| format!("the daemon has only {} descriptors", held.len())),
        }
    };
    // What it opens for itself as it begins, it closes soon; what it was left, it keeps.
    let mut last = None;
    until(Instant::now() + Duration::from_secs(1), ms_5(), || {
        last = wrong();
        last.is_none().then_some(())
    });
    if let Some(wrong) = last {
        return stage.fail(wrong);
    }
    let Some(answer) = stage.answer_by(&caller, caller.deadline + LATE)? else {
        return stage.fail("the client has not answered");
    };
    stage.ensure(answer.ended, "somebody holds the client's outputs after its end")
}

fn the_daemon_works_in_the_root(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the working directory `/`");
    let spy = Spy::new(stage, Part::Hangs)?;
    let _caller = stage.call(with(&spy).within(2))?;
    let pid = spy.seen_started(stage)?;
    let cwd = settled(pid).and_then(|child| child.cwd());
    let root = cwd.as_deref() == Some(Path::new("/"));
    stage.ensure(root, format!("the daemon works in {cwd:?}"))
}

fn no_zombie_while_it_waits(stage: &mut Stage) -> Outcome {
    const STAYS: Duration = Duration::from_millis(500);
    let (_world, _port) = stale(stage)?;
    stage.expect("no zombie of the client's for half a second");
    let spy = Spy::new(stage, Part::Ends(0, "nothing to do"))?;
    let caller = stage.call(with(&spy).within(2))?;
    spy.seen_started(stage)?;
    let mut since = None;
    let zombie = until(caller.deadline, ms_5(), || {
        if !caller.is_running() {
            return Some(None);
        }
        let all = processes();
        let zombie = all
            .iter()
            .find(|process| process.ppid == caller.pid() && process.is_zombie());
        let Some(zombie) = zombie else {
            since = None;
            return None;
        };
        let since = *since.get_or_insert_with(Instant::now);
        (since.elapsed() > STAYS).then(|| Some(zombie.clone()))
    });
    match zombie.flatten() {
        None => Ok(()),
        Some(zombie) => stage.fail(format!("pid {} ({}) stays a zombie", zombie.pid, zombie.comm)),
    }
}

fn displaces_by_publishing_alone(stage: &mut Stage) -> Outcome {
    let world = World::new(stage)?;
    stage.expect("ready with a new daemon whose record took the old one's place");
    let (name, _) = world.protocol.split_once('/').unwrap_or_default();
    let (ours, theirs) = (format!("{name}/7"), format!("{name}/6"));
    let decoy = bystander(stage)?;
    let old = FakeDaemon {
        protocol: theirs,
        pid: decoy.pid(),
        ..world.daemon()
    };
    let old = play_published(stage, old)?;
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(Call::spawn().protocol(ours))?;
    stage.precondition("a daemon of the client's protocol with a lower number was published");
    let seen = format!("not ready with another daemon but {answer}");
    stage.ensure(
        answer.outcome == "ready" && answer.id.as_ref() != Some(&old.daemon.id),
        seen,
    )?;
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let its_own = now.is_ok() && now.as_ref().ok() == answer.id.as_ref();
    stage.ensure(its_own, format!("no daemon of the answered id is there: {now:?}"))?;
    lives(stage, &decoy, "when the client displaced its daemon")?;
    let name = stage.manifest().binding.registration.clone();
    let events = watch.events();
    let free =
        count(&events, FileEventKind::Deleted, &name) + count(&events, FileEventKind::MovedFrom, &name);
    stage.ensure(free == 0, "the old record was removed before the new one came")?;
    let handshake = stage.manifest().binding.handshake.path.clone();
    let other = old
        .actor
        .ledger()
        .requests()
        .into_iter()
        .find(|seen| seen.target != handshake);
    stage.ensure(
        other.is_none(),
        format!("the old daemon was sent {:?}", other.map(|seen| seen.target)),
    )
}

fn displaces_when_told_to(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready with a daemon of its own, whose record took the old one's place");
    let protocol = "another/9".to_owned();
    let old = play_published(
        stage,
        FakeDaemon {
            protocol,
            ..world.daemon()
        },
    )?;
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(Call::spawn().replacing())?;
    let own = answer.outcome == "ready" && answer.id.as_ref() != Some(&old.daemon.id);
    stage.ensure(own, format!("not ready with a daemon of its own but {answer}"))?;
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let its_own = now.is_ok() && now.as_ref().ok() == answer.id.as_ref();
    stage.ensure(its_own, format!("no daemon of the answered id is there: {now:?}"))?;
    let name = stage.manifest().binding.registration.clone();
    let events = watch.events();
    let free =
        count(&events, FileEventKind::Deleted, &name) + count(&events, FileEventKind::MovedFrom, &name);
    stage.ensure(free == 0, "the old record was removed before the new one came")
}

fn private_leaves_no_trace(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("ready with a daemon of its own, the shared directory as it was, and nothing left");
    let before = Snapshot::of(stage.state_dir())?;
    let heard = good.actor.ledger().connections().len();
    let answer = stage.ask(Call::new(Command::Private))?;
    let own = answer.outcome == "ready" && answer.id.as_ref() != Some(&good.daemon.id);
    stage.ensure(own, format!("not ready with a daemon of its own but {answer}"))?;
    let changes = before.diff(&Snapshot::of(stage.state_dir())?);
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    stage.ensure(
        changes.is_empty(),
        format!("the shared state directory: {}", changes.join(", ")),
    )?;
    let more = good.actor.ledger().connections().len() - heard;
    stage.ensure(more == 0, "the shared daemon was asked")?;
    let gone = until(Instant::now() + SOON, ms_5(), || {
        stage.arena().leaks().is_empty().then_some(())
    });
    let left: Vec<String> = stage.arena().leaks().iter().map(ToString::to_string).collect();
    stage.ensure(gone.is_some(), format!("left running: {}", left.join(", ")))?;
    for place in ["tmp", "run", "home"] {
        let snapshot = Snapshot::of(&stage.arena().path().join(place))?;
        let left = snapshot.0.keys().find(|path| {
            let name = path
                .file_name()
                .and_then(std::ffi::OsStr::to_str)
                .unwrap_or_default();
            name == stage.manifest().binding.registration || name == stage.manifest().binding.credential
        });
        let seen = format!(
            "left behind: {}/{:?}",
            place,
            left.map(|path| path.display().to_string())
        );
        stage.ensure(left.is_none(), seen)?;
    }
    Ok(())
}

fn restart_means_another_daemon(stage: &mut Stage) -> Outcome {
    if stage.manifest().daemon.run.is_empty() {
        return stage.not_applicable("the subject has no daemon to restart");
    }
    stage.expect("ready with another id, at the daemon that is there");
    let (daemon, live) = stage.launch_ready()?;
    let answer = stage.ask(Call::new(Command::Restart))?;
    let second = restarted(stage, &answer, &live.record.id, "of a daemon that runs")?;
    let pid = u32::try_from(second.record.pid).unwrap_or_default();
    drop(daemon);
    let all = stage.arena().processes();
    let Some(process) = all.into_iter().find(|process| process.pid == pid) else {
        return stage.inconclusive("the restarted daemon is not a process of this case");
    };
    process.halt();
    stage.precondition("the restarted daemon is stopped (SIGSTOP)");
    let caller = stage.call(Call::new(Command::Restart))?;
    // It has to wait for the silent one, and then to start another one.
    let Some(answer) = stage.answer_by(&caller, caller.began + Duration::from_secs(25))? else {
        return stage.fail("the restart of a stopped daemon has not ended after 25 s");
    };
    if answer.exit.code == Some(0) || answer.outcome == "ready" {
        restarted(stage, &answer, &second.record.id, "of a daemon that is stopped")?;
    }
    Ok(())
}

/// A restart that reports success leaves a daemon of another id, and names it.
fn restarted(stage: &mut Stage, answer: &Answer, before: &str, what: &str) -> Outcome<Live> {
    let success = answer.exit.code == Some(0);
    stage.ensure(success, format!("the restart {what}: {answer}"))?;
    let live = match stage.find(stage.state_dir()) {
        Ok(live) => live,
        Err(why) => {
            return stage.fail(format!(
                "the restart {what}: {answer}, and no daemon is ready: {why}"
            ));
        }
    };
    let other = live.record.id != before && answer.id.as_deref() != Some(before);
    stage.ensure(
        other,
        format!("the restart {what}: the daemon is the one from before: {answer}"),
    )?;
    Ok(live)
}

fn no_restart_no_success(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("no success");
    let answer = stage.ask(Call::new(Command::Restart))?;
    let same = stage
        .find(stage.state_dir())
        .is_ok_and(|live| live.record.id == good.daemon.id);
    let success = answer.exit.code == Some(0) || answer.outcome == "ready";
    stage.ensure(
        !(same && success),
        format!("the same daemon is ready, and the restart says {answer}"),
    )
}
