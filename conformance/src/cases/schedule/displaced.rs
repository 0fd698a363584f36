//! Daemons that have not noticed yet that another one owns the record.

use std::time::Instant;

use local_daemon_harness::files::{FileEventKind, Watch};
use local_daemon_harness::http::{Connection, Handshake, HttpFault};
use local_daemon_harness::platform::overwrite_unnoticed;
use local_daemon_harness::proof;
use local_daemon_harness::record::{Record, write_new};
use local_daemon_harness::strace::{Point, READ};
use local_daemon_spec::Profile;

use super::{fault, held, leaves, survives, trace};
use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, SLACK, changes, count, read, yielding};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::{PROBE, Stage};

/// A daemon is stopped (SIGSTOP) right after the call by which it read its own id, a second one takes over,
/// and the first goes on with what it knows.
#[case("CONV-7", "CONV-9", "PUB-12")]
fn no_reread(stage: &mut Stage) -> Outcome {
    let (first, old) = stage.launch_ready()?;
    let point = Point::at([READ]).of(stage.record_path()).held_after();
    let mut strace = trace(stage, "read", point)?;
    strace.attach(&first, stage.ready_deadline())?;
    // Something changes in the directory, so that a daemon that is notified reads at once.
    write_new(&stage.state_dir().join("of-another-program"), b"", 0o600)?;
    held(stage, &first, &strace, Instant::now() + NOTICED + SLACK)?;
    let own = Record::parse(&read(&stage.record_path())?).map(|record| record.id);
    if own.as_ref() != Ok(&old.record.id) {
        return inconclusive("the record was not its own when it read it");
    }
    strace.release_stopped(&first)?;
    let (second, new) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("it leaves within 2.5 s and its drain, and nothing happens to its successor's record");
    first.cont()?;
    leaves(stage, &first, "it went on")?;
    let touched = changes(&watch.events(), &name);
    ensure!(touched.is_empty(), "it touched the record: {touched}", touched = in_words(&touched));
    survives(&second, &new, "after the first one left")
}

/// While a daemon is stopped (SIGSTOP), another id is written into its record by the one write that notifies
/// nobody, and handshakes are sent; they are the first thing that it meets when it goes on.
#[case("HS-15", "HS-16", "HS-14")]
fn ready_unseen(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    // Open work keeps it there to answer; one without is free to be gone.
    let work = match live.open_work() {
        Err(Stop::Untestable(_) | Stop::NotApplicable(_)) => None,
        work => Some(work?),
    };
    let path = stage.record_path();
    let bytes = read(&path)?;
    let Some(place) = String::from_utf8_lossy(&bytes).find(&live.record.id) else {
        return inconclusive("the id is not written plainly in the record");
    };
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let rival = Rival::new()?;
    daemon.stop()?;
    overwrite_unnoticed(&file, place, rival.record.id.as_bytes())?;
    let request = live.handshake_request();
    let bearing = request.clone().header("Authorization", &proof::bearer(&live.credential));
    let mut requests = vec![("bearer", bearing)];
    if stage.manifest().claims(local_daemon_spec::Profile::Proof) {
        let proving = live.target.proving(&live.credential, &proof::nonce());
        requests.push(("proof", proving));
    }
    let deadline = Instant::now() + PROBE + SLACK;
    let mut sent = Vec::new();
    for (how, request) in requests {
        let mut connection = Connection::open(live.target.address, deadline).map_err(fault)?;
        connection.send(&request.bytes(), deadline).map_err(fault)?;
        sent.push((how, connection));
    }
    stage.precondition("it is stopped; the record holds another id, and handshakes wait for it");
    stage.expect("each is answered 503 and draining, by its own id; or not, if it had nothing to stay for");
    daemon.cont()?;
    for (how, mut connection) in sent {
        match connection.read_response(deadline) {
            Ok(answer) => {
                let told = Handshake::parse(&answer.body);
                let drains =
                    told.as_ref().is_ok_and(|told| told.state == "draining" && told.id == live.record.id);
                let seen = format!("{how}: {} {}", answer.status, in_words(&told.map(|told| told.state)));
                stage.observed(&seen);
                ensure!(answer.status == 503 && drains, "{seen}");
            }
            Err(HttpFault::Refused | HttpFault::Reset | HttpFault::Closed(_)) if work.is_none() => {}
            Err(fault) => return fail(format!("{how}: {fault}")),
        }
    }
    Ok(())
}

/// The protocol of the same name with the next number.
fn newer(protocol: &str) -> Option<String> {
    let (name, number) = protocol.rsplit_once('/')?;
    Some(format!("{name}/{}", number.parse::<u32>().ok()? + 1))
}

/// Daemons of an older and a newer protocol, told to yield, are started over each other in turn, as two
/// generations of clients do. Stems from opencode#35455.
#[case("GATE-3", "CONV-11", "CONV-27", profile = Profile::Proof)]
fn displacement_both_ways(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let name = stage.manifest().binding.registration.clone();
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let watch = Watch::on(&state_dir)?;
    let mut current = stage.launch_with(start.clone())?;
    let mut live = stage.ready(&current)?;
    let told = live.probe().map_err(fault)?.handshake;
    let Some(newer) = told.ok().and_then(|told| newer(&told.protocol)) else {
        return inconclusive("the handshake tells no protocol with a number");
    };
    stage.expect(
        "each launch publishes once, each displaced daemon leaves, the last one stays, and nobody returns",
    );
    let mut launches = 1;
    for generation in [
        start.clone().protocol(&newer),
        start.clone(),
        start.protocol(&newer),
    ] {
        let next = stage.launch_with(generation)?;
        launches += 1;
        live = match stage.ready(&next) {
            Err(Stop::NotReady(why)) => return fail(why),
            live => live?,
        };
        leaves(stage, &current, "one of another generation published")?;
        current = next;
    }
    survives(&current, &live, "as the last to publish")?;
    let published = count(&watch.events(), FileEventKind::MovedTo, &name);
    stage.observed(format!("{launches} launches, {published} publishes"));
    ensure!(published == launches, "{launches} launches published {published} times");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_next_generation_has_the_next_number() {
        assert_eq!(super::newer("acme/9").as_deref(), Some("acme/10"));
        assert_eq!(super::newer("acme"), None);
        assert_eq!(super::newer("acme/x"), None);
    }
}
