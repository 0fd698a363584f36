//! A stopping daemon and its record.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use local_daemon_harness::files::{Facts, Watch};
use local_daemon_harness::process::Signal;
use local_daemon_harness::record::{Record, write_new};
use local_daemon_harness::strace::{LINK, Point, RENAME, Strace, UNLINK};
use local_daemon_harness::wait::until;
use rustix::fs::FlockOperation;

use super::{held, leaves, survives, trace};
use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, SLACK, changes, read, signal, taken_files};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage};

/// Asks a ready daemon to stop and holds it before the call that would take its record away.
fn hold_removal(stage: &mut Stage, daemon: &Daemon) -> Outcome<Strace> {
    let point = Point::at([RENAME, LINK, UNLINK]).of(stage.record_path()).held_before();
    let mut strace = trace(stage, "removal", point)?;
    strace.attach(daemon, stage.ready_deadline())?;
    signal(daemon, Signal::TERM)?;
    let deadline = stage.stand_down_deadline() + NOTICED;
    held(stage, daemon, &strace, deadline)?;
    Ok(strace)
}

fn successor(stage: &mut Stage, old: &ReadyDaemon) -> Outcome<(Daemon, ReadyDaemon)> {
    let before = Record::parse(&read(&stage.record_path())?);
    if before.map(|record| record.id).as_ref() != Ok(&old.record.id) {
        return inconclusive("the record is not that of the held daemon any more");
    }
    stage.launch_ready()
}

fn nothing_taken_is_left(stage: &mut Stage) -> Outcome {
    let deadline = Instant::now() + NOTICED + SLACK;
    let mut left = Vec::new();
    until(deadline, || {
        left = taken_files(stage, stage.state_dir()).unwrap_or_default();
        left.is_empty().then_some(())
    });
    ensure!(left.is_empty(), "taken files are left: {left}", left = in_words(&left));
    Ok(())
}

/// A daemon that stops is held right before the call that takes its record off the well-known name, and a
/// second one publishes meanwhile; it is stopped (SIGSTOP) right after that call until the second one has its
/// record. Stems from khive#645 and stablyai/orca#12709.
#[case("CONV-15", "CONV-17", "CONV-21", "CONV-13")]
fn literal_removal(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    let strace = hold_removal(stage, &first)?;
    let (second, new) = successor(stage, &old)?;
    stage.expect("the successor's record stands and the successor is ready when the first one is gone");
    strace.release_stopped(&first)?;
    survives(&second, &new, "after its predecessor's removal")?;
    nothing_taken_is_left(stage)?;
    first.cont()?;
    leaves(stage, &first, "its stop went on")?;
    survives(&second, &new, "after its predecessor left")
}

/// The same, without a stop after the call, while the lock is held all the time, by the stopping daemon or
/// else by the suite, so that no other process gets it.
#[case("CONV-15", "PUB-8", "CONV-17", "CONV-21")]
fn lock_only_removal(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    let strace = hold_removal(stage, &first)?;
    let lock = lock_file(stage)?;
    let holder = if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        "the suite"
    } else {
        "the stopping daemon"
    };
    let other = lock_file(stage)?;
    if rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return inconclusive("the lock on the lock file does not hold");
    }
    stage.precondition(format!("{holder} holds the lock"));
    stage.expect("the successor is ready in its usual time, and still when the first one is gone");
    let (second, new) = successor(stage, &old)?;
    strace.release(&first)?;
    leaves(stage, &first, "its stop went on")?;
    survives(&second, &new, "after its predecessor's removal")?;
    nothing_taken_is_left(stage)
}

fn lock_file(stage: &Stage) -> Outcome<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    Ok(options.open(stage.lock_path())?)
}

/// The one taken file whose name tells that `taker` took it.
fn taken_by(stage: &mut Stage, taker: &ReadyDaemon) -> Outcome<PathBuf> {
    let name = &stage.manifest().binding.registration;
    let prefix = format!("{name}.taken-{}-", taker.record.id);
    let mut taken = taken_files(stage, stage.state_dir())?;
    taken.retain(|name| name.starts_with(&prefix));
    match &taken[..] {
        [one] => Ok(stage.state_dir().join(one)),
        _ => fail(format!(
            "the successor's record was taken, and the taken files are {taken}",
            taken = in_words(&taken)
        )),
    }
}

/// A stopping daemon moves its successor's record aside while that one is stopped (SIGSTOP), beside taken
/// files of others; what it moved is looked at before and after the successor goes on.
#[case("CONV-21", "CONV-17", "CONV-22")]
fn no_reclaim(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    let strace = hold_removal(stage, &first)?;
    let (second, new) = successor(stage, &old)?;
    // Files of others: one under somebody else's name, one that only by its name is the successor's.
    let rival = Rival::new()?;
    let name = stage.manifest().binding.registration.clone();
    let mut foreign = Vec::new();
    for id in [&rival.record.id, &new.record.id] {
        let path = stage.state_dir().join(format!("{name}.taken-{id}-foreign"));
        write_new(&path, &rival.bytes(), 0o600)?;
        foreign.push((path.clone(), Facts::of(&path)?));
    }
    let record = read(&stage.record_path())?;
    second.stop()?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect(
        "the taken file is left to the successor, which reclaims it, unlinks it, and touches no other",
    );
    strace.release(&first)?;
    leaves(stage, &first, "its stop went on")?;
    if stage.record_path().exists() {
        let touched = changes(&watch.events(), &name);
        ensure!(touched.is_empty(), "the record was not left taken: {touched}", touched = in_words(&touched));
        return inconclusive("the successor's record was not taken");
    }
    let taken = taken_by(stage, &old)?;
    let same = read(&taken)? == record;
    ensure!(same, "the taken file is not the successor's record as it was");
    stage.precondition("the successor, stopped, had its record taken; the taken file is untouched");
    second.cont()?;
    survives(&second, &new, "after its record was taken")?;
    let gone = until(Instant::now() + SLACK, || (!taken.exists()).then_some(()));
    ensure!(gone.is_some(), "the reclaimed taken file is still there");
    for (path, facts) in foreign {
        let same = Facts::of(&path).ok() == Some(facts) && read(&path)? == rival.bytes();
        ensure!(same, "{} is not what it was", path.display());
    }
    Ok(())
}

/// A stopping daemon is stopped (SIGSTOP) when it has moved its successor's record aside; a third one
/// publishes before it goes on.
#[case("CONV-17", "CONV-13")]
fn put_back(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    let strace = hold_removal(stage, &first)?;
    let (second, _) = successor(stage, &old)?;
    second.stop()?;
    strace.release_stopped(&first)?;
    let gone = until(stage.stand_down_deadline(), || (!stage.record_path().exists()).then_some(()));
    if gone.is_none() {
        return inconclusive("the successor's record was not taken");
    }
    stage.precondition("the first one has taken its successor's record, and both are stopped");
    stage.expect("the third one's record stands, and it is the one that stays");
    let (third, new) = stage.launch_ready()?;
    first.cont()?;
    leaves(stage, &first, "its stop went on")?;
    survives(&third, &new, "after its predecessor's removal")?;
    second.cont()?;
    leaves(stage, &second, "it went on and found another's record")?;
    survives(&third, &new, "after the second one left")
}
