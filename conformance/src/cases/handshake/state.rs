//! Ready or draining, at this moment.

use std::time::Instant;

use local_daemon_harness::http::Connection;
use local_daemon_harness::process::Signal;
use local_daemon_harness::wait::{ms, until};

use super::exchange::{answered, bearing, ensure_draining_like, ensure_state, hide_record, restore_record};
use crate::case::case;
use crate::fixtures::daemon::Rival;
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable};
use crate::stage::{PROBE, Stage};

/// The record is made unreadable and restored, twenty times, each change followed by a handshake at once:
/// draining and 503 while the daemon cannot find its id, ready and 200 when it can.
#[case("HS-13", "HS-14", "HS-15", "HS-16")]
fn tells_the_state_of_this_moment(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 20;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect(format!("draining, then ready, {ROUNDS} times"));
    let first = answered(&live, "before", &bearing(&live))?;
    for round in 1..=ROUNDS {
        let bytes = hide_record(stage)?;
        let what = format!("round {round}, right after the record became unreadable");
        let response = answered(&live, &what, &bearing(&live))?;
        ensure_draining_like(&live, &what, &first, &response)?;
        restore_record(stage, &bytes)?;
        let what = format!("round {round}, right after the record came back");
        let response = answered(&live, &what, &bearing(&live))?;
        ensure_state(&live, &what, "ready", &response)?;
        ensure!(response.status == 200, "{what}: ready with status {}", response.status);
    }
    stage.control("ready before and after each draining");
    stage.observed(format!("{ROUNDS} times draining and ready"));
    Ok(())
}

/// While the daemon is stopped (SIGSTOP), its record is replaced by another's and handshakes are sent, one of
/// them on a connection that was told ready before; what it answers when it goes on is draining, with its own
/// id.
#[case("HS-15", "HS-16")]
fn never_ready_beside_another_owner(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 3;
    stage.expect("draining with the displaced daemon's own id and pid, or nothing because it has left");
    let binding = &stage.manifest().binding;
    let holds_work =
        binding.stream.is_some() || binding.mutation.as_ref().is_some_and(|op| op.body.is_some());
    let mut answers = 0;
    for launch in 1..=LAUNCHES {
        let (daemon, live) = stage.launch_ready()?;
        // With open work it stays for longer; not every daemon has what could be left open.
        let _work = holds_work.then(|| live.open_work()).transpose()?;
        let rival = Rival::new()?;
        let bytes = bearing(&live).bytes();
        let connect = || Connection::open(live.target.address, Instant::now() + PROBE);
        // One that was told `ready` before: what was true of a connection is not true of its next request.
        let told = connect().and_then(|mut it| {
            let answer = it.exchange(&bytes, Instant::now() + PROBE)?;
            Ok((it, answer))
        });
        let early = match told {
            Ok((_, answer)) if answer.closes => connect(),
            Ok((it, answer)) => {
                ensure_state(&live, "before", "ready", &answer)?;
                Ok(it)
            }
            Err(fault) => return inconclusive(format!("no handshake of a ready daemon: {fault}")),
        };
        daemon.stop()?;
        rival.publish(&stage.record_path())?;
        let deadline = Instant::now() + PROBE;
        let sent = [early, connect()]
            .map(|connection| connection.and_then(|mut it| it.send(&bytes, deadline).map(|()| it)));
        stage.precondition(format!(
            "launch {launch}: the record names {} before the daemon goes on",
            rival.record.id
        ));
        daemon.cont()?;
        for connection in sent {
            // A daemon that is leaving may close a connection unanswered.
            let answer = connection.and_then(|mut it| it.read_response(Instant::now() + PROBE));
            if let Ok(response) = answer {
                answers += 1;
                let what = "after the record became another's";
                ensure_state(&live, what, "draining", &response)?;
            }
        }
        daemon.kill_group();
    }
    stage.observed(format!("{answers} answers, all of them draining"));
    if answers == 0 {
        return not_applicable("a displaced daemon was gone each time before it answered");
    }
    Ok(())
}

/// The daemon is asked to stop (SIGTERM) with a request half received; as soon as its record is off its name,
/// handshakes are answered draining with all members (buck2: row 12).
#[case("HS-14", "HS-16")]
fn draining_while_it_stops(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let _work = live.open_work()?;
    let ready = answered(&live, "before", &bearing(&live))?;
    stage.expect("draining with all members from the removal of the record until the exit");
    let Ok(early) = Connection::open(live.target.address, Instant::now() + PROBE) else {
        return inconclusive("no further connection to a ready daemon");
    };
    daemon.signal(Signal::TERM)?;
    let path = stage.record_path();
    let removed = until(stage.stand_down_deadline(), || (!path.exists()).then_some(()));
    if removed.is_none() {
        return inconclusive("the record was not taken off its name");
    }
    stage.precondition("SIGTERM was sent, and the record is off its name");
    let good = bearing(&live).bytes();
    let mut answers = 0;
    for connection in [
        Connection::open(live.target.address, Instant::now() + PROBE),
        Ok(early),
    ] {
        let answer = connection.and_then(|mut it| it.exchange(&good, Instant::now() + PROBE));
        match answer {
            Ok(response) => {
                answers += 1;
                ensure_draining_like(&live, "after SIGTERM", &ready, &response)?;
            }
            // An idle connection may be closed by a daemon that drains.
            Err(fault) => stage.observed(format!("after SIGTERM: {fault}")),
        }
    }
    stage.observed(format!("{answers} answers, all of them draining"));
    match answers {
        0 if daemon.wait_exit(ms(500)).is_some() => {
            not_applicable("the daemon left without waiting for open work")
        }
        0 => fail("the daemon still runs, its record is off its name, and no handshake is answered"),
        _ => Ok(()),
    }
}
