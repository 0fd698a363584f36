//! Killed, hindered, and left alone.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{Difference, Facts, FileEvent, FileEventKind, Snapshot, Watch, set_mode};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::Killer;
use local_daemon_harness::record::{Record, write_new};

use crate::case::case;
use crate::fixtures::daemon::{
    NOTICED, REPEAT, Rival, changes, count, exits, further_state_dir, read, record_in, stays,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Stage, Start, names_path};

/// What one launch does to its state directory, as far as a watch shows it, up to its record.
fn edges_of_a_launch(stage: &mut Stage, state_dir: &std::path::Path) -> Outcome<Vec<FileEvent>> {
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(state_dir)?;
    let daemon = stage.launch_with(Start::new().state_dir(state_dir))?;
    stage.ready(&daemon)?;
    let published =
        watch.wait_for(stage.ready_deadline(), |events| count(events, FileEventKind::MovedTo, &name) > 0);
    daemon.kill_group();
    let Some(mut events) = published else {
        return fail(format!("no rename to {name} was seen"));
    };
    let last = events
        .iter()
        .position(|event| event.kind == FileEventKind::MovedTo && event.name == *name);
    events.truncate(last.map_or(0, |last| last + 1));
    Ok(events)
}

/// A first launch and a launch over an old record are watched event by event. Then each is repeated and
/// killed (SIGKILL) at each of these events, and a daemon is started on what is left. Stems from paseo#4803.
#[case("PUB-9", "PUB-3", deadline_s = 100)]
fn killed_at_every_step_recovers(stage: &mut Stage) -> Outcome {
    stage.expect("wherever it was killed, readers find the old record, the new one or none, and the next start is ready");
    let mut steps = Vec::new();
    for old_record in [false, true] {
        let kind = if old_record { "again" } else { "first" };
        let pattern = further_state_dir(stage, &format!("pattern-{kind}"))?;
        if old_record {
            let before = stage.launch_with(Start::new().state_dir(&pattern))?;
            stage.ready(&before)?;
            before.kill_group();
        }
        let edges = edges_of_a_launch(stage, &pattern)?;
        let end = Instant::now() + REPEAT * 2;
        for place in 0..edges.len() {
            if Instant::now() > end {
                return inconclusive(format!(
                    "{place} of {} steps were judged: the subject starts too slowly",
                    edges.len()
                ));
            }
            let state_dir = further_state_dir(stage, &format!("{kind}-{place}"))?;
            if old_record {
                for name in [
                    &stage.manifest().binding.registration,
                    &stage.manifest().binding.credential,
                ] {
                    write_new(&state_dir.join(name), &read(&pattern.join(name))?, 0o600)?;
                }
            }
            steps.push(kill_at(stage, &state_dir, place)?);
            after_a_kill(stage, &state_dir, &pattern, old_record, place)?;
        }
        let edges: Vec<String> = edges
            .iter()
            .map(|event| format!("{} {}", in_words(&event.kind), event.name.display()))
            .collect();
        stage.precondition(format!("a launch ({kind}) showed {} steps: {}", edges.len(), edges.join(", ")));
    }
    let killed = steps.iter().filter(|struck| **struck).count();
    stage.observed(format!("{} launches, {killed} of them killed at the step that was meant", steps.len()));
    if killed * 2 < steps.len() {
        return inconclusive("most launches were over before they could be killed");
    }
    Ok(())
}

/// Starts a daemon and kills it at the event number `place` in its state directory; whether the kill found it alive.
fn kill_at(stage: &mut Stage, state_dir: &std::path::Path, place: usize) -> Outcome<bool> {
    let killer: Arc<OnceLock<Killer>> = Arc::default();
    let struck: Arc<OnceLock<bool>> = Arc::default();
    let watch = {
        let (killer, struck, mut seen) = (Arc::clone(&killer), Arc::clone(&struck), 0);
        Watch::each(state_dir, move |_| {
            if seen == place {
                // The launch may be faster than the return of the call that made it.
                let killer = killer.wait();
                let _ = struck.set(killer.kill());
            }
            seen += 1;
        })?
    };
    let daemon = stage.launch_with(Start::new().state_dir(state_dir))?;
    let _ = killer.set(daemon.killer());
    let deadline = stage.ready_deadline();
    watch.wait_for(deadline, |_| struck.get().is_some() || !daemon.is_running());
    daemon.kill_group();
    drop(watch);
    Ok(struck.get().copied().unwrap_or(false))
}

/// What readers find after a kill, and whether the next start makes a daemon of it.
fn after_a_kill(
    stage: &mut Stage,
    state_dir: &std::path::Path,
    pattern: &std::path::Path,
    old_record: bool,
    place: usize,
) -> Outcome {
    let path = record_in(stage, state_dir);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let whole = Record::parse(&bytes);
            if let Err(fault) = whole {
                return fail(format!(
                    "killed at step {place}, it left a record of {} bytes: {fault}",
                    bytes.len()
                ));
            }
        }
        Err(_) if !old_record => {}
        Err(error) => return fail(format!("killed at step {place}, it left no record: {error}")),
    }
    let next = stage.launch_with(Start::new().state_dir(state_dir))?;
    stage.ready(&next)?;
    next.kill_group();
    if old_record {
        let credential = stage.manifest().binding.credential.clone();
        let same = read(&state_dir.join(&credential))? == read(&pattern.join(&credential))?;
        ensure!(same, "killed at step {place}, it lost the credential");
    }
    Ok(())
}

/// Puts a directory that is not empty at the record's name.
fn block_record(stage: &Stage) -> Outcome {
    std::fs::create_dir(stage.record_path())?;
    write_new(&stage.record_path().join("inside"), b"", 0o600)?;
    Ok(())
}

