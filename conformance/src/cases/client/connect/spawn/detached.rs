//! What the daemon has of the client that started it.

use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Proc, Signal, processes};
use local_daemon_harness::wait::until;

use super::{process_of, stale, with};
use crate::case::case;
use crate::fixtures::client::{Part, SOON, Spy, furnished, settled};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail};
use crate::stage::{Call, LATE, Stage};

/// The started daemon has a session of its own; the client's whole group and its session's get SIGHUP, SIGINT
/// and SIGKILL, and the daemon is still ready (gokcehan/lf#512).
#[case("CONN-30")]
fn the_daemon_outlives_its_client(stage: &mut Stage) -> Outcome {
    stage.expect("another session than the client's, and ready after the end of everything in that");
    let _ = furnished(stage)?;
    std::fs::remove_file(stage.record_path())?;
    // A leader that lives on, so that the session and the group are there to be signalled.
    let setup = Setup { own_session: true, ..Setup::default() };
    let shell = ["sh", "-c", r#""$@"; status=$?; sleep 600; exit $status"#, "sh"];
    let caller = stage.call(Call::spawn().setup(setup).under(&shell))?;
    let find = |stage: &Stage| stage.find(stage.state_dir()).ok();
    let live = until(caller.deadline, || find(stage));
    let Some(live) = live else {
        return fail("the client started no daemon");
    };
    let process = process_of(&live)?;
    stage.precondition(format!("the client started a daemon, pid {}", process.pid));
    let own = process.session != caller.pid() && process.pgrp != caller.pid();
    ensure!(own, "the daemon is in session {} of its client's", process.session);
    for signal in [Signal::HUP, Signal::INT, Signal::KILL] {
        let of_session = |process: &Proc| process.session == caller.pid();
        for process in processes().into_iter().filter(of_session) {
            process.signal(signal);
            if signal == Signal::KILL {
                process.wait_gone(Instant::now() + SOON);
            }
        }
    }
    ensure!(live.is_ready(), "the daemon is gone with its client");
    Ok(())
}

/// The client has a file as standard input, pipes as outputs and two more descriptors. The daemon that it
/// starts has none of them, and whoever reads the client's outputs sees their end (Tencent/BrowserSkill#55).
#[case("CONN-31")]
fn the_daemon_holds_nothing_of_its_client(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("null, null, null or a log, and at most a pipe besides");
    let spy = Spy::new(stage, Part::Hangs)?;
    let input = stage.arena().path().join("input");
    std::fs::write(&input, b"input")?;
    let shell = format!(r#"exec <'{0}' 7<'{0}' 9>>'{0}'; exec "$@""#, input.display());
    let caller = stage.call(with(&spy).within(3).under(&["sh", "-c", &shell, "sh"]))?;
    let pid = spy.seen_started(stage)?;
    let Some(child) = settled(pid) else {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    };
    let state_dir = stage.state_dir().to_owned();
    let wrong = || {
        let held = child.descriptors();
        let is_pipe = |to: &Path| to.to_string_lossy().starts_with("pipe:");
        let pipes = held.iter().filter(|(_, to)| is_pipe(to)).count();
        let bad = held.iter().find(|(number, to)| {
            let null = to.as_os_str() == "/dev/null";
            !match number {
                0 | 1 => null,
                2 => null || to.starts_with(&state_dir),
                _ => is_pipe(to) && pipes == 1,
            }
        });
        match bad {
            Some((number, to)) => Some(format!("the daemon's descriptor {number} is {}", to.display())),
            None => (held.len() < 3).then(|| format!("the daemon has only {} descriptors", held.len())),
        }
    };
    // What it opens for itself as it begins, it closes soon; what it was left, it keeps.
    let mut last = None;
    until(Instant::now() + Duration::from_secs(1), || {
        last = wrong();
        last.is_none().then_some(())
    });
    if let Some(wrong) = last {
        return fail(wrong);
    }
    let Some(answer) = stage.answer_by(&caller, caller.deadline + LATE)? else {
        return fail("the client has not answered");
    };
    ensure!(answer.ended, "somebody holds the client's outputs after its end");
    Ok(())
}

/// The started daemon's working directory is `/`.
#[case("CONN-32")]
fn the_daemon_works_in_the_root(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the working directory `/`");
    let spy = Spy::new(stage, Part::Hangs)?;
    let _caller = stage.call(with(&spy).within(2))?;
    let pid = spy.seen_started(stage)?;
    let cwd = settled(pid).and_then(|child| child.cwd());
    let root = cwd.as_deref() == Some(Path::new("/"));
    ensure!(root, "the daemon works in {cwd}", cwd = in_words(&cwd));
    Ok(())
}

/// The client's child ends at once, without an error and without a daemon: while the client still runs, no
/// zombie of its own stays.
#[case("CONN-33")]
fn no_zombie_while_it_waits(stage: &mut Stage) -> Outcome {
    const STAYS: Duration = Duration::from_millis(500);
    let (_world, _port) = stale(stage)?;
    stage.expect("no zombie of the client's for half a second");
    let spy = Spy::new(stage, Part::Ends(0, "nothing to do"))?;
    let caller = stage.call(with(&spy).within(2))?;
    spy.seen_started(stage)?;
    let mut since = None;
    let zombie = until(caller.deadline, || {
        if !caller.is_running() {
            return Some(None);
        }
        let all = processes();
        let zombie = all.iter().find(|process| process.ppid == caller.pid() && process.is_zombie());
        let Some(zombie) = zombie else {
            since = None;
            return None;
        };
        let since = *since.get_or_insert_with(Instant::now);
        (since.elapsed() > STAYS).then(|| Some(zombie.clone()))
    });
    match zombie.flatten() {
        None => Ok(()),
        Some(zombie) => fail(format!("pid {} ({}) stays a zombie", zombie.pid, zombie.comm)),
    }
}
