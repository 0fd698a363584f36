//! Stopped: take, verify, leave.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{Facts, FileEvent, FileEventKind, Watch, set_mode};
use local_daemon_harness::process::Signal;
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::write_new;
use local_daemon_harness::wait::{ms, until};

use super::drained;
use crate::case::case;
use crate::fixtures::daemon::{
    NOTICED, REPEAT, Rival, SLACK, changes, count, exchange, exits, furnished_state_dir, further_state_dir,
    record_in, seen_draining, signal, stays, taken_files,
};
use crate::fixtures::words::{InWords, in_words};
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// The events by which `name` was moved away, each with the name that it was moved to inside of the directory.
fn takes<'a>(events: &'a [FileEvent], name: &str) -> Vec<(&'a FileEvent, Option<String>)> {
    let from = events.iter().filter(|event| event.kind == FileEventKind::MovedFrom && event.name == name);
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
    taken.strip_prefix(&format!("{name}.taken-{id}-")).is_some_and(|nonce| {
        (1..=32).contains(&nonce.len())
            && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// A daemon without a rival is asked to stop; every event about the record and the taken file is looked at.
#[case("CONV-15", "CONV-16")]
fn stop_takes_the_record_by_rename(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("one rename to its own taken name, which is unlinked; the record's name never is");
    signal(&daemon, Signal::TERM)?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(&daemon, deadline, "a stop signal")?;
    // The exit may be seen before the last event is read.
    let events = watch
        .wait_for(ms(500), |events| {
            takes(events, &name)
                .iter()
                .any(|(_, to)| to.as_ref().is_some_and(|to| count(events, FileEventKind::Deleted, to) > 0))
        })
        .unwrap_or_else(|| watch.events());
    let touched = changes(&events, &name);
    stage.observed(format!("events about the record: {touched}", touched = in_words(&touched)));
    ensure!(count(&events, FileEventKind::Deleted, &name) == 0, "the record was unlinked under its own name");
    let taken = takes(&events, &name);
    let [(_, Some(taken))] = &taken[..] else {
        return fail(format!(
            "the record was moved {} times: {touched}",
            taken.len(),
            touched = in_words(&touched)
        ));
    };
    ensure!(is_taken_name(taken, &name, &live.record.id), "it was moved to {taken}");
    let left = taken_files(stage, stage.state_dir())?;
    ensure!(
        left.is_empty() && !stage.record_path().exists(),
        "it left {left}, and the record {}",
        stage.record_path().exists(),
        left = in_words(&left)
    );
    Ok(())
}

/// One stop with a successor in it, played by the suite.
struct Interleaving {
    daemon: Daemon,
    live: ReadyDaemon,
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

impl InWords for Moment {
    fn in_words(&self) -> String {
        match self {
            Self::After(length) => format!("{} µs after the signal", length.as_micros()),
            Self::Opened(length) => format!("{} µs after it opened its record", length.as_micros()),
        }
    }
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
    let interleaving = Interleaving { daemon, live, rival, temporary, watch };
    Ok((interleaving, armed))
}

/// 200 times (fewer where it starts slowly) a daemon is asked to stop and another's record is renamed into
/// place at some moment around it: after a varied time, or after the daemon was seen to open its record.
/// Stems from khive#645 and stablyai/orca#12709.
#[case("CONV-14", "CONV-15", "CONV-17", deadline_s = 60)]
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
            let at = signal(&interleaving.daemon, Signal::TERM)?;
            if let Moment::After(offset) = moment {
                spin(offset);
                std::fs::rename(&interleaving.temporary, record_in(stage, &interleaving.daemon.state_dir))?;
            }
            match after_the_interleaving(stage, &interleaving, moment)? {
                Found::Left => left_in_place += 1,
                Found::Moved => moved_aside += 1,
                Found::Overtaken => overtaken += 1,
            }
            if let Some((from, _)) = takes(&interleaving.watch.events(), &name).first() {
                let took = from.at.saturating_duration_since(at).min(Duration::from_millis(20));
                take = (take * 7 + took) / 8;
            }
        }
    }
    stage.precondition(format!("{} stops had a successor publish around them", ROUNDS * LANES));
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
    let Interleaving { daemon, live, rival, temporary, watch } = interleaving;
    let name = stage.manifest().binding.registration.clone();
    let path = record_in(stage, &daemon.state_dir);
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(daemon, deadline, "a stop signal")?;
    match std::fs::rename(temporary, &path) {
        // The watch has published it, perhaps at this very moment.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // When this creation has been told, everything before it has.
    write_new(&daemon.state_dir.join("end"), b"", 0o600)?;
    let Some(events) =
        watch.wait_for(stage.ready_deadline(), |events| count(events, FileEventKind::Created, "end") > 0)
    else {
        return inconclusive("the watch shows no event any more");
    };
    ensure!(
        count(&events, FileEventKind::Deleted, &name) == 0,
        "{moment}: the record was unlinked under its own name",
        moment = in_words(&moment)
    );
    let put = count(&events, FileEventKind::MovedTo, &name);
    ensure!(
        put == 1,
        "{moment}: something other than the successor's record was renamed to the record's name",
        moment = in_words(&moment)
    );
    let taken = takes(&events, &name);
    ensure!(
        taken.len() <= 1,
        "{moment}: records were moved {} times",
        taken.len(),
        moment = in_words(&moment)
    );
    for (_, to) in &taken {
        let to = to.clone().unwrap_or_default();
        ensure!(
            is_taken_name(&to, &name, &live.record.id),
            "{moment}: the record was moved to {to}",
            moment = in_words(&moment),
            to = in_words(&to)
        );
    }
    let aside = taken_files(stage, &daemon.state_dir)?;
    let theirs = |path: &Path| std::fs::read(path).is_ok_and(|found| found == rival.bytes());
    let moved = aside.iter().any(|name| theirs(&daemon.state_dir.join(name)));
    ensure!(
        moved != theirs(&path) && aside.len() == usize::from(moved),
        "{moment}: the successor's record is {} at its name; taken files: {aside}, with it in {}",
        if theirs(&path) { "whole" } else { "not" },
        if moved { "one" } else { "none" },
        moment = in_words(&moment),
        aside = in_words(&aside)
    );
    Ok(match (moved, taken.is_empty()) {
        (true, _) => Found::Moved,
        (false, true) => Found::Left,
        (false, false) => Found::Overtaken,
    })
}

/// A daemon is asked to stop at the very moment at which a second one, of the same subject, publishes.
#[case("CONV-13", deadline_s = 60)]
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
        let published =
            watch.wait_for(stage.ready_deadline(), |events| count(events, FileEventKind::MovedTo, &name) > 0);
        if published.is_none() || asked.get().is_none() {
            return fail("the second daemon published nothing");
        }
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(&first, deadline, "a stop signal")?;
        stays(&second, Duration::from_millis(20), "when its predecessor stopped")?;
        let new = stage.ready(&second)?;
        ensure!(new.record.id != old.record.id, "the first daemon's record is back");
        let left = until(Instant::now() + NOTICED, || {
            taken_files(stage, &state_dir).is_ok_and(|left| left.is_empty()).then_some(())
        });
        if left.is_none() {
            let left = taken_files(stage, &state_dir)?;
            return fail(format!(
                "offset {offset}: taken files stay: {left}",
                offset = in_words(&offset),
                left = in_words(&left)
            ));
        }
        reclaimed += usize::from(count(&watch.events(), FileEventKind::MovedTo, &name) > 1);
        second.kill_group();
    }
    stage.observed(format!("{rounds} rounds, in {reclaimed} of them the successor had to publish again"));
    Ok(())
}

