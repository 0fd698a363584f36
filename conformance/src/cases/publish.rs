//! Publishing: chapter 05.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{
    Difference, Facts, FileEvent, FileEventKind, HostileReader, Sight, Snapshot, Watch,
};
use local_daemon_harness::http::{self, Target};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::Killer;
use local_daemon_harness::record::{self, Record, write_new};
use rustix::fs::FlockOperation;

use super::scene::{
    NOTICED, REPEAT, Rival, bound, changes, count, exits, further_state_dir, read, record_in, stays,
};
use crate::case::{Case, Outcome, Stop};
use crate::stage::{Daemon, PROBE, Stage, Start};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "publish/loopback-only",
        &["PUB-1"],
        "Every TCP port on which the processes of a ready daemon listen is looked up; each has a loopback address.",
        loopback_only,
    ),
    Case::core(
        "publish/port-is-exclusive",
        &["PUB-2"],
        "While a daemon is ready, sockets that ask for port sharing (SO_REUSEPORT, SO_REUSEADDR) and one that does not \
         try to bind its port. The same kind of socket was seen to share another port.",
        port_is_exclusive,
    ),
    Case::core(
        "publish/partial-record-never-observed",
        &["PUB-3", "PUB-7"],
        "200 daemons (fewer where they start slowly) are started over each other, ten at a time, while readers open and \
         read the record as fast as they can. Stems from paseo#4803.",
        partial_record_never_observed,
    )
    .deadline_s(60),
    Case::core(
        "publish/answers-from-the-first-instant",
        &["PUB-4"],
        "At the very notification that a record came into place, a handshake goes to its URL. Many daemons publish over \
         each other. Stems from opencode 1.18, which accepted connections before it served.",
        answers_from_the_first_instant,
    )
    .deadline_s(40),
    Case::core(
        "publish/temporary-of-its-own-renamed-into-place",
        &["PUB-5"],
        "The events of many publishes are followed: each record comes by a rename from a file that was created in the \
         state directory for it, under a name that no other publish used.",
        temporary_of_its_own,
    )
    .deadline_s(60),
    Case::core(
        "publish/last-writer-wins",
        &["PUB-7"],
        "A second daemon is started on the state directory of a healthy one, which has run for longer than a re-read \
         interval and gives no sign of leaving.",
        last_writer_wins,
    ),
    Case::core(
        "publish/replaces-whatever-stands-there",
        &["PUB-7"],
        "Daemons are started where the record is stale, names a living process, is empty, cut, oversized or of loose \
         mode, or is a symbolic link. Stems from claude-code#72898 and paseo#1304.",
        replaces_whatever_stands_there,
    ),
    Case::core(
        "publish/locks-of-others-do-not-hold-it-up",
        &["PUB-8"],
        "The suite holds exclusive locks, of both kinds that Unix has, on the lock file, and one on every other file of \
         the state directory and on the directory; a daemon is started.",
        locks_of_others,
    ),
    Case::core(
        "publish/killed-at-every-step-recovers",
        &["PUB-9", "PUB-3"],
        "A first launch and a launch over an old record are watched event by event. Then each is repeated and killed \
         (SIGKILL) at each of these events, and a daemon is started on what is left. Stems from paseo#4803.",
        killed_at_every_step,
    )
    .deadline_s(100),
    Case::core(
        "publish/cannot-publish-and-says-so",
        &["PUB-10"],
        "At the record's name there is a directory with a file in it, over which nothing can be renamed.",
        cannot_publish,
    ),
    Case::core(
        "publish/failed-start-leaves-files",
        &["PUB-11"],
        "Starts fail because no file may be written beyond a few bytes, because the record cannot be replaced, and \
         because the credential's mode is loose. Stems from bitcoin#28784.",
        failed_start_leaves_files,
    ),
    Case::core(
        "publish/own-record-never-rewritten",
        &["PUB-12"],
        "A daemon that owns its record is left to its re-reads for 2.5 s, with requests and other changes in its state \
         directory; every event about the record is looked at.",
        own_record_never_rewritten,
    ),
    Case::core(
        "publish/failed-publish-leaves-no-temporary",
        &["PUB-13"],
        "A publish fails at its last step, and the names in the state directory are compared with those before.",
        failed_publish_leaves_no_temporary,
    ),
];

