//! Convergence: chapter 06.

mod displaced;
mod ownership;
mod removal;
mod stopping;
mod yielding;

use std::time::{Duration, Instant};

use crate::fixtures::daemon::{NOTICED, Rival, SLACK, Work, seen_draining, stays};
use crate::outcome::{Outcome, ensure, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage};

/// How long a displaced daemon with work open may take: it notices, and it drains.
fn drained(stage: &Stage) -> Instant {
    Instant::now() + NOTICED + stage.manifest().daemon.drain() + SLACK
}

/// Renames `rival`'s record over that of a ready daemon; when.
fn displace(stage: &mut Stage, rival: &Rival) -> Outcome<Instant> {
    let at = rival.publish(&stage.record_path())?;
    stage.precondition(format!("the record of {} was renamed into place", rival.record.id));
    Ok(at)
}

/// Displaces a daemon with work open and waits until it has begun to stand down, and is still there: its event stream says so,
/// or it must have noticed. (A handshake with `draining` shows less: its state is that of the record at that moment.)
fn displaced_for_good(stage: &mut Stage, daemon: &Daemon, live: &ReadyDaemon, work: &Work) -> Outcome {
    let at = displace(stage, &Rival::new()?)?;
    let is_there = if work.is_told(at + NOTICED) {
        daemon.is_running()
    } else {
        seen_draining(daemon, live)? && daemon.wait_exit(at + NOTICED).is_none()
    };
    if !is_there {
        return inconclusive(
            "it had ended before anything could be asked of it: its drain bound is too short",
        );
    }
    stage.precondition(format!(
        "it had begun to stand down {} ms after its displacement",
        at.elapsed().as_millis()
    ));
    Ok(())
}

/// It stays for a moment, and its handshake is good.
fn ready_again(daemon: &Daemon, live: &ReadyDaemon, after: &str) -> Outcome {
    stays(daemon, Duration::from_millis(500), &format!("after {after}"))?;
    ensure!(live.is_ready(), "it is not ready after {after}");
    Ok(())
}
