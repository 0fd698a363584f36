//! Convergence: chapter 06.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, Bind, FakeDaemon, FakeProof, Squatter};
use local_daemon_harness::files::{Facts, FileEvent, FileEventKind, Snapshot, Watch};
use local_daemon_harness::http::{Connection, HttpFault};
use local_daemon_harness::platform::overwrite_unnoticed;
use local_daemon_harness::process::{Proc, Signal, Subject};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{Record, replace, write_new};
use local_daemon_harness::wait::{ms, until};

use super::scene::{
    DRAIN, NOTICED, REPEAT, Rival, SLACK, changes, count, exchange, exits, furnished_state_dir,
    further_state_dir, launch_over, mutation, open, open_work, read, record_in, seen_draining, signal, stays,
    taken_files, write_in_place, yielding,
};
use crate::case::{Case, Outcome, Stop};
use crate::stage::{Daemon, Live, Stage, Start};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "convergence/displaced-without-a-notification",
        &["CONV-1"],
        "Another id is written into the record through a mapping, the one write that notifies nobody, and no request is \
         sent: only the daemon's own re-read can tell it. Stems from watchman#276.",
        displaced_without_a_notification,
    ),
    Case::core(
        "convergence/displaced-at-once",
        &["CONV-2"],
        "Another's record is renamed into place; the time to the idle daemon's exit is taken, at best of three.",
        displaced_at_once,
    )
    .exclusive(),
    Case::core(
        "convergence/ownership-by-id-alone",
        &["CONV-3", "PUB-12"],
        "The record is replaced by one with the same id, in which version, pid, url, unknown members and white space \
         are different.",
        ownership_by_id_alone,
    ),
    Case::core(
        "convergence/unparsable-for-a-moment",
        &["CONV-4"],
        "Half the record is written in place and is seen by the daemon; more than 100 ms later the whole one is back.",
        unparsable_for_a_moment,
    ),
    Case::core(
        "convergence/slow-write-in-place",
        &["CONV-4"],
        "A tool rewrites the record in place, a few bytes at a time over more than 100 ms, so that a notification comes with each.",
        slow_write_in_place,
    ),
    Case::core(
        "convergence/unparsable-for-good",
        &["CONV-5", "CONV-4"],
        "The record is cut in half for good: the daemon tries again for a quarter of a second, then leaves.",
        unparsable_for_good,
    ),
    Case::core(
        "convergence/unreadable-keeps-it-running",
        &["CONV-6"],
        "The record's mode is loosened, or a directory, a FIFO or a symbolic link takes its place, for longer than a \
         re-read interval; then it is put right.",
        unreadable_keeps_it_running,
    ),
    Case::core(
        "convergence/stopped-through-a-displacement",
        &["CONV-7", "CONV-9"],
        "A daemon is stopped (SIGSTOP), a second one takes over, and the first goes on (SIGCONT).",
        stopped_through_a_displacement,
    ),
    Case::core(
        "convergence/asked-to-stop-after-a-displacement",
        &["CONV-14", "CONV-9"],
        "While a daemon is stopped (SIGSTOP) it is asked to end (SIGTERM) and a second one takes over; then the first \
         goes on. Stems from khive#645 and stablyai/orca#12709.",
        asked_to_stop_after_a_displacement,
    ),
    Case::core(
        "convergence/displaced-exits-with-work-open",
        &["CONV-8"],
        "A daemon is displaced with a stream that nobody reads, a request that never ends, an idle connection and half \
         a request head open. Stems from OpenCoven/coven#242 and buck2@13baa8a1d1.",
        displaced_exits_with_work_open,
    )
    .deadline_s(30),
    Case::core(
        "convergence/displaced-leaves-the-record-alone",
        &["CONV-9"],
        "Another's record is renamed into place; every event about it is looked at until the displaced daemon is gone.",
        displaced_leaves_the_record_alone,
    ),
    Case::core(
        "convergence/no-new-work",
        &["CONV-10"],
        "A displaced daemon that still has work open is sent a request with an effect, on a new connection and on one \
         that it had accepted before. Stems from buck2@13baa8a1d1.",
        no_new_work,
    )
    .deadline_s(30),
    Case::core(
        "convergence/own-record-returns-in-vain",
        &["CONV-11"],
        "A daemon is displaced with work open; then its own record, and a taken file with its id, are put back.",
        own_record_returns_in_vain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/exit-status-of-the-displaced",
        &["CONV-12"],
        "An idle daemon is displaced by another's record.",
        exit_status_of_the_displaced,
    ),
    Case::core(
        "convergence/exit-status-of-the-rest",
        &["CONV-33"],
        "Daemons end by a signal, by the removal of their record, and by the removal of their directory.",
        exit_status_of_the_rest,
    ),
    Case::core(
        "convergence/two-at-once",
        &["CONV-13", "CONV-9"],
        "Two daemons are started at the same time on one state directory. Stems from biome 2.6.",
        |stage| at_once(stage, 2),
    )
    .no_leaks()
    .deadline_s(40),
    Case::core(
        "convergence/eight-at-once",
        &["CONV-13", "CONV-9"],
        "Eight daemons are started at the same time on one state directory. Stems from opencode#35964.",
        |stage| at_once(stage, 8),
    )
    .no_leaks()
    .deadline_s(40),
    Case::core(
        "convergence/stop-takes-the-record-by-rename",
        &["CONV-15", "CONV-16"],
        "A daemon without a rival is asked to stop; every event about the record and the taken file is looked at.",
        stop_takes_the_record_by_rename,
    ),
    Case::core(
        "convergence/successor-published-during-a-stop",
        &["CONV-14", "CONV-15", "CONV-17"],
        "200 times (fewer where it starts slowly) a daemon is asked to stop and another's record is renamed into place at some moment around it: after \
         a varied time, or after the daemon was seen to open its record. Stems from khive#645 and stablyai/orca#12709.",
        successor_published_during_a_stop,
    )
    .deadline_s(60),
    Case::core(
        "convergence/successor-outlives-a-stop",
        &["CONV-13"],
        "A daemon is asked to stop at the very moment at which a second one, of the same subject, publishes.",
        successor_outlives_a_stop,
    )
    .deadline_s(60),
    Case::core(
        "convergence/stops-without-its-record",
        &["CONV-18"],
        "Daemons are asked to stop whose record has a loose mode, or whose record's name a directory has taken.",
        stops_without_its_record,
    ),
    Case::core(
        "convergence/record-off-before-the-drain",
        &["CONV-19"],
        "A daemon with work open is asked to stop; its record must be gone while the work still is open.",
        record_off_before_the_drain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/second-signal-ends-the-drain",
        &["CONV-20"],
        "A daemon with work open is asked to stop, is seen draining, and is asked again.",
        second_signal_ends_the_drain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/taken-record-is-published-again",
        &["CONV-21", "CONV-22"],
        "The record of a healthy daemon is moved to taken names of other ids, as a predecessor does that moved the \
         wrong one, beside a taken file of somebody else. It happens twice; then the record is removed for good.",
        taken_record_is_published_again,
    ),
    Case::core(
        "convergence/removed-record-stands-it-down",
        &["CONV-23", "CONV-25"],
        "The record is removed, with nothing else there and beside a taken file of another id.",
        removed_record_stands_it_down,
    ),
    Case::core(
        "convergence/removed-directory-stands-it-down",
        &["CONV-24", "CONV-25"],
        "The whole state directory is removed, or moved away. Stems from clawpatrol#670 and gmux#359.",
        removed_directory_stands_it_down,
    ),
    Case::proof(
        "convergence/yields-to-a-ready-daemon",
        &["CONV-26"],
        "A daemon that is told to yield is started where a proven, ready daemon of the same protocol is published: one \
         played by the suite, and one of the same subject. Stems from sccache#340 and sccache#824.",
        yields_to_a_ready_daemon,
    ),
    Case::proof(
        "convergence/yields-to-nothing-else",
        &["CONV-27"],
        "Daemons that are told to yield are started where there is no record, a malformed one, or one that leads to a \
         dead port, to silence, to a squatter that answers 200, to a wrong proof, to another id, to a draining daemon, \
         or to one of another protocol.",
        yields_to_nothing_else,
    ),
    Case::core(
        "convergence/recorded-process-is-not-signalled",
        &["CONV-28"],
        "Records that name a bystander are published over, displace a daemon, and are found by a stopping one. Stems \
         from pants#2659 and buck2#1426.",
        recorded_process_is_not_signalled,
    ),
];