fn loopback_only(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("every listening address is a loopback address");
    let listening = daemon.listening();
    stage.observed(format!("the subject listens at {listening:?}"));
    let port = live.target.address.port();
    if !listening.iter().any(|address| address.port() == port) {
        return stage.inconclusive(format!(
            "no listener at port {port} is seen among the subject's sockets"
        ));
    }
    let open: Vec<&SocketAddr> = listening
        .iter()
        .filter(|address| !address.ip().to_canonical().is_loopback())
        .collect();
    stage.ensure(open.is_empty(), format!("{open:?} can be reached from elsewhere"))
}

fn port_is_exclusive(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let (IpAddr::V4(ip), port) = (live.target.address.ip(), live.target.address.port()) else {
        return stage.untestable("the subject listens on IPv6 only");
    };
    stage.expect("every other socket is refused the address while the daemon listens");
    let first = bound(SocketAddrV4::new(ip, 0), true)?;
    rustix::net::listen(&first, 1).map_err(std::io::Error::from)?;
    let shared = rustix::net::getsockname(&first).map_err(std::io::Error::from)?;
    let shared = SocketAddrV4::try_from(shared).map_err(|_| Stop::Fault("not an IPv4 socket".to_owned()))?;
    if let Err(error) = bound(shared, true) {
        return stage.untestable(format!("two sockets cannot share a port here: {error}"));
    }
    stage.control(format!(
        "two sockets that ask for it share port {}",
        shared.port()
    ));
    let address = SocketAddrV4::new(ip, port);
    stage.between_controls(&live, |stage| {
        let plain = bound(address, false);
        stage.ensure(plain.is_err(), format!("a plain socket was bound to {address}"))?;
        let sharing = bound(address, true);
        stage.ensure(
            sharing.is_err(),
            format!("a socket with SO_REUSEPORT was bound to {address}"),
        )?;
        let reusing = std::net::TcpListener::bind(address);
        stage.ensure(
            reusing.is_err(),
            format!("a socket with SO_REUSEADDR listens at {address}"),
        )
    })
}

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
        let daemons = (0..width)
            .map(|_| stage.launch())
            .collect::<Outcome<Vec<Daemon>>>()?;
        launched += width;
        // They start at the same time, so each may take longer than one alone.
        let deadline = Instant::now() + stage.manifest().daemon.ready_timeout() * 3;
        let published = watch.wait_for(deadline, |events| {
            count(events, FileEventKind::MovedTo, &name) >= launched
        });
        if published.is_none() {
            let seen = count(&watch.events(), FileEventKind::MovedTo, &name);
            let ended = daemons
                .iter()
                .find_map(|daemon| Some(format!("; {}: {}", daemon.name, daemon.exit()?)));
            stage.precondition(format!("{launched} daemons were started"));
            return stage.fail(format!(
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
        return stage.inconclusive(format!(
            "the readers came to {} reads of {} records only",
            report.reads,
            report.whole.len()
        ));
    }
    let seen = format!(
        "{} reads beside {} publishes: {} different whole records, {} broken, {} times none, errors {:?}",
        report.reads,
        publishes,
        report.whole.len(),
        report.broken,
        report.absent,
        report.errors
    );
    stage.precondition(format!(
        "{} reads showed whole records",
        report.whole.values().sum::<u64>()
    ));
    stage.observed(seen);
    stage.ensure(
        report.broken == 0,
        format!("broken reads: {:?}", report.broken_reads),
    )?;
    stage.ensure(
        report.absent == 0,
        format!("{} reads found no record", report.absent),
    )?;
    stage.ensure(
        report.errors.is_empty(),
        format!("reads failed: {:?}", report.errors),
    )
}

fn answers_from_the_first_instant(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 20;
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let (name, path) = (stage.manifest().binding.registration.clone(), stage.record_path());
    let (credential, handshake) = (
        stage.credential_path(),
        stage.manifest().binding.handshake.clone(),
    );
    let answers = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let (answers, name) = (Arc::clone(&answers), name.clone());
        Watch::each(&state_dir, move |event| {
            if event.name == *name && matches!(event.kind, FileEventKind::MovedTo | FileEventKind::Created) {
                let answer = shake_at_once(&path, &credential, &handshake.path, &handshake.id);
                answers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((event.at, answer));
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
            return stage.fail(format!("{} published nothing in time", daemon.name));
        }
    }
    let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
    stage.precondition(format!("{} records were seen to come into place", answers.len()));
    let slowest = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .max();
    stage.observed(format!(
        "{} handshakes at the notification, the slowest took {slowest:?}",
        answers.len()
    ));
    match answers.into_iter().find_map(|(_, answer)| answer.err()) {
        None => Ok(()),
        Some(why) => stage.fail(why),
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
    let target = Target {
        path: path.to_owned(),
        ..Target::of(&record)
    };
    let answer = http::probe_with_bearer(&target, &credential, began + PROBE)
        .map_err(|fault| format!("the handshake at {}: {fault}", record.url.text()))?;
    let id = answer
        .response
        .json()
        .and_then(|body| Some(body.pointer(pointer)?.as_str()?.to_owned()));
    if !matches!(answer.response.status, 200 | 503) || id.as_deref() != Some(&record.id) {
        return Err(format!(
            "the handshake of record {} was answered {} by {id:?}",
            record.id, answer.response.status
        ));
    }
    Ok(began.elapsed())
}

fn temporary_of_its_own(stage: &mut Stage) -> Outcome {
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
        return stage.inconclusive("the kernel dropped events");
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
            return stage.fail(format!(
                "a record was renamed to {name} from outside of the state directory"
            ));
        };
        let temporary = source.name.to_string_lossy().into_owned();
        let created = count(&events, FileEventKind::Created, &temporary);
        stage.ensure(
            created == 1,
            format!("{temporary} was created {created} times and renamed to {name}"),
        )?;
        stage.ensure(
            sources.insert(temporary.clone()),
            format!("{temporary} was the temporary of two publishes"),
        )?;
    }
    stage.observed(format!("temporaries such as {:?}", sources.first()));
    let direct =
        count(&events, FileEventKind::Created, &name) + count(&events, FileEventKind::Modified, &name);
    stage.ensure(
        direct == 0,
        format!("{name} itself was created or written {direct} times"),
    )
}

fn last_writer_wins(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    stage.between_controls(&old, |stage| stays(stage, &first, NOTICED, "by itself"))?;
    stage.expect("the second daemon owns the record and is ready");
    let second = stage.launch()?;
    let new = stage.ready(&second)?;
    stage.observed(format!(
        "the record went from {} to {}",
        old.record.id, new.record.id
    ));
    let deadline = stage.stand_down_deadline();
    exits(stage, &first, deadline, "it was displaced")?;
    let ready = stage.is_ready(&new);
    stage.ensure(ready, "the second daemon is not ready once the first one is gone")
}

fn replaces_whatever_stands_there(stage: &mut Stage) -> Outcome {
    let bystander = stage.arena().launch("bystander", ["sleep", "60"]).start()?;
    let rival = Rival::new()?;
    let named = Record {
        pid: i32::try_from(bystander.pid()).unwrap_or(i32::MAX),
        ..rival.record.clone()
    };
    let oversized = format!("{}{}", rival.record.to_json(), " ".repeat(70 * 1024));
    let whole = rival.record.to_json();
    let kinds: [(&str, &[u8], u32); 8] = [
        ("a stale record", whole.as_bytes(), 0o600),
        (
            "a record that names a living process",
            &named.to_json().into_bytes(),
            0o600,
        ),
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
        started.push((
            (*what).to_owned(),
            stage.launch_with(Start::new().state_dir(&state_dir))?,
        ));
    }
    let target = stage.arena().path().join("target");
    write_new(&target, whole.as_bytes(), 0o600)?;
    let (before, nowhere) = (Facts::of(&target)?, stage.arena().path().join("nowhere"));
    let links = [
        ("a link to a file", target.clone()),
        ("a link to nothing", nowhere.clone()),
        ("a link to a directory", stage.arena().home()),
        (
            "a link to itself",
            stage.manifest().binding.registration.clone().into(),
        ),
    ];
    for (place, (what, to)) in links.iter().enumerate() {
        let state_dir = further_state_dir(stage, &format!("link-{place}"))?;
        symlink(to, record_in(stage, &state_dir))?;
        started.push((
            (*what).to_owned(),
            stage.launch_with(Start::new().state_dir(&state_dir))?,
        ));
    }
    for (what, daemon) in &started {
        let live = stage.ready(daemon)?;
        let facts = Facts::of(&record_in(stage, &daemon.state_dir))?;
        stage.ensure(
            facts.kind == local_daemon_harness::files::EntryKind::File && !facts.is_loose(),
            format!("over {what}, the record of {} is {facts}", live.record.id),
        )?;
    }
    stage.observed(format!("{} daemons published", started.len()));
    stage.ensure(
        Facts::of(&target).ok() == Some(before) && read(&target)? == whole.as_bytes(),
        "the target of the link was changed",
    )?;
    stage.ensure(
        Facts::of(&nowhere).is_err(),
        "the target of the dangling link was created",
    )?;
    stage.ensure(
        bystander.is_running(),
        "the process that the record named was ended",
    )
}

fn locks_of_others(stage: &mut Stage) -> Outcome {
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let (first, _) = stage.launch_ready()?;
    first.kill_group();
    if !stage.lock_path().exists() {
        write_new(&stage.lock_path(), b"", 0o600)?;
    }
    let flock = |file: &std::fs::File| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    let lock = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(stage.lock_path())?;
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
        names.push(
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        );
    }
    // A second look through another descriptor shows that the locks are really held.
    let other = std::fs::File::open(stage.lock_path())?;
    if flock(&other).is_ok() {
        return stage.inconclusive("the lock on the lock file does not hold");
    }
    stage.precondition(format!("the suite holds locks on {}", names.join(", ")));
    stage.expect("a daemon is ready in its usual time while the locks are held");
    let (daemon, live) = stage.launch_ready()?;
    stage.observed(format!(
        "{} was ready after {} ms",
        daemon.name,
        live.after.as_millis()
    ));
    if flock(&other).is_ok() {
        return stage.inconclusive("the lock was lost meanwhile");
    }
    Ok(())
}

