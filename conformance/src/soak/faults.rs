//! What a daemon may die of: then it says why, and the next one recovers.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{make_private, set_mode};
use local_daemon_harness::platform::{Mounted, Resource, Setup, Squeezed};
use local_daemon_harness::process::Signal;
use local_daemon_harness::wait::until;

use super::{connections, load};
use crate::case::Case;
use crate::fixtures::worlds::faketime;
use crate::outcome::{Outcome, ensure, fail, inconclusive, untestable};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// What is drawn from: what is quick and common, more often.
pub(super) const DRAWN: &[&Case] = &[
    &KILLED,
    &KILLED,
    &KILLED,
    &KILLED,
    &KILLED,
    &KILLED,
    &STOPPED,
    &STOPPED,
    &STOPPED,
    &STOPPED,
    &STOPPED,
    &STOPPED,
    &DISPLACED,
    &DISPLACED,
    &DISK_FULL,
    &READ_ONLY,
    &PERMISSION_LOST,
    &DIRECTORY_REPLACED,
    &CLOCK,
    &MEMORY,
];

/// How much a file system of a case holds, in bytes.
const SMALL: u64 = 64 * 1024;
/// How long a daemon that is to fail may take for it.
const REFUSES: Duration = Duration::from_secs(5);

const KILLED: Case = Case::new(
    "soak/killed",
    &["PUB-7", "PUB-9", "CRED-5"],
    "A daemon is killed (SIGKILL) at some moment between its launch and its work; the next one is ready.",
    killed,
);
const STOPPED: Case = Case::new(
    "soak/stopped",
    &["CONV-16"],
    "A daemon is started, and stopped (SIGTERM) at once or in the middle of its work; nothing is left.",
    stopped,
);
const DISPLACED: Case = Case::new(
    "soak/displaced",
    &["CONV-13"],
    "Six daemons are let go at the same moment, and one of them is killed; one is left, and it is ready.",
    displaced,
);
const DISK_FULL: Case = Case::new(
    "soak/disk-full",
    &["PUB-10"],
    "A state directory on a file system that is full: a start fails and says so; a daemon that runs goes on, and \
     stops; with room again the next one is ready.",
    disk_full,
);
const READ_ONLY: Case = Case::new(
    "soak/read-only",
    &["PUB-10"],
    "The file system of the state directory becomes read-only under a daemon: it goes on, and stops; another start \
     fails and says so; written again, the next one is ready.",
    read_only,
);
const PERMISSION_LOST: Case = Case::new(
    "soak/permission-lost",
    &["CONV-6"],
    "A state directory's modes are taken away under a daemon of another user: it answers, and another start fails and \
     says so; with its mode again it is ready, and so is the next one.",
    permission_lost,
);
const DIRECTORY_REPLACED: Case = Case::new(
    "soak/directory-replaced",
    &["CONV-25"],
    "The state directory is moved away under a daemon and made anew: it stands down; the next one is ready.",
    directory_replaced,
);
const CLOCK: Case = Case::new(
    "soak/clock-steps",
    &["HS-1"],
    "The clock of a daemon jumps forth and back by hours and by years: it answers, and stops.",
    clock,
);
const MEMORY: Case = Case::new(
    "soak/memory",
    &["PER-34"],
    "A daemon gets no more memory while requests want some: it answers again with memory, or the next one does.",
    memory,
);

/// The next daemon is ready, whatever was before it.
fn recovers(stage: &mut Stage) -> Outcome<(Daemon, ReadyDaemon)> {
    stage.expect("the next start is ready");
    stage.launch_ready()
}

/// It ends in time, however.
fn ends(stage: &mut Stage, daemon: &Daemon) -> Outcome {
    let ended = daemon.wait_exit(stage.stand_down_deadline()).is_some();
    ensure!(ended, "{} does not end", daemon.name);
    Ok(())
}

/// It is asked to stop, and does.
fn stops(stage: &mut Stage, daemon: &Daemon) -> Outcome {
    daemon.signal(Signal::TERM)?;
    ends(stage, daemon)
}

/// It still answers.
fn answers(live: &ReadyDaemon, when: &str) -> Outcome {
    ensure!(live.is_ready(), "{when} it does not answer");
    Ok(())
}

