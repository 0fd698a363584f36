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
use local_daemon_harness::strace::{self, Call, Point, Strace};

use super::scene::{NOTICED, SLACK, exits};
use crate::case::Case;
use crate::outcome::{Outcome, Stop};
use crate::stage::{Daemon, Live, Stage, Start};

/// The schedules.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "schedule/literal-removal",
        &["CONV-15", "CONV-17", "CONV-21", "CONV-13"],
        "A daemon that stops is held right before the call that takes its record off the well-known name, and a second \
         one publishes meanwhile; it is stopped (SIGSTOP) right after that call until the second one has its record. Stems from khive#645 and stablyai/orca#12709.",
        removal::literal_removal,
    ),
    Case::core(
        "schedule/lock-only-removal",
        &["CONV-15", "PUB-8", "CONV-17", "CONV-21"],
        "The same, without a stop after the call, while the lock is held all the time, by the stopping daemon or else by \
         the suite: whoever waits for it waits in vain.",
        removal::lock_only_removal,
    ),
    Case::core(
        "schedule/no-reclaim",
        &["CONV-21", "CONV-17", "CONV-22"],
        "A stopping daemon moves its successor's record aside while that one is stopped (SIGSTOP), beside taken files of \
         others; what it moved is looked at before and after the successor goes on.",
        removal::no_reclaim,
    ),
    Case::core(
        "schedule/put-back",
        &["CONV-17", "CONV-13"],
        "A stopping daemon is stopped (SIGSTOP) when it has moved its successor's record aside; a third one publishes \
         before it goes on.",
        removal::put_back,
    ),
    Case::core(
        "schedule/publish-before-listen",
        &["PUB-4"],
        "A daemon is held right after the call that puts its record in place, and the recorded URL is connected to. \
         Stems from opencode 1.18.",
        publish::publish_before_listen,
    ),
    Case::core(
        "schedule/publish-before-flush",
        &["PUB-6"],
        "The system calls of a launch are followed: the temporary file is flushed after the last write to it and before \
         the call that puts it in the record's place.",
        publish::publish_before_flush,
    ),
    Case::core(
        "schedule/credential-by-overwrite",
        &["CRED-4", "CRED-5"],
        "Two first launches are both held between finding no credential and putting one in place; then they go on, one \
         after the other.",
        publish::credential_by_overwrite,
    ),
    Case::core(
        "schedule/shared-temporary-name",
        &["PUB-5", "PUB-3", "PUB-7"],
        "Two launches are held with their records written and not yet in place, and go on one after the other.",
        publish::shared_temporary_name,
    ),
    Case::core(
        "schedule/late-publish",
        &["CONV-13", "PUB-7"],
        "A launch is held right before its record comes into place, for longer than a re-read interval, while a second one \
         publishes and is ready; then its rename lands late.",
        publish::late_publish,
    ),
    Case::proof(
        "schedule/yielding-together",
        &["CONV-13", "CONV-27"],
        "Two launches that yield have both found nobody and are held right before they publish. Stems from sccache#340 \
         and sccache#824.",
        publish::yielding_together,
    ),
    Case::core(
        "schedule/no-reread",
        &["CONV-7", "CONV-9", "PUB-12"],
        "A daemon is stopped (SIGSTOP) right after the call by which it read its own id, a second one takes over, and \
         the first goes on with what it knows.",
        displaced::no_reread,
    ),
    Case::core(
        "schedule/ready-unseen",
        &["HS-15", "HS-16", "HS-14"],
        "While a daemon is stopped (SIGSTOP), another id is written into its record by the one write that notifies \
         nobody, and handshakes are sent; they are the first thing that it meets when it goes on.",
        displaced::ready_unseen,
    ),
    Case::proof(
        "schedule/displacement-both-ways",
        &["GATE-3", "CONV-11", "CONV-27"],
        "Daemons of an older and a newer protocol, told to yield, are started over each other in turn, as two \
         generations of clients do. Stems from opencode#35455.",
        displaced::displacement_both_ways,
    ),
    Case::core(
        "schedule/killed-at-every-call",
        &["PUB-9", "PUB-3", "CRED-3"],
        "A first launch and a launch over an old record are repeated and killed (SIGKILL) at each of the system calls \
         by which they changed the state directory; a daemon is started on what is left. Stems from paseo#4803.",
        faults::killed_at_every_call,
    ),
    Case::core(
        "schedule/failing-disk-at-publish",
        &["PUB-10", "PUB-11", "PUB-3"],
        "Each system call by which a launch changes the state directory fails once, with EIO or ENOSPC.",
        faults::failing_disk_at_publish,
    ),
    Case::core(
        "schedule/failing-disk-at-stop",
        &["CONV-18", "CONV-15"],
        "The calls by which a stopping daemon moves, reads or unlinks its record fail with EIO.",
        faults::failing_disk_at_stop,
    ),
];