/// How long a displaced daemon with work open may take: it notices, and it drains.
fn drained(stage: &Stage) -> Instant {
    Instant::now() + NOTICED + DRAIN.max(stage.manifest().daemon.stand_down_timeout()) + SLACK
}

/// The record of a ready daemon is what it was when it was seen ready, byte for byte; then `rival`'s stands there.
fn displace(stage: &mut Stage, rival: &Rival) -> Outcome<Instant> {
    let at = rival.publish(&stage.record_path())?;
    stage.precondition(format!(
        "the record of {} was renamed into place",
        rival.record.id
    ));
    Ok(at)
}

/// Displaces a daemon with work open and waits until it must have begun to stand down. (That a handshake is answered
/// `draining` says less: it is answered by what the record holds at that moment.) Whether it is still there.
fn displaced_for_good(stage: &mut Stage, daemon: &Daemon, live: &Live) -> Outcome<bool> {
    let at = displace(stage, &Rival::new()?)?;
    let draining = seen_draining(stage, daemon, live)?;
    let alive = draining && daemon.wait_exit(at + NOTICED).is_none();
    stage.observed(if alive {
        "it was draining 2.5 s after its displacement"
    } else {
        "it had ended 2.5 s after its displacement"
    });
    Ok(alive)
}

fn displaced_without_a_notification(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let path = stage.record_path();
    let bytes = read(&path)?;
    let Some(place) = String::from_utf8_lossy(&bytes).find(&live.record.id) else {
        return stage.inconclusive("the id is not written plainly in the record");
    };
    // Opened before, so that this open and the daemon's own end are the only ones that could be told.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    stays(
        stage,
        &daemon,
        Duration::from_millis(100),
        "while it owned its record",
    )?;
    let watch = Watch::on(stage.state_dir())?;
    let rival = Rival::new()?;
    stage.expect(
        "it leaves by its own re-read: begun within 2.5 s, ended in the time that the manifest gives",
    );
    overwrite_unnoticed(&file, place, rival.record.id.as_bytes())?;
    let at = Instant::now();
    let now = Record::parse(&read(&path)?).map(|record| record.id);
    if now.as_ref() != Ok(&rival.record.id) {
        return stage.inconclusive(format!("the record now holds {now:?}"));
    }
    if !changes(&watch.events(), &stage.manifest().binding.registration).is_empty() {
        return stage.inconclusive("the change was notified");
    }
    stage.precondition("the record holds another id, and no notification of it was seen");
    let deadline = at + NOTICED.max(stage.manifest().daemon.stand_down_timeout()) + SLACK;
    let exit = exits(stage, &daemon, deadline, "a displacement that nobody told it of")?;
    stage.observed(format!(
        "{exit} after {} ms",
        exit.at.duration_since(at).as_millis()
    ));
    Ok(())
}

fn displaced_at_once(stage: &mut Stage) -> Outcome {
    stage.expect("an idle daemon is gone 100 ms after a displacement");
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (daemon, _) = stage.launch_ready()?;
        let at = displace(stage, &Rival::new()?)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        let exit = exits(stage, &daemon, deadline, "a displacement")?;
        best = best.min(exit.at.saturating_duration_since(at));
    }
    stage.observed(format!("the fastest exit came after {} ms", best.as_millis()));
    stage.ensure(
        best <= Duration::from_millis(100),
        format!("{} ms", best.as_millis()),
    )
}

fn ownership_by_id_alone(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let rival = Rival::new()?;
    let same_id = Record {
        id: live.record.id.clone(),
        version: "another version".to_owned(),
        ..rival.record.clone()
    };
    let text = same_id
        .to_json()
        .replace(',', " ,\n\t")
        .replace('{', "{\n \"unknown\": {\"deep\": [1, null]}, ");
    if Record::parse(text.as_bytes()).is_err() {
        return Err(Stop::Fault("the other record is not valid".to_owned()));
    }
    stage.expect("it stays, is ready, and leaves the other record as it is");
    let watch = Watch::on(stage.state_dir())?;
    let name = stage.manifest().binding.registration.clone();
    replace(&stage.record_path(), text.as_bytes(), 0o600)?;
    let ours = watch.wait_event(stage.ready_deadline(), FileEventKind::MovedTo, &name);
    if ours.is_none() {
        return stage.inconclusive("the replacement was not seen");
    }
    stays(stage, &daemon, NOTICED, "with a record of its own id")?;
    let ready = stage.is_ready(&live);
    stage.ensure(ready, "it is not ready with a record of its own id")?;
    let touched = changes(&watch.events(), &name);
    stage.ensure(
        touched.len() == 1 && read(&stage.record_path())? == text.as_bytes(),
        format!("the record with its own id was touched: {touched:?}"),
    )
}

/// So long a record may be unparsable: the fifth retry comes after 250 ms at the earliest.
const BEARABLE: Duration = Duration::from_millis(240);

/// Lets `disturb` make a ready daemon's record unparsable and whole again; the daemon must go on. Where the host was too
/// slow for the time that a daemon has to bear it, with a new daemon.
fn goes_on(stage: &mut Stage, disturb: fn(&mut Stage, &Daemon, &Live, &[u8]) -> Outcome) -> Outcome {
    for _ in 0..5 {
        let (daemon, live) = stage.launch_ready()?;
        let whole = read(&stage.record_path())?;
        let began = Instant::now();
        disturb(stage, &daemon, &live, &whole)?;
        let took = began.elapsed();
        if took <= BEARABLE {
            stage.precondition(format!("the record was not whole for {} ms", took.as_millis()));
            return ready_again(stage, &daemon, &live, "a record that was not whole");
        }
        daemon.kill_group();
    }
    stage.inconclusive("this host is too slow: the record was unparsable for too long")
}

fn unparsable_for_a_moment(stage: &mut Stage) -> Outcome {
    stage.expect("it goes on, and is ready when the whole record is back");
    goes_on(stage, |stage, daemon, live, whole| {
        write_in_place(&stage.record_path(), &whole[..whole.len() / 2])?;
        // That it has read half a record; if it ended over it, that is found when the whole one is back.
        seen_draining(stage, daemon, live)?;
        daemon.wait_exit(ms(120));
        replace(&stage.record_path(), whole, 0o600)?;
        Ok(())
    })
}

