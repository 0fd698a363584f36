//! Who else touches the record, and the process: chapter 06.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use local_daemon_harness::actors::{Squatter, response};
use local_daemon_harness::files::{FileEvent, FileEventKind, Watch};
use local_daemon_harness::http::HANDSHAKE;
use local_daemon_harness::proof::random_hex;
use local_daemon_harness::record::{Record, Url, write_new};
use local_daemon_harness::wait::ms;

use super::outcomes::{WITHOUT_SPAWN, arrange, look};
use crate::case::case;
use crate::fixtures::client::{
    Part, SOON, Spy, bystander, furnished, gone, lives, play, play_published, publish, squat, write_record,
};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID, changes, count};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::{faketime, here, other_network, other_pids};
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable};
use crate::stage::{Call, Command, Stage};

/// A connect ends in each outcome, and calls that may spawn have children that fail and hang, beside a stale,
/// a stranger's and a malformed record and a taken file: neither is removed, renamed or written.
#[case("CONV-29")]
fn clients_leave_the_record(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("no change of the record and of the taken file");
    let name = stage.manifest().binding.registration.clone();
    let taken = format!("{name}.taken-{}-1", random_hex::<16>());
    let port = DeadPort::new()?;
    let dead = Record::new(Url::of(port.address), NOBODYS_PID);
    write_new(&stage.state_dir().join(&taken), dead.to_json().as_bytes(), 0o600)?;
    let mut looks: Vec<(&str, Call)> = WITHOUT_SPAWN.map(|outcome| (outcome, look())).into();
    let client = stage.client()?;
    let mut spies = Vec::new();
    if client.connect_or_spawn.is_some() && client.daemon.is_some() {
        for (scene, part) in [("stale", Part::Ends(1, "no luck")), ("foreign", Part::Hangs)] {
            let spy = Spy::named(stage, scene, part)?;
            looks.push((scene, Call::spawn().stand(spy.program()).within(2)));
            spies.push(spy);
        }
    }
    for (scene, call) in looks {
        let standing = arrange(stage, &world, scene, NOBODYS_PID)?;
        untouched(stage, &name, &taken, scene, call)?;
        drop(standing);
        stage.arena().end_leaks();
    }
    world.write_credential(stage)?;
    let (silent, _) = squat(stage, Squatter::mute())?;
    untouched(stage, &name, &taken, "silent", look())?;
    drop(silent);
    write_record(stage, b"{\"id\":")?;
    untouched(stage, &name, &taken, "malformed", look())
}

/// Nothing happens to the record and the taken file through a call.
fn untouched(stage: &mut Stage, name: &str, taken: &str, scene: &str, call: Call) -> Outcome {
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(call)?;
    let events = watch.events();
    let mut changed = changes(&events, name);
    changed.extend(changes(&events, taken));
    ensure!(changed.is_empty(), "{scene}: {}: {answer}", in_words(&changed));
    Ok(())
}

/// A repair meets a record whose daemon does not answer, breaks off, is draining, cannot be asked or is gone with
/// its network namespace, and whose address answers as a stranger: none of these was refused, and the record stays
/// (reddb-io/red-skills#3186).
#[case("CONV-29", "CONV-30", idle)]
fn repair_leaves_what_answers_or_is_silent(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the record as it was");
    let name = stage.manifest().binding.registration.clone();
    for scene in ["busy", "foreign", "ready", "incompatible", "unreachable"] {
        let _standing = arrange(stage, &world, scene, NOBODYS_PID)?;
        untouched(stage, &name, "", scene, Call::new(Command::Repair))?;
    }
    let (_silent, _) = squat(stage, Squatter::mute())?;
    untouched(stage, &name, "", "silent", Call::new(Command::Repair))?;
    let (_stopped, _) = squat(stage, Squatter::backlog_only())?;
    untouched(stage, &name, "", "stopped", Call::new(Command::Repair))?;
    for (scene, squatter) in [
        ("resetting", Squatter::resetting()),
        ("closing", Squatter::closing()),
    ] {
        let (_breaking, _) = squat(stage, squatter)?;
        untouched(stage, &name, "", scene, Call::new(Command::Repair))?;
    }
    let port = DeadPort::new()?;
    let dead = Record::new(Url::of(port.address), NOBODYS_PID).with_world(other_network());
    publish(stage, &dead)?;
    untouched(stage, &name, "", "of a network namespace that is gone", Call::new(Command::Repair))
}