/// The control of a start that must fail: the same start succeeds where nothing is in the way. Leaves a credential.
fn good_start_before(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    daemon.kill_group();
    stage.control("the same start succeeds where nothing is in its way");
    std::fs::remove_file(stage.record_path())?;
    Ok(())
}

/// At the record's name there is a directory with a file in it, over which nothing can be renamed.
#[case("PUB-10")]
fn cannot_publish_and_says_so(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    block_record(stage)?;
    stage.expect("it exits by itself within 5 s, not with 0, and standard error names the path");
    let began = Instant::now();
    let daemon = stage.launch()?;
    let exit = exits(&daemon, began + Duration::from_secs(5), "5 s without being able to publish")?;
    let stderr = daemon.wait_output_end(stage.ready_deadline()).unwrap_or_default().stderr();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    stage.observed(format!(
        "{exit} after {} ms; it said: {}",
        began.elapsed().as_millis(),
        stderr.trim_end()
    ));
    ensure!(exit.code.is_some_and(|code| code != 0), "{exit}");
    ensure!(names_path(&stderr, stage.state_dir()), "standard error does not name the path");
    std::fs::remove_dir_all(stage.record_path())?;
    stage.launch_ready()?;
    Ok(())
}

/// Only the modification of what is told apart: names that a failed start may leave or add are of no interest.
fn lost(before: &Snapshot, stage: &Stage) -> Outcome<Vec<String>> {
    let binding = &stage.manifest().binding;
    let after = Snapshot::of(stage.state_dir())?;
    let watched = |difference: &Difference| {
        let (Difference::Added(name, _) | Difference::Removed(name, _) | Difference::Changed(name, ..)) =
            difference;
        name.starts_with(&binding.registration) || name.starts_with(&binding.credential)
    };
    Ok(before
        .diff(&after)
        .iter()
        .filter(|difference| watched(difference))
        .map(ToString::to_string)
        .collect())
}

/// Starts fail because no file may be written beyond a few bytes, because the record cannot be replaced, and
/// because the credential's mode is loose. Stems from bitcoin#28784.
#[case("PUB-11")]
fn failed_start_leaves_files(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    let rival = Rival::new()?;
    rival.publish(&stage.record_path())?;
    stage.expect("after each failed start, record and credential are what they were");

    let full = Setup { file_size: Some(16), ..Setup::default() };
    fails_and_leaves(stage, "no file may be longer than 16 bytes", Start::new().setup(full))?;

    set_mode(stage.credential_path(), 0o644)?;
    fails_and_leaves(stage, "the credential can be read by others", Start::new())?;
    set_mode(stage.credential_path(), 0o600)?;

    std::fs::remove_file(stage.record_path())?;
    block_record(stage)?;
    fails_and_leaves(stage, "a directory is in the record's place", Start::new())?;

    std::fs::remove_dir_all(stage.record_path())?;
    rival.publish(&stage.record_path())?;
    stage.launch_ready()?;
    stage.control("with everything put right, a start succeeds");
    Ok(())
}

fn fails_and_leaves(stage: &mut Stage, why: &str, start: Start) -> Outcome {
    let before = Snapshot::of(stage.state_dir())?;
    let daemon = stage.launch_with(start)?;
    match daemon.wait_exit(stage.ready_deadline()) {
        Some(exit) if exit.code == Some(0) => {
            return inconclusive(format!("{why}: the start did not fail"));
        }
        Some(exit) => stage.precondition(format!("{why}: {exit}")),
        None => return inconclusive(format!("{why}: the start goes on")),
    }
    let lost = lost(&before, stage)?;
    ensure!(lost.is_empty(), "{why}: {}", lost.join(", "));
    Ok(())
}

/// A daemon that owns its record is left to its re-reads for 2.5 s, with requests and other changes in its
/// state directory; every event about the record is looked at.
#[case("PUB-12")]
fn own_record_never_rewritten(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let (before, facts) = (read(&stage.record_path())?, Facts::of(&stage.record_path())?);
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("no event shows the record written, renamed or removed, and it is the same file afterwards");
    let foreign = stage.state_dir().join("of-another-program");
    write_new(&foreign, b"not the daemon's business", 0o600)?;
    std::fs::remove_file(&foreign)?;
    let seen = watch.wait_event(stage.ready_deadline(), FileEventKind::Deleted, "of-another-program");
    if seen.is_none() {
        return inconclusive("the watch shows no event");
    }
    stage.control("a change in the state directory was seen by the watch");
    live.between_controls(|| stays(&daemon, NOTICED, "while it owned its record"))?;
    let touched = changes(&watch.events(), &name);
    stage.observed(format!("events about the record: {touched}", touched = in_words(&touched)));
    ensure!(touched.is_empty(), "the record was touched: {touched}", touched = in_words(&touched));
    let same = Facts::of(&stage.record_path()).ok() == Some(facts) && read(&stage.record_path())? == before;
    ensure!(same, "the record is another file than before");
    Ok(())
}

/// A publish fails at its last step, and the names in the state directory are compared with those before.
#[case("PUB-13")]
fn failed_publish_leaves_no_temporary(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    block_record(stage)?;
    let before = Snapshot::of(stage.state_dir())?;
    stage.expect("no name is in the state directory that was not there before");
    let daemon = stage.launch()?;
    let Some(exit) = daemon.wait_exit(stage.ready_deadline()) else {
        return inconclusive("the publish did not fail");
    };
    stage.precondition(format!("the publish over a directory failed: {exit}"));
    let after = Snapshot::of(stage.state_dir())?;
    let added: Vec<String> = before
        .diff(&after)
        .iter()
        .filter(|difference| matches!(difference, Difference::Added(..)))
        .map(ToString::to_string)
        .collect();
    ensure!(added.is_empty(), "{}", added.join(", "));
    Ok(())
}