/// Daemons are asked to stop whose record has a loose mode, or whose record's name a directory has taken.
#[case("CONV-18")]
fn stops_without_its_record(stage: &mut Stage) -> Outcome {
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
            set_mode(&path, 0o644)?;
        }
        if !seen_draining(&daemon, &live)? {
            return inconclusive(format!("{way}: it ended before it was asked to"));
        }
        let before = Facts::of(&path)?;
        stage.precondition(format!("{way} in the record's place: it is seen not to be ready"));
        signal(&daemon, Signal::TERM)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(&daemon, deadline, "a stop signal, without a record that it can read")?;
        let after = Facts::of(&path);
        ensure!(
            after.as_ref().is_ok_and(|after| *after == before),
            "{way}: {before} became {after}",
            after = in_words(&after)
        );
    }
    Ok(())
}

/// A daemon with work open is asked to stop; its record must be gone while the work still is open.
#[case("CONV-19", deadline_s = 30)]
fn record_off_before_the_drain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let work = live.open_work()?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("the record is off its name within a second, whatever is open");
    let at = signal(&daemon, Signal::TERM)?;
    let off = watch.wait_event(at + Duration::from_secs(1), FileEventKind::MovedFrom, &name);
    let running = daemon.is_running();
    stage.observed(format!(
        "the record was off after {}, the daemon {}",
        in_words(&off.as_ref().map(|event| event.at.saturating_duration_since(at))),
        if running { "was still draining" } else { "had ended" }
    ));
    let what = work.what.clone();
    drop(work);
    ensure!(off.is_some(), "the record stays while it waits for {what}");
    let deadline = drained(stage);
    exits(&daemon, deadline, "its drain bound").map(drop)
}

/// A daemon with work open is asked to stop, is seen draining, and is asked again.
#[case("CONV-20", deadline_s = 30)]
fn second_signal_ends_the_drain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let _work = live.open_work()?;
    stage.expect("it has ended 1 s after the second signal");
    signal(&daemon, Signal::TERM)?;
    // Seen draining, or gone; then a moment in which it would end by itself.
    if !seen_draining(&daemon, &live)? || daemon.wait_exit(ms(200)).is_some() {
        return not_applicable("it does not wait for open work: there is no drain to cut short");
    }
    stage.precondition("it waits for the open work");
    let at = signal(&daemon, Signal::TERM)?;
    let exit = exits(&daemon, at + Duration::from_secs(1) + SLACK, "a second stop signal")?;
    let after = exit.at.saturating_duration_since(at);
    stage.observed(format!("{exit} {} ms after the second signal", after.as_millis()));
    ensure!(after <= Duration::from_secs(1), "{} ms", after.as_millis());
    Ok(())
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
            assert!(!is_taken_name(&format!("{name}.taken-{id}{other}"), name, id), "{other}");
        }
        assert!(!is_taken_name(&format!("{name}.taken-{}-a", "f".repeat(32)), name, id));
    }
}