/// A start that has to fail: with a status, with a word, and with no record of its own.
fn refuses(stage: &mut Stage, start: Start, when: &str) -> Outcome {
    let before = fs::read(stage.record_path()).ok();
    let daemon = stage.launch_with(start)?;
    let Some(exit) = daemon.wait_exit(Instant::now() + REFUSES) else {
        return fail(format!("{when} a start neither fails nor ends"));
    };
    let said = daemon.wait_output_end(Instant::now() + REFUSES);
    let said = said.is_some_and(|output| !output.stderr().is_empty());
    ensure!(exit.code != Some(0) && said, "{when} a start ended: {exit}, said: {said}");
    let after = fs::read(stage.record_path()).ok();
    ensure!(before == after, "{when} a start changed the record and failed");
    Ok(())
}

fn killed(stage: &mut Stage) -> Outcome {
    let daemon = stage.launch()?;
    if stage.rng().below(2) == 0 {
        // Somewhere between its first instruction and its record.
        std::thread::sleep(Duration::from_micros(stage.rng().below(20_000)));
        stage.precondition("it is killed on its way");
    } else {
        let live = stage.ready(&daemon)?;
        load::work(stage, &live)?;
    }
    daemon.signal(Signal::KILL)?;
    ends(stage, &daemon)?;
    let credential = fs::read(stage.credential_path()).ok();
    recovers(stage)?;
    let now = fs::read(stage.credential_path()).ok();
    ensure!(credential.is_none() || credential == now, "the credential is another one");
    Ok(())
}

fn stopped(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    if stage.rng().below(2) == 0 {
        load::work(stage, &live)?;
    }
    stops(stage, &daemon)?;
    let left = stage.record_path().exists();
    ensure!(!left, "its record is left");
    Ok(())
}

fn displaced(stage: &mut Stage) -> Outcome {
    const MANY: usize = 6;
    let daemons = (0..MANY).map(|_| stage.launch_with(Start::new().held())).collect::<Outcome<Vec<_>>>()?;
    for daemon in &daemons {
        let stood = until(Instant::now() + REFUSES, || {
            daemon.tree().first().is_some_and(|process| process.state == 'T').then_some(())
        });
        if stood.is_none() {
            return inconclusive("a launch could not be held");
        }
    }
    for daemon in &daemons {
        daemon.cont()?;
    }
    let unlucky = stage.rng().pick(&daemons).clone();
    std::thread::sleep(Duration::from_micros(stage.rng().below(20_000)));
    let _ = unlucky.signal(Signal::KILL);
    stage.precondition("all were let go, and one was killed");
    // Nobody is left where the killed one had won: then the next one recovers.
    let settled = until(stage.stand_down_deadline() + REFUSES, || {
        let mut left = daemons.iter().filter(|daemon| daemon.is_running());
        match (left.next(), left.next()) {
            (None, _) => Some(()),
            (Some(one), None) => {
                let found = stage.find(stage.state_dir());
                found.is_ok_and(|live| i64::from(live.record.pid) == i64::from(one.pid())).then_some(())
            }
            (Some(_), Some(_)) => None,
        }
    });
    ensure!(settled.is_some(), "neither is one of them left, and ready, nor none");
    let (daemon, _) = recovers(stage)?;
    stops(stage, &daemon)
}

/// A small file system in the place of the state directory; where this host allows none, the fault cannot be seen.
fn small(stage: &mut Stage) -> Outcome<Mounted> {
    let path = stage.arena().make_state_dir()?.to_owned();
    match Mounted::new(&path, SMALL) {
        Ok(mounted) => Ok(mounted),
        Err(error) => untestable(format!("a file system of its own cannot be mounted: {error}")),
    }
}

/// Fills the file system to its last byte; the file that does.
fn fill(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path)?;
    let block = [0; 512];
    loop {
        match std::io::Write::write(&mut file, &block) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(path),
            Err(error) => return Err(error),
        }
    }
}

fn disk_full(stage: &mut Stage) -> Outcome {
    let mounted = small(stage)?;
    let filler = fill(mounted.path())?;
    stage.precondition("the file system is full");
    refuses(stage, Start::new(), "on a full file system")?;
    fs::remove_file(&filler)?;
    let (daemon, live) = recovers(stage)?;
    let filler = fill(mounted.path())?;
    answers(&live, "on a full file system")?;
    load::work(stage, &live)?;
    refuses(stage, Start::new(), "beside another, on a full file system")?;
    answers(&live, "after another that failed")?;
    stops(stage, &daemon)?;
    fs::remove_file(&filler)?;
    let (daemon, _) = recovers(stage)?;
    stops(stage, &daemon)
}