/// Prepares a trace, or says that nobody may trace here.
fn trace(stage: &mut Stage, name: &str, point: Point) -> Outcome<Strace> {
    if let Err(why) = strace::usable() {
        return stage.untestable(why);
    }
    Ok(Strace::new(point, &stage.arena().path().join(format!("strace-{name}")))?)
}

/// Starts a daemon under a trace.
fn launch_under(stage: &mut Stage, start: Start, strace: &Strace) -> Outcome<Daemon> {
    stage.launch_with(start.under(strace.prefix()))
}

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
            return stage.inconclusive(format!("{} makes no such call", daemon.name));
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
fn owns(daemon: &Daemon, live: &Live) -> bool {
    let pid = live.record.pid.unsigned_abs();
    daemon.tree().iter().any(|process| process.pid == pid)
}

/// Waits until a ready daemon is held at the point of its trace.
fn held(stage: &mut Stage, daemon: &Daemon, strace: &Strace, deadline: Instant) -> Outcome<Call> {
    let Some(call) = strace.wait_held(daemon, deadline) else {
        return stage.inconclusive(format!("{} makes no such call", daemon.name));
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
    stage.inconclusive(format!("{call} does not put {name} in place"))
}

/// The arena's state directory with a credential in it, so that the first rename of a launch is that of its record.
fn furnish(stage: &mut Stage) -> Outcome<Credential> {
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    write_credential(stage.arena().make_state_dir()?, &credential)?;
    Ok(credential)
}

/// Waits until a daemon that was ready is ready again, by its own record; it must not end.
fn survives(stage: &mut Stage, daemon: &Daemon, live: &Live, through: &str) -> Outcome {
    let deadline = Instant::now() + NOTICED + SLACK;
    loop {
        let owner = stage.find(stage.state_dir());
        if owner.as_ref().is_ok_and(|owner| owner.record.id == live.record.id) {
            return Ok(());
        }
        // Paced by its end, which is what would be wrong.
        if let Some(exit) = daemon.wait_exit(Instant::now() + Duration::from_millis(10)) {
            return stage.fail(format!("{} ended ({exit}) {through}", daemon.name));
        }
        if Instant::now() > deadline {
            let why = owner.err().unwrap_or_else(|| "another daemon is".to_owned());
            return stage.fail(format!("{} is not ready {through}: {why}", daemon.name));
        }
    }
}

/// Waits for the end of a daemon that has somebody to leave the place to, or was asked to stop.
fn leaves(stage: &mut Stage, daemon: &Daemon, after: &str) -> Outcome {
    let deadline = stage.stand_down_deadline().max(Instant::now() + NOTICED) + SLACK;
    let exit = exits(stage, daemon, deadline, after)?;
    stage.observed(format!("{} after {after}: {exit}", daemon.name));
    Ok(())
}

/// A fault of the suite, from what strace or the system says.
fn fault(why: impl std::fmt::Display) -> Stop {
    Stop::Fault(why.to_string())
}