/// What one launch does to its state directory, as far as a watch shows it, up to its record.
fn edges_of_a_launch(stage: &mut Stage, state_dir: &std::path::Path) -> Outcome<Vec<FileEvent>> {
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(state_dir)?;
    let daemon = stage.launch_with(Start::new().state_dir(state_dir))?;
    stage.ready(&daemon)?;
    let published = watch.wait_for(stage.ready_deadline(), |events| {
        count(events, FileEventKind::MovedTo, &name) > 0
    });
    daemon.kill_group();
    let Some(mut events) = published else {
        return stage.fail(format!("no rename to {name} was seen"));
    };
    let last = events
        .iter()
        .position(|event| event.kind == FileEventKind::MovedTo && event.name == *name);
    events.truncate(last.map_or(0, |last| last + 1));
    Ok(events)
}

fn killed_at_every_step(stage: &mut Stage) -> Outcome {
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
                return stage.inconclusive(format!(
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
            .map(|event| format!("{:?} {}", event.kind, event.name.display()))
            .collect();
        stage.precondition(format!(
            "a launch ({kind}) showed {} steps: {}",
            edges.len(),
            edges.join(", ")
        ));
    }
    let killed = steps.iter().filter(|struck| **struck).count();
    stage.observed(format!(
        "{} launches, {killed} of them killed at the step that was meant",
        steps.len()
    ));
    if killed * 2 < steps.len() {
        return stage.inconclusive("most launches were over before they could be killed");
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
            stage.ensure(
                whole.is_ok(),
                format!(
                    "killed at step {place}, it left a record of {} bytes: {whole:?}",
                    bytes.len()
                ),
            )?;
        }
        Err(_) if !old_record => {}
        Err(error) => return stage.fail(format!("killed at step {place}, it left no record: {error}")),
    }
    let next = stage.launch_with(Start::new().state_dir(state_dir))?;
    stage.ready(&next)?;
    next.kill_group();
    if old_record {
        let credential = stage.manifest().binding.credential.clone();
        let same = read(&state_dir.join(&credential))? == read(&pattern.join(&credential))?;
        stage.ensure(same, format!("killed at step {place}, it lost the credential"))?;
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

fn cannot_publish(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    block_record(stage)?;
    stage.expect("it exits by itself within 5 s, not with 0, and standard error names the path");
    let began = Instant::now();
    let daemon = stage.launch()?;
    let exit = exits(
        stage,
        &daemon,
        began + Duration::from_secs(5),
        "5 s without being able to publish",
    )?;
    let stderr = daemon
        .wait_output_end(stage.ready_deadline())
        .unwrap_or_default()
        .stderr();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    stage.observed(format!(
        "{exit} after {} ms; it said: {}",
        began.elapsed().as_millis(),
        stderr.trim_end()
    ));
    stage.ensure(exit.code.is_some_and(|code| code != 0), exit.to_string())?;
    let path = stage.state_dir().to_string_lossy().into_owned();
    stage.ensure(stderr.contains(&path), "standard error does not name the path")?;
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

fn failed_start_leaves_files(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    let rival = Rival::new()?;
    rival.publish(&stage.record_path())?;
    stage.expect("after each failed start, record and credential are what they were");

    let full = Setup {
        file_size: Some(16),
        ..Setup::default()
    };
    fails_and_leaves(
        stage,
        "no file may be longer than 16 bytes",
        Start::new().setup(full),
    )?;

    let loose = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(stage.credential_path(), loose)?;
    fails_and_leaves(stage, "the credential can be read by others", Start::new())?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(stage.credential_path(), owner_only)?;

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
            return stage.inconclusive(format!("{why}: the start did not fail"));
        }
        Some(exit) => stage.precondition(format!("{why}: {exit}")),
        None => return stage.inconclusive(format!("{why}: the start goes on")),
    }
    let lost = lost(&before, stage)?;
    stage.ensure(lost.is_empty(), format!("{why}: {}", lost.join(", ")))
}

fn own_record_never_rewritten(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let (before, facts) = (read(&stage.record_path())?, Facts::of(&stage.record_path())?);
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("no event shows the record written, renamed or removed, and it is the same file afterwards");
    let foreign = stage.state_dir().join("of-another-program");
    write_new(&foreign, b"not the daemon's business", 0o600)?;
    std::fs::remove_file(&foreign)?;
    let seen = watch.wait_event(
        stage.ready_deadline(),
        FileEventKind::Deleted,
        "of-another-program",
    );
    if seen.is_none() {
        return stage.inconclusive("the watch shows no event");
    }
    stage.control("a change in the state directory was seen by the watch");
    stage.between_controls(&live, |stage| {
        stays(stage, &daemon, NOTICED, "while it owned its record")
    })?;
    let touched = changes(&watch.events(), &name);
    stage.observed(format!("events about the record: {touched:?}"));
    stage.ensure(touched.is_empty(), format!("the record was touched: {touched:?}"))?;
    let same = Facts::of(&stage.record_path()).ok() == Some(facts) && read(&stage.record_path())? == before;
    stage.ensure(same, "the record is another file than before")
}

fn failed_publish_leaves_no_temporary(stage: &mut Stage) -> Outcome {
    good_start_before(stage)?;
    block_record(stage)?;
    let before = Snapshot::of(stage.state_dir())?;
    stage.expect("no name is in the state directory that was not there before");
    let daemon = stage.launch()?;
    let Some(exit) = daemon.wait_exit(stage.ready_deadline()) else {
        return stage.inconclusive("the publish did not fail");
    };
    stage.precondition(format!("the publish over a directory failed: {exit}"));
    let after = Snapshot::of(stage.state_dir())?;
    let added: Vec<String> = before
        .diff(&after)
        .iter()
        .filter(|difference| matches!(difference, Difference::Added(..)))
        .map(ToString::to_string)
        .collect();
    stage.ensure(added.is_empty(), added.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_never_listens_refuses() {
        let port = crate::cases::scene::DeadPort::new().unwrap();
        let error = std::net::TcpStream::connect(port.address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn half_a_record_is_broken_and_a_whole_one_is_told_by_its_id() {
        let rival = Rival::new().unwrap();
        let bytes = rival.bytes();
        assert_eq!(classify(&bytes), Sight::Whole(rival.record.id.clone()));
        assert!(matches!(classify(&bytes[..40]), Sight::Broken(_)));
    }
}