/// It stays for a moment, and its handshake is good.
fn ready_again(stage: &mut Stage, daemon: &Daemon, live: &Live, after: &str) -> Outcome {
    stays(
        stage,
        daemon,
        Duration::from_millis(500),
        &format!("after {after}"),
    )?;
    let ready = stage.is_ready(live);
    stage.ensure(ready, format!("it is not ready after {after}"))
}

fn slow_write_in_place(stage: &mut Stage) -> Outcome {
    stage.expect("it goes on, however many notifications come while the record is not whole");
    goes_on(stage, |stage, daemon, _, whole| {
        let mut file = write_in_place(&stage.record_path(), b"")?;
        for piece in whole.chunks(whole.len().div_ceil(15)) {
            // Paced by the daemon's end, which must not come.
            daemon.wait_exit(ms(8));
            file.write_all(piece)?;
        }
        Ok(())
    })
}

fn unparsable_for_good(stage: &mut Stage) -> Outcome {
    stage.expect("it ends by itself, not before five retries of 50 ms, and leaves the file as it is");
    let (daemon, _) = stage.launch_ready()?;
    let whole = read(&stage.record_path())?;
    let at = Instant::now();
    write_in_place(&stage.record_path(), &whole[..whole.len() / 2])?;
    let facts = Facts::of(&stage.record_path())?;
    let watch = Watch::on(stage.state_dir())?;
    stage.precondition("half a record stands in the record's place");
    let deadline = stage.stand_down_deadline() + NOTICED;
    let exit = exits(stage, &daemon, deadline, "its record stayed unparsable")?;
    let after = exit.at.saturating_duration_since(at);
    stage.observed(format!("{exit} after {} ms", after.as_millis()));
    stage.ensure(
        after >= Duration::from_millis(245),
        format!(
            "it left after {} ms, before five retries 50 ms apart",
            after.as_millis()
        ),
    )?;
    let touched = changes(&watch.events(), &stage.manifest().binding.registration);
    let same = Facts::of(&stage.record_path()).is_ok_and(|now| now.ino == facts.ino)
        && read(&stage.record_path())? == whole[..whole.len() / 2];
    stage.ensure(
        same && touched.is_empty(),
        format!("the unparsable file was touched: {touched:?}"),
    )?;
    stage.launch_ready()?;
    stage.control("the next daemon publishes over what was left");
    Ok(())
}

fn unreadable_keeps_it_running(stage: &mut Stage) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let mut subjects = Vec::new();
    for what in ["a loose mode", "a directory", "a FIFO", "a symbolic link"] {
        let state_dir = further_state_dir(stage, what)?;
        subjects.push((what, stage.launch_with(Start::new().state_dir(&state_dir))?));
    }
    let mut running = Vec::new();
    for (what, daemon) in subjects {
        let live = stage.ready(&daemon)?;
        running.push((what, daemon, live));
    }
    stage.expect("each stays through a re-read, not ready, and is ready once its record can be read again");
    for (what, daemon, _) in &running {
        let path = record_in(stage, &daemon.state_dir);
        // Beside the state directory: nothing but the record's own name changes there.
        let aside = stage.arena().path().join(format!("{what}, aside"));
        match *what {
            "a loose mode" => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?,
            "a directory" => std::fs::create_dir(&aside)?,
            "a FIFO" => {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mkfifoat(rustix::fs::CWD, &aside, mode).map_err(std::io::Error::from)?;
            }
            _ => {
                let other = stage.arena().path().join("linked");
                write_new(&other, &read(&path)?, 0o600)?;
                std::os::unix::fs::symlink(&other, &aside)?;
            }
        }
        if *what != "a loose mode" {
            exchange(&path, &aside)?;
        }
    }
    for (what, daemon, live) in &running {
        if !seen_draining(stage, daemon, live)? {
            return stage.fail(format!("{what}: it ended instead of reading again"));
        }
        stage.precondition(format!(
            "{what} in the record's place: it is seen not to be ready"
        ));
    }
    for (place, (what, daemon, _)) in running.iter().enumerate() {
        // All wait at the same time: the first for a whole interval, the others for what is left of it.
        let length = if place == 0 {
            NOTICED
        } else {
            Duration::from_millis(1)
        };
        stays(
            stage,
            daemon,
            length,
            &format!("over {what} in the record's place"),
        )?;
    }
    for (what, daemon, live) in &running {
        let path = record_in(stage, &daemon.state_dir);
        if *what == "a loose mode" {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        } else {
            exchange(&path, &stage.arena().path().join(format!("{what}, aside")))?;
        }
        let back = until(Instant::now() + NOTICED, Duration::from_millis(5), || {
            stage.is_ready(live).then_some(())
        });
        stage.ensure(
            back.is_some(),
            format!("{what} is gone again, and it is not ready"),
        )?;
    }
    Ok(())
}

/// Stops `first` (SIGSTOP) and lets a second daemon take over.
fn taken_over_while_stopped(
    stage: &mut Stage,
    first: &Daemon,
    meanwhile: impl FnOnce(&mut Stage) -> Outcome,
) -> Outcome<(Daemon, Live)> {
    first.stop()?;
    stage.precondition(format!("{} was seen stopped", first.name));
    meanwhile(stage)?;
    stage.launch_ready()
}

fn stopped_through_a_displacement(stage: &mut Stage) -> Outcome {
    let (first, _) = stage.launch_ready()?;
    let (_second, new) = taken_over_while_stopped(stage, &first, |_| Ok(()))?;
    successor_is_left_alone(stage, &first, &new)
}

fn asked_to_stop_after_a_displacement(stage: &mut Stage) -> Outcome {
    let (first, _) = stage.launch_ready()?;
    let (_second, new) = taken_over_while_stopped(stage, &first, |stage| {
        signal(stage, &first, Signal::TERM).map(drop)
    })?;
    successor_is_left_alone(stage, &first, &new)
}

/// Lets `first` go on: it must leave in time and leave the record of `new` alone.
fn successor_is_left_alone(stage: &mut Stage, first: &Daemon, new: &Live) -> Outcome {
    let name = stage.manifest().binding.registration.clone();
    let facts = Facts::of(&stage.record_path())?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("it leaves within its bound, and the successor's record sees no event");
    first.cont()?;
    let at = Instant::now();
    let deadline = at + NOTICED.max(stage.manifest().daemon.stand_down_timeout()) + SLACK;
    let exit = exits(stage, first, deadline, "it went on after a displacement")?;
    stage.observed(format!(
        "{exit} after {} ms",
        exit.at.saturating_duration_since(at).as_millis()
    ));
    let touched = changes(&watch.events(), &name);
    let same = Facts::of(&stage.record_path()).is_ok_and(|now| now.ino == facts.ino);
    stage.ensure(
        same && touched.is_empty(),
        format!("its successor's record was touched: {touched:?}"),
    )?;
    let ready = stage.is_ready(new);
    stage.ensure(ready, "the successor is not ready any more")
}

fn displaced_exits_with_work_open(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let idle = open(&live, b"")?;
    let half = open(&live, b"GET / HT")?;
    let _work = match open_work(stage, &live) {
        Ok(work) => Some(work),
        Err(Stop::Untestable(_)) => None,
        Err(stop) => return Err(stop),
    };
    stage.precondition("open at the daemon: an idle connection and half a request head");
    stage.expect("it ends by itself within its re-read interval and its drain bound");
    let at = displace(stage, &Rival::new()?)?;
    let deadline = drained(stage);
    let exit = exits(stage, &daemon, deadline, "its drain bound, displaced")?;
    stage.observed(format!(
        "{exit} after {} ms",
        exit.at.saturating_duration_since(at).as_millis()
    ));
    drop((idle, half));
    Ok(())
}

