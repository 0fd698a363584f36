//! Connect-or-spawn, the child, and what displaces: chapter 09, its second half.

mod beginning;
mod detached;
mod failures;
mod replacing;
mod turns;
mod waiting;

use std::path::PathBuf;

use local_daemon_harness::process::Proc;
use local_daemon_harness::record::{Record, Url, replace};

use crate::fixtures::client::{Spy, World, furnished, publish};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID};
use crate::outcome::{Outcome, fail, not_applicable};
use crate::stage::{Answer, Call, ReadyDaemon, Stage};

/// A connect-or-spawn with the spy in its daemon's place.
fn with(spy: &Spy) -> Call {
    Call::spawn().stand(spy.program())
}

/// A state directory whose record is stale, so that a call has to start a daemon; the client was seen to be ready before.
fn stale(stage: &mut Stage) -> Outcome<(World, DeadPort)> {
    let (world, _) = furnished(stage)?;
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    Ok((world, port))
}

/// The daemon that is ready in the arena's state directory.
fn running(stage: &mut Stage, answer: &Answer) -> Outcome<ReadyDaemon> {
    match stage.find(stage.state_dir()) {
        Ok(live) => {
            stage.precondition(format!("the started daemon (pid {}) answers ready", live.record.pid));
            Ok(live)
        }
        Err(why) => {
            stage.precondition("a client was called");
            fail(format!("no daemon is ready ({why}) after {answer}"))
        }
    }
}

/// A daemon that the client started, as it answers now.
fn spawned(stage: &mut Stage) -> Outcome<(Answer, ReadyDaemon)> {
    if stage.client()?.connect_or_spawn.is_none() {
        return not_applicable("the manifest has no `client.connect_or_spawn`");
    }
    let answer = stage.ask(Call::spawn())?;
    let live = running(stage, &answer)?;
    answer.must_be_ready_with(&live.record.id)?;
    Ok((answer, live))
}

/// Programs that no system can execute.
fn not_executable(stage: &Stage) -> Outcome<Vec<(&'static str, PathBuf)>> {
    let root = stage.arena().path();
    let plain = root.join("no-program");
    replace(&plain, b"#!/bin/sh\nexit 0\n", 0o600)?;
    Ok(vec![
        ("with a program that is not there", root.join("missing")),
        ("with a program that may not be executed", plain),
        ("with a directory as its program", stage.arena().home()),
    ])
}

fn process_of(live: &ReadyDaemon) -> Outcome<Proc> {
    match u32::try_from(live.record.pid).ok().and_then(Proc::of) {
        Some(process) => Ok(process),
        None => fail(format!("there is no process {}", live.record.pid)),
    }
}