/// A repair meets a record whose address refuses, and one that is replaced by another daemon's as it is
/// looked at: what a repair removes, it takes off and verifies first.
#[case("CONV-30")]
fn repair_takes_a_stale_record_off(stage: &mut Stage) -> Outcome {
    let (_world, good) = furnished(stage)?;
    stage.expect("the stale record renamed away before it is removed; the new one not lost");
    let name = stage.manifest().binding.registration.clone();
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(Call::new(Command::Repair))?;
    let deleted = count(&watch.events(), FileEventKind::Deleted, &name) > 0;
    ensure!(!deleted, "the record was removed without a look at what it is: {answer}");
    // Whatever a repair does to a record, one that comes meanwhile has to be there in the end.
    let stale = Record::new(Url::of(port.address), NOBODYS_PID);
    publish(stage, &stale)?;
    let (path, bytes) = (stage.record_path(), good.record.to_json());
    let mut comes = Some(move || local_daemon_harness::record::replace(&path, bytes.as_bytes(), 0o600));
    let read = move |event: &FileEvent| event.kind == FileEventKind::Opened && event.name == *name;
    let came = {
        let (read, state_dir) = (read.clone(), stage.state_dir().to_owned());
        Watch::each_with_opens(&state_dir, move |event| {
            if let Some(comes) = comes.take_if(|_| read(event)) {
                let _ = comes();
            }
        })?
    };
    let answer = stage.ask(Call::new(Command::Repair))?;
    // It is told of after the reaction to it, which a quick repair may be done before.
    if came.wait_for(Instant::now() + SOON, |events| events.iter().any(&read)).is_none() {
        return inconclusive("the repair was not seen to read the record");
    }
    drop(came);
    // By its name, or as a taken file, which a running owner puts back (CONV-17, CONV-21).
    let is_good = |path: &Path| {
        let record = std::fs::read(path).ok().and_then(|bytes| Record::parse(&bytes).ok());
        record.is_some_and(|record| record.id == good.daemon.id)
    };
    let kept = std::fs::read_dir(stage.state_dir())?.flatten().any(|entry| is_good(&entry.path()));
    ensure!(kept, "the record that came meanwhile is gone: {answer}");
    Ok(())
}

/// Writes a taken file of a record, named after the record's own id.
fn take(stage: &Stage, record: &Record) -> Outcome<PathBuf> {
    let name = stage.record_path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = stage.state_dir().join(format!("{name}.taken-{}-{}", record.id, random_hex::<8>()));
    write_new(&path, record.to_json().as_bytes(), 0o600)?;
    Ok(path)
}

/// A repair finds taken files of daemons that are gone: one that was just written, and one that was written two hours ago and
/// just renamed.
#[case("CONV-38")]
fn repair_leaves_fresh_taken_files(stage: &mut Stage) -> Outcome {
    let (_world, _good) = furnished(stage)?;
    stage.expect("both files where they are");
    let port = DeadPort::new()?;
    let dead = || Record::new(Url::of(port.address), NOBODYS_PID);
    let (written, renamed) = (take(stage, &dead())?, take(stage, &dead())?);
    let two_hours_ago = SystemTime::now() - Duration::from_hours(2);
    File::options().write(true).open(&renamed)?.set_modified(two_hours_ago)?;
    stage.precondition("two taken files are there, whose status has just changed");
    let answer = stage.ask(Call::new(Command::Repair))?;
    for (what, path) in [("written just now", written), ("renamed just now", renamed)] {
        ensure!(path.exists(), "the taken file that was {what} is gone: {answer}");
    }
    Ok(())
}