fn displaced_leaves_the_record_alone(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let rival = Rival::new()?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("the suite's own rename is the only event about the record");
    displace(stage, &rival)?;
    let facts = Facts::of(&stage.record_path())?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(stage, &daemon, deadline, "a displacement")?;
    let events = watch.wait_for(stage.ready_deadline(), |events| {
        count(events, FileEventKind::MovedTo, &name) > 0
    });
    let Some(events) = events else {
        return stage.inconclusive("the suite's own rename was not seen");
    };
    let touched = changes(&events, &name);
    stage.observed(format!("events about the record: {touched:?}"));
    let same =
        Facts::of(&stage.record_path()).ok() == Some(facts) && read(&stage.record_path())? == rival.bytes();
    stage.ensure(
        same && touched.len() == 1,
        format!("the successor's record was touched: {touched:?}"),
    )
}

fn no_new_work(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let request = mutation(stage, &live)?;
    match stage.send(&live, &request) {
        Ok(answer) if (200..300).contains(&answer.status) => {
            stage.control(format!("the request was answered {} before", answer.status));
        }
        other => return stage.inconclusive(format!("the request in its good form: {other:?}")),
    }
    let mut kept = Connection::open(live.target.address, stage.ready_deadline())
        .map_err(|fault| Stop::Inconclusive(fault.to_string()))?;
    let before = kept.exchange(
        &live.target.bearing(&live.credential).bytes(),
        stage.ready_deadline(),
    );
    let kept = before
        .is_ok_and(|answer| answer.status == 200 && !answer.closes)
        .then_some(kept);
    let _work = open_work(stage, &live)?;
    stage.expect("it is answered 503, or finds no connection");
    displaced_for_good(stage, &daemon, &live)?;
    let fresh = stage.send(&live, &request).map(|answer| answer.status);
    stage.ensure(refused(&fresh), format!("a new connection: {fresh:?}"))?;
    if let Some(mut kept) = kept {
        let old = kept
            .exchange(&request.bytes(), stage.ready_deadline())
            .map(|answer| answer.status);
        stage.ensure(refused(&old), format!("the connection from before: {old:?}"))?;
    }
    Ok(())
}

fn refused(answer: &Result<u16, HttpFault>) -> bool {
    matches!(
        answer,
        Ok(503) | Err(HttpFault::Refused | HttpFault::Reset | HttpFault::Closed(0))
    )
}

fn own_record_returns_in_vain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let own = read(&stage.record_path())?;
    let name = stage.manifest().binding.registration.clone();
    let _work = open_work(stage, &live)?;
    displaced_for_good(stage, &daemon, &live)?;
    stage.expect("it is never ready again, publishes nothing, and ends");
    let watch = Watch::on(stage.state_dir())?;
    replace(&stage.record_path(), &own, 0o600)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline && daemon.is_running() {
        let ready = stage.is_ready(&live);
        stage.ensure(!ready, "it is ready again with its own record back")?;
        daemon.wait_exit(ms(50));
    }
    let taken = stage
        .state_dir()
        .join(format!("{name}.taken-{}-returned", Rival::new()?.record.id));
    std::fs::rename(stage.record_path(), taken)?;
    // Nothing else renames the record into place now.
    daemon.wait_exit(ms(300));
    if daemon.is_running() {
        signal(stage, &daemon, Signal::TERM)?;
        daemon.wait_exit(ms(300));
    }
    if daemon.is_running() {
        signal(stage, &daemon, Signal::TERM)?;
    }
    let deadline = drained(stage);
    exits(stage, &daemon, deadline, "its drain bound")?;
    let published = count(&watch.events(), FileEventKind::MovedTo, &name);
    stage.ensure(
        published == 1,
        format!("it published again: {:?}", changes(&watch.events(), &name)),
    )
}

fn exit_status_of_the_displaced(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    stage.expect("exit status 20");
    displace(stage, &Rival::new()?)?;
    let deadline = stage.stand_down_deadline() + SLACK;
    let exit = exits(stage, &daemon, deadline, "a displacement")?;
    stage.ensure(exit.code == Some(20), exit.to_string())
}

fn exit_status_of_the_rest(stage: &mut Stage) -> Outcome {
    stage.expect("exit status 0 each time");
    for way in [
        "a signal",
        "the removal of its record",
        "the removal of its directory",
    ] {
        let state_dir = further_state_dir(stage, way)?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        stage.ready(&daemon)?;
        match way {
            "a signal" => signal(stage, &daemon, Signal::TERM).map(drop)?,
            "the removal of its record" => std::fs::remove_file(record_in(stage, &state_dir))?,
            _ => std::fs::remove_dir_all(&state_dir)?,
        }
        let deadline = stage.stand_down_deadline() + SLACK;
        let exit = exits(stage, &daemon, deadline, way)?;
        stage.ensure(exit.code == Some(0), format!("after {way}: {exit}"))?;
    }
    Ok(())
}

fn at_once(stage: &mut Stage, contenders: usize) -> Outcome {
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(&state_dir)?;
    stage.expect("each publishes once; all but one end by themselves; the one that stays owns the record");
    let daemons = (0..contenders)
        .map(|_| stage.launch())
        .collect::<Outcome<Vec<Daemon>>>()?;
    let published = watch.wait_for(stage.ready_deadline(), |events| {
        count(events, FileEventKind::MovedTo, &name) >= contenders
    });
    let Some(published) = published else {
        let seen = count(&watch.events(), FileEventKind::MovedTo, &name);
        stage.precondition(format!("{contenders} daemons were started"));
        return stage.fail(format!("{seen} of them published"));
    };
    let last = published.last().map_or_else(Instant::now, |event| event.at);
    stage.precondition(format!("{contenders} publishes were seen"));
    let owner = Record::parse(&read(&stage.record_path())?)
        .map_err(|fault| Stop::Violation(format!("the record after the last publish: {fault}")))?;
    let deadline = last + NOTICED + stage.manifest().daemon.stand_down_timeout() + SLACK;
    let is_owner = |daemon: &&Daemon| daemon.tree().iter().any(|p| p.pid == owner.pid.unsigned_abs());
    let Some(survivor) = daemons.iter().find(is_owner) else {
        return stage.fail(format!("no running daemon has the recorded pid {}", owner.pid));
    };
    for daemon in daemons.iter().filter(|daemon| daemon.name != survivor.name) {
        exits(stage, daemon, deadline, "it was displaced")?;
    }
    let live = match stage.ready(survivor) {
        Ok(live) => live,
        Err(Stop::Violation(why)) => return stage.fail(format!("the owner of the record: {why}")),
        Err(stop) => return Err(stop),
    };
    stage.ensure(
        live.record.id == owner.id && survivor.is_running(),
        "the last one to publish is not the one that stayed",
    )?;
    let events = watch.events();
    let others: Vec<String> = changes(&events, &name)
        .into_iter()
        .filter(|change| !change.starts_with("MovedTo"))
        .collect();
    stage.observed(format!(
        "{} stayed; beside the publishes: {others:?}",
        survivor.name
    ));
    stage.ensure(others.is_empty(), format!("the record was touched: {others:?}"))?;
    stage.ensure(
        count(&events, FileEventKind::MovedTo, &name) == contenders,
        "a displaced daemon published again",
    )
}

