//! Launches that are ended, and disks that fail, at each call by which a daemon changes its state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::process::Signal;
use local_daemon_harness::record::{self, Record, write_new};
use local_daemon_harness::strace::{CHANGE, Call, FLUSH, LINK, OPEN, Point, RENAME, Strace, UNLINK, WRITE};
use local_daemon_harness::wait::until;

use super::{launch_under, trace};
use crate::case::case;
use crate::fixtures::daemon::{SLACK, exits, further_state_dir, read, record_in, signal};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, Stage, Start, names_path};

/// The time in which a start that cannot publish has ended (PUB-10).
const GIVES_UP: Duration = Duration::from_secs(5);

/// The calls by which files come, change and go.
fn changing() -> Point {
    Point::at([OPEN, WRITE, FLUSH, CHANGE, LINK, RENAME, UNLINK])
}

/// A call of a launch that changes the state directory: its number among those of its name and thread, and itself.
type Step = (usize, Call);

/// The point at which a launch comes to a step.
fn at((number, call): &Step) -> Point {
    Point::at([&[call.name.as_str()][..]]).nth(*number)
}

/// A kind of launch: into an empty directory, or over the record that one before left. With the calls by which it
/// changes the directory, up to the one that puts the record in place.
struct Kind {
    name: &'static str,
    /// A directory as an ended daemon left it, in whose likeness the state directories are made.
    before: Option<PathBuf>,
    steps: Vec<Step>,
}

impl Kind {
    fn both(stage: &mut Stage) -> Outcome<[Self; 2]> {
        let pattern = further_state_dir(stage, "pattern")?;
        let first = Self::of(stage, "first", &pattern, None)?;
        let again = Self::of(stage, "again", &pattern, Some(pattern.clone()))?;
        Ok([first, again])
    }

    fn of(stage: &mut Stage, name: &'static str, place: &Path, before: Option<PathBuf>) -> Outcome<Self> {
        let strace = trace(stage, name, changing())?;
        let daemon = launch_under(stage, Start::new().state_dir(place), &strace)?;
        stage.ready(&daemon)?;
        daemon.kill_group();
        let steps = steps(&strace.calls(), place, &stage.manifest().binding.registration);
        if steps.is_empty() {
            return inconclusive("no call that changes the state directory was seen");
        }
        let shown: Vec<&str> = steps.iter().map(|(_, call)| call.name.as_str()).collect();
        stage.precondition(format!("a launch ({name}) changed the directory by {}", shown.join(", ")));
        Ok(Self { name, before, steps })
    }

    /// A state directory as a launch of this kind finds it.
    fn state_dir(&self, stage: &Stage, name: &str) -> Outcome<PathBuf> {
        let place = further_state_dir(stage, name)?;
        if let Some(before) = &self.before {
            for file in [
                &stage.manifest().binding.registration,
                &stage.manifest().binding.credential,
            ] {
                write_new(&place.join(file), &read(&before.join(file))?, 0o600)?;
            }
        }
        Ok(place)
    }
}

/// The calls that change something in `place`, each name and number once, up to the one that puts the record in place.
fn steps(calls: &[Call], place: &Path, registration: &str) -> Vec<Step> {
    let mut numbers: BTreeMap<(u32, &str), usize> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut steps = Vec::new();
    for call in calls {
        let number = numbers.entry((call.thread, &call.name)).or_default();
        *number += 1;
        let changes = call.touches(place) && (!OPEN.contains(&call.name.as_str()) || call.creates);
        if changes && known.insert((*number, &call.name)) {
            steps.push((*number, call.clone()));
        }
        let names = |group: &[&str]| group.contains(&call.name.as_str());
        if changes
            && (names(RENAME) || names(LINK))
            && call.files.last().is_some_and(|file| file.ends_with(registration))
        {
            break;
        }
    }
    steps
}

/// A launch at one of whose calls something happens.
struct Attempt {
    what: String,
    daemon: Daemon,
    strace: Strace,
    before: BTreeMap<String, Vec<u8>>,
}

impl Attempt {
    fn start(stage: &mut Stage, kind: &Kind, step: &Step, point: Point, how: &str) -> Outcome<Self> {
        let name = format!("{}-{}-{}", kind.name, step.1.name, step.0);
        let place = kind.state_dir(stage, &name)?;
        let strace = trace(stage, &name, point)?;
        let before = contents(stage, &place);
        let daemon = launch_under(stage, Start::new().state_dir(place), &strace)?;
        let what = format!("{how} at {} of the {} launch", step.1.name, kind.name);
        Ok(Self { what, daemon, strace, before })
    }

    fn place(&self) -> &Path {
        &self.daemon.state_dir
    }

