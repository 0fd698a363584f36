//! The counterexamples of the formal model, replayed on real daemons.
//!
//! Each schedule bears the name of the rule that is given up in the model (`spec/traces/`), and puts a subject into the
//! very state from which the trace goes on. It is held there by its system calls, so that nothing depends on who is
//! faster: before a call it has read what it is going to act on, after a call others see what it did. A subject passes
//! where what follows is not what the trace tells.

mod displaced;
mod faults;
mod publish;
mod removal;

use std::time::{Duration, Instant};

use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::write_credential;
use local_daemon_harness::strace::{Call, Point, Strace};

use crate::fixtures::daemon::{NOTICED, SLACK, exits};
use crate::fixtures::trace::{launch_under, trace};
use crate::outcome::{Outcome, Stop, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// Starts a daemon that is held at `point`. One that becomes ready without it makes the schedule inconclusive.
fn launch_held(stage: &mut Stage, name: &str, start: Start, point: Point) -> Outcome<(Daemon, Strace, Call)> {
    // The record of a daemon that is held right after it put it there is seen, sometimes before strace has told of it.
    const TOLD: Duration = Duration::from_secs(1);
    let strace = trace(stage, name, point)?;
    let daemon = launch_under(stage, start, &strace)?;
    let mut deadline = stage.ready_deadline();
    let mut is_ready = false;
    let call = loop {
        let look_again = Instant::now() + Duration::from_millis(50);
        if let Some(call) = strace.wait_held(&daemon, deadline.min(look_again)) {
            break call;
        }
        if !daemon.is_running() || Instant::now() > deadline {
            stage.ready(&daemon)?;
            return inconclusive(format!("{} makes no such call", daemon.name));
        }
        let owner = stage.find(&daemon.state_dir);
        if !is_ready && owner.is_ok_and(|live| owns(&daemon, &live)) {
            is_ready = true;
            deadline = deadline.min(Instant::now() + TOLD);
        }
    };
    stage.precondition(format!("{} is held at {call}", daemon.name));
    Ok((daemon, strace, call))
}

/// Whether the record names a process of this daemon.
fn owns(daemon: &Daemon, live: &ReadyDaemon) -> bool {
    let pid = live.record.pid.unsigned_abs();
    daemon.tree().iter().any(|process| process.pid == pid)
}

/// Waits until a ready daemon is held at the point of its trace.
fn held(stage: &mut Stage, daemon: &Daemon, strace: &Strace, deadline: Instant) -> Outcome<Call> {
    let Some(call) = strace.wait_held(daemon, deadline) else {
        return inconclusive(format!("{} makes no such call", daemon.name));
    };
    stage.precondition(format!("{} is held at {call}", daemon.name));
    Ok(call)
}

/// The held call puts something in the place of `name`, which the schedule rests on.
fn puts_in_place(stage: &mut Stage, call: &Call, name: &str) -> Outcome {
    if call.files.last().is_some_and(|file| file.ends_with(name)) {
        return Ok(());
    }
    // A subject that is no daemon is accused of that, and one that has another way of publishing of nothing.
    stage.launch_ready()?;
    inconclusive(format!("{call} does not put {name} in place"))
}

/// The arena's state directory with a credential in it, so that the first rename of a launch is that of its record.
fn furnish(stage: &mut Stage) -> Outcome<Credential> {
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    write_credential(stage.arena().make_state_dir()?, &credential)?;
    Ok(credential)
}

/// Waits until a daemon that was ready is ready again, by its own record; it must not end.
fn survives(daemon: &Daemon, live: &ReadyDaemon, through: &str) -> Outcome {
    let deadline = Instant::now() + NOTICED + SLACK;
    loop {
        let owner = live.find(live.state_dir());
        if owner.as_ref().is_ok_and(|owner| owner.record.id == live.record.id) {
            return Ok(());
        }
        // Paced by its end, which is what would be wrong.
        if let Some(exit) = daemon.wait_exit(Instant::now() + Duration::from_millis(10)) {
            return fail(format!("{} ended ({exit}) {through}", daemon.name));
        }
        if Instant::now() > deadline {
            let why = owner.err().unwrap_or_else(|| "another daemon is".to_owned());
            return fail(format!("{} is not ready {through}: {why}", daemon.name));
        }
    }
}

/// Waits for the end of a daemon that has somebody to leave the place to, or was asked to stop.
fn leaves(stage: &mut Stage, daemon: &Daemon, after: &str) -> Outcome {
    let deadline = stage.stand_down_deadline().max(Instant::now() + NOTICED) + SLACK;
    let exit = exits(daemon, deadline, after)?;
    stage.observed(format!("{} after {after}: {exit}", daemon.name));
    Ok(())
}

/// A fault of the suite, from what strace or the system says.
fn fault(why: impl std::fmt::Display) -> Stop {
    Stop::Fault(why.to_string())
}