/// The moves of `name` to a taken name, as the events tell: the taken name and its facts' moment.
fn takes<'a>(events: &'a [FileEvent], name: &str) -> Vec<(&'a FileEvent, Option<String>)> {
    let from = events
        .iter()
        .filter(|event| event.kind == FileEventKind::MovedFrom && event.name == name);
    from.map(|from| {
        let to = events
            .iter()
            .find(|event| event.kind == FileEventKind::MovedTo && event.cookie == from.cookie);
        (from, to.map(|to| to.name.to_string_lossy().into_owned()))
    })
    .collect()
}

/// Whether `taken` is `<name>.taken-<id>-<nonce>`.
fn is_taken_name(taken: &str, name: &str, id: &str) -> bool {
    taken
        .strip_prefix(&format!("{name}.taken-{id}-"))
        .is_some_and(|nonce| {
            (1..=32).contains(&nonce.len())
                && nonce
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
}

fn stop_takes_the_record_by_rename(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("one rename to its own taken name, which is unlinked; the record's name never is");
    signal(stage, &daemon, Signal::TERM)?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(stage, &daemon, deadline, "a stop signal")?;
    // The exit may be seen before the last event is read.
    let events = watch
        .wait_for(ms(500), |events| {
            takes(events, &name).iter().any(|(_, to)| {
                to.as_ref()
                    .is_some_and(|to| count(events, FileEventKind::Deleted, to) > 0)
            })
        })
        .unwrap_or_else(|| watch.events());
    let touched = changes(&events, &name);
    stage.observed(format!("events about the record: {touched:?}"));
    stage.ensure(
        count(&events, FileEventKind::Deleted, &name) == 0,
        "the record was unlinked under its own name",
    )?;
    let taken = takes(&events, &name);
    let [(_, Some(taken))] = &taken[..] else {
        return stage.fail(format!("the record was moved {} times: {touched:?}", taken.len()));
    };
    stage.ensure(
        is_taken_name(taken, &name, &live.record.id),
        format!("it was moved to {taken}"),
    )?;
    let left = taken_files(stage, stage.state_dir())?;
    stage.ensure(
        left.is_empty() && !stage.record_path().exists(),
        format!(
            "it left {left:?}, and the record {}",
            stage.record_path().exists()
        ),
    )
}

/// One stop with a successor in it, played by the suite.
struct Interleaving {
    daemon: Daemon,
    live: Live,
    rival: Rival,
    /// The successor's temporary file: gone when it has published.
    temporary: PathBuf,
    watch: Watch,
}

/// When the suite's successor publishes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the signal.
    After(Duration),
    /// So long after the stopping daemon opened its record.
    Opened(Duration),
}

/// Waits for a time that is too short for anything that sleeps.
fn spin(length: Duration) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Waits for the daemon, prepares a successor, and watches for the moment: once the returned flag is set, the daemon's
/// next open of its record counts.
fn arrange_interleaving(
    stage: &mut Stage,
    daemon: Daemon,
    moment: Moment,
) -> Outcome<(Interleaving, Arc<AtomicBool>)> {
    let live = stage.ready(&daemon)?;
    let name = stage.manifest().binding.registration.clone();
    let path = record_in(stage, &daemon.state_dir);
    let rival = Rival::new()?;
    let temporary = rival.prepare(&path)?;
    let armed: Arc<AtomicBool> = Arc::default();
    let watch = {
        let (armed, temporary) = (Arc::clone(&armed), temporary.clone());
        Watch::each_with_opens(&daemon.state_dir, move |event| {
            let opens = event.kind == FileEventKind::Opened && event.name == *name;
            if let Moment::Opened(offset) = moment
                && opens
                && armed.swap(false, Ordering::SeqCst)
            {
                spin(offset);
                // Where it fails, the end of the round publishes.
                let _ = std::fs::rename(&temporary, &path);
            }
        })?
    };
    let interleaving = Interleaving {
        daemon,
        live,
        rival,
        temporary,
        watch,
    };
    Ok((interleaving, armed))
}

fn successor_published_during_a_stop(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 50;
    const LANES: usize = 4;
    stage.expect(
        "the successor's record is whole, at its name or in a taken file; its name is never unlinked",
    );
    let credential = Credential::random();
    let name = stage.manifest().binding.registration.clone();
    let (mut left_in_place, mut moved_aside, mut overtaken) = (0_usize, 0_usize, 0_usize);
    // From the signal to the take, as the rounds so far have shown it.
    let mut take = Duration::from_millis(1);
    let end = Instant::now() + REPEAT;
    for round in 0..ROUNDS {
        if Instant::now() > end {
            break;
        }
        let mut launched = Vec::new();
        for lane in 0..LANES {
            let state_dir = furnished_state_dir(stage, &format!("{round}-{lane}"), &credential)?;
            launched.push(stage.launch_with(Start::new().state_dir(&state_dir))?);
        }
        for (lane, daemon) in launched.into_iter().enumerate() {
            let within = |bound: Duration| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
            let moment = if lane % 2 == 0 {
                Moment::After(Duration::from_micros(stage.rng().below(within(take * 3 / 2))))
            } else {
                Moment::Opened(Duration::from_micros(stage.rng().below(within(take / 8))))
            };
            let (interleaving, armed) = arrange_interleaving(stage, daemon, moment)?;
            armed.store(true, Ordering::SeqCst);
            let at = signal(stage, &interleaving.daemon, Signal::TERM)?;
            if let Moment::After(offset) = moment {
                spin(offset);
                std::fs::rename(
                    &interleaving.temporary,
                    record_in(stage, &interleaving.daemon.state_dir),
                )?;
            }
            match after_the_interleaving(stage, &interleaving, moment)? {
                Found::Left => left_in_place += 1,
                Found::Moved => moved_aside += 1,
                Found::Overtaken => overtaken += 1,
            }
            if let Some((from, _)) = takes(&interleaving.watch.events(), &name).first() {
                let took = from
                    .at
                    .saturating_duration_since(at)
                    .min(Duration::from_millis(20));
                take = (take * 7 + took) / 8;
            }
        }
    }
    stage.precondition(format!(
        "{} stops had a successor publish around them",
        ROUNDS * LANES
    ));
    stage.observed(format!(
        "the successor's record: {left_in_place} times found and left, {moved_aside} times moved aside and left, \
         {overtaken} times published after the take"
    ));
    Ok(())
}

/// What became of a successor's record.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The daemon found it in place and moved nothing.
    Left,
    /// It stands in a taken file.
    Moved,
    /// It came after the daemon's own record was gone.
    Overtaken,
}

