//! Whole at every moment, and never before it can be reached.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{FileEvent, FileEventKind, HostileReader, Sight, Watch};
use local_daemon_harness::http::{self, Target};
use local_daemon_harness::record::{self, Record};

use crate::case::case;
use crate::fixtures::daemon::{REPEAT, count};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, PROBE, Stage};

fn classify(bytes: &[u8]) -> Sight {
    match Record::parse(bytes) {
        Ok(record) => Sight::Whole(record.id),
        Err(fault) => Sight::Broken(fault.to_string()),
    }
}

/// Starts `width` daemons over each other, `waves` times and on until there is `enough`, or as often as [`REPEAT`]
/// allows, and waits for every publish; `watch` must have begun before. How many there were.
fn publish_over_each_other(
    stage: &mut Stage,
    watch: &Watch,
    waves: usize,
    width: usize,
    enough: impl Fn() -> bool,
) -> Outcome<usize> {
    let name = stage.manifest().binding.registration.clone();
    let mut launched = 0;
    let end = Instant::now() + REPEAT;
    for wave in 0.. {
        if wave >= waves && enough() {
            break;
        }
        let daemons = (0..width).map(|_| stage.launch()).collect::<Outcome<Vec<Daemon>>>()?;
        launched += width;
        // They start at the same time, so each may take longer than one alone.
        let deadline = Instant::now() + stage.manifest().daemon.ready_timeout() * 3;
        let published =
            watch.wait_for(deadline, |events| count(events, FileEventKind::MovedTo, &name) >= launched);
        if published.is_none() {
            let seen = count(&watch.events(), FileEventKind::MovedTo, &name);
            let ended =
                daemons.iter().find_map(|daemon| Some(format!("; {}: {}", daemon.name, daemon.exit()?)));
            stage.precondition(format!("{launched} daemons were started"));
            return fail(format!(
                "{seen} renames to {name} were seen of {launched} daemons{}",
                ended.unwrap_or_default()
            ));
        }
        if Instant::now() > end {
            break;
        }
        for daemon in &daemons {
            daemon.killer().kill();
        }
    }
    Ok(launched)
}

/// 200 daemons (fewer where they start slowly) are started over each other, ten at a time, while readers open
/// and read the record as fast as they can. Stems from paseo#4803.
#[case("PUB-3", "PUB-7", deadline_s = 60)]
fn partial_record_never_observed(stage: &mut Stage) -> Outcome {
    const WAVES: usize = 20;
    const WIDTH: usize = 10;
    // On a busy machine the readers get their turn in further waves.
    const READS: u64 = 1_000;
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let first = stage.launch()?;
    stage.ready(&first)?;
    let watch = Watch::on(&state_dir)?;
    let readers = HostileReader::start(&stage.record_path(), 2, classify);
    stage.expect("every read, over 200 publishes, shows one whole record, and none shows that there is none");
    let publishes = publish_over_each_other(stage, &watch, WAVES, WIDTH, || readers.reads() >= READS)?;
    let report = readers.stop();
    if report.reads < READS || report.whole.len() < publishes / 10 {
        return inconclusive(format!(
            "the readers came to {} reads of {} records only",
            report.reads,
            report.whole.len()
        ));
    }
    let seen = format!(
        "{} reads during {} publishes: {} different whole records, {} broken, {} times none, errors {}",
        report.reads,
        publishes,
        report.whole.len(),
        report.broken,
        report.absent,
        in_words(&report.errors)
    );
    stage.precondition(format!("{} reads showed whole records", report.whole.values().sum::<u64>()));
    stage.observed(seen);
    ensure!(report.broken == 0, "broken reads: {}", in_words(&report.broken_reads));
    ensure!(report.absent == 0, "{} reads found no record", report.absent);
    ensure!(report.errors.is_empty(), "reads failed: {}", in_words(&report.errors));
    Ok(())
}

