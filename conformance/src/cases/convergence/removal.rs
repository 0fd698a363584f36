//! The record is gone, or the directory.

use std::time::Instant;

use local_daemon_harness::files::{Facts, FileEventKind, Watch};
use local_daemon_harness::record::{Record, write_new};
use local_daemon_harness::wait::until;

use super::ready_again;
use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, SLACK, count, exits, further_state_dir, read, record_in};
use crate::outcome::{Outcome, ensure, inconclusive};
use crate::stage::{Stage, Start};

/// The record of a healthy daemon is moved to taken names of other ids, as a predecessor does that moved the
/// wrong one, beside a taken file of somebody else. It happens twice; then the record is removed for good.
#[case("CONV-21", "CONV-22")]
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
        let (one, other) = (taken(&Rival::new()?.record.id, "a_1"), taken(&Rival::new()?.record.id, "Z"));
        if round > 0 {
            write_new(&other, &read(&stage.record_path())?, 0o600)?;
        }
        let watch = Watch::on(&state_dir)?;
        std::fs::rename(stage.record_path(), &one)?;
        let at = Instant::now();
        stage.precondition("its record was moved to a taken name of another id");
        let again = watch.wait_event(at + NOTICED + SLACK, FileEventKind::MovedTo, &name);
        ensure!(again.is_some(), "its record was not published again");
        let record = Record::parse(&read(&stage.record_path())?);
        ensure!(
            record.as_ref().is_ok_and(|record| record.id == live.record.id),
            "the record that came back {}",
            record.map_or_else(
                |fault| format!("is malformed: {fault}"),
                |record| format!("has the id {}", record.id)
            )
        );
        let gone = until(Instant::now() + NOTICED, || (!one.exists() && !other.exists()).then_some(()));
        ensure!(gone.is_some(), "taken files that hold its own id stay");
        ensure!(
            Facts::of(&others).ok() == Some(before) && unrelated.exists(),
            "a file that does not hold its id was touched"
        );
        ready_again(&daemon, &live, "it published again")?;
    }
    std::fs::remove_file(stage.record_path())?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(&daemon, deadline, "the removal of its record")?;
    stage.observed("published again twice, and stood down when the record was removed");
    Ok(())
}

/// The record is removed, with nothing else there and beside a taken file of another id.
#[case("CONV-23", "CONV-25")]
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
            return inconclusive("the removal was not seen");
        }
        stage.precondition(format!("the record was removed, with {way} there"));
        let deadline = at + NOTICED.max(stage.manifest().daemon.stand_down_timeout()) + SLACK;
        let exit = exits(&daemon, deadline, "the removal of its record")?;
        stage.observed(format!("{exit} after {} ms", exit.at.saturating_duration_since(at).as_millis()));
        let published = count(&watch.events(), FileEventKind::MovedTo, &name)
            + count(&watch.events(), FileEventKind::Created, &name);
        ensure!(
            published == 0 && !record_in(stage, &state_dir).exists(),
            "with {way} there, it came back from the removal of its record"
        );
        if let Some((path, other)) = taken {
            let kept = read(&path).is_ok_and(|bytes| bytes == other.bytes());
            ensure!(kept, "the taken file of another id was touched");
        }
    }
    Ok(())
}

/// The whole state directory is removed, or moved away. Stems from clawpatrol#670 and gmux#359.
#[case("CONV-24", "CONV-25")]
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
        let exit = exits(&daemon, deadline, &format!("its state directory was {way}"))?;
        stage.observed(format!(
            "{way}: {exit} after {} ms",
            exit.at.saturating_duration_since(at).as_millis()
        ));
        let again = count(&parent.events(), FileEventKind::Created, way);
        ensure!(again == 0 && !state_dir.exists(), "{way}: the directory was created again");
    }
    Ok(())
}