fn after_the_interleaving(stage: &mut Stage, interleaving: &Interleaving, moment: Moment) -> Outcome<Found> {
    let Interleaving {
        daemon,
        live,
        rival,
        temporary,
        watch,
    } = interleaving;
    let name = stage.manifest().binding.registration.clone();
    let path = record_in(stage, &daemon.state_dir);
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(stage, daemon, deadline, "a stop signal")?;
    if temporary.exists() {
        std::fs::rename(temporary, &path)?;
    }
    // When this creation has been told, everything before it has.
    write_new(&daemon.state_dir.join("end"), b"", 0o600)?;
    let Some(events) = watch.wait_for(stage.ready_deadline(), |events| {
        count(events, FileEventKind::Created, "end") > 0
    }) else {
        return stage.inconclusive("the watch shows no event any more");
    };
    stage.ensure(
        count(&events, FileEventKind::Deleted, &name) == 0,
        format!("{moment:?}: the record was unlinked under its own name"),
    )?;
    let put = count(&events, FileEventKind::MovedTo, &name);
    stage.ensure(
        put == 1,
        format!("{moment:?}: beside the successor, something was renamed to the record's name"),
    )?;
    let taken = takes(&events, &name);
    stage.ensure(
        taken.len() <= 1,
        format!("{moment:?}: records were moved {} times", taken.len()),
    )?;
    for (_, to) in &taken {
        let to = to.clone().unwrap_or_default();
        stage.ensure(
            is_taken_name(&to, &name, &live.record.id),
            format!("{moment:?}: the record was moved to {to:?}"),
        )?;
    }
    let aside = taken_files(stage, &daemon.state_dir)?;
    let theirs = |path: &Path| std::fs::read(path).is_ok_and(|found| found == rival.bytes());
    let moved = aside.iter().any(|name| theirs(&daemon.state_dir.join(name)));
    stage.ensure(
        moved != theirs(&path) && aside.len() == usize::from(moved),
        format!(
            "{moment:?}: the successor's record is {} at its name; taken files: {aside:?}, with it in {}",
            if theirs(&path) { "whole" } else { "not" },
            if moved { "one" } else { "none" },
        ),
    )?;
    Ok(match (moved, taken.is_empty()) {
        (true, _) => Found::Moved,
        (false, true) => Found::Left,
        (false, false) => Found::Overtaken,
    })
}

fn successor_outlives_a_stop(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 12;
    let credential = Credential::random();
    stage
        .expect("the first one ends, the second one owns the record and is ready, and no taken file is left");
    let (mut rounds, mut reclaimed) = (0, 0);
    let end = Instant::now() + REPEAT;
    for round in 0..ROUNDS {
        if Instant::now() > end {
            break;
        }
        rounds += 1;
        let state_dir = furnished_state_dir(stage, &format!("round-{round}"), &credential)?;
        let name = stage.manifest().binding.registration.clone();
        let first = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let old = stage.ready(&first)?;
        let offset = Duration::from_micros(stage.rng().below(1_500));
        let asked: Arc<OnceLock<()>> = Arc::default();
        let watch = {
            let (first, asked, name) = (first.clone(), Arc::clone(&asked), name.clone());
            Watch::each(&state_dir, move |event| {
                // The successor's temporary, not a file that the first one touches.
                if event.kind == FileEventKind::Created && event.name != *name && asked.set(()).is_ok() {
                    spin(offset);
                    let _ = first.signal(Signal::TERM);
                }
            })?
        };
        let second = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let published = watch.wait_for(stage.ready_deadline(), |events| {
            count(events, FileEventKind::MovedTo, &name) > 0
        });
        if published.is_none() || asked.get().is_none() {
            return stage.fail("the second daemon published nothing");
        }
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(stage, &first, deadline, "a stop signal")?;
        stays(
            stage,
            &second,
            Duration::from_millis(20),
            "when its predecessor stopped",
        )?;
        let new = stage.ready(&second)?;
        stage.ensure(
            new.record.id != old.record.id,
            "the first daemon's record is back",
        )?;
        let left = until(Instant::now() + NOTICED, Duration::from_millis(5), || {
            taken_files(stage, &state_dir)
                .is_ok_and(|left| left.is_empty())
                .then_some(())
        });
        if left.is_none() {
            let left = taken_files(stage, &state_dir)?;
            return stage.fail(format!("offset {offset:?}: taken files stay: {left:?}"));
        }
        reclaimed += usize::from(count(&watch.events(), FileEventKind::MovedTo, &name) > 1);
        second.kill_group();
    }
    stage.observed(format!(
        "{rounds} rounds, in {reclaimed} of them the successor had to publish again"
    ));
    Ok(())
}

fn stops_without_its_record(stage: &mut Stage) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    stage.expect("it ends within its bound, and what stands at the record's name is left as it is");
    for way in ["a loose mode", "a directory"] {
        let state_dir = further_state_dir(stage, way)?;
        let path = record_in(stage, &state_dir);
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let live = stage.ready(&daemon)?;
        if way == "a directory" {
            let aside = stage.arena().path().join("aside");
            std::fs::create_dir(&aside)?;
            exchange(&path, &aside)?;
        } else {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        }
        if !seen_draining(stage, &daemon, &live)? {
            return stage.inconclusive(format!("{way}: it ended before it was asked to"));
        }
        let before = Facts::of(&path)?;
        stage.precondition(format!("{way} in the record's place: it is seen not to be ready"));
        signal(stage, &daemon, Signal::TERM)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(
            stage,
            &daemon,
            deadline,
            "a stop signal, without a record that it can read",
        )?;
        let after = Facts::of(&path);
        stage.ensure(
            after.as_ref().is_ok_and(|after| *after == before),
            format!("{way}: {before} became {after:?}"),
        )?;
    }
    Ok(())
}

fn record_off_before_the_drain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let work = open_work(stage, &live)?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("the record is off its name within a second, whatever is open");
    let at = signal(stage, &daemon, Signal::TERM)?;
    let off = watch.wait_event(at + Duration::from_secs(1), FileEventKind::MovedFrom, &name);
    let running = daemon.is_running();
    stage.observed(format!(
        "the record was off after {:?}, the daemon {}",
        off.as_ref().map(|event| event.at.saturating_duration_since(at)),
        if running {
            "was still draining"
        } else {
            "had ended"
        }
    ));
    let what = work.what.clone();
    drop(work);
    stage.ensure(
        off.is_some(),
        format!("the record stays while it waits for {what}"),
    )?;
    let deadline = drained(stage);
    exits(stage, &daemon, deadline, "its drain bound").map(drop)
}

fn second_signal_ends_the_drain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let _work = open_work(stage, &live)?;
    stage.expect("it has ended 1 s after the second signal");
    signal(stage, &daemon, Signal::TERM)?;
    // Seen draining, or gone; then a moment in which it would end by itself.
    if !seen_draining(stage, &daemon, &live)? || daemon.wait_exit(ms(200)).is_some() {
        return stage.not_applicable("it does not wait for open work: there is no drain to cut short");
    }
    stage.precondition("it waits for the open work");
    let at = signal(stage, &daemon, Signal::TERM)?;
    let exit = exits(
        stage,
        &daemon,
        at + Duration::from_secs(1) + SLACK,
        "a second stop signal",
    )?;
    let after = exit.at.saturating_duration_since(at);
    stage.observed(format!("{exit} {} ms after the second signal", after.as_millis()));
    stage.ensure(
        after <= Duration::from_secs(1),
        format!("{} ms", after.as_millis()),
    )
}

