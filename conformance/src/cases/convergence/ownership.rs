//! Whose record is it: what a daemon makes of what it reads there.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::files::{Facts, FileEventKind, Watch, set_mode};
use local_daemon_harness::platform::overwrite_unnoticed;
use local_daemon_harness::record::{Record, replace, write_new};
use local_daemon_harness::wait::{ms, until};

use super::{displace, ready_again};
use crate::case::case;
use crate::fixtures::daemon::{
    NOTICED, Rival, SLACK, changes, exchange, exits, further_state_dir, read, record_in, seen_draining,
    stays, write_in_place,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// A daemon whose record is changed without a notification, and what was prepared for that.
struct Unnoticed {
    daemon: Daemon,
    ready_at: Instant,
    file: File,
    place: usize,
    watch: Watch,
}

impl Unnoticed {
    fn prepare(stage: &mut Stage, daemon: Daemon) -> Outcome<Self> {
        let live = stage.ready(&daemon)?;
        let ready_at = Instant::now();
        let path = record_in(stage, &daemon.state_dir);
        let bytes = read(&path)?;
        let Some(place) = String::from_utf8_lossy(&bytes).find(&live.record.id) else {
            return inconclusive("the id is not written plainly in the record");
        };
        // Opened before, so that this open and the daemon's own end are the only ones that could be told.
        let file = File::options().read(true).write(true).open(&path)?;
        let watch = Watch::on(&daemon.state_dir)?;
        Ok(Self { daemon, ready_at, file, place, watch })
    }

    /// Writes another id into the record; returns when.
    fn displace(&self, stage: &Stage, rival: &Rival) -> Outcome<Instant> {
        overwrite_unnoticed(&self.file, self.place, rival.record.id.as_bytes())?;
        let at = Instant::now();
        match Record::parse(&read(&record_in(stage, &self.daemon.state_dir))?) {
            Ok(record) if record.id == rival.record.id => {}
            Ok(record) => return inconclusive(format!("the record now holds the id {}", record.id)),
            Err(fault) => return inconclusive(format!("the record is malformed now: {fault}")),
        }
        if !changes(&self.watch.events(), &stage.manifest().binding.registration).is_empty() {
            return inconclusive("the change was notified");
        }
        Ok(at)
    }
}

/// Another id is written into the records of seven idle daemons through a mapping, the one write that causes no notification,
/// and no request is sent: only the daemons' own re-reads can tell it. Each write comes half a second later after the daemon's
/// launch than the one before, so that an interval that is too long shows. Stems from watchman#276.
#[case("CONV-1", deadline_s = 60)]
fn displaced_without_a_notification(stage: &mut Stage) -> Outcome {
    const PHASES: u32 = 7;
    const STEP: Duration = Duration::from_millis(500);
    let mut started = Vec::new();
    for phase in 0..PHASES {
        let state_dir = further_state_dir(stage, &format!("phase-{phase}"))?;
        started.push(stage.launch_with(Start::new().state_dir(&state_dir))?);
    }
    let mut daemons = Vec::new();
    for daemon in started {
        daemons.push(Unnoticed::prepare(stage, daemon)?);
    }
    let rival = Rival::new()?;
    stage.expect(
        "each leaves by its own re-read: it has begun within 2.5 s, and with nothing open it ends at once",
    );
    let mut displaced = Vec::new();
    for (one, phase) in daemons.iter().zip(1..) {
        // Nothing but the time of the write makes a daemon end.
        let due = one.ready_at + phase * STEP;
        stays(&one.daemon, due.saturating_duration_since(Instant::now()), "while it owned its record")?;
        displaced.push(one.displace(stage, &rival)?);
    }
    stage.precondition(format!("{PHASES} records hold another id, and no notification of it was seen"));
    let mut delays = Vec::new();
    for (one, at) in daemons.iter().zip(displaced) {
        let exit = exits(
            &one.daemon,
            at + NOTICED + SLACK,
            "2.5 s with another id in its record, of which nothing notified it",
        )?;
        delays.push(format!("{} ms", exit.at.saturating_duration_since(at).as_millis()));
    }
    stage.observed(format!("they ended after {}", delays.join(", ")));
    Ok(())
}

/// Another's record is renamed into place; the time to the idle daemon's exit is taken, at best of three.
#[case("CONV-2", exclusive)]
fn displaced_at_once(stage: &mut Stage) -> Outcome {
    stage.expect("an idle daemon is gone 100 ms after a displacement");
    let mut delays = Vec::new();
    for _ in 0..3 {
        let (daemon, _) = stage.launch_ready()?;
        // At any moment of an interval at which it may look.
        let moment = Duration::from_millis(100 + stage.rng().below(1_000));
        stays(&daemon, moment, "by itself")?;
        let at = displace(stage, &Rival::new()?)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        let exit = exits(&daemon, deadline, "a displacement")?;
        delays.push(exit.at.saturating_duration_since(at));
    }
    // One may be late on a busy host, and one may be in time by chance.
    delays.sort_unstable();
    let texts = delays
        .iter()
        .map(|delay| format!("{} ms", delay.as_millis()))
        .collect::<Vec<_>>()
        .join(", ");
    stage.observed(format!("the exits came after {texts}"));
    ensure!(delays[1] <= Duration::from_millis(100), "the exits came after {texts}");
    Ok(())
}

/// The record is replaced by one with the same id, in which version, pid, url, unknown members and white
/// space are different.
#[case("CONV-3", "PUB-12")]
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
        return inconclusive("the replacement was not seen");
    }
    stays(&daemon, NOTICED, "with a record of its own id")?;
    ensure!(live.is_ready(), "it is not ready with a record of its own id");
    let touched = changes(&watch.events(), &name);
    ensure!(
        touched.len() == 1 && read(&stage.record_path())? == text.as_bytes(),
        "the record with its own id was touched: {touched}",
        touched = in_words(&touched)
    );
    Ok(())
}