    /// What is in place is whole: the record from before or a new one, the credential from before or a first one.
    fn left_whole(&self, stage: &mut Stage) -> Outcome {
        let after = contents(stage, self.place());
        let (registration, credential) = names(stage);
        match after.get(&registration).map(|bytes| Record::parse(bytes)) {
            Some(Err(fault)) => return fail(format!("{}: the record it left: {fault}", self.what)),
            None if self.before.contains_key(&registration) => {
                return fail(format!("{}: the record is gone", self.what));
            }
            _ => {}
        }
        match (self.before.get(&credential), after.get(&credential)) {
            (Some(before), after) => {
                ensure!(after == Some(before), "{}: the credential is another", self.what);
                Ok(())
            }
            (None, Some(bytes)) => {
                let whole = record::parse_credential(bytes).is_some();
                ensure!(whole, "{}: it left a credential of {} bytes", self.what, bytes.len());
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }
}

fn names(stage: &Stage) -> (String, String) {
    let binding = &stage.manifest().binding;
    (binding.registration.clone(), binding.credential.clone())
}

/// The record and the credential in `place`, as far as they are there.
fn contents(stage: &Stage, place: &Path) -> BTreeMap<String, Vec<u8>> {
    let (registration, credential) = names(stage);
    [registration, credential]
        .into_iter()
        .filter_map(|name| Some((name.clone(), std::fs::read(place.join(name)).ok()?)))
        .collect()
}

/// A daemon is started in each directory, and each is ready.
fn all_start_again(stage: &mut Stage, places: &[(String, PathBuf)]) -> Outcome {
    let mut next = Vec::new();
    for (what, place) in places {
        next.push((what, stage.launch_with(Start::new().state_dir(place))?));
    }
    for (what, daemon) in &next {
        stage.observed(format!("after {what}, {} is to start", daemon.name));
        stage.ready(daemon)?;
        daemon.kill_group();
    }
    Ok(())
}

/// A first launch and a launch over an old record are repeated and killed (SIGKILL) at each of the system
/// calls by which they changed the state directory; a daemon is started on what is left. Stems from
/// paseo#4803.
#[case("PUB-9", "PUB-3", "CRED-3")]
fn killed_at_every_call(stage: &mut Stage) -> Outcome {
    let kinds = Kind::both(stage)?;
    stage.expect(
        "wherever it was killed, record and credential are whole or not there, and the next start is ready",
    );
    let mut attempts = Vec::new();
    for kind in &kinds {
        for step in &kind.steps {
            attempts.push(Attempt::start(stage, kind, step, at(step).killed(), "a kill")?);
        }
    }
    let deadline = stage.ready_deadline();
    let mut struck = 0;
    let mut places = Vec::new();
    for attempt in &attempts {
        let exit = attempt.daemon.wait_exit(deadline);
        struck += usize::from(exit.is_some_and(|exit| exit.signal == Some(9)));
        attempt.daemon.kill_group();
        attempt.left_whole(stage)?;
        places.push((attempt.what.clone(), attempt.place().to_owned()));
    }
    stage.precondition(format!("{struck} of {} launches were killed at their call", attempts.len()));
    if struck * 2 < attempts.len() {
        return inconclusive("most launches were over before they could be killed");
    }
    all_start_again(stage, &places)
}

/// The error with which a call fails that a disk lets down.
fn error_of(call: &Call) -> &'static str {
    let name = call.name.as_str();
    if OPEN.contains(&name) || WRITE.contains(&name) { "ENOSPC" } else { "EIO" }
}

/// Each system call by which a launch changes the state directory fails once, with EIO or ENOSPC.
#[case("PUB-10", "PUB-11", "PUB-3")]
fn failing_disk_at_publish(stage: &mut Stage) -> Outcome {
    let kinds = Kind::both(stage)?;
    stage.expect(
        "each start is ready all the same, or exits within 5 s, not with 0, and names the path; record and credential \
         are what they were, or whole; the next start is ready",
    );
    let began = Instant::now();
    let mut attempts = Vec::new();
    for kind in &kinds {
        for step in &kind.steps {
            let error = error_of(&step.1);
            attempts.push(Attempt::start(stage, kind, step, at(step).failing(error), error)?);
        }
    }
    let (mut failed, mut places) = (0, Vec::new());
    for attempt in &attempts {
        let daemon = &attempt.daemon;
        // The last ones were started after the first.
        let ended = until(began + GIVES_UP + SLACK, || match daemon.exit() {
            Some(exit) => Some(Some(exit)),
            None => stage.find(attempt.place()).ok().map(|_| None),
        });
        let struck: Vec<Call> = attempt.strace.calls().into_iter().filter(Call::was_failed).collect();
        if struck.is_empty() || struck.iter().any(|call| !call.touches(attempt.place())) {
            // Another thread made such a call: nothing follows.
            daemon.kill_group();
            continue;
        }
        failed += 1;
        match ended {
            Some(Some(exit)) => {
                let output = daemon.wait_output_end(stage.ready_deadline()).unwrap_or_default();
                let said = String::from_utf8_lossy(&output.stderr()).trim_end().to_owned();
                ensure!(exit.code.is_some_and(|code| code != 0), "{}: {exit}", attempt.what);
                ensure!(names_path(&said, attempt.place()), "{}: {exit}, and it said: {said}", attempt.what);
                let (registration, _) = names(stage);
                let same =
                    contents(stage, attempt.place()).get(&registration) == attempt.before.get(&registration);
                ensure!(same, "{}: {exit}, and the record is another", attempt.what);
            }
            Some(None) => {
                stage.observed(format!("{}: it is ready all the same", attempt.what));
                daemon.kill_group();
            }
            None => return fail(format!("{}: it neither is ready nor exits", attempt.what)),
        }
        attempt.left_whole(stage)?;
        places.push((attempt.what.clone(), attempt.place().to_owned()));
    }
    stage.precondition(format!("{failed} of {} launches had a call fail", attempts.len()));
    if failed * 2 < attempts.len() {
        return inconclusive("most launches had no call fail");
    }
    all_start_again(stage, &places)
}

/// The calls by which a stopping daemon moves, reads or unlinks its record fail with EIO.
#[case("CONV-18", "CONV-15")]
fn failing_disk_at_stop(stage: &mut Stage) -> Outcome {
    stage.expect("each exits within its drain bound; a record that cannot be read or moved is left as it is");
    let ways: [(&str, &[&str], bool); 3] = [
        ("the record cannot be moved", RENAME, true),
        ("the record cannot be opened", OPEN, true),
        ("nothing can be unlinked", UNLINK, false),
    ];
    let mut started = Vec::new();
    for (way, calls, of_record) in ways {
        let place = further_state_dir(stage, way)?;
        started.push((way, calls, of_record, stage.launch_with(Start::new().state_dir(place))?));
    }
    let (mut seen, mut places) = (0, Vec::new());
    for (way, calls, of_record, daemon) in started {
        stage.ready(&daemon)?;
        let record = record_in(stage, &daemon.state_dir);
        let before = read(&record)?;
        let point = Point::at([calls]).failing("EIO");
        let point = if of_record { point.of(&record) } else { point };
        let mut strace = trace(stage, way, point)?;
        strace.attach(&daemon, stage.ready_deadline())?;
        signal(&daemon, Signal::TERM)?;
        let exit = exits(&daemon, Instant::now() + stage.manifest().daemon.drain() + SLACK, way)?;
        stage.observed(format!("{way}: {exit}"));
        let failed = strace.calls().iter().any(Call::was_failed);
        seen += usize::from(failed);
        let after = std::fs::read(&record).ok();
        if of_record && failed {
            let same = after.as_ref() == Some(&before);
            ensure!(same, "{way}: the record is not what it was");
        } else {
            let whole = after.is_none_or(|bytes| bytes == before);
            ensure!(whole, "{way}: the record is another");
        }
        places.push((way.to_owned(), daemon.state_dir.clone()));
    }
    if seen == 0 {
        return inconclusive("no call failed");
    }
    stage.precondition(format!("in {seen} stops of 3 a call failed"));
    all_start_again(stage, &places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(thread: u32, name: &str, files: &[&str], creates: bool) -> Call {
        Call {
            thread,
            at: Duration::ZERO,
            name: name.to_owned(),
            files: files.iter().map(PathBuf::from).collect(),
            creates,
            syncs: false,
            result: Some("0".to_owned()),
        }
    }

    #[test]
    fn the_steps_of_a_launch_are_its_changes_up_to_its_record() {
        let calls = [
            call(1, "open", &["/lib/c"], false),
            call(1, "open", &["/s/credential"], false),
            call(1, "open", &["/s/registration.json.tmp"], true),
            call(2, "write", &["/s/log"], false),
            call(1, "write", &["/dev/tty"], false),
            call(1, "write", &["/s/registration.json.tmp"], false),
            call(1, "rename", &["/s/registration.json.tmp", "/s/registration.json"], false),
            call(1, "unlink", &["/s/later"], false),
        ];
        let steps = steps(&calls, Path::new("/s"), "registration.json");
        let shown: Vec<(usize, &str)> =
            steps.iter().map(|(number, call)| (*number, call.name.as_str())).collect();
        assert_eq!(shown, [(3, "open"), (1, "write"), (2, "write"), (1, "rename")]);
    }
}
