//! Convergence: chapter 06.

mod displaced;
mod ownership;
mod removal;
mod stopping;
mod yielding;

use std::time::{Duration, Instant};

use crate::fixtures::daemon::{DRAIN, NOTICED, Rival, SLACK, seen_draining, stays};
use crate::outcome::{Outcome, ensure};
use crate::stage::{Daemon, ReadyDaemon, Stage};

/// How long a displaced daemon with work open may take: it notices, and it drains.
fn drained(stage: &Stage) -> Instant {
    Instant::now() + NOTICED + DRAIN.max(stage.manifest().daemon.stand_down_timeout()) + SLACK
}

/// Renames `rival`'s record over that of a ready daemon; when.
fn displace(stage: &mut Stage, rival: &Rival) -> Outcome<Instant> {
    let at = rival.publish(&stage.record_path())?;
    stage.precondition(format!("the record of {} was renamed into place", rival.record.id));
    Ok(at)
}

/// Displaces a daemon with work open and waits until it must have begun to stand down. (That a handshake is answered
/// `draining` says less: it is answered by what the record holds at that moment.) Whether it is still there.
fn displaced_for_good(stage: &mut Stage, daemon: &Daemon, live: &ReadyDaemon) -> Outcome<bool> {
    let at = displace(stage, &Rival::new()?)?;
    let draining = seen_draining(daemon, live)?;
    let alive = draining && daemon.wait_exit(at + NOTICED).is_none();
    stage.observed(if alive {
        "it was draining 2.5 s after its displacement"
    } else {
        "it had ended 2.5 s after its displacement"
    });
    Ok(alive)
}

/// It stays for a moment, and its handshake is good.
fn ready_again(daemon: &Daemon, live: &ReadyDaemon, after: &str) -> Outcome {
    stays(daemon, Duration::from_millis(500), &format!("after {after}"))?;
    ensure!(live.is_ready(), "it is not ready after {after}");
    Ok(())
}
