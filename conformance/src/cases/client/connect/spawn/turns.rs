//! Whose turn it is to start a daemon.

use std::fs::File;
use std::time::{Duration, Instant};

use local_daemon_harness::files::{FileEventKind, Watch};
use local_daemon_harness::platform::make_fifo;
use local_daemon_harness::wait::{ms, until};
use rustix::fs::{FlockOperation, flock};

use super::{spawned, stale, with};
use crate::case::case;
use crate::cases::client::outcomes::arrange;
use crate::fixtures::client::{
    Part, SOON, Spy, World, at_first, furnished, not_started, play, play_published, publish, publisher, squat,
};
use crate::fixtures::daemon::{NOBODYS_PID, SLACK, count};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, not_applicable};
use crate::stage::{Call, LATE, Stage};

/// The record's daemon is draining; nothing is started while it is. Then its record is gone and no successor
/// has come: a daemon is started.
#[case("CONN-13")]
fn no_second_daemon_beside_a_draining_one(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("no daemon started while one is draining; one when its record is gone");
    let spy = Spy::new(stage, Part::Runs)?;
    let leaving = world.daemon().draining();
    let leaving = play_published(stage, leaving)?;
    let caller = stage.call(with(&spy))?;
    if leaving.actor.ledger().wait_request(caller.deadline).is_none() {
        return fail("the record's daemon was not asked");
    }
    stage.precondition("the client asked a daemon that is draining");
    // Nothing announces that nothing is started.
    let early = spy.started(ms(700)).is_some();
    ensure!(!early, "a daemon was started beside one that is draining");
    std::fs::remove_file(stage.record_path())?;
    drop(leaving);
    let answer = stage.answer(&caller)?;
    answer.must_be("ready")?;
    ensure!(spy.starts().len() == 1, "not one daemon was started");
    Ok(())
}

/// While the probe of a stranger is under way, a good daemon's record takes its record's place: nothing is
/// started.
#[case("CONN-14")]
fn reads_again_before_it_spawns(stage: &mut Stage) -> Outcome {
    use local_daemon_harness::actors::response;
    let (_, good) = furnished(stage)?;
    stage.expect("ready with the daemon whose record came, and nothing started");
    let spy = Spy::new(stage, Part::Runs)?;
    let swap = publisher(stage, &good.record);
    let stranger = at_first(swap, |_, _| response(404, &[], b""));
    let (_actor, _) = squat(stage, stranger)?;
    let lock = hold_lock(stage)?;
    let watch = Watch::with_opens(stage.state_dir())?;
    let answer = stage.ask(with(&spy))?;
    not_started(stage, &spy, "although a good daemon's record had come")?;
    answer.must_be_ready_with(&good.daemon.id)?;
    let name = stage.manifest().binding.lock.clone();
    let spawning = count(&watch.events(), FileEventKind::Opened, &name) > 0;
    drop(lock);
    ensure!(!spawning, "the client went for the spawn's lock before it read again");
    Ok(())
}

/// Eight calls at once on a state directory without a record, with a stale one and with a stranger's: all of
/// them end ready on one id (sccache#340, sccache#824).
#[case("CONN-15", deadline_s = 60)]
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
            answer.must_be_after("ready", scene)?;
            ids.insert(answer.id.unwrap_or_default());
        }
        ensure!(ids.len() == 1, "{scene}: {} ids: {ids}", ids.len(), ids = in_words(&ids));
        let live = stage.find(stage.state_dir());
        let there = live.as_ref().is_ok_and(|live| ids.contains(&live.record.id));
        let seen = live.as_ref().map_or_else(String::as_str, |live| &live.record.id);
        ensure!(there, "{scene}: the daemon of the record is another or none: {seen}");
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

/// The advisory lock is held for 400 ms: until then no daemon is started, afterwards one is.
#[case("CONN-16")]
fn waits_for_the_lock(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("no daemon started before the lock is let go, and one afterwards");
    let spy = Spy::new(stage, Part::Runs)?;
    let lock = hold_lock(stage)?;
    let caller = stage.call(with(&spy))?;
    let early = spy.started(ms(400)).is_some();
    drop(lock);
    let answer = stage.answer(&caller)?;
    answer.must_be("ready")?;
    ensure!(!early, "a daemon was started while the lock was held, within 400 ms");
    Ok(())
}

/// The advisory lock is held for good, and then cannot be opened: a daemon is started all the same.
#[case("CONN-17")]
fn goes_on_without_the_lock(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("a daemon started 1 s later at the latest, and ready");
    let spy = Spy::new(stage, Part::Runs)?;
    let lock = hold_lock(stage)?;
    let caller = stage.call(with(&spy))?;
    let started = spy.started(caller.began + Duration::from_secs(1) + LATE);
    ensure!(started.is_some(), "no daemon 2.5 s after the call, with the lock held by another");
    let answer = stage.answer(&caller)?;
    answer.must_be_after("ready", "with the lock held by another")?;
    stage.arena().end_leaks();
    drop(lock);
    std::fs::remove_file(stage.lock_path())?;
    std::fs::create_dir(stage.lock_path())?;
    let answer = stage.ask(with(&spy))?;
    answer.must_be_after("ready", "with a directory in the lock's place")?;
    stage.arena().end_leaks();
    std::fs::remove_dir(stage.lock_path())?;
    make_fifo(&stage.lock_path())?;
    let answer = stage.ask(with(&spy))?;
    answer.must_be_after("ready", "with a FIFO in the lock's place")
}

/// While the client waits for the advisory lock, a daemon's record is published, and then the lock let go.
#[case("CONN-18")]
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
        return not_applicable("the client does not open the advisory lock");
    }
    stage.precondition("the client opened the advisory lock, which is held");
    publish(stage, &came.record)?;
    drop(lock);
    let answer = stage.answer(&caller)?;
    not_started(stage, &spy, "although one had come while the client waited for the lock")?;
    answer.must_be_ready_with(&came.daemon.id)
}

/// The client's child hangs: the advisory lock is free again after a second, while the client still waits. A
/// child that becomes ready does not keep it.
#[case("CONN-19")]
fn gives_the_lock_back(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the lock free 1 s after the start of a child that hangs, and as soon as one is ready");
    let spy = Spy::new(stage, Part::Hangs)?;
    let caller = stage.call(with(&spy).within(4))?;
    spy.seen_started(stage)?;
    let at = Instant::now();
    if lock_is_free(stage) {
        return not_applicable("the client does not hold the advisory lock for its child");
    }
    stage.precondition("the client holds the advisory lock while its child starts");
    let bound = at + Duration::from_secs(1) + SLACK;
    let free = until(bound, || lock_is_free(stage).then_some(()));
    ensure!(free.is_some(), "the lock is still held 1.5 s after the start of the child");
    ensure!(caller.is_running(), "the client did not wait for its child");
    caller.kill_group();
    stage.arena().end_leaks();
    let (_, live) = spawned(stage)?;
    let free = lock_is_free(stage);
    ensure!(free, "the lock is held beside the ready daemon {}", live.record.pid);
    Ok(())
}