/// So long a record may be unparsable: the fifth retry comes after 250 ms at the earliest.
const BEARABLE: Duration = Duration::from_millis(240);

/// Lets `disturb` make a ready daemon's record unparsable and whole again; the daemon must go on. Where the host was too
/// slow for the time that a daemon has to bear it, with a new daemon.
fn goes_on(stage: &mut Stage, disturb: fn(&mut Stage, &Daemon, &ReadyDaemon, &[u8]) -> Outcome) -> Outcome {
    for _ in 0..5 {
        let (daemon, live) = stage.launch_ready()?;
        let whole = read(&stage.record_path())?;
        let began = Instant::now();
        disturb(stage, &daemon, &live, &whole)?;
        let took = began.elapsed();
        if took <= BEARABLE {
            stage.precondition(format!("the record was not whole for {} ms", took.as_millis()));
            return ready_again(&daemon, &live, "a record that was not whole");
        }
        daemon.kill_group();
    }
    inconclusive("this host is too slow: the record was unparsable for too long")
}

/// Leaves the first half of a record in place, in one step: a reader sees the whole or the half and nothing between.
fn cut_in_half(path: &Path, whole: &[u8]) -> Outcome {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    Ok(file.set_len(whole.len() as u64 / 2)?)
}

/// The record is cut in half in place and is seen so by the daemon; more than 100 ms later the whole one is
/// back.
#[case("CONV-4")]
fn unparsable_for_a_moment(stage: &mut Stage) -> Outcome {
    stage.expect("it goes on, and is ready when the whole record is back");
    goes_on(stage, |stage, daemon, live, whole| {
        cut_in_half(&stage.record_path(), whole)?;
        // That it has read half a record; if it ended over it, that is found when the whole one is back.
        seen_draining(daemon, live)?;
        daemon.wait_exit(ms(120));
        replace(&stage.record_path(), whole, 0o600)?;
        Ok(())
    })
}

/// A tool rewrites the record in place, a few bytes at a time over more than 100 ms, so that a notification
/// comes with each.
#[case("CONV-4")]
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

/// The record is cut in half for good: the daemon tries again for a quarter of a second, then leaves.
#[case("CONV-5", "CONV-4")]
fn unparsable_for_good(stage: &mut Stage) -> Outcome {
    stage.expect("it ends by itself, not before five retries of 50 ms, and leaves the file as it is");
    let (daemon, _) = stage.launch_ready()?;
    let whole = read(&stage.record_path())?;
    let at = Instant::now();
    cut_in_half(&stage.record_path(), &whole)?;
    let facts = Facts::of(&stage.record_path())?;
    let watch = Watch::on(stage.state_dir())?;
    stage.precondition("half a record stands in the record's place");
    let deadline = stage.stand_down_deadline() + NOTICED;
    let exit = exits(&daemon, deadline, "its record stayed unparsable")?;
    let after = exit.at.saturating_duration_since(at);
    stage.observed(format!("{exit} after {} ms", after.as_millis()));
    ensure!(
        after >= Duration::from_millis(245),
        "it left after {} ms, before five retries 50 ms apart",
        after.as_millis()
    );
    let touched = changes(&watch.events(), &stage.manifest().binding.registration);
    let same = Facts::of(&stage.record_path()).is_ok_and(|now| now.ino == facts.ino)
        && read(&stage.record_path())? == whole[..whole.len() / 2];
    ensure!(
        same && touched.is_empty(),
        "the unparsable file was touched: {touched}",
        touched = in_words(&touched)
    );
    stage.launch_ready()?;
    stage.control("the next daemon publishes over what was left");
    Ok(())
}

/// The record's mode is loosened, or a directory, a FIFO or a symbolic link takes its place, for longer than
/// a re-read interval; then it is put right.
#[case("CONV-6")]
fn unreadable_keeps_it_running(stage: &mut Stage) -> Outcome {
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
            "a loose mode" => set_mode(&path, 0o644)?,
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
        if !seen_draining(daemon, live)? {
            return fail(format!("{what}: it ended instead of reading again"));
        }
        stage.precondition(format!("{what} in the record's place: it is seen not to be ready"));
    }
    for (place, (what, daemon, _)) in running.iter().enumerate() {
        // All wait at the same time: the first for a whole interval, the others for what is left of it.
        let length = if place == 0 { NOTICED } else { Duration::from_millis(1) };
        stays(daemon, length, &format!("over {what} in the record's place"))?;
    }
    for (what, daemon, live) in &running {
        let path = record_in(stage, &daemon.state_dir);
        if *what == "a loose mode" {
            set_mode(&path, 0o600)?;
        } else {
            exchange(&path, &stage.arena().path().join(format!("{what}, aside")))?;
        }
        let back = until(Instant::now() + NOTICED, || live.is_ready().then_some(()));
        ensure!(back.is_some(), "{what} is gone again, and it is not ready");
    }
    Ok(())
}