/// At the very notification that a record came into place, a handshake goes to its URL. Many daemons publish
/// over each other. Stems from opencode 1.18, which accepted connections before it served.
#[case("PUB-4", deadline_s = 40)]
fn answers_from_the_first_instant(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 20;
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let (name, path) = (stage.manifest().binding.registration.clone(), stage.record_path());
    let (credential, handshake) = (stage.credential_path(), stage.manifest().binding.handshake.clone());
    let answers = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let (answers, name) = (Arc::clone(&answers), name.clone());
        Watch::each(&state_dir, move |event| {
            if event.name == *name && matches!(event.kind, FileEventKind::MovedTo | FileEventKind::Created) {
                let answer = shake_at_once(&path, &credential, &handshake.path, &handshake.id);
                answers.lock().unwrap_or_else(PoisonError::into_inner).push((event.at, answer));
            }
        })?
    };
    stage.expect("each handshake is answered 200 or 503 by the id in the record");
    let end = Instant::now() + REPEAT;
    for launch in 1..=LAUNCHES {
        if Instant::now() > end {
            break;
        }
        let daemon = stage.launch()?;
        let seen = watch.wait_for(stage.ready_deadline(), |events| {
            count(events, FileEventKind::MovedTo, &name) + count(events, FileEventKind::Created, &name)
                >= launch
        });
        if seen.is_none() {
            stage.precondition(format!("{} was started as pid {}", daemon.name, daemon.pid()));
            return fail(format!("{} published nothing in time", daemon.name));
        }
    }
    let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
    stage.precondition(format!("{} records were seen to come into place", answers.len()));
    let slowest = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).max();
    stage.observed(format!(
        "{} handshakes at the notification, the slowest took {slowest}",
        answers.len(),
        slowest = in_words(&slowest)
    ));
    match answers.into_iter().find_map(|(_, answer)| answer.err()) {
        None => Ok(()),
        Some(why) => fail(why),
    }
}

/// The handshake with whatever record is there right now; how long it took, or what went wrong.
fn shake_at_once(
    record: &std::path::Path,
    credential: &std::path::Path,
    path: &str,
    pointer: &str,
) -> Result<Duration, String> {
    let began = Instant::now();
    let read = |path| std::fs::read(path).map_err(|error| error.to_string());
    let record = Record::parse(&read(record)?).map_err(|fault| fault.to_string())?;
    let credential = record::parse_credential(&read(credential)?).ok_or("no credential")?;
    let target = Target { path: path.to_owned(), ..Target::of(&record) };
    let answer = http::probe_with_bearer(&target, &credential, began + PROBE)
        .map_err(|fault| format!("the handshake at {}: {fault}", record.url.text()))?;
    let id = answer.response.json().and_then(|body| Some(body.pointer(pointer)?.as_str()?.to_owned()));
    if !matches!(answer.response.status, 200 | 503) || id.as_deref() != Some(&record.id) {
        return Err(format!(
            "the handshake of record {} was answered {} by {id}",
            record.id,
            answer.response.status,
            id = in_words(&id)
        ));
    }
    Ok(began.elapsed())
}

/// The events of many publishes are followed: each record comes by a rename from a file that was created in
/// the state directory for it, under a name that no other publish used.
#[case("PUB-5", deadline_s = 60)]
fn temporary_of_its_own_renamed_into_place(stage: &mut Stage) -> Outcome {
    const WAVES: usize = 4;
    const WIDTH: usize = 6;
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let name = stage.manifest().binding.registration.clone();
    stage.launch_ready()?;
    let watch = Watch::on(&state_dir)?;
    stage.expect("each record is renamed from a name of its own that was created in the state directory");
    publish_over_each_other(stage, &watch, WAVES, WIDTH, || true)?;
    let events = watch.events();
    if count(&events, FileEventKind::Overflow, "") > 0 {
        return inconclusive("the kernel dropped events");
    }
    let arrivals: Vec<&FileEvent> = events
        .iter()
        .filter(|event| event.kind == FileEventKind::MovedTo && event.name == *name)
        .collect();
    stage.precondition(format!("{} renames to {name} were seen", arrivals.len()));
    let mut sources = BTreeSet::new();
    for arrival in &arrivals {
        let source = events
            .iter()
            .find(|event| event.kind == FileEventKind::MovedFrom && event.cookie == arrival.cookie);
        let Some(source) = source else {
            return fail(format!("a record was renamed to {name} from outside of the state directory"));
        };
        let temporary = source.name.to_string_lossy().into_owned();
        let created = count(&events, FileEventKind::Created, &temporary);
        ensure!(created == 1, "{temporary} was created {created} times and renamed to {name}");
        ensure!(sources.insert(temporary.clone()), "{temporary} was the temporary of two publishes");
    }
    stage.observed(format!("temporaries such as {}", in_words(&sources.first())));
    let direct =
        count(&events, FileEventKind::Created, &name) + count(&events, FileEventKind::Modified, &name);
    ensure!(direct == 0, "{name} itself was created or written {direct} times");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_record_is_broken_and_a_whole_one_is_told_by_its_id() {
        let rival = crate::fixtures::daemon::Rival::new().unwrap();
        let bytes = rival.bytes();
        assert_eq!(classify(&bytes), Sight::Whole(rival.record.id.clone()));
        assert!(matches!(classify(&bytes[..40]), Sight::Broken(_)));
    }
}