fn taken_record_is_published_again(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let state_dir = stage.state_dir().to_owned();
    let stranger = Rival::new()?;
    let taken = |id: &str, nonce: &str| state_dir.join(format!("{name}.taken-{id}-{nonce}"));
    let others = taken(&stranger.record.id, "x");
    write_new(&others, &stranger.bytes(), 0o600)?;
    let unrelated = state_dir.join("taken-notes");
    write_new(&unrelated, &read(&stage.record_path())?, 0o600)?;
    stage.expect("the same id is published again, its taken files are gone, every other file is as it was");
    for round in 0..2_usize {
        let before = Facts::of(&others)?;
        let (one, other) = (
            taken(&Rival::new()?.record.id, "a_1"),
            taken(&Rival::new()?.record.id, "Z"),
        );
        if round > 0 {
            write_new(&other, &read(&stage.record_path())?, 0o600)?;
        }
        let watch = Watch::on(&state_dir)?;
        std::fs::rename(stage.record_path(), &one)?;
        let at = Instant::now();
        stage.precondition("its record was moved to a taken name of another id");
        let again = watch.wait_event(at + NOTICED + SLACK, FileEventKind::MovedTo, &name);
        stage.ensure(again.is_some(), "its record was not published again")?;
        let record = Record::parse(&read(&stage.record_path())?);
        stage.ensure(
            record.as_ref().is_ok_and(|record| record.id == live.record.id),
            format!("the record that came back: {record:?}"),
        )?;
        let gone = until(Instant::now() + NOTICED, Duration::from_millis(5), || {
            (!one.exists() && !other.exists()).then_some(())
        });
        stage.ensure(gone.is_some(), "taken files that hold its own id stay")?;
        let kept = Facts::of(&others).ok() == Some(before) && unrelated.exists();
        stage.ensure(kept, "a file that does not hold its id was touched")?;
        ready_again(stage, &daemon, &live, "it published again")?;
    }
    std::fs::remove_file(stage.record_path())?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(stage, &daemon, deadline, "the removal of its record")?;
    stage.observed("published again twice, and stood down when the record was removed");
    Ok(())
}

fn removed_record_stands_it_down(stage: &mut Stage) -> Outcome {
    stage.expect("it stands down in time and publishes nothing");
    for way in ["nothing else", "a taken file of another id"] {
        let state_dir = further_state_dir(stage, way)?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let live = stage.ready(&daemon)?;
        let name = stage.manifest().binding.registration.clone();
        let mut taken = None;
        if way != "nothing else" {
            let other = Rival::new()?;
            // The name holds this daemon's id; the content, which decides, another's.
            let path = state_dir.join(format!("{name}.taken-{}-n", live.record.id));
            write_new(&path, &other.bytes(), 0o600)?;
            taken = Some((path, other));
        }
        let watch = Watch::on(&state_dir)?;
        std::fs::remove_file(record_in(stage, &state_dir))?;
        let at = Instant::now();
        let seen = watch.wait_event(stage.ready_deadline(), FileEventKind::Deleted, &name);
        if seen.is_none() {
            return stage.inconclusive("the removal was not seen");
        }
        stage.precondition(format!("the record was removed, with {way} there"));
        let deadline = at + NOTICED.max(stage.manifest().daemon.stand_down_timeout()) + SLACK;
        let exit = exits(stage, &daemon, deadline, "the removal of its record")?;
        stage.observed(format!(
            "{exit} after {} ms",
            exit.at.saturating_duration_since(at).as_millis()
        ));
        let published = count(&watch.events(), FileEventKind::MovedTo, &name)
            + count(&watch.events(), FileEventKind::Created, &name);
        stage.ensure(
            published == 0 && !record_in(stage, &state_dir).exists(),
            format!("with {way} there, it came back from the removal of its record"),
        )?;
        if let Some((path, other)) = taken {
            let kept = read(&path).is_ok_and(|bytes| bytes == other.bytes());
            stage.ensure(kept, "the taken file of another id was touched")?;
        }
    }
    Ok(())
}

fn removed_directory_stands_it_down(stage: &mut Stage) -> Outcome {
    stage.expect("it stands down in time, and the directory is not there afterwards");
    for way in ["removed", "moved away"] {
        let state_dir = further_state_dir(stage, way)?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        stage.ready(&daemon)?;
        let parent = Watch::on(stage.arena().path())?;
        let at = Instant::now();
        if way == "removed" {
            std::fs::remove_dir_all(&state_dir)?;
        } else {
            std::fs::rename(&state_dir, stage.arena().path().join("elsewhere"))?;
        }
        stage.precondition(format!("the state directory was {way}"));
        let deadline = at + NOTICED.max(stage.manifest().daemon.stand_down_timeout()) + SLACK;
        let exit = exits(
            stage,
            &daemon,
            deadline,
            &format!("its state directory was {way}"),
        )?;
        stage.observed(format!(
            "{way}: {exit} after {} ms",
            exit.at.saturating_duration_since(at).as_millis()
        ));
        let again = count(&parent.events(), FileEventKind::Created, way);
        stage.ensure(
            again == 0 && !state_dir.exists(),
            format!("{way}: the directory was created again"),
        )?;
    }
    Ok(())
}

/// The wire protocol that the subject speaks, and its credential in the arena's state directory.
fn protocol_of(stage: &mut Stage) -> Outcome<(String, Credential)> {
    let (daemon, live) = stage.launch_ready()?;
    let pointer = stage.manifest().binding.handshake.protocol.clone();
    let body = stage.probe(&live).ok().and_then(|answer| answer.response.json());
    let protocol = body.and_then(|body| Some(body.pointer(&pointer)?.as_str()?.to_owned()));
    daemon.kill_group();
    match protocol {
        Some(protocol) => Ok((protocol, live.credential)),
        None => stage.inconclusive("the handshake tells no protocol"),
    }
}

fn yields_to_a_ready_daemon(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 0 and leaves every file as it is");

    let fake = FakeDaemon::new(&credential, &protocol);
    let id = fake.id.clone();
    let actor = fake
        .clone()
        .part()
        .noted(stage.transcript(), "fake daemon")
        .start(Bind::V4)?;
    replace(
        &stage.record_path(),
        fake.record(actor.address()).to_json().as_bytes(),
        0o600,
    )?;
    yields(
        stage,
        start.clone(),
        &format!("the daemon {id} that the suite plays"),
    )?;
    let asked = actor.ledger().requests().iter().any(|request| {
        request
            .header("authorization")
            .is_some_and(|value| value.starts_with(proof::SCHEME))
    });
    stage.ensure(
        asked,
        "it left the place to a daemon that it did not ask for a proof",
    )?;
    drop(actor);

    let (first, live) = stage.launch_ready()?;
    yields(stage, start, "a daemon of the same subject")?;
    let ready = stage.is_ready(&live);
    stage.ensure(
        ready && first.is_running(),
        "the daemon that was there is not ready any more",
    )
}

/// Starts a daemon that must yield to `whom`.
fn yields(stage: &mut Stage, start: Start, whom: &str) -> Outcome {
    let name = stage.manifest().binding.registration.clone();
    let before = Snapshot::of(stage.state_dir())?;
    let watch = Watch::on(stage.state_dir())?;
    let daemon = stage.launch_with(start)?;
    stage.precondition(format!("a daemon was told to yield beside {whom}"));
    let deadline = stage.ready_deadline();
    let exit = exits(
        stage,
        &daemon,
        deadline,
        &format!("it was told to yield beside {whom}"),
    )?;
    stage.observed(format!("beside {whom}: {exit}"));
    stage.ensure(exit.code == Some(0), format!("beside {whom}: {exit}"))?;
    let differences: Vec<String> = before
        .diff(&Snapshot::of(stage.state_dir())?)
        .iter()
        .map(ToString::to_string)
        .collect();
    let touched = changes(&watch.events(), &name);
    stage.ensure(
        differences.is_empty() && touched.is_empty(),
        format!("beside {whom}: {differences:?}, events {touched:?}"),
    )
}