fn read_only(stage: &mut Stage) -> Outcome {
    let mounted = small(stage)?;
    let (daemon, live) = stage.launch_ready()?;
    mounted.read_only(true)?;
    stage.precondition("the file system is read-only");
    answers(&live, "on a read-only file system")?;
    load::work(stage, &live)?;
    refuses(stage, Start::new(), "on a read-only file system")?;
    stops(stage, &daemon)?;
    mounted.read_only(false)?;
    let (daemon, _) = recovers(stage)?;
    stops(stage, &daemon)
}

fn permission_lost(stage: &mut Stage) -> Outcome {
    let user = stage.another_user()?;
    stage.arena().let_others_in()?;
    let directory = stage.arena().make_state_dir()?.to_owned();
    chown(&directory, Some(user.uid), Some(user.gid))?;
    let setup = Setup { user: Some(user), ..Setup::default() };
    let start = Start::new().setup(setup).cwd("/");
    let daemon = stage.launch_with(start.clone())?;
    let live = stage.ready(&daemon)?;
    let mode = *stage.rng().pick(&[0o000, 0o100, 0o500]);
    set_mode(&directory, mode)?;
    stage.precondition(format!("the state directory has mode {mode:04o}"));
    // Who owns a record that it cannot read, it does not know: then it says so (HS-16).
    let status = live.probe().map(|answer| answer.response.status);
    let well = matches!(status, Ok(200 | 503));
    let status = status.map_or_else(|fault| fault.to_string(), |status| status.to_string());
    ensure!(well, "with a directory that it cannot use the handshake gets {status}");
    refuses(stage, start.clone(), "in a directory that it cannot use")?;
    set_mode(&directory, 0o700)?;
    answers(&live, "with its directory again")?;
    stops(stage, &daemon)?;
    let next = stage.launch_with(start)?;
    stage.ready(&next)?;
    stops(stage, &next)
}

fn directory_replaced(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    let directory = stage.state_dir().to_owned();
    fs::rename(&directory, directory.with_extension("away"))?;
    if stage.rng().below(2) == 0 {
        make_private(&directory)?;
    }
    stage.precondition("the state directory was moved away");
    ends(stage, &daemon)?;
    let (daemon, _) = recovers(stage)?;
    stops(stage, &daemon)
}

fn clock(stage: &mut Stage) -> Outcome {
    let library = faketime()?;
    let clock = stage.arena().path().join("clock");
    let set = |offset: &str| fs::write(&clock, offset);
    set("+0")?;
    let start = Start::new()
        .var("LD_PRELOAD", library.to_string_lossy())
        .var("FAKETIME_TIMESTAMP_FILE", clock.to_string_lossy())
        .var("FAKETIME_NO_CACHE", "1")
        .var("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let daemon = stage.launch_with(start)?;
    let live = stage.ready(&daemon)?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid()))?;
    if !maps.contains("libfaketime") {
        return untestable("the subject's program takes no library");
    }
    for _ in 0..4 {
        let step = *stage.rng().pick(&["+1h", "-1h", "+400d", "-400d", "-30y", "+2", "+0"]);
        set(step)?;
        stage.precondition(format!("the clock is {step}"));
        answers(&live, &format!("with a clock of {step}"))?;
        load::work(stage, &live)?;
    }
    stops(stage, &daemon)?;
    recovers(stage).map(drop)
}

fn memory(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let squeezed = Squeezed::new(daemon.pid(), Resource::Memory)?;
    stage.precondition("it gets no more memory");
    // Whatever it says now, or whether it lives, is its own affair.
    connections::crowd(&live, 64);
    drop(squeezed);
    if daemon.is_running() {
        let again =
            until(Instant::now() + REFUSES, || (!daemon.is_running() || live.is_ready()).then_some(()));
        ensure!(again.is_some(), "with memory again, it does not answer");
    }
    let (daemon, _) = recovers(stage)?;
    stops(stage, &daemon)
}