/// A repair whose clock is two hours ahead finds taken files of the published daemon, of one that is not published, and of one
/// that is gone.
#[case("CONV-39")]
fn repair_leaves_the_taken_files_of_the_living(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("the files of both living daemons where they are");
    let library = faketime()?;
    let unpublished = play(stage, world.daemon())?;
    let port = DeadPort::new()?;
    let dead = take(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    let living = [take(stage, &good.record)?, take(stage, &unpublished.record)?];
    let call = Call::new(Command::Repair)
        .var("LD_PRELOAD", library.to_string_lossy())
        .var("FAKETIME", "+2h")
        .var("NO_FAKE_STAT", "1")
        .var("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let answer = stage.ask(call)?;
    if dead.exists() {
        return not_applicable(format!("the repair removes no old taken file: {answer}"));
    }
    stage.control("the repair removed the taken file of a daemon that is gone");
    for (what, path) in ["the published daemon", "the unpublished daemon"].into_iter().zip(living) {
        ensure!(path.exists(), "the taken file of {what} is gone: {answer}");
    }
    Ok(())
}

/// The record names a process that has nothing to do with it, in every state of the record, and the client
/// connects, spawns, stops, stops by force, restarts and repairs: the process lives (jupyter_server 2.21).
#[case("CONV-31", deadline_s = 60)]
fn clients_signal_nobody(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the process at the recorded pid lives");
    let client = stage.client()?;
    let decoy = bystander(stage)?;
    let commands = [
        (Command::Connect, true),
        (Command::Stop, client.stop.is_some()),
        (Command::ForceStop, client.force_stop.is_some()),
        (Command::Repair, client.repair.is_some()),
        (Command::Spawn, client.connect_or_spawn.is_some()),
        (Command::Restart, client.restart.is_some()),
    ];
    for (command, _) in commands.into_iter().filter(|(_, there)| *there) {
        for scene in ["stale", "foreign", "incompatible", "invalid", "ready"] {
            // It proves itself, tells this very pid, and refuses to stop: only a forced stop may end it.
            if matches!(scene, "ready" | "incompatible") && command == Command::ForceStop {
                continue;
            }
            let _standing = arrange(stage, &world, scene, decoy.pid())?;
            let caller = stage.call(Call::new(command))?;
            // A restart may take longer than a connect; what it has signalled by then is enough.
            stage.answer_by(&caller, caller.began + Duration::from_secs(12))?;
            caller.kill_group();
            stage.arena().end_leaks();
            if let Some(exit) = decoy.exit() {
                return fail(format!(
                    "the process at the recorded pid ended ({exit}) when its record was {scene}, by {command}",
                    command = in_words(&command)
                ));
            }
        }
        lives(
            &decoy,
            &format!("when its record was one of these, by {command}", command = in_words(&command)),
        )?;
    }
    let (_silent, record) = squat(stage, Squatter::mute())?;
    publish(stage, &record.with_pid(decoy.pid()))?;
    let mut callers = vec![(Command::Connect, stage.call(Call::connect())?)];
    for (command, there) in commands {
        if there && matches!(command, Command::Stop | Command::ForceStop) {
            callers.push((command, stage.call(Call::new(command))?));
        }
    }
    for (command, caller) in callers {
        stage.answer_by(&caller, caller.began + Duration::from_secs(12))?;
        lives(
            &decoy,
            &format!("when its record's daemon was silent, by {command}", command = in_words(&command)),
        )?;
    }
    Ok(())
}

/// A proven daemon gives another pid than its record, and does not stop: a forced stop signals neither the
/// recorded nor the told process.
#[case("CONV-31", idle)]
fn a_forced_stop_needs_the_proven_pid(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("both processes live");
    if stage.client()?.force_stop.is_none() {
        return not_applicable("the manifest has no `client.force_stop`");
    }
    let (recorded, told) = (bystander(stage)?, bystander(stage)?);
    let daemon = world.daemon().pid(told.pid());
    let id = daemon.id.clone();
    // It takes the request to stop, and stays.
    let stays = Squatter::responding(move |seen, address| {
        if seen.target == HANDSHAKE {
            daemon.answer(seen, address)
        } else {
            response(202, &[("Content-Type", "application/json")], b"{}")
        }
    });
    let (actor, record) = squat(stage, stays)?;
    publish(stage, &record.with_id(id).with_pid(recorded.pid()))?;
    let caller = stage.call(Call::new(Command::ForceStop))?;
    if actor.ledger().wait_request(Instant::now() + SOON).is_none() {
        return fail("the record's daemon was not asked");
    }
    stage.precondition("the daemon proves itself with another pid than its record's");
    stage.answer_by(&caller, caller.began + Duration::from_secs(15))?;
    lives(&recorded, "although the proven daemon told another pid")?;
    lives(&told, "although the record named another pid")
}

/// A proven daemon takes the request to stop and stays, and its record names a bystander as it does: a forced stop
/// ends that process if the record is of the client's own pid namespace, and not if it is of another one.
#[case("CONV-36", idle, deadline_s = 60)]
fn a_forced_stop_stays_in_its_pid_namespace(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the process at the pid of another namespace lives");
    if stage.client()?.force_stop.is_none() {
        return not_applicable("the manifest has no `client.force_stop`");
    }
    for (place, told) in [("the client's own", here()?), ("another", other_pids()?)] {
        let decoy = bystander(stage)?;
        let daemon = world.daemon().pid(decoy.pid());
        let id = daemon.id.clone();
        let stays = Squatter::responding(move |seen, address| match &*seen.target {
            HANDSHAKE => daemon.answer(seen, address),
            _ => response(202, &[("Content-Type", "application/json")], b"{}"),
        });
        let (actor, record) = squat(stage, stays)?;
        publish(stage, &record.with_id(id).with_pid(decoy.pid()).with_world(told))?;
        let caller = stage.call(Call::new(Command::ForceStop))?;
        if actor.ledger().wait_request(Instant::now() + SOON).is_none() {
            return fail(format!("the daemon of {place} pid namespace was not asked"));
        }
        stage.answer_by(&caller, caller.began + Duration::from_secs(15))?;
        if place == "another" {
            return lives(&decoy, "although it is of another pid namespace than the recorded one");
        }
        if decoy.wait_exit(Instant::now() + SOON).is_none() {
            return not_applicable("a forced stop ends nothing");
        }
        stage.control("a forced stop ended the process of a record of its own pid namespace");
    }
    Ok(())
}

/// A supervised daemon is displaced and ends with status 20: it is not started again (opencode#35455).
#[case("CONV-32")]
fn supervisor_does_not_restart_the_displaced(stage: &mut Stage) -> Outcome {
    if stage.client()?.supervise.is_none() {
        return not_applicable("the manifest has no `client.supervise`");
    }
    let (world, good) = furnished(stage)?;
    stage.expect("no second start");
    std::fs::remove_file(stage.record_path())?;
    drop(good);
    let spy = Spy::new(stage, Part::WaitsAndEnds(20))?;
    let caller = stage.call(Call::new(Command::Supervise).stand(spy.program()))?;
    let first = spy.seen_started(stage)?;
    let _successor = play_published(stage, world.daemon())?;
    spy.release()?;
    if !gone(first) {
        return inconclusive("the displaced daemon does not end");
    }
    stage.precondition("the supervised daemon was displaced, and ended with status 20");
    let again = spy.started_again(ms(2_000));
    ensure!(!again, "the displaced daemon was started again");
    caller.kill_group();
    Ok(())
}