fn yields_to_nothing_else(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, _) = protocol_of(stage)?;
    let (name, number) = protocol.rsplit_once('/').unwrap_or((&protocol, "1"));
    let higher = format!("{name}/{}", number.parse::<u32>().unwrap_or(1) + 1);
    let credential = Credential::random();
    let (dead, rival) = (Rival::new()?, Rival::new()?);
    let fake = FakeDaemon::new(&credential, &protocol);
    let mut fakes: Vec<(&str, FakeDaemon, FakeDaemon)> = Vec::new();
    let mut play = |what, change: fn(&mut FakeDaemon)| {
        let mut played = fake.clone();
        change(&mut played);
        fakes.push((what, fake.clone(), played));
    };
    play("a draining daemon", |fake| "draining".clone_into(&mut fake.state));
    play("a wrong proof", |fake| fake.proof = FakeProof::Wrong);
    play("no proof", |fake| fake.proof = FakeProof::None);
    play("a proof for another body", |fake| {
        fake.proof = FakeProof::OtherBody;
    });
    play("another id than the record's", |fake| {
        fake.id = proof::random_hex::<16>();
    });
    let other_protocol = FakeDaemon {
        protocol: higher.clone(),
        ..fake.clone()
    };
    fakes.push((
        "a daemon of a higher protocol",
        other_protocol.clone(),
        other_protocol,
    ));
    let other_name = FakeDaemon {
        protocol: format!("x{protocol}"),
        ..fake.clone()
    };
    fakes.push(("a daemon of another protocol", other_name.clone(), other_name));

    let mut actors: Vec<Actor> = Vec::new();
    let mut records: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("no record", None),
        (
            "half a record",
            Some(rival.bytes()[..rival.bytes().len() / 2].to_vec()),
        ),
        ("a dead port", Some(dead.bytes())),
    ];
    for (what, recorded, played) in fakes {
        let actor = played.part().noted(stage.transcript(), what).start(Bind::V4)?;
        records.push((
            what,
            Some(recorded.record(actor.address()).to_json().into_bytes()),
        ));
        actors.push(actor);
    }
    let squatters = [
        ("silence", Squatter::mute()),
        (
            "a squatter that answers 200",
            Squatter::answering(200, r#"{"state":"ready"}"#),
        ),
        ("a squatter that answers 401", Squatter::answering(401, "{}")),
    ];
    for (what, squatter) in squatters {
        let actor = squatter.noted(stage.transcript(), what).start(Bind::V4)?;
        let record = Record {
            url: actor.url(),
            ..Rival::new()?.record
        };
        records.push((what, Some(record.to_json().into_bytes())));
        actors.push(actor);
    }

    stage.expect("each publishes within 5 s and is ready");
    let name = stage.manifest().binding.registration.clone();
    let mut slowest = Duration::ZERO;
    // A few at a time: a host on which all of them start at once may take the 5 s for itself.
    for (group, records) in records.chunks(4).enumerate() {
        let mut started = Vec::new();
        for (place, (what, record)) in records.iter().enumerate() {
            let state_dir = furnished_state_dir(stage, &format!("beside-{group}-{place}"), &credential)?;
            if let Some(bytes) = record {
                write_new(&record_in(stage, &state_dir), bytes, 0o600)?;
            }
            let watch = Watch::on(&state_dir)?;
            let began = Instant::now();
            let daemon = stage.launch_with(start.clone().state_dir(&state_dir))?;
            started.push((*what, daemon, watch, began));
        }
        for (what, daemon, watch, began) in &started {
            stage.precondition(format!("{} was told to yield beside {what}", daemon.name));
            let published = watch.wait_event(*began + Duration::from_secs(5), FileEventKind::MovedTo, &name);
            let Some(published) = published else {
                let how = daemon
                    .exit()
                    .map_or_else(|| "it runs".to_owned(), |exit| exit.to_string());
                return stage.fail(format!("beside {what} it did not publish: {how}"));
            };
            slowest = slowest.max(published.at.saturating_duration_since(*began));
            stage.ready(daemon)?;
            daemon.kill_group();
        }
    }
    stage.observed(format!(
        "{} daemons published, the slowest after {} ms",
        records.len(),
        slowest.as_millis()
    ));
    drop(actors);
    Ok(())
}

fn recorded_process_is_not_signalled(stage: &mut Stage) -> Outcome {
    let bystander = stage.arena().launch("bystander", ["sleep", "60"]).start()?;
    let mute = Squatter::mute().start(Bind::V4)?;
    let dead = Rival::new()?;
    let naming = |record: &Record| Record {
        pid: i32::try_from(bystander.pid()).unwrap_or(i32::MAX),
        ..record.clone()
    };
    let silent = Record {
        url: mute.url(),
        ..Rival::new()?.record
    };
    stage.expect("the bystander runs on, neither ended nor stopped");
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let path = stage.record_path();
    for record in [naming(&dead.record), naming(&silent)] {
        replace(&path, record.to_json().as_bytes(), 0o600)?;
        let (daemon, _) = launch_over(stage, Start::new())?;
        unharmed(
            stage,
            &bystander,
            "a daemon published over a record that names it",
        )?;
        replace(&path, record.to_json().as_bytes(), 0o600)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(stage, &daemon, deadline, "a displacement")?;
        unharmed(
            stage,
            &bystander,
            "a daemon was displaced by a record that names it",
        )?;
    }
    let (daemon, _) = launch_over(stage, Start::new())?;
    daemon.stop()?;
    replace(&path, naming(&dead.record).to_json().as_bytes(), 0o600)?;
    signal(stage, &daemon, Signal::TERM)?;
    daemon.cont()?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(stage, &daemon, deadline, "a stop signal")?;
    unharmed(
        stage,
        &bystander,
        "a stopping daemon found a record that names it",
    )?;
    if let Some(yields) = stage.manifest().daemon.yields.clone() {
        replace(
            &state_dir.join(path.file_name().unwrap_or_default()),
            naming(&silent).to_json().as_bytes(),
            0o600,
        )?;
        launch_over(stage, yields.args.iter().fold(Start::new(), Start::arg))?;
        unharmed(
            stage,
            &bystander,
            "a yielding daemon found a record that names it",
        )?;
    }
    stage.observed("the bystander was unharmed each time");
    Ok(())
}

fn unharmed(stage: &mut Stage, bystander: &Subject, after: &str) -> Outcome {
    let seen = Proc::of(bystander.pid()).map(|process| process.state);
    let unharmed = bystander.is_running() && matches!(seen, Some('S' | 'R' | 'D'));
    stage.ensure(
        unharmed,
        format!("{after}: it is in state {seen:?}, {:?}", bystander.exit()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_told_from_others() {
        let id = "0123456789abcdef0123456789abcdef";
        let name = "registration.json";
        assert!(is_taken_name(&format!("{name}.taken-{id}-a_Z9"), name, id));
        for other in ["", "-", "-a-b", "-ä", &format!("-{}", "a".repeat(33))] {
            assert!(
                !is_taken_name(&format!("{name}.taken-{id}{other}"), name, id),
                "{other}"
            );
        }
        assert!(!is_taken_name(
            &format!("{name}.taken-{}-a", "f".repeat(32)),
            name,
            id
        ));
    }
}
