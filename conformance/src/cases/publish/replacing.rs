//! Over whatever stands there.

use std::os::unix::fs::symlink;

use local_daemon_harness::files::Facts;
use local_daemon_harness::record::write_new;
use rustix::fs::FlockOperation;

use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, exits, further_state_dir, read, record_in, stays};
use crate::outcome::{Outcome, ensure, inconclusive};
use crate::stage::{Stage, Start};

/// A second daemon is started on the state directory of a healthy one, which has run for longer than a
/// re-read interval and gives no sign of leaving.
#[case("PUB-7")]
fn last_writer_wins(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    old.between_controls(|| stays(&first, NOTICED, "by itself"))?;
    stage.expect("the second daemon owns the record and is ready");
    let second = stage.launch()?;
    let new = stage.ready(&second)?;
    stage.observed(format!("the record went from {} to {}", old.record.id, new.record.id));
    let deadline = stage.stand_down_deadline();
    exits(&first, deadline, "it was displaced")?;
    ensure!(new.is_ready(), "the second daemon is not ready once the first one is gone");
    Ok(())
}

/// Daemons are started where the record is stale, names a living process, is empty, cut, oversized or of
/// loose mode, or is a symbolic link. Stems from claude-code#72898 and paseo#1304.
#[case("PUB-7")]
fn replaces_whatever_stands_there(stage: &mut Stage) -> Outcome {
    let bystander = stage.arena().launch("bystander", ["sleep", "60"]).start()?;
    let rival = Rival::new()?;
    let named = rival.record.clone().with_pid(bystander.pid());
    let oversized = format!("{}{}", rival.record.to_json(), " ".repeat(70 * 1024));
    let whole = rival.record.to_json();
    let kinds: [(&str, &[u8], u32); 8] = [
        ("a stale record", whole.as_bytes(), 0o600),
        ("a record that names a living process", &named.to_json().into_bytes(), 0o600),
        ("an empty file", b"", 0o600),
        ("half a record", &whole.as_bytes()[..whole.len() / 2], 0o600),
        ("no JSON", b"\x00\xff\xfe", 0o600),
        ("an array", b"[]", 0o600),
        ("70 KiB", oversized.as_bytes(), 0o600),
        ("a record of mode 0644", whole.as_bytes(), 0o644),
    ];
    stage.expect(
        "each daemon publishes and is ready; nothing happens to the named process and to the links' targets",
    );
    let mut started = Vec::new();
    for (place, (what, bytes, mode)) in kinds.iter().enumerate() {
        let state_dir = further_state_dir(stage, &format!("file-{place}"))?;
        write_new(&record_in(stage, &state_dir), bytes, *mode)?;
        started.push(((*what).to_owned(), stage.launch_with(Start::new().state_dir(&state_dir))?));
    }
    let target = stage.arena().path().join("target");
    write_new(&target, whole.as_bytes(), 0o600)?;
    let (before, nowhere) = (Facts::of(&target)?, stage.arena().path().join("nowhere"));
    let links = [
        ("a link to a file", target.clone()),
        ("a link to nothing", nowhere.clone()),
        ("a link to a directory", stage.arena().home()),
        ("a link to itself", stage.manifest().binding.registration.clone().into()),
    ];
    for (place, (what, to)) in links.iter().enumerate() {
        let state_dir = further_state_dir(stage, &format!("link-{place}"))?;
        symlink(to, record_in(stage, &state_dir))?;
        started.push(((*what).to_owned(), stage.launch_with(Start::new().state_dir(&state_dir))?));
    }
    for (what, daemon) in &started {
        let live = stage.ready(daemon)?;
        let facts = Facts::of(&record_in(stage, &daemon.state_dir))?;
        ensure!(
            facts.kind == local_daemon_harness::files::EntryKind::File && !facts.is_loose(),
            "over {what}, the record of {} is {facts}",
            live.record.id
        );
    }
    stage.observed(format!("{} daemons published", started.len()));
    ensure!(
        Facts::of(&target).ok() == Some(before) && read(&target)? == whole.as_bytes(),
        "the target of the link was changed"
    );
    ensure!(Facts::of(&nowhere).is_err(), "the target of the dangling link was created");
    ensure!(bystander.is_running(), "the process that the record named was ended");
    Ok(())
}

/// The suite holds exclusive locks, of both kinds that Unix has, on the lock file, and one on every other
/// file of the state directory and on the directory; a daemon is started.
#[case("PUB-8")]
fn locks_of_others_do_not_hold_it_up(stage: &mut Stage) -> Outcome {
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let (first, _) = stage.launch_ready()?;
    first.kill_group();
    if !stage.lock_path().exists() {
        write_new(&stage.lock_path(), b"", 0o600)?;
    }
    let flock = |file: &std::fs::File| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    let lock = std::fs::OpenOptions::new().read(true).write(true).open(stage.lock_path())?;
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from)?;
    let mut held = vec![(stage.lock_path(), lock)];
    for entry in std::fs::read_dir(&state_dir)? {
        let path = entry?.path();
        if path.is_file() && path != stage.lock_path() {
            held.push((path.clone(), std::fs::File::open(&path)?));
        }
    }
    held.push((state_dir.clone(), std::fs::File::open(&state_dir)?));
    let mut names = Vec::new();
    for (path, file) in &held {
        flock(file).map_err(std::io::Error::from)?;
        names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    // A second look through another descriptor shows that the locks are really held.
    let other = std::fs::File::open(stage.lock_path())?;
    if flock(&other).is_ok() {
        return inconclusive("the lock on the lock file does not hold");
    }
    stage.precondition(format!("the suite holds locks on {}", names.join(", ")));
    stage.expect("a daemon is ready in its usual time while the locks are held");
    let (daemon, live) = stage.launch_ready()?;
    stage.observed(format!("{} was ready after {} ms", daemon.name, live.after.as_millis()));
    if flock(&other).is_ok() {
        return inconclusive("the lock was lost meanwhile");
    }
    Ok(())
}
